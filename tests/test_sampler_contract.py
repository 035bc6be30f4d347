"""What every sampler must do. To join: one line in SAMPLERS of `degrade.samplers`, one line in LAWS below."""

import math

import pytest
import torch

from degrade.metric import Metric
from degrade.noise import Key
from degrade.samplers import SAMPLERS

COPIES = 40_000
PRECISION = 3.0
VARIANCE_SE = math.sqrt(2 / COPIES)

# Stationary variance on a Gaussian of precision a, preconditioned by P, as a function of s = ε P a.
LAWS = {
    "baoab": lambda a, s: 1 / a,
    "sgld": lambda a, s: 1 / a,
    "ula": lambda a, s: 1 / (a * (1 - s / 4)),
}


def metric(p: float, q: float = 0.0) -> Metric:
    def full(value: float) -> list[torch.Tensor]:
        return [torch.full((COPIES,), value)]

    return Metric(full(p), full(PRECISION), full(1.0), full(q), float(COPIES))


def run(name: str, p: float, step_size: float, steps: int, start: torch.Tensor, q: float = 0.0) -> torch.Tensor:
    sampler, key = SAMPLERS[name], Key(1)
    noise = torch.Generator().manual_seed(5)
    state = sampler.init([start], metric(p, q), step_size, key)
    for _ in range(steps):
        gradient = PRECISION * state.weights[0] + math.sqrt(q) * torch.randn(COPIES, generator=noise)
        state = sampler.update(state, [gradient], key)
    return state.weights[0]


def exact(variance: float) -> torch.Tensor:
    return math.sqrt(variance) * torch.randn(COPIES, generator=torch.Generator().manual_seed(3))


def test_every_sampler_has_a_law():
    assert set(LAWS) == set(SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("p", [1.0, 0.2])
@pytest.mark.parametrize("s", [0.2, 1.0, 2.0])
def test_target_is_stationary_under_its_exact_discretisation_law(name, p, s):
    law = LAWS[name](PRECISION, s)
    end = run(name, p, s / (p * PRECISION), 30, exact(law))
    assert abs(float(end.var()) / law - 1) < 5 * VARIANCE_SE
    assert abs(float(end.mean())) < 5 * math.sqrt(law / COPIES)


@pytest.mark.parametrize("name", SAMPLERS)
def test_reaches_the_target_from_afar(name):
    law = LAWS[name](PRECISION, 1.0)
    end = run(name, 1.0, 1 / PRECISION, 60, torch.full((COPIES,), 4.0))
    assert abs(float(end.var()) / law - 1) < 5 * VARIANCE_SE


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("s", [0.4, 1.6])
def test_known_gradient_noise_is_taken_out(name, s):
    """With q chosen so that uncorrected heating is 40 %, the corrected variance is the noise-free law."""
    q = 4 * 0.4 * PRECISION / s
    law = LAWS[name](PRECISION, s)
    end = run(name, 1.0, s / PRECISION, 60, exact(law), q)
    assert abs(float(end.var()) / law - 1) < 5 * VARIANCE_SE


@pytest.mark.parametrize("name", SAMPLERS)
def test_pure_in_key_and_inputs(name):
    start = exact(1.0)
    kept, before = start.clone(), torch.get_rng_state()
    one, two = (run(name, 1.0, 0.1, 3, start) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(start, kept)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", SAMPLERS)
def test_resizing_to_the_same_step_changes_nothing(name):
    sampler, key = SAMPLERS[name], Key(1)
    start = sampler.init([exact(1.0)], metric(1.0), 0.1, key)
    again = sampler.resize(start, metric(1.0), 0.1)
    one, two = (sampler.update(state, [state.weights[0]], key).weights[0] for state in (start, again))
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", SAMPLERS)
def test_forgets_at_the_declared_rate(name):
    """From afar and without noise the mean falls by e in memory / ε steps where P a = 1 (to first order in ε)."""
    sampler, key, step_size = SAMPLERS[name], Key(1), 0.05
    state = sampler.init([torch.full((COPIES,), 100.0)], metric(1 / PRECISION), step_size, key)
    for _ in range(int(sampler.memory / step_size)):
        state = sampler.update(state, [PRECISION * state.weights[0]], key)
    assert abs(float(state.weights[0].mean()) / (100 / math.e) - 1) < 0.1


@pytest.mark.parametrize("name", SAMPLERS)
def test_where_the_preconditioner_is_zero_nothing_moves(name):
    start = exact(1.0)
    end = run(name, 0.0, 0.1, 3, start)
    assert torch.equal(start, end)
