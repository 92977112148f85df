"""What a training step costs at the article's size: XLM-RoBERTa-large's shape, bloomz-560m's and Llama-3.2-1B's, random weights.

Counted everywhere: parameters, bytes of weights, gradients and AdamW's states, multiplications forward and backward. Measured
on a GPU only: median seconds of a step (device events) and the peak memory. On a processor these are absent, not guessed.
"""

import statistics

import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

import peftlab as pl
from peftlab.lab.clock import Stopwatch
from peftlab.methods import IA3, BitFit, Houlsby, LoRA, Pfeiffer, PrefixTuning, PromptTuning

HEAD = ["classifier"]


def xlmr(vocab=250_002, d=1024, layers=24, heads=16):
    config = XLMRobertaConfig(
        vocab_size=vocab, hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * d,
        max_position_embeddings=514, type_vocab_size=1, num_labels=3)  # fmt: skip
    return XLMRobertaForSequenceClassification(config)


def bloom():
    return BloomForCausalLM(BloomConfig(vocab_size=250_880, hidden_size=1024, n_layer=24, n_head=16))


def llama():
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, tie_word_embeddings=True))  # fmt: skip


SHAPES = {"xlm-roberta-large": xlmr, "bloomz-560m": bloom, "llama-3.2-1b": llama, "toy": lambda: xlmr(99, 32, 2, 2)}
PLACES = {  # attention, behind attention and feed-forward part, whole blocks, feed-forward
    "xlm-roberta-large": (["query", "value"], ["attention.output.dense", r"output.dense"], r".*layer\.\d+\.output\.LayerNorm"),
    "bloomz-560m": (["query_key_value"], ["dense", "dense_4h_to_h"], r".*\.h\.\d+"),
    "llama-3.2-1b": (["q_proj", "v_proj"], ["o_proj", "down_proj"], r".*\.layers\.\d+"),
}
PLACES["toy"] = PLACES["xlm-roberta-large"]
EVERY = {  # all linear layers but the head, and these with the norms: where biases are
    "xlm-roberta-large": (r".*layer\.\d+\..*(query|key|value|dense)", r".*layer\.\d+\..*(query|key|value|dense|LayerNorm)"),
    "bloomz-560m": ("all-linear", r".*\.(query_key_value|dense\w*|\w*layernorm|ln_f)"),
    "llama-3.2-1b": ("all-linear", None),
}
EVERY["toy"] = EVERY["xlm-roberta-large"]
IA3_PLACES = {
    "xlm-roberta-large": (["key", "value", "intermediate.dense"], []),
    "bloomz-560m": (["query_key_value", "dense_4h_to_h"], ["dense_4h_to_h"]),
    "llama-3.2-1b": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
}
IA3_PLACES["toy"] = IA3_PLACES["xlm-roberta-large"]
WAYS = ["full", "head", "lora-8", "lora-32", "lora-all-8", "pfeiffer-8", "pfeiffer-2", "houlsby-8", "prompt-20", "prefix-20", "bias", "ia3"]


def plan(toy=False):
    sizes = [("xlm-roberta-large", kind, texts, length) for kind in ("float32", "bfloat16") for length in (128, 512) for texts in (1, 8, 32)]
    sizes += [(shape, "bfloat16", 8, length) for shape in ("bloomz-560m", "llama-3.2-1b") for length in (128, 512)]
    if toy:
        sizes = [("toy", "float32", 2, 8)]
    return [
        {"shape": shape, "method": way, "dtype": kind, "texts": texts, "length": length, "seed": 0}
        for shape, kind, texts, length in sizes
        for way in WAYS
        if not (way == "head" and shape in ("bloomz-560m", "llama-3.2-1b"))  # they have no head of their own
        and not (way == "bias" and shape == "llama-3.2-1b")  # it has no biases
    ]


def put_on(model, shape, way):
    """Attach a method by its name in WAYS; a classification head is trained beside it."""
    kind, _, size = way.partition("-")
    attention, behind, blocks = PLACES[shape]
    head = {"modules_to_save": HEAD} if hasattr(model, "classifier") else {}
    if kind in ("full", "head"):
        model.requires_grad_(kind == "full")
        if kind == "head":
            model.classifier.requires_grad_(True)
    elif kind == "lora":
        pl.attach(model, LoRA, EVERY[shape][0] if size.startswith("all") else attention, r=int(size.split("-")[-1]), **head)
    elif kind == "pfeiffer":
        pl.attach(model, Pfeiffer, blocks, reduction_factor=int(size), **head)
    elif kind == "houlsby":
        pl.attach(model, Houlsby, behind, reduction_factor=int(size), **head)
    elif kind in ("prompt", "prefix"):
        pl.attach(model, PromptTuning if kind == "prompt" else PrefixTuning, num_virtual_tokens=int(size), **head)
    elif kind == "bias":
        pl.attach(model, BitFit, EVERY[shape][1], **head)
    else:
        places, feedforward = IA3_PLACES[shape]
        pl.attach(model, IA3, places, feedforward_modules=feedforward, **head)
    return model


def batch_of(model, texts, length, device):
    ids = torch.zeros(texts, length, dtype=torch.long, device=device)
    return {"input_ids": ids, "labels": ids[:, 0] if hasattr(model, "classifier") else ids}


def build(config, device):
    with torch.device(device):
        model = SHAPES[config["shape"]]().to(getattr(torch, config["dtype"]))
        return put_on(model, config["shape"], config["method"]).train()


def run(config, device):
    model = build(config, "meta")
    counted = pl.count(model)
    found = {part: getattr(counted, part) for part in ("trainable", "total", "weights", "gradients", "optimizer")}
    if not config["method"].startswith("pr"):  # a model looks into the mask that virtual tokens bring, and "meta" holds nothing
        forward, backward = pl.multiplications(model, **batch_of(model, config["texts"], config["length"], "meta"))
        found |= {"forward": forward, "backward": backward}
    if torch.device(device).type == "cuda" or config["shape"] == "toy":
        found |= measured(config, torch.device(device))
    return found


def measured(config, device, warm=3, steps=20):
    """{"step_seconds", and on a GPU "peak_memory" and what a forward pass keeps, "activations", in bytes} of steps with AdamW."""
    torch.manual_seed(config["seed"])
    model = build(config, device)
    batch = batch_of(model, config["texts"], config["length"], device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    on_gpu, watch, seconds, found = device.type == "cuda", Stopwatch(device), [], {}
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(warm + steps):
        before = torch.cuda.memory_allocated(device) if on_gpu else 0
        loss = model(**batch).loss
        if on_gpu:
            found["activations"] = torch.cuda.memory_allocated(device) - before
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(watch.lap())
    found["step_seconds"] = statistics.median(seconds[warm:])
    return found | ({"peak_memory": torch.cuda.max_memory_allocated(device)} if on_gpu else {})
