"""docs/architectures.md: what guard.py finds of every method on every architecture.

`python -m pytest tests/world --whole-world --write-world-page` writes it. A run of a part, such as `-k "T5"`, writes that part anew
and keeps the rest of the page.
"""
import re
from importlib.metadata import version
from pathlib import Path

from architectures import ARCHITECTURES
from guard import COLUMNS

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
WIDE = 11                                                    # columns side by side
SAYS = {"held": "all that is asked holds", "refused": "refused, with a reason", "none": "no layer of the kind that the method goes on"}


def noted(found):
    """(word, reasons) of what guard.cell found; that a method is not in `peft` at all is said once, of its column."""
    parts = {k: v for k, v in found["refused"].items() if not (k == "peft" and v.startswith("`peft` ") and "itself" not in v)}
    return found["word"], [found["why"]] * bool(found["why"]) + [f"{what}: {why}" for what, why in parts.items()]


def read(text):
    """{(architecture, column): (word, reasons)} of a page."""
    reasons = dict(re.findall(r"^(\d+)\. (.+)$", text.partition("\n## Reasons\n")[2], re.MULTILINE))
    found, head = {}, []
    for line in text.splitlines():
        if not line.startswith("| "):
            continue
        name, *cells = (c.strip() for c in line[1:-1].split(" |"))
        if name == "architecture":
            head = cells
        elif name in ARCHITECTURES:
            for column, c in zip(head, cells, strict=True):
                word, *numbers = re.findall(r"\w+", c) or [""]
                found[name, column] = word, [reasons[n] for n in numbers]
    return found


def page(cells):
    numbers = {}
    def written(word, reasons):
        marks = " ".join(f"[{numbers.setdefault(' '.join(r.split()), len(numbers) + 1)}]" for r in reasons)
        return f"{word} {marks}".strip()
    names = list(COLUMNS)
    tables = []
    for i in range(0, len(names), WIDE):
        part = names[i:i + WIDE]
        tables += ["", "| architecture | " + " | ".join(part) + " |", "| --- |" + " --- |" * len(part)]
        tables += [f"| {a} | " + " | ".join(written(*cells.get((a, c), ("", []))) for c in part) + " |" for a in ARCHITECTURES]
    unpadded = ", ".join(a.name for a in ARCHITECTURES.values() if not a.mask)
    apart = [f"{c.name}: {c.not_in_peft}" for c in COLUMNS.values() if c.config is None]
    return "\n".join([
        "# Methods on architectures", "",
        ("Made by `python -m pytest tests/world --whole-world --write-world-page`: every method on a tiny random model of every "
        f"architecture, built with `transformers` {version('transformers')} and compared with `peft` {version('peft')}."), "",
        *[f"- *{word}*: {what}." for word, what in SAYS.items()], "",
        ("Asked is that the output moves once the adapter is perturbed; that a gradient arrives at every trained parameter; that a "
        f"padded row equals the row alone (nothing is padded in {unpadded}); that a row of a mixed batch equals the row with its "
        "adapter; that the adapter saved and loaded answers the same, here and in `peft`, and `peft`'s file here; that `detach` gives "
        "the base back bit for bit. A number leads to a reason below: why it is refused, or which of these is, where the rest holds. "
        "Methods go on the first and the last kind of linear layer in the blocks, if they are not made for something else."), "",
        "Not compared with `peft`: " + "; ".join(apart) + ".",
        *tables, "", "## Reasons", "",
        *[f"{n}. {r}" for r, n in numbers.items()],
    ]) + "\n"


def blanks(cells):
    """The cells of a page that say nothing, or something that must not be."""
    return [key for key in ((a, c) for a in ARCHITECTURES for c in COLUMNS)
            if cells.get(key, ("", []))[0] not in SAYS or (cells[key][0] != "held" and not cells[key][1])]
