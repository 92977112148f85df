"""`grid-smollm2` at a size for a GPU: eight times the steps, six learning rates, in float32. `peftlab record grid-smollm2-large --device cuda`."""

from peftlab.lab.experiments import grid_smollm2
from peftlab.lab.experiments.grid_minilm import rates

USES = grid_smollm2.USES
LOWEST = {"prompt-10": 0.001, "ia3": 0.001, "lora-8": 0.00003, "full": 0.00001}


def plan(toy=False):
    runs = [
        {"task": task, "method": method, "lr": lr, "seed": seed, "steps": 2 if toy else 8 * steps, "matmul": "ieee"}
        for seed in range(1 if toy else 6)
        for task, (steps, _) in grid_smollm2.TASKS.items()
        for method, lowest in LOWEST.items()
        for lr in rates(lowest)
    ]
    return runs[::24] if toy else runs


run = grid_smollm2.run
