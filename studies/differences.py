"""Differences between two ladders whose chains are independent, or between a ladder and a model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Difference(NamedTuple):
    """A difference with its standard error and degrees of freedom, and whether the truth can lie below or above it."""

    value: float
    se: float
    freedom: float
    below: bool = False
    above: bool = False


def welch(first: ArrayLike, second: ArrayLike, least: tuple[float, float] = (0.0, 0.0)) -> Difference:
    """Mean of the first minus mean of the second, √(s₁²/n₁ + s₂²/n₂), Welch–Satterthwaite degrees of freedom.

    Args:
        first: A number per chain.
        second: A number per chain of the other.
        least: Smallest steps the two can move by, if they are discrete: chains that all agree say nothing of their
            spread, which is then taken to be what one chain a step apart would show, s² = step²/n.

    >>> welch([2.0, 4.0], [1.0, 1.0, 1.0])
    Difference(value=2.0, se=1.0, freedom=1.0, below=False, above=False)
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    value = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Difference(value, np.nan, np.nan)
    spread = [max(x.var(ddof=1), step**2 / len(x)) for x, step in zip((a, b), least, strict=True)]
    parts = np.array([spread[0] / len(a), spread[1] / len(b)])
    return Difference(value, float(np.sqrt(parts.sum())), satterthwaite(parts, [len(a) - 1, len(b) - 1]))


def satterthwaite(parts: np.ndarray, freedom: Sequence[int]) -> float:
    """(Σ v)² / Σ v²/ν, the degrees of freedom of a sum of independent variances; nan if all are 0."""
    bottom = float((parts**2 / np.asarray(freedom)).sum())
    return float(parts.sum() ** 2 / bottom) if bottom > 0 else np.nan


def limits(found: Difference, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence limits with a t reference; infinite on a side to which the difference is only a bound.

    >>> limits(Difference(1.0, 0.0, 3.0, above=True))
    (1.0, inf)
    """
    half = 0.0 if found.se == 0 else float(stats.t.ppf((1 + confidence) / 2, found.freedom)) * found.se
    return -np.inf if found.below else found.value - half, np.inf if found.above else found.value + half


def p_value(found: Difference) -> float:
    """Two-sided p of no difference; nan without a standard error above 0, or where nothing bounds the difference."""
    if not found.se > 0 or (found.below and found.above):
        return np.nan
    return float(2 * stats.t.sf(abs(found.value) / found.se, found.freedom))
