"""Adapters and LoRA at equal size: Italian on polyglot-350k with three budgets, six seeds, on the CPU.

A budget is a number of trainable parameters, and each method has the largest rank or width that fits it: LoRA of rank 1, 2
or 4 on every linear layer. "houlsby-linear" is Houlsby without the non-linearity, and so a LoRA with a bias on the layers
that Houlsby adapts. Three learning rates each, a factor of two apart, around the best by training loss of a first seed.
"""

from functools import cache

import torch

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.training import answers, train
from peftlab.methods import Houlsby, LoRA

USES = ("polyglot-350k",)
STEPS = 100
BUDGETS = (5_500, 11_000, 22_000)
WIDTHS = {"lora": ("r", 1, 2, 4), "houlsby": ("m", 4, 9, 18), "houlsby-linear": ("m", 4, 9, 18)}
MIDDLE = {  # of three rates, for each budget
    "lora": (0.03, 0.015, 0.015),
    "houlsby": (0.06, 0.03, 0.03),
    "houlsby-linear": (0.03, 0.03, 0.015),
}


def plan(toy=False):
    return [
        {"seed": seed, "method": method, "budget": budget, "lr": lr, "steps": 3 if toy else STEPS}
        for seed in range(1 if toy else 6)
        for method, middle in MIDDLE.items()
        for budget, rate in list(zip(BUDGETS, middle))[: 1 if toy else None]
        for lr in (rate / 2, rate, 2 * rate)[: 1 if toy else None]
    ]


@cache
def rows(language, split="train"):
    return list(polyglot.dataset(language, split))


def put_on(model, method, budget):
    """Attach a method in the largest size that fits a budget."""
    name, *sizes = WIDTHS[method]
    size = sizes[BUDGETS.index(budget)]
    if name == "r":
        pl.attach(model, LoRA, "all-linear", r=size, lora_alpha=2 * size)
        return
    straight = {"non_linearity": "linear"} if method == "houlsby-linear" else {}
    pl.attach(model, Houlsby, ["o_proj", "down_proj"], reduction_factor=96 / (size + 0.5), **straight)  # d // that is `size`


def run(config, device):
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(config["seed"])
    put_on(model, config["method"], config["budget"])
    model.to(device)
    how = {"steps": config["steps"], "lr": config["lr"], "seed": config["seed"], "progress": False}
    trained = train(model, rows("it"), answers(tokenizer), **how)
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "train_loss": sum(trained.losses[-10:]) / len(trained.losses[-10:]),
        "accuracy": polyglot.accuracy(model, tokenizer, "it"),
    }
