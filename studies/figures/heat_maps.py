"""Heat maps of a patching probe, one a rung, all on one colour scale with white at zero."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.figures import style


@style.styled
def heat_maps(
    cells: pd.DataFrame,
    label: str = "recovery (0: corrupted run, 1: clean run)",
    rows: tuple[str, ...] = ("site", "layer"),
    column: str = "position",
    order: Sequence[str] = (),
) -> Figure:
    """Small multiples of rows (site × layer) by column (position), w* first, with the rise and verdict of each rung.

    Args:
        cells: What `studies.behaviours.cells` returned, with columns rung, rise, verdict, value and the keys.
        label: Name and unit of the values.
        rows: Keys that make a row of the map.
        column: Key that makes a column.
        order: Columns in the order they are drawn; empty: sorted.

    Raises:
        ValueError: No cell has a finite value.
    """
    extreme = float(cells["value"].abs().max())
    if not np.isfinite(extreme):
        raise ValueError(f"no finite value among {len(cells)} cells: there is nothing to draw")
    names = [tuple(row) for row in cells[list(rows)].drop_duplicates().itertuples(index=False)]
    names = sorted(names, key=lambda name: (_first(cells, rows[0], name[0]), *map(_number, name[1:])))
    present = set(cells[column].dropna().unique())
    places = [place for place in order if place in present] or sorted(present)
    count = cells["rung"].nunique()
    across = next((columns for columns in (4, 3) if count % columns == 0), 3)
    down = -(-count // across)
    figure = Figure(figsize=(7.6, 0.95 + down * (0.5 + 0.12 * len(names))), layout="constrained")
    panels = figure.subplots(down, min(across, count), squeeze=False, sharex=True, sharey=True)
    for panel, (_, rung) in zip(panels.ravel(), cells.groupby("rung"), strict=False):
        grid = rung.pivot_table(index=list(rows), columns=column, values="value").reindex(names)[places]
        image = _map(panel, grid.to_numpy(float), extreme or 1.0)
        panel.set_title(_title(rung.iloc[0]), fontsize=7.5)
    for panel in panels.ravel()[count:]:
        panel.set_visible(False)
    _axes(panels, names, places, column, count)
    bar = figure.colorbar(image, ax=panels, shrink=0.8, aspect=30, pad=0.015)
    bar.set_label(label)
    figure.supxlabel(style.note(_NOTE, 7.6), fontsize=7.5)
    return figure


_NOTE = "Means over prompts, draws and chains; one colour scale for all maps, white at 0. Failed rungs are left out."


def _map(panel: Axes, grid: np.ndarray, extreme: float):  # noqa: ANN202 (AxesImage has no public import path)
    panel.set_facecolor("0.85")
    panel.spines[:].set_visible(True)
    return panel.imshow(grid, cmap="RdBu", vmin=-extreme, vmax=extreme, aspect="auto", interpolation="nearest")


def _title(row: pd.Series) -> str:
    if row["rung"] == 0:
        return "w*: trained, rise 0"
    return f"rung {int(row['rung'])}: {row['verdict']}\nrise {row['rise']:.3g} {style.UNIT}"


def _axes(panels: np.ndarray, names: list[tuple], places: list, column: str, count: int) -> None:
    step = max(1, len(places) // 8)
    for panel in panels[:, 0]:
        panel.set_yticks(range(len(names)), [" ".join(map(_text, name)) for name in names], fontsize=6)
        for height in range(1, len(names)):
            if names[height][0] != names[height - 1][0]:
                for other in panels.ravel():
                    other.axhline(height - 0.5, color="0.4", linewidth=0.6)
    across = panels.shape[1]
    for place, panel in enumerate(panels.ravel()[:count]):
        upright = any(isinstance(name, str) for name in places)
        ticks = range(len(places)) if upright else range(0, len(places), step)
        panel.set_xticks(ticks, [_text(places[tick]) for tick in ticks], rotation=90 if upright else 0, fontsize=6)
        if place + across >= count:
            panel.set_xlabel(column)
            panel.tick_params(labelbottom=True)


def _first(cells: pd.DataFrame, key: str, name: object) -> int:
    return int(np.argmax((cells[key] == name).to_numpy())) if key != "site" else _SITES.get(str(name), len(_SITES))


_SITES = {"resid_pre": 0, "attn_out": 1, "mlp_out": 2}


def _number(name: object) -> float:
    return float(name) if isinstance(name, (int, float, np.number)) else 0.0


def _text(name: object) -> str:
    return f"{name:g}" if isinstance(name, (int, float, np.number)) else str(name)
