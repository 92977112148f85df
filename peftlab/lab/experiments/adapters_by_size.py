"""Adapters and LoRA at equal size: Italian on polyglot-350k with four budgets, six seeds, on the CPU.

A budget is a number of trainable parameters, and each method has the largest rank or width that fits it: LoRA of rank 1, 2, 4
or 8 on every linear layer. "lora-there" is LoRA on the two layers that Houlsby adapts, "houlsby-linear" is Houlsby without the
non-linearity.
Seeds 0 and 1 sweep three learning rates a method, a factor of two apart; the others have the one whose training loss was
lowest on those two.
"""

from functools import cache

import torch

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.training import answers, train
from peftlab.methods import Houlsby, LoRA, ParallelAdapter, Pfeiffer

USES = ("polyglot-350k",)
STEPS = 100
BUDGETS = (5_500, 11_000, 22_000, 44_000)
THERE, BLOCK, MLP = ["o_proj", "down_proj"], r"model\.layers\.\d+", ["mlp"]
WIDTHS = {
    "lora": ("r", 1, 2, 4, 8),
    "lora-there": ("r", 3, 6, 13, 26),
    "houlsby": ("m", 4, 9, 18, 37),
    "houlsby-linear": ("m", 4, 9, 18, 37),
    "pfeiffer": ("m", 9, 18, 37, 75),
    "parallel": ("m", 9, 18, 37, 75),
}
RATES = {
    "lora": [0.015, 0.03, 0.06],
    "lora-there": [0.015, 0.03, 0.06],
    "houlsby": [0.015, 0.03, 0.06],
    "houlsby-linear": [0.015, 0.03, 0.06],
    "pfeiffer": [0.01, 0.02, 0.04],
    "parallel": [0.005, 0.01, 0.02],
}
CHOSEN = {}  # (method, budget): the learning rate that seeds 0 and 1 chose, by their training loss


def plan(toy=False):
    due = []
    for seed in range(1 if toy else 6):
        for method, rates in RATES.items():
            for budget in BUDGETS[: 1 if toy else None]:
                kept = rates if seed < 2 else CHOSEN.get((method, budget), [])
                due += [(seed, method, budget, lr) for lr in (kept if isinstance(kept, list) else [kept])]
    steps = 3 if toy else STEPS
    return [dict(zip(("seed", "method", "budget", "lr"), one)) | {"steps": steps} for one in due]


@cache
def rows(language, split="train"):
    return list(polyglot.dataset(language, split))


def put_on(model, method, budget):
    """Attach a method in the largest size that fits a budget."""
    name, *sizes = WIDTHS[method]
    size = sizes[BUDGETS.index(budget)]
    if name == "r":
        pl.attach(model, LoRA, "all-linear" if method == "lora" else THERE, r=size, lora_alpha=2 * size)
        return
    kind, targets = {"pfeiffer": (Pfeiffer, BLOCK), "parallel": (ParallelAdapter, MLP)}.get(method, (Houlsby, THERE))
    straight = {"non_linearity": "linear"} if method == "houlsby-linear" else {}
    pl.attach(model, kind, targets, reduction_factor=96 / (size + 0.5), **straight)  # d // that is `size`


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
