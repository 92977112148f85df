"""What was lost: the measures on models whose answer is known, and the base that comes back."""

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.forgetting import average_forgetting, backward_transfer, switched_off, text_loss
from peftlab.methods import LoRA, PromptTuning

PASSAGES = ["<en>342=three hundred", "<es>7=siete", "<fr>12="]


@pytest.fixture
def world():
    """A tiny model with random weights and the polyglot tokenizer, which pads on the left unless told otherwise."""
    torch.manual_seed(0)
    tokenizer = polyglot.make_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval(), tokenizer


def shake(model, seed=1):
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(torch.randn(p.shape))


@torch.no_grad()
def one_by_one(model, tokenizer, passages):
    """The same loss without batches, padding or masks."""
    total, count = 0.0, 0
    for passage in passages:
        ids = tokenizer(passage, return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids).logits[0]
        total += sum(F.cross_entropy(logits[i], ids[0, i + 1]).item() for i in range(ids.shape[1] - 1))
        count += ids.shape[1] - 1
    return total / count


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_text_loss_is_shifted_and_knows_no_padding(world, batch_size):
    model, tokenizer = world
    assert text_loss(model, tokenizer, PASSAGES, batch_size) == pytest.approx(one_by_one(*world, PASSAGES), abs=1e-5)


def test_text_loss_with_a_prompt_is_that_of_the_text_alone(world):
    """Virtual tokens come before the text and are guessed by nobody: as many tokens count, each with another loss."""
    model, tokenizer = world
    before = text_loss(model, tokenizer, PASSAGES)
    pl.attach(model, PromptTuning, num_virtual_tokens=3)
    shake(model)
    ids = tokenizer(PASSAGES[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -ids.shape[1] :]
    by_hand = F.cross_entropy(logits[:-1], ids[0, 1:]).item()
    assert text_loss(model, tokenizer, PASSAGES[:1]) == pytest.approx(by_hand, abs=1e-5)
    assert text_loss(model, tokenizer, PASSAGES) != pytest.approx(before, abs=1e-3)


def test_text_loss_leaves_the_mode_as_it_was(world):
    model, tokenizer = world
    model.train()
    text_loss(model, tokenizer, PASSAGES)
    assert model.training


@pytest.mark.parametrize(
    "method, where, options",
    [(LoRA, "all-linear", {"r": 2}), (PromptTuning, None, {"num_virtual_tokens": 3})],
)
def test_switched_off_is_the_base_to_the_last_bit(world, method, where, options):
    model, tokenizer = world
    before = text_loss(model, tokenizer, PASSAGES)
    pl.attach(model, method, where, name="new", **options)
    shake(model)
    with_adapter = text_loss(model, tokenizer, PASSAGES)
    with switched_off(model):
        assert text_loss(model, tokenizer, PASSAGES) == before
    assert model.switch.active == ("new",)
    assert text_loss(model, tokenizer, PASSAGES) == with_adapter != before


def test_switched_off_switches_on_again_after_an_error(world):
    model, _ = world
    pl.attach(model, LoRA, "all-linear", name="new", r=2)
    with pytest.raises(RuntimeError), switched_off(model):
        raise RuntimeError
    assert model.switch.active == ("new",)


R = [[0.9, 0.1, 0.0], [0.5, 0.8, 0.1], [0.3, 0.9, 0.7]]


def test_backward_transfer_by_hand():
    assert backward_transfer(R) == pytest.approx(((0.3 - 0.9) + (0.9 - 0.8)) / 2)


def test_average_forgetting_by_hand():
    assert average_forgetting(R) == pytest.approx(((0.9 - 0.3) + (0.8 - 0.9)) / 2)


def test_a_model_that_keeps_everything_has_forgotten_nothing():
    same = [[0.9, 0.8, 0.7]] * 3
    assert backward_transfer(same) == average_forgetting(same) == 0


def test_backward_transfer_has_a_sign_where_forgetting_has_a_best():
    """Task one got better by task two and was back by task three: no transfer, and yet something was forgotten."""
    swings = [[0.5, 0.0, 0.0], [0.8, 0.6, 0.0], [0.5, 0.6, 0.9]]
    assert backward_transfer(swings) == 0
    assert average_forgetting(swings) == pytest.approx(0.15)
