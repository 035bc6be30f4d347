"""Singular minima in two dimensions against quadrature: (w₁w₂)² and w₁²w₂⁴, 64 copies in one network."""

import pytest

import degrade
from tests.truths.judging import exactly, never_silently_wrong, with_small_steps
from tests.truths.targets import Monomials, as_loss, balanced, crossing_llc, product_llc

COPIES = 64
SETTINGS = {"gamma": 1.0, "loss": as_loss}


def exact(powers, nbeta):
    one = crossing_llc(nbeta, 1.0) if powers == (1, 1) else product_llc(powers, nbeta, 1.0)
    return COPIES * one


def test_the_two_references_agree():
    for nbeta in (1.0, 100.0, 1e4):
        assert crossing_llc(nbeta, 1.0) == pytest.approx(product_llc((1, 1), nbeta, 1.0), rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("powers", [(1, 1), (1, 2)])
@pytest.mark.parametrize("nbeta", [0.1, 1.0, 100.0])
def test_small_steps_are_exact(powers, nbeta):
    result = with_small_steps(Monomials(powers, COPIES), balanced(COPIES), nbeta=nbeta, **SETTINGS)
    exactly(result, exact(powers, nbeta), scale=exact(powers, nbeta))


@pytest.mark.slow
@pytest.mark.parametrize("powers", [(1, 1), (1, 2)])
@pytest.mark.parametrize("nbeta", [1.0, 100.0, 1e4, 1e6])
def test_defaults_are_right_or_said_not_to_be(powers, nbeta):
    result = degrade.llc(
        Monomials(powers, COPIES), balanced(COPIES), nbeta=nbeta, chains=4, draws=1, progress=False, **SETTINGS
    )
    never_silently_wrong(result, exact(powers, nbeta))
