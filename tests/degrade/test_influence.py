"""On a linear-Gaussian potential every covariance of losses is known: estimates meet it within their own errors.

With ℓ_i = ½ (y_i − w·x_i)², residuals r_i at the least-squares w*, and S = (nβ XᵀX/N + γ)⁻¹ the law's covariance,

    Cov(ℓ_i, ℓ_j) = r_i r_j c + ½ c²,    c = x_iᵀ S x_j,         E[ℓ_i] − ℓ_i(w*) = ½ x_iᵀ S x_i
"""

import math

import numpy as np
import pytest
import torch

import degrade
from degrade import influence
from degrade.covariance import correlate, covariance

NBETA, GAMMA, N, D = 20.0, 1.0, 48, 3
CHAINS = 16
T_VARIANCE = (CHAINS - 1) / (CHAINS - 3)  # of an estimate over its standard error from 16 chains


def squared(model, batch):
    x, y = batch
    return (y - model(x)[:, 0]) ** 2 / 2


@pytest.fixture(scope="module")
def regression():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator) * torch.tensor([2.0, 1.0, 0.5])
    x[:8] *= 2.5
    y = x.sum(1) + torch.randn(N, generator=generator)
    model = torch.nn.Linear(D, 1, bias=False)
    model.weight.data = torch.linalg.lstsq(x, y[:, None]).solution.T
    return model, (x, y)


@pytest.fixture(scope="module")
def ladder(regression):
    model, data = regression
    seen = influence.ExampleLosses(squared, (data[0][:5] + 1.0, data[1][:5]))
    return degrade.ladder(
        model, data, nbetas=[NBETA], loss=squared, gamma=GAMMA, chains=CHAINS, steps=500, burn_in=100, draws=64,
        observe=[seen, lambda model: model.weight[0, 0].item()], progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def exact(regression):
    model, (x, y) = regression
    x = x.double().numpy()
    residual = y.double().numpy() - x @ model.weight[0].double().detach().numpy()
    spread = np.linalg.inv(NBETA * x.T @ x / N + GAMMA * np.eye(D))
    c = x @ spread @ x.T
    return {
        "x": x,
        "residual": residual,
        "spread": spread,
        "kernel": np.outer(residual, residual) * c + c**2 / 2,
        "c": c,
    }


def agrees(estimate, se, truth, free):
    """Mean z² of estimates with about `free` independent ones among them: below its mean by 4 standard deviations."""
    z = (np.asarray(estimate) - truth) / np.asarray(se)
    return float((z**2).mean()) < T_VARIANCE * (1 + 4 * math.sqrt(2 / free))


def test_the_kernel_is_exact(ladder, exact):
    value, se = influence.kernel(ladder)
    assert agrees(value, se, exact["kernel"], free=D * (D + 1))
    assert np.linalg.norm(value - exact["kernel"]) < 0.15 * np.linalg.norm(exact["kernel"])
    assert np.allclose(value, value.T)


def test_the_correlation_is_exact(ladder, exact):
    size = np.sqrt(exact["kernel"].diagonal())
    value, se = influence.kernel(ladder, correlation=True)
    off = ~np.eye(N, dtype=bool)
    assert agrees(value[off], se[off], (exact["kernel"] / np.outer(size, size))[off], free=D * (D + 1))
    assert np.allclose(value.diagonal(), 1)
    assert np.abs(value).max() <= 1 + 1e-9
    assert np.allclose(se.diagonal(), 0)


def test_per_example_llcs_are_exact_and_average_to_the_rungs(ladder, exact):
    table = influence.per_example(ladder)
    assert agrees(table.llc, table.se, NBETA * exact["c"].diagonal() / 2, free=2 * D)
    assert table.llc.mean() == pytest.approx(NBETA * ladder.table.evaluation_rise[1], rel=1e-5)
    assert table.example.tolist() == list(range(N))
    assert table.llc[:8].mean() > 3 * table.llc[8:].mean()


def test_influence_is_the_response_to_reweighing_an_example(ladder, exact):
    """dE[φ]/dβ_i = nβ/N · BIF(i, φ), φ the first weight: E[w] of the reweighted law, differentiated by hand."""
    x, r, spread = exact["x"], exact["residual"], exact["spread"]
    truth = NBETA / N * (r[:, None] * x) @ spread[0]  # from A(β) m(β) = nβ/N Σ β_i x_i r_i, at Σ x_i r_i = 0
    value, se = influence.bayesian(ladder, 1)
    assert value.shape == (N, 1)
    assert agrees(NBETA / N * value[:, 0], NBETA / N * se[:, 0], truth, free=D)


def test_influence_on_a_second_data_set(ladder, exact, regression):
    """−Cov(ℓ_i, ℓ'_j) for examples outside the potential."""
    model, (x, y) = regression
    shifted = (x[:5] + 1.0).double().numpy()
    residual = y[:5].double().numpy() - shifted @ model.weight[0].double().detach().numpy()
    c = exact["x"] @ exact["spread"] @ shifted.T
    value, se = influence.bayesian(ladder, 0)
    assert value.shape == (N, 5)
    assert agrees(value, se, -(np.outer(exact["residual"], residual) * c + c**2 / 2), free=2 * D)


def test_influence_takes_arrays_and_is_minus_the_kernel(ladder):
    nats = influence.losses(ladder, 1)
    value, se = influence.bayesian(ladder, nats)
    assert np.allclose(value, -influence.kernel(ladder).value)
    assert influence.bayesian(ladder, nats[:, :, 0]).value.shape == (N, 1)
    with pytest.raises(ValueError, match="expected \\(chains, looks\\)"):
        influence.bayesian(ladder, nats[:, 1:])
    with pytest.raises(ValueError, match="observer 7 saw no draw"):
        influence.bayesian(ladder, 7)


def test_susceptibilities_are_exact(ladder, exact):
    truth = exact["kernel"].mean() - exact["kernel"].mean(1)
    table = influence.susceptibility(ladder)
    assert agrees(table.susceptibility, table.se, truth, free=2 * D)
    assert table.susceptibility.mean() == pytest.approx(0, abs=1e-8)


def test_groups_may_label_the_evaluation_set_or_all_data(ladder, exact):
    labels = np.where(np.arange(N) < 8, "wide", "narrow")
    table = influence.susceptibility(ladder, groups=labels).set_index("group")
    truth = exact["kernel"].mean() - exact["kernel"].mean(1)
    for group in ("wide", "narrow"):
        mine = labels == group
        assert table.examples[group] == mine.sum()
        assert abs(table.susceptibility[group] - truth[mine].mean()) < 4 * table.se[group]
    assert table.susceptibility["wide"] < -3 * table.se["wide"]
    with pytest.raises(ValueError, match="groups have shape"):
        influence.susceptibility(ladder, groups=labels[:5])


def test_a_stored_ladder_says_the_same(ladder, regression, tmp_path):
    ladder.save(tmp_path / "stored")
    again = degrade.load(tmp_path / "stored", regression[0])
    assert np.array_equal(influence.kernel(again).value, influence.kernel(ladder).value)
    assert influence.per_example(again).equals(influence.per_example(ladder))


def test_an_unknown_rung_lists_the_known(ladder):
    with pytest.raises(ValueError, match=r"rung=3; expected one of the rungs that chains finished: \[1\]"):
        influence.kernel(ladder, 3)


def autoregressive(chains, looks, generator, keep=0.9):
    values = generator.standard_normal((chains, looks, 2)) @ np.array([[1.0, 0.5], [0.0, 1.0]])
    for step in range(1, looks):
        values[:, step] = keep * values[:, step - 1] + math.sqrt(1 - keep**2) * values[:, step]
    return values


def test_covariance_is_unbiased_and_its_error_honest_under_autocorrelation():
    """400 repetitions of 8 slow chains of 30 looks : no bias, and an error within a fifth of the truth."""
    generator, truth = np.random.default_rng(0), np.array([[1.0, 0.5], [0.5, 1.25]])
    found = [covariance(series, series) for series in (autoregressive(8, 30, generator) for _ in range(400))]
    values = np.stack([one.value for one in found])
    assert (np.abs(values.mean(0) - truth) < 4 * values.std(0) / math.sqrt(len(found))).all()
    assert np.allclose(np.sqrt(np.mean([one.se**2 for one in found], 0)) / values.std(0), 1, atol=0.2)


def test_covariance_has_a_naive_twin_that_leaves_out_a_chain_at_a_time():
    generator, chains = np.random.default_rng(1), 5
    left, right = generator.standard_normal((chains, 7, 4)), generator.standard_normal((chains, 7, 2))
    left += generator.standard_normal((chains, 1, 4))

    def naive(kept, i, j):
        x, y = left[kept, :, i], right[kept, :, j]
        within = np.mean((x - x.mean()) * (y - y.mean()))
        return within + np.cov(x.mean(1), y.mean(1))[0, 1] / len(kept)

    value, se = covariance(left, right)
    for i in range(4):
        for j in range(2):
            without = [naive([c for c in range(chains) if c != out], i, j) for out in range(chains)]
            assert value[i, j] == pytest.approx(naive(list(range(chains)), i, j))
            assert se[i, j] == pytest.approx(math.sqrt((chains - 1) * np.var(without)))


def test_one_chain_has_a_value_and_no_error():
    series = np.random.default_rng(2).standard_normal((1, 50, 3))
    assert np.allclose(covariance(series, series).value, np.cov(series[0].T))
    assert np.isnan(covariance(series, series).se).all()
    constant = np.concatenate([series, np.ones((1, 50, 1))], 2)
    assert np.isnan(correlate(constant).value[3, :3]).all()
