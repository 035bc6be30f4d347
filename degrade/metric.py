"""The metric of a rung: what turns gradients into steps, and weighs directions by how much the loss holds them.

A preconditioner is P = B Bᵀ with B = Q p^½, Q a rotation of each parameter into a basis where P is taken as diagonal
(none: the weights' own coordinates). Samplers work in the coordinates of B, where the law of a well-chosen metric has
curvature near 1. Frozen while draws are taken: an adapting preconditioner biases the law.

Of large models no tensor is kept that can be made again (`degrade.slabs`): a metric is then Fisher information and
gradient variance in half precision, one copy of the weights, and half a one more where p does not follow from them.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from degrade.curvature import Curvature
from degrade.noise import Tensors
from degrade.slabs import WHOLE, Held, held, slabs


class Basis(Protocol):
    """An orthogonal change of coordinates of each parameter, or of a part of them, from the weights' own and back."""

    def into(self, tensors: Tensors, part: slice = WHOLE) -> list[Tensor]:
        """Qᵀ v."""

    def out(self, tensors: Tensors, part: slice = WHOLE) -> list[Tensor]:
        """Q v."""


@dataclass(frozen=True)
class Metric:
    """Per scalar of the basis: preconditioner p, curvature a = nβF + s⁻² and gradient variance q = nβ²σ²/m.

    Per scalar of the weights: A = nβF/(nβF + s⁻²), `weight`, and its sum, `total`. Where a mask leaves a scalar out, p,
    q and the weight are 0; so the basis must leave a parameter with a mask as it is. Each is a sequence of tensors, one
    a parameter; methods that take a `part` work on the parameters of that slice, given as a list of as many.
    """

    p: Held
    a: Held
    weight: Held
    q: Held
    total: float
    basis: Basis | None = None
    root: Held = field(init=False, repr=False)
    slabs: tuple[slice, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", held(_root, self.p))
        object.__setattr__(self, "slabs", slabs(self.p))

    def turned(self, tensors: Tensors, part: slice = WHOLE) -> list[Tensor]:
        """Qᵀ v."""
        return list(tensors) if self.basis is None else self.basis.into(tensors, part)

    def unturned(self, tensors: Tensors, part: slice = WHOLE) -> list[Tensor]:
        """Q v."""
        return list(tensors) if self.basis is None else self.basis.out(tensors, part)

    def into(self, gradient: Tensors, part: slice = WHOLE) -> list[Tensor]:
        """Bᵀ g: a gradient in the coordinates of B."""
        return list(torch._foreach_mul(self.turned(gradient, part), self.root[part]))

    def out(self, vector: Tensors, part: slice = WHOLE) -> list[Tensor]:
        """B v: a step in the weights."""
        return self.unturned(torch._foreach_mul(vector, self.root[part]), part)

    def moved(self, weights: Tensors, vector: Tensors, size: float = 1.0, part: slice = WHOLE) -> list[Tensor]:
        """W + size · B v, in one pass where there is no basis."""
        if self.basis is None:
            return list(torch._foreach_addcmul(weights, vector, self.root[part], value=size))
        return list(torch._foreach_add(weights, self.out(vector, part), alpha=size))

    def product(self, one: Tensors, two: Tensors) -> Tensor:
        """gᵀ P g' of two gradients."""
        products = []
        for part in self.slabs:
            first = self.into(one[part], part)
            second = first if two is one else self.into(two[part], part)
            products += [torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(first, second, strict=True)]
        return torch.stack(products).sum()


def build(
    p: Held,
    curvature: Curvature,
    precision: list[float],
    nbeta: float,
    batch_size: float,
    masks: tuple[Tensor | None, ...],
) -> Metric:
    """Bind a preconditioner to the curvature at one temperature, in the coordinates that it is turned into if any."""
    hidden = [None if m is None else m.to(x.device).float() for m, x in zip(masks, p, strict=True)]
    seen = curvature.turned or curvature
    basis = curvature.turned.rotation if curvature.turned else None
    weight = held(partial(_weight, nbeta=nbeta), curvature.fisher, precision, hidden)
    a = held(partial(_curvature, nbeta=nbeta), seen.fisher, precision)
    # an infinite batch is one without noise
    q = held(partial(_variance, scale=nbeta**2 / batch_size), seen.noise, hidden)
    total = sum(float(x.double().sum()) for x in weight)
    return Metric(held(_hidden, p, hidden), a, weight, q, total, basis)


def _root(p: Tensor) -> Tensor:
    return p.float().sqrt()


def _weight(fisher: Tensor, precision: float, mask: Tensor | None, nbeta: float) -> Tensor:
    stiff = nbeta * fisher.float()
    return _hidden(stiff / (stiff + precision), mask)


def _curvature(fisher: Tensor, precision: float, nbeta: float) -> Tensor:
    return nbeta * fisher.float() + precision


def _variance(noise: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    return _hidden(scale * noise.float(), mask)


def _hidden(tensor: Tensor, mask: Tensor | None) -> Tensor:
    return tensor if mask is None else (tensor * mask).to(tensor.dtype)
