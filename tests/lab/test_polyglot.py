"""The world, the shipped model, and the proof that the script in the repository is what made it."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.training import answers, train
from peftlab.methods import LoRA, PromptTuning

FOLDER = Path(__file__).parents[2] / "data" / "polyglot-350k"
LOG = [json.loads(line) for line in (FOLDER / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


# ---- the world

def test_words():
    assert polyglot.words(342, "en") == "three hundred and forty-two"
    assert polyglot.words(342, "it") == "trecentoquarantadue"
    assert polyglot.words(16, "es") == "dieciseis" and polyglot.words(30, "de") == "dreissig"
    assert polyglot.words(61, "tr") == "altmisbir" and polyglot.words(8, "sv") == "atta"
    with pytest.raises(ValueError, match="there are en, es"):
        polyglot.words(1, "xx")
    with pytest.raises(ValueError, match="ends at 999"):
        polyglot.words(1000, "en")


@pytest.mark.parametrize("language", polyglot.LANGUAGES)
def test_a_language_fits_the_tokenizer_and_no_two_numbers_are_the_same(language, tokenizer):
    said = [polyglot.words(n, language) for n in range(1000)]
    assert len(set(said)) == 1000 and max(map(len, said)) < polyglot.LONGEST
    assert all(re.fullmatch("[a-z -]+", w) for w in said)
    ids = tokenizer(said)["input_ids"]
    assert [len(i) for i in ids] == [len(w) for w in said] and tokenizer.batch_decode(ids) == said


def test_the_test_asks_for_nothing_that_was_not_seen_in_parts():
    trained, asked = polyglot.numbers("train"), polyglot.numbers("test")
    assert (len(trained), len(asked)) == (800, 200) and sorted(trained + asked) == list(range(1000))
    for language in ("en", "es", "fr", "pt", "ca", "ro", "pl", "id"):            # where words are written apart
        seen = {w for n in trained for w in re.split("[ -]", polyglot.words(n, language))}
        assert all(w in seen for n in asked for w in re.split("[ -]", polyglot.words(n, language)))
    for language in polyglot.LANGUAGES:                                         # where they are not: the endings
        assert all(sum(n % 100 == e for n in trained) >= 7 for e in range(100)), language
    assert all(sum(n // 100 == h for n in trained) >= 80 for h in range(10))
    assert set(range(21)) | set(range(0, 1000, 100)) <= set(trained)


def test_rows_and_what_is_learnt_of_them(tokenizer):
    rows = polyglot.dataset("it", "test")
    assert rows.column_names == ["number", "language", "prompt", "answer"] and len(rows) == 200
    row = next(r for r in polyglot.dataset("it", "train") if r["number"] == 2)
    assert row == {"number": 2, "language": "it", "prompt": "<it>002=", "answer": "due"}
    assert polyglot.dataset("it", "train", tag="?")[2]["prompt"].startswith("<?>")
    batch = answers(tokenizer)([row])
    assert tokenizer.decode(batch["input_ids"][0]) == "<it>002=due<eos>"
    assert tokenizer.decode(batch["labels"][0][batch["labels"][0] != -100]) == "due<eos>"
    assert (batch["labels"][0][:5] == -100).all()
    with pytest.raises(ValueError, match="no tag 'klingon'"):
        polyglot.dataset("it", tag="klingon")


# ---- the shipped model

def test_the_log_is_whole():
    about, *steps, result = LOG
    assert len(steps) == about["settings"]["steps"] and about["command"].startswith("python -m peftlab.lab.polyglot")
    assert {"torch", "transformers", "num2words"} <= about["versions"].keys() and result["seconds"] > 0
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 2_000_000


def test_it_knows_what_the_log_says(model, tokenizer):
    result = LOG[-1]
    assert model.num_parameters() == result["parameters"]
    for language, was in result["test accuracy"].items():
        assert was["tagged"] >= 0.95
        assert polyglot.accuracy(model, tokenizer, language) == pytest.approx(was["tagged"], abs=0.011)
    assert polyglot.ask(model, tokenizer, ["<es>342=", "<en>007="]) == ["trescientos cuarenta y dos", "seven"]


def test_the_script_is_what_made_it():
    class Enough(Exception):
        pass

    losses = []

    def thirty(run):
        losses[:] = run.losses
        if run.step == 30:
            raise Enough
    settings = {key: value for key, value in LOG[0]["settings"].items()}
    with pytest.raises(Enough):
        polyglot.pretrain(**settings, on_step=thirty, progress=False)
    assert losses == pytest.approx([line["loss"] for line in LOG[1:31]], abs=2e-3)


def test_the_tokenizer_is_what_the_script_makes(tokenizer):
    made = polyglot.make_tokenizer()
    assert made.get_vocab() == tokenizer.get_vocab()
    assert (made.pad_token, made.eos_token, made.padding_side) == (tokenizer.pad_token, tokenizer.eos_token, "left")


# ---- what it is for

def test_new_languages_are_further_than_known_ones(model, tokenizer):
    far = {language: polyglot.distance(model, tokenizer, language, language) for language in ("en", "it", "tr")}
    assert far["en"] < 0.1 < far["it"] and far["en"] < 0.1 < far["tr"]


def test_a_lora_learns_italian_and_comes_off_again(model, tokenizer):
    english = polyglot.ask(model, tokenizer, ["<en>342="])
    assert polyglot.accuracy(model, tokenizer, "it") == 0
    torch.manual_seed(0)
    pl.attach(model, LoRA, "all-linear", name="italian", r=8, lora_alpha=8)
    train(model, polyglot.dataset("it"), answers(tokenizer), steps=80, lr=1e-2, batch_size=32, progress=False)
    assert polyglot.accuracy(model, tokenizer, "it") > 0.8
    pl.use(model)
    assert polyglot.ask(model, tokenizer, ["<en>342="]) == english


def test_letters_are_counted_number_by_number(model, tokenizer):
    shares = polyglot.letters(model, tokenizer, "it")
    rows = polyglot.dataset("it", "test")
    lengths = torch.tensor([len(a) + 1 for a in rows["answer"]])       # the end is a letter too
    together = (shares * lengths).sum() / lengths.sum()
    assert shares.shape == (200,) and together.item() == pytest.approx(polyglot.evaluate(model, rows, answers(tokenizer), 200).accuracy)
    known = polyglot.letters(model, tokenizer, "en")
    assert ((known == 1).double().mean() - polyglot.accuracy(model, tokenizer, "en")).abs() < 0.02 and together < 0.9


def test_measuring_works_with_virtual_tokens(model, tokenizer):
    torch.manual_seed(0)
    pl.attach(model, PromptTuning, name="p", num_virtual_tokens=4)
    run = train(model, polyglot.dataset("en"), answers(tokenizer), steps=3, lr=1e-2, batch_size=8, progress=False)
    assert run.step == 3
    rows = [polyglot.dataset("en")[5]]
    alone = model(**answers(tokenizer)(rows)).loss.item()
    assert polyglot.evaluate(model, rows, answers(tokenizer)).loss == pytest.approx(alone, rel=1e-4)
    assert len(polyglot.ask(model, tokenizer, ["<en>342=", "<fr>001="])) == 2
