"""MiCA: LoRA whose B is frozen at the r smallest left singular vectors of W (arXiv 2604.01694).

y = W x + s B A x. Trains A alone, r d_in parameters a layer: the output moves in directions that the weight hardly
uses. Starts as the base model (A = 0); can be merged.
"""
import torch
from torch import nn

from peftlab.adapter import Format, linear
from peftlab.methods.lora import LoRA


class MiCA(LoRA):
    """y = W x + s B A x, B frozen"""

    in_peft = Format("LORA", {"init_lora_weights": "mica"})

    def __init__(self, layer, r=8, lora_alpha=8, lora_dropout=0.0, use_rslora=False):
        if r > min(linear(layer)):
            raise ValueError(f"r {r} is larger than the rank that a weight of {linear(layer)} can have")
        super().__init__(layer, r, lora_alpha, lora_dropout, use_rslora)
        B = torch.linalg.svd(self.weight.float(), full_matrices=False)[0][:, -r:]
        del self.lora_B
        self.lora_A = nn.Parameter(torch.zeros_like(self.lora_A))                     # (r, d_in)
        self.register_buffer("lora_B", B.contiguous(), persistent=False)              # (d_out, r)

    @staticmethod
    def count(d_in, d_out, r=8, **options):
        return r * d_in
