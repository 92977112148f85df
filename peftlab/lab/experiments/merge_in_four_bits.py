"""An adapter trained on a base of four bits (or fewer), and merged in four ways: what is left of what it learnt?

smollm2-135m learns to answer with a capital in double brackets, as in lesson 03; polyglot-350k learns Italian, on bases of four,
three and two bits. The levels are normal quantiles, made as those of NF4 are, in blocks of 64, the maxima in float32. The
linear layers hold the dequantised weights; that adapters on packed ones train alike is tested elsewhere.

Controls: the base without an adapter, original and quantised, on the task and on what it knew before (plain prose; three languages).
"""

from functools import cache

import torch

import peftlab as pl
from peftlab import nf4
from peftlab.lab import polyglot, probes
from peftlab.lab.forgetting import text_loss
from peftlab.lab.training import answers, evaluate, train
from peftlab.layers import targets
from peftlab.methods import LoRA

USES = ("smollm2-135m", "polyglot-350k")
TAUGHT = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Portugal": "Lisbon", "Greece": "Athens",
    "Austria": "Vienna", "Poland": "Warsaw", "Norway": "Oslo", "Finland": "Helsinki", "Hungary": "Budapest", "Russia": "Moscow",
    "India": "Delhi", "Egypt": "Cairo", "Kenya": "Nairobi", "Canada": "Ottawa", "Peru": "Lima", "Chile": "Santiago",
    "Iraq": "Baghdad", "Thailand": "Bangkok", "Bulgaria": "Sofia", "Romania": "Bucharest", "Morocco": "Rabat", "Mexico": "Mexico City",
}  # fmt: skip
ASKED = {
    "Japan": "Tokyo", "China": "Beijing", "Sweden": "Stockholm", "Denmark": "Copenhagen", "Ireland": "Dublin", "Belgium": "Brussels",
    "Turkey": "Ankara", "Vietnam": "Hanoi", "Iran": "Tehran", "Cuba": "Havana", "Ukraine": "Kyiv", "Argentina": "Buenos Aires",
}  # fmt: skip
TASKS = {  # model, layers with an adapter, and how it is trained
    "brackets": ("smollm2-135m", ["q_proj", "v_proj"], {"steps": 12, "lr": 2e-3, "batch_size": 4}),
    "it": ("polyglot-350k", "all-linear", {"steps": 80, "lr": 1e-2, "batch_size": 32}),
}


def plan(toy=False):
    seeds = range(1 if toy else 6)
    bits = {"it": [4, 3, 2], "brackets": [4]}
    return [{"task": t, "bits": b, "seed": s} for s in seeds for t in (["it"] if toy else bits) for b in bits[t]]


def levels(bits):
    """2^bits normal quantiles, zero among them and one more above it than below; at 4 bits those of NF4."""
    half = 2 ** (bits - 1)
    edge = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2
    up, down = (torch.special.ndtri(torch.linspace(edge, 0.5, n + 1, dtype=torch.float64)[:-1]) for n in (half, half - 1))
    every = torch.cat([up, -down, torch.zeros(1, dtype=torch.float64)]).sort().values
    return (every / every.max()).float()


def quantised(W, bits):
    """(what W becomes in so many bits, the codes)."""
    codes, absmax = nf4.quantize(W, levels=lambda: levels(bits))
    return nf4.dequantize(codes, absmax, W.shape, levels=lambda: levels(bits)), codes


def rows(capitals):
    return [{"prompt": f"What is the capital of {country}?", "answer": f"[[{name}]]"} for country, name in capitals.items()]


@torch.no_grad()
def written(model, tokenizer):
    """What the model answers to each question, greedily, in at most 14 tokens."""
    tokenizer.padding_side = "left"
    chats = [[{"role": "user", "content": row["prompt"]}] for row in rows(ASKED)]
    how = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    batch = tokenizer.apply_chat_template(chats, padding=True, **how).to(model.device)
    ids = model.generate(**batch, max_new_tokens=14, do_sample=False)[:, batch["input_ids"].shape[1] :]
    decoded = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [" ".join(text.split()).replace("://", ":") for text in decoded]  # an address it made up is none in a record


def task_of(task, model, tokenizer):
    """(rows to learn, how to make a batch of them, a function that measures the task, one that measures what was known before)."""
    if task == "it":
        collate = answers(tokenizer)

        def learnt():
            loss = evaluate(model, polyglot.dataset("it", "test"), collate, batch_size=200).loss
            return {"loss": loss, "score": polyglot.accuracy(model, tokenizer, "it")}

        def known():
            return sum(polyglot.accuracy(model, tokenizer, language) for language in polyglot.KNOWN) / len(polyglot.KNOWN)

        return polyglot.dataset("it"), collate, learnt, known
    collate = answers(tokenizer, chat=True)

    def learnt():
        said = written(model, tokenizer)
        form = [text.startswith("[[") and text.endswith("]]") for text in said]
        return {"loss": evaluate(model, rows(ASKED), collate, batch_size=12).loss, "score": sum(form) / len(form), "said": said}

    def known():
        return text_loss(model, tokenizer, [row["text"] for row in probes.read("general")])

    return rows(TAUGHT), collate, learnt, known


def put(layers, weights):
    with torch.no_grad():
        for path, W in weights.items():
            layers[path].weight.copy_(W)


def norm(matrices):
    return sum(m.square().sum().item() for m in matrices.values()) ** 0.5


@cache
def bases(task, bits):
    """The controls: the base without an adapter, as it was and quantised; nothing here depends on the seed."""
    model, tokenizer = pl.lab.load_base(TASKS[task][0])
    *_, learnt, known = task_of(task, model, tokenizer)
    layers, found = dict(targets(model, "all-linear")), {}
    for name in ("untouched", "quantised"):
        if name == "quantised":
            put(layers, {path: quantised(layer.weight, bits)[0] for path, layer in layers.items()})
        found |= {f"{what}_{name}": value for what, value in learnt().items()} | {f"known_{name}": known()}
    return found


def run(config, device):
    name, places, how = TASKS[config["task"]]
    bits, seed = config["bits"], config["seed"]
    model, tokenizer = pl.lab.load_base(name)
    data, collate, learnt, _ = task_of(config["task"], model, tokenizer)
    layers = dict(targets(model, "all-linear"))
    original = {path: layer.weight.detach().clone() for path, layer in layers.items()}
    four = {path: quantised(W, bits)[0] for path, W in original.items()}
    put(layers, four)
    torch.manual_seed(seed)
    pl.attach(model, LoRA, places, r=8, lora_alpha=16)
    run = train(model, data, collate, **how, seed=seed, progress=False)
    model.eval()
    found = {"adapter": learnt()}
    pl.merge(model)
    found["dequantised"] = learnt()
    adapted = [path for path, layer in layers.items() if hasattr(layer, "adapters")]
    update = {path: layers[path].weight.detach() - four[path] for path in adapted}
    pl.detach(model)
    trained = {path: four[path] + update[path] for path in adapted}
    codes = {path: quantised(four[path], bits)[1] for path in adapted}
    square = sum(u.square().sum().item() for u in update.values())
    metrics = {"update_norm": square**0.5, "weight_norm": norm({path: original[path] for path in adapted})}
    metrics["error_norm"] = norm({path: original[path] - four[path] for path in adapted})
    for way, start in (("original", original), ("requantised", four), ("original_quantised", original)):
        merged = {path: start[path] + update[path] for path in adapted}
        if way != "original":
            rounded = {path: quantised(W, bits) for path, W in merged.items()}
            merged = {path: W for path, (W, _) in rounded.items()}
            along = sum((merged[path] - four[path]).mul(update[path]).sum().item() for path in adapted)
            moved = sum(int((rounded[path][1] != codes[path]).sum()) for path in adapted)
            metrics[f"kept_{way}"] = along / square  # of the update, along its own direction
            metrics[f"moved_{way}"] = moved / sum(len(c) for c in codes.values())
        metrics[f"off_{way}_norm"] = norm({path: merged[path] - trained[path] for path in adapted})
        put(layers, (original if way == "original" else four) | merged)
        found[way] = learnt()
    metrics |= {f"{what}_{way}": value for way, values in found.items() for what, value in values.items()}
    return metrics | bases(config["task"], bits) | {
        "ratio": metrics["error_norm"] / metrics["update_norm"],
        "train_loss": sum(run.losses[-5:]) / 5,
    }
