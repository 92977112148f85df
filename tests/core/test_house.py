"""The core as one staircase: what import-linter does not see of it."""
import ast
from pathlib import Path

import pytest

import peftlab

HOUSE = Path(peftlab.__file__).parent
CORE = sorted(HOUSE.glob("*.py"))
METHODS = sorted((HOUSE / "methods").glob("*.py"))
FILES = pytest.mark.parametrize("file", [pytest.param(f, id=f.stem) for f in [*CORE, *METHODS] if f.stem not in ("cli", "__main__")])


def nodes(file, kind):
    return [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, kind)]


@FILES
def test_no_function_is_longer_than_45_lines(file):
    long = {f.name: f.end_lineno - f.lineno + 1 for f in nodes(file, ast.FunctionDef) if f.end_lineno - f.lineno >= 45}
    assert not long


@FILES
def test_nothing_private_is_taken_from_another_module(file):
    taken = [name.name for node in nodes(file, ast.ImportFrom) if (node.module or "").startswith("peftlab")
             for name in node.names if name.name.startswith("_")]
    modules = {name.asname or name.name for node in nodes(file, ast.ImportFrom) if node.module == "peftlab" for name in node.names}
    taken += [f"{node.value.id}.{node.attr}" for node in nodes(file, ast.Attribute)
              if isinstance(node.value, ast.Name) and node.value.id in modules and node.attr.startswith("_")]
    assert not taken


@FILES
def test_no_import_of_the_house_hides_in_a_function(file):
    hidden = [node.module for f in nodes(file, ast.FunctionDef) for node in ast.walk(f)
              if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("peftlab")]
    assert not hidden


@pytest.mark.parametrize("file", [pytest.param(f, id=f.stem) for f in METHODS])
def test_a_method_fits_on_a_screen(file):
    assert len(file.read_text("utf-8").splitlines()) <= 90 or file.stem == "__init__"
