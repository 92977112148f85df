"""attach, use, mix, detach: what they do, and what they say and leave behind when they cannot."""
import pytest
import torch
from ladder import logits, ours
from specs import SPECS
from tiny import batch, fill, tiny
from torch import nn

import peftlab as pl
from peftlab.files import tensors
from peftlab.layers import adapted
from peftlab.methods import IA3, BitFit, DoRA, LoRA, Pfeiffer
from peftlab.use import parameters

PAIRS = pytest.mark.parametrize("spec, arch", [pytest.param(s, a, id=f"{s.name}-{a}") for s in SPECS for a in s.targets])


def untouched(model, arch="llama"):
    """Whether nothing of ours is on the model."""
    fresh = tiny(arch)
    same = all(m.__dict__.keys() == o.__dict__.keys() and not m._forward_hooks and not m._forward_pre_hooks
               for m, o in zip(model.modules(), fresh.modules()))
    return same and all(p.requires_grad for p in model.parameters()) \
        and [n for n, _ in model.named_modules()] == [n for n, _ in fresh.named_modules()] \
        and all(torch.equal(p, q) for p, q in zip(model.parameters(), fresh.parameters()))


# ------------------------------------------------------------------------------------------------ attach

@pytest.mark.parametrize("targets, message", [
    (["q_porj"], r"no layer is called 'q_porj': the layers end in .*q_proj \(Linear\), .*lm_head \(Linear\)"),
    (["q_proj", "query"], "no layer is called 'query'"),
    ("q_proj,v_proj", "a string is a regular expression for the whole name; did you mean a list"),
    ("q_proj", "did you mean a list"),
    (None, r"a list of endings such as .*; the layers end in"),
    ([], "a list of endings such as")])
def test_a_target_that_matches_nothing_names_the_layers_there_are(targets, message):
    model = tiny("llama")
    with pytest.raises(ValueError, match=message):
        pl.attach(model, LoRA, targets)
    assert untouched(model)


@pytest.mark.parametrize("name", ["", "a.b", "keys", "train", 7])
def test_a_name_that_torch_cannot_hold_is_refused(name):
    model = tiny("llama")
    with pytest.raises(ValueError, match="cannot be an adapter's name"):
        pl.attach(model, LoRA, ["q_proj"], name=name)
    assert untouched(model)


@pytest.mark.parametrize("method, targets, options, error, message", [
    (LoRA, ["input_layernorm"], {}, TypeError, "a LlamaRMSNorm is none: target nn.Linear or Conv1D"),
    (LoRA, ["q_proj", "mlp"], {}, TypeError, "a LlamaMLP is none"),
    (LoRA, ["q_proj"], {"rank": 4}, TypeError, "rank"),
    (IA3, ["q_proj"], {"feedforward": True}, TypeError, "feedforward"),
    (BitFit, ["q_proj", "down_proj"], {}, ValueError, "this Linear has no bias"),
    (LoRA(nn.Linear(2, 2)), ["q_proj"], {}, TypeError, "attach wants a method"),
    ("LoRA", ["q_proj"], {}, TypeError, "attach wants a method"),
    (LoRA, ["q_proj"], {"modules_to_save": ["classifier"]}, ValueError, "no layer is called 'classifier'"),
    (LoRA, ["q_proj"], {"modules_to_save": ["q_proj"]}, ValueError, "both in target_modules and in modules_to_save")])
def test_what_cannot_be_attached_leaves_the_model_as_it_was(method, targets, options, error, message):
    model = tiny("llama")
    with pytest.raises(error, match=message):
        pl.attach(model, method, targets, **options)
    assert untouched(model)


def test_a_taken_name_is_refused_and_the_first_adapter_stays():
    model = ours(SPECS[0], "llama")
    before = logits(model, batch("llama"))
    with pytest.raises(ValueError, match="called 'a' already"):
        pl.attach(model, LoRA, ["k_proj"], name="a")
    with pytest.raises(ValueError, match="no layer is called"):
        pl.attach(model, LoRA, ["nothing"], name="b")
    assert torch.equal(logits(model, batch("llama")), before) and model.switch.active == ("a",)


def test_all_linear_is_every_linear_layer_but_the_output():
    for arch, layers in (("llama", 2 * 7), ("gpt2", 2 * 4), ("bert", 2 * 6 + 2)):       # bert: pooler, classifier
        model = pl.attach(tiny(arch), LoRA, "all-linear", r=1)
        assert len(adapted(model)) == layers


def test_a_second_all_linear_does_not_adapt_the_first_adapter():
    model = pl.attach(tiny("llama"), Pfeiffer, r"model\.layers\.\d+", name="a")          # has linear layers of its own
    pl.attach(model, LoRA, "all-linear", name="b")
    assert not any("adapters.a" in n for n, p in model.named_parameters() if p.requires_grad)


def test_endings_are_whole_names():
    model = pl.attach(tiny("gpt2"), LoRA, ["mlp.c_proj"])
    assert {n for n, p in model.named_parameters() if p.requires_grad} \
        == {f"transformer.h.{i}.mlp.c_proj.adapters.default.lora_{m}" for i in (0, 1) for m in "AB"}
    with pytest.raises(ValueError, match="no layer is called 'proj'"):
        pl.attach(tiny("gpt2"), LoRA, ["proj"])


def test_a_block_to_save_is_copied_layer_by_layer():
    model = pl.attach(tiny("llama"), LoRA, ["q_proj"], name="a", modules_to_save=["mlp", "norm"])
    copied = [n for n in tensors(model, "a") if "lora" not in n]
    assert len(copied) == 2 * 3 + 1 and "base_model.model.model.layers.0.mlp.up_proj.weight" in copied
    assert pl.count(model).trainable == pl.closed_form(tiny("llama"), LoRA, ["q_proj"], modules_to_save=["mlp", "norm"])


def test_an_adapter_starts_in_the_mode_and_on_the_device_of_its_layer():
    for training in (False, True):
        model = pl.attach(tiny("llama").train(training), LoRA, ["q_proj"], lora_dropout=0.5)
        assert {m.training for m in model.modules()} == {training}
        assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_dropout_drops_in_training_alone():
    model = pl.attach(tiny("llama"), LoRA, ["q_proj"], lora_dropout=0.5)
    fill(tensors(model, "default"))
    assert torch.equal(logits(model, batch("llama")), logits(model, batch("llama")))
    model.train()
    assert not torch.equal(logits(model, batch("llama")), logits(model, batch("llama")))


# ------------------------------------------------------------------------------------------------ use and mix

@pytest.mark.parametrize("call", [lambda m: pl.use(m, "b"), lambda m: pl.use(m, "a", "b"),
                                  lambda m: pl.mix(m, ["a", "b"]).__enter__(), lambda m: pl.save(m, "nowhere", "b")])
def test_a_misspelt_adapter_is_named(call):
    model = ours(SPECS[0], "llama")
    before = logits(model, batch("llama"))
    with pytest.raises(ValueError, match="no adapter is called 'b'; there are: a"):
        call(model)
    assert torch.equal(logits(model, batch("llama")), before)


@pytest.mark.parametrize("call", [pl.use, pl.detach, pl.merge, pl.unmerge, lambda m: pl.save(m, "nowhere"),
                                  lambda m: pl.mix(m, [None]).__enter__()])
def test_a_model_without_adapters_says_so(call):
    with pytest.raises(ValueError, match="has no adapters: call attach before"):
        call(tiny("llama"))


def test_use_makes_exactly_its_adapters_trainable():
    model = ours(SPECS[0], "llama")
    pl.attach(model, DoRA, ["k_proj"], name="b")
    for names in (["a"], ["b"], ["a", "b"], []):
        pl.use(model, *names)
        assert {id(p) for p in model.parameters() if p.requires_grad} \
            == {id(p) for name in names for p in parameters(model, name)}


def test_adapters_used_together_run_in_the_order_given():
    model = pl.attach(tiny("llama"), LoRA, ["q_proj"], name="plus")
    pl.attach(model, IA3, ["q_proj"], name="times")
    for name in ("plus", "times"):
        fill(tensors(model, name))
    x, layer = torch.ones(1, 16), model.model.layers[0].self_attn.q_proj
    plus, times = layer.adapters["plus"], layer.adapters["times"]
    pl.use(model)
    y = layer(x)
    pl.use(model, "plus", "times")
    assert torch.allclose(layer(x), times.after(x, plus.after(x, y)))
    pl.use(model, "times", "plus")
    assert torch.allclose(layer(x), plus.after(x, times.after(x, y)))


def test_mix_ends_with_its_block_even_after_an_error():
    model = ours(SPECS[0], "llama")
    before = logits(model, batch("llama"))
    with pytest.raises(ZeroDivisionError), pl.mix(model, ["a", None, "a"]):
        raise ZeroDivisionError
    assert model.switch.rows is None and torch.equal(logits(model, batch("llama")), before)
    with pl.mix(model, [None] * 3):
        with pl.mix(model, ["a"] * 3):
            assert torch.equal(logits(model, batch("llama")), before)
        assert torch.equal(logits(model, batch("llama")), logits(tiny("llama"), batch("llama")))


def test_mix_wants_a_name_for_each_example():
    model = ours(SPECS[0], "llama")
    with pytest.raises(ValueError, match="an empty list"), pl.mix(model, []):
        pass
    with pl.mix(model, ["a", None]), pytest.raises(ValueError, match="2 names for a batch of 3 rows"):
        logits(model, batch("llama"))
    with pl.mix(model, ["a", None]), pytest.raises(ValueError, match="2 names for a batch of 4 rows"):
        model(torch.ones(4, 3, dtype=torch.long))  # twice as many, as in a search over beams, and none runs
    assert "generate" not in vars(model) and not model.switch.searching


def test_a_mixed_batch_trains_each_adapter_on_its_rows():
    model, inputs = ours(SPECS[0], "llama"), batch("llama")
    pl.attach(model, LoRA, ["k_proj"], name="b")
    fill(tensors(model, "b"))
    alone = {}
    for name, i in (("a", 0), ("b", 2)):
        pl.use(model, name)
        model(**{k: v[[i]] for k, v in inputs.items()}).loss.backward()
        alone[name] = [p.grad.clone() for p in parameters(model, name)]
        model.zero_grad()
    pl.use(model, "a", "b")
    with pl.mix(model, ["a", None, "b"]):
        out = model(**inputs)
        torch.stack([torch.nn.functional.cross_entropy(out.logits[i, :-1], inputs["labels"][i, 1:])
                     for i in (0, 1, 2)]).sum().backward()
    for name, gradients in alone.items():
        for p, g in zip(parameters(model, name), gradients):
            assert torch.allclose(p.grad, g, atol=1e-6)


# ------------------------------------------------------------------------------------------------ precision

@PAIRS
def test_a_bfloat16_base_carries_float32_adapters(spec, arch):
    model = tiny(arch).to(torch.bfloat16)
    base = logits(model, batch(arch))
    spec.attach(model, arch)
    if spec.name not in ("FullFineTuning", "LNTuning", "TrainableTokens") and not spec.save.get(arch):       # no copies
        assert {p.dtype for p in parameters(model, "a")} == {torch.float32}
    fill(tensors(model, "a"))
    with pl.mix(model, ["a", None, "a"]):
        mixed = logits(model, batch(arch))
    adapted = logits(model, batch(arch))
    assert adapted.dtype == torch.bfloat16 and torch.isfinite(adapted).all()
    assert torch.allclose(mixed[1], base[1], atol=0.05) and torch.allclose(mixed[0], adapted[0], atol=0.05)
    reference = logits(ours(spec, arch), batch(arch))
    assert (adapted.float() - reference).abs().max() < 0.1 * reference.abs().max()
    model(**batch(arch)).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in parameters(model, "a"))


# ------------------------------------------------------------------------------------------------ detach

def test_detach_restores_what_was_trainable():
    model = tiny("llama")
    model.model.requires_grad_(False)
    pl.attach(model, LoRA, ["q_proj"])
    pl.detach(model)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["lm_head.weight"]


def test_a_model_can_be_adapted_again_after_detach():
    model = ours(SPECS[0], "llama")
    before = logits(model, batch("llama"))
    pl.detach(model)
    assert untouched(model)
    assert torch.equal(logits(ours(SPECS[0], "llama", model=model), batch("llama")), before)


def test_a_single_layer_can_be_the_model():
    layer = nn.Sequential(nn.Linear(4, 3))
    pl.attach(layer, LoRA, ["0"], r=2)
    assert pl.count(layer).trainable == 2 * (4 + 3)
    pl.detach(layer)
    assert [n for n, _ in layer.named_parameters()] == ["0.weight", "0.bias"]
