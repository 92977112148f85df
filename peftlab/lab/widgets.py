"""Widgets for the lessons: a slider that redraws by setting a value, and pictures made of HTML that are quick to redraw."""

from functools import cache
from html import escape

from peftlab.lab.adviser import SITUATIONS, advise
from peftlab.lab.figures import PALETTE, colour_limit


def explore(draw, **choices):
    """Sliders above a picture: `draw(**values)` gives HTML and is called again whenever a slider moves.

    choices: name -> the values to choose from, the one to begin with first in a pair: `batch=(8, [1, 2, 4, 8])`.
    Each slider is reached with Tab and moved with the arrow keys.
    """
    import ipywidgets as widgets

    sliders = {
        name: widgets.SelectionSlider(
            options=values,
            value=start,
            description=name.replace("_", " "),
            continuous_update=True,
            style={"description_width": "9em"},
            layout={"width": "36em"},
        )
        for name, (start, values) in choices.items()
    }
    picture = widgets.HTML(draw(**{name: s.value for name, s in sliders.items()}))

    def redraw(_):
        picture.value = draw(**{name: s.value for name, s in sliders.items()})

    for slider in sliders.values():
        slider.observe(redraw, "value")
    return Explorer(widgets.VBox([*sliders.values(), picture]), sliders, picture)


class Explorer:
    """What `explore` shows, with its parts: `sliders` by name and `picture`. `still`: HTML for readers without a kernel."""

    def __init__(self, box, sliders, picture, still=""):
        self.box, self.sliders, self.picture, self.still = box, sliders, picture, still

    def __repr__(self):
        return f"Sliders for {', '.join(self.sliders)}: move them in the running notebook."

    def _repr_mimebundle_(self, **kwargs):
        still = {"text/html": self.still} if self.still else {}
        return self.box._repr_mimebundle_(**kwargs) | {"text/plain": repr(self)} | still


def adviser(**more):
    """Four sliders, a question to `advise`; below them its answer from the records. more: `folder`, as `advise` takes it."""
    offered = {
        "memory": {"any": None} | {f"{n} MB": n * 10**6 for n in (1, 50, 80, 500)} | {"80 GB": 80 * 10**9},
        "distance": {"any": None} | {name: name for name in (*SITUATIONS, "another script")},
        "tasks": {"one": 1} | {str(n): n for n in (2, 3, 100)},
        "examples": {"any": None} | {str(n): n for n in (32, 256, 2048, 100_000)},
    }

    @cache
    def draw(**asked):
        question = {name: offered[name][label] for name, label in asked.items()}
        return advise(**question, **more)._repr_html_()

    start = {name: next(iter(of)) for name, of in offered.items()} | {"distance": "related"}
    return explore(draw, **{name: (start[name], list(of)) for name, of in offered.items()})


def bars(budgets, unit=1e9, name="GB", widest=None):
    """Stacked bars as HTML: `budgets` maps a row's name to {part: bytes}; below them, the same numbers as a table.

    widest: the number of bytes that fills the width, so that bars can be compared from one drawing to the next.
    """
    parts = list(next(iter(budgets.values())))
    widest = widest or max(sum(b.values()) for b in budgets.values())
    drawn, table = "", ""
    for row, budget in budgets.items():
        pieces = "".join(
            f"<div title='{escape(part)}' style='width:{100 * budget[part] / widest:.2f}%;background:{colour};"
            "border-right:1px solid white;box-sizing:border-box'></div>"
            for part, colour in zip(parts, PALETTE)
        )
        drawn += f"<div>{escape(row)}</div><div aria-hidden='true' style='display:flex;height:1.6em'>{pieces}</div>"
        numbers = "".join(f"<td style='text-align:right'>{budget[part] / unit:.2f}</td>" for part in parts)
        total = f"<td style='text-align:right'><b>{sum(budget.values()) / unit:.2f}</b></td>"
        table += f"<tr><th style='text-align:left;white-space:nowrap'>{escape(row)}</th>{numbers}{total}</tr>"
    heads = "".join(
        f"<th><span aria-hidden='true' style='color:{colour}'>■</span> {escape(part)}</th>"
        for part, colour in zip(parts, PALETTE)
    )
    return (
        f"<div style='max-width:46em'>{drawn}<table aria-live='polite'><tr><th>{name}</th>{heads}<th>together</th></tr>"
        f"{table}</table></div>"
    )


def growing_update(updates, weight, r):
    """Two sliders, the training step and the number of ranks kept, above a picture of the update to one weight.

    updates: step -> the update at that step, (d_out, d_in), of rank r at most; weight: the frozen weight they are added to.
    """
    import torch

    factors = {step: torch.linalg.svd(u, full_matrices=False) for step, u in updates.items()}
    limit, last, size = colour_limit(updates.values()), list(updates)[-1], float(weight.norm())

    def draw(step, ranks_kept):
        U, S, Vh = factors[step]
        kept = (U[:, :ranks_kept] * S[:ranks_kept]) @ Vh[:ranks_kept]
        share = float(S[:ranks_kept].square().sum() / S.square().sum()) if S.any() else 1.0
        told = (
            f"Step {step}, {ranks_kept} of {r} ranks: the Frobenius norm of this update is {kept.norm():.2f}, "
            f"{kept.norm() / size:.0%} of the frozen weight's; it has {share:.1%} of the squared norm of the whole update by then."
        )
        return f"<p role='status' aria-live='polite'>{told}</p>{heat_map(kept.numpy(), limit, told)}"

    return explore(draw, step=(last, list(updates)), ranks_kept=(r, list(range(1, r + 1))))


def ranks_kept(originals, kept):
    """Two sliders, which matrix and how many ranks of it, above a picture of its truncated SVD.

    originals: name -> matrix (d_out, d_in), each about zero on average; a name that begins with "photo" is drawn in grey.
    kept: name -> {number of ranks: the best matrix of that rank}.
    """
    first = next(iter(originals))
    counts = list(kept[first])

    def draw(matrix, ranks):
        whole, part = originals[matrix], kept[matrix][ranks]
        high, wide = whole.shape
        held = 1 - float((whole - part).square().sum() / whole.square().sum())
        told = (
            f"{matrix.capitalize()}, {ranks} of {min(high, wide)} ranks: explained variance {held:.1%}, from "
            f"{ranks * (high + wide):,} parameters; the matrix itself has {high * wide:,}."
        )
        if matrix.startswith("photo"):
            picture = heat_map(part.numpy(), float(whole.abs().max()), told, colours="gray")
        else:
            picture = heat_map(part.numpy(), colour_limit([whole]), told)
        return f"<p role='status' aria-live='polite'>{told}</p>{picture}"

    return explore(draw, matrix=(first, list(originals)), ranks=(counts[0], counts))


def heat_map(matrix, limit, alt, side=384, colours="PuOr"):
    """A matrix of numbers between -limit and limit as an `<img>`, orange below zero and purple above: a millisecond's work."""
    import base64
    import io

    import numpy as np
    from matplotlib import colormaps
    from PIL import Image

    palette = (colormaps[colours](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
    picture = Image.fromarray(palette[np.clip((matrix / limit + 1) * 127.5, 0, 255).astype(int)])
    high, wide = matrix.shape
    scale = max(1, side // max(high, wide))
    png = io.BytesIO()
    picture.resize((wide * scale, high * scale), Image.Resampling.NEAREST).save(png, "PNG", compress_level=1)
    data = base64.b64encode(png.getvalue()).decode()
    return f"<img alt='{escape(alt)}' src='data:image/png;base64,{data}'>"


def recorded_runs(runs, names, ranks, start):
    """Sliders for domain, method, rank, learning rate and number of sentences, above what was recorded for that choice.

    runs: a frame of recorded runs with the columns domain, method, lr, sentences, seed, validation, test, retrieval,
    retrieval_before and trainable. names: method -> label. ranks: rank -> method, for the method whose rank can be chosen.
    start: {"domain": ..., "method": a label, "rank": ..., "learning_rate": ..., "sentences": ...}. What nobody ran is *not
    recorded*. Without a kernel the first choice stays to be seen.
    """
    from peftlab.lab.sweeps import T95, interval

    columns = ["validation", "test", "retrieval", "retrieval_before", "trainable"]
    found = {}
    for (*where, lr), rows in runs.groupby(["domain", "method", "sentences", "lr"]):
        means = rows[columns].mean()
        half = interval(rows["test"])[1] if len(rows) in T95 else None
        found.setdefault(tuple(where), {})[float(lr)] = (len(rows), half, means)
    keys, with_rank = {label: key for key, label in names.items()}, names[ranks[start["rank"]]]

    def draw(domain, method, rank, learning_rate, sentences):
        asked = ranks.get(rank, "none") if method == with_rank else keys[method]
        rates, label = found.get((domain, asked, sentences), {}), f"{method}, rank {rank}" if method == with_rank else method
        told = f"{domain}, {label}, learning rate {learning_rate:g}, {sentences} sentences: "
        if learning_rate in rates:
            seeds, half, mean = rates[learning_rate]
            told += (
                f"test accuracy {mean['test']:.1%} {'' if half is None else f'± {half:.1%} '}({seeds} seed{'s' * (seeds > 1)}), "
                f"validation {mean['validation']:.1%}; {mean['trainable']:,.0f} trainable parameters; "
                f"retrieval {mean['retrieval']:.1%} with it on, {mean['retrieval_before']:.1%} before."
            )
        else:
            told += "not recorded."
        return f"<p role='status' aria-live='polite'>{escape(told)}</p>{_at_each_rate(rates, learning_rate)}"

    choices = {
        "domain": sorted(runs["domain"].unique()),
        "method": list(keys),
        "rank": list(ranks),
        "learning_rate": sorted({float(lr) for lr in runs["lr"]}),
        "sentences": sorted(int(n) for n in runs["sentences"].unique()),
    }
    shown = explore(draw, **{name: (start[name], values) for name, values in choices.items()})
    shown.still = shown.picture.value.replace(" role='status' aria-live='polite'", "")
    return shown


def _at_each_rate(rates, chosen):
    """One bar for each learning rate that was run: the mean test accuracy, from a half to one."""
    if not rates:
        return "<p>With this method, rank, domain and number of sentences together nothing was run: not recorded.</p>"
    best = max(sorted(rates), key=lambda lr: rates[lr][2]["validation"])
    rows = ""
    for lr, (_, half, mean) in sorted(rates.items()):
        wide, colour = 100 * max(0, 2 * mean["test"] - 1), PALETTE[1] if lr == chosen else PALETTE[0]
        bar = f"<div aria-hidden='true' style='width:{wide:.1f}%;background:{colour};height:1.1em'></div>"
        mark = " chosen on validation" * (lr == best) + " ◀" * (lr == chosen)
        spread = "" if half is None else f" ± {half:.1%}"
        rows += (
            f"<tr><th style='text-align:right'>{lr:g}</th><td style='width:18em'>{bar}</td>"
            f"<td style='text-align:left;white-space:nowrap'>{mean['test']:.1%}{spread}{mark}</td></tr>"
        )
    return f"<table><tr><th>rate</th><th>50 % to 100 %</th><th style='text-align:left'>test accuracy</th></tr>{rows}</table>"
