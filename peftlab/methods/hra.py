"""HRA: y = W (H_1 ... H_r x) + b, a chain of Householder reflections H = 1 - 2 u u' / |u|^2 (arXiv 2405.17484).

Trains r d_in parameters a layer. With an even r it starts as the base model: the reflections come in equal pairs, which
undo each other. Can be merged.
"""
from torch import empty, nn

from peftlab.adapter import Adapter, Format, linear


class HRA(Adapter):
    """y = layer(H_1 ... H_r x)"""

    keys = {"hra_u": "hra_u"}
    in_peft = Format("HRA")

    def __init__(self, layer, r=8):
        super().__init__(layer)
        if r % 2:
            raise ValueError(f"r is {r}: an even number of reflections is needed to start as the base model")
        half = nn.init.kaiming_uniform_(empty(linear(layer)[0], r // 2), a=5 ** 0.5)
        self.hra_u = nn.Parameter(half.repeat_interleave(2, dim=1))                   # (d_in, r)

    def before(self, x):
        for u in reversed((self.hra_u / self.hra_u.norm(dim=0)).unbind(1)):           # (d_in,) each, of length 1
            x = x - 2 * (x @ u)[..., None] * u
        return x

    @staticmethod
    def count(d_in, d_out, r=8):
        return r * d_in
