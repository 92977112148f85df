"""BitFit: y = layer(x) + b', train the biases alone (Ben Zaken et al., arXiv 2106.10199).

b' is the change of a bias that the layer has, so it starts at zero. Trains d_out parameters a layer; can be merged.
Without weight decay it learns what training the biases in place learns, and unlike that it can be switched off.
In `peft` it is BEFT, which also adds biases where there were none; a model without biases has no BitFit.
"""
from torch import nn, zeros

from peftlab.adapter import Adapter, Format, shape


class BitFit(Adapter):
    """y = layer(x) + b'"""

    keys = {"beft_bias": "beft_bias"}
    in_peft = Format("BEFT")

    def __init__(self, layer):
        super().__init__(layer)
        if getattr(layer, "bias", None) is None:
            raise ValueError(f"this {type(layer).__name__} has no bias, and BitFit trains biases. Llama-like models "
                             "have none at all: choose another method there")
        self.beft_bias = nn.Parameter(zeros(1, shape(layer)[1]))                      # (1, d_out)

    def after(self, x, y):
        return y + self.beft_bias[0]

    @staticmethod
    def count(d_in, d_out):
        return d_out
