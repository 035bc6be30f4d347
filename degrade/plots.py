"""One figure of a ladder: its traces."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4


def traces(traces: pd.DataFrame, table: pd.DataFrame, unit: str, smooth: int = 20) -> "Figure":
    """Rise against step for every rung and chain: the part that was thrown away is pale, the target dashed.

    Args:
        traces: `ladder.traces`: rung, chain, step, kept, rise (of single minibatches).
        table: `ladder.table`, for targets and verdicts.
        unit: what a rise is nats per: "token", "example".
        smooth: running mean over this many steps of a chain.
    """
    from matplotlib.figure import Figure

    rungs = table[table.rung > 0]
    down = -(-len(rungs) // COLUMNS)
    figure = Figure(figsize=(7.6, 0.7 + 1.5 * down), layout="constrained")
    panels = figure.subplots(down, min(COLUMNS, len(rungs)), squeeze=False).ravel()
    for panel, row in zip(panels, rungs.itertuples(), strict=False):
        _chains(panel, traces[traces.rung == row.rung], smooth)
        target, rise = float(row.target), float(row.rise)  # type: ignore[arg-type]
        if np.isfinite(target):
            panel.axhline(target, color="black", linestyle=(0, (4, 2)), linewidth=0.8, zorder=5)
        level = f"rise {rise:.3g}" if np.isfinite(rise) else "no rise"
        panel.set_title(f"rung {row.rung}, {level}\n{row.verdict}", fontsize=7.5)
        panel.tick_params(labelsize=7)
    for panel in panels[len(rungs) :]:
        panel.remove()
    note = f"One line a chain, running means over {smooth} steps; pale: discarded. Dashed: the target. Own scales."
    figure.supxlabel(f"step\n{note}", fontsize=7.5)
    figure.supylabel(f"loss rise ΔL (nats per {unit})", fontsize=8)
    return figure


def _chains(panel: "Axes", rows: pd.DataFrame, smooth: int) -> None:
    for number, (_, chain) in enumerate(rows.groupby("chain")):
        chain = chain.sort_values("step")
        rise = chain["rise"].rolling(smooth, min_periods=1).mean()
        panel.plot(chain["step"], rise, color=f"C{number % 10}", linewidth=0.6, alpha=0.3)
        panel.plot(chain["step"], rise.where(chain["kept"].astype(bool)), color=f"C{number % 10}", linewidth=0.8)
    panel.locator_params(nbins=4)
