"""The ladder that every method climbs: equal to `peft`, exact where it can be, on three architectures.

The table of methods stands in specs.py. Where `peft` itself cannot do something, test_facts_about_peft.py says so.
"""
import copy
import os
import pickle
import warnings
from dataclasses import replace

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ladder import EXACT, logits, losses, ours, theirs, told
from safetensors.torch import load_file, save_file
from specs import ARCHITECTURES, CHECKS, SPECS
from tiny import batch, left_padded, numbers, tiny

import peftlab as pl
from peftlab.adapter import Adapter, is_conv1d
from peftlab.files import WEIGHTS, tensors
from peftlab.methods import IA3, LoRA
from peftlab.nf4 import NF4Linear, quantize_model
from peftlab.use import parameters
from peftlab.virtual_tokens import on


def pairs(check=None, in_turn=False):
    """Run a test for every method and architecture to which `check` applies; in turn: each on one of its architectures."""
    chosen = []
    for i, s in enumerate(SPECS):
        fitting = [a for a in s.targets if check is None or not s.why_not(check, a)]
        alone = in_turn and fitting and not os.environ.get("PEFTLAB_WHOLE_LADDER")
        chosen += [pytest.param(s, a, id=f"{s.name}-{a}") for a in ([fitting[i % len(fitting)]] if alone else fitting)]
    return pytest.mark.parametrize("spec, arch", chosen)


def refused(check):
    return pytest.mark.parametrize("spec, arch", [pytest.param(s, a, id=f"{s.name}-{a}") for s in SPECS
                                                  for a in s.targets if s.why_not(check, a)])


@pytest.fixture
def close(record_property):
    """close(a, b): assert that they differ by at most 1e-6 of the largest number, and record by how much."""
    def check(a, b, limit=EXACT):
        difference = ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()
        record_property("difference", difference)
        assert difference <= limit
    return check


def test_the_table_names_only_checks_that_exist():
    assert {(k if isinstance(k, str) else k[0]) for s in SPECS for k in s.no} <= set(CHECKS)


def test_every_method_is_on_every_architecture_or_says_why_not():
    for spec in SPECS:
        assert (set(spec.targets) == set(ARCHITECTURES)) != bool(spec.elsewhere), spec.name


@pairs("peft")
def test_1_a_file_of_peft_gives_equal_logits_here(spec, arch, tmp_path, close):
    reference = theirs(spec, arch)
    reference.save_pretrained(tmp_path)
    base = tiny(arch, **spec.base_in_peft)
    assert not torch.allclose(logits(reference, batch(arch)), logits(base, batch(arch)), atol=1e-3)
    close(logits(pl.load(base, tmp_path), batch(arch)), logits(reference, batch(arch)))


@pairs("peft")
def test_2_our_file_gives_equal_logits_in_peft(spec, arch, tmp_path, close):
    model = ours(spec, arch, model=tiny(arch, **spec.base_in_peft))
    pl.save(model, tmp_path, "a")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Unexpected keyword")                       # a field that `peft` does not know
        reference = told(spec, peft.PeftModel.from_pretrained(tiny(arch, **spec.base_in_peft), tmp_path).eval())
    close(logits(model, batch(arch)), logits(reference, batch(arch)))


@pairs()
def test_2_our_file_gives_the_same_logits_here(spec, arch, tmp_path):
    model = ours(spec, arch)
    pl.save(model, tmp_path, "a")
    again = pl.load(spec.base(arch), tmp_path, "b")
    assert torch.equal(logits(model, batch(arch)), logits(again, batch(arch)))


@pairs("peft")
def test_3_twenty_steps_give_equal_losses(spec, arch, close):
    reference = theirs(spec, arch)
    for n, p in reference.named_parameters():                # from_pretrained would have frozen them
        own = (getattr(reference.base_model, "prefix", "prompt"), "modules_to_save", "trainable_tokens_delta", "prompt_",
               "adaption_")
        frozen = spec.method is pl.methods.MiCA and "lora_B" in n
        assert p.requires_grad == (any(part in n for part in own) and not frozen), n
    found = losses(ours(spec, arch, model=tiny(arch, **spec.base_in_peft)), batch(arch))
    assert found[-1] < found[0]
    close(found, losses(reference, batch(arch)), spec.losses_within)


@pairs("merge")
def test_4_merged_equals_unmerged(spec, arch, close):
    model = ours(spec, arch)
    before = logits(model, batch(arch))
    pl.merge(model)
    assert model.switch.active == ()
    close(logits(model, batch(arch)), before)


@refused("merge")
def test_4_merge_refuses_what_is_not_affine(spec, arch):
    model = ours(spec, arch)
    before = logits(model, batch(arch))
    with pytest.raises(ValueError, match="cannot be merged|there is nothing to merge into|shares its weight"):
        pl.merge(model)
    assert torch.equal(logits(model, batch(arch)), before)


@pairs()
def test_5_detach_and_unmerge_are_exact(spec, arch):
    base = tiny(arch)
    state = {k: v.clone() for k, v in base.state_dict().items()}
    before = logits(base, batch(arch))
    model = ours(spec, arch, model=base)
    adapted = logits(model, batch(arch))
    if not spec.why_not("merge", arch):
        pl.merge(model)
        pl.unmerge(model)
        assert torch.equal(logits(model, batch(arch)), adapted)
    pl.use(model)
    assert torch.equal(logits(model, batch(arch)), before)
    pl.detach(model)
    assert torch.equal(logits(model, batch(arch)), before)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(m.__dict__.keys() == o.__dict__.keys() for m, o in zip(model.modules(), tiny(arch).modules()))


def mixed(spec, arch):
    """A model with the method twice, "a" and "b", and with another method, "c"."""
    model = ours(spec, arch)
    ours(spec, arch, "other", "b", model)
    other = next(s for s in SPECS if s.name == ("IA3" if spec.method is LoRA else "LoRA"))
    return ours(other, arch, "third", "c", model)


ROWS = ["a", None, "c", "b"]


@pairs()
def test_6_rows_of_a_mixed_batch_equal_rows_of_single_adapters(spec, arch, close):
    model, inputs = mixed(spec, arch), batch(arch, rows=4)
    with pl.mix(model, ROWS):
        together = logits(model, inputs)
    for i, row in enumerate(ROWS):
        pl.use(model, *([row] if row else []))
        close(together[i], logits(model, inputs)[i])


@pairs("generate")
@pytest.mark.parametrize("beams", [1, 2])
def test_6_a_mixed_batch_generates_what_single_adapters_generate(spec, arch, beams):
    model, inputs = mixed(spec, arch), left_padded(rows=4, time=9)
    settings = {"num_beams": beams, "do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5}
    with pl.mix(model, ROWS):
        together = model.generate(**inputs, **settings)
    for i, row in enumerate(ROWS):
        pl.use(model, *([row] if row else []))
        assert torch.equal(together[i], model.generate(**inputs, **settings)[i])


@pairs()
def test_7_only_the_adapter_changes(spec, arch):
    model = ours(spec, arch)
    ours(spec, arch, "other", "b", model)
    trained = {id(p) for p in parameters(model, "b")}
    assert {id(p) for p in model.parameters() if p.requires_grad} == trained
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses(model, batch(arch), steps=2)
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) != (id(p) in trained), n


@pairs()
def test_8_the_closed_form_counts_what_is_trained(spec, arch):
    model = spec.base(arch)
    formula = pl.closed_form(model, spec.method, spec.targets[arch], modules_to_save=spec.save.get(arch),
                             **spec.options_on(arch))
    base = pl.count(model).total
    spec.attach(model, arch)
    assert formula == sum(p.numel() for p in parameters(model, "a")) == pl.count(model).trainable
    assert pl.count(model).total == base + formula
    if not spec.why_not("peft", arch):
        assert formula == theirs(spec, arch).get_nb_trainable_parameters()[0]


@pairs("identity")
def test_9_it_starts_as_the_base_model(spec, arch, close):
    base = logits(tiny(arch), batch(arch))
    close(logits(spec.attach(tiny(arch), arch), batch(arch)), base)


@refused("identity")
def test_9_it_does_not_start_as_the_base_model(spec, arch):
    base = logits(tiny(arch), batch(arch))
    assert not torch.equal(logits(spec.attach(tiny(arch), arch), batch(arch)), base)


@pairs("generate")
def test_10_generation_with_and_without_a_cache_is_the_same(spec, arch, close):
    model = ours(spec, arch)
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "output_scores": True,
                "return_dict_in_generate": True}
    cached = model.generate(**left_padded(), **settings, use_cache=True)
    uncached = model.generate(**left_padded(), **settings, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    finite = [torch.stack(out.scores).nan_to_num(neginf=0) for out in (cached, uncached)]
    close(*finite)


@pairs()
def test_11_on_an_nf4_base_it_is_what_it_is_on_the_weights_that_nf4_stands_for(spec, arch, close):
    inside = {"llama": "all-linear", "gpt2": "all-linear", "bert": r"bert\.encoder\..*(query|key|value|dense)"}
    packed = quantize_model(tiny(arch), inside[arch])
    dense = tiny(arch)
    with torch.no_grad():
        for path, layer in packed.named_modules():
            if isinstance(layer, NF4Linear):
                own = dense.get_submodule(path)
                own.weight.copy_(layer.weight.T if is_conv1d(own) else layer.weight)
    before = logits(packed, batch(arch))
    assert not torch.allclose(before, logits(tiny(arch), batch(arch)), atol=1e-3)
    packed, dense = (ours(spec, arch, model=m) for m in (packed, dense))
    close(logits(packed, batch(arch)), logits(dense, batch(arch)))
    close(losses(packed, batch(arch), 5), losses(dense, batch(arch), 5))
    pl.detach(packed)
    assert torch.equal(logits(packed, batch(arch)), before)


@pairs("compile", in_turn=True)                        # nearly all of the time goes into tracing the same three bases again
def test_12_it_compiles_into_one_graph(spec, arch, close):
    one_block = {"n_layer" if arch == "gpt2" else "num_hidden_layers": 1}                # a second is traced as the first was
    model = ours(spec, arch, model=tiny(arch, **one_block))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    close(logits(compiled, batch(arch)), logits(model, batch(arch)))


@pairs("checkpointing")
def test_12_gradient_checkpointing_gives_the_same_gradients(spec, arch):
    grads = []
    for checkpointing in (False, True):
        model = ours(spec, arch).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**batch(arch)).loss.backward()
        grads.append([p.grad for p in parameters(model, "a")])
    assert any(g.abs().max() > 0 for g in grads[0])
    assert all(torch.equal(g, h) for g, h in zip(*grads))


@refused("checkpointing")
def test_12_gradient_checkpointing_is_refused_with_a_reason(spec, arch):
    model = ours(spec, arch).train()
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="gradient_checkpointing_disable"):
        model(**batch(arch))


@pairs()
def test_12_a_deep_copy_stands_on_its_own(spec, arch):
    model = ours(spec, arch)
    base, adapted = logits(tiny(arch), batch(arch)), logits(model, batch(arch))
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, batch(arch)), adapted)
    pl.use(twin)
    assert torch.equal(logits(twin, batch(arch)), base) and torch.equal(logits(model, batch(arch)), adapted)
    pl.detach(twin)
    assert torch.equal(logits(model, batch(arch)), adapted)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.modules())


@pairs()
def test_12_a_pickle_comes_back_whole(spec, arch):
    model = ours(spec, arch)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(logits(again, batch(arch)), logits(model, batch(arch)))
    pl.detach(again)
    assert torch.equal(logits(again, batch(arch)), logits(tiny(arch), batch(arch)))


@pairs()
def test_13_every_tensor_of_the_file_matters(spec, arch, tmp_path):
    model = ours(spec, arch)
    pl.save(model, tmp_path, "a")
    state = load_file(tmp_path / WEIGHTS)
    assert state.keys() == tensors(model, "a").keys()
    written = {id(t) for t in tensors(model, "a").values() if isinstance(t, torch.nn.Parameter)}
    # what a network makes is in the file, the network is not
    network = {id(p) for p in on(model)["a"].parameters()} if hasattr(spec.method, "drop_encoder") else set()
    assert written == {id(p) for p in parameters(model, "a")} - network
    before = logits(model, batch(arch))
    for name, t in state.items():
        changed = t + numbers("change", t.shape) if t.is_floating_point() else torch.stack((t[0].flip(0), t[1]))
        save_file({**state, name: changed}, tmp_path / WEIGHTS)
        changed = logits(pl.load(spec.base(arch), tmp_path), batch(arch))
        assert not torch.allclose(changed, before, atol=1e-5), name


@pairs("peft")
def test_13_the_file_has_the_names_and_shapes_of_peft(spec, arch, tmp_path):
    theirs(spec, arch).save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    pl.save(ours(spec, arch, model=tiny(arch, **spec.base_in_peft)), tmp_path / "ours", "a")
    a, b = (load_file(tmp_path / who / WEIGHTS) for who in ("ours", "theirs"))
    twice = tuple(spec.method.in_peft.repeated) if issubclass(spec.method, Adapter) else ()
    b = {k: t for k, t in b.items() if k in a or not k.endswith(twice)}              # `peft` repeats them in every layer
    assert {k: t.shape for k, t in a.items()} == {k: t.shape for k, t in b.items()}
    assert all(torch.equal(a[k], b[k]) for k in a)


SHAPES = {"llama": lambda h, w, kv: {"hidden_size": h * w, "num_attention_heads": h, "num_key_value_heads": kv},
          "gpt2": lambda h, w, kv: {"n_embd": h * w, "n_head": h},
          "bert": lambda h, w, kv: {"hidden_size": h * w, "num_attention_heads": h}}


@pairs()
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(heads=st.sampled_from([1, 2, 4]), width=st.sampled_from([2, 6]), grouped=st.booleans(), r=st.integers(1, 5),
       rows=st.integers(1, 4), time=st.integers(1, 6), data=st.data())
def test_14_any_width_rank_and_batch(spec, arch, heads, width, grouped, r, rows, time, data):
    shape = {**SHAPES[arch](heads, width, 1 if grouped else heads), "num_hidden_layers": 1, **spec.base_in_peft}
    spec = replace(spec, options={**spec.options, **spec.sizes(r, width, heads)})
    inputs, base = batch(arch, rows, time), tiny(arch, **shape)
    model = ours(spec, arch, model=copy.deepcopy(base))
    single = logits(model, inputs)
    assert pl.count(model).trainable == pl.closed_form(base, spec.method, spec.targets[arch],
                                                       modules_to_save=spec.save.get(arch),
                                                       **spec.options_on(arch))
    if not spec.why_not("peft", arch):
        assert torch.allclose(single, logits(theirs(spec, arch, model=copy.deepcopy(base)), inputs), atol=EXACT)
    names = data.draw(st.lists(st.sampled_from(["a", None]), min_size=rows, max_size=rows))
    with pl.mix(model, names):
        together = logits(model, inputs)
    for i, name in enumerate(names):
        assert torch.allclose(together[i], (single if name else logits(base, inputs))[i], atol=EXACT)
    if not spec.why_not("merge", arch):
        pl.merge(model)
        assert torch.allclose(logits(model, inputs), single, atol=2 * EXACT)


def test_virtual_tokens_of_both_kinds_and_an_adapter_share_a_batch(close):
    by_name = {s.name: s for s in SPECS}
    for arch in ("llama", "gpt2"):
        model = tiny(arch)
        for name in ("PromptTuning", "PrefixTuning", "IA3"):
            ours(by_name[name], arch, name=name, model=model)
        rows, inputs = ["PrefixTuning", "IA3", None, "PromptTuning"], batch(arch, rows=4)
        with pl.mix(model, rows):
            together = logits(model, inputs)
        for i, row in enumerate(rows):
            pl.use(model, *([row] if row else []))
            close(together[i], logits(model, inputs)[i])
    assert by_name["IA3"].method is IA3
