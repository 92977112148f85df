"""The learner's record: what is noted, and that nothing that happens to its file disturbs a lesson."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time

import nbformat
import pytest

from peftlab import cli
from peftlab.classroom import all_exercises, build, check, copies, find, progress

RIGHT = find("lora-forward").reference
WRONG = find("lora-forward").slips[0]


@pytest.fixture
def record(tmp_path, monkeypatch):
    path = tmp_path / "progress.sqlite"
    monkeypatch.setenv("PEFTLAB_PROGRESS", str(path))
    return path


def row(id="lora-forward"):
    return next(r for r in progress.summary() if r["exercise"] == id)


def test_tries_are_counted_and_correct_stays_correct(record):
    check("lora-forward", None)
    assert row()["state"] == "not attempted" and row()["tries"] == 0
    check("lora-forward", WRONG.answer)
    assert row()["state"] == "not yet" and progress.events()[-1][3] == WRONG.name
    check("lora-forward", RIGHT)
    check("lora-forward", WRONG.answer)
    assert row()["state"] == "correct" and row()["tries"] == 3 and row()["minutes"] >= 0
    check("lora-forward", RIGHT, seed=1)
    assert row()["tries"] == 3, "the hidden test of a grading cell is no try"


def test_nothing_is_noted_outside_the_copies(tmp_path, monkeypatch):
    monkeypatch.delenv("PEFTLAB_PROGRESS", raising=False)
    monkeypatch.setattr(progress, "WORK", tmp_path / "work")
    check("lora-forward", RIGHT)
    assert progress.file() is None and not (tmp_path / "work").exists()
    (tmp_path / "work" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "deeper")
    check("lora-forward", RIGHT)
    assert (tmp_path / "work" / "progress.sqlite").exists()


def test_a_damaged_file_is_kept_and_the_lesson_goes_on(record, capsys):
    record.write_bytes(b"this is no database, whatever its name says" * 100)
    assert check("lora-forward", RIGHT)
    assert "kept as progress.damaged" in capsys.readouterr().out
    [aside] = record.parent.glob("progress.damaged-*")
    assert aside.read_bytes().startswith(b"this is no database") and row()["state"] == "correct"


def test_a_record_that_cannot_be_written_says_so_and_no_more(record, capsys, monkeypatch):
    monkeypatch.setenv("PEFTLAB_PROGRESS", str(record.parent / "progress.sqlite" / "under-a-file"))
    record.write_text("")
    assert check("lora-forward", RIGHT)
    assert "Your work is not affected" in capsys.readouterr().out


def test_a_locked_file_is_waited_for_and_then_let_be(record, capsys, monkeypatch):
    check("lora-forward", WRONG.answer)
    real = sqlite3.connect
    monkeypatch.setattr(progress.sqlite3, "connect", lambda path, timeout: real(path, timeout=0.05))
    holder = real(record, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert check("lora-forward", RIGHT)
    assert "locked" in capsys.readouterr().out
    holder.execute("ROLLBACK")
    holder.close()
    assert row()["tries"] == 1 and not list(record.parent.glob("*damaged*"))


def _write_many(path, n):
    for i in range(n):
        assert progress.note("lora-forward", "not yet", str(i), path) is None


def test_two_kernels_at_once_lose_nothing(record):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_write_many, args=(record, 40)) for _ in range(2)]
    [p.start() for p in both]
    [p.join() for p in both]
    assert [p.exitcode for p in both] == [0, 0] and row()["tries"] == 80


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_process_leaves_every_event_before_it(record):
    code = f"""
import sys
from pathlib import Path
from peftlab.classroom import progress
for i in range(10**6):
    progress.note("lora-forward", "not yet", str(i), Path({str(record)!r}))
    print(i, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) >= 30:
            os.kill(process.pid, signal.SIGKILL)
            break
    rest = process.stdout.read().split()
    process.wait()
    time.sleep(0.1)
    said = int(rest[-1]) if rest and rest[-1].isdigit() else 30
    assert [e[3] for e in progress.events()][: said + 1] == [str(i) for i in range(said + 1)]
    assert progress.note("lora-forward", "correct") is None


# ---------------------------------------------------------------- the commands


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Copies of all lessons in a folder of their own."""
    folder = tmp_path / "work"
    monkeypatch.setattr(progress, "WORK", folder)
    monkeypatch.setenv("PEFTLAB_PROGRESS", str(folder / "progress.sqlite"))
    copies.make_copies(folder)
    return folder


def test_hints_come_one_by_one(work, capsys):
    hints = find("lora-forward").hints
    for i in [*range(len(hints)), len(hints) - 1]:
        assert cli.main(["hint", "lora-forward"]) == 0
        assert capsys.readouterr().out == f"Hint {i + 1} of {len(hints)}: {hints[i]}\n"
    assert row()["hints"] == len(hints) + 1 and row()["state"] == "not attempted"


def test_a_solution_that_was_read_is_noted_and_right(work, capsys):
    assert cli.main(["solution", "lora-forward"]) == 0
    text = capsys.readouterr().out
    scope = {}
    exec("import torch\nimport torch.nn.functional as F\n" + text, scope)  # noqa: S102 - the lesson's own
    assert check("lora-forward", scope["lora_forward"])
    cli.main(["progress", "03"])
    assert "1 try" in (said := capsys.readouterr().out) and "solution read" in said


def test_a_reset_keeps_the_old_attempt_and_touches_no_other_cell(work, capsys):
    path = work / "03-lora.ipynb"
    mine = nbformat.read(path, as_version=4)
    stub = next(c for c in mine.cells if c.source.startswith("def lora_forward"))
    empty, stub.source = stub.source, "def lora_forward(*everything):\n    return 'my attempt'"
    other = next(c for c in mine.cells if c.cell_type == "markdown")
    other.source += "\n\nA note of mine."
    nbformat.write(mine, path)
    check("lora-forward", RIGHT)
    assert cli.main(["reset", "lora-forward"]) == 0
    after = nbformat.read(path, as_version=4)
    assert [c.source for c in after.cells] == [empty if c.id == stub.id else c.source for c in mine.cells]
    [kept] = (work / ".peftlab" / "attempts").iterdir()
    assert kept.read_text() == stub.source + "\n" and kept.name in capsys.readouterr().out
    assert row()["state"] == "not attempted", "a reset begins anew"
    assert len(progress.events()) == 2, "and forgets nothing"


def test_a_copy_whose_cell_is_gone_is_left_as_it_is(work):
    path = work / "03-lora.ipynb"
    mine = nbformat.read(path, as_version=4)
    mine.cells = [c for c in mine.cells if not c.source.startswith("def lora_forward")]
    nbformat.write(mine, path)
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="has not all the cells"):
        cli.main(["reset", "lora-forward"])
    assert path.read_bytes() == before


def test_every_exercise_of_a_published_lesson_can_be_reset_and_has_its_solution(work):
    published = {p.stem for p in build.NOTEBOOKS.glob("[0-9]*.ipynb")}
    for exercise in all_exercises():
        if exercise.lesson in published and exercise.points:
            assert progress.reset(exercise.id, work).exists()
            assert progress.solution(exercise.id, work / "progress.sqlite").strip()


@pytest.mark.parametrize("command", ["hint", "solution", "reset"])
def test_a_misspelt_exercise_is_answered_with_those_that_are_near(command, work):
    with pytest.raises(SystemExit, match="did you mean .*lora-forward"):
        cli.main([command, "lora-foward"])
    with pytest.raises(SystemExit, match="name one"):
        cli.main([command])


def test_the_board_tells_it_in_text_and_as_a_page(work):
    check("lora-forward", WRONG.answer)
    check("lora-forward", RIGHT)
    told = progress.board()
    assert "✓ lora-forward" in repr(told) and "2 tries" in repr(told)
    assert "aria-label='correct'" in told._repr_html_()


def test_a_copy_in_the_format_of_old_can_be_reset(work):
    path = work / "03-lora.ipynb"
    mine = nbformat.read(path, as_version=4)
    mine.nbformat_minor = 0
    for cell in mine.cells:
        cell.pop("id", None)
        if cell.source.startswith("def lora_forward"):
            cell.source = "mine"
    path.write_text(nbformat.writes(mine), encoding="utf-8")
    assert "mine" in progress.reset("lora-forward", work).read_text()
    after = nbformat.read(path, as_version=4)
    assert after.nbformat_minor == 0 and not any(c.source == "mine" for c in after.cells)
    path.write_text("{")
    with pytest.raises(ValueError, match="can't be read as a notebook"):
        progress.reset("lora-forward", work)
