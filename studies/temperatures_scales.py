"""The two temperatures: Watanabe's, n / ln n, and the one whose loss rise is the natural gap; and what lies at either.

Between two rungs of a ladder everything is read off a parabola in ln nβ through them and the next nearest usable rung
(rises and coefficients as logarithms), chain by chain; with two rungs alone, off a straight line. Nothing is read off
outside of the ladder.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq

from degrade import scales

WATANABE, NATURAL = "n / ln n", "natural gap"
ORDER = ("trained", "ok", "ok (heated only)", "suspect", "failed")  # the worse the later
STEP = 1e-3  # in ln nβ, for slopes
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
    """The nβ at which the rise equals the natural gap, log rise being a parabola in log nβ between rungs.

    Its error holds those of the gap and of the rises at the rungs over chains, through the local slope; the
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
    used = rungs.set_index("nbeta").loc[_near(rungs["nbeta"], hot["nbeta"], cold["nbeta"])]
    x, y = np.log(used.index.to_numpy(float)), np.log(used["rise"].to_numpy(float))
    ends = math.log(hot["nbeta"]), math.log(cold["nbeta"])
    place = float(brentq(lambda one: lagrange(x, one) @ y - math.log(gap), *ends))
    slope = (lagrange(x, place - STEP) - lagrange(x, place + STEP)) @ y / (2 * STEP)
    errors = [gap_se / gap, *(lagrange(x, place) * np.nan_to_num(used["relative"].to_numpy(float)))]
    error = math.sqrt(float(np.square(errors).sum())) / abs(slope)
    half = stats.t.ppf(0.975, max(int(min(cold["chains"], hot["chains"])) - 1, 1)) * error
    return Temperature(NATURAL, math.exp(place), math.exp(place - half), math.exp(place + half))


def lagrange(x: np.ndarray, place: float) -> np.ndarray:
    """Weights of values at `x` in the polynomial through them, read at a place.

    >>> lagrange(np.array([0.0, 1.0]), 0.25)
    array([0.75, 0.25])
    """
    return np.array([np.prod([(place - other) / (one - other) for other in x if other != one]) for one in x])


def _near(nbetas: pd.Series | np.ndarray, hot: float, cold: float) -> list[float]:
    """Two enclosing rungs and the one that lies nearest to them, from hot to cold."""
    known = np.sort(np.unique(np.asarray(nbetas, float)))
    middle = 0.5 * (math.log(hot) + math.log(cold))
    others = sorted((one for one in known if one not in (hot, cold)), key=lambda one: abs(math.log(one) - middle))
    return sorted([hot, cold, *others[:1]])


def at(rows: pd.DataFrame, nbeta: float) -> pd.DataFrame:
    """Every part's λ at one temperature, chain by chain.

    Args:
        rows: Rows of one question: family, part, nbeta, chain, llc, shared, verdict, ...
        nbeta: Inverse temperature.

    Returns:
        A row a family, part and chain: llc, shared, rise, heldout_rise, verdict (the worst of the rungs that it is
        read off); empty if the usable rungs do not reach it.
    """
    usable = rows[(rows["verdict"] != "failed") & rows["llc"].notna()]
    known = np.sort(usable["nbeta"].unique())
    near = known[np.isclose(known, nbeta, rtol=1e-6)]
    if len(near):
        return usable[usable["nbeta"] == near[0]].assign(nbeta=nbeta)
    if not np.isfinite(nbeta) or not len(known) or not known[0] <= nbeta <= known[-1]:
        return usable.iloc[:0]
    rungs = _near(known, float(known[known < nbeta][-1]), float(known[known > nbeta][0]))
    weights = lagrange(np.log(rungs), math.log(nbeta))
    keys = ["question", "family", "part", "chain"]
    each = [usable[usable["nbeta"] == place].set_index(keys) for place in rungs]
    common = each[0].index
    for one in each[1:]:
        common = common.intersection(one.index, sort=False)
    each = [one.loc[common] for one in each]
    mixed = {name: _between([one[name] for one in each], weights) for name in ("llc", "rise", "heldout_rise")}
    shared = sum(abs(weight) * one["shared"] for weight, one in zip(weights, each, strict=True))
    verdict = [worst(list(one)) for one in zip(*(one["verdict"] for one in each), strict=True)]
    return each[0].assign(**mixed, shared=shared, verdict=verdict, nbeta=nbeta).reset_index()


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


def _between(values: list[pd.Series], weights: np.ndarray) -> np.ndarray:
    """Geometric where all are positive, else linear."""
    table = np.array([one.to_numpy(float) for one in values])
    geometric = np.exp(weights @ np.log(np.where(table > 0, table, 1.0)))
    return np.where((table > 0).all(0), geometric, weights @ table)


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
