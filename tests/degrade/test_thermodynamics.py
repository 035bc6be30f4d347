"""Ladders of exact, independent draws: what is read off them must be the law's own thermodynamics."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from degrade import thermodynamics
from degrade.parameters import select
from degrade.result import Ladder

CHAINS, LOOKS, TOTAL = 16, 200, 4000
H, GAMMA = 2.0, 1.0


def ladder_of(nbetas, rises_of, total, verdicts=None):
    """A ladder whose looks are given: rises_of(nbeta, generator) -> rises of examples, (chains, looks, examples)."""
    generator = np.random.default_rng(0)
    table = [{"rung": 0, "nbeta": np.inf, "rise": 0.0, "llc": np.nan, "llc_se": np.nan, "verdict": "trained"}]
    losses, traces = [], []
    for rung, nbeta in enumerate(nbetas, start=1):
        rises = rises_of(nbeta, generator)
        chain, look, example = (axis.ravel() for axis in np.indices(rises.shape))
        losses.append(
            pd.DataFrame({"rung": rung, "chain": chain, "step": look, "example": example, "nats": 1 + rises.ravel()})
        )
        means = rises.mean(2)
        for number, mine in enumerate(means):
            traces.append(pd.DataFrame({"rung": rung, "chain": number, "kept": True, "rise": mine}))
        each = nbeta * means.mean(1)
        table.append(
            {"rung": rung, "nbeta": nbeta, "rise": means.mean(), "llc": each.mean(), "verdict": "ok",
             "llc_se": each.std(ddof=1) / np.sqrt(CHAINS)}
        )  # fmt: skip
    size = rises.shape[2]
    start = pd.DataFrame({"rung": 0, "chain": -1, "step": 0, "example": range(size), "nats": 1.0})
    frame = pd.DataFrame(table)
    frame.loc[1:, "verdict"] = verdicts or frame.verdict[1:]
    model = torch.nn.Linear(1, 1)
    return Ladder(
        model, frame, pd.concat(traces), pd.concat([start, *losses]),
        {"counts": [1.0] * size, "examples": total}, select(model), [],
    )  # fmt: skip


def quadratic(d, size, choice=0):
    """ℓ_i(w) = ½ h |w − x_i|², Σ x_i = 0: independent draws of its law, at `size` of 4000 examples."""
    x = np.random.default_rng(7).standard_normal((TOTAL, d)) / np.sqrt(H)
    x = (x - x.mean(0))[choice * size : (choice + 1) * size]

    def rises(nbeta, generator):
        w = generator.standard_normal((CHAINS, LOOKS, d)) / np.sqrt(nbeta * H + GAMMA)
        return 0.5 * H * ((w**2).sum(2)[..., None] - 2 * w @ x.T)

    return rises


def power(exponent):
    """ΔL of a potential that is a pure power law: Gamma(λ, nβ), one example."""
    return lambda nbeta, generator: generator.gamma(exponent, 1 / nbeta, (CHAINS, LOOKS, 1))


def test_variance_is_that_of_the_sampling_data_not_of_the_evaluation_set():
    """Var(ΔL) = ½ d (h/a)² from 20 of 4000 examples, in the mean of 30 choices of them; their own mean varies more."""
    exact = 0.5 * 10 * (H / (10 * H + GAMMA)) ** 2
    found, own = [], []
    for choice in range(30):
        ladder = ladder_of([10.0], quadratic(10, 20, choice), TOTAL)
        found.append(thermodynamics.variance(ladder, 1).value)
        own.append(ladder.losses[ladder.losses.rung == 1].nats.to_numpy().reshape(-1, 20).mean(1).var())
    error = np.std(found) / np.sqrt(30)
    assert abs(np.mean(found) - exact) < 4 * error
    assert np.mean(own) > exact + 6 * error


def test_variance_is_the_covariance_of_two_halves_averaged_over_ways_to_halve():
    generator = np.random.default_rng(3)
    rises = generator.standard_normal((1, 50, 6)) + generator.standard_normal((1, 50, 1))
    ladder = ladder_of([1.0], lambda nbeta, generator: np.concatenate([rises, rises]), 10**12)
    centred = rises[0] - rises[0].mean(0)
    halves = [np.argsort(generator.random(6)) for _ in range(20_000)]
    covariances = [np.mean(centred[:, h[:3]].mean(1) * centred[:, h[3:]].mean(1)) for h in halves]
    found = thermodynamics.variance(ladder, 1).value
    assert abs(np.mean(covariances) - found) < 4 * np.std(covariances) / np.sqrt(len(halves))


def test_variance_of_all_examples_is_that_of_their_mean():
    rises = np.random.default_rng(4).standard_normal((2, 30, 5))
    ladder = ladder_of([1.0], lambda nbeta, generator: rises, 5)
    means = rises.mean(2)
    exact = means.var() + (means.mean(1) - means.mean()).var()
    assert thermodynamics.variance(ladder, 1).value == pytest.approx(exact)


def test_heat_capacity_meets_the_slope_of_complexity():
    nbetas = np.geomspace(8, 0.05, 24)
    table = thermodynamics.table(ladder_of(nbetas, quadratic(40, 64), TOTAL))
    inner = table.iloc[1:-1]
    z = inner.gap / inner.gap_se
    assert (z.abs() < 4.5).all()
    assert float((z**2).mean()) < 15 / 13 * (1 + 4 * np.sqrt(2 / len(inner)))
    exact = 0.5 * 40 * (nbetas * H / (nbetas * H + GAMMA)) ** 2
    assert ((table.heat_capacity - exact).abs() < 4 * table.heat_capacity_se).all()
    assert (table.heat_capacity_se < 0.12 * exact.max()).all()


def test_the_error_of_a_variance_holds_the_choice_of_examples():
    """40 evaluation sets of 30 examples, one set of draws: the spread of estimates is within a third of the error."""
    common = np.random.default_rng(0).standard_normal((CHAINS, LOOKS, 1))
    levels = [np.random.default_rng(seed).gamma(2.0, 0.5, 30) for seed in range(1, 41)]  # shares in one fluctuation
    found = [
        thermodynamics.variance(ladder_of([1.0], lambda *_, level=level: level * common, 10**9), 1) for level in levels
    ]
    spread, errors = np.std([one.value for one in found]), [one.examples_se for one in found]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=1 / 3)


def test_log_volume_is_the_prior_mass_below_a_rise():
    """The prior is N(0, 1/γ): 2γE/h is χ² with d degrees of freedom. Saddle point: within 0.05 where d = 40."""
    table = thermodynamics.table(ladder_of(np.geomspace(30, 0.5, 16), quadratic(40, 64), TOTAL))
    exact = stats.chi2.logcdf(2 * GAMMA * table.rise / H, 40)
    error = np.abs(table.log_volume - (exact - exact[-1]))
    assert exact.max() - exact.min() > 40
    assert error.max() < 0.05 + 4 * table.llc_se.max() * np.log(60)


def test_on_a_pure_power_law_everything_is_the_exponent():
    exponent = 6.0
    table = thermodynamics.table(ladder_of([1000.0, 100.0, 10.0, 1.0], power(exponent), 1))
    error = 4 * np.sqrt(exponent / (CHAINS * LOOKS))
    assert np.allclose(table.llc, exponent, atol=error)
    assert (np.abs(table.heat_capacity - exponent) < 4.5 * table.heat_capacity_se).all()
    assert np.allclose(np.diff(table.log_volume) / np.diff(np.log(table.rise)), exponent, atol=0.03 * exponent)
    assert np.allclose(table.log_partition, exponent * -np.log(table.nbeta / table.nbeta.iloc[-1]), rtol=0.03)


def test_failed_rungs_are_left_out_and_a_ladder_of_nothing_else_is_refused():
    nbetas = [4.0, 2.0, 1.0]
    table = thermodynamics.table(ladder_of(nbetas, power(3.0), 1, ["ok", "failed", "suspect"]))
    assert table.rung.tolist() == [1, 3]
    with pytest.raises(ValueError, match="every rung of this ladder failed"):
        thermodynamics.table(ladder_of(nbetas, power(3.0), 1, ["failed"] * 3))


def test_one_rung_has_no_slope():
    row = thermodynamics.table(ladder_of([2.0], power(3.0), 1)).iloc[0]
    assert np.isnan(row.slope)
    assert np.isnan(row.gap)
    assert row.log_volume == row.log_partition == 0


def test_the_figure_shows_each_rung_and_marks_the_suspect():
    table = thermodynamics.table(ladder_of([4.0, 2.0, 1.0], power(3.0), 1, ["ok", "suspect", "ok"]))
    figure = thermodynamics.figure(table, unit="token")
    complexity, volume, heat = figure.axes
    assert complexity.get_xlabel() == "loss rise (nats per token)"
    assert complexity.get_xscale() == "log"
    for panel, name in ((complexity, "llc"), (volume, "log_volume"), (heat, "heat_capacity")):
        hollow = [
            line for line in panel.get_lines() if line.get_markerfacecolor() == "white" and line.get_marker() == "o"
        ]
        assert [line.get_ydata().tolist() for line in hollow] == [[table[name][1]]]
    assert np.allclose(heat.get_lines()[-1].get_ydata(), table.llc - table.slope)
