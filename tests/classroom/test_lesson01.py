"""What lesson 01 teaches as a formula is what torch does: on a real block, whatever in it is trained."""

from itertools import combinations

import pytest
import torch
from transformers import BertConfig, BertModel

import peftlab as pl
from peftlab.classroom.exercises import lesson01 as lesson

TEXTS, LENGTH, D, FF, HEADS = 3, 8, 24, 80, 4
ENDS = {
    "query": "self.query", "key": "self.key", "value": "self.value", "attention.output": "attention.output.dense",
    "intermediate": "intermediate.dense", "output": ".output.dense",
}  # fmt: skip


def encoder(layers):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=D, intermediate_size=FF, num_hidden_layers=layers, num_attention_heads=HEADS
    )
    return BertModel(config, add_pooling_layer=False).eval()


def kept_by_one_block(trained):
    """Numbers that a third block adds to what two keep, when its `trained` linear layers learn and the embeddings do."""
    measured = []
    for layers in (2, 3):
        model = encoder(layers).requires_grad_(False)
        model.embeddings.requires_grad_(True)
        for path, layer in model.named_modules():
            inside = path.replace("attention.output", "attention:output")
            if any(inside.endswith(ENDS[name].replace("attention.output", "attention:output")) for name in trained):
                layer.requires_grad_(True)
        ids = torch.randint(0, 30, (TEXTS, LENGTH), generator=torch.Generator().manual_seed(0))
        measured.append(pl.saved_activations(model, input_ids=ids) / 4)
    return measured[1] - measured[0]


@pytest.mark.parametrize("trained", [set(s) for n in (0, 1, 2, 6) for s in combinations(ENDS, n)], ids=sorted)
def test_kept_numbers(trained):
    tokens = TEXTS * LENGTH
    small = tokens * (HEADS + 4)  # attention's logarithm a head, mean and deviation of two norms
    predicted = lesson.kept_numbers.reference(tokens, D, FF, trained)
    assert predicted <= kept_by_one_block(trained) <= predicted + small


@pytest.mark.parametrize("trained", [True, False])
def test_multiplications(trained):
    layers = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 4), torch.nn.Linear(4, 3))
    layers[1].requires_grad_(trained)
    x = torch.randn(11, 5)

    class Model(torch.nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return {"y": self.layers(x)}

    without = 11 * (2 * 5 * 7 + 3 * 4 * 3)  # the first layer has nothing before it to teach
    counted = sum(pl.multiplications(Model(layers), x=x))
    assert counted - without == lesson.multiplications.reference(11, 7, 4, trained)


def test_counts_are_those_of_the_methods():
    layer = torch.nn.Linear(9, 14)
    assert lesson.count_lora.reference(9, 14, 3) == sum(p.numel() for p in pl.methods.LoRA(layer, r=3).parameters())
    narrow = pl.methods.Pfeiffer(layer, reduction_factor=2)
    assert lesson.count_bottleneck.reference(14, 7) == sum(p.numel() for p in narrow.parameters())
