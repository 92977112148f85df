"""Compacter: Houlsby's adapter whose two matrices are sums of n Kronecker products, W = sum_i K_i x (l_i r_i)
(Mahabadi et al., arXiv 2106.04647).

The n small matrices K_i (n, n) are one set for the whole model; l_i r_i has rank one. Trains n^3 shared numbers, and
2 (d + m) + m + d a place with m = d / reduction_factor. Nearly the base model at the start; cannot be merged.
"""
import torch
from torch import nn

from peftlab.adapter import shape
from peftlab.methods.bottleneck import Houlsby, activation


class Compacter(Houlsby):
    """y = h + U gelu(D h), h = layer(x), D and U each a sum of n Kronecker products"""

    def __init__(self, layer, reduction_factor=32, phm_dim=4, non_linearity="gelu"):
        super(Houlsby, self).__init__(layer)
        d = shape(layer)[1]
        m, n = max(1, int(d // reduction_factor)), phm_dim
        if d % n or m % n:
            raise ValueError(f"phm_dim {n} must divide both widths, {d} and {m}: choose another, or another reduction_factor")
        self.rule = nn.Parameter(0.01 * torch.randn(n, n, n))                         # n matrices K_i
        self.down, self.up, self.non_linearity = Kronecker(d, m, n), Kronecker(m, d, n), activation(non_linearity)

    @property
    def keys(self):
        return {**super().keys, "rule": "base_model.adapter_rule"}                    # one for the whole model

    @staticmethod
    def share(adapters):
        for adapter in adapters[1:]:
            adapter.rule = adapters[0].rule

    def bottleneck(self, h):
        return self.up(self.non_linearity(self.down(h, self.rule)), self.rule)

    @staticmethod
    def count(d_in, d_out, reduction_factor=32, **options):
        m = max(1, int(d_out // reduction_factor))
        return 2 * (d_out + m) + m + d_out

    @staticmethod
    def count_shared(layers, phm_dim=4, **options):
        return phm_dim**3


class Kronecker(nn.Module):
    """x W + b, W of shape (d_in, d_out) the sum of n Kronecker products of the rule's matrices and products of vectors."""

    def __init__(self, d_in, d_out, n):
        super().__init__()
        self.left = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n, d_in // n, 1)))
        self.right = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n, 1, d_out // n)))
        self.bias = nn.Parameter(torch.zeros(d_out))

    def forward(self, x, rule):
        W = torch.einsum("nab,nij->aibj", rule, self.left @ self.right)               # (n, d_in / n, n, d_out / n)
        return x @ W.reshape(x.shape[-1], -1) + self.bias
