"""Adapters put together: AdapterFusion, and the compositions that need no class of their own."""
import pytest
import torch
from ladder import logits
from tiny import batch, fill, tiny

import peftlab as pl
from peftlab.count import closed_form
from peftlab.files import tensors
from peftlab.layers import adapted
from peftlab.methods import AdapterFusion, Houlsby, LoRA, ParallelAdapter, PrefixTuning

PLACES = {"llama": ["o_proj", "down_proj"], "bert": ["attention.output.dense", "output.dense"], "gpt2": ["c_proj"]}
each = pytest.mark.parametrize("arch", PLACES)


def with_two(arch):
    model = tiny(arch)
    torch.manual_seed(3)
    for name in ("first", "second"):
        pl.attach(model, Houlsby, PLACES[arch], name, reduction_factor=4)
        fill(tensors(model, name), name)
    return model


def fused(arch):
    return pl.attach(with_two(arch), AdapterFusion, PLACES[arch], "fusion", adapters=["first", "second"])


@each
def test_fusion_is_attention_over_what_the_adapters_say(arch):
    model = fused(arch)
    fill(tensors(model, "fusion"))
    layer = adapted(model, "fusion")[0][1]
    fusion, h = layer.adapters["fusion"], torch.randn(2, 3, tiny(arch).config.hidden_size)
    got = fusion.after(None, h)
    for i in range(2):
        for t in range(3):                                    # token by token, as the paper writes it
            said = [layer.adapters[n].after(None, h[i, t]) for n in ("first", "second")]
            q = fusion.query.weight @ h[i, t]
            score = torch.stack([q @ (fusion.key.weight @ a) for a in said]).softmax(0)
            wanted = sum(s * (fusion.value.weight @ a) for s, a in zip(score, said))
            assert torch.allclose(got[i, t], wanted, atol=1e-5)


@each
def test_fusion_leaves_the_adapters_that_it_listens_to_as_they_are(arch):
    model, unfused = fused(arch), with_two(arch)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".fusion." in n for n in trained)
    model(**batch(arch)).logits.square().mean().backward()
    for m in (model, unfused):
        pl.use(m, "first")
    assert torch.equal(logits(model, batch(arch)), logits(unfused, batch(arch)))


def test_fusion_of_two_equal_adapters_starts_as_one_of_them():
    model = with_two("llama")
    ours, theirs = tensors(model, "first"), tensors(model, "second")
    with torch.no_grad():
        for a, b in zip(ours.values(), theirs.values()):
            b.copy_(a)
    pl.use(model, "first")
    one = logits(model, batch("llama"))
    pl.attach(model, AdapterFusion, PLACES["llama"], "fusion", adapters=["first", "second"])
    assert torch.allclose(logits(model, batch("llama")), one, atol=1e-3)


def test_fusion_of_nothing_is_refused():
    for adapters in ([], ["first", "third"], ["lora"]):
        model = with_two("llama")
        pl.attach(model, LoRA, PLACES["llama"], "lora")
        with pytest.raises(ValueError, match="attach Houlsby adapters first"):
            pl.attach(model, AdapterFusion, PLACES["llama"], "fusion", adapters=adapters)
        assert "fusion" not in model.switch.recipe


@pytest.mark.parametrize("parts", [
    {"prefix": (PrefixTuning, None, {"num_virtual_tokens": 4}), "ffn": (ParallelAdapter, ["mlp"], {})},
    {"prefix": (PrefixTuning, None, {"num_virtual_tokens": 4}), "lora": (LoRA, ["q_proj", "v_proj"], {"r": 2}),
     "adapter": (Houlsby, ["down_proj"], {"reduction_factor": 4})}], ids=["MAM", "as UniPELT, without its gates"])
def test_a_mix_of_methods_is_methods_switched_on_together(parts):
    """The mix-and-match adapter (arXiv 2110.04366) is a prefix and a parallel adapter."""
    model = tiny("llama")
    for name, (method, targets, options) in parts.items():
        pl.attach(model, method, targets, name, **options)
        fill(tensors(model, name))
    pl.use(model, *parts)
    together = logits(model, batch("llama"))
    assert pl.count(model).trainable == sum(closed_form(tiny("llama"), m, t, **o) for m, t, o in parts.values())
    for name in parts:
        pl.use(model, *(n for n in parts if n != name))
        assert not torch.allclose(logits(model, batch("llama")), together, atol=1e-4), f"{name} does nothing"
    pl.use(model, *parts)
    model(**batch("llama")).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
