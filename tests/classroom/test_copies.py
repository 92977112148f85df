"""The learner's copies: solutions out, edits kept whatever happens."""

import json
import os
import re

import nbformat
import pytest

from peftlab.classroom import build, copies

SOURCE = """# %% [markdown]
# # A lesson
#
# {{{{lora-forward}}}}

# %%
import torch
from peftlab.classroom import check

# %%
def lora_forward(x, weight, bias, A, B, alpha):
    y = torch.nn.functional.linear(x, weight, bias)
    ### BEGIN SOLUTION
    update = x @ A.T @ B.T
    return y + update * alpha / len(A)
    ### END SOLUTION

# %%
check("lora-forward", lora_forward)

# %%
guess = ...
### BEGIN SOLUTION
guess = "c"
### END SOLUTION

# %%
check("lora-first-step", guess)

# %% [markdown]
# {ending}
"""
NAME = "01-sample.ipynb"


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of one lesson; `course(text)` publishes it with another ending. Returns the folder of the copies."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    monkeypatch.setattr(copies, "NOTEBOOKS", notebooks)

    def publish(ending):
        nbformat.write(build.complete("01-sample", SOURCE.format(ending=ending)), notebooks / NAME)
        return tmp_path / "work"

    return publish


def read(path):
    return nbformat.read(path, as_version=4)


def edit(path, what="lora_forward = None  # mine"):
    notebook = read(path)
    notebook.cells[2].source = what
    nbformat.write(notebook, path)
    return path.read_bytes()


def test_a_copy_holds_stubs_instead_of_solutions(course):
    work = course("one")
    assert copies.make_copies(work) == [f"{NAME}: your copy of the lesson"]
    code = "\n".join(c.source for c in read(work / NAME).cells if c.cell_type == "code")
    assert "SOLUTION" not in code and "HIDDEN" not in code and "update" not in code and '"c"' not in code
    space = {}
    for cell in read(work / NAME).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            exec(cell.source, space)  # noqa: S102 - the stubs run
    with pytest.raises(NotImplementedError, match="This part is yours"):
        space["lora_forward"](*[space["torch"].ones(2, 2)] * 5, 1)
    assert space["check"]("lora-forward", space["lora_forward"]).state == "not attempted"
    assert space["check"]("lora-first-step", space["guess"]).state == "not attempted"


def test_hints_come_before_the_folded_solution_and_nothing_is_unfolded(course):
    work = course("one")
    copies.make_copies(work)
    after = [c.source for c in read(work / NAME).cells]
    place = after.index('check("lora-forward", lora_forward)')
    assert after[place + 1].startswith("<details><summary>Hint 1</summary>")
    assert after[place + 2].startswith("<details><summary>A solution</summary>") and "update = x @" in after[place + 2]


def test_what_is_edited_stays_and_the_new_lesson_arrives_beside_it_once(course):
    work = course("one")
    copies.make_copies(work)
    mine = edit(work / NAME)
    assert copies.make_copies(work) == []
    course("two")
    (said,) = copies.make_copies(work)
    (beside,) = work.glob("01-sample (new *).ipynb")
    assert beside.name in said and (work / NAME).read_bytes() == mine
    assert read(beside).cells[-1].source == "two"
    also_mine = edit(beside)
    assert copies.make_copies(work) == []
    course("three")
    copies.make_copies(work)
    assert beside.read_bytes() == also_mine and (work / NAME).read_bytes() == mine
    assert sorted(read(p).cells[-1].source for p in work.glob("*new*.ipynb")) == ["three", "two"]


def test_an_unedited_copy_follows_the_lesson(course):
    work = course("one")
    copies.make_copies(work)
    course("two")
    assert "brought up to date" in copies.make_copies(work)[0]
    assert read(work / NAME).cells[-1].source == "two" and len(list(work.glob("*.ipynb"))) == 1


def test_having_run_a_copy_is_not_an_edit(course):
    work = course("one")
    copies.make_copies(work)
    notebook = read(work / NAME)
    notebook.cells[1].outputs, notebook.cells[1].execution_count = [nbformat.v4.new_output("stream", text="hello")], 4
    notebook.metadata["toc"] = {"base": 1}
    notebook.cells.append(nbformat.v4.new_code_cell(""))  # Shift+Enter on the last cell adds one
    nbformat.write(notebook, work / NAME)
    course("two")
    assert "brought up to date" in copies.make_copies(work)[0]


def test_a_crash_at_any_moment_leaves_whole_files_and_is_repaired(course, monkeypatch):
    work = course("one")
    copies.make_copies(work)
    before = (work / NAME).read_bytes()
    course("two")
    replace, calls = os.replace, []

    def crash(*args):
        calls.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        copies.make_copies(work)
    assert calls and (work / NAME).read_bytes() == before and not list(work.glob("**/*.part"))

    def crash_before_the_record(source, target):
        if str(target).endswith("copies.json"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash_before_the_record)
    with pytest.raises(KeyboardInterrupt):
        copies.make_copies(work)
    monkeypatch.setattr(os, "replace", replace)
    copies.make_copies(work)
    assert read(work / NAME).cells[-1].source == "two" and len(list(work.glob("*.ipynb"))) == 1
    course("three")
    assert "brought up to date" in copies.make_copies(work)[0]


def test_a_crash_after_the_new_lesson_arrived_does_not_bring_it_twice(course, monkeypatch):
    work = course("one")
    copies.make_copies(work)
    edit(work / NAME)
    course("two")
    replace = os.replace

    def crash(source, target):
        if str(target).endswith("copies.json"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        copies.make_copies(work)
    monkeypatch.setattr(os, "replace", replace)
    assert copies.make_copies(work) == [] and len(list(work.glob("*new*.ipynb"))) == 1


@pytest.mark.parametrize("record", ["", "{", "[1]", "null", '{"01-sample.ipynb": 3}'])
def test_a_broken_record_never_costs_work(course, record):
    work = course("one")
    copies.make_copies(work)
    mine = edit(work / NAME)
    (work / ".peftlab" / "copies.json").write_text(record)
    course("two")
    copies.make_copies(work)
    assert (work / NAME).read_bytes() == mine and len(list(work.glob("*new*.ipynb"))) == 1
    assert json.loads((work / ".peftlab" / "copies.json").read_text())


def test_a_file_that_is_no_notebook_any_more_stays(course):
    work = course("one")
    copies.make_copies(work)
    (work / NAME).write_bytes(b'{"cells": [ half a')
    course("two")
    copies.make_copies(work)
    assert (work / NAME).read_bytes() == b'{"cells": [ half a'


def test_a_solution_without_a_check_is_refused():
    with pytest.raises(ValueError, match="followed by no check"):
        build.complete("01-sample", SOURCE.format(ending="x").split("# %%\ncheck")[0])


def test_an_unedited_copy_that_was_run_keeps_its_outputs_under_another_name(course):
    work = course("one")
    copies.make_copies(work)
    notebook = read(work / NAME)
    next(c for c in notebook.cells if c.cell_type == "code").outputs = [nbformat.v4.new_output("stream", text="42\n")]
    nbformat.write(notebook, work / NAME)
    course("two")
    (said,) = copies.make_copies(work)
    (aside,) = work.glob("01-sample (run *).ipynb")
    assert aside.name in said and "42" in aside.read_text() and read(work / NAME).cells[-1].source == "two"


@pytest.mark.skipif(os.name == "nt", reason="modes are of Unix")
def test_a_copy_has_the_modes_that_its_user_wants(course):
    old = os.umask(0o077)
    try:
        work = course("one")
        copies.make_copies(work)
        assert (work / NAME).stat().st_mode & 0o777 == 0o600
        (work / NAME).chmod(0o640)
        course("two")
        copies.make_copies(work)
        assert (work / NAME).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(old)


def test_the_glossary_lies_beside_the_copies_and_an_edited_one_stays(course, tmp_path):
    (tmp_path / "docs").mkdir()
    glossary = tmp_path / "docs" / "glossary.md"
    glossary.write_text("- **rank**: one", encoding="utf-8")
    work = course("first")
    copies.make_copies(work)
    mine = work / "glossary.md"
    assert mine.read_text(encoding="utf-8") == "- **rank**: one"
    assert "](glossary.md)" in read(work / NAME).cells[0].source

    glossary.write_text("- **rank**: two", encoding="utf-8")
    copies.make_copies(work)
    assert mine.read_text(encoding="utf-8") == "- **rank**: two"

    mine.write_text("my notes", encoding="utf-8")
    glossary.write_text("- **rank**: three", encoding="utf-8")
    copies.make_copies(work)
    assert mine.read_text(encoding="utf-8") == "my notes"


def test_every_page_that_a_lesson_links_to_lies_beside_its_copy(tmp_path):
    copies.make_copies(tmp_path)
    linked = {
        target
        for lesson in tmp_path.glob("*.ipynb")
        for cell in read(lesson).cells
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", cell.source if cell.cell_type == "markdown" else "")
    }
    assert {"glossary.md", "claims.md"} <= linked
    assert [target for target in linked if not (tmp_path / target).exists()] == []
