"""The control variate: same mean, less noise, and none where the loss is quadratic with one Hessian."""

import pytest
import torch

import degrade
from degrade.noise import Key, batch_index
from degrade.parameters import lent
from degrade.variate import controlled
from tests.degrade.test_curvature import scene_of
from tests.degrade.toys import classifier, exact_rise, quadratic, quadratic_loss

NBETA = 1000.0


def test_the_mean_over_all_batches_is_the_gradient_of_all_data():
    """A partition into batches: their mean is exact, with and without."""
    net, data = classifier()
    scene = scene_of(net, data, degrade.label_loss)
    potential, rows = scene.potential, range(len(scene.potential.data))
    with lent(net, potential.selection):
        one = controlled(scene).potential
        away = [w + 0.3 * torch.randn(w.shape, generator=torch.Generator().manual_seed(0)) for w in potential.center]
        parts = [one.gradient(away, list(rows[start : start + 64])) for start in range(0, len(rows), 64)]
        whole = potential.gradient(away, list(rows))
    for number, exact in enumerate(whole[1]):
        mean = torch.stack([gradient[number] for _, gradient in parts]).mean(0)
        assert torch.allclose(mean, exact, rtol=1e-4, atol=1e-6)
    assert torch.allclose(torch.stack([rise for rise, _ in parts]).mean(), whole[0], rtol=1e-4)


def test_near_the_trained_weights_little_noise_is_left():
    """Noise of ĝ(w) − ĝ(w*) is of second order in the way from w*: a tenth of the way, a hundredth of the variance."""
    net, data = classifier()
    scene = scene_of(net, data, degrade.label_loss)
    way = [torch.randn(w.shape, generator=torch.Generator().manual_seed(0)) for w in scene.potential.center]

    def variance(size):
        away = [w + size * v for w, v in zip(one.center, way, strict=True)]
        batches = [batch_index(Key(0), "batch", step, len(one.data), 32) for step in range(200)]
        each = torch.stack([torch.cat([g.flatten() for g in one.gradient(away, index)[1]]) for index in batches])
        return float(each.var(0).sum())

    with lent(net, scene.potential.selection):
        one = controlled(scene).potential
        near, nearer = variance(0.01), variance(0.001)
    assert 1 / 200 < nearer / near < 1 / 50


@pytest.mark.slow
def test_a_quadratic_is_sampled_without_heat_at_any_batch():
    """Batches of 2 whose noise, uncorrected, would be many times the law's own; here none is left."""
    net, x = quadratic(cond=10, d=50)
    found = degrade.llc(
        net, x, nbeta=NBETA, gamma=1.0, loss=quadratic_loss, batch_size=2, control_variate=True, sampler="ula",
        preconditioner="fisher", step_size=0.05, steps=1000, burn_in=200, chains=4, evaluation=len(x), seed=1,
        progress=False,
    )  # fmt: skip
    exact, noisy = exact_rise(net.h, NBETA, 1.0), found.table.loc[0, "evaluation_rise"]
    # plain noise adds εPa/4 ≤ 1.3 %; 80 looks at a rise whose spread is √(2/50)
    assert abs(noisy / exact - 1) < 4 * (2 / 50 / 80) ** 0.5 + 0.013


def test_steps_on_all_data_have_nothing_to_take_out():
    net, data = classifier()
    with pytest.raises(ValueError, match="control_variate=True.*all 512.*leave it out"):
        degrade.ladder(net, data, nbetas=[100.0], width=0.5, loss=degrade.label_loss, control_variate=True)
