"""AdapterFusion: several trained adapters stay as they are, and attention learns which to listen to where
(Pfeiffer et al., arXiv 2005.00247).

Trains 3 d^2 parameters a place (q, k and v, each d by d). It does not start as the base model and cannot be merged.
"""
import torch
from torch import nn

from peftlab.adapter import Adapter, shape


class AdapterFusion(Adapter):
    """y = sum_i softmax_i(Q h . K a_i) V a_i, a_i what the adapter i makes of h = layer(x)

    adapters: the names of bottleneck adapters (Houlsby) on the same layers, attached before. Only the fusion need be switched on.
    """

    def __init__(self, layer, adapters=()):
        super().__init__(layer)
        there = getattr(layer, "adapters", {})
        missing = [name for name in adapters if name not in there or not hasattr(there[name], "bottleneck")]
        if missing or not adapters:
            raise ValueError(f"no bottleneck adapter called {missing[0] if missing else '...'!r} is on this layer: attach Houlsby "
                             "adapters first, and name them in adapters=")
        self.names, d = list(adapters), shape(layer)[1]
        self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))
        with torch.no_grad():
            self.value.weight.copy_(torch.eye(d) + 1e-6 * torch.randn(d, d))          # at first each adapter says what it said

    @property
    def keys(self):
        return {f"{name}.weight": f"fusion_{name}.weight" for name in ("query", "key", "value")}

    def after(self, x, y):
        made = torch.stack([y + self.layer.adapters[name].bottleneck(y) for name in self.names], -2)    # (..., n, d)
        weight = (self.key(made) @ self.query(y)[..., None]).softmax(-2)              # (..., n, 1)
        return (weight * self.value(made)).sum(-2)

    @staticmethod
    def count(d_in, d_out, **options):
        return 3 * d_out**2
