"""What a model can still do with its update cut to a few ranks: full fine-tuning, the update of each linear layer truncated.

polyglot-350k learns Italian and Turkish, minilm-l6 to judge film sentences. `learnt_r` is the test score with the r strongest
ranks of each update kept, `learnt` with all of them; `commoner`, for films, that of always giving the commoner label.
"""

import torch

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.experiments import small_and_strong, spectra
from peftlab.lab.training import evaluate, texts

USES = spectra.USES
TASKS = [("polyglot-350k", "it", 0.001), ("polyglot-350k", "tr", 0.003), ("minilm-l6", "movies", 0.0003)]
KEPT = [0, 1, 2, 4, 8, 16, 32]


def plan(toy=False):
    return [
        {"model": name, "task": task, "method": "full", "lr": lr, "steps": 3 if toy else spectra.STEPS[task], "seed": seed}
        for seed in range(1 if toy else 6)
        for name, task, lr in TASKS
    ]


def tester(config, model, tokenizer):
    """A function without arguments that scores the model on the test of the task, and what of it is known beforehand."""
    if config["task"] != "movies":
        return lambda: polyglot.accuracy(model, tokenizer, config["task"]), {}
    test = small_and_strong.sentences(config["seed"])[2]
    commoner = max(test["label"].count(0), test["label"].count(1)) / len(test)
    return lambda: evaluate(model, test, texts(tokenizer, max_length=32), 40).accuracy, {"commoner": commoner}


def run(config, device):
    model, _, before = spectra.learn(config, device)
    score, found = tester(config, model, pl.lab.load_base(config["model"])[1])
    with torch.no_grad():
        found["learnt"] = score()
        parts = []
        for path, layer in spectra.matrices(model).items():
            start = before[path].to(device)
            parts.append((layer, start, torch.linalg.svd(layer.weight - start, full_matrices=False)))
        for r in KEPT:
            for layer, start, (U, S, Vh) in parts:
                layer.weight.copy_(start + U[:, :r] * S[:r] @ Vh[:r])
            found[f"learnt_{r}"] = score()
    return found
