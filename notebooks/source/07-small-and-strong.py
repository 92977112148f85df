# %% [markdown]
# # 07 Small and strong
#
# **45 minutes** of reading and doing, **60 seconds** of computing on two quiet cores. Before this: lesson 03. Lesson 01 helps.
# You need to know what a linear layer and a norm compute.
#
# After this page you will have built four methods that train next to nothing: biases alone (BitFit), a factor for every feature
# ((IA)3), the norms, and single rows of the embedding table. You will have met the models on which the first of them trains
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
# LoRA changes a weight by a product of two matrices. One can ask for less: leave every matrix as it is, and train only **vectors**,
# which move what passes through, or turn it up and down.
#
# $$y = l \odot (W x + b + b')$$
#
# - $W$ and $b$, the weight and bias of a layer, are frozen, and $x$ and $y$ are what enters and leaves it;
# - $b'$ is what **BitFit** learns: it is added to the bias, and moves every input's output by the same amount;
# - $l$ is what **(IA)3** learns: a factor for every feature, which starts at one; $\odot$ multiplies entry by entry;
# - a **norm** ends in a factor and, mostly, a bias of its own, and can be trained by itself.

# %%
figures.show(
    figures.small_vectors(),
    alt="Three equations as boxes. BitFit: y equals frozen W times x plus a trained bias. (IA)3: y equals a trained factor "
    "times the whole of W x plus b. Norms: a trained factor and a trained shift on the normalised vector, before the frozen layer.",
)

# %% [markdown]
# How little is that? Four models, built without their weights, from their shapes alone.

# %%
from transformers import BertConfig, GPT2Config, LlamaConfig, RobertaConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING

shapes = {
    "BERT base": BertConfig(),
    "RoBERTa large": RobertaConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
                                   vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
    "GPT-2 small": GPT2Config(),
    "Llama 3.2, the size of 1 billion": LlamaConfig(hidden_size=2048, num_hidden_layers=16, num_attention_heads=32,
                                                    num_key_value_heads=8, intermediate_size=8192, vocab_size=128256, head_dim=64),
}  # fmt: skip
for name, config in shapes.items():
    with torch.device("meta"):
        model = MODEL_MAPPING[type(config)](config)
    everything = sum(p.numel() for p in model.parameters())
    biases = sum(p.numel() for path, p in model.named_parameters() if path.endswith("bias"))
    print(f"{name:33}{biases:>9,} of {everything:>13,} are biases: {biases / everything:.3%}")
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
# whose own name, the last part of the full one, ends in `bias`. Return how many *numbers* are trained.


# %%
def train_biases(model):
    """Switch training on for the biases alone; returns how many numbers they are."""
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
for name, one in {"minilm-l6": encoder, "polyglot-350k": model, "smollm2-135m": talker}.items():
    print(f"{name:15} biases: {train_biases(one):,}")
assert train_biases(model) == train_biases(talker) == 0

for attempt in (
    lambda: train(model, polyglot.dataset("it"), answers(tokenizer), steps=1, lr=1e-2, progress=False),
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
# trained parameters *before* training, always.
#
# </details>
#
# One can give such a model biases: zero everywhere at the start, so that nothing changes until they are trained. It is no
# longer quite what BitFit's authors meant, who trained what was there. `peft` offers it under another name, BEFT.


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
    assert torch.equal(model(**batch).logits, before)
print(f"now there are {train_biases(model):,} to train, and the model answers what it answered before")

# %% [markdown]
# With them, back to what you predicted: what does moving one bias do, right after its layer and at the end?

# %%
first = model.model.layers[0].mlp.up_proj
seen = {}
first.register_forward_hook(lambda layer, inputs, y: seen.update(y=y[:, -1].clone()))


@torch.no_grad()
def apart(text="<es>342=", other="<it>777="):
    """How the two texts' vectors differ at the last place: right after the layer, and in the model's output."""
    out = model(**tokenizer([text, other], return_tensors="pt")).logits[:, -1]
    return seen["y"][0] - seen["y"][1], out[0] - out[1]


here, at_the_end = apart()
with torch.no_grad():
    first.bias += torch.randn(first.bias.shape, generator=torch.Generator().manual_seed(0))
here_now, at_the_end_now = apart()
print("right after the layer, the difference is the same:", torch.allclose(here, here_now, atol=1e-5))
print("at the end of the model:", torch.allclose(at_the_end, at_the_end_now, atol=1e-5))
assert torch.allclose(here, here_now, atol=1e-5) and not torch.allclose(at_the_end, at_the_end_now, atol=1e-1)

# %% [markdown]
# This is both the limit of a bias and why it can do something all the same: it moves every input alike, and the layers behind it
# are not linear.
#
# ### 2. (IA)3
#
# {{ia3-forward}}
#
# Write `ia3_forward(x, weight, bias, l, feedforward)`. On most layers, `l` has `d_out` factors and they multiply what leaves the layer,
# all of it. On the last layer of a feed-forward block (`feedforward=True`) it has `d_in` and they multiply what *enters*.


# %%
def ia3_forward(x, weight, bias, l, feedforward):
    """What leaves the layer, (..., d_out), for x of shape (..., d_in) and one factor per feature in l."""
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
# A norm first brings a vector to a standard length, and then computes `gain * n + shift`, entry by entry. LN tuning trains
# the two. A linear layer that reads the norm computes `weight @ (gain * n + shift) + bias`. Write
# `fold_norm(gain, shift, weight, bias)`: the weight and bias with which the layer could read `n` itself.


# %%
def fold_norm(gain, shift, weight, bias):
    """(weight, bias) such that weight @ n + bias is what the layer computed behind the norm."""
    ### BEGIN SOLUTION
    return weight * gain, weight @ shift + bias
    ### END SOLUTION


# %%
check("fold-norm", fold_norm)

# %% [markdown]
# So training a norm *is* (IA)3 and BitFit at once, with one vector shared by all layers that read it. Shown on a real model:
# train the norms of polyglot, then fold every one of them into the layers behind it, and set its gain to one. (Its norms have
# no shift.)

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
        readers.append((block.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj]))
        readers.append((block.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj]))
    for norm, layers in readers:
        for layer in layers:
            weight, bias = fold_norm(
                norm.weight, torch.zeros_like(norm.weight), layer.weight, torch.zeros(len(layer.weight))
            )
            layer.weight.copy_(weight)
            assert not bias.any()
        moved = (norm.weight - 1).abs().max().item()
        norm.weight.fill_(1)
    folded = model(**batch).logits
print(
    f"a gain moved from one by up to {moved:.2f}; folded away, the logits differ by {(folded - behind_norms).abs().max():.1e}"
)
assert torch.allclose(folded, behind_norms, atol=1e-3)

# %% [markdown]
# This works since in these models nobody else reads a norm. In BERT and in minilm-l6, what a norm gives also goes around the next
# layers, on the residual path, and there it cannot be folded away: training the norm does more there.
#
# ### 5. Rows of the table
#
# {{token-rows}}
#
# Sometimes one word is missing, and only its row of the embedding table is to be learnt. Write `token_rows(ids, table, chosen, rows)`:
# the embeddings of `ids`, except that a token that is `chosen[i]` gets `rows[i]`. The table stays as it is.


# %%
def token_rows(ids, table, chosen, rows):
    """The vectors of ids, (..., d): those of the table, (V, d), and for the tokens in `chosen` those in rows, (n, d)."""
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
    """How often one person agrees with the mean of the others: a share between 0 and 1."""
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
ceiling = raters_ceiling(unseen["ratings"])
majority = max(unseen["label"].count(0), unseen["label"].count(1)) / len(unseen)
print(f"{len(unseen):,} film sentences that people did not call neutral")
print(
    f"one person agrees with all others in {ceiling:.1%}; always giving the commoner answer is right in {majority:.1%}"
)

# %% [markdown]
# A model that reaches this share agrees with the crowd as well as one of the crowd. It may go beyond it, since it learns from
# means, which are steadier than one person.
#
# ### 7. On par?
#
# {{on-par}}
#
# Two methods, each run with the same few seeds. Write `on_par(ours, theirs, margin, t)`. Take the differences seed by seed, their
# mean, and a 95 % interval around it: `t` standard errors to each side (`t` depends on the number of seeds, and is given). Then:
#
# - `"on par"` if the whole interval lies strictly between `-margin` and `margin`;
# - otherwise `"better"` if all of it is above zero, `"worse"` if all of it is below;
# - otherwise `"cannot tell"`.


# %%
def on_par(ours, theirs, margin, t):
    """ "on par", "better", "worse" or "cannot tell", from the results of two methods with the same seeds."""
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
# too few seeds.
#
# ## Run it on real models
#
# ### Near and far
#
# polyglot-350k knows Spanish; asked without a tag (`<?>`) it may answer in any of its languages, and is to be taught to answer in
# Spanish. Italian is new to it and related. Turkish is new and related to nothing it knows. Three methods, one learning rate
# each: the row of the tag, with your exercise's method; biases, with your `train_biases`; LoRA, from lesson 03.

# %% tags=["nbval-ignore-output", "heavy"]
tags = {"es": "?", "it": "it", "tr": "tr"}
learnt = {}
for language, tag in tags.items():
    for method, lr in {"one row": 0.3, "biases": 0.1, "LoRA r=8": 0.01}.items():
        model, tokenizer = pl.lab.load_base("polyglot-350k")
        torch.manual_seed(0)
        if method == "one row":
            row = tokenizer.convert_tokens_to_ids(f"<{tag}>")
            pl.attach(model, TrainableTokens, ["embed_tokens"], token_indices=[row])
        elif method == "biases":
            give_biases(model)
            train_biases(model)
        else:
            pl.attach(model, LoRA, "all-linear", r=8, lora_alpha=16)
        data = polyglot.dataset(language, tag=tag)
        train(model, data, answers(tokenizer), steps=80, lr=lr, batch_size=32, progress=False)
        learnt[language, method] = polyglot.accuracy(model, tokenizer, language, tag)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        print(
            f"{polyglot.LANGUAGES[language]:8} {method:9} {trained:>7,} trained: {learnt[language, method]:6.1%} right"
        )

# %%
assert all(learnt["es", method] > 0.9 for method in ("one row", "biases", "LoRA r=8")), "what is known can be called up"
assert learnt["it", "LoRA r=8"] > learnt["it", "biases"] + 0.2 > learnt["it", "one row"] + 0.2
assert learnt["tr", "biases"] < 0.1

# %% [markdown]
# To call up what the model knows, one row of a table is enough. To learn a language, it is not: Italian sets biases and LoRA apart, and
# Turkish is beyond all three in so few steps.
#
# ### Little data
#
# Film sentences on minilm-l6: the head alone, and with your `train_biases` the biases too. 256 sentences, one seed.

# %% tags=["nbval-ignore-output", "heavy"]
few, some = movies.select(range(256)), unseen.select(range(300))
collate = texts(encoder_tokenizer, max_length=32)
found = {}
for method, lr in {"head only": 0.01, "biases and head": 0.003}.items():
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
    print(f"{method:16}{trained:>7,} trained: {found[method].accuracy:.1%} of {found[method].labels} sentences right")

# %%
assert min(result.accuracy for result in found.values()) > majority

# %% [markdown]
# One seed, one learning rate, 300 sentences: this settles nothing. What settles it are the recorded runs.

# %% [markdown]
# ## See: near and far, fairly
#
# The same three languages with seven methods, each at several learning rates and with several seeds. The rate is chosen by the
# loss *in training*, so that the test is not asked twice. This was recorded, on a processor, by
# `peftlab record languages-learnt-and-lost`. Before you look: which of the seven will speak Turkish?

# %%
runs = complete(records.load("languages-learnt-and-lost"))
best = best_rates(runs, ["target", "method"], by="train_loss", lowest=True)
named = {"tag": "one row", "norms": "norms", "ia3": "(IA)3", "bias": "biases", "lora-1": "LoRA r=1", "lora-8": "LoRA r=8", "full": "everything"}  # fmt: skip


def of(frame, column, **chosen):
    """The column's values for the runs that match, in the order of their seeds."""
    for name, value in chosen.items():
        frame = frame[frame[name] == value]
    return list(frame.sort_values("seed")[column])


shown = {
    f"{label} ({of(best, 'trainable', target='it', method=method)[0]:,})": [
        interval(of(best, "learnt", target=target, method=method)) for target in tags
    ]
    for method, label in named.items()
}
figures.show(
    figures.intervals(
        ["Spanish, known", "Italian, related", "Turkish, far"],
        shown,
        "What each method learnt, 95 % intervals over seeds",
        "what it is taught",
        "share of unseen numbers right",
    ),
    alt="Seven methods, three languages. In Spanish, which the model knew, all are right almost always. In Italian LoRA of rank 8 and "
    "training everything are near one, LoRA of rank 1 at four fifths, biases at about a half, (IA)3 lower, norms and one row near zero. "
    "In Turkish only training everything learns much.",
)
print(f"{runs['seed'].nunique()} seeds; in brackets, how many numbers are trained.")
for label, points in shown.items():
    print(f"{label:22}", *(f"{mean:7.1%} ± {half:5.1%}" for mean, half in points))
print(records.stamp(runs))

# %%
mean = {(t, m): interval(of(best, "learnt", target=t, method=m))[0] for t in tags for m in named}
assert min(mean["es", m] for m in named) > 0.95
assert mean["it", "full"] > 0.9
assert 0.6 > mean["it", "bias"] > mean["it", "norms"]
assert mean["tr", "full"] > 0.5
assert mean["tr", "bias"] < 0.05, "the far language is learnt by what can learn"

# %% [markdown]
# Spanish shows nothing about a method's strength: all are as good as perfect there, even the one that trains 96 numbers.
# The differences begin with Italian. And Turkish, in this many steps, is beyond LoRA too; that is a fact about rank 8 *and* this many steps, which
# the experiment cannot take apart.
#
# ## See: little and much data, fairly
#
# Film sentences on minilm-l6, by how many the model learns from. Each method has three learning rates, the best chosen on validation sentences. The
# seed decides the split, the sentences and the start of the head. The band is the ceiling you measured, the dotted line what guessing
# gives. Recorded by `peftlab record small-and-strong`.

# %% tags=["nbval-ignore-output"]
films = complete(records.load("small-and-strong"))
chosen = best_rates(films, ["sentences", "method"], by="validation")
sizes, seeds = sorted(films["sentences"].unique()), films["seed"].nunique()
ways = {"head": "head only", "bitfit": "biases", "lora": "LoRA r=8", "full": "everything"}
tested = {(n, m): of(chosen, "test", sentences=n, method=m) for n in sizes for m in ways}
figures.show(
    figures.intervals(
        [f"{n:,}" for n in sizes],
        {label: [interval(tested[n, m]) for n in sizes] for m, label in ways.items()},
        f"Film sentences, 95 % intervals over {seeds} seeds",
        "sentences to learn from",
        "share of 400 test sentences right",
        band=(ceiling - 0.005, ceiling + 0.005, "one person against the others"),
        levels={"the commoner answer": films["always_the_commoner"].mean()},
    ),
    alt="Four methods, head only, biases, LoRA and everything, by how many sentences they learnt from: all rise with more data, from little above guessing, their intervals overlap, "
    "and all stay below the band where one person agrees with the others.",
)
print(f"{seeds} seeds of the five planned are complete")
for n in sizes:
    print(f"{n:>5,} sentences:", *(f"{ways[m]} {sum(tested[n, m]) / seeds:.1%}" for m in ways), sep="  ")
print(records.stamp(films))

# %% [markdown]
# Now the question of this lesson, with your `on_par`. How much worse may something be and still be called on par? That must be said
# *before* one looks. Two points of a hundred:

# %% tags=["nbval-ignore-output"]
verdicts = {}
for n in sizes:
    for other in ("head", "lora", "full"):
        verdicts[n, other] = on_par(tested[n, "bitfit"], tested[n, other], margin=0.02, t=T95[seeds])
        gap = interval([a - b for a, b in zip(tested[n, "bitfit"], tested[n, other])])
        print(
            f"{n:>5,} sentences, biases against {ways[other]:10}: {gap[0]:+6.1%} ± {gap[1]:5.1%}  {verdicts[n, other]}"
        )

# %%
assert list(verdicts.values()).count("cannot tell") > len(verdicts) / 2, "most comparisons decide nothing"
for n in sizes:
    for other in ("lora", "full"):
        gaps = [a - b for a, b in zip(tested[n, "bitfit"], tested[n, other])]
        told = (
            "the interval is wider than the margin"
            if interval(gaps)[1] > 0.02
            else "the interval is narrow enough to tell"
        )
        assert verdicts[n, other] != "on par" or interval(gaps)[1] < 0.02, told

# %% [markdown]
# Count the verdicts. With this many seeds and test sentences an interval is mostly wider than the margin, and then nobody may say
# *on par*, in either direction. Two curves that lie close in a figure are no evidence of equality.
#
# How good can the margin get? Choose a number of seeds and a spread between them, and see from where on a true difference of zero
# would be *called* zero.

# %% tags=["nbval-ignore-output"]
spread = statistics.fmean(
    statistics.stdev([a - b for a, b in zip(tested[n, "bitfit"], tested[n, "full"])]) for n in sizes
)


def can_tell(seeds, spread_in_points):
    half = T95[seeds] * spread_in_points / seeds**0.5
    wide = min(100, 10 * half)
    bar = f"<div role='img' aria-label='half width {half:.1f} points' style='width:{wide}%;background:{figures.PALETTE[0]};height:1.2em'></div>"
    verdict = "narrow enough for a margin of 2 points" if half < 2 else "too wide for a margin of 2 points"
    return f"<p role='status' aria-live='polite'>half width of the interval: {half:.1f} points; {verdict}.</p>{bar}"


print(f"here, the difference between biases and everything spreads by {100 * spread:.1f} points from seed to seed")
widgets.explore(can_tell, seeds=(5, list(range(2, 11))), spread_in_points=(2.0, [0.5, 1.0, 1.5, 2.0, 3.0, 4.0]))

# %% [markdown]
# ## The library
#
# `peft` has (IA)3, norms and trained tokens under these names. Your functions against it, with random factors on polyglot:

# %%
import warnings

import peft

warnings.filterwarnings("ignore")
model, tokenizer = pl.lab.load_base("polyglot-350k")
theirs = peft.get_peft_model(
    model, peft.IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"])
)
block, draw = theirs.base_model.model.model.layers[1], torch.Generator().manual_seed(0)
for layer, feedforward in ((block.self_attn.v_proj, False), (block.mlp.down_proj, True)):
    l, weight = layer.ia3_l["default"], layer.base_layer.weight
    with torch.no_grad():
        l.copy_(torch.randn(l.shape, generator=draw) + 1)
        x = torch.randn(2, 5, weight.shape[1], generator=draw)
        expected = ia3_forward(x, weight, None, l.flatten(), feedforward)
        merged = F.linear(x, ia3_merge(weight, torch.zeros(len(weight)), l.flatten(), feedforward)[0])
        print(type(layer).__name__, tuple(l.shape), torch.allclose(layer(x), expected, atol=1e-5))
        assert torch.allclose(layer(x), expected, atol=1e-5) and torch.allclose(layer(x), merged, atol=1e-5)

# %%
model, tokenizer = pl.lab.load_base("polyglot-350k")
ids = tokenizer("<it>777=", return_tensors="pt")["input_ids"]
table = model.model.embed_tokens.weight.detach().clone()
row = tokenizer.convert_tokens_to_ids("<it>")
theirs = peft.get_peft_model(model, peft.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[row]))
layer = theirs.base_model.model.model.embed_tokens
with torch.no_grad():
    new = torch.randn(1, table.shape[1], generator=draw)
    layer.trainable_tokens_delta["default"].copy_(new)
    assert torch.allclose(layer(ids), token_rows(ids, table, [row], new), atol=1e-6)
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
        adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=targets, bias=bias))
        counts.append(adapted.get_nb_trainable_parameters()[0])
    print(f"{name:14} bias='all' adds {counts[1] - counts[0]:>6,} trained numbers")
assert counts[1] == counts[0]

# %% [markdown]
# ## Read the result
#
# **What it shows.** A bias moves all inputs alike, a factor turns a feature up or down for all inputs alike, and both do their work
# through the layers behind. What a model already knows they call up as well as any method. What
# it has to learn, they learn less of the farther it is away: that is the three languages.
#
# **What it does not show.** The film sentences do not decide whether BitFit is on par with training everything: read your verdicts
# above, and how wide their intervals are. minilm-l6 is small, and it was fine-tuned for sentences before; the steps were few. The claim was made for BERT and
# for tasks with few examples, and was not tested on those here. Nor was each method given more steps, which the slow ones may need.
#
# | claim | here |
# | --- | --- |
# | C26: *BitFit trains biases alone, about a thousandth of the model* | so for BERT, RoBERTa and GPT-2 by count; for the Llama family there is nothing to train |
# | C27: *on par with full fine-tuning* | for what the model knows, yes, and so is one row of a table; on film sentences see the verdicts, by size |
# | C29: *it falls short far from what was learnt before* | so here: about half of a related language, nothing of a far one |
#
# **Negative results, said aloud.** Norms learnt next to no Italian, and (IA)3 less than a quarter of it, at the best of three rates. One row of the embedding table
# learnt none, and could not. No method but training everything learnt much Turkish. And most comparisons on film sentences end
# in words no table of results has a column for: cannot tell.
#
# ## Go further
#
# - Give the biases more steps on Turkish: does the gap to LoRA close, or was it one of strength? `peftlab record` runs a changed plan.
# - Train biases *and* factors together. Lesson 08 has you build that method.
# - An open question: given a model and a few examples, can one tell beforehand whether the task is to be called up or to be learnt?
#
# Sources: BitFit, [arXiv:2106.10199](https://arxiv.org/abs/2106.10199); (IA)3, [arXiv:2205.05638](https://arxiv.org/abs/2205.05638);
# tuning of norms, [arXiv:2312.11420](https://arxiv.org/abs/2312.11420). Sentences and ratings: Hutto and Gilbert, ICWSM 2014. The library: `peft`, Apache-2.0.
