"""Marks and answers, as they leave the gradebook; read back with the standard library's csv module."""

import csv
import datetime
import json
import shutil
from types import SimpleNamespace

import pytest

from peftlab.classroom import build, out, written
from peftlab.classroom.gradebook import Marks, default_url
from peftlab.classroom.late import LateDays
from peftlab.classroom.shares import SHARES, of_hundred

LESSONS = {"00-start-here": 1, "03-lora": 10}
CANVAS = "Student,ID,SIS User ID,SIS Login ID,Section,Old work (12)\n    Points Possible,,,,,10\n\"Ada, Byron\",7,s7,ada,A,3\nBo Li,8,s8,bo,A,\n"
MOODLE = "First name;Last name;ID number;Email address\nAda;Byron;ada;ada@example.org\nBo;Li;bo;bo@example.org\n"


@pytest.fixture(scope="module")
def first_course(tmp_path_factory):
    """Made once: a new gradebook asks `alembic` for its version, a process of seconds."""
    folder = tmp_path_factory.mktemp("course")
    with Marks(default_url(folder / "submitted")) as marks:
        book = marks.book
        for name, most in LESSONS.items():
            book.add_assignment(name, duedate="2026-01-10 00:00 UTC")
            book.add_notebook(name, name)
            book.add_grade_cell("check", name, name, max_score=most, cell_type="code")
        for student, name, score, penalty in (("ada", "00-start-here", 1, 0), ("ada", "03-lora", 7.5, 2), ("=eve()", "03-lora", 9, 0)):
            book.update_or_create_student(student)
            book.add_submission(name, student)
            book.find_grade("check", name, name, student).auto_score = score
            book.find_submission_notebook(name, name, student).late_submission_penalty = penalty
        book.db.commit()
    return folder


@pytest.fixture
def course(first_course, tmp_path):
    return shutil.copytree(first_course, tmp_path, dirs_exist_ok=True)


def table(text):
    return list(csv.DictReader(text.splitlines()))


def test_canvas_gets_its_own_columns_back(course, capsys):
    (course / "roster.csv").write_text(CANVAS)
    assert out.marks([str(course), "--for", "canvas", "--roster", str(course / "roster.csv")]) == 1
    said = capsys.readouterr()
    possible, ada, bo = table(said.out)
    assert list(ada) == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "00-start-here", "03-lora"]
    assert possible["Student"].strip() == "Points Possible" and possible["03-lora"] == "10"
    assert (ada["Student"], ada["ID"], ada["00-start-here"], ada["03-lora"]) == ("Ada, Byron", "7", "1", "5.5")
    assert bo["03-lora"] == "" and "No submission of 'bo'" in said.err and "'=eve()" in said.err


def test_moodle_finds_its_users(course, capsys):
    (course / "roster.csv").write_text(MOODLE, encoding="utf-8-sig")
    out.marks([str(course), "--for", "moodle", "--roster", str(course / "roster.csv")])
    ada, bo = table(capsys.readouterr().out)
    assert (ada["Email address"], ada["ID number"], ada["03-lora"], bo["03-lora"]) == ("ada@example.org", "ada", "5.5", "")


def test_a_plain_table_holds_everybody_and_no_formula(course, capsys):
    (course / "roster.csv").write_text(MOODLE)
    target = course / "marks.csv"
    out.marks([str(course), "--roster", str(course / "roster.csv"), "--to", str(target)])
    ada, bo, eve = table(target.read_text())
    assert (ada["last_name"], ada["first_name"], ada["email"], ada["total"], ada["most"]) == ("Byron", "Ada", "ada@example.org", "6.5", "11")
    assert ada["of_100"] == "59.5" and bo["of_100"] == "0", "shares 1 and 9 of these two lessons: (1 + 9 * 0.55) / 10"
    assert eve["student_id"] == "'=eve()" and eve["03-lora"] == "9" and bo["total"] == "0"
    with pytest.raises(SystemExit, match="is there already"):
        out.marks([str(course), "--to", str(target)])


def test_the_lessons_shares_add_up_to_a_hundred():
    assert sum(SHARES.values()) == 100 and set(build.lessons()) <= set(SHARES)
    most = dict.fromkeys(SHARES, 7.5)
    assert of_hundred(most, most) == 100 and of_hundred({}, most) == 0 and of_hundred({}, {"our own": 3}) is None
    assert of_hundred({"03-lora": 5}, {"03-lora": 10, "our own": 3}) == 50, "a lesson that has no share counts for nothing"


@pytest.mark.parametrize(
    ("roster", "options", "said"),
    [
        ("Name,Id\nAda,17\n", ["--for", "csv"], "no submission's folder is called"),
        ("", [], "has no students"),
        (MOODLE, ["--match", "Login"], "has no column 'Login'; it has: First name"),
        (MOODLE, ["--for", "canvas"], "lacks Student, ID"),
    ],
)
def test_a_roster_that_does_not_fit_is_one_sentence(course, roster, options, said):
    (course / "roster.csv").write_text(roster)
    with pytest.raises(SystemExit, match=said):
        out.marks([str(course), "--roster", str(course / "roster.csv"), *options])


def test_late_days_are_free_until_they_are_used_up():
    day = datetime.timedelta(days=1)
    due = {name: datetime.datetime(2026, 1, 10) + 7 * i * day for i, name in enumerate("abc")}
    late = {"a": 1.5, "b": 3, "c": 2}  # days
    sent = [
        SimpleNamespace(name=n, duedate=due[n], assignment=SimpleNamespace(duedate=due[n]), total_seconds_late=86_400 * late[n])
        for n in "abc"
    ]
    book = SimpleNamespace(find_assignment=lambda n: SimpleNamespace(duedate=due[n]), student_submissions=lambda s: sent)
    taken = {}
    for name in "abc":
        plugin = SimpleNamespace(free_days=4, per_day=0.25, parent=SimpleNamespace(gradebook=book, assignment_id=name))
        taken[name] = LateDays.late_submission_penalty(plugin, "ada", 8, 86_400 * late[name])
    assert taken == {"a": 0, "b": 2, "c": 4}  # 2 of the 4 free days, then 2 and one paid, then two paid


def test_each_answer_is_a_file_and_an_untouched_stub_is_none(tmp_path, capsys):
    solved = (build.NOTEBOOKS / "03-lora.ipynb").read_text(encoding="utf-8")
    from peftlab.classroom.copies import learner_copy

    untouched = json.loads(json.dumps(learner_copy(build.nbformat.reads(solved, 4))))
    solved = solved.replace(written.STUB, "The update was smaller.")
    for student, text in (("ada", solved), ("bo", json.dumps(untouched)), ("cy", "{")):
        path = tmp_path / "submitted" / student / "03-lora" / "03-lora.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    assert out.answers([str(tmp_path / "submitted"), "--to", str(tmp_path / "answers")]) == 1
    files = sorted(p.relative_to(tmp_path / "answers").as_posix() for p in (tmp_path / "answers").rglob("*.py"))
    assert "03-lora/lora-forward/ada.py" in files and "03-lora/lora-forward.stub.py" in files
    words = (tmp_path / "answers").rglob("*.txt")
    assert [(p.stem, p.parent.name, p.read_text()) for p in words] == [("ada", "03-lora-written", "The update was smaller.\n")]
    assert not any("bo.py" in f for f in files) and "cy/03-lora" in capsys.readouterr().err
    assert "def lora_forward" in (tmp_path / "answers/03-lora/lora-forward/ada.py").read_text()
    with pytest.raises(SystemExit, match="not empty"):
        out.answers([str(tmp_path / "submitted"), "--to", str(tmp_path / "answers")])
