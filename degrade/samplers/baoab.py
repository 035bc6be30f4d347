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
from typing import NamedTuple

import torch
from torch import Tensor

from degrade.metric import Metric
from degrade.noise import Key, Tensors, normal_like

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
    scale: list[Tensor]


def init(weights: Tensors, metric: Metric, step_size: float, key: Key) -> State:
    """Start a chain at `weights` with momentum from its own law, N(0, 1)."""
    return resize(State(weights, normal_like(key, "noise", 0, weights), 0, metric, 0.0, []), metric, step_size)


def update(state: State, gradient: list[Tensor], key: Key) -> State:
    """One step: kick, drift, refresh, drift (the two drifts at once); all in float32."""
    kicked = torch._foreach_add(state.momentum, state.metric.into(gradient), alpha=-state.move)
    momentum = torch._foreach_mul(kicked, KEPT)
    torch._foreach_addcmul_(momentum, state.scale, normal_like(key, "noise", state.step + 1, state.weights))
    weights = state.metric.moved(state.weights, torch._foreach_add(kicked, momentum), state.move / 2)
    return state._replace(weights=weights, momentum=momentum, step=state.step + 1)


def resize(state: State, metric: Metric, step_size: float) -> State:
    """The same chain with another step size."""
    square, fresh = SQUARE * step_size, 1 - KEPT**2
    scale = [
        (fresh - _surplus(square * p, a, q).clamp_max(0.95 * fresh)).sqrt()
        for p, a, q in zip(metric.p, metric.a, metric.q, strict=True)
    ]
    return state._replace(metric=metric, move=math.sqrt(square), scale=scale)


def _surplus(square: Tensor, a: Tensor, q: Tensor) -> Tensor:
    return square * q * ((1 + KEPT) / 2) ** 2 / (1 - square * a / 4).clamp_min(0.05)
