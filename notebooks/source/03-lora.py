# %% [markdown]
# # 03 LoRA
#
# **125 minutes** of reading and doing, **60 seconds** of computing on two quiet cores. Before this: lesson 00. Lesson 01 helps.
# You need to know what a matrix product is, and that training moves each parameter a little against its gradient.
#
# After this page you will have built LoRA by hand: the forward pass, the start, both gradients, freezing, attaching it to a
# real model, merging, undoing the merge, and a file that the library `peft` loads. You will have taught one model Italian,
# one to tell praise from blame, and one a format it had never seen, all with your own code; and you will know what none of
# that proves.

# %%
import json
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import peftlab as pl
from peftlab.classroom import check, predict
from peftlab.lab import figures, polyglot, widgets
from peftlab.lab.training import answers, evaluate, texts, train

# %% [markdown]
# ## Predict
#
# LoRA adds two small matrices, `A` and `B`, to a layer whose own weight stays as it is. What goes in meets `A` first; what
# comes out of `A` meets `B`.

# %%
predict("lora-first-step")

# %% [markdown]
# ## The idea
#
# Fine-tuning adds something to each weight matrix $W$: an **update** $\Delta W$, as large as $W$ itself. LoRA says: let the
# update be the product of a narrow matrix and a flat one, freeze $W$, and train only those two.
#
# $$y = W x + b + \frac{\alpha}{r}\, B A\, x$$
#
# - $x$, a vector of $d_{in}$ entries, enters the layer, and $y$, of $d_{out}$ entries, leaves it;
# - $W$, $d_{out} \times d_{in}$, and the bias $b$ are the layer's own, and **frozen**: training does not touch them;
# - $A$, $r \times d_{in}$, and $B$, $d_{out} \times r$, are the **trainable parameters**;
# - $r$ is the **rank**, the dimension between the two. It is small;
# - $\alpha$ is a constant, chosen and not trained: a hyperparameter. What it does, and what dividing it by $r$ is good for, is
#   an experiment of its own, further down.
#
# The product $BA$ has the shape of $W$, but at most $r$ linearly independent rows. That is the price: not every update can be
# written so. The picture shows it to shape, and the cell after it what you get.

# %% tags=["hide-source"]
figures.show(
    figures.low_rank(),
    alt="The equation drawn as boxes: y equals the large frozen box W times x, plus alpha over r times the narrow trained "
    "box B times the flat trained box A times x.",
)

# %%
d_in = d_out = 4096  # one square layer, as models of 7 billion parameters have them
for r in (1, 8, 64):
    trained, whole = r * (d_in + d_out), d_in * d_out
    print(
        f"r = {r:2}: {trained:>7,} trainable, {trained / whole:.2%} of the {whole:,} in W"
    )

# %% [markdown]
# ## Build it
#
# Eight exercises, from one line to a whole library. You can stop after *Attach it to a real model* and run the rest with the
# folded solutions; do come back.
#
# ### 1. Forward
#
# {{lora-forward}}
#
# Write `lora_forward(x, weight, bias, A, B, alpha)`: what the frozen layer gives, plus what `A` and `B` add. `x` may have any
# number of leading dimensions: one vector, a batch of them, a batch of sentences. `bias` is None where the layer has none. You
# have `A` of shape `(r, d_in)`; the rank is in there.


# %%
def lora_forward(x, weight, bias, A, B, alpha):
    """What leaves the layer: (..., d_out) for x of shape (..., d_in)."""
    ### BEGIN SOLUTION
    r = A.shape[0]
    return F.linear(x, weight, bias) + alpha / r * F.linear(F.linear(x, A), B)
    ### END SOLUTION


# %%
check("lora-forward", lora_forward)

# %% [markdown]
# ### 2. The start
#
# {{lora-init}}
#
# Write `lora_init(d_in, d_out, r)`, the **initialisation**: it returns `A` and `B` as they stand before the first step. Two
# wishes: the model must answer exactly as it did before, and it must be able to learn. Several choices fulfil both. Take the
# one that the paper and the library take, with `A` random around zero, and of such a size that the entries of `A @ x` are about
# as large as those of `x`, whatever `d_in` is. (Each entry of `A @ x` is a sum of `d_in` products. How large is such a sum?)


# %%
def lora_init(d_in, d_out, r):
    """A, (r, d_in), and B, (d_out, r)."""
    ### BEGIN SOLUTION
    A = torch.randn(r, d_in) / d_in**0.5
    B = torch.zeros(d_out, r)
    return A, B
    ### END SOLUTION


# %%
check("lora-init", lora_init)

# %% [markdown]
# Now back to what you predicted. The next cell tries four starts on one layer: does the output stay what it was, and what is
# the gradient of `A` and of `B` in the first step? It prints the **Frobenius norm** of each: the root of the sum of the squares
# of all entries of the matrix.


# %%
def first_gradients(A, B):
    """Distance of the output from the frozen layer's, and the norms of both gradients."""
    draw = torch.Generator().manual_seed(0)
    shapes = (32, 24), (16, 24), (16,), (32, 16)
    x, weight, bias, target = (torch.randn(*shape, generator=draw) for shape in shapes)
    A, B = (matrix.detach().clone().requires_grad_() for matrix in (A, B))
    y = lora_forward(x, weight, bias, A, B, alpha=8)
    F.mse_loss(y, target).backward()
    moved = (y - F.linear(x, weight, bias)).abs().max()
    return moved.item(), A.grad.norm().item(), B.grad.norm().item()


torch.manual_seed(0)
A, zero_B = lora_init(24, 16, 4)
zero_A, B = torch.zeros(4, 24), torch.randn(16, 4)
starts = {
    "B zero": (A, zero_B),
    "A zero": (zero_A, B),
    "both zero": (zero_A, zero_B),
    "neither": (A, B),
}
seen = {name: first_gradients(*start) for name, start in starts.items()}
for name, (moved, for_A, for_B) in seen.items():
    output = "the same" if moved == 0 else "changed"
    print(f"{name:10} output {output:9} gradient of A {for_A:5.2f}, of B {for_B:.2f}")

assert seen["B zero"][:2] == (0, 0), (
    "A's gradient is to be zero exactly: see lora_forward"
)
assert seen["B zero"][2] > 0, "B is to get a gradient: look at lora_init"
assert seen["both zero"] == (0, 0, 0), "two zeros let no gradient pass: see lora_forward"

# %% [markdown]
# With `B` at zero the model is the base model, and the first gradient of `A` is exactly zero: only `B` moves in step one. Both
# at zero is a trap without a door: no gradient ever reaches either. Neither at zero changes the model before it has seen a
# single example. And `A` at zero would do as well as `B` at zero; that the world chose `B` is a convention, and files are
# written by it.
#
# ### 3. The gradients
#
# {{lora-gradients}}
#
# Autograd will do this for you. Once by hand, and you see why `A` had to wait. First the known case: one vector $x$ and a layer
# $y = W x$, with $g$ the gradient of the loss for $y$. The entry $W_{ij}$ multiplies $x_j$ into $y_i$, so its gradient is
# $g_i x_j$, and each $x_j$ goes through column $j$ of $W$ into all of $y$:
#
# $$\frac{\partial L}{\partial W} = g\, x^T \qquad\qquad \frac{\partial L}{\partial x} = W^T g$$
#
# For a batch, sum the first over its vectors: with one row for each, that is the product `g.T @ x`. LoRA's update is two such
# layers in a row, and a factor.
#
# Write `lora_gradients(x, g, A, B, alpha)`, which returns the gradient of `A` and that of `B`. Here `g` is the gradient for the
# layer's output, so it has the output's shape; its leading dimensions and those of `x` are the same, and there may be several.


# %%
def lora_gradients(x, g, A, B, alpha):
    """The gradients of A, (r, d_in), and of B, (d_out, r); g is that of the output."""
    ### BEGIN SOLUTION
    scale = alpha / A.shape[0]
    x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return scale * B.T @ g.T @ x, scale * g.T @ (x @ A.T)
    ### END SOLUTION


# %%
check("lora-gradients", lora_gradients)

# %% [markdown]
# Both gradients need `x`, or at least `A @ x`: so what enters each adapted layer is kept in memory until the backward pass,
# frozen weight or not. This is why LoRA saves less memory than its parameter count suggests.
#
# With your gradients you can train without autograd. A frozen layer of this size is to become another one, which differs from
# it by an update of rank two. How far are `A` and `B` from their start after each step?

# %%
draw = torch.Generator().manual_seed(1)
x, weight = torch.randn(256, 24, generator=draw), torch.randn(16, 24, generator=draw)
wanted = torch.randn(16, 2, generator=draw) @ torch.randn(2, 24, generator=draw) / 4
target = F.linear(x, weight + wanted)

torch.manual_seed(0)
A, B = lora_init(24, 16, 4)
A0, B0, moved, losses = A, B, [(0.0, 0.0)], []
for step in range(20):
    y = lora_forward(x, weight, torch.zeros(16), A, B, alpha=8)
    losses.append(F.mse_loss(y, target).item())
    for_A, for_B = lora_gradients(x, 2 * (y - target) / y.numel(), A, B, alpha=8)
    A, B = A - 0.5 * for_A, B - 0.5 * for_B
    moved.append(((A - A0).norm().item(), (B - B0).norm().item()))

assert moved[1][0] == 0 and moved[1][1] > 0, "in step one only B is to move"
assert moved[2][0] > 0, "in step two A moves as well: look at its gradient"
assert losses[-1] < 0.1 * losses[0], "the loss is to fall: has a gradient the wrong sign?"
print(f"loss {losses[0]:.2f} at the start, {losses[-1]:.2f} after {len(losses)} steps")

# %% tags=["hide-source"]
figures.show(
    figures.lines(
        range(21),
        {"A": [a for a, _ in moved], "B": [b for _, b in moved]},
        "How far each matrix is from its start",
        "step",
        "distance (Frobenius norm)",
        marks=20,
    ),
    alt="Two curves over twenty steps of training. B leaves zero with the first step, A only with "
    "the second; both level off.",
)

# %% [markdown]
# In step one only `B` moves, as you computed; from step two on both do.
#
# ### 4. Freeze
#
# {{freeze}}
#
# A parameter is trained if its flag `requires_grad` is on. Write `freeze(model)`: afterwards only the parameters called `lora_A`
# or `lora_B` have it on, whatever it was before. Return the list of their full names.


# %%
def freeze(model):
    """Switch training on for lora_A and lora_B alone; returns their full names."""
    ### BEGIN SOLUTION
    names = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.split(".")[-1] in ("lora_A", "lora_B")
        if parameter.requires_grad:
            names.append(name)
    return names
    ### END SOLUTION


# %%
check("freeze", freeze)

# %% [markdown]
# ### 5. Attach
#
# {{lora-attach}}
#
# You will not rewrite anybody's model. PyTorch lets you hang a function on a layer, a **forward hook**: it is called after the
# layer with `(layer, inputs, output)`, and what it returns takes the output's place. `inputs` is a tuple; `x` is its first entry.
#
# Write `attach(model, targets, r, alpha)`:
#
# - for each linear layer whose path (its name in `model.named_modules()`) is a target or ends in a dot and a target, make `A`
#   and `B` and keep them as parameters `lora_A` and `lora_B` *of that layer*, so that the model knows them;
# - hang a hook on the layer that adds their update to its output;
# - freeze everything else;
# - return a dict from each adapted layer's path to its pair `(A, B)`.


# %%
def attach(model, targets, r, alpha):
    """Put LoRA on the linear layers that `targets` names; returns {path: (A, B)}."""
    ### BEGIN SOLUTION

    def add_update(layer, inputs, y):
        return y + alpha / r * F.linear(F.linear(inputs[0], layer.lora_A), layer.lora_B)

    adapters = {}
    for path, layer in model.named_modules():
        if any(f".{path}".endswith(f".{target}") for target in targets):
            A, B = lora_init(layer.in_features, layer.out_features, r)
            layer.lora_A, layer.lora_B = nn.Parameter(A), nn.Parameter(B)
            layer.register_forward_hook(add_update)
            adapters[path] = layer.lora_A, layer.lora_B
    freeze(model)
    return adapters
    ### END SOLUTION


# %%
check("lora-attach", attach)

# %% [markdown]
# The check builds small models for you. On your own you would meet the commonest error only when training starts.
#
# <details><summary>Help, I see <code>element 0 of tensors does not require grad and does not have a grad_fn</code></summary>
#
# Nothing that leads to the loss is trainable. Either the model was frozen *after* `A` and `B` had been added, and they with it,
# or your hook returns nothing, so that its sum is thrown away and the layer's own output goes on.
#
# </details>
#
# Now on a real model, although a small one. `polyglot-350k` writes numbers as words, in the three languages it was trained on.
# A tag says which language is wanted.

# %%
model, tokenizer = pl.lab.load_base("polyglot-350k")
questions = ["<en>342=", "<es>342=", "<fr>342=", "<it>342="]
before = polyglot.ask(model, tokenizer, questions)
for question, answer in zip(questions, before):
    print(question, answer)

# %%
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
R, ALPHA = 8, 16

base = {name: p.detach().clone() for name, p in model.named_parameters()}  # as it was
batch = tokenizer(questions, return_tensors="pt")
with torch.no_grad():
    base_logits = model(**batch).logits

torch.manual_seed(0)
adapters = attach(model, TARGETS, R, ALPHA)
with torch.no_grad():
    same = torch.equal(model(**batch).logits, base_logits)
assert same, "with B at zero the model must answer bit for bit as before"

in_closed_form = sum(R * (A.shape[1] + B.shape[0]) for A, B in adapters.values())
print(len(adapters), "layers have an adapter")
print(pl.count(model))
assert pl.count(model).trainable == in_closed_form, "A and B alone are to be trainable"

# %% [markdown]
# The same answers to the last bit: your adapters are there, and add nothing yet. On a model this small they are not few in
# proportion; on large ones they are. Asked for Italian, a tag it has never met in training, it fell back on French, and
# miscounted.
#
# ### 6. Merge
#
# {{lora-merge}}
#
# An adapter that runs beside its layer costs a little time at each call, which adds to the **latency** of **inference**: the
# time from a question to its answer, once training is over. It need not: $W + \frac{\alpha}{r} BA$ is a matrix of the same shape
# as $W$, and can take its place. That is to **merge** the adapter. You could compute it from the formula. Here is a way that
# needs no formula and works for *every* method of this course that can be merged at all: evaluate the layer. An **affine
# function**, $f(x) = W x + b$, gives you $b$ and the columns of $W$, if you choose well the $x$ to evaluate it at.
#
# Write `merged(f, d_in)`, which returns the weight, `(d_out, d_in)`, and the bias, `(d_out,)`, of such a function.


# %%
def merged(f, d_in):
    """Weight and bias of an affine function f that takes (..., d_in)."""
    ### BEGIN SOLUTION
    bias = f(torch.zeros(d_in))
    return (f(torch.eye(d_in)) - bias).T, bias
    ### END SOLUTION


# %%
check("lora-merge", merged)

# %% [markdown]
# The layer with your hook on it is such a function. Evaluate it, with random values in `B` so that there is something to find.

# %%
path = "model.layers.0.mlp.down_proj"
layer, (A, B) = model.get_submodule(path), adapters[path]
with torch.no_grad():
    B.normal_(generator=torch.Generator().manual_seed(0))
    weight, bias = merged(layer, layer.in_features)
    by_formula = layer.weight + ALPHA / R * B @ A
    same = torch.allclose(weight, by_formula, atol=1e-4)
    print("the same weight as by the formula:", same)
    assert same, "weight and formula differ: look at the scale in your hook"
    assert not bias.any(), "this layer has no bias, and LoRA adds none: look at `merged`"
    B.zero_()  # back to the start

# %% [markdown]
# ### 7. Merge in place, and back
#
# {{lora-unmerge}}
#
# Models are often kept in 16 bits, mostly as **bfloat16**, which has eight bits for the digits of a number where float32 has
# twenty-four. Write two functions. `merge(layer, update)` adds a float32 `update` to `layer.weight`, rounds the sum once to the
# precision of the layer, and returns whatever you will need to undo it. `unmerge(layer, kept)` puts the weight back *bit for bit*.
# The layer keeps its precision and stays frozen.


# %%
def merge(layer, update):
    """Add `update` (d_out, d_in) to the layer's weight; returns what `unmerge` needs."""
    ### BEGIN SOLUTION
    kept = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.copy_(kept.float() + update)
    return kept
    ### END SOLUTION


def unmerge(layer, kept):
    """Put the layer's weight back bit for bit."""
    ### BEGIN SOLUTION
    with torch.no_grad():
        layer.weight.copy_(kept)
    ### END SOLUTION


# %%
check("lora-unmerge", (merge, unmerge))

# %% [markdown]
# What does the rounding cost? A random weight and a random update of rank eight; the update is made a tenth, a hundredth, a
# thousandth of the weight's size. After the merge, how much of the update is missing from the weight?


# %%
def lost(weight, update, dtype):
    """The norm of what a merge in `dtype` leaves out, as a share of the update's norm."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype)
    layer.requires_grad_(False).weight.copy_(weight)
    start = layer.weight.double()
    merge(layer, update)
    return ((layer.weight.double() - start - update).norm() / update.norm()).item()


draw = torch.Generator().manual_seed(0)
weight = torch.randn(512, 512, generator=draw)
update = torch.randn(512, 8, generator=draw) @ torch.randn(8, 512, generator=draw)
update *= weight.norm() / update.norm()  # now as large as the weight

sizes = [1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001]
names = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
shares = {
    name: [lost(weight, size * update, dtype) for size in sizes]
    for name, dtype in names.items()
}
for size in (0.1, 0.01, 0.001):
    in_bf16, in_fp16 = (
        shares[name][sizes.index(size)] for name in ("bfloat16", "float16")
    )
    print(f"update of {size:5.1%}: bfloat16 loses {in_bf16:5.1%}, float16 {in_fp16:5.1%}")
tenth, hundredth, thousandth = (
    shares["bfloat16"][sizes.index(s)] for s in (0.1, 0.01, 0.001)
)
assert tenth < 0.05 < hundredth < 0.5 < thousandth, "look at `merge`"

# %% tags=["hide-source"]
figures.show(
    figures.lost_in_merge(sizes, shares),
    alt="Three falling lines on logarithmic axes: the share of an update lost in a merge against its "
    "size. The smaller the update, the more is lost; bfloat16 loses most of an update of a "
    "thousandth, float16 about a fifth of it, float32 next to nothing at any size.",
)

# %% [markdown]
# The update is rounded to the steps in which the *weight* can be written, and those do not get finer because the update is
# small. So: merge in float32 where you can, keep the adapter's file in any case, and measure after a merge rather than trust
# it. The same rounding is why `unmerge` must keep a copy and cannot subtract.
#
# ### 8. Save
#
# {{lora-save}}
#
# An adapter is worth keeping apart from its model: one base, many small files. Written as `peft` writes them, they load anywhere.
# Here is what `peft` writes for two layers of the model above.

# %%
import warnings

from peft import LoraConfig, PeftModel, get_peft_model

# peft asks transformers by a name that will change
warnings.filterwarnings("ignore", "`is_gradient_checkpointing`")
here = tempfile.TemporaryDirectory()  # files of this page; gone when its kernel stops

theirs, _ = pl.lab.load_base("polyglot-350k")
two = [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]
theirs = get_peft_model(theirs, LoraConfig(r=R, target_modules=two))
theirs.save_pretrained(f"{here.name}/two", save_embedding_layers=False)
for name, tensor in load_file(f"{here.name}/two/adapter_model.safetensors").items():
    print(name, tuple(tensor.shape))

# %% [markdown]
# Write `lora_tensors(adapters)`: from a dict like the one `attach` returns, make the dict of names and tensors that goes into such
# a file.


# %%
def lora_tensors(adapters):
    """{name in the file: tensor} for {path: (A, B)}."""
    ### BEGIN SOLUTION
    tensors = {}
    for path, (A, B) in adapters.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = A.detach()
        tensors[f"base_model.model.{path}.lora_B.weight"] = B.detach()
    return tensors
    ### END SOLUTION


# %%
check("lora-save", lora_tensors)

# %% [markdown]
# Beside the tensors lies a small text file that says what they are. With it, saving is complete.


# %%
def save(adapters, folder, targets, r, alpha):
    """Write both files of an adapter; returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.contiguous().clone() for name, t in lora_tensors(adapters).items()}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": r, "lora_alpha": alpha, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return folder


# %% [markdown]
# ## Run it on real models
#
# Everything from here on runs on the functions you wrote. The training loop is the course's own, and you can read it:
# `peftlab/lab/training.py`. You can stop it at any time with the notebook's stop button; what was learnt stays.
#
# ### Italian
#
# The model has seen English, Spanish and French, never Italian. Its **accuracy** is the share of the numbers left out of training
# that it writes without a single wrong letter. The loss it is trained on is the **cross-entropy**: minus the logarithm of the
# probability it gives to the letter that is right, on average. With the natural logarithm its unit is the **nat**. Batches of
# 32 take 25 steps for each **epoch**, one pass through all numbers there are for training. While it trains, keep the update
# of one layer every few steps, to look at afterwards.

# %%
languages = ["it", "en", "es", "fr"]


def accuracies(model):
    return {
        language: polyglot.accuracy(model, tokenizer, language) for language in languages
    }


before = accuracies(model)
WATCHED = "model.layers.1.self_attn.v_proj"
snapshots = {}


def keep_update(run=None):
    A, B = adapters[WATCHED]
    step = run.step if run else 0
    if step % 5 == 0 or step <= 5:
        snapshots[step] = (ALPHA / R * B @ A).detach().clone()  # (d_out, d_in)


# %% tags=["nbval-ignore-output", "heavy"]
keep_update()
data, collate = polyglot.dataset("it"), answers(tokenizer)
run = train(model, data, collate, steps=150, lr=1e-2, batch_size=32, on_step=keep_update)
after = accuracies(model)
for language in languages:
    name = polyglot.LANGUAGES[language]
    print(f"{name:8} before {before[language]:6.1%}   after {after[language]:6.1%}")
print(polyglot.ask(model, tokenizer, ["<it>342=", "<it>777="]))

# %%
assert len(data) == 25 * 32, "an epoch is to take 25 steps"
assert before["it"] == 0 and after["it"] > 0.8, "it is to learn Italian"
assert before["en"] > 0.9 and after["en"] < 0.5, "English is expected to go"
moved = [
    name
    for name, p in model.named_parameters()
    if name in base and (p != base[name]).any()
]
assert not moved, f"base weights have moved, look at `freeze`: {moved}"
print("base weights that have moved:", len(moved))

# %% [markdown]
# It learnt Italian in seconds, and not one bit of the base weights has moved. Now look at the other lines. With the adapter *on*, English, Spanish and French are gone. Both things are true at once. The knowledge is still in
# the weights, and the model does not show it, because what runs is the base *plus* the adapter. Put `B` back to zero, and it is
# there again:

# %%
kept = {path: B.detach().clone() for path, (_, B) in adapters.items()}
with torch.no_grad():
    for _, B in adapters.values():
        B.zero_()
    same = torch.equal(model(**batch).logits, base_logits)
    assert same, "with B at zero this is to be the base model: look at your hook"
    off = polyglot.accuracy(model, tokenizer, "en")
    for path, (_, B) in adapters.items():
        B.copy_(kept[path])  # and on again
print(f"English, adapter off: {off:.1%}, as before: {off == before['en']}")

# %% [markdown]
# Now merge it, into a model without any hook. If all is right, the merged model writes what the adapted one writes, and computes
# no more than the base did.

# %%
baked = pl.lab.load_base("polyglot-350k")[0].requires_grad_(False)
kept = {}
for path, (A, B) in adapters.items():
    kept[path] = merge(baked.get_submodule(path), (ALPHA / R * B @ A).detach())

few = polyglot.dataset("it", "test")["prompt"][:50]
written = zip(polyglot.ask(baked, tokenizer, few), polyglot.ask(model, tokenizer, few))
same = sum(a == b for a, b in written)
assert same >= 49, "rounding may turn one word where the model hesitates, no more"
with torch.no_grad():
    gap = (baked(**batch).logits - model(**batch).logits).abs().max().item()
assert gap < 1e-2, f"merged and adapted differ by {gap:.2g} in a logit: look at `merge`"
untouched = pl.lab.load_base("polyglot-350k")[0]
work = [pl.multiplications(m, **batch)[0] for m in (model, baked, untouched)]
print("multiplications of a forward pass:", end=" ")
print("adapted {:,}, merged {:,}, base {:,}".format(*work))
assert work[2] == work[1] < work[0], "merged, nothing is to be computed beside the layers"

for path, weight in kept.items():
    unmerge(baked.get_submodule(path), weight)
back = all(torch.equal(p, base[name]) for name, p in baked.named_parameters())
assert back, "a weight did not come back bit for bit: look at `unmerge`"
print("unmerged: every weight is back, bit for bit")

# %% [markdown]
# ### What alpha does
#
# `peft` takes `r=8` and `lora_alpha=8` unless you say otherwise, and many raise the rank and leave alpha where it is. Some take
# it for a regulariser, best left alone. So: what becomes of a run when the rank goes up?

# %%
predict("alpha-and-rank")

# %% [markdown]
# Now for real: Italian once more, from a fresh model, with six seeds, each for 30 steps at the same learning rate. Only rank and
# alpha change. Printed are the Frobenius norms of $BA$ and of the update $\frac{\alpha}{r} BA$ over all layers together, and the
# loss, mean of the last ten steps.


# %% tags=["nbval-ignore-output", "heavy"]
def learn_italian(r, alpha, seed):
    """Norm of B A, norm of the update and loss of a short run."""
    torch.manual_seed(seed)
    fresh = pl.lab.load_base("polyglot-350k")[0]
    pairs = attach(fresh, TARGETS, r, alpha).values()
    how = {"steps": 30, "lr": 3e-3, "batch_size": 16, "seed": seed, "progress": False}
    losses = train(fresh, data, collate, **how).losses
    product = sum((B @ A).square().sum().item() for A, B in pairs) ** 0.5
    return product, alpha / r * product, sum(losses[-10:]) / 10


choices = {
    "r = 8,  alpha 16": (8, 16),
    "r = 8,  alpha times the root of 8": (8, 16 * 8**0.5),
    "r = 64, alpha 16, as it was": (64, 16),
    "r = 64, alpha times the root of 8": (64, 16 * 8**0.5),
    "r = 64, alpha times 8": (64, 16 * 8),
}
seeds = range(6)
tried = {
    name: [learn_italian(*how, seed) for seed in seeds] for name, how in choices.items()
}
print(f"{'':34} alpha / r    B A   update   loss (nats)")
for name, (r, alpha) in choices.items():
    product, size, loss = (sum(column) / len(seeds) for column in zip(*tried[name]))
    print(f"{name:34} {alpha / r:9.2f} {product:6.2f} {size:8.2f} {loss:8.2f}")

# %% [markdown]
# One run a line would not do: other seeds give other losses. Since every choice saw the same seeds, take the differences seed by
# seed. Their mean comes with a **confidence interval**, a range that covers the true mean in 95 of 100 such experiments; lesson 07
# computes one by hand.

# %% tags=["nbval-ignore-output", "heavy"]
from peftlab.lab.sweeps import interval

start, *others = choices
more = {}
for name in others:
    more[name] = interval(
        [run[2] - with_8[2] for run, with_8 in zip(tried[name], tried[start])]
    )
    print(f"{name:34} loss minus the first's: {more[name][0]:+.2f} ± {more[name][1]:.2f}")
size = {name: sum(run[1] for run in runs) for name, runs in tried.items()}
_, as_it_was, by_root, in_proportion = others
assert size[as_it_was] < size[start], "with alpha as it was, the update is to be smaller"
assert more[as_it_was][0] > -0.1, "with alpha as it was, rank 64 is to learn no faster"
assert sum(more[by_root]) < 0 and sum(more[in_proportion]) < 0, "with more, it is to"

# %% [markdown]
# With alpha as it was, eight times the parameters make a *smaller* update and learn no faster: $BA$ has grown, and the factor in
# front of it has fallen by more. With alpha times $\sqrt 8$, which keeps $\alpha / \sqrt r$ (**rsLoRA** writes the factor
# so from the start, see lesson 04), and with alpha times 8, which keeps $\alpha / r$, the same rank learns far faster. And so
# does rank 8, with more alpha. Most of what looks like the rank is the size of the step.
#
# Why is alpha a step size? Train once with alpha, and once with twice the alpha and half the learning rate for `B`. AdamW moves
# each entry by about the learning rate, however large its gradient is.


# %%
def losses_of(alpha, lr_of_B, steps=20):
    torch.manual_seed(0)
    fresh = pl.lab.load_base("polyglot-350k")[0]
    A, B = zip(*attach(fresh, TARGETS, R, alpha).values())
    groups = [{"params": A, "lr": 1e-3}, {"params": B, "lr": lr_of_B}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    losses = []
    for step in range(steps):
        rows = [data[i] for i in range(16 * step, 16 * step + 16)]
        loss = fresh(**collate(rows)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


one, double = losses_of(ALPHA, 1e-3), losses_of(2 * ALPHA, 5e-4)
control = losses_of(2 * ALPHA, 1e-3)
gap, apart = (max(abs(a - b) for a, b in zip(one, other)) for other in (double, control))
print(f"alpha 16, lr of B 0.001:  loss {one[-1]:.3f} after 20 steps")
print(f"alpha 32, lr of B 0.0005: loss {double[-1]:.3f}")
print(f"alpha 32, lr of B 0.001:  loss {control[-1]:.3f}")
assert gap < 0.01 < apart, f"the first two are to agree in every step: {gap:.3f} apart"
print(f"peft's defaults: r = {LoraConfig().r}, lora_alpha = {LoraConfig().lora_alpha}")

# %% [markdown]
# The first two are the same run: with AdamW, alpha at a fixed rank is a **step size**. Doubling it is doubling the learning rate of
# `B`, and nothing else: the loss has no term that would keep the update small, so it is no regulariser. To compare two alphas
# at one learning rate, or two ranks at one alpha, is to compare two learning rates as well. What to do in practice: keep alpha
# in a fixed proportion to $r$ or to $\sqrt r$, and choose the learning rate anew when the rank changes much. `peft`'s default of 8
# is meant for its default rank.
#
# ### Praise or blame
#
# `minilm-l6`, an encoder, turns a sentence into a vector. On top of it comes a **head**, one new linear layer from the vector to
# two classes. The sentences are from film reviews; people rated them, and those they did not agree about are left out.
#
# The head starts at random, so it must be trained too. But your `attach` freezes everything it does not know. And a control: how
# far does the head come alone, without LoRA, in the same steps?


# %%
def new_classifier():
    torch.manual_seed(0)
    encoder, encoder_tokenizer = pl.lab.load_base("minilm-l6")
    return pl.lab.MeanPoolClassifier(encoder, num_labels=2), encoder_tokenizer


classifier, encoder_tokenizer = new_classifier()
film_adapters = attach(classifier, ["query", "value"], r=8, alpha=16)
classifier.classifier.requires_grad_(True)  # the head learns along
print(pl.count(classifier))

head_alone, _ = new_classifier()
head_alone.requires_grad_(False).classifier.requires_grad_(True)

movies = pl.lab.sentiment("movies", "train")
unseen = pl.lab.sentiment("movies", "test").select(range(300))
film_batch = texts(encoder_tokenizer, max_length=48)

# %% tags=["nbval-ignore-output", "heavy"]
right = {}
for name, classes in (("LoRA and head", classifier), ("head alone", head_alone)):
    train(classes, movies, film_batch, steps=40, lr=3e-3, batch_size=16, progress=False)
    right[name] = evaluate(classes, unseen, film_batch).accuracy
    error = (right[name] * (1 - right[name]) / len(unseen)) ** 0.5  # the standard error
    print(f"{name:13} accuracy {right[name]:.1%} ± {1.96 * error:.1%}")

# %%
majority = max(unseen["label"].count(0), unseen["label"].count(1)) / len(unseen)
print(f"majority-class baseline: {majority:.1%}")
assert right["LoRA and head"] - 1.96 * error > majority, "not above baseline"
assert all(B.any() for _, B in film_adapters.values()), "a B has not moved"

# %% [markdown]
# Well above the **majority-class baseline**, which always answers with the more frequent class. The range after ± is 1.96
# **standard errors** to each side, a 95 % confidence interval for other sentences of the kind. The head alone comes nearly as far, and
# the two intervals overlap: with one seed and a few hundred sentences, this does not show that LoRA adds anything here. Lesson 10
# asks again, with more of both.
#
# With the head there are two things to save now.
#
# <details><summary>Help, I see: the loss fell, but reloaded the model only guesses</summary>
#
# The head was trained and not saved. An adapter's file holds `A` and `B`; a new head must go along. In `peft` that is
# `modules_to_save=["classifier"]`, in this course's package as well. If the accuracy after loading is another one each time, it is
# nearly always this.
#
# </details>
#
# ### A format it did not know
#
# `smollm2-135m` was tuned to answer in sentences. It is to answer with nothing but the name, in double brackets. There are
# two dozen examples, in batches of four, for a dozen steps. The countries it is asked about afterwards are not among them. An
# answer is right if the capital's name stands in it, in either of two spellings for Kyiv. Before training the model gets room
# for a long sentence. Where it has still not come to a capital by then, it has not answered; that does not count as known.

# %%
capitals = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin",
    "Portugal": "Lisbon", "Greece": "Athens", "Austria": "Vienna", "Poland": "Warsaw",
    "Norway": "Oslo", "Finland": "Helsinki", "Hungary": "Budapest", "Russia": "Moscow",
    "India": "Delhi", "Egypt": "Cairo", "Kenya": "Nairobi", "Canada": "Ottawa",
    "Peru": "Lima", "Chile": "Santiago", "Iraq": "Baghdad", "Thailand": "Bangkok",
    "Bulgaria": "Sofia", "Romania": "Bucharest", "Morocco": "Rabat",
    "Mexico": "Mexico City",
}  # fmt: skip
asked = {
    "Japan": "Tokyo", "China": "Beijing", "Sweden": "Stockholm", "Denmark": "Copenhagen",
    "Ireland": "Dublin", "Belgium": "Brussels", "Turkey": "Ankara", "Vietnam": "Hanoi",
    "Iran": "Tehran", "Cuba": "Havana", "Ukraine": "Kyiv", "Argentina": "Buenos Aires",
}  # fmt: skip


def question(country):
    return f"What is the capital of {country}?"


examples = [
    {"prompt": question(c), "answer": f"[[{name}]]"} for c, name in capitals.items()
]

talker, talker_tokenizer = pl.lab.load_base("smollm2-135m")
talker_tokenizer.padding_side = "left"  # so that all prompts of a batch end together


def reply(prompts, tokens):
    """What the model answers to each prompt, greedily, in at most so many tokens."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    how = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    batch = talker_tokenizer.apply_chat_template(chats, padding=True, **how)
    written = talker.generate(**batch, max_new_tokens=tokens, do_sample=False)
    written = written[:, batch["input_ids"].shape[1] :]  # without the prompt
    decoded = talker_tokenizer.batch_decode(written, skip_special_tokens=True)
    return [" ".join(text.split()) for text in decoded]


def in_format(answers):
    return sum(a.startswith("[[") and a.endswith("]]") for a in answers)


def is_right(answers):
    said = [answer.replace("Kiev", "Kyiv") for answer in answers]
    return [capital in answer for capital, answer in zip(asked.values(), said)]


prompts = [question(country) for country in asked]
others = ["What is 2 plus 2?", "Who wrote Hamlet?"]

# %% tags=["nbval-ignore-output", "heavy"]
full = reply(prompts + others, tokens=40)

torch.manual_seed(0)
talker_adapters = attach(talker, ["q_proj", "v_proj"], r=8, alpha=16)
chat_batch = answers(talker_tokenizer, chat=True)
train(talker, examples, chat_batch, steps=12, lr=2e-3, batch_size=4, progress=False)
talker.eval()
short = reply(prompts + others, tokens=14)

for before_, after_ in zip(full, short):
    print(f"{after_:24}before: {before_[:150]}")
answers_before, answers_after = full[: len(asked)], short[: len(asked)]
was, now = is_right(answers_before), is_right(answers_after)
lost_again = sum(before_ and not after_ for before_, after_ in zip(was, now))
print(f"\nof {len(asked)}, in the format: {in_format(answers_before)} before,", end=" ")
print(f"{in_format(answers_after)} after")
print(f"with the right capital: {sum(was)} before, {sum(now)} after;", end=" ")
print(f"right before and wrong now: {lost_again}")

# %%
print(pl.count(talker))
assert in_format(answers_before) == 0, "the format is to be new to it"
assert in_format(answers_after) >= 9, "the format is to be learnt: look at `attach`"
assert sum(was) >= 3, "the facts are the base model's own: nobody taught them here"
assert short[-2:] != full[-2:], "the last two answers are expected to change"

# %% [markdown]
# The format is learnt, from next to nothing, by a small fraction of the parameters. Now compare what stands before and after
# *before:*. Which capitals did it know that are wrong now, which the other way round? And the last two questions have nothing to
# do with capitals. A format was asked for, and more than the format changed.
#
# Your own updates, beside the random ones of the merging exercise: how large are they, and what would merging them into a
# bfloat16 model lose?


# %% tags=["nbval-ignore-output"]
def size_and_loss(model, adapters, path, scale):
    """The update's norm as a share of the weight's; what a bfloat16 merge loses of it."""
    weight, (A, B) = model.get_submodule(path).weight.detach(), adapters[path]
    update = (scale * B @ A).detach()
    return (update.norm() / weight.norm()).item(), lost(weight, update, torch.bfloat16)


MIDDLE = "model.layers.15.self_attn.q_proj"
yours = {
    "Italian": size_and_loss(model, adapters, WATCHED, ALPHA / R),
    "the format": size_and_loss(talker, talker_adapters, MIDDLE, 16 / 8),
}
for name, (size, share) in yours.items():
    print(f"{name}: {size:.1%} of the weight's norm, of which bfloat16 loses {share:.1%}")
assert yours["Italian"][1] < yours["the format"][1], "the smaller update is to lose more"
assert yours["Italian"][0] > 0.3 and yours["the format"][0] < 0.05, "one large, one small"

# %% tags=["hide-source", "nbval-ignore-output"]
figures.show(
    figures.lost_in_merge(sizes, shares, yours),
    alt="The figure of the merging exercise once more, with two points for trained updates. That "
    "for Italian is large and loses little; that for the format is small and loses far more. Both "
    "lie close to the line of bfloat16.",
)

# %% [markdown]
# The two could hardly be further apart. An update of more than a third of the weight's norm is a great deal: a small model, a high
# learning rate, a whole language. The format moved its model by less than a twentieth, and that is where a merge in 16 bits costs.
#
# ## See
#
# The update you kept while the model learnt Italian, at a few steps, on one colour scale. It starts at nothing; the stripes that
# appear are its low rank, for each row is a mixture of the same few rows.

# %%
shown = {step: snapshots[step] for step in (0, 5, 15, 40, 150)}
assert not snapshots[0].any() and snapshots[150].any(), "it is to grow from nothing"
rank = max(torch.linalg.matrix_rank(u).item() for u in snapshots.values())
assert rank <= R, f"an update has rank {rank}; B A has {R} at most"

# %% tags=["hide-source"]
figures.show(
    figures.growth(shown, "What training adds to one weight"),
    alt="Five pictures of the same update matrix, at step 0, 5, 15, 40 and 150 of training. The "
    "first is blank; horizontal and vertical stripes appear and grow strong.",
)

# %% [markdown]
# The same with sliders: drag the step, or reach it with Tab and use the arrow keys. The second slider keeps only the strongest
# ranks of the update. How early does the picture look like its end? How many ranks make up nearly everything?

# %%
widgets.growing_update(snapshots, base[f"{WATCHED}.weight"], R)

# %% [markdown]
# Nearly everything of the *norm* need not be nearly everything of the *task*. Cut every update down to its strongest ranks, merge
# what is left into a base model, and let it count in Italian. Beside it, how much of the squared norm of all updates is left.

# %% tags=["nbval-ignore-output"]
counted, held = {}, {}
for ranks in (1, 2, 4, R):
    left, whole = 0.0, 0.0
    for path, (A, B) in adapters.items():
        U, S, Vh = torch.linalg.svd((ALPHA / R * B @ A).detach(), full_matrices=False)
        left, whole = (
            left + S[:ranks].square().sum().item(),
            whole + S.square().sum().item(),
        )
        kept[path] = merge(
            baked.get_submodule(path), U[:, :ranks] * S[:ranks] @ Vh[:ranks]
        )
    counted[ranks], held[ranks] = polyglot.accuracy(baked, tokenizer, "it"), left / whole
    for path, weight in kept.items():
        unmerge(baked.get_submodule(path), weight)
    print(f"{ranks} of {R} ranks: {held[ranks]:6.1%} of the squared norm, ", end="")
    print(f"accuracy {counted[ranks]:6.1%}")

# %%
assert counted[1] < held[1], "one rank is to hold more of the norm than of the task"
assert abs(counted[R] - after["it"]) < 0.02, "all ranks are the adapter: see `merge`"

# %% [markdown]
# One rank in each layer holds a good part of the update, and counts to nothing; with half of the ranks most of the accuracy is
# there. How much of a matrix is kept and how much of a task is kept are two questions.
#
# This cuts an adapter that was *trained* with all its ranks. One trained with a single rank from the start may do better than
# this one cut down to one: training would know what it has. *Go further* asks you to try.

# %% [markdown]
# ## The library
#
# ### The same training
#
# `peft` on the same model, with the same `A` to begin with, the same batches, the same optimizer. If what you built is LoRA, every
# loss of twenty steps must agree. Double precision, so that the order in which you multiplied does not matter.

# %%
mine, theirs = (pl.lab.load_base("polyglot-350k")[0].double() for _ in range(2))
torch.manual_seed(0)
my_adapters = attach(mine, TARGETS, R, ALPHA)
mine.double()
config = LoraConfig(r=R, lora_alpha=ALPHA, target_modules=TARGETS)
theirs = get_peft_model(theirs, config).double()
with torch.no_grad():
    for path, (A, B) in my_adapters.items():
        their_layer = theirs.get_submodule(f"base_model.model.{path}")
        their_layer.lora_A["default"].weight.copy_(A)
        their_layer.lora_B["default"].weight.copy_(B)

how = {"steps": 20, "lr": 1e-3, "batch_size": 16, "progress": False}
my_losses, their_losses = (train(m, data, collate, **how).losses for m in (mine, theirs))
gap = max(abs(a - b) for a, b in zip(my_losses, their_losses))
for who, losses in (("yours", my_losses), ("peft ", their_losses)):
    print(f"{who}: loss {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last")
assert my_losses[-1] < my_losses[0], "nothing was learnt: look at `attach`"
assert gap <= 1e-6, f"the losses differ by {gap:.1e}: look at the scale and at `attach`"
print("every loss agrees to one in a million:", gap <= 1e-6)

# %% [markdown]
# ### The same files
#
# Save what you trained on `smollm2-135m`, and let `peft` load it onto a fresh base.

# %% tags=["heavy"]
folder = save(talker_adapters, f"{here.name}/brackets", ["q_proj", "v_proj"], 8, 16)
base_talker, _ = pl.lab.load_base("smollm2-135m")
loaded = PeftModel.from_pretrained(base_talker, folder)

asking = talker_tokenizer(["What is the capital of Japan?"], return_tensors="pt")
with torch.no_grad():
    gap = (loaded(**asking).logits - talker(**asking).logits).abs().max().item()
assert gap < 1e-3, f"a logit differs by {gap:.2g}: print the keys of your file"
print("peft loads what you trained, and gives the same logits:", gap < 1e-3)

adapter_bytes = (folder / "adapter_model.safetensors").stat().st_size
model_bytes = pl.count(talker).weights - pl.count(talker).gradients  # without A and B
print(f"the adapter's file: {adapter_bytes / 1e6:.1f} MB;", end=" ")
print(f"a copy of the model: {model_bytes / 1e6:.0f} MB")
assert adapter_bytes < model_bytes / 50, "more than A and B: print the keys"

# %% [markdown]
# One small file for each version, and one base for all of them.
#
# <details><summary>Help, I see: <code>Found missing adapter keys while loading the checkpoint</code></summary>
#
# It is a warning, and the model runs; but tensors were not found under the names `peft` looks for, and those adapters stay at
# their start, where they do nothing. Print the keys of your file beside those above: a missing `base_model.model.`, an
# adapter's name in the middle, or a missing `.weight` is enough.
#
# </details>
#
# ### The same in one line
#
# The package of this course is what you wrote, for more methods: it attaches with hooks, merges by evaluating the layer, keeps a
# copy for unmerging, and reads and writes `peft`'s files. Your file and the one that `peft` trained both load into it.

# %%
from peftlab.methods import LoRA

ours, tokenizer = pl.lab.load_base("polyglot-350k")
pl.attach(ours, LoRA, TARGETS, name="untrained", r=R, lora_alpha=ALPHA)
pl.load(ours, save(adapters, f"{here.name}/italian", TARGETS, R, ALPHA), name="yours")
theirs.float().save_pretrained(f"{here.name}/from-peft", save_embedding_layers=False)
pl.load(ours, f"{here.name}/from-peft", name="from_peft")

batch = tokenizer(questions, return_tensors="pt")
trained_in = {"untrained": untouched, "from_peft": theirs, "yours": model}
with torch.no_grad():
    for name, other in trained_in.items():
        pl.use(ours, name)
        gap = (ours(**batch).logits - other(**batch).logits).abs().max().item()
        assert gap < 1e-3, f"{name}: a logit differs by {gap:.2g}"
        print(f"{name:9} gives the logits of the model it is from:", gap < 1e-3)
pl.merge(ours)
pl.unmerge(ours)
back = all(
    torch.equal(p, base[name]) for name, p in ours.named_parameters() if name in base
)
assert back, "a base weight did not come back"
print("merged and unmerged, the base is back bit for bit:", back)

# %% [markdown]
# ## Read the result
#
# **What it shows.** The few lines you wrote are LoRA: they train as the library's do, and the files go both ways. An update of
# low rank was enough to learn a new language in a small world and a format. The five claims that are usually made for LoRA
# stand like this (in brackets their numbers in the course's list of claims):
#
# | claim | here |
# | --- | --- |
# | *the base's knowledge stays intact, for its weights do not change* (C6) | true of the weights, to the last bit; with the adapter on, the model lost three languages it knew |
# | *a product of two narrow matrices does the work of a full update* (C7) | it learnt what was asked in two of the three tasks; in the third the head alone is not ruled out. That it always does is not shown here: lesson 02 asks which updates have a low rank |
# | *only `A` and `B` are trained, and the start is the base model* (C8) | holds exactly, by construction: you checked both |
# | *it can be merged, and then costs nothing* (C9) | holds up to rounding: harmless in float32, while bfloat16 takes the more the smaller the update is |
# | *versions can be swapped without full copies* (C10) | holds: one base, one small file for each version |
#
# **What it does not show.** Apart from the experiment on alpha, each of these is one run with one seed, at one learning rate.
# Nothing was compared with full fine-tuning, so nothing here says that LoRA is better; the sentences about films are too few and
# the training too short for that. Lessons 09 and 10 make those comparisons. The experiment on alpha is short and at one
# learning rate: it shows what a step is, not which rank is best in the end; lesson 04 chooses the rate for each. That the other
# languages vanished says something about these settings: whether it must be so is the question of lesson 09.
#
# **Negative results, said aloud.** A higher rank with the same alpha learnt no faster. While it is on, the adapter that learnt Italian costs the model every other language it knew. The
# one that learnt a format also changed answers it was not asked to change. And a merge can lose a good part of an update without
# any error message.

# %% [markdown]
# ## Go further
#
# - Train Italian again with rank one. Does it still learn it, and does it lose less English? Change `R`, run from *Attach* down.
# - Learn Turkish (`"tr"`), which is not related to the three languages: does the same rank do?
# - Which learning rate makes `r = 64` with `alpha = 16` as fast as `r = 8`? Guess from the norms of the updates, then try.
# - An open question: `A` starts at random and has to wait for `B`. Could it stay frozen for good, as LoRA-FA proposes
#   ([arXiv:2308.03303](https://arxiv.org/abs/2308.03303))? When would that lose nothing?
# - Merge your format adapter into a bfloat16 copy of the model. Does what is lost of the update show in the answers?
# - To keep an adapter you trained, call `save` with a folder of your own: those above are temporary.
#
# Sources: LoRA, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685). The library: `peft`, Apache-2.0. The sentences: Hutto and
# Gilbert, ICWSM 2014. The course's own LoRA is one screen long: `peftlab/methods/lora.py`.

# %% [markdown] tags=["written"]
# ## In your own words
#
# You raised the rank, left `alpha` as it was, and the run came no further. A friend reads your numbers and says: *so a higher rank
# does not help.* What else did you see, in the norms and in the lines below, that belongs beside this sentence? Which comparison, with which result,
# would make you agree with your friend?
