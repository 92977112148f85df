"""Which cases are wrong, and what these have in common that the others do not."""

from itertools import combinations

import torch

from .claim import Claim
from .evidence import _is_number, arguments

ELSEWHERE = "everywhere else than "


def split(ev, what):
    """(where it is wrong, in words; the test) for something right in some cases and wrong in others; else None."""
    pairs = ev.pairs(what)
    bad, good = [p for p in pairs if p.wrong], [p for p in pairs if not p.wrong]
    if not bad or not good:
        return None
    for words, test in _conditions(pairs):
        says = [test(p) for p in pairs]
        if all(s == p.wrong for s, p in zip(says, pairs)):
            return words, test
    places = {s: {p.index for p in bad if p.seed == s} for s in ev.runs}
    first = places[ev.seed]
    if len(ev.runs) > 1 and all(v == first for v in places.values()) and len(first) <= 3:
        labels = [p.case.label for p in bad if p.seed == ev.seed]
        return f"with {'; with '.join(labels)}", lambda p: p.index in first
    if len(ev.runs) > 1 and all(v == first for v in places.values()) and len(pairs) / len(ev.runs) - len(first) <= 2:
        labels = [p.case.label for p in good if p.seed == ev.seed]
        return f"{ELSEWHERE}with {'; with '.join(labels)}", lambda p: p.index in first
    return None


def claim(ev, what, words, test, text, kind="behaves"):
    """The claim that no other cases than these are wrong; None if it does not hold."""

    def holds(e):
        return all(test(p) or not p.wrong for p in e.pairs(what))

    return Claim(text, holds, kind) if holds(ev) else None


def _conditions(pairs):
    """(words, test of a pair): what can be said of a case, the plainest first."""
    tables = [arguments(p.exercise, p.case) for p in pairs]
    names = [n for n in dict.fromkeys(n for t in tables for n in t)]
    for n in names:
        values = [t.get(n) for t in tables]
        if any(v is None for v in values) and any(v is not None for v in values):
            yield f"where `{n}` is None", _given(n, lambda v: v is None)
            yield f"where `{n}` is not None", _given(n, lambda v: v is not None)
        if all(isinstance(v, (bool, str)) for v in values):
            shown = {v: repr(v).replace("'", '"') for v in dict.fromkeys(values)}
            for value, text in shown.items():
                yield f"where `{n} = {text}`", _given(n, lambda v, w=value: v == w)
            for value, text in shown.items():
                yield f"where `{n}` is not {text}", _given(n, lambda v, w=value: v != w)
    for n in names:
        values = [t.get(n) for t in tables]
        if all(_is_number(v) for v in values):
            for words, f in NUMBERS:
                yield f"where `{n}` {words}", _given(n, f)
            if min(sum(v % 2 == k for v in set(values)) for k in (0, 1)) >= MANY:
                yield f"where `{n}` is odd", _given(n, lambda v: v % 2 == 1)
                yield f"where `{n}` is even", _given(n, lambda v: v % 2 == 0)
        elif all(isinstance(v, torch.Tensor) for v in values):
            for words, f in TENSORS:
                yield f"where `{n}` {words}", _given(n, f)
        elif all(isinstance(v, (list, tuple, dict)) for v in values):
            for words, f in LISTS:
                yield f"where `{n}` {words}", _given(n, f)
        words = {w for v in values if isinstance(v, (list, tuple, set, frozenset)) for w in v if isinstance(w, str)}
        for w in sorted(words):
            yield f'where "{w}" is in `{n}`', _given(n, lambda v, w=w: v is not None and w in v)
            yield f'where "{w}" is not in `{n}`', _given(n, lambda v, w=w: v is not None and w not in v)
    for one, other in combinations(names, 2):
        if all(_is_number(t.get(one)) and _is_number(t.get(other)) for t in tables):
            for word, f in (
                ("equal to", lambda a, b: a == b),
                ("larger than", lambda a, b: a > b),
                ("smaller than", lambda a, b: a < b),
            ):
                yield f"where `{one}` is {word} `{other}`", _both(one, other, f)
            yield f"where `{one}` is not equal to `{other}`", _both(one, other, lambda a, b: a != b)


def _given(name, f):
    return lambda p: bool(f(arguments(p.exercise, p.case).get(name)))


def _both(one, other, f):
    def test(p):
        table = arguments(p.exercise, p.case)
        return _is_number(table.get(one)) and _is_number(table.get(other)) and f(table[one], table[other])

    return test


MANY = 4  # odd numbers, and even ones, before it may be said that this makes the difference
NUMBERS = [
    ("is 0", lambda v: v == 0),
    ("is not 0", lambda v: v != 0),
    ("is 1", lambda v: v == 1),
    ("is more than 1", lambda v: _is_number(v) and v > 1),
    ("is below 0", lambda v: _is_number(v) and v < 0),
    ("is a whole number", lambda v: isinstance(v, int)),
]
TENSORS = [
    ("has one dimension", lambda v: isinstance(v, torch.Tensor) and v.ndim == 1),
    ("has two dimensions", lambda v: isinstance(v, torch.Tensor) and v.ndim == 2),
    ("has more than one dimension", lambda v: isinstance(v, torch.Tensor) and v.ndim > 1),
    ("has three dimensions or more", lambda v: isinstance(v, torch.Tensor) and v.ndim > 2),
    ("is a single row, one example", lambda v: isinstance(v, torch.Tensor) and v.ndim > 1 and v.shape[0] == 1),
    ("has more than one row", lambda v: isinstance(v, torch.Tensor) and v.ndim > 1 and v.shape[0] > 1),
    ("is square", lambda v: isinstance(v, torch.Tensor) and v.ndim == 2 and v.shape[0] == v.shape[1]),
    ("is not square", lambda v: isinstance(v, torch.Tensor) and v.ndim == 2 and v.shape[0] != v.shape[1]),
    ("has more rows than columns", lambda v: isinstance(v, torch.Tensor) and v.ndim == 2 and v.shape[0] > v.shape[1]),
    ("has more columns than rows", lambda v: isinstance(v, torch.Tensor) and v.ndim == 2 and v.shape[0] < v.shape[1]),
    ("is all zeros", lambda v: isinstance(v, torch.Tensor) and not v.any()),
    ("is not all zeros", lambda v: isinstance(v, torch.Tensor) and bool(v.any())),
    ("holds a zero", lambda v: isinstance(v, torch.Tensor) and bool((v == 0).any())),
    ("holds no zero", lambda v: isinstance(v, torch.Tensor) and bool((v != 0).all())),
    ("is not float32", lambda v: isinstance(v, torch.Tensor) and v.dtype != torch.float32),
    ("is float32", lambda v: isinstance(v, torch.Tensor) and v.dtype == torch.float32),
]
LISTS = [
    ("is empty", lambda v: v is not None and len(v) == 0),
    ("is not empty", lambda v: v is not None and len(v) > 0),
    ("has one entry", lambda v: v is not None and len(v) == 1),
    ("has more than one entry", lambda v: v is not None and len(v) > 1),
    ("has two entries", lambda v: v is not None and len(v) == 2),
    ("has an odd number of entries", lambda v: v is not None and len(v) % 2 == 1),
    ("has an even number of entries", lambda v: v is not None and len(v) % 2 == 0),
    ("holds equal entries", lambda v: isinstance(v, list) and len({repr(i) for i in v}) < len(v)),
    ("holds no equal entries", lambda v: isinstance(v, list) and len({repr(i) for i in v}) == len(v)),
    ("holds no True", lambda v: isinstance(v, list) and all(i is not True for i in v)),
    ("holds nothing but True", lambda v: isinstance(v, list) and all(i is True for i in v)),
]
