"""What a language model learns and what it loses, method by method: a format and forty invented facts, on smollm2-135m.

"format" is lesson 03's: capitals in double brackets, 24 questions to learn, twelve others asked. "facts" are forty invented capitals,
learnt by heart. Four methods, four learning rates each, a factor of about three apart, six seeds; choose a rate by the training loss. What was known before is measured with the
adapter on: the share of known facts still completed, and the loss on plain prose. Matrices are multiplied in `matmul`'s precision, as in
grid-minilm, with runs in float32, "ieee", beside them. `grid-smollm2-large` is the same for a GPU.
"""

from functools import cache

import torch

import peftlab as pl
from peftlab.lab import probes
from peftlab.lab.experiments.facts_learnt_and_lost import share
from peftlab.lab.experiments.grid_minilm import multiplied_in
from peftlab.lab.experiments.merge_in_four_bits import ASKED, TAUGHT, rows, written
from peftlab.lab.forgetting import switched_off, text_loss
from peftlab.lab.training import answers, train
from peftlab.methods import IA3, LoRA, PromptTuning

USES = ("smollm2-135m",)
TASKS = {"format": (12, 4), "facts": (25, 8)}  # steps, batch size
RATES = {
    "prompt-10": [0.01, 0.03, 0.1, 0.3],
    "ia3": [0.01, 0.03, 0.1, 0.3],
    "lora-8": [0.001, 0.003, 0.01, 0.03],
    "full": [0.00003, 0.0001, 0.0003, 0.001],
}


def plan(toy=False):
    runs = [
        {"task": task, "method": method, "lr": lr, "seed": seed, "steps": 2 if toy else steps, "matmul": "bf16"}
        for seed in range(1 if toy else 6)
        for task, (steps, _) in TASKS.items()
        for method, rates in RATES.items()
        for lr in rates
    ]
    return runs[::12] if toy else runs + [run | {"matmul": "ieee"} for run in runs[1:32:4]]


def put_on(model, method):
    """Attach a method by the name it has in RATES; "full" makes every parameter trainable in place."""
    if method == "full":
        model.requires_grad_(True)
    elif method == "prompt-10":
        pl.attach(model, PromptTuning, num_virtual_tokens=10, prompt_tuning_init="SAMPLE_VOCAB")
    elif method == "ia3":
        pl.attach(model, IA3, ["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
    else:
        pl.attach(model, LoRA, "all-linear", r=8, lora_alpha=16)


def learnt(model, tokenizer, task):
    """How much of the task is done: shares of the twelve questions answered in the format, and rightly, or of the forty facts."""
    if task == "facts":
        return {"learnt": share(probes.completed(model, tokenizer, probes.read("invented")))}
    said = written(model, tokenizer)
    return {
        "learnt": share([text.startswith("[[") and text.endswith("]]") for text in said]),
        "right": share([name in text for name, text in zip(ASKED.values(), said)]),
    }


def kept(model, tokenizer):
    """What it knew before: share of the known facts completed, loss on plain prose in nats per token."""
    facts = [row for row in probes.read("facts") if row["known"]]
    prose = [row["text"] for row in probes.read("general")]
    return {"known": share(probes.completed(model, tokenizer, facts)), "prose": text_loss(model, tokenizer, prose)}


@torch.no_grad()
def logits(model, tokenizer):
    return model(**tokenizer("The baker on our street opens before", return_tensors="pt").to(model.device)).logits.cpu()


def base():
    return pl.lab.load_base("smollm2-135m", attn_implementation="eager")  # the faster one where batches are small


@cache
def untouched(task, precision):
    model, tokenizer = base()
    return learnt(model, tokenizer, task) | kept(model, tokenizer), logits(model, tokenizer)


def run(config, device):
    with multiplied_in(config["matmul"]):
        return measured(config, device)


def measured(config, device):
    """Train as the configuration says; what was learnt of the task, and what is kept."""
    task, seed = config["task"], config["seed"]
    _, batch_size = TASKS[task]
    before, untaught = untouched(task, config["matmul"])
    model, tokenizer = base()
    torch.manual_seed(seed)
    put_on(model, config["method"])
    model.to(device)
    data = probes.to_learn(probes.read("invented")) if task == "facts" else rows(TAUGHT)
    how = {"steps": config["steps"], "lr": config["lr"], "batch_size": batch_size, "seed": seed, "progress": False}
    trained = train(model, data, answers(tokenizer, chat=task == "format"), **how)
    model.eval()
    found = learnt(model, tokenizer, task) | kept(model, tokenizer) | {f"{k}_before": v for k, v in before.items()}
    found["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found["train_loss"] = sum(trained.losses[-5:]) / len(trained.losses[-5:])
    if config["method"] != "full":
        with switched_off(model):
            found["off_differs"] = (logits(model, tokenizer) - untaught).abs().max().item()
    return found
