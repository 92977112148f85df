"""Thirty configurations with the fields that public adapters have, each both ways with `peft`."""
import peft
import pytest
import torch
import transformers as t
from test_in_the_world import IDS, SMALL, both_ways, llama, make

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def gpt2():
    return make(t.GPT2LMHeadModel, t.GPT2Config, vocab_size=60, n_embd=32, n_layer=2, n_head=4)


def bert():
    return make(t.BertForSequenceClassification, t.BertConfig, num_labels=3, **SMALL)


def qwen():
    return make(t.Qwen2ForCausalLM, t.Qwen2Config, pad_token_id=0, num_key_value_heads=2, **SMALL)


def tokens():
    return make(t.BertForTokenClassification, t.BertConfig, num_labels=3, **SMALL)


LM = {"task_type": "CAUSAL_LM"}
CONFIGURATIONS = {
    "two projections, dropout": (llama, peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=["q_proj", "v_proj"], **LM)),
    "every linear layer by name": (qwen, peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=SEVEN, **LM)),
    "alpha below the rank": (llama, peft.LoraConfig(r=16, lora_alpha=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], **LM)),
    "rank stabilised": (qwen, peft.LoraConfig(r=16, lora_alpha=16, use_rslora=True, target_modules=SEVEN, **LM)),
    "DoRA": (qwen, peft.LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=SEVEN, **LM)),
    "table and output layer saved": (llama, peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], **LM)),
    "ranks by layer": (llama, peft.LoraConfig(r=4, target_modules=SEVEN, rank_pattern={"down_proj": 2, r"layers\.0\..*q_proj": 6}, **LM)),
    "alphas by layer": (llama, peft.LoraConfig(r=4, lora_alpha=4, target_modules=SEVEN, alpha_pattern={"mlp.up_proj": 32}, **LM)),
    "upper blocks": (llama, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], layers_to_transform=[1], **LM)),
    "a pattern": (llama, peft.LoraConfig(r=4, target_modules=r"model\.layers\.\d+\.(self_attn|mlp)\.(q|v|down)_proj", **LM)),
    "all-linear": (qwen, peft.LoraConfig(r=4, target_modules="all-linear", **LM)),
    "all-linear but some": (llama, peft.LoraConfig(r=4, target_modules="all-linear", exclude_modules=["gate_proj", "up_proj"], **LM)),
    "Conv1D": (gpt2, peft.LoraConfig(r=4, lora_alpha=32, target_modules=["c_attn"], fan_in_fan_out=True, **LM)),
    "Conv1D, everything": (gpt2, peft.LoraConfig(r=4, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, **LM)),
    "a classifier": (bert, peft.LoraConfig(r=4, target_modules=["query", "value"], task_type="SEQ_CLS")),
    "a classifier, named": (bert, peft.LoraConfig(r=4, target_modules="all-linear", modules_to_save=["classifier"], task_type="SEQ_CLS")),
    "tokens": (tokens, peft.LoraConfig(r=4, target_modules=["query", "key", "value", "dense"], task_type="TOKEN_CLS")),
    "norms": (llama, peft.LNTuningConfig(**LM)),
    "IA3": (llama, peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], **LM)),
    "LoHa": (llama, peft.LoHaConfig(r=4, alpha=8, target_modules=["q_proj", "down_proj"])),
    "LoKr": (llama, peft.LoKrConfig(r=4, alpha=8, decompose_factor=8, target_modules=["q_proj", "down_proj"])),
    "OFT": (llama, peft.OFTConfig(oft_block_size=8, target_modules=["q_proj", "v_proj"], **LM)),
    "VeRA": (llama, peft.VeraConfig(r=8, target_modules=["q_proj", "v_proj"], **LM)),
    "MiSS": (llama, peft.MissConfig(r=8, target_modules=["q_proj", "v_proj"], **LM)),
    "HRA": (llama, peft.HRAConfig(r=4, target_modules=["q_proj", "v_proj"], **LM)),
    "FourierFT": (llama, peft.FourierFTConfig(n_frequency=20, target_modules=["q_proj", "v_proj"], **LM)),
    "prompt": (gpt2, peft.PromptTuningConfig(num_virtual_tokens=8, **LM)),
    "prefix": (qwen, peft.PrefixTuningConfig(num_virtual_tokens=6, **LM)),
    "P-tuning": (bert, peft.PromptEncoderConfig(num_virtual_tokens=5, encoder_hidden_size=16, task_type="SEQ_CLS")),
    "prompt for tokens": (tokens, peft.PromptTuningConfig(num_virtual_tokens=5, task_type="TOKEN_CLS")),
}


@pytest.mark.parametrize("base, config", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_it_is_the_same_here_and_there(base, config, tmp_path):
    both_ways(base, tmp_path, config, input_ids=IDS, attention_mask=torch.ones_like(IDS))
