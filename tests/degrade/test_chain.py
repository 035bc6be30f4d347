"""A leg: pure in its arguments, guarded, and honest about what it had to do."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from degrade import chain
from degrade import metric as metrics
from degrade.chain import BLOCK, RESTARTS, Plan, advance
from degrade.curvature import Curvature
from degrade.noise import Key
from degrade.parameters import lent
from degrade.samplers import SAMPLERS
from tests.degrade.test_curvature import scene_of
from tests.degrade.toys import exact_rise, quadratic, quadratic_loss

NBETA = 100.0


def leg(step_size, steps=75, loss=quadratic_loss, seed=0, **changes):
    net, x = quadratic(cond=10, d=50)
    scene = scene_of(net, x, loss)
    metric = metrics.build([1 / (NBETA * net.h + 1)], Curvature([net.h], [net.h]), [1.0], NBETA, 64, (None,))
    at = {"evaluate": (50, 75), "forces": (50, 75), "keep": (75,), "tracked": False}
    plan = Plan(1, NBETA, metric, step_size, "given", steps, 25, 64, "sgld", **at, **changes)
    with lent(net, scene.potential.selection):
        return advance(scene, plan, Key(seed), scene.potential.center), net


def test_a_leg_is_a_pure_function_of_its_key():
    one, two, other = leg(0.5)[0], leg(0.5)[0], leg(0.5, seed=1)[0]
    assert np.array_equal(one.trace, two.trace)
    assert torch.equal(one.weights[0], two.weights[0])
    assert not np.array_equal(one.trace, other.trace)


def test_shapes_of_what_comes_back():
    found, _ = leg(0.5)
    assert found.trace.shape == (75, 5)
    assert found.losses.shape == (2, 256)
    assert found.force.shape == (2,)
    assert [kept.step for kept in found.kept] == [75]
    assert found.restarts == 0
    assert found.fault == ""


def test_minibatch_averages_have_their_exact_equilibrium_means():
    found, net = leg(0.5, steps=2000)
    rise, virial, weighted, prior, _ = found.trace[100:].mean(0)
    exact = exact_rise(net.h, NBETA, 1.0)
    # about 1900 · 0.5 / 2 independent values of a χ² sum over 50 directions, and of minibatch noise of like size
    allowed = 5 * math.sqrt(2 * 2 / 50 / 475)
    assert abs(rise / exact - 1) < allowed
    assert abs(virial - 1) < allowed
    assert abs(weighted - 1) < allowed
    assert abs(prior / float((1 / (NBETA * net.h + 1)).mean()) - 1) < allowed


def test_a_runaway_starts_its_rung_again_with_half_the_step_until_it_holds():
    found, _ = leg(12.0)
    assert 0 < found.restarts < RESTARTS
    assert found.trace[-1, 4] == 12.0 * 0.5**found.restarts
    assert len(found.trace) == 75
    assert np.isfinite(found.trace).all()


def test_a_chain_that_never_holds_carries_its_fault_and_no_draw():
    found, net = leg(1e9)
    assert found.restarts == RESTARTS
    assert "U - U(w*)" in found.fault or "non-finite" in found.fault
    assert len(found.kept) == len(found.trace) == 0
    assert torch.equal(found.weights[0], net.w)


def test_a_loss_that_turns_nan_on_the_way_is_a_fault_not_a_number():
    def fragile(model, x):
        nats = quadratic_loss(model, x)
        return nats if float((model.w.detach() - center).norm()) < 0.2 else nats * float("nan")

    center = quadratic(cond=10, d=50)[0].w.detach()
    found, _ = leg(0.5, loss=fragile)
    assert "non-finite" in found.fault
    assert len(found.kept) == 0


def test_a_ceiling_on_the_rise_is_kept():
    found, _ = leg(0.5, ceiling=1e-6)
    assert "mean rise" in found.fault


@pytest.mark.parametrize("step_size", [0.3, 1.0])
def test_configurational_temperature_is_one_for_a_small_batch_noise(step_size):
    net, x = quadratic(cond=10, d=50)
    scene = scene_of(net, x, quadratic_loss)
    metric = metrics.build([1 / (NBETA * net.h + 1)], Curvature([net.h], [net.h]), [1.0], NBETA, 512, (None,))
    looks = tuple(range(60, 1060, 10))
    plan = Plan(1, NBETA, metric, step_size, "", 1060, 50, 512, "baoab", looks, looks[::4], looks, tracked=False)
    with lent(net, scene.potential.selection):
        found = advance(scene, plan, Key(0), scene.potential.center)
    ratio = found.force.mean() / np.mean([kept.trace for kept in found.kept])
    error = found.force.std() / found.force.mean() / math.sqrt(min(len(looks), 1000 * step_size / 2))
    assert abs(ratio - 1) < 4 * error + 0.01


def test_on_all_data_the_step_follows_the_curvature_and_the_force_is_read_at_each_step():
    """Curvatures (nβh + 1)/(nβ + 1) up to 1; the step starts at 1.8 of the bound."""
    net, x = quadratic(cond=10, d=50)
    scene, allowed = scene_of(net, x, quadratic_loss), SAMPLERS["baoab"].stability
    p = torch.full((50,), 1 / (NBETA + 1))
    metric = metrics.build([p], Curvature([net.h], [net.h]), [1.0], NBETA, math.inf, (None,))
    plan = Plan(1, NBETA, metric, 1.8 * allowed, "", 200, 100, len(x), "baoab")
    with lent(net, scene.potential.selection):
        found = advance(scene, plan, Key(0), scene.potential.center)
    steps = found.trace[:, -1]
    assert found.restarts == 0
    assert (np.diff(steps) <= 0).all() and steps[0] == pytest.approx(1.8 * allowed)
    assert allowed <= steps[-1] * 1.001 < 1.1 * allowed
    assert found.force.shape == (100,)


class HostReads(TorchDispatchMode):
    """Counts values that the host reads out of tensors, each of which would wait for an accelerator."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def host_reads(sampler, steps, batch_size):
    net, x = quadratic(cond=10, d=50)
    scene = scene_of(net, x, quadratic_loss)
    metric = metrics.build([1 / (NBETA * net.h + 1)], Curvature([net.h], [net.h]), [1.0], NBETA, batch_size, (None,))
    plan = Plan(1, NBETA, metric, 0.1, "", steps, 0, batch_size, sampler, tracked=False)
    with lent(net, scene.potential.selection), HostReads() as reads:
        advance(scene, plan, Key(0), scene.potential.center)
    return reads.count


@pytest.mark.parametrize("sampler", [name for name, one in SAMPLERS.items() if not one.exact])
def test_no_step_waits_for_a_value_on_the_host(sampler):
    assert host_reads(sampler, 3 * BLOCK, 32) == host_reads(sampler, 2 * BLOCK, 32) < BLOCK


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sampler", [name for name, one in SAMPLERS.items() if not one.exact])
def test_no_step_waits_for_an_accelerator(sampler, monkeypatch):
    net, x = quadratic(cond=10, d=50)
    scene = scene_of(net.cuda(), x, quadratic_loss)
    h = net.h.cuda()
    metric = metrics.build([1 / (NBETA * h + 1)], Curvature([h], [h]), [1.0], NBETA, 32, (None,))
    plan = Plan(1, NBETA, metric, 0.1, "", BLOCK, 0, 32, sampler, tracked=False)
    monkeypatch.setattr(chain, "_guard", lambda *_: torch.cuda.set_sync_debug_mode("default"))
    with lent(net, scene.potential.selection):
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = advance(scene, plan, Key(0), scene.potential.center)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert not found.fault and found.restarts == 0 and len(found.trace) == BLOCK


def test_a_chain_that_enters_from_a_hotter_law_may_come_down():
    """It starts with 40 times the energy that the guard allows, and ends in equilibrium."""
    net, x = quadratic(cond=10, d=50)
    scene = scene_of(net, x, quadratic_loss)
    metric = metrics.build([1 / (NBETA * net.h + 1)], Curvature([net.h], [net.h]), [1.0], NBETA, 512, (None,))
    plan = Plan(1, NBETA, metric, 0.5, "", 200, 100, 512, "baoab", tracked=False)
    hot = [w + 80 / (NBETA * net.h + 1).sqrt() for w in scene.potential.center]
    with lent(net, scene.potential.selection):
        found = advance(scene, plan, Key(0), hot)
    energy = NBETA * found.trace[:, 0] + found.trace[:, 3] * 50 / 2
    assert energy[0] > 1000 * (2 * 50 + 20) > 1000 * energy[-50:].mean()
    assert not found.fault and found.restarts == 0
