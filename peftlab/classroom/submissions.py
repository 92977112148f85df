"""Submissions as they lie in a folder, read as what they are: files a stranger wrote. Nothing here runs any of it.

The layout is nbgrader's: SUBMISSIONS/student/lesson/lesson.ipynb.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import nbformat

from .build import CHECK, NOTEBOOKS, lessons
from .proposals import FILES, FOLDER

LARGEST = 32 * 2**20  # bytes of a notebook, pictures and all
LONGEST = 100_000  # characters of one cell
NESTED, VALUES = 400_000, 4_000_000  # brackets and commas of a notebook: what it takes in memory


class Unreadable(Exception):
    """Why a submission can't be graded at all, in a sentence."""


class NotReadHere(Exception):
    """This machine can't read it; another, or this one later, may. It is nobody's mark."""


@dataclass
class Lesson:
    """What a lesson asks for, from our own notebook: its cells in order, and which cell answers which exercise."""

    name: str
    notebook: object
    cells: list = field(default_factory=list)  # as slicing has them; "theirs" without a text yet
    exercises: dict = field(default_factory=dict)  # id -> {"grade_id", "points", "solutions": [grade_id, ...]}
    written: dict = field(default_factory=dict)  # grade_id -> points, of the answers that a person marks
    keys: dict = field(default_factory=dict)  # id -> what decides its mark (`keys.keys`)


def lesson_named(name, course=None):
    """From the teacher's course/source where it is there, else from the lessons of this package."""
    paths = [Path(course or "") / "source" / name / f"{name}.ipynb"] * bool(course) + [NOTEBOOKS / f"{name}.ipynb"]
    notebook = nbformat.read(next(p for p in paths if p.exists()), as_version=4)
    lesson, waiting = Lesson(name, notebook), []
    for cell in notebook.cells:
        ours = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "markdown" and ours.get("solution") and ours.get("grade"):
            lesson.written[ours["grade_id"]] = ours["points"]
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


def all_submissions(folder):
    """[(student, lesson, path)] in order, for each folder that could hold one; and [(name, why)] for what was passed over."""
    found, passed = [], []
    known = {re.sub(r"\W", "", name).lower(): name for name in lessons()}
    for student in _folders(Path(folder), "", passed):
        nested = _folders(student, f"{student.name}/", passed, lambda p: known.get(re.sub(r"\W", "", p.stem).lower()))
        for lesson in nested:
            shown, meant = f"{student.name}/{lesson.name}", known.get(re.sub(r"\W", "", lesson.name).lower())
            if lesson.name == meant:
                found.append((student.name, meant, lesson / f"{meant}.ipynb"))
            elif meant:
                passed.append((shown, f"name the folder {meant}."))
            elif any(lesson.glob("*.ipynb")):
                passed.append((shown, f"no lesson is called so; there are: {', '.join(lessons())}."))
    return found, passed


def _folders(folder, shown, passed, lesson_of=lambda path: None):
    """The folders in one, in order; for what else is there and should not be passed over in silence, a reason in `passed`."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as e:
        passed.append((shown.rstrip("/"), f"its folder can't be read: {e.strerror}."))
        return []
    kept = []
    for path in inside:
        try:
            link, is_folder = path.is_symlink(), path.is_dir()
        except OSError as e:
            passed.append((shown + path.name, f"it can't be looked at: {e.strerror}."))
            continue
        if path.name.startswith(".") or not is_folder and path.suffix != ".ipynb":
            continue
        if not path.name.isprintable() or len(path.name) > 100:
            passed.append((shown + path.name, "rename the folder as the student is called." if not shown else "rename it."))
        elif link and is_folder:
            passed.append((shown + path.name, "it is a link, and links are not followed."))
        elif not is_folder:
            name = lesson_of(path) or "LESSON"
            where = f"{shown or 'STUDENT/'}{name}/{name}.ipynb"
            passed.append((shown + path.name, f"a submission's place is {where}."))
        else:
            kept.append(path)
    return kept


def read(path):
    """The bytes of a submission and their hash."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Unreadable(f"There is no {path.name}.") from None
    except OSError as e:
        if e.errno not in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            raise NotReadHere(f"{path.name} can't be read on this machine: {e.strerror}") from None
        raise Unreadable(f"{path.name} can't be opened, or is a link: {e.strerror}.") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Unreadable(f"{path.name} is not a file.")
    with os.fdopen(handle, "rb") as file:
        try:
            data = file.read(LARGEST + 1)
        except OSError as e:
            raise NotReadHere(f"{path.name} can't be read on this machine: {e.strerror}") from None
    if len(data) > LARGEST:
        raise Unreadable(f"{path.name} is larger than {LARGEST // 2**20} MB.")
    return data, hashlib.sha256(data).hexdigest()


def folder_beside(path):
    """({name: bytes} of the `proposals.FILES` in the folder beside a notebook, sentences on what was out of order)."""
    folder, found, notes = path.parent / FOLDER, {}, []
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return {}, []
    except OSError as e:
        if e.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise NotReadHere(f"{FOLDER} can't be read on this machine: {e.strerror}") from None
        return {}, [f"`{FOLDER}` is a link, or no folder: it was not read."]
    try:
        for name, most in FILES.items():
            try:
                found[name] = _bounded(name, place, most)
            except FileNotFoundError:
                continue
            except Unreadable as e:
                notes.append(f"`{FOLDER}/{name}` {e}: it was not read.")
    finally:
        os.close(place)
    return found, notes


def hash_with(hash, files):
    """The hash of a notebook and of what was read of the folder beside it."""
    parts = [hash, *(f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in sorted(files.items()))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest() if files else hash


def _bounded(name, place, most):
    """The bytes of a file in an open folder, if they are no more than `most`."""
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    except OSError as e:
        if e.errno == errno.ENOENT:
            raise
        if e.errno not in (errno.ELOOP, errno.ENXIO):
            raise NotReadHere(f"{FOLDER}/{name} can't be read on this machine: {e.strerror}") from None
        raise Unreadable("is a link, or no file") from None
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Unreadable("is no file")
        data = file.read(most + 1)
    if len(data) > most:
        raise Unreadable(f"is larger than {most:,} bytes")
    return data


def handed_in(path):
    """When, in UTC: as nbgrader's timestamp.txt beside the notebook has it, else the notebook's own time; None without both."""
    from nbgrader.utils import parse_utc

    try:
        handle = os.open(path.parent / "timestamp.txt", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            return parse_utc(file.read(100).decode().strip())
    except Exception:  # noqa: BLE001 - none, or whatever a stranger wrote into it
        with contextlib.suppress(OSError):
            return datetime.fromtimestamp(path.lstat().st_mtime, UTC).replace(tzinfo=None, microsecond=0)
    return None


def solutions(data, lesson):
    """{grade_id: text} for the cells where the lesson wants an answer, and sentences on what was out of order.

    Which ids count, what they are worth and what surrounds them is ours; from the submission comes the text alone.
    """
    cells = _cells(data)
    asked = [c[1] for c in lesson.cells if c[0] == "theirs"]
    found, notes = {}, {}  # each sentence once
    for cell in cells:
        id, text = _grade_id(cell), _source(cell)
        if id not in asked:
            continue
        if cell.get("cell_type") != "code" or not isinstance(text, str):
            notes[f"The cell {id} holds no code."] = 1
        elif len(text) > LONGEST:
            notes[f"The cell {id} is longer than {LONGEST:,} characters: it was not run."] = 1
        else:
            found[id] = text  # of several with one id the last, as nbgrader has it
    notes, given = list(notes), Counter(filter(None, map(_grade_id, cells)))
    ours = {g for c in lesson.notebook.cells if (g := _grade_id(c))}
    notes += [f"{n} cells are called {id}; only the last counts." for id, n in given.items() if n > 1 and id in ours]
    notes += [f"There is no cell {id}: was its metadata lost, or its name changed?" for id in (*asked, *lesson.written) if id not in given]
    if not set(given) & ours:
        notes = [f"None of the cells that {lesson.name} asks for is here: is this another lesson's notebook?"]
    return found, notes + _tampered(cells, lesson)


def written_answers(data, lesson):
    """{grade_id: text} for the cells that a person marks; of several with one id the last."""
    found = {id: _source(cell) for cell in _cells(data) if (id := _grade_id(cell)) in lesson.written}
    return {id: text for id, text in found.items() if isinstance(text, str)}


def _cells(data):
    """The cells of a notebook that a stranger wrote."""
    if data.count(b"[") + data.count(b"{") > NESTED or data.count(b",") > VALUES:
        raise Unreadable("This is no notebook (it holds more values than a notebook has).")
    try:
        return [c for c in json.loads(data.decode("utf-8"))["cells"] if isinstance(c, dict)]
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        why = "it is empty" if not data.strip() else f"{type(e).__name__}: {e}"[:120]
        raise Unreadable(f"This is no notebook ({why}).") from None


def _source(cell):
    """The text of a cell; whatever else stands there as it is."""
    text = cell.get("source", "")
    return "".join(text) if isinstance(text, list) and all(isinstance(t, str) for t in text) else text


def python_version(data):
    """The version of Python whose kernel last saved the notebook, as (3, 14); None where it does not say."""
    try:
        first, second = json.loads(data)["metadata"]["language_info"]["version"].split(".")[:2]
        return int(first), int(second)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


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
        if not meta["solution"] and text.strip() not in (ours.source.strip(), HIDDEN.sub("", ours.source).strip()):
            notes.append(f"The locked cell {meta['grade_id']} was changed. Ours is used.")
        if any(cell["metadata"]["nbgrader"].get(k, meta[k]) != meta[k] for k in ("points", "locked", "grade", "solution")):
            notes.append(f"The metadata of {meta['grade_id']} were changed. Ours are used.")
    return notes
