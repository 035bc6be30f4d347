"""Can the ladder be trusted? Traces of the rise, and the criteria of every verdict beside their bounds."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from degrade import plots
from studies.figures import style


@style.styled
def traces(traces: pd.DataFrame, ladder: pd.DataFrame, smooth: int = 20) -> Figure:
    """Rise against step for every rung and chain; see `degrade.plots.traces`."""
    return plots.traces(traces, ladder, style.UNIT.removeprefix("nats per "), smooth)


@style.styled
def verdicts(ladder: pd.DataFrame) -> Figure:
    """Each rung's achieved rise, virials, R̂ and ESS against the bounds of its verdict, and the verdict in words.

    Args:
        ladder: `ladder.table`; columns it lacks are left out of the figure.
    """
    rungs = ladder[ladder["rung"] > 0].reset_index(drop=True)
    ratio = rungs.assign(ratio=rungs["rise"] / rungs["target"], ratio_se=rungs["rise_se"] / rungs["target"])
    columns = [column for column in _CRITERIA if column[0] in ratio and ratio[column[0]].notna().any()]
    widths = [1.0] * len(columns) + [0.7 * len(columns)]
    figure = Figure(figsize=(7.6, 1.25 + 0.33 * max(len(rungs), 3)), layout="constrained")
    panels = figure.subplots(1, len(columns) + 1, sharey=True, squeeze=False, width_ratios=widths)[0]
    for panel, (name, title, bound, scale) in zip(panels, columns, strict=False):
        _criterion(panel, ratio, name, bound, scale)
        panel.set_title(title)
    _words(panels[-1], rungs)
    shown = "target rise" if rungs["target"].notna().any() else "rise"
    panels[0].set_ylabel(f"rung: {shown}\n({style.UNIT})")
    panels[0].set_yticks(range(len(rungs)), [_name(row) for row in rungs.to_dict("records")])
    panels[0].set_ylim(len(rungs) - 0.5, -0.5)
    figure.supxlabel(style.note(_NOTE, 7.6), fontsize=7.5)
    return figure


_CRITERIA = [
    ("ratio", "achieved /\ntarget", (0.95, 1.05), "linear"),
    ("virial", "virial", (0.95, 1.05), "linear"),
    ("weighted_virial", "weighted\nvirial", (0.95, 1.05), "linear"),
    ("temperature", "config.\ntemperature", (0.9, 1.1), "linear"),
    ("heating", "step adds\nto rise", (None, 0.15), "linear"),
    ("rhat", "R̂", (None, 1.05), "linear"),
    ("ess", "bulk ESS", (50, None), "log"),
]
_FILL: tuple[dict[str, Any], ...] = ({}, {"markerfacecolor": "white"})
_NOTE = (
    "Shaded: the bounds that a verdict asks for, up to three standard errors of the reading. Bars: ± 2 standard "
    "errors. Filled: ok; hollow: suspect; ×: failed. No column has a unit."
)


def _criterion(
    panel: Axes, rungs: pd.DataFrame, name: str, bound: tuple[float | None, float | None], scale: str
) -> None:
    panel.set_xscale(scale)
    error = rungs[f"{name}_se"].fillna(0) if f"{name}_se" in rungs else pd.Series(0.0, index=rungs.index)
    for height, (value, se, verdict) in enumerate(zip(rungs[name], error, rungs["verdict"], strict=True)):
        panel.axhline(height, color="0.92", linewidth=0.6, zorder=-2)
        if not np.isfinite(value):
            continue
        kind = style.kind(verdict)
        look: dict[str, Any] = {"color": style.VERDICT_COLOURS[kind]}
        if se > 0:
            panel.plot([value - 2 * se, value + 2 * se], [height] * 2, color=look["color"], linewidth=1)
        panel.plot(
            [value], [height], "x" if kind == "failed" else "o", markersize=4.5, **look, **_FILL[kind == "suspect"]
        )
    _bounds(panel, bound)


def _bounds(panel: Axes, bound: tuple[float | None, float | None]) -> None:
    left, right = panel.get_xlim()
    low, high = bound
    left, right = min(left, (low or high or left) * 0.99), max(right, (low or right) * 1.05, (high or right) * 1.005)
    panel.axvspan(left if low is None else low, right if high is None else high, color="0.93", zorder=-3, linewidth=0)
    panel.set_xlim(left, right)
    panel.tick_params(axis="y", length=0)
    if low is not None and high is not None:
        panel.set_xticks([low, high])
        return
    if panel.get_xscale() == "linear":
        panel.locator_params(axis="x", nbins=3)
        return
    ticks = [tick for tick in (50, 200, 1000, 5000, 20000) if left <= tick <= right]
    panel.minorticks_off()
    shown = ticks[:: max(1, -(-len(ticks) // 3))]
    panel.set_xticks(shown, [f"{tick:g}" for tick in shown])


def _words(panel: Axes, rungs: pd.DataFrame) -> None:
    panel.set_axis_off()
    panel.text(0, 1.03, "verdict and reason", transform=panel.transAxes, fontsize=8.5, va="bottom")
    for height, (verdict, reason) in enumerate(zip(rungs["verdict"], rungs["reason"].fillna(""), strict=True)):
        text = verdict if not reason else f"{verdict}: {reason}"
        lines = textwrap.wrap(text, 44)
        short = "\n".join(lines[:2]) + (" …" if len(lines) > 2 else "")
        words = panel.text(0, height, short, transform=panel.get_yaxis_transform(), va="center", fontsize=6.5)
        words.set_in_layout(False)


def _name(row: dict) -> str:
    return f"{row['rung']}: {row['target'] if np.isfinite(row['target']) else row['rise']:.3g}"
