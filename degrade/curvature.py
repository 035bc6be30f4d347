"""Curvature and gradient noise of the loss, measured where the chains are.

    F_i   = E[(∂_i ℓ)²] at labels drawn from the model, per scored unit    (diagonal of the Fisher information)
    σ²_i  = Var[∂_i L_x] over examples x, so that a minibatch of m examples has gradient variance σ²_i / m

Each is estimated from small batches: with drawn labels the scores of different units are uncorrelated and have mean
zero, so the squared gradient of summed nats, over the count, averages to F whatever the batch size. For a loss that
cannot draw labels, F is the variance of the gradient at the given labels (the empirical Fisher, centred).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from degrade.noise import Key, batch_index
from degrade.potential import Potential

BATCHES, SIZE = 16, 8


class Curvature(NamedTuple):
    """Diagonal Fisher information per unit, and gradient variance of one example, one tensor a parameter."""

    fisher: list[Tensor]
    noise: list[Tensor]


def estimate(potential: Potential, weights: list[Tensor], key: Key, step: int) -> Curvature:
    """Fisher diagonal and gradient variance at some weights, from 2 × 16 gradients of 8 examples each."""
    drawable = hasattr(potential.loss, "sampled")
    fisher = [torch.zeros_like(w) for w in weights]
    mean = [torch.zeros_like(w) for w in weights]
    square = [torch.zeros_like(w) for w in weights]
    generator = key.torch("labels", step, device=potential.device)
    for number in range(BATCHES):
        index = batch_index(key, "curvature", step * BATCHES + number, len(potential.data), SIZE)
        if drawable:
            drawn = potential.sampled_gradient(weights, index, generator)
            torch._foreach_addcmul_(fisher, drawn, drawn, 1.0 / (BATCHES * SIZE * potential.unit))
        given = potential.gradient(weights, index)[1]
        torch._foreach_add_(mean, given, alpha=1.0 / BATCHES)
        torch._foreach_addcmul_(square, given, given, 1.0 / BATCHES)
    spread = [(s - m * m).clamp_min(0) * (SIZE * BATCHES / (BATCHES - 1)) for s, m in zip(square, mean, strict=True)]
    return Curvature(fisher if drawable else [potential.unit * v for v in spread], spread)


def average(parts: list[Curvature]) -> Curvature:
    """Mean of several estimates."""
    return Curvature(*(_mean([getattr(part, field) for part in parts]) for field in Curvature._fields))


def _mean(lists: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(tensors).mean(0) for tensors in zip(*lists, strict=True)]


def expected_rise(curvature: Curvature, precision: list[float], nbeta: float) -> float:
    """Mean rise of the quadratic basin with this Fisher: E = ½ Σ F / (nβ F + s⁻²), nats per unit.

    Exact for a quadratic loss with a minimum at w*; used as a first guess only.
    """
    return sum(
        float((f / (nbeta * f + a)).double().sum()) / 2 for f, a in zip(curvature.fisher, precision, strict=True)
    )
