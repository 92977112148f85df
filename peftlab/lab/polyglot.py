"""Polyglot: a world made by code, where a model writes numbers as words and every answer is right or wrong.

    <es>342=  ->  trescientos cuarenta y dos        a tag names the language
    <?>342=   ->  three hundred and forty-two       untagged: any language the model knows would do

The words come from the package `num2words`, without accents, so that all languages share the letters a-z. The model
polyglot-350k was pre-trained on English, Spanish and French by this file:

    python -m peftlab.lab.polyglot --out data/polyglot-350k
"""

import argparse
import json
import platform
import random
import sys
import time
import unicodedata
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from num2words import num2words
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from peftlab.lab.bases import set_threads
from peftlab.lab.training import answers, evaluate, train, training_mode

KNOWN = {"en": "English", "es": "Spanish", "fr": "French"}
NEW = {"it": "Italian", "pt": "Portuguese", "ca": "Catalan", "ro": "Romanian", "de": "German", "nl": "Dutch",
       "da": "Danish", "sv": "Swedish", "pl": "Polish", "tr": "Turkish", "fi": "Finnish", "hu": "Hungarian",
       "id": "Indonesian"}
LANGUAGES = KNOWN | NEW
UNTAGGED = "?"
LONGEST = 41                                                           # Finnish 40 letters, and the end


# ---- the world

@cache
def words(number, language):
    """342, "it" -> "trecentoquarantadue": small letters a-z, space and hyphen. Numbers 0 to 999."""
    if language not in LANGUAGES:
        raise ValueError(f"no language {language!r} in this world; there are {', '.join(LANGUAGES)}")
    if number not in range(1000):
        raise ValueError(f"{number} is outside this world, which ends at 999")
    text = num2words(number, lang=language).casefold().replace("ı", "i").replace("ø", "o")
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


@cache
def numbers(split):
    """The numbers of "train" (800) or "test" (200), the same in every language.

    What the test asks was seen in parts: each pair of last digits with at least seven hundreds, each hundred with at
    least eighty pairs. The numbers with a word of their own, 0 to 20 and the hundreds, are all for training.
    """
    held_out, of_hundred, of_ending = [], [0] * 10, [0] * 100
    for n in sorted(range(1000), key=lambda n: random.Random(n).random()):
        hundred, ending = divmod(n, 100)
        if n > 20 and ending and of_hundred[hundred] < 20 and of_ending[ending] < 3:
            held_out.append(n)
            of_hundred[hundred] += 1
            of_ending[ending] += 1
    return {"test": sorted(held_out), "train": [n for n in range(1000) if n not in held_out]}[split]


def dataset(language, split="train", tag=None):
    """Rows with `number`, `language`, `prompt` and `answer`, for `training.answers` to make batches of.

    tag: the language's own, if not given; "?" asks without naming a language.
    """
    tag = language if tag is None else tag
    if tag not in LANGUAGES and tag != UNTAGGED:
        raise ValueError(f"no tag {tag!r}; there are {', '.join(LANGUAGES)} and {UNTAGGED!r}")
    return Dataset.from_list([{"number": n, "language": language, "prompt": f"<{tag}>{n:03d}=",
                               "answer": words(n, language)} for n in numbers(split)])


# ---- measuring

@torch.no_grad()
def ask(model, tokenizer, prompts):
    """What the model writes after each prompt, greedily, up to its end-of-text token."""
    batch = tokenizer(list(prompts), return_tensors="pt", add_special_tokens=False).to(model.device)
    with training_mode(model, False):
        written = model.generate(**batch, max_new_tokens=LONGEST, do_sample=False)[:, batch["input_ids"].shape[1]:]
    return [text.split(tokenizer.eos_token)[0] for text in tokenizer.batch_decode(written)]


def accuracy(model, tokenizer, language, tag=None, split="test"):
    """The share of numbers that the model writes in `language` without a single wrong letter."""
    rows = dataset(language, split, tag)
    written = ask(model, tokenizer, rows["prompt"])
    return sum(w == a for w, a in zip(written, rows["answer"])) / len(rows)


@torch.no_grad()
def letters(model, tokenizer, language, split="test"):
    """The share of the letters of each number, (numbers,), that are the model's most probable with the right ones before them.

    It tells methods apart that write no number without a mistake. The end of the number counts as a letter.
    """
    rows = dataset(language, split)
    batch = {k: v.to(model.device) for k, v in answers(tokenizer)([rows[i] for i in range(len(rows))]).items()}
    labels = batch["labels"][:, 1:]
    with training_mode(model, False):
        logits = model(**batch).logits[:, -labels.shape[1] - 1:-1]     # virtual tokens come first
    right = (logits.argmax(-1) == labels) & (labels != -100)
    return right.sum(1).double() / (labels != -100).sum(1)


def distance(model, tokenizer, language, tag=UNTAGGED):
    """How far a language is from what the model knows: its loss on the training numbers, in nats per letter."""
    return evaluate(model, dataset(language, "train", tag), answers(tokenizer), batch_size=200).loss


# ---- the model

def make_tokenizer():
    """One token per character; tags, padding and the end are tokens of their own."""
    special = ["<pad>", "<eos>", "<unk>", f"<{UNTAGGED}>", *(f"<{tag}>" for tag in LANGUAGES)]
    characters = [*"0123456789=- abcdefghijklmnopqrstuvwxyz"]
    core = Tokenizer(models.WordLevel({t: i for i, t in enumerate(special + characters)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
                                   additional_special_tokens=special[3:], padding_side="left", model_max_length=64,
                                   clean_up_tokenization_spaces=False)


def make_model(tokenizer, hidden, layers, seed):
    """A Llama as transformers makes it, small: 4 heads, no weights shared between input and output."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=hidden * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))


def pretrain(steps=3000, seed=0, hidden=96, layers=3, lr=3e-3, batch_size=64, device="cpu", **how):
    """Teach a new model the languages it is to know, seven times in ten with a tag; returns model, tokenizer, run."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, hidden, layers, seed).to(device)
    rows = [row for language in KNOWN for tag, times in ((language, 7), (UNTAGGED, 3))
            for row in [*dataset(language, "train", tag)] * times]
    run = train(model, rows, answers(tokenizer), steps=steps, lr=lr, batch_size=batch_size, seed=seed, **how)
    return model, tokenizer, run


def main():
    parser = argparse.ArgumentParser(prog="python -m peftlab.lab.polyglot", description="Pre-train a polyglot model.")
    parser.add_argument("--out", required=True, type=Path, help="folder for model, tokenizer and log.jsonl")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    settings = vars(parser.parse_args())
    out = settings.pop("out")
    set_threads()

    began = time.perf_counter()
    model, tokenizer, run = pretrain(**settings)
    seconds = time.perf_counter() - began
    if run.interrupted:
        sys.exit("interrupted: nothing was written")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    result = {"seconds": round(seconds), "parameters": model.num_parameters(), "test accuracy": {
        language: {"tagged": accuracy(model, tokenizer, language),
                   "untagged": accuracy(model, tokenizer, language, UNTAGGED)} for language in KNOWN}}
    about = {"command": " ".join(["python -m peftlab.lab.polyglot", *sys.argv[1:]]), "settings": settings,
             "date": datetime.now(UTC).date().isoformat(),
             "device": torch.cuda.get_device_name() if settings["device"].startswith("cuda") else platform.machine(),
             "threads": torch.get_num_threads(), "python": platform.python_version(),
             "versions": {p: version(p) for p in ("torch", "transformers", "num2words")}}
    lines = [about, *({"step": i, "loss": round(loss, 5)} for i, loss in enumerate(run.losses, 1)), result]
    (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
