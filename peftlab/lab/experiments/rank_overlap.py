"""Do adapters of different ranks listen to the same directions? LoRA of ranks 8 and 32 on polyglot-350k, from different seeds.

`overlap_i` is how much of the i strongest input directions of rank 8 lies in the i strongest of rank 32, from 0 to 1, mean over
all matrices (Hu et al., arXiv 2106.09685, section 7.2); `again_i` the same for another rank 8, `chance_i` for random directions.
The seeds must differ: with one seed the first rows of A are drawn alike, and overlap before they have learnt anything.
"""

import torch

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.training import answers, train
from peftlab.layers import adapted
from peftlab.methods import LoRA

USES = ("polyglot-350k",)
STRONGEST = (1, 4, 8)
STEPS = {"it": 120, "tr": 200}


def plan(toy=False):
    return [
        {"task": task, "lr": 0.01, "steps": 3 if toy else steps, "seed": seed}
        for seed in range(1 if toy else 5)
        for task, steps in STEPS.items()
    ]


def directions(config, rank, seed, device):
    """[(d_in, rank)] for each matrix: the right singular vectors of B A, strongest first."""
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(seed)
    pl.attach(model, LoRA, "all-linear", r=rank, lora_alpha=2 * rank)
    how = {"steps": config["steps"], "lr": config["lr"], "batch_size": 32, "seed": seed, "progress": False}
    train(model.to(device), polyglot.dataset(config["task"]), answers(tokenizer), **how)
    learnt = [layer.adapters["default"] for _, layer in adapted(model)]
    return [torch.linalg.svd((a.lora_B @ a.lora_A).detach(), full_matrices=False)[2][:rank].T for a in learnt]


def overlap(ours, theirs, i):
    """The share of the first i columns of one that lies in the span of the first i of the other, both orthonormal."""
    return ((ours[:, :i].T @ theirs[:, :i]).square().sum() / i).item()


def run(config, device):
    seed = config["seed"]
    eight, again = (directions(config, 8, seed + more, device) for more in (0, 1000))
    wide = directions(config, 32, seed + 2000, device)
    torch.manual_seed(seed + 3000)
    chance = [torch.linalg.qr(torch.randn_like(V))[0] for V in wide]
    beside = {"overlap": wide, "again": again, "chance": chance}
    return {
        f"{name}_{i}": sum(overlap(a, b, i) for a, b in zip(eight, others)) / len(eight)
        for name, others in beside.items()
        for i in STRONGEST
    }
