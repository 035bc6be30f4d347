import numpy as np
import pytest
from scipy import optimize, signal, special

from studies.logistic import Between, logistic_half_retention
from studies.retention import half_retention, retention

RISES = np.geomspace(0.05, 1.6, 8)
START, CHANCE, HALF = 0.97, 1 / 16, 0.3
REPEATS = 1000  # standard error of a coverage of 0.95: 0.0069, so 0.93..0.97 lies 2.9 of them away


def planted(rng, chains, half=HALF, draws=4, questions=32, spread=0.15, persistence=0.7, steepness=2.5):
    """Shares of right answers: a log-logistic curve, E½ log-normal over chains, and AR(1) over the draws of each."""
    noise = rng.standard_normal((chains, len(RISES), draws + 40)) * np.sqrt(1 - persistence**2)
    wobble = signal.lfilter([1.0], [1.0, -persistence], noise, axis=-1)[..., 40:]
    own = np.log(half) + spread * rng.standard_normal((chains, 1, 1)) + 0.1 * wobble
    right = CHANCE + (START - CHANCE) * special.expit(-steepness * (np.log(RISES)[:, None] - own))
    rise = np.broadcast_to(RISES[:, None], right.shape)
    chain = np.broadcast_to(np.arange(chains)[:, None, None], right.shape)
    return rise.ravel(), (rng.binomial(questions, right) / questions).ravel(), chain.ravel()


def fitted(rows, **settings):
    return logistic_half_retention(*rows, **({"start": START, "chance": CHANCE} | settings))


@pytest.mark.slow
@pytest.mark.parametrize("chains", [4, 8])
def test_nominal_intervals_cover_for_autocorrelated_draws(chains):
    rng = np.random.default_rng(chains)
    found = [fitted(planted(rng, chains)) for _ in range(REPEATS)]
    assert 0.93 <= np.mean([half.low <= HALF <= half.high for half in found]) <= 0.97


def test_shares_and_single_answers_give_the_same_fit():
    rng = np.random.default_rng(0)
    rise, share, chain = planted(rng, 4, questions=8)
    single = np.concatenate([np.arange(8) < round(8 * s) for s in share]).astype(float)
    many = fitted((np.repeat(rise, 8), single, np.repeat(chain, 8)))
    np.testing.assert_allclose(numbers(fitted((rise, share, chain))), numbers(many), rtol=1e-4)


def numbers(half):
    return [half.value, half.low, half.high]


def test_the_estimate_is_the_root_of_the_estimating_equations():
    rise, share, chain = planted(np.random.default_rng(1), 4)
    x = np.log(rise)

    def badness(theta):
        p = CHANCE + (START - CHANCE) * special.expit(theta[0] + theta[1] * x)
        return -np.sum(share * np.log(p) + (1 - share) * np.log(1 - p))  # independence: the binomial likelihood

    level, slope = optimize.minimize(badness, [-1.0, -1.0], tol=1e-12).x
    assert fitted((rise, share, chain)).value == pytest.approx(np.exp(-level / slope), rel=1e-4)


def test_first_and_second_opinion_agree_where_the_shape_is_right():
    rise, share, chain = planted(np.random.default_rng(2), 8, draws=16)
    cells = [(r, c) for c in range(8) for r in RISES]
    mean = [share[(rise == r) & (chain == c)].mean() for r, c in cells]
    where, whose = np.array(cells).T
    first = half_retention(where, retention(mean, START, CHANCE), whose)
    second = fitted((rise, share, chain))
    assert abs(np.log(first.value / second.value)) < 0.1
    assert second.low < first.value < second.high


@pytest.mark.parametrize(("half", "side"), [(0.004, "left"), (20.0, "right")])
def test_scales_outside_the_ladder_are_bounds(half, side):
    got = fitted(planted(np.random.default_rng(3), 8, half=half))
    assert got.censored == side
    assert got.value == pytest.approx(RISES[0] if side == "left" else RISES[-1])
    assert got.low == 0 if side == "left" else got.high == np.inf


def test_limits_beyond_the_ladder_are_open():
    got = fitted(planted(np.random.default_rng(4), 4, half=1.5, spread=0.4))
    assert got.high == np.inf


@pytest.mark.parametrize(("level", "side"), [(0.97, "right"), (0.07, "left")])
def test_a_curve_that_does_not_fall_is_censored_or_nothing(level, side):
    rise, share, chain = planted(np.random.default_rng(5), 4)
    flat = np.random.default_rng(6).binomial(32, level, len(rise)) / 32
    got = fitted((rise, flat, chain))
    assert got.censored == side and got.reason


def test_a_fall_between_two_rungs_has_no_second_opinion():
    rise, _, chain = planted(np.random.default_rng(7), 4)
    got = fitted((rise, np.where(rise < 0.3, START, CHANCE), chain))
    assert not got.measurable
    assert "between two rungs" in got.reason


def test_the_link_turns_back_and_has_the_slopes_it_says():
    link, p = Between(0.1, 0.9), np.array([0.2, 0.5, 0.8])
    np.testing.assert_allclose(link.inverse(link(p)), p)
    step = 1e-6
    np.testing.assert_allclose(link.deriv(p), (link(p + step) - link(p - step)) / (2 * step), rtol=1e-6)
    np.testing.assert_allclose(link.inverse_deriv(link(p)), 1 / link.deriv(p))
    np.testing.assert_allclose(link.deriv2(p), (link.deriv(p + step) - link.deriv(p - step)) / (2 * step), rtol=1e-4)


def test_bad_input_is_named():
    rows = planted(np.random.default_rng(8), 4)
    with pytest.raises(ValueError, match="must be above chance"):
        fitted(rows, start=0.05)
    with pytest.raises(ValueError, match="shares in 0..1"):
        fitted((rows[0], 2 * rows[1], rows[2]))
    assert "too few" in fitted(tuple(part[rows[2] == 0] for part in rows)).reason
