"""Underdamped Langevin dynamics by the BAOAB splitting, one gradient a step, in preconditioned coordinates.

    p ← p − h Bᵀ ∇U(w)                          (kick: the two half kicks around a step use one gradient)
    w ← w + (h/2) B p                           with P = B Bᵀ
    p ← α p + √(1 − α² − κ) ξ
    w ← w + (h/2) B p                           α = 0.7,   h² = ε (1 − α)/(1 + α)

Leimkuhler & Matthews 2013 (doi:10.1093/amrx/abs010). Positions on a quadratic have the exact variance 1/a for every
stable step, h² P a < 4. For small h it is SGLD with step size ε (a unit kick moves a position by h/2 · (1 + α)/(1 − α)
in all); stiff directions bound h² instead of ε, which allows an ε 5.7 times larger where stability is the limit.

A gradient of variance q kicks the momentum by h² P q a step. On a quadratic, positions then follow an AR(2) process
whose extra variance is h² P q (1 + α)/(4 a (1 − α)(1 − h² P a/4)); the injected noise is reduced by just as much:

    κ = h² P q ((1 + α)/2)² / (1 − h² P a / 4),   at most 0.95 (1 − α²)
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from degrade.metric import Metric
from degrade.noise import Key, Tensors, normal_like
from degrade.slabs import Held, held

KEPT = 0.7
SQUARE = (1 - KEPT) / (1 + KEPT)  # h² / ε
STABILITY = 1.0 / SQUARE
MEMORY = 2.0


class State(NamedTuple):
    """Weights (float32), momentum, step number, and what one step size needs: h and the noise scale."""

    weights: Tensors
    momentum: Tensors
    step: int
    metric: Metric
    move: float
    scale: Held


def init(weights: Tensors, metric: Metric, step_size: float, key: Key) -> State:
    """Start a chain at `weights` with momentum from its own law, N(0, 1)."""
    return resize(State(weights, normal_like(key, "noise", 0, weights), 0, metric, 0.0, []), metric, step_size)


def update(state: State, gradient: list[Tensor], key: Key) -> State:
    """One step: kick, drift, refresh, drift (the two drifts at once); all in float32."""
    momentum: list[Tensor] = []
    for part in state.metric.slabs:
        force = state.metric.into(gradient[part], part)
        kicked = torch._foreach_add(state.momentum[part], force, alpha=-state.move)
        fresh = torch._foreach_mul(kicked, KEPT)
        noise = normal_like(key, "noise", state.step + 1, state.weights, part)
        torch._foreach_addcmul_(fresh, state.scale[part], noise)
        momentum += fresh
        drift = torch._foreach_add(kicked, fresh)
        gradient[part] = state.metric.moved(state.weights[part], drift, state.move / 2, part)
    return state._replace(weights=gradient, momentum=momentum, step=state.step + 1)


def resize(state: State, metric: Metric, step_size: float) -> State:
    """The same chain with another step size."""
    square = SQUARE * step_size
    scale = held(partial(_scale, square=square), metric.p, metric.a, metric.q)
    return state._replace(metric=metric, move=math.sqrt(square), scale=scale)


def _scale(p: Tensor, a: Tensor, q: Tensor, square: float) -> Tensor:
    fresh = 1 - KEPT**2
    return (fresh - _surplus(square * p.float(), a, q).clamp_max(0.95 * fresh)).sqrt()


def _surplus(square: Tensor, a: Tensor, q: Tensor) -> Tensor:
    return square * q * ((1 + KEPT) / 2) ** 2 / (1 - square * a / 4).clamp_min(0.05)
