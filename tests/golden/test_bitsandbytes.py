"""What nf4 stores against bitsandbytes: golden numbers, made by make_bitsandbytes.py."""
import json
from pathlib import Path

import torch
from make_bitsandbytes import digest, weights
from torch import nn

from peftlab import nf4

GOLDEN = json.loads((Path(__file__).parent / "bitsandbytes.json").read_text(encoding="utf-8"))


def as_there(codes, absmax):
    """The bytes of bitsandbytes, which divides zero by zero in a block of zeros and has code 0 there, the level -1."""
    return nf4.pack(codes.masked_fill((absmax == 0).repeat_interleave(nf4.BLOCK)[: len(codes)], 0))


def test_the_bytes_are_those_of_bitsandbytes():
    """Every code, every maximum, every code of a maximum."""
    assert torch.allclose(nf4.dynamic_levels(), torch.tensor(GOLDEN["dynamic levels"]), rtol=1e-6, atol=0)
    found = weights()
    assert len(found) > 20
    for name, W in found.items():
        due, layer = GOLDEN[name], nn.Linear(*W.shape[::-1], bias=False)
        layer.weight = nn.Parameter(W)
        single, double = nf4.NF4Linear(layer, double=False), nf4.NF4Linear(layer)
        assert digest(as_there(*nf4.quantize(W))) == due["codes"] and torch.equal(single.packed, double.packed), name
        assert digest(single.absmax.view(torch.uint8)) == due["absmax"], name
        assert digest(double.absmax) == due["codes of absmax"], name
        assert torch.allclose(double.scale, torch.tensor(due["scales"]), rtol=1e-6) and abs(double.mean / due["mean"] - 1) < 1e-6
        errors = [((q.weight - W).norm() / W.norm()).item() for q in (single, double)]
        known = [abs(mine / theirs - 1) < 1e-4 for mine, theirs in zip(errors, due["error"])]
        zeros = bool((single.absmax == 0).any())
        assert known[0] and (known[1] or zeros and errors[1] < due["error"][1]), name
