"""Lesson 14, choose, and a capstone: what fits, from how many versions on adapters pay, a choice made of records; a folder handed in."""

import random
import statistics

from peftlab.lab.sweeps import T95, interval

from ..exercise import Case, Exercise, Part, Question, Unexpected
from ..observing import given
from ..proposals import EXAMPLE, LANGUAGES

LESSON = "14-choose-and-capstone"


# ================================================================ predict

small_budget = Question(
    "which-of-two",
    lesson=LESSON,
    title="Ninety and eighty-nine",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=2,
    question="Over six seeds one method has 90 % on average and another 89 %. The second writes a file a hundred times smaller, and you are to "
    "keep two hundred versions. Which do you take?",
    options={
        "a": (
            "the first: 90 is more than 89",
            "Six other seeds would give other means. By how much do the two differ on each seed, and how far may that be from what you saw?",
        ),
        "b": (
            "the second: the interval of the difference holds zero for sure, so they are equal",
            "Nothing here says how wide that interval is. And if it is wide, is *not told apart* the same as *equal*?",
        ),
        "c": (
            "that depends on the interval of the difference, seed by seed, and on how much you are ready to lose",
            "If the whole interval lies within what you can bear to lose, the smaller file is free. If not, nobody knows yet.",
        ),
        "d": (
            "the second: it has fewer parameters, and forgets less therefore",
            "Lesson 09 measured what was forgotten. Did the number of trainable parameters decide it there?",
        ),
    },
    right="c",
)


# ================================================================ what fits

fitting = Exercise(
    "what-fits",
    lesson=LESSON,
    title="What fits",
    signature="what_fits(memory, base, methods)",
    why="The first question is the hardware's: a method that does not fit need not be compared.",
    points=2,
    minutes=8,
    hints=[
        "While a step of training runs, what lies in memory? Lesson 01 has four kinds of it.",
        "The frozen base is in memory as well, whatever the method.",
        "To put names in the order of a number, sort by a function that gives the number of a name.",
    ],
)
KINDS = ("weights", "gradients", "optimizer", "activations")


def a_method(draw, trainable, in_base, activations):
    """Bytes of one method; one that trains the base's own weights adds none."""
    jitter = draw.randrange(1, 9) * 4
    return {
        "weights": 0 if in_base else 4 * trainable,
        "gradients": 4 * trainable,
        "optimizer": 8 * trainable,
        "activations": activations + jitter,
    }


@fitting.cases
def fitting_cases(seed):
    draw = random.Random(seed)
    n = 1000 + draw.randrange(500)
    methods = {
        "full": a_method(draw, 20 * n, True, 60_000),
        "prompt": a_method(draw, n // 50, False, 90_000),
        "lora": a_method(draw, n, False, 52_000),
        "head": a_method(draw, n // 40, False, 900),
        "bitfit": a_method(draw, n // 8, False, 65_000),
    }
    base = 80 * n
    need = {name: base + sum(method.values()) for name, method in methods.items()}
    order = sorted(need, key=need.get)
    backwards = dict(reversed(methods.items()))
    return [
        Case("memory for all", memory=2 * max(need.values()), base=base, methods=methods),
        Case("memory for some", memory=need[order[2]] + 500, base=base, methods=methods),
        Case("one that fits to the byte", memory=need[order[1]], base=base, methods=backwards),
        Case("memory for the base and no method", memory=base + 800, base=base, methods=methods),
        Case("one byte less than LoRA needs", memory=need["lora"] - 1, base=base, methods=methods),
        Case("less than LoRA needs, by less than its optimizer", memory=need["lora"] - 6 * n, base=base, methods=methods),
        Case("one byte less than all weights need", memory=need["full"] - 1, base=base, methods=methods),
        Case("a small base", memory=need[order[2]] - base + 4000, base=4000, methods=backwards),
    ]


@fitting.observe
def look_fitting(answer, case):
    methods = {name: dict(method) for name, method in case.methods.items()}
    value = given(answer(case.memory, case.base, methods), (list, tuple), "`what_fits`")
    if not all(isinstance(name, str) for name in value):
        raise Unexpected("`what_fits` gave other things than names of methods; expected a list of names.")
    return {"that fit, least first": list(value), "the methods are left as they were": methods == case.methods}


@fitting.solution
def by_sorting(memory, base, methods):
    need = {name: base + sum(method.values()) for name, method in methods.items()}
    return sorted((name for name in need if need[name] <= memory), key=need.get)


@fitting.solution
def by_pairs(memory, base, methods):
    pairs = []
    for name, m in methods.items():
        total = base + m["weights"] + m["gradients"] + m["optimizer"] + m["activations"]
        if total <= memory:
            pairs.append((total, name))
    return [name for _, name in sorted(pairs)]


@fitting.solution
def what_is_left(memory, base, methods):
    left = memory - base
    fit = [name for name, method in methods.items() if sum(method[kind] for kind in KINDS) <= left]
    fit.sort(key=lambda name: sum(methods[name].values()))
    return fit


def least_first(memory, methods, need):
    """The names whose `need(method)` is within the memory, least first."""
    return sorted((n for n in methods if need(methods[n]) <= memory), key=lambda n: need(methods[n]))


@fitting.slip("The base is missing: it lies in memory too, frozen or not. What does your smallest method need without it?")
def without_the_base(memory, base, methods):
    return least_first(memory, methods, lambda m: sum(m.values()))


@fitting.slip("What is kept for the backward pass is missing. Which of the methods have small activations, and are they those that train least?")
def without_activations(memory, base, methods):
    return least_first(memory, methods, lambda m: base + sum(m.values()) - m["activations"])


@fitting.slip("The optimizer's states are missing. How many numbers does AdamW keep for each that it trains?")
def without_the_optimizer(memory, base, methods):
    return least_first(memory, methods, lambda m: base + sum(m.values()) - m["optimizer"])


@fitting.slip("The weights that a method adds are missing. What does LoRA put beside the base?")
def without_added_weights(memory, base, methods):
    return least_first(memory, methods, lambda m: base + sum(m.values()) - m["weights"])


@fitting.slip("The gradients are missing. For which numbers is one kept until the optimizer's step?")
def without_gradients(memory, base, methods):
    return least_first(memory, methods, lambda m: base + sum(m.values()) - m["gradients"])


@fitting.slip("Only weights are counted. What else lies in memory while a step of training runs?")
def weights_alone(memory, base, methods):
    return least_first(memory, methods, lambda m: base + m["weights"])


@fitting.slip("The right ones, in the order in which they came. Which of them needs least?")
def not_in_order(memory, base, methods):
    return [n for n, m in methods.items() if base + sum(m.values()) <= memory]


@fitting.slip("The right ones, the most demanding first. Which end of the list was to be the least?")
def the_most_first(memory, base, methods):
    return by_sorting(memory, base, methods)[::-1]


@fitting.slip("What needs exactly the memory there is, fits. Where is your comparison strict?")
def to_the_byte_left_out(memory, base, methods):
    return [n for n in by_sorting(memory, base, methods) if base + sum(methods[n].values()) < memory]


@fitting.slip("Those that do *not* fit. Which way does your comparison look?")
def those_that_do_not_fit(memory, base, methods):
    fit = by_sorting(memory, base, methods)
    return sorted((n for n in methods if n not in fit), key=lambda n: sum(methods[n].values()))


@fitting.slip("One name. All that fit were asked for; what is your loop's last line, and how often is it reached?")
def one_alone(memory, base, methods):
    return by_sorting(memory, base, methods)[:1]


@fitting.slip("The right ones, by what they train. Is the method that trains least the one that needs least memory?")
def by_what_is_trained(memory, base, methods):
    return sorted(by_sorting(memory, base, methods), key=lambda n: methods[n]["gradients"])


# ================================================================ from how many versions on

paying = Exercise(
    "break-even",
    lesson=LESSON,
    title="From how many versions on",
    signature="break_even(base, adapter, copy)",
    why="The third question of the guides is the number of versions. It has an answer in bytes, and the answer can be *never*.",
    points=1,
    minutes=8,
    difficulty=2,
    hints=[
        "Write down the bytes of n versions kept as copies, and those of n versions kept as adapters. Which part does not grow with n?",
        "Each version as an adapter saves you the bytes of a copy less those of an adapter. How many such savings pay for the base?",
        "Where an adapter is as large as a copy, or larger, nothing is ever saved.",
    ],
)


@paying.cases
def paying_cases(seed):
    draw = random.Random(seed)
    k = draw.randrange(2, 9)
    return [
        Case("a small adapter, and copies of the base's size", base=1000 * k, adapter=7, copy=1000 * k),
        Case("adapters of half a copy", base=100 * k + 1, adapter=50 * k, copy=100 * k),
        Case("a number of versions at which both take the same", base=12 * k, adapter=5, copy=5 + 3 * k),
        Case("copies that are stored smaller than the base", base=1000 * k, adapter=30, copy=100 + k),
        Case("an adapter one byte smaller than a copy", base=3 * k, adapter=11 * k - 1, copy=11 * k),
        Case("an adapter as large as a copy", base=500 * k, adapter=80 * k, copy=80 * k),
        Case("an adapter larger than a copy", base=500 * k, adapter=95 * k, copy=80 * k),
    ]


@paying.observe
def look_paying(answer, case):
    value = answer(case.base, case.adapter, case.copy)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise Unexpected(f"`break_even` gave a {type(value).__name__}; expected a whole number, or None.")
    return {"versions": value if value is None else float(value)}


@paying.evidence
def what_it_would_take(cases, seen, expected):
    """The bytes of both at the number that was given."""
    for case, mine, right in zip(cases, seen, expected):
        n, m = mine.get("versions"), right["versions"]
        if "error" in mine or n is None or n == m or not 0 <= n < 1e6 or n != int(n):
            continue
        copies, beside = n * case.copy, case.base + n * case.adapter
        return (
            f"With {case.label}: {n:,.0f} versions take {copies:,.0f} bytes as copies, and {beside:,.0f} with one base and adapters. "
            f"Is that less, and {'could it ever be' if m is None else 'is it so for one version fewer'}?"
        )
    return None


@paying.solution
def by_division(base, adapter, copy):
    if adapter >= copy:
        return None
    return base // (copy - adapter) + 1


@paying.solution
def by_counting(base, adapter, copy):
    saved = copy - adapter
    if saved <= 0:
        return None
    n, paid = 0, 0
    while paid <= base:
        n, paid = n + 1, paid + saved
    return n


@paying.solution
def by_remainder(base, adapter, copy):
    if not copy > adapter:
        return None
    n, _ = divmod(base, copy - adapter)
    return 1 + n


def rounded_up(base, saved):
    return -(-base // saved)


@paying.slip("At your number both take the same bytes in one case. *Less* was asked for: what is one version more?")
def equal_is_enough(base, adapter, copy):
    return None if adapter >= copy else rounded_up(base, copy - adapter)


@paying.slip("One version too few: so many savings do not pay for the base yet. What is left of it?")
def rounded_down(base, adapter, copy):
    return None if adapter >= copy else base // (copy - adapter)


@paying.slip("Where an adapter saves nothing, no number of versions pays. What does your formula give there?")
def never_is_a_number(base, adapter, copy):
    return base // (copy - adapter) + 1 if adapter != copy else None


@paying.slip("The base is forgotten: it has to be kept beside the adapters, once. What pays for it?")
def no_base(base, adapter, copy):
    return None if adapter >= copy else 1


@paying.slip("You divide the base by a copy. How much of a copy does one version as an adapter save?")
def copies_in_the_base(base, adapter, copy):
    return None if adapter >= copy else base // copy + 1


@paying.slip("This is how many adapters go into one copy. What pays for the base?")
def adapters_in_a_copy(base, adapter, copy):
    return None if adapter >= copy else copy // adapter + 1


@paying.slip("This is a quotient and not a number of versions. How many whole versions is it, for *less*?")
def a_quotient(base, adapter, copy):
    return None if adapter >= copy else base / (copy - adapter)


@paying.slip("*Never* was to be None. What does your answer say for an adapter as large as a copy?")
def never_is_zero(base, adapter, copy):
    return 0 if adapter >= copy else base // (copy - adapter) + 1


# ================================================================ a choice made of records

choosing = Exercise(
    "choose-from-records",
    lesson=LESSON,
    title="A choice made of records",
    signature="choose(rows, memory, margin)",
    why="A guide in prose names a method for each situation. This names one for each *measurement*, and knows where it has none.",
    points=3,
    minutes=15,
    difficulty=3,
    hints=[
        "Four steps, one after the other: what fits; the best of what fits; who is surely near the best; the smallest file of those.",
        "Surely near: the differences to the best, seed by seed, have a mean and a half of an interval. How far behind may the truth be?",
        "The best is behind itself by nothing, and so it is always among those that are near.",
        "When nothing fits there is nothing to compare. Which two words say so?",
    ],
)
NOTHING = "not recorded"


def a_row(method, memory, file, scores):
    return {"method": method, "memory": memory, "file": file, "scores": [round(s, 4) for s in scores]}


@choosing.cases
def choosing_cases(seed):
    draw = random.Random(seed)
    luck = [0.12, -0.1, 0.07, -0.13, 0.02, 0.02]  # of a seed, the same for all methods
    draw.shuffle(luck)

    def scores(mean, spread=0.001):
        own = [spread, -spread, 1.5 * spread, -1.5 * spread, spread / 2, -spread / 2]
        draw.shuffle(own)
        return [mean + shared + o for shared, o in zip(luck, own)]

    level = 0.7 + draw.randrange(5) / 100
    wide = [
        a_row("head", 90, 3, scores(level - 0.25)),
        a_row("lora-32", 330, 80, scores(level - 0.004)),
        a_row("full", 900, 400, scores(level)),
        a_row("dora-8", 260, 2, scores(level - 0.07, 0.06)),
        a_row("bitfit", 250, 4, scores(level - 0.03, 0.06)),
        a_row("ia3", 240, 5, scores(level - 0.055)),
        a_row("lora-8", 340, 20, scores(level - 0.035)),
    ]
    tight = [
        a_row("prompt", 400, 1, scores(level - 0.3)),
        a_row("lora-4", 280, 12, scores(level - 0.02)),
        a_row("dora-4", 290, 14, scores(level)),
        a_row("houlsby", 295, 60, scores(level - 0.001)),
    ]
    swinging = [
        a_row("full", 900, 400, scores(level)),
        a_row("lora-8", 340, 20, scores(level - 0.002, 0.04)),
        a_row("head", 90, 3, scores(level - 0.25)),
    ]
    same = scores(level)
    equal = [a_row("full", 900, 400, same), a_row("lora-8", 340, 20, same), a_row("head", 90, 3, scores(level - 0.25))]
    return [
        Case("seven methods that fit, `margin = 0.05`", rows=wide, memory=1000, margin=0.05),
        Case("the best does not fit, `margin = 0.034`", rows=wide, memory=400, margin=0.034),
        Case("a method that fits to the byte", rows=wide, memory=340, margin=0.05),
        Case("`margin = 0.1`", rows=wide, memory=1000, margin=0.1),
        Case("`margin = 0.2`", rows=wide, memory=1000, margin=0.2),
        Case("`margin = 0.01`", rows=tight, memory=500, margin=0.01),
        Case("`margin = 0.03`", rows=tight, memory=500, margin=0.03),
        Case("one that is ahead on half of the seeds, `margin = 0.055`", rows=swinging, memory=1000, margin=0.055),
        Case("two with the same scores, `margin = 0`", rows=equal, memory=1000, margin=0),
        Case("no method that fits", rows=wide, memory=80, margin=0.05),
        Case("no rows at all", rows=[], memory=1000, margin=0.05),
    ]


@choosing.observe
def look_choosing(answer, case):
    rows = [{**row, "scores": list(row["scores"])} for row in case.rows]
    value = answer(rows, case.memory, case.margin)
    return {"the choice": given(value, str, "`choose`"), "the rows are left as they were": rows == case.rows}


def behind(best, row):
    """(mean, half of the 95 % interval) of how far a row is behind the best, seed by seed."""
    return interval([a - b for a, b in zip(best["scores"], row["scores"])])


def mean_of(row):
    return statistics.mean(row["scores"])


@choosing.evidence
def what_was_chosen(cases, seen, expected):
    """How far behind the first wrong choice is, and what it needs."""
    for case, mine, right in zip(cases, seen, expected):
        said = next((row for row in case.rows if row["method"] == mine.get("the choice")), None)
        fit = [row for row in case.rows if row["memory"] <= case.memory]
        if "error" in mine or mine["the choice"] == right["the choice"] or not said or not fit:
            continue
        if said not in fit:
            return f"With {case.label}: {said['method']} needs {said['memory']}, and there is {case.memory}. Which rows are left after the first step?"
        mean, half = behind(max(fit, key=mean_of), said)
        return (
            f"With {case.label}: {said['method']} is behind the best of what fits by {mean:.3f} ± {half:.3f}, and its file takes {said['file']}. "
            f"Is it surely within {case.margin:g}, and is there a smaller file that is?"
        )
    return None


@choosing.solution
def four_steps(rows, memory, margin):
    fit = [row for row in rows if row["memory"] <= memory]
    if not fit:
        return "not recorded"
    best = max(fit, key=lambda row: sum(row["scores"]))
    near = [row for row in fit if sum(behind(best, row)) <= margin]
    return min(near, key=lambda row: row["file"])["method"]


@choosing.solution
def smallest_file_first(rows, memory, margin):
    fit = sorted((r for r in rows if r["memory"] <= memory), key=lambda r: r["file"])
    best = max(fit, key=mean_of, default=None)
    for row in fit:
        gaps = [a - b for a, b in zip(best["scores"], row["scores"])]
        half = T95[len(gaps)] * statistics.stdev(gaps) / len(gaps) ** 0.5
        if statistics.mean(gaps) + half <= margin:
            return row["method"]
    return "not recorded"


@choosing.solution
def by_a_dictionary(rows, memory, margin):
    fit = {row["method"]: row for row in rows if not row["memory"] > memory}
    if len(fit) == 0:
        return "not recorded"
    best = max(fit, key=lambda name: mean_of(fit[name]))
    files = {}
    for name, row in fit.items():
        mean, half = behind(fit[best], row)
        if name == best or mean + half <= margin:
            files[row["file"]] = name
    return files[min(files)]


def steps(rows, memory, margin, fits=None, yardstick=max, near=None, smallest=lambda row: row["file"], nothing=NOTHING):
    """The four steps, each of which can be another."""
    fit = [row for row in rows if (fits or (lambda r: r["memory"] <= memory))(row)]
    if not fit:
        return nothing
    best = yardstick(fit, key=mean_of)
    close = [row for row in fit if row is best or (near or (lambda b, r: sum(behind(b, r)) <= margin))(best, row)]
    return min(close, key=smallest)["method"]


@choosing.slip("The best mean of those that fit, whatever its file takes. Who is surely near it, and smaller?")
def the_best_mean(rows, memory, margin):
    return steps(rows, memory, margin, near=lambda b, r: False)


@choosing.slip("The smallest file of those that fit, however far behind it is. How far may it be?")
def the_smallest_file(rows, memory, margin):
    return steps(rows, memory, margin, near=lambda b, r: True)


@choosing.slip("Your choice does not always fit into the memory. When is that asked?")
def whatever_the_memory(rows, memory, margin):
    return steps(rows, memory, margin, fits=lambda r: True)


@choosing.slip("The best is looked for among all rows, those that do not fit too. Behind whom is a method that you can use?")
def the_best_of_all(rows, memory, margin):
    fit = [row for row in rows if row["memory"] <= memory]
    if not fit:
        return NOTHING
    best = max(rows, key=mean_of)
    near = [row for row in fit if sum(behind(best, row)) <= margin] or [max(fit, key=mean_of)]
    return min(near, key=lambda row: row["file"])["method"]


@choosing.slip("The mean of the differences is within the margin, and that is all you ask. How far behind may the truth be?")
def the_mean_alone(rows, memory, margin):
    return steps(rows, memory, margin, near=lambda b, r: mean_of(b) - mean_of(r) <= margin)


@choosing.slip("You take whoever can't be told from the best: an interval that holds zero. Is a wide interval near?")
def not_told_apart(rows, memory, margin):
    return steps(rows, memory, margin, near=lambda b, r: behind(b, r)[0] <= behind(b, r)[1])


@choosing.slip("The intervals of the two means are compared, and what the seeds have in common is in both. What is left of it in a difference, seed by seed?")
def each_interval_alone(rows, memory, margin):
    def near(best, row):
        (high, half), (low, other) = interval(best["scores"]), interval(row["scores"])
        return high - low + (half**2 + other**2) ** 0.5 <= margin

    return steps(rows, memory, margin, near=near)


@choosing.slip("You ask that the *nearer* end of the interval is within the margin. Which end is the worst that may be true?")
def the_nearer_end(rows, memory, margin):
    return steps(rows, memory, margin, near=lambda b, r: behind(b, r)[0] - behind(b, r)[1] <= margin)


@choosing.slip("An end *at* the margin is near as well. Which comparison lets it in?")
def under_the_margin(rows, memory, margin):
    return steps(rows, memory, margin, near=lambda b, r: sum(behind(b, r)) < margin)


@choosing.slip("The differences have lost their signs: a seed on which a method is ahead counts as one on which it is behind. What do they say of it then?")
def without_signs(rows, memory, margin):
    return steps(rows, memory, margin, near=lambda b, r: sum(interval([abs(x - y) for x, y in zip(b["scores"], r["scores"])])) <= margin)


@choosing.slip("Of those that are near you take the one that trains in the least memory. What are two hundred versions kept as?")
def the_least_memory(rows, memory, margin):
    return steps(rows, memory, margin, smallest=lambda row: row["memory"])


@choosing.slip("Of those that are near you take the first that comes. Which of them has the smallest file?")
def the_first_near(rows, memory, margin):
    return steps(rows, memory, margin, smallest=lambda row: 0)


@choosing.slip("What needs exactly the memory there is, fits. Where is your comparison strict?")
def strictly_less(rows, memory, margin):
    return steps(rows, memory, margin, fits=lambda r: r["memory"] < memory)


@choosing.slip("Where nothing fits you name a method all the same. Which run says so?")
def always_a_method(rows, memory, margin):
    answer = steps(rows, memory, margin)
    return min(rows, key=lambda r: r["memory"])["method"] if answer == NOTHING and rows else answer


# ================================================================ the capstone

finished = Exercise(
    "capstone",
    lesson=LESSON,
    title="Your capstone",
    signature="capstone.save(model, run, seconds)",
    why="A question of your own, with its budget and what would change your mind, before anything runs. The grader measures again, from your files alone.",
    points=4,
    minutes=90,
    difficulty=3,
    from_files=True,
    hints=[
        "What this page did with Indonesian is a capstone, step by step. Which of its choices were good ones?",
        "Lessons 06 and 07 say which methods hardly learn a language that the base does not know.",
        "Count before you seal: `pl.count` says how many parameters a method trains. So does a first run of a few steps, in no folder at all.",
        "Each learning rate that you try is a training; only the last one is saved. Say in your report how many there were.",
    ],
    parts=[
        Part("the budget is", 1, seen=("budget",)),
        Part("the file is", 1, seen=("file",)),
        Part("the comparison with the head alone is", 1, seen=("better",), needs="the file is"),
        Part("what was forgotten is", 1, seen=("kept",), needs="the file is"),
    ],
)


@finished.cases
def finished_cases(seed):
    return [Case("your folder")]


@finished.observe
def look_finished(found, case):
    given(found, dict, "what is checked here")
    if found.get("language") == LANGUAGES[EXAMPLE]:
        raise Unexpected(f"{LANGUAGES[EXAMPLE]} is this page's own example. Seal a proposal for another language, in a folder of your own.")
    parameters, seconds = found.get("parameters"), found.get("seconds")
    return {
        "budget: sealed before the training": found.get("sealed before") is True,
        "budget: parameters": parameters is not None and parameters <= found.get("parameters allowed", 0),
        "budget: seconds": seconds is not None and seconds <= found.get("seconds allowed", 0),
        "file: loads here and in `peft`, which say the same": found.get("same in peft") is True,
        "file: gives the answers that were handed in": found.get("the answers are its own") is True,
        "better than the head alone": found.get("better than the head alone") is True,
        "kept: measured on and off, as reported": found.get("kept as reported") is True and found.get("off is the base") is True,
        "_found": {k: v for k, v in found.items() if isinstance(v, str | int | float)},
        "_wrong": [str(w) for w in found.get("wrong", ())][:10],
    }


@finished.evidence
def what_was_found(cases, seen, expected):
    """The numbers behind what is not right."""
    mine, found = seen[0], seen[0].get("_found", {})
    said = list(mine.get("_wrong", ()))
    if not mine["budget: parameters"] and {"parameters", "parameters allowed"} <= set(found):
        said.append(f"The file holds {found['parameters']:,} parameters, and your proposal allows {found['parameters allowed']:,}.")
    if not mine["budget: seconds"] and {"seconds", "seconds allowed"} <= set(found):
        said.append(f"The training took {found['seconds']:g} seconds, and your proposal allows {found['seconds allowed']:g}.")
    if not mine["better than the head alone"] and "letters" in found:
        said.append(f"Letters right: {found['letters']}; the head alone, over its seeds: {found.get('of the head alone')}.")
    if not mine["file: gives the answers that were handed in"] and "letters" in found:
        said.append("What the adapter writes for the held-out numbers is not what predictions.json says it wrote.")
    if not mine["kept: measured on and off, as reported"] and "letters" in found:
        said.append("What is left of English, Spanish and French, measured again with the adapter on and off, is not what was reported.")
    return " ".join(said) or None


GOOD = {
    "language": "Dutch",
    "sealed before": True,
    "parameters allowed": 22_000,
    "seconds allowed": 60,
    "seconds": 21.5,
    "parameters": 21_888,
    "off is the base": True,
    "same in peft": True,
    "letters": "96.6% ± 0.6%",
    "of the head alone": "80.6% ± 0.3%",
    "better than the head alone": True,
    "numbers without a mistake": "50.0%",
    "the answers are its own": True,
    "kept as reported": True,
    "wrong": [],
}
UNLOADED = ("parameters", "off is the base", "same in peft", "letters", "better than the head alone", "the answers are its own", "kept as reported")

with_lora = finished.solution(GOOD)
to_the_last_parameter = finished.solution({**GOOD, "language": "Hungarian", "parameters": 22_000, "seconds": 60.0})
with_one_rank = finished.solution({**GOOD, "language": "Danish", "parameters": 5_472, "letters": "88.0% ± 1.1%"})

finished.slip("The file holds more parameters than your proposal allows. What does your method train, layer by layer?")(
    {**GOOD, "parameters": 43_776}, name="too-many-parameters"
)
finished.slip("The training took longer than your proposal allows. Did you count before you sealed?")(
    {**GOOD, "seconds": 75.0}, name="too-many-seconds"
)
finished.slip("No proposal was sealed before this training, or it was changed afterwards. What did you want to know *before* you saw anything?")(
    {**GOOD, "sealed before": False}, name="sealed-afterwards"
)
finished.slip(
    "The adapter can't be told from the output layer alone, which trains 5,664 parameters, or is worse. Is that the method, its size, or its learning rate?"
)({**GOOD, "better than the head alone": False, "letters": "74.0% ± 1.5%"}, name="not-better-than-the-head")
finished.slip("The answers that were handed in are not this adapter's. From which training are they?")(
    {**GOOD, "the answers are its own": False}, name="other-answers"
)
finished.slip("What is left of the languages that the base knew is not what was reported. With which adapter on was it measured?")(
    {**GOOD, "kept as reported": False}, name="forgetting-not-as-reported"
)
finished.slip("Here the file loads, and `peft` does not read it so. Is the method one that `peft` has?")(
    {**GOOD, "same in peft": False}, name="not-in-peft"
)
finished.slip("The adapter's file can't be loaded, so nothing is known of it. For which base was it made, and is it whole?")(
    {k: v for k, v in GOOD.items() if k not in UNLOADED}, name="does-not-load"
)
