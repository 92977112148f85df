import json
import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from peftlab.lab import bases, sources
from peftlab.lab.bases import load_base
from peftlab.lab.sources import SourceError

OURS = {  # class, parameters, width
    "minilm-l6": ("BertModel", 22_713_216, 384),
    "smollm2-135m": ("LlamaForCausalLM", 134_515_008, 576),
    "polyglot-350k": ("LlamaForCausalLM", None, 96),
}


@pytest.fixture(scope="module")
def smollm2():
    return load_base("smollm2-135m")


def saved(folder, model):
    """A local folder as anyone may have one: a model and a tokenizer."""
    model.save_pretrained(folder)
    load_base("polyglot-350k")[1].save_pretrained(folder)
    return folder


def small():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=59, **sizes))


@pytest.mark.parametrize("name", OURS)
def test_ours(name):
    model, tokenizer = load_base(name)
    kind, parameters, width = OURS[name]
    assert type(model).__name__ == kind
    assert model.config.hidden_size == width
    assert parameters is None or sum(p.numel() for p in model.parameters()) == parameters
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config._name_or_path == model.name_or_path == name
    with torch.no_grad():
        output = model(**tokenizer("12", return_tensors="pt"))
    assert all(torch.isfinite(value).all() for value in output.values() if torch.is_tensor(value))


def test_every_base_has_an_entry():
    assert set(bases.BASES) == set(OURS) <= set(sources.known())
    assert all(name in bases._OURS for name in bases.BASES)


def test_keywords_reach_from_pretrained():
    model, _ = load_base("polyglot-350k", dtype=torch.bfloat16)
    assert model.dtype is torch.bfloat16


# ---- the one that comes as a gguf


def test_smollm2_answers(smollm2):
    model, tokenizer = smollm2
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."


def test_smollm2_is_an_ordinary_model(smollm2, tmp_path):
    model, tokenizer = smollm2
    assert not hasattr(model.config, "quantization_config")
    assert not getattr(model, "is_quantized", False)
    assert model.float() is model and model.to(torch.float32) is model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 8192


def test_smollm2_copy_is_the_gguf_dequantised(smollm2):
    from gguf import GGUFReader, dequantize

    path = sources.folder("smollm2-135m") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    for ours, theirs in {
        "model.layers.7.mlp.up_proj.weight": "blk.7.ffn_up.weight",
        "model.norm.weight": "output_norm.weight",
    }.items():
        tensor = tensors[theirs]
        wanted = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        assert torch.equal(smollm2[0].state_dict()[ours], wanted)


def test_smollm2_second_load_reads_the_copy(smollm2, monkeypatch):
    monkeypatch.setattr(bases, "_from_gguf", lambda *_, **__: pytest.fail("the gguf was read again"))
    again, _ = load_base("smollm2-135m")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), smollm2[0].parameters(), strict=True))


@pytest.fixture
def from_gguf(tmp_path, monkeypatch):
    """A cache in which the copy is still to be made, from a small model in place of the real one."""
    folder = tmp_path / "smollm2-135m"
    folder.mkdir()
    tokenizer = load_base("polyglot-350k")[1]
    monkeypatch.setenv("PEFTLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(bases, "fetch", lambda name: folder)
    made = []
    monkeypatch.setattr(bases, "_from_gguf", lambda *_, **__: made.append(1) or (small(), tokenizer))
    return made


def test_copy_is_made_once_and_whole(from_gguf, tmp_path):
    first, _ = load_base("smollm2-135m")
    second, _ = load_base("smollm2-135m")
    assert from_gguf == [1]
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert {path.name for path in tmp_path.iterdir()} == {"smollm2-135m", sources.fast_copy("smollm2-135m").name}


def test_cut_copy_is_made_anew(from_gguf):
    load_base("smollm2-135m")
    weights = sources.fast_copy("smollm2-135m") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not sources.whole(weights.parent)
    load_base("smollm2-135m")
    assert sources.whole(weights.parent) and from_gguf == [1, 1]


def test_interrupted_copy_leaves_nothing(from_gguf, tmp_path, monkeypatch):
    def stop(self, folder, **_):
        os.makedirs(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        load_base("smollm2-135m")
    assert {path.name for path in tmp_path.iterdir()} == {"smollm2-135m"}


def test_no_space_for_the_copy_is_no_obstacle(from_gguf, tmp_path, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(bases.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.warns(UserWarning, match="loads slowly every time"):
        model, _ = load_base("smollm2-135m")
    assert model.config.hidden_size == 16
    assert {path.name for path in tmp_path.iterdir()} == {"smollm2-135m"}


# ---- anything else


def test_local_folder(tmp_path):
    model, tokenizer = load_base(str(saved(tmp_path / "mine", small())))
    assert type(model) is LlamaForCausalLM and not model.training
    assert torch.equal(model.lm_head.weight, small().lm_head.weight)
    assert len(tokenizer) == 59


def test_local_folder_of_a_classifier(tmp_path):
    from transformers import LlamaForSequenceClassification

    folder = saved(tmp_path, LlamaForSequenceClassification(small().config))
    assert type(load_base(folder)[0]) is LlamaForSequenceClassification


def test_what_we_save_loads_with_transformers_alone(tmp_path):
    model, tokenizer = load_base("polyglot-350k")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    theirs, text = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    batch = text("<es> 342", return_tensors="pt")
    assert torch.equal(theirs(**batch).logits, model(**batch).logits)


def test_misspelt_name_is_recognised():
    with pytest.raises(SourceError, match="did you mean 'smollm2-135m'.*local folder or a Hub id"):
        load_base("smollm2")


@pytest.mark.parametrize("name", ["nobody/nothing-at-all", "gpt2"])
def test_offline_hub_id(name):
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE=1.*minilm-l6, smollm2-135m and polyglot-350k"):
        load_base(name)


def test_unreachable_hub(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nCheck your connection.")

    monkeypatch.setattr(bases, "_load", unreachable)
    monkeypatch.setattr(bases.transformers.utils.hub, "is_offline_mode", lambda: False)
    with pytest.raises(SourceError, match="could not be loaded.*couldn't connect.*polyglot-350k"):
        load_base("nobody/nothing-at-all")


def test_folder_without_a_model(tmp_path):
    with pytest.raises(SourceError, match="no model could be loaded from the folder"):
        load_base(str(tmp_path))


def test_folder_of_an_adapter(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(SourceError, match="holds an adapter.*pl.load"):
        load_base(str(tmp_path))


# ---- threads, and what is written where


def test_threads(monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("PEFTLAB_THREADS", "3")
        bases.set_threads()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_nothing_is_written_outside_our_cache(tmp_path):
    code = (
        "from peftlab.lab import load_base, four_domains, sentiment\n"
        "for name in ('minilm-l6', 'smollm2-135m', 'polyglot-350k'): load_base(name)\n"
        "four_domains('tweets', 'train'); sentiment('movies', 'test').filter(lambda row: row['label'])\n"
    )
    elsewhere = {
        "HF_HOME": str(tmp_path / "hf"),
        "XDG_CACHE_HOME": str(tmp_path / "xdg"),
        "HOME": str(tmp_path / "home"),
    }
    env = {**os.environ, **elsewhere, "PEFTLAB_CACHE": str(sources.cache_dir())}
    subprocess.run([sys.executable, "-W", "error::UserWarning:peftlab", "-c", code], env=env, check=True, cwd=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_loading_is_silent(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_base("minilm-l6")
    assert capfd.readouterr() == ("", "")
