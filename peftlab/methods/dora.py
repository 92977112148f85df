"""DoRA: y = m * V x / |V| with V = W + s B A, |.| the norm of each row (Liu et al., arXiv 2402.09353).

LoRA changes the direction of each row of the weight, the vector m its length. The norm is held constant in the
backward pass, as in section 4.3 of the paper. Trains r (d_in + d_out) + d_out parameters; can be merged.
"""
from torch import nn

from peftlab.adapter import Format
from peftlab.methods.lora import LoRA


class DoRA(LoRA):
    """y = m * (W + s B A) x / |W + s B A|"""

    in_peft = Format("LORA", {"use_dora": True})
    keys = {**LoRA.keys, "magnitude": "lora_magnitude_vector"}

    def __init__(self, layer, r=8, lora_alpha=8, lora_dropout=0.0, use_rslora=False):
        super().__init__(layer, r, lora_alpha, lora_dropout, use_rslora)
        self.magnitude = nn.Parameter(self.weight.float().norm(dim=1))                # (d_out,)

    def after(self, x, y):
        V = self.weight + self.scaling * self.lora_B.detach() @ self.lora_A.detach()  # (d_out, d_in)
        stretch = self.magnitude / V.norm(dim=1)                                      # (d_out,), 1 at the start
        bias = 0 if self.layer.bias is None else self.layer.bias
        return stretch * (super().after(x, y) - bias) + bias

    @staticmethod
    def count(d_in, d_out, r=8, **options):
        return r * (d_in + d_out) + d_out
