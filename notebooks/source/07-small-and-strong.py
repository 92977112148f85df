# %% [markdown]
# # 07 Small and strong
#
# **65 minutes** of reading and doing, **60 seconds** of computing on two quiet cores. Before this: lesson 03. Lesson 01 helps.
# Terms: the [glossary](../docs/glossary.md).
#
# After this page you will have built four methods that train next to nothing: biases alone (BitFit), a factor for every feature
# ((IA)³), the layer norms, and single rows of the embedding table. You will have met the models on which the first of them trains
# nothing at all. And you will have answered a question that most tables answer too soon: is BitFit *on par* with full fine-tuning?

# %%
import statistics

import torch
import torch.nn.functional as F
from torch import nn

import peftlab as pl
from peftlab.classroom import check, predict
from peftlab.lab import figures, polyglot, records, widgets
from peftlab.lab.sweeps import T95, best_rates, complete, interval
from peftlab.lab.training import answers, evaluate, texts, train
from peftlab.methods import BitFit, LoRA, TrainableTokens

# %% [markdown]
# ## Predict

# %%
predict("one-bias")

# %% [markdown]
# ## The idea
#
# LoRA changes a weight by a product of two matrices. One can ask for less: leave every matrix as it is, and train only *vectors*,
# which move what passes through, or turn it up and down.
#
# $$y = l \odot (W x + b + b')$$
#
# - $W$ and $b$, the weight and bias of a layer, are frozen, and $x$ and $y$ are what enters and leaves it;
# - $b'$ is what **BitFit** learns: it is added to the bias, and moves every input's output by the same amount;
# - $l$ is what **(IA)³** learns: a factor for every feature, which starts at one; $\odot$ multiplies entry by entry;
# - a layer norm first brings a vector to mean 0 and standard deviation 1, and then multiplies it by a weight and, mostly, adds a bias of
#   its own, one number for each feature. These two can be trained by themselves (LN tuning). They are not the linear layer's weight and bias.

# %% tags=["hide-source"]
figures.show(
    figures.small_vectors(),
    alt="Three equations as boxes. BitFit: y equals frozen W times x plus a trained bias. (IA)³: y equals a trained factor "
    "times the whole of W x plus b. Norms: a trained factor and a trained shift on the normalised vector, before the frozen layer.",
)

# %% [markdown]
# How little is that? Four models, built without their weights, from their shapes alone.

# %%
from transformers import BertConfig, GPT2Config, LlamaConfig, RobertaConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING

large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
large |= {"intermediate_size": 4096, "vocab_size": 50265, "max_position_embeddings": 514}
llama = {
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "head_dim": 64,
}
llama |= {"num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128256}
shapes = {
    "BERT base": BertConfig(),
    "RoBERTa large": RobertaConfig(**large, type_vocab_size=1),
    "GPT-2 small": GPT2Config(),
    "Llama 3.2, 1 billion": LlamaConfig(**llama),
}
for name, config in shapes.items():
    with torch.device("meta"):
        model = MODEL_MAPPING[type(config)](config)
    parameters = sum(p.numel() for p in model.parameters())
    biases = sum(
        p.numel() for path, p in model.named_parameters() if path.endswith("bias")
    )
    print(
        f"{name:21}{biases:>9,} of {parameters:>13,} parameters are in biases: ", end=""
    )
    print(f"{biases / parameters:.3%}")
assert biases == 0, "and the last one has none"

# %% [markdown]
# About a thousandth for the older models, as its authors say. And for the family that most open models of today belong to:
# nothing. Llama has no biases. Whoever runs BitFit on it trains nothing, and some programs do not even say so.
#
# ## Build it
#
# Seven exercises: five for the methods, two for the question whether they are any good.
#
# ### 1. BitFit
#
# {{train-biases}}
#
# Write `train_biases(model)`: afterwards the biases are trainable and nothing else is, whatever was before. A bias is a parameter
# whose own name, the last part of the full one, ends in `bias`. Return the number of **trainable parameters**.


# %%
def train_biases(model):
    """Switch training on for the biases alone; returns how many parameters they have."""
    ### BEGIN SOLUTION
    trained = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.endswith("bias")
        if parameter.requires_grad:
            trained += parameter.numel()
    return trained
    ### END SOLUTION


# %%
check("train-biases", train_biases)

# %% [markdown]
# Now the trap, on two models of the Llama family.

# %%
model, tokenizer = pl.lab.load_base("polyglot-350k")
talker, _ = pl.lab.load_base("smollm2-135m")
encoder, encoder_tokenizer = pl.lab.load_base("minilm-l6")
for name, one in {
    "minilm-l6": encoder,
    "polyglot-350k": model,
    "smollm2-135m": talker,
}.items():
    print(f"{name:15} biases: {train_biases(one):,}")
assert train_biases(model) == train_biases(talker) == 0, "the Llama family has no biases"

italian, collate = polyglot.dataset("it"), answers(tokenizer)
for attempt in (
    lambda: train(model, italian, collate, steps=1, lr=1e-2, progress=False),
    lambda: pl.attach(model, BitFit, "all-linear"),
):
    try:
        attempt()
    except ValueError as error:
        print(f"\n{type(error).__name__}: {error}")
    else:
        raise AssertionError("this must be refused")

# %% [markdown]
# <details><summary>Help, I see <code>optimizer got an empty parameter list</code></summary>
#
# That is what PyTorch's optimizers say when nothing is trainable: here, because there is no bias to train. Print the number of
# trainable parameters *before* training, always.
#
# </details>
#
# One can give such a model biases: zero everywhere at the start, so that nothing changes until they are trained. That is another
# method: BitFit's authors trained what pre-training had left there. `peft` has it under the name BEFT, and this page calls them *added
# biases*. What you will see them do on polyglot is no evidence about BitFit.


# %%
def give_biases(model):
    """A bias of zero for every linear layer but the output layer."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer is not model.get_output_embeddings():
            layer.bias = nn.Parameter(torch.zeros(layer.out_features))


batch = tokenizer(["<es>342=", "<it>342="], return_tensors="pt")
with torch.no_grad():
    before = model(**batch).logits
    give_biases(model)
    assert torch.equal(model(**batch).logits, before), "biases of zero change nothing"
print(f"now there are {train_biases(model):,} to train; the answers are what they were")

# %% [markdown]
# With them, back to what you predicted: what does moving one bias do, right after its layer and at the end?

# %%
first = model.model.layers[0].mlp.up_proj
seen = {}
first.register_forward_hook(lambda layer, inputs, y: seen.update(y=y[:, -1].clone()))


@torch.no_grad()
def apart(text="<es>342=", other="<it>777="):
    """Two texts' difference at the last position: after the layer, and in the output."""
    out = model(**tokenizer([text, other], return_tensors="pt")).logits[:, -1]
    return seen["y"][0] - seen["y"][1], out[0] - out[1]


here, at_the_end = apart()
with torch.no_grad():
    first.bias += torch.randn(
        first.bias.shape, generator=torch.Generator().manual_seed(0)
    )
here_now, at_the_end_now = apart()
print(
    "right after the layer, the difference is the same:",
    torch.allclose(here, here_now, atol=1e-5),
)
print("at the end of the model:", torch.allclose(at_the_end, at_the_end_now, atol=1e-5))
assert torch.allclose(here, here_now, atol=1e-5), "a bias moves both texts alike"
assert not torch.allclose(at_the_end, at_the_end_now, atol=1e-1), (
    "what follows is not linear"
)

# %% [markdown]
# This is both the limit of a bias and why it can do something all the same: it moves every input alike, and the layers behind it
# are not linear.
#
# ### 2. (IA)³
#
# {{ia3-forward}}
#
# Write `ia3_forward(x, weight, bias, l, feedforward)`. On most layers, `l` has `d_out` factors and they multiply what leaves the layer,
# all of it. On the last layer of an MLP (`feedforward=True`) it has `d_in` and they multiply what *enters*. `bias` is None
# where the layer has none.


# %%
def ia3_forward(x, weight, bias, l, feedforward):
    """What leaves the layer, (..., d_out), for x (..., d_in) and a factor per feature."""
    ### BEGIN SOLUTION
    if feedforward:
        return F.linear(x * l, weight, bias)
    return F.linear(x, weight, bias) * l
    ### END SOLUTION


# %%
check("ia3-forward", ia3_forward)

# %% [markdown]
# ### 3. Merge it
#
# {{ia3-merge}}
#
# Write `ia3_merge(weight, bias, l, feedforward)`, which returns the weight and the bias of a plain layer that computes the same. Leave
# those you were given as they are.


# %%
def ia3_merge(weight, bias, l, feedforward):
    """The (weight, bias) of a linear layer that computes what ia3_forward computes."""
    ### BEGIN SOLUTION
    if feedforward:
        return weight * l, bias
    return weight * l[:, None], bias * l
    ### END SOLUTION


# %%
check("ia3-merge", ia3_merge)

# %% [markdown]
# ### 4. Norms
#
# {{fold-norm}}
#
# A layer norm normalises a vector to `n`, and then multiplies it by its weight and adds its bias. So that they are not taken for those of
# the linear layer, here they are called `gain` and `shift`: `gain * n + shift`, entry by entry. LN tuning trains
# the two. A linear layer that reads the norm computes `weight @ (gain * n + shift) + bias`. Write
# `fold_norm(gain, shift, weight, bias)`: the weight and bias with which the layer could read `n` itself.


# %%
def fold_norm(gain, shift, weight, bias):
    """(weight, bias): weight @ n + bias is what the layer computed behind the norm."""
    ### BEGIN SOLUTION
    return weight * gain, weight @ shift + bias
    ### END SOLUTION


# %%
check("fold-norm", fold_norm)

# %% [markdown]
# So training a norm *is* (IA)³ and BitFit at once, with one vector shared by all layers that read it. Shown on a real model:
# train the norms of polyglot, then fold every one of them into the layers behind it, and set its gain to one. (It has RMSNorm, which
# has no shift.)

# %% tags=["nbval-ignore-output"]
model, tokenizer = pl.lab.load_base("polyglot-350k")
collate, italian = answers(tokenizer), polyglot.dataset("it")
model.requires_grad_(False)
for name, parameter in model.named_parameters():
    parameter.requires_grad = "norm" in name
train(model, italian, collate, steps=10, lr=0.1, batch_size=32, progress=False)

with torch.no_grad():
    behind_norms = model(**batch).logits
    readers = [(model.model.norm, [model.lm_head])]
    for block in model.model.layers:
        attention, mlp = block.self_attn, block.mlp
        readers.append(
            (
                block.input_layernorm,
                [attention.q_proj, attention.k_proj, attention.v_proj],
            )
        )
        readers.append((block.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj]))
    moved = max((norm.weight - 1).abs().max().item() for norm, _ in readers)
    for norm, layers in readers:
        no_shift = torch.zeros_like(norm.weight)
        for layer in layers:
            no_bias = torch.zeros(len(layer.weight))
            weight, bias = fold_norm(norm.weight, no_shift, layer.weight, no_bias)
            layer.weight.copy_(weight)
            assert not bias.any(), "no shift, no bias: nothing to add"
        norm.weight.fill_(1)
    folded = model(**batch).logits
print(f"a gain moved from one by up to {moved:.2f}; ", end="")
print(f"folded away, the logits differ by {(folded - behind_norms).abs().max():.1e}")
assert torch.allclose(folded, behind_norms, atol=1e-3), (
    "folded, the model answers the same"
)

# %% [markdown]
# This works since in these models nobody else reads a norm. In BERT and in minilm-l6, what a norm gives also goes around the next
# layers, by the residual connection, and there it cannot be folded away: training the norm does more there.
#
# ### 5. Rows of the table
#
# {{token-rows}}
#
# Sometimes one word is missing, and only its row of the embedding table is to be learnt. Write `token_rows(ids, table, chosen, rows)`:
# the embeddings of `ids`, except that a token that is `chosen[i]` gets `rows[i]`. The table stays as it is.


# %%
def token_rows(ids, table, chosen, rows):
    """Vectors of ids: rows of the table, (V, d), or of `rows`, (n, d), if in `chosen`."""
    ### BEGIN SOLUTION
    vectors = table[ids].clone()
    for token, row in zip(chosen, rows):
        vectors[ids == token] = row
    return vectors
    ### END SOLUTION


# %%
check("token-rows", token_rows)

# %% [markdown]
# ### 6. How well do people agree?
#
# {{raters-ceiling}}
#
# The sentences of this course come with what each of some twenty people said about them, from -4 to 4. Write `raters_ceiling(ratings)`,
# for a list of sentences, each a list of ratings. Take one rater out: does the sign of their rating agree with the sign of the
# mean of the others? Where either is zero, count half. Average over the raters of a sentence, then over the sentences.


# %%
def raters_ceiling(ratings):
    """How often one person agrees with the mean of the others, between 0 and 1."""
    ### BEGIN SOLUTION
    shares = []
    for given in ratings:
        total, hits = sum(given), 0
        for one in given:
            others = total - one
            hits += 0.5 if one * others == 0 else one * others > 0
        shares.append(hits / len(given))
    return sum(shares) / len(shares)
    ### END SOLUTION


# %%
check("raters-ceiling", raters_ceiling)

# %%
movies = pl.lab.sentiment("movies", "train")
unseen = pl.lab.sentiment("movies", "test")
ceiling = raters_ceiling([list(ratings) for ratings in unseen["ratings"]])
majority = max(unseen["label"].count(0), unseen["label"].count(1)) / len(unseen)
print(f"{len(unseen):,} film sentences that people did not call neutral")
print(f"one person agrees with the mean of the others in {ceiling:.1%}")
print(f"majority-class baseline: {majority:.1%}")
assert majority < ceiling < 1, "people agree more than chance, and not always"

# %% [markdown]
# A model that reaches this share agrees with the crowd as well as one of the crowd. It may go beyond it, since it learns from
# means, which are steadier than one person. The *majority-class baseline* is what always giving the more frequent label scores: whoever is
# near it has learnt next to nothing.
#
# ### 7. On par?
#
# First, how sure a mean of few runs is, on three invented differences: one method scored 1, 3 and 5 points more than another, with three seeds.
#
# - Their mean is 3. How much do single ones differ from it? The **standard deviation** says: the root of the mean squared
#   distance from the mean. The distances are -2, 0 and 2; their squares add up to 8.
# - Divide by what? Not by 3: the mean was computed from the same numbers and lies closer to them than the true one does. Since the
#   distances add up to zero, two of them fix the third: there are $n - 1 = 2$ **degrees of freedom**. So 8 / 2 = 4, and the root is 2.
# - Another three seeds would give another mean. How much would means differ? That is the **standard error**: the standard deviation over $\sqrt n$,
#   here $2 / \sqrt 3$.
# - The 95 % **confidence interval** of the mean goes `t` standard errors to each side. For a standard deviation that is known, `t` would be 1.96.
#   Here it is itself estimated, from three numbers, and may come out far too small by luck. The **t distribution** makes up for that: with three
#   seeds `t` is 4.303.

# %%
three = [1, 3, 5]
deviation = statistics.stdev(three)  # divides by n - 1; statistics.pstdev divides by n
error = deviation / len(three) ** 0.5
print(f"mean {statistics.fmean(three):.0f}, standard deviation {deviation:.0f}, ", end="")
print(f"standard error {error:.2f}, interval 3 ± {T95[3] * error:.1f}")
print(
    "t by the number of seeds:", {n: T95[n] for n in (3, 5, 6, 10)}, "and 1.96 if known"
)
assert T95[3] * error > 3, "all three above zero, and the interval holds zero"

# %% [markdown]
# All three differences were above zero, and the interval holds zero: three seeds that spread like this decide nothing.
#
# {{on-par}}
#
# Two methods, each run with the same few seeds. Write `on_par(ours, theirs, margin, t)`. Take the differences seed by seed (**paired
# differences**), their mean, and the 95 % interval around it, `t` standard errors to each side. The **equivalence margin** says how large a difference
# still counts as none; it has to be stated before anyone looks at results. Then:
#
# - `"on par"` if the whole interval lies strictly between `-margin` and `margin`;
# - otherwise `"better"` if all of it is above zero, `"worse"` if all of it is below;
# - otherwise `"cannot tell"`.


# %%
def on_par(ours, theirs, margin, t):
    """ "on par", "better", "worse" or "cannot tell": two methods, the same seeds."""
    ### BEGIN SOLUTION
    differences = [a - b for a, b in zip(ours, theirs)]
    middle = statistics.fmean(differences)
    half = t * statistics.stdev(differences) / len(differences) ** 0.5
    low, high = middle - half, middle + half
    if -margin < low and high < margin:
        return "on par"
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "cannot tell"
    ### END SOLUTION


# %%
check("on-par", on_par)

# %% [markdown]
# "On par" is a claim, and needs evidence like any other. A wide interval that holds zero is no evidence: it says that there were
# too few seeds. For the comparisons at the end of this page the margin is said now, before any result is seen: *two points of a hundred*.

# %%
MARGIN = 0.02

# %% [markdown]
#
# ## Run it on real models
#
# ### Near and far
#
# polyglot-350k knows Spanish; asked without a tag (`<?>`) it may answer in any of its languages, and is to be taught to answer in
# Spanish. Italian is new to it and related. Turkish is new and related to nothing it knows. Three methods, one learning rate
# each, 80 steps, one seed: the row of the tag, with your exercise's method; added biases, with your `train_biases`; LoRA, from lesson 03.

# %% tags=["nbval-ignore-output", "heavy"]
tags = {"es": "?", "it": "it", "tr": "tr"}
learnt = {}
for language, tag in tags.items():
    for method, lr in {"one row": 0.3, "added biases": 0.1, "LoRA r=8": 0.01}.items():
        model, tokenizer = pl.lab.load_base("polyglot-350k")
        torch.manual_seed(0)
        if method == "one row":
            row = tokenizer.convert_tokens_to_ids(f"<{tag}>")
            pl.attach(model, TrainableTokens, ["embed_tokens"], token_indices=[row])
        elif method == "added biases":
            give_biases(model)
            train_biases(model)
        else:
            pl.attach(model, LoRA, "all-linear", r=8, lora_alpha=16)
        data = polyglot.dataset(language, tag=tag)
        train(
            model,
            data,
            answers(tokenizer),
            steps=80,
            lr=lr,
            batch_size=32,
            progress=False,
        )
        learnt[language, method] = polyglot.accuracy(model, tokenizer, language, tag)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        head = f"{polyglot.LANGUAGES[language]:8} {method:13}"
        right = learnt[language, method]
        print(f"{head}{trained:>7,} trainable parameters: accuracy {right:6.1%}")

# %%
called_up = [learnt["es", method] for method in ("one row", "added biases", "LoRA r=8")]
assert min(called_up) > 0.9, f"what is known can be called up by any of them: {called_up}"
assert learnt["it", "LoRA r=8"] > learnt["it", "added biases"] + 0.2, (
    "Italian: LoRA learns more"
)
assert learnt["it", "added biases"] > learnt["it", "one row"], (
    "and one row learns nothing"
)
assert learnt["tr", "added biases"] < 0.1, "Turkish is beyond added biases here"

# %% [markdown]
# To call up what the model knows, one row of a table is enough. To learn a language, it is not: Italian sets added biases and LoRA apart, and
# Turkish is beyond all three in so few steps. One seed, one rate, 80 steps: the recorded runs below give each method its best of three rates and 120
# steps, and the added biases come further there. Trust those.
#
# ### Little data
#
# Film sentences on minilm-l6, which has biases: the head alone, and with your `train_biases` BitFit, head and biases. 256 sentences, one seed.

# %% tags=["nbval-ignore-output", "heavy"]
few, some = movies.select(range(256)), unseen.select(range(300))
collate = texts(encoder_tokenizer, max_length=32)
found = {}
for method, lr in {"head only": 0.01, "BitFit": 0.003}.items():
    encoder, _ = pl.lab.load_base("minilm-l6")
    torch.manual_seed(0)
    classifier = pl.lab.MeanPoolClassifier(encoder, num_labels=2)
    if method == "head only":
        classifier.requires_grad_(False)
    else:
        train_biases(classifier)
    classifier.classifier.requires_grad_(True)
    train(classifier, few, collate, steps=64, lr=lr, batch_size=16, progress=False)
    found[method] = evaluate(classifier, some, collate)
    trained = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
    share = found[method].accuracy
    spread = (share * (1 - share) / found[method].labels) ** 0.5
    print(f"{method:10}{trained:>7,} trainable parameters: accuracy {share:.1%} ", end="")
    print(f"on {found[method].labels} sentences, standard error {spread:.1%}")

# %%
worst = min(result.accuracy for result in found.values())
assert worst > majority, "both learn something: more than the majority-class baseline"

# %% [markdown]
# One seed, one learning rate, 300 sentences: this settles nothing. The standard error is that of a share $p$ of $n$ sentences,
# $\sqrt{p (1 - p) / n}$: the choice of the test sentences alone moves each number by more than the two differ. What can settle it are the recorded runs.

# %% [markdown]
# ## See: near and far, fairly
#
# The same three languages with seven methods, 120 steps, each method at several learning rates and with several seeds. The rate is chosen by
# the loss *in training*, so that the test is not asked twice. This was recorded, on a processor, by
# `peftlab record languages-learnt-and-lost`. Before you look: which of the seven will speak Turkish?

# %%
runs = complete(records.load("languages-learnt-and-lost"))
best = best_rates(runs, ["target", "method"], by="train_loss", lowest=True)
named = {"tag": "one row", "norms": "norms", "ia3": "(IA)³", "bias": "added biases"}
named |= {"lora-1": "LoRA r=1", "lora-8": "LoRA r=8", "full": "all weights"}


def of(frame, column, **chosen):
    """The column's values for the runs that match, in the order of their seeds."""
    for name, value in chosen.items():
        frame = frame[frame[name] == value]
    return list(frame.sort_values("seed")[column])


shown, edges = {}, []
for method, label in named.items():
    trainable = of(best, "trainable", target="it", method=method)[0]
    points = [interval(of(best, "learnt", target=t, method=method)) for t in tags]
    shown[f"{label} ({trainable:,})"] = points
    for t in tags:
        tried = sorted(
            runs[(runs["target"] == t) & (runs["method"] == method)]["lr"].unique()
        )
        if of(best, "lr", target=t, method=method)[0] in (tried[0], tried[-1]):
            edges.append(f"{label} in {polyglot.LANGUAGES[t]}")
print(
    f"accuracy after {runs['steps'].iloc[0]} steps, {runs['seed'].nunique()} seeds; ",
    end="",
)
print("in brackets, trainable parameters")
for label, points in shown.items():
    print(f"{label:22}", *(f"{mean:7.1%} ± {half:5.1%}" for mean, half in points))
print("the best rate was the lowest or highest tried:", "; ".join(edges))
print(records.stamp(runs))

# %% tags=["hide-source"]
figures.show(
    figures.intervals(
        ["Spanish, known", "Italian, related", "Turkish, far"],
        shown,
        f"What each method learnt: means of {runs['seed'].nunique()} seeds, 95 % intervals",
        "what it is taught",
        "accuracy on unseen numbers",
    ),
    alt="Seven methods, three languages. In Spanish, which the model knew, all are right almost always. In Italian LoRA of rank 8 and "
    "training all weights are near one, LoRA of rank 1 at four fifths, added biases at about a half, (IA)³ lower, norms and one row near zero. "
    "In Turkish only training all weights learns much.",
)

# %%
mean = {
    (t, m): interval(of(best, "learnt", target=t, method=m))[0]
    for t in tags
    for m in named
}
assert min(mean["es", m] for m in named) > 0.95, "all call Spanish up"
assert mean["it", "full"] > 0.9, "all weights learn Italian"
assert 0.6 > mean["it", "bias"] > mean["it", "norms"], "added biases: about half of it"
assert mean["tr", "full"] > 0.5, "all weights learn much Turkish"
assert mean["tr", "bias"] < 0.05, "added biases learn none"

# %% [markdown]
# Spanish shows nothing about a method's strength: all are as good as perfect there, even the one that trains 96 parameters.
# The differences begin with Italian. And Turkish, in this many steps, is beyond LoRA too; that is a fact about rank 8 *and* this many steps, which
# the experiment cannot take apart. Where the best rate was the highest tried, a higher one might have done more: for these the table says what was
# reached, not what can be.
#
# ## See: little and much data, fairly
#
# Film sentences on minilm-l6, by how many the model learns from. BitFit trains biases that are really there. Each method has three learning rates, the
# best chosen on validation sentences; every one trains the head along. The seed decides the split, the sentences and the start of the head, the same for all
# methods: so differences are taken seed by seed. The margin was said above. Here are the **paired differences** themselves, BitFit minus another, with
# the margin as a band. Recorded by `peftlab record small-and-strong`.

# %% tags=["nbval-ignore-output"]
films = complete(records.load("small-and-strong"))
chosen = best_rates(films, ["sentences", "method"], by="validation")
sizes, seeds = sorted(films["sentences"].unique()), films["seed"].nunique()
ways = {
    "head": "head only",
    "bitfit": "BitFit",
    "lora": "LoRA r=8",
    "full": "all weights",
}
tested = {(n, m): of(chosen, "test", sentences=n, method=m) for n in sizes for m in ways}


def gaps(n, other):
    """BitFit minus another, seed by seed."""
    return [a - b for a, b in zip(tested[n, "bitfit"], tested[n, other])]


others = ("head", "lora", "full")
print(records.stamp(films))

# %% tags=["nbval-ignore-output", "hide-source"]
figures.show(
    figures.intervals(
        [f"{n:,}" for n in sizes],
        {f"minus {ways[m]}": [interval(gaps(n, m)) for n in sizes] for m in others},
        f"BitFit minus another method: {seeds} paired seeds, 95 % intervals",
        "sentences to learn from",
        "difference of accuracy",
        band=(-MARGIN, MARGIN, "the margin"),
        levels={"no difference": 0},
        joined=False,
    ),
    alt="Differences of accuracy, BitFit minus head only, LoRA and all weights, for three numbers of sentences, with 95 % intervals and the margin "
    "of two points as a band. Most intervals reach out of the band and hold zero.",
)

# %% [markdown]
# Now the question of this lesson, with your `on_par`:

# %% tags=["nbval-ignore-output"]
verdicts = {}
for n in sizes:
    for other in others:
        ours, theirs = tested[n, "bitfit"], tested[n, other]
        verdicts[n, other] = on_par(ours, theirs, margin=MARGIN, t=T95[seeds])
        middle, half = interval(gaps(n, other))
        print(f"{n:>5,} sentences, BitFit minus {ways[other]:11}: ", end="")
        print(f"{middle:+6.1%} ± {half:5.1%}  {verdicts[n, other]}")

# %%
undecided = list(verdicts.values()).count("cannot tell")
assert undecided > len(verdicts) / 2, f"most comparisons decide nothing: {undecided} of 9"
for (n, other), verdict in verdicts.items():
    half = interval(gaps(n, other))[1]
    assert verdict != "on par" or half < MARGIN, (
        "on par needs an interval inside the margin"
    )

# %% [markdown]
# Count the verdicts. With this many seeds and test sentences an interval is mostly wider than the margin, and then nobody may say
# *on par*, in either direction. Two say *worse*: with 2,048 sentences BitFit is behind LoRA and behind all weights. Before a verdict is believed, two
# more looks. On par, or worse, *at what?* Here is what each scored, above the majority-class
# baseline of its test; and for training all weights the loss on the sentences it learnt from.

# %% tags=["nbval-ignore-output"]
baseline = {
    n: statistics.fmean(of(chosen, "always_the_commoner", sentences=n, method="head"))
    for n in sizes
}
for n in sizes:
    scores = (
        f"{label} {statistics.fmean(tested[n, m]):.1%}" for m, label in ways.items()
    )
    print(f"{n:>5,} sentences: baseline {baseline[n]:.1%}", *scores, sep="  ")
    loss = statistics.fmean(of(chosen, "train_loss", sentences=n, method="full"))
    print(f"{'':17}all weights, loss in training: {loss:.2f} nats; a coin has 0.69")
low = max(statistics.fmean(tested[32, m]) - baseline[32] for m in ways)
assert low < 0.1, "with 32 sentences nobody is far above the baseline"

# %% [markdown]
# With 32 sentences all four stand a few points above the baseline: methods that have learnt next to nothing are on par in that. Look at the loss of all
# weights there too: it knows its 32 sentences far better than the test shows. That is **overfitting**.
#
# And how many verdicts are there? Nine. Each interval misses the truth one time in twenty; of nine, how often does at least one? Ask your `on_par`, with
# differences drawn around zero: how often is at least one of nine *better* or *worse*, where nothing is?

# %%
draw = torch.Generator().manual_seed(0)
alarms = {1: 0, 9: 0}
for _ in range(1000):
    invented = (0.03 * torch.randn(9, 6, generator=draw)).tolist()
    said = [on_par(d, [0.0] * 6, margin=0.0, t=T95[6]) != "cannot tell" for d in invented]
    alarms[1] += said[0]
    alarms[9] += any(said)
print(
    f"nothing to find, six seeds: one test says otherwise in {alarms[1] / 1000:.0%}, ",
    end="",
)
print(f"at least one of nine in {alarms[9] / 1000:.0%}")
assert 3 * alarms[1] < alarms[9], "nine looks find more than one"

# %% [markdown]
# This is the trouble with **multiple comparisons**: a single *better* or *worse* among nine is no finding. The nine above share their runs, so the number is
# not quite theirs; the warning is. Either one comparison is named beforehand, or each is held to a stricter interval. The two *worse* above end close to zero and
# were not named beforehand: a reason to run that size again, not yet a result. (That BitFit falls behind where there is much data is what its paper found, too.)
#
# How many seeds would do? Choose a number of seeds and a standard deviation of the differences, and see from where on a true difference of zero
# would be *called* zero.

# %% tags=["nbval-ignore-output"]
spread = statistics.fmean(statistics.stdev(gaps(n, "full")) for n in sizes)
at_ten = T95[10] * spread / 10**0.5
print(
    f"BitFit minus all weights: standard deviation {100 * spread:.1f} points; ",
    end="",
)
print(f"with ten seeds still ± {100 * at_ten:.1f}")
assert at_ten > MARGIN, "ten seeds are too few for this margin"


# %% tags=["hide-source", "nbval-ignore-output"]
def can_tell(seeds, deviation_in_points):
    half = T95[seeds] * deviation_in_points / seeds**0.5
    wide = min(100, 10 * half)
    bar = f"<div role='img' aria-label='half width {half:.1f} points' style='width:{wide}%;background:{figures.PALETTE[0]};height:1.2em'></div>"
    verdict = (
        "narrow enough for a margin of 2 points"
        if half < 2
        else "too wide for a margin of 2 points"
    )
    return f"<p role='status' aria-live='polite'>half width of the interval: {half:.1f} points; {verdict}.</p>{bar}"


measured = round(100 * spread, 1)
widgets.explore(
    can_tell,
    seeds=(5, list(range(2, 11))),
    deviation_in_points=(measured, sorted({0.5, 1.0, 1.5, 2.0, 4.0, measured})),
)

# %% [markdown]
# At the deviation that was measured the slider never reaches the margin: ten seeds are not enough to call BitFit on par with all weights, however equal
# they may be. Half the deviation would do, and that is what more test sentences or a larger margin, said beforehand, can give. So can many more seeds.

# %% [markdown]
# ## The library
#
# `peft` has (IA)³, norms and trainable tokens under the names `IA3Config`, `LNTuningConfig` and `TrainableTokensConfig`. Your functions against it, with
# random factors on polyglot:

# %%
import warnings

import peft

warnings.filterwarnings("ignore")
model, tokenizer = pl.lab.load_base("polyglot-350k")
places = ["v_proj", "down_proj"]
config = peft.IA3Config(target_modules=places, feedforward_modules=["down_proj"])
theirs = peft.get_peft_model(model, config)
block, draw = theirs.base_model.model.model.layers[1], torch.Generator().manual_seed(0)
for layer, feedforward in ((block.self_attn.v_proj, False), (block.mlp.down_proj, True)):
    l, weight = layer.ia3_l["default"], layer.base_layer.weight
    with torch.no_grad():
        l.copy_(torch.randn(l.shape, generator=draw) + 1)
        x = torch.randn(2, 5, weight.shape[1], generator=draw)
        expected = ia3_forward(x, weight, None, l.flatten(), feedforward)
        no_bias = torch.zeros(len(weight))
        merged = F.linear(x, ia3_merge(weight, no_bias, l.flatten(), feedforward)[0])
        same = [torch.allclose(layer(x), mine, atol=1e-5) for mine in (expected, merged)]
        print(
            f"factors {tuple(l.shape)}: forward the same {same[0]}, merged {same[1]}"
        )
        assert all(same), "your functions and the library's layer agree"

# %%
model, tokenizer = pl.lab.load_base("polyglot-350k")
ids = tokenizer("<it>777=", return_tensors="pt")["input_ids"]
table = model.model.embed_tokens.weight.detach().clone()
row = tokenizer.convert_tokens_to_ids("<it>")
config = peft.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[row])
theirs = peft.get_peft_model(model, config)
layer = theirs.base_model.model.model.embed_tokens
with torch.no_grad():
    new = torch.randn(1, table.shape[1], generator=draw)
    layer.trainable_tokens_delta["default"].copy_(new)
    mine = token_rows(ids, table, [row], new)
    assert torch.allclose(layer(ids), mine, atol=1e-6), (
        "the library looks up the same vectors"
    )
print("the row of <it>, as the library looks it up and as your token_rows does: the same")

# %% [markdown]
# It has no BitFit. LoRA's option `bias="all"` trains biases besides, with a consequence that lesson 09 comes back to. On a Llama it has
# nothing to train, and says nothing:

# %%
for name in ("minilm-l6", "polyglot-350k"):
    base, _ = pl.lab.load_base(name)
    targets = ["query"] if name == "minilm-l6" else ["q_proj"]
    counts = []
    for bias in ("none", "all"):
        base, _ = pl.lab.load_base(name)
        adapted = peft.get_peft_model(
            base, peft.LoraConfig(r=4, target_modules=targets, bias=bias)
        )
        counts.append(adapted.get_nb_trainable_parameters()[0])
    print(f"{name:14} bias='all' adds {counts[1] - counts[0]:>6,} trainable parameters")
assert counts[1] == counts[0], "no bias, nothing added"

# %% [markdown]
# ## Read the result
#
# **What it shows.** A bias moves all inputs alike, a factor turns a feature up or down for all inputs alike, and both do their work
# through the layers behind. What a model already knows they call up as well as any method. What
# it has to learn, they learn less of the farther it is away: that is the three languages.
#
# **What it does not show.** The film sentences do not decide whether BitFit is on par with training everything: read your verdicts
# above, and how wide their intervals are. minilm-l6 is small, and it was fine-tuned for sentences before; the steps were few. The claim was made for BERT and
# for tasks with few examples, and was not tested on those here. Nor was each method given more steps, which the slow ones may need. The three languages say
# something about biases that were *added*, and nothing about BitFit, which polyglot cannot have.
#
# | claim | here |
# | --- | --- |
# | *BitFit trains biases alone, about a thousandth of the model* (C26) | so for BERT, RoBERTa and GPT-2 by count; for the Llama family there is nothing to train |
# | *BitFit is on par with full fine-tuning* (C27) | not settled: on film sentences, the only place here with biases of its own, most intervals are wider than a margin of two points; with 2,048 of them BitFit is behind, in one of nine looks |
# | *Small methods fall short far from what was learnt before* (C29) | so here for one row, norms, (IA)³ and added biases: at most about half of Italian, which is related, and nothing of Turkish, which is far |
#
# **Negative results, said aloud.** Norms learnt next to no Italian, and (IA)³ less than a quarter of it, at the best of three rates. One row of the embedding table
# learnt none. No method but training everything learnt much Turkish. And most comparisons on film sentences end
# in words no table of results has a column for: cannot tell.
#
# ## Go further
#
# - Give the added biases more steps on Turkish: does the gap to LoRA close, or was it one of strength? `peftlab record` runs a changed plan.
# - Train biases *and* factors together. Lesson 08 has you build that method.
# - An open question: given a model and a few examples, can one tell beforehand whether the task is to be called up or to be learnt?
#
# Sources: BitFit, [arXiv:2106.10199](https://arxiv.org/abs/2106.10199); (IA)³, [arXiv:2205.05638](https://arxiv.org/abs/2205.05638);
# tuning of norms, [arXiv:2312.11420](https://arxiv.org/abs/2312.11420). Sentences and ratings: Hutto and Gilbert, ICWSM 2014. The library: `peft`, Apache-2.0.

# %% [markdown] tags=["written"]
# ## In your own words
#
# Somebody reads the mean accuracies on film sentences and writes: *BitFit is on par with full fine-tuning.* What did you see in your verdicts and beside
# them that keeps you from writing it? Which result, by which margin, would let you?
