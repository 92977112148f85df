"""A training loop to read: seeded, with a progress bar, stopped by one click and resumed where it stood.

    run = train(model, data, texts(tokenizer), steps=100, lr=1e-3)
    run = train(model, data, texts(tokenizer), steps=100, lr=1e-3, resume=run)    # goes on where it stopped

What happens in step i depends on `seed` and i alone (the rows drawn, the dropout masks), so a run that was stopped and
resumed ends with the same losses and the same weights, bit for bit, as one that was not.
"""

import json
import math
import os
import signal
import threading
from collections import namedtuple
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import default_collate
from tqdm.auto import tqdm


def train(model, data, collate=default_collate, *, steps, lr, batch_size=32, weight_decay=0.0, warmup=None, seed=0,
          loss=None, resume=None, on_step=None, progress=True):
    """Train whatever of `model` requires a gradient, with AdamW; returns a `Training`.

    data: rows, anything with `len` and `[i]` (a `datasets.Dataset`, a list); an epoch shows each row once.
    collate: makes a batch, a dict of tensors, from a list of rows: `texts(tokenizer)`, `answers(tokenizer)`.
    lr: the highest learning rate: it climbs to there over `warmup` steps (by default a tenth), then falls as a cosine.
    loss: `loss(model, batch)` gives a scalar; by default `model(**batch).loss`.
    resume: the `Training` of an earlier call with the same settings. Its weights are put back first.
    on_step: called with the `Training` after each step; its `losses[-1]` and `step` are of that step.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    check_trainable(trainable)
    warmup = max(1, steps // 10) if warmup is None else warmup
    settings = {"steps": steps, "lr": lr, "batch_size": batch_size, "weight_decay": weight_decay, "warmup": warmup,
                "seed": seed, "rows": len(data)}
    driven = {path: m for path, m in model.named_modules() if callable(getattr(m, "after_step", None))
              and any(p.requires_grad for p in m.parameters())}        # methods with work of their own at each step
    memory = {f"{path}.{name}": b for path, m in driven.items() for name, b in m.named_buffers()}
    run = Training(settings, weights={name: p.detach() for name, p in trainable.items()} | memory)
    run.optimizer = torch.optim.AdamW(trainable.values(), lr=lr, weight_decay=weight_decay)
    if resume is not None:
        run.go_on_from(resume)
    device = next(iter(trainable.values())).device
    bar = tqdm(total=steps, initial=run.step, desc="training", unit="step", disable=not progress)

    with training_mode(model), torch.random.fork_rng(), stop_button() as pressed, bar:
        while run.step < steps and not pressed:
            torch.manual_seed(seed * 1_000_003 + run.step)             # dropout is this step's, however we came here
            rows = [data[i] for i in rows_of(run.step, len(data), batch_size, seed)]
            batch = {key: value.to(device) for key, value in collate(rows).items()}
            value = loss(model, batch) if loss else own_loss(model, batch)
            value = value + sum(m.penalty() for m in driven.values() if hasattr(m, "penalty"))
            run.optimizer.zero_grad()
            value.backward()
            norm = torch.nn.utils.clip_grad_norm_(trainable.values(), 1.0)     # one odd batch cannot throw it off
            check_finite(value, norm, run.step, lr)
            run.optimizer.param_groups[0]["lr"] = lr * schedule(run.step, steps, warmup)
            run.optimizer.step()

            run.losses.append(value.item())
            for m in driven.values():
                m.after_step(run.step, steps)
            bar.set_postfix(loss=f"{sum(run.losses[-20:]) / len(run.losses[-20:]):.3f}", refresh=False)
            bar.update()
            if on_step:
                on_step(run)
    run.close()
    if run.interrupted:
        print(f"Stopped after step {run.step} of {steps}; the model keeps what it learnt. "
              "To go on, keep the result (run = train(...)) and make the same call with resume=run.")
    return run


def schedule(step, steps, warmup):
    """The learning rate of a step as a share of the highest: linear up over `warmup` steps, then a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def rows_of(step, n, batch_size, seed):
    """The row numbers of a step's batch. Epoch after epoch, each a shuffle of all n rows, cut into batches."""
    places = range(step * batch_size, (step + 1) * batch_size)
    return [shuffled(n, seed, place // n)[place % n] for place in places]


@lru_cache(maxsize=4)
def shuffled(n, seed, epoch):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()


# ---- what is kept of a run

@dataclass
class Training:
    """A run so far: `losses` (one per step), `step`, `interrupted`, and all that is needed to go on.

    `weights` and the optimizer's state are the run's own copies: training the model further does not change them.
    """
    settings: dict
    losses: list = field(default_factory=list)
    weights: dict = field(default_factory=dict, repr=False)            # name -> the trained parameter
    optimizer: object = field(default=None, repr=False)                # AdamW while it runs, then its `moments`

    @property
    def step(self):
        return len(self.losses)

    @property
    def interrupted(self):
        return self.step < self.settings["steps"]

    def __repr__(self):
        loss = f", last loss {self.losses[-1]:.3f}" if self.losses else ""
        stopped = ", interrupted" if self.interrupted else ""
        return f"Training(step {self.step} of {self.settings['steps']}{loss}{stopped})"

    def save(self, folder):
        """Write `training.safetensors` into `folder`; whatever stood there stays until the new file is whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"weight.{name}": w for name, w in self.weights.items()} | self.moments()
        about = {"peftlab_training": json.dumps({"settings": self.settings, "losses": self.losses})}
        unfinished = folder / f"training.{os.getpid()}.unfinished"
        try:
            save_file({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, unfinished, metadata=about)
            os.replace(unfinished, folder / "training.safetensors")
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder):
        """Read what `save` wrote; give it to `train(..., resume=)` with the same base and the same method attached."""
        path = Path(folder) / "training.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no training.safetensors: give the folder given to Training.save")
        with safe_open(path, "pt") as f:
            about = json.loads((f.metadata() or {}).get("peftlab_training", "null"))
            if about is None:
                raise ValueError(f"{path} was not written by Training.save")
            tensors = {key: f.get_tensor(key).clone() for key in list(f.keys())}
        weights = {key.removeprefix("weight."): t for key, t in tensors.items() if key.startswith("weight.")}
        moments = {key: t for key, t in tensors.items() if not key.startswith("weight.")}
        return cls(about["settings"], about["losses"], weights, moments)

    def moments(self):
        """The optimizer's state as flat tensors: `exp_avg.<name>`, `exp_avg_sq.<name>`, `step.<name>`."""
        if isinstance(self.optimizer, dict):
            return self.optimizer
        states = self.optimizer.state_dict()["state"]
        names = list(self.weights)
        return {f"{key}.{names[i]}": t for i, state in states.items() for key, t in state.items()}

    def go_on_from(self, earlier):
        """Take over the losses, weights and moments of an earlier run with the same settings."""
        differ = [f"{key}={self.settings[key]!r} here and {value!r} there" for key, value in earlier.settings.items()
                  if self.settings.get(key) != value]
        if differ:
            raise ValueError(f"resume needs the settings the run was started with; these differ: {', '.join(differ)}. "
                             "Make the same call again, or start a new run without resume.")
        shapes, old = ({n: tuple(w.shape) for n, w in r.weights.items()} for r in (self, earlier))
        if shapes != old:
            odd = sorted(n for n in shapes.keys() | old.keys() if shapes.get(n) != old.get(n))
            raise ValueError(f"resume needs the parameters the run was started with; {len(odd)} differ, as {odd[0]}: "
                             f"{shapes.get(odd[0], 'not trainable')} here, {old.get(odd[0], 'not trained')} there. "
                             "Attach the same method, with the same name and sizes, to the same base.")
        self.losses = list(earlier.losses)
        for name, w in self.weights.items():
            w.copy_(earlier.weights[name])
        state = {i: {key: deepcopy(earlier.moments()[f"{key}.{name}"]) for key in ("step", "exp_avg", "exp_avg_sq")}
                 for i, name in enumerate(self.weights) if f"step.{name}" in earlier.moments()}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})

    def close(self):
        """The run is over: keep copies, so that what happens to the model later does not happen to them."""
        self.optimizer.zero_grad()
        self.optimizer = self.moments()
        self.weights = {name: w.clone() for name, w in self.weights.items()}


# ---- batches

def texts(tokenizer, max_length=128):
    """For classifying: rows with `text` and `label` -> input_ids, attention_mask (b, t) and labels (b,)."""
    def collate(rows):
        batch = tokenizer([row["text"] for row in rows], padding=True, truncation=True, max_length=max_length,
                          return_tensors="pt")
        return dict(batch) | {"labels": torch.tensor([row["label"] for row in rows])}
    return collate


def answers(tokenizer, chat=False, max_length=512):
    """For generating: rows with `prompt` and `answer` -> input_ids, attention_mask, labels, each (b, t).

    Only the answer and the end-of-text token after it are learnt: labels are -100 on the prompt and the padding.
    chat: put the prompt into the tokenizer's chat template, as one message of the user's.
    """
    def collate(rows):
        prompts = [row["prompt"] for row in rows]
        if chat:
            prompts = [tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                                     add_generation_prompt=True) for prompt in prompts]
        before = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        after = tokenizer([row["answer"] for row in rows], add_special_tokens=False)["input_ids"]
        ids = [(b + a + [tokenizer.eos_token_id])[:max_length] for b, a in zip(before, after)]
        longest = max(map(len, ids))
        input_ids = torch.full((len(ids), longest), padding(tokenizer))
        attention_mask, labels = torch.zeros_like(input_ids), torch.full_like(input_ids, -100)
        for i, (row, prompt) in enumerate(zip(ids, before)):
            input_ids[i, :len(row)] = torch.tensor(row)
            attention_mask[i, :len(row)] = 1
            labels[i, len(prompt):len(row)] = input_ids[i, len(prompt):len(row)]
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    return collate


def padding(tokenizer):
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


# ---- measuring

Evaluation = namedtuple("Evaluation", "loss accuracy labels")


@torch.no_grad()
def evaluate(model, data, collate=default_collate, batch_size=64):
    """Over all of `data`: mean loss in nats per label, share of labels predicted right, and how many labels.

    Where the model gives one row of logits an example a label is a class, where it gives one a place the next token.
    """
    device = next(model.parameters()).device
    total, right, count = 0.0, 0, 0
    with training_mode(model, False):
        for start in range(0, len(data), batch_size):
            batch = collate([data[i] for i in range(start, min(start + batch_size, len(data)))])
            batch = {key: value.to(device) for key, value in batch.items()}
            labels = batch["labels"]
            logits = model(**batch).logits
            if logits.dim() == 3:                                      # a place predicts the token after it
                logits, labels = logits[:, -labels.shape[1]:-1], labels[:, 1:]
            logits, labels = logits.flatten(0, -2).float(), labels.flatten()
            total += F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
            right += (logits.argmax(-1) == labels).sum().item()
            count += (labels != -100).sum().item()
    return Evaluation(total / count, right / count, count)


# ---- what the loop leans on

@contextmanager
def training_mode(model, on=True):
    """Dropout and its like on (or off) for the block; afterwards each module is as it was."""
    before = {m: m.training for m in model.modules()}
    model.train(on)
    try:
        yield
    finally:
        for m, mode in before.items():
            m.training = mode


@contextmanager
def stop_button():
    """A list that is empty until Ctrl-C or the notebook's stop button: the step under way then ends properly."""
    pressed = []
    if threading.current_thread() is not threading.main_thread():      # only the main thread hears the button
        yield pressed
        return
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def own_loss(model, batch):
    value = getattr(model(**batch), "loss", None)
    if value is None:
        raise ValueError(f"the model gave no loss for a batch of {', '.join(batch)}: put `labels` in the batch, "
                         "or give train(..., loss=) a function of the model and the batch")
    return value


def check_trainable(trainable):
    if not trainable:
        raise ValueError("nothing to train: no parameter requires a gradient. Attach a method first, "
                         "pl.attach(model, LoRA, targets, ...), or set requires_grad_(True) on what is to learn")
    halves = [name for name, p in trainable.items() if p.dtype == torch.float16]
    if halves:
        raise ValueError(f"{halves[0]} is float16, in which small updates are lost and large ones overflow; "
                         "convert what is trained: parameter.data = parameter.data.float(), or model.float() for all")


def check_finite(value, norm, step, lr):
    if not torch.isfinite(value) or not torch.isfinite(norm):
        what = "the loss" if not torch.isfinite(value) else "the gradient"
        raise FloatingPointError(f"{what} is not finite at step {step + 1}; the weights are those after step {step}. "
                                 f"Try a lower learning rate (it was {lr:g}), a longer warmup, or look for odd rows")
