"""What a wrong answer has to do with the right one, when no known slip says it.

Small finders, each a function of its own, look for one relation each: size, places, parts, behaviour, two mistakes at
once. A finder gives a `Claim` only when what it says is true of every case looked at: all shapes, four seeds. They
are tried from the plainest to the most special, and only for wrong answers.
"""

from contextlib import contextmanager
from math import inf
from time import process_time

from . import behaviour, cases, evidence, parts, places, selection, size, together
from .claim import Claim
from .evidence import Evidence, rank

FIRST = (
    size.not_a_number,
    places.kind_of_number,
    places.reshaped,
    behaviour.shape,
    behaviour.changes_its_input,
    behaviour.no_gradient,
    selection.by_name,
    selection.yes_and_no,
    selection.picked,
    behaviour.names,
    behaviour.verdicts,
    size.nothing,
)
PLAIN = (size.factor, size.offset, size.two_terms, places.elsewhere, parts.fitted, parts.given_back, size.function)
SPECIAL = (size.signs, places.along)
BESIDE = (size.factor, size.offset, places.elsewhere, size.function)
SECONDS = 0.8  # of the processor, for all finders of one answer


@contextmanager
def unhurried():
    """No limit of time within, and a finder that fails is an error: for tests, and for pages alike on every machine."""
    global SECONDS
    kept = SECONDS, evidence.SECONDS
    SECONDS = evidence.SECONDS = inf
    try:
        yield
    finally:
        SECONDS, evidence.SECONDS = kept


def explain(exercise, seen, seed, looks):
    """The `Claim` about a wrong answer, or None where no finder has one."""
    try:
        return find(Evidence.of(exercise, seed, seen, looks))
    except Exception:
        if SECONDS == inf:
            raise
        return None  # what a learner's answer gives may be of any kind; the check says the numbers then


def find(ev):
    """The first claim that holds: of the output before any gradient, the plainest first."""
    end = process_time() + SECONDS
    if stops_first(ev):
        return stopped(ev)
    if claim := behaviour.restless(ev) or together.half(ev):
        return claim
    for what in ev.wrong:
        if rank(what) and not rank(ev.wrong[0]):
            break  # a gradient says nothing while the output is wrong
        if claim := _about(ev, what, end):
            return claim
        if process_time() > end:
            break
    return None


def _about(ev, what, end):
    pairs = ev.pairs(what)

    def sentence(words):
        return f"{what}: {words}"

    for finder in (*FIRST, *PLAIN, parts.another_question, *SPECIAL):
        if claim := finder(ev, what, pairs, None, sentence):
            return claim
    for step in (
        lambda: together.pair(ev),
        lambda: together.in_one_thing(ev, what, pairs),
        lambda: together.superposed(ev, what, pairs, None, sentence),
        lambda: some_cases(ev, what, pairs, (*FIRST, *PLAIN, *SPECIAL, places.partly)),
        lambda: together.beside(ev, what, BESIDE, sentence),
        lambda: size.whole(ev, what, pairs, None, sentence),
        lambda: places.partly(ev, what, pairs, None, sentence),
        lambda: together.elsewhere_asked(ev, what, end),
        lambda: behaviour.degree(ev, what, pairs, None, sentence),
        lambda: behaviour.silent(ev, what, pairs, None, sentence),
        lambda: some_cases(ev, what, pairs, ()),
        lambda: behaviour.only_gradients(ev, what, pairs, None, sentence),
    ):
        if process_time() > end:
            return None
        if claim := step():
            return claim
    return None


def some_cases(ev, what, pairs, finders):
    """Right in some cases; what the others have in common, and (with finders) what is wrong there."""
    found = cases.split(ev, what)
    if not found:
        return None
    words, test = found
    text = f"{what}: wrong {words if words.startswith('everywhere') else f'only {words}'}"
    wrong = [p for p in pairs if p.wrong]
    if finders and all(p.y is not None and p.y.numel() < 2 for p in wrong) and len({repr((p.a, p.b)) for p in wrong}) < 3:
        return None  # of one number or two much is true by chance
    if not finders:
        ask = "and right in all other cases. What does your code do differently there, or fail to?"
        return cases.claim(ev, what, words, test, f"{text}, {ask}")
    for finder in finders:
        if inner := finder(ev, what, [p for p in pairs if p.wrong], lambda p: p.wrong, lambda s: s):
            return _both(cases.claim(ev, what, words, test, ""), inner, f"{text}. There: {inner.text}")
    return None


def _both(outer, inner, text):
    return outer and Claim(text, lambda ev: outer.holds(ev) and inner.holds(ev), inner.kind)


def stops_first(ev):
    """Does an error come before anything else that is wrong?"""
    wrong = {p.index for ps in ev._pairs.values() for p in ps if p.what[0] != "_" and p.wrong and p.seed == ev.seed}
    errors = [i for seed, i, _ in ev.errors if seed == ev.seed]
    return bool(errors) and min(errors) < min(wrong, default=len(ev.runs[ev.seed]))


def stopped(ev):
    """An error: where it comes, if not everywhere."""
    kind = "behaves" if all(o["error"] == "Unexpected" for *_, o in ev.errors) else "raised"
    everywhere = len(ev.errors) == ev.looked
    if not everywhere and (found := cases.split(ev, "_runs")):
        words, test = found
        text = f"This happens only {words}; in the other cases it runs. What is different there?"
        if words.startswith(cases.ELSEWHERE):
            text = f"It runs only {words.removeprefix(cases.ELSEWHERE)}; in all other cases this happens. What is different there?"
        return cases.claim(ev, "_runs", words, test, text, kind)
    return None
