"""A class goes the whole way: released, handed in, graded here and by nbgrader, by hand, mended, late, exported, fed back."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import attacks
import pytest
from attacks import ATTACKS, LESSON

from peftlab.classroom import grading, keys, out
from peftlab.classroom.gradebook import GRADED, Marks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="learners' code is shut in on Linux only")


def nbgrader(course, *arguments):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=course, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def book(course):
    return Marks(f"sqlite:///{course / 'gradebook.db'}")


def marks(course):
    with book(course) as opened:
        return {s.student.id: (s.score, s.late_submission_penalty) for s in opened.book.assignment_submissions(LESSON)}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """Graded once, with a due date, one late, and one mark by hand."""
    folder = grading.make_course(tmp_path_factory.mktemp("course"), LESSON)
    config = folder / "nbgrader_config.py"
    text = config.read_text().replace("# c.", "c.").replace("free_days = 4", "free_days = 1").replace("per_day = 0.1", "per_day = 0.25")
    config.write_text(text)
    nbgrader(folder, "generate_assignment", LESSON, "--create")
    released = json.loads((folder / "release" / LESSON / f"{LESSON}.ipynb").read_text())
    kinds = {
        "ada": attacks.RIGHT,
        "bo": attacks.WRONG,
        "late": attacks.RIGHT,
        "harm": attacks.RIGHT + f"\nopen({str(folder / 'ran')!r}, 'w')\n",
        "hand": attacks.WRONG,
    }
    for student, text in kinds.items():
        path = folder / "submitted" / student / LESSON / f"{LESSON}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(attacks.answer(json.loads(json.dumps(released)), text)))
        (path.parent / "timestamp.txt").write_text(f"2026-01-{'13' if student == 'late' else '09'} 10:00:00 UTC")
    for name in ("patched-result", "forged-links"):
        path = folder / "submitted" / name / LESSON / f"{LESSON}.ipynb"
        path.parent.mkdir(parents=True)
        ATTACKS[name].write(released, path, course=folder)
    with book(folder) as opened:
        opened.book.update_or_create_assignment(LESSON, duedate="2026-01-10 10:00:00 UTC")
    assert grading.grade([str(folder / "submitted")]) == 0
    with book(folder) as opened:
        opened.book.find_grade("cosine-check", LESSON, LESSON, "hand").manual_score = 0.5
        opened.book.find_comment("cosine", LESSON, LESSON, "hand").manual_comment = "a good try"
        opened.book.db.commit()
    nbgrader(folder, "autograde", LESSON)
    return folder


def test_nbgrader_keeps_the_marks_the_comments_and_takes_the_late_days(course):
    found = marks(course)
    assert {s: m[0] for s, m in found.items()} == {
        "ada": 1, "bo": 0, "late": 1, "harm": 1, "hand": 0.5, "patched-result": 0, "forged-links": 0,
    }  # fmt: skip
    assert {s for s, m in found.items() if m[1]} == {"late"} and found["late"][1] == 0.5, "three days late, one of them free"
    assert not (course / "ran").exists(), "nbgrader ran what was graded already"
    with book(course) as opened:
        comment = opened.book.find_comment("cosine", LESSON, LESSON, "bo").comment
        assert comment.startswith("not yet. These are dot products")
        assert opened.book.find_comment("cosine", LESSON, LESSON, "hand").manual_comment == "a good try"
        assert opened.book.find_submission(LESSON, "late").timestamp.isoformat() == "2026-01-13T10:00:00"


def test_marks_that_another_program_changed_are_written_again(course, capsys):
    with book(course) as opened:
        opened.book.find_grade("cosine-check", LESSON, LESSON, "bo").auto_score = 1
        opened.book.find_comment("cosine", LESSON, LESSON, "bo").auto_comment = None
        opened.book.db.commit()
    assert grading.grade([str(course / "submitted")]) == 0
    said = capsys.readouterr().out
    assert "bo, 00-start-here: another program had changed our marks: written again" in said and "7 were graded before" in said
    assert marks(course)["bo"][0] == 0


def test_a_mended_check_grades_again_and_says_what_changed(course, monkeypatch, capsys):
    with book(course) as opened:  # as if a check that has been mended since had refused a right answer
        for name in ("ada", "hand"):
            row = opened.row(name, LESSON)["results"]
            row["results"]["cosine"][3][0] = 0 if name == "ada" else 1
            opened.book.db.execute(GRADED.update().where(GRADED.c.student == name).values(results=json.dumps(row)))
            opened.book.db.commit()
    before = keys.definition
    monkeypatch.setattr(keys, "definition", lambda id: before(id) + "\n# mended: 2")
    assert grading.grade([str(course / "submitted")]) == 0
    said = capsys.readouterr().out
    assert "7 graded" in said and "cosine: 1 of 1, was 0" in said and "cosine: 0 of 1, was 1" in said and "2 marks" in said
    assert {s: m[0] for s, m in marks(course).items() if m[0]} == {"ada": 1, "late": 1, "harm": 1, "hand": 0.5}, "a mark by hand stays"
    assert grading.grade([str(course / "submitted"), "--exercise", "cosine"]) == 0
    assert "7 graded" in capsys.readouterr().out


def test_marks_go_out_with_the_penalty_taken_off(course, capsys):
    (course / "roster.csv").write_text("Student,ID,SIS Login ID\nAda,1,ada\nLate,2,late\nGone,3,gone\n")
    out.marks([str(course), "--for", "canvas", "--roster", str(course / "roster.csv")])
    rows = {r["Student"]: r[LESSON] for r in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert rows == {"    Points Possible": "1", "Ada": "1", "Late": "0.5", "Gone": ""}
    nbgrader(course, "export")
    own = {r["student_id"]: float(r["score"]) for r in csv.DictReader((course / "grades.csv").open())}
    assert own["ada"] == 1 and own["late"] == 0.5 and own["hand"] == 0.5


def test_feedback_in_a_browser_asks_nobody_for_what_a_submission_says(course, chromium, tmp_path):
    from playwright.sync_api import sync_playwright

    nbgrader(course, "generate_feedback", LESSON)
    page_of = {p.parts[-3]: p for p in (course / "feedback").rglob("*.html")}
    asked = []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, headless=True, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1100, "height": 1400})
        page.route("**/*", lambda route: (asked.append(route.request.url), route.continue_() if route.request.url[:5] == "file:" else route.abort()))
        page.goto(page_of["forged-links"].as_uri())
        assert not any("example.org" in url for url in asked), asked
        comments = page.locator(".panel, .comment, .jp-RenderedHTMLCommon").all_inner_texts()
        assert any("javascript: alert" in c or "javascript:alert" in c for c in comments), "the message itself is there, as text"
        assert page.locator("a[href^='javascript']").count() == 0 and page.locator("img[src*='example.org']").count() == 0
        page.goto(page_of["bo"].as_uri())
        assert "These are dot products" in page.content()
        page.screenshot(path=str(tmp_path / "feedback.png"), full_page=True)
        if keep := os.environ.get("PEFTLAB_SCREENSHOTS"):
            shutil.copy(tmp_path / "feedback.png", keep)
        browser.close()
    assert re.search(r"not yet", page_of["bo"].read_text())


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
