# %% [markdown]
# # 01 What fine-tuning costs
#
# **60 minutes** of reading and doing, **60 seconds** of computing on two cores. Before this: lesson 00.
#
# After this page you can say what a training step will hold in memory and how much it will compute, before you run it; you
# can tell what freezing a model saves and what it cannot save; and you can take a published number apart.

# %% [markdown]
# ## Two ways to train
#
# **Full fine-tuning** takes a trained model and changes all of its parameters for a new task. **Parameter-efficient
# fine-tuning** *freezes* them, so that they stay as they are, and trains a small addition in each layer. This page uses two
# kinds of addition. You will build both later; for now only their sizes matter.
#
# - **LoRA** puts two narrow matrices, `A` and `B`, beside a linear layer. How narrow they are is called the **rank**, $r$.
# - A **bottleneck adapter** puts a small network into each block: $d$ numbers go down to $m$, and up to $d$ again.
#
# Under both sits the **head**, a new last layer for the new task, which is trained as well.

# %%
import time

import pandas as pd
import torch
from IPython.display import display

import peftlab as pl
from peftlab.classroom import check, predict
from peftlab.lab import figures, widgets
from peftlab.methods import LoRA, Pfeiffer, PrefixTuning, PromptTuning

pd.set_option("display.max_colwidth", None)

# %% [markdown]
# ## Predict
#
# Two questions, answered before anything runs. Keep your answers in mind; you will compute both.

# %%
predict("frozen-share")

# %%
predict("memory-ratio")

# %% [markdown]
# ## The idea
#
# A training step goes forward through the model to a loss, backward to a **gradient** for each trained parameter (in which
# direction the loss falls), and then the **optimizer** moves the parameters. AdamW, the usual optimizer, remembers two
# numbers for each trained parameter: a running mean of its gradient and one of the gradient's square. So a step holds
#
# $$\text{memory} \;=\; \underbrace{4\,n}_{\text{weights}} \;+\; \underbrace{4\,t}_{\text{gradients}}
# \;+\; \underbrace{4\,s\,t}_{\text{optimizer}} \;+\; \underbrace{4\,a}_{\text{activations}} \quad\text{bytes}$$
#
# with $n$ parameters in all, $t$ of them trained, $s$ numbers that the optimizer remembers for each of those, and $a$ numbers
# that the forward pass keeps because the backward pass will ask for them: the **activations**. A number in float32, the usual
# precision, takes 4 bytes. Freezing makes $t$ small. Look at which of the four terms have a $t$ in them, and which have not.
#
# And what does a step compute? Nearly all of it is products of matrices in linear layers, and a linear layer meets three:

# %%
figures.show(
    figures.three_products(),
    alt="One linear layer in one training step, drawn as three products of matrices. Forward: x times W transposed gives y, "
    "always. Backward: G times W gives the gradient for x, needed if something before the layer learns. Backward: G "
    "transposed times x gives the gradient for W, needed only if W learns.",
)

# %% [markdown]
# `x` holds one row for each token, `W` is the weight, and `G` is the gradient that arrives from the layers behind. All three
# products take equally many multiplications. Only the last one has to do with *changing* `W`; and only the last one needs `x`
# again. Everything on this page follows from this picture and the equation above it.

# %% [markdown]
# ## Build: the byte budget
#
# {{training-bytes}}
#
# Return a dict with the keys `"weights"`, `"gradients"` and `"optimizer"`, in bytes, everything in float32. `n_total` counts
# all parameters, `n_trainable` those that are trained, and `optimizer` is `"sgd"` (remembers nothing), `"momentum"` (one
# number for each trained parameter) or `"adamw"` (two).


# %%
def training_bytes(n_total, n_trainable, optimizer):
    ### BEGIN SOLUTION
    states = {"sgd": 0, "momentum": 1, "adamw": 2}[optimizer]
    return {"weights": 4 * n_total, "gradients": 4 * n_trainable, "optimizer": 4 * states * n_trainable}
    ### END SOLUTION


# %%
check("training-bytes", training_bytes)

# %% [markdown]
# Your function already settles one question. Training a model of a hundred billion parameters in full is often called out of
# reach. How many graphics cards of 80 GB would it take to hold it, before the first text goes in?

# %%
held = sum(training_bytes(100e9, 100e9, "adamw").values())
print(f"{held / 1e12:.1f} TB: {held / 80e9:.0f} cards of 80 GB")
assert held == 16 * 100e9

# %% [markdown]
# Sixteen bytes for each parameter, whatever the precision tricks leave of it later. Out of reach for one machine: yes.

# %% [markdown]
# ## Build: what the forward pass keeps
#
# The fourth term has no formula in the equation above, so you will make one, for one **block** of an encoder like MiniLM.
# A block is $d$ wide; in its middle it widens to $ff$. A text passes through it like this:
#
# > `x` → `query`, `key` and `value` (each reads `x`) → attention → `attention.output` → add `x`, norm →
# > `intermediate` (from $d$ to $ff$) → activation function → `output` (from $ff$ to $d$) → add, norm
#
# What the backward pass of each part needs, and the forward pass therefore keeps:
#
# | part | keeps | how wide |
# | :-- | :-- | :-- |
# | a linear layer that is trained, or has a LoRA beside it | its input | that of its input |
# | a linear layer that is frozen | nothing: its weight is there anyway | |
# | attention | queries, keys, values, and what it gave | four times $d$ |
# | a norm (there are two) | its input | $d$ |
# | the activation function | its input | $ff$ |
# | an addition | nothing | |
#
# A tensor that two parts need is kept once. `attention.output` reads what attention gave, and `intermediate` reads what the
# first norm gave.
#
# {{kept-numbers}}
#
# `trained` is a set of the names of the linear layers that are trained or carry a LoRA. Return how many numbers one block
# keeps for `tokens` tokens. LoRA's own narrow tensors are so small that you may leave them out.


# %%
def kept_numbers(tokens, d, ff, trained):
    ### BEGIN SOLUTION
    width = 4 * d + 2 * d + ff  # attention, two norms, the activation function: whatever is trained
    if trained & {"query", "key", "value"}:  # one tensor, read by all three
        width += d
    if "intermediate" in trained:
        width += d
    if "output" in trained:
        width += ff
    return tokens * width
    ### END SOLUTION


# %%
check("kept-numbers", kept_numbers)

# %% [markdown]
# ## Run it: predicted and measured
#
# Now MiniLM, a real model, with a head for two classes. Your two functions predict; then one step is taken, the real tensors
# are weighed, and `pl.saved_activations` catches everything the forward pass keeps. The step has length zero, so that the
# model stays what it was.

# %%
encoder, tokenizer = pl.lab.load_base("minilm-l6")
torch.manual_seed(0)
model = pl.lab.MeanPoolClassifier(encoder, num_labels=2)
config = encoder.config
EVERY = {"query", "key", "value", "attention.output", "intermediate", "output"}


def budget(n_total, n_trainable, tokens, d, ff, layers, trained):
    """The four parts in bytes, from your functions."""
    return training_bytes(n_total, n_trainable, "adamw") | {
        "activations": 4 * layers * kept_numbers(tokens, d, ff, trained)
    }


def random_batch(texts, length):
    ids = torch.randint(1000, 20000, (texts, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(texts) % 2}


def weigh(model, batch):
    """The same four parts, in bytes of real tensors."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
    kept = pl.saved_activations(model, **batch)
    model(**batch).loss.backward()
    optimizer.step()
    parts = {
        "weights": sum(p.nbytes for p in model.parameters()),
        "gradients": sum(p.grad.nbytes for p in model.parameters() if p.grad is not None),
        "optimizer": sum(t.nbytes for states in optimizer.state.values() for t in states.values()),
        "activations": kept,
    }
    model.zero_grad()
    return parts


def predict_parts(model, batch, trained):
    n = pl.count(model)
    shape = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    return budget(n.total, n.trainable, batch["input_ids"].numel(), *shape, trained)


print(pl.count(model))

# %%
batch = random_batch(16, 64)
ways = {"full": (predict_parts(model, batch, EVERY), weigh(model, batch))}

pl.attach(model, LoRA, ["query", "value"], r=8, modules_to_save=["classifier"])
lora_count = pl.count(model)
ways["LoRA on query and value"] = predict_parts(model, batch, {"query", "value"}), weigh(model, batch)
pl.detach(model)

pl.attach(model, LoRA, "all-linear", r=8)
ways["LoRA on every layer"] = predict_parts(model, batch, EVERY), weigh(model, batch)
pl.detach(model)

table = pd.DataFrame(
    {(way, what): parts for way, pair in ways.items() for what, parts in zip(("predicted", "measured"), pair)}
)
table.loc["together"] = table.sum()
display((table / 1e6).round(1))

for way, (predicted, measured) in ways.items():
    for part in predicted:
        assert abs(measured[part] - predicted[part]) < 0.03 * max(predicted.values()), (way, part)

# %% [markdown]
# In megabytes. Twelve predictions, and none is off by more than three parts in a hundred of the largest. What little is left
# over can be named. The activations come out slightly above because of what stands outside the blocks and a few numbers a
# norm keeps for each token. For full fine-tuning, gradients and states come out slightly *below* the prediction:

# %%
pooler = sum(p.numel() for p in encoder.pooler.parameters())
print(f"the pooler of MiniLM, which a mean over the tokens leaves unused: {pooler:,} parameters")
predicted, measured = ways["full"]
assert predicted["gradients"] - measured["gradients"] == 4 * pooler, "what gets no gradient"
print(f"missing gradients: {predicted['gradients'] - measured['gradients']:,} bytes")

# %% [markdown]
# A layer that nothing depends on gets no gradient and no state: a budget counted from parameters cannot see this, a measured
# one can.
#
# Now divide. LoRA trains a few parameters in a thousand. How much less does the step hold?

# %%
full, lora, every = (sum(measured.values()) for _, measured in ways.values())
fewer = pl.count(model).total / lora_count.trainable
print(f"trained parameters: {fewer:.0f} times fewer")
print(f"memory of the step: {full / lora:.1f} times less;  with LoRA on every layer {full / every:.1f} times less")
assert full / lora < 4 < fewer

# %% [markdown]
# Memory does not fall with the number of trained parameters. It falls by what those parameters drag along, gradients and
# states. The weights stay, and so does most of what the forward pass keeps, since the gradient for LoRA in the *first* block
# has to come back through all blocks behind it. What if nothing before the head learns? And what does **dropout** cost, the
# random switching-off of numbers in training, which was off until now so that you could count?

# %%
model.requires_grad_(False)
model.classifier.requires_grad_(True)
head_only = pl.saved_activations(model, **batch)
model.requires_grad_(True)
model.train()
with_dropout = pl.saved_activations(model, **batch)
model.eval()
print(f"kept, only the head trained:  {head_only / 1e6:8.2f} MB")
print(f"kept, all trained:            {measured['activations'] / 1e6:8.2f} MB")
print(f"kept, all trained, dropout:   {with_dropout / 1e6:8.2f} MB")
assert head_only < 0.001 * measured["activations"] and with_dropout > 1.2 * measured["activations"]

# %% [markdown]
# With only the head trained, backward stops at once, and nothing needs to be kept: that is where a frozen model is truly
# cheap. Dropout keeps a mask wherever it strikes, and makes attention keep all its weights, one for each pair of tokens.
# The budget you built is for dropout off.
#
# One more, about the case in the last column of the table:

# %%
predict("long-texts")

# %%
long = random_batch(32, 128)
kept_full = pl.saved_activations(model, **long)
pl.attach(model, LoRA, "all-linear", r=8)
n = pl.count(model)
kept_every = pl.saved_activations(model, **long)
pl.detach(model)
m = pl.count(model)
longer = (m.weights + m.gradients + m.optimizer + kept_full) / (n.weights + n.gradients + n.optimizer + kept_every)
print(f"{long['input_ids'].numel():,} tokens a step, LoRA on every layer: {longer:.2f} times less memory than full")
print(
    f"activations alone: {kept_full / kept_every:.2f} times less, with {m.trainable / n.trainable:.0f} times fewer trained"
)
assert longer < full / every and kept_full < 1.01 * kept_every

# %% [markdown]
# Here freezing saves next to nothing where it matters. The activations rule, and LoRA on every layer keeps all that full
# fine-tuning keeps: `A` sits where `W` sat, and its gradient needs the same `x`.

# %% [markdown]
# ## Build: what a step computes
#
# {{multiplications}}
#
# Return the multiplications of one linear layer in one training step, forward and backward, for `tokens` tokens. The layer is
# somewhere in the middle of a network, and something before it learns. `trained` says whether its own weight learns too. A
# product of an $a \times b$ by a $b \times c$ matrix takes $abc$ multiplications.


# %%
def multiplications(tokens, d_in, d_out, trained):
    ### BEGIN SOLUTION
    forward = tokens * d_in * d_out
    for_the_input = tokens * d_out * d_in
    for_the_weight = d_out * tokens * d_in if trained else 0
    return forward + for_the_input + for_the_weight
    ### END SOLUTION


# %%
check("multiplications", multiplications)

# %% [markdown]
# Add it up over MiniLM, and count what torch really computes. Attention multiplies too, each token with each token, without
# weights of its own; freezing does not touch that part. `pl.multiplications` watches every product of matrices go by. The
# line with `sdpa_kernel` asks for attention in its plain form, because the counter doesn't see into the fused one that
# processors use.

# %%
from torch.nn.attention import SDPBackend, sdpa_kernel


def predicted_work(model, batch, trained):
    texts, length = batch["input_ids"].shape
    work = 0
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and "encoder.layer" in name:
            work += multiplications(texts * length, layer.in_features, layer.out_features, trained)
    attention = 3 * config.num_hidden_layers * 2 * texts * length**2 * config.hidden_size  # forward 1, backward 2
    head = multiplications(texts, config.hidden_size, 2, True)
    return work + attention + head


def counted_work(model, batch):
    with sdpa_kernel(SDPBackend.MATH):
        return pl.multiplications(model, **batch)


forward, backward = counted_work(model, batch)
work_full = forward + backward
print(f"full:   predicted {predicted_work(model, batch, True):>15,}")
print(f"        counted   {work_full:>15,}   backward / forward = {backward / forward:.2f}")

pl.attach(model, LoRA, ["query", "value"], r=8, modules_to_save=["classifier"])
forward, backward = counted_work(model, batch)
work_lora = forward + backward
pl.detach(model)
print(f"LoRA:   predicted {predicted_work(model, batch, False):>15,}")
print(f"        counted   {work_lora:>15,}   backward / forward = {backward / forward:.2f}")
print(f"LoRA saves {1 - work_lora / work_full:.1%} of the multiplications")

unused = len(batch["input_ids"]) * config.hidden_size**2  # the pooler again: it runs, and nothing depends on it
assert work_full == predicted_work(model, batch, True) + unused
assert abs(work_lora / predicted_work(model, batch, False) - 1) < 0.03
assert 0.30 < 1 - work_lora / work_full < 0.34

# %% [markdown]
# For full fine-tuning your function is right to the last multiplication, once the unused pooler is added. For LoRA it is
# right to a few in a hundred: LoRA's own small matrices come on top, and the first block, which has nothing before it to
# teach, is let off a little.
#
# You will meet this result as *six parts and four*: many count the addition that comes with each multiplication, and say that
# a trained parameter costs six operations for each token and a frozen one four. It is the same third. It cannot be more:
# the forward pass is all there, and the gradient has to travel back through every frozen layer.

# %% [markdown]
# ## Run it: a third of the time?
#
# Multiplications are not time. Here is the time of a step on your machine, in its three parts, each the quickest of a few.


# %% tags=["nbval-ignore-output", "heavy"]
def seconds(model, batch, steps=3):
    """Seconds of forward, backward and update: the quickest of a few steps, which was disturbed the least."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
    rows = []
    for _ in range(steps):
        optimizer.zero_grad()
        start = time.perf_counter()
        loss = model(**batch).loss
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        optimizer.step()
        rows.append((forward - start, backward - forward, time.perf_counter() - backward))
    optimizer.zero_grad()
    return [min(column) for column in zip(*rows)]


measured_in = {"full": [], "LoRA": []}
for _ in range(2):  # in turns, so that a busy moment of the machine does not fall on one of the two alone
    measured_in["full"].append(seconds(model, batch))
    pl.attach(model, LoRA, ["query", "value"], r=8, modules_to_save=["classifier"])
    measured_in["LoRA"].append(seconds(model, batch))
    pl.detach(model)
times = pd.DataFrame(
    {way: [min(column) for column in zip(*rounds)] for way, rounds in measured_in.items()},
    index=["forward", "backward", "update"],
)
times.loc["together"] = times.sum()
display((1000 * times).round(0).astype(int).rename_axis("milliseconds"))
spent = times.loc["together"]
print(
    f"LoRA's step takes {1 - spent['LoRA'] / spent['full']:.0%} less time; multiplications alone say {1 - work_lora / work_full:.0%}"
)

# %%
assert 0.30 < 1 - work_lora / work_full < 0.34, "multiplications: this much can be promised, whatever the clock says"

# %% [markdown]
# Don't trust the clock to a few in a hundred, least of all on a busy machine. But look at the last of the three parts, the
# *update*. Full fine-tuning has AdamW walk through every parameter, however few texts there were; LoRA has it walk through
# a few parameters in a thousand. That saving is not in the count of multiplications, and it will explain a published number
# below.
#
# And does it learn? The same model, on sentences from film reviews that people rated: good or bad? Full fine-tuning comes
# last, since it changes the model for good.

# %% tags=["nbval-ignore-output", "heavy"]
train_texts, test_texts = (pl.lab.sentiment("movies", split) for split in ("train", "test"))
test_texts = test_texts.select(range(200))
collate = pl.lab.training.texts(tokenizer, max_length=64)

pl.attach(model, LoRA, ["query", "value"], r=8, modules_to_save=["classifier"])
lora_run = pl.lab.training.train(model, train_texts, collate, steps=30, batch_size=16, lr=3e-3)
lora_test = pl.lab.training.evaluate(model, test_texts, collate)
pl.detach(model)
full_run = pl.lab.training.train(model, train_texts, collate, steps=30, batch_size=16, lr=2e-4)
full_test = pl.lab.training.evaluate(model, test_texts, collate)

for way, run, test in (("LoRA", lora_run, lora_test), ("full", full_run, full_test)):
    states = sum(t.nbytes for t in run.moments().values())
    print(f"{way}: {test.accuracy:.2f} of {test.labels} test sentences right, AdamW's states {states / 1e6:.1f} MB")

# %% tags=["heavy"]
for run, test in ((lora_run, lora_test), (full_run, full_test)):
    assert sum(run.losses[-10:]) < sum(run.losses[:10]) and test.accuracy > 0.6
ratio = sum(t.nbytes for t in full_run.moments().values()) / sum(t.nbytes for t in lora_run.moments().values())
print(f"both learn; AdamW's states are {ratio:.0f} times smaller with LoRA")

# %% [markdown]
# Both learn. Which learns *better* is another question, and thirty steps with one seed and a learning rate picked by hand
# do not answer it; lesson 10 does. The states shrink as the parameters do: the one part of the budget of which this is true.
#
# ## The model behind the numbers
#
# Articles on fine-tuning like to give numbers for "a model of 560 million parameters". The ones below from C2 to C13 go back
# to a single study of XLM-RoBERTa-large, a text encoder, on classifying news articles
# ([arXiv:2308.07282](https://arxiv.org/abs/2308.07282)); the others are often said beside them. Each has a number in this
# course, under which it comes back when there is more to say.

# %%
CLAIMS = pd.DataFrame(
    [
        ("C2", "140 to 280 times fewer trained parameters"),
        ("C3", "LoRA trains 2 to 4 million of 560 million"),
        ("C4", "training takes 32 to 44 % less time"),
        ("C5", "memory falls in proportion to the trained parameters"),
        ("C13", "adapters train 7 to 26 million, depending on the task"),
        ("C14", "adapters train more parameters than LoRA"),
        ("C17", "vectors in front of the text: about 0.1 % of the parameters"),
        ("C26", "the biases alone (BitFit): about 0.1 % of the parameters"),
        ("C37", "full fine-tuning of a model of 100 billion parameters is out of reach"),
    ],
    columns=["", "what is claimed"],
).set_index("")
display(CLAIMS)

# %% [markdown]
# You need no graphics card and no download to look into these: costs don't depend on the *values* of the weights. On torch's
# `meta` device a model has shapes and no numbers, and takes no memory. Here is that encoder, with its head for three classes.

# %%
from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

LARGE = XLMRobertaConfig(
    vocab_size=250_002,
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    max_position_embeddings=514,
    type_vocab_size=1,
    num_labels=3,
)
HEAD = ["classifier.dense", "classifier.out_proj"]


def large():
    with torch.device("meta"):
        return XLMRobertaForSequenceClassification(LARGE).eval()


n_large = pl.count(large()).total
n_head = sum(p.numel() for p in large().classifier.parameters())
print(f"{n_large:,} parameters, {n_head:,} of them in the head")
assert n_large == 559_893_507

# %% [markdown]
# ## Build: counting parameters
#
# {{count-lora}}
#
# On a layer with a weight of shape (d_out, d_in), LoRA has `A` of shape (r, d_in) and `B` of shape (d_out, r).


# %%
def count_lora(d_in, d_out, r):
    ### BEGIN SOLUTION
    return r * (d_in + d_out)
    ### END SOLUTION


# %%
check("count-lora", count_lora)

# %% [markdown]
# {{count-bottleneck}}
#
# Down from `d` to `m` and up again, two ordinary linear layers.


# %%
def count_bottleneck(d, m):
    ### BEGIN SOLUTION
    return (d * m + m) + (m * d + d)
    ### END SOLUTION


# %%
check("count-bottleneck", count_bottleneck)

# %% [markdown]
# {{find-settings}}
#
# Which rank of LoRA gives 2 million trained parameters, and which 4 million? Which width $m$ of the adapter gives 7, and which
# 26 million? Rounded to whole millions, as published. LoRA sits on `query` and `value` of each layer, one adapter sits in each
# layer. Ranks and widths are usually powers of two; there is one such answer for each of the four.

# %%
settings = {"2 million": ..., "4 million": ..., "7 million": ..., "26 million": ...}
### BEGIN SOLUTION
settings = {"2 million": 8, "4 million": 32, "7 million": 128, "26 million": 512}
### END SOLUTION

# %%
check("find-settings", settings)

# %% [markdown]
# Now let the model itself say it: attach, and count.

# %%
# The adapter goes to the norm that ends a block; "output.LayerNorm" would match the one inside attention as well,
# so the target is a regular expression for the whole name.
END_OF_BLOCK = r".*layer\.\d+\.output\.LayerNorm"
rows = []
for goal, value in settings.items():
    shape = large()
    if goal in ("2 million", "4 million"):
        pl.attach(shape, LoRA, ["query", "value"], r=value, modules_to_save=HEAD)
        what, alone = f"LoRA r={value}", LARGE.num_hidden_layers * 2 * count_lora(1024, 1024, value)
    else:
        pl.attach(shape, Pfeiffer, END_OF_BLOCK, reduction_factor=1024 / value, modules_to_save=HEAD)
        what, alone = f"adapter m={value}", LARGE.num_hidden_layers * count_bottleneck(1024, value)
    trained = pl.count(shape).trainable
    assert trained == alone + n_head
    assert goal == f"{trained / 1e6:.0f} million" != f"{alone / 1e6:.0f} million"
    rows.append((goal, what, f"{alone:,}", f"{trained:,}", round(n_large / trained)))
pd.DataFrame(rows, columns=["published", "setting", "without head", "with head", "times fewer"]).set_index("published")

# %% [markdown]
# All four fit, with the head, and without it none would round to what was published. In the smallest, the head is more than
# half of what is trained: *the head counts*. And "140 to 280 times" is 560 divided by the *rounded* counts of LoRA; the last
# column has the exact ratios, and those of the adapters are far from it. Nor do the adapters' counts depend on the task as
# such: they depend on how much the adapter narrows, which was chosen, task by task, by trying.
#
# Do adapters train more parameters than LoRA? Two choices of ours:

# %%
shape = large()
lora_everywhere = pl.closed_form(shape, LoRA, "all-linear", r=32)
narrow_adapter = pl.closed_form(shape, Pfeiffer, END_OF_BLOCK, reduction_factor=16)
print(f"LoRA, r=32, on every linear layer: {lora_everywhere:>12,}")
print(f"adapter, m=64, in each layer:      {narrow_adapter:>12,}")
print(
    f"LoRA r=32 on query and value: {count_lora(1024, 1024, 32) * 2:,} a layer; adapter m=64: {count_bottleneck(1024, 64):,}"
)
assert lora_everywhere > 4 * narrow_adapter

# %% [markdown]
# A convention, not a law. At a width of about twice the rank the two families train the same number.
#
# Two more numbers one meets: methods that put trained vectors in front of the text "train about 0.1 % of the parameters",
# and so does training the biases alone (BitFit). You will build these in lessons 06 and 07; counting them takes a line each.

# %%
from transformers import LlamaConfig, LlamaForCausalLM

with torch.device("meta"):
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128_256,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            tie_word_embeddings=True,
        )
    )


def biases(model):
    return sum(p.numel() for name, p in model.named_parameters() if name.endswith(".bias") and "classifier" not in name)


counts = {
    "prompt tuning, 20 vectors": [pl.closed_form(m, PromptTuning, num_virtual_tokens=20) for m in (shape, llama)],
    "prefix tuning, 20 vectors": [pl.closed_form(m, PrefixTuning, num_virtual_tokens=20) for m in (shape, llama)],
    "all biases (BitFit)": [biases(m) for m in (shape, llama)],
}
names = ["XLM-RoBERTa-large", "Llama-3.2-1B"]
table = pd.DataFrame(counts, index=names).T
totals = [pl.count(m).total for m in (shape, llama)]
display(table.map("{:,}".format))
display((100 * table / totals).round(4).rename_axis("percent"))
assert table.loc["all biases (BitFit)", "Llama-3.2-1B"] == 0
assert table.loc["prefix tuning, 20 vectors"].iloc[0] == 48 * table.loc["prompt tuning, 20 vectors"].iloc[0]

# %% [markdown]
# In percent, the second table, 0.1 is the right order of size for a *prefix*, which stands in every layer, twice. A *prompt*
# stands at the input alone and is many times smaller. The biases come to half of it here. And a Llama has no biases at all:
# there is nothing to train.

# %% [markdown]
# ## See: time
#
# One more question before the numbers.

# %%
predict("smaller-batch")

# %% [markdown]
# First the multiplications of the large encoder, counted on `meta`, so exactly, for texts of 128 and of 512 tokens.


# %%
def large_batch(texts, length):
    ids = torch.zeros(texts, length, dtype=torch.long, device="meta")
    return {"input_ids": ids, "labels": ids[:, 0]}


def work(shape, length):
    """Multiplications of a step on one text."""
    return sum(pl.multiplications(shape, **large_batch(1, length)))


large_full = {length: work(large(), length) for length in (128, 512)}
rows, n_trained, large_work = [], {}, {}
for name, method, where, options in (
    ("LoRA r=8", LoRA, ["query", "value"], {"r": 8}),
    ("LoRA r=32", LoRA, ["query", "value"], {"r": 32}),
    ("adapter m=128", Pfeiffer, END_OF_BLOCK, {"reduction_factor": 8}),
    ("adapter m=512", Pfeiffer, END_OF_BLOCK, {"reduction_factor": 2}),
):
    shape = pl.attach(large(), method, where, modules_to_save=HEAD, **options)
    n_trained[name] = pl.count(shape).trainable
    large_work[name] = {length: work(shape, length) for length in large_full}
    rows.append((name, *(f"{1 - large_work[name][length] / large_full[length]:.1%}" for length in large_full)))
assert sum(pl.multiplications(large(), **large_batch(8, 128))) == 8 * large_full[128]
pd.DataFrame(rows, columns=["multiplications saved", "128 tokens", "512 tokens"]).set_index("multiplications saved")

# %% [markdown]
# A third at most. Less for long texts, where attention, which freezing does not touch, takes a larger share; and less for a
# wide adapter, whose own products come on top. So where does a saving of 44 % come from? From the update. Let AdamW's work on one parameter take as long as $k$ multiplications. Then
#
# $$\text{share of time saved} \;=\; 1 - \frac{b\,w' + k\,t}{b\,w + k\,n}$$
#
# with $b$ texts in a batch, $w$ and $w'$ the multiplications for one text without and with freezing, $n$ parameters trained in
# full and $t$ with freezing. What is $k$? It depends on the machine: a multiplication in a product of matrices is cheap, while
# AdamW has to fetch several numbers from memory for each parameter. On yours, just now:

# %% tags=["nbval-ignore-output", "heavy"]
n_mini = pl.count(model).total
k_here = (times.loc["update", "full"] / n_mini) / (times.loc[["forward", "backward"], "full"].sum() / work_full)
expected = 1 - (work_lora + k_here * lora_count.trainable) / (work_full + k_here * n_mini)
print(
    f"here k is about {k_here:,.0f}; the equation gives {expected:.0%} for MiniLM, the clock said {1 - spent['LoRA'] / spent['full']:.0%}"
)
assert k_here > 0

# %% [markdown]
# An equation with one constant cannot know everything: loading data, dropout, starting up each operation. But it says how the
# share moves. For the large encoder, LoRA with rank 8, texts of 128 tokens, and three values of $k$, each ten times the last:


# %%
def share_saved(texts, k, name="LoRA r=8", length=128):
    with_freezing = texts * large_work[name][length] + k * n_trained[name]
    return 1 - with_freezing / (texts * large_full[length] + k * n_large)


texts = [1, 2, 4, 8, 16, 32, 64, 128, 256]
saved = {f"k = {k:,}": [100 * share_saved(b, k) for b in texts] for k in (100, 1000, 10_000)}
limit = 1 - large_work["LoRA r=8"][128] / large_full[128]
figures.show(
    figures.curves(
        texts,
        saved,
        "Share of time that LoRA saves, by batch size",
        "texts of 128 tokens in a batch",
        "time saved (%)",
        levels={"multiplications alone": 100 * limit},
        band=(32, 44, "claimed: 32 to 44 %"),
    ),
    alt="Share of time saved against batch size, one curve for each k. All three fall towards the same level, a little under "
    "33 percent, which multiplications alone give. The larger k, the higher the curve at small batches and the later it "
    "enters the claimed band of 32 to 44 percent; in a large enough batch each of them lies within it.",
)
assert all(100 * share_saved(4096, k) < 44 for k in (100, 1000, 10_000))
assert all(curve == sorted(curve, reverse=True) for curve in saved.values())

# %% [markdown]
# So "32 to 44 %" says as much about a batch and a machine as about LoRA: by this equation each curve passes through the band
# as the batch grows, and the lower end of the band is the third you counted. From which batch on is each inside?

# %%
for k in (100, 1000, 10_000):
    inside = next(b for b in range(1, 10_000) if share_saved(b, k) < 0.44)
    print(f"k = {k:>6,}: from {inside:>3} texts of 128 tokens a batch")
    assert share_saved(inside, k) < 0.44 <= share_saved(inside - 1, k) or inside == 1

# %% [markdown]
# ## See: memory
#
# And now the whole byte budget of the large encoder, from your two functions.

# %%
HOW = {  # name -> (trained parameters, linear layers of a block that are trained or carry a LoRA)
    "full": (n_large, EVERY),
    "LoRA on query and value": (n_trained["LoRA r=8"], {"query", "value"}),
    "LoRA on every layer": (pl.closed_form(large(), LoRA, "all-linear", r=8), EVERY),
}


def large_budget(how, texts, length):
    n_new, layers = HOW[how]
    total = n_large if how == "full" else n_large + n_new
    return budget(total, n_new, texts * length, 1024, 4096, LARGE.num_hidden_layers, layers)


sizes = ((2, 128), (8, 512), (64, 512))
budgets = {f"{how}, {b} x {t}": large_budget(how, b, t) for b, t in sizes for how in HOW}
figures.show(
    figures.stacked(budgets, "What a step holds, by texts x tokens in a batch"),
    alt="Stacked bars of weights, gradients, optimizer states and activations for full fine-tuning, LoRA on query and value, "
    "and LoRA on every layer, at three batch sizes. For 2 texts of 128 tokens LoRA holds about a quarter, nearly all of it "
    "weights. For 64 texts of 512 tokens activations fill almost the whole bar in all three, and LoRA on every layer comes "
    "close to full fine-tuning.",
)
small, large_one = (
    sum(large_budget("LoRA on every layer", *s).values()) / sum(large_budget("full", *s).values())
    for s in (sizes[0], sizes[-1])
)
print(f"LoRA on every layer holds {small:.0%} of full at {sizes[0]}, {large_one:.0%} at {sizes[-1]}")
assert small < 0.3 and large_one > 0.8

# %%
tokens = [128, 512, 2048, 8192, 32_768, 131_072]
less = {
    how: [sum(large_budget("full", 1, n).values()) / sum(large_budget(how, 1, n).values()) for n in tokens]
    for how in list(HOW)[1:]
}
fewer = n_large / n_trained["LoRA r=8"]
figures.show(
    figures.curves(
        tokens,
        less,
        "How many times less memory than full fine-tuning",
        "tokens in a batch",
        "times less",
        levels={f"trained parameters: {fewer:.0f} times fewer": fewer, "nothing saved": 1},
        yscale="log",
    ),
    alt="Memory of full fine-tuning divided by that of LoRA, against the tokens in a batch, both axes logarithmic. Both curves "
    "start just under 4 and fall: LoRA on query and value towards about one and a half, LoRA on every layer to 1, where "
    "nothing is saved. Far above both runs the line of the trained parameters, 304 times fewer.",
)
print({how: [round(x, 2) for x in values] for how, values in less.items()})
assert all(1 < x < 4 for values in less.values() for x in values) and round(fewer) == 304

# %% [markdown]
# With AdamW in float32 the curves begin below 4, since weights are one part in four of what does not depend on the text. That
# is the most that freezing can do. From there they only fall.
#
# This adds up each part at its largest. They do not all stand in memory at the same moment: gradients appear one by one while
# activations go. If we count only the larger of the two, for the question you answered at the top:


# %%
def at_once(parts):
    return parts["weights"] + parts["optimizer"] + max(parts["gradients"], parts["activations"])


asked = [large_budget(how, 8, 512) for how in ("full", "LoRA on query and value")]
added, together = ([f(parts) for parts in asked] for f in (lambda p: sum(p.values()), at_once))
print(
    f"8 texts of 512 tokens, all parts added: {added[0] / 1e9:.1f} and {added[1] / 1e9:.1f} GB, {added[0] / added[1]:.1f} times less"
)
print(
    f"at one moment:                          {together[0] / 1e9:.1f} and {together[1] / 1e9:.1f} GB, {together[0] / together[1]:.1f} times less"
)
assert 1.5 < together[0] / together[1] < added[0] / added[1] < 3

# %% [markdown]
# About two times less, either way.
#
# Now move the sliders (Tab, then the arrow keys). Where does LoRA on query and value hold a quarter of full fine-tuning? Where
# does LoRA on every layer hold nine tenths?


# %%
def draw(texts_in_a_batch, tokens_in_a_text):
    return widgets.bars({how: large_budget(how, texts_in_a_batch, tokens_in_a_text) for how in HOW})


widgets.explore(
    draw,
    texts_in_a_batch=(8, [1, 2, 4, 8, 16, 32, 64]),
    tokens_in_a_text=(128, [16, 32, 64, 128, 256, 512]),
)

# %% [markdown]
# Without a running notebook, the bars at three sizes further up are the static form of this.

# %% [markdown]
# ## At full size
#
# The same for more methods and three shapes of the size the article means, recorded by `peftlab record cost-560m`. On a graphics card that command also takes the time of each step and the peak of memory, and this cell
# does so live for three of the rows where there is one. Until somebody has recorded it there, the table says what follows from shapes, and no more.

# %% tags=["nbval-ignore-output"]
from peftlab.lab import records
from peftlab.lab.experiments import cost_560m

cost = records.load("cost-560m")
cost["held"] = cost[["weights", "gradients", "optimizer"]].sum(axis=1)
cost["work"] = cost["forward"] + cost["backward"]


def beside_full(shape, **chosen):
    """How each method stands beside full fine-tuning of one shape, at one size."""
    rows = cost[cost["shape"] == shape].set_index("method")
    for name, value in chosen.items():
        rows = rows[rows[name] == value]
    full = rows.loc["full"]
    return pd.DataFrame({
        "trained": rows["trainable"].map("{:,}".format),
        "times fewer": (full["trainable"] / rows["trainable"]).round(1),
        "multiplications saved (%)": (100 * (1 - rows["work"] / full["work"])).round(1),
        "times less of weights, gradients and AdamW": (full["held"] / rows["held"]).round(2),
    })  # fmt: skip


if torch.cuda.is_available():
    for method in ("full", "lora-8", "pfeiffer-8"):
        how = {"shape": "xlm-roberta-large", "method": method, "dtype": "float32", "texts": 8, "length": 128, "seed": 0}
        print(method, "live:", cost_560m.measured(how, torch.device("cuda")))
print("step times and memory:", "in the record" if "step_seconds" in cost else "not yet recorded on a GPU")
print(records.stamp(cost))
beside_full("xlm-roberta-large", dtype="float32", texts=8, length=128)

# %% tags=["nbval-ignore-output"]
print(beside_full("bloomz-560m", length=128).to_string(), beside_full("llama-3.2-1b", length=128).to_string(), sep="\n\n")

# %%
encoder = cost[(cost["shape"] == "xlm-roberta-large") & (cost["dtype"] == "float32") & (cost["texts"] == 8)]
for length in (128, 512):
    row = encoder[encoder["length"] == length].set_index("method")
    assert row.loc["lora-8", "trainable"] == n_trained["LoRA r=8"] and row.loc["pfeiffer-2", "trainable"] == n_trained["adapter m=512"]
    assert row.loc["full", "work"] == 8 * large_full[length] and row.loc["lora-8", "work"] == 8 * large_work["LoRA r=8"][length]
saved_most = max(1 - rows["work"].min() / rows.loc[rows["method"] == "full", "work"].item() for _, rows in cost[cost["method"] != "head"].groupby(["shape", "dtype", "texts", "length"]))
print(f"no method that reaches into the blocks saves more than {saved_most:.1%} of the multiplications, in any shape, at any size")
assert saved_most < 0.34 and (cost["optimizer"] == 2 * cost["gradients"]).all()

# %% [markdown]
# A third is all there is to save for whatever is trained inside the model, in all three shapes. Only the head alone saves more: nothing has to go back through the blocks.
#
# ## The library
#
# `peft` is the library most people use for these methods. It counts as you do: on the shape of the large encoder, and on
# MiniLM.

# %%
import warnings

from peft import LoraConfig, get_peft_model

warnings.simplefilter("ignore", FutureWarning)  # about a name inside transformers that will change
theirs = get_peft_model(large(), LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=8))
theirs.print_trainable_parameters()
mine = LARGE.num_hidden_layers * 2 * count_lora(1024, 1024, 8) + n_head
assert theirs.get_nb_trainable_parameters() == (mine, n_large + mine)

wrapped = get_peft_model(model, LoraConfig(target_modules=["query", "value"], r=8, modules_to_save=["classifier"]))
wrapped.print_trainable_parameters()
assert wrapped.get_nb_trainable_parameters() == (lora_count.trainable, lora_count.total)
print("both equal to ours")

# %% [markdown]
# "All parameters" is a little more than the model had: LoRA's are in it, and the trained copy of the head beside the frozen
# one.

# %% [markdown]
# ## Read the result

# %%
qv = less["LoRA on query and value"]
share = 100 * table / totals
verdicts = {
    "C2": f"held for LoRA, with rounded counts: exactly {n_large / n_trained['LoRA r=32']:.0f} to {fewer:.0f} times. "
    "A choice of the rank, not a constant",
    "C3": "held, with the head: ranks 8 to 32",
    "C4": f"held in part: {limit:.0%} lies in the multiplications; the rest is AdamW's and moves with the batch",
    "C5": f"did not hold: {fewer:.0f} times fewer parameters, {qv[-1]:.1f} to {qv[0]:.1f} times less memory",
    "C13": "held in part: the counts do; what they depend on is the width that was chosen",
    "C14": f"held in part: a habit, not a law. LoRA trained {lora_everywhere / narrow_adapter:.1f} times more in our example",
    "C17": f"held in part: {share.iloc[1, 0]:.2f} % and {share.iloc[1, 1]:.2f} % for a prefix, {share.iloc[0].max():.3f} % for a prompt",
    "C26": f"held in part: {share.iloc[2, 0]:.2f} % in this encoder, nothing in a Llama",
    "C37": f"held for one machine: {held / 1e12:.1f} TB before the first text",
}
assert list(verdicts) == list(CLAIMS.index) and n_trained["LoRA r=32"] == 4_198_403
CLAIMS.assign(verdict=verdicts)

# %% [markdown]
# **What this shows.** Parameters, bytes and multiplications of a step follow from shapes. You predicted them, and a real model
# agreed.
#
# **What it does not show.** How *well* anything is learnt. What a graphics card makes of it: half precision, fused operations
# and a library's own buffers all move the numbers, and on a small batch starting up operations can cost more than the
# operations. Nor do we know the batch size behind the published times; we can only say for which they would come out.
#
# **If you see** *"element 0 of tensors does not require grad"*: everything is frozen, and there is nothing backward could do.
# **If memory runs out** although hardly anything is trained: look at tokens in a batch before you look at the rank.
#
# ## Go further
#
# - *Open problem.* The activations are what is left. One can keep only some of them and compute the others again in the
#   backward pass (`model.gradient_checkpointing_enable()`). Extend `kept_numbers` and `multiplications` to that: what does one
#   saved byte cost in multiplications? `pl.saved_activations` will tell you whether you were right.
# - LoRA needs `x` for `A` only. What if `A` stays as it was drawn, and only `B` is trained?
#   ([arXiv:2308.03303](https://arxiv.org/abs/2308.03303))
# - The weights are the next floor. Lesson 11 brings them from four bytes to half a byte.
#
# Sources: the study behind the numbers, [arXiv:2308.07282](https://arxiv.org/abs/2308.07282); LoRA,
# [arXiv:2106.09685](https://arxiv.org/abs/2106.09685); the adapter used here,
# [arXiv:2005.00247](https://arxiv.org/abs/2005.00247); one that finds LoRA slower than expected,
# [arXiv:2507.08833](https://arxiv.org/abs/2507.08833).
