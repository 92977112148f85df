"""Lesson 05, adapters: the bottleneck (arXiv:1902.00751), its places (2005.00247, 2110.04366), what it costs, and fusion.

Shapes everywhere: h and x (..., d), D (m, d), a (m,), U (d, m), b (d,). A "bottleneck" is the function h -> U f(D h + a) + b.
"""

import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from ..exercise import Case, Exercise, Near, Part, Question, Unexpected
from ..observing import changed, fresh, given, gradients

LESSON = "05-adapters"


def draws(seed):
    """A function that draws normal tensors of a shape in double precision, the same for the same seed."""
    draw = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)


# ================================================================ predict

question = Question(
    "adapter-merge",
    lesson=LESSON,
    title="Can it be merged?",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=2,
    question="Behind a linear layer W stands an adapter: what leaves the layer, y, becomes y + U relu(D y). D and U are trained, W is "
    "frozen. Afterwards you want a plain linear layer again that does the same, as with LoRA. Is there one?",
    options={
        "a": (
            "yes: its weight is (I + U D) W",
            "That is what you get when relu lets everything pass. What does it do with an entry of D y below zero?",
        ),
        "b": (
            "yes, but the formula is unknown: ask the layer about every basis vector, as in lesson 03",
            (
                "Asking gives you *a* matrix, always. It is right at the vectors you asked about. What makes it right in "
                "between, if the function is not linear?"
            ),
        ),
        "c": (
            "no: two inputs whose sum turns an entry of D y from negative to positive give it away",
            "A sum of inputs then does not give the sum of outputs, and with a linear layer it always does. You will ask it just that.",
        ),
        "d": (
            "no: D and U are too narrow, with m as large as d it would work",
            "The width says how many numbers pass, and LoRA is as narrow. Which of its parts does LoRA not have?",
        ),
    },
    right="c",
)


# ================================================================ the bottleneck

bottleneck = Exercise(
    "adapter-bottleneck",
    lesson=LESSON,
    title="The bottleneck",
    signature="bottleneck(h, D, a, U, b, f)",
    dims={"h": "... d", "D": "m d", "a": "m", "U": "d m", "b": "d"},
    why="All adapters of this lesson are this one function, put in different places.",
    points=1,
    minutes=6,
    difficulty=1,
    hints=[
        "Inside out: first down to m numbers, then f, then up to d again.",
        "h may have any number of leading dimensions, and the rows of D stand for what leaves: `F.linear(h, D, a)` knows both.",
        "Only what is *added* to h was asked for. h itself comes in where the adapter is put into the model.",
    ],
)


@bottleneck.cases
def bottleneck_cases(seed):
    draw = draws(seed)
    shapes = [((7,), 3, torch.relu, "relu"), ((4, 6), 6, F.silu, "silu"), ((2, 3, 5), 2, torch.tanh, "tanh")]
    return [
        Case(
            f"`h` of shape {h}, `m = {m}`, f = {name}",
            f=f,
            tensors={"h": draw(*h), "D": draw(m, h[-1]), "a": draw(m), "U": draw(h[-1], m), "b": draw(h[-1])},
        )
        for h, m, f, name in shapes
    ]


@bottleneck.observe
def look_bottleneck(answer, case):
    inputs, before = fresh(case.tensors, learn=tuple(case.tensors)), fresh(case.tensors)
    y = given(answer(**inputs, f=case.f), torch.Tensor, "`bottleneck`")
    seen = {"output": y.detach().clone(), "changed in place": changed(before, inputs)}
    return seen | gradients(y, inputs, tuple(inputs))


@bottleneck.solution
def by_linear(h, D, a, U, b, f):
    return F.linear(f(F.linear(h, D, a)), U, b)


@bottleneck.solution
def by_matmul(h, D, a, U, b, f):
    inside = f(h @ D.T + a)
    return inside @ U.T + b


@bottleneck.solution
def by_einsum(h, D, a, U, b, f):
    return torch.einsum("dm,...m->...d", U, f(torch.einsum("md,...d->...m", D, h) + a)) + b


@bottleneck.solution
def unit_by_unit(h, D, a, U, b, f):
    out = b.expand(h.shape)
    for i in range(len(a)):
        out = out + f((h * D[i]).sum(-1, keepdim=True) + a[i]) * U[:, i]
    return out


@bottleneck.slip("You add h already. Was the sum asked for, or what is to be added?")
def with_h(h, D, a, U, b, f):
    return h + by_linear(h, D, a, U, b, f)


@bottleneck.slip("Without f the two matrices are one product. Where does the non-linearity come in?")
def without_f(h, D, a, U, b, f):
    return F.linear(F.linear(h, D, a), U, b)


@bottleneck.slip("f comes at the end here. At which of the two widths does it act?")
def f_at_the_end(h, D, a, U, b, f):
    return f(F.linear(F.linear(h, D, a), U, b))


@bottleneck.slip("f comes first, before the down-projection. What enters it in the equation?")
def f_at_the_start(h, D, a, U, b, f):
    return F.linear(F.linear(f(h), D, a), U, b)


@bottleneck.slip("f acts twice, in the middle and at the end. After the up-projection, may the adapter no longer subtract?")
def f_twice(h, D, a, U, b, f):
    return f(by_linear(h, D, a, U, b, f))


@bottleneck.slip("Both biases are missing. What does the adapter add where h is zero?")
def no_biases(h, D, a, U, b, f):
    return F.linear(f(F.linear(h, D)), U)


@bottleneck.slip("The bias of the up-projection is missing. How many biases has the equation?")
def no_b(h, D, a, U, b, f):
    return F.linear(f(F.linear(h, D, a)), U)


@bottleneck.slip("The bias of the down-projection is missing. What shifts the place of ReLU's kink?")
def no_a(h, D, a, U, b, f):
    return F.linear(f(F.linear(h, D)), U, b)


@bottleneck.slip("The bias a is added after f. Is it to shift what enters f, or what comes out of it?")
def a_after_f(h, D, a, U, b, f):
    return F.linear(f(F.linear(h, D)) + a, U, b)


@bottleneck.slip("No gradient arrives at D and a. What cuts the way back through f?")
def down_detached(h, D, a, U, b, f):
    return F.linear(f(F.linear(h, D.detach(), a.detach())), U, b)


@bottleneck.slip("One particular non-linearity acts here, whichever is given. What is the argument `f` for?")
def relu_always(h, D, a, U, b, f):
    return by_linear(h, D, a, U, b, torch.relu)


@bottleneck.switched(
    place=("without-f", "f-at-the-end", "f-at-the-start", "f-twice", "relu-always"),
    down=("no-a", "a-after-f"),
    up=("no-b",),
    whole=("with-h",),
)
def with_switches(h, D, a, U, b, f, place="", down="", up="", whole=""):
    low = F.linear(f(h) if place == "f-at-the-start" else h, D, None if down else a)
    if place in ("", "f-twice", "relu-always"):
        low = torch.relu(low) if place == "relu-always" else f(low)
    out = F.linear(low + a if down == "a-after-f" else low, U, None if up else b)
    out = f(out) if place in ("f-at-the-end", "f-twice") else out
    return h + out if whole else out


# ================================================================ the start

start = Exercise(
    "adapter-start",
    lesson=LESSON,
    title="The start: nearly nothing",
    signature="adapter_start(d, m)",
    why="A frozen model that is disturbed before it has learnt anything has to be repaired first.",
    points=1,
    minutes=6,
    difficulty=2,
    hints=[
        "Each bias may start at zero.",
        "Not everything may be zero: which gradients arrive when D *and* U are zero?",
        "Either both matrices are small and random, or U is zero and D is random: both fulfil the wishes.",
    ],
)


@start.cases
def start_cases(seed):
    return [Case(f"`d = {d}`, `m = {m}`", d=d, m=m, seed=seed) for d, m in ((96, 24), (48, 6), (384, 48))]


def _four(value):
    given(value, (tuple, list), "`adapter_start`")
    if len(value) != 4:
        raise Unexpected(f"`adapter_start` gave {len(value)} things; expected four: D, a, U, b.")
    return [given(t, torch.Tensor, "`adapter_start`").detach().double() for t in value]


@start.observe
def look_start(answer, case):
    parts = _four(answer(case.d, case.m))
    seen = {f"shape of {n}": str(tuple(t.shape)) for n, t in zip("DaUb", parts)}
    if [tuple(t.shape) for t in parts] != [(case.m, case.d), (case.m,), (case.d, case.m), (case.d,)]:
        return seen
    h = draws(case.seed)(32, case.d)
    D, a, U, b = (t.clone().requires_grad_() for t in parts)
    added = F.linear(F.silu(F.linear(h, D, a)), U, b)
    share = float(added.norm() / h.norm())
    seen["what is added is less than a tenth of h"] = share < 0.1
    seen["_share"] = share
    target = draws(case.seed + 1)(32, case.d)
    (added - target).square().mean().backward()
    seen["a gradient reaches D or U"] = bool(D.grad.any()) or bool(U.grad.any())
    seen["D is zero"] = not bool(parts[0].any())
    seen["all rows of D are alike"] = bool((parts[0] == parts[0][0]).all())
    seen["the biases are zero"] = not bool(parts[1].any() or parts[3].any())
    seen["a second call draws others"] = not torch.equal(_four(answer(case.d, case.m))[0], parts[0])
    return seen


@start.evidence
def how_large(cases, seen, expected):
    for case, one in zip(cases, seen):
        if one.get("_share", 0) >= 0.1:
            return f"At `d = {case.d}` and `m = {case.m}` what you add has {one['_share']:.1f} times the size of h."


@start.solution
def both_small(d, m):
    return 0.02 * torch.randn(m, d), torch.zeros(m), 0.02 * torch.randn(d, m), torch.zeros(d)


@start.solution
def up_zero(d, m):
    return torch.randn(m, d) / d**0.5, torch.zeros(m), torch.zeros(d, m), torch.zeros(d)


@start.solution
def by_layers(d, m):
    down, up = nn.Linear(d, m), nn.Linear(m, d)
    for part in (up.weight, up.bias, down.bias):
        nn.init.zeros_(part)
    return down.weight, down.bias, up.weight, up.bias


@start.solution
def uniform(d, m):
    D, U = ((torch.rand(shape) - 0.5) / 20 for shape in ((m, d), (d, m)))
    return D, D.new_zeros(m), U, U.new_zeros(d)


@start.slip("The model is disturbed before the first step: what you add is not small beside h. Which factor is missing?")
def not_small(d, m):
    return torch.randn(m, d), torch.zeros(m), torch.randn(d, m), torch.zeros(d)


@start.slip("D and U are both zero: nothing is added, and no gradient reaches either. Who is to take the first step?")
def both_zero(d, m):
    return torch.zeros(m, d), torch.zeros(m), torch.zeros(d, m), torch.zeros(d)


@start.slip(
    "Here D is zero and U is random. The output is right; but after the first step, what distinguishes your start from "
    "LoRA's in which the matrix that reads the input is random?"
)
def down_zero(d, m):
    return torch.zeros(m, d), torch.zeros(m), 0.02 * torch.randn(d, m), torch.zeros(d)


@start.slip(
    "All rows of D are alike, so the m units do the same thing. What will make them differ, if they start as one?"
)
def all_alike(d, m):
    return torch.full((m, d), 0.01) * torch.randn(1), torch.zeros(m), torch.zeros(d, m), torch.zeros(d)


@start.slip("The shapes of D and U are swapped. A weight is written (what leaves, what enters): which is that for D?")
def swapped_shapes(d, m):
    D, a, U, b = both_small(d, m)
    return U, a, D, b


@start.slip("The biases are swapped. Which of them is added when there are m numbers?")
def swapped_biases(d, m):
    D, a, U, b = both_small(d, m)
    return D, b, U, a


@start.slip("The bias of the up-projection starts at random and moves every h before anything is learnt. What should it be?")
def random_bias(d, m):
    D, a, U, _ = up_zero(d, m)
    return D, a, U, torch.randn(d)


@start.slip("Each call gives the same numbers. What would two adapters in one model have in common then?")
def same_each_time(d, m):
    D = 0.02 * torch.randn(m, d, generator=torch.Generator().manual_seed(0))
    return D, torch.zeros(m), torch.zeros(d, m), torch.zeros(d)


# ================================================================ three places

places = Exercise(
    "adapter-places",
    lesson=LESSON,
    title="Three places in a block",
    signature="block(x, attention, feed_forward, one, two, how)",
    why="Three papers, three names, and a few lines of difference.",
    points=2,
    parts=[
        Part("Houlsby's places are", 1, cases=lambda case: case.how == "houlsby"),
        Part("Pfeiffer's is", 0.5, cases=lambda case: case.how == "pfeiffer"),
        Part("the parallel one is", 0.5, cases=lambda case: case.how == "parallel"),
    ],
    minutes=10,
    difficulty=2,
    hints=[
        "Without adapters the block is two lines: to x is added what the attention makes of it, then what the feed-forward part makes of the sum.",
        "For Houlsby keep what the attention gives in a name of its own: the adapter reads *that*, not the sum.",
        "For Pfeiffer the whole block runs first, and the adapter reads what it returns.",
        "For the parallel adapter `feed_forward` and `two` read the same thing.",
    ],
)


@places.cases
def places_cases(seed):
    draw, cases = draws(seed + 20), []
    for i, how in enumerate(("houlsby", "pfeiffer", "parallel", "houlsby", "pfeiffer", "parallel")):
        d = 4 + i
        shape = (3, d) if i < 3 else (2, 3, d)
        names = ("attention", "feed_forward", "one", "two")
        cases.append(
            Case(
                f'`how = "{how}"`, `x` of shape {shape}',
                how=how,
                x=draw(*shape),
                parts={n: (draw(d, d) / 2, draw(d)) for n in names},
            )
        )
    return cases


@places.observe
def look_places(answer, case):
    called = []

    def part(name):
        W, b = case.parts[name]

        def run(x):
            called.append(name)
            return torch.tanh(x @ W.T + b) if name in ("attention", "feed_forward") else torch.relu(x @ W.T + b)

        return run

    x = case.x.clone()
    y = given(answer(x, *(part(n) for n in case.parts), case.how), torch.Tensor, "`block`")
    return {
        "parts that ran": sorted(called),
        "output": y.detach(),
        "changed in place": changed({"x": case.x}, {"x": x}),
    }


@places.solution
def one_after_the_other(x, attention, feed_forward, one, two, how):
    h = attention(x)
    x = x + h + (one(h) if how == "houlsby" else 0)
    h = feed_forward(x)
    if how == "houlsby":
        return x + h + two(h)
    if how == "parallel":
        return x + h + two(x)
    return x + h + two(x + h)


@places.solution
def wrapped(x, attention, feed_forward, one, two, how):
    def behind(layer, adapter):
        def run(x):
            h = layer(x)
            return h + adapter(h)

        return run

    if how == "houlsby":
        attention, feed_forward = behind(attention, one), behind(feed_forward, two)
    x = x + attention(x)
    y = x + feed_forward(x)
    return y + {"houlsby": lambda: 0, "pfeiffer": lambda: two(y), "parallel": lambda: two(x)}[how]()


@places.solution
def three_branches(x, attention, feed_forward, one, two, how):
    if how == "houlsby":
        h = attention(x)
        x = x + (h + one(h))
        h = feed_forward(x)
        return x + (h + two(h))
    x = x + attention(x)
    if how == "parallel":
        return x + (feed_forward(x) + two(x))
    x = x + feed_forward(x)
    return x + two(x)


@places.slip("Both of Houlsby's adapters are added at the end. What does the feed-forward part read, once the first one is there?")
def both_at_the_end(x, attention, feed_forward, one, two, how):
    if how != "houlsby":
        return one_after_the_other(x, attention, feed_forward, one, two, how)
    a = attention(x)
    h = feed_forward(x + a)
    return x + a + h + one(a) + two(h)


@places.slip(
    "For Houlsby the adapter reads the sum with the residual. What reads it in the picture: the sum, or what the layer gave?"
)
def houlsby_after_residual(x, attention, feed_forward, one, two, how):
    if how != "houlsby":
        return three_branches(x, attention, feed_forward, one, two, how)
    x = x + attention(x)
    x = x + one(x)
    x = x + feed_forward(x)
    return x + two(x)


@places.slip("Houlsby has one adapter here, behind the feed-forward part. How many has it in the picture?")
def houlsby_one(x, attention, feed_forward, one, two, how):
    if how != "houlsby":
        return three_branches(x, attention, feed_forward, one, two, how)
    x = x + attention(x)
    h = feed_forward(x)
    return x + h + two(h)


@places.slip(
    "For Pfeiffer the adapter reads what the feed-forward part gave, without the residual. What does the whole block return?"
)
def pfeiffer_before_residual(x, attention, feed_forward, one, two, how):
    if how != "pfeiffer":
        return three_branches(x, attention, feed_forward, one, two, how)
    x = x + attention(x)
    h = feed_forward(x)
    return x + h + two(h)


@places.slip(
    "For `parallel` the adapter reads what the feed-forward part gave. What stands *beside* it, and reads what it reads?"
)
def parallel_behind(x, attention, feed_forward, one, two, how):
    if how != "parallel":
        return three_branches(x, attention, feed_forward, one, two, how)
    x = x + attention(x)
    h = feed_forward(x)
    return x + h + two(h)


@places.slip(
    "The parallel adapter reads the block's input. Which x does the feed-forward part read: before or after the attention?"
)
def parallel_reads_too_early(x, attention, feed_forward, one, two, how):
    if how != "parallel":
        return three_branches(x, attention, feed_forward, one, two, how)
    y = x + attention(x)
    return y + feed_forward(y) + two(x)


@places.slip("The adapters replace what they read. Where is h, the residual connection?")
def replaced(x, attention, feed_forward, one, two, how):
    h = attention(x)
    x = x + (one(h) if how == "houlsby" else h)
    h = feed_forward(x)
    return {"houlsby": lambda: x + two(h), "pfeiffer": lambda: two(x + h), "parallel": lambda: x + two(x)}[how]()


@places.slip("The block's own residual connections are gone. What is x added to, with or without adapters?")
def no_residuals(x, attention, feed_forward, one, two, how):
    h = attention(x)
    x = h + (one(h) if how == "houlsby" else 0)
    h = feed_forward(x)
    return h + two(x if how == "parallel" else h)


@places.slip("An adapter stands behind the attention in all three. Which of the three has one there?")
def one_everywhere(x, attention, feed_forward, one, two, how):
    h = attention(x)
    x = x + h + one(h)
    h = feed_forward(x)
    return x + h + two({"houlsby": h, "parallel": x, "pfeiffer": x + h}[how])


@places.slip("The two adapters have changed places. Which of them stands behind the attention?")
def swapped(x, attention, feed_forward, one, two, how):
    return three_branches(x, attention, feed_forward, two, one, how)


@places.slip("Your block does the same whatever `how` says. What differs between the three?")
def houlsby_always(x, attention, feed_forward, one, two, how):
    return three_branches(x, attention, feed_forward, one, two, "houlsby")


@places.slip(
    "The parallel adapter reads what Pfeiffer's reads: the sum behind the feed-forward part. What stands *beside* that part, and "
    "reads what it reads?"
)
def parallel_as_pfeiffer(x, attention, feed_forward, one, two, how):
    return three_branches(x, attention, feed_forward, one, two, "pfeiffer" if how == "parallel" else how)


@places.slip(
    "Every adapter reads the sum it stands behind, in all three. That is so for one of them: what do the adapters of the other two "
    "read in the picture?"
)
def on_the_sum_everywhere(x, attention, feed_forward, one, two, how):
    x = x + attention(x)
    x = x + (one(x) if how == "houlsby" else 0)
    x = x + feed_forward(x)
    return x + two(x)


@places.slip(
    "In all three the last adapter reads what the feed-forward part gave. For which of them does the picture say so?"
)
def two_reads_h(x, attention, feed_forward, one, two, how):
    h = attention(x)
    x = x + h + (one(h) if how == "houlsby" else 0)
    h = feed_forward(x)
    return x + h + two(h)


@places.slip("Houlsby's adapters replace what the two layers gave. `one` and `two` return what is to be added: where is h?")
def houlsby_replaced(x, attention, feed_forward, one, two, how):
    if how != "houlsby":
        return three_branches(x, attention, feed_forward, one, two, how)
    x = x + one(attention(x))
    return x + two(feed_forward(x))


# ================================================================ is it affine

affine = Exercise(
    "adapter-affine",
    lesson=LESSON,
    title="Ask whether it can be merged",
    signature="nonlinearity(f, x, y)",
    why="It decides for every method of this course whether it can be merged, without a look at its formula.",
    points=2,
    minutes=8,
    difficulty=2,
    hints=[
        "A linear function gives the sum of the outputs for the sum of the inputs.",
        "With a bias c that is off: f(x + y) holds one c. How many hold f(x) and f(y) together?",
        "f(0) tells you c. Put it back where it is missing, and every function W x + c comes out at zero.",
        "At the end the norm: the root of the sum of the squares.",
    ],
)


@affine.cases
def affine_cases(seed):
    draw = draws(seed + 40)
    W, c, V = draw(5, 4), draw(5), draw(5, 4)
    D, U = draw(3, 5), draw(5, 3)
    functions = {
        "a linear layer without a bias": lambda x: x @ W.T,
        "a linear layer with a bias": lambda x: x @ W.T + c,
        "the same and an adapter with relu": lambda x: x @ W.T + c + torch.relu((x @ W.T + c) @ D.T) @ U.T,
        "a function with a square in it": lambda x: x @ W.T + c + (x @ V.T) ** 2,
        "a function that is even": lambda x: c + (x @ V.T).abs(),
    }
    shapes = [(4,), (3, 4), (2, 3, 4), (4,), (6, 4)]
    cases = [
        Case(f"{name}, `x` of shape {s}", f=f, x=draw(*s), y=draw(*s))
        for (name, f), s in zip(functions.items(), shapes)
    ]
    single = V.float()
    return [
        *cases,
        Case("a function of single precision", f=lambda x: (x @ single.T) ** 2, x=draw(5, 4).float(), y=draw(5, 4).float()),
    ]


@affine.observe
def look_affine(answer, case):
    x, y = case.x.clone(), case.y.clone()
    made = given(answer(case.f, x, y), (float, int, torch.Tensor), "`nonlinearity`")
    if isinstance(made, bool):
        raise Unexpected("`nonlinearity` gave yes or no; expected a number, the norm of the difference.")
    if isinstance(made, torch.Tensor) and made.numel() != 1:
        raise Unexpected(
            f"`nonlinearity` gave a tensor of shape {tuple(made.shape)}; expected one number, the norm of the difference."
        )
    made = float(made)
    size = float(case.f(case.x).norm())
    single = case.x.dtype == torch.float32
    return {
        "is zero, up to rounding": abs(made) < (1e-5 if single else 1e-9) * size,
        "non-linearity, as a share of the norm of f(x)": Near(made / size, 1e-3) if single else round(made / size, 7),
        "changed in place": changed({"x": case.x, "y": case.y}, {"x": x, "y": y}),
    }


@affine.solution
def put_back(f, x, y):
    return (f(x + y) - f(x) - f(y) + f(torch.zeros_like(x))).norm()


@affine.solution
def without_bias_first(f, x, y):
    bias = f(0 * x)

    def g(x):
        return f(x) - bias

    return (g(x + y) - (g(x) + g(y))).square().sum().sqrt().item()


@affine.solution
def two_differences(f, x, y):
    here, there = f(x + y) - f(x), f(y) - f(x - x)  # what y adds at x, and what it adds at zero
    return torch.linalg.vector_norm(here - there)


@affine.slip(
    "A layer with a bias comes out as non-linear. It can be merged, though: how often is its bias in f(x) + f(y), how often in f(x + y)?"
)
def bias_forgotten(f, x, y):
    return (f(x + y) - f(x) - f(y)).norm()


@affine.slip("With the bias it is worse than without. Is f(0) too many in the difference, or is it missing?")
def bias_subtracted(f, x, y):
    return (f(x + y) - f(x) - f(y) - f(torch.zeros_like(x))).norm()


@affine.slip(
    "You double one input, and y plays no part. Which non-linear functions pass when only one direction is tried?"
)
def one_direction(f, x, y):
    return (f(2 * x) - 2 * f(x) + f(torch.zeros_like(x))).norm()


@affine.slip("You turn the sign of x, and y plays no part. What if the function has its kink among positive inputs alone?")
def only_the_sign(f, x, y):
    return (f(x) + f(-x) - 2 * f(torch.zeros_like(x))).norm()


@affine.slip("This is the sum of the squares. What is still to be taken of it?")
def squared(f, x, y):
    return (f(x + y) - f(x) - f(y) + f(torch.zeros_like(x))).square().sum()


@affine.slip("This is the largest entry. Was the largest asked for, or the norm?")
def largest(f, x, y):
    return (f(x + y) - f(x) - f(y) + f(torch.zeros_like(x))).abs().max()


@affine.slip("The entries are added up with their signs. What becomes of one that is up and one that is down?")
def signed_sum(f, x, y):
    return (f(x + y) - f(x) - f(y) + f(torch.zeros_like(x))).sum()


@affine.slip(
    "The norm of each is taken before the difference. Can two vectors of one norm point in different directions?"
)
def sizes_first(f, x, y):
    return (f(x + y) + f(torch.zeros_like(x))).norm() - (f(x) + f(y)).norm()


@affine.slip(
    "The bias is taken off f(x) and off f(y), and f(x + y) keeps its own. Does every function W x + c come out at zero then?"
)
def bias_left_in_the_sum(f, x, y):
    c = f(torch.zeros_like(x))
    return (f(x + y) - (f(x) - c) - (f(y) - c)).norm()


@affine.slip("This is a share of the output. Was a share asked for, or the norm of the difference itself?")
def as_a_part(f, x, y):
    return put_back(f, x, y) / f(x + y).norm()


@affine.slip("The squares are averaged, not added up. What is the norm of a vector?")
def mean_of_squares(f, x, y):
    return (f(x + y) - f(x) - f(y) + f(torch.zeros_like(x))).square().mean().sqrt()


@affine.slip("The absolute values are added up as they are. What is done to each of them before the sum, and to the sum?")
def sum_of_amounts(f, x, y):
    return (f(x + y) - f(x) - f(y) + f(torch.zeros_like(x))).abs().sum()


# ================================================================ the width for a budget

width = Exercise(
    "adapter-width",
    lesson=LESSON,
    title="The widest adapter for a budget",
    signature="adapter_width(budget, d, places)",
    why="A comparison is fair only if both sides may train about as much.",
    points=1,
    minutes=6,
    difficulty=1,
    hints=[
        "One place holds D and U and both biases. Which of these grow with m, and which do not?",
        "So the cost is (something) times m plus (something else), for each place: solve for m.",
        "m is a whole number, and the budget must not be exceeded. Where it does not suffice for m = 1, the answer is 0.",
    ],
)


@width.cases
def width_cases(seed):
    cases = []
    for d, n, m, spare in (
        (96, 6, 5, 100),
        (48, 3, 8 + seed % 5, 0),
        (384, 12, 16, -1),
        (64, 4, 1, -10),
        (32, 1, 40, 31),
        (48, 6, 9, -241),
        (2, 3, 4, 8),
        (64, 4, 1, -600),
    ):
        budget = n * (2 * d * m + m + d) + spare
        cases.append(Case(f"`budget = {budget:,}`, `d = {d}`, `places = {n}`", budget=budget, d=d, places=n))
    return cases


@width.observe
def look_width(answer, case):
    m = given(answer(case.budget, case.d, case.places), (int, float), "`adapter_width`")
    if not isinstance(m, int):
        kind = "a whole number as a float: a width is an `int`" if m == int(m) else "expected a whole number"
        raise Unexpected(f"`adapter_width` gave {m:.6g}; {kind}.")
    return {"m": m}


@width.solution
def solved(budget, d, places):
    return max(0, (budget // places - d) // (2 * d + 1))


@width.solution
def tried(budget, d, places):
    m = 0
    while places * (2 * d * (m + 1) + (m + 1) + d) <= budget:
        m += 1
    return m


@width.solution
def as_a_share(budget, d, places):
    per_place = budget / places
    return int(max(0, per_place - d) / (2 * d + 1))


@width.slip("The biases are not counted. How many parameters does one place train besides D and U?")
def no_biases_counted(budget, d, places):
    return budget // (places * 2 * d)


@width.slip("The bias of the up-projection, d parameters, is not counted. Does it depend on m?")
def no_up_bias(budget, d, places):
    return budget // (places * (2 * d + 1))


@width.slip("The bias of the down-projection, m parameters, is not counted. What shifts what enters f?")
def no_down_bias(budget, d, places):
    return max(0, (budget // places - d) // (2 * d))


@width.slip("You count one matrix. How many does a bottleneck have?")
def one_matrix(budget, d, places):
    return max(0, (budget // places - d) // (d + 1))


@width.slip("The whole budget goes to one place. Among how many is it shared?")
def one_place(budget, d, places):
    return max(0, (budget - d) // (2 * d + 1))


@width.slip("The bias is subtracted once, for all places together. How many places have one?")
def one_bias_for_all(budget, d, places):
    return max(0, (budget - d) // (places * (2 * d + 1)))


@width.slip("You round up, and the budget is exceeded. To which side must a width be rounded here?")
def rounded_up(budget, d, places):
    return max(0, -(-(budget - places * d) // (places * (2 * d + 1))))


@width.slip("A budget too small for m = 1 gives m = 1 here. What is the widest that it does pay for?")
def at_least_one(budget, d, places):
    return max(1, solved(budget, d, places))


@width.slip("You round to the nearest, and the budget is sometimes exceeded. To which side must a width be rounded here?")
def rounded_to_the_nearest(budget, d, places):
    return max(0, round((budget / places - d) / (2 * d + 1)))


@width.slip("A budget that does not even pay for the biases gives a width below zero. What is to come out then?")
def below_zero(budget, d, places):
    return (budget // places - d) // (2 * d + 1)


@width.slip("The bias of the up-projection, d parameters, is counted once for each of the m. How many has one place?")
def up_bias_times_m(budget, d, places):
    return budget // (places * (3 * d + 1))


# ================================================================ how much slower

slowdown = Exercise(
    "adapter-slowdown",
    lesson=LESSON,
    title="How many times the time",
    signature="slowdown(base, adapted, clock, rounds)",
    why="A time depends on the machine and on what else it does. A ratio taken in one breath depends on less.",
    points=2,
    minutes=8,
    difficulty=2,
    hints=[
        "`clock()` tells the time. Ask it before and after a call: the difference is what the call took.",
        "Call each of the two once before you measure: what happens only the first time is not to count.",
        "In each round measure both, `base` first, and divide at once. So a machine that slows down slows both.",
        "Then `statistics.median` of the ratios: one round in which something came in between cannot move it far.",
    ],
)


class Machine:
    """A clock and two functions whose times are known: slow the first time, slower with each call, and one hiccup."""

    def __init__(self, base, adapted, first, drift, hiccup):
        self.now, self.calls, self.first, self.drift, self.hiccup = 0.0, [], first, drift, hiccup
        self.asked = 0
        self.base, self.adapted = self.takes("base", base), self.takes("adapted", adapted)

    def takes(self, name, seconds):
        def run():
            again = self.calls.count(name)
            self.calls.append(name)
            factor = self.first if again == 0 else 1 + self.drift * (len(self.calls) // 2)
            if name == "adapted" and again == self.hiccup:
                factor *= 9
            self.now += seconds * factor

        return run

    def clock(self):
        self.asked += 1
        return self.now


@slowdown.cases
def slowdown_cases(seed):
    plain = 0.8 + 0.1 * (seed % 4)
    return [
        Case("a steady machine", machine=(plain, 1.2, 1, 0, -1), rounds=5),
        Case("a machine whose first call of each takes long", machine=(1.0, 1.5, 30, 0, -1), rounds=5),
        Case("a machine that grows slower with each call", machine=(1.0, 1.3, 1, 0.4, -1), rounds=7),
        Case("a machine that is interrupted once", machine=(2.0, 2.5 + plain, 4, 0.1, 4), rounds=7),
        Case("a machine that grows slower, an even number of rounds", machine=(1.0, 1.3, 1, 0.4, -1), rounds=6),
    ]


@slowdown.observe
def look_slowdown(answer, case):
    machine = Machine(*case.machine)
    ratio = given(answer(machine.base, machine.adapted, machine.clock, case.rounds), (int, float), "`slowdown`")
    calls = f"{machine.calls.count('base')} of `base`, {machine.calls.count('adapted')} of `adapted`"
    seen = {"`clock` was asked": machine.asked > 0, "calls": calls}
    return seen | ({"ratio": float(ratio)} if machine.asked else {})  # by another clock it says nothing


def _time(run, clock):
    begin = clock()
    run()
    return clock() - begin


@slowdown.solution
def median_of_ratios(base, adapted, clock, rounds):
    base()
    adapted()
    ratios = []
    for _ in range(rounds):
        begin = clock()
        base()
        between = clock()
        adapted()
        ratios.append((clock() - between) / (between - begin))
    return statistics.median(ratios)


@slowdown.solution
def with_a_helper(base, adapted, clock, rounds):
    def took(run):
        begin = clock()
        run()
        return clock() - begin

    pairs = [(took(base), took(adapted)) for _ in range(rounds + 1)][1:]
    return statistics.median(after / before for before, after in pairs)


@slowdown.solution
def sorted_by_hand(base, adapted, clock, rounds):
    ratios = []
    for i in range(rounds + 1):
        times = []
        for run in (base, adapted):
            begin = clock()
            run()
            times.append(clock() - begin)
        if i > 0:
            ratios.append(times[1] / times[0])
    ratios.sort()
    return (ratios[(rounds - 1) // 2] + ratios[rounds // 2]) / 2


def _pairs(base, adapted, clock, rounds):
    base()
    adapted()
    return [(_time(base, clock), _time(adapted, clock)) for _ in range(rounds)]


@slowdown.slip("You measured a single round, the very first. What should come before it, and how many were asked for?")
def the_first_round_alone(base, adapted, clock, rounds):
    before, after = _time(base, clock), _time(adapted, clock)
    return after / before


@slowdown.slip("What happens only at the first call counts here. Which calls should come before the measuring?")
def no_warm_up(base, adapted, clock, rounds):
    return statistics.median(a / b for b, a in ((_time(base, clock), _time(adapted, clock)) for _ in range(rounds)))


@slowdown.slip("The ratio is upside down. Which of the two is the yardstick?")
def upside_down(base, adapted, clock, rounds):
    return statistics.median(b / a for b, a in _pairs(base, adapted, clock, rounds))


@slowdown.slip("One interrupted round moves the mean. Which middle does not care how far out a single value lies?")
def mean_of_ratios(base, adapted, clock, rounds):
    return statistics.fmean(a / b for b, a in _pairs(base, adapted, clock, rounds))


@slowdown.slip(
    "All of `base` is measured first, and then all of `adapted`. If the machine slows down meanwhile, whom does it hurt?"
)
def one_then_the_other(base, adapted, clock, rounds):
    base()
    adapted()
    before = [_time(base, clock) for _ in range(rounds)]
    after = [_time(adapted, clock) for _ in range(rounds)]
    return statistics.median(a / b for b, a in zip(before, after))


@slowdown.slip("You divide the two sums. How much does one interrupted round weigh in a sum?")
def ratio_of_sums(base, adapted, clock, rounds):
    pairs = _pairs(base, adapted, clock, rounds)
    return sum(a for _, a in pairs) / sum(b for b, _ in pairs)


@slowdown.slip("This is a difference of times. In which unit is it, and what would it be on a machine twice as fast?")
def difference_of_times(base, adapted, clock, rounds):
    return statistics.median(a - b for b, a in _pairs(base, adapted, clock, rounds))


@slowdown.slip("This is the share that is added. How many *times* the time was asked for?")
def share_added(base, adapted, clock, rounds):
    return median_of_ratios(base, adapted, clock, rounds) - 1


@slowdown.slip("Only one round is measured. What if that is the one in which something came in between?")
def one_round(base, adapted, clock, rounds):
    return median_of_ratios(base, adapted, clock, 1)


@slowdown.slip("You take the round with the best ratio. If rounds scatter both ways, is the luckiest one fair?")
def best_round(base, adapted, clock, rounds):
    return min(a / b for b, a in _pairs(base, adapted, clock, rounds))


@slowdown.slip("With an even number of rounds you take one of the two in the middle. What is the median of four numbers?")
def one_of_the_two_in_the_middle(base, adapted, clock, rounds):
    return sorted(a / b for b, a in _pairs(base, adapted, clock, rounds))[rounds // 2]


@slowdown.slip("You take the ratio of the middle round. In which order must the ratios stand before the one in the middle is the median?")
def middle_round(base, adapted, clock, rounds):
    ratios = [a / b for b, a in _pairs(base, adapted, clock, rounds)]
    return (ratios[(rounds - 1) // 2] + ratios[rounds // 2]) / 2


@slowdown.slip("You took the time from another clock. Which one were you given?")
def another_clock(base, adapted, clock, rounds):
    return median_of_ratios(base, adapted, time.perf_counter, rounds)


@slowdown.slip(
    "You divide two medians. They may come from different rounds: what if the machine was slower in one of them than in the other?"
)
def ratio_of_medians(base, adapted, clock, rounds):
    pairs = _pairs(base, adapted, clock, rounds)
    return statistics.median(a for _, a in pairs) / statistics.median(b for b, _ in pairs)


@slowdown.slip("`adapted` comes first in each round. On a machine that grows slower, whom does that favour, and what was asked for?")
def adapted_first(base, adapted, clock, rounds):
    pairs = _pairs(adapted, base, clock, rounds)
    return statistics.median(a / b for a, b in pairs)


@slowdown.slip("You divide what the clock shows. What must be taken from a time on a clock before it says how long something took?")
def clock_by_clock(base, adapted, clock, rounds):
    base()
    adapted()
    ratios = []
    for _ in range(rounds):
        base()
        between = clock()
        adapted()
        ratios.append(clock() / between)
    return statistics.median(ratios)


@slowdown.slip("This is the time of both together. Between which two calls does the clock have to be asked as well?")
def both_together(base, adapted, clock, rounds):
    base()
    adapted()
    return statistics.median(_time(lambda: (base(), adapted()), clock) for _ in range(rounds))


@slowdown.slip("Each is measured in one stretch, and no median is taken. What does one interruption do to such a stretch?")
def two_stretches(base, adapted, clock, rounds):
    base()
    adapted()
    before = _time(lambda: [base() for _ in range(rounds)], clock)
    return _time(lambda: [adapted() for _ in range(rounds)], clock) / before


# ================================================================ fusion

fusion = Exercise(
    "adapter-fusion",
    lesson=LESSON,
    title="Which adapter, how much",
    signature="fuse(h, outputs, Q, K, V)",
    dims={"h": "... d", "outputs": "N ... d", "Q": "d d", "K": "d d", "V": "d d"},
    why="Adapters add new computation, so several can stand side by side, and something small can learn to choose.",
    points=2,
    parts=[
        Part("the attention weights are", 1, ("shape of the attention weights", "the attention weights", "attention weights")),
        Part("what replaces h is", 1, ("shape of what replaces h", "what replaces h", "gradient of"), needs="the attention weights are"),
    ],
    minutes=10,
    difficulty=3,
    hints=[
        "One query for each h, `F.linear(h, Q)`; one key and one value for each adapter's output.",
        "A score is the sum over d of query times key. `outputs` has the adapters first, so the scores come as (n, ...).",
        "The softmax runs over the adapters. Which dimension is that?",
        "Each value is multiplied by its weight, with a dimension added at the end, and the n products are added up.",
    ],
)


@fusion.cases
def fusion_cases(seed):
    draw = draws(seed + 60)
    cases = []
    for n, shape in ((2, (5,)), (3, (4, 3)), (3, (2, 3, 4))):
        d = shape[-1]
        tensors = {"h": draw(*shape), "outputs": draw(n, *shape)}
        tensors |= {name: draw(d, d) / d**0.5 for name in "QKV"}
        cases.append(Case(f"{n} adapters, `h` of shape {shape}", tensors=tensors))
    return cases


@fusion.observe
def look_fusion(answer, case):
    inputs, before = fresh(case.tensors, learn=("Q", "K", "V")), fresh(case.tensors)
    out = given(answer(**inputs), (tuple, list), "`fuse`")
    if len(out) != 2:
        raise Unexpected(f"`fuse` gave {len(out)} things; expected two: what replaces h, and the attention weights.")
    made, weights = (given(t, torch.Tensor, "`fuse`") for t in out)
    mixed, weights = made.detach().clone(), weights.detach()
    n, shape = len(case.tensors["outputs"]), case.tensors["h"].shape
    seen = {"shape of the attention weights": str(tuple(weights.shape)), "shape of what replaces h": str(tuple(mixed.shape))}
    if weights.shape == (n, *shape[:-1]):
        seen["the attention weights of one h add up to"] = (
            "one" if torch.allclose(weights.sum(0), torch.ones_like(weights[0])) else "something else"
        )
    seen |= {"attention weights": weights, "what replaces h": mixed, "changed in place": changed(before, inputs)}
    return seen | gradients(made, inputs, ("Q", "K", "V"))


@fusion.solution
def step_by_step(h, outputs, Q, K, V):
    scores = (F.linear(h, Q) * F.linear(outputs, K)).sum(-1)
    weights = scores.softmax(0)
    return (weights.unsqueeze(-1) * F.linear(outputs, V)).sum(0), weights


@fusion.solution
def with_einsum(h, outputs, Q, K, V):
    weights = torch.einsum("...e,n...e->n...", h @ Q.T, outputs @ K.T).softmax(dim=0)
    return torch.einsum("n...,n...d->...d", weights, outputs) @ V.T, weights


@fusion.solution
def one_adapter_at_a_time(h, outputs, Q, K, V):
    query = h @ Q.T
    strength = torch.stack([(query * (o @ K.T)).sum(-1) for o in outputs]).exp()
    weights = strength / strength.sum(0)
    mixed = torch.zeros_like(h)
    for w, o in zip(weights, outputs):
        mixed = mixed + w[..., None] * (o @ V.T)
    return mixed, weights


@fusion.slip(
    "The attention weights of one h over all adapters should add up to one. Along which dimension does your softmax run?"
)
def softmax_over_the_wrong_one(h, outputs, Q, K, V):
    scores = (F.linear(h, Q) * F.linear(outputs, K)).sum(-1)
    weights = scores.softmax(-1)
    return (weights.unsqueeze(-1) * F.linear(outputs, V)).sum(0), weights


@fusion.slip("There is no softmax: scores may be negative. What makes attention weights of them?")
def no_softmax(h, outputs, Q, K, V):
    weights = (F.linear(h, Q) * F.linear(outputs, K)).sum(-1)
    return (weights.unsqueeze(-1) * F.linear(outputs, V)).sum(0), weights


@fusion.slip("The weights are right, but V plays no part. What is it that is mixed?")
def no_values(h, outputs, Q, K, V):
    weights = step_by_step(h, outputs, Q, K, V)[1]
    return (weights.unsqueeze(-1) * outputs).sum(0), weights


@fusion.slip("Q and K have changed places. Which of the two reads h?")
def swapped_q_and_k(h, outputs, Q, K, V):
    return step_by_step(h, outputs, K, Q, V)


@fusion.slip(
    "The matrices are used transposed. A weight is (what leaves, what enters): what does `F.linear` make of that?"
)
def transposed(h, outputs, Q, K, V):
    return step_by_step(h, outputs, Q.T, K.T, V.T)


@fusion.slip("The scores are divided by the root of d, as in the attention you know. Does the equation here say so?")
def divided_by_the_root(h, outputs, Q, K, V):
    return step_by_step(h, outputs, Q / h.shape[-1] ** 0.5, K, V)


@fusion.slip("h is added once more. The adapters' outputs hold it already: how often is it in the sum?")
def h_added(h, outputs, Q, K, V):
    mixed, weights = step_by_step(h, outputs, Q, K, V)
    return h + mixed, weights


@fusion.slip("All adapters count alike, whatever h is. What did the query have to say?")
def plain_mean(h, outputs, Q, K, V):
    weights = torch.full(outputs.shape[:-1], 1 / len(outputs), dtype=h.dtype)
    return (weights.unsqueeze(-1) * F.linear(outputs, V)).sum(0), weights


@fusion.slip("Only the adapter with the highest score counts, and such a choice has no gradient. How could Q and K learn from that?")
def hard_choice(h, outputs, Q, K, V):
    scores = (F.linear(h, Q) * F.linear(outputs, K)).sum(-1)
    weights = F.one_hot(scores.argmax(0), len(outputs)).movedim(-1, 0).to(h.dtype)
    return (weights.unsqueeze(-1) * F.linear(outputs, V)).sum(0), weights


@fusion.slip("What you mix is h itself, whatever the adapters gave. What do the values read?")
def values_from_h(h, outputs, Q, K, V):
    weights = step_by_step(h, outputs, Q, K, V)[1]
    return (weights.unsqueeze(-1) * F.linear(h, V)).sum(0), weights


@fusion.slip("The two things come in the other order. Which was asked for first?")
def weights_first(h, outputs, Q, K, V):
    return step_by_step(h, outputs, Q, K, V)[::-1]


@fusion.slip("The weighted values are averaged over the adapters. The weights add up to one already: what is left to divide by?")
def averaged_once_more(h, outputs, Q, K, V):
    mixed, weights = step_by_step(h, outputs, Q, K, V)
    return mixed / len(outputs), weights


@fusion.slip("The weights are right, and what you mix is weighted by none of them. What are they for?")
def weights_unused(h, outputs, Q, K, V):
    return F.linear(outputs, V).mean(0), step_by_step(h, outputs, Q, K, V)[1]


@fusion.slip("Every number has a weight of its own. A score is one number for each adapter: over what is it summed?")
def no_sum_over_d(h, outputs, Q, K, V):
    weights = (F.linear(h, Q) * F.linear(outputs, K)).softmax(0)
    return (weights * F.linear(outputs, V)).sum(0), weights


@fusion.slip("Each weight is found by itself, without the others. What makes the weights of one h add up to one?")
def by_sigmoid(h, outputs, Q, K, V):
    weights = (F.linear(h, Q) * F.linear(outputs, K)).sum(-1).sigmoid()
    return (weights.unsqueeze(-1) * F.linear(outputs, V)).sum(0), weights


@fusion.slip("The numbers are right, and no gradient reaches Q and K. What in your code cuts the graph between the scores and the result?")
def weights_detached(h, outputs, Q, K, V):
    weights = step_by_step(h, outputs, Q, K, V)[1].detach()
    return (weights.unsqueeze(-1) * F.linear(outputs, V)).sum(0), weights


@fusion.slip("Two things: V plays no part, and the scores are divided by the root of d. What is it that is mixed, and what does the equation divide by?")
def no_values_and_the_root(h, outputs, Q, K, V):
    return no_values(h, outputs, Q / h.shape[-1] ** 0.5, K, V)


@fusion.slip("Two things: your softmax runs along the wrong dimension, and the scores are divided by the root of d. What should add up to one?")
def wrong_softmax_and_the_root(h, outputs, Q, K, V):
    return softmax_over_the_wrong_one(h, outputs, Q / h.shape[-1] ** 0.5, K, V)


@fusion.slip("h is taken off the outputs first. What do keys and values read in the equation: what each adapter adds, or what it made of h?")
def additions_alone(h, outputs, Q, K, V):
    return step_by_step(h, outputs - h, Q, K, V)
