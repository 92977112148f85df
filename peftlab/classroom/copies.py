"""The learner's own copies of the lessons: solutions taken out, outputs cleared, and never overwritten once edited."""

import hashlib
import json
import os
import re
import stat
import tempfile
from datetime import date
from pathlib import Path

import nbformat

from .build import CHECK, NOTEBOOKS, fingerprint, folded

SOLUTION = re.compile(r"^([ \t]*)### BEGIN SOLUTION\n(.*?)^[ \t]*### END SOLUTION[ \t]*\n?", re.MULTILINE | re.DOTALL)
HIDDEN = re.compile(r"^[ \t]*### BEGIN HIDDEN TESTS\n.*?^[ \t]*### END HIDDEN TESTS[ \t]*\n?", re.MULTILINE | re.DOTALL)
PAGE = re.compile(r"\]\(\.\./docs/([\w-]+\.md)")  # a link to a page of docs, which lies beside the copies
STUB = 'raise NotImplementedError("This part is yours: write it in place of this line, then run the check below.")'


def learner_copy(notebook):
    """The notebook a learner gets: stubs where solutions stood, no hidden tests, no outputs; solutions folded below."""
    copy = nbformat.v4.new_notebook(metadata=notebook.metadata)
    solutions, due = [], []  # solutions seen since the last check; those to fold in after the hints
    for cell in notebook.cells:
        cell = nbformat.from_dict(cell)
        cell.source = PAGE.sub(r"](\1", cell.source)
        if due and not cell.source.startswith("<details>"):
            copy.cells.append(due.pop())
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if SOLUTION.search(cell.source):
                solutions.append(SOLUTION.sub(r"\2", cell.source).strip())
                cell.source = SOLUTION.sub(stub, cell.source).rstrip()
            cell.source = HIDDEN.sub("", cell.source).rstrip()
            if CHECK.search(cell.source) and solutions:
                text = "\n\n".join(f"```python\n{s}\n```" for s in solutions)
                due = [nbformat.v4.new_markdown_cell(folded("A solution", text), id=f"{cell.id}-solution")]
                solutions = []
        copy.cells.append(cell)
    copy.cells += due
    return copy


def stub(match):
    """Inside a function, a line that says what to do when it is reached; at the top of a cell, where `x = ...` stands
    already, a comment."""
    indent = match[1]
    return f"{indent}{STUB}\n" if indent else "# your answer: above, in place of the dots\n"


def make_copies(work):
    """Bring `work` up to date and return a sentence for each thing done. What was edited is left alone.

    A lesson that is new is written; one nobody edited is replaced when the lesson changed; beside one that was edited
    the changed lesson arrives under a name of its own. `work/.peftlab/copies.json` remembers what was given.
    """
    work, said = Path(work), []
    (work / ".peftlab").mkdir(parents=True, exist_ok=True)
    given, pages = _remembered(work, said), set()
    for lesson in sorted(NOTEBOOKS.glob("[0-9][0-9]-*.ipynb")):
        notebook = nbformat.read(lesson, as_version=4)
        copy = learner_copy(notebook)
        pages |= {name for cell in notebook.cells for name in PAGE.findall(cell.source)}
        mark, path = fingerprint(copy), work / lesson.name
        there = _mark(path)
        if there is None:
            _write(path, copy)
            said.append(f"{path.name}: your copy of the lesson")
        elif there != mark and there == given.get(path.name):
            aside = _set_aside(path)
            _write(path, copy)
            kept = f"; what it had shown you is in {aside.name}" if aside else ""
            said.append(f"{path.name}: brought up to date (you had not changed it{kept})")
        elif there != mark and mark != given.get(path.name) and not _already_beside(path, mark):
            beside = _free_name(path)
            _write(beside, copy)
            said.append(f"{beside.name}: the lesson has changed; your edited {path.name} stays as it is")
        if given.get(path.name) != mark:
            remember(work, given, path.name, mark)
    for name in sorted(pages):
        _bring_page(work, given, name)
    return said


def remember(work, given, name, mark):
    """Note that a file was given to the learner with this content, so that what they write in it is known as theirs."""
    given[name] = mark
    (work / ".peftlab").mkdir(parents=True, exist_ok=True)
    write_whole(work / ".peftlab" / "copies.json", json.dumps(given, indent=1, sort_keys=True))


def _set_aside(path):
    """A copy that was run keeps its outputs under another name, which is returned; None where nothing was run."""
    if not any(cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells):
        return None
    aside = _free_name(path, "run")
    path.rename(aside)
    return aside


def _bring_page(work, given, name):
    """Put a page of docs that a lesson links to beside the lessons; one that was edited is left alone."""
    source, path = NOTEBOOKS.parent / "docs" / name, work / name
    if not source.exists():
        return
    text = source.read_text(encoding="utf-8")
    mark, there = _hash(text), _hash(path.read_text(encoding="utf-8")) if path.exists() else None
    if there != mark and there in (None, given.get(path.name)):
        write_whole(path, text)
    if given.get(path.name) != mark and there in (None, mark, given.get(path.name)):
        remember(work, given, path.name, mark)


def _hash(text):
    return hashlib.sha256(text.encode()).hexdigest()


def _remembered(work, said):
    try:
        return dict(json.loads((work / ".peftlab" / "copies.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, OSError):
        said.append("The record of what you were given can't be read: every copy that differs counts as edited.")
        return {}


def _mark(path):
    """None when there is no such file; a file that is no notebook any more counts as edited."""
    if not path.exists():
        return None
    try:
        return fingerprint(nbformat.read(path, as_version=4))
    except Exception:  # noqa: BLE001 - whatever it holds, it is the learner's
        return "edited"


def _already_beside(path, mark):
    return any(_mark(other) == mark for other in path.parent.glob(f"{path.stem} (new *).ipynb"))


def _free_name(path, what="new"):
    for n in range(1, 1000):
        name = path.with_name(f"{path.stem} ({what} {date.today()}{f' {n}' if n > 1 else ''}).ipynb")
        if not name.exists():
            return name
    raise RuntimeError(f"too many new copies of {path.name} from today; delete some")


def _write(path, notebook):
    write_whole(path, nbformat.writes(notebook) + "\n")


def write_whole(path, text):
    """Whole or not at all: write beside, then move into place."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(beside, _modes(path))
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _modes(path):
    """Those the file has; else those that the user's umask gives a new one."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        os.umask(mask := os.umask(0o077))
        return 0o666 & ~mask
