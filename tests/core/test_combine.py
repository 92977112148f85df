"""combine: the exact weighted sum of LoRA adapters, cut to a rank, in files that `peft` reads; and what it refuses."""
import copy

import peft
import pytest
import torch
from ladder import EXACT, logits
from tiny import batch, fill, numbers, tiny
from torch import nn

import peftlab as pl
from peftlab.adapter import shape
from peftlab.files import tensors
from peftlab.layers import adapted
from peftlab.methods import IA3, DoRA, FullFineTuning, LoRA, MiCA, PiSSA, PromptTuning
from peftlab.methods.pissa import as_lora

TARGETS = {"llama": (["q_proj", "down_proj"], ["q_proj", "v_proj", "embed_tokens"]),
           "gpt2": (["c_attn", "c_fc"], ["c_attn", "wte"]),
           "bert": (["query", "output.dense"], ["query", "word_embeddings"])}
each_arch = pytest.mark.parametrize("arch", TARGETS)


def two(arch="llama", **more):
    """A tiny model with two LoRAs, `a` and `b`: of different ranks, alphas, scalings and layers, with numbers in all."""
    model = tiny(arch)
    pl.attach(model, LoRA, TARGETS[arch][0], name="a", r=3, lora_alpha=5, lora_dropout=0.5, **more)
    pl.attach(model, LoRA, TARGETS[arch][1], name="b", r=2, lora_alpha=7, use_rslora=True, **more)
    for name in "ab":
        fill(tensors(model, name), name)
    return model.eval()


def updates(model, name):
    """{path: the update of one adapter, (d_out, d_in)}."""
    return {path: (a.scaling * a.lora_B.flatten(1) @ a.lora_A.flatten(1)).detach()
            for path, layer in adapted(model, name) for a in [layer.adapters[name]]}


def summed(model, weights):
    """{path: the weighted sum of the updates of several adapters}."""
    found = {}
    for name, weight in weights.items():
        for path, update in updates(model, name).items():
            found[path] = found.get(path, 0) + weight * update
    return found


def state(model):
    """What `combine` must leave alone where it refuses."""
    return {k: v.clone() for k, v in model.state_dict().items()}, copy.copy(model.switch.recipe), model.switch.active, \
        [name for name, _ in model.named_modules()], [p.requires_grad for p in model.parameters()]


# ------------------------------------------------------------------------------------------------ the sum

@each_arch
def test_the_sum_is_what_both_give_together(arch):
    model, inputs = two(arch), batch(arch)
    pl.use(model, "a", "b")
    both = logits(model, inputs)
    assert pl.combine(model, ["a", "b"]) == 0.0
    assert model.switch.active == ("combined",) and torch.allclose(logits(model, inputs), both, atol=EXACT)
    pl.use(model, "a")
    assert not torch.allclose(logits(model, inputs), both, atol=1e-3), "the second adapter is to matter"


@each_arch
def test_weights_are_those_of_the_updates_whatever_their_sign_and_scale(arch):
    model = two(arch)
    pl.combine(model, ["a", "b"], [0.3, -2.0], name="c")
    wanted, got = summed(model, {"a": 0.3, "b": -2.0}), updates(model, "c")
    assert got.keys() == wanted.keys() > updates(model, "a").keys()
    assert all(torch.allclose(got[path], wanted[path], atol=EXACT) for path in wanted)
    assert {len(layer.adapters["c"].lora_A) for _, layer in adapted(model, "c")} == {2, 3, 5}


def test_an_adapter_less_itself_is_the_base_and_one_alone_is_itself():
    model, inputs = two(), batch("llama")
    pl.use(model)
    base = logits(model, inputs)
    pl.combine(model, ["a", "a"], [1, -1], "nothing")
    assert torch.allclose(logits(model, inputs), base, atol=EXACT)
    pl.combine(model, ["b"], name="alone")
    alone = logits(model, inputs)
    pl.use(model, "b")
    assert torch.allclose(logits(model, inputs), alone, atol=EXACT)


def test_a_sum_can_be_added_merged_and_trained_like_any_other():
    model, inputs = two(), batch("llama")
    pl.combine(model, ["a", "b"], [0.5, 0.5], "mean")
    pl.combine(model, ["mean", "a"], [1, -0.5], "half_b")
    half = logits(model, inputs)
    pl.combine(model, ["b"], [0.5], "the_same")
    assert torch.allclose(logits(model, inputs), half, atol=1e-5)
    model.train()(**inputs).loss.backward()
    trained = [p for _, layer in adapted(model, "the_same") for p in layer.adapters["the_same"].parameters()]
    assert trained and all(p.requires_grad and p.grad.any() for p in trained)
    assert all(p.grad is None for p in tensors(model, "b").values()), "the source is left alone"


def test_a_layer_whose_name_ends_in_another_s_keeps_its_own_rank(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.inner = nn.Linear(6, 6), nn.ModuleDict({"q": nn.Linear(6, 6)})

        def forward(self, x):
            return self.inner["q"](self.q(x))

    def made():
        torch.manual_seed(0)
        return Net()

    model, x = made(), numbers("x", (3, 6))
    pl.attach(model, LoRA, ["q"], name="both", r=2)
    pl.attach(model, LoRA, "q", name="outer", r=3)
    for name in ("both", "outer"):
        fill(tensors(model, name), name)
    pl.use(model, "both", "outer")
    wanted = model(x)
    pl.combine(model, (name for name in ("both", "outer")))          # a generator is as good as a list
    assert torch.allclose(model(x), wanted, atol=EXACT)
    assert [len(layer.adapters["combined"].lora_A) for _, layer in adapted(model)] == [5, 2]
    assert torch.allclose(pl.load(made(), pl.save(model, tmp_path, "combined"))(x), wanted, atol=EXACT)


def test_convolutions_are_added_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, (3, 2), stride=2, padding=1)

        def forward(self, x):
            return self.conv(x)

    model, x = Net(), numbers("x", (2, 3, 8, 8))
    for name, r in (("a", 2), ("b", 3)):
        pl.attach(model, LoRA, ["conv"], name=name, r=r)
        fill(tensors(model, name), name)
    pl.use(model, "a", "b")
    both = model(x)
    pl.combine(model, ["a", "b"], r=4)
    assert model.conv.adapters["combined"].lora_A.shape == (4, 3, 3, 2)
    pl.combine(model, ["a", "b"], name="whole")
    assert torch.allclose(model(x), both, atol=EXACT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_sum_is_kept_in_the_finest_precision_and_never_under_float32(dtype):
    model = two()
    for _, layer in adapted(model, "a"):
        layer.adapters["a"].to(dtype)
    pl.combine(model, ["a", "b"])
    kinds = {p.dtype for p in tensors(model, "combined").values()}
    assert kinds == ({torch.float32} if dtype is torch.bfloat16 else {torch.float64, torch.float32})


# ------------------------------------------------------------------------------------------------ cut to a rank

def test_a_cut_is_the_truncated_svd_and_the_share_is_what_it_left_out():
    model = two()
    whole = summed(model, {"a": 1.0, "b": 0.5})
    lost = pl.combine(model, ["a", "b"], [1, 0.5], "cut", r=2)
    off = 0.0
    for path, update in updates(model, "cut").items():
        U, S, Vh = torch.linalg.svd(whole[path].double(), full_matrices=False)
        assert torch.allclose(update, (U[:, :2] * S[:2] @ Vh[:2]).float(), atol=1e-5), path
        off += S[2:].square().sum().item()
    assert lost == pytest.approx((off / sum(u.square().sum().item() for u in whole.values())) ** 0.5, rel=1e-4) and 0 < lost < 1


@pytest.mark.parametrize("r", [5, 8, 10_000])
def test_a_cut_that_cuts_nothing_loses_nothing(r):
    model, inputs = two(), batch("llama")
    pl.combine(model, ["a", "b"], name="exact")
    exact = logits(model, inputs)
    assert pl.combine(model, ["a", "b"], name="cut", r=r) < 1e-7
    assert torch.allclose(logits(model, inputs), exact, atol=1e-5)
    assert max(len(layer.adapters["cut"].lora_A) for _, layer in adapted(model, "cut")) == 5


def test_ranks_above_the_width_are_cut_without_loss_and_a_sum_of_nothing_is_nothing():
    model = tiny("llama")
    pl.attach(model, LoRA, ["q_proj"], name="wide", r=40)
    assert pl.combine(model, ["wide"], name="still_zero", r=3) == 0.0
    fill(tensors(model, "wide"))
    assert pl.combine(model, ["wide"], name="narrow", r=40) < 1e-7
    assert len(adapted(model, "narrow")[0][1].adapters["narrow"].lora_A) == shape(adapted(model, "narrow")[0][1])[0] == 16


# ------------------------------------------------------------------------------------------------ beside peft

@each_arch
@pytest.mark.parametrize("r", [None, 2])
def test_the_file_is_peft_s_and_comes_back(arch, r, tmp_path):
    model, inputs = two(arch), batch(arch)
    pl.combine(model, ["a", "b"], [1.5, -0.5], "c", r)
    mine = logits(model, inputs)
    pl.save(model, tmp_path, "c")
    theirs = peft.PeftModel.from_pretrained(tiny(arch), tmp_path).eval()
    assert torch.allclose(logits(theirs, inputs), mine, atol=EXACT)
    assert torch.allclose(logits(pl.load(tiny(arch), tmp_path), inputs), mine, atol=EXACT)


def in_peft(tmp_path, model):
    """The adapters `a` and `b` of a model in `peft`, through their files."""
    for name in "ab":
        pl.save(model, tmp_path / name, name)
    theirs = peft.PeftModel.from_pretrained(tiny("llama"), tmp_path / "a", "a").eval()
    theirs.load_adapter(tmp_path / "b", "b")
    return theirs


def of_one_rank():
    """Two LoRAs of equal rank, alpha and layers: for others `peft`'s linear refuses."""
    model = tiny("llama")
    for name in "ab":
        pl.attach(model, LoRA, ["q_proj", "v_proj"], name=name, r=4, lora_alpha=6)
        fill(tensors(model, name), name)
    return model


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.5, -1.5]])
def test_peft_s_cat_and_svd_are_equal_and_its_linear_is_another_matrix(weights, tmp_path):
    model, inputs = of_one_rank(), batch("llama")
    theirs = in_peft(tmp_path, model)
    for kind, r in (("cat", None), ("svd", 3), ("linear", None)):
        theirs.add_weighted_adapter(["a", "b"], weights, kind, combination_type=kind, svd_rank=r)
        theirs.set_adapter(kind)
        pl.combine(model, ["a", "b"], weights, kind, r)
        gap = (logits(theirs, inputs) - logits(model, inputs)).abs().max().item()
        assert gap > 1e-2 if kind == "linear" else gap < 1e-5, (kind, gap)


def test_what_peft_does_with_rslora_and_a_single_source_is_no_sum(tmp_path):
    """Facts about the installed library that lesson 12 tells: if one of these fails, the library has been mended."""
    model, inputs = tiny("llama"), batch("llama")
    for name in "ab":
        pl.attach(model, LoRA, ["q_proj"], name=name, r=4, lora_alpha=6, use_rslora=True)
        fill(tensors(model, name), name)
    theirs = in_peft(tmp_path, model)
    theirs.add_weighted_adapter(["a", "b"], [1.0, 1.0], "cat", combination_type="cat")
    layer = theirs.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.scaling["cat"] == pytest.approx(8**0.5), "of rank 8, and inflated by its root"
    theirs.set_adapter("cat")
    pl.combine(model, ["a", "b"])
    assert (logits(theirs, inputs) - logits(model, inputs)).abs().max() > 1e-2


# ------------------------------------------------------------------------------------------------ refusals

def refused(model, error, message, *args, **more):
    before = state(model)
    with pytest.raises(error, match=message):
        pl.combine(model, *args, **more)
    after = state(model)
    assert all(torch.equal(v, after[0][k]) for k, v in before[0].items()) and before[1:] == after[1:]


NO = {
    "no adapters named": (ValueError, "name the adapters to add up; there are: a, b", [], {}),
    "one name, no list": (TypeError, r"a list of names .* write \['a'\]", "a", {}),
    "a name that is not there": (ValueError, "no adapter is called 'x'; there are: a, b", ["a", "x"], {}),
    "a name that exists": (ValueError, "there is an adapter called 'b' already", ["a", "b"], {"name": "b"}),
    "a name that is none": (ValueError, "'x.y' cannot be an adapter's name", ["a", "b"], {"name": "x.y"}),
    "too few weights": (ValueError, "2 adapters and 1 weights", ["a", "b"], {"weights": [1.0]}),
    "too many weights": (ValueError, "2 adapters and 3 weights", ["a", "b"], {"weights": [1, 1, 1]}),
    "one number for all": (TypeError, "a list of weights, one for each adapter, and got the single number 0.5", ["a", "b"], {"weights": 0.5}),
    "a weight of nan": (ValueError, "a weight is nan", ["a", "b"], {"weights": [1, float("nan")]}),
    "an endless weight": (ValueError, "a weight is inf", ["a", "b"], {"weights": [1, float("inf")]}),
    "a weight that is a word": (ValueError, "could not convert", ["a", "b"], {"weights": [1, "much"]}),
    "a rank of zero": (ValueError, "a whole number from 1 up, and not 0", ["a", "b"], {"r": 0}),
    "a rank and a half": (ValueError, "a whole number from 1 up, and not 1.5", ["a", "b"], {"r": 1.5}),
    "a rank that is a flag": (ValueError, "a whole number from 1 up, and not True", ["a", "b"], {"r": True}),
}


@pytest.mark.parametrize("error, message, adapters, more", NO.values(), ids=NO)
def test_what_makes_no_sense_is_refused_and_nothing_changes(error, message, adapters, more):
    refused(two(), error, message, adapters, **more)


OTHERS = {
    "DoRA": (DoRA, ["q_proj"], {"r": 2}, "is a DoRA, and only LoRA adapters can be added up exactly: its magnitude multiplies"),
    "PiSSA": (PiSSA, ["q_proj"], {"r": 2}, "is a PiSSA.*make a plain LoRA of it first, peftlab.methods.as_lora"),
    "MiCA": (MiCA, ["q_proj"], {"r": 2}, "is a MiCA"),
    "IA3": (IA3, ["k_proj", "v_proj"], {}, "is a IA3"),
    "a prompt": (PromptTuning, None, {"num_virtual_tokens": 2}, "is a PromptTuning"),
    "full fine-tuning": (FullFineTuning, ["q_proj"], {}, "is a FullFineTuning"),
    "trained biases": (LoRA, ["q_proj"], {"lora_bias": True}, "has trained biases"),
    "a head trained along": (LoRA, ["q_proj"], {"modules_to_save": ["lm_head"]}, "has a trained copy of lm_head"),
}


@pytest.mark.parametrize("method, targets, options, message", OTHERS.values(), ids=OTHERS)
def test_what_has_no_exact_sum_is_refused_and_nothing_changes(method, targets, options, message):
    model = pl.attach(two(), method, targets, name="other", **options)
    refused(model, ValueError, f"'other' {message}", ["a", "other"])


def test_merged_adapters_bare_models_and_numbers_that_are_not_finite_are_refused():
    model = two()
    pl.use(model, "a")
    pl.merge(model)
    refused(model, ValueError, "a merged into the weights: unmerge before you combine", ["a", "b"])
    with pytest.raises(ValueError, match="this model has no adapters: call attach before combine"):
        pl.combine(tiny("llama"), ["a"])
    model = two()
    with torch.no_grad():
        next(iter(tensors(model, "b").values()))[0] = float("nan")
    with pytest.raises(ValueError, match="'b' holds numbers on .* that are not finite"):
        pl.combine(model, ["a", "b"], r=2)
    assert list(model.switch.recipe) == ["a", "b"]


def test_a_pissa_made_plain_can_be_added():
    model, inputs = tiny("llama"), batch("llama")
    pl.attach(model, PiSSA, ["q_proj"], name="a", r=2)
    with torch.no_grad():
        for p in tensors(model, "a").values():
            p.add_(0.1)
    as_lora(model, "a", "plain")
    plain = logits(model, inputs)
    pl.combine(model, ["plain"], name="sum")
    assert torch.allclose(logits(model, inputs), plain, atol=EXACT)
