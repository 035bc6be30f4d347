import torch
from degrade import metric as metrics
from degrade.curvature import Curvature
from degrade.noise import Key
from degrade.parameters import lent
from degrade.step_size import find, power_iteration

from tests.degrade.test_curvature import scene_of
from tests.degrade.toys import quadratic, quadratic_loss

NBETA = 50.0


def placed(cond=100.0, d=30, batch_size=64):
    net, x = quadratic(cond, d)
    scene = scene_of(net, x, quadratic_loss)
    curvature = Curvature([net.h], [net.h])
    metric = metrics.build([torch.ones(d)], curvature, [1.0], NBETA, batch_size, (None,))
    return net, scene.potential, metric


def test_power_iteration_finds_the_stiffest_curvature():
    net, potential, metric = placed()
    vector = [torch.randn(30, generator=torch.Generator().manual_seed(0))]
    with lent(net, potential.selection):
        size, vector = power_iteration(potential, potential.center, metric, NBETA, range(64), vector, 60)
    assert abs(size / (NBETA * float(net.h.max()) + 1.0) - 1) < 0.01
    assert int(vector[0].abs().argmax()) == int(net.h.argmax())


def test_the_smaller_bound_wins_and_is_named():
    net, potential, metric = placed(batch_size=64)
    with lent(net, potential.selection):
        stable = find(potential, potential.center, metric, NBETA, 64, Key(0), 0)
        loud = metrics.build([torch.ones(30)], Curvature([net.h], [net.h * 1e6]), [1.0], NBETA, 64, (None,))
        heated = find(potential, potential.center, loud, NBETA, 64, Key(0), 0)
    assert stable.bound == "stability"
    assert heated.bound == "heating"
    assert heated.step_size < stable.step_size
    assert abs(loud.heating(heated.step_size) - 0.25) < 1e-3


def test_masked_scalars_neither_move_nor_count():
    mask = torch.tensor([True, False, True])
    metric = metrics.build([torch.ones(3)], Curvature([torch.ones(3)], [torch.ones(3)]), [1.0], 3.0, 8, (mask,))
    assert metric.p[0].tolist() == [1.0, 0.0, 1.0]
    assert metric.total == 2 * 3.0 / 4.0
