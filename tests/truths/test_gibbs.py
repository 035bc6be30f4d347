"""The reference is held to what is known without it."""

import math

import numpy as np
import pytest

from tests.truths import gibbs
from tests.truths.targets import crossing_llc

CHAINS, SWEEPS = 64, 400


def mean_and_error(series, burn_in=100):
    each = series[:, burn_in:].mean(1)
    return each.mean(), each.std(ddof=1) / math.sqrt(len(each))


@pytest.mark.parametrize("nbeta", [2.0, 200.0, 20_000.0])
@pytest.mark.parametrize("gamma", [1.0, 10.0])
def test_two_scalars_are_a_normal_crossing(nbeta, gamma):
    """½ (w₁w₂)² at nβ is (w₁w₂)² at nβ/2."""
    zero = [np.zeros((1, 1))] * 2
    series = gibbs.sample(zero, np.zeros((1, 1)), nbeta, [gamma] * 2, SWEEPS, CHAINS, seed=0)
    mean, error = mean_and_error(series)
    assert error < 0.01
    assert abs(mean - crossing_llc(nbeta / 2, gamma)) < 4 * error


def test_one_layer_is_gaussian():
    """λ = ½ · entries · nβ/(nβ + a), and a centre off the target adds its own share."""
    generator = np.random.default_rng(0)
    center, target = generator.standard_normal((3, 4)), generator.standard_normal((3, 4))
    nbeta, a = 5.0, 2.0
    series = gibbs.sample([center], target, nbeta, [a], SWEEPS, CHAINS, seed=1)
    mean, error = mean_and_error(series)
    gap = ((center - target) ** 2).sum()
    exact = 0.5 * nbeta * (12 / (nbeta + a) + gap * (a / (nbeta + a)) ** 2 - gap)
    assert abs(mean - exact) < 4 * error


@pytest.mark.parametrize("widths", [(3, 2, 4), (2, 3, 3, 2)])
def test_gauge_moves_leave_the_prior_alone(widths):
    """Started in the prior, moved along gauge orbits only: a ‖W − W*‖² keeps the mean d and the variance 2d."""
    generator, chains = np.random.default_rng(2), 4000
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    center = [generator.standard_normal(shape) for shape in shapes]
    precision = [1.0 + k for k in range(len(shapes))]
    layers = [
        c + generator.standard_normal((chains, *c.shape)) / math.sqrt(a) for c, a in zip(center, precision, strict=True)
    ]
    before = [layer.copy() for layer in layers]
    for _ in range(12):
        for number in range(len(shapes) - 1):
            layers = gibbs.gauge(layers, number, center, precision, 0.6, generator)
    assert np.allclose(gibbs.product(layers), gibbs.product(before))
    for layer, old, c, a in zip(layers, before, center, precision, strict=True):
        assert np.mean((layer != old).any((1, 2))) > 0.5
        size = a * ((layer - c) ** 2).sum((1, 2))
        assert abs(size.mean() - c.size) < 4 * size.std() / math.sqrt(chains)
        assert abs(size.var() - 2 * c.size) < 4 * 2 * c.size * math.sqrt((2 + 12 / c.size) / chains)


def test_a_layer_given_the_others_has_its_gaussian_law():
    """Mean and covariance of the conditional against the dense normal equations."""
    generator = np.random.default_rng(3)
    center = [generator.standard_normal(shape) for shape in ((3, 2), (2, 3), (2, 2))]
    target, nbeta, a, draws = generator.standard_normal((2, 2)), 3.0, 1.5, 40_000
    layers = [np.repeat(c[None], draws, 0) for c in center]
    found = gibbs.conditional(layers, 1, center, target, nbeta, a, generator).reshape(draws, -1)
    jacobian = np.kron(center[2], center[0].T)
    precision = nbeta * jacobian.T @ jacobian + a * np.eye(6)
    mean = np.linalg.solve(precision, nbeta * jacobian.T @ target.ravel() + a * center[1].ravel())
    covariance = np.linalg.inv(precision)
    assert (np.abs(found.mean(0) - mean) < 5 * np.sqrt(covariance.diagonal() / draws)).all()
    size = np.sqrt(np.outer(covariance.diagonal(), covariance.diagonal()))
    assert (np.abs(np.cov(found.T) - covariance) < 5 * size * math.sqrt(2 / draws)).all()
