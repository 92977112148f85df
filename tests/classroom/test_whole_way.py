"""A class of thirty goes the whole way: released, handed in, graded here and by nbgrader, by hand, mended, late, exported, fed back.

Their lesson is a short one with parts: three exercises, two of which may be right in part, and a written question. nbgrader
alone, which starts a kernel for each notebook, marks some of them for comparison; with PEFTLAB_WHOLE_CLASS=1 all that are honest.
"""

import copy
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import attacks
import nbformat
import pytest
from attacks import ATTACKS, LESSON

from peftlab.classroom import build, grading, keys, out, written
from peftlab.classroom.gradebook import GRADED, Marks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="learners' code is shut in on Linux only")

SOURCE = '''# %% [markdown]
# # 00 A short lesson

# %%
import torch

from peftlab.classroom import check

# %%
def cosine(a, b):
    ### BEGIN SOLUTION
    return torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)
    ### END SOLUTION

# %%
check("cosine", cosine)

# %%
def lora_forward(x, weight, bias, A, B, alpha):
    ### BEGIN SOLUTION
    return torch.nn.functional.linear(x, weight, bias) + alpha / len(A) * x @ A.T @ B.T
    ### END SOLUTION

# %%
check("lora-forward", lora_forward)

# %%
def multiplications(tokens, d_in, d_out, trained):
    ### BEGIN SOLUTION
    return tokens * d_in * d_out * (3 if trained else 2)
    ### END SOLUTION

# %%
check("multiplications", multiplications)

# %% [markdown] tags=["written"]
# ## In your own words
#
# What did you see?
'''
ASKED = {"cosine": 1, "lora-forward": 3, "multiplications": 2}
FORWARD = "def lora_forward(x, weight, bias, A, B, alpha):\n    return torch.nn.functional.linear(x, weight, bias) + {} * x @ A.T @ B.T"
TIMES = "def multiplications(tokens, d_in, d_out, trained):\n    return tokens * d_in * d_out * {}"
ANSWERS = {  # exercise -> {kind: what stands in the cell}
    "cosine": {
        "right": attacks.RIGHT,
        "wrong": attacks.WRONG,
        "syntax": "def cosine(a, b:\n    return a",
        "raises": "def cosine(a, b):\n    return a.cosine(b)",
        "timed": "%%time\n" + attacks.RIGHT,
        "shell": attacks.RIGHT + "\nfiles = !ls\ncosine?\n",
        "loud": attacks.RIGHT + "\nprint('x' * 300_000)\n",
        "leaves": attacks.RIGHT + "\nimport os\nos._exit(0)\n",
        "writes": attacks.RIGHT + "\nopen('{course}/ran', 'w')\n",
        "patched": attacks.WRONG + "\n" + attacks.textwrap.dedent(ATTACKS["patched-result"].code),
        "links": attacks.WRONG + "\n" + attacks.textwrap.dedent(ATTACKS["forged-links"].code),
    },
    "lora-forward": {
        "right": FORWARD.format("alpha / len(A)"),
        "half": FORWARD.format("alpha / len(A)").replace("return ", "return (") + ").detach()",
        "wrong": FORWARD.format("alpha"),
    },
    "multiplications": {"right": TIMES.format("(3 if trained else 2)"), "half": TIMES.format("3"), "wrong": TIMES.format("6")},
}
RIGHT = ("right", "timed", "shell", "loud", "writes")
HALF = {"lora-forward": 2, "multiplications": 1}
SAID = "The bank found borrowing, the refund found words. Twenty questions without a shared word would tell."


@dataclass
class Student:
    """What stands in the three cells (-: nothing), the written answer, what becomes of the notebook, days after it was due."""

    cells: str
    says: str = SAID
    change: object = None
    days: int = -1
    lost: bool = False  # whatever stands in the cells, nothing is known of it
    words: bool | None = None  # is there a written answer to mark? (None: as `says` says)
    honest: bool = True  # may run without a sandbox

    @property
    def points(self):
        kinds = zip(ASKED, self.cells.split())
        worth = {e: ASKED[e] if kind in RIGHT else HALF[e] if kind == "half" else 0 for e, kind in kinds}
        return dict.fromkeys(ASKED, 0) if self.lost else worth

    @property
    def to_read(self):
        return self.says.strip() not in ("", written.STUB) if self.words is None else self.words


def without(ending):
    """The notebook without one cell of its own."""

    def change(notebook):
        notebook["cells"] = [c for c in notebook["cells"] if not str(_id(c)).endswith(ending)]
        return notebook

    return change


def _id(cell):
    return cell["metadata"].get("nbgrader", {}).get("grade_id")


def _again(notebook):
    one = attacks.cell(notebook, "cosine")
    notebook["cells"].insert(2, {**copy.deepcopy(one), "id": "again", "source": attacks.RIGHT})
    return notebook


def _tampered(notebook):
    attacks.cell(notebook, "cosine-check")["source"] = "1.0"
    attacks.cell(notebook, "lora-forward-check")["metadata"]["nbgrader"]["points"] = 100
    return notebook


def _old(notebook):
    """Saved by an old JupyterLab; and one cell has metadata of a version that nbgrader would stop for."""
    for cell in notebook["cells"]:
        cell.pop("id", None)
    attacks.cell(notebook, "multiplications")["metadata"]["nbgrader"]["schema_version"] = 1
    return {**notebook, "nbformat_minor": 4}


CLASS = {
    "ada": Student("right right right"),
    "bo": Student("wrong wrong wrong"),
    "cy": Student("right half right"),
    "dy": Student("right right half"),
    "eve": Student("wrong half half", says=" \n"),
    "fay": Student("- - -", says=written.STUB),
    "gil": Student("right - -"),
    "hal": Student("- half -", says=written.STUB),
    "ida": Student("- - half"),
    "jo": Student("syntax right right"),
    "kim": Student("raises half wrong"),
    "lee": Student("timed right right"),
    "max": Student("shell wrong right"),
    "ned": Student("right right right", days=1),
    "oli": Student("right half half", days=3),
    "pam": Student("wrong right wrong", days=3, says=written.STUB),
    "quin": Student("leaves right right", lost=True, honest=False),
    "rae": Student("loud right wrong"),
    "sam": Student("writes right right", honest=False),
    "tia": Student("patched half right", honest=False),
    "uma": Student("links right wrong", lost=True, honest=False),
    "vic": Student("right right right", change=lambda n: json.dumps(n)[:5000], lost=True, words=False, honest=False),
    "wes": Student("right right right", change=lambda n: None, lost=True, words=False, honest=False),
    "xia": Student("right right right", change=lambda n: {**n, "cells": n["cells"][:1]}, lost=True, words=False, honest=False),
    "yan": Student("wrong half wrong", change=_tampered, honest=False),
    "zoe": Student("right half wrong", change=_old),
    "abe": Student("right right right", change=without("-written"), words=False),
    "ben": Student("- right right", change=without("-written-question")),
    "cleo": Student("wrong right half", change=_again),
    "dan": Student("right - wrong", days=5),
}
BROKEN = {"vic"}  # nbgrader can't open it
COMPARED = [s for s, student in CLASS.items() if student.honest]
if not os.environ.get("PEFTLAB_WHOLE_CLASS"):
    COMPARED = ["cy", "eve", "fay", "jo", "zoe"]
LATE = {"oli": 2, "pam": 2, "dan": 4}  # days that are charged: one is free


def nbgrader(course, *arguments, fails=()):
    """Run it. Its exit status is 0 unless there are students whose notebooks it can't open (`fails`)."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=course, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(fails), done.stderr[-3000:]
    return done.stderr


def book(course):
    return Marks(f"sqlite:///{course / 'gradebook.db'}")


def marks(course):
    with book(course) as opened:
        return {s.student.id: (s.score, s.late_submission_penalty) for s in opened.book.assignment_submissions(LESSON)}


def cells_of(course):
    """{student: {exercise: its points, and for the written answer whether it waits for a mark}}"""
    with book(course) as opened:
        found = {}
        for one in opened.book.assignment_submissions(LESSON):
            grades = {g.name: g for g in one.notebooks[0].grades}
            by_hand = grades.pop(f"{LESSON}-written")
            found[one.student.id] = {name.removesuffix("-check"): g.auto_score for name, g in grades.items()}
            found[one.student.id]["waits"] = by_hand.needs_manual_grade
        return found


def made(folder):
    """A course with the short lesson, released."""
    path = folder / "source" / LESSON / f"{LESSON}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(written.with_rubric(build.complete(LESSON, SOURCE), LESSON), path)
    grading.make_course(folder, LESSON)
    nbgrader(folder, "generate_assignment", LESSON, "--create")
    return json.loads((folder / "release" / LESSON / f"{LESSON}.ipynb").read_text())


def hand_in(folder, released, name, due=10):
    student = CLASS[name]
    notebook = copy.deepcopy(released)
    for exercise, kind in zip(ASKED, student.cells.split()):
        if kind != "-":
            attacks.cell(notebook, exercise)["source"] = ANSWERS[exercise][kind].replace("{course}", str(folder))
    attacks.cell(notebook, f"{LESSON}-written")["source"] = student.says
    notebook = student.change(notebook) if student.change else notebook
    path = folder / "submitted" / name / LESSON / f"{LESSON}.ipynb"
    path.parent.mkdir(parents=True)
    if notebook is not None:
        path.write_text(notebook if isinstance(notebook, str) else json.dumps(notebook))
    (path.parent / "timestamp.txt").write_text(f"2026-01-{due + student.days:02} 10:00:00 UTC")


@pytest.fixture(scope="module")
def course(tmp_path_factory, one_sandbox):
    """Graded here, marked by hand, and gone through nbgrader's autograde."""
    folder = tmp_path_factory.mktemp("course")
    released = made(folder)
    config = folder / "nbgrader_config.py"
    text = config.read_text().replace("# c.", "c.").replace("free_days = 4", "free_days = 1").replace("per_day = 0.1", "per_day = 0.25")
    config.write_text(text)
    for name in CLASS:
        hand_in(folder, released, name)
    with book(folder) as opened:
        opened.book.update_or_create_assignment(LESSON, duedate="2026-01-10 10:00:00 UTC")
    assert grading.grade([str(folder / "submitted")]) == 0
    with book(folder) as opened:
        for name in (n for n, student in CLASS.items() if student.to_read and n != "oli"):  # each is worth half a point
            by_hand(opened, name, f"{LESSON}-written", 0.5, f"{LESSON}-written")
        by_hand(opened, "bo", "cosine-check", 0.5, "cosine", "a good try")
    nbgrader(folder, "autograde", LESSON, fails=BROKEN)
    return folder


def by_hand(opened, student, cell, points, commented, said="which questions?"):
    """As the formgrader does when a mark and a comment are typed."""
    grade = opened.book.find_grade(cell, LESSON, LESSON, student)
    grade.manual_score, grade.needs_manual_grade = points, False
    opened.book.find_comment(commented, LESSON, LESSON, student).manual_comment = said
    opened.book.db.commit()


def total(name):
    return sum(CLASS[name].points.values()) + 0.5 * CLASS[name].to_read + 0.5 * (name == "bo")


def test_thirty_of_all_kinds_get_what_is_due(course):
    assert len(CLASS) == 30
    assert {s: {e: p for e, p in found.items() if e != "waits"} for s, found in cells_of(course).items()} == {
        name: student.points for name, student in CLASS.items()
    }
    found = {s: m[0] for s, m in marks(course).items()}
    assert found == {name: total(name) - 0.5 * (name == "oli") for name in CLASS}, "oli's answer in words waits"
    assert not (course / "ran").exists(), "nbgrader ran what was graded already"


def test_late_days_are_taken_off_and_one_is_free(course):
    assert marks(course)["oli"] == (total("oli") - 0.5, 0.5 * (total("oli") - 0.5))
    with book(course) as opened:  # a mark given after autograde: the penalty is of the score with it once that ran again
        by_hand(opened, "oli", f"{LESSON}-written", 0.5, f"{LESSON}-written")
    nbgrader(course, "autograde", LESSON, "--student", "oli", "--force")
    found = marks(course)
    assert {s: m[1] for s, m in found.items() if m[1]} == {s: min(1, 0.25 * days) * total(s) for s, days in LATE.items()}
    with book(course) as opened:
        assert opened.book.find_submission(LESSON, "oli").timestamp.isoformat() == "2026-01-13T10:00:00"


def test_nbgrader_alone_gives_the_same_marks(course, tmp_path):
    released = made(tmp_path)
    for name in COMPARED:
        hand_in(tmp_path, released, name)
    nbgrader(tmp_path, "autograde", LESSON)
    alone, ours = cells_of(tmp_path), cells_of(course)
    for name in COMPARED:
        waits = {"waits": CLASS[name].to_read}  # ours have been marked by hand since
        assert {**ours[name], **waits} == ({**alone[name], **waits} if name in BLANK else alone[name]), name


BLANK = {"eve", "abe"}  # blanks, and no cell: nbgrader alone takes them for an answer that waits


def test_the_comments_say_what_is_right_in_part(course):
    with book(course) as opened:
        said = {s: opened.book.find_comment("lora-forward", LESSON, LESSON, s).auto_comment for s in ("cy", "bo", "ada")}
        assert said["cy"].startswith("not yet. ") and "2 of 3 points: the output is right, the gradients are not." in said["cy"]
        assert "points" not in said["bo"] and said["ada"] == "correct."
        assert opened.book.find_comment("cosine", LESSON, LESSON, "bo").comment == "a good try"
        assert opened.book.find_comment(f"{LESSON}-written", LESSON, LESSON, "fay").comment.startswith("not attempted")


def test_marks_that_another_program_changed_are_written_again(course, capsys):
    with book(course) as opened:
        opened.book.find_grade("lora-forward-check", LESSON, LESSON, "cy").auto_score = 3
        opened.book.find_comment("cosine", LESSON, LESSON, "kim").auto_comment = None
        opened.book.db.commit()
    assert grading.grade([str(course / "submitted")]) == 0
    said = capsys.readouterr().out
    assert all(f"{s}, 00-start-here: another program had changed our marks: written again" in said for s in ("cy", "kim"))
    assert said.count("another program") == 2 and "30 were graded before" in said
    assert marks(course)["cy"][0] == total("cy")


def test_a_mended_check_grades_again_and_says_what_changed(course, monkeypatch, capsys):
    with book(course) as opened:  # as if a check that has been mended since had given other marks
        for name, exercise, points in (("ada", "cosine", 0), ("bo", "cosine", 1), ("cy", "lora-forward", 0)):
            row = opened.row(name, LESSON)["results"]
            row["results"][exercise][3][0] = points
            opened.book.db.execute(GRADED.update().where(GRADED.c.student == name).values(results=json.dumps(row)))
            opened.book.db.commit()
    before = keys.definition
    monkeypatch.setattr(keys, "definition", lambda id: before(id) + "\n# mended" * (id in ("cosine", "lora-forward")))
    assert grading.grade([str(course / "submitted")]) == 0
    said = capsys.readouterr().out
    assert "30 graded" in said and "3 marks of notebooks graded before changed" in said
    assert "cosine: 1 of 1, was 0" in said and "cosine: 0 of 1, was 1" in said and "lora-forward: 2 of 3, was 0" in said
    assert "multiplications: " not in said, "its check is what it was"
    assert {s: m[0] for s, m in marks(course).items()} == {name: total(name) for name in CLASS}, "marks by hand stay, halves too"
    assert grading.grade([str(course / "submitted"), "--exercise", "cosine"]) == 0
    assert "30 graded" in capsys.readouterr().out and marks(course)["cy"][0] == total("cy")


COLUMNS = {
    "canvas": ("Student,ID,SIS Login ID", "{Name},{number},{name}", "Student"),
    "moodle": ("First name,Last name,ID number,Email address", "{Name},Doe,{name},{name}@example.org", "First name"),
    "csv": ("name,id", "{Name} Doe,{name}", "first_name"),
}


@pytest.mark.parametrize("system", COLUMNS)
def test_marks_go_out_with_the_penalty_taken_off(course, system, capsys, tmp_path):
    head, line, column = COLUMNS[system]
    names = [*CLASS, "gone"]
    lines = [line.format(Name=name.title(), name=name, number=i) for i, name in enumerate(names)]
    (tmp_path / "roster.csv").write_text("\n".join([head, *lines]) + "\n")
    assert out.marks([str(course), "--for", system, "--roster", str(tmp_path / "roster.csv")]) == 0
    said = capsys.readouterr()
    rows = {r[column]: r[LESSON] for r in csv.DictReader(said.out.splitlines())}
    due = {name.title(): f"{total(name) * (1 - min(1, 0.25 * LATE.get(name, 0))):g}" for name in CLASS}
    assert rows == {**({"    Points Possible": "7"} if system == "canvas" else {}), **due, "Gone": ""}
    assert "No submission of 'gone'" in said.err and "without a mark yet" not in said.err


def test_nbgraders_own_export_has_the_same(course):
    nbgrader(course, "export")
    own = {r["student_id"]: float(r["score"]) for r in csv.DictReader((course / "grades.csv").open())}
    assert own == {name: total(name) * (1 - min(1, 0.25 * LATE.get(name, 0))) for name in CLASS}


def test_feedback_in_a_browser_asks_nobody_for_what_a_submission_says(course, chromium, tmp_path):
    from playwright.sync_api import sync_playwright

    nbgrader(course, "generate_feedback", LESSON)
    page_of = {p.parts[-3]: p for p in (course / "feedback").rglob("*.html")}
    assert set(page_of) == set(CLASS) - BROKEN - {"wes"}
    asked, texts = [], {}
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, headless=True, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1100, "height": 1400})
        page.route("**/*", lambda route: (asked.append(route.request.url), route.continue_() if route.request.url[:5] == "file:" else route.abort()))
        for name, path in page_of.items():
            page.goto(path.as_uri(), wait_until="domcontentloaded")
            texts[name] = page.inner_text("body")
            assert page.locator("a[href^='javascript']").count() == 0 and page.locator("img[src*='example.org']").count() == 0, name
            if name in ("cy", "uma"):
                page.screenshot(path=str(tmp_path / f"{name}.png"), full_page=True)
                if keep := os.environ.get("PEFTLAB_SCREENSHOTS"):
                    shutil.copy(tmp_path / f"{name}.png", keep)
        browser.close()
    assert {url.split("/")[2] for url in asked if url[:5] != "file:"} <= {"cdnjs.cloudflare.com"}, asked  # nbgrader's own MathJax
    assert "javascript: alert" in texts["uma"] or "javascript:alert" in texts["uma"], "the message itself is there, as text"
    assert "2 of 3 points: the output is right" in texts["cy"] and "which questions?" in texts["cy"] and "a good try" in texts["bo"]
    assert f"(Score: {total('cy')} / 7.0)" in texts["cy"] and not any("MARK SCHEME" in t or "Sample" in t for t in texts.values())


def test_the_guide_names_what_there_is():
    from peftlab import cli
    from peftlab.classroom import all_exercises

    docs = Path(__file__).parents[2] / "docs"
    guide = (docs / "teaching.md").read_text(encoding="utf-8")
    stuck = set(re.findall(r"^\| `([\w-]+)` \(\d\d\)", guide, re.MULTILINE))
    assert stuck and stuck <= {e.id for e in all_exercises()}
    for text in (guide, (docs / "grading.md").read_text(encoding="utf-8")):
        assert set(re.findall(r"^peftlab (\w+)|`peftlab (\w+)", text, re.MULTILINE)) <= {
            pair for c in cli.COMMANDS for pair in ((c, ""), ("", c))
        }
    order = [guide.index(f"\n{c}") for c in ("peftlab grade sub", "nbgrader autograde", "nbgrader generate_f", "peftlab marks .")]
    assert order == sorted(order)
