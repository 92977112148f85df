# %% [markdown]
# # 10 A fair comparison
#
# **110 minutes** of reading and doing, **20 seconds** of computing on two quiet cores. Before this: lesson 07, for intervals and paired differences;
# lessons 03 and 05 for the methods, lesson 09 for what is lost.
#
# After this page you will be able to look at a table in which one method wins and say what it shows. You will have made an unfair table and
# seen its winner change, made a fair one, tested its differences with a test that you wrote, and broken a score that mixes quality and cost.
# Everything here is read from records: nothing is trained on this page.

# %%
import math
import random
import statistics

import peftlab as pl
from peftlab.classroom import check, predict
from peftlab.lab import claims, figures, records, widgets
from peftlab.lab.sweeps import best_rates, complete, interval

# %% [markdown]
# ## Predict

# %%
predict("one-shared-rate")

# %% [markdown]
# ## The idea
#
# Whoever compares methods has to decide about everything else. There are three kinds of settings, and they want three treatments:
#
# - the **scientific hyperparameter** is what is compared: here the method;
# - a **nuisance hyperparameter** has to be tuned for *each* value of the scientific one, or the comparison is unfair: here the learning rate;
# - a **fixed hyperparameter** is the same for all, and what is found holds for it alone: here the number of steps, the batch, the number of sentences, the model.
#
# Which is which is a decision, and has to be said. With $V(m, \eta)$ and $T(m, \eta)$, the mean accuracy of method $m$ at the learning rate $\eta$ on the
# validation set and on the test set, the fair score of a method is
#
# $$T(m, \hat\eta_m) \quad \text{with} \quad \hat\eta_m = \arg\max_\eta V(m, \eta)$$
#
# - $\hat\eta_m$ is the rate that validation chooses for this method, out of a grid in which the best rate is not the last one tried;
# - the test set is asked once, about $\hat\eta_m$, and chooses nothing.
#
# An unfair table shows $T(m, \eta)$ with one $\eta$ for all.
#
# ## An unfair table
#
# Nine ways to teach minilm-l6 to tell praise from blame, each in one domain at a time: 36 steps of 16, from 256 sentences. Every method was run at six learning
# rates, a factor of about three apart (seven for (IA)³, since the best of six was the last), with the same seeds; a seed decides the split, the sentences and the start. Recorded by `peftlab record grid-minilm`.

# %%
NAMES = {
    "head": "head only",
    "bitfit": "BitFit",
    "ia3": "(IA)³",
    "lora-8": "LoRA",
    "lora-8-all": "LoRA everywhere",
    "dora-8": "DoRA",
    "pfeiffer-16": "Pfeiffer",
    "houlsby-16": "Houlsby",
    "full": "all weights",
}
recorded = records.load("grid-minilm").round({"test": 6, "validation": 6})
everything = recorded[recorded["matmul"] == "bf16"]
flagship = everything["method"].isin(NAMES) & (everything["sentences"] == 256)
grid = complete(everything[flagship], within="domain")
domains = list(dict.fromkeys(grid["domain"]))
runs = grid.to_dict("records")  # a list with a dict for each run
for domain in domains:
    of_domain = grid[grid["domain"] == domain]
    print(f"{domain}: {of_domain['seed'].nunique()} seeds, {len(of_domain)} runs", end="")
    print(f" of {of_domain['steps'].max()} steps")
print(records.stamp(grid))
print({name: runs[0][name] for name in ("method", "lr", "seed", "validation", "test")})

# %% [markdown]
# LoRA stands on query and value, *LoRA everywhere* on every linear layer of every block, both with rank 8, as does DoRA on query and value. Pfeiffer and
# Houlsby are the adapters of lesson 05. All of them train the head along.
#
# One rate for all: the mean test accuracy, over domains and seeds.

# %%
SHARED = 0.003


def mean_of(frame, method, column):
    return float(frame[frame["method"] == method][column].mean())


at_shared = grid[grid["lr"] == SHARED]
unfair = {method: mean_of(at_shared, method, "test") for method in NAMES}
print(f"test accuracy, all at the learning rate {SHARED}")
for method in sorted(NAMES, key=unfair.get, reverse=True):
    print(f"{NAMES[method]:16}{unfair[method]:7.1%}")

# %% [markdown]
# ### 1. Who wins at this rate?
#
# {{winner-at}}
#
# Write `winner_at(runs, lr)`. `runs` is a list of dicts as the one printed above. Of the runs at the rate `lr`, take each method's mean `test`; return the name
# of the method with the highest.


# %%
def winner_at(runs, lr):
    """The method with the highest mean test accuracy at one learning rate."""
    ### BEGIN SOLUTION
    scores = {}
    for run in runs:
        if run["lr"] == lr:
            scores.setdefault(run["method"], []).append(run["test"])
    return max(scores, key=lambda name: statistics.fmean(scores[name]))
    ### END SOLUTION


# %%
check("winner-at", winner_at)

# %% [markdown]
# Now the same table at every rate. The rates of a method are not those of another, so at most rates some methods are missing; at two of
# them all nine were run.

# %%
winners = {}
for lr in sorted(grid["lr"].unique()):
    tried = grid[grid["lr"] == lr]["method"].nunique()
    if tried > 1:
        winners[lr] = winner_at(runs, lr)
        print(f"rate {lr:<8g}{NAMES[winners[lr]]:16}wins among {tried} methods")
assert len(set(winners.values())) > 1, "another rate, another winner: look at the means"

# %% [markdown]
# One set of runs, and the crown goes from head to head. Whoever chooses the shared rate chooses the winner, and need not know it. Here is why:

# %%
curves = {}
for domain in domains:
    curves[domain] = {}
    for method, name in NAMES.items():
        of_method = grid[(grid["domain"] == domain) & (grid["method"] == method)]
        by_rate = of_method.groupby("lr")["test"]
        curves[domain][name] = [(lr, *interval(tests)) for lr, tests in by_rate]

# %% tags=["hide-source"]
figures.show(
    figures.by_rate(
        curves,
        "Test accuracy by learning rate: means over the seeds, 95 % intervals",
        "test accuracy",
    ),
    alt="A panel for each domain, nine curves in each, test accuracy over the learning rate on a logarithmic axis from 0.00001 to 0.3. Every curve "
    "rises and comes down or levels off, and they do so at different rates: that of all weights far to the left, that of the head alone far to the right.",
)

# %% [markdown]
# Each method has a rate that suits it, and these lie far apart. A vertical line through the picture is an unfair table.
#
# ## Each at its own rate
#
# ### 2. Is the best rate inside?
#
# {{edge-of-grid}}
#
# A grid that ends at its best rate has not found it: it has to be widened. Write `edge_of_grid(runs)`. For each method take the mean `validation` at each of *its*
# rates. Return a dict that says `"lower"` of a method whose best rate is the lowest that it was run at, `"upper"` where it is the highest, and nothing of
# the others. Every method has three rates or more.


# %%
def edge_of_grid(runs):
    """{method: "lower" or "upper"} where the best rate is the last one tried."""
    ### BEGIN SOLUTION
    found = {}
    for name in {run["method"] for run in runs}:
        scores = {}
        for run in runs:
            if run["method"] == name:
                scores.setdefault(run["lr"], []).append(run["validation"])
        best = max(scores, key=lambda lr: statistics.fmean(scores[lr]))
        if best == min(scores):
            found[name] = "lower"
        elif best == max(scores):
            found[name] = "upper"
    return found
    ### END SOLUTION


# %%
check("edge-of-grid", edge_of_grid)

# %% [markdown]
# First where the answer is known: of every method only the two rates that all have in common. With two rates a best one is always at an edge. Then the grid
# as it was recorded.

# %%
both = {lr for lr in grid["lr"] if grid[grid["lr"] == lr]["method"].nunique() == 9}
narrow = edge_of_grid([run for run in runs if run["lr"] in both])
assert len(narrow) == 9, "two rates have no inside"
print(f"with the rates {sorted(both)} alone, {len(narrow)} of 9 are at an edge")
edges = {}
for domain in domains:
    edges[domain] = edge_of_grid([run for run in runs if run["domain"] == domain])
    told = (f"{NAMES[method]} ({side})" for method, side in edges[domain].items())
    print(f"{domain}, all its rates: {', '.join(sorted(told)) or 'none'}")

# %% [markdown]
# Whoever were named in the last lines, those of all rates, would have to be run again with more rates; until then what stands below for it is what was *reached*, not what can be.
#
# ### 3. Chosen on the test
#
# {{selection-bias}}
#
# There is a second way to be unfair, and it hides better: to try six rates and report the best *test* accuracy. Write `selection_bias(runs)`, for runs of one
# method. Somebody has one seed, and its runs at several rates. They may choose on `test` and report that, or choose on `validation` and report the `test` of that run.
# By how much is the first report higher? Return the mean over the seeds. Of runs with the same validation accuracy the first in the list is chosen.


# %%
def selection_bias(runs):
    """By how much choosing on the test raises what is reported: mean over seeds."""
    ### BEGIN SOLUTION
    gaps = []
    for seed in {run["seed"] for run in runs}:
        mine = [run for run in runs if run["seed"] == seed]
        honest = max(mine, key=lambda run: run["validation"])["test"]
        gaps.append(max(run["test"] for run in mine) - honest)
    return sum(gaps) / len(gaps)
    ### END SOLUTION


# %%
check("selection-bias", selection_bias)

# %% [markdown]
# Beside the nine methods the control: six "rates" that are one and the same model, right on three of four sentences. There is nothing to choose. It is marked on
# 200 validation and 400 test sentences, as the records are, and all that differs is which sentences it met.

# %%
draw = random.Random(0)


def marked(sentences):
    return sum(draw.random() < 0.75 for _ in range(sentences)) / sentences


equals = [
    {"lr": rate, "seed": seed, "validation": marked(200), "test": marked(400)}
    for seed in range(200)
    for rate in range(6)
]
bias = {}
for method, name in NAMES.items():
    each = []
    for domain in domains:
        mine = (r for r in runs if r["method"] == method and r["domain"] == domain)
        each.append(selection_bias(list(mine)))
    bias[method] = statistics.fmean(each)
    print(f"{name:16}{100 * bias[method]:5.1f} points")
of_nothing = selection_bias(equals)
print(f"six equal models{100 * of_nothing:5.1f} points")
assert min(bias.values()) >= 0, "the best on the test is never below the honest choice"
assert of_nothing > 0.01, "choosing among equals on the test flatters all the same"

# %% [markdown]
# Six equal models, and the one that the test set likes best looks better than it is. That is the **selection bias**: the best of several measurements is
# too high, by more the more there are. It is as large as many a difference that papers are written about. A mean over seeds has less noise, so there
# is less to flatter with; on this page each method's rate is chosen by its mean *validation* accuracy over the seeds.

# %%
best = best_rates(grid, ["domain", "method"], by="validation")


def of(method, column, domain=None):
    """A column of the chosen runs of a method, domain by domain, seed by seed."""
    rows = best[best["method"] == method]
    if domain:
        rows = rows[rows["domain"] == domain]
    return list(rows.sort_values(["domain", "seed"])[column])


for domain in domains:
    print(f"{domain:16}{'rate':>10}{'accuracy':>15}{'macro-F1':>10}")
    for method, name in NAMES.items():
        middle, half = interval(of(method, "test", domain))
        f1 = statistics.fmean(of(method, "macro_f1", domain))
        rate = of(method, "lr", domain)[0]
        print(f"{name:16}{rate:>10g}{middle:>8.1%} ±{half:5.1%}{f1:>10.1%}")
fair = {method: statistics.fmean(of(method, "test")) for method in NAMES}
gap = max(unfair.values()) - min(unfair.values())
own = max(fair.values()) - min(fair.values())
print(f"from first to last: {100 * gap:.1f} points at one rate, ", end="")
print(f"{100 * own:.1f} each at its own")
assert own < gap, "at its own rate each method comes nearer to the others"

# %% [markdown]
# The **macro-F1** beside the accuracy is the mean over both labels of the F1, the harmonic mean of precision and recall. Where one label is much more frequent, accuracy
# is kind to a model that likes to give it; macro-F1 is not.
#
# ## Is a difference one?
#
# ### 4. A test without a distribution
#
# {{paired-signflip}}
#
# Two methods, the same seeds: what counts is the difference at each seed. If they were equal, then each difference could as well have had the other sign. So try *all* $2^n$ choices
# of signs, and see how many give a sum at least as far from zero, on either side, as the one you saw. That share is $p$. Write
# `paired_signflip(deltas)`. Sums that differ by less than 1e-9 count as equal: they differ by rounding.


# %%
def paired_signflip(deltas):
    """p, on both sides, of the hypothesis that each difference may as well be flipped."""
    ### BEGIN SOLUTION
    sums = [0.0]
    for d in deltas:
        sums = [s + d for s in sums] + [s - d for s in sums]
    far = [abs(s) > abs(sum(deltas)) - 1e-9 for s in sums]
    return statistics.fmean(far)
    ### END SOLUTION


# %%
check("paired-signflip", paired_signflip)

# %% [markdown]
# How small can $p$ get? As small as possible if every seed says the same:

# %%
smallest = {n: paired_signflip([0.01] * n) for n in range(3, 9)}
for n, p in smallest.items():
    print(f"{n} seeds, all in favour: p = {p:.4f}")
assert smallest[5] > 0.05 > smallest[6], "five seeds can't reach 5 %, six can"

# %% [markdown]
# With three seeds there are eight choices of signs, and the two most extreme are a quarter of them. *With five seeds no result whatever falls under five percent.* Somebody who
# runs five and reports that nothing was significant has reported their number of seeds.
#
# Now each method against LoRA on query and value, each at its own rate, seed by seed and domain by domain.

# %%
REFERENCE = "lora-8"
others = [method for method in NAMES if method != REFERENCE]
deltas = {
    m: [a - b for a, b in zip(of(m, "test"), of(REFERENCE, "test"))] for m in others
}
p_values = {m: paired_signflip(deltas[m]) for m in others}
pairs = len(deltas["full"])
print(f"{pairs} pairs each; p can fall to {2 / 2**pairs:.4f}, ", end="")
print(f"and eight times that is {8 * 2 / 2**pairs:.4f}")
for m in others:
    middle = 100 * statistics.fmean(deltas[m])
    print(f"{NAMES[m]:16} minus LoRA: {middle:+5.1f} points, p = {p_values[m]:.4f}")

# %% [markdown]
# ### 5. Eight tests at once
#
# {{holm}}
#
# Eight tests of nothing come out below five percent more often than one: lesson 07 counted it for nine. The plainest cure multiplies every $p$ by the number of tests
# (**Bonferroni's correction**). **Holm's correction** promises the same and gives away less: the smallest $p$ had to stand out among all $n$, so it is multiplied by $n$; the next only among the
# $n - 1$ that are left, and so on. A corrected $p$ is never smaller than that of a smaller one, and never over one. Write `holm(p_values)`, which returns the corrected values in the
# order in which they came.


# %%
def holm(p_values):
    """Holm's corrected p for each, in the order given."""
    ### BEGIN SOLUTION
    n, highest = len(p_values), 0.0
    corrected = [0.0] * n
    for i, place in enumerate(sorted(range(n), key=lambda k: p_values[k])):
        highest = max(highest, (n - i) * p_values[place])
        corrected[place] = min(1.0, highest)
    return corrected
    ### END SOLUTION


# %%
check("holm", holm)

# %% [markdown]
# First where the answer is known: eight tests of nothing, 300 times. Each has ten differences that are drawn around zero.

# %%
found = {"one of eight, as they are": 0, "one of eight, corrected": 0}
for _ in range(300):
    drawn = ([draw.gauss(0, 1) for _ in range(10)] for _ in range(8))
    nothing = [paired_signflip(each) for each in drawn]
    found["one of eight, as they are"] += min(nothing) < 0.05
    found["one of eight, corrected"] += min(holm(nothing)) < 0.05
for what, times in found.items():
    print(f"nothing to be found, and found by {what}: {times / 300:.0%}")
assert found["one of eight, corrected"] < 0.1 * 300, "corrected, one time in twenty"
assert found["one of eight, as they are"] > 0.2 * 300, "as they are, far more often"

# %% [markdown]
# Then the eight comparisons. A small $p$ says that a difference is there, not that it matters; that is what an **effect size** is for: the mean difference in points, and
# beside it the same in standard deviations of the differences, $d$.

# %%
corrected = dict(zip(others, holm([p_values[m] for m in others])))
verdicts = {}
for m in others:
    middle = statistics.fmean(deltas[m])
    d = middle / statistics.stdev(deltas[m])
    verdicts[m] = "cannot tell"
    if corrected[m] < 0.05:
        verdicts[m] = "better than LoRA" if middle > 0 else "worse than LoRA"
    print(f"{NAMES[m]:16}{100 * middle:+5.1f} points, d = {d:+.1f}, ", end="")
    print(f"p = {p_values[m]:.4f}, corrected {corrected[m]:.4f}: {verdicts[m]}")
told_apart = sum(verdict != "cannot tell" for verdict in verdicts.values())
print(f"{told_apart} of {len(others)} can be told from LoRA, {pairs} pairs each")
assert all(corrected[m] >= p_values[m] for m in others), "a correction never helps"

# %% tags=["hide-source"]
figures.show(
    figures.intervals(
        [NAMES[m].replace(" ", "\n") for m in others],
        {
            domain: [
                interval(
                    a - b
                    for a, b in zip(of(m, "test", domain), of(REFERENCE, "test", domain))
                )
                for m in others
            ]
            for domain in domains
        },
        "Each method minus LoRA, each at its own rate: paired by seed, 95 % intervals",
        "",
        "difference of test accuracy",
        levels={"LoRA": 0},
        joined=False,
    ),
    alt="For eight methods the paired difference of test accuracy to LoRA, with 95 % intervals, one marker for each domain, and a dotted line at zero "
    "for LoRA itself. Several intervals hold zero.",
)

# %% [markdown]
# Compare the verdicts with the table at one rate that this page began with. What looked like a ranking of methods was mostly a ranking of rates.
#
# ## How good is good?
#
# ### 6. Would another crowd say the same?
#
# {{crowd-ceiling}}
#
# An accuracy lies between a floor and a **ceiling**. The floor is the majority-class baseline. For a ceiling lesson 07 asked how often one person agrees with the
# mean of the others. But a model is not one person: it learns from the means of many. So ask besides how often *a crowd* agrees with another crowd. Write
# `crowd_ceiling(ratings)`, for a list of sentences, each a list of ratings from -4 to 4. Split each into the raters at even and at odd places. Do the means of the two halves have
# the same sign? Where either mean is zero, count half. Return the mean over the sentences.


# %%
def crowd_ceiling(ratings):
    """How often two halves of the raters agree on the sign of their mean, from 0 to 1."""
    ### BEGIN SOLUTION
    hits = 0
    for given in ratings:
        product = sum(given[::2]) * sum(given[1::2])
        hits += 0.5 if product == 0 else product > 0
    return hits / len(ratings)
    ### END SOLUTION


# %%
check("crowd-ceiling", crowd_ceiling)

# %% [markdown]
# Both ceilings, for the sentences of the records, those that the crowd did not call neutral. Beside them two controls: the neutral ones, which nobody has to tell apart here, and halves that
# belong to different sentences.


# %%
def one_person(ratings):
    """Lesson 07: how often one rater agrees with the mean of the others."""
    shares = []
    for given in ratings:
        products = [r * (sum(given) - r) for r in given]
        shares.append(statistics.fmean(0.5 if p == 0 else p > 0 for p in products))
    return statistics.fmean(shares)


def strangers(ratings):
    """Ratings whose halves come from two sentences."""
    pairs = zip(ratings, ratings[::-1])
    return [[x for both in zip(a[::2], b[1::2]) for x in both] for a, b in pairs]


levels = {}
for domain in domains:
    chosen = [list(r) for r in pl.lab.sentiment(domain, None)["ratings"]]
    of_all = pl.lab.four_domains(domain)
    neutral = [r for r, x in zip(of_all["ratings"], of_all["rating"]) if abs(x) <= 0.5]
    levels[domain] = {
        "majority class": statistics.fmean(of("head", "always_the_commoner", domain)),
        "one person": one_person(chosen),
    }
    floor, person = levels[domain].values()
    crowd, apart = crowd_ceiling(chosen), crowd_ceiling(strangers(chosen))
    print(f"{domain}: majority class {floor:.1%}, one person {person:.1%}, ", end="")
    print(f"half a crowd {crowd:.1%}")
    print(f"    neutral sentences {crowd_ceiling(neutral):.1%}, strangers {apart:.1%}")
    top = max(NAMES, key=lambda m: statistics.fmean(of(m, "test", domain)))
    reached = (statistics.fmean(of(top, "test", domain)) - floor) / (person - floor)
    print(f"    {NAMES[top]}, the best, goes {reached:.0%} of the way to one person")
    assert floor < person < crowd, "one person agrees less often than half a crowd"
    assert apart < person, "strangers agree by chance alone"

# %% tags=["hide-source"]
figures.show(
    figures.scored(
        {
            domain: (
                {name: interval(of(m, "test", domain)) for m, name in NAMES.items()},
                levels[domain],
            )
            for domain in domains
        },
        "Each method at its own rate, between floor and ceiling: 95 % intervals",
        "test accuracy",
    ),
    alt="A panel for each domain: nine methods, one a row, with the mean test accuracy and its 95 % interval, and two vertical lines: the majority-class "
    "baseline to the left and the agreement of one person with the others to the right.",
)

# %% [markdown]
# So the labels are no ceiling here: with the neutral sentences left out another crowd says the same practically always. What keeps these methods down is not noise in the labels. One
# person is another matter: a model at that line agrees with the crowd as well as one of the crowd does, and there is no law that it has to stop there.
#
# ## What was lost, and what it costs
#
# Lesson 09 measured what the untouched model could do and the adapted one no longer can: to find a sentence of the same article. Here for the chosen runs. With an adapter
# switched off the model is the untouched one again, and `off` says by how much its embeddings then differ from before. Training all weights has nothing to switch off.

# %%
lost = {}
for m, name in NAMES.items():
    each = [a - b for a, b in zip(of(m, "retrieval_before"), of(m, "retrieval"))]
    lost[m] = statistics.fmean(each)
    by_domain = ""
    for domain in domains:
        pairs_of = zip(of(m, "retrieval_before", domain), of(m, "retrieval", domain))
        middle, half = interval(100 * (a - b) for a, b in pairs_of)
        by_domain += f"  {domain} {middle:+5.1f} ±{half:5.1f}"
    off = max(of(m, "off_differs"))
    print(f"{name:16} points lost:{by_domain}  off: {off:.0e}")
    assert m == "full" or off < 1e-5, f"{m} switched off is the untouched model"
assert lost["head"] == 0, "a head alone changes nothing below it"

# %% [markdown]
# Then the costs, counted and not timed: of a step on 16 sentences of 32 tokens, and of the file that is saved.

# %%
costs = {}
for m, name in NAMES.items():
    row = best[best["method"] == m].iloc[0]
    costs[m] = {
        "trainable parameters": int(row["trainable"]),
        "file, MB": row["file_bytes"] / 1e6,
        "training, MB": (row["gradients"] + row["optimizer"] + row["activations"]) / 1e6,
        "multiplications, billion": (row["forward"] + row["backward"]) / 1e9,
    }
print(f"{'':16}" + "".join(f"{what:>{len(what) + 2}}" for what in costs["full"]))
for m, name in NAMES.items():
    shown = {
        w: f"{x:,}" if isinstance(x, int) else f"{x:.2f}" for w, x in costs[m].items()
    }
    print(f"{name:16}" + "".join(f"{x:>{len(w) + 2}}" for w, x in shown.items()))

# %% [markdown]
# *Training* is what a step holds beside the weights: gradients, the optimizer's states, activations. Four columns, and more than one order of the methods. Nobody can say which of
# them is *the* cost. That depends on what is scarce where you are: memory, time, or the disk that is to hold a hundred of them.
#
# ### 7. Who is on the front?
#
# {{pareto}}
#
# One method **dominates** another if it is at least as good in both, quality and cost, and better in one of them. Nobody has a reason to take a dominated one. Those that
# no other dominates form the **Pareto front**. Write `pareto(points)`: `points` maps a name to `(quality, cost)`; return the names on the front.


# %%
def pareto(points):
    """The names that no other dominates: high quality is good, and so is low cost."""
    ### BEGIN SOLUTION
    front = []
    for name, (quality, cost) in points.items():
        for q, c in points.values():
            if q >= quality and c <= cost and (q > quality or c < cost):
                break
        else:
            front.append(name)
    return front
    ### END SOLUTION


# %%
check("pareto", pareto)

# %%
fronts = {}
for what in costs["full"]:
    fronts[what] = pareto({m: (fair[m], costs[m][what]) for m in NAMES})
    print(
        f"accuracy and {what}:", ", ".join(NAMES[m] for m in NAMES if m in fronts[what])
    )
fronts["lost"] = pareto({m: (fair[m], lost[m]) for m in NAMES})
print(
    "accuracy and what was lost:",
    ", ".join(NAMES[m] for m in NAMES if m in fronts["lost"]),
)
assert all("head" in front for front in fronts.values()), "nothing is cheaper than a head"
everywhere = best.groupby("seed").filter(
    lambda rows: len(rows) == len(NAMES) * len(domains)
)
over_domains = {}  # half the interval of each seed's mean over the domains
for m in NAMES:
    means = everywhere[everywhere["method"] == m].groupby("seed")["test"].mean()
    over_domains[m] = interval(means)[1]

# %% tags=["hide-source"]
figures.show(
    figures.front(
        {
            NAMES[m]: (
                fair[m],
                over_domains[m],
                costs[m]["trainable parameters"],
            )
            for m in NAMES
        },
        [NAMES[m] for m in fronts["trainable parameters"]],
        "Accuracy and trainable parameters, each at its own rate",
        "trainable parameters",
        "test accuracy, mean over the domains",
    ),
    alt="Nine methods as points: trainable parameters on a logarithmic axis to the right, mean test accuracy upwards, each with its interval. Filled markers, joined by "
    "a dotted staircase, are on the Pareto front; open ones are dominated. The head alone is the leftmost point of the front.",
)

# %% [markdown]
# A front made of means is itself uncertain: where the intervals of two points overlap, another six seeds may put the other one on it. Read it together with the verdicts above: *dominated* is
# worth as much as the difference that it rests on.
#
# ### 8. For which weight does it win?
#
# {{composite-score}}
#
# Some leaderboards go further and fold quality and cost into one **composite score**, such as $\text{quality} - w \cdot \text{cost}$, with a weight $w \ge 0$ that says how much quality one unit of
# cost is worth. Somebody chose $w$. Write `wins_for(points, name)`: the lowest and the highest $w \ge 0$ for which the score of `name` is at least that of every other method, as a pair; the highest may be
# `math.inf`. Return `None` if there is no such $w$.


# %%
def wins_for(points, name):
    """(lowest, highest) weight w for which name has the highest quality - w * cost."""
    ### BEGIN SOLUTION
    quality, cost = points[name]
    low, high = 0.0, math.inf
    for q, c in points.values():
        if c > cost:
            low = max(low, (q - quality) / (c - cost))
        elif c < cost:
            high = min(high, (quality - q) / (cost - c))
        elif q > quality:
            return None
    return (low, high) if low <= high else None
    ### END SOLUTION


# %%
check("composite-score", wins_for)

# %% [markdown]
# Now break it. Three ways to count the same cost, all of them in use, and for each the methods that win for *some* weight:

# %%
ways = {
    "millions of parameters": lambda m: costs[m]["trainable parameters"] / 1e6,
    "powers of ten of parameters": lambda m: math.log10(costs[m]["trainable parameters"]),
    "MB of training": lambda m: costs[m]["training, MB"],
}
crowned, winners_at = {}, {0.001: [], 0.01: [], 0.1: []}
for way, cost in ways.items():
    points = {m: (fair[m], cost(m)) for m in NAMES}
    ranges = {m: wins_for(points, m) for m in NAMES}
    crowned[way] = {m: w for m, w in ranges.items() if w and w[0] < w[1]}  # no mere tie
    for w, names in winners_at.items():
        first = max(NAMES, key=lambda m: points[m][0] - w * points[m][1])
        names.append(NAMES[first])
    print(f"cost in {way}; the score is won by")
    for m, (low, high) in sorted(crowned[way].items(), key=lambda item: item[1]):
        print(f"    {NAMES[m]:16} for w from {low:.2g} to {high:.2g}")
    on_front = set(pareto(points))
    never = [NAMES[m] for m in NAMES if m in on_front and m not in crowned[way]]
    print(f"    on the front, and never: {', '.join(never) or 'none'}")
    assert set(crowned[way]) <= on_front, "a dominated method never wins"
    assert len(crowned[way]) > 1, "more than one method can be made to win"
for w, names in winners_at.items():
    print(f"w = {w}, in the three units: {', '.join(names)}")
assert len(set(winners_at[0.1])) > 1, "one weight, another unit, another winner"

# %% [markdown]
# The score has a winner for every taste, and the weight and the unit decide which. And a method can be on the front and win for no weight at all, where it lies below the line between two others: a score that
# adds cannot see it, and somebody with its budget would still want it. A score compresses a front into an opinion. Publish the front, or say whose opinion it is.
#
# ## The library: its own table
#
# The makers of `peft` publish a comparison of its methods, `method_comparison` in its repository: a Llama model of three billion parameters learns to
# solve school mathematics, and 1,319 questions test it. It is one of the most careful public tables of its kind: every run comes with its settings, versions, memory, time and
# what was forgotten. Below are a few of its rows and some counts over all of them, read for this course from its files of August 2026. They are
# *their* numbers and not a measurement of ours; with a network you can read the whole.

# %%
QUESTIONS = 1319
TABLE = {  # name -> (accuracy, rise of the loss on other text), all with seed 0
    "all weights, rate 1e-5": (0.472, 0.030),
    "LoRA, rank 32, rate 1e-4": (0.478, 0.050),
    "LoRA, rank 10, MLP": (0.494, 0.032),
    "rsLoRA, rank 64": (0.513, 0.111),
    "(IA)³, rate 1e-3": (0.398, 0.050),
    "prompt tuning, default": (0.057, 0.742),
    "prompt tuning, another rate and start": (0.343, None),
}
COUNTS = {
    "runs": 63,
    "of them with seed 0": 63,
    "of them at rate 1e-4": 37,
    "cannot be told from LoRA of rank 32": 23,
    "are better, at 95 %": 1,
    "are better after Bonferroni's correction": 0,
    "rank correlation of accuracy and forgetting, over the 51 above .30": 0.07,
}
ours = TABLE["LoRA, rank 32, rate 1e-4"][0]
normal = statistics.NormalDist()
apart = {}
for name, (accuracy, rise) in TABLE.items():
    spread = math.sqrt(sum(p * (1 - p) for p in (accuracy, ours)) / QUESTIONS)
    once, for_all = (normal.inv_cdf(1 - 0.05 / n / 2) * spread for n in (1, 62))
    apart[name] = abs(accuracy - ours) > for_all
    print(f"{name:38}{accuracy:.3f}, minus LoRA {accuracy - ours:+.3f} ", end="")
    told = "not in the table" if rise is None else f"+{rise}"
    print(f"± {once:.3f}, among all ± {for_all:.3f}; loss {told}")
for what, count in COUNTS.items():
    print(f"{count:>6} {what}")
assert not apart["rsLoRA, rank 64"], "within what other questions would have moved"
assert apart["prompt tuning, default"], "far outside of it"

# %% [markdown]
# The interval is for one thing alone: *which questions were asked*. Another seed, another rate, another order of the data would move the numbers too, and of that the table can say nothing, having one
# seed and, for most methods, one rate.

# %%
predict("leaderboard-sentences")

# %% [markdown]
# None of this is a reproach to those who ran it: 63 runs of a three-billion model are dear, they say what they did, and a table like this is the best place to *begin*. It is a table of settings, read by many as a
# table of methods.
#
# ## See: the records themselves
#
# A table shows what its maker chose to show. Here are all recorded runs, to be asked: which domain, method, rank, learning rate and number of sentences. What nobody ran is *not recorded*. Find a rate at which BitFit
# beats LoRA. Find one at which all weights do no better than the majority class.

# %%
RANKS = {1: "lora-1", 2: "lora-2", 4: "lora-4", 8: "lora-8"}
RANKS |= {16: "lora-16", 32: "lora-32", 64: "lora-64"}
START = {"domain": domains[0], "method": "LoRA", "rank": 8, "learning_rate": SHARED}
shown = widgets.recorded_runs(everything, NAMES, RANKS, START | {"sentences": 256})
shown

# %% [markdown]
# Two of its axes as text. First the rank of LoRA on query and value, on tweets, with alpha twice the rank, so that the scale stays; *a higher rank at a fixed alpha* would be another method. Each
# rank at the best of its rates. Then the number of sentences, from 64 to 2,048, three rates each; more sentences were given more steps
# as well, since fewer would not have seen them all.


# %%
def at_best(methods, sentences):
    """{(method, sentences): (rate, parameters, test by seed)}, of what is recorded."""
    rows = everything[everything["method"].isin(methods)]
    rows = rows[rows["sentences"].isin(sentences) & (rows["domain"] == "tweets")]
    rows = rows[rows["seed"].isin(grid["seed"])]
    found = {}
    for key, part in rows.groupby(["method", "sentences"]):
        whole = complete(part, within="domain")
        if len(whole):
            chosen = best_rates(whole, ["method"], by="validation")
            count = int(chosen["trainable"].iloc[0])
            tests = chosen.set_index("seed")["test"].sort_index()
            found[key] = (chosen["lr"].iloc[0], count, tests)
    return found


def told(found, key):
    if key not in found:
        return "not recorded"
    lr, count, tests = found[key]
    middle, half = interval(tests)
    return f"{middle:6.1%} ±{half:5.1%} at {lr:g}, {count:,} trainable parameters"


ranks = at_best([*RANKS.values(), "lora-8-all"], [256])
for r, method in RANKS.items():
    print(f"rank {r:2}: {told(ranks, (method, 256))}")
print(f"rank 8, everywhere: {told(ranks, ('lora-8-all', 256))}")
for high, low in ((64, 1), (64, 8)):
    of_high, of_low = (ranks[RANKS[r], 256][2] for r in (high, low))
    middle, half = interval(of_high - of_low)
    print(f"rank {high} minus rank {low}, paired: {middle:+.1%} ±{half:.1%}")
    assert abs(middle) < half, "on tweets the rank made a difference: look at its lines"

# %%
few, numbers = ("head", "bitfit", "lora-8", "full"), (64, 256, 1024, 2048)
sizes = at_best(few, numbers)
for n in numbers:
    for m in few:
        print(f"{n:5} sentences, {NAMES[m]:12} {told(sizes, (m, n))}")
paired = {}
for one, other in (("full", "head"), ("full", "lora-8"), ("lora-8", "head")):
    for n in numbers:
        if (one, n) in sizes and (other, n) in sizes:
            gap = interval(sizes[one, n][2] - sizes[other, n][2])
            paired[one, other, n] = gap
            print(f"{NAMES[one]} minus {NAMES[other]}, {n:5} sentences: ", end="")
            print(f"{gap[0]:+.1%} ±{gap[1]:.1%}")
highest = everything[everything["sentences"] == 64].groupby("method")["lr"].max()
assert all(sizes[m, 64][0] == highest[m] for m in few), "at 64: look at the rates"
for n in numbers:
    for m in ("full", "lora-8"):
        assert paired[m, "head", n][0] > paired[m, "head", n][1], "ahead of the head"
    assert sum(paired["full", "lora-8", n]) < 0.03, "and LoRA is never far behind"
gaps = {n: paired["full", "lora-8", n] for n in numbers}
alone = [n for n, (mean, half) in gaps.items() if abs(mean) > half]
assert alone == [1024], "another interval than that at 1,024 leaves zero out"
assert all(abs(mean) <= 0.01 for mean, _ in gaps.values()), "more than a point"

# %% [markdown]
# *A higher rank helps* is a belief that this task does not bear: with alpha in proportion and each rank at the best of its rates, 64 cannot be told from 1, nor from 8; what the two intervals leave open is their far ends. (For all ranks but 8 three rates were tried, 0.01 the highest: the smallest ranks stand at that edge and might do better still, which would make a higher rank look worse.) For a new language it is otherwise: [C29](../docs/claims.md#c29).
#
# *Small methods are for few examples, and all weights for many*: not between 64 and 2,048 of these sentences. At each number the intervals of all weights and of LoRA lie above the head alone. Of the two, all weights are
# never more than a point ahead in the mean; at 1,024 alone the interval leaves zero out, by less than a point, and among so many intervals one that does is no surprise (step 5). With 64 sentences each of the four stands at the highest of its three rates, so there a better one may lie beyond.
#
# *With equal numbers of trainable parameters it is fair*, it is said. LoRA everywhere has about as many with rank 8 as LoRA on query and value with rank 32, and they stand in other places: an equal number does not make them the same method. In the tables above the rank is one more nuisance
# hyperparameter, chosen once.
#
# ## Precision, and other devices
#
# These runs were recorded on a processor, which multiplied matrices in bfloat16, for speed. The control: the same runs, one seed, in float32.

# %%
exact = recorded[recorded["matmul"] == "ieee"]
if len(exact):
    keys = ["domain", "method", "lr", "seed", "sentences"]
    twice = exact.merge(everything, on=keys, suffixes=("_exact", ""))
    moved = (twice["test_exact"] - twice["test"]).abs()
    print(f"{len(twice)} runs in both precisions: test accuracy moves by ", end="")
    print(f"{100 * moved.mean():.1f} points on average, {100 * moved.max():.1f} at most")
else:
    print("float32: not recorded")
on_gpu = everything[everything["kind"] == "cuda"]
print("on a GPU:", f"{len(on_gpu)} runs" if len(on_gpu) else "not recorded")

# %% [markdown]
# ## The claims of an article
#
# Articles on PEFT make the same claims again and again. [`docs/claims.md`](../docs/claims.md) holds 37 of them against the runs of this course. These are the ones for which
# this lesson's records count; a verdict on this grid needs six seeds in a domain, and says so where they are not there. Other records that it looks at may have fewer; the page names them.

# %%
settled = claims.table("10")
for row in settled.to_dict("records"):
    print(f"{row['claim']}: {row['sentence']}")
    print(f"    {row['verdict']}; {row['runs']}")
everything_said = len(claims.table())
print(f"{everything_said} claims in all")
assert everything_said == 37, "none was left out"

# %% [markdown]
# ## Read the result
#
# **What it shows.** At one shared rate a table compares rates. Give each method its own, chosen on validation inside of its grid, pair the seeds, correct for the number of
# looks, and most of a leaderboard is gone: what is left stands in the verdicts above. What remains to choose by is cost and what is lost, and there the methods do differ; which of
# the costs counts is yours to say.
#
# | belief | here |
# | --- | --- |
# | *with everything else held fixed the table compares methods* | does not hold: the winner changes with the rate that was held fixed |
# | *five seeds are enough to find a difference* | does not hold for this test: no five differences fall under five percent |
# | *the best of a grid may be reported on the set it was chosen on* | does not hold: six equal models look better than they are |
# | *a composite score finds the best method* | does not hold: it finds that of its weight and unit |
#
# **What it does not show.** One small encoder, few steps, sentences in English that are praise or blame. The fixed hyperparameters are fixed: with ten times the steps another method may
# lead. Rank, reduction factor and places were chosen once for each method, and they are nuisance hyperparameters as well. Pairs over seeds *and* domains
# speak of these domains. And *cannot tell* is not *equal*: for that lesson 07 asks for a margin.
#
# **Negative results, said aloud.** Read the verdicts: where they say *cannot tell*, this page has found no difference, with these many pairs. Where `edge_of_grid` named a method, its score is a lower bound.
#
# ## Go further
#
# - Fold what is lost into the score as a third term. How many methods can you make win now?
# - The rate was tuned, and the number of steps was fixed. Sketch the plan in which both are tuned. How many runs is that, with six seeds?
# - Take a table of a paper that you trust. Which rates were tried for the method that lost, how many seeds are there, and which correction was made?
# - An open question: how much tuning is each method owed? Six rates for a method with one knob and six for one with four is not the same either.
#
# Sources: tuned rates bring the variants of LoRA close together, [arXiv:2602.04998](https://arxiv.org/abs/2602.04998); too few seeds,
# [arXiv:2511.19794](https://arxiv.org/abs/2511.19794); a composite score for PEFT, [arXiv:2511.21285](https://arxiv.org/abs/2511.21285); learning and forgetting on one front,
# [arXiv:2405.09673](https://arxiv.org/abs/2405.09673). The library's table: `method_comparison/MetaMathQA` in `peft`'s repository, Apache-2.0. Sentences and ratings: Hutto and Gilbert, ICWSM 2014.

# %% [markdown] tags=["written"]
# ## In your own words
#
# A colleague shows a table: LoRA .84, BitFit .81, prompt tuning .55, all at the learning rate 1e-4, three seeds each, the best of ten checkpoints on the test set. *So prompt tuning is no good, and LoRA beats BitFit.* What did you see on
# this page that belongs beside this table, and beside which control? What would you run, and which outcome would make you agree with the second half of the sentence?
