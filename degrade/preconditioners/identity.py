"""No preconditioning: P = 1, plain SGLD in the model's own coordinates."""

import torch
from torch import Tensor

from degrade.curvature import Curvature, estimate
from degrade.noise import Key
from degrade.potential import Potential


def fit(potential: Potential, weights: list[Tensor], key: Key, step: int, known: Curvature | None) -> Curvature:
    """Curvature and gradient noise: P needs none, the noise correction and the verdict do."""
    return estimate(potential, weights, key, step)


def scale(curvature: Curvature, nbeta: float, precision: list[float], batch_size: float) -> list[Tensor]:
    """Ones in the shape of each parameter."""
    return [torch.ones_like(f) for f in curvature.fisher]
