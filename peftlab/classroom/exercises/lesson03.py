"""Lesson 03, LoRA: y = W x + b + (alpha / r) B A x (arXiv:2106.09685), built by hand.

Shapes everywhere: A (r, d_in), B (d_out, r), weight (d_out, d_in), bias (d_out), x (..., d_in).
"""

import hashlib

import torch
import torch.nn.functional as F
from torch import nn

from ..compare import difference
from ..exercise import Case, Exercise, Part, Question, Unexpected
from ..observing import Residual, changed, fresh, given, gradients, pair, tiny_bert, tiny_llama

LESSON = "03-lora"
SHAPES = [  # batch, d_in, d_out, r, alpha, dtype: alpha != r, d_in != d_out, r never a dimension
    ((5,), 7, 4, 3, 12, torch.float32),
    ((2, 3), 6, 9, 4, 10, torch.float32),
    ((2, 3), 5, 8, 2, 1, torch.float64),
    ((), 4, 6, 3, 5, torch.float32),
    ((2, 2, 3), 9, 5, 6, 9, torch.float32),
]


def layer_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    cases = []
    for batch, d_in, d_out, r, alpha, dtype in SHAPES:
        shapes = {"x": (*batch, d_in), "weight": (d_out, d_in), "bias": (d_out,), "A": (r, d_in), "B": (d_out, r)}
        tensors = {k: torch.randn(*s, generator=draw, dtype=torch.float64).to(dtype) for k, s in shapes.items()}
        label = f"`x` of shape {(*batch, d_in)}, `d_out = {d_out}`, `r = {r}`, `alpha = {alpha}`, {str(dtype)[6:]}"
        cases.append(Case(label, tensors=tensors, r=r, alpha=alpha))
    return cases


# ================================================================ predict

first_step = Question(
    "lora-first-step",
    lesson=LESSON,
    title="Which of the two moves first",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=1,
    question="`B` starts at zero and `A` does not. You take one training step. Which of the two has changed?",
    options={
        "a": (
            "both",
            "The loss does reach A, but through B: A's gradient is Bᵀ times something, and B is still zero. In step two?",
        ),
        "b": (
            "only A",
            "A's gradient passes through B before it arrives. What does multiplying by a matrix of zeros leave of it?",
        ),
        "c": ("only B", "B's gradient is made of A x, which is not zero; A's is made of B, which is."),
        "d": (
            "neither",
            "If neither moved, nothing could ever be learnt. The output of A is not zero: what does B's gradient see?",
        ),
    },
    right="c",
)


alpha_and_rank = Question(
    "alpha-and-rank",
    lesson=LESSON,
    title="Rank up, alpha as it was",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=2,
    question=(
        "LoRA with `r = 8` and `alpha = 16` learns Italian, a few steps at a rate that suits it. Now you take `r = 64`, eight times "
        "as many trainable parameters, and leave `alpha` and all else as it was. How far has *this* run come after the same steps?"
    ),
    options={
        "a": (
            "much further: eight times the parameters learn more in a step",
            "More of them move, and what they add up to is divided by the rank: by how much more than before?",
        ),
        "b": (
            "about as far",
            (
                "Eight times the parameters, and nothing gained: B A grows, alpha / r falls by eight, and the update comes out smaller. "
                "With a larger alpha the same rank learns far faster: what held it back was the step."
            ),
        ),
        "c": (
            "hardly anywhere: its update is divided by eight times as much",
            "Divided by eight times as much, yes. Does B A stay what it was when A has eight times the rows?",
        ),
        "d": (
            "less far, but it will generalise better: a small alpha is a regulariser",
            "Is there a term in the loss that holds anything small? Compare with what a lower learning rate does.",
        ),
    },
    right="b",
)


# ================================================================ forward

lora_forward = Exercise(
    "lora-forward",
    lesson=LESSON,
    title="The forward pass",
    signature="lora_forward(x, weight, bias, A, B, alpha)",
    dims={"x": "... d_in", "weight": "d_out d_in", "bias": "d_out", "A": "r d_in", "B": "d_out r"},
    why="Every LoRA ever trained is this one line.",
    points=3,
    parts=[
        Part("the output is", 2, ("output",)),
        Part("the gradients are", 1, ("gradient of",), needs="the output is"),
    ],
    minutes=8,
    difficulty=1,
    hints=[
        "Start from what the frozen layer gives on its own; LoRA only ever adds to it.",
        "Follow one vector: d_in numbers go in, A makes r of them, B makes d_out. Which side does `x` stand on?",
        "How large the addition is depends on two numbers; the rank can be read off a shape.",
    ],
)


@lora_forward.cases
def forward_cases(seed):
    *cases, last = layer_cases(seed)
    del last.tensors["bias"]  # as every linear layer of a Llama
    return [*cases, Case(f"{last.label}, and no bias: `bias` is None", tensors=last.tensors, r=last.r, alpha=last.alpha)]


@lora_forward.observe
def look_forward(answer, case):
    inputs = fresh(case.tensors, learn=("x", "A", "B"))
    before = fresh(case.tensors)
    y = given(answer(**{"bias": None, **inputs}, alpha=case.alpha), torch.Tensor, "`lora_forward`")
    seen = {"output": y.detach().clone(), "changed in place": changed(before, inputs)}
    return seen | gradients(y, inputs, ("x", "A", "B"))


@lora_forward.evidence
def update_ratio(cases, seen, expected):
    """Where the update has the right direction and the wrong size in every case, say how many times too large it is."""
    ratios = []
    for case, mine, theirs in zip(cases, seen, expected, strict=True):
        if "error" in mine and "bias" not in case.tensors:
            continue  # `+ bias` where there is none: what the others show still holds
        t = {k: v.double() for k, v in case.tensors.items()}
        base = F.linear(t["x"], t["weight"], t.get("bias"))
        if "error" in mine or mine["output"].shape != base.shape:
            return None
        mine, theirs = mine["output"].double() - base, theirs["output"].double() - base
        ratio = ((mine * theirs).sum() / (theirs * theirs).sum()).item()
        if difference((mine - ratio * theirs + theirs).float(), theirs.float()):
            return None
        ratios.append((ratio, case))
    if all(abs(ratio) < 1e-5 for ratio, _ in ratios):
        return "What you add to the frozen layer is zero."
    if all(abs(ratio - 1) < 1e-4 for ratio, _ in ratios):
        return None
    sizes = "; ".join(f"{ratio:.4g} times at `r = {c.r}`, `alpha = {c.alpha}`" for ratio, c in ratios[:3])
    return f"What you add to the frozen layer is not of the right size: {sizes}."


@lora_forward.solution
def by_linear(x, weight, bias, A, B, alpha):
    return F.linear(x, weight, bias) + alpha / A.shape[0] * F.linear(F.linear(x, A), B)


@lora_forward.solution
def by_matmul(x, weight, bias, A, B, alpha):
    r = B.shape[1]
    y = x @ weight.T + (x @ A.T @ B.T) * (alpha / r)
    return y if bias is None else y + bias


@lora_forward.solution
def by_merging(x, weight, bias, A, B, alpha):
    return F.linear(x, weight + alpha / len(A) * (B @ A), bias)


@lora_forward.solution
def by_einsum(x, weight, bias, A, B, alpha):
    update = torch.einsum("...i,ri,or->...o", x, A, B)
    frozen = torch.einsum("...i,oi->...o", x, weight) + (0 if bias is None else bias)
    return frozen + update.mul(alpha).div(A.size(0))


lora_forward.slip(
    "Something is added, but its size does not know about the rank. "
    "What should happen to the update when someone doubles the rank and leaves alpha alone?"
)(lambda x, weight, bias, A, B, alpha: F.linear(x, weight, bias) + alpha * (x @ A.T @ B.T), "alpha-without-rank")


@lora_forward.slip(
    "The size of the update ignores alpha. Which number lets a user turn the update up without retraining?"
)
def no_scaling(x, weight, bias, A, B, alpha):
    return F.linear(x, weight, bias) + x @ A.T @ B.T


@lora_forward.slip("The update shrinks when alpha grows. Which of alpha and r should make it larger?")
def scale_upside_down(x, weight, bias, A, B, alpha):
    return F.linear(x, weight, bias) + A.shape[0] / alpha * (x @ A.T @ B.T)


@lora_forward.slip("The update is divided by the rank and alpha plays no part. What is alpha for?")
def rank_only(x, weight, bias, A, B, alpha):
    return F.linear(x, weight, bias) + x @ A.T @ B.T / A.shape[0]


@lora_forward.slip(
    "The update is divided by a dimension of the layer instead of the rank. Which dimension of A is the rank?"
)
def wrong_dimension_for_rank(x, weight, bias, A, B, alpha):
    return F.linear(x, weight, bias) + alpha / A.shape[1] * (x @ A.T @ B.T)


@lora_forward.slip(
    "This is rsLoRA's scale, which lesson 04 is about: it divides by the square root of the rank. What does LoRA's own divide by?"
)
def square_root_of_rank(x, weight, bias, A, B, alpha):
    return F.linear(x, weight, bias) + alpha / A.shape[0] ** 0.5 * (x @ A.T @ B.T)


@lora_forward.slip("The frozen layer's own output is missing. What should the answer be when B is zero?")
def update_alone(x, weight, bias, A, B, alpha):
    return alpha / A.shape[0] * (x @ A.T @ B.T)


@lora_forward.slip("The bias is missing. What does the frozen layer give for `x = 0`?")
def no_bias(x, weight, bias, A, B, alpha):
    return x @ weight.T + alpha / A.shape[0] * (x @ A.T @ B.T)


@lora_forward.slip("The bias is scaled along with the update. Which terms does alpha belong to?")
def scales_the_bias_too(x, weight, bias, A, B, alpha):
    scale = alpha / A.shape[0]
    return x @ weight.T + scale * F.linear(x @ A.T, B, bias)


@lora_forward.slip("The bias is there twice. Does the update have a bias of its own?")
def bias_twice(x, weight, bias, A, B, alpha):
    return F.linear(x, weight, bias) + alpha / A.shape[0] * (x @ A.T @ B.T) + (0 if bias is None else bias)


@lora_forward.slip(
    "Right wherever the layer has a bias. Many have none, and then `bias` is None: every linear layer of a Llama is like that. "
    "What adds a bias only where there is one?"
)
def needs_a_bias(x, weight, bias, A, B, alpha):
    return x @ weight.T + bias + alpha / A.shape[0] * (x @ A.T @ B.T)


@lora_forward.slip("The whole output is scaled, the frozen layer included. What should alpha leave untouched?")
def scales_everything(x, weight, bias, A, B, alpha):
    return alpha / A.shape[0] * (F.linear(x, weight, bias) + x @ A.T @ B.T)


@lora_forward.slip("The update is subtracted. In which direction would training push B to make up for that?")
def minus_for_plus(x, weight, bias, A, B, alpha):
    return F.linear(x, weight, bias) - alpha / A.shape[0] * (x @ A.T @ B.T)


@lora_forward.slip(
    "The output is right but nothing arrives at A and B in the backward pass. What in your code cuts the graph?"
)
def detached(x, weight, bias, A, B, alpha):
    return F.linear(x, weight, bias) + (alpha / A.shape[0] * (x @ A.T @ B.T)).detach()


@lora_forward.slip(
    "The output is right and B learns, but A receives no gradient. What stands between A and the output?"
)
def a_detached(x, weight, bias, A, B, alpha):
    return F.linear(x, weight, bias) + alpha / A.shape[0] * (x @ A.detach().T @ B.T)


@lora_forward.slip(
    "The output is right, but the frozen layer no longer passes a gradient on to x. Who needs that gradient?"
)
def base_detached(x, weight, bias, A, B, alpha):
    return F.linear(x, weight, bias).detach() + alpha / A.shape[0] * (x @ A.T @ B.T)


@lora_forward.slip(
    "The output is right this time, but the frozen weight has been changed in place. What happens on the second call?"
)
def merges_into_the_base(x, weight, bias, A, B, alpha):
    weight += alpha / A.shape[0] * (B @ A)
    return F.linear(x, weight, bias)


@lora_forward.slip("This is the frozen layer alone: A and B change nothing. Where do they enter?")
def base_alone(x, weight, bias, A, B, alpha):
    return F.linear(x, weight, bias)


# ================================================================ init

lora_init = Exercise(
    "lora-init",
    lesson=LESSON,
    title="Where A and B start",
    signature="lora_init(d_in, d_out, r)",
    why="A bad start either breaks the model at step 0 or never learns.",
    points=2,
    minutes=6,
    difficulty=1,
    hints=[
        "Two wishes: at the start the model must be exactly the base model, and the first step must change something.",
        "If both are zero, look at each gradient: what is it multiplied by?",
        ("For A: each entry of `A @ x` is a sum of d_in products with random signs. Does such a sum grow with d_in as its terms "
        "are counted, or more slowly, since many cancel?"),
        ("Variances of independent terms add up: the variance of the sum is d_in times that of one term. What is its "
        "standard deviation, then?"),
    ],
)


@lora_init.cases
def init_cases(seed):
    shapes = [(256, 64, 8), (64, 400, 4), (1024, 128, 16)]
    return [Case(f"`d_in = {i}`, `d_out = {o}`, `r = {r}`", d_in=i, d_out=o, r=r) for i, o, r in shapes]


@lora_init.observe
def look_init(answer, case):
    A, B = pair(answer(case.d_in, case.d_out, case.r), "`lora_init`", "A and B")
    other = pair(answer(case.d_in, case.d_out, case.r), "`lora_init`", "A and B")
    seen = {"shape of A": list(A.shape), "shape of B": list(B.shape)}
    A, B = A.detach().double(), B.detach().double()
    seen |= {"A is zero": not A.any(), "B is zero": not B.any()}
    if list(A.shape) == [case.r, case.d_in] and A.any():
        size = (A.pow(2).mean() * case.d_in).sqrt().item()  # |A x| per entry, for x with entries of size 1
        seen["size of an entry of A @ x, when the entries of x are of size 1"] = (
            "about 1" if 0.25 < size < 2 else f"about {size:.2g}"
        )
        seen["a row of A differs from the next"] = not torch.equal(A[0], A[1])
        seen["positive and negative entries in A"] = bool((A > 0).double().mean().sub(0.5).abs() < 0.1)
        seen["a second call draws another A"] = not torch.equal(A, other[0].double())
        seen["_size"] = size
    return seen


@lora_init.evidence
def sizes_by_width(cases, seen, expected):
    """Where `A @ x` is too large or too small, how much in every case: its dependence on d_in can then be read off."""
    sizes = [(case.d_in, mine.get("_size")) for case, mine in zip(cases, seen, strict=True)]
    if any(size is None for _, size in sizes) or all(0.25 < size < 2 for _, size in sizes):
        return None
    told = ", ".join(f"{size:.2g} at `d_in = {d_in}`" for d_in, size in sorted(sizes))
    return f"For `x` with entries of size 1, those of `A @ x` are of size {told}. Which function of `d_in` grows or shrinks like that?"


@lora_init.solution
def as_linear_does(d_in, d_out, r):
    A = torch.empty(r, d_in)
    nn.init.kaiming_uniform_(A, a=5**0.5)
    return A, torch.zeros(d_out, r)


@lora_init.solution
def normal_by_width(d_in, d_out, r):
    return torch.randn(r, d_in) / d_in**0.5, torch.zeros(d_out, r)


@lora_init.solution
def from_a_linear_layer(d_in, d_out, r):
    A = nn.Linear(d_in, r, bias=False).weight
    return nn.Parameter(A.detach()), nn.Parameter(A.new_zeros(d_out, r))


@lora_init.solution
def uniform(d_in, d_out, r):
    bound = d_in**-0.5
    return (torch.rand(r, d_in) * 2 - 1) * bound, torch.zeros((d_out, r))


@lora_init.slip(
    "Both are zero. The start is the base model, as it should be; now write down the gradient of A and of B. "
    "What are they multiplied by?"
)
def both_zero(d_in, d_out, r):
    return torch.zeros(r, d_in), torch.zeros(d_out, r)


@lora_init.slip("B is random as well. What does the model answer before the first step: what it answered without LoRA?")
def both_random(d_in, d_out, r):
    return torch.randn(r, d_in) / d_in**0.5, torch.randn(d_out, r) / r**0.5


@lora_init.slip(
    "A is zero and B is random: the start is the base model and it would train, so the idea holds. "
    "The paper and the library do it the other way round; which of the two do their files hold at zero?"
)
def the_other_way_round(d_in, d_out, r):
    return torch.zeros(r, d_in), torch.randn(d_out, r) / r**0.5


@lora_init.slip("Both are transposed. How many rows must A have, if `A @ x` is to have r entries?")
def turned(d_in, d_out, r):
    return torch.randn(d_in, r) / d_in**0.5, torch.zeros(r, d_out)


@lora_init.slip(
    "Every row of A is the same. All r columns of B then receive the same gradient, for ever: what is the rank of B A?"
)
def all_rows_equal(d_in, d_out, r):
    return torch.randn(d_in).div(d_in**0.5).repeat(r, 1), torch.zeros(d_out, r)


@lora_init.slip(
    "The entries of A have the same size whatever the width, and those of `A @ x` grow with it. A sum of d_in products with random "
    "signs is not d_in times as large as one of them: how much larger is it?"
)
def standard_normal(d_in, d_out, r):
    return torch.randn(r, d_in), torch.zeros(d_out, r)


@lora_init.slip(
    "The entries of A shrink too fast as the layer gets wider: `A @ x` all but vanishes. You divide as if the d_in products "
    "of the sum all had the same sign; how large is the sum when half of them are negative?"
)
def divided_by_d_in(d_in, d_out, r):
    return torch.randn(r, d_in) / d_in, torch.zeros(d_out, r)


@lora_init.slip(
    "The entries of A are sized by the rank. Each entry of `A @ x` is a sum of how many products?"
)
def sized_by_the_rank(d_in, d_out, r):
    return torch.randn(r, d_in) / r**0.5, torch.zeros(d_out, r)


@lora_init.slip("All entries of A are positive. What do the r hidden values then have in common, whatever x is?")
def positive_only(d_in, d_out, r):
    return torch.rand(r, d_in) * (3 / d_in) ** 0.5, torch.zeros(d_out, r)


@lora_init.slip("Every call draws the same A. What happens when two layers start from the same random matrix?")
def seeded_inside(d_in, d_out, r):
    return torch.randn(r, d_in, generator=torch.Generator().manual_seed(0)) / d_in**0.5, torch.zeros(d_out, r)


# ================================================================ gradients

lora_gradients = Exercise(
    "lora-gradients",
    lesson=LESSON,
    title="The two gradients by hand",
    signature="lora_gradients(x, g, A, B, alpha)",
    dims={"x": "... d_in", "g": "... d_out", "A": "r d_in", "B": "d_out r"},
    why="It explains why B must move first, and what LoRA has to keep in memory.",
    points=2,
    parts=[
        Part("the gradient of A is", 1, ("gradient of A",)),
        Part("that of B is", 1, ("gradient of B",)),
    ],
    minutes=12,
    difficulty=3,
    hints=[
        ("Take one vector x first, so that `h = A @ x` is one vector too and `y = scale * B @ h`. What the worked line above says of "
        "a weight and its input holds for B and its input h, and for A and its input x. Which gradient arrives at h?"),
        "Shapes nearly decide it: A's gradient is (r, d_in), B's is (d_out, r). Which products of g, x, A, B have them?",
        "Every row of a batch contributes: make all leading dimensions one, and the product of matrices does the sum.",
    ],
)


@lora_gradients.cases
def gradient_cases(seed):
    draw = torch.Generator().manual_seed(seed + 99)
    cases = layer_cases(seed)
    for c in cases:
        t = c.tensors
        g = torch.randn(*t["x"].shape[:-1], len(t["B"]), generator=draw, dtype=torch.float64).to(t["x"].dtype)
        c.tensors = {"x": t["x"], "g": g, "A": t["A"], "B": t["B"]}
    return [cases[i] for i in (0, 1, 2, 4)]


@lora_gradients.observe
def look_gradients(answer, case):
    before, inputs = fresh(case.tensors), fresh(case.tensors)
    gA, gB = pair(answer(**inputs, alpha=case.alpha), "`lora_gradients`", "the gradient of A and that of B")
    return {"gradient of A": gA.detach(), "gradient of B": gB.detach(), "changed in place": changed(before, inputs)}


@lora_gradients.solution
def flat(x, g, A, B, alpha):
    x, g, scale = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1]), alpha / len(A)
    return scale * B.T @ g.T @ x, scale * g.T @ (x @ A.T)


@lora_gradients.solution
def by_autograd(x, g, A, B, alpha):
    A, B = A.clone().requires_grad_(), B.clone().requires_grad_()
    y = alpha / A.shape[0] * x @ A.T @ B.T
    return torch.autograd.grad(y, (A, B), g)


@lora_gradients.solution
def by_sums(x, g, A, B, alpha):
    s = alpha / A.shape[0]
    return s * torch.einsum("...o,or,...i->ri", g, B, x), s * torch.einsum("...o,...i,ri->or", g, x, A)


@lora_gradients.solution
def through_the_full_gradient(x, g, A, B, alpha):
    G = torch.einsum("...o,...i->oi", g, x) * (alpha / A.shape[0])  # what W itself would receive
    return B.T @ G, G @ A.T


def _full(x, g):
    return torch.einsum("...o,...i->oi", g, x)


@lora_gradients.slip("Both are right up to one factor that depends on alpha and r. Where did the scale go?")
def forgot_the_scale(x, g, A, B, alpha):
    return B.T @ _full(x, g), _full(x, g) @ A.T


@lora_gradients.slip(
    "The scale is alpha here, whatever the rank. What was the update multiplied by in the forward pass?"
)
def alpha_without_the_rank(x, g, A, B, alpha):
    return alpha * B.T @ _full(x, g), alpha * _full(x, g) @ A.T


@lora_gradients.slip("The scale is there twice. How often does it stand in the forward pass?")
def scale_squared(x, g, A, B, alpha):
    s = (alpha / len(A)) ** 2
    return s * B.T @ _full(x, g), s * _full(x, g) @ A.T


@lora_gradients.slip(
    "You average over the batch. `g` already holds each row's share of the loss: what do the rows do in a sum?"
)
def averaged(x, g, A, B, alpha):
    s = alpha / len(A) / (x.numel() / x.shape[-1])
    return s * B.T @ _full(x, g), s * _full(x, g) @ A.T


MANY = (
    "Right for a batch with one leading dimension. `x` may have more, such as (sentences, tokens, d_in): each token of each "
    "sentence adds its part to the same gradient. How do several leading dimensions become one?"
)
MANY_UNSCALED = (
    "Two things. With one leading dimension, both gradients are right up to a factor: what stood in front of B A in the forward "
    "pass? And with more than one, every row has to add its part: how do several leading dimensions become one?"
)


@lora_gradients.slip(MANY)
def two_dimensions_only(x, g, A, B, alpha):
    s = alpha / len(A)
    return s * B.T @ g.T @ x, s * g.T @ (x @ A.T)


@lora_gradients.slip(MANY)
def a_gradient_for_each_sentence(x, g, A, B, alpha):
    s = alpha / len(A)
    return s * B.T @ g.mT @ x, s * g.mT @ (x @ A.T)


@lora_gradients.slip(MANY_UNSCALED)
def two_dimensions_only_unscaled(x, g, A, B, alpha):
    return B.T @ g.T @ x, g.T @ (x @ A.T)


@lora_gradients.slip(MANY_UNSCALED)
def unscaled_for_each_sentence(x, g, A, B, alpha):
    return B.T @ g.mT @ x, g.mT @ (x @ A.T)


@lora_gradients.slip("The two are in the wrong order. Which was asked for first?")
def swapped(x, g, A, B, alpha):
    s = alpha / len(A)
    return s * _full(x, g) @ A.T, s * B.T @ _full(x, g)


@lora_gradients.slip("Each gradient is transposed. What shape must a gradient have so that it can be subtracted from A?")
def transposed(x, g, A, B, alpha):
    s = alpha / len(A)
    return (s * B.T @ _full(x, g)).T, (s * _full(x, g) @ A.T).T


@lora_gradients.slip(
    "Both have the wrong sign. Is a gradient the direction in which the loss grows, or in which it falls?"
)
def downhill(x, g, A, B, alpha):
    s = -alpha / len(A)
    return s * B.T @ _full(x, g), s * _full(x, g) @ A.T


@lora_gradients.slip("Only the first row of the batch is counted. What do the other rows contribute?")
def first_row_only(x, g, A, B, alpha):
    x, g = x.reshape(-1, x.shape[-1])[:1], g.reshape(-1, g.shape[-1])[:1]
    return alpha / len(A) * B.T @ _full(x, g), alpha / len(A) * _full(x, g) @ A.T


@lora_gradients.slip("A's gradient is right and B's is not scaled. Does the scale stand in front of only one of them?")
def scale_on_a_only(x, g, A, B, alpha):
    return alpha / len(A) * B.T @ _full(x, g), _full(x, g) @ A.T


@lora_gradients.slip("B's gradient is right and A's is not scaled. Does the scale stand in front of only one of them?")
def scale_on_b_only(x, g, A, B, alpha):
    return B.T @ _full(x, g), alpha / len(A) * _full(x, g) @ A.T


# ================================================================ freeze

freeze = Exercise(
    "freeze",
    lesson=LESSON,
    title="Freeze all but the adapter",
    signature="freeze(model)",
    why="A forgotten `requires_grad` is the commonest silent error in the field.",
    points=1,
    parts=[
        Part("what is frozen in the model is", 0.5, ("trainable in the model",)),
        Part("the names returned are", 0.5, ("names returned",), needs="what is frozen in the model is"),
    ],
    minutes=5,
    difficulty=1,
    hints=[
        "`model.named_parameters()` gives every parameter with its full name, such as `block.0.proj.lora_A`.",
        "The last part of the name decides; a name may well contain `lora_` somewhere else.",
        "A parameter may arrive switched off that should be on: set the flag for every one, in both directions.",
    ],
)


class LoRALinear(nn.Linear):
    """A linear layer carrying its own A and B, as a learner may have written it."""

    def __init__(self, d_in, d_out, r):
        super().__init__(d_in, d_out)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(r, d_in)), nn.Parameter(torch.randn(d_out, r))


class Flora(nn.Module):
    """A toy network whose names are traps: a `flora_gate` holds no adapter, and neither does `lora_embedding`."""

    def __init__(self):
        super().__init__()
        self.lora_embedding = nn.Embedding(11, 6)
        self.block = nn.ModuleList(LoRALinear(6, 6, 2) for _ in range(2))
        self.norm = nn.LayerNorm(6)
        self.flora_gate = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 3)


@freeze.cases
def freeze_cases(seed):
    return [
        Case("a model in which everything is trainable", seed=seed, off=()),
        Case("a model whose second block arrives switched off", seed=seed + 1, off=("block.1.",)),
        Case("a model that was frozen before", seed=seed + 2, off=("",)),
    ]


@freeze.observe
def look_freeze(answer, case):
    torch.manual_seed(case.seed)
    model = Flora()
    for name, p in model.named_parameters():
        p.requires_grad_(not any(name.startswith(o) for o in case.off))
    before = fresh(dict(model.named_parameters()))
    names = given(answer(model), (list, tuple, set), "`freeze`")
    after = dict(model.named_parameters())
    return {
        "trainable in the model": [n for n, p in after.items() if p.requires_grad],
        "names returned": sorted(map(str, names)),
        "parameters changed or lost": [n for n in before if n not in after]
        + changed({n: before[n] for n in after if n in before}, after),
    }


def _named(model):
    return [(n, p, n.split(".")[-1] in ("lora_A", "lora_B")) for n, p in model.named_parameters()]


@freeze.solution
def one_loop(model):
    names = []
    for name, p in model.named_parameters():
        p.requires_grad = name.rsplit(".", 1)[-1] in ("lora_A", "lora_B")
        if p.requires_grad:
            names.append(name)
    return names


@freeze.solution
def off_then_on(model):
    model.requires_grad_(False)
    on = {n: p for n, p in model.named_parameters() if n.endswith((".lora_A", ".lora_B"))}
    for p in on.values():
        p.requires_grad_(True)
    return list(on)


@freeze.solution
def by_module(model):
    for p in model.parameters():
        p.requires_grad = False
    names = set()
    for path, module in model.named_modules():
        for key, p in module.named_parameters(recurse=False):
            if key in ("lora_A", "lora_B"):
                p.requires_grad = True
                names.add(f"{path}.{key}")
    return names


@freeze.slip("Nothing is left to train. What would the optimizer have to work on?")
def freezes_everything(model):
    model.requires_grad_(False)
    return []


@freeze.slip(
    "The adapter is frozen and the rest learns: the two are the wrong way round. Which part should the optimizer see?"
)
def upside_down(model):
    for _, p, lora in _named(model):
        p.requires_grad = not lora
    return [n for n, p in model.named_parameters() if p.requires_grad]


@freeze.slip(
    "A layer of the base model is still trainable because its name contains `lora_`. Which part of a name says what a parameter is?"
)
def any_name_with_lora(model):
    for n, p in model.named_parameters():
        p.requires_grad = "lora_" in n
    return [n for n, p in model.named_parameters() if p.requires_grad]


@freeze.slip("Biases are still trainable. Are they part of the adapter, or of the frozen base?")
def leaves_biases(model):
    for n, p, lora in _named(model):
        p.requires_grad = lora or n.endswith("bias")
    return [n for n, p in model.named_parameters() if p.requires_grad]


@freeze.slip(
    "Only the linear layers were frozen; norms, embeddings and loose parameters still learn. How do you reach every parameter?"
)
def linear_layers_only(model):
    for m in model.modules():
        if isinstance(m, nn.Linear):
            m.weight.requires_grad = m.bias.requires_grad = False
            if isinstance(m, LoRALinear):
                m.lora_A.requires_grad = m.lora_B.requires_grad = True
    return [n for n, p in model.named_parameters() if p.requires_grad]


@freeze.slip(
    "What arrived switched off is still off. If someone froze the whole model before you, what does your function leave to train?"
)
def never_switches_on(model):
    for _, p, lora in _named(model):
        if not lora:
            p.requires_grad = False
    return [n for n, p in model.named_parameters() if p.requires_grad]


@freeze.slip(
    "The model is as it should be, but you return the names of what is frozen. Which list will the optimizer need?"
)
def returns_the_frozen(model):
    for _, p, lora in _named(model):
        p.requires_grad = lora
    return [n for n, p in model.named_parameters() if not p.requires_grad]


@freeze.slip(
    "Nothing was frozen. `requires_grad` set on a *module* is an attribute nobody reads: on what does it have to be set?"
)
def sets_it_on_modules(model):
    for m in model.modules():
        m.requires_grad = False
    return [n for n, _, lora in _named(model) if lora]


@freeze.slip("B learns and A doesn't. Is A already good enough at its random start?")
def only_b(model):
    for n, p in model.named_parameters():
        p.requires_grad = n.endswith(".lora_B")
    return [n for n, p in model.named_parameters() if p.requires_grad]


# ================================================================ attach

lora_attach = Exercise(
    "lora-attach",
    lesson=LESSON,
    title="Attach it to a real model",
    signature="attach(model, targets, r, alpha)",
    why="This is the whole of a PEFT library: find the layers, freeze, hook.",
    points=3,
    parts=[
        Part("the layers and the shapes of A and B are", 1, ("layers with an adapter", "shapes")),
        Part("what the model computes is", 1, ("output", "size of an entry"), needs="the layers and the shapes of A and B are"),
        Part("what is trained is", 1, ("A and B among", "still trainable", "A received", "B received"), needs="what the model computes is"),
    ],
    minutes=15,
    difficulty=3,
    hints=[
        "Three jobs in order: freeze the model; find each layer whose path ends in one of the targets; hook it.",
        "`layer.register_forward_hook(f)` calls `f(layer, inputs, output)` after the layer; what `f` returns takes the output's place.",
        "A function made in a loop looks its variables up when it is *called*. Which layer will it find there by then?",
    ],
)


@lora_attach.cases
def attach_cases(seed):
    ids = torch.arange(12).reshape(2, 6) * 3 % 40
    return [
        Case("a toy model, targets `['q_proj', 'v_proj']`", build=lambda: Residual(seed), x=torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(seed)), targets=["q_proj", "v_proj"], r=2, alpha=6),
        Case("a small Llama, targets `['q_proj', 'v_proj']`", build=lambda: tiny_llama(seed), x=ids, targets=["q_proj", "v_proj"], r=4, alpha=2),
        Case("a small Llama, targets `['down_proj']`", build=lambda: tiny_llama(seed + 1), x=ids, targets=["down_proj"], r=3, alpha=7),
        Case("a small BERT, targets `['output.dense']`", build=lambda: tiny_bert(seed), x=ids, targets=["output.dense"], r=2, alpha=8),
    ]  # fmt: skip


def read(model, x):
    y = model(x)
    return y if isinstance(y, torch.Tensor) else y[0]


def matrices(adapter):
    """A and B of an entry of the learner's dict, which is to be the pair (A, B)."""
    if not isinstance(adapter, (tuple, list)):
        raise Unexpected(f"your dict holds a {type(adapter).__name__} for a layer; it should hold the pair `(A, B)`.")
    return pair(adapter, "an entry of your dict", "A and B")


def fill(adapters):
    """Values that depend on the layer's path alone, so that a swapped or shared matrix shows."""
    with torch.no_grad():
        for path in sorted(adapters):
            for letter, m in zip("AB", matrices(adapters[path])):
                seed = int(hashlib.sha256(f"{path}.{letter}".encode()).hexdigest()[:8], 16)
                m.copy_(torch.randn(m.shape, generator=torch.Generator().manual_seed(seed)) * 0.3)


@lora_attach.observe
def look_attach(answer, case):
    model = case.build()
    before = fresh(dict(model.named_parameters()))
    base_parameters = dict(model.named_parameters())
    adapters = given(answer(model, case.targets, case.r, case.alpha), dict, "`attach`")
    seen = {"layers with an adapter": sorted(map(str, adapters))}
    ab = {str(p): matrices(a) for p, a in adapters.items()}
    seen["shapes"] = {p: [list(A.shape), list(B.shape)] for p, (A, B) in sorted(ab.items())}
    seen["output at the start"] = read(model, case.x).detach().clone()
    seen["size of an entry of A @ x, when the entries of x are of size 1"] = sized(A for A, _ in ab.values())
    owned = {id(p) for p in model.parameters()}
    seen["A and B among the model's own parameters"] = [
        f"{letter} of {p}" for p, (A, B) in sorted(ab.items()) for letter, m in (("A", A), ("B", B)) if id(m) in owned
    ]
    seen["still trainable in the base"] = [n for n, p in base_parameters.items() if p.requires_grad]
    fill(adapters)
    y = read(model, case.x)
    seen["output once A and B have values"] = y.detach().clone()
    if y.requires_grad:
        y.square().sum().backward()
    for letter, i in (("A", 0), ("B", 1)):
        seen[f"{letter} received a gradient"] = [p for p in sorted(ab) if getattr(ab[p][i], "grad", None) is not None]
    seen["base parameters changed"] = changed(before, base_parameters)
    return seen


def sized(drawn):
    """ "about 1" where `A @ x` is about as large as x, as `lora_init` is to draw it; else how large, over all matrices A."""
    sizes = [(A.detach().double().pow(2).mean() * A.shape[1]).sqrt().item() for A in drawn]
    size = sum(sizes) / max(1, len(sizes))
    return "about 1" if 0.25 < size < 2 else f"about {size:.2g}"


class AB(nn.Module):
    def __init__(self, layer, r, alpha):
        super().__init__()
        d_out, d_in = layer.weight.shape
        self.A = nn.Parameter(torch.randn(r, d_in) / d_in**0.5)
        self.B = nn.Parameter(torch.zeros(d_out, r))
        self.scale = alpha / r

    def forward(self, x):
        return self.scale * (x @ self.A.T @ self.B.T)


def ends_in(path, targets):
    return any(path == t or path.endswith("." + t) for t in targets)


def layers(model, targets, test=ends_in):
    return [(p, m) for p, m in model.named_modules() if isinstance(m, nn.Linear) and test(p, targets)]


@lora_attach.solution
def hook_in_a_method(model, targets, r, alpha):
    model.requires_grad_(False)
    adapters = {}
    for path, layer in layers(model, targets):
        layer.lora = adapter = AB(layer, r, alpha)
        layer.register_forward_hook(lambda _, args, y, adapter=adapter: y + adapter(args[0]))
        adapters[path] = adapter.A, adapter.B
    return adapters


@lora_attach.solution
def adapter_kept_in_the_layer(model, targets, r, alpha):
    for p in model.parameters():
        p.requires_grad = False

    def hook(layer, args, output):
        return output + layer.lora(args[0])

    found = {}
    for path, layer in list(model.named_modules()):
        if path.split(".")[-len(targets[0].split(".")) :] in [t.split(".") for t in targets]:
            layer.lora = AB(layer, r, alpha)
            layer.register_forward_hook(hook)
            found[path] = [layer.lora.A, layer.lora.B]
    return found


@lora_attach.solution
def two_hooks(model, targets, r, alpha):
    model.requires_grad_(False)
    adapters = {}
    for path, layer in layers(model, targets):
        d_out, d_in = layer.weight.shape
        A, B = nn.Parameter(torch.randn(r, d_in) / d_in**0.5), nn.Parameter(torch.zeros(d_out, r))
        layer.register_parameter("lora_A", A)
        layer.register_parameter("lora_B", B)
        kept = {}

        def before(layer, args, kept=kept):
            kept["x"] = args[0]

        def after(layer, args, y, kept=kept, A=A, B=B):
            return y + nn.functional.linear(nn.functional.linear(kept.pop("x"), A), B) * alpha / r

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)
        adapters[path] = (A, B)
    return adapters


def _attach(model, targets, r, alpha, test=ends_in, hook=None, make=AB, frozen=True, owned=True):
    """`hook_in_a_method` with one part exchanged: what the slips are made of."""
    if frozen:
        model.requires_grad_(False)
    adapters = {}
    for path, layer in layers(model, targets, test):
        adapter = make(layer, r, alpha)
        if owned:
            layer.lora = adapter
        f = hook or (lambda a: lambda _, args, y: y + a(args[0]))
        layer.register_forward_hook(f(adapter))
        adapters[path] = adapter.A, adapter.B
    return adapters


lora_attach.slip(
    "Layers were adapted whose name merely *contains* a target. `q_proj_norm` contains `q_proj`; should it have an adapter?"
)(lambda m, t, r, a: _attach(m, t, r, a, test=lambda p, t: any(s in p for s in t)), "matches-anywhere")
lora_attach.slip(
    "A layer was adapted because its name ends in the letters of a target: `old_q_proj` ends in `q_proj`. "
    "Which character must come just before the target?"
)(lambda m, t, r, a: _attach(m, t, r, a, test=lambda p, t: p.endswith(tuple(t))), "ends-in-the-letters")
lora_attach.slip(
    "A target such as `output.dense` finds nothing: you look at the last part of the path only. How many parts may a target have?"
)(lambda m, t, r, a: _attach(m, t, r, a, test=lambda p, t: p.split(".")[-1] in t), "last-part-only")
lora_attach.slip(
    "The adapters are there, but the output never changes. What happens to an output when a forward hook returns nothing?"
)(
    lambda m, t, r, a: _attach(m, t, r, a, hook=lambda ad: lambda _, args, y: (y + ad(args[0]), None)[1]),
    "hook-returns-nothing",
)
lora_attach.slip("The base model is still trainable. What would the optimizer change along with A and B?")(
    lambda m, t, r, a: _attach(m, t, r, a, frozen=False), "forgets-to-freeze"
)
lora_attach.slip("The hook gives the update *instead of* the layer's output. What should come out when B is zero?")(
    lambda m, t, r, a: _attach(m, t, r, a, hook=lambda ad: lambda _, args, y: ad(args[0])), "replaces-the-output"
)
lora_attach.slip(
    "The adapter was fed the layer's output. Which vector do A and B belong to: what enters the layer, or what leaves it?"
)(lambda m, t, r, a: _attach(m, t, r, a, hook=lambda ad: lambda _, args, y: y + ad(y)), "fed-the-output")


@lora_attach.slip(
    "Every hook uses the same adapter: the last one made. A function made in a loop looks its variables up when it is called; "
    "what do they hold by then?"
)
def all_hooks_share_the_last(model, targets, r, alpha):
    model.requires_grad_(False)
    adapters = {}
    for path, layer in layers(model, targets):
        layer.lora = adapter = AB(layer, r, alpha)
        layer.register_forward_hook(lambda _, args, y: y + adapter(args[0]))  # noqa: B023 - this is the slip
        adapters[path] = adapter.A, adapter.B
    return adapters


@lora_attach.slip(
    "The layers do not have matrices of their own: several share one A. What could layer 0 and layer 1 then not learn apart?"
)
def one_a_for_all(model, targets, r, alpha):
    shared = {}

    def make(layer, r, alpha):
        adapter = AB(layer, r, alpha)
        adapter.A = shared.setdefault(layer.weight.shape[1], adapter.A)
        return adapter

    return _attach(model, targets, r, alpha, make=make)


def _scaled(factor):
    def make(layer, r, alpha):
        adapter = AB(layer, r, alpha)
        adapter.scale = factor(r, alpha)
        return adapter

    return lambda m, t, r, a: _attach(m, t, r, a, make=make)


lora_attach.slip("The update's size ignores alpha and r. What stood in front of B A in your forward pass?")(
    _scaled(lambda r, a: 1.0), "no-scaling"
)
lora_attach.slip(
    "The update is scaled by alpha whatever the rank. What should happen to its size when the rank doubles?"
)(_scaled(lambda r, a: a), "alpha-without-rank")


@lora_attach.slip(
    "The model answers differently before the first training step. Which of A and B has to start at zero?"
)
def b_not_zero(model, targets, r, alpha):
    def make(layer, r, alpha):
        adapter = AB(layer, r, alpha)
        nn.init.normal_(adapter.B, generator=torch.Generator().manual_seed(5))
        return adapter

    return _attach(model, targets, r, alpha, make=make)


@lora_attach.slip(
    "A starts far larger than it should: training then takes steps that are too long, on any model. Which of your functions "
    "draws A of the right size?"
)
def a_of_any_size(model, targets, r, alpha):
    def make(layer, r, alpha):
        adapter = AB(layer, r, alpha)
        with torch.no_grad():
            adapter.A.mul_(10)
        return adapter

    return _attach(model, targets, r, alpha, make=make)


@lora_attach.slip("A and B receive no gradient. Were they there already when everything was frozen?")
def freezes_the_adapter_too(model, targets, r, alpha):
    adapters = _attach(model, targets, r, alpha)
    for A, B in adapters.values():
        A.requires_grad_(False)
        B.requires_grad_(False)
    return adapters


@lora_attach.slip("The update is added twice. How many hooks does each layer carry?")
def hooked_twice(model, targets, r, alpha):
    adapters = _attach(model, targets, r, alpha)
    for path, layer in layers(model, targets):
        layer.register_forward_hook(lambda _, args, y, a=layer.lora: y + a(args[0]))
    return adapters


lora_attach.slip(
    "Everything works but one thing: the model does not list A and B among its parameters, so no optimizer and no `.to(device)` "
    "finds them. Where does a layer keep what belongs to it, and what must a tensor be wrapped in to be kept there?"
)(lambda m, t, r, a: _attach(m, t, r, a, owned=False), "model-does-not-know-them")


class Plain(AB):
    """A and B as tensors that are no parameters."""

    def __init__(self, layer, r, alpha):
        super().__init__(layer, r, alpha)
        A, B = self.A.detach(), self.B.detach()
        del self.A, self.B
        self.A, self.B = A, B


lora_attach.slip(
    "A and B are plain tensors, so the model does not list them among its parameters: no optimizer gets them, no file holds them, "
    "and `.to(device)` leaves them behind. What has a tensor to be wrapped in before a layer takes it for a parameter?"
)(lambda m, t, r, a: _attach(m, t, r, a, make=Plain), "plain-tensors")


# ================================================================ merge

lora_merge = Exercise(
    "lora-merge",
    lesson=LESSON,
    title="Merge by asking",
    signature="merged(f, d_in)",
    why="One function merges every method that can be merged, whatever it does inside.",
    points=2,
    parts=[
        Part("the weight is", 1, ("weight",)),
        Part("the bias is", 1, ("bias",)),
    ],
    minutes=8,
    difficulty=2,
    hints=[
        "`f` is the layer with its adapter: any affine function, f(x) = W x + b. You may call it on any x you like.",
        "Which x gives b on its own?",
        "And the basis vector e_j gives column j of W, plus b. `torch.eye(d_in)` holds all of them, one a row.",
    ],
)


@lora_merge.cases
def merge_cases(seed):
    *cases, last = layer_cases(seed)[:4]
    last.tensors["bias"].zero_()
    return [*cases, Case(f"{last.label}, and no bias", tensors=last.tensors)]


@lora_merge.observe
def look_merge(answer, case):
    t, calls = case.tensors, []

    def f(x):
        calls.append(x)
        if not isinstance(x, torch.Tensor) or x.shape[-1:] != (t["A"].shape[1],):
            came = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
            raise Unexpected(f"`f` was asked about {came}; it takes tensors of shape (..., {t['A'].shape[1]}).")
        return F.linear(x.to(t["weight"].dtype), t["weight"], t["bias"])  # any affine f: no forward pass to be found here

    weight, bias = pair(answer(f, t["A"].shape[1]), "`merged`", "the weight and the bias")
    return {"weight": weight.detach(), "bias": bias.detach()}


@lora_merge.solution
def all_at_once(f, d_in):
    bias = f(torch.zeros(d_in))
    return (f(torch.eye(d_in)) - bias).T, bias


@lora_merge.solution
def one_by_one(f, d_in):
    bias = f(torch.zeros(1, d_in))[0]
    columns = []
    for j in range(d_in):
        e = torch.zeros(d_in)
        e[j] = 1
        columns.append(f(e) - bias)
    return torch.stack(columns, dim=1), bias


@lora_merge.solution
def zero_row_first(f, d_in):
    answers = f(torch.cat([torch.zeros(1, d_in), torch.eye(d_in)]))
    return torch.t(answers[1:] - answers[:1]), answers[0]


@lora_merge.slip(
    "The bias is still inside every column of your weight. What does `f` give for a basis vector, besides a column of W?"
)
def bias_left_inside(f, d_in):
    return f(torch.eye(d_in)).T, f(torch.zeros(d_in))


@lora_merge.slip(
    "Your weight is transposed. Row j of `f(torch.eye(d_in))` is the answer to e_j: is that a row of W or a column?"
)
def turned_weight(f, d_in):
    bias = f(torch.zeros(d_in))
    return f(torch.eye(d_in)) - bias, bias


@lora_merge.slip("The weight comes second and the bias first. In which order were they asked for?")
def bias_first(f, d_in):
    bias = f(torch.zeros(d_in))
    return bias, (f(torch.eye(d_in)) - bias).T


@lora_merge.slip("Your bias is what `f` gives for a vector of ones. Which x makes W x disappear?")
def asks_about_ones(f, d_in):
    bias = f(torch.ones(d_in))
    return (f(torch.eye(d_in)) - bias).T, bias


@lora_merge.slip(
    "The bias has one dimension too many. Adding it still works by broadcasting; loading it into a layer will not. What shape has a bias?"
)
def bias_with_a_row(f, d_in):
    bias = f(torch.zeros(1, d_in))
    return (f(torch.eye(d_in)) - bias).T, bias


@lora_merge.slip("The weight is right and the bias is zero. What does `f` answer when nothing goes in?")
def forgets_the_bias(f, d_in):
    bias = f(torch.zeros(d_in))
    return (f(torch.eye(d_in)) - bias).T, torch.zeros_like(bias)


@lora_merge.slip("You took the bias away from the weight, and then once more. How often is it inside each column?")
def bias_taken_twice(f, d_in):
    bias = f(torch.zeros(d_in))
    return (f(torch.eye(d_in)) - 2 * bias).T, bias


# ================================================================ unmerge

lora_unmerge = Exercise(
    "lora-unmerge",
    lesson=LESSON,
    title="Merge in place, and back, bit for bit",
    signature="(merge, unmerge): merge(layer, update) -> kept, unmerge(layer, kept)",
    why="In 16 bits, adding and taking away again does not bring the base back.",
    points=1,
    parts=[
        Part("merging is", 0.5, ("dtype of the merged weight", "merged weight", "entries that are not the sum")),
        Part("the way back is", 0.5, ("dtype after unmerge", "entries that did not come back", "weight after unmerge"), needs="merging is"),
    ],
    minutes=8,
    difficulty=2,
    hints=[
        "`merge` changes `layer.weight` and returns whatever `unmerge` will need; you choose what that is.",
        "In bfloat16, 256 + 0.5 is 256. What is 256 + 0.5 - 0.5 when each step is rounded; and -0.5 taken from a weight of 1/1024?",
        "A name for the weight is not a copy of it.",
    ],
)


@lora_unmerge.cases
def unmerge_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    cases = []
    for dtype, size, biased in ((torch.bfloat16, 1.0, True), (torch.bfloat16, 0.01, True), (torch.float32, 1.0, False)):
        weight = torch.randn(24, 40, generator=draw).mul(size).to(dtype)
        update = torch.randn(24, 40, generator=draw)
        label = f"a {str(dtype)[6:]} layer{'' if biased else ' without a bias'}, weights of size {size:g}, a float32 update of size 1"
        cases.append(Case(label, weight=weight, update=update, biased=biased))
    return cases


@lora_unmerge.observe
def look_unmerge(answer, case):
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise Unexpected('Give both functions: `check("lora-unmerge", (merge, unmerge))`.')
    merge, unmerge = answer
    d_out, d_in = case.weight.shape
    layer = nn.Linear(d_in, d_out, bias=case.biased).to(case.weight.dtype).requires_grad_(False)
    layer.weight.copy_(case.weight)
    update = case.update.clone()
    kept = merge(layer, update)
    merged = layer.weight.detach().clone()
    unmerge(layer, kept)
    back = layer.weight.detach().clone()
    return {
        "dtype of the merged weight": str(merged.dtype),
        "merged weight": merged,
        "entries that are not the sum rounded once": rounded_otherwise(merged, case),
        "dtype after unmerge": str(back.dtype),
        "entries that did not come back bit for bit": int((back.float() != case.weight.float()).sum())
        if back.shape == case.weight.shape
        else f"shape {tuple(back.shape)}",
        "weight after unmerge": back,
        "the weight afterwards": "trainable" if layer.weight.requires_grad else "frozen",
        "update changed": not torch.equal(update, case.update),
    }


def rounded_otherwise(merged, case):
    """How many entries are neither of the two sums that round once, added in float32 or in float64."""
    if merged.shape != case.weight.shape:
        return f"shape {tuple(merged.shape)}"
    sums = [(case.weight.to(exact) + case.update.to(exact)).to(case.weight.dtype) for exact in (torch.float32, torch.float64)]
    return int(((merged != sums[0]) & (merged != sums[1])).sum())


def _rounded(layer, update):
    layer.weight.data = (layer.weight.data.float() + update).to(layer.weight.dtype)


def _keep_copy(layer, update):
    kept = layer.weight.detach().clone()
    _rounded(layer, update)
    return kept


def _put_back(layer, kept):
    layer.weight.data = kept


def _copy_back(layer, kept):
    with torch.no_grad():
        layer.weight.copy_(kept)


def _keep_bytes(layer, update):
    kept = {k: v.clone() for k, v in layer.state_dict().items()}
    with torch.no_grad():
        layer.weight.copy_(layer.weight.float() + update)
    return kept


def _swap_parameter(layer, update):
    old = layer.weight
    layer.weight = nn.Parameter((old.float() + update).to(old.dtype), requires_grad=False)
    return old


def _swap_back(layer, old):
    layer.weight = old


def _keep_and_add_in_place(layer, update):
    kept = layer.weight.detach().clone()
    layer.weight.data += update
    return kept


def _add_in_double(layer, update):
    kept = layer.weight.data
    layer.weight.data = (kept.double() + update.double()).to(kept.dtype)
    return kept


lora_unmerge.solutions += [
    (_keep_copy, _copy_back),
    (_keep_copy, _put_back),
    (_keep_and_add_in_place, _copy_back),
    (_add_in_double, _put_back),
    (_keep_bytes, lambda layer, kept: layer.load_state_dict(kept)),
    (_swap_parameter, _swap_back),
]


def _subtract(layer, update):
    layer.weight.data = (layer.weight.data.float() - update).to(layer.weight.dtype)


def _add_and_return_update(layer, update):
    _rounded(layer, update)
    return update


def _add_in_16(layer, update):
    layer.weight.data += update.to(layer.weight.dtype)
    return update


def _subtract_in_16(layer, update):
    layer.weight.data -= update.to(layer.weight.dtype)


ROUNDED_TWICE = (
    "Taking the update away again does not bring every entry back: each of the two roundings loses bits. "
    "What could you keep at merge time that needs no arithmetic at all?"
)
lora_unmerge.slip(ROUNDED_TWICE)((_add_and_return_update, _subtract), "subtracts-the-update")
lora_unmerge.slip(ROUNDED_TWICE)((_add_in_16, _subtract_in_16), "subtracts-in-16-bits")


def _keep_and_add_in_16(layer, update):
    kept = layer.weight.detach().clone()
    layer.weight.data += update.to(kept.dtype)
    return kept


lora_unmerge.slip(
    "You round twice: the update before it is added, and then the sum. Both roundings lose bits, and the task allows one. "
    "In which precision can the two be added, so that only the sum is rounded?"
)((_keep_and_add_in_16, _copy_back), "rounds-twice")


def _keep_name(layer, update):
    kept = layer.weight.data
    kept.copy_(kept.float() + update)
    return kept


STILL_MERGED = (
    "After `unmerge` the layer is still merged: nothing was put back, or what you kept is the weight itself "
    "under another name and was merged along. What would hold the old values after the change?"
)
lora_unmerge.slip(STILL_MERGED)((_keep_name, _copy_back), "keeps-a-name-not-a-copy")
lora_unmerge.slip(STILL_MERGED)((_keep_copy, lambda layer, kept: None), "does-not-unmerge")


def _promotes(layer, update):
    kept = layer.weight.detach().clone()
    layer.weight.data = layer.weight.data + update
    return kept


lora_unmerge.slip(
    "After `merge` the layer is float32: adding a float32 update to a bfloat16 weight promotes it. Which dtype should the layer keep?"
)((_promotes, _put_back), "promotes-the-layer")


def _new_parameter(layer, update):
    kept = layer.weight.detach().clone()
    layer.weight = nn.Parameter((layer.weight.float() + update).to(kept.dtype))
    return kept


lora_unmerge.slip("The weight has become trainable. What does `nn.Parameter` switch on unless told otherwise?")(
    (_new_parameter, _put_back), "becomes-trainable"
)


def _rounds_first(layer, update):
    kept = layer.weight.detach().clone()
    update.copy_(update.to(kept.dtype))
    layer.weight.data += update.to(kept.dtype)
    return kept


lora_unmerge.slip("You changed the update itself. Who else may still need it, at full precision?")(
    (_rounds_first, _put_back), "changes-the-update"
)


def _no_merge(layer, update):
    return layer.weight.detach().clone()


lora_unmerge.slip(
    "`merge` leaves the layer as it was. Did the sum get a name of its own, instead of going into the layer?"
)((_no_merge, _put_back), "does-not-merge")
lora_unmerge.slip("`unmerge` adds the update a second time. What is the opposite of adding it?")(
    (_add_and_return_update, _rounded), "adds-again"
)
lora_unmerge.slip("The update was subtracted by `merge`. Which sign belongs where?")(
    (lambda layer, update: (layer.weight.detach().clone(), _subtract(layer, update))[0], _put_back), "merges-with-minus"
)


# ================================================================ save

lora_save = Exercise(
    "lora-save",
    lesson=LESSON,
    title="A file the library reads",
    signature="lora_tensors(adapters)",
    why="With the right names, `peft` loads what you trained.",
    points=1,
    minutes=6,
    difficulty=1,
    hints=[
        "`adapters` maps a layer's path to its pair (A, B). Make one flat dict: name in the file, tensor.",
        "A name has four parts: what `peft` wraps the model in, the layer's path, which of the two it is, and `weight`.",
        "Print the keys of any adapter from the Hub, or look at the one the lesson saves with `peft`.",
    ],
)


@lora_save.cases
def save_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    cases = []
    for paths, d_in, d_out, r in (
        (["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"], 6, 4, 2),
        (["encoder.layer.0.attention.output.dense"], 5, 8, 3),
    ):
        adapters = {p: (torch.randn(r, d_in, generator=draw), torch.randn(d_out, r, generator=draw)) for p in paths}
        cases.append(Case(f"adapters on {', '.join(f'`{p}`' for p in paths)}", adapters=adapters))
    return cases


@lora_save.observe
def look_save(answer, case):
    adapters = {p: (nn.Parameter(A.clone()), nn.Parameter(B.clone())) for p, (A, B) in case.adapters.items()}
    tensors = given(answer(adapters), dict, "`lora_tensors`")
    seen = {"names in the file": sorted(map(str, tensors))}
    seen |= {str(k): given(tensors[k], torch.Tensor, f"`{k}`").detach().clone() for k in sorted(tensors, key=str)}
    return seen | {"adapters changed": [p for p, (A, B) in adapters.items() if any(changed({"A": a}, {"A": b}) for a, b in zip(case.adapters[p], (A, B)))]}  # fmt: skip


PREFIX = "base_model.model."


@lora_save.solution
def with_a_loop(adapters):
    tensors = {}
    for path, (A, B) in adapters.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = A.detach()
        tensors[f"base_model.model.{path}.lora_B.weight"] = B.detach()
    return tensors


@lora_save.solution
def with_a_comprehension(adapters):
    return {
        f"{PREFIX}{path}.lora_{letter}.weight": matrix.data
        for path, pair_ in adapters.items()
        for letter, matrix in zip("AB", pair_)
    }


@lora_save.solution
def two_dicts(adapters):
    first = {PREFIX + p + ".lora_A.weight": ab[0].clone() for p, ab in adapters.items()}
    return first | {PREFIX + p + ".lora_B.weight": ab[1].clone() for p, ab in adapters.items()}


def _save(name, matrices=lambda A, B: (A, B)):
    return lambda adapters: {
        name.format(path=path, letter=letter): m
        for path, (A, B) in adapters.items()
        for letter, m in zip("AB", matrices(A, B))
    }


KEY = "base_model.model.{path}.lora_{letter}.weight"
lora_save.slip(
    "The names hold an adapter's name (`default`). That is how they are called in memory; "
    "a file may be loaded under any name, so what does it leave out?"
)(_save("base_model.model.{path}.lora_{letter}.default.weight"), "adapter-name-in-the-key")
lora_save.slip(
    "The names begin with the layer's path. What does `peft` wrap around a model, and therefore write first?"
)(_save("{path}.lora_{letter}.weight"), "no-prefix")
lora_save.slip("The prefix is only half there. `peft` wraps the model twice: what are the two called?")(
    _save("base_model.{path}.lora_{letter}.weight"), "half-a-prefix"
)
lora_save.slip(
    "The names stop after `lora_A`. In `peft`, A and B are linear layers: what is a linear layer's matrix called?"
)(_save("base_model.model.{path}.lora_{letter}"), "no-weight-at-the-end")
lora_save.slip("The matrices are transposed. What shape has the weight of a linear layer from d_in to r?")(
    _save(KEY, lambda A, B: (A.T, B.T)), "transposed-matrices"
)
lora_save.slip("A and B have changed places. Which of the two touches x first?")(
    _save(KEY, lambda A, B: (B, A)), "a-and-b-swapped"
)
lora_save.slip("Only A is in the file. What is the update without B?")(
    lambda adapters: {KEY.format(path=p, letter="A"): A for p, (A, _) in adapters.items()}, "only-a"
)
lora_save.slip("Only one layer is in the file: each is written under the same name as the one before. What has to differ?")(
    lambda adapters: dict(
        item for (A, B) in adapters.values() for item in (("base_model.model.lora_A.weight", A), ("base_model.model.lora_B.weight", B))
    ),
    "path-left-out",
)  # fmt: skip
