"""Lesson 02, rank decomposition: the best matrix of a rank, what an update needs, and training in few random directions.

Shapes everywhere: W and every update (d_out, d_in), A (r, d_in), B (d_out, r).
"""

import torch

from ..exercise import Case, Exercise, Question, Unexpected
from ..observing import changed, fresh, given

LESSON = "02-rank-decomposition"


def draws(seed):
    """A function that draws normal tensors of a shape, the same for the same seed."""
    draw = torch.Generator().manual_seed(seed)
    return lambda *shape, dtype=torch.float64: torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)


# ================================================================ predict

update_ranks = Question(
    "update-ranks",
    lesson=LESSON,
    title="What fine-tuning adds",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=2,
    question="You fine-tune *every* weight of MiniLM on film reviews, for a short while, and take from each weight matrix what it "
    "was before. Of a matrix of random numbers of that shape, the strongest half of its rank-one terms makes up nine tenths of the "
    "squared norm. And of the real updates?",
    options={
        "a": (
            "about as many as a random one: gradients are noise",
            (
                "Each gradient is a sum of products, one for each token of the batch. Tokens that pull the same way add up; do "
                "all of them pull in directions of their own?"
            ),
        ),
        "b": (
            "a handful, in every matrix",
            (
                "So it is often told, and for some matrices it holds. What would make the first layer's update as simple as "
                "the last one's, which sits right under the question praise or blame?"
            ),
        ),
        "c": (
            "fewer than a random one everywhere, but from a handful to a large part of it, depending on the layer",
            "Low rank is a tendency, strong near the output and weak near the words. You will see both ends.",
        ),
        "d": (
            "more than a random one: training uses every direction",
            (
                "A random matrix spreads its squared norm over its rank-one terms about as evenly as a matrix can without being built for it. "
                "What would have to happen for training to spread it more evenly still?"
            ),
        ),
    },
    right="c",
)

directions = Question(
    "random-directions",
    lesson=LESSON,
    title="How few directions are enough",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=2,
    question="You draw d random directions in the space of all the parameters of a small model, which knows Spanish, and may move "
    "the model only along these d. Untagged questions, which it answers in any of three languages, are to be answered in Spanish. "
    "How large must d be to come close to training all parameters?",
    options={
        "a": (
            "nearly all: a random direction knows nothing of the task",
            (
                "No single one has to. With d directions you can choose any mixture of them: what are the odds that *none* of "
                "the mixtures points a little towards Spanish?"
            ),
        ),
        "b": (
            "about one parameter in ten",
            (
                "That would be so if the good models formed a small target. How many different models speak Spanish when "
                "not asked, if this one is so close to doing it already?"
            ),
        ),
        "c": (
            "a few hundred at most",
            "What is nearly known needs few numbers, whichever directions they stand for. It is another matter for Italian.",
        ),
        "d": (
            "one: only the sign of the step counts",
            "Along one line you can go forwards or backwards. How much of the way to Spanish can lie on a line drawn blindly?",
        ),
    },
    right="c",
)


# ================================================================ keep the strongest ranks

keep_ranks = Exercise(
    "keep-ranks",
    lesson=LESSON,
    title="The best matrix of rank r",
    signature="keep_ranks(W, r)",
    dims={"W": "d_out d_in"},
    why="Everything that is called low rank is measured against this one function.",
    points=2,
    minutes=8,
    difficulty=1,
    hints=[
        "`torch.linalg.svd`, with `full_matrices=False`, gives three tensors, the singular values from the largest down.",
        "A column of the first, a singular value and a *row* of the third make one matrix of rank one. You want the sum of r of them.",
        "The sum is a product: r columns, each times its singular value, with r rows.",
    ],
)


@keep_ranks.cases
def rank_cases(seed):
    draw = draws(seed)
    shapes = [(6, 9, 2, torch.float64), (8, 5, 3, torch.float64), (7, 7, 1, torch.float32), (5, 8, 4, torch.float32)]
    shapes += [(6, 4, 4, torch.float32), (4, 6, 0, torch.float32)]  # all of them, and none: the lesson asks for both
    return [Case(f"`W` of shape {(o, i)}, `r = {r}`", W=draw(o, i, dtype=t), r=r) for o, i, r, t in shapes]


@keep_ranks.observe
def look_ranks(answer, case):
    inputs = fresh({"W": case.W})
    kept = given(answer(inputs["W"], case.r), torch.Tensor, "`keep_ranks`").detach()
    seen = {"shape": list(kept.shape)}
    if kept.shape == case.W.shape:
        seen["rank"] = int(torch.linalg.matrix_rank(kept.double(), rtol=1e-5))
        seen["_missing"] = float((case.W - kept).double().norm())
    return seen | {"matrix": kept, "changed in place": changed({"W": case.W}, inputs)}


@keep_ranks.evidence
def what_is_missing(cases, seen, expected):
    """How much of W is missing from the answer, beside the least that can be missing."""
    for case, mine, best in zip(cases, seen, expected, strict=True):
        if "_missing" in mine and mine["_missing"] > best["_missing"] * 1.0001:
            return (
                f"With {case.label}, the Frobenius norm of what you leave out of W is {mine['_missing']:.3g}; "
                f"a matrix of rank {case.r} can come as close as {best['_missing']:.3g}."
            )
    return None


@keep_ranks.solution
def sliced(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * S[:r] @ Vh[:r]


@keep_ranks.solution
def one_by_one(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    kept = torch.zeros_like(W)
    for i in range(r):
        kept += S[i] * torch.outer(U[:, i], Vh[i])
    return kept


@keep_ranks.solution
def projected(W, r):
    strongest = torch.linalg.svd(W)[0][:, :r]  # the r output directions that W serves most
    return strongest @ (strongest.T @ W)


@keep_ranks.solution
def zeroed(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    S[r:] = 0
    return U @ torch.diag(S) @ Vh


WEAKEST = "These are the terms with the smallest singular values, and the largest are gone. In which order does `svd` give them?"


@keep_ranks.slip(WEAKEST)
def weakest(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, len(S) - r :] * S[len(S) - r :] @ Vh[len(S) - r :]


@keep_ranks.slip(WEAKEST)
def weakest_from_the_end(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, -r:] * S[-r:] @ Vh[-r:]  # with r = 0 this is everything


@keep_ranks.slip("You took the strongest terms away and kept the rest. Which of the two was asked for?")
def the_rest(W, r):
    return W - sliced(W, r)


@keep_ranks.slip("Every term you kept has the norm 1. Which of the three tensors says how large each one is?")
def without_strength(W, r):
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] @ Vh[:r]


@keep_ranks.slip(
    "The singular values are in there twice. How often does each stand in front of its rank-one matrix?"
)
def strength_squared(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * S[:r] ** 2 @ Vh[:r]


@keep_ranks.slip(
    "The third tensor is used by its columns. It arrives transposed, as the `h` says: where in it does the first right singular vector stand?"
)
def columns_of_the_third(W, r):
    U, S, Vh = torch.linalg.svd(W)
    return U[:, :r] * S[:r] @ Vh[:, :r].T


@keep_ranks.slip(
    "The rank is right, but these are rows of W itself, the rest set to zero. Are the rows that W happens to have its best directions?"
)
def largest_rows(W, r):
    kept, rows = torch.zeros_like(W), W.norm(dim=1).topk(r).indices
    kept[rows] = W[rows]
    return kept


@keep_ranks.slip("You kept one rank too many. Where does a slice that starts at 0 end?")
def one_too_many(W, r):
    return sliced(W, r + 1)


@keep_ranks.slip("You kept one rank too few. How many entries does a slice up to `r` hold?")
def one_too_few(W, r):
    return sliced(W, r - 1)


@keep_ranks.slip("You kept one rank too few. How many entries does a slice up to `r` hold?")
def one_too_few_or_none(W, r):
    return sliced(W, max(r - 1, 0))


@keep_ranks.slip(
    "At least one term is always kept, and the lesson asks for none too. What is a sum of no terms at all?"
)
def at_least_one(W, r):
    return sliced(W, max(r, 1))


@keep_ranks.slip("This is W itself: nothing was left out. Where does r come in?")
def all_of_it(W, r):
    return W.clone()


# ================================================================ how many ranks

ranks_for = Exercise(
    "ranks-for",
    lesson=LESSON,
    title="How many ranks explain a share",
    signature="ranks_for(W, share)",
    why="It turns the picture into one number that can be compared from one matrix to the next.",
    points=1,
    minutes=6,
    difficulty=1,
    hints=[
        "The squares of the singular values add up to the squared Frobenius norm of W.",
        "Add them up from the largest; `torch.cumsum` gives all the sums at once.",
        "You look for the first of these sums that reaches the share, and want to know how many ranks went into it.",
    ],
)


@ranks_for.cases
def share_cases(seed):
    draw, cases = draws(seed + 50), []
    strengths = [
        ([9, 5, 4, 3, 2, 1], 0.9),
        ([8, 7, 6, 5, 4, 3, 2], 0.8),
        ([7, 2, 2, 2, 2, 2, 2, 2], 0.5),
        ([6, 5, 5, 4, 4, 3, 3, 2], 0.95),
        ([5, 4, 4, 3, 3, 3, 2, 1, 1], 0.6),
    ]
    for S, share in strengths:
        k = len(S)
        U, V = torch.linalg.qr(draw(k + 3, k))[0], torch.linalg.qr(draw(k, k))[0]
        S = torch.tensor(S, dtype=torch.float64) * (1 + seed % 7)  # the share does not depend on the unit
        cases.append(Case(f"`W` of shape {(k + 3, k)}, `share = {share}`", W=U * S @ V.T, share=share))
    wide = (draw(6, 20) * torch.linspace(1, 3, 20)).float()  # more columns than rows, float32, as an update may be
    return [*cases, Case("`W` of shape (6, 20), float32, `share = 0.7`", W=wide, share=0.7)]


@ranks_for.observe
def look_share(answer, case):
    count = given(answer(case.W.clone(), case.share), (int, torch.Tensor), "`ranks_for`")
    if isinstance(count, torch.Tensor) and count.numel() != 1:
        raise Unexpected(f"`ranks_for` gave a tensor of shape {tuple(count.shape)}; expected one number.")
    return {"ranks": int(count)}


@ranks_for.evidence
def explained(cases, seen, expected):
    """What share the ranks counted explain, beside the share asked for."""
    for case, mine, right in zip(cases, seen, expected, strict=True):
        if mine.get("ranks") not in (None, right["ranks"]) and 0 <= mine["ranks"] <= min(case.W.shape):
            held = [0.0, *_held(case.W).tolist()][mine["ranks"]]
            return (
                f"With {case.label}, the {mine['ranks']} strongest terms explain {held:.3f} of the squared Frobenius norm; "
                f"the smallest number that explains {case.share} is asked for."
            )
    return None


def _held(W):
    squares = torch.linalg.svdvals(W).square()
    return squares.cumsum(0) / squares.sum()


@ranks_for.solution
def first_that_reaches(W, share):
    squares = torch.linalg.svdvals(W).square()
    held = squares.cumsum(0) / squares.sum()
    return int((held < share).sum()) + 1


@ranks_for.solution
def by_a_loop(W, share):
    needed, total = share * W.square().sum(), 0
    for count, strength in enumerate(torch.linalg.svd(W)[1], 1):
        total += strength**2
        if total >= needed:
            return count


@ranks_for.solution
def by_leaving_out(W, share):
    weakest_first = torch.linalg.svdvals(W).flip(0).square().cumsum(0)
    return len(weakest_first) - int((weakest_first <= (1 - share) * weakest_first[-1]).sum())


@ranks_for.slip(
    "The singular values are added up as they are. What is it that adds up to the squared Frobenius norm of W?"
)
def not_squared(W, share):
    S = torch.linalg.svdvals(W)
    return int((S.cumsum(0) / S.sum() < share).sum()) + 1


@ranks_for.slip("One too few: with so many terms the share is not reached yet. Does a count begin at 0 or at 1?")
def one_less(W, share):
    return int((_held(W) < share).sum())


@ranks_for.slip(
    "One too many: the share was reached one rank earlier. Which ranks went into the first sum that reaches it?"
)
def one_more(W, share):
    return int((_held(W) < share).sum()) + 2


@ranks_for.slip("This is a share of the number of terms. Are all singular values equally large?")
def share_of_the_count(W, share):
    return round(share * len(torch.linalg.svdvals(W)))


@ranks_for.slip("You begin with the smallest singular values. With which would you begin to need as few as possible?")
def from_the_weakest(W, share):
    squares = torch.linalg.svdvals(W).flip(0).square()
    return int((squares.cumsum(0) / squares.sum() < share).sum()) + 1


@ranks_for.slip(
    "You count the singular values above a part of the largest. Is it a single term that has to explain the share, or a sum?"
)
def beside_the_strongest(W, share):
    S = torch.linalg.svdvals(W)
    return int((S > (1 - share) * S[0]).sum())


@ranks_for.slip("The cumulative sum is squared after adding. Which comes first, the squares or the sum?")
def squared_too_late(W, share):
    sums = torch.linalg.svdvals(W).cumsum(0).square()
    return int((sums / sums[-1] < share).sum()) + 1


@ranks_for.slip("This counts every singular value that is not zero. How many of them are needed for the share?")
def the_whole_rank(W, share):
    return int(torch.linalg.matrix_rank(W))


# ================================================================ a random matrix to compare with

random_like = Exercise(
    "random-like",
    lesson=LESSON,
    title="A random matrix of the same norm",
    signature="random_like(W)",
    why="A number of ranks is small or large only beside another one.",
    points=1,
    minutes=4,
    difficulty=1,
    hints=[
        "Independent normal numbers, as many rows and columns as W.",
        "Then one factor for all of them, so that the Frobenius norm of *this* draw comes out as that of W.",
    ],
)


@random_like.cases
def like_cases(seed):
    draw = draws(seed + 70)
    return [
        Case("an update of rank 2, 40 by 30", W=draw(40, 2) @ draw(2, 30)),
        Case("an update whose entries are all about 3, 24 by 48", W=3 + 0.2 * draw(24, 48)),
        Case("a tiny update, 32 by 32, float32", W=1e-3 * draw(32, 32, dtype=torch.float32)),
    ]


@random_like.observe
def look_like(answer, case):
    W = fresh({"W": case.W})
    first = given(answer(W["W"]), torch.Tensor, "`random_like`").detach()
    second = given(answer(W["W"]), torch.Tensor, "`random_like`").detach()
    seen = {"shape": list(first.shape), "a second call draws another": not torch.equal(first, second)}
    if first.shape == case.W.shape:
        R = first.double()
        ratio = float(R.norm() / case.W.double().norm())
        near = "near it and not equal" if abs(ratio - 1) < 0.15 else f"{ratio:.1g} times as large"
        seen["Frobenius norm, beside that of W"] = "equal" if abs(ratio - 1) < 1e-3 else near
        seen["_ratio"] = ratio
        seen["of full rank"] = int(torch.linalg.matrix_rank(R, rtol=1e-4)) == min(R.shape)
        seen["mean of the entries is near zero"] = bool(R.mean().abs() < 0.15 * R.std())
        seen["made of W's own entries"] = torch.equal(
            R.flatten().sort().values, case.W.double().flatten().sort().values
        )
        seen["shape of the distribution"] = (
            "flat" if float((R.abs() > 1.8 * R.std()).double().mean()) < 0.01 else "a bell"
        )
    return seen | {"changed in place": changed({"W": case.W}, W)}


@random_like.evidence
def three_ratios(cases, seen, expected):
    """The norm of each draw beside that of W, to four digits: a norm that is right on average only shows here."""
    ratios = [f"{mine['_ratio']:.4g} times with {c.label}" for c, mine in zip(cases, seen) if abs(mine.get("_ratio", 1) - 1) > 1e-3]
    return f"The Frobenius norm of your matrix is not that of W: {'; '.join(ratios)}." if ratios else None


@random_like.solution
def scaled(W):
    R = torch.randn_like(W)
    return R * W.norm() / R.norm()


@random_like.solution
def unit_first(W):
    R = torch.randn(W.shape, dtype=W.dtype)
    return W.square().sum().sqrt() * torch.nn.functional.normalize(R.flatten(), dim=0).reshape(W.shape)


@random_like.solution
def by_numbers(W):
    R = torch.empty_like(W).normal_()
    R *= (W.pow(2).sum() / R.pow(2).sum()) ** 0.5
    return R


@random_like.slip("The numbers are random and their norm has nothing to do with W. What was to be the same for both?")
def any_size(W):
    return torch.randn_like(W)


@random_like.slip(
    "Your entries have the standard deviation of W's, and the norm is another: a mean that is not zero counts too. Which sum do you have to match?"
)
def same_standard_deviation(W):
    return torch.randn_like(W) * W.std()


@random_like.slip(
    "The norm is right on average only: each draw comes out a little too large or too small. By what would you divide *this* draw to bring its own norm to 1?"
)
def root_mean_square(W):
    return torch.randn_like(W) * W.square().mean().sqrt()


@random_like.slip(
    "These are W's own entries in another order. Would that treat an update with few large entries fairly?"
)
def shuffled(W):
    return W.flatten()[torch.randperm(W.numel())].reshape(W.shape)


@random_like.slip("All the numbers lean to one side: that alone makes one large singular value. What should their mean be?")
def positive(W):
    R = torch.rand_like(W)
    return R * W.norm() / R.norm()


@random_like.slip("Every call gives the same matrix. How would you then tell luck from rule?")
def seeded_inside(W):
    R = torch.randn(W.shape, generator=torch.Generator().manual_seed(0)).to(W.dtype)
    return R * W.norm() / R.norm()


@random_like.slip("This random matrix has rank one: a column times a row. How many independent numbers should it hold?")
def outer_product(W):
    R = torch.outer(torch.randn(W.shape[0]), torch.randn(W.shape[1])).to(W.dtype)
    return R * W.norm() / R.norm()


@random_like.slip("The numbers are uniform between two ends. Which draw gives normal numbers?")
def uniform(W):
    R = torch.rand_like(W) - 0.5
    return R * W.norm() / R.norm()


@random_like.slip("Its largest entry is as large as W's. Is that the Frobenius norm?")
def same_largest_entry(W):
    R = torch.randn_like(W)
    return R * W.abs().max() / R.abs().max()


# ================================================================ try to beat it

best_b = Exercise(
    "best-b",
    lesson=LESSON,
    title="The best B for a given A",
    signature="best_B(W, A)",
    dims={"W": "d_out d_in", "A": "r d_in"},
    why="With it you can look for a better matrix of rank r than the SVD's, and will not find one.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "Look at one row of W: it is to be a mixture of the rows of A, and the row of B holds the amounts.",
        "That is a least-squares problem, one for each row of W. `torch.linalg.lstsq` solves it for columns: what has to be turned?",
        "Or by hand: where B is best, what is left of W has nothing in common with any row of A. Write that as an equation and solve it for B.",
    ],
)


@best_b.cases
def best_cases(seed):
    draw = draws(seed + 30)
    shapes = [(6, 9, 2), (9, 5, 3), (4, 7, 1), (7, 8, 4)]
    cases = [
        Case(f"`W` of shape {(o, i)}, `A` of shape {(r, i)}", W=draw(o, i), A=draw(r, i) + 0.5 * draw(1, i))
        for o, i, r in shapes
    ]
    W, A = draw(8, 5), draw(8, 2)  # as the lesson uses it in its second half: best_B(W.T, B.T)
    return [*cases, Case("`W` of shape (5, 8), `A` of shape (2, 8), both transposed views", W=W.T, A=A.T)]


@best_b.observe
def look_best(answer, case):
    tensors = {"W": case.W, "A": case.A}
    inputs = fresh(tensors)
    B = given(answer(inputs["W"], inputs["A"]), torch.Tensor, "`best_B`").detach()
    seen = {"shape": list(B.shape), "B": B, "changed in place": changed(tensors, inputs)}
    if list(B.shape) == [len(case.W), len(case.A)]:
        seen["_missing"] = float((case.W - B @ case.A).norm())
    return seen


@best_b.evidence
def what_b_misses(cases, seen, expected):
    """The Frobenius norm of W - B A beside the least possible."""
    for case, mine, best in zip(cases, seen, expected, strict=True):
        if "_missing" in mine and mine["_missing"] > best["_missing"] * 1.0001:
            return (
                f"With {case.label}, the Frobenius norm of W less B A is {mine['_missing']:.3g}; "
                f"another B, with the same A, leaves {best['_missing']:.3g}."
            )
    return None


@best_b.solution
def least_squares(W, A):
    return torch.linalg.lstsq(A.T, W.T).solution.T


@best_b.solution
def normal_equation(W, A):
    return torch.linalg.solve(A @ A.T, A @ W.T).T


@best_b.solution
def pseudo_inverse(W, A):
    return W @ torch.linalg.pinv(A)


@best_b.solution
def orthogonal_rows_first(W, A):
    Q, R = torch.linalg.qr(A.T)  # A = Rᵀ Qᵀ
    return torch.linalg.solve_triangular(R, (W @ Q).T, upper=True).T


@best_b.slip("This would be right if the rows of A were orthogonal and of length one. What changes when they overlap?")
def overlap_ignored(W, A):
    return W @ A.T


@best_b.slip(
    "The lengths of the rows of A are seen to, their overlap is not. What does one row explain that another explains too?"
)
def lengths_only(W, A):
    return W @ A.T / A.square().sum(1)


@best_b.slip(
    "You multiply by the overlaps of the rows of A. Should a long row of A make the entries of B larger or smaller?"
)
def inverse_forgotten(W, A):
    return W @ A.T @ (A @ A.T)


@best_b.slip("B comes out turned. Which shape makes B A as large as W?")
def turned(W, A):
    return torch.linalg.lstsq(A.T, W.T).solution


@best_b.slip(
    "This B belongs to the SVD of W and would need an A of its own. Where does the A that you were given come in?"
)
def svd_without_a(W, A):
    U, S, _ = torch.linalg.svd(W, full_matrices=False)
    return U[:, : len(A)] * S[: len(A)]


@best_b.slip("All singular values of W count as 1 here. Where did the entries of W go?")
def strength_lost(W, A):
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    return U @ Vh @ torch.linalg.pinv(A)


@best_b.slip("This is the best amount of A for W turned the wrong way: minus. What should B A look like beside W?")
def minus(W, A):
    return -W @ torch.linalg.pinv(A)


@best_b.slip(
    "Some of the strength is held back, as if large amounts were punished. Was anything but closeness to W asked for?"
)
def ridge(W, A):
    return torch.linalg.solve(A @ A.T + torch.eye(len(A), dtype=A.dtype), A @ W.T).T


# ================================================================ the floor

rank_floor = Exercise(
    "rank-floor",
    lesson=LESSON,
    title="The loss that rank r cannot go below",
    signature="rank_floor(update, r)",
    why="It says before any training where the curve of loss against rank must turn.",
    points=1,
    minutes=8,
    difficulty=2,
    hints=[
        "What the truncated SVD leaves out is made of the singular values after the r-th. What is its squared Frobenius norm?",
        "An entry of the output is a sum over d_in inputs, independent and of standard deviation one: its mean square is the sum of the squares of one row.",
        "The loss is the mean over the d_out entries of the output.",
    ],
)


@rank_floor.cases
def floor_cases(seed):
    draw = draws(seed + 20)
    return [
        Case(f"an update of shape {(o, i)}, every rank from 0 up", update=draw(o, i), most=min(o, i))
        for o, i in ((6, 9), (8, 5), (7, 3))
    ]


@rank_floor.observe
def look_floor(answer, case):
    found = [
        given(answer(case.update.clone(), r), (int, float, torch.Tensor), "`rank_floor`") for r in range(case.most)
    ]
    return {f"loss at r = 0 to {case.most - 1}": torch.tensor([float(f) for f in found], dtype=torch.float64)}


@rank_floor.solution
def from_what_is_left(update, r):
    return torch.linalg.svdvals(update)[r:].square().sum() / update.shape[0]


@rank_floor.solution
def from_what_is_kept(update, r):
    U, S, Vh = torch.linalg.svd(update, full_matrices=False)
    left = update - U[:, :r] * S[:r] @ Vh[:r]
    return left.square().sum(1).mean().item()


@rank_floor.solution
def from_eigenvalues(update, r):
    strongest_last = torch.linalg.eigvalsh(update.T @ update)
    return float(strongest_last[: update.shape[1] - r].sum()) / len(update)


@rank_floor.slip("The singular values left over are added as they are. Which power of them makes a mean *square*?")
def floor_not_squared(update, r):
    return torch.linalg.svdvals(update)[r:].sum() / update.shape[0]


@rank_floor.slip("This is the sum over the outputs. The loss is their mean: over how many?")
def floor_sum(update, r):
    return torch.linalg.svdvals(update)[r:].square().sum()


@rank_floor.slip("You divide by the width of the input. Over which of the two widths does the loss take its mean?")
def floor_over_inputs(update, r):
    return torch.linalg.svdvals(update)[r:].square().sum() / update.shape[1]


@rank_floor.slip(
    "You divide by the number of entries of the update. The loss is a mean over what *leaves* the layer: how many numbers is that?"
)
def floor_over_entries(update, r):
    return torch.linalg.svdvals(update)[r:].square().sum() / update.numel()


@rank_floor.slip("This is what rank r captures. Is the loss what was captured, or what is left?")
def floor_of_kept(update, r):
    return torch.linalg.svdvals(update)[:r].square().sum() / update.shape[0]


@rank_floor.slip(
    "This is the share that is left. The loss has the unit of the output, squared: what did you divide by?"
)
def floor_as_share(update, r):
    S = torch.linalg.svdvals(update).square()
    return S[r:].sum() / S.sum()


@rank_floor.slip("One singular value too few is left over. With `r = 0`, what is the largest one that is missing?")
def floor_off_by_one(update, r):
    return torch.linalg.svdvals(update)[r + 1 :].square().sum() / update.shape[0]


@rank_floor.slip("Only the largest of the singular values left over is counted. What do the others contribute?")
def floor_of_the_next(update, r):
    return torch.linalg.svdvals(update)[r].square() / update.shape[0]


@rank_floor.slip("This is the root of the loss. Mean *squared* error: is there a root in it?")
def floor_root(update, r):
    return (torch.linalg.svdvals(update)[r:].square().sum() / update.shape[0]).sqrt()


@rank_floor.slip("This is the Frobenius norm of what is left out. Of which power of it is the loss a mean, and over how many outputs?")
def floor_norm(update, r):
    return torch.linalg.svdvals(update)[r:].norm()


@rank_floor.slip("You divide the Frobenius norm of what is left out. Of which power of it is the loss a mean?")
def floor_norm_divided(update, r):
    return torch.linalg.svdvals(update)[r:].norm() / update.shape[0]


@rank_floor.slip("You divide the Frobenius norm of what is left out. Of which power of it is the loss a mean?")
def floor_norm_over_root(update, r):
    return torch.linalg.svdvals(update)[r:].norm() / update.numel() ** 0.5


# ================================================================ a random subspace

subspace = Exercise(
    "random-subspace",
    lesson=LESSON,
    title="A few random directions for the whole model",
    signature="subspace(shapes, d, seed)",
    why="It asks how many numbers a task needs, whatever the shape they come in.",
    points=2,
    minutes=15,
    difficulty=3,
    hints=[
        "Draw everything that is random once, outside the inner function; the inner one only looks up and multiplies.",
        "`torch.randint(d, shape)` tells each parameter of a tensor which coordinate it listens to; `z[those]` looks them all up at once.",
        "One `torch.Generator` for all tensors, seeded once and handed to every draw as `generator=`.",
        "A step of length 1 in z reaches about D / d of the D parameters. What must each of them be multiplied by to make that length 1 again?",
    ],
)

MODELS = [
    {"embed": (30, 8), "q": (8, 8), "v": (8, 8), "norm": (8,)},
    {"up": torch.Size((20, 12)), "down": torch.Size((12, 20)), "bias": torch.Size((20,)), "bias2": torch.Size((20,))},
]


@subspace.cases
def subspace_cases(seed):
    return [
        Case(
            f"{sum(torch.Size(s).numel() for s in shapes.values())} parameters, `d = {d}`",
            shapes=shapes,
            d=d,
            seed=seed + 5 + i,
        )
        for i, (shapes, d) in enumerate(((MODELS[0], 12), (MODELS[1], 25), (MODELS[1], 4)))
    ]


def _asked(answer, case, seed):
    move = answer(dict(case.shapes), case.d, seed)
    if not callable(move):
        raise Unexpected(f"`subspace` gave a {type(move).__name__}; expected a function of `z`.")

    def flat(z):
        update = given(move(z), dict, "the function you return")
        return torch.cat([given(update[n], torch.Tensor, f"`{n}`").flatten() for n in sorted(update)])

    return move, flat


@subspace.observe
def look_subspace(answer, case):
    draw = draws(case.seed)
    z, other = draw(case.d, dtype=torch.float32), draw(case.d, dtype=torch.float32)
    move, flat = _asked(answer, case, case.seed)
    update = given(move(z.clone()), dict, "the function you return")
    seen = {"names and shapes": {n: list(given(u, torch.Tensor, f"`{n}`").shape) for n, u in sorted(update.items())}}
    if {n: tuple(s) for n, s in seen["names and shapes"].items()} != {n: tuple(s) for n, s in case.shapes.items()}:
        return seen
    one, again = flat(z).detach(), flat(z).detach()
    seen["type of the changes"] = str(one.dtype).removeprefix("torch.")
    seen["at z = 0 nothing changes"] = not flat(torch.zeros(case.d)).any()
    seen["the same z gives the same change"] = torch.equal(one, again)
    total = flat(2 * z - other).detach()
    seen["twice z less another gives twice its change less the other's"] = torch.allclose(
        total, 2 * one - flat(other).detach(), atol=1e-4 * float(total.abs().max() + 1e-9)
    )
    M = torch.stack([flat(e).detach() for e in torch.eye(case.d)])  # (d, D): what each coordinate alone does
    seen["independent directions"] = int(torch.linalg.matrix_rank(M.double(), rtol=1e-4))
    seen["parameters no coordinate reaches"] = "some" if float((M == 0).all(0).double().mean()) > 0.02 else "none"
    size = float(M.norm() / case.d**0.5)
    seen["length of a change, for a z of length 1"] = (
        "about 1" if 0.8 < size < 1.25 else f"about {float(f'{size:.1g}'):g}"
    )
    a, b = [M[:, s] for s in _places(case.shapes)]
    seen["two tensors of one shape change alike"] = torch.equal(a, b)
    seen["the same seed gives the same directions"] = torch.equal(_asked(answer, case, case.seed)[1](z).detach(), one)
    seen["another seed gives others"] = not torch.equal(_asked(answer, case, case.seed + 1)[1](z).detach(), one)
    z.requires_grad_()
    out = flat(z)
    if out.requires_grad:
        out.sum().backward()
    return seen | {"a gradient reaches z": z.grad is not None and bool(z.grad.any())}


def _places(shapes):
    """Where in the flat vector, names sorted, the two tensors of the same shape stand."""
    places, at = {}, 0
    for name in sorted(shapes):
        n = torch.Size(shapes[name]).numel()
        places.setdefault(shapes[name], []).append(slice(at, at + n))
        at += n
    return next(p for p in places.values() if len(p) == 2)


def _size(shapes):
    return sum(torch.Size(s).numel() for s in shapes.values())


@subspace.solution
def each_listens_to_one(shapes, d, seed):
    draw = torch.Generator().manual_seed(seed)
    D = sum(torch.Size(shape).numel() for shape in shapes.values())
    listens = {name: torch.randint(d, shape, generator=draw) for name, shape in shapes.items()}
    factor = {n: (2 * torch.randint(2, s, generator=draw) - 1) * (d / D) ** 0.5 for n, s in shapes.items()}
    return lambda z: {name: factor[name] * z[listens[name]] for name in shapes}


@subspace.solution
def dense(shapes, d, seed):
    draw = torch.Generator().manual_seed(seed)
    D = sum(torch.Size(s).numel() for s in shapes.values())
    P = {name: torch.randn(*shape, d, generator=draw) / D**0.5 for name, shape in shapes.items()}

    def move(z):
        return {name: P[name] @ z for name in P}

    return move


@subspace.solution
def orthonormal(shapes, d, seed):
    counts = [torch.Size(s).numel() for s in shapes.values()]
    P = torch.linalg.qr(torch.randn(sum(counts), d, generator=torch.Generator().manual_seed(seed)))[0]
    return lambda z: {n: part.view(s) for (n, s), part in zip(shapes.items(), (P @ z).split(counts))}


@subspace.solution
def one_long_list(shapes, d, seed):
    draw, counts = torch.Generator().manual_seed(seed), [torch.Size(s).numel() for s in shapes.values()]
    listens = torch.randint(d, (sum(counts),), generator=draw)
    factor = torch.randn(sum(counts), generator=draw) * (d / sum(counts)) ** 0.5

    def move(z):
        parts = (factor * z[listens]).split(counts)
        return {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts)}

    return move


@subspace.slip(
    "The directions are drawn anew at every call. What happens to what was learnt in step one when step two points elsewhere?"
)
def drawn_at_every_call(shapes, d, seed):
    scale = (d / _size(shapes)) ** 0.5
    return lambda z: {n: torch.randn(s) * z[torch.randint(d, s)] * scale for n, s in shapes.items()}


@subspace.slip(
    "The seed changes nothing. How would you repeat the run with other directions, to see whether luck was in it?"
)
def seed_unused(shapes, d, seed):
    return each_listens_to_one(shapes, d, 0)


@subspace.slip("Two calls with one seed give different directions. Which generator do your draws come from?")
def generator_forgotten(shapes, d, seed):
    scale = (d / _size(shapes)) ** 0.5
    listens = {n: torch.randint(d, s) for n, s in shapes.items()}
    factor = {n: torch.randn(s) * scale for n, s in shapes.items()}
    return lambda z: {n: factor[n] * z[listens[n]] for n in shapes}


@subspace.slip(
    "Tensors of one shape always change alike. Where is the generator seeded: once, or once for each tensor?"
)
def seeded_for_each_tensor(shapes, d, seed):
    scale = (d / _size(shapes)) ** 0.5
    parts = {}
    for n, s in shapes.items():
        draw = torch.Generator().manual_seed(seed)
        parts[n] = torch.randint(d, s, generator=draw), torch.randn(s, generator=draw) * scale
    return lambda z: {n: factor * z[listens] for n, (listens, factor) in parts.items()}


@subspace.slip(
    "A step of length 1 in z moves the model far more than that. How many parameters listen to one coordinate?"
)
def not_scaled(shapes, d, seed):
    move, scale = each_listens_to_one(shapes, d, seed), (d / _size(shapes)) ** 0.5
    return lambda z: {n: u / scale for n, u in move(z).items()}


@subspace.slip("The factor is upside down: the change grows with the model. Which of d and D is the larger?")
def scale_upside_down(shapes, d, seed):
    move, scale = each_listens_to_one(shapes, d, seed), d / _size(shapes)
    return lambda z: {n: u / scale for n, u in move(z).items()}


@subspace.slip("The factor lacks its root. If n numbers are each 1 / n, how long is the vector?")
def scale_without_root(shapes, d, seed):
    move, scale = each_listens_to_one(shapes, d, seed), (d / _size(shapes)) ** 0.5
    return lambda z: {n: u * scale for n, u in move(z).items()}


@subspace.slip(
    "Each tensor by itself moves by about the length of z, so the whole model moves by more. The length of what is to come out as that of z: of one tensor, or of all together?"
)
def scaled_for_each_tensor(shapes, d, seed):
    move, D = each_listens_to_one(shapes, d, seed), _size(shapes)
    return lambda z: {n: u * (D / u.numel()) ** 0.5 for n, u in move(z).items()}


@subspace.slip("The changes are float64, and the model's weights float32. What type does the layer expect that you add them to?")
def in_float64(shapes, d, seed):
    move = each_listens_to_one(shapes, d, seed)
    return lambda z: {n: u.double() for n, u in move(z).items()}


@subspace.slip("Only one tensor of the model moves. Whose parameters were to listen?")
def one_tensor_only(shapes, d, seed):
    move, first = each_listens_to_one(shapes, d, seed), next(iter(shapes))
    return lambda z: {n: u if n == first else torch.zeros_like(u) for n, u in move(z).items()}


@subspace.slip("No gradient arrives at z. What in your code cuts it off?")
def cut_off(shapes, d, seed):
    move = each_listens_to_one(shapes, d, seed)
    return lambda z: move(z.detach())


@subspace.slip(
    "The model is changed before anything is learnt, at z = 0. What does your function add to the directions?"
)
def starts_elsewhere(shapes, d, seed):
    move, away = each_listens_to_one(shapes, d, seed), each_listens_to_one(shapes, d, seed + 1)
    return lambda z: {n: u + away(torch.ones(d))[n] for n, u in move(z).items()}


@subspace.slip(
    "All parameters listen to the same coordinate, and the others do nothing. How many directions can that reach?"
)
def first_coordinate_only(shapes, d, seed):
    draw, scale = torch.Generator().manual_seed(seed), (1 / _size(shapes)) ** 0.5
    factor = {n: torch.randn(s, generator=draw) * scale for n, s in shapes.items()}
    return lambda z: {n: factor[n] * z[0] for n in shapes}


# ================================================================ d90

d90 = Exercise(
    "d90",
    lesson=LESSON,
    title="The intrinsic dimension",
    signature="d90(scores, full)",
    why="A task's size in one number, which does not ask how the parameters are arranged.",
    points=1,
    minutes=5,
    difficulty=1,
    hints=[
        "The score to reach is nine tenths of `full`, the score of training everything.",
        "`scores` may come in any order, and a larger d need not score higher: look at every entry.",
        "Where nothing reaches it, the honest answer is that you do not know: `None`.",
    ],
)


@d90.cases
def d90_cases(seed):
    step = 2 ** (seed % 5)
    return [
        Case("scores that rise with d", scores={1: 0.1, step * 4: 0.5, step * 16: 0.83, step * 64: 0.9}, full=0.94),
        Case(
            "scores out of order",
            scores={step * 512: 0.99, 2: 0.3, step * 64: 0.97, step * 8: 0.5, step * 256: 0.98},
            full=1.0,
        ),
        Case(
            "a larger d that scores lower", scores={1: 0.2, step * 8: 0.76, step * 32: 0.7, step * 128: 0.82}, full=0.84
        ),
        Case("none that reaches it", scores={1: 0.1, step * 10: 0.4, step * 100: 0.62}, full=0.95),
        Case("one that reaches it exactly", scores={3: 0.2, step * 5: 0.45, step * 50: 0.48, step * 90: 0.5}, full=0.5),
    ]


@d90.observe
def look_d90(answer, case):
    return {"d90": given(answer(dict(case.scores), case.full), (int, type(None)), "`d90`")}


@d90.solution
def smallest_that_reaches(scores, full):
    return min((d for d, score in scores.items() if score >= 0.9 * full), default=None)


@d90.solution
def in_order(scores, full):
    for d in sorted(scores):
        if scores[d] >= 0.9 * full:
            return d
    return None


@d90.solution
def by_a_list(scores, full):
    enough = [d for d in scores if not scores[d] < 0.9 * full]
    return min(enough) if enough else None


@d90.slip("You take the first one in the dict. In which order do its entries come?")
def first_in_the_dict(scores, full):
    return next((d for d, score in scores.items() if score >= 0.9 * full), None)


@d90.slip("The score to reach is the same for every task here. Nine tenths of what?")
def nine_tenths_of_one(scores, full):
    return min((d for d, score in scores.items() if score >= 0.9), default=None)


@d90.slip("You measure against the best of the d's. Which run was to be the yardstick?")
def against_the_best(scores, full):
    return smallest_that_reaches(scores, max(scores.values()))


@d90.slip("Where no d is enough you give the largest that was tried. Does the measurement say that it is enough?")
def largest_instead_of_none(scores, full):
    return smallest_that_reaches(scores, full) or max(scores)


@d90.slip("A d that reaches the mark exactly does not count for you. Is nine tenths reached at nine tenths?")
def strictly_above(scores, full):
    return min((d for d, score in scores.items() if score > 0.9 * full), default=None)


@d90.slip("This is the d with the highest score. Was the best asked for, or the smallest that is good enough?")
def the_best(scores, full):
    d = max(scores, key=scores.get)
    return d if scores[d] >= 0.9 * full else None


@d90.slip("You want everything that full training reaches. How much of it is enough for d90?")
def all_of_full(scores, full):
    return min((d for d, score in scores.items() if score >= full), default=None)


@d90.slip(
    "You stop at the first d after which *every* larger one is good enough. Does the definition ask that of the larger ones?"
)
def all_larger_ones_too(scores, full):
    enough = None
    for d in sorted(scores, reverse=True):
        if scores[d] < 0.9 * full:
            break
        enough = d
    return enough
