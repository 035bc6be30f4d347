"""Diagonal Fisher preconditioner: close to the covariance of the degraded law in each coordinate.

P = 1 / ( nβ (F + δ F̄) + s⁻² ),     F̄ the mean of F over all sampled scalars, δ = 0.1
"""

from functools import partial

from torch import Tensor

from degrade.curvature import Curvature, estimate
from degrade.noise import Key, Tensors
from degrade.potential import Potential
from degrade.slabs import Held, held

DAMPING = 0.1


def fit(potential: Potential, weights: list[Tensor], key: Key, step: int, known: Curvature | None) -> Curvature:
    """The diagonal of the Fisher information, without the mean gradient: it would be one more copy of the weights."""
    return estimate(potential, weights, key, step, sloping=False)


def scale(curvature: Curvature, nbeta: float, precision: list[float], batch_size: float) -> Held:
    """P for each parameter; unit: 1 / U, so that a step size near 1 is large."""
    return damped_inverse(curvature.fisher, nbeta, precision)


def damped_inverse(fisher: Tensors, nbeta: float, precision: list[float]) -> Held:
    """1 / (nβ (F + δ F̄) + s⁻²) for each parameter; of large models made from F whenever it is asked for."""
    mean = sum(float(f.double().sum()) for f in fisher) / sum(f.numel() for f in fisher)
    return held(partial(_inverse, nbeta=nbeta, damping=DAMPING * mean), fisher, precision)


def _inverse(fisher: Tensor, precision: float, nbeta: float, damping: float) -> Tensor:
    return 1 / (nbeta * (fisher.float() + damping) + precision)
