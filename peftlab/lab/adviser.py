"""Which method? `advise(memory=..., distance=..., tasks=..., examples=...)` answers from the runs in data/runs, and from nothing else.

Where no run is near the question, the answer is "not recorded". EVIDENCE says which records speak of which situation.
"""

from dataclasses import dataclass, replace
from numbers import Integral, Real

from peftlab.lab import records
from peftlab.lab.advice import MARGIN, Advice, Answer, Finding, size
from peftlab.lab.sweeps import interval

# What `distance` may name, besides a target that is recorded ("it", "tweets", ...).
SITUATIONS = {
    "near": "the base knows the language, or the skill itself: it has to be called up, or given a label",
    "related": "a language the base never saw, related to those it knows",
    "far": "a language the base never saw, related to none it knows, or hardly",
    "facts": "single facts the base never saw",
}
FACTOR = 2  # a number of examples is near a recorded one within this factor
LARGEST = 4  # a memory is near the records up to this many times the largest need among them
OLD = ("en", "es", "fr")
DOMAINS = ("movies", "products", "tweets", "editorials")
ROMANCE, OTHER = ("ca", "it", "pt", "ro"), ("de", "fi", "pl", "tr")


@dataclass(frozen=True)
class Evidence:
    """What a record can say. targets: target -> (situation, words); those with the same words are averaged for each seed.

    choose: the metric that picks the learning rate, "train_loss" (lowest) or "validation" (highest), never the test. kept: pairs of
    columns, what the base could do before and after. target, label: the columns that hold the target and the method.
    """

    experiment: str
    base: str
    targets: dict
    quality: str
    measure: str
    choose: str
    kept: tuple = ()
    loses: str | None = None
    target: str | None = None
    label: str = "method"


ACCURACY = "share of test sentences classified rightly"
WRITTEN = "share of 200 unseen numbers written without a wrong letter"
RETRIEVAL = "share of sentences that no longer find one of their own article, before less after"
LANGUAGES = "share of numbers no longer written rightly in the languages the base knew, but for the one trained, before less after"
KEPT_LANGUAGES = tuple((f"accuracy_{t}_before", f"accuracy_{t}") for t in OLD)
LEARNT = {
    "es": ("near", "Spanish, which the base knows, called up without its tag"),
    "it": ("related", "Italian, new to the base and related"),
    "tr": ("far", "Turkish, new to the base and far"),
}
KNOWN = (("known_before", "known"),)
KNOWN_LOST = "share of known facts no longer completed, before less after"
NEW = {t: ("related", "new languages, related") for t in ROMANCE} | {t: ("far", "new languages, far") for t in OTHER}
EVIDENCE = (
    Evidence("grid-minilm", "minilm-l6", {d: ("near", f"sentiment of {d}") for d in DOMAINS}, "test", ACCURACY, "validation",
             (("retrieval_before", "retrieval"),), RETRIEVAL, "domain"),
    Evidence("small-and-strong", "minilm-l6", {"movies": ("near", "sentiment of movies, by the number of sentences")}, "test",
             ACCURACY, "validation", (("retrieval_before", "retrieval"),), RETRIEVAL),
    Evidence("languages-learnt-and-lost", "polyglot-350k", LEARNT, "learnt", WRITTEN, "train_loss", KEPT_LANGUAGES, LANGUAGES, "target"),
    Evidence("languages-by-distance", "polyglot-350k", NEW, "learnt", WRITTEN, "train_loss", KEPT_LANGUAGES, LANGUAGES, "target"),
    Evidence("facts-learnt-and-lost", "smollm2-135m", {"facts": ("facts", "forty invented facts")}, "learnt",
             "share of the invented facts completed", "train_loss",
             (("known_capitals_before", "known_capitals"), ("known_others_before", "known_others")), KNOWN_LOST),
    Evidence("grid-smollm2", "smollm2-135m", {"format": ("near", "a format: answers in double brackets")}, "learnt",
             "share of twelve other questions answered in the format", "train_loss", KNOWN, KNOWN_LOST, "task"),
    Evidence("grid-smollm2", "smollm2-135m", {"facts": ("facts", "forty invented facts, four methods")}, "learnt",
             "share of the invented facts completed", "train_loss", KNOWN, KNOWN_LOST, "task"),
)  # fmt: skip
NAMES = {
    "tag": "one trainable token, the language's own tag", "bias": "BitFit with a bias added to each linear layer", "norms": "LNTuning",
}  # fmt: skip
# Several versions made one, or kept apart: world of many-tasks -> base, the distances it speaks of, words, number of tasks.
WORLDS = {
    "languages": ("polyglot-350k", ("related", "it", "pt"), "two new languages on one base", 2),
    "domains": ("minilm-l6", ("near", "movies", "products", "tweets"), "three domains on one base and one head", 3),
}


def advise(memory=None, distance=None, tasks=None, examples=None, folder=records.RUNS):
    """Methods for a question, each with its quality, what was lost, what it costs and the runs that say so: an `Advice`.

    memory: bytes that training may add to the weights (gradients, AdamW's states, activations); distance: a situation
    ("near", "related", "far", "facts") or a recorded target ("it", "tweets"); tasks: how many versions are to be kept; examples:
    how many labelled examples there are. What is None is not asked. folder: where the records are.
    Raises ValueError or TypeError for what cannot be a question; what was never measured gets "not recorded".
    """
    _check(memory, distance, tasks, examples)
    question = {"memory": memory, "distance": distance, "tasks": tasks, "examples": examples}
    findings, missing, assumed = [], [], []
    known = {*SITUATIONS, *(t for e in EVIDENCE for t in e.targets)}
    if distance is not None and distance not in known:
        missing.append(f"nothing was measured at the distance {distance!r}; recorded are {', '.join(sorted(known))}")
        return Advice(question, (), (), tuple(missing))
    for evidence in EVIDENCE:
        asked = [t for t, (situation, _) in evidence.targets.items() if distance in (None, situation, t)]
        if asked:
            _look(evidence, asked, question, folder, findings, missing, assumed)
    if tasks and tasks > 1:
        _versions(question, folder, findings, missing)
    return Advice(question, tuple(findings), _assumptions(question, findings, assumed), tuple(dict.fromkeys(missing)))


def plain(runs):
    """Without the controls that differ in how a processor multiplies (`matmul`): the runs of the way that most have."""
    if "matmul" not in runs or runs["matmul"].isna().all():
        return runs
    return runs[runs["matmul"] == runs["matmul"].mode().iloc[0]]


def _check(memory, distance, tasks, examples):
    for name, value, kind, unit in (
        ("memory", memory, Real, "bytes"), ("tasks", tasks, Integral, "versions"), ("examples", examples, Integral, "examples"),
    ):  # fmt: skip
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, kind):
            whole = "a whole number" if kind is Integral else "a number"
            raise TypeError(f"{name} is {whole} of {unit}, and got {value!r}")
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is a number of {unit} above zero, and got {value!r}")
    if distance is not None and not isinstance(distance, str):
        raise TypeError(
            f"distance is a name, one of {', '.join(SITUATIONS)} or a recorded target, and got {distance!r}"
        )
    if distance is not None and not distance.strip():
        raise ValueError(
            f"distance is empty: name one of {', '.join(SITUATIONS)} or a recorded target, or leave it out"
        )


def _look(evidence, asked, question, folder, findings, missing, assumed):
    """Add to the findings what one record can say, and to `missing` what it cannot."""
    name = evidence.experiment
    try:
        runs = records.load(name, folder)
    except FileNotFoundError:
        missing.append(f"{name}: no runs in the folder of records")
        return
    runs = runs.assign(target=runs[evidence.target] if evidence.target else next(iter(evidence.targets)))
    runs = plain(runs[runs["target"].isin(asked)])
    if question["examples"] and "sentences" not in runs:
        missing.append(f"{name}: the number of examples was not varied; leave `examples` out to see it")
        return
    if question["memory"] and not {"gradients", "optimizer", "activations"} <= {*runs}:
        missing.append(f"{name}: memory was not counted; leave `memory` out to see it")
        return
    if question["tasks"] and question["tasks"] > 1 and "file_bytes" not in runs:
        missing.append(f"{name}: the bytes of what is saved")
    runs = runs.assign(words=[evidence.targets[t][1] for t in runs["target"]])
    by = [c for c in ("words", "kind", "sentences", "steps") if c in runs]
    sizes = sorted({int(n) for n in runs["sentences"]}) if "sentences" in runs else []
    near = _nearest(question["examples"], sizes)
    if question["examples"] and near is None:
        missing.append(f"{name}: {question['examples']} examples; recorded are {', '.join(map(str, sizes))}")
        return
    for place, rows in runs.groupby(by):
        at = dict(zip(by, place))
        if near is not None and at["sentences"] != near:
            continue
        if near is not None and near != question["examples"]:
            assumed.append(f"{question['examples']} examples are taken as the nearest recorded number, {near}.")
        answers, too_large = _answers(evidence, rows, question, missing)
        if answers:
            used = rows[rows["key"].isin({key for a in answers for key in a.compared})]
            words = at["words"] + (f", {at['sentences']} sentences" if "sentences" in at else "")
            targets = ", ".join(sorted(set(rows["target"])))
            words += f" ({targets})" if len(set(rows["target"])) > 1 else ""
            if "matmul" in used and set(used["matmul"]) == {"bf16"}:
                assumed.append(f"{name}: the processor multiplied matrices in bfloat16.")
            findings.append(Finding(name, evidence.base, words, evidence.measure, evidence.loses, answers,
                                    records.stamp(used), at.get("sentences"), at.get("steps"), _majority(used), too_large))  # fmt: skip


def _nearest(examples, sizes):
    """The recorded size nearest in ratio, or None where none is within FACTOR (or none was asked for)."""
    ratio = {n: max(n / examples, examples / n) for n in sizes} if examples else {}
    best = min(ratio, key=ratio.get, default=None)
    return best if best is not None and ratio[best] <= FACTOR else None


def _majority(runs):
    """The accuracy of always giving the commoner label, mean over the runs; None where it was not recorded."""
    return float(runs["always_the_commoner"].mean()) if "always_the_commoner" in runs else None


def _answers(evidence, rows, question, missing):
    """(the methods of one situation that fit, the best first, {method: memory} of those that do not)."""
    where, memory, found = f"{evidence.experiment}, {rows['words'].iloc[0]}", question["memory"], []
    few = []
    for method, runs in rows.groupby(evidence.label, sort=False):
        parts = [_best_rate(evidence, part) for _, part in runs.groupby("target")]
        seeds = sorted(set.intersection(*(set(best["seed"]) for best, _ in parts)))
        if len(seeds) < 2:
            few.append(method)
            continue
        found.append(_measured(evidence, method, parts, seeds, question["tasks"]))
    if few:
        missing.append(f"{where}: fewer than two seeds at all of the learning rates of {', '.join(few)}")
    needs = {answer.method: answer.memory for answer, _ in found}
    if memory and found:
        found = _that_fit(found, memory, evidence.experiment, missing)
    fit = {answer.method for answer, _ in found}
    too_large = {m: needs[m] for m in sorted(needs, key=needs.get) if m not in fit} if memory else {}
    found.sort(key=lambda pair: (-pair[0].quality[0], pair[0].trainable or 0))
    return tuple(_compared(answer, values, found[0][1]) for answer, values in found), too_large


def _that_fit(found, memory, experiment, missing):
    """Those that take no more than `memory` bytes; none of them where the records are nowhere near it."""
    needs = {a.method: a.memory for a, _ in found}
    largest, smallest = max(needs, key=needs.get), min(needs, key=needs.get)
    if memory > LARGEST * needs[largest]:
        missing.append(f"{experiment}: {size(memory)} is more than {LARGEST} times the largest need in it ({largest}, "
                       f"{size(needs[largest])}); what more memory buys, a larger base, was not measured")  # fmt: skip
        return []
    if memory < needs[smallest]:
        missing.append(
            f"{experiment}: nothing that fits in {size(memory)}; the smallest need is {size(needs[smallest])} ({smallest})"
        )
    return [(a, values) for a, values in found if a.memory <= memory]


def _best_rate(evidence, runs):
    """(the runs at the best rate, all runs compared), of the seeds that every rate of this method has."""
    seeds = set.intersection(*(set(part["seed"]) for _, part in runs.groupby("lr")))
    whole = runs[runs["seed"].isin(seeds)]
    if whole.empty:
        return whole, whole
    means = whole.groupby("lr")[evidence.choose].mean()
    best = means.idxmin() if evidence.choose == "train_loss" else means.idxmax()
    return whole[whole["lr"] == best], whole


def _measured(evidence, method, parts, seeds, tasks):
    """(the answer, {seed: quality}) of one method, each seed's value the mean over the targets."""
    import pandas

    chosen = pandas.concat([best[best["seed"].isin(seeds)] for best, _ in parts])
    quality = chosen.groupby("seed")[evidence.quality].mean()
    on, off = _lost(evidence, chosen, ""), _lost(evidence, chosen, "_off")
    rates = [(set(part["lr"]), best["lr"].iloc[0]) for best, part in parts]
    file = _most(chosen, ["file_bytes"])
    answer = Answer(
        method=method,
        quality=interval(quality),
        lost=None if on is None else interval(on),
        lost_off=None if off is None else float(off.mean()),
        trainable=_most(chosen, ["trainable"]),
        memory=_most(chosen, ["gradients", "optimizer", "activations"]),
        file=file,
        keep=file * int(tasks) if tasks and file is not None else None,
        rates=tuple(sorted({float(best) for _, best in rates})),
        at_edge=any(best in (min(all_), max(all_)) for all_, best in rates if len(all_) > 1),
        seeds=tuple(int(s) for s in seeds),
        keys=tuple(chosen["key"]),
        compared=tuple(key for _, part in parts for key in part["key"]),
    )
    return answer, quality.to_dict()


def _lost(evidence, chosen, how):
    """What was lost on each seed; None where a column is missing or not filled, as "off" is for full fine-tuning."""
    if how and "off_differs" in chosen and (chosen["off_differs"] == 0).all():
        return chosen.groupby("seed")["off_differs"].mean()  # off, it is the base bit for bit: nothing is lost
    taught = {f"accuracy_{t}_before" for t in chosen[evidence.target]} if evidence.target else ()  # it can hide no loss
    pairs = [(before, after + how) for before, after in evidence.kept if before not in taught]
    if not pairs or any(c not in chosen or chosen[c].isna().any() for pair in pairs for c in pair):
        return None
    difference = sum(chosen[before] - chosen[after] for before, after in pairs) / len(pairs)
    return difference.groupby(chosen["seed"]).mean()


def _most(chosen, columns):
    """The largest sum of these columns in any of the runs, as a whole number; None where one is not recorded."""
    if any(c not in chosen or chosen[c].isna().any() for c in columns):
        return None
    return int(chosen[columns].sum(axis=1).max())


def _compared(answer, values, best):
    """The answer beside the best, over the seeds that both have."""
    both = [s for s in values if s in best]
    return replace(answer, behind=interval([best[s] - values[s] for s in both]) if len(both) > 1 else None)


def _versions(question, folder, findings, missing):
    """Several versions on one base, kept apart or made one: what many-tasks says of as many tasks."""
    distance, tasks = question["distance"], question["tasks"]
    if question["memory"] or question["examples"]:
        missing.append("many-tasks: neither memory nor the number of examples is in its records, so it was left out")
        return
    fitting = {w: about for w, about in WORLDS.items() if distance is None or distance in about[1]}
    if not fitting:
        missing.append(f"many-tasks: versions at the distance {distance!r} made one")
    for world, (base, distances, words, number) in fitting.items():
        if tasks != number:
            missing.append(f"many-tasks: {tasks} versions made one; recorded are {words}")
            continue
        evidence = Evidence("many-tasks", base, {world: (distances[0], words)}, "accuracy",
                            f"mean over the {number} tasks of the share answered rightly", "accuracy", label="way")  # fmt: skip
        try:
            runs = records.load("many-tasks", folder)
        except FileNotFoundError:
            missing.append("many-tasks: no runs in the folder of records")
            return
        rows = runs[runs["world"] == world]
        rows = rows[rows["lr"] == rows["lr"].mode().iloc[0]].assign(
            target=world, words=words
        )  # other rates have one seed
        answers, _ = _answers(evidence, rows, question | {"tasks": None}, missing)
        if answers:
            findings.append(Finding("many-tasks", base, words, evidence.measure, None, answers, records.stamp(rows)))


def _assumptions(question, findings, assumed):
    """What the answers take for granted; nothing where there are none."""
    if not findings:
        return ()
    answers = [a for f in findings for a in f.answers]
    said = [
        f"Your model and data behave as these did: {', '.join(sorted({f.base for f in findings}))}.",
        "Each method stands at its own learning rate, chosen on validation or by the lowest training loss, never on the test.",
        "± is half of the 95 % interval of the mean over the seeds.",
        "* marks the best method and those that cannot be told from it: seed by seed, their difference has an interval that "
        + "holds zero. Nothing is corrected for comparing many.",
    ]
    said.append(f"What is surely no more than {MARGIN:g} behind the best counts as good enough for a choice.")
    keys = [{key for a in f.answers for key in a.keys} for f in findings]
    if len(set.union(*keys)) < sum(map(len, keys)):
        said.append(
            "Some runs have one key in two records: the same configuration, run twice. They are no evidence apart."
        )
    if any(a.at_edge for a in answers):
        said.append("(edge): the best rate is the first or the last that was tried; a better one may lie beyond.")
    if any(a.memory for a in answers):
        said.append(
            "Memory is what training adds to the weights: gradients, AdamW's states and activations, counted for one step."
        )
    if any(a.keep for a in answers):
        said.append(
            f"To keep: {question['tasks']} file{'s' * (question['tasks'] != 1)} of the recorded size, beside one base where the method has one."
        )
    if names := [f"{name} is {words}" for name, words in NAMES.items() if any(a.method == name for a in answers)]:
        said.append(f"Names: {'; '.join(names)}.")
    if question["distance"] is None:
        said.append("No distance was given: every situation is shown that has what was asked for in its records.")
    return (*said, *dict.fromkeys(assumed))
