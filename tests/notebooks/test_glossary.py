"""The words of the lessons: each term in bold is in the glossary, and words of our own making do not come back."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from peftlab.classroom import build
from peftlab.classroom.build import NOTEBOOKS

ROOT = NOTEBOOKS.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
ENTRY = re.compile(r"^- \*\*(?P<term>.+?)\*\* \(lesson (?P<lesson>\d\d)\): (?P<sentence>[^\n]+)$", re.MULTILINE)

MENDED = [f"{n:02}" for n in range(15)]  # the lessons whose words were gone through
each_mended = pytest.mark.parametrize("number", MENDED)

# Words of our own making, and what stands in papers and libraries instead.
HOME_MADE = {
    r"numbers trained|trained numbers": "trainable parameters",
    r"commoner answer": "majority class",
    r"thousand million": "billion",
    r"the surest": "the most probable",
    r"nats a (letter|token)": "nats per ...",
    r"foretold": "predicted",
    r"brought to a sum of one|brought to length one": "normalised",
    r"directions that leave": "left singular vectors",
    r"(hands|handed) (them |it )?on": "passes on, copies",
    r"detour": "bottleneck, or branch",
    r"\bbend(s|ing)?\b": "non-linearity",
    r"\bheard\b": "attention weight",
    r"\bfinders?\b": "router",
    r"counted in squares": "squared Frobenius norm, explained variance",
    r"narrowing factor": "reduction factor",
    r"number of numbers": "number of parameters",
}


def entries(text=None):
    return {m["term"]: m for m in ENTRY.finditer(text or GLOSSARY.read_text(encoding="utf-8"))}


def source(number):
    return next((NOTEBOOKS / "source").glob(f"{number}-*.py"))


def terms_in_bold(markdown):
    """What stands in bold as a term: no sentence, no heading of a paragraph, no minutes."""
    bold = re.findall(r"\*\*([^*\n]+(?:\n[^*\n]+)?)\*\*", re.sub(r"`[^`]*`|\$[^$]*\$", "", markdown))
    return [" ".join(b.split()) for b in bold if not re.search(r"[.:?]$|^\d+ (minutes?|seconds?)$", b)]


def known(term):
    """Is it an entry, whatever its case and number?"""
    names = {e.lower() for e in entries()}
    plain = term.lower()
    return any(form in names for form in (plain, plain.removesuffix("s"), plain.removesuffix("es"), re.sub("ies$", "y", plain)))


def markdown_of(number):
    return [c.source for c in jupytext.read(source(number), fmt="py:percent").cells if c.cell_type == "markdown"]


def test_the_glossary_is_in_order_and_each_entry_is_one_line_with_a_lesson_that_exists():
    text = GLOSSARY.read_text(encoding="utf-8")
    terms = list(entries(text))
    assert len(terms) == text.count("\n- ") == len(set(terms)) > 80
    plain = [re.sub(r"[^a-z0-9+ ]", "", t.lower().replace("-", " ")) for t in terms]
    assert plain == sorted(plain)
    lessons = {name[:2] for name in build.lessons()}
    for entry in entries(text).values():
        assert entry["lesson"] in lessons and re.search(r"[.?]$", entry["sentence"]), entry["term"]


@each_mended
def test_each_term_in_bold_is_in_the_glossary(number):
    lost = [t for cell in markdown_of(number) for t in terms_in_bold(cell) if not known(t)]
    assert not lost, f"put into docs/glossary.md, or write for stress *so*: {lost}"


@each_mended
def test_a_term_stands_in_bold_in_the_lesson_that_the_glossary_names(number):
    bold = {form for cell in markdown_of(number) for t in terms_in_bold(cell)
            for form in (t.lower(), t.lower().removesuffix("s"), re.sub("ies$", "y", t.lower()))}  # fmt: skip
    lost = [t for t, e in entries().items() if e["lesson"] == number and t.lower() not in bold]
    assert not lost, lost


def home_made(text):
    return {m[0]: instead for word, instead in HOME_MADE.items() for m in re.finditer(word, text, re.IGNORECASE)}


@each_mended
def test_no_word_of_our_own_making_comes_back(number):
    room = Path(build.__file__).parent / "exercises" / f"lesson{number}.py"
    texts = {path.name: path.read_text(encoding="utf-8") for path in (source(number), room)}
    notebook = nbformat.read(next(NOTEBOOKS.glob(f"{number}-*.ipynb")), as_version=4)
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    texts["outputs"] = "\n".join(str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", "")) for o in outputs)
    for name, text in texts.items():
        assert not (found := home_made(text)), f"{name}: {found}"


def test_the_guards_notice():
    assert home_made("seven thousand million numbers trained") == {
        "thousand million": "billion", "numbers trained": "trainable parameters",
    }  # fmt: skip
    assert terms_in_bold("**90 minutes** of **trained\nnumbers** in `a ** b ** c`. **What it shows.** x") == ["trained numbers"]
    assert known("Trainable parameters") and known("gradients") and not known("numbers trained")
