import numpy as np
import pandas as pd
import pytest
from scipy import signal, stats
from statsmodels.regression.linear_model import OLS

from studies.statistics import adjusted, chain_interval, cluster_interval, comparisons, intervals, share_interval

DRAWS = 8
REPEATS = 4000  # standard error of a coverage of 0.95: 0.0034, so 0.93..0.97 lies almost six of them away


def autocorrelated(rng, repeats, chains, draws=DRAWS, persistence=0.7):
    """Stationary AR(1) draws of unit variance and mean 0: (repeats, chains, draws)."""
    noise = rng.standard_normal((repeats, chains, draws + 50)) * np.sqrt(1 - persistence**2)
    return signal.lfilter([1.0], [1.0, -persistence], noise, axis=-1)[..., 50:]


def as_frame(values):
    chains, draws = values.shape
    return pd.DataFrame({"value": values.ravel(), "chain": np.repeat(np.arange(chains), draws)})


def coverage(frame, by, truth):
    table = intervals(frame, by, "value")
    return ((table["low"] <= truth) & (truth <= table["high"])).mean()


def stacked(values):
    repeats, chains, draws = values.shape
    repeat, chain, _ = np.indices(values.shape).reshape(3, -1)
    return pd.DataFrame({"repeat": repeat, "chain": chain, "value": values.ravel()})


@pytest.mark.parametrize("chains", [4, 8])
@pytest.mark.parametrize("persistence", [0.0, 0.7, 0.95])
def test_nominal_intervals_cover_for_autocorrelated_draws(chains, persistence):
    values = autocorrelated(np.random.default_rng(chains), REPEATS, chains, persistence=persistence)
    assert 0.93 <= coverage(stacked(values), ["repeat"], 0.0) <= 0.97


@pytest.mark.parametrize("chains", [4, 8])
def test_nominal_intervals_cover_for_shares_with_chain_effects(chains):
    rng = np.random.default_rng(chains + 10)
    level = 0.6 + 0.05 * rng.standard_normal((REPEATS, chains, 1))
    latent = autocorrelated(rng, REPEATS, chains)
    assert (
        0.93 <= coverage(stacked(rng.binomial(64, np.clip(level + 0.05 * latent, 0, 1)) / 64), ["repeat"], 0.6) <= 0.97
    )


def test_a_normal_reference_would_not_cover():
    values = autocorrelated(np.random.default_rng(3), REPEATS, 4).reshape(REPEATS, -1)
    half = 1.96 * values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
    assert np.mean(np.abs(values.mean(axis=1)) <= half) < 0.75


@pytest.mark.parametrize("sizes", [(8, 8, 8, 8), (8, 5, 2, 8, 1)])
def test_cluster_interval_equals_statsmodels(sizes):
    rng = np.random.default_rng(0)
    chain = np.repeat(np.arange(len(sizes)), sizes)
    frame = pd.DataFrame({"value": rng.standard_normal(len(chain)) + chain, "chain": chain})
    fit = OLS(frame["value"], np.ones(len(frame))).fit(
        cov_type="cluster", cov_kwds={"groups": frame["chain"]}, use_t=True
    )
    low, high = fit.conf_int().to_numpy()[0]
    got = cluster_interval(frame, "value", "chain")
    np.testing.assert_allclose([got.mean, got.se, got.low, got.high], [fit.params.iloc[0], fit.bse.iloc[0], low, high])


def test_chain_and_cluster_intervals_agree_when_balanced():
    values = autocorrelated(np.random.default_rng(1), 1, 4)[0]
    by_chain, by_row = chain_interval(list(values)), cluster_interval(as_frame(values), "value", "chain")
    np.testing.assert_allclose(by_chain, by_row)
    np.testing.assert_allclose(by_chain[2:4], stats.t.interval(0.95, 3, by_chain.mean, by_chain.se))


def test_intervals_move_and_scale_with_the_values():
    values = autocorrelated(np.random.default_rng(2), 1, 5)[0]
    before, after = chain_interval(list(values)), chain_interval(list(3 * values + 2))
    np.testing.assert_allclose(after[:4], [3 * before.mean + 2, 3 * before.se, 3 * before.low + 2, 3 * before.high + 2])


def test_grouped_intervals_equal_one_group_at_a_time():
    frame = stacked(autocorrelated(np.random.default_rng(5), 6, 4))
    table = intervals(frame, ["repeat"], "value").set_index("repeat")
    for repeat, rows in frame.groupby("repeat"):
        got = table.loc[repeat, ["mean", "se", "low", "high"]].to_numpy(float)
        np.testing.assert_allclose(got, chain_interval({c: r["value"] for c, r in rows.groupby("chain")})[:4])


def test_one_chain_has_a_mean_and_no_interval():
    got = chain_interval([[1.0, 2.0]])
    assert got.mean == 1.5
    assert np.isnan([got.se, got.low, got.high]).all()


@pytest.mark.parametrize("chains", [4, 8])
@pytest.mark.parametrize("correlation", [0.05, 0.3, 0.6])
def test_share_intervals_cover_near_the_ends_too(chains, correlation):
    """At least 0.92: a discrete share has no exact interval, and near 1 it errs on the wide side."""
    rng, weight = np.random.default_rng(chains), 1 / correlation - 1
    for share in (0.5, 0.9, 0.99):
        rates = rng.beta(share * weight, (1 - share) * weight, (400, chains, 1))
        draws = rng.random((400, chains, DRAWS)) < rates
        chain = np.repeat(np.arange(chains), DRAWS)
        found = [share_interval(rows.ravel(), chain) for rows in draws]
        assert np.mean([low <= share <= high for _, _, low, high, _ in found]) >= 0.92 - 3 * 0.0136


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_share_interval_keeps_its_width_where_all_draws_agree(value):
    got = share_interval(np.full(32, value), np.repeat(np.arange(4), 8))
    assert got.mean == value
    assert 0.4 < got.high - got.low < 0.6  # Wilson with four trials, not with thirty-two


def two_on_common_draws(rng, chains, difference=0.3, repeats=REPEATS):
    """Two measures whose draws and chains have much in common, and differ by chain effects and AR(1) noise besides."""
    shared = 3 * autocorrelated(rng, repeats, chains) + 2 * rng.standard_normal((repeats, chains, 1))
    own = 0.5 * autocorrelated(rng, repeats, chains) + 0.3 * rng.standard_normal((repeats, chains, 1))
    out = []
    for values in (shared + own + difference, shared):
        frame = stacked(values)
        out.append(frame.assign(draw=np.tile(np.arange(DRAWS), repeats * chains)))
    return out


@pytest.mark.parametrize("chains", [4, 8])
def test_paired_intervals_cover_for_autocorrelated_common_draws(chains):
    a, b = two_on_common_draws(np.random.default_rng(chains + 20), chains)
    found = comparisons(a, b, ["repeat"], on=["chain", "draw"])
    assert 0.93 <= ((found["low"] <= 0.3) & (found["high"] >= 0.3)).mean() <= 0.97


@pytest.mark.parametrize("chains", [4, 8])
def test_paired_tests_of_no_difference_reject_at_their_level_and_pairing_is_what_finds_one(chains):
    a, b = two_on_common_draws(np.random.default_rng(chains + 30), chains, difference=0.0)
    found = comparisons(a, b, ["repeat"], on=["chain", "draw"])
    assert 0.03 <= (found["p"] <= 0.05).mean() <= 0.07
    unpaired = intervals(a, ["repeat"], "value")
    assert (found["se"] < 0.5 * unpaired["se"]).mean() > 0.95


def test_a_comparison_is_the_cluster_interval_of_the_differences_on_common_rows():
    a, b = two_on_common_draws(np.random.default_rng(4), 4, repeats=1)
    found = comparisons(a.iloc[3:], b, ["repeat"], on=["chain", "draw"]).iloc[0]
    difference = a.assign(value=a["value"] - b["value"]).iloc[3:]
    expected = cluster_interval(difference, "value", "chain")
    np.testing.assert_allclose(found[["mean", "se", "low", "high"]].to_numpy(float), expected[:4])
    assert found["left_out"] == 3
    fit = OLS(difference["value"], np.ones(len(difference))).fit(
        cov_type="cluster", cov_kwds={"groups": difference["chain"]}, use_t=True
    )
    assert found["p"] == pytest.approx(fit.pvalues.iloc[0])


def test_comparisons_without_a_common_draw_or_with_double_rows_are_refused():
    a, b = two_on_common_draws(np.random.default_rng(5), 4, repeats=1)
    with pytest.raises(ValueError, match="not told apart"):
        comparisons(pd.concat([a, a]), b, ["repeat"], on=["chain", "draw"])
    with pytest.raises(ValueError, match="no draw is common"):
        comparisons(a, b.assign(chain=b["chain"] + 9), ["repeat"], on=["chain", "draw"])


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_false_discoveries_stay_below_the_level_in_every_family(shared):
    """20 tests a family, 5 of them true effects of 3 standard errors; the mean share of false calls within 3 errors."""
    rng, effect = np.random.default_rng(6), np.r_[np.full(5, 3.0), np.zeros(15)]
    false = []
    for _ in range(1000):
        noise = np.sqrt(shared) * rng.standard_normal((2, 1)) + np.sqrt(1 - shared) * rng.standard_normal((2, 20))
        p = 2 * stats.norm.sf(np.abs(effect + noise)).ravel()
        called = (adjusted(p, np.repeat(["a", "b"], 20)) <= 0.05).reshape(2, 20)
        false.append(called[:, 5:].sum(1) / np.maximum(called.sum(1), 1))
    false = np.array(false)
    assert (false.mean(0) <= 0.05 + 3 * false.std(0) / np.sqrt(len(false))).all()


def test_q_values_are_those_of_the_definition_and_families_do_not_mix():
    p = np.random.default_rng(7).random(12) ** 2
    order = np.argsort(p)
    steps = p[order] * 12 / np.arange(1, 13)
    expected = np.empty(12)
    expected[order] = np.minimum.accumulate(steps[::-1])[::-1]
    np.testing.assert_allclose(adjusted(p), expected)
    both = adjusted(np.r_[p, 0.5, np.nan], ["a"] * 12 + ["b", "a"])
    np.testing.assert_allclose(both, np.r_[expected, 0.5, np.nan])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="empty"):
        chain_interval([])
    with pytest.raises(ValueError, match="chain 1 holds no finite value"):
        chain_interval([[1.0], [np.nan]])
    with pytest.raises(ValueError, match="no column"):
        cluster_interval(pd.DataFrame({"value": [1.0]}), "value", "chain")
    with pytest.raises(ValueError, match="0 or 1"):
        share_interval([2.0], [0])
