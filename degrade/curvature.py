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

import numpy as np
import torch
from torch import Tensor

from degrade.noise import Key, Tensors, batch_index
from degrade.potential import Potential
from degrade.rotation import Rotation, Sides, Turnable, combined, products
from degrade.slabs import compact

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
    """Means over batches of gradients g: of g², of its Kronecker products, of (Qᵀ g)², and of g itself if asked for."""

    square: list[Tensor]
    mean: list[Tensor]
    axes: Sequence[Turnable]
    rotation: Rotation | None
    turned: list[Tensor] = field(init=False)
    factors: list[Sides] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.turned = [torch.zeros_like(x) for x in self.square] if self.rotation else []

    def add(self, gradient: Tensors) -> None:
        if self.mean:
            torch._foreach_add_(self.mean, gradient, alpha=1 / BATCHES)
        torch._foreach_addcmul_(self.square, gradient, gradient, 1 / BATCHES)
        if self.axes:
            seen = products(gradient, self.axes)
            self.factors = combined([self.factors or seen, seen], [1 if self.factors else 0, 1 / BATCHES])
        if self.rotation:
            turned = self.rotation.into(gradient)
            torch._foreach_addcmul_(self.turned, turned, turned, 1 / BATCHES)

    def spread(self) -> list[Tensor]:
        """Variance of one example's gradient; the means of squares are used up."""
        return _spread(self.square, self.mean)

    def turned_spread(self) -> list[Tensor]:
        """The same in the rotation's coordinates."""
        return _spread(self.turned, self.rotation.into(self.mean)) if self.rotation else []


def _spread(square: list[Tensor], mean: Tensors) -> list[Tensor]:
    for s, m in zip(square, mean, strict=True):
        s.addcmul_(m, m, value=-1).clamp_min_(0).mul_(SPREAD)
    return square


def _zeros(weights: Tensors) -> list[Tensor]:
    return [torch.zeros_like(weight) for weight in weights]


def estimate(
    potential: Potential,
    weights: list[Tensor],
    key: Key,
    step: int,
    axes: Sequence[Turnable] = (),
    rotation: Rotation | None = None,
    sloping: bool = True,
) -> Curvature:
    """Fisher diagonal and gradient variance at some weights, from 2 × 16 gradients of 8 examples each.

    The square of the mean gradient is one more copy of the weights, and left out unless `sloping`.
    """
    batches = [
        batch_index(key, "curvature", step * BATCHES + number, len(potential.data), SIZE) for number in range(BATCHES)
    ]
    drawn = _drawn(potential, weights, batches, key.torch("labels", step, device=potential.device), axes, rotation)
    given = _Means(_zeros(weights), _zeros(weights), () if drawn else axes, rotation)
    # of a loss that cannot draw labels the Fisher information is the noise, of which a control variate takes some out
    noisy = given if drawn or potential.plain is potential else _Means(_zeros(weights), _zeros(weights), axes, rotation)
    for index in batches:
        given.add(potential.gradient(weights, index)[1])
        if noisy is not given:
            noisy.add(potential.plain.gradient(weights, index)[1])
    noise, turned_noise = given.spread(), given.turned_spread()
    if drawn:
        fisher, turned, factors = drawn
    else:
        spreads = (noise, turned_noise) if noisy is given else (noisy.spread(), noisy.turned_spread())
        fisher, turned = (compact([potential.unit * x for x in spread]) for spread in spreads)
        factors = combined([noisy.factors, products(noisy.mean, axes)], [1, -1]) if axes else []
    slope = [(m * m - s / (SIZE * BATCHES)).clamp_min(0) for m, s in zip(given.mean, noise, strict=True) if sloping]
    seen = Turned(rotation, turned, compact(turned_noise)) if rotation else None
    return Curvature(fisher, compact(noise), compact(slope), factors, seen)


def _drawn(
    potential: Potential,
    weights: list[Tensor],
    batches: Sequence[np.ndarray],
    generator: torch.Generator,
    axes: Sequence[Turnable],
    rotation: Rotation | None,
) -> tuple[list[Tensor], list[Tensor], Sequence[Sides]] | None:
    """Fisher information, the same turned, and its factors, from labels that are drawn; None if the loss draws none.

    All of it before any gradient at the given labels, so that the two never fill memory together.
    """
    if not hasattr(potential.loss, "sampled"):
        return None
    means = _Means(_zeros(weights), [], axes, rotation)
    for index in batches:
        means.add(potential.sampled_gradient(weights, index, generator))
    torch._foreach_mul_([*means.square, *means.turned], 1 / (SIZE * potential.unit))
    return compact(means.square), compact(means.turned), means.factors


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
    return compact([torch.stack([x.float() for x in tensors]).mean(0) for tensors in zip(*lists, strict=True)])


def expected_rise(curvature: Curvature, precision: list[float], nbeta: float) -> float:
    """Mean rise of the quadratic basin with this Fisher: E = ½ Σ F / (nβ F + s⁻²), nats per unit.

    Exact for a quadratic loss with a minimum at w*; used as a first guess only.
    """
    return sum(
        float((f.double() / (nbeta * f.double() + a)).sum()) / 2
        for f, a in zip(curvature.fisher, precision, strict=True)
    )
