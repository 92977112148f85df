# %% [markdown]
# # 05 Adapters
#
# **60 minutes** of reading and doing, **120 seconds** of computing on two quiet cores. Before this: lesson 03. Lesson 01 helps.
#
# LoRA changes weights. The adapters of this page, older than LoRA, leave them alone and add **new computation**: a small network inside every
# block. After this page you will have built it and put it in three places. You will have asked a function whether it can be merged into
# a weight, and heard it say no; counted and measured what that costs; and compared with LoRA at equal size and at equal quality.

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
from peftlab.lab import figures, polyglot, widgets
from peftlab.lab.sources import ROOT
from peftlab.lab.sweeps import interval
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
# An adapter is a **detour** through a narrow place, the bottleneck, and what comes out is added to what went straight on:
#
# $$h \;\rightarrow\; h + U f(D h + a) + b$$
#
# - $h$, of $d$ numbers, is what passes at some place of a frozen model;
# - $D$, $m \times d$, leads down to $m$ numbers, and $U$, $d \times m$, up again; $a$ and $b$ are their biases. These four are trained;
# - $m$ is the **width**, small beside $d$; some write $d / m$ instead, the **reduction factor**;
# - $f$ is a function that bends, entry by entry: relu or silu. All that sets this page apart from lesson 03 hangs on it.
#
# Which place? Three papers, three answers. Read each column from below: the block's input x enters, and every plus adds a branch to the straight line.

# %%
figures.show(
    figures.adapter_places(),
    alt="Three drawings of one transformer block with attention and feed-forward part, each on a branch that is added back. "
    "Houlsby: an adapter, with its own way around it, behind each of the two, before the branch is added. Pfeiffer: one adapter "
    "behind the whole block. Parallel: one adapter on a branch of its own beside the feed-forward part.",
)

# %% [markdown]
# ## Build it
#
# ### 1. The detour
#
# {{adapter-bottleneck}}
#
# Write `bottleneck(h, D, a, U, b, f)`: what the detour adds, without h itself. `h` may have any number of leading dimensions.


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
    return 0.02 * torch.randn(m, d), torch.zeros(m), 0.02 * torch.randn(d, m), torch.zeros(d)
    ### END SOLUTION


# %%
check("adapter-start", adapter_start)

# %% [markdown]
# How near is near? The package's `Houlsby` is your detour behind two layers of each block of polyglot-350k. Start it with matrices of different
# spread, and look at two things before any training: does the model still count in Spanish, and how large is the gradient that reaches `D`?

# %% tags=["nbval-ignore-output"]
model, tokenizer = pl.lab.load_base("polyglot-350k")
pl.attach(model, Houlsby, ["o_proj", "down_proj"], reduction_factor=8)
batch = answers(tokenizer)([polyglot.dataset("it")[i] for i in range(32)])
adapters = [layer.adapters["default"] for layer in model.modules() if hasattr(layer, "adapters")]
starts = {}
for spread in (0, 0.001, 0.02, 0.1, 0.3, 1, "yours"):
    torch.manual_seed(0)
    with torch.no_grad():
        for adapter in adapters:
            m, d = adapter.down.weight.shape
            if spread == "yours":
                given = adapter_start(d, m)
            else:
                given = spread * torch.randn(m, d), 0, spread * torch.randn(d, m), 0
            own = adapter.down.weight, adapter.down.bias, adapter.up.weight, adapter.up.bias
            for parameter, value in zip(own, given):
                parameter.copy_(torch.as_tensor(value))
    model.zero_grad()
    model(**batch).loss.backward()
    reaches = sum(adapter.down.weight.grad.norm() for adapter in adapters).item()
    starts[spread] = polyglot.accuracy(model, tokenizer, "es"), reaches
    print(f"spread {spread!s:>6}: {starts[spread][0]:6.1%} of Spanish right, gradient of all D {reaches:.4f}")

# %%
assert starts[0][0] == starts[0.001][0] and starts[0][1] == 0 < starts[0.001][1]
assert abs(starts["yours"][0] - starts[0][0]) < 0.05 and max(starts[0.3][0], starts[1][0]) < 0.5 * starts[0][0]

# %% [markdown]
# At zero no gradient reaches `D`, as in lesson 03 none reached `A`; and none reaches `U` either. From a spread of 0.3 on, what the model knew is drowned before it
# has seen an example. In between lies a wide plain, on which the gradient grows with the spread. Houlsby starts there, *near* the base model and not on it; LoRA, and the parallel adapter too, start on it.
#
# ### 3. Three places
#
# {{adapter-places}}
#
# A block without adapters is two steps: `x = x + attention(x)`, then `x = x + feed_forward(x)`. (The norms are inside these functions.) Write
# `block(x, attention, feed_forward, one, two, how)` for `how` in `"houlsby"`, `"pfeiffer"` and `"parallel"`. `one` and `two` are detours: they
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
# {{adapter-bends}}
#
# A plain linear layer computes $f(x) = W x + c$. Without the bias, $f(x + y)$ would be $f(x) + f(y)$. Write `bend(f, x, y)`: one number that is zero for
# *every* layer with a weight and a bias, whatever they are: the size (the root of the sum of squares) of the difference between what f does to the sum and what it does to the two,
# with the bias set right by asking `f` about zero.


# %%
def bend(f, x, y):
    """How far f is from W x + c at these two inputs, (..., d_in); zero if f is of that form."""
    ### BEGIN SOLUTION
    return (f(x + y) - f(x) - f(y) + f(torch.zeros_like(x))).norm()
    ### END SOLUTION


# %%
check("adapter-bends", bend)

# %% [markdown]
# Now ask. One linear layer with a bias, four things on it, all with random numbers in them. The last one is an adapter whose `f` does nothing.

# %%
torch.manual_seed(0)
plain = nn.Linear(24, 16)
asked = {"nothing": (None, {})}
asked["LoRA"] = LoRA, {"r": 4}
asked["adapter, silu"] = Houlsby, {"reduction_factor": 4}
asked["adapter, relu"] = Houlsby, {"reduction_factor": 4, "non_linearity": "relu"}
asked["adapter, no bend"] = Houlsby, {"reduction_factor": 4, "non_linearity": "linear"}
x, y = torch.randn(2, 64, 24, dtype=torch.float64)
functions = {}
for name, (method, options) in asked.items():
    model = nn.Sequential(nn.Linear(24, 16)).double()
    model.load_state_dict({f"0.{key}": value for key, value in plain.state_dict().items()})
    if method:
        pl.attach(model, method, ["0"], **options).double()
        for parameter in model[0].adapters.parameters():
            nn.init.normal_(parameter, std=0.5)
    functions[name] = model
    with torch.no_grad():
        share = (bend(model, x, y) / model(x).norm()).item()
    print(f"{name:17} bends by {share:.3f} of its output: ", end="")
    assert (share > 0.05) == (name in ("adapter, silu", "adapter, relu")), name
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
# So it is the bend and nothing else. A bottleneck without `f` is a matrix: $h + UDh$, with $h = Wx$, is $(I + UD) W x$, and merges like LoRA. With `f` there is
# no such matrix. You can still ask about the basis vectors, as in lesson 03, and get *a* matrix. It tells the truth exactly where you asked:


# %%
@torch.no_grad()
def by_asking(f, d_in):
    """The weight and bias that f seems to have, from its answers to zero and to the basis vectors."""
    c = f(torch.zeros(d_in, dtype=torch.float64))
    return (f(torch.eye(d_in, dtype=torch.float64)) - c).T, c


basis = torch.eye(24, dtype=torch.float64)
for name in ("LoRA", "adapter, relu"):
    f, (W, c) = functions[name], by_asking(functions[name], 24)
    with torch.no_grad():
        asked_, elsewhere = (((F.linear(z, W, c) - f(z)).norm() / f(z).norm()).item() for z in (basis, x))
    print(f"{name:14} wrong by {asked_:.3f} of its output where it was asked, by {elsewhere:.3f} elsewhere")
    assert asked_ < 1e-12 and (elsewhere > 0.05) == (name != "LoRA")

# %% [markdown]
# ### What the bend is good for
#
# The bend has a price, as you will see. It also buys something. Here are two planted tasks for one layer: in one the outputs are *turned*, by an update of rank four; in the
# other they are *bent*, by a bottleneck of width four. LoRA and an adapter of about the same size try both. Beside them, what the best matrix of all
# could do, of any rank: least squares.

# %% tags=["nbval-ignore-output"]
d = 32
draw = torch.Generator().manual_seed(0)
inputs, W, down, up = (torch.randn(*shape, generator=draw) for shape in ((2048, d), (d, d), (4, d), (d, 4)))
W, down, up = W / d**0.5, down / d**0.5, up / 2
h = inputs @ W.T
targets = {"turned": h + h @ down.T @ up.T, "bent": h + torch.relu(h @ down.T) @ up.T}
students = {
    "LoRA": (LoRA, {"r": 5, "lora_alpha": 5}),
    "adapter": (Houlsby, {"reduction_factor": 8, "non_linearity": "relu"}),
}
planted, kept = {}, {}
how = {"steps": 300, "lr": 0.03, "batch_size": 256, "progress": False}
for task, target in targets.items():
    rows = [{"x": one, "y": other} for one, other in zip(inputs, target)]
    before = F.mse_loss(h, target).item()
    ones = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    planted[task, "best matrix"] = F.mse_loss(ones @ torch.linalg.lstsq(ones, target).solution, target).item() / before
    for name, (method, options) in students.items():
        layer = nn.Sequential(nn.Linear(d, d, bias=False))
        layer[0].weight.data.copy_(W)
        torch.manual_seed(0)
        pl.attach(layer, method, ["0"], **options)
        trained_now, snapshots = layer[0].adapters["default"], {}

        def keep(run=None, of=trained_now, into=snapshots):  # what is trained, as it stands, to look at afterwards
            step = run.step if run else 0
            if step % 10 == 0:
                into[step] = {key: p.detach().clone() for key, p in of.named_parameters()}

        keep()
        kept[task, name] = snapshots
        run = train(layer, rows, **how, on_step=keep, loss=lambda f, b: F.mse_loss(f(b["x"]), b["y"]))
        planted[task, name] = statistics.fmean(run.losses[-5:]) / before
        print(f"{task:7} {name:12} {pl.count(layer).trainable} trained: {planted[task, name]:6.1%} of the error is left")
    print(f"{task:7} best matrix: {planted[task, 'best matrix']:6.1%}")

# %%
assert planted["turned", "LoRA"] < 0.01 and planted["turned", "best matrix"] < 1e-6
assert planted["bent", "LoRA"] > 0.9 * planted["bent", "best matrix"] > 0.05, "no rank is enough here"
assert planted["bent", "adapter"] < 0.5 * planted["bent", "best matrix"]
assert planted["turned", "adapter"] < 0.1

# %% [markdown]
# Each does its own task. The adapter nearly does LoRA's as well, though it bends. The other way round it does not go: of the bent task even the best matrix leaves a part, and so does
# LoRA of whatever rank. Which of the two a real task is, the picture of a method does not say.
#
# How does a thing that bends do what is straight? You kept it while it learnt. Each of the four **units**, a row of `D` with its entry of `a`, has its bend at zero: relu keeps what is above, and
# makes everything below nothing. Below are all inputs as each unit sees them, `D h + a`, with the bend as a line. Drag the step, on either task, or reach the sliders with Tab and use
# the arrow keys; `bend` is yours.


# %%
def at_the_bend(task, step):
    """(what each unit sees, (inputs, 4); the share of it on the fuller side of the bend; how far the whole layer bends)."""
    D, a, U, b = (kept[task, "adapter"][step][key] for key in ("down.weight", "down.bias", "up.weight", "up.bias"))
    seen = h @ D.T + a
    above = (seen > 0).float().mean(0)

    def f(x):
        return x @ W.T + bottleneck(x @ W.T, D, a, U, b, torch.relu)

    one, other = inputs.chunk(2)
    return seen, torch.maximum(above, 1 - above).mean().item(), (bend(f, one, other) / f(one).norm()).item()


def units(task, step):
    seen, one_side, bends = at_the_bend(task, step)
    drawn = ""
    for i, values in enumerate((seen / seen.std(0)).T):
        counts = torch.histc(values, 48, -5, 7) / len(values)
        bars = "".join(
            f"<rect x='{60 + 8 * j}' y='{44 * (i + 1) - 160 * c:.1f}' width='7' height='{160 * c:.1f}' "
            f"fill='{figures.PALETTE[0 if j >= 20 else 1]}'/>"
            for j, c in enumerate(counts.tolist())
        )
        drawn += f"<text x='0' y='{44 * i + 36}' font-size='13' fill='currentColor'>unit {i + 1}</text>{bars}"
    told = f"{task}, step {step}: {one_side:.0%} of the inputs lie on one side of a unit's bend; "
    told += f"the layer bends by {bends:.2f} of its output"
    line = "<line x1='220' x2='220' y1='0' y2='178' stroke='currentColor' stroke-dasharray='4'/>"
    foot = "<text x='226' y='192' font-size='13' fill='currentColor'>above: passes</text>"
    foot += "<text x='214' y='192' font-size='13' text-anchor='end' fill='currentColor'>below: cut to zero</text>"
    picture = f"<svg role='img' aria-label='{told}' width='460' height='198'>{drawn}{line}{foot}</svg>"
    return f"<p role='status' aria-live='polite'>{told}</p>{picture}"


widgets.explore(units, task=("turned", ["turned", "bent"]), step=(0, list(range(0, 301, 10))))

# %% tags=["nbval-ignore-output"]
for task in targets:
    for step in (0, 40, 300):
        _, one_side, bends = at_the_bend(task, step)
        print(f"{task:7} step {step:3}: {one_side:4.0%} on one side, bends by {bends:.2f}")

# %%
assert at_the_bend("turned", 300)[1] > 0.95 and at_the_bend("bent", 300)[1] < 0.6
assert at_the_bend("turned", 300)[2] < 0.5 * at_the_bend("turned", 40)[2]

# %% [markdown]
# Both begin with half of the inputs on either side. On the turned task the biases push nearly all of them above the bend, where relu is a straight line, and the layer bends less and less. On the bent task the bend stays where it was, in
# the middle of the inputs: there it is used. So an adapter can *learn* to bend less. Nobody tells it to, and within these steps it does not get all the way.
#
# ### 5. The widest adapter for a budget
#
# {{adapter-width}}
#
# Write `adapter_width(budget, d, places)`: the largest `m` for which adapters at so many places, biases and all, train at most `budget` numbers. If not even `m = 1` fits, 0.


# %%
def adapter_width(budget, d, places):
    """The largest width m that fits the budget, or 0."""
    ### BEGIN SOLUTION
    return max(0, (budget // places - d) // (2 * d + 1))
    ### END SOLUTION


# %%
check("adapter-width", adapter_width)

# %% [markdown]
# Adapters, it is said, train more than LoRA. Here is the model behind such numbers, XLM-RoBERTa large, as a mere shape, with the classification head that is always trained.

# %%
with torch.device("meta"):
    large = XLMRobertaModel(XLMRobertaConfig(
        vocab_size=250_002, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        max_position_embeddings=514, type_vocab_size=1), add_pooling_layer=False)  # fmt: skip
head = 1024 * 1024 + 1024 + 3 * 1025
norms = r".*layer\.\d+\.output\.LayerNorm"
sizes = {f"Pfeiffer, reduced {r} times": pl.closed_form(large, Pfeiffer, norms, reduction_factor=r) for r in (2, 8, 64)}
sizes |= {f"LoRA on query and value, r = {r}": pl.closed_form(large, LoRA, ["query", "value"], r=r) for r in (8, 32)}
sizes["LoRA on every linear layer, r = 32"] = pl.closed_form(large, LoRA, "all-linear", r=32)
for name, size in sizes.items():
    print(f"{name:36} {size:>11,}, with the head {(size + head) / 1e6:6.2f} million")
whole = sum(p.numel() for p in large.parameters()) + head
narrow, wide = (sizes[f"Pfeiffer, reduced {r} times"] + head for r in (8, 2))
print(f"adapters of {narrow / 1e6:.0f} to {wide / 1e6:.0f} million on a model of {whole / 1e6:.0f} million")
assert sizes["Pfeiffer, reduced 64 times"] < sizes["LoRA on query and value, r = 32"]
like_lora = adapter_width(sizes["LoRA on query and value, r = 8"], 1024, 24)
print("as wide as LoRA of rank 8 on query and value allows: m =", like_lora)
assert like_lora == 15

# %% [markdown]
# So the size is a setting. Adapters train more than LoRA where somebody chose a wide one beside a low rank.
#
# ## Run it on a real model
#
# The fair question is another one: how much does each need for the *same quality*? polyglot-350k learns Italian, a hundred steps each. The learning rate of
# each row was chosen among two or three beforehand, by the loss in training. Two rows are controls: LoRA on just the two layers that Houlsby adapts, and Houlsby's adapter *without the bend*.
# Before you run it: what is your order?

# %% tags=["nbval-ignore-output", "heavy"]
behind, a_block = ["o_proj", "down_proj"], r"model\.layers\.\d+"
tried = {
    "LoRA, r = 1": (LoRA, "all-linear", 0.03, {"r": 1, "lora_alpha": 2}),
    "LoRA, r = 2": (LoRA, "all-linear", 0.03, {"r": 2, "lora_alpha": 4}),
    "LoRA there, r = 8": (LoRA, behind, 0.03, {"r": 8, "lora_alpha": 16}),
    "Houlsby, m = 12": (Houlsby, behind, 0.03, {"reduction_factor": 8}),
    "Houlsby, m = 48": (Houlsby, behind, 0.02, {"reduction_factor": 2}),
    "no bend, m = 12": (Houlsby, behind, 0.03, {"reduction_factor": 8, "non_linearity": "linear"}),
    "Pfeiffer, m = 96": (Pfeiffer, a_block, 0.02, {"reduction_factor": 1}),
    "parallel, m = 24": (ParallelAdapter, ["mlp"], 0.01, {"reduction_factor": 4}),
    "parallel, m = 96": (ParallelAdapter, ["mlp"], 0.005, {"reduction_factor": 1}),
}
trained, found = {}, {}
for name, (method, places, lr, options) in tried.items():
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(0)
    pl.attach(model, method, places, name="italian", **options)
    train(model, polyglot.dataset("it"), answers(tokenizer), steps=100, lr=lr, progress=False)
    trained[name], found[name] = model, (pl.count(model).trainable, polyglot.accuracy(model, tokenizer, "it"))
    print(f"{name:18} {found[name][0]:>7,} trained: {found[name][1]:6.1%} of unseen Italian numbers right")

# %% tags=["nbval-ignore-output", "heavy"]
bent = {name: of for name, of in found.items() if name.startswith(("Houlsby", "Pfeiffer", "parallel"))}
assert all(right > 0.5 for _, right in found.values()), "each of them learns much of it"
for name in ("LoRA, r = 1", "LoRA, r = 2"):
    trainable, right = found[name]
    as_good = [size for size, other in bent.values() if other >= right - 0.05]
    smallest = min(as_good, default=float("inf"))
    print(f"{right:.1%}, give or take 5 points: {name} with {trainable:,}, the smallest adapter with {smallest:,}")
    assert smallest > 2 * trainable, "at this quality an adapter trains more than LoRA"
small = [right for size, right in bent.values() if size < 15_000]
assert max(small) < found["LoRA, r = 2"][1], "and with no fewer numbers it learns less"

# %% tags=["nbval-ignore-output", "heavy"]
families = {family: [] for family in ("LoRA,", "LoRA there", "Houlsby", "no bend", "Pfeiffer", "parallel")}
for name, (trainable, right) in found.items():
    families[next(f for f in families if name.startswith(f))].append((trainable, right, 2))
families["LoRA, all linear layers"] = families.pop("LoRA,")
families["LoRA, Houlsby's layers"] = families.pop("LoRA there")
families = {{"no bend": "Houlsby, no bend"}.get(family, family): points for family, points in families.items()}
title, across = "Italian after a hundred steps, one seed", "numbers trained (logarithmic)"
fig = figures.tradeoff(families, title, across, "share of unseen numbers right")
fig.axes[0].set(xscale="log", ylim=(0, 1), xlim=(4_000, 80_000))
fig.axes[0].set_xticks([5_000, 10_000, 20_000, 50_000], ["5,000", "10,000", "20,000", "50,000"])
fig.axes[0].minorticks_off()
figures.show(
    fig,
    alt="Share of unseen Italian numbers right over the numbers trained, logarithmic, one point for each run. LoRA on all linear "
    "layers stands furthest left for its height: the adapters reach as high only with several times as many numbers. Houlsby "
    "without the bend stands near those with it.",
)

# %% [markdown]
# One seed, one learning rate each. At equal quality the adapters trained more than twice what LoRA did. Part of that may be *where*: LoRA on Houlsby's layers alone trained more than
# LoRA of rank two everywhere, and was not ahead of it. And the row without the bend tempts one to say that the bend does harm. Would you? Take the pair again with three more seeds, and the interval of lesson 07.

# %% tags=["nbval-ignore-output", "heavy"]
pair = {name: [found[name][1]] for name in ("Houlsby, m = 12", "no bend, m = 12")}
for seed in (1, 2, 3):
    for name, rights in pair.items():
        method, places, lr, options = tried[name]
        model, tokenizer = pl.lab.load_base("polyglot-350k")
        torch.manual_seed(seed)
        pl.attach(model, method, places, **options)
        train(model, polyglot.dataset("it"), answers(tokenizer), steps=100, lr=lr, seed=seed, progress=False)
        rights.append(polyglot.accuracy(model, tokenizer, "it"))
gains = [with_bend - none for with_bend, none in zip(*pair.values())]
gain, half = interval(gains)
print("what the bend added, seed by seed:", *(f"{one:+.1%}" for one in gains))
print(f"on average {gain:+.1%} ± {half:.1%}")

# %% tags=["heavy"]
assert gain - half < 0, "nothing here says that the bend helped"

# %% [markdown]
# Read the seeds one by one before the average. The interval is far wider than most differences in the figure above, so the order of rows that lie close there means nothing. For Italian these runs do not show that the bend helped; nor
# do they show that it did harm.
#
# ## See: the bend, trained
#
# A straight way through the inputs of one layer of your trained models, from one random input to another. A layer that can be merged sends it along a straight way. How far off it is each of yours?

# %% tags=["nbval-ignore-output", "heavy"]
ends = torch.randn(2, 96, generator=torch.Generator().manual_seed(2)) * 3
share = torch.linspace(0, 1, 41)[:, None]
off = {}
for name in ("LoRA there, r = 8", "Houlsby, m = 12", "no bend, m = 12"):
    layer = trained[name].model.layers[0].self_attn.o_proj
    with torch.no_grad():
        way, (start, end) = layer(ends[0] + share * (ends[1] - ends[0])), layer(ends)
        off[name] = ((way - start - share * (end - start)).norm(dim=1) / (end - start).norm()).tolist()
off = {{"LoRA there, r = 8": "LoRA, r = 8"}.get(name, name): distances for name, distances in off.items()}
title, across = "A straight way in: how far off does it come out?", "how far along the way"
figures.show(
    figures.lines(share.flatten().tolist(), off, title, across, "distance, as a share of its length"),
    alt="Three curves over the way from one input to another. LoRA and the adapter without a bend lie on zero all along; "
    "Houlsby's adapter leaves the straight way after the start, lies furthest off somewhere in between, and comes back at the end.",
)

# %% tags=["heavy"]
assert max(off["LoRA, r = 8"]) < 1e-4 and max(off["no bend, m = 12"]) < 1e-4
assert max(off["Houlsby, m = 12"]) > 1e-2
pl.merge(trained["no bend, m = 12"])
pl.unmerge(trained["no bend, m = 12"])
try:
    pl.merge(trained["Houlsby, m = 12"])
except ValueError as error:
    print(str(error).split(":")[0])
else:
    raise AssertionError("this must be refused")

# %% [markdown]
# ## What it costs, for good
#
# What cannot be merged runs beside the model at each call, as long as it is used. Two ways to say how much: count the multiplications, which is exact, and take the time, which is not.
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
# minilm-l6 reads film sentences: one alone, or sixteen at once. First the multiplications for each token, which are the same everywhere.

# %%
ways = {
    "LoRA, r = 12": (LoRA, "all-linear", {"r": 12}),
    "LoRA, merged": (LoRA, "all-linear", {"r": 12}),
    "Houlsby, m = 24": (Houlsby, ["attention.output.dense", "output.dense"], {"reduction_factor": 16}),
    "Pfeiffer, m = 48": (Pfeiffer, norms, {"reduction_factor": 8}),
    "parallel, m = 48": (ParallelAdapter, r".*layer\.\d+\.output", {"reduction_factor": 8}),
}
reader, reader_tokenizer = pl.lab.load_base("minilm-l6")
sentences = pl.lab.sentiment("movies", "test")["text"][:16]
cut = {"padding": True, "truncation": True, "max_length": 32, "return_tensors": "pt"}
batches = {n: reader_tokenizer(sentences[:n], **cut) for n in (1, 16)}
tokens = batches[16]["input_ids"].numel()
frozen = pl.multiplications(reader, **batches[16])[0]
print(f"{'the model alone':17} {frozen / tokens / 1e6:.2f} million multiplications a token")
readers = {}
for name, (method, places, options) in ways.items():
    readers[name], _ = pl.lab.load_base("minilm-l6")
    pl.attach(readers[name], method, places, **options)
    if name == "LoRA, merged":
        pl.merge(readers[name])
        pl.detach(readers[name], keep_merged=True)  # the hooks go too
    extra = pl.multiplications(readers[name], **batches[16])[0] - frozen
    print(f"{name:17} {extra / tokens / 1e6:5.2f} million more, {extra / frozen:.1%}")
    if "m =" in name:
        width, how_many = 384 // options["reduction_factor"], 12 if method is Houlsby else 6
        assert extra == tokens * how_many * 2 * 384 * width
    assert (extra == 0) == (name == "LoRA, merged")

# %% [markdown]
# A detour multiplies $2 d m$ times for each token at each place, as often as its matrices have entries. Now the times, on this machine, in one run, as a ratio. They will not come out the same twice, and nothing
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
# A model that writes makes one pass for each token it writes, with a single token in it, so there the small products weigh most. polyglot-350k writes thirty tokens, with each method on all of its blocks. What does one token cost?

# %% tags=["nbval-ignore-output", "heavy"]
writer, writer_tokenizer = pl.lab.load_base("polyglot-350k")
question = writer_tokenizer(["<es>342="], return_tensors="pt")


def writes(model):
    def run():
        model.generate(**question, min_new_tokens=30, max_new_tokens=30, do_sample=False)

    return run


a_token, more = {}, {}
for name, (method, places, options) in {
    "LoRA, merged": (LoRA, "all-linear", {"r": 8}),
    "LoRA": (LoRA, "all-linear", {"r": 8}),
    "Houlsby, m = 12": (Houlsby, ["o_proj", "down_proj"], {"reduction_factor": 8}),
    "Pfeiffer, m = 12": (Pfeiffer, r"model\.layers\.\d+", {"reduction_factor": 8}),
    "parallel, m = 12": (ParallelAdapter, ["mlp"], {"reduction_factor": 8}),
}.items():
    adapted, _ = pl.lab.load_base("polyglot-350k")
    pl.attach(adapted, method, places, **options)
    if name == "LoRA, merged":
        pl.merge(adapted)
        pl.detach(adapted, keep_merged=True)
    more[name] = sum(pl.multiplications(m, **question)[0] * sign for m, sign in ((adapted, 1), (writer, -1)))
    a_token[name] = slowdown(writes(writer), writes(adapted.eval()), time.perf_counter, 5)
    print(f"{name:17} {a_token[name]:.2f} times the base model's time for a generated token")

# %% tags=["nbval-ignore-output", "heavy"]
print("multiplications added, in the same order:", *more.values())
assert more["LoRA, merged"] == 0 < min(extra for name, extra in more.items() if name != "LoRA, merged")

# %% [markdown]
# Many small products one after another take longer than their multiplications say, since each must be called, and each waits for the one before. That is what "adapters slow inference down" means. LoRA that
# is *not* merged pays as well. The row that can be had for nothing is the merged one, whose hooks were taken off too, and only something without a bend can be in it. How far its number is from one
# tells how far to trust the others.
#
# ## 7. Fusion, in one picture
#
# {{adapter-fusion}}
#
# New computation can be put side by side. **AdapterFusion** leaves trained adapters as they are, runs them all, and learns at each place which of them to hear:
# a score for each adapter, the query of `h` times the key of that adapter's output; weights by a softmax over the adapters; and the values of the outputs, mixed.
#
# $$w_i = \operatorname{softmax}_i\big((Q h) \cdot (K o_i)\big), \qquad h \rightarrow \sum_i w_i V o_i$$
#
# Here $o_i = h + {}$detour$_i(h)$ is what adapter $i$ makes of $h$. Write `fuse(h, outputs, Q, K, V)`, with `outputs` of shape `(n, ..., d)`. Return what replaces h, `(..., d)`, and the weights, `(n, ...)`.


# %%
def fuse(h, outputs, Q, K, V):
    """(what replaces h, the weights of the n adapters)."""
    ### BEGIN SOLUTION
    scores = (F.linear(h, Q) * F.linear(outputs, K)).sum(-1)
    weights = scores.softmax(0)
    return (weights.unsqueeze(-1) * F.linear(outputs, V)).sum(0), weights
    ### END SOLUTION


# %%
check("adapter-fusion", fuse)

# %% [markdown]
# Your Pfeiffer adapter has learnt Italian. A second one learns Portuguese, on the same model; then both are frozen, and your `fuse` learns from numbers in both languages, which the tags tell apart.

# %% tags=["nbval-ignore-output", "heavy"]
fused = trained["Pfeiffer, m = 96"]
torch.manual_seed(1)
pl.attach(fused, Pfeiffer, a_block, name="portuguese", reduction_factor=1)
pl.use(fused, "portuguese")
train(fused, polyglot.dataset("pt"), answers(tokenizer), steps=100, lr=0.02, progress=False)
speaks = {}
for name in ("italian", "portuguese"):
    pl.use(fused, name)
    speaks[name] = [polyglot.accuracy(fused, tokenizer, language) for language in ("it", "pt")]

pl.use(fused)
fused.requires_grad_(False)
heard = {}


def listen(layer, inputs, h):
    outputs = torch.stack([h + layer.adapters[name].bottleneck(h) for name in ("italian", "portuguese")])
    h, heard[layer] = fuse(h, outputs, layer.query, layer.key, layer.value)
    return h


for layer in fused.model.layers:
    layer.query, layer.key = (nn.Parameter(torch.randn(96, 96) / 96) for _ in range(2))
    layer.value = nn.Parameter(torch.eye(96))
    layer.register_forward_hook(listen)
both = [row for rows in zip(polyglot.dataset("it"), polyglot.dataset("pt")) for row in rows]
train(fused, both, answers(tokenizer), steps=80, lr=0.003, progress=False)
speaks["both, fused"] = [polyglot.accuracy(fused, tokenizer, language) for language in ("it", "pt")]
for name, (italian, portuguese) in speaks.items():
    print(f"{name:12} Italian {italian:6.1%}   Portuguese {portuguese:6.1%}")
print(f"one adapter trains {found['Pfeiffer, m = 96'][0]:,} numbers, the fusion {pl.count(fused).trainable:,}")

# %% tags=["heavy"]
assert speaks["italian"][1] < 0.2 and speaks["portuguese"][0] < 0.2
assert min(speaks["both, fused"]) > 0.3
assert speaks["both, fused"][0] < speaks["italian"][0] + 0.05 and speaks["both, fused"][1] < speaks["portuguese"][1] + 0.05

# %% tags=["nbval-ignore-output", "heavy"]
shares = []
with torch.no_grad():
    for language in ("it", "pt"):
        rows = [polyglot.dataset(language, "test")[i] for i in range(100)]
        batch = answers(tokenizer)(rows)
        fused(**batch)
        written = batch["labels"] != -100
        shares.append([heard[layer][0][written].mean().item() for layer in fused.model.layers])
figures.show(
    figures.table(
        torch.tensor(shares),
        ["Italian asked", "Portuguese asked"],
        ["block 1", "block 2", "block 3"],
        "How much of the Italian adapter is heard",
        "weight",
    ),
    alt="A table of two rows, Italian asked and Portuguese asked, and three columns, the blocks. In each cell the mean weight of "
    "the Italian adapter while the answer is written; the Portuguese one has the rest. The rows differ: more of the Italian "
    "adapter is heard when Italian is asked.",
)

# %% tags=["heavy"]
assert max(a - b for a, b in zip(*shares)) > 0.1, "the tag decides which adapter is heard, in one block at least"

# %% [markdown]
# Neither adapter alone speaks the other's language. Fused, one model speaks both, each less well than its own adapter did alone, after so few steps; and nothing of either was changed. The bill: three matrices of full width at each place are more numbers than an adapter
# of moderate width, and every adapter in the fusion runs for every token.
#
# ## The library
#
# `peft` has no bottleneck adapters.

# %%
kinds = [kind.value for kind in peft.PeftType]
print(f"{len(kinds)} methods in peft; with 'adapt' in the name:", [kind for kind in kinds if "ADAPT" in kind])
assert not [kind for kind in kinds if any(word in kind for word in ("BOTTLENECK", "HOULSBY", "PFEIFFER"))]

# %% [markdown]
# The one it finds is LLaMA-Adapter, a matter of lesson 06 in spite of its name. The library that has them is called `adapters`, and it wants another version of `transformers`. So its answers were taken once and
# kept, in `tests/golden`: those of tiny models whose every number follows from its name. Your `bottleneck`, hung on the same tiny Llama in all three places, should give the same logits.

# %%
sys.path.append(str(ROOT / "tests"))
import tiny

golden = json.loads((ROOT / "tests" / "golden" / "golden.json").read_text())
print("kept from", {name: golden["made with"][name] for name in ("adapters", "transformers")})


def detour(number, where, m, f, scale=1.0):
    """Your bottleneck with the numbers that belong to one place of the tiny Llama, 16 wide."""
    shapes = {"down.weight": (m, 16), "down.bias": (m,), "up.weight": (16, m), "up.bias": (16,)}
    D, a, U, b = (tiny.numbers(f"{number}.{where}.{name}", shape) for name, shape in shapes.items())
    return lambda h: scale * bottleneck(h, D, a, U, b, f)


def hang(place, add, reader=None):
    """Add a detour to what leaves `place`; it reads the same, or what enters the layer `reader`."""
    seen = {}
    if reader:
        reader.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    place.register_forward_hook(lambda _, inputs, h: h + add(seen["x"] if reader else h))


def hung(how):
    """The tiny Llama with your bottleneck in every block, filled as the library's was."""
    model = tiny.tiny("llama")
    for i, layer in enumerate(model.model.layers):
        if how == "double_seq_bn":  # Houlsby
            hang(layer.self_attn.o_proj, detour(i, "attention", 4, F.silu))
            hang(layer.mlp.down_proj, detour(i, "output", 4, F.silu))
        elif how == "seq_bn":  # Pfeiffer
            hang(layer, detour(i, "output", 4, F.relu))
        else:  # parallel: it reads what enters the norm before the feed-forward part
            hang(layer.mlp, detour(i, "output", 8, F.relu, scale=4), reader=layer.post_attention_layernorm)
    return model


given = {name: tensor for name, tensor in tiny.batch("llama").items() if name != "labels"}
for how in ("double_seq_bn", "seq_bn", "par_bn"):
    with torch.no_grad():
        mine = hung(how)(**given).logits[:, -1].flatten()
    theirs, untouched = (torch.tensor(golden["llama"][case]["logits"]) for case in (how, "no adapter"))
    print(f"{how:14} yours and the library's the same: {torch.allclose(mine, theirs, atol=1e-5)}")
    assert torch.allclose(mine, theirs, atol=1e-5) and not torch.allclose(untouched, theirs, atol=1e-2)

# %% [markdown]
# The course's own `ParallelAdapter` reads *behind* that norm on a Llama, where the feed-forward part reads too; on BERT, where the norms stand elsewhere, the two agree. Both are "parallel", and they are not the same model: two libraries' adapters of
# one name need not be exchangeable.
#
# The nearest thing in `peft` is what remains without the bend. $W x + U D W x$ is a LoRA with $B = U$ and $A = DW$; the biases go into that of $B$. Hand the row without a bend of your comparison to `peft`:

# %% tags=["heavy"]
straight = trained["no bend, m = 12"]
base, _ = pl.lab.load_base("polyglot-350k")
theirs = peft.get_peft_model(base, peft.LoraConfig(r=12, lora_alpha=12, target_modules=behind, lora_bias=True))
with torch.no_grad():
    for path, layer in straight.named_modules():
        if hasattr(layer, "adapters"):
            adapter, lora = layer.adapters["italian"], theirs.base_model.model.get_submodule(path)
            lora.lora_A["default"].weight.copy_(adapter.down.weight @ layer.weight)
            lora.lora_B["default"].weight.copy_(adapter.up.weight)
            lora.lora_B["default"].bias.copy_(adapter.up(adapter.down.bias))
    batch = tokenizer(["<it>342=", "<it>777="], return_tensors="pt")
    gap = (theirs.eval()(**batch).logits - straight.eval()(**batch).logits).abs().max().item()
print("peft's LoRA and your adapter without a bend, the same logits:", gap < 1e-3)
assert gap < 1e-3

# %% [markdown]
# An adapter without a bend *is* a LoRA, whose `A` is tied to the frozen weight.
#
# ## Read the result
#
# **What it shows.** An adapter is a small network with a bend, added in a place. The bend lets it do what no matrix can, and for the same reason no weight can take it in: it runs, and costs, for ever. Where a task wants no bend it can
# learn to do nearly without. Its start may be near
# the base model; it need not be exactly on it. Its size is a setting, as LoRA's rank is.
#
# **What it does not show.** The comparison with LoRA is one seed, a hundred steps, one small model, one learning rate a row. The pair you took with more seeds says how far a row may move. Times were taken on one machine; on
# one that does many things at once the small products may weigh more, or less. A task that is bent would look different, and you saw one only where it was planted.
#
# | claim | here |
# | --- | --- |
# | C12: *adapters are down and up projections inside each block* | so by definition; three places, and you built each |
# | C13: *7 to 26 million on a model of 560 million, depending on the task* | the numbers come out exactly, as two reduction factors, 8 and 2: it depends on the setting |
# | C14: *adapters add more parameters than LoRA* | not by nature: reduced 64 times they train fewer than LoRA of rank 32. At equal quality on Italian they did train more, in one run |
# | C15: *they can capture more complex behaviour* | more than any matrix, shown on a planted task. For Italian no gain from the bend could be shown |
# | C35: *a middle ground with more capacity than LoRA* | not found here: at about equal size they learnt no more, in one run |
#
# **Negative results, said aloud.** None of the three adapters was ahead of LoRA for its size. The bend, which cannot be merged, could not be shown to help. And the fused model spoke each language less well
# than that language's own adapter.
#
# ## Go further
#
# - Teach Turkish with the same rows and more steps. Does the bend pay where the task is far?
# - Keep the fusion's values `V` as they start, and train queries and keys alone. Is choosing enough, or is it `V` that does the work?
# - Give the fusion a third adapter that has learnt nothing. Does it find out whom not to hear?
# - An open question: on the turned task nearly all inputs came to lie on one side of the bend. How many do in a real model? Where all do, the adapter could be merged after all, for these inputs.
#
# Sources: Houlsby, [arXiv:1902.00751](https://arxiv.org/abs/1902.00751); Pfeiffer and AdapterFusion, [arXiv:2005.00247](https://arxiv.org/abs/2005.00247); parallel adapters,
# [arXiv:2110.04366](https://arxiv.org/abs/2110.04366). The claims on sizes: [arXiv:2308.07282](https://arxiv.org/abs/2308.07282). Sentences: Hutto and Gilbert, ICWSM 2014. The libraries: `adapters` and `peft`, both Apache-2.0.
