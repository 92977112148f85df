"""Marks into nbgrader's own gradebook, each submission in one transaction, and what was graded already."""

import datetime
import json
import os
import sys
import time
import warnings
from pathlib import Path

from sqlalchemy import Column, DateTime, Integer, MetaData, String, Table, Text, select
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

    def is_graded(self, student, lesson, hash):
        """Were these very bytes graded before?"""
        where = GRADED.c.assignment == lesson, GRADED.c.student == student, GRADED.c.hash == hash
        found = self.book.db.execute(select(GRADED.c.hash).where(*where)).first()
        self.book.db.rollback()
        return found is not None

    def write(self, done, lesson):
        """All marks and comments of a submission, and that it was graded: together or not at all."""
        book, name = self.book, lesson.name
        book.update_or_create_student(done.student)
        book.update_or_create_submission(name, done.student)
        for id, asked in lesson.exercises.items():
            grade = book.find_grade(asked["grade_id"], name, name, done.student)
            grade.auto_score = done.points[id][0]
            grade.needs_manual_grade = grade.manual_score is not None  # as nbgrader does: a teacher's own mark stays
            for number, cell in enumerate(asked["solutions"]):
                comment = book.find_comment(cell, name, name, done.student)
                result = done.results[id]
                comment.auto_comment = f"{result.state}. {result.message}".strip() if number == 0 else None
        row = {"assignment": name, "student": done.student}
        book.db.execute(GRADED.delete().where(*(GRADED.c[k] == v for k, v in row.items())))
        row |= {"hash": done.hash, "seed": done.seed, "results": json.dumps(summary(done))}
        book.db.execute(GRADED.insert().values(**row, at=datetime.datetime.now(datetime.UTC).replace(tzinfo=None)))
        book.db.commit()


def _opened(url, tries=5):
    """nbgrader's gradebook with all its tables and ours, though another grader may be making them at this moment."""
    from nbgrader.api import Gradebook

    while True:
        try:
            book = Gradebook(url)
            GRADED.create(book.engine, checkfirst=True)
            return book
        except DatabaseError:  # what the other one made is there at the next try
            if (tries := tries - 1) == 0:
                raise
            time.sleep(0.5)


def _ids(lesson):
    every = (c.metadata.get("nbgrader", {}) for c in lesson.notebook.cells)
    return {m["grade_id"] for m in every if m.get("grade") or m.get("solution")}


def summary(done):
    """A graded submission as plain values, for a report."""
    results = {e: [r.state, r.slip, r.message, done.points[e]] for e, r in done.results.items()}
    return {"student": done.student, "lesson": done.lesson, "results": results, "notes": done.notes, "seed": done.seed}


def default_url(submissions):
    """nbgrader's own place: gradebook.db in the course, beside the folder of submissions."""
    return f"sqlite:///{Path(submissions).resolve().parent / 'gradebook.db'}"
