"""A teacher's nbgrader course with lessons as its assignments, and `peftlab grade`: a folder of submissions, graded."""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import nbformat

from .build import NOTEBOOKS, lessons
from .copies import STUB

CONFIG = """\
# Written by peftlab. nbgrader reads it when its commands run in this folder.
c = get_config()
c.CourseDirectory.course_id = {course!r}
c.ClearSolutions.code_stub = {{"python": {stub!r}}}
c.Execute.timeout = 120
c.Execute.skip_cells_with_tag = "heavy"  # trainings and the like: no check needs them, and each would cost a minute
"""


def make_course(folder, *names, course="peftlab"):
    """Write `nbgrader_config.py` and `source/NAME/NAME.ipynb` for each lesson (default: all) into a folder.

    What is there already stays: a changed config or source is the teacher's. After it: `nbgrader generate_assignment`.
    """
    folder = Path(folder)
    if unknown := set(names) - set(lessons()):
        raise ValueError(f"no lesson is called {', '.join(sorted(unknown))}; there are: {', '.join(lessons())}")
    for name in names or lessons():
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        _new(folder / "source" / name / f"{name}.ipynb", nbformat.writes(notebook))
    _new(folder / "nbgrader_config.py", CONFIG.format(course=course, stub=STUB))
    return folder


def _new(path, text):
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def grade(arguments):
    """Grade every submission in a folder that was not graded yet, and write the marks into nbgrader's gradebook."""
    parser = argparse.ArgumentParser(
        prog="peftlab grade",
        description="Grade SUBMISSIONS/student/lesson/lesson.ipynb. Stop it with Ctrl-C: it goes on from there.",
    )
    parser.add_argument("submissions", type=Path)
    parser.add_argument("lessons", nargs="*", help="only these (default: all)")
    parser.add_argument("--db", help="the gradebook (default: gradebook.db beside the folder), as SQLAlchemy writes it")
    parser.add_argument("--again", action="store_true", help="grade also what was graded before")
    parser.add_argument("--seed", type=int, help="of the inputs (default: one that nobody knows, the same for all of a run)")
    parser.add_argument("--share", default="1/1", help="2/3: the second of three graders that share the work")
    parser.add_argument("--seconds", type=float, default=60, help="for one submission (default: 60)")
    parser.add_argument("--report", type=Path, help="write all results here too, one JSON object a line")
    parser.add_argument("--bare", action="store_true", help="no bubblewrap even where there is one")
    options = parser.parse_args(arguments)
    if sys.platform != "linux":
        raise SystemExit("peftlab grade needs Linux, which shuts the learners' code in; a container or WSL will do.")
    if not options.submissions.is_dir():
        raise SystemExit(f"peftlab grade: there is no folder {options.submissions}")
    from . import judge
    from .gradebook import Marks, default_url, summary
    from .submissions import all_submissions, lesson_named, nameless

    part, parts = map(int, options.share.split("/"))
    waiting = [
        (student, lesson, path)
        for student, lesson, path in all_submissions(options.submissions)
        if (not options.lessons or lesson in options.lessons) and _number(student, lesson) % parts == part - 1
    ]
    seed = judge.any_seed() if options.seed is None else options.seed
    known, graded, failed, start = {}, 0, 0, None
    with (
        judge.Sandbox({**judge.LIMITS, "seconds": options.seconds}, options.bare) as sandbox,
        Marks(options.db or default_url(options.submissions)) as marks,
    ):
        print(sandbox.describe(), flush=True)
        for path in nameless(options.submissions):
            failed += 1
            print(f"{ascii(path.name)[:120]}: NOT GRADED: rename the folder as the student is called.", flush=True)
        for student, name, path in waiting:
            try:
                if name not in known:
                    known[name] = lesson_named(name, options.submissions.resolve().parent)
                    _twice(marks, marks.add_lesson, known[name])
                if not options.again and marks.is_graded(student, name, judge.hash_of(path)):
                    continue
                start = start or time.monotonic()
                done = judge.grade(path, student, known[name], sandbox, seed)
                _twice(marks, marks.write, done, known[name])
            except Exception as e:  # noqa: BLE001 - one submission's trouble is no other's
                failed += 1
                print(f"{judge.clean(student)}, {name}: NOT GRADED: {judge.clean(e)[:300]}", flush=True)
                continue
            graded += 1
            print(judge.tell(done), flush=True)
            if options.report:
                with options.report.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(summary(done)) + "\n")
    rate = f", {60 * graded / (time.monotonic() - start):.0f} a minute" if graded > 1 else ""
    print(f"{graded} graded{rate}; {len(waiting) - graded - failed} were graded before; {failed} could not be.")
    return 1 if failed else 0


def _twice(marks, write, *what):
    """Once more where another grader wrote the same row at the same moment."""
    try:
        write(*what)
    except Exception:  # noqa: BLE001 - each kind of database has its own
        marks.book.db.rollback()
        write(*what)


def _number(student, lesson):
    """The same on every machine, so that graders who share the work agree on whose it is."""
    return int(hashlib.sha256(f"{student}/{lesson}".encode()).hexdigest()[:8], 16)
