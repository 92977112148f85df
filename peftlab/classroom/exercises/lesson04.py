"""Lesson 04, the LoRA family: rsLoRA, DoRA, PiSSA, AdaLoRA and LoRA+, each a few lines away from LoRA.

Shapes everywhere: A (r, d_in), B (d_out, r), weight (d_out, d_in), bias and magnitude (d_out,), x (..., d_in).
"""

import math

import torch
import torch.nn.functional as F

from ..exercise import Case, Exercise, Part, Question, Unexpected
from ..observing import changed, fresh, given, gradients, pair

LESSON = "04-lora-family"


def draws(seed):
    """A function that draws float64 normal tensors of a shape, the same for the same seed."""
    draw = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)


# ================================================================ predict

rank_and_size = Question(
    "rank-and-size",
    lesson=LESSON,
    title="A larger rank",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=1,
    question="You raise the rank of LoRA from 4 to 64 and leave `alpha` and the learning rate alone. You take one step of Adam, "
    "which moves every entry of `B` by about the learning rate. What becomes of the Frobenius norm of the update?",
    options={
        "a": (
            "it grows sixteen times: sixteen times as many numbers move",
            "They do, but a factor stands in front of the product. By how much did that factor shrink?",
        ),
        "b": (
            "it stays: that is what dividing by the rank is for",
            "That would be so if the r parts all pointed one way. Do they?",
        ),
        "c": (
            "it shrinks to about a quarter",
            "Parts that point in unrelated directions add up like the root of their number; LoRA divides by the number itself.",
        ),
        "d": (
            "it shrinks to a sixteenth",
            "The factor does. But there are sixteen times as many parts: do they add nothing?",
        ),
    },
    right="c",
)


does_rank_help = Question(
    "does-rank-help",
    lesson=LESSON,
    title="Four times the rank",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=2,
    question="LoRA with rank 8 writes about 95 in 100 unseen numbers in Italian after 80 steps. You train it again with rank 32, "
    "four times as many trainable parameters, both at the learning rate that suits them best, several seeds each. What do you find?",
    options={
        "a": (
            "rank 32 is better by ten points or more: it can represent every update that rank 8 can, and others",
            (
                "It can. But gradient descent has to find them in 80 steps, and the scale in front of B A has shrunk to a "
                "quarter. Is what a method can represent what holds this task back?"
            ),
        ),
        "b": (
            "rank 32 is worse by ten points or more: it overfits",
            "All 800 training numbers follow the rules that the test asks for. What would there be to learn by heart?",
        ),
        "c": (
            "a difference too small to tell from none with a few seeds",
            "A larger rank is room. Room helps where the task needs it; where eight ranks are enough, more of it changes little.",
        ),
        "d": (
            "rank 32 is better, and so would 64 and 128 be, each by as much again",
            "Then full fine-tuning would be far ahead of them all. How many points are left above 95 in 100?",
        ),
    },
    right="c",
)


# ================================================================ rsLoRA

rs_scale = Exercise(
    "rslora-scale",
    lesson=LESSON,
    title="The scale of rsLoRA",
    signature="scale(r, alpha, rank_stabilised)",
    why="One character of LoRA, and it decides how the first steps change with the rank.",
    points=1,
    minutes=3,
    hints=[
        "Without the new idea it is the factor you wrote in lesson 03.",
        "The r parts of the product point in unrelated directions. How does the length of such a sum grow with r?",
    ],
)


@rs_scale.cases
def scale_cases(seed):
    k = 1 + seed % 5
    return [
        Case(f"`r = {r}`, `alpha = {a * k}`, `rank_stabilised = {on}`", r=r, alpha=a * k, on=on)
        for r, a, on in ((9, 6, False), (9, 6, True), (64, 10, True), (5, 3, True), (2, 1, False))
    ]


@rs_scale.observe
def look_scale(answer, case):
    scale = given(answer(case.r, case.alpha, case.on), (int, float, torch.Tensor), "`scale`")
    if isinstance(scale, torch.Tensor) and scale.numel() != 1:
        raise Unexpected(f"`scale` gave a tensor of shape {tuple(scale.shape)}; expected one number.")
    return {"scale": float(scale)}


@rs_scale.solution
def by_root(r, alpha, rank_stabilised):
    return alpha / (math.sqrt(r) if rank_stabilised else r)


@rs_scale.solution
def by_power(r, alpha, rank_stabilised):
    return alpha * r ** (-0.5 if rank_stabilised else -1)


@rs_scale.solution
def by_cases(r, alpha, rank_stabilised):
    if rank_stabilised:
        return alpha / r**0.5
    return alpha / r


@rs_scale.slip("The root is taken always. When is the scale to be the one of lesson 03?")
def always_root(r, alpha, rank_stabilised):
    return alpha / r**0.5


@rs_scale.slip("The switch changes nothing. What is to be different when it is on?")
def never_root(r, alpha, rank_stabilised):
    return alpha / r


@rs_scale.slip("The two scales have changed places. Which of them is the larger for a rank above one?")
def swapped(r, alpha, rank_stabilised):
    return alpha / (r if rank_stabilised else r**0.5)


@rs_scale.slip("The root is taken of alpha as well. What does the root belong to?")
def root_of_both(r, alpha, rank_stabilised):
    return (alpha / r) ** 0.5 if rank_stabilised else alpha / r


@rs_scale.slip("With the switch on you multiply by the root. Should the factor grow with the rank?")
def times_root(r, alpha, rank_stabilised):
    return alpha * r**0.5 if rank_stabilised else alpha / r


@rs_scale.slip("You divide by the square of the rank. Which way was the exponent to move, away from one?")
def square(r, alpha, rank_stabilised):
    return alpha / r**2 if rank_stabilised else alpha / r


@rs_scale.slip("Alpha plays no part in your scale. What should happen to the update when someone doubles it?")
def alpha_forgotten(r, alpha, rank_stabilised):
    return 1 / (r**0.5 if rank_stabilised else r)


@rs_scale.slip("With the switch on the root is taken of alpha, and the rank is left as it is. What does the root belong to?")
def root_of_alpha(r, alpha, rank_stabilised):
    return (alpha**0.5 if rank_stabilised else alpha) / r


# ================================================================ DoRA

dora = Exercise(
    "dora-forward",
    lesson=LESSON,
    title="Magnitude and direction",
    signature="dora_forward(x, weight, bias, A, B, magnitude, alpha)",
    dims={"x": "... d_in", "weight": "d_out d_in", "bias": "d_out", "A": "r d_in", "B": "d_out r", "magnitude": "d_out"},
    why="Each row of the weight gets a norm of its own, and LoRA is left with turning it.",
    points=3,
    parts=[
        Part("the output is", 2, ("output",)),
        Part("the gradients are", 1, ("gradient of",), needs="the output is"),
    ],
    minutes=12,
    difficulty=2,
    hints=[
        "Build V first, the weight with LoRA's update merged in. What is the norm of each of its rows?",
        "Each row of V is divided by its norm and multiplied by its entry of `magnitude`. The bias belongs to neither, and may be `None`.",
        "The norm is held constant in the backward pass: `.detach()` on it alone, not on V.",
    ],
)


@dora.cases
def dora_cases(seed):
    draw, cases = draws(seed), []
    for batch, d_in, d_out, r, alpha in (((5,), 7, 4, 3, 12), ((2, 3), 6, 9, 4, 10), ((), 5, 8, 2, 1), ((2, 4), 5, 6, 3, 5)):
        names = {"x": (*batch, d_in), "weight": (d_out, d_in), "bias": (d_out,), "A": (r, d_in), "B": (d_out, r)}
        tensors = {k: draw(*s) for k, s in names.items()} | {"magnitude": draw(d_out).abs() + 0.5}
        cases.append(Case(f"`x` of shape {(*batch, d_in)}, `d_out = {d_out}`, `r = {r}`", tensors=tensors, alpha=alpha))
    del tensors["bias"]  # the last: a layer as polyglot-350k has them
    cases[-1].label += ", `bias = None`"
    return cases


@dora.observe
def look_dora(answer, case):
    inputs, before = fresh(case.tensors, learn=("x", "A", "B", "magnitude")), fresh(case.tensors)
    y = given(answer(**{"bias": None, **inputs}, alpha=case.alpha), torch.Tensor, "`dora_forward`")
    seen = {"output": y.detach().clone(), "changed in place": changed(before, inputs)}
    return seen | gradients(y, inputs, ("x", "A", "B", "magnitude"))


def _V(weight, A, B, alpha):
    return weight + alpha / len(A) * B @ A


def held(norm):
    """Constant in the backward pass."""
    return norm.detach()


def live(norm):
    """Part of the graph: the gradient flows through it too."""
    return norm


def at_either(message):
    """A slip in the output, registered twice: with the norm held constant, and without. The output is judged first."""

    def keep(function):
        for suffix, hold in (("", held), ("_live", live)):
            # as a default, so that the name in the closure is not the loop's last
            def answer(x, weight, bias, A, B, magnitude, alpha, hold=hold):
                return function(x, weight, bias, A, B, magnitude, alpha, hold)

            dora.slip(message)(answer, f"{function.__name__}{suffix}".replace("_", "-"))
        return function

    return keep


@dora.solution
def by_rows(x, weight, bias, A, B, magnitude, alpha):
    V = weight + alpha / A.shape[0] * B @ A
    norm = V.norm(dim=1).detach()
    return F.linear(x, V * (magnitude / norm)[:, None], bias)


@dora.solution
def by_outputs(x, weight, bias, A, B, magnitude, alpha):
    y = F.linear(x, weight) + alpha / len(A) * F.linear(F.linear(x, A), B)
    with torch.no_grad():
        norm = (weight + alpha / len(A) * B @ A).square().sum(1).sqrt()
    y = magnitude / norm * y
    return y if bias is None else y + bias


@dora.solution
def by_diagonal(x, weight, bias, A, B, magnitude, alpha):
    V = _V(weight, A, B, alpha)
    y = x @ (torch.diag(magnitude / V.detach().norm(dim=1)) @ V).T
    return y + (0 if bias is None else bias)


@dora.slip("The output is right, and a gradient is not: it flows through the norm too. What is held constant?")
def not_detached(x, weight, bias, A, B, magnitude, alpha):
    V = _V(weight, A, B, alpha)
    return F.linear(x, V / V.norm(dim=1, keepdim=True) * magnitude[:, None], bias)


BIAS_ALWAYS = "It stops where the layer has no bias, and none of the layers in this lesson has one. What is there to add when `bias` is `None`?"


@dora.slip(BIAS_ALWAYS)
def bias_always(x, weight, bias, A, B, magnitude, alpha):
    V = _V(weight, A, B, alpha)
    return x @ (V * (magnitude / V.norm(dim=1).detach())[:, None]).T + bias


@dora.slip(BIAS_ALWAYS)
def bias_always_live(x, weight, bias, A, B, magnitude, alpha):
    V = _V(weight, A, B, alpha)
    return x @ (V * (magnitude / V.norm(dim=1))[:, None]).T + bias


@at_either(
    "These are norms of columns of V, one for each input. Does `magnitude` have an entry for each input or each output?"
)
def by_columns(x, weight, bias, A, B, magnitude, alpha, hold):
    V = _V(weight, A, B, alpha)
    return F.linear(x, V / hold(V.norm(dim=0, keepdim=True)) * magnitude[:, None], bias)


@dora.slip(
    "You divide by the norms of the frozen rows. Which matrix is it whose rows should come out with norm one?"
)
def frozen_norm(x, weight, bias, A, B, magnitude, alpha):
    V = _V(weight, A, B, alpha)
    return F.linear(x, V * (magnitude / weight.norm(dim=1))[:, None], bias)


@at_either("The bias is stretched along with the rest. Does the bias belong to a row's norm?")
def bias_stretched(x, weight, bias, A, B, magnitude, alpha, hold):
    V = _V(weight, A, B, alpha)
    return F.linear(x, V, bias) * magnitude / hold(V.norm(dim=1))


@dora.slip("The rows keep their own norm besides. What must they be divided by before `magnitude` can set it?")
def not_divided(x, weight, bias, A, B, magnitude, alpha):
    return F.linear(x, _V(weight, A, B, alpha) * magnitude[:, None], bias)


@at_either("One norm is used for the whole matrix. How many rows are there to be given a norm?")
def one_norm(x, weight, bias, A, B, magnitude, alpha, hold):
    V = _V(weight, A, B, alpha)
    return F.linear(x, V * (magnitude / hold(V.norm()))[:, None], bias)


@dora.slip("No gradient reaches A and B. What else did you detach, beside the norm?")
def all_detached(x, weight, bias, A, B, magnitude, alpha):
    V = _V(weight, A, B, alpha).detach()
    return F.linear(x, V * (magnitude / V.norm(dim=1))[:, None], bias)


@at_either("The update is not scaled as in lesson 03. What stands before B A?")
def unscaled(x, weight, bias, A, B, magnitude, alpha, hold):
    V = weight + B @ A
    return F.linear(x, V * (magnitude / hold(V.norm(dim=1)))[:, None], bias)


@at_either("The update is multiplied by alpha and by nothing else. What is alpha divided by, as in lesson 03?")
def alpha_undivided(x, weight, bias, A, B, magnitude, alpha, hold):
    V = weight + alpha * B @ A
    return F.linear(x, V * (magnitude / hold(V.norm(dim=1)))[:, None], bias)


@at_either("Here alpha is divided by the root of the rank, as in rsLoRA. By what does the equation of this lesson divide it?")
def rank_stabilised(x, weight, bias, A, B, magnitude, alpha, hold):
    V = weight + alpha / len(A) ** 0.5 * B @ A
    return F.linear(x, V * (magnitude / hold(V.norm(dim=1)))[:, None], bias)


@dora.slip("The frozen rows get a new norm, and no update turns them. Where do A and B come in?")
def no_update(x, weight, bias, A, B, magnitude, alpha):
    return F.linear(x, weight * (magnitude / weight.norm(dim=1))[:, None], bias)


@dora.slip("This is LoRA: the norms of the rows are what they happen to be. What is `magnitude` for?")
def plain_lora(x, weight, bias, A, B, magnitude, alpha):
    return F.linear(x, _V(weight, A, B, alpha), bias)


@dora.slip("The norm is given to the frozen rows, and the update added afterwards. Which rows are to have that norm in the end?")
def update_added_last(x, weight, bias, A, B, magnitude, alpha):
    turned = weight * (magnitude / weight.norm(dim=1))[:, None]
    return F.linear(x, turned + alpha / len(A) * B @ A, bias)


@at_either("You divide by the sum of the squares. What is still to be taken of it before it is a norm?")
def squared_norm(x, weight, bias, A, B, magnitude, alpha, hold):
    V = _V(weight, A, B, alpha)
    return F.linear(x, V * (magnitude / hold(V.square().sum(1)))[:, None], bias)


@at_either("Every row comes out with norm one. Which of your inputs says what norm it is to have?")
def no_magnitude(x, weight, bias, A, B, magnitude, alpha, hold):
    V = _V(weight, A, B, alpha)
    return F.linear(x, V / hold(V.norm(dim=1))[:, None], bias)


@at_either("The bias is missing. What else does the layer add, where it has one?")
def no_bias(x, weight, bias, A, B, magnitude, alpha, hold):
    V = _V(weight, A, B, alpha)
    return F.linear(x, V * (magnitude / hold(V.norm(dim=1)))[:, None])


@dora.switched(
    norm=("by-columns", "one-norm", "frozen-norm", "squared-norm", "not-divided"),
    scale=("unscaled", "alpha-undivided"),
    shift=("no-bias", "bias-stretched"),
    graph=("not-detached", "all-detached"),
)
def with_switches(x, weight, bias, A, B, magnitude, alpha, norm="", scale="", shift="", graph=""):
    V = weight + {"unscaled": 1, "alpha-undivided": alpha}.get(scale, alpha / len(A)) * B @ A
    V = V.detach() if graph == "all-detached" else V
    divisor = {
        "by-columns": V.norm(dim=0, keepdim=True),
        "one-norm": V.norm(),
        "frozen-norm": weight.norm(dim=1, keepdim=True),
        "squared-norm": V.square().sum(1, keepdim=True),
        "not-divided": torch.ones_like(magnitude)[:, None],
    }.get(norm, V.norm(dim=1, keepdim=True))
    divisor = divisor if graph == "not-detached" else divisor.detach()
    stretched = None if bias is None else bias * magnitude / V.norm(dim=1).detach()
    return F.linear(x, V / divisor * magnitude[:, None], {"no-bias": None, "bias-stretched": stretched}.get(shift, bias))


# ================================================================ PiSSA

pissa = Exercise(
    "pissa-start",
    lesson=LESSON,
    title="Start where the weight is large",
    signature="pissa_start(weight, r, alpha)",
    dims={"weight": "d_out d_in"},
    why="Only the start differs from LoRA, and with it the directions that are trained.",
    points=2,
    parts=[
        Part("the product of B and A is", 1, ("alpha / r times B A",)),
        Part("what each of the two holds is", 1, ("norms of",), needs="the product of B and A is"),
    ],
    minutes=8,
    difficulty=2,
    hints=[
        "`torch.linalg.svd` with `full_matrices=False`, and of it the first r terms, as in lesson 02.",
        "Each singular value is shared out evenly: its root goes to the row of A, its root to the column of B.",
        "`alpha / r` times B A is to be the truncated SVD of the weight. What must B A be, then?",
    ],
)


@pissa.cases
def pissa_cases(seed):
    draw = draws(seed + 20)
    return [
        Case(f"`weight` of shape {(o, i)}, `r = {r}`, `alpha = {a}`", weight=draw(o, i), r=r, alpha=a)
        for o, i, r, a in ((6, 9, 2, 6), (9, 5, 3, 5), (7, 8, 4, 1))
    ]


@pissa.observe
def look_pissa(answer, case):
    inputs = fresh({"W": case.weight})
    A, B = (t.detach() for t in pair(answer(inputs["W"], case.r, case.alpha), "`pissa_start`", "A and B"))
    seen = {"shapes of A and B": f"{tuple(A.shape)} and {tuple(B.shape)}"}
    if A.shape == (case.r, case.weight.shape[1]) and B.shape == (len(case.weight), case.r):
        seen["alpha / r times B A"] = case.alpha / case.r * B @ A
        seen["norms of the rows of A"], seen["norms of the columns of B"] = A.norm(dim=1), B.norm(dim=0)
    return seen | {"changed in place": changed({"W": case.weight}, inputs)}


@pissa.solution
def by_roots(weight, r, alpha):
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    root = (S[:r] * r / alpha).sqrt()
    return root[:, None] * Vh[:r], U[:, :r] * root


@pissa.solution
def by_diagonals(weight, r, alpha):
    U, S, Vh = torch.linalg.svd(weight)
    D = torch.diag(S[:r] / (alpha / r)) ** 0.5
    return D @ Vh[:r], U[:, :r] @ D


@pissa.solution
def one_at_a_time(weight, r, alpha):
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    rows = [(S[i] * r / alpha) ** 0.5 * Vh[i] for i in range(r)]
    columns = [(S[i] * r / alpha) ** 0.5 * U[:, i] for i in range(r)]
    return torch.stack(rows), torch.stack(columns, dim=1)


def _parts(weight, r):
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    return U[:, :r], S[:r], Vh[:r]


@pissa.slip("B A is the truncated SVD of the weight, but a factor will be put before it. Who takes that out again?")
def forgot_scale(weight, r, alpha):
    U, S, Vh = _parts(weight, r)
    return S.sqrt()[:, None] * Vh, U * S.sqrt()


@pissa.slip("The singular values stand on one side only, in B. How are they to be shared between A and B?")
def all_in_B(weight, r, alpha):
    U, S, Vh = _parts(weight, r)
    return Vh, U * S * r / alpha


@pissa.slip("The singular values all went into A. What does B get of them?")
def all_in_A(weight, r, alpha):
    U, S, Vh = _parts(weight, r)
    return (S * r / alpha)[:, None] * Vh, U


@pissa.slip("These are the terms with the smallest singular values. In which order does `svd` give them?")
def weakest(weight, r, alpha):
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    root = (S[-r:] * r / alpha).sqrt()
    return root[:, None] * Vh[-r:], U[:, -r:] * root


@pissa.slip("The singular values are in there twice. The product of which two numbers is to be one of them?")
def no_root(weight, r, alpha):
    U, S, Vh = _parts(weight, r)
    return (S * r / alpha)[:, None] * Vh, U * S * r / alpha


@pissa.slip("The singular values are missing. What says how large each term is?")
def no_strength(weight, r, alpha):
    U, _, Vh = _parts(weight, r)
    return Vh * (r / alpha) ** 0.5, U * (r / alpha) ** 0.5


@pissa.slip("B is zero, as LoRA's is. Where does PiSSA start?")
def like_lora(weight, r, alpha):
    U, S, Vh = _parts(weight, r)
    return (S * r / alpha).sqrt()[:, None] * Vh, torch.zeros_like(U)


@pissa.slip("The factor that undoes `alpha / r` stands outside the root, so it is in both A and B. How often is it in their product?")
def factor_not_rooted(weight, r, alpha):
    U, S, Vh = _parts(weight, r)
    root = S.sqrt() * r / alpha
    return root[:, None] * Vh, U * root


@pissa.slip("You multiply by `alpha / r`, and the layer does so once more. Which factor takes that out again?")
def factor_upside_down(weight, r, alpha):
    U, S, Vh = _parts(weight, r)
    root = (S * alpha / r).sqrt()
    return root[:, None] * Vh, U * root


@pissa.slip("Alpha is taken out, and the rank is left in. What is the whole factor that stands before B A?")
def alpha_alone(weight, r, alpha):
    U, S, Vh = _parts(weight, r)
    root = (S / alpha).sqrt()
    return root[:, None] * Vh, U * root


@pissa.slip("A and B have changed places. Which of them meets the input first?")
def changed_places(weight, r, alpha):
    return by_roots(weight, r, alpha)[::-1]


@pissa.slip("All terms of the SVD are in there. How many of them were asked for?")
def all_parts(weight, r, alpha):
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    root = (S * r / alpha).sqrt()
    return root[:, None] * Vh, U * root


@pissa.slip("You took columns of what `svd` gives third. It comes transposed already: where in it does the first right singular vector stand?")
def columns_of_vh(weight, r, alpha):
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    root = (S[:r] * r / alpha).sqrt()
    return root[:, None] * Vh[:, :r].T, U[:, :r] * root


as_lora = Exercise(
    "pissa-as-lora",
    lesson=LESSON,
    title="A plain LoRA of twice the rank",
    signature="as_lora(A, B, A0, B0, alpha)",
    dims={"A": "r d_in", "B": "d_out r", "A0": "r d_in", "B0": "d_out r"},
    why="So that a file needs no base other than the one everybody has.",
    points=2,
    minutes=8,
    difficulty=2,
    hints=[
        "What training changed is B A - B0 A0: a sum of two products. What product has the rows of A *and* those of A0?",
        "`torch.cat` stacks rows with `dim=0` and columns with `dim=1`. One of the four blocks needs a minus.",
        "The new adapter divides its alpha by the new rank. The factor is to come out as before.",
    ],
)


@as_lora.cases
def as_lora_cases(seed):
    draw, cases = draws(seed + 40), []
    for o, i, r, alpha in ((6, 9, 2, 5), (9, 5, 3, 12), (7, 8, 4, 4)):
        t = {"A": draw(r, i), "B": draw(o, r), "A0": draw(r, i), "B0": draw(o, r)}
        cases.append(Case(f"`r = {r}`, `alpha = {alpha}`, weight {(o, i)}", tensors=t, alpha=alpha, r=r))
    return cases


@as_lora.observe
def look_as_lora(answer, case):
    inputs = fresh(case.tensors)
    out = given(answer(**inputs, alpha=case.alpha), (tuple, list), "`as_lora`")
    if len(out) != 3:
        raise Unexpected(f"`as_lora` gave {len(out)} things; expected three: A, B and alpha.")
    A, B, alpha = out
    A, B = given(A, torch.Tensor, "`as_lora`, first,"), given(B, torch.Tensor, "`as_lora`, second,")
    seen = {"shape of A": str(tuple(A.shape)), "shape of B": str(tuple(B.shape)), "alpha": float(alpha)}
    if A.shape[0] == B.shape[1]:
        seen["the update, alpha / rank times B A"] = alpha / len(A) * B @ A
    return seen | {"changed in place": changed(case.tensors, inputs)}


@as_lora.solution
def stacked(A, B, A0, B0, alpha):
    return torch.cat((A, A0)), torch.cat((B, -B0), dim=1), 2 * alpha


@as_lora.solution
def minus_in_A(A, B, A0, B0, alpha):
    return torch.vstack((A, -A0)), torch.hstack((B, B0)), alpha * 2


@as_lora.solution
def start_first(A, B, A0, B0, alpha):
    rank, start = len(A) + len(A0), torch.cat((-B0, B), dim=-1)
    return torch.cat((A0, A), dim=0), start, alpha * rank / len(A)


@as_lora.slip("B is stacked in rows, and got twice as many outputs. Along which of its dimensions do the ranks lie?")
def stacked_in_rows(A, B, A0, B0, alpha):
    return torch.cat((A, A0)), torch.cat((B, -B0)), 2 * alpha


@as_lora.slip("The start is added. What does training *change*, if nothing has been trained yet?")
def added(A, B, A0, B0, alpha):
    return torch.cat((A, A0)), torch.cat((B, B0), dim=1), 2 * alpha


@as_lora.slip("The update comes out half as large. By what does a LoRA of twice the rank divide its alpha?")
def same_alpha(A, B, A0, B0, alpha):
    return torch.cat((A, A0)), torch.cat((B, -B0), dim=1), alpha


@as_lora.slip("You saved A and B alone. What does a plain LoRA on the untouched base make of them?")
def no_start(A, B, A0, B0, alpha):
    return A, B, alpha


@as_lora.slip(
    "You took the start from A and from B separately. Is a difference of products the product of differences?"
)
def differences(A, B, A0, B0, alpha):
    return A - A0, B - B0, alpha


@as_lora.slip("The update comes out too large. Is alpha to grow with the rank, or with its square?")
def alpha_squared(A, B, A0, B0, alpha):
    return torch.cat((A, A0)), torch.cat((B, -B0), dim=1), 4 * alpha


@as_lora.slip("The rows of A meet the wrong columns of B. In which order did you stack each?")
def crossed(A, B, A0, B0, alpha):
    return torch.cat((A, A0)), torch.cat((-B0, B), dim=1), 2 * alpha


@as_lora.slip("The update has the opposite sign. Which of the two, the trained or the start, is taken off?")
def reversed_sign(A, B, A0, B0, alpha):
    return torch.cat((A, A0)), torch.cat((-B, B0), dim=1), 2 * alpha


# ================================================================ AdaLoRA

keep = Exercise(
    "adalora-keep",
    lesson=LESSON,
    title="One budget for all layers",
    signature="keep_best(scores, budget)",
    why="This is where ranks move from one layer to another.",
    points=2,
    minutes=8,
    difficulty=2,
    hints=[
        "All layers stand in one contest: put all scores in one long tensor and find the `budget` largest of them.",
        "`torch.topk` gives values *and* places. A mark that scores are compared with lets too many stay where several are equal to it; places do not.",
        "A mask for the long tensor, true at those places, can be cut into one piece a layer: `split`.",
    ],
)


@keep.cases
def keep_cases(seed):
    draw, cases = draws(seed + 60), []
    for layers, r, budget in ((3, 4, 5), (4, 6, 9), (2, 5, 3)):
        scores = {f"layer {i}": (draw(r).abs() + 0.01) * 4.0**i for i in range(layers)}  # later layers matter more
        scores["layer 0"][1] = 4.0 ** (layers + 1)  # and one triplet of the first does
        cases.append(Case(f"{layers} layers of {r}, `budget = {budget}`", scores=scores, budget=budget))
    ties = {i: torch.zeros(4, dtype=torch.float64) for i in range(3)}  # triplets that are off score zero; keys as in the lesson
    ties[1][2], ties[2][0] = 1 + seed % 3, 5
    cases.append(Case("3 layers of 4, ten scores of them zero, `budget = 5`", scores=ties, budget=5))
    return [*cases, Case("2 layers of 4, `budget = 8`: all of them", scores={i: draw(4).abs() for i in range(2)}, budget=8)]


@keep.observe
def look_keep(answer, case):
    scores = fresh(case.scores)
    kept = given(answer(scores, case.budget), dict, "`keep_best`")
    kept = {name: given(mask, torch.Tensor, f"`{name}`") for name, mask in kept.items()}
    for name, mask in kept.items():
        if name in scores and (mask.shape != scores[name].shape or bool(((mask != 0) & (mask != 1)).any())):
            shape = tuple(scores[name].shape)
            raise Unexpected(f"`{name}` has no mask. A mask has the shape of the scores, {shape}, and is true or false for each of them.")
    seen = {"kept in all": int(sum(mask.sum() for mask in kept.values()))}
    mark = torch.cat(list(case.scores.values())).sort(descending=True).values[case.budget - 1]
    equal = int(sum((s == mark).sum() for s in case.scores.values())) > 1  # then any of those at the mark will do

    def told(name, i, k):
        return "either" if equal and name in case.scores and case.scores[name][i] == mark else bool(k)

    seen["which"] = {name: [told(name, i, k) for i, k in enumerate(mask.flatten())] for name, mask in kept.items()}
    seen["type of the masks"] = ", ".join(sorted({str(mask.dtype).removeprefix("torch.") for mask in kept.values()}))
    return seen | {"changed in place": changed(case.scores, scores)}


@keep.solution
def by_places(scores, budget):
    flat = torch.cat(list(scores.values()))
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[flat.topk(budget).indices] = True
    return dict(zip(scores, mask.split([len(s) for s in scores.values()])))


@keep.solution
def by_sorting(scores, budget):
    ranked = sorted(((float(v), name, i) for name, s in scores.items() for i, v in enumerate(s)), key=lambda t: -t[0])
    masks = {name: torch.zeros(len(s), dtype=torch.bool) for name, s in scores.items()}
    for _, name, i in ranked[:budget]:
        masks[name][i] = True
    return masks


@keep.solution
def by_order(scores, budget):
    flat = torch.hstack([*scores.values()])
    place = flat.argsort(descending=True).argsort()
    kept, at = {}, 0
    for name, s in scores.items():
        kept[name] = place[at : at + len(s)] < budget
        at += len(s)
    return kept


def by_a_mark(scores, budget):
    mark = torch.cat(list(scores.values())).topk(budget).values[-1]
    return {name: s >= mark for name, s in scores.items()}


@keep.slip("Where several scores are equal to the weakest that stays, more stay than the budget allows. How would you choose places, not values?")
def more_at_the_mark(scores, budget):
    return by_a_mark(scores, budget)


@keep.slip("Your masks are numbers, 1 and 0. Of which type must a mask be, for PyTorch to take it as one, when it stands between brackets or behind a `~`?")
def float_masks(scores, budget):
    return {name: mask.double() for name, mask in by_places(scores, budget).items()}


@keep.slip("Your masks are numbers, 1 and 0. Of which type must a mask be, for PyTorch to take it as one, when it stands between brackets or behind a `~`?")
def float32_masks(scores, budget):
    return {name: mask.float() for name, mask in by_places(scores, budget).items()}


@keep.slip("Your masks are numbers, 1 and 0. Of which type must a mask be, for PyTorch to take it as one, when it stands between brackets or behind a `~`?")
def integer_masks(scores, budget):
    return {name: mask.long() for name, mask in by_places(scores, budget).items()}


@keep.slip("Every layer keeps as many. Which of them is allowed to lose all its ranks to another?")
def each_its_share(scores, budget):
    n = budget // len(scores)
    return {name: s >= s.topk(n).values[-1] for name, s in scores.items()}


@keep.slip("The least important are kept. Which end of the list is to be switched off?")
def worst(scores, budget):
    return by_places({name: -s for name, s in scores.items()}, budget)


@keep.slip("One too few is kept. Does the one that stands exactly at the mark belong to the budget?")
def one_short(scores, budget):
    mark = torch.cat(list(scores.values())).topk(budget).values[-1]
    return {name: s > mark for name, s in scores.items()}


@keep.slip("You switch off as many as the budget says. Is it the number to keep or the number to lose?")
def budget_lost(scores, budget):
    return by_places(scores, sum(len(s) for s in scores.values()) - budget)


@keep.slip("Whole layers are kept or lost. Is it layers that compete, or single triplets?")
def whole_layers(scores, budget):
    best = sorted(scores, key=lambda name: -scores[name].mean())[: max(1, budget // len(next(iter(scores.values()))))]
    return {name: torch.full_like(s, name in best, dtype=torch.bool) for name, s in scores.items()}


@keep.slip("Scores are compared within their layer, as shares of it. Can a layer that matters little then ever lose?")
def relative(scores, budget):
    return by_places({name: s / s.sum() for name, s in scores.items()}, budget)


@keep.slip("Every layer keeps the whole budget. Is it meant for each of them or for all together?")
def the_budget_for_each(scores, budget):
    return {name: s >= s.topk(min(budget, len(s))).values[-1] for name, s in scores.items()}


@keep.slip("Nothing is switched off. How many may stay?")
def everything(scores, budget):
    return {name: torch.ones_like(s, dtype=torch.bool) for name, s in scores.items()}


# ================================================================ LoRA+

plus = Exercise(
    "lora-plus-groups",
    lesson=LESSON,
    title="A faster B",
    signature="groups(named_parameters, lr, ratio)",
    why="A and B are not alike: one reads, one writes. LoRA+ lets the writing one learn faster.",
    points=1,
    minutes=5,
    hints=[
        "An optimizer of PyTorch takes a list of dicts, each with its `params` and its `lr`.",
        "The name tells them apart: a `B` of LoRA has `lora_B` in its name. What is frozen goes nowhere.",
        "`model.named_parameters()` can be gone through once only.",
    ],
)


@plus.cases
def plus_cases(seed):
    lr = 0.01 * (1 + seed % 4)
    names = ["a.lora_A", "a.lora_B", "b.lora_A", "b.lora_B", "head.weight", "a.weight", "B.weight"]
    return [
        Case(f"`lr = {lr}`, `ratio = {ratio}`", names=names[:n], frozen={"a.weight"}, lr=lr, ratio=ratio)
        for n, ratio in ((4, 16), (6, 4), (7, 8))
    ]


@plus.observe
def look_plus(answer, case):
    parameters = {n: torch.nn.Parameter(torch.ones(2), requires_grad=n not in case.frozen) for n in case.names}
    made = given(answer(iter(parameters.items()), case.lr, case.ratio), list, "`groups`")
    names = {id(p): n for n, p in parameters.items()}
    seen = {}
    for group in made:
        if "params" not in given(group, dict, "an entry of `groups`"):
            raise Unexpected(f"a group has no `params`; it has {', '.join(map(str, group)) or 'nothing'}.")
        params = group["params"]  # one alone will do for an optimizer
        if isinstance(params, set):
            raise Unexpected("`params` is a set, which has no order, and an optimizer refuses it; expected a list.")
        for p in [params] if isinstance(params, torch.Tensor) else params:
            if id(p) not in names:
                raise Unexpected(f"`params` holds a {type(p).__name__}; expected the parameters themselves.")
            rate = f"{float(group['lr']):.6g}" if "lr" in group else "none of its own"
            seen.setdefault(names[id(p)], []).append(rate)
    return {"learning rates": {name: " and ".join(rates) for name, rates in sorted(seen.items())}}


@plus.solution
def two_lists(named_parameters, lr, ratio):
    slow, fast = [], []
    for name, p in named_parameters:
        if p.requires_grad:
            (fast if "lora_B" in name else slow).append(p)
    return [{"params": slow, "lr": lr}, {"params": fast, "lr": lr * ratio}]


@plus.solution
def one_each(named_parameters, lr, ratio):
    return [{"params": [p], "lr": lr * ratio if "lora_B" in n else lr} for n, p in named_parameters if p.requires_grad]


@plus.solution
def by_rate(named_parameters, lr, ratio):
    rates = {}
    for name, p in named_parameters:
        if p.requires_grad:
            rates.setdefault(ratio * lr if "lora_B" in name else lr, []).append(p)
    return [{"params": those, "lr": rate} for rate, those in rates.items()]


@plus.slip(
    "No B is in a group. `named_parameters` may be a generator, as a model gives it: how often can one be gone through?"
)
def twice_through(named_parameters, lr, ratio):
    rest = [p for n, p in named_parameters if p.requires_grad and "lora_B" not in n]
    fast = [p for n, p in named_parameters if p.requires_grad and "lora_B" in n]
    return [{"params": rest, "lr": lr}, {"params": fast, "lr": lr * ratio}]


@plus.slip("A learns faster here, and B does not. Which of the two writes into the layer's output?")
def fast_A(named_parameters, lr, ratio):
    return one_each(
        [(n.replace("lora_A", "x").replace("lora_B", "lora_A").replace("x", "lora_B"), p) for n, p in named_parameters],
        lr,
        ratio,
    )


@plus.slip("B learns more slowly than A. Is the ratio multiplied or divided?")
def slow_B(named_parameters, lr, ratio):
    return one_each(named_parameters, lr, 1 / ratio)


@plus.slip("Frozen parameters are in a group too. What has the optimizer to do with them?")
def frozen_too(named_parameters, lr, ratio):
    return [{"params": [p], "lr": lr * ratio if "lora_B" in n else lr} for n, p in named_parameters]


@plus.slip("All have one rate. What is the ratio for?")
def one_rate(named_parameters, lr, ratio):
    return one_each(named_parameters, lr, 1)


ONLY_B = "Only B is in a group. Where did A go: was it left out, or looked for in a generator that had been gone through?"


@plus.slip(ONLY_B)
def only_B(named_parameters, lr, ratio):
    return one_each([(n, p) for n, p in named_parameters if "lora_B" in n], lr, ratio)


@plus.slip(ONLY_B)
def twice_through_B_first(named_parameters, lr, ratio):
    fast = [p for n, p in named_parameters if p.requires_grad and "lora_B" in n]
    rest = [p for n, p in named_parameters if p.requires_grad and "lora_B" not in n]
    return [{"params": rest, "lr": lr}, {"params": fast, "lr": lr * ratio}]


@plus.slip("A's rate was lowered, B's left at `lr`. Whose rate is `lr`?")
def lowered_A(named_parameters, lr, ratio):
    return [{"params": [p], "lr": lr if "lora_B" in n else lr / ratio} for n, p in named_parameters if p.requires_grad]


@plus.slip("Each B is in two groups, and an optimizer refuses that. Which group must it stay out of?")
def B_twice(named_parameters, lr, ratio):
    trained = [(n, p) for n, p in named_parameters if p.requires_grad]
    fast = [p for n, p in trained if "lora_B" in n]
    return [{"params": [p for _, p in trained], "lr": lr}, {"params": fast, "lr": lr * ratio}]


@plus.slip("A parameter with a B somewhere in its name learns faster too. By what can you tell a `B` of LoRA?")
def any_B(named_parameters, lr, ratio):
    return [{"params": [p], "lr": lr * ratio if "B" in n else lr} for n, p in named_parameters if p.requires_grad]


@plus.slip("Something trainable is in no group: the head. What was to learn at `lr`?")
def head_left_out(named_parameters, lr, ratio):
    return one_each([(n, p) for n, p in named_parameters if "lora_" in n], lr, ratio)


@plus.slip("What is not a B has no rate of its own. Which one will the optimizer give it, if nobody says?")
def no_rate_for_the_rest(named_parameters, lr, ratio):
    trained = [(n, p) for n, p in named_parameters if p.requires_grad]
    return [{"params": [p], "lr": lr * ratio} if "lora_B" in n else {"params": [p]} for n, p in trained]
