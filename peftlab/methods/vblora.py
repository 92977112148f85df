"""VB-LoRA: LoRA whose A and B are made of vectors from one small bank for the whole model (Li et al., arXiv 2405.15179).

A and B are cut into pieces of vector_length b. Each piece is a mixture of the topk bank vectors with the largest logits,
weighted by their softmax. Trains r (d_in + d_out) / b logits for each of the num_vectors vectors, and the bank once. It
does not start as the base model; can be merged.
"""
import torch
import torch.nn.functional as F
from torch import nn

from peftlab.adapter import Adapter, Format, linear


class VBLoRA(Adapter):
    """y = W x + B A x, each piece of A and B = sum over the topk of softmax(logits) * bank"""

    in_peft = Format("VBLORA", {"save_only_topk_weights": False})
    keys = {"vblora_logits_A": "vblora_logits_A", "vblora_logits_B": "vblora_logits_B",
            "vblora_vector_bank": "base_model.vblora_vector_bank"}

    def __init__(self, layer, r=4, num_vectors=256, vector_length=256, topk=2, init_vector_bank_bound=0.02,
                 init_logits_std=0.1):
        super().__init__(layer)
        (d_in, d_out), b = linear(layer), vector_length
        if d_in % b or d_out % b:
            raise ValueError(f"vector_length {b} must divide the layer's {d_in} inputs and its {d_out} outputs")
        self.bank, self.topk = (num_vectors, b, init_vector_bank_bound), topk
        self.vblora_logits_A = nn.Parameter(torch.randn(r, d_in // b, num_vectors) * init_logits_std)
        self.vblora_logits_B = nn.Parameter(torch.randn(d_out // b, r, num_vectors) * init_logits_std)

    @staticmethod
    def share(adapters):
        """One bank for all layers."""
        n, b, bound = adapters[0].bank
        bank = nn.Parameter(torch.empty(n, b).uniform_(-bound, bound))                # (num_vectors, b)
        for a in adapters:
            a.vblora_vector_bank = bank

    def pieces(self, logits):
        top, which = logits.topk(self.topk, dim=-1)                                   # (..., topk)
        return (top.softmax(-1).unsqueeze(-1) * self.vblora_vector_bank[which]).sum(-2)      # (..., b)

    def after(self, x, y):
        A = self.pieces(self.vblora_logits_A).flatten(1)                              # (r, d_in)
        B = self.pieces(self.vblora_logits_B).mT.flatten(0, 1)                        # (d_out, r)
        return y + F.linear(F.linear(x, A), B)

    @staticmethod
    def count(d_in, d_out, r=4, num_vectors=256, vector_length=256, **options):
        return r * (d_in + d_out) // vector_length * num_vectors

    @staticmethod
    def count_shared(layers, num_vectors=256, vector_length=256, **options):
        return num_vectors * vector_length
