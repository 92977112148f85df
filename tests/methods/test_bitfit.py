"""BitFit: changes of biases learn what the biases themselves learn, LayerNorm's included."""
import pytest
import torch
from ladder import logits
from tiny import batch, tiny

import peftlab as pl
from peftlab.methods import BitFit


def losses(model, inputs):
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0)
    found = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return torch.tensor(found)


@pytest.mark.parametrize("arch", ["bert", "gpt2"])
def test_it_learns_what_training_all_biases_in_place_learns(arch, record_property):
    plain, model = tiny(arch), tiny(arch)
    for n, p in plain.named_parameters():
        p.requires_grad_(n.endswith("bias"))
    biased = "|".join(n.removesuffix(".bias").replace(".", r"\.") for n, _ in model.named_parameters()
                      if n.endswith(".bias"))
    pl.attach(model, BitFit, biased, name="a")
    assert pl.count(model).trainable == sum(p.numel() for p in plain.parameters() if p.requires_grad)
    expected, found = losses(plain, batch(arch)), losses(model, batch(arch))
    record_property("difference", (found - expected).abs().max().item())
    assert torch.allclose(found, expected, rtol=0, atol=1e-6) and found[-1] < found[0]
    trained = logits(model.eval(), batch(arch))
    pl.merge(model)
    assert torch.allclose(logits(model, batch(arch)), trained, atol=1e-6)


def test_a_model_without_biases_has_no_bitfit():
    model = tiny("llama", attention_bias=False)
    with pytest.raises(ValueError, match="has no bias"):
        pl.attach(model, BitFit, "all-linear")
    assert not hasattr(model, "switch") and all(p.requires_grad for p in model.parameters())
