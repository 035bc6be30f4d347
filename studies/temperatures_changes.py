"""Which parts' share and rank of complexity change between the two temperatures, with intervals over chains.

The unit of replication is the chain. A chain's value at one temperature is paired with its value at the other (they
share the seed), so that what chains have of their own cancels; errors that all chains share (of corrections for what
a step adds) are added in quadrature. Calls are adjusted over the parts of a family (Benjamini & Hochberg 1995).
"""

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from studies.statistics import adjusted, two_sided
from studies.temperatures_scales import Temperature, at, worst

LEVEL = 0.05
WHEN = ("cold", "hot")


class Mean(NamedTuple):
    """A mean over chains with its standard error, 95 % t limits, two-sided p of zero, and the number of chains."""

    mean: float
    se: float
    low: float
    high: float
    p: float
    chains: int


def mean_of(values: np.ndarray, shared: float = 0.0) -> Mean:
    """Mean over chains, t_{G−1} · (s²/G + shared²)^½ on either side.

    Where all chains agree to the last digit and share no error, p is that of a sign test, 2^(1−G).

    >>> mean_of(np.array([1.0, 2.0, 3.0, 2.0])).se
    0.408...
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    chains = len(values)
    if chains < 2:
        value = float(values.mean()) if chains else np.nan
        return Mean(value, np.nan, np.nan, np.nan, np.nan, chains)
    mean, se = float(values.mean()), float(np.hypot(values.std(ddof=1) / np.sqrt(chains), shared))
    half = float(stats.t.ppf(0.975, chains - 1)) * se
    p = float(two_sided(mean, se, chains - 1)) if se > 0 else (2.0 ** (1 - chains) if mean else 1.0)
    return Mean(mean, se, mean - half, mean + half, p, chains)


def levels(rows: pd.DataFrame, temperatures: list[Temperature]) -> pd.DataFrame:
    """λ of every part at every temperature: a row a family, part and temperature with a 95 % t interval over chains.

    Returns:
        family, part, at, nbeta, llc, se, low, high, chains, verdict.
    """
    out = []
    for temperature in temperatures:
        for (family, part), mine in at(rows, temperature.nbeta).groupby(["family", "part"], sort=False):
            llc = mine["llc"].to_numpy(float)
            found = mean_of(llc, float(mine["shared"].mean()) * abs(float(np.nanmean(llc))))
            row = {"family": family, "part": part, "at": temperature.name, "nbeta": temperature.nbeta}
            out.append(row | {"llc": found.mean, "se": found.se, "low": found.low, "high": found.high,
                              "chains": found.chains, "verdict": worst(list(mine["verdict"]))})  # fmt: skip
    columns = ["family", "part", "at", "nbeta", "llc", "se", "low", "high", "chains", "verdict"]
    return pd.DataFrame(out, columns=columns)


def shares(rows: pd.DataFrame, nbeta: float) -> pd.DataFrame:
    """Each part's share of its family's sum and its rank (1: the largest) at one temperature, chain by chain.

    Parts read off the draws of one ladder share the error of its rung's correction, which cancels in shares.
    """
    here = at(rows, nbeta)
    if (rows["question"] == "ladder").all():
        here = here.assign(shared=0.0)
    sums = here.groupby(["family", "chain"])["llc"].transform("sum")
    rank = here.groupby(["family", "chain"])["llc"].rank(ascending=False)
    return here.assign(share=here["llc"] / sums, rank=rank)


def changes(rows: pd.DataFrame, cold: float, hot: float) -> pd.DataFrame:
    """How the share and the rank of each part change from one temperature to another.

    Args:
        rows: Rows of one question.
        cold: An inverse temperature.
        hot: Another.

    Returns:
        A row a family and part: before, before_low, before_high, after, after_low, after_high (shares), change,
        change_low, change_high, p, q (of the share, adjusted over the family), rank_before, rank_after, rank_change,
        rank_low, rank_high, rank_p, rank_q, chains, verdict (the worst behind it), changed (q ≤ 0.05).
    """
    both = shares(rows, cold).merge(shares(rows, hot), on=["family", "part", "chain"], suffixes=("_cold", "_hot"))
    out = [_change(both, family, part) for family, part in _keys(both)]
    found = pd.DataFrame(out, columns=_COLUMNS)
    for p, q in (("p", "q"), ("rank_p", "rank_q")):
        found[q] = adjusted(found[p], found["family"]) if len(found) else np.nan
    return found.assign(changed=found["q"] <= LEVEL)


def swaps(rows: pd.DataFrame, cold: float, hot: float) -> pd.DataFrame:
    """Pairs of parts of a family that are ordered one way at one temperature and the other way at the other.

    The difference of each pair is tested at each temperature, adjusted over all pairs of the family at both; a swap is
    called where both are told from zero, with opposite signs.

    Returns:
        A row a pair: family, first, second, before, after (differences of shares), q_before, q_after, swapped.
    """
    tables = [shares(rows, nbeta) for nbeta in (cold, hot)]
    out = []
    for family in tables[0]["family"].unique():
        wide = [t[t["family"] == family].pivot_table(index="chain", columns="part", values="share") for t in tables]
        parts = [part for part in wide[0].columns if part in wide[1].columns]
        for first, second in combinations(parts, 2):
            found = [mean_of((w[first] - w[second]).to_numpy()) for w in wide]
            row = {"family": family, "first": first, "second": second}
            out.append(row | {"before": found[0].mean, "after": found[1].mean, "p_before": found[0].p,
                              "p_after": found[1].p})  # fmt: skip
    columns = ["family", "first", "second", "before", "after", "p_before", "p_after"]
    pairs = pd.DataFrame(out, columns=columns).astype(dict.fromkeys(columns[3:], float))
    q = adjusted(np.concatenate([pairs["p_before"], pairs["p_after"]]), np.tile(pairs["family"], 2))
    pairs["q_before"], pairs["q_after"] = q[: len(pairs)], q[len(pairs) :]
    told = (pairs["q_before"] <= LEVEL) & (pairs["q_after"] <= LEVEL)
    return pairs.assign(swapped=told & (np.sign(pairs["before"]) != np.sign(pairs["after"])))


def agreement(rows: pd.DataFrame, cold: float, hot: float, family: str) -> Mean:
    """Spearman's ρ of the parts' λ at the two temperatures, chain by chain."""
    wide = [_wide(rows, nbeta, family) for nbeta in (cold, hot)]
    common = wide[0].index.intersection(wide[1].index)
    return mean_of(np.array([_rho(wide[0].loc[c], wide[1].loc[c]) for c in common]))


def reliability(rows: pd.DataFrame, nbeta: float, family: str) -> float:
    """Spearman's ρ at one temperature between the mean of half of the chains and of the others: what noise leaves."""
    wide = _wide(rows, nbeta, family)
    half = len(wide) // 2
    return _rho(wide.iloc[:half].mean(), wide.iloc[half:].mean()) if half else np.nan


def ratio(rows: pd.DataFrame, others: pd.DataFrame) -> Mean:
    """Logarithm of the ratio of λ of two sets of rows (a row a chain each), paired by chain; shared errors added."""
    named = {"llc": "llc_other", "shared": "shared_other"}
    both = rows.set_index("chain")[["llc", "shared"]].join(
        others.set_index("chain")[["llc", "shared"]].rename(columns=named), how="inner"
    )
    positive = both[(both["llc"] > 0) & (both["llc_other"] > 0)]
    values = np.log(positive["llc"].to_numpy(float) / positive["llc_other"].to_numpy(float))
    return mean_of(values, float(np.hypot(both["shared"].mean(), both["shared_other"].mean())) if len(both) else 0.0)


_COLUMNS = [
    "family", "part", "before", "before_low", "before_high", "after", "after_low", "after_high", "change", "change_low",
    "change_high", "p", "rank_before", "rank_after", "rank_change", "rank_low", "rank_high", "rank_p", "chains",
    "verdict",
]  # fmt: skip


def _keys(both: pd.DataFrame) -> list[tuple[str, str]]:
    return list(both[["family", "part"]].drop_duplicates().itertuples(index=False, name=None))


def _change(both: pd.DataFrame, family: str, part: str) -> dict[str, Any]:
    mine = both[(both["family"] == family) & (both["part"] == part)]
    errors = [_shared(both[both["family"] == family], part, when) for when in WHEN]
    before, after = (mean_of(mine[f"share_{when}"].to_numpy(), e) for when, e in zip(WHEN, errors, strict=True))
    change = mean_of((mine["share_hot"] - mine["share_cold"]).to_numpy(), float(np.hypot(errors[0], errors[1])))
    moved = mean_of((mine["rank_hot"] - mine["rank_cold"]).to_numpy())
    return {
        "family": family, "part": part, "before": before.mean, "before_low": before.low, "before_high": before.high,
        "after": after.mean, "after_low": after.low, "after_high": after.high, "change": change.mean,
        "change_low": change.low, "change_high": change.high, "p": change.p, "rank_before": mine["rank_cold"].mean(),
        "rank_after": mine["rank_hot"].mean(), "rank_change": moved.mean, "rank_low": moved.low,
        "rank_high": moved.high, "rank_p": moved.p, "chains": change.chains,
        "verdict": worst([*mine["verdict_cold"], *mine["verdict_hot"]]),
    }  # fmt: skip


def _shared(family: pd.DataFrame, part: str, when: str) -> float:
    """What shared errors make of a part's share, to first order: √(Σ_b (∂s/∂ln λ_b)² σ_b²)."""
    means = family.groupby("part")[[f"share_{when}", f"shared_{when}"]].mean()
    share, sigma = means[f"share_{when}"], means[f"shared_{when}"]
    slope = float(share[part]) * ((share.index == part).astype(float) - share.to_numpy())
    return float(np.sqrt(np.square(slope * sigma.to_numpy()).sum()))


def _wide(rows: pd.DataFrame, nbeta: float, family: str) -> pd.DataFrame:
    here = at(rows[rows["family"] == family], nbeta)
    return here.pivot_table(index="chain", columns="part", values="llc")


def _rho(first: pd.Series, second: pd.Series) -> float:
    common = first.index.intersection(second.index)
    if len(common) < 3:
        return np.nan
    return float(stats.spearmanr(first[common], second[common]).statistic)
