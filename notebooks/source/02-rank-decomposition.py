# %% [markdown]
# # 02 Rank decomposition
#
# **60 minutes** of reading and doing, **60 seconds** of computing on two quiet cores. Before this: lesson 01.
#
# LoRA rests on one sentence: *what fine-tuning adds to a weight needs few numbers to write down.* After this page you will know what
# that says, and how far it holds. You will have built the best matrix of a given rank and failed to beat it, counted the ranks of a real
# update, foretold the loss that a low rank cannot go below, and trained a whole model through a handful of numbers.

# %%
import matplotlib.cbook
import torch
from PIL import Image
from torch import nn

import peftlab as pl
from peftlab.classroom import check, predict
from peftlab.lab import figures, polyglot, records, widgets
from peftlab.lab.experiments.random_subspace import Moved
from peftlab.lab.sweeps import best_rates, complete, interval
from peftlab.lab.training import answers, evaluate, texts, train
from peftlab.methods import LoRA

# %% [markdown]
# ## Predict

# %%
predict("update-ranks")

# %% [markdown]
# ## The idea
#
# A column times a row is a matrix in which every row is a multiple of one: its **rank** is one. It is written with $d_{out} + d_{in}$ numbers
# and has $d_{out} d_{in}$ entries. A sum of $r$ of them has rank $r$, and every matrix is such a sum. The **singular value
# decomposition** finds the sum whose parts are in order of strength:
#
# $$W = \sum_{i=1}^{\min(d_{out}, d_{in})} \sigma_i \, u_i v_i^\top$$
#
# - $W$ is a matrix of shape $(d_{out}, d_{in})$;
# - $v_i$, of $d_{in}$ numbers and length one, is a direction that enters; $u_i$, of $d_{out}$, the direction that leaves for it; all $v_i$ are
#   orthogonal to one another, and so are all $u_i$;
# - $\sigma_i \ge 0$, the **singular values**, say how strong each part is: $\sigma_1 \ge \sigma_2 \ge \dots$
#
# The squares of the singular values add up to the sum of the squares of all entries. On this page the **size** of a matrix is the root of that sum.

# %%
draw = torch.Generator().manual_seed(1)
columns, rows = torch.randn(12, 2, generator=draw), torch.randn(2, 18, generator=draw)
one, other = (torch.outer(columns[:, i], rows[i]) for i in range(2))
figures.show(
    figures.matrices(
        {"rank one": one, "another": other, "their sum: rank two": one + other}, "Two parts and their sum"
    ),
    alt="Three heat maps side by side. The first two are stripes crossing stripes: each row repeats one pattern, stronger or weaker. "
    "The third is their sum, in which no single pattern repeats.",
)

# %% [markdown]
# ## Build it
#
# ### 1. The best matrix of rank r
#
# {{keep-ranks}}
#
# Write `keep_ranks(W, r)`: of the sum above, the first `r` parts, as a matrix of the shape of `W`.


# %%
def keep_ranks(W, r):
    """The r strongest parts of W, added up."""
    ### BEGIN SOLUTION
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * S[:r] @ Vh[:r]
    ### END SOLUTION


# %%
check("keep-ranks", keep_ranks)

# %% [markdown]
# A photograph is a matrix too: each entry is how bright a point is. Here is Admiral Grace Hopper, who comes with the plotting library, in a
# few ranks.

# %%
with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
    photo = Image.open(file).convert("L").crop((90, 60, 430, 400)).resize((128, 128))
    brightness = torch.tensor(list(photo.tobytes()), dtype=torch.float32).view(128, 128)
photo = brightness - brightness.mean()
figures.show(
    figures.photographs(
        {f"rank {r}": keep_ranks(photo, r) for r in (1, 4, 16, 48)} | {"all of it": photo},
        "One photograph in few ranks",
    ),
    alt="A portrait from few ranks. With one there are only bright and dark bands; with four a head can be guessed; with sixteen the face is "
    "there, blurred by streaks; with forty-eight it can hardly be told from the whole.",
)

# %% [markdown]
# ### 2. Try to beat it
#
# {{best-b}}
#
# Is there a better matrix of rank `r` than yours? Any such matrix is a product `B @ A`. Take any `A` at all, `(r, d_in)`: which `B` brings the
# product nearest to `W`? Write `best_B(W, A)`, of shape `(d_out, r)`.


# %%
def best_B(W, A):
    """The B for which the size of W - B A is smallest."""
    ### BEGIN SOLUTION
    return torch.linalg.lstsq(A.T, W.T).solution.T
    ### END SOLUTION


# %%
check("best-b", best_B)

# %% [markdown]
# Now you have an opponent. It begins with a random `A` and the best `B` for it; then it takes the best `A` for that `B`, which is the same problem
# turned; and so on, better each time.

# %%
W, r = photo.double(), 8
to_beat = (W - keep_ranks(W, r)).norm().item()
torch.manual_seed(0)
A = torch.randn(r, W.shape[1], dtype=W.dtype)
tried = {}
for turn in range(201):
    B = best_B(W, A)
    tried[turn] = (W - B @ A).norm().item()
    A = best_B(W.T, B.T).T
for turn in (0, 1, 2, 5, 20, 200):
    print(f"after {turn:3} turns the opponent leaves {tried[turn] / to_beat:.4f} times what your keep_ranks leaves")
assert min(tried.values()) >= to_beat * (1 - 1e-12), "somebody has beaten the singular value decomposition"

# %% [markdown]
# It comes as near as it likes, and no nearer. That is the theorem of Eckart and Young: **no matrix of rank r is closer to W than the
# first r parts of its decomposition.** So if an update is not close to *these*, no LoRA of that rank can write it down.
#
# ### 3. How many ranks hold a share
#
# {{ranks-for}}
#
# Write `ranks_for(W, share)`: the smallest number of ranks that hold at least this share of the size of `W`, counted in squares.


# %%
def ranks_for(W, share):
    """The smallest r for which keep_ranks(W, r) holds `share` of the sum of squares of W."""
    ### BEGIN SOLUTION
    squares = torch.linalg.svdvals(W).square()
    held = squares.cumsum(0) / squares.sum()
    return int((held < share).sum()) + 1
    ### END SOLUTION


# %%
check("ranks-for", ranks_for)

# %% [markdown]
# ### 4. Few, beside what?
#
# {{random-like}}
#
# A number of ranks says nothing alone. Write `random_like(W)`: independent normal numbers, as many rows and columns as `W` and its size.


# %%
def random_like(W):
    """A random matrix of the shape and the size of W, another one at each call."""
    ### BEGIN SOLUTION
    R = torch.randn_like(W)
    return R * W.norm() / R.norm()
    ### END SOLUTION


# %%
check("random-like", random_like)

# %% [markdown]
# ## Run it on a real model: what fine-tuning adds
#
# minilm-l6 learns whether a sentence on a film is praise or blame, with *all* its weights. From each weight you take what it was before.

# %% tags=["nbval-ignore-output", "heavy"]
torch.manual_seed(0)
encoder, encoder_tokenizer = pl.lab.load_base("minilm-l6")
classifier = pl.lab.MeanPoolClassifier(encoder, num_labels=2).requires_grad_(True)
before = {name: p.detach().clone() for name, p in classifier.named_parameters()}

short = texts(encoder_tokenizer, max_length=32)
few = pl.lab.sentiment("movies", "train").select(range(256))
train(classifier, few, short, steps=48, lr=3e-4, batch_size=16)

updates = {
    name: p.detach() - before[name] for name, p in classifier.named_parameters() if ".layer." in name and p.dim() == 2
}

# %% tags=["nbval-ignore-output", "heavy"]
kinds = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "layer.{}.output.dense"]
counted = {kind: [] for kind in kinds}
for layer in range(6):
    for kind in kinds:
        name = next(n for n in updates if f"layer.{layer}." in n and f"{kind.format(layer)}.weight" in n)
        counted[kind].append((ranks_for(updates[name], 0.9), ranks_for(random_like(updates[name]), 0.9)))
print("ranks for nine tenths of the update, beside a random matrix of its size")
for kind, pairs in counted.items():
    print(f"{kind.replace('layer.{}.', ''):24}", *(f"{mine:4}/{random:3}" for mine, random in pairs))

# %% tags=["heavy"]
assert all(mine < random for pairs in counted.values() for mine, random in pairs)
assert counted["value"][5][0] < counted["value"][0][0] / 2
assert counted["intermediate.dense"][0][0] > 50

# %% tags=["nbval-ignore-output", "heavy"]
figures.show(
    figures.lines(
        list(range(1, 7)),
        {kind.replace("layer.{}.", ""): [mine / random for mine, random in pairs] for kind, pairs in counted.items()},
        "Ranks for nine tenths of the update",
        "layer",
        "as a share of a random matrix's",
    ),
    alt="For six kinds of weight the share of ranks needed, over the six layers. In the first layers it is about half of what a random matrix "
    "needs, or more; towards the last it falls, for the last layer's output to next to nothing.",
)

# %% [markdown]
# Fewer than a random matrix everywhere, so the sentence is no empty one. But "few" is a handful only at the end, where the question of
# praise or blame is decided. At the words, an update takes a large part of the ranks there are.
#
# See what that looks like. The photograph, the last layer's update, the first layer's, and a random matrix, each in as many ranks as you like:

# %% tags=["nbval-ignore-output", "heavy"]
last, first = (updates[f"encoder.encoder.layer.{i}.attention.self.value.weight"] for i in (5, 0))
originals = {
    "photograph": photo,
    "update of the last layer's value": last,
    "update of the first layer's value": first,
    "random matrix": random_like(last),
}
counts = [1, 2, 4, 8, 16, 32, 64, 128]
widgets.ranks_kept(originals, {name: {r: keep_ranks(M, r) for r in counts} for name, M in originals.items()})

# %% [markdown]
# ### What the model loses with the weak ranks
#
# A share of squares is not a share of skill. So cut every update to its `r` strongest ranks, put the weights back together, and ask the model.
# The second model is polyglot-350k, which learns Turkish, a language it has never seen, with all its weights. Only the updates of linear layers are cut; with no rank left,
# what remains is what was learnt in tables, norms and heads.

# %% tags=["nbval-ignore-output", "heavy"]
films = pl.lab.sentiment("movies", "test").select(range(300))
talker, tokenizer = pl.lab.load_base("polyglot-350k")
talker_before = {name: p.detach().clone() for name, p in talker.named_parameters()}
train(talker.requires_grad_(True), polyglot.dataset("tr"), answers(tokenizer), steps=150, lr=0.001)
talker_updates = {name: p.detach() - talker_before[name] for name, p in talker.named_parameters() if "_proj" in name}


@torch.no_grad()
def cut(model, start, updates, r):
    """The model with each of these updates cut to its r strongest ranks."""
    for name, update in updates.items():
        model.get_parameter(name).copy_(start[name] + keep_ranks(update, r))


kept_ranks = [0, 1, 2, 4, 8, 16, 32, 64]
skill = {"films, on minilm-l6": [], "Turkish, on polyglot-350k": []}
for r in kept_ranks:
    cut(classifier, before, updates, r)
    skill["films, on minilm-l6"].append(evaluate(classifier, films, short).accuracy)
    cut(talker, talker_before, talker_updates, r)
    skill["Turkish, on polyglot-350k"].append(polyglot.accuracy(talker, tokenizer, "tr"))
cut(classifier, before, updates, 384)
cut(talker, talker_before, talker_updates, 96)
whole = [evaluate(classifier, films, short).accuracy, polyglot.accuracy(talker, tokenizer, "tr")]
print("ranks kept                ", *(f"{r:5}" for r in kept_ranks), "  all")
for (task, shares), all_ranks in zip(skill.items(), whole):
    print(f"{task:27}", *(f"{share:5.0%}" for share in [*shares, all_ranks]))

# %% tags=["heavy"]
assert whole[0] - skill["films, on minilm-l6"][kept_ranks.index(8)] < 0.1
assert whole[1] - skill["Turkish, on polyglot-350k"][kept_ranks.index(8)] > 0.3

# %% tags=["nbval-ignore-output", "heavy"]
figures.show(
    figures.curves(
        kept_ranks[1:],
        {task: shares[1:] for task, shares in skill.items()},
        "What the model can still do with its update cut",
        "ranks kept of every update",
        "share of the test right",
    ),
    alt="Share of the test right over the ranks kept. Films: a guess with one rank, and from two on flat, as good as with all. Turkish: "
    "nothing up to four ranks, little with eight, and rising up to thirty-two and beyond.",
)

# %% [markdown]
# For the films two ranks are as good as all of them, though by squares they hold only a part of most updates. Turkish is another matter: with the
# weak ranks, the language goes. An update of high rank exists, and a far task makes it. (An update that was *trained* at a low rank need not be
# the full one cut down: training can look for another. Lesson 07 has that comparison.)
#
# ## A loss foretold
#
# ### 5. The floor
#
# {{rank-floor}}
#
# Here is a task whose rank is known, because you plant it. One linear layer is to become `W + update`, and an adapter of rank `r` is trained to do
# it. The inputs are independent with spread one, the loss is the mean square of what is wrong over all outputs. Write
# `rank_floor(update, r)`, the loss that no adapter of rank `r` can go below.


# %%
def rank_floor(update, r):
    """The least mean squared error of an adapter of rank r, where the outputs should change by `update` x."""
    ### BEGIN SOLUTION
    return torch.linalg.svdvals(update)[r:].square().sum() / update.shape[0]
    ### END SOLUTION


# %%
check("rank-floor", rank_floor)

# %%
d_in, d_out, planted = 48, 64, 6
draw = torch.Generator().manual_seed(0)
update = torch.randn(d_out, planted, generator=draw) @ torch.randn(planted, d_in, generator=draw) / 10
inputs = torch.linalg.qr(torch.randn(512, d_in, generator=draw))[0] * 512**0.5  # independent to the last digit
inputs = [{"x": x} for x in inputs]


def trained_loss(r):
    """The loss that LoRA of rank r comes to on the planted update."""
    torch.manual_seed(r)
    layer = nn.Sequential(nn.Linear(d_in, d_out, bias=False))
    target = layer[0].weight.detach().clone() + update
    pl.attach(layer, LoRA, ["0"], r=r, lora_alpha=r)

    def wrong(layer, batch):
        return (layer(batch["x"]) - batch["x"] @ target.T).square().mean()

    return train(layer, inputs, steps=250, lr=0.03, batch_size=512, loss=wrong, progress=False).losses[-1]


ranks = [1, 2, 3, 4, 5, 6, 7, 8, 10]
floors = [float(rank_floor(update, r)) for r in ranks]
reached = [trained_loss(r) for r in ranks]
for r, floor, loss in zip(ranks, floors, reached):
    print(f"rank {r:2}: foretold {floor:.4f}, trained {loss:.4f}")
    assert abs(loss - floor) < 0.002

# %%
figures.show(
    figures.lines(
        ranks,
        {"foretold": floors, "LoRA, trained": reached},
        "A planted update of rank six",
        "rank of the adapter",
        "loss",
    ),
    alt="The loss against the adapter's rank. The foretold and the trained line coincide: they fall to zero at rank six and stay there.",
)

# %% [markdown]
# Here the curve of loss against rank bends where it must, and training finds what the theorem allows. A real task has no such
# corner, because nobody planted one: you saw how its ranks thin out instead.
#
# ## The size of a task, whatever its shape
#
# Rank asks how many numbers an update needs *if* they come as columns and rows. One can ask without that.

# %%
predict("random-directions")

# %% [markdown]
# ### 6. A random subspace
#
# {{random-subspace}}
#
# Write `subspace(shapes, d, seed)`. `shapes` maps each parameter's name to its shape, $D$ numbers in all. It returns a function `move(z)`: from
# `d` numbers, the change of every parameter, a dict of names and tensors. `move` is linear, random, the same whenever the seed is the same, and a `z` of length one should change
# the model by a length of about one. One way that needs little memory: each parameter listens to one coordinate of `z`, with a random sign.


# %%
def subspace(shapes, d, seed):
    """A random linear map from z (d,) to {name: change}."""
    ### BEGIN SOLUTION
    draw = torch.Generator().manual_seed(seed)
    D = sum(torch.Size(shape).numel() for shape in shapes.values())
    listens = {name: torch.randint(d, shape, generator=draw) for name, shape in shapes.items()}
    factor = {n: (2 * torch.randint(2, s, generator=draw) - 1) * (d / D) ** 0.5 for n, s in shapes.items()}
    return lambda z: {name: factor[name] * z[listens[name]] for name in shapes}
    ### END SOLUTION


# %%
check("random-subspace", subspace)

# %% [markdown]
# ### 7. The intrinsic dimension
#
# {{d90}}
#
# Write `d90(scores, full)`: `scores` maps each `d` that was tried to the score it came to; `full` is the score of training everything. The
# smallest `d` that reaches nine tenths of `full`; `None` if none does.


# %%
def d90(scores, full):
    """The smallest d whose score is at least nine tenths of `full`, or None."""
    ### BEGIN SOLUTION
    return min((d for d, score in scores.items() if score >= 0.9 * full), default=None)
    ### END SOLUTION


# %%
check("d90", d90)

# %% [markdown]
# polyglot-350k knows Spanish. Untagged questions, which it answers in any of its languages, shall be answered in Spanish. `Moved` runs the
# frozen model with `move(z)` added to its weights, and `z` is all that is trained.

# %% tags=["nbval-ignore-output", "heavy"]
spanish = polyglot.dataset("es", tag=polyglot.UNTAGGED)


def learn_through(d):
    """The share of unseen numbers right, after training d numbers."""
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    moved = Moved(model, subspace({name: p.shape for name, p in model.named_parameters()}, d, seed=0), d)
    train(moved, spanish, answers(tokenizer), steps=60, lr=0.2, progress=False)
    return polyglot.accuracy(moved.settle(), tokenizer, "es", polyglot.UNTAGGED)


scores = {d: learn_through(d) for d in (4, 64, 256)}
model, tokenizer = pl.lab.load_base("polyglot-350k")
train(model.requires_grad_(True), spanish, answers(tokenizer), steps=60, lr=0.001, progress=False)
full = polyglot.accuracy(model, tokenizer, "es", polyglot.UNTAGGED)
for d, score in scores.items():
    print(f"{d:4} numbers trained: {score:.1%}")
print(f"all {sum(p.numel() for p in model.parameters()):,}:    {full:.1%}")
print("d90, of the three tried:", d90(scores, full))

# %% tags=["heavy"]
assert scores[4] < 0.9 * full <= 0.9
assert d90(scores, full) in (64, 256)

# %% [markdown]
# ## The recorded runs
#
# The same with more steps, more values of `d`, five seeds, and a second task: Italian, which the model has never seen. Each `d` has two learning rates, chosen between
# by the loss in training.

# %% tags=["nbval-ignore-output"]
runs = complete(records.load("random-subspace"))
runs["d"] = runs["d"].astype(str)
best = best_rates(runs, ["target", "d"], by="train_loss", lowest=True)
sizes = {}
for target, task in (("es", "Spanish, untagged"), ("it", "Italian")):
    of_task = best[best["target"] == target]
    means = {d: interval(rows["learnt"]) for d, rows in of_task.groupby("d")}
    tried = sorted(int(d) for d in means if d != "all")
    for d in [*tried, "all"]:
        mean, half = means[str(d)]
        print(f"{task:18} {d:>6} numbers: {mean:6.1%} ± {half:.1%}")
    sizes[task] = d90({d: means[str(d)][0] for d in tried}, means["all"][0])
for task, size in sizes.items():
    print(f"d90 of {task}: {size:,}" if size else f"d90 of {task}: not reached")
print(f"{runs['seed'].nunique()} seeds. {records.stamp(runs)}")

# %%
assert sizes["Spanish, untagged"] <= 256
assert sizes["Italian"] is None or sizes["Italian"] >= 16 * sizes["Spanish, untagged"]

# %% tags=["nbval-ignore-output"]
tried = sorted({int(d) for d in best["d"] if d != "all"})
points = {
    task: [
        interval(rows["learnt"]) if len(rows := best[(best["target"] == target) & (best["d"] == str(d))]) else None
        for d in tried
    ]
    for target, task in (("es", "Spanish, untagged"), ("it", "Italian"))
}
figures.show(
    figures.intervals(
        [f"{d:,}" for d in tried],
        points,
        "Training through d random directions",
        "d, numbers trained",
        "share of unseen numbers right",
    ),
    alt="Share of unseen numbers right over d, with intervals over five seeds. Spanish, which the model knows, rises to nearly all within "
    "dozens of directions; Italian, which it does not know, is at zero where Spanish is done, and climbs only through thousands.",
)

# %% [markdown]
# Same model, same number of steps; the tasks differ by what was there before. What a model knows is a matter of pointing, and a few blind directions can
# point. What is new has to be stored, and that takes numbers. The lessons to come meet this again and again: methods with few parameters call up, and do not teach.
#
# ### Spectra over seeds
#
# Your updates above were one run each. Recorded by `peftlab record spectra`: full fine-tuning, and LoRA trained at three ranks on all linear layers, with
# several seeds, where two learning rates were recorded at the lower. The singular values of each update, over its size, mean over the matrices of the model.

# %% tags=["nbval-ignore-output"]
spectra = records.load("spectra")
tasks = {"it": "Italian", "tr": "Turkish", "movies": "films"}
shown, needed = {}, {}
for (task, method), rows in spectra.groupby(["task", "method"], sort=False):
    rows = rows[rows["lr"] == rows["lr"].min()]
    values = torch.tensor(rows["spectrum"].tolist()).mean(0)
    shown[task, method] = values.where(values > 1e-4, torch.nan).tolist()
    needed[task, method] = interval(rows["ranks"])
    learnt, learnt_half = interval(rows["learnt"])
    print(f"{tasks[task]:8} {method:8} {len(rows)} seeds: {needed[task, method][0]:5.1f} ± {needed[task, method][1]:3.1f} ranks hold nine tenths; learnt {learnt:4.0%} ± {learnt_half:3.0%}")
print(records.stamp(spectra))

# %%
for task in tasks:
    assert needed[task, "full"][0] > 4 * needed[task, "lora-8"][0]
assert 6 < needed["tr", "lora-32"][0] < 10 and 6 < needed["it", "lora-32"][0] < 10, "about a quarter of the 32 ranks"

# %% tags=["nbval-ignore-output"]
figures.show(
    figures.lines(
        list(range(1, len(shown["tr", "full"]) + 1)),
        {
            f"{tasks[task]}, {method}": shown[task, method]
            for task, method in (("tr", "full"), ("tr", "lora-32"), ("tr", "lora-8"), ("movies", "full"), ("movies", "lora-8"))
        },
        "Singular values of what was trained",
        "place, the strongest first",
        "over the size of the update",
    ),
    alt="Singular values by place. With full fine-tuning they fall slowly and go on beyond place 32, on both models. With LoRA they begin higher and fall "
    "faster: rank 8 ends at place 8, and of rank 32 the later ones are small.",
)

# %% [markdown]
# The same task, learnt by LoRA, fills fewer ranks than it was given: at rank 32 about a quarter of them hold nine tenths. So is there one small set of
# directions that the task needs, and does every adapter find it? Then an adapter of rank 8 and one of rank 32, from different seeds, should listen to
# the same ones. Recorded for both languages by `peftlab record rank-overlap`: how much of the strongest directions of one lies in the strongest of the other, where 1 would be all.

# %% tags=["nbval-ignore-output"]
overlap = records.load("rank-overlap")
for name, what in (("overlap", "rank 8 and rank 32"), ("again", "rank 8 and another rank 8"), ("chance", "rank 8 and random directions")):
    print(f"{what:29}", *(f"the strongest {i}: {mean:.2f} ± {half:.2f} " for i in (1, 4, 8) for mean, half in [interval(overlap[f'{name}_{i}'])]))
print(records.stamp(overlap))

# %%
for i in (1, 4, 8):
    assert 1.5 * overlap[f"chance_{i}"].mean() < overlap[f"overlap_{i}"].mean() < 0.3
    assert overlap[f"again_{i}"].mean() < 0.3

# %% [markdown]
# More than chance, and far from the same. The LoRA paper found its strongest direction shared between ranks on GPT-3; here two
# adapters that both learnt the language share a tenth or so. (A trap on the way: with *one* seed for both, the first rows of `A` are drawn alike, and the
# overlap is there before anything was learnt.) A task does not fix *which* directions carry it; many sets do.
#
# ## The library
#
# An update of rank `r` *is* a LoRA: any `B` and `A` whose product it is. Cut the film updates to rank eight, put them into an adapter of `peft`, and its
# model should say what your cut weights say.

# %% tags=["heavy"]
import warnings

from peft import LoraConfig, get_peft_model

warnings.filterwarnings("ignore")
r = 8
base, _ = pl.lab.load_base("minilm-l6")
paths = [name.removeprefix("encoder.").removesuffix(".weight") for name in updates]
theirs = get_peft_model(base, LoraConfig(r=r, lora_alpha=r, target_modules=paths))
yours, _ = pl.lab.load_base("minilm-l6")
batch = encoder_tokenizer(films["text"][:16], padding=True, return_tensors="pt")
with torch.no_grad():
    for (name, update), path in zip(updates.items(), paths):
        U, S, Vh = torch.linalg.svd(update, full_matrices=False)
        layer = theirs.base_model.model.get_submodule(path)
        layer.lora_B["default"].weight.copy_(U[:, :r] * S[:r])
        layer.lora_A["default"].weight.copy_(Vh[:r])
        yours.get_parameter(f"{path}.weight").add_(keep_ranks(update, r))
    gap = (theirs.eval()(**batch)[0] - yours(**batch)[0]).abs().max().item()
print("peft's LoRA and your cut updates give the same vectors:", gap < 1e-4)
assert gap < 1e-4

# %% [markdown]
# ## Read the result
#
# **What it shows.** No matrix of rank `r` comes closer than the one you built, and where the update has rank `r` an adapter of that rank finds it. Real updates are
# lower in rank than random matrices everywhere, and low in rank near the output. Cut to two ranks or more, the film model does its work as before; the Turkish one does not.
#
# **What it does not show.** One run of each live experiment, on small models and after few steps; a longer training may fill more ranks. That a cut update works badly does not say that an
# adapter *trained* at that rank would. And `d90` depends on steps and learning rates: with other ones it moves.
#
# | claim | here |
# | --- | --- |
# | C7: *the product of two narrow matrices approximates the same information* | true as far as the update is near a low rank: so for the films, not so for Turkish |
#
# **A negative result, said aloud.** "Updates are low-rank" was not found in the first layers of minilm-l6: they need a large part of what a random
# matrix needs. Nor is there one set of directions that a task asks for: two adapters of the same task share little.
#
# ## Go further
#
# - Train the film model four times as long. Do the updates need more ranks, or fewer?
# - Plant two updates, in two layers one after the other. Where is the corner now?
# - An open question: can one tell from a task's data alone how many numbers it will need?
#
# Sources: Eckart and Young, Psychometrika 1936; LoRA, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685); random subspaces,
# [arXiv:1804.08838](https://arxiv.org/abs/1804.08838); intrinsic dimension of language models,
# [arXiv:2012.13255](https://arxiv.org/abs/2012.13255). Sentences and ratings: Hutto and Gilbert, ICWSM 2014. The photograph: US Navy, public domain, from matplotlib.
