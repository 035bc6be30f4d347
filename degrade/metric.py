"""The metric of a rung: what turns gradients into steps, and weighs directions by how much the loss holds them.

Frozen while draws are taken: an adapting preconditioner biases the law.
"""

from dataclasses import dataclass

from torch import Tensor

from degrade.curvature import Curvature


@dataclass(frozen=True)
class Metric:
    """Per sampled scalar: preconditioner P, curvature a = nβF + s⁻², weight A = nβF/a, gradient variance q = nβ²σ²/m.

    All are zero (a: one) where a mask excludes the scalar, so that nothing there moves or counts.
    """

    p: list[Tensor]
    a: list[Tensor]
    weight: list[Tensor]
    q: list[Tensor]
    total: float


def build(
    p: list[Tensor],
    curvature: Curvature,
    precision: list[float],
    nbeta: float,
    batch_size: float,
    masks: tuple[Tensor | None, ...],
) -> Metric:
    """Bind a preconditioner to the curvature at one temperature."""
    a = [nbeta * f + s for f, s in zip(curvature.fisher, precision, strict=True)]
    weight = [nbeta * f / x for f, x in zip(curvature.fisher, a, strict=True)]
    q = [nbeta**2 * v / batch_size for v in curvature.noise]  # an infinite batch is one without noise
    hidden = [None if mask is None else mask.to(x.device).float() for mask, x in zip(masks, a, strict=True)]
    p, weight, q = (_hide(part, hidden) for part in (p, weight, q))
    return Metric(p, a, weight, q, sum(float(x.double().sum()) for x in weight))


def _hide(tensors: list[Tensor], masks: list[Tensor | None]) -> list[Tensor]:
    return [x if mask is None else x * mask for x, mask in zip(tensors, masks, strict=True)]
