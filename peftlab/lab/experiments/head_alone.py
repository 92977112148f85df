"""The control of the capstone: on polyglot-350k the output layer alone learns one of five languages that no lesson has used.

All of `lm_head` is trained, and nothing else; the rate is chosen by the training loss. `letters` is the share of a number's letters
that are the most probable ones with the right letters before them, mean over the 200 held-out numbers; `accuracy` the share of
numbers written without a mistake.
"""

import torch

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.training import answers, train
from peftlab.methods import FullFineTuning

USES = ("polyglot-350k",)
LANGUAGES = ["nl", "da", "sv", "hu", "id"]
RATES = [0.03, 0.1, 0.3, 1.0]


def plan(toy=False):
    return [
        {"language": language, "lr": lr, "steps": 3 if toy else 100, "seed": seed}
        for seed in range(1 if toy else 6)
        for language in LANGUAGES[: 1 if toy else None]
        for lr in RATES[: 1 if toy else None]
    ]


def run(config, device):
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(config["seed"])
    pl.attach(model, FullFineTuning, ["lm_head"])
    model.to(device)
    data = polyglot.dataset(config["language"])
    how = {"steps": config["steps"], "lr": config["lr"], "batch_size": 32, "seed": config["seed"], "progress": False}
    trained = train(model, data, answers(tokenizer), **how)
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "train_loss": sum(trained.losses[-10:]) / len(trained.losses[-10:]),
        "letters": polyglot.letters(model, tokenizer, config["language"]).mean().item(),
        "accuracy": polyglot.accuracy(model, tokenizer, config["language"]),
    }
