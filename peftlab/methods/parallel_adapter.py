"""The parallel adapter: layer(x) + s U relu(D x), a bottleneck beside the feed-forward layer (He et al., arXiv 2110.04366).

Trains 2 d m + m + d parameters a place, m = d / reduction_factor. Starts as the base model (U = 0); cannot be merged, since
relu is not linear. The library `adapters` has it; `peft` does not.
"""
from torch import nn

from peftlab.methods.bottleneck import Houlsby


class ParallelAdapter(Houlsby):
    r"""y = layer(x) + s U relu(D x): beside a feed-forward block ("mlp"). U starts at zero: exactly the base model.

    BERT norms inside the module that ends its block, r".*layer\.\d+\.output", whose second input is the residual x:
    there s U relu(D x) is added to the residual, which is the same. In Llama and GPT-2 x is what the feed-forward
    block itself reads, behind the norm; the library `adapters` takes it before the norm there.
    """

    def __init__(self, layer, reduction_factor=2, non_linearity="relu", scaling=4.0):
        super().__init__(layer, reduction_factor, non_linearity)
        self.scaling = scaling
        self.argument = int(any(isinstance(m, nn.LayerNorm) for m in layer.children()))

    def reset(self):
        nn.init.kaiming_uniform_(self.down.weight, a=5 ** 0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def before(self, x):
        return x + self.scaling * self.bottleneck(x) if self.argument else x

    def after(self, x, y):
        return y if self.argument else y + self.scaling * self.bottleneck(x)

    @staticmethod
    def count(d_in, d_out, reduction_factor=2, **options):
        return Houlsby.count(d_in, d_out, reduction_factor)
