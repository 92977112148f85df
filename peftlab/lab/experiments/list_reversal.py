"""Can a prompt make a model look elsewhere? Lists that must be reversed, with one block and with two, on the CPU.

The base models have learnt to add one or two, so that every place looks at its own digit. "plus 1" can be called up;
"reverse" needs a pattern that was never there. Full fine-tuning, LoRA by rank, prefixes by length (the longest with
more steps as well) and a prompt, two learning rates each. After Petrov et al., arXiv 2310.19698.
"""

import copy
from functools import cache

import torch

import peftlab as pl
from peftlab.lab import lists
from peftlab.lab.training import train
from peftlab.methods import LoRA, PrefixTuning, PromptTuning

STEPS = {"reverse": 800, "plus 1": 200}
LONG = 3200
RATES = {
    "full": [0.001, 0.003],
    "lora-1": [0.01, 0.03],
    "lora-2": [0.01, 0.03],
    "lora-8": [0.01, 0.03],
    "prompt-10": [0.03, 0.1],
    "prefix-10": [0.1, 0.3],
    "prefix-40": [0.1, 0.3],
}


def plan(toy=False):
    seeds = range(1) if toy else range(6)
    due = []
    for seed in seeds:
        for layers in (1, 2):
            for task, steps in STEPS.items():
                for method, rates in RATES.items():
                    due += [(seed, layers, task, method, lr, steps) for lr in rates]
            due.append((seed, layers, "reverse", "prefix-40", 0.1, LONG))
    if toy:
        due = [(*one[:5], 3) for one in due if one[3] in ("prefix-10", "lora-2")][:3]
    return [dict(zip(("seed", "layers", "task", "method", "lr", "steps"), one)) for one in due]


@cache
def base(layers, seed):
    return lists.pretrain(layers, seed)


@cache
def examples(task, seed):
    return lists.Lists([task], rows=20_000, seed=100 + seed)


def put_on(model, method):
    """Attach a method by the name it has in RATES; "full" makes every parameter trainable in place."""
    kind, _, size = method.partition("-")
    if kind == "full":
        model.requires_grad_(True)
    elif kind == "lora":
        pl.attach(model, LoRA, "all-linear", r=int(size), lora_alpha=2 * int(size))
    else:
        pl.attach(model, {"prompt": PromptTuning, "prefix": PrefixTuning}[kind], num_virtual_tokens=int(size))


def run(config, device):
    task, seed = config["task"], config["seed"]
    model = copy.deepcopy(base(config["layers"], seed))
    torch.manual_seed(seed)
    put_on(model, config["method"])
    model.to(device)
    how = {"steps": config["steps"], "lr": config["lr"], "batch_size": 64, "seed": seed, "progress": False}
    trained = train(model, examples(task, seed), **how)
    model.cpu()
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "train_loss": sum(trained.losses[-10:]) / len(trained.losses[-10:]),
        "exact": lists.exact(model, task),
        "before": lists.exact(base(config["layers"], seed), task),
    }
