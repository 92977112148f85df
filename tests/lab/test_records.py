"""Recorded runs: nothing lost, nothing twice, however a recording ends; and what is committed is whole."""

import json
import math
import re
import subprocess
import sys
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

import peftlab as pl
from peftlab import nf4
from peftlab.lab import records
from peftlab.lab.experiments import cost_560m, merge_in_four_bits
from peftlab.lab.sweeps import interval

COMMITTED = sorted(p for p in records.RUNS.glob("*.jsonl") if not p.name.endswith(".toy.jsonl"))
SLOW = """
import sys, time
from types import SimpleNamespace
from peftlab.lab import records
def run(config, device):
    time.sleep(0.05)
    return {"twice": 2 * config["seed"]}
records.experiment = lambda name: SimpleNamespace(plan=lambda toy: [{"seed": s} for s in range(30)], run=run)
for left, line in records.record("slow", folder=sys.argv[1]):
    print(left, flush=True)
"""


@pytest.fixture
def counting(monkeypatch):
    """An experiment of five runs that says how often each was run."""
    ran = []

    def run(config, device):
        ran.append(config["seed"])
        return {"twice": 2 * config["seed"]}

    module = SimpleNamespace(plan=lambda toy: [{"seed": s} for s in range(2 if toy else 5)], run=run)
    monkeypatch.setattr(records, "experiment", lambda name: module)
    return ran


def test_a_recording_goes_on_where_it_stood(counting, tmp_path):
    assert [left for left, _ in records.record("x", folder=tmp_path, at_most=2)] == [4, 3]
    assert [left for left, _ in records.record("x", folder=tmp_path)] == [2, 1, 0]
    assert counting == [0, 1, 2, 3, 4] and not list(records.record("x", folder=tmp_path))
    frame = records.load("x", tmp_path)
    assert list(frame["twice"]) == [0, 2, 4, 6, 8] and "5 recorded runs" in records.stamp(frame)
    assert records.stamp(frame.assign(commit=list("abcde"))).endswith("commit a, b, c and 2 more")


def test_a_rehearsal_has_a_file_of_its_own(counting, tmp_path):
    assert len(list(records.record("x", toy=True, folder=tmp_path))) == 2
    assert sorted(p.name for p in tmp_path.glob("*.jsonl")) == ["x.toy.jsonl"]


def test_a_line_cut_anywhere_costs_that_run_alone(counting, tmp_path):
    list(records.record("x", folder=tmp_path, at_most=3))
    path = tmp_path / "x.jsonl"
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(start, len(whole), 37):
        path.write_bytes(whole[:cut])
        assert [r["config"]["seed"] for r in records.read(path)] == [0, 1]
        counting.clear()
        list(records.record("x", folder=tmp_path))
        assert counting == [2, 3, 4] and [r["config"]["seed"] for r in records.read(path)] == [0, 1, 2, 3, 4]


def test_a_damaged_line_is_named_and_nothing_is_written(counting, tmp_path):
    list(records.record("x", folder=tmp_path, at_most=3))
    path = tmp_path / "x.jsonl"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0], lines[1][:-9], *lines[2:]]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="line 2 is damaged.*delete it"):
        list(records.record("x", folder=tmp_path))
    assert path.read_bytes() == before


def test_a_number_that_is_none_is_not_recorded(counting, tmp_path, monkeypatch):
    module = SimpleNamespace(plan=lambda toy: [{"seed": 0}], run=lambda config, device: {"loss": math.nan})
    monkeypatch.setattr(records, "experiment", lambda name: module)
    with pytest.raises(ValueError, match="Out of range float"):
        list(records.record("x", folder=tmp_path))
    assert not records.read(tmp_path / "x.jsonl")


def test_killed_at_any_time_it_goes_on_and_two_at_once_write_each_run_once(tmp_path):
    """Killed once in the middle; then two processes together finish it."""
    command = [sys.executable, "-c", SLOW, str(tmp_path)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    first.stdout.readline()
    time.sleep(0.2)
    first.kill()
    first.wait()
    kept = records.read(tmp_path / "slow.jsonl")
    assert 1 <= len(kept) < 30
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [p.wait(120) for p in both] == [0, 0]
    found = records.read(tmp_path / "slow.jsonl")
    assert found[: len(kept)] == kept
    assert sorted(r["config"]["seed"] for r in found) == list(range(30))


def test_an_unknown_experiment_and_nothing_recorded_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="there are: .*random-subspace"):
        next(records.record("nonsense", folder=tmp_path))
    with pytest.raises(FileNotFoundError, match="peftlab record random-subspace"):
        records.load("random-subspace", tmp_path)


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [n for v in value for n in numbers(v)]
    return [value] if isinstance(value, int | float) else []


def test_something_is_committed():
    assert COMMITTED and {p.stem for p in COMMITTED} <= set(records.experiments())


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)
def test_what_is_committed_is_whole_and_plausible(path):
    found = records.read(path)
    assert path.read_bytes().endswith(b"\n") and len({r["key"] for r in found}) == len(found)
    planned = [json.dumps(c, sort_keys=True) for c in records.experiment(path.stem).plan()]
    for r in found:
        assert r["key"] == records.key(r["config"], r["device"]["kind"]) and r["experiment"] == path.stem
        assert json.dumps(r["config"], sort_keys=True) in planned
        assert r["seconds"] > 0 and r["commit"] and re.match(r"\d{4}-\d\d-\d\dT", r["date"])
        assert r["metrics"] and all(map(math.isfinite, numbers(r["metrics"])))
    assert not re.search(r"/home|/root|/tmp|/work|://", path.read_text(encoding="utf-8"))


def alike(found, *but):
    """[[records of one device that differ in these entries of the configuration only]]"""
    groups = {}
    for r in found:
        rest = {k: v for k, v in r["config"].items() if k not in but}
        groups.setdefault(json.dumps([rest, r["device"]], sort_keys=True), []).append(r)
    return list(groups.values())


def implausible(found):
    """What no sound measurement says, as sentences: what costs more must not have cost less, and chance must show."""
    said = []
    for group in alike(found, "seed"):
        if len(group) > 1 and all(r["metrics"] == group[0]["metrics"] for r in group):
            said.append(f"all seeds of {group[0]['config']} found the same")
    for group in alike(found, "method", "seed"):
        trained = sorted((r["metrics"]["trainable"], r["metrics"]["optimizer"]) for r in group if "optimizer" in r["metrics"])
        for (few, less), (many, more) in pairwise(trained):
            if few < many and less > more:
                said.append(f"{many:,} trained parameters need less optimizer memory than {few:,}: {more:,} and {less:,} bytes")
    for measure in ("forward", "backward", "activations", "step_seconds", "peak_memory"):
        for group in alike(found, "texts"):
            grown = sorted((r["config"]["texts"], r["metrics"][measure]) for r in group if measure in r["metrics"] and "texts" in r["config"])
            for (few, less), (many, more) in pairwise(grown):
                if less >= more and less > 0:
                    said.append(f"{measure} falls from {less} to {more} when {few} texts become {many}: {group[0]['config']}")
    for r in found:
        parts = [r["metrics"].get(part, 0) for part in ("weights", "gradients", "optimizer")]
        if "peak_memory" in r["metrics"] and sum(parts) > r["metrics"]["peak_memory"]:
            said.append(f"the parts need more than the whole: {r['config']}")
    return said


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)
def test_what_is_committed_contradicts_nothing_we_know(path):
    assert not implausible(records.read(path))


def test_a_run_that_is_deleted_comes_back_within_its_interval(tmp_path):
    found = records.read(records.RUNS / "random-subspace.jsonl")
    lost = min(found, key=lambda r: (r["config"]["d"] != 256, r["seconds"]))
    kept = [json.dumps(r) + "\n" for r in found if r is not lost]
    (tmp_path / "random-subspace.jsonl").write_text("".join(kept), encoding="utf-8")
    ((left, back),) = records.record("random-subspace", folder=tmp_path)
    assert left == 0 and back["config"] == lost["config"] and back["key"] == lost["key"]
    (seeds,) = [group for group in alike(found, "seed") if lost in group]
    for measure, value in back["metrics"].items():
        mean, half = interval([r["metrics"][measure] for r in seeds])
        assert abs(value - mean) <= max(half * len(seeds) ** 0.5, 0.02), (measure, value, lost["metrics"])  # of one run, not of a mean


CASES = {  # what is wrong in each record -> what is said of it
    "less optimizer memory": lambda config: {"optimizer": 99 - config["method"]},
    "found the same": lambda config: {"loss": 0.5, "step_seconds": 1.0 * config["texts"]},
    "when 1 texts become 8": lambda config: {"step_seconds": 2.0 - config["texts"] / 8},
    "more than the whole": lambda config: {"peak_memory": config["texts"]},
}


@pytest.mark.parametrize("complaint", CASES)
def test_what_cannot_be_is_noticed(complaint):
    def made(wrong):
        configs = [{"method": m, "texts": texts, "seed": seed} for m in (1, 2) for texts in (1, 8) for seed in (0, 1)]
        sound = lambda c: {"trainable": c["method"], "optimizer": 8 * c["method"], "loss": c["seed"] / 7, "step_seconds": c["texts"] + c["seed"], "peak_memory": 99 * c["texts"]}  # fmt: skip
        return [{"config": c, "device": {"name": "a GPU"}, "metrics": sound(c) | wrong(c)} for c in configs]

    assert not implausible(made(lambda config: {}))
    said = implausible(made(CASES[complaint]))
    assert said and all(complaint in sentence for sentence in said)


@pytest.mark.parametrize("method", cost_560m.WAYS)
@pytest.mark.parametrize("shape", ["xlm-roberta-large", "bloomz-560m", "llama-3.2-1b"])
def test_the_recorded_counts_are_those_of_the_closed_forms(shape, method):
    recorded = {
        r["metrics"]["trainable"]
        for r in records.read(records.RUNS / "cost-560m.jsonl")
        if (r["config"]["shape"], r["config"]["method"]) == (shape, method)
    }
    if not any((c["shape"], c["method"]) == (shape, method) for c in cost_560m.plan()):
        assert not recorded and method in ("head", "bias"), "only what a shape does not have is not planned"
        return
    with torch.device("meta"):
        bare, model = (cost_560m.SHAPES[shape]() for _ in range(2))
    cost_560m.put_on(model, shape, method)
    if method in ("full", "head"):
        part = bare if method == "full" else bare.classifier
        expected = sum(p.numel() for p in part.parameters())
    else:
        adapter, targets, options = model.switch.recipe["default"]
        expected = pl.closed_form(bare, adapter, targets, **options)
    assert recorded == {expected}


def test_the_levels_of_any_number_of_bits_are_at_four_those_of_nf4():
    assert torch.equal(merge_in_four_bits.levels(4), nf4.levels())
    for bits in (2, 3):
        found = merge_in_four_bits.levels(bits)
        assert len(found) == 2**bits and found[0] == -1 and found[-1] == 1 and (found == 0).sum() == 1
