"""Recorded runs: `peftlab record NAME` runs an experiment and keeps one JSON line a run in `data/runs/NAME.jsonl`.

An experiment is one file in `peftlab/lab/experiments/`: `plan(toy=False)` gives every configuration as plain JSON, seed
included, and `run(config, device)` gives what was measured. A run is known by the hash of its configuration and the kind
of device, so a recording that was killed goes on where it stood: nothing is lost, nothing is done twice.
"""

import hashlib
import json
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import iter_modules

from filelock import FileLock

from peftlab.lab import sources

RUNS = sources.ROOT / "data" / "runs"
PACKAGES = ("torch", "transformers", "peft", "datasets")


def experiments():
    """The names of all experiments: "grid-polyglot", ..."""
    rooms = import_module("peftlab.lab.experiments")
    return sorted(room.name.replace("_", "-") for room in iter_modules(rooms.__path__))


def experiment(name):
    """The module of an experiment. Raises ValueError with the names there are."""
    if name.replace("_", "-") not in experiments():
        raise ValueError(f"no experiment is called {name!r}; there are: {', '.join(experiments())}")
    return import_module(f"peftlab.lab.experiments.{name.replace('-', '_')}")


def key(config, kind):
    """What a run is known by: its configuration and the kind of device ("cpu" or "cuda")."""
    text = json.dumps([config, kind], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record(name, device="cpu", toy=False, folder=RUNS, at_most=None):
    """Run what is not recorded yet, or `at_most` runs of it; yields (number of runs to go, record) after each one."""
    import torch

    module, kind = experiment(name), torch.device(device).type
    name, folder = name.replace("_", "-"), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{'.toy' if toy else ''}.jsonl"
    mend(path)
    done = {line["key"] for line in read(path)}
    due = [config for config in module.plan(toy=toy) if key(config, kind) not in done]
    about = provenance(device, getattr(module, "USES", ()))
    for i, config in enumerate(due[:at_most]):
        began = time.perf_counter()
        metrics = module.run(config, device)
        line = {
            "experiment": name,
            "key": key(config, kind),
            "config": config,
            "metrics": metrics,
            "seconds": round(time.perf_counter() - began, 3),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **about,
        }
        append(path, line)
        yield len(due) - i - 1, line


def append(path, line):
    """Add one record, unless another process was first; on the disk before this returns."""
    text = json.dumps(line, sort_keys=True, allow_nan=False) + "\n"
    with FileLock(f"{path}.lock"):
        if any(old["key"] == line["key"] for old in read(path)):
            return
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def mend(path):
    """Cut off a last line that a killed process left unfinished."""
    with FileLock(f"{path}.lock"):
        if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
            whole = data[: data.rfind(b"\n") + 1]
            part = path.with_suffix(".part")
            part.write_bytes(whole)
            os.replace(part, path)


def read(path):
    """The records in a file, without a last line that is unfinished. Raises ValueError naming a line that is damaged."""
    records = []
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
    for i, text in enumerate(lines[:-1], 1):  # after the last newline stands nothing, or half a line
        try:
            records.append(json.loads(text))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {i} is damaged ({error}): delete it, and record that run again") from error
    return records


def load(name, folder=RUNS):
    """All runs of an experiment as a pandas frame: a column for each entry of the configuration and each metric.

    `device`, `commit` and `dirty` (recorded from a changed tree) are columns too. Raises FileNotFoundError where nothing has been recorded.
    """
    import pandas

    path = Path(folder) / f"{name.replace('_', '-')}.jsonl"
    if not (records := read(path)):
        raise FileNotFoundError(f"nothing is recorded in {path}: run `peftlab record {name}`")
    kept = ("experiment", "key", "seconds", "date", "commit", "dirty")
    rows = [
        {**{k: r.get(k) for k in kept}, "device": r["device"]["name"], "kind": r["device"]["kind"]}
        | r["config"]
        | r["metrics"]
        for r in records
    ]
    return pandas.DataFrame(rows)


def stamp(frame):
    """One line that says where the runs of a frame come from: device, dates, commits."""
    dates = sorted(date[:10] for date in frame["date"])
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    commits = sorted({c[:7] for c in frame["commit"].dropna()}) or ["no commit known"]
    where = ", ".join(sorted(set(frame["device"])))
    on_gpu = "" if set(frame["kind"]) == {"cuda"} else "; not recorded on a GPU"
    more = f" and {len(commits) - 3} more" * (len(commits) > 3)
    return f"{len(frame)} recorded runs, {where}{on_gpu}; {when}; commit {', '.join(commits[:3])}{more}"


def provenance(device, uses=()):
    """Where a record comes from: device, versions, commit, and the hashes of the models and texts it used."""
    return {
        "device": describe(device),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        **commit(),
        "sources": {name: digest(name) for name in uses},
    }


def describe(device):
    """Name and kind of a device, with the driver of a GPU or the threads of a processor."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        memory = found.total_memory
        return {"kind": "cuda", "name": found.name, "memory": memory, "driver": driver, "cuda": torch.version.cuda}
    return {"kind": device.type, "name": _processor(), "threads": torch.get_num_threads()}


def _processor():
    """What the processor calls itself, or its architecture."""
    info = Path("/proc/cpuinfo")
    named = (
        [line.split(":", 1)[1].strip() for line in info.read_text().split("\n") if line.startswith("model name")]
        if info.exists()
        else []
    )
    return named[0] if named else platform.processor() or platform.machine()


def commit():
    """{"commit": ..., "dirty": ...} of the checkout; nothing where there is none."""
    found = _output("git", "rev-parse", "HEAD")
    if not found:
        return {}
    return {"commit": found, "dirty": bool(_output("git", "status", "--porcelain", "--untracked-files=no"))}


def _output(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=sources.ROOT, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().split("\n")[0]


@cache
def digest(name):
    """One hash over all files of a model or text."""
    whole = hashlib.sha256()
    folder = sources.fetch(name)
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        with open(file, "rb") as data:
            whole.update(
                f"{file.relative_to(folder).as_posix()} {hashlib.file_digest(data, 'sha256').hexdigest()}\n".encode()
            )
    return whole.hexdigest()
