"""devinterp 2.0.1's samplers (`pip install -e '.[peers]'`) on a known potential: its own optimizers, full batch.

Many chains are one batch of parameters: its updates go element by element, and a chain's loss has gradients in its own
slice alone, so that this is its sampler chain by chain, without its per-chain costs. Of a trace the last half is
averaged (`devinterp.slt.llc` averages burn-in too), at the best step size of the grid: an oracle that a user has not.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

SAMPLERS = {"devinterp sgld": "identity", "devinterp rmsprop": "rmsprop"}
RATES = (1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)

Energy = Callable[[Sequence[Tensor]], Tensor]


def trace(
    name: str, energy: Energy, center: Sequence[Tensor], precision: Sequence[float], nbeta: float, rate: float,
    steps: int, chains: int, seed: int,
) -> np.ndarray:  # fmt: skip
    """nβ (L − L(w*)) before each step, shape (steps, chains); not finite from where a chain diverged.

    Args:
        name: One of `SAMPLERS`.
        energy: Loss of each chain, shape (chains,), at parameters with a leading dimension of chains.
        center: w*, one tensor a parameter.
        precision: Localization of each parameter.
        nbeta: Inverse temperature.
        rate: Its `lr`.
        steps: Steps of each chain.
        chains: Chains.
        seed: Of the noise.
    """
    from devinterp.optim.prior import GaussianPrior
    from devinterp.optim.sgmcmc import SGMCMC

    parameters = [torch.nn.Parameter(c.float().expand(chains, *c.shape).clone()) for c in center]
    groups = [
        {"params": [p], "prior": GaussianPrior(localization=a, center="initial")}
        for p, a in zip(parameters, precision, strict=True)
    ]
    optimizer = SGMCMC(groups, lr=rate, nbeta=nbeta, preconditioner=SAMPLERS[name])
    generator, start = torch.Generator().manual_seed(seed), energy([c.float()[None] for c in center])
    rows = torch.full((steps, chains), torch.nan)
    for step in range(steps):
        losses = energy(parameters)
        rows[step] = nbeta * (losses.detach() - start)
        if not torch.isfinite(rows[step]).any():
            break
        for parameter, gradient in zip(parameters, torch.autograd.grad(losses.sum(), parameters), strict=True):
            parameter.grad = gradient
        optimizer.step(noise_generator=generator)
    return rows.double().numpy()


def last_halves(rows: np.ndarray, budgets: Sequence[int]) -> np.ndarray:
    """Mean over the last half of the first N steps, for each N and chain: shape (budgets, chains)."""
    return np.stack([rows[n // 2 : n].mean(0) for n in budgets])
