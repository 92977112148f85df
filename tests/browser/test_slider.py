"""Lesson 03's slider in JupyterLab, moved by keyboard: the picture and the words above it follow."""

from pathlib import Path

import nbformat
from keys import WATCH, told

LESSON = Path(__file__).parents[2] / "notebooks" / "03-lora.ipynb"
ELSEWHERE = ("classifier", "talker", "film_", "movies", "unseen", "yours")  # names of the cells on the two larger models
ASIDE = ("learn_italian", "choices", "losses_of")  # what other ranks and rates would have done


def up_to_the_slider():
    """The lesson's own code cells that lead to the slider, on the small model alone."""
    notebook = nbformat.read(LESSON, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    last = next(i for i, c in enumerate(code) if c.source.startswith("widgets.growing_update"))
    notebook.cells = [c for c in code[: last + 1] if not any(name in c.source for name in ELSEWHERE + ASIDE)]
    for cell in notebook.cells:
        cell.outputs, cell.execution_count = [], None
    return notebook


def test_the_slider_follows_the_keys(jupyter, open_notebook, capsys):
    _, folder = jupyter
    nbformat.write(up_to_the_slider(), folder / "slider.ipynb")
    with open_notebook("slider.ipynb") as (page, errors):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        picture = page.locator("img[alt^='Step ']")
        picture.wait_for(timeout=300_000)
        handle = page.locator(".noUi-handle").first
        handle.scroll_into_view_if_needed()
        handle.focus()
        page.evaluate(WATCH, "img[src^='data:image/png'][alt^='Step ']")

        seen = [(picture.get_attribute("src"), picture.get_attribute("alt"))]
        assert seen[0][1].startswith("Step 150, 8 of 8 ranks")
        for expected in range(145, 85, -5):
            page.keyboard.press("ArrowLeft")
            page.locator(f"img[alt^='Step {expected},']").wait_for(timeout=10_000)
            seen.append((picture.get_attribute("src"), picture.get_attribute("alt")))
        assert len({src for src, _ in seen}) == len(seen), "each step has a picture of its own"
        assert page.locator("p[role=status]").inner_text() == seen[-1][1], "the words above it say the same"

        page.keyboard.press("Tab")  # past the first slider's number
        page.keyboard.press("Tab")  # to the second slider, without the mouse
        page.keyboard.press("ArrowLeft")
        page.locator("img[alt^='Step 90, 7 of 8 ranks']").wait_for(timeout=10_000)

        told(page, capsys, len(seen) - 1)
        assert not errors, errors
