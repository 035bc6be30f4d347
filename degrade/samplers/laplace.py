"""Laplace approximation: independent draws from the Gaussian that the curvature at w* describes.

    w = w* + Q (nβF + s⁻²)^(−½) ξ,      Q the metric's basis, F the Fisher information in it

No gradient enters and nothing is remembered: the cheap control of what sampling adds. It is not the law unless the loss
is quadratic, and the verdict judges it as it judges any chain: where its virials or its configurational temperature are
off, so is the approximation.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from degrade.metric import Metric
from degrade.noise import Key, Tensors, normal_like
from degrade.samplers.protocol import Target

STABILITY = 1.0
MEMORY = 0.0


class State(NamedTuple):
    """The last draw (float32), its number, and the spread (P (nβF + s⁻²))^(−½) in the coordinates of B."""

    weights: Tensors
    step: int
    metric: Metric
    scale: list[Tensor]


def init(weights: Tensors, metric: Metric, step_size: float, key: Key) -> State:
    """Start at `weights`; the first draw forgets them."""
    return resize(State(weights, 0, metric, []), metric, step_size)


def update(state: State, gradient: list[Tensor], key: Key, target: Target) -> State:
    """A fresh draw."""
    noise = torch._foreach_mul(normal_like(key, "noise", state.step, state.weights), state.scale)
    weights = torch._foreach_add(target.center, state.metric.out(noise))
    return state._replace(weights=weights, step=state.step + 1)


def resize(state: State, metric: Metric, step_size: float) -> State:
    """The same draws: there is no step."""
    scale = [(p * a).clamp_min(1e-30).rsqrt() for p, a in zip(metric.p, metric.a, strict=True)]
    return state._replace(metric=metric, scale=scale)
