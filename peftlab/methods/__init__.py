"""Every method, one file each, one screen each. Constructor keywords are `peft`'s configuration fields."""
from peftlab.adapter import FullFineTuning
from peftlab.methods.bitfit import BitFit
from peftlab.methods.bottleneck import Houlsby, ParallelAdapter, Pfeiffer
from peftlab.methods.dora import DoRA
from peftlab.methods.ia3 import IA3
from peftlab.methods.lora import LoRA
from peftlab.methods.prefix_tuning import PrefixTuning
from peftlab.methods.prompt_tuning import PromptTuning

__all__ = ["BitFit", "DoRA", "FullFineTuning", "Houlsby", "IA3", "LoRA", "ParallelAdapter", "Pfeiffer", "PrefixTuning",
           "PromptTuning"]
