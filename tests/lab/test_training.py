"""The loop: repeatable to the bit, stopped without loss, resumed to the bit, and plain about what is wrong."""

import signal
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from peftlab.lab.training import Training, answers, evaluate, rows_of, schedule, texts, train


class Small(nn.Module):
    """A classifier with dropout, a frozen layer and a trained one; counts the calls of `after_step`."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.frozen, self.drop, self.head = nn.Linear(6, 5), nn.Dropout(0.3), nn.Linear(5, 3)
        self.frozen.requires_grad_(False)
        self.called = []

    def forward(self, x, labels=None):
        logits = self.head(self.drop(torch.tanh(self.frozen(x))))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss)

    def after_step(self, step, steps):
        self.called.append((step, steps))


X = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
ROWS = [{"x": x, "labels": x[:3].argmax()} for x in X]
SETTINGS = {"steps": 24, "lr": 3e-2, "batch_size": 7, "seed": 5, "weight_decay": 0.01, "progress": False}


def state(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def uninterrupted():
    model = Small()
    return train(model, ROWS, **SETTINGS), state(model)


def press_after(step):
    return lambda run: run.step == step and signal.raise_signal(signal.SIGINT)


def test_it_learns_and_leaves_the_frozen_alone(uninterrupted):
    run, weights = uninterrupted
    assert run.step == 24 and not run.interrupted
    assert sum(run.losses[-5:]) < 0.9 * sum(run.losses[:5])
    assert torch.equal(weights["frozen.weight"], Small().frozen.weight)


def test_two_runs_are_equal_whatever_the_global_generator_did(uninterrupted):
    model = Small()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    run = train(model, ROWS, **SETTINGS)
    assert run.losses == uninterrupted[0].losses and same(state(model), uninterrupted[1])
    assert torch.equal(torch.get_rng_state(), before)
    assert train(Small(), ROWS, **SETTINGS | {"seed": 6}).losses != run.losses


@pytest.mark.parametrize("at", [1, 9, 23])
def test_stopped_and_resumed_is_equal_to_the_bit(uninterrupted, at, capsys):
    model = Small()
    part = train(model, ROWS, **SETTINGS, on_step=press_after(at))
    assert part.interrupted and part.step == at and "resume=run" in capsys.readouterr().out
    assert part.losses == uninterrupted[0].losses[:at]
    kept = {name: w.clone() for name, w in part.weights.items()}
    for _ in range(2):                                         # a run can be resumed twice: the first leaves it alone
        run = train(model, ROWS, **SETTINGS, resume=part)
        assert run.losses == uninterrupted[0].losses and same(state(model), uninterrupted[1])
        assert same(part.weights, kept) and part.step == at


def test_resumes_in_a_new_process_from_a_folder(uninterrupted, tmp_path):
    def save_then_press(run):
        if run.step % 3 == 0:
            run.save(tmp_path / "run")
        press_after(9)(run)
    train(Small(), ROWS, **SETTINGS, on_step=save_then_press)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["training.safetensors"]
    model = Small()
    run = train(model, ROWS, **SETTINGS, resume=Training.load(tmp_path / "run"))
    assert run.losses == uninterrupted[0].losses and same(state(model), uninterrupted[1])


def test_a_failed_save_leaves_the_earlier_one(uninterrupted, tmp_path, monkeypatch):
    run = uninterrupted[0]
    run.save(tmp_path)
    whole = (tmp_path / "training.safetensors").read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left")
    monkeypatch.setattr("peftlab.lab.training.save_file", full)
    with pytest.raises(OSError):
        run.save(tmp_path)
    assert (tmp_path / "training.safetensors").read_bytes() == whole and len(list(tmp_path.iterdir())) == 1


def test_resume_refuses_other_settings_and_other_parameters(uninterrupted, tmp_path):
    run = uninterrupted[0]
    with pytest.raises(ValueError, match="lr=0.5 here and 0.03 there"):
        train(Small(), ROWS, **SETTINGS | {"lr": 0.5}, resume=run)
    other = Small()
    other.frozen.requires_grad_(True)
    with pytest.raises(ValueError, match="frozen.*same method"):
        train(other, ROWS, **SETTINGS, resume=run)
    with pytest.raises(FileNotFoundError, match="Training.save"):
        Training.load(tmp_path)


def test_the_stop_button_works_again_afterwards():
    train(Small(), ROWS, **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_after_step_is_called_on_whoever_has_it():
    model = nn.Sequential(Small())
    train(model, ROWS, **SETTINGS | {"steps": 3}, loss=lambda m, batch: m[0](**batch).loss)
    assert model[0].called == [(1, 3), (2, 3), (3, 3)]


def test_modes_come_back():
    model = Small().eval()
    model.head.train()
    train(model, ROWS, **SETTINGS | {"steps": 2})
    assert not model.training and not model.drop.training and model.head.training
    assert model.head.weight.grad is None


def test_every_row_once_an_epoch():
    seen = [i for step in range(10) for i in rows_of(step, 20, 6, seed=3)]
    assert [sorted(seen[i:i + 20]) for i in (0, 20, 40)] == [list(range(20))] * 3
    assert seen[:20] != seen[20:40]
    assert rows_of(0, 3, 7, seed=0) != rows_of(0, 3, 7, seed=1) and len(rows_of(0, 3, 7, seed=0)) == 7


def test_schedule():
    rates = [schedule(i, 20, 4) for i in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert rates[4:] == sorted(rates[4:], reverse=True) and 0 < rates[-1] < 0.02


def test_plain_errors():
    frozen = Small()
    frozen.requires_grad_(False)
    with pytest.raises(ValueError, match="pl.attach"):
        train(frozen, ROWS, **SETTINGS)
    with pytest.raises(ValueError, match="head.weight is float16"):
        train(Small().half(), ROWS, **SETTINGS)
    with pytest.raises(ValueError, match="labels"):
        train(Small(), [{"x": x} for x in X], **SETTINGS)
    with pytest.raises(FloatingPointError, match="loss.*lower learning rate"):
        train(Small(), ROWS, **SETTINGS, loss=lambda m, batch: m(**batch).loss * float("nan"))


def test_an_endless_gradient_does_not_reach_the_weights():
    model = Small()
    before = state(model)
    with pytest.raises(FloatingPointError, match="gradient"):
        train(model, ROWS, **SETTINGS, loss=lambda m, b: (m(b["x"]).logits * 0).abs().sqrt().sum())
    assert same(state(model), before)


class Words:
    """A tokenizer of single letters, with what the collates use of a real one."""
    eos_token_id, pad_token_id = 1, None

    def __call__(self, texts, add_special_tokens):
        assert add_special_tokens is False
        return {"input_ids": [[ord(c) for c in text] for text in texts]}

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return f"[{messages[0]['content']}]"


def test_answers_learns_the_answer_only():
    rows = [{"prompt": "ab", "answer": "c"}, {"prompt": "d", "answer": "efg"}]
    batch = answers(Words())(rows)
    assert batch["input_ids"].tolist() == [[97, 98, 99, 1, 1], [100, 101, 102, 103, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 99, 1, -100], [-100, 101, 102, 103, 1]]
    assert answers(Words(), chat=True)(rows)["labels"][0].tolist() == [-100] * 4 + [99, 1, -100]


def test_texts():
    class Tokenizer:
        def __call__(self, texts, **how):
            assert how == {"padding": True, "truncation": True, "max_length": 9, "return_tensors": "pt"}
            return {"input_ids": torch.ones(len(texts), 4)}
    batch = texts(Tokenizer(), max_length=9)([{"text": "a", "label": 2}, {"text": "b", "label": 0}])
    assert batch["labels"].tolist() == [2, 0] and batch["input_ids"].shape == (2, 4)


def test_evaluate_counts_labels_in_both_shapes():
    model = Small()
    by_hand = torch.stack([model.eval()(r["x"]).logits for r in ROWS])
    labels = torch.stack([r["labels"] for r in ROWS])
    got = evaluate(model.train(), ROWS, batch_size=16)
    assert got.labels == 50 and got.accuracy == (by_hand.argmax(-1) == labels).sum().item() / 50
    assert got.loss == pytest.approx(nn.functional.cross_entropy(by_hand, labels).item(), rel=1e-5)
    assert model.training

    class Next(nn.Module):                                        # always says "the token after this one is one more"
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(1))

        def forward(self, ids, labels):
            return SimpleNamespace(logits=nn.functional.one_hot((ids + 1) % 9, 9).float() * 99 + self.p)
    rows = [{"ids": torch.tensor([1, 2, 3, 5]), "labels": torch.tensor([-100, 2, 3, 5])}]
    got = evaluate(Next(), rows)
    assert (got.labels, got.accuracy) == (3, 2 / 3)


def test_the_losses_survive_the_file_exactly(uninterrupted, tmp_path):
    uninterrupted[0].save(tmp_path)
    again = Training.load(tmp_path)
    assert again.losses == uninterrupted[0].losses and again.settings == uninterrupted[0].settings
    assert same(again.weights, uninterrupted[0].weights) and same(again.moments(), uninterrupted[0].moments())
