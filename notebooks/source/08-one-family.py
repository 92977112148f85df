# %% [markdown]
# # 08 One family
#
# **60 minutes** of reading and doing, **60 seconds** of computing on two quiet cores. Before this: lesson 03; lessons 04 to 07
# make it richer, and you can do without.
#
# After this page you will see some three dozen methods as one: each is what happens before and after a frozen layer. You will
# have turned four of them into the same form, asked each whether it can be merged, counted them from their equations, seen
# what each can say and what it cannot, and written a method of your own that does all that the others do.

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
# - (IA)³ does nothing before, and after: $y' = l \odot y$, where $\odot$ multiplies number by number;
# - OFT turns $x' = R x$, and does nothing after.
#
# Three choices make a method: *where* it acts (before, after, or among the tokens), *what shape* its numbers have (two narrow
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
    """Where a method acts, read from its class: which of the two it defines for itself."""
    if issubclass(method, VirtualTokens):
        return "among the tokens"
    own = [side for side in ("before", "after") if getattr(method, side) is not getattr(Adapter, side)]
    return " and ".join(own)


methods = [getattr(pl.methods, name) for name in pl.methods.__all__]
methods = [m for m in methods if isinstance(m, type) and issubclass(m, (Adapter, VirtualTokens))]
for where in ("before", "after", "before and after", "among the tokens"):
    print(f"{where:17}", ", ".join(m.__name__ for m in methods if place(m) == where))
print(f"{'inside attention':17}", ", ".join(m.__name__ for m in methods if not place(m)))
assert all(place(m) or hasattr(m, "attend") for m in methods)

# %% [markdown]
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
# | `"IA3"` | $l \odot (W x)$, with $l$ one number for each output |
# | `"OFT"` | $W (R x)$ |
# | `"HiRA"` | $(W + W \odot (B A))\, x$ |


# %%
def updates(W, A, B, l, R):
    """The update to W, (d_out, d_in), of each of the four methods."""
    ### BEGIN SOLUTION
    return {"LoRA": B @ A, "IA3": l[:, None] * W - W, "OFT": W @ R - W, "HiRA": W * (B @ A)}
    ### END SOLUTION


# %%
check("family-updates", updates)

# %% [markdown]
# The four differ in what their updates look like. How many independent rows does each have? LoRA's has at most $r$. The other
# three take something from $W$, and with it its rank.

# %%
torch.manual_seed(0)
W, A, B = torch.randn(16, 24), torch.randn(2, 24), torch.randn(16, 2)
R = torch.linalg.qr(torch.randn(24, 24))[0]
for name, update in updates(W, A, B, 1 + torch.randn(16), R).items():
    print(
        f"{name:5} an update of rank {torch.linalg.matrix_rank(update)}, made with A and B of rank 2, or without them"
    )

# %% [markdown]
# ### 3. Can it be merged? Ask it
#
# {{is-affine}}
#
# A method can be merged exactly when the layer with its adapter is **affine**: $f(x) = Wx + b$ for some $W$ and $b$, *for every
# x*. You need not trust a paper on that, for you can ask. Write `is_affine(f, d_in)`. `f` takes a tensor of shape `(..., d_in)`.
# Beware of functions that are straight in some directions and not in others, and remember that floats round.


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
# Write `counts(d_in, d_out, r, b)`, which returns how many numbers each of six methods trains on one layer:
#
# | name | equation | trained |
# | --- | --- | --- |
# | `"DoRA"` | $m \odot V x / \lVert V \rVert$, $V = W + B A$, $\lVert\cdot\rVert$ the length of each row | $A$, $B$, $m$ |
# | `"IA3"` | $l \odot (W x)$ | $l$ |
# | `"LoHa"` | $W x + (B_1 A_1 \odot B_2 A_2)\, x$, all of rank $r$ | all four |
# | `"HRA"` | $W (H_1 \cdots H_r\, x)$, each $H$ the mirror image along one vector $u$ | the $r$ vectors |
# | `"VeRA"` | $W x + c \odot B (d \odot A x)$, with $A$ and $B$ random | $c$ and $d$ |
# | `"OFT"` | $W (R x)$, $R$ made of blocks of $b$ numbers, each the rotation of a skew matrix ($Q^\top = -Q$) | the entries of each $Q$ that are free |


# %%
def counts(d_in, d_out, r, b):
    """How many numbers each method trains on one layer."""
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
options = {"DoRA": {"r": 8}, "LoHa": {"r": 8}, "HRA": {"r": 8}, "VeRA": {"r": 8}, "OFT": {"oft_block_size": 32}}
for name, n in mine.items():
    theirs = getattr(pl.methods, name).count(4096, 4096, **options.get(name, {}))
    print(f"{name:5} {n:>9,} of {4096 * 4096:,}")
    assert n == theirs

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

    keys = {"gamma": "ssf_gamma", "beta": "ssf_beta"}  # what each parameter is called in a file

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
# model: your method on each rung, and beside it two that are known to miss some.

# %%
rungs = climb(SSF)
others = {"LoRA": climb(pl.methods.LoRA), "a bottleneck": climb(pl.methods.Pfeiffer)}
others["a prompt"] = climb(pl.methods.PromptTuning, num_virtual_tokens=4)
print(f"{'':70} {'SSF':>5}", *(f"{name:>13}" for name in others))
for i, rung in enumerate(rungs.rung):
    held = [("no", "yes")[int(table.holds[i])] for table in (rungs, *others.values())]
    print(f"{rung:70} {held[0]:>5}", *(f"{h:>13}" for h in held[1:]))
assert rungs.holds.all(), rungs

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
learnt = {}
for lr in (0.01, 0.03, 0.1):
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    pl.attach(model, SSF, "all-linear", name="italian")
    train(model, polyglot.dataset("it"), answers(tokenizer), steps=150, lr=lr, batch_size=32)
    learnt[lr] = polyglot.accuracy(model, tokenizer, "it")
for lr, right in learnt.items():
    print(f"learning rate {lr:<4}: {right:6.1%} of the unseen numbers right")
print(pl.count(model))

# %%
assert learnt[0.01] < max(learnt.values()) > 0.5, "scaling and shifting is to be enough for most of Italian"
assert pl.count(model).trainable == sum(
    SSF.count(*layer.adapters["italian"].shape) for layer in model.modules() if hasattr(layer, "adapters")
)

# %% [markdown]
# ## See: what each method can say
#
# A small layer with 24 inputs and 16 outputs is to become another one. There are four such tasks, and you know what each
# needs, for you plant it: an update of two ranks; a rotation of the inputs; a scaling of the outputs; and an update without
# any structure. Each method trains on each task with five learning rates and keeps its best. How much of the task does it do?
# One means all of it, and zero means that the frozen layer would have done as well.
#
# Before you run it: which method will do the *scaling* with the fewest numbers, and which cannot do it at all?

# %%
draw = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=draw)


W, b = normal(16, 24) / 24**0.5, normal(16) / 10
x = normal(256, 24)
low, free, skew = normal(16, 2) @ normal(2, 24), normal(16, 24), normal(24, 24) / 7
tasks = {
    "two ranks": low / low.norm() * W.norm() / 2,
    "a rotation": W @ torch.matrix_exp(skew - skew.T) - W,
    "a scaling": normal(16)[:, None] / 2 * W,
    "no structure": free / free.norm() * W.norm() / 2,
}
gallery = {  # the method, and options that suit a layer so small
    "LoRA": {"r": 2}, "DoRA": {"r": 2}, "LoHa": {"r": 2, "alpha": 2}, "LoKr": {"r": 2, "alpha": 2}, "HiRA": {"r": 2},
    "GraLoRA": {"r": 4, "alpha": 4, "gralora_k": 2}, "DeLoRA": {"r": 2}, "VeRA": {"r": 16}, "MiSS": {"r": 4},
    "FourierFT": {"n_frequency": 80, "scaling": 10.0}, "C3A": {"block_size": 8}, "OFT": {"oft_block_size": 24},
    "HRA": {"r": 4}, "BOFT": {"boft_block_size": 4, "boft_n_butterfly_factor": 2}, "SHiRA": {"r": 2}, "RoAd": {"group_size": 8}, "IA3": {}, "BitFit": {}, "Pfeiffer": {"reduction_factor": 8},
}  # fmt: skip


def fit(method, options, update, lr):
    """Train `method` on one task; returns the layer, the share of the task done, and how many numbers were trained."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(24, 16))
    with torch.no_grad():
        layer[0].weight.copy_(W)
        layer[0].bias.copy_(b)
    target, untouched = F.linear(x, W + update, b), F.linear(x, W, b)
    pl.attach(layer, method, ["0"], **options)
    trained = [p for p in layer.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=lr)
    for _ in range(150):
        loss = F.mse_loss(layer(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        done = 1 - F.mse_loss(layer(x), target) / F.mse_loss(untouched, target)
    return layer, done.item(), sum(p.numel() for p in trained)


# %% tags=["nbval-ignore-output", "heavy"]
done, numbers, layers = {}, {}, {}
for name, method_options in {**gallery, "SSF": {}}.items():
    method = SSF if name == "SSF" else getattr(pl.methods, name)
    for task, update in tasks.items():
        tries = [fit(method, method_options, update, lr) for lr in (0.003, 0.01, 0.03, 0.1, 0.3)]
        layers[name, task], done[name, task], numbers[name] = max(tries, key=lambda t: t[1])
shares = torch.tensor([[done[name, task] for task in tasks] for name in numbers]).clamp(min=0)
figures.show(
    figures.table(
        shares,
        [f"{name} ({n})" for name, n in numbers.items()],
        list(tasks),
        "What each method can say, with how many numbers",
        "share of the task done",
    ),
    alt="A table of methods against four tasks. Methods of low rank do the task of two ranks and part of the others; (IA)³, RoAd "
    "and SSF do the scaling and little else; the methods that rotate do most of the rotation; none of them does much of the "
    "task without structure.",
)

# %%
assert done["LoRA", "two ranks"] > 0.95 and done["LoRA", "no structure"] < 0.5
assert done["IA3", "a scaling"] > 0.95 and done["SSF", "a scaling"] > 0.95
assert done["OFT", "a scaling"] < 0.5 and done["HRA", "a scaling"] < 0.5, "what turns x does not stretch y"
assert done["OFT", "a rotation"] > done["LoRA", "a rotation"]
assert max(done["BitFit", task] for task in tasks) < 0.1, "a constant cannot do the work of a matrix"

# %% [markdown]
# No row is best everywhere. A method is a bet on what the update will look like, and a bet of few numbers must be a narrow
# one. (IA)³ does the scaling with 16 numbers, where LoRA needs 80 for less; for two ranks it is the other way round.
# What real updates look like was the question of lesson 02; this table cannot answer it, for its tasks were planted.
#
# Now use your own test. Which of these can be merged? And what rank has the update, once it is? Ask each method with random
# numbers in its parameters, and then ask the bottleneck that was trained above as well.


# %%
def probed(f):
    """The matrix of an affine f: ask it about the basis vectors."""
    with torch.no_grad():
        return (f(torch.eye(24)) - f(torch.zeros(24))).T


def rank(update):
    """How many of its singular values are more than rounding: above a thousandth of W's largest."""
    return int((torch.linalg.svdvals(update) > 1e-3 * torch.linalg.matrix_norm(W, 2)).sum())


for name, method_options in {**gallery, "SSF": {}}.items():
    layer, _, _ = fit(SSF if name == "SSF" else getattr(pl.methods, name), method_options, tasks["no structure"], lr=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in layer[0].adapters.parameters():
            p.add_(torch.randn(p.shape))
    can = is_affine(layer, 24)
    print(
        f"{name:10}", f"an update of rank {rank(probed(layer) - W):2}" if can else "there is no matrix to merge it into"
    )
    assert can == (name != "Pfeiffer")

# %% tags=["nbval-ignore-output"]
bottleneck = layers["Pfeiffer", "no structure"]
with torch.no_grad():
    passing = (bottleneck[0].adapters["default"].down(F.linear(x, W, b)) > 0).float().mean()
print(f"trained, it passes your test: {is_affine(bottleneck, 24)}; its ReLU lets {passing:.0%} of the numbers through")
print(f"asked with x a hundred times larger: {is_affine(lambda x: bottleneck(100 * x), 24)}")

# %%
assert passing > 0.9 and not is_affine(lambda x: bottleneck(100 * x), 24)

# %% [markdown]
# The bottleneck is worth a moment. The task was linear, and it learnt to be linear: it pushed its numbers to the side of the
# ReLU where nearly everything passes. At the sizes of x it was trained with, it may well pass your test; with larger ones it does
# not, so it cannot be merged. A test with random inputs can refute. It cannot prove.
#
# And the updates themselves. Choose a task and a method: on the left what was planted, on the right what the method made of
# it. Look for the stripes of (IA)³, the wrapped diagonals of C3A, the waves of FourierFT.

# %% tags=["nbval-ignore-output"]
pictures = {key: probed(layer) - W for key, layer in layers.items() if key[0] != "Pfeiffer"}


def draw_pair(task, method):
    planted, made = tasks[task], pictures[method, task]
    limit = figures.colour_limit([planted])
    told = f"{method} on {task}: {done[method, task]:.0%} of the task done with {numbers[method]} numbers."
    images = "".join(
        f"<figure style='margin:0 1em 0 0'>{widgets.heat_map(m.numpy(), limit, alt, side=288)}<figcaption>{alt}</figcaption></figure>"
        for m, alt in ((planted, "planted"), (made, f"what {method} made of it"))
    )
    return f"<p role='status' aria-live='polite'>{told}</p><div style='display:flex'>{images}</div>"


widgets.explore(
    draw_pair,
    task=("two ranks", list(tasks)),
    method=("LoRA", [name for name in numbers if name != "Pfeiffer"]),
)

# %%
shown = ["LoRA", "IA3", "OFT", "C3A", "FourierFT", "MiSS"]
figures.show(
    figures.matrices(
        {"planted": tasks["no structure"], **{name: pictures[name, "no structure"] for name in shown}},
        "The same task, six shapes of update",
    ),
    alt="Seven small heat maps: the planted update without structure, and what six methods made of it. in LoRA's whole rows and columns stand out, "
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
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, **sizes)).eval()


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
theirs = peft.get_peft_model(
    tiny(), peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"])
)
shaken(theirs, 1, "ia3_l")
asked = logits(theirs, adapter_names=["__base__", "__base__"])
print("asked for the base model, got the base model:", torch.allclose(asked, logits(tiny()), atol=1e-5))
print("got the adapter instead:                     ", torch.equal(asked, logits(theirs)))

ours = pl.attach(tiny(), pl.methods.IA3, ["q_proj", "down_proj"], feedforward_modules=["down_proj"])
for layer in ours.modules():
    for adapter in getattr(layer, "adapters", {}).values():
        shaken(adapter, 1, "")
with pl.mix(ours, [None, None]):
    print("here:                                        ", torch.allclose(logits(ours), logits(tiny()), atol=1e-5))

# %% [markdown]
# **Two at once.** Two adapters that each add something should together add both. For LoRA they do. For C3A the second is given
# what the first made.


# %%
def sum_of_two(config, part):
    """How far the output of a layer with two adapters is from the sum of what each adds."""
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
apart = {
    "LoRA": sum_of_two(peft.LoraConfig(r=2, target_modules=["q_proj"]), "lora_B"),
    "C3A": sum_of_two(peft.C3AConfig(block_size=4, target_modules=["q_proj"]), "c3a_kernel"),
}
for name, gap in apart.items():
    print(f"{name}: both together are {'the sum of each' if gap < 1e-5 else 'something else than the sum'}")
assert apart["LoRA"] < 1e-5 and apart["C3A"] > 0.01

# %% [markdown]
# **One file, two meanings.** OFT makes its rotation exactly, or by the first terms of a series, which is quicker. The same
# numbers turn one way under one setting and the other way under the other.

# %%
turned = {}
for series in (True, False):
    config = peft.OFTConfig(r=0, oft_block_size=4, use_cayley_neumann=series, target_modules=["q_proj"])
    model = peft.get_peft_model(tiny(), config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "oft_R" in name:
                p.copy_(torch.linspace(-0.05, 0.05, p.numel()).reshape(p.shape))
        layer = model.base_model.model.model.layers[0].self_attn.q_proj
        turned[series] = layer.oft_R["default"](torch.eye(16))
same, opposite = ((turned[True] - other).abs().max() for other in (turned[False], turned[False].T))
print("the same rotation:    ", bool(same < 1e-3))
print("the opposite rotation:", bool(opposite < 1e-3))

# %% [markdown]
# A file remembers the setting, so a file is read as it was written; but whoever changes the setting on the way turns the
# other way round. The tests of this course state each of these as a fact about the version they were run with, so that a
# version that mends one will be noticed.

# %% [markdown]
# ## Read the result
#
# **What it shows.** Every method that sits on a layer fits into two functions, `before` and `after`. Whether it can be merged
# is a question you can put to it and need not look up: of those in the gallery only the bottleneck cannot. What it costs
# follows from its equation. And a new one takes ten lines, and then can be switched, mixed, merged, saved and counted like the others.
#
# **What it does not show.** The four tasks were made for the comparison, each with one seed, so a low share says that a shape does
# not *fit that task*, not that the method is worse. Real updates are none of the four. The options were chosen to suit a small layer,
# not made equal in parameters: read the count beside the name before you compare two rows.
#
# | claim | here |
# | --- | --- |
# | *adapters, prompts and LoRA are different techniques* | in where they act and in their shape; all that sit on a layer have one form, and all but those with a non-linearity have one merged form too |
# | *fewer parameters with the same quality* | depends on the task: 16 numbers did all of one task and almost nothing of another |
#
# **Negative results, said aloud.** No method of few numbers did much of the task without structure; none can, since as many
# free numbers as the weight has do not fit into a fifth of them. And your own method learnt most of Italian only at learning rates above the one LoRA used in lesson 03:
# with LoRA's own it would have looked far worse than it is.

# %% [markdown]
# ## Go further
#
# - Give your method a `before` as well: scale and shift what *enters*. Which of the four tasks does it do now? Does it still merge?
# - Make two methods one: derive from `pl.methods.LoRA` and let `after` scale the result. Climb the ladder with it.
# - An open question: is there a cheap look at a task, before training, that says which shape its update will need?
#
# Sources: He et al., [arXiv:2110.04366](https://arxiv.org/abs/2110.04366); SSF, [arXiv:2210.08823](https://arxiv.org/abs/2210.08823);
# each method's paper stands at the head of its file in `peftlab/methods/`. The library: `peft`, Apache-2.0.
