"""Methods that change no layer, only what the model reads: trained vectors in front of every text.

One pair of hooks on the whole model puts them in, whether you train, score or generate. They come in two kinds:
`embeddings` are prepended to the input, `key_values` fill the cache of every attention layer.
"""
import inspect

import torch
import torch.nn.functional as F
from torch import nn


class VirtualTokens(nn.Module):
    """n trained vectors for a whole model. A subclass makes them and says what they are in one of two functions."""

    peft_type = ""
    config = {}
    keys = {}

    def __init__(self, model, num_virtual_tokens):
        super().__init__()
        if not hasattr(model, "get_input_embeddings"):
            raise ValueError(f"virtual tokens need a model of transformers, which a {type(model).__name__} is not")
        if num_virtual_tokens < 1:
            raise ValueError(f"num_virtual_tokens is {num_virtual_tokens}: give at least one")
        self.num_virtual_tokens = num_virtual_tokens

    embeddings = None       # () -> (n, hidden): what stands in front of the text
    key_values = None       # () -> (n, layers, 2, heads, head width): what stands in front of the cache

    def __len__(self):
        return self.num_virtual_tokens


def cache_shape(config):
    """(layers, key-value heads, head width) of a transformer."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, heads, width


def reader(model):
    """The part of a model that turns token ids into embeddings: the model itself, or the transformer inside it."""
    return next((m for m in model.modules() if hasattr(m, "get_input_embeddings")), model)


def on(model):
    """{name: virtual tokens} of a model."""
    return getattr(reader(model), "virtual_tokens", {})


def hook(model, switch):
    if not hasattr(model, "virtual_tokens"):
        model.virtual_tokens, model.switch = nn.ModuleDict().train(model.training), switch
        model.token_hooks = (model.register_forward_pre_hook(_enter, with_kwargs=True),
                             model.register_forward_hook(_leave, with_kwargs=True))


def unhook(model):
    if hasattr(model, "virtual_tokens"):
        for handle in model.token_hooks:
            handle.remove()
        for extra in ("virtual_tokens", "token_hooks", "switch"):
            if hasattr(model, extra):
                delattr(model, extra)


def refuse_two(model, names):
    two = [n for n in names if n in on(model)]
    if len(two) > 1:
        raise ValueError(f"{' and '.join(two)} are both made of virtual tokens: use one of them at a time")


# ------------------------------------------------------------------------------------------------ the two hooks

def _wanted(model, batch):
    """The virtual tokens (or None) of each row of the batch."""
    switch, tokens = model.switch, model.virtual_tokens
    if switch.rows is None:
        here = [tokens[n] for n in switch.active if n in tokens]
        return (here or [None]) * batch
    from peftlab.attach import spread
    return [tokens[row] if row is not None and row in tokens else None for row in spread(switch.rows, batch)]


def _stack(rows, kind, like):
    """The rows' vectors of one kind, padded on the left to one length n: (batch, n, ...), and a (batch, n) mask.

    None if no row has any. Vectors that are only padding are zero and masked out: attention never sees them.
    """
    makers = {id(t): t for t in rows if t is not None and getattr(t, kind) is not None}
    if not makers:
        return None, like.new_zeros(len(rows), 0)
    made = {i: getattr(t, kind)() for i, t in makers.items()}                         # (n_i, ...) each
    if len(made) == 1 and all(t is not None for t in rows) and len({id(t) for t in rows}) == 1:
        (vectors,) = made.values()
        return vectors.expand(len(rows), *vectors.shape), like.new_ones(len(rows), len(vectors))
    n = max(len(v) for v in made.values())
    some = next(iter(made.values()))
    blank = some.new_zeros(n, *some.shape[1:])
    padded = {i: torch.cat([blank[len(v):], v]) for i, v in made.items()}
    mask = [[0] * (n - len(made[id(t)])) + [1] * len(made[id(t)]) if id(t) in made else [0] * n for t in rows]
    return torch.stack([padded.get(id(t), blank) for t in rows]), like.new_tensor(mask)


def _enter(model, args, kw):
    model.switch.inserted = 0, None
    names = list(inspect.signature(model.forward).parameters)
    kw = {**dict(zip(names, args)), **kw}
    ids = kw.get("input_ids") if kw.get("input_ids") is not None else kw.get("inputs_embeds")
    if ids is None:
        return (), kw
    (batch, time), mask = ids.shape[:2], kw.get("attention_mask")
    rows = _wanted(model, batch)
    if all(t is None for t in rows):
        return (), kw
    if mask is not None and mask.dim() != 2:
        raise ValueError("virtual tokens need the attention_mask as (batch, time)")
    ones = torch.ones(batch, time, dtype=torch.long, device=ids.device)
    cache = kw.get("past_key_values")
    first = cache is None or cache.get_seq_length() == 0
    kv, kv_mask = _stack(rows, "key_values", ones)
    embeds, embeds_mask = _stack(rows, "embeddings", ones)
    front = torch.cat([kv_mask, embeds_mask], 1)                                      # (batch, n): 1 where a token is

    if mask is None and not first:                           # all that is in the cache, virtual tokens aside, is seen
        mask = ones.new_ones(batch, cache.get_seq_length() - front.shape[1] + time)
    mask = torch.cat([front, ones if mask is None else mask.long()], 1)
    kw["attention_mask"] = mask
    kw.pop("cache_position", None)                           # counted without the virtual tokens: let the model count
    if "position_ids" in names:
        new = embeds.shape[1] if embeds is not None and first else 0
        place = (mask.cumsum(1) - 1).clamp(min=0)[:, -(time + new):]
        if None in rows:                                     # the base model counts as it always does
            own = kw.get("position_ids")
            if own is None:
                own = torch.arange(time, device=ids.device) + (0 if first else cache.get_seq_length() - front.shape[1])
            bare = ones.new_tensor([t is None for t in rows])[:, None].bool()
            place = torch.cat([place[:, :new], torch.where(bare, own, place[:, new:])], 1)
        kw["position_ids"] = place
    if first and kv is not None:
        if model.training and any(getattr(m, "gradient_checkpointing", False) for m in model.modules()):
            raise ValueError("prefix tuning needs the cache, which gradient checkpointing switches off: "
                             "call model.gradient_checkpointing_disable()")
        from transformers import DynamicCache  # here, since importing transformers takes a while
        kw["past_key_values"] = cache = DynamicCache() if cache is None else cache
        kv = kv.to(model.get_input_embeddings().weight.dtype)
        for i, (k, v) in enumerate(kv.permute(2, 3, 0, 4, 1, 5)):                      # (batch, heads, n, width) each
            cache.update(k, v, i)
    if first and embeds is not None:
        text = kw.pop("inputs_embeds", None)
        if text is None:
            text = model.get_input_embeddings()(kw.pop("input_ids"))                  # (batch, time, hidden)
        n = embeds.shape[1]
        kw.pop("input_ids", None)
        kw["inputs_embeds"] = torch.cat([embeds.to(text.dtype), text], 1)
        if kw.get("token_type_ids") is not None:
            kw["token_type_ids"] = F.pad(kw["token_type_ids"], (n, 0))
        if kw.get("labels") is not None and kw["labels"].dim() == 2:
            kw["labels"] = F.pad(kw["labels"], (n, 0), value=-100)
        model.switch.inserted = n, None
        if any(t is not rows[0] for t in rows) and not any(getattr(m, "is_causal", False) for m in model.modules()):
            # a model that reads both ways may look for its answer in the first place: padding has to go to the end
            real = embeds_mask.sum(1, keepdim=True)                                   # (batch, 1)
            model.switch.inserted = n, real
            index = (torch.arange(n + time, device=ids.device) + n - real) % (n + time)
            text = mask.shape[1] - n - time                  # what a prefix put in front stays there
            kw["attention_mask"] = torch.cat([mask[:, :text], mask[:, text:].gather(1, index)], 1)
            for name in ("inputs_embeds", "position_ids", "token_type_ids", "labels"):
                if isinstance(kw.get(name), torch.Tensor) and kw[name].shape[:2] == index.shape:
                    kw[name] = kw[name].take_along_dim(index.view(*index.shape, *[1] * (kw[name].dim() - 2)), 1)
    return (), kw


def _leave(model, args, kw, out):
    n, start = model.switch.inserted
    for name in ("logits", "last_hidden_state") if n else ():                         # those of the text alone
        t = getattr(out, name, None)
        if t is not None and t.dim() == 3 and t.shape[1] == kw["inputs_embeds"].shape[1]:
            text = torch.arange(t.shape[1] - n, device=t.device)
            setattr(out, name, t[:, n:] if start is None else t.take_along_dim((text + start)[..., None], 1))
    if kw.get("use_cache") is False and getattr(out, "past_key_values", None) is not None:
        out.past_key_values = None                           # it holds the prefix, which the next pass puts in again
    return out
