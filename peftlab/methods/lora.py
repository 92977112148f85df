"""LoRA: y = W x + s B A x with s = alpha / r (Hu et al., arXiv 2106.09685); rsLoRA: s = alpha / sqrt(r) (2312.03732).

Trains r (d_in + d_out) parameters a layer. It starts as the base model, since B is zero, and can be merged.
"""
import math
import re

import torch.nn.functional as F
from torch import empty, nn, randn, zeros

from peftlab.adapter import Adapter, Format, linear, shape


class LoRA(Adapter):
    """y = W x + s B A x"""

    keys = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
    in_peft = Format("LORA")

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

    @classmethod
    def per_layer(cls, path, rank_pattern=None, alpha_pattern=None, **options):
        """`rank_pattern` and `alpha_pattern`: {end of a path, or regular expression: the r, or the lora_alpha, there}."""
        for option, pattern in (("r", rank_pattern), ("lora_alpha", alpha_pattern)):
            fits = [value for end, value in (pattern or {}).items() if re.match(rf"(.*\.)?({end})$", path)]
            options |= {option: fits[0]} if fits else {}
        return options

    @classmethod
    def for_layer(cls, layer):
        return LoRAEmbedding if cls is LoRA and isinstance(layer, nn.Embedding) else cls


class LoRAEmbedding(LoRA):
    """y = W[x] + s B A[x], on an embedding: x picks a column of A, which starts at zero here, and B does not."""

    keys = {"lora_A": "lora_embedding_A", "lora_B": "lora_embedding_B"}
    in_peft = Format()                                       # part of a LoRA, no method of its own

    def __init__(self, layer, r=8, lora_alpha=8, lora_dropout=0.0, use_rslora=False):
        Adapter.__init__(self, layer)                        # dropout is for what enters: ids cannot be scaled
        vocabulary, d = shape(layer)
        self.lora_A, self.lora_B = nn.Parameter(zeros(r, vocabulary)), nn.Parameter(randn(d, r))
        self.scaling = lora_alpha / (math.sqrt(r) if use_rslora else r)

    def after(self, x, y):
        return y + self.scaling * F.linear(F.embedding(x, self.lora_A.T), self.lora_B)
