import numpy as np
import pytest
import torch

from degrade import metric as metrics
from degrade.curvature import Curvature
from degrade.noise import Key, normal_like
from degrade.parameters import lent
from degrade.samplers import SAMPLERS
from degrade.step_size import HEATING, TAKEN, Found, bound, choose, corrected, curve, heating, look, power_iteration
from tests.degrade.test_curvature import scene_of
from tests.degrade.toys import quadratic, quadratic_loss

NBETA = 50.0
SGLD = SAMPLERS["sgld"]


def placed(cond=100.0, d=30, known=1.0, batch_size=64):
    """A quadratic with P = 1; `known` is the share of the gradient noise that the metric knows of."""
    net, x = quadratic(cond, d)
    scene = scene_of(net, x, quadratic_loss)
    curvature = Curvature([net.h], [known * net.h])
    metric = metrics.build([torch.ones(d)], curvature, [1.0], NBETA, batch_size, (None,))
    return net, scene.potential, metric


def test_curvature_along_a_vector_is_that_of_the_dense_matrix():
    net, potential, metric = placed()
    vector = normal_like(Key(0), "probe", 0, [net.w])
    with lent(net, potential.selection):
        bent = curve(potential, potential.center, metric, NBETA, np.arange(64), vector)[0]
    assert torch.allclose(bent, (NBETA * net.h + 1.0) * vector[0], rtol=1e-3, atol=1e-3)


def test_power_iteration_finds_the_stiffest_curvature():
    net, potential, metric = placed()
    vector = [torch.randn(30, generator=torch.Generator().manual_seed(0))]
    with lent(net, potential.selection):
        size, vector = power_iteration(potential, potential.center, metric, NBETA, np.arange(64), vector, 60)
    assert abs(size / (NBETA * float(net.h.max()) + 1.0) - 1) < 0.01
    assert int(vector[0].abs().argmax()) == int(net.h.argmax())


def test_heating_and_what_the_correction_takes_out_of_it_are_the_dense_traces():
    """S + R = tr(KC)/(4 tr K); C is diagonal here, so knowing all of it leaves S = 0."""
    net, potential, metric = placed()
    k, c = NBETA * net.h + 1.0, NBETA**2 * net.h / 64
    exact = float((k * c).sum() / (4 * k.sum()))
    with lent(net, potential.selection):
        seen = [heating(potential, potential.center, metric, NBETA, 64, Key(0), pair) for pair in range(60)]
    # each estimate is a quadratic form in about 7 effective directions: relative sd √(2/7), 60 of them
    assert abs(np.mean(seen) / exact - 1) < 5 * (2 / 7 / 60) ** 0.5
    assert abs(corrected(metric) / exact - 1) < 1e-4
    assert corrected(placed(known=0.0)[2]) == 0


def test_the_smallest_bound_wins_over_the_stiffest_look_and_the_mean_heat():
    looks = [Found(2.0, 0.01, 0.0, []), Found(4.0, 0.03, 0.0, [])]
    assert bound(looks, 1.0, SGLD) == (SGLD.stability / 4.0, "stability")
    assert bound([Found(2.0, 1.0, 0.0, []), Found(2.0, 10.0, 0.01, [])], 1.0, SGLD) == (
        pytest.approx(HEATING / 5.5),
        "heating",
    )
    assert bound([Found(2.0, -1.0, 0.0, [])], 1.0, SGLD).name == "stability"
    assert bound([Found(2.0, 1.0, 0.0, [])], 2.0, SGLD, seen=5.0).step_size == pytest.approx(HEATING / 10.0)
    assert bound([Found(2.0, 1.0, 0.0, [])], 2.0, SGLD, seen=5.0).name == "temperature"
    assert bound([Found(2.0, -1.0, 100.0, [])], 1.0, SGLD) == (pytest.approx(TAKEN / 100.0), "heating")


def test_the_default_sampler_is_the_one_whose_step_the_limit_favours():
    hot, stiff = Found(2.0, 1.0, 0.0, []), Found(2.0, 0.0, 0.0, [])
    assert choose("auto", [hot], 1.0) == "sgld"
    assert choose("auto", [stiff], 1.0) == "baoab"
    assert choose("auto", [stiff], 1.0, seen=1.0) == "sgld"
    assert choose("sgnht", [hot], 1.0) == "sgnht"


def test_a_look_measures_both_at_once():
    net, potential, metric = placed()
    with lent(net, potential.selection):
        seen = look(potential, potential.center, metric, NBETA, 64, Key(0))
    assert 0.5 < seen.sharpness / (NBETA * float(net.h.max()) + 1.0) < 1.01
    assert np.isfinite(seen.heat)


def test_masked_scalars_neither_move_nor_count():
    mask = torch.tensor([True, False, True])
    metric = metrics.build([torch.ones(3)], Curvature([torch.ones(3)], [torch.ones(3)]), [1.0], 3.0, 8, (mask,))
    assert metric.p[0].tolist() == [1.0, 0.0, 1.0]
    assert metric.total == 2 * 3.0 / 4.0
