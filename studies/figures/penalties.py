"""The generalisation penalty: its three measures copy by copy, and the curves they are read from."""

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from studies.figures import style
from studies.structure import BETWEEN

PANELS = (
    ("P1 ratio", "P1: E½(base) / E½(copy)\n(no unit, log axis)", 1.0),
    ("P2", "P2: structure lost beyond the loss\n(share of the base model's)", 0.0),
    ("P3", "P3: loss outside the task, copy − base\n(nats per token)", 0.0),
)
_NOTE = (
    "Large: mean over behaviours (P3: its only number), bars 95 % intervals (P1, P3: Welch's t over chains; P2: chains "
    "and questions). Small: single behaviours, filled where called at q ≤ 0.05. Hollow large: a suspect rung is "
    "involved. Triangles: bounds, chains leave the ladder. P2 bars without a point: the copy's loss lies between "
    "the base model's w* and first rung, the bar reaches to both, single behaviours are shown where called. Right of "
    "the line: a penalty."
)


@style.styled
def penalties(found: pd.DataFrame) -> Figure:
    """P1, P2 and P3, a panel each, a row for each copy and potential.

    Args:
        found: What `studies.finetuning_penalty.penalties` returned.
    """
    rows = list(found[["potential", "model"]].drop_duplicates().itertuples(index=False, name=None))
    figure = Figure(figsize=(7.6, 1.5 + 0.42 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharey=True, squeeze=False)[0]
    for panel, (quantity, title, even) in zip(panels, PANELS, strict=True):
        if quantity == "P1 ratio":
            panel.set_xscale("log")
        panel.axvline(even, color="0.4", linewidth=0.8, zorder=0)
        for height, place in enumerate(rows):
            panel.axhline(height, color="0.92", linewidth=0.6, zorder=-1)
            mine = found[(found["quantity"] == quantity) & (found[["potential", "model"]] == place).all(axis=1)]
            _row(panel, height, mine)
        panel.set_xlabel(title)
    _ticks(panels[0], found.loc[found["quantity"] == "P1 ratio", "value"])
    panels[0].set_yticks(range(len(rows)), [f"{model}\n({potential})" for potential, model in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.supxlabel(style.note(_NOTE, 7.2), fontsize=7.5)
    return figure


def _row(panel: Axes, height: int, rows: pd.DataFrame) -> None:
    shown = rows[np.isfinite(rows["value"])].sort_values("value").reset_index(drop=True)
    overall = shown["label"].eq("all behaviours") | shown["quantity"].eq("P3")
    between = shown["note"].str.contains(BETWEEN, regex=False)
    single = shown[~overall & ~(between & shown["call"].eq("undecided"))]
    each: Any
    for place, each in enumerate(single.itertuples()):
        fill = style.COLOURS[0] if each.call != "undecided" else "white"
        panel.plot([each.value], [height + 0.12 + 0.07 * (place % 4)], _shape(each), color=style.COLOURS[0],
                   markerfacecolor=fill, markersize=3, linewidth=0)  # fmt: skip
    for each in shown[overall].itertuples():
        ends = [end for end in (each.low, each.high) if np.isfinite(end)]
        if len(ends) == 2:
            panel.plot(ends, [height - 0.12] * 2, color=style.COLOURS[1], linewidth=1.2)
    for each in shown[overall & ~between].itertuples():
        fill = "white" if style.kind(each.verdict) == "suspect" else style.COLOURS[1]
        panel.plot([each.value], [height - 0.12], _shape(each), color=style.COLOURS[1], markerfacecolor=fill, zorder=4)


def _shape(each: Any) -> str:
    if np.isposinf(each.high):
        return ">"
    return "<" if np.isneginf(each.low) or (each.quantity == "P1 ratio" and each.low == 0) else "o"


def _ticks(panel: Axes, values: pd.Series) -> None:
    finite = values[np.isfinite(values) & (values > 0)]
    low, high = panel.get_xlim()
    ends = [min([*finite, 0.5]) / 1.5, max([*finite, 2.0]) * 1.5]
    panel.set_xlim(max(low, ends[0]), min(high, ends[1]))
    places = [
        tick
        for tick in (0.05, 0.1, 0.2, 0.5, 0.7, 1, 1.4, 2, 5, 10, 20)
        if panel.get_xlim()[0] <= tick <= panel.get_xlim()[1]
    ]
    panel.set_xticks(places, [f"{tick:g}" for tick in places])
    panel.xaxis.set_minor_formatter(NullFormatter())


@style.styled
def absolute(curves: pd.DataFrame) -> Figure:
    """The value of each behaviour against the base-corpus loss itself: a panel a behaviour, a line a copy.

    Args:
        curves: potential, model, rung, verdict, measure, behaviour, value, start, start_se, chance, base (nats per
            token); the first potential is drawn.
    """
    shown = curves[(curves["potential"] == curves["potential"].iloc[0])]
    labels = sorted(shown[["behaviour", "measure"]].drop_duplicates().itertuples(index=False, name=None), key=_counted)
    across = min(4, len(labels))
    down = -(-len(labels) // across)
    figure = Figure(figsize=(7.6, 1.1 + 1.45 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    models = _models(shown)
    for panel, (label, measure) in zip(panels, labels, strict=False):
        mine = shown[(shown["behaviour"] == label) & (shown["measure"] == measure)]
        _lines(panel, mine, models, "base", "value")
        panel.axhline(mine["chance"].iloc[0], color="0.6", linewidth=0.7, linestyle=(0, (1, 1.5)))
        panel.set_title(f"{label}\n({measure})", fontsize=7.5)
    for place in range(len(labels), len(panels)):
        panels[place].set_visible(False)
        panels[place - across].tick_params(labelbottom=True)
    _keys(figure, models)
    figure.supylabel("value of the measure named above (loss, excess: nats per token; others: shares)", fontsize=7.5)
    text = "Dotted: chance. The first point of a line is the copy's own w*; hollow: suspect rungs. Means over chains."
    figure.supxlabel("base-corpus loss (nats per token)\n" + style.note(text, 7.6), fontsize=7.5)
    return figure


@style.styled
def trade(losses: pd.DataFrame) -> Figure:
    """Loss outside the task against the loss on it: a panel a potential, a line a copy, w* first.

    Args:
        losses: potential, model, rung, verdict, task, others and their standard errors (nats per token).
    """
    kinds = list(losses["potential"].unique())
    figure = Figure(figsize=(7.6, 3.4), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    models = _models(losses)
    for panel, kind in zip(panels, kinds, strict=True):
        mine = losses[losses["potential"] == kind]
        _lines(panel, mine, models, "task", "others", error="others_se")
        panel.set_title(f"potential: {kind}")
        panel.set_xlabel("loss on the task (nats per token)")
    panels[0].set_ylabel("loss outside the task\n(nats per token)")
    _keys(figure, models)
    text = (
        "The first point of a line is the copy's own w*. Hollow: suspect rungs. Bars: ± one standard error over chains."
    )
    figure.supxlabel(style.note(text, 7.6), fontsize=7.5)
    return figure


def _counted(label: tuple[str, str]) -> list[tuple[str, int]]:
    """Sorts x2 before x16: the words of a behaviour's and a measure's name, each with its number."""
    return [(part.rstrip("0123456789"), int("0" + "".join(re.findall(r"\d+$", part)))) for part in label]


def _models(rows: pd.DataFrame) -> list[str]:
    """Base, control, then the copies, so that each looks the same in every figure."""
    return sorted(rows["model"].unique(), key=lambda name: (name != "base", name != "control", name))


def _lines(panel: Axes, rows: pd.DataFrame, models: list[str], x: str, y: str, error: str | None = None) -> None:
    for model, look in zip(models, style.lines(["-"] * len(models)), strict=True):
        line = rows[rows["model"] == model].sort_values("rung")
        if line.empty:
            continue
        panel.plot(line[x], line[y], color=look.colour, linestyle=look.dashes, linewidth=1)
        if error is not None:
            panel.errorbar(line[x], line[y], line[error].fillna(0), color=look.colour, linewidth=0, elinewidth=0.8)
        for suspect, fill in ((False, look.colour), (True, "white")):
            some = line[(line["verdict"].map(style.kind) == "suspect") == suspect]
            if len(some):
                panel.plot(some[x], some[y], look.marker, color=look.colour, markerfacecolor=fill, markersize=3.5)


def _keys(figure: Figure, models: list[str]) -> None:
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dashes, markersize=3.5, label=model)
        for model, look in zip(models, style.lines(["-"] * len(models)), strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(6, len(models)), frameon=False)


@style.styled
def kept(found: pd.DataFrame) -> Figure:
    """What a larger model keeps beyond a smaller one at its loss: a row a behaviour.

    Args:
        found: What `studies.decoupling.kept` returned.
    """
    rows = found[np.isfinite(found["value"])].sort_values("value").reset_index(drop=True)
    figure = Figure(figsize=(5.6, 1.4 + 0.2 * max(len(rows), 3)), layout="constrained")
    panel = figure.subplots()
    panel.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    if rows.empty:
        why = style.note(f"Nothing to compare: {found['note'].iloc[0]}.", 4.0)
        panel.text(0.5, 0.5, why, ha="center", va="center", fontsize=7.5, transform=panel.transAxes)
    row: Any
    for height, row in enumerate(rows.itertuples()):
        colour = style.COLOURS[1] if row.label == "all behaviours" else style.COLOURS[0]
        if np.isfinite(row.low):
            panel.plot([row.low, row.high], [height, height], color=colour, linewidth=1.1)
        if BETWEEN in row.note and row.call == "undecided":
            continue
        fill = "white" if row.call == "undecided" else colour
        panel.plot([row.value], [height], "o", color=colour, markerfacecolor=fill, markersize=4.5, zorder=4)
    panel.set_yticks(range(len(rows)), list(rows["label"]))
    text = (
        "Bars: 95 % intervals over chains and questions; where the smaller model's loss lies between w* and the first "
        "rung, they reach to both, without a point. Filled: called at q ≤ 0.05. Right of 0: more is kept."
    )
    axis = "larger at the smaller model's loss − smaller\n(share of the larger model's f(w*) − f₀)\n"
    figure.supxlabel(axis + style.note(text, 5.6), fontsize=7.5)
    return figure
