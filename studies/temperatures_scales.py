"""The two temperatures: Watanabe's, n / ln n, and the one whose loss rise is the natural gap; and what lies at either.

Between two rungs of a ladder everything is read off linearly in ln nβ (rises and coefficients as logarithms), chain by
chain. Nothing is read off outside of the ladder.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from degrade import scales

WATANABE, NATURAL = "n / ln n", "natural gap"
ORDER = ("trained", "ok", "ok (heated only)", "suspect", "failed")  # the worse the later
AXES = {"heldout": "heldout_rise", "rise": "rise"}


class Temperature(NamedTuple):
    """An inverse temperature with its 95 % interval, per unit of the loss; nan where there is none, `note` says why."""

    name: str
    nbeta: float
    low: float
    high: float
    note: str = ""


def watanabe(n: float, total: float | None = None) -> Temperature:
    """nβ = n / ln n, n in units of the loss; the note tells that of all the data, if there are more.

    >>> watanabe(100.0).nbeta
    21.71...
    """
    nbeta = scales.watanabe(n)
    more = total is not None and total > (1 + 1e-6) * n  # n is a mean count in float32, times the examples
    note = f"that of all the data, n = {total:,.0f}, is {scales.watanabe(total):,.0f}" if more and total else ""
    return Temperature(WATANABE, nbeta, nbeta, nbeta, note)


def natural(rows: pd.DataFrame, gap: float, gap_se: float = 0.0, axis: str = "heldout") -> Temperature:
    """The nβ at which the rise equals the natural gap, log rise being linear in log nβ between rungs.

    Its error holds those of the gap and of the rises at the enclosing rungs over chains, through the local slope; the
    interval takes t with one degree of freedom less than there are chains.

    Args:
        rows: Rows of the whole model, a row a rung and chain, see `temperatures_sampling.whole_rows`.
        gap: Nats per unit of the loss.
        gap_se: Its standard error.
        axis: "heldout", the rise on held-out text (where the gap was measured), or "rise", that of the sampling data.
    """
    column = AXES[axis] if rows[AXES[axis]].notna().any() else "rise"
    rungs = _rungs(rows, column)
    below, above = rungs[rungs["rise"] <= gap], rungs[rungs["rise"] > gap]
    if not len(below) or not len(above):
        return Temperature(NATURAL, math.nan, math.nan, math.nan, _outside(rungs, gap))
    cold, hot = (rows.sort_values("rise").to_dict("records")[place] for rows, place in ((below, -1), (above, 0)))
    slope = math.log(hot["rise"] / cold["rise"]) / math.log(cold["nbeta"] / hot["nbeta"])
    weight = math.log(gap / cold["rise"]) / math.log(hot["rise"] / cold["rise"])
    errors = [gap_se / gap, (1 - weight) * cold["relative"], weight * hot["relative"]]
    error = math.sqrt(float(np.square(np.nan_to_num(errors)).sum())) / slope
    nbeta = math.exp((1 - weight) * math.log(cold["nbeta"]) + weight * math.log(hot["nbeta"]))
    half = stats.t.ppf(0.975, max(int(min(cold["chains"], hot["chains"])) - 1, 1)) * error
    return Temperature(NATURAL, nbeta, nbeta * math.exp(-half), nbeta * math.exp(half))


def at(rows: pd.DataFrame, nbeta: float) -> pd.DataFrame:
    """Every part's λ at one temperature, chain by chain.

    Args:
        rows: Rows of one question: family, part, nbeta, chain, llc, shared, verdict, ...
        nbeta: Inverse temperature.

    Returns:
        A row a family, part and chain: llc, shared, rise, heldout_rise, verdict (the worst of the rungs that enclose
        it); empty if the usable rungs do not reach it.
    """
    usable = rows[(rows["verdict"] != "failed") & rows["llc"].notna()]
    known = np.sort(usable["nbeta"].unique())
    near = known[np.isclose(known, nbeta, rtol=1e-6)]
    if len(near):
        return usable[usable["nbeta"] == near[0]].assign(nbeta=nbeta)
    if not np.isfinite(nbeta) or not len(known) or not known[0] <= nbeta <= known[-1]:
        return usable.iloc[:0]
    hot, cold = known[known < nbeta][-1], known[known > nbeta][0]
    weight = math.log(nbeta / hot) / math.log(cold / hot)
    keys = ["question", "family", "part", "chain"]
    first, second = (usable[usable["nbeta"] == place].set_index(keys) for place in (hot, cold))
    common = first.index.intersection(second.index, sort=False)
    first, second = first.loc[common], second.loc[common]
    mixed = {name: _between(first[name], second[name], weight) for name in ("llc", "rise", "heldout_rise")}
    shared = (1 - weight) * first["shared"] + weight * second["shared"]
    verdict = [worst([a, b]) for a, b in zip(first["verdict"], second["verdict"], strict=True)]
    return first.assign(**mixed, shared=shared, verdict=verdict, nbeta=nbeta).reset_index()


def worst(verdicts: list[str]) -> str:
    """The worst of some verdicts.

    >>> worst(["ok", "suspect", "ok (heated only)"])
    'suspect'
    """
    return max(verdicts, key=lambda word: ORDER.index(word) if word in ORDER else len(ORDER))


def _outside(rungs: pd.DataFrame, gap: float) -> str:
    """On which side of the ladder the temperature of a gap lies that no two rungs enclose."""
    if not len(rungs):
        return f"the gap, {gap:.3g}, is outside the rises that the ladder reaches (none)"
    ends = rungs.sort_values("nbeta").to_dict("records")
    end = ends[-1] if (rungs["rise"] > gap).all() else ends[0]
    side = "colder" if end["rise"] > gap else "hotter"
    return (
        f"the gap, {gap:.3g}, is outside the rises that the ladder reaches ({rungs['rise'].min():.3g} to"
        f" {rungs['rise'].max():.3g}, less what the step adds), so that its temperature is {side} than nβ ="
        f" {end['nbeta']:,.0f}, where the rise is {end['rise']:.3g} ± {end['relative'] * end['rise']:.1g}"
    )


def _between(hot: pd.Series, cold: pd.Series, weight: float) -> np.ndarray:
    """Geometric where both are positive, else linear."""
    a, b = hot.to_numpy(float), cold.to_numpy(float)
    positive = (a > 0) & (b > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        geometric = np.exp((1 - weight) * np.log(np.where(positive, a, 1)) + weight * np.log(np.where(positive, b, 1)))
    return np.where(positive, geometric, (1 - weight) * a + weight * b)


def _rungs(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """A row a usable rung: nbeta, rise on the axis, its relative standard error over chains, chains."""
    usable = rows[(rows["verdict"] != "failed") & rows["llc"].notna()]
    left = usable["llc"] / (usable["nbeta"] * usable["rise"])  # less what the step adds to the rise
    means = usable.assign(place=usable[column] * left, own=usable["rise"] * left).groupby("nbeta").agg(
        rise=("place", "mean"), sampled=("own", "mean"), spread=("own", "std"), chains=("chain", "nunique"),
        shared=("shared", "mean"),
    )  # fmt: skip
    over_chains = means["spread"] / np.sqrt(means["chains"]) / means["sampled"]
    means["relative"] = np.hypot(np.nan_to_num(over_chains), means["shared"])
    return means[means["rise"] > 0].reset_index()
