"""Probe by probe: what each one reads at w* and at every rung, whatever keys its rows have.

Everything is taken from the table of a sweep, so a new probe needs no code here. A cell is what the keys of a probe
tell apart (a head, a site, a kind of ablation) or a behaviour; over examples, draws and chains the mean is taken.
"""

from collections.abc import Mapping, Sequence
from inspect import cleandoc
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype

from probes import Claim
from probes.probe import name_of
from probes.sweep import PLACE, READING
from studies.behaviours import rungs, swept
from studies.statistics import intervals

CELLS = 16  # a measure with more is not shown in full
LEADING = 8  # shown of it
LIKENESS = "rank correlation with w* over all cells"
WHOLE = "all"  # the only cell of a measure without keys
KEYLESS = {*PLACE, *READING, "dial", "example", "behaviour", "statement"}
COLUMNS = ["probe", "measure", "cell", "cells", "rung", "mean", "se", "low", "high", "chains"]


def described(probes: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """By name what each probe says of itself: the first paragraph of its docstring, and the units of its measures."""
    out = {}
    for probe in probes:
        if not isinstance(probe, Claim):
            line = " ".join(cleandoc(probe.__doc__ or "").split("\n\n")[0].split())
            units = {name: measure.unit for name, measure in getattr(probe, "measures", {}).items()}
            out[name_of(probe)] = {"line": line, "units": units}
    return out


def readings(table: pd.DataFrame, dial: str = "natural") -> pd.DataFrame:
    """A row per probe, measure, cell and rung: the mean, and its 95 % interval over chains.

    Of a measure with more than 16 cells those 8 are kept that lie furthest from the median cell at w*, and one row is
    added whose values are no readings: Spearman's correlation, over all cells, of a draw's means with those at w*. So
    a map can be followed that is too large to print. Failed rungs are left out; claims and marks are no readings.

    Args:
        table: Tidy table of a sweep with a column `dial`.
        dial: The dial.

    Returns:
        probe, measure, cell (its keys in words, or `LIKENESS`), cells (how many the measure has), rung, mean, se, low,
        high (unit of the measure; nan at w*, one model), chains, target, rise (nats per token), verdict. Probes,
        measures and cells in the order of the table.
    """
    own = table[swept(table) & (table["dial"] == dial) & ~table["verdict"].isin(["failed", "prior"])]
    asked = own[~own["probe"].astype(str).str.startswith("claim: ")]
    parts = [
        _measure(rows).assign(probe=str(probe), measure=str(measure))
        for (probe, measure), rows in asked.groupby(["probe", "measure"], sort=False, observed=True)
    ]
    where = rungs(table)
    where = where.loc[where["dial"] == dial, ["rung", "target", "rise", "verdict"]]
    found = pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)
    return found.merge(where, on="rung", how="left")


def _measure(rows: pd.DataFrame) -> pd.DataFrame:
    """All cells of one measure, or the leading ones and the likeness."""
    draws = _per_draw(rows)
    names = list(dict.fromkeys(draws["cell"]))
    shown = names if len(names) <= CELLS else _leading(draws)
    parts = [intervals(draws[draws["cell"].isin(shown)], ["cell", "rung"], "value")]
    if rows["binary"].astype("boolean").fillna(False).any():
        parts[0][["low", "high"]] = parts[0][["low", "high"]].clip(0, 1)
    if len(shown) < len(names):
        like = intervals(_likeness(draws), ["cell", "rung"], "value")
        parts.append(like.assign(low=like["low"].clip(-1, 1), high=like["high"].clip(-1, 1)))
    out = pd.concat(parts, ignore_index=True).assign(cells=len(names))
    place = {cell: place for place, cell in enumerate([*shown, LIKENESS])}
    return out.sort_values(["cell", "rung"], key=lambda c: c.map(place) if c.name == "cell" else c, ignore_index=True)


def _per_draw(rows: pd.DataFrame) -> pd.DataFrame:
    """cell, rung, chain, draw and the mean over the rest."""
    named = _keys(rows)
    if named:
        code = rows.groupby(named, dropna=False, sort=False, observed=True).ngroup().to_numpy()
        first = rows[named].iloc[np.unique(code, return_index=True)[1]]
        cell = np.array([_words(one) for one in first.to_dict("records")], dtype=object)[code]
    else:
        cell = np.full(len(rows), WHOLE, dtype=object)
    keys = ["cell", "rung", "chain", "draw"]
    return rows.assign(cell=cell).groupby(keys, sort=False)["value"].mean().reset_index()


def _keys(rows: pd.DataFrame) -> list[str]:
    """What tells the rows of a measure apart besides the example: `behaviour` alone where every row names one."""
    named = rows["behaviour"].notna() if "behaviour" in rows else pd.Series(False, index=rows.index)
    if named.all():
        return ["behaviour"]
    keys = [str(key) for key in rows.columns if key not in KEYLESS and _tells(rows[key])]
    return keys + ["behaviour"] * bool(named.any())


def _tells(column: pd.Series) -> bool:
    """Whether a column takes several values, and is no real number."""
    if column.nunique(dropna=False) < 2:
        return False
    return not is_float_dtype(column) or bool((column.dropna() % 1 == 0).all())


def _words(cell: Mapping[Any, Any]) -> str:
    """The keys of a cell in words.

    >>> _words({"layer": 0, "head": 1, "to_layer": 2, "to_head": 3, "kind": "zero", "behaviour": None})
    'L0H1, to L2H3, kind zero'
    """
    there = {str(key): value for key, value in cell.items() if not pd.isna(value)}
    words = []
    for key, value in there.items():
        group = key.removesuffix("layer").removesuffix("head")
        if group != key and {f"{group}layer", f"{group}head"} <= set(there):
            if key.endswith("layer"):
                words.append(f"{group.replace('_', ' ')}L{value:g}H{there[f'{group}head']:g}")
            continue
        text = f"{value:g}" if isinstance(value, float) else str(value)
        words.append(text if key == "behaviour" else f"{key.replace('_', ' ')} {text}")
    return ", ".join(words) or WHOLE


def _leading(draws: pd.DataFrame) -> list[str]:
    """Cells furthest from the median cell at w*; over all draws where w* has none."""
    start = draws[draws["rung"] == 0] if (draws["rung"] == 0).any() else draws
    means = start.groupby("cell", sort=False)["value"].mean()
    far = (means - means.median()).abs().sort_values(ascending=False, kind="stable")
    return list(far.index[:LEADING])


def _likeness(draws: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation with w* over the cells that every draw has, a row per draw."""
    wide = draws.pivot_table(index=["rung", "chain", "draw"], columns="cell", values="value").dropna(axis=1)
    ranks = wide.rank(axis=1)
    centred = ranks.sub(ranks.mean(axis=1), axis=0)
    home = centred[centred.index.get_level_values("rung") == 0].mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (centred @ home) / np.sqrt((centred**2).sum(axis=1) * (home**2).sum())
    return value.rename("value").reset_index().assign(cell=LIKENESS)
