"""Are intruder dimensions what forgets? Scaled down in the trained weights and, as the control, in the untouched ones.

Full fine-tuning and LoRA of three ranks, as in spectra, on polyglot-350k learning Italian. Three parts of the new weights
are scaled by each of `SCALES`: all intruders; the strongest intruder of each matrix alone, so that ranks are compared at one
number of directions; the whole update. With U (d_out, k) the intruders of a matrix, scaling by s gives W - (1 - s) U U^T W.

control: the same with the same U for the *untouched* W. Where that costs the old languages themselves, their absence says
nothing about forgetting (intruders: Shuttleworth et al., arXiv 2410.21228, who scale them in the trained model alone).
"""

from functools import cache

import torch

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.experiments import spectra
from peftlab.lab.training import answers

USES = ("polyglot-350k",)
RATES = {"full": 0.001, "lora-1": 0.03, "lora-8": 0.01, "lora-32": 0.01}
SCALES = [0.0, 0.25, 0.5, 0.75]  # at 1 nothing is taken away
PARTS = ("intruders", "strongest", "update")


def plan(toy=False):
    seeds, steps = (range(1), 3) if toy else (range(6), spectra.STEPS["it"])
    return [
        {"task": "it", "method": method, "lr": lr, "steps": steps, "seed": seed}
        for seed in seeds
        for method, lr in ({"lora-8": 0.01} if toy else RATES).items()
    ]


@cache
def asked(languages):
    """The unseen numbers of some languages as one batch, with the tokens of their answers as labels."""
    tokenizer = pl.lab.load_base("polyglot-350k")[1]
    return answers(tokenizer)([row for language in languages for row in polyglot.dataset(language, "test")])


@torch.no_grad()
def written(model, *languages):
    """What `polyglot.accuracy` gives, in one pass: greedy decoding writes an answer if and only if each of its tokens
    is the likeliest after those before it."""
    batch = {name: tensor.to(model.device) for name, tensor in asked(languages).items()}
    labels = batch.pop("labels")[:, 1:]
    guesses = model.eval()(**batch).logits[:, :-1].argmax(-1)
    return ((guesses == labels) | (labels == -100)).all(1).double().mean().item()


def kept(model):
    return written(model, *polyglot.KNOWN)


@torch.no_grad()
def run(config, device):
    with torch.enable_grad():
        model, _, before = spectra.learn(config | {"model": "polyglot-350k"}, device)
    new, before = spectra.weights(model), {path: W.to(device) for path, W in before.items()}
    seen = {path: spectra.look(before[path], W) for path, W in new.items()}
    none = {path: W.new_zeros(len(W), 0) for path, W in new.items()}
    U = {path: torch.stack([u for u, _, _ in found], 1) if found else none[path] for path, (*_, found) in seen.items()}

    def along(W, path, part):
        """What of a weight is scaled."""
        if part == "update":
            return new[path] - before[path]
        chosen = U[path] if part == "intruders" else U[path][:, :1]
        return chosen @ (chosen.T @ W)

    def scaled(weights, part, scale):
        for path, W in weights.items():
            model.get_submodule(path).weight.copy_(W - (1 - scale) * along(W, path, part))

    count = [len(intruders) for *_, intruders in seen.values()]
    found = {
        "learnt": written(model, config["task"]),
        "kept": kept(model),
        "matrices": len(seen),
        "size": sum(size for _, size, _, _ in seen.values()) / len(seen),
        "intruders": sum(count),
        "strongest": sum(n > 0 for n in count),
    }
    for part in PARTS:
        for scale in SCALES:
            scaled(new, part, scale)
            found[f"kept_{part}_{scale:g}"] = kept(model)
            if part != "update":
                scaled(before, part, scale)
                found[f"control_{part}_{scale:g}"] = kept(model)
    scaled(before, "update", 1)
    return found | {"untouched": kept(model)}
