"""Lesson 08, one family: before and after a frozen layer, W + ΔW, what can be merged, and a method of one's own.

Shapes everywhere: W (d_out, d_in), A (r, d_in), B (d_out, r), l (d_out,), R (d_in, d_in), x (..., d_in).
"""

import torch
import torch.nn.functional as F
from torch import nn

from peftlab.adapter import Adapter

from ..exercise import Case, Exercise, Part, Question, Unexpected
from ..observing import changed, fresh, given

LESSON = "08-one-family"


def draws(seed):
    """A function that draws normal tensors of a shape, the same for the same seed."""
    draw = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=draw)


# ================================================================ predict

start = Question(
    "family-start",
    lesson=LESSON,
    title="Who starts somewhere else",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=1,
    question="You attach a method and train nothing. One of these changes the model's answers all the same. Which?",
    options={
        "a": ("LoRA", "One of its two matrices is zero at the start. What is a product with zero?"),
        "b": ("(IA)³", "Its vector multiplies, and starts at one. What does a factor of one change?"),
        "c": (
            "prompt tuning",
            "The added tokens are read, whatever they hold, and take some of the attention; there is no neutral token.",
        ),
        "d": (
            "DoRA",
            "It splits the weight into length and direction and puts them together again. What has changed in between?",
        ),
    },
    right="c",
)

merging = Question(
    "family-merge",
    lesson=LESSON,
    title="What can be merged",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=2,
    question="A method turns what *enters* a layer by a rotation, x → R x, and adds nothing to what leaves it. "
    "Can it be merged into the weight?",
    options={
        "a": (
            "no: only what is added to the output can be merged",
            "Follow one x: it becomes R x, then W (R x) + b. Where could you put the brackets?",
        ),
        "b": (
            "yes: the merged weight is W R",
            "W (R x) = (W R) x: what stands before the layer merges as well as what stands after it.",
        ),
        "c": ("yes: the merged weight is R W", "R has as many rows as x has numbers. Which side of W does that fit?"),
        "d": (
            "only if R is close to the identity",
            "Closeness played no part in the algebra. Is W (R x) equal to (W R) x for every R, or only for some?",
        ),
    },
    right="b",
)


# ================================================================ one sentence as code

apply = Exercise(
    "apply-adapter",
    lesson=LESSON,
    title="One sentence as code",
    signature="apply_adapter(layer, before, after, x)",
    why="Every method of this course that sits on a layer goes through these lines.",
    points=1,
    minutes=5,
    difficulty=1,
    hints=[
        "Three things happen, in the order of the sentence: before, the layer, after.",
        "`after` is told two things: what went into the layer, and what came out of it.",
    ],
)


@apply.cases
def apply_cases(seed):
    def case(label, before, after, *shape):
        return Case(label, layer=nn.Linear(5, 5), before=before, after=after, x=draws(seed)(*shape), seed=seed)

    return [
        case("`before` doubles, `after` adds what went in", lambda x: 2 * x, lambda x, y: y + x, 3, 5),
        case("`before` shifts, `after` multiplies by what went in", lambda x: x + 1, lambda x, y: y * x, 2, 3, 5),
        case("`before` changes nothing, `after` takes y less three x", lambda x: x, lambda x, y: y - 3 * x, 4, 5),
        case("`before` turns the signs, `after` changes nothing", lambda x: -x, lambda x, y: y, 5),
    ]


@apply.observe
def look_apply(answer, case):
    calls, layer = [], case.layer
    with torch.no_grad():
        for p, shape in zip(layer.parameters(), ((5, 5), (5,))):
            p.copy_(draws(case.seed + 9)(*shape))

    def counted(name, f):
        return lambda *args: (calls.append(name), f(*args))[1]

    inputs = {"x": case.x.clone()}
    arguments = (counted("layer", layer), counted("before", case.before), counted("after", case.after), inputs["x"])
    y = given(answer(*arguments), torch.Tensor, "`apply_adapter`")
    return {"called": calls, "output": y.detach().clone(), "changed in place": changed({"x": case.x}, inputs)}


@apply.solution
def in_three_lines(layer, before, after, x):
    x = before(x)
    y = layer(x)
    return after(x, y)


@apply.solution
def in_one(layer, before, after, x):
    return after(entered := before(x), layer(entered))


@apply.solution
def named_apart(layer, before, after, x):
    into = before(x)
    out = layer.__call__(into) if hasattr(layer, "weight") else layer(into)
    result = after(into, out)
    return result


@apply.slip("`after` was told the x from before the change. What went into the layer?")
def after_sees_the_old_x(layer, before, after, x):
    return after(x, layer(before(x)))


@apply.slip("`before` was called, and the layer was given the old x all the same. What should the layer read?")
def layer_reads_the_old_x(layer, before, after, x):
    return after(before(x), layer(x))


@apply.slip("`before` was never called. What is to happen to x on its way in?")
def no_before(layer, before, after, x):
    return after(x, layer(x))


@apply.slip("`after` was never called. What is to happen to y on its way out?")
def no_after(layer, before, after, x):
    return layer(before(x))


@apply.slip("`after` got its two arguments in the other order. Which is named first in its definition?")
def turned(layer, before, after, x):
    x = before(x)
    return after(layer(x), x)


@apply.slip("`before` is called twice, so the change is made twice. Could you keep what it gave the first time?")
def before_twice(layer, before, after, x):
    return after(before(x), layer(before(x)))


@apply.slip("What leaves the layer is added to what `after` gives. Does `after` know y already?")
def adds_again(layer, before, after, x):
    x = before(x)
    y = layer(x)
    return y + after(x, y)


# ================================================================ all as W + ΔW

updates = Exercise(
    "family-updates",
    lesson=LESSON,
    title="Four methods, one form",
    signature="updates(W, A, B, l, R)",
    dims={"W": "d_out d_in", "A": "r d_in", "B": "d_out r", "l": "d_out", "R": "d_in d_in"},
    why="Whatever a method says of itself, once merged it is W + ΔW. This is the unified view.",
    points=2,
    parts=[Part(f"{kind} is", 0.5, (kind,)) for kind in ("LoRA", "IA3", "OFT", "HiRA")],
    minutes=10,
    difficulty=2,
    hints=[
        "For each: write down what the whole layer is as one matrix, then take W away.",
        "(IA)³ multiplies output number i by l[i]. Which row, or column, of W makes output number i?",
        "OFT's x goes through R first, then through W. Which matrix is nearest to x in the product?",
    ],
)


@updates.cases
def update_cases(seed):
    normal = draws(seed)
    return [
        Case(
            f"`d_out = {d_out}`, `d_in = {d_in}`, `r = {r}`",
            tensors={
                "W": normal(d_out, d_in),
                "A": normal(r, d_in),
                "B": normal(d_out, r),
                "l": 1 + normal(d_out) / 2,
                "R": torch.linalg.qr(normal(d_in, d_in))[0],
            },
        )
        for d_out, d_in, r in ((4, 7, 2), (6, 3, 1), (5, 5, 3))
    ]


KINDS = ("LoRA", "IA3", "OFT", "HiRA")


@updates.observe
def look_updates(answer, case):
    inputs = fresh(case.tensors)
    found = given(answer(**inputs), dict, "`updates`")
    seen = {"names": sorted(map(str, found))}
    for kind in KINDS:
        seen[kind] = given(found[kind], torch.Tensor, f"`updates(...)['{kind}']`") if kind in found else "missing"
    return seen | {"changed in place": changed(case.tensors, inputs)}


@updates.solution
def by_matrices(W, A, B, l, R):
    return {"LoRA": B @ A, "IA3": l[:, None] * W - W, "OFT": W @ R - W, "HiRA": W * (B @ A)}


@updates.solution
def by_diagonals(W, A, B, l, R):
    BA = torch.einsum("or,ri->oi", B, A)
    one_in, one_out = torch.eye(W.shape[1]), torch.eye(W.shape[0])
    return {"LoRA": BA, "IA3": (torch.diag(l) - one_out) @ W, "OFT": W @ (R - one_in), "HiRA": W.mul(BA)}


@updates.solution
def by_basis_vectors(W, A, B, l, R):
    layers = {
        "LoRA": lambda x: F.linear(x, W) + F.linear(F.linear(x, A), B),
        "IA3": lambda x: F.linear(x, W) * l,
        "OFT": lambda x: F.linear(F.linear(x, R), W),
        "HiRA": lambda x: F.linear(x, W + W * (B @ A)),
    }
    return {kind: layer(torch.eye(W.shape[1])).T - W for kind, layer in layers.items()}


def swapped(message, name, **wrong):
    """A slip that gets one entry wrong."""

    def answer(W, A, B, l, R):
        return by_matrices(W, A, B, l, R) | {k: f(W, A, B, l, R) for k, f in wrong.items()}

    updates.slip(message)(answer, name)


swapped(
    "For (IA)³ you give the merged weight, not what was added to it. What is ΔW when every l is one?",
    "ia3-whole",
    IA3=lambda W, A, B, l, R: l[:, None] * W,
)
swapped(
    "For (IA)³ a factor of one should change nothing. What do you get for l = 1?",
    "ia3-without-the-one",
    IA3=lambda W, A, B, l, R: (l[:, None] + 1) * W,
)
swapped(
    "For OFT you give the merged weight, not what was added to it. What is ΔW when R is the identity?",
    "oft-whole",
    OFT=lambda W, A, B, l, R: W @ R,
)
swapped(
    "OFT's rotation goes the other way round. Which number of x does *row* i of R make?",
    "oft-turned",
    OFT=lambda W, A, B, l, R: W @ R.T - W,
)
swapped(
    "For HiRA you multiply W and B A as matrices, or give B A alone. What does the ⊙ in its equation stand for?",
    "hira-is-lora",
    HiRA=lambda W, A, B, l, R: B @ A,
)
swapped(
    "For HiRA you give the merged weight, not what was added to it. What is ΔW when B is zero?",
    "hira-whole",
    HiRA=lambda W, A, B, l, R: W + W * (B @ A),
)
swapped(
    "For LoRA you give the merged weight, not what was added to it. What is ΔW when B is zero?",
    "lora-whole",
    LoRA=lambda W, A, B, l, R: W + B @ A,
)


@updates.slip("The merged weights are right, all four; asked for is what was added to W. What is left to take away?")
def merged_weights(W, A, B, l, R):
    return {kind: update + W for kind, update in by_matrices(W, A, B, l, R).items()}


# ================================================================ which can be merged

affine = Exercise(
    "is-affine",
    lesson=LESSON,
    title="Can it be merged? Ask it",
    signature="is_affine(f, d_in)",
    why="A table of what can be merged, made by asking the methods and not by believing their papers.",
    points=2,
    minutes=12,
    difficulty=3,
    hints=[
        "Affine means f(x) = W x + b for *every* x. What is f(0) then, and what is left of f without it?",
        "Lesson 03 found W and b by asking for basis vectors. That always gives some W and b. When are they the truth?",
        "Floats round: compare with a tolerance, such as 1e-4 of the largest number of f(x).",
        "A function can be straight where you look and curved elsewhere: one x, or one pair of them, is luck. How many do you ask?",
    ],
)


@affine.cases
def affine_cases(seed):
    normal = draws(seed)
    d_in, d_out = 6, 5
    W, b, A, B, big = normal(d_out, d_in), normal(d_out), normal(8, d_in), normal(d_out, 8), 40 * normal(d_out, d_in)
    functions = {
        "`W x`": lambda x: F.linear(x, W),
        "`W x + b`": lambda x: F.linear(x, W, b),
        "`W x + b`, large weights": lambda x: F.linear(x, big, b),
        "`b` alone": lambda x: b.expand(*x.shape[:-1], d_out),
        "a LoRA": lambda x: F.linear(x, W, b) + F.linear(F.linear(x, A), B),
        "a bottleneck with a ReLU": lambda x: F.linear(x, W, b) + F.linear(F.relu(F.linear(x, A)), B),
        "`W |x|`": lambda x: F.linear(x.abs(), W),
        "`W x³ + b`": lambda x: F.linear(x**3, W, b),
        "`W x` times the first number of x": lambda x: F.linear(x, W) * x[..., :1],
        "`W x`, and a product of two numbers of x": lambda x: F.linear(x, W, b) + x[..., :1] * x[..., 1:2],
        "`W x` divided by its norm": lambda x: F.normalize(F.linear(x, W, b), dim=-1),
    }
    cases = [Case(label, f=f, d_in=d_in) for label, f in functions.items()]

    def hinge():
        u, step = F.normalize(normal(d_in), dim=0), normal(d_out)
        return lambda x: F.linear(x, W, b) + F.relu(x @ u - 0.7)[..., None] * step

    cases += [Case("`W x + b`, with a corner that one x in four meets", f=hinge(), d_in=d_in) for _ in range(6)]
    wide, shift, down, up = normal(192, 256) / 16, normal(192), normal(4, 256) / 16, normal(192, 4)
    trained = wide.clone().requires_grad_()
    return [
        *cases,
        Case("`W x + b` from 256 to 192 numbers", f=lambda x: F.linear(x, trained, shift), d_in=256),
        Case("a LoRA on it", f=lambda x: F.linear(x, trained, shift) + F.linear(F.linear(x, down), up), d_in=256),
    ]


@affine.observe
def look_affine(answer, case):
    said = answer(case.f, case.d_in)
    if isinstance(said, torch.Tensor) and said.numel() == 1:
        said = said.item()
    return {"affine": given(said, bool, "`is_affine`")}


@affine.solution
def by_rebuilding(f, d_in):
    b = f(torch.zeros(d_in))
    W = (f(torch.eye(d_in)) - b).T
    x = torch.randn(64, d_in)
    y = f(x)
    return bool((F.linear(x, W, b) - y).abs().max() <= 1e-4 * y.abs().max().clamp(min=1e-6))


@affine.solution
def by_adding(f, d_in):
    x, z = torch.randn(2, 50, d_in)
    gap = f(x + z) - f(x) - f(z) + f(torch.zeros(50, d_in))
    return torch.allclose(gap, torch.zeros_like(gap), atol=1e-4 * float(f(x).abs().max()))


@affine.solution
def by_points_on_a_line(f, d_in):
    x, z, a = torch.randn(50, d_in), torch.randn(50, d_in), torch.rand(50, 1)
    between, straight = f(a * x + (1 - a) * z), a * f(x) + (1 - a) * f(z)
    return float((between - straight).norm()) < 1e-4 * float(straight.norm())


@affine.solution
def by_steps(f, d_in):
    x, step = torch.randn(64, d_in), torch.randn(d_in)
    climbed = f(x + step) - f(x)
    return float((climbed - climbed[0]).abs().max()) <= 1e-4 * float(f(x).abs().max())


ONE = "One x, or one pair, is asked about: a corner may lie elsewhere, and then luck decides. How many x would leave it nowhere to hide?"


@affine.slip(ONE)
def one_pair(f, d_in):
    x, z = torch.randn(d_in), torch.randn(d_in)
    gap = f(x + z) - f(x) - f(z) + f(torch.zeros(d_in))
    return bool(gap.abs().max() <= 1e-4 * f(x).abs().max())


@affine.slip(ONE)
def one_x(f, d_in):
    b = f(torch.zeros(d_in))
    x = torch.randn(d_in)
    y = f(x)
    return bool((F.linear(x, (f(torch.eye(d_in)) - b).T, b) - y).abs().max() <= 1e-4 * y.abs().max())


TOO_STRICT = "The tolerance is too small for float32, or none: a plain `W x + b` is refused. What may rounding take, of the largest number?"


@affine.slip(TOO_STRICT)
def default_tolerance(f, d_in):
    b = f(torch.zeros(d_in))
    x = torch.randn(64, d_in)
    return torch.allclose(F.linear(x, (f(torch.eye(d_in)) - b).T, b), f(x))


@affine.slip(TOO_STRICT)
def default_tolerance_by_adding(f, d_in):
    x, z = torch.randn(2, 64, d_in)
    return torch.allclose(f(x + z) + f(torch.zeros(64, d_in)), f(x) + f(z))


@affine.slip("One pair of x, and the tolerance that `allclose` has by itself: luck decides twice. How many x, and how close in float32?")
def one_pair_default(f, d_in):
    x, z = torch.randn(d_in), torch.randn(d_in)
    return torch.allclose(f(x + z) + f(torch.zeros(d_in)), f(x) + f(z))


affine.slip("A layer with a bias is refused. What is f(0) for `W x + b`, and may it be something other than zero?")(
    lambda f, d_in: by_rebuilding(f, d_in) and not f(torch.zeros(d_in)).any(), "linear-only"
)


@affine.slip(
    "You asked whether the double of x gives the double of f. `W |x|` does that too. Which other property has a straight line?"
)
def doubling_only(f, d_in):
    x, b = torch.randn(50, d_in), f(torch.zeros(d_in))
    return bool((f(2 * x) - b - 2 * (f(x) - b)).abs().max() <= 1e-4 * f(x).abs().max())


@affine.slip("You asked whether f(2x) is 2 f(x). What of the bias in `W x + b`, and is `W |x|` straight, which passes?")
def doubling_with_the_bias(f, d_in):
    x = torch.randn(50, d_in)
    return bool((f(2 * x) - 2 * f(x)).abs().max() <= 1e-4 * f(x).abs().max())


@affine.slip(
    "You asked whether −x gives the opposite of x. `W x³` does that too. Which other property has a straight line?"
)
def mirror_only(f, d_in):
    x, b = torch.randn(50, d_in), f(torch.zeros(d_in))
    return bool((f(-x) - b + (f(x) - b)).abs().max() <= 1e-4 * f(x).abs().max())


@affine.slip(
    "You asked at basis vectors, one number of x at a time. A product of two of them is zero there. Which x shows it?"
)
def along_the_axes(f, d_in):
    b, eye = f(torch.zeros(d_in)), torch.eye(d_in)
    W = (f(eye) - b).T
    x = torch.cat([a * eye for a in (-2.0, -1.0, 0.5, 3.0)])
    return bool((F.linear(x, W, b) - f(x)).abs().max() <= 1e-4 * f(x).abs().max())


@affine.slip(TOO_STRICT)
def to_the_last_bit(f, d_in):
    b = f(torch.zeros(d_in))
    x = torch.randn(64, d_in)
    return torch.equal(F.linear(x, (f(torch.eye(d_in)) - b).T, b), f(x))


@affine.slip("Everything counts as affine. What does a ReLU do to a straight line?")
def always(f, d_in):
    return True


@affine.slip("Nothing counts as affine. What does `W x + b` fail in your test?")
def never(f, d_in):
    return False


@affine.slip(
    "The answer is turned round: what is affine is refused and the rest accepted. Which way does your comparison go?"
)
def turned_round(f, d_in):
    return not by_rebuilding(f, d_in)


# ================================================================ counting from the equation

counts = Exercise(
    "family-counts",
    lesson=LESSON,
    title="Count from the equation",
    signature="counts(d_in, d_out, r, b)",
    why="The equation of a method says what it trains; nothing else is needed to know its price.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "Go through one equation at a time and write beside each trainable letter its shape.",
        "VeRA: two of its four letters are drawn once and never trained.",
        "OFT: a rotation of b numbers has a free choice for each *pair* of them; how many blocks of b are there in d_in?",
    ],
)


@counts.cases
def count_cases(seed):
    sizes = [(384, 1536, 4, 16), (576, 192, 16, 64)]
    return [
        Case(f"`d_in = {i}`, `d_out = {o}`, `r = {r}`, `b = {b}`", sizes={"d_in": i, "d_out": o, "r": r, "b": b})
        for i, o, r, b in [*sizes[seed % 2 :], *sizes[: seed % 2], (768, 768, 8, 32)]  # where rows and columns differ first
    ]


COUNTED = ("DoRA", "IA3", "LoHa", "HRA", "VeRA", "OFT")


@counts.observe
def look_counts(answer, case):
    found = given(answer(**case.sizes), dict, "`counts`")
    seen = {"names": sorted(map(str, found))}
    for kind in COUNTED:
        n = found.get(kind, "missing")
        n = n.item() if isinstance(n, torch.Tensor) and n.numel() == 1 else n
        seen[kind] = int(n) if isinstance(n, float) and n == int(n) else n
    return seen


@counts.solution
def by_formula(d_in, d_out, r, b):
    return {
        "DoRA": r * (d_in + d_out) + d_out,
        "IA3": d_out,
        "LoHa": 2 * r * (d_in + d_out),
        "HRA": r * d_in,
        "VeRA": r + d_out,
        "OFT": d_in * (b - 1) // 2,
    }


@counts.solution
def by_numel(d_in, d_out, r, b):
    shapes = {
        "DoRA": [(r, d_in), (d_out, r), (d_out,)],
        "IA3": [(d_out,)],
        "LoHa": [(d_out, r), (r, d_in)] * 2,
        "HRA": [(r, d_in)],
        "VeRA": [(r,), (d_out,)],
        "OFT": [(d_in // b, b * (b - 1) // 2)],
    }
    return {kind: sum(torch.Size(s).numel() for s in those) for kind, those in shapes.items()}


@counts.solution
def built_on_lora(d_in, d_out, r, b):
    lora, pairs = r * d_in + d_out * r, sum(range(b))
    found = dict(DoRA=lora + d_out, LoHa=lora * 2, IA3=d_out, VeRA=d_out + r)  # noqa: C408
    return found | {"HRA": d_in * r, "OFT": (d_in // b) * pairs}


def miscounted(message, name, **wrong):
    def answer(d_in, d_out, r, b):
        return by_formula(d_in, d_out, r, b) | {k: f(d_in, d_out, r, b) for k, f in wrong.items()}

    counts.slip(message)(answer, name)


miscounted(
    "DoRA's m has one number for each *output*: it is the norm of a row of the weight. How many rows has W?",
    "magnitude-per-input",
    DoRA=lambda i, o, r, b: r * (i + o) + i,
)
miscounted(
    "DoRA trains something beside B and A. Which letter is left in its equation?",
    "dora-is-lora",
    DoRA=lambda i, o, r, b: r * (i + o),
)
miscounted(
    "(IA)³ multiplies what *leaves* the layer. How many numbers leave it?", "ia3-per-input", IA3=lambda i, o, r, b: i
)
miscounted(
    "LoHa multiplies two products, entry by entry. How many pairs of matrices is that?",
    "loha-one-pair",
    LoHa=lambda i, o, r, b: r * (i + o),
)
miscounted(
    "HRA reflects what *enters* the layer: each reflection has a vector with as many entries as x. How many is that?",
    "mirrors-per-output",
    HRA=lambda i, o, r, b: r * o,
)
miscounted(
    "For VeRA you count A and B. They are drawn once, frozen, and shared by all layers. What is trained?",
    "vera-counts-the-frozen",
    VeRA=lambda i, o, r, b: r * (i + o) + r + o,
)
miscounted(
    "VeRA's d scales the numbers between A and B. How many of them are there?",
    "vera-per-input",
    VeRA=lambda i, o, r, b: i + o,
)
miscounted(
    "For OFT you count every entry of the blocks. An entry above the diagonal fixes its mirror image below. What is left?",
    "oft-whole-blocks",
    OFT=lambda i, o, r, b: i * b,
)
miscounted(
    "For OFT you count the diagonal along. A skew matrix has Q[i, j] = −Q[j, i]; what does that make of Q[i, i]?",
    "oft-with-diagonal",
    OFT=lambda i, o, r, b: i * (b + 1) // 2,
)
miscounted(
    "For OFT you count one block. How many blocks of b numbers are there in x?",
    "oft-one-block",
    OFT=lambda i, o, r, b: b * (b - 1) // 2,
)


# ================================================================ a method of your own

own = Exercise(
    "own-method",
    lesson=LESSON,
    title="A method of your own",
    signature="class SSF(Adapter)",
    why="Ten lines, and it can be attached, mixed, merged, saved and counted like every other.",
    points=3,
    minutes=12,
    difficulty=2,
    hints=[
        "Two trained vectors, each with one number for every number that leaves the layer: `self.shape` is `(d_in, d_out)`.",
        "Parameters are made with `nn.Parameter(...)`; the start must leave y as it is.",
        "`count` needs no layer: from `d_in` and `d_out` alone, how many parameters have you made?",
    ],
)


@own.cases
def own_cases(seed):
    return [
        Case(
            f"a linear layer from {i} to {o}{'' if bias else ' without a bias'}, x of shape {(*batch, i)}",
            sizes=(i, o),
            x=draws(seed)(*batch, i),
            seed=seed,
            bias=bias,
        )
        for i, o, batch, bias in ((7, 4, (3,), True), (3, 6, (2, 5), True), (5, 5, (), True), (6, 3, (2,), False))
    ]


@own.observe
def look_own(answer, case):
    if not (isinstance(answer, type) and issubclass(answer, Adapter)):
        raise Unexpected("`SSF` should be a class that derives from `Adapter`.")
    d_in, d_out = case.sizes
    normal = draws(case.seed + 3)
    layer = nn.Linear(d_in, d_out, bias=case.bias).requires_grad_(False)
    with torch.no_grad():
        for p, shape in zip(layer.parameters(), ((d_out, d_in), (d_out,))):
            p.copy_(normal(*shape))
    before = fresh(dict(layer.named_parameters()))
    adapter = answer(layer)

    def through(x):
        x = adapter.before(x)
        return given(adapter.after(x, layer(x)), torch.Tensor, "`after`")

    trained = dict(adapter.named_parameters())
    seen = {
        "trained parameters": sorted(trained),
        "their shapes": {n: list(p.shape) for n, p in sorted(trained.items())},
        "output at the start": through(case.x).detach().clone(),
        "count": answer.count(d_in, d_out),
    }
    with torch.no_grad():
        for name, p in sorted(trained.items()):
            p.copy_(draws(len(name))(*p.shape) + 1)
    y = through(case.x)
    seen["output once the vectors have values"] = y.detach().clone()
    if y.requires_grad:
        (y * draws(1)(*y.shape)).sum().backward()
    seen |= {f"gradient of {n}": "none" if p.grad is None else p.grad.clone() for n, p in sorted(trained.items())}
    seen["names in the file"] = sorted(adapter.keys)
    seen["base parameters changed"] = changed(before, dict(layer.named_parameters()))
    return seen


class Base(Adapter):
    """What the exercise gives: the names of the vectors in the file."""

    keys = {"gamma": "ssf_gamma", "beta": "ssf_beta"}


@own.solution
class Plain(Base):
    def __init__(self, layer):
        super().__init__(layer)
        d_out = self.shape[1]
        self.gamma = nn.Parameter(torch.ones(d_out))
        self.beta = nn.Parameter(torch.zeros(d_out))

    def after(self, x, y):
        return self.gamma * y + self.beta

    @staticmethod
    def count(d_in, d_out):
        return 2 * d_out


@own.solution
class Registered(Base):
    def __init__(self, layer):
        super().__init__(layer)
        for name, value in (("gamma", 1.0), ("beta", 0.0)):
            self.register_parameter(name, nn.Parameter(torch.full((layer.out_features,), value)))

    def after(self, x, y):
        return torch.addcmul(self.beta, y, self.gamma)

    @classmethod
    def count(cls, d_in, d_out):
        return d_out + d_out


@own.solution
class FromTheWeight(Base):
    def __init__(self, layer):
        super().__init__(layer)
        self.beta = nn.Parameter(torch.zeros_like(layer.weight[:, 0]))
        self.gamma = nn.Parameter(self.beta.detach() + 1)

    def after(self, x, y):
        return torch.einsum("...o,o->...o", y, self.gamma) + self.beta

    @staticmethod
    def count(d_in, d_out, **options):
        return sum((d_out, d_out))


def variant(message, name, **parts):
    """A slip that differs from `Plain` in one method."""
    own.slip(message)(type("SSF", (Plain,), parts), name)


def starting(gamma, beta, wrap=nn.Parameter):
    def init(self, layer):
        Base.__init__(self, layer)
        d_in, d_out = self.shape
        self.gamma, self.beta = wrap(gamma(d_in, d_out)), wrap(beta(d_in, d_out))

    return init


def ones(d_in, d_out):
    return torch.ones(d_out)


def zeros(d_in, d_out):
    return torch.zeros(d_out)


variant(
    "The model answers zero everywhere before it is trained. What must a factor be to change nothing?",
    "starts-at-zero",
    __init__=starting(zeros, zeros),
)
variant(
    "Everything that leaves the layer is shifted by one before training. What must a summand be to change nothing?",
    "shift-of-one",
    __init__=starting(ones, ones),
)
variant(
    "Your vectors are tensors, not parameters: no optimizer will find them. What does `nn.Parameter` do?",
    "plain-tensors",
    __init__=starting(ones, zeros, wrap=lambda t: t),
)
variant(
    "One number for each *input* was made, but y has one for each output. Which entry of `self.shape` is that?",
    "as-long-as-the-input",
    __init__=starting(lambda i, o: torch.ones(i), lambda i, o: torch.zeros(i)),
)
variant(
    "One factor and one shift for the whole layer. How many numbers leave it, and can each have its own?",
    "one-number-each",
    __init__=starting(lambda i, o: torch.ones(1), lambda i, o: torch.zeros(1)),
)
variant(
    "The shift is multiplied as well. In gamma ⊙ y + beta, what does gamma belong to?",
    "scales-the-shift",
    after=lambda self, x, y: self.gamma * (y + self.beta),
)
variant(
    "You multiply by one plus gamma, with a gamma that starts at zero. It trains as well; but gamma in a file should mean the "
    "factor. What stands in front of y in the equation?",
    "one-plus-gamma",
    __init__=starting(zeros, zeros),
    after=lambda self, x, y: y + self.gamma * y + self.beta,
)
variant(
    "The shift never arrives in the output. What does `after` do with beta?",
    "no-shift",
    after=lambda self, x, y: self.gamma * y,
)
variant(
    "The factor never arrives in the output. What does `after` do with gamma?",
    "no-factor",
    after=lambda self, x, y: y + self.beta,
)
def from_the_bias(self, layer):
    Base.__init__(self, layer)
    self.gamma, self.beta = nn.Parameter(torch.ones_like(layer.bias)), nn.Parameter(torch.zeros_like(layer.bias))


variant(
    "Your vectors take their size from the layer's bias, and a Llama has none. Where else does the number of outputs stand?",
    "sized-by-the-bias",
    __init__=from_the_bias,
)
variant(
    "The shift is multiplied as well, and starts at one. In gamma ⊙ y + beta, what does gamma belong to, and which summand changes "
    "nothing?",
    "scales-a-shift-of-one",
    __init__=starting(ones, ones),
    after=lambda self, x, y: self.gamma * (y + self.beta),
)
variant(
    "The closed form counts one of the two vectors. How many trainable parameters are there?",
    "counts-one",
    count=staticmethod(lambda d_in, d_out: d_out),
)
variant(
    "The closed form asks for the layer's input. Does either vector depend on d_in?",
    "counts-the-input",
    count=staticmethod(lambda d_in, d_out: d_in + d_out),
)


@own.slip("The layer's own weight was changed. An adapter leaves the frozen layer as it is; where does gamma belong?")
class ChangesTheBase(Plain):
    def __init__(self, layer):
        super().__init__(layer)
        with torch.no_grad():
            layer.weight.mul_(1.5)
