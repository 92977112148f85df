"""Does it matter where LoRA starts? Four beginnings on polyglot-350k, which learns Italian, at rank 8, three learning rates each.

lora: A random, B zero (arXiv 2106.09685). pissa: the strongest ranks of W (2404.02948). olora: a QR decomposition of W
(2406.01775). mica: B frozen at the weakest directions of W (2604.01694). `early` is the loss of steps 20 to 30.
"""

import torch

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.training import answers, train
from peftlab.methods import LoRA, MiCA, OLoRA, PiSSA

USES = ("polyglot-350k",)
STARTS = {"lora": LoRA, "pissa": PiSSA, "olora": OLoRA, "mica": MiCA}
RATES = {"lora": [0.003, 0.01, 0.03], "pissa": [0.001, 0.003, 0.01], "olora": [0.001, 0.003, 0.01], "mica": [0.01, 0.03, 0.1]}


def plan(toy=False):
    seeds, steps = (range(1), 3) if toy else (range(5), 120)
    return [
        {"start": start, "lr": lr, "steps": steps, "seed": seed}
        for seed in seeds
        for start, rates in RATES.items()
        for lr in rates[: 1 if toy else None]
    ]


def run(config, device):
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(config["seed"])
    pl.attach(model, STARTS[config["start"]], "all-linear", r=8, lora_alpha=16)
    model.to(device)
    how = {"steps": config["steps"], "lr": config["lr"], "batch_size": 32, "seed": config["seed"], "progress": False}
    losses = train(model, polyglot.dataset("it"), answers(tokenizer), **how).losses
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "early": sum(losses[20:30]) / len(losses[20:30]) if len(losses) > 29 else None,
        "train_loss": sum(losses[-10:]) / len(losses[-10:]),
        "learnt": polyglot.accuracy(model, tokenizer, "it"),
        **{f"accuracy_{known}": polyglot.accuracy(model, tokenizer, known) for known in polyglot.KNOWN},
    }
