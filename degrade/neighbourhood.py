"""The neighbourhood: how far from the trained weights a draw may go when the loss does not object.

    prior:  exp( −½ Σ_t ‖w_t − w*_t‖² / s_t² )

with s_t = width · rms(w*_t), or s_t = γ^(−½) for every tensor (Lau et al. 2023, arXiv:2308.12108).
"""

import statistics
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Neighbourhood:
    """Exactly one of a dimensionless `width` and an isotropic precision `gamma`.

    Raises:
        ValueError: for both, neither, or a value that is not positive.

    >>> Neighbourhood(gamma=100.0).scales([])
    []
    """

    width: float | None = None
    gamma: float | None = None

    def __post_init__(self) -> None:
        if (self.width is None) == (self.gamma is None):
            raise ValueError(
                f"width={self.width} and gamma={self.gamma} were given; expected exactly one of them: width (relative"
                " to each tensor's rms, 0.5 is usual) or gamma (isotropic precision, as in published LLCs)"
            )
        for name, value in (("width", self.width), ("gamma", self.gamma)):
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value}; expected a positive number")

    def scales(self, center: list[Tensor]) -> list[float]:
        """s_t of each tensor; a tensor whose rms is 0 takes the median rms over all tensors."""
        if self.gamma is not None:
            return [self.gamma**-0.5 for _ in center]
        sizes = [float(tensor.square().mean().sqrt()) for tensor in center]
        usual = statistics.median(sizes) or 1.0
        return [float(self.width or 0) * (size or usual) for size in sizes]
