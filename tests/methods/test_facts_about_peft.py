"""What `peft` 0.21 itself does not do, or does in silence: tested, so that a release that changes it is noticed."""
import peft
import pytest
import torch
from ladder import logits, losses, ours, theirs
from safetensors.torch import load_file, save_file
from specs import NO_CONV1D, SPECS
from tiny import batch, fill, left_padded, tiny

import peftlab as pl
from peftlab.files import tensors

BY_NAME = {s.name: s for s in SPECS}


@pytest.mark.parametrize("spec", [s for s in SPECS if s.no.get(("peft", "gpt2")) in NO_CONV1D.values()], ids=lambda s: s.name)
def test_it_refuses_conv1d_layers(spec):
    with pytest.raises((TypeError, ValueError)):
        peft.get_peft_model(tiny("gpt2"), spec.peft_config("gpt2"))


def test_new_rows_of_a_tied_table_are_the_output_layer_s_as_well():
    """The logits of the trained tokens differ from ours, the others do not, and the file has the rows twice."""
    spec, inputs, key = BY_NAME["TrainableTokens"], batch("gpt2"), "base_model.model.transformer.wte.trainable_tokens_delta"
    reference = peft.get_peft_model(tiny("gpt2"), spec.peft_config("gpt2")).eval()
    assert {key, "base_model.model.lm_head.trainable_tokens_delta"} == set(peft.get_peft_model_state_dict(reference))
    fill({key: next(p for p in reference.parameters() if p.requires_grad)})
    difference = (logits(reference, inputs) - logits(ours(spec, "gpt2"), inputs)).abs().amax((0, 1))      # (vocabulary,)
    tokens = spec.options["token_indices"]
    assert difference[tokens].min() > 1e-2
    difference[tokens] = 0
    assert difference.max() < 1e-6


def test_beft_refuses_norms():
    with pytest.raises((TypeError, ValueError), match="LayerNorm"):
        peft.get_peft_model(tiny("bert"), peft.BeftConfig(target_modules=["LayerNorm"]))


@pytest.mark.parametrize("name", ["IA3", "BitFit", "PromptTuning", "PrefixTuning", "LoHa", "LoKr", "OFT", "HRA", "MiSS",
                                  "FourierFT", "VeRA", "HiRA", "DeLoRA", "GraLoRA", "C3A", "LNTuning",
                                  "TrainableTokens"])
def test_adapter_names_are_ignored_in_silence(name):
    reference, inputs = theirs(BY_NAME[name], "llama"), batch("llama")
    asked = reference(**inputs, adapter_names=["__base__"] * 3).logits[:, -7:]
    assert torch.equal(asked, logits(reference, inputs))
    assert not torch.allclose(asked, logits(tiny("llama"), inputs), atol=1e-2)


def test_adapter_names_fail_for_dora_and_work_for_lora():
    with pytest.raises(ValueError, match="(?i)dora"):
        theirs(BY_NAME["DoRA"], "llama")(**batch("llama"), adapter_names=["default", "__base__", "default"])
    asked = theirs(BY_NAME["LoRA"], "llama")(**batch("llama"), adapter_names=["default", "__base__", "default"]).logits
    assert torch.allclose(asked[1], logits(tiny("llama"), batch("llama"))[1], atol=1e-6)


def unpadded_rows(model):
    """The last logits of each text, on its own and without its padding."""
    inputs = left_padded()
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"]):
        text = ids[mask.bool()][None]
        yield logits(model, {"input_ids": text, "attention_mask": torch.ones_like(text)})[0, -1]


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("name", ["PromptTuning", "PrefixTuning"])
def test_padding_on_the_left_changes_nothing_here(name, arch):
    model = ours(BY_NAME[name], arch)
    for row, alone in zip(logits(model, left_padded()), unpadded_rows(model)):
        assert torch.allclose(row[-1], alone, atol=1e-6)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("name", ["PromptTuning", "PrefixTuning"])
def test_padding_on_the_left_changes_the_logits_there(name, arch):
    reference = theirs(BY_NAME[name], arch)
    rows = zip(logits(reference, left_padded()), unpadded_rows(reference))
    assert max((row[-1] - alone).abs().max() for row, alone in rows) > 1e-3


def test_prefix_tuning_cannot_generate_without_a_cache_there():
    with pytest.raises(Exception):  # noqa: B017 - whatever it raises
        theirs(BY_NAME["PrefixTuning"], "llama").generate(**left_padded(), max_new_tokens=3, use_cache=False)


def test_the_logits_of_a_prompt_come_back_as_well():
    reference, inputs = theirs(BY_NAME["PromptTuning"], "llama"), batch("llama")
    assert reference(**inputs).logits.shape[1] == 7 + 3
    assert ours(BY_NAME["PromptTuning"], "llama")(**inputs).logits.shape[1] == 7


def test_a_classifier_with_virtual_tokens_cannot_be_loaded_without_its_head(tmp_path):
    model = pl.attach(tiny("bert"), pl.methods.PromptTuning, name="a", num_virtual_tokens=3)
    pl.save(model, tmp_path, "a")
    with pytest.raises(KeyError, match="classifier"):
        peft.PeftModel.from_pretrained(tiny("bert"), tmp_path)
    assert torch.equal(logits(pl.load(tiny("bert"), tmp_path), batch("bert")), logits(model, batch("bert")))


def test_a_classifier_s_file_names_a_head_that_does_not_exist(tmp_path):
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    reference = peft.get_peft_model(tiny("bert"), config).eval()
    assert reference.peft_config["default"].modules_to_save == ["classifier", "score"]
    fill(peft.get_peft_model_state_dict(reference))
    reference.save_pretrained(tmp_path)
    model = pl.load(tiny("bert"), tmp_path)
    assert torch.allclose(logits(model, batch("bert")), logits(reference, batch("bert")), atol=1e-6)
    assert "base_model.model.classifier.weight" in tensors(model, "default")


def test_unmerging_is_not_exact_there():
    reference = theirs(BY_NAME["IA3"], "llama")
    before = {k: v.clone() for k, v in reference.state_dict().items()}
    reference.merge_adapter()
    reference.unmerge_adapter()
    assert any(not torch.equal(v, before[k]) for k, v in reference.state_dict().items())


def test_a_random_prompt_is_far_larger_than_an_embedding():
    drawn = peft.get_peft_model(tiny("llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=200))
    here = pl.attach(tiny("llama"), pl.methods.PromptTuning, num_virtual_tokens=200)
    for p in (next(p for p in drawn.parameters() if p.requires_grad), tensors(here, "default")["prompt_embeddings"]):
        assert 0.9 < p.std() < 1.1


def test_lora_beside_biases_trained_in_place_is_not_the_base_model_when_disabled():
    reference = peft.get_peft_model(tiny("bert"), peft.LoraConfig(target_modules=["query"], bias="all"))
    losses(reference, batch("bert"), steps=3)
    with reference.disable_adapter():
        assert not torch.allclose(logits(reference, batch("bert")), logits(tiny("bert"), batch("bert")), atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA `peft` may build its kernel and take two factors")
def test_boft_takes_one_factor_where_there_is_no_cuda_and_its_order_is_ours():
    config = peft.BOFTConfig(target_modules=["q_proj"], boft_block_size=4, boft_n_butterfly_factor=2)
    model = peft.get_peft_model(tiny("llama"), config)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.boft_R["default"].shape[0] == 1
    for d, b, m in ((16, 4, 2), (32, 4, 3), (48, 6, 2)):
        for i in range(m):
            order = layer.block_butterfly_perm(d, d // b // 2**i, b // 2, m - 1)
            assert torch.equal(order, pl.methods.boft.butterfly(d, b, i))


def test_randlora_writes_its_shared_bases_once_more_for_every_layer(tmp_path):
    theirs(BY_NAME["RandLoRA"], "llama").save_pretrained(tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(name.endswith("randlora_A") for name in state) == 1 + sum(n.endswith("lambda") for n in state)


def test_a_shira_file_with_a_place_outside_of_the_weight_is_refused(tmp_path):
    model = ours(BY_NAME["SHiRA"], "llama")
    pl.save(model, tmp_path, "a")
    state = load_file(tmp_path / "adapter_model.safetensors")
    name = next(n for n in state if n.endswith("indices"))
    save_file({**state, name: state[name] + 1000}, tmp_path / "adapter_model.safetensors")
    base = tiny("llama")
    with pytest.raises(ValueError, match="outside of a weight"):
        pl.load(base, tmp_path)
    assert not hasattr(base, "switch")
