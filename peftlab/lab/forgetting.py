"""What was lost while something else was learnt: few formulas, each easy to get wrong.

R is a table of T tasks learnt one after another: R[i][j] is how well the model does task j after learning task i, so the
diagonal is each task just after it was learnt. Lopez-Paz and Ranzato (arXiv 1706.08840) and Chaudhry et al. (1801.10112).
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F

import peftlab as pl
from peftlab.lab.training import training_mode


@contextmanager
def switched_off(model):
    """Inside, the base model runs; afterwards the adapters that ran before. Nothing else of the model changes."""
    active = model.switch.active
    pl.use(model)
    try:
        yield model
    finally:
        pl.use(model, *active)


@torch.no_grad()
def text_loss(model, tokenizer, passages, batch_size=8):
    """Mean loss in nats per token over `passages`: each place predicts the token after it, padding does not count."""
    total, count = 0.0, 0
    with training_mode(model, False):
        for start in range(0, len(passages), batch_size):
            batch = tokenizer(passages[start : start + batch_size], padding=True, padding_side="right", return_tensors="pt")
            batch = batch.to(model.device)
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)[:, 1:]
            logits = model(**batch).logits[:, -labels.shape[1] - 1 : -1]  # virtual tokens come first
            total += F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum").item()
            count += (labels != -100).sum().item()
    return total / count


def backward_transfer(R):
    """Mean over all tasks but the last of (at the end - just after it was learnt): negative where learning cost skill."""
    last = len(R) - 1
    return sum(R[last][j] - R[j][j] for j in range(last)) / last


def average_forgetting(R):
    """Mean over all tasks but the last of (the best it ever was before the last task - at the end)."""
    last = len(R) - 1
    return sum(max(row[j] for row in R[:last]) - R[last][j] for j in range(last)) / last
