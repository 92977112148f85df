"""AdaLoRA: `peft`'s losses and ranks step by step, and nobody can forget to drive it."""
import warnings

import peft
import pytest
import torch
from ladder import logits
from tiny import batch, tiny

import peftlab as pl
from peftlab.lab.training import Training, train
from peftlab.layers import adapted
from peftlab.methods import AdaLoRA

OPTIONS = {"init_r": 6, "target_r": 3, "tinit": 5, "tfinal": 8, "deltaT": 2}
TARGETS, STEPS = ["q_proj", "down_proj"], 30


def adapters(model):
    return [layer.adapters["a"] for _, layer in adapted(model, "a")]


def ranks(model):
    return [int(a.kept.sum()) for a in adapters(model)]


def rows():
    ids = batch("llama", rows=8)["input_ids"]
    return [{"input_ids": row, "labels": row} for row in ids]


def test_ranks_and_losses_are_those_of_peft_over_a_whole_run():
    ours = pl.attach(tiny("llama"), AdaLoRA, TARGETS, "a", **OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(tiny("llama"), peft.AdaLoraConfig(
            target_modules=TARGETS, total_step=STEPS, task_type="CAUSAL_LM", **OPTIONS))
    pairs = [(layer.adapters["a"], theirs.get_submodule("base_model.model." + path)) for path, layer in adapted(ours)]
    with torch.no_grad():
        for a, t in pairs:
            for k in ("lora_A", "lora_B", "lora_E"):
                getattr(a, k).copy_(getattr(t, k)["default"])
    optimizers = [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-2) for m in (ours, theirs)]
    b, seen = batch("llama"), set()
    for step in range(1, STEPS + 1):
        losses = [ours(**b).loss + sum(a.penalty() for a in adapters(ours)), theirs(**b).loss]
        for loss, optimizer in zip(losses, optimizers):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for a in adapters(ours):
            a.after_step(step, STEPS)
        theirs.base_model.update_and_allocate(step)
        on = [[int((e != 0).sum()) for e in (a.lora_E, t.lora_E["default"])] for a, t in pairs]
        assert all(mine == yours for mine, yours in on), f"step {step}: ranks {on}"
        assert abs(losses[0] - losses[1]) <= 1e-5
        seen.add(tuple(mine for mine, _ in on))
    assert len(seen) > 3, "the budget must have moved"
    assert sum(ranks(ours)) == 3 * len(pairs)


def test_peft_adds_no_penalty_without_a_task_type():
    """A fact about the installed `peft`: a plain PeftModel runs past AdaLoRA's own forward pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, causal = (peft.get_peft_model(tiny("llama"), peft.AdaLoraConfig(
            target_modules=TARGETS, total_step=STEPS, task_type=task)) for task in (None, "CAUSAL_LM"))
    b, base = batch("llama"), tiny("llama")(**batch("llama")).loss
    assert plain(**b).loss == base and causal(**b).loss > base + 0.1


def test_the_training_loop_drives_it_and_resumes_to_the_bit(tmp_path):
    def fresh():
        torch.manual_seed(0)
        return pl.attach(tiny("llama"), AdaLoRA, TARGETS, "a", **OPTIONS)

    how = {"steps": STEPS, "lr": 1e-2, "batch_size": 4, "progress": False}
    whole, stopped, again = fresh(), fresh(), fresh()
    run = train(whole, rows(), **how)
    assert sum(ranks(whole)) == 3 * len(ranks(whole)) and len(set(ranks(whole))) > 1

    class Stop(Exception):
        pass

    def stop(run):
        if run.step == 14:
            run.save(tmp_path)
            raise Stop

    with pytest.raises(Stop):
        train(stopped, rows(), **how, on_step=stop)
    resumed = train(again, rows(), **how, resume=Training.load(tmp_path))
    assert resumed.losses == run.losses and ranks(again) == ranks(whole)
    for a, b in zip(adapters(whole), adapters(again)):
        assert torch.equal(a.lora_E, b.lora_E) and torch.equal(a.scores.uncertainty_A, b.scores.uncertainty_A)


def test_too_few_steps_are_refused():
    model = pl.attach(tiny("llama"), AdaLoRA, TARGETS, "a", tinit=10, tfinal=10)
    with pytest.raises(ValueError, match="no time to share out"):
        train(model, rows(), steps=20, lr=1e-3, batch_size=4, progress=False)


def test_peft_cannot_take_the_loss_of_a_loaded_one(tmp_path):
    """A fact about the installed `peft`; what a loaded one answers is right, as the ladder shows."""
    model = pl.attach(tiny("llama"), AdaLoRA, TARGETS, "a", init_r=4, total_step=STEPS)
    theirs = peft.PeftModel.from_pretrained(tiny("llama"), pl.save(model, tmp_path, "a"))
    with pytest.raises(AttributeError, match="trainable_adapter_name"):
        theirs(**batch("llama"))


def test_a_file_that_peft_wrote_after_training_has_the_kept_triplets_alone(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(tiny("llama"), peft.AdaLoraConfig(
            target_modules=TARGETS, total_step=STEPS, task_type="CAUSAL_LM", **OPTIONS))
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-2)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        theirs(**batch("llama")).loss.backward()
        optimizer.step()
        theirs.base_model.update_and_allocate(step)
    wanted = logits(theirs.eval(), batch("llama"))
    theirs.save_pretrained(tmp_path / "theirs")
    model = pl.load(tiny("llama"), tmp_path / "theirs", "a")
    assert torch.allclose(logits(model, batch("llama")), wanted, atol=1e-6)
    assert sum(ranks(model)) == 3 * len(ranks(model)) and len(set(ranks(model))) > 1
    back = peft.PeftModel.from_pretrained(tiny("llama"), pl.save(model, tmp_path / "ours", "a"))
    assert torch.allclose(logits(back, batch("llama")), wanted, atol=1e-6)
