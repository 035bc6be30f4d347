"""Stochastic gradient Langevin dynamics with Leimkuhler–Matthews or plain noise.

    w ← w − (ε/2) P ∇U + √(ε P (1 − c)) ξ̄,      ξ̄ = (ξ_t + ξ_{t+1})/2  ("lm")   or   ξ_t  ("plain")

Welling & Teh 2011; Leimkuhler & Matthews 2013 (doi:10.1093/amrx/abs010): on a quadratic the averaged noise leaves the
exact variance 1/a for every stable step, where plain noise leaves 1/(a (1 − εPa/4)).

A minibatch gradient with variance q adds (εPq/4)/(a(1 − εPa/4)) to that; the injected noise is reduced by just as much:

    c = (ε P q / 4) / (1 − ε P a / 4)   ("lm"),     c = ε P q / 4   ("plain"),     at most 0.95
"""

from typing import NamedTuple

import torch
from torch import Tensor

from degrade.metric import Metric
from degrade.noise import Key, Tensors, normal_like

STABILITY = 1.5
MEMORY = 2.0


class State(NamedTuple):
    """Weights (float32), step number, what one step size needs (ε/2, the noise scale), and ξ_t if it is averaged."""

    weights: Tensors
    step: int
    metric: Metric
    drift: float
    scale: list[Tensor]
    last: Tensors | None


def init(weights: Tensors, metric: Metric, step_size: float, key: Key, scheme: str = "lm") -> State:
    """Start a chain at `weights`."""
    last = None if scheme == "plain" else normal_like(key, "noise", 0, weights)
    return resize(State(weights, 0, metric, 0.0, [], last), metric, step_size)


def update(state: State, gradient: list[Tensor], key: Key) -> State:
    """One step; drift and noise are added in float32, so that a model in bf16 rounds their sum once."""
    fresh = normal_like(key, "noise", state.step + 1, state.weights)
    total = fresh if state.last is None else torch._foreach_add(fresh, state.last)
    move = state.metric.into(gradient)
    torch._foreach_mul_(move, -state.drift)
    torch._foreach_addcmul_(move, state.scale, total)
    weights = state.metric.moved(state.weights, move)
    return state._replace(weights=weights, step=state.step + 1, last=None if state.last is None else fresh)


def resize(state: State, metric: Metric, step_size: float) -> State:
    """The same chain with another step size."""
    plain = state.last is None
    scale = [
        (step_size * (1 - _surplus(step_size * p, a, q, 0.0 if plain else 0.25))).sqrt() * (1.0 if plain else 0.5)
        for p, a, q in zip(metric.p, metric.a, metric.q, strict=True)
    ]
    return state._replace(metric=metric, drift=step_size / 2, scale=scale)


def _surplus(step: Tensor, a: Tensor, q: Tensor, damped: float) -> Tensor:
    room = (1 - damped * step * a).clamp_min(0.05)
    return (step * q / 4 / room).clamp(0, 0.95)
