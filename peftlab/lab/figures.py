"""Figures for the lessons: each function takes data and returns a Figure; `show` puts it in a notebook with its alt text.

Colours are those of Okabe and Ito, told apart by people of any colour vision; markers repeat what colour says.
"""

import io

from matplotlib.figure import Figure

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


def show(fig: Figure, alt: str):
    """Display `fig` as a PNG; `alt` says in words what it shows and is stored beside the picture."""
    from IPython.display import display

    if not alt.strip():
        raise ValueError("a figure needs an alt text: say in a sentence what it shows")
    png = io.BytesIO()
    fig.savefig(png, format="png", dpi=96, bbox_inches="tight", metadata={"Software": None})
    display(
        {"image/png": png.getvalue(), "text/plain": f"Figure: {alt}"},
        raw=True,
        metadata={"image/png": {"alt": alt}},
    )
    fig.clear()


def table(values, rows, columns, title, label):
    """A heat map whose cells also hold their numbers: `values` is (len(rows), len(columns)), `label` names the numbers."""
    fig = Figure(figsize=(1.6 + 1.15 * len(columns), 1.2 + 0.42 * len(rows)), layout="constrained")
    axes = fig.subplots()
    image = axes.imshow(values, cmap="cividis", aspect="auto")
    middle = (float(values.min()) + float(values.max())) / 2
    for i in range(len(rows)):
        for j in range(len(columns)):
            value = float(values[i][j])
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="black" if value > middle else "white")
    axes.set_xticks(range(len(columns)), columns, rotation=20, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title)
    fig.colorbar(image, label=label)
    return fig


def three_products(d_in=4, d_out=6, tokens=3):
    """One linear layer in one training step as three products of matrices, drawn to shape (numbers, not data)."""
    x, g, W = ("x", tokens, d_in, 5), ("G", tokens, d_out, 1), ("W", d_out, d_in, 0)
    rows = [
        ("forward: the output", x, ("Wᵀ", d_in, d_out, 0), ("y", tokens, d_out, 5), "always"),
        ("backward: the gradient for x", g, W, ("∂x", tokens, d_in, 1), "needed if something before it learns"),
        ("backward: the gradient for W", ("Gᵀ", d_out, tokens, 1), x, ("∂W", d_out, d_in, 1), "needed if W learns"),
    ]
    fig = Figure(figsize=(8.2, 4.9), layout="constrained")
    axes = fig.subplots()
    for i, (what, left, right, result, when) in enumerate(rows):
        middle, at = -8.6 * i, 0.0
        axes.text(0, middle + 3.7, what, weight="bold")
        axes.text(24, middle, when, va="center")
        for (name, high, wide, colour), sign in zip((left, right, result), ("·", "=", "")):
            axes.add_patch(_box(at, middle, wide, high, PALETTE[colour]))
            axes.text(at + wide / 2, middle, name, ha="center", va="center", size=13)
            axes.text(at + wide + 1, middle, sign, ha="center", va="center", size=15)
            at += wide + 2
    axes.set(xlim=(-0.5, 44), ylim=(-20.5, 4.6), aspect="equal")
    axes.axis("off")
    return fig


def _box(left, middle, wide, high, colour):
    from matplotlib.patches import Rectangle

    return Rectangle((left, middle - high / 2), wide, high, facecolor=colour, alpha=0.3, edgecolor="black")


def stacked(budgets, title, unit=1e9, label="memory in GB (10⁹ bytes)"):
    """Stacked horizontal bars: `budgets` maps a row's name to {part: bytes}, the same parts in each row."""
    fig = Figure(figsize=(8.2, 1.4 + 0.42 * len(budgets)), layout="constrained")
    axes = fig.subplots()
    parts = list(next(iter(budgets.values())))
    at = [0.0] * len(budgets)
    for part, colour, hatch in zip(parts, PALETTE, ("", "///", "...", "xx", "++")):
        widths = [b[part] / unit for b in budgets.values()]
        axes.barh(list(budgets), widths, left=at, label=part, color=colour, hatch=hatch, edgecolor="white")
        at = [a + w for a, w in zip(at, widths)]
    for i, total in enumerate(at):
        axes.text(total, i, f" {total:.1f}", va="center")
    axes.set(xlabel=label, title=title, xlim=(0, max(at) * 1.08))
    axes.invert_yaxis()
    fig.legend(loc="outside lower center", ncols=len(parts), frameon=False)
    return fig


def curves(x, series, title, xlabel, ylabel, levels=(), band=None):
    """Lines with markers over a logarithmic x: `series` maps names to values, `levels` names to horizontal lines,
    `band` is (low, high, name), a shaded range of y."""
    fig = Figure(figsize=(8.2, 4.2), layout="constrained")
    axes = fig.subplots()
    if band:
        axes.axhspan(band[0], band[1], color="#888888", alpha=0.25, label=band[2])
    for (name, y), colour, marker in zip(series.items(), PALETTE, MARKERS):
        axes.plot(x, y, color=colour, marker=marker, label=name)
    for name, y in dict(levels).items():
        axes.axhline(y, color="black", linestyle=":", linewidth=1)
        axes.text(x[0], y, name, va="bottom", size=9)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xscale="log")
    axes.set_xticks(x, [f"{n:,}" for n in x], minor=False)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return fig
