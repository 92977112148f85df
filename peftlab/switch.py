"""Which adapters run now, on which rows of a batch, and in which precision."""
from contextlib import contextmanager

import torch


class Switch:
    """Which adapters run; one object, shared by the model and all its adapted layers."""

    def __init__(self, model):
        self.active = ()                                     # names, in the order in which they run
        self.rows = None                                     # inside `mix`: one name (or None) per example
        self.batch = None                                    # inside `mix` and a forward pass: how many rows it has
        self.searching = False                               # inside `mix` and `generate`, which may repeat examples
        self.merged = ()                                     # names that are baked into the weights
        self.inserted = None                                 # where virtual tokens stand in this forward pass
        self.recipe = {}                                     # name -> (method, target_modules, options)
        self.layers = {}                                     # name -> {path: size} of the layers it was put on
        self.was_trainable = {n for n, p in model.named_parameters() if p.requires_grad}


def switch_of(model):
    """The switch of a model, or None if it has no adapters."""
    switch = getattr(model, "switch", None)
    return switch if isinstance(switch, Switch) else None    # a model may have something of that name itself


def running(layer, n):
    """Yield (adapter, rows) for the adapters that run on this layer now; rows None means the whole batch of n."""
    switch = layer.switch
    if switch.rows is None:
        for name in switch.active:
            if name in layer.adapters:
                yield layer.adapters[name], None
        return
    rows = name_of_each_row(switch, n)
    for name in dict.fromkeys(rows):
        if name is not None and name in layer.adapters:
            yield layer.adapters[name], [i for i, row in enumerate(rows) if row == name]


def name_of_each_row(switch, n):
    """One name per row of a batch of n; inside `generate`, beams repeat each example n / len(rows) times."""
    rows = switch.rows
    batch = len(rows) if switch.batch is None else switch.batch
    if batch != len(rows) and (batch % len(rows) or not switch.searching):
        raise ValueError(f"mix got {len(rows)} names for a batch of {batch} rows: give one name, or None, per example")
    if n != batch:
        raise ValueError(f"what enters this layer has {n} rows and the batch has {batch}: which of them belong to which example "
                         "cannot be told. Leave such layers (a vision tower, say) out of target_modules, or switch one adapter "
                         "on for the whole batch with use")
    return [row for row in rows for _ in range(n // len(rows))]


def put_rows(whole, rows, part):
    """`whole` with `part` in its rows."""
    return whole.index_put((torch.tensor(rows, device=whole.device),), part)


def in_its_precision(adapter, t):
    """`t` in the adapter's precision, so that a bfloat16 base can carry float32 adapters; token ids stay integers."""
    for own in (*adapter.parameters(), *adapter.buffers()):  # one that only shares a parameter has buffers
        if own.is_floating_point():
            return t.to(own.dtype) if t.is_floating_point() else t
    return t


def known(model, names, verb):
    """The names, if the model has adapters and each of these is one; else ValueError, naming those there are."""
    if switch_of(model) is None:
        raise ValueError(f"this model has no adapters: call attach before {verb}")
    for name in names:
        if name not in model.switch.recipe:
            raise ValueError(f"no adapter is called {name!r}; there are: {', '.join(model.switch.recipe)}")
        refuse_if_gone(model, name)
    return names


def refuse_if_gone(model, name):
    """Raise ValueError if a layer that carried the adapter is not there any more."""
    there = dict(model.named_modules())
    for path, size in model.switch.layers[name].items():
        if name not in getattr(there.get(path), "adapters", ()) or size_of(there[path]) != size:
            raise ValueError(f"{path} was replaced or resized after the adapter {name!r} was put on it (does "
                             "resize_token_embeddings stand between?), and the adapter does not fit it. Resize first, then attach")


def size_of(layer):
    """The shape of a layer's weight, or None."""
    weight = getattr(layer, "weight", None)
    return tuple(weight.shape) if isinstance(weight, torch.Tensor) else None


def refuse_if_merged(model, verb):
    if model.switch.merged:
        raise ValueError(f"{', '.join(model.switch.merged)} merged into the weights: unmerge before you {verb}")


@contextmanager
def all_or_nothing(model):
    """Inside, an error leaves the model as it was before: modules, hooks, parameters, what is trained and what runs.

    Looks one level deep: what is changed inside must be put in place anew (a new tensor, a new tuple), not overwritten.
    """
    modules = [(m, dict(m.__dict__), [(box, box.copy()) for box in m.__dict__.values() if isinstance(box, (dict, set, list))])
               for m in model.modules()]
    trained = [(p, p.requires_grad) for p in model.parameters()]
    switch = switch_of(model)
    before = switch and {**vars(switch), "recipe": dict(switch.recipe), "layers": dict(switch.layers)}
    try:
        yield
    except BaseException:
        for m, attributes, boxes in modules:
            m.__dict__.clear()
            m.__dict__.update(attributes)
            for box, content in boxes:
                box.clear()
                box.extend(content) if isinstance(box, list) else box.update(content)
        for p, flag in trained:
            p.requires_grad_(flag)
        if switch:
            vars(switch).update(before)
        raise
