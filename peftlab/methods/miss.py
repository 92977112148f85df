"""MiSS: y = W x + D' (x_1 + x_2 + ...), x cut into chunks of r (Kang et al., arXiv 2409.15371).

The update repeats one block D of (r, d_out) along the input. Trains r d_out parameters a layer; starts as the base model
(D = 0); can be merged.
"""
import torch.nn.functional as F
from torch import nn, zeros

from peftlab.adapter import Adapter, Format, linear


class MiSS(Adapter):
    """y = W x + D' sum of the chunks of x"""

    keys = {"miss_block": "miss_block"}
    in_peft = Format("MISS", {"init_weights": True})

    def __init__(self, layer, r=64):
        super().__init__(layer)
        self.r, self.miss_block = r, nn.Parameter(zeros(r, linear(layer)[1]))         # (r, d_out)

    def after(self, x, y):
        x = F.pad(x, (0, -x.shape[-1] % self.r))                                      # to whole chunks
        return y + x.unflatten(-1, (-1, self.r)).sum(-2) @ self.miss_block

    @staticmethod
    def count(d_in, d_out, r=64):
        return r * d_out
