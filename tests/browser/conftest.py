"""A JupyterLab on a free port of this machine, and a browser that opens a notebook in it."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def jupyter(tmp_path):
    """(address, folder) of a running JupyterLab; notebooks put into the folder can be opened."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder, log = tmp_path / "notebooks", tmp_path / "jupyter.log"
    folder.mkdir()
    settings = [str(ROOT / "data" / "jupyter"), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    environment = {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, settings))}
    options = ["--no-browser", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--IdentityProvider.token="]
    options += [f"--ServerApp.root_dir={folder}", "--ServerApp.allow_root=True"]
    with log.open("w") as out:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stdout=out, stderr=out, env=environment)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.5)
        else:
            pytest.fail(f"JupyterLab did not start in two minutes: {log.read_text()[-2000:]}")
        yield address, folder
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def open_notebook(chromium, jupyter):
    """`with open_notebook(name) as (page, errors)`: the notebook in a browser, its kernel idle, errors of its console."""
    from playwright.sync_api import sync_playwright

    address, _ = jupyter
    quiet = ("disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")

    @contextmanager
    def opened(name, width=1200, height=900):
        with sync_playwright() as p:
            browser = p.chromium.launch(
                executable_path=chromium, headless=True, args=["--no-sandbox", *(f"--{a}" for a in quiet)]
            )
            page = browser.new_page(viewport={"width": width, "height": height})
            errors = []
            page.on("console", lambda m: errors.append(f"{m.text} ({m.location['url']})") if m.type == "error" else None)
            page.on("pageerror", lambda e: errors.append(str(e)))
            page.goto(f"{address}/lab/tree/{name}?reset")
            # the status bar's words, not the toolbar's light: that is idle before there is a kernel
            page.locator("text=/\\| Idle/").first.wait_for(timeout=120_000)
            yield page, errors
            browser.close()

    return opened
