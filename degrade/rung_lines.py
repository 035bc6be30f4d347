"""The rungs of a finished run as a table for the terminal: what each reached, at which temperature, and its verdict."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HEAD = ("rung", "target", "rise", "nβ", "λ", "verdict", "reason")


def lines(folder: Path) -> list[str]:
    """A head and a line a rung, in aligned columns; none for a run without a ladder.

    Rises are in nats per unit of the loss, ± one standard error; a run with several ladders names them first.
    """
    stored = folder / "ladder.parquet"
    if not stored.is_file():
        return []
    table = pd.read_parquet(stored)
    names = [name for name in ("model", "potential") if name in table]
    cells = [[*names, *HEAD]]
    cells += [[*(str(row[name]) for name in names), *_cells(row)] for row in table.to_dict("records") if row["rung"]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cells(row: dict[Any, Any]) -> list[str]:
    error = row.get("rise_se", np.nan)
    rise = _number(row["rise"], ".3g") + (f" ± {error:.1g}" if np.isfinite(error) else "")
    numbers = [_number(row.get(name, np.nan), form) for name, form in (("nbeta", ",.0f"), ("llc", ",.0f"))]
    said = [str(row.get(name)) if isinstance(row.get(name), str) else "" for name in ("verdict", "reason")]
    return [str(row["rung"]), _number(row.get("target", np.nan), ".3g"), rise, *numbers, *said]


def _number(value: float, form: str) -> str:
    return f"{value:{form}}" if np.isfinite(value) else "–"
