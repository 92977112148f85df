"""count, and the closed forms beside what was measured."""
import itertools
import weakref

import pytest
import torch
from ladder import ours
from specs import SPECS
from tiny import batch, tiny
from torch import nn
from transformers import (
    BloomConfig,
    BloomModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

import peftlab as pl
from peftlab.count import linear_multiplications
from peftlab.methods import IA3, BitFit, DoRA, FullFineTuning, Houlsby, LoRA, Pfeiffer, PrefixTuning, PromptTuning


def test_a_count_reads_well():
    model = pl.attach(tiny("llama"), LoRA, ["q_proj"], r=4)
    counted = pl.count(model)
    assert counted.trainable == 2 * 4 * (16 + 16)
    assert repr(counted) == f"256 of {counted.total:,} parameters are trained ({256 / counted.total:.3%})"
    html = counted._repr_html_()
    assert html.startswith("<table>") and html.endswith("</table>") and ">256<" in html and "AdamW" in html
    assert counted.fraction == 256 / counted.total
    assert (counted.weights, counted.gradients, counted.optimizer) == (4 * counted.total, 4 * 256, 8 * 256)


def test_bytes_follow_the_precision():
    model = pl.attach(tiny("llama").to(torch.bfloat16), LoRA, ["q_proj"], r=4)
    counted = pl.count(model)
    assert counted.weights == 2 * (counted.total - 256) + 4 * 256
    assert (counted.gradients, counted.optimizer) == (4 * 256, 8 * 256)


def test_the_optimizer_holds_what_is_counted():
    model = ours(SPECS[0], "llama")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(**batch("llama")).loss.backward()
    optimizer.step()
    states = [t for state in optimizer.state.values() for t in state.values() if t.dim() > 0]
    assert pl.count(model).optimizer == sum(t.nbytes for t in states)
    assert pl.count(model).gradients == sum(p.grad.nbytes for p in trained)


def test_a_shared_weight_counts_once_and_a_frozen_model_trains_nothing():
    tied, untied = tiny("gpt2"), tiny("gpt2", tie_word_embeddings=False)
    assert pl.count(untied).total - pl.count(tied).total == 40 * 16
    assert pl.count(tied.requires_grad_(False)).fraction == 0.0
    assert pl.count(nn.Identity()).fraction == 0.0


# ------------------------------------------------------------------------------------------------ closed forms

ENCODER = r"encoder\.layer\.\d+\..*(query|key|value|dense)"
END = {"xlmr": r".*layer\.\d+\.output\.LayerNorm", "llama": r"layers\.\d+", "gpt2": r"h\.\d+", "bloom": r"h\.\d+"}
ENDS = {"xlmr": r".*layer\.\d+\.(attention\.)?output\.dense", "llama": ["o_proj", "down_proj"], "gpt2": ["c_proj"],
        "bloom": ["self_attention.dense", "dense_4h_to_h"]}
QV = {"xlmr": ["query", "value"], "llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "bloom": ["query_key_value"]}
ALL = {"xlmr": ENCODER, "llama": "all-linear", "gpt2": "all-linear", "bloom": "all-linear"}
FEED = {"xlmr": ["key", "value", "intermediate.dense"], "llama": ["k_proj", "v_proj", "down_proj"]}


@pytest.fixture(scope="module")
def large():
    """Large models on the "meta" device: shapes without numbers."""
    with torch.device("meta"):
        return {
            "xlmr": XLMRobertaModel(XLMRobertaConfig(
                vocab_size=250002, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
                intermediate_size=4096, max_position_embeddings=514, type_vocab_size=1)),
            "llama": LlamaModel(LlamaConfig(
                vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=True)),
            "gpt2": GPT2Model(GPT2Config()),
            "bloom": BloomModel(BloomConfig(vocab_size=250880, hidden_size=1024, n_layer=24, n_head=16)),
        }


def test_the_large_models_have_their_published_sizes(large):
    assert {k: pl.count(m).total for k, m in large.items()} \
        == {"xlmr": 559_890_432, "llama": 1_235_814_400, "gpt2": 124_439_808, "bloom": 559_214_592}


@pytest.mark.parametrize("method, targets, options, expected", [
    (LoRA, QV, {"r": 4}, {"bloom": 393_216, "xlmr": 393_216, "gpt2": 147_456, "llama": 425_984}),
    (LoRA, QV, {"r": 8}, {"bloom": 786_432, "xlmr": 786_432, "gpt2": 294_912, "llama": 851_968}),
    (LoRA, QV, {"r": 64}, {"bloom": 6_291_456, "xlmr": 6_291_456, "gpt2": 2_359_296, "llama": 6_815_744}),
    (LoRA, ALL, {"r": 8}, {"bloom": 3_145_728, "xlmr": 3_538_944, "gpt2": 1_179_648, "llama": 5_636_096}),
    (LoRA, ALL, {"r": 32}, {"bloom": 12_582_912, "xlmr": 14_155_776, "gpt2": 4_718_592, "llama": 22_544_384}),
    (Pfeiffer, END, {"reduction_factor": 16}, {"bloom": 3_171_840, "xlmr": 3_171_840, "gpt2": 894_528,
                                               "llama": 8_423_424}),
    (Pfeiffer, END, {"reduction_factor": 8}, {"bloom": 6_319_104, "xlmr": 6_319_104, "gpt2": 1_779_840,
                                              "llama": 16_814_080}),
    (Pfeiffer, END, {"reduction_factor": 2}, {"bloom": 25_202_688, "xlmr": 25_202_688, "gpt2": 7_091_712,
                                              "llama": 67_158_016}),
    (Houlsby, ENDS, {"reduction_factor": 16}, {"bloom": 6_343_680, "xlmr": 6_343_680, "gpt2": 1_789_056,
                                               "llama": 16_846_848}),
    (PromptTuning, {}, {"num_virtual_tokens": 20}, {"bloom": 20_480, "xlmr": 20_480, "gpt2": 15_360, "llama": 40_960}),
    (PrefixTuning, {}, {"num_virtual_tokens": 20}, {"bloom": 983_040, "xlmr": 983_040, "gpt2": 368_640,
                                                    "llama": 327_680}),
    (IA3, FEED, {"feedforward_modules": ["intermediate.dense", "down_proj"]}, {"llama": 147_456}),
    (DoRA, QV, {"r": 8}, {"xlmr": 786_432 + 24 * 2 * 1024}),
])
def test_closed_forms_of_large_models(large, method, targets, options, expected):
    assert {k: pl.closed_form(large[k], method, targets.get(k), **options) for k in expected} == expected


def test_bitfit_and_ia3_of_an_encoder(large):
    layers = [p for p, m in large["xlmr"].named_modules() if getattr(m, "bias", None) is not None and "pooler" not in p]
    pattern = "|".join(p.replace(".", r"\.") for p in layers)
    assert pl.closed_form(large["xlmr"], BitFit, pattern) == 271_360
    feed = r".*layer\.\d+\.output\.dense"
    ia3 = pl.closed_form(large["xlmr"], IA3, ["key", "value"]) \
        + pl.closed_form(large["xlmr"], IA3, feed, feedforward_modules=["output.dense"])
    assert ia3 == 147_456


def test_the_head_of_a_classifier_is_counted():
    with torch.device("meta"):
        model = XLMRobertaForSequenceClassification(XLMRobertaConfig(
            vocab_size=250002, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
            max_position_embeddings=514, type_vocab_size=1, num_labels=3))
    assert pl.count(model).total == 559_893_507
    for targets, options, expected in (
            (QV["xlmr"], {"r": 8}, 1_839_107), (QV["xlmr"], {"r": 32}, 4_198_403)):
        assert pl.closed_form(model, LoRA, targets, modules_to_save=["classifier"], **options) == expected
    for reduction, expected in ((8, 7_371_779), (2, 26_255_363)):
        assert pl.closed_form(model, Pfeiffer, END["xlmr"], modules_to_save=["classifier"],
                              reduction_factor=reduction) == expected
    pl.attach(model, LoRA, QV["xlmr"], modules_to_save=["classifier"], r=8)
    assert pl.count(model).trainable == 1_839_107


# ------------------------------------------------------------------------------------------------ multiplications

class Stack(nn.Module):
    """Linear layers one after the other, and the sum of the last one's output as a loss."""

    def __init__(self, *widths):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(i, o, bias=False) for i, o in itertools.pairwise(widths)])

    def forward(self, x):
        return {"loss": self.layers(x).sum()}


def test_lora_saves_a_third_of_the_multiplications():
    """Full fine-tuning: one part forward, one for the gradients of inputs, one for those of weights. LoRA: two."""
    widths, tokens, r = (32, 48, 40, 64), 7, 2
    shapes, x = list(itertools.pairwise(widths)), torch.randn(7, 32)
    full = Stack(*widths)
    expected = [sum(part) for part in zip(*(linear_multiplications(tokens, *shape, True, i > 0)
                                            for i, shape in enumerate(shapes)))]
    assert list(pl.multiplications(full, x=x)) == expected
    assert all(p.grad is None for p in full.parameters())

    lora = pl.attach(Stack(*widths), LoRA, ["0", "1", "2"], r=r)
    base = [linear_multiplications(tokens, *shape, False, i > 0) for i, shape in enumerate(shapes)]
    A = [linear_multiplications(tokens, d_in, r, True, i > 0) for i, (d_in, _) in enumerate(shapes)]
    B = [linear_multiplications(tokens, r, d_out, True, True) for _, d_out in shapes]
    assert list(pl.multiplications(lora, x=x)) == [sum(part) for part in zip(*base, *A, *B)]

    deep = [512] * 21                                        # the wider and deeper, the nearer to a third
    x, stacks = torch.ones(4, 512, device="meta"), [Stack(*deep).to("meta") for _ in range(2)]
    pl.attach(stacks[1], LoRA, "all-linear", r=1)
    full, lora = (sum(pl.multiplications(s, x=x)) for s in stacks)
    assert 1 - lora / full == pytest.approx(1 / 3, abs=0.02)


def test_gradients_that_are_there_stay():
    model = Stack(4, 3)
    model(torch.ones(2, 4))["loss"].backward()
    before = model.layers[0].weight.grad.clone()
    pl.multiplications(model, x=torch.ones(2, 4))
    assert torch.equal(model.layers[0].weight.grad, before)


# ------------------------------------------------------------------------------------------------ activations

def test_saved_activations_are_the_inputs_of_trained_layers():
    x, rows = torch.randn(5, 16), 5
    assert pl.saved_activations(Stack(16, 8, 4), x=x) == 4 * rows * (16 + 8)
    frozen = Stack(16, 8, 4).requires_grad_(False)
    assert pl.saved_activations(frozen, x=x) == 0
    lora = pl.attach(frozen, LoRA, ["0", "1"], r=2)          # each A keeps its layer's input, each B what A gives
    assert pl.saved_activations(lora, x=x) == 4 * rows * (16 + 8 + 2 + 2)
    assert all(p.grad is None for p in lora.parameters())


def test_saved_activations_need_no_numbers():
    real, meta = tiny("llama"), tiny("llama").to("meta")
    inputs = batch("llama") | {"attention_mask": None}       # transformers looks into a mask
    expected = pl.saved_activations(real, **inputs)
    found = pl.saved_activations(meta, **{k: v if v is None else v.to("meta") for k, v in inputs.items()})
    assert expected > 0 and abs(found - expected) < 0.2 * expected      # which attention kernel runs differs


def test_full_fine_tuning_keeps_more_than_lora():
    kept = []
    for method, targets in ((FullFineTuning, ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
                            (LoRA, ["q_proj"])):
        kept.append(pl.saved_activations(pl.attach(tiny("llama"), method, targets), **batch("llama")))
    assert kept[0] > kept[1] > 0


def test_what_was_measured_is_let_go():
    """An operation that keeps its own output, as softmax does, must not be kept alive by the measuring."""
    made = []

    class Softmax(nn.Module):
        def forward(self, x):
            made.append(weakref.ref(y := (x * 2).softmax(-1)))
            return y.exp()

    assert pl.saved_activations(Softmax(), x=torch.randn(4, 5, requires_grad=True)) > 0
    assert made[0]() is None
