"""Two at once: a known slip and another, or a known slip and something else that can be put into words."""

from functools import lru_cache
from itertools import combinations, product
from time import process_time

import torch

from ..compare import difference
from ..exercise import find
from .claim import Claim
from .evidence import Evidence, asked, expected, names_of, rank
from .size import usable


def values(ev):
    """The things that are compared before gradients."""
    return [w for w in ev._pairs if w[0] != "_" and not rank(w) and not w.startswith("changed")]


@lru_cache(maxsize=4096)
def slip_does(id, index, seed):
    from ..checking import observations

    return observations(find(id), find(id).slips[index].answer, seed)


@lru_cache(maxsize=4096)
def switched(id, chosen, seed):
    """What the exercise's parametrised answer does with some switches set (`chosen`: pairs of a switch and a slip)."""
    from ..checking import observations

    make, _ = find(id).switches
    return observations(find(id), lambda *a, **k: make(*a, **k, **dict(chosen)), seed)


def alike(seen, other, whats):
    """The same, without an error, in each of these things?"""
    for a, b in zip(seen, other):
        if "error" in a or "error" in b or any(w in b and difference(a.get(w), b[w]) for w in whats):
            return False
    return True


def half(ev):
    """The output is what one slip gives, and the gradients are others than that slip's: the message of the slip stands."""
    whats = values(ev)
    if not any(w in whats for w in ev.wrong) or not ev.exercise.slips:
        return None
    hits = []
    for i, slip in enumerate(ev.exercise.slips):
        if all(alike(seen, slip_does(ev.exercise.id, i, s), whats) for s, seen in ev.runs.items()):
            hits.append((i, slip))
    if not hits or len({s.message for _, s in hits}) > 1:
        return None
    (index, slip) = hits[0]

    def holds(e):
        return all(alike(seen, slip_does(e.exercise.id, index, s), whats) for s, seen in e.runs.items())

    rest = [w for w in ev.wrong if rank(w)]
    more = ""
    if rest and any(not rank(w) and w.startswith("gradient") or rank(w) for w in ev._pairs):
        more = "\nThat is about the output. The gradients are another matter: look at them once the output is right."
    return Claim(slip.message + more, holds, "named")


def in_one_thing(ev, what, pairs):
    """What is seen of one thing is what a slip gives, and of the others it is not."""
    if not usable(pairs) or (all(p.y.numel() < 2 for p in pairs) and len({repr(p.a) for p in pairs}) < 5):
        return None  # so few numbers fit too many explanations
    hits = [i for i, _ in enumerate(ev.exercise.slips) if _is_slip(ev, what, i)]
    if len({ev.exercise.slips[i].message for i in hits}) != 1:
        return None
    besides = " Something else is wrong besides." if len(ev.wrong) > 1 else ""
    text = f"{ev.exercise.slips[hits[0]].message}\nThat is about this: {what}.{besides}"
    return Claim(text, lambda e: _is_slip(e, what, hits[0]), "named")


def _is_slip(ev, what, index):
    return all((u := _slip_value(p, index)) is not None and p.comparable and p.close(p.x, u) for p in ev.pairs(what))


def pair(ev):
    """Two switches of the exercise's parametrised answer at once."""
    if not ev.exercise.switches or not ev.exercise.slips:
        return None
    _, switches = ev.exercise.switches
    by_name = {s.name: s.message for s in ev.exercise.slips}
    id = ev.exercise.id
    for whats in (None, values(ev)):
        for one, other in combinations(switches, 2):
            for a, b in product(switches[one], switches[other]):
                chosen = ((one, a), (other, b))
                keys = [w for w in ev._pairs if w[0] != "_"] if whats is None else whats
                if whats is not None and not any(w in whats for w in ev.wrong):
                    continue
                if all(alike(seen, switched(id, chosen, s), keys) for s, seen in ev.runs.items()):
                    text = f"Two things at once. {by_name[a]}\nAnd: {by_name[b]}"

                    def holds(e, chosen=chosen, keys=keys):
                        return all(alike(seen, switched(id, chosen, s), keys) for s, seen in e.runs.items())

                    return Claim(text, holds, "named")
    return None


def superposed(ev, what, pairs, where, sentence):
    """x - y is what two slips do, added up; or x / y what they do, multiplied."""
    if where is not None or not usable(pairs) or any(p.y.numel() < 2 for p in pairs):
        return None
    usual = []
    for i, slip in enumerate(ev.exercise.slips):
        got = [_slip_value(p, i) for p in pairs]
        if all(g is not None for g in got) and any(not p.close(g, p.y) for g, p in zip(got, pairs)):
            usual.append((i, slip, got))
    for (i, one, a), (j, two, b) in combinations(usual, 2):
        if one.message == two.message or any(not p.wrong and not p.close(u, p.y) for p, u in zip(pairs, a)):
            continue
        for combine in (_sum, _product):
            if all(_fits(p, combine(u, v, p.y)) for p, u, v in zip(pairs, a, b)) and not all(
                p.close(p.x, u) or p.close(p.x, v) for p, u, v in zip(pairs, a, b)
            ):

                def holds(e, i=i, j=j, combine=combine):
                    return all(
                        (u := _slip_value(p, i)) is not None
                        and (v := _slip_value(p, j)) is not None
                        and _fits(p, combine(u, v, p.y))
                        for p in e.pairs(what)
                    )

                text = f"Two things at once. {one.message}\nAnd: {two.message}"
                return Claim(text, holds, "named") if holds(ev) else None
    return None


def _sum(u, v, y):
    return u + v - y


def _product(u, v, y):
    return torch.where(y.abs() > 1e-12, u * v / torch.where(y.abs() > 1e-12, y, 1.0), y * 0)


def _fits(p, due):
    if not p.comparable or not bool(torch.isfinite(due).all()):
        return False
    return p.close(p.x, due, max(float(p.x.abs().max()), float(p.y.abs().max()), 1e-12))


def _slip_value(p, index):
    """What a slip gives there, as numbers."""
    from .evidence import numbers

    seen = slip_does(p.exercise.id, index, p.seed)[p.index]
    value = None if "error" in seen else numbers(seen.get(p.what))
    return value if value is not None and value.shape == p.y.shape and bool(torch.isfinite(value).all()) else None


def beside(ev, what, finders, sentence):
    """A slip, and on top of it a relation: what is seen is a plain relation of what the slip gives."""
    from .evidence import Pair

    pairs = ev.pairs(what)
    if not usable(pairs) or any(not p.wrong or p.y.numel() < 2 for p in pairs):
        return None  # of single numbers a slip and a factor would explain too much
    for i, slip in enumerate(ev.exercise.slips):

        def shifted(e, i=i):
            out = []
            for p in e.pairs(what):
                seen = slip_does(e.exercise.id, i, p.seed)[p.index]
                if "error" in seen or what not in seen:
                    return None
                out.append(Pair(p.exercise, p.seed, p.index, what, p.a, seen[what]))
            return out

        moved = shifted(ev)
        if moved is None or not any(difference(m.b, p.b) for m, p in zip(moved, pairs)):
            continue
        other = _Shifted(ev, what, moved)
        for finder in finders:
            claim = finder(other, what, moved, None, lambda s: s)
            if claim is None:
                continue

            def holds(e, claim=claim, shifted=shifted):
                got = shifted(e)
                return got is not None and claim.holds(_Shifted(e, what, got))

            text = f"{slip.message}\nAnd besides, measured by what that alone would give: {claim.text}"
            return Claim(text, holds, "related")
    return None


class _Shifted(Evidence):
    """The same looks, with other values expected of one thing."""

    def __init__(self, ev, what, pairs):
        super().__init__(ev.exercise, ev.seed, ev.runs, ev.looks)
        self.__dict__["_pairs"] = {what: pairs}
        self.__dict__["wrong"] = [what]


def elsewhere_asked(ev, what, end):
    """A slip that was asked another question: alpha taken for 1 and the bias left out, say."""
    from .parts import questions

    names = names_of(ev.exercise)
    pairs = ev.pairs(what)
    if not names or not pairs or not any(p.wrong for p in pairs) or any(p.y is None for p in pairs):
        return None
    if all(p.y.numel() < 2 for p in pairs) and len({repr(p.a) for p in pairs}) < 5:
        return None  # so few numbers fit too many explanations
    for i, slip in enumerate(ev.exercise.slips):
        if not callable(slip.answer) or _is_slip(ev, what, i):
            continue  # a slip that explains it alone: another question would change nothing here
        for words in questions(ev.exercise, pairs[0].case):
            if process_time() > end:
                return None
            if all(_slip_asked(p, i, words) for p in pairs[:1]) and all(_slip_asked(p, i, words) for p in pairs):

                def holds(e, i=i, words=words):
                    return all(_slip_asked(p, i, words) for p in e.pairs(what))

                from .parts import _quoted

                _, ask = questions(ev.exercise, pairs[0].case)[words]
                return Claim(
                    f"Two things at once. {slip.message}\nAnd: {_quoted(words, names)}, as it seems. {ask}",
                    holds,
                    "related",
                )
    return None


_ASKED = {}


def _slip_asked(p, index, words):
    from ..checking import observations
    from .parts import questions

    key = (p.exercise.id, index, words, p.seed, p.index)
    if key not in _ASKED:
        if len(_ASKED) > 50_000:
            _ASKED.clear()
        change, _ = questions(p.exercise, p.case).get(words, (None, ""))
        if change is None:
            return False
        answer = asked(p.exercise.slips[index].answer, names_of(p.exercise), change)
        got = observations(p.exercise, answer, p.seed, 0, None, p.index)
        _ASKED[key] = got[0]
    got = _ASKED[key]
    return "error" not in got and p.what in got and difference(p.a, got[p.what]) is None


__all__ = ["beside", "elsewhere_asked", "expected", "half", "in_one_thing", "pair", "superposed"]
