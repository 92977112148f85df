"""Methods that change no layer, only what the model reads: trained vectors in front of every text.

They come in two kinds: `embeddings` are put before the embedded text, `key_values` into the cache of every attention
layer. Hooks on the model do it (token_hooks.py), whether you train, score or generate; an encoder-decoder model reads
`embeddings` in its encoder and `key_values` in its decoder, as in `peft`.
"""
import inspect

import torch
from torch import nn

from peftlab.adapter import Format
from peftlab.layers import input_table
from peftlab.token_hooks import Reading, put_hooks_on


class VirtualTokens(nn.Module):
    """n trained vectors for a whole model. A subclass makes them and says what they are in one of two functions."""

    def __init__(self, model, num_virtual_tokens):
        super().__init__()
        if not isinstance(num_virtual_tokens, int) or num_virtual_tokens < 1:
            raise ValueError(f"num_virtual_tokens is {num_virtual_tokens}: give at least one")
        refuse_unless_it_reads(model, type(self))
        self.num_virtual_tokens = num_virtual_tokens

    embeddings = None       # () -> (n, hidden): what stands in front of the text
    key_values = None       # () -> (n, layers, 2, heads, head width): what stands in front of the cache
    keys = {}               # as in Adapter
    in_peft = Format()

    def __len__(self):
        return self.num_virtual_tokens


# ------------------------------------------------------------------------------------------------ what a model must have

def text_config(config):
    """The part of a configuration that describes the reader of text: in a vision-language model it lies inside."""
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "get_text_config"):
        return config
    return config.get_text_config(decoder=True)


def cache_shape(config):
    """(layers, key-value heads, head width) of a transformer, of its decoder if it has one."""
    config = text_config(config)
    named = lambda *names: next((n for n in (getattr(config, name, None) for name in names) if n), None)
    all_heads = named("decoder_attention_heads", "num_attention_heads")
    width = named("head_dim", "d_kv") or named("hidden_size", "d_model") // all_heads
    shared = named("num_kv_heads") if named("new_decoder_architecture") else 1 if named("multi_query") else all_heads      # Falcon
    return named("num_decoder_layers", "decoder_layers", "num_hidden_layers"), named("num_key_value_heads") or shared, width


def encoder_decoder(model):
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def refuse_unless_it_reads(model, method):
    """Raise ValueError where virtual tokens would be without effect, or in a wrong place, in this model."""
    name, config = type(model).__name__, getattr(model, "config", None)
    if not hasattr(model, "get_input_embeddings") or config is None:
        raise ValueError(f"virtual tokens need a model of transformers, which a {name} is not")
    if getattr(model, "main_input_name", "input_ids") != "input_ids" \
            or not isinstance(getattr(input_table(model), "weight", None), torch.Tensor):
        raise ValueError(f"virtual tokens stand among embedded token ids, and a {name} does not read any: use a method that "
                         "goes on layers, such as LoRA")
    config, (encoder, decoder) = text_config(config), parts(model)
    if method.embeddings is not None:
        if "inputs_embeds" not in inspect.signature(encoder.forward).parameters:
            raise ValueError(f"a {name} takes no inputs_embeds: embeddings of your own cannot be put before its text")
        if getattr(config, "hidden_size_per_layer_input", None):
            raise ValueError(f"a {name} looks its token ids up once more in every layer, and a virtual token has no id")
    if method.key_values is not None:
        inner = getattr(decoder, "base_model", decoder)     # a head hands on what it does not know
        if "past_key_values" not in inspect.signature(inner.forward).parameters:
            raise ValueError(f"a {name} takes no past_key_values: there is no cache that a prefix could stand in")
        if not _one_shape(config):
            raise ValueError(f"the layers of a {name} do not all have keys and values of their own, of one shape: a prefix "
                             "cannot stand in front of each")
    if "mrope_section" in (getattr(config, "rope_parameters", None) or {}):
        raise ValueError(f"a {name} counts positions along three axes, from its token ids, and a virtual token has none of them")


def _one_shape(config):
    """Whether each layer has keys and values of its own, and all of one shape."""
    try:
        cache_shape(config)
    except RuntimeError:                                     # transformers' own: the shape differs from layer to layer
        return False
    kinds = getattr(config, "layer_types", None) or ()
    return not getattr(config, "num_kv_shared_layers", 0) and all("attention" in kind and "linear" not in kind for kind in kinds)


# ------------------------------------------------------------------------------------------------ on and off a model

def reader(model):
    """The part of a model that turns token ids into embeddings: the model itself, or the transformer inside it."""
    return next((m for m in model.modules() if hasattr(m, "get_input_embeddings")), model)


def parts(model):
    """The modules that read `embeddings` and `key_values`: the model itself, or its encoder and its decoder."""
    return (model.get_encoder(), model.get_decoder()) if encoder_decoder(model) else (model, model)


def on(model):
    """{name: virtual tokens} of a model."""
    return getattr(reader(model), "virtual_tokens", {})


def put_on(model, name, tokens):
    """Add virtual tokens to a model that has a switch; the first ones bring the hooks."""
    whole = reader(model)
    if not hasattr(whole, "virtual_tokens"):
        whole.virtual_tokens = nn.ModuleDict().train(whole.training)
        for part in {*parts(whole)}:
            part.switch, part.reading = model.switch, Reading(whole, part, whole.virtual_tokens)
        whole.token_hooks = put_hooks_on(*parts(whole))
    whole.virtual_tokens[name] = tokens.to(next(model.parameters()).device).train(model.training)


def take_off(model):
    whole = reader(model)
    if hasattr(whole, "virtual_tokens"):
        for handle in whole.token_hooks:
            handle.remove()
        for part in {whole, *parts(whole)}:
            for extra in ("virtual_tokens", "token_hooks", "reading", "switch"):
                if hasattr(part, extra):
                    delattr(part, extra)


def refuse_two(model, names):
    two = [n for n in names if n in on(model)]
    if len(two) > 1:
        raise ValueError(f"{' and '.join(two)} are both made of virtual tokens: use one of them at a time")
