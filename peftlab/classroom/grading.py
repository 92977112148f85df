"""A teacher's nbgrader course with lessons as its assignments."""

from pathlib import Path

import nbformat

from .build import NOTEBOOKS, lessons
from .copies import STUB

CONFIG = """\
# Written by peftlab. nbgrader reads it when its commands run in this folder.
c = get_config()
c.CourseDirectory.course_id = {course!r}
c.ClearSolutions.code_stub = {{"python": {stub!r}}}
c.Execute.timeout = 120
c.Execute.skip_cells_with_tag = "heavy"  # trainings and the like: no check needs them, and each would cost a minute
"""


def make_course(folder, *names, course="peftlab"):
    """Write `nbgrader_config.py` and `source/NAME/NAME.ipynb` for each lesson (default: all) into a folder.

    What is there already stays: a changed config or source is the teacher's. After it: `nbgrader generate_assignment`.
    """
    folder = Path(folder)
    if unknown := set(names) - set(lessons()):
        raise ValueError(f"no lesson is called {', '.join(sorted(unknown))}; there are: {', '.join(lessons())}")
    for name in names or lessons():
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        _new(folder / "source" / name / f"{name}.ipynb", nbformat.writes(notebook))
    _new(folder / "nbgrader_config.py", CONFIG.format(course=course, stub=STUB))
    return folder


def _new(path, text):
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
