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

    Per scalar of the weights: A = nβF/(nβF + s⁻²), `weight`, and its sum, `total`. Where a mask leaves a scalar out, p,
    q and the weight are 0; so the basis must leave a parameter with a mask as it is.
    """

    p: list[Tensor]
    a: list[Tensor]
    weight: list[Tensor]
    q: list[Tensor]
    total: float
    basis: Basis | None = None
    root: list[Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", [p.sqrt() for p in self.p])

    def turned(self, tensors: Tensors) -> list[Tensor]:
        """Qᵀ v."""
        return list(tensors) if self.basis is None else self.basis.into(tensors)

    def unturned(self, tensors: Tensors) -> list[Tensor]:
        """Q v."""
        return list(tensors) if self.basis is None else self.basis.out(tensors)

    def into(self, gradient: Tensors) -> list[Tensor]:
        """Bᵀ g: a gradient in the coordinates of B."""
        return list(torch._foreach_mul(self.turned(gradient), self.root))

    def out(self, vector: Tensors) -> list[Tensor]:
        """B v: a step in the weights."""
        return self.unturned(torch._foreach_mul(vector, self.root))

    def moved(self, weights: Tensors, vector: Tensors, size: float = 1.0) -> list[Tensor]:
        """W + size · B v, in one pass where there is no basis."""
        if self.basis is None:
            return list(torch._foreach_addcmul(weights, vector, self.root, value=size))
        return list(torch._foreach_add(weights, self.out(vector), alpha=size))


def build(
    p: list[Tensor],
    curvature: Curvature,
    precision: list[float],
    nbeta: float,
    batch_size: float,
    masks: tuple[Tensor | None, ...],
) -> Metric:
    """Bind a preconditioner to the curvature at one temperature, in the coordinates that it is turned into if any."""
    hidden = tuple(None if m is None else m.to(x.device).float() for m, x in zip(masks, p, strict=True))
    weight = _hide([nbeta * f / (nbeta * f + s) for f, s in zip(curvature.fisher, precision, strict=True)], hidden)
    seen = curvature.turned or curvature
    basis = curvature.turned.rotation if curvature.turned else None
    a = [nbeta * f + s for f, s in zip(seen.fisher, precision, strict=True)]
    q = [nbeta**2 * v / batch_size for v in seen.noise]  # an infinite batch is one without noise
    total = sum(float(x.double().sum()) for x in weight)
    return Metric(_hide(p, hidden), a, weight, _hide(q, hidden), total, basis)


def _hide(tensors: Tensors, masks: tuple[Tensor | None, ...]) -> list[Tensor]:
    if not any(mask is not None for mask in masks):
        return list(tensors)
    return [x if mask is None else x * mask for x, mask in zip(tensors, masks, strict=True)]
