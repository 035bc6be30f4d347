"""Covariances of many quantities over the draws of several chains, with standard errors over chains.

One matrix product a chain for all pairs; never more than a few matrices of the result's size in memory.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Estimates(NamedTuple):
    """Estimated moments and their standard errors over chains (nan for a single chain), arrays of one shape."""

    value: np.ndarray
    se: np.ndarray


def covariance(left: np.ndarray, right: np.ndarray) -> Estimates:
    """Cov of every pair of columns, unbiased for independent stationary chains whatever their autocorrelation.

    With P_c = (1/looks) Σ (x − x̄)(y − ȳ)ᵀ in chain c, x̄ the mean over all chains, and μ_c, ν_c the chain's own means
    of x − x̄ and y − ȳ,

        Cov = Σ P_c / C + Σ μ_c ν_cᵀ / (C (C − 1)),     se = sd over chains of (P_c + 2 μ_c ν_cᵀ / (C − 2)) / √C

    The second term is the covariance of x̄ itself. The error is the jackknife that leaves out a chain at a time.

    Args:
        left: values of shape (chains, looks, a).
        right: values of shape (chains, looks, b).

    Returns:
        Estimates of shape (a, b).
    """
    chains, looks = left.shape[:2]
    left, right = left - left.mean((0, 1)), right - right.mean((0, 1))
    if chains == 1:
        value = left[0].T @ right[0] / max(looks - 1, 1)
        return Estimates(value, np.full_like(value, np.nan))
    mean, se = _accumulate(_parts(left, right))
    surplus = 2 / max(chains - 2, 1) - 1 / (chains - 1)
    return Estimates(mean - surplus * left.mean(1).T @ right.mean(1) / chains, se)


def correlate(values: np.ndarray) -> Estimates:
    """Correlation of every pair of columns of (chains, looks, a); errors by the delta method.

    A column that never varies correlates with nothing: its row is nan, its diagonal 1.
    """
    product = covariance(values, values).value
    size = np.sqrt(product.diagonal())
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = (values - values.mean((0, 1))) / size
        value = product / np.outer(size, size)
    np.fill_diagonal(value, 1.0)
    if len(values) == 1:
        return Estimates(value, np.full_like(value, np.nan))
    return Estimates(value, _accumulate(_linear(part, value) for part in _parts(scaled, scaled))[1])


def _parts(left: np.ndarray, right: np.ndarray) -> Iterator[np.ndarray]:
    """P_c + 2 μ_c ν_cᵀ / (C − 2) of each chain, of centred values."""
    weight = 2 / max(len(left) - 2, 1)
    for x, y in zip(left, right, strict=True):
        yield x.T @ y / len(x) + weight * np.outer(x.mean(0), y.mean(0))


def _linear(product: np.ndarray, value: np.ndarray) -> np.ndarray:
    own = product.diagonal()
    return product - value * (own[:, None] + own) / 2


def _accumulate(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of at least two parts, a few matrices in memory however many."""
    mean: np.ndarray = np.zeros(())
    squares: np.ndarray = np.zeros(())
    for number, part in enumerate(parts, start=1):
        step = part - mean
        mean = mean + step / number
        squares = squares + step * (part - mean)
    return mean, np.sqrt(squares / (number * (number - 1)))
