"""LLaMA-Adapter, inside attention: `peft`'s numbers, losses and files, and what `peft` does not do."""
import peft
import pytest
import torch
from ladder import logits
from tiny import batch, fill, left_padded, tiny

import peftlab as pl
from peftlab.count import closed_form
from peftlab.files import tensors
from peftlab.layers import adapted
from peftlab.methods import AdaptionPrompt, Houlsby, LoRA

OPTIONS = {"adapter_len": 5, "adapter_layers": 1}


def bare():
    """A Llama whose attention has no biases: with them `peft` goes wrong, see below."""
    return tiny("llama", attention_bias=False)


def theirs(layers=1, model=None):
    return peft.get_peft_model(model or bare(), peft.AdaptionPromptConfig(adapter_len=5, adapter_layers=layers, task_type="CAUSAL_LM"))


def pair(layers=1):
    ours = pl.attach(bare(), AdaptionPrompt, ["self_attn"], "a", adapter_len=5, adapter_layers=layers)
    other = theirs(layers)
    fill(tensors(ours, "a"))
    named = dict(other.named_parameters())
    with torch.no_grad():
        for key, p in tensors(ours, "a").items():
            named[key.replace("base_model.model.", "base_model.model.", 1)].copy_(p)
    return ours, other


def test_in_two_layers_it_computes_counts_and_learns_as_peft_does():
    """The ladder has it in one."""
    ours, other = pair(layers=2)
    inputs = batch("llama")
    assert torch.allclose(logits(ours, inputs), logits(other, inputs), atol=1e-5)
    assert not torch.allclose(logits(ours, inputs), logits(bare(), inputs), atol=1e-3)
    trained = {n: p.numel() for n, p in other.named_parameters() if p.requires_grad}
    assert pl.count(ours).trainable == sum(trained.values()) == closed_form(
        tiny("llama"), AdaptionPrompt, ["self_attn"], adapter_len=5, adapter_layers=2)
    losses = []
    for model in (ours, other):
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        losses.append([])
        for _ in range(20):
            loss = model(**{**inputs, "labels": inputs["input_ids"]}).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < losses[0][0] - 0.01
    assert torch.allclose(torch.tensor(losses[0]), torch.tensor(losses[1]), atol=1e-5)



def test_it_starts_as_the_base_and_the_gate_learns_first():
    model = pl.attach(tiny("llama"), AdaptionPrompt, ["self_attn"], "a", **OPTIONS)
    assert torch.allclose(logits(model, batch("llama")), logits(tiny("llama"), batch("llama")), atol=1e-6)
    assert [path for path, _ in adapted(model)] == ["model.layers.1.self_attn"]
    model(**batch("llama")).logits.sum().backward()
    adapter = adapted(model)[0][1].adapters["a"]
    assert adapter.adaption_gate.grad.any() and not adapter.adaption_prompt.grad.any()


def test_switching_mixing_and_taking_off():
    ours, _ = pair(2)
    pl.attach(ours, LoRA, ["q_proj"], "b", r=2)
    fill(tensors(ours, "b"))
    inputs, rows = left_padded(rows=3, time=6), ["a", None, "b"]
    with pl.mix(ours, rows):
        together = logits(ours, inputs)
    for i, row in enumerate(rows):
        pl.use(ours, *([row] if row else []))
        real = inputs["attention_mask"][i].bool()
        assert torch.allclose(together[i][real], logits(ours, inputs)[i][real], atol=1e-5)
    pl.use(ours, "a", "b")
    both = logits(ours, inputs)
    pl.use(ours, "a")
    assert not torch.allclose(both, logits(ours, inputs), atol=1e-4)
    with pytest.raises(ValueError, match="cannot be merged"):
        pl.merge(ours)
    pl.detach(ours)
    assert torch.equal(logits(ours, inputs), logits(bare(), inputs))
    assert ours.config._attn_implementation == "sdpa"


def test_it_writes_as_it_scores():
    """Token by token with a cache, as in one pass: the trained vectors are asked at every step."""
    ours, _ = pair(2)
    ids = batch("llama")["input_ids"]
    out = ours.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
    again = logits(ours, {"input_ids": out[:, :-1]})[:, ids.shape[1] - 1:].argmax(-1)
    assert torch.equal(out[:, ids.shape[1]:], again)


@pytest.mark.parametrize("arch, target", [("gpt2", "attn"), ("bert", "self"), ("llama", "mlp")])
def test_a_layer_that_is_no_such_attention_is_refused(arch, target):
    model = tiny(arch)
    with pytest.raises(TypeError, match="target the attention layers of a model of the Llama kind"):
        pl.attach(model, AdaptionPrompt, [target])
    assert not hasattr(model, "switch") and model.config._attn_implementation == "sdpa"


def test_another_implementation_of_attention_is_refused():
    model = tiny("llama")
    model.config._attn_implementation = "eager"
    with pytest.raises(ValueError, match="attn_implementation='sdpa'"):
        pl.attach(model, AdaptionPrompt, ["self_attn"])
    assert not hasattr(model, "switch")


def test_a_block_called_by_keywords_is_refused_by_methods_that_want_its_input():
    model = pl.attach(tiny("llama"), Houlsby, ["self_attn"])
    with pytest.raises(ValueError, match="attach to the layers inside it"):
        logits(model, batch("llama"))


def test_peft_adds_the_output_bias_twice():
    """A fact about `peft`: with a bias in `o_proj`, a fresh adapter, whose gate is zero, changes the model. Ours does not."""
    base = logits(tiny("llama", attention_bias=True), batch("llama"))
    model = tiny("llama", attention_bias=True)
    assert model.model.layers[1].self_attn.o_proj.bias.any()
    assert not torch.allclose(logits(theirs(model=model), batch("llama")), base, atol=1e-3)
    ours = pl.attach(tiny("llama", attention_bias=True), AdaptionPrompt, ["self_attn"], **OPTIONS)
    assert torch.allclose(logits(ours, batch("llama")), base, atol=1e-6)
