"""LN tuning: train a copy of each normalisation layer, nothing else (Zhao et al., arXiv 2312.11420).

Trains d or 2 d parameters a norm. Starts as the base model. There is nothing to merge: the copy is the new norm.
"""
from peftlab.adapter import Format, FullFineTuning


class LNTuning(FullFineTuning):
    """y = copy(x), the copy of a norm"""

    in_peft = Format("LN_TUNING")

    def __init__(self, layer):
        super().__init__(layer)
        if layer.weight.dim() != 1:
            raise TypeError(f"LN tuning trains norms, and a {type(layer).__name__} is none")

    @property
    def keys(self):
        return {ours: f"ln_tuning_layers.{theirs}" for ours, theirs in super().keys.items()}
