"""The sandbox: the only process in which a learner's code runs when it is graded. It holds no answer.

Three processes, one inside the other:

- the *warm* one has imported torch and our own code, and waits. It never sees a submission.
- the *watcher*, forked from it for one submission, counts seconds, memory and processes, and ends what goes too far.
- the *runner*, forked from the watcher, gives up what it can: the network, other processes, every file but the libraries'
  and a folder of its own (Linux namespaces and Landlock, where the kernel has them). Then it runs the cells, and writes
  for each exercise what its answer was observed to do, as a frame (`wire`).

The judge starts the warm one, inside bubblewrap where there is one, and believes nothing of what the runner writes.
"""

import ctypes
import json
import linecache
import os
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import types
from pathlib import Path

import torch

from . import checking, landlock, wire
from .exercise import NotAttempted, all_exercises
from .relations import raised
from .relations.evidence import further
from .slicing import slice_cells

DONE, TIME, MEMORY, PROCESSES, STOPPED, DIED = range(6)  # what the watcher ends with
NEW_USER, NEW_PID, NEW_NET, NEW_IPC = 0x10000000, 0x20000000, 0x40000000, 0x08000000
OUTPUT = 16 * 2**20  # bytes a learner's code may print, or write to one file
TOLD = 500  # characters of an error's text


# ---------------------------------------------------------------- the warm process


def main(control, settings):
    """Wait for submissions on the socket `control`; each is two file descriptors: the job to read, the pipe to answer on."""
    torch.set_num_threads(1)
    for exercise in all_exercises():
        exercise.draw(0)
    from .observing import tiny_bert, tiny_llama

    tiny_bert(0), tiny_llama(0)
    _prctl(4, 0)  # PR_SET_DUMPABLE: no other process of this user may look into this one
    control.sendall(json.dumps(_try_out(settings)).encode() + b"\n")
    while True:
        message, handles, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        if (pid := os.fork()) == 0:
            status = DIED
            try:
                status = watch(control, *handles, settings)
            finally:
                os._exit(status)
        for handle in handles:
            os.close(handle)
        control.sendall(bytes([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF]))


def _try_out(settings):
    """Which protections this kernel gives: tried in a process that then ends."""
    if (pid := os.fork()) == 0:
        apart = _apart()
        os._exit((1 if apart else 0) | (2 if landlock.restrict(settings["readable"], []) else 0))
    bits = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"apart": bool(bits & 1), "files": bool(bits & 2), "landlock": landlock.version()}


def _prctl(option, value):
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _apart():
    """The next process forked sees no network and no process but its own. False where the kernel does not allow it."""
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    return unshare(NEW_USER | NEW_PID | NEW_NET | NEW_IPC) == 0


# ---------------------------------------------------------------- the watcher


def watch(control, job, out, settings):
    """Run one submission and end it when it goes too far; what is left of it is gone when this returns."""
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: a process whose parent ended becomes ours, and is found below
    _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not without the warm process
    scratch = tempfile.mkdtemp(prefix="peftlab-")
    _apart()
    if (pid := os.fork()) == 0:
        try:
            control.close()
            shut_in(scratch, settings, keep=(job, out))
            run(job, out, settings["seconds"] / 4)
        finally:
            os._exit(0)
    os.close(out)
    end, inherited = _now() + settings["seconds"], _own_memory(os.getpid())
    status = None
    while status is None:
        told, _, _ = select.select([control], [], [], 0.02)
        family = _offspring(os.getpid())
        if told:
            control.recv(1)
            status = STOPPED  # the judge has read enough, or is gone
        elif _now() > end:
            status = TIME
        elif len(family) > settings["processes"]:
            status = PROCESSES
        elif sum(max(0, _own_memory(p) - inherited) for p in family) > settings["memory"]:
            status = MEMORY
        elif (ended := os.waitpid(pid, os.WNOHANG))[0]:
            pid, status = 0, DIED if os.WIFSIGNALED(ended[1]) else DONE
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
    shutil.rmtree(scratch, ignore_errors=True)
    return status


def _now():
    return os.times().elapsed


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
    """Bytes that only this process holds; zero once it is gone."""
    try:
        _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * resource.getpagesize()


# ---------------------------------------------------------------- the runner


def shut_in(scratch, settings, keep):
    """Nothing open but the job and the answer, a folder of its own to write in, limits, and Landlock."""
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(f"{scratch}/.output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for wanted, handle in enumerate((null, output, output)):
        os.dup2(handle, wanted)
    for handle in map(int, os.listdir("/proc/self/fd")):
        if handle > 2 and handle not in keep:
            try:
                os.close(handle)
            except OSError:
                continue
    os.setsid()
    os.chdir(scratch)
    os.environ.update(HOME=scratch, TMPDIR=scratch)
    tempfile.tempdir = None
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {
        "AS": size + settings["memory"],
        "CPU": int(settings["seconds"]) + 5,
        "FSIZE": OUTPUT,
        "NPROC": _tasks_of_user() + settings["processes"],
        "NOFILE": 256,
        "CORE": 0,
    }
    for name, limit in limits.items():
        which = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(which)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(which, (limit, limit))
    landlock.restrict(settings["readable"], [scratch, os.devnull])


def _tasks_of_user():
    """Threads that this user runs already: the kernel's limit counts them all."""
    count = 0
    for task in Path("/proc").glob("[0-9]*/task"):
        try:
            count += len(os.listdir(task)) if task.stat().st_uid == os.getuid() else 0
        except OSError:
            continue
    return count


def run(job, out, seconds):
    """The cells in their order; after those of an exercise, its answer is observed and a frame written."""
    with os.fdopen(job) as file:
        job = json.load(file)
    module = types.ModuleType("__main__")
    module.display = module.get_ipython = lambda *args, **kwargs: None
    sys.modules["__main__"] = module
    # a check inside a learner's cell says nothing here: there is nothing to compare with
    checking.check = lambda exercise, *args, **kwargs: checking.Result(str(exercise), "not attempted")
    signal.signal(signal.SIGALRM, _too_long)
    failed = ""
    for number, (kind, *rest) in enumerate(slice_cells(job["cells"])):
        signal.setitimer(signal.ITIMER_REAL, seconds, 1)
        try:
            if kind == "check":
                frame = {"exercise": rest[0], **observed(module, *rest, job["seed"], failed)}
            else:
                _execute(module, f"<cell {number}>", rest[-1])
        except BaseException as error:  # noqa: BLE001 - SystemExit is a learner's to raise too
            frame = {"exercise": rest[0], "state": "error", "told": told(error)}
            failed = frame["told"] if kind == "theirs" else failed
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if kind == "check":
            failed = ""
            with open(out, "wb", closefd=False) as pipe:
                pipe.write(wire.pack(frame))


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
    return {"state": "seen", "seen": _sent(seen), "looks": {name: _sent(look) for name, look in looks.items()}}


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


def _execute(module, name, source):
    """Run a cell; lines of IPython's own (`%timeit`, `!pip`) are left out where it is no Python with them."""
    try:
        code = compile(source, name, "exec")
    except SyntaxError:
        lines = ["" if line.startswith(("%", "!")) else line for line in source.split("\n")]
        if source.startswith("%%") or lines == source.split("\n"):
            raise
        code = compile("\n".join(lines), name, "exec")
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(code, module.__dict__)  # noqa: S102 - that is what a sandbox is for


def _too_long(*_):
    raise TimeoutError("it took too long")


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as judge:
        main(judge, json.loads(sys.argv[2]))
