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
