"""Steps of nbgrader's own, changed: autograde keeps the marks of `peftlab grade`, and feedback holds no sample answers.

The config that `peftlab course` writes names them. Where `peftlab grade` has graded the very notebook that was handed in,
nothing of it runs again; its marks and comments are what the gradebook, the formgrader and the feedback show. Any other
notebook is run and marked as nbgrader does by itself.
"""

from pathlib import Path

from nbformat.v4 import new_output
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import DeduplicateIds, Execute, NbGraderPreprocessor, SaveAutoGrades

from . import written
from .gradebook import Marks
from .submissions import read


def kept(step, resources):
    """What `peftlab grade` found in the notebook that nbgrader is at, or None."""
    at = resources["nbgrader"]
    course = CourseDirectory(parent=step)
    folder = course.format_path(course.submitted_directory, at["student"], at["assignment"])
    try:
        _, hash = read(Path(folder, f"{at['notebook']}.ipynb"))
    except Exception:  # noqa: BLE001 - whatever it is, it is nbgrader's to say
        return None
    with Marks(at["db_url"]) as marks:
        row = marks.row(at["student"], at["assignment"])
    return row["results"] if row and row["hash"] == hash and row["results"].get("keys") else None


class OneOfEach(DeduplicateIds):
    """Of cells with one name the last counts, as nbgrader has it; but a cell that is out of order ends no run.

    nbgrader stops for the whole class where one submission has a cell twice, or metadata of another version.
    """

    def preprocess(self, nb, resources):
        self._tidy(nb)
        nb, resources = super().preprocess(nb, resources)
        self._tidy(nb)  # of a cell that was there twice nbgrader leaves metadata without a name
        return nb, resources

    def _tidy(self, nb):
        for cell in nb.cells:
            found = cell.metadata.get("nbgrader")
            if isinstance(found, dict) and isinstance(found.get("grade_id"), str):
                found["schema_version"] = 3
            else:
                cell.metadata.pop("nbgrader", None)


class RunUnlessGraded(Execute):
    """Shows what was found below each check. What was not graded before is run."""

    def preprocess(self, nb, resources, *more, **options):
        found = kept(self, resources)
        if found is None:
            self.log.warning(
                "Not graded by `peftlab grade`: nbgrader runs it, unprotected, and gives the marks itself."
            )
            return super().preprocess(nb, resources, *more, **options)
        for cell in nb.cells:
            id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
            if id.endswith("-check") and (result := found["results"].get(id.removesuffix("-check"))):
                cell.outputs = [new_output("stream", text=f"{result[0]}. {result[2]}".strip() + "\n")]
        return nb, resources


class KeepMarks(SaveAutoGrades):
    """Leaves the marks and comments as `peftlab grade` gave them."""

    def preprocess(self, nb, resources):
        at = resources["nbgrader"]
        if kept(self, resources) is None:
            return super().preprocess(nb, resources)
        with Marks(at["db_url"]) as marks:
            marks.restore(at["student"], at["assignment"])
        return nb, resources


class HideRubrics(NbGraderPreprocessor):
    """Takes rubrics and sample answers out of what a student gets back; the formgrader shows them to the teacher."""

    def preprocess_cell(self, cell, resources, index):
        if written.is_question(cell):
            cell.source = written.without_rubric(cell.source)
        return cell, resources
