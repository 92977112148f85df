# %% [markdown]
# # 05 Adapters
#
# **85 minutes** of reading and doing, **120 seconds** of computing on two quiet cores. Before this: lesson 03. Lesson 01 helps. Terms: the [glossary](../docs/glossary.md).
#
# LoRA changes weights. The bottleneck adapters of this page, older than LoRA, leave them alone and add *new computation*: a small network inside every
# block. After this page you will have built it and put it in three places. You will have asked a function whether it can be merged into
# a weight, and it will have said no; counted and measured what that costs; and compared with LoRA at equal size, over seeds.

# %%
import json
import statistics
import sys
import time
import warnings

import peft
import torch
import torch.nn.functional as F
from torch import nn
from transformers import XLMRobertaConfig, XLMRobertaModel

import peftlab as pl
from peftlab.classroom import check, predict
from peftlab.lab import figures, polyglot, records, widgets
from peftlab.lab.sources import ROOT
from peftlab.lab.sweeps import best_rates, complete, interval
from peftlab.lab.training import answers, train
from peftlab.methods import Houlsby, LoRA, ParallelAdapter, Pfeiffer

warnings.filterwarnings("ignore")

# %% [markdown]
# ## Predict

# %%
predict("adapter-merge")

# %% [markdown]
# ## The idea
#
# A **bottleneck adapter** leads what passes through a narrow layer, the bottleneck, and a residual connection adds the result to what passes:
#
# $$h \;\rightarrow\; h + U f(D h + a) + b$$
#
# - $h$, of $d$ numbers, is what passes at some place of a frozen model;
# - $D$, $m \times d$, is the down-projection, to $m$ numbers, and $U$, $d \times m$, the up-projection; $a$ and $b$ are their biases. These four are trained;
# - $m$ is the width of the bottleneck, small beside $d$; some write $d / m$ instead, the **reduction factor**;
# - $f$ is a **non-linearity**, a function that is not of the form $W x + c$, applied entry by entry: ReLU or SiLU. All that sets this page apart from lesson 03 hangs on it.
#
# Which place? Three papers, three answers. Read each column from below: the block's input x enters, and every plus is a residual connection, where a branch is added to the straight line.
# Each of the two layers reads through a norm, and the norm is part of its branch.

# %% tags=["hide-source"]
figures.show(
    figures.adapter_places(),
    alt="Three drawings of one transformer block with attention and feed-forward part, each behind a norm and on a branch that is "
    "added back. Houlsby: an adapter, with its own residual connection, behind each of the two, before the branch is added. "
    "Pfeiffer: one adapter behind the whole block. Parallel: one adapter on a branch of its own beside norm and feed-forward part.",
)

# %% [markdown]
# ## Build it
#
# ### 1. The bottleneck
#
# {{adapter-bottleneck}}
#
# Write `bottleneck(h, D, a, U, b, f)`: what the adapter adds, without h itself. `h` may have any number of leading dimensions.


# %%
def bottleneck(h, D, a, U, b, f):
    """U f(D h + a) + b, of the shape of h, (..., d)."""
    ### BEGIN SOLUTION
    return F.linear(f(F.linear(h, D, a)), U, b)
    ### END SOLUTION


# %%
check("adapter-bottleneck", bottleneck)

# %% [markdown]
# ### 2. The start
#
# {{adapter-start}}
#
# Write `adapter_start(d, m)`, which returns `D`, `a`, `U` and `b` as they stand before the first step. The wishes of lesson 03 again: at the start the
# model should answer as it did, or *nearly* so, and it must be able to learn. The biases start at zero, and `D` is random.


# %%
def adapter_start(d, m):
    """D, (m, d), a, (m,), U, (d, m), and b, (d,): nearly nothing, and ready to learn."""
    ### BEGIN SOLUTION
    return (
        0.02 * torch.randn(m, d),
        torch.zeros(m),
        0.02 * torch.randn(d, m),
        torch.zeros(d),
    )
    ### END SOLUTION


# %%
check("adapter-start", adapter_start)

# %% [markdown]
# How near is near? The package's `Houlsby` is your bottleneck behind two layers of each block of polyglot-350k. Start it with matrices of different
# standard deviation, and look at three things before any training: does the model still count in Spanish, and how large are the gradients that reach `D` and `U`?


# %% tags=["nbval-ignore-output"]
def start_from(adapter, spread):
    """Fill an adapter with random numbers of this standard deviation, or with yours."""
    m, d = adapter.down.weight.shape
    if spread == "yours":
        given = adapter_start(d, m)
    else:
        given = spread * torch.randn(m, d), 0, spread * torch.randn(d, m), 0
    own = adapter.down.weight, adapter.down.bias, adapter.up.weight, adapter.up.bias
    with torch.no_grad():
        for parameter, value in zip(own, given):
            parameter.copy_(torch.as_tensor(value))


model, tokenizer = pl.lab.load_base("polyglot-350k")
pl.attach(model, Houlsby, ["o_proj", "down_proj"], reduction_factor=8)
batch = answers(tokenizer)([polyglot.dataset("it")[i] for i in range(32)])
adapters = [m.adapters["default"] for m in model.modules() if hasattr(m, "adapters")]
starts = {}
for spread in (0, 0.001, 0.02, 0.1, 0.3, 1, "yours"):
    torch.manual_seed(0)
    for adapter in adapters:
        start_from(adapter, spread)
    model.zero_grad()
    model(**batch).loss.backward()
    right = polyglot.accuracy(model, tokenizer, "es")
    of_D = sum(adapter.down.weight.grad.norm().item() for adapter in adapters)
    of_U = sum(adapter.up.weight.grad.norm().item() for adapter in adapters)
    starts[spread] = right, of_D, of_U
    print(f"standard deviation {spread!s:>5}: accuracy in Spanish {right:6.1%}, ", end="")
    print(f"gradient of all D {of_D:6.4f}, of all U {of_U:6.4f}")

# %%
assert starts[0] == (starts[0.001][0], 0, 0), (
    "at zero: as good as before, and no gradient for either"
)
assert min(starts[0.02][1:]) > 0, "both small and random: a gradient for both"
assert max(starts["yours"][1:]) > 0, (
    "yours: a gradient for D or for U, or it never learns"
)
assert abs(starts["yours"][0] - starts[0][0]) < 0.05, (
    "yours: the model still counts in Spanish"
)
assert max(starts[0.3][0], starts[1][0]) < 0.5 * starts[0][0], (
    "too large: Spanish is gone"
)

# %% [markdown]
# With both at zero no gradient reaches either: the gradient of `D` comes back through `U`, and that of `U` is made of what `D` lets through. If yours has `U` at zero and `D` at random, the gradient of `D` is zero
# *now*, as that of `A` was in lesson 03; that of `U` is not, and after one step `U` is not zero any more. From a standard deviation of 0.3 on, what the model could do is gone before it
# has seen an example. In between lies a wide range in which both learn. Houlsby starts there, *near* the base model and not on it; LoRA, and the parallel adapter too, start on it.
#
# ### 3. Three places
#
# {{adapter-places}}
#
# A block without adapters is two steps: `x = x + attention(x)`, then `x = x + feed_forward(x)`. (The norms are inside these functions.) Write
# `block(x, attention, feed_forward, one, two, how)` for `how` in `"houlsby"`, `"pfeiffer"` and `"parallel"`. `one` and `two` are bottlenecks like yours: they
# return what is to be added. Where there is but one adapter, it is `two`.


# %%
def block(x, attention, feed_forward, one, two, how):
    """What a block with adapters returns, of the shape of x."""
    ### BEGIN SOLUTION
    h = attention(x)
    x = x + h + (one(h) if how == "houlsby" else 0)
    h = feed_forward(x)
    if how == "houlsby":
        return x + h + two(h)
    if how == "pfeiffer":
        return x + h + two(x + h)
    return x + h + two(x)
    ### END SOLUTION


# %%
check("adapter-places", block)

# %% [markdown]
# ### 4. Ask whether it can be merged
#
# {{adapter-affine}}
#
# A plain linear layer computes $f(x) = W x + c$, an affine function. Without the bias, $f(x + y)$ would be $f(x) + f(y)$. Write `nonlinearity(f, x, y)`: one number that is zero for
# *every* layer with a weight and a bias, whatever they are: the norm (the root of the sum of squares) of the difference between what f does to the sum and what it does to the two,
# with the bias set right by asking `f` about zero.


# %%
def nonlinearity(f, x, y):
    """How far f is from W x + c at these two inputs, (..., d_in); zero if affine."""
    ### BEGIN SOLUTION
    return (f(x + y) - f(x) - f(y) + f(torch.zeros_like(x))).norm()
    ### END SOLUTION


# %%
check("adapter-affine", nonlinearity)

# %% [markdown]
# Now ask. One linear layer with a bias, four things on it, all with random numbers in them. The last one is an adapter whose `f` does nothing.

# %%
torch.manual_seed(0)
plain = nn.Linear(24, 16)
relu, linear = {"non_linearity": "relu"}, {"non_linearity": "linear"}
asked = {
    "nothing": (None, {}),
    "LoRA": (LoRA, {"r": 4}),
    "adapter, silu": (Houlsby, {"reduction_factor": 4}),
    "adapter, relu": (Houlsby, {"reduction_factor": 4} | relu),
    "adapter, linear": (Houlsby, {"reduction_factor": 4} | linear),
}
x, y = torch.randn(2, 64, 24, dtype=torch.float64)
functions = {}
for name, (method, options) in asked.items():
    model = nn.Sequential(nn.Linear(24, 16)).double()
    model.load_state_dict(
        {f"0.{key}": value for key, value in plain.state_dict().items()}
    )
    if method:
        pl.attach(model, method, ["0"], **options).double()
        for parameter in model[0].adapters.parameters():
            nn.init.normal_(parameter, std=0.5)
    functions[name] = model
    with torch.no_grad():
        share = (nonlinearity(model, x, y) / model(x).norm()).item()
    print(f"{name:16} non-linear by {share:.3f} of its output: ", end="")
    expected = name in ("adapter, silu", "adapter, relu")
    assert (share > 0.05) == expected, (
        f"{name}: should be {'far from' if expected else ''} zero"
    )
    if method is None:
        print("a weight already")
        continue
    try:
        pl.merge(model)
        pl.unmerge(model)
        print("merged")
    except ValueError as error:
        print(str(error).split(":")[0])

# %% [markdown]
# So it is the non-linearity and nothing else. A bottleneck with a linear `f` is a matrix: $h + UDh$, with $h = Wx$, is $(I + UD) W x$, and merges like LoRA. With a non-linearity there is
# no such matrix. You can still ask about the basis vectors, as in lesson 03, and get *a* matrix. It tells the truth exactly where you asked:


# %%
@torch.no_grad()
def by_asking(f, d_in):
    """Weight and bias that f seems to have, by its answers to 0 and the basis vectors."""
    c = f(torch.zeros(d_in, dtype=torch.float64))
    return (f(torch.eye(d_in, dtype=torch.float64)) - c).T, c


basis = torch.eye(24, dtype=torch.float64)
for name in ("LoRA", "adapter, relu"):
    f, (W, c) = functions[name], by_asking(functions[name], 24)
    with torch.no_grad():
        gaps = [(F.linear(z, W, c) - f(z)).norm() / f(z).norm() for z in (basis, x)]
    print(f"{name:14} wrong by {gaps[0]:.3f} of its output where it was asked, ", end="")
    print(f"by {gaps[1]:.3f} elsewhere")
    assert gaps[0] < 1e-12, "where it was asked the matrix is right"
    assert (gaps[1] > 0.05) == (name != "LoRA"), "elsewhere it is right for LoRA alone"

# %% [markdown]
# ### What the non-linearity is good for
#
# It has a price, as you will see. It also buys something. Here are two synthetic tasks for one layer: in one the outputs are changed by a matrix of rank four, the *low-rank* task; in the
# other by a ReLU bottleneck of width four, the *non-linear* one. Who can learn which? LoRA of rank four and an adapter of width four try both. An adapter has biases, and this layer has none: so LoRA tries once
# more with a trained bias, and the adapter once more with a linear `f`, which leaves it its biases and takes the non-linearity alone. The last two rows are computed, not trained: the best matrix of *any* rank,
# by least squares, without and with a bias.

# %% tags=["nbval-ignore-output"]
d = 32
draw = torch.Generator().manual_seed(0)
sizes = (2048, d), (d, d), (4, d), (d, 4)
inputs, W, down, up = (torch.randn(*shape, generator=draw) for shape in sizes)
W, down, up = W / d**0.5, down / d**0.5, up / 2
h = inputs @ W.T
targets = {
    "low-rank": h + h @ down.T @ up.T,
    "non-linear": h + torch.relu(h @ down.T) @ up.T,
}
students = {
    "LoRA": (LoRA, {"r": 4, "lora_alpha": 4}),
    "LoRA and a bias": (LoRA, {"r": 4, "lora_alpha": 4}),
    "linear adapter": (Houlsby, {"reduction_factor": 8} | linear),
    "adapter": (Houlsby, {"reduction_factor": 8} | relu),
}
left, kept = {}, {}
how = {"steps": 300, "lr": 0.03, "batch_size": 256, "progress": False}
for task, target in targets.items():
    rows = [{"x": one, "y": other} for one, other in zip(inputs, target)]
    before = F.mse_loss(h, target).item()
    for name, (method, options) in students.items():
        layer = nn.Sequential(nn.Linear(d, d, bias=True))
        layer[0].weight.data.copy_(W)
        nn.init.zeros_(layer[0].bias)
        torch.manual_seed(0)
        pl.attach(layer, method, ["0"], **options)
        layer[0].bias.requires_grad_(name == "LoRA and a bias")
        snapshots = {}

        def keep(run=None, of=layer[0].adapters["default"], into=snapshots):
            step = run.step if run else 0
            if step % 10 == 0:  # the adapter as it stands, to look at afterwards
                into[step] = {key: p.detach().clone() for key, p in of.named_parameters()}

        keep()
        kept[task, name] = snapshots
        trainable = sum(p.numel() for p in layer.parameters() if p.requires_grad)
        run = train(
            layer,
            rows,
            **how,
            on_step=keep,
            loss=lambda f, b: F.mse_loss(f(b["x"]), b["y"]),
        )
        left[task, name] = statistics.fmean(run.losses[-5:]) / before
        print(f"{task:10} {name:20} {trainable:5} parameters: ", end="")
        print(f"error left {left[task, name]:6.1%}")
    ones = torch.ones(len(inputs), 1)
    for name, given in (
        ("best matrix", inputs),
        ("best matrix and bias", torch.cat([inputs, ones], 1)),
    ):
        solved = given @ torch.linalg.lstsq(given, target).solution
        left[task, name] = F.mse_loss(solved, target).item() / before
        print(
            f"{task:10} {name:20} {'':5} of any rank:  error left {left[task, name]:6.1%}"
        )

# %%
task = "low-rank"
assert max(left[task, name] for name in students) < 0.05, (
    "the low-rank task: all learn it"
)
assert left[task, "best matrix"] < 1e-6, "the low-rank task is a matrix"
task = "non-linear"
assert abs(left[task, "LoRA"] - left[task, "best matrix"]) < 0.02, (
    "rank four does what any rank can"
)
affine = left[task, "best matrix and bias"]
assert 0.05 < affine < 0.6 * left[task, "best matrix"], (
    "the bias takes a large part of the error"
)
for name in ("LoRA and a bias", "linear adapter"):
    assert abs(left[task, name] - affine) < 0.02, f"{name}: with a bias, and no further"
assert left[task, "adapter"] < 0.1 * affine, "the rest takes the non-linearity"

# %% [markdown]
# Take the non-linear task from above. LoRA leaves as much as the best matrix of any rank, so a higher rank would not help. A bias does: it takes more than half of that error, for LoRA and for the linear adapter alike. The gap between LoRA and
# an adapter is in this part the bias that LoRA's layer did not have, and no merit of the adapter's. What then is left, no matrix and no bias can take: the ReLU takes it, with the same trainable parameters as the linear adapter.
# On the low-rank task the adapter comes near to what LoRA does, though it is not linear. Which of the two a real task resembles, the picture of a method does not say.
#
# How does something with a ReLU in it do what is linear? You kept it while it learnt. Each of the four *units*, a row of `D` with its entry of `a`, has its kink at zero: ReLU keeps what is above, and
# makes everything below zero. Here are all inputs as each unit sees them, `D h + a`, with the kink as a line. Drag the step, on either task, or reach the sliders with Tab and use
# the arrow keys; `nonlinearity` is yours.


# %%
def at_the_kink(task, step):
    """What each unit sees, (inputs, 4); the share of it on the fuller side of the kink;
    the non-linearity of the whole layer, as a share of its output."""
    parts = kept[task, "adapter"][step]
    D, a, U, b = (
        parts[f"{part}.{kind}"] for part in ("down", "up") for kind in ("weight", "bias")
    )
    seen = h @ D.T + a
    above = (seen > 0).float().mean(0)

    def f(x):
        return x @ W.T + bottleneck(x @ W.T, D, a, U, b, torch.relu)

    one, other = inputs.chunk(2)
    share = (nonlinearity(f, one, other) / f(one).norm()).item()
    return seen, torch.maximum(above, 1 - above).mean().item(), share


# %% tags=["hide-source"]
def units(task, step):
    seen, one_side, share = at_the_kink(task, step)
    drawn = ""
    for i, values in enumerate((seen / seen.std(0)).T):
        counts = torch.histc(values, 48, -5, 7) / len(values)
        bars = "".join(
            f"<rect x='{60 + 8 * j}' y='{44 * (i + 1) - 160 * c:.1f}' width='7' height='{160 * c:.1f}' "
            f"fill='{figures.PALETTE[0 if j >= 20 else 1]}'/>"
            for j, c in enumerate(counts.tolist())
        )
        drawn += f"<text x='0' y='{44 * i + 36}' font-size='13' fill='currentColor'>unit {i + 1}</text>{bars}"
    told = f"{task} task, step {step}: {one_side:.0%} of the inputs lie on one side of a unit's kink; "
    told += f"the layer is non-linear by {share:.2f} of its output"
    line = "<line x1='220' x2='220' y1='0' y2='178' stroke='currentColor' stroke-dasharray='4'/>"
    foot = "<text x='226' y='192' font-size='13' fill='currentColor'>above: passes</text>"
    foot += "<text x='214' y='192' font-size='13' text-anchor='end' fill='currentColor'>below: set to zero</text>"
    picture = f"<svg role='img' aria-label='{told}' width='460' height='198'>{drawn}{line}{foot}</svg>"
    return f"<p role='status' aria-live='polite'>{told}</p>{picture}"


widgets.explore(
    units, task=("low-rank", list(targets)), step=(0, list(range(0, 301, 10)))
)

# %% tags=["nbval-ignore-output"]
for task in targets:
    for step in (0, 40, 300):
        _, one_side, share = at_the_kink(task, step)
        print(f"{task:10} step {step:3}: {one_side:4.0%} on one side, ", end="")
        print(f"non-linear by {share:.2f}")

# %%
assert at_the_kink("low-rank", 300)[1] > 0.9, (
    "low-rank: nearly all inputs on one side of the kink"
)
assert at_the_kink("non-linear", 300)[1] < 0.6, (
    "non-linear: the kink in the middle of the inputs"
)
fell = at_the_kink("low-rank", 300)[2] / at_the_kink("low-rank", 40)[2]
assert fell < 0.6, "low-rank: less non-linear than it was on the way"

# %% [markdown]
# Both begin with half of the inputs on either side. On the low-rank task the biases push nearly all of them above the kink, where ReLU is a straight line, and the layer becomes less and less non-linear. On the other task the kink stays where it was, in
# the middle of the inputs: there it is used. So an adapter can *learn* to be nearly linear. Nobody tells it to, and within these steps it does not get all the way.
#
# ### 5. The widest adapter for a budget
#
# {{adapter-width}}
#
# Write `adapter_width(budget, d, places)`: the largest `m` for which adapters at so many places, biases and all, have at most `budget` trainable parameters. If not even `m = 1` fits, 0.


# %%
def adapter_width(budget, d, places):
    """The largest width m that fits the budget, or 0."""
    ### BEGIN SOLUTION
    return max(0, (budget // places - d) // (2 * d + 1))
    ### END SOLUTION


# %%
check("adapter-width", adapter_width)

# %% [markdown]
# Adapters, it is said, train more parameters than LoRA. Here is the model behind such numbers, XLM-RoBERTa large, as a mere shape, with the classification head that is always trained.

# %%
shape = XLMRobertaConfig(
    vocab_size=250_002, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
    intermediate_size=4096, max_position_embeddings=514, type_vocab_size=1)  # fmt: skip
with torch.device("meta"):
    large = XLMRobertaModel(shape, add_pooling_layer=False)
head = 1024 * 1024 + 1024 + 3 * 1025
norms = r".*layer\.\d+\.output\.LayerNorm"
size = pl.closed_form
sizes = {
    f"Pfeiffer, reduction factor {factor}": size(
        large, Pfeiffer, norms, reduction_factor=factor
    )
    for factor in (2, 8, 64)
}
for r in (8, 32):
    sizes[f"LoRA on query and value, r = {r}"] = size(
        large, LoRA, ["query", "value"], r=r
    )
sizes["LoRA on every linear layer, r = 32"] = size(large, LoRA, "all-linear", r=32)
for name, count in sizes.items():
    print(f"{name:35} {count:>11,}, with the head {(count + head) / 1e6:6.2f} million")
whole = sum(p.numel() for p in large.parameters()) + head
narrow, wide = (sizes[f"Pfeiffer, reduction factor {factor}"] + head for factor in (8, 2))
print(f"adapters of {narrow / 1e6:.0f} to {wide / 1e6:.0f} million ", end="")
print(f"on a model of {whole / 1e6:.0f} million")
like_lora = adapter_width(sizes["LoRA on query and value, r = 8"], 1024, 24)
print("as wide as LoRA of rank 8 on query and value allows: m =", like_lora)
fewer = sizes["Pfeiffer, reduction factor 64"] < sizes["LoRA on query and value, r = 32"]
assert fewer, "a narrow adapter has fewer trainable parameters than LoRA of a high rank"
assert like_lora == 15, "the widest adapter of 24 places and width 1024 that fits"

# %% [markdown]
# So the size is a setting. Adapters train more parameters than LoRA where somebody chose a wide one beside a low rank.
#
# ## Run it on a real model
#
# The fair question is another one: with *as many trainable parameters*, who learns more? polyglot-350k learns Italian, eighty steps each, with a budget of 11,000 parameters; your `adapter_width` says how wide the adapter may be. Three rows: LoRA on all linear layers; Houlsby's adapter; and as a control the same adapter *without the non-linearity*.
# The learning rate, 0.03 for each of them, was chosen beforehand among two or three by the training loss of a hundred steps; the test set chose nothing. Six seeds, since one would tempt you: a seed sets the start and the batches, and the same seed draws the same batches for all three. So what counts are the *paired differences*, seed by seed.
# Before you run it: what is your order?

# %% tags=["nbval-ignore-output", "heavy"]
behind, a_block, budget = ["o_proj", "down_proj"], r"model\.layers\.\d+", 11_000
wide = {"reduction_factor": 96 / (adapter_width(budget, 96, 6) + 0.5)}  # d // this is m
tried = {
    "LoRA": (LoRA, "all-linear", {"r": 2, "lora_alpha": 4}),
    "Houlsby": (Houlsby, behind, wide),
    "Houlsby, linear": (Houlsby, behind, wide | linear),
}
trained, right = {}, {name: [] for name in tried}
for seed in range(6):
    for name, (method, places, options) in tried.items():
        model, tokenizer = pl.lab.load_base("polyglot-350k")
        torch.manual_seed(seed)
        pl.attach(model, method, places, name="italian", **options)
        how = {"steps": 80, "lr": 0.03, "seed": seed, "progress": False}
        train(model, polyglot.dataset("it"), answers(tokenizer), **how)
        right[name].append(polyglot.accuracy(model, tokenizer, "it"))
        trained[name] = model
for name, accuracies in right.items():
    mean, half = interval(accuracies)
    print(
        f"{name:15} {pl.count(trained[name]).trainable:,} trainable parameters:", end=""
    )
    print(*(f"{one:6.1%}" for one in accuracies), f" mean {mean:.1%} ± {half:.1%}")
gains = {}
for one, other in (("Houlsby", "LoRA"), ("Houlsby", "Houlsby, linear")):
    paired = [a - b for a, b in zip(right[one], right[other])]
    gains[other] = interval(paired)
    print(f"{one} minus {other}:", *(f"{gain:+.1%}" for gain in paired), end="")
    print(f"  mean {gains[other][0]:+.1%} ± {gains[other][1]:.1%}")

# %% tags=["nbval-ignore-output", "heavy", "hide-source"]
figures.show(
    figures.each_seed(
        list(tried),
        {"a seed": list(right.values())},
        "Italian after eighty steps, at most 11,000 trainable parameters",
        "what is trained",
        "accuracy on unseen numbers",
    ),
    alt="A point for each of six seeds, for LoRA, for Houlsby's adapter, and for the same without a non-linearity. LoRA's six points lie near "
    "0.8; those of both adapters lie between 0.4 and 0.6, below all of LoRA's, and overlap.",
)

# %% tags=["heavy"]
counts = [pl.count(model).trainable for model in trained.values()]
assert max(counts) <= budget < 1.05 * min(counts), "equal size, and none above the budget"
assert min(min(ones) for ones in right.values()) > 0.2, "each of them learns some of it"
mean, half = gains["LoRA"]
assert mean + half < 0, "at this size, after eighty steps: LoRA ahead of the adapter"
mean, half = gains["Houlsby, linear"]
assert mean - half < 0.05, "nothing here says that the non-linearity helped by much"

# %% [markdown]
# LoRA was ahead of the adapter in each of the six seeds, and the whole interval lies far from zero: *at this size, after eighty steps*, LoRA learnt more Italian. Why? Not for want of a non-linearity, of course. The linear adapter, which is a LoRA on Houlsby's two layers, is as far behind; what the two have in common is *where* they are, two layers of each block and not all seven, and an `A` that is tied to the frozen weight.
# What the non-linearity itself adds is the last row, and its interval holds zero: for Italian six seeds do not show that it helps, nor that it does harm. Look at the single seeds. One of them alone would have told either story.
#
# One size and one rate are still a special case. Recorded by `peftlab record adapters-by-size`: three budgets, a hundred steps, six seeds, and for each method and budget three rates a factor of two apart, of which the one with the
# lowest training loss counts. A star marks the smallest or the largest of the three.

# %% tags=["nbval-ignore-output"]
by_size = complete(records.load("adapters-by-size"))
at_best = best_rates(by_size, ["method", "budget"], by="train_loss", lowest=True)
called = {"lora": "LoRA", "houlsby": "Houlsby", "houlsby-linear": "Houlsby, linear"}
budgets, reached, ahead = sorted(by_size["budget"].unique()), {}, {}
for size in budgets:
    for key, label in called.items():
        of_one = at_best[(at_best["method"] == key) & (at_best["budget"] == size)]
        grid = by_size[(by_size["method"] == key) & (by_size["budget"] == size)]["lr"]
        rate = of_one["lr"].iloc[0]
        edge = "*" if rate in (grid.min(), grid.max()) else " "
        reached[key, size] = of_one.set_index("seed")["accuracy"].sort_index()
        mean, half = interval(reached[key, size])
        print(f"{label:15} {of_one['trainable'].iloc[0]:7,} {rate:6g}{edge}", end="")
        print(f" Italian {mean:6.1%} ± {half:.1%}")
    for one, other in (("lora", "houlsby"), ("houlsby", "houlsby-linear")):
        mean, half = ahead[one, size] = interval(
            reached[one, size] - reached[other, size]
        )
        print(f"    {called[one]} minus {called[other]}: {mean:+.1%} ± {half:.1%}")
print(f"{by_size['seed'].nunique()} seeds. {records.stamp(by_size)}")

# %% tags=["nbval-ignore-output", "hide-source"]
figures.show(
    figures.intervals(
        [f"{size:,}" for size in budgets],
        {
            label: [interval(reached[key, size]) for size in budgets]
            for key, label in called.items()
        },
        f"Italian by budget, each at its best rate: {by_size['seed'].nunique()} seeds, 95 % intervals",
        "trainable parameters, at most",
        "accuracy on unseen numbers",
    ),
    alt="Accuracy in Italian over three budgets of trainable parameters, with intervals, for LoRA, Houlsby's adapter and the same without a non-linearity. "
    "All three rise with the budget. LoRA lies above both adapters at each budget.",
)

# %%
for size in budgets:
    mean, half = ahead["lora", size]
    assert mean > half, f"{size}: LoRA was ahead of the adapter: look at its line"
    mean, half = ahead["houlsby", size]
    assert abs(mean) < half, f"{size}: the non-linearity could be told: look at its line"

# %% [markdown]
# LoRA is ahead at each budget, in each seed, and every best rate lies inside its three. With more trainable parameters the distance becomes smaller; where it would end, these budgets do not say.
# The non-linearity decides nothing at any of them: each interval holds zero. What was *not* equal is the place, seven layers of each block for LoRA and two for the adapters; and more steps than a hundred were not tried. Within
# that, **capacity**, how much can be fitted at a given size, was no strength of the adapter here.
#
# ## See: the non-linearity, trained
#
# A straight line through the inputs of one layer of your trained models, from one random input to another. A layer that can be merged maps it to a straight line. How far from one is each of yours?

# %% tags=["nbval-ignore-output", "heavy"]
ends = torch.randn(2, 96, generator=torch.Generator().manual_seed(2)) * 3
share = torch.linspace(0, 1, 41)[:, None]
off = {}
for name, model in trained.items():
    layer = model.model.layers[0].self_attn.o_proj
    with torch.no_grad():
        way, (start, end) = layer(ends[0] + share * (ends[1] - ends[0])), layer(ends)
        straight = start + share * (end - start)
        off[name] = ((way - straight).norm(dim=1) / (end - start).norm()).tolist()
    print(f"{name:16} at most {max(off[name]):.4f} of its length off the straight line")

# %% tags=["nbval-ignore-output", "heavy", "hide-source"]
figures.show(
    figures.lines(
        share.flatten().tolist(),
        {name: off[name] for name in ("Houlsby", "Houlsby, linear")},
        "A straight line goes in: how far off does it come out?",
        "how far along the line",
        "distance, as a share of its length",
    ),
    alt="Two curves over the way from one input to another. The linear adapter lies on zero all along; Houlsby's adapter with its "
    "non-linearity leaves the straight line after the start, lies furthest off somewhere in between, and comes back at the end.",
)

# %% tags=["heavy"]
for name in ("LoRA", "Houlsby, linear"):
    assert max(off[name]) < 1e-4, f"{name}: a straight line, to rounding"
assert max(off["Houlsby"]) > 1e-2, "Houlsby: not a straight line"
pl.merge(trained["Houlsby, linear"])
pl.unmerge(trained["Houlsby, linear"])
try:
    pl.merge(trained["Houlsby"])
except ValueError as error:
    print(str(error).split(":")[0])
else:
    raise AssertionError("merging a non-linear adapter must be refused")

# %% [markdown]
# Both ends are hit, as they must be; in between the output leaves the line, since SiLU is curved. No weight and bias can do that, and `merge` refuses.
#
# ## What it costs, for good
#
# What cannot be merged runs beside the model at each call, as long as it is used. Two ways to say how much: count the multiplications, which is exact, and take the time, which is not. A time comes in two kinds: the
# latency, from a question to its answer, and the **throughput**, how much is answered in a second when many questions come at once.
#
# ### 6. How many times the time
#
# {{adapter-slowdown}}
#
# Write `slowdown(base, adapted, clock, rounds)`. `base` and `adapted` are called without arguments, and `clock()` tells the time. Call each once without measuring. Then, in every round,
# time `base` and right after it `adapted`, and take the ratio, adapted to base. Return the median of the ratios.


# %%
def slowdown(base, adapted, clock, rounds):
    """How many times the time of `base` `adapted` takes, the median over the rounds."""
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %%
check("adapter-slowdown", slowdown)

# %% [markdown]
# minilm-l6 reads film sentences: one alone, or sixteen at once. All methods have about as many trainable parameters as LoRA of rank 6 on every linear layer, by your `adapter_width`. First the multiplications for each token, which are the same everywhere.

# %%
reader, reader_tokenizer = pl.lab.load_base("minilm-l6")
allowed = pl.closed_form(reader, LoRA, "all-linear", r=6)
m12, m6 = (adapter_width(allowed, 384, places) for places in (12, 6))
two, one = {"reduction_factor": 384 / (m12 + 0.5)}, {"reduction_factor": 384 / (m6 + 0.5)}
ways = {
    "LoRA, r = 6": (LoRA, "all-linear", {"r": 6}),
    "LoRA, merged": (LoRA, "all-linear", {"r": 6}),
    f"Houlsby, m = {m12}": (Houlsby, ["attention.output.dense", "output.dense"], two),
    f"Pfeiffer, m = {m6}": (Pfeiffer, norms, one),
    f"parallel, m = {m6}": (ParallelAdapter, r".*layer\.\d+\.output", one),
}
sentences = pl.lab.sentiment("movies", "test")["text"][:16]
cut = {"padding": True, "truncation": True, "max_length": 32, "return_tensors": "pt"}
batches = {n: reader_tokenizer(sentences[:n], **cut) for n in (1, 16)}
tokens = batches[16]["input_ids"].numel()
frozen = pl.multiplications(reader, **batches[16])[0]
print(f"the model alone   {frozen / tokens / 1e6:.2f} million multiplications per token")
readers = {}
for name, (method, places, options) in ways.items():
    readers[name], _ = pl.lab.load_base("minilm-l6")
    pl.attach(readers[name], method, places, **options)
    trainable = pl.count(readers[name]).trainable
    if name == "LoRA, merged":
        pl.merge(readers[name])
        pl.detach(readers[name], keep_merged=True)  # the hooks go too
    extra = pl.multiplications(readers[name], **batches[16])[0] - frozen
    print(
        f"{name:17} {trainable:,} trained, {extra / tokens / 1e6:5.2f} million more, ",
        end="",
    )
    print(f"{extra / frozen:.1%}")
    assert (extra == 0) == (name == "LoRA, merged"), (
        f"{name}: only what is merged is free"
    )
    if method is Houlsby:
        assert extra == tokens * 12 * 2 * 384 * m12, "2 d m for each token at each place"

# %% [markdown]
# A bottleneck multiplies $2 d m$ times for each token at each place, as often as its matrices have entries. So at equal size the methods cost about the same multiplications; none is cheaper by nature. Now the times, on this machine, in one run, as a ratio. They will not come out the same twice, and nothing
# on this page depends on them. Look for one thing: is the ratio of times the ratio of multiplications, and is it the same for one sentence as for sixteen?


# %% tags=["nbval-ignore-output", "heavy"]
def reads(model, batch):
    @torch.no_grad()
    def run():
        model(**batch)

    return run


print("times the base model's time    one sentence   sixteen   (multiplications)")
for name, adapted in readers.items():
    adapted.eval()
    ratios = [
        slowdown(reads(reader.eval(), b), reads(adapted, b), time.perf_counter, rounds)
        for b, rounds in ((batches[1], 15), (batches[16], 5))
    ]
    counted = pl.multiplications(adapted, **batches[16])[0] / frozen
    print(f"{name:30} {ratios[0]:12.2f} {ratios[1]:9.2f}   {counted:16.3f}")

# %% [markdown]
# A model that writes makes one pass for each token it writes, with a single token in it, so there the small products weigh most. polyglot-350k writes thirty tokens, with the methods of the budget of 11,000. What does one token
# cost, in multiplications, and in time?

# %% tags=["nbval-ignore-output", "heavy"]
writer, writer_tokenizer = pl.lab.load_base("polyglot-350k")
question = writer_tokenizer(["<es>342="], return_tensors="pt")
a_single_one = {"input_ids": question["input_ids"][:, -1:]}
alone = pl.multiplications(writer, **a_single_one)[0]


def writes(model):
    def run():
        model.generate(**question, min_new_tokens=30, max_new_tokens=30, do_sample=False)

    return run


more = {}
print(f"{'':14} trained   multiplications per generated token   times the time")
single = {"reduction_factor": 96 / (adapter_width(budget, 96, 3) + 0.5)}
all_five = {
    "LoRA, merged": tried["LoRA"],
    "LoRA": tried["LoRA"],
    "Houlsby": tried["Houlsby"],
}
all_five["Pfeiffer"] = Pfeiffer, a_block, single
all_five["parallel"] = ParallelAdapter, ["mlp"], single
for name, (method, places, options) in all_five.items():
    adapted, _ = pl.lab.load_base("polyglot-350k")
    pl.attach(adapted, method, places, **options)
    trainable = pl.count(adapted).trainable
    if name == "LoRA, merged":
        pl.merge(adapted)
        pl.detach(adapted, keep_merged=True)
    more[name] = pl.multiplications(adapted, **a_single_one)[0] - alone
    times = slowdown(writes(writer), writes(adapted.eval()), time.perf_counter, 5)
    print(f"{name:14} {trainable:>7,}   {alone:,} + {more[name]:>6,} {times:26.2f}")

# %% tags=["heavy"]
assert more.pop("LoRA, merged") == 0, "what is merged multiplies nothing"
assert 0 < max(more.values()) < 1.2 * min(more.values()), (
    "the others about the same, at equal size"
)

# %% [markdown]
# Many small products one after another take longer than their multiplications say, since each must be called, and each waits for the one before: at equal size it is the *number* of products that the times follow, and LoRA on all linear layers has most. That is what "adapters slow inference down" means, and LoRA that
# is *not* merged pays as well. What can be had for nothing is the merged row, whose hooks were taken off too, and only an affine layer can be in it. How far its number is from one
# tells how far to trust the others.
#
# ## 7. Fusion
#
# {{adapter-fusion}}
#
# New computation can be put side by side. **AdapterFusion** leaves trained adapters as they are, runs them all, and learns at each place how much to take from which:
# a score for each adapter, the dot product of the query of `h` with the key of that adapter's output; a softmax over the adapters makes **attention weights** of the scores; and the values of the outputs are added up with these weights.
#
# $$w_i = \operatorname{softmax}_i\big((Q h) \cdot (K o_i)\big), \qquad h \rightarrow \sum_i w_i V o_i$$
#
# Here $o_i = h + {}$bottleneck$_i(h)$ is what adapter $i$ makes of $h$. (Unlike the attention of a transformer, the scores are not divided by anything.) Write `fuse(h, outputs, Q, K, V)`, with `outputs` of shape `(n, ..., d)`. Return what replaces h, `(..., d)`, and the attention weights, `(n, ...)`.


# %%
def fuse(h, outputs, Q, K, V):
    """(what replaces h, the attention weights of the n adapters)."""
    ### BEGIN SOLUTION
    scores = (F.linear(h, Q) * F.linear(outputs, K)).sum(-1)
    weights = scores.softmax(0)
    return (weights.unsqueeze(-1) * F.linear(outputs, V)).sum(0), weights
    ### END SOLUTION


# %%
check("adapter-fusion", fuse)

# %% [markdown]
# One Pfeiffer adapter learns Italian, a second one Portuguese, on the same model; then both are frozen, and your `fuse` learns from numbers in both languages, which the tags tell apart.
# Two controls: equal weights with nothing trained (if that speaks both languages, there is nothing to choose); and *one* adapter trained on both languages, with as many steps as the two adapters and the fusion together.

# %% tags=["nbval-ignore-output", "heavy"]
fused, tokenizer = pl.lab.load_base("polyglot-350k")
two, speaks = ("italian", "portuguese"), {}
for seed, (name, language) in enumerate(zip(two, ("it", "pt"))):
    torch.manual_seed(seed)
    pl.attach(fused, Pfeiffer, a_block, name=name, reduction_factor=1)
    pl.use(fused, name)
    data = polyglot.dataset(language)
    train(fused, data, answers(tokenizer), steps=80, lr=0.02, progress=False)
for name in two:
    pl.use(fused, name)
    speaks[name] = [
        polyglot.accuracy(fused, tokenizer, language) for language in ("it", "pt")
    ]
one_adapter = pl.count(fused).trainable

pl.use(fused)
fused.requires_grad_(False)
weights_at = {}


def fusion(layer, inputs, h):
    outputs = torch.stack([h + layer.adapters[name].bottleneck(h) for name in two])
    h, weights_at[layer] = fuse(h, outputs, layer.query, layer.key, layer.value)
    return h


torch.manual_seed(0)
for layer in fused.model.layers:
    layer.query, layer.key = (nn.Parameter(torch.zeros(96, 96)) for _ in range(2))
    layer.value = nn.Parameter(torch.eye(96))
    layer.register_forward_hook(fusion)


def accuracies(model=fused):
    return [polyglot.accuracy(model, tokenizer, language) for language in ("it", "pt")]


speaks["equal weights"] = accuracies()
for layer in fused.model.layers:
    for matrix in (layer.query, layer.key):
        nn.init.normal_(matrix, std=1 / 96)
pairs_of_rows = zip(polyglot.dataset("it"), polyglot.dataset("pt"))
both = [row for rows in pairs_of_rows for row in rows]
train(fused, both, answers(tokenizer), steps=60, lr=0.003, progress=False)
speaks["fusion"] = accuracies()
single, _ = pl.lab.load_base("polyglot-350k")
torch.manual_seed(0)
pl.attach(single, Pfeiffer, a_block, reduction_factor=1)
train(single, both, answers(tokenizer), steps=220, lr=0.02, progress=False)
speaks["one for both"] = accuracies(single)
for name, (italian, portuguese) in speaks.items():
    print(
        f"{name:14} accuracy in Italian {italian:6.1%}, in Portuguese {portuguese:6.1%}"
    )
count = pl.count(fused).trainable
print(f"trainable parameters: one adapter {one_adapter:,}, the fusion {count:,}")

# %% tags=["heavy"]
assert speaks["italian"][1] < 0.2, "the Italian adapter alone does not speak Portuguese"
assert speaks["portuguese"][0] < 0.2, (
    "the Portuguese adapter alone does not speak Italian"
)
assert min(speaks["fusion"]) > 0.3, "the fusion speaks both"
ahead = min(new - old for new, old in zip(speaks["fusion"], speaks["equal weights"]))
assert ahead > 0.1, "and better than equal weights with nothing trained"

# %% tags=["nbval-ignore-output", "heavy"]
shares = []
with torch.no_grad():
    for language in ("it", "pt"):
        rows = [polyglot.dataset(language, "test")[i] for i in range(100)]
        batch = answers(tokenizer)(rows)
        fused(**batch)
        written = batch["labels"] != -100
        weights = [weights_at[layer][0][written].mean() for layer in fused.model.layers]
        shares.append([w.item() for w in weights])

# %% tags=["nbval-ignore-output", "heavy", "hide-source"]
figures.show(
    figures.table(
        torch.tensor(shares),
        ["Italian asked", "Portuguese asked"],
        ["block 1", "block 2", "block 3"],
        "Attention weight of the Italian adapter",
        "attention weight",
    ),
    alt="A table of two rows, Italian asked and Portuguese asked, and three columns, the blocks. In each cell the mean attention "
    "weight of the Italian adapter while the answer is written; the Portuguese one has the rest. The rows differ: the Italian "
    "adapter has more weight when Italian is asked.",
)

# %% tags=["heavy"]
for alone, fusion_too in zip(speaks["one for both"], speaks["fusion"]):
    assert alone > fusion_too + 0.1, "one adapter trained on both is ahead of the fusion"
differ = max(a - b for a, b in zip(*shares))
assert differ > 0.1, "the tag decides on the attention weights, in one block at least"

# %% [markdown]
# Neither adapter alone speaks the other's language, and at equal weights the two together speak neither. The fused model speaks both, each less well than its own adapter did alone, and its attention weights follow the language. Is it *because* they do? "The weights follow the language, and it works" is no proof: the value matrix was trained along with them.
#
# So, recorded by `peftlab record adapters-fused`, with more steps than you had: the same with query and key trained and the value left as it is, so that the fusion can choose and nothing else; with the value trained at equal weights, so that it can do everything but choose; and the fusion, which trains all three. Around them stand nothing trained, one adapter for both, and what a perfect choice would reach: each adapter on its own language. Each at the rate with the lowest training loss of its sweep; a star behind it says that this was the smallest or the largest rate tried. Predict the order of *query and key*, *value* and *fusion*.

# %% tags=["nbval-ignore-output"]
fused_runs = complete(records.load("adapters-fused"))
at_best = best_rates(fused_runs, ["trained"], by="train_loss", lowest=True)
by_seed = at_best.set_index("seed").sort_index()
of_way = dict(list(by_seed.groupby("trained")))
by_way = {}
ways = ("equal weights", "query and key", "value", "fusion", "one for both")
for way in ways:
    swept = fused_runs[fused_runs["trained"] == way]["lr"]
    rate = of_way[way]["lr"].iloc[0]
    edge = "*" if rate in (swept.min(), swept.max()) and swept.nunique() > 1 else " "
    each = [of_way[way][f"accuracy_{language}"] for language in ("it", "pt")]
    by_way[way] = sum(each) / 2
    mean, half = interval(by_way[way])
    print(f"{way:14} {of_way[way]['trainable'].iloc[0]:7,} {rate:6g}{edge}", end="")
    print(f" Italian {each[0].mean():6.1%}, Portuguese {each[1].mean():6.1%},", end="")
    print(f" both {mean:6.1%} ± {half:.1%}")
switched = (of_way["it"]["accuracy_it"] + of_way["pt"]["accuracy_pt"]) / 2
print("a perfect choice: {:.1%} ± {:.1%}".format(*interval(switched)))
ahead = {}
for one, other in (("fusion", "value"), ("one for both", "fusion")):
    mean, half = ahead[one] = interval(by_way[one] - by_way[other])
    print(f"{one} minus {other}, paired: {mean:+.1%} ± {half:.1%}")
print(f"{fused_runs['seed'].nunique()} seeds. {records.stamp(fused_runs)}")

# %%
middle = {way: by_way[way].mean() for way in ways}
assert middle["query and key"] > middle["equal weights"] + 0.1, "choosing does something"
assert middle["value"] > middle["query and key"] + 0.2, "the value does far more"
assert ahead["fusion"][0] < 0.1, "beside a trained value choosing adds a few points"
assert switched.mean() > middle["fusion"] + 0.1, "a perfect choice would reach more"
assert ahead["one for both"][0] > 0.2, "and one adapter for both is far ahead"

# %% [markdown]
# Choosing, by itself, brings the fusion a part of the way from nothing, and stays far below what a perfect choice between the same two adapters would reach. The value matrix, at equal weights, brings nearly all that the fusion has; beside it, choosing adds a few points. So attention weights that follow the language *accompany* what works here and explain the smaller part of it. (What the value matrix would do without the two adapters was not tried.)
#
# And the last row, the control. *One* adapter, trained on both languages with as many steps as the two adapters and the fusion together, is far ahead of the fusion, with fewer trainable parameters, and at inference nothing else has to run. Where the data of all tasks are at hand, fusion bought nothing here. It is meant for adapters that exist already and can't be made again, and leaves them as they are; but its own matrices want data of every task, too.
# The bill: three matrices of full width at each place are more trainable parameters than an adapter of moderate width, and every adapter in the fusion runs for every token.
#
# ## The library
#
# `peft` has no bottleneck adapters.

# %%
kinds = [kind.value for kind in peft.PeftType]
adapting = [kind for kind in kinds if "ADAPT" in kind]
print(f"{len(kinds)} methods in peft; with 'adapt' in the name:", adapting)
names_of_ours = ("BOTTLENECK", "HOULSBY", "PFEIFFER")
there = [kind for kind in kinds if any(name in kind for name in names_of_ours)]
assert not there, "peft has bottleneck adapters now: this section needs another text"

# %% [markdown]
# The one it finds is LLaMA-Adapter, a matter of lesson 06 in spite of its name. The library that has them is called `adapters`, and it wants another version of `transformers`. So its answers were taken once and
# kept, in `tests/golden`: those of tiny models whose every parameter follows from its name. Your `bottleneck`, hung on the same tiny Llama in all three places, should give the same logits.

# %%
sys.path.append(str(ROOT / "tests"))
import tiny

golden = json.loads((ROOT / "tests" / "golden" / "golden.json").read_text())
print(
    "kept from",
    {name: golden["made with"][name] for name in ("adapters", "transformers")},
)


def of_a_place(number, where, m, f, scale=1.0):
    """Your bottleneck with the parameters of one place of the tiny Llama, 16 wide."""
    shapes = {
        "down.weight": (m, 16),
        "down.bias": (m,),
        "up.weight": (16, m),
        "up.bias": (16,),
    }
    D, a, U, b = (
        tiny.numbers(f"{number}.{where}.{name}", s) for name, s in shapes.items()
    )
    return lambda h: scale * bottleneck(h, D, a, U, b, f)


def hang(place, add, reader=None):
    """Add `add` of what leaves `place`, or of what enters the layer `reader`."""
    seen = {}
    if reader:
        reader.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    place.register_forward_hook(lambda _, inputs, h: h + add(seen["x"] if reader else h))


def hung(how):
    """The tiny Llama with your bottleneck in every block, filled as the library's was."""
    model = tiny.tiny("llama")
    for i, layer in enumerate(model.model.layers):
        if how == "double_seq_bn":  # Houlsby
            hang(layer.self_attn.o_proj, of_a_place(i, "attention", 4, F.silu))
            hang(layer.mlp.down_proj, of_a_place(i, "output", 4, F.silu))
        elif how == "seq_bn":  # Pfeiffer
            hang(layer, of_a_place(i, "output", 4, F.relu))
        else:  # parallel: it reads what enters the norm before the feed-forward part
            beside = of_a_place(i, "output", 8, F.relu, scale=4)
            hang(layer.mlp, beside, reader=layer.post_attention_layernorm)
    return model


given = {name: tensor for name, tensor in tiny.batch("llama").items() if name != "labels"}
for how in ("double_seq_bn", "seq_bn", "par_bn"):
    with torch.no_grad():
        mine = hung(how)(**given).logits[:, -1].flatten()
    kept_ones = (
        torch.tensor(golden["llama"][case]["logits"]) for case in (how, "no adapter")
    )
    theirs, untouched = kept_ones
    same = torch.allclose(mine, theirs, atol=1e-5)
    print(f"{how:14} yours and the library's the same: {same}")
    assert same, f"{how}: your bottleneck gives the library's logits"
    assert not torch.allclose(untouched, theirs, atol=1e-2), (
        "and not those without an adapter"
    )

# %% [markdown]
# The picture above has the norm inside the branch, and so the parallel adapter reads *before* it: that is the library's way. The course's own `ParallelAdapter` hangs on the feed-forward part itself and reads *behind* that norm on a Llama, where the feed-forward part reads too; on BERT, where the norms stand elsewhere, the two agree. Both are "parallel", and they are not the same model: two libraries' adapters of
# one name need not be exchangeable.
#
# The nearest thing in `peft` is what remains without the non-linearity. $W x + U D W x$ is a LoRA with $B = U$ and $A = DW$; the biases go into that of $B$. Hand the linear row of your comparison to `peft`:

# %% tags=["heavy"]
straight = trained["Houlsby, linear"]
m = adapter_width(budget, 96, 6)
base, _ = pl.lab.load_base("polyglot-350k")
config = peft.LoraConfig(r=m, lora_alpha=m, target_modules=behind, lora_bias=True)
theirs = peft.get_peft_model(base, config)
with torch.no_grad():
    for path, layer in straight.named_modules():
        if hasattr(layer, "adapters"):
            adapter = layer.adapters["italian"]
            lora = theirs.base_model.model.get_submodule(path)
            lora.lora_A["default"].weight.copy_(adapter.down.weight @ layer.weight)
            lora.lora_B["default"].weight.copy_(adapter.up.weight)
            lora.lora_B["default"].bias.copy_(adapter.up(adapter.down.bias))
    batch = tokenizer(["<it>342=", "<it>777="], return_tensors="pt")
    gap = (
        (theirs.eval()(**batch).logits - straight.eval()(**batch).logits)
        .abs()
        .max()
        .item()
    )
print("peft's LoRA and your linear adapter, the same logits:", gap < 1e-3)
assert gap < 1e-3, "a linear adapter is a LoRA with a bias"

# %% [markdown]
# A linear adapter *is* a LoRA with a bias, whose `A` is tied to the frozen weight.
#
# ## Read the result
#
# **What it shows.** A bottleneck adapter is a small network with a non-linearity, added in a place. The non-linearity lets it do what no matrix and no bias can, and for the same reason no weight can take it in: it runs, and costs, as long as it is used. Where a task does not want it, it
# can learn to do nearly without. Its start may be near the base model; it need not be exactly on it. Its size is a setting, as LoRA's rank is.
#
# **What it does not show.** The comparison with LoRA is one size, eighty steps, one small model, one language, one learning rate from a coarse sweep; with more steps the rows may come together. Times were taken on one machine; on
# one that does many things at once the small products may weigh more, or less. A task that needs the non-linearity would look different, and you saw one only where it was made for that.
#
# | claim | here |
# | --- | --- |
# | *adapters are down- and up-projections inside each block* (C12) | so by definition; three places, and you built each |
# | *7 to 26 million parameters on a model of 560 million, depending on the task* (C13) | the numbers come out exactly, as two reduction factors, 8 and 2: it depends on the setting |
# | *adapters add more parameters than LoRA* (C14) | not by nature: with a reduction factor of 64 they train fewer than LoRA of rank 32 |
# | *they can capture more complex behaviour* (C15) | more than any matrix with a bias, shown on a synthetic task. For Italian six seeds show no gain from the non-linearity, and no harm |
# | *a middle ground with more capacity than LoRA* (C35) | not found here: at three equal sizes, each method at its best rate, LoRA on all linear layers learnt more, in six seeds of six. It sat on more layers, and more than a hundred steps were not tried |
#
# **Negative results, said aloud.** The adapter was behind LoRA of its size. The non-linearity, which is why it cannot be merged, could not be shown to help. The fused model spoke each language less well than that language's own adapter, and far less well than one adapter trained on both.
#
# ## Go further
#
# - Teach Turkish with the same rows and more steps. Does the non-linearity pay where the task is far?
# - Give the fusion a third adapter that has learnt nothing. Does it find out to give it no weight?
# - An open question: on the low-rank task nearly all inputs came to lie on one side of the kink. How many do in a real model? Where all do, the adapter could be merged after all, for these inputs.
#
# Sources: Houlsby, [arXiv:1902.00751](https://arxiv.org/abs/1902.00751); Pfeiffer and AdapterFusion, [arXiv:2005.00247](https://arxiv.org/abs/2005.00247); parallel adapters,
# [arXiv:2110.04366](https://arxiv.org/abs/2110.04366). The claims on sizes: [arXiv:2308.07282](https://arxiv.org/abs/2308.07282). Sentences: Hutto and Gilbert, ICWSM 2014. The libraries: `adapters` and `peft`, both Apache-2.0.

# %% [markdown] tags=["written"]
# ## In your own words
#
# Three rows learnt Italian with as many trainable parameters: LoRA, Houlsby's adapter, and the same without its non-linearity. What did you see, and
# what was the third row for? Which result, on which task, would make you say that the non-linearity is worth what it costs?
