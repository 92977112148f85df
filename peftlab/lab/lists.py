"""Lists: a clean room in which a task can be made to need a new attention pattern. Eight digits in, eight digits out.

    3 1 7 0 2 2 5 6 -> 6 5 2 2 0 7 1 3        "reverse": place i must look at place 9 - i
    3 1 7 0 2 2 5 6 -> 4 2 8 1 3 3 6 7        "plus 1": place i looks at place i

Every token says its place besides its digit, so that a single block can know where it stands.
A model is pre-trained here on adding one and adding two, so that every place has learnt to look at its own digit and at
no other. Which of the two is wanted is not said: it shows in the first answer.
"""

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from peftlab.lab.bases import set_threads
from peftlab.lab.training import train

LENGTH, DIGITS = 8, 10  # a list holds 0 to 7, so that adding two needs no carry
TOKENS = 1 + 2 * LENGTH * DIGITS  # a start, and for each of sixteen places ten digits
TASKS = {
    "plus 1": lambda x: x + 1,
    "plus 2": lambda x: x + 2,
    "ascending": lambda x: x.sort(-1).values,
    "reverse": lambda x: x.flip(-1),
}
KNOWN = ("plus 1", "plus 2")


class Lists:
    """`rows` examples of the tasks in turn: start, eight digits, eight answers; labels only on the answers."""

    def __init__(self, tasks, rows=50_000, seed=0):
        x = torch.randint(0, 8, (rows, LENGTH), generator=torch.Generator().manual_seed(seed))
        y = torch.stack([TASKS[tasks[i % len(tasks)]](row) for i, row in enumerate(x)])
        ids = 1 + torch.cat([x, y], 1) + DIGITS * torch.arange(2 * LENGTH)
        self.input_ids = F.pad(ids, (1, 0))
        self.labels = self.input_ids.clone()
        self.labels[:, : 1 + LENGTH] = -100

    def __len__(self):
        return len(self.input_ids)

    def __getitem__(self, i):
        return {"input_ids": self.input_ids[i], "labels": self.labels[i]}


def make_model(layers, seed=0, width=64):
    """A small Llama with `layers` blocks and 4 heads."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=TOKENS, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
            num_attention_heads=4, max_position_embeddings=128, tie_word_embeddings=False,
            bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )
    )  # fmt: skip


def pretrain(layers, seed=0, steps=400, lr=3e-3):
    """A model that adds one or two; in eval mode."""
    set_threads()
    model = make_model(layers, seed)
    train(model, Lists(KNOWN, seed=seed), steps=steps, lr=lr, batch_size=64, seed=seed, progress=False)
    return model.eval()


@torch.no_grad()
def exact(model, task, rows=500, seed=10_000):
    """The share of unseen lists whose eight answers are all right, each given the right ones before it."""
    data, mode = Lists([task], rows, seed), model.training
    model.eval()
    logits = model(input_ids=data.input_ids).logits[:, -LENGTH - 1 : -1]
    model.train(mode)
    return (logits.argmax(-1) == data.input_ids[:, -LENGTH:]).all(1).double().mean().item()
