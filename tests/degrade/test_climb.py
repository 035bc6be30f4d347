"""The climb: what a rung needs, how parts of a chain are joined, and that lengthening mends what it can."""

import numpy as np
import pandas as pd
import pytest

import degrade
from degrade.climb import PRECISE, remedy
from degrade.diagnostics import Estimate, at_target, coefficient
from degrade.verdict import HEATED
from tests.degrade.test_verdict import GOOD
from tests.degrade.toys import exact_rise, quadratic, quadratic_loss, rotated, rotated_loss


@pytest.mark.parametrize(
    ("change", "need"),
    [
        ({}, ""),
        ({"temperature": Estimate(1.3, 0.02)}, "step"),
        ({"rise": Estimate(0.25, 0.002)}, "temperature"),
        ({"rise": Estimate(0.22, 0.008)}, ""),
        ({"rise": Estimate(0.25, 0.02)}, "more"),
        ({"virial": Estimate(0.9, 0.001)}, "time"),
        ({"trend": 0.05, "trend_p": 0.001}, "time"),
        ({"rhat": 1.2}, "more"),
        ({"rhat": float("nan")}, "more"),
        ({"ess": 20.0}, "more"),
    ],
)
def test_each_fault_has_its_remedy(change, need):
    assert remedy(GOOD._replace(**change), 0.2) == need


def ladder(**settings):
    net, x = quadratic(cond=100, d=40)
    common = {"gamma": 1.0, "loss": quadratic_loss, "chains": 3, "draws": 3, "progress": False}
    return degrade.ladder(net, x, **{**common, **settings})


def test_a_rung_too_short_is_lengthened_within_its_budget():
    short = ladder(nbetas=[300.0], steps=60, burn_in=20, step_size=0.2, budget=60)
    longer = ladder(nbetas=[300.0], steps=60, burn_in=20, step_size=0.2, budget=1000)
    assert short.table.steps[1] == 60 < longer.table.steps[1] <= 1000
    assert longer.table.ess[1] > short.table.ess[1]
    assert len(longer.kept) == len(short.kept) == 9
    trace = longer.traces
    assert (trace.groupby("chain").size() == longer.table.steps[1]).all()
    evaluated = longer.losses[longer.losses.rung == 1].groupby("chain").step.nunique()
    assert (evaluated == evaluated.iloc[0]).all() and evaluated.iloc[0] > 40


def test_on_all_data_a_given_temperature_is_drawn_until_its_rise_is_known():
    """λ is about 15 here: 1.2 % take some 460 independent draws, more than a short rung has; a budget is kept to."""
    known, kept = ladder(nbetas=[300.0]), ladder(nbetas=[300.0], budget=300)
    assert known.table.rise_se[1] <= PRECISE * known.table.rise[1]
    assert kept.table.rise_se[1] > PRECISE * kept.table.rise[1]
    assert kept.table.spent[1] <= 300 < known.table.spent[1] <= 2600
    assert {known.table.verdict[1], kept.table.verdict[1]} == {HEATED}


def test_a_draw_of_a_lengthened_rung_carries_the_rise_of_its_own_weights():
    result = ladder(nbetas=[300.0], steps=60, burn_in=20, step_size=0.05, budget=400)
    for draw in result.draws():
        with result.applied(draw) as model:
            nats = quadratic_loss(model, result.evaluation.data.batch(np.arange(len(result.evaluation.data))))
            assert result.evaluation.rises(nats.detach()) == pytest.approx(draw.rise, abs=1e-5)


def test_nbeta_at_the_target_is_read_off_neighbouring_rungs():
    nbeta, target = np.array([900.0, 450.0, 225.0]), np.array([0.02, 0.04, 0.08])
    rows = {
        "nbeta": nbeta,
        "target": target,
        "rise": 1.1 * target,
        "llc": nbeta * target * 1.1,
        "llc_se": 0.3,
        "rise_se": 0.0,
    }
    table = pd.concat([pd.DataFrame({"nbeta": [np.inf]}), pd.DataFrame(rows)], ignore_index=True)
    found = at_target(table)
    assert np.allclose(found.nbeta_target[1:], nbeta * 1.1)
    assert np.allclose(found.nbeta_target_se[1:] / found.nbeta_target[1:], 0.3 / table.llc[1:])
    assert at_target(table.iloc[:2]).nbeta_target.isna().all()


def test_halving_the_step_shows_what_minibatches_add_to_the_rise():
    """A quadratic with gradient noise in few directions, which a diagonal correction cannot follow."""
    net, x = rotated(d=40)
    ladder = degrade.ladder(
        net, x, nbetas=[400.0], step_size=0.2, batch_size=32, loss=rotated_loss, gamma=1.0, chains=16, steps=2000,
        burn_in=400, draws=2, evaluation=64, progress=False,
    )  # fmt: skip
    warm, exact = ladder.table.iloc[1], exact_rise(net.h, 400.0, 1.0)
    added = 1 - exact / warm.rise
    assert added > 0.05
    assert abs(warm.heating - added) < 4 * np.hypot(warm.heating_se, 0.3 * added)
    taken_out = coefficient(
        400.0, Estimate(warm.rise, warm.rise_se), Estimate(warm.heating, warm.heating_se), "heating", 0.2
    )
    assert abs(taken_out.mean / (400 * exact) - 1) < 0.3 * added + 4 * taken_out.se / taken_out.mean
