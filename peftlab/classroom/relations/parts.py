"""Parts: which term of the answer is missing, there twice, or of the wrong size; and which other question it answers."""

from itertools import combinations

import torch

from .claim import constant, formula, plain, stated
from .evidence import arguments, asked, cases_of, names_of, zero
from .size import usable


def parts_of(pair):
    """{name: tensor}: the declared terms of what is expected, and what each input adds (its share when it is zero)."""
    return {**declared(pair), **added(pair)}


def declared(pair):
    """The terms that the exercise names for this observation, from the inputs of the case."""
    make = pair.exercise.terms.get(pair.what)
    if make is None:
        return {}
    with torch.no_grad():
        made = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in make(pair.case).items()}
    return {k: v for k, v in made.items() if v.shape == pair.y.shape}


def added(pair):
    """For each tensor among the inputs: what is expected, less what would be if that tensor were zero."""
    found = {}
    for name in names_of(pair.exercise):
        value = arguments(pair.exercise, pair.case).get(name)
        if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
            continue
        without = answered(pair.exercise, pair.seed, f"{name} is zero").get(pair.index, {}).get(pair.what)
        if isinstance(without, torch.Tensor) and without.shape == pair.y.shape and bool(torch.isfinite(without).all()):
            part = pair.y - without.double()
            if not pair.close(part, torch.zeros_like(part), float(pair.y.abs().max())) and not pair.close(part, pair.y):
                twin = next((k for k, v in found.items() if pair.close(v, part)), None)
                if twin:
                    found[f"{twin} and `{name}`"] = found.pop(twin)
                else:
                    found[f"`{name}`"] = part
    return found


def fitted(ev, what, pairs, where, sentence):
    """x = y + c times a part, or two parts, with the same c in every case (or a c that the sizes give)."""
    pairs = usable(pairs)
    if not pairs:
        return None
    if any(p.y.numel() < 2 for p in pairs):
        return _fitted_numbers(ev, what, pairs, where, sentence)
    if any(not isinstance(p.b, torch.Tensor) for p in pairs):
        return None
    tables = [parts_of(p) for p in pairs]
    names = [n for n in dict.fromkeys(n for t in tables for n in t) if 2 * sum(n in t for t in tables) > len(tables)]
    for many in (1, 2, 3):
        for group in combinations(names, many):
            weights = [_solve(p, {n: t[n] for n in group if n in t}) for p, t in zip(pairs, tables)]
            if any(w is None for w in weights):
                continue
            told = []
            for n in group:  # a part that a case has not (a layer without a bias) says nothing there
                there = [(w[n], p) for w, p in zip(weights, pairs) if n in w]
                told.append(_weight([w for w, _ in there], [p for _, p in there]))
            if any(t is None for t in told) or all(t[0] == "right" for t in told):
                continue
            sentences = [_said(n, t) for n, t in zip(group, told) if t[0] != "right"]
            test = lambda p, g=group, ts=told: _holds(p, g, ts)
            return stated(ev, what, sentence("? And ".join(sentences) + "?"), test, where)
    return None


def _fitted_numbers(ev, what, pairs, where, sentence):
    """The same for single numbers: the weights are found over all cases together, for the declared terms only."""
    if any(p.y.numel() != 1 for p in pairs):
        return None
    tables = [declared(p) for p in pairs]
    names = [n for n in tables[0] if all(n in t for t in tables)]
    if not names or len(pairs) < 2 * len(names) + 2:
        return None
    A = torch.tensor([[float(t[n]) for n in names] for t in tables], dtype=torch.float64)
    gap = torch.tensor([float(p.x - p.y) for p in pairs], dtype=torch.float64)
    if torch.linalg.matrix_rank(A) < len(names):
        return None
    c = torch.linalg.lstsq(A, gap[:, None]).solution[:, 0]
    if float((A @ c - gap).abs().max()) > 1e-5 * float(gap.abs().max()):
        return None
    told = [("right", 1) if abs(v) < 1e-5 else ("constant", round(1 + v, 4)) for v in c.tolist()]
    if any(kind != "right" and not plain(f) for kind, f in told):
        return None
    said = [_said(n, t) for n, t in zip(names, told) if t[0] != "right"]
    test = lambda p, g=tuple(names), ts=told: _holds(p, g, ts)
    return stated(ev, what, sentence("? And ".join(said) + "?"), test, where)


def _solve(p, parts):
    """{part: the weight c} with x - y = the sum of c times each part, or None."""
    gap = (p.x - p.y).flatten()
    if not parts:
        return None if p.wrong else {}
    A = torch.stack([t.flatten() for t in parts.values()], 1)
    if A.shape[0] <= A.shape[1]:
        return None
    try:
        c = torch.linalg.lstsq(A, gap[:, None]).solution[:, 0]
    except RuntimeError:
        return None
    scale = max(float(p.x.abs().max()), float(p.y.abs().max()), float((A * c).abs().max()))
    return dict(zip(parts, c.tolist())) if p.close(A @ c, gap, scale) else None


def _weight(values, pairs):
    """How a part stands in the answer: ("right" | "missing" | ... , the factor it comes with)."""
    factors = [1 + v for v in values]
    first, tolerance = factors[0], 100 * max(p.tolerance for p in pairs)
    if all(abs(f - first) <= tolerance for f in factors):
        if abs(first - 1) <= tolerance:
            return "right", 1
        if not plain(round(first, 5)) and len(pairs) < 6:
            return None
        return "constant", round(first, 6)
    if (found := formula(factors, [p.sizes for p in pairs], tolerance)) is not None:
        return "formula", found
    return None


def _holds(p, group, told):
    if not p.comparable:
        return False
    table = parts_of(p)
    gap = torch.zeros_like(p.y)
    for n, (kind, f) in zip(group, told):
        if n not in table:
            continue
        c = f.of(p.sizes) if kind == "formula" else float(f)
        gap = gap + (c - 1) * table[n]
    scale = max(float(p.x.abs().max()), float(p.y.abs().max()), float(gap.abs().max()))
    return p.close(p.x, p.y + gap, 100 * scale)


def _said(name, told):
    kind, f = told
    part = f"what {name} should add to it" if "`" in name else f"the {name}"
    if kind == "formula":
        if f.front < 0:
            return f"{part} comes with the wrong sign and the wrong size. Which sign and which factor belong there"
        text = str(f)
        if text.startswith("1 / "):
            return f"{part} is too small, by the factor {text[4:].replace(' / ', ' times ')}. Where does that come in, and how often should it"
        return (
            f"{part} comes {text} times as large as it should. Where does that factor come in, and how often should it"
        )
    if abs(f) < 1e-6:
        return f"{part} is missing, and the rest is right. Where should it come in"
    if abs(f - 2) < 1e-6:
        return f"{part} is there twice. Which two lines bring it in"
    if abs(f + 1) < 1e-6:
        return f"{part} comes with the wrong sign, and the rest is right. Which way should it push"
    if abs(f - 0.5) < 1e-6:
        return f"{part} is halved, and the rest is right. What halves it"
    return f"{part} comes {constant(f)} times as large as it should, and the rest is right. Which factor is that"


# ---------------------------------------------------------------- inputs as they are


def given_back(ev, what, pairs, where, sentence):
    """The answer is one of its inputs, or is off by one of them."""
    pairs = usable(pairs)
    if not pairs or any(p.x.numel() < 2 for p in pairs):
        return None
    names = [n for n, v in _tensors(pairs[0]).items() if v.shape == pairs[0].y.shape]
    for name in names:
        test = lambda p, n=name: _is_input(p, n)
        if all(test(p) for p in pairs):
            return stated(
                ev, what, sentence(f"this is `{name}`, as it came in. What is to be done with it?"), test, where
            )
    for name in [n for n, v in _tensors(pairs[0]).items() if _fits(v, pairs[0].y)]:
        weights = [_times(p, name) for p in pairs]
        if (
            any(w is None or abs(w - weights[0]) > 1e-5 for w in weights)
            or abs(weights[0]) < 1e-9
            or not plain(round(weights[0], 5))
        ):
            continue
        w = round(weights[0], 5)
        test = lambda p, n=name, w=w: (c := _times(p, n)) is not None and abs(c - w) < 1e-4
        words = {1: f"`{name}` is in there once too often", -1: f"`{name}` is in there once too rarely"}.get(
            w, f"off by {constant(w)} times `{name}`"
        )
        return stated(
            ev,
            what,
            sentence(f"{words}, and the rest is right. Which line adds `{name}`, and how often should it?"),
            test,
            where,
        )
    return None


def _tensors(p):
    return {
        n: v for n, v in arguments(p.exercise, p.case).items() if isinstance(v, torch.Tensor) and v.is_floating_point()
    }


def _fits(v, y):
    return v.ndim <= y.ndim and all(a in (1, b) for a, b in zip(v.shape[::-1], y.shape[::-1]))


def _is_input(p, name):
    v = _tensors(p).get(name)
    return v is not None and p.comparable and v.shape == p.y.shape and p.close(p.x, v.double())


def _times(p, name):
    """c with x - y = c times an input."""
    v = _tensors(p).get(name)
    if v is None or not p.comparable or not _fits(v, p.y):
        return None
    v, gap = v.double().expand_as(p.y), p.x - p.y
    square = float((v * v).sum())
    if square < 1e-20:
        return None
    c = float((gap * v).sum()) / square
    return c if p.close(gap, c * v, max(float(p.x.abs().max()), float(p.y.abs().max()))) else None


# ---------------------------------------------------------------- the right answer to another question


def _ones(name):
    return lambda g: {**g, name: torch.ones_like(g[name]) if isinstance(g[name], torch.Tensor) else 1}


def _minus(name):
    return lambda g: {**g, name: -g[name]}


def _turned(name):
    return lambda g: {**g, name: g[name].mT}


def _step(name, by):
    return lambda g: {**g, name: g[name] + by}


def _not(name):
    return lambda g: {**g, name: not g[name]}


def _set(name, value):
    return lambda g: {**g, name: value}


def _changed(name, f):
    return lambda g: {**g, name: f(g[name])}


def _exchanged(one, other):
    return lambda g: {**g, one: g[other], other: g[one]}


def questions(exercise, case):
    """{words: (change, the question to ask)}: how the inputs of an answer may have been taken for others."""
    given = {n: v for n, v in arguments(exercise, case).items() if n in names_of(exercise)}
    out = {}
    for n, v in given.items():
        if isinstance(v, torch.Tensor) and v.is_floating_point():
            out[f"{n} is zero"] = zero(n), f"Where does `{n}` come in?"
            out[f"{n} is one everywhere"] = _ones(n), f"What is to be done with `{n}`?"
            out[f"{n} has the other sign"] = _minus(n), f"Which way does `{n}` act?"
            if v.ndim == 2 and v.shape[0] == v.shape[1]:
                out[f"{n} is transposed"] = _turned(n), f"Which way round does `{n}` stand?"
            for word, f in (
                ("squared", torch.square),
                ("its own root", torch.sqrt),
                ("replaced by its sizes without sign", torch.abs),
            ):
                out[f"{n} is {word}"] = _changed(n, f), f"What happens to `{n}` before it is used?"
            if v.ndim > 1:
                out[f"{n} has its first row only, in every row"] = (
                    _changed(n, lambda t: t[:1].expand_as(t)),
                    f"Which rows of `{n}` belong where?",
                )
                out[f"the rows of {n} come in reverse"] = (
                    _changed(n, lambda t: t.flip(0)),
                    f"In which order do the rows of `{n}` stand?",
                )
                out[f"the rows of {n} have length one"] = (
                    _changed(n, lambda t: t / t.norm(dim=-1, keepdim=True)),
                    f"Is `{n}` to keep its length?",
                )
                out[f"the rows of {n} are centred"] = (
                    _changed(n, lambda t: t - t.mean(-1, keepdim=True)),
                    f"Is `{n}` to keep its mean?",
                )
        elif isinstance(v, torch.Tensor):
            out[f"{n} is one everywhere"] = _ones(n), f"What is `{n}` for?"
            out[f"{n} has zeros and ones exchanged"] = _changed(n, lambda t: 1 - t), f"What does a one in `{n}` say?"
            out[f"{n} begins one place later"] = (
                _changed(n, lambda t: t.roll(-1, -1)),
                f"Which entry of `{n}` belongs to which place?",
            )
            out[f"{n} begins one place earlier"] = (
                _changed(n, lambda t: t.roll(1, -1)),
                f"Which entry of `{n}` belongs to which place?",
            )
        elif isinstance(v, bool):
            out[f"{n} is the opposite"] = _not(n), f"Which of the two cases does `{n} = True` ask for?"
            out[f"{n} is always True"] = _set(n, True), f"When is `{n}` to make a difference?"
            out[f"{n} is always False"] = _set(n, False), f"When is `{n}` to make a difference?"
        elif isinstance(v, (int, float)):
            out[f"{n} is 1"] = _set(n, 1), f"What should happen to the answer when `{n}` is doubled?"
            out[f"{n} is 0"] = _set(n, 0), f"Where does `{n}` come in?"
            if isinstance(v, int):
                out[f"{n} is one more"] = (
                    _step(n, 1),
                    f"Where does the counting of `{n}` begin, and is the last one in it?",
                )
                out[f"{n} is one less"] = (
                    _step(n, -1),
                    f"Where does the counting of `{n}` begin, and is the last one in it?",
                )
            for factor, word in ((2, "twice as large"), (0.5, "half as large"), (-1, "of the other sign")):
                out[f"{n} is {word}"] = _changed(n, lambda t, k=factor: t * k), f"How often does `{n}` come in?"
            out[f"{n} is its own square"] = _changed(n, lambda t: t * t), f"How often does `{n}` come in?"
            out[f"{n} is its own root"] = _changed(n, lambda t: abs(t) ** 0.5), f"Is a root to be taken of `{n}`?"
            out[f"{n} is one divided by itself"] = (
                _changed(n, lambda t: 1 / t),
                f"On which side of the fraction does `{n}` stand?",
            )
            out[f"{n} is taken from 1"] = (
                _changed(n, lambda t: 1 - t),
                f"Which share does `{n}` say: the one taken, or the one left?",
            )
        elif isinstance(v, list) and v:
            out[f"{n} comes in reverse"] = _changed(n, lambda t: t[::-1]), f"In which order does `{n}` stand?"
            out[f"{n} has no first entry"] = _changed(n, lambda t: t[1:]), f"What happens to the first of `{n}`?"
            out[f"{n} has no last entry"] = _changed(n, lambda t: t[:-1]), f"What happens to the last of `{n}`?"
            if isinstance(v[0], bool):
                out[f"{n} has True and False exchanged"] = (
                    _changed(n, lambda t: [not b for b in t]),
                    f"What does a True in `{n}` say?",
                )
            if isinstance(v[0], list):
                out[f"{n} has rows and columns exchanged"] = (
                    _changed(n, lambda t: [list(c) for c in zip(*t)]),
                    f"What does a row of `{n}` say, and what a column?",
                )
    for one, other in combinations(given, 2):
        a, b = given[one], given[other]
        alike = type(a) is type(b) and not isinstance(a, (str, bool))
        if alike and (not isinstance(a, torch.Tensor) or (a.shape == b.shape and a.dtype == b.dtype)):
            out[f"{one} and {other} are exchanged"] = (
                _exchanged(one, other),
                f"Which of `{one}` and `{other}` is which?",
            )
            out[f"{other} is {one}"] = (lambda g, o=one, t=other: {**g, t: g[o]}), f"Where does `{other}` come in?"
            out[f"{one} is {other}"] = (lambda g, o=one, t=other: {**g, o: g[t]}), f"Where does `{one}` come in?"
    return out


_ANSWERED = {}


def answered(exercise, seed, words):
    """{case: what the reference does when it is asked this question instead} (cases in which it raises are left out)."""
    from ..checking import observations

    key = (exercise.id, seed, words)
    if key not in _ANSWERED:
        if len(_ANSWERED) > 20_000:
            _ANSWERED.clear()
        change = questions(exercise, cases_of(exercise.id, seed)[0]).get(words)
        if change is None:
            _ANSWERED[key] = {}
        else:
            seen = observations(exercise, asked(exercise.reference, names_of(exercise), change[0]), seed)
            _ANSWERED[key] = {i: o for i, o in enumerate(seen) if "error" not in o}
    return _ANSWERED[key]


def another_question(ev, what, pairs, where, sentence):
    """What is seen is right for other inputs: those in which a bias is zero, alpha is 1, two are exchanged ..."""
    if not pairs or not names_of(ev.exercise) or where is not None:
        return None
    if all(p.y is None or p.y.numel() < 2 for p in pairs) and min(len({repr(p.a) for p in pairs}), len({repr(p.b) for p in pairs})) < 3:
        return None  # yes or no is answered by many questions in the same way
    fits = []
    for words, (_, ask) in questions(ev.exercise, pairs[0].case).items():
        first = [p for p in pairs if p.seed == ev.seed]
        hits = [_matches(p, words) for p in first]
        if all(hits):
            test = lambda p, w=words: _matches(p, w)
            if all(test(p) for p in pairs):
                fits.append((words, ask, test))
    if not fits:
        return None
    words, ask, test = fits[0]
    name = _quoted(words, names_of(ev.exercise))
    return stated(
        ev, what, sentence(f"this is the right answer to another question, in which {name}. {ask}"), test, where
    )


def _matches(p, words):
    from ..compare import difference

    other = answered(p.exercise, p.seed, words).get(p.index)
    return other is not None and p.what in other and difference(p.a, other[p.what]) is None


def _quoted(words, names):
    return " ".join(f"`{w}`" if w in names else w for w in words.split(" "))
