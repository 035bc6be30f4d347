"""No preconditioning: P = 1, plain SGLD in the model's own coordinates."""

import torch
from torch import Tensor

from degrade.curvature import Curvature


def scale(curvature: Curvature, nbeta: float, precision: list[float]) -> list[Tensor]:
    """Ones in the shape of each parameter."""
    return [torch.ones_like(f) for f in curvature.fisher]
