"""Bottleneck adapters against the library `adapters`: golden numbers, made by make_golden.py."""
import json
from pathlib import Path

import pytest
import torch
from tiny import batch, numbers, tiny

import peftlab as pl
from peftlab.layers import adapted
from peftlab.methods import Houlsby, ParallelAdapter, Pfeiffer
from peftlab.use import parameters

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
HOULSBY = {"bert": ["attention.output.dense", "output.dense"], "llama": ["o_proj", "down_proj"], "gpt2": ["c_proj"]}
PFEIFFER = {"bert": r"bert\.encoder\.layer\.\d+\.output\.LayerNorm", "llama": r"model\.layers\.\d+",
            "gpt2": r"transformer\.h\.\d+"}
PARALLEL = {"bert": r"bert\.encoder\.layer\.\d+\.output", "llama": ["mlp"], "gpt2": ["mlp"]}
CASES = {
    "double_seq_bn": (Houlsby, HOULSBY, {"reduction_factor": 4}),
    "double_seq_bn, reduction 16": (Houlsby, HOULSBY, {}),
    "seq_bn": (Pfeiffer, PFEIFFER, {"reduction_factor": 4}),
    "par_bn": (ParallelAdapter, PARALLEL, {}),
    "par_bn, scaling 1": (ParallelAdapter, PARALLEL, {"reduction_factor": 4, "scaling": 1.0}),
}


@torch.no_grad()
def answer(model, arch):
    logits = model(**{k: v for k, v in batch(arch).items() if k != "labels"}).logits
    return (logits if logits.dim() == 2 else logits[:, -1]).flatten()


@torch.no_grad()
def ours(arch, method, targets, options):
    """A tiny model with the method, filled as make_golden.py fills it: by layer, place and tensor."""
    model = pl.attach(tiny(arch), method, targets[arch], name="a", **options)
    for path, layer in adapted(model, "a"):
        number = next(part for part in path.split(".") if part.isdigit())
        where = "attention" if "att" in path else "output"
        for name, p in layer.adapters["a"].named_parameters():
            p.copy_(numbers(f"{number}.{where}.{name}", p.shape))
    return model


@pytest.mark.parametrize("arch", ["bert", "llama", "gpt2"])
def test_the_bases_agree_between_the_two_versions_of_transformers(arch):
    assert torch.allclose(answer(tiny(arch), arch), torch.tensor(GOLDEN[arch]["no adapter"]["logits"]), atol=1e-5)


@pytest.mark.parametrize("case, arch", [(case, arch) for case, (method, *_) in CASES.items()
                                        for arch in ("bert", "llama", "gpt2")
                                        if method is not ParallelAdapter or arch == "bert"])
def test_the_answer_is_that_of_adapters(case, arch, record_property):
    golden = GOLDEN[arch][case]
    model = ours(arch, *CASES[case])
    assert sum(p.numel() for p in parameters(model, "a")) == golden["parameters"]
    expected = torch.tensor(golden["logits"])
    assert not torch.allclose(answer(tiny(arch), arch), expected, atol=1e-2)
    record_property("difference", (answer(model, arch) - expected).abs().max().item())
    assert torch.allclose(answer(model, arch), expected, atol=1e-5)


@pytest.mark.parametrize("case", ["par_bn", "par_bn, scaling 1"])
@pytest.mark.parametrize("arch, norm", [("llama", "post_attention_layernorm"), ("gpt2", "ln_2")])
def test_beside_a_pre_norm_block_ours_reads_after_the_norm_and_adapters_before_it(case, arch, norm):
    expected = torch.tensor(GOLDEN[arch][case]["logits"])
    model = ours(arch, *CASES[case])
    assert not torch.allclose(answer(model, arch), expected, atol=1e-2)
    for path, layer in adapted(model, "a"):                  # hand the adapter what `adapters` reads: same answer
        adapter, seen = layer.adapters["a"], {}
        model.get_submodule(path.rpartition(".")[0]).get_submodule(norm).register_forward_pre_hook(
            lambda _, args, seen=seen: seen.update(x=args[0]))
        adapter.after = lambda x, y, a=adapter, seen=seen: y + a.scaling * a.bottleneck(seen["x"])
    assert torch.allclose(answer(model, arch), expected, atol=1e-5)
