"""How many random directions a task needs: polyglot-350k moved along d of them only, against training every parameter.

Two tasks: Spanish asked for without a tag (known, to be called up) and Italian (new). Each d and full fine-tuning with
two learning rates; `train_loss`, not the test, is there to choose between them. After Aghajanyan et al., arXiv 2012.13255.
"""

import torch
from torch import nn
from torch.func import functional_call

import peftlab as pl
from peftlab.lab import polyglot
from peftlab.lab.training import answers, train

USES = ("polyglot-350k",)
TAGS = {"es": polyglot.UNTAGGED, "it": "it"}
DIMENSIONS = {"es": [4, 16, 64, 256, 1024], "it": [64, 256, 1024, 4096, 16384]}
RATES = {"subspace": [0.1, 0.3], "full": [0.001, 0.003]}


def plan(toy=False):
    seeds, steps = (range(1), 2) if toy else (range(5), 100)
    return [
        {"target": target, "d": d, "lr": lr, "steps": steps, "seed": seed}
        for seed in seeds
        for target, dimensions in DIMENSIONS.items()
        for d in ["all", *(dimensions[:1] if toy else dimensions)]
        for lr in RATES["full" if d == "all" else "subspace"]
    ]


class Moved(nn.Module):
    """A frozen model and d numbers `z`, all that is trained: it runs with the weights `start + move(z)`.

    move: gives {name: change} for a z of shape (d,), zero for z = 0.
    """

    def __init__(self, model, move, d):
        super().__init__()
        object.__setattr__(self, "model", model.requires_grad_(False))  # a plain reference: not ours to train
        self.move, self.z = move, nn.Parameter(torch.zeros(d))

    def weights(self):
        changes = self.move(self.z)
        return {name: start + changes[name] for name, start in self.model.named_parameters()}

    def forward(self, **batch):
        return functional_call(self.model, self.weights(), kwargs=batch)

    @torch.no_grad()
    def settle(self):
        """The model itself, with the weights where z has led them."""
        for name, weight in self.weights().items():
            self.model.get_parameter(name).copy_(weight)
        self.z.zero_()
        return self.model


def subspace(shapes, d, seed):
    """A random linear map from z (d,) to {name: change}: each parameter listens to one coordinate, with a sign."""
    draw = torch.Generator().manual_seed(seed)
    total = sum(shape.numel() for shape in shapes.values())
    listens = {name: torch.randint(d, shape, generator=draw) for name, shape in shapes.items()}
    factor = {n: (2 * torch.randint(2, s, generator=draw) - 1) * (d / total) ** 0.5 for n, s in shapes.items()}
    return lambda z: {name: factor[name] * z[listens[name]] for name in shapes}


def run(config, device):
    model, tokenizer = pl.lab.load_base("polyglot-350k")
    target, d, seed = config["target"], config["d"], config["seed"]
    data = polyglot.dataset(target, tag=TAGS[target])
    how = {"steps": config["steps"], "lr": config["lr"], "batch_size": 32, "seed": seed, "progress": False}
    if d == "all":
        trained = train(model.requires_grad_(True), data, answers(tokenizer), **how)
    else:
        moved = Moved(model, subspace({n: p.shape for n, p in model.named_parameters()}, d, seed), d)
        trained = train(moved, data, answers(tokenizer), **how)
        moved.settle()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_loss": sum(trained.losses[-10:]) / len(trained.losses[-10:]),
        "learnt": polyglot.accuracy(model, tokenizer, target, TAGS[target]),
    }
