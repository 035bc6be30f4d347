"""Curvature and gradient noise of the loss, measured where the chains are.

    F_i   = E[(∂_i ℓ)²] at labels drawn from the model, per scored unit    (diagonal of the Fisher information)
    σ²_i  = Var[∂_i L_x] over examples x, so that a minibatch of m examples has gradient variance σ²_i / m

Each is estimated from small batches: with drawn labels the scores of different units are uncorrelated and have mean
zero, so the squared gradient of summed nats, over the count, averages to F whatever the batch size. For a loss that
cannot draw labels, F is the variance of the gradient at the given labels (the empirical Fisher, centred).

Both can be measured in rotated coordinates too, beside the Kronecker factors that a rotation is made of.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from degrade.noise import Key, Tensors, batch_index
from degrade.potential import Potential
from degrade.rotation import Rotation, Sides, Turnable, combined, products

BATCHES, SIZE = 16, 8
SPREAD = SIZE * BATCHES / (BATCHES - 1)


class Turned(NamedTuple):
    """Fisher information and gradient variance of one example in the coordinates of a rotation, one tensor each."""

    rotation: Rotation
    fisher: list[Tensor]
    noise: list[Tensor]


class Curvature(NamedTuple):
    """Diagonal Fisher information per unit, and gradient variance of one example, one tensor a parameter.

    `slope` is the square of the mean gradient (without bias); `factors` are the Kronecker factors of the Fisher
    information and `turned` what is known in a rotation's coordinates, for preconditioners that turn.
    """

    fisher: list[Tensor]
    noise: list[Tensor]
    slope: Sequence[Tensor] = ()
    factors: Sequence[Sides] = ()
    turned: Turned | None = None


@dataclass
class _Means:
    """Means over batches of gradients g: of g, of g², of its Kronecker products, and of (Qᵀ g)²."""

    mean: list[Tensor]
    square: list[Tensor]
    axes: Sequence[Turnable]
    rotation: Rotation | None
    turned: list[Tensor] = field(init=False)
    factors: list[Sides] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.turned = [torch.zeros_like(x) for x in self.mean] if self.rotation else []

    def add(self, gradient: Tensors) -> None:
        torch._foreach_add_(self.mean, gradient, alpha=1 / BATCHES)
        torch._foreach_addcmul_(self.square, gradient, gradient, 1 / BATCHES)
        if self.axes:
            seen = products(gradient, self.axes)
            self.factors = combined([self.factors or seen, seen], [1 if self.factors else 0, 1 / BATCHES])
        if self.rotation:
            turned = self.rotation.into(gradient)
            torch._foreach_addcmul_(self.turned, turned, turned, 1 / BATCHES)

    def spread(self) -> list[Tensor]:
        """Variance of one example's gradient."""
        return _spread(self.square, self.mean)

    def turned_spread(self) -> list[Tensor]:
        """The same in the rotation's coordinates."""
        return _spread(self.turned, self.rotation.into(self.mean)) if self.rotation else []


def _spread(square: Tensors, mean: Tensors) -> list[Tensor]:
    return [(s - m * m).clamp_min(0) * SPREAD for s, m in zip(square, mean, strict=True)]


def estimate(
    potential: Potential,
    weights: list[Tensor],
    key: Key,
    step: int,
    axes: Sequence[Turnable] = (),
    rotation: Rotation | None = None,
) -> Curvature:
    """Fisher diagonal and gradient variance at some weights, from 2 × 16 gradients of 8 examples each."""
    drawable = hasattr(potential.loss, "sampled")
    drawn, given = (
        _Means([torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights], kind, rotation)
        for kind in ((axes, ()) if drawable else ((), axes))
    )
    generator = key.torch("labels", step, device=potential.device)
    for number in range(BATCHES):
        index = batch_index(key, "curvature", step * BATCHES + number, len(potential.data), SIZE)
        if drawable:
            drawn.add(potential.sampled_gradient(weights, index, generator))
        given.add(potential.gradient(weights, index)[1])
    noise, turned_noise = given.spread(), given.turned_spread()
    if drawable:
        unit = 1 / (SIZE * potential.unit)
        fisher, turned = ([unit * x for x in squares] for squares in (drawn.square, drawn.turned))
        factors = drawn.factors
    else:
        fisher, turned = ([potential.unit * x for x in spread] for spread in (noise, turned_noise))
        factors = combined([given.factors, products(given.mean, axes)], [1, -1]) if axes else []
    return Curvature(
        fisher,
        noise,
        [(m * m - s / (SIZE * BATCHES)).clamp_min(0) for m, s in zip(given.mean, noise, strict=True)],
        factors,
        Turned(rotation, turned, turned_noise) if rotation else None,
    )


def average(parts: list[Curvature]) -> Curvature:
    """Mean of several estimates; what was seen in other rotations is carried over to that of the last."""
    fisher, noise, slope = (_mean([getattr(part, field) for part in parts]) for field in Curvature._fields[:3])
    share = [1 / len(parts)] * len(parts)
    factors = combined([part.factors for part in parts], share)
    known = [part.turned for part in parts if part.turned]
    return Curvature(fisher, noise, slope, factors, _together(known) if known else None)


def _together(known: list[Turned]) -> Turned:
    last = known[-1].rotation
    return Turned(
        last,
        _mean([last.carried(part.fisher, part.rotation) for part in known]),
        _mean([last.carried(part.noise, part.rotation) for part in known]),
    )


def _mean(lists: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(tensors).mean(0) for tensors in zip(*lists, strict=True)]


def expected_rise(curvature: Curvature, precision: list[float], nbeta: float) -> float:
    """Mean rise of the quadratic basin with this Fisher: E = ½ Σ F / (nβ F + s⁻²), nats per unit.

    Exact for a quadratic loss with a minimum at w*; used as a first guess only.
    """
    return sum(
        float((f / (nbeta * f + a)).double().sum()) / 2 for f, a in zip(curvature.fisher, precision, strict=True)
    )
