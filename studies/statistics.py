"""Intervals over few chains, paired comparisons on common draws, and adjustment for many tests.

The unit of replication is the chain: draws of one chain are correlated, and all chains are read on the same
questions. Every interval here is therefore one over chains, given the questions, and uses Student's t with one degree
of freedom less than there are chains, because four to eight chains are too few for a normal reference.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.multitest import multipletests


class Interval(NamedTuple):
    """A mean with its standard error and confidence limits in the unit of the values, over `chains` clusters."""

    mean: float
    se: float
    low: float
    high: float
    chains: int


def chain_interval(
    values_by_chain: Mapping[Any, ArrayLike] | Sequence[ArrayLike], confidence: float = 0.95
) -> Interval:
    """Mean of the chain means with a t interval: m ± t_{G−1} · s/√G, s the standard deviation of the G chain means.

    Independent chains make this exact for normal chain means, whatever the autocorrelation within a chain. For
    equally long chains it equals `cluster_interval`.

    Args:
        values_by_chain: One entry per chain: its draws (or one number), in any unit.
        confidence: Nominal coverage.

    Returns:
        The interval; limits are nan with a single chain.

    Raises:
        ValueError: No chain, or a chain without a finite value.

    >>> chain_interval([[1.0, 3.0], [2.0, 4.0], [3.0, 5.0], [2.0, 4.0]])
    Interval(mean=3.0, se=0.408..., low=1.70..., high=4.29..., chains=4)
    """
    chains = list(values_by_chain.values()) if isinstance(values_by_chain, Mapping) else list(values_by_chain)
    if not chains:
        raise ValueError("values_by_chain is empty: expected one entry per chain, each holding that chain's draws")
    means = [_finite_mean(values, place) for place, values in enumerate(chains)]
    se = float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else np.nan
    return _t_interval(float(np.mean(means)), se, len(means), confidence)


def cluster_interval(frame: pd.DataFrame, value: str, cluster: str, confidence: float = 0.95) -> Interval:
    """Mean of all rows with a cluster-robust t interval.

    V = G/(G−1) · Σ_g (Σ_{i∈g} e_i)² / N², e = residuals from the mean, G clusters, N rows, and a t reference with G−1
    degrees of freedom: the CR1 estimator of Liang & Zeger (1986) for a regression on a constant, as in statsmodels'
    `OLS(y, 1).fit(cov_type="cluster", use_t=True)`, and for the reference Cameron & Miller (2015), section VI.

    Args:
        frame: One row per draw.
        value: Column to average.
        cluster: Column that names the chain.
        confidence: Nominal coverage.

    Raises:
        ValueError: No row has a finite value, or a column is missing.
    """
    missing = {value, cluster} - set(frame.columns)
    if missing:
        raise ValueError(f"no column {sorted(missing)} in the frame; it has {sorted(map(str, frame.columns))}")
    row = intervals(frame.assign(_all=0), ["_all"], value, cluster, confidence)
    if row.empty:
        raise ValueError(f"column {value!r} holds no finite value in {len(frame)} rows: there is nothing to average")
    mean, se, low, high, chains = (row[name].item() for name in Interval._fields)
    return Interval(float(mean), float(se), float(low), float(high), int(chains))


def intervals(
    frame: pd.DataFrame, by: list[str], value: str, cluster: str = "chain", confidence: float = 0.95
) -> pd.DataFrame:
    """`cluster_interval` of every group at once.

    Args:
        frame: One row per draw; rows without a finite value are left out.
        by: Columns that make a group.
        value: Column to average.
        cluster: Column that names the chain.
        confidence: Nominal coverage.

    Returns:
        A row per group: the columns `by`, then mean, se, low, high (unit of the values) and chains.
    """
    rows = frame[np.isfinite(frame[value].to_numpy(float))]
    chains = rows.groupby([*by, cluster], observed=True)[value].agg(total="sum", rows="count").reset_index()
    groups = chains.groupby(by, observed=True)
    chains["mean"] = groups["total"].transform("sum") / groups["rows"].transform("sum")
    chains["squared"] = (chains["total"] - chains["rows"] * chains["mean"]) ** 2
    out = chains.groupby(by, observed=True).agg(
        mean=("mean", "first"), squared=("squared", "sum"), rows=("rows", "sum"), chains=(cluster, "count")
    )
    count = out["chains"].to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        out["se"] = np.where(count > 1, np.sqrt(out["squared"] * count / (count - 1)) / out["rows"], np.nan)
    half = _quantile(count, confidence) * out["se"]
    return out.assign(low=out["mean"] - half, high=out["mean"] + half).reset_index()[
        [*by, "mean", "se", "low", "high", "chains"]
    ]


def share_interval(holds: ArrayLike, chain: ArrayLike, confidence: float = 0.95) -> Interval:
    """Share of draws on which a statement holds, with an interval that keeps its width at 0 and 1.

    Wilson's score interval for an effective number of draws n* = p(1−p)/V · (z/t_{G−1})², V the cluster-robust
    variance of `cluster_interval`, never above the number of draws (Korn & Graubard 1998, with Wilson in place of
    Clopper–Pearson as Dean & Pagano 2015 advise). Where every draw agrees V says nothing: then n* = G, as if a chain
    were one draw.

    Args:
        holds: (n,) 0 or 1 per draw.
        chain: (n,) chain of each draw.
        confidence: Nominal coverage.

    Raises:
        ValueError: A value outside 0..1, or none at all.
    """
    held, cluster = np.asarray(holds, float), np.asarray(chain)
    held, cluster = held[np.isfinite(held)], cluster[np.isfinite(held)]
    if not held.size or held.min() < 0 or held.max() > 1:
        raise ValueError(f"holds must be 0 or 1 for each draw and not empty, got {np.asarray(holds)!r}")
    share, se, chains = _robust(held, cluster)
    normal = float(stats.norm.ppf((1 + confidence) / 2))
    effective = _effective(share, se, chains, len(held), normal, confidence)
    low, high = _wilson(share, effective, normal)
    return Interval(share, se, 0.0 if share == 0 else low, 1.0 if share == 1 else high, chains)


def comparisons(
    a: pd.DataFrame,
    b: pd.DataFrame,
    by: list[str],
    value: str = "value",
    on: Sequence[str] = ("rung", "chain", "draw"),
    cluster: str = "chain",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Mean of a − b over the draws that both have, with the interval of `intervals` on the differences.

    What the draws of the two have in common, and what their chains have, cancels: the interval is that of the paired
    differences, never of two independent means.

    Args:
        a: A row per draw (and further keys of `on`, such as the example).
        b: The same of the other.
        by: Columns that make a comparison; a subset of the columns of both.
        value: Column to compare, in one unit.
        on: Columns that say which rows are the same draw.
        cluster: Column that names the chain.
        confidence: Nominal coverage.

    Returns:
        A row per comparison: the columns `by`, then mean (a − b), se, low, high, chains, p (two-sided, of no
        difference, t with G − 1 degrees of freedom) and left_out (rows that only one of the two has).

    Raises:
        ValueError: A row occurs twice, or no row is common.
    """
    keys = list(dict.fromkeys([*by, *on]))
    for name, frame in (("a", a), ("b", b)):
        if frame.duplicated(keys).any():
            raise ValueError(f"rows of {name} are not told apart by {keys}: add the column that does to `on`")
    both = a[[*keys, value]].merge(b[[*keys, value]], on=keys, how="outer", suffixes=("_a", "_b"))
    both["value"] = both[f"{value}_a"] - both[f"{value}_b"]
    if both["value"].isna().all():
        raise ValueError(f"no draw is common to both: of {len(a)} and {len(b)} rows none agree in {keys}")
    out = intervals(both, by, "value", cluster, confidence)
    missing = both["value"].isna().groupby([both[name] for name in by]).sum().rename("left_out").reset_index()
    return out.assign(p=two_sided(out["mean"], out["se"], out["chains"] - 1)).merge(missing, on=by)


def two_sided(difference: ArrayLike, se: ArrayLike, freedom: ArrayLike) -> np.ndarray:
    """Two-sided p of no difference, t = difference/se; nan without a standard error above 0.

    >>> two_sided([0.0, 3.182], [1.0, 1.0], 3).round(3)
    array([1.  , 0.05])
    """
    difference, se = np.asarray(difference, float), np.asarray(se, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * stats.t.sf(np.abs(difference / np.where(se > 0, se, np.nan)), np.asarray(freedom, float))


def adjusted(p: ArrayLike, family: ArrayLike | None = None) -> np.ndarray:
    """Benjamini & Hochberg (1995) q-values within each family of tests: calling q ≤ α keeps the FDR below α.

    Under positive dependence too (Benjamini & Yekutieli 2001), as between behaviours read on the same draws; and with
    two-sided tests the direction may be called as well (Benjamini & Yekutieli 2005).

    Args:
        p: (n,) p-values; nan where there was no test, which then counts in no family.
        family: (n,) family of each test; None: all are one.

    Returns:
        (n,) q-values, nan where p is.

    >>> adjusted([0.01, 0.02, 0.9, np.nan]).round(3)
    array([0.03, 0.03, 0.9 ,  nan])
    """
    values = np.asarray(p, float)
    families = np.zeros(len(values)) if family is None else np.asarray(family)
    out = np.full(len(values), np.nan)
    for name in pd.unique(families):
        tested = (families == name) & np.isfinite(values)
        if tested.any():
            out[tested] = multipletests(values[tested], method="fdr_bh")[1]
    return out


def _finite_mean(values: ArrayLike, place: int) -> float:
    array = np.asarray(values, float)
    finite = array[np.isfinite(array)]
    if not finite.size:
        raise ValueError(f"chain {place} holds no finite value, got {array!r}; leave the chain out and say so")
    return float(finite.mean())


def _t_interval(mean: float, se: float, chains: int, confidence: float) -> Interval:
    half = float(_quantile(np.array([chains], float), confidence)[0]) * se
    return Interval(mean, se, mean - half, mean + half, chains)


def _quantile(chains: np.ndarray, confidence: float) -> np.ndarray:
    return stats.t.ppf((1 + confidence) / 2, np.where(chains > 1, chains - 1, np.nan))


def _robust(values: np.ndarray, cluster: np.ndarray) -> tuple[float, float, int]:
    _, code = np.unique(cluster, return_inverse=True)
    mean, chains = float(values.mean()), int(code.max()) + 1
    sums = np.bincount(code, weights=values - mean)
    se = np.sqrt(chains / (chains - 1) * np.sum(sums**2)) / len(values) if chains > 1 else np.nan
    return mean, float(se), chains


def _wilson(share: float, draws: float, normal: float) -> tuple[float, float]:
    shrink = 1 + normal**2 / draws
    centre = (share + normal**2 / (2 * draws)) / shrink
    half = normal * np.sqrt(share * (1 - share) / draws + normal**2 / (4 * draws**2)) / shrink
    return float(centre - half), float(centre + half)


def _effective(share: float, se: float, chains: int, draws: int, normal: float, confidence: float) -> float:
    if share in (0.0, 1.0) or not se > 0:
        return float(chains)
    quantile = float(_quantile(np.array([chains], float), confidence)[0])
    return min(share * (1 - share) / se**2, float(draws)) * (normal / quantile) ** 2
