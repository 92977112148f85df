"""Where a prompt starts and how fast it moves: three starts by five learning rates or six, six seeds, on the CPU.

Prompt tuning of ten tokens calls up Spanish in polyglot-350k, which is asked for without a tag. The starts: words, numbers from
N(0, 1), and the same numbers made as small as the embeddings' entries. "gated" is the prefix with a gate, on Italian, three seeds, twice the steps: is it its learning rate that
keeps it from learning?
"""

import torch

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.experiments.adapters_by_size import rows
from peftlab.lab.training import answers, train
from peftlab.methods import AdaptionPrompt, PromptTuning

USES = ("polyglot-350k",)
RATES = [0.001, 0.004, 0.016, 0.064, 0.256]
SPANISH = {"words": RATES, "N(0, 1)": [*RATES, 1.024], "small": RATES}
ITALIAN = {"gated": [0.03, 0.1, 0.3, 1.0]}


def plan(toy=False):
    return [
        {"seed": seed, "start": start, "lr": lr, "language": language, "steps": 3 if toy else steps}
        for seed in range(1 if toy else 6)
        for language, steps, starts in (("es", 60, SPANISH), ("it", 120, ITALIAN))
        for start, rates in starts.items()
        if language == "es" or seed < 3
        for lr in rates[: 1 if toy else None]
    ]


def put_on(model, tokenizer, start):
    """Attach a method by the name of its start; returns the prompt it starts with, where it has one."""
    if start == "gated":
        pl.attach(model, AdaptionPrompt, ["self_attn"], adapter_len=10)
        return None
    table = model.get_input_embeddings().weight.detach()
    pl.attach(model, PromptTuning, num_virtual_tokens=10)
    prompt = next(p for p in model.parameters() if p.requires_grad)
    ids = tokenizer("uno dos tres", add_special_tokens=False)["input_ids"]
    drawn = torch.randn(10, 96)
    with torch.no_grad():
        if start == "words":
            prompt.copy_(table[[ids[i % len(ids)] for i in range(10)]])
        else:
            prompt.copy_(drawn * (1 if start == "N(0, 1)" else table.std()))
    return prompt


def run(config, device):
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(config["seed"])
    prompt = put_on(model, tokenizer, config["start"])
    before = None if prompt is None else prompt.detach().clone()
    language = config["language"]
    tag = polyglot.UNTAGGED if language in polyglot.KNOWN else language
    data = [row | {"prompt": row["prompt"].replace(f"<{language}>", f"<{tag}>")} for row in rows(language)]
    model.to(device)
    how = {"steps": config["steps"], "lr": config["lr"], "seed": config["seed"], "progress": False}
    trained = train(model, data, answers(tokenizer), **how)
    found = {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "train_loss": sum(trained.losses[-10:]) / len(trained.losses[-10:]),
        "losses": trained.losses[::6],
        "accuracy": polyglot.accuracy(model, tokenizer, language, tag),
    }
    if prompt is not None:
        found["moved"] = (prompt.detach() - before).abs().mean().item()
    return found
