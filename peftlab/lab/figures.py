"""Figures for the lessons: each function takes data and returns a Figure; `show` puts it in a notebook with its alt text.

Colours are those of Okabe and Ito, told apart by people of any colour vision; markers repeat what colour says.
"""

import io

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

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


def weight_of_a_label(counts):
    """What each label weighs in the average of the ranks' means: a bar for each, `counts` of them on the ranks."""
    fig = Figure(figsize=(8.2, 3.2), layout="constrained")
    axes = fig.subplots()
    at = 0
    for rank, (n, colour, hatch) in enumerate(zip(counts, PALETTE, ("", "///", "...", "xx"))):
        axes.bar(range(at, at + n), 1 / len(counts) / n, color=colour, hatch=hatch, edgecolor="white", label=f"rank {rank}, {n} labels")
        at += n
    axes.axhline(1 / sum(counts), color="black", linestyle=":", label="in one mean over all labels")
    axes.set(title="What one label weighs in the average of means", xlabel="labels", ylabel="weight", xlim=(-1, at))
    axes.legend(frameon=False)
    return fig


def curves(x, series, title, xlabel, ylabel, levels=(), band=None, yscale="linear"):
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
    if yscale == "linear":
        axes.set_ylim(bottom=0)
    else:
        axes.set_yscale(yscale)
        axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False)
    return fig


def low_rank(d_in=9, d_out=6, r=2):
    """LoRA's equation as boxes drawn to shape: y = W x + (alpha / r) B A x (numbers, not data)."""
    fig = Figure(figsize=(8.2, 2.9), layout="constrained")
    axes = fig.subplots()
    pieces = [("y", d_out, 1, 5, ""), "=", ("W", d_out, d_in, 6, "frozen\nd_out × d_in"), ("x", d_in, 1, 5, ""), "+  α/r",
              ("B", d_out, r, 1, "trained\nd_out × r"), ("A", r, d_in, 2, "trained\nr × d_in"), ("x", d_in, 1, 5, "")]  # fmt: skip
    at = 0.0
    for piece in pieces:
        if isinstance(piece, str):
            wide = 1.2 + 0.6 * len(piece)
            axes.text(at + wide / 2, 0, piece, ha="center", va="center", size=14)
        else:
            name, high, wide, colour, below = piece
            box = _box(at, 0, wide, high, PALETTE[colour])
            box.set_hatch("//" if name == "W" else "")
            axes.add_patch(box)
            patch = {"facecolor": "white", "edgecolor": "none", "pad": 2} if name == "W" else None
            axes.text(at + wide / 2, 0, name, ha="center", va="center", size=14, bbox=patch)
            axes.text(at + wide / 2, -d_in / 2 - 0.6, below, ha="center", va="top")
        at += wide + 0.7
    axes.set(xlim=(-0.5, at), ylim=(-d_in / 2 - 2.6, d_in / 2 + 0.4), aspect="equal")
    axes.axis("off")
    return fig


def sum_of_loras(ranks=(2, 3), d_in=9, d_out=6):
    """Two LoRAs as one: their B side by side, their A under each other, drawn to shape (numbers, not data)."""
    fig = Figure(figsize=(8.2, 2.6), layout="constrained")
    axes = fig.subplots()

    def box(left, low, wide, high, name, colour):
        patch = _box(left, low + high / 2, wide, high, PALETTE[colour])
        patch.set_alpha(0.4)
        axes.add_patch(patch)
        axes.text(left + wide / 2, low + high / 2, name, ha="center", va="center", size=12)

    def sign(at, text):
        axes.text(at, d_out / 2, text, ha="center", va="center", size=15)

    at = 0.0
    for i, r in enumerate(ranks, 1):
        box(at, 0, r, d_out, f"B{'₁₂'[i - 1]}", i - 1)
        box(at + r + 0.5, (d_out - r) / 2, d_in, r, f"A{'₁₂'[i - 1]}", i - 1)
        sign(at + r + d_in + 1.2, "+" if i == 1 else "=")
        at += r + d_in + 2
    box(at, 0, ranks[0], d_out, "B₁", 0)
    box(at + ranks[0], 0, ranks[1], d_out, "B₂", 1)
    at += sum(ranks) + 0.5
    low = (d_out - sum(ranks)) / 2
    box(at, low + ranks[1], d_in, ranks[0], "A₁", 0)
    box(at, low, d_in, ranks[1], "A₂", 1)
    axes.set(xlim=(-0.5, at + d_in + 0.5), ylim=(-0.6, d_out + 0.6), aspect="equal")
    axes.axis("off")
    return fig


def lines(x, series, title, xlabel, ylabel, marks=8, points=()):
    """Lines over a plain x: `series` maps names to values; about `marks` markers on each line.

    points: the names of those that are drawn as open markers without a line, so that a line they lie on can be seen.
    """
    fig = Figure(figsize=(8.2, 3.6), layout="constrained")
    axes = fig.subplots()
    every = max(1, len(x) // marks)
    for i, (name, y) in enumerate(series.items()):
        if name in points:
            axes.plot(x, y, color=PALETTE[i], marker=MARKERS[i], markersize=10, linestyle="none", fillstyle="none", label=name)
            continue
        offset = i * every // max(1, len(series))            # markers of two lines that coincide stand side by side
        axes.plot(x, y, color=PALETTE[i], marker=MARKERS[i], markevery=(offset, every), label=name)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, ylim=(0, None), xlim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=all(float(one).is_integer() for one in x))
    if len(series) > 1:
        fig.legend(loc="outside right center", frameon=False)
    return fig


def lost_in_merge(sizes, lost, yours=()):
    """What a merge loses against the update's size: `lost` maps a precision to the shares lost, one per size;
    `yours` maps a name to (size, share lost) of an update that was trained. Both axes are logarithmic."""
    fig = Figure(figsize=(8.2, 4.0), layout="constrained")
    axes = fig.subplots()
    for i, (name, shares) in enumerate(lost.items()):
        axes.loglog(sizes, shares, color=PALETTE[i], marker=MARKERS[i], label=name)
    for i, (name, (size, share)) in enumerate(dict(yours).items(), len(lost)):
        axes.plot(size, share, color=PALETTE[i], marker=MARKERS[i], markersize=12, linestyle="none", label=name)
    axes.axhline(1, color="black", linestyle=":", linewidth=1)
    axes.set(
        title="What rounding takes from an update when it is merged",
        xlabel="norm of the update / norm of the weight",
        ylabel="norm of what is lost / norm of the update",
    )
    fig.legend(loc="outside right center", frameon=False)
    return fig


def growth(updates, title):
    """Snapshots of one matrix during training, on one colour scale: `updates` maps a step to a (d_out, d_in) tensor."""
    fig = Figure(figsize=(8.2, 2.4), layout="constrained")
    panels = fig.subplots(1, len(updates), sharey=True)
    limit = colour_limit(updates.values())
    for axes, (step, update) in zip(panels, updates.items()):
        image = axes.imshow(update.numpy(), cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set(title=f"step {step}", xlabel="inputs", xticks=[], yticks=[])
    panels[0].set_ylabel("outputs")
    fig.colorbar(image, ax=panels, label="change of one weight", extend="both")
    fig.suptitle(title)
    return fig


def matrices(panels, title, label="entry of the matrix"):
    """Small heat maps side by side on one colour scale: `panels` maps a name to a (d_out, d_in) tensor."""
    fig = Figure(figsize=(8.2, 1.6), layout="constrained")
    limit = colour_limit(panels.values())
    for axes, (name, matrix) in zip(fig.subplots(1, len(panels)), panels.items()):
        image = axes.imshow(matrix.numpy(), cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set(title=name, xticks=[], yticks=[])
    fig.colorbar(image, ax=fig.axes, label=label, extend="both")
    fig.suptitle(title)
    return fig


def photographs(panels, title):
    """Grey pictures side by side, each from its darkest to its brightest number: `panels` maps a name to a matrix."""
    fig = Figure(figsize=(8.2, 2.5), layout="constrained")
    for axes, (name, matrix) in zip(fig.subplots(1, len(panels)), panels.items()):
        axes.imshow(matrix.numpy(), cmap="gray", interpolation="nearest")
        axes.set_title(name, size=10)
        axes.set(xticks=[], yticks=[])
    fig.suptitle(title)
    return fig


def colour_limit(matrices):
    """Where the colours of several matrices on one scale end: three times the spread of the widest, so that few lie beyond."""
    return 3 * max(float(m.std()) for m in matrices) or 1.0


def small_vectors():
    """Where (IA)3, BitFit and a norm put their trained vectors in y = l * (W x + b) and n = g * x + s (numbers, not data)."""
    fig = Figure(figsize=(8.2, 3.3), layout="constrained")
    axes = fig.subplots()
    rows = [
        ("BitFit: a bias moves", ["y", "=", "W", "x", "+", "b*"]),
        ("(IA)3: a factor turns up or down", ["y", "=", "l*", "(", "W", "x", "+", "b", ")"]),
        ("norms: both, before the layers that read them", ["y", "=", "W", "(", "g*", "n", "+", "s*", ")", "+", "b"]),
    ]
    for i, (what, pieces) in enumerate(rows):
        middle, at = -3.4 * i, 13.5
        axes.text(-1, middle, what, va="center", weight="bold")
        for piece in pieces:
            if piece in "=+()":
                axes.text(at + 0.5, middle, piece, ha="center", va="center", size=14)
                at += 1.4
                continue
            trained, wide = piece.endswith("*"), 2.4 if piece == "W" else 0.9
            box = _box(at, middle, wide, 2.4, PALETTE[1 if trained else 6])
            box.set_hatch("" if trained else "//")
            box.set_alpha(0.55 if trained else 0.15)
            axes.add_patch(box)
            patch = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(at + wide / 2, middle, piece.rstrip("*"), ha="center", va="center", size=13, bbox=patch)
            at += wide + 0.7
    axes.set(xlim=(-1.2, 31.2), ylim=(-8.6, 1.8), aspect="equal")
    axes.axis("off")
    return fig


def intervals(labels, series, title, xlabel, ylabel, band=None, levels=(), joined=True):
    """Means with intervals over a few categories: `series` maps a name to one (mean, half width) per label, or None.

    band: (low, high, name), a shaded range of y; levels: name -> a dotted line; joined: by a line, for categories in an order.
    """
    fig = Figure(figsize=(8.2, 4.2), layout="constrained")
    axes = fig.subplots()
    if band:
        axes.axhspan(band[0], band[1], color="#888888", alpha=0.25, label=band[2])
    for i, (name, points) in enumerate(series.items()):
        shift = 0.07 * (i - (len(series) - 1) / 2)           # side by side, so that no interval hides another
        kept = [(x + shift, *point) for x, point in enumerate(points) if point]
        x, mean, half = zip(*kept)
        line = {"linewidth": 1} if joined else {"linestyle": "none", "elinewidth": 1}
        axes.errorbar(x, mean, half, color=PALETTE[i], marker=MARKERS[i], capsize=3, label=name, **line)
    for style, (name, y) in zip((":", "--"), dict(levels).items()):
        axes.axhline(y, color="black", linestyle=style, linewidth=1, label=name)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.set_xticks(range(len(labels)), labels)
    fig.legend(loc="outside right center", frameon=False)
    return fig


def tradeoff(series, title, xlabel, ylabel, marked=(), sizes=None):
    """What was lost against what was learnt: `series` maps a name to points (x, y, size), joined in their order, or to
    points (x, y, size, half width in x, half width in y) with intervals.

    A size of 1 is the usual marker, so that larger ones can mean a higher learning rate; `sizes` says so above the
    legend. `marked`: name -> (x, y).
    """
    fig = Figure(figsize=(8.2, 4.6), layout="constrained")
    axes = fig.subplots()
    for i, (name, points) in enumerate(series.items()):
        x, y, size, *halves = zip(*points)
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        if halves:
            axes.errorbar(x, y, halves[1], halves[0], color=colour, linestyle="none", linewidth=1, capsize=2)
        line = "-" if i < len(PALETTE) else ":"
        axes.plot(x, y, color=colour, linewidth=1, linestyle=line, alpha=0.7)
        axes.scatter(x, y, [30 * s for s in size], color=colour, marker=marker, label=name, alpha=0.85,
                     facecolor=colour if i < len(PALETTE) else "white", zorder=3)  # fmt: skip
    for name, (x, y) in dict(marked).items():
        axes.plot(x, y, marker="*", markersize=15, color="black", linestyle="none", label=name, zorder=4)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    legend = fig.legend(loc="outside right center", frameon=False, title=sizes)
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([40])
    return fig


def adapter_places():
    """Where three papers put their adapters in a block: Houlsby, Pfeiffer, parallel, drawn upwards (no data)."""
    fig = Figure(figsize=(8.2, 5.8), layout="constrained")
    axes = fig.subplots()

    def part(at, low, name, high=1.0, trained=False):
        box = _box(at - 1.6, low + high / 2, 3.2, high, PALETTE[1 if trained else 6])
        box.set_alpha(0.55 if trained else 0.15)
        box.set_hatch("" if trained else "//")
        patch = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.add_patch(box)
        axes.text(at, low + high / 2, name, ha="center", va="center_baseline", size=9, bbox=patch)

    def path(*points):
        axes.plot(*zip(*points), color="black", linewidth=1, zorder=0)

    def plus(at, height):
        axes.plot(at, height, "o", color="white", markeredgecolor="black", markersize=11)
        axes.text(at, height, "+", ha="center", va="center_baseline", size=11)

    def branch(trunk, side, start, end):
        path((trunk, start), (trunk + side, start), (trunk + side, end), (trunk, end))

    for i, name in enumerate(("Houlsby: two", "Pfeiffer: one, at the end", "parallel: one, beside")):
        trunk = 10.5 * i
        path((trunk, -0.4), (trunk, 15.6))
        for low, layer in ((0.7, "attention"), (7.1, "feed-forward")):
            branch(trunk, 2.4, low - 0.6, low + 5.2)
            part(trunk + 2.4, low - 0.2, "norm", high=0.8)
            part(trunk + 2.4, low + 1.0, layer)
            plus(trunk, low + 5.2)
            if i == 0:
                branch(trunk + 2.4, 2.1, low + 2.3, low + 4.5)               # its own residual connection
                part(trunk + 2.4, low + 2.8, "adapter", trained=True)
                plus(trunk + 2.4, low + 4.5)
        if i == 1:
            branch(trunk, 2.4, 12.9, 15.0)
            part(trunk + 2.4, 13.4, "adapter", trained=True)
            plus(trunk, 15.0)
        if i == 2:
            branch(trunk, -2.4, 6.5, 12.3)
            part(trunk - 2.4, 8.1, "adapter", trained=True)
            plus(trunk, 12.3)
        axes.text(trunk + (1.2 if i < 2 else 0.2), 16.4, name, ha="center", weight="bold")
        axes.text(trunk, -0.6, "x", ha="center", va="top")
    axes.set(xlim=(-2.2, 25.6), ylim=(-1.5, 17.2), aspect="equal")
    axes.axis("off")
    return fig


def turned_row():
    """One row of a weight as an arrow: LoRA moves its tip; DoRA turns it, then sets its norm (numbers, not data)."""
    from math import cos, pi, sin

    fig = Figure(figsize=(8.2, 3.4), layout="constrained")
    start, end, longer = (2.0, 0.5), (1.3, 1.9), 1.25
    length, norm = (start[0] ** 2 + start[1] ** 2) ** 0.5, (end[0] ** 2 + end[1] ** 2) ** 0.5
    turned = tuple(c * length / norm for c in end)
    final = tuple(c * longer for c in turned)

    def arrow(axes, tail, tip, colour, text, shift):
        axes.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2})
        axes.text(tip[0] + shift[0], tip[1] + shift[1], text, color=colour)

    left, right = fig.subplots(1, 2, sharey=True)
    for axes, title in ((left, "LoRA: the tip moves"), (right, "DoRA: turned, then its norm set")):
        arrow(axes, (0, 0), start, PALETTE[6], "row of W", (0.1, -0.1))
        axes.set(title=title, xlim=(-0.2, 3.2), ylim=(-0.2, 2.8), xticks=[], yticks=[], aspect="equal")
    arrow(left, start, end, PALETTE[1], "row of s B A added", (0.1, 0.1))
    arrow(left, (0, 0), end, PALETTE[0], "row of V", (-0.95, 0.05))
    angles = [i * pi / 120 for i in range(61)]
    right.plot([length * cos(a) for a in angles], [length * sin(a) for a in angles], ":", color=PALETTE[6])
    arrow(right, turned, final, PALETTE[1], "m sets the norm", (0.1, 0.05))
    arrow(right, (0, 0), turned, PALETTE[0], "V sets the direction", (0.3, -0.15))
    return fig


def budget(kept):
    """How many triplets each layer keeps, as numbers on colours: `kept` maps a step to {path of a layer: number}."""
    steps, paths = list(kept), list(next(iter(kept.values())))
    fig = Figure(figsize=(8.2, 1.2 + 0.2 * len(paths)), layout="constrained")
    axes = fig.subplots()
    values = [[kept[s][p] for s in steps] for p in paths]
    image, most = axes.imshow(values, cmap="cividis", aspect="auto", vmin=0), max(map(max, values))
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(j, i, value, ha="center", va="center", size=8, color="black" if value > most / 2 else "white")
    axes.set_xticks(range(len(steps)), steps)
    axes.set_yticks(range(len(paths)), [p.replace("model.layers.", "").replace(".weight", "") for p in paths], size=7)
    axes.set(title="Triplets that each layer keeps", xlabel="training step", ylabel="block and linear layer")
    fig.colorbar(image, label="triplets kept")
    return fig


def each_seed(labels, series, title, xlabel, ylabel):
    """A point for every run: `series` maps a name to a list of values for each label. For results that are all or nothing."""
    fig = Figure(figsize=(8.2, 3.4), layout="constrained")
    axes = fig.subplots()
    room = 0.9 / len(series)  # of a label's width, for the points of one series
    for i, (name, groups) in enumerate(series.items()):
        shift = (i - (len(series) - 1) / 2) * room
        points = [(x + shift + min(0.09, room / (len(g) + 1)) * (j - (len(g) - 1) / 2), y) for x, g in enumerate(groups) for j, y in enumerate(g)]
        axes.plot(*zip(*points), color=PALETTE[i], marker=MARKERS[i], markersize=4.5, linestyle="none", label=name, alpha=0.8)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, ylim=(-0.04, 1.06), xlim=(-0.6, len(labels) - 0.4))
    axes.set_xticks(range(len(labels)), labels, size=9)
    for x in range(len(labels) - 1):
        axes.axvline(x + 0.5, color="#dddddd", linewidth=0.8)
    fig.legend(loc="outside right center", frameon=False)
    return fig


def trained_places(layers=3, virtual=3, words=4):
    """Where prompt tuning and prefix tuning put what they train: the places of a model, from the embeddings up."""
    fig = Figure(figsize=(8.2, 3.0), layout="constrained")
    colours = {"trained": PALETTE[1], "computed from what is trained": "#f3dcb8", "the text": "#dddddd"}
    for axes, method in zip(fig.subplots(1, 2, sharey=True), ("prompt tuning", "prefix tuning")):
        for row in range(layers + 1):
            for column in range(virtual + words):
                ours, prompt = column < virtual, method == "prompt tuning"
                if ours and not prompt and row == 0:
                    continue
                kind = "the text" if not ours else "trained" if (row == 0) == prompt else "computed from what is trained"
                box = Rectangle((column, row), 0.86, 0.7, facecolor=colours[kind], edgecolor="black", linewidth=0.8)
                axes.add_patch(box)
                if ours and not prompt:
                    axes.text(column + 0.43, row + 0.35, "k, v", ha="center", va="center", size=8)
        names = [f"virtual {i + 1}" for i in range(virtual)] + [f"word {i + 1}" for i in range(words)]
        axes.set_xticks([i + 0.43 for i in range(virtual + words)], names, rotation=40, ha="right", size=8)
        axes.set_yticks([i + 0.35 for i in range(layers + 1)], ["embeddings", *(f"block {i + 1}" for i in range(layers))])
        axes.set(title=method, xlim=(-0.15, virtual + words), ylim=(-0.15, layers + 0.9))
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    keys = [Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor="black") for colour in colours.values()]
    fig.legend(keys, colours, loc="outside lower center", ncols=3, frameon=False)
    return fig


def patterns(panels, title, xlabel, ylabel):
    """Attention weights from zero to one side by side, dark is much: `panels` maps a name to (queries, keys)."""
    fig = Figure(figsize=(8.2, 3.3), layout="constrained")
    fig.get_layout_engine().set(h_pad=0.12)
    for axes, (name, weights) in zip(fig.subplots(1, len(panels), sharey=True), panels.items()):
        image = axes.imshow(weights.numpy(), cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
        axes.set(title=name, xlabel=xlabel)
        axes.set_xticks(range(weights.shape[1]), range(1, weights.shape[1] + 1))
        axes.set_yticks(range(weights.shape[0]), range(1, weights.shape[0] + 1))
    fig.axes[0].set_ylabel(ylabel)
    fig.colorbar(image, ax=fig.axes, label="attention weight")
    fig.suptitle(title)
    return fig


def kept_in_a_block():
    """A block of an encoder as two rows of parts, with the tensors between them and which of these are kept (no data)."""
    always, sometimes, never = PALETTE[0], PALETTE[4], "#ffffff"
    rows = [
        [("x", "d", sometimes), "query\nkey\nvalue", ("q, k, v", "3 d", always), "attention", ("context", "d", always),
         "attention.\noutput", ("", "d", never), "+ x", ("sum", "d", always), "norm"],
        [("normed", "d", sometimes), "inter-\nmediate", ("wide", "ff", always), "activation\nfunction", ("active", "ff", sometimes),
         "output", ("", "d", never), "+\nnormed", ("sum", "d", always), "norm"],
    ]  # fmt: skip
    fig = Figure(figsize=(8.2, 3.4), layout="constrained")
    axes = fig.subplots()
    for i, row in enumerate(rows):
        middle, at = -2.6 * i, 0.0
        for piece in row:
            if isinstance(piece, str):
                axes.text(at + 0.65, middle, piece, ha="center", va="center", size=8)
                axes.add_patch(_box(at, middle, 1.3, 1.3, PALETTE[6]))
                axes.patches[-1].set_alpha(0.12)
                at += 1.5
                continue
            name, width, colour = piece
            axes.add_patch(_box(at, middle, 1.05, 0.7, colour))
            axes.patches[-1].set(alpha=0.55, hatch="//" if colour == sometimes else "")
            patch = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(at + 0.52, middle, name, ha="center", va="center", size=8, bbox=patch if name else None)
            axes.text(at + 0.52, middle - 0.55, width, ha="center", va="top", size=8)
            at += 1.25
    marks = [Rectangle((0, 0), 1, 1, facecolor=c, alpha=0.55, edgecolor="black", hatch=h)
             for c, h in ((always, ""), (sometimes, "//"), (never, ""))]  # fmt: skip
    names = ["always kept", "kept if a layer that reads it is trained", "not kept"]
    fig.legend(marks, names, loc="outside lower center", ncols=3, frameon=False)
    axes.set(xlim=(-0.1, 13.9), ylim=(-3.7, 0.9), aspect="equal")
    axes.axis("off")
    return fig


def small_multiples(x, panels, title, xlabel, ylabel, columns=None):
    """The same curves with intervals in several panels: `panels` maps a panel's title to {name: [(mean, half width)]}, one
    pair for each of `x`, the same names everywhere. `columns`: panels in a row (all of them, if not given)."""
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    fig = Figure(figsize=(8.2, 0.8 + 2.6 * rows), layout="constrained")
    places = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, series) in zip(places.flat, panels.items()):
        for i, points in enumerate(series.values()):
            mean, half = zip(*points)
            axes.errorbar(x, mean, half, color=PALETTE[i], marker=MARKERS[i], linewidth=1, capsize=2)
        axes.set_title(name, size="medium")
        axes.set(ylim=(-0.04, 1.06))
        axes.set_xticks(x, [f"{value:g}" for value in x], size=8)
    for axes in fig.axes:
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.label_outer()
    fig.legend(fig.axes[0].containers, next(iter(panels.values())), loc="outside lower center", ncols=3, frameon=False)
    fig.suptitle(title)
    return fig


def to_levels(values, levels):
    """Numbers above and levels below, between -1 and 1, with a line from each number to its nearest level."""
    fig = Figure(figsize=(8.2, 2.2), layout="constrained")
    axes = fig.subplots()
    for value in values:
        axes.plot([value, min(levels, key=lambda level: abs(level - value))], [1, 0], color=PALETTE[6], linewidth=0.5, alpha=0.6)
    axes.plot(values, [1] * len(values), MARKERS[0], color=PALETTE[0], markersize=5, alpha=0.7)
    axes.plot(levels, [0] * len(levels), MARKERS[1], color=PALETTE[1], markersize=7)
    axes.set(ylim=(-0.3, 1.3), xlabel="weight / absolute maximum of its block")
    axes.set_yticks([0, 1], ["levels", "weights"])
    return fig


def code_use(series, levels):
    """How often each level is used, at its place: `series` maps a name to a share for each of `levels`."""
    fig = Figure(figsize=(8.2, 3.2), layout="constrained")
    axes = fig.subplots()
    for i, (name, shares) in enumerate(series.items()):
        axes.plot(levels, shares, color=PALETTE[i], marker=MARKERS[i], linestyle="none", fillstyle=("full", "none")[i % 2], markersize=8 + i, label=name)
    axes.vlines(levels, 0, next(iter(series.values())), color=PALETTE[0], linewidth=1)
    axes.axhline(1 / len(levels), color="black", linestyle=":", linewidth=1, label="all alike")
    axes.set(title="How often each level is used", xlabel="level", ylabel="share of the weights", ylim=(0, None))
    fig.legend(loc="outside right center", frameon=False)
    return fig


def scatter(series, title, xlabel, ylabel):
    """Points over a logarithmic x: `series` maps a name to (x, y) pairs."""
    fig = Figure(figsize=(8.2, 3.8), layout="constrained")
    axes = fig.subplots()
    for i, (name, points) in enumerate(series.items()):
        axes.semilogx(*zip(*points), color=PALETTE[i], marker=MARKERS[i], linestyle="none", alpha=0.75, label=name)
    axes.axvline(1, color="black", linestyle=":", linewidth=1)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, ylim=(-0.05, None))
    fig.legend(loc="outside lower center", ncols=2, frameon=False)
    return fig


def by_rate(panels, title, ylabel):
    """Curves over the learning rate, a panel each: `panels` maps a panel's title to {name: [(rate, mean, half width)]}."""
    fig = Figure(figsize=(8.2, 0.9 + 3.1 * -(-len(panels) // 2)), layout="constrained")
    places = fig.subplots(-(-len(panels) // 2), 2, sharex=True, squeeze=False).flat
    for axes, (name, series) in zip(places, panels.items()):
        for i, points in enumerate(series.values()):
            colour, fill = PALETTE[i % len(PALETTE)], "full" if i < len(PALETTE) else "none"
            line = {"linewidth": 1, "linestyle": "-" if i < len(PALETTE) else "--", "capsize": 2, "markersize": 5}
            axes.errorbar(*zip(*points), color=colour, marker=MARKERS[i % len(MARKERS)], fillstyle=fill, **line)
        axes.set(title=name, xscale="log", xlabel="learning rate", ylabel=ylabel)
    for axes in list(places):
        axes.axis("off")  # a place that no panel needs
    fig.legend(fig.axes[0].containers, next(iter(panels.values())), loc="outside lower center", ncols=5, frameon=False)
    fig.suptitle(title)
    return fig


def scored(panels, title, xlabel):
    """Means with intervals, one method a row and a panel for each domain, between levels: `panels` maps a panel's title to
    ({name: (mean, half width)}, {level: x})."""
    most = max(len(points) for points, _ in panels.values())
    fig = Figure(figsize=(8.2, 1.4 + 0.27 * most), layout="constrained")
    for axes, (title_of, (points, levels)) in zip(fig.subplots(1, len(panels), sharey=True, squeeze=False).flat, panels.items()):
        places = range(len(points))[::-1]
        mean, half = zip(*points.values())
        axes.errorbar(mean, places, xerr=half, color=PALETTE[0], marker="o", linestyle="none", capsize=3)
        for style, colour, (name, x) in zip((":", "--", "-."), (PALETTE[6], PALETTE[1], PALETTE[2]), levels.items()):
            axes.axvline(x, color=colour, linestyle=style, linewidth=1.2, label=name)
        axes.set_yticks(places, points)
        axes.set(title=title_of, xlabel=xlabel)
    fig.legend(*fig.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    fig.suptitle(title)
    return fig


def front(points, on_front, title, xlabel, ylabel):
    """Quality over a logarithmic cost: `points` maps a name to (quality, half width, cost). Those on the front are filled and
    joined by steps."""
    fig = Figure(figsize=(8.2, 4.2), layout="constrained")
    axes = fig.subplots()
    for i, (name, (quality, half, cost)) in enumerate(points.items()):
        style = {"marker": MARKERS[(i + 3 * (i // 7)) % 7], "fillstyle": "full" if name in on_front else "none", "markersize": 8}
        axes.errorbar(cost, quality, half, color=PALETTE[i % len(PALETTE)], linewidth=0.8, capsize=2, linestyle="none", label=name, **style)
    line = sorted((points[name][2], points[name][0]) for name in on_front)
    axes.step(*zip(*line), where="post", color="black", linestyle=":", linewidth=1, label="front", zorder=1)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xscale="log")
    fig.legend(loc="outside right center", frameon=False)
    return fig
