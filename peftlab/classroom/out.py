"""What leaves the gradebook: `peftlab marks`, as other systems import them, and `peftlab answers`, for JPlag or Dolos."""

import argparse
import csv
import io
import sys
from pathlib import Path

from .shares import of_hundred

FIRST, LAST, WHOLE = (
    ("first name", "first_name", "given name"),
    ("last name", "last_name", "surname"),
    ("student", "name", "full name"),
)
MAIL = ("email", "email address", "e-mail", "mail")
CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")  # what its gradebook exports, and imports again
MOODLE = ("Username", "ID number", "Email address")  # by any of these its import finds a user


def marks(arguments):
    """Write the marks of a course as a CSV file; returns the exit status: 1 where a submission belongs to nobody."""
    parser = argparse.ArgumentParser(prog="peftlab marks", description="Marks as another system imports them.")
    parser.add_argument(
        "course", nargs="?", type=Path, default=Path(), help="the folder with gradebook.db (default: this one)"
    )
    parser.add_argument("--for", dest="system", choices=("canvas", "moodle", "csv"), default="csv")
    parser.add_argument(
        "--roster", type=Path, help="a CSV file of the students: Canvas' exported gradebook, Moodle's participants"
    )
    parser.add_argument(
        "--match", metavar="COLUMN", help="the roster's column with the names of the submissions' folders"
    )
    parser.add_argument("--db", help="the gradebook, as SQLAlchemy writes it")
    parser.add_argument("--to", type=Path, help="the file to write (default: print it)")
    options = parser.parse_args(arguments)
    if options.system != "csv" and not options.roster:
        parser.error(
            f"--for {options.system} needs --roster FILE: {options.system.capitalize()} finds its students by its own columns"
        )
    if options.to and options.to.exists():
        raise SystemExit(f"peftlab marks: {options.to} is there already; name another file")
    if not options.db and not (options.course / "gradebook.db").is_file():
        raise SystemExit(
            f"peftlab marks: there is no gradebook.db in {options.course.resolve()}; --db names another gradebook"
        )
    from .gradebook import default_url

    most, scores, waiting = read_marks(options.db or default_url(options.course / "submitted"))
    columns, people = (
        read_roster(options.roster) if options.roster else (["student_id"], [{"student_id": s} for s in sorted(scores)])
    )
    column = options.match or best_match(columns, people, scores)
    if column not in columns:
        raise SystemExit(f"peftlab marks: the roster has no column {column!r}; it has: {', '.join(columns)}")
    known = {person[column]: person for person in people if person[column]}
    strangers = sorted(set(scores) - set(known))
    if strangers and len(strangers) == len(scores):
        raise SystemExit(
            f"peftlab marks: no submission's folder is called as {column} has it in the roster, such as {strangers[0]!r}; --match names another column"
        )
    text = io.StringIO()
    rows = TABLES[options.system](columns, column, known, most, scores, strangers)
    csv.writer(text, lineterminator="\n").writerows(rows)
    if options.to:
        options.to.write_text(text.getvalue(), encoding="utf-8")
    else:
        print(text.getvalue(), end="")
    for id in strangers:
        print(f"No student of the roster is {_plain(id)!r}: marks without a student.", file=sys.stderr)
    for id in sorted(set(known) - set(scores)):
        print(f"No submission of {_plain(id)!r}.", file=sys.stderr)
    if waiting:
        print(f"{waiting} written answer{'s' * (waiting > 1)} without a mark yet, counted as 0: the formgrader has them.", file=sys.stderr)
    return 1 if strangers else 0


def read_marks(url):
    """({lesson: most points}, {student: {lesson: points, late penalty taken off}}, answers that wait for a mark) of a gradebook."""
    from .gradebook import Marks

    with Marks(url) as opened:
        book = opened.book
        most = {a.name: a.max_score for a in sorted(book.assignments, key=lambda a: a.name)}
        scores = {}
        for name in most:
            for one in book.assignment_submissions(name):
                scores.setdefault(one.student.id, {})[name] = max(0.0, one.score - (one.late_submission_penalty or 0))
        waiting = opened.by_hand()
    return most, scores, waiting


def read_roster(path):
    """(columns, rows as dicts) of a CSV file with a header; commas, semicolons or tabs."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"peftlab marks: the roster {path} can't be read as UTF-8 text ({error})") from error
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    rows = list(csv.reader(io.StringIO(text), delimiter=separator))
    columns = [name.strip() for name in rows[0]] if rows else []
    people = [dict(zip(columns, map(str.strip, row))) for row in rows[1:] if any(cell.strip() for cell in row)]
    people = [
        {c: person.get(c, "") for c in columns}
        for person in people
        if not person[columns[0]].startswith("Points Possible")
    ]
    if not people:
        raise SystemExit(
            f"peftlab marks: the roster {path} has no students; its first line names the columns, each other a student"
        )
    return columns, people


def best_match(columns, people, scores):
    """The column that has the names of most submissions' folders."""
    return max(columns, key=lambda c: len({person[c] for person in people} & set(scores)))


def _canvas(columns, column, known, most, scores, strangers):
    if missing := [c for c in ("Student", "ID") if c not in columns]:
        raise SystemExit(
            f"peftlab marks: Canvas' import wants the columns of its own export; the roster lacks {', '.join(missing)}"
        )
    own = [c for c in CANVAS if c in columns]
    yield [*own, *most]
    yield ["    Points Possible", *[""] * (len(own) - 1), *map(_number, most.values())]
    for id, person in known.items():
        yield [*(person[c] for c in own), *(_number(scores.get(id, {}).get(name)) for name in most)]


def _moodle(columns, column, known, most, scores, strangers):
    own = [c for c in columns if c.lower() in {m.lower() for m in MOODLE} or c.lower() in FIRST + LAST]
    if not {c.lower() for c in own} & {m.lower() for m in MOODLE}:
        raise SystemExit(
            f"peftlab marks: Moodle's import finds a student by one of {', '.join(MOODLE)}; the roster has none of them"
        )
    yield [*own, *most]
    for id, person in known.items():
        yield [*(person[c] for c in own), *(_number(scores.get(id, {}).get(name)) for name in most)]


def _plain_table(columns, column, known, most, scores, strangers):
    yield ["student_id", "last_name", "first_name", "email", *most, "total", "most", "of_100"]
    for id in [*known, *strangers]:
        person, own = {c.lower(): v for c, v in known.get(id, {}).items()}, scores.get(id, {})
        last, first, mail = (next((person[c] for c in names if person.get(c)), "") for names in (LAST, FIRST, MAIL))
        whole = next((person[c] for c in WHOLE if person.get(c)), "")
        if not last and whole:
            last, _, first = map(str.strip, whole.partition(",")) if "," in whole else whole.rpartition(" ")[::-1]
        given = [_number(own.get(name)) for name in most]
        sums = sum(own.values()), sum(most.values()), of_hundred(own, most)
        yield [_plain(id), last, first, mail, *given, *map(_number, sums)]


TABLES = {"canvas": _canvas, "moodle": _moodle, "csv": _plain_table}


def _number(value):
    return "" if value is None else f"{round(value, 4):g}"


def _plain(name):
    """A folder's name, which a stranger chose, as no formula of a spreadsheet."""
    return f"'{name}" if name[:1] in "=+-@\t" else name


def answers(arguments):
    """Write each answer to a file of its own: FOLDER/LESSON/EXERCISE/STUDENT.py, the stub beside it, and words as .txt."""
    parser = argparse.ArgumentParser(prog="peftlab answers", description="Answers as Python files, for JPlag or Dolos.")
    parser.add_argument("submissions", type=Path)
    parser.add_argument("lessons", nargs="*", help="only these (default: all)")
    parser.add_argument("--to", type=Path, required=True, help="a folder that is empty or not there yet")
    options = parser.parse_args(arguments)
    if not options.submissions.is_dir():
        raise SystemExit(f"peftlab answers: there is no folder {options.submissions}")
    if options.to.exists() and (not options.to.is_dir() or any(options.to.iterdir())):
        raise SystemExit(f"peftlab answers: {options.to} is there and not empty; name another folder")
    from .copies import SOLUTION, stub
    from .judge import clean
    from .submissions import NotReadHere, Unreadable, all_submissions, lesson_named, read, solutions, written_answers
    from .written import untouched

    found, passed = all_submissions(options.submissions)
    trouble = [(name, why) for name, why in passed]
    known, count = {}, 0
    for student, name, path in found:
        if options.lessons and name not in options.lessons:
            continue
        if name not in known:
            known[name] = lesson_named(name, options.submissions.resolve().parent)
        stubs = {
            c.metadata["nbgrader"]["grade_id"]: SOLUTION.sub(stub, c.source).strip()
            for c in known[name].notebook.cells
            if "nbgrader" in c.metadata
        }
        try:
            data = read(path)[0]
            texts, words = solutions(data, known[name])[0], written_answers(data, known[name])
        except (Unreadable, NotReadHere) as error:
            trouble.append((f"{student}/{name}", str(error)))
            continue
        for id, asked in known[name].exercises.items():
            folder = options.to / name / id
            given = [texts[s].strip() for s in asked["solutions"] if s in texts]
            before = [stubs[s] for s in asked["solutions"]]
            if not given or given == before:
                continue
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{student}.py").write_text("\n\n".join(given) + "\n", encoding="utf-8", errors="replace")
            folder.with_name(f"{id}.stub.py").write_text("\n\n".join(before) + "\n", encoding="utf-8")
            count += 1
        for id, text in words.items():
            if not untouched(text):
                (options.to / name / id).mkdir(parents=True, exist_ok=True)
                (options.to / name / id / f"{student}.txt").write_text(text + "\n", encoding="utf-8", errors="replace")
                count += 1
    for name, why in trouble:
        print(f"{clean(ascii(name))}: passed over: {clean(why)}", file=sys.stderr)
    print(f"{count} answers in {options.to}, one folder for each exercise.")
    return 0 if count and not trouble else 1
