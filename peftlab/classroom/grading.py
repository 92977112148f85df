"""A teacher's nbgrader course with lessons as its assignments, and `peftlab grade`: a folder of submissions, graded."""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import nbformat

from . import written
from .build import NOTEBOOKS, lessons
from .copies import PAGE, STUB

DOCS = NOTEBOOKS.parent / "docs"

CONFIG = """\
# Written by peftlab. nbgrader reads it when its commands run in this folder.
c = get_config()
c.CourseDirectory.course_id = {course!r}
c.ClearSolutions.code_stub = {{"python": {stub!r}}}
c.ClearSolutions.text_stub = {empty!r}
c.ClearMarkScheme.enforce_metadata = False  # rubrics stand in the questions, and go out of what is released
c.GenerateFeedback.preprocessors = [  # nbgrader's own, and no sample answer in what a student gets back
    "nbgrader.preprocessors.GetGrades",
    "peftlab.classroom.agree.HideRubrics",
    "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]
c.Execute.timeout = 120
c.Execute.skip_cells_with_tag = "heavy"  # trainings and the like: no check needs them, and each would cost a minute
c.RunUnlessGraded.timeout = 120
c.RunUnlessGraded.skip_cells_with_tag = "heavy"
c.Autograde.sanitize_preprocessors = [  # nbgrader's own, but one odd cell stops nobody else's grading
    "nbgrader.preprocessors.ClearOutput",
    "peftlab.classroom.agree.OneOfEach",
    "nbgrader.preprocessors.OverwriteKernelspec",
    "nbgrader.preprocessors.OverwriteCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Autograde.autograde_preprocessors = [  # nbgrader's own, but what `peftlab grade` has graded keeps its marks
    "peftlab.classroom.agree.RunUnlessGraded",
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "peftlab.classroom.agree.KeepMarks",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
# Late work: set due dates in the formgrader, and take away the first sign of these lines.
# c.AssignLatePenalties.plugin_class = "peftlab.classroom.late.LateDays"
# c.LateDays.free_days = 4  # days in the whole course that cost nothing
# c.LateDays.per_day = 0.1  # of the score, for each further day
"""


def make_course(folder, *names, course="peftlab"):
    """Write `nbgrader_config.py` and `source/NAME/NAME.ipynb` for each lesson (default: all) into a folder.

    The source is the teacher's copy: the lesson with its solutions, and the rubric of its written question. What is there already stays: a changed config or source is the teacher's. After it: `nbgrader generate_assignment`.
    """
    folder = Path(folder)
    if unknown := set(names) - set(lessons()):
        raise ValueError(f"no lesson is called {', '.join(sorted(unknown))}; there are: {', '.join(lessons())}")
    if odd := set("?#%") & set(str(folder.resolve())):
        raise ValueError(f"nbgrader can't keep its gradebook below a folder whose name has {' '.join(sorted(odd))} in it")
    for name in names or lessons():
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
            for page in PAGE.findall(cell.source):  # nbgrader hands out what lies beside the notebook
                _new(folder / "source" / name / page, (DOCS / page).read_text(encoding="utf-8"))
            cell.source = PAGE.sub(r"](\1", cell.source)
        _new(folder / "source" / name / f"{name}.ipynb", nbformat.writes(written.with_rubric(notebook, name)))
    _new(folder / "nbgrader_config.py", CONFIG.format(course=course, stub=STUB, empty=written.STUB))
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
    parser.add_argument("--exercise", metavar="ID", help="grade this one alone, also where it was graded before")
    parser.add_argument("--seed", type=int, help="of the inputs (default: one that nobody knows, the same for all of a run)")
    parser.add_argument("--share", type=_share, default=(1, 1), help="2/3: the second of three graders that share the work")
    parser.add_argument("--seconds", type=_seconds, default=60, help="for one submission (default: 60)")
    parser.add_argument("--report", type=Path, help="write all results here too, one JSON object a line")
    parser.add_argument(
        "--bare", action="count", default=0, help="no bubblewrap even where there is one; twice: even if it leaves things open"
    )
    options = parser.parse_args(arguments)
    if sys.platform != "linux":
        raise SystemExit("peftlab grade needs Linux, which shuts the learners' code in; a container or WSL will do.")
    if not options.submissions.is_dir():
        raise SystemExit(f"peftlab grade: there is no folder {options.submissions}")
    if unknown := set(options.lessons) - set(lessons()):
        raise SystemExit(f"peftlab grade: no lesson is called {', '.join(sorted(unknown))}; there are: {', '.join(lessons())}")
    if options.exercise:
        from .exercise import all_exercises

        known = {e.id: e.lesson for e in all_exercises() if e.points}
        if options.exercise not in known:
            raise SystemExit(f"peftlab grade: no exercise with points is called {options.exercise!r}; there are: {', '.join(known)}")
        options.lessons = [known[options.exercise]]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 stops nothing
    from . import judge

    try:
        with judge.Sandbox({**judge.LIMITS, "seconds": options.seconds}, options.bare) as sandbox:
            if sandbox.open and options.bare < 2:
                raise SystemExit(
                    f"peftlab grade: a submission could reach {', '.join(sandbox.open)} on this machine. Install bubblewrap "
                    "(apt-get install bubblewrap), or grade in a virtual machine that holds nothing else. "
                    "`--bare --bare` grades all the same: only for people you trust."
                )
            return _grade(options, sandbox)
    except (judge.MachineTrouble, OSError) as error:
        advice = "; `--bare` does without it" if not options.bare and "bubblewrap" in str(error) else ""
        raise SystemExit(f"peftlab grade: {error}{advice}. Nothing more was graded.") from error


def _grade(options, sandbox):
    from . import judge
    from .gradebook import Marks, default_url, summary
    from .keys import keys
    from .submissions import all_submissions, handed_in, lesson_named

    part, parts = options.share
    found, passed = all_submissions(options.submissions)
    waiting = [
        (student, lesson, path)
        for student, lesson, path in found
        if (not options.lessons or lesson in options.lessons) and _number(student, lesson) % parts == part - 1
    ]
    seed = judge.any_seed() if options.seed is None else options.seed
    known, graded, before, changed, failed, start = {}, 0, 0, 0, len(passed), None
    with Marks(options.db or default_url(options.submissions)) as marks:
        print(sandbox.describe(), flush=True)
        for name, why in passed:
            print(f"{judge.clean(ascii(name))[:120]}: NOT GRADED: {why}", flush=True)
        for student, name, path in waiting:
            try:
                if name not in known:
                    known[name] = lesson_named(name, options.submissions.resolve().parent)
                    known[name].keys = keys(known[name])
                    _twice(marks, marks.add_lesson, known[name])
                due, last = _due(options, marks.row(student, name), judge.hash_of(path), known[name].keys)
                if not due:
                    before += 1
                    if marks.restore(student, name):
                        print(f"{judge.clean(student)}, {name}: another program had changed our marks: written again.", flush=True)
                    continue
                start = start or time.monotonic()
                done = judge.grade(path, student, known[name], sandbox, seed, due)
                done.before = {e: p for e, p in last.items() if e in done.points and p[0] != done.points[e][0]}
                _twice(marks, marks.write, done, known[name], known[name].keys, handed_in(path))
                changed += len(done.before)
            except Exception as e:  # noqa: BLE001 - one submission's trouble is no other's
                failed += 1
                print(f"{judge.clean(student)}, {name}: NOT GRADED: {judge.clean(e)[:300]}", flush=True)
                continue
            graded += 1
            print(judge.tell(done), flush=True)
            if options.report:
                with options.report.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(summary(done)) + "\n")
        waiting_for_a_mark = marks.by_hand()
    rate = f", {60 * graded / (time.monotonic() - start):.0f} a minute" if graded > 1 else ""
    print(f"{graded} graded{rate}; {before} {'was' if before == 1 else 'were'} graded before; {failed} could not be.")
    if waiting_for_a_mark:
        print(f"{waiting_for_a_mark} written answer{'s' * (waiting_for_a_mark > 1)} to mark by hand, in the formgrader.")
    if changed:
        print(f"{changed} mark{'s' * (changed > 1)} of notebooks graded before changed: `was` above tells from what.")
    if not (waiting or passed):
        print(
            f"There is nothing to grade: {options.submissions} holds no STUDENT/LESSON/LESSON.ipynb"
            + (f" with LESSON {' or '.join(options.lessons)}" if options.lessons else "")
            + (f" in the part {part}/{parts}" if parts > 1 else "")
            + "."
        )
        return 0 if found and parts > 1 else 1
    return 1 if failed else 0


def _due(options, row, hash, keys):
    """The exercises to grade now, and {exercise: points} of the same bytes when they were last graded."""
    same = row is not None and row["hash"] == hash
    made = row["results"].get("keys", {}) if same else {}
    last = {e: result[3] for e, result in row["results"]["results"].items()} if same else {}
    if options.exercise:
        return {options.exercise} & set(keys), last
    return {e for e, key in keys.items() if options.again or made.get(e) != key}, last


def _share(text):
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no share: write 2/3 for the second of three")
    return int(part), int(parts)


def _seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 1 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: a number of seconds from 1 to 86400")
    return value


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
