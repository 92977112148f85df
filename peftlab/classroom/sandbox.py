"""The sandbox: the only process in which a learner's code runs when it is graded. It holds no answer.

Three processes, one inside the other:

- the *warm* one has imported torch and our own code, and waits. It never sees a submission.
- the *watcher*, forked from it for one submission, counts seconds, memory and processes, and ends what goes too far.
- the *runner*, forked from the watcher, gives up what it can: the network, other processes, every file but the libraries'
  and a file system of its own in memory (`namespaces`, `landlock`, `seccomp`). Then it runs the cells, and writes for each
  exercise what its answer was observed to do, as a frame (`wire`).

The judge starts the warm one, inside bubblewrap where there is one, and believes nothing of what the runner writes.
What can go wrong with the machine ends with a status of its own (MACHINE), and is nobody's mark.
"""

import base64
import ctypes
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch

from . import cells, checking, landlock, namespaces, seccomp, wire
from .exercise import NotAttempted, all_exercises
from .proposals import FOLDER
from .relations import raised
from .relations.evidence import further
from .slicing import slice_cells

DONE, TIME, MEMORY, PROCESSES, STOPPED, DIED, MACHINE = range(7)  # what the watcher ends with
OUTPUT = 16 * 2**20  # bytes a learner's code may print, or write to one file
DISK, FILES = 64 * 2**20, 4096  # bytes and files a learner's code may write in all
TOLD = 500  # characters of an error's text
BESIDE = b"f"  # comes with a job that has files
PATIENCE = 10  # a busy machine may take so many times the seconds that a submission has


# ---------------------------------------------------------------- the warm process


def main(control, settings):
    """Wait for submissions on the socket `control`; each is two file descriptors: the job to read, the pipe to answer on."""
    torch.set_num_threads(1)
    for exercise in all_exercises():
        exercise.draw(0)
    from .observing import tiny_bert, tiny_llama

    tiny_bert(0), tiny_llama(0)
    settings["apart"] = _trial(lambda: namespaces.apart(settings["scratch"], DISK, FILES))
    control.sendall(json.dumps(_attempted(settings)).encode() + b"\n")
    while True:
        message, handles, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        if message == BESIDE:  # once, for all that follow: it takes longer than all else that is done with them
            import_module("peftlab.classroom.capstone"), import_module("peft")
        if (pid := os.fork()) == 0:
            status = MACHINE
            try:
                status = watch(control, *handles, settings)
            finally:
                os._exit(status)
        for handle in handles:
            os.close(handle)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        control.sendall(bytes([status if 0 <= status <= MACHINE else MACHINE]))


def _trial(attempt):
    """Does this work, in a process that then ends?"""
    if (pid := os.fork()) == 0:
        try:
            os._exit(0 if attempt() else 1)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _attempted(settings):
    """Which of the `attempts` succeed for a process that was shut in as a submission will be; {"failed": why} if none can be."""
    inward, outward = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            _prctl(4, 0)
            scratch = own_folder(settings)
            if os.fork() == 0:
                try:
                    shut_in(scratch, settings, keep=(outward,))
                    os.write(outward, json.dumps({"open": attempts(settings["probe"])}).encode())
                except BaseException as error:  # noqa: BLE001 - the judge says it
                    os.write(outward, json.dumps({"failed": told(error)}).encode())
                finally:
                    os._exit(0)
            os.wait()
        finally:
            os._exit(0)
    os.close(outward)
    with os.fdopen(inward, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(said or b'{"failed": "nothing can be shut in here"}')


def attempts(probe):
    """{what is shut off: did it work all the same?}, each tried on what the judge put there for it."""
    there = f"{probe['folder']}/file"

    def socket_of(kind, address):
        with socket.socket(kind) as one:
            one.settimeout(2)
            one.connect(address)

    def written():
        with open(f"{probe['folder']}/another", "w") as file:
            file.write("x")

    def bounded():
        if (found := os.statvfs(".")).f_blocks * found.f_frsize <= DISK:
            raise OSError

    tries = {
        "the network": [lambda: socket_of(socket.AF_INET, ("127.0.0.1", probe["port"]))],
        "sockets of other programs": [
            lambda: socket_of(socket.AF_UNIX, f"{probe['folder']}/socket"),
            lambda: socket_of(socket.AF_UNIX, "\0" + probe["abstract"]),
        ],
        "other processes": [
            lambda: os.kill(probe["pid"], 0),
            lambda: open(f"/proc/{probe['pid']}/environ", "rb").close(),
            lambda: os.getpriority(os.PRIO_PROCESS, probe["pid"]) and None or os.setpriority(os.PRIO_PROCESS, probe["pid"], 0),
        ],
        "reading files": [lambda: open(there, "rb").close(), lambda: os.listdir(probe["folder"])],
        "writing files": [
            lambda: open(there, "r+b").close(), written, lambda: os.truncate(there, 1), lambda: os.unlink(there),
        ],
        "modes, times and attributes of files": [
            lambda: os.chmod(there, 0o600), lambda: os.utime(there), lambda: os.setxattr(there, "user.peftlab", b"1"),
        ],
        "disk and memory without bound": [bounded, lambda: os.close(os.memfd_create("probe"))],
    }
    return {what: any(map(_works, ways)) for what, ways in tries.items()}


def _works(attempt):
    try:
        attempt()
    except OSError:
        return False
    return True


def _prctl(option, value):
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


# ---------------------------------------------------------------- the watcher


def own_folder(settings):
    """The folder of one submission; the processes forked from now on are apart, where the kernel allows it."""
    if not settings["apart"]:
        return tempfile.mkdtemp(dir=settings["scratch"])
    if not namespaces.apart(settings["scratch"], DISK, FILES):
        raise OSError("the kernel gives no namespaces any more")
    return settings["scratch"]


def watch(control, job, out, settings):
    """Run one submission and end it when it goes too far; what is left of it is gone when this returns."""
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: a process whose parent ended becomes ours, and is found below
    _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not without the warm process
    _prctl(4, 0)  # PR_SET_DUMPABLE: no other process of this user may look into this one
    scratch = own_folder(settings)
    inherited = _own_memory(os.getpid())
    ready, tell = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            control.close()
            clock = _clock("self")
            shut_in(scratch, settings, keep=(job, out, tell, clock))
            os.write(tell, b"r")
            os.close(tell)
            run(job, out, settings["seconds"] / 4, clock)
        finally:
            os._exit(0)
    os.close(out), os.close(tell)
    start, clock, status = _now(), _clock(pid), None
    while status is None:
        asked, _, _ = select.select([control], [], [], 0.02)
        family = _offspring(os.getpid())
        waited = _waited(clock)
        if asked:
            control.recv(1)
            status = STOPPED  # the judge has read enough, or is gone
        elif _now() - start - waited > settings["seconds"]:
            status = TIME
        elif _now() - start > PATIENCE * settings["seconds"]:
            status = MACHINE
        elif len(family) > settings["processes"]:
            status = PROCESSES
        elif sum(max(0, _own_memory(p) - inherited) for p in family) > settings["memory"]:
            status = MEMORY
        else:
            ended, how, used = os.wait4(pid, os.WNOHANG)
            if ended:
                pid, status = 0, _meant(how, used, settings)
    if pid:
        os.kill(pid, signal.SIGKILL)
    while family := _offspring(os.getpid()):
        for each in family:
            try:
                os.kill(each, signal.SIGKILL)
            except OSError:
                continue
        while _reap():
            continue
    if not os.read(ready, 1):
        return MACHINE  # it ended before a line of the learner's ran
    if not settings["apart"]:
        _remove(scratch)
    return status


def _meant(how, used, settings):
    """What it means that the runner ended so. It is the first process of its own world: nothing in there can kill it."""
    if os.WIFSIGNALED(how) and os.WTERMSIG(how) == signal.SIGKILL:
        if used.ru_utime + used.ru_stime > settings["seconds"]:
            return TIME  # the limit on the processor's seconds
        return MACHINE if settings["apart"] else DIED
    return DIED if os.WIFSIGNALED(how) else DONE


def _remove(folder):
    """Whatever its modes and however deep."""
    subprocess.run(["chmod", "-R", "u+rwX", folder], check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", folder], check=False, stderr=subprocess.DEVNULL)


def _now():
    return os.times().elapsed


def _clock(process):
    """An open file that tells how long a process ran and waited; -1 where this kernel has none."""
    try:
        return os.open(f"/proc/{process}/schedstat", os.O_RDONLY)
    except OSError:
        return -1


def _waited(clock):
    """Seconds that a process was ready to run and the machine had no processor for it; `clock` is its open schedstat."""
    try:
        return int(os.pread(clock, 100, 0).split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0


def _reap():
    try:
        return os.waitpid(-1, os.WNOHANG)[0]
    except ChildProcessError:
        return 0


def _offspring(ancestor):
    """The processes that one started, and those they started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(errors="replace")
        except OSError:
            continue  # gone meanwhile
        parents[int(stat.parent.name)] = int(text[text.rindex(")") + 2 :].split()[1])
    family = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family - {ancestor}


def _own_memory(pid):
    """Bytes that no file stands behind, shared ones too; zero once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem", "VmSwap", "VmPTE")))
    except (OSError, ValueError, IndexError):
        return 0


# ---------------------------------------------------------------- the runner


def shut_in(scratch, settings, keep):
    """Nothing open but `keep`, a folder of its own to write in, limits, and no way out. An OSError where one is refused."""
    os.chdir(scratch)
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(".output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for wanted, handle in enumerate((null, output, output)):
        os.dup2(handle, wanted)
    for handle in map(int, os.listdir("/proc/self/fd")):
        if handle > 2 and handle not in keep:
            try:
                os.close(handle)
            except OSError:
                continue
    os.setsid()
    os.environ.update(HOME=scratch, TMPDIR=scratch)
    tempfile.tempdir = None
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {
        "AS": size + settings["memory"],
        "CPU": int(settings["seconds"]) + 5,
        "FSIZE": OUTPUT,
        "NPROC": _tasks_of_user() + settings["processes"] + 256,  # others of this user start some meanwhile
        "NOFILE": 256,
        "CORE": 0,
    }
    for name, limit in limits.items():
        which = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(which)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(which, (limit, limit))
    restricted = landlock.restrict(settings["readable"], [scratch, os.devnull])
    if landlock.version() and not restricted or settings["apart"] and not namespaces.powerless():
        raise OSError("the kernel does not shut this in any more")
    seccomp.refuse(seccomp.NEVER if settings["apart"] else {**seccomp.NEVER, **seccomp.OTHERWISE})


def _tasks_of_user():
    """Threads that this user runs already: the kernel's limit counts them all."""
    count = 0
    for task in Path("/proc").glob("[0-9]*/task"):
        try:
            count += len(os.listdir(task)) if task.stat().st_uid == os.getuid() else 0
        except OSError:
            continue
    return count


def run(job, out, seconds, clock):
    """The cells in their order; after those of an exercise, its answer is observed and a frame written."""
    with os.fdopen(job) as file:
        job = json.load(file)
    module = types.ModuleType("__main__")
    shell = cells.Shell(module.__dict__)
    module.display, module.get_ipython = lambda *args, **kwargs: None, lambda: shell
    sys.modules["__main__"] = module
    # a check inside a learner's cell says nothing here: there is nothing to compare with
    checking.check = lambda exercise, *args, **kwargs: checking.Result(str(exercise), "not attempted")
    put_down(job.get("files", {}))
    alarm = Alarm(seconds * (3 if "files" in job else 1), clock)
    failed = ""
    for number, (kind, *rest) in enumerate(slice_cells(job["cells"])):
        alarm.set()
        try:
            if kind == "check":
                with _usual_numbers():
                    frame = {"exercise": rest[0], **observed(module, *rest, job["seed"], failed)}
            else:
                cells.execute(rest[-1], f"<cell {number}>", module.__dict__)
        except BaseException as error:  # noqa: BLE001 - SystemExit is a learner's to raise too
            frame = {"exercise": rest[0], "state": "error", "told": told(error)}
            failed = frame["told"] if kind == "theirs" else failed
        finally:
            alarm.off()
        if kind == "check":
            failed = ""
            with open(out, "wb", closefd=False) as pipe:
                pipe.write(wire.pack(frame))


def put_down(files):
    """What was handed in beside the notebook, into a folder of the name it had there."""
    for name, data in files.items():
        Path(FOLDER).mkdir(exist_ok=True)
        Path(FOLDER, name).write_bytes(base64.b64decode(data))


@contextmanager
def _usual_numbers():
    """A cell may have changed the default dtype; the judge's inputs are drawn with the usual one."""
    changed = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(changed)


class Alarm:
    """Ends one step with a TimeoutError after so many seconds, less those in which the machine had no processor for it."""

    def __init__(self, seconds, clock):
        self.seconds, self.clock = seconds, clock
        signal.signal(signal.SIGALRM, self.rings)

    def set(self):
        self.start, self.before = _now(), _waited(self.clock)
        signal.setitimer(signal.ITIMER_REAL, self.seconds, 1)

    def off(self):
        signal.setitimer(signal.ITIMER_REAL, 0)

    def rings(self, *_):
        if _now() - self.start - (_waited(self.clock) - self.before) >= self.seconds:
            raise TimeoutError("it took too long")


def observed(module, exercise, expression, seed, failed):
    """What the answer to one exercise does, as the rest of its frame."""
    try:
        answer = eval(expression, module.__dict__)
    except NameError as error:
        return {"state": "error", "told": failed or told(error)}
    if checking.is_stub(answer):
        return {"state": "error", "told": failed} if failed else {"state": "not attempted"}
    try:
        seen = checking.observations(checking.find(exercise), answer, seed)
    except NotAttempted:
        return {"state": "not attempted"}
    looks = further(checking.find(exercise), answer, seed, seen)  # always: whether it is right is not known here
    after = [_sent(each) for each in checking.later(checking.find(exercise), answer, seed)]
    return {"state": "seen", "seen": _sent(seen), "looks": {name: _sent(look) for name, look in looks.items()}, "later": after}


def _sent(seen):
    return [{k: v for k, v in case.items() if _goes(k, v)} for case in seen]


def _goes(name, value):
    """Notes of an exercise's own (`_...`) may be of any kind: those that can't be written down stay here."""
    try:
        wire.pack({name: value})
    except Exception:  # noqa: BLE001 - whatever its kind does when it is copied
        return name[0] != "_"
    return True


def told(error):
    return raised.explain(error)[:TOLD]


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as judge:
        main(judge, json.loads(sys.argv[2]))
