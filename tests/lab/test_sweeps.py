"""Reading a sweep: answers worked out by hand."""

import pandas as pd
import pytest

from peftlab.lab.sweeps import best_rates, complete, interval


def test_an_unfinished_seed_is_left_out():
    frame = pd.DataFrame({"seed": [0, 0, 0, 1, 1, 1, 2, 2], "method": list("abcabcab")})
    assert sorted(set(complete(frame)["seed"])) == [0, 1] and len(complete(frame)) == 6


def test_each_domain_keeps_its_own_complete_seeds_and_one_with_a_single_seed_goes():
    rows = [("tweets", 0, 3), ("tweets", 1, 3), ("tweets", 2, 1), ("films", 0, 2), ("films", 1, 2), ("news", 0, 2), ("news", 1, 1)]
    frame = pd.DataFrame([(d, s) for d, s, n in rows for _ in range(n)], columns=["domain", "seed"])
    kept = complete(frame, within="domain").groupby(["domain", "seed"]).size()
    assert dict(kept) == {("films", 0): 2, ("films", 1): 2, ("tweets", 0): 3, ("tweets", 1): 3}


SWEEP = pd.DataFrame(
    [
        ("LoRA", 0.1, 0, 0.5), ("LoRA", 0.1, 1, 0.7), ("LoRA", 0.3, 0, 0.9), ("LoRA", 0.3, 1, 0.2),
        ("full", 0.1, 0, 0.1), ("full", 0.1, 1, 0.1), ("full", 0.3, 0, 0.2), ("full", 0.3, 1, 0.3),
    ],
    columns=["method", "lr", "seed", "score"],
)  # fmt: skip


def test_each_group_keeps_the_rate_with_the_best_mean():
    best = best_rates(SWEEP, ["method"], "score")  # LoRA: 0.60 against 0.55, though its best single run is the other's
    assert dict(zip(best["method"], best["lr"])) == {"LoRA": 0.1, "full": 0.3}
    assert len(best) == 4 and sorted(best["seed"]) == [0, 0, 1, 1]
    lowest = best_rates(SWEEP, ["method"], "score", lowest=True)
    assert dict(zip(lowest["method"], lowest["lr"])) == {"LoRA": 0.3, "full": 0.1}


def test_of_equals_the_smaller_rate_is_taken():
    frame = SWEEP.assign(score=1.0)
    assert set(best_rates(frame, ["method"], "score")["lr"]) == {0.1}


def test_an_interval_by_hand():
    mean, half = interval([1, 2, 3])  # standard deviation 1, standard error 1 / sqrt 3, t with 2 degrees 4.303
    assert mean == 2 and half == pytest.approx(4.303 / 3**0.5)
    assert interval([5, 5, 5, 5]) == (5, 0)


@pytest.mark.parametrize("values", [[], [1], range(11)])
def test_too_few_or_too_many_values_are_refused(values):
    with pytest.raises(ValueError, match="2 to 10"):
        interval(values)
