"""What the records say of each claim: `settle[number](see)` gives the verdict, by the rule in the function, and the numbers behind it.

`see` hands out recorded runs and notes which ones were looked at: these are the runs that a verdict rests on. No number is written
here but the thresholds of the rules. Instead of numbers stands None where nothing is recorded yet.
"""

import random
from functools import cache, partial
from itertools import product
from pathlib import Path

from peftlab.lab import records
from peftlab.lab.advice import MARGIN as NEAR
from peftlab.lab.adviser import OTHER, ROMANCE, advise, plain
from peftlab.lab.polyglot import LANGUAGES
from peftlab.lab.sweeps import best_rates, interval

HELD, IN_PART, NOT, OPEN = "held", "held in part", "did not hold", "not decided here"
MARGIN = 0.02  # on par: the whole interval of the difference is no wider than this to either side, as in lesson 07
SEEDS = 6  # a sign-flip test over fewer pairs cannot fall under 5 %
SMALL = ("bitfit", "ia3", "lora-8", "lora-8-all", "dora-8", "pfeiffer-16", "houlsby-16")
SPECTRA = {  # the rates at which lesson 02 takes the runs of `spectra`, which have no loss of training to choose by
    "tr": {"full": 0.003, "lora-8": 0.01}, "it": {"full": 0.001, "lora-8": 0.01}, "movies": {"full": 0.0003, "lora-8": 0.003},
}  # fmt: skip
ROUTER = ("movies", "products", "tweets")
OLD = ("en", "es", "fr")


@cache
def _loaded(name, folder, state):
    """All runs of an experiment; `state` of the file, so that another file is read again."""
    return records.load(name, folder)


def load(name, folder):
    """`records.load`, read once as long as the file stays as it is. Not to be changed in place."""
    path = Path(folder) / f"{name}.jsonl"
    state = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None
    return _loaded(name, str(folder), state)


class See:
    """The records of a folder: `see(name, column=value or list, ...)` gives the runs of the seeds that have all of them."""

    def __init__(self, folder=records.RUNS):
        self.folder, self.used, self.rates, self.dirty = folder, {}, {}, {}

    def __call__(self, name, **where):
        frame = plain(load(name, self.folder))
        for column, values in where.items():
            frame = frame[frame[column].isin(values if isinstance(values, (list, tuple)) else [values])]
        if frame.empty:
            raise ValueError(f"{name} in {self.folder} has no runs with {where}: record them again")
        counts = frame.groupby("seed").size()
        frame = frame[frame["seed"].isin(counts[counts == counts.max()].index)].sort_values("seed", kind="stable")
        self.note(name, frame)
        return frame

    def note(self, name, frame):
        """These runs were looked at."""
        lines = self.used.setdefault(name, {})
        for key, seed, device, dirty in zip(frame["key"], frame["seed"], frame["device"], frame["dirty"]):
            lines[key] = (int(seed), device)
            self.dirty[key] = bool(dirty)

    def best(self, frame, *groups, by="train_loss", lowest=True):
        """`best_rates`, and notes which of the rates are the lowest or the highest that was tried: of how many, and else 0."""
        found = best_rates(frame, list(groups), by=by, lowest=lowest)
        swept = frame.groupby(list(groups))["lr"].agg(["min", "max", "nunique"])
        for group, lr in found.groupby(list(groups))["lr"].first().items():
            if swept.loc[group, "nunique"] > 1:
                key = (frame["experiment"].iloc[0], frame["key"].iloc[0], *groups, group)
                edge = lr in (swept.loc[group, "min"], swept.loc[group, "max"])
                self.rates[key] = int(swept.loc[group, "nunique"]) if edge else 0
        return found


class Mean:
    """A mean with half of its 95 % interval, to be written as `{x:.1%}`; a difference of shares as `{x:points}` or `{x:behind}`."""

    def __init__(self, values):
        self.mean, self.half = interval(values)

    low = property(lambda self: self.mean - self.half)
    high = property(lambda self: self.mean + self.half)

    def __format__(self, how):
        if how == "behind":
            return (
                f"{100 * abs(self.mean):.1f} ± {100 * self.half:.1f} points {'behind' if self.mean >= 0 else 'ahead'}"
            )
        if how.endswith("points"):
            return f"{100 * self.mean:{how.removesuffix('points')}.1f} ± {100 * self.half:.1f} points"
        return f"{self.mean:{how}} ± {self.half:{how}}"


def listed(words):
    """["a", "b", "c"] -> "a, b and c"; "none" for no words."""
    words = list(words)
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words) or "none"


def signflip(differences, exact=14, draws=20_000):
    """The two-sided p of a sign-flip test over paired differences: all signs, or as many draws for more pairs than `exact`."""
    n, seen = len(differences), abs(sum(differences)) - 1e-12
    if n <= exact:
        signs = list(product((1, -1), repeat=n))
    else:
        draw = random.Random(0)
        signs = [[1] * n, *([draw.choice((1, -1)) for _ in range(n)] for _ in range(draws))]
    return sum(abs(sum(s * d for s, d in zip(row, differences))) >= seen for row in signs) / len(signs)


def holm(ps):
    """{name: p} -> {name: p corrected for as many tests, after Holm}."""
    corrected, least = {}, 0.0
    for i, name in enumerate(sorted(ps, key=ps.get)):
        corrected[name] = least = max(least, min(1.0, (len(ps) - i) * ps[name]))
    return corrected


def column(frame, name, **where):
    """A column of the runs that match, by seed; the mean where a seed has several."""
    for key, value in where.items():
        frame = frame[frame[key] == value]
    return frame.groupby("seed")[name].mean()


# ---- counted on the shapes of large models (lesson 01)


def counted(see, shape, dtype="float32", methods=None):
    """{method: its record} of a shape, eight texts of 128 tokens."""
    more = {"method": methods} if methods else {}
    frame = see("cost-560m", shape=shape, dtype=dtype, texts=8, length=128, **more)
    of = {row["method"]: row for _, row in frame.iterrows()}
    if lacking := [m for m in methods or () if m not in of]:
        raise ValueError(f"cost-560m has no run of {', '.join(lacking)} on {shape}: record it again")
    return of


def xlmr(see, *methods):
    return counted(see, "xlm-roberta-large", methods=list(methods))


def fewer_parameters(see):
    of = xlmr(see, "full", "lora-8", "lora-32")
    full, small, large = (of[m]["trainable"] for m in ("full", "lora-8", "lora-32"))
    rounded = sorted(round(full / 1e6) / round(n / 1e6) for n in (small, large))
    values = {"fewest": full / large, "most": full / small, "low": rounded[0], "high": rounded[1]}
    return (HELD if rounded == [140, 280] else NOT), values


def lora_counts(see):
    of = xlmr(see, "head", "lora-8", "lora-32")
    small, large, head = (of[m]["trainable"] / 1e6 for m in ("lora-8", "lora-32", "head"))
    values = {"small": small, "large": large, "head": head}
    return (HELD if (round(small), round(large)) == (2, 4) else NOT), values


def time_saved(see):
    frame = see("cost-560m", shape="xlm-roberta-large", method=["full", "lora-8", "lora-32"]).copy()
    frame["work"] = frame["forward"] + frame["backward"]
    work = frame.dropna(subset=["work"]).pivot_table(
        index=["dtype", "texts", "length"], columns="method", values="work"
    )
    saved = [1 - work[m] / work["full"] for m in ("lora-8", "lora-32")]
    low, high = min(s.min() for s in saved), max(s.max() for s in saved)
    least, most = 0.32, 0.44  # of the time, as claimed
    verdict = HELD if least <= low and high <= most else NOT if high < least or low > most else IN_PART
    return verdict, {"low": low, "high": high}


def memory(see):
    of = xlmr(see, "full", "lora-8")
    held = {m: sum(of[m][c] for c in ("weights", "gradients", "optimizer")) for m in of}
    parameters, less = of["full"]["trainable"] / of["lora-8"]["trainable"], held["full"] / held["lora-8"]
    return (HELD if parameters < 2 * less else NOT), {"parameters": parameters, "less": less}


def adapter_counts(see):
    of = xlmr(see, "pfeiffer-8", "pfeiffer-2")
    narrow, wide = (of[m]["trainable"] / 1e6 for m in ("pfeiffer-8", "pfeiffer-2"))
    return (IN_PART if (round(narrow), round(wide)) == (7, 26) else NOT), {"narrow": narrow, "wide": wide}


def adapters_or_lora(see):
    of = xlmr(see, "head", "lora-8", "lora-32", "lora-all-8", "pfeiffer-8")
    n = {m: (row["trainable"] - of["head"]["trainable"]) / 1e6 for m, row in of.items()}
    blocks, wide, r = 24, 1024, 32
    narrow = wide // 64
    thin = blocks * (2 * wide * narrow + narrow + wide) / 1e6
    values = {"adapter": n["pfeiffer-8"], "lora": n["lora-32"], "thin": thin, "factor": 64, "rank": r}
    verdict = HELD if min(n["pfeiffer-8"], thin) > n["lora-32"] else IN_PART if n["pfeiffer-8"] > n["lora-32"] else NOT
    return verdict, values


def a_thousandth(see):
    shares, sizes = {}, []
    for shape in ("bloomz-560m", "llama-3.2-1b"):
        of = counted(see, shape, "bfloat16", ["full", "prefix-20", "prompt-20"])
        sizes.append(of["full"]["trainable"] / 1e6)
        shares[shape] = [of[m]["trainable"] / of["full"]["trainable"] for m in ("prefix-20", "prompt-20")]
    (prefix, prompt), (other_prefix, other_prompt) = shares.values()
    near = [0.0005 < n < 0.002 for n in (prefix, other_prefix, prompt, other_prompt)]
    values = {"prefix": prefix, "other_prefix": other_prefix, "prompt": prompt, "other_prompt": other_prompt, "tokens": 20,
              "size": sizes[0], "other_size": sizes[1]}  # fmt: skip
    return (HELD if all(near) else IN_PART if any(near) else NOT), values


def biases(see):
    of = xlmr(see, "full", "head", "bias")
    body = of["full"]["trainable"] - of["head"]["trainable"]
    share = (of["bias"]["trainable"] - of["head"]["trainable"]) / body
    bloomz = counted(see, "bloomz-560m", "bfloat16", ["full", "bias"])
    llama = counted(see, "llama-3.2-1b", "bfloat16")
    small = see("grid-minilm", domain="tweets", method=["head", "bitfit", "full"], sentences=256)
    head, bias, full = (small[small["method"] == m]["trainable"].iloc[0] for m in ("head", "bitfit", "full"))
    values = {"share": share, "other": bloomz["bias"]["trainable"] / bloomz["full"]["trainable"]}
    values["small"] = (bias - head) / (full - head)
    near = [0.0005 < n < 0.002 for n in values.values()] + ["bias" in llama]
    return (HELD if all(near) else IN_PART if any(near) else NOT), values


def versions(see):
    of = xlmr(see, "full", "lora-8")
    bytes_of = {m: 4 * of[m]["trainable"] for m in of}
    values = {"many": 100, "copies": 100 * bytes_of["full"] / 1e9, "files": 100 * bytes_of["lora-8"] / 1e9}
    return (HELD if bytes_of["lora-8"] * 100 < bytes_of["full"] else NOT), values


def out_of_reach(see):
    held, card = 4 * 4 * 100e9, 80e9  # bytes; the card is a large one as they were sold when the claim was made
    return (HELD if held > card else NOT), {
        "bytes": 4 * 4,
        "terabytes": held / 1e12,
        "cards": held / card,
        "card": card / 1e9,
    }


# ---- languages on polyglot-350k (lessons 06, 07, 09)


def languages(see, target, methods=None):
    """The runs on one target, with the share that was lost of the languages the model knew; of a target it knew, of the others."""
    old = [t for t in OLD if t != target]
    more = {"method": list(methods)} if methods else {}
    runs = see("languages-learnt-and-lost", target=target, **more).copy()
    before, after = (runs[[f"accuracy_{t}{end}" for t in old]].mean(axis=1) for end in ("_before", ""))
    return runs.assign(lost=1 - after / before)


def off_is_exact(see):
    """(number of runs with a frozen base, the largest change of an accuracy in them with the adapter off)."""
    runs = see("languages-learnt-and-lost")
    frozen = runs[runs["method"] != "full"]
    return len(frozen), max((frozen[f"accuracy_{t}_off"] - frozen[f"accuracy_{t}_before"]).abs().max() for t in OLD)


def weights_intact(see):
    runs, moved = off_is_exact(see)
    lora = see.best(languages(see, "it", ["lora-8"]), "method")
    lost, learnt = Mean(column(lora, "lost")), Mean(column(lora, "learnt"))
    verdict = (IN_PART if lost.low > 0.5 else HELD) if moved == 0 else NOT
    return verdict, {"runs": runs, "lost": lost, "learnt": learnt}


def near_prompts(see):
    spanish = see.best(languages(see, "es", ["prompt", "prefix"]), "method")
    nearest = see("languages-by-distance", target="pt", method=["prompt-10", "prompt-40", "prefix"])
    new = see.best(nearest, "method")
    known = {m: Mean(column(spanish, "learnt", method=m)) for m in ("prompt", "prefix")}
    other = {m: Mean(column(new, "learnt", method=m)) for m in ("prompt-10", "prompt-40", "prefix")}
    up = min(k.mean for k in known.values()) > 0.9
    verdict = IN_PART if up and max(o.high for o in other.values()) < 0.9 else HELD if up else NOT
    return verdict, {
        "prompt": known["prompt"],
        "prefix": known["prefix"],
        "new_prompt": other["prompt-10"],
        "long_prompt": other["prompt-40"],
        "steps": int(nearest["steps"].iloc[0]),
        "new_prefix": other["prefix"],
    }


def full_forgets(see):
    full = languages(see, "it", ["full"])
    by_rate = [(lr, Mean(column(rows, "learnt")), Mean(column(rows, "accuracy_en")), Mean(column(rows, "lost")))
               for lr, rows in full.groupby("lr")]  # fmt: skip
    learners = [r for r in by_rate if r[1].mean > 0.5]
    mild = min(learners, key=lambda r: r[3].mean)
    best = by_rate[[lr for lr, *_ in by_rate].index(see.best(full, "method")["lr"].iloc[0])]
    facts, form = facts_kept(see)["full"], format_kept(see)["full"]
    lost = [best[3], mild[3], facts["lost"], form["lost"]]
    verdict = HELD if all(x.low > 0.5 for x in lost) else IN_PART if any(x.low > 0.5 for x in lost) else NOT
    names, rest = {"best": best, "mild": mild}, full[full["lr"] == mild[0]]
    return verdict, {
        f"{n}_{what}": v for n, row in names.items() for what, v in zip(("rate", "learnt", "kept", "lost"), row)
    } | {f"mild_{t}": Mean(column(rest, f"accuracy_{t}")) for t in ("es", "fr")} | {
        "facts": facts["learnt"], "facts_lost": facts["lost"], "capitals_lost": facts["lost_capitals"], "other": 23,
    } | {f"form_{what}": mean for what, mean in form.items()}  # fmt: skip


def facts_kept(see):
    """{method: learnt of forty new facts, lost of those it knew}, on smollm2-135m, each method at its best rate."""
    runs = see("facts-learnt-and-lost").copy()
    runs["lost"] = 1 - runs["known_others"] / runs["known_others_before"]
    runs["lost_capitals"] = 1 - runs["known_capitals"] / runs["known_capitals_before"]
    best = see.best(runs, "method")
    return {m: {c: Mean(column(best, c, method=m)) for c in ("learnt", "lost", "lost_capitals")} for m in ("full", "lora-8")}


def format_kept(see):
    """{method: share of answers in a new format, of right ones, lost of the facts it knew}, on smollm2-135m, each at its best rate.

    "mild_learnt" and "mild_lost": the same at the lowest rate that was tried; "lost_from" and "lost_to": at the rates that lost least and
    most, as means over the seeds.
    """
    runs = see("grid-smollm2", task="format").copy()
    runs["lost"] = 1 - runs["known"] / runs["known_before"]
    best, lowest = see.best(runs, "method"), runs[runs["lr"] == runs.groupby("method")["lr"].transform("min")]
    return {
        m: {c: Mean(column(best, c, method=m)) for c in ("learnt", "lost", "right", "right_before")}
        | {f"mild_{c}": Mean(column(lowest, c, method=m)) for c in ("learnt", "lost")}
        | dict(zip(("lost_from", "lost_to"), runs[runs["method"] == m].groupby("lr")["lost"].mean().agg(["min", "max"])))
        for m in dict.fromkeys(best["method"])
    }


def knowledge_kept(see):
    runs, moved = off_is_exact(see)
    knows = languages(see, "es")
    spanish, mild = see.best(knows, "method"), knows[knows["lr"] == knows.groupby("method")["lr"].transform("min")]
    lost = {m: Mean(column(spanish, "lost", method=m)) for m in dict.fromkeys(spanish["method"]) if m != "full"}
    most = max(lost, key=lambda m: lost[m].mean)
    italian = see.best(languages(see, "it"), "method")
    learners = [m for m in lost if column(italian, "learnt", method=m).mean() > 0.5]
    gone_of = {m: Mean(column(italian, "lost", method=m)) for m in learners}
    gone = min(gone_of.values(), key=lambda x: x.mean)
    verdict = (IN_PART if gone.low > 0.5 else HELD) if moved == 0 else NOT
    of, form = facts_kept(see), format_kept(see)
    return verdict, {
        "form_lost": form["lora-8"]["lost"],
        "full_form_lost": form["full"]["lost"],
        "form_from": form["lora-8"]["lost_from"],
        "form_to": form["lora-8"]["lost_to"],
        "full_form_from": form["full"]["lost_from"],
        "full_form_to": form["full"]["lost_to"],
        "runs": runs,
        "gone": listed(f"{m} {lost:.1%}" for m, lost in gone_of.items()),
        "full_called": Mean(column(spanish, "lost", method="full")),
        "full_mild": Mean(column(mild, "lost", method="full")),
        "called": lost["lora-8"],
        "called_mild": Mean(column(mild, "lost", method="lora-8")),
        "tag": lost["tag"],
        "full_gone": Mean(column(italian, "lost", method="full")),
        "facts": of["lora-8"]["learnt"],
        "facts_lost": of["lora-8"]["lost"],
        "full_facts": of["full"]["learnt"],
        "full_facts_lost": of["full"]["lost"],
        "most": most,
        "most_lost": lost[most],
    }


def circumvented(see):
    runs, moved = off_is_exact(see)
    routed = see("many-tasks", world="domains", way=["routed", "switch"], lr=0.003)
    right = Mean(routed[[f"routed_right_{t}" for t in ROUTER]].dropna().mean(axis=1))
    gap = column(routed, "accuracy", way="switch") - column(routed, "accuracy", way="routed")
    verdict = (IN_PART if right.high < 1 else HELD) if moved == 0 else NOT
    return verdict, {"runs": runs, "right": right, "gap": Mean(gap)}


def far_away(see):
    runs = see("languages-by-distance")
    best = see.best(runs, "target", "method")
    by = {m: {name: best[(best["method"] == m) & best["target"].isin(group)].groupby("seed")["learnt"].mean()
              for name, group in (("near", ROMANCE), ("far", OTHER))} for m in dict.fromkeys(best["method"])}  # fmt: skip
    behind = {m: {k: Mean(by["full"][k] - v[k]) for k in v} for m, v in by.items() if m != "full"}
    values = {
        "near_languages": len(ROMANCE),
        "far_languages": len(OTHER),
        "seeds": best["seed"].nunique(),
    }
    for rank in (1, 8, 32):
        values |= {f"near_{rank}": behind[f"lora-{rank}"]["near"], f"far_{rank}": behind[f"lora-{rank}"]["far"]}
    apart = {
        (m, t): Mean(column(best, "learnt", method="full", target=t) - column(best, "learnt", method=m, target=t))
        for m in behind
        for t in OTHER
    }
    short = [pair for pair, gap in apart.items() if gap.low > 0]
    widest = max((pair for pair in apart if pair[0] == "lora-32"), key=lambda pair: apart[pair].mean)
    told = {(m, t): f"{m} in {LANGUAGES[t]} ({gap:behind})" for (m, t), gap in apart.items()}
    unsure = [told[pair] for pair in apart if pair not in short]
    undecided = f"; not decided: {listed(unsure)}" if unsure else ""
    learnt = best.groupby(["method", "target"])["learnt"].max()
    nearest = told[min(apart, key=lambda pair: apart[pair].mean)]
    patient = see("spectra", task="tr", method=["full", "lora-1", "lora-8", "lora-32"])
    fixed = SPECTRA["tr"] | {"lora-1": 0.03, "lora-32": 0.01}  # the only rates that these two have there
    longer = {m: column(patient, "learnt", method=m, lr=lr) for m, lr in fixed.items()}
    values |= {f"gap{end}": Mean(longer["full"] - longer[f"lora-{end[1:] or 8}"]) for end in ("", "_1", "_32")}
    values |= {
        "steps": int(runs["steps"].iloc[0]),
        "more": int(patient["steps"].iloc[0]),
        "turkish": apart["lora-8", "tr"],
        "patient": patient["seed"].nunique(),
        "widest": apart[widest],
        "widest_in": LANGUAGES[widest[1]],
        "nothing": sum(learnt[pair] == 0 for pair in apart),
        "share": best[best["method"] == "lora-32"]["trainable"].iloc[0] / best[best["method"] == "full"]["trainable"].iloc[0],
    }
    verdict = HELD if len(short) == len(apart) and values["gap"].low > 0 else IN_PART if short else NOT
    return verdict, values | {"count": len(short), "pairs": len(apart), "undecided": undecided, "nearest": nearest}


def prompts_near(see):
    runs = languages(see, "es")
    best = see.best(runs, "method")
    prompt = column(best, "learnt", method="prompt")
    gap = Mean(column(best, "learnt", method="full") - prompt)
    new = see.best(see("languages-by-distance", target=ROMANCE, method=["prompt-10", "prompt-40"]), "target", "method")
    reached = {
        (m, t): Mean(column(new, "learnt", target=t, method=m)) for m in dict.fromkeys(new["method"]) for t in ROMANCE
    }
    by, where = max(reached, key=lambda pair: reached[pair].mean)
    most = reached[by, where]
    trainable = best.groupby("method")["trainable"].first()
    lost = {m: Mean(column(best, "lost", method=m)) for m in trainable.index}
    better = [m for m in trainable.sort_values().index if trainable[m] < trainable["prompt"] and lost[m].high < lost["prompt"].low
              and Mean(prompt - column(best, "learnt", method=m)).high <= MARGIN]  # fmt: skip
    alone = {"tag": ", a row that no other question uses,"}
    shown = (f"{m}{alone.get(m, '')} ({trainable[m]:,}; {Mean(column(best, 'learnt', method=m)):.1%}, lost {lost[m]:.1%})" for m in better)
    longest = new["trainable"].max()
    values = {"prompt": Mean(prompt), "gap": gap, "new": most, "trainable": int(trainable["prompt"]), "lost": lost["prompt"],
              "narrow_lost": lost["lora-1"], "lora_lost": lost["lora-8"], "better": listed(shown), "longest": int(longest),
              "new_in": f"{LANGUAGES[where]}, {by}"}  # fmt: skip
    if gap.low > MARGIN:
        return NOT, values
    return (HELD if gap.high <= MARGIN and not better and most.mean > 0.5 else IN_PART), values


# ---- rank, attention, merging, adapters (lessons 02, 05, 06, 11, 12)


def narrow_product(see):
    runs = see("spectra", method=["full", "lora-8"])
    ranks = {t: Mean(column(runs, "ranks", task=t, method="full", lr=of["full"])) for t, of in SPECTRA.items()}
    learnt = {
        (t, m): Mean(column(runs, "learnt", task=t, method=m, lr=lr))
        for t, of in SPECTRA.items()
        for m, lr in of.items()
    }
    short = [t for t in SPECTRA if learnt[t, "lora-8"].mean < 0.9 * learnt[t, "full"].mean]
    values = {"turkish_ranks": ranks["tr"], "italian_ranks": ranks["it"], "wide": 96, "share": 0.9}
    values |= {"italian": learnt["it", "lora-8"], "italian_full": learnt["it", "full"]}
    values |= {"turkish": learnt["tr", "lora-8"], "turkish_full": learnt["tr", "full"]}
    values |= {"films": learnt["movies", "lora-8"], "films_full": learnt["movies", "full"]}
    values["steps"] = listed(f"{n}" for n in sorted(set(map(int, runs["steps"]))))
    return (IN_PART if 0 < len(short) < len(SPECTRA) else NOT if short else HELD), values


def merges(see):
    runs = see("merge-in-four-bits", task="brackets")
    names = {"on": "adapter", "into": "dequantised", "original": "original", "again": "requantised"}
    score = {name: Mean(column(runs, f"score_{c}")) for name, c in names.items()}
    italian = see("merge-in-four-bits", task="it", bits=4)
    score |= {f"italian_{name}": Mean(column(italian, f"score_{c}")) for name, c in names.items()}
    score |= {
        "asked": len(runs["said_adapter"].iloc[0]),
        "ratio": runs["ratio"].mean(),
        "italian_ratio": italian["ratio"].mean(),
    }
    spoilt = [
        score[f"{task}{name}"].high < score[f"{task}on"].low
        for task in ("", "italian_")
        for name in ("original", "again")
    ]
    exact = score["into"].mean == score["on"].mean
    return (HELD if exact and not any(spoilt) else IN_PART if exact else NOT), score


def one_base(see):
    runs = see("many-tasks", world="languages", lr=0.01)
    means = {way: Mean(column(runs, "accuracy", way=way)) for way in dict.fromkeys(runs["way"])}
    merged = max((w for w in means if not w.endswith("switch")), key=lambda w: means[w].mean)
    three = see("many-tasks", world="domains", lr=0.003, way=["switch", "sum 0.333333"])
    values = {"switch": means["switch"], "merged": means[merged], "way": merged}
    values |= {
        f"three_{n}": Mean(column(three, "accuracy", way=w))
        for n, w in (("switch", "switch"), ("merged", "sum 0.333333"))
    }
    return (HELD if means["switch"].mean > means[merged].mean else NOT), values


def by_size(see):
    """{(method, budget): accuracies by seed} at each one's best rate, and the budgets."""
    runs = see("adapters-by-size")
    best = see.best(runs, "method", "budget")
    budgets = sorted(int(b) for b in best["budget"].unique())
    return {
        (m, b): column(best, "accuracy", method=m, budget=b) for m in dict.fromkeys(best["method"]) for b in budgets
    }, budgets


def more_complex(see):
    reached, budgets = by_size(see)
    gain = {b: Mean(reached["houlsby", b] - reached["houlsby-linear", b]) for b in budgets}
    told = listed(f"{gain[b]:+points} ({b:,} parameters)" for b in budgets)
    more = all(gain[b].low > 0 for b in budgets)
    return (HELD if more else IN_PART), {"told": told, "seeds": len(reached["houlsby", budgets[0]])}


def middle_ground(see):
    """Not decided where LoRA is ahead: it sat on more layers here, and the steps are few. Held where the adapter is all the same."""
    reached, budgets = by_size(see)
    ahead = {b: Mean(reached["lora", b] - reached["houlsby", b]) for b in budgets}
    told = listed(f"{ahead[b]:points} ({b:,} parameters)" for b in budgets)
    wider = Mean(reached["lora", budgets[0]] - reached["houlsby", budgets[-1]])
    adapters = all(ahead[b].high < 0 for b in budgets)
    films = listed(f"{Mean(ways['pfeiffer-16'] - ways['lora-8-all']):behind} on {d}" for d, ways in grid(see).items())
    values = {
        "wider": wider,
        "times": budgets[-1] / budgets[0],
        "films": films,
        "steps": int(see("adapters-by-size")["steps"].iloc[0]),
    }
    return (HELD if adapters else OPEN), {
        "told": told,
        "seeds": len(reached["lora", budgets[0]]),
    } | values


def new_attention(see):
    runs = see("list-reversal", task="reverse")
    best = see.best(runs, "layers", "method", "steps")

    def exact(layers, method, steps):
        return column(best, "exact", layers=layers, method=method, steps=steps)

    one = max(v.max() for m in ("prompt-10", "prefix-10", "prefix-40") for s in runs["steps"].unique()
              if len(v := exact(1, m, s)))  # fmt: skip
    patient, lora = exact(2, "prefix-40", 3200), min(exact(n, "lora-8", 800).min() for n in (1, 2))
    did = int((patient > 0.5).sum())
    values = {"one": one, "did": did, "seeds": len(patient), "patient": 3200, "steps": 800, "lora": lora}
    values |= {"lora_1": exact(1, "lora-1", 800).max(), "each": listed(f"{e:.1%}" for e in patient)}
    return (IN_PART if one < 0.01 and did and lora > 0.9 else HELD if one < 0.01 and not did else OPEN), values


def few_directions(see):
    runs = see("random-subspace").assign(d=lambda f: f["d"].astype(str))
    best = see.best(runs, "target", "d")
    needed, whole = {}, int(runs["parameters"].iloc[0])
    for t in ("es", "it"):
        means = {d: column(best, "learnt", target=t, d=d).mean() for d in dict.fromkeys(best[best["target"] == t]["d"])}
        needed[t] = min(int(d) for d in means if d != "all" and means[d] >= 0.9 * means["all"])
    at = Mean(column(best, "learnt", target="es", d=str(needed["es"])))
    unlearnt = Mean(column(best, "learnt", target="it", d=str(needed["es"])))
    tried = sorted(int(d) for d in dict.fromkeys(best["d"]) if d != "all")
    fewer = tried[tried.index(needed["it"]) - 1]
    values = {"known": needed["es"], "new": needed["it"], "whole": whole, "share": 0.9, "at": at, "unlearnt": unlearnt}
    values |= {"fewer": fewer, "short": Mean(column(best, "learnt", target="it", d=str(fewer)))}
    return (IN_PART if needed["it"] >= 16 * needed["es"] else HELD), values


def a_format(see):
    runs = see("merge-in-four-bits", task="brackets")
    score, before = Mean(column(runs, "score_adapter")), Mean(column(runs, "score_quantised"))
    domains = see("many-tasks", world="domains", way=["base", "switch"], lr=0.003)
    others = [f"only {d}" for d in ROUTER]
    alone = see("many-tasks", world="domains", way=others, lr=0.003)
    own = column(domains, "accuracy", way="switch")
    gain = Mean(own - column(domains, "accuracy", way="base"))
    wrong = sum(column(alone, f"accuracy_{d}", way=f"only {e}") for d in ROUTER for e in ROUTER if d != e) / 6
    values = {"gain": gain, "own": Mean(own - wrong), "seeds": runs["seed"].nunique(), "other": 1}
    values["any"] = Mean(wrong - column(domains, "accuracy", way="base"))
    values["asked"] = len(runs["said_adapter"].iloc[0])
    form = format_kept(see)
    best = max((m for m in form if m != "full"), key=lambda m: form[m]["learnt"].mean)
    enough = form[best]["learnt"].high >= form["full"]["learnt"].low - MARGIN
    verdict = IN_PART if score.low > before.high and values["own"].low > 0 and enough else NOT
    values |= {f"form_{m.split('-')[0]}": seen["learnt"] for m, seen in form.items()}
    values |= {"right": form["lora-8"]["right"], "right_full": form["full"]["right"], "right_before": form["lora-8"]["right_before"]}
    return verdict, values | {"score": score, "before": before}


# ---- the fair comparison on minilm-l6 (lesson 10)


def grid(see):
    """{domain: {method: test accuracies by seed}}, each method at its own rate.

    The domains that have the seeds a test wants; where none has, all that have two; none where nothing is recorded yet.
    """
    of, looked, here = {}, {}, See(see.folder)
    if not (Path(see.folder) / "grid-minilm.jsonl").exists():
        return of
    for domain in dict.fromkeys(load("grid-minilm", see.folder)["domain"]):
        looked[domain] = here("grid-minilm", domain=domain, sentences=256, method=["head", *SMALL, "full"])
        best = here.best(looked[domain], "domain", "method", by="validation", lowest=False)
        of[domain] = {m: column(best, "test", method=m) for m in dict.fromkeys(best["method"])}
    seeds = {domain: min(len(values) for values in ways.values()) for domain, ways in of.items()}
    wanted = SEEDS if max(seeds.values(), default=0) >= SEEDS else 2
    of = {domain: ways for domain, ways in of.items() if seeds[domain] >= wanted and "full" in ways}
    for domain in of:
        see.note("grid-minilm", looked[domain])
    see.rates |= {key: edge for key, edge in here.rates.items() if key[-1][0] in of}
    return of


def seeds_of(of):
    return min(len(values) for ways in of.values() for values in ways.values())


def differences(of, pairs):
    """{(one, other): ({domain: Mean of one minus other}, surely more)} for those pairs of methods that are in every domain.

    Surely more: the mean of the differences over seeds and domains is above zero, and a sign-flip test over all of them, corrected after
    Holm for the number of pairs of methods, is under 5 %. Six pairs alone could not pass where several methods are compared.
    """
    found = {}
    for one, other in pairs:
        if all(one in ways and other in ways for ways in of.values()):
            found[one, other] = {domain: list(ways[one] - ways[other]) for domain, ways in of.items()}
    pooled = {pair: [d for values in domains.values() for d in values] for pair, domains in found.items()}
    p = holm({pair: signflip(values) for pair, values in pooled.items()})
    return {
        pair: ({domain: Mean(values) for domain, values in domains.items()}, sum(pooled[pair]) > 0 and p[pair] < 0.05)
        for pair, domains in found.items()
    }


def beside_full(of):
    """{domain: (the small method least behind full, by how much)}, {method: domains where it is on par}, methods surely behind."""
    found = differences(of, [("full", m) for m in SMALL])
    least = {d: min(((m, gaps[d]) for (_, m), (gaps, _) in found.items()), key=lambda pair: pair[1].mean) for d in of}
    par = {m: [d for d in of if gaps[d].high <= MARGIN] for (_, m), (gaps, _) in found.items()}
    return least, par, [m for (_, m), (_, surely) in found.items() if surely]


def surely_on_par(of):
    """The small methods on par in every domain, and, over seeds and domains by a sign-flip test after Holm, surely inside the margin."""
    _, par, _ = beside_full(of)
    short = {
        m: [MARGIN - d for ways in of.values() for d in ways["full"] - ways[m]]
        for m in par
        if all(m in w for w in of.values())
    }
    p = holm({m: signflip(values) for m, values in short.items()})
    return [m for m in short if len(par[m]) == len(of) and sum(short[m]) > 0 and p[m] < 0.05]


def in_the_grid(of):
    """What the sentences of lesson 10 share: numbers of seeds, the margin, and how the small methods stand beside full fine-tuning."""
    least, par, _ = beside_full(of)
    told = listed(f"{m} on {d}, {gap:behind}" for d, (m, gap) in least.items())
    on_par = listed(f"{m} on {listed(domains)}" for m, domains in par.items() if domains)
    surely = listed(surely_on_par(of))
    return {
        "told": told,
        "par": on_par,
        "surely": surely,
        "seeds": seeds_of(of),
        "wanted": SEEDS,
        "margin": 100 * MARGIN,
    }


def comparable(see):
    """Held: a small method is surely on par in the domains, and one is in far languages. Did not hold: each is surely behind."""
    if not (of := grid(see)):
        return OPEN, None
    _, par, behind = beside_full(of)
    far, distance = far_away(see)
    values = in_the_grid(of) | {"far": distance["far_32"], "other": 29}
    if seeds_of(of) < SEEDS:
        return OPEN, values
    if surely_on_par(of) and far == NOT:
        return HELD, values
    return IN_PART if any(par.values()) else NOT if len(behind) == len(par) else OPEN, values


def better_than_the_head(see):
    """Held: every small method is surely better than the head alone, and on par with full in every domain. Did not hold: each is no
    more than the margin better than the head, with the whole interval, in every domain."""
    if not (of := grid(see)):
        return OPEN, None
    _, par, _ = beside_full(of)
    found = differences(of, [(m, "head") for m in SMALL])
    ahead = [m for (m, _), (_, surely) in found.items() if surely]
    values = in_the_grid(of) | {"ahead": listed(ahead), "number": len(ahead), "methods": len(found)}
    if seeds_of(of) < SEEDS:
        return OPEN, values
    everywhere = [m for m in ahead if len(par[m]) == len(of)]
    no_better = all(gap.high <= MARGIN for gaps, _ in found.values() for gap in gaps.values())
    return HELD if len(everywhere) == len(found) else IN_PART if ahead else NOT if no_better else OPEN, values


def biases_on_par(see):
    here, told = See(see.folder), {}
    for domain, ways in grid(here).items():
        if "bitfit" in ways and len(ways["bitfit"]) >= SEEDS:
            told[f"{domain} (grid-minilm)"] = Mean(ways["bitfit"] - ways["full"])
            see.used |= here.used  # of fewer seeds nothing is said
            see.rates |= here.rates
            see.dirty |= here.dirty
    films = see("small-and-strong", method=["bitfit", "full"])
    best = see.best(films, "sentences", "method", by="validation", lowest=False)
    for n in sorted(best["sentences"].unique()):
        one, other = (column(best, "test", sentences=n, method=m) for m in ("bitfit", "full"))
        told[f"movies, {n:,} sentences (small-and-strong)"] = Mean(one - other)
    par = [w for w, gap in told.items() if gap.low >= -MARGIN]
    worse = [w for w, gap in told.items() if gap.high < 0]
    values = {
        "told": listed(f"{gap:+points} on {w}" for w, gap in told.items()),
        "par": len(par),
        "all": len(told),
        "margin": 100 * MARGIN,
        "behind": listed(worse),
    }
    if len(par) + len(worse) <= len(told) / 2:
        return OPEN, values
    return HELD if len(par) == len(told) else NOT if len(worse) == len(told) else IN_PART, values


def best_balance(see):
    """Held: surely better than whatever trains less, and nowhere more than the margin behind the best. Did not hold: in every domain
    a method that trains less is no more than the margin behind it."""
    if not (of := grid(see)):
        return OPEN, None
    sizes = load("grid-minilm", see.folder).groupby("method")["trainable"].max()
    cheaper = [m for m in ("head", *SMALL) if m in sizes and sizes[m] < sizes["lora-8"]]
    found = differences(of, [("lora-8", m) for m in cheaper])
    best = {d: max(ways, key=lambda m: ways[m].mean()) for d, ways in of.items()}
    behind = {d: Mean(of[d][m] - of[d]["lora-8"]) for d, m in best.items()}
    equalled = [d for d in of if any(gaps[d].high <= MARGIN for gaps, _ in found.values())]
    told = listed(
        f"{behind[d]:points} behind {m} on {d}" if m != "lora-8" else f"the best on {d}" for d, m in best.items()
    )
    which = listed(dict.fromkeys(m for (_, m), (gaps, _) in found.items() for d in equalled if gaps[d].high <= MARGIN))
    values = in_the_grid(of) | {"told": told, "cheaper": listed(cheaper), "equalled": listed(equalled), "which": which}
    if seeds_of(of) < SEEDS:
        return OPEN, values
    near = all(gap.high <= MARGIN for gap in behind.values())
    if near and all(surely for _, surely in found.values()):
        return HELD, values
    return NOT if len(equalled) == len(of) else IN_PART if equalled else OPEN, values


# ---- what needs no run, and the choice


def as_defined(verdict, see):
    return verdict, {}


def many_methods(see):
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return (HELD if len(PEFT_TYPE_TO_CONFIG_MAPPING) >= 25 else NOT), {"count": len(PEFT_TYPE_TO_CONFIG_MAPPING)}


def little_code(see):
    lines = {
        name: len((Path(__file__).parents[1] / name).read_text("utf-8").splitlines())
        for name in ("methods/lora.py", "attach.py")
    }
    return (HELD if max(lines.values()) < 300 else OPEN), {
        "lora": lines["methods/lora.py"],
        "hooks": lines["attach.py"],
    }


def by_distance(see):
    """Held in part: the adviser's choice changes with the distance or with the memory. Did not hold: with neither. The number of
    versions cannot change it, since no record says that a method learns better for it."""

    def ask(**question):
        advice = advise(**question, folder=see.folder)
        for finding in advice.findings:
            frame = load(finding.experiment, see.folder)
            see.note(finding.experiment, frame[frame["key"].isin({k for a in finding.answers for k in a.compared})])
        return advice.choices

    margin = 100 * NEAR
    choice = {target: next(iter(ask(distance=target).values())) for target in ("es", "it", "tr")}
    little, much = 50, 500
    tight, wide = (ask(distance="near", memory=number * 10**6) for number in (little, much))
    moved = [
        f"on {what}: {tight[what]}, then {wide[what]}" for what in tight if tight[what] != wide.get(what, tight[what])
    ]
    budgets = (
        f"{little} to {much} MB it changes {listed(moved)}" if moved else f"{little} to {much} MB no change is recorded"
    )
    values = {"known": choice["es"], "related": choice["it"], "far": choice["tr"], "budgets": budgets, "margin": margin}
    return (IN_PART if len(set(choice.values())) > 1 or moved else NOT), values


SETTLE = {
    1: comparable, 2: fewer_parameters, 3: lora_counts, 4: time_saved, 5: memory, 6: weights_intact, 7: narrow_product,
    8: partial(as_defined, HELD), 9: merges, 10: versions, 11: one_base, 12: partial(as_defined, HELD), 13: adapter_counts,
    14: adapters_or_lora, 15: more_complex, 16: partial(as_defined, HELD), 17: a_thousandth, 18: partial(as_defined, IN_PART),
    19: partial(as_defined, IN_PART), 20: new_attention, 21: near_prompts, 22: full_forgets, 23: knowledge_kept, 24: circumvented,
    25: better_than_the_head, 26: biases, 27: biases_on_par, 28: few_directions, 29: far_away, 30: a_format, 31: many_methods,
    32: little_code, 33: best_balance, 34: prompts_near, 35: middle_ground, 36: by_distance, 37: out_of_reach,
}  # fmt: skip
