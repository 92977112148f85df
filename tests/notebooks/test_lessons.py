"""Every committed lesson: made from its source, executed, complete, readable by everyone; and what nbval does not see."""

import re

import nbformat
import pytest

from peftlab.classroom import build
from peftlab.classroom.build import CHECK, NOTEBOOKS, fingerprint
from peftlab.classroom.copies import STUB, learner_copy
from peftlab.classroom.exercise import Question, find

LESSONS = [pytest.param(n, id=n) for n in build.lessons()]
each_lesson = pytest.mark.parametrize("name", LESSONS)


def stored(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def text_of(output):
    data = output.get("data", {})
    return "\n".join([output.get("text", ""), *(str(data[k]) for k in data if k.startswith("text/"))])


def test_there_are_lessons_and_each_has_both_files():
    assert build.lessons() == sorted(p.stem for p in NOTEBOOKS.glob("*.ipynb")) and build.lessons()


@each_lesson
def test_regenerating_gives_what_is_committed(name):
    made, committed = build.complete(name), stored(name)
    for cell in code(committed):
        cell.outputs, cell.execution_count = [], None
    assert made == committed, "run `python3 tasks.py build`"


@each_lesson
def test_every_cell_was_run_in_order_without_an_error(name):
    cells = [c for c in code(stored(name)) if c.source.strip()]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]


@each_lesson
def test_every_picture_says_in_words_what_it_shows(name):
    for cell in code(stored(name)):
        for output in cell.outputs:
            for kind in [k for k in output.get("data", {}) if k.startswith("image/")]:
                alt = output.get("metadata", {}).get(kind, {}).get("alt", "")
                assert len(alt.split()) >= 8, f"a figure of {cell.id} has the alt text {alt!r}"


@each_lesson
def test_nothing_of_the_machine_it_was_made_on_is_left(name):
    notebook = stored(name)
    assert "widgets" not in notebook.metadata and "execution" not in str([c.metadata for c in notebook.cells])
    outputs = "\n".join(text_of(o) for c in code(notebook) for o in c.outputs)
    found = re.findall(r"(?:/home/|/root|/Users/|/tmp/|/work/|/opt/|[A-Z]:\\\\|site-packages)\S*", outputs)
    assert not found, found
    assert "model_id" not in str([o.get("data") for c in code(notebook) for o in c.outputs])


@each_lesson
def test_the_header_says_minutes_seconds_and_what_comes_before(name):
    head = "\n".join(c.source for c in stored(name).cells[:2])
    assert re.search(r"^# \d\d ", head) and "Before this:" in head
    assert re.search(r"\*\*\d+ minutes\*\* of reading and doing", head)
    seconds = re.search(r"\*\*(\d+) (seconds|minutes?)\*\* of computing", head)
    assert seconds and int(seconds[1]) * (1 if seconds[2] == "seconds" else 60) <= 180


# Numbers that come from no cell, and why they may stand in prose.
KNOWN = {
    "01-what-fine-tuning-costs": {"0.1": "quoted as said elsewhere, and then counted"},
    "03-lora": {"95": "the level of the intervals", "100": "in 95 of 100 experiments"},
}
PLAIN = re.compile(  # no claims of ours: links, code, formulas, what is folded, sources, predictions offered as choices
    r"https?://\S+|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|<details>.*?</details>|arXiv:\S+|^Sources:.*?(?:\n\n|\Z)|\A\*\*Predict\..*",
    re.DOTALL | re.MULTILINE,
)
NUMBER = re.compile(r"(?<![\w.,-])-?\d[\d,]*(?:\.\d+)?(?![\w.,]*\d)")


@each_lesson
def test_numbers_in_prose_occur_in_an_output_or_in_code(name):
    """0 to 12, the header and numbers of lessons are free; every other number must stand in the code or an output."""
    notebook = stored(name)
    shown = "\n".join([c.source for c in code(notebook)] + [text_of(o) for c in code(notebook) for o in c.outputs])
    seen = {n.replace(",", "") for n in re.findall(r"-?\d[\d,]*(?:\.\d+)?", shown)}
    seen |= {n.lstrip("-") for n in seen}
    lost = []
    for cell in [c for c in notebook.cells if c.cell_type == "markdown"][1:]:
        prose = re.sub(
            r"(?i)lessons? \d\d(?:(?:,| and| to) \d\d)*|\*\*Build it:.*?\*\* \(.*?\)", "", PLAIN.sub("", cell.source)
        )
        for number in NUMBER.findall(prose):
            plain = number.replace(",", "").rstrip(".")
            small = re.fullmatch(r"-?(\d|1[0-2])", plain)
            if not small and plain not in seen and plain not in KNOWN.get(name, {}):
                lost.append(f"{number} in {cell.id}")
    assert not lost, f"numbers that no cell produced (see KNOWN in this file): {lost}"


@each_lesson
def test_the_solutions_earn_every_point(name):
    points = 0
    for cell in code(stored(name)):
        if asked := CHECK.search(cell.source):
            exercise = find(asked[1])
            assert exercise.lesson == name, f"{exercise.id} belongs to {exercise.lesson}"
            assert any(f"✓ {exercise.id}: correct." in text_of(o) for o in cell.outputs), exercise.id
            points += cell.metadata.get("nbgrader", {}).get("points", 0)
    assert points == sum(e.points for e in build_exercises(name)), "an exercise of this lesson is not asked in it"


def build_exercises(name):
    from peftlab.classroom import all_exercises

    return [e for e in all_exercises(name) if not isinstance(e, Question)]


@pytest.fixture(scope="module")
def run():
    """Runs a notebook as a learner would, on and on. One kernel for all, emptied before each, so that torch is imported once."""
    from nbclient import NotebookClient

    options = {"timeout": 300, "allow_errors": True, "skip_cells_with_tag": "heavy", "record_timing": False}
    client = NotebookClient(nbformat.v4.new_notebook(), resources={"metadata": {"path": str(NOTEBOOKS)}}, **options)

    def run(notebook):
        client.nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("%reset -f"), *notebook.cells])
        client.execute(cleanup_kc=False)

    yield run
    client.nb = nbformat.v4.new_notebook()
    client.execute(cleanup_kc=True)


@each_lesson
def test_an_untouched_copy_earns_nothing_and_every_error_is_explained(name, run):
    """The cells marked heavy, which need a solution, are left out."""
    copy = learner_copy(stored(name))
    assert fingerprint(copy) == fingerprint(learner_copy(stored(name)))
    run(copy)
    errors = [o for c in code(copy) for o in c.outputs if o.output_type == "error"]
    if errors:  # what comes after the first is its consequence
        assert errors[0].ename == "NotImplementedError" and errors[0].evalue in STUB, errors[0].evalue
    for cell in code(copy):
        if asked := CHECK.search(cell.source):
            told = "".join(text_of(o) for o in cell.outputs)
            assert f"{asked[1]}: not attempted." in told, f"{asked[1]}: {told or cell.outputs}"
        assert "SOLUTION" not in cell.source and "HIDDEN" not in cell.source


# ---------------------------------------------------------------- the guards themselves can fail


def unexecuted(nb):
    code(nb)[2].execution_count = None


def a_picture_without_words(nb):
    next(o for c in code(nb) for o in c.outputs if "image/png" in o.get("data", {})).metadata = {}


def an_error(nb):
    code(nb)[1].outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]


def a_path(nb):
    code(nb)[1].outputs = [nbformat.v4.new_output("stream", text="/home/me/site-packages/x.py:3: UserWarning")]


def a_number_from_nowhere(nb):
    nb.cells[-1].source += "\n\nIt is 37.4 % better."


def edited_by_hand(nb):
    nb.cells[3].source += " "


def a_check_that_failed(nb):
    cell = next(c for c in code(nb) if CHECK.search(c.source))
    cell.outputs = []


def no_minutes(nb):
    nb.cells[0].source = nb.cells[0].source.replace("minutes", "min")


@pytest.mark.parametrize(
    "guard, damage",
    [
        (test_every_cell_was_run_in_order_without_an_error, unexecuted),
        (test_every_cell_was_run_in_order_without_an_error, an_error),
        (test_every_picture_says_in_words_what_it_shows, a_picture_without_words),
        (test_nothing_of_the_machine_it_was_made_on_is_left, a_path),
        (test_numbers_in_prose_occur_in_an_output_or_in_code, a_number_from_nowhere),
        (test_regenerating_gives_what_is_committed, edited_by_hand),
        (test_the_solutions_earn_every_point, a_check_that_failed),
        (test_the_header_says_minutes_seconds_and_what_comes_before, no_minutes),
    ],
)
def test_a_guard_notices(guard, damage, monkeypatch):
    whole = stored("00-start-here")

    def damaged(name):
        notebook = nbformat.from_dict(whole)
        damage(notebook)
        return notebook

    guard("00-start-here")
    monkeypatch.setitem(globals(), "stored", damaged)
    with pytest.raises(AssertionError):
        guard("00-start-here")
