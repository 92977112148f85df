"""Tiny random models of every architecture that the guard looks at, each with a batch of inputs that suits it."""
import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import transformers as t
from torch import nn

ROWS, TIME = 3, 9
SMALL = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0}
GEMMA = {**GROUPED, "head_dim": 8}
BERT = {**SMALL, "max_position_embeddings": 64, "pad_token_id": 0}
ROBERTA = {**BERT, "pad_token_id": 1}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
          "patch_size": 8}
T5 = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
BART = {"vocab_size": 96, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}
LENGTHS = (9, 6, 4)                                          # of the rows, without padding
OUTPUTS = ("logits", "start_logits", "end_logits", "text_embeds", "image_embeds", "last_hidden_state")


@dataclass(frozen=True)
class Architecture:
    """One row of the table."""

    name: str
    make: Callable                                           # () -> a model
    inputs: Callable                                         # () -> the keywords of a call, on a batch that is padded as usual
    alone: Callable                                          # (inputs, i) -> row i without its padding
    mask: str = ""                                           # which input says what is padding; none: no row is padded
    batch: int = 0                                           # which dimension of the outputs is the batch

    def build(self):
        """A fresh model, in eval mode; its weights are large enough for every part to matter."""
        return copy.deepcopy(_built(self))

    def whole(self):
        """The batch without padding: every row as long as the longest."""
        inputs = self.inputs()
        if self.mask:
            inputs[self.mask] = torch.ones_like(inputs[self.mask])
        return inputs

    def rows(self, out, inputs=None):
        """What the model answers to each row: a list of tensors for each, without padding if the inputs are given."""
        found = [out] if isinstance(out, torch.Tensor) else [out[k] for k in OUTPUTS if out.get(k) is not None]
        mask = inputs[self.mask].bool() if self.mask and inputs else None
        answers = [[f.select(self.batch, i) for f in found] for i in range(found[0].shape[self.batch])]
        if mask is None:
            return answers
        return [[a[m] if a.dim() and a.shape[0] == len(m) and a.dim() > (f.dim() == 2 and f.shape[1] != len(m)) else a
                 for a, f in zip(row, found)] for row, m in zip(answers, mask)]


@cache
def _built(arch):
    torch.manual_seed(0)
    model = arch.make().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * (.02 if p.dim() == 1 else .1))
            if getattr(model.get_submodule(name.rpartition(".")[0]), "padding_idx", None) is not None and p.dim() == 2:
                p[model.get_submodule(name.rpartition(".")[0]).padding_idx] = 0
    return model


def ids(rows=ROWS, time=TIME, seed=1):
    return torch.randint(5, 90, (rows, time), generator=torch.Generator().manual_seed(seed))


def padding(side, pad=0, lengths=LENGTHS):
    """input_ids and attention_mask of texts of several lengths."""
    text, mask = ids(), torch.ones(len(lengths), max(lengths), dtype=torch.long)
    for row, n in enumerate(lengths):
        mask[row, slice(n, None) if side == "right" else slice(0, max(lengths) - n)] = 0
    return {"input_ids": text.masked_fill(mask == 0, pad), "attention_mask": mask}


def without_padding(inputs, i, mask="attention_mask"):
    """Row i alone; what has a value for each token loses those of the padding."""
    keep = inputs[mask][i].bool()
    return {k: v[i:i + 1, keep] if v.shape[:2] == inputs[mask].shape else v[i:i + 1] for k, v in inputs.items()}


def just_the_row(inputs, i):
    return {k: v[i:i + 1] for k, v in inputs.items()}


def noise(*shape, seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------ kinds of rows

def decoder(name, model, config, **settings):
    return Architecture(name, lambda: getattr(t, model)(getattr(t, config)(**settings)), lambda: padding("left"),
                        without_padding, "attention_mask")


def right(name, model, config, pad=0, **settings):
    """A model whose texts are padded on the right: an encoder, or a classifier on a decoder."""
    return Architecture(name, lambda: getattr(t, model)(getattr(t, config)(**settings)), lambda: padding("right", pad),
                        without_padding, "attention_mask")


def encoder_decoder(name, model, config, pad=0, **settings):
    """Texts of several lengths for the encoder, padded on the right, and five tokens a row for the decoder."""
    return Architecture(name, lambda: getattr(t, model)(getattr(t, config)(pad_token_id=pad, **settings)),
                        lambda: {**padding("right", pad), "decoder_input_ids": ids(ROWS, 5, 3)},
                        without_padding, "attention_mask")


def unpadded(name, make, inputs, alone=just_the_row, batch=0):
    return Architecture(name, make, inputs, alone, batch=batch)


# ------------------------------------------------------------------------------------------------ images, sounds, both

def picture_and_text(image, each):
    """A picture that takes `each` places in the text, which begins with it; padded on the left."""
    def inputs():
        lengths = (TIME + each, 6 + each, 4 + each)
        mask = torch.ones(ROWS, TIME + each, dtype=torch.long)
        text = torch.cat([torch.full((ROWS, each), image), ids()], 1)
        for row, n in enumerate(lengths):
            mask[row, :TIME + each - n] = 0
            text[row] = torch.cat([torch.zeros(TIME + each - n, dtype=torch.long), text[row][:n]])
        return {"input_ids": text, "attention_mask": mask, "pixel_values": noise(ROWS, 3, 16, 16)}
    return inputs


def llava():
    return t.LlavaForConditionalGeneration(t.LlavaConfig(
        text_config=t.LlamaConfig(**GROUPED), vision_config=t.CLIPVisionConfig(**VISION), image_token_index=3))


def paligemma():
    return t.PaliGemmaForConditionalGeneration(t.PaliGemmaConfig(
        text_config={"model_type": "gemma", **GEMMA}, vision_config={"model_type": "siglip_vision_model", **VISION},
        projection_dim=32, image_token_index=3, pad_token_id=0))


def of_paligemma():
    inputs = picture_and_text(3, 4)()
    return {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}


def qwen2_5_vl():
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    return t.Qwen2_5_VLForConditionalGeneration(t.Qwen2_5_VLConfig(
        text_config={"rope_parameters": rope, **GROUPED, **WHERE_EOS}, image_token_id=3, video_token_id=90, vision_start_token_id=4,
        vision_end_token_id=5, vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4,
                                              "patch_size": 8, "out_hidden_size": 32, "window_size": 32,
                                              "fullatt_block_indexes": [1]}))


def of_qwen2_5_vl():
    """Rows with one picture, two and three, of four patches each: patches are not divided evenly among the rows."""
    texts = [[4, 3, 5, *range(9, 17)], [4, 3, 5, 4, 3, 5, *range(20, 24)], [4, 3, 5] * 3]
    text = torch.tensor([[0] * (11 - len(row)) + row for row in texts])
    return {"input_ids": text, "attention_mask": (text != 0).long(), "pixel_values": noise(24, 384),
            "image_grid_thw": torch.tensor([[1, 2, 2]] * 6), "mm_token_type_ids": (text == 3).int()}


def a_row_of_qwen2_5_vl(inputs, i):
    keep, first, count = inputs["attention_mask"][i].bool(), (0, 1, 3)[i], i + 1
    text = {k: inputs[k][i:i + 1, keep] for k in ("input_ids", "attention_mask", "mm_token_type_ids")}
    return {**text, "pixel_values": inputs["pixel_values"][4 * first:4 * (first + count)],
            "image_grid_thw": inputs["image_grid_thw"][first:first + count]}


def clip():
    return t.CLIPModel(t.CLIPConfig(projection_dim=32, vision_config=VISION, text_config={
        **SMALL, "max_position_embeddings": 32, "eos_token_id": 95, "pad_token_id": 0, "bos_token_id": 1}))


def of_clip():
    inputs = padding("right")
    inputs["input_ids"][range(ROWS), [n - 1 for n in LENGTHS]] = 95
    return {**inputs, "pixel_values": noise(ROWS, 3, 16, 16)}


def whisper():
    sizes = {k: v for k, v in BART.items() if k != "max_position_embeddings"}
    return t.WhisperForConditionalGeneration(t.WhisperConfig(
        num_mel_bins=8, max_source_positions=16, max_target_positions=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=3, **sizes))


def wav2vec2():
    return t.Wav2Vec2ForCTC(t.Wav2Vec2Config(
        feat_extract_norm="layer", do_stable_layer_norm=True, conv_dim=(16, 16), conv_stride=(4, 2), conv_kernel=(8, 3),
        num_feat_extract_layers=2, conv_bias=True, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, layerdrop=0.0,
        pad_token_id=0, mask_time_prob=0.0, **{**SMALL, "vocab_size": 20}))


def of_wav2vec2():
    sound, mask = noise(ROWS, 160), torch.ones(ROWS, 160, dtype=torch.long)
    for row, n in enumerate((160, 112, 80)):
        mask[row, n:] = 0
    return {"input_values": sound * mask, "attention_mask": mask}


# ------------------------------------------------------------------------------------------------ nets of torch alone

class PixelAttention(nn.Module):
    """Attention among the pixels of a picture, as a diffusion model has it."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        h, w = x.shape[2:]
        y = self.proj_in(self.norm(x)).flatten(2).mT         # (b, pixels, c)
        y = self.to_out(nn.functional.scaled_dot_product_attention(self.to_q(y), self.to_k(y), self.to_v(y)))
        return x + y.mT.unflatten(2, (h, w))


class UNet(nn.Module):
    """Down, attention, up; told the time by an embedding, as a diffusion model is."""

    def __init__(self, width=16):
        super().__init__()
        self.conv_in, self.time_proj = nn.Conv2d(3, width, 3, padding=1), nn.Linear(8, width)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(PixelAttention(width) for _ in range(2))
        self.conv_out = nn.Conv2d(2 * width, 3, 3, padding=1)

    def forward(self, sample, time):
        x = nn.functional.silu(self.conv_in(sample) + self.time_proj(time)[..., None, None])
        y = self.down(x)
        for block in self.blocks:
            y = block(y)
        return self.conv_out(torch.cat([x, nn.functional.interpolate(y, scale_factor=2.0)], 1))


class BatchSecond(nn.Module):
    """torch's own encoder, which takes (time, batch, width) if it is not told otherwise."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 5)

    def forward(self, x):
        return self.head(self.encoder(x))


class Attention(nn.Module):
    """torch's own attention, which reads the weight of its out_proj and never calls it."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Normed(nn.Module):
    """A net whose norms keep means of what they saw."""

    def __init__(self):
        super().__init__()
        self.fc, self.bn, self.out = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)

    def forward(self, x):
        return self.out(torch.relu(self.bn(self.fc(x))))


SLIDING = {"sliding_window": 4}
TWO_KINDS = {"layer_types": ["sliding_attention", "full_attention"]}
LABELS = {"num_labels": 3}
WHERE_EOS = {"bos_token_id": 1, "eos_token_id": 2}

ARCHITECTURES = {a.name: a for a in [
    decoder("Llama", "LlamaForCausalLM", "LlamaConfig", **GROUPED),
    decoder("Mistral", "MistralForCausalLM", "MistralConfig", **GROUPED, **SLIDING),
    decoder("Qwen2", "Qwen2ForCausalLM", "Qwen2Config", **GROUPED),
    decoder("Qwen3", "Qwen3ForCausalLM", "Qwen3Config", **GEMMA),
    decoder("Gemma 2", "Gemma2ForCausalLM", "Gemma2Config", **GEMMA, **SLIDING, **TWO_KINDS),
    decoder("Gemma 3", "Gemma3ForCausalLM", "Gemma3TextConfig", **GEMMA, **SLIDING, **TWO_KINDS),
    decoder("Gemma 4", "Gemma4ForCausalLM", "Gemma4TextConfig", **GEMMA, **TWO_KINDS, global_head_dim=16,
            hidden_size_per_layer_input=8, vocab_size_per_layer_input=96, sliding_window=4, final_logit_softcapping=30.0),
    decoder("Phi-3", "Phi3ForCausalLM", "Phi3Config", **GROUPED, **WHERE_EOS),
    right("GPT-2", "GPT2LMHeadModel", "GPT2Config", vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64,
          **WHERE_EOS),
    decoder("GPT-NeoX", "GPTNeoXForCausalLM", "GPTNeoXConfig", **SMALL, **WHERE_EOS),
    decoder("BLOOM", "BloomForCausalLM", "BloomConfig", vocab_size=96, hidden_size=32, n_layer=2, n_head=4, **WHERE_EOS),
    decoder("Falcon", "FalconForCausalLM", "FalconConfig", vocab_size=96, hidden_size=32, num_hidden_layers=2,
            num_attention_heads=4, **WHERE_EOS),
    decoder("Mixtral", "MixtralForCausalLM", "MixtralConfig", **GROUPED, num_local_experts=4),
    right("BERT, sequences", "BertForSequenceClassification", "BertConfig", **BERT, **LABELS),
    right("BERT, tokens", "BertForTokenClassification", "BertConfig", **BERT, **LABELS),
    right("BERT, questions", "BertForQuestionAnswering", "BertConfig", **BERT),
    right("BERT, masked words", "BertForMaskedLM", "BertConfig", **BERT),
    right("RoBERTa, sequences", "RobertaForSequenceClassification", "RobertaConfig", 1, **ROBERTA, **LABELS),
    right("XLM-R, masked words", "XLMRobertaForMaskedLM", "XLMRobertaConfig", 1, **ROBERTA),
    right("DistilBERT, sequences", "DistilBertForSequenceClassification", "DistilBertConfig", vocab_size=96, dim=32,
          hidden_dim=64, n_layers=2, n_heads=4, max_position_embeddings=64, **LABELS),
    right("DeBERTa-v2, tokens", "DebertaV2ForTokenClassification", "DebertaV2Config", **BERT, **LABELS,
          relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"], share_att_key=True,
          norm_rel_ebd="layer_norm", position_biased_input=False, max_relative_positions=-1),
    right("Llama, sequences", "LlamaForSequenceClassification", "LlamaConfig", **GROUPED, **LABELS),
    right("GPT-2, sequences", "GPT2ForSequenceClassification", "GPT2Config", vocab_size=96, n_embd=32, n_layer=2, n_head=4,
          n_positions=64, pad_token_id=0, **WHERE_EOS, **LABELS),
    encoder_decoder("T5", "T5ForConditionalGeneration", "T5Config", **T5),
    encoder_decoder("flan-T5", "T5ForConditionalGeneration", "T5Config", **T5, feed_forward_proj="gated-gelu",
                    tie_word_embeddings=False),
    encoder_decoder("BART", "BartForConditionalGeneration", "BartConfig", 1, **BART, bos_token_id=0, eos_token_id=2,
                    decoder_start_token_id=2),
    encoder_decoder("NLLB", "M2M100ForConditionalGeneration", "M2M100Config", 1, **BART, bos_token_id=0, eos_token_id=2,
                    decoder_start_token_id=2, scale_embedding=True, encoder_layerdrop=0.0, decoder_layerdrop=0.0),
    unpadded("Whisper", whisper, lambda: {"input_features": noise(ROWS, 8, 32), "decoder_input_ids": ids(ROWS, 5, 3)}),
    unpadded("ViT", lambda: t.ViTForImageClassification(t.ViTConfig(**VISION, **LABELS)),
             lambda: {"pixel_values": noise(ROWS, 3, 16, 16)}),
    Architecture("wav2vec2", wav2vec2, of_wav2vec2, lambda inputs, i: without_padding(inputs, i), "attention_mask"),
    Architecture("CLIP", clip, of_clip, without_padding, "attention_mask"),
    Architecture("LLaVA", llava, picture_and_text(3, 4), without_padding, "attention_mask"),
    Architecture("Qwen2.5-VL", qwen2_5_vl, of_qwen2_5_vl, a_row_of_qwen2_5_vl, "attention_mask"),
    Architecture("PaliGemma", paligemma, of_paligemma, without_padding, "attention_mask"),
    unpadded("UNet with Conv2d", UNet, lambda: {"sample": noise(ROWS, 3, 8, 8), "time": noise(ROWS, 8, seed=3)}),
    unpadded("nn.TransformerEncoder", BatchSecond, lambda: {"x": noise(2 * ROWS, ROWS, 32)},
             lambda inputs, i: {"x": inputs["x"][:, i:i + 1]}, batch=1),
    unpadded("nn.MultiheadAttention", Attention, lambda: {"x": noise(ROWS, 5, 16)}),
    unpadded("BatchNorm", Normed, lambda: {"x": noise(ROWS, 8)}),
]}
