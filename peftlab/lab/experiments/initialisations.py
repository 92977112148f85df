"""Does it matter where LoRA starts? Four beginnings on polyglot-350k, which learns Italian, each with its own learning rates.

lora: A random, B zero (arXiv 2106.09685). pissa: the strongest ranks of W (2404.02948). olora: a QR decomposition of W
(2406.01775). mica: B frozen at the weakest directions of W (2604.01694). All at rank 8; since mica trains A alone, there are
also lora of rank 4 and mica of rank 9, which train about as many parameters as each other, mica a few more.
`early` is the loss of steps 20 to 30.
"""

import torch

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.training import answers, train
from peftlab.methods import LoRA, MiCA, OLoRA, PiSSA

USES = ("polyglot-350k",)
STARTS = {  # name -> (method, rank, learning rates)
    "lora": (LoRA, 8, [0.003, 0.01, 0.03]),
    "pissa": (PiSSA, 8, [0.001, 0.003, 0.01]),
    "olora": (OLoRA, 8, [0.001, 0.003, 0.01]),
    "mica": (MiCA, 8, [0.01, 0.03, 0.1]),
    "lora, r = 4": (LoRA, 4, [0.003, 0.01, 0.03]),
    "mica, r = 9": (MiCA, 9, [0.003, 0.01, 0.03]),
}


def plan(toy=False):
    seeds, steps = (range(1), 3) if toy else (range(6), 120)
    return [
        {"start": start, "lr": lr, "steps": steps, "seed": seed}
        for seed in seeds
        for start, (_, _, rates) in STARTS.items()
        for lr in rates[: 1 if toy else None]
    ]


def run(config, device):
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(config["seed"])
    method, rank, _ = STARTS[config["start"]]
    pl.attach(model, method, "all-linear", r=rank, lora_alpha=2 * rank)
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
