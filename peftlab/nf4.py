"""NF4: sixteen levels for weights that look normal, one scale for each block of 64 (QLoRA, arXiv 2305.14314).

A weight w is stored as the number of the level nearest to w / max|block|: 4 bits, and 32 bits a block for the maximum,
0.5 bit a weight. Double quantisation stores the maxima themselves in 8 bits, 256 to a scale, 0.127 bit a weight.
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


def quantize(W, block=BLOCK):
    """`W` of any shape as (codes, absmax): uint8 numbers of levels, one a weight, and the maximum of each block.

    Both are flat; the last block is filled up with zeros.
    """
    flat = F.pad(W.detach().float().flatten(), (0, -W.numel() % block)).view(-1, block)         # (blocks, block)
    absmax = flat.abs().amax(1)                                                                 # (blocks,)
    scaled = flat / absmax.clamp(min=1e-30)[:, None]
    edges = (levels()[1:] + levels()[:-1]) / 2                                                  # (15,) halfway
    return torch.bucketize(scaled, edges.to(scaled.device)).to(torch.uint8).flatten()[:W.numel()], absmax


def dequantize(codes, absmax, shape, block=BLOCK):
    """The weight that (codes, absmax) stand for, float32, of `shape`."""
    values = levels().to(codes.device)[codes.int()]
    values = F.pad(values, (0, -len(values) % block)).view(-1, block) * absmax[:, None]
    return values.flatten()[:len(codes)].view(shape)


def pack(codes):
    """Two codes to a byte."""
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
            rest = F.pad(absmax - self.mean, (0, -len(absmax) % DOUBLE_BLOCK)).view(-1, DOUBLE_BLOCK)
            self.register_buffer("scale", rest.abs().amax(1) / 127)                   # (blocks / 256,)
            eighths = (rest / self.scale.clamp(min=1e-30)[:, None]).round().to(torch.int8)
            self.register_buffer("absmax", eighths.flatten()[:len(absmax)])           # (blocks,) int8
        else:
            self.register_buffer("absmax", absmax)                                    # (blocks,) float32
        self.double = double
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)

    @property
    def weight(self):
        """The weight this layer computes with, (d_out, d_in)."""
        absmax = self.absmax
        if self.double:
            scale = self.scale.repeat_interleave(DOUBLE_BLOCK)[:len(absmax)]
            absmax = absmax * scale + self.mean
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
