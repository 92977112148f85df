"""What nf4 stores against bitsandbytes: golden numbers, made by make_bitsandbytes.py."""
import json
from pathlib import Path

import torch
from make_bitsandbytes import digest, weights
from torch import nn

from peftlab import nf4

GOLDEN = json.loads((Path(__file__).parent / "bitsandbytes.json").read_text(encoding="utf-8"))


def test_the_bytes_are_those_of_bitsandbytes():
    """Every code, every maximum, every code of a maximum."""
    assert torch.allclose(nf4.dynamic_levels(), torch.tensor(GOLDEN["dynamic levels"]), rtol=1e-6, atol=0)
    found = weights()
    assert len(found) > 20
    for name, W in found.items():
        due, layer = GOLDEN[name], nn.Linear(*W.shape[::-1], bias=False)
        layer.weight = nn.Parameter(W)
        single, double = nf4.NF4Linear(layer, double=False), nf4.NF4Linear(layer)
        assert digest(single.packed) == digest(double.packed) == due["codes"], name
        assert digest(single.absmax.view(torch.uint8)) == due["absmax"], name
        assert digest(double.absmax) == due["codes of absmax"], name
        assert torch.allclose(double.scale, torch.tensor(due["scales"]), rtol=1e-6) and abs(double.mean / due["mean"] - 1) < 1e-6
        errors = [((q.weight - W).norm() / W.norm()).item() for q in (single, double)]
        assert torch.allclose(torch.tensor(errors), torch.tensor(due["error"]), rtol=1e-4), name
