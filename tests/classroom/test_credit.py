"""Partial credit: which parts count, that they count everywhere or not at all, and that it is the same wherever marks are made."""

import json
import re
import sys

import attacks
import nbformat
import pytest
import torch
from attacks import HALVES
from test_grade import peftlab, submit

from peftlab.classroom import all_exercises, build, check, credit
from peftlab.classroom.checking import observations
from peftlab.classroom.copies import learner_copy
from peftlab.classroom.exercise import Part, Question, find
from peftlab.classroom.grading import make_course

PARTED = [e for e in all_exercises() if e.parts]
each = pytest.mark.parametrize("exercise", PARTED, ids=lambda e: e.id)


def detached(x, weight, bias, A, B, alpha):
    return find("lora-forward").reference(x, weight, bias, A, B, alpha).detach()


# ---------------------------------------------------------------- the data


def test_parts_are_a_choice_and_most_exercises_have_none():
    with_points = [e for e in all_exercises() if e.points and not isinstance(e, Question)]
    assert 10 <= len(PARTED) <= 20 < len(with_points) / 2


@each
def test_the_parts_of_an_exercise_make_up_all_of_it(exercise):
    says = [part.says for part in exercise.parts]
    assert sum(part.points for part in exercise.parts) == exercise.points and len(set(says)) == len(says) > 1
    assert all(part.points > 0 and part.says.endswith((" is", " are")) for part in exercise.parts)
    assert all(part.needs in ("", *says[:i]) for i, part in enumerate(exercise.parts)), "a part needs one before it"
    for seed in (0, 1, 77):
        cases, seen = exercise.draw(seed), observations(exercise, exercise.reference, seed)
        for part in exercise.parts:
            of_it = [a for case, a in zip(cases, seen) if not part.cases or part.cases(case)]
            assert of_it and all(any(name.startswith(start) for a in of_it for name in a) for start in part.seen), part
        for case, a in zip(cases, seen):
            about = [part for part in exercise.parts if not part.cases or part.cases(case)]
            assert about, "a case that no part is about could be wrong and cost nothing"


@each
def test_what_is_right_earns_all_and_what_is_known_to_be_wrong_less(exercise):
    for answer in exercise.solutions:
        assert check(exercise.id, answer, 5).points == exercise.points
    earned = {slip.name: check(exercise.id, slip.answer, 5) for slip in exercise.slips}
    assert all(0 <= result.points < exercise.points for result in earned.values()), earned
    partly = [result for result in earned.values() if result.points]
    assert partly or exercise.id in ONLY_HERE, "nobody would ever see a part of it"
    for result in partly:
        assert re.search(rf"\n{result.points:g} of {exercise.points} points?: [^\n]+ right, [^\n]+ not\.$", result.message), result


ONLY_HERE = {}


def nothing(*args, **named):
    return None


def first(*args, **named):
    return [*args, *named.values()][0]


def zeros(*args, **named):
    return torch.zeros_like(next(v for v in [*args, *named.values()] if isinstance(v, torch.Tensor)))


def one(*args, **named):
    return 1


def empty(*args, **named):
    return {}


def two_zeros(*args, **named):
    return zeros(*args, **named), zeros(*args, **named)


def raises(*args, **named):
    raise ValueError("2 of 2 points")


@each
@pytest.mark.parametrize("lazy", [nothing, first, zeros, one, empty, two_zeros, raises], ids=lambda f: f.__name__)
def test_an_answer_that_does_nothing_earns_nothing(exercise, lazy):
    assert check(exercise.id, lazy, 5).points == 0 and check(exercise.id, (lazy, lazy), 5).points == 0


# ---------------------------------------------------------------- everywhere or not at all


def test_the_learner_is_told_which_part_is_right():
    result = check("lora-forward", detached)
    assert result.points == 2 and result.message.endswith("\n2 of 3 points: the output is right, the gradients are not.")
    assert "2 of 3 points" in repr(result) and "2 of 3 points" in result._repr_html_() and not result and result.state == "not yet"


def test_a_part_that_needs_another_counts_only_with_it():
    good = find("lora-forward").reference
    shifted = check("lora-forward", lambda **k: good(**k) + 1)  # its gradients are right
    assert shifted.points == 0 and "points" not in shifted.message
    half = find("freeze").reference
    named = check("freeze", lambda model: (half(model), [p.requires_grad_(True) for p in model.parameters()])[0])
    assert named.points == 0, "the names alone"


@pytest.mark.parametrize("wrong_at", range(credit.SEEDS))
def test_a_part_is_right_on_every_seed_or_not_at_all(wrong_at, monkeypatch):
    exercise = find("lora-gradients")
    calls, cases = [], len(exercise.draw(0))

    def now_and_then(x, g, A, B, alpha):
        calls.append(1)
        gA, gB = exercise.reference(x, g, A, B, alpha)
        return gA * (1 + ((len(calls) - 1) == wrong_at * cases)), gB * 2

    monkeypatch.setattr("peftlab.classroom.checking.further", lambda *a: {})
    result = check("lora-gradients", now_and_then, 3)
    assert len(calls) == credit.SEEDS * cases and result.points == 0
    assert check("lora-gradients", lambda **k: (exercise.reference(**k)[0], k["B"]), 3).points == 1


def test_a_changed_argument_or_an_error_leaves_no_part():
    good = find("lora-gradients").reference

    def changes(x, g, A, B, alpha):
        gA, _ = good(x, g, A, B, alpha)
        x.add_(1)
        return gA, B

    assert check("lora-gradients", changes).points == 0
    calls = []

    def stumbles(**k):
        calls.append(1)
        return (good(**k)[0], k["B"]) if len(calls) > 1 else 1 / 0

    assert check("lora-gradients", stumbles).points == 0


def test_one_that_is_right_everywhere_but_for_a_seed_seen_later_is_no_less_right():
    assert check("lora-forward", find("lora-forward").reference).points == 3


def test_a_case_that_fails_costs_its_own_part_alone():
    good = find("shifted-loss").reference

    def no_padding_please(logits, ids, mask):
        if not mask.all():
            raise ValueError("padding")
        return good(logits, ids, mask)

    result = check("shifted-loss", no_padding_please)
    assert result.points == 2 and "text without padding is right, padded text is not" in result.message


def test_no_sum_of_parts_makes_a_wrong_answer_whole(monkeypatch):
    monkeypatch.setattr(find("lora-forward"), "parts", [Part("the output is", 3, ("output",)), Part("the rest is", 0, ("gradient",))])
    assert check("lora-forward", detached).points == 0


# ---------------------------------------------------------------- nbgrader reads the same


def test_a_grading_cell_gives_what_nbgrader_takes_for_partial_credit(capsys):
    from nbgrader.utils import determine_grade

    good = find("lora-forward").reference
    cell = nbformat.v4.new_code_cell(metadata={"nbgrader": build.nbgrader("lora-forward-check", points=3)})
    for answer, most, value, score in ((detached, 3, 2, 2), (good, 3, None, 3), (detached, 6, 4, None), (detached, None, 2, 2)):
        assert check("lora-forward", answer, seed=1).grade(most) == value
        shown = [] if value is None else [nbformat.v4.new_output("execute_result", data={"text/plain": repr(float(value))}, execution_count=1)]
        cell.outputs = [nbformat.v4.new_output("display_data", data={"text/plain": "a card"}), *shown]
        assert score is None or determine_grade(cell) == (score, 3)
    with pytest.raises(AssertionError, match="lora-forward: not yet"):
        check("lora-forward", lambda **k: k["x"], seed=1).grade(3)


def test_the_hidden_test_says_what_the_cell_is_worth_where_there_are_parts():
    cells = {c.metadata["nbgrader"]["grade_id"]: c.source for c in build.complete("03-lora").cells if "nbgrader" in c.metadata}
    assert "seed=1).grade(3)" in cells["lora-forward-check"] and "seed=1).grade()" in cells["lora-init-check"]


# ---------------------------------------------------------------- attacks


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All attacks on partial credit, and the honest answers they are measured by, graded in one run."""
    if sys.platform != "linux":
        pytest.skip("learners' code is shut in on Linux only")
    course = make_course(tmp_path_factory.mktemp("course"), *{a.lesson for a in HALVES.values()})
    for name, attack in {**HALVES, **attacks.HONEST_HALVES}.items():
        solved = nbformat.read(course / "source" / attack.lesson / f"{attack.lesson}.ipynb", 4)
        attack.write(json.loads(nbformat.writes(learner_copy(solved))), submit(course, name, attack.lesson, None))
    report = course / "report.jsonl"
    done = peftlab("grade", course / "submitted", "--seconds", "20", "--report", report, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {r["student"]: r for r in map(json.loads, report.read_text().splitlines())}


@pytest.mark.parametrize("name", [*HALVES, *attacks.HONEST_HALVES])
def test_a_trick_gains_no_part_that_an_honest_answer_would_not(run, name):
    attack = {**HALVES, **attacks.HONEST_HALVES}[name]
    state, _, message, (given, most) = run[name]["results"][attack.exercise]
    assert given == attack.earns and most == find(attack.exercise).points, run[name]
    said = " ".join([state, message, *run[name]["notes"]])
    assert state == "not yet" and any(part in said for part in attack.told.split("|")), said
    assert attack.earns or "says" in name or "points:" not in message
    others = {e: r for e, r in run[name]["results"].items() if e != attack.exercise}
    assert not [e for e, r in others.items() if r[3][0]], "nothing else was answered"


def test_there_are_twenty():
    assert len(HALVES) >= 20 and {a.lesson for a in HALVES.values()} == {"01-what-fine-tuning-costs", "03-lora"}
