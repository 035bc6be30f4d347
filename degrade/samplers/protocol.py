"""What a sampler is: pure functions, and numbers that say how its step size acts."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from degrade.noise import Tensors


class Target(NamedTuple):
    """What a sampler that cannot do with gradients alone may ask of the law.

    Attributes:
        center: w*, one tensor a parameter.
        energy: w → (U(w) − U(w*), ∇U(w)) over all the data.
    """

    center: Tensors
    energy: Callable[[Tensors], tuple[float, list[Tensor]]]


class Sampler(NamedTuple):
    """A sampler, with ε the step size in the units of SGLD: w ← w − (ε/2) P ∇U + √(εP) ξ, or its equal.

    Attributes:
        init: `(weights, metric, step_size, key) -> State`; a state has `weights` (float32) and `step`.
        update: `(state, gradient, key) -> State`, the gradient ∇U at `state.weights`; with `asks`, the `Target` fourth.
            The list of gradients may be used up, so that their memory is free for the new weights. Weights live in
            the model between steps and change with it: a state that remembers earlier ones keeps a copy.
        resize: `(state, metric, step_size) -> State`, the same chain with another step size.
        stability: c of the rule ε ≤ c / λmax(Bᵀ ∇²U B), P = B Bᵀ.
        memory: steps in which a direction with P a = 1 forgets its position, times ε.
        asks: whether `update` takes the `Target`.
        still: whether its law is made of the curvature at w*, not of that where the chains are.
        exact: whether a step is accepted or rejected by U itself: then each batch is all the data.
        order: the power of ε that the error of stationary means goes with while gradients are exact.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    resize: Callable[..., Any]
    stability: float
    memory: float
    asks: bool = False
    still: bool = False
    exact: bool = False
    order: int = 1
