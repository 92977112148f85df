"""Choices among things: dicts by name, rows of yes and no, sets of places."""

import torch

from ..compare import difference
from .behaviour import _together
from .claim import stated


def by_name(ev, what, pairs, where, sentence):
    """Dicts: names missing or too many, or wrong under some of the names only, and which."""
    if (
        not pairs
        or not all(isinstance(p.a, dict) and isinstance(p.b, dict) for p in pairs)
        or not any(p.wrong for p in pairs)
    ):
        return None
    missing, extra, kept, bad, good = [], [], [], [], []
    for p in pairs:
        missing += [k for k in p.b if k not in p.a]
        extra += [k for k in p.a if k not in p.b]
        for k in p.b:
            if k in p.a:
                kept.append(k)
                (bad if difference(p.a[k], p.b[k]) else good).append(k)
    if missing or extra:
        parts = []
        for found, words in ((missing, "are missing"), (extra, "should not be there")):
            if found:
                common = _together([str(f) for f in found], [str(k) for k in kept])
                parts.append(
                    f"{f'those with `{common}` in the name' if common else 'all' if not kept else 'some'} {words}"
                )
        text = f"{', and '.join(parts)}. What tells those that belong from those that do not?"
        return stated(
            ev, what, sentence(text), lambda p: not p.wrong or set(p.a) != set(p.b), where, "behaves"
        ) or stated(ev, what, sentence(text), lambda p: True, where, "behaves")
    only, right = set(bad) - set(good), set(good) - set(bad)
    if right and not set(bad) & set(good):
        common = _together([str(k) for k in only], [str(k) for k in right])
        which = f"the names with `{common}`" if common else ", ".join(f"`{k}`" for k in sorted(map(str, only)))
        text = f"wrong for {which}, and right for the others. What does your code do for these that it does not do for the rest?"
        return stated(
            ev,
            what,
            sentence(text),
            lambda p: all(not difference(p.a.get(k), p.b[k]) for k in p.b if k in right),
            where,
            "behaves",
        )
    return None


def _flat(value):
    """Yes and no in a row: of a boolean tensor, a list, a dict of lists; None for anything else."""
    if isinstance(value, torch.Tensor) and value.dtype == torch.bool:
        return value.flatten().tolist()
    if isinstance(value, list) and value and all(isinstance(v, bool) for v in value):
        return value
    if (
        isinstance(value, dict)
        and value
        and all(isinstance(v, list) and all(isinstance(b, bool) for b in v) for v in value.values())
    ):
        return [b for k in sorted(value) for b in value[k]]
    return None


CHOICES = [
    ("none is chosen. What should choose some?", lambda a, b: not any(a)),
    ("all are chosen. What should leave some out?", lambda a, b: all(a)),
    (
        "exactly the others are chosen: yes and no are exchanged. Which of them is to be kept?",
        lambda a, b: all(x != y for x, y in zip(a, b)),
    ),
    (
        "those chosen are right, and some are missing. What keeps these out?",
        lambda a, b: all(y or not x for x, y in zip(a, b)),
    ),
    ("all that belong are chosen, and more. What lets these in?", lambda a, b: all(x or not y for x, y in zip(a, b))),
    ("as many as should be, and others. What are they ranked by, and over what?", lambda a, b: sum(a) == sum(b)),
]


def yes_and_no(ev, what, pairs, where, sentence):
    flat = [(_flat(p.a), _flat(p.b), p) for p in pairs]
    if (
        not pairs
        or any(b is None or a is None or len(a) != len(b) for a, b, _ in flat)
        or not any(p.wrong for p in pairs)
    ):
        return None
    for words, f in CHOICES:
        test = lambda p, f=f: (
            not p.wrong or (a := _flat(p.a)) is not None and len(a) == len(_flat(p.b)) and f(a, _flat(p.b))
        )
        if all(test(p) for p in pairs):
            return stated(ev, what, sentence(words), test, where, "behaves")
    return None


PICKED = [
    ("none, where there are some. What keeps them out?", lambda a, b: not a),
    ("the right ones, in another order. What decides which comes first?", lambda a, b: sorted(a) == sorted(b)),
    ("each number is one too large. Where does counting begin?", lambda a, b: [x - 1 for x in a] == b),
    ("each number is one too small. Where does counting begin?", lambda a, b: [x + 1 for x in a] == b),
    ("all that belong are there, and more. What lets these in?", lambda a, b: set(b) <= set(a)),
    ("those that are there belong, and some are missing. What keeps these out?", lambda a, b: set(a) <= set(b)),
    ("none of those that belong, and others. Is it the opposite that you pick?", lambda a, b: not set(a) & set(b)),
]


def picked(ev, what, pairs, where, sentence):
    """Lists of places: which of these."""
    if not pairs or not any(p.wrong for p in pairs) or "shape" in what:
        return None
    if not all(isinstance(v, list) and all(type(n) is int for n in v) for p in pairs for v in (p.a, p.b)):
        return None
    for words, f in PICKED:
        test = lambda p, f=f: not p.wrong or isinstance(p.a, list) and f(p.a, p.b)
        if all(test(p) for p in pairs):
            return stated(ev, what, sentence(words), test, where, "behaves")
    return None
