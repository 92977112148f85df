"""Lesson 12, one base, many tasks: sums of adapters, exact and not, merges by TIES and DARE, rows of a mixed batch, a router.

An adapter is (A, B, s) everywhere: A (r, d_in), B (d_out, r), and the scale s that stands before B A, such as alpha / r.
"""

import torch
import torch.nn.functional as F

from ..exercise import Case, Exercise, Question, Unexpected
from ..observing import given

LESSON = "12-one-base-many-tasks"


def draws(seed):
    """A function that draws normal tensors of a shape, the same for the same seed."""
    draw = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=draw)


def loras(draw, d_in, d_out, *ranks):
    """One (A, B, s) for each rank; no two scales are alike, and none is one."""
    return [(draw(r, d_in), draw(d_out, r), 0.5 + 0.75 * i + float(draw(1).abs())) for i, r in enumerate(ranks)]


def copies(adapters):
    return [(A.clone(), B.clone(), s) for A, B, s in adapters]


# ================================================================ predict

strangers = Question(
    "orthogonal-updates",
    lesson=LESSON,
    title="At right angles",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=2,
    question="One adapter learnt Italian, another Portuguese, each nearly without a mistake. As vectors of all their entries the two "
    "updates stand at a right angle: their cosine is about zero. You add both to the base. What becomes of the two languages?",
    options={
        "a": (
            "both stay: at right angles, neither can touch what the other does",
            "The angle is taken between the entries of two matrices. Does a layer's input stay in one adapter's share of the space, so that the other never meets it?",
        ),
        "b": (
            "that is not decided by the angle between the updates: it has to be measured",
            "What an update does depends on what enters the layer, and both adapters meet the same inputs.",
        ),
        "c": (
            "both get a little worse: half of the strength is left for each",
            "A sum takes nothing away from either. Which of the two was made weaker?",
        ),
        "d": (
            "the one with the larger norm wins, the other is lost",
            "That supposes that the rest of the model still understands what the larger one says, with the other in it. Who has checked?",
        ),
    },
    right="b",
)

relatives = Question(
    "merging-relatives",
    lesson=LESSON,
    title="Three raters of sentences",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=1,
    question="Three adapters on one encoder, under one head, tell praise from blame: one learnt it on film reviews, one on product "
    "reviews, one on tweets. Their updates, too, stand at right angles. You average the three. How well does the average do on all three domains?",
    options={
        "a": (
            "no better than chance, as with the two languages: what was trained apart can't be merged",
            "The languages have different answers to the same question. Have film reviews and tweets?",
        ),
        "b": (
            "as the base without any adapter: at a third of its strength each changes next to nothing",
            "Suppose that the three have something in common. What becomes of a common part when three thirds of it are added?",
        ),
        "c": (
            "well above the base, and about as the best single adapter or as switching",
            "What the three have in common adds up to full strength; what is each one's own gets smaller, and so does what it spoils elsewhere.",
        ),
        "d": (
            "clearly above the best single adapter: three know more than one",
            "In a single run it may come out so. What would you want to see before you say clearly?",
        ),
    },
    right="c",
)


# ================================================================ the exact sum

adding = Exercise(
    "lora-sum",
    lesson=LESSON,
    title="A sum of LoRAs is a LoRA",
    signature="add_loras(adapters, weights)",
    why="Two adapters that run one after the other cost twice; their sum is one adapter, in one file, and exactly the same.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "A row of A and a column of B belong together: B A is the sum, over all ranks, of one column times one row.",
        "Put all the rows of all A under each other, and the columns of all B side by side. In which order?",
        "The weight and the scale of an adapter are one number. Into how many of the two matrices may it go?",
    ],
)


@adding.cases
def adding_cases(seed):
    draw = draws(seed)
    rows = [
        ("two adapters of equal rank", loras(draw, 5, 4, 2, 2), [0.5, 2.0]),
        ("ranks 2 and 3", loras(draw, 6, 7, 2, 3), [0.25, 3.0]),
        ("three adapters, one of them subtracted", loras(draw, 9, 8, 3, 1, 2), [1.5, -0.75, 0.5]),
        ("three of equal rank, weights that add up to 5", loras(draw, 6, 5, 2, 2, 2), [2.5, 0.5, 2.0]),
        ("one adapter alone", loras(draw, 5, 6, 3), [0.5]),
    ]
    return [Case(label, adapters=adapters, weights=weights) for label, adapters, weights in rows]


def product(value, name):
    """A and B as an answer gave them, and B A, or a sentence that says why there is none."""
    given(value, (tuple, list), name)
    if len(value) < 2:
        raise Unexpected(f"{name} gave {len(value)} things; expected A and B.")
    A, B = (real(v, name) for v in value[:2])
    if A.ndim != 2 or B.ndim != 2 or B.shape[1] != A.shape[0]:
        raise Unexpected(
            f"A has the shape {tuple(A.shape)} and B {tuple(B.shape)}: `B @ A` can't be computed. Which of their sizes is the rank?"
        )
    return A, B, B @ A


def real(value, name):
    """A tensor of real numbers, or a sentence that says where others come from."""
    if given(value, torch.Tensor, name).is_complex():
        raise Unexpected(f"{name} gave complex numbers: in Python the root of a number below zero is complex. Of what is the root to be taken here?")
    return value


def unchanged(before, after):
    return all(torch.equal(p, q) for one, other in zip(before, after) for p, q in zip(one[:2], other[:2]))


@adding.observe
def look_adding(answer, case):
    adapters = copies(case.adapters)
    A, _, update = product(answer(adapters, list(case.weights)), "`add_loras`")
    return {"B A": update, "rows of A": len(A), "the adapters are left as they were": unchanged(case.adapters, adapters)}


def made_of(x, products):
    """(how many times each product is in x, the share of x's norm that is none of them)."""
    columns = torch.stack([p.flatten() for p in products], 1).double()
    found = torch.linalg.lstsq(columns, x.flatten()[:, None].double()).solution[:, 0]
    rest = x.flatten().double() - columns @ found
    return found.tolist(), float(rest.norm() / x.double().norm().clamp(min=1e-12))


def first_wrong(cases, seen, expected, what):
    """(case, what was seen, what was expected) of the first case that is wrong and can be looked at, or None."""
    for case, mine, theirs in zip(cases, seen, expected):
        x, y = mine.get(what), theirs[what]
        if not isinstance(x, torch.Tensor) or x.shape != y.shape or x.dtype != y.dtype or not x.isfinite().all():
            return None
        if not torch.allclose(x, y, atol=1e-4, rtol=1e-4):
            return case, x, y
    return None


@adding.evidence
def how_often_each_comes(cases, seen, expected):
    """How many times each adapter's own product is in the answer, or that something else is in it."""
    if not (found := first_wrong(cases, seen, expected, "B A")):
        return None
    case, x, _ = found
    times, rest = made_of(x, [B @ A for A, B, _ in case.adapters])
    if rest > 1e-3:
        return (
            f"With {case.label}, {rest:.0%} of the norm of your `B @ A` is in none of the adapters' own products: a row of A meets a column "
            "of B that is not its own, or its entries were changed one by one. Which columns does each row meet?"
        )
    said = (
        f"adapter {i}: {c:.3g} times, with w = {w:g} and s = {s:.3g}"
        for i, (c, w, (_, _, s)) in enumerate(zip(times, case.weights, case.adapters), 1)
    )
    return f"With {case.label}, each adapter's own product is in your `B @ A` so often: {'; '.join(said)}. How often should it be?"


@adding.term("B A")
def adding_terms(case):
    names = ("first", "second", "third")
    return {f"{n} adapter's update": w * s * B @ A for n, (A, B, s), w in zip(names, case.adapters, case.weights)}


@adding.solution
def by_stacking(adapters, weights):
    A = torch.cat([A for A, _, _ in adapters])
    B = torch.cat([w * s * B for (_, B, s), w in zip(adapters, weights)], 1)
    return A, B


@adding.solution
def weights_in_a(adapters, weights):
    rows, columns = [], []
    for (A, B, s), w in zip(adapters, weights):
        rows += list(w * s * A)
        columns += list(B.T)
    return torch.stack(rows), torch.stack(columns, 1)


@adding.solution
def into_blocks(adapters, weights):
    ranks = [len(A) for A, _, _ in adapters]
    whole_A = torch.zeros(sum(ranks), adapters[0][0].shape[1])
    whole_B = torch.zeros(adapters[0][1].shape[0], sum(ranks))
    start = 0
    for (A, B, s), w, r in zip(adapters, weights, ranks):
        whole_A[start : start + r] = A
        whole_B[:, start : start + r] = B * (s * w)
        start += r
    return whole_A, whole_B


def stacked(adapters, on_a, on_b):
    """All A under each other and all B side by side, each times a number of its own."""
    A = torch.cat([f * A for f, (A, _, _) in zip(on_a, adapters)])
    return A, torch.cat([f * B for f, (_, B, _) in zip(on_b, adapters)], 1)


def ones(adapters):
    return [1.0] * len(adapters)


@adding.slip(
    "All A are added up, and all B, as `linear` of `peft` does. Multiply it out: which products are in there that nobody asked for?"
)
def each_added_up(adapters, weights):
    return sum(A for A, _, _ in adapters), sum(w * s * B for (_, B, s), w in zip(adapters, weights))


@adding.slip(
    "All A are added up, and all B, as `linear` of `peft` does, and no weight or scale is in it. Which products are in there that nobody asked for?"
)
def each_added_up_bare(adapters, weights):
    return sum(A for A, _, _ in adapters), sum(B for _, B, _ in adapters)


@adding.slip("Each weight is there twice, once in A and once in B. What becomes of it in B A?")
def weight_in_both(adapters, weights):
    return stacked(adapters, weights, [w * s for (_, _, s), w in zip(adapters, weights)])


@adding.slip("Each scale is there twice, once in A and once in B. What becomes of it in B A?")
def scale_in_both(adapters, weights):
    scales = [s for _, _, s in adapters]
    return stacked(adapters, scales, [w * s for s, w in zip(scales, weights)])


@adding.slip("The weight and the scale are in A and in B, all of it. What becomes of them in B A?")
def both_in_both(adapters, weights):
    factors = [w * s for (_, _, s), w in zip(adapters, weights)]
    return stacked(adapters, factors, factors)


@adding.slip("The weights come in, the scales do not. What stands before B A in each adapter?")
def no_scales(adapters, weights):
    return stacked(adapters, ones(adapters), weights)


@adding.slip("The scales come in, the weights do not. How much of each adapter was asked for?")
def no_weights(adapters, weights):
    return stacked(adapters, ones(adapters), [s for _, _, s in adapters])


@adding.slip("Neither the weights nor the scales come in. What stands before B A in each adapter, and how much of it was asked for?")
def bare(adapters, weights):
    return stacked(adapters, ones(adapters), ones(adapters))


@adding.slip("The root of each factor is in A and in B, and the sign is gone: what was to be subtracted is added. Where can a sign go?")
def roots_in_both(adapters, weights):
    roots = [abs(w * s) ** 0.5 for (_, _, s), w in zip(adapters, weights)]
    return stacked(adapters, roots, roots)


@adding.slip("Your weights are made to add up to one. [2, 1] and [10, 5] are different sums; which was asked for?")
def normalised_weights(adapters, weights):
    return by_stacking(adapters, [w / sum(weights) for w in weights])


@adding.slip("This is the mean, the sum divided by the number of adapters. What did the weights ask for?")
def a_mean(adapters, weights):
    return by_stacking(adapters, [w / len(weights) for w in weights])


@adding.slip("The rows of A and the columns of B stand in different orders. Which column does a row of A meet in B A?")
def orders_differ(adapters, weights):
    return torch.cat([A for A, _, _ in adapters[::-1]]), by_stacking(adapters, weights)[1]


@adding.slip("Each adapter has another one's weight. In which order do the weights stand?")
def weights_reversed(adapters, weights):
    return by_stacking(adapters, weights[::-1])


@adding.slip("You divide by the rank once more. It is in the scale already: what is s made of?")
def divided_by_the_rank_again(adapters, weights):
    return by_stacking([(A, B, s / len(A)) for A, B, s in adapters], weights)


@adding.slip("The update is right, and A has as many rows as the layer has outputs: nothing is small any more. How many ranks do the adapters have together?")
def the_whole_matrix(adapters, weights):
    update = sum(w * s * B @ A for (A, B, s), w in zip(adapters, weights))
    return update, torch.eye(len(update))


@adding.slip("Only the first adapter is in it. What became of the others?")
def the_first_alone(adapters, weights):
    return by_stacking(adapters[:1], weights)


@adding.slip("The last adapter is missing. Where does your loop end?")
def without_the_last(adapters, weights):
    return by_stacking(adapters[: max(1, len(adapters) - 1)], weights)


# ================================================================ cut to a rank

cutting = Exercise(
    "lora-cut",
    lesson=LESSON,
    title="Cut a sum to a rank",
    signature="cut(A, B, r)",
    dims={"A": "R d_in", "B": "d_out R"},
    why="A sum of a hundred adapters has the ranks of a hundred. How many of them are needed can be seen, and what the rest was.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "Lesson 02: which matrix of rank r is the nearest to a given one? Of which matrix do you need it here, of A, of B or of B A?",
        "U S V has three factors and you are to return two. Where does S go, and how often?",
        "What is left out has a norm: the root of the sum of the squares of the singular values that are gone. Beside it, the norm of the whole.",
    ],
)


@cutting.cases
def cutting_cases(seed):
    draw = draws(seed)
    sizes = [(6, 5, 4, 2), (7, 9, 3, 1), (8, 6, 5, 3), (5, 6, 9, 2), (6, 7, 3, 3)]
    cases = []
    for d_in, d_out, R, r in sizes:
        label = f"A of {R} rows, `d_in = {d_in}`, `d_out = {d_out}`, cut to `r = {r}`"
        cases.append(Case(label, tensors={"A": draw(R, d_in), "B": draw(d_out, R)}, r=r))
    return cases


@cutting.observe
def look_cutting(answer, case):
    tensors = {k: v.clone() for k, v in case.tensors.items()}
    value = given(answer(**tensors, r=case.r), (tuple, list), "`cut`")
    if len(value) != 3:
        raise Unexpected(f"`cut` gave {len(value)} things; expected three: A, B and the share of the norm that is lost.")
    A, _, update = product(value, "`cut`")
    return {"B A": update, "rows of A": len(A), "share of the norm lost": torch.tensor(round(float(value[2]), 5))}


def factors(A, B):
    return torch.linalg.svd(B @ A, full_matrices=False)


def norm_share(S, r):
    return (S[r:].norm() / S.norm()).item()


@cutting.solution
def by_svd(A, B, r):
    U, S, Vh = torch.linalg.svd(B @ A, full_matrices=False)
    lost = S[r:].norm() / S.norm()
    return Vh[:r], U[:, :r] * S[:r], lost


@cutting.solution
def roots_on_each_side(A, B, r):
    whole = B @ A
    U, S, V = torch.svd(whole)
    root = torch.diag(S[:r] ** 0.5)
    new_A, new_B = root @ V[:, :r].T, U[:, :r] @ root
    return new_A, new_B, (torch.linalg.norm(whole - new_B @ new_A) / torch.linalg.norm(whole)).item()


@cutting.solution
def by_small_factors(A, B, r):
    Q, R = torch.linalg.qr(B)
    P, T = torch.linalg.qr(A.T)
    U, S, Vh = torch.linalg.svd(R @ T.T)
    squares = (S**2).tolist()
    return torch.diag(S[:r]) @ Vh[:r] @ P.T, Q @ U[:, :r], (sum(squares[r:]) / sum(squares)) ** 0.5


@cutting.slip("The first r rows of A and columns of B: those that came first, not those that matter most. What orders them by size?")
def first_rows(A, B, r):
    new = A[:r], B[:, :r]
    return *new, ((B @ A - new[1] @ new[0]).norm() / (B @ A).norm()).item()


@cutting.slip("A and B are right. The share is of the squared norm. What is still to be taken of it?")
def squared_share(A, B, r):
    U, S, Vh = factors(A, B)
    return Vh[:r], U[:, :r] * S[:r], norm_share(S, r) ** 2


@cutting.slip("A and B are right. The share is that of what is kept. Which one was asked for?")
def share_kept(A, B, r):
    U, S, Vh = factors(A, B)
    return Vh[:r], U[:, :r] * S[:r], (S[:r].norm() / S.norm()).item()


@cutting.slip("A and B are right. One less the share of the norm that is kept is not the share lost: squares add up, norms do not. What does Pythagoras say?")
def one_less_the_kept(A, B, r):
    U, S, Vh = factors(A, B)
    return Vh[:r], U[:, :r] * S[:r], 1 - (S[:r].norm() / S.norm()).item()


@cutting.slip("A and B are right. The share is the explained variance, of what is kept and in squares. What share of the *norm* is lost?")
def explained(A, B, r):
    U, S, Vh = factors(A, B)
    return Vh[:r], U[:, :r] * S[:r], 1 - norm_share(S, r) ** 2


@cutting.slip("A and B are right. Singular values are added up, not their squares. How is the Frobenius norm made of them?")
def plain_sums(A, B, r):
    U, S, Vh = factors(A, B)
    return Vh[:r], U[:, :r] * S[:r], (S[r:].sum() / S.sum()).item()


@cutting.slip("A and B are right. This is the norm of what is lost, not a share. Of what is it a part?")
def norm_lost(A, B, r):
    U, S, Vh = factors(A, B)
    return Vh[:r], U[:, :r] * S[:r], S[r:].norm().item()


@cutting.slip("A and B are right. What is lost is divided by what is kept. What is the whole?")
def beside_the_kept(A, B, r):
    U, S, Vh = factors(A, B)
    return Vh[:r], U[:, :r] * S[:r], (S[r:].norm() / S[:r].norm()).item()


@cutting.slip("The singular values are in both factors. How often do they come in, when B meets A?")
def values_twice(A, B, r):
    U, S, Vh = factors(A, B)
    return S[:r, None] * Vh[:r], U[:, :r] * S[:r], norm_share(S, r)


@cutting.slip("The singular values are in neither factor. What gives each direction its size?")
def values_missing(A, B, r):
    U, S, Vh = factors(A, B)
    return Vh[:r], U[:, :r], norm_share(S, r)


@cutting.slip("The singular values come in by their root, and in one factor only. How often is a root needed to make the whole?")
def one_root(A, B, r):
    U, S, Vh = factors(A, B)
    return Vh[:r], U[:, :r] * S[:r].sqrt(), norm_share(S, r)


@cutting.slip("A and B are each cut on their own. What is large in A may meet what is small in B: whose singular values count?")
def each_on_its_own(A, B, r):
    def near(M):
        U, S, Vh = torch.linalg.svd(M, full_matrices=False)
        return U[:, :r] * S[:r] @ Vh[:r]

    U, S, Vh = torch.linalg.svd(near(B) @ near(A), full_matrices=False)
    whole, new = B @ A, (Vh[:r], U[:, :r] * S[:r])
    return *new, ((whole - new[1] @ new[0]).norm() / whole.norm()).item()


@cutting.slip("The last r singular values are kept, and these are the smallest. In which order do they come?")
def the_smallest(A, B, r):
    U, S, Vh = factors(A, B)
    return Vh[-r:], U[:, -r:] * S[-r:], (S[:-r].norm() / S.norm()).item()


@cutting.slip("One rank more than asked for is kept. Where does a slice `[:r]` end?")
def one_more(A, B, r):
    U, S, Vh = factors(A, B)
    return Vh[: r + 1], U[:, : r + 1] * S[: r + 1], norm_share(S, r + 1)


@cutting.slip("Nothing is cut: B A is the whole of it, with all its ranks. How many rows may A have?")
def nothing_cut(A, B, r):
    return A, B, 0.0


# ================================================================ what `linear` does

mixing = Exercise(
    "linear-combination",
    lesson=LESSON,
    title="What `linear` does",
    signature="linear(adapters, weights)",
    why="It is called a combination of adapters, it is the choice of many a tutorial, and it is no sum. Once by hand, and you know how far off it is.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "Make the combined A first, one matrix of the shape of each A, and the combined B. Only then multiply.",
        "The root of |w s| goes into both, so that their product holds w s once.",
        "A root has no sign. Into which of the two does the sign of w s go, so that it does not cancel?",
    ],
)


@mixing.cases
def mixing_cases(seed):
    draw = draws(seed)
    rows = [
        ("two adapters", loras(draw, 6, 5, 3, 3), [1.0, 2.0]),
        ("two adapters, one subtracted", loras(draw, 5, 7, 2, 2), [1.5, -0.5]),
        ("three adapters", loras(draw, 8, 6, 2, 2, 2), [0.25, 3.0, 0.5]),
        ("three adapters, two of them subtracted", loras(draw, 5, 6, 3, 3, 3), [-1.0, 0.5, -2.0]),
        ("one adapter alone", loras(draw, 6, 4, 2), [0.5]),
    ]
    return [Case(label, adapters=adapters, weights=weights) for label, adapters, weights in rows]


@mixing.observe
def look_mixing(answer, case):
    adapters = copies(case.adapters)
    update = real(answer(adapters, list(case.weights)), "`linear`")
    return {"update": update, "the adapters are left as they were": unchanged(case.adapters, adapters)}


@mixing.evidence
def which_product_is_off(cases, seen, expected):
    """How many times B of one adapter with A of another is in the answer, for the first pair that is off."""
    if not (found := first_wrong(cases, seen, expected, "update")):
        return None
    case, x, _ = found
    pairs = [(i, j) for i in range(len(case.adapters)) for j in range(len(case.adapters))]
    times, rest = made_of(x, [case.adapters[i][1] @ case.adapters[j][0] for i, j in pairs])
    if rest > 1e-3:
        return (
            f"With {case.label}, {rest:.0%} of the norm of your update is no product of some B with some A: entries were changed one by "
            "one, before or after. What may A and B be multiplied by, before they are added up?"
        )
    f, root, sign = parts(case.adapters, case.weights)
    for (i, j), c in zip(pairs, times):
        if abs(c - root[i] * root[j] * sign[j]) > 1e-3 * (1 + abs(c)):
            return (
                f"With {case.label}, the product of adapter {i + 1}'s B with adapter {j + 1}'s A is in your update {c:.3g} times. There w s "
                f"is {f[i]:.3g} for the B and {f[j]:.3g} for the A. Which factor does each of the two bring along?"
            )
    return None


@mixing.term("update")
def mixing_terms(case):
    own = sum(w * s * B @ A for (A, B, s), w in zip(case.adapters, case.weights))
    return {
        "adapters' own products": own,
        "products of one adapter's B with another's A": by_combined_factors(case.adapters, case.weights) - own,
    }


@mixing.solution
def by_combined_factors(adapters, weights):
    A, B = 0, 0
    for (a, b, s), w in zip(adapters, weights):
        root = abs(w * s) ** 0.5
        A = A + (root if w * s >= 0 else -root) * a
        B = B + root * b
    return B @ A


@mixing.solution
def pair_by_pair(adapters, weights):
    signed = [w * s for (_, _, s), w in zip(adapters, weights)]
    total = torch.zeros(adapters[0][1].shape[0], adapters[0][0].shape[1])
    for (_, B, _), f in zip(adapters, signed):
        for (A, _, _), g in zip(adapters, signed):
            total += abs(f) ** 0.5 * B @ (A * abs(g) ** 0.5) * (1 if g > 0 else -1)
    return total


@mixing.solution
def with_tensors(adapters, weights):
    f = torch.tensor([w * s for (_, _, s), w in zip(adapters, weights)])
    A, B = torch.stack([a for a, _, _ in adapters]), torch.stack([b for _, b, _ in adapters])
    root = f.abs().sqrt()[:, None, None]
    return (root * B).sum(0) @ (root * f.sign()[:, None, None] * A).sum(0)


def combined(adapters, on_a, on_b):
    A = sum(f * a for f, (a, _, _) in zip(on_a, adapters))
    return sum(f * b for f, (_, b, _) in zip(on_b, adapters)) @ A


def parts(adapters, weights):
    """(the factors w s, their roots, their signs)."""
    f = [w * s for (_, _, s), w in zip(adapters, weights)]
    return f, [abs(x) ** 0.5 for x in f], [1 if x >= 0 else -1 for x in f]


@mixing.slip("This is the sum of the updates, which `linear` is not. What is added up first, before anything is multiplied?")
def the_sum(adapters, weights):
    return sum(w * s * B @ A for (A, B, s), w in zip(adapters, weights))


@mixing.slip("What was to be subtracted is added: the sign is lost with the root. Where does it go in again?")
def sign_lost(adapters, weights):
    _, root, _ = parts(adapters, weights)
    return combined(adapters, root, root)


@mixing.slip("The sign goes into A and into B, where it cancels. Into how many of the two may it go?")
def sign_in_both(adapters, weights):
    _, root, sign = parts(adapters, weights)
    signed = [r * g for r, g in zip(root, sign)]
    return combined(adapters, signed, signed)


@mixing.slip("The sign goes with B here; in the library it goes with A. Of three adapters, which products change their sign by that?")
def sign_in_b(adapters, weights):
    _, root, sign = parts(adapters, weights)
    return combined(adapters, root, [r * g for r, g in zip(root, sign)])


@mixing.slip("The whole of w s is in A and in B, so that it is squared. What of it goes into each?")
def no_roots(adapters, weights):
    f, _, _ = parts(adapters, weights)
    return combined(adapters, f, f)


@mixing.slip("The whole of w s is in A, and B is added up without any. What goes into each of the two?")
def all_in_a(adapters, weights):
    f, _, _ = parts(adapters, weights)
    return combined(adapters, f, ones(adapters))


@mixing.slip("The whole of w s is in B, and A is added up without any. What goes into each of the two?")
def all_in_b(adapters, weights):
    f, _, _ = parts(adapters, weights)
    return combined(adapters, ones(adapters), f)


@mixing.slip("The scales are missing: the roots are those of the weights alone. What stands before B A in each adapter?")
def roots_of_the_weights(adapters, weights):
    root = [abs(w) ** 0.5 for w in weights]
    return combined(adapters, [r if w >= 0 else -r for r, w in zip(root, weights)], root)


@mixing.slip("The weights are missing: the roots are those of the scales alone. How much of each adapter was asked for?")
def roots_of_the_scales(adapters, weights):
    root = [s**0.5 for _, _, s in adapters]
    return combined(adapters, root, root)


@mixing.slip("Neither weights nor scales are in it: all A are added up, and all B. What of w s goes into each?")
def added_up_bare(adapters, weights):
    return combined(adapters, ones(adapters), ones(adapters))


@mixing.slip("This is a mean, of A and of B: it is divided by the number of adapters twice. Does the rule divide at all?")
def means(adapters, weights):
    return by_combined_factors(adapters, weights) / len(adapters) ** 2


@mixing.slip("Only what is in there too much is given: one adapter's B with another's A. What of the adapters' own products?")
def cross_products_only(adapters, weights):
    return by_combined_factors(adapters, weights) - the_sum(adapters, weights)


# ================================================================ TIES

tying = Exercise(
    "ties-merge",
    lesson=LESSON,
    title="Trim, elect, merge",
    signature="ties(updates, density)",
    dims={"updates": "n d_out d_in"},
    why="Where two updates want opposite things, an average does neither. This rule lets them vote.",
    points=3,
    minutes=14,
    difficulty=3,
    hints=[
        "Trim first, each update on its own: which size must an entry have to be among its `k` largest? `topk` or `sort` of the flattened sizes.",
        "Elect, for each place, the sign of the *sum* of what is left there: many small ones can be outvoted by a large one.",
        "Merge: at each place the mean of those entries that have the elected sign. Who is not counted: those of the other sign, and who else?",
        "Where nobody has an entry left, there is nothing to divide by: what should stand there?",
    ],
)


@tying.cases
def tying_cases(seed):
    draw = draws(seed)
    rows = [((3, 4, 5), 0.5), ((2, 6, 3), 0.5), ((5, 5, 8), 0.25), ((4, 4, 6), 1.0), ((3, 5, 4), 0.1)]
    return [Case(f"{n} updates of {o} x {i}, `density = {d}`", updates=draw(n, o, i) + 0.3 * draw(1, o, i), density=d) for (n, o, i), d in rows]


@tying.observe
def look_tying(answer, case):
    updates = case.updates.clone()
    merged = given(answer(updates, case.density), torch.Tensor, "`ties`")
    return {"merged update": merged, "the updates are left as they were": torch.equal(updates, case.updates)}


@tying.evidence
def a_place_that_is_wrong(cases, seen, expected):
    """What the updates hold at the worst place, what is left there after trimming, and what the answer makes of it."""
    if not (found := first_wrong(cases, seen, expected, "merged update")):
        return None
    case, x, y = found
    i, j = divmod(int((x - y).abs().argmax()), y.shape[1])
    held, left = case.updates[:, i, j].tolist(), trim(case.updates, case.density)[:, i, j].tolist()
    kept = ", ".join(f"{v:.2f}" for v in left if v) or "nothing"
    return (
        f"With {case.label}, at [{i}, {j}] the updates hold {', '.join(f'{v:.2f}' for v in held)}. After trimming there is left: {kept}. You make "
        f"{float(x[i, j]):.2f} of it. Which of the three steps goes another way?"
    )


@tying.solution
def by_threshold(updates, density):
    sizes = updates.abs().flatten(1)
    k = int(density * sizes.shape[1])
    smallest = sizes.topk(k).values[:, -1]
    trimmed = updates * (updates.abs() >= smallest[:, None, None])
    sign = trimmed.sum(0).sign()
    agree = (trimmed.sign() == sign) & (trimmed != 0)
    return (trimmed * agree).sum(0) / agree.sum(0).clamp(min=1)


@tying.solution
def with_masks(updates, density):
    trimmed = []
    for update in updates:
        order = update.abs().flatten().argsort(descending=True)
        kept = torch.zeros(update.numel())
        kept[order[: int(density * update.numel())]] = 1
        trimmed.append(update * kept.view_as(update))
    trimmed = torch.stack(trimmed)
    positive = trimmed.sum(0) > 0
    agree = torch.where(positive, trimmed > 0, trimmed < 0)
    return torch.where(agree, trimmed, 0).sum(0) / torch.maximum(agree.sum(0), torch.tensor(1))


@tying.solution
def place_by_place(updates, density):
    k = int(density * updates[0].numel())
    limits = [sorted(u.abs().flatten().tolist())[-k] for u in updates]
    merged = torch.zeros_like(updates[0])
    for i in range(merged.shape[0]):
        for j in range(merged.shape[1]):
            left = [float(u[i, j]) for u, limit in zip(updates, limits) if abs(u[i, j]) >= limit]
            total = sum(left)
            voters = [v for v in left if v * total > 0]
            merged[i, j] = sum(voters) / len(voters) if voters else 0.0
    return merged


def trim(updates, density):
    sizes = updates.abs().flatten(1)
    k = max(1, int(density * sizes.shape[1]))
    return updates * (updates.abs() >= sizes.topk(k).values[:, -1][:, None, None])


def elect_and_merge(trimmed, sign):
    agree = (trimmed.sign() == sign) & (trimmed != 0)
    return (trimmed * agree).sum(0) / agree.sum(0).clamp(min=1)


@tying.slip("Nothing is trimmed. Which entries of each update may vote?")
def not_trimmed(updates, density):
    return elect_and_merge(updates, updates.sum(0).sign())


@tying.slip("The smallest entries are kept, and the largest trimmed. Which ones matter most?")
def smallest_kept(updates, density):
    sizes = updates.abs().flatten(1)
    k = int(density * sizes.shape[1])
    limit = sizes.topk(k, largest=False).values[:, -1]
    trimmed = updates * (updates.abs() <= limit[:, None, None])
    return elect_and_merge(trimmed, trimmed.sum(0).sign())


@tying.slip("You trim all updates together, by one limit. Is an update of small entries to have no say at all?")
def trimmed_together(updates, density):
    k = int(density * updates.numel())
    trimmed = updates * (updates.abs() >= updates.abs().flatten().topk(k).values[-1])
    return elect_and_merge(trimmed, trimmed.sum(0).sign())


@tying.slip("The largest entries are kept, signs and all: what is far below zero is trimmed away. By what are entries to be ordered?")
def largest_not_by_size(updates, density):
    flat = updates.flatten(1)
    limit = flat.topk(int(density * flat.shape[1])).values[:, -1]
    trimmed = updates * (updates >= limit[:, None, None])
    return elect_and_merge(trimmed, trimmed.sum(0).sign())


@tying.slip("What is left after trimming has lost its sign: `topk` gives sizes here. With which sign does an entry vote?")
def sizes_vote(updates, density):
    return by_threshold(updates.abs(), density)


@tying.slip("Each row keeps its own share. Over how many entries does one update choose its largest?")
def trimmed_by_rows(updates, density):
    k = max(1, int(density * updates.shape[-1]))
    trimmed = updates * (updates.abs() >= updates.abs().topk(k).values[..., -1:])
    return elect_and_merge(trimmed, trimmed.sum(0).sign())


@tying.slip("`density` is taken for the share to drop. Which share does it name, the one kept or the one dropped?")
def density_dropped(updates, density):
    if density == 1.0:
        return torch.zeros_like(updates[0])
    return by_threshold(updates, 1 - density)


@tying.slip("Each entry has one vote, whatever its size. What decides here, the number of those in favour or the sum?")
def counted_votes(updates, density):
    trimmed = trim(updates, density)
    return elect_and_merge(trimmed, trimmed.sign().sum(0).sign())


@tying.slip("The signs are elected before anything is trimmed. Who may vote?")
def elected_too_early(updates, density):
    return elect_and_merge(trim(updates, density), updates.sum(0).sign())


@tying.slip("You divide by the number of all updates. Over which of them is the mean to be taken?")
def divided_by_all(updates, density):
    trimmed = trim(updates, density)
    agree = trimmed.sign() == trimmed.sum(0).sign()
    return (trimmed * agree).sum(0) / len(updates)


@tying.slip("You divide by the number of those that were not trimmed, those of the other sign among them. Who made it into the sum?")
def divided_by_the_kept(updates, density):
    trimmed = trim(updates, density)
    agree = trimmed.sign() == trimmed.sum(0).sign()
    return (trimmed * agree).sum(0) / (trimmed != 0).sum(0).clamp(min=1)


@tying.slip("These are sums. Two that agree would push twice as far as one: what is to be taken of them?")
def summed(updates, density):
    trimmed = trim(updates, density)
    return (trimmed * (trimmed.sign() == trimmed.sum(0).sign())).sum(0)


@tying.slip("Those who lost the vote are still in the mean. Which entries are left out at a place?")
def all_in_the_mean(updates, density):
    trimmed = trim(updates, density)
    return trimmed.sum(0) / (trimmed != 0).sum(0).clamp(min=1)


@tying.slip("This is the plain mean of what was trimmed, over all updates. Where do the votes come in?")
def trimmed_mean(updates, density):
    return trim(updates, density).mean(0)


@tying.slip("The losers of the vote are merged: these entries have the other sign. Which sign won?")
def losers_merged(updates, density):
    trimmed = trim(updates, density)
    return elect_and_merge(trimmed, -trimmed.sum(0).sign())


@tying.slip("At each place the largest entry is taken alone. What of the others that agree with it?")
def the_largest(updates, density):
    trimmed = trim(updates, density)
    return trimmed.gather(0, trimmed.abs().argmax(0, keepdim=True))[0]


@tying.slip("You give signs and no sizes. How far are those who agree to push?")
def signs_only(updates, density):
    return trim(updates, density).sum(0).sign()


# ================================================================ DARE

dropping = Exercise(
    "dare-drop",
    lesson=LESSON,
    title="Drop and rescale",
    signature="dare(update, p, u)",
    dims={"update": "d_out d_in", "u": "d_out d_in"},
    why="Thin updates seldom meet. Whether the task survives the thinning is another question.",
    points=1,
    minutes=5,
    difficulty=1,
    hints=[
        "`u < p` is true with probability p, for u is even between 0 and 1.",
        "If p of the entries are gone, by what must the others be multiplied so that the mean over all draws is the update?",
    ],
)


@dropping.cases
def dropping_cases(seed):
    draw = draws(seed)

    def even(*shape):
        return torch.special.ndtr(draw(*shape))

    return [
        Case(f"an update of {o} x {i}, `p = {p}`", update=draw(o, i), p=p, u=even(o, i))
        for o, i, p in ((6, 5, 0.5), (8, 7, 0.9), (5, 9, 0.2), (4, 6, 0.0), (7, 4, 0.75))
    ]


@dropping.observe
def look_dropping(answer, case):
    update, u = case.update.clone(), case.u.clone()
    thinned = given(answer(update, case.p, u), torch.Tensor, "`dare`")
    again = answer(update, case.p, u)
    if isinstance(again, torch.Tensor) and again.shape == thinned.shape and not torch.equal(again, thinned):
        raise Unexpected("Asked twice with the same `u`, `dare` gives two answers, or has changed its input.")
    return {"thinned update": thinned, "the update is left as it was": torch.equal(update, case.update)}


@dropping.evidence
def which_side_is_wrong(cases, seen, expected):
    """Whether the entries to be dropped are wrong, or those to be kept, or both."""
    if not (found := first_wrong(cases, seen, expected, "thinned update")):
        return None
    case, x, y = found
    off, gone = ~torch.isclose(x, y, rtol=1e-4, atol=1e-4), case.u < case.p
    sides = {"dropped": bool((off & gone).any()), "kept": bool((off & ~gone).any())}
    wrong = " and ".join(f"those to be {side}" for side, bad in sides.items() if bad)
    right = "".join(f"; those to be {side} are right" for side, bad in sides.items() if not bad)
    return f"With {case.label}, of the entries {wrong} are wrong{right}. What decides the one, and what the other?"


@dropping.solution
def by_mask(update, p, u):
    kept = u >= p
    return update * kept / (1 - p)


@dropping.solution
def by_where(update, p, u):
    return torch.where(u < p, torch.zeros_like(update), update / (1 - p))


@dropping.solution
def by_index(update, p, u):
    thinned = update.clone()
    thinned[u < p] = 0.0
    thinned *= 1 / (1 - p)
    return thinned


@dropping.slip("Nothing is rescaled: the update has shrunk on average. What makes up for what was dropped?")
def not_rescaled(update, p, u):
    return update * (u >= p)


@dropping.slip("You divide by p, the share that was dropped. Which share is left to do the work?")
def divided_by_p(update, p, u):
    return update * (u >= p) / max(p, 1e-3)


@dropping.slip("You multiply by 1 - p, which makes it smaller still. Which way must the rest be moved?")
def multiplied(update, p, u):
    return update * (u >= p) * (1 - p)


@dropping.slip("What was to be dropped is kept, and rescaled as if it were the rest. On which side of p is an entry dropped?")
def other_side(update, p, u):
    return update * (u < p) / (1 - p)


@dropping.slip("What was to be dropped is kept, with the scale of that side. With which probability is an entry to be dropped?")
def p_is_kept(update, p, u):
    return update * (u < p) / max(p, 1e-3)


@dropping.slip("You divide by the share that happened to be kept in this draw. Which number holds for every draw?")
def by_the_share_in_this_draw(update, p, u):
    kept = (u >= p).float()
    return update * kept / kept.mean()


@dropping.slip("The norm is brought back to what it was. Is it the norm that is to stay on average, or each entry?")
def norm_restored(update, p, u):
    thinned = update * (u >= p)
    return thinned * update.norm() / thinned.norm()


@dropping.slip("The root of 1 - p is divided by. Is it the square of an entry that is to stay on average?")
def by_the_root(update, p, u):
    return update * (u >= p) / (1 - p) ** 0.5


@dropping.slip("Everything is rescaled and nothing dropped. Where does u come in?")
def nothing_dropped(update, p, u):
    return update / (1 - p)


@dropping.slip("Asked twice with the same `u`, `dare` drops other entries, or changes its input. The draw is in `u`: what else is drawn or written to?")
def a_draw_of_its_own(update, p, u):
    return F.dropout(update, p)


@dropping.slip("The smallest entries are dropped, as TIES trims. What decides here?")
def by_size(update, p, u):
    k = int(p * update.numel())
    limit = update.abs().flatten().sort().values[k]
    return update * (update.abs() >= limit) / (1 - p)


@dropping.slip("Whole rows are dropped, by their first number. Is one number drawn for a row or for an entry?")
def whole_rows(update, p, u):
    return update * (u[:, :1] >= p) / (1 - p)


# ================================================================ bytes

storing = Exercise(
    "bytes-of-tasks",
    lesson=LESSON,
    title="What a hundred tasks take",
    signature="bytes_of_tasks(tasks, parameters, shapes, r)",
    why="This number is why adapters are kept at all: one base, and a small file for each task.",
    points=1,
    minutes=5,
    difficulty=1,
    hints=[
        "How many numbers are in A and B together, for one layer? Not as many as in the weight.",
        "With adapters there is one base for all tasks, and it has to lie somewhere too.",
    ],
)


@storing.cases
def storing_cases(seed):
    draw = draws(seed)

    def whole(low, high):
        return low + int(float(draw(1).abs()) * 1000) % (high - low)

    cases = []
    for layers, tasks in ((1, 3), (3, 5), (4, 100), (2, 1), (5, 20)):
        shapes = [(whole(8, 60), whole(8, 60)) for _ in range(layers)]
        parameters = sum(i * o for i, o in shapes) + whole(50, 900)
        label = f"{tasks} task{'s' * (tasks > 1)}, {layers} adapted layer{'s' * (layers > 1)}"
        cases.append(Case(label, tasks=tasks, parameters=parameters, shapes=shapes, r=whole(2, 8)))
    return cases


@storing.observe
def look_storing(answer, case):
    value = given(answer(case.tasks, case.parameters, list(case.shapes), case.r), (tuple, list), "`bytes_of_tasks`")
    if len(value) != 2:
        raise Unexpected(f"`bytes_of_tasks` gave {len(value)} things; expected two: bytes with copies, bytes with adapters.")
    copied, adapted = value
    return {"bytes with copies": float(copied), "bytes with adapters": float(adapted)}


def per_adapter(shapes, r):
    return sum(r * (i + o) for i, o in shapes)


@storing.evidence
def beside_the_base(cases, seen, expected):
    """What is counted beside one base, in bytes for each number of A and B."""
    for case, mine, theirs in zip(cases, seen, expected):
        if "bytes with copies" not in mine:
            return None
        if abs(mine["bytes with copies"] - theirs["bytes with copies"]) > 0.5:
            return (
                f"With {case.label} and a model of {case.parameters:,} parameters you count {mine['bytes with copies']:,.0f} bytes for the copies. "
                "How many numbers are in all copies, and how many bytes has each?"
            )
        if abs(mine["bytes with adapters"] - theirs["bytes with adapters"]) > 0.5:
            held = case.tasks * per_adapter(case.shapes, case.r)
            return (
                f"With {case.label}, of rank {case.r}, you count {mine['bytes with adapters'] - 4 * case.parameters:,.0f} bytes beside one base. All A and "
                f"B together hold {held:,} numbers. Which of them are counted, and with how many bytes each?"
            )
    return None


@storing.term("bytes with adapters")
def storing_terms(case):
    return {"base": 4.0 * case.parameters, "adapters of all tasks": 4.0 * case.tasks * per_adapter(case.shapes, case.r)}


@storing.solution
def by_a_sum(tasks, parameters, shapes, r):
    adapter = sum(r * (d_in + d_out) for d_in, d_out in shapes)
    return 4 * tasks * parameters, 4 * (parameters + tasks * adapter)


@storing.solution
def layer_by_layer(tasks, parameters, shapes, r):
    total = 4 * parameters
    for d_in, d_out in shapes:
        total += tasks * 4 * r * d_in
        total += tasks * 4 * r * d_out
    return tasks * parameters * 4, total


@storing.solution
def with_tensors_of_each(tasks, parameters, shapes, r):
    numbers = torch.tensor(shapes).sum().item() * r
    size = torch.zeros(()).element_size()
    return (size * tasks * parameters, size * parameters + size * tasks * numbers)


def storing_slip(message, name, f):
    storing.slip(message)(lambda tasks, parameters, shapes, r: f(tasks, parameters, shapes, r, per_adapter(shapes, r)), name)


storing_slip(
    "The adapters alone: without their base they answer nothing. How many bases must lie there?",
    "no-base",
    lambda t, n, shapes, r, a: (4 * t * n, 4 * t * a),
)
storing_slip(
    "There is a base for each adapter. How many do a hundred adapters need between them?",
    "a-base-each",
    lambda t, n, shapes, r, a: (4 * t * n, 4 * t * (n + a)),
)
storing_slip(
    "Only one adapter is counted. How many tasks are there?",
    "one-adapter",
    lambda t, n, shapes, r, a: (4 * t * n, 4 * (n + a)),
)
storing_slip(
    "Only one copy is counted. How many tasks are there?",
    "one-copy",
    lambda t, n, shapes, r, a: (4 * n, 4 * (n + t * a)),
)
storing_slip(
    "An adapter has as many numbers here as the weight, times r. What are the shapes of A and B?",
    "whole-matrices",
    lambda t, n, shapes, r, a: (4 * t * n, 4 * (n + t * sum(r * i * o for i, o in shapes))),
)
storing_slip(
    "Only A is counted. What stands on the other side of the rank?",
    "a-alone",
    lambda t, n, shapes, r, a: (4 * t * n, 4 * (n + t * sum(r * i for i, _ in shapes))),
)
storing_slip(
    "Only B is counted. What stands on the other side of the rank?",
    "b-alone",
    lambda t, n, shapes, r, a: (4 * t * n, 4 * (n + t * sum(r * o for _, o in shapes))),
)
storing_slip(
    "These are numbers of parameters. How many bytes has each of them in float32?",
    "parameters-not-bytes",
    lambda t, n, shapes, r, a: (t * n, n + t * a),
)
storing_slip(
    "Two bytes for each parameter is 16 bits. How many has float32?",
    "sixteen-bits",
    lambda t, n, shapes, r, a: (2 * t * n, 2 * (n + t * a)),
)
storing_slip(
    "Eight bytes for each parameter is double precision. How many has float32?",
    "double-precision",
    lambda t, n, shapes, r, a: (8 * t * n, 8 * (n + t * a)),
)
storing_slip(
    "These are bits. How many of them make a byte?",
    "bits",
    lambda t, n, shapes, r, a: (32 * t * n, 32 * (n + t * a)),
)
storing_slip(
    "The rank is missing: one row of A and one column of B. How many does an adapter have?",
    "rank-one",
    lambda t, n, shapes, r, a: (4 * t * n, 4 * (n + t * a // r)),
)
storing_slip(
    "Each copy has an adapter on top. What was trained in a full copy?",
    "copies-with-adapters",
    lambda t, n, shapes, r, a: (4 * t * (n + a), 4 * (n + t * a)),
)
storing_slip(
    "The base is counted beside its copies. Does a full copy need it?",
    "copies-and-the-base",
    lambda t, n, shapes, r, a: (4 * (t + 1) * n, 4 * (n + t * a)),
)
storing_slip(
    "The two have changed places. Which comes first?",
    "exchanged",
    lambda t, n, shapes, r, a: (4 * (n + t * a), 4 * t * n),
)
storing_slip(
    "Only the first layer has an adapter. How many layers are there in `shapes`?",
    "first-layer",
    lambda t, n, shapes, r, a: (4 * t * n, 4 * (n + t * per_adapter(shapes[:1], r))),
)


# ================================================================ rows of a mixed batch

batching = Exercise(
    "mixed-batch",
    lesson=LESSON,
    title="Each row its own adapter",
    signature="mixed(x, weight, bias, adapters, rows)",
    dims={"x": "n time d_in", "weight": "d_out d_in", "bias": "d_out"},
    why="People who ask at the same time want different tasks. The base reads them all at once; only what is small differs.",
    points=3,
    minutes=12,
    difficulty=2,
    hints=[
        "The frozen layer does not care who asks: it takes the whole batch.",
        "Row i gets the update of the adapter called `rows[i]`, computed from row i of x and from nothing else.",
        "`None` is the bare base. What is to be added to such a row?",
        "One name after the other is less work than one row after the other: which rows have this name?",
    ],
)


@batching.cases
def batching_cases(seed):
    draw = draws(seed)
    rows = [
        ("two adapters, each with rows of its own", ["it", "pt", "it", "pt"], ("it", "pt"), True),
        ("three adapters, in no order", ["pt", "it", "ca", "it", "ca", "pt"], ("it", "pt", "ca"), True),
        ("a row for the base", ["it", None, "pt", "pt", None], ("it", "pt"), True),
        ("all rows for one of two adapters", ["pt", "pt", "pt"], ("it", "pt"), True),
        ("a layer without a bias", ["ca", "it", None, "pt"], ("pt", "ca", "it"), False),
    ]
    cases = []
    for label, names, known, bias in rows:
        adapters = dict(zip(known, loras(draw, 6, 5, *range(2, 2 + len(known)))))
        tensors = {"x": draw(len(names), 3, 6), "weight": draw(5, 6), "bias": draw(5) if bias else None}
        cases.append(Case(label, tensors=tensors, adapters=adapters, rows=names))
    return cases


@batching.observe
def look_batching(answer, case):
    tensors = {k: None if v is None else v.clone() for k, v in case.tensors.items()}
    adapters = {name: (A.clone(), B.clone(), s) for name, (A, B, s) in case.adapters.items()}
    y = given(answer(**tensors, adapters=adapters, rows=list(case.rows)), torch.Tensor, "`mixed`")
    same = all(v is None or torch.equal(v, tensors[k]) for k, v in case.tensors.items())
    return {"output": y, "x and the weights are left as they were": same}


@batching.term("output")
def batching_terms(case):
    x, weight, bias = (case.tensors[k] for k in ("x", "weight", "bias"))
    base = F.linear(x, weight)
    out = {"product of x with the frozen weight": base, "update of each row's adapter": by_rows(x, weight, None, case.adapters, case.rows) - base}
    return out if bias is None else out | {"bias": bias.expand_as(base)}


@batching.solution
def by_rows(x, weight, bias, adapters, rows):
    y = F.linear(x, weight, bias)
    more = torch.zeros_like(y)
    for i, name in enumerate(rows):
        if name is not None:
            A, B, s = adapters[name]
            more[i] = s * x[i] @ A.T @ B.T
    return y + more


@batching.solution
def by_names(x, weight, bias, adapters, rows):
    y = F.linear(x, weight, bias).clone()
    for name, (A, B, s) in adapters.items():
        mine = [i for i, row in enumerate(rows) if row == name]
        y[mine] += s * F.linear(F.linear(x[mine], A), B)
    return y


@batching.solution
def gathered(x, weight, bias, adapters, rows):
    most = max(len(A) for A, _, _ in adapters.values())
    all_A, all_B = torch.zeros(len(rows), most, x.shape[-1]), torch.zeros(len(rows), len(weight), most)
    for i, name in enumerate(rows):
        if name in adapters:
            A, B, s = adapters[name]
            all_A[i, : len(A)], all_B[i, :, : len(A)] = s * A, B
    return F.linear(x, weight, bias) + torch.bmm(torch.bmm(x, all_A.mT), all_B.mT)


def added(x, weight, bias, adapters, chosen):
    """The frozen layer, and for row i the updates of the adapters chosen[i] names."""
    y = F.linear(x, weight, bias)
    more = torch.zeros_like(y)
    for i, names in enumerate(chosen):
        for name in names:
            A, B, s = adapters[name]
            more[i] = more[i] + s * x[i] @ A.T @ B.T
    return y + more


@batching.slip("The first row's adapter answers for all. What do `rows` say of the others?")
def first_row_for_all(x, weight, bias, adapters, rows):
    return added(x, weight, bias, adapters, [[r for r in rows[:1] if r]] * len(rows))


@batching.slip("Every row goes through every adapter, one on top of the other. Whose row is it?")
def all_on_all(x, weight, bias, adapters, rows):
    return added(x, weight, bias, adapters, [list(adapters)] * len(rows))


@batching.slip("The rows come out sorted by adapter, and not in the order in which they were asked. Where does each belong?")
def not_put_back(x, weight, bias, adapters, rows):
    y = by_rows(x, weight, bias, adapters, rows)
    order = [i for name in adapters for i, row in enumerate(rows) if row == name]
    return y[order + [i for i, row in enumerate(rows) if row is None]]


@batching.slip("Adapters go by the order in which they are kept, row after row. What do the names in `rows` say?")
def by_position(x, weight, bias, adapters, rows):
    names = list(adapters)
    return added(x, weight, bias, adapters, [[names[i % len(names)]] if row else [] for i, row in enumerate(rows)])


@batching.slip("A row without a name gets an adapter all the same. What does `None` ask for?")
def none_gets_one(x, weight, bias, adapters, rows):
    return added(x, weight, bias, adapters, [[row or next(iter(adapters))] for row in rows])


@batching.slip("It stops at a row that asks for no adapter. What is to be added where the name is `None`?")
def none_stops_it(x, weight, bias, adapters, rows):
    return added(x, weight, bias, adapters, [[row] for row in rows])


@batching.slip("The scales are missing. What stands before B A in each adapter?")
def no_scale(x, weight, bias, adapters, rows):
    return by_rows(x, weight, bias, {name: (A, B, 1.0) for name, (A, B, _) in adapters.items()}, rows)


@batching.slip("One adapter's scale is used for all of them. Whose scale belongs to a row?")
def one_scale(x, weight, bias, adapters, rows):
    scale = next(iter(adapters.values()))[2]
    return by_rows(x, weight, bias, {name: (A, B, scale) for name, (A, B, _) in adapters.items()}, rows)


@batching.slip("The bias is missing. What else does the frozen layer add, where it has one?")
def no_bias(x, weight, bias, adapters, rows):
    return by_rows(x, weight, None, adapters, rows)


@batching.slip("Adapted rows get the bias twice. Where does it come in with the update?")
def bias_twice(x, weight, bias, adapters, rows):
    y = by_rows(x, weight, bias, adapters, rows)
    there = torch.tensor([row is not None for row in rows])[:, None, None]
    return y if bias is None else y + bias * there


@batching.slip("Adapted rows lose what the frozen layer gives. What is an update added to?")
def update_alone(x, weight, bias, adapters, rows):
    y = F.linear(x, weight, bias)
    there = torch.tensor([row is not None for row in rows])[:, None, None]
    return by_rows(x, weight, bias, adapters, rows) - y * there


@batching.slip("Nothing is added to any row: this is the base. Where do the adapters come in?")
def the_base(x, weight, bias, adapters, rows):
    return F.linear(x, weight, bias)


@batching.slip("Every row gets the mean of the updates of all rows. Which row is an update computed from, and for which?")
def mean_of_updates(x, weight, bias, adapters, rows):
    y = F.linear(x, weight, bias)
    return y + (by_rows(x, weight, bias, adapters, rows) - y).mean(0)


@batching.slip("The rows are read from the end. Which name belongs to row 0?")
def rows_reversed(x, weight, bias, adapters, rows):
    return by_rows(x, weight, bias, adapters, rows[::-1])


# ================================================================ a router

routing = Exercise(
    "task-router",
    lesson=LESSON,
    title="Nobody names the task",
    signature="route(vectors, known)",
    dims={"vectors": "m d"},
    why="The base, with every adapter off, already sees what a sentence is about. That is enough to choose an adapter, if the tasks look different.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "One vector stands for a task: the mean of its examples, each normalised first, so that a long vector counts no more than a short one.",
        "The mean of unit vectors is no unit vector: the more its examples scatter, the shorter it is. Does cosine similarity mind?",
        "All cosines at once are one product of matrices, `(m, tasks)`. What is wanted is the *name* of the best column.",
    ],
)


@routing.cases
def routing_cases(seed):
    draw, cases = draws(seed), []
    for names, d, m in ((("films", "tweets"), 3, 24), (("films", "products", "tweets"), 4, 40), (("a", "b", "c", "d"), 5, 50)):
        known = {}
        for i, name in enumerate(names):
            spread = 0.3 + 0.8 * i
            known[name] = (draw(d) + spread * draw(6 + 2 * i, d)) * (2 * draw(6 + 2 * i, 1)).exp()
        cases.append(Case(f"{m} sentences, {len(names)} tasks, {d} dimensions", vectors=draw(m, d) * draw(m, 1).exp(), known=known))
    return cases


@routing.observe
def look_routing(answer, case):
    known = {name: v.clone() for name, v in case.known.items()}
    chosen = answer(case.vectors.clone(), known)
    chosen = given(chosen, (list, tuple), "`route`")
    strange = next((c for c in chosen if c not in known), None)
    if strange is not None or len(chosen) != len(case.vectors):
        what = f"{len(chosen)} answers for {len(case.vectors)} sentences" if strange is None else f"{strange!r} among its answers"
        raise Unexpected(f"`route` gave {what}. Expected the name of a task for each sentence, one of {', '.join(known)}.")
    return {"task of each sentence": [str(c) for c in chosen]}


@routing.evidence
def a_sentence_that_went_astray(cases, seen, expected):
    """The first sentence with another task than it should have, and its cosines with the means of the two."""
    for case, mine, theirs in zip(cases, seen, expected):
        for i, (a, b) in enumerate(zip(mine.get("task of each sentence", ()), theirs["task of each sentence"])):
            if a != b:
                at_a, at_b = (float(F.cosine_similarity(case.vectors[i], unit(case.known[n]).mean(0), dim=0)) for n in (a, b))
                return (
                    f"Sentence {i} goes to `{a}`. Its cosine with the mean of the normalised examples of `{a}` is {at_a:.3f}, with that of `{b}` "
                    f"{at_b:.3f}. What does your function compare instead?"
                )
    return None


@routing.solution
def by_one_product(vectors, known):
    means = torch.stack([F.normalize(v, dim=-1).mean(0) for v in known.values()])
    alike = F.normalize(vectors, dim=-1) @ F.normalize(means, dim=-1).T
    names = list(known)
    return [names[i] for i in alike.argmax(1).tolist()]


@routing.solution
def sentence_by_sentence(vectors, known):
    means = {name: (v / v.norm(dim=1, keepdim=True)).mean(0) for name, v in known.items()}
    return [max(means, key=lambda name: float(F.cosine_similarity(v, means[name], dim=0))) for v in vectors]


@routing.solution
def without_the_sentences_norm(vectors, known):
    centres = [sum(row / row.norm() for row in v) for v in known.values()]
    scores = torch.stack([vectors @ c / c.norm() for c in centres], 1)
    return [list(known)[int(row.argmax())] for row in scores]


def scored(vectors, known, score):
    """The name of the task with the highest score: score(vectors, examples) gives (m,)."""
    return [list(known)[i] for i in torch.stack([score(vectors, v) for v in known.values()]).argmax(0).tolist()]


def unit(v):
    return F.normalize(v, dim=-1)


@routing.slip("The examples are not normalised before the mean, so that the longest decide. How much should each count?")
def long_ones_decide(vectors, known):
    return scored(vectors, known, lambda x, v: unit(x) @ unit(v.mean(0)))


@routing.slip("The mean itself is not normalised: a task whose examples scatter can never win. Which similarity does not mind how long a vector is?")
def short_means(vectors, known):
    return scored(vectors, known, lambda x, v: unit(x) @ unit(v).mean(0))


@routing.slip("These are dot products with means of vectors as they came. Which similarity does not mind how long a vector is?")
def plain_products(vectors, known):
    return scored(vectors, known, lambda x, v: x @ v.mean(0))


@routing.slip("The least alike is chosen. Which end of the cosines means alike?")
def least_alike(vectors, known):
    return scored(vectors, known, lambda x, v: -(unit(x) @ unit(unit(v).mean(0))))


@routing.slip("The nearest single example decides. What stands for a task?")
def nearest_example(vectors, known):
    return scored(vectors, known, lambda x, v: (unit(x) @ unit(v).T).amax(1))


@routing.slip("You measure the distance to the mean, sentences as long as they came. Which similarity does not mind how long a vector is?")
def by_distance(vectors, known):
    return scored(vectors, known, lambda x, v: -(x - unit(v).mean(0)).norm(dim=1))


@routing.slip("Distances from normalised sentences to a mean that is shorter than they are: a task that scatters is at a disadvantage, or has an advantage. Which measure does not mind?")
def by_distance_of_units(vectors, known):
    return scored(vectors, known, lambda x, v: -(unit(x) - unit(v).mean(0)).norm(dim=1))


@routing.slip("Distances between vectors as they came. Which similarity does not mind how long a vector is?")
def by_plain_distance(vectors, known):
    return scored(vectors, known, lambda x, v: -(x - v.mean(0)).norm(dim=1))


@routing.slip("The size of the cosine counts, whatever its sign: the opposite is taken for alike. What does a cosine of -1 say?")
def either_sign(vectors, known):
    return scored(vectors, known, lambda x, v: (unit(x) @ unit(unit(v).mean(0))).abs())


@routing.slip("All sentences go to one task. What does your choice depend on?")
def always_the_first(vectors, known):
    return [next(iter(known))] * len(vectors)


@routing.slip("A sum over the examples, not a mean, and not normalised: the task with the most examples wins. Does the number of examples say what a sentence is about?")
def most_examples(vectors, known):
    return scored(vectors, known, lambda x, v: unit(x) @ unit(v).sum(0))


@routing.slip("One example, the first, stands for its whole task. What is there of the others?")
def first_example(vectors, known):
    return scored(vectors, known, lambda x, v: unit(x) @ unit(v[0]))
