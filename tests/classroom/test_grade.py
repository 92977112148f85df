"""`peftlab grade`: what is due is given, what is not is not, and no submission disturbs another."""

import ast
import inspect
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import attacks
import pytest
import torch
from attacks import ATTACKS, LESSON

from peftlab.classroom import all_exercises, build, gradebook, grading, judge, keys, sandbox, submissions, wire
from peftlab.classroom.checking import observations, verdict
from peftlab.classroom.exercise import Question
from peftlab.classroom.grading import make_course
from peftlab.classroom.slicing import slice_cells
from peftlab.classroom.stripping import stripped

REPOSITORY = Path(__file__).parents[2]
BUILT = [e for e in all_exercises() if not isinstance(e, Question)]
HONEST = ("000-honest", "050-honest", "999-honest")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="learners' code is shut in on Linux only")


def peftlab(*arguments, **options):
    command = [sys.executable, "-m", "peftlab", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, **options)


def read(course, question, *values):
    with closing(sqlite3.connect(course / "gradebook.db")) as book:
        return book.execute(question, values).fetchall()


def marks(course, lesson):
    """{student: points} as the gradebook has them."""
    return dict(
        read(
            course,
            "select s.student_id, sum(coalesce(g.manual_score, g.auto_score)) from submitted_assignment s "
            "join assignment a on a.id = s.assignment_id join submitted_notebook n on n.assignment_id = s.id "
            "join grade g on g.notebook_id = n.id where a.name = ? group by s.student_id",
            lesson,
        )
    )


def submit(course, student, lesson, data):
    path = course / "submitted" / student / lesson / f"{lesson}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    if data is not None:
        path.write_text(json.dumps(data), encoding="utf-8")
    return path


def released(course, lesson):
    command = [sys.executable, "-m", "nbgrader", "generate_assignment", lesson, "--create"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(command, cwd=course, env={**os.environ, "PATH": path}, capture_output=True, check=True)
    return json.loads((course / "release" / lesson / f"{lesson}.ipynb").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- attacks


@pytest.fixture(scope="module", params=["bare", "bubblewrap"])
def run(request, tmp_path_factory):
    """All attacks graded in one run with three honest submissions: what was reported, and what is in the gradebook."""
    if request.param == "bubblewrap" and not shutil.which("bwrap"):
        skip = pytest.fail if os.environ.get("CI") else pytest.skip
        skip("NO BUBBLEWRAP: install it to run the attacks inside it")
    course = make_course(tmp_path_factory.mktemp("course"), LESSON)
    notebook = released(course, LESSON)
    for student in HONEST:
        submit(course, student, LESSON, attacks.answer(json.loads(json.dumps(notebook)), attacks.RIGHT))
    submit(course, "untouched", LESSON, notebook)
    for name, text in attacks.HONEST.items():
        submit(course, f"500-{name}", LESSON, attacks.answer(json.loads(json.dumps(notebook)), text))
    reached = []
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as local,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as letters,
    ):
        local.bind(str(course / "socket"))
        local.listen()
        letters.bind(str(course / "letters"))
        threading.Thread(target=_read, args=(letters, reached), daemon=True).start()
        for each in (server, local):
            threading.Thread(target=_listen, args=(each, reached), daemon=True).start()
        places = {"repo": REPOSITORY, "course": course, "port": server.getsockname()[1]}
        for number, (name, attack) in enumerate(ATTACKS.items(), 10):
            attack.write(notebook, submit(course, f"{number:03}-{name}", LESSON, None), **places)
        report = course / "report.jsonl"
        bare = ["--bare"] * (request.param == "bare")
        # a terminal that is not UTF-8 stops nothing either
        options = {"timeout": 1500, "env": {**os.environ, "PYTHONIOENCODING": "ascii" if bare else "utf-8"}}
        done = peftlab("grade", course / "submitted", *bare, "--seconds", "10", "--report", report, **options)
    results = {r["student"].split("-", 1)[-1]: r for r in map(json.loads, report.read_text().splitlines())}
    return {"done": done, "results": results, "course": course, "reached": reached, "marks": marks(course, LESSON)}


def _read(letters, reached):
    while True:
        try:
            letters.recv(100)
        except OSError:
            return
        reached.append(True)


def _listen(server, reached):
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return
        reached.append(True)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gains_nothing_and_is_reported(run, name):
    attack, output = ATTACKS[name], run["done"].stdout
    if attack.needs_files and "NOT SHUT OFF" in output.splitlines()[0]:
        pytest.skip("this kernel shuts nothing off without bubblewrap, and the report says so")
    result = run["results"][name]
    state, _, message, (given, most) = result["results"]["cosine"]
    assert (given, most) == (0, 1) and state != "correct", result
    said = " ".join([state, message, *result["notes"]])
    assert any(part in said for part in attack.told.split("|")), said
    student = next(s for s in run["marks"] if s.endswith(f"-{name}"))
    assert run["marks"][student] == 0
    assert re.search(rf"^{student}, {LESSON}: 0 of 1\n  \S", output, re.MULTILINE), "no sentence for the teacher"


def test_the_honest_ones_are_not_disturbed(run):
    assert run["done"].returncode == 0, run["done"].stdout[-2000:] + run["done"].stderr[-2000:]
    assert {s: run["marks"][s] for s in HONEST} == dict.fromkeys(HONEST, 1)
    assert {n: run["marks"][f"500-{n}"] for n in attacks.HONEST} == dict.fromkeys(attacks.HONEST, 1)
    assert run["marks"]["untouched"] == 0 and run["results"]["untouched"]["results"]["cosine"][0] == "not attempted"
    honest = len(HONEST) + len(attacks.HONEST)
    assert sum(run["marks"].values()) == honest and len(run["marks"]) == len(ATTACKS) + honest + 1
    path = run["course"] / "submitted" / "999-honest" / LESSON / f"{LESSON}.ipynb"
    assert path.stat().st_mode & 0o600 == 0o600 and path.stat().st_mtime > 1e9 and "user.x" not in os.listxattr(path)
    assert len(run["done"].stdout.splitlines()) < 10 * len(run["marks"])


def test_no_harm_was_done(run):
    if "NOT SHUT OFF" in run["done"].stdout:
        pytest.skip("this kernel shuts nothing off without bubblewrap, and the report says so")
    assert not run["reached"], "the network was reached"
    assert not (run["course"] / "gotcha").exists()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"86399" not in process.read_bytes(), "a process was left behind"
        except OSError:
            continue


def test_what_is_said_holds_no_escape_and_no_tag(run):
    (comment,) = read(
        run["course"], "select auto_comment from comment where auto_comment like '%script%'"
    )[0]
    for text in (comment, run["done"].stdout):
        assert "\x1b" not in text and "<script" not in text and "](" not in text and "://" not in text
    for text in (run["results"]["forged-links"]["results"]["cosine"][2], run["done"].stdout):
        assert "]: " not in text and "][" not in text and "$" not in text


def test_the_table_of_attacks_is_up_to_date():
    assert attacks.PAGE.read_text(encoding="utf-8") == attacks.page(), "run python tests/classroom/attacks.py"
    assert len(ATTACKS) >= 40


# ---------------------------------------------------------------- what is due


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every lesson's own notebook handed in solved, and one with a slip in each exercise of lesson 03."""
    course = tmp_path_factory.mktemp("whole")
    for lesson in build.lessons():
        solved = json.loads((build.NOTEBOOKS / f"{lesson}.ipynb").read_text(encoding="utf-8"))
        submit(course, "solved", lesson, solved)
    lesson = next(name for name in build.lessons() if name.startswith("03"))
    solved = json.loads((build.NOTEBOOKS / f"{lesson}.ipynb").read_text(encoding="utf-8"))
    for cell in solved["cells"]:
        id = cell["metadata"].get("nbgrader", {}).get("grade_id")
        text = "".join(cell["source"])
        if id == "lora-forward":
            cell["source"] = text.replace("alpha / r", "alpha")
        if id == "lora-init":
            cell["source"] = text + "\nimport os\nlora_forward = None\nraise ValueError('after the definition')"
        if id == "lora-gradients":
            cell["source"] = "%timeit 1\n!ls\n" + text + "\ncheck('lora-gradients', lora_gradients)"
    submit(course, "one-slip", lesson, solved)
    done = peftlab("grade", course / "submitted", timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return course, lesson, done.stdout


def test_a_solved_lesson_gets_all_its_points(whole):
    course, _, output = whole
    for lesson in build.lessons():
        of_cells = [e for e in all_exercises(lesson) if not isinstance(e, Question) and not e.from_files]  # no folder is handed in here
        assert marks(course, lesson)["solved"] == sum(e.points for e in of_cells), output


def test_one_slip_costs_its_own_points_and_is_named_in_the_gradebook(whole):
    course, lesson, output = whole
    points = {e.id: e.points for e in all_exercises(lesson)}
    assert marks(course, lesson)["one-slip"] == sum(points.values()) - points["lora-forward"], output
    found = read(
        course,
        "select c.auto_comment from comment c join base_cell b on b.id = c.cell_id join submitted_notebook n "
        "on n.id = c.notebook_id join submitted_assignment s on s.id = n.assignment_id "
        "where b.name = 'lora-forward' and s.student_id = 'one-slip'",
    )
    assert found[0][0].startswith("not yet. Something is added, but its size does not know about the rank.")


# ---------------------------------------------------------------- stopped and started again


def test_a_killed_run_goes_on_and_grades_nothing_twice(tmp_path):
    solved = json.loads((build.NOTEBOOKS / f"{LESSON}.ipynb").read_text(encoding="utf-8"))
    students = [f"student-{i}" for i in range(8)]
    for student in students:
        submit(tmp_path, student, LESSON, solved)
    command = [sys.executable, "-m", "peftlab", "grade", str(tmp_path / "submitted")]
    first = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    seen = [line for line in (first.stdout.readline() for _ in range(4)) if "1 of 1" in line]
    first.send_signal(signal.SIGKILL)
    first.wait()
    seen += [line for line in first.stdout if "1 of 1" in line]
    second = peftlab("grade", tmp_path / "submitted", timeout=200)
    again = [line for line in second.stdout.splitlines() if "1 of 1" in line]
    assert 3 <= len(seen) < 8
    assert len(students) <= len(seen) + len(again) <= len(students) + 1  # one may have been written and not yet said
    assert marks(tmp_path, LESSON) == dict.fromkeys(students, 1)
    assert read(tmp_path, "select count(*) from grade where auto_score > 0") == [(8,)]

    # a mark a teacher gave by hand stays; what was handed in anew is graded anew, and nothing else
    with closing(sqlite3.connect(tmp_path / "gradebook.db")) as book:
        book.execute("update grade set manual_score = 0.5 where auto_score > 0")
        book.commit()
    submit(tmp_path, students[0], LESSON, {**solved, "metadata": {}})
    third = peftlab("grade", tmp_path / "submitted", "--share", "1/1", timeout=200)
    assert "1 graded; 7 were graded before" in third.stdout, third.stdout
    assert set(marks(tmp_path, LESSON).values()) == {0.5}


def test_graders_who_share_the_work_leave_nothing_out(tmp_path):
    solved = json.loads((build.NOTEBOOKS / f"{LESSON}.ipynb").read_text(encoding="utf-8"))
    students = [f"student-{i}" for i in range(6)]
    for student in students:
        submit(tmp_path, student, LESSON, solved)
    command = [sys.executable, "-m", "peftlab", "grade", str(tmp_path / "submitted"), "--share"]
    both = [subprocess.Popen([*command, f"{n}/2"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for n in (1, 2)]
    said = [process.communicate(timeout=200)[0] for process in both]
    assert sum(text.count("1 of 1") for text in said) == 6, said
    assert marks(tmp_path, LESSON) == dict.fromkeys(students, 1)


def test_a_folder_whose_name_is_no_name_is_reported(tmp_path):
    (tmp_path / "submitted" / "a\x1b[31mb" / LESSON).mkdir(parents=True)
    done = peftlab("grade", tmp_path / "submitted", timeout=100)
    assert done.returncode == 1 and "1 could not be" in done.stdout
    assert "'a\\x1b[31mb': NOT GRADED" in done.stdout and "\x1b" not in done.stdout


def test_what_a_killed_grader_left_behind_goes_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, own, other = (tmp_path / f"peftlab-grade-{n}" for n in ("999999999-x", f"{os.getpid()}-y", "somebody's"))
    for folder in (left, own, other):
        folder.mkdir()
        (folder / "data").symlink_to(REPOSITORY / "data")
    judge.sweep()
    assert not left.exists() and own.exists() and other.exists() and (REPOSITORY / "data").exists()


# ---------------------------------------------------------------- the parts


@pytest.mark.parametrize("module", sorted((REPOSITORY / "peftlab/classroom/exercises").glob("lesson*.py")), ids=lambda p: p.stem)
def test_what_the_sandbox_holds_has_no_answer_in_it(module):
    text = module.read_text(encoding="utf-8")
    left = stripped(text)
    kept = {n.name for n in ast.walk(ast.parse(left)) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    lesson = module.stem.removeprefix("lesson")
    for exercise in all_exercises(lesson):
        answers = [*exercise.solutions, *(s.answer for s in exercise.slips)]
        parts = [p for a in answers for p in (a if isinstance(a, tuple) else (a,))]
        names = {p.__name__ for p in parts if inspect.isfunction(p) and p.__name__ != "<lambda>"}
        assert not names & kept, "a solution or a slip is still there"
        assert not any(s.message in left for s in exercise.slips) and not any(h in left for h in exercise.hints)
        assert isinstance(exercise, Question) or exercise.id in left
    place = {"__name__": "peftlab.classroom.exercises.stripped", "__package__": "peftlab.classroom.exercises"}
    exec(left.replace("Exercise('", "Exercise('stripped-"), place)  # noqa: S102 - it is ours


@pytest.fixture(autouse=True)
def same_registry():
    from peftlab.classroom.exercise import REGISTRY

    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


@pytest.mark.parametrize("exercise", BUILT, ids=lambda e: e.id)
def test_an_observation_survives_the_way_to_the_judge(exercise):
    seen = [
        {k: v for k, v in case.items() if k[0] != "_"} for case in observations(exercise, exercise.solutions[1], 77)
    ]
    (frame,) = wire.unpack(wire.pack({"exercise": exercise.id, "seen": seen}))
    assert verdict(exercise, frame["seen"], 77)


def test_frames_are_plain_and_bounded():
    class Sly(torch.Tensor):
        pass

    frame = {"a": torch.ones(2).as_subclass(Sly), "b": [1, (2.5, None), {"c": True}], "d": {1, 2}, "e": torch.float32}
    data = wire.pack(frame)
    (back,) = wire.unpack(data + data[:-1])  # the second is not whole
    assert type(back["a"]) is torch.Tensor and back["b"] == frame["b"] and back["d"] == {1, 2}
    assert back["e"] == "torch.float32"
    with pytest.raises(ValueError, match="can't be read"):
        list(wire.unpack(bytes([0, 0, 0, 1, 0, 0, 0, 0]) + b"{"))


def test_only_what_is_used_of_ours_is_run():
    cells = [
        ["ours", "import os, json\nwidth = 3\nmodel = train()"],
        ["theirs", "f", "def f(x):\n    return json.dumps(x * width)"],
        ["ours", "losses = [f(x) for x in range(3)]"],
        ["check", "an-exercise", "(f, g)"],
        ["ours", "def g(): return losses"],
    ]
    assert slice_cells(cells) == [["ours", "import os, json\nwidth = 3"], cells[1], cells[3]]


# ---------------------------------------------------------------- what the first line says


def test_what_the_first_line_says_is_shut_was_tried(tmp_path):
    """Each thing it names is tried here once more, without a wall: then it works."""
    for bare in (True, False)[: 1 + bool(shutil.which("bwrap"))]:
        with judge.Sandbox(bare=bare) as made:
            assert made.open == [] and "NOT SHUT OFF" not in made.describe()
            assert all(what in made.describe() for what in made.found["open"])
            unwalled = sandbox.attempts({**made.probe.tells, "pid": os.getppid()})
            assert all(unwalled.values()) and set(unwalled) == set(made.found["open"]), unwalled


WITHOUT = """
import sys
from peftlab.classroom import seccomp
assert seccomp.refuse({what!r})
from peftlab.cli import main
sys.exit(main(["grade", *sys.argv[1:]]))
"""


def test_bare_refuses_what_the_kernel_leaves_open_unless_told_twice(tmp_path):
    solved = json.loads((build.NOTEBOOKS / f"{LESSON}.ipynb").read_text(encoding="utf-8"))
    submit(tmp_path, "solved", LESSON, solved)
    missing = {"unshare": (272, 97), "landlock_create_ruleset": (444, 444)}
    command = [sys.executable, "-c", WITHOUT.format(what=missing), str(tmp_path / "submitted"), "--bare"]
    opened = ("reading files", "writing files", "disk and memory without bound")
    once = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)
    assert once.returncode == 1 and "Traceback" not in once.stderr and not once.stdout, once.stderr
    assert "peftlab grade: a submission could reach " in once.stderr and all(what in once.stderr for what in opened)
    assert not (tmp_path / "gradebook.db").exists()
    twice = subprocess.run([*command, "--bare"], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)
    first = twice.stdout.splitlines()[0]
    assert all(what in first.split("NOT SHUT OFF")[1] for what in opened), first
    assert marks(tmp_path, LESSON) == {"solved": 1}


# ---------------------------------------------------------------- the machine's faults are nobody's mark


def test_what_the_machine_ends_is_tried_again_and_else_not_recorded(tmp_path):
    solved = json.loads((build.NOTEBOOKS / f"{LESSON}.ipynb").read_text(encoding="utf-8"))
    path = submit(tmp_path, "solved", LESSON, attacks.answer(solved, attacks.RIGHT + "\nimport time\ntime.sleep(1)\n"))
    lesson = submissions.lesson_named(LESSON)
    with judge.Sandbox(bare=True) as made:
        os.kill(made.process.pid, signal.SIGKILL)  # the warm process, from outside
        assert judge.grade(path, "solved", lesson, made, 5).total == (1, 1)
        stop = threading.Event()

        def kill_runners():
            while not stop.wait(0.05):
                for watcher in sandbox._offspring(made.process.pid) - {made.process.pid}:
                    if sandbox._offspring(watcher):
                        for runner in sandbox._offspring(watcher):
                            os.kill(runner, signal.SIGKILL)

        killer = threading.Thread(target=kill_runners)
        killer.start()
        try:
            with pytest.raises(judge.MachineTrouble, match="this machine ended it"):
                judge.grade(path, "solved", lesson, made, 5)
        finally:
            stop.set()
            killer.join()
        assert judge.grade(path, "solved", lesson, made, 5).total == (1, 1)


def test_a_cell_of_a_newer_python_is_not_marked_by_an_older_one():
    notebook = {"cells": [], "metadata": {"language_info": {"name": "python", "version": "3.99.1"}}}
    with pytest.raises(judge.MachineTrouble, match=r"cell cosine can't be read by Python 3.*written with 3\.99"):
        judge._newer_syntax(json.dumps(notebook).encode(), {"cosine": "x = new syntax"})
    judge._newer_syntax(json.dumps(notebook).encode(), {"cosine": "%%time\nx = 1"})
    notebook["metadata"]["language_info"]["version"] = "3.8.0"
    judge._newer_syntax(json.dumps(notebook).encode(), {"cosine": "x = no syntax"})


def test_a_notebook_that_this_machine_cannot_read_is_nobodys_fault(tmp_path, monkeypatch):
    path = submit(tmp_path, "one", LESSON, {})

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(submissions.os, "open", refused)
    with pytest.raises(submissions.NotReadHere, match="Permission denied"):
        submissions.read(path)


def test_a_disk_without_room_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "submitted").mkdir()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(judge.tempfile, "mkdtemp", full)
    with pytest.raises(SystemExit, match=r"peftlab grade: .*No space left on device.*Nothing more was graded"):
        grading.grade([str(tmp_path / "submitted"), "--bare"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seconds", "nan"], "is no time"),
        (["--seconds", "-1"], "is no time"),
        (["--share", "3/2"], "is no share"),
        (["--share", "0/2"], "is no share"),
        (["00-start"], "no lesson is called 00-start"),
        (["--exercise", "cosin"], "no exercise with points is called 'cosin'"),
    ],
)
def test_an_option_that_means_nothing_is_refused(tmp_path, options, said, capsys):
    with pytest.raises(SystemExit) as end:
        grading.grade([str(tmp_path), *options])
    assert end.value.code and said in f"{end.value.code} {capsys.readouterr().err}"


def test_what_lies_in_a_wrong_place_is_named(tmp_path):
    for place in ("ada/00-Start-Here/00-start-here.ipynb", "bo/00-start-here.ipynb", "00-start-here.ipynb", "cy/week-1/x.ipynb"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (tmp_path / "dy").symlink_to(tmp_path / "ada")
    (tmp_path / "ada" / ("x" * 252)).mkdir()
    (tmp_path / "ada" / "00-start-here").mkdir()
    found, passed = submissions.all_submissions(tmp_path)
    assert [(s, n) for s, n, _ in found] == [("ada", "00-start-here")]
    told = dict(passed)
    assert told["ada/00-Start-Here"] == "name the folder 00-start-here."
    assert told["bo/00-start-here.ipynb"] == "a submission's place is bo/00-start-here/00-start-here.ipynb."
    assert told["00-start-here.ipynb"].startswith("a submission's place is STUDENT/")
    assert "no lesson is called so" in told["cy/week-1"] and "link" in told["dy"]


def test_only_what_python_and_the_lessons_need_can_be_read():
    from peftlab.lab import sources

    paths = [Path(p) for p in judge._readable(tempfile.gettempdir())]
    for shut in (Path("/usr/local/share/nbgrader/exchange"), Path("/usr/share"), Path("/etc"), Path("/home"), sources.cache_dir()):
        assert not any(p == shut or p in shut.parents for p in paths), shut


def test_a_mended_check_makes_its_own_marks_due_and_no_others(monkeypatch):
    lesson = submissions.lesson_named("03-lora")
    before = keys.keys(lesson)
    text = Path(sys.modules[judge.find("freeze").draw.__module__].__file__).read_text(encoding="utf-8")
    module = ast.parse(text)
    (look,) = [s for s in module.body if isinstance(s, ast.FunctionDef) and any("freeze.observe" in ast.unparse(d) for d in s.decorator_list)]
    mended = text.replace(ast.get_source_segment(text, look), ast.get_source_segment(text, look) + "\n    # a comment\n")
    for changed, due in ((mended, set()), (text.replace(f"def {look.name}(", f"def {look.name}(*, "), {"freeze"})):
        monkeypatch.setattr(keys.Path, "read_text", lambda self, changed=changed, **_: changed)
        keys.definition.cache_clear()
        after = keys.keys(lesson)
        assert {e for e in after if after[e] != before[e]} == due
    keys.definition.cache_clear()


def test_a_course_in_a_folder_with_an_odd_name_has_its_gradebook_inside(tmp_path):
    course = tmp_path / "what? (1)"
    (course / "submitted").mkdir(parents=True)
    with gradebook.Marks(gradebook.default_url(course / "submitted")):
        pass
    assert (course / "gradebook.db").stat().st_mode & 0o077 == 0
    assert [p.name for p in tmp_path.iterdir()] == ["what? (1)"]
    with pytest.raises(ValueError, match="nbgrader can't keep its gradebook"):
        make_course(course)


def test_a_bubblewrap_that_the_system_refuses_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "submitted").mkdir()
    refuses = tmp_path / "bwrap"
    refuses.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    refuses.chmod(0o755)
    monkeypatch.setattr(judge.shutil, "which", lambda name: str(refuses))
    said = r"peftlab grade: the sandbox did not start in bubblewrap: bwrap: setting up uid map: Permission denied; `--bare` does"
    with pytest.raises(SystemExit, match=said):
        grading.grade([str(tmp_path / "submitted")])


def test_a_folder_that_cannot_be_read_stops_no_other(tmp_path, monkeypatch):
    for student in ("ada", "bo"):
        (tmp_path / student / LESSON).mkdir(parents=True)
    listed = Path.iterdir

    def iterdir(self):
        if self.name == "ada":
            raise PermissionError(13, "Permission denied")
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found, passed = submissions.all_submissions(tmp_path)
    assert [s for s, _, _ in found] == ["bo"] and passed == [("ada", "its folder can't be read: Permission denied.")]


def test_a_gradebook_that_is_locked_is_waited_for(tmp_path):
    url = gradebook.default_url(tmp_path / "submitted")
    with gradebook.Marks(url):
        pass
    held = sqlite3.connect(tmp_path / "gradebook.db", check_same_thread=False)
    held.execute("BEGIN EXCLUSIVE")
    threading.Timer(7, held.rollback).start()  # longer than the 5 seconds that SQLite's driver waits by itself
    with gradebook.Marks(url) as marks_:
        marks_.book.update_or_create_student("ada")
