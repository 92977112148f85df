"""`check("lora-forward", lora_forward)`: not attempted, not yet (and which mistake, when that can be told), or correct."""

import dis
import html
import linecache
import re
import sys
import sysconfig
import traceback
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from warnings import catch_warnings, simplefilter

import torch

from . import progress
from .compare import difference
from .exercise import NotAttempted, Question, Unexpected, find

HERE = str(Path(__file__).parent.parent)
NOT_OURS = (HERE, sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"], "<frozen")
CARDS = {"correct": ("✓", "#0072B2"), "not yet": ("✗", "#D55E00"), "not attempted": ("○", "#888888")}


@dataclass
class Result:
    """What a check found: `.state`, the mistake's name in `.slip` (or None), and `.message` in plain words."""

    exercise: str
    state: str
    message: str = ""
    slip: str | None = None

    def __bool__(self):
        return self.state == "correct"

    def grade(self):
        """For grading cells: show the card, and raise AssertionError with the message unless the answer is correct."""
        from IPython.display import display

        display(self)
        if not self:
            raise AssertionError(f"{self.exercise}: {self.state}. {self.message}")

    def __repr__(self):
        mark = CARDS[self.state][0]
        return f"{mark} {self.exercise}: {self.state}." + (f"\n{self.message}" if self.message else "")

    def _repr_html_(self):
        mark, colour = CARDS[self.state]
        text = "".join(f"<p style='margin:.4em 0 0'>{_marked(p)}</p>" for p in self.message.split("\n") if p)
        return (
            f"<div role='status' style='border-left:5px solid {colour};padding:.4em .8em;margin:.3em 0;max-width:46em'>"
            f"<b><span aria-hidden='true'>{mark}</span> {self.state.capitalize()}</b> "
            f"<code>{html.escape(self.exercise)}</code>{text}</div>"
        )


def _marked(text):
    """The little Markdown a message may hold, as HTML: `code` and *stress*."""
    parts = html.escape(text).split("`")
    words = [f"<code>{p}</code>" if i % 2 else re.sub(r"\*(\S[^*]*)\*", r"<em>\1</em>", p) for i, p in enumerate(parts)]
    return "".join(words)


def check(exercise, answer, seed=0):
    """Compare `answer` with what the exercise asks for and say what was seen.

    The result shows itself as a card at the end of a cell, is true only when correct, and `.grade()` raises otherwise.
    The inputs are drawn from `seed`: the same each time unless another is given. In a learner's own copy, seed 0 is noted
    in the record of their progress.
    """
    result = judge(find(exercise), answer, seed)
    if seed == 0 and (trouble := progress.note(result.exercise, result.state, result.slip or "")):
        print(trouble)
    return result


def judge(exercise, answer, seed):
    """The `Result` of comparing `answer` with the exercise's reference on inputs drawn from `seed`."""
    if is_stub(answer):
        return Result(exercise.id, "not attempted", _todo(exercise))
    try:
        seen = observations(exercise, answer, seed)
    except NotAttempted:
        return Result(exercise.id, "not attempted", _todo(exercise))
    return verdict(exercise, seen, seed)


def verdict(exercise, seen, seed):
    """The result for what an answer was observed to do with the inputs drawn from `seed`."""
    expected = _reference(exercise.id, seed)
    wrong = _first_difference(seen, expected)
    if wrong is None:
        return Result(
            exercise.id, "correct", exercise.options[exercise.right][1] if isinstance(exercise, Question) else ""
        )
    slip = name_slip(exercise, seen, seed)
    case, what, gap = wrong
    lines = [slip.message] if slip else []
    if not isinstance(exercise, Question) or not slip:
        lines.append(_report(exercise, seed, case, what, gap, seen, expected))
    return Result(exercise.id, "not yet", "\n".join(lines), slip.name if slip else None)


def _todo(exercise):
    if isinstance(exercise, Question):
        return f"Choose one of {', '.join(exercise.options)} first, before you run anything."
    return f"`{exercise.signature}` is still the empty stub: write it, run its cell, then run this one again."


# ---------------------------------------------------------------- what an answer does


def observations(exercise, answer, seed):
    """[{what: value} per case]; an error inside the answer is observed as {"error": its type, "told": the sentence}."""
    out = []
    with _quietly():
        cases = exercise.draw(seed)
    for i, case in enumerate(cases):
        with _quietly():
            torch.manual_seed(1000 * seed + i)
            try:
                out.append(exercise.look(answer, case))
            except (NotImplementedError, NotAttempted) as e:
                raise NotAttempted from e
            except Unexpected as e:
                out.append({"error": "Unexpected", "told": str(e)})
            except Exception as e:  # noqa: BLE001 - whatever the learner's code raises
                out.append({"error": type(e).__name__, "told": explain(e)})
    return out


@contextmanager
def _quietly():
    """Leave torch's random numbers as they were, and nothing on stderr: nbgrader takes a mere warning for a failure."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), redirect_stderr(sys.stdout), catch_warnings():
        simplefilter("ignore")
        yield


@lru_cache(maxsize=256)
def _reference(id, seed):
    exercise = find(id)
    return observations(exercise, exercise.reference, seed)


@lru_cache(maxsize=1024)
def _slip(id, index, seed):
    exercise = find(id)
    return observations(exercise, exercise.slips[index].answer, seed)


def _first_difference(seen, expected):
    for i, (a, b) in enumerate(zip(seen, expected, strict=True)):
        if "error" in a:
            return i, "error", a["told"]
        for what, value in b.items():
            if what[0] != "_" and (gap := difference(a.get(what), value)):
                return i, what, gap
    return None


def behaves_as(seen, slip):
    """Does one set of observations equal another on all cases (and on one of them without an error)?"""
    for a, b in zip(seen, slip, strict=True):
        if a.get("error") != b.get("error") or set(a) != set(b):
            return False
        if "error" not in a and any(difference(a[what], b[what]) for what in b if what[0] != "_"):
            return False
    return any("error" not in a or a["error"] == "Unexpected" and a["told"] == b["told"] for a, b in zip(seen, slip))


def name_slip(exercise, seen, seed):
    """The slip this answer behaves as, if it behaves as no other (slips that share a message count as one)."""
    same = [s for i, s in enumerate(exercise.slips) if behaves_as(seen, _slip(exercise.id, i, seed))]
    return same[0] if len({s.message for s in same}) == 1 else None


def is_stub(answer):
    """None, `...`, or functions whose body never touches anything: the untouched stub."""
    if answer is None or answer is Ellipsis:
        return True
    if isinstance(answer, (tuple, list)) and answer:
        return all(is_stub(a) for a in answer)
    code = getattr(answer, "__code__", None)
    if code is None or any(c not in (None, ..., answer.__doc__) for c in code.co_consts):
        return False
    return all(i.opname in IDLE for i in dis.get_instructions(code))


IDLE = {
    "RESUME",
    "NOP",
    "LOAD_CONST",
    "RETURN_CONST",
    "RETURN_VALUE",
    "CACHE",
    "COPY_FREE_VARS",
    "MAKE_CELL",
    "POP_TOP",
}


# ---------------------------------------------------------------- in words


def _report(exercise, seed, case, what, gap, seen, expected):
    cases = exercise.draw(seed)
    told = exercise.tell(cases, seen, expected) if exercise.tell and what != "error" else None
    where = f"Seen with {cases[case].label}"
    if what == "error":
        return f"{where}: {gap}"
    good = {
        w: v
        for w, v in expected[case].items()
        if w != what and w[0] != "_" and not (isinstance(v, (bool, list)) and not v)
    }
    right = [w for w, v in good.items() if not difference(seen[case].get(w), v)]
    agree = f" (as expected: {', '.join(right[:4])})" if right else ""
    return "\n".join(([told] if told else []) + [f"{where}: {what}: {gap}{agree}."])


def explain(error):
    """The error in one sentence, with the learner's own line; frames of libraries are left out."""
    text = str(error).strip().split("\n")[0][:300]
    own = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(NOT_OURS)]
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if not own:
        return said
    line = (own[-1].line or linecache.getline(own[-1].filename, own[-1].lineno)).strip()
    return f"line {own[-1].lineno} of your cell, `{line}`, raised {said}"
