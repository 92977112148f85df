"""Bake adapters into the weights and take them out again.

No method has merging code of its own: what a layer with its adapters does to the zero vector and to the basis
vectors *is* its bias and its weight, if it is affine at all.
"""
import warnings

import torch
from torch import nn

from peftlab.adapter import is_conv1d
from peftlab.layers import adapted, unwrapped
from peftlab.switch import all_or_nothing, in_its_precision, known, refuse_if_merged, switch_of
from peftlab.use import use
from peftlab.virtual_tokens import on


def merge(model):
    """Bake the active adapters into the weights (computed in float32) and switch them off; a copy of what was is kept.

    What it merges into is the weights the model has. Those in 4 bits can hold no update: nf4.dequantize_model comes first.
    Raises ValueError, and changes nothing, if an active adapter is not affine, a weight is shared with other layers, or
    stored in fewer bits than a number has.
    """
    model = unwrapped(model)
    names = known(model, model.switch.active if switch_of(model) else (), "merge")
    refuse_if_merged(model, "merge")
    if not names:
        raise ValueError("no adapter is switched on: call use(model, name) before merge(model)")
    if any(name in on(model) for name in names):
        raise ValueError("virtual tokens are read beside your text, they change no weight: they cannot be merged")
    if model.switch.rows is not None:
        raise ValueError("leave the mix block before you merge")
    shared = _shared(model)
    new = []
    for path, layer in adapted(model):
        here = [layer.adapters[n] for n in names if n in layer.adapters]
        if here:
            if any(id(p) in shared for p in layer._parameters.values()):
                raise ValueError(f"{path} shares its weight with another layer (tied embeddings), which merging "
                                 "would change as well: leave this layer out of target_modules")
            new.append((layer, _merged(path, layer, here)))
    gained = [layer for layer, tensors in new if "bias" in tensors and layer._parameters.get("bias") is None]
    if gained:
        warnings.warn(f"{len(gained)} layers without a bias get one by this merge: the model computes right, and save_pretrained "
                      "writes it, but from_pretrained makes the model without it and drops it. Keep the adapter's own file",
                      stacklevel=2)
    with all_or_nothing(model):
        for layer, tensors in new:
            layer.unmerged = dict(layer._parameters)
            for name, t in tensors.items():
                layer._parameters[name] = nn.Parameter(t, requires_grad=False)
        use(model)
        model.switch.merged = names


def unmerge(model):
    """Put back the very tensors that were there before `merge`, and switch the adapters on again."""
    model = unwrapped(model)
    known(model, (), "unmerge")
    if not model.switch.merged:
        raise ValueError("nothing is merged: unmerge undoes merge")
    with all_or_nothing(model):
        for _, layer in adapted(model):
            if hasattr(layer, "unmerged"):
                layer._parameters.update(layer.unmerged)
                del layer.unmerged
        names, model.switch.merged = model.switch.merged, ()
        use(model, *names)


def _shared(model):
    """The ids of parameters that more than one layer uses."""
    seen, shared = set(), set()
    for layer in model.modules():
        for p in layer._parameters.values():
            if p is not None:
                (shared if id(p) in seen else seen).add(id(p))
    return shared


@torch.no_grad()
def _merged(path, layer, adapters):
    """The new parameters of one layer, as {name: tensor} in the layer's own precision and layout."""
    was_training = [a.training for a in adapters]
    try:
        for a in adapters:
            a.eval()                                         # a dropout mask must not end up in the weight
        if isinstance(layer, nn.Linear) or is_conv1d(layer):
            return _merged_linear(path, layer, adapters)
        if isinstance(layer, nn.Embedding):
            return _merged_embedding(path, layer, adapters)
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return _merged_convolution(path, layer, adapters)
        return _merged_norm(path, layer, adapters)
    finally:
        for a, training in zip(adapters, was_training):
            a.train(training)


def _merged_linear(path, layer, adapters):
    if layer._parameters.get("weight") is None:
        raise ValueError(f"{path} stores its weight in 4 bits, which cannot hold what an adapter adds: say into what to merge. "
                         "nf4.dequantize_model(model), then merge: into what these bits stand for, which the adapter was trained "
                         "beside. Into the base from before quantization, or quantized again, it is another model: measure")
    if not layer.weight.is_floating_point():
        raise ValueError(f"{path} stores its weight as {layer.weight.dtype}, which cannot hold what an adapter adds: "
                         "dequantize the model first. Into the base it was quantized from it is another model: measure")
    conv = is_conv1d(layer)
    W = (layer.weight.T if conv else layer.weight).float()                            # (d_out, d_in)
    b = W.new_zeros(len(W)) if layer.bias is None else layer.bias.float()             # (d_out,)

    def f(x):
        for a in adapters:
            x = a.before(in_its_precision(a, x)).float()
        y = x @ W.T + b
        for a in adapters:
            y = a.after(in_its_precision(a, x), in_its_precision(a, y)).float()
        return y

    d_in = W.shape[1]
    bias = f(W.new_zeros(1, d_in))                                                    # what happens to zero
    weight = f(torch.eye(d_in, device=W.device)) - bias                               # row i: what happens to e_i
    x = torch.randn(16, d_in, generator=torch.Generator().manual_seed(0)).to(W.device)
    x[8:] *= 100                                             # what bends a little near zero bends more out there
    _refuse_unless_close(path, adapters, f(x), x @ weight + bias)
    new = {"weight": (weight if conv else weight.T).contiguous().to(layer.weight.dtype)}
    if layer.bias is not None or bias.abs().max() > 1e-6 * (1 + W.abs().max()):
        new["bias"] = bias[0].to(layer.weight.dtype)
    return new


def _merged_embedding(path, layer, adapters):
    """The basis vectors of an embedding are its tokens: ask for the vector of each. Some embeddings scale their weight."""
    ids = torch.arange(layer.num_embeddings, device=layer.weight.device)
    W, before = layer.weight.float(), layer.forward(ids).float()                      # (vocabulary, d)
    scale = (W * before).sum() / (W * W).sum().clamp(min=1e-30)
    _refuse_unless_close(path, adapters, before, scale * W)
    rows = before
    for a in adapters:
        rows = a.after(ids, in_its_precision(a, rows)).float()
    return {"weight": (W + (rows - before) / scale).to(layer.weight.dtype)}


def _merged_convolution(path, layer, adapters):
    """The basis vectors of a convolution are images with one bright point: see what comes out of the window they lie in."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or layer.groups > 1:
        raise ValueError(f"{path} pads in a way, or has groups, for which merging is not built: it cannot be merged")

    def f(x):
        y = layer.forward(x.to(layer.weight.dtype)).float()
        for a in adapters:
            y = a.after(in_its_precision(a, x), in_its_precision(a, y)).float()
        return y

    W = layer.weight.float()                                                          # (out, in, *kernel size)
    start = [-p % s for p, s in zip(layer.padding, layer.stride)]                     # the first window inside the image
    window = [slice(c, None, d) for c, d in zip(start, layer.dilation)]
    size = [c + d * (k - 1) + 1 for c, d, k in zip(start, layer.dilation, layer.kernel_size)]
    there = tuple((c + p) // s for c, p, s in zip(start, layer.padding, layer.stride))
    image = W.new_zeros(W[0].numel(), W.shape[1], *size)
    image[(slice(None), slice(None), *window)] = torch.eye(W[0].numel(), device=W.device).view(-1, *W.shape[1:])
    bias = f(image[:1] * 0)[(0, slice(None), *there)]                                 # (out,): what happens to zero
    weight = (f(image)[(slice(None), slice(None), *there)] - bias).T.reshape(W.shape).contiguous()
    x = torch.randn(4, W.shape[1], *[c + 2 for c in size], generator=torch.Generator().manual_seed(0)).to(W)
    _refuse_unless_close(path, adapters, f(x), layer._conv_forward(x, weight, bias))
    new = {"weight": weight.to(layer.weight.dtype)}
    return new if layer.bias is None else {**new, "bias": bias.to(layer.weight.dtype)}


def _merged_norm(path, layer, adapters):
    """A norm ends in w * n + b, so what can be merged is a factor and a shift for each of its outputs."""
    if getattr(layer, "weight", None) is None or layer.weight.dim() != 1:
        raise ValueError(f"{path} is a {type(layer).__name__}: adapters on it cannot be merged, only those on linear "
                         "layers, embeddings and norms can")
    x = torch.randn(32, len(layer.weight), generator=torch.Generator().manual_seed(0)).to(layer.weight)
    y = seen = layer.forward(x).float()
    for a in adapters:
        _refuse_unless_close(path, adapters, a.before(in_its_precision(a, x)).float(), x.float())
        seen = a.after(in_its_precision(a, x), in_its_precision(a, seen)).float()
    factor, shift = torch.ones_like(y[0]), (seen - y).mean(0)
    if not torch.allclose(seen, y + shift, atol=1e-5):
        factor = ((seen - seen.mean(0)) * (y - y.mean(0))).sum(0) / (y - y.mean(0)).pow(2).sum(0)
        shift = (seen - factor * y).mean(0)
    _refuse_unless_close(path, adapters, seen, factor * y + shift)
    new = {"weight": (factor * layer.weight.float()).to(layer.weight.dtype)}
    if getattr(layer, "bias", None) is not None:
        new["bias"] = (factor * layer.bias.float() + shift).to(layer.bias.dtype)
    elif shift.abs().max() > 1e-5:
        raise ValueError(f"{path} has no bias to hold what the adapter adds: it cannot be merged")
    now = dict(layer._parameters)
    layer._parameters.update(new)                            # some norms multiply by 1 + w: see that ours does by w
    try:
        _refuse_unless_close(path, adapters, seen, layer.forward(x).float())
    finally:
        layer._parameters.update(now)
    return new


def _refuse_unless_close(path, adapters, got, expected):
    error = (got - expected).abs().max() / (1 + got.abs().max())
    if not error < 1e-4:
        names = ", ".join(type(a).__name__ for a in adapters)
        raise ValueError(f"{names} on {path} cannot be merged: what it does is not of the form W x + b "
                         f"(a relative difference of {error:.1e} on random inputs)")
