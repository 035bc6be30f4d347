import numpy as np
import pandas as pd
import pytest
from scipy import signal
from statsmodels.regression.mixed_linear_model import MixedLM

from studies import variance
from studies.variance import SOURCES, components, variance_split

REPEATS = 1000  # standard error of a coverage of 0.95: 0.0069, so 0.93..0.97 lies 2.9 of them away
SPREADS = np.array([1.0, 0.7, 1.2, 0.5, 1.0])  # of chain, draw, example, chain x example, rest


def autocorrelated(rng, shape, persistence):
    noise = rng.standard_normal((*shape[:-1], shape[-1] + 60)) * np.sqrt(1 - persistence**2)
    return signal.lfilter([1.0], [1.0, -persistence], noise, axis=-1)[..., 60:]


def cubes(rng, repeats, chains, draws=8, examples=24, persistence=0.0, spreads=SPREADS):
    """Answers (repeats, chains, draws, examples) with planted components and AR(1) draws."""
    parts = [
        rng.standard_normal((repeats, chains, 1, 1)),
        autocorrelated(rng, (repeats, chains, draws), persistence)[..., None],
        rng.standard_normal((repeats, 1, 1, examples)),
        rng.standard_normal((repeats, chains, 1, examples)),
        rng.standard_normal((repeats, chains, draws, examples)),
    ]
    return sum(spread * part for spread, part in zip(spreads, parts, strict=True))


def truths(draws, persistence, spreads=SPREADS):
    """What draws of a chain share through their autocorrelation counts as the chain's."""
    lags = np.abs(np.subtract.outer(np.arange(draws), np.arange(draws)))
    shared = (np.sum(persistence**lags) - draws) / (draws * (draws - 1))
    out = spreads**2
    return out + shared * spreads[1] ** 2 * np.array([1, -1, 0, 0, 0])


def as_frame(cube):
    chain, draw, example = (axis.ravel() for axis in np.indices(cube.shape))
    return pd.DataFrame({"chain": chain, "draw": draw, "example": example, "value": cube.ravel()})


@pytest.mark.slow
@pytest.mark.parametrize("chains", [4, 8])
@pytest.mark.parametrize("persistence", [0.0, 0.7])
def test_nominal_intervals_cover_for_autocorrelated_draws(chains, persistence, monkeypatch):
    monkeypatch.setattr(variance, "PIVOTS", 1000)
    made = cubes(np.random.default_rng(chains), REPEATS, chains, persistence=persistence)
    truth = truths(8, persistence)
    found = [variance_split(as_frame(cube)) for cube in made]
    held = np.mean([(rows["low"] <= truth) & (truth <= rows["high"]) for rows in found], axis=0)
    assert ((held >= 0.93) & (held <= 0.97)).all(), dict(zip(SOURCES, held, strict=True))


@pytest.mark.parametrize("persistence", [0.0, 0.7, 0.9])
def test_estimates_are_unbiased_for_autocorrelated_draws(persistence):
    """The mean of 500 estimates within 4 of its standard errors, each source."""
    made = cubes(np.random.default_rng(1), 500, 4, examples=6, persistence=persistence)
    found = np.array([components(variance._squares(cube).mean, cube.shape) for cube in made])
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - truths(8, persistence)) < 4 * error).all()


def test_the_split_is_the_reml_fit_of_the_mixed_model():
    spreads = np.array([2.0, 1.5, 2.0, 1.5, 1.0])
    frame = as_frame(cubes(np.random.default_rng(5), 1, 4, draws=3, examples=5, spreads=spreads)[0])
    parts = {"chain": "0 + C(chain)", "draw": "0 + C(chain):C(draw)", "example": "0 + C(example)",
             "chain x example": "0 + C(chain):C(example)"}  # fmt: skip
    fit = MixedLM.from_formula("value ~ 1", frame, groups=np.ones(len(frame)), vc_formula=parts).fit(reml=True)
    reml = dict(zip(fit.model.exog_vc.names, fit.vcomp, strict=True)) | {"rest": fit.scale}
    mine = variance_split(frame).set_index("source")["variance"]
    assert (mine > 0).all()
    np.testing.assert_allclose([mine[name] for name in SOURCES], [reml[name] for name in SOURCES], rtol=5e-3)


def test_shares_and_errors_add_up():
    cube = cubes(np.random.default_rng(2), 1, 8)[0]
    rows = variance_split(as_frame(cube))
    assert rows["share"].sum() == pytest.approx(1)
    np.testing.assert_allclose(rows["error"], rows["variance"] / [8, 64, 24, 8 * 24, 8 * 8 * 24])


def test_the_split_follows_the_unit_and_ignores_the_order_of_rows_and_names():
    frame = as_frame(cubes(np.random.default_rng(3), 1, 4)[0])
    before = variance_split(frame)
    renamed = frame.assign(value=7 - 3 * frame["value"], draw=frame["draw"] + 100 * frame["chain"])
    after = variance_split(renamed.sample(frac=1, random_state=0))
    np.testing.assert_allclose(after[["variance", "low", "high"]], 9 * before[["variance", "low", "high"]])


@pytest.mark.parametrize(("rho", "low", "high"), [(0.0, 5.0, 7.0), (0.95, 1.0, 4.0)])
def test_correlated_draws_count_for_less(rho, low, high):
    """Of 8 independent draws 7 degrees of freedom, of a near random walk the two or three of its slow modes."""
    values = autocorrelated(np.random.default_rng(4), (64, 8), rho)
    ratios = variance.nested_ratios(values - values.mean(1, keepdims=True), np.random.default_rng(0))
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / np.sqrt(len(ratios))
    assert low <= 2 / ratios.var() / 64 <= high  # the variance of χ²/df is 2/df


def test_two_draws_a_chain_are_one_degree_of_freedom():
    values = np.random.default_rng(5).standard_normal((6, 2))
    _, spectra = variance.persistence(values - values.mean(1, keepdims=True))
    assert spectra.shape[1] == 1


def test_missing_and_double_answers_are_refused():
    frame = as_frame(cubes(np.random.default_rng(0), 1, 4)[0])
    with pytest.raises(ValueError, match="1 of 768 combinations.*missing"):
        variance_split(frame.iloc[1:])
    with pytest.raises(ValueError, match="1 occur twice"):
        variance_split(pd.concat([frame, frame.iloc[:1]]))
    with pytest.raises(ValueError, match="1 chains"):
        variance_split(frame[frame["chain"] == 0])
