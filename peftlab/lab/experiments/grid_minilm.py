"""The flagship methods side by side on minilm-l6: four domains, learning rates for each method, quality and what is lost.

The reduced grid of a processor: 256 sentences, 48 steps of 16, one size a method and two rates each (those around the
best of small-and-strong). A rate is chosen on validation sentences. `retrieval` is what the model could do untaught,
measured with the adapter on; for editorials it asks about the domain that was learnt, on other sentences or the same.
Cost is counted, not timed: bytes for gradients and AdamW's states, bytes kept for the backward pass, multiplications of a
step. The median seconds of a step are recorded on a GPU only, where nobody else uses the device.
"""

import statistics
from functools import cache

import torch

import peftlab as pl
from peftlab.lab.clock import Stopwatch
from peftlab.lab.experiments.small_and_strong import BLOCKS, fit_and_test
from peftlab.methods import IA3, BitFit, LoRA, Pfeiffer

USES = ("minilm-l6", "four-domains")
DOMAINS = ["movies", "products", "tweets", "editorials"]
WAYS = {  # name -> (method, where, options), learning rates
    "head": (None, [0.01, 0.03]),
    "bitfit": ((BitFit, BLOCKS, {}), [0.002, 0.004]),
    "ia3": ((IA3, ["key", "value", "intermediate.dense"], {}), [0.01, 0.03]),
    "lora-8": ((LoRA, ["query", "value"], {"r": 8, "lora_alpha": 16}), [0.001, 0.003]),
    "pfeiffer-16": ((Pfeiffer, r".*layer\.\d+\.output\.LayerNorm", {"reduction_factor": 16}), [0.003, 0.01]),
    "full": (None, [0.0001, 0.0003]),
}


def plan(toy=False):
    return [
        {"domain": domain, "method": method, "lr": lr, "sentences": 256, "steps": 3 if toy else 48, "seed": seed}
        for seed in range(1 if toy else 5)
        for domain in DOMAINS[: 1 if toy else None]
        for method, (_, rates) in WAYS.items()
        for lr in rates[: 1 if toy else None]
    ]


def put_on(model, method):
    """Attach a method by the name it has in WAYS; the head learns along with each."""
    how, _ = WAYS[method]
    if how:
        pl.attach(model, how[0], how[1], modules_to_save=["classifier"], **how[2])
    else:
        model.requires_grad_(method == "full").classifier.requires_grad_(True)


@cache
def cost(method):
    """What a step on 16 sentences of 32 tokens takes, in multiplications and in bytes: it follows from shapes."""
    encoder, tokenizer = pl.lab.load_base("minilm-l6")
    model = pl.lab.MeanPoolClassifier(encoder, num_labels=2)
    put_on(model, method)
    ids = torch.full((16, 32), tokenizer.unk_token_id)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros(16, dtype=torch.long)}
    counted, (forward, backward) = pl.count(model), pl.multiplications(model, **batch)
    return {name: getattr(counted, name) for name in ("trainable", "gradients", "optimizer")} | {
        "forward": forward,
        "backward": backward,
        "activations": pl.saved_activations(model.train(), **batch),
    }


def run(config, device):
    encoder, tokenizer = pl.lab.load_base("minilm-l6")
    torch.manual_seed(config["seed"])
    model = pl.lab.MeanPoolClassifier(encoder, num_labels=2)
    put_on(model, config["method"])
    model.to(device)
    watch, laps = Stopwatch(device), []
    found = fit_and_test(model, encoder, tokenizer, config, config["domain"], on_step=lambda run: laps.append(watch.lap()))
    if torch.device(device).type == "cuda":
        found["step_seconds"] = statistics.median(laps[3:])
    return found | cost(config["method"])
