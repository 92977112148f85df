"""RoAd: pairs of outputs are turned by an angle and stretched (Liao et al., arXiv 2409.00119, variant 1).

In each group of outputs, the first half is paired with the second. Trains d_out parameters a layer: an angle and a
factor for each pair. Starts as the base model (angle 0, factor 1); can be merged.
"""
import torch
from torch import nn

from peftlab.adapter import Adapter, Format, linear


class RoAd(Adapter):
    """(y_1, y_2) -> factor * (y_1 cos - y_2 sin, y_2 cos + y_1 sin)"""

    in_peft = Format("ROAD", {"variant": "road_1"})
    keys = {"road_theta": "road_theta", "road_alpha": "road_alpha"}

    def __init__(self, layer, group_size=64):
        super().__init__(layer)
        d_out = linear(layer)[1]
        if d_out % group_size or group_size % 2:
            raise ValueError(f"group_size {group_size} must be even and divide the layer's {d_out} outputs")
        self.group_size = group_size
        self.road_theta = nn.Parameter(torch.zeros(d_out // 2))                       # (d_out / 2,)
        self.road_alpha = nn.Parameter(torch.ones(d_out // 2))                        # (d_out / 2,)

    def after(self, x, y):
        half = self.group_size // 2
        cos, sin = ((self.road_alpha * f(self.road_theta)).view(-1, half) for f in (torch.cos, torch.sin))
        first, second = y.unflatten(-1, (-1, 2, half)).unbind(-2)                     # (..., groups, half) each
        return torch.stack((first * cos - second * sin, second * cos + first * sin), -2).flatten(-3)

    @staticmethod
    def count(d_in, d_out, **options):
        return d_out
