"""LoHa: y = W x + s [(A1 B1) * (A2 B2)] x, * elementwise, s = alpha / r (FedPara, Hyeon-Woo et al., arXiv 2108.06098).

The elementwise product of two matrices of rank r can have rank r^2. Trains 2 r (d_in + d_out) parameters a layer; starts
as the base model, since one factor is zero; can be merged.
"""
import torch.nn.functional as F
from torch import empty, nn, zeros

from peftlab.adapter import Adapter, Format, linear


class LoHa(Adapter):
    """y = W x + s [(A1 B1) * (A2 B2)] x

    Both factors, d_in d_out numbers each, wait for the backward pass; `peft` has one of its own that makes them again.
    """

    in_peft = Format("LOHA")
    keys = {k: k for k in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")}

    def __init__(self, layer, r=8, alpha=8):
        super().__init__(layer)
        d_in, d_out = linear(layer)
        self.hada_w1_a = nn.Parameter(nn.init.kaiming_uniform_(empty(d_out, r), a=5 ** 0.5))    # (d_out, r)
        self.hada_w1_b = nn.Parameter(nn.init.kaiming_uniform_(empty(r, d_in), a=5 ** 0.5))     # (r, d_in)
        self.hada_w2_a = nn.Parameter(nn.init.kaiming_uniform_(empty(d_out, r), a=5 ** 0.5))    # (d_out, r)
        self.hada_w2_b = nn.Parameter(zeros(r, d_in))                                           # (r, d_in)
        self.scaling = alpha / r

    def after(self, x, y):
        update = (self.hada_w1_a @ self.hada_w1_b) * (self.hada_w2_a @ self.hada_w2_b)          # (d_out, d_in)
        return y + self.scaling * F.linear(x, update)

    @staticmethod
    def count(d_in, d_out, r=8, **options):
        return 2 * r * (d_in + d_out)
