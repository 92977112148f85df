"""SHiRA: y = (W + S) x, S zero but for r (d_in + d_out) entries at random places (Bhardwaj et al., arXiv 2406.13175).

Trains r (d_in + d_out) parameters a layer, spread over the weight itself: an update of high rank that changes few of its
numbers. Starts as the base model (S = 0); can be merged. S x is a product of its own here, so that rows of a batch may have
adapters of their own; `peft` adds S to a copy of W and multiplies once.
"""
import torch
import torch.nn.functional as F
from torch import nn

from peftlab.adapter import Adapter, Format, linear


class SHiRA(Adapter):
    """y = (W + S) x; without a random_seed the places are the same in every layer of one shape, as in `peft`."""

    in_peft = Format("SHIRA", {"mask_type": "random"})
    keys = {"shira_weight": "shira_weight", "shira_indices": "shira_indices"}

    def __init__(self, layer, r=32, random_seed=None):
        super().__init__(layer)
        (d_in, d_out), draw = linear(layer), torch.Generator()
        n = r * (d_in + d_out)
        if n > d_in * d_out:
            raise ValueError(f"r {r} asks for {n} entries of a weight that has {d_in * d_out}: choose a smaller r")
        if random_seed is not None:
            draw.manual_seed(random_seed)
        places = torch.randperm(d_in * d_out, generator=draw)[:n].sort().values
        self.register_buffer("shira_indices", torch.stack((places // d_in, places % d_in)).int(), persistent=False)  # (2, n)
        self.shira_weight = nn.Parameter(torch.zeros(n))                              # (n,)

    def verify(self):
        """Refuse the places of a damaged file: an index outside of the weight would be read as another one."""
        top = torch.tensor(self.shape[::-1], device=self.shira_indices.device)[:, None]
        if (self.shira_indices < 0).any() or (self.shira_indices >= top).any():
            raise ValueError(f"shira_indices names places outside of a weight of shape {self.shape[::-1]}")

    def after(self, x, y):
        d_in, d_out = self.shape
        S = x.new_zeros(d_out, d_in).index_put(tuple(self.shira_indices.long()), self.shira_weight)
        return y + F.linear(x, S)

    @staticmethod
    def count(d_in, d_out, r=32, **options):
        return r * (d_in + d_out)
