# %% [markdown]
# # 12 One base, many tasks
#
# **110 minutes** of reading and doing, **60 seconds** of computing on two quiet cores. Before this: lessons 02 and 03; lesson 09 for what a
# router is.
#
# After this page you will be able to keep a hundred tasks on one base, answer several of them in one batch, and say when adapters may
# be made one and when that destroys them all. You will have written what the library calls `cat`, `svd`, `linear`, TIES and DARE, and
# found out which of them is the sum.

# %%
import statistics
import tempfile
import warnings

import torch
import torch.nn.functional as F

import peftlab as pl
from peftlab.classroom import check, predict
from peftlab.lab import figures, merging, polyglot, records
from peftlab.lab.clock import Stopwatch
from peftlab.lab.experiments import many_tasks
from peftlab.lab.sweeps import complete, interval
from peftlab.lab.training import answers, train
from peftlab.methods import LoRA

# peft asks transformers by a name that will change
warnings.filterwarnings("ignore", "`is_gradient_checkpointing`")
here = tempfile.TemporaryDirectory()  # files of this page; gone when its kernel stops

# %% [markdown]
# ## Predict

# %%
predict("orthogonal-updates")

# %% [markdown]
# ## The idea
#
# The base is large and does not change. An adapter is small and knows one task. So there are three ways to serve many tasks:
#
# - *switch*: the base stays in memory, and the adapter of the task that is asked for is turned on;
# - **mixed batch**: one batch for the base, and in it each row has its own adapter;
# - **model merging**: several adapters become one update, for all tasks at once, and nobody has to say which is meant.
#
# The first two are exact: each row gets what its own adapter gives. The third asks whether one weight can hold several tasks. The update
# of one task, as a vector of all its entries, is called its **task vector**, and adding and subtracting such vectors **task arithmetic**
# ([arXiv:2212.04089](https://arxiv.org/abs/2212.04089)). For LoRA a sum is again a LoRA:
#
# $$w_1 s_1 B_1 A_1 + w_2 s_2 B_2 A_2 = \begin{pmatrix} w_1 s_1 B_1 & w_2 s_2 B_2 \end{pmatrix} \begin{pmatrix} A_1 \\ A_2 \end{pmatrix}$$
#
# - $A_i$, $r_i \times d_{in}$, and $B_i$, $d_{out} \times r_i$, are adapter $i$, and $s_i$ is its scale, such as $\alpha / r$;
# - $w_i$ is the weight that you give it: 1 to add it, a half to average two, below zero to subtract it;
# - on the right stand one $B$ and one $A$, and their rank is $r_1 + r_2$.

# %% tags=["hide-source"]
figures.show(
    figures.sum_of_loras(),
    alt="The equation drawn as boxes. Left, a narrow B1 times a flat A1, plus a narrow B2 times a flat A2. Right, B1 and B2 side by side, "
    "times A1 and A2 under each other: one product of matrices of a higher rank.",
)

# %% [markdown]
# Two tasks to begin with. polyglot-350k writes numbers as words, in English, Spanish and French; a tag says which is wanted. It learns
# Italian and Portuguese, with an adapter each, both from the untouched base.

# %% tags=["nbval-ignore-output", "heavy"]
bare, tokenizer = pl.lab.load_base("polyglot-350k")
served, _ = pl.lab.load_base("polyglot-350k")
NEW = ["it", "pt"]
before = {t: polyglot.accuracy(bare, tokenizer, t) for t in NEW}
for seed, language in enumerate(NEW):
    torch.manual_seed(seed)
    pl.attach(served, LoRA, "all-linear", name=language, r=8, lora_alpha=16)
    data, how = polyglot.dataset(language), {"steps": 100, "lr": 0.01, "seed": seed}
    train(served, data, answers(tokenizer), **how, progress=False)
alone = {}
for language in NEW:
    pl.use(served, language)
    alone[language] = polyglot.accuracy(served, tokenizer, language)
    name = polyglot.LANGUAGES[language]
    print(f"{name:11} base {before[language]:5.1%}, its adapter {alone[language]:5.1%}")

# %% tags=["heavy"]
assert max(before.values()) == 0, "the base knows neither language"
assert min(alone.values()) > 0.85, "each adapter has to have learnt its language"

# %% [markdown]
# ## Keep a hundred tasks
#
# ### 1. Bytes
#
# {{bytes-of-tasks}}
#
# Write `bytes_of_tasks(tasks, parameters, shapes, r)`: the bytes of a full copy of the model for each task, and the bytes of one base with
# a LoRA of rank `r` for each. All in float32. The model has so many `parameters`; `shapes` lists `(d_in, d_out)` of each adapted layer.


# %%
def bytes_of_tasks(tasks, parameters, shapes, r):
    """(bytes with a full copy for each task, bytes with one base and adapters)."""
    ### BEGIN SOLUTION
    adapter = sum(r * (d_in + d_out) for d_in, d_out in shapes)
    return 4 * tasks * parameters, 4 * (parameters + tasks * adapter)
    ### END SOLUTION


# %%
check("bytes-of-tasks", bytes_of_tasks)

# %% [markdown]
# On a model that people use, and beside it what a real file of such an adapter takes.

# %%
talker, _ = pl.lab.load_base("smollm2-135m")
parameters = talker.num_parameters()
pl.attach(talker, LoRA, ["q_proj", "v_proj"], r=8)
ends = ("q_proj", "v_proj")
layers = [m for path, m in talker.named_modules() if path.endswith(ends)]
shapes = [(m.in_features, m.out_features) for m in layers]
folder = pl.save(talker, f"{here.name}/talker")
on_disk = (folder / "adapter_model.safetensors").stat().st_size
for tasks in (1, 10, 100):
    copied, adapted = (b / 1e9 for b in bytes_of_tasks(tasks, parameters, shapes, 8))
    print(f"{tasks:3} tasks: copies {copied:6.2f} GB, base and adapters {adapted:.2f} GB")
_, none = bytes_of_tasks(0, parameters, shapes, 8)
one = bytes_of_tasks(1, parameters, shapes, 8)[1] - none
print(f"one adapter: {one / 1e6:.2f} MB by your function, {on_disk / 1e6:.2f} MB on disk")
assert 0 <= on_disk - one < 0.02 * one, "a file is its numbers and a short header"

# %% [markdown]
# A hundred copies are a hundred models; a hundred adapters are hardly more than the base. This is the plainest thing that adapters are good
# for, and it needs no merging.
#
# ### 2. One batch, many tasks
#
# {{mixed-batch}}
#
# Write `mixed(x, weight, bias, adapters, rows)` for one layer. `x` is `(n, time, d_in)`. `adapters` is a dict from names to `(A, B, s)`, with
# ranks that may differ. `rows` has a name for each of the n rows, or `None` for the base. `bias` is None where the layer has none.


# %%
def mixed(x, weight, bias, adapters, rows):
    """What leaves the layer, (n, time, d_out): row i through adapter rows[i] alone."""
    ### BEGIN SOLUTION
    y = F.linear(x, weight, bias).clone()
    for name, (A, B, s) in adapters.items():
        mine = [i for i, row in enumerate(rows) if row == name]
        y[mine] += s * F.linear(F.linear(x[mine], A), B)
    return y
    ### END SOLUTION


# %%
check("mixed-batch", mixed)

# %% [markdown]
# In the whole model this is `pl.mix`. Four people ask at once, in one batch: one in Italian, one in Portuguese, one in English, for
# which the base needs nobody, and one more in Italian.

# %% tags=["nbval-ignore-output", "heavy"]
questions = ["<it>342=", "<pt>342=", "<en>342=", "<it>777="]
rows = ["it", "pt", None, "it"]
with pl.mix(served, rows):
    together = polyglot.ask(served, tokenizer, questions)
one_by_one = []
for question, name in zip(questions, rows):
    pl.use(served, *([name] if name else []))
    one_by_one += polyglot.ask(served, tokenizer, [question])
for question, answer in zip(questions, together):
    print(question, answer)

# %% tags=["heavy"]
assert together == one_by_one, "in a mixed batch each row is answered as if it were alone"
print("every row as if it had been asked alone:", together == one_by_one)

# %% [markdown]
# What does a mixed batch cost? The base is read once for all rows, and then each adapter in the batch has two small products for its own rows.
# Switching reads the base once for each adapter. Here are 32 sentences for minilm-l6, with 1 to 32 different adapters among them, in three ways:
# a mixed batch, the same in `peft`, and one adapter after the other. In every round each way is timed right after the bare base, and the ratio to
# it is what counts; printed is the median.

# %% tags=["heavy"]
import peft

encoder, encoder_tokenizer = pl.lab.load_base("minilm-l6")
plain, theirs = (pl.lab.load_base("minilm-l6")[0] for _ in range(2))
sentences = pl.lab.sentiment("movies", "test")["text"][:32]
batch = encoder_tokenizer(
    sentences, padding=True, truncation=True, max_length=16, return_tensors="pt"
)
names = [f"task{i}" for i in range(32)]
torch.manual_seed(0)
for name in names:
    pl.attach(encoder, LoRA, ["query", "value"], name=name, r=8)
    with torch.no_grad():
        for parameter_name, p in encoder.named_parameters():
            if parameter_name.endswith(f"{name}.lora_B"):
                p.normal_(std=0.02)  # as if it had learnt something
    pl.save(encoder, f"{here.name}/{name}", name)
    if name == names[0]:
        theirs = peft.PeftModel.from_pretrained(theirs, f"{here.name}/{name}", name)
    else:
        theirs.load_adapter(f"{here.name}/{name}", name)
for model in (encoder, plain, theirs):
    model.eval()


@torch.no_grad()
def base_alone():
    return plain(**batch).last_hidden_state


@torch.no_grad()
def in_one_batch(rows):
    with pl.mix(encoder, rows):
        return encoder(**batch).last_hidden_state


@torch.no_grad()
def in_peft(rows):
    return theirs(**batch, adapter_names=rows).last_hidden_state


@torch.no_grad()
def by_switching(rows):
    out = torch.zeros(*batch["input_ids"].shape, encoder.config.hidden_size)
    for name in dict.fromkeys(rows):
        mine = [i for i, row in enumerate(rows) if row == name]
        encoder.switch.active = (name,)  # pl.use, without making anything trainable
        out[mine] = encoder(**{k: v[mine] for k, v in batch.items()}).last_hidden_state
    return out


counts = [1, 4, 16, 32]
rows_with = {k: [names[i % k] for i in range(32)] for k in counts}
for k in (4, 32):
    exact = by_switching(rows_with[k])
    for way in (in_one_batch, in_peft):
        gap = (way(rows_with[k]) - exact).abs().max().item()
        assert gap < 1e-4, f"{way.__name__} with {k} adapters is {gap:.1e} off"
print("the three ways give the same vectors, with 4 adapters in the batch and with 32")

# %% tags=["nbval-ignore-output", "heavy"]
ways = {"mixed batch": in_one_batch, "in peft": in_peft, "switching": by_switching}
slower = {name: [] for name in ways}
for k in counts:
    for name, way in ways.items():
        ratios = []
        for _ in range(3):
            watch = Stopwatch()
            base_alone()
            floor = watch.lap()
            way(rows_with[k])
            ratios.append(watch.lap() / floor)
        slower[name].append(statistics.median(ratios))
for name, ratios in slower.items():
    print(f"{name:12}", *(f"{k:2}: {x:4.1f}" for k, x in zip(counts, ratios)), sep="   ")

# %% tags=["hide-source", "nbval-ignore-output", "heavy"]
figures.show(
    figures.curves(
        counts,
        slower,
        "32 sentences, by the number of adapters among them",
        "different adapters in the batch",
        "time, as a multiple of the bare base's",
        yscale="linear",
    ),
    alt="Time as a multiple of the base's for 1 to 32 adapters in a batch of 32 sentences: a mixed batch here, in peft, and switching. "
    "All three rise with the number of adapters, switching most.",
)

# %% [markdown]
# With every adapter that comes along a mixed batch does a little more: two small products for each, on its own rows. Switching runs the whole base once more
# for each, on fewer rows, and that rises most. The library's mixed batch is a loop over adapters as the one here is. Times differ from machine to machine and from
# run to run, so nothing on this page holds them to a number. Servers for thousands of adapters have no such loop: they gather the `A` and `B` of all rows and multiply
# them in one kernel ([arXiv:2310.18547](https://arxiv.org/abs/2310.18547), [arXiv:2311.03285](https://arxiv.org/abs/2311.03285)).
#
# ## Make one of two
#
# ### 3. The sum
#
# {{lora-sum}}
#
# Write `add_loras(adapters, weights)`. `adapters` is a list of `(A, B, s)`, the ranks may differ, and `weights` has a number for each. Return one
# `A` and one `B`, so that `B @ A` is the weighted sum of the updates `s * B @ A`, with as many ranks as the adapters have together.


# %%
def add_loras(adapters, weights):
    """A, (sum of the ranks, d_in), and B, (d_out, sum of the ranks)."""
    ### BEGIN SOLUTION
    A = torch.cat([A for A, _, _ in adapters])
    B = torch.cat([w * s * B for (_, B, s), w in zip(adapters, weights)], 1)
    return A, B
    ### END SOLUTION


# %%
check("lora-sum", add_loras)

# %% [markdown]
# Now back to what you predicted. First the angle between the two updates, as vectors of all their entries. Beside it, the control: an update and
# itself, and an update and one with the same entries in another order. Then the sum, and the mean.

# %% tags=["nbval-ignore-output", "heavy"]
loras = {t: merging.factors(served, t) for t in NEW}  # {path: (A, B, s)} of each
updates = {t: merging.update_of(loras[t]) for t in NEW}  # {path: s B A}


def layer_by_layer(f):
    """{path: f([(A, B, s) of each language])}."""
    return {path: f([loras[t][path] for t in NEW]) for path in loras["it"]}


def added(adapters, weights):
    A, B = add_loras(adapters, weights)
    return B @ A


def both(update):
    """The accuracy in both languages of the base plus one update."""
    with merging.changed_by(bare, update):
        return {t: polyglot.accuracy(bare, tokenizer, t) for t in NEW}


torch.manual_seed(0)
shuffled = {
    path: u.flatten()[torch.randperm(u.numel())].view_as(u)
    for path, u in updates["pt"].items()
}
for name, other in {"Portuguese": updates["pt"], "itself": updates["it"]}.items():
    print(f"cosine of Italian and {name}: {merging.cosine(updates['it'], other):.3f}")
print(f"of Italian and shuffled: {merging.cosine(updates['it'], shuffled):.3f}")

scored = {"Italian alone": both(updates["it"]), "Portuguese alone": both(updates["pt"])}
scored["sum"] = both(layer_by_layer(lambda pair: added(pair, [1, 1])))
scored["mean"] = both(layer_by_layer(lambda pair: added(pair, [0.5, 0.5])))
for name, accuracy in scored.items():
    print(f"{name:17}", *(f"{t} {share:5.1%}" for t, share in accuracy.items()))

# %% tags=["heavy"]
assert abs(merging.cosine(updates["it"], updates["pt"])) < 0.2, "nearly at right angles"
gap = abs(scored["Italian alone"]["it"] - alone["it"])
assert gap < 0.02, "in the weights an update does what its adapter does"
for name in ("sum", "mean"):
    assert max(scored[name].values()) < 0.6, f"{name}: it is expected to destroy both"

# %% [markdown]
# At a right angle, and both languages are gone: the sum of the two updates writes neither, and their mean hardly any. In the sum each adapter is there at
# full strength. *Orthogonal is not independent.*
#
# Why does the angle say nothing? Two updates get in each other's way if the *same inputs* reach both, and if both answer them. So ask the layers: with
# the Italian adapter on and Italian questions going through, how large is what Portuguese would add, beside what Italian adds? If they
# were independent, next to nothing.

# %% tags=["nbval-ignore-output", "heavy"]
asked = answers(tokenizer)([polyglot.dataset("it", "test")[i] for i in range(50)])
entering = {}
pl.use(served, "it")
hooks = [
    served.get_submodule(path).register_forward_pre_hook(
        lambda layer, args, path=path: entering.update({path: args[0].flatten(0, 1)})
    )
    for path in updates["it"]
]
with torch.no_grad():
    served(**asked)
for hook in hooks:
    hook.remove()


def beside(update, inputs):
    """The norm of what an update adds, as a share of Italian's; median layer."""
    shares = [
        (x @ update[path].T).norm() / (x @ updates["it"][path].T).norm()
        for path, x in inputs.items()
    ]
    return statistics.median(share.item() for share in shares)


noise = {path: torch.randn_like(x) * x.std() for path, x in entering.items()}
print(f"Italian questions, what Portuguese adds: {beside(updates['pt'], entering):.2f}")
print(f"control, Portuguese shuffled: {beside(shuffled, entering):.2f}")
print(f"control, inputs of noise: {beside(updates['pt'], noise):.2f}")

# %% [markdown]
# On Italian questions Portuguese adds nearly as much as Italian does, more than an update of the same entries in another order. To the layers one question looks like the
# other: digits, letters, positions. The angle was taken between the entries of two matrices; what decides is what both do to the *same inputs*.
#
# ### 4. Cut to a rank
#
# {{lora-cut}}
#
# A sum has the ranks of all its parts. Write `cut(A, B, r)`: the `A` and `B` of rank `r` whose product is the nearest to `B @ A`, and the share of its
# Frobenius norm that is lost, $\lVert BA - B'A' \rVert / \lVert BA \rVert$.


# %%
def cut(A, B, r):
    """A, (r, d_in), B, (d_out, r), and the share of the norm that is lost."""
    ### BEGIN SOLUTION
    U, S, Vh = torch.linalg.svd(B @ A, full_matrices=False)
    return Vh[:r], U[:, :r] * S[:r], (S[r:].norm() / S.norm()).item()
    ### END SOLUTION


# %%
check("lora-cut", cut)

# %% [markdown]
# The sum of your two adapters has rank 16 in every layer. Cut to 8, the rank of one of them, what is left? A control: the Italian adapter alone,
# which has no more than 8 ranks, put through the same.

# %% tags=["nbval-ignore-output", "heavy"]
lost = {}
for r in (8, 12, 16):
    shares = layer_by_layer(lambda pair, r=r: cut(*add_loras(pair, [1, 1]), r)[2])
    lost[r] = max(shares.values())
    print(f"sum cut to rank {r:2}: up to {lost[r]:.1%} of a layer's norm is lost")
only = layer_by_layer(lambda pair: cut(*add_loras(pair[:1], [1]), 8)[2])
print(f"Italian alone, cut to rank 8: {max(only.values()):.1%}")
print(f"the exact sum of 100 adapters of rank 8 has up to {100 * 8} ranks")

# %% tags=["heavy"]
assert lost[8] > lost[12] > 0.01 > lost[16] and max(only.values()) < 1e-3, "see `cut`"

# %% [markdown]
# All 16 ranks of the sum are in use: half of them hold a good part of its norm, and what is cut off is lost from both languages. The control loses nothing, since it
# never had more than 8. An exact sum grows with every adapter, until it is as wide as the layer.
#
# ### 5. What `linear` does
#
# {{linear-combination}}
#
# In `peft`, `add_weighted_adapter(..., combination_type="linear")` adds up the matrices and multiplies afterwards:
#
# $$A = \sum_i \pm\sqrt{|w_i s_i|}\, A_i \qquad B = \sum_i \sqrt{|w_i s_i|}\, B_i$$
#
# The sign in front of the root is that of $w_i s_i$. Write `linear(adapters, weights)`, which returns the *update*, $B A$. All ranks are equal here.


# %%
def linear(adapters, weights):
    """The update that `linear` makes, (d_out, d_in)."""
    ### BEGIN SOLUTION
    A, B = 0, 0
    for (a, b, s), w in zip(adapters, weights):
        root = abs(w * s) ** 0.5
        A = A + (root if w * s >= 0 else -root) * a
        B = B + root * b
    return B @ A
    ### END SOLUTION


# %%
check("linear-combination", linear)

# %% [markdown]
# Write down how far you expect it to be from the sum, as a share of the sum's norm. The control is where it must be right: one adapter alone.

# %% tags=["nbval-ignore-output", "heavy"]
summed = layer_by_layer(lambda pair: added(pair, [1, 1]))
mixed_up = layer_by_layer(lambda pair: linear(pair, [1, 1]))
off = merging.distance(mixed_up, summed)
one_alone = layer_by_layer(lambda pair: linear(pair[:1], [1]))
exact = merging.distance(one_alone, updates["it"])
print(f"linear is {off:.0%} of the norm away from the sum; for one adapter, {exact:.0%}")

# %% tags=["heavy"]
assert off > 0.3 and exact < 1e-5, "two adapters: another matrix; one: itself"

# %% [markdown]
# With two adapters there are four products. Two are the adapters' own, and make the sum; the other two, `B` of one with `A` of the other, nobody asked for, and
# what is printed is their norm beside the sum's. A weight of a half for each does not change that: it makes all four smaller. The library's own documentation
# calls `linear` a very rough approximation.
#
# ### 6. TIES
#
# {{ties-merge}}
#
# Perhaps adding is too plain. **TIES** ([arXiv:2306.01708](https://arxiv.org/abs/2306.01708)) looks at every entry of the update for itself, in three steps:
#
# 1. *Trim*: of each update keep the share `density` of its entries that are largest in size, `int(density * entries)` of them, and set the others to zero.
# 2. *Elect*: at each place, the sign of the sum of what is left there.
# 3. *Merge*: at each place, the mean of those entries that have the elected sign. Zeros are not counted; where no entry is left, zero.
#
# Write `ties(updates, density)` for one layer; `updates` is `(n, d_out, d_in)`, one update for each task.


# %%
def ties(updates, density):
    """The merged update, (d_out, d_in)."""
    ### BEGIN SOLUTION
    sizes = updates.abs().flatten(1)
    k = int(density * sizes.shape[1])
    smallest = sizes.topk(k).values[:, -1]
    trimmed = updates * (updates.abs() >= smallest[:, None, None])
    agree = (trimmed.sign() == trimmed.sum(0).sign()) & (trimmed != 0)
    return (trimmed * agree).sum(0) / agree.sum(0).clamp(min=1)
    ### END SOLUTION


# %%
check("ties-merge", ties)

# %% [markdown]
# ### 7. DARE
#
# {{dare-drop}}
#
# **DARE** ([arXiv:2311.03099](https://arxiv.org/abs/2311.03099)) thins each update before it is added: every entry is dropped, with probability $p$, and the
# others are rescaled so that each is, on average over many draws, what it was. Write `dare(update, p, u)`. The draw is given: `u` has
# the update's shape, its entries are even between 0 and 1, and an entry is dropped where `u < p`.


# %%
def dare(update, p, u):
    """The thinned update, (d_out, d_in)."""
    ### BEGIN SOLUTION
    return torch.where(u < p, 0.0, update / (1 - p))
    ### END SOLUTION


# %%
check("dare-drop", dare)

# %% [markdown]
# All of them on your two languages. And for DARE the control that comes first: one adapter alone, thinned, with nothing added to it.

# %% tags=["nbval-ignore-output", "heavy"]
draw = torch.Generator().manual_seed(0)


def thinned(update, p):
    return {
        path: dare(u, p, torch.rand(u.shape, generator=draw))
        for path, u in update.items()
    }


def sum_of(*parts):
    return merging.weighted_sum(parts, [1] * len(parts))


stacks = {path: torch.stack([updates[t][path] for t in NEW]) for path in updates["it"]}
scored["linear"] = both(mixed_up)
scored["linear, halves"] = both(layer_by_layer(lambda pair: linear(pair, [0.5, 0.5])))
scored["TIES"] = both({path: ties(u, 0.2) for path, u in stacks.items()})
scored["DARE, sum"] = both(sum_of(*(thinned(updates[t], 0.5) for t in NEW)))
scored["Italian, thinned"] = both(thinned(updates["it"], 0.5))
scored["Portuguese, thinned"] = both(thinned(updates["pt"], 0.5))
for name, accuracy in scored.items():
    print(f"{name:19}", *(f"{t} {share:5.1%}" for t, share in accuracy.items()))
print(f"{'switched':19}", *(f"{t} {share:5.1%}" for t, share in alone.items()))

# %% tags=["heavy"]
for name in ("sum", "mean", "linear", "linear, halves", "TIES", "DARE, sum"):
    mean = sum(scored[name].values()) / 2
    assert mean < 0.6, f"{name}: {mean:.0%}, and strangers are expected not to merge"

# %% [markdown]
# Not one of them keeps two strangers in one weight, and switching, in the last line, keeps both. Look at the control of DARE as well: thinned by half and with nothing
# added to it, an adapter alone already loses much of its language. The paper thins updates of large models after full fine-tuning, in which every entry is tiny; here
# each one matters.
#
# So is merging a bad idea? These two tasks want *different answers to the same question*. Other tasks may not.
#
# ## Relatives

# %%
predict("merging-relatives")

# %% [markdown]
# minilm-l6 under one head, which was trained on sentences of all three domains with the encoder frozen, and is frozen from then on. Then an adapter for
# each domain. The code is in `peftlab/lab/experiments/many_tasks.py`; what makes one update of three is yours.

# %% tags=["nbval-ignore-output", "heavy"]
DOMAINS = many_tasks.TASKS["domains"]
rater, domain_loras, measure = many_tasks.domains(DOMAINS, lr=0.003, steps=40, seed=0)
of_domain = {t: merging.update_of(domain_loras[t]) for t in DOMAINS}


def by_yours(weights):
    """{path: your weighted sum of the three updates}."""
    return {
        path: added([domain_loras[t][path] for t in DOMAINS], weights)
        for path in of_domain["movies"]
    }


relatives = {"base": {}} | {f"only {t}": of_domain[t] for t in DOMAINS}
relatives |= {"mean": by_yours([1 / 3] * 3), "sum": by_yours([1, 1, 1])}
rated = {}
for name, update in relatives.items():
    with merging.changed_by(rater, update):
        rated[name] = {t: measure(t, "test")[0] for t in DOMAINS}
rated["switched"] = {t: rated[f"only {t}"][t] for t in DOMAINS}
print(f"{'':14}", *(f"{t:>9}" for t in DOMAINS), "     all")
for name, shares in rated.items():
    shown = [*shares.values(), sum(shares.values()) / 3]
    print(f"{name:14}", *(f"{share:9.1%}" for share in shown))
angle = merging.cosine(of_domain["movies"], of_domain["products"])
print(f"cosine of the updates for films and products: {angle:.3f}")

# %% tags=["heavy"]
all_of = {name: sum(shares.values()) / 3 for name, shares in rated.items()}
assert all_of["switched"] > all_of["base"], "each adapter has to help its own domain"
assert all_of["mean"] > all_of["base"], "and the mean of the three helps all"
assert abs(angle) < 0.2, "the updates stand nearly at right angles here too"

# %% [markdown]
# At the same angle, the opposite: the mean of three is far above the base on every domain, near what switching gives, and even the plain sum, at three times the dose, stays above the base on the whole. Whether
# the mean is *better* than the best single adapter, one run and a few hundred sentences cannot say.
#
# ## Six seeds
#
# One run is an anecdote. Recorded by `peftlab record many-tasks`: six seeds of both worlds, and of a third, the control in between. There the two
# adapters learnt the *same* language, Italian, from other starts and in another order. First the learning rates, tried on one seed, on numbers and sentences that were
# held back. Then each way, its accuracy as a mean over the tasks of a world, with the 95 % interval.

# %%
runs = records.load("many-tasks")
for world, of_world in runs[runs["way"] == "switch"].groupby("world", sort=False):
    tried = of_world[of_world["seed"] == 0].sort_values("lr")
    if len(tried) > 1:
        scores = (f"{lr:g}: {v:.1%}" for lr, v in zip(tried["lr"], tried["validation"]))
        print(f"{world:10} held back, by learning rate  ", *scores, sep="   ")
main = complete(runs[runs["lr"] == runs["world"].map(many_tasks.MAIN)])
seeds = main["seed"].nunique()
WORLDS = {"languages": "it and pt", "italian-twice": "it twice", "domains": "domains"}


def of(world, way, column="accuracy"):
    """The values of one way in one world, in the order of the seeds."""
    chosen = main[(main["world"] == world) & (main["way"] == way)]
    return list(chosen.sort_values("seed")[column])


found = {}
for way in ("switch", "mean", "sum 1", "linear", "ties", "dare 0.5 mean"):
    cells = []
    for world in WORLDS:
        part = f"{1 / len(many_tasks.TASKS[world]):.6g}"
        values = of(
            world, {"mean": f"sum {part}", "linear": f"linear {part}"}.get(way, way)
        )
        found[world, way] = values
        cells.append(
            "{:8.1%} ± {:4.1%}".format(*interval(values)) if values else f"{'-':>16}"
        )
    print(f"{way:14}", *cells)
print(f"{'':14}", *(f"{label:>16}" for label in WORLDS.values()))
print(f"{seeds} seeds. {records.stamp(main)}")

# %% tags=["hide-source"]
figures.show(
    figures.small_multiples(
        [float(x) for x in ("0.25", "0.5", "1")],
        {
            label: {
                "each update times the scale, added": [
                    interval(of(world, f"sum {x}")) for x in ("0.25", "0.5", "1")
                ],
                "switched": [interval(of(world, "switch"))] * 3,
            }
            for world, label in WORLDS.items()
        },
        f"All updates added, at three scales: {seeds} seeds, 95 % intervals",
        "scale of each update",
        "accuracy, mean of the tasks",
    ),
    alt="Three panels over the scale of the updates. Italian and Portuguese: near zero at every scale, far under the line of switching. Italian twice: a steep hill "
    "that nearly reaches the line at a half and is down again at one. Domains: flat, close to the line of switching at every scale.",
)

# %%
strangers = ("mean", "sum 1", "linear", "ties", "dare 0.5 mean")
for way in strangers:
    assert max(found["languages", way]) < 0.5, f"{way}: strangers merged after all"
assert min(found["languages", "switch"]) > 0.8, "and each was learnt"
assert min(found["italian-twice", "mean"]) > 0.5, "the same language, averaged, stays"
assert max(found["italian-twice", "sum 1"]) < 0.5, "added, it is twice the dose"

# %% [markdown]
# Differences between two ways in the domains, paired by seed. The best single adapter of a seed is chosen by its score on the test itself, which is in its favour.

# %%
best_single = [
    max(values)
    for values in zip(*(of("domains", f"only {t}") for t in many_tasks.TASKS["domains"]))
]
pairs = {
    "mean minus best single": (found["domains", "mean"], best_single),
    "mean minus base": (found["domains", "mean"], of("domains", "base")),
    "mean minus switched": (found["domains", "mean"], found["domains", "switch"]),
    "mean minus sum": (found["domains", "mean"], found["domains", "sum 1"]),
    "mean minus linear": (found["domains", "mean"], found["domains", "linear"]),
    "mean minus TIES": (found["domains", "mean"], found["domains", "ties"]),
    "routed minus switched": (of("domains", "routed"), found["domains", "switch"]),
}
paired = {name: interval([x - y for x, y in zip(*two)]) for name, two in pairs.items()}
for name, (mean, half) in paired.items():
    print(f"domains, {name:22} {mean:+6.1%} ± {half:.1%}")
thin = interval(of("languages", "dare 0.5 switch"))
print(f"languages, switched, each adapter thinned alone: {thin[0]:.1%} ± {thin[1]:.1%}")
for world, label in WORLDS.items():
    mean, half = interval(of(world, "switch", "cosine"))
    off, wide = interval(of(world, "switch", "linear_off"))
    print(
        f"{label:10} cosine {mean:+.3f} ± {half:.3f}; linear {off:.0%} ± {wide:.0%} off"
    )

# %%
mean, half = paired["mean minus base"]
assert mean > half, "the mean is above the base, whatever the seed"
for name in ("best single", "switched", "linear", "TIES"):
    assert abs(paired[f"mean minus {name}"][0]) < 0.03, f"{name} and the mean lie close"
assert thin[0] < 0.8, "thinned alone, an adapter loses much"

# %% [markdown]
# Three worlds, three answers. *Strangers*: no rule and no scale keeps two languages in one weight; switching keeps both. *Italian twice*: the same model, trained in the same way, and the mean of two adapters
# keeps nearly all of the language. So it is not the model and not the training that forbids merging: it is that the two tasks want different things. (Their sum, twice the dose, destroys it all the
# same: strength counts too.) *Domains*: the mean of three is well above the base. From the best single adapter, from switching, from TIES and from `linear` six seeds cannot tell it: the differences are smaller
# than their intervals. A single run can show the mean ahead of the best single adapter, and some did.
#
# Now the angles. Both strangers and domains stand nearly at a right angle, and the outcomes are opposite. Only Italian twice has a cosine worth the name. And `linear`, another matrix altogether, did no worse than
# the mean in the domains, and much worse for Italian twice. Where tasks are relatives many a rule will do; that is no proof that the rule does what its name says.
#
# ## Subtract
#
# What can be added can be subtracted. **Unlearning** by task arithmetic: train an adapter on what the model is to lose, and add it with a minus sign. Asked without
# a tag, `<?>342=`, the base answers in any of its three languages. An adapter learns to answer in Spanish then. At scale 1 it should always be Spanish;
# and below zero? Write down what you expect of three things: Spanish without a tag, Spanish *with* its tag, and English with its tag.
# The control is the same update with its rows and its columns shuffled in each layer: equal norm, equal singular values, nothing learnt.
#
# Recorded by `peftlab record task-arithmetic`; the base, at scale 0, is asked here.

# %% tags=["nbval-ignore-output", "heavy"]
untagged = polyglot.dataset("en", "test", polyglot.UNTAGGED)
said = list(zip(polyglot.ask(bare, tokenizer, untagged["prompt"]), untagged["number"]))
share = {
    t: sum(words == polyglot.words(n, t) for words, n in said) / len(said)
    for t in polyglot.KNOWN
}
at_zero = {"untagged_es": share["es"], "untagged_other": share["en"] + share["fr"]}
for t in ("es", "en"):
    at_zero[f"tagged_{t}"] = polyglot.accuracy(bare, tokenizer, t)
print({name: f"{value:.1%}" for name, value in at_zero.items()})
assert at_zero["untagged_es"] < 0.5 < at_zero["untagged_other"], "it prefers the others"
assert min(at_zero["tagged_es"], at_zero["tagged_en"]) > 0.95, "and knows Spanish"

# %%
arithmetic = complete(records.load("task-arithmetic"))
LINES = {
    "untagged_es": "no tag: right, in Spanish",
    "untagged_other": "no tag: right, in English or French",
    "tagged_es": "Spanish with its tag",
    "tagged_en": "English with its tag",
}


def at(update, scale, column):
    rows = arithmetic[
        (arithmetic["update"] == update) & (arithmetic["scale"] == scale)
    ].sort_values("seed")
    return list(rows[column])


print("scale, then:", *LINES.values(), sep="  |  ")
for update in ("update", "control"):
    for scale in (-1, -0.5, 0.5, 1):
        cells = (interval(at(update, scale, column)) for column in LINES)
        print(f"{update:8}{scale:+5.1f}", *(f"{m:8.1%} ± {h:5.1%}" for m, h in cells))
each = (f"{value:.0%}" for value in at("update", -0.5, "tagged_es"))
print("Spanish with its tag at -0.5, seed by seed:", *each)
print(f"{arithmetic['seed'].nunique()} seeds. {records.stamp(arithmetic)}")

# %% tags=["hide-source", "heavy"]
figures.show(
    figures.small_multiples(
        [-1, -0.5, 0, 0.5, 1],
        {
            name: {
                label: [
                    interval(at(update, scale, column)) if scale else (at_zero[column], 0)
                    for scale in (-1, -0.5, 0, 0.5, 1)
                ]
                for column, label in LINES.items()
            }
            for update, name in {"update": "learnt", "control": "shuffled"}.items()
        },
        f"Added and taken away: {arithmetic['seed'].nunique()} seeds, 95 % intervals",
        "scale of the update",
        "share of the test numbers",
    ),
    alt="Two panels over the scale from -1 to 1. Left, the learnt update: above zero every untagged answer is Spanish; below zero hardly any is, Spanish "
    "with its tag falls, with a wide interval at -0.5, and at -1 English with its tag has fallen too. Right, the shuffled control: all four lines are flat.",
)

# %%
for column in ("tagged_es", "tagged_en"):
    for scale in (-1, -0.5, 0.5, 1):
        assert min(at("control", scale, column)) > 0.9, "the control takes nothing away"
assert min(at("update", 0.5, "untagged_es")) > 0.9, "added, it is always Spanish"
assert max(at("update", -0.5, "untagged_es")) < 0.2, "taken away, hardly ever"
assert min(at("update", -0.5, "tagged_en")) > 0.9, "and English is untouched"
assert max(at("update", -1, "tagged_es")) < 0.3, "at full scale Spanish itself is gone"
assert interval(at("update", -1, "tagged_en"))[0] < 0.9, "and English suffers"

# %% [markdown]
# Added at half of its strength, the update makes every untagged answer Spanish, and costs nothing else. Taken away at half of its strength, it leaves hardly any Spanish among them, and the model still answers, rightly,
# in its other languages. That is unlearning, and the control, as large and shuffled, does none of it.
#
# But *what* was unlearnt, the habit or the language? Look at Spanish with its tag, seed by seed: in some runs nearly all of it is left, in others next to nothing. Nobody chose; the training never
# told the two apart. And this is where it breaks: at full strength Spanish is gone in every run, with its tag too, and some of English, which nobody meant, goes along. At full strength *added*
# English suffers as well: the adapter was never asked to keep it (lesson 09).
#
# ## Nobody names the task
#
# ### 8. A router
#
# {{task-router}}
#
# To switch, somebody must say which task it is. Lesson 09 let each adapter answer and took the one that was least unsure. Cheaper is to look at the question first: the base, with
# all adapters off, turns a sentence into a vector. Write `route(vectors, known)`: `vectors` is `(m, d)`, and `known` a dict from the names of the
# tasks to vectors of examples, `(k, d)`. Normalise each example; the mean of a task's examples stands for the task; each of the m sentences goes to the task
# whose mean has the greatest cosine similarity with it. Return the m names.


# %%
def route(vectors, known):
    """The name of a task for each of the vectors, a list."""
    ### BEGIN SOLUTION
    names = list(known)
    means = torch.stack([F.normalize(v, dim=-1).mean(0) for v in known.values()])
    alike = F.normalize(vectors, dim=-1) @ F.normalize(means, dim=-1).T
    return [names[i] for i in alike.argmax(1).tolist()]
    ### END SOLUTION


# %%
check("task-router", route)

# %% [markdown]
# A hundred training sentences stand for each domain. Where the answer is known first: the examples themselves, and vectors of noise, of which a third should
# hit. Then sentences of the test set, and what they score with the adapter your router chose.

# %% tags=["nbval-ignore-output", "heavy"]
parts = {t: many_tasks.sentences(t, 0) for t in DOMAINS}
known = {
    t: pl.lab.embed(rater.encoder, encoder_tokenizer, parts[t]["train"]["text"][:100])
    for t in DOMAINS
}


def hits(vectors_of):
    """The share of sentences that go to their own task."""
    right = [c == t for t, v in vectors_of.items() for c in route(v, known)]
    return sum(right) / len(right)


torch.manual_seed(0)
noise = {t: torch.randn(100, 384) for t in DOMAINS}
unseen = {
    t: pl.lab.embed(rater.encoder, encoder_tokenizer, parts[t]["test"]["text"])
    for t in DOMAINS
}
print(f"examples {hits(known):.1%}, noise {hits(noise):.1%}, unseen {hits(unseen):.1%}")
routed = {}
for t in DOMAINS:
    chosen, right = route(unseen[t], known), 0
    for other in DOMAINS:
        mine = [i for i, c in enumerate(chosen) if c == other]
        if mine:
            with merging.changed_by(rater, of_domain[other]):
                right += measure(t, "test", mine)[0] * len(mine)
    routed[t] = right / len(chosen)
for name, shares in {"routed": routed, "switched": rated["switched"]}.items():
    print(f"{name:9}", *(f"{t} {share:5.1%}" for t, share in shares.items()))

# %% tags=["heavy"]
assert abs(hits(noise) - 1 / 3) < 0.15 < hits(known) - 1 / 3, "noise hits a third"
assert hits(unseen) > 0.6, "domains look different to the base: look at `route`"

# %% [markdown]
# The base alone sees what a sentence is from, most of the time, and what goes astray finds a relative, whose adapter serves it nearly as well: over the recorded seeds, too, routing costs hardly anything beside
# switching. Between strangers each wrong choice would have cost the answer. So the router is good here where it matters least; lesson 09 had one where it mattered.
#
# ## The library
#
# The same two languages in `peft`, from your adapters' files. Its updates beside yours, layer by layer: how far apart, as a share of the norm?

# %% tags=["heavy"]
theirs, _ = pl.lab.load_base("polyglot-350k")
for t in NEW:
    folder = pl.save(served, f"{here.name}/{t}", t)
    if t == NEW[0]:
        theirs = peft.PeftModel.from_pretrained(theirs, folder, t)
    else:
        theirs.load_adapter(folder, t)
cut_to_8 = layer_by_layer(lambda pair: cut(*add_loras(pair, [1, 1]), 8)[:2])
yours = {
    "cat": summed,
    "svd": {path: B @ A for path, (A, B) in cut_to_8.items()},
    "linear": mixed_up,
}
for kind, mine in yours.items():
    rank = 8 if kind == "svd" else None
    how = {"combination_type": kind, "svd_rank": rank}
    theirs.add_weighted_adapter(NEW, [1.0, 1.0], kind, **how)
    layers = {path: theirs.get_submodule(f"base_model.model.{path}") for path in mine}
    made = {path: layer.get_delta_weight(kind) for path, layer in layers.items()}
    gap = merging.distance(mine, {path: update.detach() for path, update in made.items()})
    print(f"{kind:7} yours and the library's agree: {gap < 1e-4}")
    assert gap < 1e-4, f"{kind}: {gap:.1e} of the norm apart"

from peft.utils import merge_utils

for path, stack in stacks.items():
    gap = (
        (ties(stack, 0.2) - merge_utils.ties(list(stack), torch.ones(2), 0.2)).abs().max()
    )
    assert gap < 1e-5, f"TIES in {path}: {gap:.1e} apart"
print("TIES    yours and the library's agree: True")

# %% [markdown]
# `cat` is the sum, `svd` the sum cut to a rank, and `linear` what you wrote. Two things to know before you rely on them. With adapters whose scale is that of rsLoRA the result is
# scaled once more; and with *one* adapter, whatever type is asked for, `linear` is what runs.

# %% tags=["heavy"]
inflated, _ = pl.lab.load_base("polyglot-350k")
stabilised = peft.LoraConfig(r=8, target_modules=["q_proj"], use_rslora=True)
inflated = peft.get_peft_model(inflated, stabilised, "one")
inflated.add_adapter("two", stabilised)
inflated.add_weighted_adapter(["one", "two"], [1.0, 1.0], "cat", combination_type="cat")
layer = inflated.base_model.model.model.layers[0].self_attn.q_proj
print(f"rsLoRA, cat of two: the scale of the result is {layer.scaling['cat']:.2f}, not 1")
assert abs(layer.scaling["cat"] - 16**0.5) < 1e-6, "the root of the new rank"
how = {"combination_type": "svd", "svd_rank": 2}
theirs.add_weighted_adapter(["it"], [1.0], "small", **how)
rank = theirs.peft_config["small"].r
print(f"one adapter alone, svd to rank 2: the result has rank {rank}")
assert rank == 8, "with a single adapter nothing is cut"

# %% [markdown]
# In this course's package the sum is `pl.combine`. It takes adapters of any rank, scale and set of layers, writes a file that `peft` loads, says what a cut lost, and
# refuses what has no exact sum.

# %% tags=["heavy"]
pl.combine(served, NEW, [0.5, 0.5], name="mean")
pl.save(served, f"{here.name}/mean", "mean")
fresh, _ = pl.lab.load_base("polyglot-350k")
loaded = peft.PeftModel.from_pretrained(fresh, f"{here.name}/mean").eval()
text = tokenizer(questions, return_tensors="pt")
with (
    torch.no_grad(),
    merging.changed_by(bare, layer_by_layer(lambda p: added(p, [0.5, 0.5]))),
):
    yours_says, loaded_says = (m(**text).logits for m in (bare, loaded))
gap = (yours_says - loaded_says).abs().max().item()
print("the file gives your mean in peft:", gap < 1e-3)
assert gap < 1e-3, f"a logit differs by {gap:.1e}"

# %% tags=["nbval-ignore-output", "heavy"]
share_lost = pl.combine(served, NEW, name="cut", r=8)
print(f"cut to rank 8, the sum loses {share_lost:.0%} of its norm, over all layers")
assert 0 < share_lost < max(lost.values()) + 1e-6, "between nothing and the worst layer"

# %% tags=["heavy"]
from peftlab.methods import DoRA

pl.attach(served, DoRA, ["q_proj"], name="dora")
try:
    pl.combine(served, ["it", "dora"], name="no")
except ValueError as error:
    print(error)
else:
    raise AssertionError("a DoRA has no exact sum with a LoRA, and must be refused")

# %% [markdown]
# ## Read the result
#
# **What it shows.** Many tasks on one base cost a small file each, and in a mixed batch each row is answered as if it were alone: this is exact, whatever the tasks. Making one
# weight of several is another thing. The sum of LoRAs is a LoRA, exactly; whether it is of any use depends on the tasks, and neither the angle
# between the updates nor the name of the rule told beforehand.
# Tasks that want the same of the same inputs, or nearly, may be averaged. Tasks that want different things of them may not, by any rule tried here: switch.
#
# | claim | here |
# | --- | --- |
# | *versions can be swapped without full copies* (C10) | holds: one base, and a file of a few megabytes for each task |
# | *many adapters can share one base and one batch* (C11) | holds exactly, row by row; what a server's own kernels make of it in time was not measured here |
# | *updates at right angles do not disturb each other* | does not hold: the two languages stood at one, and so did the domains, with opposite results |
# | *`linear` adds adapters up* | does not hold: only `cat` is the sum |
# | *TIES and DARE let adapters be merged that a plain mean would destroy* | not here: with strangers neither did better than the mean, and with relatives neither was needed |
#
# **What it does not show.** A model of a third of a million parameters that knows ten letters of each language is a small world, and two pairs of tasks are two. Languages and
# domains differ in more than kinship: another model, another kind of answer, two adapters against three. Only the control, Italian twice, stays in one
# world with the strangers. TIES had one density and no scale of its own, DARE one rate: a
# search might find better ones.
#
# **Negative results, said aloud.** The mean of three domains is no better than the best single adapter, over six seeds, although one run had said so. TIES and DARE saved nothing, and
# DARE cost a single adapter much of what it knew. `linear` is no sum and did as well as the mean where tasks are relatives: a good score does not show that a rule is right. What was subtracted
# took more along than it should.
#
# ## Go further
#
# - At which scale does the sum of your two languages do best, and is any scale good for both? Try scales of the two apart.
# - Train Portuguese *on top of* the Italian adapter, frozen and switched on. Do the two then add up?
# - Merge two languages of which the base knows one already, English without a tag and Italian, say. Strangers or relatives?
# - The router sees only where a sentence lies. Let it answer "none of these", and give that to the base: when does this help?
# - An open question: what can be measured on the base and a few examples, *before* training, that predicts whether two adapters may be merged?
#
# Sources: task arithmetic, [arXiv:2212.04089](https://arxiv.org/abs/2212.04089); TIES, [arXiv:2306.01708](https://arxiv.org/abs/2306.01708); DARE,
# [arXiv:2311.03099](https://arxiv.org/abs/2311.03099); one batch for many adapters, [arXiv:2310.18547](https://arxiv.org/abs/2310.18547) and
# [arXiv:2311.03285](https://arxiv.org/abs/2311.03285). The library: `peft`, Apache-2.0. The sentences: Hutto and Gilbert, ICWSM 2014. The sum in this course's
# package: `peftlab/combine.py`.

# %% [markdown] tags=["written"]
# ## In your own words
#
# A colleague has two adapters for one base and finds that their updates stand nearly at a right angle: *so they do not disturb each other, and I ship the sum.* What did you see on this page that belongs beside this
# sentence, and beside which control? What would you measure before you choose between the sum, the mean and switching, and which outcome would make you ship the merged one?
