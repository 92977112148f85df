"""The hooks that put virtual tokens in front of what a model reads, and take what it says of them off again."""
import inspect

import torch
from torch import nn

from peftlab.layers import output_table
from peftlab.switch import name_of_each_row
from peftlab.token_places import Places, lengths, stack


class Reading:
    """What the hooks must know of a module: its virtual tokens, and how it reads."""

    def __init__(self, model, part, tokens):
        self.tokens = tokens                                 # a plain reference: they are not this module's children
        self.causal = any(getattr(m, "is_causal", False) for m in part.modules())
        self.last = self.causal and output_table(model) is None             # a classifier on a decoder answers from the last place
        config = getattr(model.config, "text_config", model.config)
        sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
        self.window = sliding and getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
        self.takes_positions = "position_ids" in inspect.signature(part.forward).parameters
        tables = [m for path, m in part.named_modules() if isinstance(m, nn.Embedding) and "position" in path]
        self.absolute = any("embed_positions" in path or "position_embeddings" in path for path, _ in part.named_modules())
        self.start = next((m.padding_idx + 1 for m in tables if m.padding_idx is not None), 0)  # RoBERTa counts from there


def put_hooks_on(encoder, decoder):
    """The handles of the hooks on a model, which is both, or on an encoder and a decoder."""
    if encoder is decoder:
        return [encoder.register_forward_pre_hook(_enter, with_kwargs=True),
                encoder.register_forward_hook(_leave, with_kwargs=True)]
    return [encoder.register_forward_pre_hook(_enter_encoder, with_kwargs=True),
            decoder.register_forward_pre_hook(_enter_decoder, with_kwargs=True),
            decoder.register_forward_hook(_drop_cache, with_kwargs=True)]


# ------------------------------------------------------------------------------------------------ the hooks

def _enter(model, args, kw):
    """Put the rows' virtual tokens in front of what a model reads."""
    kw, model.switch.inserted = _arguments(model, args, kw), None
    text, cache, reading = _text(kw), kw.get("past_key_values"), model.reading
    rows = [] if text is None else _wanted(model, len(text))
    if all(t is None for t in rows):
        return (), kw
    _refuse_unless_countable(kw)
    places = _places(model, rows, text, kw.get("attention_mask"), cache, last=reading.last)
    _refuse_if_out_of_sight(reading.window, places)
    kw.pop("cache_position", None)                           # counted without the virtual tokens: let the model count
    if reading.takes_positions:
        kw["position_ids"] = places.positions(kw.get("position_ids"), reading.start)
    kw["attention_mask"] = places.mask
    model.switch.inserted = places
    if kw.get("return_dict", getattr(model.config, "return_dict", True)) is False:
        kw["return_dict"], places.as_tuple = True, True      # with names it can be told what belongs to each token
    if places.first:
        _fill_cache(model, kw, rows)
        _fill_text(model, kw, rows, places)
    return (), kw


def _enter_encoder(encoder, args, kw):
    """The same for an encoder that a decoder listens to: what it makes of the virtual tokens is not taken off again."""
    kw = _arguments(encoder, args, kw)
    rows = _wanted(encoder, len(_text(kw)))
    if any(lengths(rows, "embeddings")):
        places = _places(encoder, rows, _text(kw), kw.get("attention_mask"), kinds=("embeddings",))
        kw["attention_mask"] = places.mask
        _fill_text(encoder, kw, rows, places)
    return (), kw


def _enter_decoder(decoder, args, kw):
    """Let a decoder see what the encoder read in front; a prefix goes into the cache of its self-attention."""
    kw = _arguments(decoder, args, kw)
    rows, encoded = _wanted(decoder, len(_text(kw))), kw.get("encoder_hidden_states")
    n = max(lengths(rows, "embeddings"))
    if n and encoded is not None:
        kw["encoder_attention_mask"] = _places(decoder, rows, encoded[:, n:], kw.get("encoder_attention_mask"),
                                               kinds=("embeddings",), causal=False).mask
    if any(lengths(rows, "key_values")):
        _refuse_unless_countable(kw)
        places = _places(decoder, rows, _text(kw), kw.get("attention_mask"), kw.get("past_key_values"), kinds=("key_values",))
        if places.mixed and decoder.reading.absolute:
            raise ValueError("the decoder counts its positions from the length of the cache, which is one for the whole batch: "
                             "prefixes of different lengths, or none, cannot be mixed in it")
        kw["attention_mask"] = places.mask
        if places.first:
            _fill_cache(decoder, kw, rows)
    return (), kw


def _leave(model, args, kw, out):
    """Give back what belongs to the text alone."""
    places, model.switch.inserted = model.switch.inserted, None
    if places is not None and places.first and places.n:
        index, whole = places.of_text(), (len(places.rows), places.n + places.time)

        def of_text(name, t):
            if isinstance(t, tuple):                         # hidden_states
                return tuple(of_text(name, part) for part in t)
            per_token = t.dim() > 2 or name in ("start_logits", "end_logits")         # else it is one answer for the row
            if not per_token or t.shape[:2] != whole:
                return t
            return t.take_along_dim(index.view(*index.shape, *[1] * (t.dim() - 2)), 1)

        for name, value in out.items():
            if isinstance(value, torch.Tensor) or name == "hidden_states":
                out[name] = of_text(name, value)
    out = _drop_cache(model, args, kw, out)
    return out.to_tuple() if places is not None and places.as_tuple else out


def _drop_cache(model, args, kw, out):
    """Give no cache back that nobody asked for: it holds the prefix, which the next pass puts in again."""
    if kw.get("use_cache") is False and getattr(out, "past_key_values", None) is not None:
        out.past_key_values = None
    return out


# ------------------------------------------------------------------------------------------------ what they are made of

def _arguments(model, args, kw):
    return {**dict(zip(inspect.signature(model.forward).parameters, args)), **kw}


def _text(kw):
    """What the model is given to read, ids or embeddings."""
    return kw.get("input_ids") if kw.get("input_ids") is not None else kw.get("inputs_embeds")


def _wanted(model, batch):
    """The virtual tokens (or None) of each row of the batch."""
    switch, tokens = model.switch, model.reading.tokens
    if switch.rows is None:
        here = [tokens[n] for n in switch.active if n in tokens]
        return (here or [None]) * batch
    return [tokens[row] if row and row in tokens else None for row in name_of_each_row(switch, batch)]


def _places(part, rows, text, mask, cache=None, causal=None, **more):
    cached, n = 0 if cache is None else cache.get_seq_length(), max(lengths(rows, "key_values")) + max(lengths(rows, "embeddings"))
    if 0 < cached < n:
        raise ValueError(f"the cache holds {cached} places, fewer than there are virtual tokens: it was filled without them. "
                         "Begin with an empty cache when you switch adapters")
    return Places(rows, text.shape[1], mask, cached, text.device, part.reading.causal if causal is None else causal, **more)


def _refuse_unless_countable(kw):
    """Raise ValueError for a mask or a cache in which there is no place for virtual tokens."""
    mask, cache = kw.get("attention_mask"), kw.get("past_key_values")
    if getattr(cache, "is_compileable", False) or isinstance(mask, dict):
        raise ValueError("a static cache has a fixed length, without room for virtual tokens: leave cache_implementation out")
    if mask is not None and mask.dim() != 2:
        raise ValueError(f"virtual tokens need the attention_mask as (batch, time), and it is {tuple(mask.shape)}")


def _refuse_if_out_of_sight(window, places):
    """Raise ValueError where padding between a prefix and the text pushes the prefix out of a sliding window."""
    if window and places.told and places.prefix.max() > 0 and places.mask.shape[1] > window and (places.text[:, 0] == 0).any():
        raise ValueError(f"a prefix stands at the beginning of the cache, and padding on the left pushes it out of the model's "
                         f"sliding window of {window} tokens: pad on the right, or give rows of one length")


def _fill_cache(part, kw, rows):
    """Put the rows' prefixes into the cache of self-attention, in front of all that is to come."""
    vectors = stack(rows, "key_values")
    if vectors is None:
        return
    if part.training and any(getattr(m, "gradient_checkpointing", False) for m in part.modules()):
        raise ValueError("prefix tuning needs the cache, which gradient checkpointing switches off: "
                         "call model.gradient_checkpointing_disable()")
    from transformers import DynamicCache, EncoderDecoderCache  # here, since importing transformers takes a while

    cache = kw.get("past_key_values")
    if cache is None:
        cache = DynamicCache()
        if kw.get("encoder_hidden_states") is not None:
            cache = EncoderDecoderCache(cache, DynamicCache())
        kw["past_key_values"] = cache
    vectors = vectors.to(next(p for p in part.parameters() if p.is_floating_point()).dtype)
    vectors = vectors.permute(2, 3, 0, 4, 1, 5)              # (layers, 2, batch, heads, n, width)
    if kw.get("encoder_hidden_states") is not None:          # here `peft` gives layer i what it made for layer 2 i, and so on
        vectors = vectors[[2 * i % len(vectors) for i in range(len(vectors))]]        # from the first: half is not used
    for i, (k, v) in enumerate(vectors):
        getattr(cache, "self_attention_cache", cache).update(k, v, i)


def _fill_text(part, kw, rows, places):
    """Put the rows' embeddings before the embedded text, and move along all that has a value for every token."""
    vectors = stack(rows, "embeddings")
    if vectors is None:
        return
    text, ids = kw.pop("inputs_embeds", None), kw.pop("input_ids", None)
    if text is None:
        table = part.get_input_embeddings()
        text = table(ids)                                                             # (batch, time, hidden)
        if hasattr(part, "embed_scale") and not hasattr(table, "embed_scale"):
            text = text * part.embed_scale                   # some models do this to ids, and not to inputs_embeds
    whose = text.shape[:2]
    for name, t in kw.items():
        of_tokens = isinstance(t, torch.Tensor) and t.shape[:2] == whose and t.dim() < 4
        if of_tokens and name not in ("attention_mask", "position_ids") \
                and not (name == "labels" and t.is_floating_point()):                 # labels of several kinds for the row
            front = t.new_full((len(rows), places.n, *t.shape[2:]), -100 if name == "labels" else 0)
            kw[name] = places.in_order(front, t)
        elif name in ("start_positions", "end_positions") and t is not None:
            there = t < places.time                          # beyond the text: to be ignored, there as here
            moved = places.of_text().gather(1, t.clamp(0, places.time - 1).view(-1, 1)).view(t.shape)
            kw[name] = torch.where(there, moved, t + places.n)
    kw["inputs_embeds"] = places.in_order(vectors.to(text.dtype), text)
