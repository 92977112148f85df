"""Ours beside `peft`'s on the same model in one process: `python3 tasks.py bench [--base minilm-l6] [--rounds 15]`.

For each method: the median over rounds of the ratio ours / peft of a training step and of one generated token, the two
run in turn so that a busy machine slows both; and bytes kept for the backward pass and multiplications, which do not
depend on the clock. Below 1.00 ours costs less. The times are for reading, no test depends on them.
"""
import argparse
import copy
import gc
import statistics

import pandas as pd
import torch

import peftlab as pl
from peftlab.lab.bases import load_base
from peftlab.lab.clock import Stopwatch

DECODER = {
    "LoRA": (pl.methods.LoRA, ["q_proj", "v_proj"], {"r": 8}),
    "LoRA, all linear": (pl.methods.LoRA, "all-linear", {"r": 8}),
    "DoRA": (pl.methods.DoRA, ["q_proj", "v_proj"], {"r": 8}),
    "IA3": (pl.methods.IA3, ["k_proj", "v_proj", "down_proj"], {"feedforward_modules": ["down_proj"]}),
    "PromptTuning": (pl.methods.PromptTuning, None, {"num_virtual_tokens": 20}),
    "PrefixTuning": (pl.methods.PrefixTuning, None, {"num_virtual_tokens": 20}),
    "PTuning": (pl.methods.PTuning, None, {"num_virtual_tokens": 20}),
    "AdaptionPrompt": (pl.methods.AdaptionPrompt, ["self_attn"], {"adapter_len": 10, "adapter_layers": 30}),
    "LNTuning": (pl.methods.LNTuning, ["input_layernorm", "post_attention_layernorm"], {}),
    "TrainableTokens": (pl.methods.TrainableTokens, ["embed_tokens"], {"token_indices": list(range(100, 110))}),
}
ENCODER = {
    "LoRA": (pl.methods.LoRA, ["query", "value"], {"r": 8}),
    "LoRA, all linear": (pl.methods.LoRA, ["query", "key", "value", "dense"], {"r": 8}),
    "DoRA": (pl.methods.DoRA, ["query", "value"], {"r": 8}),
    "IA3": (pl.methods.IA3, ["key", "value", "output.dense"], {"feedforward_modules": ["output.dense"]}),
    "BitFit": (pl.methods.BitFit, ["query", "key", "value", "dense"], {}),
    "LNTuning": (pl.methods.LNTuning, ["LayerNorm"], {}),
    "TrainableTokens": (pl.methods.TrainableTokens, ["word_embeddings"], {"token_indices": list(range(100, 110))}),
    "AdaLoRA": (pl.methods.AdaLoRA, ["query", "value"], {"init_r": 8, "target_r": 4, "total_step": 1000}),
}
SAME = {  # on the queries and values of either
    "LoHa": {"r": 8}, "LoKr": {"r": 8}, "HiRA": {"r": 8}, "DeLoRA": {"r": 8}, "GraLoRA": {"r": 8, "gralora_k": 2},
    "VeRA": {"r": 256}, "RandLoRA": {"r": 32}, "VBLoRA": {"r": 4, "num_vectors": 256, "vector_length": 96},
    "UniLoRA": {"r": 4, "theta_d_length": 256}, "TinyLoRA": {"r": 2}, "MiCA": {"r": 8}, "MiSS": {"r": 64},
    "OFT": {"oft_block_size": 32}, "BOFT": {"boft_block_size": 4}, "HRA": {"r": 8}, "RoAd": {"group_size": 64},
    "FourierFT": {"n_frequency": 1000}, "C3A": {"block_size": 64}, "SHiRA": {"r": 8},
}
for name, options in SAME.items():
    DECODER[name] = (getattr(pl.methods, name), ["q_proj", "v_proj"], options)
    ENCODER[name] = (getattr(pl.methods, name), ["query", "value"], options)


def theirs(model, method, targets, options):
    """The same method from `peft` on `model`."""
    import peft
    decoder = model.config.model_type == "llama"
    kind = peft.PEFT_TYPE_TO_CONFIG_MAPPING[method.in_peft.peft_type]
    targets = targets[0] if method.in_peft.one_target else targets
    options = dict(options, **method.in_peft.fixed, **({"target_modules": targets} if targets else {}))
    return peft.get_peft_model(model, kind(task_type="CAUSAL_LM" if decoder else None, **options))


def step(model, batch, optimizer):
    out = model(**batch)
    loss = out.loss if getattr(out, "loss", None) is not None else out.last_hidden_state.pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def table_of(base):
    """The methods that are compared on a model: {name: (class, targets, options)}."""
    return DECODER if base.config.model_type == "llama" else ENCODER


def batch_of(base, tokenizer, texts, tokens):
    """Random tokens, the same at each call, on the model's device."""
    ids = torch.randint(10, len(tokenizer) - 10, (texts, tokens), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if base.config.model_type == "llama":
        batch["labels"] = ids
    return {key: value.to(base.device) for key, value in batch.items()}


def compare(base, method, targets, options, batch, rounds):
    """One row of the table, as a dict of ratios ours / peft; "seconds" and "multiplied" are ours alone, of a training step."""
    gc.collect()                                             # the models compared before: hooks and layers hold each other
    pair = [pl.attach(copy.deepcopy(base), method, targets, **options), theirs(copy.deepcopy(base), method, targets,
                                                                                options)]
    counts = [pl.count(m).trainable for m in pair]
    if counts[0] != counts[1]:
        raise RuntimeError(f"{method.__name__}: ours trains {counts[0]:,} parameters and peft's {counts[1]:,}")
    row = {}
    for m in pair:
        m.train()
    optimizers = [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-4) for m in pair]
    runs = [lambda m=m, o=o: step(m, batch, o) for m, o in zip(pair, optimizers)]
    row["step"], row["seconds"] = ratio(runs, rounds, base.device)
    row["bytes saved"] = pl.saved_activations(pair[0], **batch) / pl.saved_activations(pair[1], **batch)
    row["multiplied"], theirs_multiplied = (sum(pl.multiplications(m, **batch)) for m in pair)
    row["multiplications"] = row["multiplied"] / theirs_multiplied
    if base.config.model_type == "llama":
        for m in pair:
            m.eval()
        prompt = {k: batch[k][:1, :16] for k in ("input_ids", "attention_mask")}
        say = [lambda m=m: m.generate(**prompt, max_new_tokens=8, min_new_tokens=8, do_sample=False) for m in pair]
        row["generated token"], _ = ratio(say, max(3, rounds // 3), base.device)
    return row


def ratio(runs, rounds, device="cpu"):
    """The medians of ours / theirs and of ours in seconds, each round in the other order; one round to warm up."""
    ratios, ours, watch = [], [], Stopwatch(device)
    for i in range(rounds + 1):
        t = {}
        for j in (0, 1) if i % 2 else (1, 0):
            watch.lap()
            runs[j]()
            t[j] = watch.lap()
        ratios.append(t[0] / t[1])
        ours.append(t[0])
    return statistics.median(ratios[1:]), statistics.median(ours[1:])


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Ours beside peft's: ratios, below 1.00 where ours costs less.")
    parser.add_argument("--base", nargs="*", default=["minilm-l6", "smollm2-135m"])
    parser.add_argument("--methods", nargs="*", help="only these rows of the table, such as LoRA")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args(arguments)
    for name in args.base:
        base, tokenizer = load_base(name)
        table, batch = table_of(base), batch_of(base, tokenizer, args.batch, args.tokens)
        rows = {m: compare(base, *table[m], batch, args.rounds) for m in args.methods or table if m in table}
        print(f"\n{name}, {args.batch} x {args.tokens} tokens, ours / peft:")
        print(pd.DataFrame(rows).T.drop(columns=["seconds", "multiplied"]).round(2).to_string(), flush=True)


if __name__ == "__main__":
    main()
