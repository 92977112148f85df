"""What an adapter costs: parameters, bytes and multiplications, in closed form and as measured."""
from dataclasses import dataclass

import torch

from peftlab.adapter import FullFineTuning
from peftlab.layers import WHERE, copied, targets, unwrapped
from peftlab.switch import refuse_if_gone, switch_of
from peftlab.virtual_tokens import VirtualTokens, text_config


@dataclass(frozen=True)
class Count:
    """Parameters, and the bytes that training with AdamW holds beside the activations."""

    trainable: int
    total: int
    weights: int            # bytes
    gradients: int          # bytes: one number per trained parameter
    optimizer: int          # bytes: AdamW keeps two numbers per trained parameter

    @property
    def fraction(self):
        """The trained share of all parameters, between 0 and 1."""
        return self.trainable / self.total if self.total else 0.0

    def __repr__(self):
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({self.fraction:.3%})"

    def _repr_html_(self):
        rows = (("trained parameters", f"{self.trainable:,}"), ("all parameters", f"{self.total:,}"),
                ("trained share", f"{self.fraction:.3%}"), ("weights", _mib(self.weights)),
                ("gradients", _mib(self.gradients)), ("AdamW's states", _mib(self.optimizer)))
        return "<table>" + "".join(f"<tr><th>{k}</th><td style='text-align:right'>{v}</td></tr>" for k, v in rows) \
            + "</table>"


def _mib(n):
    return f"{n / 2**20:,.2f} MiB"


def count(model):
    """Count a model's parameters, shared ones once, and the bytes of weights, gradients and AdamW's states.

    Raises ValueError if a layer that carried an adapter was replaced since: what was trained there is gone.
    """
    whole = unwrapped(model)
    for name in whole.switch.recipe if switch_of(whole) else ():
        refuse_if_gone(whole, name)
    ps = list(model.parameters())                            # torch lists a shared parameter once
    trained = [p for p in ps if p.requires_grad]
    size = sum(p.numel() * p.element_size() for p in trained)
    return Count(sum(p.numel() for p in trained), sum(p.numel() for p in ps),
                 sum(p.numel() * p.element_size() for p in ps), size, 2 * size)


def closed_form(model, method, target_modules=None, modules_to_save=None, **options):
    """The number of parameters that `attach` with these arguments will train, without attaching.

    Uses the layers' shapes alone, so it works for models on the "meta" device too.
    """
    where = {k: options.pop(k) for k in WHERE if k in options}
    layers = None if issubclass(method, VirtualTokens) else targets(model, target_modules, **where)
    return count_on(model, method, layers, copied(model, modules_to_save), **options)


def count_on(model, method, layers, copies, **options):
    """The same for (path, layer) pairs, None for virtual tokens, and copies of such pairs."""
    copies = sum(FullFineTuning.count_layer(layer) for _, layer in copies)
    if layers is None:
        return copies + method.count(text_config(model.config), **options)
    layers = method.among(layers, **options)
    return copies + method.count_shared(len(layers), **options) \
        + sum(method.count_layer(layer, **method.per_layer(path, **options)) for path, layer in layers)


def saved_activations(model, **batch):
    """Bytes that one forward pass keeps for the backward pass, beside the parameters themselves. Measured.

    Each storage counts once. Trains nothing, leaves no gradient.
    """
    weights = {p.untyped_storage()._cdata for p in model.parameters()}                # _cdata: also on "meta"
    kept = {}

    def pack(t):
        for part in (t._indices(), t._values()) if t.is_sparse else (t,):
            storage = part.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = (storage.nbytes(), part.detach())  # held, or its address is used again
        return t.detach()                                    # an operation that keeps its own output would hold itself for ever

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = model(**batch)
    del out
    return sum(n for n, _ in kept.values())


def multiplications(model, **batch):
    """(forward, backward): the multiplications of one training step on `batch`. Counted, not timed.

    Counts matrix products and attention; a backward pass through frozen layers computes no gradient for their weights.
    """
    from torch.utils.flop_counter import FlopCounterMode
    grads = [p.grad for p in model.parameters()]
    for p in model.parameters():
        p.grad = None                                        # or backward would add to what is there
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        out = model(**batch)
        loss = out.loss if getattr(out, "loss", None) is not None else next(iter(out.values())).sum()
        forward = counter.get_total_flops()
        if loss.requires_grad:
            loss.backward()
    for p, g in zip(model.parameters(), grads):
        p.grad = g
    return forward // 2, (counter.get_total_flops() - forward) // 2       # a FLOP count has an addition to each product


def linear_multiplications(tokens, d_in, d_out, trained=False, input_needs_gradient=True):
    """(forward, backward) multiplications of one linear layer on `tokens` rows, in closed form.

    Forward x W, backward the gradient of x (if something before the layer is trained) and that of W (if it is trained).
    """
    one = tokens * d_in * d_out
    return one, one * (int(trained) + int(input_needs_gradient))
