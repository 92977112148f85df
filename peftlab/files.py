"""Save and load adapters in `peft`'s own format: adapter_config.json and adapter_model.safetensors in one folder."""
import json
from operator import attrgetter
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from peftlab.adapter import Adapter
from peftlab.attach import put_on
from peftlab.config import CONFIG, copies_of, method_of, options_of, read, where_of, write
from peftlab.count import count_on
from peftlab.layers import adapted, copied, ends_in, input_table, output_table, short, targets, unwrapped
from peftlab.switch import all_or_nothing, known, refuse_if_merged
from peftlab.use import parameters
from peftlab.virtual_tokens import encoder_decoder, on, reader

WEIGHTS = "adapter_model.safetensors"


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


PROMPT = "prompt_embeddings"


def _twice(model, name):
    """Whether a file has room for a second prompt, of the decoder, as `peft` writes it for encoder-decoder models and does not
    read it."""
    return name in on(model) and on(model)[name].embeddings is not None and encoder_decoder(reader(model))


# ------------------------------------------------------------------------------------------------ save

def save(model, folder, name="default"):
    """Write the adapter `name` to `folder`, which `peft` can load. Returns the folder.

    Bottleneck adapters, which `peft` does not have, are written the same way, for us alone to read.
    """
    model = unwrapped(model)
    known(model, [name], "save")
    refuse_if_merged(model, "save")
    method, state = model.switch.recipe[name][0], tensors(model, name)
    unnamed = {id(p) for p in parameters(model, name)} - {id(p) for p in state.values()}
    if unnamed and not hasattr(method, "drop_encoder"):      # what a network makes is saved, not the network
        raise ValueError(f"{method.__name__} has {len(unnamed)} parameters that its `keys` do not "
                         "name: they would be lost. Add them: keys = {'my_parameter': 'its_name_in_the_file'}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if _twice(model, name):
        state = {k: torch.cat([v, v]) if k == PROMPT else v for k, v in state.items()}
    part = {file: folder / (file + ".part") for file in (WEIGHTS, CONFIG)}           # a crash must not leave half a file
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in state.items()}, part[WEIGHTS], {"format": "pt"})
    part[CONFIG].write_text(json.dumps(write(model, name), indent=2) + "\n", "utf-8")
    for file in (WEIGHTS, CONFIG):
        part[file].replace(folder / file)
    return folder


# ------------------------------------------------------------------------------------------------ load

def load(model, folder, name="default"):
    """Attach the adapter in `folder`, ours or `peft`'s, under `name`, and switch it on. Returns the model.

    Raises FileNotFoundError or ValueError, naming the file, the field or the tensor; the model is then as it was.
    """
    folder = Path(folder)
    _refuse_incomplete(folder)
    config = read(folder / CONFIG)
    method = method_of(config, folder / CONFIG)
    options = options_of(config, method, folder / CONFIG)
    try:
        state = load_file(folder / WEIGHTS)
    except SafetensorError as e:
        raise ValueError(f"{folder / WEIGHTS} is damaged or cut short ({e}): copy it again") from e
    whole = unwrapped(model)
    with all_or_nothing(whole):
        try:
            state = _today(state, whole)
            layers, copies, recipe = _places(whole, config, method, options, state)
            _refuse_if_too_large(whole, method, layers, copies, options, state, folder)
            put_on(whole, method, layers, copies, name, options, recipe)
        except (TypeError, AttributeError, KeyError, ArithmeticError, RuntimeError) as e:
            raise ValueError(f"{folder / CONFIG} does not describe a {method.__name__} for this model: {e}") from e
        if hasattr(method, "drop_encoder"):
            on(whole)[name].drop_encoder()
        ours = tensors(whole, name)
        if _twice(whole, name) and PROMPT in state:
            state[PROMPT] = state[PROMPT][:len(on(whole)[name])]
        try:
            _fill(ours, _without_the_base(state, ours, whole, method))
            _verify(whole, name)
        except ValueError as e:
            raise ValueError(f"{folder / WEIGHTS}: {e}") from e
    return model


def _refuse_incomplete(folder):
    """Raise FileNotFoundError, with advice, where one of the two files is not in the folder."""
    for file in (CONFIG, WEIGHTS):
        if (folder / file).is_file():
            continue
        if file == WEIGHTS and list(folder.glob("*.bin")):
            raise FileNotFoundError(f"{folder} holds its weights as a .bin file, which can run code when it is opened and "
                                    f"is not read here: have `peft` write it anew, as {WEIGHTS}")
        inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        if inside:                                           # `peft` saves each adapter but "default" in a folder of its own
            raise FileNotFoundError(f"{folder} holds several adapters, {', '.join(inside)}: load each from its own folder, "
                                    f"such as {folder / inside[0]}")
        raise FileNotFoundError(f"{folder} holds no {file}: an adapter's folder has {CONFIG} and {WEIGHTS}")


def _places(model, config, method, options, state):
    """(layers, copies, recipe): which (path, layer) pairs the adapter goes on, which come as copies, and what `save` writes.

    A target that this model lacks is passed over, as in `peft`, as long as another is there.
    """
    where, target_modules, layers = where_of(config), config.get("target_modules"), None
    if issubclass(method, Adapter):
        if method.in_peft.one_target and isinstance(target_modules, str) \
                and any(ends_in(path, [target_modules]) for path, _ in model.named_modules()):
            target_modules = [target_modules]                # a name, and not a pattern
        layers = targets(model, target_modules, lenient=True, **where)
        tied = {id(layer._parameters.get("weight")) for _, layer in layers} - {id(None)}
        layers += [(path, layer) for path, layer in model.named_modules() if id(layer._parameters.get("weight")) in tied
                   and layer not in [m for _, m in layers] and any(key.startswith(f"base_model.model.{path}.") for key in state)]
    heads = [(path, layer) for path, layer in copied(model, copies_of(config, model))
             if any(f"{prefix}.{path}.{p}" in state for p in layer._parameters for prefix in ("base_model.model", "base_model"))]
    tables = _changed_tables(model, state)
    copies = list({id(layer): (path, layer) for path, layer in heads + tables}.values())
    if layers is not None:
        layers = [(path, layer) for path, layer in layers if not any(f"{path}.".startswith(f"{p}.") for p, _ in copies)]
    written = [end for end in copies_of(config, model) if any(f".{end}." in f".{path}." for path, _ in heads)]
    written += [path for path, _ in tables if not any(f".{end}." in f".{path}." for end in written)]
    return layers, copies, (method, target_modules, {**options, **where, "modules_to_save": written or None})


def _changed_tables(model, state):
    """Embeddings and output layers that the file holds with other numbers than the base: `peft` puts them into the base (a
    resized vocabulary), here they come as copies. A table that is tied to another layer comes there as well."""
    tables = [input_table(model), output_table(model)]
    found = []
    for path, layer in model.named_modules():
        weight = layer._parameters.get("weight")
        if any(layer is table for table in tables) and weight is not None:
            twins = [p for p, m in model.named_modules() if m._parameters.get("weight") is weight]
            new = next((state[k] for p in twins for k in (f"base_model.model.{p}.weight",) if k in state), None)
            if new is not None and new.shape == weight.shape and not torch.equal(new.to(weight), weight):
                state.setdefault(f"base_model.model.{path}.weight", new)
                found.append((path, layer))
    return found


WRAPPERS = {"model", "language_model", "vision_model", "text_model"}         # what releases of transformers put in or leave out


def _today(state, model):
    """The tensors of a file under the names that the layers of this model have today.

    A name that leads further into the model when such wrappers are not looked at is taken to mean the layer it leads to.
    """
    def core(parts):
        return tuple(part for part in parts if part not in WRAPPERS)

    paths = [tuple(path.split(".")) for path, _ in model.named_modules() if path]
    known, short_names = set(paths), {}
    for path in paths:
        if path[-1] not in WRAPPERS:
            short_names.setdefault(core(path), []).append(path)
    now = {}
    for key, t in state.items():
        prefix, parts = "base_model.model.", tuple(key.removeprefix("base_model.model.").split("."))
        if key.startswith(prefix):
            exact = max((i for i in range(len(parts)) if parts[:i] in known), default=0)
            near = max((i for i in range(len(parts)) if len(short_names.get(core(parts[:i]), ())) == 1
                        and parts[i - 1] not in WRAPPERS), default=0)
            if near > exact:
                key = prefix + ".".join(short_names[core(parts[:near])][0] + parts[near:])
        now[key] = t
    return now


def _refuse_if_too_large(model, method, layers, copies, options, state, folder):
    """Raise ValueError where the configuration asks for far more numbers than the file has, before memory is taken for them."""
    held = sum(t.numel() for t in state.values())
    try:
        wanted = count_on(model, method, layers, copies, **options)
    except NotImplementedError:                              # a learner's own method that does not count itself
        wanted = 0
    if wanted > 2 * held + 1_000_000:                        # a smaller difference is found tensor by tensor, and named
        raise ValueError(f"{folder / CONFIG} describes {wanted:,} numbers, and {WEIGHTS} holds {held:,}")
    beyond = max(held, *(p.numel() for p in model.parameters()))
    for option, value in options.items():                    # frozen matrices are not among the numbers counted above
        if isinstance(value, int) and value > beyond and not any(word in option for word in ("seed", "key", "alpha", "scaling")):
            raise ValueError(f"{folder / CONFIG} sets {option}={value:,}, more than the file or any tensor of the model has numbers")


def _without_the_base(state, ours, model, method):
    """The file's tensors without copies of the base that older releases and resized vocabularies leave in."""
    repeated = tuple(method.in_peft.repeated) if issubclass(method, Adapter) else ()
    weights = dict(model.named_parameters(remove_duplicate=False))
    now = {}
    for key, t in state.items():
        if key.startswith("base_model.model.") and repeated and key.endswith(repeated):
            continue
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


def _fill(ours, state):
    """Copy the file's tensors into our parameters, after every name, shape and number has been looked at."""
    missing, extra = sorted(ours.keys() - state.keys()), sorted(state.keys() - ours.keys())
    if missing or extra:
        raise ValueError("does not fit this model: "
                         + "; ".join(f"{what}: {short(names[0])}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
                                     for what, names in (("missing in the file", missing), ("nowhere in the model", extra)) if names))
    for key, p in ours.items():
        if state[key].shape != p.shape:
            raise ValueError(f"{key} is {tuple(state[key].shape)} in the file and {tuple(p.shape)} here")
        if p.is_floating_point() and not (state[key].is_floating_point() and state[key].float().isfinite().all()):
            raise ValueError(f"{key} holds {state[key].dtype} numbers that are not all finite and real: copy the file "
                             "again; if it stays so, the training that wrote it went wrong")
    with torch.no_grad():
        for key, p in ours.items():
            p.copy_(state[key])


def _verify(model, name):
    """Let each adapter say whether the numbers it got make sense."""
    for path, layer in adapted(model, name):
        try:
            layer.adapters[name].verify()
        except ValueError as e:
            raise ValueError(f"{path}: {e}") from e
