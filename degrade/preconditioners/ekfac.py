"""Fisher information in its Kronecker eigenbasis (EKFAC; George et al. 2018, arXiv:1806.03884).

P = Q / ( nβ (F' + δ F̄) + s⁻² ) Qᵀ,     F'_i = E[(Qᵀ ∂ℓ)_i²] at labels drawn from the model, δ = 0.1

Q = U ⊗ V turns each weight matrix into the eigenvectors of its Kronecker factors (`degrade.rotation`, which also says
what stays as it is), and F' is measured in it, never taken for the product of the factors' eigenvalues. Factors are
averaged over chains and rounds; Q is made of what earlier rounds knew of them and F' seen in it at fresh gradients, so
that no direction looks flat for having been fitted.
"""

from torch import Tensor

from degrade.curvature import Curvature, estimate
from degrade.noise import Key
from degrade.potential import Potential
from degrade.preconditioners.fisher import damped_inverse
from degrade.rotation import eigenbasis, turnable
from degrade.slabs import Held


def fit(potential: Potential, weights: list[Tensor], key: Key, step: int, known: Curvature | None) -> Curvature:
    """Factors, and curvature in the basis of the factors known so far (at first: of those seen one step before)."""
    axes = turnable(potential.model, potential.selection)
    if known is None:
        known = estimate(potential, weights, key, step + 1, axes)
    return estimate(potential, weights, key, step, axes, eigenbasis(known.factors, axes), sloping=False)


def scale(curvature: Curvature, nbeta: float, precision: list[float], batch_size: float) -> Held:
    """P for each parameter, in the coordinates of its basis; unit: 1 / U."""
    return damped_inverse((curvature.turned or curvature).fisher, nbeta, precision)
