"""Lesson 10's explorer of recorded runs in JupyterLab: five sliders by keyboard, and what nobody ran is said."""

from pathlib import Path

import nbformat
from keys import WATCH, told

LESSON = Path(__file__).parents[2] / "notebooks" / "10-a-fair-comparison.ipynb"
NEEDED = ("import math", "NAMES = {", "SHARED = ", "RANKS = {")


def test_the_runs_follow_the_keys(jupyter, open_notebook, capsys):
    _, folder = jupyter
    notebook = nbformat.read(LESSON, as_version=4)
    notebook.cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.startswith(NEEDED)]
    assert len(notebook.cells) == len(NEEDED)
    still = notebook.cells[-1].outputs[0]["data"]["text/html"]
    assert "LoRA, rank 8" in still and "chosen on validation" in still, "without a kernel the first choice is there to be read"
    for cell in notebook.cells:
        cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, folder / "runs.ipynb")
    with open_notebook("runs.ipynb") as (page, errors):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        said = page.locator("p[role=status]")
        said.wait_for(timeout=300_000)
        assert page.locator("p[role=status]").count() == 1, "the sliders' view, and not the still picture beside it"
        handles = page.locator(".noUi-handle")
        assert handles.count() == 5
        handles.nth(3).scroll_into_view_if_needed()
        handles.nth(3).focus()
        page.evaluate(WATCH, "p[role=status]")
        seen = {said.inner_text()}
        for rate in ("0.01", "0.03", "0.1"):
            page.keyboard.press("ArrowRight")
            page.locator(f"p[role=status]:has-text('learning rate {rate},')").wait_for(timeout=60_000)
            seen.add(said.inner_text())
        assert len(seen) == 4 and "not recorded" in said.inner_text(), "LoRA was not run at 0.1"
        handles.nth(1).focus()
        page.keyboard.press("ArrowLeft")
        page.locator("p[role=status]:has-text('(IA)³, learning rate 0.1,')").wait_for(timeout=60_000)
        assert "test accuracy" in said.inner_text()
        told(page, capsys, 3)
        assert not errors, errors
