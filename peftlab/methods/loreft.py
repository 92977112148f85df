"""LoReFT: y = h + Rᵀ (W h + b - R h), h = layer(x), R R^T = 1: edit what a block says, in r directions of it
(Wu et al., arXiv 2404.03592).

Trains r (2 d + 1) parameters a place. The paper edits a few first and last tokens; this edits all. It starts near the base
model, not at it. On a linear layer it can be merged, on a block it can't. `peft` does not have it.
"""
import torch
import torch.nn.functional as F
from torch import nn

from peftlab.adapter import Adapter, shape


class LoReFT(Adapter):
    """y = h + R^T (W h + b - R h), h = layer(x)"""

    keys = {"source.weight": "reft_source.weight", "source.bias": "reft_source.bias", "rotate": "reft_rotate"}

    def __init__(self, layer, r=4):
        super().__init__(layer)
        d = shape(layer)[1]
        if r > d:
            raise ValueError(f"r is {r}: there are no more than {d} directions in what this layer says")
        self.source = nn.Linear(d, r)                                                 # W (r, d) and b
        self.rotate = nn.Parameter(nn.init.orthogonal_(torch.empty(r, d)))            # its rows span what those of R do

    def after(self, x, y):
        R = torch.linalg.qr(self.rotate.T).Q.T                                        # (r, d), orthonormal rows
        return y + F.linear(self.source(y) - F.linear(y, R), R.T)

    @staticmethod
    def count(d_in, d_out, r=4):
        return r * (2 * d_out + 1)
