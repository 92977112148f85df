"""A sentence vector from an encoder, and a classifier on top of it."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput


def mean_pool(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean of the hidden states of the real tokens: (batch, tokens, width), (batch, tokens) -> (batch, width)."""
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (batch, tokens, 1)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


class MeanPoolClassifier(nn.Module):
    """An encoder, the mean over its tokens, and one linear layer: logits (batch, num_labels).

    `classifier` is the head; it starts as nn.Linear starts, drawn from torch's generator.
    """

    def __init__(self, encoder: nn.Module, num_labels: int = 2):
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        self.classifier = nn.Linear(encoder.config.hidden_size, num_labels).to(encoder.device, encoder.dtype)

    def forward(self, input_ids, attention_mask, labels=None, **kwargs):
        """`.logits` (batch, num_labels), and `.loss`, the mean cross-entropy, when labels (batch,) are given."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        logits = self.classifier(mean_pool(hidden, attention_mask))
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


@torch.no_grad()
def embed(model: nn.Module, tokenizer, texts: list[str], batch_size: int = 64) -> torch.Tensor:
    """One unit vector for each text: (len(texts), width), on the CPU in float32, mean-pooled over at most 256 tokens.

    `model` is an encoder or a MeanPoolClassifier, and is left in the mode it came in.
    """
    encoder, mode = getattr(model, "encoder", model) if isinstance(model, MeanPoolClassifier) else model, model.training
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # like lengths together: little padding
    vectors = [None] * len(texts)
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            batch = tokenizer(
                [texts[i] for i in index], padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            batch = batch.to(next(encoder.parameters()).device)
            pooled = mean_pool(encoder(**batch).last_hidden_state, batch["attention_mask"])
            for i, vector in zip(index, F.normalize(pooled.float(), dim=1).cpu()):
                vectors[i] = vector
    finally:
        model.train(mode)
    return torch.stack(vectors)
