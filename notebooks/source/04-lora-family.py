# %% [markdown]
# # 04 The LoRA family
#
# **105 minutes** of reading and doing, **90 seconds** of computing on two quiet cores. Before this: lesson 03.
#
# After this page you will have built rsLoRA, DoRA, PiSSA, the heart of AdaLoRA and LoRA+, each a few lines away from the LoRA you wrote. You will
# have seen what each of them changes, what a larger rank does and does not do, and why this page does not say which of them is best.

# %%
import warnings
from itertools import product

import peft
import torch
import torch.nn.functional as F
from peft.optimizers import create_loraplus_optimizer
from torch import nn

import peftlab as pl
from peftlab.classroom import check, predict
from peftlab.lab import figures, polyglot, records, widgets
from peftlab.lab.sweeps import best_rates, complete, interval
from peftlab.lab.training import answers, rows_of, schedule, train
from peftlab.layers import adapted
from peftlab.methods import AdaLoRA, LoRA
from peftlab.methods.adalora_budget import budget

warnings.filterwarnings("ignore")

# %% [markdown]
# ## Predict

# %%
predict("rank-and-size")

# %% [markdown]
# ## The idea
#
# LoRA is $y = W x + b + s B A x$ with $s = \alpha / r$. Each relative changes one thing in it:
#
# $$V = W + s\,B A, \qquad y = m \odot \frac{V}{\lVert V \rVert} x + b$$
#
# - $W$, $d_{out} \times d_{in}$, and $b$, where there is one, are frozen; $A$, $r \times d_{in}$, and $B$, $d_{out} \times r$, are trained; $x$ is the input of
#   the layer and $y$ its output;
# - rsLoRA, from lesson 03, changes the scale $s$; **LoRA+** changes how fast $B$ learns;
# - **PiSSA** changes where $A$ and $B$ start; **AdaLoRA** changes how many of the $r$ terms each layer may keep;
# - **DoRA** is the second equation: $\lVert V \rVert$ holds the norm of each *row* of $V$, and $m$, of $d_{out}$ entries, is trained and sets
#   those norms anew. $m$ is called the magnitude, a row of norm one the direction.
#
# PyTorch stores a weight as (out, in), so the weights of one output are a row. Papers that write it the other way call the same thing a column norm.
#
# In a picture: a row of the weight is an arrow. LoRA moves its tip. DoRA turns it, and decides on its norm apart from that.

# %% tags=["hide-source"]
figures.show(
    figures.turned_row(),
    alt="Two drawings of one arrow. On the left LoRA adds a second arrow to its tip, which changes norm and direction at "
    "once. On the right DoRA turns the arrow along a circle and then makes it longer along its new direction.",
)

# %% [markdown]
# ## Build it
#
# ### 1. rsLoRA: the scale
#
# {{rslora-scale}}
#
# Write `scale(r, alpha, rank_stabilised)`: LoRA's factor, or, when switched on, rsLoRA's, which divides by the *root* of the rank.


# %%
def scale(r, alpha, rank_stabilised):
    """What stands before B A x."""
    ### BEGIN SOLUTION
    return alpha / (r**0.5 if rank_stabilised else r)
    ### END SOLUTION


# %%
check("rslora-scale", scale)

# %% [markdown]
# Your prediction, now measured: `B` after one step of Adam (every entry moved by the learning rate, up or down), `A` as it starts.

# %%
draw = torch.Generator().manual_seed(0)
ranks = [1, 2, 4, 8, 16, 32, 64, 128]
first_step = {"LoRA": [], "rsLoRA": []}
for r in ranks:
    A = torch.randn(r, 256, generator=draw) / 16
    B = 0.01 * torch.randn(256, r, generator=draw).sign()
    for name, stabilised in (("LoRA", False), ("rsLoRA", True)):
        first_step[name].append(float((scale(r, 8, stabilised) * B @ A).norm()))
print(f"{'rank':7}", *(f"{r:6}" for r in ranks))
for name, norms in first_step.items():
    print(f"{name:7}", *(f"{norm:6.2f}" for norm in norms), "  Frobenius norm")
by_rank = dict(zip(ranks, first_step["LoRA"]))
print(f"LoRA, rank 64 over rank 4: {by_rank[64] / by_rank[4]:.2f}")
assert 0.2 < by_rank[64] / by_rank[4] < 0.3, "LoRA's norm was to fall to about a quarter"
assert max(first_step["rsLoRA"]) < 1.3 * min(first_step["rsLoRA"]), (
    "rsLoRA's norm was to stay: look at its row"
)

# %% [markdown]
# LoRA's first step shrinks like one over the root of the rank, and rsLoRA's stays. Mind what this is: a statement about the *scale*. At one rank, rsLoRA is LoRA with
# another alpha, `alpha` times the root of `r`, and nothing else. What a larger rank is good for is another question; it comes below, and you will predict the answer.
#
# ### 2. DoRA: magnitude and direction
#
# {{dora-forward}}
#
# Write `dora_forward(x, weight, bias, A, B, magnitude, alpha)`, the second equation above. `bias` is `None` where the layer has none. In the backward pass the norm of $V$ counts as a
# constant: that saves memory, and it is how paper and library do it.


# %%
def dora_forward(x, weight, bias, A, B, magnitude, alpha):
    """The output, (..., d_out); magnitude: (d_out,); bias: (d_out,) or None."""
    ### BEGIN SOLUTION
    V = weight + alpha / A.shape[0] * B @ A
    return F.linear(x, V * (magnitude / V.norm(dim=1).detach())[:, None], bias)
    ### END SOLUTION


# %%
check("dora-forward", dora_forward)

# %% [markdown]
# ### 3. PiSSA: the start
#
# {{pissa-start}}
#
# Write `pissa_start(weight, r, alpha)`, which returns `A` and `B` such that `alpha / r * B @ A` is the truncated SVD of the weight, of rank `r`. The root of
# each singular value goes to either side. What `A` and `B` hold now is taken out of the frozen weight, so the model still starts as it was.


# %%
def pissa_start(weight, r, alpha):
    """A, (r, d_in), and B, (d_out, r)."""
    ### BEGIN SOLUTION
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    root = (S[:r] * r / alpha).sqrt()
    return root[:, None] * Vh[:r], U[:, :r] * root
    ### END SOLUTION


# %%
check("pissa-start", pissa_start)

# %% [markdown]
# ### 4. Why its file is not a LoRA file
#
# {{pissa-as-lora}}
#
# Save that `A` and `B`, load them as a LoRA on the untouched base, and the truncated SVD is in there twice. What training *changed* is
# $s (B A - B_0 A_0)$. Write `as_lora(A, B, A0, B0, alpha)`, which returns `A`, `B` and `alpha` of a plain LoRA of twice the rank that adds just this. (In `peft` the argument
# `path_initial_model_for_weight_conversion` of `save_pretrained` does it: it wants the path of the adapter as it was before training.)


# %%
def as_lora(A, B, A0, B0, alpha):
    """A, (2 r, d_in), B, (d_out, 2 r), and alpha, for the untouched weight."""
    ### BEGIN SOLUTION
    return torch.cat((A, A0)), torch.cat((B, -B0), dim=1), 2 * alpha
    ### END SOLUTION


# %%
check("pissa-as-lora", as_lora)

# %% [markdown]
# ### 5. AdaLoRA: the budget
#
# {{adalora-keep}}
#
# AdaLoRA puts a parameter $e_i$ between each row of `A` and column of `B`: the three are a triplet. Each triplet gets a score, how much the training loss would
# change without it, and the weakest are switched off, wherever they are. Write `keep_best(scores, budget)`: for a dict from layers to scores, `(r,)` each, the dict of masks that
# keeps the `budget` best of *all* layers together, and no more, also where scores are equal. A mask is a tensor of type `bool`.


# %%
def keep_best(scores, budget):
    """{layer: mask (r,)}, true for what stays."""
    ### BEGIN SOLUTION
    flat = torch.cat(list(scores.values()))
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[flat.topk(budget).indices] = True
    return dict(zip(scores, mask.split([len(s) for s in scores.values()])))
    ### END SOLUTION


# %%
check("adalora-keep", keep_best)

# %% [markdown]
# ### 6. LoRA+: a faster B
#
# {{lora-plus-groups}}
#
# Write `groups(named_parameters, lr, ratio)`, the list of parameter groups for an optimizer of PyTorch: whatever is trainable learns at `lr`, but each
# `lora_B` at `ratio` times as much. `named_parameters` may be what `model.named_parameters()` gives: a generator, which can be gone through once.


# %%
def groups(named_parameters, lr, ratio):
    """A list of {"params": [...], "lr": ...} from (name, parameter) pairs."""
    ### BEGIN SOLUTION
    rest, fast = [], []
    for name, p in named_parameters:
        if p.requires_grad:
            (fast if "lora_B" in name else rest).append(p)
    return [{"params": rest, "lr": lr}, {"params": fast, "lr": lr * ratio}]
    ### END SOLUTION


# %%
check("lora-plus-groups", groups)

# %% [markdown]
# ## Run it on a real model
#
# Your functions, in the place of LoRA's lines. polyglot-350k learns Italian with each, one seed and one learning rate.

# %% tags=["heavy"]
ALPHA, R = 16, 8


class Stabilised(LoRA):
    def __init__(self, layer, r=R, lora_alpha=ALPHA):
        super().__init__(layer, r, lora_alpha)
        self.scaling = scale(r, lora_alpha, True)


class Turned(LoRA):
    def __init__(self, layer, r=R, lora_alpha=ALPHA):
        super().__init__(layer, r, lora_alpha)
        self.alpha, self.magnitude = lora_alpha, nn.Parameter(self.weight.norm(dim=1))

    def after(self, x, y):
        trained = self.lora_A, self.lora_B, self.magnitude
        return dora_forward(x, self.weight, self.layer.bias, *trained, self.alpha)


class Principal(LoRA):
    def __init__(self, layer, r=R, lora_alpha=ALPHA):
        super().__init__(layer, r, lora_alpha)
        self.start = pissa_start(self.weight, r, lora_alpha)
        A0, B0 = (t.clone().contiguous() for t in self.start)
        self.lora_A, self.lora_B = nn.Parameter(A0), nn.Parameter(B0)

    def after(self, x, y):
        A0, B0 = self.start
        return super().after(x, y) - self.scaling * F.linear(F.linear(x, A0), B0)


def learn_italian(method, steps=60, lr=0.01, **options):
    """The losses of training, and the accuracy on unseen numbers."""
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(0)
    pl.attach(model, method, "all-linear", name="it", **options)
    italian = polyglot.dataset("it")
    run = train(model, italian, answers(tokenizer), steps=steps, lr=lr, progress=False)
    return run.losses, polyglot.accuracy(model, tokenizer, "it")


# %% tags=["nbval-ignore-output", "heavy"]
plain = {"r": R, "lora_alpha": ALPHA}
variants = {"LoRA": LoRA, "rsLoRA": Stabilised, "DoRA": Turned, "PiSSA": Principal}
learnt = {name: learn_italian(method, **plain) for name, method in variants.items()}
print("mean loss of ten steps, up to step", *(f"{step:7}" for step in range(10, 61, 10)))
for name, (losses, accuracy) in learnt.items():
    tens = (sum(losses[i : i + 10]) / 10 for i in range(0, 60, 10))
    print(f"{name:33}", *(f"{mean:7.3f}" for mean in tens), f"  Italian {accuracy:.1%}")

# %% tags=["heavy"]
assert len({round(losses[0], 3) for losses, _ in learnt.values()}) == 1, (
    "all were to start as the base model: compare the first losses"
)
assert all(losses[-1] < losses[0] / 4 for losses, _ in learnt.values()), (
    "one of them has not learnt: look at its row"
)

# %% [markdown]
# All learn it. Which is best? One seed and one rate: *cannot tell*. Another seed moves such rows too, and a rate that suits one need not suit another, above all where the scale differs.
#
# That the scale is all that sets rsLoRA apart, you can see: LoRA with that alpha, step by step.

# %% tags=["heavy"]
as_alpha = {"r": R, "lora_alpha": ALPHA * R**0.5}
one, _ = learn_italian(Stabilised, 10, **plain)
other, _ = learn_italian(LoRA, 10, **as_alpha)
largest = max(abs(a - b) for a, b in zip(one, other))
print(f"rsLoRA with alpha {ALPHA} and LoRA with alpha {ALPHA * R**0.5:.2f}:")
print(f"ten losses each, equal to three digits: {largest < 0.001}")
assert largest < 0.001, "the two were to be one method: look at your scale"

# %% [markdown]
# ### Does a larger rank help?

# %%
predict("does-rank-help")

# %% [markdown]
# Act on it: put the rank that you would choose into `yours`, and train. The rate is that of the run above.

# %% tags=["nbval-ignore-output", "heavy"]
yours = 32
losses, accuracy = learn_italian(LoRA, r=yours, lora_alpha=ALPHA)
for r, (loss, right) in {R: learnt["LoRA"], yours: (losses, accuracy)}.items():
    print(f"rank {r:3}: loss at the end {sum(loss[-10:]) / 10:.3f}, Italian {right:.1%}")

# %% [markdown]
# One seed again, and one rate. To answer, two things are needed.
#
# **A learning rate for each.** Train each method at several rates, a **learning-rate sweep**, and choose one by something that is not the test: a
# **validation set**, examples held back for such choices, or, as here, the loss at the end of training. The best should lie *inside* the grid: if it is the smallest or the largest rate tried, a better one may
# lie beyond. The table says where that is so.
#
# **Differences seed by seed.** Each seed gave every method the same examples in the same order, so the methods are compared within each seed: **paired differences**. Their
# mean comes with a 95 % confidence interval. The **sign-flip test** asks how often chance alone does as much: if two methods were alike, each difference
# could as well have had the other sign. `p` is the share of all choices of signs whose mean is at least as far from zero. With five seeds there are 32 choices, and the two most extreme are more than 5 % of them:
# no result at all could be significant. These records have six seeds and so 64 choices, and `p` can fall to 0.031, if all six differences have one sign. Many pairs are compared on this page, and one in
# twenty falls under 5 % by chance alone.


# %% tags=["nbval-ignore-output"]
def sign_flip(differences):
    """p of the paired differences, on both sides."""
    signs = product((1, -1), repeat=len(differences))
    flipped = [abs(sum(s * d for s, d in zip(one, differences))) for one in signs]
    return sum(f > abs(sum(differences)) - 1e-12 for f in flipped) / len(flipped)


def paired(best, one, other, metric):
    """one - other, seed by seed: (differences, mean, half of the 95 % interval)."""
    values = (best[best["kind"] == k].set_index("seed")[metric] for k in (one, other))
    differences = list((next(values) - next(values)).dropna())
    return differences, *interval(differences)


def report(runs, pairs):
    """The runs at the best rates; for each pair, one method beside another, a line."""
    best, edges = best_rates(runs, ["kind"], by="train_loss", lowest=True), ""
    print(f"{'':21} {'lr':8} parameters   Italian   difference, in points         p")
    for one, other in pairs:
        rows, grid = best[best["kind"] == one], runs[runs["kind"] == one]["lr"]
        lr, trainable = rows["lr"].iloc[0], rows["trainable"].iloc[0]
        edge = "*" if lr in (grid.min(), grid.max()) else " "
        line = f"{one:21} {lr:<6g}{edge} {trainable:8,} {rows['learnt'].mean():10.1%}"
        if one != other:
            each, mean, half = paired(best, one, other, "learnt")
            line += f"   {100 * mean:+5.1f} ± {100 * half:3.1f} to {other:12}"
            line += f" {sign_flip(each):.3f}"
        print(line)
        edges += edge
    if "*" in edges:
        print("* the best rate lies at the edge of its grid: a better one may lie beyond")
    return best


family = complete(records.load("lora-family"))
large = "LoRA, r = 32"
pairs = [("LoRA", "LoRA"), (large, "LoRA"), ("rsLoRA, r = 32", large)]
at_best = report(family, [*pairs, ("rsLoRA, r = 32", "LoRA")])
print(f"{family['seed'].nunique()} seeds. {records.stamp(family)}")

# %%
_, mean, half = paired(at_best, large, "LoRA", "learnt")
assert abs(mean) < half < 0.06, "rank 32 could be told from rank 8: look at that line"
_, mean, half = paired(at_best, "rsLoRA, r = 32", large, "learnt")
assert mean > half, "rsLoRA was ahead of LoRA at rank 32: look at that line"

# %% [markdown]
# The second line answers the prediction. Rank 32 trains four times as many parameters as rank 8 and ends where rank 8 does, and the interval holds zero: these runs cannot say that it helps, nor that it
# hurts; a gain of more than four points lies outside the interval. A higher rank is room, and here there was room enough.
#
# rsLoRA of rank 32 is ahead of LoRA of rank 32 on every seed, and that is the comparison usually shown. But beside LoRA of *rank 8*, which you would otherwise use, the interval holds zero again. And since
# rsLoRA is LoRA with another alpha, what it gains at rank 32 is the step that LoRA's shrinking scale took away. How much of it a finer sweep would give LoRA back, with factors of three between the rates, these
# runs do not say. A harder task may need the room.
#
# ### The variants, each at its best rate
#
# All of rank eight, beside LoRA of rank eight; LoRA+ with two ratios, its rate being that of `A`.

# %% tags=["nbval-ignore-output"]
others = ["rsLoRA", "DoRA", "LoRA+, ratio 4", "LoRA+, ratio 16"]
report(family, [("LoRA", "LoRA"), *((kind, "LoRA") for kind in others)])
for kind in ("LoRA", "rsLoRA"):
    sweep = family[family["kind"] == kind].groupby("lr")[["train_loss", "early"]].mean()
    for lr, loss in sweep.iterrows():
        told = f"{kind:6} lr {lr:<5g}: loss at the end {loss['train_loss']:.4f}"
        print(f"{told}, of steps 20 to 30 {loss['early']:.3f}")
for kind in others:
    each, mean, half = paired(at_best, kind, "LoRA", "early")
    told = f"loss of steps 20 to 30, {kind:15} minus LoRA: {mean:+.3f} ± {half:.3f}"
    print(f"{told}, p = {sign_flip(each):.3f}")

# %%
for kind in others:
    _, mean, half = paired(at_best, kind, "LoRA", "learnt")
    assert abs(mean) < half, f"{kind} could be told from LoRA: look at its line"
tried = family.groupby("kind")["lr"].unique()
between = at_best[at_best["kind"] == "rsLoRA"]["lr"].iloc[0]
assert between not in tried["LoRA"], "the best rate of rsLoRA lies between two of LoRA's"
_, mean, half = paired(at_best, "rsLoRA", "LoRA", "early")
assert mean < -half, "rsLoRA was ahead early on: look at its last line"

# %% tags=["nbval-ignore-output", "hide-source"]
differences = [paired(at_best, kind, "LoRA", "learnt")[1:] for kind in others]
figures.show(
    figures.intervals(
        others,
        {"minus LoRA": [(100 * mean, 100 * half) for mean, half in differences]},
        f"Paired differences from LoRA of rank 8, {family['seed'].nunique()} seeds",
        "",
        "difference, points of accuracy",
        levels={"no difference": 0},
        joined=False,
    ),
    alt="Four differences from LoRA of rank eight in points of accuracy, with intervals: rsLoRA, DoRA, and LoRA+ with two ratios. Each interval holds zero.",
)

# %% [markdown]
# At the end nobody can be told from LoRA: not DoRA, not rsLoRA, and LoRA+ with neither ratio, each at its own best rate.
#
# And on the way? The loss of steps 20 to 30 puts rsLoRA and DoRA ahead of LoRA. Before you believe the first, read the two sweeps: rsLoRA was tried at five rates and LoRA at three, and the best of the five lies
# *between* two that were tried. At one rank the two are one method with two alphas, so what is ahead here is the finer grid, not the method: whoever gets more rates to choose from
# tends to win. DoRA had LoRA's own three rates and the same best one. Its interval leaves zero out and its `p` does not fall under 5 %; of four comparisons made twice each, that is not much.
#
# ### Where to start
#
# Again Italian, with half as many steps again. Beside PiSSA stand OLoRA, which starts from a QR decomposition of the weight, and MiCA, which freezes `B` at the left singular vectors with the
# *smallest* singular values and trains `A` alone. So MiCA of rank eight trains fewer than half of the parameters: mind that column. Its control is a pair of one size, LoRA of
# rank four and MiCA of rank nine.

# %% tags=["nbval-ignore-output"]
runs = complete(records.load("initialisations"))
runs["kind"] = runs["start"]
small, mica = "lora, r = 4", "mica, r = 9"
pairs = [(start, "lora") for start in ("lora", "pissa", "olora", "mica")]
starts = report(runs, [*pairs, (small, small), (mica, small)])
for kind in ("pissa", "olora"):
    each, mean, half = paired(starts, kind, "lora", "early")
    told = f"loss of steps 20 to 30, {kind:5} minus lora: {mean:+.3f} ± {half:.3f}"
    print(f"{told}, p = {sign_flip(each):.3f}")
print(f"{runs['seed'].nunique()} seeds. {records.stamp(runs)}")

# %%
for kind in ("pissa", "olora"):
    _, mean, half = paired(starts, kind, "lora", "learnt")
    assert abs(mean) < half, f"{kind} could be told from LoRA: look at its line"
    _, mean, half = paired(starts, kind, "lora", "early")
    assert mean < -half, f"{kind} was ahead early on: look at its last line"
_, mean, half = paired(starts, mica, small, "learnt")
assert mean < -half, "MiCA was behind LoRA of its own size: look at its line"

# %% [markdown]
# Early on the two that start inside the weight are a little ahead of LoRA, on every seed, at a smaller learning rate than LoRA's. At the end the three cannot be told apart.
#
# MiCA ends behind LoRA of rank eight, and that alone would say little: it trains fewer than half of the parameters. But beside LoRA of rank four, which has as many, it is behind as well, on
# every seed, each at its best rate inside its grid. Here it costs something to hold `B` still.
#
# ### The budget moves
#
# AdaLoRA does nothing by itself: the training loop has to run its contest. Here is a whole loop, 80 steps with six triplets a layer at first and three on average in the end. Each step
# keeps the scores up to date, from the gradients, before they are cleared. Until step 10 nothing is switched off (`tinit` in `peft`); then the budget falls, and every 5 steps (`deltaT`) your function
# chooses anew; a triplet that was off can come back. After step 60 the choice stands, and 20 steps (`tfinal`) train what is left.

# %% tags=["nbval-ignore-output", "heavy"]
model, tokenizer = pl.lab.load_base("polyglot-350k")
torch.manual_seed(0)
how = {"init_r": 6, "target_r": 3, "lora_alpha": 16}
pl.attach(model, AdaLoRA, "all-linear", name="it", **how)
adapters = {path: layer.adapters["it"] for path, layer in adapted(model, "it")}
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, weight_decay=0.0)
italian, collate = polyglot.dataset("it"), answers(tokenizer)
kept, layers = {}, len(adapters)
for step in range(1, 81):
    rows = rows_of(step - 1, len(italian), 32, seed=0)
    loss = model(**collate([italian[i] for i in rows])).loss
    loss = loss + sum(a.penalty() for a in adapters.values())  # rows of A: orthogonal
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.param_groups[0]["lr"] = 0.03 * schedule(step - 1, 80, 8)
    optimizer.step()
    with torch.no_grad():
        for a in adapters.values():
            a.scores.update(a.triplets())
        choose = 10 < step <= 60 and step % 5 == 0
        if choose:
            scores = {p: a.scores.importance().flatten() for p, a in adapters.items()}
            masks = keep_best(scores, budget(step, 10, 60, 6 * layers, 3 * layers))
            for path, a in adapters.items():
                a.kept.copy_(masks[path][:, None])
        if choose or step > 60:
            for a in adapters.values():
                a.lora_E.masked_fill_(~a.kept, 0.0)
    if step % 10 == 0:
        kept[step] = {path: int(a.kept.sum()) for path, a in adapters.items()}
last = kept[80]
least, most = min(last.values()), max(last.values())
print(f"{len(last)} layers began with 6 triplets each;", end=" ")
print(f"left: {sum(last.values())}, from {least} to {most} a layer")
print(f"Italian {polyglot.accuracy(model, tokenizer, 'it'):.1%}")

# %% tags=["heavy"]
assert sum(last.values()) == 3 * len(last), "not 3 a layer on average: look at keep_best"
assert len(set(last.values())) > 1, "all layers kept as many: nothing has moved"
assert set(kept[10].values()) == {6}, "nothing was to be switched off up to step 10"

# %% tags=["nbval-ignore-output", "heavy", "hide-source"]
figures.show(
    figures.budget(kept),
    alt="A table in colours, one row a linear layer and one column for every tenth step, with the number of triplets kept. At the start every layer keeps six; "
    "then most lose some, and some layers keep more than others until the end.",
)

# %% [markdown]
# The budget becomes uneven. Whether that is worth something is another question. Its control is a LoRA that has as much from the start and spreads it evenly: rank 3 in every layer. Recorded with the others above,
# three rates each.

# %% tags=["nbval-ignore-output"]
contest, even = "AdaLoRA, 6 to 3", "LoRA, r = 3"
budgets = report(family, [(even, even), (contest, even)])
each, mean, half = paired(budgets, contest, even, "early")
told = f"loss of steps 20 to 30, AdaLoRA minus LoRA: {mean:+.3f} ± {half:.3f}"
print(f"{told}, p = {sign_flip(each):.3f}")

# %%
_, mean, half = paired(budgets, contest, even, "learnt")
assert abs(mean) < half < 0.05, "AdaLoRA could be told from LoRA of rank 3: see its line"
_, mean, half = paired(budgets, contest, even, "early")
assert abs(mean) < half, "early on they could be told apart: look at the last line"

# %% [markdown]
# They cannot be told apart, at the end or on the way, and a gain of more than three points lies outside the interval. (The column counts what AdaLoRA begins with, which is twice what it keeps.) On this model and language an
# uneven budget bought nothing that could be seen, and it cost the triplets that were trained and then switched off.
#
# ## See
#
# How large the first step's update is, by rank, with LoRA's scale and with rsLoRA's:


# %%
def first_update(rank, method):
    norm = dict(zip(ranks, first_step[method]))[rank]
    wide = 100 * norm / max(max(norms) for norms in first_step.values())
    style = f"width:{wide:.0f}%;background:{figures.PALETTE[0]};height:1.2em"
    bar = f"<div role='img' aria-label='norm {norm:.2f}' style='{style}'></div>"
    told = f"{method}, rank {rank}: the Frobenius norm of the first update is {norm:.2f}."
    return f"<p role='status' aria-live='polite'>{told}</p>{bar}"


widgets.explore(first_update, rank=(8, ranks), method=("LoRA", ["LoRA", "rsLoRA"]))

# %% [markdown]
# ## The library
#
# `peft` has rsLoRA, DoRA and PiSSA as options of one class. One layer each, random `A` and `B`, your function beside its layer.


# %%
def their_layer(**options):
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=["0"], r=4, lora_alpha=6, **options)
    model = peft.get_peft_model(nn.Sequential(nn.Linear(24, 16)), config).double()
    return model.base_model.model[0]


x = torch.randn(5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    layer = their_layer(use_rslora=True)
    assert abs(layer.scaling["default"] - scale(4, 6, True)) < 1e-12, "look at scale"
    print("use_rslora: the same scale")

    layer = their_layer(use_dora=True)
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight.normal_()
    magnitude = layer.lora_magnitude_vector["default"].weight
    base = layer.base_layer
    mine = dora_forward(x, base.weight, base.bias, A, B, magnitude, 6)
    assert torch.allclose(layer(x), mine, atol=1e-10), "look at dora_forward"
    print("use_dora: the same output")

    torch.manual_seed(0)
    weight = nn.Linear(24, 16).double().weight  # the same draw, before peft
    layer = their_layer(init_lora_weights="pissa")
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    mine_A, mine_B = pissa_start(weight, 4, 6)
    assert torch.allclose(B @ A, mine_B @ mine_A, atol=1e-5), "look at pissa_start"
    moved = not torch.equal(layer.base_layer.weight, weight)
    assert moved, "peft was to move the base weight"
    print("pissa: the same start, and the base weight is no longer what it was")

    A, B = A + 0.1, B - 0.1  # as if trained
    new_A, new_B, new_alpha = as_lora(A, B, mine_A, mine_B, 6)
    merged = layer.base_layer.weight + 6 / 4 * B @ A
    plain_lora = weight + new_alpha / len(new_A) * new_B @ new_A
    assert torch.allclose(plain_lora, merged, atol=1e-5), "not the same: look at as_lora"
    print(f"as a plain LoRA of rank {len(new_A)} on the untouched base: the same weight")

# %% [markdown]
# AdaLoRA and LoRA+ are not layers. In `peft` the one is an allocator, which masks triplets by their scores, the other a function that makes an optimizer. Give the allocator scores of our own
# and a budget; and ask the optimizer at which rate each parameter learns. (In a training loop with `peft`, `model.base_model.update_and_allocate(step)` does what the block under
# `torch.no_grad()` did above, and stands at the same place: between the optimizer's step and the clearing of the gradients. Nobody reminds you, and the `Trainer` does not call it.)

# %%
layers = nn.Sequential(nn.Linear(24, 16), nn.Linear(16, 12))
sizes = {"init_r": 6, "target_r": 3, "total_step": 100}
config = peft.AdaLoraConfig(target_modules=["0", "1"], **sizes)
theirs = peft.get_peft_model(layers, config)
allocator, scores = theirs.base_model.rankallocator, {}
draw = torch.Generator().manual_seed(0)
for name, p in theirs.named_parameters():
    if "lora_" in name:  # importance times uncertainty; here E alone has any
        allocator.exp_avg_unc[name] = torch.ones_like(p)
        importance = torch.rand(p.shape, generator=draw) * ("lora_E" in name)
        allocator.exp_avg_ipt[name] = importance
        if "lora_E" in name:
            scores[name] = allocator.exp_avg_ipt[name].flatten()
masks = allocator.mask_to_budget(theirs, 7)
mine = {name: mask.tolist() for name, mask in keep_best(scores, 7).items()}
assert masks == mine, "the allocator of peft keeps others: look at keep_best"
kept_by_layer = [sum(mask) for mask in masks.values()]
print("AdaLoRA's allocator: the same masks, layer by layer", kept_by_layer)

config = peft.LoraConfig(target_modules=["0"])
theirs = peft.get_peft_model(nn.Sequential(nn.Linear(24, 16)), config)
how = {"lr": 0.01, "loraplus_lr_ratio": 16}
optimizer = create_loraplus_optimizer(theirs, torch.optim.AdamW, **how)
rates = [
    {id(p): group["lr"] for group in parts for p in group["params"]}
    for parts in (optimizer.param_groups, groups(theirs.named_parameters(), 0.01, 16))
]
assert len(rates[1]) == 2, "groups holds fewer parameters than A and B: look at groups"
assert rates[0] == rates[1], "a parameter has another rate than in peft: look at groups"
print("LoRA+: the same rates,", *sorted(rates[1].values()))

# %% [markdown]
# ## Read the result
#
# **What it shows.** Each relative is LoRA with one thing changed, and yours compute what the library's do. LoRA's first step shrinks with the
# rank and rsLoRA's does not; at one rank the two are one method with two alphas. AdaLoRA's ranks end unevenly. A PiSSA needs twice the rank to be a plain file. And where rank eight
# was enough, four times the rank made no difference that could be seen.
#
# **What it does not show.** That any of them is better than LoRA at rank eight, or worse.
# Live it was one seed and one rate, and in all of it a tiny model and one language that rank 8 learns almost completely; the papers' gains were reported on models
# thousands of times larger, and a harder task may need more rank. And where many pairs are compared, one in twenty falls under 5 % by chance alone.
#
# None of the article's claims is about these relatives, so none is settled here. These are their papers':
#
# | claim | here |
# | --- | --- |
# | rsLoRA: "a large rank needs the root" | holds for the size of the first step; at rank 32 it ends ahead of LoRA of rank 32 on every seed, and cannot be told from LoRA of rank 8 |
# | DoRA: "learns better than LoRA" | early on its interval just misses zero and its p does not fall under 5 %; at the end, no difference to be seen |
# | PiSSA, OLoRA: "learn faster than LoRA" | a little ahead early on, on every seed; at the end, no difference to be seen |
# | MiCA: learns in the minor directions of the weight alone | behind a LoRA of its own size, on every seed |
# | AdaLoRA: "the budget goes where it is needed" | it becomes uneven; beside a LoRA that spreads the same budget evenly, no difference to be seen |
# | LoRA+: "B should learn faster" | no gain here with ratio 4 or 16, each at its best rate; the argument is about wide models, and this one is narrow |
#
# **Negative results, said aloud.** Nothing on this page ranks the five at rank eight. MiCA was behind a LoRA of its size. LoRA+ gained nothing. Four times the rank gained nothing that could be seen, and AdaLoRA nothing over an even budget. AdaLoRA does nothing by itself: the loop must run its contest.
#
# ## Go further
#
# - Give LoRA the rate that rsLoRA was ahead with, turned into its own alpha. Is the lead gone? `peftlab record lora-family` runs a changed plan.
# - Train with your `groups` and `torch.optim.AdamW`: how large may the ratio become before the loss no longer falls?
# - An open question: is a method that needs no new learning rate worth more than one that is a little better at its best?
#
# Sources: rsLoRA, [arXiv:2312.03732](https://arxiv.org/abs/2312.03732); DoRA, [arXiv:2402.09353](https://arxiv.org/abs/2402.09353); PiSSA,
# [arXiv:2404.02948](https://arxiv.org/abs/2404.02948); AdaLoRA, [arXiv:2303.10512](https://arxiv.org/abs/2303.10512); LoRA+,
# [arXiv:2402.12354](https://arxiv.org/abs/2402.12354). The library: `peft`, Apache-2.0.

# %% [markdown] tags=["written"]
# ## In your own words
#
# Rank 32 beside rank 8, each at its best rate, seed by seed: what did you see? Say what the interval allows and what it excludes. On which task,
# with how many seeds and with which difference would you say that the larger rank helps?
