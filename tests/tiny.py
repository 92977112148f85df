"""Tiny models whose every number follows from its name, so that nothing random has to be stored or agreed upon."""
import copy
import hashlib
from functools import cache

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

LLAMA = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "attention_bias": True,
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_inner": 24, "n_layer": 2, "n_head": 4, "n_positions": 64,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0}
BERT = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "num_labels": 3, "pad_token_id": 0}
CLASSES = {"llama": (LlamaConfig, LlamaForCausalLM, LLAMA), "gpt2": (GPT2Config, GPT2LMHeadModel, GPT2),
           "bert": (BertConfig, BertForSequenceClassification, BERT)}


def numbers(name, shape):
    """A tensor of numbers in [-0.5, 0.5), each from a hash of `name` and its place: the same on every machine."""
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.int64) + seed
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return ((x ^ (x >> 16)).double() / 2**32 - 0.5).float().reshape(shape)


@torch.no_grad()
def fill(tensors, salt=""):
    """Give every tensor of {name: tensor} the numbers of its name; factors and magnitudes lie around one."""
    for name, t in tensors.items():
        if not t.is_floating_point():                        # places in a matrix
            continue
        around_one = any(part in name for part in ("ia3", "magnitude", "norm.weight", "Norm.weight", "ln_1.weight",
                                                   "ln_2.weight", "ln_f.weight", "layernorm.weight"))
        t.copy_(numbers(salt + name, t.shape) * 0.6 + float(around_one))


@cache
def _model(arch, options):
    config, model, defaults = CLASSES[arch]
    model = model(config(**{**defaults, **dict(options)})).eval()
    fill(dict(model.named_parameters()))
    return model


def tiny(arch, **options):
    """A fresh tiny model, "llama", "gpt2" (Conv1D layers) or "bert" (three classes), in eval mode."""
    return copy.deepcopy(_model(arch, tuple(sorted(options.items()))))


def batch(arch, rows=3, time=7, salt=""):
    """input_ids, attention_mask and labels: right-padded texts for BERT, texts of one length for the others."""
    ids = ((numbers("ids" + salt, (rows, time)) + 0.5) * 37).long() + 3              # 0, 1, 2 are special
    mask = torch.ones_like(ids)
    if arch == "bert":
        mask[-1, time - time // 3:] = 0
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(rows) % 3}
    return {"input_ids": ids, "attention_mask": mask, "labels": ids}


def left_padded(rows=3, time=7):
    """input_ids and attention_mask of texts of different lengths, padded on the left as `generate` wants them."""
    b = batch("llama", rows, time)
    for i in range(rows):
        b["attention_mask"][i, :2 * i] = 0
        b["input_ids"][i, :2 * i] = 0
    return {"input_ids": b["input_ids"], "attention_mask": b["attention_mask"]}
