"""Retention of a behaviour, and the loss rise at which half of it is gone."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize

from studies.statistics import chain_interval

Censoring = Literal["none", "left", "right", "mixed"]
SIGNAL = 3.0  # standard errors by which f(w*) must clear its chance level before a retention means anything


@dataclass(frozen=True)
class HalfRetention:
    """The half-retention scale E½ in nats per token, over chains.

    Attributes:
        value: Geometric mean over chains. With `censored` "right" a lower bound, with "left" an upper bound, with
            "mixed" nan.
        low: Lower 95 % limit; 0 when any chain is left-censored.
        high: Upper 95 % limit; infinite when any chain is right-censored.
        censored: Which chains crossed one half outside the ladder: none, below it (left), above it (right), or some
            of each (mixed).
        chains: Chains used.
        reason: Why there is no value, or what restricts it; empty when there is nothing to say.
        left: Chains already below one half at their first rung.
        right: Chains still above one half at their last rung.
    """

    value: float
    low: float
    high: float
    censored: Censoring
    chains: int
    reason: str = ""
    left: int = 0
    right: int = 0

    @property
    def measurable(self) -> bool:
        """Whether the behaviour was there at w* and seen on the ladder at all, so that a value or a bound exists."""
        return self.chains > 0


def retention(value: ArrayLike, start: ArrayLike, chance: ArrayLike) -> np.ndarray:
    """Retention r = (f − f₀)/(f(w*) − f₀): 1 at the trained weights, 0 at chance, in whichever direction is better.

    >>> retention([0.9, 0.5, 0.1], start=0.9, chance=0.1)
    array([1. , 0.5, 0. ])
    >>> retention([1.0, 2.0, 2.5], start=1.0, chance=3.0)  # a loss: lower is better
    array([1.  , 0.5 , 0.25])
    """
    value, start, chance = (np.asarray(x, float) for x in (value, start, chance))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (value - chance) / np.where(start == chance, np.nan, start - chance)


def monotone(rise: ArrayLike, kept: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Log rises, ascending, and the non-increasing least-squares fit of the retention there.

    Args:
        rise: (rungs,) loss rise in nats per token, in any order; rungs at or below 0 are left out.
        kept: (rungs,) retention.
    """
    rise, kept = np.asarray(rise, float), np.asarray(kept, float)
    usable = np.isfinite(rise) & np.isfinite(kept) & (rise > 0)
    order = np.argsort(rise[usable], kind="stable")
    x, y = np.log(rise[usable][order]), kept[usable][order]
    return x, optimize.isotonic_regression(y, increasing=False).x if len(x) else y


def retained(rise: ArrayLike, kept: ArrayLike, at: float) -> float:
    """Retention of one chain at a given rise, from the fit that `crossing` reads: above ½ exactly if E½ is above `at`.

    Outside the ladder it is that of the nearest rung: a lower bound below the ladder, an upper bound above it.

    >>> retained([0.1, 0.4], [1.0, 0.0], 0.2)
    0.5
    """
    x, fit = monotone(rise, kept)
    return float(np.interp(np.log(at), x, fit)) if len(x) else np.nan


def crossing(rise: ArrayLike, kept: ArrayLike, level: float = 0.5) -> tuple[float, int]:
    """Where one chain's retention first falls to `level`, from the non-increasing least-squares fit against log rise.

    The fit is pooled adjacent violators (Barlow et al. 1972; scipy's `isotonic_regression`), read off linearly in log
    rise between rungs.

    Args:
        rise: (rungs,) loss rise in nats per token, in any order; rungs at or below 0 have no place on the axis and
            are left out.
        kept: (rungs,) retention.
        level: Level to cross.

    Returns:
        The rise, and a side: 0 crossed inside the ladder, −1 below `level` at the first rung already (the rise is
        that rung's), +1 never below it (the last rung's). (nan, 0) without a usable rung.
    """
    x, fit = monotone(rise, kept)
    if not len(x):
        return np.nan, 0
    below = np.flatnonzero(fit <= level)
    if not len(below):
        return float(np.exp(x[-1])), 1
    first = below[0]
    if first == 0:
        return float(np.exp(x[0])), -1 if fit[0] < level else 0
    part = (fit[first - 1] - level) / (fit[first - 1] - fit[first])
    return float(np.exp(x[first - 1] + part * (x[first] - x[first - 1]))), 0


def half_retention(
    rise: ArrayLike,
    retention: ArrayLike,
    chain: ArrayLike,
    *,
    gap: float = np.inf,
    gap_se: float = 0.0,
    level: float = 0.5,
    confidence: float = 0.95,
) -> HalfRetention:
    """E½: each chain's first crossing of one half, averaged over chains on the log axis with a t interval.

    A chain that crosses outside the ladder is never dropped: it enters at the end it left by. With right-censored
    chains only, the mean of min(log E½, end) cannot exceed the mean of log E½, so the value and the lower limit are
    lower bounds and the upper limit is infinite; left-censored chains mirror this, with a lower limit of 0. With both
    kinds nothing is bounded: the value is nan between 0 and infinity.

    Args:
        rise: (rows,) loss rise in nats per token, a row per chain and rung.
        retention: (rows,) retention r.
        chain: (rows,) chain.
        gap: f(w*) − f₀ counted in the better direction, in the measure's unit.
        gap_se: Its standard error; nan if unknown, which skips the test.
        level: Level to cross.
        confidence: Nominal coverage.

    Returns:
        The scale; without a value, and with the reason, when gap is not above 3 gap_se or no chain has a usable rung.
    """
    absent = _absence(gap, gap_se)
    if absent:
        return HalfRetention(np.nan, np.nan, np.nan, "none", 0, absent)
    frame = pd.DataFrame(
        {"rise": np.asarray(rise, float), "kept": np.asarray(retention, float), "chain": np.asarray(chain)}
    )
    found = [crossing(rows["rise"], rows["kept"], level) for _, rows in frame.groupby("chain")]
    scales = np.array([scale for scale, _ in found if np.isfinite(scale)])
    sides = np.array([side for scale, side in found if np.isfinite(scale)], int)
    if not len(scales):
        return HalfRetention(np.nan, np.nan, np.nan, "none", 0, "no rung with a finite retention and a positive rise")
    return _average(scales, sides, len(found) - len(scales), confidence)


def _average(scales: np.ndarray, sides: np.ndarray, unusable: int, confidence: float) -> HalfRetention:
    left, right = int(np.sum(sides < 0)), int(np.sum(sides > 0))
    mean, _, low, high, chains = chain_interval(list(np.log(scales)), confidence)
    limits = {"low": 0.0 if left else float(np.exp(low)), "high": np.inf if right else float(np.exp(high))}
    censored: Censoring = "mixed" if left and right else "left" if left else "right" if right else "none"
    value = np.nan if censored == "mixed" else float(np.exp(mean))
    reason = _restriction(left, right, chains, unusable)
    return HalfRetention(value, **limits, censored=censored, chains=chains, reason=reason, left=left, right=right)


def _absence(gap: float, gap_se: float) -> str:
    if not np.isfinite(gap) and not gap > 0:
        return "no value at w* or no chance level to compare it with"
    bar = SIGNAL * gap_se if np.isfinite(gap_se) else 0.0
    if gap > bar:
        return ""
    error = f"{gap_se:.2g}" if np.isfinite(gap_se) else "unknown"
    return f"not above chance at w*: f(w*) − f₀ = {gap:.2g}, standard error {error}, {SIGNAL:g} are asked for"


def _restriction(left: int, right: int, chains: int, unusable: int) -> str:
    parts = []
    if left:
        parts.append(f"{left} of {chains} chains below one half at the first rung")
    if right:
        parts.append(f"{right} of {chains} chains above one half at the last rung")
    if unusable:
        parts.append(f"{unusable} chains without a usable rung")
    if chains == 1:
        parts.append("one chain: no interval")
    return "; ".join(parts)
