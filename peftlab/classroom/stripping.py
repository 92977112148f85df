"""A copy of the package for the sandbox, with exercises that can be observed and hold no answer.

Of each module of exercises only this is kept: the exercises without hints and reasons, the functions registered by
`.cases` and `.observe`, and what these need. Solutions, slips and questions go, and every helper that only they used.
"""

import ast
import shutil
from pathlib import Path

from .slicing import binds

PACKAGE = Path(__file__).parents[1]
KEPT = ("cases", "observe")
DROPPED = ("solution", "slip", "evidence", "term", "switched")
ARGUMENTS = ("lesson", "title", "signature", "dims", "parts")
JUDGES = ("judge.py", "kill_table.py", "gradebook.py", "stripping.py", "submissions.py")


def stripped_package(folder):
    """Write the copy into `folder`, so that `folder` can be put first on the path. Returns the folder."""
    leave_out = shutil.ignore_patterns("__pycache__", *JUDGES)
    target = shutil.copytree(PACKAGE, Path(folder) / "peftlab", ignore=leave_out)
    for module in (target / "classroom" / "exercises").glob("*.py"):
        module.write_text(stripped(module.read_text(encoding="utf-8")), encoding="utf-8")
    return Path(folder)


def stripped(source):
    """The text of one module of exercises without anything an answer could be read from."""
    body = [_without_answers(s) for s in ast.parse(source).body]
    body = [s for s in body if s is not None]
    needed = set().union(*(_names(s) for s in body if _registers(s)), set())
    while more := {n for s in body if binds(s) & needed for n in _names(s)} - needed:
        needed |= more
    body = [s for s in body if _registers(s) or binds(s) & needed]
    return ast.unparse(ast.Module(body=body, type_ignores=[])) + "\n"


def _without_answers(statement):
    """The statement, less what registers an answer; None where nothing is left."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        statement.decorator_list = [d for d in statement.decorator_list if not _calls(d, DROPPED)]
        if isinstance(statement, ast.FunctionDef) and ast.get_docstring(statement):
            statement.body = statement.body[1:] or [ast.Pass()]
        return statement
    if _made(statement, "Question"):
        return None
    if _made(statement, "Exercise"):
        statement.value.keywords = [k for k in statement.value.keywords if k.arg in ARGUMENTS]
        return statement
    return None if _calls(statement, DROPPED) else statement


def _made(statement, kind):
    call = getattr(statement, "value", None)
    return isinstance(statement, ast.Assign) and isinstance(call, ast.Call) and getattr(call.func, "id", "") == kind


def _registers(statement):
    """Does it say how an exercise is drawn or looked at?"""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return any(_calls(d, KEPT) for d in statement.decorator_list)
    return not isinstance(statement, ast.Import | ast.ImportFrom) and _calls(statement, KEPT)


def _calls(node, names):
    """Is `something.name` in there, on a plain name (`lora_forward.slip`, not `lstsq(...).solution`)?"""
    attributes = (n for n in ast.walk(node) if isinstance(n, ast.Attribute))
    return any(a.attr in names and isinstance(a.value, ast.Name) for a in attributes)


def _names(node):
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
