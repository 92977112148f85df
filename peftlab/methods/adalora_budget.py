"""AdaLoRA's contest: how many triplets may stay on at a step, how much each matters, and which are switched off."""
import torch
from torch import nn


def budget(step, first, last, everything, goal):
    """How many triplets of all layers stay on: everything up to step `first`, then falling as a cubic to the goal at `last`."""
    return goal if step >= last else int((everything - goal) * (1 - (step - first) / (last - first)) ** 3 + goal)


class Scores(nn.Module):
    """|p * gradient| of every entry of A, B and E, how much the loss would feel it if it were gone, smoothed over the steps,
    and how much that varies; their product is what counts."""

    def __init__(self, parameters, beta1, beta2):
        super().__init__()
        self.beta1, self.beta2 = beta1, beta2
        for k, p in parameters.items():                      # {"A": (r, d_in), "B": (d_out, r), "E": (r, 1)}
            self.register_buffer(f"sensitivity_{k}", torch.zeros_like(p), persistent=False)
            self.register_buffer(f"uncertainty_{k}", torch.zeros_like(p), persistent=False)

    def update(self, parameters):
        """Take in the gradients of this step."""
        for k, p in parameters.items():
            mean, spread = getattr(self, f"sensitivity_{k}"), getattr(self, f"uncertainty_{k}")
            now = torch.zeros_like(p) if p.grad is None else (p * p.grad).abs()
            mean.mul_(self.beta1).add_(now, alpha=1 - self.beta1)
            spread.mul_(self.beta2).add_((now - mean).abs(), alpha=1 - self.beta2)

    def importance(self):
        """One number a triplet, (r, 1)."""
        A, B, E = (getattr(self, f"sensitivity_{k}") * getattr(self, f"uncertainty_{k}") for k in "ABE")
        return E + A.mean(1, keepdim=True) + B.mean(0)[:, None]


def choose(adapters, n):
    """Switch off the n least important triplets of all adapters."""
    if n > 0:
        threshold = torch.cat([a.scores.importance() for a in adapters]).flatten().kthvalue(n).values
        for a in adapters:
            a.kept.copy_(a.scores.importance() > threshold)
            a.lora_E.masked_fill_(~a.kept, 0.0)
