"""Put adapters on a model and take them off: one pair of forward hooks.

What differs from `peft`, and why. It puts a module of its own in the place of each adapted layer and writes the steps
"look who is active, change the precision, add" into each method; here the layer stays where it is, with its name, and two
hooks do those steps for every method, so that a method holds its equation alone. The base's weights keep their names and
are never written to, which is why `detach` gives them back bit for bit. An adapter computes in its own precision (float32,
if not told otherwise) and what it gives is cast to the layer's. Adapters that are on together run in the order in which
`use` names them, each on what the one before left.
"""
from functools import partial

from torch import nn

from peftlab import attention, virtual_tokens
from peftlab.adapter import Adapter, FullFineTuning
from peftlab.layers import WHERE, adapted, copied, input_table, only_read, targets, unwrapped
from peftlab.merge import unmerge
from peftlab.switch import (
    Switch,
    all_or_nothing,
    in_its_precision,
    known,
    put_rows,
    refuse_if_merged,
    running,
    size_of,
    switch_of,
)
from peftlab.use import parameters, use
from peftlab.virtual_tokens import VirtualTokens

# ------------------------------------------------------------------------------------------------ the two hooks

def _called_by_name(layer):
    """A block that is called by keywords has no first argument; methods that act inside attention need none."""
    attending = [adapter for adapter in layer.adapters.values() if hasattr(adapter, "attend")]
    if attending and not attention.is_hooked(layer):
        raise ValueError("the attention implementation of this model was changed after attach, and this method acts inside "
                         "attention: detach, change it back to 'sdpa', and attach again")
    if len(attending) < len(layer.adapters):
        raise ValueError(f"a {type(layer).__name__} is called by keywords, and what enters it cannot be told: attach to the "
                         "layers inside it")


def _before(layer, args):
    if not args:
        return _called_by_name(layer)
    for adapter, rows in running(layer, len(args[0])):
        if type(adapter).before is Adapter.before:
            continue
        i = adapter.argument
        if i >= len(args):
            raise ValueError(f"{type(adapter).__name__} acts on input {i + 1} of a {type(layer).__name__}, which is called with "
                             f"{len(args)}: target another layer")
        x = args[i] if rows is None else args[i][rows]
        new = adapter.before(in_its_precision(adapter, x)).to(x.dtype)
        args = (*args[:i], new if rows is None else put_rows(args[i], rows, new), *args[i + 1:])
    return args


def _after(layer, args, out):
    if not args:
        return None
    y = out[0] if isinstance(out, tuple) else out
    for adapter, rows in running(layer, len(args[0])):
        if type(adapter).after is Adapter.after:
            continue
        x = args[adapter.argument]
        x, part = (x, y) if rows is None else (x[rows], y[rows])
        new = adapter.after(in_its_precision(adapter, x), in_its_precision(adapter, part)).to(y.dtype)
        y = new if rows is None else put_rows(y, rows, new)
    return (y, *out[1:]) if isinstance(out, tuple) else y


# ------------------------------------------------------------------------------------------------ what you call

def attach(model, method, target_modules=None, name="default", modules_to_save=None, **options):
    """Freeze `model`, put `method` on every layer that `target_modules` names, and switch it on. Returns the model.

    target_modules: a list of endings of layer names, a string that is a regular expression for the whole name, or
        "all-linear" (every linear layer but the output layer). Methods made of virtual tokens take none.
    modules_to_save: layers to train as a copy along with the method, such as a new classification head.
    options: the fields of the method's configuration in `peft`, with its defaults; exclude_modules, layers_to_transform and
        layers_pattern narrow the targets down.
    Raises ValueError or TypeError, and leaves the model as it was, if a target matches nothing, the name is taken, or the
    method would be without effect, or wrong, on a layer of this model.
    """
    if not (isinstance(method, type) and issubclass(method, (Adapter, VirtualTokens))):
        raise TypeError(f"attach wants a method, such as peftlab.methods.LoRA, and got {method!r}")
    whole, where = unwrapped(model), {k: options.pop(k) for k in WHERE if k in options}
    if issubclass(method, VirtualTokens):
        if target_modules is not None or where:
            raise ValueError(f"{method.__name__} changes no layer: leave target_modules out")
        layers = None
    else:
        layers = targets(whole, target_modules, **where)
    recipe = (method, target_modules, {**options, **where, "modules_to_save": modules_to_save})
    put_on(whole, method, layers, copied(whole, modules_to_save), name, options, recipe)
    return model


def put_on(model, method, layers, copies, name, options, recipe):
    """What `attach` and `load` do: put a method on these (path, layer) pairs, None for virtual tokens, and copies of those."""
    _refuse_name(model, name)
    places = [*(layers or ()), *copies]                      # first make everything: nothing is changed if that fails
    for path, layer in [("the model", model), *places]:
        _refuse_layer(path, layer, model)
    twice = next((path for path, layer in copies if any(layer is other for _, other in layers or ())), None)
    if twice:
        raise ValueError(f"{twice} is both in target_modules and in modules_to_save: choose one")
    tokens = method(virtual_tokens.reader(model), **options) if layers is None else None
    new = [] if layers is None else _adapters(method, layers, options)
    new += [(path, layer, FullFineTuning(layer)) for path, layer in copies]
    with all_or_nothing(model):
        if switch_of(model) is None:
            model.switch = Switch(model)
            model.requires_grad_(False)
            _hold_statistics(model)
        for _, layer, adapter in new:
            _put_on_layer(layer, name, adapter, model)
        if tokens is not None:
            virtual_tokens.put_on(model, name, tokens)
        model.switch.recipe[name] = recipe
        model.switch.layers[name] = {path: size_of(layer) for path, layer, _ in new}
        use(model, name)
        for p in parameters(model, name):
            p.register_hook(partial(_keep_gradient, p))
        if hasattr(method, "attend"):
            attention.hook(model)


def _refuse_name(model, name):
    if switch_of(model) is not None:
        refuse_if_merged(model, "attach another adapter")
        if name in model.switch.recipe:
            raise ValueError(f"there is an adapter called {name!r} already: pick another name, or detach first")
    if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise ValueError(f"{name!r} cannot be an adapter's name: use another word, without dots")


def _refuse_layer(path, layer, model):
    """Raise ValueError where an adapter would be without effect, or compute with numbers that are not there."""
    if only_read(layer):
        raise ValueError(f"{path} is never called: the nn.MultiheadAttention around it only reads its weight, and an adapter on it "
                         "would be without effect. Replace that module by one that calls its layers")
    for owned in ("switch", "adapters", "hooks", "held", "unmerged", "virtual_tokens", "reading"):
        if hasattr(layer, owned) and switch_of(layer) is None:
            raise ValueError(f"{path}, a {type(layer).__name__}, has an attribute {owned!r} of its own, which adapters need")
    if isinstance(layer, nn.Embedding) and layer is input_table(model) \
            and any(isinstance(m, nn.Embedding) and m is not layer and m.weight is layer.weight for m in model.modules()):
        raise ValueError(f"{path} is never called in this model, others with the same weight are: target those, such as embed_tokens")
    there = [p.device.type for p in layer._parameters.values() if p is not None]
    if "meta" in there and any(p.device.type != "meta" for p in model.parameters()):
        raise ValueError(f"the weight of {path} is not in memory (it is on 'meta', offloaded to the disk or another place): an "
                         "adapter on it would compute with nothing. Load the base without offloading, or leave the layer out")


def _adapters(method, layers, options):
    """The (path, layer, adapter) triples of a method, made and not yet on the model."""
    new = [(path, layer, method.for_layer(layer)(layer, **method.per_layer(path, **options)))
           for path, layer in method.among(layers, **options)]
    if hasattr(method, "share"):
        method.share([adapter for _, _, adapter in new])
    seen = set()
    for _, _, adapter in new:                                # the first holds what all share, the others refer to it:
        for key, p in list(adapter._parameters.items()):     # a checkpoint must not hold it twice
            if id(p) in seen:
                del adapter._parameters[key]
                adapter.__dict__[key] = p
            seen.add(id(p))
    return new


def _put_on_layer(layer, name, adapter, model):
    if not hasattr(layer, "adapters"):
        layer.adapters, layer.switch = nn.ModuleDict().train(layer.training), model.switch
        layer.hooks = (layer.register_forward_pre_hook(_before), layer.register_forward_hook(_after))
    device = next((p.device for p in layer._parameters.values() if p is not None), next(model.parameters()).device)
    layer.adapters[name] = adapter.to(device).train(model.training)


def _keep_gradient(p, gradient):
    """Give a parameter its gradient of what has run, also if its adapter was switched off before `backward`."""
    if not p.requires_grad:
        p.grad = gradient.clone() if p.grad is None else p.grad + gradient


def _hold_statistics(model):
    """Keep the running statistics of the base's BatchNorms as they are, whatever is trained on top of them."""
    for m in model.modules():
        if getattr(m, "running_mean", None) is not None:
            m.held = (m.register_forward_pre_hook(_lend_copies), m.register_forward_hook(_put_back, always_call=True))


def _lend_copies(layer, args):
    layer.held_buffers = dict(layer._buffers)
    layer._buffers.update({name: None if b is None else b.clone() for name, b in layer._buffers.items()})


def _put_back(layer, args, out):
    layer._buffers.update(layer.__dict__.pop("held_buffers"))


def detach(model, keep_merged=False):
    """Take everything off: the base model bit for bit, or with `keep_merged` the merged weights and no adapters."""
    whole = unwrapped(model)
    known(whole, (), "detach")
    with all_or_nothing(whole):
        if whole.switch.merged and not keep_merged:
            unmerge(whole)
        was_trainable = whole.switch.was_trainable
        for layer in [layer for _, layer in adapted(whole)]:
            _strip(layer, "hooks", "adapters", "switch", "hooks", "unmerged")
        for layer in [m for m in whole.modules() if "held" in m.__dict__]:
            _strip(layer, "held", "held")
        virtual_tokens.take_off(whole)
        if switch_of(whole) is not None:                     # gone already if the model itself was an adapted layer
            del whole.switch
        for n, p in whole.named_parameters():
            p.requires_grad_(n in was_trainable)
        attention.unhook(whole)
    return model


def _strip(layer, hooks, *attributes):
    """Take hooks and attributes that we put on a layer off it."""
    for handle in getattr(layer, hooks):
        handle.remove()
    for extra in attributes:
        if hasattr(layer, extra):
            delattr(layer, extra)
