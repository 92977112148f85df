import os
import re
import sys

import pytest

from peftlab import cli
from peftlab.classroom import first
from peftlab.lab import sources

MAKE_PAGE = first.make_page


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """`peftlab lab` with a JupyterLab that only says how it was started, as (options, environment)."""
    import jupyterlab.labapp

    import peftlab.classroom.copies

    started = []
    copies = []
    monkeypatch.setattr(first, "make_page", lambda work: [])
    monkeypatch.setattr(peftlab.classroom.copies, "make_copies", lambda work: copies.append(work) or ["a message"])
    monkeypatch.setattr(
        jupyterlab.labapp.LabApp, "launch_instance", lambda argv: started.append((argv, dict(os.environ)))
    )
    monkeypatch.setattr(sys, "argv", sys.argv)
    for name in ("PATH", "JUPYTER_CONFIG_PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    return started, copies


def test_lab_starts_on_loopback_in_work_with_our_settings(lab, capsys):
    started, copies = lab
    assert cli.main(["lab", "--no-browser", "--port", "8890"]) == 0
    ((options, environment),) = started
    assert options[:2] == ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={sources.ROOT / 'work'}"]
    assert options[-3:] == ["--no-browser", "--port", "8890"]
    assert not any("token" in option or "password" in option for option in options)
    assert copies == [sources.ROOT / "work"]
    assert "a message" in capsys.readouterr().out
    assert environment["JUPYTER_CONFIG_PATH"].split(os.pathsep)[0] == str(cli.JUPYTER)


def test_lab_root_is_allowed_only_to_root(lab, monkeypatch):
    started, _ = lab
    for user in (0, 1000):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user, raising=False)
        cli.main(["lab"])
    assert ["--ServerApp.allow_root=True" in options for options, _ in started] == [True, False]


def test_no_news_and_no_update_notices(monkeypatch):
    from jupyterlab_server.settings_utils import _get_overrides

    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(cli.JUPYTER))
    overrides, error = _get_overrides("/nowhere")
    assert not error
    assert overrides["@jupyterlab/apputils-extension:notification"] == {"checkForUpdates": False, "fetchNews": "false"}


def test_fetch_of_what_is_here_says_nothing(capsys):
    assert cli.main(["fetch"]) == 0
    assert capsys.readouterr().out == ""


def test_source_error_is_one_line_and_a_failure(monkeypatch, capsys):
    def unreachable(name):
        raise sources.SourceError("no network: do this")

    monkeypatch.setattr(sources, "fetch", unreachable)
    assert cli.main(["fetch"]) == 1
    assert capsys.readouterr().err == "peftlab: no network: do this\n"


def test_interrupt(monkeypatch, capsys):
    def stopped(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "fetch", stopped)
    assert cli.main(["fetch"]) == 130
    assert "goes on from here" in capsys.readouterr().err


def test_doctor_is_content_here(capsys):
    status = cli.main(["doctor"])
    said = capsys.readouterr().out
    for name in sources.known():
        assert f"ok:   {name}: present and verified" in said
    assert "ok:   peft: " in said
    assert status == ("look:" in said)  # a machine short of memory is told so


def test_doctor_finds_what_is_wrong(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PEFTLAB_CACHE", str(tmp_path))
    (tmp_path / "minilm-l6").mkdir()
    (tmp_path / "minilm-l6" / "config.json").write_text("{}")
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "look: minilm-l6: config.json has 2 of 612 bytes; model.safetensors is not there" in said
    assert "`python3 tasks.py lab` fetches it" in said
    assert "ok:   polyglot-350k" in said


def test_options_that_do_nothing_are_refused():
    with pytest.raises(SystemExit, match="takes no options: --all"):
        cli.main(["fetch", "--all"])


def test_lab_opens_the_lesson_last_worked_on(lab, monkeypatch, tmp_path):
    from peftlab.classroom import progress

    started, _ = lab
    monkeypatch.setattr(first, "make_page", MAKE_PAGE)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    monkeypatch.setattr(cli, "fetch", lambda more: 0)
    for name in ("00-start-here", "03-lora", "03-lora (new 2026-01-01)"):
        (tmp_path / "work").mkdir(exist_ok=True)
        (tmp_path / "work" / f"{name}.ipynb").write_text("{}")
    for exercise, opened in ((None, "00-start-here"), ("lora-forward", "03-lora"), ("cosine", "00-start-here")):
        if exercise:
            progress.note(exercise, "not yet", path=tmp_path / "work" / "progress.sqlite")
        cli.main(["lab"])
        assert f"--LabApp.default_url=/lab/tree/{opened}.ipynb" in started[-1][0]
    page = (tmp_path / "work" / "your-progress.ipynb").read_text()
    assert re.search(r"\| \[03-lora\]\(03-lora.ipynb\) \| 0 of \d+ \| 1 \|", page)
    (tmp_path / "work" / "your-progress.ipynb").write_text(page.replace("# Your progress", "# Mine"))
    cli.main(["lab"])
    assert "# Mine" in (tmp_path / "work" / "your-progress.ipynb").read_text(), "what a learner wrote was overwritten"
    (tmp_path / "work" / "progress.sqlite").write_bytes(b"no database")
    cli.main(["lab"])
    assert "--LabApp.default_url=/lab/tree/00-start-here.ipynb" in started[-1][0]


def test_what_a_teacher_uses_is_off_in_a_learners_window(monkeypatch):
    from jupyter_server.extension.config import ExtensionConfigManager
    from jupyterlab_server.config import get_page_config

    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(cli.JUPYTER))
    assert "@jupyter/nbgrader" in get_page_config([])["disabledExtensions"]
    manager = ExtensionConfigManager(read_config_path=[str(cli.JUPYTER)])
    off = manager.get_jpserver_extensions("jupyter_server_config")
    assert len(off) == 4 and not any(off.values())


def test_a_method_is_found_whatever_its_case(capsys):
    assert cli.main(["methods", "lora"]) == 0 and "class LoRA" in capsys.readouterr().out


def test_the_cache_is_the_same_in_a_notebook(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEFTLAB_CACHE", "mine")
    cli.main(["methods"])
    assert os.environ["PEFTLAB_CACHE"] == str(tmp_path / "mine")
    monkeypatch.setenv("PEFTLAB_CACHE", "~nobody-of-this-name/cache")
    assert cli.main(["doctor"]) == 1
    assert "there is no such user" in capsys.readouterr().err


def test_a_record_that_is_damaged_or_of_a_later_version_is_one_sentence(monkeypatch, tmp_path, capsys):
    import sqlite3

    path = tmp_path / "progress.sqlite"
    monkeypatch.setenv("PEFTLAB_PROGRESS", str(path))
    for make in (lambda: path.write_bytes(b"no database at all" * 99), lambda: sqlite3.connect(path).execute("create table events (x)")):
        path.unlink(missing_ok=True)
        make()
        for command in (["progress"], ["hint", "cosine"]):
            assert cli.main(command) == 1
            said = capsys.readouterr().err
            assert "peftlab: the record of your progress" in said and "Your notebooks are not affected" in said


def test_a_folder_that_cannot_be_written_is_one_sentence(lab, monkeypatch, capsys):
    from peftlab.classroom import copies

    def full(work):
        raise OSError(28, "No space left on device", str(work))

    monkeypatch.setattr(copies, "make_copies", full)
    assert cli.main(["lab"]) == 1
    assert "No space left on device" in capsys.readouterr().err
