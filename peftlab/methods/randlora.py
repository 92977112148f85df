"""RandLoRA: an update of full rank from random matrices that are only rescaled (Albert et al., arXiv 2502.00987).

dW = (alpha / r) sum_j B_j Lambda_j A_j Gamma_j over n = ceil(d / r) terms, d the smaller of d_in and d_out. A and the B_j
are drawn once, frozen, and shared by all layers; the diagonals Lambda, (r, n), and Gamma, (n, d), are learnt. Trains n (r + d)
parameters a layer, fewer with a *larger* r. Starts as the base model (Lambda = 0); can be merged.
"""
import torch
import torch.nn.functional as F
from torch import nn

from peftlab.adapter import Adapter, Format, linear


class RandLoRA(Adapter):
    """y = W x + (alpha / r) sum_j B_j Lambda_j A_j Gamma_j x

    The product of Lambda and A waits for the backward pass; `peft` has one of its own that makes it again.
    """

    keys = {"randlora_lambda": "randlora_lambda", "randlora_gamma": "randlora_gamma",
            "randlora_A": "base_model.randlora_A", "randlora_B": "base_model.randlora_B"}
    in_peft = Format("RANDLORA", {"save_projection": True, "sparse": False, "very_sparse": False},
                     repeated=("randlora_A", "randlora_B"))

    def __init__(self, layer, r=32, randlora_alpha=640, projection_prng_key=0):
        super().__init__(layer)
        small = min(linear(layer))
        n = -(-small // r)
        self.seed, self.scaling = projection_prng_key, randlora_alpha / r
        self.randlora_lambda = nn.Parameter(torch.zeros(r, n))                        # (r, n)
        self.randlora_gamma = nn.Parameter(torch.full((n, small), 1 / max(n, small)))        # (n, d)

    @staticmethod
    def share(adapters):
        """Draw A and the B_j once, as large as the largest layer needs; each layer uses their first rows and columns."""
        r, draw = len(adapters[0].randlora_lambda), torch.Generator().manual_seed(adapters[0].seed)
        small, large = sorted(map(max, zip(*(a.shape for a in adapters))))
        A, B = (torch.rand(shape, generator=draw) * 2 - 1 for shape in ((r, 1, small), (large, -(-small // r), r)))
        A, B = A / A.std(), B / B.std()
        for a in adapters:
            a.register_buffer("randlora_A", A, persistent=False)                      # (r, 1, smaller side)
            a.register_buffer("randlora_B", B, persistent=False)                      # (larger side, most n, r)

    def after(self, x, y):
        n, small = self.randlora_gamma.shape
        d_in, d_out = self.shape
        # `peft` flattens A by (r, n) and B by (n, r), so that the terms are paired in another order than in the paper
        A = (self.randlora_lambda[:, :, None] * self.randlora_A[:, :, :small] * self.randlora_gamma).flatten(0, 1)
        B = self.randlora_B[:max(d_in, d_out), :n].flatten(1)                         # A: (r n, d), B: (larger, n r)
        down, up = (A, B) if d_in == small else (B.T, A.T)
        return y + self.scaling * F.linear(F.linear(x, down), up)

    @staticmethod
    def count(d_in, d_out, r=32, **options):
        n = -(-min(d_in, d_out) // r)
        return n * (r + min(d_in, d_out))
