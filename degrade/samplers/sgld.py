"""Stochastic gradient Langevin dynamics with Leimkuhler–Matthews or plain noise.

    w ← w − (ε/2) P ∇U + √(ε P (1 − c)) ξ̄,      ξ̄ = (ξ_t + ξ_{t+1})/2  ("lm")   or   ξ_t  ("plain")

Welling & Teh 2011; Leimkuhler & Matthews 2013 (doi:10.1093/amrx/abs010): on a quadratic the averaged noise leaves the
exact variance 1/a for every stable step, where plain noise leaves 1/(a (1 − εPa/4)).

A minibatch gradient with variance q adds (εPq/4)/(a(1 − εPa/4)) to that; the injected noise is reduced by just as much:

    c = (ε P q / 4) / (1 − ε P a / 4),   at most 0.95
"""

from typing import NamedTuple

import torch
from torch import Tensor

from degrade.metric import Metric
from degrade.noise import Key, normal_like


class State(NamedTuple):
    """Weights (float32), step number, and what one block needs: drift εP/2, noise scale, and ξ_t if noise is averaged."""

    weights: list[Tensor]
    step: int
    drift: list[Tensor]
    scale: list[Tensor]
    last: list[Tensor] | None


def init(
    weights: list[Tensor],
    metric: Metric,
    step_size: float,
    key: Key,
    step: int = 0,
    scheme: str = "lm",
    corrected: bool = True,
) -> State:
    """Start a block of steps of one size at `weights`."""
    drift = [p * (step_size / 2) for p in metric.p]
    scale = [p * step_size for p in metric.p]
    if corrected:
        scale = [s * (1 - _surplus(s, a, q)) for s, a, q in zip(scale, metric.a, metric.q, strict=True)]
    if scheme == "plain":
        return State(weights, step, drift, [s.sqrt() for s in scale], None)
    return State(weights, step, drift, [s.sqrt() / 2 for s in scale], normal_like(key, "noise", step, weights))


def _surplus(step: Tensor, a: Tensor, q: Tensor) -> Tensor:
    room = (1 - step * a / 4).clamp_min(0.05)
    return (step * q / 4 / room).clamp(0, 0.95)


def update(state: State, gradient: list[Tensor], key: Key) -> State:
    """One step; drift and noise are added in float32, so that a model in bf16 rounds their sum once."""
    fresh = normal_like(key, "noise", state.step + (state.last is not None), state.weights)
    total = fresh if state.last is None else torch._foreach_add(fresh, state.last)
    weights = torch._foreach_addcmul(state.weights, state.drift, gradient, -1.0)
    torch._foreach_addcmul_(weights, state.scale, total)
    return state._replace(weights=weights, step=state.step + 1, last=None if state.last is None else fresh)
