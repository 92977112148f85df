"""What is said of wrong answers that no slip foresaw: the relation that holds, and never one that does not."""

import math

import pytest
import torch
import torch.nn.functional as F

from peftlab.classroom import check
from peftlab.classroom.exercise import find


def lora(x, weight, bias, A, B, alpha):
    return F.linear(x, weight, bias) + alpha / len(A) * (x @ A.T @ B.T)


def wrong(exercise, answer):
    result = check(exercise, answer)
    assert result.state == "not yet", result
    return result


SAID = [  # what an answer is, the kind of explanation, and words of it
    ("lora-forward", lambda **k: -lora(**k), "related", "minus what is expected"),
    ("lora-forward", lambda **k: 3 * lora(**k), "related", "3 times what is expected"),
    ("lora-forward", lambda **k: lora(**k) + 1, "related", "1 more than expected"),
    ("lora-forward", lambda **k: lora(**k) / k["alpha"], "related", "`alpha` times smaller"),
    ("lora-forward", lambda **k: lora(**k).exp(), "related", "the exponential"),
    ("lora-forward", lambda **k: lora(**k).abs(), "related", "without its sign"),
    ("lora-forward", lambda **k: lora(**k).flip(-1), "related", "in reverse order"),
    ("lora-forward", lambda **k: lora(**k).roll(1, -1), "related", "shifted by 1 along the last"),
    ("lora-forward", lambda **k: lora(**k).unsqueeze(0), "related", "a dimension of size one too many"),
    ("lora-forward", lambda **k: lora(**k).double().float(), "related", "their type is not"),
    ("lora-forward", lambda **k: lora(**k) + k["bias"], "named", "The bias is there twice"),
    ("lora-forward", lambda **k: lora(**k) + 2 * k["bias"], "related", "`bias` should add to it comes 3 times"),
    ("lora-forward", lambda **k: lora(**{**k, "alpha": k["alpha"] * len(k["A"]) ** 2}), "related", "squared times"),
    ("lora-forward", lambda **k: 2 * lora(**{**k, "bias": 0 * k["bias"]}), "related", "`bias` should add to it is missing"),
    ("lora-forward", lambda **k: lora(**k) + torch.rand(()), "behaves", "two different answers"),
    ("lora-forward", lambda **k: F.dropout(lora(**k), 0.1), "behaves", "two different answers"),
    ("lora-forward", lambda **k: lora(**k) * math.nan, "related", "nan"),
    ("cosine", lambda a, b: (a @ b.T) * a.norm(dim=1, keepdim=True) ** 3, "behaves", "when `a` is doubled"),
    ("dora-forward", lambda **k: find("dora-forward").reference(**{**k, "B": -k["B"]}), "related", "has the other sign"),
    ("multiplications", lambda t, i, o, on: t * i * o * (2 + on) + t * i, "related", "too large by `tokens` times `d_in`"),
    ("multiplications", lambda t, i, o, on: t * i * o * (2 + on) - t * i * o + t * i / o, "related", "is missing"),
    ("count-lora", lambda i, o, r: 3 * r * (i + o), "related", "3 times what is expected"),
    ("rslora-scale", lambda r, alpha, on: alpha / (r**1.5 if on else r), "related", "wrong only where `rank_stabilised = True`"),
]  # fmt: skip


@pytest.mark.parametrize(("exercise", "answer", "kind", "words"), SAID, ids=[s[3] for s in SAID])
def test_what_nobody_foresaw_is_related(exercise, answer, kind, words):
    result = wrong(exercise, answer)
    assert (result.kind, words in result.message) == (kind, True), result
    assert result.message.split("\n")[0].rstrip().endswith("?")


def test_an_error_says_the_line_the_shapes_by_name_and_not_the_advice_that_leads_astray():
    def with_view(x, weight, bias, A, B, alpha):
        return x.T.view(-1) @ A

    result = wrong("lora-forward", with_view)
    assert result.kind == "raised" and "reshape" not in result.message and "`x` is (5, " in result.message

    def turned(x, weight, bias, A, B, alpha):
        return x @ A @ B

    said = wrong("lora-forward", turned).message
    assert "`return x @ A @ B`" in said and "`x` is" in said and "`A` is" in said and said.endswith("?")


def test_the_output_is_judged_before_the_gradients():
    """The norm of the columns, and no detach: the norm is what is told."""

    def columns(x, weight, bias, A, B, magnitude, alpha):
        V = weight + alpha / len(A) * B @ A
        return F.linear(x, V / V.norm(dim=0, keepdim=True) * magnitude[:, None], bias)

    result = wrong("dora-forward", columns)
    assert result.kind == "named" and "lengths of columns" in result.message


def test_a_correct_answer_carries_no_kind_and_is_looked_at_once():
    calls = []

    def counted(**k):
        calls.append(1)
        return lora(**k)

    result = check("lora-forward", counted)
    assert result and result.kind == "" and len(calls) == len(find("lora-forward").draw(0))
