"""LoRA beside rsLoRA, DoRA, LoRA+ and AdaLoRA on polyglot-350k, which learns Italian; each at its own best learning rate.

Rank 8 for all; LoRA also with other ranks, rsLoRA with 32. rsLoRA: arXiv 2312.03732; DoRA: 2402.09353; LoRA+: 2402.12354, B
learns at `ratio` times the rate of A; AdaLoRA: 2303.10512, from 6 triplets a layer down to 3 on average, beside LoRA of
rank 3. `lr` is the rate of A. `early` is the loss of steps 20 to 30, `train_loss` that of the last ten, both without AdaLoRA's
penalty.
"""

import torch

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.training import answers, own_loss, rows_of, schedule, train, training_mode
from peftlab.methods import AdaLoRA, DoRA, LoRA

USES = ("polyglot-350k",)
KINDS = {  # name -> (method, options, how many times as fast B learns, learning rates)
    "LoRA": (LoRA, {"r": 8}, 1, [0.003, 0.01, 0.03]),
    "rsLoRA": (LoRA, {"r": 8, "use_rslora": True}, 1, [0.001, 0.003, 0.0055, 0.01, 0.03]),
    "DoRA": (DoRA, {"r": 8}, 1, [0.003, 0.01, 0.03]),
    "LoRA, r = 3": (LoRA, {"r": 3}, 1, [0.003, 0.01, 0.03]),
    "LoRA, r = 32": (LoRA, {"r": 32}, 1, [0.003, 0.01, 0.03]),
    "rsLoRA, r = 32": (LoRA, {"r": 32, "use_rslora": True}, 1, [0.001, 0.003, 0.01]),
    "LoRA+, ratio 4": (LoRA, {"r": 8}, 4, [0.001, 0.003, 0.01, 0.03]),
    "LoRA+, ratio 16": (LoRA, {"r": 8}, 16, [0.0003, 0.001, 0.003, 0.01]),
    "AdaLoRA, 6 to 3": (AdaLoRA, {"init_r": 6, "target_r": 3}, 1, [0.01, 0.03, 0.1]),
}


def plan(toy=False):
    seeds, steps = (range(1), 3) if toy else (range(6), 80)
    return [
        {"kind": kind, "lr": lr, "ratio": ratio, "steps": steps, "seed": seed, **options}
        for seed in seeds
        for kind, (_, options, ratio, rates) in KINDS.items()
        for lr in rates[: 1 if toy else None]
    ]


def run(config, device):
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    method, options, ratio, _ = KINDS[config["kind"]]
    data, collate, steps, seed = polyglot.dataset("it"), answers(tokenizer), config["steps"], config["seed"]
    if method is AdaLoRA:
        options = options | {"tinit": steps // 8, "tfinal": steps // 4, "deltaT": max(1, steps // 16)}
    torch.manual_seed(seed)
    pl.attach(model, method, "all-linear", lora_alpha=16, **options)
    model.to(device)
    if method is AdaLoRA:
        losses = []

        def alone(model, batch):
            losses.append((value := own_loss(model, batch)).item())
            return value

        train(model, data, collate, steps=steps, lr=config["lr"], seed=seed, loss=alone, progress=False)
    else:
        losses = fit(model, faster_b(model.named_parameters(), config["lr"], ratio), data, collate, steps, seed)
    return {
        "trainable": pl.count(model).trainable,
        "early": sum(losses[20:30]) / len(losses[20:30]) if len(losses) > 29 else None,
        "train_loss": sum(losses[-10:]) / len(losses[-10:]),
        "learnt": polyglot.accuracy(model, tokenizer, "it"),
    }


def faster_b(named_parameters, lr, ratio):
    """The groups of LoRA+: whatever is trainable at `lr`, each lora_B at `ratio` times as much."""
    trainable = [(name, p) for name, p in named_parameters if p.requires_grad]
    return [
        {"params": [p for name, p in trainable if "lora_B" not in name], "lr": lr},
        {"params": [p for name, p in trainable if "lora_B" in name], "lr": lr * ratio},
    ]


def fit(model, groups, data, collate, steps, seed, batch_size=32):
    """Train parameter groups, each at its own rate, otherwise as `lab.training.train` does; returns the losses."""
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    rates = [group["lr"] for group in optimizer.param_groups]
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    losses = []
    with training_mode(model):
        for step in range(steps):
            rows = [data[i] for i in rows_of(step, len(data), batch_size, seed)]
            loss = own_loss(model, {key: value.to(trained[0].device) for key, value in collate(rows).items()})
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * schedule(step, steps, max(1, steps // 10))
            optimizer.step()
            losses.append(loss.item())
    return losses
