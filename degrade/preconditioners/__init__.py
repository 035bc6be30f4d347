"""Preconditioners: each a module with one function `scale(curvature, nbeta, precision) -> P`, one tensor a parameter.

To add one: a new file, an import line and a name here, a line in the contract test.
"""

from collections.abc import Callable

from torch import Tensor

from degrade.curvature import Curvature
from degrade.preconditioners import fisher, identity

Preconditioner = Callable[[Curvature, float, list[float]], list[Tensor]]

PRECONDITIONERS: dict[str, Preconditioner] = {"fisher": fisher.scale, "identity": identity.scale}
