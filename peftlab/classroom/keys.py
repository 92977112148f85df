"""What decides a mark, as a hash an exercise: its check, the lesson's own cells, and the engine that compares.

A mark was made by one such key. Where the key is another now, a check or a lesson was mended, and the answer is due again.
Hints, titles and the like decide nothing and are left out; so are comments and the layout of code.
"""

import ast
import hashlib
import json
import sys
from functools import cache
from pathlib import Path

from .exercise import find
from .slicing import binds

HERE = Path(__file__).parent
ENGINE = ("checking", "compare", "credit", "observing", "relations")
TOLD_ONLY = ("hints", "why", "title", "minutes", "difficulty")


def keys(lesson):
    """{exercise: key} for the exercises of a `submissions.Lesson`."""
    around = json.dumps([lesson.cells, sorted(lesson.written), _engine()])
    return {
        id: hashlib.sha256(
            json.dumps([definition(id), asked["points"], asked["solutions"], around, *_of_files(id)]).encode()
        ).hexdigest()
        for id, asked in lesson.exercises.items()
    }


def _of_files(id):
    """What examines the files that an exercise is judged from; nothing for most."""
    return [_bare(HERE / f"{name}.py") for name in ("capstone", "proposals")] if find(id).from_files else []


@cache
def _engine():
    files = [f for name in ENGINE for f in (HERE / f"{name}.py", *sorted(HERE.glob(f"{name}/*.py")))]
    return [_bare(file) for file in files if file.exists()]


@cache
def _bare(path):
    return ast.unparse(ast.parse(Path(path).read_text(encoding="utf-8")))


@cache
def definition(id):
    """The statements of its module that an exercise is made of, and what these need."""
    exercise = find(id)
    file = sys.modules[exercise.draw.__module__].__file__
    body = ast.parse(Path(file).read_text(encoding="utf-8")).body
    own = {name for statement in body if _makes(statement, id) for name in binds(statement)}
    needed = {name for statement in body if _names(statement) & own for name in _names(statement)} | own
    others = {name for statement in body if _makes(statement) for name in binds(statement)} - own
    while more := {n for s in body if binds(s) & needed - others for n in _names(s)} - needed:
        needed |= more
    kept = [s for s in body if _names(s) & own or _makes(s, id) or binds(s) & needed - others]
    for statement in kept:
        if _makes(statement):
            statement.value.keywords = [k for k in statement.value.keywords if k.arg not in TOLD_ONLY]
    return ast.unparse(ast.Module(body=kept, type_ignores=[]))


def _makes(statement, id=None):
    """Does it make an exercise (this one)?"""
    call = getattr(statement, "value", None)
    if not (
        isinstance(statement, ast.Assign) and isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Exercise"
    ):
        return False
    return id is None or any(isinstance(a, ast.Constant) and a.value == id for a in call.args[:1])


def _names(node):
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
