import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from studies import figures
from studies.behaviours import cells, curves, marks, ranking, rungs
from studies.figures import style

KEYS = ["site", "layer", "position"]


@pytest.fixture(scope="module")
def drawn(table, ladder_table, traces):
    """Every figure once, and its bytes."""
    followed, where, lines = curves(table), rungs(table), marks(table)
    out = {
        "survival": figures.survival(followed, where, lines),
        "values": figures.survival(followed, where, lines, value="mean"),
        "ranking": figures.ranking(ranking(table), where, lines),
        "heat maps": figures.heat_maps(cells(table, "patching", "recovery", KEYS)),
        "traces": figures.traces(traces, ladder_table),
        "verdicts": figures.verdicts(ladder_table),
    }
    return out, {name: figures.png(figure, dpi=100) for name, figure in out.items()}


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_every_figure_is_drawn(drawn):
    for name, png in drawn[1].items():
        pixels = imread(io.BytesIO(png))
        assert pixels.std() > 0.02, name


@pytest.mark.filterwarnings("error")
def test_layout_holds_and_bytes_repeat(table):
    arguments = curves(table), rungs(table), marks(table)
    assert figures.png(figures.survival(*arguments), dpi=60) == figures.png(figures.survival(*arguments), dpi=60)


def test_the_callers_settings_are_left_alone(ladder_table):
    before = dict(matplotlib.rcParams)
    figures.verdicts(ladder_table)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["survival", "values", "ranking", "heat maps", "traces", "verdicts"])
def test_every_figure_shows_its_verdicts(drawn, name):
    text = words(drawn[0][name]).replace("\n", " ").lower()
    for verdict in ("ok (heated only)", "suspect", "failed"):
        assert verdict in text, name


@pytest.mark.parametrize("name", ["survival", "values", "ranking", "heat maps", "traces"])
def test_every_loss_axis_has_its_unit(drawn, name):
    assert "nats per token" in words(drawn[0][name])


@pytest.mark.parametrize("name", ["survival", "ranking"])
def test_intervals_are_defined_and_absent_behaviours_named(drawn, name):
    text = words(drawn[0][name])
    assert "95 %" in text and "over chains" in text.replace("\n", " ")
    assert "canary x1" in text


@pytest.mark.parametrize("name", ["survival", "ranking", "heat maps", "traces", "verdicts"])
def test_tick_labels_do_not_overlap(drawn, name):
    figure = drawn[0][name]
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            shown = [label for label in axis.get_ticklabels() if label.get_text() and label.get_visible()]
            boxes = [label.get_window_extent(renderer) for label in shown]
            for one, other in zip(boxes, boxes[1:], strict=False):
                assert not one.overlaps(other), (name, [label.get_text() for label in shown])


def test_suspect_rungs_are_hollow_and_failed_ones_not_drawn(drawn, table):
    panel = drawn[0]["survival"].axes[0]
    points = [line for line in panel.lines if line.get_marker() == "o" and line.get_transform() == panel.transData]
    hollow = [line for line in points if line.get_markerfacecolor() == "white"]
    suspect = rungs(table).query("dial == 'natural' and verdict == 'suspect'")["rise"]
    assert hollow and all(np.isclose(line.get_xdata(), suspect.iloc[0], rtol=0.05).all() for line in hollow)
    assert max(np.max(line.get_xdata()) for line in points) < 1.5  # the failed rung lies at 1.7


def test_all_heat_maps_share_one_scale_with_white_at_zero(drawn):
    figure = drawn[0]["heat maps"]
    scales = {image.get_clim() for axes in figure.axes for image in axes.get_images()}
    assert len(scales) == 1
    low, high = scales.pop()
    assert low == -high
    assert (
        len([axes for axes in figure.axes if axes.get_images()]) == 8
    )  # w* and seven rungs; the failed one is left out


def test_curves_in_a_panel_differ_in_more_than_colour():
    looks = list(style.lines([f"behaviour {letter}" for letter in "abcdefgh"]))
    assert len({look.marker for look in looks}) == len({str(look.dashes) for look in looks}) == 8


def test_levels_are_ordered_by_their_numbers():
    assert style.ordered(["canary x16", "canary x2", "canary x4"]) == ["canary x2", "canary x4", "canary x16"]
    assert style.ordered(["b", "a"]) == ["b", "a"]


def test_spread_keeps_order_distance_and_mean():
    rng = np.random.default_rng(0)
    for _ in range(50):
        places = np.sort(rng.random(6))
        moved = style.spread(places, 0.1)
        assert (np.diff(moved) >= 0.1 - 1e-9).all()
        assert moved.mean() == pytest.approx(places.mean())
    np.testing.assert_allclose(style.spread([0.1, 0.5, 0.9], 0.1), [0.1, 0.5, 0.9])


def test_a_far_mark_is_named_instead_of_stretching_the_axis(table):
    figure = figures.survival(curves(table), rungs(table), pd.concat([marks(table), pd.Series({"tiny": 1e-4})]))
    assert "Off the axis" in words(figure)
    assert figure.axes[0].get_xlim()[0] > 0.01


def test_one_dial_one_behaviour_and_no_marks_suffice(table):
    some = table[(table["dial"] == "natural") & (table["behaviour"] == "retrieval")]
    for figure in (figures.survival(curves(some), rungs(some)), figures.ranking(ranking(some), rungs(some))):
        assert "retrieval" in words(figure)
        assert figures.png(figure, dpi=50).startswith(b"\x89PNG")


def test_bad_values_are_named(table):
    with pytest.raises(ValueError, match="'retention' or 'mean'"):
        figures.survival(curves(table), rungs(table), value="share")


def test_a_rung_on_which_every_chain_failed_is_still_drawn(traces, ladder_table):
    numbers = ladder_table.columns.difference(["rung", "target", "verdict", "reason"])
    broken = ladder_table.copy()
    broken.loc[broken["rung"] == 8, numbers] = np.nan
    figures.png(figures.verdicts(broken), dpi=50)
    text = words(figures.traces(traces[traces["rung"] < 8], broken))
    assert "no rise" in text
