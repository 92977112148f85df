"""A class hands in lesson 03: `peftlab grade` is killed half-way and started again, beside a run that nobody disturbs.

`python tests/classroom/load.py 200 --autograde 2` prints what it measured and writes it into docs/grading.md.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from peftlab.classroom import build
from peftlab.classroom.copies import learner_copy
from peftlab.classroom.grading import make_course

LESSON = "03-lora"
REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "grading.md"


def hand_in(course, count):
    """Write `count` submissions of seven kinds; gives the names of the students."""
    solved = nbformat.read(build.NOTEBOOKS / f"{LESSON}.ipynb", 4)
    untouched = learner_copy(solved)
    answers = {c.metadata.get("nbgrader", {}).get("grade_id"): c.source for c in solved.cells if "BEGIN SOLUTION" in c.source}

    def written(change):
        """An untouched copy with some answers in it: `change(number, id, text)` gives an answer, or None to leave it."""
        copy = nbformat.from_dict(json.loads(nbformat.writes(untouched)))
        of_learner = [c for c in copy.cells if c.metadata.get("nbgrader", {}).get("grade_id") in answers]
        for number, cell in enumerate(of_learner):
            id = cell.metadata.nbgrader.grade_id
            cell.source = change(number, id, answers[id]) or cell.source
        return copy

    kinds = {
        "solved": written(lambda n, id, text: text),
        "untouched": untouched,
        "half": written(lambda n, id, text: text if n % 2 else None),
        "slip": written(lambda n, id, text: text.replace("alpha / r", "alpha")),
        "error": written(lambda n, id, text: text if n else "def lora_forward(:"),
        "leaves": written(lambda n, id, text: text if n > 1 else text + "\nimport os\nos._exit(0)"),
        "loud": written(lambda n, id, text: text if n > 1 else text + "\nprint('x' * 3_000_000)"),
    }
    students = []
    for i in range(count):
        kind = list(kinds)[i % len(kinds)]
        students.append(f"student-{i:03}-{kind}")
        path = course / "submitted" / students[-1] / LESSON / f"{LESSON}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(kinds[kind], path)
    return students


def grade(course, stop_after=None, *options):
    """(lines about submissions, seconds): all there are, or those before the process and its children are killed."""
    command = [sys.executable, "-m", "peftlab", "grade", str(course / "submitted"), "--seed", "7", *options]
    start, said = time.monotonic(), []
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stdout:
        said += re.findall(rf"^(student-\S+), {LESSON}: \d", line)
        if stop_after and len(said) == stop_after:
            os.killpg(process.pid, signal.SIGKILL)
            break
    said += re.findall(rf"^(student-\S+), {LESSON}: \d", process.stdout.read(), re.MULTILINE)
    process.wait()
    return said, time.monotonic() - start


def points(course, url=None):
    """{student: points} of a gradebook."""
    from nbgrader.api import Gradebook

    with Gradebook(url or f"sqlite:///{course / 'gradebook.db'}") as book:
        return {s.student.id: s.score for s in book.assignment_submissions(LESSON)}


def measure(folder, count, autograded=0):
    """What a broken and an unbroken run of `count` submissions came to; `autograded` of them by nbgrader as well."""
    courses = {name: make_course(folder / name, LESSON) for name in ("unbroken", "broken")}
    for course in courses.values():
        students = hand_in(course, count)
    _, seconds = grade(courses["unbroken"])
    before, _ = grade(courses["broken"], count // 2)
    after, _ = grade(courses["broken"])
    marks = {name: points(course) for name, course in courses.items()}
    found = {
        "submissions": count,
        "lost": len(set(students) - set(marks["broken"])),
        "graded before the kill": len(before),
        "graded after it": len(after),
        "graded twice": len(set(before) & set(after)),
        "marks that differ": sum(marks["broken"].get(s) != marks["unbroken"].get(s) for s in students),
        "different marks": len(set(marks["unbroken"].values())),
        "a minute": 60 * count / seconds,
    }
    if autograded:
        course = courses["unbroken"]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

        def nbgrader(*arguments):
            command = [sys.executable, "-m", "nbgrader", *arguments]
            return subprocess.run(command, cwd=course, env={**os.environ, "PATH": path}, check=True, capture_output=True)

        nbgrader("generate_assignment", LESSON, "--create", "--force")
        start = time.monotonic()
        for student in students[:autograded]:
            nbgrader("autograde", LESSON, "--student", student, "--force")
        found["nbgrader's autograde, a minute"] = 60 * autograded / (time.monotonic() - start)
        nbgrader("generate_feedback", LESSON, "--student", students[0], "--force")
        found["feedback on the same gradebook"] = (course / "feedback" / students[0] / LESSON / f"{LESSON}.html").exists()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("count", type=int, nargs="?", default=200)
    parser.add_argument("--autograde", type=int, default=0, help="how many to give to nbgrader's own autograde too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.count, options.autograde)
    rows = [f"| {name} | {value:.2f} |" if isinstance(value, float) else f"| {name} | {value} |" for name, value in found.items()]
    table = "\n".join([f"<!-- load -->\n| {LESSON}, {os.cpu_count()} cores | |", "| --- | --- |", *rows, "<!-- /load -->"])
    print(table)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(r"<!-- load -->.*<!-- /load -->", lambda _: table, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
