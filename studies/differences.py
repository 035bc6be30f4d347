"""Differences between two ladders whose chains are independent, or between a ladder and a model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Difference(NamedTuple):
    """A difference with its standard error and degrees of freedom, and how the truth can lie beside it.

    Attributes:
        value: The difference.
        se: Its standard error.
        freedom: Degrees of freedom of that.
        below: Whether the truth can lie anywhere below.
        above: Whether it can lie anywhere above.
        down: How far below it can lie at most, errors aside.
        up: How far above.
    """

    value: float
    se: float
    freedom: float
    below: bool = False
    above: bool = False
    down: float = 0.0
    up: float = 0.0


def welch(first: ArrayLike, second: ArrayLike, least: tuple[float, float] = (0.0, 0.0)) -> Difference:
    """Mean of the first minus mean of the second, √(s₁²/n₁ + s₂²/n₂), Welch–Satterthwaite degrees of freedom.

    Args:
        first: A number per chain.
        second: A number per chain of the other.
        least: Smallest steps the two can move by, if they are discrete: chains that all agree say nothing of their
            spread, which is then taken to be what one chain a step apart would show, s² = step²/n.

    >>> welch([2.0, 4.0], [1.0, 1.0, 1.0])
    Difference(value=2.0, se=1.0, freedom=1.0, below=False, above=False, down=0.0, up=0.0)
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
    low, high = found.value - found.down - half, found.value + found.up + half
    return -np.inf if found.below else low, np.inf if found.above else high


def p_value(found: Difference) -> float:
    """Two-sided p of no difference, at the place it can have that is nearest to none.

    Nan without a standard error above 0, or where nothing bounds the difference.

    >>> p_value(Difference(1.0, 0.5, 3.0, down=2.0))
    1.0
    """
    if not found.se > 0 or (found.below and found.above):
        return np.nan
    nearest = float(np.clip(0.0, found.value - found.down, found.value + found.up))
    return float(2 * stats.t.sf(abs(nearest) / found.se, found.freedom))
