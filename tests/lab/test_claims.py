"""The claims page says what the records say, each run it rests on is there, and the lessons' own tables agree with it."""

import json
import re
import shutil
from pathlib import Path

import pandas
import pytest

from peftlab.lab import claims, records
from peftlab.lab.claims_measured import HELD, IN_PART, NOT, OPEN, SETTLE, Mean, holm, signflip, surely_on_par
from peftlab.lab.experiments import languages_by_distance as by_distance

ROOT = Path(claims.__file__).parents[2]
LESSONS = {file.name[:2]: file.read_text("utf-8") for file in (ROOT / "notebooks" / "source").glob("*.py")}
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def settled():
    return {claim.number: claims.settle(claim) for claim in claims.CLAIMS}


def test_all_37_are_there_once_with_a_verdict(settled):
    assert [c.number for c in claims.CLAIMS] == list(range(1, 38)) == sorted(SETTLE)
    assert len({c.sentence for c in claims.CLAIMS}) == 37
    assert {s.verdict for s in settled.values()} <= {HELD, IN_PART, NOT, OPEN} == set(claims.VERDICTS)


def test_page_and_readme_are_up_to_date(settled):
    out_of_date = "is out of date: run `python -m peftlab.lab.claims`"
    assert claims.PAGE.read_text("utf-8") == claims.page(settled.values()), f"docs/claims.md {out_of_date}"
    assert claims.with_digest(README, settled.values()) == README, f"README.md {out_of_date}"
    assert "(docs/claims.md)" in README


def test_every_lesson_named_exists():
    written = re.search(r"these are done; ([\d, and]+) are being written", README)
    coming = set(re.findall(r"\d\d", written[1])) if written else set()
    assert {name for c in claims.CLAIMS for name in c.lessons} <= set(LESSONS) | coming


# ---- numbers


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda c: f"C{c.number}")
def test_no_number_is_typed(claim):
    assert not re.search(r"\d", re.sub(r"{[^{}]*}", "", claim.depends)), "a number in the sentence comes from no record"


def lines(name, **where):
    found = [
        r
        for r in records.read(records.RUNS / f"{name}.jsonl")
        if all(r["config"].get(k) == v for k, v in where.items())
    ]
    return [r["config"] | r["metrics"] for r in found]


def at_best(name, value, **where):
    """The values of the rate with the lowest mean loss in training, straight from the file."""
    by_rate = {}
    for run in lines(name, **where):
        by_rate.setdefault(run["lr"], []).append((run["seed"], run["train_loss"], run[value]))
    best = min(by_rate.values(), key=lambda runs: sum(r[1] for r in runs) / len(runs))
    return [v for _, _, v in sorted(best)]


def test_decisive_numbers_are_those_of_the_records(settled):
    shape = {"shape": "xlm-roberta-large", "dtype": "float32", "texts": 8, "length": 128}
    count = {
        m: lines("cost-560m", method=m, **shape)[0]["trainable"]
        for m in ("full", "lora-8", "lora-32", "pfeiffer-8", "pfeiffer-2")
    }
    told = {n: s.depends for n, s in settled.items()}
    assert f"{count['full'] / count['lora-32']:.0f} to {count['full'] / count['lora-8']:.0f}" in told[2]
    assert f"{count['pfeiffer-8'] / 1e6:.2f} and {count['pfeiffer-2'] / 1e6:.2f} million" in told[13]
    spanish = Mean(at_best("languages-learnt-and-lost", "learnt", target="es", method="prompt"))
    assert f"{spanish:.1%} by a prompt" in told[21] and f"at {spanish:.1%}" in told[34]
    lora = at_best("adapters-by-size", "accuracy", method="lora", budget=5500)
    houlsby = at_best("adapters-by-size", "accuracy", method="houlsby", budget=5500)
    assert f"{Mean([a - b for a, b in zip(lora, houlsby)]):points} (5,500 parameters)" in told[35]
    frozen = [r for r in lines("languages-learnt-and-lost") if r["method"] != "full"]
    assert f"in {len(frozen)} runs" in told[23] and all(r["accuracy_en_off"] == r["accuracy_en_before"] for r in frozen)
    patient = [r["exact"] for r in lines("list-reversal", task="reverse", layers=2, method="prefix-40", steps=3200)]
    assert f"in {sum(e > 0.5 for e in patient)} of {len(patient)} seeds" in told[20]
    brackets = lines("merge-in-four-bits", task="brackets")
    assert f"{Mean([r['score_original'] for r in brackets]):.1%} merged into the original ones" in told[9]
    far = [
        [at_best("languages-by-distance", "learnt", target=t, method=m) for t in ("de", "fi", "pl", "tr")]
        for m in ("full", "lora-32")
    ]
    full, rank_32 = ([sum(of_seed) / 4 for of_seed in zip(*way)] for way in far)
    assert f"{Mean([a - b for a, b in zip(full, rank_32)]):points}" in told[29]


def test_a_changed_number_is_found_out(settled):
    page = claims.page(settled.values())
    assert re.sub(r"(\d)(\d\.\d%)", lambda m: f"{(int(m[1]) + 1) % 10}{m[2]}", page, count=1) != page


# ---- runs


@pytest.fixture
def copied(tmp_path):
    for file in records.RUNS.glob("*.jsonl"):
        shutil.copy(file, tmp_path)
    return tmp_path


MEASURED = [c for c in claims.CLAIMS if not c.without]


@pytest.mark.parametrize("claim", MEASURED, ids=lambda c: f"C{c.number}")
def test_a_claim_does_not_survive_the_loss_of_a_run(claim, settled, copied):
    before = settled[claim.number]
    assert before.used or before.verdict == OPEN and before.depends.startswith(claims.NOTHING), "a verdict rests on runs"
    for name, used in before.used.items():
        path = copied / f"{name}.jsonl"
        whole = path.read_text("utf-8")
        kept = [line for line in whole.splitlines() if json.loads(line)["key"] != next(iter(used))]
        assert len(kept) == len(whole.splitlines()) - 1, "a run it rests on is in the records"
        path.write_text("\n".join(kept) + "\n", encoding="utf-8")
        try:
            after = claims.settle(claim, copied)
        except ValueError:
            pass
        else:
            assert (after.runs, after.depends) != (before.runs, before.depends)
        path.write_text(whole, encoding="utf-8")


def test_without_its_records_a_claim_says_what_to_record(copied):
    (copied / "list-reversal.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="peftlab record list-reversal"):
        claims.settle(claims.CLAIMS[19], copied)


def test_rates_at_an_edge_and_trees_with_changes_are_said(settled, copied):
    """Of two rates the better is at an edge; of three, where the middle one is best, it is not."""
    far, films = settled[29], settled[27]
    three = {(t, m) for t in by_distance.FAR for m in by_distance.WIDENED}
    assert all(edge == 2 * (group not in three) for (*_, group), edge in far.rates.items())
    two = len(far.rates) - len(three)
    assert f"{two} of {len(far.rates)} learning rates" in far.runs and f", {two} of them where only two were tried" in far.runs
    assert 0 < sum(map(bool, films.rates.values())) < len(films.rates)
    dirty = {r["key"] for name in films.used for r in records.read(records.RUNS / f"{name}.jsonl") if r["dirty"]} & set(films.dirty)
    assert dirty and f"{len(dirty)} runs were recorded from a tree with changes" in films.runs
    inside = settled[35]
    assert not any(edge for (name, *_), edge in inside.rates.items() if name == "adapters-by-size")


@pytest.mark.parametrize("claim", [c for c in claims.CLAIMS if c.without], ids=lambda c: f"C{c.number}")
def test_what_needs_no_run_says_where_it_is_shown(claim, settled):
    assert not settled[claim.number].used and f"lesson {claim.lessons[0]}" in settled[claim.number].runs


# ---- the lessons' own tables


def rows(text):
    """{number: what a lesson's table says of a claim}: "| claim (C6) | here |" in a markdown cell, or lesson 01's verdicts."""
    found = {int(n): here for n, here in re.findall(r"^# \|[^|]*\(C(\d+)\)[^|]*\| (.*) \|$", text, re.MULTILINE)}
    return found | {int(n): here for n, here in re.findall(r'^    "C(\d+)": f?"([^"]*)', text, re.MULTILINE)}


def disagreements(name, text, settled):
    """What a lesson's table and the page say differently, in words."""
    found, here = [], rows(text)
    for number, says in here.items():
        claim, verdict = settled[number].claim, settled[number].verdict
        if name not in claim.lessons:
            found.append(f"C{number}: the page does not name lesson {name}")
        stated = next((v for v in (IN_PART, NOT, HELD) if says.startswith(v)), None)
        if name == "01" and stated != verdict:
            found.append(f"C{number}: {stated} in the lesson, {verdict} on the page")
        if name != "01" and claim.said.get(name, "nothing") not in says:
            found.append(f"C{number}: the lesson no longer says {claim.said.get(name)!r}")
        if claim.amounts and verdict != claim.amounts:
            found.append(f"C{number}: the lesson's words amount to {claim.amounts!r}, the page says {verdict!r}")
    lacking = [s.claim.number for s in settled.values() if name in s.claim.said and s.claim.number not in here]
    return found + [f"C{n}: not in the lesson's table" for n in lacking]


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_lesson_and_page_agree(name, settled):
    assert not disagreements(name, LESSONS[name], settled)


def test_the_tables_are_found():
    found = {name: set(rows(text)) for name, text in LESSONS.items() if rows(text)}
    assert found["01"] == {2, 3, 4, 5, 13, 14, 17, 26, 37} and found["06"] == {16, 17, 18, 19, 20, 21}
    assert found["09"] == {22, 23, 24} and len(found) >= 8


def test_a_lesson_that_says_something_else_is_found_out(settled):
    text = LESSONS["09"].replace("adapter off: exactly", "adapter off: hardly")
    assert disagreements("09", text, settled) == ["C23: the lesson no longer says 'adapter off: exactly'"]
    text = LESSONS["01"].replace('"C5": f"did not hold', '"C5": f"held')
    assert disagreements("01", text, settled) == ["C5: held in the lesson, did not hold on the page"]
    assert disagreements("05", LESSONS["05"].replace("(C35)", ""), settled) == ["C35: not in the lesson's table"]


# ---- the table, and the rules


def test_the_table_by_lesson():
    table = claims.table("06")
    assert list(table.columns) == ["claim", "sentence", "verdict", "lesson", "runs"]
    assert set(table["claim"]) == {f"C{c.number}" for c in claims.CLAIMS if "06" in c.lessons}
    with pytest.raises(ValueError, match="lesson '99'"):
        claims.table("99")


def test_sign_flips_and_holm_by_hand():
    assert (
        signflip([1, 2, 3, 4, 5, 6]) == 2 / 64
        and signflip([1, 1, 1, 1, 1]) == 2 / 32
        and signflip([1, -1]) == 1
        and signflip([0.1] * 24) < 0.001
    )
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def copy_far(folder):
    """The runs on far languages, which count for C1 too: there every method is behind."""
    for name in ("languages-by-distance", "spectra"):
        shutil.copy(records.RUNS / f"{name}.jsonl", folder)


def grid(folder, seeds, **quality):
    """A grid of two domains and one rate; the quality of a method varies a little with the seed."""
    sizes = {"head": 1, "bitfit": 2, "lora_8": 3, "full": 9}
    found = []
    for domain in ("tweets", "products"):
        for method, value in quality.items():
            for seed in range(seeds):
                config = {
                    "domain": domain,
                    "method": method.replace("_", "-"),
                    "lr": 0.001,
                    "sentences": 256,
                    "steps": 48,
                    "seed": seed,
                }
                metrics = {
                    "test": value + 0.001 * ((seed * 7 + 3 * sizes[method]) % 5),
                    "validation": value,
                    "trainable": sizes[method],
                }
                found.append({"key": f"{domain}-{method}-{seed}", "config": config, "metrics": metrics, "seconds": 1, "experiment": "grid-minilm",
                              "date": "2026-01-01", "commit": None, "dirty": False, "device": {"name": "a processor", "kind": "cpu"}})  # fmt: skip
    (folder / "grid-minilm.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found), encoding="utf-8")


@pytest.mark.parametrize(
    "seeds, quality, verdicts",  # of C1 comparable, C25 better than the head and close to full, C33 the best balance
    [
        (6, {"head": 0.6, "bitfit": 0.7, "lora_8": 0.9, "full": 0.9}, (IN_PART, IN_PART, HELD)),
        (6, {"head": 0.6, "bitfit": 0.9, "lora_8": 0.9, "full": 0.9}, (IN_PART, HELD, NOT)),
        (6, {"head": 0.6, "bitfit": 0.7, "lora_8": 0.8, "full": 0.9}, (NOT, IN_PART, OPEN)),
        (6, {"head": 0.9, "bitfit": 0.9, "lora_8": 0.9, "full": 0.9}, (IN_PART, NOT, NOT)),
        (5, {"head": 0.6, "bitfit": 0.7, "lora_8": 0.9, "full": 0.9}, (OPEN, OPEN, OPEN)),
    ],
)
def test_the_rules_of_the_fair_comparison(tmp_path, seeds, quality, verdicts):
    grid(tmp_path, seeds, **quality)
    copy_far(tmp_path)
    settled = [claims.settle(claims.CLAIMS[n - 1], tmp_path) for n in (1, 25, 33)]
    assert tuple(s.verdict for s in settled) == verdicts
    assert all(f"grid-minilm: {8 * seeds} runs" in s.runs for s in settled)


def test_on_par_is_corrected_for_the_number_of_methods():
    """One method of several whose interval is inside the margin by a hair in each domain is not surely on par; a plain one is."""
    full = {0: 0.90, 1: 0.91, 2: 0.89, 3: 0.90, 4: 0.92, 5: 0.88}
    gaps = {"plain": [0.001] * 6, "hair": [0.0, 0.030, 0.0, 0.021, 0.0, 0.021]}
    ways = {"full": pandas.Series(full)}
    for name, method in zip(gaps, ("lora-8", "bitfit")):
        ways[method] = pandas.Series({s: full[s] - gaps[name][s] for s in full})
    of = {"tweets": ways, "products": ways}
    assert surely_on_par(of) == ["lora-8"]


def test_what_is_not_recorded_yet_is_not_decided(tmp_path):
    settled = claims.settle(claims.CLAIMS[0], tmp_path)
    assert settled.verdict == OPEN and settled.runs == "nothing recorded yet"
    assert settled.depends == f"{claims.NOTHING} {claims.CLAIMS[0].would}"
    grid(tmp_path, 1, head=0.6, lora_8=0.9, full=0.9)
    copy_far(tmp_path)
    assert claims.settle(claims.CLAIMS[0], tmp_path).verdict == OPEN


def test_the_readme_keeps_what_stands_around_the_digest(settled):
    with pytest.raises(ValueError, match="lacks the marks"):
        claims.with_digest("no marks", settled.values())
    text = claims.with_digest(f"before\n{claims.BEGIN}\nwhat was there\n{claims.END}\nafter", settled.values())
    assert text.startswith("before\n") and text.endswith("\nafter") and "was there" not in text and "37 claims" in text
