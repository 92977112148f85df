"""Marks into nbgrader's own gradebook, each submission in one transaction, and what was graded already."""

import contextlib
import datetime
import json
import os
import sys
import time
import warnings
from pathlib import Path

from sqlalchemy import URL, Column, DateTime, Integer, MetaData, String, Table, Text, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError

from .copies import SOLUTION, stub

GRADED = Table(  # beside nbgrader's tables, in the same database
    "peftlab_graded",
    MetaData(),
    Column("assignment", String(128), primary_key=True),
    Column("student", String(128), primary_key=True),
    Column("hash", String(64), nullable=False),  # of the notebook's bytes
    Column("seed", Integer, nullable=False),  # of the inputs it was judged on
    Column("results", Text, nullable=False),
    Column("at", DateTime, nullable=False),
)


class Marks:
    """An nbgrader gradebook, opened by its address: `sqlite:////path/gradebook.db`, `postgresql+psycopg2://...`."""

    def __init__(self, url):
        folder = os.path.dirname(sys.executable)  # nbgrader calls `alembic` by name
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])
        os.environ.setdefault("PGCLIENTENCODING", "UTF8")  # a PostgreSQL made without a locale speaks ASCII, and names don't
        warnings.filterwarnings("ignore", "Object of type .* not in session")  # nbgrader's own, once a submission
        self.book = _opened(url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.book.close()

    def add_lesson(self, lesson):
        """The assignment and its cells, as `nbgrader generate_assignment` would record them; what is there stays."""
        from nbgrader.api import MissingEntry
        from nbgrader.utils import compute_checksum, is_grade, is_locked, is_solution

        name = lesson.name
        try:
            there = self.book.find_notebook(name, name)
            if {c.name for c in (*there.grade_cells, *there.solution_cells)} >= _ids(lesson):
                return
        except MissingEntry:
            pass
        self.book.update_or_create_assignment(name)
        kernel = json.dumps(lesson.notebook.metadata.get("kernelspec", {}))
        self.book.update_or_create_notebook(name, name, kernelspec=kernel)
        for cell in lesson.notebook.cells:
            if not (id := cell.metadata.get("nbgrader", {}).get("grade_id")):
                continue
            if is_grade(cell):
                kind = {"max_score": float(cell.metadata.nbgrader.points), "cell_type": cell.cell_type}
                self.book.update_or_create_grade_cell(id, name, name, **kind)
            if is_solution(cell):
                self.book.update_or_create_solution_cell(id, name, name)
            source = {"cell_type": cell.cell_type, "locked": is_locked(cell), "checksum": compute_checksum(cell)}
            self.book.update_or_create_source_cell(id, name, name, source=SOLUTION.sub(stub, cell.source), **source)

    def row(self, student, lesson):
        """What was written of a submission when it was last graded: its hash and its `summary`; None where it never was."""
        where = GRADED.c.assignment == lesson, GRADED.c.student == student
        found = self.book.db.execute(select(GRADED.c.hash, GRADED.c.results).where(*where)).first()
        self.book.db.rollback()
        return {"hash": found.hash, "results": json.loads(found.results)} if found else None

    def write(self, done, lesson, keys, handed_in=None):
        """All marks and comments of a submission, and that it was graded: together or not at all.

        `keys` says what made each mark (`keys.keys`); exercises that were not graded now keep what they have.
        """
        book, name = self.book, lesson.name
        before = self.row(done.student, name)
        book.update_or_create_student(done.student)
        book.update_or_create_submission(name, done.student, **({"timestamp": handed_in} if handed_in else {}))
        told = summary(done)
        told["keys"] = {id: keys[id] for id in done.results}
        told["solutions"] = {id: [asked["grade_id"], *asked["solutions"]] for id, asked in lesson.exercises.items()}
        if before and before["hash"] == done.hash:
            for part in ("results", "keys"):
                told[part] = {**before["results"].get(part, {}), **told[part]}
        self._mark(done.student, name, told, done.results)
        row = {"assignment": name, "student": done.student}
        book.db.execute(GRADED.delete().where(*(GRADED.c[k] == v for k, v in row.items())))
        row |= {"hash": done.hash, "seed": done.seed, "results": json.dumps(told)}
        book.db.execute(GRADED.insert().values(**row, at=datetime.datetime.now(datetime.UTC).replace(tzinfo=None)))
        book.db.commit()

    def restore(self, student, lesson):
        """Our marks and comments once more, where another program has replaced them. True where that was so."""
        row = self.row(student, lesson)
        if not row or "solutions" not in row["results"]:
            return False
        changed = self._mark(student, lesson, row["results"], row["results"]["results"])
        self.book.db.commit()
        return changed

    def _mark(self, student, name, told, exercises):
        """Set, but do not commit, the marks and comments of these exercises. True where one was not so already."""
        book, changed = self.book, False
        for id in exercises:
            state, _, message, (points, _) = told["results"][id]
            check, *solutions = told["solutions"][id]
            grade = book.find_grade(check, name, name, student)
            manual = grade.manual_score is not None  # as nbgrader does: a teacher's own mark stays
            changed |= grade.auto_score != points
            grade.auto_score, grade.needs_manual_grade = points, manual
            for number, cell in enumerate(solutions):
                comment = book.find_comment(cell, name, name, student)
                text = f"{state}. {message}".strip() if number == 0 else None
                changed |= comment.auto_comment != text
                comment.auto_comment = text
        return changed


def _opened(url, patience=60):
    """nbgrader's gradebook with all its tables and ours, though another program may be writing there at this moment."""
    from nbgrader.api import Gradebook, InvalidEntry

    _for_the_owner(url)
    end = time.monotonic() + patience
    while True:
        try:
            book = Gradebook(url)
            if book.engine.dialect.name == "sqlite":
                event.listen(book.engine, "connect", lambda raw, _: raw.execute(f"PRAGMA busy_timeout = {1000 * patience}"))
                book.db.remove()
                book.engine.dispose()  # the connections of before do not wait so long
            GRADED.create(book.engine, checkfirst=True)
            return book
        except (DatabaseError, InvalidEntry) as error:  # what the other one made is there at the next try
            if time.monotonic() > end:
                raise OSError(f"the gradebook can't be opened: {str(getattr(error, 'orig', error))[:200]}") from error
            time.sleep(0.5)


def _for_the_owner(url):
    """Marks are for nobody else to read: a book that is not there yet is made so. One that is there keeps its modes."""
    url = make_url(url)
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:") and not url.query:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(url.database, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _ids(lesson):
    every = (c.metadata.get("nbgrader", {}) for c in lesson.notebook.cells)
    return {m["grade_id"] for m in every if m.get("grade") or m.get("solution")}


def summary(done):
    """A graded submission as plain values, for a report."""
    results = {e: [r.state, r.slip, r.message, done.points[e]] for e, r in done.results.items()}
    return {"student": done.student, "lesson": done.lesson, "results": results, "notes": done.notes, "seed": done.seed}


def default_url(submissions):
    """nbgrader's own place: gradebook.db in the course, beside the folder of submissions."""
    path = Path(submissions).resolve().parent / "gradebook.db"
    return URL.create("sqlite", database=str(path)).render_as_string()  # any name a folder may have
