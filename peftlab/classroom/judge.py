"""The judge: draws the seeds, holds the expected values, compares. It never runs a line of a learner's code.

The code runs in a `sandbox`; back comes what was seen, as plain values and tensors (`wire`), in a bounded number of bytes.
"""

import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import submissions, wire
from .checking import Result, verdict
from .exercise import find
from .stripping import PACKAGE, stripped_package

LIMITS = {"seconds": 60, "memory": 2 * 2**30, "processes": 32}
LARGEST = 64 * 2**20  # bytes of observations that are read from one submission
ENDS = {
    1: "It was still running after {seconds} seconds and was ended.",
    2: "It took more than {gigabytes:g} GB of memory and was ended.",
    3: "It started more than {processes} processes and was ended.",
    4: "It sent more than a notebook has to say and was ended.",
    5: "Its process died.",
}


@dataclass
class Graded:
    """One submission: a result for each exercise, the points, and sentences on what was out of order."""

    student: str
    lesson: str
    hash: str = ""
    seed: int = 0
    results: dict = field(default_factory=dict)  # exercise -> Result
    points: dict = field(default_factory=dict)  # exercise -> (given, most)
    notes: list = field(default_factory=list)

    @property
    def total(self):
        return tuple(map(sum, zip(*self.points.values()))) or (0, 0)


def sweep():
    """Remove the folders of graders that were killed: those of ours whose process is gone."""
    for left in Path(tempfile.gettempdir()).glob("peftlab-grade-*-*"):
        number = left.name.split("-")[2]
        if number.isdigit() and left.stat().st_uid == os.getuid() and not Path("/proc", number).exists():
            shutil.rmtree(left, ignore_errors=True)


class Sandbox:
    """The warm process and what it says of itself. It is started again when it is gone."""

    def __init__(self, limits=LIMITS, bare=False):
        self.limits, self.bubblewrap = dict(limits), None if bare else shutil.which("bwrap")
        sweep()
        self.folder = tempfile.mkdtemp(prefix=f"peftlab-grade-{os.getpid()}-")
        stripped_package(self.folder)
        os.symlink(PACKAGE.parent / "data", Path(self.folder) / "data")
        self.process = None
        self.start()

    def start(self):
        self.control, theirs = socket.socketpair()
        with theirs:
            settings = json.dumps({**self.limits, "readable": _readable(self.folder)})
            command = [sys.executable, "-s", "-m", "peftlab.classroom.sandbox", str(theirs.fileno()), settings]
            if self.bubblewrap:
                command = [*_wrapped(self.bubblewrap, self.folder), *command]
            self.process = subprocess.Popen(
                command, cwd="/", env=_environment(self.folder), pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        self.control.settimeout(300)
        hello = self.control.makefile().readline()
        if not hello:
            raise RuntimeError("the sandbox did not start; what it said stands above")
        self.found = json.loads(hello)

    def close(self):
        self.control.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def describe(self):
        """Which protections are there and which are not, for the report."""
        network = "no network, no process but its own" if self.bubblewrap or self.found["apart"] else ""
        files = "a file system it can read but not change" if self.bubblewrap or self.found["files"] else ""
        has = "; ".join(filter(None, [network, files, "limits on time, memory, processes and output"]))
        kind = "bubblewrap" if self.bubblewrap else "a bare child (no bubblewrap on this machine)"
        missing = [w for w, there in (("network and processes", network), ("files", files)) if not there]
        warning = f" NOT SHUT OFF: {', '.join(missing)}. Grade only people you trust." if missing else ""
        return f"Sandbox: {kind}: {has}.{warning}"

    def run(self, job):
        """The frames that came back, how it ended (a key of ENDS, 0 when well), and what was wrong with the frames."""
        try:
            return self._run(json.dumps(job).encode())
        except (OSError, EOFError, IndexError):  # the warm process is gone or does not answer
            self.process.kill()
            self.close()
            self.start()
            return [], 5, ""

    def _run(self, job):
        with tempfile.TemporaryFile() as file:
            file.write(job)
            file.flush()
            file.seek(0)
            inward, outward = os.pipe()
            socket.send_fds(self.control, [b"x"], [file.fileno(), outward])
            os.close(outward)
        data, end = bytearray(), time.monotonic() + self.limits["seconds"] + 60
        with os.fdopen(inward, "rb", buffering=0) as pipe:
            while len(data) <= LARGEST:
                if not select.select([pipe], [], [], max(0, end - time.monotonic()))[0]:
                    raise EOFError
                if not (more := pipe.read(2**20)):
                    break
                data += more
        if len(data) > LARGEST:
            self.control.sendall(b"x")
        status = min(self.control.recv(1)[0], 5)
        frames = []
        try:
            frames.extend(wire.unpack(data[:LARGEST]))
        except ValueError as e:
            return frames, status, str(e)
        return frames, status, ""


def any_seed():
    """One nobody can know beforehand, and none that `check` uses. Small: some exercises make sizes of it."""
    return 2 + secrets.randbelow(9998)


def grade(path, student, lesson, sandbox, seed):
    """Grade one submission. Whatever it holds, this returns."""
    done = Graded(student, lesson.name, seed=seed)
    done.points = {e: (0, m["points"]) for e, m in lesson.exercises.items()}
    try:
        data, done.hash = submissions.read(path)
        texts, done.notes = submissions.solutions(data, lesson)
    except submissions.Unreadable as e:
        done.results = {e_: Result(e_, "not yet", str(e)) for e_ in lesson.exercises}
        done.notes = [str(e)]
        return done
    cells = [[*c, texts.get(c[1])] if c[0] == "theirs" else c for c in lesson.cells]
    cells = [c for c in cells if c[-1] is not None]
    frames, status, wrong = sandbox.run({"seed": done.seed, "cells": cells})
    limits = {**sandbox.limits, "gigabytes": sandbox.limits["memory"] / 2**30}
    ended = ENDS[status].format(**limits) if status else ""
    done.notes += filter(None, [ended, wrong and f"{wrong[0].upper()}{wrong[1:]}."])
    missing = ended or wrong or "Its process ended before this was observed"
    for id, asked in lesson.exercises.items():
        done.results[id] = _judge(id, [f for f in frames if isinstance(f, dict) and f.get("exercise") == id], done, missing)
        if not set(asked["solutions"]) & set(texts) and done.results[id].state == "not yet":
            done.results[id] = Result(id, "not attempted", "Its cell is not in the notebook.")
        done.points[id] = (asked["points"] if done.results[id] else 0, asked["points"])
    return done


def hash_of(path):
    """The hash of a submission's bytes; of nothing, where it can't be read."""
    try:
        return submissions.read(path)[1]
    except submissions.Unreadable:
        return ""


def tell(done):
    """A line for the submission, and one for each thing a teacher may want to know."""
    given, most = done.total
    lines = [f"{clean(done.student)}, {done.lesson}: {given:g} of {most:g}"]
    lines += [f"  {note}" for note in map(clean, done.notes)]
    for id, result in done.results.items():
        if not result and result.message not in done.notes:
            lines.append(f"  {id}: {result.state}. " + " ".join(result.message.split("\n")))
    return "\n".join(lines)


def _judge(id, frames, done, missing):
    """The result for one exercise, from what the sandbox sent about it."""
    if not frames:
        return Result(id, "not yet", f"{missing.rstrip('.')}. Nothing is known of this answer.")
    if len(frames) > 1:
        done.notes.append(f"{id} was answered {len(frames)} times; the grader asks once, so none of them counts.")
        return Result(id, "not yet", done.notes[-1])
    frame = frames[0]
    if frame.get("state") == "not attempted":
        return Result(id, "not attempted", "The stub is as it was.")
    if frame.get("state") == "error":
        return Result(id, "not yet", clean(frame.get("told")))
    try:
        seen = _believable(frame["seen"])
        result = verdict(find(id), seen, done.seed, lambda: _looks(frame.get("looks")))
    except Exception as e:  # noqa: BLE001 - what was sent has not the shape that an observation has
        done.notes.append(f"What was sent for {id} is no observation of this exercise ({type(e).__name__}).")
        return Result(id, "not yet", done.notes[-1])
    return Result(id, result.state, clean(result.message), result.slip, result.kind)


def _believable(seen):
    """A list of dicts with names as keys; an error is two texts and nothing else."""
    if not isinstance(seen, list) or not all(isinstance(s, dict) and all(isinstance(k, str) for k in s) for s in seen):
        raise TypeError
    return [{"error": clean(s["error"]), "told": clean(s.get("told"))} if "error" in s else s for s in seen]


def _looks(looks):
    return {name: _believable(look) for name, look in (looks or {}).items()}


def clean(text):
    """A message that may hold a learner's words, for a terminal and for nbgrader's pages: no escapes, tags or links."""
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in str(text)[:2000])
    return text.replace("<", "‹").replace(">", "›").replace("](", "] (").replace("://", ": //")


# ---------------------------------------------------------------- what the sandbox may see


def _readable(folder):
    """Files and folders that a learner's code may read: Python, its packages, the system's libraries, our models."""
    from peftlab.lab import sources

    system = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/passwd", "/dev/urandom"]
    system += ["/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu"]
    packages = Path(sysconfig.get_paths()["purelib"])
    python = [p for p in (sys.prefix, sys.base_prefix) if Path(p) not in packages.parents]
    inside = [p for p in _but(Path(sys.prefix), packages) if p.name != "peftlab"]  # not the package, answers and all
    data = [PACKAGE.parent / "data", sources.cache_dir()]
    return [os.path.realpath(p) for p in (*system, folder, *python, *inside, *data) if os.path.exists(p)]


def _but(folder, packages):
    """What is in `folder`, opened up along the way to `packages` and there; no links, which may lead around it."""
    for path in folder.iterdir():
        if path.is_symlink():
            continue
        if path == packages or path in packages.parents:
            yield from _but(path, packages)
        else:
            yield path

def _wrapped(bwrap, folder):
    command = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--tmpfs", "/tmp"]  # first: Python itself may live below it
    for path in _readable(folder):
        if not path.startswith(("/proc", "/dev")):
            command += ["--ro-bind", path, path]
    for link in ("/lib", "/lib64", "/bin"):
        if os.path.islink(link):
            command += ["--symlink", os.readlink(link), link]
    if (own := Path(sysconfig.get_paths()["purelib"]) / "peftlab").exists():
        command += ["--tmpfs", str(own)]
    return [*command, "--proc", "/proc", "--dev", "/dev", "--chdir", "/", "--"]


def _environment(folder):
    """Nothing of the teacher's own: no address of a gradebook, no password."""
    keep = {k: v for k in ("PATH", "LANG", "PEFTLAB_CACHE", "LD_LIBRARY_PATH") if (v := os.environ.get(k))}
    return {
        **keep,
        "PYTHONPATH": folder,
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HOME": "/tmp",
    }
