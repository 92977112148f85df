"""DeLoRA: y = W x + (lambda / r) B N A (w * x), N = 1 / (|a_i| |b_i|), w the norms of W's columns (arXiv 2503.18225).

Every rank-one piece has length lambda / r, so the update is bounded by one learnt number. Trains r (d_in + d_out) + 1
parameters a layer; starts as the base model (B = 0); can be merged.
"""
import torch
import torch.nn.functional as F
from torch import nn

from peftlab.adapter import Adapter, Format, linear


class DeLoRA(Adapter):
    """y = W x + (lambda / r) B N A (w * x)"""

    in_peft = Format("DELORA")
    keys = {k: k for k in ("delora_A", "delora_B", "delora_lambda", "delora_w_norm")}

    def __init__(self, layer, r=8, delora_lambda=15):
        super().__init__(layer)
        d_in, d_out = linear(layer)
        self.delora_A = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(r, d_in), a=5 ** 0.5))    # (r, d_in)
        self.delora_B = nn.Parameter(torch.zeros(d_out, r))                                         # (d_out, r)
        self.delora_lambda = nn.Parameter(torch.tensor([float(delora_lambda)]))                     # (1,)
        self.register_buffer("delora_w_norm", self.weight.norm(dim=0))                              # (d_in,)
        self.r = r

    def after(self, x, y):
        length = self.delora_A.norm(dim=1).clamp(min=1e-4) * self.delora_B.norm(dim=0).clamp(min=1e-4)    # (r,)
        h = F.linear(x * self.delora_w_norm, self.delora_A) * (self.delora_lambda / self.r / length)      # (..., r)
        return y + F.linear(h, self.delora_B)

    @staticmethod
    def count(d_in, d_out, r=8, **options):
        return r * (d_in + d_out) + 1
