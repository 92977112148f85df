"""OFT: y = W (x R) + b, R block-diagonal and (nearly) a rotation (Qiu et al., arXiv 2306.07280; 2506.19847).

Each block of b inputs is rotated by the Cayley transform of a skew matrix Q; angles between inputs are kept. Trains
d_in (b - 1) / 2 parameters a layer; starts as the base model (Q = 0); can be merged.
"""
import torch
from torch import nn, zeros

from peftlab.adapter import Adapter, Format, linear


class OFT(Adapter):
    """y = layer(x R)

    use_cayley_neumann: `peft`'s default, R = 1 + 2 Q + 2 Q^2 + 2 Q^3 + Q^4, the first terms of (1 + Q)(1 - Q)^-1. False:
    (1 - Q)(1 + Q)^-1 exactly, which turns the other way: the switch changes what a file means. r: the number of blocks,
    instead of their size.
    """

    keys = {"oft_R": "oft_R.weight"}
    in_peft = Format("OFT", {"coft": False, "block_share": False, "num_cayley_neumann_terms": 5})

    def __init__(self, layer, oft_block_size=32, r=0, use_cayley_neumann=True):
        super().__init__(layer)
        d_in = linear(layer)[0]
        b = d_in // r if r else oft_block_size
        if not b or d_in % b or (r and d_in % r):
            raise ValueError(f"{f'r {r}' if r else f'oft_block_size {b}'} does not divide the layer's {d_in} inputs")
        self.block_size, self.use_cayley_neumann = b, use_cayley_neumann
        self.oft_R = nn.Parameter(zeros(d_in // b, b * (b - 1) // 2))                 # (blocks, b (b - 1) / 2)

    def before(self, x):
        b = self.block_size
        i, j = torch.triu_indices(b, b, 1, device=x.device)
        Q = x.new_zeros(len(self.oft_R), b, b).index_put((torch.arange(len(self.oft_R), device=x.device)[:, None], i, j),
                                                         self.oft_R)
        Q, one = Q - Q.mT, torch.eye(b, device=x.device, dtype=x.dtype)               # (blocks, b, b), skew
        if self.use_cayley_neumann:
            Q2 = Q @ Q
            R = one + 2 * Q + 2 * Q2 + 2 * Q2 @ Q + Q2 @ Q2
        else:
            R = torch.linalg.solve(one + Q, one - Q, left=False)
        return torch.einsum("...nk,nkc->...nc", x.unflatten(-1, (-1, b)), R).flatten(-2)

    @staticmethod
    def count(d_in, d_out, oft_block_size=32, r=0, **options):
        return d_in * ((d_in // r if r else oft_block_size) - 1) // 2
