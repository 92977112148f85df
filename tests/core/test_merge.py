"""merge and unmerge: what they bake in, what they refuse, what they give back."""
import pytest
import torch
from ladder import logits, ours
from specs import SPECS
from test_attach import untouched
from tiny import batch, fill, tiny
from torch import nn

import peftlab as pl
from peftlab import Adapter
from peftlab.files import tensors
from peftlab.methods import IA3, DoRA, FullFineTuning, LoRA


class Squared(Adapter):
    """Not affine."""

    def after(self, x, y):
        return y + 0.1 * y**2


class Shift(Adapter):
    """Adds a vector to a layer that has no bias."""

    keys = {"b": "b"}

    def __init__(self, layer):
        super().__init__(layer)
        self.b = nn.Parameter(torch.ones(layer.out_features))

    def after(self, x, y):
        return y + self.b


def test_what_is_not_affine_is_refused_and_nothing_changes():
    model = pl.attach(tiny("llama"), LoRA, ["q_proj"], name="fine")
    pl.attach(model, Squared, ["down_proj"], name="not")
    pl.use(model, "fine", "not")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"Squared on model.layers.0.mlp.down_proj cannot be merged"):
        pl.merge(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.switch.active == ("fine", "not") and not model.switch.merged


def test_a_shared_weight_is_refused():
    model = pl.attach(tiny("gpt2"), LoRA, ["lm_head"])
    with pytest.raises(ValueError, match="lm_head shares its weight with another layer"):
        pl.merge(model)
    untied = pl.attach(tiny("gpt2", tie_word_embeddings=False), LoRA, ["lm_head"])
    pl.merge(untied)


def test_merging_wants_an_order():
    model = ours(SPECS[0], "llama")
    with pytest.raises(ValueError, match="nothing is merged"):
        pl.unmerge(model)
    with pl.mix(model, ["a"]), pytest.raises(ValueError, match="leave the mix block"):
        pl.merge(model)
    pl.use(model)
    with pytest.raises(ValueError, match="no adapter is switched on"):
        pl.merge(model)
    pl.use(model, "a")
    pl.merge(model)
    for verb, call in (("merge", pl.merge), ("attach", lambda m: pl.attach(m, LoRA, ["q_proj"], name="b")),
                       ("switch", lambda m: pl.use(m)), ("save", lambda m: pl.save(m, "nowhere", "a")),
                       ("mix", lambda m: pl.mix(m, [None]).__enter__())):
        with pytest.raises(ValueError, match=f"a merged into the weights: unmerge before you {verb}"):
            call(model)
    pl.unmerge(model)
    assert model.switch.active == ("a",)


def test_several_adapters_merge_together():
    model = pl.attach(tiny("llama"), LoRA, ["q_proj", "down_proj"], name="a")
    pl.attach(model, IA3, ["q_proj", "down_proj"], name="b", feedforward_modules=["down_proj"])
    pl.attach(model, DoRA, ["k_proj"], name="c")
    for name in "abc":
        fill(tensors(model, name))
    pl.use(model, "b", "a", "c")
    before = logits(model, batch("llama"))
    pl.merge(model)
    assert torch.allclose(logits(model, batch("llama")), before, atol=2e-6)
    pl.unmerge(model)
    assert torch.equal(logits(model, batch("llama")), before) and model.switch.active == ("b", "a", "c")


def test_a_layer_without_a_bias_gets_one_if_it_must():
    model = pl.attach(tiny("llama"), Shift, ["up_proj"])
    before = logits(model, batch("llama"))
    pl.merge(model)
    assert torch.equal(model.model.layers[0].mlp.up_proj.bias, torch.ones(24))
    assert torch.allclose(logits(model, batch("llama")), before, atol=1e-6)
    pl.detach(model)
    assert untouched(model) and model.model.layers[0].mlp.up_proj.bias is None


def test_dropout_does_not_end_up_in_the_weight():
    model = pl.attach(tiny("llama"), LoRA, ["q_proj"], lora_dropout=0.5)
    fill(tensors(model, "default"))
    before = logits(model, batch("llama"))
    model.train()
    pl.merge(model)
    assert all(m.training for m in model.modules())
    assert torch.allclose(logits(model.eval(), batch("llama")), before, atol=1e-6)


def test_detach_after_merge_gives_the_base_model():
    model = ours(SPECS[0], "llama")
    pl.merge(model)
    pl.detach(model)
    assert untouched(model)


def test_detach_can_keep_what_was_merged():
    model = ours(SPECS[0], "llama")
    before = logits(model, batch("llama"))
    pl.merge(model)
    pl.detach(model, keep_merged=True)
    assert torch.allclose(logits(model, batch("llama")), before, atol=1e-6)
    assert model.state_dict().keys() == tiny("llama").state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or hasattr(m, "adapters") for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_of_low_precision_keeps_its_precision_and_comes_back_exactly(dtype):
    model = tiny("llama").to(dtype)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    ours(SPECS[0], "llama", model=model)
    pl.merge(model)
    W = model.model.layers[0].self_attn.q_proj.weight
    assert W.dtype == dtype and not torch.equal(W, state["model.layers.0.self_attn.q_proj.weight"])
    pl.detach(model)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_copies_of_norms_and_embeddings_merge():
    model = pl.attach(tiny("bert"), FullFineTuning, ["LayerNorm", "word_embeddings"], name="a")
    fill(tensors(model, "a"))
    before = logits(model, batch("bert"))
    pl.merge(model)
    assert torch.allclose(logits(model, batch("bert")), before, atol=2e-6)


def test_4_bit_weights_are_refused():
    model = ours(SPECS[0], "llama", model=pl.nf4.quantize_model(tiny("llama")))
    with pytest.raises(ValueError, match="stores its weight in 4 bits"):
        pl.merge(model)
