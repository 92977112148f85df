"""Make bitsandbytes.json: what the library bitsandbytes stores for weights of polyglot-350k, and for two hard ones.

It is not needed by anything else here, so it goes into a folder of its own:

    .venv/bin/python -m pip install --no-deps --target bnb bitsandbytes==0.49.2        (Windows: .venv\\Scripts\\python)
    PYTHONPATH=bnb .venv/bin/python tests/golden/make_bitsandbytes.py
"""
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
BASE = HERE.parents[1] / "data" / "polyglot-350k" / "model.safetensors"


def weights():
    """Every matrix of polyglot-350k, and two more made of one: not divisible by the block, and with blocks of zeros."""
    state = load_file(BASE)
    found = {name: W.float() for name, W in state.items() if W.dim() == 2}
    hard = next(iter(found.values())).flatten()[: 38 * 53].view(38, 53).clone()
    zeros = hard.clone()
    zeros.view(-1)[128:256] = 0
    return found | {"38 x 53": hard, "38 x 53, two blocks of zeros": zeros}


def digest(tensor):
    """A short hash of the bytes of a uint8 tensor."""
    return hashlib.sha256(bytes(tensor.flatten().tolist())).hexdigest()[:16]


def main():
    from importlib.metadata import version

    import bitsandbytes.functional as bnb

    out = {"bitsandbytes": version("bitsandbytes"), "dynamic levels": [float(f"{v:.8g}") for v in bnb.create_dynamic_map().tolist()]}
    for name, W in weights().items():
        W = W.reshape(1, -1)  # in one row: 0.49.2 on a processor misreads rows that are no whole number of blocks (error .32)
        packed, single = bnb.quantize_4bit(W, blocksize=64, quant_type="nf4", compress_statistics=False)
        again, state = bnb.quantize_4bit(W, blocksize=64, quant_type="nf4", compress_statistics=True)
        assert torch.equal(packed, again)
        back, back_twice = bnb.dequantize_4bit(packed, single), bnb.dequantize_4bit(again, state)
        out[name] = {
            "codes": digest(packed), "first codes": packed.flatten()[:8].tolist(),
            "absmax": digest(single.absmax.view(torch.uint8)),
            "codes of absmax": digest(state.absmax), "first codes of absmax": state.absmax[:8].tolist(),
            "scales": [float(f"{v:.8g}") for v in state.state2.absmax.tolist()], "mean": float(f"{state.offset.item():.8g}"),
            "error": [float(f"{((b - W).norm() / W.norm()).item():.6g}") for b in (back, back_twice)],
        }  # fmt: skip
    (HERE / "bitsandbytes.json").write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
