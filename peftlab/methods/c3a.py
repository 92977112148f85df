"""C3A: y = W x + C x / d_in, C made of circulant blocks of width b (Chen et al., arXiv 2407.19342).

A circulant block is one row, shifted: a convolution around a circle, done by the Fourier transform, of full rank. Trains
d_in d_out / b parameters a layer. By default it does not start as the base model; init_weights=True does. Can be merged.
"""
import torch
from torch import nn, zeros
from torch.fft import irfft, rfft

from peftlab.adapter import Adapter, Format, linear


class C3A(Adapter):
    """y = W x + C x / d_in

    The transform of x waits for the backward pass; `peft` has one of its own that makes it again.
    """

    keys = {"c3a_kernel": "c3a_kernel"}
    in_peft = Format("C3A")

    def __init__(self, layer, block_size=256, init_weights="xavier_uniform"):
        super().__init__(layer)
        (d_in, d_out), b = linear(layer), block_size
        if d_in % b or d_out % b:
            raise ValueError(f"block_size {b} must divide the layer's {d_in} inputs and its {d_out} outputs")
        if init_weights not in (True, "xavier_uniform"):
            raise ValueError(f"init_weights is True (zeros) or 'xavier_uniform', not {init_weights!r}")
        self.c3a_kernel = nn.Parameter(zeros(d_out // b, d_in // b, b))               # (blocks out, blocks in, b)
        if init_weights is not True:
            nn.init.uniform_(self.c3a_kernel, -(a := (6 / (d_in + d_out)) ** 0.5), a)

    def after(self, x, y):
        b = self.c3a_kernel.shape[-1]
        waves = torch.einsum("...nf,mnf->...mf", rfft(x.unflatten(-1, (-1, b))), rfft(self.c3a_kernel).conj())
        return y + irfft(waves, n=b).flatten(-2) / self.shape[0]

    @staticmethod
    def count(d_in, d_out, block_size=256, **options):
        return d_in * d_out // block_size
