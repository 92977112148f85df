"""Every exercise: wrong answers caught and named, correct ones accepted, messages that lead and do not tell."""

import ast
import inspect
import linecache
import re
import signal
import textwrap

import pytest
import torch

from peftlab.classroom import all_exercises, check, kill_table, mutants, relations
from peftlab.classroom.checking import Result, is_stub, observations
from peftlab.classroom.exercise import Question, find
from peftlab.classroom.relations.evidence import Evidence

ALL = all_exercises()
BUILT = [e for e in ALL if not isinstance(e, Question)]
each = pytest.mark.parametrize("exercise", ALL, ids=lambda e: e.id)
each_built = pytest.mark.parametrize("exercise", BUILT, ids=lambda e: e.id)


@pytest.fixture(scope="module")
def judged():
    return {e.id: kill_table.judge(e) for e in ALL}


@each
def test_no_wrong_answer_survives_and_each_is_named(exercise, judged):
    refused, rows = judged[exercise.id]
    assert not refused, f"correct solutions refused: {refused}"
    assert not [s.name for s, caught, _ in rows if not caught], "accepted wrong answers"
    assert not [s.name for s, _, named in rows if not named], "wrong answers under another's name, or none"


@each
def test_it_holds_on_inputs_no_one_has_seen(exercise):
    for seed in (11, 12_345):
        refused, rows = kill_table.judge(exercise, (seed,))
        assert not refused and all(named for _, _, named in rows), seed


@pytest.fixture(scope="module")
def untold():
    with relations.unhurried():
        return {e.id: kill_table.unknown(e) for e in ALL}


@each_built
def test_what_is_said_of_a_mistake_that_is_not_known_is_true_on_fresh_inputs(exercise, untold, monkeypatch):
    monkeypatch.setattr(exercise, "slips", [])
    with relations.unhurried():
        for slip, claim, _ in untold[exercise.id]:
            if claim:
                assert claim.text.rstrip().endswith("?"), (slip.name, claim.text)
                for seed in (101, 4_242):
                    assert claim.holds(Evidence.made(exercise, slip.answer, seed)), (slip.name, seed, claim.text)


def test_the_published_table_is_up_to_date(judged, untold):
    page = kill_table.page([(e, *judged[e.id]) for e in ALL], untold)
    assert kill_table.PAGE.read_text(encoding="utf-8") == page, "run python -m peftlab.classroom.kill_table"


@each_built
def test_there_is_enough_of_everything(exercise):
    assert len(exercise.slips) >= 6 and len(exercise.solutions) >= 3 and exercise.hints and exercise.why
    assert len({s.name for s in exercise.slips}) == len(exercise.slips)
    assert 1 <= exercise.difficulty <= 3 and exercise.minutes > 0


@each_built
def test_a_message_ends_in_a_question_and_shows_no_code_of_the_answer(exercise):
    said = [s.message for s in exercise.slips] + exercise.hints
    assert all(s.message.rstrip().endswith("?") for s in exercise.slips)
    for solution in filter(inspect.isfunction, exercise.solutions):
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(solution)))):
            if isinstance(node, ast.Return | ast.Assign) and len(line := ast.unparse(node.value)) > 12:
                assert not any(line in text for text in said), line


def test_every_question_gives_each_answer_a_reason_of_its_own():
    for e in ALL:
        if isinstance(e, Question):
            assert e.right in e.options and len({reason for _, reason in e.options.values()}) == len(e.options) >= 3


@each
def test_seeds_draw_the_same_or_other_inputs_and_leave_torch_alone(exercise):
    before = torch.get_rng_state()
    first, second = (
        re.sub(r"(\d\.\d{8})\d+", r"\1", repr(observations(exercise, exercise.reference, 3))) for _ in range(2)
    )
    assert first == second and torch.equal(before, torch.get_rng_state())


# ---------------------------------------------------------------- the three states


def stub_pass(x, weight, bias, A, B, alpha):
    """A stub with a docstring."""


def stub_dots(x, weight, bias, A, B, alpha): ...


def stub_raise(x, weight, bias, A, B, alpha):
    raise NotImplementedError("yours")


@pytest.mark.parametrize("stub", [None, ..., stub_pass, stub_dots, stub_raise])
def test_an_untouched_stub_is_not_attempted(stub):
    result = check("lora-forward", stub)
    assert result.state == "not attempted" and not result and "○" in repr(result)


def test_a_function_without_a_return_is_an_attempt():
    def forgot(x, weight, bias, A, B, alpha):
        y = x @ weight.T  # noqa: F841

    assert not is_stub(forgot)
    result = check("lora-forward", forgot)
    assert result.state == "not yet" and "is a `return` reached" in result.message and result.slip is None


def test_an_answer_of_the_wrong_kind_gets_a_sentence():
    assert "gave a float" in check("lora-forward", lambda **_: 1.5).message
    assert "expected two" in check("lora-init", lambda *_: (1, 2, 3)).message
    assert check("lora-attach", lambda *_: ["q_proj"]).state == "not yet"
    assert check("lora-unmerge", print).state == "not yet"
    assert "TypeError" in check("lora-forward", 3).message
    with pytest.raises(KeyError, match="lora-forward"):
        check("lora-foward", stub_pass)


def test_an_error_in_the_learners_code_shows_their_line_and_no_frame_of_a_library():
    source = "def lora_forward(x, weight, bias, A, B, alpha):\n    y = x @ weight.T + bias\n    return y + x @ A @ B\n"
    name = "<ipython-input-7>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space = {}
    exec(compile(source, name, "exec"), space)  # noqa: S102
    message = check("lora-forward", space["lora_forward"]).message
    assert "line 3 of your cell, `return y + x @ A @ B`, raised RuntimeError" in message
    assert "site-packages" not in message and "checking.py" not in message


def test_two_mistakes_at_once_get_no_name_but_what_was_seen():
    result = check("lora-forward", lambda x, weight, bias, A, B, alpha: x @ weight.T - alpha * x @ A.T @ B.T)
    assert result.state == "not yet" and result.slip is None
    assert (
        "the largest difference is" in result.message and "expected" in result.message and "`r = 3`" in result.message
    )


def test_the_size_of_a_wrong_update_is_told():
    slip = next(s for s in find("lora-forward").slips if s.name == "alpha-without-rank")
    assert (
        "3 times at `r = 3`, `alpha = 12`; 4 times at `r = 4`, `alpha = 10`"
        in check("lora-forward", slip.answer).message
    )


def test_rounding_is_no_mistake_and_half_precision_is_one():
    good = find("lora-forward").reference
    assert check("lora-forward", lambda **k: good(**k) * (1 + 1e-9))
    assert "dtype float16" in check("lora-forward", lambda **k: good(**k).half()).message


def test_nan_is_no_answer():
    good = find("lora-forward").reference
    assert check("lora-forward", lambda **k: good(**k) * float("nan")).state == "not yet"


def test_the_result_in_a_grading_cell(capsys):
    good, bad = find("lora-forward").reference, find("lora-forward").slips[0]
    check("lora-forward", good).grade()
    with pytest.raises(AssertionError, match="lora-forward: not yet"):
        check("lora-forward", bad.answer).grade()
    assert check("lora-forward", good) and not check("lora-forward", bad.answer)


def test_warnings_and_stderr_of_an_answer_do_not_reach_stderr(capsys):
    import sys
    import warnings

    def noisy(**k):
        warnings.warn("mind this", stacklevel=1)
        print("debugging", file=sys.stderr)
        return find("lora-forward").reference(**k)

    assert check("lora-forward", noisy)
    out, err = capsys.readouterr()
    assert err == "" and "debugging" in out


def test_the_card_says_the_state_in_a_symbol_and_a_word_and_escapes_the_rest():
    card = check("lora-forward", find("lora-forward").slips[0].answer)._repr_html_()
    assert "✗" in card and "Not yet" in card and "<code>r = 3</code>" in card
    assert "background" not in card, "the theme's own background and text colour, dark or light"

    assert "<em>said</em>" in Result("x", "not yet", "what is *said* of 2 * 3")._repr_html_()

    def html(**_):
        raise ValueError("<script>alert(1)</script>")

    assert "<script>" not in check("lora-forward", html)._repr_html_()


def test_a_question_through_check_and_as_buttons():
    from peftlab.classroom import predict

    assert check("lora-first-step", "c") and check("lora-first-step", " C ")
    assert check("lora-first-step", "a").slip == "a" and "one letter" in check("lora-first-step", "e").message
    buttons = predict("lora-first-step")
    buttons.choice.value = "b"
    assert "Not yet" in buttons.told.value
    buttons.choice.value = "c"
    assert "Correct" in buttons.told.value


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarm on this system to end a mutant that hangs")
def test_no_mechanical_mutant_is_accepted_that_nobody_has_explained():
    page = mutants.page()
    assert "Not explained" not in page
    told, ran = map(int, re.search(r"caught, (\d+) ran without an error; (\d+) of these", page).groups()[::-1])
    assert told >= 0.85 * ran, "too many are told nothing but numbers"
    assert mutants.PAGE.read_text(encoding="utf-8") == page, "run python -m peftlab.classroom.mutants"


def test_the_mutants_notice_a_check_that_looks_at_nothing(monkeypatch):
    exercise = find("lora-forward")
    monkeypatch.setattr(exercise, "look", lambda answer, case: {"nothing": True})
    monkeypatch.setattr(mutants, "SEEDS", (9_999,))
    count, left, _ = mutants.survivors(exercise)
    assert len(left) == count > 20


def test_a_layer_without_a_bias_hides_nothing_of_the_size_of_the_update():
    def two_mistakes(x, weight, bias, A, B, alpha):
        return x @ weight.T + bias + alpha * (x @ A.T @ B.T)

    assert "3 times at `r = 3`, `alpha = 12`; 4 times" in check("lora-forward", two_mistakes).message


def test_the_size_of_a_matrix_is_told_for_each_width():
    told = check("lora-init", lambda d_in, d_out, r: (torch.randn(r, d_in) * 0.02, torch.zeros(d_out, r))).message
    assert "at `d_in = 64`" in told and "at `d_in = 1024`" in told


def test_without_the_head_the_smallest_setting_is_off_and_the_message_says_so():
    result = check("find-settings", {"2 million": 16, "4 million": 32, "7 million": 128, "26 million": 512})
    assert result.slip == "smallest-without-the-head" and "of the head, '2 million' would be right" in result.message
    other = check("find-settings", {"2 million": 20, "4 million": 32, "7 million": 128, "26 million": 300})
    assert other.slip is None and "'2 million' would be right" in other.message
