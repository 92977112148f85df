"""Submissions as they lie in a folder, read as what they are: files a stranger wrote. Nothing here runs any of it.

The layout is nbgrader's: SUBMISSIONS/student/lesson/lesson.ipynb.
"""

import hashlib
import json
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from .build import CHECK, NOTEBOOKS

LARGEST = 32 * 2**20  # bytes of a notebook, pictures and all
LONGEST = 100_000  # characters of one cell


class Unreadable(Exception):
    """Why a submission can't be graded at all, in a sentence."""


@dataclass
class Lesson:
    """What a lesson asks for, from our own notebook: its cells in order, and which cell answers which exercise."""

    name: str
    notebook: object
    cells: list = field(default_factory=list)  # as slicing has them; "theirs" without a text yet
    exercises: dict = field(default_factory=dict)  # id -> {"grade_id", "points", "solutions": [grade_id, ...]}


def lesson_named(name, course=None):
    """From the teacher's course/source where it is there, else from the lessons of this package."""
    paths = [Path(course or "") / "source" / name / f"{name}.ipynb"] * bool(course) + [NOTEBOOKS / f"{name}.ipynb"]
    notebook = nbformat.read(next(p for p in paths if p.exists()), as_version=4)
    lesson, waiting = Lesson(name, notebook), []
    for cell in notebook.cells:
        ours = cell.metadata.get("nbgrader", {})
        if cell.cell_type != "code" or "heavy" in cell.metadata.get("tags", []):
            continue
        if ours.get("solution"):
            waiting.append(ours["grade_id"])
            lesson.cells.append(["theirs", ours["grade_id"]])
        elif found := CHECK.search(cell.source):
            if ours.get("grade"):
                lesson.exercises[found[1]] = {**ours, "solutions": waiting}
                lesson.cells.append(["check", found[1], found[2]])
            waiting = []
        elif not re.search(r"^[%!]", cell.source, re.MULTILINE):
            lesson.cells.append(["ours", cell.source])
    return lesson


def nameless(folder):
    """The folders whose name no gradebook can hold: control characters, bytes that are no text, over 100 characters."""
    return sorted(p for p in Path(folder).iterdir() if not p.name.isprintable() or len(p.name) > 100)


def all_submissions(folder):
    """(student, lesson, path) for each folder that could hold one, in order; links and `nameless` are not followed."""
    passed = set(nameless(folder))
    for student in sorted(p for p in Path(folder).iterdir() if p not in passed and p.is_dir() and not p.is_symlink()):
        for lesson in sorted(p for p in student.iterdir() if p.is_dir() and not p.is_symlink()):
            if (NOTEBOOKS / f"{lesson.name}.ipynb").exists():
                yield student.name, lesson.name, lesson / f"{lesson.name}.ipynb"


def read(path):
    """The bytes of a submission and their hash."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Unreadable(f"There is no {path.name}.") from None
    except OSError as e:
        raise Unreadable(f"{path.name} can't be opened, or is a link: {e.strerror}.") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Unreadable(f"{path.name} is not a file.")
    with os.fdopen(handle, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise Unreadable(f"{path.name} is larger than {LARGEST // 2**20} MB.")
    return data, hashlib.sha256(data).hexdigest()


def solutions(data, lesson):
    """{grade_id: text} for the cells where the lesson wants an answer, and sentences on what was out of order.

    Which ids count, what they are worth and what surrounds them is ours; from the submission comes the text alone.
    """
    try:
        notebook = json.loads(data.decode("utf-8"))
        cells = [c for c in notebook["cells"] if isinstance(c, dict)]
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        why = "it is empty" if not data.strip() else f"{type(e).__name__}: {e}"[:120]
        raise Unreadable(f"This is no notebook ({why}).") from None
    asked = [c[1] for c in lesson.cells if c[0] == "theirs"]
    found, notes = {}, []
    for cell in cells:
        id, text = _grade_id(cell), cell.get("source", "")
        text = "".join(text) if isinstance(text, list) and all(isinstance(t, str) for t in text) else text
        if id not in asked:
            continue
        if cell.get("cell_type") != "code" or not isinstance(text, str):
            notes.append(f"The cell {id} holds no code.")
        elif len(text) > LONGEST:
            notes.append(f"The cell {id} is longer than {LONGEST:,} characters: it was not run.")
        else:
            found[id] = text  # of several with one id the last, as nbgrader has it
    given = Counter(filter(None, map(_grade_id, cells)))
    ours = {g for c in lesson.notebook.cells if (g := _grade_id(c))}
    notes += [f"{n} cells are called {id}; only the last counts." for id, n in given.items() if n > 1 and id in ours]
    notes += [f"There is no cell {id}: was its metadata lost, or its name changed?" for id in asked if id not in given]
    if not set(given) & ours:
        notes = [f"None of the cells that {lesson.name} asks for is here: is this another lesson's notebook?"]
    return found, notes + _tampered(cells, lesson)


def _grade_id(cell):
    try:
        id = cell["metadata"]["nbgrader"]["grade_id"]
    except (KeyError, TypeError):
        return None
    return id if isinstance(id, str) else None


def _tampered(cells, lesson):
    """What was changed in locked cells and their points. It changes nothing here; a teacher may want to know."""
    from .copies import HIDDEN

    theirs = {_grade_id(c): c for c in cells}
    notes = []
    for ours in lesson.notebook.cells:
        meta, cell = ours.metadata.get("nbgrader", {}), theirs.get(_grade_id(ours))
        if not meta.get("grade") or cell is None:
            continue
        text = cell.get("source", "")
        text = "".join(t for t in text if isinstance(t, str)) if isinstance(text, list) else str(text)
        if text.strip() not in (ours.source.strip(), HIDDEN.sub("", ours.source).strip()):
            notes.append(f"The locked cell {meta['grade_id']} was changed. Ours is used.")
        if any(cell["metadata"]["nbgrader"].get(k, meta[k]) != meta[k] for k in ("points", "locked", "grade", "solution")):
            notes.append(f"The metadata of {meta['grade_id']} were changed. Ours are used.")
    return notes
