"""What a learner sees of a lesson on the page: code that fits it, and code that only draws folded away."""

import ast

import pytest

from peftlab.classroom import build

WIDTH = 90
FITTED = [f"{n:02}" for n in range(15)]  # the lessons that were gone through
each_fitted = pytest.mark.parametrize("name", [n for n in build.lessons() if n[:2] in FITTED])


def code(name, source=None):
    return [c for c in build.complete(name, source).cells if c.cell_type == "code"]


def hidden(cell):
    return cell.metadata.get("jupyter", {}).get("source_hidden", False)


def only_draws(cell):
    """Does it do nothing but show a figure?"""
    body = ast.parse(cell.source).body
    return all(isinstance(s, ast.Expr) and ast.unparse(s).startswith(("figures.show(", "pl.lab.figures.show(")) for s in body)


@each_fitted
def test_no_line_of_code_runs_off_the_page(name):
    long = [line for c in code(name) if not hidden(c) for line in c.source.splitlines() if len(line) > WIDTH]
    assert not long, long


@each_fitted
def test_code_that_only_draws_is_folded_away(name):
    shown = [c.source for c in code(name) if only_draws(c) and not hidden(c)]
    assert not shown, f"give these cells tags=['hide-source']: {shown}"


@each_fitted
def test_every_assertion_says_what_to_look_at(name):
    silent = [ast.unparse(s) for c in code(name) for s in ast.walk(ast.parse(c.source))
              if isinstance(s, ast.Assert) and s.msg is None]  # fmt: skip
    assert not silent, silent


def test_the_tag_folds_and_the_guards_notice():
    long = "x = 1  # " + 90 * "-"
    drawing = "figures.show(figures.low_rank(), alt='A picture of it.')"
    made = code("03-lora", f'# %%\n{long}\n\n# %%\n{drawing}\n\n# %% tags=["hide-source"]\n{drawing}\n')
    assert [hidden(c) for c in made] == [False, False, True]
    assert [only_draws(c) for c in made] == [False, True, True]
