"""What the adviser answers with: methods measured side by side, the runs behind each, and what is not recorded."""

import textwrap
from dataclasses import dataclass, field
from html import escape

MARGIN = 0.05  # what is behind the best by no more than this, with its whole interval, is as good for a choice
STYLE = "text-align:left;white-space:nowrap;padding:0.2em 0.8em 0.2em 0"
WIDTH = 110  # letters in a line of text
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def size(number):
    """1234567 -> "1.23 MB", in powers of ten; None -> "unknown"."""
    if number is None:
        return "unknown"
    unit, name = next((u, n) for u, n in UNITS if number >= 0.9995 * u or u == 1)
    return f"{number / unit:.3g} {name}"


@dataclass(frozen=True)
class Answer:
    """A method as it was measured: shares from 0 to 1, each a mean over the seeds with half of its 95 % interval.

    lost: what the base could do before less what it can do with the adapter on; lost_off: the same with it off (None where that
    was not recorded). memory: bytes of gradients, AdamW's states and kept activations. file: bytes of what is saved; keep: of as
    many files as there are tasks. keys: the runs these numbers rest on; compared: all runs that its learning rate was chosen from.
    behind: the best method's quality less this one's, mean and half interval over the seeds that both have; None where that is one.
    """

    method: str
    quality: tuple
    lost: tuple | None
    lost_off: float | None
    trainable: int | None
    memory: int | None
    file: int | None
    keep: int | None
    rates: tuple
    at_edge: bool
    seeds: tuple
    keys: tuple
    compared: tuple
    behind: tuple | None = None

    @property
    def tied(self):
        """Cannot be told from the best: the interval of the difference holds zero, or there is none."""
        return self.behind is None or abs(self.behind[0]) <= self.behind[1]

    @property
    def near(self):
        """Is near the best for certain: the whole interval of the difference is under MARGIN."""
        return self.behind is not None and sum(self.behind) <= MARGIN


@dataclass(frozen=True)
class Finding:
    """Methods measured in one situation, the best first. `what` says which situation, `stamp` from which runs.

    steps: of training; majority: accuracy of the commoner label alone; too_large: {method: bytes} of what the memory leaves out.
    """

    experiment: str
    base: str
    what: str
    measure: str
    loses: str | None
    answers: tuple
    stamp: str
    sentences: int | None = None
    steps: int | None = None
    majority: float | None = None
    too_large: dict = field(default_factory=dict)

    @property
    def best(self):
        """The method with the highest mean."""
        return self.answers[0].method

    @property
    def choice(self):
        """Of the best and those surely near it, the method that trains fewest parameters; the best where none are counted."""
        near = [a for a in self.answers if a.near]
        return min(near, key=lambda a: a.trainable).method if near and all(a.trainable for a in near) else self.best

    def sentence(self):
        """What the runs say, in a sentence or two."""
        told = (
            f"{self.best} did best of {len(self.answers)}"
            if len(self.answers) > 1
            else f"{self.best} is the only one that fits"
        )
        if tied := [a.method for a in self.answers[1:] if a.tied]:
            told += f"; {', '.join(tied)} cannot be told from it"
        if near := [a.method for a in self.answers[1:] if a.near]:
            told += f". No more than {MARGIN:g} behind it, with the whole interval: {', '.join(near)}"
            if self.choice != self.best:
                told += f"; {self.choice} trains fewest parameters"
        if self.too_large:
            told += f". Left out, for they need more memory: {', '.join(f'{m} ({size(n)})' for m, n in self.too_large.items())}"
        return told + "."

    @property
    def source(self):
        """Base, experiment and steps, and what a guess would reach, in brackets behind `what`."""
        steps = f"; {self.steps} steps" if self.steps else ""
        majority = f"; majority-class baseline {self.majority:.3f}" if self.majority else ""
        return f"{self.base}; {self.experiment}{steps}{majority}"


HEADS = (
    "method",
    "quality",
    "behind",
    "lost, on",
    "lost, off",
    "trainable",
    "memory",
    "file",
    "to keep",
    "rate",
    "seeds",
    "runs",
)


def cells(answer):
    """One answer as the words of a table's row, in the order of HEADS."""
    rates = ", ".join(f"{r:g}" for r in answer.rates) + (" (edge)" if answer.at_edge else "")
    runs = answer.keys[0] + (f" + {len(answer.keys) - 1}" if len(answer.keys) > 1 else "")
    return (
        f"{answer.method}{' *' if answer.tied else ''}",
        "{:.3f} ± {:.3f}".format(*answer.quality),
        "" if answer.behind is None else "{:.3f} ± {:.3f}".format(*answer.behind),
        "unknown" if answer.lost is None else "{:+.3f} ± {:.3f}".format(*answer.lost),
        ("no off" if answer.method == "full" else "unknown") if answer.lost_off is None else f"{answer.lost_off:+.3f}",
        "unknown" if answer.trainable is None else f"{answer.trainable:,}",
        size(answer.memory),
        size(answer.file),
        "" if answer.keep is None else size(answer.keep),
        rates,
        f"{len(answer.seeds)}",
        runs,
    )


def shown(finding):
    """(heads, rows) of a finding's table, without the columns that hold nothing in any row."""
    rows = [cells(a) for a in finding.answers]
    full = [i for i in range(len(HEADS)) if any(row[i] not in ("", "unknown", "no off") for row in rows)]
    return [HEADS[i] for i in full], [[row[i] for i in full] for row in rows]


def _wrapped(text, first, rest=None):
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=first if rest is None else rest)


@dataclass(frozen=True)
class Advice:
    """The answer to a question: `findings` with the runs behind them, what was `assumed`, and what is `missing` from the records."""

    question: dict
    findings: tuple
    assumed: tuple
    missing: tuple

    @property
    def recorded(self):
        return bool(self.findings)

    @property
    def keys(self):
        """The keys of all runs that the answers rest on."""
        return {key for f in self.findings for a in f.answers for key in a.keys}

    @property
    def choices(self):
        """{situation: the method of fewest parameters that is surely near the best there}."""
        return {f.what: f.choice for f in self.findings}

    def frame(self):
        """All answers as a pandas frame, a row for each."""
        import pandas

        rows = []
        for f in self.findings:
            for a in f.answers:
                place = {"experiment": f.experiment, "base": f.base, "what": f.what, "sentences": f.sentences}
                rows.append(place | vars(a) | {"quality": a.quality[0], "half": a.quality[1]})
        return pandas.DataFrame(rows)

    def _asked(self):
        asked = {k: v for k, v in self.question.items() if v is not None}
        if "memory" in asked:
            asked["memory"] = size(asked["memory"])
        return ", ".join(f"{k} {v}" for k, v in asked.items()) or "nothing in particular"

    def _head(self):
        return f"Asked: {self._asked()}." + (
            "" if self.recorded else " Not recorded: no run in the records is near this."
        )

    def _short(self):
        """The choices in a sentence, where there are several situations to read about."""
        told = "; ".join(f"{choice} ({what})" for what, choice in self.choices.items())
        return f"In short, fewest parameters and surely near the best: {told}." if len(self.findings) > 1 else ""

    def __str__(self):
        lines = [self._head(), *_wrapped(self._short(), "")]
        for f in self.findings:
            heads, rows = shown(f)
            keys = "; ".join(f"{a.method} {row.pop()}" for a, row in zip(f.answers, rows))  # under the table: it is wide enough
            wide = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(rows[0]))]
            lines += ["", *_wrapped(f"{f.what} ({f.source})", ""), f"  quality: {f.measure}"]
            lines += [f"  lost: {f.loses}"] if f.loses else []
            lines += ["  " + "  ".join(c.ljust(w) for c, w in zip(row, wide)).rstrip() for row in [heads, *rows]]
            lines += _wrapped(f.sentence(), "  ") + _wrapped(f"{heads[-1]}: {keys}. {f.stamp}", "  ")
        for title, said in (("Assumed", self.assumed), ("Not recorded", self.missing)):
            lines += (
                ["", f"{title}:", *(part for line in said for part in _wrapped(f"- {line}", "", "  "))] if said else []
            )
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self):
        out = f"<p role='status' aria-live='polite'>{escape(self._head())}</p>"
        out += f"<p>{escape(self._short())}</p>" if self._short() else ""
        for f in self.findings:
            heads, rows = shown(f)
            top = "".join(f"<th scope='col' style='{STYLE}'>{escape(h)}</th>" for h in heads)
            body = ""
            for answer, row in zip(f.answers, rows):
                *middle, runs = [escape(c) for c in row[1:]]
                others = "".join(f"<td style='{STYLE}'>{c}</td>" for c in middle)
                others += f"<td style='{STYLE}' title='{escape(' '.join(answer.keys))}'>{runs}</td>"
                body += f"<tr><th scope='row' style='{STYLE}'>{escape(row[0])}</th>{others}</tr>"
            out += (
                f"<h4>{escape(f.what)} ({escape(f.source)})</h4>"
                f"<p>Quality: {escape(f.measure)}.{escape(f' Lost: {f.loses}.' if f.loses else '')}</p>"
                f"<div style='overflow-x:auto'><table><tr>{top}</tr>{body}</table></div>"
                f"<p>{escape(f.sentence())}<br><small>{escape(f.stamp)}</small></p>"
            )
        for title, said in (("Assumed", self.assumed), ("Not recorded", self.missing)):
            if said:
                out += f"<p>{title}:</p><ul>{''.join(f'<li>{escape(line)}</li>' for line in said)}</ul>"
        return f"<div>{out}</div>"
