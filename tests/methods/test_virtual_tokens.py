"""Prompts and prefixes: how they start, where they sit, what they refuse."""
import pytest
import torch
from ladder import logits, ours
from specs import SPECS
from test_ladder import ROWS, mixed
from tiny import BERT, batch, left_padded, tiny
from torch import nn
from transformers import BertConfig, BertModel

import peftlab as pl
from peftlab.files import tensors
from peftlab.lab.heads import MeanPoolClassifier
from peftlab.methods import LoRA, PrefixTuning, PromptTuning

BY_NAME = {s.name: s for s in SPECS}


class Words:
    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return type("Encoding", (), {"input_ids": [3 + len(word) for word in text.split()]})


def test_a_prompt_starts_as_words_of_the_vocabulary():
    table = tiny("llama").model.embed_tokens.weight
    for options in ({"prompt_tuning_init": "SAMPLE_VOCAB"},
                    {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "say it in words", "tokenizer": Words()}):
        model = pl.attach(tiny("llama"), PromptTuning, name="a", num_virtual_tokens=6, **options)
        P = tensors(model, "a")["prompt_embeddings"]
        assert all(any(torch.equal(row, word) for word in table) for row in P)
    assert torch.equal(P[:4], P[[4, 5, 2, 3]])               # the text again from its start, and cut
    assert torch.equal(P[0], table[6])


@pytest.mark.parametrize("options, message", [
    ({"prompt_tuning_init": "RANDM"}, "not 'RANDM'"),
    ({"prompt_tuning_init": "TEXT"}, "needs prompt_tuning_init_text"),
    ({"num_virtual_tokens": 0}, "give at least one"),
    ({"target_modules": ["q_proj"]}, "leave target_modules out")])
def test_what_makes_no_sense_is_refused(options, message):
    model = tiny("llama")
    with pytest.raises(ValueError, match=message):
        pl.attach(model, PromptTuning, name="a", **options)
    assert model.__dict__.keys() == tiny("llama").__dict__.keys()


def test_two_prompts_cannot_both_stand_in_front():
    model = pl.attach(tiny("llama"), PromptTuning, name="a")
    pl.attach(model, PrefixTuning, name="b")
    with pytest.raises(ValueError, match="one of them at a time"):
        pl.use(model, "a", "b")
    assert model.switch.active == ("b",)


def test_a_model_that_is_no_transformer_is_refused():
    with pytest.raises(ValueError, match="virtual tokens need a model of transformers"):
        pl.attach(nn.Sequential(nn.Linear(2, 2)), PromptTuning)


@pytest.mark.parametrize("name", ["PromptTuning", "PrefixTuning"])
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_base_rows_of_a_padded_mixed_batch_are_those_of_the_base_model(name, arch):
    model, inputs = mixed(BY_NAME[name], arch), left_padded(rows=4, time=9)
    for call in (lambda: logits(model, inputs), lambda: logits(model, inputs | {"attention_mask": None})):
        with pl.mix(model, ROWS):
            together = call()
        for i, row in enumerate(ROWS):
            pl.use(model, *([row] if row else []))
            real = inputs["attention_mask"][i].bool()
            assert torch.allclose(together[i][real], call()[i][real], atol=2e-6)


def test_an_error_in_the_middle_of_a_pass_leaves_nothing_behind():
    model = ours(BY_NAME["PromptTuning"], "llama")
    with pytest.raises(Exception):  # noqa: B017 - whatever the model says to labels of a wrong shape
        model(input_ids=batch("llama")["input_ids"], labels=torch.zeros(3, 99, dtype=torch.long))
    pl.use(model)
    assert torch.equal(logits(model, batch("llama")), logits(tiny("llama"), batch("llama")))


@pytest.mark.parametrize("name", ["PromptTuning", "PrefixTuning"])
def test_an_encoder_inside_another_model_reads_them_as_well(name, tmp_path):
    def classifier():
        encoder = BertModel(BertConfig(**BERT)).eval()
        encoder.load_state_dict(tiny("bert").bert.state_dict(), strict=False)
        torch.manual_seed(0)
        return MeanPoolClassifier(encoder, 3)

    spec, inputs = BY_NAME[name], batch("bert")
    model = classifier()
    base = logits(model, inputs)
    pl.attach(model, spec.method, name="a", modules_to_save=["classifier"], num_virtual_tokens=3)
    alone = pl.attach(tiny("bert").bert, spec.method, name="a", num_virtual_tokens=3)
    with torch.no_grad():
        p, q = (next(p for n, p in tensors(m, "a").items() if n == "prompt_embeddings") for m in (model, alone))
        q.copy_(p)
    assert model.encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]) \
        .last_hidden_state.shape[1] == inputs["input_ids"].shape[1]
    adapted = logits(model, inputs)
    assert not torch.allclose(adapted, base, atol=1e-3)
    with pl.mix(model, [None, "a", None]):
        together = logits(model, inputs)
    assert torch.allclose(together, torch.stack([base[0], adapted[1], base[2]]), atol=1e-6)
    pl.save(model, tmp_path, "a")
    assert torch.equal(logits(pl.load(classifier(), tmp_path), inputs), adapted)
    pl.detach(model)
    assert torch.equal(logits(model, inputs), base) and not hasattr(model.encoder, "switch")


def test_lora_and_a_prompt_run_together():
    model = ours(BY_NAME["PromptTuning"], "llama")
    alone = logits(model, batch("llama"))
    pl.attach(model, LoRA, ["q_proj"], name="b")
    pl.use(model, "a", "b")
    assert torch.equal(logits(model, batch("llama")), alone)     # a new LoRA changes nothing
    assert {n.split(".")[-1] for n, p in model.named_parameters() if p.requires_grad} \
        == {"prompt_embeddings", "lora_A", "lora_B"}
