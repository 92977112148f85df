"""NF4: sixteen levels for weights that look normal, one scale for each block of 64 (QLoRA, arXiv 2305.14314).

A weight w is stored as the number of the level nearest to w / max|block|: 4 bits, and 32 bits a block for the maximum,
0.5 bit a weight. Double quantisation stores the maxima themselves in 8 bits, 256 to a scale, 0.127 bit a weight.
Levels, codes, their order in a byte and double quantisation are those of bitsandbytes, whose numbers tests/golden holds, but in
a block of zeros: it divides zero by zero there and stores the level -1, which double quantisation then makes not quite zero.
The base is frozen; adapters on it compute in float32 and see the weight it really uses.
"""
import torch
import torch.nn.functional as F
from torch import nn

from peftlab.adapter import is_conv1d
from peftlab.layers import targets
from peftlab.switch import switch_of

BLOCK, DOUBLE_BLOCK = 64, 256


def levels():
    """The 16 levels in [-1, 1]: quantiles of the normal distribution, eight above zero, seven below, and zero itself."""
    edge = (1 - 1 / 32 + 1 - 1 / 30) / 2                     # the outermost quantile: neither infinite nor arbitrary
    up = torch.special.ndtri(torch.linspace(edge, 0.5, 9, dtype=torch.float64)[:-1])
    down = -torch.special.ndtri(torch.linspace(edge, 0.5, 8, dtype=torch.float64)[:-1])
    every = torch.cat([up, down, torch.zeros(1, dtype=torch.float64)]).sort().values
    return (every / every.max()).float()                                              # (16,)


def dynamic_levels():
    """The 256 levels in (-1, 1] of bitsandbytes' dynamic 8-bit code, which lie the closer the smaller they are.

    Zero, one, and of either sign the middles of 2^i equal parts of [0.1, 1], times 10^(i - 6), for i from 0 to 6.
    """
    ends = [torch.linspace(0.1, 1, 2**i + 1) for i in range(7)]
    up = torch.cat([10.0 ** (i - 6) * (e[:-1] + e[1:]) / 2 for i, e in enumerate(ends)])
    return torch.cat([-up, up, torch.tensor([0.0, 1.0])]).sort().values               # (256,)


def quantize(W, block=BLOCK, levels=levels):
    """`W` of any shape as (codes, absmax): uint8 numbers of levels, one a weight, and the largest |w| of each block.

    Both are flat, in the order of the rows; the last block may be shorter. `levels` gives the levels, ascending.
    """
    flat = F.pad(W.detach().float().flatten(), (0, -W.numel() % block)).view(-1, block)         # (blocks, block)
    absmax = flat.abs().amax(1)                                                                 # (blocks,)
    scaled = flat / absmax.clamp(min=1e-30)[:, None]
    edges = (levels()[1:] + levels()[:-1]) / 2                                                  # halfway
    return torch.bucketize(scaled, edges.to(scaled.device)).to(torch.uint8).flatten()[:W.numel()], absmax


def dequantize(codes, absmax, shape, block=BLOCK, levels=levels):
    """The weight that (codes, absmax) stand for, float32, of `shape`."""
    values = levels().to(codes.device)[codes.int()]
    values = F.pad(values, (0, -len(values) % block)).view(-1, block) * absmax[:, None]
    return values.flatten()[:len(codes)].view(shape)


def pack(codes):
    """Two codes to a byte, the first of them in its high four bits."""
    codes = F.pad(codes, (0, len(codes) % 2))
    return codes[::2] << 4 | codes[1::2]


def unpack(packed, n):
    return torch.stack([packed >> 4, packed & 15], 1).flatten()[:n]


class NF4Linear(nn.Linear):
    """A frozen linear layer whose weight is stored in NF4 and computed anew whenever it is needed."""

    def __init__(self, layer, double=True):
        nn.Module.__init__(self)
        W = layer.weight.T if is_conv1d(layer) else layer.weight                      # (d_out, d_in)
        self.out_features, self.in_features = W.shape
        codes, absmax = quantize(W)
        self.register_buffer("packed", pack(codes))                                   # (d_out d_in / 2,) uint8
        if double:
            self.register_buffer("mean", absmax.mean())
            eighths, scale = quantize(absmax - self.mean, DOUBLE_BLOCK, dynamic_levels)
            self.register_buffer("scale", scale)                                      # (blocks / 256,)
            self.register_buffer("absmax", eighths)                                   # (blocks,) uint8
        else:
            self.register_buffer("absmax", absmax)                                    # (blocks,) float32
        bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        self.register_parameter("bias", bias)

    @property
    def weight(self):
        """The weight this layer computes with, (d_out, d_in)."""
        absmax = self.absmax
        if "mean" in self._buffers:                          # double quantisation
            absmax = dequantize(absmax, self.scale, absmax.shape, DOUBLE_BLOCK, dynamic_levels) + self.mean
        codes = unpack(self.packed, self.out_features * self.in_features)
        return dequantize(codes, absmax, (self.out_features, self.in_features))

    def forward(self, x):
        y = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, nf4"


class _Product(torch.autograd.Function):
    """x W': keeps nothing for the backward pass but the layer, which makes its weight again."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return F.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ ctx.layer.weight.to(gradient.dtype), None


def quantize_model(model, target_modules="all-linear", double=True):
    """Replace the linear layers that `target_modules` names (as in `attach`) by NF4Linear, in place; returns the model.

    Do this before you attach adapters. Raises ValueError if there are adapters, or if a weight is shared.
    """
    if switch_of(model):
        raise ValueError("quantize the base before you attach adapters: detach first")
    found = targets(model, target_modules)
    uses = [id(p) for layer in model.modules() for p in layer._parameters.values()]
    for path, layer in found:
        if not (isinstance(layer, nn.Linear) or is_conv1d(layer)):
            raise ValueError(f"{path} is a {type(layer).__name__}: only linear layers are stored in NF4")
        if uses.count(id(layer.weight)) > 1:
            raise ValueError(f"{path} shares its weight with another layer (tied embeddings): leave it out")
    for path, layer in found:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, NF4Linear(layer, double))
    return model


def dequantize_model(model):
    """Turn every NF4Linear into an ordinary linear layer, in place, with the weight it computed with; returns the model.

    Adapters stay on and give what they gave: they were trained beside this weight, so it is what `merge` should merge into.
    The weight from before quantisation does not come back.
    """
    for layer in model.modules():
        if isinstance(layer, NF4Linear):
            W = layer.weight
            for name in list(layer._buffers):
                delattr(layer, name)
            layer.__class__ = nn.Linear                      # the same object, so that hooks and adapters stay where they are
            layer.weight = nn.Parameter(W, requires_grad=False)
    return model
