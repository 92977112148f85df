"""P-tuning, multitask prompts and projected prefixes: made while they are trained, and equal to `peft`'s all the way."""
import warnings

import peft
import pytest
import torch
from ladder import logits
from tiny import batch, tiny

import peftlab as pl
from peftlab.count import closed_form
from peftlab.methods import MultitaskPromptTuning, PrefixTuning, PTuning
from peftlab.virtual_tokens import on

BOTH = pytest.mark.parametrize("arch", ["llama", "gpt2"])


def theirs(arch, config, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(tiny(arch), config(task_type="CAUSAL_LM", num_virtual_tokens=5, **options))


def pair(arch):
    ours = pl.attach(tiny(arch), PTuning, num_virtual_tokens=5)
    other = theirs(arch, peft.PromptEncoderConfig)
    encoder = other.prompt_encoder["default"]
    on(ours)["default"].embedding.load_state_dict(encoder.embedding.state_dict())
    on(ours)["default"].mlp_head.load_state_dict(encoder.mlp_head.state_dict())
    return ours, other


def learn(model, inputs, steps=20):
    """The losses of some steps on the model's own words."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


@BOTH
def test_p_tuning_as_wide_as_the_model_computes_counts_and_learns_as_peft_does(arch):
    """The ladder has its network at another width, filled; here it is as it was drawn."""
    ours, other = pair(arch)
    inputs = {k: v for k, v in batch(arch).items() if k in ("input_ids", "attention_mask")}
    wanted = other(**inputs).logits[:, 5:]                     # `peft` gives the virtual tokens' logits as well
    assert torch.allclose(logits(ours, inputs), wanted, atol=1e-5)
    assert pl.count(ours).trainable == other.get_nb_trainable_parameters()[0]
    assert closed_form(tiny(arch), PTuning, num_virtual_tokens=5) == pl.count(ours).trainable
    mine, yours = learn(ours, inputs), learn(other, inputs)
    assert mine[-1] < mine[0] - 0.01 and torch.allclose(mine, yours, atol=1e-4)


@BOTH
def test_a_loaded_p_tuning_is_plain_embeddings(arch, tmp_path):
    model = pl.attach(tiny(arch), PTuning, num_virtual_tokens=5)
    pl.save(model, tmp_path / "once")
    here = pl.load(tiny(arch), tmp_path / "once")
    assert pl.count(here).trainable == 5 * tiny(arch).config.hidden_size
    again = pl.load(tiny(arch), pl.save(here, tmp_path / "twice"))
    assert torch.equal(logits(again, batch(arch)), logits(model, batch(arch)))


@BOTH
def test_a_prefix_that_was_trained_through_a_projection_is_read(arch, tmp_path):
    other = theirs(arch, peft.PrefixTuningConfig, prefix_projection=True, encoder_hidden_size=9)
    inputs = {k: v for k, v in batch(arch).items() if k in ("input_ids", "attention_mask")}
    wanted = other(**inputs).logits
    other.save_pretrained(tmp_path)
    model = pl.load(tiny(arch), tmp_path)
    assert torch.allclose(logits(model, inputs), wanted, atol=1e-5)
    assert pl.count(model).trainable == closed_form(tiny(arch), PrefixTuning, num_virtual_tokens=5)


@BOTH
def test_every_task_has_its_prompt_and_it_is_peft_s(arch, tmp_path):
    other = theirs(arch, peft.MultitaskPromptTuningConfig, num_tasks=3, num_ranks=2)
    options = {"num_virtual_tokens": 5, "num_tasks": 3, "num_ranks": 2}
    ours = pl.attach(tiny(arch), MultitaskPromptTuning, **options)
    encoder, tokens = other.prompt_encoder["default"], on(ours)["default"]
    with torch.no_grad():
        for p in (encoder.prefix_task_cols, encoder.prefix_task_rows):
            p.normal_()                                       # as drawn they are too small for a difference to show
        tokens.prompt_embeddings.copy_(encoder.embedding.weight)
        tokens.prefix_task_cols.copy_(encoder.prefix_task_cols)
        tokens.prefix_task_rows.copy_(encoder.prefix_task_rows)
    inputs = {k: v for k, v in batch(arch).items() if k in ("input_ids", "attention_mask")}
    seen = []
    for task in range(3):
        tokens.task = task
        ids = torch.full((len(inputs["input_ids"]),), task)
        with torch.no_grad():                                 # `peft` multiplies into its own parameter's lookup
            wanted = other(**inputs, task_ids=ids).logits[:, 5:]
        seen.append(logits(ours, inputs))
        assert torch.allclose(seen[-1], wanted, atol=1e-5)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)
    assert pl.count(ours).trainable == other.get_nb_trainable_parameters()[0]
    assert closed_form(tiny(arch), MultitaskPromptTuning, **options) == pl.count(ours).trainable
    other.save_pretrained(tmp_path / "theirs")
    here = pl.load(tiny(arch), tmp_path / "theirs")
    on(here)["default"].task = 2
    assert torch.allclose(logits(here, inputs), seen[2], atol=1e-5)
    back = peft.PeftModel.from_pretrained(tiny(arch), pl.save(ours, tmp_path / "ours"))
    with torch.no_grad():
        assert torch.allclose(back(**inputs, task_ids=ids).logits[:, 5:], seen[2], atol=1e-5)
    before = tokens.prefix_task_cols.detach().clone()
    losses = learn(ours, inputs)
    assert losses[-1] < losses[0]
    moved = (tokens.prefix_task_cols != before).flatten(1).any(1)
    assert moved.tolist() == [False, False, True], "the other tasks' factors stay"


def test_a_task_that_is_not_there_is_refused():
    model = pl.attach(tiny("llama"), MultitaskPromptTuning, num_tasks=2)
    on(model)["default"].task = 2
    with pytest.raises(ValueError, match="there are 2 tasks, counted from 0"):
        logits(model, batch("llama"))
