"""LoKr: y = W x + s (W1 kron W2) x, s = alpha / r (LyCORIS, Yeh et al., arXiv 2309.14859).

d_out = l k and d_in = m n are split as evenly as they can be; W1 is (l, m), W2 is (k, n), or of rank r where that is
smaller. Trains l m + min(k n, r (k + n)) parameters, roughly; starts as the base model (W1 = 0); can be merged.
"""
import torch
import torch.nn.functional as F
from torch import empty, nn, zeros

from peftlab.adapter import Adapter, Format, linear


def split(d, factor=-1):
    """d as a product of two whole numbers: the factor first, where it divides d; else as near to each other as possible, the
    smaller first and not above the factor."""
    if factor > 0 and d % factor == 0:
        return factor, d // factor
    largest = int(d ** 0.5) if factor == -1 else min(factor, int(d ** 0.5))
    small = next(m for m in range(largest, 0, -1) if d % m == 0)
    return small, d // small


class LoKr(Adapter):
    """y = W x + s (W1 kron W2) x"""

    in_peft = Format("LOKR", {"decompose_both": False})

    def __init__(self, layer, r=8, alpha=8, decompose_factor=-1):
        super().__init__(layer)
        d_in, d_out = linear(layer)
        (m, n), (l, k) = split(d_in, decompose_factor), split(d_out, decompose_factor)
        self.lokr_w1 = nn.Parameter(zeros(l, m))                                      # (l, m)
        if r < max(k, n) / 2:
            self.lokr_w2_a = nn.Parameter(nn.init.kaiming_uniform_(empty(k, r), a=5 ** 0.5))    # (k, r)
            self.lokr_w2_b = nn.Parameter(nn.init.kaiming_uniform_(empty(r, n), a=5 ** 0.5))    # (r, n)
        else:
            self.lokr_w2 = nn.Parameter(nn.init.kaiming_uniform_(empty(k, n), a=5 ** 0.5))      # (k, n)
        self.scaling = alpha / r

    @property
    def keys(self):
        return {name: name for name, _ in self.named_parameters()}

    def after(self, x, y):
        W2 = self.lokr_w2 if hasattr(self, "lokr_w2") else self.lokr_w2_a @ self.lokr_w2_b
        return y + F.linear(x, self.scaling * torch.kron(self.lokr_w1, W2))

    @staticmethod
    def count(d_in, d_out, r=8, decompose_factor=-1, **options):
        (m, n), (l, k) = split(d_in, decompose_factor), split(d_out, decompose_factor)
        return l * m + (r * (k + n) if r < max(k, n) / 2 else k * n)
