"""The step size: found from the stiffest direction and from the noise of the gradient, where the chains are.

    stability:  ε ≤ c / λmax(P^½ ∇²U P^½)            c of the sampler
    heating:    Σ A ε P q / 4 / Σ A ≤ 0.25           (before the noise correction, which removes most of it)

λmax is that of a batch of 128 examples: smaller batches look stiffer than the loss is.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from degrade.metric import Metric
from degrade.noise import Key, batch_index, normal_like
from degrade.potential import Potential
from degrade.samplers.protocol import Sampler

HEATING = 0.25
REACH = 0.03
BATCH = 128
FIRST, AGAIN = 8, 2


class Found(NamedTuple):
    """A step size, what bounded it ('stability' or 'heating'), and the stiffest direction it was found along."""

    step_size: float
    bound: str
    sharpness: float
    vector: list[Tensor]


def find(
    potential: Potential, weights: list[Tensor], metric: Metric, nbeta: float, sampler: Sampler, key: Key, step: int,
    vector: list[Tensor] | None = None,
) -> Found:
    """The step size at some weights: the smaller of the two bounds. A known vector saves most of the iterations."""
    rounds = FIRST if vector is None else AGAIN
    start = normal_like(key, "power", step, weights) if vector is None else vector
    index = batch_index(key, "power", step, len(potential.data), min(BATCH, len(potential.data)))
    sharpness, vector = power_iteration(potential, weights, metric, nbeta, index, start, rounds)
    stable = sampler.stability / max(sharpness, 1e-12)
    cool = HEATING / max(sampler.heating * metric.heat, 1e-12)
    return Found(min(stable, cool), "stability" if stable < cool else "heating", sharpness, vector)


def power_iteration(
    potential: Potential, weights: list[Tensor], metric: Metric, nbeta: float, index: np.ndarray,
    vector: list[Tensor], rounds: int,
) -> tuple[float, list[Tensor]]:
    """The largest |eigenvalue| of P^½ ∇²U P^½ on one batch, by central differences of the gradient.

    Differences work with any attention kernel and any activation; the displacement, 0.03 in units of the law's own
    spread, sees the curvature on the scale that a step feels. Two gradients a round.
    """
    root = [p.sqrt() for p in metric.p]
    size = 1.0
    for _ in range(rounds):
        vector = _normalised(vector)
        shift = torch._foreach_mul(root, vector)
        ahead = potential.gradient(torch._foreach_add(weights, shift, alpha=REACH), index)[1]
        behind = potential.gradient(torch._foreach_add(weights, shift, alpha=-REACH), index)[1]
        change = torch._foreach_mul(torch._foreach_sub(ahead, behind), nbeta / (2 * REACH))
        bent = [c + s * a for c, s, a in zip(change, shift, potential.precision, strict=True)]
        vector = torch._foreach_mul(root, bent)
        size = _norm(vector)
    return size, _normalised(vector)


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack(torch._foreach_norm(tensors)).norm())


def _normalised(tensors: list[Tensor]) -> list[Tensor]:
    return torch._foreach_mul(tensors, 1.0 / max(_norm(tensors), 1e-30))
