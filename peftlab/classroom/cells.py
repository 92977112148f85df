"""What a learner may write into a cell that is more than Python: read and run as IPython does, without a kernel.

`%%time`, `name?`, `files = !ls`, an indented magic and top-level `await` are taken as a notebook takes them. Magics that run
Python (`time`, `capture`, `prun`) run it; all others, and what a shell would do, are passed over.
"""

import ast
import asyncio
import inspect
import linecache

RUN = ("time", "capture", "prun")


def python(source):
    """The cell as IPython's own transformer reads it. A SyntaxError where it is none."""
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(source)


def texts(source):
    """Each piece of Python in a cell: the cell itself, and what its magics hold."""
    try:
        text = python(source)
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = [text]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("run_cell_magic", "run_line_magic"):
            held = [a.value for a in node.args[1:] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            found += [t for each in held if each.strip() != source.strip() for t in texts(each)]
    return found


def can_read(source):
    """Is it something that this Python reads?"""
    try:
        compile(python(source), "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError:
        return False
    except (ValueError, RecursionError, MemoryError):
        return True  # it says so when it is run
    return True


def execute(source, name, namespace):
    """Run a cell in a namespace, as a kernel would; `name` stands for its file in tracebacks."""
    text = python(source)
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    code = compile(text, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, namespace))
    else:
        exec(code, namespace)  # noqa: S102


class Shell:
    """Stands where `get_ipython()` gives a notebook's shell."""

    def __init__(self, namespace):
        self.user_ns, self.count = namespace, 0

    def __getattr__(self, name):
        """Whatever else a shell has: something that can be called, and does nothing."""
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None

    def run_line_magic(self, name, line, *_, **__):
        if name in RUN:
            self._run(line)

    def run_cell_magic(self, name, line, cell):
        from IPython.utils.capture import capture_output

        if name not in RUN:
            return
        with capture_output(name == "capture", name == "capture", False) as kept:
            self._run(cell)
        for word in line.split() if name == "capture" else ():
            if word.isidentifier():
                self.user_ns[word] = kept

    def getoutput(self, *_, **__):
        from IPython.utils.text import SList

        return SList()

    def _run(self, text):
        self.count += 1
        execute(text, f"<magic {self.count}>", self.user_ns)
