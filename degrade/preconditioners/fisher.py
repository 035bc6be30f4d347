"""Diagonal Fisher preconditioner: close to the covariance of the degraded law in each coordinate.

P = 1 / ( nβ (F + δ F̄) + s⁻² ),     F̄ the mean of F over all sampled scalars, δ = 0.1
"""

from torch import Tensor

from degrade.curvature import Curvature

DAMPING = 0.1


def scale(curvature: Curvature, nbeta: float, precision: list[float]) -> list[Tensor]:
    """P for each parameter; unit: 1 / U, so that a step size near 1 is large."""
    total = sum(float(f.double().sum()) for f in curvature.fisher)
    mean = total / sum(f.numel() for f in curvature.fisher)
    return [1 / (nbeta * (f + DAMPING * mean) + s) for f, s in zip(curvature.fisher, precision, strict=True)]
