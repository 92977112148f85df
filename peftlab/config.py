"""What adapter_config.json says: read, checked against the method, and written.

The quirks of `peft`'s file format live here, so that the methods need not know them.
"""
import inspect
import json
import math

from peftlab.adapter import Adapter
from peftlab.layers import WHERE, ends_in, short
from peftlab.virtual_tokens import VirtualTokens, cache_shape, encoder_decoder, on, reader, text_config

CONFIG = "adapter_config.json"

# Fields that change nothing in what the adapter computes once its tensors are in place, by the reason why.
ORIGIN = {"peft_type", "task_type", "base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode",
          "tokenizer_name_or_path", "tokenizer_kwargs"}                      # where it comes from
START = {"init_lora_weights", "init_ia3_weights", "init_weights", "init_v_bound", "prompt_tuning_init",
         "prompt_tuning_init_text", "prompt_tuning_init_task", "prompt_tuning_init_state_dict_path",
         "init_prompt_tuning_kwargs", "loftq_config", "eva_config", "corda_config"}  # what it was before it was trained
TRAINING = {"lora_dropout", "module_dropout", "rank_dropout", "encoder_dropout"}     # only while it is trained
SHAPES = {"token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules", "encoder_hidden_size",
          "encoder_num_layers", "encoder_reparameterization_type", "prefix_projection", "mini_r"}      # the tensors say it too
LAYOUT = {"fan_in_fan_out", "block_share", "eps", "ensure_weight_tying", "megatron_core", "qalora_group_size"}   # of `peft`'s code
PLACES = {"target_modules", "modules_to_save", *WHERE}                       # which layers: files.py reads them
ELSEWHERE = {"bias"}                                                         # refused below, where it matters
NO_MATTER = ORIGIN | START | TRAINING | SHAPES | LAYOUT | PLACES | ELSEWHERE

LEAVES_THE_BASE = (None, True, False, "gaussian", "eva", "mica")             # init_lora_weights that do not touch the base


# ------------------------------------------------------------------------------------------------ reading

def read(file):
    """The fields of a configuration. Raises ValueError if there are none, or a number among them is no number."""
    try:
        config = json.loads(file.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ValueError(f"{file} is not valid JSON ({e}): copy the folder again") from e
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds a {type(config).__name__}, not the fields of a configuration")  # noqa: TRY004
    for field, value in config.items():
        if not _finite(value):
            raise ValueError(f"{file} sets {field}={short(value)}, which is no number to compute with")
    return config


def _finite(value):
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(_finite, inside)) and not (isinstance(value, float) and not math.isfinite(value))


def method_of(config, file):
    """The class for a configuration: its peft_type, and of those the one whose fixed fields fit best."""
    kind = config.get("peft_type")
    if "peft_type" not in config:
        raise ValueError(f"{file} is no configuration of `peft`'s: it has no peft_type. Other programs write files of that name, too; "
                         f"its fields are {short(sorted(config))}")
    every = _below(Adapter) + _below(VirtualTokens)
    near = [m for m in every if kind and "in_peft" in vars(m) and m.in_peft.peft_type == kind]   # not who inherits a format
    fits = [m for m in every if kind and (m in near or m.__name__ == kind)
            and all(config.get(k) == v for k, v in m.in_peft.fixed.items())]
    if near and not fits:
        field, want = next((k, v) for k, v in near[0].in_peft.fixed.items() if config.get(k) != v)
        raise ValueError(f"{file} sets {field}={short(config.get(field))}; {near[0].__name__} here is only "
                         f"built for {want!r}: loading it would give other results than it was trained with")
    if not fits:
        raise ValueError(f"{file} says peft_type {short(kind)}, a method we do not have")
    named = [m for m in fits if m.__name__ == kind]
    return (named or sorted(fits, key=lambda m: len(m.in_peft.fixed)))[-1]


def _below(cls):
    return [cls] + [c for sub in cls.__subclasses__() for c in _below(sub)]


def options_of(config, method, file):
    """The options of `method` as the configuration sets them. Raises ValueError, naming the field, for what it cannot do."""
    known = _known(method)
    for field, value in config.items():
        if value and field not in known.keys() | NO_MATTER | method.in_peft.fixed.keys() | {*method.in_peft.unused}:
            raise ValueError(f"{file} sets {field}={short(value)}, which {method.__name__} here does not have: "
                             "loading it would give other results than it was trained with")
        _refuse_other_type(field, value, known, file)
    if config.get("init_lora_weights") not in LEAVES_THE_BASE:
        raise ValueError(f"{file} sets init_lora_weights={short(config['init_lora_weights'])}, which changed the "
                         "base weights before training, and the file does not hold those. Have `peft` convert it: "
                         "save_pretrained(..., path_initial_model_for_weight_conversion=...)")
    if config.get("bias", "none") != "none":
        raise ValueError(f"{file} sets bias={short(config['bias'])}: biases trained in place are not loaded; use BitFit for them")
    if issubclass(method, VirtualTokens):                    # what a network made is read, not the network
        made = {"encoder_hidden_size": 1} if "encoder_hidden_size" in known else {}
        return {k: config.get(k) for k in ("num_virtual_tokens", "num_tasks", "num_ranks") if k in known} | made
    return {k: config[k] for k in known.keys() & config.keys()}


def _known(method):
    """{option: its default, or what stands for none} of a method."""
    functions = [method.__init__] + ([method.per_layer] if issubclass(method, Adapter) else [])
    return {name: p.default for function in functions for name, p in inspect.signature(function).parameters.items()
            if name not in ("self", "layer", "model", "path", "options")}


def _refuse_other_type(field, value, known, file):
    """Raise ValueError for a word where a number belongs, a number where a flag belongs, and so on."""
    default = known.get(field)
    if type(default) is bool or field.startswith("use_"):
        right, wanted = isinstance(value, bool | None), "true or false"
    elif isinstance(default, int | float):
        right, wanted = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif field in ("rank_pattern", "alpha_pattern"):
        numbers = value.values() if isinstance(value, dict) else ()
        right = value is None or isinstance(value, dict) and all(isinstance(n, int | float | list) for n in numbers)
        wanted = "names of layers with a number each"
    elif field == "layers_to_transform":
        numbers = value if isinstance(value, list) else [value]
        right, wanted = all(n is None or type(n) is int for n in numbers), "the numbers of blocks"
    elif field in PLACES:
        right = isinstance(value, str | None) or isinstance(value, list) and all(isinstance(v, str) for v in value)
        wanted = "a list of names"
    else:
        return
    if not right:
        raise ValueError(f"{file} sets {field}={short(value)}: it should be {wanted}")


def where_of(config):
    """The fields that narrow the targets down."""
    return {field: config[field] for field in WHERE if config.get(field) not in (None, [], "")}


HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}


def copies_of(config, model):
    """The names of layers that may come as copies: those written down, and the heads that older releases of `peft` saved
    without writing them down. One that this model does not have is none of them."""
    named = [*(config.get("modules_to_save") or ()), *HEADS.get(config.get("task_type"), ())]
    return [end for end in dict.fromkeys(named) if any(ends_in(path, [end]) for path, _ in model.named_modules())]


# ------------------------------------------------------------------------------------------------ writing

def write(model, name):
    """The fields that describe the adapter `name`, as `peft` reads them."""
    method, targets, options = model.switch.recipe[name]
    if method.in_peft.one_target and isinstance(targets, (list, tuple)):
        [targets] = targets
    named = method.in_peft.peft_type if "in_peft" in vars(method) else ""   # a subclass computes something of its own
    config = {"peft_type": named or method.__name__, "task_type": _task(model, name), "inference_mode": True,
              "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", None) or None,
              "target_modules": list(targets) if isinstance(targets, (list, tuple, set)) else targets,
              **method.in_peft.fixed, **_defaults(method), **{k: _plain(v) for k, v in options.items()}}
    config = {k: v for k, v in config.items() if v or k != "modules_to_save"}         # not every configuration of `peft` has it
    if issubclass(method, VirtualTokens):
        config |= _shape_of(on(model)[name], reader(model).config)
        config.pop("target_modules")
    return config


def _defaults(method):
    """The method's options as its constructor has them, where they can be written down."""
    return {k: p.default for k, p in inspect.signature(method.__init__).parameters.items()
            if p.default is not p.empty and isinstance(p.default, (int, float, str, bool, type(None)))
            and k not in ("tokenizer", "feedforward")}


def _plain(value):
    if isinstance(value, (set, tuple)):
        return list(value)
    if value is None or isinstance(value, (int, float, str, bool, list, dict)):
        return value
    return getattr(value, "__name__", type(value).__name__)


def _task(model, name):
    """What `peft` makes of the file. For classification it wants a trained head in there, unless it says nothing."""
    if encoder_decoder(model) and hasattr(model, "get_output_embeddings") and model.main_input_name == "input_ids":
        return "SEQ_2_SEQ_LM"
    if type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        return "CAUSAL_LM"
    for ending, task in (("ForSequenceClassification", "SEQ_CLS"), ("ForTokenClassification", "TOKEN_CLS"),
                         ("ForQuestionAnswering", "QUESTION_ANS")):
        if type(model).__name__.endswith(ending):
            head = any(name in getattr(getattr(model, head, None), "adapters", ()) for head in HEADS[task])
            return task if head or name in on(model) else None
    if name in on(model):                                    # without a task `peft` would leave virtual tokens out
        return "CAUSAL_LM" if hasattr(model, "generate") and model.can_generate() else "FEATURE_EXTRACTION"
    return None


def _shape_of(tokens, config):
    """The width of one virtual token as `peft` writes it: of the hidden state, or of one layer's keys."""
    layers, heads, width = cache_shape(config)
    config = text_config(config)
    if tokens.key_values is None:
        heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    return {"token_dim": heads * width, "num_layers": layers, "num_attention_heads": heads,
            "num_transformer_submodules": 2 if config.is_encoder_decoder else 1}
