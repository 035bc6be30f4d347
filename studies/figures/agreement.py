"""Rank correlations of half-retention scales, dial by dial."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from studies.figures import style

_TITLES = {"frequency": "with training frequency", "generality": "with generality"}
_NOTE = (
    "Means over chains, bars 95 % t intervals; no bar: one draw a rung. Filled: differs from the natural dial at "
    "q ≤ 0.05 (the natural dial itself is black). Triangles: a suspect rung among the dial's. Dashed: the natural dial."
)


@style.styled
def agreements(found: pd.DataFrame) -> Figure:
    """τ_b of E½ with frequency and with generality: a panel each, a row a dial.

    Args:
        found: What `studies.dials_agreement.agreements` returned.
    """
    dials = style.dials(found)
    kinds = list(found["against"].unique())
    figure = Figure(figsize=(7.6, 1.5 + 0.3 * len(dials)), layout="constrained")
    panels = figure.subplots(1, max(len(kinds), 1), sharey=True, squeeze=False)[0]
    for panel, against in zip(panels, kinds, strict=False):
        rows = found[found["against"] == against].set_index("dial")
        panel.axvline(0, color="0.8", linewidth=0.7, zorder=0)
        if "natural" in rows.index:
            panel.axvline(rows.loc["natural", "value"], color="0.4", linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
        for height, dial in enumerate(dials):
            panel.axhline(height, color="0.92", linewidth=0.6, zorder=-1)
            if dial in rows.index:
                _dial(panel, height, rows.loc[dial], dial)
        panel.set_xlim(-1.05, 1.05)
        panel.set_xlabel(rf"Kendall's $\tau_b$ of E½ {_TITLES[against]} (no unit)")
    panels[0].set_yticks(range(len(dials)), dials)
    panels[0].set_ylim(len(dials) - 0.5, -0.5)
    figure.supxlabel(style.note(_NOTE, 7.6), fontsize=7.5)
    return figure


def _dial(panel: Any, height: int, row: Any, dial: str) -> None:
    colour = "black" if dial == "natural" else style.COLOURS[0]
    if np.isfinite(row["low"]):
        panel.plot(np.clip([row["low"], row["high"]], -1, 1), [height, height], color=colour, linewidth=1.1)
    fill = colour if dial == "natural" or row["q"] <= 0.05 else "white"
    shape = "^" if style.kind(row["verdict"]) == "suspect" else "o"
    panel.plot([row["value"]], [height], shape, color=colour, markerfacecolor=fill, markersize=4.5, zorder=4)
