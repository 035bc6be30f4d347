"""The metric of a rung: what turns gradients into steps, and weighs directions by how much the loss holds them.

A preconditioner is P = B Bᵀ with B = Q p^½, Q a rotation of each parameter into a basis where P is taken as diagonal
(none: the weights' own coordinates). Samplers work in the coordinates of B, where the law of a well-chosen metric has
curvature near 1. Frozen while draws are taken: an adapting preconditioner biases the law.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from degrade.curvature import Curvature
from degrade.noise import Tensors


class Basis(Protocol):
    """An orthogonal change of coordinates of each parameter, from the weights' own and back."""

    def into(self, tensors: Tensors) -> list[Tensor]:
        """Qᵀ v."""

    def out(self, tensors: Tensors) -> list[Tensor]:
        """Q v."""


@dataclass(frozen=True)
class Metric:
    """Per scalar of the basis: preconditioner p, curvature a = nβF + s⁻² and gradient variance q = nβ²σ²/m.

    Per scalar of the weights: A = nβF/(nβF + s⁻²), `weight`, and its sum, `total`. A mask (0 where a scalar is not
    sampled) stops steps, and is already in the weight.
    """

    p: list[Tensor]
    a: list[Tensor]
    weight: list[Tensor]
    q: list[Tensor]
    total: float
    basis: Basis | None = None
    masks: tuple[Tensor | None, ...] = ()
    root: list[Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", [p.sqrt() for p in self.p])

    def into(self, gradient: Tensors) -> list[Tensor]:
        """Bᵀ g: a gradient in the coordinates of B."""
        gradient = _hide(gradient, self.masks)
        turned = gradient if self.basis is None else self.basis.into(gradient)
        return list(torch._foreach_mul(turned, self.root))

    def out(self, vector: Tensors) -> list[Tensor]:
        """B v: a step in the weights."""
        step = list(torch._foreach_mul(vector, self.root))
        return _hide(step if self.basis is None else self.basis.out(step), self.masks)


def build(
    p: list[Tensor],
    curvature: Curvature,
    precision: list[float],
    nbeta: float,
    batch_size: float,
    masks: tuple[Tensor | None, ...],
    basis: Basis | None = None,
    turned: Curvature | None = None,
) -> Metric:
    """Bind a preconditioner to the curvature at one temperature; `turned` is the curvature in a basis' coordinates."""
    hidden = tuple(None if m is None else m.to(x.device).float() for m, x in zip(masks, p, strict=True))
    weight = _hide([nbeta * f / (nbeta * f + s) for f, s in zip(curvature.fisher, precision, strict=True)], hidden)
    seen = turned or curvature
    a = [nbeta * f + s for f, s in zip(seen.fisher, precision, strict=True)]
    q = [nbeta**2 * v / batch_size for v in seen.noise]  # an infinite batch is one without noise
    if basis is None:
        p, q, hidden = _hide(p, hidden), _hide(q, hidden), ()  # cheaper once than at each step
    return Metric(p, a, weight, q, sum(float(x.double().sum()) for x in weight), basis, hidden)


def _hide(tensors: Tensors, masks: tuple[Tensor | None, ...]) -> list[Tensor]:
    if not any(mask is not None for mask in masks):
        return list(tensors)
    return [x if mask is None else x * mask for x, mask in zip(tensors, masks, strict=True)]
