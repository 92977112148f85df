"""What an update looks like inside: singular values, new leading directions, and what becomes of them scaled down.

Full fine-tuning and LoRA of several ranks, on polyglot-350k (Italian, Turkish) and minilm-l6 (film sentences), a learning
rate each that did well in languages-learnt-and-lost and small-and-strong, and for full and LoRA of rank 8 a lower one.

An intruder is a leading direction of the new weight, one of its `TOP` strongest, that points nowhere the old weight did: its
cosine with every left singular vector of the old one is below `NEW` (Shuttleworth et al., arXiv 2410.21228). On polyglot
their singular values are scaled by each of `SCALES`, and for comparison the whole update is.
"""

import torch

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.experiments import small_and_strong as films
from peftlab.lab.training import answers, evaluate, texts, train
from peftlab.methods import LoRA

USES = ("polyglot-350k", "minilm-l6", "four-domains")
RATES = {
    "polyglot-350k": {"full": [0.001, 0.003], "lora-1": [0.03], "lora-8": [0.003, 0.01], "lora-32": [0.01]},
    "minilm-l6": {"full": [0.0001, 0.0003], "lora-8": [0.001, 0.003]},
}
STEPS = {"it": 120, "tr": 200, "movies": 64}
TOP, NEW, KEPT = 10, 0.5, 32  # leading directions looked at, the cosine below which one is new, singular values written down
SCALES = [0.0, 0.25, 0.5, 0.75]  # at 1 nothing is taken away


def plan(toy=False):
    seeds = range(1 if toy else 5)
    tasks = [("polyglot-350k", "it"), ("polyglot-350k", "tr"), ("minilm-l6", "movies")]
    return [
        {"model": name, "task": task, "method": method, "lr": lr, "steps": 3 if toy else STEPS[task], "seed": seed}
        for seed in seeds
        for name, task in tasks
        for method, rates in RATES[name].items()
        for lr in rates[: 1 if toy else None]
    ]


def matrices(model):
    """{path: linear layer} inside the blocks of either model."""
    return {path: m for path, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".layer" in path}


def weights(model):
    return {path: layer.weight.detach().clone() for path, layer in matrices(model).items()}


def put_on(model, method, **more):
    if method == "full":
        model.requires_grad_(True)
    else:
        rank = int(method.removeprefix("lora-"))
        pl.attach(model, LoRA, list(matrices(model)), r=rank, lora_alpha=2 * rank, **more)


def learn(config, device):
    """The trained model, merged, what scores it, and its weights before."""
    seed = config["seed"]
    how = {"steps": config["steps"], "lr": config["lr"], "seed": seed, "progress": False}
    torch.manual_seed(seed)
    model, tokenizer = pl.lab.load_base(config["model"])
    if config["model"] == "minilm-l6":
        encoder, model = model, pl.lab.MeanPoolClassifier(model, num_labels=2)
        rows, _, test = films.sentences(seed)
        data, collate, how["batch_size"] = rows.select(range(256)), texts(tokenizer, max_length=32), 16
        before, more = weights(model), {"modules_to_save": ["classifier"]}

        def scores():
            return {"learnt": evaluate(model, test, collate, 40).accuracy, "kept": pl.lab.retrieval(encoder, tokenizer, articles=30)}
    else:
        data, collate, how["batch_size"] = polyglot.dataset(config["task"]), answers(tokenizer), 32
        before, more = weights(model), {}

        def scores():
            old = [polyglot.accuracy(model, tokenizer, language) for language in polyglot.KNOWN]
            return {"learnt": polyglot.accuracy(model, tokenizer, config["task"]), "kept": sum(old) / len(old)}

    put_on(model, config["method"], **more)
    train(model.to(device), data, collate, **how)
    if config["method"] != "full":
        pl.merge(model)
    return model, scores, before


def look(old, new):
    """(ranks for nine tenths, size beside the weight's, singular values over their root sum of squares, intruders) of one matrix.

    intruders: [(u (d_out,), sigma, v (d_in,))] of the new weight.
    """
    update = new - old
    sigma = torch.linalg.svdvals(update)
    held = sigma.square().cumsum(0) / sigma.square().sum()
    before, (U, S, Vh) = torch.linalg.svd(old, full_matrices=False)[0], torch.linalg.svd(new, full_matrices=False)
    alike = (before.T @ U[:, :TOP]).abs().amax(0)
    intruders = [(U[:, i], S[i], Vh[i]) for i in range(TOP) if alike[i] < NEW]
    return int((held < 0.9).sum()) + 1, (update.norm() / old.norm()).item(), (sigma / sigma.norm())[:KEPT].tolist(), intruders


@torch.no_grad()
def run(config, device):
    with torch.enable_grad():
        model, scores, before = learn(config, device)
    new, found = weights(model), {}
    before = {path: W.to(device) for path, W in before.items()}
    seen = {path: look(before[path], W) for path, W in new.items()}
    count, spectra = len(seen), torch.tensor([spectrum for _, _, spectrum, _ in seen.values()])
    found |= scores()
    found |= {
        "matrices": count,
        "ranks": sum(ranks for ranks, *_ in seen.values()) / count,
        "size": sum(size for _, size, _, _ in seen.values()) / count,
        "spectrum": [round(value, 5) for value in spectra.mean(0).tolist()],
        "intruders": sum(len(intruders) for *_, intruders in seen.values()),
    }
    if config["model"] == "polyglot-350k":
        parts = {
            "intruders": {path: sum(s * torch.outer(u, v) for u, s, v in seen[path][3]) for path in new},
            "update": {path: W - before[path] for path, W in new.items()},
        }
        for name, part in parts.items():
            for scale in SCALES:
                for path, W in new.items():
                    model.get_submodule(path).weight.copy_(W - (1 - scale) * part[path])
                found |= {f"{score}_{name}_{scale:g}": value for score, value in scores().items()}
    return found
