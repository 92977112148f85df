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
from peftlab.config import CONFIG
from peftlab.count import closed_form
from peftlab.files import WEIGHTS, tensors
from peftlab.layers import adapted
from peftlab.methods import IA3, DoRA, LoRA, PromptTuning

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


def _header(tensors):
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


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
    "unknown field": (lambda f: reconfigure(f, target_parameters=["w"]), ValueError, "target_parameters=.*, which LoRA here does not"),
    "a pattern": (lambda f: reconfigure(f, rank_pattern={"q_proj": 2}), ValueError,
                  r"lora_A.weight is \(4, 16\) in the file and \(2, 16\) here"),
    "a pattern that is none": (lambda f: reconfigure(f, rank_pattern={"(": 2}), ValueError, "is not a regular expression"),
    "patterns in a list": (lambda f: reconfigure(f, rank_pattern=[2]), ValueError, "should be names of layers with a number each"),
    "a rank of a billion": (lambda f: reconfigure(f, r=10**9), ValueError, "describes .*000,000,000 numbers"),
    "a billion by a pattern": (lambda f: reconfigure(f, rank_pattern={"q_proj": 10**9}), ValueError, "describes .* numbers, and"),
    "a rank below zero": (lambda f: reconfigure(f, r=-4), ValueError, "does not describe a LoRA"),
    "a rank of zero": (lambda f: reconfigure(f, r=0), ValueError, "does not describe a LoRA"),
    "a rank and a half": (lambda f: reconfigure(f, r=4.5), ValueError, "does not describe a LoRA"),
    "an alpha that is no number": (lambda f: reconfigure(f, lora_alpha="8"), ValueError, "lora_alpha='8': it should be a number"),
    "an endless alpha": (lambda f: reconfigure(f, lora_alpha=float("inf")), ValueError, "lora_alpha=inf, which is no number"),
    "a pattern of layers that is none": (lambda f: reconfigure(f, target_modules="(q_proj"), ValueError, "is not a regular expression"),
    "targets that are a number": (lambda f: reconfigure(f, target_modules=7), ValueError, "target_modules=7: it should be a list of names"),
    "a method that is a list": (lambda f: reconfigure(f, peft_type=["LORA"]), ValueError, "a method we do not have"),
    "config nested a thousand deep": (lambda f: (f / CONFIG).write_text("[" * 100_000), ValueError, "not valid JSON"),
    "numbers that are not finite": (lambda f: rewrite(f, lambda s: s[KEY].fill_(float("nan"))), ValueError, f"{KEY} holds .* not all finite"),
    "whole numbers": (lambda f: rewrite(f, lambda s: s.update({KEY: s[KEY].long()})), ValueError, f"{KEY} holds torch.int64"),
    "a header longer than the file": (lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 7 + b"\x00" + b"{}"), ValueError, "is damaged"),
    "a header that claims a terabyte": (lambda f: (f / WEIGHTS).write_bytes(_header(
        {KEY: {"dtype": "F32", "shape": [4, 2**36], "data_offsets": [0, 2**40]}})), ValueError, "is damaged"),
    "two tensors in one place": (lambda f: (f / WEIGHTS).write_bytes(_header(
        {k: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for k in "ab"}) + b"1234"), ValueError, "is damaged"),
    "a changed base weight along": (lambda f: rewrite(f, lambda s: s.update(
        {"base_model.model.model.embed_tokens.weight": torch.ones(99, 16)})), ValueError, "a weight of the base that was changed"),
    "pickled weights alone": (lambda f: (f / WEIGHTS).rename(f / "adapter_model.bin"), FileNotFoundError, "can run code"),
    "biases": (lambda f: reconfigure(f, bias="all"), ValueError, "bias='all': biases trained in place are not loaded"),
    "a changed base": (lambda f: reconfigure(f, init_lora_weights="pissa"), ValueError, "init_lora_weights='pissa'"),
    "a rank that is no number": (lambda f: reconfigure(f, r="8"), ValueError, "r='8': it should be a number"),
    "another rank": (lambda f: reconfigure(f, r=3), ValueError, r"lora_A.weight is \(4, 16\) in the file and \(3, 16\)"),
    "other layers": (lambda f: reconfigure(f, target_modules=["query"]), ValueError, "no layer is called 'query'"),
    "fewer layers": (lambda f: reconfigure(f, target_modules=["q_proj", "v_proj"]), ValueError,
                     "nowhere in the model: .*down_proj.lora_A.weight' and 3 more"),
    "a tensor missing": (lambda f: rewrite(f, lambda s: s.pop(KEY)), ValueError, f"missing in the file: '{KEY}'"),
    "a tensor too many": (lambda f: rewrite(f, lambda s: s.update(more=torch.ones(1))), ValueError,
                          "nowhere in the model: 'more'"),
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
    with pytest.raises(ValueError, match="num_virtual_tokens=None: it should be a number"):
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


@pytest.mark.parametrize("arch, at", [("llama", "embed_tokens"), ("bert", "word_embeddings"), ("gpt2", "wte")])
def test_lora_on_an_embedding_is_the_library_s(arch, at, tmp_path):
    import warnings

    linear = {"llama": "q_proj", "bert": "query", "gpt2": "c_attn"}[arch]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                      # GPT-2's tied table, and Conv1D
        theirs = peft.get_peft_model(tiny(arch), peft.LoraConfig(r=3, lora_alpha=6, target_modules=[at, linear]))
        fill({n: p for n, p in theirs.named_parameters() if p.requires_grad})
        theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
        model = pl.load(tiny(arch), tmp_path / "theirs")
        assert torch.allclose(logits(model, batch(arch)), logits(theirs, batch(arch)), atol=1e-5)
        assert pl.count(model).trainable == theirs.get_nb_trainable_parameters()[0]
        pl.save(model, tmp_path / "ours")
        back = peft.PeftModel.from_pretrained(tiny(arch), tmp_path / "ours")
    assert torch.allclose(logits(back, batch(arch)), logits(theirs, batch(arch)), atol=1e-5)
    changed = logits(model, batch(arch))
    if arch == "gpt2":
        with pytest.raises(ValueError, match="shares its weight"):
            pl.merge(model)
    else:
        pl.merge(model)
        assert torch.allclose(logits(model, batch(arch)), changed, atol=1e-4)


def test_lora_on_an_embedding_starts_as_the_base_and_learns():
    model = pl.attach(tiny("llama"), LoRA, ["embed_tokens"], r=3)
    assert torch.equal(logits(model, batch("llama")), logits(tiny("llama"), batch("llama")))
    model(**batch("llama")).logits.sum().backward()
    adapter = model.model.embed_tokens.adapters["default"]
    assert adapter.lora_A.grad.any() and not adapter.lora_B.grad.any()
    read = batch("llama")["input_ids"].unique()
    assert not adapter.lora_A.grad[:, [i for i in range(adapter.lora_A.shape[1]) if i not in read]].any()


@pytest.mark.parametrize("patterns", [
    {"rank_pattern": {"q_proj": 2}},
    {"rank_pattern": {"layers.0.self_attn.q_proj": 2, "v_proj": 5}, "alpha_pattern": {"v_proj": 20}},
    {"rank_pattern": {r"layers\.\d+\.self_attn\.v_proj": 1}, "alpha_pattern": {r".*\.0\.self_attn\.q_proj": 1}},
])
@pytest.mark.parametrize("rs", [False, True])
def test_ranks_and_alphas_by_pattern_are_the_library_s(patterns, rs, tmp_path):
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], use_rslora=rs, **patterns)
    theirs = peft.get_peft_model(tiny("llama"), config)
    fill({n: p for n, p in theirs.named_parameters() if p.requires_grad})
    theirs.save_pretrained(tmp_path / "theirs")
    model = pl.load(tiny("llama"), tmp_path / "theirs")
    assert torch.allclose(logits(model, batch("llama")), logits(theirs, batch("llama")), atol=1e-5)
    back = peft.PeftModel.from_pretrained(tiny("llama"), pl.save(model, tmp_path / "ours"))
    assert torch.allclose(logits(back, batch("llama")), logits(theirs, batch("llama")), atol=1e-5)
    options = {"r": 4, "lora_alpha": 8, "use_rslora": rs, **patterns}
    assert closed_form(tiny("llama"), LoRA, ["q_proj", "v_proj"], **options) == theirs.get_nb_trainable_parameters()[0]


def test_a_table_of_the_base_that_lies_in_the_file_is_passed_over(tmp_path):
    theirs = peft.get_peft_model(tiny("llama"), peft.LoraConfig(r=3, target_modules=["q_proj", "embed_tokens"]))
    fill({n: p for n, p in theirs.named_parameters() if p.requires_grad})
    theirs.save_pretrained(tmp_path, save_embedding_layers=True)
    assert any("base_layer" in k or "lm_head" in k for k in load_file(tmp_path / WEIGHTS)), "peft no longer saves the table"
    model = pl.load(tiny("llama"), tmp_path)
    assert torch.allclose(logits(model, batch("llama")), logits(theirs, batch("llama")), atol=1e-5)


def test_a_magnitude_under_its_longer_name_is_read(tmp_path):
    """As releases of `peft` before 0.10 and after wrote DoRA's: with and without `.weight`."""
    model = pl.attach(tiny("llama"), DoRA, ["q_proj"], name="a")
    fill(tensors(model, "a"))
    rewrite(pl.save(model, tmp_path, "a"), lambda s: s.update(
        {k + ".weight": s.pop(k) for k in [k for k in s if "magnitude" in k]}))
    assert torch.equal(logits(pl.load(tiny("llama"), tmp_path), batch("llama")), logits(model, batch("llama")))


def test_several_adapters_that_peft_saved_together_are_loaded_one_by_one(tmp_path):
    together = peft.get_peft_model(tiny("llama"), peft.LoraConfig(target_modules=["q_proj"], r=2), adapter_name="reviews")
    together.add_adapter("tweets", peft.LoraConfig(target_modules=["v_proj"], r=4))
    together.save_pretrained(tmp_path)
    model = tiny("llama")
    with pytest.raises(FileNotFoundError, match="several adapters, reviews, tweets: load each"):
        pl.load(model, tmp_path)
    for name in ("reviews", "tweets"):
        pl.load(model, tmp_path / name, name)
    assert list(model.switch.recipe) == ["reviews", "tweets"]


def test_who_derives_from_a_method_takes_none_of_its_files(tmp_path):
    class Louder(LoRA):
        """A learner's own: it computes something else, so its file is no LoRA's."""

        def after(self, x, y):
            return y + 2 * (super().after(x, y) - y)

    model = pl.attach(tiny("llama"), LoRA, ["q_proj"])
    pl.save(model, tmp_path / "lora")
    assert pl.load(tiny("llama"), tmp_path / "lora").switch.recipe["default"][0] is LoRA
    pl.save(pl.attach(tiny("llama"), Louder, ["q_proj"]), tmp_path / "own")
    assert json.loads((tmp_path / "own" / CONFIG).read_text())["peft_type"] == "Louder"
    assert pl.load(tiny("llama"), tmp_path / "own").switch.recipe["default"][0] is Louder
