"""An update added and taken away, at several scales: polyglot-350k, and what it writes with and without a tag.

A LoRA learns to answer an untagged question, `<?>342=`, in Spanish, one of three languages that the base knows. The weights become base + scale * update, with scales from -1 to 1 (at 0 it is the base). `control`: the same update with the entries
of its inputs and outputs shuffled, layer by layer: equal norm, equal singular values, nothing learnt.

`untagged_es`: the share of untagged questions answered rightly in Spanish, `untagged_other` in English or French; `tagged_en`, ...: accuracy with
the tag; losses in nats per letter.
"""

from functools import cache

import torch

import peftlab as pl
from peftlab.lab import merging, polyglot
from peftlab.lab.training import answers, evaluate, train
from peftlab.methods import LoRA

USES = ("polyglot-350k",)
SCALES = [-1, -0.5, 0.5, 1]


def plan(toy=False):
    seeds, steps = (range(1), 3) if toy else (range(6), 60)
    return [
        {"update": update, "scale": scale, "steps": steps, "seed": seed}
        for seed in seeds
        for update in ("update", "control")
        for scale in SCALES[: 1 if toy else None]
    ]


@cache
def learnt(steps, seed):
    """(tokenizer, the update of a LoRA that learnt it, the same shuffled)."""
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(seed)
    pl.attach(model, LoRA, "all-linear", name="task", r=8, lora_alpha=16)
    train(model, polyglot.dataset("es", tag=polyglot.UNTAGGED), answers(tokenizer), steps=steps, lr=0.003, seed=seed, progress=False)
    update, draw = merging.update_of(merging.factors(model, "task")), torch.Generator().manual_seed(seed)
    shuffled = {
        path: u[torch.randperm(len(u), generator=draw)][:, torch.randperm(u.shape[1], generator=draw)] for path, u in update.items()
    }
    return tokenizer, update, shuffled


def run(config, device):
    tokenizer, update, shuffled = learnt(config["steps"], config["seed"])
    chosen = update if config["update"] == "update" else shuffled
    base, _ = pl.lab.load_base("polyglot-350k")
    with merging.changed_by(base, {path: config["scale"] * u for path, u in chosen.items()}):
        rows = polyglot.dataset("en", "test", polyglot.UNTAGGED)
        said = list(zip(polyglot.ask(base, tokenizer, rows["prompt"]), rows["number"]))
        in_language = {t: sum(s == polyglot.words(n, t) for s, n in said) / len(said) for t in polyglot.KNOWN}
        tagged = {f"tagged_{t}": polyglot.accuracy(base, tokenizer, t) for t in polyglot.KNOWN}
        collate = answers(tokenizer)
        losses = {
            "loss_untagged_es": evaluate(base, polyglot.dataset("es", "test", polyglot.UNTAGGED), collate).loss,
            "loss_tagged_en": evaluate(base, polyglot.dataset("en", "test"), collate).loss,
        }
    return {"untagged_es": in_language["es"], "untagged_other": in_language["en"] + in_language["fr"]} | tagged | losses
