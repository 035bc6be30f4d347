"""What a sampler is: pure functions, and two numbers that say how its step size acts."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Sampler(NamedTuple):
    """A sampler, with ε the step size in the units of SGLD: w ← w − (ε/2) P ∇U + √(εP) ξ, or its equal.

    Attributes:
        init: `(weights, metric, step_size, key) -> State`; a state has `weights` (float32) and `step`.
        update: `(state, gradient, key) -> State`, the gradient ∇U at `state.weights`.
        resize: `(state, metric, step_size) -> State`, the same chain with another step size.
        stability: c of the rule ε ≤ c / λmax(Bᵀ ∇²U B), P = B Bᵀ.
        memory: steps in which a direction with P a = 1 forgets its position, times ε.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    resize: Callable[..., Any]
    stability: float
    memory: float
