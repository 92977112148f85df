"""Recorded runs: nothing lost, nothing twice, however a recording ends; and what is committed is whole."""

import json
import math
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from peftlab.lab import records

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
