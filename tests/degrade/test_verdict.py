"""A verdict names what is wrong; none of these failures is called ok."""

import math

import numpy as np
import pytest

from degrade.cooling import Against
from degrade.diagnostics import Estimate, Reading, ess, over_chains, rhat, trend
from degrade.verdict import HEATED, OK, judge

GOOD = Reading(
    rise=Estimate(0.2, 0.002), evaluation_rise=Estimate(0.2, 0.002), virial=Estimate(1.0, 0.003),
    weighted_virial=Estimate(1.01, 0.005), temperature=Estimate(1.02, 0.01), heating=Estimate(0.02, 0.01),
    bound="heating", prior_fraction=0.99,
    heldout_rise=Estimate(0.2, 0.002),
    calibrated_rise=0.18, rhat=1.01, ess=200.0, trend=0.001, trend_p=0.5,
)  # fmt: skip


def verdict(reach=0.2, target=0.2, faults=(), **changes):
    return judge(GOOD._replace(**changes), target, reach, 4, list(faults))


def test_a_clean_rung_is_ok_as_far_as_heating_can_tell():
    assert verdict() == (HEATED, "all checks passed; not cooled, so a jump could be hidden")


@pytest.mark.parametrize(
    ("changes", "word", "said"),
    [
        ({"target": 0.195}, HEATED, "all checks"),
        ({"target": 0.18}, "suspect", "misses the target 0.18"),
        ({"target": 0.1}, "failed", "misses the target 0.1 by 100%"),
        ({"target": math.nan}, HEATED, "all checks"),
        ({"virial": Estimate(0.9, 0.01)}, "suspect", "flat directions are not yet filled"),
        ({"virial": Estimate(0.3, 0.01)}, "failed", "flat directions"),
        ({"weighted_virial": Estimate(1.12, 0.005)}, "suspect", "hotter than asked"),
        ({"weighted_virial": Estimate(1.5, 0.005)}, "failed", "hotter than asked"),
        ({"weighted_virial": Estimate(0.9, 0.005)}, "suspect", "stiff directions"),
        ({"temperature": Estimate(1.3, 0.01)}, "suspect", "heats stiff directions"),
        ({"temperature": Estimate(2.5, 0.01)}, "failed", "nbeta and llc are too high"),
        ({"temperature": Estimate(1.3, 0.01)}, "suspect", ": minibatch noise heats"),
        ({"temperature": Estimate(1.3, 0.01), "noise": 0.0}, "suspect", ": too large a step heats"),
        ({"temperature": Estimate(1.3, 0.01), "bound": "given"}, "suspect", "noise or too large a step heats"),
        ({"temperature": Estimate(1.3, 0.01), "bound": "given", "noise": 0.5}, "suspect", ": minibatch noise heats"),
        ({"virial": Estimate(0.3, 0.01), "bound": "given", "pace": 1e-4}, "failed", "0.0001 of what the curvature"),
        ({"bound": "given", "pace": 1e-4}, HEATED, "all checks"),
        ({"temperature": Estimate(1.1, 0.3), "heating": Estimate(0.0, 0.3)}, "suspect", "cannot be told"),
        ({"temperature": Estimate(1.1, 0.3)}, HEATED, "all checks"),
        ({"repeats": 0.2}, "suspect", "come again in the same order"),
        ({"surplus": Estimate(0.02, 0.002)}, "suspect", "fitted the batches"),
        ({"surplus": Estimate(0.02, 0.01)}, HEATED, "all checks"),
        ({"temperature": Estimate(0.7, 0.01)}, "suspect", "not yet in equilibrium"),
        ({"heating": Estimate(0.25, 0.01)}, "suspect", "25% of it seem due to the step"),
        ({"heating": Estimate(0.12, 0.01), "bound": "given"}, "suspect", "12% of it"),
        ({"heating": Estimate(0.12, 0.01)}, HEATED, "all checks"),
        ({"heating": Estimate(0.5, 0.1)}, "failed", "due to the step"),
        ({"heating": Estimate(math.nan, math.nan)}, HEATED, "all checks"),
        ({"rise": Estimate(0.2, 0.012)}, "suspect", "known to 6% only"),
        ({"rhat": 1.08}, "suspect", "R-hat 1.080"),
        ({"rhat": 2.0}, "failed", "chains disagree"),
        ({"rhat": math.nan}, "failed", "R-hat nan"),
        ({"ess": 20.0}, "suspect", "effective sample size 20"),
        ({"ess": math.nan}, "suspect", "effective sample size nan"),
        ({"trend": 0.02, "trend_p": 0.001}, "suspect", "still drifts"),
        ({"trend": 0.02, "trend_p": 0.2}, HEATED, "all checks"),
        ({"reach": 0.9}, "suspect", "90% of the neighbourhood"),
        ({"rise": Estimate(-0.1, 0.01), "target": math.nan}, "suspect", "no minimum"),
        ({"faults": ["NaN"]}, "failed", "1 of 4 chains did not finish (NaN)"),
    ],
)
def test_each_failure_is_named(changes, word, said):
    found = verdict(**changes)
    assert found.word == word
    assert said in found.reason


def test_only_a_rung_that_was_cooled_is_plainly_ok():
    assert judge(GOOD, 0.2, 0.2, 4, [], Against(Estimate(0.2, 0.003), 1.01)).word == OK


@pytest.mark.parametrize(("pooled", "word"), [(1.2, "suspect"), (1.8, "failed")])
def test_heated_and_cooled_chains_apart_are_said_to_be(pooled, word):
    found = judge(GOOD, 0.2, 0.2, 4, [], Against(Estimate(0.9, 0.003), pooled))
    assert found.word == word
    assert "heated chains stand at 0.2 nats and cooled ones at 0.9" in found.reason


def test_errors_over_chains_are_those_of_independent_means():
    rng = np.random.default_rng(0)
    errors = [over_chains(list(rng.normal(size=4))).se for _ in range(4000)]
    assert np.mean(np.square(errors)) == pytest.approx(0.25, abs=5 * 0.25 * math.sqrt(2 / 3 / 4000))
    assert math.isnan(over_chains([1.0]).se)


def test_chains_in_two_basins_are_seen_and_one_law_is_not_accused():
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(4, 40)) + np.array([[0.0], [0.0], [3.0], [3.0]])
    assert rhat(apart) > 1.5
    assert ess(apart) < 20
    together = [rhat(rng.normal(size=(4, 40))) for _ in range(200)]
    assert np.mean(np.array(together) > 1.05) < 0.1


def test_a_drift_is_seen_and_noise_is_not():
    rng = np.random.default_rng(0)
    assert trend(np.array([[0.0, 1.0], [0.1, 1.0], [0.0, 1.1], [0.0, 1.0]]))[1] < 0.01
    false = [trend(rng.normal(size=(4, 2)))[1] < 0.01 for _ in range(2000)]
    assert np.mean(false) < 0.02
