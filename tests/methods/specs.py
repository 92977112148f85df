"""One table of what climbs the ladder: a method, where it is put on each architecture, and what does not apply to it."""
from dataclasses import dataclass, field
from functools import partial

import peft

import peftlab as pl
from peftlab.methods import (
    BOFT,
    C3A,
    HRA,
    IA3,
    OFT,
    BitFit,
    DeLoRA,
    DoRA,
    FourierFT,
    FullFineTuning,
    GraLoRA,
    HiRA,
    Houlsby,
    LNTuning,
    LoHa,
    LoKr,
    LoRA,
    MiCA,
    MiSS,
    OLoRA,
    ParallelAdapter,
    Pfeiffer,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    RandLoRA,
    RoAd,
    SHiRA,
    TinyLoRA,
    TrainableTokens,
    UniLoRA,
    VBLoRA,
    VeRA,
)

CHECKS = ("peft", "merge", "identity", "compile", "checkpointing", "generate")


@dataclass(frozen=True)
class Spec:
    """What to attach: `targets` by architecture (None for virtual tokens), `options` as in `peft`, or by architecture."""

    name: str
    method: type
    targets: dict
    options: dict = field(default_factory=dict)
    config: object = None                                    # peft's configuration class, given the same options
    save: dict = field(default_factory=dict)                 # modules_to_save, by architecture
    losses_within: float = 1e-6                              # over twenty steps with AdamW
    no: dict = field(default_factory=dict)                   # check, or (check, architecture) -> why it does not apply

    def why_not(self, check, arch):
        if check == "generate" and arch == "bert":
            return "an encoder does not generate"
        return self.no.get(check) or self.no.get((check, arch))

    def options_on(self, arch):
        return self.options.get(arch, self.options)

    def attach(self, model, arch, name="a"):
        return pl.attach(model, self.method, self.targets[arch], name, self.save.get(arch), **self.options_on(arch))

    def peft_config(self, arch):
        targets = {} if self.targets[arch] is None else {"target_modules": self.targets[arch]}
        if self.save.get(arch) and targets:
            targets["modules_to_save"] = self.save[arch]
        task = {"bert": "SEQ_CLS"}.get(arch, "CAUSAL_LM") if not self.targets[arch] else None
        return self.config(**targets, **self.options_on(arch), task_type=task)


ATTENTION = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "c_fc"], "bert": ["query", "dense"]}
FEED = {"llama": ["k_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "mlp.c_proj"],
        "bert": ["key", "value", "output.dense"]}
FEED_OPTIONS = {arch: {"feedforward_modules": ends[-1:]} for arch, ends in FEED.items()}
ENDS = {"llama": ["o_proj", "down_proj"], "gpt2": ["c_proj"],
        "bert": ["attention.output.dense", "output.dense"]}
BESIDE = {"llama": ["mlp"], "gpt2": ["mlp"], "bert": r"bert\.encoder\.layer\.\d+\.output"}
LAST = {"llama": r"model\.layers\.\d+", "gpt2": r"transformer\.h\.\d+",
        "bert": r"bert\.encoder\.layer\.\d+\.output\.LayerNorm"}
WHOLE = dict.fromkeys(("llama", "gpt2", "bert"))
HEAD = {"llama": ["lm_head"], "gpt2": ["ln_f"], "bert": ["classifier"]}

NOT_IN_PEFT = "`peft` does not have it: golden numbers made with `adapters` stand in test_golden.py"
NOT_AFFINE = {"peft": NOT_IN_PEFT, "merge": "it is not affine: there is a non-linearity in it"}
PREFIX = {"checkpointing": "it needs the cache, which checkpointing switches off"}
VIRTUAL = {"merge": "virtual tokens change no weight", "identity": "added tokens take some of the attention"}

NO_CONV1D = {("peft", "gpt2"): "`peft` has it for nn.Linear only: see test_facts_about_peft.py"}
CHANGES_THE_BASE = "`peft` changes the base weights for it, so their files differ: see test_initialisers.py"
STARTS_APART = {"identity": "its coefficients start at random, as in `peft`"}

SPECS = [
    Spec("LoRA", LoRA, ATTENTION, {"r": 4, "lora_alpha": 6}, peft.LoraConfig),
    Spec("rsLoRA", LoRA, ATTENTION, {"r": 4, "lora_alpha": 6, "use_rslora": True}, peft.LoraConfig),
    Spec("LoRA+head", LoRA, ATTENTION, {"r": 2}, peft.LoraConfig, HEAD),
    Spec("DoRA", DoRA, ATTENTION, {"r": 4, "lora_alpha": 6}, partial(peft.LoraConfig, use_dora=True)),
    Spec("IA3", IA3, FEED, FEED_OPTIONS, peft.IA3Config),
    Spec("BitFit", BitFit, {"llama": ["q_proj", "k_proj"], "gpt2": ["c_attn", "ln_1"], "bert": ["query", "dense"]}, {},
         peft.BeftConfig, no={("peft", "gpt2"): "BEFT knows neither Conv1D nor norms"}),
    Spec("PromptTuning", PromptTuning, WHOLE, {"num_virtual_tokens": 3}, peft.PromptTuningConfig,
         {"bert": ["classifier"]}, no=VIRTUAL),
    Spec("PrefixTuning", PrefixTuning, WHOLE, {"num_virtual_tokens": 3}, peft.PrefixTuningConfig,
         {"bert": ["classifier"]}, no={**VIRTUAL, **PREFIX}),
    Spec("FullFineTuning", FullFineTuning, HEAD,
         no={"peft": "`peft` has no configuration that trains copies alone: see test_full_fine_tuning.py"}),
    Spec("Houlsby", Houlsby, ENDS, {"reduction_factor": 4},
         no={**NOT_AFFINE, "identity": "both matrices start near zero, not at zero"}),
    Spec("Pfeiffer", Pfeiffer, LAST, {"reduction_factor": 4},
         no={**NOT_AFFINE, "identity": "both matrices start near zero, not at zero"}),
    Spec("ParallelAdapter", ParallelAdapter, BESIDE, {"reduction_factor": 2}, no=NOT_AFFINE),
    Spec("LoHa", LoHa, ATTENTION, {"r": 3, "alpha": 4}, peft.LoHaConfig, no=NO_CONV1D),
    Spec("LoKr", LoKr, ATTENTION, {"r": 1, "alpha": 4}, peft.LoKrConfig, no=NO_CONV1D),
    Spec("OFT", OFT, ATTENTION, {"oft_block_size": 4}, partial(peft.OFTConfig, r=0), no=NO_CONV1D),
    Spec("OFT, exact", OFT, ATTENTION, {"oft_block_size": 4, "use_cayley_neumann": False}, partial(peft.OFTConfig, r=0),
         no=NO_CONV1D),
    Spec("HRA", HRA, ATTENTION, {"r": 4}, peft.HRAConfig,
         no={**NO_CONV1D, "identity": "equal reflections undo each other up to rounding, not to the bit"}),
    Spec("MiSS", MiSS, ATTENTION, {"r": 5}, peft.MissConfig, no=NO_CONV1D),
    Spec("FourierFT", FourierFT, ATTENTION, {"n_frequency": 20, "scaling": 5.0}, peft.FourierFTConfig, no=STARTS_APART),
    Spec("VeRA", VeRA, ATTENTION, {"r": 6}, peft.VeraConfig),
    Spec("RoAd", RoAd, ATTENTION, {"group_size": 4}, peft.RoadConfig, no=NO_CONV1D),
    Spec("HiRA", HiRA, ATTENTION, {"r": 3}, peft.HiraConfig),
    Spec("DeLoRA", DeLoRA, ATTENTION, {"r": 3, "delora_lambda": 2}, peft.DeloraConfig, no=NO_CONV1D),
    Spec("GraLoRA", GraLoRA, ATTENTION, {"r": 4, "alpha": 6, "gralora_k": 2}, peft.GraloraConfig),
    # its Fourier transforms round otherwise than `peft`'s, and AdamW makes much of it where a gradient is nearly zero
    Spec("C3A", C3A, ATTENTION, {"block_size": 4}, peft.C3AConfig, losses_within=1e-4, no={**NO_CONV1D, **STARTS_APART}),
    Spec("LNTuning", LNTuning, {"llama": ["input_layernorm", "norm"], "gpt2": ["ln_1", "ln_f"], "bert": ["LayerNorm"]}, {},
         peft.LNTuningConfig),
    Spec("TrainableTokens", TrainableTokens, {"llama": ["embed_tokens"], "bert": ["word_embeddings"]},
         {"token_indices": [5, 9, 20]}, peft.TrainableTokensConfig),
    Spec("SHiRA", SHiRA, ATTENTION, {"r": 2}, peft.ShiraConfig, no=NO_CONV1D),
    Spec("VBLoRA", VBLoRA, ATTENTION, {"r": 2, "num_vectors": 6, "vector_length": 4}, peft.VBLoRAConfig, no=STARTS_APART),
    Spec("UniLoRA", UniLoRA, ATTENTION, {"r": 2, "theta_d_length": 30}, peft.UniLoraConfig, no=STARTS_APART),
    Spec("TinyLoRA", TinyLoRA, ATTENTION, {"r": 2, "u": 5}, peft.TinyLoraConfig),
    Spec("RandLoRA", RandLoRA, ATTENTION, {"r": 5}, peft.RandLoraConfig),
    Spec("BOFT", BOFT, ATTENTION, {"boft_block_size": 4}, peft.BOFTConfig, no=NO_CONV1D),
    Spec("BOFT, two factors", BOFT, ATTENTION, {"boft_block_size": 4, "boft_n_butterfly_factor": 2},
         no={"peft": "`peft` takes one factor only where it has no CUDA: see test_facts_about_peft.py"}),
    Spec("MiCA", MiCA, ATTENTION, {"r": 4, "lora_alpha": 6}, partial(peft.LoraConfig, init_lora_weights="mica")),
    Spec("PiSSA", PiSSA, ATTENTION, {"r": 4, "lora_alpha": 6}, no={"peft": CHANGES_THE_BASE}),
    Spec("OLoRA", OLoRA, ATTENTION, {"r": 4, "lora_alpha": 6}, no={"peft": CHANGES_THE_BASE}),
]
