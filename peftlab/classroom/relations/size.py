"""Size: the answer is the expected one times something, plus something, or a function of it."""

import math
from itertools import combinations, product

import torch

from .claim import Product, constant, formula, parallel, plain, stated

QUESTION = "Where does that factor come in, and how often should it?"


def usable(pairs):
    """Pairs of numbers, at least one of them wrong; none where some pair is of another kind or shape."""
    return pairs if pairs and all(p.comparable for p in pairs) and any(p.wrong for p in pairs) else []


def not_a_number(ev, what, pairs, where, sentence):
    bad = [p for p in pairs if p.x is not None and p.wrong]
    if (
        not bad
        or any(bool(torch.isfinite(p.x).all()) for p in bad)
        or not all(p.y is not None and torch.isfinite(p.y).all() for p in bad)
    ):
        return None
    kind = "nan (not a number)" if all(bool(torch.isnan(p.x).any()) for p in bad) else "infinite or no number"
    return stated(
        ev,
        what,
        sentence(
            f"what you give holds entries that are {kind}. Which line divides by zero there, or takes the root or logarithm of what is not positive?"
        ),
        lambda p: not p.wrong or p.x is not None and not bool(torch.isfinite(p.x).all()),
        where,
    )


def nothing(ev, what, pairs, where, sentence):
    """Zero everywhere, or one and the same number whatever goes in."""
    pairs = usable(pairs)
    if not pairs:
        return None
    if all(float(p.x.abs().max()) == 0 for p in pairs if p.x.numel()):
        return stated(
            ev,
            what,
            sentence("you give nothing but zeros. Which line should have put something there?"),
            lambda p: p.x is not None and not p.x.any(),
            where,
        )
    first = float(pairs[0].x.flatten()[0]) if pairs[0].x.numel() else 0
    if (
        len(pairs) > 2
        and len({tuple(p.y.flatten().tolist()) for p in pairs}) > 1
        and sum(p.x.numel() for p in pairs) > 2
    ):
        return stated(
            ev,
            what,
            sentence(f"you give {constant(first)} whatever goes in. What should it depend on?"),
            lambda p: p.x is not None and bool((p.x == first).all()),
            where,
        )
    return None


def factor(ev, what, pairs, where, sentence, of="what is expected", adjust=None):
    """x = c y: with one c, with a c that is a product of sizes, or (for more than single numbers) with any c."""
    pairs = usable(pairs)
    take = adjust or (lambda p: (p.x, p.y))

    def ratio(p):
        if not p.comparable:
            return None
        got = take(p)
        return None if got is None else parallel(p, *got)

    ratios = [(ratio(p), p) for p in pairs]
    if not ratios or any(c is None for c, _ in ratios):
        return None
    known = [(c, p) for c, p in ratios if not math.isnan(c)]
    if not known or all(abs(c) < 1e-12 for c, _ in known):
        return None
    first, tolerance = known[0][0], max(p.tolerance for _, p in known)
    many = sum(p.x.numel() for _, p in known)

    def steady(c):
        return c is not None and (math.isnan(c) or abs(c - first) <= 10 * tolerance * abs(first))

    if all(steady(c) for c, _ in known):
        if abs(first - 1) <= 10 * tolerance or (many < 3 and not plain(first)) or len(known) < 2:
            return None
        if many == len(known) and not plain(first):
            return None  # single numbers: a coincidence, unless the factor is one that somebody writes
        return stated(
            ev, what, sentence(_constant(first, of, several([p for _, p in known]))), lambda p: steady(ratio(p)), where
        )
    text = formula([c for c, _ in known], [p.sizes for _, p in known], 10 * tolerance)
    if text:
        words = _product(text, of)
        test = lambda p: p.comparable and (math.isnan(ratio(p) or 0) or text.fits(ratio(p), p.sizes, 30 * tolerance))
        return stated(ev, what, sentence(f"{words}. {QUESTION}"), test, where)
    if all(p.x.numel() > 2 for _, p in known):
        shown = list(dict.fromkeys(f"{_times(c)} with {p.case.label}" for c, p in known[:3]))
        words = f"it points the right way and has the wrong size: {'; '.join(shown)}. What does that factor depend on?"
        return stated(ev, what, sentence(words), lambda p: ratio(p) is not None, where)
    return None


def _times(c):
    return "minus what is expected" if abs(c + 1) < 1e-6 else f"{c:.4g} times"


WORDS = {
    -1: "minus {}: every sign is turned. Which difference, or which sign, stands the wrong way round?",
    2: "exactly twice {}. What is there twice?",
    0.5: "exactly half of {}. What halves it, or which of two parts is missing?",
    100: "100 times {}. Is a share asked for, or a percentage?",
    0.25: "a quarter of {}",
    0.01: "a hundredth of {}. Is a percentage asked for, or a share?",
}


def _constant(c, of, sure=True):
    words = next((w for k, w in WORDS.items() if abs(c / k - 1) < 1e-6), f"{constant(c)} times {{}}").format(of)
    return words if words[-1] == "?" else f"{words}{', whatever the sizes' if sure else ''}. {QUESTION}"


def _product(found, of):
    text = str(found)
    if found.front < 0:
        return f"minus {text} times {of}"
    if text.startswith("1 / "):
        return f"{text[4:].replace(' / ', ' times ')} times smaller than {of}"
    return f"{text} times {of}"


def several(pairs):
    """Are these at least two different cases?"""
    return len({(tuple(p.sizes.values()), tuple(p.y.flatten().tolist())) for p in pairs}) > 1


def offset(ev, what, pairs, where, sentence):
    """x = y + c, the same c for every entry: a constant, or one that the sizes give."""
    pairs = usable(pairs)
    if len(pairs) < 2 or not several(pairs):
        return None

    def gap(p):
        if not p.comparable or p.x.numel() == 0:
            return None
        d = p.x - p.y
        return (
            float(d.mean())
            if p.close(d, d.mean().expand_as(d), float(p.y.abs().max()) + float(d.abs().max()))
            else None
        )

    gaps = [(gap(p), p) for p in pairs]
    if any(g is None for g, _ in gaps):
        return None
    first = gaps[0][0]
    tolerance = max(p.tolerance for _, p in gaps)

    def steady(g, p):
        return g is not None and abs(g - first) <= 10 * tolerance * max(abs(first), float(p.y.abs().max()), 1e-9)

    single = all(p.x.numel() == 1 for _, p in gaps)
    if abs(first) > 1e-9 and all(steady(g, p) for g, p in gaps) and (plain(first) or not single):
        way = "more" if first > 0 else "less"
        return stated(
            ev,
            what,
            sentence(
                f"{constant(abs(first))} {way} than expected, {'in every entry, ' if not single else ''}whatever goes in. What is counted or added {'too often' if first > 0 else 'too rarely'}?"
            ),
            lambda p: steady(gap(p), p),
            where,
        )
    found = (
        formula([g for g, _ in gaps], [p.sizes for _, p in gaps])
        if single and all(abs(g) > 1e-9 for g, _ in gaps)
        else None
    )
    if found:
        small = found.front < 0
        words = f"too {'small' if small else 'large'} by {found}. Which part is that, and how often should it be there?"
        return stated(ev, what, sentence(words), lambda p: found.fits(gap(p), p.sizes), where)
    return None


def two_terms(ev, what, pairs, where, sentence):
    """Single numbers: a term too much and another missing, both made of sizes (`r` times `d_in`; `r` / `d_in`)."""
    pairs = usable(pairs)
    if len(pairs) < 4 or any(p.x.numel() != 1 or not p.wrong for p in pairs):
        return None
    gaps = torch.tensor([float(p.x - p.y) for p in pairs], dtype=torch.float64)
    names = [
        n for n in pairs[0].sizes if all(p.sizes.get(n, 0) > 0 for p in pairs) and len({p.sizes[n] for p in pairs}) > 1
    ]
    if not 1 < len(names) <= 5 or len({(tuple(p.sizes.values()), float(g)) for p, g in zip(pairs, gaps)}) < 4:
        return None
    terms = {}
    for powers in product((0, 1, -1), repeat=len(names)):
        if 0 < sum(map(abs, powers)) <= 3:
            terms[powers] = torch.tensor(
                [math.prod(p.sizes[n] ** q for n, q in zip(names, powers)) for p in pairs], dtype=torch.float64
            )
    scale = gaps.abs().max()
    for one, other in combinations(sorted(terms, key=lambda q: sum(map(abs, q))), 2):
        for much, little in ((one, other), (other, one)):
            due = terms[much] - terms[little]
            if bool(((due - gaps).abs() <= 1e-7 * gaps.abs().clamp_min(scale * 1e-9)).all()):
                more, less = (
                    Product(1, tuple(n for n, q in zip(names, t) if q), tuple(float(q) for q in t if q))
                    for t in (much, little)
                )
                words = f"{more} is in there too much, and {less} is missing. Which term does each of them stand for?"
                test = lambda p, u=more, v=less: (
                    p.comparable
                    and abs(float(p.x - p.y) - u.of(p.sizes) + v.of(p.sizes)) <= 1e-6 * abs(float(p.x - p.y))
                )
                return stated(ev, what, sentence(words), test, where)
    return None


FUNCTIONS = [
    ("one minus what is expected: the share that is left, for the share that is taken. Which of the two is asked for?", lambda y: 1 - y),
    ("one plus what is expected. Is a factor asked for, or what it differs from one by?", lambda y: 1 + y),
    ("the size of what is expected, without its sign. What takes the sign away?", torch.abs),
    ("what is expected, negative entries set to zero. What cuts them off?", torch.relu),
    ("the exponential of what is expected. What is still to be undone?", torch.exp),
    ("the logarithm of what is expected. Is a logarithm asked for?", torch.log),
    ("the square of what is expected. Which root is still to be taken, or what is multiplied by itself?", torch.square),
    ("the root of what is expected. Which root is one too many, or which square is missing?", torch.sqrt),
    ("one divided by what is expected. Which quotient is upside down?", lambda y: 1 / y),
    ("what is expected, rounded to whole numbers. Where does the fraction get lost?", torch.round),
    ("what is expected, cut down to whole numbers. Where does the fraction get lost?", torch.floor),
    ("minus the logarithm of what is expected. Is a logarithm asked for?", lambda y: -torch.log(y)),
    ("the hyperbolic tangent of what is expected. Which function is applied once too often?", torch.tanh),
    ("the sigmoid of what is expected. Which function is applied once too often?", torch.sigmoid),
    ("the softmax of what is expected, over the last dimension. Is it taken once too often?", lambda y: y.softmax(-1) if y.ndim else y),
    ("the logarithm of the softmax of what is expected. Is it taken once too often?", lambda y: y.log_softmax(-1) if y.ndim else y),
    ("what is expected, divided by its own sum. Is it to add up to one?", lambda y: y / y.sum()),
    ("what is expected, each row divided by its sum. Are the rows to add up to one?", lambda y: y / y.sum(-1, keepdim=True) if y.ndim else y),
    ("what is expected, divided by its own length. Is it to have length one?", lambda y: y / y.norm()),
    ("what is expected, each row divided by its length. Are the rows to have length one?", lambda y: y / y.norm(dim=-1, keepdim=True) if y.ndim else y),
    ("what is expected, less its mean. Is it to be centred?", lambda y: y - y.mean()),
    ("the running sum of what is expected. Where is something added up that should stand alone?", lambda y: y.cumsum(-1) if y.ndim else y),
]  # fmt: skip


def function(ev, what, pairs, where, sentence):
    """x = f(y), or y = f(x), for a function that is often one too many or missing."""
    pairs = usable(pairs)
    entries = sum(len(set(p.y.flatten().tolist())) for p in pairs)
    if entries < 3 or len({tuple(p.y.flatten().tolist()) for p in pairs}) < 2:
        return None
    for words, f in FUNCTIONS:
        test = lambda p, f=f: p.comparable and _is(p, p.x, f(p.y))
        if all(test(p) for p in pairs) and not all(p.close(f(p.y), p.y) for p in pairs):
            return stated(ev, what, sentence(words), test, where)
    return None


def _is(p, x, y):
    return bool(torch.isfinite(y).all()) and p.close(x, y)


def signs(ev, what, pairs, where, sentence):
    pairs = usable(pairs)
    if sum(p.x.numel() for p in pairs) < 4:
        return None
    test = lambda p: p.comparable and p.close(p.x.abs(), p.y.abs())
    if not all(test(p) for p in pairs) or all(p.close(p.x, p.y) for p in pairs):
        return None
    return stated(
        ev,
        what,
        sentence(
            "every number has the right size, and some have the wrong sign. Which ones, and what decides a sign here?"
        ),
        test,
        where,
    )


def whole(ev, what, pairs, where, sentence):
    """Whole numbers that are off by one at the most, always to the same side."""
    pairs = usable(pairs)
    if len(pairs) < 3 or any(p.x.numel() != 1 or float(p.y) != int(p.y) for p in pairs):
        return None
    for step, words in (
        (1, "one too many in some cases and right in the others"),
        (-1, "one too few in some cases and right in the others"),
    ):
        test = lambda p, step=step: p.comparable and float(p.x - p.y) in (0, step)
        if all(test(p) for p in pairs):
            return stated(
                ev, what, sentence(f"{words}. What happens just at the limit: does it still count?"), test, where
            )
    return None
