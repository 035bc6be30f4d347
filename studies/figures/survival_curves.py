"""Survival curves: what is left of each behaviour as the loss rises."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from studies.figures import style

CROWD = 8  # curves a panel can hold


@style.styled
def survival(
    curves: pd.DataFrame,
    rungs: pd.DataFrame,
    marks: pd.Series | None = None,
    value: str = "retention",
    families: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
) -> Figure:
    """Retention, or the measure itself, against the loss rise: a column a dial, a row a family of behaviours.

    Args:
        curves: What `studies.behaviours.curves` returned.
        rungs: What `studies.behaviours.rungs` returned: failed rungs are shown as crosses on the axis.
        marks: Loss rises to draw as vertical lines, nats per token, by name.
        value: "retention", or "mean" for the value in the measure's own unit (then a row holds one measure only).
        families: Row title by behaviour; None: by the first word of the name, small families together.
        units: Unit by measure, for the axis of `value="mean"`.

    Raises:
        ValueError: `value` is neither.
    """
    if value not in ("retention", "mean"):
        raise ValueError(f"value must be 'retention' or 'mean', got {value!r}")
    shown = curves[np.isfinite(curves[value])]
    rows = _rows(shown, value, families)
    dials = style.dials(shown)
    width, height = 1.3 + (2.75 if len(dials) < 3 else 2.3) * len(dials), 1.1 + 1.75 * len(rows)
    figure = Figure(figsize=(max(width, 4.6), height), layout="constrained")
    grid = figure.subplots(len(rows), len(dials), squeeze=False, sharex=True, sharey="row")
    low, high, near = style.limits(rungs["rise"], marks)
    for across, dial in enumerate(dials):
        for down, labels in enumerate(rows.values()):
            mine = shown[(shown["dial"] == dial) & shown["label"].isin(labels)]
            _panel(grid[down, across], mine, labels, value, low / 1.6)
            style.draw_rungs(grid[down, across], rungs[rungs["dial"] == dial])
            style.log_axis(grid[down, across], low, high, low / 1.6)
        verdicts = style.tally(rungs.loc[rungs["dial"] == dial, "verdict"].tolist())
        pad = style.draw_marks([grid[0, across]], near, names=True)
        style.draw_marks(list(grid[1:, across]), near, names=False)
        grid[0, across].set_title(f"{dial}\n{verdicts}", pad=pad, fontsize=8)
    for down, (title, labels) in enumerate(rows.items()):
        grid[down, 0].set_ylabel(f"{title}\n{_axis(shown, labels, value, units)}")
        _legend(grid[down, -1], labels)
    _write_note(figure, value, marks, near, sorted(set(curves["label"]) - set(shown["label"])))
    return figure


def _rows(shown: pd.DataFrame, value: str, families: Mapping[str, str] | None) -> dict[str, list[str]]:
    """Labels by row title, in the order in which the behaviours break."""
    names: dict[Any, Any] = shown.drop_duplicates("label").set_index("label")[["behaviour", "measure"]].to_dict("index")
    half = shown[shown["dial"] == style.dials(shown)[0]].groupby("label")["retention"].mean()
    order = sorted(names, key=lambda label: (half.get(label, np.inf), label))
    family = {label: (families or {}).get(names[label]["behaviour"]) or label.split(" ")[0] for label in order}
    size = pd.Series(family).value_counts()
    rows: dict[str, list[str]] = {}
    for label in order:
        title = family[label] if size[family[label]] > 2 or families else "other behaviours"
        title = title if value == "retention" else f"{title}: {names[label]['measure']}"
        rows.setdefault(title, []).append(label)
    return {name: part for title, labels in rows.items() for name, part in _split(title, labels).items()}


def _split(title: str, labels: list[str]) -> dict[str, list[str]]:
    parts = -(-len(labels) // CROWD)
    if parts == 1:
        return {title: style.ordered(labels)}
    return {
        f"{title} ({n + 1} of {parts})": style.ordered(list(part))
        for n, part in enumerate(np.array_split(labels, parts))
    }


def _panel(panel: Axes, curves: pd.DataFrame, labels: list[str], value: str, start: float) -> None:
    if value == "retention":
        panel.axhline(0.5, color="0.8", linewidth=0.7, zorder=0)
        panel.axhline(0, color="0.8", linewidth=0.7, zorder=0)
        panel.set_ylim(-0.12, 1.18)
        panel.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    for label, look in zip(labels, style.lines(labels), strict=True):
        rows = curves[curves["label"] == label].sort_values("rise")
        _curve(panel, rows[(rows["rung"] == 0) | (rows["rise"] > 0)], look, value, start)


def _curve(panel: Axes, rows: pd.DataFrame, look: style.Line, value: str, start: float) -> None:
    low, high = ("retention_low", "retention_high") if value == "retention" else ("low", "high")
    x = rows["rise"].where(rows["rung"] > 0, start).to_numpy()
    y, ladder = rows[value].to_numpy(), (rows["rung"] > 0).to_numpy()
    panel.fill_between(x[ladder], rows[low][ladder], rows[high][ladder], color=look.colour, alpha=0.15, linewidth=0)
    panel.plot(x[ladder], y[ladder], color=look.colour, linestyle=look.dashes)
    panel.plot(x[:2], y[:2], color=look.colour, linestyle=(0, (1, 2)), linewidth=0.7)
    for suspect, fill in ((False, look.colour), (True, "white")):
        some = (rows["verdict"].map(style.kind) == "suspect").to_numpy() == suspect
        if some.any():  # matplotlib lays an empty line with markers out at the origin
            panel.plot(x[some], y[some], look.marker, color=look.colour, markerfacecolor=fill, markersize=3.8, zorder=4)


def _legend(panel: Axes, labels: list[str]) -> None:
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dashes, markersize=3.8, label=label)
        for label, look in zip(labels, style.lines(labels), strict=True)
    ]
    panel.legend(handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, handlelength=3.2)


def _axis(shown: pd.DataFrame, labels: list[str], value: str, units: Mapping[str, str] | None) -> str:
    if value == "retention":
        return "retention r"
    measure = shown.loc[shown["label"] == labels[0], "measure"].iloc[0]
    return f"({(units or {}).get(measure, 'unit of the measure')})"


def _write_note(figure: Figure, value: str, marks: pd.Series | None, near: pd.Series, absent: list[str]) -> None:
    text = "r = (f − f₀)/(f(w*) − f₀), f₀ = chance level. " if value == "retention" else ""
    text += "Points: mean over draws; bands: 95 % intervals over chains (t reference), given the questions. "
    text += "Hollow: suspect rung; × on the axis: failed rung, left out."
    far: Any = {} if marks is None else marks.drop(near.index)
    if len(far):
        text += " Off the axis: " + ", ".join(f"{name} at {value:.3g}" for name, value in far.items()) + "."
    if absent:
        text += f" Not shown, as not above chance at w*: {', '.join(absent)}."
    width = figure.get_size_inches()[0]
    figure.supxlabel(f"loss rise ΔL ({style.UNIT}, log axis)\n" + style.note(text, width), fontsize=7.5)
