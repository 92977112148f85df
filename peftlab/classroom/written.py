"""The written question at a lesson's end: asked in the lesson, marked by a person, its rubric in the teacher's copy alone.

The question is the last cell of a lesson's source, tagged `written`. `build` makes two cells of it: the question, locked, and
below it an empty one for the answer, which nbgrader has marked by hand. What an answer is worth, and three sample answers
with their marks, stand in `notebooks/rubrics/NN-slug.md`: a table of criteria by levels, then the samples. `peftlab course`
puts that text into the teacher's copy of the question, as nbgrader's mark scheme: nbgrader takes it out of what is released and
shows it to whoever marks.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

RUBRICS = Path(__file__).parents[2] / "notebooks" / "rubrics"
ANSWER, QUESTION = "-written", "-written-question"  # behind a lesson's name: nbgrader's names of the two cells
TAG = "written"
STUB = "*Your answer, in place of this line.*"
BEGIN, END = "### BEGIN MARK SCHEME", "### END MARK SCHEME"
SAMPLE = re.compile(r"^## Sample: ([\d.]+) points? \(([\d.]+(?: \+ [\d.]+)*)\)\n\n((?:>[^\n]*\n)+)\n(.+?)(?=\n## |\Z)", re.MULTILINE | re.DOTALL)


@dataclass
class Rubric:
    """Criteria by levels: `levels` are the points of one criterion, `samples` [(points, of which, answer, why)]."""

    levels: list
    criteria: dict  # criterion -> what each level takes
    samples: list
    text: str  # all of it, as it stands in the teacher's copy

    @property
    def points(self):
        most = max(self.levels) * len(self.criteria)
        return int(most) if most == int(most) else most


def rubric(name):
    """The rubric of a lesson; None where it asks no written question. A ValueError says what is wrong with the file."""
    path = RUBRICS / f"{name}.md"
    if not path.exists():
        return None
    return read(path.read_text(encoding="utf-8"), path.name)


def read(text, file="the rubric"):
    """A rubric from its text."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    try:
        levels = [float(cell) for cell in rows[0][1:]]
        criteria = {row[0].strip("*"): row[1:] for row in rows[2:]}
    except (IndexError, ValueError):
        raise ValueError(f"{file}: its table begins with a row of levels, such as `| | 0 | 0.5 | 1 |`") from None
    if not criteria or any(len(said) != len(levels) for said in criteria.values()):
        raise ValueError(f"{file}: each criterion needs a cell for each of its {len(levels)} levels")
    samples = [
        (float(total), [float(p) for p in of.split(" + ")], re.sub(r"^> ?", "", answer, flags=re.MULTILINE).strip(), why.strip())
        for total, of, answer, why in SAMPLE.findall(text)
    ]
    if len(samples) != text.count("\n## "):
        raise ValueError(f"{file}: a sample is `## Sample: 1 point (0.5 + 0.5)`, the answer behind `>`, and why it is worth that")
    for total, of, *_ in samples:
        if sum(of) != total or len(of) != len(criteria) or not set(of) <= set(levels):
            raise ValueError(f"{file}: {total:g} points as {of} is no sum of one level for each of its {len(criteria)} criteria")
    return Rubric(levels, criteria, samples, text.split("\n", 1)[1].strip())


def cells(name, question):
    """The two cells of a lesson's question: itself, locked, and an empty one to be marked by hand."""
    if (found := rubric(name)) is None:
        raise ValueError(f"{name} asks a written question: put its rubric into notebooks/rubrics/{name}.md")
    points = f"{found.points:g} point{'s' * (found.points != 1)}"
    report = len(found.criteria) > 2
    length, them, later = ("About a page", "it", "in a year") if report else ("Three to five sentences", "them", "after the next lessons")
    told = (
        f"{length}. A person marks {them}, for {points}; no program does. If you work alone, write {them} all the same: "
        f"you will want to know {later} what you thought here."
    )
    locked = {"schema_version": 3, "grade_id": name + QUESTION, "solution": False, "grade": False, "locked": True, "task": False}
    by_hand = {**locked, "grade_id": name + ANSWER, "solution": True, "grade": True, "locked": False, "points": found.points}
    asked = nbformat.v4.new_markdown_cell(f"{question.strip()}\n\n{told}", metadata={"nbgrader": locked})
    return [asked, nbformat.v4.new_markdown_cell(STUB, metadata={"nbgrader": by_hand})]


def with_rubric(notebook, name):
    """Put the rubric and the samples into the teacher's copy of the question, in place."""
    found = rubric(name)
    for cell in notebook.cells:
        if found and is_question(cell):
            cell.source += f"\n\n{BEGIN}\n\n{found.text}\n\n{END}"
    return notebook


def is_question(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id", "").endswith(QUESTION)


def without_rubric(source):
    """The question as a learner has it."""
    return re.sub(rf"\n*^{BEGIN}$.*?^{END}$\n?", "", source, flags=re.MULTILINE | re.DOTALL)


def untouched(text):
    """Is there no answer in the cell?"""
    return text.strip() in ("", STUB, "YOUR ANSWER HERE")  # the last is what nbgrader puts there by itself
