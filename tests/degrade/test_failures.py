"""The catalogue of failures: whatever spoils a rung, its verdict is not `ok`, and the reason names the cause.

Each case also shows that it is one: what was spoilt is off, or is what its name says.
"""

import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import degrade
from degrade import chain, climb
from degrade.repeats import repeats
from degrade.verdict import OK
from tests.degrade.test_cooling import GAMMA, TwoPhases, critical, data, exact
from tests.degrade.toys import exact_rise, quadratic, quadratic_loss
from tests.truths import gibbs
from tests.truths.targets import as_loss, basin, basin_llc
from tests.truths.test_linear_networks import NETWORKS, layers_of, network, squares

SHORT = {"steps": 400, "burn_in": 100, "chains": 4, "draws": 2, "progress": False}
NBETA, EXAMPLES = 100.0, 512


def simple(nbeta=NBETA, gamma=1.0, **settings):
    """A quadratic of 30 directions, and nβ times its exact rise."""
    net, x = quadratic(cond=10, d=30, examples=EXAMPLES)
    result = degrade.llc(net, x, nbeta=nbeta, gamma=gamma, loss=quadratic_loss, **(SHORT | settings))
    return result, nbeta * exact_rise(net.h, nbeta, gamma)


def step_too_large_but_finite():
    result, truth = simple(sampler="ula", step_size=2.0, batch_size=EXAMPLES)
    assert 1.3 * truth < result.llc < 3 * truth
    return result


def step_far_too_small():
    result, truth = simple(step_size=2e-4, batch_size=EXAMPLES)
    assert result.llc < 0.5 * truth
    return result


def heated_by_a_batch_of_4_on_noisy_labels():
    nbeta, gamma = 1000.0, 100.0
    layers = layers_of(*NETWORKS["4-3-4"])
    model, examples = network(layers, noise=1.0)
    settings = SHORT | {"nbeta": nbeta, "gamma": gamma, "loss": squares}
    result = degrade.llc(model, examples, batch_size=4, step_size=1.0, **settings)
    assert result.table.batch_size[0] == 4
    assert result.llc > 1.2 * gibbs.sample(layers, gibbs.product(layers), nbeta, [gamma] * 2, 300, 8, seed=0).mean()
    return result


class TwoBasins(nn.Module):
    """β₀ L(u, v) = 15 (u² − 1)² − 6 u³ + β₀ |v|²/2: from the ridge at 0 chains fall to either side and stay there."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(61))

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.w[0], self.w[1:]
        return (15 * (u**2 - 1) ** 2 - 6 * u**3) / NBETA + (v**2).sum() / 2 + x @ self.w


def chains_in_two_basins():
    half = torch.randn(64, 61, generator=torch.Generator().manual_seed(0))
    signs = torch.cat([half, -half])
    result = degrade.llc(TwoBasins(), signs, nbeta=NBETA, gamma=1.0, loss=as_loss, **(SHORT | {"chains": 8}))
    assert np.ptp(result.per_chain.llc) > 8  # nβ times the difference of the basins' rises is about 12
    return result


def a_neighbourhood_so_tight_that_it_is_what_is_measured():
    result, truth = simple(gamma=3000.0)
    assert truth < 0.05 * 30 / 2  # of half the parameters, which any wider neighbourhood tends to
    return result


def no_minimum():
    """The gradient at w* takes chains downhill: the exact λ is negative, and so is what is found."""
    curvatures, gradient = torch.full((30,), 0.5), torch.full((30,), 0.2)
    result = degrade.llc(*basin(curvatures, gradient), nbeta=NBETA, gamma=1.0, loss=as_loss, **SHORT)
    truth = basin_llc(curvatures, NBETA, 1.0, gradient)
    assert truth < 0
    assert abs(result.llc / truth - 1) < 0.1
    return result


def nan_in_one_chain_of_four(monkeypatch):
    advance = climb.advance

    def damaged(scene, plan, key, weights):
        spoilt = [w * float("nan") for w in weights] if key.chain == 2 else weights
        return advance(scene, plan, key, spoilt)

    monkeypatch.setattr(climb, "advance", damaged)
    result, truth = simple()
    assert set(result.per_chain.chain) == {0, 1, 3}
    assert abs(result.llc / truth - 1) < 0.2  # the other three are sound, and still it is not ok
    return result


def data_order_repeated(monkeypatch):
    """The same 20 batches of 16 examples over and over."""
    fresh = chain.batch_index
    monkeypatch.setattr(
        chain, "batch_index",
        lambda key, purpose, step, *rest: fresh(key, purpose, step % 20 if purpose == "batch" else step, *rest),
    )  # fmt: skip
    return simple(batch_size=16, step_size=0.05)[0]


def heated_only_inside_a_jump():
    """Superheated: far below the exact rise, and nothing that the heated chains say tells."""
    nbeta = 0.8 * critical()
    result = degrade.llc(TwoPhases(), data(), nbeta=nbeta, gamma=GAMMA, loss=as_loss, **SHORT)
    assert result.llc < 0.5 * nbeta * exact(nbeta)
    return result


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (step_too_large_but_finite, "too large a step heats"),
        (step_far_too_small, "too small for chains to get about"),
        (heated_by_a_batch_of_4_on_noisy_labels, "minibatch noise heats"),
        (chains_in_two_basins, "chains disagree"),
        (a_neighbourhood_so_tight_that_it_is_what_is_measured, "of the neighbourhood's own: a larger width"),
        (no_minimum, "negative: the trained weights are no minimum"),
        (nan_in_one_chain_of_four, r"1 of 4 chains did not finish \(the loss or the weights became non-finite\)"),
        (data_order_repeated, "minibatches come again in the same order"),
        (heated_only_inside_a_jump, "a jump could be hidden"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_no_failure_is_ok_and_each_is_named(failure, said, request):
    patch = [request.getfixturevalue("monkeypatch")] if failure.__code__.co_argcount else []
    result = failure(*patch)
    assert result.verdict != OK
    assert math.isfinite(result.llc)
    assert re.search(said, result.reason), f"{result!r}: {result.reason}"


def test_what_was_spoilt_is_not_accused_when_sound():
    """The catalogue's quadratic as it is, with all examples at a step and with 16."""
    whole, truth = simple()
    assert whole.verdict.startswith(OK), whole.reason
    assert abs(whole.llc / truth - 1) < 0.1
    assert "batches" not in simple(batch_size=16)[0].reason


def test_independent_batches_hardly_ever_seem_to_come_again():
    """300 rungs of 4 chains with white batch noise, heavy-tailed, on slow fluctuations: at most 1 in 100."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(300):
        slow = np.cumsum(rng.normal(size=(4, 400)) * 0.1, axis=1)
        alarms += repeats(slow + rng.standard_t(3, size=(4, 400))) > 0
    assert alarms <= 3


def test_a_rung_that_no_chain_finished_is_failed_and_has_no_number(monkeypatch):
    advance = climb.advance
    monkeypatch.setattr(
        climb, "advance", lambda scene, plan, key, weights: advance(scene, plan, key, [w * math.nan for w in weights])
    )
    result = simple()[0]
    assert result.verdict == "failed" and "no chain finished" in result.reason
    assert np.isnan([result.llc, result.se]).all() and not len(result.per_chain)
