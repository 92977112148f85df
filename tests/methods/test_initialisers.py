"""PiSSA and OLoRA against `peft`, which changes the base weights for them, and a file of either for the other."""
import peft
import pytest
import torch
from ladder import EXACT, logits, losses
from tiny import batch, tiny

import peftlab as pl
from peftlab.methods import LoRA, OLoRA, PiSSA

TARGETS = ["q_proj", "v_proj", "down_proj"]
BOTH = pytest.mark.parametrize("method, start", [(PiSSA, "pissa"), (OLoRA, "olora")])


def pair(method, start):
    ours = pl.attach(tiny("llama"), method, TARGETS, "a", r=4, lora_alpha=6)
    config = peft.LoraConfig(target_modules=TARGETS, r=4, lora_alpha=6, init_lora_weights=start)
    return ours, peft.get_peft_model(tiny("llama"), config)


@BOTH
def test_it_trains_as_in_peft(method, start, record_property):
    ours, theirs = pair(method, start)
    found, wanted = losses(ours, batch("llama")), losses(theirs, batch("llama"))
    record_property("difference", (found - wanted).abs().max().item())
    assert found[-1] < found[0]
    assert torch.allclose(found, wanted, atol=1e-5)


@BOTH
def test_as_a_plain_lora_it_is_the_same_in_peft(method, start, tmp_path):
    ours, _ = pair(method, start)
    losses(ours, batch("llama"))
    before = logits(ours, batch("llama"))
    pl.methods.as_lora(ours, "a", "plain")
    assert torch.allclose(logits(ours, batch("llama")), before, atol=EXACT)
    pl.save(ours, tmp_path, "plain")
    reference = peft.PeftModel.from_pretrained(tiny("llama"), tmp_path).eval()
    assert torch.allclose(logits(reference, batch("llama")), before, atol=EXACT)


@BOTH
def test_what_peft_converts_is_read_here(method, start, tmp_path):
    _, theirs = pair(method, start)
    theirs.peft_config["default"].init_lora_weights = True   # `peft` wants it so before it keeps the start
    theirs.save_pretrained(tmp_path / "start")
    theirs.peft_config["default"].init_lora_weights = start
    losses(theirs, batch("llama"))
    theirs.save_pretrained(tmp_path / "trained", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    before = logits(theirs.eval(), batch("llama"))
    ours = pl.load(tiny("llama"), tmp_path / "trained")
    assert ours.switch.recipe["default"][0] is LoRA
    assert torch.allclose(logits(ours, batch("llama")), before, atol=1e-5)


def test_a_rank_beyond_the_weights_is_refused():
    with pytest.raises(ValueError, match="larger than the rank"):
        pl.attach(tiny("llama"), PiSSA, TARGETS, r=17)


def test_only_a_start_can_be_written_down():
    model = pl.attach(tiny("llama"), LoRA, TARGETS, "a")
    with pytest.raises(TypeError, match="only PiSSA and OLoRA"):
        pl.methods.as_lora(model, "a", "plain")
