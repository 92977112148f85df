# %% [markdown]
# # 11 Four bits
#
# **110 minutes** of reading and doing, **60 seconds** of computing on two quiet cores. Before this: lesson 03. Lesson 02 helps.
#
# A frozen base is only read, so it may be stored roughly. After this page you will have stored weights in four bits yourself, to the last bit
# as the library `bitsandbytes` does; measured what that costs, and what the famous sixteen numbers are and are not; trained LoRA on such a base;
# and merged it in four ways, of which one is right and one a surprise. You will have written the two norms that say so beforehand.

# %%
import statistics
import warnings

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

import peftlab as pl
from peftlab import nf4
from peftlab.classroom import check, predict
from peftlab.lab import figures, polyglot, records, widgets
from peftlab.lab.sweeps import complete, interval
from peftlab.lab.training import answers, train
from peftlab.methods import LoRA

# peft asks transformers by a name that will change
warnings.filterwarnings("ignore", "`is_gradient_checkpointing`")

# %% [markdown]
# ## Predict
#
# The end of the story first. Choose before you know anything about four bits; nothing is marked.

# %%
predict("four-bit-merge")

# %% [markdown]
# ## The idea
#
# **Quantisation** replaces each number by one of a few, the **levels**, and stores which: its number among them, the **code**. With
# sixteen levels a code has four bits. Weights of all sizes have to go through the same sixteen levels, so they are scaled first, a few at a time:
# a row of, say, 64 neighbours is divided by its **absolute maximum**, the largest of their sizes without sign. That is **blockwise quantisation**.
#
# $$c = \operatorname{nearest}\!\left(\frac{w}{a}\right), \qquad w' = a\, \ell_c, \qquad a = \max_{\text{its 64}} |w|$$
#
# - $w$ is a weight, and $w'$ what it becomes: to **dequantise** is to compute $w'$ from what is stored;
# - $a$ is the absolute maximum of the 64 it belongs to, stored once for all of them;
# - $\ell_0 < \ell_1 < \dots < \ell_{15}$ are the levels, from -1 to 1, the same for the whole model;
# - $c$, from 0 to 15, is the code of the nearest level.
#
# Here are 64 weights of a real layer, divided by their absolute maximum, and the level that each of them goes to. The levels are
# those of **NF4**, "normal float of four bits", which the paper **QLoRA** made for trained weights.

# %%
encoder, _ = pl.lab.load_base("minilm-l6")
W = encoder.encoder.layer[0].intermediate.dense.weight.detach()
print(f"a weight of minilm-l6: {W.shape[0]} x {W.shape[1]}, {W.numel():,} numbers")

# %% tags=["hide-source"]
row = W.flatten()[640:704]
figures.show(
    figures.to_levels((row / row.abs().max()).tolist(), nf4.levels().tolist()),
    alt="Two rows of marks between -1 and 1. Above, 64 scaled weights, crowded around zero, one of them at an end. Below, the sixteen levels of NF4, "
    "which lie closer together around zero than outside. A line leads from each weight to its nearest level.",
)

# %% [markdown]
# What is lost is how slanted the lines are. Everything on this page is about those slants: how to make them small, what they cost, and
# what they do to an adapter.
#
# ## Build it
#
# Eight exercises. The first seven store a weight and read it again; the last one is about merging.
#
# ### 1. The largest of each block
#
# {{nf4-absmax}}
#
# Write `block_absmax(W, block)`: read `W` row by row, cut it into blocks of `block` weights (the last may be shorter), and give the absolute maximum of
# each, as one row of numbers.


# %%
def block_absmax(W, block):
    """The largest |w| of each block, (blocks,)."""
    ### BEGIN SOLUTION
    flat = F.pad(W.flatten(), (0, -W.numel() % block))
    return flat.view(-1, block).abs().amax(1)
    ### END SOLUTION


# %%
check("nf4-absmax", block_absmax)

# %% [markdown]
# Why so many maxima, and not one for the whole weight? Look at how far out they lie, in standard deviations.

# %%
maxima = {block: block_absmax(W, block) / W.std() for block in (W.numel(), 4096, 64)}
for block, found in maxima.items():
    print(f"blocks of {block:7,}: {len(found):5,} of them,", end=" ")
    print(f"the largest weight at {found.mean():5.1f} standard deviations on average")
far = maxima[W.numel()].item()
assert far > 3 * maxima[64].mean(), "one outlier is to lie far beyond the usual maximum"

# %% [markdown]
# A single **outlier** would set the scale of the whole weight, and nearly everything else would have to share the few levels next to zero. In blocks
# it spoils the scale of the others in its own block, and of nobody else.
#
# ### 2. The levels
#
# {{nf4-levels}}
#
# Where to put the sixteen? Trained weights are distributed roughly as a normal distribution. The **quantile** at probability $p$ is the number below which
# the share $p$ of a distribution lies. NF4 takes normal quantiles at evenly spaced probabilities, so that between neighbouring levels lies about the
# same share of it. At probability 1 the quantile is infinite, so the outermost probability is a little less, here called `edge`. And zero is to be a level,
# so that what is zero stays zero: therefore the two sides of zero are made apart, with different numbers of levels.
#
# Write `normal_levels(edge, below, above)`: quantiles at `above` evenly spaced probabilities from `edge` towards 1/2, where zero comes; `below` of them
# on the other side, mirrored; zero itself; all of it ascending, and divided by the largest.


# %%
def normal_levels(edge, below, above):
    """Ascending levels from -1 to 1: `below`, then zero, then `above` of them."""
    ### BEGIN SOLUTION
    up = torch.special.ndtri(torch.linspace(edge, 0.5, above + 1)[:-1])
    down = -torch.special.ndtri(torch.linspace(edge, 0.5, below + 1)[:-1])
    levels = torch.cat([down, torch.zeros(1), up]).sort().values
    return levels / levels.max()
    ### END SOLUTION


# %%
check("nf4-levels", normal_levels)

# %%
EDGE = (1 - 1 / 32 + 1 - 1 / 30) / 2  # as published: between what 16 and 15 would suggest
NF4 = normal_levels(EDGE, below=7, above=8)
print(" ".join(f"{level:.3f}" for level in NF4))
gap = (NF4 - nf4.levels()).abs().max().item()
assert gap < 1e-5, f"yours differ from the published levels by {gap:.1e}"
print(f"steps: {NF4[1] - NF4[0]:.3f} at the edge, {NF4[8] - NF4[7]:.3f} above zero")

# %% [markdown]
# Seven below zero, zero, eight above. There is no formula that turns a code into its level, as there is for an integer or a floating-point number: NF4 is
# a table.
#
# ### 3. Quantise
#
# {{nf4-quantize}}
#
# Write `quantize(W, levels, block)`, which returns the codes and the absolute maxima: a code for each weight, in one row, of type `torch.uint8`; and the
# maxima from the first exercise. The code is the number of the *nearest* level, counted from 0. A block may be all zeros.


# %%
def quantize(W, levels, block):
    """(codes, (weights,) uint8; absolute maxima, (blocks,))."""
    ### BEGIN SOLUTION
    absmax = block_absmax(W, block)
    each = absmax.clamp(min=1e-30).repeat_interleave(block)[: W.numel()]
    borders = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(W.flatten() / each, borders).to(torch.uint8), absmax
    ### END SOLUTION


# %%
check("nf4-quantize", quantize)

# %% [markdown]
# ### 4. Pack
#
# {{nf4-pack}}
#
# The smallest thing a tensor holds is a byte, eight bits. Write `pack(codes)`: two codes in each byte, the first of the two in the high four bits. With an
# odd number of codes the last byte's low half is zero.


# %%
def pack(codes):
    """Half as many bytes, uint8, for codes from 0 to 15."""
    ### BEGIN SOLUTION
    codes = F.pad(codes, (0, len(codes) % 2))
    return codes[::2] << 4 | codes[1::2]
    ### END SOLUTION


# %%
check("nf4-pack", pack)

# %% [markdown]
# <details><summary>Help, I see: a model in four bits has only half of its parameters</summary>
#
# Somebody counted bytes. The packed weight is a tensor with half as many entries as the weight has, and `numel()` counts entries. `peft` and
# `transformers` count them twice for this reason.
#
# </details>
#
# ### 5. Dequantise
#
# {{nf4-dequantize}}
#
# Write `dequantize(packed, absmax, levels, shape, block)`, which undoes all of it, as far as it can be undone.


# %%
def dequantize(packed, absmax, levels, shape, block):
    """The weight that these stand for, of this shape."""
    ### BEGIN SOLUTION
    n = torch.Size(shape).numel()
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:n]
    return (levels[codes.long()] * absmax.repeat_interleave(block)[:n]).view(shape)
    ### END SOLUTION


# %%
check("nf4-dequantize", dequantize)

# %% [markdown]
# There and back on a real weight. Is it what the package of this course stores, and how large is the error: its Frobenius norm, as a share of the weight's?


# %%
def four_bits(W, levels=NF4, block=64):
    """What W becomes: quantised, packed, unpacked and dequantised."""
    codes, absmax = quantize(W, levels, block)
    return dequantize(pack(codes), absmax, levels, W.shape, block)


def error(W, levels=NF4, block=64):
    """The norm of what quantising changed, as a share of the weight's norm."""
    return ((four_bits(W, levels, block) - W).norm() / W.norm()).item()


codes, absmax = quantize(W, NF4, 64)
their_codes, their_absmax = nf4.quantize(W)
same = (codes == their_codes).float().mean().item()  # rounding may turn one on a border
assert torch.equal(absmax, their_absmax), "the package has other maxima: see `quantize`"
assert same > 0.9999, "the package has other codes: see `quantize`"
stored = pack(codes).numel() + 4 * len(absmax)
print(f"the maxima are those of the package, and of the codes {same:.2%}")
print(f"{4 * W.numel():,} bytes became {stored:,}; relative error {error(W):.4f}")

# %% [markdown]
# About a seventh of the bytes, and a tenth of the weight's norm is off. That is much more than rounding to 16 bits would do, and yet models go on working. How well is
# this done, then? Could other levels, or other blocks, do better?
#
# ## How good is NF4?
#
# You have everything to find out. Rivals for NF4: **int4**, evenly spaced integers from -7 to 7; **fp4**, the floating-point numbers that four bits give (a sign, two bits
# of exponent, one of digits); fifteen *symmetric* normal quantiles, a common slip in programs that make NF4 themselves; and the best levels there are for a given weight, found by **Lloyd's algorithm**: send each weight to its
# nearest level, move each level to the mean of the weights that came, and again. It is fitted to *another* layer than the one it is judged on. As a control stand
# beside the real weight random ones, normal and uniform.


# %%
def lloyd(W, levels, block=64, rounds=40):
    """Levels with a smaller squared error on W: nearest level, mean, and again."""
    each = block_absmax(W, block).repeat_interleave(block)[: W.numel()]
    for _ in range(rounds):
        number = quantize(W, levels, block)[0].long()
        sums, shares = (
            torch.bincount(number, by, len(levels))
            for by in (W.flatten() * each, each**2)
        )
        levels = torch.where(shares > 0, sums / shares, levels.double()).float()
    return levels


up = torch.tensor([0.5, 1, 1.5, 2, 3, 4, 6]) / 6
rivals = {
    "NF4": NF4,
    "int4": torch.arange(-7, 8) / 7,
    "fp4": torch.cat([-up.flip(0), torch.zeros(1), up]),
    "15 symmetric": normal_levels(EDGE, below=7, above=7),
    "Lloyd": lloyd(encoder.encoder.layer[3].intermediate.dense.weight.detach(), NF4),
}
draw = torch.Generator().manual_seed(0)
weights = {
    "minilm-l6": W,
    "normal": torch.randn(W.shape, generator=draw),
    "uniform": torch.rand(W.shape, generator=draw) * 2 - 1,
}
errors = {
    (name, what): error(weight, levels)
    for name, levels in rivals.items()
    for what, weight in weights.items()
}
print(f"relative error   {'minilm-l6':>10} {'normal':>8} {'uniform':>8}")
for name in rivals:
    real, normal, uniform = (errors[name, what] for what in weights)
    print(f"{name:16} {real:10.4f} {normal:8.4f} {uniform:8.4f}")
assert errors["NF4", "minilm-l6"] < errors["int4", "minilm-l6"], "NF4 is to beat int4"
assert errors["int4", "uniform"] < errors["NF4", "uniform"], "where weights are even"
assert errors["Lloyd", "minilm-l6"] < errors["NF4", "minilm-l6"], (
    "there are better levels"
)

# %% [markdown]
# NF4 beats int4 and fp4 on the real weight and on normal numbers, and loses to int4 on uniform ones: the levels fit a distribution, and are no better in themselves. It is not the
# best for the real weight either: Lloyd's levels leave a smaller error, although they were fitted to another layer.
#
# ### Are all codes used?
#
# Quantiles were chosen so that each code should be used about equally often; then no code would waste its bits. Is it so?

# %%
predict("codes-equally-often")


# %%
def used(W, levels=NF4, block=64):
    """The share of the weights that each code has."""
    codes, _ = quantize(W, levels, block)
    return torch.bincount(codes.long(), minlength=len(levels)) / W.numel()


def entropy(shares):
    """How many bits a code is worth: 4 if all sixteen are used equally often."""
    shares = shares[shares > 0]
    return -(shares * shares.log2()).sum().item()


for what in ("minilm-l6", "normal"):
    for block in (16, 64, 4096):
        shares = used(weights[what], block=block)
        print(f"{what:9} blocks of {block:5,}: used {shares.min():.1%} to ", end="")
        print(f"{shares.max():.1%}, worth {entropy(shares):.2f} bits")
assert used(W).max() > 4 * used(W).min(), "used very unequally in blocks of 64"

# %% tags=["hide-source"]
figures.show(
    figures.code_use(
        {"minilm-l6": used(W).tolist(), "normal": used(weights["normal"]).tolist()},
        NF4.tolist(),
    ),
    alt="For each of the sixteen levels of NF4, at its place between -1 and 1, the share of weights that go to it, for the real weight and for normal "
    "numbers; a dotted line at one sixteenth. The two are alike: the levels around zero lie well above the line, the outer ones below it.",
)

# %% [markdown]
# Far from it, with the real weight and with perfectly normal numbers alike. What goes to the levels is not $w$ but $w / a$, and how far out $a$ lies depends on the length of the block: the
# longer it is, the more the others are drawn in to zero. The levels know nothing of the block. So "information-theoretically optimal", as the paper has it, is not what these
# numbers show; and the error, which is what matters, has its minimum elsewhere than equal use. ([arXiv:2306.06965](https://arxiv.org/abs/2306.06965) works both out.)
#
# ### How long a block?

# %%
lengths = [16, 32, 64, 128, 256, 1024, 4096]
by_length = {
    name: [error(W, rivals[name], block) for block in lengths]
    for name in ("NF4", "int4", "fp4")
}
for i, block in enumerate(lengths):
    each = ", ".join(f"{name} {found[i]:.3f}" for name, found in by_length.items())
    print(f"blocks of {block:5,}: {each}")
whole = error(W, block=W.numel())
print(f"one block for the whole weight: NF4 {whole:.3f}")
assert by_length["NF4"] == sorted(by_length["NF4"]), "longer blocks, larger errors"
assert whole > 3 * by_length["NF4"][2], "one scale for all is to be far worse"

# %% tags=["hide-source"]
figures.show(
    figures.curves(
        lengths,
        by_length,
        "The error by the length of a block",
        "weights in a block",
        "relative error",
    ),
    alt="Three rising lines of the relative error of a real weight, over blocks of 16 to 4,096 weights. NF4 lies lowest throughout, "
    "and all rise slowly: from 16 to 4,096 the error does not even triple.",
)

# %% [markdown]
# Short blocks are better, and each costs a maximum of its own. One scale for everything is where the outlier of the beginning strikes.
#
# ### 6. Double quantisation
#
# {{nf4-double}}
#
# The maxima are numbers as well, so quantise *them*: **double quantisation**. They are all positive, so first their mean is taken away; what is left goes, in groups of
# `group` maxima, to the nearest of 256 `levels`, eight bits each.
#
# Write `double_quantize(absmax, levels, group)`, which returns the codes (`torch.uint8`), the scale of each group, and the mean.


# %%
def double_quantize(absmax, levels, group):
    """(codes, (blocks,) uint8; scales, (groups,); the mean of absmax)."""
    ### BEGIN SOLUTION
    mean = absmax.mean()
    codes, scales = quantize(absmax - mean, levels, group)
    return codes, scales, mean
    ### END SOLUTION


# %%
check("nf4-double", double_quantize)

# %% [markdown]
# ### 7. How many bits a weight?
#
# {{nf4-bits}}
#
# Write `bits_per_weight(block, group)`: four bits for the code, and the share of each weight in the scales, which are stored in 32 bits each. With double quantisation `group` maxima
# share one; without it `group` is None. (The mean, one number for a whole weight, may be left out.)


# %%
def bits_per_weight(block, group):
    """Bits stored for each weight."""
    ### BEGIN SOLUTION
    if group is None:
        return 4 + 32 / block
    return 4 + 8 / block + 32 / (block * group)
    ### END SOLUTION


# %%
check("nf4-bits", bits_per_weight)

# %%
dynamic = nf4.dynamic_levels()  # 256 levels, the closer the smaller


def twice(absmax, group=256):
    """What the maxima become by double quantisation."""
    codes, scales, mean = double_quantize(absmax, dynamic, group)
    return dynamic[codes.long()] * scales.repeat_interleave(group)[: len(absmax)] + mean


for block in (32, 64, 128):
    codes, absmax = quantize(W, NF4, block)
    for group, kept in ((None, absmax), (256, twice(absmax))):
        back = dequantize(pack(codes), kept, NF4, W.shape, block)
        off = ((back - W).norm() / W.norm()).item()
        print(
            f"blocks of {block:3}, {'doubly' if group else 'singly'} quantised: ", end=""
        )
        print(f"{bits_per_weight(block, group):.3f} bits a weight, error {off:.5f}")
        if group and block == 64:
            layer = nf4.NF4Linear(encoder.encoder.layer[0].intermediate.dense)
            other = ((layer.weight - back).abs() > 1e-5).float().mean().item()
            assert other < 1e-4, "the package's own layer has other weights"

# %% [markdown]
# At blocks of 64 double quantisation saves more than a third of a bit a weight, and adds less than a thousandth to the error. Blocks of 128 without it take more bits *and* have the
# larger error.
#
# What you built is what `bitsandbytes` stores, the library behind four bits in `transformers` and `peft`: the levels, the nearest of them, the order in the byte, the mean, the groups
# and the 256 levels. It is not needed here: its codes for the weights of polyglot-350k were written down once, and a test of the course compares with every one. One difference was found, and you have met it: in a block of zeros its version
# 0.49.2 divides zero by zero.
#
# ## See
#
# The same weight with any of these levels, and any block. The bars are your `used`. Which bars are empty, and why does the error rise? Drag, or reach the sliders with Tab and use the arrow keys.

# %% tags=["hide-source"]
SAMPLE = W.flatten()[:65536].view(256, 256)


def uses(levels, block):
    chosen = rivals[levels]
    shares, off = used(SAMPLE, chosen, block), error(SAMPLE, chosen, block)
    told = f"{levels}, blocks of {block:,}: relative error {off:.3f}; a code is used by {shares.min():.1%} to {shares.max():.1%} of the weights and worth {entropy(shares):.2f} bits"
    bars = "".join(
        f"<rect x='{230 + 220 * place - 3:.1f}' y='{150 - 500 * share:.1f}' width='6' height='{500 * share:.1f}' fill='{figures.PALETTE[0]}'/>"
        for place, share in zip(chosen.tolist(), shares.tolist())
    )
    line = "<line x1='4' x2='456' y1='150' y2='150' stroke='currentColor'/><line x1='4' x2='456' y1='118.75' y2='118.75' stroke='currentColor' stroke-dasharray='4'/>"
    marks = "".join(
        f"<text x='{230 + 220 * i}' y='170' font-size='13' text-anchor='middle' fill='currentColor'>{i}</text>"
        for i in (-1, 0, 1)
    )
    marks += "<text x='456' y='112' font-size='12' text-anchor='end' fill='currentColor'>one in sixteen</text>"
    return f"<p role='status' aria-live='polite'>{told}</p><svg role='img' aria-label='{told}' width='460' height='178'>{bars}{line}{marks}</svg>"


widgets.explore(
    uses,
    levels=("NF4", list(rivals)),
    block=(64, [16, 32, 64, 128, 256, 1024, 4096, 65536]),
)

# %% [markdown]
# ## Run it: LoRA on four bits
#
# **QLoRA** is LoRA on a base that is stored like this: each layer computes with $w'$, made anew whenever it is needed, and the adapter beside it is trained in full precision. `nf4.quantize_model`
# puts such layers into a model. To the adapter it is a base like any other, with slightly other weights. So `peft`, on an ordinary model that has *your* dequantised weights, must go through the same losses.

# %%
TARGETS, HOW = "all-linear", {"r": 8, "lora_alpha": 16}
mine, tokenizer = pl.lab.load_base("polyglot-350k")
before = sum(p.numel() * p.element_size() for p in mine.parameters())
nf4.quantize_model(mine, double=False)
tensors = [*mine.parameters(), *mine.buffers()]
now = sum(t.numel() * t.element_size() for t in tensors)
print(f"{before:,} bytes before, {now:,} after (embeddings, norms, head as they were)")

theirs, _ = pl.lab.load_base("polyglot-350k")
layers = [
    path for path, layer in mine.named_modules() if isinstance(layer, nf4.NF4Linear)
]
original = {path: theirs.get_submodule(path).weight.detach().clone() for path in layers}
with torch.no_grad():
    for path in layers:
        theirs.get_submodule(path).weight.copy_(four_bits(original[path]))
torch.manual_seed(0)
pl.attach(mine, LoRA, TARGETS, **HOW)
theirs = get_peft_model(theirs, LoraConfig(target_modules=TARGETS, **HOW))
with torch.no_grad():
    for path in layers:
        A = mine.get_submodule(path).adapters["default"].lora_A
        theirs.get_submodule(f"base_model.model.{path}").lora_A["default"].weight.copy_(A)

italian, collate = polyglot.dataset("it"), answers(tokenizer)
how = {"steps": 20, "lr": 1e-3, "batch_size": 16, "progress": False}
losses = [train(model, italian, collate, **how).losses for model in (mine, theirs)]
gap = max(abs(a - b) for a, b in zip(*losses))
print(f"loss {losses[0][0]:.3f} at the first step, {losses[0][-1]:.3f} at the last")
assert losses[0][-1] < losses[0][0], "something is to be learnt"
assert gap < 1e-3, f"the losses differ by {gap:.1e}: look at `dequantize`"
print("LoRA on NF4, and peft on your dequantised weights: every loss agrees:", gap < 1e-3)

# %% [markdown]
# So four bits are no obstacle to training: no gradient passes through the rounding, for the base is frozen. Now to serve the model without an adapter beside it. What does `merge` say?

# %%
try:
    pl.merge(mine)
except ValueError as refused:
    print(refused)
else:
    raise AssertionError("merging into four bits is to be refused")

# %% [markdown]
# Three places are named there. Try them all, and a fourth: Italian on polyglot-350k, three seeds. *The original, quantised* is the original with the update, and then in four bits. And a control: what did the base itself lose
# by being quantised, without any adapter? It knew English, Spanish and French.


# %%
def weights_of(model):
    return {path: model.get_submodule(path).weight.detach().clone() for path in layers}


def speaks(weights, language="it"):
    """The accuracy of polyglot-350k with these weights in its linear layers."""
    model, _ = pl.lab.load_base("polyglot-350k")
    with torch.no_grad():
        for path, weight in weights.items():
            model.get_submodule(path).weight.copy_(weight)
    return polyglot.accuracy(model, tokenizer, language)


def in_four_bits(weights):
    return {path: four_bits(weight) for path, weight in weights.items()}


def add(weights, updates):
    return {path: weight + updates[path] for path, weight in weights.items()}


four = in_four_bits(original)
known = {
    name: statistics.fmean(speaks(weights, language) for language in polyglot.KNOWN)
    for name, weights in (("original", original), ("four bits", four))
}
print("the base, no adapter, the three languages it knows:", end=" ")
print(f"{known['original']:.1%} as it was, {known['four bits']:.1%} in four bits")
assert known["four bits"] > known["original"] - 0.05, "the base is to be nearly as good"

# %% tags=["nbval-ignore-output", "heavy"]
updates, kept = {}, {}
for seed in range(3):
    model = nf4.quantize_model(pl.lab.load_base("polyglot-350k")[0], double=False)
    torch.manual_seed(seed)
    pl.attach(model, LoRA, TARGETS, **HOW)
    train(model, italian, collate, steps=80, lr=1e-2, seed=seed, progress=False)
    found = {"the adapter beside four bits": polyglot.accuracy(model, tokenizer, "it")}
    pl.merge(nf4.dequantize_model(model))
    merged = weights_of(model)
    updates[seed] = {path: merged[path] - four[path] for path in layers}
    found["into what the four bits stand for"] = speaks(merged)
    found["into the original"] = speaks(add(original, updates[seed]))
    found["the same, quantised again"] = speaks(in_four_bits(merged))
    found["the original, quantised"] = speaks(in_four_bits(add(original, updates[seed])))
    for way, accuracy in found.items():
        kept.setdefault(way, []).append(accuracy)
for way, accuracies in kept.items():
    print(f"{way:34}", *(f"{accuracy:7.1%}" for accuracy in accuracies))

# %% tags=["heavy"]
for way, accuracies in kept.items():
    for alone, merged in zip(kept["the adapter beside four bits"], accuracies):
        assert abs(alone - merged) < 0.1, f"{way}: on this model no merge is to lose much"

# %% [markdown]
# A few points at the most: not much for the merge into weights that the adapter has never seen, and not even for those that round everything once more. If you had stopped at this model, you would have said that it makes little
# difference. Before the next model, ask *why* it made so little.
#
# ### 8. What a merge will lose, before it is made
#
# {{nf4-error-to-update}}
#
# Merged into the original, the weight of a layer is off by the quantisation error, $w - w'$, from the one that the adapter was trained for. Is that much? Not beside the weight: beside the *update*, for that is all
# that the merge is about. Write `error_to_update(weights, dequantized, updates)`, three lists with a matrix for each layer: the norm of all errors together, divided by the norm of all updates together.


# %%
def error_to_update(weights, dequantized, updates):
    """|| what quantising changed || / || what training added ||, over all layers."""
    ### BEGIN SOLUTION
    errors = sum((a - b).square().sum() for a, b in zip(weights, dequantized))
    return (errors / sum(u.square().sum() for u in updates)).sqrt().item()
    ### END SOLUTION


# %%
check("nf4-error-to-update", error_to_update)

# %% tags=["nbval-ignore-output", "heavy"]
for seed, update in updates.items():
    lists = ([weights[path] for path in layers] for weights in (original, four, update))
    ratio = error_to_update(*lists)
    print(f"polyglot-350k, Italian, seed {seed}: error / update {ratio:.2f}")
assert ratio < 0.5, "on this model the update is to be far larger than the error"

# %% [markdown]
# The error is a small part of the update: it drowns in what was learnt. A small model, a whole language, a high learning rate: the update is huge. Now the other kind of fine-tuning, the usual one.
#
# ## A larger model, recorded
#
# smollm2-135m learns to answer with nothing but a name in double brackets, as in lesson 03: two dozen examples, a dozen steps, on a base in four bits. Before you look:
# the update was less than a twentieth of the weight there. The error, you have seen, is about a tenth. What does your function give, and what will the four merges do?
#
# This takes minutes a seed, so it was recorded, six seeds; and polyglot-350k as well, on bases of four, three and two bits: fewer bits, larger errors. (The weights of smollm2-135m come from a file with four bits a weight, of another
# kind. *Original* means: as they are read from there.)

# %%
runs = complete(records.load("merge-in-four-bits"))
print(records.stamp(runs))
brackets = runs[runs["task"] == "brackets"]
ways = {
    "the adapter beside four bits": "adapter",
    "into what the four bits stand for": "dequantised",
    "into the original": "original",
    "the same, quantised again": "requantised",
    "the original, quantised": "original_quantised",
}
print(f"smollm2-135m, {len(brackets)} seeds: error / update", end=" ")
print(f"{brackets['ratio'].min():.1f} to {brackets['ratio'].max():.1f}")
print(f"{'':34} in the format (of 12)        loss, nats per token")
for way, name in ways.items():
    right = (12 * brackets[f"score_{name}"]).round().astype(int).tolist()
    mean, half = interval(brackets[f"loss_{name}"])
    print(f"{way:34} {right!s:28} {mean:5.2f} ± {half:.2f}")
one = brackets.iloc[0]
for name in ("untouched", "quantised"):
    base = f"the base alone, {'original' if name == 'untouched' else 'four bits'}"
    score = round(12 * one[f"score_{name}"])
    print(f"{base:34} {score!s:28} {one[f'loss_{name}']:5.2f}; ", end="")
    print(f"on plain prose {one[f'known_{name}']:.2f}")

# %%
for way, name in ways.items():
    told = "; ".join(one[f"said_{name}"][i] for i in (0, 2, 3))
    print(f"{way:34} {told}")
base_says = [list(row["said_quantised"]) for _, row in brackets.iterrows()]
again = [list(row["said_requantised"]) for _, row in brackets.iterrows()]
letter_by_letter = sum(a == b for a, b in zip(again, base_says))
print(f"{'the base alone, four bits':34} {'; '.join(base_says[0][i] for i in (0, 2, 3))}")
print(f"\nquantised again, in {letter_by_letter} of {len(brackets)} seeds:", end=" ")
print("every answer is, letter for letter, that of the base alone")
for way in ("the same, quantised again", "the original, quantised"):
    moved, along = (brackets[f"{what}_{ways[way]}"].mean() for what in ("moved", "kept"))
    print(f"{way:26} {moved:6.3%} of the codes changed by the adapter, ", end="")
    print(f"{along:6.1%} of the update kept")

# %%
right = {name: 12 * brackets[f"score_{name}"] for name in ways.values()}
assert (right["adapter"] >= 11).all(), "beside the four bits the format is learnt"
assert (right["dequantised"] == right["adapter"]).all(), "into these weights: the same"
assert (right["original"] < right["adapter"]).all(), "into the original: worse, each seed"
assert (right["requantised"] == 0).all(), "quantised again: nothing is left"
for name in ("original", "requantised"):
    mean, half = interval(brackets[f"loss_{name}"] - brackets["loss_adapter"])
    print(f"{name:12} loss minus the adapter's: {mean:+.2f} ± {half:.2f}")
    assert mean - half > 0, f"{name}: worse beyond the interval of six paired seeds"

# %% tags=["hide-source"]
points = {
    way: [
        (row["ratio"], row[f"score_{name}"] / row["score_adapter"])
        for _, row in runs.iterrows()
    ]
    for way, name in list(ways.items())[1:]
}
figures.show(
    figures.scatter(
        points,
        "What a merge keeps, by how large the error is beside the update",
        "norm of the error / norm of the update",
        "score after the merge / score of the adapter",
    ),
    alt="Points over a logarithmic axis of error over update, six each for polyglot-350k in four bits near 0.15, in three near 0.33, in two near 1, and for smollm2-135m near 14. "
    "Merged into what the bits stand for, all lie at 1. Merged into the original or quantised again, they lie near 1 on the left and far below from a ratio of 1 on. The original, quantised, falls lowest of all at two bits, and lies near 0.85 for smollm2-135m.",
)

# %% [markdown]
# The error is many times the update, and yet the base itself was harmed little: its loss on plain prose rose by about a twentieth. A model bears a large change of its weights, if the change has no direction. What an adapter adds is small, and
# everything hangs on it.
#
# - *Into what the four bits stand for*: the same answers, as it must be. It costs the memory that four bits had saved.
# - *Into the original*: worse in every seed. The adapter corrects a base that is not there any more. It learnt beside $w'$; beside $w$ part of what it does misses.
# - *The same, quantised again*: nothing is left of what was learnt. All the weights $w'$ lie *on* levels, and an update that is small beside the gap takes hardly one in ten thousand over a border: rounding puts the others back where they were.
#   You are left with the base, in most of the seeds to the letter. This is what `merge` does in `peft` on a layer of `bitsandbytes`; it warns of "rounding errors".
# - *The original, quantised*: look at its lines. Its loss is no higher than that of the adapter itself, and most answers keep the format. The original weights do not lie on levels but anywhere between two borders, so a small update does take some of them over,
#   the more of them the larger it is: few codes change, and nearly all of the update is kept *on average*, with noise on top. And what it stands on is the rounded base again, the one the adapter knows. This was not expected. In the figure it fails at two bits, where a single step is
#   large enough to do harm.
#
# So the number from your function foretells two of the merges, into the original and quantised again: well below 1, they lose little; from about 1 on, most of what was learnt. Then merge into what the adapter was trained beside, or do not merge, and measure
# whatever you do. (The ratio is taken over the layers that have an adapter.)
#
# ### Could the error be learnt away?
#
# The error is known before training starts. **LoftQ** ([arXiv:2310.08659](https://arxiv.org/abs/2310.08659)) lets LoRA start from its best approximation of low rank, so that base and adapter together begin nearer to the original weight, and
# repeats the two in turns: quantise what the adapter does not hold; give the adapter the strongest ranks of what quantising leaves. How much of an error has a low rank? As a control, the same on a random matrix of the same shape.


# %%
def loftq(W, r, rounds):
    """The norm of the error left with r ranks of it in an adapter; without one 1."""
    update = torch.zeros_like(W)
    for _ in range(rounds):
        stored = four_bits(W - update)
        U, S, Vh = torch.linalg.svd(W - stored, full_matrices=False)
        update = U[:, :r] * S[:r] @ Vh[:r]
    return ((W - stored - update).norm() / (W - four_bits(W)).norm()).item()


left = {}
for what in ("minilm-l6", "normal"):
    for r in (8, 32):
        left[what, r] = [loftq(weights[what], r, rounds) for rounds in (1, 5)]
        once, often = left[what, r]
        print(f"{what:9} r = {r:2}: {1 - once:5.1%} of the error gone at once, ", end="")
        print(f"{1 - often:5.1%} after five rounds")
assert left["minilm-l6", 8][0] > 0.9, "a low rank is to hold little of the error"

# %% [markdown]
# A few hundredths of it at rank 8, a tenth at 32, and hardly more than of a random matrix. Nearly all of the error is noise without a direction, and noise has no low rank. That five rounds take more is no finding about the weights either, for they do so on the random matrix as well. LoftQ's paper reports its gains at two bits and at high ranks; neither was tried
# here.
#
# ## Read the result
#
# **What it shows.**
#
# | claim | here |
# | --- | --- |
# | *NF4 is the best format of four bits for normal weights* | better than int4 and fp4, on a real weight and on normal numbers; not the best: Lloyd's levels have a smaller error |
# | *all sixteen codes are used equally often* | they are not, in blocks of 64; in blocks of 16 very nearly |
# | *a base in four bits trains like one in 32* | its losses are, to rounding, those of the library on the dequantised weights. That it learns *as well as* beside the original was not compared |
# | *a merge loses nothing* (C9) | only into the weights that the adapter was trained beside, and then the four bits are gone |
# | *the original weights are the more exact ones, so merge there* | false where the error is larger than the update, in each of six seeds |
#
# **What it does not show.** One weight matrix stands for "real weights" in the tables of errors, and the models are small: large ones bear quantisation better, and the ratio of error to update is a property of the task and the learning rate as much as of the
# format. Time was not measured: on a processor dequantising makes each pass slower, while on a GPU four bits can even be faster.
#
# **Negative results, said aloud.** The best known argument for NF4 does not hold as it is told. LoftQ had next to nothing to hold on to. And the ratio you computed does not foretell the fourth merge, which nobody had planned to be good.

# %% [markdown]
# ## Go further
#
# - Does the format survive "quantised again" if the update is larger? Train lesson 03's brackets for longer, or at a higher learning rate, and compute the ratio first.
# - Quantise, merge, quantise: what if the *merged* weight decides on the absolute maxima of its blocks? Which weights does a larger maximum move?
# - Find levels that are used equally often in blocks of 64. Is their error smaller or larger than that of NF4?
# - Merging into the original and *then* quantising did better than it should. Is it chance? Round at random, up with the probability that keeps the mean (stochastic rounding), and see.
# - An open question: how would one train an adapter so that it survives being rounded, without ever computing in more than four bits?
#
# Sources: QLoRA, [arXiv:2305.14314](https://arxiv.org/abs/2305.14314). Why equal use is not optimal: [arXiv:2306.06965](https://arxiv.org/abs/2306.06965). LoftQ, [arXiv:2310.08659](https://arxiv.org/abs/2310.08659). Four bits in
# the library: `bitsandbytes`, MIT. The course's own is one screen long: `peftlab/nf4.py`.

# %% [markdown] tags=["written"]
# ## In your own words
#
# A colleague has trained an adapter on a base in four bits and is about to merge it into the original weights: *they are the more exact ones.* What did you see on the two models of this
# page that belongs beside this sentence, and what explains that the two differ? What would you do in the colleague's place, at which price, and how would you notice if it had gone wrong?
