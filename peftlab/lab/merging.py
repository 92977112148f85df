"""Updates of several adapters made one: what `peft` calls linear, TIES (arXiv 2306.01708) and DARE (2311.03099), a layer at a time.

An update is {path: (d_out, d_in)}, s B A of each adapted layer; the adapters are LoRAs.
"""

from contextlib import contextmanager

import torch

from peftlab.layers import adapted


@torch.no_grad()
def factors(model, name):
    """{path: (A, B, s)} of a LoRA on a model."""
    return {path: (layer.adapters[name].lora_A.detach().clone(), layer.adapters[name].lora_B.detach().clone(),
                   layer.adapters[name].scaling) for path, layer in adapted(model, name)}  # fmt: skip


def update_of(adapter):
    """{path: s B A}."""
    return {path: s * B @ A for path, (A, B, s) in adapter.items()}


def weighted_sum(updates, weights):
    """{path: sum of weight times update}."""
    return {path: sum(w * u[path] for u, w in zip(updates, weights)) for path in updates[0]}


def linear(adapters, weights):
    """{path: update} as `combination_type="linear"` makes it: A and B are each added up, then multiplied."""
    found = {}
    for path in adapters[0]:
        A = B = 0
        for adapter, w in zip(adapters, weights):
            a, b, s = adapter[path]
            root = abs(w * s) ** 0.5
            A, B = A + (root if w * s >= 0 else -root) * a, B + root * b
        found[path] = B @ A
    return found


def cut(update, r):
    """{path: the nearest matrix of rank r}."""
    found = {}
    for path, u in update.items():
        U, S, Vh = torch.linalg.svd(u, full_matrices=False)
        found[path] = U[:, :r] * S[:r] @ Vh[:r]
    return found


def ties(updates, density):
    """Trim each update to its largest entries, elect a sign at each place, take the mean of those that have it."""
    found = {}
    for path in updates[0]:
        stack = torch.stack([u[path] for u in updates])  # (n, d_out, d_in)
        k = int(density * stack[0].numel())
        smallest = stack.abs().flatten(1).topk(k).values[:, -1]
        trimmed = stack * (stack.abs() >= smallest[:, None, None])
        agree = (trimmed.sign() == trimmed.sum(0).sign()) & (trimmed != 0)
        found[path] = (trimmed * agree).sum(0) / agree.sum(0).clamp(min=1)
    return found


def dare(update, p, generator):
    """Drop each entry with probability p, divide the rest by 1 - p."""
    return {path: u * (torch.rand(u.shape, generator=generator) >= p) / (1 - p) for path, u in update.items()}


def cosine(one, other):
    """The cosine of two updates, as vectors of all their entries."""
    dot, a, b = (sum(float((x[path] * y[path]).sum()) for path in one) for x, y in ((one, other), (one, one), (other, other)))
    return dot / (a * b) ** 0.5


def distance(one, other):
    """The norm of the difference of two updates as a share of the norm of the second."""
    gap = sum(float((one[path] - other[path]).square().sum()) for path in other)
    return (gap / sum(float(u.square().sum()) for u in other.values())) ** 0.5


@contextmanager
@torch.no_grad()
def changed_by(model, update):
    """Inside, the weights of the layers hold the update; afterwards they are what they were, bit for bit."""
    kept = {path: model.get_submodule(path).weight.detach().clone() for path in update}
    try:
        for path, u in update.items():
            model.get_submodule(path).weight.add_(u)
        yield model
    finally:
        for path, weight in kept.items():
            model.get_submodule(path).weight.copy_(weight)
