"""The Kronecker eigenbasis: exact where the Fisher information is a Kronecker product, harmless elsewhere."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import degrade
from degrade import label_loss, next_token_loss
from degrade.curvature import average, estimate
from degrade.noise import Key, normal_like
from degrade.parameters import lent, select
from degrade.pilot import Settings, bind, first_look
from degrade.preconditioners import PRECONDITIONERS, ekfac
from degrade.rotation import Rotation, Turnable, eigenbasis, products, turnable
from degrade.step_size import sharpest
from tests.degrade.test_curvature import scene_of
from tests.degrade.toys import classifier

AXES = [Turnable(True, True)]


def offdiagonal(matrix):
    return float((matrix - matrix.diagonal().diag()).norm() / matrix.norm())


def mixed(rows, columns, seed=0):
    """Inputs with variances 1, ½, ¼, ... along random directions."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(columns, columns, generator=generator))[0]
    return torch.randn(rows, columns, generator=generator) * 0.5 ** (torch.arange(columns) / 2) @ turn.T


def measured(net, data, loss, number=60):
    scene = scene_of(net, data, loss)
    potential, axes = scene.potential, turnable(net, scene.potential.selection)
    with lent(net, potential.selection):
        first = average([estimate(potential, potential.center, Key(0), step, axes) for step in range(number)])
        rotation = eigenbasis(first.factors, axes)
        again = range(number, 2 * number)
        return average([estimate(potential, potential.center, Key(0), step, axes, rotation) for step in again])


def test_basis_diagonalises_the_fisher_information_of_a_linear_gaussian_model():
    """½‖y − Wx‖² with noise of covariance Σ in y: F = Σ ⊗ E[x xᵀ], from the gradients at the given answers."""
    x, noise = mixed(4000, 5), mixed(4000, 3, seed=1)
    net = nn.Linear(5, 3, bias=False)
    y = net(x).detach() + noise
    net.weight.data = torch.linalg.lstsq(x, y).solution.T.contiguous()
    found = measured(net, (x, y), lambda model, batch: 0.5 * ((model(batch[0]) - batch[1]) ** 2).sum(1))
    residual = y - net(x).detach()
    rows, columns = residual.T @ residual / 4000, x.T @ x / 4000
    (u, v) = found.turned.rotation.sides[0]
    assert torch.allclose(u.T @ u, torch.eye(3), atol=1e-5)
    # the factors are averages of 960 batches' products: eigenvectors are off by about √(1/960) per unit of relative gap
    assert offdiagonal(u.T @ rows @ u) < 5 * 960**-0.5
    assert offdiagonal(v.T @ columns @ v) < 5 * 960**-0.5
    exact = torch.outer((u.T @ rows @ u).diagonal(), (v.T @ columns @ v).diagonal())
    # products of two Gaussians have kurtosis 9: relative error √(8/(960 · 8)), at most, of each entry
    assert torch.allclose(found.turned.fisher[0], exact, rtol=5 * (8 / 960) ** 0.5)


def test_basis_diagonalises_the_fisher_information_of_a_softmax_layer():
    """At W = 0 all labels are equally likely: F = (1/k − 11ᵀ/k²) ⊗ E[x xᵀ] at labels drawn from the model."""
    x = mixed(4000, 5)
    net = nn.Linear(5, 3, bias=False)
    net.weight.data.zero_()
    found = measured(net, (x, torch.zeros(4000, dtype=torch.long)), label_loss)
    (u, v) = found.turned.rotation.sides[0]
    columns = x.T @ x / 4000
    assert offdiagonal(v.T @ columns @ v) < 5 * 960**-0.5
    flat = u[:, 0].abs()  # the direction common to all labels has no information
    assert torch.allclose(flat, torch.full((3,), 3**-0.5), atol=1e-3)
    exact = torch.outer(torch.tensor([0.0, 1 / 3, 1 / 3]), (v.T @ columns @ v).diagonal())
    assert torch.allclose(found.turned.fisher[0], exact, rtol=5 * (3 / 960) ** 0.5, atol=1e-6)


class Parts(nn.Module):
    """Every kind of parameter: an embedding used twice, a GPT-2 Conv1D, a linear layer, norms, heads, a filter."""

    def __init__(self) -> None:
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.up = Conv1D(6, 4)
        self.down = nn.Linear(6, 4)
        self.heads = nn.Parameter(torch.randn(2, 4, 3) / 2)
        self.filter = nn.Conv1d(6, 4, 3, padding=1)

    def forward(self, tokens):
        x = self.norm(self.embed(tokens))
        x = x + torch.einsum("btd,hde->bthe", x, self.heads).flatten(2) @ self.filter.weight.flatten(1)[:, :6].T
        x = x + self.filter(self.down.weight.T @ x.mT).mT
        return (x + self.down(F.gelu(self.up(x)))) @ self.embed.weight.T


@pytest.fixture
def parts():
    torch.manual_seed(0)
    net = Parts().eval()
    return net, torch.randint(7, (64, 9), generator=torch.Generator().manual_seed(1))


def test_each_kind_of_parameter_is_turned_as_it_should_be(parts):
    net, _ = parts
    selection = select(net)
    found = dict(zip(selection.names, turnable(net, selection), strict=True))
    assert found["embed.weight"] == Turnable(False, True)  # also the output layer: rows are tokens in both
    assert found["up.weight"] == found["down.weight"] == found["heads"] == Turnable(True, True)
    assert found["filter.weight"] == Turnable(True, True, flat=True)
    assert found["norm.weight"] == found["up.bias"] == Turnable(False, False)
    masked = select(net, {"down.weight": torch.eye(4, 6)})
    assert turnable(net, masked) == [Turnable(False, False)]


def test_there_and_back_and_the_length_is_kept(parts):
    net, tokens = parts
    scene = scene_of(net, tokens, next_token_loss)
    with lent(net, scene.potential.selection):
        rotation = ekfac.fit(scene.potential, scene.potential.center, Key(0), 0, None).turned.rotation
    probe = normal_like(Key(0), "probe", 0, scene.potential.center)
    turned = rotation.into(probe)
    for x, y, back in zip(probe, turned, rotation.out(turned), strict=True):
        assert x.shape == y.shape
        assert torch.allclose(x, back, atol=1e-4)
        assert float(y.norm()) == pytest.approx(float(x.norm()), rel=1e-4)


def test_factors_of_heads_and_filters_are_those_of_their_matrices():
    g = torch.randn(2, 4, 3)
    rows, columns = products([g], [Turnable(True, True)])[0]
    assert torch.allclose(rows[1], g[1] @ g[1].T)
    assert torch.allclose(columns[0], g[0].T @ g[0])
    rows, columns = products([g], [Turnable(True, False, flat=True)])[0]
    assert torch.allclose(rows, g.flatten(1) @ g.flatten(1).T)
    assert columns is None


def test_mean_squares_carried_over_are_exact_for_uncorrelated_coordinates():
    """Cov = Q D Qᵀ in one basis; its diagonal in another, against the dense matrices."""
    generator = torch.Generator().manual_seed(0)

    def random():
        sides = [torch.linalg.qr(torch.randn(n, n, generator=generator))[0] for n in (3, 4)]
        return Rotation([tuple(sides)], AXES), torch.kron(*sides)

    (old, q), (new, r) = random(), random()
    squares = torch.rand(3, 4, generator=generator)
    dense = r.T @ q @ squares.flatten().diag() @ q.T @ r
    assert torch.allclose(new.carried([squares], old)[0].flatten(), dense.diagonal(), atol=1e-5)


def stiffest(model, data, loss, nbeta, **settings):
    """λmax(K) at one place near w*, with each preconditioner fitted there as a rung has it after three rounds."""
    scene = scene_of(model, data, loss, **settings)
    potential, found = scene.potential, {}
    with lent(model, potential.selection):
        given = Settings(0, 1, 32, "baoab", "fisher", None, 1e9)
        spread = bind(scene, given, first_look(scene, given), nbeta)
        noise = spread.out(normal_like(Key(0), "pilot", 1, potential.center))
        near = [c + 0.5 * x for c, x in zip(potential.center, noise, strict=True)]
        for name in ("fisher", "ekfac"):
            given, fits = replace(given, preconditioner=name), []
            curvature = first_look(scene, given)
            for step in range(1, 13):
                fits.append(PRECONDITIONERS[name].fit(potential, near, Key(0), step, curvature))
                curvature = average(fits)
            metric, vector = bind(scene, given, curvature, nbeta), None
            for step in range(6):
                found[name], vector = sharpest(potential, near, metric, nbeta, Key(1), step, vector)
    return found


def test_two_preconditioners_agree_on_the_rise_of_a_network():
    net, data = classifier()
    rows = [
        degrade.ladder(net, data, nbetas=[60.0], loss=label_loss, width=0.5, preconditioner=name, chains=4, steps=600,
                       burn_in=200, draws=2, seed=seed, progress=False).table.iloc[1]
        for seed, name in enumerate(("fisher", "ekfac"))
    ]  # fmt: skip
    error = math.hypot(rows[0].rise_se, rows[1].rise_se)
    assert error / rows[0].rise < 0.06
    assert abs(rows[0].rise - rows[1].rise) < 3 * error


@pytest.mark.slow
def test_the_stiffest_direction_of_the_mixture_model_is_no_stiffer_than_with_the_diagonal():
    from studies.organisms.mixture import mixture

    model, _ = mixture.load()
    data = mixture.corpus.training().tokens[:4096]
    for nbeta in (1e3, 1e4, 1e5):
        found = stiffest(model, data, next_token_loss, nbeta, gamma=None, width=0.5)
        assert found["ekfac"] <= found["fisher"], (nbeta, found)
