# %% [markdown]
# # 08 One family
#
# **85 minutes** of reading and doing, **60 seconds** of computing on two quiet cores. Before this: lesson 03; lessons 04 to 07
# make it richer, and you can do without. Terms: the [glossary](../docs/glossary.md).
#
# After this page you will see some three dozen methods as one: each is what happens before and after a frozen layer, or a frozen
# attention. You will have turned four of them into the same form, asked each whether it can be merged, counted them from their
# equations, seen what each can express and what it cannot, and written a method of your own that does all that the others do.

# %%
import warnings

import torch
import torch.nn.functional as F
from torch import nn

import peftlab as pl
from peftlab.adapter import Adapter
from peftlab.classroom import check, predict
from peftlab.classroom.ladder import climb
from peftlab.lab import figures, polyglot, widgets
from peftlab.lab.training import answers, train
from peftlab.virtual_tokens import VirtualTokens

# %% [markdown]
# ## Predict

# %%
predict("family-start")

# %%
predict("family-merge")

# %% [markdown]
# ## The idea
#
# One sentence holds for every method that sits on a layer: **an adapter is what you do before and after a frozen layer.**
#
# $$x' = \mathrm{before}(x), \qquad y = W x' + b, \qquad y' = \mathrm{after}(x', y)$$
#
# - $x$ is on its way into the layer, $x'$ is what enters it, $y$ is what the frozen layer makes of that, $y'$ is what leaves;
# - LoRA does nothing before, and after: $y' = y + \frac{\alpha}{r} B A x'$;
# - (IA)³, on most layers, does nothing before, and after: $y' = l \odot y$, where $\odot$ multiplies entry by entry; on the last layer of
#   an MLP it multiplies what enters, $x' = l \odot x$, and does nothing after;
# - OFT turns $x' = R x$, with $R$ an **orthogonal matrix**, one that turns or mirrors and changes no norm, and does nothing after.
#
# And the methods made of virtual tokens? A prompt is a `before` on the whole sequence of embeddings: $p_1 \ldots p_m$ are put in front. A prefix is an
# `after`, on attention in place of a linear layer. With $K, V$ the keys and values of the text, $P_K, P_V$ the trained ones, and $\mathrm{att}$ for softmax attention
# of one query $q$:
#
# $$y' = y + \lambda(q)\,\big(\mathrm{att}(q, P_K, P_V) - y\big), \qquad y = \mathrm{att}(q, K, V), \qquad
# \lambda(q) = \frac{\sum_i e^{q \cdot P_{K,i}}}{\sum_i e^{q \cdot P_{K,i}} + \sum_j e^{q \cdot K_j}}$$
#
# What the frozen attention gives is mixed with something computed from $q$ by two narrow matrices with a non-linearity between them: $P_K$ down, a
# softmax, $P_V$ up. That is a bottleneck adapter with a gate. See that it is no analogy:

# %%
torch.manual_seed(0)
q, K, V = torch.randn(8), torch.randn(5, 8), torch.randn(5, 8)
P_K, P_V = torch.randn(3, 8), torch.randn(3, 8)


def att(q, keys, values):
    return (keys @ q).softmax(0) @ values


with_prefix = att(q, torch.cat([P_K, K]), torch.cat([P_V, V]))
gate = (P_K @ q).exp().sum() / ((P_K @ q).exp().sum() + (K @ q).exp().sum())
y = att(q, K, V)
as_after = y + gate * (att(q, P_K, P_V) - y)
same = torch.allclose(with_prefix, as_after, atol=1e-5)
print("attention with a prefix, and the `after` of this equation: the same:", same)
assert same, "a prefix is an `after` on attention"

# %% [markdown]
# Three choices make a method: *where* it acts (before or after a layer, before the sequence, after attention), *what shape* its parameters have (two narrow
# matrices, a vector, a rotation, a few waves), and *how they are composed* with the layer (added, multiplied, behind a
# non-linearity). That some of these are close relatives was worked out by He et al.
# ([arXiv:2110.04366](https://arxiv.org/abs/2110.04366)). Here you check it.
#
# ## Build it
#
# ### 1. The sentence as code
#
# {{apply-adapter}}
#
# Write `apply_adapter(layer, before, after, x)`. `before` takes $x$; `after` takes two things: what entered the layer and what came
# out of it.


# %%
def apply_adapter(layer, before, after, x):
    """What leaves the adapted layer."""
    ### BEGIN SOLUTION
    x = before(x)
    y = layer(x)
    return after(x, y)
    ### END SOLUTION


# %%
check("apply-adapter", apply_adapter)

# %% [markdown]
# This is, but for switching and mixing, what `peftlab/attach.py` does with two hooks. The methods themselves say only what is
# before and what is after. So a table of where each acts need not be written by anyone; it can be read off the classes.


# %%
def place(method):
    """Where a method acts, read from its class: which of the two it defines itself."""
    if issubclass(method, VirtualTokens):
        return "virtual tokens"
    own = [
        side
        for side in ("before", "after")
        if getattr(method, side) is not getattr(Adapter, side)
    ]
    return " and ".join(own)


methods = [getattr(pl.methods, name) for name in pl.methods.__all__]
methods = [
    m for m in methods if isinstance(m, type) and issubclass(m, (Adapter, VirtualTokens))
]
for where in ("before", "after", "before and after", "virtual tokens"):
    print(f"{where:17}", ", ".join(m.__name__ for m in methods if place(m) == where))
print(f"{'inside attention':17}", ", ".join(m.__name__ for m in methods if not place(m)))
for m in methods:
    assert place(m) or hasattr(m, "attend"), (
        f"{m.__name__} acts nowhere that this table knows"
    )

# %% [markdown]
# Each name stands once. (IA)³ is among those with both, one on each kind of layer. The virtual tokens are the `before` and `after` of the whole sequence and
# of attention, and LLaMA-Adapter (`AdaptionPrompt`) is an `after` on attention with a gate that is trained.
#
# ### 2. Four methods, one form
#
# {{family-updates}}
#
# Whatever stands before and after: if the whole is still of the form "a matrix times $x$, plus $b$", then that matrix is
# $W + \Delta W$, and the method is known by its **update** $\Delta W$. Write `updates(W, A, B, l, R)`, which returns a dict with the
# $\Delta W$ of four methods:
#
# | name | the layer with its adapter |
# | --- | --- |
# | `"LoRA"` | $W x + B A x$ (with $\alpha = r$) |
# | `"IA3"` | $l \odot (W x)$, with $l$ one factor for each output |
# | `"OFT"` | $W (R x)$ |
# | `"HiRA"` | $(W + W \odot (B A))\, x$ |


# %%
def updates(W, A, B, l, R):
    """The update to W, (d_out, d_in), of each of the four methods."""
    ### BEGIN SOLUTION
    return {
        "LoRA": B @ A,
        "IA3": l[:, None] * W - W,
        "OFT": W @ R - W,
        "HiRA": W * (B @ A),
    }
    ### END SOLUTION


# %%
check("family-updates", updates)

# %% [markdown]
# The four differ in what their updates look like. How many independent rows does each have, what is its rank? LoRA's is at most $r$. The other
# three take something from $W$, and with it its rank.

# %%
torch.manual_seed(0)
W, A, B = torch.randn(16, 24), torch.randn(2, 24), torch.randn(16, 2)
R = torch.linalg.qr(torch.randn(24, 24))[0]
for name, update in updates(W, A, B, 1 + torch.randn(16), R).items():
    rank = int(torch.linalg.matrix_rank(update))
    print(f"{name:5} an update of rank {rank:2}, where W is {W.shape[0]} x {W.shape[1]}")

# %% [markdown]
# ### 3. Can it be merged? Ask it
#
# {{is-affine}}
#
# A method can be merged exactly when the layer with its adapter is *affine*: $f(x) = Wx + b$ for some $W$ and $b$, *for every
# x*. You need not trust a paper on that, for you can ask. Write `is_affine(f, d_in)`, `True` or `False`. `f` takes a tensor of shape `(..., d_in)`.
# Beware of functions that are straight where you happen to look and not elsewhere: ask at many x. And floats round: a layer as wide as those of
# real models must not be refused for that.


# %%
def is_affine(f, d_in):
    """Whether f(x) = W x + b for some W and b; True or False."""
    ### BEGIN SOLUTION
    b = f(torch.zeros(d_in))
    W = (f(torch.eye(d_in)) - b).T
    x = torch.randn(64, d_in)
    y = f(x)
    return bool((F.linear(x, W, b) - y).abs().max() <= 1e-4 * y.abs().max())
    ### END SOLUTION


# %%
check("is-affine", is_affine)

# %% [markdown]
# ### 4. Count from the equation
#
# {{family-counts}}
#
# Write `counts(d_in, d_out, r, b)`, which returns how many trainable parameters each of six methods has on one layer:
#
# | name | equation | trainable |
# | --- | --- | --- |
# | `"DoRA"` | $m \odot V x / \lVert V \rVert$, $V = W + B A$, $\lVert\cdot\rVert$ the norm of each row | $A$, $B$, $m$ |
# | `"IA3"` | $l \odot (W x)$ | $l$ |
# | `"LoHa"` | $W x + (B_1 A_1 \odot B_2 A_2)\, x$, all of rank $r$ | all four |
# | `"HRA"` | $W (H_1 \cdots H_r\, x)$, each $H = I - 2\, u u^\top / \lVert u \rVert^2$ a **Householder reflection**, which mirrors along a vector $u$ | the $r$ vectors |
# | `"VeRA"` | $W x + c \odot B (d \odot A x)$, with $A$ and $B$ random | $c$ and $d$ |
# | `"OFT"` | $W (R x)$, $R$ made of blocks of $b$ numbers, each the rotation of a skew matrix ($Q^\top = -Q$) | the entries of each $Q$ that are free |


# %%
def counts(d_in, d_out, r, b):
    """How many trainable parameters each method has on one layer."""
    ### BEGIN SOLUTION
    return {
        "DoRA": r * (d_in + d_out) + d_out,
        "IA3": d_out,
        "LoHa": 2 * r * (d_in + d_out),
        "HRA": r * d_in,
        "VeRA": r + d_out,
        "OFT": d_in * (b - 1) // 2,
    }
    ### END SOLUTION


# %%
check("family-counts", counts)

# %% [markdown]
# Yours against the classes' own closed forms, on a layer of a 7-billion-parameter model:

# %%
mine = counts(4096, 4096, r=8, b=32)
options = {
    "DoRA": {"r": 8},
    "LoHa": {"r": 8},
    "HRA": {"r": 8},
    "VeRA": {"r": 8},
    "OFT": {"oft_block_size": 32},
}
for name, n in mine.items():
    theirs = getattr(pl.methods, name).count(4096, 4096, **options.get(name, {}))
    print(f"{name:5} {n:>9,} of {4096 * 4096:,}")
    assert n == theirs, f"{name}: yours says {n}, the class {theirs}"

# %% [markdown]
# ### 5. A method of your own
#
# {{own-method}}
#
# Lian et al. ([arXiv:2210.08823](https://arxiv.org/abs/2210.08823)) scale and shift what leaves a layer, $y' = \gamma \odot y + \beta$,
# with one $\gamma$ and one $\beta$ for each output. This course does not have their method, so you add it. Fill in the three parts:
# the two parameters `gamma` and `beta`, so that at the start nothing changes; what `after` gives; and the closed form.
# `self.shape` is `(d_in, d_out)`.


# %%
class SSF(Adapter):
    """y' = gamma * y + beta."""

    keys = {
        "gamma": "ssf_gamma",
        "beta": "ssf_beta",
    }  # what each parameter is called in a file

    def __init__(self, layer):
        super().__init__(layer)
        ### BEGIN SOLUTION
        d_out = self.shape[1]
        self.gamma = nn.Parameter(torch.ones(d_out))
        self.beta = nn.Parameter(torch.zeros(d_out))
        ### END SOLUTION

    def after(self, x, y):
        ### BEGIN SOLUTION
        return self.gamma * y + self.beta
        ### END SOLUTION

    @staticmethod
    def count(d_in, d_out):
        ### BEGIN SOLUTION
        return 2 * d_out
        ### END SOLUTION


# %%
check("own-method", SSF)

# %% [markdown]
# What did you get for your ten lines? Every method in this package climbs a ladder of tests. Here is the small one, on a tiny
# model: your method on each rung, beside it LoRA, which holds all of them, and a bottleneck and a prompt, which are known to miss some.

# %%
tables = {"SSF": climb(SSF), "LoRA": climb(pl.methods.LoRA)}
tables["a bottleneck"] = climb(pl.methods.Pfeiffer)
tables["a prompt"] = climb(pl.methods.PromptTuning, num_virtual_tokens=4)
print(f"{'':70}", *(f"{name:>13}" for name in tables))
for i, rung in enumerate(tables["SSF"].rung):
    held = ("yes" if table.holds[i] else "no" for table in tables.values())
    print(f"{rung:70}", *(f"{h:>13}" for h in held))
assert tables["SSF"].holds.all(), f"a rung that SSF misses:\n{tables['SSF']}"

# %% [markdown]
# A *no* is not always a mistake. A bottleneck starts near the base model and not on it; it has a non-linearity, so there is no
# matrix to merge it into. A prompt takes attention from the first step, and changes no weight. `climb(method).seen` says what
# happened on each rung.

# %% [markdown]
# ## Run it on a real model
#
# Can your method teach `polyglot-350k` Italian, as LoRA did in lesson 03? A learning rate that suits LoRA need not suit it: try
# three, and take each for what it gives.

# %% tags=["nbval-ignore-output", "heavy"]
learnt, final_loss, italian = {}, {}, polyglot.dataset("it")
for lr in (0.01, 0.03, 0.1):
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    pl.attach(model, SSF, "all-linear", name="italian")
    how = {"steps": 150, "lr": lr, "batch_size": 32, "progress": False}
    run = train(model, italian, answers(tokenizer), **how)
    learnt[lr] = polyglot.accuracy(model, tokenizer, "it")
    final_loss[lr] = sum(run.losses[-10:]) / 10
    print(f"learning rate {lr:<4}: loss in training {final_loss[lr]:.3f}, ", end="")
    print(f"accuracy on unseen numbers {learnt[lr]:6.1%}")
chosen = min(final_loss, key=final_loss.get)
print(f"chosen by the loss in training: {chosen}. {pl.count(model)}")

# %%
assert learnt[chosen] > 0.5, "scaling and shifting is enough for most of Italian"
assert learnt[0.01] < learnt[chosen], "at the rate of lesson 03's LoRA it looks worse"
adapted = [layer for layer in model.modules() if hasattr(layer, "adapters")]
counted = sum(SSF.count(*layer.adapters["italian"].shape) for layer in adapted)
assert pl.count(model).trainable == counted, "your closed form counts what is trained"

# %% [markdown]
# One seed, and the best rate is the highest tried: a higher one may do more. It is enough to say that the method learns, and not how it compares.

# %% [markdown]
# ## See: what each method can express
#
# Which updates can a method represent at all? That is its **expressiveness**, and it is another question than how fast it gets there.
# A small layer with 24 inputs and 16 outputs is to become another one. There are four such tasks, and you know what each
# needs, for you plant it: an update of rank 2; a rotation of the inputs; a scaling of the outputs; and an update without
# any structure. How much of the task does each method do? One means all of it, and zero means that the frozen layer would have done as well.
#
# So that the answer is about expressiveness, each method is trained *to the end*: a hundred steps of Adam, and then L-BFGS, an optimizer for
# small problems that chooses its own step sizes, until it stands still, and once more from there. So there is no learning rate to choose. Two starts each, the
# better one in training counts, and the share is measured on inputs that training did not see.
#
# Before you run it: which method will do the *scaling* with the fewest parameters, and which cannot do it at all?

# %%
draw = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=draw)


W, b = normal(16, 24) / 24**0.5, normal(16) / 10
x, unseen = normal(256, 24), normal(256, 24)
low, free, skew = normal(16, 2) @ normal(2, 24), normal(16, 24), normal(24, 24) / 7
tasks = {
    "rank 2": low / low.norm() * W.norm() / 2,
    "a rotation": W @ torch.matrix_exp(skew - skew.T) - W,
    "a scaling": normal(16)[:, None] / 2 * W,
    "no structure": free / free.norm() * W.norm() / 2,
}
gallery = {  # the method, and options that suit a layer so small
    "LoRA": {"r": 2},
    "DoRA": {"r": 2},
    "DeLoRA": {"r": 2},
    "HiRA": {"r": 2},
    "LoHa": {"r": 2, "alpha": 2},
    "LoKr": {"r": 2, "alpha": 2},
    "GraLoRA": {"r": 4, "alpha": 4, "gralora_k": 2},
    "MiSS": {"r": 4},
    "VeRA": {"r": 16},
    "SHiRA": {"r": 2},
    "FourierFT": {"n_frequency": 80, "scaling": 10.0},
    "C3A": {"block_size": 8},
    "OFT": {"oft_block_size": 24},
    "BOFT": {"boft_block_size": 4, "boft_n_butterfly_factor": 2},
    "HRA": {"r": 4},
    "RoAd": {"group_size": 8},
    "IA3": {},
    "BitFit": {},
    "Pfeiffer": {"reduction_factor": 8},
}


def named(name):
    return SSF if name == "SSF" else getattr(pl.methods, name)


def adapted_layer(name, seed):
    torch.manual_seed(seed)
    layer = nn.Sequential(nn.Linear(24, 16))
    with torch.no_grad():
        layer[0].weight.copy_(W)
        layer[0].bias.copy_(b)
    return pl.attach(layer, named(name), ["0"], **gallery.get(name, {}))


def share_done(layer, update, x):
    """1: the task is done; 0: no better than the frozen layer."""
    with torch.no_grad():
        target, untouched = F.linear(x, W + update, b), F.linear(x, W, b)
        return (1 - F.mse_loss(layer(x), target) / F.mse_loss(untouched, target)).item()


def fit(name, update, seed):
    """The layer trained to the end, and the share done in training at three moments."""
    layer, target, shares = adapted_layer(name, seed), F.linear(x, W + update, b), []
    trained = [p for p in layer.parameters() if p.requires_grad]

    def loss():
        optimizer.zero_grad()
        value = F.mse_loss(layer(x), target)
        value.backward()
        return value

    optimizer = torch.optim.Adam(trained, lr=0.03)
    for _ in range(100):
        loss()
        optimizer.step()
    shares.append(share_done(layer, update, x))
    for _ in range(2):
        still = {"tolerance_grad": 1e-9, "tolerance_change": 1e-12}
        optimizer = torch.optim.LBFGS(
            trained, max_iter=200, history_size=20, line_search_fn="strong_wolfe", **still
        )
        optimizer.step(loss)
        shares.append(share_done(layer, update, x))
    return layer, shares


# %% [markdown]
# Before a measure is believed, it is tried where the answer is known. What LoRA of rank 2 can do at most follows from a **truncated SVD** (lesson 02): of what the
# update makes of the inputs, the two largest singular values.

# %% tags=["nbval-ignore-output", "heavy"]
layers, early, stands = {}, {}, {}
for name in [*gallery, "SSF"]:
    for task, update in tasks.items():
        tries = [fit(name, update, seed) for seed in (0, 1)]
        layers[name, task], moments = max(tries, key=lambda one: one[1][-1])
        early[name, task], *stands[name, task] = moments
done = {key: share_done(layer, tasks[key[1]], unseen) for key, layer in layers.items()}
size = {n: pl.count(layers[n, "rank 2"]).trainable for n in [*gallery, "SSF"]}
for task, update in tasks.items():
    squares = torch.linalg.svdvals(F.linear(x, update)) ** 2
    at_most = (squares[:2].sum() / squares.sum()).item()
    reached = [stands[name, task][-1] for name in ("LoRA", "DeLoRA")]
    print(f"{task:13} rank 2 at most {at_most:.3f}, ", end="")
    print(f"LoRA {reached[0]:.3f}, DeLoRA {reached[1]:.3f}")
    for name, share in zip(("LoRA", "DeLoRA"), reached):
        assert abs(share - at_most) < 0.01, f"{name}, {task}: not trained to the end"
moved = max(abs(once - twice) for once, twice in stands.values())
print(f"the second L-BFGS moved no share by more than {moved:.4f}")
assert moved < 0.02, "all of them have come to a stand"

# %% tags=["nbval-ignore-output", "heavy", "hide-source"]
shares = torch.tensor([[done[name, task] for task in tasks] for name in size]).clamp(
    min=0
)
figures.show(
    figures.table(
        shares,
        [f"{name} ({n})" for name, n in size.items()],
        list(tasks),
        "What each method can express (trainable parameters)",
        "share of the task done",
    ),
    alt="A table of methods against four tasks. LoRA, DoRA and DeLoRA do the task of rank 2 and part of the others; (IA)³, DoRA, HiRA, BOFT "
    "and SSF do the scaling, (IA)³ and SSF little else; OFT does the rotation; none of them does more than about three fifths of the task without structure.",
)

# %%
of = {task: {name: done[name, task] for name in size} for task in tasks}
assert of["rank 2"]["LoRA"] > 0.95 and of["rank 2"]["DeLoRA"] > 0.95, (
    "rank 2 is in reach of both"
)
assert min(of["a scaling"][name] for name in ("IA3", "SSF")) > 0.95, "they scale outputs"
assert max(of["a scaling"][name] for name in ("OFT", "HRA")) < 0.5, (
    "turning x does not stretch y"
)
assert of["a rotation"]["OFT"] > 0.9 > of["a rotation"]["LoRA"], (
    "OFT turns, rank 2 cannot"
)
assert max(done["BitFit", task] for task in tasks) < 0.1, (
    "a constant does no matrix's work"
)
assert max(of["no structure"].values()) < 0.75, "nobody does all of what has no structure"

# %% [markdown]
# LoRA and DeLoRA reach the bound and no more: two equations, one expressiveness. No row is best everywhere. A method is a bet on what the update will
# look like, and a bet of few parameters must be a narrow one. (IA)³ does all but a little of the scaling with 16 of them, where LoRA does less with 80; for rank 2
# it is the other way round. What real updates look like was the question of lesson 02; this table cannot answer it, for its tasks were planted.
#
# And what if training had stopped after the hundred steps of Adam, as tables of this kind often do?

# %% tags=["nbval-ignore-output", "heavy"]
late = sorted(done, key=lambda key: early[key] - stands[key][-1])[:5]
for name, task in late:
    print(
        f"{name:9} {task:13} after a hundred steps {max(early[name, task], 0):.2f}, ",
        end="",
    )
    print(f"at the end {stands[name, task][-1]:.2f}")
weights = W.numel()
print(f"no structure, {weights} weights to change:", end="")
most = sorted(of["no structure"], key=of["no structure"].get)[-3:]
print(
    *(
        f" {name} {size[name]} parameters, {of['no structure'][name]:.2f};"
        for name in most
    )
)
gap = max(stands[key][-1] - early[key] for key in done)
assert gap > 0.2, "what is slow is not what is weak"

# %% [markdown]
# The early table would have called the slow ones weak. It would have measured *speed*, at one learning rate, and not what a method can express.
#
# The update without structure has as many free entries as the weight. Those that did most of it have many trainable parameters; that number is not all, though: find
# BOFT in the table.
#
# Now use your own test. Which of these can be merged? And what rank has the update, once it is? Ask each method with random
# values in its parameters, and then ask the bottleneck that was trained above as well.


# %%
def probed(f):
    """The matrix of an affine f: ask it about the basis vectors."""
    with torch.no_grad():
        return (f(torch.eye(24)) - f(torch.zeros(24))).T


def rank(update):
    """How many singular values are more than rounding: a thousandth of W's largest."""
    least = 1e-3 * torch.linalg.matrix_norm(W, 2)
    return int((torch.linalg.svdvals(update) > least).sum())


for name in size:
    layer = adapted_layer(name, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in layer[0].adapters.parameters():
            p.add_(torch.randn(p.shape))
    can = is_affine(layer, 24)
    told = f"an update of rank {rank(probed(layer) - W):2}" if can else "no matrix"
    print(f"{name:10}{told}")
    assert can == (name != "Pfeiffer"), f"{name}: does your `is_affine` ask at enough x?"

# %% tags=["nbval-ignore-output", "heavy"]
bottleneck = layers["Pfeiffer", "no structure"]
with torch.no_grad():
    into_relu = bottleneck[0].adapters["default"].down(F.linear(x, W, b))
passing = (into_relu > 0).float().mean()


def far(x):
    """The same bottleneck, asked with x a hundred times larger."""
    return bottleneck(100 * x)


print(f"trained, it passes your test: {is_affine(bottleneck, 24)}; ", end="")
print(f"its ReLU lets {passing:.0%} of the numbers through")
print(f"asked with x a hundred times larger: {is_affine(far, 24)}")
assert passing > 0.9, "it keeps to the side of the ReLU where everything passes"
assert not is_affine(far, 24), "far from its data the corner is met"

# %% [markdown]
# The bottleneck is worth a moment. The task was linear, and it learnt to be linear: it pushed its activations to the side of the
# ReLU where nearly everything passes. At the sizes of x it was trained with, it may well pass your test; with larger ones it does
# not, so it cannot be merged. A test with random inputs can refute. It cannot prove.
#
# And the updates themselves. Choose a task and a method: on the left what was planted, on the right what the method made of
# it. Look for the stripes of (IA)³, the wrapped diagonals of C3A, the waves of FourierFT.

# %% tags=["nbval-ignore-output", "hide-source"]
pictures = {
    key: probed(layer) - W for key, layer in layers.items() if key[0] != "Pfeiffer"
}


def draw_pair(task, method):
    planted, made = tasks[task], pictures[method, task]
    limit = figures.colour_limit([planted])
    told = f"{method} on {task}: {done[method, task]:.0%} of the task done with {size[method]} trainable parameters."
    images = "".join(
        f"<figure style='margin:0 1em 0 0'>{widgets.heat_map(m.numpy(), limit, alt, side=288)}<figcaption>{alt}</figcaption></figure>"
        for m, alt in ((planted, "planted"), (made, f"what {method} made of it"))
    )
    return f"<p role='status' aria-live='polite'>{told}</p><div style='display:flex'>{images}</div>"


widgets.explore(
    draw_pair,
    task=("rank 2", list(tasks)),
    method=("LoRA", [name for name in size if name != "Pfeiffer"]),
)

# %% tags=["hide-source"]
shown = ["LoRA", "IA3", "OFT", "C3A", "FourierFT", "MiSS"]
figures.show(
    figures.matrices(
        {
            "planted": tasks["no structure"],
            **{name: pictures[name, "no structure"] for name in shown},
        },
        "The same task, six shapes of update",
    ),
    alt="Seven small heat maps: the planted update without structure, and what six methods made of it. In LoRA's whole rows and columns stand out, "
    "(IA)³'s has horizontal stripes, C3A's repeats along diagonals, FourierFT's looks like waves, MiSS's repeats along the rows.",
)

# %% [markdown]
# ## The library
#
# `peft` has most of these methods, a thousand lines each. The tests of this course hold every method here against it; the table
# of all checks, with the largest difference seen, stands in `docs/methods.md`. Reading and testing it also showed where the
# library itself is silent, or inconsistent. Three of the places, live, on a tiny model:

# %%
import peft
from transformers import LlamaConfig, LlamaForCausalLM

warnings.filterwarnings("ignore")


def tiny():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 40}
    config = LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def shaken(model, seed, part):
    """Random values for the trained tensors whose names hold `part`."""
    draw = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if part in name:
            p.copy_(torch.randn(p.shape, generator=draw) / 4)
    return model


ids = torch.arange(12).reshape(2, 6)


@torch.no_grad()
def logits(model, **asked):
    return model(ids, **asked).logits


# %% [markdown]
# **An adapter for each row.** `peft` lets a batch name an adapter for each example; `"__base__"` asks for none. With (IA)³, nobody
# listens, and nobody says so.

# %%
places = ["q_proj", "down_proj"]
config = peft.IA3Config(target_modules=places, feedforward_modules=["down_proj"])
theirs = shaken(peft.get_peft_model(tiny(), config), 1, "ia3_l")
asked = logits(theirs, adapter_names=["__base__", "__base__"])
is_base = torch.allclose(asked, logits(tiny()), atol=1e-5)
is_adapter = torch.equal(asked, logits(theirs))
print("asked for the base model, got the base model:", is_base)
print("got the adapter instead:                     ", is_adapter)

ours = pl.attach(tiny(), pl.methods.IA3, places, feedforward_modules=["down_proj"])
for layer in ours.modules():
    for adapter in getattr(layer, "adapters", {}).values():
        shaken(adapter, 1, "")
with pl.mix(ours, [None, None]):
    here = torch.allclose(logits(ours), logits(tiny()), atol=1e-5)
print("here, got the base model:                    ", here)
assert is_adapter and not is_base and here, (
    "only here is the base model what was asked for"
)

# %% [markdown]
# **Two at once.** Two adapters that each add something should together add both. For LoRA they do. For C3A the second is given
# what the first made.


# %%
def sum_of_two(config, part):
    """How far a layer's output with two adapters is from the sum of what each adds."""
    model = peft.get_peft_model(tiny(), config, adapter_name="one")
    model.add_adapter("two", config)
    shaken(model, 2, part)
    layer, x = model.base_model.model.model.layers[0].self_attn.q_proj, torch.randn(5, 16)
    out = {}
    for names in (["one"], ["two"], ["one", "two"]):
        model.base_model.set_adapter(names)
        with torch.no_grad():
            out[len(out)] = layer(x) - layer.base_layer(x)
    return ((out[0] + out[1] - out[2]).abs().max() / out[2].abs().max()).item()


torch.manual_seed(0)
lora = peft.LoraConfig(r=2, target_modules=["q_proj"])
c3a = peft.C3AConfig(block_size=4, target_modules=["q_proj"])
gaps = {"LoRA": sum_of_two(lora, "lora_B"), "C3A": sum_of_two(c3a, "c3a_kernel")}
for name, gap in gaps.items():
    print(f"{name}: both together are the sum of each: {gap < 1e-5}")
assert gaps["LoRA"] < 1e-5, "LoRA: what is added adds up"
assert gaps["C3A"] > 0.01, "C3A: it does not"

# %% [markdown]
# **One file, two meanings.** OFT makes its rotation exactly, or by the first terms of a series, which is quicker. The same
# parameters turn one way under one setting and the other way under the other.

# %%
turned = {}
for series in (True, False):
    config = peft.OFTConfig(
        r=0, oft_block_size=4, use_cayley_neumann=series, target_modules=["q_proj"]
    )
    model = peft.get_peft_model(tiny(), config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "oft_R" in name:
                p.copy_(torch.linspace(-0.05, 0.05, p.numel()).reshape(p.shape))
        layer = model.base_model.model.model.layers[0].self_attn.q_proj
        turned[series] = layer.oft_R["default"](torch.eye(16))
same, opposite = (
    (turned[True] - other).abs().max() for other in (turned[False], turned[False].T)
)
print("the same rotation:    ", bool(same < 1e-3))
print("the opposite rotation:", bool(opposite < 1e-3))
assert opposite < 1e-3 < same, "one file, two rotations"

# %% [markdown]
# A file remembers the setting, so a file is read as it was written; but whoever changes the setting on the way turns the
# other way round. The tests of this course state each of these as a fact about the version they were run with, so that a
# version that mends one will be noticed.

# %% [markdown]
# ## Read the result
#
# **What it shows.** Every method that sits on a layer fits into two functions, `before` and `after`, and so do the virtual tokens, on the sequence and on attention.
# Whether it can be merged is a question you can put to it and need not look up: of those in the gallery only the bottleneck cannot. What it costs
# follows from its equation. And a new one takes ten lines, and then can be switched, mixed, merged, saved and counted like the others.
#
# **What it does not show.** The four tasks were made for the comparison, one of each kind, so a low share says that a shape does
# not *fit that task*, not that the method is worse. Real updates are none of the four. The options were chosen to suit a small layer,
# not made equal in parameters: read the count beside the name before you compare two rows. And nothing is said about speed, or about what is learnt
# from data that is noisy or short.
#
# | claim | here |
# | --- | --- |
# | *Adapters, prompts and LoRA are different techniques* | in where they act and in their shape; all have the form of a `before` and an `after`, and all that sit on a layer but those with a non-linearity have one merged form too |
# | *Fewer parameters with the same quality* | depends on the task: 16 parameters did nearly all of one task and almost nothing of another |
#
# **Negative results, said aloud.** No method did all of the task without structure, and the number of trainable parameters alone does not say how much. DeLoRA can express what LoRA
# can, to the third digit, and no more, however they differ on the way. And your own method learnt most of Italian only at learning rates above
# the one LoRA used in lesson 03: with LoRA's own it would have looked far worse than it is.

# %% [markdown]
# ## Go further
#
# - Give your method a `before` as well: scale and shift what *enters*. Which of the four tasks does it do now? Does it still merge?
# - Make two methods one: derive from `pl.methods.LoRA` and let `after` scale the result. Climb the ladder with it.
# - An open question: is there a cheap look at a task, before training, that says which shape its update will need?
#
# Sources: He et al., [arXiv:2110.04366](https://arxiv.org/abs/2110.04366); SSF, [arXiv:2210.08823](https://arxiv.org/abs/2210.08823);
# each method's paper stands at the head of its file in `peftlab/methods/`. The library: `peft`, Apache-2.0.

# %% [markdown] tags=["written"]
# ## In your own words
#
# Choose two methods and two of the four tasks such that the order of the methods turns round. What did you see, and what does it have to do with
# the shape of the updates and with the number of parameters? Now a real task comes along, with an update nobody planted: what would you find out first,
# and which result would make you choose the one, and which the other?
