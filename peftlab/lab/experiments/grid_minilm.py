"""The flagship methods side by side on minilm-l6, in one domain at a time: quality, what is lost, and what it costs.

256 sentences, 36 steps of 16, six learning rates or more for each method, a factor of about three apart, six seeds; a rate is chosen
on validation sentences. The seed decides the split, the sentences drawn and the start of what is trained. `retrieval` is what
the model could do untaught, with the adapter on; `off_differs` is how far its embeddings are from the untouched model's with
the adapter off. Cost is counted, not timed. Two axes in the first domain: LoRA's rank, and the number of sentences.

On a processor matrices are multiplied in bfloat16 where it can (`matmul`), sums and weights stay float32; the same runs in
float32, "ieee", stand beside them for a control.
"""

import tempfile
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path

import torch

import peftlab as pl
from peftlab.lab.experiments.small_and_strong import BLOCKS, sentences
from peftlab.lab.forgetting import switched_off
from peftlab.lab.heads import embed
from peftlab.lab.texts import retrieval
from peftlab.lab.training import texts, train, training_mode
from peftlab.methods import IA3, BitFit, DoRA, Houlsby, LoRA, Pfeiffer

USES = ("minilm-l6", "four-domains")
DOMAINS = ["tweets", "products", "movies", "editorials"]
LADDER = [0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
QV = ["query", "value"]
LINEAR = r".*layer\.\d+\..*(query|key|value|dense)"  # every linear layer of every block


def lora(r, targets=QV, method=LoRA):
    return method, targets, {"r": r, "lora_alpha": 2 * r}


WAYS = {  # name -> ((method, where, options) or None, the first of its six rates)
    "head": (None, 0.001),
    "bitfit": ((BitFit, BLOCKS, {}), 0.0001),
    "ia3": ((IA3, ["key", "value", "intermediate.dense"], {}), 0.0003),
    "lora-8": (lora(8), 0.0001),
    "lora-8-all": (lora(8, LINEAR), 0.00003),
    "dora-8": (lora(8, method=DoRA), 0.0001),
    "pfeiffer-16": ((Pfeiffer, r".*layer\.\d+\.output\.LayerNorm", {"reduction_factor": 16}), 0.0001),
    "houlsby-16": ((Houlsby, ["output.dense"], {"reduction_factor": 16}), 0.0001),
    "full": (None, 0.00001),
}
WIDENED = {"ia3": [0.3]}  # the best of its six was the highest
RANKS = {f"lora-{r}": (lora(r), 0.001) for r in (1, 2, 4, 16, 32, 64)}  # beside lora-8; three rates each
SIZES = {64: 24, 1024: 72, 2048: 128}  # sentences -> steps, beside 256; three rates each
OF_SIZES = {"head": 0.01, "bitfit": 0.001, "lora-8": 0.001, "full": 0.00003}


def rates(first, how_many=6):
    return LADDER[LADDER.index(first) :][:how_many]


def plan(toy=False):
    seeds = range(1 if toy else 6)
    runs = [
        one(domain, name, lr, seed)
        for seed in seeds
        for domain in DOMAINS[:2]
        for name, (_, first) in WAYS.items()
        for lr in rates(first) + WIDENED.get(name, [])
    ]
    runs += [
        one("tweets", name, lr, seed) for seed in seeds for name, (_, first) in RANKS.items() for lr in rates(first, 3)
    ]
    runs += [
        one("tweets", name, lr, seed, sentences, steps)
        for seed in seeds
        for sentences, steps in SIZES.items()
        for name, first in OF_SIZES.items()
        for lr in rates(first, 3)
    ]
    runs += [one("tweets", name, 0.001, 0, matmul="ieee") for name in WAYS]
    runs += [
        one(domain, name, lr, seed)
        for seed in seeds
        for domain in DOMAINS[2:]
        for name, (_, first) in WAYS.items()
        for lr in rates(first) + WIDENED.get(name, [])
    ]
    return [run | {"steps": 3} for run in runs[:54:6]] if toy else runs


def one(domain, method, lr, seed, sentences=256, steps=36, matmul="bf16"):
    return {
        "domain": domain,
        "method": method,
        "lr": lr,
        "seed": seed,
        "sentences": sentences,
        "steps": steps,
        "matmul": matmul,
    }


def put_on(model, method):
    """Attach a method by its name; the head learns along with each."""
    how, _ = (WAYS | RANKS)[method]
    if how:
        pl.attach(model, how[0], how[1], modules_to_save=["classifier"], **how[2])
    else:
        model.requires_grad_(method == "full").classifier.requires_grad_(True)


@contextmanager
def multiplied_in(precision):
    """Inside, a processor multiplies float32 matrices in this precision: "ieee", which is float32, or "bf16"."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


@cache
def loaded():
    return pl.lab.load_base("minilm-l6", attn_implementation="eager")  # the faster one where batches are small


def base():
    """A copy of the untouched encoder, and its tokenizer."""
    encoder, tokenizer = loaded()
    return deepcopy(encoder), tokenizer


@cache
def untouched(seed, domain):
    """(retrieval, embeddings of 40 test sentences) of the model before it learns."""
    encoder, tokenizer = base()
    return retrieval(encoder, tokenizer, articles=20), embed(
        encoder, tokenizer, sentences(seed, domain)[2]["text"][::10]
    )


@cache
def cost(method):
    """What a step on 16 sentences of 32 tokens takes, in multiplications and bytes, and the bytes of what is saved."""
    encoder, tokenizer = base()
    model = pl.lab.MeanPoolClassifier(encoder, num_labels=2)
    put_on(model, method)
    ids = torch.full((16, 32), tokenizer.unk_token_id)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros(16, dtype=torch.long)}
    counted, (forward, backward) = pl.count(model), pl.multiplications(model, **batch)
    with tempfile.TemporaryDirectory() as folder:
        if method not in ("head", "full"):
            pl.save(model, folder)
        saved = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")) or 4 * counted.trainable
    return {name: getattr(counted, name) for name in ("trainable", "gradients", "optimizer")} | {
        "forward": forward,
        "backward": backward,
        "activations": pl.saved_activations(model.train(), **batch),
        "file_bytes": saved,
    }


@torch.no_grad()
def predicted(model, rows, collate):
    with training_mode(model, False):
        batches = [
            collate([rows[i] for i in range(start, min(start + 40, len(rows)))]) for start in range(0, len(rows), 40)
        ]
        device = next(model.parameters()).device
        return torch.cat(
            [model(**{k: v.to(device) for k, v in batch.items()}).logits.argmax(-1).cpu() for batch in batches]
        )


def macro_f1(found, labels):
    """Mean over both labels of 2 TP / (2 TP + FP + FN): the rarer label counts as much as the other."""
    both = [2 * ((found == k) & (labels == k)).sum() / ((found == k).sum() + (labels == k).sum()) for k in (0, 1)]
    return (sum(both) / 2).item()


def run(config, device):
    with multiplied_in(config["matmul"]):
        return measured(config, device) | cost(config["method"])


def measured(config, device):
    """Train as the configuration says; quality on validation and test, and what is kept of retrieval."""
    encoder, tokenizer = base()
    torch.manual_seed(config["seed"])
    model = pl.lab.MeanPoolClassifier(encoder, num_labels=2)
    put_on(model, config["method"])
    model.to(device)
    learn, validation, test = sentences(config["seed"], config["domain"])
    learn, collate = learn.select(range(config["sentences"])), texts(tokenizer, max_length=32)
    how = {"steps": config["steps"], "lr": config["lr"], "batch_size": 16, "seed": config["seed"], "progress": False}
    trained = train(model, learn, collate, **how)
    labels, found = torch.tensor(test["label"]), predicted(model, test, collate)
    before, embeddings = untouched(config["seed"], config["domain"])
    if hasattr(model, "switch"):
        with switched_off(model):
            now = embed(encoder, tokenizer, test["text"][::10])
    else:
        now = embed(encoder, tokenizer, test["text"][::10])
    return {
        "train_loss": sum(trained.losses[-10:]) / len(trained.losses[-10:]),
        "validation": (predicted(model, validation, collate) == torch.tensor(validation["label"]))
        .float()
        .mean()
        .item(),
        "test": (found == labels).float().mean().item(),
        "macro_f1": macro_f1(found, labels),
        "always_the_commoner": max(test["label"].count(0), test["label"].count(1)) / len(test),
        "retrieval": retrieval(encoder, tokenizer, articles=20),
        "retrieval_before": before,
        "off_differs": (now - embeddings).abs().max().item(),
    }
