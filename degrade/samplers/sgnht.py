"""Stochastic gradient Nosé–Hoover thermostat: a friction that finds for itself how much heat to take out.

    p ← p − h Bᵀ ∇U(w),   w ← w + (h/2) B p                       with P = B Bᵀ
    p' = e^(−hη) p + √(1 − α² − κ) ξ,   w ← w + (h/2) B p'        α = 0.7,   h² = ε (1 − α)/(1 + α)
    η ← η + h ( ω (‖p‖²/d − 1) + (1 − ω) (‖p'‖²/d − 1) ),         ω = (1 + 3α) / (4 (1 + α))

Ding et al. 2014, "Bayesian sampling using stochastic gradient thermostats", with the splitting of Leimkuhler & Shang
2016 (arXiv:1505.06889) in place of Euler steps: it is `baoab` with its friction −ln(α)/h made a variable, and has its
exact variance 1/a on quadratics. Gradient noise that the metric knows of is taken out by κ, coordinate by coordinate,
as in `baoab` (ω is the weight at which that leaves η alone); noise that it does not know of is taken out by η, which
holds the mean kinetic energy at ½: exactly so only if that noise is the same in all coordinates.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from degrade.metric import Metric
from degrade.noise import Key, Tensors, normal_like
from degrade.samplers import baoab

KEPT = baoab.KEPT
BEFORE = (1 + 3 * KEPT) / (4 * (1 + KEPT))
STABILITY, MEMORY = baoab.STABILITY, baoab.MEMORY


class State(NamedTuple):
    """Weights (float32), momentum, friction hη, step number, h, the noise scale, and the number of moving scalars."""

    weights: Tensors
    momentum: Tensors
    friction: Tensor
    step: int
    metric: Metric
    move: float
    scale: list[Tensor]
    moving: float


def init(weights: Tensors, metric: Metric, step_size: float, key: Key) -> State:
    """Start a chain at `weights`, with momentum from its own law and the friction that a noiseless gradient needs."""
    start = weights[0].new_tensor(-math.log(KEPT))
    state = State(weights, normal_like(key, "noise", 0, weights), start, 0, metric, 0.0, [], 0.0)
    return resize(state, metric, step_size)


def update(state: State, gradient: list[Tensor], key: Key) -> State:
    """One step: kick, drift, refresh, drift; then the friction follows the kinetic energy; all in float32."""
    kicked = torch._foreach_add(state.momentum, state.metric.into(gradient), alpha=-state.move)
    momentum = torch._foreach_mul(kicked, torch.exp(-state.friction))
    torch._foreach_addcmul_(momentum, state.scale, normal_like(key, "noise", state.step + 1, state.weights))
    weights = state.metric.moved(state.weights, torch._foreach_add(kicked, momentum), state.move / 2)
    excess = BEFORE * _square(kicked, state) + (1 - BEFORE) * _square(momentum, state) - 1
    friction = state.friction + state.move**2 * excess
    return state._replace(weights=weights, momentum=momentum, friction=friction, step=state.step + 1)


def resize(state: State, metric: Metric, step_size: float) -> State:
    """The same chain with another step size; momentum of scalars that do not move is none."""
    like = baoab.resize(baoab.State(state.weights, state.momentum, state.step, metric, 0.0, []), metric, step_size)
    live = [(root > 0).float() for root in metric.root]
    return state._replace(
        metric=metric,
        momentum=list(torch._foreach_mul(state.momentum, live)),
        move=like.move,
        scale=list(torch._foreach_mul(list(like.scale), live)),
        moving=max(1.0, sum(float(x.double().sum()) for x in live)),
    )


def _square(momentum: Tensors, state: State) -> Tensor:
    return torch.stack([p.square().sum() for p in momentum]).sum() / state.moving
