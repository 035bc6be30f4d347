"""Generalising, memorising or undecided: what is left of each behaviour at the natural gap, with its multiplicity.

A behaviour is generalisation-like if it is retained at the natural gap, memorisation-like if it is not. The null
hypothesis, r(gap) = ½, is also E½ = gap: a chain's fit is above ½ at the gap exactly if its E½ lies above the gap.
"""

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from studies.behaviours import KEY, ranking, starts, swept
from studies.logistic import logistic_half_retention
from studies.retention import SIGNAL, retained, retention
from studies.statistics import adjusted

LEVEL = 0.05
CALLS = ("generalising", "memorising", "undecided", "absent")


class Gap(NamedTuple):
    """The natural gap: its name, value and standard error (nats per token), and the degrees of freedom of that."""

    name: str
    value: float
    se: float = 0.0
    freedom: float = np.inf


def calls(table: pd.DataFrame, gap: Gap, level: float = LEVEL) -> pd.DataFrame:
    """A row per behaviour of the natural dial: E½, what is left at the gap, and the call.

    Each chain's retention at the gap is read from its isotonic fit. t = (r̄ − ½)/se with se² = s²/G + (what the gap's
    own error moves r̄ by)², at most G − 1 (Welch–Satterthwaite) degrees of freedom, and Benjamini–Hochberg over all
    behaviours: at a false discovery rate of `level` a behaviour is called generalising (r̄ > ½) or memorising (r̄ < ½).
    Where all chains agree to the last digit p is that of a sign test, 2^(1−G). A gap below the ladder can show
    retention only, one above it loss only: the nearest rung bounds r from that side.

    Args:
        table: Tidy table of a sweep with a column `dial`; its `rise` is the axis.
        gap: The natural gap on that axis.
        level: False discovery rate.

    Returns:
        What `studies.behaviours.ranking` has, then at_gap, at_gap_se, at_gap_low, at_gap_high (retention at the gap, t
        interval), p, q, call, why (what decided, or kept from deciding), frequency (how often an item of the behaviour
        occurs in the training set), second, second_low, second_high (E½ by `studies.logistic`, outcomes 0 or 1 only).
    """
    own = table[(table["dial"] == "natural") | ~swept(table)]
    ranks = ranking(own)
    left = by_chain(own)
    by_behaviour = dict(list(left.groupby(KEY)))
    found = [
        _tested(by_behaviour.get(key, left.iloc[:0]), gap) for key in ranks[KEY].itertuples(index=False, name=None)
    ]
    out = pd.concat([ranks, pd.DataFrame(found)], axis=1)
    out["q"] = adjusted(out["p"])
    side = np.where(out["at_gap"] > 0.5, CALLS[0], CALLS[1])
    out["call"] = np.where(out["chains"] == 0, "absent", np.where(out["q"] <= level, side, "undecided"))
    return out.merge(frequencies(own), on=KEY, how="left").join(_second(own, out))


def by_chain(table: pd.DataFrame) -> pd.DataFrame:
    """Retention and rise of every chain at every rung: the means over its draws, failed rungs left out.

    Returns:
        dial, probe, measure, behaviour, rung, chain, rise, kept; behaviours that are not 3 standard errors above
        chance at w* are missing.
    """
    rows = _draws(table)
    means = rows.groupby([*KEY, "rung", "chain"], observed=True)[["value", "rise"]].mean().reset_index()
    start = starts(table)
    there = (start["start"] - start["chance"]) * np.where(start["higher"], 1, -1) > SIGNAL * start["start_se"].fillna(0)
    means = means.merge(start.loc[there, [*KEY, "start", "chance"]], on=KEY)
    return means.assign(kept=retention(means["value"], means["start"], means["chance"]))


def _draws(table: pd.DataFrame) -> pd.DataFrame:
    """A row per draw and behaviour: the mean over examples."""
    used = swept(table) & table["behaviour"].notna() & ~table["verdict"].isin(["failed", "prior", "trained"])
    keys = [*KEY, "rung", "chain", "draw"]
    rows = table.loc[used, [*keys, "value", "rise"]].astype(dict.fromkeys(KEY, "category"))
    return rows.groupby(keys, observed=True, sort=False).mean().reset_index().astype(dict.fromkeys(KEY, str))


def _tested(rows: pd.DataFrame, gap: Gap) -> dict[str, Any]:
    """What is left at the gap, over chains, and the p-value of one half."""
    chains = [part for _, part in rows.groupby("chain")]
    blank = {"at_gap": np.nan, "at_gap_se": np.nan, "at_gap_low": np.nan, "at_gap_high": np.nan, "p": np.nan}
    if len(chains) < 2:
        return blank | {"why": "fewer than two chains" if len(chains) else "not above chance at w*"}
    reach = np.array([[part["rise"].min(), part["rise"].max()] for part in chains])
    at = np.exp(np.array([-1.0, 0.0, 1.0]) * gap.se / gap.value) * gap.value
    left = np.array([[retained(part["rise"], part["kept"], x) for x in at] for part in chains])
    mean, se, freedom = _combined(left, gap.freedom)
    half = stats.t.ppf(0.975, freedom) * se
    side, why = _outside(mean, gap.value, reach)
    p = np.nan if side else 2.0 ** (1 - len(chains)) if se == 0 else 2 * stats.t.sf(abs(mean - 0.5) / se, freedom)
    return {"at_gap": mean, "at_gap_se": se, "at_gap_low": mean - half, "at_gap_high": mean + half, "p": p, "why": why}


def _combined(left: np.ndarray, gap_freedom: float) -> tuple[float, float, float]:
    """Mean over chains of the retention at the gap, its standard error, and its degrees of freedom, at most G − 1.

    More would be claimed where the gap's error outweighs a spread over chains that happens to be small.
    """
    own = left[:, 1].var(ddof=1) / len(left)
    moved = ((left[:, 0] - left[:, 2]).mean() / 2) ** 2
    bottom = own**2 / (len(left) - 1) + moved**2 / gap_freedom
    freedom = (own + moved) ** 2 / bottom if bottom > 0 else len(left) - 1.0
    return float(left[:, 1].mean()), float(np.sqrt(own + moved)), min(float(freedom), len(left) - 1.0)


def _outside(mean: float, gap: float, reach: np.ndarray) -> tuple[bool, str]:
    """Whether a gap beyond the ladder keeps a side from being called, and what to say of it."""
    below, above = bool((reach[:, 0] > gap).any()), bool((reach[:, 1] < gap).any())
    if below:
        said = "the gap lies below a chain's first rung, which bounds what is left from below"
        return mean <= 0.5, said
    if above:
        return mean >= 0.5, "the gap lies above a chain's last rung, which bounds what is left from above"
    return False, ""


def frequencies(table: pd.DataFrame) -> pd.DataFrame:
    """How often an item of each behaviour occurs in the training set: a probe's `frequency`, or `copies`; else nan."""
    rows = table[swept(table) & (table["rung"] == 0) & table["behaviour"].notna()]
    known = [name for name in ("frequency", "copies") if name in rows]
    often = pd.Series(np.nan, index=rows.index)
    for name in known:
        often = often.fillna(pd.Series(rows[name].astype("Float64").to_numpy(float, na_value=np.nan), rows.index))
    return rows.assign(frequency=often).groupby(KEY, observed=True)["frequency"].mean().reset_index()


def _second(table: pd.DataFrame, out: pd.DataFrame) -> pd.DataFrame:
    """E½ of the behaviours that are right or wrong, by one logistic curve through all draws."""
    draws = dict(list(_draws(table).groupby(KEY)))
    rows = []
    for row in out.to_dict("records"):
        mine = draws.get(tuple(row[name] for name in KEY))
        fitted: dict[str, Any] = {"value": np.nan, "low": np.nan, "high": np.nan}
        if mine is not None and row["binary"] and row["chains"]:
            settings = {"start": row["start"], "chance": row["chance"]}
            fitted = asdict(logistic_half_retention(mine["rise"], mine["value"], mine["chain"], **settings))
        rows.append({"second": fitted["value"], "second_low": fitted["low"], "second_high": fitted["high"]})
    return pd.DataFrame(rows, index=out.index)
