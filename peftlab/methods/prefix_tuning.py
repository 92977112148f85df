"""Prefix tuning: every attention layer also attends to n trained keys and values (Li and Liang, arXiv 2101.00190).

Attention(q, [P_k; K], [P_v; V]) in each of L layers. Trains n 2 L d_kv parameters, d_kv the width of the keys of one
layer (all its key-value heads). It does not start as the base model and cannot be merged.
"""
import torch
from torch import nn

from peftlab.adapter import Format
from peftlab.virtual_tokens import VirtualTokens, cache_shape


class PrefixTuning(VirtualTokens):
    """n trained keys and values in front of every layer's own."""

    keys = {"prompt_embeddings": "prompt_embeddings"}
    in_peft = Format("PREFIX_TUNING")

    def __init__(self, model, num_virtual_tokens=20):
        super().__init__(model, num_virtual_tokens)
        layers, heads, width = cache_shape(model.config)
        self.cache_shape = layers, 2, heads, width
        self.prompt_embeddings = nn.Parameter(torch.randn(num_virtual_tokens, layers * 2 * heads * width))

    def key_values(self):
        return self.prompt_embeddings.view(len(self), *self.cache_shape)              # (n, layers, 2, heads, width)

    @staticmethod
    def count(config, num_virtual_tokens=20, **options):
        layers, heads, width = cache_shape(config)
        return num_virtual_tokens * 2 * layers * heads * width
