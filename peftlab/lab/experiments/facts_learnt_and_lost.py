"""Forty invented capitals against what smollm2-135m knew before: facts of our own and plain prose, on the CPU.

Two methods, each with four learning rates. Measured with the adapter on, and for LoRA also off.
"""

from functools import cache

import torch

import peftlab as pl
from peftlab.lab import probes
from peftlab.lab.forgetting import switched_off, text_loss
from peftlab.lab.training import answers, train
from peftlab.methods import LoRA

USES = ("smollm2-135m",)
RATES = {"lora-8": [0.0005, 0.001, 0.002, 0.004], "full": [0.00003, 0.0001, 0.0002, 0.0004]}


def plan(toy=False):
    seeds, steps = (range(1), 1) if toy else (range(6), 25)
    return [
        {"method": method, "lr": lr, "steps": steps, "seed": seed}
        for seed in seeds
        for method, rates in ({"lora-8": [0.001]} if toy else RATES).items()
        for lr in rates
    ]


def skills(model, tokenizer):
    """Shares of the facts completed, by group, and the loss on plain prose in nats per token."""
    facts = probes.read("facts")
    known = [row for row in facts if row["known"]]
    right = probes.completed(model, tokenizer, known)
    capital = [row["topic"] == "capitals" for row in known]
    return {
        "known_capitals": share([r for r, c in zip(right, capital) if c]),
        "known_others": share([r for r, c in zip(right, capital) if not c]),
        "prose": text_loss(model, tokenizer, [row["text"] for row in probes.read("general")]),
    }


def share(right):
    return sum(right) / len(right)


@cache
def untouched():
    return skills(*pl.lab.load_base("smollm2-135m"))


def run(config, device):
    model, tokenizer = pl.lab.load_base("smollm2-135m")
    torch.manual_seed(config["seed"])
    if config["method"] == "full":
        model.requires_grad_(True)
    else:
        pl.attach(model, LoRA, "all-linear", r=8, lora_alpha=16)
    model.to(device)
    new = probes.read("invented")
    how = {"steps": config["steps"], "lr": config["lr"], "batch_size": 8, "seed": config["seed"], "progress": False}
    trained = train(model, probes.to_learn(new), answers(tokenizer), **how)
    found = skills(model, tokenizer) | {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "train_loss": sum(trained.losses[-5:]) / len(trained.losses[-5:]),
        "learnt": share(probes.completed(model, tokenizer, new)),
    }
    for name, value in untouched().items():
        found[f"{name}_before"] = value
    if config["method"] != "full":
        with switched_off(model):
            found |= {f"{name}_off": value for name, value in skills(model, tokenizer).items()}
    return found
