"""LLaMA-Adapter: each head also attends to n trained vectors P, apart from the text, times a gate that starts at zero
(Zhang et al., arXiv 2303.16199).

y = attention(q, K, V) + g softmax(q k(P)^T / sqrt(w)) v(P), with the layer's own frozen k and v: the queries know their
positions, P has none. One gate serves all heads of a layer; the sum is taken before the output projection. Trains n d + 1
parameters a layer, d the model's width, n = adapter_len. It starts as the base model (g = 0); a softmax of q is not linear in
what comes in, so it cannot be merged.
"""
import torch
from torch import nn

from peftlab.adapter import Adapter, Format, without_adapters


class AdaptionPrompt(Adapter):
    """y = attention(q, K, V) + g softmax(q k(P)^T / sqrt(w)) v(P), w the width of a head

    On attention layers as Llama has them ("self_attn"); adapter_layers: how many, counted from the top (all, if not given).
    """

    in_peft = Format("ADAPTION_PROMPT", one_target=True)
    keys = {k: k for k in ("adaption_prompt", "adaption_gate")}

    def __init__(self, layer, adapter_len=10):
        super().__init__(layer)
        if hasattr(layer, "v_norm"):
            raise TypeError(f"a {type(layer).__name__} normalises its values, which the trained vectors would miss")
        if not all(hasattr(layer, part) for part in ("k_proj", "v_proj", "config")):  # with a config it asks attention.py
            raise TypeError(f"a {type(layer).__name__} has no k_proj and v_proj: target the attention layers of a model of the "
                            "Llama kind, ['self_attn']")
        self.adaption_prompt = nn.Parameter(torch.randn(1, adapter_len, layer.k_proj.in_features))
        self.adaption_gate = nn.Parameter(torch.zeros(1))

    def attend(self, q):
        """What is added to what the heads say, for their queries q (batch, heads, time, width)."""
        k, v = (without_adapters(project, self.adaption_prompt)[0].unflatten(-1, (-1, q.shape[-1])).transpose(0, 1)
                for project in (self.layer.k_proj, self.layer.v_proj))                # (key heads, n, width)
        k, v = (t.repeat_interleave(q.shape[1] // len(t), 0) for t in (k, v))         # (heads, n, width)
        return self.adaption_gate * torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v

    @classmethod
    def among(cls, layers, adapter_layers=None, **options):
        return layers[-adapter_layers:] if adapter_layers else layers

    @classmethod
    def per_layer(cls, path, adapter_layers=None, **options):
        return options

    @classmethod
    def count_layer(cls, layer, adapter_len=10):
        return adapter_len * layer.k_proj.in_features + 1
