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
