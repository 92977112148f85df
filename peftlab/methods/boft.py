"""BOFT: y = s * (W R x) + b, R a product of m rotations, each made of blocks (Liu et al., arXiv 2311.06243).

A block-diagonal rotation mixes boft_block_size inputs at a time. Before each of the m = boft_n_butterfly_factor rotations
the inputs change places like the wings of a butterfly, so that together they mix more. Trains m d_in boft_block_size
+ d_out parameters a layer. Starts as the base model (Q = 0, s = 1); can be merged.
"""
import torch
from torch import nn

from peftlab.adapter import Adapter, Format, linear


def butterfly(d, b, i):
    """The order in which the i-th rotation reads d inputs: half blocks of b, even ones first, within 2^i blocks."""
    return torch.arange(d).view(-1, 2**i, 2, b // 2).transpose(1, 2).flatten() if i else torch.arange(d)


class BOFT(Adapter):
    """y = s * (W R x) + b; each block of a rotation is (1 - S)(1 + S)^-1 with S = (Q - Q^T) / 2"""

    in_peft = Format("BOFT", {"boft_block_num": 0})
    keys = {"boft_R": "boft_R", "boft_s": "boft_s"}

    def __init__(self, layer, boft_block_size=4, boft_n_butterfly_factor=1):
        super().__init__(layer)
        (d_in, d_out), b, m = linear(layer), boft_block_size, boft_n_butterfly_factor
        if d_in % (b * 2 ** (m - 1)) or (m > 1 and b % 2):
            raise ValueError(f"boft_block_size {b} times 2^{m - 1} must divide the layer's {d_in} inputs"
                             + ", and be even to be halved" * (m > 1))
        self.boft_R = nn.Parameter(torch.zeros(m, d_in // b, b, b))                   # (m, blocks, b, b)
        self.boft_s = nn.Parameter(torch.ones(d_out, 1))                              # (d_out, 1)

    def before(self, x):
        S = (self.boft_R - self.boft_R.mT) / 2
        one = torch.eye(S.shape[-1], device=x.device, dtype=x.dtype)
        R = torch.linalg.solve(one + S, one - S, left=False)                          # (m, blocks, b, b)
        for i in reversed(range(len(R))):
            order = butterfly(x.shape[-1], S.shape[-1], i).to(x.device)
            blocks = x[..., order.argsort()].unflatten(-1, (-1, S.shape[-1]))         # (..., blocks, b)
            x = torch.einsum("...nk,nkc->...nc", blocks, R[i]).flatten(-2)[..., order]
        return x

    def after(self, x, y):
        s, bias = self.boft_s[:, 0], self.layer.bias
        return s * y if bias is None else s * (y - bias) + bias

    @staticmethod
    def count(d_in, d_out, boft_block_size=4, boft_n_butterfly_factor=1, **options):
        return boft_n_butterfly_factor * d_in * boft_block_size + d_out
