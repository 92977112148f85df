"""What the tests of the methods share: a tiny model with a method on it, ours and `peft`'s, and what it answers."""
import peft
import torch
from tiny import fill, tiny

from peftlab.files import tensors

EXACT = 1e-6                                                 # the largest difference that counts as equal in float32


def ours(spec, arch, salt="", name="a", model=None):
    """A tiny model with the method on it, every tensor filled from its name in the file."""
    model = spec.attach(tiny(arch) if model is None else model, arch, name)
    fill(tensors(model, name), salt)
    return model


def theirs(spec, arch, salt="", model=None):
    """The same from `peft`, filled from the names of its own file."""
    model = peft.get_peft_model(tiny(arch, **spec.base_in_peft) if model is None else model, spec.peft_config(arch)).eval()
    state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    fill(state, salt)
    peft.set_peft_model_state_dict(model, state)
    if hasattr(spec.method, "drop_encoder"):                       # its file holds what a network made, not the network
        fill(dict(model.prompt_encoder["default"].named_parameters()), "a")
    return told(spec, model)


def told(spec, model):
    """`peft` wants to be told the task of every row; ours is the first, if not told otherwise."""
    if "num_tasks" in spec.options:
        model.register_forward_pre_hook(lambda _, args, kw: (
            args, {**kw, "task_ids": torch.zeros(len(kw["input_ids"]), dtype=torch.long)}), with_kwargs=True)
    return model


@torch.no_grad()
def logits(model, inputs):
    """The logits of the text itself: `peft` returns those of its prompt as well."""
    inputs = {k: v for k, v in inputs.items() if k != "labels"}
    out = model(**inputs).logits
    return out[:, -inputs["input_ids"].shape[1]:] if out.dim() == 3 else out


def losses(model, inputs, steps=20):
    """The losses of some AdamW steps in train mode (the tiny models have no dropout)."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    found = []
    for _ in range(steps):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    model.eval()
    return torch.tensor(found)
