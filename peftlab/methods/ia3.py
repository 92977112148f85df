"""(IA)3: y = l * (W x + b), or W (l * x) + b in front of a feed-forward layer (Liu et al., arXiv 2205.05638).

One learnt factor per feature, 1 at the start. Trains d_out parameters a layer, d_in on a feed-forward layer; can be merged.
"""
from torch import nn, ones

from peftlab.adapter import Adapter, Format, linear
from peftlab.layers import ends_in, matches


class IA3(Adapter):
    """y = l * layer(x), or layer(l * x)"""

    keys = {"ia3_l": "ia3_l"}
    in_peft = Format("IA3")

    def __init__(self, layer, feedforward=False):
        super().__init__(layer)
        d_in, d_out = linear(layer)
        self.feedforward = feedforward
        self.ia3_l = nn.Parameter(ones(1, d_in) if feedforward else ones(d_out, 1))

    def before(self, x):
        return x * self.ia3_l[0] if self.feedforward else x

    def after(self, x, y):
        return y if self.feedforward else y * self.ia3_l[:, 0]

    @classmethod
    def per_layer(cls, path, feedforward_modules=()):
        """`feedforward_modules`: endings of the feed-forward layers' names, or a pattern for the whole name."""
        pattern = isinstance(feedforward_modules, str)
        fits = pattern and matches(feedforward_modules, path)
        return {"feedforward": fits or ends_in(path, [feedforward_modules] if pattern else feedforward_modules or ())}

    @staticmethod
    def count(d_in, d_out, feedforward=False):
        return d_in if feedforward else d_out
