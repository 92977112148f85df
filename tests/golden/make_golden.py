"""Make golden.json with the library `adapters` 1.3.0: what its bottleneck adapters answer on tiny models.

It pins a transformers of its own, so it wants an environment of its own:

    python3 -m venv golden-venv
    golden-venv/bin/pip install torch==2.13.0 adapters==1.3.0        (Windows: golden-venv\\Scripts\\pip)
    golden-venv/bin/python tests/golden/make_golden.py

Models, texts and adapters are filled from hashes of names (tests/tiny.py), so only the answers are stored.
"""
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import adapters
import torch
import transformers
from adapters import DoubleSeqBnConfig, ParBnConfig, SeqBnConfig
from tiny import batch, numbers, tiny

CONFIGS = {
    "no adapter": None,
    "double_seq_bn": DoubleSeqBnConfig(reduction_factor=4),
    "double_seq_bn, reduction 16": DoubleSeqBnConfig(),
    "seq_bn": SeqBnConfig(reduction_factor=4),
    "par_bn": ParBnConfig(reduction_factor=2),
    "par_bn, scaling 1": ParBnConfig(reduction_factor=4, scaling=1.0),
}


def place(name):
    """`layer`, `where` (attention or output) and tensor of an adapter's parameter: "1.attention.down.weight"."""
    parts = name.split(".")
    layer = next(p for p in parts if p.isdigit())
    where = "attention" if "attention" in name else "output"
    up = "up" if "adapter_up" in name else "down"
    return f"{layer}.{where}.{up}.{parts[-1]}"


def answers(arch, config):
    model = tiny(arch)
    adapters.init(model)
    if config is not None:
        model.add_adapter("a", config=config)
        model.set_active_adapters("a")
    found = {place(n): p for n, p in model.named_parameters() if ".adapters.a." in n}
    with torch.no_grad():
        for name, p in found.items():
            p.copy_(numbers(name, p.shape))
        inputs = {k: v for k, v in batch(arch).items() if k != "labels"}
        logits = model(**inputs).logits
    logits = logits if logits.dim() == 2 else logits[:, -1]               # the last place of a text has seen it all
    return {"parameters": sum(p.numel() for p in found.values()),
            "logits": [float(f"{x:.7g}") for x in logits.flatten().tolist()]}


def main():
    golden = {"made with": {m.__name__: m.__version__ for m in (adapters, transformers, torch)}}
    golden |= {arch: {name: answers(arch, config) for name, config in CONFIGS.items()}
               for arch in ("bert", "llama", "gpt2")}
    (HERE / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
