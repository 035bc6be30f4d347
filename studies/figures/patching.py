"""Patched runs and circuits beside the model's own loss, and the gap between them, across loss scales."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from studies.figures import style

MARGIN = 0.05
LINEAR = 0.1  # shares are drawn linearly up to here, logarithmically beyond
TICKS = (-1, -0.1, -0.05, 0, 0.05, 0.1, 0.3, 1, 3, 10, 30)
Draw = Callable[[Axes, pd.DataFrame, style.Line, float], None]


@style.styled
def patched_losses(
    curves: pd.DataFrame, crossings: pd.DataFrame, rungs: pd.DataFrame, marks: pd.Series | None = None
) -> Figure:
    """Both losses against the loss rise: a panel a family of reconstructions, c* on its axis.

    Args:
        curves: What `studies.patching_scales.curves` returned.
        crossings: What `studies.patching_scales.crossings` returned.
        rungs: What `studies.behaviours.rungs` returned.
        marks: Loss rises to draw as vertical lines, by name.
    """
    figure, panels, start = _panels(curves, rungs, marks, partial(_patched, crossings))
    for family, panel in panels.items():
        _own(panel, curves[curves["family"] == family], start)
        labels = list(dict.fromkeys(curves.loc[curves["family"] == family, "label"]))
        _legend(
            panel, family, labels, Line2D([], [], color="black", marker="o", markersize=3.8, label="the model itself")
        )
        panel.set_yscale("log")
        panel.set_ylabel("loss (nats per answer, log axis)")
    text = (
        "Black: the unpatched model on the same examples (dashed: a uniform guess); coloured: patched runs or circuits."
        " Bars: 95 % intervals over chains and examples. Dotted: patched loss at w*, and below it c*, where the black"
        " line crosses it, with its 95 % interval. Hollow: suspect rung; × on the axis: failed rung, left out."
    )
    _finish(figure, text, marks, rungs)
    return figure


@style.styled
def gap_shares(curves: pd.DataFrame, rungs: pd.DataFrame, marks: pd.Series | None = None) -> Figure:
    """(patched loss − own loss)/(guess − own loss) against the loss rise: a panel a family of reconstructions.

    Args:
        curves: What `studies.patching_scales.curves` returned.
        rungs: What `studies.behaviours.rungs` returned.
        marks: Loss rises to draw as vertical lines, by name.
    """
    shown = curves[np.isfinite(curves["share"])]
    figure, panels, _ = _panels(shown, rungs, marks, _gap)
    low, high = shown["share_low"].fillna(shown["share"]).min(), shown["share_high"].fillna(shown["share"]).max()
    for panel in panels.values():
        panel.axhspan(-MARGIN, MARGIN, color="0.9", zorder=0)
        panel.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        panel.set_yscale("symlog", linthresh=LINEAR)
        panel.set_ylim(min(low, -0.1) * 1.2, max(high, 0.12) * 1.3)
        ticks = [tick for tick in TICKS if min(low, -0.1) * 1.2 <= tick <= max(high, 0.12) * 1.3]
        panel.set_yticks(ticks, [f"{tick:.0%}" for tick in ticks])
        panel.minorticks_off()
        panel.set_ylabel("gap (% of what the model knows)")
    text = (
        "Gap: (patched − own loss)/(loss of a guess − own loss), linear within ±10 %. Bars: 90 % intervals over chains"
        " and examples; shaded: ±5 %. Filled: equivalent to 0 within 5 %; hollow: not, or undecided; pale crosses: not"
        " asked, the model keeps less than half of what it knew. On the axis: the rungs, hollow when suspect,"
        " × when failed."
    )
    _finish(figure, text, marks, rungs)
    return figure


def _panels(
    curves: pd.DataFrame, rungs: pd.DataFrame, marks: pd.Series | None, draw: Draw
) -> tuple[Figure, dict[str, Axes], float]:
    """A panel a family with its lines, loss axis, marks and legend; and where w* stands on the axis."""
    families = list(dict.fromkeys(curves["family"]))
    across = min(2, len(families))
    down = -(-len(families) // across)
    figure = Figure(figsize=(3.7 * across, 0.9 + 2.6 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    low, high, near = style.limits(rungs["rise"], marks)
    start = low / 1.6
    for empty in grid[len(families) :]:
        empty.set_visible(False)
    for place, (family, panel) in enumerate(zip(families, grid, strict=False)):
        mine = curves[curves["family"] == family]
        labels = list(dict.fromkeys(mine["label"]))
        for label, look in zip(labels, _looks(labels), strict=True):
            draw(panel, mine[mine["label"] == label].sort_values("rise"), look, start)
        style.log_axis(panel, low, high, start)
        pad = style.draw_marks([panel], near, names=place < across)
        style.draw_rungs(panel, rungs)
        panel.set_title(family, pad=pad if place < across else 6.0, fontsize=8.5)
        _legend(panel, family, labels)
    return figure, dict(zip(families, grid, strict=False)), start


def _looks(labels: list[str]) -> Iterator[style.Line]:
    """Few labels in colours that differ from black, more from dark to light."""
    return style.lines(labels if len(labels) > 4 else [chr(97 + place) for place in range(len(labels))])


def _places(rows: pd.DataFrame, start: float) -> np.ndarray:
    return rows["rise"].where(rows["rung"] > 0, start).to_numpy(float)


def _usable(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows["rung"] == 0) | (rows["rise"] > 0)]


def _patched(crossings: pd.DataFrame, panel: Axes, rows: pd.DataFrame, look: style.Line, start: float) -> None:
    _curve(panel, rows, look, start, "patched")
    row: Any = crossings.set_index("label").loc[rows["label"].iloc[0]]
    if not row["chains"] or not np.isfinite(row["value"]):
        return
    panel.axhline(row["patched"], color=look.colour, linewidth=0.7, linestyle=(0, (1, 1.5)), zorder=0)
    ends = np.clip([row["low"], row["high"]], start, rows["rise"].max())
    place: dict[str, Any] = {
        "transform": panel.get_xaxis_transform(),
        "color": look.colour,
        "clip_on": False,
        "zorder": 6,
    }
    if np.isfinite(ends).all():
        panel.plot(ends, [0.04, 0.04], linewidth=2.2, alpha=0.5, **place)
    shape = {"left": "<", "right": ">"}.get(row["censored"], "v")
    panel.plot([row["value"]], [0.04], shape, markersize=5, **place)


def _own(panel: Axes, rows: pd.DataFrame, start: float) -> None:
    """The model's own loss on the examples of a family: one line, since its labels share the examples."""
    first = rows[rows["label"] == rows["label"].iloc[0]].sort_values("rise")
    _curve(panel, first, style.Line("#000000", "o", "-"), start, "own")
    guess = first["guess"].iloc[0]
    if np.isfinite(guess):
        panel.axhline(guess, color="0.4", linewidth=0.7, linestyle=(0, (6, 3)), zorder=0)


def _curve(panel: Axes, rows: pd.DataFrame, look: style.Line, start: float, name: str) -> None:
    rows = _usable(rows)
    x, y = _places(rows, start), rows[name].to_numpy(float)
    low = np.maximum(rows[f"{name}_low"].to_numpy(float), y / 30)  # an interval that reaches 0 ends on a log axis
    panel.plot(x, y, color=look.colour, linestyle=look.dashes)
    panel.vlines(x, low, rows[f"{name}_high"].to_numpy(float), color=look.colour, linewidth=0.9, alpha=0.7)
    _points(panel, x, y, look, (rows["verdict"].map(style.kind) == "suspect").to_numpy())


def _gap(panel: Axes, rows: pd.DataFrame, look: style.Line, start: float) -> None:
    rows = _usable(rows)
    x, y = _places(rows, start), rows["share"].to_numpy(float)
    asked = (rows["equivalent"] != "not asked").to_numpy()
    panel.plot(x[asked], y[asked], color=look.colour, linestyle=look.dashes)
    low, high = (rows[name].to_numpy(float)[asked] for name in ("share_low", "share_high"))
    panel.vlines(x[asked], low, high, color=look.colour, linewidth=0.9, alpha=0.7)
    _points(panel, x[asked], y[asked], look, (rows["equivalent"] != "yes").to_numpy()[asked])
    if not asked.all():
        panel.plot(x[~asked], y[~asked], "x", color=look.colour, alpha=0.35, markersize=4)


def _points(panel: Axes, x: np.ndarray, y: np.ndarray, look: style.Line, hollow: np.ndarray) -> None:
    for some, fill in ((~hollow, look.colour), (hollow, "white")):
        if some.any():  # matplotlib lays an empty line with markers out at the origin
            panel.plot(x[some], y[some], look.marker, color=look.colour, markerfacecolor=fill, markersize=3.8, zorder=4)


def _legend(panel: Axes, family: str, labels: list[str], *first: Line2D) -> None:
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dashes, markersize=3.8,
               label=label.removeprefix(f"{family} "))
        for label, look in zip(labels, _looks(labels), strict=True)
    ]  # fmt: skip
    box = {"facecolor": "white", "edgecolor": "none", "framealpha": 0.9}  # lines pass behind its words
    panel.legend(handles=[*first, *handles], handlelength=2.6, fontsize=6.5, loc="best", **box)


def _finish(figure: Figure, text: str, marks: pd.Series | None, rungs: pd.DataFrame) -> None:
    near = style.limits(rungs["rise"], marks)[2]
    far: Any = {} if marks is None else marks.drop(near.index)
    if len(far):
        text += " Off the axis: " + ", ".join(f"{name} at {value:.3g}" for name, value in far.items()) + "."
    width = figure.get_size_inches()[0]
    figure.supxlabel("loss rise ΔL (nats per scored token, log axis)\n" + style.note(text, width - 0.5), fontsize=7.5)
