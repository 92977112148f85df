"""Methods that act inside attention: a function registered with transformers, in which adapters add to what the heads say."""
import inspect
from functools import partial

import torch

from peftlab.switch import in_its_precision, running

NAME = "peftlab"


def hook(model):
    """Have the model's attention layers ask their adapters, too. Raises ValueError where that cannot be arranged."""
    from transformers import (  # here, since importing transformers takes a while
        AttentionInterface,
        AttentionMaskInterface,
    )
    from transformers.masking_utils import sdpa_mask

    config = getattr(model, "config", None)
    if getattr(config, "_attn_implementation", None) not in ("sdpa", NAME):
        raise ValueError("this method acts inside attention, through the interface of transformers: load the model with "
                         "from_pretrained(..., attn_implementation='sdpa')")
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    reader = next((m for m in model.modules() if "position_ids" in inspect.signature(m.forward).parameters), None)
    if reader is not None and not hasattr(model, "position_hook"):
        model.position_hook = reader.register_forward_pre_hook(partial(_give_positions, model.switch), with_kwargs=True)
    config._attn_implementation = NAME


def _give_positions(switch, reader, args, kw):
    """Count positions without padding on the left: what is added depends on where a query stands, not only on how far from
    another, so a padded row would differ from the row alone."""
    names = switch.active if switch.rows is None else switch.rows
    if any(name is not None and hasattr(switch.recipe[name][0], "attend") for name in names):
        kw = {**dict(zip(inspect.signature(reader.forward).parameters, args)), **kw}
        mask, text = kw.get("attention_mask"), kw["inputs_embeds"] if kw.get("input_ids") is None else kw["input_ids"]
        if kw.get("position_ids") is None and isinstance(mask, torch.Tensor) and mask.dim() == 2:
            kw["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -text.shape[1]:]
        return (), kw
    return args, kw


def is_hooked(layer):
    return getattr(layer.config, "_attn_implementation", None) == NAME


def unhook(model):
    if hasattr(model, "position_hook"):
        model.position_hook.remove()
        del model.position_hook
    if getattr(getattr(model, "config", None), "_attn_implementation", None) == NAME:
        model.config._attn_implementation = "sdpa"


def attention(layer, q, k, v, mask, **kw):
    """PyTorch's attention, and what the adapters on this layer add; q is (batch, heads, time, width)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    y, weights = sdpa_attention_forward(layer, q, k, v, mask, **kw)                   # (batch, time, heads, width)
    for adapter, rows in running(layer, len(q)) if hasattr(layer, "adapters") else ():
        if hasattr(adapter, "attend"):
            more = adapter.attend(in_its_precision(adapter, q if rows is None else q[rows])).transpose(1, 2).to(y.dtype)
            y = y + more if rows is None else y.index_add(0, y.new_tensor(rows).long(), more)
    return y, weights
