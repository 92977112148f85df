"""Many submissions: killed half-way nothing is lost or done twice; two graders share one PostgreSQL gradebook."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import load
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="learners' code is shut in on Linux only")


WAIT = 900  # seconds: none of these takes a tenth of it on a quiet machine, and one that hangs is noticed all the same


@pytest.fixture(scope="module")
def measured(tmp_path_factory, pytestconfig):
    """The folder of both runs, how many submissions they graded (`--load`), and what was found."""
    folder, count = tmp_path_factory.mktemp("load"), pytestconfig.getoption("--load")
    return folder, count, load.measure(folder, count)


def test_a_class_is_graded_once_though_the_grader_is_killed(measured):
    _, count, found = measured
    assert found["lost"] == found["graded twice"] == found["marks that differ"] == 0, found
    assert count // 2 <= found["graded before the kill"] < count, found
    both = found["graded before the kill"] + found["graded after it"]
    assert count - 1 <= both <= count, found  # one may be written and not yet said
    assert found["different marks"] >= 4, "submissions of seven kinds"


@pytest.fixture
def postgresql():
    """The address of a server of our own, on a socket in a temporary folder, gone afterwards."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not programs:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("NO POSTGRESQL: install it to run two graders on one book")
    bin, own = programs[-1].parent, []
    with tempfile.TemporaryDirectory(prefix="peftlab-pg-") as folder:  # pytest's own are shut to others at any time
        folder = Path(folder)
        if os.geteuid() == 0:  # the server refuses to be root
            own = ["runuser", "-u", "postgres", "--"]
            shutil.chown(folder, "postgres")
        user = "postgres" if own else os.environ["USER"]
        made = [bin / "initdb", "-A", "trust", "--no-locale", "-E", "SQL_ASCII", "-D", folder / "data"]  # the hardest: no locale
        subprocess.run([*own, *made], check=True, capture_output=True, cwd="/")
        server = [*own, bin / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log"]
        subprocess.run([*server, "-o", f"-k {folder} -c listen_addresses=''", "start"], check=True, stdout=subprocess.DEVNULL, cwd="/")
        yield f"postgresql+psycopg2://{user}@/postgres?host={folder}"
        subprocess.run([*server, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")


def test_graders_that_start_at_once_find_one_set_of_tables(postgresql):
    opens = f"from peftlab.classroom.gradebook import Marks; Marks({postgresql!r}).__exit__()"
    started = [subprocess.Popen([sys.executable, "-c", opens]) for _ in range(4)]
    assert [process.wait(WAIT) for process in started] == [0] * 4


def test_two_graders_share_a_postgresql_gradebook(tmp_path, postgresql, measured):
    folder, count, _ = measured
    students = load.hand_in(tmp_path, count)
    command = [sys.executable, "-m", "peftlab", "grade", str(tmp_path / "submitted"), "--db", postgresql, "--seed", "7"]
    both = [
        subprocess.Popen([*command, "--share", f"{n}/2"], cwd=load.REPOSITORY, stdout=subprocess.PIPE, text=True)
        for n in (1, 2)
    ]
    said = [process.communicate(timeout=WAIT)[0] for process in both]
    assert all(process.returncode == 0 for process in both), said
    graded = [[s for s in students if f"{s}, {load.LESSON}: " in text] for text in said]
    assert sorted(graded[0] + graded[1]) == sorted(students) and all(graded), said
    own = load.points(folder / "unbroken")
    assert load.points(tmp_path, postgresql) == own, "a book of one's own has the same marks"
