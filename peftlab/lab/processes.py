"""Run a function of yours in several processes at once, under `torchrun` with gloo, for so many seconds and no longer.

    def worker(rank, size, text):
        return f"{text} from {rank} of {size}"

    run(worker, size=2, seconds=60, text="greetings")      # ["greetings from 0 of 2", "greetings from 1 of 2"]

A process is a new Python: it gets the source of the function, that of your functions which it uses, its imports, and the
values it names (tensors, numbers, texts and collections of them). When `run` returns, or raises, none of them is left.
"""

import ast
import inspect
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from types import FunctionType, ModuleType

import psutil
import torch

PLAIN = (int, float, str, bool, bytes, type(None), torch.Tensor)
TOLD = 12  # lines of a process's own output in an error
UNDER_WAY = []  # what this process has sent: a tensor that is let go before the other one asks for it never arrives

START = """
import os, sys, threading, time, traceback
import psutil
def _watch(parent, end):
    while os.getppid() == parent and psutil.pid_exists({starter}) and time.time() < end:
        time.sleep(0.2)
    os._exit(1)                                            # whoever started this is gone, or its time is up
threading.Thread(target=_watch, args=(os.getppid(), {end!r}), daemon=True).start()
import torch
import torch.distributed
globals().update(torch.load({folder!r} + "/values.pt", weights_only=False))
"""

END = """
def _main():
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo")
        result = {worker}(rank, size, **_given)
        torch.save(result, {folder!r} + f"/result-{{rank}}.pt")
        torch.distributed.barrier()                        # until here what was sent is kept: see UNDER_WAY
        torch.distributed.destroy_process_group()
    except BaseException as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == __file__ and f.name != "_main"]
        where = "".join(f"\\n  {{f.name}}: {{f.line}}" for f in frames)
        with open({folder!r} + f"/error-{{rank}}.txt", "x") as file:
            file.write(f"{{time.time()}}\\n{{type(error).__name__}}: {{error}}{{where}}")
        raise
_main()
"""


class ProcessError(RuntimeError):
    """A process raised or ended. `rank` is the first that did (None if nobody knows), `told` its error in words."""

    def __init__(self, rank, told, output=""):
        self.rank, self.told = rank, told
        super().__init__(f"{'a process' if rank is None else f'process {rank}'} stopped with {told}{output}")


def run(worker, size=2, seconds=240, **given):
    """[worker(rank, size, **given) in each of `size` processes]; they can talk through `torch.distributed`.

    seconds: after so many all of them are ended, and a TimeoutError says what they had printed.
    given: tensors, numbers, texts, collections of them, and functions.

    Raises ProcessError with a process's own error where one raised; TypeError, before anything is started, for a value that
    can't be taken along.
    """
    functions = {name: value for name, value in given.items() if isinstance(value, FunctionType)}
    sources, values = portable([worker, *functions.values()])
    for name, value in given.items():
        if name not in functions and not _plain(value):
            raise TypeError(
                f"{name} is a {type(value).__name__}, which can't be sent to another process: make it inside {worker.__name__}"
            )
    values["_given"] = {name: value for name, value in given.items() if name not in functions}
    names = "".join(f"_given[{name!r}] = {f.__name__}\n" for name, f in functions.items())
    with tempfile.TemporaryDirectory() as folder:
        torch.save(values, f"{folder}/values.pt")
        script, said = Path(folder, "worker.py"), Path(folder, "output.txt")
        end = time.time() + seconds + 10
        script.write_text(
            START.format(folder=folder, end=end, starter=os.getpid())
            + sources
            + names
            + END.format(folder=folder, worker=worker.__name__),
            encoding="utf-8",
        )
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={size}",
            str(script),
        ]
        with open(said, "w", encoding="utf-8") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=_environment())
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(
                f"after {seconds} seconds {size} processes were not done and were ended: does each make the same calls?{_last(said)}"
            ) from None
        finally:
            end_all(process)
        if errors := [(float(p.read_text().split("\n", 1)[0]), p) for p in Path(folder).glob("error-*.txt")]:
            first = min(errors)[1]  # the others were left alone by it
            raise ProcessError(int(first.stem.split("-")[1]), first.read_text(encoding="utf-8").split("\n", 1)[1])
        if status:
            raise ProcessError(None, f"status {status}", _last(said))
        return [torch.load(f"{folder}/result-{rank}.pt", weights_only=False) for rank in range(size)]


def end_all(process):
    """End a process and all that it started, whatever group or session they are in."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        family = []
    for each in family:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)
    process.wait(10)


def mail():
    """(send, receive, sent) between the processes of this group.

    `send(tensor, to)` puts a tensor on its way to rank `to` and does not wait. `receive(source, like)` waits for the next one from
    rank `source`, of the shape of `like`. `sent` is a list of the bytes of each tensor sent.
    """
    sent = []

    def send(tensor, to):
        tensor = tensor.detach().clone().contiguous()
        sent.append(tensor.numel() * tensor.element_size())
        UNDER_WAY.append((tensor, torch.distributed.isend(tensor, to)))

    def receive(source, like):
        tensor = torch.empty_like(like)
        torch.distributed.recv(tensor, source)
        return tensor

    return send, receive, sent


# ---------------------------------------------------------------- what a process is given


def portable(functions):
    """(the source of these functions, of those they use and of their imports; {name: value} of what else they name)."""
    sources, imports, values, waiting = {}, {}, {}, list(functions)
    while waiting:
        function = waiting.pop()
        if function.__name__ in sources:
            continue
        tree = _tree(function)
        sources[function.__name__] = ast.unparse(tree)
        for name in _names(tree) & set(function.__globals__):
            value = function.__globals__[name]
            if isinstance(value, ModuleType):
                imports[name] = f"import {value.__name__} as {name}"
            elif isinstance(value, FunctionType | type) and value.__module__ not in ("__main__", function.__module__):
                imports[name] = f"from {value.__module__} import {value.__qualname__} as {name}"
            elif isinstance(value, FunctionType):
                waiting.append(value)
            elif _plain(value):
                values[name] = value
            else:
                kind = "class of this page" if isinstance(value, type) else type(value).__name__
                raise TypeError(
                    f"{function.__name__} uses {name}, a {kind}, which can't be sent to another process: make it inside the function"
                )
    return "\n".join([*imports.values(), *reversed(sources.values()), ""]), values


def _tree(function):
    """A function's own definition, without decorators."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError) as error:
        raise TypeError(
            f"there is no source of {function.__name__} to send to another process: define it with `def` in a cell or a file"
        ) from error
    if not isinstance(tree, ast.FunctionDef) or function.__closure__:
        raise TypeError(
            f"{function.__name__} can't be sent to another process: it has to be a `def` of its own, outside of other functions"
        )
    tree.decorator_list = []
    return tree


def _names(tree):
    """The names that a definition takes from outside; those that it binds itself are its own."""
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
    own = {n.id for n in names if not isinstance(n.ctx, ast.Load)} | {
        a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)
    }
    own |= {
        (a.asname or a.name).split(".")[0]
        for n in ast.walk(tree)
        if isinstance(n, ast.Import | ast.ImportFrom)
        for a in n.names
    }
    return {n.id for n in names} - own


def _plain(value):
    if isinstance(value, dict):
        return all(map(_plain, (*value, *value.values())))
    return isinstance(value, PLAIN) or isinstance(value, (list, tuple, set)) and all(map(_plain, value))


def _environment():
    """One thread each; everything stays on this machine."""
    local = {
        "linux": {"GLOO_SOCKET_IFNAME": "lo"},
        "darwin": {"GLOO_SOCKET_IFNAME": "lo0"},
        "win32": {"USE_LIBUV": "0"},
    }
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PEFTLAB_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        **local.get(sys.platform, {}),
    }


def _last(file):
    lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "\n" + "\n".join(lines[-TOLD:]) if lines else ""
