"""Stochastic gradient Langevin dynamics with Leimkuhler–Matthews or plain noise.

    w ← w − (ε/2) P ∇U + √(ε P (1 − c)) ξ̄,      ξ̄ = (ξ_t + ξ_{t+1})/2  ("lm")   or   ξ_t  ("plain")

Welling & Teh 2011; Leimkuhler & Matthews 2013 (doi:10.1093/amrx/abs010): on a quadratic the averaged noise leaves the
exact variance 1/a for every stable step, where plain noise leaves 1/(a (1 − εPa/4)).

A minibatch gradient with variance q adds (εPq/4)/(a(1 − εPa/4)) to that; the injected noise is reduced by just as much:

    c = (ε P q / 4) / (1 − ε P a / 4)   ("lm"),     c = ε P q / 4   ("plain"),     at most 0.95
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from degrade.metric import Metric
from degrade.noise import Key, Tensors, normal_like
from degrade.slabs import Held, held, large

STABILITY = 1.5
MEMORY = 2.0


class State(NamedTuple):
    """Weights (float32), step number, what one step size needs (ε/2, the noise scale), and whether noise is averaged.

    `last` is ξ_t, in an averaged scheme; of large models it is not kept but made again, to the same bits.
    """

    weights: Tensors
    step: int
    metric: Metric
    drift: float
    scale: Held
    averaged: bool
    last: Tensors = ()


def init(weights: Tensors, metric: Metric, step_size: float, key: Key, scheme: str = "lm") -> State:
    """Start a chain at `weights`."""
    averaged = scheme != "plain"
    last = normal_like(key, "noise", 0, weights) if averaged and not large(weights) else ()
    return resize(State(weights, 0, metric, 0.0, [], averaged, last), metric, step_size)


def update(state: State, gradient: list[Tensor], key: Key) -> State:
    """One step; drift and noise are added in float32, so that a model in bf16 rounds their sum once."""
    kept: list[Tensor] = []
    for part in state.metric.slabs:
        fresh = normal_like(key, "noise", state.step + 1, state.weights, part)
        kept += fresh if state.last else []
        noise = list(torch._foreach_add(fresh, _before(state, key, part))) if state.averaged else fresh
        del fresh
        torch._foreach_mul_(noise, state.scale[part])
        move = state.metric.into(gradient[part], part)
        torch._foreach_mul_(move, -state.drift)
        torch._foreach_add_(move, noise)
        gradient[part] = state.metric.moved(state.weights[part], move, part=part)
    return state._replace(weights=gradient, step=state.step + 1, last=kept)


def _before(state: State, key: Key, part: slice) -> Tensors:
    """ξ_t: kept, or made again."""
    return state.last[part] or normal_like(key, "noise", state.step, state.weights, part)


def resize(state: State, metric: Metric, step_size: float) -> State:
    """The same chain with another step size."""
    scale = held(partial(_scale, step_size=step_size, averaged=state.averaged), metric.p, metric.a, metric.q)
    return state._replace(metric=metric, drift=step_size / 2, scale=scale)


def _scale(p: Tensor, a: Tensor, q: Tensor, step_size: float, averaged: bool) -> Tensor:
    surplus = _surplus(p.float() * step_size, a, q, 0.25 if averaged else 0.0)
    return surplus.neg_().add_(1).mul_(step_size).sqrt_().mul_(0.5 if averaged else 1.0)


def _surplus(step: Tensor, a: Tensor, q: Tensor, damped: float) -> Tensor:
    """c, written over ε P."""
    room = (step * a).mul_(-damped).add_(1).clamp_min_(0.05)
    return step.mul_(q).div_(4).div_(room).clamp_(0, 0.95)
