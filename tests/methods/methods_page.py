"""docs/methods.md, made of the classes and of what the ladder found.

`python -m pytest tests/methods --write-methods-page` writes it.
"""

import re
from importlib.metadata import version
from math import isnan
from pathlib import Path

from specs import ARCHITECTURES, CHECKS, SPECS

from peftlab.lab import catalogue, records

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
NOT_SO = re.compile(r"refuse|does_not")  # a test that says what a method cannot do


def found_on(results, spec, number):
    """{(test, architecture): (outcome, difference)} of one rung."""
    return {
        (test, case.rpartition("-")[2]): result
        for (test, case), result in results.items()
        if test.split("_")[1] == str(number) and re.sub(r"^\d-", "", case.rpartition("-")[0]) == spec.name
    }


def cell(results, spec, number):
    """What the ladder found on one rung: the largest difference, "yes" where it was exact, "-" where it cannot be."""
    found = found_on(results, spec, number)
    if any(outcome == "failed" for outcome, _ in found.values()):
        return "**failed**"
    found = {key: result for key, result in found.items() if not NOT_SO.search(key[0])}
    if not found:
        return "-"
    differences = [d for _, d in found.values() if d is not None]
    return f"{max(differences):.0e}" if differences else "yes"


def can(results, spec, number):
    """ "yes", "no", or on which architectures."""
    where = {arch for test, arch in found_on(results, spec, number) if not NOT_SO.search(test)}
    if where == set(spec.targets):
        return "yes"
    return " and ".join(f"on {arch}" for arch in spec.targets if arch in where) or "no"


def reasons(spec):
    """{sentence: the rungs that it is about} of all that does not apply to a method."""
    found = {}
    for check, why in spec.no.items():
        check, where = (check, "") if isinstance(check, str) else (check[0], f" on {check[1]}")
        rungs = CHECKS[check]
        found.setdefault(why, []).append(f"rung{'s' * (len(rungs) > 1)} {' and '.join(map(str, rungs))}{where}")
    if spec.elsewhere:
        found[spec.elsewhere] = ["all rungs on " + " and ".join(a for a in ARCHITECTURES if a not in spec.targets)]
    return found


def blanks(text):
    """What the page's table of rungs leaves open: cells that say nothing, and dashes that no sentence below explains."""
    table, _, below = text.partition("\n## How equal they are\n")[2].partition("\n## Why a rung does not apply\n")
    said = {
        (name, number)
        for name, about in re.findall(r"^- (.+?): ((?:all )?rungs? [^:]+): \S", below, re.MULTILINE)
        for part in about.split("; ")
        if " on " not in part
        for number in re.findall(r"\d+", part)
    }
    head, _, *rows = [[c.strip() for c in line[1:-1].split("|")] for line in table.splitlines() if line.startswith("|")]
    return [
        (row[0], number)
        for row in rows
        for number, c in zip(head[1:], row[1:], strict=True)
        if not re.fullmatch(r"\d+e[-+]\d+|yes|-", c) or (c == "-" and (row[0], number) not in said)
    ]


def sentence(test):
    return test.split("_", 2)[2].replace("_", " ")


def page(results):
    numbers = sorted({int(test.split("_")[1]) for test, _ in results})
    out = [
        "# The methods",
        "",
        (
            "Made by `python -m pytest tests/methods --write-methods-page` from the classes in "
            "[`peftlab/methods`](../peftlab/methods) and the results of the tests; a test fails when it is out of date. "
            "Lines are lines of code, without comments and docstrings: of the file here, and of the method's folder in "
            f"`peft` {version('peft')}, where there is one. Merged, start: what the tests found, not what was said."
        ),
        "",
        "| method | equation | acts | trains | paper | merges | starts as the base | lines here | in `peft` |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, method in catalogue.every().items():
        spec = next(s for s in SPECS if s.method is method)
        start = [can(results, spec, n) for n in (4, 9)]
        there = catalogue.lines_in_peft(method)
        links = ", ".join(f"[{i}](https://arxiv.org/abs/{i})" for i in catalogue.papers(method))
        file = method.__module__.split(".")[-1] + ".py"
        source = f"../peftlab/methods/{file}" if "methods" in method.__module__ else f"../peftlab/{file}"
        row = [
            f"[{name}]({source})",
            f"`{catalogue.equation(method)}`".replace("|", "\\|"),
            catalogue.place(method),
            catalogue.parameters(method),
            links,
            *start,
            str(catalogue.lines_here(method)),
            f"{there[0]:,} ({there[1]})" if there else "-",
        ]
        out.append("| " + " | ".join(row) + " |")
    out += [
        "",
        "## How equal they are",
        "",
        (
            "Each method on tiny models of Llama's, GPT-2's and BERT's shape. A number is the largest difference seen on any "
            "of them, as a share of the largest number compared; *yes* means that the test passed and wants equality to the "
            "bit or measures nothing; a dash that it does not apply, for a reason given below. What holds on other kinds of models, and "
            "what is refused there, stands in [architectures.md](architectures.md). Compiled is each on one of the three, in turn; on "
            "all of them with `PEFTLAB_WHOLE_LADDER=1` set."
        ),
        "",
    ]
    for n in numbers:
        tests = sorted({test for test, _ in results if test.split("_")[1] == str(n)})
        out.append(f"{n}. " + "; ".join(sentence(t) for t in tests))
    out += ["", "| method | " + " | ".join(map(str, numbers)) + " |", "| --- |" + " --- |" * len(numbers)]
    out += [f"| {s.name} | " + " | ".join(cell(results, s, n) for n in numbers) + " |" for s in SPECS]
    out += ["", "## Why a rung does not apply", ""]
    for spec in SPECS:
        out += [f"- {spec.name}: {'; '.join(about)}: {why}" for why, about in reasons(spec).items()]
    return "\n".join([*out, *speed()]) + "\n"


def speed():
    """The section on what a step costs, from the recorded runs."""
    runs = records.load("speed-vs-peft")
    measures = ["step", "generated_token", "bytes_saved", "multiplications"]
    table = runs.pivot(index="method", columns="base", values=measures).dropna(axis=1, how="all").loc[runs["method"].unique()]
    heads = [f"{measure.replace('_', ' ')}, {base}" for measure, base in table.columns]
    out = [
        "",
        "## What a step costs, ours over `peft`'s",
        "",
        (
            "Both in one process and in turn, 4 texts of 64 tokens; below 1.00 ours costs less, and a method that was not compared on a model "
            "has a dash there. Times are medians of ratios, and differ from run to run by some hundredths; bytes kept for the backward pass "
            "and multiplications do not. `python3 tasks.py bench` measures it anew. "
            f"{records.stamp(runs)}."
        ),
        "",
        "| method | " + " | ".join(heads) + " |",
        "| --- |" + " --- |" * len(heads),
    ]
    summary = {"*median*": table.median(), "*largest*": table.max()}
    for name, row in [*table.iterrows(), *summary.items()]:
        out.append(f"| {name} | " + " | ".join("-" if isnan(value) else f"{value:.2f}" for value in row) + " |")
    slower = [name for name, most in table["step"].max(axis=1).items() if most > 1.10]
    more = [name for name, most in table["bytes_saved"].max(axis=1).items() if most > 1.005]
    return [
        *out,
        "",
        f"A training step longer than 1.10 times `peft`'s: {', '.join(slower) or 'none'}. More bytes kept: {', '.join(more) or 'none'}.",
    ]


def comparable(text):
    """The page without what may differ from machine to machine: rounding, and another release's lines."""
    text = re.sub(r"(?<=\| )\d+e[-+]\d+(?= \|)", "#", text)
    return re.sub(r"[\d,]+ (?=\([a-z0-9_]+\) \|$)|`peft` [\d.]+", "#", text, flags=re.MULTILINE)
