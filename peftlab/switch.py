"""Which adapters run now, on which rows of a batch, and in which precision."""
from contextlib import contextmanager

import torch


class Switch:
    """Which adapters run; one object, shared by the model and all its adapted layers."""

    def __init__(self, model):
        self.active = ()                                     # names, in the order in which they run
        self.rows = None                                     # inside `mix`: one name (or None) per example
        self.merged = ()                                     # names that are baked into the weights
        self.inserted = None                                 # where virtual tokens stand in this forward pass
        self.recipe = {}                                     # name -> (method, target_modules, options)
        self.was_trainable = {n for n, p in model.named_parameters() if p.requires_grad}


def running(layer, n):
    """Yield (adapter, rows) for the adapters that run on this layer now; rows None means the whole batch of n."""
    switch = layer.switch
    if switch.rows is None:
        for name in switch.active:
            if name in layer.adapters:
                yield layer.adapters[name], None
        return
    rows = name_of_each_row(switch.rows, n)
    for name in dict.fromkeys(rows):
        if name is not None and name in layer.adapters:
            yield layer.adapters[name], [i for i, row in enumerate(rows) if row == name]


def name_of_each_row(rows, n):
    """One name per row of a batch of n, where beam search repeats each example n / len(rows) times."""
    if n % len(rows):
        raise ValueError(f"mix got {len(rows)} names for a batch of {n} rows: give one name, or None, per example")
    return [row for row in rows for _ in range(n // len(rows))]


def put_rows(whole, rows, part):
    """`whole` with `part` in its rows."""
    return whole.index_put((torch.tensor(rows, device=whole.device),), part)


def in_its_precision(adapter, t):
    """`t` in the adapter's precision, so that a bfloat16 base can carry float32 adapters; token ids stay integers."""
    for p in adapter.parameters():
        return t.to(p.dtype) if t.is_floating_point() else t
    return t


def known(model, names, verb):
    """The names, if the model has adapters and each of these is one; else ValueError, naming those there are."""
    if not hasattr(model, "switch"):
        raise ValueError(f"this model has no adapters: call attach before {verb}")
    for name in names:
        if name not in model.switch.recipe:
            raise ValueError(f"no adapter is called {name!r}; there are: {', '.join(model.switch.recipe)}")
    return names


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
    switch = dict(vars(model.switch), recipe=dict(model.switch.recipe)) if hasattr(model, "switch") else None
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
        if switch is not None:
            vars(model.switch).update(switch)
        raise
