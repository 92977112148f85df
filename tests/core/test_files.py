"""save and load: what is written, and what is said of files that do not fit, with the model left as it was."""
import json

import peft
import pytest
import torch
from ladder import logits, ours
from safetensors.torch import load_file, save_file
from specs import SPECS
from test_attach import untouched
from test_merge import Shift, Squared
from tiny import batch, fill, tiny
from torch import nn

import peftlab as pl
from peftlab.attach import adapted
from peftlab.files import CONFIG, WEIGHTS, tensors
from peftlab.methods import IA3, LoRA, PromptTuning

KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def folder(tmp_path):
    return pl.save(ours(SPECS[0], "llama"), tmp_path, "a")


def reconfigure(folder, **fields):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **fields}))


def rewrite(folder, change):
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)


def cut(file, share):
    data = file.read_bytes()
    file.write_bytes(data[:int(len(data) * share)])


DAMAGE = {
    "no folder": (lambda f: [p.unlink() for p in f.iterdir()], FileNotFoundError, "holds no adapter_config.json"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), FileNotFoundError, "holds no adapter_model.safetensors"),
    "weights cut short": (lambda f: cut(f / WEIGHTS, 0.9), ValueError, "adapter_model.safetensors is damaged or cut"),
    "weights empty": (lambda f: cut(f / WEIGHTS, 0), ValueError, "adapter_model.safetensors is damaged or cut short"),
    "weights no safetensors": (lambda f: (f / WEIGHTS).write_bytes(b"version https://git-lfs" * 9), ValueError,
                               "is damaged"),
    "config cut short": (lambda f: cut(f / CONFIG, 0.5), ValueError, "adapter_config.json is not valid JSON"),
    "config no text": (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe\x00"), ValueError, "not valid JSON"),
    "config no fields": (lambda f: (f / CONFIG).write_text("[1]"), ValueError, "holds a list, not the fields"),
    "unknown method": (lambda f: reconfigure(f, peft_type="SHADOW"), ValueError, "'SHADOW', a method we do not have"),
    "no method": (lambda f: reconfigure(f, peft_type=None), ValueError, "peft_type None, a method we do not have"),
    "unknown field": (lambda f: reconfigure(f, lora_bias=True), ValueError, "lora_bias=True, which LoRA here does not"),
    "a pattern": (lambda f: reconfigure(f, rank_pattern={"q_proj": 2}), ValueError, "sets rank_pattern="),
    "biases": (lambda f: reconfigure(f, bias="all"), ValueError, "bias='all': biases trained in place are not loaded"),
    "a changed base": (lambda f: reconfigure(f, init_lora_weights="pissa"), ValueError, "init_lora_weights='pissa'"),
    "a rank that is no number": (lambda f: reconfigure(f, r="8"), ValueError, "adapter_config.json does not describe"),
    "another rank": (lambda f: reconfigure(f, r=3), ValueError, r"lora_A.weight is \(4, 16\) in the file and \(3, 16\)"),
    "other layers": (lambda f: reconfigure(f, target_modules=["query"]), ValueError, "no layer is called 'query'"),
    "fewer layers": (lambda f: reconfigure(f, target_modules=["q_proj", "v_proj"]), ValueError,
                     "nowhere in the model: .*down_proj.lora_A.weight and 3 more"),
    "a tensor missing": (lambda f: rewrite(f, lambda s: s.pop(KEY)), ValueError, f"missing in the file: {KEY}"),
    "a tensor too many": (lambda f: rewrite(f, lambda s: s.update(more=torch.ones(1))), ValueError,
                          "nowhere in the model: more"),
    "a tensor transposed": (lambda f: rewrite(f, lambda s: s.update({KEY: s[KEY].T.contiguous()})), ValueError,
                            rf"{KEY} is \(16, 4\) in the file and \(4, 16\) here"),
}


@pytest.mark.parametrize("damage, error, message", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_does_not_fit_is_named_and_the_model_stays(folder, damage, error, message):
    damage(folder)
    model = tiny("llama")
    with pytest.raises(error, match=message):
        pl.load(model, folder)
    assert untouched(model)


@pytest.mark.parametrize("damage, error, message", DAMAGE.values(), ids=DAMAGE)
def test_adapters_that_are_there_stay_as_they_are(folder, damage, error, message):
    damage(folder)
    model = pl.attach(tiny("llama"), IA3, ["k_proj"], name="first")
    fill(tensors(model, "first"))
    pl.attach(model, IA3, ["v_proj"], name="second")
    pl.use(model, "first")
    before, state = logits(model, batch("llama")), {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(error, match=message):
        pl.load(model, folder, "third")
    assert model.switch.active == ("first",) and list(model.switch.recipe) == ["first", "second"]
    assert state.keys() == model.state_dict().keys() and torch.equal(logits(model, batch("llama")), before)
    assert {path.split(".")[-1] for path, _ in adapted(model)} == {"k_proj", "v_proj"}
    pl.detach(model)
    assert untouched(model)


def test_a_prompt_without_its_length_is_refused(tmp_path):
    model = pl.attach(tiny("llama"), PromptTuning, name="a", num_virtual_tokens=3)
    reconfigure(pl.save(model, tmp_path, "a"), num_virtual_tokens=None)
    fresh = tiny("llama")
    with pytest.raises(ValueError, match="does not describe a PromptTuning"):
        pl.load(fresh, tmp_path)
    assert untouched(fresh)


def test_a_name_that_is_taken_is_refused_before_anything_is_loaded(folder):
    model = pl.load(tiny("llama"), folder, "a")
    before = logits(model, batch("llama"))
    with pytest.raises(ValueError, match="called 'a' already"):
        pl.load(model, folder, "a")
    assert torch.equal(logits(model, batch("llama")), before)


def test_parameters_without_a_name_in_the_file_are_not_lost_in_silence(tmp_path):
    class Nameless(Shift):
        keys = {}

    with pytest.raises(ValueError, match="Nameless has 2 parameters that its `keys` do not name"):
        pl.save(pl.attach(tiny("llama"), Nameless, ["up_proj"], name="a"), tmp_path / "new", "a")
    assert not (tmp_path / "new").exists()


def test_a_learner_s_own_method_is_saved_and_loaded_by_its_name(tmp_path):
    model = pl.attach(tiny("llama"), Shift, ["up_proj"], name="a")
    fill(tensors(model, "a"))
    again = pl.load(tiny("llama"), pl.save(model, tmp_path, "a"), "b")
    assert torch.equal(logits(again, batch("llama")), logits(model, batch("llama")))
    assert again.switch.recipe["b"][0] is Shift
    assert not tensors(pl.attach(tiny("llama"), Squared, ["up_proj"]), "default")


def test_what_is_written(folder):
    config = json.loads((folder / CONFIG).read_text())
    assert {p.name for p in folder.iterdir()} == {CONFIG, WEIGHTS}
    assert config["peft_type"] == "LORA" and config["task_type"] == "CAUSAL_LM" and config["r"] == 4
    assert config["target_modules"] == ["q_proj", "v_proj", "down_proj"] and config["lora_alpha"] == 6
    assert config["lora_dropout"] == 0.0                     # what was not given is written as well
    assert load_file(folder / WEIGHTS)[KEY].dtype == torch.float32


def test_saving_twice_replaces_and_a_failure_leaves_the_old_file(folder, monkeypatch):
    before = (folder / WEIGHTS).read_bytes()
    model = ours(SPECS[0], "llama", "other")

    def full_disk(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("peftlab.files.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        pl.save(model, folder, "a")
    assert (folder / WEIGHTS).read_bytes() == before
    monkeypatch.undo()
    pl.save(model, folder, "a")
    assert (folder / WEIGHTS).read_bytes() != before
    assert torch.equal(logits(pl.load(tiny("llama"), folder), batch("llama")), logits(model, batch("llama")))


@pytest.mark.parametrize("init", [True, False, "gaussian"])
def test_an_initialisation_that_leaves_the_base_alone_does_not_matter(init, tmp_path):
    reference = peft.get_peft_model(tiny("llama"), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=init))
    reference.eval().save_pretrained(tmp_path)
    assert torch.allclose(logits(pl.load(tiny("llama"), tmp_path), batch("llama")), logits(reference, batch("llama")),
                          atol=1e-6)


@pytest.mark.parametrize("init", ["pissa", "olora", "orthogonal"])
def test_an_initialisation_that_changes_the_base_is_refused(init, tmp_path):
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=init, r=4)
    peft.get_peft_model(tiny("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"init_lora_weights='{init}'"):
        pl.load(tiny("llama"), tmp_path)


def test_targets_given_as_a_pattern_are_written_as_one(tmp_path):
    model = pl.attach(tiny("llama"), LoRA, r".*layers\.1\..*_proj", name="a", r=2)
    fill(tensors(model, "a"))
    pl.save(model, tmp_path, "a")
    for again in (pl.load(tiny("llama"), tmp_path), peft.PeftModel.from_pretrained(tiny("llama"), tmp_path).eval()):
        assert torch.allclose(logits(again, batch("llama")), logits(model, batch("llama")), atol=1e-6)


def test_all_linear_loads_in_peft_as_well(tmp_path):
    model = pl.attach(tiny("llama"), LoRA, "all-linear", name="a", r=2)
    fill(tensors(model, "a"))
    pl.save(model, tmp_path, "a")
    reference = peft.PeftModel.from_pretrained(tiny("llama"), tmp_path).eval()
    assert torch.allclose(logits(reference, batch("llama")), logits(model, batch("llama")), atol=2e-6)


def test_a_half_precision_file_fills_a_float32_adapter(folder):
    rewrite(folder, lambda s: s.update({k: v.half() for k, v in s.items()}))
    model = pl.load(tiny("llama"), folder)
    assert {t.dtype for t in tensors(model, "default").values()} == {torch.float32}


def test_the_base_can_be_saved_from_under_its_adapters(tmp_path):
    """`detach` gives back names that the base's own file has; while attached, the adapters are in its state dict."""
    model = ours(SPECS[0], "llama")
    assert any(".adapters." in k for k in model.state_dict())
    pl.detach(model)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(logits(again.eval(), batch("llama")), logits(tiny("llama"), batch("llama")))
    assert isinstance(again, nn.Module)
