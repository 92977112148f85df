"""Switch adapters on, mix them in one batch, and say what is trained."""
from contextlib import contextmanager

from peftlab import virtual_tokens
from peftlab.layers import adapted
from peftlab.switch import all_or_nothing, known, refuse_if_merged


def parameters(model, name):
    """The trained parameters of the adapter `name`, wherever they sit."""
    found = [p for _, layer in adapted(model, name) for p in layer.adapters[name].parameters()]
    if name in virtual_tokens.on(model):
        found += virtual_tokens.on(model)[name].parameters()
    return list({id(p): p for p in found}.values())


def use(model, *names):
    """Switch on the adapters `names`, in that order, and make them (alone) trainable; no name: the base model."""
    names = tuple(known(model, names, "use"))
    refuse_if_merged(model, "switch adapters")
    virtual_tokens.refuse_two(model, names)
    with all_or_nothing(model):
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
    known(model, [row for row in rows if row is not None], "mix")
    refuse_if_merged(model, "mix adapters")
    if not rows:
        raise ValueError("mix wants one adapter's name, or None, per example, and got an empty list")
    outer, model.switch.rows = model.switch.rows, rows
    try:
        yield
    finally:
        model.switch.rows = outer
