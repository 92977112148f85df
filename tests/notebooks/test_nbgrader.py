"""One complete round trip through nbgrader: released, submitted, graded, read from the gradebook."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from peftlab.classroom import build, written
from peftlab.classroom.copies import STUB
from peftlab.classroom.exercise import find
from peftlab.classroom.grading import make_course

NAME = "03-lora" if "03-lora" in build.lessons() else "00-start-here"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = make_course(tmp_path_factory.mktemp("course"), NAME)
    nbgrader(folder, "generate_assignment", NAME, "--create")
    return folder


def nbgrader(folder, *arguments):
    """Its exit status is 0 even when every test fails: what counts is read from the gradebook."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it calls `alembic` by name
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def release(folder):
    return nbformat.read(folder / "release" / NAME / f"{NAME}.ipynb", as_version=4)


def submit(folder, student, change):
    notebook = nbformat.from_dict(json.loads(json.dumps(release(folder))))
    for cell in notebook.cells:
        change(cell)
    target = folder / "submitted" / student / NAME / f"{NAME}.ipynb"
    target.parent.mkdir(parents=True)
    nbformat.write(notebook, target)


def test_what_is_released_holds_no_solution_and_no_hidden_test(course):
    text = (course / "release" / NAME / f"{NAME}.ipynb").read_text(encoding="utf-8")
    assert "SOLUTION" not in text and "HIDDEN" not in text and ".grade()" not in text and STUB[:25] in text


def test_what_a_released_lesson_links_to_is_handed_out_with_it(tmp_path):
    lesson = "10-a-fair-comparison"
    nbgrader(make_course(tmp_path, lesson), "generate_assignment", lesson, "--create")
    handed_out = tmp_path / "release" / lesson
    cells = nbformat.read(handed_out / f"{lesson}.ipynb", as_version=4).cells
    pages = {page for c in cells for page in re.findall(r"\]\(([^):#]+\.md)", c.source)}
    assert "claims.md" in pages, pages
    for page in pages:
        assert (handed_out / page).read_bytes() == (build.NOTEBOOKS.parent / "docs" / page).read_bytes(), page


def test_points_are_given_where_they_are_due(course):
    solved = nbformat.read(course / "source" / NAME / f"{NAME}.ipynb", as_version=4)
    solutions = {
        c.metadata.nbgrader.grade_id: c.source for c in solved.cells if c.metadata.get("nbgrader", {}).get("solution")
    }
    points = {c.metadata.nbgrader.grade_id: c.metadata.nbgrader.points for c in solved.cells if "points" in c.metadata.get("nbgrader", {})}  # fmt: skip
    first, by_hand = next(iter(points)).removesuffix("-check"), points.pop(NAME + written.ANSWER, 0)

    def right(cell):
        if (id := cell.metadata.get("nbgrader", {}).get("grade_id")) in solutions:
            cell.source = solutions[id]

    def one_slip(cell):  # all right but the first exercise, and the check of it tampered with
        right(cell)
        if cell.metadata.get("nbgrader", {}).get("grade_id") == first:
            cell.source += (
                f"\nfrom peftlab.classroom import find\n{name_of(solved, first)} = find({first!r}).slips[0].answer"
            )
        if cell.metadata.get("nbgrader", {}).get("grade_id") == f"{first}-check":
            cell.source = "print('correct')"

    submit(course, "right", right)
    submit(course, "one-slip", one_slip)
    submit(course, "empty", lambda cell: None)
    nbgrader(course, "autograde", NAME, "--create")

    # in a process of its own: what nbgrader imports disagrees with what other tests may have imported before (distutils)
    read = (
        "import json, sys; from nbgrader.api import Gradebook\n"
        "with Gradebook(sys.argv[1]) as book: "
        "print(json.dumps({s.student.id: [s.score, s.max_score] for s in book.assignment_submissions(sys.argv[2])}))"
    )
    command = [sys.executable, "-c", read, f"sqlite:///{course / 'gradebook.db'}", NAME]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    scores = {student: tuple(points) for student, points in json.loads(done.stdout).items()}
    total = sum(points.values())
    assert total == sum(find(id.removesuffix("-check")).points for id in points)
    assert scores == {
        "right": (total, total + by_hand),  # an answer in words has no mark from a program
        "one-slip": (total - points[f"{first}-check"], total + by_hand),
        "empty": (0, total + by_hand),
    }


def name_of(notebook, id):
    """The name that the check of an exercise is given."""
    return next(m[2] for c in notebook.cells if (m := build.CHECK.search(c.source)) and m[1] == id)
