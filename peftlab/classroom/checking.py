"""`check("lora-forward", lora_forward)`: not attempted, not yet (and which mistake, when that can be told), or correct."""

import dis
import html
import re
import sys
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from warnings import catch_warnings, simplefilter

import torch

from . import progress
from .compare import difference
from .credit import SEEDS, earned
from .exercise import NotAttempted, Question, Unexpected, find
from .relations import explain as related
from .relations import raised, together
from .relations.evidence import further, rank

CARDS = {"correct": ("✓", "#0072B2"), "not yet": ("✗", "#D55E00"), "not attempted": ("○", "#888888")}


@dataclass
class Result:
    """What a check found: `.state`, the mistake's name in `.slip` (or None), and `.message` in plain words.

    `.kind` says how a wrong answer was explained: "named" (a known mistake, or two), "related" (by what it has to do with
    the right one), "behaves" (by where or when it is wrong), "raised" (it stopped with an error), "numbers" (not at all:
    what was seen and what was expected). `.points`: of the exercise's own; all, none, or those of the parts that are right.
    """

    exercise: str
    state: str
    message: str = ""
    slip: str | None = None
    kind: str = ""
    points: float = 0

    def __bool__(self):
        return self.state == "correct"

    def grade(self, most=None):
        """For grading cells: show the card. Raises AssertionError with the message for an answer that earns nothing.

        Returns None for a correct one, and for one that is right in part its points, of `most` (default: the exercise's
        own): nbgrader reads a cell's last value as partial credit.
        """
        from IPython.display import display

        display(self)
        if self:
            return None
        if not self.points:
            raise AssertionError(f"{self.exercise}: {self.state}. {self.message}")
        return self.worth(most) if most else self.points

    def worth(self, most):
        """Its points where the exercise is worth `most`."""
        return most if self else round(most * self.points / find(self.exercise).points, 4) if self.points else 0

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
    return verdict(exercise, seen, seed, lambda: further(exercise, answer, seed, seen), lambda: later(exercise, answer, seed))


def verdict(exercise, seen, seed, looks=dict, after=list):
    """The result for what an answer was observed to do with the inputs drawn from `seed`.

    `looks()` gives what was seen on further looks (`relations.further`); it is asked only where no slip explains the answer.
    `after()` gives what was seen on the inputs of the seeds after this one (`later`): without them nothing is right in part.
    """
    wrong = _first_difference(seen, _reference(exercise.id, seed))
    if wrong is None:
        told = exercise.options[exercise.right][1] if isinstance(exercise, Question) else ""
        return Result(exercise.id, "correct", told, points=exercise.points)
    result = _explained(exercise, seen, seed, looks, *wrong)
    if exercise.parts:
        result.points, told = earned(exercise, seed, [seen, *after()])
        result.message += f"\n{told}" * bool(told)
    return result


def _explained(exercise, seen, seed, looks, case, what, gap):
    """The result for a wrong answer, from where it was first seen to be wrong: which mistake it is, if that can be told."""
    expected = _reference(exercise.id, seed)
    if slip := name_slip(exercise, seen, seed):
        lines = [slip.message]
        if not isinstance(exercise, Question):
            lines.append(_report(exercise, seed, case, what, gap, seen, expected))
        return Result(exercise.id, "not yet", "\n".join(lines), slip.name, "named")
    claim = None if isinstance(exercise, Question) else related(exercise, seen, seed, looks())
    told = _own_words(exercise, seed, seen, expected) if what != "error" else None
    if told and claim and claim.kind == "behaves":
        claim = None  # the exercise's own words say more than where it is wrong
    kind = claim.kind if claim else _kind(seen[case]) if what == "error" else "related" if told else "numbers"
    lines = [claim.text] if claim else []
    lines.append(_report(exercise, seed, case, what, gap, seen, expected))
    if claim and what == "error":
        lines.reverse()
    return Result(exercise.id, "not yet", "\n".join(lines), None, kind)


def _kind(seen):
    return "behaves" if seen["error"] == "Unexpected" else "raised"


def _own_words(exercise, seed, seen, expected):
    return exercise.tell(exercise.draw(seed), seen, expected) if exercise.tell else None


def _todo(exercise):
    if isinstance(exercise, Question):
        return f"Choose one of {', '.join(exercise.options)} first, before you run anything."
    if exercise.from_files:
        return f"There is no folder with a proposal yet. Seal one, train, and save what came of it: `{exercise.signature}`."
    return f"`{exercise.signature}` is still the empty stub: write it, run its cell, then run this one again."


# ---------------------------------------------------------------- what an answer does


def observations(exercise, answer, seed, again=0, most=None, only=None):
    """[{what: value} per case]; an error inside the answer is observed as {"error": its type, "told": the sentence}.

    `again`: with other random numbers than the first time. `most`: no more cases than these; `only`: this one.
    """
    out = []
    with _quietly():
        cases = exercise.draw(seed)
    for i, case in enumerate(cases):
        if i == most:
            break
        if only is not None and i != only:
            continue
        with _quietly():
            torch.default_generator.manual_seed(1000 * seed + i + 500_000 * again)  # the processor's alone: ten times as fast
            try:
                out.append(exercise.look(answer, case))
            except (NotImplementedError, NotAttempted) as e:
                raise NotAttempted from e
            except Unexpected as e:
                out.append({"error": "Unexpected", "told": str(e)})
            except Exception as e:  # noqa: BLE001 - whatever the learner's code raises
                out.append({"error": type(e).__name__, "told": raised.explain(e, exercise)})
    return out


def later(exercise, answer, seed):
    """What is seen on the inputs of the seeds after `seed`, for an exercise with parts; nothing for any other."""
    try:
        return [observations(exercise, answer, seed + k) for k in range(1, SEEDS)] if exercise.parts else []
    except NotAttempted:
        return []


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


def _first_difference(seen, expected):
    """(case, what, how it differs): what the answer gives before gradients; an error where it comes before the rest."""
    found = None
    for i, (a, b) in enumerate(zip(seen, expected, strict=True)):
        if "error" in a:
            if found is None:
                return i, "error", a["told"]
            continue
        for order, (what, value) in enumerate(b.items()):
            if what[0] != "_" and (found is None or (rank(what), order) < found[0]) and (gap := difference(a.get(what), value)):
                found = (rank(what), order), (i, what, gap)
    return found and found[1]


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
    same = [s for i, s in enumerate(exercise.slips) if behaves_as(seen, together.slip_does(exercise.id, i, seed))]
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
    told = _own_words(exercise, seed, seen, expected) if what != "error" else None
    where = f"Seen with {cases[case].label}"
    if what == "error":
        return f"{where}: {gap}"
    right = [w for w in expected[case] if w != what and w[0] != "_" and _tells(exercise, w, seen, seed)]
    agree = f" (as expected: {', '.join(right[:4])})" if right else ""
    return "\n".join(([told] if told else []) + [f"{where}: {what}: {gap}{agree}."])


def _tells(exercise, what, seen, seed):
    """Is this right in every case, in one of which a known mistake gets it wrong?"""
    expected = _reference(exercise.id, seed)
    if any(what not in b or difference(a.get(what), b[what]) for a, b in zip(seen, expected)):
        return False
    if all(isinstance(b[what], (bool, list)) and not b[what] for b in expected):
        return False  # "changed in place": nothing
    return any(
        what in a and difference(a[what], b[what])
        for i in range(len(exercise.slips))
        for a, b in zip(together.slip_does(exercise.id, i, seed), expected)
    )
