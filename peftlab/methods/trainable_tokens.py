"""Trainable tokens: new rows for a few tokens of an embedding table; the other rows stay (a method of `peft`'s).

Trains n d parameters for n tokens. Starts as the base model. A tied output layer does not see the new rows.
"""
import torch
from torch import nn

from peftlab.adapter import Adapter, Format, embedding_scale


class TrainableTokens(Adapter):
    """the row of a chosen token is a trained one"""

    keys = {"trainable_tokens_delta": "trainable_tokens_delta"}
    in_peft = Format("TRAINABLE_TOKENS")

    def __init__(self, layer, token_indices):
        super().__init__(layer)
        if not isinstance(layer, nn.Embedding):
            raise TypeError(f"trainable tokens are rows of an nn.Embedding, and a {type(layer).__name__} is none")
        outside = [i for i in token_indices if not 0 <= i < layer.num_embeddings]
        if outside:
            raise ValueError(f"token {outside[0]} is not in the table of {layer.num_embeddings} tokens")
        self.scale = embedding_scale(layer)
        self.register_buffer("token_indices", torch.tensor(list(token_indices)), persistent=False)       # (n,)
        self.trainable_tokens_delta = nn.Parameter(layer.weight[self.token_indices].detach().clone())    # (n, d)

    def after(self, ids, y):
        chosen = ids[..., None] == self.token_indices                                 # (..., n)
        return torch.where(chosen.any(-1, keepdim=True), chosen.to(y.dtype) @ self.trainable_tokens_delta * self.scale, y)

    @classmethod
    def for_layer(cls, layer):
        return TrainableTokensOutput if isinstance(layer, nn.Linear) else cls

    @staticmethod
    def share(adapters):
        """Layers that are tied have the same new rows."""
        for a in adapters[1:]:
            if a.layer.weight is adapters[0].layer.weight:
                a.trainable_tokens_delta = adapters[0].trainable_tokens_delta

    @staticmethod
    def count(d_in, d_out, token_indices=()):
        return len(token_indices) * d_out


class TrainableTokensOutput(TrainableTokens):
    """the score of a chosen token is that of a trained row: on an output layer that is tied to the table"""

    in_peft = Format()

    def __init__(self, layer, token_indices):
        Adapter.__init__(self, layer)
        self.register_buffer("token_indices", torch.tensor(list(token_indices)), persistent=False)       # (n,)
        self.trainable_tokens_delta = nn.Parameter(layer.weight[self.token_indices].detach().clone())    # (n, d)

    def after(self, x, y):
        return y.index_copy(-1, self.token_indices, x @ self.trainable_tokens_delta.T)
