"""The ranking: at which loss rise half of each behaviour is gone, under each dial."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.figures import style

_SAID: dict[str, Any] = {"fontsize": 6.5, "color": "0.4", "style": "italic", "va": "center"}

SHAPES = {"none": "o", "left": "<", "right": ">", "mixed": "D"}


@style.styled
def ranking(ranks: pd.DataFrame, rungs: pd.DataFrame, marks: pd.Series | None = None) -> Figure:
    """E½ of every behaviour as a point with its interval, a panel a dial, all in the order of the first one.

    Args:
        ranks: What `studies.behaviours.ranking` returned.
        rungs: What `studies.behaviours.rungs` returned: the ladder is drawn on the axis, failed rungs as crosses.
        marks: Loss rises to draw as vertical lines, nats per token, by name.
    """
    dials = style.dials(ranks)
    first = ranks[ranks["dial"] == dials[0]].sort_values("rank", na_position="last")
    order = list(first["label"]) + sorted(set(ranks["label"]) - set(first["label"]))
    width = 3.0 + (2.5 if len(dials) < 3 else 1.9) * len(dials)
    figure = Figure(figsize=(width, 1.7 + 0.2 * len(order)), layout="constrained")
    panels = figure.subplots(1, len(dials), squeeze=False, sharey=True)[0]
    low, high, near = style.limits(rungs["rise"], marks)
    for panel, dial in zip(panels, dials, strict=True):
        style.log_axis(panel, low / 1.25, high * 1.25)
        own = rungs[rungs["dial"] == dial]
        _behaviours(panel, ranks[ranks["dial"] == dial].set_index("label"), order)
        if dial != dials[0]:
            _ghosts(panel, first.set_index("label"), order)
        style.draw_rungs(panel, own)
        pad = style.draw_marks([panel], near, names=True)
        panel.set_title(f"{dial}\n{style.tally(own['verdict'].tolist())}", pad=pad, fontsize=8)
    panels[0].set_yticks(range(len(order)), order)
    panels[0].set_ylim(len(order) - 0.4, -0.6)
    _starts(panels[-1], ranks.drop_duplicates("label").set_index("label"), order)
    _write_note(figure, dials)
    return figure


def _behaviours(panel: Axes, ranks: pd.DataFrame, order: list[str]) -> None:
    for height, label in enumerate(order):
        panel.axhline(height, color="0.92", linewidth=0.6, zorder=-1)
        if label not in ranks.index:
            continue
        row: Any = ranks.loc[label]
        if not row["chains"]:
            panel.text(0.02, height, _short(row["reason"]), transform=panel.get_yaxis_transform(), **_SAID)
        elif np.isfinite(row["value"]):
            _scale(panel, height, row)
        else:
            panel.text(
                0.02, height, "chains leave the ladder at both ends", transform=panel.get_yaxis_transform(), **_SAID
            )


def _scale(panel: Axes, height: int, row: Any) -> None:
    colour = style.COLOURS[0]
    ends = np.array(panel.get_xlim())
    left, right = max(row["low"], ends[0]), min(row["high"], ends[1])
    panel.plot([left, right], [height, height], color=colour, linewidth=1.1)
    for open_end, tip in ((row["low"] == 0, ends[0]), (np.isinf(row["high"]), ends[1])):
        if open_end:
            arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
            panel.annotate("", xy=(tip, height), xytext=(row["value"], height), arrowprops=arrow)
    fill = "white" if style.kind(row["verdict"]) == "suspect" else colour
    shape = SHAPES[row["censored"]]
    panel.plot([row["value"]], [height], shape, color=colour, markerfacecolor=fill, markersize=4.5, zorder=4)


def _ghosts(panel: Axes, first: pd.DataFrame, order: list[str]) -> None:
    values = first["value"].reindex(order).to_numpy(float)
    for height in np.flatnonzero(np.isfinite(values)):
        panel.plot([values[height]], [height], "|", color="0.55", markersize=8, zorder=1)


def _starts(panel: Axes, starts: pd.DataFrame, order: list[str]) -> None:
    """Value at w* and chance level of each behaviour, to the right of the last panel."""
    beside: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "fontsize": 7,
        "va": "center",
        "annotation_clip": False,
    }
    panel.annotate("f(w*)  (chance)  measure", xy=(1.03, -1.0), **beside)
    for height, label in enumerate(order):
        row: Any = starts.loc[label]
        panel.annotate(f"{row['start']:.2f}  ({row['chance']:.2f})  {row['measure']}", xy=(1.03, height), **beside)


def _short(reason: str) -> str:
    return reason.split(":")[0]


def _write_note(figure: Figure, dials: list[str]) -> None:
    text = (
        "Points: mean over chains on the log axis; bars: 95 % t intervals over chains. Triangles: bounds, some chains "
        "cross one half outside the ladder; arrows: no limit on that side. Hollow: a suspect rung encloses the value. "
        "On the axis: the rungs, hollow when suspect, × when failed and left out."
    )
    if len(dials) > 1:
        text += f" Grey bars: E½ under the {dials[0]} dial."
    width = figure.get_size_inches()[0]
    figure.supxlabel(f"half-retention scale E½ ({style.UNIT}, log axis)\n" + style.note(text, width), fontsize=7.5)
