"""What an exercise is: cases, a way to observe an answer, correct solutions, and the wrong answers we know by name.

A new exercise is one `Exercise(...)` and a few small functions under its decorators:

    sharpen = Exercise("sharpen", lesson="00-start-here", title="...", signature="sharpen(x)", why="...", hints=["..."])

    @sharpen.cases                  # fresh inputs from a seed: a list of Case(label, name=value, ...)
    def cases(seed): ...

    @sharpen.observe                # {what: value}: run the answer on one case and write down what can be seen
    def observe(answer, case): ...

    @sharpen.solution               # three or more, written differently; the first is the reference
    def plain(x): ...

    @sharpen.slip("What happens when ...?")       # a known wrong answer, and the question that leads to it
    def forgot_to_sharpen(x): ...

A slip is called by its function's name with hyphens. Values observed may be tensors, numbers, strings, booleans, None,
`Near(value, rel)`, and lists and dicts of them; the answer's are compared with the reference's, in the order given.
A name that begins with `_` is a note for the exercise's own `evidence` and is not compared.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

REGISTRY: dict[str, "Exercise"] = {}


class Case:
    """One set of inputs; `label` says in a few words what is special about it."""

    def __init__(self, label, **inputs):
        self.label, self.__dict__ = label, {"label": label, **inputs}


@dataclass(frozen=True)
class Near:
    """A measured number that may differ by the fraction `rel` (used where an answer draws at random)."""

    value: float
    rel: float


@dataclass(frozen=True)
class Slip:
    name: str
    message: str
    answer: Any


@dataclass(frozen=True)
class Part:
    """A part of an exercise that is worth something by itself.

    `says` is what stands before *right* ("the output is"). `seen`: the observations it is made of, by the beginnings of their
    names (all of them, unless some are named); `cases`: those it is about, (case) -> bool (all). `needs`: the part, by its
    `says`, without which this one is worth nothing.
    """

    says: str
    points: float
    seen: tuple[str, ...] = ("",)
    cases: Callable | None = None
    needs: str = ""


class Unexpected(Exception):
    """The answer gave something that can't be looked at further; the text says what, in a sentence."""


class NotAttempted(Exception):
    """The stub is untouched."""


@dataclass(eq=False)
class Exercise:
    id: str
    lesson: str
    title: str
    signature: str
    why: str = ""
    hints: list[str] = field(default_factory=list)
    points: int = 1
    minutes: int = 5
    difficulty: int = 1  # 1 to 3
    solutions: list = field(default_factory=list)
    slips: list[Slip] = field(default_factory=list)
    tell: Callable | None = None  # (cases, seen, expected) -> a sentence of this exercise's own, or None
    dims: dict[str, str] | None = None  # the names of sizes: {"A": "r d_in", "x": "... d_in"}
    terms: dict[str, Callable] = field(default_factory=dict)  # what is seen -> (case) -> {name: a term of the formula}
    switches: tuple | None = None  # (a parametrised answer, {switch: the slips it can be set to})
    parts: list[Part] = field(default_factory=list)  # none: all of its points or nothing (`credit`)
    from_files: bool = False  # the grader looks at the folder beside the notebook, and runs no cell for it (`capstone`)

    def __post_init__(self):
        if self.id in REGISTRY:
            raise ValueError(f"two exercises are called {self.id!r}")
        REGISTRY[self.id] = self

    @property
    def reference(self):
        return self.solutions[0]

    @property
    def dots(self):
        return "●" * self.difficulty + "○" * (3 - self.difficulty)

    def cases(self, function):
        self.draw = function
        return function

    def observe(self, function):
        self.look = function
        return function

    def solution(self, answer):
        self.solutions.append(answer)
        return answer

    def slip(self, message):
        def keep(answer, name=None):
            self.slips.append(Slip(name or answer.__name__.replace("_", "-"), message, answer))
            return answer

        return keep

    def evidence(self, function):
        self.tell = function
        return function

    def term(self, what):
        """Name the terms of the formula behind one observation: (case) -> {name: tensor or number}."""

        def keep(function):
            self.terms[what] = function
            return function

        return keep

    def switched(self, **switches):
        """An answer with switches, each of which may be set to one of some slips (`bias="no-bias"`).

        The switches are independent choices; those named first are the more fundamental. Two at once are recognised then.
        """

        def keep(answer):
            self.switches = answer, switches
            return answer

        return keep


@dataclass(eq=False)
class Question(Exercise):
    """A choice to make before anything runs: `options` maps a letter to (text, reason), `right` is the letter.

    Each wrong letter is a slip whose message is the option's reason, so questions go through `check` like all else.
    """

    question: str = ""
    options: dict[str, tuple[str, str]] = field(default_factory=dict)
    right: str = ""

    def __post_init__(self):
        super().__post_init__()
        self.solutions = [self.right, self.right.upper(), f" {self.right} "]
        self.slips = [Slip(k, reason, k) for k, (_, reason) in self.options.items() if k != self.right]
        self.draw = lambda seed: [Case("your choice")]
        self.look = self.letter

    def letter(self, answer, case):
        if not isinstance(answer, str) or answer.strip().lower() not in self.options:
            raise Unexpected(f"Answer with one letter in quotes: {', '.join(self.options)}.")
        return {"your choice": answer.strip().lower()}


def all_exercises(lesson=None):
    """Every exercise, in the order of the lessons; or those of one lesson ("03" or "03-lora")."""
    rooms = import_module("peftlab.classroom.exercises")
    for room in sorted(m.name for m in iter_modules(rooms.__path__)):
        import_module(f"{rooms.__name__}.{room}")
    return [e for e in REGISTRY.values() if lesson is None or e.lesson.split("-")[0] == str(lesson).split("-")[0]]


def find(id):
    known = {e.id: e for e in all_exercises()}
    if id not in known:
        raise KeyError(f"no exercise is called {id!r}; there are: {', '.join(known)}")
    return known[id]
