"""NF4: the levels, the error, double quantisation, and adapters on a base of four bits."""
import copy

import pytest
import torch
from tiny import batch, fill, tiny
from torch import nn

import peftlab as pl
from peftlab import nf4
from peftlab.files import tensors
from peftlab.methods import OFT, DoRA, HiRA, LoRA


def test_the_levels_are_quantiles_with_zero_and_both_ends():
    L = nf4.levels()
    assert len(L) == 16 and L[0] == -1 and L[-1] == 1 and (L == 0).sum() == 1 and (L > 0).sum() == 8
    # the published codebook, to the digits in which it is usually printed
    assert torch.allclose(L[[1, 6, 8, 14]], torch.tensor([-0.6962, -0.0911, 0.0796, 0.7230]), atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 64), (5, 7), (3, 130)])
def test_every_weight_goes_to_its_nearest_level(shape):
    W = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    codes, absmax = nf4.quantize(W)
    W2 = nf4.dequantize(codes, absmax, W.shape)
    block = torch.arange(W.numel()) // nf4.BLOCK
    choices = nf4.levels() * absmax[block][:, None]                                   # what each weight could become
    nearest = choices.gather(1, (choices - W.flatten()[:, None]).abs().argmin(1, keepdim=True))[:, 0]
    assert torch.allclose(W2.flatten(), nearest)
    assert torch.equal(nf4.unpack(nf4.pack(codes), len(codes)), codes)


def test_normal_weights_suit_nf4_and_uniform_ones_do_not():
    def error(W, levels):
        absmax = W.view(-1, 64).abs().amax(1)[:, None]
        scaled = W.view(-1, 64) / absmax
        near = levels[(scaled[..., None] - levels).abs().argmin(-1)] * absmax
        return ((near - W.view(-1, 64)) ** 2).mean() / W.pow(2).mean()

    g = torch.Generator().manual_seed(0)
    normal, uniform, even = torch.randn(4096, 64, generator=g), torch.rand(4096, 64, generator=g) * 2 - 1, \
        torch.linspace(-1, 1, 16)
    assert error(normal, nf4.levels()) < error(normal, even)
    assert error(uniform, nf4.levels()) > error(uniform, even)


def test_double_quantisation_costs_little_and_saves_what_it_says():
    layer = nn.Linear(512, 512)
    plain, double = nf4.NF4Linear(layer, double=False), nf4.NF4Linear(layer)
    bits = [8 * sum(b.numel() * b.element_size() for b in q.buffers()) / layer.weight.numel() for q in (plain, double)]
    assert bits[0] == 4.5 and 4.126 < bits[1] < 4.128
    lost = [(q.weight - layer.weight).norm().item() for q in (plain, double)]
    assert lost[1] < 1.01 * lost[0]


def test_the_backward_pass_is_that_of_the_weight_in_use():
    layer = nf4.NF4Linear(nn.Linear(24, 10))
    x = torch.randn(2, 3, 24, requires_grad=True)
    layer(x).pow(2).sum().backward()
    z = x.detach().requires_grad_()
    nn.functional.linear(z, layer.weight, layer.bias).pow(2).sum().backward()
    assert torch.allclose(x.grad, z.grad, atol=1e-6)


@pytest.mark.parametrize("arch, targets", [("llama", ["q_proj", "down_proj"]), ("gpt2", ["c_attn"]), ("bert", ["query"])])
@pytest.mark.parametrize("method, options", [(LoRA, {"r": 4}), (DoRA, {"r": 4}), (OFT, {"oft_block_size": 4}),
                                             (HiRA, {"r": 4})])
def test_adapters_on_a_4_bit_base_are_those_on_the_base_it_stands_for(arch, targets, method, options):
    """Step for step the same as on an ordinary model that has the dequantised weights."""
    b, four = batch(arch), nf4.quantize_model(tiny(arch))
    same = tiny(arch)
    for path, layer in four.named_modules():
        if isinstance(layer, nf4.NF4Linear):
            ordinary = same.get_submodule(path)
            W = layer.weight if isinstance(ordinary, nn.Linear) else layer.weight.T
            ordinary.weight = nn.Parameter(W.clone())
    losses = []
    for model in (four, same):
        torch.manual_seed(0)
        pl.attach(model, method, targets, **options)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        losses.append([])
        for _ in range(5):
            loss = model(**b).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert torch.allclose(torch.tensor(losses[0]), torch.tensor(losses[1]), atol=1e-5)
    assert losses[0][-1] < losses[0][0]
    with pytest.raises(ValueError, match="4 bits"):
        pl.merge(four)


def test_what_it_refuses():
    model = tiny("llama")
    pl.attach(model, LoRA, ["q_proj"])
    with pytest.raises(ValueError, match="before you attach"):
        nf4.quantize_model(model)
    with pytest.raises(ValueError, match="only linear layers"):
        nf4.quantize_model(tiny("llama"), ["embed_tokens"])
    with pytest.raises(ValueError, match="tied"):
        nf4.quantize_model(tiny("llama", tie_word_embeddings=True), ["lm_head"])
    four = nf4.quantize_model(tiny("llama"))
    assert torch.equal(copy.deepcopy(four)(**batch("llama")).logits, four(**batch("llama")).logits)


def test_a_dequantised_model_computes_as_before_and_merges():
    b, four = batch("llama"), nf4.quantize_model(tiny("llama"))
    base = four(**b).logits
    pl.attach(four, LoRA, ["q_proj", "down_proj"], r=4)
    fill(tensors(four, "default"))
    before = four(**b).logits
    with pytest.raises(ValueError, match="nf4.dequantize_model"):
        pl.merge(four)
    nf4.dequantize_model(four)
    assert not any(isinstance(m, nf4.NF4Linear) for m in four.modules()) and four.state_dict().keys() >= tiny("llama").state_dict().keys()
    assert torch.equal(four(**b).logits, before) and not torch.allclose(before, base)
    pl.merge(four)
    assert torch.allclose(four(**b).logits, before, atol=1e-6)
    pl.detach(four)
    assert torch.equal(four(**b).logits, base)
    again = nf4.quantize_model(four)
    assert torch.allclose(again(**b).logits, base, atol=1e-3), "what has been through the levels stays there"


def test_a_bias_and_none_survive_both_ways():
    for biased in (True, False):
        layer = nn.Linear(24, 10, bias=biased)
        model = nn.Sequential(nf4.NF4Linear(layer, double=False))
        x = torch.randn(3, 24)
        before = model(x)
        assert torch.equal(nf4.dequantize_model(model)(x), before)
        assert type(model[0]) is nn.Linear and set(model.state_dict()) == ({"0.weight", "0.bias"} if biased else {"0.weight"})
        assert torch.equal(nf4.quantize_model(model, ["0"], double=False)(x), before), "levels go to themselves"
