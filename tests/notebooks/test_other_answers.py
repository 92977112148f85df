"""A green tick is never followed by a traceback: a lesson's own cells, with solutions that nobody expects in place.

Each lesson runs here in one process, again and again: first with every exercise's reference, then with the second solution
of each, the third ... until all that the checks accept have been in place; after the first turn only the cells that the new ones
reach. So that this is quick, training takes one step and a fit two, a few questions are asked, and what needs one of the
two larger bases is left out. An error counts where the references meet none (they do where a cell asserts the result of a
training that is cut short here).
"""

import ast
import contextlib
import io
import sys
import warnings
from importlib import import_module
from pkgutil import walk_packages

import matplotlib
import pytest
import torch

from peftlab import lab
from peftlab.classroom import build
from peftlab.classroom.build import CHECK, NOTEBOOKS
from peftlab.classroom.exercise import Question, find
from peftlab.classroom.slicing import binds, uses
from peftlab.lab import bases, polyglot, training

SMALL = "polyglot-350k"


class LeftOut(Exception):
    """A cell needs one of the larger bases."""


@pytest.fixture
def light(monkeypatch):
    """Training of one step, fits of two, one number in twenty, the small base alone."""
    for room in walk_packages(lab.__path__, f"{lab.__name__}."):
        import_module(room.name)  # whoever imports it first while `train` is replaced would keep the replacement
    train, load, numbers, fit = training.train, bases.load_base, polyglot.numbers, torch.optim.LBFGS

    def one_step(*args, steps, **kwargs):
        return train(*args, steps=1, **kwargs)

    def short(*args, max_iter, **kwargs):
        return fit(*args, max_iter=2, **kwargs)

    def small(name, **kwargs):
        if name != SMALL:
            raise LeftOut(name)
        return load(name, **kwargs)

    for module in [m for n, m in sys.modules.items() if n.startswith("peftlab")]:
        for name, old, new in (("train", train, one_step), ("load_base", load, small)):
            if getattr(module, name, None) is old:
                monkeypatch.setattr(module, name, new)
    monkeypatch.setattr(polyglot, "numbers", lambda split: numbers(split)[::20])
    monkeypatch.setattr(torch.optim, "LBFGS", short)
    matplotlib.use("agg")
    monkeypatch.chdir(NOTEBOOKS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def asked_for(cell):
    """(the exercise a cell checks, the names it hands over: `merge` and `unmerge` in `(merge, unmerge)`), or None."""
    if not (check := CHECK.search(cell)) or isinstance(exercise := find(check[1]), Question):
        return None
    answer = ast.parse(check[2].strip(), mode="eval").body
    parts = answer.elts if isinstance(answer, ast.Tuple) else [answer]
    assert all(isinstance(p, ast.Name) for p in parts), f"{exercise.id} is asked about an expression"
    return exercise, [p.id for p in parts]


def what_depends(cells, answers):
    """The cells that use one of the answers, or what such a cell makes; and those that make what these use."""
    made = [set().union(*map(binds, ast.parse(cell).body)) for cell in cells]
    touched, wanted, kept = set(answers), set(), []
    affected = [bool(uses(cell) & touched) and not touched.update(names) for cell, names in zip(cells, made)]
    for cell, names, is_affected in reversed(list(zip(cells, made, affected))):
        if is_affected or asked_for(cell) or names & wanted:
            kept.append(cell)
            wanted |= uses(cell)
    return kept[::-1]


def attempt(source, scope):
    """The error's name and words, or "" where the cell runs."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(source, "<cell>", "exec"), scope)  # noqa: S102 - the lesson's own cells
    except Exception as error:  # noqa: BLE001 - whatever a cell raises is what is looked for
        return f"{type(error).__name__}: {error}"
    return ""


def errors(cells, turn):
    """What each cell raises, with solution number `turn` of each exercise in the learner's place."""
    scope, raised = {"__name__": "__main__"}, []
    for cell in cells:
        if not (asked := asked_for(cell)):
            raised.append(attempt(cell, scope))
            continue
        exercise, names = asked
        solution = exercise.solutions[turn % len(exercise.solutions)]
        scope.update(zip(names, solution if len(names) > 1 else (solution,), strict=True))
        raised.append("")
    return raised


@pytest.mark.parametrize("lesson", build.lessons())
def test_each_accepted_solution_serves_the_rest_of_the_lesson(lesson, light):
    cells = [c.source for c in build.complete(lesson).cells if c.cell_type == "code" and c.source.strip()]
    asked = dict(filter(None, map(asked_for, cells)))
    usual = {}
    for turn in range(max(len(e.solutions) for e in asked)):
        reached = what_depends(cells, {n for e, names in asked.items() if len(e.solutions) > max(turn, 1) for n in names})
        found = dict(zip(reached, errors(reached, turn)))
        usual = usual or found
        for cell, error in found.items():
            place = [e.solutions[turn % len(e.solutions)] for e, names in asked.items() if uses(cell) & set(names)]
            assert not error or usual[cell], f"{error}\n\nin this cell, with {place}:\n{cell}"
