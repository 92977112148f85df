"""What a method learns of a language, and what it costs the languages the model knew: polyglot-350k, on the CPU.

Three targets: Spanish asked for without a tag (known: it has to be called up), Italian (new, related), Turkish (new, far).
Every method with three learning rates; full fine-tuning with four, down to where it hardly learns. A model of the Llama
family has no biases: "bias" gives every linear layer one that starts at zero. Measured with the adapter on, and off.
"""

from functools import cache

import torch
from torch import nn

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.training import answers, evaluate, train
from peftlab.layers import targets
from peftlab.methods import IA3, BitFit, LNTuning, LoRA, PrefixTuning, PromptTuning, TrainableTokens

USES = ("polyglot-350k",)
TAGS = {"es": polyglot.UNTAGGED, "it": "it", "tr": "tr"}
NORMS = ["input_layernorm", "post_attention_layernorm", "norm"]
RATES = {
    "tag": [0.1, 0.3, 1.0],
    "prompt": [0.01, 0.03, 0.1],
    "prefix": [0.1, 0.3, 1.0],
    "bias": [0.03, 0.1, 0.3],
    "norms": [0.03, 0.1, 0.3],
    "ia3": [0.03, 0.1, 0.3],
    "lora-1": [0.003, 0.01, 0.03],
    "lora-8": [0.001, 0.003, 0.01],
    "full": [0.0001, 0.0003, 0.001, 0.003],
}


def plan(toy=False):
    seeds, steps = (range(1), 3) if toy else (range(6), 120)
    return [
        {"target": target, "method": method, "lr": lr, "steps": steps, "seed": seed}
        for seed in seeds
        for target in (["it"] if toy else TAGS)
        for method, rates in RATES.items()
        for lr in (rates[:1] if toy else rates)
    ]


def give_biases(model):
    """A bias of zero for every linear layer but the output layer: the model computes what it computed before."""
    for _, layer in targets(model, "all-linear"):
        layer.bias = nn.Parameter(torch.zeros(layer.out_features))


def put_on(model, tokenizer, method, target):
    """Attach a method by the name it has in RATES; "full" makes every parameter trainable in place."""
    if method == "tag":
        row = tokenizer.convert_tokens_to_ids(f"<{TAGS.get(target, target)}>")
        pl.attach(model, TrainableTokens, ["embed_tokens"], token_indices=[row])
    elif method.startswith("prompt"):
        length = int(method.partition("-")[2] or 10)
        pl.attach(model, PromptTuning, num_virtual_tokens=length, prompt_tuning_init="SAMPLE_VOCAB")
    elif method == "prefix":
        pl.attach(model, PrefixTuning, num_virtual_tokens=10)
    elif method == "bias":
        give_biases(model)
        pl.attach(model, BitFit, "all-linear")
    elif method == "norms":
        pl.attach(model, LNTuning, NORMS)
    elif method == "ia3":
        pl.attach(model, IA3, ["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
    elif method == "full":
        model.requires_grad_(True)
    else:
        rank = int(method.removeprefix("lora-"))
        pl.attach(model, LoRA, "all-linear", r=rank, lora_alpha=2 * rank)


def skills(model, tokenizer, languages):
    """Share of the 200 unseen numbers written without a wrong letter, and nats per letter, each language by its tag."""
    test = {language: polyglot.dataset(language, "test") for language in languages}
    return {f"accuracy_{language}": polyglot.accuracy(model, tokenizer, language) for language in languages} | {
        f"loss_{language}": evaluate(model, rows, answers(tokenizer), 200).loss for language, rows in test.items()
    }


@cache
def untouched():
    return skills(*pl.lab.load_base("polyglot-350k"), tuple(polyglot.KNOWN))


def run(config, device):
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(config["seed"])
    put_on(model, tokenizer, config["method"], config["target"])
    model.to(device)
    tag = TAGS.get(config["target"], config["target"])
    data = polyglot.dataset(config["target"], tag=tag)
    how = {"steps": config["steps"], "lr": config["lr"], "batch_size": 32, "seed": config["seed"], "progress": False}
    trained = train(model, data, answers(tokenizer), **how)

    found = skills(model, tokenizer, tuple(polyglot.KNOWN)) | {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "train_loss": sum(trained.losses[-10:]) / len(trained.losses[-10:]),
        "learnt": polyglot.accuracy(model, tokenizer, config["target"], tag),
    }
    for name, value in untouched().items():
        found[f"{name}_before"] = value
    if config["method"] != "full":
        pl.use(model)
        found |= {f"{name}_off": value for name, value in skills(model, tokenizer, tuple(polyglot.KNOWN)).items()}
    return found
