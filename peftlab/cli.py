"""The command `peftlab`, or `python -m peftlab`. Nothing heavy is imported before a command needs it."""

import argparse
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

from peftlab.lab import sources

JUPYTER = sources.ROOT / "data" / "jupyter"  # settings of ours for the server that `lab` starts; the user's own stay


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 0 when all is well."""
    parser = argparse.ArgumentParser(
        prog="peftlab",
        description="Learn parameter-efficient fine-tuning by building it.",
        epilog="\n".join(f"  {name:9}{command.__doc__.splitlines()[0]}" for name, command in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help="one of those below")
    parser.add_argument(
        "more", nargs=argparse.REMAINDER, help="options of that command; `lab` hands them to JupyterLab"
    )
    options = parser.parse_args(arguments)
    try:
        _settle_cache()
        return COMMANDS[options.command](options.more)
    except sources.SourceError as error:
        print(f"peftlab: {error}", file=sys.stderr)
        return 1
    except sqlite3.Error as error:
        print(
            f"peftlab: the record of your progress, {_record()}, can't be read ({error}). Your notebooks are not affected. "
            "If it stays so, move that file aside: a new one begins.",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(f"peftlab: {error.strerror or error}:{where}. Free space there, or put PEFTLab where you may write.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\npeftlab: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _settle_cache():
    """A folder that PEFTLAB_CACHE names is the same one in the notebooks, which run elsewhere."""
    if named := os.environ.get("PEFTLAB_CACHE"):
        try:
            os.environ["PEFTLAB_CACHE"] = str(Path(named).expanduser().absolute())
        except RuntimeError as error:
            raise sources.SourceError(f"PEFTLAB_CACHE is {named!r}, and there is no such user: name a folder") from error


def lab(more: list[str]) -> int:
    """Open the lessons in JupyterLab; fetch what is missing first."""
    fetch([])
    from peftlab.classroom import first
    from peftlab.classroom.copies import make_copies

    work = sources.ROOT / "work"
    for message in [*make_copies(work), *first.make_page(work)]:
        print(message)
    paths = [str(JUPYTER), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, paths))
    # so that a terminal or `!pip` in JupyterLab means this environment
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    print(f"Starting JupyterLab in {work}: stop it with Ctrl-C. Your notebooks stay there.", flush=True)
    options = ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={work}"]
    if lesson := first.lesson(work):
        options.append(f"--LabApp.default_url=/lab/tree/{quote(lesson)}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--ServerApp.allow_root=True")  # a container's only user; else Jupyter would refuse
    from jupyterlab.labapp import LabApp

    sys.argv = ["jupyter-lab"]  # what Jupyter shows in its own messages
    return LabApp.launch_instance([*options, *more]) or 0


def fetch(more: list[str]) -> int:
    """Download and verify the models and texts that are not here yet."""
    _no(more, "fetch")
    for name in sources.known():
        if not sources.ready(name):
            print(f"{name}: {sources.entry(name)['what']}", flush=True)
        sources.fetch(name)
        copy = sources.fast_copy(name)
        if copy and not sources.whole(copy):
            print(f"{name}: making a copy that loads in a second (once; some 15 seconds)", flush=True)
            load = f"from peftlab.lab import load_base; load_base({name!r})"  # apart: torch need not stay in memory
            subprocess.run([sys.executable, "-c", load], cwd=sources.ROOT, check=False)
    return 0


def doctor(more: list[str]) -> int:
    """Say what is here, what is missing, and what to do about it; read and verify every file."""
    _no(more, "doctor")
    import psutil

    wrong = []

    def line(what: str, found: str, advice: str = ""):
        print(f"{'look:' if advice else 'ok:':6}{what}: {found}{'. ' + advice if advice else ''}")
        if advice:
            wrong.append(what)

    line("Python", f"{platform.python_version()} on {platform.platform()}, {sys.executable}")
    for package in ("torch", "transformers", "peft", "datasets", "jupyterlab"):
        try:
            import_module(package)
            line(package, version(package))
        except (ImportError, OSError) as error:
            todo = "Run `python3 tasks.py lab` again; if it stays so, delete .venv first"
            line(package, f"does not import ({error})", todo)
    cores, memory = psutil.cpu_count(), psutil.virtual_memory()
    line("Processor", f"{cores} cores", "Two are wanted: lessons will take longer" if cores < 2 else "")
    low = memory.available < 3e9
    found = f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB of them free"
    line("Memory", found, "Lessons with smollm2-135m want 3 GB free: close other programs" if low else "")
    line("Device", _device())
    cache = sources.cache_dir()
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    line("Disk", f"{free / 1e9:.1f} GB free for {cache}", "Free 2 GB, or set PEFTLAB_CACHE" if free < 2e9 else "")
    for name, source in sources.known().items():
        trouble = sources.problems(name)
        if trouble:
            shipped = source["kind"] == "shipped"
            todo = "`git checkout -- data` restores it" if shipped else "`python3 tasks.py lab` fetches it"
            line(name, "; ".join(trouble), todo)
        else:
            line(name, f"present and verified, {sources.folder(name)}")
        copy = sources.fast_copy(name)
        if copy and not trouble and not sources.whole(copy):
            line(name, "no fast copy yet", "It is made at the first load, in some 15 seconds")
    print(f"\n{len(wrong)} to look at: {', '.join(wrong)}" if wrong else "\nAll is well.")
    return 1 if wrong else 0


def build(more: list[str]) -> int:
    """Make the notebooks from notebooks/source (for those who write lessons)."""
    from peftlab.classroom.build import build_lessons

    build_lessons(*more)
    return 0


def progress(more: list[str]) -> int:
    """Say where you stand: each exercise, its tries and its time; `peftlab progress 03` shows one lesson."""
    from peftlab.classroom import progress

    path = _record()
    if len(more) > 1:
        raise SystemExit("peftlab progress [LESSON]: one lesson, by its number, or none for all")
    rows = progress.summary(*more, path=path)
    if not rows:
        raise SystemExit(f"peftlab progress: no lesson has the number {more[0]}")
    print(progress.Board(rows))
    from peftlab.classroom import first

    for message in first.make_page(path.parent) if path.parent == progress.WORK and path.parent.is_dir() else ():
        print(message)
    return 0


def hint(more: list[str]) -> int:
    """Give the next hint for an exercise: `peftlab hint lora-forward`."""
    from peftlab.classroom import progress

    text, which = progress.next_hint(_exercise("hint", more), _record())
    print(f"Hint {which}: {text}" if which else text)
    return 0


def solution(more: list[str]) -> int:
    """Print one solution of an exercise: `peftlab solution lora-forward`. That you read it is noted, no more."""
    from peftlab.classroom import progress

    try:
        print(progress.solution(_exercise("solution", more), _record()))
    except ValueError as error:
        raise SystemExit(f"peftlab solution: {error}") from error
    return 0


def reset(more: list[str]) -> int:
    """Put an exercise's empty stub back into your copy: `peftlab reset lora-forward`; your attempt is kept in a file."""
    from peftlab.classroom import progress

    try:
        kept = progress.reset(_exercise("reset", more), path=_record())
    except ValueError as error:
        raise SystemExit(f"peftlab reset: {error}") from error
    print(f"The stub is back. What you had written is in {kept}.")
    print("If the lesson is open in JupyterLab, reload it from disk (File menu) before you type in it.")
    return 0


def _record() -> Path:
    from peftlab.classroom import progress

    return progress.file() or progress.WORK / "progress.sqlite"


def _exercise(command: str, more: list[str]) -> str:
    """The id of the one exercise that is named, or an end with those that are spelt much alike."""
    import difflib

    from peftlab.classroom import all_exercises

    known = [e.id for e in all_exercises()]
    if len(more) != 1:
        raise SystemExit(f"peftlab {command} EXERCISE: name one, such as {known[0]}; `peftlab progress` lists them")
    if more[0] not in known:
        near = difflib.get_close_matches(more[0], known, 3, 0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "the check below each exercise has its name"
        raise SystemExit(f"peftlab {command}: no exercise is called {more[0]!r}; {hint}")
    return more[0]


def course(more: list[str]) -> int:
    """Make an nbgrader course of the lessons: `peftlab course FOLDER [LESSON ...]` (for teachers)."""
    if not more or more[0].startswith("-"):
        raise SystemExit("peftlab course FOLDER [LESSON ...]: name the folder of the course to make")
    from peftlab.classroom.grading import make_course

    try:
        folder = make_course(*more)
    except ValueError as error:
        raise SystemExit(f"peftlab course: {error}") from error
    print(f"The course is in {folder}. There: nbgrader generate_assignment LESSON --create")
    return 0


def grade(more: list[str]) -> int:
    """Grade a folder of submissions in a sandbox, into nbgrader's gradebook: `peftlab grade SUBMISSIONS` (for teachers)."""
    from peftlab.classroom.grading import grade as run

    return run(more)


def marks(more: list[str]) -> int:
    """Write the marks as Canvas, Moodle or a spreadsheet reads them: `peftlab marks COURSE --roster FILE` (for teachers)."""
    from peftlab.classroom.out import marks as run

    return run(more)


def answers(more: list[str]) -> int:
    """Write each answer as a Python file, to look for copies: `peftlab answers SUBMISSIONS --to FOLDER` (for teachers)."""
    from peftlab.classroom.out import answers as run

    return run(more)


def record(more: list[str]) -> int:
    """Record an experiment's runs in data/runs, or go on with them: `peftlab record NAME [--device cuda]`."""
    import warnings

    from peftlab.lab import records, set_threads

    parser = argparse.ArgumentParser(prog="peftlab record", description="Stop it with Ctrl-C: it goes on from there.")
    parser.add_argument("experiment", help=f"one of {', '.join(records.experiments())}")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or cuda:1")
    parser.add_argument(
        "--toy", action="store_true", help="a rehearsal: few and small runs, kept in a file of their own"
    )
    parser.add_argument("--at-most", type=int, help="stop after so many runs")
    parser.add_argument("--folder", default=records.RUNS, help="where the records go (data/runs)")
    options = parser.parse_args(more)
    set_threads()
    warnings.simplefilter("ignore")
    try:
        for left, line in records.record(
            options.experiment, options.device, options.toy, options.folder, options.at_most
        ):
            print(f"{line['seconds']:6.1f} s  {json.dumps(line['config'])}  {left} to go", flush=True)
    except (ValueError, RuntimeError) as error:
        raise SystemExit(f"peftlab record: {error}") from error
    return 0


def methods(more: list[str]) -> int:
    """Say what each method does; `peftlab methods LoRA` shows one with its source."""
    import difflib

    from peftlab.lab import catalogue

    known = catalogue.every()
    spelt = {name.lower(): name for name in known}
    for name in more:
        name = spelt.get(name.lower(), name)
        if name not in known:
            near = difflib.get_close_matches(name.lower(), [n.lower() for n in known], 3, 0.5)
            hint = ", ".join(n for n in known if n.lower() in near) or ", ".join(known)
            raise SystemExit(f"peftlab methods: there is no {name!r}; did you mean {hint}?")
        file = sys.modules[known[name].__module__].__file__
        print(f"{file}\n\n{Path(file).read_text(encoding='utf-8')}")
    if not more:
        for name, method in known.items():
            print(f"{name:17}{catalogue.equation(method)}")
        print("\ndocs/methods.md has their papers, parameters, and how equal each is to the library's.")
    return 0


def bench(more: list[str]) -> int:
    """Time a step of ours beside the library's: ratios, below 1.00 where ours costs less (--help lists the options)."""
    from peftlab.lab.bench import main as compare

    compare(more)
    return 0


def _device() -> str:
    try:
        import torch
    except ImportError:
        return "unknown without torch"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {torch.cuda.mem_get_info()[1] / 1e9:.0f} GB"
    if torch.backends.mps.is_available():
        return "an Apple GPU (mps); the lessons compute on the processor"
    from peftlab.lab import set_threads

    set_threads()
    threads = torch.get_num_threads()
    return f"the processor, {threads} thread{'s' * (threads > 1)} (PEFTLAB_THREADS sets another number). No lesson needs a GPU"


def _no(more: list[str], command: str):
    if more:
        raise SystemExit(f"peftlab {command} takes no options: {' '.join(more)}")


COMMANDS = {
    "lab": lab,
    "fetch": fetch,
    "doctor": doctor,
    "progress": progress,
    "hint": hint,
    "solution": solution,
    "reset": reset,
    "course": course,
    "grade": grade,
    "marks": marks,
    "answers": answers,
    "methods": methods,
    "bench": bench,
    "record": record,
    "build": build,
}
