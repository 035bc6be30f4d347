"""Targets whose truth is known, and small models."""

import math

import torch
from torch import Tensor, nn


class Quadratic(nn.Module):
    """L(w) = mean over x of ½ Σ h (w − x)²: a Gaussian location model, Fisher = Hessian = h when Var x = 1/h."""

    def __init__(self, h: Tensor, center: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(center.clone())
        self.register_buffer("h", h)

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * ((self.w - x) ** 2 * self.h).sum(1)


def quadratic_loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def quadratic(cond: float = 100.0, d: int = 100, examples: int = 4000, seed: int = 0) -> tuple[Quadratic, Tensor]:
    """A trained quadratic (w* at the empirical minimum) with curvatures from 1 to 1/cond, and its data."""
    h = torch.logspace(0, -math.log10(cond), d) if cond > 1 else torch.ones(d)
    x = torch.randn(examples, d, generator=torch.Generator().manual_seed(seed)) / h.sqrt()
    return Quadratic(h, x.mean(0)), x


def exact_rise(h: Tensor, nbeta: float, precision: float) -> float:
    """E[ΔL] = ½ Σ h / (nβ h + s⁻²)."""
    h = h.double()
    return float((h / (nbeta * h + precision)).sum() / 2)


def classifier(seed: int = 0, width: int = 8) -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    """A small trained MLP on a two-class problem, and its data."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(512, 4, generator=generator)
    y = ((x[:, 0] * x[:, 1] + 0.3 * torch.randn(512, generator=generator)) > 0).long()
    net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2))
    for p in net.parameters():
        p.data.normal_(0, 0.5, generator=generator)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(200):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return net.eval(), (x, y)


class Rotated(nn.Module):
    """L(w) = mean over x of ½ Σ h (Rᵀ(w − x))²: a Gaussian location model whose stiff directions follow no axis."""

    def __init__(self, h: Tensor, turn: Tensor, center: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(center.clone())
        self.register_buffer("h", h)
        self.register_buffer("turn", turn)

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (((self.w - x) @ self.turn) ** 2 * self.h).sum(1)


rotated_loss = quadratic_loss


def rotated(d: int = 40, cond: float = 1000.0, examples: int = 4000, seed: int = 0) -> tuple[Rotated, Tensor]:
    """A trained rotated quadratic, curvatures from 1 to 1/cond, and its data (Fisher = Hessian)."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator))[0]
    h = torch.logspace(0, -math.log10(cond), d)
    x = (torch.randn(examples, d, generator=generator) / h.sqrt()) @ turn.T
    return Rotated(h, turn, x.mean(0)), x
