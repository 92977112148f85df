import os
import sys

import pytest

from peftlab import cli
from peftlab.lab import sources


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """`peftlab lab` with a JupyterLab that only says how it was started, as (options, environment)."""
    import jupyterlab.labapp

    import peftlab.classroom.copies

    started = []
    copies = []
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
