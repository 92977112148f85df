"""BitFit against head only, LoRA and full fine-tuning, by the amount of data: minilm-l6 on film sentences, on the CPU.

Each method with three learning rates; the best is chosen on validation sentences, never on the test's. The seed decides
the split, the sentences drawn and the start of the head, so that an interval over seeds holds all three. What the model
could do untaught, to find sentences of the same article, is measured before and after: what was lost.
"""

from functools import cache

import torch

import peftlab as pl
from peftlab.lab.texts import retrieval
from peftlab.lab.training import evaluate, texts, train
from peftlab.methods import BitFit, LoRA

USES = ("minilm-l6", "four-domains")
STEPS = {32: 32, 256: 64, 2048: 128}  # sentences to learn from -> steps of 16
RATES = {
    "head": [0.003, 0.01, 0.03],
    "bitfit": [0.001, 0.002, 0.004],
    "lora": [0.001, 0.003, 0.01],
    "full": [0.00003, 0.0001, 0.0003],
}
BLOCKS = ["query", "key", "value", "dense", "LayerNorm"]  # every layer with a bias, in each block and the embeddings


def plan(toy=False):
    seeds, sizes = (range(1), {32: 2}) if toy else (range(6), STEPS)
    return [
        {"method": method, "sentences": n, "lr": lr, "steps": steps, "seed": seed}
        for seed in seeds
        for n, steps in sizes.items()
        for method, rates in RATES.items()
        for lr in (rates[:1] if toy else rates)
    ]


def put_on(model, method):
    """Attach a method by the name it has in RATES; the head learns along with each."""
    if method == "head":
        model.requires_grad_(False).classifier.requires_grad_(True)
    elif method == "bitfit":
        pl.attach(model, BitFit, BLOCKS, modules_to_save=["classifier"])
    elif method == "lora":
        pl.attach(model, LoRA, ["query", "value"], r=8, lora_alpha=16, modules_to_save=["classifier"])


def by_length(rows):
    """The same rows, short ones first: batches of one length have little padding."""
    return rows.select(sorted(range(len(rows)), key=lambda i: len(rows[i]["text"])))


@cache
def sentences(seed, domain="movies"):
    """To learn from, all there are; the first 200 for validation and the first 400 for the test."""
    parts = {part: pl.lab.sentiment(domain, part, seed=seed) for part in ("train", "validation", "test")}
    return (
        parts["train"],
        by_length(parts["validation"].select(range(200))),
        by_length(parts["test"].select(range(400))),
    )


@cache
def untouched():
    return retrieval(*pl.lab.load_base("minilm-l6"), articles=30)


def fit_and_test(model, encoder, tokenizer, config, domain="movies", **more):
    """Train as the configuration says; quality on validation and test, and what is kept of retrieval."""
    learn, validation, test = sentences(config["seed"], domain)
    learn, collate = learn.select(range(config["sentences"])), texts(tokenizer, max_length=32)
    how = {"steps": config["steps"], "lr": config["lr"], "batch_size": 16, "seed": config["seed"], "progress": False}
    trained = train(model, learn, collate, **how, **more)
    return {
        "train_loss": sum(trained.losses[-10:]) / len(trained.losses[-10:]),
        "validation": evaluate(model, validation, collate, 40).accuracy,
        "test": evaluate(model, test, collate, 40).accuracy,
        "always_the_commoner": max(test["label"].count(0), test["label"].count(1)) / len(test),
        "retrieval": retrieval(encoder, tokenizer, articles=30),
        "retrieval_before": untouched(),
    }


def run(config, device):
    encoder, tokenizer = pl.lab.load_base("minilm-l6")
    torch.manual_seed(config["seed"])
    model = pl.lab.MeanPoolClassifier(encoder, num_labels=2)
    put_on(model, config["method"])
    model.to(device)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"trainable": trained} | fit_and_test(model, encoder, tokenizer, config)
