"""Switch adapters on, mix them in one batch, and say what is trained."""
import inspect
from contextlib import contextmanager
from functools import wraps

import torch

from peftlab import virtual_tokens
from peftlab.layers import adapted, unwrapped
from peftlab.switch import all_or_nothing, known, refuse_if_merged


def parameters(model, name):
    """The trained parameters of the adapter `name`, wherever they sit."""
    found = [p for _, layer in adapted(model, name) for p in layer.adapters[name].parameters()]
    if name in virtual_tokens.on(model):
        found += virtual_tokens.on(model)[name].parameters()
    return list({id(p): p for p in found}.values())


def use(model, *names):
    """Switch on the adapters `names`, in that order, and make them (alone) trainable; no name: the base model."""
    model = unwrapped(model)
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

    With gradient checkpointing keep `backward()` inside the block as well, since it runs the layers again. Raises ValueError
    where an adapted layer is not given the batch in its first dimension, so that its rows cannot be told apart.
    """
    model, rows = unwrapped(model), list(rows)
    known(model, [row for row in rows if row is not None], "mix")
    refuse_if_merged(model, "mix adapters")
    if not rows:
        raise ValueError("mix wants one adapter's name, or None, per example, and got an empty list")
    for path, _ in adapted(model):
        if _batch_second(model, path):
            raise ValueError(f"{path} is given the batch in its second dimension (batch_first=False): its rows cannot be mixed")
    outer, model.switch.rows = model.switch.rows, rows
    handles = (model.register_forward_pre_hook(_count_rows, with_kwargs=True, prepend=True),
               model.register_forward_hook(_forget_rows, always_call=True))
    try:
        with _searches_noted(model):
            yield
    finally:
        model.switch.rows = outer
        for handle in handles:
            handle.remove()


@contextmanager
def _searches_noted(model):
    """Inside, the switch knows whether `generate` runs: only there may a batch be a multiple of the names given."""
    generate, own = getattr(model, "generate", None), "generate" in vars(model)
    if generate is None:
        yield
        return

    @wraps(generate)
    def noted(*args, **kw):
        model.switch.searching = True
        try:
            return generate(*args, **kw)
        finally:
            model.switch.searching = False

    model.generate = noted
    try:
        yield
    finally:
        del model.generate
        if own:
            model.generate = generate


def _count_rows(model, args, kw):
    """Note how many rows a forward pass has; only token ids may be repeated, for the beams of a search."""
    given = {**dict(zip(inspect.signature(model.forward).parameters, args)), **kw}
    names = ("input_ids", "decoder_input_ids", "inputs_embeds", getattr(model, "main_input_name", ""), *given)
    text = next((given[name] for name in names if isinstance(given.get(name), torch.Tensor)), None)
    if text is not None:
        ids = text.dim() == 2 and not text.is_floating_point()
        model.switch.batch = len(text) if ids or len(text) % len(model.switch.rows) else len(model.switch.rows)


def _forget_rows(model, args, out):
    model.switch.batch = None


def _batch_second(model, path):
    """Whether a module around this layer says that it takes the batch second."""
    around = [model.get_submodule(path.rsplit(".", i)[0]) for i in range(1, path.count(".") + 1)] + [model]
    return any(getattr(m, "batch_first", True) is False for block in around for m in (block, *block.children()))
