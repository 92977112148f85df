"""tasks.py: when it makes, repairs, keeps an environment, and what `test` runs. No package is installed here."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """The module, working in a folder of its own, with an installer that takes no time; `.did` is what happened."""
    spec = importlib.util.spec_from_file_location("tasks", ROOT / "tasks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "pyproject.toml").write_text("dependencies")
    (tmp_path / "constraints.txt").write_text("versions")
    module.did = []
    module.works = lambda: True  # what the installer does; replaced below

    def call(command, **_):
        assert command[1:3] == ["-m", "venv"], command
        module.did.append("venv")
        python = module.interpreter(Path(command[3]))
        python.parent.mkdir(parents=True)
        python.write_text("python")
        return 0

    def install(python):
        module.did.append("install")
        return module.works()

    def runs(python, modules=()):
        """An interpreter runs when its file says so; it has the modules once an install ended well."""
        return python.is_file() and python.read_text() == "python"

    for name, value in {"ROOT": tmp_path, "call": call, "install": install, "runs": runs}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.delenv("CONDA_DEFAULT_ENV", raising=False)
    return module


def home(tasks):
    return tasks.ROOT / ".venv"


def run(tasks):
    """What `environment()` did, from "venv" and "install"."""
    tasks.did.clear()
    assert tasks.environment() == str(tasks.interpreter(home(tasks)))
    return tasks.did


def raising(error):
    def f():
        raise error

    return f


def test_made_once(tasks):
    assert run(tasks) == ["venv", "install"]
    assert run(tasks) == []


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_brought_up_to_date_in_place(tasks, file):
    run(tasks)
    (home(tasks) / "mine").write_text("kept")
    (tasks.ROOT / file).write_text("changed")
    assert run(tasks) == ["install"]
    assert (home(tasks) / "mine").exists()
    assert run(tasks) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_interrupted_install_is_made_anew(tasks, error):
    tasks.works = raising(error)
    with pytest.raises(type(error)):
        run(tasks)
    (home(tasks) / "half a package").write_text("")
    tasks.works = lambda: True
    assert run(tasks) == ["venv", "install"]
    assert not (home(tasks) / "half a package").exists()
    assert run(tasks) == []


def test_interrupted_update_is_made_anew(tasks):
    run(tasks)
    (tasks.ROOT / "constraints.txt").write_text("changed")
    tasks.works = raising(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(tasks)
    (tasks.ROOT / "constraints.txt").write_text("versions")  # even back at what the old stamp said
    tasks.works = lambda: True
    assert run(tasks) == ["venv", "install"]


def test_failed_install_says_so_and_is_tried_again(tasks):
    tasks.works = lambda: False
    with pytest.raises(SystemExit, match="Run the same command again"):
        run(tasks)
    tasks.works = lambda: True
    assert run(tasks) == ["venv", "install"]


def test_interrupted_while_the_venv_is_made(tasks):
    home(tasks).mkdir()  # and no interpreter in it
    assert run(tasks) == ["venv", "install"]


def test_broken_is_noticed(tasks):
    run(tasks)
    tasks.interpreter(home(tasks)).write_text("of a Python that was uninstalled")
    assert run(tasks) == ["venv", "install"]


def test_moved_is_noticed(tasks, tmp_path, monkeypatch):
    run(tasks)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in (".venv", "pyproject.toml", "constraints.txt"):
        os.rename(tmp_path / name, moved / name)
    monkeypatch.setattr(tasks, "ROOT", moved)
    assert run(tasks) == ["venv", "install"]


def test_environment_made_by_hand_is_kept(tasks):
    python = tasks.interpreter(home(tasks))
    python.parent.mkdir(parents=True)
    python.write_text("python")
    assert run(tasks) == ["install"]


def test_conda_environment_is_used_and_never_removed(tasks, tmp_path, monkeypatch):
    conda = tmp_path / "envs" / "peftlab"
    python = tasks.interpreter(conda, conda=True)
    python.parent.mkdir(parents=True)
    python.write_text("python")
    monkeypatch.setenv("CONDA_DEFAULT_ENV", "peftlab")
    monkeypatch.setenv("CONDA_PREFIX", str(conda))
    tasks.works = raising(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        tasks.environment()
    tasks.works = lambda: True
    assert tasks.environment() == str(python)
    assert tasks.did == ["install", "install"] and not home(tasks).exists()


def test_another_conda_environment_is_left_alone(tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("CONDA_DEFAULT_ENV", "base")
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "base"))
    assert run(tasks) == ["venv", "install"]


def test_no_venv_module(tasks, monkeypatch):
    monkeypatch.setattr(tasks, "call", lambda *_, **__: 1)
    with pytest.raises(SystemExit, match="python3-venv"):
        tasks.environment()
    assert not home(tasks).exists()


def test_two_at_once_install_once(tasks, monkeypatch):
    """A second run waits for the lock of the first, and then finds everything done."""

    tries = []

    def locked(file):
        tries.append(1)
        if len(tries) == 2:  # meanwhile the other run does it
            tasks.prepare(home(tasks), tasks.interpreter(home(tasks)), False)
        return len(tries) > 2

    monkeypatch.setattr(tasks, "lock", locked)
    monkeypatch.setattr(tasks.time, "sleep", lambda seconds: None)
    assert run(tasks) == ["venv", "install"]


def test_the_lock_holds_against_another_process(tasks):
    spec = f"import importlib.util as u; s = u.spec_from_file_location('t', {str(ROOT / 'tasks.py')!r})"
    code = f"{spec}; t = u.module_from_spec(s); s.loader.exec_module(t); print(t.lock(open('.venv.lock', 'a+b')))"

    def other():
        return subprocess.check_output([sys.executable, "-c", code], cwd=tasks.ROOT, text=True)

    with tasks.one_at_a_time(home(tasks)):
        assert other() == "False\n"
    assert other() == "True\n"


# ---- the installer, uv and pip


def installing(tasks, monkeypatch, fails):
    """The commands `install` calls, when those for which `fails(command)` fail; and whether it says it succeeded."""
    spec = importlib.util.spec_from_file_location("tasks", ROOT / "tasks.py")
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    called = []
    monkeypatch.setattr(fresh, "call", lambda command, **_: called.append(" ".join(command)) or int(fails(command)))
    monkeypatch.setattr(fresh, "uv_settings", lambda python: {})
    return fresh.install("python"), called


def test_uv_when_it_can(tasks, monkeypatch):
    done, called = installing(tasks, monkeypatch, lambda command: False)
    assert done and len(called) == 2
    assert called[1] == "python -m uv pip install --compile-bytecode --python python -c constraints.txt -e .[all]"


@pytest.mark.parametrize("failing", ["--quiet uv", "-m uv"])
def test_pip_when_uv_cannot(tasks, monkeypatch, failing):
    done, called = installing(tasks, monkeypatch, lambda command: failing in " ".join(command))
    assert done
    assert called[-1] == "python -m pip install --disable-pip-version-check -c constraints.txt -e .[all]"


def test_neither(tasks, monkeypatch):
    assert not installing(tasks, monkeypatch, lambda command: True)[0]


def test_settings_of_pip_reach_uv(tasks, monkeypatch):
    listing = (
        ":env:.find-links='/srv/wheels /srv/more'\nglobal.cert='/etc/ca.pem'\nglobal.find-links='/not/this'\n"
        "global.extra-index-url='https://a.example/simple\\nhttps://b.example/simple'\nuser.index-url='https://c.example'\n"
    )
    monkeypatch.setattr(tasks.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, listing))
    for name in ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_FIND_LINKS", "UV_INDEX_STRATEGY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert tasks.uv_settings("python") == {
        "UV_FIND_LINKS": "/srv/wheels,/srv/more",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_DEFAULT_INDEX": "https://c.example",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mine.example")
    assert "UV_DEFAULT_INDEX" not in tasks.uv_settings("python")


# ---- the commands


def run_test(tasks, monkeypatch, *more, fails=""):
    """The exit status of `test`, and what it called, when commands that contain `fails` fail with 3."""
    called = []

    def call(command, **_):
        called.append(" ".join(command[1:]))
        return 3 if fails and fails in called[-1] else 0

    monkeypatch.setattr(tasks, "call", call)
    monkeypatch.setattr(tasks, "system_parts", lambda: called.append("system parts"))
    return tasks.test("python", list(more)), called


def test_test_runs_everything(tasks, monkeypatch):
    (tasks.ROOT / "notebooks").mkdir()
    (tasks.ROOT / "notebooks" / "00-first.ipynb").write_text("{}")
    status, called = run_test(tasks, monkeypatch)
    assert status == 0
    start = [
        "-m peftlab fetch",
        "system parts",
        "-m ruff check .",
        "-c import sys; from importlinter",
        f"-m pytest -ra -m not alone -n {tasks.workers()} --dist loadfile tests",
        "-m pytest -ra -m alone tests",
    ]
    assert len(called) == 6 and all(map(str.startswith, called, start))
    assert "tests notebooks" in called[-2].replace(os.sep, "/")
    for option in ("--nbval ", "--nbval-current-env", "--nbval-cell-timeout=600", "tests/nbval-sanitize.cfg"):
        assert option in called[-2]


def test_there_are_as_many_workers_as_cores_and_four_at_most(tasks, monkeypatch):
    for cores, expected in ((1, 1), (2, 2), (64, 4)):
        monkeypatch.setattr(tasks.os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        assert tasks.workers() == expected


@pytest.mark.parametrize("fails", ["peftlab fetch", "ruff", "lint_imports", "-m not alone", "-m alone"])
def test_any_failure_is_a_failure(tasks, monkeypatch, fails):
    status, called = run_test(tasks, monkeypatch, fails=fails)
    assert status
    assert fails == "peftlab fetch" or "pytest" in called[-1]  # a failing linter does not hide failing tests


def test_options_for_pytest(tasks, monkeypatch):
    status, called = run_test(tasks, monkeypatch, "-k", "lora")
    assert status == 0 and called[-1].endswith("tests -k lora")
    assert run_test(tasks, monkeypatch, "-k", "lora", fails="pytest")[0] == 3


def main(*arguments, **settings):
    return subprocess.run(
        [sys.executable, ROOT / "tasks.py", *arguments], capture_output=True, text=True, check=False, **settings
    )


def test_help():
    done = main("--help")
    assert done.returncode == 0
    for command in ("lab", "test", "bench", "doctor", "build"):
        assert f"tasks.py {command} " in done.stdout
    assert main().returncode == 2


def test_unknown_command():
    done = main("lba")
    assert done.returncode == 2 and "lab, test, bench, doctor, build" in done.stderr


def test_old_python_is_told(tasks, monkeypatch):
    monkeypatch.setattr(tasks.sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit, match="needs Python 3.11 or newer"):
        tasks.main(["lab"])


def test_old_python_can_read_it_and_needs_nothing():
    source = (ROOT / "tasks.py").read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 7))
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_ci_runs_the_readme_command():
    lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[-1].removeprefix("exec ") == "python3 tasks.py test"
    assert "set -eu" in lines
    assert "python3 tasks.py test" in (ROOT / "README.md").read_text(encoding="utf-8")
