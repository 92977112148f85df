"""Models and files as they are in the world: the right numbers, equal to `peft`'s, or a refusal that says why."""
import json
import sys

import peft
import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file
from torch import nn

import peftlab as pl
from peftlab import methods as M
from peftlab.config import CONFIG
from peftlab.files import WEIGHTS

SMALL = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = torch.randint(5, 55, (2, 7), generator=torch.Generator().manual_seed(3))
ONES = torch.ones_like(IDS)


def make(cls, config, **settings):
    torch.manual_seed(0)
    return cls(config(**settings)).eval()


def llama(**more):
    return make(t.LlamaForCausalLM, t.LlamaConfig, pad_token_id=0, **SMALL, **more)


def roberta():
    return make(t.RobertaForSequenceClassification, t.RobertaConfig, max_position_embeddings=40, num_labels=3, pad_token_id=1, **SMALL)


def t5():
    return make(t.T5ForConditionalGeneration, t.T5Config, vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=4, num_heads=4,
                decoder_start_token_id=0, pad_token_id=0)


def bart():
    return make(t.BartForConditionalGeneration, t.BartConfig, vocab_size=60, d_model=32, encoder_layers=2, decoder_layers=2,
                encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
                max_position_embeddings=40, pad_token_id=1, decoder_start_token_id=2)


def gemma(**more):
    return make(t.Gemma3ForCausalLM, t.Gemma3TextConfig, num_key_value_heads=2, head_dim=8, pad_token_id=0, **SMALL, **more)


def llava():
    return make(t.LlavaForConditionalGeneration, t.LlavaConfig, text_config=t.LlamaConfig(**SMALL), image_token_index=3,
                vision_config=t.CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                                                 image_size=16, patch_size=8))


def stir(model):
    """Trained parameters moved, so that an adapter does something."""
    torch.manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn_like(p))
    return model.eval()


@torch.no_grad()
def answer(model, *args, **kw):
    out = model(*args, **kw)
    return out.logits if hasattr(out, "logits") else out[0]


def of_peft(model, folder, config, **how):
    """A model of `peft`, stirred, and its file."""
    model = stir(peft.get_peft_model(model, config))
    model.save_pretrained(folder, **how)
    return model


def reconfigure(folder, **fields):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **fields}))


def both_ways(base, folder, config, atol=1e-5, **inputs):
    """`peft`'s file here, and ours there, give the same; returns our model."""
    inputs = inputs or {"input_ids": IDS, "attention_mask": ONES}
    reference = of_peft(base(), folder / "theirs", config)
    model = pl.load(base(), folder / "theirs")
    want = answer(reference, **inputs)[..., -answer(model, **inputs).shape[-2]:, :]
    assert not torch.allclose(answer(base(), **inputs), answer(model, **inputs), atol=1e-3)
    assert torch.allclose(answer(model, **inputs), want, atol=atol)
    pl.save(model, folder / "ours")
    again = peft.PeftModel.from_pretrained(base(), folder / "ours").eval()
    assert torch.allclose(answer(again, **inputs)[..., -want.shape[-2]:, :], want, atol=atol)
    return model


# ------------------------------------------------------------------------------------------------ virtual tokens

TOKENS = [(peft.PromptTuningConfig, {}), (peft.PrefixTuningConfig, {}), (peft.PromptEncoderConfig, {"encoder_hidden_size": 8})]


@pytest.mark.parametrize("config, options", TOKENS)
def test_positions_are_counted_as_the_model_counts(config, options, tmp_path):
    both_ways(roberta, tmp_path, config(task_type="SEQ_CLS", num_virtual_tokens=4, **options))


@pytest.mark.parametrize("base", [t5, bart])
@pytest.mark.parametrize("config, options", TOKENS)
def test_an_encoder_decoder_model_reads_as_in_peft(base, config, options, tmp_path):
    inputs = {"input_ids": IDS, "attention_mask": ONES, "decoder_input_ids": IDS[:, :5]}
    model = both_ways(base, tmp_path, config(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4, **options), **inputs)
    padded = {"input_ids": torch.cat([IDS[:, :4], torch.full((2, 3), model.config.pad_token_id)], 1),
              "attention_mask": torch.cat([ONES[:, :4], 0 * ONES[:, :3]], 1), "decoder_input_ids": IDS[:, :5]}
    alone = answer(model, input_ids=IDS[:1, :4], attention_mask=ONES[:1, :4], decoder_input_ids=IDS[:1, :5])
    assert torch.allclose(answer(model, **padded)[:1], alone, atol=1e-5)
    generated = [model.generate(IDS, attention_mask=ONES, max_new_tokens=5, num_beams=2, use_cache=cache) for cache in (True, False)]
    assert torch.equal(*generated)


@pytest.mark.parametrize("base", [t5, bart])
def test_rows_of_an_encoder_decoder_batch_are_mixed(base):
    model, inputs = base(), {"input_ids": IDS, "attention_mask": ONES, "decoder_input_ids": IDS[:, :5]}
    plain = answer(model, **inputs)
    for name, n in (("short", 2), ("long", 4)):
        pl.attach(model, M.PromptTuning, name=name, num_virtual_tokens=n)
        stir(model)
    for name in ("short", "long"):
        pl.use(model, name)
        with_one = answer(model, **inputs)
        with pl.mix(model, [name, None]):
            mixed = answer(model, **inputs)
        assert torch.allclose(mixed[0], with_one[0], atol=1e-5) and torch.allclose(mixed[1], plain[1], atol=1e-5)


def test_the_decoders_labels_stay():
    model = pl.attach(t5(), M.PromptTuning, num_virtual_tokens=4)
    out = model(input_ids=IDS, attention_mask=ONES, labels=IDS[:, :5].contiguous())
    prompt = model.virtual_tokens["default"].prompt_embeddings.expand(2, 4, 32)
    pl.use(model)
    right = model(inputs_embeds=torch.cat([prompt, model.shared(IDS)], 1), labels=IDS[:, :5].contiguous())
    assert out.logits.shape == (2, 5, 60) and torch.allclose(out.loss, right.loss, atol=1e-6)


def test_multitask_prompts_are_refused_in_an_encoder_decoder_model():
    with pytest.raises(ValueError, match="before the decoder's text as well"):
        pl.attach(t5(), M.MultitaskPromptTuning, num_tasks=2)


@pytest.mark.parametrize("method", [M.PromptTuning, M.PTuning, M.PrefixTuning])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_classifier_on_a_decoder_answers_from_the_last_real_place(method, side):
    model = make(t.LlamaForSequenceClassification, t.LlamaConfig, num_labels=3, pad_token_id=0, **SMALL)
    pl.attach(model, method, num_virtual_tokens=3)
    padding = torch.zeros(1, 3, dtype=torch.long)
    text = torch.cat([padding, IDS[:1, :4]] if side == "left" else [IDS[:1, :4], padding], 1)
    assert torch.allclose(answer(model, text, (text != 0).long()), answer(model, IDS[:1, :4], ONES[:1, :4]), atol=1e-5)


@pytest.mark.parametrize("padding", [6, 7, 12])
def test_virtual_tokens_stand_directly_before_the_text(padding):
    model = gemma(sliding_window=16, layer_types=["sliding_attention", "full_attention"])
    pl.attach(model, M.PromptTuning, num_virtual_tokens=4)
    text = nn.functional.pad(IDS[:1, :6], (padding, 0))
    assert torch.allclose(answer(model, text, (text != 0).long())[:, -6:], answer(model, IDS[:1, :6]), atol=1e-5)


def test_start_and_end_move_along():
    model = make(t.BertForQuestionAnswering, t.BertConfig, **SMALL)
    pl.attach(model, M.PromptTuning, num_virtual_tokens=4)
    start, end = torch.tensor([2, 3]), torch.tensor([5, 6])
    out = model(IDS, start_positions=start, end_positions=end)
    prompt = model.virtual_tokens["default"].prompt_embeddings.expand(2, 4, 32)
    pl.use(model)
    whole = model(inputs_embeds=torch.cat([prompt, model.get_input_embeddings()(IDS)], 1))
    loss = sum(nn.functional.cross_entropy(logits, at + 4) for logits, at in ((whole.start_logits, start), (whole.end_logits, end))) / 2
    assert torch.allclose(out.loss, loss, atol=1e-6) and torch.allclose(out.start_logits, whole.start_logits[:, 4:], atol=1e-6)


def test_outputs_without_names_and_hidden_states_are_those_of_the_text():
    model = pl.attach(llama(), M.PromptTuning, num_virtual_tokens=4)
    out = model(IDS, output_hidden_states=True)
    assert {h.shape for h in out.hidden_states} == {(2, 7, 32)} and out.logits.shape == (2, 7, 60)
    assert torch.equal(model(IDS, return_dict=False)[0], out.logits)
    prefixed = pl.attach(llama(), M.PrefixTuning, num_virtual_tokens=4)
    assert isinstance(prefixed(IDS, return_dict=False), tuple)


def test_a_cache_that_was_filled_without_them_is_refused():
    model = llama()
    cache = model(IDS[:, :3], use_cache=True).past_key_values
    pl.attach(model, M.PrefixTuning, num_virtual_tokens=5)
    with pytest.raises(ValueError, match="it was filled without them"):
        model(IDS[:, 3:4], past_key_values=cache)


def test_a_module_with_layers_inside_is_not_copied_as_one():
    with pytest.raises((TypeError, ValueError), match="out_proj is never called|layers inside"):
        pl.attach(nn.Sequential(nn.MultiheadAttention(8, 2), nn.Linear(8, 8)), M.LoRA, ["1"], r=2, modules_to_save=["0"])


def test_positions_given_by_the_caller_are_kept():
    model = pl.attach(make(t.GPT2LMHeadModel, t.GPT2Config, vocab_size=60, n_embd=32, n_layer=2, n_head=4), M.PromptTuning,
                      num_virtual_tokens=4)
    own = torch.arange(7).expand(2, -1)
    assert torch.allclose(answer(model, IDS, position_ids=own), answer(model, IDS), atol=1e-5)
    assert not torch.allclose(answer(model, IDS, position_ids=own + 9), answer(model, IDS), atol=1e-3)


@pytest.mark.parametrize("method", [M.PromptTuning, M.PrefixTuning])
def test_a_static_cache_is_refused(method):
    model = pl.attach(llama(), method, num_virtual_tokens=4)
    with pytest.raises(ValueError, match="static cache has a fixed length"):
        model.generate(IDS, attention_mask=ONES, max_new_tokens=3, cache_implementation="static")


def test_a_vision_language_model_is_read_by_its_text_configuration(tmp_path):
    for method in (M.PromptTuning, M.PrefixTuning):
        model = stir(pl.attach(llava(), method, num_virtual_tokens=4))
        again = pl.load(llava(), pl.save(model, tmp_path / method.__name__))
        assert torch.equal(answer(again, input_ids=IDS, attention_mask=ONES), answer(model, input_ids=IDS, attention_mask=ONES))


WHISPER = {"vocab_size": 60, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_mel_bins": 8, "max_source_positions": 16,
           "max_target_positions": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 16, "patch_size": 8}
REFUSED = {
    "whisper": (lambda: make(t.WhisperForConditionalGeneration, t.WhisperConfig, **WHISPER), "does not read any"),
    "vit": (lambda: make(t.ViTForImageClassification, t.ViTConfig, **VISION), "does not read any"),
    "distilbert": (lambda: make(t.DistilBertForSequenceClassification, t.DistilBertConfig, vocab_size=60, dim=32, hidden_dim=48,
                                n_layers=1, n_heads=4), "takes no past_key_values"),
    "no model of transformers": (lambda: nn.Sequential(nn.Linear(4, 4)), "need a model of transformers"),
}


@pytest.mark.parametrize("base, reason", REFUSED.values(), ids=REFUSED)
def test_a_prefix_is_refused_where_it_would_be_without_effect(base, reason):
    model = base()
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=reason):
        pl.attach(model, M.PrefixTuning, num_virtual_tokens=4)
    assert list(model.state_dict()) == names and not hasattr(model, "switch")


# ------------------------------------------------------------------------------------------------ layers

def test_a_dilated_convolution_is_merged():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3, stride=3, padding=2, dilation=2)).eval(), torch.randn(2, 3, 20, 14)
    stir(pl.attach(model, M.LoRA, ["0"], r=2))
    before = model(x)
    pl.merge(model)
    assert torch.allclose(model(x), before, atol=1e-5)


def test_embeddings_that_scale(tmp_path):
    both_ways(gemma, tmp_path, peft.LoraConfig(target_modules=["embed_tokens"]))
    both_ways(lambda: gemma(tie_word_embeddings=True), tmp_path / "tied", peft.TrainableTokensConfig(
        target_modules=["embed_tokens"], token_indices=[int(IDS[0, 0])]))
    both_ways(lambda: gemma(tie_word_embeddings=False), tmp_path / "tokens", peft.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[int(IDS[0, 0])]))
    model = pl.attach(gemma(tie_word_embeddings=False), M.LoRA, ["embed_tokens"])
    before = answer(model, IDS)
    pl.merge(model)
    assert torch.allclose(answer(model, IDS), before, atol=1e-6)
    pl.detach(model)
    stir(pl.attach(model, M.LoRA, ["embed_tokens"]))
    before = answer(model, IDS)
    pl.merge(model)
    assert torch.allclose(answer(model, IDS), before, atol=1e-5)


def test_a_layer_that_is_only_read_is_refused_or_passed_over():
    attention = nn.MultiheadAttention(16, 4)
    with pytest.raises(ValueError, match="out_proj is never called"):
        pl.attach(attention, M.LoRA, ["out_proj"])
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24), 1).eval()
    x = torch.randn(5, 2, 16)
    before = encoder(x)
    stir(pl.attach(encoder, M.LoRA, "all-linear"))
    assert all("out_proj" not in n for n, p in encoder.named_parameters() if p.requires_grad)
    with torch.no_grad():
        assert not torch.allclose(encoder(x), before, atol=1e-3)
    with pytest.raises(ValueError, match="batch in its second dimension"), pl.mix(encoder, ["default", None]):
        encoder(x)


def test_a_weight_that_is_not_in_memory_is_refused():
    model = llama()
    model.model.layers[1].self_attn.q_proj.to("meta")
    with pytest.raises(ValueError, match="the weight of model.layers.1.self_attn.q_proj is not in memory"):
        pl.attach(model, M.LoRA, ["q_proj"])
    assert not hasattr(model, "switch")


def test_a_table_that_others_stand_for_is_refused():
    with pytest.raises(ValueError, match="shared is never called in this model"):
        pl.attach(t5(), M.LoRA, ["shared"])


def test_rows_that_are_not_the_batch_are_not_mixed():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, pixels):                           # (batch, patches, 4)
            return self.head(self.patch(pixels.flatten(0, 1)).view(pixels.shape).mean(1))

    model = Patches()
    for name in "ab":
        stir(pl.attach(model, M.LoRA, ["patch"], name=name, r=2))
    with pytest.raises(ValueError, match="has 6 rows and the batch has 2"), pl.mix(model, ["a", "b"]):
        model(torch.randn(2, 3, 4))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.bn = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x):
        return self.bn(self.fc(x))


def test_running_statistics_travel_with_a_copy_and_stay_with_the_base(tmp_path):
    x, base = 3 * torch.randn(16, 8) + 2, Normed()
    state = {k: v.clone() for k, v in base.state_dict().items()}
    model = pl.attach(Normed().train(), M.LoRA, ["fc"], modules_to_save=["bn"])
    model(x)
    model.eval()
    again = pl.load(Normed().eval(), pl.save(model, tmp_path)).eval()
    assert torch.equal(again(x), model(x)) and not torch.allclose(model(x), base.eval()(x), atol=1e-3)
    model.train()(x).sum().backward()
    pl.detach(model)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    reference = of_peft(Normed(), tmp_path / "theirs", peft.LoraConfig(target_modules=["fc"], modules_to_save=["bn"]))
    assert torch.allclose(pl.load(Normed().eval(), tmp_path / "theirs").eval()(x), reference(x), atol=1e-5)


@pytest.mark.parametrize("layer, x", [
    (nn.Conv2d(3, 6, 3, stride=2, padding=1), torch.randn(2, 3, 9, 9)), (nn.Conv2d(3, 6, 1, bias=False), torch.randn(2, 3, 5, 5)),
    (nn.Conv1d(3, 6, 4, stride=3, padding=2), torch.randn(2, 3, 20))], ids=["stride", "one", "line"])
def test_lora_on_a_convolution(layer, x, tmp_path):
    def base():
        return nn.Sequential(nn.Identity(), type(layer)(**{k: getattr(layer, k) for k in (
            "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")}, bias=layer.bias is not None)).eval()

    def same():
        new = base()
        new[1].load_state_dict(layer.state_dict())
        return new

    reference = of_peft(same(), tmp_path / "theirs", peft.LoraConfig(target_modules=["1"], r=2, lora_alpha=6))
    model = pl.load(same(), tmp_path / "theirs")
    assert torch.allclose(model(x), reference(x), atol=1e-5)
    assert pl.count(model).trainable == pl.closed_form(same(), M.LoRA, ["1"], r=2)
    again = peft.PeftModel.from_pretrained(same(), pl.save(model, tmp_path / "ours")).eval()
    assert torch.allclose(again(x), reference(x), atol=1e-5)
    before = model(x)
    pl.merge(model)
    assert torch.allclose(model(x), before, atol=1e-5)
    pl.detach(model)
    assert torch.equal(model(x), same()(x))


# ------------------------------------------------------------------------------------------------ files

def test_a_target_that_this_model_lacks_is_passed_over(tmp_path):
    both_ways(llama, tmp_path, peft.LoraConfig(target_modules=["q_proj", "to_k"]))


@pytest.mark.parametrize("config", [
    peft.LoraConfig(target_modules=["q_proj", "v_proj"], layers_to_transform=[1], layers_pattern="layers"),
    peft.LoraConfig(target_modules=["q_proj", "v_proj"], layers_to_transform=0),
    peft.LoraConfig(target_modules=["q_proj", "v_proj"], exclude_modules=["layers.0.self_attn.q_proj"]),
    peft.LoraConfig(target_modules="all-linear", exclude_modules=r".*mlp.*"),
    peft.LoraConfig(target_modules=r".*\.(q|k)_proj", rank_pattern={"layers.1.self_attn.q_proj": 3}),
    peft.LoraConfig(target_modules=["q_proj"], lora_bias=True),
    peft.LoraConfig(target_modules=["lm_head", "q_proj"]),
    peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=r".*\.down_proj"),
    peft.LoKrConfig(target_modules=["q_proj", "down_proj"], r=2, decompose_factor=4),
    peft.LoKrConfig(target_modules=["q_proj", "down_proj"], r=2, decompose_factor=5),
    peft.OFTConfig(target_modules=["q_proj"], r=4, oft_block_size=0)],
    ids=["pattern", "number", "exclude", "exclude_pattern", "regex", "lora_bias", "lm_head", "ia3", "lokr", "lokr5", "oft"])
def test_fields_that_real_files_use(config, tmp_path):
    both_ways(lambda: llama(attention_bias=True), tmp_path, config)


def test_a_tied_output_layer_loads(tmp_path):
    of_peft(llama(tie_word_embeddings=True), tmp_path, peft.LoraConfig(target_modules=["q_proj", "lm_head"]))
    pl.load(llama(tie_word_embeddings=True), tmp_path)


def test_a_head_that_an_older_release_did_not_write_down(tmp_path):
    def base():
        return make(t.GPT2ForSequenceClassification, t.GPT2Config, vocab_size=60, n_embd=32, n_layer=1, n_head=4, num_labels=3,
                    pad_token_id=0)

    reference = of_peft(base(), tmp_path, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["c_attn"]))
    reconfigure(tmp_path, modules_to_save=None)
    model = pl.load(base(), tmp_path)
    assert torch.allclose(answer(model, IDS), answer(reference, IDS), atol=1e-5)
    again = peft.PeftModel.from_pretrained(base(), pl.save(model, tmp_path / "ours")).eval()
    assert torch.allclose(answer(again, IDS), answer(reference, IDS), atol=1e-5)


def test_a_resized_vocabulary_loads_as_in_peft(tmp_path):
    def larger(seed):
        model = llama()
        torch.manual_seed(seed)
        model.resize_token_embeddings(64)
        return model.eval()

    reference = of_peft(larger(1), tmp_path, peft.LoraConfig(target_modules=["q_proj"]), save_embedding_layers=True)
    base = larger(2)
    table = base.model.embed_tokens.weight.clone()
    model = pl.load(base, tmp_path)
    assert torch.allclose(answer(model, IDS), answer(reference, IDS), atol=1e-5)
    pl.detach(model)
    assert torch.equal(model.model.embed_tokens.weight, table)


def test_names_that_layers_had_before(tmp_path):
    reference = of_peft(llava(), tmp_path, peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    old = {k.replace("model.model.language_model.", "model.language_model.model.")
           .replace("model.model.vision_tower.", "model.vision_tower.vision_model."): v for k, v in load_file(tmp_path / WEIGHTS).items()}
    save_file(old, tmp_path / WEIGHTS, {"format": "pt"})
    assert torch.allclose(answer(pl.load(llava(), tmp_path), IDS), answer(reference, IDS), atol=1e-5)


@pytest.mark.parametrize("fields, message", [
    ({"peft_type": None, "num_layers": 8, "lora_parameters": {"rank": 4}}, "a method we do not have"),
    ({"target_modules": r"(.*.*)*x"}, "takes too long|no layer is called"), ({"rank_pattern": {"q_proj": [[1]]}}, "does not describe"),
    ({"use_rslora": "false"}, "use_rslora='false': it should be true or false"), ({"use_dora": "false"}, "use_dora='false'"),
    ({"lora_alpha": None}, "does not describe|it should be a number"), ({"alpha_pattern": {"q_proj": float("nan")}}, "no number to compute with"),
    ({"target_modules": ["q_proj" * 10**6]}, "no layer is called"), ({"layers_to_transform": "1"}, "the numbers of blocks"),
    ({"trainable_token_indices": [1]}, "trainable_token_indices=.* which LoRA here does not have")])
def test_fields_that_make_no_sense_are_named(fields, message, tmp_path):
    pl.save(pl.attach(llama(), M.LoRA, ["q_proj"]), tmp_path)
    reconfigure(tmp_path, **fields)
    model = llama()
    with pytest.raises(ValueError, match=message) as error:
        pl.load(model, tmp_path)
    assert len(str(error.value)) < 2000 and not hasattr(model, "switch")


def test_a_file_that_is_no_adapter_of_peft_is_said_to_be_that(tmp_path):
    pl.save(pl.attach(llama(), M.LoRA, ["q_proj"]), tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}))
    with pytest.raises(ValueError, match="no configuration of `peft`'s: it has no peft_type"):
        pl.load(llama(), tmp_path)


@pytest.mark.parametrize("name", ["training", "_modules", "forward", "default\x1b[2J."])
def test_a_name_that_a_module_needs_is_refused(name, tmp_path):
    pl.save(pl.attach(llama(), M.LoRA, ["q_proj"]), tmp_path)
    model = llama()
    with pytest.raises(ValueError, match="cannot be an adapter's name"):
        pl.load(model, tmp_path, name)
    assert not hasattr(model, "switch")


# ------------------------------------------------------------------------------------------------ in people's tools

@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("call", [lambda m, f: pl.save(m, f), lambda m, f: pl.use(m, "default"), lambda m, f: pl.count(m)])
def test_an_adapter_whose_layer_was_resized_is_noticed(target, call, tmp_path):
    model = pl.attach(llama(), M.LoRA, [target])
    model.resize_token_embeddings(64)
    with pytest.raises(ValueError, match="was replaced or resized after the adapter 'default'"):
        call(model, tmp_path)


@pytest.mark.parametrize("method, options", [
    (M.UniLoRA, {}), (M.VBLoRA, {"vector_length": 8, "num_vectors": 16}), (M.TinyLoRA, {"weight_tying": 1.0}),
    (M.Compacter, {"reduction_factor": 4}), (M.VeRA, {}), (M.RandLoRA, {})])
def test_a_checkpoint_of_shared_parameters_can_be_written(method, options, tmp_path):
    model = stir(pl.attach(llama(), method, ["q_proj"], **options))
    model.save_pretrained(tmp_path)
    model(IDS).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_adapters_switched_before_backward_still_get_their_gradient():
    model, gradients = pl.attach(llama(), M.LoRA, ["q_proj"], name="policy"), []
    stir(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    for switched in (False, True):
        loss = model(IDS).logits.pow(2).mean()
        if switched:
            pl.use(model)
        loss.backward()
        gradients.append([p.grad.clone() for p in trained])
        model.zero_grad()
        for p in trained:
            p.grad = None
        pl.use(model, "policy")
    assert all(torch.allclose(a, b) for a, b in zip(*gradients))


def test_a_bias_that_a_merge_adds_is_said():
    model = stir(pl.attach(llama(), M.LoReFT, ["o_proj"]))
    with pytest.warns(UserWarning, match="2 layers without a bias get one by this merge"):
        pl.merge(model)


def test_a_model_with_a_switch_of_its_own():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.switch, self.fc = nn.Linear(4, 4), nn.Linear(4, 4)

    with pytest.raises(ValueError, match="has an attribute 'switch' of its own"):
        pl.attach(Own(), M.LoRA, ["fc"])


def test_a_compiled_model_has_the_names_of_the_model(tmp_path):
    model = torch.compile(llama(), backend="eager")
    pl.attach(model, M.LoRA, ["q_proj"])
    pl.save(stir(model), tmp_path)
    assert all("_orig_mod" not in name for name in load_file(tmp_path / WEIGHTS))
    pl.detach(pl.load(pl.detach(model), tmp_path))


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this build of PyTorch has no gloo")
def test_under_distributed_data_parallel(tmp_path):
    """One process is enough for what it wraps: training, switching, mixing, merging, and the names in a file."""
    model = stir(pl.attach(llama(), M.LoRA, ["q_proj"], name="a"))
    torch.distributed.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        wrapped(input_ids=IDS, labels=IDS).loss.backward()
        assert all(p.grad is not None for p in wrapped.parameters() if p.requires_grad)
        trained, base = answer(model, IDS), answer(llama(), IDS)
        with pl.mix(wrapped, ["a", None]):
            mixed = answer(wrapped, IDS)
        assert torch.allclose(mixed[0], trained[0], atol=1e-5) and torch.allclose(mixed[1], base[1], atol=1e-5)
        pl.save(wrapped, tmp_path / "file", name="a")
        assert all("module." not in name for name in load_file(tmp_path / "file" / WEIGHTS))
        pl.merge(wrapped)
        assert torch.allclose(answer(wrapped, IDS), trained, atol=1e-5)
        pl.unmerge(wrapped)
        pl.detach(wrapped)
        assert torch.equal(answer(wrapped, IDS), base)
    finally:
        torch.distributed.destroy_process_group()


def test_a_changed_attention_implementation_is_noticed():
    model = pl.attach(llama(attn_implementation="sdpa"), M.AdaptionPrompt, ["self_attn"])
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="was changed after attach"):
        model(IDS)


def test_half_precision_after_attach():
    model = stir(pl.attach(llama(), M.LoRA, ["q_proj"]))
    before = answer(model, IDS)
    model.to(torch.bfloat16)
    assert torch.allclose(answer(model, IDS).float(), before, atol=0.1)


def test_trainer_writes_adapters_into_its_checkpoints_and_resumes(tmp_path):
    data = [{"input_ids": row, "labels": row} for row in IDS] * 8

    def run(model, steps, resume=None):
        how = t.TrainingArguments(tmp_path / "run", max_steps=steps, save_steps=2, report_to=[], use_cpu=True, learning_rate=1e-2,
                                  lr_scheduler_type="constant")
        t.Trainer(model, how, train_dataset=data, callbacks=[pl.lab.SaveAdapter()]).train(resume_from_checkpoint=resume)
        return model.eval()

    whole = run(pl.attach(llama(), M.LoRA, ["q_proj"]), 4)
    resumed = run(pl.attach(llama(), M.LoRA, ["q_proj"]), 4, str(tmp_path / "run" / "checkpoint-2"))
    saved = pl.load(llama(), tmp_path / "run" / "checkpoint-4" / "adapters" / "default")
    assert torch.allclose(answer(saved, IDS), answer(whole, IDS)) and torch.allclose(answer(resumed, IDS), answer(whole, IDS), atol=1e-5)


# ------------------------------------------------------------------------------------------------ all or nothing

CALLS = {
    "attach": (lambda m: pl.attach(m, M.LoRA, ["q_proj"], "b", modules_to_save=["lm_head"]), ["torch.nn.Module.register_forward_hook",
               "peftlab.attach._put_on_layer", "peftlab.attach.use", "peftlab.attach.partial"]),
    "tokens": (lambda m: pl.attach(m, M.PromptTuning, name="b"), ["peftlab.virtual_tokens.put_hooks_on", "peftlab.attach.use"]),
    "use": (lambda m: pl.use(m), ["peftlab.use.parameters"]),
    "merge": (lambda m: pl.merge(m), ["peftlab.merge.use", "peftlab.merge._merged_linear"]),
    "detach": (lambda m: pl.detach(m), ["peftlab.attach._strip", "peftlab.virtual_tokens.take_off", "peftlab.attention.unhook"]),
}


STEPS = [(name, step, fresh) for name, (_, steps) in CALLS.items() for step in steps for fresh in (True, False)
         if name in ("attach", "tokens") or not fresh]       # on a fresh model there is nothing yet to use, merge or detach


@pytest.mark.parametrize("name, step, fresh", STEPS)
def test_a_step_that_fails_leaves_the_model_as_it_was(name, step, fresh, monkeypatch):
    model = llama() if fresh else stir(pl.attach(llama(), M.LoRA, ["q_proj", "v_proj"], "a"))
    before, seen = answer(model, IDS), picture(model)

    def fail(*args, **kw):
        raise RuntimeError("in the middle")

    module, _, attribute = step.rpartition(".")
    monkeypatch.setattr(sys.modules.get(module) or nn.Module, attribute, fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        CALLS[name][0](model)
    monkeypatch.undo()
    assert picture(model) == seen and torch.equal(answer(model, IDS), before)
    CALLS[name][0](model)


def picture(model):
    """All that an adapter could leave behind: modules, attributes, hooks, parameters, what is trained and what runs."""
    switch = getattr(model, "switch", None)
    return ([(n, sorted(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks), sorted(m._parameters), sorted(m._modules))
             for n, m in model.named_modules()],
            [(n, id(p), p.requires_grad) for n, p in model.named_parameters()],
            switch and (switch.active, switch.merged, sorted(switch.recipe), sorted(switch.layers)))
