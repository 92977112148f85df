# %% [markdown]
# # 02 Rank decomposition
#
# **85 minutes** of reading and doing, **60 seconds** of computing on two quiet cores. Before this: lesson 01.
#
# LoRA rests on one sentence: *what fine-tuning adds to a weight needs few numbers to write down.* After this page you will know what
# that says, and how far it holds. You will have built the best matrix of a given rank and failed to beat it, counted the ranks of a real
# update, predicted the loss that a low rank cannot go below, and trained a whole model through a few random directions.

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
# A column times a row is a matrix in which every row is a multiple of one row: its rank is one. It takes $d_{out} + d_{in}$ parameters to write
# and has $d_{out} d_{in}$ entries. A sum of $r$ of them has rank $r$ at most, and every matrix is such a sum. The singular value
# decomposition (SVD) finds the sum whose terms are in order of size:
#
# $$W = \sum_{i=1}^{\min(d_{out}, d_{in})} \sigma_i \, u_i v_i^\top$$
#
# - $W$ is a matrix of shape $(d_{out}, d_{in})$;
# - $u_i$, of $d_{out}$ entries, and $v_i$, of $d_{in}$, are its left and right **singular vectors**: $W$ turns the direction $v_i$ of the input
#   into the direction $u_i$ of the output. Each has norm one; all $v_i$ are orthogonal to one another, and so are all $u_i$;
# - $\sigma_i \ge 0$, the **singular values**, say how large each term is: $\sigma_1 \ge \sigma_2 \ge \dots$
#
# The root of the sum of the squares of all entries of a matrix is its **Frobenius norm**. Its square is also the sum of the squares of the singular
# values. So each term has a share of the squared norm, and the share of the first $r$ together is the **explained variance** of rank $r$.

# %% tags=["hide-source"]
draw = torch.Generator().manual_seed(1)
columns, rows = torch.randn(12, 2, generator=draw), torch.randn(2, 18, generator=draw)
one, other = (torch.outer(columns[:, i], rows[i]) for i in range(2))
figures.show(
    figures.matrices(
        {"rank one": one, "another": other, "their sum: rank two": one + other}, "Two terms and their sum"
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
# The first `r` terms of the sum are a **low-rank approximation** of `W`: a matrix of small rank in its place. This one is called its **truncated SVD**.
# Write `keep_ranks(W, r)`, which returns it, as a matrix of the shape of `W`. `r` goes from 0, nothing, to all there are.


# %%
def keep_ranks(W, r):
    """The truncated SVD of W: the sum of its first r terms."""
    ### BEGIN SOLUTION
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * S[:r] @ Vh[:r]
    ### END SOLUTION


# %%
check("keep-ranks", keep_ranks)

# %% [markdown]
# A photograph is a matrix too: each entry is how bright a point is. Here is Admiral Grace Hopper, who comes with the plotting library, at a
# few ranks. (Taking the mean off first leaves the SVD only what differs from an even grey.)

# %% tags=["hide-source"]
with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
    photo = Image.open(file).convert("L").crop((90, 60, 430, 400)).resize((128, 128))
    brightness = torch.tensor(list(photo.tobytes()), dtype=torch.float32).view(128, 128)
photo = brightness - brightness.mean()
figures.show(
    figures.photographs(
        {f"rank {r}": keep_ranks(photo, r) for r in (1, 4, 16, 48)} | {"all 128": photo},
        "One photograph, truncated",
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
# product nearest to `W`, so that the Frobenius norm of the difference is smallest? Write `best_B(W, A)`, of shape `(d_out, r)`.


# %%
def best_B(W, A):
    """The B for which the Frobenius norm of W - B A is smallest."""
    ### BEGIN SOLUTION
    return torch.linalg.lstsq(A.T, W.T).solution.T
    ### END SOLUTION


# %%
check("best-b", best_B)

# %% [markdown]
# Now you have an opponent. It begins with a random `A` and the best `B` for it; then it takes the best `A` for that `B`, which is the same problem
# transposed; and so on, better each time. The method is known as **alternating least squares**. Can it beat your truncated SVD?

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
print("the norm of what is left, over the norm of what keep_ranks leaves:")
for turn in (0, 1, 2, 5, 20, 200):
    print(f"after {turn:3} turns {tried[turn] / to_beat:.4f}")
assert min(tried.values()) >= to_beat * (1 - 1e-12), (
    "something came nearer to W than keep_ranks: look at what keep_ranks gives for r = 8"
)

# %% [markdown]
# It comes as near as it likes to 1, and never below. That is the theorem of Eckart and Young: **no matrix of rank r is closer to W than the
# truncated SVD.** So if an update is not close to *this* matrix, no LoRA of that rank can write it down.
#
# ### 3. How many ranks explain a share
#
# {{ranks-for}}
#
# Write `ranks_for(W, share)`: the smallest rank whose truncated SVD has an explained variance of at least `share`.


# %%
def ranks_for(W, share):
    """The smallest r for which keep_ranks(W, r) explains `share` of the variance of W."""
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
# A number of ranks says nothing alone. What does a matrix without any structure need? Write `random_like(W)`: independent normal numbers, as many rows
# and columns as `W`, multiplied by one factor so that its Frobenius norm is exactly that of `W`, in every draw.


# %%
def random_like(W):
    """A random matrix of W's shape and Frobenius norm, another one at each call."""
    ### BEGIN SOLUTION
    R = torch.randn_like(W)
    return R * W.norm() / R.norm()
    ### END SOLUTION


# %%
check("random-like", random_like)

# %% [markdown]
# ## Run it on a real model: what fine-tuning adds
#
# minilm-l6 learns whether a sentence on a film is praise or blame, by full fine-tuning. From each weight you take what it was before.

# %% tags=["nbval-ignore-output", "heavy"]
torch.manual_seed(0)
encoder, encoder_tokenizer = pl.lab.load_base("minilm-l6")
classifier = pl.lab.MeanPoolClassifier(encoder, num_labels=2).requires_grad_(True)
before = {name: p.detach().clone() for name, p in classifier.named_parameters()}

short = texts(encoder_tokenizer, max_length=32)
few = pl.lab.sentiment("movies", "train").select(range(256))
train(classifier, few, short, steps=48, lr=3e-4, batch_size=16)

updates = {
    name: p.detach() - before[name]
    for name, p in classifier.named_parameters()
    if ".layer." in name and p.dim() == 2
}

# %% tags=["nbval-ignore-output", "heavy"]
kinds = ["query", "key", "value", "attention.output.dense"]
kinds += ["intermediate.dense", "layer.{}.output.dense"]
counted = {kind: [] for kind in kinds}
for layer in range(6):
    for kind in kinds:
        end = f"{kind.format(layer)}.weight"
        name = next(n for n in updates if f"layer.{layer}." in n and end in n)
        control = random_like(updates[name])
        counted[kind].append((ranks_for(updates[name], 0.9), ranks_for(control, 0.9)))
print("ranks that explain 0.9 of the update / of a random matrix of its norm")
print(f"{'layer':24}", *(f"{layer:7}" for layer in range(1, 7)))
for kind, pairs in counted.items():
    line = (f"{mine:3}/{random:3}" for mine, random in pairs)
    print(f"{kind.replace('layer.{}.', ''):24}", *line)
in_last = sorted(pairs[5][0] for pairs in counted.values())
print(f"in the last layer from {in_last[0]} to {in_last[-1]}, of 384")

# %% tags=["heavy"]
assert all(mine < random for pairs in counted.values() for mine, random in pairs), (
    "an update needs as many ranks as a random matrix: look for its row above"
)
assert in_last[0] < 16 and in_last[-1] > 32, (
    "the last layer was to hold both a handful and dozens: look at its column above"
)
assert counted["intermediate.dense"][0][0] > 50, (
    "the first layer's intermediate.dense was to need many: look at its row above"
)

# %% tags=["nbval-ignore-output", "heavy", "hide-source"]
figures.show(
    figures.lines(
        list(range(1, 7)),
        {kind.replace("layer.{}.", ""): [mine / random for mine, random in pairs] for kind, pairs in counted.items()},
        "Ranks that explain nine tenths of the update, one run",
        "layer",
        "over those of a random matrix",
    ),
    alt="For six kinds of weight the number of ranks needed over that of a random matrix, by layer. In the first layer it is about half, "
    "or more; towards the last it falls, for the last layer's output to next to nothing, for its query to about a third.",
)

# %% [markdown]
# Every update needs fewer ranks than its control, so the sentence says something. But a handful is the exception: in the last layer, right under the
# question of praise or blame, some kinds of weight need a handful and others dozens. In the first layer, next to the words, an update takes from a
# quarter to half of the ranks there are.
#
# See what that looks like. The photograph, the last layer's update, the first layer's, and a random matrix, each at as many ranks as you like:

# %% tags=["nbval-ignore-output", "heavy"]
value = "encoder.encoder.layer.{}.attention.self.value.weight"
last, first = updates[value.format(5)], updates[value.format(0)]
originals = {
    "photograph": photo,
    "update of the last layer's value": last,
    "update of the first layer's value": first,
    "random matrix": random_like(last),
}
counts = [1, 2, 4, 8, 16, 32, 64, 128]
kept = {name: {r: keep_ranks(M, r) for r in counts} for name, M in originals.items()}
widgets.ranks_kept(originals, kept)

# %% [markdown]
# ### What the model loses with the small singular values
#
# Explained variance is not accuracy. So truncate every update to rank `r`, put the weights back together, and test the model.
# A second model learns beside it: polyglot-350k, Turkish, a language it has never seen, by full fine-tuning too. Only the updates of linear layers
# are truncated; at rank 0 what remains is what was learnt in embeddings, norms and heads.
#
# Mind what each accuracy is measured against. A film sentence is praise or blame: always giving the label that is more frequent in the test, the
# majority-class baseline, is right about every second time. A Turkish number has to be written without a wrong letter: guessing gives zero.

# %% tags=["nbval-ignore-output", "heavy"]
films = pl.lab.sentiment("movies", "test").select(range(300))
baseline = max(films["label"].count(0), films["label"].count(1)) / len(films)
talker, tokenizer = pl.lab.load_base("polyglot-350k")
talker_before = {name: p.detach().clone() for name, p in talker.named_parameters()}
turkish = polyglot.dataset("tr")
train(talker.requires_grad_(True), turkish, answers(tokenizer), steps=150, lr=0.001)
talker_updates = {
    name: p.detach() - talker_before[name]
    for name, p in talker.named_parameters()
    if "_proj" in name
}


@torch.no_grad()
def truncate(model, start, updates, r):
    """The model with each of these updates truncated to rank r."""
    for name, update in updates.items():
        model.get_parameter(name).copy_(start[name] + keep_ranks(update, r))


kept_ranks = [0, 1, 2, 4, 8, 16, 32, 64]
names = film_task, language_task = "films, on minilm-l6", "Turkish, on polyglot-350k"
accuracies = {name: [] for name in names}
for r in [*kept_ranks, None]:  # None: all there are
    truncate(classifier, before, updates, 384 if r is None else r)
    accuracies[film_task].append(evaluate(classifier, films, short).accuracy)
    truncate(talker, talker_before, talker_updates, 96 if r is None else r)
    accuracies[language_task].append(polyglot.accuracy(talker, tokenizer, "tr"))
print(f"{'rank':25}", *(f"{r:4}" for r in kept_ranks), " all")
for task, shares in accuracies.items():
    print(f"{task:25}", *(f"{share:4.0%}" for share in shares))
print(f"majority-class baseline of the films: {baseline:.1%}")
at_all = accuracies[film_task][-1]
standard_error = (at_all * (1 - at_all) / len(films)) ** 0.5
print(f"standard error of {at_all:.1%} on {len(films)} sentences: {standard_error:.1%}")

# %% tags=["heavy"]
at_8 = {task: shares[kept_ranks.index(8)] for task, shares in accuracies.items()}
assert accuracies[film_task][-1] - at_8[film_task] < 0.1, (
    "films at rank 8 were to be as good as at all ranks: look at their row above"
)
assert accuracies[language_task][-1] - at_8[language_task] > 0.3, (
    "Turkish at rank 8 was to be far below all ranks: look at its row above"
)

# %% tags=["nbval-ignore-output", "heavy", "hide-source"]
figures.show(
    figures.curves(
        kept_ranks[1:],
        {task: shares[1:-1] for task, shares in accuracies.items()},
        "Full fine-tuning, its updates truncated, one run each",
        "rank of every update",
        "accuracy on the test",
        levels={"majority-class baseline, films": baseline},
    ),
    alt="Accuracy over the rank of every update, for films and Turkish, with a dotted line for the majority-class baseline of the films at about a half. Films: near the line with one rank, and from "
    "two on about as good as with all. Turkish: nothing up to four ranks, little with eight, and rising up to thirty-two and beyond.",
)

# %% [markdown]
# For the films a few ranks do as well as all of them, though they explain only a part of most updates. Turkish goes when the small singular values go: eight ranks keep little of it, and it takes
# dozens. So an update of full fine-tuning can be of high rank and need it, and explained variance does not say whether it does.
#
# But mind how little the films had to lose: all that was learnt lies between the baseline and what all ranks reach, and the standard error printed above says how far apart two points of that curve must
# be before they differ. The two models differ in more than their task, too: width, training, what is tested. This is one run of each. It says that both cases exist, not which tasks make which.
#
# And an update that was *trained* at a low rank need not be the full one truncated: training can look for another. Below, LoRA of rank 8 does.
#
# ## A loss predicted
#
# ### 5. The floor
#
# {{rank-floor}}
#
# Here is a task whose rank is known, because you plant it. One linear layer is to become `W + update`, and an adapter of rank `r` is trained to do
# it. The entries of the input are independent of one another, with mean zero and a **standard deviation** of one: the root of the mean squared distance from the
# mean. The loss is the mean squared error over all outputs. Write `rank_floor(update, r)`, the loss that no adapter of rank `r` can go below.


# %%
def rank_floor(update, r):
    """The least loss at rank r, where the outputs should change by `update` x."""
    ### BEGIN SOLUTION
    return torch.linalg.svdvals(update)[r:].square().sum() / update.shape[0]
    ### END SOLUTION


# %%
check("rank-floor", rank_floor)

# %%
d_in, d_out, planted = 48, 64, 6
draw = torch.Generator().manual_seed(0)
update = torch.randn(d_out, planted, generator=draw)
update = update @ torch.randn(planted, d_in, generator=draw) / 10
independent = torch.linalg.qr(torch.randn(512, d_in, generator=draw))[0]
independent *= 512**0.5  # 512 inputs, uncorrelated to the last digit, mean square 1


def trained_loss(r, inputs):
    """The loss that LoRA of rank r comes to on the planted update; inputs: (n, d_in)."""
    torch.manual_seed(r)
    layer = nn.Sequential(nn.Linear(d_in, d_out, bias=False))
    target = layer[0].weight.detach().clone() + update
    pl.attach(layer, LoRA, ["0"], r=r, lora_alpha=r)

    def error(layer, batch):
        return (layer(batch["x"]) - batch["x"] @ target.T).square().mean()

    rows, how = [{"x": x} for x in inputs], {"loss": error, "progress": False}
    return train(layer, rows, steps=250, lr=0.03, batch_size=len(rows), **how).losses[-1]


ranks = [1, 2, 3, 4, 5, 6, 7, 8]
floors = [float(rank_floor(update, r)) for r in ranks]
reached = [trained_loss(r, independent) for r in ranks]
for r, floor, loss in zip(ranks, floors, reached):
    print(f"rank {r}: predicted {floor:.3f}, trained {loss:.3f}")
    assert abs(loss - floor) < 0.002, f"rank {r}: prediction and training were to agree"

# %% [markdown]
# The curve falls to zero at the planted rank, and training finds what the theorem allows.
#
# The prediction stands on one condition, though: independent inputs of equal standard deviation. Inputs of a real layer are neither. Mix the same inputs, so that they
# depend on one another, and keep their mean square at one. Before you run the cell: will training stop at your floor, above it, or below?

# %% tags=["nbval-ignore-output"]
mixing = torch.randn(d_in, d_in, generator=draw)
mixing *= d_in**0.5 / mixing.norm()  # keeps the mean square of the inputs
dependent = independent @ mixing.T
for inputs in (independent, dependent):
    print(f"mean square of the inputs: {inputs.square().mean():.3f}")
floors_mixed = [float(rank_floor(update @ mixing, r)) for r in ranks]
reached_mixed = [trained_loss(r, dependent) for r in ranks]
print("dependent inputs   floor of update   floor of update @ mixing   trained")
for r, old, new, loss in zip(ranks, floors, floors_mixed, reached_mixed):
    print(f"rank {r}:  {old:22.2f} {new:22.2f} {loss:16.2f}")
    assert abs(loss - new) < 0.005, f"rank {r}: compare the last two columns"
assert all(loss < old for old, loss in zip(floors[:5], reached_mixed)), (
    "training was to go below the floor of the update alone: compare the columns"
)

# %% tags=["hide-source"]
figures.show(
    figures.lines(
        ranks,
        {
            "independent inputs: predicted": floors,
            "independent inputs: trained": reached,
            "dependent inputs: predicted": floors_mixed,
            "dependent inputs: trained": reached_mixed,
        },
        "A planted update of rank six",
        "rank of the adapter",
        "mean squared error",
        points=("independent inputs: trained", "dependent inputs: trained"),
    ),
    alt="The loss against the adapter's rank: two falling lines, predicted, with the trained losses as open markers on them. Both reach zero at rank six. "
    "The line for dependent inputs lies below that for independent ones at every rank before.",
)

# %% [markdown]
# Below, with this mixing: a rank can be spent on the directions in which the inputs are large, and errors in directions that hardly occur cost little. What counts is the spectrum of the
# update *times the root of the inputs' covariance*, here `update @ mixing`; only for independent inputs of equal standard deviation is that the spectrum of the update. Your
# function holds in both cases, given the right matrix. The spectra on this page are those of updates alone: they say how well a low rank writes the *matrix*, and only
# roughly how well it does the matrix's *work*. And a real task has no such corner at one rank, because nobody planted it.
#
# ## The size of a task, whatever its shape
#
# Rank asks how many parameters an update needs *if* they come as columns and rows. One can ask without that.

# %%
predict("random-directions")

# %% [markdown]
# ### 6. A random subspace
#
# {{random-subspace}}
#
# Write `subspace(shapes, d, seed)`. `shapes` maps each parameter's name to its shape, $D$ entries in all. It returns a function `move(z)`: from
# `d` numbers, the change of every parameter, a dict of names and tensors. `move` is linear, random, the same whenever the seed is the same, and a `z` of norm one should change
# the model by a vector of norm about one: all its parameters together, not each tensor. One way that needs little memory: each parameter listens to one coordinate of `z`, with a random sign.


# %%
def subspace(shapes, d, seed):
    """A random linear map from z (d,) to {name: change}."""
    ### BEGIN SOLUTION
    draw = torch.Generator().manual_seed(seed)
    D = sum(torch.Size(shape).numel() for shape in shapes.values())
    listens = {n: torch.randint(d, shape, generator=draw) for n, shape in shapes.items()}
    signs = {n: 2 * torch.randint(2, s, generator=draw) - 1 for n, s in shapes.items()}
    return lambda z: {n: (d / D) ** 0.5 * signs[n] * z[listens[n]] for n in shapes}
    ### END SOLUTION


# %%
check("random-subspace", subspace)

# %% [markdown]
# ### 7. The intrinsic dimension
#
# {{d90}}
#
# How many directions does a task need? The smallest `d` that reaches a stated share of what full fine-tuning reaches is called its **intrinsic dimension**; at nine tenths,
# `d90`. Write `d90(scores, full)`: `scores` maps each `d` that was tried to the accuracy it came to; `full` is the accuracy of full fine-tuning. `None` if no `d` reaches nine tenths of it.


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
    """The accuracy on unseen numbers, after training along d random directions."""
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    shapes = {name: p.shape for name, p in model.named_parameters()}
    moved = Moved(model, subspace(shapes, d, seed=0), d)
    train(moved, spanish, answers(tokenizer), steps=60, lr=0.2, progress=False)
    return polyglot.accuracy(moved.settle(), tokenizer, "es", polyglot.UNTAGGED)


model, tokenizer = pl.lab.load_base("polyglot-350k")
untouched = polyglot.accuracy(model, tokenizer, "es", polyglot.UNTAGGED)
scores = {d: learn_through(d) for d in (4, 64, 256)}
everything = model.requires_grad_(True)
train(everything, spanish, answers(tokenizer), steps=60, lr=0.001, progress=False)
full = polyglot.accuracy(model, tokenizer, "es", polyglot.UNTAGGED)
print(f"untouched: {untouched:.1%}")
for d, score in scores.items():
    print(f"{d:4} directions: {score:.1%}")
print(f"all {sum(p.numel() for p in model.parameters()):,} parameters: {full:.1%}")
print("d90, of the three tried:", d90(scores, full))

# %% tags=["heavy"]
assert untouched < scores[4] < 0.9 * full <= 0.9, (
    "4 directions were to help a little and not be enough: look at their line above"
)
assert d90(scores, full) in (64, 256), "64 or 256 directions were to be enough"

# %% [markdown]
# ## The recorded runs
#
# The same with more steps, more values of `d`, five seeds, and a second task: Italian, which the model has never seen. Each `d` was trained at two learning rates, and the
# one with the lower training loss counts. Two rates are no sweep; with more, a smaller `d` might do. Here and below, the number after ± is half the width of a 95 % confidence interval of the mean over
# the seeds (Student's t): of intervals made like this, 95 % hold the true mean.

# %% tags=["nbval-ignore-output"]
runs = complete(records.load("random-subspace"))
runs["d"] = runs["d"].astype(str)
best = best_rates(runs, ["target", "d"], by="train_loss", lowest=True)
sizes, seed_by_seed = {}, {}
for target, task in (("es", "Spanish, untagged"), ("it", "Italian")):
    of_task = best[best["target"] == target]
    means = {d: interval(rows["learnt"]) for d, rows in of_task.groupby("d")}
    tried = sorted(int(d) for d in means if d != "all")
    for d in [*tried, "all"]:
        mean, half = means[str(d)]  # half of the 95 % interval
        print(f"{task:18} d = {d:>6}: {mean:6.1%} ± {half:.1%}")
    sizes[task] = d90({d: means[str(d)][0] for d in tried}, means["all"][0])
    single = [rows.set_index("d")["learnt"] for _, rows in of_task.groupby("seed")]
    seed_by_seed[task] = [
        d90({d: scores[str(d)] for d in tried}, scores["all"]) for scores in single
    ]
for task, size in sizes.items():
    print(f"d90 of {task}: {size:,}; of each seed alone: {sorted(seed_by_seed[task])}")
print(f"{runs['seed'].nunique()} seeds. {records.stamp(runs)}")

# %%
assert max(seed_by_seed["Spanish, untagged"]) <= 256, "Spanish: look at d90 of each seed"
assert min(seed_by_seed["Italian"]) >= 16 * max(seed_by_seed["Spanish, untagged"]), (
    "every seed was to need at least 16 times as many directions for Italian"
)

# %% tags=["nbval-ignore-output", "hide-source"]
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
        f"Training through d random directions, {runs['seed'].nunique()} seeds",
        "d, trainable parameters",
        "accuracy on unseen numbers",
    ),
    alt="Accuracy on unseen numbers over d, with 95 % intervals over the seeds. Spanish, which the model knows, rises to nearly all within "
    "dozens of directions; Italian, which it does not know, is at zero where Spanish is done, and climbs only through thousands.",
)

# %% [markdown]
# Same model, same number of steps; the tasks differ by what was there before. What a model knows is a matter of pointing, and a few *random* directions can
# point. What is new takes thousands of them. (The values of `d` lie a factor of four apart, so each d90 is known to that factor only. The mean of 4,096 directions just misses the mark for
# Italian, and single seeds fall on either side of it, as the last line says.) Directions that are *chosen* are another matter: below, LoRA of rank 1 learns Italian to
# 81 %. So do not read this as "few parameters can call up and cannot teach".
#
# ### Spectra over seeds
#
# Your updates above were one run each. Recorded by `peftlab record spectra`, five seeds each: full fine-tuning, and LoRA at three ranks on all linear layers, at every learning rate
# that was recorded. Read the last column first: an update that did not learn its task says nothing about what the task needs. Beside the ranks of an update stands
# its control: a product of two random matrices, of the same rank.

# %% tags=["nbval-ignore-output"]
spectra = records.load("spectra")
tasks = {"it": "Italian", "tr": "Turkish", "movies": "films"}
torch.manual_seed(0)
random_product = {}
for r in (8, 32):
    drawn = [ranks_for(torch.randn(96, r) @ torch.randn(r, 96), 0.9) for _ in range(6)]
    random_product[r] = sum(drawn) / len(drawn)
    print(f"random B A of rank {r:2}: {random_product[r]:4.1f} ranks explain 0.9")
shown, needed, learnt = {}, {}, {}
for (task, method, lr), rows in spectra.groupby(["task", "method", "lr"], sort=False):
    values = torch.tensor(rows["spectrum"].tolist()).mean(0)
    shown[task, method, lr] = values.where(values > 1e-4, torch.nan).tolist()
    needed[task, method, lr] = interval(rows["ranks"])
    learnt[task, method, lr] = interval(rows["learnt"])
best_of = {task: max(learnt[k][0] for k in learnt if k[0] == task) for task in tasks}
for (task, method, lr), (ranks_mean, ranks_half) in needed.items():
    mean, half = learnt[task, method, lr]
    failed = "  failed" if mean < best_of[task] / 2 else ""
    told = f"{tasks[task]:8} {method:8} lr {lr:<6g}"
    told += f" {ranks_mean:5.1f} ± {ranks_half:3.1f} ranks"
    print(f"{told}   accuracy {mean:4.0%} ± {half:3.0%}{failed}")
print("failed: less than half of the best accuracy on that task")
print(f"{spectra['seed'].nunique()} seeds. {records.stamp(spectra)}")

# %%
for rows in (("it", "full", 0.001), ("tr", "full", 0.003), ("movies", "full", 0.0003)):
    narrow = needed[rows[0], "lora-8", {"movies": 0.003}.get(rows[0], 0.01)]
    assert needed[rows][0] > 4 * narrow[0], f"{rows}: compare its ranks with lora-8's"
for r, rows in ((8, ("it", "lora-8", 0.01)), (32, ("it", "lora-32", 0.01))):
    assert learnt[rows][0] > 0.9, f"{rows} was to have learnt Italian"
    assert needed[rows][0] < 0.7 * random_product[r], f"{rows}: compare with random B A"
assert learnt["tr", "lora-8", 0.01][0] > 2 * learnt["tr", "lora-8", 0.003][0], (
    "the learning rate was to decide Turkish at rank 8: look at its two lines"
)

# %% tags=["nbval-ignore-output", "hide-source"]
chosen = {
    "Italian, full": ("it", "full", 0.001),
    "Italian, LoRA r = 32": ("it", "lora-32", 0.01),
    "Italian, LoRA r = 8": ("it", "lora-8", 0.01),
    "films, full": ("movies", "full", 0.0003),
    "films, LoRA r = 8": ("movies", "lora-8", 0.003),
}
figures.show(
    figures.lines(
        list(range(1, len(shown["it", "full", 0.001]) + 1)),
        {name: shown[key] for name, key in chosen.items()},
        "Singular values of updates that learnt their task",
        "number of the singular value, largest first",
        "over the Frobenius norm",
        marks=16,
    ),
    alt="Singular values in order. With full fine-tuning they fall slowly and go on beyond number 32, on both models. With LoRA they begin higher and fall "
    "faster: at rank 8 they end at number 8, and at rank 32 the later ones are small.",
)

# %% [markdown]
# Take the rows that learnt. Italian by full fine-tuning spreads over some twenty ranks; the same task, learnt nearly as well by LoRA, takes about half of the eight it was given, or a quarter
# of the 32, and a random product of those ranks takes well more. So a low-rank update can do what a full one does, and is *not* the full one truncated.
#
# Now Turkish at rank 8. At the lower rate it has failed, and one would say: rank 8 is too little for Turkish. At the higher rate the same rank learns it to more than half. **Before you blame
# the rank, look at the learning rate.** LoRA of rank 32 was recorded at one rate, and so was rank 1, and neither learnt Turkish with it. What a better rate would give them, these runs do not say.
#
# ### The same directions?
#
# Is there one small set of directions that a task needs, and does every adapter find it? Then an adapter of rank 8 and one of rank 32, from different seeds, should have
# the same strongest right singular vectors. Recorded by `peftlab record rank-overlap`: how much of the first singular vectors of one lies in the first of the other, where 1
# would be all. Only Italian counts here: trained like this, both ranks learn it (lora-8 and lora-32 at lr 0.01, above), and of Turkish rank 32 does not.

# %% tags=["nbval-ignore-output"]
overlap = records.load("rank-overlap")
overlap = overlap[overlap["task"] == "it"]
print("share of the first i singular vectors of rank 8 that lies in the first i of:")
beside = {"overlap": "rank 32", "again": "another rank 8", "chance": "random directions"}
for name, what in beside.items():
    found = [(i, *interval(overlap[f"{name}_{i}"])) for i in (1, 4, 8)]
    print(f"{what:18}", *(f"i = {i}: {m:.2f} ± {half:.2f}  " for i, m, half in found))
print(f"{overlap['seed'].nunique()} seeds. {records.stamp(overlap)}")

# %%
for i in (1, 4, 8):
    means = {name: overlap[f"{name}_{i}"].mean() for name in beside}
    assert 1.5 * means["chance"] < means["overlap"] < 0.3, f"i = {i}: look at its column"
    assert means["again"] < 0.3, f"i = {i}: look at its column"

# %% [markdown]
# More than chance, and far from the same. The LoRA paper found its strongest direction shared between ranks on GPT-3; here two
# adapters that both learnt Italian share a tenth or so. (A trap on the way: with *one* seed for both, the first rows of `A` are drawn alike, and the
# overlap is there before anything was learnt.) A task does not fix *which* directions carry it; many sets do.
#
# ## The library
#
# An update of rank `r` *is* a LoRA: any `B` and `A` whose product it is. Truncate the film updates to rank eight, put them into an adapter of `peft`, and its
# model should say what your truncated weights say.

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
    base, _ = pl.lab.load_base("minilm-l6")
    control = (base(**batch)[0] - yours(**batch)[0]).abs().max().item()
print("peft's LoRA and your truncated updates give the same vectors:", gap < 1e-4)
print("and the untouched model gives others:", control > 1e-2)
assert gap < 1e-4, f"the vectors differ by {gap}: look at keep_ranks"
assert control > 1e-2, "the updates change nothing: the comparison shows nothing"

# %% [markdown]
# ## Read the result
#
# **What it shows.** No matrix of rank `r` comes closer than the truncated SVD. Where the update has rank `r`, and the inputs are independent, an adapter of that rank finds it. Updates of full fine-tuning are
# lower in rank than random matrices everywhere, and low in rank in parts of the last layer. At rank eight the film model does its work as before and the Turkish one does not.
#
# **What it does not show.** Live it was one run of each, on small models and after few steps; a longer training may fill more ranks. That a truncated update works badly does not say that an
# adapter *trained* at that rank would work badly too: at the higher rate LoRA of rank 8 learnt most of Turkish. And `d90` depends on steps and learning rates: with other ones it moves.
#
# | claim | here |
# | --- | --- |
# | "The product of two narrow matrices approximates the same information" (C7) | true as far as the update is near a low rank: so for the films, not so for Turkish. A product that is *trained* need not approximate the full update to learn the task |
#
# **Negative results, said aloud.** "Updates are low-rank" was not found in the first layers of minilm-l6: they need from a quarter to half of the ranks there are. Nor is there one set of directions that a
# task asks for: two adapters of the same task share little.
#
# ## Go further
#
# - Train the film model four times as long. Do the updates need more ranks, or fewer?
# - Multiply the updates above by the root of the covariance of their layer's inputs, as in the floor. Do they need fewer ranks then?
# - An open question: can one tell from a task's data alone how many parameters it will need?
#
# Sources: Eckart and Young, Psychometrika 1936; LoRA, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685); random subspaces,
# [arXiv:1804.08838](https://arxiv.org/abs/1804.08838); intrinsic dimension of language models,
# [arXiv:2012.13255](https://arxiv.org/abs/2012.13255). Sentences and ratings: Hutto and Gilbert, ICWSM 2014. The photograph: US Navy, public domain, from matplotlib.

# %% [markdown] tags=["written"]
# ## In your own words
#
# You cut two updates down to rank eight. What became of the films, what of Turkish, and could you have known it from the explained
# variance? Give your explanation in a sentence. Which further run, with which result, would show you that it is wrong?
