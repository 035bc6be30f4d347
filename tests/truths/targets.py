"""Potentials whose local learning coefficient is known, as losses over data.

Data are balanced designs: their mean is exactly zero and their covariance exactly the one that is named, so that the
mean loss is exactly the potential, while single examples pull in all directions, as they do in any trained network.
"""

import math

import numpy as np
import torch
from scipy import integrate, linalg, special
from torch import Tensor, nn


def balanced(columns: int) -> Tensor:
    """Signs of shape (examples, columns) with zero column sums and uncorrelated columns (Hadamard, Sylvester)."""
    size = 2 ** math.ceil(math.log2(columns + 1))
    return torch.as_tensor(linalg.hadamard(size)[:, 1 : columns + 1].astype(np.float32))


class Basin(nn.Module):
    """ℓ_x(w) = ½ (w−w*)ᵀH(w−w*) + (g + x)·(w−w*), any symmetric H and gradient g at w*."""

    def __init__(self, hessian: Tensor, gradient: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(len(gradient)))
        self.register_buffer("hessian", hessian.float())
        self.register_buffer("gradient", gradient.float())

    def forward(self, x: Tensor) -> Tensor:
        moved = self.w - 1
        return 0.5 * moved @ self.hessian @ moved + (self.gradient + x) @ moved


def basin(eigenvalues: Tensor, gradient: Tensor | None = None, seed: int | None = None) -> tuple[Basin, Tensor]:
    """A basin with these curvatures, along the axes or (with a seed) rotated; gradient noise has covariance |H|."""
    d = len(eigenvalues)
    turn = torch.eye(d, dtype=torch.float64)
    if seed is not None:
        turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]
    h = eigenvalues.double()
    slope = torch.zeros(d, dtype=torch.float64) if gradient is None else gradient.double()
    noise = balanced(d).double() @ (turn * h.abs().sqrt()).T
    return Basin((turn * h) @ turn.T, turn @ slope), noise.float()


def basin_llc(eigenvalues: Tensor, nbeta: float, gamma: float, gradient: Tensor | None = None) -> float:
    """λ = nβ Σ (g μ + ½ h (μ² + 1/a)),   a = nβ h + γ > 0,   μ = −nβ g / a, in the eigenbasis."""
    h = eigenvalues.double()
    g = torch.zeros_like(h) if gradient is None else gradient.double()
    a = nbeta * h + gamma
    mean = -nbeta * g / a
    return float(nbeta * (g * mean + 0.5 * h * (mean**2 + 1 / a)).sum())


class Monomials(nn.Module):
    """`copies` independent copies of K(w) = Π w_i^{2k_i} at w* = 0: ℓ_y = ½ |f − y|² − ½ |y|², f = √2 Π w_i^{k_i}."""

    def __init__(self, powers: tuple[int, ...], copies: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(len(powers), copies))
        self.powers = powers

    def forward(self, y: Tensor) -> Tensor:
        f = math.sqrt(2) * torch.stack([row**k for row, k in zip(self.w, self.powers, strict=True)]).prod(0)
        return 0.5 * (f**2).sum() - y @ f


def as_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """The models here return nats of each example."""
    return model(batch)


def crossing_llc(nbeta: float, gamma: float) -> float:
    """(w₁w₂)² under exp(−nβK − γ|w|²/2): λ = ½ − x (K₁(x)/K₀(x) − 1), x = γ²/(8nβ), K the modified Bessel functions."""
    x = gamma**2 / (8 * nbeta)
    return 0.5 - x * (special.k1e(x) / special.k0e(x) - 1)


def product_llc(powers: tuple[int, int], nbeta: float, gamma: float) -> float:
    """w₁^{2k₁} w₂^{2k₂} with k₁ = 1, by quadrature: given w₂, w₁ is Gaussian of precision 2nβ w₂^{2k₂} + γ."""
    if powers[0] != 1:
        raise ValueError(f"powers={powers}; the first must be 1")

    def weight(log: float, carries: bool) -> float:
        w = math.exp(log)
        stiff = 2 * nbeta * w ** (2 * powers[1])
        return (
            w
            * math.exp(-gamma * w * w / 2)
            / math.sqrt(stiff + gamma)
            * (stiff / (stiff + gamma) / 2 if carries else 1)
        )

    low, high = -40.0, math.log(12 / math.sqrt(gamma))
    top, bottom = (
        integrate.quad(weight, low, high, args=(carries,), limit=800, epsabs=0, epsrel=1e-10)[0]
        for carries in (True, False)
    )
    return top / bottom


def power_llc(k: int, nbeta: float, gamma: float) -> float:
    """w^{2k} in one dimension under exp(−nβ w^{2k} − γ w²/2), by quadrature; 1/(2k) as γ → 0."""
    scale = nbeta ** (-1 / (2 * k))

    def weight(u: float) -> float:
        return math.exp(-(u ** (2 * k)) - gamma * (scale * u) ** 2 / 2)

    top = integrate.quad(lambda u: u ** (2 * k) * weight(u), 0, 12, epsabs=0, epsrel=1e-10)[0]
    return top / integrate.quad(weight, 0, 12, epsabs=0, epsrel=1e-10)[0]
