"""All tests run after the models and texts are fetched, with the network cut and the Hub offline."""

import gc
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

OFFLINE = Path(__file__).parent / "offline"
os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us in the background has it ignored


def pytest_addoption(parser):
    parser.addoption("--load", type=int, default=7, help="submissions in the load run of the grader (default: one of each kind)")


def pytest_configure(config):
    from peftlab import cli
    from peftlab.lab import set_threads, sources

    try:
        cli.fetch([])
    except sources.SourceError as error:
        pytest.exit(f"the tests need the models and texts: {error}", returncode=1)
    sys.path.append(str(OFFLINE))
    import network_cut  # noqa: F401

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))
    set_threads()


# ---- tests in several workers: `-n 2 --dist loadfile`

MUTANTS = "tests/classroom/test_checks.py::test_no_mechanical_mutant_is_accepted_that_nobody_has_explained"
TOGETHER = {"tests/methods/test_methods_page.py": "tests/methods/test_ladder.py"}  # the page holds what the ladder found
LONGEST = (  # first, so that no worker is left with one of them at the end
    "tests/methods/test_ladder.py", "tests/classroom/test_grade.py", "tests/notebooks/test_lessons.py", "notebooks/",
    "tests/notebooks/test_other_answers.py", "tests/classroom/test_whole_way.py", "tests/notebooks/test_nbgrader.py",
    "tests/classroom/test_load.py", "tests/classroom/test_checks.py", "tests/lab/test_processes.py",
)  # fmt: skip


def unit(nodeid):
    """What stays in one worker: a file, for its fixtures and, of a notebook, its kernel."""
    file = nodeid.split("::")[0]
    return nodeid if nodeid == MUTANTS else TOGETHER.get(file, file)


def place(nodeid):
    return next((i for i, start in enumerate(LONGEST) if unit(nodeid).startswith(start)), len(LONGEST))


@pytest.hookimpl(tryfirst=True)  # before the marks are looked at
def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in item.path.parts:
            item.add_marker("alone")
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: place(item.nodeid))
    gc.collect()
    gc.freeze()  # what was imported stays: walking it again and again took an eighth of some tests' time


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return unit(nodeid)

    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # the order is that of `place`
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def chromium():
    """The path of a Chromium or Chrome. Without one the test is skipped, but never in CI."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
    mac = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
    path = next(filter(None, map(shutil.which, (*names, mac))), None)
    if path is None and os.environ.get("CI"):
        pytest.fail("no Chromium or Chrome, and CI must run the browser tests")
    if path is None:
        pytest.skip("NO BROWSER: install Chromium or Chrome to run the browser tests")
    return path
