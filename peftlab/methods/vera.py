"""VeRA: y = W x + b * (B (d * (A x))), A and B random, frozen, and shared by all layers (Kopiczko, arXiv 2310.11454).

Trains only the vectors b and d, d_out + r parameters a layer. Starts as the base model (b = 0); can be merged.
"""
import torch
import torch.nn.functional as F
from torch import nn

from peftlab.adapter import Adapter, Format, linear


class VeRA(Adapter):
    """y = W x + b * (B (d * (A x)))"""

    in_peft = Format("VERA")

    def __init__(self, layer, r=256, d_initial=0.1, projection_prng_key=0, save_projection=True):
        super().__init__(layer)
        self.seed, self.save_projection = projection_prng_key, save_projection
        self.vera_lambda_b = nn.Parameter(torch.zeros(linear(layer)[1]))              # (d_out,)
        self.vera_lambda_d = nn.Parameter(torch.full((r,), d_initial))                # (r,)

    @property
    def keys(self):
        shared = {"vera_A": "base_model.vera_A", "vera_B": "base_model.vera_B"} if self.save_projection else {}
        return {"vera_lambda_b": "vera_lambda_b", "vera_lambda_d": "vera_lambda_d", **shared}

    @staticmethod
    def share(adapters):
        """Draw A and B once, as wide as the widest layer; each layer uses their first columns and rows."""
        generator = torch.Generator().manual_seed(adapters[0].seed)
        r, (d_in, d_out) = len(adapters[0].vera_lambda_d), map(max, zip(*(a.shape for a in adapters)))
        A, B = (torch.empty(n, m).uniform_(-1, 1, generator=generator) * (6 / m) ** 0.5 for n, m in ((r, d_in), (d_out, r)))
        for a in adapters:
            a.register_buffer("vera_A", A, persistent=False)                          # (r, widest d_in)
            a.register_buffer("vera_B", B, persistent=False)                          # (widest d_out, r)

    def after(self, x, y):
        d_in, d_out = self.shape
        h = self.vera_lambda_d * F.linear(x, self.vera_A[:, :d_in])                   # (..., r)
        return y + self.vera_lambda_b * F.linear(h, self.vera_B[:d_out])

    @staticmethod
    def count(d_in, d_out, r=256, **options):
        return d_out + r
