"""One figure of a ladder: its traces."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from degrade.result import Ladder


def traces(ladder: "Ladder") -> "Figure":
    """Rise of each chain (means of 20 steps of minibatches) against step, a panel a rung, the discarded part shaded."""
    from matplotlib.figure import Figure

    rungs = ladder.table[ladder.table.rung > 0]
    columns = min(4, len(rungs))
    rows = -(-len(rungs) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, row in zip(panels, rungs.itertuples(), strict=False):
        mine = ladder.traces[ladder.traces.rung == row.rung]
        for _, chain in mine.groupby("chain"):
            smooth = np.convolve(chain.rise, np.full(20, 1 / 20), mode="valid")
            panel.plot(np.arange(len(smooth)) + 20, smooth, linewidth=0.8)
        panel.axvspan(0, row.burn_in, color="0.92", zorder=0)
        panel.axhline(row.target, color="black", linewidth=0.8, linestyle="--")
        panel.set_title(f"rung {row.rung}: {row.verdict}", fontsize=8)
        panel.set_xlabel("step")
        panel.set_ylabel(f"rise (nats per {ladder.manifest['unit']})")
    for panel in panels[len(rungs) :]:
        panel.remove()
    return figure
