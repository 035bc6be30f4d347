"""What the same draws say: rule against memory on common draws, and what another chain, draw or question would add.

A behaviour `X held out` needs the rule that `X seen` may also remember: what both keep of themselves is compared draw
by draw, so that how degraded a draw happens to be cancels. Where a call stays open, the variance of the mean at the
rung nearest to the gap is split into what chains, draws and questions add to it: the largest is what to buy more of.
"""

import numpy as np
import pandas as pd

from studies.behaviours import KEY, starts, swept
from studies.findings import UNIT
from studies.retention import SIGNAL, retention
from studies.statistics import adjusted, comparisons
from studies.variance import SOURCES, variance_split

LEVEL = 0.05
HELD_OUT, SEEN = " held out", " seen"
BUY = {"chain": "chains", "draw": "draws", "example": "questions", "chain x example": "chains or questions",
       "rest": "draws or questions"}  # fmt: skip


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """A row per pair of behaviours `X seen`, `X held out` and rung: mean over draws of r(seen) − r(held out).

    Args:
        table: Tidy table of a sweep with a column `dial`; the natural one is read, failed rungs are left out.

    Returns:
        name (X), rung, rise (mean, nats per token), mean, se, low, high (95 %, over chains), chains, p, q (Benjamini–
        Hochberg over all rows); empty without a pair that is above chance at w*.
    """
    kept = _kept(table)
    out = []
    for name in [one.removesuffix(HELD_OUT) for one in kept["behaviour"].unique() if one.endswith(HELD_OUT)]:
        seen, held = (kept[kept["behaviour"] == name + end] for end in (SEEN, HELD_OUT))
        if len(seen) and len(held):
            found = comparisons(seen, held, ["probe", "measure", "rung"], "kept")
            rise = held.groupby("rung")["rise"].mean().rename("rise").reset_index()
            out.append(found.merge(rise, on="rung").assign(name=name))
    columns = ["name", "rung", "rise", "mean", "se", "low", "high", "chains", "p"]
    rows = pd.concat(out, ignore_index=True)[columns] if out else pd.DataFrame(columns=columns)
    return rows.assign(q=adjusted(rows["p"].to_numpy(float)))


def splits(table: pd.DataFrame, gap: float) -> pd.DataFrame:
    """A row per behaviour: how much of the variance of its mean at the rung nearest to the gap each source adds.

    Args:
        table: Tidy table of a sweep with a column `dial`; the natural one is read.
        gap: The natural gap on its `rise`, nats per token.

    Returns:
        behaviour, measure, rung, se (of the mean over chains, draws and questions, in the measure's unit), a column
        for each of `studies.variance.SOURCES` (share of se²), more (what would lower it most). Behaviours whose rows
        name no question, or that were asked of fewer than two chains or draws, have none.
    """
    used = _used(table)
    nearest = (np.log(used.groupby("rung")["rise"].mean()) - np.log(gap)).abs().idxmin() if len(used) else 0
    out = []
    for key, rows in used[used["rung"] == nearest].groupby(KEY, observed=True):
        if not _balanced(rows):
            continue
        error = variance_split(rows).set_index("source")["error"]
        if error.sum() > 0:
            shares = dict(error / error.sum())
            se = float(np.sqrt(error.sum()))
            out.append({"behaviour": key[3], "measure": key[2], "rung": nearest, "se": se, **shares,
                        "more": BUY[str(error.idxmax())]})  # fmt: skip
    return pd.DataFrame(out, columns=["behaviour", "measure", "rung", "se", *SOURCES, "more"])


def sentence(found: pd.DataFrame) -> str:
    """Where along the ladder what was seen is kept better than what was held out."""
    if found.empty:
        return "Rule against memory was not compared: no behaviour was asked both of seen and of held-out content."
    return " ".join(_of(str(name), rows) for name, rows in found.groupby("name"))


def _of(name: str, rows: pd.DataFrame) -> str:
    most = rows.sort_values("mean", key=np.abs).iloc[-1]
    called = rows[rows["q"] <= LEVEL].sort_values("rise")["rise"]
    places = f"rises of {', '.join(f'{rise:.3g}' for rise in called)}" if len(called) else "no rung"
    return (
        f"On common draws {name} seen in training keeps {'more' if most['mean'] > 0 else 'less'} of itself than {name}"
        f" held out, r(seen) − r(held out) = {most['mean']:.2g} [{most['low']:.2g}, {most['high']:.2g}] where they"
        f" differ most, at {most['rise']:.3g} {UNIT} (95 % t interval over {most['chains']:g} chains); the difference"
        f" is called at {places} (q ≤ {LEVEL:g})."
    )


def _kept(table: pd.DataFrame) -> pd.DataFrame:
    """Retention of a row per behaviour and draw, of behaviours that are above chance at w*."""
    keys = [*KEY, "rung", "chain", "draw"]
    means = _used(table).groupby(keys, observed=True)[["value", "rise"]].mean().reset_index()
    first = starts(table)
    gap = (first["start"] - first["chance"]) * np.where(first["higher"], 1, -1)
    out = means.merge(first.loc[gap > SIGNAL * first["start_se"].fillna(0), [*KEY, "start", "chance"]], on=KEY)
    return out.assign(kept=retention(out["value"], out["start"], out["chance"]))


def _used(table: pd.DataFrame) -> pd.DataFrame:
    own = swept(table) & (table["dial"] == "natural") & table["behaviour"].notna() & (table["rung"] > 0)
    return table[own & ~table["verdict"].isin(["failed", "prior"])]


def _balanced(rows: pd.DataFrame) -> bool:
    """Whether every draw of at least two chains, two draws each, was asked every one of two questions or more once."""
    if "example" not in rows or rows["example"].isna().any():
        return False
    counts = rows.groupby(["chain", "draw"])["example"].agg(["count", "nunique"])
    draws = rows.groupby("chain")["draw"].nunique()
    same = counts.to_numpy().min() == counts.to_numpy().max() == rows["example"].nunique() > 1
    return bool(same and len(draws) > 1 and draws.min() == draws.max() > 1)
