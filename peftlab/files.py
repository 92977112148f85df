"""Save and load adapters in `peft`'s own format: adapter_config.json and adapter_model.safetensors in one folder."""
import inspect
import json
import math
import re
from operator import attrgetter
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from peftlab.adapter import Adapter
from peftlab.attach import _known, _refuse_if_merged, adapted, attach, detach, parameters, strip, use
from peftlab.count import closed_form
from peftlab.virtual_tokens import VirtualTokens, cache_shape, on

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# Fields of a configuration that do not change what the adapter computes once its tensors are loaded.
_LEAVES_THE_BASE = (None, True, False, "gaussian", "eva", "mica")    # init_lora_weights that do not touch the base
_NO_MATTER = {"peft_type", "target_modules", "task_type", "inference_mode", "base_model_name_or_path", "revision",
              "auto_mapping", "peft_version", "init_lora_weights", "init_ia3_weights", "init_weights",
              "fan_in_fan_out", "bias", "lora_dropout", "module_dropout", "rank_dropout", "eps", "mini_r",
              "block_share", "ensure_weight_tying", "token_dim", "num_layers", "num_attention_heads",
              "num_transformer_submodules", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path",
              "tokenizer_kwargs", "encoder_hidden_size", "modules_to_save", "loftq_config", "eva_config",
              "corda_config", "qalora_group_size", "megatron_core", "prompt_tuning_init_state_dict_path",
              "init_prompt_tuning_kwargs", "encoder_reparameterization_type", "encoder_num_layers",
              "encoder_dropout", "prompt_tuning_init_task", "prefix_projection", "init_v_bound"}


def tensors(model, name):
    """{name in the file: our parameter} of the adapter `name`."""
    found = {theirs if theirs.startswith("base_model.") else f"base_model.model.{path}.{theirs}":
             attrgetter(ours)(layer.adapters[name])
             for path, layer in adapted(model, name) for ours, theirs in layer.adapters[name].keys.items()}
    if name in on(model):
        tokens = on(model)[name]
        # `peft` names the copies beside virtual tokens without "model."
        found = {k.replace("base_model.model.", "base_model.", 1): p for k, p in found.items()}
        found |= {theirs: attrgetter(ours)(tokens) for ours, theirs in tokens.keys.items()}
    return found


def save(model, folder, name="default"):
    """Write the adapter `name` to `folder`, which `peft` can load. Returns the folder.

    Bottleneck adapters, which `peft` does not have, are written the same way, for us alone to read.
    """
    _known(model, [name], "save")
    _refuse_if_merged(model, "save")
    unnamed = {id(p) for p in parameters(model, name)} - {id(p) for p in tensors(model, name).values()}
    if unnamed and not hasattr(model.switch.recipe[name][0], "settle"):   # what a network makes is saved, not the network
        raise ValueError(f"{model.switch.recipe[name][0].__name__} has {len(unnamed)} parameters that its `keys` do not "
                         "name: they would be lost. Add them: keys = {'my_parameter': 'its_name_in_the_file'}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    method, targets, options = model.switch.recipe[name]
    config = {"peft_type": method.peft_type or method.__name__, "task_type": _task(model, name), "inference_mode": True,
              "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", None) or None,
              "target_modules": list(targets) if isinstance(targets, (list, tuple, set)) else targets,
              **method.config, **_defaults(method), **{k: _plain(v) for k, v in options.items()}}
    if not issubclass(method, VirtualTokens) and method.one_target and isinstance(config["target_modules"], list):
        [config["target_modules"]] = config["target_modules"]
    config = {k: v for k, v in config.items() if v or k != "modules_to_save"}         # not every configuration of `peft` has it
    if issubclass(method, VirtualTokens):
        config |= _shape_of(on(model)[name], model.config)
        config.pop("target_modules")
    for file, write in ((WEIGHTS, lambda p: save_file({k: v.detach().cpu().contiguous() for k, v in
                                                       tensors(model, name).items()}, p, {"format": "pt"})),
                        (CONFIG, lambda p: p.write_text(json.dumps(config, indent=2) + "\n", "utf-8"))):
        part = folder / (file + ".part")                     # a crash must not leave half a file under the real name
        write(part)
        part.replace(folder / file)
    return folder


def load(model, folder, name="default"):
    """Attach the adapter in `folder`, ours or `peft`'s, under `name`, and switch it on. Returns the model.

    Raises FileNotFoundError or ValueError, naming the file, the field or the tensor; the model is then as it was.
    """
    folder = Path(folder)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            if file == WEIGHTS and list(folder.glob("*.bin")):
                raise FileNotFoundError(f"{folder} holds its weights as a .bin file, which can run code when it is opened and "
                                        f"is not read here: have `peft` write it anew, as {WEIGHTS}")
            inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
            if inside:                                       # `peft` saves each adapter but "default" in a folder of its own
                raise FileNotFoundError(f"{folder} holds several adapters, {', '.join(inside)}: load each from its own folder, "
                                        f"such as {folder / inside[0]}")
            raise FileNotFoundError(f"{folder} holds no {file}: an adapter's folder has {CONFIG} and {WEIGHTS}")
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        state = load_file(folder / WEIGHTS)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ValueError(f"{folder / CONFIG} is not valid JSON ({e}): copy the folder again") from e
    except SafetensorError as e:
        raise ValueError(f"{folder / WEIGHTS} is damaged or cut short ({e}): copy it again") from e

    if not isinstance(config, dict):
        raise ValueError(  # noqa: TRY004 (the file is wrong, not the argument)
            f"{folder / CONFIG} holds a {type(config).__name__}, not the fields of a configuration"
        )

    method = _method(config, folder)
    known = set(inspect.signature(method.__init__).parameters) | set(inspect.signature(method.per_layer).parameters) \
        if issubclass(method, Adapter) else set(inspect.signature(method.__init__).parameters)
    for field, value in config.items():
        if value and field not in known | _NO_MATTER | set(method.config) | set(getattr(method, "unused", ())):
            raise ValueError(f"{folder / CONFIG} sets {field}={value!r}, which {method.__name__} here does not have: "
                             "loading it would give other results than it was trained with")
    if config.get("init_lora_weights") not in _LEAVES_THE_BASE:
        raise ValueError(f"{folder / CONFIG} sets init_lora_weights={config['init_lora_weights']!r}, which changed the "
                         "base weights before training, and the file does not hold those. Have `peft` convert it: "
                         "save_pretrained(..., path_initial_model_for_weight_conversion=...)")
    if config.get("bias", "none") != "none":
        raise ValueError(f"{folder / CONFIG} sets bias={config['bias']!r}: biases trained in place are not loaded; "
                         "use BitFit for them")
    options = {k: config[k] for k in known & set(config) if k not in ("self", "layer", "model", "path")}
    if issubclass(method, VirtualTokens):
        options = {"num_virtual_tokens": config.get("num_virtual_tokens")} \
            | {k: config[k] for k in ("num_tasks", "num_ranks") if k in known & set(config)} \
            | ({"encoder_hidden_size": 1} if "encoder_hidden_size" in known else {})      # what it makes is read, not it
    if issubclass(method, Adapter) and method.one_target and isinstance(config.get("target_modules"), str):
        config["target_modules"] = [config["target_modules"]]
    # `peft` writes down what a head may be called, "classifier" and "score": one that does not exist is none of them
    copies = [end for end in dict.fromkeys(config.get("modules_to_save") or ())
              if any(path == end or path.endswith("." + end) for path, _ in model.named_modules())]
    before = model.switch.active if hasattr(model, "switch") else None
    try:
        _refuse_if_too_large(model, method, config, copies or None, options, state, folder)
        attach(model, method, config.get("target_modules"), name, copies or None, **options)
    except (TypeError, AttributeError, KeyError, ArithmeticError, RuntimeError, re.error) as e:
        raise ValueError(f"{folder / CONFIG} does not describe a {method.__name__} for this model: {e}") from e
    try:
        if issubclass(method, Adapter):
            state = {k: t for k, t in state.items()
                     if not (k.startswith("base_model.model.") and k.endswith(tuple(method.repeated)))}
        if hasattr(method, "settle"):
            on(model)[name].settle()
        ours = tensors(model, name)
        try:
            state = _as_written_now(state, ours, model)
        except ValueError as e:
            raise ValueError(f"{folder / WEIGHTS}: {e}") from e
        _fill(ours, state, folder / WEIGHTS)
        for path, layer in adapted(model, name):
            try:
                layer.adapters[name].verify()
            except ValueError as e:
                raise ValueError(f"{folder / WEIGHTS}: {path}: {e}") from e
    except ValueError:
        forget(model, name)
        if before is None:
            detach(model)
        else:
            use(model, *before)
        raise
    return model


def _refuse_if_too_large(model, method, config, copies, options, state, folder):
    """Raise ValueError where the configuration asks for far more numbers than the file has, before memory is taken for them."""
    held = sum(t.numel() for t in state.values())
    try:
        wanted = closed_form(model, method, config.get("target_modules"), copies, **options)
    except NotImplementedError:                              # a learner's own method that does not count itself
        wanted = 0
    if wanted > 2 * held + 1_000_000:                        # a smaller difference is found tensor by tensor, and named
        raise ValueError(f"{folder / CONFIG} describes {wanted:,} numbers, and {WEIGHTS} holds {held:,}")
    beyond = max(held, *(p.numel() for p in model.parameters()))
    for option, value in options.items():                    # frozen matrices are not among the numbers counted above
        if isinstance(value, int) and value > beyond and "seed" not in option and "key" not in option:
            raise ValueError(f"{folder / CONFIG} sets {option}={value:,}, more than the file or any tensor of the model has numbers")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{folder / CONFIG} sets {option}={value}, which is no number to compute with")


def _as_written_now(state, ours, model):
    """The file's tensors under today's names, without copies of the base that older releases and resized vocabularies leave in."""
    weights = dict(model.named_parameters())
    now = {}
    for key, t in state.items():
        if key not in ours and key.removesuffix(".weight") in ours:
            key = key.removesuffix(".weight")                # DoRA's magnitude
        base = weights.get(key.removeprefix("base_model.model.").replace(".base_layer.", "."))
        if key not in ours and base is not None:
            if base.shape != t.shape or not torch.equal(base, t.to(base)):
                raise ValueError(f"{key}, {tuple(t.shape)} in the file, is a weight of the base that was changed there: the base "
                                 "here is another. Load the base it was trained on, resized in the same way")
            continue
        now[key] = t
    return now


def _fill(ours, state, file):
    """Copy the file's tensors into our parameters, after every name, shape and number has been looked at."""
    missing, extra = sorted(ours.keys() - state.keys()), sorted(state.keys() - ours.keys())
    if missing or extra:
        raise ValueError(f"{file} does not fit this model: "
                         + "; ".join(f"{what}: {names[0]} and {len(names) - 1} more" if len(names) > 1 else
                                     f"{what}: {names[0]}" for what, names in
                                     (("missing in the file", missing), ("nowhere in the model", extra)) if names))
    for key, p in ours.items():
        if state[key].shape != p.shape:
            raise ValueError(f"{file}: {key} is {tuple(state[key].shape)} in the file and {tuple(p.shape)} here")
        if p.is_floating_point() and not (state[key].is_floating_point() and state[key].float().isfinite().all()):
            raise ValueError(f"{file}: {key} holds {state[key].dtype} numbers that are not all finite and real: copy the file "
                             "again; if it stays so, the training that wrote it went wrong")
    with torch.no_grad():
        for key, p in ours.items():
            p.copy_(state[key])


def forget(model, name):
    """Take the one adapter `name` off the model."""
    _known(model, [name], "forget")
    for _, layer in adapted(model, name):
        del layer.adapters[name]
        if not layer.adapters:
            strip(layer)
    if name in on(model):
        del on(model)[name]
    del model.switch.recipe[name]
    model.switch.active = tuple(n for n in model.switch.active if n != name)


def _method(config, folder):
    """The class for a configuration: its peft_type, and of those the one whose fixed entries fit best."""
    def below(cls):
        return [cls] + [c for sub in cls.__subclasses__() for c in below(sub)]

    fits = [m for m in below(Adapter) + below(VirtualTokens) if config.get("peft_type") in (m.peft_type, m.__name__)
            and config["peft_type"] and all(config.get(k) == v for k, v in m.config.items())]
    named = [m for m in fits if m.__name__ == config["peft_type"]]
    near = [m for m in below(Adapter) + below(VirtualTokens) if m.peft_type and m.peft_type == config.get("peft_type")]
    if near and not fits:
        field, want = next((k, v) for k, v in near[0].config.items() if config.get(k) != v)
        raise ValueError(f"{folder / CONFIG} sets {field}={config.get(field)!r}; {near[0].__name__} here is only "
                         f"built for {want!r}: loading it would give other results than it was trained with")
    if not fits:
        raise ValueError(f"{folder / CONFIG} says peft_type {config.get('peft_type')!r}, a method we do not have")
    return (named or sorted(fits, key=lambda m: len(m.config)))[-1]


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
    if type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        return "CAUSAL_LM"
    if type(model).__name__.endswith("ForSequenceClassification"):
        head = any(hasattr(getattr(model, head, None), "adapters") and name in getattr(model, head).adapters
                   for head in ("classifier", "score"))
        return "SEQ_CLS" if head or name in on(model) else None
    return None


def _shape_of(tokens, config):
    """The width of one virtual token as `peft` writes it: of the hidden state, or of one layer's keys."""
    layers, heads, width = cache_shape(config)
    if tokens.key_values is None:
        heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    return {"token_dim": heads * width, "num_layers": layers, "num_attention_heads": heads,
            "num_transformer_submodules": 1}
