"""Heat against cool: a first-order jump is silent on the way up and seen by the way down."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import degrade
from degrade.cooling import jumps

D, GAMMA = 20, 0.02


class TwoPhases(nn.Module):
    """L(w) = min(r²/2, 1 + 0.01 r²/2), r = ‖w‖: a stiff well inside a wide flat one, so that E[ΔL] jumps in nβ.

    Each example adds xᵀw; they sum to 0, so that only the gradient's variance knows of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        square = (self.w**2).sum() / 2
        return torch.minimum(square, 1 + 0.01 * square) + x @ self.w


def data() -> Tensor:
    half = torch.randn(64, D, generator=torch.Generator().manual_seed(0))
    return torch.cat([half, -half])


def exact(nbeta: float) -> float:
    """E[ΔL] by radial quadrature."""
    r = np.linspace(1e-3, 60, 200_000)
    rise = np.minimum(r**2 / 2, 1 + 0.01 * r**2 / 2)
    log = (D - 1) * np.log(r) - nbeta * rise - GAMMA * r**2 / 2
    weight = np.exp(log - log.max())
    return float((weight * rise).sum() / weight.sum())


def critical() -> float:
    """The inverse temperature where E falls fastest."""
    grid = np.geomspace(5, 100, 200)
    rises = np.log([exact(b) for b in grid])
    return float(grid[np.argmin(np.diff(rises))])


@pytest.mark.slow
def test_no_rung_inside_a_jump_is_called_ok():
    middle = critical()
    nbetas = [middle * f for f in (1.6, 1.3, 0.9, 0.8, 0.7, 0.3, 0.2)]
    ladder = degrade.ladder(
        TwoPhases(), data(), nbetas=nbetas, loss=lambda model, x: model(x), gamma=GAMMA, chains=4, steps=500,
        burn_in=150, draws=4, cool=True, progress=False,
    )  # fmt: skip
    table = ladder.table.iloc[1:].assign(exact=[exact(b) for b in nbetas])
    wrong = (table.rise / table.exact - 1).abs() > 0.1
    assert wrong.any()  # the heated chains do superheat here: the case is not empty
    assert not table.verdict[wrong].str.startswith("ok").any()
    assert (table.rhat[wrong] < 1.05).any()  # and their own R-hat does not see it
    low, high = max(ladder.jumps(), key=lambda ends: ends[1] - ends[0])
    assert low < exact(1.05 * middle) * 1.2 and high > exact(0.95 * middle) * 0.8


def test_where_there_is_no_jump_the_way_back_agrees():
    from tests.degrade.toys import quadratic, quadratic_loss

    net, x = quadratic(cond=10, d=40)
    ladder = degrade.ladder(
        net, x, nbetas=[800.0, 400.0, 200.0], loss=quadratic_loss, gamma=1.0, chains=4, steps=700, burn_in=200,
        draws=4, cool=True, progress=False,
    )  # fmt: skip
    inner = ladder.table.iloc[1:3]
    assert (inner.pooled_rhat < 1.05).all() and ladder.jumps() == []
    assert ((inner.cooled_rise - inner.evaluation_rise).abs() < 5 * np.hypot(inner.cooled_rise_se, inner.rise_se)).all()
    assert math.isnan(ladder.table.pooled_rhat.iloc[3])  # nothing above the top rung to come back from


def test_disagreeing_neighbours_make_one_interval():
    rows = {"pooled_rhat": [np.nan, 1.0, 1.9, 2.0, 1.0, 1.2], "evaluation_rise": [0, 0.1, 0.2, 0.3, 1.4, 1.6]}
    table = pd.DataFrame(rows | {"cooled_rise": [np.nan, 0.1, 1.2, 1.3, 1.4, 1.5]})
    assert jumps(table, 1.05) == [(0.2, 1.3), (1.5, 1.6)]
