"""Lesson 01's sliders in JupyterLab, moved by keyboard: the bars and the table under them follow."""

from itertools import pairwise
from pathlib import Path

import nbformat
from keys import WATCH, told

LESSON = Path(__file__).parents[2] / "notebooks" / "01-what-fine-tuning-costs.ipynb"
NEEDED = (  # how the cells begin that lead to the sliders
    "import time", "def training_bytes", "def kept_numbers", "encoder, tokenizer =", "from transformers import XLM",
    "# The adapter goes to", "settings =", "def count_", "def large_batch", "HOW = {", "def draw(",
)  # fmt: skip
def up_to_the_sliders():
    notebook = nbformat.read(LESSON, as_version=4)
    notebook.cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.lstrip().startswith(NEEDED)]
    for cell in notebook.cells:
        cell.outputs, cell.execution_count = [], None
    return notebook


def test_the_bars_follow_the_keys(jupyter, open_notebook, capsys):
    _, folder = jupyter
    nbformat.write(up_to_the_sliders(), folder / "sliders.ipynb")
    with open_notebook("sliders.ipynb") as (page, errors):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        table = page.locator("table[aria-live]")
        table.wait_for(timeout=300_000)
        total = table.locator("tr", has_text="full").locator("b")
        handle = page.locator(".noUi-handle").first
        handle.scroll_into_view_if_needed()
        handle.focus()
        page.evaluate(WATCH, "table[aria-live]")

        seen = [float(total.inner_text())]
        for _ in range(3):  # 8, 16, 32, 64 texts
            page.keyboard.press("ArrowRight")
            page.wait_for_function("n => document.querySelector('table[aria-live] b').innerText != n", arg=f"{seen[-1]:.2f}")
            seen.append(float(total.inner_text()))
        steps = [b - a for a, b in pairwise(seen)]
        assert all(abs(b / a - 2) < 0.02 for a, b in pairwise(steps)), "twice the texts, twice the activations"

        page.keyboard.press("Tab")  # past the first slider's number
        page.keyboard.press("Tab")  # to the second slider, without the mouse
        page.keyboard.press("ArrowLeft")
        page.wait_for_function("n => document.querySelector('table[aria-live] b').innerText != n", arg=f"{seen[-1]:.2f}")
        assert abs(float(total.inner_text()) - seen[-2]) < 0.02, "half the tokens: what half the texts held"

        told(page, capsys, 3)
        assert not errors, errors
