"""TinyLoRA: y = W x + B (v_1 P_1 + ... + v_u P_u) A x, only v is trained (arXiv 2602.04118).

B A is the part of W with its r largest singular values, frozen; the P_i, (r, r), are random, frozen. Layers can share one
v: weight_tying 0 gives each layer its own, 1 one to all. Trains u parameters for each v, u alone if all is shared. Starts
as the base model (v = 0); can be merged.
"""
import torch
import torch.nn.functional as F
from torch import nn

from peftlab.adapter import Adapter, Format, linear


def groups(layers, weight_tying):
    """The group of each of so many layers: neighbours share a v."""
    n = max(1, round(layers * (1 - weight_tying)))
    return [min(i // max(1, layers // n), n - 1) for i in range(layers)]


class TinyLoRA(Adapter):
    """y = W x + B (sum_i v_i P_i) A x"""

    in_peft = Format("TINYLORA", {"save_projection": True})

    def __init__(self, layer, r=2, u=64, weight_tying=0.0, projection_seed=42):
        super().__init__(layer)
        r = min(r, *linear(layer))
        U, S, Vh = torch.linalg.svd(self.weight.float(), full_matrices=False)
        self.u, self.weight_tying, self.seed = u, weight_tying, projection_seed
        self.register_buffer("tinylora_A", (S[:r].sqrt()[:, None] * Vh[:r]).contiguous(), persistent=False)   # (r, d_in)
        self.register_buffer("tinylora_B", (U[:, :r] * S[:r].sqrt()).contiguous(), persistent=False)          # (d_out, r)
        self.group = 0

    @staticmethod
    def share(adapters):
        """One v for each group of layers; each layer draws its own P."""
        v, r_all = {}, [len(a.tinylora_A) for a in adapters]
        for i, (a, group) in enumerate(zip(adapters, groups(len(adapters), adapters[0].weight_tying))):
            draw, r = torch.Generator().manual_seed(a.seed + i), r_all[i]
            a.register_buffer("tinylora_P", torch.randn(a.u, r, r, generator=draw) / r**0.5, persistent=False)  # (u, r, r)
            a.group, a.tinylora_v = group, v.setdefault(group, nn.Parameter(torch.zeros(a.u)))                  # (u,)

    @property
    def keys(self):
        return {"tinylora_v": f"base_model.tinylora_v.{self.group}",
                **{name: name for name in ("tinylora_A", "tinylora_B", "tinylora_P")}}

    def after(self, x, y):
        R = torch.einsum("u,urc->rc", self.tinylora_v, self.tinylora_P)
        return y + F.linear(F.linear(F.linear(x, self.tinylora_A), R), self.tinylora_B)

    @staticmethod
    def count(d_in, d_out, **options):
        return 0

    @staticmethod
    def count_shared(layers, u=64, weight_tying=0.0, **options):
        return u * len(set(groups(layers, weight_tying)))
