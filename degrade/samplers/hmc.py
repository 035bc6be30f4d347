"""Hamiltonian Monte Carlo in preconditioned coordinates: exact, on all the data, many gradients a step.

    p ~ N(0, 1);   n leapfrog steps of length h = τ/n;   accept with probability min(1, exp(H − H')),
    H = U(w) + ½‖p‖²,      τ = √ε · u,   u ~ uniform on [0.8, 1.2]

Duane et al. 1987; Neal 2011 (arXiv:1206.1901). A trajectory moves a position by −(τ²/2) P ∇U at first order, hence
the square root; its random length keeps any direction from returning to where it was. On a Gaussian whose curvature is
the metric's, H' − H has mean Σ (h² P a)² sin²(τω) / 32: n is the least that keeps this at 0.2, an acceptance of 0.75.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degrade.metric import Metric
from degrade.noise import Key, Tensors, normal_like
from degrade.samplers.protocol import Target

STABILITY = 2.5  # (π/2)²: a quarter of a period of the stiffest direction
MEMORY = 2.0
LOSS = 0.2


class State(NamedTuple):
    """Weights (float32), step number, U(w) − U(w*) (None before the first step), √ε, and leaps per unit of time."""

    weights: Tensors
    step: int
    metric: Metric
    energy: float | None
    time: float
    leaps: float


def init(weights: Tensors, metric: Metric, step_size: float, key: Key) -> State:
    """Start a chain at `weights`."""
    return resize(State(weights, 0, metric, None, 0.0, 0.0), metric, step_size)


def update(state: State, gradient: list[Tensor], key: Key, target: Target) -> State:
    """One trajectory, accepted or not; n gradients over all the data."""
    stretch, chance = key.numbers("accept", state.step).random(2)
    time = state.time * (0.8 + 0.4 * stretch)
    count = max(1, math.ceil(time * state.leaps))
    momentum = normal_like(key, "noise", state.step, state.weights)
    return trajectory(state, gradient, momentum, time / count, count, chance, target)


def resize(state: State, metric: Metric, step_size: float) -> State:
    """The same chain with another step size."""
    stiffness = sum(float((p * a).double().square().sum()) for p, a in zip(metric.p, metric.a, strict=True))
    return state._replace(metric=metric, time=math.sqrt(step_size), leaps=(stiffness / (32 * LOSS)) ** 0.25)


def trajectory(
    state: Any, gradient: list[Tensor], momentum: Tensors, move: float, count: int, chance: float, target: Target
) -> Any:
    """`count` leapfrog steps of length `move`, accepted if `chance` is below min(1, exp(H − H')): the next state."""
    energy = target.energy(state.weights)[0] if state.energy is None else state.energy
    weights, moving = state.weights, momentum
    for _ in range(count):
        half = torch._foreach_add(moving, state.metric.into(gradient), alpha=-move / 2)
        weights = torch._foreach_add(weights, state.metric.out(half), alpha=move)
        reached, gradient = target.energy(weights)
        moving = torch._foreach_add(half, state.metric.into(gradient), alpha=-move / 2)
    fall = energy - reached + _kinetic(momentum) - _kinetic(moving)
    if not (fall >= 0 or chance < math.exp(fall)):
        return state._replace(step=state.step + 1, energy=energy)
    return state._replace(weights=weights, step=state.step + 1, energy=reached)


def _kinetic(momentum: Tensors) -> float:
    return sum(float(p.double().square().sum()) for p in momentum) / 2
