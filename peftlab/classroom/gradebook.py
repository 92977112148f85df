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
        earlier = before["results"].get("written", {}) if before else {}
        self._mark(done.student, name, told, done.results)
        self._mark_written(done.student, name, told["written"], {id for id, is_ in told["written"].items() if earlier.get(id) != is_})
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
        changed = self._mark(student, lesson, row["results"], row["results"]["results"], again=True)
        changed |= self._mark_written(student, lesson, row["results"].get("written", {}))
        self.book.db.commit()
        return changed

    def by_hand(self):
        """How many answers wait for a mark that only a person can give."""
        from nbgrader.api import Grade

        waits = Grade.needs_manual_grade, Grade.auto_score.is_(None), Grade.manual_score.is_(None), Grade.cell_type == "markdown"
        return self.book.db.query(Grade).filter(*waits).count()

    def _mark(self, student, name, told, exercises, again=False):
        """Set, but do not commit, the marks and comments of these exercises. True where one was not so already."""
        changed = False
        for id in exercises:
            state, _, message, (points, _) = told["results"][id]
            check, *solutions = told["solutions"][id]
            grade = self._found("grade", check, name, student)
            manual = grade.manual_score is not None  # as nbgrader does: a teacher's own mark stays, and is to be looked at
            changed |= grade.auto_score != points
            grade.auto_score, grade.needs_manual_grade = points, manual and (not again or grade.needs_manual_grade)
            for number, cell in enumerate(solutions):
                comment = self._found("comment", cell, name, student)
                text = f"{state}. {message}".strip() if number == 0 else None
                changed |= comment.auto_comment != text
                comment.auto_comment = text
        return changed

    def _mark_written(self, student, name, told, anew=()):
        """The same for what a person marks: nothing for no answer, else the mark is theirs. `anew`: another text than before."""
        changed = False
        for id, (state, _) in told.items():
            grade, comment = self._found("grade", id, name, student), self._found("comment", id, name, student)
            points, text = (None, None) if state == "written" else (0, "not attempted. There is no answer in the cell.")
            changed |= (grade.auto_score, comment.auto_comment) != (points, text)
            grade.auto_score, comment.auto_comment = points, text
            if grade.manual_score is None:
                grade.needs_manual_grade = points is None
            elif id in anew:
                grade.needs_manual_grade = True  # the mark stays, and is to be looked at
        return changed

    def _found(self, kind, cell, name, student):
        """The row of a cell's grade or comment; made where the cell is younger than the submission."""
        from nbgrader.api import Comment, Grade, MissingEntry

        book = self.book
        try:
            return {"grade": book.find_grade, "comment": book.find_comment}[kind](cell, name, name, student)
        except MissingEntry:
            of = {"grade": book.find_grade_cell, "comment": book.find_solution_cell}[kind](cell, name, name)
            row = {"grade": Grade, "comment": Comment}[kind](cell_id=of.id, notebook=book.find_submission_notebook(name, name, student))
            book.db.add(row)
            return row


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
    told = {"student": done.student, "lesson": done.lesson, "results": results, "notes": done.notes, "seed": done.seed}
    return told | {"written": {id: list(found) for id, found in done.written.items()}}


def default_url(submissions):
    """nbgrader's own place: gradebook.db in the course, beside the folder of submissions."""
    path = Path(submissions).resolve().parent / "gradebook.db"
    return URL.create("sqlite", database=str(path)).render_as_string()  # any name a folder may have
