"""Places: the right numbers in other places, in another shape, or right in some places only."""

import operator
from itertools import permutations

import torch

from ..compare import TOLERANCE
from .claim import listed, stated
from .size import usable


def tensors(pairs):
    """Pairs of tensors, at least one of them wrong."""
    good = all(
        isinstance(p.a, torch.Tensor) and isinstance(p.b, torch.Tensor) and p.finite for p in pairs if p.x is not None
    )
    return (
        pairs
        if good and all(p.x is not None and p.y is not None for p in pairs) and any(p.wrong for p in pairs)
        else []
    )


def kind_of_number(ev, what, pairs, where, sentence):
    """Right but for the dtype."""
    pairs = [p for p in tensors(pairs) if p.a.dtype != p.b.dtype]
    if not pairs or any(not _same_numbers(p) for p in pairs):
        return None
    a, b = (str(t.dtype)[6:] for t in (pairs[0].a, pairs[0].b))
    if a == b or any(str(p.a.dtype)[6:] != a or str(p.b.dtype)[6:] != b for p in pairs):
        a, b = "another type", "the input's"
    words = f"the numbers are right and their type is not: {a}, where {b} is expected. Which line changes the type, or makes a tensor without saying which?"
    return stated(
        ev, what, sentence(words), lambda p: isinstance(p.a, torch.Tensor) and (not p.wrong or _same_numbers(p)), where
    )


def _same_numbers(p):
    """Up to the rounding of the coarser of the two types."""
    rough = TOLERANCE.get(p.a.dtype, 0) / p.tolerance
    return (
        p.x.shape == p.y.shape and p.close(p.x, p.y, max(float(p.y.abs().max()), 1e-12) * max(rough, 1))
        if p.y.numel()
        else True
    )


def moved(f):
    """The same numbers, put elsewhere by `f` (which may fail, or not apply)."""

    def test(p):
        if p.x is None or p.y is None or p.x.numel() != p.y.numel() or p.y.ndim == 0 or not p.finite:
            return False
        try:
            return p.close(p.x.reshape(-1) if f is None else p.x, p.y.reshape(-1) if f is None else f(p.y))
        except (RuntimeError, IndexError):
            return False

    return test


def _swap(i, j):
    return lambda y: y.transpose(i, j)


def _cut(order):
    """Reshaped into the shape that turning would have given: the numbers are not where turning puts them."""
    return lambda y: y.permute(order).reshape(y.shape) if y.ndim == len(order) else _fail()


def _uncut(order):
    def f(y):
        if y.ndim != len(order):
            _fail()
        back = [order.index(i) for i in range(y.ndim)]
        return y.reshape([y.shape[i] for i in order]).permute(back)

    return f


def _fail():
    raise RuntimeError


def _as_column(y):
    return y.reshape(y.shape[::-1]) if y.ndim == 2 else _fail()


PLACES = [
    ("transposed: rows and columns have changed places. Which matrix is to be turned, and where?", _swap(-1, -2)),
    ("transposed: the first two dimensions have changed places. Which of them comes first?", _swap(0, 1)),
    ("transposed: the first and the last dimension have changed places. Which of them comes first?", _swap(0, -1)),
    ("the same numbers in reverse order, along the first dimension. From which end is it to begin?", lambda y: y.flip(0)),
    ("the same numbers in reverse order, along the last dimension. From which end is it to begin?", lambda y: y.flip(-1)),
]  # fmt: skip
PLACES += [
    (f"the same numbers, shifted by {abs(k)} along the {'first' if d == 0 else 'last'} dimension (what falls off comes in again at the other end). Where should the first one stand?", lambda y, k=k, d=d: y.roll(k, d))
    for d in (0, -1)
    for k in (1, -1, 2, -2)
]  # fmt: skip
PLACES.append(
    (
        "the right numbers in order, but cut into another shape: dimensions were cut (reshape, view) where they should be turned (transpose, permute). Which is it that your line does?",
        _as_column,
    )
)
CUT = "the right numbers, but cut where they should be turned: `reshape` and `view` read on in memory, `transpose` and `permute` turn. Which of them does this step need?"
PLACES += [
    (CUT, f(order))
    for n in (2, 3, 4)
    for order in permutations(range(n))
    if order != tuple(range(n))
    for f in (_cut, _uncut)
]


def elsewhere(ev, what, pairs, where, sentence):
    """The same numbers in other places, and which move explains it."""
    pairs = tensors(pairs) or usable(pairs)
    if not pairs or any(p.x.numel() != p.y.numel() for p in pairs) or sum(p.y.numel() for p in pairs) < 4:
        return None
    if any(not p.close(p.x.flatten().sort().values, p.y.flatten().sort().values) for p in pairs):
        return None
    if all(len(set(p.y.flatten().tolist())) < 2 for p in pairs):
        return None
    for words, f in PLACES:
        test = moved(f)
        if all(test(p) or not p.wrong for p in pairs):
            return stated(ev, what, sentence(words), lambda p, t=test: t(p) or not p.wrong, where)
    for dim, name in ((0, "rows"), (-1, "columns")):
        test = lambda p, d=dim: p.x.shape == p.y.shape and p.y.ndim > 1 and _reordered(p, d)
        if all(test(p) for p in pairs):
            return stated(
                ev, what, sentence(f"the right {name}, in another order. What decides which comes first?"), test, where
            )
    test = lambda p: p.x.numel() == p.y.numel() and p.close(p.x.flatten().sort().values, p.y.flatten().sort().values)
    return stated(
        ev, what, sentence("the right numbers, in other places. What decides where each of them goes?"), test, where
    )


def _reordered(p, dim):
    x, y = (_lines(t, dim) for t in (p.x, p.y))
    scale = float(y.abs().max()) * 3 * p.tolerance
    hits = (x[:, None] - y[None]).abs().amax(-1) <= scale
    return bool(hits.any(0).all() and hits.any(1).all())


# ---------------------------------------------------------------- another shape


def _at(f):
    def test(p):
        try:
            return p.x is not None and p.x.shape != p.y.shape and p.finite and p.close(*f(p.x, p.y))
        except (RuntimeError, IndexError):
            return False

    return test


def _first(x, y, dim, end):
    n = min(x.shape[dim], y.shape[dim])
    if x.ndim != y.ndim or x.shape[dim] == y.shape[dim] or n == 0:
        _fail()
    cut = (lambda t: t.narrow(dim, 0, n)) if end == "first" else lambda t: t.narrow(dim, t.shape[dim] - n, n)
    return cut(x), cut(y)


RESHAPED = [
    ("the right numbers, with a dimension of size one too many or too few. Which line keeps or drops it?", lambda x, y: (x.squeeze(), y.squeeze())),
    ("transposed: the dimensions stand the other way round. Which comes first?", lambda x, y: (x.mT, y)),
    ("transposed: the dimensions stand the other way round. Which comes first?", lambda x, y: (x.transpose(0, 1), y)),
    ("the right numbers in another shape. Which line joins or splits dimensions?", lambda x, y: (x.flatten(), y.flatten())),
]  # fmt: skip
RESHAPED += [
    (f"the {end} {'rows' if d == 0 else 'columns'} are right, and too many or too few of them are there. Where does it begin, and where does it end?", lambda x, y, d=d, e=end: _first(x, y, d, e))
    for d in (0, -1)
    for end in ("first", "last")
]  # fmt: skip
for _d, _n in ((0, "first"), (-1, "last"), (1, "second")):
    RESHAPED += [
        (f"what is expected, added up over its {_n} dimension. Should anything be added up there?", lambda x, y, d=_d: (x, y.sum(d))),
        (f"what is expected, averaged over its {_n} dimension. Should anything be averaged there?", lambda x, y, d=_d: (x, y.mean(d))),
        (f"what is expected is the sum of yours over its {_n} dimension. Over what is to be added up?", lambda x, y, d=_d: (x.sum(d), y)),
        (f"what is expected is the mean of yours over its {_n} dimension. Over what is the mean to be taken?", lambda x, y, d=_d: (x.mean(d), y)),
        (f"only one slice of what is expected, the first along its {_n} dimension. What happens to the others?", lambda x, y, d=_d: (x, y.select(d, 0))),
        (f"what is expected, many times over along a {_n} dimension that should not be there. Where is it spread out?", lambda x, y, d=_d: (x, y.unsqueeze(d).expand(x.shape))),
    ]  # fmt: skip


def reshaped(ev, what, pairs, where, sentence):
    """Another shape, and how it came about."""
    pairs = [p for p in tensors(pairs) if p.x.shape != p.y.shape]
    if not pairs:
        return None
    for words, f in RESHAPED:
        test = _at(f)
        if all(test(p) for p in pairs):
            return stated(
                ev, what, sentence(words), lambda p, t=test: p.x is not None and (p.x.shape == p.y.shape or t(p)), where
            )
    return None


# ---------------------------------------------------------------- right in some places only


def agree(p):
    """A boolean tensor: which entries are right."""
    scale = max(float(p.y.abs().max()), 1e-12)
    return (p.x - p.y).abs() <= 3 * p.tolerance * scale


SPOTS = [
    ("in the first {n} and nowhere else", lambda n: [i == 0 for i in range(n)]),
    ("in the last {n} and nowhere else", lambda n: [i == n - 1 for i in range(n)]),
    ("in every {n} but the first", lambda n: [i > 0 for i in range(n)]),
    ("in every {n} but the last", lambda n: [i < n - 1 for i in range(n)]),
]


def partly(ev, what, pairs, where, sentence):
    """Right in the first row only, on the diagonal only, where something is zero only ..."""
    pairs = [p for p in usable(pairs) if p.wrong]
    pairs = [p for p in pairs if p.x.numel() > 1]
    if not pairs:
        return None
    ask = "What is different there?"
    for dim, noun in ((0, "row"), (-1, "column"), (1, "place along dimension 1")):
        name = noun if any(p.y.ndim > 1 for p in pairs) else "entry"
        if (dim and name == "entry") or any(p.y.ndim <= abs(dim) - (dim < 0) or p.y.shape[dim] < 2 for p in pairs):
            continue
        for words, right in SPOTS:
            test = lambda p, d=dim, r=right: (
                p.comparable and (not p.wrong or (spots := _spots(p, d)) is not None and spots == r(len(spots)))
            )
            if all(test(p) for p in pairs):
                return stated(ev, what, sentence(f"right {words.format(n=name)}. {ask}"), test, where)
    for words, f in MASKS:
        test = lambda p, f=f: p.comparable and (not p.wrong or _mask(p, f))
        if all(test(p) for p in pairs):
            return stated(ev, what, sentence(f"{words}. {ask}"), test, where)
    return _by_input(ev, what, pairs, where, sentence) or _some_rows(ev, what, pairs, where, sentence)


def _lines(t, dim):
    """The slices of a tensor along one of its dimensions, each as a row."""
    return t.movedim(dim, 0).reshape(t.shape[dim], -1)


def _spots(p, dim):
    if p.y.ndim <= (dim if dim >= 0 else -dim - 1):
        return None
    good = _lines(agree(p), dim)
    if not bool((good.all(1) | ~good.any(1)).all()) and float(good.double().mean()) > 0.9:
        return None
    return good.all(1).tolist()


def _mask(p, f):
    try:
        right = f(p.x, p.y)
    except (RuntimeError, IndexError):
        return False
    if right is None or not 0 < int(right.sum()) < right.numel():
        return False
    if isinstance(p.b, torch.Tensor) and not p.b.is_floating_point():
        return bool((right == agree(p)).all())  # whole numbers are not rounded
    gap = (p.x - p.y).abs()[right != agree(p)]  # so near to each other that it may be rounding is neither right nor wrong
    return not gap.numel() or float(gap.max()) <= 50 * p.tolerance * float(p.y.abs().max())


def _grid(y, compare):
    """Where row and column of a matrix compare so."""
    if y.ndim != 2 or min(y.shape) < 2:
        return None
    i, j = (torch.arange(n) for n in y.shape)
    return compare(i[:, None], j[None, :])


MASKS = [
    ("right on the diagonal, and nowhere else", lambda x, y: _grid(y, operator.eq)),
    ("right everywhere but on the diagonal", lambda x, y: _grid(y, operator.ne)),
    ("right on and below the diagonal, and not above", lambda x, y: _grid(y, operator.ge)),
    ("right below the diagonal only", lambda x, y: _grid(y, operator.gt)),
    ("right on and above the diagonal, and not below", lambda x, y: _grid(y, operator.le)),
    ("right above the diagonal only", lambda x, y: _grid(y, operator.lt)),
    ("right where zero is expected, and wrong everywhere else", lambda x, y: y == 0),
    ("wrong where zero is expected, and right everywhere else", lambda x, y: y != 0),
    ("right where the expected number is above zero, and wrong where it is below", lambda x, y: y > 0),
    ("right where the expected number is below zero, and wrong where it is above", lambda x, y: y < 0),
    ("right where yours is not zero, and zero where something is expected", lambda x, y: (x != 0) | (y == 0)),
    ("wrong where -100 is expected, and right everywhere else", lambda x, y: y != -100),
    ("right in the upper half of the rows", lambda x, y: (torch.arange(len(y)) < len(y) // 2).view(-1, *[1] * (y.ndim - 1)).expand(y.shape)),
    ("right in the lower half of the rows", lambda x, y: (torch.arange(len(y)) >= len(y) // 2).view(-1, *[1] * (y.ndim - 1)).expand(y.shape)),
]  # fmt: skip


def _by_input(ev, what, pairs, where, sentence):
    """Right exactly in the first or last n places of a dimension, for an n of the case; or where a whole-number input has certain values."""
    names = [n for n in pairs[0].sizes if all(n in p.sizes for p in pairs)]
    for dim, noun in ((-1, "columns"), (0, "rows"), (1, "places along dimension 1")):
        for n in names:
            for side, words in (("first", "first"), ("last", "last")):
                test = lambda p, d=dim, n=n, s=side: (
                    p.comparable and (not p.wrong or _front(p, d, p.sizes.get(n, 0), s))
                )
                if all(test(p) for p in pairs):
                    text = f"right in the {words} {n} {noun} and wrong in the rest. What is different there?"
                    return stated(ev, what, sentence(text), test, where)
    return None


def _front(p, dim, n, side):
    if p.y.ndim < 2 or (dim == 1 and p.y.ndim < 3) or n != int(n) or not 0 < n < p.y.shape[dim]:
        return False
    n = int(n)
    spots = _spots(p, dim)
    size = p.y.shape[dim]
    return spots == [(i < n) if side == "first" else (i >= size - n) for i in range(size)]


def _some_rows(ev, what, pairs, where, sentence):
    """Whole rows or columns are right and whole ones are wrong."""
    for dim, noun in ((0, "rows"), (-1, "columns")):
        if any(p.y.ndim < 2 or p.y.shape[dim] < 2 for p in pairs):
            continue

        def test(p, dim=dim):
            if not p.wrong:
                return True
            if not p.comparable:
                return False
            good = _lines(agree(p), dim)
            clean = good.all(1) | (good.double().mean(1) < 0.5)
            return bool(clean.all() and good.all(1).any())

        if all(test(p) for p in pairs):
            rights = _spots(pairs[0], dim) or _lines(agree(pairs[0]), dim).all(1).tolist()
            which = listed([i for i, r in enumerate(rights) if r][:6])
            text = f"some {noun} are right and the others wrong, in every case that is wrong (with {pairs[0].case.label} those right are {which}). What do these have in common?"
            return stated(ev, what, sentence(text), test, where)
    return None


def along(ev, what, pairs, where, sentence):
    """Each row or each column right but for a factor, or a summand, of its own."""
    pairs = usable(pairs)
    if not pairs or not any(p.y.ndim > 1 and min(p.y.shape) > 1 for p in pairs):
        return None
    for dim, noun in ((-1, "row"), (0, "column"), (1, "place along dimension 1")):
        test = lambda p, d=dim: _factors(p, d) is not None
        if all(test(p) for p in pairs):
            cause = _cause([(p, _factors(p, dim)) for p in pairs])
            words = f"each {noun} has the right direction, and a factor of its own is too much or missing"
            if cause is None:
                return stated(
                    ev,
                    what,
                    sentence(f"{words}. What does each {noun} have to be divided by, or multiplied with?"),
                    test,
                    where,
                )
            text, f = cause
            return stated(
                ev,
                what,
                sentence(f"{words}: {text}. How often should that come in?"),
                lambda p, d=dim, f=f: (got := _factors(p, d)) is not None and _like(got, f(p)),
                where,
            )
    for dim, noun in ((0, "row"), (-1, "column")):
        test = lambda p, d=dim: _summands(p, d)
        if all(test(p) for p in pairs):
            return stated(
                ev,
                what,
                sentence(
                    f"each {noun} is off by the same amounts as the next. What is added or left out there that does not depend on the {noun}?"
                ),
                test,
                where,
            )
    return None


def _factors(p, dim):
    """The factor of each row (dim -1), or None where rows differ by more than a factor."""
    if not p.comparable or p.y.ndim < 2 or (dim == 1 and p.y.ndim < 3) or p.y.shape[dim] < 2:
        return None if p.wrong or not p.comparable else torch.ones(1)
    square = (p.y * p.y).sum(dim, keepdim=True)
    if float(square.min()) < 1e-20:
        return None
    c = (p.x * p.y).sum(dim, keepdim=True) / square
    return c.squeeze(dim) if p.close(p.x, c * p.y, float(max(p.x.abs().max(), p.y.abs().max()))) else None


def _like(c, due):
    return (
        c.numel() == 1 or due is not None and c.shape == due.shape and bool(((c - due).abs() <= 1e-4 * due.abs()).all())
    )


def _cause(found):
    """What the factors are: an input vector to a power, or the lengths of an input's rows or columns to a power."""
    from .evidence import arguments

    first = found[0][0]
    for name, value in arguments(first.exercise, first.case).items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            continue
        for power, word in (
            (1, ""),
            (-1, "one divided by "),
            (2, "the square of "),
            (-2, "one divided by the square of "),
            (0.5, "the root of "),
        ):
            options = [(f"{word}`{name}`", lambda v: v)]
            if value.ndim == 2:
                options = [(f"{word}the length of its row of `{name}`", lambda v: v.norm(dim=-1)), (f"{word}the length of its column of `{name}`", lambda v: v.norm(dim=0))]  # fmt: skip
            for text, g in options:
                f = lambda p, n=name, g=g, q=power: _powered(p, n, g, q)
                if all(_like(c, f(p)) for p, c in found) and any(c.numel() > 1 for _, c in found):
                    return text, f
    return None


def _powered(p, name, g, power):
    from .evidence import arguments

    value = arguments(p.exercise, p.case).get(name)
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return None
    try:
        return g(value.double()) ** power
    except (RuntimeError, IndexError):
        return None


def _summands(p, dim):
    if not p.comparable or p.y.ndim < 2 or p.y.shape[dim] < 2:
        return p.comparable and not p.wrong
    gap = p.x - p.y
    return p.close(gap, gap.mean(dim, keepdim=True).expand_as(gap), float(max(p.x.abs().max(), p.y.abs().max())))
