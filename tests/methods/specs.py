"""One table of what climbs the ladder: a method, where it is put on each architecture, and what does not apply to it."""
from dataclasses import dataclass, field
from functools import partial

import peft
from tiny import fill, tiny

import peftlab as pl
from peftlab.files import tensors
from peftlab.methods import (
    BOFT,
    C3A,
    HRA,
    IA3,
    OFT,
    AdaLoRA,
    AdapterFusion,
    AdaptionPrompt,
    BitFit,
    Compacter,
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
    LoReFT,
    MiCA,
    MiSS,
    MultitaskPromptTuning,
    OLoRA,
    ParallelAdapter,
    Pfeiffer,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    RandLoRA,
    RoAd,
    SHiRA,
    TinyLoRA,
    TrainableTokens,
    UniLoRA,
    VBLoRA,
    VeRA,
)
from peftlab.virtual_tokens import on

# what may not apply to a method, and the rungs that then have nothing to show
CHECKS = {"peft": (1, 3), "merge": (4,), "identity": (9,), "generate": (10,), "compile": (12,), "checkpointing": (12,)}
ARCHITECTURES = ("llama", "gpt2", "bert")



def any_rank(r, width, heads):
    return {"r": r}


def up_to_the_width(r, width, heads):
    return {"r": min(r, width)}


def no_size(r, width, heads):
    return {}


def tokens(r, width, heads):
    return {"num_virtual_tokens": r}


def reduction(r, width, heads):
    return {"reduction_factor": r}


def block(r, width, even=False):
    """A number above one that divides the width of a head, and with it the sides of every weight."""
    fits = [n for n in range(2, width + 1) if width % n == 0 and not (even and n % 2)]
    return fits[r % len(fits)]


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
    sizes: object = any_rank                                 # (r, width of a head, heads) -> options that rung 14 draws
    first: dict = field(default_factory=dict)                # adapters that must be there before: name -> (method, options)
    base_in_peft: dict = field(default_factory=dict)         # settings of the only kind of base that `peft` is right on
    elsewhere: str = ""                                      # why it is on no other architecture

    def why_not(self, check, arch):
        if check == "generate" and arch == "bert":
            return "an encoder does not generate"
        return self.no.get(check) or self.no.get((check, arch))

    def options_on(self, arch):
        return self.options.get(arch, self.options)

    def base(self, arch, model=None, **settings):
        """The frozen model, with what must be on it before the method is; no adapter is switched on."""
        model = tiny(arch, **settings) if model is None else model
        for name, (method, options) in self.first.items():
            if not hasattr(model, "switch") or name not in model.switch.recipe:
                pl.attach(model, method, self.targets[arch], name, **options)
                fill(tensors(model, name), name)
                pl.use(model)
        return model

    def attach(self, model, arch, name="a"):
        self.base(arch, model)
        pl.attach(model, self.method, self.targets[arch], name, self.save.get(arch), **self.options_on(arch))
        if hasattr(self.method, "drop_encoder"):                   # a network that is not in the file: `fill` cannot reach it there
            fill(dict(on(model)[name].named_parameters()), name)
        return model

    def peft_config(self, arch):
        targets = {} if self.targets[arch] is None else {"target_modules": self.targets[arch]}
        if targets and self.method.in_peft.one_target:
            [targets["target_modules"]] = self.targets[arch]
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
TABLE = {"llama": ["embed_tokens"], "gpt2": ["wte"], "bert": ["word_embeddings"]}
WHOLE = dict.fromkeys(ARCHITECTURES)
HEAD = {"llama": ["lm_head"], "gpt2": ["ln_f"], "bert": ["classifier"]}

NOT_IN_PEFT = "`peft` does not have it: golden numbers made with `adapters` stand in test_golden.py"
ITS_EQUATION = "`peft` does not have it: its equation, written another way, stands in "
NOT_AFFINE = {"merge": "it is not affine: there is a non-linearity in it"}
NEAR = {"identity": "both matrices start near zero, not at zero"}
PREFIX = {"checkpointing": "it needs the cache, which checkpointing switches off"}
VIRTUAL = {"merge": "virtual tokens change no weight", "identity": "added tokens take some of the attention"}
TIED = {("merge", "gpt2"): "its output layer shares the table, and merging would change it as well"}

NO_CONV1D = {("peft", "gpt2"): "`peft` has it for nn.Linear only: see test_facts_about_peft.py"}
CHANGES_THE_BASE = "`peft` changes the base weights for it, so their files differ: see test_initialisers.py"
STARTS_APART = {"identity": "its coefficients start at random, as in `peft`"}

SPECS = [
    Spec("LoRA", LoRA, ATTENTION, {"r": 4, "lora_alpha": 6}, peft.LoraConfig),
    Spec("rsLoRA", LoRA, ATTENTION, {"r": 4, "lora_alpha": 6, "use_rslora": True}, peft.LoraConfig),
    Spec("LoRA+head", LoRA, ATTENTION, {"r": 2}, peft.LoraConfig, HEAD),
    Spec("LoRA on embeddings", LoRA, TABLE, {"r": 4, "lora_alpha": 6}, peft.LoraConfig, no=TIED),
    Spec("DoRA", DoRA, ATTENTION, {"r": 4, "lora_alpha": 6}, partial(peft.LoraConfig, use_dora=True)),
    # without its penalty and its contest, which the training loop drives: test_adalora.py compares those step by step
    Spec("AdaLoRA", AdaLoRA, ATTENTION, {"init_r": 4, "target_r": 2, "lora_alpha": 6, "total_step": 20},
         peft.AdaLoraConfig, sizes=lambda r, width, heads: {"init_r": r, "target_r": 1}),
    Spec("IA3", IA3, FEED, FEED_OPTIONS, peft.IA3Config, sizes=no_size),
    Spec("BitFit", BitFit, {"llama": ["q_proj", "k_proj"], "gpt2": ["c_attn", "ln_1"], "bert": ["query", "dense"]}, {},
         peft.BeftConfig, no=NO_CONV1D, sizes=no_size),
    Spec("PromptTuning", PromptTuning, WHOLE, {"num_virtual_tokens": 3}, peft.PromptTuningConfig,
         {"bert": ["classifier"]}, no=VIRTUAL, sizes=tokens),
    Spec("PTuning", PTuning, WHOLE, {"num_virtual_tokens": 3, "encoder_hidden_size": 7}, peft.PromptEncoderConfig,
         {"bert": ["classifier"]}, no=VIRTUAL, sizes=tokens),
    Spec("MultitaskPromptTuning", MultitaskPromptTuning, WHOLE, {"num_virtual_tokens": 3, "num_tasks": 2, "num_ranks": 2},
         peft.MultitaskPromptTuningConfig, {"bert": ["classifier"]}, no=VIRTUAL,
         sizes=lambda r, width, heads: {"num_virtual_tokens": r, "num_tasks": heads, "num_ranks": 6 - r}),
    Spec("PrefixTuning", PrefixTuning, WHOLE, {"num_virtual_tokens": 3}, peft.PrefixTuningConfig,
         {"bert": ["classifier"]}, no={**VIRTUAL, **PREFIX}, sizes=tokens),
    Spec("AdaptionPrompt", AdaptionPrompt, {"llama": ["self_attn"]}, {"adapter_len": 5, "adapter_layers": 1},
         peft.AdaptionPromptConfig, no={"merge": "it changes no weight: it adds to what the heads say"},
         sizes=lambda r, width, heads: {"adapter_len": r},
         base_in_peft={"attention_bias": False},             # `peft` adds the output bias twice: see test_adaption_prompt.py
         elsewhere="it asks the layer's own k_proj and v_proj, which only attention of the Llama kind has"),
    Spec("FullFineTuning", FullFineTuning, HEAD, sizes=no_size,
         no={"peft": "`peft` has no configuration that trains copies alone: see test_full_fine_tuning.py"}),
    Spec("Houlsby", Houlsby, ENDS, {"reduction_factor": 4}, no={"peft": NOT_IN_PEFT, **NOT_AFFINE, **NEAR},
         sizes=reduction),
    Spec("Pfeiffer", Pfeiffer, LAST, {"reduction_factor": 4}, no={"peft": NOT_IN_PEFT, **NOT_AFFINE, **NEAR},
         sizes=reduction),
    Spec("ParallelAdapter", ParallelAdapter, BESIDE, {"reduction_factor": 2}, no={"peft": NOT_IN_PEFT, **NOT_AFFINE},
         sizes=reduction),
    Spec("Compacter", Compacter, ENDS, {"reduction_factor": 2},
         no={"peft": ITS_EQUATION + "test_compacter_and_loreft.py", **NOT_AFFINE,
             "identity": "its products start near zero, not at zero"},
         sizes=lambda r, width, heads: {"phm_dim": block(r, width), "reduction_factor": width // block(r, width)}),
    Spec("AdapterFusion", AdapterFusion, ENDS, {"adapters": ["first", "second"]},
         no={"peft": ITS_EQUATION + "test_adapters_together.py", **NOT_AFFINE,
             "identity": "it starts as a mean of the adapters that it listens to"}, sizes=no_size,
         first={name: (Houlsby, {"reduction_factor": 4}) for name in ("first", "second")}),
    Spec("LoReFT", LoReFT, {**LAST, "bert": ["output.dense"]}, {"r": 3},
         no={"peft": ITS_EQUATION + "test_compacter_and_loreft.py", "identity": "W h + b starts at random, not at R h",
             **{("merge", arch): "here it edits what a whole block says: on a linear layer it can be merged"
                for arch in ("llama", "gpt2")}}, sizes=up_to_the_width),
    Spec("LoHa", LoHa, ATTENTION, {"r": 3, "alpha": 4}, peft.LoHaConfig, no=NO_CONV1D),
    Spec("LoKr", LoKr, ATTENTION, {"r": 1, "alpha": 4}, peft.LoKrConfig, no=NO_CONV1D),
    Spec("OFT", OFT, ATTENTION, {"oft_block_size": 4}, partial(peft.OFTConfig, r=0), no=NO_CONV1D,
         sizes=lambda r, width, heads: {"oft_block_size": block(r, width)}),
    Spec("OFT, exact", OFT, ATTENTION, {"oft_block_size": 4, "use_cayley_neumann": False}, partial(peft.OFTConfig, r=0),
         no=NO_CONV1D, sizes=lambda r, width, heads: {"oft_block_size": block(r, width)}),
    Spec("HRA", HRA, ATTENTION, {"r": 4}, peft.HRAConfig,
         no={**NO_CONV1D, "identity": "equal reflections undo each other up to rounding, not to the bit"},
         sizes=lambda r, width, heads: {"r": 2 * r}),
    Spec("MiSS", MiSS, ATTENTION, {"r": 5}, peft.MissConfig, no=NO_CONV1D),
    Spec("FourierFT", FourierFT, ATTENTION, {"n_frequency": 20, "scaling": 5.0}, peft.FourierFTConfig, no=STARTS_APART,
         sizes=lambda r, width, heads: {"n_frequency": min(r, width**2)}),
    Spec("VeRA", VeRA, ATTENTION, {"r": 6}, peft.VeraConfig),
    Spec("RoAd", RoAd, ATTENTION, {"group_size": 4}, peft.RoadConfig, no=NO_CONV1D,
         sizes=lambda r, width, heads: {"group_size": block(r, width, even=True)}),
    Spec("HiRA", HiRA, ATTENTION, {"r": 3}, peft.HiraConfig),
    Spec("DeLoRA", DeLoRA, ATTENTION, {"r": 3, "delora_lambda": 2}, peft.DeloraConfig, no=NO_CONV1D),
    Spec("GraLoRA", GraLoRA, ATTENTION, {"r": 4, "alpha": 6, "gralora_k": 2}, peft.GraloraConfig,
         sizes=lambda r, width, heads: {"gralora_k": block(r, width), "r": r * block(r, width)}),
    # its Fourier transforms round otherwise than `peft`'s, and AdamW makes much of it where a gradient is nearly zero
    Spec("C3A", C3A, ATTENTION, {"block_size": 4}, peft.C3AConfig, losses_within=1e-4, no={**NO_CONV1D, **STARTS_APART},
         sizes=lambda r, width, heads: {"block_size": block(r, width)}),
    Spec("LNTuning", LNTuning, {"llama": ["input_layernorm", "norm"], "gpt2": ["ln_1", "ln_f"], "bert": ["LayerNorm"]}, {},
         peft.LNTuningConfig, sizes=no_size),
    Spec("TrainableTokens", TrainableTokens, TABLE, {"token_indices": [5, 9, 20]}, peft.TrainableTokensConfig,
         no={**TIED, ("peft", "gpt2"): "`peft` gives a tied output layer the new rows as well: see test_facts_about_peft.py"},
         sizes=lambda r, width, heads: {"token_indices": list(range(5, 5 + r))}),
    Spec("SHiRA", SHiRA, ATTENTION, {"r": 2}, peft.ShiraConfig, no=NO_CONV1D,
         sizes=lambda r, width, heads: {"r": min(r, width // 2)}),
    Spec("VBLoRA", VBLoRA, ATTENTION, {"r": 2, "num_vectors": 6, "vector_length": 4}, peft.VBLoRAConfig, no=STARTS_APART,
         sizes=lambda r, width, heads: {"r": r, "vector_length": block(r, width)}),
    Spec("UniLoRA", UniLoRA, ATTENTION, {"r": 2, "theta_d_length": 30}, peft.UniLoraConfig, no=STARTS_APART),
    Spec("TinyLoRA", TinyLoRA, ATTENTION, {"r": 2, "u": 5}, peft.TinyLoraConfig, sizes=up_to_the_width),
    Spec("RandLoRA", RandLoRA, ATTENTION, {"r": 5}, peft.RandLoraConfig),
    Spec("BOFT", BOFT, ATTENTION, {"boft_block_size": 4}, peft.BOFTConfig, no=NO_CONV1D,
         sizes=lambda r, width, heads: {"boft_block_size": block(r, width)}),
    Spec("BOFT, two factors", BOFT, ATTENTION, {"boft_block_size": 4, "boft_n_butterfly_factor": 2},
         no={"peft": "`peft` takes one factor only where it has no CUDA: see test_facts_about_peft.py"},
         sizes=lambda r, width, heads: {"boft_block_size": block(r, width, even=True),
                                        "boft_n_butterfly_factor": 1 + (heads > 1)}),
    Spec("MiCA", MiCA, ATTENTION, {"r": 4, "lora_alpha": 6}, partial(peft.LoraConfig, init_lora_weights="mica"),
         sizes=up_to_the_width),
    Spec("PiSSA", PiSSA, ATTENTION, {"r": 4, "lora_alpha": 6}, no={"peft": CHANGES_THE_BASE}, sizes=up_to_the_width),
    Spec("OLoRA", OLoRA, ATTENTION, {"r": 4, "lora_alpha": 6}, no={"peft": CHANGES_THE_BASE}, sizes=up_to_the_width),
]
