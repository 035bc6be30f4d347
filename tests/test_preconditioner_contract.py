"""What every preconditioner must do. To join: one line in PRECONDITIONERS of `degrade.preconditioners`."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import degrade
from degrade.chain import Plan, attempt
from degrade.curvature import average
from degrade.metric import Metric
from degrade.noise import Key, normal_like
from degrade.parameters import lent
from degrade.pilot import Settings, bind, first_look
from degrade.preconditioners import PRECONDITIONERS
from tests.degrade.test_curvature import scene_of
from tests.degrade.toys import classifier

ROWS, COLUMNS, NBETA = 4, 6, 100.0
EXAMPLES = 2000


def square_loss(model, batch):
    x, y = batch
    return 0.5 * ((model(x) - y) ** 2).sum(1)


def rotated_gaussian(cond=30.0):
    """A linear regression at its minimum, whose inputs have variances from 1 to 1/cond along random directions."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(COLUMNS, COLUMNS, generator=generator))[0]
    spread = torch.logspace(0, -math.log10(cond), COLUMNS).sqrt()
    x = torch.randn(EXAMPLES, COLUMNS, generator=generator) * spread @ turn.T
    y = torch.randn(EXAMPLES, ROWS, generator=generator)
    net = nn.Linear(COLUMNS, ROWS, bias=False)
    net.weight.data = torch.linalg.lstsq(x, y).solution.T.contiguous()
    return net, (x, y)


def placed(name, model, data, loss, batch_size=512):
    scene = scene_of(model, data, loss)
    settings = Settings(0, 1, batch_size, "baoab", name, None, 1e9)
    with lent(model, scene.potential.selection):
        curvature = first_look(scene, settings)
    return scene, bind(scene, settings, curvature, NBETA)


def plan(metric: Metric, steps, step_size, batch_size=512) -> Plan:
    return Plan(1, NBETA, metric, step_size, "given", steps, 0, batch_size, "baoab", tracked=False)


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_the_law_of_a_rotated_gaussian_does_not_depend_on_the_preconditioner(name):
    """E[ΔL] = ½ Σ h/(nβh + γ), h the eigenvalues of E[x xᵀ], each for all rows."""
    net, data = rotated_gaussian()
    h = torch.linalg.eigvalsh((data[0].T @ data[0] / EXAMPLES).double())
    stiff = NBETA * h + 1.0
    exact = ROWS * float((h / stiff).sum()) / 2
    scene, metric = placed(name, net, data, square_loss, EXAMPLES)
    step_size = 1.0 / float(dense(scene.potential, metric).max())
    with lent(net, scene.potential.selection):
        legs = [
            attempt(scene, plan(metric, 1000, step_size, EXAMPLES), Key(0, chain=chain), scene.potential.center)
            for chain in range(4)
        ]
    means = [leg.trace[100:, 0].mean() for leg in legs]
    error = np.std(means, ddof=1) / 2
    assert error / exact < 0.06
    assert abs(np.mean(means) / exact - 1) < 4 * max(error / exact, 0.02)


def dense(potential, metric) -> torch.Tensor:
    """Eigenvalues of K = Bᵀ (nβH + γ) B for the regression, H = 1 ⊗ E[x xᵀ]."""
    x = potential.data.source[0]
    h = NBETA * (x.T @ x) / len(x) + torch.eye(COLUMNS)
    unit = torch.eye(ROWS * COLUMNS).view(-1, ROWS, COLUMNS)
    columns = [metric.into([metric.out([e])[0] @ h])[0].flatten() for e in unit]
    return torch.linalg.eigvalsh(torch.stack(columns).double())


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_p_is_symmetric_positive_and_b_its_root(name):
    """vᵀ B Bᵀ w is symmetric, and into and out are each other's transposes."""
    net, data = classifier()
    scene, metric = placed(name, net, data, degrade.label_loss)
    one, two = (normal_like(Key(0), "probe", step, scene.potential.center) for step in range(2))

    def dot(v, w):
        return float(sum((a * b).sum() for a, b in zip(v, w, strict=True)))

    assert dot(one, metric.out(metric.into(two))) == pytest.approx(dot(metric.out(metric.into(one)), two), rel=1e-4)
    assert dot(metric.into(one), two) == pytest.approx(dot(one, metric.out(two)), rel=1e-4)
    assert all((p > 0).all() for p in metric.p)


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_masked_scalars_never_move(name):
    net, data = classifier()
    mask = torch.zeros_like(net[0].weight)
    mask[0, 1:] = 1
    ladder = degrade.ladder(
        net, data, nbetas=[50.0], width=0.5, loss=degrade.label_loss, only={"0.weight": mask, "2.weight": None},
        preconditioner=name, chains=1, steps=20, burn_in=5, draws=2, step_size=1e-3, progress=False,
    )  # fmt: skip
    for draw in ladder.draws():
        assert torch.equal(draw.weights[0] != net[0].weight, mask.bool())
        assert (draw.weights[1] != net[2].weight).all()


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_frozen_while_drawing(name):
    net, data = classifier()
    scene, metric = placed(name, net, data, degrade.label_loss)
    given = plan(metric, 30, 1e-3)
    before = [[x.clone() for x in tensors] for tensors in (metric.p, metric.a, metric.q, metric.weight)]
    probe = normal_like(Key(0), "probe", 0, scene.potential.center)
    out = metric.out(probe)
    with lent(net, scene.potential.selection):
        leg = attempt(scene, given, Key(0), scene.potential.center)
    assert leg.plan.metric is metric
    for tensors, kept in zip((metric.p, metric.a, metric.q, metric.weight), before, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(tensors, kept, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(out, metric.out(probe), strict=True))


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_fit_is_pure_in_its_key(name):
    net, data = classifier()
    before = torch.get_rng_state()
    one, two = (placed(name, net, data, degrade.label_loss)[1] for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(one.p, two.p, strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_rmsprop_is_the_frozen_limit_of_its_running_average():
    """v ← 0.99 v + 0.01 ĝ² over 1500 batches of 32 at w*, bias-corrected, against (E ĝ)² + σ²/m."""
    net, data = classifier()
    net[2].bias.data += 0.3  # a mean gradient too
    scene = scene_of(net, data, degrade.label_loss)
    potential = scene.potential
    fit = PRECONDITIONERS["rmsprop"]
    parts = []
    with lent(net, potential.selection):
        for step in range(40):
            parts.append(fit.fit(potential, potential.center, Key(0), step, None))
        p = fit.scale(average(parts), 1.0, potential.precision, 32)
        v, rows = [torch.zeros_like(w) for w in potential.center], np.random.default_rng(0)
        for _ in range(1500):
            gradient = potential.gradient(potential.center, rows.integers(512, size=32))[1]
            v = [x + g * g / 1500 for x, g in zip(v, gradient, strict=True)]
    for ours, square in zip(p, v, strict=True):
        # 640 batches of 8: heavy tails double the Gaussian error √(2/640) of v; P feels half of it at most
        assert torch.allclose(ours, 1 / (square.sqrt() + 0.1), rtol=0.5 * 4 * 2 * (2 / 640) ** 0.5)
