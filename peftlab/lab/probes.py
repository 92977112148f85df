"""Short questions of our own and plain prose in data/probes: what a language model may lose while it learns.

`known` in facts.jsonl says whether the untouched model completes the fact. This file writes it:

    python -m peftlab.lab.probes
"""

import json

import torch

from peftlab.lab.bases import load_base
from peftlab.lab.sources import ROOT
from peftlab.lab.training import answers, training_mode

FOLDER = ROOT / "data" / "probes"


def read(name):
    """The rows of data/probes/NAME.jsonl: "facts", "invented" (prompt, answer, ...) or "general" (text)."""
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def to_learn(rows):
    """The same rows with a space before the answer, as `training.answers` wants them for a model that writes words."""
    return [{**row, "answer": f" {row['answer']}"} for row in rows]


@torch.no_grad()
def completed(model, tokenizer, rows, batch_size=60):
    """For each row, whether the model, writing the likeliest token each time, would go on from `prompt` with `answer`."""
    rows, right = to_learn(rows), []
    with training_mode(model, False):
        for start in range(0, len(rows), batch_size):
            batch = answers(tokenizer)(rows[start : start + batch_size])
            labels = batch.pop("labels").masked_fill_(batch["input_ids"] == tokenizer.eos_token_id, -100)
            batch = {name: t.to(model.device) for name, t in batch.items()}
            written = model(**batch).logits[:, -labels.shape[1] : -1].argmax(-1).cpu()
            right += ((written == labels[:, 1:]) | (labels[:, 1:] == -100)).all(1).tolist()
    return right


def mark():
    model, tokenizer = load_base("smollm2-135m")
    rows = read("facts")
    rows = [{**row, "known": yes} for row, yes in zip(rows, completed(model, tokenizer, rows))]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (FOLDER / "facts.jsonl").write_text(lines, encoding="utf-8")
    print(f"{sum(row['known'] for row in rows)} of {len(rows)} facts are known to the untouched model")


if __name__ == "__main__":
    mark()
