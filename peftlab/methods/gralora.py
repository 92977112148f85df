"""GraLoRA: the weight is cut into k x k blocks, each with its own LoRA of rank r / k (Jung et al., arXiv 2505.20355).

Trains r (d_in + d_out) parameters a layer, as LoRA does, for an update of rank up to k r. Starts as the base
model (B = 0); can be merged.
"""
import torch
from torch import empty, nn, zeros

from peftlab.adapter import Adapter, Format, linear


class GraLoRA(Adapter):
    """y = W x + s [B_ij A_ij] x in blocks, i of the outputs and j of the inputs, s = alpha / r

    A_ij, of rank r / k, is the i-th r / k columns of gralora_A[j], and B_ij the j-th r / k rows of gralora_B[i], transposed.
    """

    keys = {"gralora_A": "gralora_A", "gralora_B": "gralora_B"}
    in_peft = Format("GRALORA")

    def __init__(self, layer, r=32, alpha=64, gralora_k=2):
        super().__init__(layer)
        d_in, d_out, k = *linear(layer), gralora_k
        if d_in % k or d_out % k or r % k:
            raise ValueError(f"gralora_k {k} must divide the layer's {d_in} inputs, its {d_out} outputs and r = {r}")
        A = [nn.init.kaiming_uniform_(empty(r, d_in // k), a=5 ** 0.5).T for _ in range(k)]
        self.gralora_A = nn.Parameter(torch.stack(A))                                 # (k, d_in / k, r)
        self.gralora_B = nn.Parameter(zeros(k, r, d_out // k))                        # (k, r, d_out / k)
        self.k, self.scaling = k, alpha / r

    def after(self, x, y):
        h = torch.einsum("...jw,jwr->...jr", x.unflatten(-1, (self.k, -1)), self.gralora_A)     # (..., j, r)
        h = h.unflatten(-1, (self.k, -1)).transpose(-3, -2).flatten(-2)                         # (..., i, r): a piece of each j
        return y + self.scaling * torch.einsum("...ir,irw->...iw", h, self.gralora_B).flatten(-2)

    @staticmethod
    def count(d_in, d_out, r=32, **options):
        return r * (d_in + d_out)
