# %% [markdown]
# # 09 Forgetting
#
# **105 minutes** of reading and doing, **60 seconds** of computing on two quiet cores. Before this: lesson 03; lessons 06 and 07
# say what prompts and biases are. Terms: the [glossary](../docs/glossary.md).
#
# After this page you will be able to say what fine-tuning took from a model, and not only what it gave. You will have built seven
# functions that measure it, each tried first where the answer is known, and used them on three models. And you will know what the
# sentence "the base is frozen, so nothing is forgotten" takes for granted.

# %%
import pandas as pd
import torch

import peftlab as pl
from peftlab.classroom import check, predict
from peftlab.lab import figures, polyglot, probes, records, widgets
from peftlab.lab.forgetting import switched_off, text_loss
from peftlab.lab.sweeps import best_rates, complete, interval
from peftlab.lab.training import answers, texts, train
from peftlab.methods import BitFit, LoRA, PiSSA, PromptTuning

# %% [markdown]
# ## Predict

# %%
predict("forgetting-frozen")

# %% [markdown]
# ## The idea
#
# What a model could do and can't any more, because it was trained on something else, it has forgotten; where that is most of it, papers
# speak of **catastrophic forgetting**. Learning several tasks one after another is **continual learning**.
#
# A model learns tasks one after another. After each, test it on all of them, and write the results into a row. The whole is a matrix $R$,
# and one number sums it up, the **backward transfer**:
#
# $$\mathrm{BWT} = \frac{1}{T-1} \sum_{j=1}^{T-1} \left( R_{T,j} - R_{j,j} \right)$$
#
# - $R_{i,j}$ is how well task $j$ is done after learning task $i$;
# - $T$ is the number of tasks, so $R_{T,j}$ is what is left of task $j$ at the end;
# - $R_{j,j}$, on the diagonal, is task $j$ just after it was learnt.
#
# Below zero, learning has cost skill; above, it has helped. Its relative, the **average forgetting**, compares the end with the *best* that a
# task ever was before the last one was learnt, $\max_{i<T} R_{i,j} - R_{T,j}$, and counts a loss as positive. The same idea serves for
# what the model could do before any of it.

# %% tags=["hide-source"]
invented = torch.tensor([[0.9, 0.1, 0.0], [0.4, 0.8, 0.2], [0.3, 0.6, 0.7]])
figures.show(
    figures.table(
        invented,
        ["after task 1", "after task 2", "after task 3"],
        ["task 1", "task 2", "task 3"],
        "A matrix to be read (invented)",
        "accuracy",
    ),
    alt="An invented matrix of three rows, one after each task, and three columns, one for each task. Down the first column: 0.90 just after task 1 was "
    "learnt, then 0.40, then 0.30 at the end. On the diagonal 0.90, 0.80 and 0.70.",
)

# %% [markdown]
# Read a column downwards: task 1 went from 0.9, just learnt, to 0.3 at the end. Above the diagonal stands what a task scores before anybody taught it.
#
# ## Build it
#
# ### 1. The matrix
#
# {{forgetting-matrix}}
#
# Write `forgetting_matrix(model, tasks, learn, test)`. `learn(model, task)` changes the model that it gets, and returns nothing;
# `test(model, task)` gives a number. The result is a list of rows, one for each task in the order they are learnt, and in each row the
# tests of *all* tasks. One model learns them all: the one that you are given.


# %%
def forgetting_matrix(model, tasks, learn, test):
    """R[i][j]: how well task j is done after learning task i."""
    ### BEGIN SOLUTION
    R = []
    for task in tasks:
        learn(model, task)
        R.append([test(model, other) for other in tasks])
    return R
    ### END SOLUTION


# %%
check("forgetting-matrix", forgetting_matrix)

# %% [markdown]
# ### 2. Backward transfer
#
# {{backward-transfer}}
#
# Write `backward_transfer(R)`, for `R` as a list of rows.


# %%
def backward_transfer(R):
    """Mean over all tasks but the last: at the end, less just after it was learnt."""
    ### BEGIN SOLUTION
    last = len(R) - 1
    return sum(R[last][j] - R[j][j] for j in range(last)) / last
    ### END SOLUTION


# %%
check("backward-transfer", backward_transfer)

# %% [markdown]
# ## Run it on a real model: three languages in a row
#
# polyglot-350k writes numbers as words. A question begins with a *tag* that names the language, `<it>342=`, and the **accuracy** is the
# share of 200 unseen numbers written without a wrong letter. First the measure where the answer is known: a model that learns nothing, on
# two languages that it knows.


# %% tags=["heavy"]
def test_language(model, language):
    return polyglot.accuracy(model, tokenizer, language)


def matrix_of(model, tasks, learn, test):
    """Your matrix, as a list of lists of plain numbers."""
    return torch.as_tensor(forgetting_matrix(model, tasks, learn, test)).tolist()


untouched, tokenizer = pl.lab.load_base("polyglot-350k")
R = matrix_of(untouched, ["en", "es"], lambda m, t: None, test_language)
print(f"{len(polyglot.dataset('en', 'test'))} unseen numbers; ", end="")
print(f"a model that learns nothing: backward transfer {backward_transfer(R):+.3f}")
assert R[0] == R[1] and backward_transfer(R) == 0, "nothing learnt, nothing lost"

# %% [markdown]
# Now it learns Italian, then Portuguese, then Catalan, in three ways: all its weights; one LoRA for all three, which goes on
# learning; and one LoRA for each, with somebody who says which is asked for. Before you run it: write down the sign of each of the
# three numbers.

# %% tags=["nbval-ignore-output", "heavy"]
languages = ["it", "pt", "ca"]


def learn_language(model, language, lr):
    how = {"steps": 80, "lr": lr, "batch_size": 32, "progress": False}
    train(model, polyglot.dataset(language), answers(tokenizer), **how)


def learn_apart(model, language):
    torch.manual_seed(0)
    pl.attach(model, LoRA, "all-linear", name=language, r=8, lora_alpha=16)
    learn_language(model, language, lr=0.01)


def test_apart(model, language):
    """With the task known: its adapter, and the bare model where there is none yet."""
    pl.use(model, *([language] if language in model.switch.recipe else []))
    return test_language(model, language)


matrices = {}
model, tokenizer = pl.lab.load_base("polyglot-350k")
model.requires_grad_(True)
matrices["all weights"] = matrix_of(
    model, languages, lambda m, t: learn_language(m, t, 0.001), test_language
)
shared, _ = pl.lab.load_base("polyglot-350k")
torch.manual_seed(0)
pl.attach(shared, LoRA, "all-linear", r=8, lora_alpha=16)
matrices["one LoRA"] = matrix_of(
    shared, languages, lambda m, t: learn_language(m, t, 0.01), test_language
)
apart, _ = pl.lab.load_base("polyglot-350k")
matrices["a LoRA each"] = matrix_of(apart, languages, learn_apart, test_apart)

for name, R in matrices.items():
    print(f"{name:12} backward transfer {backward_transfer(R):+.3f}")
    for language, row in zip(languages, R):
        print(
            f"  after {polyglot.LANGUAGES[language]:11}",
            *(f"{value:6.1%}" for value in row),
        )

# %% tags=["heavy"]
for name, R in matrices.items():
    taught = min(R[j][j] for j in range(3))
    assert taught > 0.8, (
        f"{name}: each language has to be learnt, or none can be lost: {taught}"
    )
assert backward_transfer(matrices["all weights"]) < -0.3, (
    "all weights: something must be lost"
)
assert backward_transfer(matrices["one LoRA"]) < -0.3, "one LoRA: something must be lost"
assert backward_transfer(matrices["a LoRA each"]) == 0, "a LoRA each: exactly zero"

# %% tags=["nbval-ignore-output", "heavy", "hide-source"]
rows = [f"{name}, after {language}" for name in matrices for language in languages]
figures.show(
    figures.table(
        torch.tensor([row for R in matrices.values() for row in R]),
        rows,
        [polyglot.LANGUAGES[language] for language in languages],
        "Your forgetting matrices",
        "accuracy on unseen numbers",
    ),
    alt="Three forgetting matrices of three languages. With all weights, and with one LoRA that goes on learning, each new "
    "language wipes out most of the one before. With a LoRA for each language every column stays what it was on the diagonal.",
)

# %% [markdown]
# The third number is zero, and not about zero: no bit of an adapter changes when another is trained. It is zero *by construction*,
# as long as somebody names the task. With the task named this is called **task-incremental learning**. Where nobody names it, it is
# **class-incremental learning**, and exercise 6 comes to that.
#
# The other two rows show it all: a LoRA that goes on learning forgets as all weights do, frozen base or not. And look at the diagonal first,
# always. What learns nothing forgets nothing: a number for what was lost means little without the number for what was learnt.
#
# ## A measure, and the measure under test
#
# ### 3. What was lost
#
# {{what-was-lost}}
#
# Questions that a model could answer before, and can answer after: two lists of `True` and `False`. Write `lost(before, after)`, the share of
# those it could answer which it can't any more; 0 if it could answer none.


# %%
def lost(before, after):
    """Of what was answered before, the share that is not any more."""
    ### BEGIN SOLUTION
    known = [now for then, now in zip(before, after) if then]
    return known.count(False) / len(known) if known else 0.0
    ### END SOLUTION


# %%
check("what-was-lost", lost)

# %% [markdown]
# Before a measure is believed, it is tried where the answer is known. A model that nobody touched has forgotten nothing. Nor has one with a fresh
# LoRA, whose `B` is zero. A model with its weights shuffled has forgotten all. And a fresh *prompt*, trained on nothing at all?


# %%
def english(model):
    """Which of the unseen numbers the model writes in English without a wrong letter."""
    data = polyglot.dataset("en", "test")
    said = polyglot.ask(model, tokenizer, data["prompt"])
    return [written == answer for written, answer in zip(said, data["answer"])]


def touched(how):
    model, _ = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(0)
    how(model)
    return model


def shuffle(model):
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.flatten()[torch.randperm(p.numel())].view_as(p))


_, tokenizer = pl.lab.load_base("polyglot-350k")
could = english(touched(lambda m: None))
known_answer = {
    "untouched": lambda m: None,
    "a fresh LoRA": lambda m: pl.attach(m, LoRA, "all-linear", r=8),
    "weights shuffled": shuffle,
    "a fresh prompt of random vectors": lambda m: pl.attach(
        m, PromptTuning, num_virtual_tokens=10
    ),
}
tested = {
    name: float(lost(could, english(touched(how)))) for name, how in known_answer.items()
}
for name, share in tested.items():
    print(f"{name:33} lost {share:6.1%} of the English numbers")
assert tested["untouched"] == tested["a fresh LoRA"] == 0, "nothing changed, nothing lost"
assert tested["weights shuffled"] > 0.99, "nothing of the model is left"
assert tested["a fresh prompt of random vectors"] > 0.5, "untrained, and it costs a lot"

# %% [markdown]
# That is the trap of a baseline. If one measures "before" *with the adapter already in place*, then whatever the fresh prompt costs
# is counted as the model's own, and the difference can come out as a gain. The base has to be measured with the adapter *off*.
#
# And switched off again, after all that training? Your shared LoRA, on and off:

# %% tags=["nbval-ignore-output", "heavy"]
on = lost(could, english(shared))
with switched_off(shared):
    off = lost(could, english(shared))
print(f"the LoRA of three languages: on, it lost {on:.1%} of English; off, {off:.1%}")
assert off == 0, "off, the base answers as it did"
assert on > 0.5, (
    "on, most of the English is gone; if not, was it `shared` itself that learnt?"
)

# %% [markdown]
# ### 4. The loss on plain text
#
# {{shifted-loss}}
#
# For a model that writes prose, what it may lose is measured as the **cross-entropy** on text that has nothing to do with the task. Write
# `next_token_loss(logits, ids, mask)`: `logits` is `(n, t, vocabulary)`, `ids` and `mask` are `(n, t)`, and the mask, of whole numbers, is 0 on
# padding, which is on the right. Mean over all tokens that are predicted.


# %%
def next_token_loss(logits, ids, mask):
    """Mean loss in nats per token: each position predicts the token after it."""
    ### BEGIN SOLUTION
    predicted = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return -predicted[mask[:, 1:].bool()].mean()
    ### END SOLUTION


# %%
check("shifted-loss", next_token_loss)

# %% [markdown]
# Papers often give the exponential of this number, the **perplexity**: among how many equally likely tokens the model seems to choose. Where
# the answer is known: logits that are all equal must give as many as the vocabulary has.

# %%
talker, talker_tokenizer = pl.lab.load_base("smollm2-135m")
passages = [row["text"] for row in probes.read("general")][:6]
batch = talker_tokenizer(
    passages, padding=True, padding_side="right", return_tensors="pt"
)
with torch.no_grad():
    logits = talker(**batch).logits.float()
ids, mask = batch["input_ids"], batch["attention_mask"]
right = float(next_token_loss(logits, ids, mask))
even = float(next_token_loss(torch.zeros_like(logits), ids, mask).exp())
read = mask.bool()
unshifted = torch.nn.functional.cross_entropy(logits[read], ids[read]).item()
print(
    f"logits that are all equal: perplexity {even:,.0f}, vocabulary {logits.shape[-1]:,}"
)
print(
    f"untouched smollm2-135m on {len(passages)} passages: {right:.2f} nats per token, ",
    end="",
)
print(f"perplexity {torch.tensor(right).exp():.0f}")
print(f"each position compared with the token it has read: {unshifted:.2f} nats")
assert abs(even / logits.shape[-1] - 1) < 0.01, "equal logits choose among all tokens"
assert abs(right - text_loss(talker, talker_tokenizer, passages)) < 1e-3, "as the library"
assert unshifted > right + 1, "the unshifted number measures something else"

# %% [markdown]
# A measure one position off is no nonsense to look at: it is a number, and it moves. It only says something else. Measured so, a
# model that learns to *repeat* what it reads would seem to remember better.
#
# Now the baseline again, on this model: a prompt of random vectors, which has learnt nothing.

# %% tags=["nbval-ignore-output"]
torch.manual_seed(0)
pl.attach(talker, PromptTuning, num_virtual_tokens=8)
with_prompt = text_loss(talker, talker_tokenizer, passages)
with switched_off(talker):
    without = text_loss(talker, talker_tokenizer, passages)
print(
    f"with the fresh prompt {with_prompt:.2f} nats per token, switched off {without:.2f}"
)

# %%
assert abs(without - right) < 1e-3, "off, the loss is that of the untouched model"
assert with_prompt > right + 0.1, (
    "a baseline with the adapter on would hide this much forgetting"
)

# %% [markdown]
# ### 5. Neighbours
#
# {{retrieval-kept}}
#
# minilm-l6 writes nothing; it was made to put sentences of like meaning side by side. Write `retrieval(vectors, documents)`: for each of the
# `n` vectors `(n, d)`, whatever its norm, find the nearest other by cosine similarity; the share of those from the same document. `documents` is
# a list of `n` names, strings.


# %%
def retrieval(vectors, documents):
    """Share of sentences whose nearest neighbour is from the same document."""
    ### BEGIN SOLUTION
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    nearest = (unit @ unit.T).fill_diagonal_(-torch.inf).argmax(1).tolist()
    return sum(documents[i] == documents[j] for i, j in enumerate(nearest)) / len(
        documents
    )
    ### END SOLUTION


# %%
check("retrieval-kept", retrieval)

# %% [markdown]
# A LoRA learns the sentiment of film sentences. Nobody asks it to give up anything. What do its sentences' neighbours say? Beside it stands what
# random vectors would score, where nothing is known.

# %% tags=["nbval-ignore-output", "heavy"]
editorials = pl.lab.four_domains("editorials")
articles = set(list(dict.fromkeys(editorials["document"]))[:20])
some = [row for row in editorials if row["document"] in articles]
documents = [row["document"] for row in some]


def neighbours(model):
    vectors = pl.lab.embed(model, encoder_tokenizer, [row["text"] for row in some])
    return float(retrieval(vectors, documents))


encoder, encoder_tokenizer = pl.lab.load_base("minilm-l6")
before = neighbours(encoder)
torch.manual_seed(0)
chance = float(retrieval(torch.randn(len(some), 384), documents))
classifier = pl.lab.MeanPoolClassifier(encoder, num_labels=2)
more = {"r": 8, "lora_alpha": 16, "modules_to_save": ["classifier"]}
pl.attach(classifier, LoRA, ["query", "value"], **more)
few, collate = (
    pl.lab.sentiment("movies", "train").select(range(256)),
    texts(encoder_tokenizer, 32),
)
train(classifier, few, collate, steps=48, lr=0.01, batch_size=16, progress=False)
after = neighbours(classifier)
with switched_off(classifier):
    off = neighbours(classifier)
print(
    f"{len(some)} sentences of {len(articles)} articles: random vectors {chance:.1%}, ",
    end="",
)
print(f"untouched {before:.1%}, with the LoRA {after:.1%}, switched off {off:.1%}")

# %%
assert chance < 0.15 < before, "random vectors know no neighbours, the model does"
assert off == before, "off, every neighbour is what it was"
assert after < before - 0.05, "on, neighbours were lost"

# %% [markdown]
# ### 6. Nobody says which task
#
# {{task-unknown}}
#
# Everything "off" above had somebody who switches. Suppose there is nobody: a question comes, there are several adapters, and something has to
# choose, a **router**. One way is to let each adapter answer and to take the one that is least unsure. Write `choose_adapter(logits)`: a
# dict from names to logits `(letters, vocabulary)`, one row for each letter of the adapter's answer. Return the name with the smallest mean entropy.


# %%
def choose_adapter(logits):
    """The name of the adapter whose letters have the smallest mean entropy."""

    ### BEGIN SOLUTION
    def unsure(name):
        p = logits[name].softmax(-1)
        return -(p * p.log()).sum(-1).mean()

    return min(logits, key=unsure)
    ### END SOLUTION


# %%
check("task-unknown", choose_adapter)

# %% [markdown]
# Where the answer is known: one adapter that is sure of each letter, and one that has no idea.

# %%
known_logits = {"no idea": torch.zeros(3, 9), "sure": 10 * torch.eye(9)[:5]}
assert choose_adapter(known_logits) == "sure", "certainty has the smaller entropy"
print("of the two it chooses:", choose_adapter(known_logits))

# %% [markdown]
# The model `apart` has three adapters, and its base knows English, Spanish and French. Questions in five languages, twenty of each. The tag names
# the language, in plain sight; your router sees only how sure each one is.

# %% tags=["nbval-ignore-output", "heavy"]
asked = [
    row for t in ("en", "es", *languages) for row in [*polyglot.dataset(t, "test")][::10]
]
belongs = {"en": "base", "es": "base"} | {t: t for t in languages}


@torch.no_grad()
def answered(name):
    """What one adapter (or "base") writes for each question, and its letters' logits."""
    pl.use(apart, *([] if name == "base" else [name]))
    prompts = tokenizer([row["prompt"] for row in asked], return_tensors="pt")
    how = {"max_new_tokens": polyglot.LONGEST, "do_sample": False}
    how |= {"return_dict_in_generate": True, "output_logits": True}
    out = apart.eval().generate(**prompts, **how)
    written = out.sequences[:, prompts["input_ids"].shape[1] :]
    ends = [(row == tokenizer.eos_token_id).nonzero() for row in written]
    lengths = [
        int(end[0]) + 1 if len(end) else len(row) for end, row in zip(ends, written)
    ]
    said = [t.split(tokenizer.eos_token)[0] for t in tokenizer.batch_decode(written)]
    return said, [row[:n] for row, n in zip(torch.stack(out.logits, 1), lengths)]


said, sure = {}, {}
for name in ("base", *languages):
    said[name], sure[name] = answered(name)
chosen = [
    choose_adapter({name: sure[name][i] for name in sure}) for i in range(len(asked))
]
right_by = {
    "told the task": [
        said[belongs[q["language"]]][i] == q["answer"] for i, q in enumerate(asked)
    ],
    "by your router": [said[chosen[i]][i] == q["answer"] for i, q in enumerate(asked)],
    "Italian always on": [said["it"][i] == q["answer"] for i, q in enumerate(asked)],
}
for way, hits in right_by.items():
    of = {
        t: sum(h for h, q in zip(hits, asked) if q["language"] == t) / 20 for t in belongs
    }
    shares = (f"{polyglot.LANGUAGES[t]} {share:4.0%}" for t, share in of.items())
    print(f"{way:18}", *shares, sep="  ")
share = {way: sum(hits) / len(hits) for way, hits in right_by.items()}
print("all:", *(f"{way} {s:.0%}" for way, s in share.items()), sep="  ")

# %%
assert share["told the task"] > 0.9, "told the task, every language is there"
assert share["told the task"] > share["by your router"], "being sure is not being asked"
assert share["by your router"] > share["Italian always on"], (
    "it is better than no choice at all"
)

# %% [markdown]
# With the task told, hardly a question is lost. With the task to be found out, some are, since the router errs: an adapter may be quite sure of
# an answer in the wrong language. A better router is easy here, for the tag names the language. For a question that names nothing, nobody could.
# "Freezing fully circumvents forgetting" has this somebody in it, unsaid.
#
# ### 7. Intruder dimensions
#
# {{intruder-directions}}
#
# Where in a weight does what was learnt stand? Lesson 02 took a matrix apart, $W = U S V^\top$. A column of $U$ is a **left singular vector**, a
# direction of the output; the first is the strongest. Fine-tuning mostly moves the ones that a weight has. Sometimes one leads that was not there
# at all, an **intruder dimension**, and a paper found that LoRA makes more of them and that they are what forgets
# ([arXiv:2410.21228](https://arxiv.org/abs/2410.21228)). Write `intruders(before, after, top, below)`, for two weights `(d_out, d_in)`: of the first `top`
# left singular vectors of `after`, the positions (counted from 0, the strongest first) of those whose cosine with *every* one of `before`, whatever
# its sign, is less than `below`.


# %%
def intruders(before, after, top, below):
    """Which of the strongest left singular vectors of `after` are none of `before`'s."""
    ### BEGIN SOLUTION
    old, new = (torch.linalg.svd(W, full_matrices=False)[0] for W in (before, after))
    alike = (old.T @ new[:, :top]).abs().amax(0)
    return [i for i in range(top) if alike[i] < below]
    ### END SOLUTION


# %%
check("intruder-directions", intruders)

# %% [markdown]
# Where the answer is known: a weight that nobody touched has no intruder, one that only grew has none, and one to which a single strong random
# direction was added has one, the first.

# %%
torch.manual_seed(0)
W, planted = torch.randn(40, 30), 30 * torch.outer(torch.randn(40), torch.randn(30)) / 35
known_cases = {"untouched": W, "only grew": 3 * W, "one planted": W + planted}
for name, after_it in known_cases.items():
    print(f"{name:12} intruders at {[int(i) for i in intruders(W, after_it, 5, 0.5)]}")
assert not len(intruders(W, W, 5, 0.5)), "an untouched weight has none"
assert [int(i) for i in intruders(W, W + planted, 5, 0.5)] == [0], (
    "the planted one is found"
)

# %% [markdown]
# Merge the LoRA that learnt Italian first, and look into every matrix. Then the test of the claim: scale what the intruders carry down, and leave
# everything else as it was learnt. With $U$ the intruders of a matrix and $s$ the scale, that is $W - (1 - s)\, U U^\top W$. If they are what
# forgets, English comes back. Beside it the same with the whole update.
#
# And the **control**: the same directions $U$, scaled in the *untouched* model. It never learnt Italian and has forgotten nothing. Where this
# alone costs it its English, the English of the trained model could not come back whatever is true. Write down what you expect of all three.


# %% tags=["nbval-ignore-output", "heavy"]
def block_weights(model):
    """{path: a copy of the weight} of every linear layer in a block."""
    linear = (m for m in model.named_modules() if isinstance(m[1], torch.nn.Linear))
    return {path: m.weight.detach().clone() for path, m in linear if ".layers." in path}


@torch.no_grad()
def put(weights):
    for path, W in weights.items():
        apart.get_submodule(path).weight.copy_(W)


pl.use(apart)
old_weights = block_weights(apart)
pl.use(apart, "it")
pl.merge(apart)
new_weights = block_weights(apart)

U = {}
for path, W in new_weights.items():
    found = [int(i) for i in intruders(old_weights[path], W, 10, 0.5)]
    U[path] = torch.linalg.svd(W, full_matrices=False)[0][:, found]


def along_intruders(path, W):
    return U[path] @ (U[path].T @ W)


def update(path, W):
    return W - old_weights[path]


tried = {
    "intruders": (new_weights, along_intruders),
    "control: untouched": (old_weights, along_intruders),
    "whole update": (new_weights, update),
}
scales, scored = [1, 0.5, 0.25, 0], {}
for name, (weights, part) in tried.items():
    for scale in scales:
        put({path: W - (1 - scale) * part(path, W) for path, W in weights.items()})
        for language in ("it", "en"):
            scored.setdefault((language, name), []).append(test_language(apart, language))
put(new_weights)
pl.unmerge(apart)

print(f"{sum(u.shape[1] for u in U.values())} intruders among the 10 strongest ", end="")
print(f"left singular vectors of each of {len(U)} matrices; accuracy by scale:")
for (language, name), shares in scored.items():
    line = "  ".join(f"{scale:g}: {share:4.0%}" for scale, share in zip(scales, shares))
    print(f"{polyglot.LANGUAGES[language]:8} {name:18}  {line}")

# %% tags=["heavy"]
english_left = {name: dict(zip(scales, scored["en", name])) for name in tried}
assert sum(u.shape[1] for u in U.values()) > 20, "LoRA of rank 8 makes intruders"
assert english_left["control: untouched"][0] < 0.6, (
    "at 0 the control loses its English too"
)
assert english_left["control: untouched"][0.25] > 0.4, (
    "at 0.25 the control keeps most of it"
)
assert english_left["whole update"][0.25] > 0.4, "and the whole update gives it back"
assert english_left["intruders"][0.25] < 0.2, "the intruders do not"
assert english_left["whole update"][0] > 0.9, "without the update, English is back"
assert scored["it", "whole update"][-1] < 0.1, "and Italian is gone"

# %% [markdown]
# Read the control first. At scale 0 it has next to no English itself: the directions that LoRA took for Italian are ones that the base needs as well.
# So what the trained model lacks there says nothing. And read the whole update: at 0.5 even that gives hardly any English back, so nothing can be
# asked of its intruders there. One can tell at 0.25, where the control has most of its English and the whole update, scaled so, gives nearly all of it
# back. With the intruders scaled so, there is next to none. In this adapter they are not by themselves what pushed English out. It is one adapter, and one
# language: an observation, not yet a finding.
#
# ## At full size: what was learnt against what was lost
#
# Nine methods, each at three or four learning rates and with several seeds, learn Italian:
#
# | name | what is trained |
# | --- | --- |
# | `tag` | the embedding of the question's tag: one row of the table (lesson 07) |
# | `prompt`, `prefix` | ten virtual tokens: in front of the embeddings; in front of the keys and values of every layer (lesson 06) |
# | `bias` | a bias for every linear layer, added at zero: this model has none (lesson 07) |
# | `norms` | the weights of all norms |
# | `ia3` | (IA)³: factors on keys, values and inside the MLP |
# | `lora-1`, `lora-8` | LoRA on all linear layers, of rank 1 and 8 |
# | `full` | all weights |
#
# Upwards: how much of English, Spanish and French was lost, with the adapter *on*. To the right: how much Italian was learnt. Bottom right
# is where one wants to be. Recorded by `peftlab record languages-learnt-and-lost`.

# %%
runs = complete(records.load("languages-learnt-and-lost"))
old = list(polyglot.KNOWN)


def lost_of_languages(runs, languages):
    """The share that was lost of what the model could write in these, taken together."""
    before, after = (
        runs[[f"accuracy_{t}{end}" for t in languages]].mean(axis=1)
        for end in ("_before", "")
    )
    return 1 - after / before


runs["lost"] = lost_of_languages(runs, old)
methods = list(dict.fromkeys(runs["method"]))
seeds = runs["seed"].nunique()


def rates_of(frame, method, x, y):
    """(x, y, marker size, half width of x, of y) for each learning rate, low to high."""
    by_rate = frame[frame["method"] == method].groupby("lr")
    found = []
    for i, (_, of_rate) in enumerate(by_rate):
        (mean_x, half_x), (mean_y, half_y) = interval(of_rate[x]), interval(of_rate[y])
        found.append((mean_x, mean_y, 1 + i, half_x, half_y))
    return found


italian = runs[runs["target"] == "it"]
print("Italian learnt / old languages lost, by learning rate from low to high")
for method in methods:
    points = rates_of(italian, method, "learnt", "lost")
    trainable = italian[italian["method"] == method]["trainable"].iloc[0]
    print(
        f"{method:7}{trainable:>8,} parameters",
        *(f"{p[0]:6.1%} /{p[1]:6.1%};" for p in points),
    )
print(f"{seeds} seeds. {records.stamp(runs)}")

# %% tags=["hide-source"]
drawn = ["full", "lora-8", "lora-1", "bias", "prefix", "prompt", "tag"]
figures.show(
    figures.tradeoff(
        {method: rates_of(italian, method, "learnt", "lost") for method in drawn},
        f"Italian learnt, old languages lost: means of {seeds} seeds, 95 % intervals",
        "accuracy in Italian",
        "share of the old languages lost, adapter on",
        sizes="larger marker:\nhigher learning rate",
    ),
    alt="Italian learnt against old languages lost, a path over learning rates for each of seven methods, with intervals. The trained row of the tag sits bottom left: nothing "
    "learnt, nothing lost. All others are near the top. At its lower rates training everything lies below LoRA; prompts are top left: nothing learnt, "
    "all lost.",
)

# %% [markdown]
# Look at full fine-tuning. In this world, for a language it has to *learn*, *full fine-tuning forgets less* than LoRA at comparable learning: at its second
# rate it learnt as much Italian as LoRA of rank 1 did at its last. Take these two, and the difference of what they lost, seed by seed. And a frozen base
# with a prompt on top: no weight moved, nothing learnt, and the old languages gone.


# %%
def at(frame, method, lr, column):
    """The values of one method at one rate, in the order of the seeds."""
    chosen = frame[(frame["method"] == method) & (frame["lr"] == lr)]
    return list(chosen.sort_values("seed")[column])


def difference(frame, one, other, column):
    """Mean and half width of the paired differences of two (method, lr)."""
    pairs = zip(at(frame, *one, column), at(frame, *other, column))
    return interval([a - b for a, b in pairs])


two = ("full", 0.0003), ("lora-1", 0.03)
more_learnt = difference(italian, *two, "learnt")
more_lost = difference(italian, *two, "lost")
print("full at 0.0003 minus LoRA of rank 1 at 0.03, paired, 95 % intervals:")
print(f"  Italian learnt     {more_learnt[0]:+6.1%} ± {more_learnt[1]:.1%}")
print(f"  old languages lost {more_lost[0]:+6.1%} ± {more_lost[1]:.1%}")
assert sum(more_lost) < -0.1, "full fine-tuning lost less, whatever the seed"

# %% [markdown]
# The other target is Spanish without a tag, `<?>342=`, a language the model knows: here it has to be called up. All nine learn it, so there is no
# trade-off to draw. What was lost is counted on the other two, English and French: a model that answers everything in Spanish keeps its Spanish.
# Each method at one rate, the one with the lowest loss *in training*, so that the test is not asked twice:

# %%
knows = runs[runs["target"] == "es"].copy()
knows["lost"] = lost_of_languages(knows, ["en", "fr"])
spanish = best_rates(knows, ["method"], by="train_loss", lowest=True)
print(
    f"the least accurate of all: {spanish.groupby('method')['learnt'].mean().min():.1%}"
)
lost_of = {}
for method in methods:
    of_method = spanish[spanish["method"] == method]
    lost_of[method] = interval(of_method["lost"])
    print(
        f"{method:7} at {of_method['lr'].iloc[0]:<7g} lost {lost_of[method][0]:5.1%} ",
        end="",
    )
    print(f"± {lost_of[method][1]:.1%} of English and French")
rates = {m: spanish[spanish["method"] == m]["lr"].iloc[0] for m in methods}
narrow = difference(
    knows, ("lora-1", rates["lora-1"]), ("lora-8", rates["lora-8"]), "lost"
)
print(f"lost by LoRA of rank 1 minus rank 8, paired: {narrow[0]:+.1%} ± {narrow[1]:.1%}")
for method in ("full", "lora-8", "lora-1"):
    print(f"{method}, Spanish learnt / others lost, by learning rate from low to high:")
    points = rates_of(knows, method, "learnt", "lost")
    print("   ", *(f"{p[0]:6.1%} /{p[1]:6.1%};" for p in points))

# %% tags=["hide-source"]
figures.show(
    figures.intervals(
        methods,
        {"mean and 95 % interval": [lost_of[m] for m in methods]},
        f"What calling up Spanish cost, each method at its own rate, {seeds} seeds",
        "method",
        "share of English and French lost, adapter on",
        joined=False,
    ),
    alt="The share of English and French lost for nine methods, with 95 % intervals: nothing for the row of the tag, little for LoRA of rank 8 and for norms, "
    "and most for prompts and prefixes.",
)

# %%
assert spanish.groupby("method")["learnt"].mean().min() > 0.97, (
    "each method can call Spanish up"
)
assert lost_of["tag"][0] < 0.01, "the row of the tag answers to its tag alone"
assert narrow[0] - narrow[1] > 0, "the lower rank lost more"
assert lost_of["lora-8"][0] < lost_of["full"][0], (
    "called up, LoRA of rank 8 lost less than full"
)
assert min(lost_of[m][0] for m in ("prompt", "prefix")) > 0.5, (
    "prompts and prefixes lost most"
)

# %% [markdown]
# The order is another here, and fewer parameters are no protection: LoRA of rank 1 lost more than rank 8 at the rates chosen. Nor is it the method alone: at other rates
# LoRA of rank 8 called Spanish up nearly as well and lost more, and full fine-tuning lost less. At every rate hardly any loss in training was left, and the
# rule that chose among them goes by differences that say nothing of what is lost. One language by itself, at each rate of full
# fine-tuning and of LoRA, when Italian was learnt:

# %%
for method in ("full", "lora-8"):
    for lr, of_rate in italian[italian["method"] == method].groupby("lr"):
        (learnt, half), (english_kept, english_half) = (
            interval(of_rate[c]) for c in ("learnt", "accuracy_en")
        )
        print(f"{method:7} {lr:<7g} learnt {learnt:5.1%} ± {half:5.1%}   ", end="")
        print(f"English kept {english_kept:5.1%} ± {english_half:5.1%}")

# %% [markdown]
# The same method keeps nearly all or nothing by its learning rate alone. And off? For every method but full fine-tuning, in every one of these runs:

# %%
frozen = runs[runs["method"] != "full"]
same = all(
    (frozen[f"accuracy_{t}_off"] == frozen[f"accuracy_{t}_before"]).all() for t in old
)
closest = max(
    (frozen[f"loss_{t}_off"] - frozen[f"loss_{t}_before"]).abs().max() for t in old
)
print(f"{len(frozen)} runs, adapter off: accuracies as before: {same}; ", end="")
print(f"the largest change of a loss: {closest:.1e} nats")
assert same and closest < 1e-5, "off, the base is what it was"

# %% [markdown]
# ### Choose for yourself
#
# A target and a method; below, each rate with what it learnt and what it kept of each old language.


# %% tags=["hide-source"]
def draw_rates(target, method):
    frame = runs[(runs["target"] == target) & (runs["method"] == method)]
    columns = {
        "learnt": "learnt",
        **{f"accuracy_{t}": f"kept of {polyglot.LANGUAGES[t]}" for t in old},
    }
    lines = ""
    for lr, of_rate in frame.groupby("lr"):
        for i, (column, label) in enumerate(columns.items()):
            mean, half = interval(of_rate[column])
            bar = f"<div style='width:{20 * mean:.2f}em;height:.8em;background:{figures.PALETTE[1 if i == 0 else 0]}'></div>"
            first = f"{lr:g}" if i == 0 else ""
            lines += f"<tr><td>{first}</td><td>{label}</td><td>{bar}</td><td>{mean:.0%} ± {half:.0%}</td></tr>"
    told = f"{method} on {polyglot.LANGUAGES[target]}: {of_rate['trainable'].iloc[0]:,} trainable parameters."
    heads = "".join(
        f"<th>{head}</th>" for head in ("rate", "what", "how much", "95 % interval")
    )
    return f"<p role='status' aria-live='polite'>{told}</p><table><tr>{heads}</tr>{lines}</table>"


widgets.explore(draw_rates, target=("it", ["es", "it", "tr"]), method=("lora-8", methods))

# %% [markdown]
# ### Intruders, over seeds, with their control
#
# The same once more, with full fine-tuning and three ranks on Italian, six seeds, recorded by `peftlab record intruders`. Three things are scaled in each
# run: all intruders; of each matrix the strongest one alone, so that every rank loses the same number of directions; and the whole update. The
# *control* scales the same directions in the untouched weights, which forgot nothing. A scale can say something about forgetting where the control still
# speaks its languages, *and* where the whole update, scaled as far, brings them back: else nothing could have been seen there.

# %% tags=["nbval-ignore-output"]
scaled = records.load("intruders")
steps_down = [0.75, 0.5, 0.25, 0]
ranks = {"full": "all weights", "lora-1": "LoRA r=1"}
ranks |= {"lora-8": "LoRA r=8", "lora-32": "LoRA r=32"}


def curve(method, part):
    """[(mean, half width)] of what is kept, at scale 1 and then at each smaller one."""
    rows = scaled[scaled["method"] == method]
    start = "untouched" if part.startswith("control") else "kept"
    columns = [start] + [f"{part}_{s:g}" for s in steps_down]
    return [interval(rows[column]) for column in columns]


rows = {}
for method, label in ranks.items():
    count, half = interval(scaled[scaled["method"] == method]["intruders"])
    rows[label] = {"intruders": f"{count:.1f} ± {half:.1f}"}
    for name, part in (("all", "intruders"), ("strongest", "strongest")):
        for words, of in (("came back", "kept"), ("control", "control")):
            mean, wide = curve(method, f"{of}_{part}")[-1]
            rows[label][f"{name} at 0: {words}"] = f"{mean:.1%} ± {wide:.1%}"
print(f"{scaled['seed'].nunique()} seeds. {records.stamp(scaled)}")
pd.DataFrame(rows).T

# %% tags=["hide-source", "nbval-ignore-output"]
figures.show(
    figures.small_multiples(
        [1, *steps_down],
        {
            f"{label}: {words}": {
                "trained": curve(method, f"kept_{part}"),
                "control: untouched weights": curve(method, f"control_{part}"),
                "whole update scaled": curve(method, "kept_update"),
            }
            for part, words in (("intruders", "all"), ("strongest", "strongest"))
            for method, label in ranks.items()
        },
        f"Old languages, intruders scaled down: {scaled['seed'].nunique()} seeds, 95 % intervals",
        "scale",
        "accuracy",
        columns=4,
    ),
    alt="Eight panels, accuracy on the old languages over the scale from 1 to 0: all intruders in the upper row, the strongest of each matrix in the lower, "
    "for all weights and LoRA of rank 1, 8 and 32. In the trained weights they come back at rank 1 alone; elsewhere that curve stays at zero. The control "
    "falls to zero where all intruders of rank 8 and 32 are taken, and stays high in the other panels. The whole update scaled down brings the languages back in every panel.",
)


# %%
def gone(method, part):
    """What is kept at scale 0, in the trained weights and in the control."""
    return curve(method, f"kept_{part}")[-1][0], curve(method, f"control_{part}")[-1][0]


trained, control = gone("full", "intruders")
assert trained < 0.1 and control > 0.9, (
    "all weights: nothing comes back, the control bears it"
)
for method in ("lora-8", "lora-32"):
    trained, control = gone(method, "strongest")
    assert trained < 0.1 and control > 0.7, (
        f"{method}: nothing comes back, the control bears it"
    )
    assert gone(method, "intruders")[1] < 0.1, (
        f"{method}: the control loses its languages too"
    )
assert gone("lora-1", "intruders")[0] > 0.3, "at rank 1 much comes back"
counts = scaled.groupby("method")["intruders"].mean()
of_rank = [counts[method] for method in ranks]
assert of_rank == sorted(of_rank), "the higher the rank, the more intruders"

# %% [markdown]
# One half of the paper's finding is here, plainly: LoRA makes many intruders and full fine-tuning few, and more of them the higher the rank. The other half,
# that they are what forgets, *did not hold here*.
#
# - *All weights*: a few intruders in all the matrices together, and the old languages are gone all the same. The control bears the loss of these few, and nothing comes back.
#   Forgetting needs no intruder.
# - *Rank 8 and 32, the strongest of each matrix*: the control keeps most of what it knew, and nothing comes back.
# - *Rank 8 and 32, all of them*: undecided. At 0 the control loses its languages too; and where it keeps them, the whole update scaled as far
#   brings back next to nothing either.
# - *Rank 1*: much comes back. There the one intruder of a matrix is nearly the whole update. (How much differs widely between seeds.)
#
# The way back that works, scaling the whole update, is a trade: each step gives up some of the new for some of the old.
#
# ### Facts
#
# smollm2-135m learns the capitals of forty countries that don't exist, and is asked for what it knew before: real capitals, and other common
# facts. Only what the untouched model could complete counts. Recorded by `peftlab record facts-learnt-and-lost`.

# %%
questions = probes.read("facts")
known = [q for q in questions if q["known"]]
print(
    f"{len(questions)} questions; the untouched model completes {len(known)}, ",
    end="",
)
print(f"{sum(q['topic'] == 'capitals' for q in known)} of them capitals")
assert len(questions) >= 200, "enough questions for a share"

facts = complete(records.load("facts-learnt-and-lost"))
facts["rise"] = facts["prose"] - facts["prose_before"]
for group in ("capitals", "others"):
    facts[f"lost_{group}"] = 1 - facts[f"known_{group}"] / facts[f"known_{group}_before"]
shown = {"learnt": "learnt", "lost_capitals": "lost: capitals", "lost_others": "others"}
for (method, lr), rows in facts.groupby(["method", "lr"]):
    cells = (
        f"{name} {m:5.0%} ± {h:3.0%}"
        for c, name in shown.items()
        for m, h in [interval(rows[c])]
    )
    rise, half = interval(rows["rise"])
    print(
        f"{method:7} {lr:<7g}", *cells, f"prose {rise:+.2f} ± {half:.2f} nats", sep="  "
    )
print(f"{facts['seed'].nunique()} seeds. {records.stamp(facts)}")

# %% tags=["hide-source"]
figures.show(
    figures.tradeoff(
        {m: rates_of(facts, m, "learnt", "lost_others") for m in ("lora-8", "full")},
        f"Invented capitals learnt, known facts lost, {facts['seed'].nunique()} seeds, 95 % intervals",
        "share of invented capitals learnt",
        "share of the other known facts lost, adapter on",
        sizes="larger marker:\nhigher learning rate",
    ),
    alt="Invented capitals learnt against known facts lost, LoRA of rank 8 and full fine-tuning over four learning rates each, with intervals. Full "
    "fine-tuning lies to the right and below: it learnt more and lost less.",
)

# %%
lora, full = (rates_of(facts, m, "learnt", "lost_others") for m in ("lora-8", "full"))
two = ("full", 0.0002), ("lora-8", 0.004)
gap = {what: difference(facts, *two, what) for what in ("learnt", "lost_others")}
print("full at 0.0002 minus LoRA at 0.004, paired, 95 % intervals:")
for what, (mean, half) in gap.items():
    print(f"  {shown[what]:7} {mean:+6.1%} ± {half:.1%}")
assert gap["learnt"][0] > gap["learnt"][1], "full learnt more"
assert sum(gap["lost_others"]) < 0, "and lost less"
for x, y, *_ in lora:
    beaten = any(point[0] >= x and point[1] < y for point in full)
    assert beaten or x < 0.05, (
        "each LoRA point that learnt anything is beaten by one of full"
    )

# %% [markdown]
# Again *full fine-tuning forgets less*: for every LoRA run that learnt anything there is a rate of full fine-tuning that learnt as much and lost
# fewer facts. Without its own learning-rate sweep, either method could have been shown to be the better one. And real capitals, nearest to
# what was learnt, went before the other facts.
#
# ### A format, and the facts once more
#
# Two methods are no spread, so here are four, on the same model: a prompt of ten tokens, (IA)3, LoRA on all linear layers, all
# weights. Two tasks: the forty capitals again, in another number of steps, and lesson 03's *format*, answers in double brackets, where nothing new has to be known. Each method at the one of four rates
# with the lowest loss in training. Lost is the share of all facts that it no longer completes. Recorded by
# `peftlab record grid-smollm2`.

# %%
four = records.load("grid-smollm2")
four = complete(four[four["matmul"] == "bf16"], within="task")
four["lost"] = 1 - four["known"] / four["known_before"]
four["rise"] = four["prose"] - four["prose_before"]
chosen = best_rates(four, ["task", "method"], by="train_loss", lowest=True)
for (task, method, lr), rows in chosen.groupby(["task", "method", "lr"], sort=False):
    learnt, lost, rise = (interval(rows[c]) for c in ("learnt", "lost", "rise"))
    print(f"{task:7}{method:10} {lr:<7g} learnt {learnt[0]:4.0%}", end="")
    print(f" ±{learnt[1]:4.0%}  facts lost {lost[0]:4.0%} ±{lost[1]:4.0%}", end="")
    print(f"  prose {rise[0]:+.2f} ± {rise[1]:.2f} nats")
forms = four[four["task"] == "format"]
for method in forms["method"].unique():
    points = rates_of(forms, method, "learnt", "lost")
    learners = (f"{y:.0%} ± {h:.0%};" for x, y, _, _, h in points if x > 0.9)
    print(f"{method:10} facts lost at the rates that learnt the format:", *learners)
exact = records.load("grid-smollm2").query("matmul == 'ieee'")
keys = ["task", "method", "lr", "seed"]
twice = exact.merge(four, on=keys, suffixes=("_exact", ""))
for what in ("learnt", "known"):
    moved = (twice[f"{what}_exact"] - twice[what]).abs()
    print(f"in float32 {len(twice)} runs: {what} moves by {moved.max():.0%} at most")
print(f"{four['seed'].nunique()} seeds. {records.stamp(four)}")

# %%
lost = chosen.groupby(["task", "method"])["lost"].mean()
few_first = chosen.groupby("method")["trainable"].first().sort_values().index
in_order = list(lost["format"][few_first])
assert in_order == sorted(in_order, reverse=True), "the fewer trained, the more lost"
for other in ("lora-8", "ia3"):
    one, two = (
        chosen.query("task == 'format' and method == @m").set_index("seed")
        for m in (other, "full")
    )
    middle, half = interval(one["lost"] - two["lost"])
    print(f"format: {other} lost {middle:.1%} ± {half:.1%} more than full, paired")
    assert middle > half, "all weights lost less, whatever the seed"

# %% [markdown]
# What the format cost runs from next to nothing to nearly everything, *with the learning rate alone*: its lowest rates had learnt it as well. The lowest loss in training, by which the
# rate was chosen, is blind to what gets lost; whoever wants to keep something has to look at it when choosing. At the rates chosen, the fewer parameters a method trained, the more it lost: all weights
# least, then LoRA, then (IA)3, and the prompt most, which had not learnt the format in every model. And of the facts all weights learnt most again, and lost less than LoRA and (IA)3.

# %% [markdown]
# ### Neighbours
#
# And minilm-l6: what was learnt of film sentences, and how much of its retrieval each method cost. Recorded by `peftlab record small-and-strong`.

# %% tags=["nbval-ignore-output"]
films = complete(records.load("small-and-strong"))
films["lost"] = 1 - films["retrieval"] / films["retrieval_before"]
most = films[films["sentences"] == films["sentences"].max()]
ways = {
    "head": "head only",
    "bitfit": "BitFit",
    "lora": "LoRA r=8",
    "full": "all weights",
}
for method, label in ways.items():
    points = rates_of(most, method, "test", "lost")
    cells = (f"accuracy {x:5.1%} lost {y:5.1%} ± {h:.1%};" for x, y, _, _, h in points)
    print(f"{label:11}", *cells)
print(f"{films['seed'].nunique()} seeds complete. {records.stamp(films)}")

# %% tags=["hide-source", "nbval-ignore-output"]
figures.show(
    figures.tradeoff(
        {label: rates_of(most, m, "test", "lost") for m, label in ways.items()},
        f"Film sentences learnt, retrieval lost, {films['seed'].nunique()} seeds, 95 % intervals",
        "accuracy on test sentences",
        "share of retrieval lost, adapter on",
        sizes="larger marker:\nhigher learning rate",
    ),
    alt="Film sentences learnt against retrieval lost for head only, BitFit, LoRA and all weights, a path over learning rates each, with intervals. The head alone loses "
    "nothing; for the others, a higher rate loses more.",
)

# %%
assert max(p[1] for p in rates_of(most, "head", "test", "lost")) == 0, (
    "a head touches no encoder"
)
for method in ("bitfit", "lora", "full"):
    losses = [p[1] for p in rates_of(most, method, "test", "lost")]
    assert losses[-1] > losses[0], f"{method}: a higher rate costs more"

# %% [markdown]
# The head alone loses nothing, for it touches nothing that retrieval uses. The other three pay, and what they pay depends on the rate more than on
# the method: at their lowest rates all three lost about a quarter, and no interval separates them there.
#
# ## The library
#
# In `peft`, off is `with model.disable_adapter():`. It brings the base back where the base was left alone. Two adapters on minilm-l6, their
# trainable parameters moved a little, as training would:

# %%
import warnings

import peft

warnings.filterwarnings("ignore")
sentence = encoder_tokenizer(["The train was late again."], return_tensors="pt")


@torch.no_grad()
def output(model):
    return model.eval()(**sentence).last_hidden_state


def nudge(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape) / 50)


def is_back(model, off):
    with off:
        return torch.allclose(output(model), original, atol=1e-5)


original = output(pl.lab.load_base("minilm-l6")[0])
returned, places = {}, ["query", "value"]
for bias in ("none", "all"):
    config = peft.LoraConfig(r=4, target_modules=places, bias=bias)
    theirs = peft.get_peft_model(pl.lab.load_base("minilm-l6")[0], config)
    nudge(theirs)
    returned[f"peft, LoRA with bias={bias!r}"] = is_back(theirs, theirs.disable_adapter())

config = peft.LoraConfig(r=4, target_modules=places, init_lora_weights="pissa")
theirs = peft.get_peft_model(pl.lab.load_base("minilm-l6")[0], config)
returned["peft, PiSSA, not even trained"] = is_back(theirs, theirs.disable_adapter())

for method, where in ((BitFit, [*places, "key", "dense"]), (PiSSA, places)):
    base, _ = pl.lab.load_base("minilm-l6")
    pl.attach(base, method, where)
    nudge(base)
    assert not torch.allclose(output(base), original, atol=1e-5), (
        "on, something has changed"
    )
    returned[f"here, {method.__name__}"] = is_back(base, switched_off(base))
for name, back in returned.items():
    print(f"{name:29} switched off, the base is back: {back}")
gone = [name for name, back in returned.items() if not back]
assert gone == ["peft, LoRA with bias='all'", "peft, PiSSA, not even trained"], gone

# %% [markdown]
# With `bias="all"` the library trains the base's own biases in place, and there is nothing left to go back to; it warns of it when it is asked
# to. With PiSSA it takes the strongest singular components *out* of the base and into the adapter (lesson 04): switched off, the model lacks its best part.
# Here PiSSA keeps what it took out to itself and leaves the base alone. So "off" is to be tested like everything else. The measures of this course
# stand in `peftlab/lab/forgetting.py`; yours against them:

# %%
from peftlab.lab import forgetting

R = [[0.9, 0.1, 0.0], [0.5, 0.8, 0.1], [0.3, 0.9, 0.7]]
mine, theirs = backward_transfer(R), forgetting.backward_transfer(R)
print(f"backward transfer {mine:+.2f}, ", end="")
print(f"average forgetting {forgetting.average_forgetting(R):.2f}")
assert abs(mine - theirs) < 1e-6, "yours and the course's agree"

# %% [markdown]
# Of the two earlier tasks the first fell from 0.9 to 0.3, and the second rose from 0.8 to 0.9: backward transfer is $(-0.6 + 0.1) / 2$. Average forgetting
# is $(0.6 - 0.1) / 2$: the best the second ever was before the last task is its 0.8.
#
# ## Read the result
#
# **What it shows.** With the adapter off, or the task told, nothing was forgotten, to the last bit: freezing keeps this promise wherever the
# base was really left alone. With the adapter on, every method that learnt a new language lost most of the old ones, frozen base or not, and
# how much depended on the learning rate as much as on the method. With the task to be found out, something is lost to wrong choices of the router.
#
# **What it does not show.** Polyglot is tiny and trained on one thing; forty invented facts are drilled without anything old among them, in the same few
# steps for each method: with more, LoRA would learn more, and what it would lose then was not measured. Real
# fine-tuning data is milder, and larger models have more room. The order of methods changed between two targets on the same model, so it
# will change between yours and these. Nobody here mixed old data in, the plainest remedy.
#
# | claim | here |
# | --- | --- |
# | *Full fine-tuning forgets catastrophically* (C22) | in part: at every rate that learnt most of Italian it lost most of the three old languages, though one kept much of English; what learnt most of the facts lost most of the others; but learning a format it kept nearly all |
# | *PEFT keeps the knowledge largely untouched* (C23) | adapter off: exactly; adapter on: no where something new was learnt; where something known was called up, it depended on method and rate |
# | *A frozen base with adapters fully circumvents forgetting* (C24) | true in task-incremental learning, backward transfer of zero by construction; false where the task must be inferred |
#
# **Negative results, said aloud.** LoRA did not forget less than full fine-tuning when something new had to be learnt, neither languages nor
# facts; when Spanish was called up it did at the rates chosen, but at others, where Spanish was as good within a point, the order turns; in the format it did not. A prompt lost all old languages without learning the new one. The router that takes the least unsure
# adapter was worse than being told. Intruders were many with LoRA, as published; that they are what forgets did not hold: full fine-tuning forgot everything with
# hardly any, and at the higher ranks the strongest of each matrix could be taken without anything coming back. And fewer parameters are no
# protection: when Spanish was called up, rank 1 lost more than rank 8 at the rates chosen, and less at another.
#
# ## Go further
#
# - Mix old questions into the new: how few per batch keep English? Which method needs the fewest?
# - Give the router of exercise 6 the tag. What does it score now, and which questions could nobody assign?
# - Scaling the whole update by one number is a trade. Is there a better one, with a number for each layer?
# - An open question: is there a measure, taken *before* training, that says what a task will cost?
#
# Sources: backward transfer, [arXiv:1706.08840](https://arxiv.org/abs/1706.08840); average forgetting, [arXiv:1801.10112](https://arxiv.org/abs/1801.10112); "LoRA learns less and
# forgets less", [arXiv:2405.09673](https://arxiv.org/abs/2405.09673); intruders, [arXiv:2410.21228](https://arxiv.org/abs/2410.21228). Sentences: Hutto and Gilbert, ICWSM 2014. The library: `peft`, Apache-2.0.

# %% [markdown] tags=["written"]
# ## In your own words
#
# *LoRA forgets less than full fine-tuning.* Name two comparisons of this page that speak for and against it, each with what was learnt beside what
# was lost. Which comparison, with which result, would make you believe the sentence, or drop it?
