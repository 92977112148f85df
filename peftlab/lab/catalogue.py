"""What there is to say about each method, read off its class and its file: `peftlab methods`, docs/methods.md."""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

from peftlab import methods
from peftlab.adapter import Adapter

NOT_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def every():
    """{name: class} of all methods."""
    found = {name: getattr(methods, name) for name in methods.__all__}
    return {name: m for name, m in sorted(found.items(), key=lambda p: p[0].lower()) if isinstance(m, type)}


def home(method):
    """The text at the head of the file that a method stands in."""
    return " ".join(sys.modules[method.__module__].__doc__.split())


def equation(method):
    return " ".join((method.__doc__ or "").split("\n\n")[0].split()).rstrip(".")


def papers(method):
    """The arXiv ids that the file names, in its order."""
    return list(dict.fromkeys(re.findall(r"\b\d{4}\.\d{5}\b", home(method))))


def parameters(method):
    """The sentence that says how many numbers are trained."""
    text = re.search(r"Trains (.*?)[.;]", f"{' '.join((method.__doc__ or '').split())} {home(method)}")
    return text[1] if text else ""


def lines(path):
    """How many lines of a Python file are code: not blank, not a comment, not a docstring."""
    source = Path(path).read_text(encoding="utf-8")
    words = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            words |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - words)


def lines_here(method):
    return lines(sys.modules[method.__module__].__file__)


def lines_in_peft(method):
    """(lines, folder) of the same method in the installed `peft`, or None if it is not there."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    if method.in_peft.peft_type not in PEFT_TYPE_TO_CONFIG_MAPPING:
        return None
    folder = Path(sys.modules[PEFT_TYPE_TO_CONFIG_MAPPING[method.in_peft.peft_type].__module__].__file__).parent
    return sum(lines(p) for p in folder.rglob("*.py")), folder.name


def place(method):
    """Where it acts."""
    if not issubclass(method, Adapter):
        return "among the tokens"
    if hasattr(method, "attend"):
        return "inside attention"
    sides = [side for side in ("before", "after") if getattr(method, side) is not getattr(Adapter, side)]
    return " and ".join(sides) + " the layer"
