"""RMSprop preconditioner, as published LLCs use it (SGLD of Li et al. 2016, arXiv:1512.07666).

P = 1 / ( √v + 0.1 ),     v = E[ĝ²] = (E ĝ)² + σ²/m,     ĝ the gradient of the loss, nats per unit, of a batch of m

v is what the running average v ← 0.99 v + 0.01 ĝ² (Hitchcock & Hoogland 2025, arXiv:2507.21449: from v = 1 with bias
correction; from 0 elsewhere) converges to, whatever it starts from, and frozen: a v that follows the chain needs a
divergence term that is left out in practice, and biases the law. nβ and the neighbourhood do not enter, so steps are
in the published units: w ← w − (ε/2) P ∇U + √(εP) ξ. With a control variate ĝ is what that leaves.
"""

from torch import Tensor

from degrade.curvature import Curvature, estimate
from degrade.noise import Key
from degrade.potential import Potential
from degrade.slabs import Held, compact

FLOOR = 0.1


def fit(potential: Potential, weights: list[Tensor], key: Key, step: int, known: Curvature | None) -> Curvature:
    """Mean and variance of the gradient."""
    return estimate(potential, weights, key, step)


def scale(curvature: Curvature, nbeta: float, precision: list[float], batch_size: float) -> Held:
    """P for each parameter; an infinite batch is all the data, without noise."""
    pairs = zip(curvature.slope, curvature.noise, strict=True)
    return compact([1 / ((slope.float() + noise / batch_size).sqrt() + FLOOR) for slope, noise in pairs])
