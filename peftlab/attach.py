"""Put adapters on a model, choose which run, mix them in one batch, take them off: one pair of forward hooks."""
import re
from contextlib import contextmanager

import torch
from torch import nn

from peftlab import attention, virtual_tokens
from peftlab.adapter import Adapter, FullFineTuning, is_conv1d


class Switch:
    """Which adapters run; one object, shared by the model and all its adapted layers."""

    def __init__(self, model):
        self.active = ()                                     # names, in the order in which they run
        self.rows = None                                     # inside `mix`: one name (or None) per example
        self.merged = ()                                     # names that are baked into the weights
        self.inserted = 0, None                              # positions that virtual tokens added to this forward pass
        self.recipe = {}                                     # name -> (method, target_modules, options)
        self.was_trainable = {n for n, p in model.named_parameters() if p.requires_grad}


# ------------------------------------------------------------------------------------------------ the two hooks

def _running(layer, n):
    """Yield (adapter, rows) for the adapters that run on this layer now; rows None means the whole batch of n."""
    switch = layer.switch
    if switch.rows is None:
        for name in switch.active:
            if name in layer.adapters:
                yield layer.adapters[name], None
        return
    rows = spread(switch.rows, n)
    for name in dict.fromkeys(rows):
        if name is not None and name in layer.adapters:
            yield layer.adapters[name], [i for i, row in enumerate(rows) if row == name]


def spread(rows, n):
    """One name per row of a batch of n, where beam search repeats each example n / len(rows) times."""
    if n % len(rows):
        raise ValueError(f"mix got {len(rows)} names for a batch of {n} rows: give one name, or None, per example")
    return [row for row in rows for _ in range(n // len(rows))]


def _dtype(adapter, t):
    """`t` in the adapter's precision, so that a bfloat16 base can carry float32 adapters; token ids stay integers."""
    for p in adapter.parameters():
        return t.to(p.dtype) if t.is_floating_point() else t
    return t


def _called_by_name(layer):
    """A block that is called by keywords has no first argument; methods that act inside attention need none."""
    if any(not hasattr(adapter, "attend") for adapter in layer.adapters.values()):
        raise ValueError(f"a {type(layer).__name__} is called by keywords, and what enters it cannot be told: attach to the "
                         "layers inside it")


def _before(layer, args):
    if not args:
        return _called_by_name(layer)
    for adapter, rows in _running(layer, len(args[0])):
        i = adapter.argument
        x = args[i] if rows is None else args[i][rows]
        new = adapter.before(_dtype(adapter, x)).to(x.dtype)
        args = (*args[:i], new if rows is None else _put(args[i], rows, new), *args[i + 1:])
    return args


def _after(layer, args, out):
    if not args:
        return None
    y = out[0] if isinstance(out, tuple) else out
    for adapter, rows in _running(layer, len(args[0])):
        x = args[adapter.argument]
        x, part = (x, y) if rows is None else (x[rows], y[rows])
        new = adapter.after(_dtype(adapter, x), _dtype(adapter, part)).to(y.dtype)
        y = new if rows is None else _put(y, rows, new)
    return (y, *out[1:]) if isinstance(out, tuple) else y


def _put(whole, rows, part):
    return whole.index_put((torch.tensor(rows, device=whole.device),), part)


# ------------------------------------------------------------------------------------------------ what you call

def attach(model, method, target_modules=None, name="default", modules_to_save=None, **options):
    """Freeze `model`, put `method` on every layer that `target_modules` names, and switch it on. Returns the model.

    target_modules: a list of endings of layer names, a string that is a regular expression for the whole name, or
        "all-linear" (every linear layer but the output layer). Methods made of virtual tokens take none.
    modules_to_save: layers to train as a copy along with the method, such as a new classification head.
    options: the fields of the method's configuration in `peft`, with its defaults.
    Raises ValueError, and leaves the model as it was, if a target matches nothing or the name is taken.
    """
    if hasattr(model, "switch"):
        _refuse_if_merged(model, "attach another adapter")
        if name in model.switch.recipe:
            raise ValueError(f"there is an adapter called {name!r} already: pick another name, or detach first")
    if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name):
        raise ValueError(f"{name!r} cannot be an adapter's name: use a word without dots")
    if not (isinstance(method, type) and issubclass(method, (Adapter, virtual_tokens.VirtualTokens))):
        raise TypeError(f"attach wants a method, such as peftlab.methods.LoRA, and got {method!r}")

    new, tokens = [], None                                   # first make everything: nothing is changed if that fails
    if issubclass(method, virtual_tokens.VirtualTokens):
        if target_modules is not None:
            raise ValueError(f"{method.__name__} changes no layer: leave target_modules out")
        reader = virtual_tokens.reader(model)
        tokens = method(reader, **options).to(next(model.parameters()).device)
    else:
        for path, layer in method.among(targets(model, target_modules), **options):
            new.append((layer, method.for_layer(layer)(layer, **method.per_layer(path, **options))))
        if hasattr(method, "share"):
            method.share([adapter for _, adapter in new])
    new += [(layer, FullFineTuning(layer)) for _, layer in copied(model, modules_to_save)]
    twice = [layer for i, (layer, _) in enumerate(new) if any(layer is other for other, _ in new[:i])]
    if twice:
        raise ValueError(f"a {type(twice[0]).__name__} is both in target_modules and in modules_to_save: choose one")

    if hasattr(method, "attend"):
        attention.hook(model)
    if not hasattr(model, "switch"):
        model.switch = Switch(model)
        model.requires_grad_(False)
    for layer, adapter in new:
        if not hasattr(layer, "adapters"):
            layer.adapters, layer.switch = nn.ModuleDict().train(layer.training), model.switch
            layer.hooks = (layer.register_forward_pre_hook(_before), layer.register_forward_hook(_after))
        device = next((p.device for p in layer._parameters.values() if p is not None), next(model.parameters()).device)
        layer.adapters[name] = adapter.to(device).train(model.training)
    if tokens is not None:
        virtual_tokens.hook(reader, model.switch)
        reader.virtual_tokens[name] = tokens.train(model.training)
    model.switch.recipe[name] = (method, target_modules, {**options, "modules_to_save": modules_to_save})
    use(model, name)
    return model


def targets(model, target_modules):
    """The (path, layer) pairs of `model` that `target_modules` names. Raises ValueError if one matches nothing."""
    layers = [(path, layer) for path, layer in model.named_modules() if path and not _ours(path)]
    if target_modules == "all-linear":
        head = getattr(model, "get_output_embeddings", lambda: None)()
        found = [(p, m) for p, m in layers if (isinstance(m, nn.Linear) or is_conv1d(m)) and m is not head]
        missing = [] if found else ["all-linear"]
    elif isinstance(target_modules, str):
        found = [(p, m) for p, m in layers if re.fullmatch(target_modules, p)]
        missing = [] if found else [target_modules]
    elif target_modules:
        ends = list(target_modules)
        found = [(p, m) for p, m in layers if any(p == e or p.endswith("." + e) for e in ends)]
        missing = [e for e in ends if not any(p == e or p.endswith("." + e) for p, _ in layers)]
    else:
        raise ValueError("name the layers to adapt in target_modules, a list of endings such as ['q_proj', 'v_proj']; "
                         + _there_are(layers))
    if missing:
        hint = "a string is a regular expression for the whole name; did you mean a list? " \
            if isinstance(target_modules, str) and target_modules != "all-linear" else ""
        raise ValueError(f"no layer is called {missing[0]!r}: {hint}{_there_are(layers)}")
    return found


def copied(model, modules_to_save):
    """The (path, layer) pairs to train as copies: layers with parameters of their own, also those inside a block."""
    blocks = targets(model, modules_to_save) if modules_to_save else ()
    return list({id(layer): (f"{path}.{inner}".rstrip("."), layer) for path, block in blocks
                 for inner, layer in block.named_modules() if layer._parameters and not _ours(inner)}.values())


def _there_are(layers):
    names = {}                                               # endings, in order of appearance, without block numbers
    for path, layer in layers:
        end = path.split(".")[-1]
        if len(layer._parameters) and not end.isdigit():
            names.setdefault(end, type(layer).__name__)
    return "the layers end in " + ", ".join(f"{n} ({t})" for n, t in names.items())


def _ours(path):
    return ".adapters." in f".{path}." or ".virtual_tokens." in f".{path}."


def adapted(model, name=None):
    """The (path, layer) pairs that carry adapters, or the adapter `name`."""
    return [(p, m) for p, m in model.named_modules()
            if "adapters" in m._modules and (name is None or name in m.adapters)]


def parameters(model, name):
    """The trained parameters of the adapter `name`, wherever they sit."""
    found = [p for _, layer in adapted(model, name) for p in layer.adapters[name].parameters()]
    if name in virtual_tokens.on(model):
        found += virtual_tokens.on(model)[name].parameters()
    return list({id(p): p for p in found}.values())


def use(model, *names):
    """Switch on the adapters `names`, in that order, and make them (alone) trainable; no name: the base model."""
    names = tuple(_known(model, names, "use"))
    _refuse_if_merged(model, "switch adapters")
    virtual_tokens.refuse_two(model, names)
    for name in model.switch.recipe:
        for p in parameters(model, name):
            p.requires_grad_(name in names)
    model.switch.active = names


@contextmanager
def mix(model, rows):
    """Inside, row i of every batch goes through the adapter rows[i] alone (None: the base model).

    With gradient checkpointing keep `backward()` inside the block as well, since it runs the layers again.
    """
    rows = list(rows)
    _known(model, [row for row in rows if row is not None], "mix")
    _refuse_if_merged(model, "mix adapters")
    if not rows:
        raise ValueError("mix wants one adapter's name, or None, per example, and got an empty list")
    outer, model.switch.rows = model.switch.rows, rows
    try:
        yield
    finally:
        model.switch.rows = outer


def detach(model, keep_merged=False):
    """Take everything off: the base model bit for bit, or with `keep_merged` the merged weights and no adapters."""
    _known(model, (), "detach")
    if model.switch.merged and not keep_merged:
        from peftlab.merge import unmerge
        unmerge(model)
    was_trainable = model.switch.was_trainable
    for _, layer in adapted(model):
        strip(layer)
    virtual_tokens.unhook(virtual_tokens.reader(model))
    attention.unhook(model)
    if hasattr(model, "switch"):                             # gone already if the model itself was an adapted layer
        del model.switch
    for n, p in model.named_parameters():
        p.requires_grad_(n in was_trainable)
    return model


def strip(layer):
    """Take all that we put on a layer off it."""
    for handle in layer.hooks:
        handle.remove()
    for extra in ("adapters", "switch", "hooks", "unmerged"):
        if hasattr(layer, extra):
            delattr(layer, extra)


def _known(model, names, verb):
    if not hasattr(model, "switch"):
        raise ValueError(f"this model has no adapters: call attach before {verb}")
    for name in names:
        if name not in model.switch.recipe:
            raise ValueError(f"no adapter is called {name!r}; there are: {', '.join(model.switch.recipe)}")
    return names


def _refuse_if_merged(model, verb):
    if model.switch.merged:
        raise ValueError(f"{', '.join(model.switch.merged)} merged into the weights: unmerge before you {verb}")
