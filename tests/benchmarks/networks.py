"""Random deep linear networks at singular points, and their exact LLC by blocked Gibbs.

Three to five layers, widths random and scaled to a number of parameters, entries of Xavier's size, each layer cut to a
random rank with probability ½ (after Lau et al. 2023, arXiv:2308.12108). By turns the labels are B x + noise with
B = W*, a minimum; or B = W* + N(0, 1)/√n, what a teacher of unit noise leaves: then w* has a gradient, as trained
networks do. nβ = n / ln n with n = 10³, 10⁴ or 10⁵ by turns. The data are a balanced design of few examples, on which
L(W) = ½ ‖W − B‖² + ½ exactly and single examples have unit label noise in every output.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from degrade.neighbourhood import Neighbourhood
from tests.truths import gibbs
from tests.truths.targets import balanced

CHAINS, SWEEPS, DISCARDED = 8, 600, 100


class Network(NamedTuple):
    """Layers from input to output, the map B that labels are made of, nβ, and a name."""

    layers: list[np.ndarray]
    goal: np.ndarray
    nbeta: float
    name: str

    @property
    def parameters(self) -> int:
        return sum(w.size for w in self.layers)

    def module(self) -> nn.Sequential:
        model = nn.Sequential(*[nn.Linear(w.shape[1], w.shape[0], bias=False) for w in self.layers])
        for part, w in zip(model, self.layers, strict=True):
            part.weight.data = torch.as_tensor(w, dtype=torch.float32)
        return model

    def data(self) -> tuple[Tensor, Tensor]:
        goal = torch.as_tensor(self.goal, dtype=torch.float32)
        signs = balanced(sum(goal.shape))
        x = signs[:, : goal.shape[1]]
        return x, x @ goal.T + signs[:, goal.shape[1] :]

    def precision(self, neighbourhood: dict[str, float]) -> list[float]:
        center = [torch.as_tensor(w) for w in self.layers]
        return [s**-2 for s in Neighbourhood(**({"width": None, "gamma": None} | neighbourhood)).scales(center)]


def squares(model: nn.Module, batch: Any) -> Tensor:
    """½ ‖f(x) − y‖² of each example, nats of a unit Gaussian."""
    x, y = batch
    return ((model(x) - y) ** 2).sum(1) / 2


def drawn(size: int, seed: int) -> Network:
    """A network of about `size` parameters."""
    generator = np.random.default_rng([size, seed])
    shares = generator.uniform(0.5, 1.5, generator.integers(3, 6) + 1)
    widths = np.maximum(2, (shares * math.sqrt(size / (shares[1:] * shares[:-1]).sum())).round()).astype(int)
    layers = [_layer(int(out), int(into), generator) for into, out in zip(widths[:-1], widths[1:], strict=True)]
    n, teacher = 10.0 ** (3 + seed % 3), seed // 3 % 2 == 1
    goal = gibbs.product(layers)
    if teacher:
        goal = goal + generator.standard_normal(goal.shape) / math.sqrt(n)
    name = f"{'-'.join(map(str, widths))} n=1e{3 + seed % 3} {'teacher' if teacher else 'minimum'}"
    return Network(layers, goal, n / math.log(n), name)


def _layer(out: int, into: int, generator: np.random.Generator) -> np.ndarray:
    whole = generator.standard_normal((out, into)) * math.sqrt(2 / (into + out))
    if generator.random() < 0.5:
        return whole
    u, s, v = np.linalg.svd(whole, full_matrices=False)
    rank = generator.integers(1, len(s)) if len(s) > 1 else 1
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def truth(network: Network, neighbourhood: dict[str, float]) -> tuple[float, float]:
    """The exact λ at the same nβ and neighbourhood, and its standard error over chains."""
    series = gibbs.sample(
        network.layers, network.goal, network.nbeta, network.precision(neighbourhood), SWEEPS, CHAINS, seed=0
    )
    each = series[:, DISCARDED:].mean(1)
    return float(each.mean()), float(each.std(ddof=1) / math.sqrt(CHAINS))
