"""A claim about a wrong answer: a sentence, and the test that it holds on other evidence than it was found on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product

import torch

TINY = 1e-12


@dataclass(frozen=True)
class Claim:
    """`holds(evidence)`: is what `text` says true of these looks? `kind`: "related" or "behaves"."""

    text: str
    holds: Callable
    kind: str = "related"


def stated(evidence, what, text, test, where=None, kind="related"):
    """The claim that `test(pair)` is true of `what` in every case (of those that `where` picks); None if it is not."""

    def holds(ev):
        pairs = [p for p in ev.pairs(what) if where is None or where(p)]
        return all(test(p) for p in pairs)

    return Claim(text, holds, kind) if holds(evidence) else None


# ---------------------------------------------------------------- numbers in words

SPECIAL = {
    1 / math.log(2): "1 / ln 2 (as if counted in bits)",
    math.log(2): "ln 2 (bits for nats)",
    math.pi: "pi",
    2**0.5: "the root of 2",
    0.5**0.5: "1 / root of 2",
}


def constant(c):
    """A factor in words: "2", "1/3", "ln 2"."""
    for value, word in SPECIAL.items():
        if abs(abs(c) / value - 1) < 1e-6:
            return ("-" if c < 0 else "") + word
    if abs(c - round(c)) < 1e-6 * max(1, abs(c)) and abs(c) < 1e15:
        return f"{round(c):,}"
    for k in range(2, 65):
        if abs(c * k - round(c * k)) < 1e-6 * max(1, abs(c * k)):
            return f"{round(c * k)}/{k}"
    return f"{c:.4g}"


def plain(c):
    """Is this a factor that somebody could have written: a small whole number, a fraction, a well-known one?"""
    return "." not in constant(c) and abs(c) < 1e7


EXPONENTS = {1: (1, -1, 0.5, -0.5, 2, -2, 1.5, -1.5, 3, -3), 2: (1, -1, 0.5, -0.5, 2, -2), 3: (1, -1)}
FRONT = (1, 2, 0.5, 3, 1 / 3, 4, 0.25, 8, 0.125)


@dataclass(frozen=True)
class Product:
    """A number that sizes give: `front` times each name to its power."""

    front: float
    names: tuple
    powers: tuple

    def of(self, table):
        """Its value in a case, nan where a size is not there."""
        return self.front * math.prod(_size(n, table) ** p for n, p in zip(self.names, self.powers))

    def fits(self, value, table, tolerance=1e-5):
        return value is not None and abs(value - (due := self.of(table))) <= tolerance * abs(due)

    def __str__(self):
        above = [_power(n, p) for n, p in zip(self.names, self.powers) if p > 0]
        below = [_power(n, -p) for n, p in zip(self.names, self.powers) if p < 0]
        k = abs(self.front)
        if k > 1:
            above.insert(0, f"{k:g}")
        elif k < 1:
            below.insert(0, f"{1 / k:g}")
        top = " times ".join(above) or "1"
        return f"{top} / {' / '.join(below)}" if below else top


def _size(name, table):
    if name[0] == "(":
        inner, step = name[1:-1].rsplit(" ", 2)[0], 1 if "+" in name else -1
        return table.get(inner, math.nan) + step
    return table.get(name, math.nan)


def formula(values, tables, tolerance=1e-6):
    """The plainest `Product` that is each value in its case (`tables`: the sizes of each), or None.

    None too where the cases are too few to tell: with three sizes free, five different cases must agree.
    """
    if not values or any(v == 0 or not math.isfinite(v) for v in values) or len({v > 0 for v in values}) > 1:
        return None
    target = torch.tensor([math.log(abs(v)) for v in values], dtype=torch.float64)
    logs = _columns(tables)
    distinct = len(
        {(round(float(v), 9), *(round(float(c[i]), 9) for c in logs.values())) for i, v in enumerate(target)}
    )
    spread = len({round(float(v), 9) for v in target})
    if distinct < 3 or spread < 2:
        return None
    for many in (1, 2, 3):
        if distinct < many + 2 or spread < many + (many > 1):
            break
        for group in combinations([n for n in logs if many < 3 or n[0] != "("], many):
            if sum(n[0] == "(" for n in group) > 1:
                continue
            columns = torch.stack([logs[n] for n in group])
            powers = torch.tensor(list(product(EXPONENTS[many], repeat=many)), dtype=torch.float64)
            front = target - powers @ columns
            even = (front - front[:, :1]).abs().amax(1) <= 3 * tolerance
            for i in even.nonzero().flatten().tolist():
                k = next((k for k in FRONT if abs(math.log(k) - float(front[i, 0])) <= 3 * tolerance), None)
                if k is not None and (many == 1 or k in (1, 2, 0.5)):
                    return Product(math.copysign(k, values[0]), group, tuple(powers[i].tolist()))
    return None


def _columns(tables):
    """The logarithms of the sizes that every case has, each once; and of one more and one less."""
    logs = {}
    for n in tables[0]:
        if all(t.get(n, 0) > 0 for t in tables):
            column = torch.tensor([math.log(t[n]) for t in tables], dtype=torch.float64)
            if float(column.abs().max()) > 0 and not any(torch.equal(column, c) for c in logs.values()):
                logs[n] = column
    for n in list(logs):
        if all(float(t[n]) == int(t[n]) and t[n] >= 3 for t in tables):
            for name in (f"({n} - 1)", f"({n} + 1)"):
                logs[name] = torch.tensor([math.log(_size(name, t)) for t in tables], dtype=torch.float64)
    return logs


def _power(name, p):
    if p == 1:
        return name
    if p == 2:
        return f"{name} squared"
    if p == 0.5:
        return f"the root of {name}"
    return f"{name} to the power {p:g}"


def listed(names, join="and"):
    """`a`, `b` and `c`."""
    names = [str(n) for n in names]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {join} {names[-1]}"


def parallel(pair, x=None, y=None):
    """The factor c with x = c y, or None. 0 for an answer of zeros; nan where y is zero and x is too."""
    x, y = pair.x if x is None else x, pair.y if y is None else y
    if x.shape != y.shape or x.numel() == 0 or not torch.isfinite(x).all():
        return None
    square = float((y * y).sum())
    if square < TINY**2:
        return math.nan if float((x * x).sum()) < TINY**2 else None
    c = float((x * y).sum()) / square
    return c if pair.close(x, c * y, max(float(x.abs().max()), abs(c) * float(y.abs().max()), TINY)) else None
