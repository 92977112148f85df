"""The capstone of lesson 14: a folder that is written after a training, and what can be found out from its files alone.

`save` writes the adapter, what it wrote for the held-out numbers, what it cost the languages that the base knew, and the log.
`examine` believes none of it: it loads the file, here and in `peft`, and measures again.
"""

import hashlib
import json
import math
import platform
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import safe_open

import peftlab as pl
from peftlab.lab import polyglot, records
from peftlab.lab.bases import load_base
from peftlab.lab.forgetting import switched_off
from peftlab.lab.sweeps import best_rates, interval
from peftlab.lab.training import answers

from .copies import write_whole
from .proposals import FILES, FOLDER, LANGUAGES, WEIGHTS, broken, entries_in, now, sealed, time_of

BASE = "polyglot-350k"
KEPT = slice(None, None, 4)  # every fourth of the held-out numbers, in each language that the base knew
DIFFER = 4  # of the 200 answers may differ on another machine, where rounding decides between two letters
Z95 = 1.96


def save(model, run, seconds, folder=FOLDER, name=None):
    """Write into `folder`, where a proposal is sealed, what came of one training. Returns the folder.

    model: with its adapter on, whose `name` may be left out where there is only one; run: what `train` returned; seconds: what
    the training took. Raises ValueError, and writes nothing, without a sealed proposal, or where a training stands already.
    """
    folder = Path(folder)
    proposal = sealed(folder)
    if (folder / "log.json").exists():
        raise ValueError(f"{folder} holds a training already, and keeps it. Seal a proposal in another folder for this one")
    if name is None:
        if len(names := list(model.switch.recipe)) != 1:
            raise ValueError(f"the model has the adapters {', '.join(names)}: say which one, name=...")
        name = names[0]
    _, tokenizer = load_base(BASE)
    pl.use(model, name)
    pl.save(model, folder, name)
    told = {
        "answers": polyglot.ask(model, tokenizer, _asked(proposal["language"])),
        "kept": {"before": _untouched(), "on": knows(model)},
    }
    with switched_off(model):
        told["kept"]["off"] = knows(model)
    write_whole(folder / "predictions.json", json.dumps(told, indent=1))
    ended = datetime.now(UTC)
    log = {
        "proposal": proposal["hash"],
        "began": (ended - timedelta(seconds=seconds)).isoformat(timespec="seconds"),
        "ended": now(),
        "seconds": round(seconds, 1),
        "settings": run.settings,
        "losses": [round(loss, 5) for loss in run.losses],
        "adapter": _hash((folder / WEIGHTS).read_bytes()),
        "predictions": _hash((folder / "predictions.json").read_bytes()),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in ("torch", "transformers", "peft")},
    }
    write_whole(folder / "log.json", json.dumps(log, indent=1))
    return folder


# ---------------------------------------------------------------- from the files alone


class Found(dict):
    """What `examine` found, printed as a table."""

    def __repr__(self):
        return "\n".join(f"{name:28} {value}" for name, value in self.items() if name != "wrong") + "".join(
            f"\n! {sentence}" for sentence in self.get("wrong", ())
        )


def examine(folder=FOLDER):
    """What is in a capstone's folder, measured from its files: a `Found`, or None where there is no folder yet.

    Whatever the files hold, this returns: what is out of order is a sentence in `wrong`, and what cannot be known is missing.
    """
    folder = Path(folder)
    if not (folder / "proposal.json").exists():
        return None
    found, wrong = Found(), []
    files = {n: (folder / n).read_bytes() for n, most in FILES.items() if _is_file(folder / n, most)}
    wrong += [f"There is no {name} that can be read." for name in FILES if name not in files]
    proposal = _look_at_proposal(files, found, wrong)
    told = _json(files.get("predictions.json"))
    if {WEIGHTS, "adapter_config.json"} <= set(files):
        _look_at_adapter(folder, files, proposal, told, found, wrong)
    return Found(**found, wrong=wrong)


def _is_file(path, most):
    return path.is_file() and path.stat().st_size <= most


def _look_at_proposal(files, found, wrong):
    """The last proposal, for its language at least; its budget, if it holds, and what the log says."""
    entries, log = entries_in(files.get("proposal.json", b"")), _json(files.get("log.json"))
    last = entries[-1] if entries and entries[-1].get("language") in list(LANGUAGES) else {}
    found["language"] = LANGUAGES.get(last.get("language"), "none")
    found["sealed before"] = False
    if why := broken(entries):
        wrong.append(why)
    else:
        began, at = time_of(log.get("began")), time_of(last["sealed"])
        found["sealed before"] = began is not None and at <= began and log.get("proposal") == last["hash"]
        if not found["sealed before"]:
            wrong.append("The log of the training does not name this proposal, or the training began before it was sealed.")
    for name in ("parameters", "seconds"):
        if _is_number(last.get(name)):
            found[f"{name} allowed"] = last[name]
    if _is_number(log.get("seconds")):
        found["seconds"] = log["seconds"]
    for name, key in ((WEIGHTS, "adapter"), ("predictions.json", "predictions")):
        if name in files and log.get(key) != _hash(files[name]):
            wrong.append(f"{name} is not the file that the log was written for.")
    return last


def _look_at_adapter(folder, files, proposal, told, found, wrong):
    """The adapter loaded, here and in the library; what it writes, what it keeps, switched on and off."""
    try:
        with safe_open(folder / WEIGHTS, "pt") as opened:
            found["parameters"] = sum(math.prod(opened.get_slice(k).get_shape()) for k in opened.keys())  # noqa: SIM118
        if (base := _json(files["adapter_config.json"]).get("base_model_name_or_path")) != BASE:
            raise ValueError(f"it was made for the base {str(base)[:80]!r}, and not for {BASE}")
        model, tokenizer = load_base(BASE)
        pl.load(model, folder)
        found["off is the base"] = _off_is_the_base(model, tokenizer)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's files cause
        wrong.append(f"The adapter can't be loaded: {_first_words(error)}.")
        return
    found["same in peft"] = _same_in_peft(model, tokenizer, folder, wrong)
    if not proposal:
        return
    language = proposal["language"]
    mean, half = letters(model, tokenizer, language)
    found["letters"], found["of the head alone"] = f"{mean:.1%} ± {half:.1%}", "{:.1%} ± {:.1%}".format(*head_alone(language))
    found["better than the head alone"] = mean - half > sum(head_alone(language))
    written = polyglot.ask(model, tokenizer, _asked(language))
    right = polyglot.dataset(language, "test")["answer"]
    found["numbers without a mistake"] = f"{sum(map(str.__eq__, written, right)) / len(right):.1%}"
    said = told.get("answers")
    same = isinstance(said, list) and len(said) == len(written) and sum(a != b for a, b in zip(said, written)) <= DIFFER
    found["the answers are its own"] = same
    kept = {"before": _untouched(), "on": knows(model)}
    kept["off"] = kept["before"] if found["off is the base"] else {}
    found["kept"] = kept
    found["kept as reported"] = _about(told.get("kept"), kept)


@torch.no_grad()
def _off_is_the_base(model, tokenizer):
    batch = answers(tokenizer)([polyglot.dataset(t, "test")[i] for t in polyglot.KNOWN for i in (0, 99)])
    with switched_off(model):
        return torch.equal(model(**batch).logits, _base()(**batch).logits)


@torch.no_grad()
def _same_in_peft(model, tokenizer, folder, wrong):
    """Does `peft` load the file, and give the same logits?"""
    import peft

    batch = answers(tokenizer)([polyglot.dataset(t, "test")[7] for t in polyglot.LANGUAGES])
    try:
        theirs = peft.PeftModel.from_pretrained(load_base(BASE)[0], folder).eval()
        ours, other = model(**batch).logits, theirs(**batch).logits
        if gap := 0 if ours.shape == other.shape and torch.allclose(ours, other, rtol=1e-3, atol=1e-3) else (ours - other).abs().max():
            wrong.append(f"In `peft` the file gives other logits, by up to {float(gap):.2g}.")
        return not gap
    except Exception as error:  # noqa: BLE001 - whatever a stranger's files cause
        wrong.append(f"`peft` does not load the file: {_first_words(error)}.")
        return False


# ---------------------------------------------------------------- measures


def _asked(language):
    return polyglot.dataset(language, "test")["prompt"]


def knows(model):
    """{language: share of fifty held-out numbers written without a mistake} for those that the base was taught."""
    _, tokenizer = load_base(BASE)
    out = {}
    for language in polyglot.KNOWN:
        rows = polyglot.dataset(language, "test")[KEPT]
        written = polyglot.ask(model, tokenizer, rows["prompt"])
        out[language] = sum(map(str.__eq__, written, rows["answer"])) / len(written)
    return out


def letters(model, tokenizer, language):
    """(mean, half of its 95 % interval) over the held-out numbers of `polyglot.letters`."""
    shares = polyglot.letters(model, tokenizer, language)
    return shares.mean().item(), Z95 * (shares.std() / len(shares) ** 0.5).item()


@cache
def head_alone(language):
    """(mean, half of its 95 % interval) over the recorded seeds: letters where the output layer alone was trained."""
    runs = records.load("head-alone")
    best = best_rates(runs[runs["language"] == language], ["language"], by="train_loss", lowest=True)
    return interval(best["letters"])


@cache
def _base():
    return load_base(BASE)[0]


@cache
def _untouched():
    return knows(_base())


def _about(said, kept):
    """Are these the shares that were reported, but for an answer that rounding decides?"""
    try:
        return all(abs(said[when][t] - kept[when][t]) <= 0.021 for when in ("before", "on", "off") for t in polyglot.KNOWN)
    except (KeyError, TypeError):
        return False


def _first_words(error):
    text = str(error)
    return text.rstrip(". ") if len(text) < 300 else text[:300].rsplit(" ", 1)[0] + " ..."


def _json(data):
    """A dict that a stranger may have written; {} where it is none."""
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _hash(data):
    return hashlib.sha256(data).hexdigest()
