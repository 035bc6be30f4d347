import torch
from torch import nn

from degrade import label_loss, next_token_loss
from degrade.curvature import average, estimate, expected_rise
from degrade.noise import Key
from degrade.parameters import lent, select
from degrade.request import Request
from degrade.scene import set_scene
from tests.degrade.toys import classifier, exact_rise, quadratic, quadratic_loss


def scene_of(model, data, loss, **settings):
    selection = select(model)
    settings = {"rises": [0.1], "gamma": 1.0} | settings
    return set_scene(model, selection, data, loss, Request.of(**settings), None, (), False)


def many(model, scene, number=40):
    with lent(model, scene.potential.selection):
        return average([estimate(scene.potential, scene.potential.center, Key(0), step) for step in range(number)])


def test_fisher_diagonal_is_the_dense_one_of_a_softmax_classifier():
    """F = E_x E_{y~p} (∂ log p)²: for a linear layer, Σ_x p_k (1 − p_k) x_j² / n."""
    net = nn.Linear(3, 2)
    x = torch.randn(512, 3, generator=torch.Generator().manual_seed(0))
    scene = scene_of(net, (x, torch.zeros(512, dtype=torch.long)), label_loss)
    measured = many(net, scene).fisher[0]
    p = net(x).softmax(-1).detach()
    exact = torch.einsum("nk,nj->kj", p * (1 - p), x**2) / 512
    # 640 gradients of 8 examples: relative error of each entry √(2/640), 6 entries
    assert torch.allclose(measured, exact, rtol=5 * (2 / 640) ** 0.5)


def test_fisher_counts_tokens_not_sequences():
    """For a model without context, F per token does not depend on how many tokens a sequence holds."""
    net = nn.Embedding(5, 5)
    tokens = torch.randint(5, (512, 12), generator=torch.Generator().manual_seed(0))
    long, short = (many(net, scene_of(net, rows, next_token_loss)).fisher[0] for rows in (tokens, tokens[:, :3]))
    assert torch.allclose(long.mean(), short.mean(), rtol=5 * (2 / 640 / 5) ** 0.5)


def test_gradient_variance_is_that_of_single_examples():
    net, x = quadratic(cond=10, d=5)
    scene = scene_of(net, x, quadratic_loss)
    measured = many(net, scene).noise[0]
    exact = (net.h * (net.w - x)).var(0).detach()
    assert torch.allclose(measured, exact, rtol=5 * (2 / (40 * 15)) ** 0.5)


def test_quadratic_guess_is_exact_where_the_loss_is_quadratic():
    net, x = quadratic(cond=10, d=5)
    scene = scene_of(net, x, quadratic_loss)
    curvature = average([estimate(scene.potential, scene.potential.center, Key(0), 0)])._replace(fisher=[net.h])
    assert abs(expected_rise(curvature, [2.0], 30.0) - exact_rise(net.h, 30.0, 2.0)) < 1e-6


def test_a_classifier_leaves_no_trace_of_being_measured():
    net, data = classifier()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    many(net, scene_of(net, data, label_loss), 1)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
