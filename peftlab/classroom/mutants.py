"""Mechanical wrong answers, to find holes nobody thought of: each reference solution with one small change.

`python -m peftlab.classroom.mutants` writes docs/mutants.md. A mutant that the check accepts either does the same as the
solution for every input (the page lists each, to be read) or shows a hole in the check.
"""

import ast
import inspect
import signal
import textwrap
from collections import Counter
from contextlib import contextmanager
from copy import deepcopy

from . import relations
from .checking import is_stub, observations, verdict
from .exercise import NotAttempted, all_exercises
from .kill_table import KINDS
from .kill_table import PAGE as KILL_TABLE
from .relations.evidence import further

PAGE = KILL_TABLE.with_name("mutants.md")
SEEDS = (0, 1)
SECONDS = 1  # of the processor: a mutant that computes longer has changed what it does, on a busy machine as on a quiet one
SWAPPED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.USub: ast.UAdd,
}


def changes(node):
    """Each small change of one node, as a function that makes it in place."""
    if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPPED:
        yield lambda n: setattr(n, "op", SWAPPED[type(n.op)]())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield lambda n: n.__dict__.update(left=n.right, right=n.left)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        yield lambda n: n.ops.__setitem__(0, SWAPPED[type(n.ops[0])]())
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield lambda n: setattr(n, "value", not n.value)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield lambda n: setattr(n, "value", n.value + 1)
        yield lambda n: setattr(n, "value", 0)
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield lambda n: setattr(n, "attr", "real")  # of real numbers: itself, not turned
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        yield lambda n: n.args.pop()
    if isinstance(node, ast.Call) and node.keywords:
        yield lambda n: n.keywords.pop()
    if isinstance(node, ast.IfExp):
        yield lambda n: n.__dict__.update(body=n.orelse, orelse=n.body)
    for field in () if isinstance(node, ast.Module) else ("body", "orelse"):
        lines = getattr(node, field, None)
        for i in range(len(lines) if isinstance(lines, list) else 0):
            if not isinstance(lines[i], (ast.Return, ast.Pass)) and not _docstring(lines[i]):
                yield lambda n, field=field, i=i: getattr(n, field).__setitem__(
                    i, ast.copy_location(ast.Pass(), getattr(n, field)[i])
                )


def _docstring(statement):
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def mutants(answer):
    """(the changed line, the changed function) for every change of a solution's source that can be made."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(answer)))
    tree.body[0].decorator_list = []
    whole = ast.unparse(tree)
    for at, node in enumerate(ast.walk(tree)):
        for which in range(len(list(changes(node)))):
            changed = deepcopy(tree)
            target = list(ast.walk(changed))[at]
            list(changes(target))[which](target)
            text = ast.unparse(ast.fix_missing_locations(changed))
            if text == whole:
                continue
            scope = dict(vars(inspect.getmodule(answer)))
            exec(compile(text, f"<mutant of {answer.__name__}>", "exec"), scope)  # noqa: S102 - our own solutions
            yield _difference(whole, text), scope[answer.__name__]


def _difference(before, after):
    """The lines that changed, as they are now ("(gone)" for one that was dropped)."""
    pairs = zip(before.split("\n"), after.split("\n"))
    return " / ".join(
        new.strip() if new.strip() != "pass" else f"(gone: {old.strip()})" for old, new in pairs if old != new
    )


class TooLong(BaseException):
    """Not an Exception: whatever looks at an answer's errors must let it through."""


@contextmanager
def limit(seconds):
    """Raise TooLong in the main thread when this computes longer, or waits twenty times as long (there is no such alarm on Windows)."""

    def ring(*_):
        raise TooLong

    alarms = {signal.ITIMER_PROF: (signal.SIGPROF, seconds), signal.ITIMER_REAL: (signal.SIGALRM, 20 * seconds)}
    old = {name: signal.signal(name, ring) for name, _ in alarms.values()}
    for clock, (_, after) in alarms.items():
        signal.setitimer(clock, after)
    try:
        yield
    finally:
        for clock, (name, _) in alarms.items():
            signal.setitimer(clock, 0)
            signal.signal(name, old[name])


def told(exercise, answer):
    """How the check tells that it is wrong (a `Result.kind`, or "hung"); "" where it accepts it on every seed."""
    if is_stub(answer):
        return "not attempted"
    try:
        for seed in SEEDS:
            with limit(SECONDS):
                seen = observations(exercise, answer, seed)
            result = verdict(exercise, seen, seed, lambda: _looks(exercise, answer, seed, seen))  # noqa: B023 - at once
            if not result:
                return result.kind
    except NotAttempted:
        return "not attempted"
    except (TooLong, RecursionError, MemoryError):
        return "hung"
    return ""


def _looks(exercise, answer, seed, seen):
    try:
        with limit(SECONDS):
            return further(exercise, answer, seed, seen)
    except TooLong:
        return {}


def survivors(exercise):
    """(how many mutants of all solutions written as functions, [the changed line of each accepted], how the rest is told)."""
    kinds, left = Counter(), []
    for seed in SEEDS:  # what the first look imports and builds is no mutant's time
        observations(exercise, exercise.reference, seed)
    for answer in exercise.solutions:
        if inspect.isfunction(answer) and answer.__name__ != "<lambda>":
            for line, mutant in mutants(answer):
                kinds[how := told(exercise, mutant)] += 1
                if not how:
                    left.append((answer.__name__, line))
    return kinds.total(), left, kinds


# Why what is accepted may be: read by hand, one sentence an exercise, about the lines the page lists below it.
WHY = {
    "cosine": "The vectors are rows of a matrix, so the last dimension is also dimension 1, the default; and a dot product has no order.",
    "training-bytes": "The two lists are of one length, so `strict` never has anything to say.",
    "count-lora": "The device of a matrix that is only counted does not matter.",
    "count-bottleneck": "The device of a layer that is only counted does not matter.",
    "keep-ranks": "Without `full_matrices=False` more vectors come, and none of them is used.",
    "ranks-for": "These differ only where a sum of ranks equals the share exactly, which rounding decides anyway.",
    "random-like": "A matrix of the default precision, multiplied by a number of the right one.",
    "rank-floor": "Without `full_matrices=False` more vectors come, and none of them is used.",
    "random-subspace": "Every factor has the same sign: still random directions, for each parameter draws the coordinate it listens to.",
    "lora-init": "How widely `A` is spread is left to the learner, within a factor: methods differ in it. A bias of a layer that is thrown away does not matter.",
    "pissa-start": "Without `full_matrices=False` more vectors come, and none of them is used.",
    "pissa-as-lora": "A stack and its factor, put down in another order that says the same: dimension 1 is the last, and two ranks cancel.",
    "prompt-in-front": "Minus a hundred is a whole number already.",
    "prompt-start": "More repetitions than needed, and the rest is cut off.",
    "prefix-attention": "Dimension 1 of a matrix is its last.",
    "prefix-split": "Dimension 1 of a matrix is its last.",
    "gated-prefix": "Dimension 1 of a matrix is its last.",
    "prompt-count": "The device of a tensor that is only counted does not matter.",
    "adapter-start": "How small nearly nothing is, is left to the learner, within a factor; and while one matrix is zero the other may be of any size.",
    "adapter-affine": "Zero divided by the input is zero, as no entry of it is.",
    "adapter-width": "Where nothing fits, what is left is less than one place needs, whether it counts as nothing or as one number.",
    "adapter-slowdown": "A round left out may leave the median where it is, in every case drawn.",
    "freeze": "`True` is the default of both calls; and splitting a name more often leaves its last part the same.",
    "lora-attach": "How widely `A` is spread is left to the learner, within a factor.",
    "lora-merge": "A layer that is asked about two zero vectors gives the same row twice.",
    "backward-transfer": "An answer in single precision is right as well.",
    "train-biases": "`True` is the default of the call; and splitting a name more often, or not at all, leaves what it ends with the same.",
    "ia3-merge": "The library's bias is a vector, and a vector times a diagonal matrix is the same from both sides.",
    "raters-ceiling": "A zero is dealt with before the other line is reached, a quotient has the sign of its product, and whole numbers are exact in either precision.",
    "on-par": "These differ in the precision of the input, or where a mean of zero was dealt with before; `strict` never has anything to say.",
    "apply-adapter": "The layers in the cases are functions without a `weight`, so only one branch is ever taken.",
    "is-affine": "One draw more or less, and limits that differ far below the size of what is curved: what is straight is straight exactly, or nearly.",
    "forgetting-matrix": "A precision is not prescribed for what is measured.",
    "what-was-lost": "0 and 0.0 are one number; and what would replace `nan` is never asked, since the case of nothing known is caught before.",
    "shifted-loss": "Zero as a whole number or not.",
    "retrieval-kept": "The vectors are rows of a matrix: dimension 1 is the default, and `+1`.",
    "task-unknown": "Two adapters that are exactly as sure as each other do not occur; the last dimension of a matrix is dimension 1.",
    "intruder-directions": "No cosine in the cases equals `below`; and a product of two vectors has no order.",
    "winner-at": "No mean is below zero, no two are equal in the cases, and no rate is off by exactly a millionth.",
    "selection-bias": "An index that is kept as a column is not looked at; 0 and 0.0 are one number.",
    "paired-signflip": "No sum lies exactly at the edge of the room that is left for rounding; 0 and 0.0 are one number.",
    "holm": "Every place is filled before it is read; 0 and 0.0 are one number.",
    "pareto": "Single precision tells apart what two digits tell apart.",
    "composite-score": "0 and 0.0 are one number; a second crossing at exactly the largest weight does not occur in the cases.",
    "crowd-ceiling": "A product of zero is dealt with before the comparison is reached.",
    "nf4-levels": "0 and 0.0 are one number, and single precision is enough for quantiles that are divided by the largest.",
    "nf4-quantize": "No weight of the cases lies exactly in the middle between two levels.",
    "nf4-bits": "Without groups every whole number of blocks, one or two, has the same share of maxima.",
    "nf4-error-to-update": "0 and 0.0 are one number.",
    "lora-cut": "Without `full_matrices=False` more vectors come, and none of them is used.",
    "linear-combination": "No weight and no scale in the cases is zero, a quotient has the sign of its product, and to divide by a sign is to multiply by it.",
    "ties-merge": "A place where the sum is zero has no entry left, all updates have one shape, and a quotient has the sign of its product.",
    "dare-drop": "No entry of `u` equals `p` exactly; and zero is zero as a whole number too.",
    "task-router": "All vectors are rows of matrices: dimension 1 is the default, `-1` and `+1`.",
    "round-trip": "In which mode the trained model is left is up to the learner.",
}


def page(found=None):
    """The page as Markdown; found: [(exercise, count, survivors, kinds)]."""
    with relations.unhurried():
        found = found or [(e, *survivors(e)) for e in all_exercises()]
    found = [row for row in found if row[1]]
    made, accepted = sum(n for _, n, *_ in found), sum(len(left) for _, _, left, _ in found)
    kinds = sum((k for *_, k in found), Counter())
    ran = sum(kinds[k] for k in KINDS if k != "raised")
    out = [
        "# Mechanical wrong answers",
        "",
        (
            f"Each correct solution with one small change: an operator swapped, a constant moved, a transpose, an argument or a line dropped. "
            f"{made} such mutants of {len(found)} exercises; {made - accepted} were caught, {made and (made - accepted) / made:.1%}. "
            "The others are below, with the reason why each does the same as a correct answer, or may. Generated by "
            "`python -m peftlab.classroom.mutants`; a test fails when a new one is accepted."
        ),
        "",
        (
            f"Of those caught, {ran} ran without an error; {ran - kinds['numbers']} of these ({(ran - kinds['numbers']) / max(ran, 1):.1%}) "
            "were told more than numbers. *Named*: as a known mistake, or two. *Related*: by what the answer has to do with the right one. "
            "*Behaves*: by where or when it is wrong. *Numbers*: what was seen and what was expected, and nothing else. *Raised*: "
            "it stopped with an error. A test holds the share."
        ),
        "",
        "| exercise | mutants | accepted | told how: " + " | ".join(KINDS) + " | hung or empty |",
        "| --- " * (len(KINDS) + 4) + "|",
    ]
    for exercise, count, left, told_ in found:
        rest = count - len(left) - sum(told_[k] for k in KINDS)
        out.append(f"| {exercise.id} | {count} | {len(left)} | {' | '.join(str(told_[k]) for k in KINDS)} | {rest} |")
    for exercise, count, left, _ in found:
        if left:
            out += [
                "",
                f"## {exercise.id}",
                "",
                f"{count - len(left)} of {count} caught. {WHY.get(exercise.id, '**Not explained.**')}",
                "",
            ]
            out += [f"- in `{name}`: `{line}`" for name, line in left]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print("\n".join(PAGE.read_text(encoding="utf-8").split("\n")[2:5]))
