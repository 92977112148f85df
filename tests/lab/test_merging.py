"""Updates made one: equal to `peft`'s functions where it has them, and what they leave of a model."""

import pytest
import torch
from peft.utils import merge_utils
from tiny import batch, fill, tiny

import peftlab as pl
from peftlab.files import tensors
from peftlab.lab import merging
from peftlab.lab.experiments import many_tasks, task_arithmetic
from peftlab.methods import LoRA


@pytest.fixture
def adapters():
    """Three LoRAs on a tiny model, as {path: (A, B, s)}."""
    model = tiny("llama")
    for name in "abc":
        pl.attach(model, LoRA, ["q_proj", "down_proj"], name=name, r=3, lora_alpha=5)
        fill(tensors(model, name), name)
    return [merging.factors(model, name) for name in "abc"]


def test_ties_is_that_of_peft(adapters):
    updates = [merging.update_of(a) for a in adapters]
    for density in (0.2, 0.5, 1.0):
        for path, mine in merging.ties(updates, density).items():
            theirs = merge_utils.ties([u[path] for u in updates], torch.ones(3), density)
            assert torch.allclose(mine, theirs, atol=1e-6), (path, density)


def test_an_update_is_what_runs_and_goes_again(adapters):
    model, inputs = tiny("llama"), {k: v for k, v in batch("llama").items() if k != "labels"}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    adapted = tiny("llama")
    pl.attach(adapted, LoRA, ["q_proj", "down_proj"], name="a", r=3, lora_alpha=5)
    fill(tensors(adapted, "a"), "a")
    with torch.no_grad(), merging.changed_by(model, merging.update_of(adapters[0])):
        assert torch.allclose(model(**inputs).logits, adapted(**inputs).logits, atol=1e-5)
    with pytest.raises(ValueError, match="on purpose"), merging.changed_by(model, merging.update_of(adapters[1])):
        raise ValueError("on purpose")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_linear_is_no_sum_but_for_one(adapters):
    updates = [merging.update_of(a) for a in adapters]
    whole = merging.weighted_sum(updates, [1, 1, -1])
    assert merging.distance(merging.linear(adapters, [1, 1, -1]), whole) > 0.3
    assert merging.distance(merging.linear(adapters[:1], [-2]), merging.weighted_sum(updates[:1], [-2])) < 1e-6
    assert merging.distance(merging.cut(whole, 9), whole) < 1e-6
    assert 0.01 < merging.distance(merging.cut(whole, 3), whole) < 1


def test_a_thinned_update_is_the_update_on_average(adapters):
    update, draw = merging.update_of(adapters[0]), torch.Generator().manual_seed(0)
    path = next(iter(update))
    draws = torch.stack([merging.dare({path: update[path]}, 0.5, draw)[path] for _ in range(4000)])
    assert torch.allclose(draws.mean(0), update[path], atol=0.1 * float(update[path].abs().max()))
    assert abs(float((draws == 0).float().mean()) - 0.5) < 0.01


def test_angles(adapters):
    one, other, _ = (merging.update_of(a) for a in adapters)
    assert merging.cosine(one, one) == pytest.approx(1) and abs(merging.cosine(one, other)) < 0.5
    assert merging.cosine(one, {path: -2 * u for path, u in one.items()}) == pytest.approx(-1)


def test_the_experiments_plan_whole_seeds_and_each_way_can_be_made(adapters):
    for module in (many_tasks, task_arithmetic):
        planned = module.plan()
        main = [c for c in planned if "lr" not in c or c["lr"] == many_tasks.MAIN[c["world"]]]
        of_seed = {seed: sum(c["seed"] == seed for c in main) for seed in range(6)}
        assert len(set(of_seed.values())) == 1 and sum(of_seed.values()) == len(main)
    for world, tasks in many_tasks.TASKS.items():
        of_world = dict(zip(tasks, adapters))
        for way in many_tasks.WAYS[world]:
            if way != "routed":
                for name, update in many_tasks.of_each(way, of_world, 0).items():
                    assert name in tasks and all(u.isfinite().all() for u in update.values()), way
