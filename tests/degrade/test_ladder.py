import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import degrade
from degrade.samplers import SAMPLERS
from degrade.scene import reach
from degrade.step_size import HEATING
from tests.degrade.toys import classifier, exact_rise, quadratic, quadratic_loss

SHORT = {"steps": 60, "burn_in": 20, "draws": 3, "chains": 2, "progress": False}


def short_ladder(**settings):
    net, data = classifier()
    given = {"width": 0.8, "loss": degrade.label_loss} | SHORT | settings
    given |= {} if {"rises", "nbetas"} & set(settings) else {"nbetas": [200.0, 60.0]}
    return degrade.ladder(net, data, **given)


@pytest.mark.parametrize("sampler", ["sgld", "baoab"])
@pytest.mark.parametrize("cond", [1, 100])
@pytest.mark.parametrize("step_size", [None, 0.1])
def test_rise_at_given_temperatures_is_exact_on_a_quadratic(sampler, cond, step_size):
    """E = ½ Σ h/(nβh + s⁻²) within 4 standard errors; a found step may add its bound on residual heating."""
    net, x = quadratic(cond)
    ladder = degrade.ladder(
        net, x, nbetas=[100.0, 30.0], loss=quadratic_loss, gamma=1.0, sampler=sampler, chains=8, steps=500,
        burn_in=150, batch_size=64, draws=4, step_size=step_size, progress=False,
    )  # fmt: skip
    allowed = HEATING if step_size is None else 0.01
    for row in ladder.table[1:].itertuples():
        exact = exact_rise(net.h, row.nbeta, 1.0)
        assert row.rise_se / exact < 0.025
        assert abs(row.rise / exact - 1) < allowed + 4 * row.rise_se / exact
        assert abs(row.virial - 1) < allowed + 4 * row.virial_se
        assert abs(row.weighted_virial - 1) < allowed + 4 * row.weighted_virial_se
        assert abs(row.temperature - 1) < allowed + 4 * row.temperature_se
        assert abs(row.llc / (row.nbeta * exact) - 1) < allowed + 4 * row.llc_se / row.llc


def test_targets_are_met_and_the_temperature_is_that_of_the_quadratic():
    net, x = quadratic(cond=100)
    ladder = degrade.ladder(
        net, x, rises=[0.1, 0.4], loss=quadratic_loss, gamma=1.0, sampler="baoab", chains=4, batch_size=64,
        steps=600, burn_in=200, progress=False,
    )  # fmt: skip
    for row in ladder.table[1:].itertuples():
        assert abs(row.rise / row.target - 1) < 0.05 + 3 * row.rise_se / row.target
        assert abs(exact_rise(net.h, row.nbeta, 1.0) / row.target - 1) < 0.06


def test_two_preconditioners_have_one_equilibrium():
    net, x = quadratic(cond=10)
    both = [
        degrade.ladder(net, x, nbetas=[100.0], loss=quadratic_loss, gamma=1.0, preconditioner=name, sampler="baoab",
                       chains=8, steps=500, burn_in=150, batch_size=64, draws=2, progress=False).table.iloc[1]
        for name in ("identity", "fisher")
    ]  # fmt: skip
    error = math.hypot(both[0].rise_se, both[1].rise_se)
    assert error / both[0].rise < 0.03
    assert abs(both[0].rise - both[1].rise) < 4 * error


def test_a_start_that_is_no_minimum_gives_negative_rises_and_says_so():
    net, x = quadratic(cond=1)
    net.w.data.add_(0.2)
    row = degrade.ladder(
        net, x, nbetas=[100.0], loss=quadratic_loss, gamma=1.0, batch_size=256, steps=400, burn_in=200, progress=False
    ).table.iloc[1]  # fmt: skip
    a, g = 100.0 + 1.0, 0.2  # precision of each coordinate, gradient at the start
    mean = -100.0 * g / a
    exact = 100 * (g * mean + 0.5 * (mean**2 + 1 / a))
    assert abs(row.rise / exact - 1) < 0.05 + 4 * row.rise_se / abs(exact)
    assert row.llc < 0
    assert "no minimum" in row.reason
    assert not row.verdict.startswith("ok")


def test_same_seed_same_bits_other_seed_other_bits():
    one, two, other = (short_ladder(seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one.table, two.table, check_exact=True)
    pd.testing.assert_frame_equal(one.losses, two.losses, check_exact=True)
    for a, b in zip(one.draws(), two.draws(), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))
    assert not np.array_equal(one.traces.rise, other.traces.rise)


def test_two_workers_give_the_bits_of_one():
    serial, pooled = short_ladder(), short_ladder(workers=2)
    pd.testing.assert_frame_equal(serial.table, pooled.table, check_exact=True)
    pd.testing.assert_frame_equal(serial.traces, pooled.traces, check_exact=True)


def test_the_model_is_given_back_bit_for_bit_and_draws_are_its_degradations():
    net, data = classifier()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ladder = degrade.ladder(net, data, rises=[0.1], width=0.8, loss=degrade.label_loss, **SHORT)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    start = float(torch.nn.functional.cross_entropy(net(data[0]), data[1]))
    chosen = ladder.evaluation
    for draw in ladder.draws():
        with ladder.applied(draw) as model:
            nats = degrade.label_loss(model, chosen.data.batch(range(len(chosen.data))))[0]
        assert draw.rise == pytest.approx(float(nats.mean() - chosen.baseline.mean()), abs=1e-5)
    assert float(torch.nn.functional.cross_entropy(net(data[0]), data[1])) == start


@pytest.mark.parametrize("accident", [RuntimeError, KeyboardInterrupt])
def test_an_accident_before_anything_is_finished_leaves_model_and_disk_as_they_were(accident, tmp_path):
    net, data = classifier()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    calls = []

    def fragile(model, batch):
        calls.append(1)
        if len(calls) > 100:
            raise accident("on purpose")
        return degrade.label_loss(model, batch)

    with pytest.raises(accident):
        degrade.ladder(net, data, rises=[0.1], width=0.8, loss=fragile, out=tmp_path / "run", **SHORT)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert list(tmp_path.iterdir()) == []


def test_masked_parameters_alone_are_sampled():
    net, data = classifier()
    mask = torch.zeros_like(net[0].weight)
    mask[0] = 1
    ladder = degrade.ladder(
        net, data, nbetas=[50.0], width=0.5, loss=degrade.label_loss, only={"0.weight": mask, "2.bias": None}, **SHORT
    )
    assert ladder.manifest["sampled"] == 4 + 2
    for draw in ladder.draws():
        moved = draw.weights[0] != net[0].weight
        assert torch.equal(moved, mask.bool())


def test_observers_see_each_draw_in_place_and_weights_need_not_be_kept():
    ladder = short_ladder(observe=[lambda model: float(model[0].weight.sum())], keep="none")
    assert len(ladder.observed) == len(list(ladder.draws())) == 12
    assert len({seen["result"] for seen in ladder.observed}) == 12
    with pytest.raises(ValueError, match="keeps no weights"):
        ladder.applied(next(iter(ladder.draws())))


def test_heldout_and_calibrated_rises_are_reported():
    net, (x, y) = classifier()
    ladder = short_ladder(heldout=(x[:100], y[:100]))
    row = ladder.table.iloc[2]
    assert 0 < row.heldout_rise < 1
    assert row.calibrated_rise < row.evaluation_rise + 0.05


def test_a_model_in_train_mode_with_dropout_is_sampled_in_eval_mode_and_this_is_said():
    net, data = classifier()
    noisy = torch.nn.Sequential(net, torch.nn.Dropout(0.5)).train()
    with pytest.warns(UserWarning, match="train mode with dropout"):
        degrade.ladder(noisy, data, nbetas=[50.0], width=0.5, loss=degrade.label_loss, **SHORT)
    assert noisy.training
    assert noisy[1].training


def test_given_steps_are_used_as_given():
    ladder = short_ladder(step_size=0.02)
    assert (ladder.table.bound[1:] == "given").all()
    assert np.allclose(ladder.traces.step_size, 0.02)


def test_failed_chains_are_counted_and_never_averaged():
    """A step far beyond stability: the rung fails, with the cause, and offers no draw."""
    net, x = quadratic(cond=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="left its basin at every step size"):
            degrade.ladder(net, x, nbetas=[100.0], loss=quadratic_loss, gamma=1.0, step_size=1e4, progress=False)


def test_every_sampler_can_be_asked_for():
    for name in SAMPLERS:
        assert short_ladder(rises=[0.1], sampler=name).table.rise[1] > 0


def test_the_reach_of_a_model_is_what_a_ladder_of_the_same_seed_finds():
    """E_max depends on the fixed set and the prior draws alone, so that other examples need not be looked at."""
    net, data = classifier()
    ladder = short_ladder(seed=3, evaluation=40)
    found = reach(net, data, degrade.label_loss, seed=3, width=0.8, evaluation=40)
    assert found == ladder.manifest["reachable_rise"]
    assert found != reach(net, data, degrade.label_loss, seed=4, width=0.8, evaluation=40)
