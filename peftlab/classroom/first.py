"""What a learner finds when JupyterLab opens: the lesson last worked on, and a page that shows where they stand."""

import sqlite3
from pathlib import Path

import nbformat

from . import copies, progress
from .build import KERNEL, fingerprint
from .exercise import all_exercises

PAGE = "your-progress.ipynb"


def lesson(work):
    """The file in `work` to open first: the lesson of the last event in the record, else the first there is; or None."""
    there = [path.name for path in sorted(Path(work).glob("[0-9][0-9]-*.ipynb")) if " (" not in path.name]
    try:
        last = {e.id: e.lesson for e in all_exercises()}.get(progress.events(Path(work) / "progress.sqlite")[-1][1])
    except (IndexError, sqlite3.Error, OSError):
        last = None
    return f"{last}.ipynb" if f"{last}.ipynb" in there else next(iter(there), None)


def make_page(work):
    """Write the page of progress and return what there is to say. A page that a learner has written in stays as it is."""
    work, said = Path(work), []
    path = work / PAGE
    work.mkdir(parents=True, exist_ok=True)
    try:
        rows = progress.summary(path=work / "progress.sqlite")
    except sqlite3.Error:
        return [f"{PAGE}: left as it is, for the record of your progress can't be read"]
    given = copies._remembered(work, said)
    if path.exists() and copies._mark(path) != given.get(PAGE):
        return said
    page = notebook(progress.Board(rows), work)
    if copies._mark(path) != fingerprint(page):
        copies._write(path, page)
        copies.remember(work, given, PAGE, fingerprint(page))
    return said


def notebook(board, work):
    """The page: each lesson with a link, what is solved, and a cell that tells it anew."""
    lines = ["# Your progress", "", "| Lesson | Correct | Tried | Minutes | |", "| --- | --- | --- | --- | --- |"]
    for name, rows in board.lessons().items():
        solved, tried = (sum(r["state"] == state for r in rows) for state in ("correct", "not yet"))
        minutes = sum(r["minutes"] or 0 for r in rows)
        done = "done" if solved == len(rows) else "begun" if solved + tried else ""
        link = f"[{name}]({name}.ipynb)" if (work / f"{name}.ipynb").exists() else name
        lines.append(
            f"| {link} | {solved} of {len(rows)} | {tried or ''} | {f'{minutes:.0f}' if minutes else ''} | {done} |"
        )
    lines += [
        "",
        "This page is written when you start PEFTLab. Run the cell below to see where you stand at this moment.",
    ]
    cells = [
        nbformat.v4.new_markdown_cell("\n".join(lines), id="progress-page"),
        nbformat.v4.new_code_cell("from peftlab.classroom import board\n\nboard()", id="progress-board"),
    ]
    return nbformat.v4.new_notebook(cells=cells, metadata=nbformat.from_dict(KERNEL))
