"""How far a language may be for a method to learn it: eight new languages, from Portuguese to Finnish, on polyglot-350k.

Distance is the untouched model's loss in the language, asked for without a tag. Prompts of three lengths, LoRA of three ranks,
biases, prefixes and full fine-tuning, two learning rates each (those that did best for Italian and Turkish among more). In the
four far ones, where methods are told apart, a third rate for those that learn most there: beyond the better of the two.
Measured as in languages_learnt_and_lost, which has the methods.
"""

from functools import cache

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.experiments import languages_learnt_and_lost as learnt

USES = learnt.USES
TARGETS = ["pt", "ca", "it", "ro", "de", "pl", "tr", "fi"]
RATES = {
    "prompt-1": [0.03, 0.1],
    "prompt-10": [0.03, 0.1],
    "prompt-40": [0.03, 0.1],
    "prefix": [0.3, 1.0],
    "bias": [0.1, 0.3],
    "lora-1": [0.01, 0.03],
    "lora-8": [0.003, 0.01],
    "lora-32": [0.003, 0.01],
    "full": [0.001, 0.003],
}
FAR, WIDENED = TARGETS[4:], {"lora-8": 0.03, "lora-32": 0.001, "full": 0.01}


def plan(toy=False):
    seeds, steps = (range(1), 3) if toy else (range(6), 120)
    tried = [
        (target, method, lr)
        for target in TARGETS[: 1 if toy else None]
        for method, rates in RATES.items()
        for lr in rates[: 1 if toy else None]
    ]
    tried += [(target, method, lr) for target in ([] if toy else FAR) for method, lr in WIDENED.items()]
    return [
        {"target": target, "method": method, "lr": lr, "steps": steps, "seed": seed}
        for seed in seeds
        for target, method, lr in tried
    ]


@cache
def distance(language):
    return polyglot.distance(*pl.lab.load_base("polyglot-350k"), language)


def run(config, device):
    return learnt.run(config, device) | {"distance": distance(config["target"])}
