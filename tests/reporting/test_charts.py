"""Charts: axes, lines, and values of any size."""

import math

import pytest

from dltrain.reporting.axes import LEFT, RIGHT, WIDTH, ticks
from dltrain.reporting.charts import Series, downsample, line_chart, scatter_plot


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.1, 0.11), (-3, 5e6), (7, 7), (0, 0), (1e-9, 2e-9), (-5, -5)]
)
def test_ticks_are_round_and_enclose_the_values(low, high):
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 12
    step = found[1] - found[0]
    assert step / 10 ** math.floor(math.log10(step) + 1e-9) == pytest.approx(
        round(step / 10 ** math.floor(math.log10(step) + 1e-9)), rel=1e-6
    )


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (-1.7e308, 1.7e308),
        (0.0, 5e-324),
        (-5e-324, 5e-324),
        (1.0, 1.0 + 2e-16),
        (1e16, 1e16 + 2),
        (1.7e308, 1.7e308),
        (1e-320, 1e-320),
    ],
)
def test_values_of_any_size_are_drawn(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 12
    assert found == sorted(set(found))
    drawn = line_chart("loss", [Series("train", [(0, low), (1, high)])])
    assert "nan" not in drawn.lower()
    assert "inf" not in drawn.lower()


def test_predictions_that_are_not_finite_are_left_out_of_the_picture():
    nan, inf = float("nan"), float("inf")
    drawn = scatter_plot("Predictions", [(1.0, nan), (2.0, 3.0), (2.0, inf), (3.0, -inf)], "x", "y")
    assert drawn.count("<circle") == 1
    assert "1 samples from" in drawn
    assert scatter_plot("Predictions", [(1.0, nan)], "x", "y") == ""


def test_a_long_line_is_thinned_and_ends_where_it_ended():
    points = [(step, float(step)) for step in range(100_001)]
    kept = downsample(points)
    assert len(kept) <= 400
    assert kept[-1] == points[-1]


def test_a_line_breaks_where_a_value_was_not_finite():
    line = Series("training", [(1, 1.0), (2, None), (3, 2.0), (4, 3.0)])
    path = line_chart("loss", [line]).split('<path class="line s0" d="')[1].split('"')[0]
    assert (path.count("M"), path.count("L")) == (2, 1)


@pytest.mark.parametrize("value", [0.0, 0.5, 0.97, 1.0])
def test_the_axis_of_a_constant_fraction_stays_between_0_and_1(value):
    found = ticks(value, value)
    assert found[0] >= 0
    assert found[-1] == pytest.approx(min(found[-1], 1.0))
    assert found[0] <= value <= found[-1]


def test_a_curve_spans_the_whole_width_and_its_axis_has_whole_steps_only():
    drawn = line_chart("loss", [Series("training", [(29, 2.0), (33, 1.0), (34, 0.5)])])
    path = drawn.split('<path class="line s0" d="M')[1].split('"')[0]
    assert path.startswith(f"{LEFT:.1f} ")
    assert f"L{WIDTH - RIGHT:.1f} " in path
    labels = [
        text.split(">")[1] for text in drawn.split("</text>") if 'text-anchor="middle"' in text
    ]
    assert all(label.isdecimal() for label in labels[:-1])
    assert labels[-1] == "step"


def test_few_points_are_marked_and_the_legend_has_the_last_value():
    few = [Series("validation", [(1, 0.5), (2, None), (3, 0.75)], color=1)]
    drawn = line_chart("accuracy", few, show_last=True)
    assert drawn.count('<circle class="dot s1"') == 2
    assert 'validation <span class="soft">0.75</span>' in drawn
    many = [Series("training", [(step, 1.0) for step in range(100)])]
    assert line_chart("loss", many).count("<circle") == 1
