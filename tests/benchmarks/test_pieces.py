"""What the benchmarks are made of: networks, their exact loss, the count of gradients, devinterp's law."""

import numpy as np
import pytest
import torch

from degrade.data import Examples
from degrade.parameters import select
from degrade.potential import Potential, example_nats
from tests.benchmarks import peers, workers
from tests.benchmarks.counting import counted
from tests.benchmarks.mixing import _settled
from tests.benchmarks.networks import drawn, squares
from tests.truths import gibbs
from tests.truths.targets import as_loss, basin, basin_llc


@pytest.mark.parametrize("seed", range(6))
def test_networks_have_their_size_and_their_loss(seed):
    network = drawn(1000, seed)
    assert abs(network.parameters / 1000 - 1) < 0.2
    model, data = network.module(), network.data()
    moved = [w + 0.1 for w in network.layers]
    for part, w in zip(model, moved, strict=True):
        part.weight.data = torch.as_tensor(w, dtype=torch.float32)
    exact = ((gibbs.product(moved) - network.goal) ** 2).sum() / 2 + network.goal.shape[0] / 2
    assert squares(model, data).mean().item() == pytest.approx(exact, rel=1e-4)


def test_every_gradient_is_counted_in_examples():
    model, data = basin(torch.ones(3))
    selection = select(model)
    potential = Potential(model, as_loss, Examples(data), selection, selection.copy(), [1.0], torch.zeros(len(data)), 1)
    with counted() as spent:
        potential.gradient(selection.copy(), np.arange(4))
        potential.gradient(selection.copy(), np.arange(2))
        example_nats(model, as_loss, potential.data, torch.device("cpu"))
    assert (spent.calls, spent.backward, spent.forward) == (2, 6, 6 + len(data))
    assert spent.gradients(2) == pytest.approx(3 + len(data) / 6)
    potential.gradient(selection.copy(), np.arange(4))
    assert spent.calls == 2


def test_an_error_that_comes_back_is_not_settled():
    means = np.array([[1.3, 1.3], [1.0, 1.0], [1.2, 1.2], [1.01, 0.99], [1.0, 1.0]])
    assert _settled(means, np.arange(5.0), 1.0)["gradients"] == 3
    assert np.isnan(_settled(means[:3], np.arange(3.0), 1.0)["gradients"])


def test_devinterp_has_the_law_of_plain_langevin_steps():
    """λ̂ = ½ Σ nβh / (a (1 − εa/4)) with a = nβh + γ, to 4.5 standard errors over 64 chains."""
    pytest.importorskip("devinterp")
    curvatures, nbeta, gamma, rate = torch.linspace(0.5, 1.0, 20), 100.0, 1.0, 5e-3

    def energy(parameters):
        return (parameters[0] ** 2 @ curvatures) / 2

    rows = peers.trace("devinterp sgld", energy, [torch.zeros(20)], [gamma], nbeta, rate, 1000, 64, seed=0)
    a = nbeta * curvatures + gamma
    exact = float((nbeta * curvatures / a / (1 - rate * a / 4)).sum() / 2)
    each = peers.last_halves(rows, [1000])[0]
    assert abs(each.mean() - exact) < 4.5 * each.std(ddof=1) / 8
    assert exact > 1.08 * basin_llc(curvatures, nbeta, gamma)


def test_ways_are_compared_within_a_round_and_the_first_round_is_left_out():
    rounds = [{"one process": one, "two processes": two} for one, two in ((90.0, 1.0), (20.0, 10.0), (40.0, 20.0))]
    found = workers.rows([*rounds, {"one process": 30.0, "two processes": 20.0}]).set_index("way")
    assert found["times as fast as one"].tolist() == [1.0, 2.0]
    assert found["over two processes"].tolist() == [2.0, 1.0]
    assert found["first"].tolist() == [90.0, 1.0]
