"""Lesson 02's sliders in JupyterLab: which matrix, and how many ranks of it, by keyboard."""

from pathlib import Path

import nbformat
from keys import WATCH, told

LESSON = Path(__file__).parents[2] / "notebooks" / "02-rank-decomposition.ipynb"
NEEDED = ("import matplotlib", "def keep_ranks", "with matplotlib", "def random_like", "torch.manual_seed(0)\nencoder", "value = ")


def test_the_picture_follows_the_keys(jupyter, open_notebook, capsys):
    _, folder = jupyter
    notebook = nbformat.read(LESSON, as_version=4)
    notebook.cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.startswith(NEEDED)]
    assert len(notebook.cells) == len(NEEDED)
    for cell in notebook.cells:
        cell.outputs, cell.execution_count = [], None
        cell.source = cell.source.replace("steps=48", "steps=4")  # an update to look at, learnt or not
    nbformat.write(notebook, folder / "ranks.ipynb")
    with open_notebook("ranks.ipynb") as (page, errors):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        picture = page.locator("img[alt*=' ranks: explained variance ']")
        picture.wait_for(timeout=300_000)
        assert picture.get_attribute("alt").startswith("Photograph, 1 of 128 ranks")
        handles = page.locator(".noUi-handle")
        handles.nth(1).scroll_into_view_if_needed()
        handles.nth(1).focus()
        page.evaluate(WATCH, "img[alt*=' ranks: explained variance ']")
        seen = {picture.get_attribute("src")}
        for ranks in (2, 4, 8, 16, 32, 64, 128):
            page.keyboard.press("ArrowRight")
            page.locator(f"img[alt^='Photograph, {ranks} of 128 ranks']").wait_for(timeout=60_000)
            seen.add(picture.get_attribute("src"))
        assert len(seen) == 8 and "explained variance 100.0%" in picture.get_attribute("alt")
        handles.nth(0).focus()
        for matrix in ("Update of the last layer", "Update of the first layer", "Random matrix"):
            page.keyboard.press("ArrowRight")
            page.locator(f"img[alt^='{matrix}']").wait_for(timeout=60_000)
        assert page.locator("p[role=status]").inner_text() == picture.get_attribute("alt")
        told(page, capsys, 5)
        assert not errors, errors
