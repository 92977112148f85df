"""Fetching: every way it can fail leaves a clear message and no half file. Small wheels stand in for the real ones."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import zipfile

import pytest

from peftlab.lab import sources
from peftlab.lab.sources import SourceError

TEXT = b"the whole truth, and nothing but the truth\n" * 200


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A cache of our own, and one source, the wheel of a small package in a local folder that pip may take it from."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    path = shelf / "tinysource-1.0-py3-none-any.whl"
    info = "tinysource-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tinysource/words.txt", TEXT)
        wheel.writestr("tinysource/unwanted.py", "raise SystemExit('this must never run')")
        wheel.writestr("../escaped.txt", "this must never be written")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinysource\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    pins = {
        "what": "a small file", "used_for": "these tests", "licence": "Apache-2.0", "home": "here",
        "package": "tinysource", "version": "1.0", "kind": "wheel", "file": path.name, "inside": "tinysource/", **pin(path),
        "files": {"words.txt": {"bytes": len(TEXT), "sha256": hashlib.sha256(TEXT).hexdigest()}},
    }  # fmt: skip
    monkeypatch.setattr(sources, "known", lambda: {"tiny": pins})
    monkeypatch.setenv("PEFTLAB_CACHE", str(tmp_path / "cache"))
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(shelf), "RETRIES": "0"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return pins


def pin(path):
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def refuses(saying):
    """`fetch` refuses with these words, and leaves nothing in the cache but its lock."""
    with pytest.raises(SourceError, match=saying):
        sources.fetch("tiny")
    assert in_cache() <= {".tiny.lock"}


def in_cache():
    return {path.name for path in sources.cache_dir().iterdir()} if sources.cache_dir().is_dir() else set()


def never(*_):
    raise AssertionError("nothing was to be downloaded")


# ---- what works


def test_fetched_once_and_only_what_is_named(tiny, tmp_path, monkeypatch):
    folder = sources.fetch("tiny")
    assert (folder / "words.txt").read_bytes() == TEXT
    assert {path.name for path in folder.iterdir()} == {"words.txt", sources.STAMP}
    assert in_cache() == {"tiny", ".tiny.lock"}
    assert not list(tmp_path.rglob("escaped.txt"))
    monkeypatch.setattr(sources, "_download", never)
    assert sources.fetch("tiny") == folder


def test_copied_cache_is_read_and_not_fetched_again(tiny, monkeypatch):
    folder = sources.fetch("tiny")
    os.utime(folder / "words.txt", (1, 1))
    monkeypatch.setattr(sources, "_download", never)
    assert not sources.ready("tiny")
    assert sources.fetch("tiny") == folder
    assert sources.ready("tiny")


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(TEXT[:-9]), lambda p: p.write_bytes(TEXT[::-1]), os.remove])
def test_damage_in_the_cache_is_noticed_and_repaired(tiny, damage):
    folder = sources.fetch("tiny")
    damage(folder / "words.txt")
    assert not sources.ready("tiny")
    assert "words.txt" in sources.problems("tiny")[0]
    sources.fetch("tiny")
    assert sources.problems("tiny") == []


def test_setuptools_still_imports_after_a_fetch(tiny):
    """Looking for the module pip in this process, as we once did, makes setuptools refuse to be imported afterwards."""
    code = "import sys; sys.argv = ['', *sys.argv[1:]]\n" + SLOW + "\nimport distutils.core, setuptools"
    arguments = [sys.executable, "-W", "ignore", "-c", code, json.dumps(tiny), os.devnull, "0"]
    subprocess.run(arguments, cwd=sources.ROOT, check=True)


def test_the_real_ones_are_whole():
    for name in sources.known():
        assert sources.problems(name) == []


# ---- what goes wrong


def test_wrong_hash_is_refused_by_pip(tiny):
    tiny["sha256"] = "0" * 64
    refuses("wrong sha256")


def test_wrong_hash_is_refused_by_us(tiny, monkeypatch):
    other = bytes(tiny["bytes"])
    monkeypatch.setattr(sources, "_download", lambda source, part: (part / source["file"]).write_bytes(other))
    refuses("wrong sha256")


def test_truncated_download(tiny, monkeypatch):
    monkeypatch.setattr(sources, "_download", lambda source, part: (part / source["file"]).write_bytes(b"PK"))
    refuses(r"has 2 of [\d,]+ bytes.*Try again")


def test_wrong_file_inside(tiny):
    tiny["files"]["words.txt"]["sha256"] = "0" * 64
    refuses("unpacked wrongly.*words.txt")


def test_no_network(tiny, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{unused.getsockname()[1]}/simple")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    refuses("could not be reached.*check the network")


def test_not_in_the_index(tiny):
    tiny["version"] = "9.9"
    refuses(r"pip could not download tinysource 9.9(.|\n)*from versions: 1.0")


def test_no_space_before(tiny, monkeypatch):
    usage = sources.shutil.disk_usage("/")
    monkeypatch.setattr(sources.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    monkeypatch.setattr(sources, "_download", never)
    refuses("needs .* MB of free space.*PEFTLAB_CACHE")


def test_no_space_while_unpacking(tiny, monkeypatch):
    def full(a, b):
        b.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources.shutil, "copyfileobj", full)
    refuses("no space left.*PEFTLAB_CACHE")


def test_no_space_for_pip(tiny):
    assert "PEFTLAB_CACHE" in sources._say_pip(tiny, "ERROR: Could not install: [Errno 28] No space left on device")


def test_cache_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PEFTLAB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(SourceError, match="cannot be written.*PEFTLAB_CACHE"):
        sources.fetch("tiny")


def test_cache_that_is_full_and_read_only_serves(tiny, monkeypatch):
    folder = sources.fetch("tiny")
    os.utime(folder / "words.txt", (1, 1))  # the stamp is out of date, and cannot be written anew

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(sources.Path, "write_text", read_only)
    monkeypatch.setattr(sources, "_download", never)
    assert sources.fetch("tiny") == folder


def test_no_pip(tiny, tmp_path, monkeypatch):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    python = bare / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    monkeypatch.setattr(sources.sys, "executable", str(python))
    refuses("has no pip.*ensurepip")


def test_interrupted_by_hand(tiny, monkeypatch):
    def stop(source, part):
        (part / source["file"]).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "_download", stop)
    with pytest.raises(KeyboardInterrupt):
        sources.fetch("tiny")
    assert in_cache() == {".tiny.lock"}


def test_unknown_name_lists_those_there_are(tiny):
    with pytest.raises(SourceError, match="'tinny'; the sources are tiny"):
        sources.fetch("tinny")


def test_installed_without_its_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    with pytest.raises(SourceError, match="runs from its repository"):
        sources.known.__wrapped__()


# ---- other processes

SLOW = """
import json, sys, time
from pathlib import Path
from peftlab.lab import sources

pins, log, seconds = json.loads(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
sources.known = lambda: {"tiny": pins}
download = sources._download

def slow(source, part):
    (part / "half").write_bytes(b"half")
    with log.open("a") as file:
        file.write("download\\n")
    time.sleep(seconds)
    download(source, part)

sources._download = slow
sources.fetch("tiny")
"""


def start(tiny, log, seconds):
    arguments = [sys.executable, "-c", textwrap.dedent(SLOW), json.dumps(tiny), str(log), str(seconds)]
    return subprocess.Popen(arguments, cwd=sources.ROOT, stderr=subprocess.PIPE, text=True)


def test_killed_download_is_repaired_by_the_next(tiny, tmp_path):
    log = tmp_path / "log"
    process = start(tiny, log, 60)
    while not log.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert in_cache() == {".tiny.lock", ".tiny.part"}  # nothing that could be taken for the source
    sources.fetch("tiny")
    assert in_cache() == {".tiny.lock", "tiny"}


def test_two_at_once_download_once(tiny, tmp_path):
    log = tmp_path / "log"
    processes = [start(tiny, log, 3) for _ in range(2)]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert log.read_text() == "download\n"
    assert sum("waiting for it" in s for s in said) == 1
    assert sources.problems("tiny") == []


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to a child on Windows")
def test_ctrl_c_stops_pip_and_leaves_nothing(tiny, tmp_path):
    log = tmp_path / "log"
    process = start(tiny, log, 60)
    while not log.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert in_cache() == {".tiny.lock"}


# ---- the network is cut while the tests run


def test_the_network_is_cut_here():
    with pytest.raises(OSError, match="network cut"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match="network cut"):
        socket.getaddrinfo("example.org", 443)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, pytest.raises(OSError, match="network cut"):
        datagrams.sendto(b"hello", ("192.0.2.1", 53))


def test_the_network_is_cut_in_subprocesses():
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "network cut" in done.stderr


def test_loopback_is_not_cut():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
