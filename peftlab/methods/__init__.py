"""Every method, one file each, one screen each. Constructor keywords are `peft`'s configuration fields."""
from peftlab.adapter import FullFineTuning
from peftlab.methods.adalora import AdaLoRA
from peftlab.methods.adapter_fusion import AdapterFusion
from peftlab.methods.adaption_prompt import AdaptionPrompt
from peftlab.methods.bitfit import BitFit
from peftlab.methods.boft import BOFT
from peftlab.methods.bottleneck import Houlsby, Pfeiffer
from peftlab.methods.c3a import C3A
from peftlab.methods.compacter import Compacter
from peftlab.methods.delora import DeLoRA
from peftlab.methods.dora import DoRA
from peftlab.methods.fourierft import FourierFT
from peftlab.methods.gralora import GraLoRA
from peftlab.methods.hira import HiRA
from peftlab.methods.hra import HRA
from peftlab.methods.ia3 import IA3
from peftlab.methods.ln_tuning import LNTuning
from peftlab.methods.loha import LoHa
from peftlab.methods.lokr import LoKr
from peftlab.methods.lora import LoRA
from peftlab.methods.loreft import LoReFT
from peftlab.methods.mica import MiCA
from peftlab.methods.miss import MiSS
from peftlab.methods.multitask_prompt_tuning import MultitaskPromptTuning
from peftlab.methods.oft import OFT
from peftlab.methods.p_tuning import PTuning
from peftlab.methods.parallel_adapter import ParallelAdapter
from peftlab.methods.pissa import OLoRA, PiSSA, as_lora
from peftlab.methods.prefix_tuning import PrefixTuning
from peftlab.methods.prompt_tuning import PromptTuning
from peftlab.methods.randlora import RandLoRA
from peftlab.methods.road import RoAd
from peftlab.methods.shira import SHiRA
from peftlab.methods.tinylora import TinyLoRA
from peftlab.methods.trainable_tokens import TrainableTokens
from peftlab.methods.unilora import UniLoRA
from peftlab.methods.vblora import VBLoRA
from peftlab.methods.vera import VeRA

__all__ = [
    "BOFT",
    "C3A",
    "HRA",
    "IA3",
    "OFT",
    "AdaLoRA",
    "AdapterFusion",
    "AdaptionPrompt",
    "BitFit",
    "Compacter",
    "DeLoRA",
    "DoRA",
    "FourierFT",
    "FullFineTuning",
    "GraLoRA",
    "HiRA",
    "Houlsby",
    "LNTuning",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoReFT",
    "MiCA",
    "MiSS",
    "MultitaskPromptTuning",
    "OLoRA",
    "PTuning",
    "ParallelAdapter",
    "Pfeiffer",
    "PiSSA",
    "PrefixTuning",
    "PromptTuning",
    "RandLoRA",
    "RoAd",
    "SHiRA",
    "TinyLoRA",
    "TrainableTokens",
    "UniLoRA",
    "VBLoRA",
    "VeRA",
    "as_lora",
]
