"""What a step costs here and in `peft`, in one process and in turn: every method of `peftlab.lab.bench`, on both models.

`step` and `generated_token` are medians over rounds of the ratio ours / peft; `bytes_saved` and `multiplications` are ratios that
no clock enters. `of_floor` is how much of our step its multiplications alone would take, at the rate at which this device
multiplies large matrices, measured beside it: what is missing to 1 is everything else there is to do.
"""

import torch

import peftlab as pl
from peftlab.lab import bench
from peftlab.lab.clock import Stopwatch

USES = ("minilm-l6", "smollm2-135m")
ROUNDS = {"minilm-l6": 15, "smollm2-135m": 5}


def plan(toy=False):
    tables = {"minilm-l6": bench.ENCODER, "smollm2-135m": bench.DECODER}
    return [
        {"base": base, "method": method, "texts": 4, "tokens": 64, "rounds": 1 if toy else rounds, "seed": 0}
        for base, rounds in list(ROUNDS.items())[: 1 if toy else None]
        for method in list(tables[base])[: 2 if toy else None]
    ]


def matrix_rate(device, size=None):
    """Multiplications a second of one large matrix with another, in float32: the best of some tries."""
    size = size or (8192 if torch.device(device).type == "cuda" else 1024)
    a, watch = torch.randn(size, size, device=device), Stopwatch(device)
    seconds = []
    for _ in range(8):
        watch.lap()
        a @ a
        seconds.append(watch.lap())
    return size**3 / min(seconds)


def run(config, device):
    base, tokenizer = pl.lab.load_base(config["base"])
    base.to(device)
    torch.manual_seed(config["seed"])
    batch = bench.batch_of(base, tokenizer, config["texts"], config["tokens"])
    row = bench.compare(base, *bench.table_of(base)[config["method"]], batch, config["rounds"])
    found = {name.replace(" ", "_"): value for name, value in row.items() if name not in ("seconds", "multiplied")}
    return found | {"step_seconds": row["seconds"], "of_floor": row["multiplied"] / matrix_rate(device) / row["seconds"]}
