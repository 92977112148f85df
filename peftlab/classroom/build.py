"""From `notebooks/source/NN-slug.py` to the complete, executed `notebooks/NN-slug.ipynb`.

A writer puts in prose and code only; what can be known from the exercise is added here and written nowhere twice:

- `{{lora-forward}}` in Markdown becomes the exercise's line: title, minutes, difficulty, points, why it matters.
- A code cell between whose `### BEGIN SOLUTION` and `### END SOLUTION` a solution stands is an nbgrader solution cell.
- A code cell that ends in `check("lora-forward", lora_forward)` is its grading cell: points and a hidden test on other
  inputs are added, and the hints follow, folded.
- Before a cell `predict("lora-first-step")` the question stands in plain Markdown, the reason of each answer folded apart.
- The header ends in a link to the glossary.
- A cell tagged `heavy` (`# %% tags=["heavy"]`) takes more than a few seconds; grading leaves it out.
- A cell tagged `hide-source` only draws: JupyterLab folds its code away, one click from view.
- A Markdown cell tagged `written` asks what a person marks: a cell for the answer follows (see `written`).
"""

import hashlib
import re
import time
from pathlib import Path

import nbformat

from . import written
from .exercise import Question, find

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CHECK = re.compile(r'^check\(\s*"([\w-]+)",\s*(.+)\)\s*$', re.MULTILINE)
GLOSSARY = "[Glossary](../docs/glossary.md)"
PREDICT = re.compile(r'^predict\("([\w-]+)"\)\s*$', re.MULTILINE)
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def lessons():
    """The names of all lessons, in order: "00-start-here", ..."""
    return sorted(p.stem for p in (NOTEBOOKS / "source").glob("[0-9][0-9]-*.py"))


def build_lessons(*names, execute=True):
    """Write `notebooks/NAME.ipynb` for each name (default: all). Without `execute`, outputs stay if no code changed."""
    names, execute = [n for n in names if n != "--no-execute"], execute and "--no-execute" not in names
    if unknown := set(names) - set(lessons()):
        raise SystemExit(f"no lesson is called {', '.join(unknown)}; there are: {', '.join(lessons())}")
    for name in names or lessons():
        start, path = time.perf_counter(), NOTEBOOKS / f"{name}.ipynb"
        notebook = complete(name)
        if execute:
            run(notebook, NOTEBOOKS)
        elif path.exists():
            carry_outputs(nbformat.read(path, as_version=4), notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {len(notebook.cells)} cells, {time.perf_counter() - start:.0f} s", flush=True)


def run(notebook, folder, **options):
    """Execute in place, with a fresh kernel in `folder`; the first error is raised."""
    from nbclient import NotebookClient

    options = {"timeout": 600, "record_timing": False, "store_widget_state": False, "coalesce_streams": True, **options}
    NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **options).execute()
    notebook.metadata = nbformat.from_dict(KERNEL)  # the kernel's own version stays out
    for cell in notebook.cells:
        for output in cell.get("outputs", []):  # a stored widget has no kernel behind it: its text stays, its view goes
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    return notebook


def carry_outputs(old, new):
    """Take over the outputs of a notebook whose code is the same; say so when it is not."""
    before, after = ([c for c in nb.cells if c.cell_type == "code"] for nb in (old, new))
    if [c.source for c in before] != [c.source for c in after]:
        raise SystemExit("the code has changed: build without --no-execute, so that the outputs belong to it")
    for a, b in zip(before, after, strict=True):
        b.outputs, b.execution_count = a.outputs, a.execution_count


def complete(name, source=None):
    """The lesson as a notebook without outputs: solutions, grading cells, hints, questions, ids that stay the same."""
    import jupytext

    text = source or (NOTEBOOKS / "source" / f"{name}.py").read_text(encoding="utf-8")
    lesson = jupytext.reads(text, fmt="py:percent")
    cells, open_solutions = [], []
    for cell in lesson.cells:
        tags = cell.metadata.get("tags", [])
        folded_away = {"jupyter": {"source_hidden": True}} if "hide-source" in tags else {}
        cell.metadata = nbformat.from_dict(({"tags": tags} if tags else {}) | folded_away)
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\{\{([\w-]+)\}\}", lambda m: headline(find(m[1])), cell.source)
            if not cells:
                cell.source += f"\n\n{GLOSSARY}: every term that stands in bold, in a sentence."
            cells += written.cells(name, cell.source) if written.TAG in tags else [cell]
            continue
        asked, checked = PREDICT.search(cell.source), CHECK.search(cell.source)
        if asked:
            cells.append(nbformat.v4.new_markdown_cell(question_in_markdown(find(asked[1]))))
        cells.append(cell)
        if "### BEGIN SOLUTION" in cell.source:
            open_solutions.append(cell)
        if checked:
            exercise, answer = find(checked[1]), checked[2]
            for i, solution in enumerate(open_solutions):
                solution.metadata["nbgrader"] = nbgrader(exercise.id + (f"-{i + 1}" if i else ""), solution=True)
            open_solutions = []
            if exercise.points:
                most = exercise.points if exercise.parts else ""  # nbgrader reads points out of the cell only where there are parts
                hidden = f'check("{exercise.id}", {answer}, seed=1).grade({most})'
                cell.source += f"\n### BEGIN HIDDEN TESTS\n{hidden}\n### END HIDDEN TESTS"
                cell.metadata["nbgrader"] = nbgrader(f"{exercise.id}-check", points=exercise.points)
            if exercise.hints:
                cells.append(nbformat.v4.new_markdown_cell(hints(exercise)))
    if open_solutions:
        raise ValueError(f"{name}: a solution cell is followed by no check(...): {open_solutions[0].source[:80]!r}")
    for i, cell in enumerate(cells):
        cell.id = f"{name[:40]}-{i:03}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nbformat.v4.new_notebook(cells=cells, metadata=nbformat.from_dict(KERNEL))


def nbgrader(grade_id, solution=False, points=None):
    """Metadata of a cell for nbgrader: one where a solution stands, or, with points, a locked one of tests."""
    graded = {"points": points} if points else {}
    return {
        "schema_version": 3,
        "grade_id": grade_id,
        "solution": solution,
        "grade": not solution,
        "locked": not solution,
        "task": False,
        **graded,
    }


def headline(exercise):
    points = f", {exercise.points} point{'s' * (exercise.points != 1)}" if exercise.points else ""
    return f"**Build it: {exercise.title}** ({exercise.minutes} min, {exercise.dots}{points}). {exercise.why}"


def hints(exercise):
    return "\n".join(folded(f"Hint {i}", text) for i, text in enumerate(exercise.hints, 1))


def folded(title, text):
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def question_in_markdown(question):
    if not isinstance(question, Question):
        raise TypeError(f"{question.id} is no question")
    options = "\n".join(f"- *{k})* {text}" for k, (text, _) in question.options.items())
    reasons = "\n\n".join(
        folded(f"You chose {k}", f"{'Right. ' if k == question.right else ''}{reason}")
        for k, (_, reason) in question.options.items()
    )
    return f"**Predict.** {question.question}\n\n{options}\n\n" + folded("Chosen? Open your own answer", reasons)


def fingerprint(notebook):
    """What a person wrote: the sources of the cells that are not empty. Outputs and metadata do not count."""
    written = [f"{c.cell_type}\n{c.source.strip()}" for c in notebook.cells if c.source.strip()]
    return hashlib.sha256("\0".join(written).encode()).hexdigest()
