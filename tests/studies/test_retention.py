import numpy as np
import pytest
from scipy import optimize

from studies.retention import crossing, half_retention, retention

RISES = np.geomspace(0.05, 1.6, 8)
REPEATS = 1500  # standard error of a coverage of 0.95: 0.0056


def planted(rng, half, chains, spread=0.15, noise=0.02, steepness=2.5):
    """Retention of each chain at each rung: log-logistic in the rise, E½ of a chain log-normal around `half`."""
    own = half * np.exp(spread * rng.standard_normal((chains, 1)))
    kept = 1 / (1 + (RISES / own) ** steepness) + noise * rng.standard_normal((chains, len(RISES)))
    return np.tile(RISES, chains), kept.ravel(), np.repeat(np.arange(chains), len(RISES))


@pytest.mark.parametrize("chains", [4, 8])
def test_half_retention_covers_a_planted_scale(chains):
    rng = np.random.default_rng(chains)
    found = [half_retention(*planted(rng, 0.3, chains)) for _ in range(REPEATS)]
    assert all(half.censored == "none" for half in found)
    assert 0.93 <= np.mean([half.low <= 0.3 <= half.high for half in found]) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("chains", [4, 8])
def test_half_retention_covers_when_its_rungs_are_means_of_autocorrelated_draws(chains):
    """The mean of 8 AR(1) draws is as noisy as the mean of their correlations says; here as noisy as half a spread."""
    lags = np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
    noise = 0.08 * np.sqrt(np.mean(0.7**lags))
    rng = np.random.default_rng(chains + 40)
    found = [half_retention(*planted(rng, 0.3, chains, noise=noise)) for _ in range(REPEATS)]
    assert 0.93 <= np.mean([half.low <= 0.3 <= half.high for half in found]) <= 0.97


@pytest.mark.parametrize(("half", "side"), [(0.01, "left"), (8.0, "right")])
def test_censoring_is_detected_on_both_sides(half, side):
    got = half_retention(*planted(np.random.default_rng(0), half, 4))
    assert got.censored == side
    assert (got.left, got.right) == ((4, 0) if side == "left" else (0, 4))
    assert got.value == pytest.approx(RISES[0] if side == "left" else RISES[-1])
    assert (got.low == 0) if side == "left" else (got.high == np.inf)


@pytest.mark.parametrize(("end", "side"), [(RISES[0], "left"), (RISES[-1], "right")])
def test_partly_censored_limits_stay_honest(end, side):
    """Half of the chains leave the ladder: that side is open, and the other limit errs in at most 2.5 %."""
    rng = np.random.default_rng(1)
    found = [half_retention(*planted(rng, end, 4, spread=0.3)) for _ in range(600)]
    assert all(half.censored in (side, "none") for half in found)
    missed = [half.high < end if side == "left" else half.low > end for half in found]
    assert np.mean(missed) <= 0.025 + 3 * 0.0064


def test_chains_leaving_at_both_ends_give_no_value():
    kept = np.concatenate([np.full(len(RISES), 0.1), np.full(len(RISES), 0.9)])
    got = half_retention(np.tile(RISES, 2), kept, np.repeat([0, 1], len(RISES)))
    assert (got.censored, got.low, got.high, got.left, got.right) == ("mixed", 0.0, np.inf, 1, 1)
    assert np.isnan(got.value)


def test_a_noiseless_crossing_is_interpolated_on_the_log_axis():
    assert crossing([0.1, 0.4], [0.75, 0.25]) == (pytest.approx(0.2), 0)
    assert crossing([0.4, 0.1], [0.25, 0.75]) == (pytest.approx(0.2), 0)


def test_the_scale_follows_the_unit_of_the_rise():
    rises, kept, chain = planted(np.random.default_rng(2), 0.3, 4)
    before, after = half_retention(rises, kept, chain), half_retention(10 * rises, kept, chain)
    np.testing.assert_allclose(
        [after.value, after.low, after.high], 10 * np.array([before.value, before.low, before.high])
    )


def test_the_crossing_is_that_of_the_best_monotone_fit():
    rng = np.random.default_rng(4)
    kept = 1 / (1 + RISES / 0.3) + 0.2 * rng.standard_normal(len(RISES))
    steps = np.tril(np.ones((len(RISES),) * 2))  # non-increasing = free start minus non-negative steps
    design = np.hstack([steps[:, :1], -steps[:, 1:]])
    bounds = (np.r_[-np.inf, np.zeros(len(RISES) - 1)], np.inf)
    fit = design @ optimize.lsq_linear(design, kept, bounds, tol=1e-12).x
    first = np.flatnonzero(fit <= 0.5)[0]
    expected = np.exp(np.interp(-0.5, -fit[first - 1 : first + 1], np.log(RISES[first - 1 : first + 1])))
    assert crossing(RISES, kept)[0] == pytest.approx(expected, rel=1e-4)


def test_rungs_without_a_place_on_the_axis_are_left_out():
    assert crossing([-0.01, 0.0, 0.1, 0.4], [1.0, 1.0, 0.75, 0.25])[0] == pytest.approx(0.2)
    assert half_retention([-0.1], [1.0], [0]).reason.startswith("no rung")


@pytest.mark.parametrize(("gap", "gap_se"), [(0.02, 0.01), (-0.3, 0.01), (0.0, 0.0), (np.nan, np.nan)])
def test_a_behaviour_at_chance_has_no_scale_and_a_reason(gap, gap_se):
    got = half_retention(*planted(np.random.default_rng(3), 0.3, 4), gap=gap, gap_se=gap_se)
    assert np.isnan([got.value, got.low, got.high]).all()
    assert not got.measurable
    assert got.reason


def test_one_chain_has_a_scale_and_no_interval():
    got = half_retention(*planted(np.random.default_rng(3), 0.3, 1))
    assert np.isfinite(got.value) and np.isnan([got.low, got.high]).all()
    assert "one chain" in got.reason


def test_retention_is_one_at_the_start_and_zero_at_chance_in_both_directions():
    for start, chance in ((0.9, 0.1), (0.5, 3.0)):
        np.testing.assert_allclose(retention([start, chance, (start + chance) / 2], start, chance), [1, 0, 0.5])
    assert np.isnan(retention(0.5, 0.5, 0.5))
