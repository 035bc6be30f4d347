"""Deep linear networks at singular points, against blocked Gibbs with gauge moves at the same nβ and neighbourhood."""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

import degrade
from tests.truths import gibbs
from tests.truths.judging import exactly, never_silently_wrong, with_small_steps
from tests.truths.targets import balanced

NETWORKS = {  # widths from input to output, ranks of the layers
    "3-2-3": ((3, 2, 3), (1, 2)),
    "4-3-4": ((4, 3, 4), (1, 1)),
    "2-2-2-2": ((2, 2, 2, 2), (2, 1, 2)),
}


def layers_of(widths, ranks, seed=1):
    """Xavier-sized layers cut to given ranks: L(W*) is its minimum, at a singular point."""
    generator, layers = np.random.default_rng(seed), []
    for (inward, outward), rank in zip(zip(widths[:-1], widths[1:], strict=True), ranks, strict=True):
        u, s, v = np.linalg.svd(generator.standard_normal((outward, inward)) * math.sqrt(2 / (inward + outward)))
        middle = np.zeros((outward, inward))
        np.fill_diagonal(middle[:rank, :rank], s[:rank])
        layers.append(u @ middle @ v)
    return layers


def network(layers, noise):
    """The layers as a module, with balanced inputs and labels B x + noise: ΔL(W) = ½ ‖W_N ⋯ W_1 − B‖² exactly."""
    model = nn.Sequential(*[nn.Linear(w.shape[1], w.shape[0], bias=False) for w in layers])
    for part, w in zip(model, layers, strict=True):
        part.weight.data = torch.as_tensor(w, dtype=torch.float32)
    target = torch.as_tensor(gibbs.product(layers), dtype=torch.float32)
    signs = balanced(sum(target.shape))
    x = signs[:, : target.shape[1]]
    return model, (x, x @ target.T + noise * signs[:, target.shape[1] :])


def squares(model, batch):
    x, y = batch
    return ((model(x) - y) ** 2).sum(1) / 2


@functools.lru_cache
def reference(name, nbeta, gamma):
    """λ and its standard error: 64 chains of 1,200 sweeps, the first 200 discarded."""
    layers = layers_of(*NETWORKS[name])
    series = gibbs.sample(layers, gibbs.product(layers), nbeta, [gamma] * len(layers), 1200, 64, seed=0)[:, 200:]
    each = series.mean(1)
    return float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each)))


def test_the_loss_is_the_potential():
    layers = layers_of(*NETWORKS["3-2-3"])
    model, data = network(layers, 1.0)
    start = squares(model, data).mean()
    moved = [w + 0.3 for w in layers]
    for part, w in zip(model, moved, strict=True):
        part.weight.data = torch.as_tensor(w, dtype=torch.float32)
    rise = 0.5 * ((gibbs.product(moved) - gibbs.product(layers)) ** 2).sum()
    assert (squares(model, data).mean() - start).item() == pytest.approx(rise, rel=1e-5)


def reduced_rank(m, h, n):
    """RLCT of ½‖AB‖² at 0, A of shape (m, h), B of (h, n) (Aoyagi & Watanabe 2005, rank 0)."""
    if m + h < n:
        return h * m / 2
    if n + h < m:
        return h * n / 2
    if m + n < h:
        return m * n / 2
    return (2 * h * (m + n) + 2 * m * n - h**2 - m**2 - n**2 + (m + h + n) % 2) / 8


def local_rlct(lower, upper):
    """λ at (A, B) of ranks a, b with product rank r: a regular part and a reduced-rank remainder of rank 0.

    λ = ½ (a M + b (N − a)) + λ_RRR(N − a, H − a − b + r, M − b), lower of shape (H, N), upper of (M, H).
    """
    a, b, r = (np.linalg.matrix_rank(w) for w in (lower, upper, upper @ lower))
    (h, n), m = lower.shape, upper.shape[0]
    return (a * m + b * (n - a)) / 2 + reduced_rank(n - a, h - a - b + r, m - b)


@pytest.mark.parametrize(("widths", "ranks"), [((3, 2, 3), (1, 2)), ((4, 3, 4), (1, 1)), ((3, 3, 3), (2, 2))])
def test_the_reference_tends_to_the_local_rlct(widths, ranks):
    """At nβ = 10⁹ and γ = 100: within 3 %, what logarithms leave; the global coefficient may be another."""
    layers = layers_of(widths, ranks)
    series = gibbs.sample(layers, gibbs.product(layers), 1e9, [100.0] * 2, 500, 64, seed=0)[:, 100:]
    assert series.mean() == pytest.approx(local_rlct(*layers), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("nbeta", "gamma"), [(100.0, 1.0), (1000.0, 100.0)])
def test_small_steps_are_exact(name, nbeta, gamma):
    exact, error = reference(name, nbeta, gamma)
    model, data = network(layers_of(*NETWORKS[name]), noise=1.0)
    steps = 12_000 if gamma == 1 else 4_000  # flat directions are as much wider
    exactly(with_small_steps(model, data, steps, nbeta=nbeta, gamma=gamma, loss=squares), exact, exact, error)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("nbeta", "gamma"), [(100.0, 1.0), (1e4, 1.0), (1e4, 100.0), (1e6, 100.0)])
@pytest.mark.parametrize("noise", [1.0, 0.0], ids=["noisy labels", "exact labels"])
def test_defaults_are_right_or_said_not_to_be(name, nbeta, gamma, noise):
    exact, error = reference(name, nbeta, gamma)
    model, data = network(layers_of(*NETWORKS[name]), noise)
    result = degrade.llc(model, data, nbeta=nbeta, gamma=gamma, loss=squares, chains=4, draws=1, progress=False)
    never_silently_wrong(result, exact, error)
