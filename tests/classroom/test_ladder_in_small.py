import pytest
import torch
from torch import nn

from peftlab.adapter import Adapter
from peftlab.classroom.ladder import climb
from peftlab.methods import IA3, LoRA, Pfeiffer, PromptTuning


def missed(method, **options):
    rungs = climb(method, **options)
    return set(rungs.rung[~rungs.holds].str.split().str[0])


def test_what_the_methods_miss():
    assert missed(LoRA) == missed(IA3) == set()
    assert missed(Pfeiffer) == missed(PromptTuning, num_virtual_tokens=3) == {"it", "merged"}


class Bias(Adapter):
    keys = {"beta": "beta"}

    def __init__(self, layer):
        super().__init__(layer)
        self.beta = nn.Parameter(torch.zeros(self.shape[1]))

    def after(self, x, y):
        return y + self.beta

    @staticmethod
    def count(d_in, d_out):
        return d_out


def test_a_method_of_ones_own_climbs():
    assert missed(Bias) == set()


@pytest.mark.parametrize(
    "rung, part",
    {
        "its": {"count": staticmethod(lambda d_in, d_out: d_in)},
        "saved": {"keys": {}},
        "once": {"after": lambda self, x, y: y + 0 * self.beta},
        "in": {"after": lambda self, x, y: y + self.beta * (1 + y.mean())},
        "merged": {"after": lambda self, x, y: y + self.beta * y.abs()},
    }.items(),
)
def test_each_mistake_shows_on_its_rung(rung, part):
    assert rung in missed(type("Wrong", (Bias,), part))


def test_an_error_in_the_method_is_told_and_not_raised():
    def after(self, x, y):
        return y + self.gamma

    rungs = climb(type("Broken", (Bias,), {"after": after}))
    assert rungs.seen[~rungs.holds].str.contains("has no attribute 'gamma'").all()
    assert set(rungs.rung[rungs.holds].str.split().str[0]) == {"its", "switched"}  # those that never run it
