"""Does AdapterFusion choose, and is choosing what helps? Italian and Portuguese on polyglot-350k, six seeds, on the CPU.

Two Pfeiffer adapters, each alone; then both in a fusion whose query, key and value are trained. The controls: equal
weights with nothing trained; equal weights and the value trained; query and key trained and no value; and one adapter
trained on both languages, with the steps of all the others together. Up to three learning rates each:
choose by the training loss.
"""

from functools import cache
from itertools import chain

import torch

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.experiments.adapters_by_size import rows
from peftlab.lab.training import answers, evaluate, train
from peftlab.methods import AdapterFusion, Pfeiffer

USES = ("polyglot-350k",)
BLOCK = r"model\.layers\.\d+"
ALONE, FUSED = 100, 80
RATES = {
    "it": [0.02],
    "pt": [0.02],
    "equal weights": [0.0],
    "value": [0.001, 0.003, 0.01, 0.03],
    "query and key": [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03],
    "fusion": [0.001, 0.003, 0.01],
    "one for both": [0.01, 0.02, 0.04],
}


def plan(toy=False):
    return [
        {"seed": seed, "trained": trained, "lr": lr, "shortened": toy}
        for seed in range(1 if toy else 6)
        for trained, rates in RATES.items()
        for lr in rates[: 1 if toy else None]
    ]


def both(split="train"):
    """Italian and Portuguese in turn; the tag tells them apart."""
    return list(chain.from_iterable(zip(rows("it", split), rows("pt", split))))


def fresh(seed, *languages):
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(seed)
    for language in languages:
        pl.attach(model, Pfeiffer, BLOCK, name=language, reduction_factor=1)
    return model, tokenizer


@cache
def alone(seed, steps):
    """{language: weights of an adapter trained on it}, and the training loss of each."""
    kept, losses = {}, {}
    for language in ("it", "pt"):
        model, tokenizer = fresh(seed, language)
        how = {"steps": steps, "lr": 0.02, "seed": seed, "progress": False}
        trained = train(model, rows(language), answers(tokenizer), **how)
        kept |= {name: p.detach().clone() for name, p in model.named_parameters() if f"adapters.{language}." in name}
        losses[language] = sum(trained.losses[-10:]) / len(trained.losses[-10:])
    return kept, losses


def run(config, device):
    seed, what, shorter = config["seed"], config["trained"], 30 if config["shortened"] else 1
    if what == "one for both":
        model, tokenizer = fresh(seed, "both")
        how = {"steps": (2 * ALONE + FUSED) // shorter, "lr": config["lr"], "seed": seed, "progress": False}
        return measured(model.to(device), tokenizer, train(model, both(), answers(tokenizer), **how).losses)

    model, tokenizer = fresh(seed, "it", "pt")
    kept, losses = alone(seed, ALONE // shorter)
    model.load_state_dict(kept, strict=False)
    if what in ("it", "pt"):
        pl.use(model, what)
        return measured(model.to(device), tokenizer, [losses[what]], pl.count(model).trainable)

    pl.attach(model, AdapterFusion, BLOCK, name="fusion", adapters=("it", "pt"))
    pl.use(model, "fusion")
    model.requires_grad_(False)
    for name, p in model.named_parameters():
        if "fusion" not in name:
            continue
        choosing = "value" not in name
        with torch.no_grad():
            if what in ("equal weights", "value") and choosing:
                p.zero_()
            else:
                p.copy_(torch.randn(96, 96) / 96 if choosing else torch.eye(96))
        p.requires_grad_(what == "fusion" or (what == "query and key") == choosing and what != "equal weights")
    model.to(device)
    if what == "equal weights":
        return measured(model, tokenizer, [evaluate(model, both(), answers(tokenizer), 200).loss])
    how = {"steps": FUSED // shorter, "lr": config["lr"], "seed": seed, "progress": False}
    return measured(model, tokenizer, train(model, both(), answers(tokenizer), **how).losses)


def measured(model, tokenizer, losses, trainable=None):
    right = {f"accuracy_{language}": polyglot.accuracy(model, tokenizer, language) for language in ("it", "pt")}
    count = sum(p.numel() for p in model.parameters() if p.requires_grad) if trainable is None else trainable
    return right | {"trainable": count, "train_loss": sum(losses[-10:]) / len(losses[-10:])}
