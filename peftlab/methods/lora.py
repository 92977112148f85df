"""LoRA: y = W x + s B A x with s = alpha / r (Hu et al., arXiv 2106.09685); rsLoRA: s = alpha / sqrt(r) (2312.03732).

Trains r (d_in + d_out) parameters a layer. It starts as the base model, since B is zero, and can be merged.
"""
import math

import torch.nn.functional as F
from torch import empty, nn, randn, zeros

from peftlab.adapter import Adapter, Format, embedding_scale, linear, shape
from peftlab.layers import matches

CONV = nn.Conv1d, nn.Conv2d, nn.Conv3d


class LoRA(Adapter):
    """y = W x + s B A x"""

    keys = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
    in_peft = Format("LORA")

    def __init__(self, layer, r=8, lora_alpha=8, lora_dropout=0.0, use_rslora=False, lora_bias=False):
        super().__init__(layer)
        d_in, d_out = linear(layer)
        self.lora_A = nn.Parameter(nn.init.kaiming_uniform_(empty(r, d_in), a=math.sqrt(5)))    # (r, d_in)
        self.lora_B = nn.Parameter(zeros(d_out, r))                                             # (d_out, r)
        self.dropout = nn.Dropout(lora_dropout)
        self.scaling = lora_alpha / (math.sqrt(r) if use_rslora else r)
        self.bias = nn.Parameter(zeros(d_out)) if lora_bias else None                           # (d_out,), of B
        self.keys = self.keys | ({"bias": "lora_B.bias"} if lora_bias else {})

    def after(self, x, y):
        return y + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B, self.bias)

    @staticmethod
    def count(d_in, d_out, r=8, lora_bias=False, **options):
        return r * (d_in + d_out) + lora_bias * d_out

    @classmethod
    def count_layer(cls, layer, r=8, **options):
        return r * (layer.weight[0].numel() + len(layer.weight)) if isinstance(layer, CONV) else super().count_layer(layer, r=r, **options)

    @classmethod
    def per_layer(cls, path, rank_pattern=None, alpha_pattern=None, **options):
        """`rank_pattern` and `alpha_pattern`: {end of a path, or regular expression: the r, or the lora_alpha, there}."""
        for option, pattern in (("r", rank_pattern), ("lora_alpha", alpha_pattern)):
            fits = [value for end, value in (pattern or {}).items() if matches(rf"(.*\.)?({end})", path)]
            options |= {option: fits[0]} if fits else {}
        return options

    @classmethod
    def for_layer(cls, layer):
        kind = LoRAEmbedding if isinstance(layer, nn.Embedding) else LoRAConv if isinstance(layer, CONV) else LoRA
        return kind if cls is LoRA else cls


class LoRAEmbedding(LoRA):
    """y = W[x] + s B A[x], on an embedding: x picks a column of A, which starts at zero here, and B does not."""

    keys = {"lora_A": "lora_embedding_A", "lora_B": "lora_embedding_B"}
    in_peft = Format()                                       # part of a LoRA, no method of its own

    def __init__(self, layer, r=8, lora_alpha=8, lora_dropout=0.0, use_rslora=False, lora_bias=False):
        Adapter.__init__(self, layer)                        # dropout is for what enters: ids cannot be scaled
        vocabulary, d = shape(layer)
        self.lora_A, self.lora_B = nn.Parameter(zeros(r, vocabulary)), nn.Parameter(randn(d, r))
        self.scaling = lora_alpha / (math.sqrt(r) if use_rslora else r)

    def after(self, x, y):
        return y + embedding_scale(self.layer) * self.scaling * F.linear(F.embedding(x, self.lora_A.T), self.lora_B)


class LoRAConv(LoRA):
    """y = W * x + s B * (A * x), on a convolution: A is one of the same size to r channels, B one of size 1."""

    in_peft = Format()

    def __init__(self, layer, r=8, lora_alpha=8, lora_dropout=0.0, use_rslora=False, lora_bias=False):
        Adapter.__init__(self, layer)
        if layer.groups > 1 or lora_bias:
            raise ValueError("a convolution in groups, or with lora_bias, is not adapted here: leave it out of target_modules")
        A, ones = empty(r, *layer.weight.shape[1:]), [1] * len(layer.kernel_size)
        self.lora_A = nn.Parameter(nn.init.kaiming_uniform_(A, a=math.sqrt(5)))       # (r, channels in, *kernel size)
        self.lora_B = nn.Parameter(zeros(layer.out_channels, r, *ones))               # (channels out, r, 1, ...)
        self.dropout, self.scaling = nn.Dropout(lora_dropout), lora_alpha / (math.sqrt(r) if use_rslora else r)

    def after(self, x, y):
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(self.layer.kernel_size) - 1]
        inner = self.layer._conv_forward(self.dropout(x), self.lora_A, None)          # with the layer's stride and padding
        return y + self.scaling * convolve(inner, self.lora_B)
