"""What patched runs amount to: means over prompts, as a share of the way between two runs or as a change of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd


def unpatched(runs: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A row per run and example.

    Args:
        runs: Values by the name of the row, each of shape (n,).
    """
    tables = [pd.DataFrame({"measure": name, "value": v, "example": np.arange(len(v))}) for name, v in runs.items()]
    return pd.concat(tables, ignore_index=True)


def means(cells: pd.DataFrame, runs: Mapping[str, np.ndarray], keys: Sequence[str]) -> pd.DataFrame:
    """Mean value of the cells and of the unpatched runs on the same examples, by those of the keys that the cells have.

    Args:
        cells: Columns `value` and `example`, and keys.
        runs: "clean", "corrupted" and "base" (the run patched into), each of shape (n,).
        keys: Names of the keys.
    """
    example = cells["example"].to_numpy()
    by_cell = cells.assign(**{name: run[example] for name, run in runs.items()})
    present = [key for key in keys if key in cells]
    return by_cell.groupby(present, sort=False, as_index=False, dropna=False)[["value", *runs]].mean()


def recovery(averages: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(mean patched - mean corrupted) / (mean clean - mean corrupted), with no row where that denominator is 0."""
    kept = averages[averages["clean"] != averages["corrupted"]]
    value = (kept["value"] - kept["corrupted"]) / (kept["clean"] - kept["corrupted"])
    return kept.drop(columns=["clean", "corrupted", "base"]).assign(measure=measure, value=value)


def effect(averages: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean patched - mean of the run patched into."""
    value = averages["value"] - averages["base"]
    return averages.drop(columns=["clean", "corrupted", "base"]).assign(measure=measure, value=value)
