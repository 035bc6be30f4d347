"""The spectrum from memorisation to generalisation: E½ of every behaviour, the natural gap, and what goes with it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.sparse.csgraph import connected_components

from studies.figures import style

NEAR = (0.13, 0.06)  # of a panel: numbers nearer to each other than this would overlap


class Look(NamedTuple):
    """How a call looks."""

    colour: str
    marker: str


LOOKS = {
    "generalising": Look(style.COLOURS[0], "o"),
    "memorising": Look(style.COLOURS[1], "s"),
    "undecided": Look("0.45", "D"),
}


@style.styled
def spectrum(
    found: pd.DataFrame, gap: Any, rungs: pd.DataFrame, marks: pd.Series | None = None, axis: str = "loss rise"
) -> Figure:
    """E½ and retention at the gap by behaviour; below, E½ against training frequency and contribution to test loss.

    Args:
        found: What `studies.generalisation.spectrum` returned.
        gap: The natural gap: name, value, se in nats per token.
        rungs: What `studies.behaviours.rungs` returned, on the axis of E½.
        marks: Loss rises to draw as vertical lines, nats per token, by name.
        axis: What E½ is a value of, in words.
    """
    shown = found[found["call"] != "absent"].sort_values("rank").reset_index(drop=True)
    tall = 1.0 + 0.2 * len(shown)
    figure = Figure(figsize=(7.6, tall + 3.6), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[tall, 2.3])
    halves, kept = (figure.add_subplot(grid[0, place]) for place in (0, 1))
    low, high, near = style.limits(rungs["rise"], None if marks is None else marks.drop(gap.name, errors="ignore"))
    low, high = min(low, gap.value), max(high, gap.value)
    _halves(halves, shown, gap, low / 1.25, high * 1.25)
    halves.set_xlabel(f"half-retention scale E½,\n{axis} ({style.UNIT}, log axis)")
    style.draw_rungs(halves, rungs)
    style.draw_marks([halves], near[near.between(low, high)], names=False)
    _kept(kept, shown)
    panels = [figure.add_subplot(grid[1, place]) for place in (0, 1)]
    _against(panels[0], shown, "frequency", "times an item was seen in training", gap, np.log10)
    _against(panels[1], shown, "test", "contribution to test loss (nats per token)", gap, None)
    _note(figure, found, gap)
    return figure


def _halves(panel: Axes, shown: pd.DataFrame, gap: Any, low: float, high: float) -> None:
    style.log_axis(panel, low, high)
    panel.axvspan(gap.value - 1.96 * gap.se, gap.value + 1.96 * gap.se, color="0.8", linewidth=0)
    panel.axvline(gap.value, color="black", linewidth=0.9)
    ends = panel.get_xlim()
    for height, row in enumerate(shown.to_dict("records")):
        panel.axhline(height, color="0.93", linewidth=0.6, zorder=-1)
        if np.isfinite(row["value"]):
            _point(panel, row, row["value"], height, np.clip([row["low"], row["high"]], *ends), horizontal=True)
    panel.set_yticks(range(len(shown)), [f"{label}  {place + 1}" for place, label in enumerate(shown["label"])])
    panel.set_ylim(len(shown) - 0.4, -0.6)
    panel.set_title(f"line: {gap.name}, {gap.value:.3g}", fontsize=8)


def _kept(panel: Axes, shown: pd.DataFrame) -> None:
    panel.axvline(0.5, color="black", linewidth=0.9)
    for height, row in enumerate(shown.to_dict("records")):
        panel.axhline(height, color="0.93", linewidth=0.6, zorder=-1)
        if np.isfinite(row["at_gap"]):
            _point(panel, row, row["at_gap"], height, [row["at_gap_low"], row["at_gap_high"]], horizontal=True)
            q = f"q = {row['q']:.1g}" if np.isfinite(row["q"]) else "no test"
            panel.annotate(q, (1.02, height), xycoords=("axes fraction", "data"), fontsize=6.5, va="center")
    panel.set_yticks([])
    panel.set_ylim(len(shown) - 0.4, -0.6)
    panel.set_xlim(-0.15, 1.2)
    panel.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    panel.set_xlabel("retention r at the gap\n(share of f(w*) − f₀)")
    panel.set_title("line: one half", fontsize=8)


def _against(
    panel: Axes, shown: pd.DataFrame, column: str, label: str, gap: Any, scale: Callable[..., Any] | None
) -> None:
    panel.set_yscale("log")
    panel.axhline(gap.value, color="black", linewidth=0.9)
    panel.set_xlabel(label + (" (log axis)" if scale else ""))
    panel.set_ylabel(f"E½ ({style.UNIT}, log axis)")
    rows = shown[np.isfinite(shown["value"]) & np.isfinite(shown[column].astype(float))]
    if scale:
        rows = rows[rows[column] > 0]
        panel.set_xscale("log")
    if rows.empty:
        panel.text(0.5, 0.6, "not known", transform=panel.transAxes, ha="center", color="0.4", style="italic")
    for row in rows.to_dict("records"):
        limits = [max(row["low"], row["value"] / 3), min(row["high"], row["value"] * 3)]
        _point(panel, row, row["value"], row[column], limits, horizontal=False)
    _number(panel, rows, column)
    ticks = [tick for tick in (0.05, 0.1, 0.2, 0.5, 1.0, 2.0) if panel.get_ylim()[0] <= tick <= panel.get_ylim()[1]]
    panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()


def _number(panel: Axes, rows: pd.DataFrame, column: str) -> None:
    """The behaviours' numbers beside their points; those whose texts would overlap share one."""
    if rows.empty:
        return
    panel.autoscale_view()  # else the limits are those of an empty panel
    places = rows[[column, "value"]].to_numpy(float)
    at = (panel.transScale + panel.transLimits).transform(places) / NEAR
    _, cluster = connected_components(np.abs(at[:, None] - at[None]).max(-1) < 1)
    for _, same in rows.groupby(cluster):
        numbers = _runs([place + 1 for place in same.index])
        right: Any = same.sort_values(column).iloc[-1]
        place = (right[column], right["value"])
        box: dict[str, Any] = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.4}
        panel.annotate(numbers, place, xytext=(4, 2), textcoords="offset points", fontsize=6, color="0.3", bbox=box)


def _runs(numbers: list[int]) -> str:
    """Ascending numbers, three or more in a row by their ends.

    >>> _runs([1, 2, 3, 5, 7, 8])
    '1–3, 5, 7, 8'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _point(panel: Axes, row: dict, value: float, place: float, limits: Any, horizontal: bool) -> None:
    look = LOOKS[row["call"]]
    ends, at = list(limits), [place, place]
    panel.plot(*((ends, at) if horizontal else (at, ends)), color=look.colour, linewidth=1.0)
    fill = "white" if style.kind(row["verdict"]) == "suspect" else look.colour
    marker = look.marker if not horizontal or row["censored"] == "none" else {"left": "<", "right": ">"}.get(
        row["censored"], "D"
    )  # fmt: skip
    x, y = (value, place) if horizontal else (place, value)
    panel.plot([x], [y], marker, color=look.colour, markerfacecolor=fill, markersize=4.2, zorder=4)


def _note(figure: Figure, found: pd.DataFrame, gap: Any) -> None:
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="", markersize=4.2, label=call)
        for call, look in LOOKS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    text = (
        "Calls: retention at the gap against ½, Benjamini–Hochberg over all behaviours, false discovery rate 5 %. Bars:"
        " 95 % t intervals over chains, cut at the frame. Triangles: E½ is a bound, chains leave the ladder. Grey: the"
        " gap ± 1.96 of its standard errors. Hollow: a suspect rung is involved. On the axis of E½: the rungs, ×"
        " when failed and left out. Below: contribution, the rise of the test loss if the behaviour fell to guessing;"
        " frequency, where it has items; numbers: as above."
    )
    absent = found.loc[found["call"] == "absent", "label"].tolist()
    text += f" Not above chance at w*, or not measured: {', '.join(absent)}." if absent else ""
    figure.supxlabel(style.note(text, figure.get_size_inches()[0]), fontsize=7)
