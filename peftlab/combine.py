"""Add LoRA adapters up: the exact weighted sum of their updates is a LoRA again, of as many ranks as they have together.

A sum of products is one product of wider matrices: w1 s1 B1 A1 + w2 s2 B2 A2 = [w1 s1 B1, w2 s2 B2] [A1; A2]. Adding A and
B each on their own, as `combination_type="linear"` of `peft` does, gives B1 A2 and B2 A1 as well: another matrix. A rank below
that of the sum costs something; the truncated SVD is the nearest there is.
"""
import math
from collections import Counter
from functools import reduce

import torch

from peftlab.adapter import FullFineTuning
from peftlab.attach import put_on
from peftlab.layers import adapted, ends_in, unwrapped
from peftlab.methods import DoRA, LoRA, PiSSA
from peftlab.switch import all_or_nothing, known, refuse_if_merged


@torch.no_grad()
def combine(model, adapters, weights=None, name="combined", r=None):
    """Put beside the LoRA adapters `adapters` a new one, `name`: the sum of their updates, each times its weight; it is
    switched on. Returns the share of the sum's Frobenius norm, over all layers, that `r` cost: 0.0 without one.

    weights: one finite number for each adapter, below zero to subtract it; 1 for each, if not given.
    r: cut each layer's sum to that rank by truncated SVD. Without it the ranks add up and the sum is exact.
    Ranks, alphas, rsLoRA and the layers may differ from adapter to adapter. Dropout is no part of the new adapter.
    Raises ValueError or TypeError, and leaves the model as it was, for what has no exact sum: other methods, biases or copies
    of layers trained along, adapters that are merged; and for names, weights or an `r` that make no sense.
    """
    whole = unwrapped(model)
    weighted = _weighted(whole, adapters, weights)
    if r is not None and (type(r) is not int or r < 1):
        raise ValueError(f"r is the rank to cut to, a whole number from 1 up, and not {r!r}")
    layers, sums = [], {}
    for path, layer in adapted(whole):
        here = [(weight, layer.adapters[one]) for one, weight in weighted if one in layer.adapters]
        if here:
            layers.append((path, layer))
            sums[path] = _stacked(here)
    off = total = 0.0
    for path in sums if r is not None else ():
        *sums[path], squares_off, squares = _cut(*sums[path], r)
        off, total = off + squares_off, total + squares
    with all_or_nothing(whole):
        _put(whole, layers, sums, name)
    return math.sqrt(off / total) if total else 0.0


def _weighted(model, adapters, weights):
    """[(name, weight)]; ValueError or TypeError where a name, a number or an adapter does not do."""
    if isinstance(adapters, str):
        raise TypeError(f"combine wants a list of names and got the single name {adapters!r}: write [{adapters!r}]")
    adapters = known(model, list(adapters), "combine")
    refuse_if_merged(model, "combine")
    if not adapters:
        raise ValueError(f"name the adapters to add up; there are: {', '.join(model.switch.recipe)}")
    if isinstance(weights, int | float):
        raise TypeError(f"combine wants a list of weights, one for each adapter, and got the single number {weights}")
    weights = [1.0] * len(adapters) if weights is None else [float(w) for w in weights]
    if len(weights) != len(adapters):
        raise ValueError(f"{len(adapters)} adapters and {len(weights)} weights: give one weight for each adapter")
    if bad := [w for w in weights if not math.isfinite(w)]:
        raise ValueError(f"a weight is {bad[0]}: give a finite number for each adapter")
    for one in adapters:
        _refuse(model, one)
    return list(zip(adapters, weights))


def _refuse(model, name):
    """Raise ValueError for an adapter that is more, or other, than W + s B A."""
    method = model.switch.recipe[name][0]
    if method is not LoRA:
        why = ": its magnitude multiplies the weight, and two magnitudes have no sum" if method is DoRA \
            else ": make a plain LoRA of it first, peftlab.methods.as_lora" if issubclass(method, PiSSA) else ""
        raise ValueError(f"{name!r} is a {method.__name__}, and only LoRA adapters can be added up exactly{why}")
    for path, layer in adapted(model, name):
        adapter = layer.adapters[name]
        if isinstance(adapter, FullFineTuning):
            raise ValueError(f"{name!r} has a trained copy of {path} (modules_to_save), which cannot be added to another: train "  # noqa: TRY004
                             "such a layer once, leave it in the base, and train the adapters on top of it")
        if getattr(adapter, "bias", None) is not None:
            raise ValueError(f"{name!r} has trained biases (lora_bias): only updates of the form s B A are added up")
        if not all(p.isfinite().all() for p in adapter.parameters()):
            raise ValueError(f"{name!r} holds numbers on {path} that are not finite: the training that made it went wrong")


def _stacked(here):
    """The sum of one layer's (weight, adapter) pairs as A, (ranks, ...), and B, (d_out, ranks, ...)."""
    precision = reduce(torch.promote_types, (p.dtype for _, a in here for p in a.parameters()), torch.float32)
    A = torch.cat([a.lora_A.to(precision) for _, a in here])
    return A, torch.cat([weight * a.scaling * a.lora_B.to(precision) for weight, a in here], 1)


def _cut(A, B, r):
    """The nearest A and B of rank r, and the squared norms of what was cut off and of the whole.

    With B = Q R and Aᵀ = P T, both Q and P orthonormal, the singular values of B A are those of the small matrix R Tᵀ.
    """
    shapes, k = (A.shape[1:], B.shape[2:]), min(r, len(A), A[0].numel(), len(B))
    Q, R = torch.linalg.qr(B.flatten(1).double())
    P, T = torch.linalg.qr(A.flatten(1).double().T)
    U, S, Vh = torch.linalg.svd(R @ T.T, full_matrices=False)
    root, squares = S[:k].sqrt(), S.square()
    near_A, near_B = root[:, None] * (Vh[:k] @ P.T), (Q @ U[:, :k]) * root
    return (near_A.to(A).reshape(k, *shapes[0]), near_B.to(B).reshape(len(B), k, *shapes[1]),
            squares[k:].sum().item(), squares.sum().item())


def _put(model, layers, sums, name):
    """A LoRA of these ranks on these layers, with a scale of one, filled."""
    ranks = {path: len(A) for path, (A, _) in sums.items()}
    [(r, _)] = Counter(ranks.values()).most_common(1)
    odd = [path for path in ranks if ranks[path] != r]       # first the longer of two paths of which one ends in the other
    pattern = {path: ranks[path] for path in sorted(ranks, key=len, reverse=True) if ends_in(path, odd)}
    options = {"r": r, "lora_alpha": r, "rank_pattern": pattern, "alpha_pattern": pattern}
    put_on(model, LoRA, layers, [], name, options, (LoRA, list(ranks), options))
    for path, layer in layers:
        adapter, (A, B) = layer.adapters[name], sums[path]
        adapter.to(A.dtype)
        adapter.lora_A.copy_(A)
        adapter.lora_B.copy_(B)
