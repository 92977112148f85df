"""Put adapters on a model and take them off: one pair of forward hooks.

What differs from `peft`, and why. It puts a module of its own in the place of each adapted layer and writes the steps
"look who is active, change the precision, add" into each method; here the layer stays where it is, with its name, and two
hooks do those steps for every method, so that a method holds its equation alone. The base's weights keep their names and
are never written to, which is why `detach` gives them back bit for bit. An adapter computes in its own precision (float32,
if not told otherwise) and what it gives is cast to the layer's. Adapters that are on together run in the order in which
`use` names them, each on what the one before left.
"""
from torch import nn

from peftlab import attention, virtual_tokens
from peftlab.adapter import Adapter, FullFineTuning
from peftlab.layers import adapted, copied, targets
from peftlab.merge import unmerge
from peftlab.switch import Switch, all_or_nothing, in_its_precision, known, put_rows, refuse_if_merged, running
from peftlab.use import use
from peftlab.virtual_tokens import VirtualTokens

# ------------------------------------------------------------------------------------------------ the two hooks

def _called_by_name(layer):
    """A block that is called by keywords has no first argument; methods that act inside attention need none."""
    if any(not hasattr(adapter, "attend") for adapter in layer.adapters.values()):
        raise ValueError(f"a {type(layer).__name__} is called by keywords, and what enters it cannot be told: attach to the "
                         "layers inside it")


def _before(layer, args):
    if not args:
        return _called_by_name(layer)
    for adapter, rows in running(layer, len(args[0])):
        i = adapter.argument
        x = args[i] if rows is None else args[i][rows]
        new = adapter.before(in_its_precision(adapter, x)).to(x.dtype)
        args = (*args[:i], new if rows is None else put_rows(args[i], rows, new), *args[i + 1:])
    return args


def _after(layer, args, out):
    if not args:
        return None
    y = out[0] if isinstance(out, tuple) else out
    for adapter, rows in running(layer, len(args[0])):
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
    options: the fields of the method's configuration in `peft`, with its defaults.
    Raises ValueError, and leaves the model as it was, if a target matches nothing or the name is taken.
    """
    _refuse_name(model, name)
    if not (isinstance(method, type) and issubclass(method, (Adapter, VirtualTokens))):
        raise TypeError(f"attach wants a method, such as peftlab.methods.LoRA, and got {method!r}")
    tokens = None                                            # first make everything: nothing is changed if that fails
    if issubclass(method, VirtualTokens):
        if target_modules is not None:
            raise ValueError(f"{method.__name__} changes no layer: leave target_modules out")
        tokens, new = method(virtual_tokens.reader(model), **options), []
    else:
        new = _adapters(model, method, target_modules, options)
    new += [(layer, FullFineTuning(layer)) for _, layer in copied(model, modules_to_save)]
    twice = [layer for i, (layer, _) in enumerate(new) if any(layer is other for other, _ in new[:i])]
    if twice:
        raise ValueError(f"a {type(twice[0]).__name__} is both in target_modules and in modules_to_save: choose one")
    with all_or_nothing(model):
        if not hasattr(model, "switch"):
            model.switch = Switch(model)
            model.requires_grad_(False)
        for layer, adapter in new:
            _put_on(layer, name, adapter, model)
        if tokens is not None:
            virtual_tokens.put_on(model, name, tokens)
        model.switch.recipe[name] = (method, target_modules, {**options, "modules_to_save": modules_to_save})
        use(model, name)
        if hasattr(method, "attend"):
            attention.hook(model)
    return model


def _refuse_name(model, name):
    if hasattr(model, "switch"):
        refuse_if_merged(model, "attach another adapter")
        if name in model.switch.recipe:
            raise ValueError(f"there is an adapter called {name!r} already: pick another name, or detach first")
    if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name):
        raise ValueError(f"{name!r} cannot be an adapter's name: use a word without dots")


def _adapters(model, method, target_modules, options):
    """The (layer, adapter) pairs of a method, made and not yet on the model."""
    new = [(layer, method.for_layer(layer)(layer, **method.per_layer(path, **options)))
           for path, layer in method.among(targets(model, target_modules), **options)]
    if hasattr(method, "share"):
        method.share([adapter for _, adapter in new])
    return new


def _put_on(layer, name, adapter, model):
    if not hasattr(layer, "adapters"):
        layer.adapters, layer.switch = nn.ModuleDict().train(layer.training), model.switch
        layer.hooks = (layer.register_forward_pre_hook(_before), layer.register_forward_hook(_after))
    device = next((p.device for p in layer._parameters.values() if p is not None), next(model.parameters()).device)
    layer.adapters[name] = adapter.to(device).train(model.training)


def detach(model, keep_merged=False):
    """Take everything off: the base model bit for bit, or with `keep_merged` the merged weights and no adapters."""
    known(model, (), "detach")
    with all_or_nothing(model):
        if model.switch.merged and not keep_merged:
            unmerge(model)
        was_trainable = model.switch.was_trainable
        for _, layer in adapted(model):
            _strip(layer)
        virtual_tokens.take_off(model)
        if hasattr(model, "switch"):                         # gone already if the model itself was an adapted layer
            del model.switch
        for n, p in model.named_parameters():
            p.requires_grad_(n in was_trainable)
        attention.unhook(model)
    return model


def _strip(layer):
    """Take all that we put on a layer off it."""
    for handle in layer.hooks:
        handle.remove()
    for extra in ("adapters", "switch", "hooks", "unmerged"):
        if hasattr(layer, extra):
            delattr(layer, extra)


def forget(model, name):
    """Take the one adapter `name` off the model."""
    known(model, [name], "forget")
    with all_or_nothing(model):
        for _, layer in adapted(model, name):
            del layer.adapters[name]
            if not layer.adapters:
                _strip(layer)
        virtual_tokens.forget(model, name)
        del model.switch.recipe[name]
        model.switch.active = tuple(n for n in model.switch.active if n != name)
