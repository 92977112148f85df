"""All tests run after the models and texts are fetched, with the network cut and the Hub offline."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

OFFLINE = Path(__file__).parent / "offline"
os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us in the background has it ignored


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
