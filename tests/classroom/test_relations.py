"""What is said of wrong answers that no slip foresaw: the relation that holds, and never one that does not."""

import math
from itertools import combinations, product
from time import process_time
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from peftlab.classroom import all_exercises, check, judge, sandbox, wire
from peftlab.classroom.compare import difference
from peftlab.classroom.exercise import find
from peftlab.classroom.relations.evidence import expected, numbers


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
    ("lora-forward", lambda **k: lora(**k) + (0 if k["bias"] is None else k["bias"]), "named", "The bias is there twice"),
    ("lora-forward", lambda **k: lora(**k) + (0 if k["bias"] is None else 2 * k["bias"]), "related", "`bias` should add to it comes 3 times"),
    ("lora-forward", lambda **k: lora(**{**k, "alpha": k["alpha"] * len(k["A"]) ** 2}), "related", "squared times"),
    ("lora-forward", lambda **k: 2 * lora(**{**k, "bias": None}), "related", "`bias` should add to it is missing"),
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

    def by_bytes(x, weight, bias, A, B, alpha):
        return x[torch.zeros(len(x) + 1, dtype=torch.bool)]

    assert "taken as a mask" in wrong("lora-forward", by_bytes).message


def test_the_output_is_judged_before_the_gradients():
    """The norm of the columns, and no detach: the norm is what is told."""

    def columns(x, weight, bias, A, B, magnitude, alpha):
        V = weight + alpha / len(A) * B @ A
        return F.linear(x, V / V.norm(dim=0, keepdim=True) * magnitude[:, None], bias)

    result = wrong("dora-forward", columns)
    assert result.kind == "named" and "columns" in result.message


def test_a_correct_answer_carries_no_kind_and_is_looked_at_once():
    calls = []

    def counted(**k):
        calls.append(1)
        return lora(**k)

    result = check("lora-forward", counted)
    assert result and result.kind == "" and len(calls) == len(find("lora-forward").draw(0))


SWITCHED = [e for e in all_exercises() if e.switches]


@pytest.mark.parametrize("exercise", SWITCHED, ids=lambda e: e.id)
def test_each_switch_alone_is_its_slip_and_none_the_right_answer(exercise):
    make, switches = exercise.switches
    assert check(exercise.id, make)
    for switch, slips in switches.items():
        for slip in slips:
            assert check(exercise.id, lambda *a, s=switch, v=slip, **k: make(*a, **k, **{s: v})).slip == slip


@pytest.mark.parametrize("exercise", SWITCHED, ids=lambda e: e.id)
def test_two_switches_at_once_are_both_named(exercise):
    """Or they are told in another way that is true; never by numbers alone."""
    make, switches = exercise.switches
    said = {s.name: s.message for s in exercise.slips}
    both = total = 0
    for one, other in combinations(switches, 2):
        for a, b in product(switches[one], switches[other]):
            result = wrong(exercise.id, lambda *x, s={one: a, other: b}, **k: make(*x, **k, **s))
            assert result.kind != "numbers", (a, b)
            both += said[a] in result.message and said[b] in result.message
            total += 1
    assert both >= 0.5 * total, f"{both} of {total}"


def test_the_terms_of_a_formula_are_those_of_the_right_answer():
    for exercise in all_exercises():
        for what, make in exercise.terms.items():
            for case, seen in zip(exercise.draw(5), expected(exercise.id, 5), strict=True):
                terms = [torch.as_tensor(t, dtype=torch.float64) for t in make(case).values()]
                assert torch.allclose(sum(terms), numbers(seen[what])), (exercise.id, what)


@pytest.mark.parametrize(("exercise", "answer"), [s[:2] for s in SAID], ids=[s[3] for s in SAID])
def test_the_grader_gives_the_same_sentences(exercise, answer):
    """What the sandbox sends, by the way it is sent, to the judge, who never sees the answer."""
    module = SimpleNamespace(answer=answer)
    frame = {"exercise": exercise, **sandbox.observed(module, exercise, "answer", 0, "")}
    graded = judge._judge(exercise, list(wire.unpack(wire.pack(frame))), judge.Graded("ada", "03-lora", seed=0), "")
    result = check(exercise, answer)
    assert (graded.message, graded.kind) == (judge.clean(result.message), result.kind)


def test_a_wrong_answer_is_told_within_a_second():
    """Of the processor, once the exercise itself has been looked at."""
    for exercise, answer, *_ in SAID:
        check(exercise, answer)
        start = process_time()
        check(exercise, answer)
        assert process_time() - start < 1, exercise


@pytest.mark.parametrize("seen, expected, same", [(2.0, math.inf, False), (math.inf, 2.0, False), (math.inf, math.inf, True), (math.inf, -math.inf, False)])
def test_a_share_of_infinity_lets_nothing_pass(seen, expected, same):
    assert (difference(seen, expected) is None) == same
    mine, theirs = (torch.tensor([1.0, x, 3.0], dtype=torch.float64) for x in (seen, expected))
    assert (difference(mine, theirs) is None) == same
    assert difference(theirs + torch.tensor([0.5, 0, 0]), theirs), "what stands beside it is compared as well"
