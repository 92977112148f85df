"""Bottleneck adapters: h + U f(D h), a small residual network of width m = d / reduction_factor inside every block.

Houlsby (arXiv 1902.00751) puts one behind the attention and one behind the feed-forward layer, Pfeiffer (2005.00247)
one at the end of the block. Neither can be merged: f is not linear. Trains 2 d m + m + d parameters a place. The library
`adapters` has them; `peft` does not.
"""
from torch import nn

from peftlab.adapter import Adapter, shape


def activation(name):
    from transformers.activations import ACT2FN  # here, since importing transformers takes a while
    return ACT2FN[name]


class Houlsby(Adapter):
    """y = h + U silu(D h), h = layer(x): on the layers that end a sub-block, before the residual is added.

    Targets: "attention.output.dense" and "output.dense" in BERT, "o_proj" and "down_proj" in Llama,
    "c_proj" in GPT-2. D and U start near zero, not at zero: nearly the base model.
    """

    def __init__(self, layer, reduction_factor=16, non_linearity="silu"):
        super().__init__(layer)
        d = shape(layer)[1]
        m = max(1, int(d // reduction_factor))
        self.down, self.non_linearity, self.up = nn.Linear(d, m), activation(non_linearity), nn.Linear(m, d)
        self.reset()

    @property
    def keys(self):
        return {name: f"adapter_{name}" for name, _ in self.named_parameters()}

    def reset(self):
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def bottleneck(self, h):
        if h.shape[-1] != self.down.in_features:
            raise ValueError(f"this {type(self.layer).__name__} gives {tuple(h.shape)}, and the adapter was made for a last dimension "
                             f"of {self.down.in_features}: put it on a layer whose features come last")
        return self.up(self.non_linearity(self.down(h)))                              # (..., d) -> (..., m) -> (..., d)

    def after(self, x, y):
        return y + self.bottleneck(y)

    @staticmethod
    def count(d_in, d_out, reduction_factor=16, **options):
        m = max(1, int(d_out // reduction_factor))
        return 2 * d_out * m + m + d_out


class Pfeiffer(Houlsby):
    r"""y = h + U relu(D h), h what a whole block returns: once a block. In Llama and GPT-2 the target is the block
    itself, r"model\.layers\.\d+" or r"transformer\.h\.\d+".

    BERT's block ends in a norm: the target is that norm, r".*layer\.\d+\.output\.LayerNorm". The adapter reads the
    normed sum, norm(x), and adds to the sum before it: x + U relu(D norm(x)) enters the norm.
    """

    def __init__(self, layer, reduction_factor=16, non_linearity="relu"):
        super().__init__(layer, reduction_factor, non_linearity)
        self.at_norm = isinstance(layer, nn.LayerNorm)

    def before(self, x):
        return x + self.bottleneck(self.norm(x)) if self.at_norm else x

    def after(self, x, y):
        return y if self.at_norm else super().after(x, y)

    def norm(self, x):
        return self.layer.forward(x.to(self.layer.weight.dtype)).to(x.dtype)          # `forward`: no hooks again
