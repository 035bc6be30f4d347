"""Claims: the share of draws on which each of them holds, a panel a claim, on any axis of the dial."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.figures import style

ASKED = 0.95


@style.styled
def claims(held: pd.DataFrame, axis: Any, marks: pd.Series | None = None) -> Figure:
    """Share against the axis, from the trained weights on the left to the most degraded rung on the right.

    Args:
        held: What `studies.claims.claims` returned for that axis.
        axis: A `studies.axes.Axis`.
        marks: Loss rises to draw as vertical lines, where the axis is the rise.
    """
    names = list(dict.fromkeys(held["claim"]))
    figure = Figure(figsize=(5.6, 1.2 + 1.25 * len(names)), layout="constrained")
    panels = figure.subplots(max(len(names), 1), 1, squeeze=False, sharex=True)[:, 0]
    rows = held[(held["rung"] > 0) & np.isfinite(held["x"])] if axis.log else held[np.isfinite(held["x"])]
    for panel, name in zip(panels, names, strict=False):
        _axis(panel, rows["x"], axis)
        for look, dial in zip(style.lines(style.dials(held)), style.dials(held), strict=True):
            _shares(panel, rows[(rows["claim"] == name) & (rows["dial"] == dial)], look)
        panel.set_title("\n".join(textwrap.wrap(str(name), 78)), fontsize=7.5, loc="left")
        if marks is not None:
            style.draw_marks([panel], _shown(panel, marks), names=False)
    _note(figure, axis, None if marks is None or rows.empty else _shown(panels[0], marks))
    return figure


def _shown(panel: Axes, marks: pd.Series) -> pd.Series:
    """The marks that fall on the axis."""
    low, high = sorted(panel.get_xlim())
    return marks[(marks > low) & (marks < high)]


def _axis(panel: Axes, places: pd.Series, axis: Any) -> None:
    panel.axhline(ASKED, color="0.5", linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
    panel.set_ylim(-0.08, 1.08)
    panel.set_yticks([0, 0.5, 1])
    panel.set_ylabel("share of draws", fontsize=7)
    if axis.log:
        style.log_axis(panel, float(places.min()), float(places.max()))
    if axis.falling:
        panel.set_xlim(*sorted(panel.get_xlim(), reverse=True))


def _shares(panel: Axes, rows: pd.DataFrame, look: style.Line) -> None:
    rows = rows.sort_values("rung")
    low, high = (rows["share"] - rows["low"]).fillna(0), (rows["high"] - rows["share"]).fillna(0)
    panel.errorbar(
        rows["x"],
        rows["share"],
        yerr=[low, high],
        color=look.colour,
        linestyle=look.dashes,
        linewidth=1.0,
        elinewidth=1.0,
    )
    for suspect, fill in ((False, look.colour), (True, "white")):
        some = rows[(rows["verdict"].map(style.kind) == "suspect") == suspect]
        if len(some):
            panel.plot(
                some["x"], some["share"], look.marker, color=look.colour, markerfacecolor=fill, markersize=4, zorder=4
            )


def _note(figure: Figure, axis: Any, marks: pd.Series | None) -> None:
    text = (
        "Bars: 95 % intervals over chains (Wilson, effective number of draws; where all draws agree, a chain counts as"
        " one). Dashed: 95 % of draws. Hollow: suspect rung; failed rungs are left out."
    )
    text += " The axis runs from the trained network to the most degraded one." if axis.falling else ""
    if marks is not None and len(marks):
        text += f" Dotted: {', '.join(f'{name} {value:.2g}' for name, value in marks.items())}."
    label = f"{axis.label}{', log axis' if axis.log else ''}"
    figure.supxlabel(f"{label}\n" + style.note(text, figure.get_size_inches()[0]), fontsize=7.5)
