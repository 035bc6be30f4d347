"""Exact sampling of deep linear networks: blocked Gibbs with gauge moves.

    p(W) ∝ exp( −nβ ½ ‖W_N ⋯ W_1 − B‖² − ½ Σ_l a_l ‖W_l − W*_l‖² )

Given the others, a layer is Gaussian: with C the product above and A the product below it, the precision is
nβ CᵀC ⊗ AAᵀ + a, diagonal in the eigenbases of CᵀC and AAᵀ: no step size, no rejection. Gibbs alone is slow along the
gauge orbits W_{l+1} G, G⁻¹ W_l, which leave the product as it is: Metropolis moves along them, G = (1 − R/2)⁻¹(1 + R/2)
with R a random matrix (so that G⁻¹ is as likely), are accepted with exp(−Δ prior) |det G|^{rows W_{l+1} − columns W_l}.
"""

from collections.abc import Sequence

import numpy as np

Layers = list[np.ndarray]


def sample(
    center: Sequence[np.ndarray], target: np.ndarray, nbeta: float, precision: Sequence[float], sweeps: int,
    chains: int, seed: int,
) -> np.ndarray:  # fmt: skip
    """nβ (L(W) − L(W*)) after each sweep, shape (chains, sweeps); chains start at the centre."""
    generator = np.random.default_rng(seed)
    layers = [np.repeat(w[None], chains, 0) for w in center]
    start = 0.5 * ((product(center) - target) ** 2).sum()
    rows = []
    for _ in range(sweeps):
        for number in range(len(layers)):
            layers[number] = conditional(layers, number, center, target, nbeta, precision[number], generator)
        for number in range(len(layers) - 1):
            for size in (0.1, 0.4, 1.2):
                layers = gauge(layers, number, center, precision, size, generator)
        rows.append(nbeta * (0.5 * ((product(layers) - target) ** 2).sum((-2, -1)) - start))
    return np.stack(rows, 1)


def product(layers: Sequence[np.ndarray]) -> np.ndarray:
    """W_N ⋯ W_1, batched over leading dimensions."""
    whole = layers[0]
    for layer in layers[1:]:
        whole = layer @ whole
    return whole


def conditional(
    layers: Layers, number: int, center: Sequence[np.ndarray], target: np.ndarray, nbeta: float, precision: float,
    generator: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """A draw of one layer given the others."""
    above, below = _around(layers, number)
    c, u = np.linalg.eigh(_t(above) @ above)
    s, v = np.linalg.eigh(below @ _t(below))
    stiffness = nbeta * c[..., :, None] * s[..., None, :] + precision
    pull = nbeta * _t(above) @ target @ _t(below) + precision * center[number]
    mean = (_t(u) @ pull @ v) / stiffness
    draw = mean + generator.standard_normal(mean.shape) / np.sqrt(stiffness)
    return u @ draw @ _t(v)


def gauge(
    layers: Layers, number: int, center: Sequence[np.ndarray], precision: Sequence[float], size: float,
    generator: np.random.Generator,
) -> Layers:  # fmt: skip
    """A Metropolis move of the gauge between two layers."""
    lower, upper = layers[number], layers[number + 1]
    width, one = lower.shape[-2], np.eye(lower.shape[-2])
    half = size * generator.standard_normal((len(lower), width, width)) / (2 * np.sqrt(width))
    turn = np.linalg.solve(one - half, one + half)
    back = np.linalg.solve(one + half, one - half)
    moved = {number: back @ lower, number + 1: upper @ turn}
    energy = sum(
        0.5 * precision[k] * (((new - center[k]) ** 2) - ((layers[k] - center[k]) ** 2)).sum((-2, -1))
        for k, new in moved.items()
    )
    volume = (upper.shape[-2] - lower.shape[-1]) * np.linalg.slogdet(turn)[1]
    accepted = np.log(generator.random(len(lower))) < volume - energy
    keep = accepted[:, None, None]
    return [np.where(keep, moved[k], layer) if k in moved else layer for k, layer in enumerate(layers)]


def _around(layers: Layers, number: int) -> tuple[np.ndarray, np.ndarray]:
    chains = len(layers[0])
    above = np.broadcast_to(np.eye(layers[number].shape[-2]), (chains, *[layers[number].shape[-2]] * 2))
    below = np.broadcast_to(np.eye(layers[number].shape[-1]), (chains, *[layers[number].shape[-1]] * 2))
    for layer in layers[number + 1 :]:
        above = layer @ above
    for layer in reversed(layers[:number]):
        below = below @ layer
    return above, below


def _t(matrix: np.ndarray) -> np.ndarray:
    return np.swapaxes(matrix, -1, -2)
