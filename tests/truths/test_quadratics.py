"""Quadratic basins: λ = ½ Σ nβh/(nβh + γ) at a minimum, with a gradient and a negative eigenvalue as they come."""

import pytest
import torch

import degrade
from tests.truths.judging import exactly, never_silently_wrong
from tests.truths.targets import as_loss, basin, basin_llc

D, NBETA, GAMMA = 30, 1000.0, 0.5
EVEN = torch.full((D,), 0.5)
ILL = (torch.logspace(0, 4, D, dtype=torch.float64) - GAMMA) / NBETA  # nβh + γ from 1 to 10⁴
SADDLE = torch.cat([torch.tensor([-0.0003]), torch.logspace(-3, 0, D - 1)])
UPHILL = 0.03 * ILL.abs().sqrt().float()


def sampled(eigenvalues, gradient=None, seed=None, **settings):
    model, data = basin(eigenvalues, gradient, seed)
    given = {"chains": 8, "draws": 1, "progress": False} | settings
    return degrade.llc(model, data, nbeta=NBETA, gamma=GAMMA, loss=as_loss, **given)


@pytest.mark.parametrize(
    ("eigenvalues", "gradient", "seed"),
    [(EVEN, None, None), (EVEN, None, 1), (ILL, None, None), (ILL, UPHILL, None), (SADDLE, None, None)],
    ids=["isotropic", "isotropic rotated", "condition 1e4 aligned", "not a minimum", "one negative eigenvalue"],
)
@pytest.mark.parametrize("sampler", ["baoab", pytest.param("sgld", marks=pytest.mark.slow)])
def test_basins(eigenvalues, gradient, seed, sampler):
    result = sampled(eigenvalues, gradient, seed, sampler=sampler)
    exactly(result, basin_llc(eigenvalues, NBETA, GAMMA, gradient), scale=D / 2)


@pytest.mark.slow
@pytest.mark.parametrize("eigenvalues", [ILL, SADDLE], ids=["condition 1e4", "one negative eigenvalue"])
def test_rotated_basins_are_right_or_said_not_to_be(eigenvalues):
    never_silently_wrong(sampled(eigenvalues, seed=1, chains=4), basin_llc(eigenvalues, NBETA, GAMMA))


@pytest.mark.slow
def test_a_rotated_basin_of_condition_1e4_is_right_in_the_end():
    result = sampled(ILL, seed=1, steps=12_000, burn_in=4_000)
    exactly(result, basin_llc(ILL, NBETA, GAMMA), scale=D / 2)


def test_minibatches_do_not_heat_in_silence():
    """A batch of 16 of 32 balanced examples."""
    result = sampled(EVEN, batch_size=16)
    never_silently_wrong(result, basin_llc(EVEN, NBETA, GAMMA))
