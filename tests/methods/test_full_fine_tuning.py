"""Copies of layers: the whole model, or its head alone, learns what training in place learns."""
import peft
import pytest
import torch
from ladder import logits, losses
from tiny import batch, tiny
from torch import nn

import peftlab as pl
from peftlab.methods import FullFineTuning, LoRA


def leaves(model):
    """The names of all layers that hold parameters themselves, as a regular expression."""
    return "|".join(path.replace(".", r"\.") for path, layer in model.named_modules() if layer._parameters)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "bert"])
def test_copies_of_all_layers_learn_what_the_model_itself_learns(arch, record_property):
    plain = tiny(arch, **({"tie_word_embeddings": False} if arch == "gpt2" else {}))
    model = tiny(arch, **({"tie_word_embeddings": False} if arch == "gpt2" else {}))
    before = logits(model, batch(arch))
    pl.attach(model, FullFineTuning, leaves(model), name="a")
    assert pl.count(model).trainable == pl.count(plain).total
    expected, found = losses(plain, batch(arch)), losses(model, batch(arch))
    record_property("difference", (found - expected).abs().max().item())
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)
    pl.detach(model)
    assert torch.equal(logits(model, batch(arch)), before)


def test_copies_of_tied_layers_are_not_tied():
    """GPT-2's output layer is its embedding: trained in place they stay one, as copies they are two."""
    model = tiny("gpt2")
    pl.attach(model, FullFineTuning, ["wte", "lm_head"], name="a")
    assert pl.count(model).trainable == 2 * 40 * 16


@pytest.mark.parametrize("arch, head", [("llama", "lm_head"), ("bert", "classifier")])
def test_the_head_alone_learns_what_peft_s_modules_to_save_learn(arch, head, record_property):
    target = {"llama": "q_proj", "bert": "query"}[arch]
    reference = peft.get_peft_model(tiny(arch), peft.LoraConfig(target_modules=[target], modules_to_save=[head]))
    for n, p in reference.named_parameters():
        p.requires_grad_("modules_to_save" in n)             # B is zero: LoRA itself does nothing
    model = pl.attach(tiny(arch), FullFineTuning, [head], name="a")
    expected, found = losses(reference, batch(arch)), losses(model, batch(arch))
    record_property("difference", (found - expected).abs().max().item())
    assert torch.allclose(found, expected, rtol=0, atol=1e-6) and found[-1] < found[0]


def test_a_copy_carries_none_of_what_hangs_on_the_layer():
    model = pl.attach(tiny("llama"), LoRA, ["q_proj"], name="a")
    pl.attach(model, FullFineTuning, ["q_proj"], name="b")
    copy = model.model.layers[0].self_attn.q_proj.adapters["b"].copy
    assert type(copy) is nn.Linear and not copy._forward_hooks and not hasattr(copy, "adapters")


def test_a_block_has_no_parameters_of_its_own_to_copy():
    with pytest.raises(TypeError, match="name the layers inside it"):
        pl.attach(tiny("llama"), FullFineTuning, ["mlp"])


def test_a_layer_stored_in_4_bits_cannot_be_copied():
    model = pl.nf4.quantize_model(tiny("bert"), ["classifier"])
    with pytest.raises(TypeError, match="leave the layer out"):
        pl.attach(model, FullFineTuning, ["classifier"])
    assert not hasattr(model, "switch")
