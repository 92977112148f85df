"""Lesson 10, a fair comparison: winners by rate, edges of a grid, selection, a sign-flip test, Holm, fronts, scores, a ceiling.

Runs are lists of dicts, one for each run: method, lr, seed, validation, test (the last two are accuracies).
"""

import itertools
import math
import random
import statistics
from collections import defaultdict

import torch

from ..exercise import Case, Exercise, Question, Unexpected
from ..observing import given

LESSON = "10-a-fair-comparison"
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)


def number(value, name):
    """One real number from an answer, or a sentence that says what came instead."""
    if hasattr(value, "item") and len(getattr(value, "shape", ())) == 0:  # torch's and numpy's
        value = value.item()
    return float(given(value, (int, float), name))


def grouped(runs, key, value):
    """{key: [values]} of a list of runs."""
    found = defaultdict(list)
    for run in runs:
        found[key(run)].append(value(run))
    return found


def copied(runs):
    return [dict(run) for run in runs]


# ================================================================ questions

shared = Question(
    "one-shared-rate",
    lesson=LESSON,
    title="Nine methods, one rate",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=2,
    question="Nine ways to fine-tune one encoder: the same sentences, the same seeds, as many steps, and for all of them one learning rate, since "
    "*whatever is not compared has to be held fixed*. The table of the accuracies has a clear winner. What does it tell you?",
    options={
        "a": (
            "which method is the best here: the method is the only thing that differs",
            "Is it? A step of one size moves two vectors of biases, two thin matrices or every weight of the model. What does the same rate do in each?",
        ),
        "b": (
            "which method this rate suits; with another shared rate the table may have another winner",
            "A rate is not neutral. It suits some methods and starves or breaks others, so the table compares rates as much as methods.",
        ),
        "c": (
            "nothing, for it has too few seeds",
            "More seeds make the same means surer. Of what would they be the means?",
        ),
        "d": (
            "which method is the best, unless the rate happens to be a bad one: with the library's default it would be fair",
            "For which of the nine methods was the default chosen, and on which model? What would a default have to know?",
        ),
    },
    right="b",
)

sentences = Question(
    "leaderboard-sentences",
    lesson=LESSON,
    title="Which sentence survives?",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=4,
    question="Four sentences that one could write under that table. Which of them do its numbers bear?",
    options={
        "a": (
            "rsLoRA of rank 64 is better than LoRA of rank 32: .513 against .478",
            "How far does the interval of that difference reach, with 1,319 questions? And two things differ, rank and scale, at one rate and one seed: which of them would it have been?",
        ),
        "b": (
            "prompt tuning is a weak method",
            "One row of prompt tuning is far below all others, and another with a different rate and start is six times as high. What was weak: the method?",
        ),
        "c": (
            "the run of prompt tuning with default settings is below the run of LoRA with rank 32, and that is not due to which questions were asked",
            "That is all that one run beside another can show: these two runs, on questions like these. It names settings, and no method's worth.",
        ),
        "d": (
            "LoRA forgets more than full fine-tuning: .050 against .030",
            "For full fine-tuning the rate was 1e-5, for LoRA 1e-4, one seed each, and another LoRA of the table has .032. What would you have to hold beside each other?",
        ),
    },
    right="c",
)


# ================================================================ the winner at a rate

winner = Exercise(
    "winner-at",
    lesson=LESSON,
    title="Who wins at this rate?",
    signature="winner_at(runs, lr)",
    why="With it you can make the unfair table yourself, at any rate you like, and see whom it crowns.",
    points=1,
    minutes=6,
    difficulty=1,
    hints=[
        "Which runs count at all? Throw the others away first.",
        "Collect the test accuracies of each method in a list of its own; a dict of lists does it.",
        "Methods may have different numbers of runs. Which of sum and mean does not reward having more?",
    ],
)


def some_runs(draw, methods, rates, seeds, spread=0.05, gaps=0.0):
    """Runs with accuracies that differ by method, rate and seed; some may be missing."""
    height = {(m, lr): draw.uniform(0.6, 0.75) for m in methods for lr in rates}
    runs = []
    for m, lr, seed in itertools.product(methods, rates, range(seeds)):
        if seed and draw.random() < gaps:
            continue
        test = height[m, lr] + draw.gauss(0, spread)
        validation = height[m, lr] + draw.gauss(0, spread)
        runs.append({"method": m, "lr": lr, "seed": seed, "validation": round(validation, 4), "test": round(test, 4)})
    draw.shuffle(runs)
    return runs


@winner.cases
def winner_cases(seed):
    draw, cases = random.Random(seed), []
    names = ["head", "bitfit", "ia3", "lora", "dora", "full"]
    while len(cases) < 32:
        methods = draw.sample(names, draw.randint(4, 6))
        seeds = draw.randint(3, 6)
        gaps = 0.3 if len(cases) % 3 == 2 else 0.0
        runs, lr = some_runs(draw, methods, RATES[1:5], seeds, gaps=gaps), draw.choice(RATES[1:5])
        means = {m: statistics.fmean(v) for m, v in at_rate(runs, lr).items()}
        first, second = sorted(means.values(), reverse=True)[:2]
        if first - second < 0.004:
            continue
        label = f"{len(methods)} methods, {seeds} seeds{', some runs missing' * bool(gaps)}, at {lr:g}"
        cases.append(Case(label, runs=runs, lr=lr))
    return cases


def at_rate(runs, lr, what="test"):
    return grouped([r for r in runs if r["lr"] == lr], lambda r: r["method"], lambda r: r[what])


@winner.observe
def look_winner(answer, case):
    name, known = answer(copied(case.runs), case.lr), {r["method"] for r in case.runs}
    if name is None:
        given(name, str, "`winner_at`")
    if not isinstance(name, str) or name not in known:
        raise Unexpected(f"`winner_at` gave {name!r}, which is no name of a method; here they are {', '.join(sorted(known))}.")
    return {"winner": name}


@winner.evidence
def beside_the_winner(cases, seen, expected):
    """The means of the two, in the first case that is wrong."""
    for case, mine, theirs in zip(cases, seen, expected):
        if "winner" in mine and mine["winner"] != theirs["winner"]:
            found = at_rate(case.runs, case.lr)
            told = (f"{n}: mean {statistics.fmean(found[n]):.3f} of {len(found[n])} runs" for n in (mine["winner"], theirs["winner"]))
            return f"With {case.label}, test accuracy of {'; '.join(told)}. What does your function compare?"
    return None


@winner.solution
def by_lists(runs, lr):
    scores = {}
    for run in runs:
        if run["lr"] == lr:
            scores.setdefault(run["method"], []).append(run["test"])
    return max(scores, key=lambda name: statistics.fmean(scores[name]))


@winner.solution
def with_a_frame(runs, lr):
    import pandas

    frame = pandas.DataFrame(runs)
    return str(frame[frame["lr"] == lr].groupby("method")["test"].mean().idxmax())


@winner.solution
def method_by_method(runs, lr):
    best, top = None, -1.0
    for name in {run["method"] for run in runs}:
        tests = [run["test"] for run in runs if run["method"] == name and abs(run["lr"] / lr - 1) < 1e-6]
        if tests and sum(tests) / len(tests) > top:
            best, top = name, sum(tests) / len(tests)
    return best


def winner_slip(message, name, f):
    winner.slip(message)(f, name)


def best_of(scores, key):
    return max(scores, key=lambda n: key(scores[n]))


winner_slip(
    "The single best run decides. How often does a method get lucky that is run six times?",
    "best-run",
    lambda runs, lr: best_of(at_rate(runs, lr), max),
)
winner_slip(
    "Accuracies are added up: whoever has more runs has more. Which number does not depend on how many there are?",
    "sums",
    lambda runs, lr: best_of(at_rate(runs, lr), sum),
)
winner_slip(
    "The runs of all rates are thrown together. Which of them were trained at `lr`?",
    "all-rates",
    lambda runs, lr: best_of(grouped(runs, lambda r: r["method"], lambda r: r["test"]), statistics.fmean),
)
winner_slip(
    "This is the one with the lowest mean. Is a high accuracy good or bad?",
    "the-loser",
    lambda runs, lr: best_of(at_rate(runs, lr), lambda v: -statistics.fmean(v)),
)
winner_slip(
    "You compare the accuracy on the validation set. What does the table show?",
    "on-validation",
    lambda runs, lr: best_of(at_rate(runs, lr, "validation"), statistics.fmean),
)
winner_slip(
    "You compare medians. The table has means: what does a median not see?",
    "medians",
    lambda runs, lr: best_of(at_rate(runs, lr), statistics.median),
)
winner_slip(
    "Each method comes with its own best rate. That is the fair table, later on: which one is asked for here?",
    "own-best-rate",
    lambda runs, lr: max(
        {r["method"] for r in runs}, key=lambda m: max(statistics.fmean(v) for v in grouped([r for r in runs if r["method"] == m], lambda r: r["lr"], lambda r: r["test"]).values())
    ),
)
winner_slip(
    "The worst run decides. What becomes of the others?",
    "worst-run",
    lambda runs, lr: best_of(at_rate(runs, lr), min),
)
winner_slip(
    "Only the last run of each method is kept: a dict has one place for a key. What should lie there?",
    "last-run",
    lambda runs, lr: best_of(at_rate(runs, lr), lambda v: v[-1]),
)
winner_slip(
    "Only the first run of each method counts. What becomes of the others?",
    "first-run",
    lambda runs, lr: best_of(at_rate(runs, lr), lambda v: v[0]),
)
winner_slip(
    "You look for the method with the most runs. What did they score?",
    "most-runs",
    lambda runs, lr: best_of(at_rate(runs, lr), len),
)


# ================================================================ the edge of a grid

edges = Exercise(
    "edge-of-grid",
    lesson=LESSON,
    title="Is the best rate inside?",
    signature="edge_of_grid(runs)",
    why="If the best rate is the last one tried, the best one was not tried. A grid has to be widened before anything is read from it.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "One method first: its rates in order, and the mean validation accuracy at each.",
        "Each method has a grid of its own. What is the lowest rate that *this* method was run at?",
        "Nothing is said of a method whose best rate has a worse one on both sides.",
    ],
)


def by_rate(runs, method, what="validation"):
    """{lr: mean} of one method, rates rising."""
    found = grouped([r for r in runs if r["method"] == method], lambda r: r["lr"], lambda r: r[what])
    return {lr: statistics.fmean(found[lr]) for lr in sorted(found)}


def ordered_methods(runs):
    return list(dict.fromkeys(r["method"] for r in runs))


@edges.cases
def edges_cases(seed):
    draw, cases = random.Random(seed), []
    names = ["head", "bitfit", "ia3", "lora", "dora", "full"]
    while len(cases) < 10:
        methods, seeds, runs = draw.sample(names, 5), draw.randint(2, 5), []
        gaps = 0.3 if len(cases) % 2 else 0.0
        for m in methods:
            start, many = draw.randint(0, 2), draw.randint(3, 4)
            runs += some_runs(draw, [m], RATES[start : start + many], seeds, spread=0.06, gaps=gaps)
        draw.shuffle(runs)
        if any(a - b < 0.002 for m in methods for a, b in [sorted(by_rate(runs, m).values(), reverse=True)[:2]]):
            continue
        cases.append(Case(f"five methods with grids of their own, {seeds} seeds{', some runs missing' * bool(gaps)}", runs=runs))
    return cases


@edges.observe
def look_edges(answer, case):
    found = answer(copied(case.runs))
    if isinstance(found, (list, tuple, set)):
        raise Unexpected('`edge_of_grid` gave a collection of names; expected a dict that says "lower" or "upper" of each: on which side is the grid to be widened?')
    given(found, dict, "`edge_of_grid`")
    for value in found.values():
        if value not in ("lower", "upper"):
            raise Unexpected(f'`edge_of_grid` says {value!r} of a method; expected "lower" or "upper", and nothing of a method whose best rate is inside.')
    return {"at the edge": {str(k): v for k, v in sorted(found.items())}}


@edges.evidence
def the_grid_of_one(cases, seen, expected):
    """The grid of the first method that is wrong, with its means."""
    for case, mine, theirs in zip(cases, seen, expected):
        for m in ordered_methods(case.runs):
            if "at the edge" in mine and mine["at the edge"].get(m) != theirs["at the edge"].get(m):
                grid = ", ".join(f"{mean:.3f} at {lr:g}" for lr, mean in by_rate(case.runs, m).items())
                said = mine["at the edge"].get(m, "nothing")
                return f"Mean validation accuracy of {m} in one case: {grid}. You say of it: {said}. Where is its best rate?"
    return None


@edges.solution
def one_method_at_a_time(runs):
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


@edges.solution
def with_a_frame_of_means(runs):
    import pandas

    means = pandas.DataFrame(runs).groupby(["method", "lr"])["validation"].mean()
    found = {}
    for name, grid in means.groupby(level="method"):
        place = int(grid.argmax())
        if place in (0, len(grid) - 1):
            found[name] = "upper" if place else "lower"
    return found


@edges.solution
def by_sorting(runs):
    scores, grids = defaultdict(list), defaultdict(list)
    for run in runs:
        scores[run["method"], run["lr"]].append(run["validation"])
    for name, lr in sorted(scores):
        grids[name].append(statistics.fmean(scores[name, lr]))
    low = {name: "lower" for name, grid in grids.items() if grid[0] == max(grid)}
    return low | {name: "upper" for name, grid in grids.items() if grid[-1] == max(grid)}


def judged(runs, grid_of=by_rate, edge=None):
    """{method: edge} with the grid and the edges computed as one likes."""
    found = {}
    for m in ordered_methods(runs):
        grid = grid_of(runs, m)
        best = max(grid, key=grid.get)
        low, high = edge(grid) if edge else (min(grid), max(grid))
        if best == low:
            found[m] = "lower"
        elif best == high:
            found[m] = "upper"
    return found


def edges_slip(message, name, f):
    edges.slip(message)(f, name)


edges_slip(
    "The rate is chosen by the test accuracy. What may the test set be asked, and when?",
    "by-the-test",
    lambda runs: judged(runs, lambda r, m: by_rate(r, m, "test")),
)
edges_slip(
    "The single best run decides at which rate a method is best. What do the other seeds say of that rate?",
    "best-run",
    lambda runs: judged(runs, lambda r, m: {lr: max(x["validation"] for x in r if x["method"] == m and x["lr"] == lr) for lr in by_rate(r, m)}),
)
edges_slip(
    "Every method is held against the lowest and highest rate of all methods. Which grid did *this* one have?",
    "everybodys-grid",
    lambda runs: judged(runs, edge=lambda grid: (min(r["lr"] for r in runs), max(r["lr"] for r in runs))),
)
edges_slip(
    "Lower and upper are exchanged. On which side would you add rates?",
    "exchanged",
    lambda runs: {m: {"lower": "upper", "upper": "lower"}[e] for m, e in judged(runs).items()},
)
edges_slip(
    "Only the upper edge is looked at. Can a best rate be too low to be inside as well?",
    "upper-alone",
    lambda runs: {m: e for m, e in judged(runs).items() if e == "upper"},
)
edges_slip(
    "Only the lower edge is looked at. Can a best rate be too high to be inside as well?",
    "lower-alone",
    lambda runs: {m: e for m, e in judged(runs).items() if e == "lower"},
)
edges_slip(
    "Accuracies are added up: a rate with more runs has more. Which number does not depend on how many there are?",
    "sums",
    lambda runs: judged(runs, lambda r, m: {lr: sum(x["validation"] for x in r if x["method"] == m and x["lr"] == lr) for lr in by_rate(r, m)}),
)


@edges.slip("First and last are taken as the runs happen to stand, not by the size of the rate. In which order do runs come?")
def as_they_stand(runs):
    def ends(grid):
        order = [lr for lr in dict.fromkeys(r["lr"] for r in runs) if lr in grid]
        return order[0], order[-1]

    return judged(runs, edge=ends)


edges_slip(
    "You look for the rate at which the method is worst. Is a high accuracy good or bad?",
    "the-worst-rate",
    lambda runs: judged(runs, lambda r, m: {lr: -v for lr, v in by_rate(r, m).items()}),
)
edges_slip(
    "Only the first seed is asked. What do the others say?",
    "first-seed",
    lambda runs: judged([r for r in runs if r["seed"] == 0]),
)


@edges.slip("A best rate with one neighbour left counts as the edge too. Is there a worse rate on both of its sides?")
def next_to_the_edge(runs):
    found = {}
    for m in ordered_methods(runs):
        grid = by_rate(runs, m)
        place = list(grid).index(max(grid, key=grid.get))
        if place <= 1:
            found[m] = "lower"
        elif place >= len(grid) - 2:
            found[m] = "upper"
    return found


@edges.slip("One best rate is found for all methods together. Whose is it?")
def one_rate_for_all(runs):
    means = {lr: statistics.fmean(v) for lr, v in grouped(runs, lambda r: r["lr"], lambda r: r["validation"]).items()}
    best, found = max(means, key=means.get), {}
    for m in ordered_methods(runs):
        grid = by_rate(runs, m)
        if best <= min(grid):
            found[m] = "lower"
        elif best >= max(grid):
            found[m] = "upper"
    return found


# ================================================================ chosen on the test

choosing = Exercise(
    "selection-bias",
    lesson=LESSON,
    title="Chosen on the test",
    signature="selection_bias(runs)",
    why="The best of a grid on the test set is a record, not a result. Here you measure by how much it flatters.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "Take one seed: a handful of rates, with two numbers each. Which run would you choose if you saw the validation accuracies alone?",
        "Both numbers that you subtract are *test* accuracies: of the run that looks best on the test, and of the run that validation chooses.",
        "First the difference for each seed, then the mean over the seeds.",
    ],
)


@choosing.cases
def choosing_cases(seed):
    draw, cases = random.Random(seed), []
    for seeds, rates in ((1, 4), (2, 3), (3, 6), (4, 5), (6, 6)):
        runs = some_runs(draw, ["lora"], RATES[:rates], seeds, spread=0.04)
        cases.append(Case(f"{seeds} seed{'s' * (seeds > 1)}, {rates} rates", runs=runs))
    missing = some_runs(draw, ["lora"], RATES[:4], 3, spread=0.04)
    seeds_of = [r["seed"] for r in missing]
    last = max(i for i, s in enumerate(seeds_of) if s == 2)
    cases.append(Case("3 seeds, 4 rates, and one run missing", runs=[r for i, r in enumerate(missing) if i != last]))
    equal = some_runs(draw, ["lora"], RATES[:4], 3, spread=0.04)
    for group in of_each_seed(equal):  # the two best on validation are as good as each other there, and not on the test
        first, second = sorted(group, key=lambda r: -r["validation"])[:2]
        second["validation"] = first["validation"]
    cases.append(Case("3 seeds, 4 rates, the best two equal on validation", runs=equal))
    return cases


@choosing.observe
def look_choosing(answer, case):
    return {"bias": number(answer(copied(case.runs)), "`selection_bias`")}


def of_each_seed(runs):
    found = grouped(runs, lambda r: r["seed"], lambda r: r)
    return [found[s] for s in sorted(found)]


def chosen(runs, by):
    return max(runs, key=lambda r: r[by])


@choosing.evidence
def one_seed_told(cases, seen, expected):
    """The first seed of a wrong case, in numbers."""
    for case, mine, theirs in zip(cases, seen, expected):
        if "bias" in mine and abs(mine["bias"] - theirs["bias"]) > 1e-7:
            told = []
            for group in of_each_seed(case.runs)[:2]:
                v, t = chosen(group, "validation"), chosen(group, "test")
                told.append(
                    f"of seed {v['seed']} validation chooses the rate {v['lr']:g}, with a test accuracy of {v['test']:.4f}, and the test would choose {t['lr']:g}, with {t['test']:.4f}"
                )
            return f"With {case.label}: {'; '.join(told)}. You give {mine['bias']:.4f}: which difference is that?"
    return None


@choosing.solution
def seed_by_seed(runs):
    gaps = []
    for seed in {run["seed"] for run in runs}:
        mine = [run for run in runs if run["seed"] == seed]
        honest = max(mine, key=lambda run: run["validation"])["test"]
        gaps.append(max(run["test"] for run in mine) - honest)
    return sum(gaps) / len(gaps)


@choosing.solution
def with_groups(runs):
    import pandas

    frame = pandas.DataFrame(runs).reset_index(drop=True)
    flattered = frame.groupby("seed")["test"].max()
    honest = frame.loc[frame.groupby("seed")["validation"].idxmax()].set_index("seed")["test"]
    return float((flattered - honest).mean())


@choosing.solution
def in_one_pass(runs):
    top, picked = {}, {}
    for run in runs:
        seed = run["seed"]
        top[seed] = max(top.get(seed, 0.0), run["test"])
        if seed not in picked or run["validation"] > picked[seed][0]:
            picked[seed] = (run["validation"], run["test"])
    return statistics.fmean(top[s] - picked[s][1] for s in top)


def choosing_slip(message, name, f):
    choosing.slip(message)(f, name)


def mean_gap(runs, high, low):
    return statistics.fmean(high(group) - low(group) for group in of_each_seed(runs))


def best_test(group):
    return chosen(group, "test")["test"]


def honest_test(group):
    return chosen(group, "validation")["test"]


choosing_slip(
    "Of runs that validation finds equally good you take the last. Which one does the task ask for?",
    "last-of-equals",
    lambda runs: mean_gap(runs, best_test, lambda g: chosen(g[::-1], "validation")["test"]),
)
choosing_slip(
    "The sign is the other way round. Which of the two can never be the smaller one?",
    "the-wrong-way-round",
    lambda runs: -mean_gap(runs, best_test, honest_test),
)
choosing_slip(
    "You subtract the validation accuracy of the chosen run. Those are other sentences: which two numbers of the *test* set are to be compared?",
    "validation-subtracted",
    lambda runs: mean_gap(runs, best_test, lambda g: chosen(g, "validation")["validation"]),
)
choosing_slip(
    "This is how much validation flatters the run that it chose. What would the *test* set have chosen?",
    "validation-minus-test",
    lambda runs: mean_gap(runs, lambda g: chosen(g, "validation")["validation"], honest_test),
)
choosing_slip(
    "You subtract the mean test accuracy over all rates. Nobody reports that: which run would have been reported?",
    "mean-of-the-rates",
    lambda runs: mean_gap(runs, best_test, lambda g: statistics.fmean(r["test"] for r in g)),
)
choosing_slip(
    "You subtract the worst run. Which one would validation have chosen?",
    "the-worst",
    lambda runs: mean_gap(runs, best_test, lambda g: min(r["test"] for r in g)),
)
choosing_slip(
    "The differences are added up. How many seeds were there?",
    "summed",
    lambda runs: mean_gap(runs, best_test, honest_test) * len(of_each_seed(runs)),
)
choosing_slip(
    "All seeds are thrown together and one run is chosen among them. How many choices does somebody make who has six seeds?",
    "one-choice-for-all",
    lambda runs: best_test(runs) - honest_test(runs),
)
choosing_slip(
    "The best run on the test is taken over all seeds. From which seed may it come, to be compared with this seed's choice?",
    "best-of-all-seeds",
    lambda runs: mean_gap(runs, lambda g: best_test(runs), honest_test),
)
choosing_slip(
    "You take the largest of the differences. What is it on average?",
    "largest",
    lambda runs: max(best_test(g) - honest_test(g) for g in of_each_seed(runs)),
)
choosing_slip(
    "These are points of a hundred. The accuracies are shares: what is the difference of two shares?",
    "in-points",
    lambda runs: 100 * mean_gap(runs, best_test, honest_test),
)

@choosing.slip("One rate is chosen for all seeds, by its mean. Here each seed makes its own choice: what would somebody do who has this seed alone?")
def by_the_mean_rate(runs):
    v, t = (grouped(runs, lambda r: r["lr"], lambda r, w=w: r[w]) for w in ("validation", "test"))
    means = {lr: statistics.fmean(x) for lr, x in t.items()}
    return max(means.values()) - means[max(v, key=lambda lr: statistics.fmean(v[lr]))]


# ================================================================ a sign-flip test

flipping = Exercise(
    "paired-signflip",
    lesson=LESSON,
    title="A test without a distribution",
    signature="paired_signflip(deltas)",
    why="It needs no bell curve, and one look at its counting says why five seeds can show nothing.",
    points=2,
    minutes=12,
    difficulty=2,
    hints=[
        "`itertools.product((1, -1), repeat=n)` gives each choice of n signs.",
        "For each choice: the sum of sign times difference. How far from zero is it, beside the sum that was seen?",
        "On paper 0.3 and 0.1 + 0.2 are one number; in the computer they are not. Give the comparison a little room.",
    ],
)
ROOM = 1e-9


def differences(draw, n, items, lean):
    """Paired differences of two accuracies on so many test items."""
    ours = [draw.randint(items // 2, items - 9) for _ in range(n)]
    return [a / items - min(items, max(0, a + draw.randint(-8, 8) - lean)) / items for a in ours]


@flipping.cases
def flipping_cases(seed):
    draw = random.Random(seed)
    cases = [
        Case("three differences, all above zero", deltas=[0.03, 0.01, 0.02]),
        Case("one difference alone", deltas=[0.02]),
        Case("four differences, all below zero", deltas=[-0.02, -0.05, -0.01, -0.03]),
        Case("five differences, all above zero", deltas=[0.04, 0.01, 0.02, 0.05, 0.03]),
        Case("six differences, all above zero", deltas=[0.04, 0.01, 0.02, 0.05, 0.03, 0.06]),
        Case("six differences, one of them zero", deltas=[0.04, 0.0, 0.02, 0.05, 0.03, 0.01]),
    ]
    cases += [Case(f"{n} differences drawn at random", deltas=[draw.gauss(m, 0.02) for _ in range(n)])
              for n, m in ((6, 0.01), (7, -0.01), (4, 0.01), (8, 0.0), (9, -0.005))]  # fmt: skip
    for n in (6, 7, 8):
        while True:  # sums that are equal on paper and not in the computer
            deltas = differences(draw, n, 300, 3)
            if abs(p_of(deltas) - p_of(deltas, room=0.0)) > 1e-3:
                break
        cases.append(Case(f"{n} differences of accuracies on 300 sentences, some of which add up to the same", deltas=deltas))
    return cases


def sums_of(deltas):
    """The sums under all choices of signs; the first is the one that was seen."""
    return [sum(s * d for s, d in zip(signs, deltas)) for signs in itertools.product((1, -1), repeat=len(deltas))]


def p_of(deltas, far=abs, room=ROOM, of=sums_of):
    sums = of(deltas)
    return sum(far(s) >= far(sums[0]) - room for s in sums) / len(sums)


@flipping.observe
def look_flipping(answer, case):
    return {"p": number(answer(list(case.deltas)), "`paired_signflip`")}


@flipping.evidence
def how_many_choices(cases, seen, expected):
    """p as a number of choices of signs."""
    for case, mine, theirs in zip(cases, seen, expected):
        if "p" in mine and abs(mine["p"] - theirs["p"]) > 1e-6:
            n = 2 ** len(case.deltas)
            return (
                f"With {case.label}: there are {n} choices of signs, and your p is that of {mine['p'] * n:.4g} of them. "
                f"How many have a sum at least as far from zero as {sum(case.deltas):.4g}, on either side?"
            )
    return None


@flipping.solution
def by_product(deltas):
    seen, hits, choices = abs(sum(deltas)), 0, 2 ** len(deltas)
    for signs in itertools.product((1, -1), repeat=len(deltas)):
        hits += abs(sum(s * d for s, d in zip(signs, deltas))) >= seen - 1e-9
    return hits / choices


@flipping.solution
def by_growing_sums(deltas):
    sums = [0.0]
    for d in deltas:
        sums = [s + d for s in sums] + [s - d for s in sums]
    far = [abs(s) > abs(sum(deltas)) - 1e-9 for s in sums]
    return statistics.fmean(far)


@flipping.solution
def by_bits(deltas):
    d = torch.tensor(deltas, dtype=torch.float64)
    bits = torch.arange(2 ** len(d))[:, None] >> torch.arange(len(d)) & 1
    means = ((1 - 2 * bits) * d).mean(1).abs()
    return float((means + 1e-12 >= d.mean().abs()).double().mean())


def flipping_slip(message, name, f):
    flipping.slip(message)(f, name)


flipping_slip(
    "Only sums above zero count, as far as the one that was seen. Had the other method won, would you not have been as surprised?",
    "one-sided",
    lambda d: p_of(d, far=lambda s: s),
)
flipping_slip(
    "Only sums on the side of the one that was seen count. Had the other method won, would you not have been as surprised?",
    "one-sided-towards-the-seen",
    lambda d: p_of(d, far=lambda s: math.copysign(1, sum(d)) * s),
)
flipping_slip(
    "Only sums *farther* out count, so that p can be zero. Is the result itself not one of those that chance can give?",
    "strictly-farther",
    lambda d: p_of(d, room=-ROOM),
)
flipping_slip(
    "Two sums that are equal on paper differ in their last digit here, and one of them is not counted. Which sums should count as equally far?",
    "no-room",
    lambda d: p_of(d, room=0.0),
)
flipping_slip(
    "Two sums that are equal on paper differ in their last digit here, and one of them is not counted. Which sums should count as equally far?",
    "no-room-in-means",
    lambda d: p_of(d, room=0.0, of=lambda d: [s / len(d) for s in sums_of(d)]),
)
flipping_slip(
    "One difference is flipped at a time. How many choices of n signs are there?",
    "one-at-a-time",
    lambda d: statistics.fmean(abs(sum(d) - 2 * x) >= abs(sum(d)) - ROOM for x in d),
)
flipping_slip(
    "You count how many differences have which sign, and their size is gone. Is a lead of five points no more than one of a tenth?",
    "signs-alone",
    lambda d: p_of([(x > 0) - (x < 0) for x in d]),
)
flipping_slip(
    "This is the share of choices that are *less* far out. Is a small p to mean much or little surprise?",
    "one-minus-p",
    lambda d: 1 - p_of(d),
)
flipping_slip(
    "This is a number of choices. Of how many?",
    "a-number",
    lambda d: p_of(d) * 2 ** len(d),
)
flipping_slip(
    "What was seen itself is left out of the choices. Is it not one of those that chance can give?",
    "without-itself",
    lambda d: (p_of(d) * 2 ** len(d) - 1) / (2 ** len(d) - 1),
)
flipping_slip(
    "A p of both sides is doubled once more. How many sides did the absolute value count already?",
    "doubled",
    lambda d: min(1.0, 2 * p_of(d)),
)
flipping_slip(
    "You divide by the number of differences. How many choices of signs are there?",
    "by-n",
    lambda d: p_of(d) * 2 ** len(d) / len(d),
)


# ================================================================ Holm

correcting = Exercise(
    "holm",
    lesson=LESSON,
    title="Eight tests at once",
    signature="holm(p_values)",
    why="Of twenty tests of nothing one comes out. Whoever runs many and shows the best has to pay for the others.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "Three values on paper: 0.04, 0.01, 0.03. In their order they are 0.01, 0.03, 0.04, and are multiplied by 3, 2 and 1.",
        "A larger p must not come out smaller than one below it: keep the largest so far. And no probability is over one.",
        "The answer stands in the order of the question. `sorted(range(n), key=p.__getitem__)` gives the places in rising order.",
    ],
)


@correcting.cases
def correcting_cases(seed):
    draw = random.Random(seed)
    cases = [
        Case("three values, where a product would fall below the one before it", p=[0.04, 0.01, 0.03]),
        Case("one value alone", p=[0.04]),
        Case("four values, some of which go over one", p=[0.6, 0.2, 0.9, 0.004]),
        Case("four values, two of them equal", p=[0.03125, 0.25, 0.03125, 0.0625]),
        Case("three values in rising order", p=[0.002, 0.011, 0.2]),
    ]
    for n in (3, 5, 8, 8):
        cases.append(Case(f"{n} values drawn at random", p=[round(draw.random() ** 4, 5) for _ in range(n)]))
    return cases


@correcting.observe
def look_correcting(answer, case):
    value = answer(list(case.p))
    if hasattr(value, "tolist"):
        value = value.tolist()
    given(value, (list, tuple), "`holm`")
    if len(value) != len(case.p):
        raise Unexpected(f"`holm` gave {len(value)} values for {len(case.p)}: one for each is expected.")
    if any(isinstance(v, bool) for v in value):
        raise Unexpected("`holm` says yes or no for each; expected a corrected p for each, to be held against any level.")
    return {"corrected": torch.tensor([number(v, "`holm`") for v in value], dtype=torch.float64)}


@correcting.evidence
def each_factor(cases, seen, expected):
    """By what each value was multiplied."""
    for case, mine, theirs in zip(cases, seen, expected):
        if isinstance(x := mine.get("corrected"), torch.Tensor) and not torch.allclose(x, theirs["corrected"], atol=1e-7):
            told = ", ".join(f"{p:g} became {v:.4g}" for p, v in zip(case.p, x.tolist()))
            return f"With {case.label}: {told}. By how many tests is each to be multiplied, and which of them may not be smaller than another?"
    return None


@correcting.solution
def step_by_step(p_values):
    n, highest = len(p_values), 0.0
    corrected = [0.0] * n
    for i, place in enumerate(sorted(range(n), key=lambda k: p_values[k])):
        highest = max(highest, (n - i) * p_values[place])
        corrected[place] = min(1.0, highest)
    return corrected


@correcting.solution
def with_tensors_in_order(p_values):
    p = torch.tensor(p_values, dtype=torch.float64)
    rising, places = p.sort()
    corrected = torch.empty_like(p)
    corrected[places] = (rising * torch.arange(len(p), 0, -1)).cummax(0).values.clamp(max=1)
    return corrected.tolist()


@correcting.solution
def by_definition(p_values):
    def one(p):
        below = [q for q in p_values if q <= p]
        left = (sum(r >= q for r in p_values) * q for q in below)
        return min(max(left), 1)

    return [one(p) for p in p_values]


def stepped(p, factor, running=True, cap=True, in_order=False, order=None):
    """The values in rising order, each multiplied by factor(place, n), put back."""
    n, out, highest, rising = len(p), [0.0] * len(p), 0.0, []
    for i, place in enumerate(order or sorted(range(n), key=lambda k: p[k])):
        value = factor(i, n) * p[place]
        highest = max(highest, value) if running else value
        out[place] = min(1.0, highest) if cap else highest
        rising.append(out[place])
    return rising if in_order else out


def correcting_slip(message, name, f):
    correcting.slip(message)(f, name)


correcting_slip(
    "Every value is multiplied by the number of tests. That is Bonferroni's correction, which is right and gives away more: how many tests are left, once the smallest has been dealt with?",
    "bonferroni",
    lambda p: stepped(p, lambda i, n: n),
)
correcting_slip(
    "A larger p comes out smaller than one that was below it. What do you keep from one step to the next?",
    "no-running-maximum",
    lambda p: stepped(p, lambda i, n: n - i, running=False),
)
correcting_slip(
    "A corrected p is over one. What is the most a probability can be?",
    "over-one",
    lambda p: stepped(p, lambda i, n: n - i, cap=False),
)
correcting_slip(
    "The corrected values stand in rising order. To which question does the first one belong?",
    "in-rising-order",
    lambda p: stepped(p, lambda i, n: n - i, in_order=True),
)
correcting_slip(
    "The values are taken in the order in which they come. Which of them is dealt with first?",
    "not-sorted",
    lambda p: stepped(p, lambda i, n: n - i, order=range(len(p))),
)
correcting_slip(
    "The smallest is multiplied by one and the largest by the number of tests. Which of them had to stand out among all?",
    "factors-rising",
    lambda p: stepped(p, lambda i, n: i + 1),
)
correcting_slip(
    "You begin with one test less than there are. Among how many did the smallest have to stand out?",
    "one-test-less",
    lambda p: stepped(p, lambda i, n: max(1, n - i - 1)),
)
correcting_slip(
    "You end with two tests left. Among how many does the largest have to stand out, when all others are dealt with?",
    "one-test-more",
    lambda p: stepped(p, lambda i, n: n - i + 1),
)
correcting_slip(
    "You divide: a corrected p is smaller than the one before. Should many tests make each one surer or less sure?",
    "divided",
    lambda p: stepped(p, lambda i, n: 1 / (n - i)),
)
correcting_slip(
    "The values come back as they were. What do the other tests cost?",
    "nothing-corrected",
    lambda p: list(p),
)


@correcting.slip(
    "You divide each by its place and multiply by the number of tests. That is the procedure of Benjamini and Hochberg, which holds the share of false findings down, not the chance of a single one: which was asked for?"
)
def false_discovery_rate(p):
    n, out, lowest = len(p), [0.0] * len(p), 1.0
    for i, place in reversed(list(enumerate(sorted(range(n), key=lambda k: p[k]), 1))):
        lowest = min(lowest, p[place] * n / i)
        out[place] = lowest
    return out


@correcting.slip("You go from the largest down and keep the smallest so far. That is Hochberg's step up, which asks more of the tests: from which end does Holm begin?")
def from_the_largest(p):
    n, out, lowest = len(p), [0.0] * len(p), 1.0
    for i, place in reversed(list(enumerate(sorted(range(n), key=lambda k: p[k])))):
        lowest = min(lowest, (n - i) * p[place])
        out[place] = lowest
    return out


# ================================================================ a front

fronting = Exercise(
    "pareto",
    lesson=LESSON,
    title="Who is on the front?",
    signature="pareto(points)",
    why="Two axes and no exchange rate: what can be said without one is who is beaten in both, and nothing more.",
    points=1,
    minutes=8,
    difficulty=2,
    hints=[
        "Two methods at a time: when would nobody, whatever they value, choose the second?",
        "At least as good in both, and better in one of them. What of two that are equal in both?",
        "A method is on the front if *no* other dominates it.",
    ],
)


@fronting.cases
def fronting_cases(seed):
    draw = random.Random(seed)
    cases = [
        Case("two that are equal in both", points={"a": (0.8, 10), "b": (0.8, 10), "c": (0.7, 5)}),
        Case("equal quality, one cheaper", points={"a": (0.8, 10), "b": (0.8, 4), "c": (0.6, 4)}),
        Case("one that is best in both", points={"a": (0.7, 10), "b": (0.9, 3), "c": (0.8, 4)}),
        Case("one method alone", points={"a": (0.7, 10)}),
        Case("one on the front and below the line between two others", points={"a": (0.5, 0), "b": (0.6, 50), "c": (0.9, 100), "d": (0.55, 60)}),
    ]
    for n in (5, 8, 12, 12):
        points = {f"method {i}": (round(draw.uniform(0.6, 0.9), 2), draw.randint(1, 40)) for i in range(n)}
        cases.append(Case(f"{n} methods drawn at random", points=points))
    return cases


@fronting.observe
def look_fronting(answer, case):
    found = answer(dict(case.points))
    if isinstance(found, str):
        raise Unexpected(f"`pareto` gave one name, {found!r}; expected a list of all that no other dominates.")
    if not isinstance(found, (set, frozenset, dict)):
        given(found, (list, tuple), "`pareto`")
    lost = [str(name) for name in found if name not in case.points]
    if lost:
        raise Unexpected(f"`pareto` gave {', '.join(lost[:3])}, which is no name of a method; expected a list of names.")
    return {"on the front": sorted(found)}


@fronting.evidence
def who_beats_whom(cases, seen, expected):
    """One method that is on the wrong side, and one beside it."""
    for case, mine, theirs in zip(cases, seen, expected):
        if "on the front" not in mine:
            continue
        for name, (q, c) in case.points.items():
            is_on, should = name in mine["on the front"], name in theirs["on the front"]
            if is_on and not should:
                other = next(n for n, p in case.points.items() if beats(p, (q, c)))
                return f"With {case.label}, {name} has the quality {q:g} at the cost {c:g}, and {other} {case.points[other][0]:g} at {case.points[other][1]:g}. Who would choose {name}?"
            if should and not is_on:
                return f"With {case.label}, {name}, with the quality {q:g} at the cost {c:g}, is missing. Which method is at least as good in both?"
    return None


def beats(p, q):
    return p[0] >= q[0] and p[1] <= q[1] and p != q


@fronting.solution
def no_other_beats(points):
    front = []
    for name, (quality, cost) in points.items():
        for q, c in points.values():
            if q >= quality and c <= cost and (q > quality or c < cost):
                break
        else:
            front.append(name)
    return front


@fronting.solution
def by_rising_cost(points):
    front, best = [], -math.inf
    ordered = sorted(points, key=lambda name: (points[name][1], -points[name][0]))
    for _, group in itertools.groupby(ordered, key=lambda name: points[name][1]):
        group = list(group)
        top = points[group[0]][0]
        if top > best:
            front += [name for name in group if points[name][0] == top]
            best = top
    return front


@fronting.solution
def with_a_table(points):
    table = torch.tensor([[quality, -cost] for quality, cost in points.values()], dtype=torch.float64)
    no_worse = (table[:, None] >= table[None]).all(-1)
    better = (table[:, None] > table[None]).any(-1)
    beaten = (no_worse & better).any(0)
    return {name for name, out in zip(points, beaten.tolist()) if not out}


def front_by(points, beaten):
    return [n for n, p in points.items() if not any(beaten(q, p) for m, q in points.items() if m != n)]


def fronting_slip(message, name, f):
    fronting.slip(message)(f, name)


fronting_slip(
    "Only a method that is better in *both* beats another here. Who would pay more for the same quality?",
    "better-in-both",
    lambda points: front_by(points, lambda q, p: q[0] > p[0] and q[1] < p[1]),
)
fronting_slip(
    "Two methods that are equal in both throw each other out. Is either of them better in anything?",
    "equals-out",
    lambda points: front_by(points, lambda q, p: q[0] >= p[0] and q[1] <= p[1]),
)
fronting_slip(
    "A high cost counts as good. Which way do the two axes point?",
    "high-cost-is-good",
    lambda points: front_by(points, lambda q, p: q[0] >= p[0] and q[1] >= p[1] and q != p),
)
fronting_slip(
    "A low quality counts as good. Which way do the two axes point?",
    "low-quality-is-good",
    lambda points: front_by(points, lambda q, p: q[0] <= p[0] and q[1] <= p[1] and q != p),
)
fronting_slip(
    "These are the ones that are beaten. Which are left?",
    "the-beaten",
    lambda points: [n for n in points if n not in front_by(points, beats)],
)
fronting_slip(
    "Whoever is beaten in *one* of the two is out. Does somebody who has less quality at a lower cost have to go?",
    "beaten-in-one",
    lambda points: front_by(points, lambda q, p: q[0] > p[0] or q[1] < p[1]),
)
fronting_slip(
    "Only the best and the cheapest are left. Is whoever stands between them beaten in both?",
    "the-two-ends",
    lambda points: list(dict.fromkeys([max(points, key=lambda n: (points[n][0], -points[n][1])), min(points, key=lambda n: (points[n][1], -points[n][0]))])),
)
fronting_slip(
    "You rank by quality for each unit of cost. Who said how much of the one is worth the other?",
    "best-ratio",
    lambda points: [max(points, key=lambda n: points[n][0] / max(points[n][1], 1e-9))],
)
fronting_slip(
    "Of two that are equal in both only one is left. What did the other one do worse?",
    "one-of-equals",
    lambda points: [n for n in {points[n]: n for n in front_by(points, beats)}.values()],
)
fronting_slip(
    "Whoever lies below the straight line between two others is out. Can those two be mixed?",
    "below-a-line",
    lambda points: [n for n in front_by(points, beats) if span(points, n)],
)


# ================================================================ a composite score


def span(points, name, lowest=0.0):
    """(low, high): the weights from `lowest` up for which a method has the highest score, or None."""
    (quality, cost), low, high = points[name], lowest, math.inf
    for q, c in points.values():
        if c > cost:
            low = max(low, (q - quality) / (c - cost))
        elif c < cost:
            high = min(high, (quality - q) / (cost - c))
        elif q > quality:
            return None
    return (low, high) if low <= high else None


scoring = Exercise(
    "composite-score",
    lesson=LESSON,
    title="For which weight does it win?",
    signature="wins_for(points, name)",
    why="One number for quality and cost looks like a measurement. You will see who chooses its winner.",
    points=2,
    minutes=15,
    difficulty=3,
    hints=[
        "Two methods first: write down both scores, and ask for which w the first is at least the second. It is one inequality.",
        "Dividing by the difference of the costs turns the inequality round if that difference is below zero. So there are three cases: the other one costs more, less, or the same.",
        "Each other method raises the lowest possible w or lowers the highest. Begin with everything that is allowed: from 0 to infinity.",
    ],
)


@scoring.cases
def scoring_cases(seed):
    draw, cases = random.Random(seed), []
    fixed = [
        ("the best of three", {"a": (0.9, 8.0), "b": (0.8, 2.0), "c": (0.5, 1.0)}, "a"),
        ("the middle one of three", {"a": (0.9, 8.0), "b": (0.8, 2.0), "c": (0.5, 1.0)}, "b"),
        ("the cheapest of three", {"a": (0.9, 8.0), "b": (0.8, 2.0), "c": (0.5, 1.0)}, "c"),
        ("one that is beaten in both", {"a": (0.9, 2.0), "b": (0.8, 3.0), "c": (0.5, 1.0)}, "b"),
        ("one on the front, and below the line between two others", {"a": (0.5, 0.5), "b": (0.6, 5.0), "c": (0.9, 9.0)}, "b"),
        ("another of the same cost, and better", {"a": (0.8, 2.0), "b": (0.9, 2.0), "c": (0.5, 1.0)}, "a"),
        ("another of the same cost, and worse", {"a": (0.8, 2.0), "b": (0.7, 2.0), "c": (0.5, 1.0)}, "a"),
        ("the best and cheapest", {"a": (0.9, 1.0), "b": (0.7, 2.0), "c": (0.6, 3.0)}, "a"),
        ("another that is equal in both", {"a": (0.9, 3.0), "b": (0.9, 3.0), "c": (0.6, 1.0)}, "a"),
        ("one on the line between two others", {"a": (0.75, 3.0), "b": (0.5, 2.0), "c": (0.25, 1.0)}, "b"),
        ("one that would win if cost were good", {"a": (0.9, 1.0), "b": (0.7, 2.0), "c": (0.6, 3.0)}, "c"),
    ]
    cases += [Case(label, points=points, name=name) for label, points, name in fixed]
    while len(cases) < 30:
        points = {f"method {i}": (draw.uniform(0.6, 0.9), draw.uniform(1, 9)) for i in range(5)}
        name = draw.choice(list(points))
        if len(cases) % 3 and not span(points, name):  # mostly some that win somewhere
            continue
        cases.append(Case("five methods drawn at random", points=points, name=name))
    return cases


@scoring.observe
def look_scoring(answer, case):
    value = answer(dict(case.points), case.name)
    if value is None:
        return {"wins for some weight": False}
    given(value, (tuple, list), "`wins_for`")
    if len(value) != 2:
        raise Unexpected(f"`wins_for` gave {len(value)} things; expected two weights, the lowest and the highest, or None.")
    low, high = (number(v, "`wins_for`") for v in value)
    return {"wins for some weight": True, "from": low, "to": high}


@scoring.evidence
def scores_at_one_weight(cases, seen, expected):
    """The scores at a weight at which the answer is wrong; first where it wins for some weight and should not, or the reverse."""
    told = []
    for case, mine, theirs in zip(cases, seen, expected):
        if "error" in mine:
            continue
        said, right = (x["wins for some weight"] and (x["from"], x["to"]) for x in (mine, theirs))
        w = weight_between(said, right)
        if w is None or said and right and all(a == b or abs(a - b) <= 1e-6 * max(1, abs(b)) for a, b in zip(said, right)):
            continue
        scores = {n: q - w * c for n, (q, c) in case.points.items()}
        shown = sorted(scores, key=scores.get, reverse=True)
        told_of = ", ".join(f"{n} {scores[n]:.4f}" for n in dict.fromkeys((case.name, *shown[:2])))
        claim = f"from {said[0]:.4g} to {said[1]:.4g}" if said else "for no weight"
        told.append((bool(said) == bool(right), f"With {case.label} you say that {case.name} wins {claim}. At w = {w:.4g} the scores are: {told_of}. Which is the highest?"))
    return min(told, key=lambda t: t[0])[1] if told else None


def weight_between(said, right):
    """A weight, zero or more, that lies in one of two ranges and not in the other."""
    points = sorted({0.0, *(x for pair in (said, right) if pair for x in pair if 0 <= x < math.inf)})
    tried = [(a + b) / 2 for a, b in itertools.pairwise(points)] + [points[-1] + 1]
    inside = [[bool(pair) and pair[0] <= w <= pair[1] for pair in (said, right)] for w in tried]
    return next((w for w, (mine, theirs) in zip(tried, inside) if mine != theirs), None)


@scoring.solution
def by_each_other_method(points, name):
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


@scoring.solution
def where_scores_cross(points, name):
    quality, cost = points[name]
    crossings = {0.0} | {(q - quality) / (c - cost) for q, c in points.values() if c != cost}

    def leads(w):
        return all(quality - w * cost >= q - w * c - 1e-12 for q, c in points.values())

    good = [w for w in crossings if w >= 0 and leads(w)]
    if not good:
        return None
    return min(good), math.inf if leads(max(crossings) + 1e6) else max(good)


@scoring.solution
def with_lists_of_limits(points, name):
    q0, c0 = points[name]
    others = [p for n, p in points.items() if n != name]
    if any(c == c0 and q > q0 for q, c in others):
        return None
    low = max([0, *((q0 - q) / (c0 - c) for q, c in others if c0 < c)])
    high = min([float("inf"), *((q0 - q) / (c0 - c) for q, c in others if c0 > c)])
    return None if low > high else (low, high)


def scoring_slip(message, name, f):
    scoring.slip(message)(f, name)


def limits(points, name):
    """(all limits from below, all from above) that the others set."""
    quality, cost = points[name]
    low = [(q - quality) / (c - cost) for q, c in points.values() if c > cost]
    return low, [(q - quality) / (c - cost) for q, c in points.values() if c < cost]


def no_single_weight(pair):
    return None if pair and pair[0] == pair[1] else pair


def ranged(low, high):
    return (low, high) if low <= high else None


scoring_slip(
    "A weight below zero is let in: there cost counts as good. Which weights are allowed?",
    "below-zero",
    lambda points, name: span(points, name, -math.inf),
)
scoring_slip(
    "Only the methods that cost more are looked at. What do the cheaper ones do, as w grows?",
    "costlier-alone",
    lambda points, name: (max([0.0, *limits(points, name)[0]]), math.inf),
)
scoring_slip(
    "Only the methods that cost less are looked at. What do the costlier ones do, while w is small?",
    "cheaper-alone",
    lambda points, name: ranged(0.0, min([math.inf, *limits(points, name)[1]])),
)
scoring_slip(
    "The two limits are exchanged: to divide by a difference below zero turns an inequality round. Which of the others set the lowest w?",
    "exchanged",
    lambda points, name: ranged(max([0.0, *limits(points, name)[1]]), min([math.inf, *limits(points, name)[0]])),
)
scoring_slip(
    "The weakest limit of each side counts. How many of the others does it have to stand above?",
    "weakest-limits",
    lambda points, name: ranged(max(0.0, min(limits(points, name)[0], default=0.0)), max(limits(points, name)[1], default=math.inf)),
)
scoring_slip(
    "A range is given whose end lies below its beginning. For which weights does it win, then?",
    "an-empty-range",
    lambda points, name: (max([0.0, *limits(points, name)[0]]), min([math.inf, *limits(points, name)[1]])),
)
scoring_slip(
    "A method of the same cost is passed over. If it is better, what can any w do about that?",
    "same-cost-passed-over",
    lambda points, name: ranged(max([0.0, *limits(points, name)[0]]), min([math.inf, *limits(points, name)[1]])),
)
scoring_slip(
    "You say that every method on the front wins for some weight, and give it all of them. At w = 0, who wins?",
    "front-wins-always",
    lambda points, name: (0.0, math.inf) if name in front_by(points, beats) else None,
)
scoring_slip(
    "You say that no method ever wins. At w = 0, who does?",
    "never",
    lambda points, name: None if points else (0.0, 0.0),
)
scoring_slip(
    "A single weight is a range as well. Where its score is as high as two others', is any of them above it?",
    "one-weight-left-out",
    lambda points, name: no_single_weight(span(points, name)),
)
scoring_slip(
    "A method that is equal in both to another is said to lose against it. Is its score the lower one?",
    "equals-lose",
    lambda points, name: None if list(points.values()).count(points[name]) > 1 else span(points, name),
)


@scoring.slip("Differences of cost are divided by differences of quality, upside down. In which unit is w, if w times a cost is a quality?")
def upside_down(points, name):
    low, high = ([1 / x for x in side if x] for side in limits(points, name))
    return ranged(max([0.0, *low]), min([math.inf, *high]))


# ================================================================ a ceiling from two crowds

halving = Exercise(
    "crowd-ceiling",
    lesson=LESSON,
    title="Would another crowd say the same?",
    signature="crowd_ceiling(ratings)",
    why="A model is marked by what a crowd said. If another crowd would have said something else, no model can be right every time.",
    points=1,
    minutes=8,
    difficulty=1,
    hints=[
        "`given[::2]` and `given[1::2]` are the two halves of one sentence's ratings.",
        "The two halves agree if their means have the same sign. What is the sign of the product of the two?",
        "A mean of zero says neither. Neither a hit nor a miss: half.",
    ],
)


@halving.cases
def halving_cases(seed):
    draw = random.Random(seed)
    cases = [
        Case("two halves that agree", ratings=[[3, 2, 1, 2]]),
        Case("two halves that do not agree", ratings=[[3, -2, 1, -1]]),
        Case("a half that says neither", ratings=[[2, 3, -2, 1]]),
        Case("two sentences with different numbers of raters", ratings=[[1, -1], [2, 1, 3, 1, 2, 2, 1, 4, 1, 3]]),
        Case("an odd number of raters", ratings=[[1, -2, -2, 4, 2], [1, 2, 1]]),
        Case("one very sure rater in a half", ratings=[[-4, 1, 1, 2, 1, 1], [4, -1, -1, -2, -1, -2]]),
    ]
    for i in range(4):
        lean = [draw.choice([-1, 1]) for _ in range(9)]
        many = [[max(-4, min(4, round(draw.gauss(0.7 * way, 2)))) for _ in range(draw.randint(4, 13))] for way in lean]
        cases.append(Case(f"nine sentences drawn at random, number {i + 1}", ratings=many))
    return cases


@halving.observe
def look_halving(answer, case):
    return {"ceiling": number(answer([list(r) for r in case.ratings]), "`crowd_ceiling`")}


def agreement(a, b):
    return 0.5 if a * b == 0 else float(a * b > 0)


def in_halves(ratings, split=lambda r: (r[::2], r[1::2]), of=sum, agree=agreement):
    return statistics.fmean(agree(*map(of, split(r))) for r in ratings)


@halving.evidence
def one_sentence(cases, seen, expected):
    """The halves of the first sentences of a wrong case."""
    for case, mine, theirs in zip(cases, seen, expected):
        if "ceiling" in mine and abs(mine["ceiling"] - theirs["ceiling"]) > 1e-7:
            r = case.ratings[0]
            return (
                f"With {case.label}: the first sentence has the ratings {r}; the means of its halves are {statistics.fmean(r[::2]):.2f} and "
                f"{statistics.fmean(r[1::2]):.2f}. You give {mine['ceiling']:.3f} over {len(case.ratings)} sentence{'s' * (len(case.ratings) > 1)}. What does each sentence contribute?"
            )
    return None


@halving.solution
def by_products(ratings):
    hits = 0
    for given_ in ratings:
        product = sum(given_[::2]) * sum(given_[1::2])
        hits += 0.5 if product == 0 else product > 0
    return hits / len(ratings)


@halving.solution
def by_signs_of_means(ratings):
    def sign(values):
        mean = statistics.fmean(values)
        return (mean > 0) - (mean < 0)

    agree = [sign(r[0::2]) * sign(r[1::2]) for r in ratings]
    return 0.5 + sum(agree) / (2 * len(ratings))


@halving.solution
def by_tensors(ratings):
    shares = []
    for r in ratings:
        r = torch.tensor(r, dtype=torch.float64)
        shares.append((1 + r[::2].mean().sign() * r[1::2].mean().sign()) / 2)
    return torch.stack(shares).mean().item()


def halving_slip(message, name, f):
    halving.slip(message)(f, name)


halving_slip(
    "A zero is counted as agreement. Did a half agree that says neither?",
    "zero-is-a-hit",
    lambda ratings: in_halves(ratings, agree=lambda a, b: float(a * b >= 0)),
)
halving_slip(
    "A zero is counted as a miss. Did a half disagree that says neither?",
    "zero-is-a-miss",
    lambda ratings: in_halves(ratings, agree=lambda a, b: float(a * b > 0)),
)
halving_slip(
    "One half is compared with the mean of all, in which it is contained. With whom does a crowd then agree?",
    "half-against-all",
    lambda ratings: in_halves(ratings, split=lambda r: (r[::2], r)),
)
halving_slip(
    "You split the list in the middle. Which ratings stand at even places, and which at odd ones?",
    "first-and-second-half",
    lambda ratings: in_halves(ratings, split=lambda r: (r[: len(r) // 2], r[len(r) // 2 :])),
)
halving_slip(
    "You split the list in the middle. Which ratings stand at even places, and which at odd ones?",
    "first-half-longer",
    lambda ratings: in_halves(ratings, split=lambda r: (r[: (len(r) + 1) // 2], r[(len(r) + 1) // 2 :])),
)
halving_slip(
    "One rater is compared with the others, as in lesson 07. How many people are in each half here?",
    "one-rater",
    lambda ratings: statistics.fmean(statistics.fmean(agreement(x, sum(r) - x) for x in r) for r in ratings),
)
halving_slip(
    "You count votes for and against, and how sure each rater was is gone. What is the sign of the *mean*?",
    "votes",
    lambda ratings: in_halves(ratings, of=lambda v: sum((x > 0) - (x < 0) for x in v)),
)
halving_slip(
    "You compare the ratings one by one, not the means of the two halves. What does a crowd say?",
    "rater-by-rater",
    lambda ratings: statistics.fmean(statistics.fmean(agreement(a, b) for a, b in zip(r[::2], r[1::2])) for r in ratings),
)
halving_slip(
    "This is how often the halves disagree. Which of the two is the ceiling?",
    "disagreement",
    lambda ratings: 1 - in_halves(ratings),
)
halving_slip(
    "This is a percentage. The share was asked for: between which two numbers does it lie?",
    "in-percent",
    lambda ratings: 100 * in_halves(ratings),
)
halving_slip(
    "This is a number of sentences. Of how many?",
    "a-number",
    lambda ratings: in_halves(ratings) * len(ratings),
)
halving_slip(
    "Medians are compared. One very sure person does not move a median: what is the sign of the *mean*?",
    "medians",
    lambda ratings: in_halves(ratings, of=statistics.median),
)
