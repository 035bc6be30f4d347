"""No preconditioning: P = 1, plain SGLD in the model's own coordinates."""

import torch
from torch import Tensor

from degrade.curvature import Curvature, estimate
from degrade.noise import Key
from degrade.potential import Potential
from degrade.slabs import Held, held


def fit(potential: Potential, weights: list[Tensor], key: Key, step: int, known: Curvature | None) -> Curvature:
    """Curvature and gradient noise: P needs none, the noise correction and the verdict do."""
    return estimate(potential, weights, key, step)


def scale(curvature: Curvature, nbeta: float, precision: list[float], batch_size: float) -> Held:
    """Ones in the shape of each parameter."""
    return held(torch.ones_like, curvature.fisher)
