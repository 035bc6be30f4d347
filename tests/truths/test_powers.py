"""Pure powers: ΔL of w^{2k} is Gamma(1/(2k), nβ) as the neighbourhood widens; 64 copies add up."""

import numpy as np
import pytest
from scipy import stats

import degrade
from tests.truths.judging import exactly, never_silently_wrong, with_small_steps
from tests.truths.targets import Monomials, as_loss, balanced, power_llc

COPIES = 64


def wide(k, nbeta):
    """γ of a neighbourhood ten times as wide as the well at this temperature."""
    return 1e-2 * nbeta ** (1 / k)


def test_the_reference_tends_to_the_exponent():
    for k in (1, 2, 3):
        assert power_llc(k, 1e6, 1e-9) == pytest.approx(1 / (2 * k), rel=1e-3)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("nbeta", [1e2, pytest.param(1e5, marks=pytest.mark.slow)])
def test_defaults_are_right_or_said_not_to_be(k, nbeta):
    gamma = wide(k, nbeta)
    result = degrade.llc(
        Monomials((k,), COPIES),
        balanced(COPIES),
        nbeta=nbeta,
        gamma=gamma,
        loss=as_loss,
        chains=4,
        draws=1,
        progress=False,
    )
    never_silently_wrong(result, COPIES * power_llc(k, nbeta, gamma))


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 3])
def test_small_steps_are_exact_and_rises_have_the_gamma_law(k):
    """Mean and variance of nβΔL over looks; the variance's own error is √((2 + 6/shape)/looks)."""
    nbeta = 1e3
    gamma = wide(k, nbeta)
    result = with_small_steps(Monomials((k,), COPIES), balanced(COPIES), nbeta=nbeta, gamma=gamma, loss=as_loss)
    shape = COPIES * power_llc(k, nbeta, gamma)
    exactly(result, shape, scale=shape)
    rises = nbeta * (result.ladder.losses.query("rung == 1").groupby(["chain", "step"]).nats.mean()).to_numpy()
    looks = min(len(rises), float(result.ladder.table.ess[1]))
    assert abs(rises.var() / shape - 1) < 4.5 * np.sqrt((2 + 6 / shape) / looks) + 0.02
    assert stats.kstest(rises, stats.gamma(shape).cdf).statistic < 1.95 / np.sqrt(looks)
