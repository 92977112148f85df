"""Compacter and LoReFT, which `peft` does not have: against their equations, written here another way."""
import math

import pytest
import torch
from ladder import logits
from tiny import batch, fill, tiny

import peftlab as pl
from peftlab.files import tensors
from peftlab.layers import adapted
from peftlab.methods import Compacter, LoReFT

CASES = {
    "Compacter-llama": (Compacter, "llama", ["o_proj", "down_proj"], {"reduction_factor": 4}),
    "Compacter-bert": (Compacter, "bert", ["attention.output.dense", "output.dense"], {"reduction_factor": 2, "phm_dim": 2}),
    "Compacter-gpt2": (Compacter, "gpt2", ["c_proj"], {"reduction_factor": 4, "phm_dim": 2}),
    "LoReFT-llama": (LoReFT, "llama", r"model\.layers\.\d+", {"r": 3}),
    "LoReFT-gpt2": (LoReFT, "gpt2", r"transformer\.h\.\d+", {"r": 2}),
    "LoReFT-bert": (LoReFT, "bert", ["output.dense"], {"r": 3}),
}
each = pytest.mark.parametrize("method, arch, targets, options", CASES.values(), ids=CASES)


def attached(method, arch, targets, options):
    torch.manual_seed(1)
    return pl.attach(tiny(arch), method, targets, "a", **options)


def first(model):
    return adapted(model, "a")[0][1].adapters["a"]


def by_kronecker(adapter, h):
    """Compacter with `torch.kron`, one product at a time."""
    def dense(part, x):
        W = sum(torch.kron(adapter.rule[i], part.left[i] @ part.right[i]) for i in range(len(adapter.rule)))
        return x @ W + part.bias

    return h + dense(adapter.up, torch.nn.functional.gelu(dense(adapter.down, h)))


def by_projection(adapter, h):
    """LoReFT as the paper says it: take out what h has in the subspace, put in what W h + b says."""
    R = torch.linalg.qr(adapter.rotate.T).Q.T
    assert torch.allclose(R @ R.T, torch.eye(len(R)), atol=1e-5)
    outside = h - h @ R.T @ R
    return outside + (h @ adapter.source.weight.T + adapter.source.bias) @ R


@each
def test_it_computes_its_equation(method, arch, targets, options):
    model = attached(method, arch, targets, options)
    fill(tensors(model, "a"))
    adapter = first(model)
    h = torch.randn(2, 5, tiny(arch).config.hidden_size)
    written = {Compacter: by_kronecker, LoReFT: by_projection}[method]
    assert torch.allclose(adapter.after(None, h), written(adapter, h), atol=1e-5)
    assert not torch.allclose(logits(model, batch(arch)), logits(tiny(arch), batch(arch)), atol=1e-4)


@each
def test_it_learns(method, arch, targets, options):
    model = attached(method, arch, targets, options)
    optimizer, losses = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2), []
    for _ in range(15):
        loss = model(**batch(arch)).logits.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_one_rule_serves_the_whole_model():
    model = attached(*CASES["Compacter-llama"])
    assert len({id(layer.adapters["a"].rule) for _, layer in adapted(model, "a")}) == 1
    assert len(adapted(model, "a")) == 4


def test_compacter_starts_nearly_as_the_base():
    model, base = attached(*CASES["Compacter-llama"]), logits(tiny("llama"), batch("llama"))
    assert torch.allclose(logits(model, batch("llama")), base, atol=1e-3)



@pytest.mark.parametrize("method, options, message", [
    (Compacter, {"phm_dim": 5}, "must divide both widths"),
    (LoReFT, {"r": 10**4}, "no more than")])
def test_what_makes_no_sense_is_refused(method, options, message):
    with pytest.raises(ValueError, match=message):
        pl.attach(tiny("llama"), method, ["o_proj"], **options)


def test_the_count_of_a_real_size():
    """Section 4 of the paper counts about 0.05 % of BERT's parameters for Compacter; ours, with 24 places of width 768."""
    d, m, n = 768, 24, 4
    ours = 24 * Compacter.count(d, d, reduction_factor=32) + Compacter.count_shared(24, phm_dim=n)
    assert ours == 24 * (2 * (d + m) + m + d) + n**3 and math.isclose(ours / 110e6, 0.0005, rel_tol=0.3)
