"""PEFTLab in one command. Needs Python 3.11 or newer and nothing else; works on Linux, macOS and Windows.

    python3 tasks.py lab      open the lessons in JupyterLab (options go to JupyterLab: --no-browser, --port 8890)
    python3 tasks.py test     run every check there is (options go to pytest: -k lora, and then only the tests run)
    python3 tasks.py bench    time a step of ours beside the library's
    python3 tasks.py doctor   say what is here, what is missing, and what to do about it
    python3 tasks.py build    make the notebooks from notebooks/source

The first run makes the environment .venv beside this file, in the versions of constraints.txt. Inside a conda
environment called peftlab, that one is used. Whatever interrupts it, running the command again repairs it.
"""

import ast
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
COMMANDS = ("lab", "test", "bench", "doctor", "build")
NEEDED = ("torch", "transformers", "peft", "datasets", "jupyterlab", "nbgrader", "pytest", "peftlab")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")


def main(arguments):
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if arguments else 2
    command, more = arguments[0], arguments[1:]
    if command not in COMMANDS:
        print(f"there is no command {command!r}; the commands are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if sys.version_info < (3, 11):  # noqa: UP036 (whoever starts it may have an older one)
        sys.exit(
            f"PEFTLab needs Python 3.11 or newer, and this is {sys.version.split()[0]} ({sys.executable}). "
            "Install a newer one from python.org or your system's packages and run this with it, "
            "for example: python3.12 tasks.py " + command
        )
    os.chdir(ROOT)
    python = environment()
    return test(python, more) if command == "test" else become([python, "-m", "peftlab", command, *more])


# ---- the environment


def environment():
    """The interpreter of the environment, made or brought up to date when need be."""
    home, conda = ROOT / ".venv", os.environ.get("CONDA_DEFAULT_ENV") == "peftlab"
    if conda:
        home = Path(os.environ["CONDA_PREFIX"])
    python = interpreter(home, conda)
    if not fit(home, python):
        with one_at_a_time(home):
            if not fit(home, python):  # another run may have seen to it while this one waited
                prepare(home, python, conda)
    return str(python)


def interpreter(home, conda=False):
    if os.name == "nt":
        return home / "python.exe" if conda else home / "Scripts" / "python.exe"
    return home / "bin" / "python"


def wanted(home):
    """What the stamp of a complete environment says: it changes with the dependencies and with the place."""
    files = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest() + f"\n{home}\n"


def stamp(home):
    return home / "peftlab-installed"  # written after an install that ended well


def mark(home):
    return home / "peftlab-installing"  # there while an install runs, and after one that was interrupted


def fit(home, python):
    """Whether the environment is complete, up to date and not broken since."""
    try:
        return stamp(home).read_text() == wanted(home) and not mark(home).exists() and runs(python, NEEDED)
    except OSError:
        return False


def runs(python, modules=()):
    """Whether this interpreter starts, is new enough, and would find the modules."""
    ask = "import sys, importlib.util as u; sys.exit(not (sys.version_info >= (3, 11) and all(map(u.find_spec, sys.argv[1:]))))"
    command = [str(python), "-P", "-c", ask, *modules]
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def prepare(home, python, conda):
    moved = stamp(home).is_file() and stamp(home).read_text().splitlines()[1:] != [str(home)]
    broken = stamp(home).is_file() and not runs(python, NEEDED)
    if not conda and home.exists() and (mark(home).exists() or moved or broken or not runs(python)):
        print("The environment .venv is incomplete or broken: making it anew.", flush=True)
        shutil.rmtree(home)
    if not home.exists():
        print("Making the environment .venv (once; some minutes).", flush=True)
        if call([sys.executable, "-m", "venv", str(home)]):
            shutil.rmtree(home, ignore_errors=True)
            sys.exit(
                f"{sys.executable} could not make an environment. On Debian and Ubuntu, `apt-get install python3-venv` "
                "helps; elsewhere, a Python from python.org or conda (environment.yml)."
            )
    mark(home).write_text("an install is running, or was interrupted\n")
    with contextlib.suppress(FileNotFoundError):
        stamp(home).unlink()
    if not install(str(python)):
        sys.exit(
            "The installation failed: the lines above say why. Mostly it is the network, a proxy, or a full disk (some "
            "3 GB are needed, more where pip brings CUDA). Run the same command again: it starts from what is there."
        )
    new = home / "peftlab-installed.new"
    new.write_text(wanted(home))
    os.replace(new, stamp(home))
    mark(home).unlink()


def install(python):
    """Install the project and everything it needs, with uv when possible (seconds), else with pip (minutes)."""
    what = ["-c", "constraints.txt", "-e", ".[all]"]
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    started = time.time()
    done = not call([*pip, "--quiet", "uv"]) and not call(
        [python, "-m", "uv", "pip", "install", "--compile-bytecode", "--python", python, *what], **uv_settings(python)
    )
    if not done:
        print("uv could not do it; trying with pip.", flush=True)
        done = not call([*pip, *what])
    if done:
        print(f"Installed in {time.time() - started:.0f} s.", flush=True)
    return done


def uv_settings(python):
    """pip's own settings (indexes, local folders, certificate), in uv's words: uv does not read them."""
    listing = subprocess.run(
        [python, "-m", "pip", "config", "list"], check=False, capture_output=True, text=True
    ).stdout
    pip = {}
    for line in listing.splitlines():  # such as global.find-links='/srv/wheels'
        key, _, value = line.partition("=")
        with contextlib.suppress(ValueError, SyntaxError):
            pip.setdefault(key.rpartition(".")[2], str(ast.literal_eval(value)))
    words = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "cert": "SSL_CERT_FILE"}
    settings = {uv: " ".join(pip[key].split()) for key, uv in words.items() if pip.get(key)}
    if pip.get("find-links"):
        settings["UV_FIND_LINKS"] = ",".join(pip["find-links"].split())
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        settings["UV_NO_INDEX"] = "1"
    if "UV_INDEX" in settings:
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # all indexes count alike, as for pip
    return {name: value for name, value in settings.items() if name not in os.environ}


@contextlib.contextmanager
def one_at_a_time(home):
    """A lock that two runs of this file cannot hold at once; the system takes it from one that dies."""
    path = ROOT / ".venv.lock"
    with open(path, "a+b") as file:
        if not lock(file):
            print("Another run is preparing the environment: waiting for it.", flush=True)
            while not lock(file):
                time.sleep(0.5)
        yield


def lock(file):
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# ---- the tests


def test(python, more):
    """Everything: ruff, the layers, the tests, and every notebook run again and compared with what is stored."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if call([python, "-m", "peftlab", "fetch"]):
        return 1
    system_parts()
    pytest = [python, "-m", "pytest", "-ra"]
    if more:
        print("With options for pytest, only the tests run: not ruff, not the layers, not the notebooks.", flush=True)
        return call([*pytest, "tests", *more])
    layers = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    failed = [
        name
        for name, command in {
            "ruff check": [python, "-m", "ruff", "check", "."],
            "lint-imports": [python, "-c", layers],
        }.items()
        if call(command)
    ]
    if failed:
        print(f"FAILED: {', '.join(failed)} (see above); going on with the tests.", flush=True)
    notebooks = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "notebooks").glob("*.ipynb"))
    strict = [
        "--nbval",
        "--nbval-current-env",
        "--nbval-cell-timeout=600",
        "--nbval-kernel-startup-timeout=300",
        "--nbval-sanitize-with=tests/nbval-sanitize.cfg",
    ]
    if not notebooks:
        print("There are no notebooks to run yet.", flush=True)
    together = [*pytest, "-m", "not alone", "-n", str(workers()), "--dist", "loadfile", "tests"]
    one_thread = {"OMP_NUM_THREADS": "1", "PEFTLAB_THREADS": "1"}
    status = call([*together, *(notebooks + strict if notebooks else [])], **one_thread)
    if status:
        failed.append(f"the tests that run side by side, with exit status {status}")
    status = call([*pytest, "-m", "alone", "tests"])
    if status:
        failed.append(f"the tests that run alone, with exit status {status}")
    if failed:
        print(f"FAILED: {', '.join(failed)} (see above).", flush=True)
    return bool(failed)


def workers():
    """How many tests run at once: one on each core this may use, and four at most, for each needs 2 GB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 4)


def system_parts():
    """See that there is what some tests need besides Python, where this may install it."""
    missing = {
        "a browser": ("chromium", "fonts-dejavu-core"),
        "bubblewrap": ("bubblewrap",),
        "PostgreSQL": ("postgresql",),
    }
    if any(map(shutil.which, BROWSERS)) or Path("/Applications/Google Chrome.app").exists():
        del missing["a browser"]
    if sys.platform != "linux" or shutil.which("bwrap"):
        del missing["bubblewrap"]
    if sys.platform != "linux" or any(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")):
        del missing["PostgreSQL"]
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if missing and shutil.which("apt-get") and (root or os.environ.get("CI")):
        print(f"Installing {', '.join(missing)} for the tests.", flush=True)
        sudo = [] if root else ["sudo", "-n"]
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        call([*sudo, "apt-get", "-qq", "update"], **quiet)
        for name, packages in list(missing.items()):
            if not call([*sudo, "apt-get", "-qq", "install", "-y", "--no-install-recommends", *packages], **quiet):
                del missing[name]
    for name in missing:
        print(f"THERE IS NO {name.upper()}: the tests that need it cannot run. Install it to run them too.", flush=True)


# ---- running commands


def call(command, **settings):
    """Run to the end, output shown; the exit status."""
    print("+ " + " ".join(Path(c).name if c == command[0] else c for c in command)[:160], flush=True)
    try:
        return subprocess.run(command, check=False, env={**os.environ, **settings}).returncode
    except OSError as error:
        print(error, file=sys.stderr)
        return 127


def become(command):
    """Hand over to the command: signals and the exit status are its own."""
    sys.stdout.flush()
    if os.name != "nt":
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            pass  # the command got it too and decides


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from here.")
