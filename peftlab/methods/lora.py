"""LoRA: y = W x + s B A x with s = alpha / r (Hu et al., arXiv 2106.09685); rsLoRA: s = alpha / sqrt(r) (2312.03732).

Trains r (d_in + d_out) parameters a layer. It starts as the base model, since B is zero, and can be merged.
"""
import math

import torch.nn.functional as F
from torch import empty, nn, zeros

from peftlab.adapter import Adapter, linear


class LoRA(Adapter):
    """y = W x + s B A x"""

    peft_type, keys = "LORA", {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}

    def __init__(self, layer, r=8, lora_alpha=8, lora_dropout=0.0, use_rslora=False):
        super().__init__(layer)
        d_in, d_out = linear(layer)
        self.lora_A = nn.Parameter(nn.init.kaiming_uniform_(empty(r, d_in), a=math.sqrt(5)))    # (r, d_in)
        self.lora_B = nn.Parameter(zeros(d_out, r))                                             # (d_out, r)
        self.dropout = nn.Dropout(lora_dropout)
        self.scaling = lora_alpha / (math.sqrt(r) if use_rslora else r)

    def after(self, x, y):
        return y + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)

    @staticmethod
    def count(d_in, d_out, r=8, **options):
        return r * (d_in + d_out)
