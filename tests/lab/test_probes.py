"""The probes: enough of them, all different, none of what is to be learnt among what is known; and how they are asked."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from peftlab.lab import polyglot, probes
from peftlab.lab.training import answers, train


@pytest.mark.parametrize("name, least", [("facts", 200), ("invented", 40), ("general", 40)])
def test_there_are_enough_and_no_two_are_the_same(name, least):
    rows = probes.read(name)
    texts = [row.get("prompt", row.get("text")) for row in rows]
    assert len(rows) >= least
    assert len(set(texts)) == len(texts)
    assert all(text == text.strip() and text for text in texts)


def test_each_fact_is_marked_and_both_marks_occur():
    rows = probes.read("facts")
    assert {row["known"] for row in rows} == {True, False}
    assert all(row["question"].endswith("?") and row["answer"] and row["topic"] for row in rows)


def test_no_invented_country_is_a_real_one():
    known = " ".join(row["prompt"] for row in probes.read("facts"))
    assert not [row for row in probes.read("invented") if row["prompt"].removesuffix(" is").split(" of ")[-1] in known]


def test_to_learn_puts_a_space_before_the_answer_and_changes_nothing_else():
    row = {"prompt": "The capital of France is", "answer": "Paris"}
    assert probes.to_learn([row]) == [{"prompt": "The capital of France is", "answer": " Paris"}]
    assert row["answer"] == "Paris"


def test_completed_is_what_was_learnt_by_heart():
    """A tiny model learns three answers by heart: those are completed, others are not, in batches of any size."""
    torch.manual_seed(0)
    tokenizer = polyglot.make_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes)
    model = LlamaForCausalLM(config)
    rows = [{"prompt": f"{n}=", "answer": answer} for n, answer in ((1, "one"), (22, "twenty"), (333, "three"))]
    train(model, probes.to_learn(rows), answers(tokenizer), steps=150, lr=1e-2, batch_size=3, progress=False)
    others = [
        {"prompt": f"{n}=", "answer": answer} for n, answer in ((1, "two"), (22, "twentz"), (333, "three hundred"))
    ]
    for batch_size in (1, 2, 60):
        assert probes.completed(model, tokenizer, rows + others, batch_size) == [True] * 3 + [False] * 3
