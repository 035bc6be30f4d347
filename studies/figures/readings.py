"""What one probe reads: a panel a measure, a line a cell."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.figures import style
from studies.readings import LIKENESS

ACROSS, LINES = 2, 8  # panels in a row, lines a panel can hold
WIDTH, PANEL, HEIGHT = 7.6, 1.85, 1.25  # inches: figure, and axes of a panel
LEFT, BELOW, ABOVE, GAP = 0.5, 0.62, 0.28, 0.45  # inches
ROOM = 0.3  # above and below the points, in their range: bands of few chains would leave nothing of them
LONGEST = 27  # characters of a cell in the legend


@style.styled
def readings(rows: pd.DataFrame, units: Mapping[str, str] | None = None) -> Figure:
    """Value against the loss rise, w* on the left, in the unit of each measure.

    Args:
        rows: What `studies.readings.readings` returned, of one probe; likenesses are not drawn.
        units: Unit by measure.

    Raises:
        ValueError: There is no rung, or nothing that could be drawn.
    """
    drawn = rows[np.isfinite(rows["mean"].astype(float)) & (rows["cell"] != LIKENESS)]
    ladder = drawn[drawn["rung"] > 0]
    measures = list(dict.fromkeys(ladder["measure"]))
    if not measures:
        raise ValueError(f"no rung has a finite value among {len(rows)} rows: there is nothing to draw")
    down = -(-len(measures) // ACROSS)
    tall = down * (HEIGHT + ABOVE + GAP) + BELOW - GAP
    figure = Figure(figsize=(WIDTH, tall))
    low, high, _ = style.limits(ladder["rise"], None)
    for place, measure in enumerate(measures):
        left = LEFT + (place % ACROSS) * WIDTH / ACROSS
        bottom = tall - (place // ACROSS + 1) * (HEIGHT + ABOVE + GAP) + GAP
        panel = figure.add_axes((left / WIDTH, bottom / tall, PANEL / WIDTH, HEIGHT / tall))
        _panel(panel, drawn[drawn["measure"] == measure], low / 1.6)
        style.log_axis(panel, low, high, low / 1.6)
        panel.set_title(_title(measure, units or {}), fontsize=7, loc="left")
    text = "Points: mean over draws; bands: 95 % intervals over chains, cut at the frame; hollow: suspect rung."
    figure.text(
        0.5, 0.04 / tall, f"loss rise ΔL ({style.UNIT}, log axis)\n{text}", ha="center", va="bottom", fontsize=7
    )
    return figure


def _title(measure: str, units: Mapping[str, str]) -> str:
    return f"{measure} ({units[measure]})" if units.get(measure) else measure


def _panel(panel: Axes, rows: pd.DataFrame, start: float) -> None:
    cells = list(dict.fromkeys(rows["cell"]))[:LINES]
    for cell, look in zip(cells, style.lines(cells), strict=True):
        _line(panel, rows[rows["cell"] == cell].sort_values("rung"), look, start)
    values = rows.loc[rows["cell"].isin(cells), "mean"].astype(float)
    room = ROOM * float(np.ptp(values)) or 0.1 * float(values.abs().max()) or 1.0
    panel.set_ylim(float(values.min()) - room, float(values.max()) + room)
    if len(cells) > 1:
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=5.5, handlelength=2.6)


def _line(panel: Axes, rows: pd.DataFrame, look: style.Line, start: float) -> None:
    rows = rows[(rows["rung"] == 0) | (rows["rise"] > 0)]
    x = rows["rise"].where(rows["rung"] > 0, start).to_numpy(float)
    y, limits = rows["mean"].to_numpy(float), rows[["low", "high"]].to_numpy(float)
    ladder = (rows["rung"] > 0).to_numpy()
    panel.fill_between(x[ladder], *limits[ladder].T, color=look.colour, alpha=0.15, linewidth=0)
    name = str(rows["cell"].iloc[0])
    label = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    panel.plot(x, y, color=look.colour, linestyle=look.dashes, marker=look.marker, markersize=3, label=label)
    suspect = (rows["verdict"].map(style.kind) == "suspect").to_numpy()
    if suspect.any():
        panel.plot(x[suspect], y[suspect], look.marker, color=look.colour, markerfacecolor="white", markersize=3)
