"""The folder of a capstone, and the proposal in it: what is asked, what it may cost, sealed before anything is trained.

`proposal.json` is a list. Each entry has a time and a hash of itself and of the hash before it, so that an entry that was
changed later no longer fits. There is no secret in it: whoever writes every file of the folder anew is not seen.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

from .copies import write_whole

FOLDER = "capstone"  # beside the notebook
WEIGHTS = "adapter_model.safetensors"
FILES = {  # what is read of it, and how many bytes each may have
    "proposal.json": 2**17,
    "adapter_config.json": 2**16,
    WEIGHTS: 2**21,
    "log.json": 2**20,
    "predictions.json": 2**18,
}
LANGUAGES = {"nl": "Dutch", "da": "Danish", "sv": "Swedish", "hu": "Hungarian", "id": "Indonesian"}  # in no other lesson
EXAMPLE = "id"  # the lesson's own, worked out on the page
PARAMETERS = 30_000  # trainable, at most; the base has 349,000
SECONDS = 600
WORDS = {"question": 6, "metric": 2, "would_change_my_mind": 6}  # words at least


def seal(folder=FOLDER, *, language, question, metric, parameters, seconds, would_change_my_mind):
    """Keep a proposal in `folder`, with the time and a hash. Returns the entry.

    language: a key of LANGUAGES; question, metric, would_change_my_mind: in your words; parameters, seconds: the budget, for
    the trainable parameters and for one training. The same proposal once more changes nothing; another one is put
    behind the first, which stays. Once something was trained in the folder a proposal can't be changed any more.
    Raises ValueError, and writes nothing, where it is no proposal or comes too late.
    """
    said = {
        "language": language,
        "question": question,
        "metric": metric,
        "parameters": parameters,
        "seconds": seconds,
        "would_change_my_mind": would_change_my_mind,
    }
    if wrong := _wrong(said):
        raise ValueError(wrong)
    folder = Path(folder)
    if folder.name == FOLDER and language == EXAMPLE:
        others = ", ".join(key for key in LANGUAGES if key != EXAMPLE)
        raise ValueError(f"{LANGUAGES[EXAMPLE]} is the page's own example: choose one of {others}")
    entries = _there(folder)
    if entries and {k: entries[-1].get(k) for k in said} == said:
        return entries[-1]
    if (folder / "log.json").exists() or (folder / WEIGHTS).exists():
        raise ValueError(
            f"something was trained in {folder} already, for the proposal that is sealed there: it is not changed afterwards. "
            f"Give another folder for another proposal, such as {str(folder) + '-2'!r}. What you hand in is called {FOLDER!r}"
        )
    entry = said | {"sealed": now()}
    entry["hash"] = hash_of(entry, entries)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "proposal.json", json.dumps([*entries, entry], indent=1))
    return entry


def sealed(folder=FOLDER):
    """The proposal that counts, the last. A ValueError where there is none or it does not fit its hash."""
    entries = _there(Path(folder))
    if not entries:
        raise ValueError(f"{folder} holds no proposal: seal one first, before you train")
    return entries[-1]


def _there(folder):
    path = folder / "proposal.json"
    if not path.exists():
        return []
    entries = entries_in(path.read_bytes())
    if why := broken(entries):
        raise ValueError(f"{path}: {why} Give another folder")
    return entries


def entries_in(data):
    """The entries of a proposal.json that a stranger may have written; [] where it is none."""
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError):
        return []
    return entries if isinstance(entries, list) and all(isinstance(e, dict) for e in entries) else []


def broken(entries):
    """Why these entries are no sealed proposal, in a sentence; "" where they are one."""
    if not entries:
        return "There is no proposal in it."
    for i, entry in enumerate(entries):
        if entry.get("hash") != hash_of(entry, entries[:i]):
            return f"Proposal {i + 1} was changed after it was sealed: it does not fit its hash."
        if wrong := _wrong(entry):
            return f"Proposal {i + 1}: {wrong}."
        if time_of(entry.get("sealed")) is None:
            return f"Proposal {i + 1} has no time."
    return ""


def hash_of(entry, before):
    """What an entry's hash has to be, with the entries before it."""
    rest = {k: v for k, v in entry.items() if k != "hash"}
    text = json.dumps([before[-1].get("hash") if before else "", rest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def now():
    """The time in UTC, to the second, as it is kept."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def time_of(text):
    """A time as `now` gives it, or None."""
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else None


def _wrong(said):
    """What is wrong with a proposal, in a sentence; "" where nothing is."""
    if said.get("language") not in list(LANGUAGES):
        return f"the language is one of {', '.join(LANGUAGES)}, and not {said.get('language')!r}"
    for name, most, unit in (("parameters", PARAMETERS, "trainable parameters"), ("seconds", SECONDS, "seconds")):
        value = said.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            return f"`{name}` is a whole number from 1 to {most:,}, of {unit}, and not {value!r}"
    for name, least in WORDS.items():
        text = said.get(name)
        if not isinstance(text, str) or len(text.split()) < least:
            return f"`{name}` wants a sentence, of {least} words at least"
        if len(text) > 5_000:
            return f"`{name}` is longer than 5,000 characters"
    return ""
