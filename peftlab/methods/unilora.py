"""Uni-LoRA: every entry of every A and B is an entry of one trained vector theta (Li et al., arXiv 2506.00799).

Which one is drawn once; an entry that stands in n places is divided by sqrt(n), so that theta is turned into all the LoRA
parameters without being stretched. Trains theta_d_length parameters for the whole model, nothing in a layer. It does not
start as the base model; can be merged.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from peftlab.adapter import Adapter, Format, linear


def places(n, length, seed):
    """For each of n entries its place in theta: all places equally often, shuffled as `peft` does, since its files do
    not hold them."""
    draw = np.random.default_rng(seed)
    every = np.repeat(np.arange(length), n // length)
    if n % length:
        every = np.concatenate([every, draw.choice(length, size=n % length, replace=False)])
    draw.shuffle(every)
    return torch.as_tensor(every, dtype=torch.long)


class UniLoRA(Adapter):
    """y = W x + B A x, (all A and B of the model) = P theta"""

    in_peft = Format("UNILORA", {"save_indices": False})
    keys = {"unilora_theta_d": "base_model.unilora_theta_d"}

    def __init__(self, layer, r=4, theta_d_length=256, proj_seed=42, init_theta_d_bound=0.02):
        super().__init__(layer)
        d_in, d_out = linear(layer)
        self.shapes = (r, d_in), (d_out, r)
        self.theta = theta_d_length, proj_seed, init_theta_d_bound

    @staticmethod
    def share(adapters):
        """One theta for all layers, and for each layer its places in it."""
        length, seed, bound = adapters[0].theta
        theta = nn.Parameter(torch.empty(length).uniform_(-bound, bound))             # (theta_d_length,)
        sizes = [r * d for a in adapters for r, d in a.shapes]
        where = places(sum(sizes), length, seed)
        factor = where.bincount(minlength=length).clamp(min=1).float().rsqrt()        # (theta_d_length,)
        parts = iter(where.split(sizes))
        for a in adapters:
            a.unilora_theta_d = theta
            for name, shape in zip("AB", a.shapes):
                part = next(parts).view(shape)
                a.register_buffer(f"places_{name}", part, persistent=False)           # (r, d_in), (d_out, r)
                a.register_buffer(f"factors_{name}", factor[part], persistent=False)

    def after(self, x, y):
        A = self.unilora_theta_d[self.places_A] * self.factors_A
        B = self.unilora_theta_d[self.places_B] * self.factors_B
        return y + F.linear(F.linear(x, A), B)

    @staticmethod
    def count(d_in, d_out, **options):
        return 0

    @staticmethod
    def count_shared(layers, theta_d_length=256, **options):
        return theta_d_length
