"""What a wrong answer did, beside what was expected, on the cases of four seeds and on changed inputs.

The *further looks* are made with the answer at hand (in the notebook, or in the grader's sandbox) and hold observations
only; everything that is concluded from them is concluded elsewhere, without the answer.
"""

import os
import re
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from time import process_time
from typing import Any

import torch

from ..compare import TOLERANCE, difference
from ..exercise import Near, NotAttempted, Question, find

SEEDS = 4  # the check's own, and the two that follow
SECONDS = 0.5  # of the processor: further looks that would take longer are left out
LARGEST = 2**18  # numbers in one look
CHANGED = 6  # cases that are tried with changed inputs
TINY = 1e-12


def names_of(exercise):
    """The names of the arguments in `f(x, weight, r)`; none where an answer is no single function."""
    found = re.fullmatch(r"\w+\(([\w, ]+)\)", exercise.signature)
    return [n.strip() for n in found[1].split(",")] if found else []


def asked(answer, names, change):
    """`answer`, called with its arguments changed: `change` maps {name: value} to another."""
    if not callable(answer):
        return answer

    def call(*args, **kwargs):
        given = change({**dict(zip(names, args)), **kwargs})
        return answer(*(given[n] for n in names[: len(args)]), *args[len(names) :], **{k: given[k] for k in kwargs})

    return call


def zero(name):
    """The change that makes one tensor all zeros (and leaves everything else as it is)."""
    return lambda g: {**g, name: torch.zeros_like(g[name])} if _floats(g.get(name)) else {**g}


def double(name):
    """The change that doubles one tensor or number."""
    return lambda g: {**g, name: g[name] * 2} if _floats(g.get(name)) or _is_number(g.get(name)) else {**g}


def _floats(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


CHANGES = {"zero": zero, "double": double}


def further(exercise, answer, seed, seen=()):
    """{name of a look: observations}: other seeds, the same once more, and inputs that are zero or doubled.

    `seen`: what the check itself saw; where that is huge, nothing more is looked at.
    """
    from ..checking import observations

    large = sum(v.numel() for case in seen for v in case.values() if isinstance(v, torch.Tensor))
    if isinstance(exercise, Question) or large > LARGEST:
        return {}
    start, looks = process_time(), {}
    names = names_of(exercise)
    todo = [(f"seed {k}", seed + k, answer, 0, None) for k in range(1, SEEDS)] + [("again", seed, answer, 1, None)]
    todo += [
        (f"{how} {name}", seed, asked(answer, names, change(name)), 0, CHANGED)
        for name in names
        for how, change in CHANGES.items()
    ]
    for look, at, one, shift, most in todo:
        if process_time() - start > SECONDS:
            break
        try:
            with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
                looks[look] = observations(exercise, one, at, shift, most)
        except NotAttempted:
            continue
    return looks


@lru_cache(maxsize=2048)
def expected(id, seed, look=""):
    """What the reference does, on the cases of a seed or on changed inputs."""
    from ..checking import observations

    exercise = find(id)
    if not look or look.startswith("seed"):
        return observations(exercise, exercise.reference, seed + int(look[5:] or 0))
    if look == "again":
        return observations(exercise, exercise.reference, seed, 1)
    how, name = look.split(" ", 1)
    return observations(exercise, asked(exercise.reference, names_of(exercise), CHANGES[how](name)), seed, 0, CHANGED)


@lru_cache(maxsize=512)
def cases_of(id, seed):
    return find(id).draw(seed)


# ---------------------------------------------------------------- pairs


@dataclass
class Pair:
    """One thing that was looked at on one case: `a` was seen, `b` expected; both as they were observed."""

    exercise: Any
    seed: int
    index: int
    what: str
    a: Any
    b: Any

    @cached_property
    def case(self):
        return cases_of(self.exercise.id, self.seed)[self.index]

    @cached_property
    def wrong(self):
        return difference(self.a, self.b) is not None

    @cached_property
    def x(self):
        """What was seen as numbers (float64), or None."""
        return numbers(self.a)

    @cached_property
    def y(self):
        return numbers(self.b)

    @cached_property
    def tolerance(self):
        """How far apart, as a share of the largest expected entry, two numbers may lie and count as one."""
        return max(TOLERANCE.get(self.b.dtype, 1e-9) if isinstance(self.b, torch.Tensor) else 1e-6, 1e-7)

    @cached_property
    def sizes(self):
        return sizes(self.exercise, self.case)

    @property
    def comparable(self):
        """Numbers on both sides, of one shape, none of them nan or infinite."""
        return self.x is not None and self.y is not None and self.x.shape == self.y.shape and self.finite

    @cached_property
    def finite(self):
        return bool(torch.isfinite(self.x).all() and torch.isfinite(self.y).all())

    def close(self, x, y, scale=None):
        """Are two tensors the same up to rounding?"""
        if x.shape != y.shape:
            return False
        if x.numel() == 0:
            return True
        if not torch.isfinite(x).all():
            return False
        scale = max(float(y.abs().max()), TINY) if scale is None else scale
        return float((x - y).abs().max()) <= 3 * self.tolerance * scale


def numbers(value):
    """A tensor of float64 for a tensor, a number, or a list or dict of numbers; None for anything else."""
    if isinstance(value, torch.Tensor):
        return None if value.is_complex() else value.detach().double()
    if isinstance(value, Near):
        return torch.tensor(float(value.value), dtype=torch.float64)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        return torch.tensor(float(value), dtype=torch.float64)
    if isinstance(value, dict) and value and all(_is_number(v) for v in value.values()):
        return torch.tensor([float(v) for v in value.values()], dtype=torch.float64)
    if isinstance(value, list) and value and all(_is_number(v) for v in value):
        return torch.tensor([float(v) for v in value], dtype=torch.float64)
    return None


def inputs(case):
    """{name: value} of all that a case hands to an answer, however the exercise keeps it."""
    out = {}
    for name, value in vars(case).items():
        if name in ("label", "seed"):
            continue
        if name in ("tensors", "sizes") and isinstance(value, dict):
            out.update(value)
        else:
            out[name] = value
    return out


def arguments(exercise, case):
    """`inputs`, with the unnamed ones (`inputs=(768, 8)`) under the names of the signature."""
    out = inputs(case)
    listed = out.pop("inputs", None)
    if isinstance(listed, tuple):
        out.update(zip(names_of(exercise), listed))
    elif listed is not None:
        out["inputs"] = listed
    free, other = [n for n in names_of(exercise) if n not in out], [n for n in out if n not in names_of(exercise)]
    if len(free) == len(other) == 1 and not hasattr(case, "tensors"):  # the case has another name for it
        out[free[0]] = out.pop(other[0])
    return out


def sizes(exercise, case):
    """{"`r`": 4, ...}: the numbers of a case, and the sizes of its tensors by the names that the exercise gives them."""
    found = {}
    given = arguments(exercise, case)
    for name, value in given.items():
        if _is_number(value):
            found[f"`{name}`"] = float(value)
    named = dimensions(exercise, given)
    for name, value in given.items():
        if isinstance(value, torch.Tensor):
            for i, n in enumerate(value.shape):
                found.setdefault(named.get((name, i)) or _place(name, i, value.ndim), float(n))
            if "..." in (exercise.dims or {}).get(name, "") and value.ndim and value.shape[-1]:
                found.setdefault(f"the number of vectors in `{name}`", value.numel() / value.shape[-1])
            if value.ndim > 1:
                found.setdefault(f"the number of entries of `{name}`", float(value.numel()))
        elif isinstance(value, (list, dict)) and value:
            found.setdefault(f"the length of `{name}`", float(len(value)))
    return found


def dimensions(exercise, given):
    """{(tensor, dimension): "`d_in`"} from the exercise's `dims`, e.g. {"A": "r d_in", "x": "... d_in"}."""
    out = {}
    for name, text in (exercise.dims or {}).items():
        value, words = given.get(name), text.split()
        if not isinstance(value, torch.Tensor):
            continue
        back = words[words.index("...") + 1 :] if "..." in words else words
        if len(back) <= value.ndim:
            out.update({(name, value.ndim - len(back) + i): f"`{w}`" for i, w in enumerate(back)})
    return out


def _place(name, i, ndim):
    if ndim == 1:
        return f"the length of `{name}`"
    if ndim == 2:
        return f"the number of {'columns' if i else 'rows'} of `{name}`"
    return f"the last size of `{name}`" if i == ndim - 1 else f"dimension {i} of `{name}`"


# ---------------------------------------------------------------- all of it


@dataclass
class Evidence:
    """All looks at one answer. `runs`: {seed: observations}; `looks`: what `further` saw besides."""

    exercise: Any
    seed: int
    runs: dict
    looks: dict = field(default_factory=dict)

    @classmethod
    def of(cls, exercise, seed, seen, looks):
        runs = {seed: seen}
        for k in range(1, SEEDS):
            other = looks.get(f"seed {k}", ())
            stopped = any("error" in o for o in other) and not any("error" in o for o in seen)
            if len(other) == len(expected(exercise.id, seed + k)) and not stopped:
                runs[seed + k] = other
        return cls(exercise, seed, runs, looks)

    @classmethod
    def made(cls, exercise, answer, seed):
        """With the answer at hand."""
        from ..checking import observations

        return cls.of(
            exercise, seed, seen := observations(exercise, answer, seed), further(exercise, answer, seed, seen)
        )

    def pairs(self, what):
        return self._pairs.get(what, [])

    @cached_property
    def _pairs(self):
        found = {}
        for seed, i, o in self.each:
            found.setdefault("_runs", []).append(Pair(self.exercise, seed, i, "_runs", "error" in o, False))
        for seed, seen in self.runs.items():
            for i, (mine, theirs) in enumerate(zip(seen, expected(self.exercise.id, seed))):
                for what, b in theirs.items():
                    if "error" not in mine and what[0] != "_" and what != "error":
                        found.setdefault(what, []).append(Pair(self.exercise, seed, i, what, mine.get(what), b))
        return found

    @cached_property
    def wrong(self):
        """The things that are wrong in some case, in the order they are to be told: gradients after all else."""
        return sorted((w for w, ps in self._pairs.items() if w[0] != "_" and any(p.wrong for p in ps)), key=rank)

    @property
    def each(self):
        """(seed, case, what was observed)."""
        return [(s, i, o) for s, seen in self.runs.items() for i, o in enumerate(seen)]

    @property
    def errors(self):
        """The same, of the cases that raised."""
        return [e for e in self.each if "error" in e[2]]

    @cached_property
    def looked(self):
        return sum(len(seen) for seen in self.runs.values())


def rank(what):
    """False (first) for what an answer gives, True for the gradients."""
    return what.startswith("gradient of ")
