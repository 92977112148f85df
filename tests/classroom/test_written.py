"""The written question at a lesson's end: the learner has it and an empty cell, the teacher its rubric and samples, a person marks."""

import html
import json
import re
from types import SimpleNamespace

import nbformat
import pytest
from attacks import LESSON, RIGHT, answer
from test_whole_way import book, nbgrader

from peftlab.classroom import build, grading, out, written
from peftlab.classroom.copies import learner_copy

ASKED = [p.stem for p in sorted(written.RUBRICS.glob("*.md"))]
REPORTS = ["14-choose-and-capstone"]  # asks for a page, on a work of one's own
SAID = "The bank found borrowing, the refund found words. Twenty questions without a shared word would tell."
ID = LESSON + written.ANSWER


def id_of(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def secret(name):
    """What only a teacher may have: pieces of the samples and of the rubric, without line breaks."""
    found = written.rubric(name)
    texts = [t for _, _, said, why in found.samples for t in (said, why)] + [c for row in found.criteria.values() for c in row]
    return [line for text in texts for line in text.split("\n") if len(line) > 30]


def test_the_ten_lessons_have_a_rubric_and_no_other_file_is_there():
    assert set(build.lessons()[:10]) <= set(ASKED) <= set(build.lessons())


@pytest.mark.parametrize("name", ASKED)
def test_a_lesson_ends_in_its_question_and_an_empty_cell(name):
    made = build.complete(name)
    *before, question, cell = made.cells
    assert written.is_question(question) and question.metadata.nbgrader.locked and question.source.startswith("## In your own words")
    assert cell.source == written.STUB and id_of(cell) == name + written.ANSWER
    kind = cell.metadata.nbgrader
    assert kind.grade and kind.solution and not kind.locked and kind.points == written.rubric(name).points in ((6,) if name in REPORTS else (1, 2))
    assert len({c.id for c in made.cells}) == len(made.cells) and not any(written.is_question(c) for c in before)
    for copy in (made, learner_copy(made)):
        text = nbformat.writes(copy)
        assert not [line for line in secret(name) if json.dumps(line)[1:-1] in text]
    assert [c.source for c in learner_copy(made).cells[-2:]] == [question.source, written.STUB]
    by_exercises = sum(c.metadata.get("nbgrader", {}).get("points", 0) for c in before)
    assert kind.points <= by_exercises, "what a person marks weighs no more than what was built"


@pytest.mark.parametrize("name", ASKED)
def test_a_rubric_has_three_samples_that_tell_its_levels_apart(name):
    found = written.rubric(name)
    given = [sample[0] for sample in found.samples]
    assert len(given) == 3 and given == sorted(set(given), reverse=True) and given[0] == found.points and given[-1] < found.points / 2
    assert len(found.criteria) == (4 if name in REPORTS else 2) and found.levels[0] == 0 and all(len(said) > 30 for _, _, said, _ in found.samples)


RUBRIC = "# x\n\n| | 0 | 1 |\n| --- | --- | --- |\n| **a** | no | yes |\n\n## Sample: 1 point (1)\n\n> It is so.\n\nWhy.\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("| | 0 | 1 |", "| | none | all |"), "begins with a row of levels"),
        (("| no | yes |", "| yes |"), "needs a cell for each of its 2 levels"),
        (("> It", "It"), "the answer behind `>`"),
        (("(1)", "(0.5 + 0.5)"), "1 points as .0.5, 0.5. is no sum"),
    ],
)
def test_a_rubric_that_cannot_be_read_is_one_sentence(change, said):
    assert written.read(RUBRIC).points == 1 and written.read(RUBRIC).samples == [(1, [1], "It is so.", "Why.")]
    with pytest.raises(ValueError, match=said):
        written.read(RUBRIC.replace(*change))


def test_a_question_without_a_rubric_is_refused():
    with pytest.raises(ValueError, match="put its rubric into notebooks/rubrics/77-x.md"):
        build.complete("77-x", '# %% [markdown] tags=["written"]\n# What did you see?\n')


# ---------------------------------------------------------------- a class


@pytest.fixture(scope="module")
def course(tmp_path_factory, one_sandbox):
    """Graded by us (all but one, which nbgrader grades), one answer marked by hand, then nbgrader's autograde."""
    folder = tmp_path_factory.mktemp("course")
    with pytest.MonkeyPatch.context() as patch:  # the lesson as its source has it now
        patch.setattr(grading, "NOTEBOOKS", folder)
        nbformat.write(build.complete(LESSON), folder / f"{LESSON}.ipynb")
        grading.make_course(folder, LESSON)
    nbgrader(folder, "generate_assignment", LESSON, "--create")
    for student, text in {"ada": SAID, "bo": written.STUB, "cy": " \n", "dy": None}.items():
        hand_in(folder, student, text)
    assert grading.grade([str(folder / "submitted")]) == 0
    for student, text in {"eve": SAID, "fay": written.STUB}.items():
        hand_in(folder, student, text)
    before = {student: grade_of(folder, student) for student in ("ada", "bo", "cy", "dy")}
    mark(folder, "ada", 0.75, "say which questions")
    nbgrader(folder, "autograde", LESSON)
    return SimpleNamespace(folder=folder, before=before)


def hand_in(folder, student, text):
    """A right answer to the exercise, and this text in the written cell (None: the cell is gone)."""
    notebook = answer(json.loads((folder / "release" / LESSON / f"{LESSON}.ipynb").read_text()), RIGHT)
    (cell,) = [c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == ID]
    cell["source"] = text
    if text is None:
        notebook["cells"].remove(cell)
    path = folder / "submitted" / student / LESSON / f"{LESSON}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook))


def grade_of(folder, student):
    """(mark, does it wait for one, what the program says, what the teacher says)"""
    with book(folder) as opened:
        grade, comment = opened.book.find_grade(ID, LESSON, LESSON, student), opened.book.find_comment(ID, LESSON, LESSON, student)
        return grade.score, grade.needs_manual_grade, comment.auto_comment, comment.manual_comment


def mark(folder, student, points, comment):
    """As the formgrader does when a mark is typed."""
    with book(folder) as opened:
        grade = opened.book.find_grade(ID, LESSON, LESSON, student)
        grade.manual_score, grade.needs_manual_grade = points, False
        opened.book.find_comment(ID, LESSON, LESSON, student).manual_comment = comment
        opened.book.db.commit()


def read(path):
    return path.read_text(encoding="utf-8")


def test_the_teacher_has_rubric_and_samples_and_what_is_released_has_not(course):
    at = f"{LESSON}/{LESSON}.ipynb"
    source, release, graded = (read(course.folder / place / at) for place in ("source", "release", "autograded/ada"))
    for line in map(json.dumps, secret(LESSON)):
        assert line[1:-1] in source and line[1:-1] not in release and line[1:-1] in graded, line
    (cell,) = [c for c in nbformat.reads(release, 4).cells if id_of(c) == ID]
    assert cell.source == written.STUB and "MARK SCHEME" not in release


def test_the_formgrader_shows_them_above_a_field_for_the_mark(course):
    from nbconvert.exporters import HTMLExporter
    from nbgrader.server_extensions.formgrader import handlers

    shows = HTMLExporter(template_name="formgrade", extra_template_basedirs=[handlers.template_path])  # as its server does
    path = course.folder / "autograded" / "ada" / LESSON / f"{LESSON}.ipynb"
    page, _ = shows.from_filename(str(path), resources={"index": 0, "total": 1, "base_url": ""})
    words = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))
    said = [re.sub(r"\s+", " ", line) for line in secret(LESSON)]
    assert all(re.sub(r"[*`]", "", line) in words for line in said)
    assert words.index(said[0]) < words.index(SAID) and f'id="{ID}"' in page and f'id="{ID}-comment"' in page


def test_an_answer_waits_for_its_mark_and_none_earns_nothing(course):
    nothing = (0, False, "not attempted. There is no answer in the cell.", None)
    assert course.before == {"ada": (0, True, None, None), "bo": nothing, "cy": nothing, "dy": nothing}
    assert grade_of(course.folder, "eve")[:2] == (0, True) and grade_of(course.folder, "fay")[:2] == (0, False), "as nbgrader alone has it"


def test_marks_and_comments_by_hand_survive_each_way_of_grading_again(course, capsys):
    kept = (0.75, False, None, "say which questions")
    assert grade_of(course.folder, "ada") == kept
    for again in ([], ["--again"], ["--exercise", "cosine"]):
        assert grading.grade([str(course.folder / "submitted"), *again]) == 0
        assert grade_of(course.folder, "ada") == kept, again
    said = capsys.readouterr().out
    assert "ada, 00-start-here: 1 of 1, and a written answer" in said and "bo, 00-start-here: 1 of 1\n" in said
    assert "1 written answer to mark by hand" in said, "eve's"
    assert out.marks([str(course.folder)]) == 0
    assert "1 written answer without a mark yet, counted as 0" in capsys.readouterr().err
    nbgrader(course.folder, "autograde", LESSON, "--force")
    assert grade_of(course.folder, "ada") == kept


def test_feedback_has_the_mark_and_the_comment_and_no_sample(course):
    nbgrader(course.folder, "generate_feedback", LESSON)
    page = re.sub(r"\s+", " ", read(course.folder / "feedback" / "ada" / LESSON / f"{LESSON}.html"))
    assert "say which questions" in page and "Score: 0.75 / 1.0" in page and "(Score: 1.75 / 2.0)" in page
    assert not [line for line in secret(LESSON) if line in page] and "MARK SCHEME" not in page and "In your own words" in page


def test_another_text_keeps_the_mark_and_asks_to_look_again(course):
    hand_in(course.folder, "ada", SAID + " And a control.")
    assert grading.grade([str(course.folder / "submitted")]) == 0
    assert grade_of(course.folder, "ada") == (0.75, True, None, "say which questions")


def test_a_lesson_that_got_its_question_later_grades_what_was_there(course, tmp_path):
    old = build.complete(LESSON)
    old.cells = [c for c in old.cells if not written.is_question(c) and id_of(c) != ID]
    (tmp_path / "source" / LESSON).mkdir(parents=True)
    nbformat.write(old, tmp_path / "source" / LESSON / f"{LESSON}.ipynb")
    for student in ("ada", "bo"):
        path = tmp_path / "submitted" / student / LESSON / f"{LESSON}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(read(course.folder / "submitted" / student / LESSON / f"{LESSON}.ipynb"))
    assert grading.grade([str(tmp_path / "submitted")]) == 0
    nbformat.write(build.complete(LESSON), tmp_path / "source" / LESSON / f"{LESSON}.ipynb")
    assert grading.grade([str(tmp_path / "submitted")]) == 0
    assert grade_of(tmp_path, "ada")[:2] == (0, True) and grade_of(tmp_path, "bo")[:2] == (0, False)
