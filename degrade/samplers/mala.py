"""Metropolis-adjusted Langevin algorithm in preconditioned coordinates: exact, on all the data.

    w' = w − (ε'/2) P ∇U(w) + √(ε'P) ξ,      accepted with probability min(1, exp(H − H'))

Roberts & Tweedie 1996 (doi:10.2307/3318418); one leapfrog step from a fresh momentum ξ, H = U + ½‖ξ‖². On a Gaussian
whose curvature is the metric's, H' − H has mean Σ (ε' P a)³ / 32; ε' is ε, or the less that keeps this at 0.64, the
acceptance of 0.57 that moves fastest (Roberts & Rosenthal 1998, doi:10.1111/1467-9868.00123).
"""

import math
from typing import NamedTuple

from torch import Tensor

from degrade.metric import Metric
from degrade.noise import Key, Tensors, normal_like
from degrade.samplers.hmc import trajectory
from degrade.samplers.protocol import Target

STABILITY = 1.5
MEMORY = 2.0
LOSS = 0.64


class State(NamedTuple):
    """Weights (float32), step number, U(w) − U(w*) (None before the first step), and √ε'."""

    weights: Tensors
    step: int
    metric: Metric
    energy: float | None
    move: float


def init(weights: Tensors, metric: Metric, step_size: float, key: Key) -> State:
    """Start a chain at `weights`."""
    return resize(State(weights, 0, metric, None, 0.0), metric, step_size)


def update(state: State, gradient: list[Tensor], key: Key, target: Target) -> State:
    """One proposal, accepted or not; one gradient over all the data beside the given one."""
    momentum = normal_like(key, "noise", state.step, state.weights)
    chance = float(key.numbers("accept", state.step).random())
    return trajectory(state, gradient, momentum, state.move, 1, chance, target)


def resize(state: State, metric: Metric, step_size: float) -> State:
    """The same chain with another step size."""
    stiffness = sum(float((p * a).double().pow(3).sum()) for p, a in zip(metric.p, metric.a, strict=True))
    allowed = (32 * LOSS / max(stiffness, 1e-30)) ** (1 / 3)
    return state._replace(metric=metric, move=math.sqrt(min(step_size, allowed)))
