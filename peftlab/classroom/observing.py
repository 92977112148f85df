"""What the exercises share for looking at an answer: fresh inputs, gradients, things changed in place, small models."""

import torch
from torch import nn

from .exercise import Unexpected


def given(value, kind, name):
    """`value` if it is of the kind asked for, else a sentence that says what came instead."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds):
        came = "None (is a `return` reached, and is that what it gives?)" if value is None else article(type(value).__name__)
        raise Unexpected(f"{name} gave {came}; expected {article(' or '.join(k.__name__ for k in kinds))}.")
    return value


def article(noun):
    """`a Tensor`, `an int`."""
    return f"{'an' if noun[0] in 'aeiouAEIO' else 'a'} {noun}"


def pair(value, name, what):
    """A tuple or list of two tensors."""
    given(value, (tuple, list), name)
    if len(value) != 2:
        raise Unexpected(f"{name} gave {len(value)} things; expected two: {what}.")
    return tuple(given(v, torch.Tensor, name) for v in value)


def fresh(tensors, learn=()):
    """Copies of a dict of tensors; those named in `learn` ask for a gradient."""
    return {k: v.detach().clone().requires_grad_(k in learn) for k, v in tensors.items()}


def changed(before, after):
    """The names of the tensors whose values are no longer what they were."""
    return [k for k in before if before[k].shape != after[k].shape or not torch.equal(before[k], after[k].detach())]


def gradients(output, inputs, names, seed=0):
    """The gradient of a fixed random sum of `output` for each name: a tensor, or "none" where nothing arrived."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if output.requires_grad:
        (output * weights.to(output.dtype)).sum().backward()
    return {f"gradient of {k}": "none" if inputs[k].grad is None else inputs[k].grad.detach().clone() for k in names}


TINY = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def tiny_llama(seed):
    """A real `LlamaForCausalLM` with random weights, 2 layers, 16 wide: built in milliseconds, no download."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return shake(LlamaForCausalLM(LlamaConfig(**TINY, num_key_value_heads=1)).eval(), seed)


def tiny_bert(seed):
    """A real `BertModel` with random weights, 2 layers, 16 wide, biases not zero."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    return shake(BertModel(BertConfig(**TINY), add_pooling_layer=False).eval(), seed)


def shake(model, seed):
    """Weights large enough to matter and no bias at zero, so that a change anywhere shows in the output."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=draw))
    return model


class Residual(nn.Module):
    """A toy model whose layer names catch loose matching: `q_proj`, `q_proj_norm`, `old_q_proj`, two blocks deep."""

    def __init__(self, seed, width=6):
        super().__init__()
        torch.manual_seed(seed)
        names = ["q_proj", "q_proj_norm", "old_q_proj", "v_proj"]
        self.blocks = nn.ModuleList(nn.ModuleDict({n: nn.Linear(width, width) for n in names}) for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            for layer in block.values():
                x = x + torch.tanh(layer(x))
        return x
