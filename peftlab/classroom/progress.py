"""What the learner has done, kept in one small SQLite file beside their copies: `work/progress.sqlite`.

It is written only by checks that run inside `work/`, or wherever the variable PEFTLAB_PROGRESS names a file (empty: nowhere).
A record that can't be written never stops a lesson; a damaged file is moved aside, not deleted.
"""

import html
import os
import sqlite3
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from .exercise import all_exercises, find

WORK = Path(__file__).parents[2] / "work"
TABLE = "CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, at TEXT, exercise TEXT, what TEXT, detail TEXT)"
CHECKS = ("correct", "not yet", "not attempted")  # what an event can be, besides "hint", "solution" and "reset"
MARKS = {"correct": "✓", "not yet": "✗", "not attempted": "○"}


def file():
    """Where this process keeps its record, or None where it keeps none."""
    if "PEFTLAB_PROGRESS" in os.environ:
        return Path(os.environ["PEFTLAB_PROGRESS"]) if os.environ["PEFTLAB_PROGRESS"] else None
    return WORK / "progress.sqlite" if Path.cwd().is_relative_to(WORK) else None


@contextmanager
def database(path):
    with closing(sqlite3.connect(path, timeout=5)) as connection, connection:
        connection.execute(TABLE)
        yield connection


def note(exercise, what, detail="", path=None):
    """Write down one event; returns a sentence where that was not possible, else None."""
    path = path or file()
    if path is None:
        return None
    row = datetime.now(UTC).isoformat(timespec="seconds"), exercise, what, detail
    try:
        try:
            said = None
            _insert(path, row)
        except sqlite3.OperationalError:
            raise  # locked, or not to be written: the file itself is well
        except sqlite3.DatabaseError:
            aside = path.with_name(f"progress.damaged-{datetime.now():%Y%m%d-%H%M%S-%f}.sqlite")
            path.replace(aside)
            said = f"The record of your progress could not be read. It is kept as {aside.name}, and a new one begins."
            _insert(path, row)
    except (OSError, sqlite3.Error) as error:
        said = f"This try could not be written to {path.name} ({error}). Your work is not affected."
    return said


def _insert(path, row):
    path.parent.mkdir(parents=True, exist_ok=True)
    with database(path) as connection:
        connection.execute("INSERT INTO events (at, exercise, what, detail) VALUES (?, ?, ?, ?)", row)


def events(path=None):
    """[(at, exercise, what, detail)], oldest first. Raises sqlite3.DatabaseError where the file is damaged."""
    path = path or file()
    if path is None or not path.exists():
        return []
    with database(path) as connection:
        return connection.execute("SELECT at, exercise, what, detail FROM events ORDER BY id").fetchall()


def summary(lesson=None, path=None):
    """One dict an exercise: its id, lesson and title, state, tries, hints and solutions asked for, minutes.

    minutes: from the first check to the first correct one, None before that. A correct answer stays correct when a later try
    is not; a reset begins anew.
    """
    happened = {}
    for event in events(path):
        happened.setdefault(event[1], []).append(event)
    return [_of(exercise, happened.get(exercise.id, [])) for exercise in all_exercises(lesson)]


def _of(exercise, happened):
    resets = [i for i, event in enumerate(happened) if event[2] == "reset"]
    happened = happened[resets[-1] + 1 :] if resets else happened
    checks = [(when, what) for at, _, what, _ in happened if what in CHECKS and (when := _time(at))]
    solved = next((at for at, what in checks if what == "correct"), None)
    tried = any(what == "not yet" for _, what in checks)
    count = {w: sum(what == w for _, _, what, _ in happened) for w in ("hint", "solution")}
    return {
        "exercise": exercise.id,
        "lesson": exercise.lesson,
        "title": exercise.title,
        "state": "correct" if solved else "not yet" if tried else "not attempted",
        "tries": sum(what != "not attempted" for _, what in checks),
        "hints": count["hint"],
        "solution": bool(count["solution"]),
        "minutes": (solved - checks[0][0]).total_seconds() / 60 if solved else None,
    }


def _time(text):
    """When, or None where the record says something else."""
    try:
        when = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


class Board:
    """All lessons in a few lines, each to be folded out; as a page in a notebook, as text elsewhere."""

    def __init__(self, rows):
        self.rows = rows

    def lessons(self):
        """{lesson: its rows}"""
        return {
            name: [r for r in self.rows if r["lesson"] == name]
            for name in dict.fromkeys(r["lesson"] for r in self.rows)
        }

    def __repr__(self):
        out = []
        for lesson, rows in self.lessons().items():
            out += [f"{lesson}: {_solved(rows)}"]
            out += [f"  {MARKS[r['state']]} {r['exercise']:22} {_told(r)}".rstrip() for r in rows if r["tries"]]
        return "\n".join(out)

    def _repr_html_(self):
        parts = []
        for lesson, rows in self.lessons().items():
            lines = "".join(
                f"<tr><td aria-label='{r['state']}'>{MARKS[r['state']]}</td><td style='text-align:left'>{html.escape(r['title'])} "
                f"<code>{r['exercise']}</code></td><td style='text-align:left'>{_told(r)}</td></tr>"
                for r in rows
            )
            parts.append(
                f"<details><summary><b>{lesson}</b>: {_solved(rows)}</summary><table>{lines}</table></details>"
            )
        return "".join(parts)


def _solved(rows):
    return f"{sum(r['state'] == 'correct' for r in rows)} of {len(rows)} correct"


def _told(row):
    told = [f"{row['tries']} {'try' if row['tries'] == 1 else 'tries'}"] if row["tries"] else []
    told += [f"{row['minutes']:.0f} min"] if row["minutes"] is not None else []
    told += [f"{row['hints']} hint{'s' * (row['hints'] > 1)}"] if row["hints"] else []
    return ", ".join(told + ["solution read"] * row["solution"])


def board():
    """Where you stand: each exercise with its state, tries and time."""
    return Board(summary())


# ---------------------------------------------------------------- hint, solution, reset: for the command line


def next_hint(id, path):
    """The first hint not yet asked for (the last one again when all have been), and which it is, "2 of 3"."""
    hints = find(id).hints
    if not hints:
        return "There is no hint for this one: it is a question. Read what its answers say.", ""
    asked = next(r["hints"] for r in summary(path=path) if r["exercise"] == id)
    i = min(asked, len(hints) - 1)
    note(id, "hint", str(i + 1), path)
    return hints[i], f"{i + 1} of {len(hints)}"


def solution(id, path):
    """The text of the solution in the lesson's own notebook; that it was read is noted."""
    from .copies import SOLUTION

    text = "\n\n".join(SOLUTION.sub(r"\2", c.source).strip() for c in _cells(_lesson(id), id))
    note(id, "solution", path=path)
    return text


def reset(id, work=None, path=None):
    """Put the empty stub back into the learner's copy; what stood there goes to a file whose path is returned."""
    import nbformat

    from .copies import _write, learner_copy

    lesson, work = find(id).lesson, Path(work or WORK)
    copy = work / f"{lesson}.ipynb"
    if not copy.exists():
        raise ValueError(f"there is no {copy}: `peftlab lab` makes your copies")
    try:
        mine, fresh = nbformat.read(copy, as_version=4), learner_copy(_lesson(id))
    except Exception as error:
        raise ValueError(f"{copy.name} can't be read as a notebook ({type(error).__name__}); nothing was changed") from error
    asked = {c.id for c in _cells(_lesson(id), id)}
    stubs = {c.id: c.source for c in fresh.cells if c.id in asked}
    names = {c.metadata.nbgrader.grade_id: c.id for c in fresh.cells if c.id in stubs and "nbgrader" in c.metadata}
    for cell in mine.cells:  # a notebook of format 4.4 and before names no cells
        if "id" not in cell and cell.metadata.get("nbgrader", {}).get("grade_id") in names:
            cell.id = names[cell.metadata.nbgrader.grade_id]
    cells = [c for c in mine.cells if c.get("id") in stubs]
    if len(cells) < len(stubs):
        raise ValueError(
            f"{copy.name} has not all the cells of {id} any more: delete or rename it, and `peftlab lab` makes a new one"
        )
    kept = work / ".peftlab" / "attempts" / f"{lesson}-{id}-{datetime.now():%Y%m%d-%H%M%S-%f}.py"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("\n\n".join(c.source for c in cells) + "\n", encoding="utf-8")
    for cell in cells:
        cell.source, cell.outputs, cell.execution_count = stubs[cell.id], [], None
    if (mine.nbformat, mine.nbformat_minor) < (4, 5):
        for cell in mine.cells:
            cell.pop("id", None)
    _write(copy, mine)
    note(id, "reset", kept.name, path or work / "progress.sqlite")
    return kept


def _lesson(id):
    import nbformat

    from .build import NOTEBOOKS

    path = NOTEBOOKS / f"{find(id).lesson}.ipynb"
    if not path.exists():
        raise ValueError(f"lesson {path.stem} has not been published yet")
    return nbformat.read(path, as_version=4)


def _cells(notebook, id):
    """The solution cells of an exercise: those since the check before."""
    from .build import CHECK

    since = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if "### BEGIN SOLUTION" in cell.source:
            since.append(cell)
        if found := CHECK.search(cell.source):
            if found[1] == id:
                return since
            since = []
    raise ValueError(f"{id} has no cells of its own: it is a question with buttons")
