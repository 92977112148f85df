"""A capstone's folder: sealed before, written after, and judged from its files alone, whatever they hold."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from safetensors.torch import load_file, save_file

import peftlab as pl
from peftlab.classroom import build, capstone, check, find, judge, proposals, submissions
from peftlab.classroom.credit import earned
from peftlab.lab import polyglot
from peftlab.lab.experiments import head_alone
from peftlab.lab.training import answers, train
from peftlab.methods import LoRA

NAME = "14-choose-and-capstone"
ASKED = {
    "language": "nl",
    "question": "Does a small LoRA write Dutch better than the output layer alone?",
    "metric": "letters right, with an interval",
    "parameters": 22_000,
    "seconds": 600,
    "would_change_my_mind": "If the intervals of the two meet I give it up.",
}
W = proposals.WEIGHTS


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A folder with a proposal and one training, as an honest learner has it."""
    folder = tmp_path_factory.mktemp("honest") / proposals.FOLDER
    proposals.seal(folder, **ASKED)
    model, tokenizer = pl.lab.load_base(capstone.BASE)
    torch.manual_seed(0)
    pl.attach(model, LoRA, "all-linear", r=4, lora_alpha=8)
    run = train(model, polyglot.dataset("nl"), answers(tokenizer), steps=60, lr=0.01, seed=0, progress=False)
    capstone.save(model, run, 0.5, folder)
    return folder


# ---------------------------------------------------------------- the proposal


def test_the_languages_are_those_of_the_control_and_no_lesson_has_used_them():
    assert list(proposals.LANGUAGES) == head_alone.LANGUAGES and proposals.EXAMPLE in proposals.LANGUAGES
    places = [*build.NOTEBOOKS.glob("source/*.py"), *Path(head_alone.__file__).parent.glob("*.py")]
    for path in places:
        if path.stem not in (NAME, "head_alone"):
            text = path.read_text(encoding="utf-8")
            assert not [t for t in proposals.LANGUAGES if f'"{t}"' in text or f"<{t}>" in text], path.name


def test_the_same_proposal_changes_nothing_and_another_stands_behind_it(tmp_path):
    first = proposals.seal(tmp_path / "c", **ASKED)
    assert proposals.seal(tmp_path / "c", **ASKED) == first == proposals.sealed(tmp_path / "c")
    second = proposals.seal(tmp_path / "c", **{**ASKED, "parameters": 9_000})
    entries = json.loads((tmp_path / "c" / "proposal.json").read_text())
    assert entries == [first, second] and proposals.broken(entries) == "" and first["hash"] != second["hash"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"language": "it"}, "the language is one of nl"),
        ({"language": ["nl"]}, "the language is one of nl"),
        ({"parameters": 40_000}, "from 1 to 30,000"),
        ({"parameters": True}, "whole number"),
        ({"seconds": 0}, "from 1 to 600"),
        ({"question": "LoRA?"}, "`question` wants a sentence"),
        ({"would_change_my_mind": ...}, "`would_change_my_mind` wants a sentence"),
    ],
)
def test_what_is_no_proposal_is_not_sealed(tmp_path, change, told):
    with pytest.raises(ValueError, match=told):
        proposals.seal(tmp_path / "c", **{**ASKED, **change})
    assert not (tmp_path / "c").exists()


def test_nothing_of_a_folder_with_a_training_is_ever_changed(honest):
    before = {p.name: p.read_bytes() for p in honest.iterdir()}
    assert set(before) == set(proposals.FILES)
    with pytest.raises(ValueError, match="something was trained in .* already"):
        proposals.seal(honest, **{**ASKED, "parameters": 30_000})
    model, _ = pl.lab.load_base(capstone.BASE)
    pl.attach(model, LoRA, ["q_proj"], r=1)
    with pytest.raises(ValueError, match="holds a training already"):
        capstone.save(model, None, 1, honest)
    assert {p.name: p.read_bytes() for p in honest.iterdir()} == before


def test_without_a_proposal_nothing_is_saved(tmp_path):
    model, _ = pl.lab.load_base(capstone.BASE)
    with pytest.raises(ValueError, match="no proposal: seal one first"):
        capstone.save(model, None, 1, tmp_path / "c")
    assert capstone.examine(tmp_path / "c") is None and check("capstone", None).state == "not attempted"


# ---------------------------------------------------------------- what is found


def test_an_honest_folder_has_all_points_and_the_numbers_of_its_own_measurement(honest):
    found = capstone.examine(honest)
    assert check("capstone", found), check("capstone", found)
    assert found["wrong"] == [] and found["parameters"] == sum(t.numel() for t in load_file(honest / W).values())
    model, tokenizer = pl.lab.load_base(capstone.BASE)
    pl.load(model, honest)
    assert found["numbers without a mistake"] == f"{polyglot.accuracy(model, tokenizer, 'nl'):.1%}"
    assert found["kept"]["off"] == found["kept"]["before"] and min(found["kept"]["before"].values()) > 0.95


def test_the_bar_is_the_output_layer_alone(honest):
    """An adapter that was never trained has to stay below it; so does one of one tensor less."""
    mean, half = capstone.head_alone("nl")
    model, tokenizer = pl.lab.load_base(capstone.BASE)
    untouched, _ = capstone.letters(model, tokenizer, "nl")
    pl.load(model, honest)
    trained, wide = capstone.letters(model, tokenizer, "nl")
    assert untouched < mean - half < mean + half < trained - wide


def test_the_pages_own_example_is_no_capstone(honest):
    found = {**capstone.examine(honest), "language": proposals.LANGUAGES[proposals.EXAMPLE]}
    assert "this page's own example" in check("capstone", found).message


# ---------------------------------------------------------------- handed in


def put(folder, name, change):
    """Change one JSON file of a folder in place."""
    data = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(change(data) or data))


def log_again(folder):
    """Make the log fit whatever stands there now, as someone who knows the format would."""
    hashes = {key: hashlib.sha256((folder / name).read_bytes()).hexdigest() for key, name in (("adapter", W), ("predictions", "predictions.json"))}
    put(folder, "log.json", lambda log: log.update(hashes))


def invented(folder):
    right = list(polyglot.dataset("nl", "test")["answer"])
    put(folder, "predictions.json", lambda told: told.update(answers=right))
    log_again(folder)


def invented_forgetting(folder):
    put(folder, "predictions.json", lambda told: told["kept"].update(on=told["kept"]["before"]))
    log_again(folder)


def another_base(folder):
    model, _ = pl.lab.load_base("minilm-l6")
    pl.attach(model, LoRA, ["query"], r=1)
    pl.save(model, folder)
    log_again(folder)


def another_base_by_another_name(folder):
    another_base(folder)
    put(folder, "adapter_config.json", lambda config: config.update(base_model_name_or_path=capstone.BASE))


def not_a_number(folder):
    state = load_file(folder / W)
    next(iter(state.values())).fill_(float("nan"))
    save_file(state, folder / W)
    log_again(folder)


def untrained(folder):
    save_file({k: torch.zeros_like(t) for k, t in load_file(folder / W).items()}, folder / W)
    log_again(folder)


def huge(folder):
    (folder / W).write_bytes(bytes(3 * 2**20))


def linked(folder):
    (folder / W).rename(folder.parent / "elsewhere")
    (folder / W).symlink_to(folder.parent / "elsewhere")


def linked_folder(folder):
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")


def pipe(folder):
    (folder / "log.json").unlink()
    os.mkfifo(folder / "log.json")


def pickled(folder):
    (folder / W).unlink()
    torch.save({"a": torch.zeros(2)}, folder / "adapter_model.bin")


def edited(folder):
    put(folder, "proposal.json", lambda entries: entries[-1].update(parameters=30_000))


def sealed_later(folder):
    (folder / "proposal.json").unlink()
    log = (folder / "log.json").read_bytes()
    for name in ("log.json", W):
        (folder / name).rename(folder / f"{name}.aside")
    entry = proposals.seal(folder, **ASKED)
    for name in ("log.json", W):
        (folder / f"{name}.aside").rename(folder / name)
    put(folder, "log.json", lambda log: log.update(proposal=entry["hash"], began="2026-01-01T00:00:00+00:00"))
    assert log


def over_budget(folder):
    """Sealed for less than it has; the chain is made anew, so that it fits."""
    entry = {**json.loads((folder / "proposal.json").read_text())[0], "parameters": 500}
    entry["hash"] = proposals.hash_of(entry, [])
    (folder / "proposal.json").write_text(json.dumps([entry]))
    put(folder, "log.json", lambda log: log.update(proposal=entry["hash"]))


def enormous_rank(folder):
    put(folder, "adapter_config.json", lambda config: config.update(r=10**9))


def nested(folder):
    for name in ("predictions.json", "log.json"):
        (folder / name).write_text("[" * 60_000)


def of_other_kinds(folder):
    (folder / "proposal.json").write_text(json.dumps([{"language": {}, "sealed": 3, "hash": []}]))
    (folder / "predictions.json").write_text(json.dumps({"answers": [[]] * 200, "kept": {"on": 3}}))


ATTACKS = {  # name -> (what is done to an honest folder, points, what the teacher reads)
    "honest": (lambda folder: None, 4, ""),
    "copied": (lambda folder: None, 4, ""),  # somebody else's, to the byte: not seen
    "invented": (invented, 1, "not this adapter's"),
    "invented-forgetting": (invented_forgetting, 3, "is not what was reported"),
    "another-base": (another_base, 1, "made for the base"),
    "another-base-by-another-name": (another_base_by_another_name, 1, "can't be loaded"),
    "not-a-number": (not_a_number, 1, "not all finite"),
    "untrained": (untrained, 1, "not what predictions.json says"),
    "huge": (huge, 0, "is larger than 2,097,152 bytes"),
    "linked": (linked, 0, "is a link"),
    "linked-folder": (linked_folder, 0, "is a link"),
    "pipe": (pipe, 3, "is no file"),
    "pickled": (pickled, 0, f"no {W} that can be read"),
    "edited": (edited, 3, "or it was changed afterwards"),
    "sealed-later": (sealed_later, 3, "began before it was sealed"),
    "over-budget": (over_budget, 3, "your proposal allows"),
    "enormous-rank": (enormous_rank, 1, "can't be loaded"),
    "nested": (nested, 0, "predictions.json"),
    "of-other-kinds": (of_other_kinds, 0, "Proposal 1"),
}


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    course = tmp_path_factory.mktemp("course")
    path = course / "source" / NAME / f"{NAME}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(build.complete(NAME), path)
    return submissions.lesson_named(NAME, course)


def hand_in(place, lesson, honest, change=lambda folder: None):
    """The notebook as it is asked for, and the folder beside it."""
    path = place / f"{NAME}.ipynb"
    place.mkdir(parents=True, exist_ok=True)
    nbformat.write(lesson.notebook, path)
    shutil.copytree(honest, place / proposals.FOLDER)
    change(place / proposals.FOLDER)
    return path


@pytest.fixture(scope="module")
def sandbox(one_sandbox):
    return one_sandbox


@pytest.mark.skipif(sys.platform != "linux", reason="what is handed in is shut in on Linux only")
@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_handed_in_earns_what_its_files_bear_out(name, tmp_path, honest, lesson, sandbox):
    change, points, told = ATTACKS[name]
    path = hand_in(tmp_path / name / NAME, lesson, honest, change)
    done = judge.grade(path, name, lesson, sandbox, 7, {"capstone"})
    said = " ".join([done.results["capstone"].message, *done.notes])
    assert done.points["capstone"] == (points, 4) and told in said, (done.points, said)


@pytest.mark.skipif(sys.platform != "linux", reason="what is handed in is shut in on Linux only")
def test_no_cell_of_the_notebook_has_a_say(tmp_path, honest, lesson, sandbox):
    forged = nbformat.from_dict(json.loads(nbformat.writes(lesson.notebook)))
    good = find("capstone").reference
    for cell in forged.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") in ("capstone", "capstone-2"):
            cell.source = f"from peftlab.classroom import capstone\nfound = {good!r}\ncapstone.examine = lambda *_: found\n"
    path = hand_in(tmp_path / NAME, lesson, honest, untrained)
    nbformat.write(forged, path)
    done = judge.grade(path, "eve", lesson, sandbox, 7)
    assert done.points["capstone"] == (1, 4), done.results["capstone"]
    shutil.rmtree(path.parent / proposals.FOLDER)
    done = judge.grade(path, "eve", lesson, sandbox, 7)
    assert done.results["capstone"].state == "not attempted" and done.points["capstone"][0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="what is handed in is shut in on Linux only")
def test_what_this_machine_cannot_examine_is_nobodys_mark(tmp_path, honest, lesson, sandbox, monkeypatch):
    path = hand_in(tmp_path / NAME, lesson, honest)
    monkeypatch.setattr(judge, "EXAMINED", "found = open('no-record-here')")
    with pytest.raises(judge.MachineTrouble, match="can't be examined on this machine"):
        judge.grade(path, "ada", lesson, sandbox, 7, {"capstone"})


@pytest.mark.skipif(sys.platform != "linux", reason="what is handed in is shut in on Linux only")
def test_another_folder_is_another_submission(tmp_path, honest, lesson):
    path = hand_in(tmp_path / NAME, lesson, honest)
    first = judge.hash_of(path)
    assert first == judge.hash_of(path) != submissions.read(path)[1]
    edited(path.parent / proposals.FOLDER)
    assert judge.hash_of(path) != first
    shutil.rmtree(path.parent / proposals.FOLDER)
    assert judge.hash_of(path) == submissions.read(path)[1]


def test_a_part_needs_the_file_it_speaks_of():
    exercise = find("capstone")
    seen = [exercise.look({**exercise.reference, "the answers are its own": False}, None)]
    assert earned(exercise, 0, [seen] * 3)[0] == 1
    seen = [exercise.look({**exercise.reference, "better than the head alone": False}, None)]
    points, told = earned(exercise, 0, [seen] * 3)
    assert points == 3 and "the comparison with the head alone is not" in told


