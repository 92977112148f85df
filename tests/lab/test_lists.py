"""The clean room of lists: right answers, seeded, and a task that is really new to the model."""

import pytest
import torch

from peftlab.lab import lists

RIGHT = {
    "plus 1": lambda x: [d + 1 for d in x],
    "plus 2": lambda x: [d + 2 for d in x],
    "ascending": sorted,
    "reverse": lambda x: x[::-1],
}


def digits(tokens):
    return [(token - 1) % 10 for token in tokens]


@pytest.mark.parametrize("task", lists.TASKS)
def test_every_answer_is_right_and_only_answers_are_learnt(task):
    data = lists.Lists([task], rows=50)
    for row in map(data.__getitem__, range(len(data))):
        ids, labels = row["input_ids"].tolist(), row["labels"].tolist()
        assert ids[0] == 0 and len(ids) == 17 and max(ids) < lists.TOKENS
        assert [(token - 1) // 10 for token in ids[1:]] == list(range(16)), "each token says its place"
        assert digits(ids[9:]) == RIGHT[task](digits(ids[1:9]))
        assert labels == [-100] * 9 + ids[9:]


def test_a_seed_draws_the_same_lists_and_another_seed_others():
    same, again, other = (lists.Lists(lists.KNOWN, 64, seed).input_ids for seed in (3, 3, 4))
    assert torch.equal(same, again) and not torch.equal(same, other)


def test_tasks_take_turns():
    data = lists.Lists(["plus 1", "reverse"], rows=4)
    ids = [data[i]["input_ids"].tolist() for i in range(4)]
    assert [digits(row[9:]) == RIGHT["plus 1"](digits(row[1:9])) for row in ids] == [True, False, True, False]


def test_a_model_that_knows_nothing_has_no_list_right_and_stays_in_its_mode():
    model = lists.make_model(layers=1).train()
    assert lists.exact(model, "reverse", rows=50) == 0.0 and model.training


def test_a_perfect_answer_counts_as_one():
    class Perfect(torch.nn.Module):
        def forward(self, input_ids):
            following = torch.cat([input_ids[:, 1:], input_ids[:, :1]], 1)
            return type("Out", (), {"logits": torch.nn.functional.one_hot(following, lists.TOKENS).float()})

    assert lists.exact(Perfect(), "reverse", rows=20) == 1.0
