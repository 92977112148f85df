"""How it behaves: in which cases it is wrong, what it says instead, what it does when its inputs change."""

import math
import re
from itertools import combinations

import torch

from ..compare import difference, show
from .claim import Claim, listed, parallel, stated
from .evidence import Pair, _is_number, arguments, expected, names_of

# ---------------------------------------------------------------- each time another


def restless(ev):
    """The same inputs, another answer, where the reference's stays."""

    def holds(e):
        id, seed = e.exercise.id, e.seed
        due = zip(expected(id, seed), expected(id, seed, "again"))
        return any(
            _differs(mine.get(what), once.get(what)) and not _differs(first[what], second.get(what))
            for mine, once, (first, second) in zip(e.runs[seed], e.looks.get("again", ()), due)
            if "error" not in mine and "error" not in once
            for what in first
            if what[0] != "_" and not isinstance(first[what], (bool, str))  # these are too coarse to tell
        )

    text = (
        "Asked twice with the same inputs, your function gives two different answers. "
        "What draws at random there, or keeps something from one call to the next?"
    )
    return Claim(text, holds, "behaves") if holds(ev) else None


def _differs(a, b):
    return difference(a, b) is not None


# ---------------------------------------------------------------- yes and no, names, verdicts


def _plain(value):
    return isinstance(value, (bool, str)) or value is None


def verdicts(ev, what, pairs, where, sentence):
    """Yes or no, a word, None: what is said where, and what should be."""
    if not pairs or not all(_plain(p.b) for p in pairs) or not any(p.wrong for p in pairs):
        return None
    kinds = {p.b for p in pairs}
    if len(kinds) == 1:
        return _property(ev, what, pairs, where, sentence)
    if any(isinstance(p.b, str) and re.search(r"\(\d*,", p.b) for p in pairs) or not all(
        _plain(p.a) or isinstance(p.a, (int, float)) for p in pairs
    ):
        return None
    said = {p.a for p in pairs}
    if len(said) == 1:
        only = said.pop()
        return stated(
            ev,
            what,
            sentence(
                f"you say {_word(only)} in every case, whatever goes in. What would have to happen for another answer?"
            ),
            lambda p: _same(p.a, only),
            where,
            "behaves",
        )
    told = {}
    for p in pairs:
        told.setdefault(p.b, set()).add(p.a)
    wrong = {b: seen for b, seen in told.items() if any(not _same(a, b) for a in seen)}
    if all(len(s) == 1 for s in told.values()) and len(wrong) == 2:
        (one, first), (two, second) = wrong.items()
        if _same(next(iter(first)), two) and _same(next(iter(second)), one):
            return stated(
                ev,
                what,
                sentence(f"{_word(one)} and {_word(two)} have changed places. Which of them is which?"),
                lambda p: _same(p.a, {one: two, two: one}.get(p.b, p.b)),
                where,
                "behaves",
            )
    if len(wrong) < len(told):
        bad = list(wrong)
        instead = "; ".join(
            f"where it should be {_word(b)} you say {' or '.join(sorted(_word(a) for a in told[b] if not _same(a, b)))}"
            for b in bad[:3]
        )
        more = "" if all(len(told[b]) == 1 for b in bad) else ", in some of the cases tried"
        words = f"{instead}{more}. What does it take to be {_word(bad[0])}?"

        def holds(e):
            return any(p.wrong and p.b in bad for p in e.pairs(what))

        return Claim(sentence(words), holds, "behaves")
    if (
        len(told) == len(wrong)
        and len(said) < len(kinds)
        and (never := [k for k in kinds if all(not _same(k, s) for s in said)])
    ):
        return stated(
            ev,
            what,
            sentence(f"you never say {listed(sorted(map(_word, never)), 'or')}. What would have to happen for it?"),
            lambda p: all(not _same(p.a, n) for n in never),
            where,
            "behaves",
        )
    return None


def _same(a, b):
    return type(a) is type(b) and a == b


def _word(value):
    return (
        {True: "yes", False: "no", None: "None"}.get(value, value)
        if isinstance(value, bool) or value is None
        else f'"{value}"'
        if isinstance(value, str)
        else f"{value}"
    )


def _property(ev, what, pairs, where, sentence):
    """Something that is to hold always."""
    due = pairs[0].b
    if not isinstance(due, bool):
        return None
    test = lambda p: p.a is (not due)
    if all(test(p) for p in pairs):
        words = f"{_word(not due)}, in every case, where it should always be {_word(due)}. Which line of yours decides that?"
        return stated(ev, what, sentence(words), test, where, "behaves")
    return None


# ---------------------------------------------------------------- lists of names


def names(ev, what, pairs, where, sentence):
    """Lists of names: nothing, all of it, in another order, what the missing have in common, a part of each name missing."""
    pairs = [p for p in pairs if p.wrong]
    if not pairs or not all(
        isinstance(p.a, (list, set)) and isinstance(p.b, (list, set)) and all(isinstance(s, str) for s in [*p.a, *p.b])
        for p in pairs
    ):
        return None

    def say(words, test):
        return stated(ev, what, sentence(words), lambda p: not p.wrong or test(p), where, "behaves")

    if all(not p.a and p.b for p in pairs):
        return say(
            "none at all, where there should be some. Which line is to collect them, or to switch them on?",
            lambda p: not p.a,
        )
    if all(p.a and not p.b for p in pairs):
        common = _together([n for p in pairs for n in p.a], [])
        return say(f"there should be none, and there are: {show(sorted(pairs[0].a))}. Which line touches them?" if not common else f"there should be none, and there are, all with `{common}` in the name. Which line touches them?", lambda p: bool(p.a) and not p.b)  # fmt: skip
    if all(sorted(p.a) == sorted(p.b) for p in pairs):
        if all(list(p.a) == list(p.b)[::-1] for p in pairs):
            return say("the right ones in reverse order. Which comes first?", lambda p: list(p.a) == list(p.b)[::-1])
        return say(
            "the right ones in another order. What decides which comes first?", lambda p: sorted(p.a) == sorted(p.b)
        )
    if all(set(p.a) == set(p.b) for p in pairs):
        return say(
            "the right ones, and not as often as they should be there. Which of them are counted twice?",
            lambda p: set(p.a) == set(p.b),
        )
    for cut, words in ((_prefix, "begin"), (_suffix, "end")):
        parts = {cut(p) for p in pairs}
        if len(parts) == 1 and (part := parts.pop()):
            which, text = part
            verb = (
                f"{words} with `{text}`, and yours do not"
                if which == "missing"
                else f"not {words} with `{text}`, and yours do"
            )
            return say(
                f"every name should {verb}. Where is that put on, or taken off?", lambda p, c=cut, w=part: c(p) == w
            )
    missing = [n for p in pairs for n in p.b if n not in p.a]
    extra = [n for p in pairs for n in p.a if n not in p.b]
    kept = [n for p in pairs for n in p.a if n in p.b]
    out = [n for p in pairs for n in p.b if n in p.a]
    parts = []
    if missing:
        common = _together(missing, out)
        whole = not kept and all(not set(p.a) & set(p.b) for p in pairs)
        parts.append(
            "all that should be there are missing"
            if whole
            else f"those with `{common}` in the name are missing"
            if common
            else "some are missing"
        )
    if extra:
        common = _together(extra, kept)
        parts.append(f"those with `{common}` in the name should not be there" if common else "some should not be there")
    if not missing:
        parts.insert(0, "all that should be there are")
    elif not extra:
        parts.append("nothing is there that should not be")
    ask = (
        "What tells those that belong from those that do not?"
        if extra
        else "Which of them does your code pass over, and why?"
    )
    return say(
        f"{', and '.join(parts)}. {ask}",
        lambda p: (bool(set(p.b) - set(p.a)) <= bool(missing)) and (bool(set(p.a) - set(p.b)) <= bool(extra)),
    )


def _prefix(p):
    return _affix(p, lambda long, short: long.endswith(short), lambda long, short: long[: len(long) - len(short)])


def _suffix(p):
    return _affix(p, lambda long, short: long.startswith(short), lambda long, short: long[len(short) :])


def _affix(p, fits, rest):
    """("missing" or "extra", the text that each expected name has and none of those seen, or the other way round)."""
    a, b = sorted(p.a), sorted(p.b)
    if len(a) != len(b) or not a or set(a) & set(b):
        return None
    for which, longer, shorter in (("missing", b, a), ("extra", a, b)):
        found = set()
        for long in longer:
            short = next((s for s in shorter if s and s != long and fits(long, s)), None)
            found.add(None if short is None else rest(long, short))
        if len(found) == 1 and None not in found:
            return which, found.pop()
    return None


def _together(these, others):
    """A part (between dots or underscores) that all of these names have and none of the others."""
    parts = [set(re.split(r"[.\s]", n)) | set(re.split(r"[._\s]", n)) for n in these]
    common = set.intersection(*parts) if parts else set()
    away = {q for n in others for q in set(re.split(r"[.\s]", n)) | set(re.split(r"[._\s]", n))}
    return max((c for c in common - away if len(c) > 1 and not c.isdigit()), key=lambda c: (len(c), c), default="")


# ---------------------------------------------------------------- shapes


def shape(ev, what, pairs, where, sentence):
    """A wrong shape, in the exercise's own names for sizes."""
    found = [(p, _shape(p.a), _shape(p.b)) for p in pairs]
    found = [(p, a, b) for p, a, b in found if p.wrong]
    if not found or any(a is None or b is None or len(a) != len(b) for _, a, b in found):
        return None
    for k in range(len(found[0][1])):
        if any(len(a) <= k for _, a, _ in found):
            return None
        several = [(p, a[k], b[k]) for p, a, b in found]
        if all(a == b for _, a, b in several):
            continue
        several = [t for t in several if t[1] != t[2]]
        label = (
            "" if len(found[0][1]) == 1 else f"{('first', 'second', 'third', 'fourth')[k] if k < 4 else k} of them: "
        )
        word = _shapes(several)
        if word is None:
            return None
        words, test = word
        return stated(ev, what, sentence(f"{label}{words}"), lambda p, k=k, t=test: _about(p, k, t), where, "related")
    return None


def _about(p, k, test):
    a, b = _shape(p.a), _shape(p.b)
    if not p.wrong or a is None or b is None or len(a) <= k or len(b) <= k or a[k] == b[k]:
        return True
    return test(p, a[k], b[k])


def _shapes(several):
    """(a sentence on shapes that differ in the same way in every case, its test)."""
    options = [
        ("the sizes stand the other way round: transposed. Which comes first?", lambda p, a, b: a == b[::-1]),
        ("the sizes are the right ones in another order. Which comes first?", lambda p, a, b: sorted(a) == sorted(b)),
        ("a dimension of size one too many. Which line keeps it?", lambda p, a, b: len(a) > len(b) and [n for n in a if n != 1] == [n for n in b if n != 1]),
        ("a dimension of size one is missing. Which line drops it?", lambda p, a, b: len(a) < len(b) and [n for n in a if n != 1] == [n for n in b if n != 1]),
        ("a single number, where there should be more. What is added up or averaged over everything?", lambda p, a, b: len(a) == 0),
        ("the first dimension is gone. Which line takes one of its entries, or adds it up?", lambda p, a, b: a == b[1:]),
        ("the last dimension is gone. Which line takes one of its entries, or adds it up?", lambda p, a, b: a == b[:-1]),
        ("two dimensions are joined into one. Which line joins them?", lambda p, a, b: len(a) == len(b) - 1 and math.prod(a) == math.prod(b)),
        ("one dimension is split into two. Which line splits it?", lambda p, a, b: len(a) == len(b) + 1 and math.prod(a) == math.prod(b)),
        ("one dimension more at the front. Where does it come from?", lambda p, a, b: a[1:] == b),
        ("one dimension more at the end. Where does it come from?", lambda p, a, b: a[:-1] == b),
    ]  # fmt: skip
    for words, test in options:
        if all(test(*t) for t in several):
            return words, test
    if all(len(a) == len(b) for _, a, b in several):
        places = {tuple(i for i in range(len(a)) if a[i] != b[i]) for _, a, b in several}
        if len(places) == 1 and len(place := places.pop()) == 1:
            i = place[0]
            n = len(several[0][1])
            where = (
                "last"
                if i == n - 1 and n > 1
                else "first"
                if i == 0 and n > 1
                else "only"
                if n == 1
                else f"dimension-{i}"
            )
            seen, due = (_name([(p.sizes, s[i]) for p, *ab in several for s in [ab[j]]]) for j in (0, 1))
            if due and seen and due != seen:
                return (
                    f"its {where} size is {seen} and should be {due}. Which line gives it that?",
                    lambda p, a, b, i=i: (
                        len(a) == len(b) and all(x == y for j, (x, y) in enumerate(zip(a, b)) if j != i)
                    ),
                )
            if due:
                return (
                    f"its {where} size should be {due}. Which line gives it another?",
                    lambda p, a, b, i=i: len(a) == len(b) and a[i] != b[i],
                )
            return (
                f"its {where} size is wrong and the others are right. Which line gives it that?",
                lambda p, a, b, i=i: len(a) == len(b) and all(x == y for j, (x, y) in enumerate(zip(a, b)) if j != i),
            )
    if len({len(a) - len(b) for _, a, b in several}) == 1 and len(several[0][1]) != len(several[0][2]):
        k = len(several[0][1]) - len(several[0][2])
        return (
            f"{abs(k)} dimension{'s' * (abs(k) > 1)} too {'many' if k > 0 else 'few'}. Which line adds or takes away dimensions?",
            lambda p, a, b: len(a) - len(b) == k,
        )
    return None


def _name(found):
    """The name of a size that has this value in every case, or the sum or product of two that has."""
    tables = [t for t, _ in found]
    names = [n for n in tables[0] if all(n in t for t in tables)]
    for n in names:
        if all(t[n] == v for t, v in found):
            return n
    for one, two in combinations(names, 2):
        if all(t[one] + t[two] == v for t, v in found):
            return f"{one} + {two}"
        if all(t[one] * t[two] == v for t, v in found):
            return f"{one} times {two}"
    for n in names:
        if all(2 * t[n] == v for t, v in found):
            return f"2 times {n}"
    return None


def _shape(value):
    """The shapes in a value: of a tensor, in a text such as "(2, 3) and (3,)", a list of whole numbers; or None."""
    if isinstance(value, torch.Tensor):
        return [list(value.shape)]
    if isinstance(value, str):
        found = re.findall(r"\(((?:\d+,? ?)*)\)", value)
        return [[int(n) for n in re.findall(r"\d+", f)] for f in found] or None
    if isinstance(value, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in value):
        return [value]
    if (
        isinstance(value, dict)
        and value
        and all(isinstance(v, list) and all(isinstance(n, int) for n in v) for v in value.values())
    ):
        return [value[k] for k in sorted(value)]
    return None


# ---------------------------------------------------------------- gradients and things changed in place


def no_gradient(ev, what, pairs, where, sentence):
    """The output is right and nothing arrives at one of the inputs."""
    if not what.startswith("gradient of ") or not pairs:
        return None
    name = what.removeprefix("gradient of ")
    missing = [p for p in pairs if p.a == "none" and isinstance(p.b, torch.Tensor)]
    if missing and all(p.a == "none" or not p.wrong for p in pairs):
        groups = {}
        for w in ev._pairs:
            if w.startswith("gradient of "):
                lost = any(p.a == "none" and isinstance(p.b, torch.Tensor) for p in ev.pairs(w))
                groups.setdefault(
                    "lost" if lost else "wrong" if any(p.wrong for p in ev.pairs(w)) else "right", []
                ).append(f"`{w[12:]}`")
        lost, fine = groups["lost"], groups.get("right", [])
        others = f"; {listed(fine)} {'gets its' if len(fine) == 1 else 'get theirs'}" if fine else ""
        text = f"no gradient arrives at {listed(lost)}{others}. What stands between {lost[0]} and the output, or cuts the graph (`detach`, `no_grad`, `.data`, `.item()`, a new `torch.tensor`)?"
        return stated(ev, what, sentence(text), lambda p: p.a == "none" or not p.wrong, where, "behaves")
    if all(p.b == "none" and isinstance(p.a, torch.Tensor) for p in pairs if p.wrong):
        return stated(
            ev,
            what,
            sentence(f"a gradient arrives at `{name}`, which should get none. What was to be held constant?"),
            lambda p: not p.wrong or p.b == "none",
            where,
            "behaves",
        )
    return None


def only_gradients(ev, what, pairs, where, sentence):
    """The outputs are right, a gradient arrives, and is another."""
    if not what.startswith("gradient of ") or not all(p.comparable for p in pairs):
        return None
    if any(not w.startswith("gradient of ") for w in ev.wrong):
        return None
    right = [f"`{w[12:]}`" for w in ev._pairs if w.startswith("gradient of ") and w not in ev.wrong]
    bad = [f"`{w[12:]}`" for w in ev.wrong]
    if not any(not w.startswith("gradient of ") and not w.startswith("changed") for w in ev._pairs):
        return None
    words = f"the output is right in every case, and the gradient of {listed(bad)} is not" + (
        f" (of {listed(right)} it is)" if right else ""
    )
    text = f"{words}. Which part of your output was to be held constant in the backward pass, or is held constant and should not be?"
    return stated(ev, what, sentence(text), lambda p: True, where, "behaves")


def changes_its_input(ev, what, pairs, where, sentence):
    if "changed" not in what or not all(isinstance(p.a, list) and p.b == [] for p in pairs):
        return None
    touched = sorted({n for p in pairs for n in p.a})
    if not touched:
        return None
    text = f"your code writes into what it was given ({', '.join(f'`{t}`' for t in touched[:4])}), and whoever calls it finds that changed afterwards. Which line assigns into it, or ends in `_`?"
    return stated(ev, what, sentence(text), lambda p: set(p.a) <= set(touched), where, "behaves")


# ---------------------------------------------------------------- changed inputs


def probed(ev, look, what):
    """The pairs of one thing, looked at with changed inputs."""
    how = ev.looks.get(look)
    if not how:
        return []
    out = []
    for i, (mine, due) in enumerate(zip(how, expected(ev.exercise.id, ev.seed, look))):
        if "error" in due:
            continue
        if "error" in mine or what not in due:
            return []
        out.append(Pair(ev.exercise, ev.seed, i, what, mine.get(what), due[what]))
    return out


def silent(ev, what, pairs, where, sentence):
    """Right as soon as one input is zero: the mistake lies in what that input adds. The one that changes least is told."""
    if where is not None:
        return None
    found = {n: size for n in names_of(ev.exercise) if (size := _right_without(ev, what, n))}
    if not found:
        return None
    least = min(found.values())
    told = [n for n, size in found.items() if size <= least * (1 + 1e-6)]
    names = listed([f"`{n}`" for n in told], "or")
    text = (
        f"with {names} all zeros your answer is right, and else it is not. So the rest stands. "
        f"What happens on the way to what {names} {'adds' if len(told) == 1 else 'add'}?"
    )

    def holds(e):
        return all(_right_without(e, what, n) for n in told) and any(p.wrong for p in e.pairs(what))

    return Claim(sentence(text), holds, "behaves") if holds(ev) else None


def _right_without(ev, what, name):
    """How much zero changes what is expected, where it makes a wrong answer right and could have shown a mistake; else 0."""
    pairs = probed(ev, f"zero {name}", what)
    whole = [p for p in ev.pairs(what) if p.seed == ev.seed and p.index < len(pairs)]
    if not pairs or not any(p.wrong for p in whole) or any(p.wrong or not p.comparable for p in pairs):
        return 0
    if all(len({round(v, 12) for v in p.y.flatten().tolist()}) == 1 for p in pairs):
        return 0
    return sum(float((p.y - q.y).norm()) for p, q in zip(pairs, whole) if q.y is not None and p.y.shape == q.y.shape)


def degree(ev, what, pairs, where, sentence):
    """What doubling an input does to the answer, and what it should do."""
    if where is not None:
        return None
    for name in names_of(ev.exercise):
        for part in (False, True):
            mine, due = _degrees(ev, what, name, part)
            if due is None or mine == due or mine is None and (part or due != 0):
                continue
            subject = f"what `{name}` adds" if part else "what is expected"
            if mine is None:
                text = f"when `{name}` is doubled, {subject} {_grows(due)}; yours changes in another way. Where does `{name}` come in, and how often?"
            else:
                own = f"what it adds in yours {_grows(mine)}; that" if part else f"yours {_grows(mine)}; it"
                text = (
                    f"when `{name}` is doubled, {own} should {_grow(due)}. Where does `{name}` come in, and how often?"
                )

            def holds(e, name=name, part=part, told=(mine, due)):
                return _degrees(e, what, name, part) == told

            return Claim(sentence(text), holds, "behaves")
    return None


def _degrees(ev, what, name, part=False):
    """(p of the answer, p of what is expected), where doubling an input multiplies by 2 to the p; None where it does not.

    `part`: of what the input adds, which is the answer less the answer with zeros for it.
    """
    doubled, without = probed(ev, f"double {name}", what), probed(ev, f"zero {name}", what) if part else []
    whole = [p for p in ev.pairs(what) if p.seed == ev.seed and p.index < len(doubled)]
    if (
        not doubled
        or len(doubled) != len(whole)
        or not any(p.wrong for p in whole)
        or part
        and len(without) != len(whole)
    ):
        return None, None
    if not all(p.comparable for p in [*doubled, *whole, *without]):
        return None, None
    if any(p.y.shape != q.y.shape for p, q in zip(whole, doubled)):
        return None, None
    if not all(_movable(arguments(p.exercise, p.case).get(name)) for p in whole):
        return None, None
    sides = []
    for side in ("x", "y"):
        base = [getattr(p, side) for p in without] or [0.0] * len(whole)
        if any(isinstance(b, torch.Tensor) and b.shape != getattr(p, side).shape for b, p in zip(base, whole)):
            return None, None
        sides.append(
            _degree([(q, getattr(q, side) - b, getattr(p, side) - b) for p, q, b in zip(whole, doubled, base)])
        )
    return tuple(sides)


def _movable(value):
    return (
        _is_number(value)
        and value != 0
        or isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and bool(value.any())
    )


def _degree(found):
    """p, where the first of two tensors is always 2 to the p times the second."""
    powers = set()
    for pair, x, y in found:
        if not bool(y.any()) and not bool(x.any()):
            continue
        c = parallel(pair, x, y)
        if c is None or math.isnan(c) or c <= 0:
            return None
        powers.add(round(math.log2(c), 4))
    if len(powers) != 1:
        return None
    p = powers.pop()
    return round(p * 2) / 2 if abs(p * 2 - round(p * 2)) < 1e-3 else None


def _times(p):
    return {
        1: "twice as large",
        2: "4 times as large",
        0.5: "larger by the root of 2",
        -1: "half as large",
        -2: "a quarter of what it was",
        -0.5: "smaller by the root of 2",
    }.get(p, f"{2**p:.3g} times as large")


def _grows(p):
    return "stays the same" if abs(p) < 1e-6 else f"becomes {_times(p)}"


def _grow(p):
    return "stay the same" if abs(p) < 1e-6 else f"become {_times(p)}"
