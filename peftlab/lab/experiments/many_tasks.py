"""Adapters of several tasks made one: added, averaged, merged in other ways, or switched; strangers and relatives.

Three worlds, a LoRA for each task, all trained alone on one base:

- `languages`: Italian and Portuguese on polyglot-350k, r = 8 on all linear layers;
- `italian-twice`: the same Italian adapter and one of another start and order: the same task, the same world;
- `domains`: film reviews, product reviews and tweets on minilm-l6 under one head that was trained on all three and is frozen, r = 8 on
  query and value.

`way` says how the updates become one: `base` (none), `switch` (each task its own), `only NAME` (one for all), `sum X` (each times X), `linear X` (as
`peft` does), `ties` (density 0.2), `dare P mean` (drop rate P, then the mean), `dare P switch` (each task its own, thinned), `routed` (domains: the
nearest mean of the untouched base's vectors of 100 training sentences decides).
`accuracy_NAME` and `loss_NAME` (nats per letter, or per sentence) are on the test set of a task; `accuracy` is their mean, and
`validation` the mean accuracy on numbers or sentences held back, from which the learning rate is chosen: on seed 0, at three rates.
"""

from functools import cache

import torch

import peftlab as pl
from peftlab.lab import merging, polyglot
from peftlab.lab.experiments.small_and_strong import by_length
from peftlab.lab.training import answers, evaluate, texts, train
from peftlab.methods import LoRA

USES = ("polyglot-350k", "minilm-l6", "four-domains")
TASKS = {"languages": ["it", "pt"], "italian-twice": ["it", "it again"], "domains": ["movies", "products", "tweets"]}
RATES = {"languages": [0.003, 0.01, 0.03], "italian-twice": [0.01], "domains": [0.001, 0.003, 0.01]}
MAIN = {"languages": 0.01, "italian-twice": 0.01, "domains": 0.003}
STEPS = {"languages": 80, "italian-twice": 80, "domains": 40}
WAYS = {
    "languages": ["switch", "sum 0.25", "sum 0.5", "sum 1", "linear 0.5", "ties", "dare 0.5 mean", "dare 0.5 switch"],
    "italian-twice": ["switch", "sum 0.25", "sum 0.5", "sum 1", "linear 0.5", "ties", "dare 0.5 mean"],
    "domains": ["base", "switch", "only movies", "only products", "only tweets", "sum 0.25", "sum 0.333333", "sum 0.5", "sum 1",
                "linear 0.333333", "ties", "routed"],
}  # fmt: skip


def plan(toy=False):
    """Last come the other learning rates, on one seed, to see by the validation score that the main one lies between."""
    main = [
        {"world": world, "way": way, "lr": MAIN[world], "steps": 3 if toy else STEPS[world], "seed": seed}
        for seed in range(1 if toy else 6)
        for world in TASKS
        for way in WAYS[world][: 2 if toy else None]
    ]
    others = [(world, lr) for world in TASKS for lr in RATES[world] if lr != MAIN[world] and not toy]
    return main + [{"world": world, "way": "switch", "lr": lr, "steps": STEPS[world], "seed": 0} for world, lr in others]


# ---- two models, one way to train and to measure


def numbers(name, held_back):
    """Of the numbers for training each eighth, held back to choose the rate by; or the others."""
    rows = polyglot.dataset(name[:2])
    return rows.select([i for i in range(len(rows)) if (i % 8 == 7) == held_back])


@cache
def language(name, lr, steps, seed):
    """The factors of a LoRA that learnt a language; "it again" has another start and another order than "it"."""
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    seed = 100 * seed + ["it", "pt", "it again"].index(name)
    torch.manual_seed(seed)
    pl.attach(model, LoRA, "all-linear", name="task", r=8, lora_alpha=16)
    train(model, numbers(name, held_back=False), answers(tokenizer), steps=steps, lr=lr, seed=seed, progress=False)
    return merging.factors(model, "task")


def languages(names, lr, steps, seed):
    """(the base, {task: its LoRA's factors}, measure(task, split): accuracy and loss)."""
    found = {name: language(name, lr, steps, seed) for name in names}
    base, tokenizer = pl.lab.load_base("polyglot-350k")

    def measure(name, split):
        rows = polyglot.dataset(name[:2], "test") if split == "test" else numbers(name, held_back=True)
        said = polyglot.ask(base, tokenizer, rows["prompt"])
        return sum(a == b for a, b in zip(said, rows["answer"])) / len(rows), evaluate(base, rows, answers(tokenizer)).loss

    return base, found, measure


@cache
def sentences(domain, seed):
    """Sentences to learn from, 150 to choose by, and 150 for the test."""
    parts = {part: pl.lab.sentiment(domain, part, seed=seed) for part in ("train", "validation", "test")}
    return {"train": parts["train"].select(range(1024)), "validation": by_length(parts["validation"].select(range(150))),
            "test": by_length(parts["test"].select(range(150)))}  # fmt: skip


@cache
def with_head(seed, steps):
    """A classifier whose head was trained on all three domains, the encoder frozen."""
    encoder, tokenizer = pl.lab.load_base("minilm-l6")
    torch.manual_seed(seed)
    model = pl.lab.MeanPoolClassifier(encoder, num_labels=2)
    model.requires_grad_(False).classifier.requires_grad_(True)
    rows = [row for domain in TASKS["domains"] for row in sentences(domain, seed)["train"]]
    train(model, rows, texts(tokenizer, 28), steps=steps, lr=0.01, batch_size=16, seed=seed, progress=False)
    return model.requires_grad_(False), tokenizer


def domains(names, lr, steps, seed):
    base, tokenizer = with_head(seed, steps)
    found = {}
    for i, name in enumerate(names):
        torch.manual_seed(100 * seed + i)
        pl.attach(base, LoRA, ["query", "value"], name="task", r=8, lora_alpha=16)
        rows = sentences(name, seed)["train"]
        train(base, rows, texts(tokenizer, 28), steps=steps, lr=lr, batch_size=16, seed=100 * seed + i, progress=False)
        found[name] = merging.factors(base, "task")
        pl.detach(base)

    def measure(name, split, only=None):
        rows = sentences(name, seed)[split]
        if only is not None:
            rows = rows.select(only)
        found = evaluate(base, rows, texts(tokenizer, 28), 40)
        return found.accuracy, found.loss

    return base, found, measure


@cache
def trained(world, lr, steps, seed):
    return (domains if world == "domains" else languages)(TASKS[world], lr, steps, seed)


# ---- the ways


def one_update(way, adapters, seed):
    """The one update of a way, for all tasks."""
    updates = [merging.update_of(a) for a in adapters.values()]
    kind, *rest = way.split()
    n, draw = len(updates), torch.Generator().manual_seed(seed)
    if kind == "only":
        return updates[list(adapters).index(rest[0])]
    if kind == "sum":
        return merging.weighted_sum(updates, [float(rest[0])] * n)
    if kind == "linear":
        return merging.linear(list(adapters.values()), [float(rest[0])] * n)
    if kind == "ties":
        return merging.ties(updates, 0.2)
    return merging.weighted_sum([merging.dare(u, float(rest[0]), draw) for u in updates], [1 / n] * n)


def of_each(way, adapters, seed):
    """{task: the update it is asked with}."""
    if way == "base":
        return {name: {} for name in adapters}
    if way.endswith("switch"):
        draw = torch.Generator().manual_seed(seed)
        thin = [float(p) for p in way.split()[1:2]]
        whole = {name: merging.update_of(a) for name, a in adapters.items()}
        return {name: merging.dare(u, thin[0], draw) for name, u in whole.items()} if thin else whole
    return dict.fromkeys(adapters, one_update(way, adapters, seed))


def run(config, device):
    world, way, seed = config["world"], config["way"], config["seed"]
    base, adapters, measure = trained(world, config["lr"], config["steps"], seed)
    if way == "routed":
        return routed(base, adapters, measure, seed)
    found = {}
    for name, update in of_each(way, adapters, seed).items():
        if world == "italian-twice" and name != "it" and way != "switch":  # one update, one language: the same
            found[f"accuracy_{name}"], found[f"loss_{name}"] = found["accuracy_it"], found["loss_it"]
            continue
        with merging.changed_by(base, update):
            found[f"accuracy_{name}"], found[f"loss_{name}"] = measure(name, "test")
            if way == "switch":
                found[f"validation_{name}"], _ = measure(name, "validation")
    tasks = list(adapters)
    found["accuracy"] = sum(found[f"accuracy_{t}"] for t in tasks) / len(tasks)
    if way == "switch":
        found["validation"] = sum(found[f"validation_{t}"] for t in tasks) / len(tasks)
        one, other = (merging.update_of(adapters[t]) for t in tasks[:2])
        found["cosine"] = merging.cosine(one, other)
        whole = merging.weighted_sum([one, other], [1, 1])
        found["linear_off"] = merging.distance(merging.linear([adapters[t] for t in tasks[:2]], [1, 1]), whole)
        found["svd_off"] = merging.distance(merging.cut(whole, 8), whole)
    return found


def routed(base, adapters, measure, seed):
    """The task of each test sentence by the nearest mean of the untouched encoder's vectors; then the accuracy with the adapter chosen."""
    _, tokenizer = pl.lab.load_base("minilm-l6")
    means = {}
    for name in adapters:
        vectors = pl.lab.embed(base.encoder, tokenizer, sentences(name, seed)["train"]["text"][:100])
        means[name] = torch.nn.functional.normalize(vectors.mean(0), dim=0)
    names, found = list(means), {}
    stacked = torch.stack(list(means.values()))
    for name in names:
        rows = sentences(name, seed)["test"]
        chosen = (pl.lab.embed(base.encoder, tokenizer, rows["text"]) @ stacked.T).argmax(1).tolist()
        right = 0.0
        for i, other in enumerate(names):
            mine = [k for k, c in enumerate(chosen) if c == i]
            if mine:
                with merging.changed_by(base, merging.update_of(adapters[other])):
                    right += len(mine) * measure(name, "test", mine)[0]
        found[f"accuracy_{name}"] = right / len(rows)
        found[f"routed_right_{name}"] = chosen.count(names.index(name)) / len(rows)
    return found | {"accuracy": sum(found[f"accuracy_{n}"] for n in names) / len(names)}
