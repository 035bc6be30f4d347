"""Kronecker factors of the Fisher information, and the basis in which they are diagonal.

For a parameter W of shape (rows, columns) with gradient G of the summed nats at labels drawn from the model,

    L = E[G Gᵀ],   R = E[Gᵀ G],      W = U W' Vᵀ,   U and V the eigenvectors of L and R

L and R are the partial traces of the Fisher information F = E[vec G vec Gᵀ] over columns and over rows. Where F is a
Kronecker product, as for one linear layer under the assumption of K-FAC (Martens & Grosse 2015, arXiv:1503.05671), they
are its two factors up to scale, and U ⊗ V are its eigenvectors; elsewhere they stand for the nearest product (Morwani
et al. 2024, arXiv:2406.17748). As they need gradients only, any module serves: linear layers in either orientation,
convolutions (rows: output channels), embeddings, weights cut into heads (a basis each), weights used twice.

Left as they are: vectors (biases, norms), axes of more than 1024, rows of an embedding (inputs are one-hot, so F is
diagonal in them already), and tensors of which a mask samples a part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from degrade.noise import Tensors
from degrade.parameters import Selection
from degrade.slabs import WHOLE

LONGEST = 1024


class Sides(NamedTuple):
    """One matrix for the rows and one for the columns of a parameter; None where its coordinates stay."""

    rows: Tensor | None
    columns: Tensor | None


class Turnable(NamedTuple):
    """Which axes of a parameter are turned, and whether its trailing axes count as one (convolutions)."""

    rows: bool
    columns: bool
    flat: bool = False


def turnable(model: nn.Module, selection: Selection) -> list[Turnable]:
    """What of each sampled parameter is turned; modules are known by the storage of their weight."""
    parts = [part for part in model.modules() if isinstance(getattr(part, "weight", None), Tensor)]
    embedded, convolved = (
        {part.weight.data_ptr() for part in parts if isinstance(part, kind)}
        for kind in (nn.Embedding, nn.modules.conv._ConvNd)
    )
    found = []
    for tensor, mask in zip(selection.tensors, selection.masks, strict=True):
        if tensor.dim() < 2 or mask is not None:
            found.append(Turnable(False, False))
            continue
        flat = tensor.data_ptr() in convolved
        rows, columns = _matrix(tensor, flat).shape[-2:]
        free = tensor.data_ptr() not in embedded
        found.append(Turnable(free and 1 < rows <= LONGEST, 1 < columns <= LONGEST, flat))
    return found


def products(gradients: Tensors, axes: Sequence[Turnable]) -> list[Sides]:
    """G Gᵀ and Gᵀ G of each gradient, where its axes are turned."""
    return [
        Sides(g @ g.mT if axis.rows else None, g.mT @ g if axis.columns else None)
        for g, axis in ((_matrix(g, axis.flat), axis) for g, axis in zip(gradients, axes, strict=True))
    ]


def combined(parts: Sequence[Sequence[Sides]], weights: Sequence[float]) -> list[Sides]:
    """Σ weight · factors."""

    def total(tensors: Sequence[Tensor | None]) -> Tensor | None:
        known = [x * w for x, w in zip(tensors, weights, strict=True) if x is not None]
        return sum(known[1:], known[0]) if known else None

    return [
        Sides(total([s.rows for s in sides]), total([s.columns for s in sides])) for sides in zip(*parts, strict=True)
    ]


@dataclass(frozen=True)
class Rotation:
    """An orthogonal change of coordinates, W = U W' Vᵀ for each parameter."""

    sides: list[Sides]
    axes: list[Turnable]

    def into(self, tensors: Tensors, part: slice = WHOLE) -> list[Tensor]:
        """Uᵀ W V of the parameters of a part."""
        return self._applied(tensors, self.sides[part], part)

    def out(self, tensors: Tensors, part: slice = WHOLE) -> list[Tensor]:
        """U W' Vᵀ."""
        back = [Sides(*(None if u is None else u.mT for u in side)) for side in self.sides[part]]
        return self._applied(tensors, back, part)

    def carried(self, squares: Tensors, old: "Rotation") -> list[Tensor]:
        """Mean squares known in another rotation's coordinates, in these: exact where they were uncorrelated there."""
        overlaps = [
            Sides(*(None if u is None or v is None else (u.mT @ v).square() for u, v in zip(was, now, strict=True)))
            for was, now in zip(old.sides, self.sides, strict=True)
        ]
        return self._applied([x.float() for x in squares], overlaps, WHOLE)

    def _applied(self, tensors: Tensors, sides: list[Sides], part: slice) -> list[Tensor]:
        return [_sandwich(x, *side, axis.flat) for x, side, axis in zip(tensors, sides, self.axes[part], strict=True)]


def eigenbasis(factors: Sequence[Sides], axes: list[Turnable]) -> Rotation:
    """The eigenvectors of each factor."""
    return Rotation([Sides(*(None if x is None else _eigenvectors(x) for x in side)) for side in factors], axes)


def _eigenvectors(factor: Tensor) -> Tensor:
    return torch.linalg.eigh(factor.double())[1].float()


def _sandwich(tensor: Tensor, rows: Tensor | None, columns: Tensor | None, flat: bool) -> Tensor:
    """Aᵀ X B."""
    x = _matrix(tensor, flat)
    x = x if rows is None else rows.mT @ x
    x = x if columns is None else x @ columns
    return x.view(tensor.shape)


def _matrix(tensor: Tensor, flat: bool) -> Tensor:
    return tensor.flatten(1) if flat else tensor
