"""Sliders redraw at once and say in numbers what they draw; the figures of lesson 01 are complete."""

import re

import pytest
from matplotlib.figure import Figure

from peftlab.lab import figures, widgets

BUDGETS = {"full": {"weights": 4e9, "states": 8e9}, "<few>": {"weights": 4e9, "states": 1e9}}


def test_moving_a_slider_redraws_the_picture():
    shown = widgets.explore(lambda batch, length: f"<b>{batch * length}</b>", batch=(2, [1, 2, 4]), length=(10, [5, 10]))
    assert shown.picture.value == "<b>20</b>"
    shown.sliders["batch"].value = 4
    assert shown.picture.value == "<b>40</b>"
    shown.sliders["length"].value = 5
    assert shown.picture.value == "<b>20</b>"
    assert "model_id" in str(shown._repr_mimebundle_()) and "0x" not in repr(shown)


def test_bars_are_as_wide_as_the_bytes_and_written_out():
    html = widgets.bars(BUDGETS)
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", html)]
    assert widths == pytest.approx([100 / 3, 200 / 3, 100 / 3, 25 / 3], abs=0.01)
    assert all(n in html for n in (">4.00<", ">8.00<", ">1.00<", ">12.00<", ">5.00<"))
    assert "<few>" not in html and "&lt;few&gt;" in html



def test_the_ranks_kept_are_shown_and_counted():
    import torch

    matrix = torch.diag(torch.tensor([3.0, 1.0, 0.0]))
    kept = {"update": {1: torch.diag(torch.tensor([3.0, 0.0, 0.0])), 2: matrix}, "photograph": {1: matrix, 2: matrix}}
    shown = widgets.ranks_kept({"update": matrix, "photograph": matrix}, kept)
    assert "Update, 1 of 3 ranks: explained variance 90.0%, from 6 parameters" in shown.picture.value
    before = shown.picture.value
    shown.sliders["ranks"].value = 2
    assert "100.0%" in shown.picture.value and shown.picture.value.split("src=")[1] != before.split("src=")[1]
    shown.sliders["matrix"].value = "photograph"
    assert "Photograph, 2 of 3" in shown.picture.value and "data:image/png" in shown.picture.value


def test_stacked_bars_add_up():
    axes = figures.stacked(BUDGETS, "title").axes[0]
    assert [t.get_text().strip() for t in axes.texts] == ["12.0", "5.0"]
    assert axes.get_xlabel() and axes.get_title() == "title"


def test_curves_have_a_marker_each_and_a_name_for_every_line():
    fig = figures.curves([1, 2, 4], {"a": [1, 2, 3], "b": [3, 2, 1]}, "t", "x", "y", {"level": 2}, (1, 2, "band"))
    axes = fig.axes[0]
    assert len({line.get_marker() for line in axes.lines[:2]}) == 2
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["band", "a", "b"]
    assert axes.texts[0].get_text() == "level"


def test_the_three_products_are_drawn_to_shape():
    fig = figures.three_products(d_in=4, d_out=6, tokens=3)
    boxes = [(p.get_height(), p.get_width()) for p in fig.axes[0].patches]  # left, right, result of each product
    for left, right, result in (boxes[i : i + 3] for i in (0, 3, 6)):
        assert left[1] == right[0] and result == (left[0], right[1])
    assert isinstance(fig, Figure)


def test_points_on_a_line_leave_the_line_to_be_seen():
    axes = figures.lines([1, 2, 3], {"predicted": [3, 2, 1], "trained": [3, 2, 1]}, "t", "x", "y", points=("trained",)).axes[0]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "None"]
    assert axes.lines[1].get_fillstyle() == "none" and axes.lines[1].get_label() == "trained"


def test_categories_without_an_order_are_not_joined():
    drawn = [figures.intervals(["a", "b"], {"x": [(1, 0.1), (2, 0.1)]}, "t", "", "y", joined=j) for j in (True, False)]
    assert [fig.axes[0].lines[0].get_linestyle() for fig in drawn] == ["-", "None"]


def test_the_budget_is_told_in_numbers_too():
    axes = figures.budget({10: {"a": 6, "b": 6}, 20: {"a": 5, "b": 1}}).axes[0]
    assert [t.get_text() for t in axes.texts] == ["6", "5", "6", "1"]


def test_each_weight_is_joined_to_its_nearest_level_and_each_use_stands_at_its_level():
    first, second = figures.to_levels([0.9, -0.2], [-1.0, 0.0, 1.0]).axes[0].lines[:2]
    assert list(first.get_xdata()) == [0.9, 1.0] and list(second.get_xdata()) == [-0.2, 0.0]
    used = figures.code_use({"a": [0.2, 0.8], "b": [0.5, 0.5]}, [-1.0, 1.0]).axes[0].lines
    assert [list(line.get_ydata()) for line in used[:2]] == [[0.2, 0.8], [0.5, 0.5]] and set(used[2].get_ydata()) == {0.5}
    points = figures.scatter({"a": [(0.1, 1), (10, 0)]}, "t", "x", "y").axes[0]
    assert list(points.lines[0].get_xdata()) == [0.1, 10] and points.get_xscale() == "log"


def recorded():
    """Two methods and a rank axis, two seeds of most runs, one of the last."""
    import pandas as pd

    rows = [("tweets", m, lr, 256, seed) for m in ("head", "lora-8") for lr in (0.001, 0.01) for seed in (0, 1)]
    rows += [("tweets", "lora-1", 0.001, 256, 0), ("<news>", "head", 0.001, 64, 0), ("<news>", "head", 0.001, 64, 1)]
    frame = pd.DataFrame(rows, columns=["domain", "method", "lr", "sentences", "seed"])
    better = frame["lr"].map({0.001: 0.6, 0.01: 0.8}) + frame["seed"] * 0.1
    return frame.assign(test=better, validation=better, retrieval=0.5, retrieval_before=0.75, trainable=1234)


def test_recorded_runs_are_told_with_their_interval_and_what_nobody_ran_is_not_recorded():
    start = {"domain": "tweets", "method": "LoRA", "rank": 8, "learning_rate": 0.001, "sentences": 256}
    shown = widgets.recorded_runs(recorded(), {"head": "head only", "lora-8": "LoRA"}, {1: "lora-1", 8: "lora-8"}, start)
    assert "LoRA, rank 8, learning rate 0.001, 256 sentences: test accuracy 65.0% ± 63.5% (2 seeds)" in shown.picture.value
    assert "1,234 trainable parameters; retrieval 50.0% with it on, 75.0% before" in shown.picture.value
    bars = shown.picture.value.split("<table>")[1]
    assert bars.index("◀") < bars.index("85.0%") < bars.index("chosen on validation"), "the other rate is the better one"
    shown.sliders["rank"].value = 1
    assert "test accuracy 60.0% (1 seed)" in shown.picture.value
    shown.sliders["learning_rate"].value = 0.01
    assert "learning rate 0.01, 256 sentences: not recorded." in shown.picture.value and "60.0%" in shown.picture.value
    shown.sliders["method"].value = "head only"
    assert "head only, learning rate 0.01" in shown.picture.value and "85.0% ± 63.5%" in shown.picture.value
    shown.sliders["domain"].value = "<news>"
    assert "<news>" not in shown.picture.value and "&lt;news&gt;" in shown.picture.value
    assert shown.picture.value.count("not recorded") == 2, "not this rate, and none with so many sentences"


def test_recorded_runs_can_be_read_without_a_kernel_and_redraw_at_once():
    import time

    start = {"domain": "tweets", "method": "LoRA", "rank": 8, "learning_rate": 0.001, "sentences": 256}
    shown = widgets.recorded_runs(recorded(), {"head": "head only", "lora-8": "LoRA"}, {1: "lora-1", 8: "lora-8"}, start)
    still = shown._repr_mimebundle_()["text/html"]
    shown.sliders["rank"].value = 1
    assert "LoRA, rank 8" in still and "aria-live" not in still and still == shown._repr_mimebundle_()["text/html"]
    begun = time.perf_counter()
    for _ in range(20):
        shown.sliders["learning_rate"].value = 0.01 if shown.sliders["learning_rate"].value == 0.001 else 0.001
    assert (time.perf_counter() - begun) / 20 < 0.1
    assert "text/html" not in widgets.explore(lambda a: "x", a=(1, [1, 2]))._repr_mimebundle_()


def test_more_methods_than_colours_are_told_apart():
    names = [f"m{i}" for i in range(9)]
    axes = figures.by_rate({"tweets": {n: [(0.1, 0.5, 0.1), (1, 0.6, 0.1)] for n in names}}, "t", "y").axes[0]
    drawn = [(c[0].get_color(), c[0].get_marker(), c[0].get_fillstyle(), c[0].get_linestyle()) for c in axes.containers]
    assert len(set(drawn)) == 9
    points = {n: (0.5 + 0.01 * i, 0.1, 10 * (i + 1)) for i, n in enumerate(names)}
    fig = figures.front(points, ["m0", "m8"], "t", "x", "y")
    looks = [(c[0].get_color(), c[0].get_marker()) for c in fig.axes[0].containers]
    assert len(set(looks)) == 9 and [c[0].get_fillstyle() for c in fig.axes[0].containers].count("full") == 2
    step = next(line for line in fig.axes[0].lines if line.get_label() == "front")
    assert list(step.get_ydata()) == [0.5, 0.58]


def test_scores_stand_in_the_order_given_between_their_levels():
    fig = figures.scored({"a": ({"x": (0.8, 0.1), "y": (0.9, 0.1)}, {"floor": 0.5, "one": 0.95})}, "t", "accuracy")
    axes = fig.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["x", "y"] and list(axes.get_yticks()) == [1, 0]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_label() in ("floor", "one")] == [0.5, 0.95]
