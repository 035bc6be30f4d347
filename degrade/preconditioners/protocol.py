"""What a preconditioner is: how it learns about a place, and what it makes of what was learned."""

from collections.abc import Callable
from typing import NamedTuple

from degrade.curvature import Curvature
from degrade.slabs import Held


class Preconditioner(NamedTuple):
    """A preconditioner P = Q p Qᵀ, frozen while draws are taken.

    Attributes:
        fit: `(potential, weights, key, step, known) -> Curvature`, measured at a chain's weights; `known` is the
            average of earlier measurements of all chains, or None before there are any. Measurements are averaged over
            chains and rounds; if they are `turned`, P is taken in that rotation's coordinates, else in the weights'.
        scale: `(curvature, nbeta, precision, batch_size) -> p`, one tensor a parameter, in those coordinates;
            where models are large and p follows from the curvature, made whenever it is asked for (`degrade.slabs`).
    """

    fit: Callable[..., Curvature]
    scale: Callable[[Curvature, float, list[float], float], Held]
