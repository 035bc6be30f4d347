"""What every sampler must do. To join: one line in SAMPLERS of `degrade.samplers`, one line in LAWS below."""

import math
from functools import partial

import numpy as np
import pytest
import torch

import degrade
from degrade import metric as metrics
from degrade.chain import Plan, advance
from degrade.curvature import Curvature
from degrade.metric import Metric
from degrade.noise import Key
from degrade.parameters import lent
from degrade.potential import Potential
from degrade.samplers import SAMPLERS, Target
from tests.degrade.test_curvature import scene_of
from tests.degrade.toys import Quadratic, classifier

COPIES = 40_000
PRECISION = 3.0
VARIANCE_SE = math.sqrt(2 / COPIES)

# Stationary variance on a Gaussian of precision a, preconditioned by P, as a function of s = ε P a.
LAWS = {
    "baoab": lambda a, s: 1 / a,
    "hmc": lambda a, s: 1 / a,
    "laplace": lambda a, s: 1 / a,
    "mala": lambda a, s: 1 / a,
    "sgld": lambda a, s: 1 / a,
    "sgnht": lambda a, s: 1 / a,
    "ula": lambda a, s: 1 / (a * (1 - s / 4)),
}

# Steps to reach the target from 7 standard deviations off, at s = 1. A sampler that accepts or rejects shortens its
# steps where 40,000 scalars must be accepted together; a thermostat must first cool down.
FAR = dict.fromkeys(SAMPLERS, 60) | {"mala": 500, "sgnht": 300}
TARGET = Target(
    [torch.zeros(COPIES)], lambda w: (float(w[0].double().square().sum()) * PRECISION / 2, [PRECISION * w[0]])
)
NOISY = [name for name, sampler in SAMPLERS.items() if not sampler.exact]


class Turn:
    """A rotation of pairs of coordinates, the i-th of the first half with the i-th of the second."""

    def __init__(self, angle):
        self.angle = angle

    def into(self, tensors, part=None):
        return [_turned(x, self.angle) for x in tensors]

    def out(self, tensors, part=None):
        return [_turned(x, -self.angle) for x in tensors]


def _turned(x, angle):
    one, two = x.view(2, -1)
    return torch.cat([math.cos(angle) * one - math.sin(angle) * two, math.sin(angle) * one + math.cos(angle) * two])


def metric(p: float, q: float = 0.0, a: float = PRECISION, basis=None) -> Metric:
    def full(value: float) -> list[torch.Tensor]:
        return [torch.full((COPIES,), value)]

    return Metric(full(p), full(a), full(1.0), full(q), float(COPIES), basis)


def balanced(d: int, examples: int) -> torch.Tensor:
    """Signs with column sums of exactly zero: the minimum of a quadratic over them is where it was."""
    signs = torch.randn(examples // 2, d, generator=torch.Generator().manual_seed(7)).sign()
    return torch.cat([signs, -signs])


def stepper(name, target=TARGET):
    return partial(SAMPLERS[name].update, target=target) if SAMPLERS[name].asks else SAMPLERS[name].update


def run(
    name: str, p: float, step_size: float, steps: int, start: torch.Tensor, q: float = 0.0, **given
) -> torch.Tensor:
    key, update = Key(1), stepper(name)
    noise = torch.Generator().manual_seed(5)
    state = SAMPLERS[name].init([start], metric(p, q, **given), step_size, key)
    for _ in range(steps):
        gradient = PRECISION * state.weights[0] + math.sqrt(q) * torch.randn(COPIES, generator=noise)
        state = update(state, [gradient], key)
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
    end = run(name, 1.0, 1 / PRECISION, FAR[name], torch.full((COPIES,), 4.0))
    assert abs(float(end.var()) / law - 1) < 5 * VARIANCE_SE
    assert abs(float(end.mean())) < 5 * math.sqrt(law / COPIES)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_rotated_basis_has_the_same_law(name):
    """P = 1 and P = 0.3 along axes turned by 0.7: both directions keep their variance, and stay uncorrelated."""
    key, update, law = Key(2), stepper(name), LAWS[name](PRECISION, 0.5)
    p = torch.cat([torch.full((COPIES // 2,), 1.0), torch.full((COPIES // 2,), 0.3)])
    turned = metric(1.0, basis=Turn(0.7))
    turned = Metric([p], turned.a, turned.weight, turned.q, turned.total, turned.basis)
    state = SAMPLERS[name].init([exact(law)], turned, 0.5 / PRECISION, key)
    for _ in range(30):
        state = update(state, [PRECISION * state.weights[0]], key)
    seen = turned.basis.into(state.weights)[0].view(2, -1)
    laws = torch.tensor([law, LAWS[name](PRECISION, 0.15)])
    if name == "ula":  # its start has the first direction's law: the second one's is reached by e^(−30 · 0.15)
        laws[1] += (law - laws[1]) * (1 - 0.15 / 2) ** 60
    assert torch.allclose(seen.var(1) / laws, torch.ones(2), atol=5 * 2**0.5 * VARIANCE_SE)
    assert abs(float((seen[0] * seen[1]).mean())) < 5 * law / math.sqrt(COPIES / 2)


@pytest.mark.parametrize("name", NOISY)
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
    sampler, key, update = SAMPLERS[name], Key(1), stepper(name)
    start = sampler.init([exact(1.0)], metric(1.0), 0.1, key)
    again = sampler.resize(start, metric(1.0), 0.1)
    one, two = (update(state, [PRECISION * state.weights[0]], key).weights[0] for state in (start, again))
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", SAMPLERS)
def test_forgets_at_the_declared_rate(name):
    """The mean falls by e in memory / ε steps where P a = 1 (to first order in ε); noise cancels between ± starts.

    The starts are close enough to the middle not to warm a thermostat. Where 40,000 scalars must be accepted together a
    step of 0.01 mostly is, but not in the same steps from both starts.
    """
    sampler, key, update, shift = SAMPLERS[name], Key(1), stepper(name), 0.2
    step_size, noise = (0.01, 1 / math.sqrt(PRECISION * COPIES)) if sampler.exact else (0.05, 0.0)
    ends = []
    for sign in (1, -1):
        state = sampler.init([exact(1 / PRECISION) + sign * shift], metric(1 / PRECISION), step_size, key)
        for _ in range(int(sampler.memory / step_size) or 1):
            state = update(state, [PRECISION * state.weights[0]], key)
        ends.append(float(state.weights[0].mean()))
    left = 0.0 if sampler.memory == 0 else shift / math.e
    assert abs((ends[0] - ends[1]) / 2 - left) < 0.1 * left + 4 * noise + 1e-6


@pytest.mark.parametrize("s", [0.3, 1.0])
@pytest.mark.parametrize(("name", "kept"), [("sgld", 0.0), ("baoab", 0.7)])
def test_momentum_costs_an_energy_its_steps_at_equal_step_size(name, kept, s):
    """Integrated autocorrelation time of x²: 2/s + ½ + α/(1 − α), what the default sampler is chosen by."""
    key, update, lags = Key(1), stepper(name), int(30 / s)
    state = SAMPLERS[name].init([exact(1 / PRECISION)], metric(1.0), s / PRECISION, key)
    for _ in range(10):  # let the noise that SGLD averages be the chain's own
        state = update(state, [PRECISION * state.weights[0]], key)
    first, time = state.weights[0] ** 2, 1.0
    for _ in range(lags):
        state = update(state, [PRECISION * state.weights[0]], key)
        time += 2 * float(torch.corrcoef(torch.stack([first, state.weights[0] ** 2]))[0, 1])
    exact_time = 2 / s + 0.5 + kept / (1 - kept)
    # each correlation has error 1/√COPIES; neighbours within a memory share it
    assert abs(time - exact_time) < 4 * 2 * math.sqrt(lags * exact_time / COPIES)


@pytest.mark.parametrize("name", SAMPLERS)
def test_where_the_preconditioner_is_zero_nothing_moves(name):
    start = torch.zeros(COPIES) if name == "laplace" else exact(1.0)
    end = run(name, 0.0, 0.1, 3, start)
    assert torch.equal(start, end)


@pytest.mark.parametrize("name", SAMPLERS)
def test_state_is_float32_under_a_model_in_bf16(name):
    """Weights near 1 in bf16, steps of a hundredth of their rounding: moves add up, and are rounded once, in the model.

    λ = nβ E[L − L*] = ½ d nβ/(nβ + γ); rounding adds nβ u²/24 a weight, u = 2⁻⁷.
    """
    nbeta, d, examples = 145.0, 400, 64
    net = Quadratic(torch.ones(d), torch.ones(d)).to(torch.bfloat16)
    x = 1 + 0.1 * balanced(d, examples)
    scene = scene_of(net, x, lambda model, rows: ((model.w.float() - rows) ** 2).sum(1) / 2)
    one = [torch.ones(d)]
    told = metrics.build([one[0] / (nbeta + 1)], Curvature(one, [0.01 * one[0]]), [1.0], nbeta, math.inf, (None,))
    plan = Plan(1, nbeta, told, 0.05, "given", 1200, 200, examples, name, tracked=False)
    with lent(net, scene.potential.selection):
        found = advance(scene, plan, Key(0), scene.potential.center)
    assert found.fault == ""
    assert found.weights[0].dtype == torch.float32
    # an energy at s = 0.05 is remembered for 2/s + 2.8 steps (two thirds of the steps of an exact sampler count)
    error = math.sqrt(2 * d * 1.5 * 43 / 1000) / 2
    exact_llc = d * nbeta * (1 / (nbeta + 1) + 2.0**-14 / 12) / 2
    assert abs(nbeta * found.trace[200:, 0].mean() - exact_llc) < 4 * error


@pytest.mark.parametrize("name", SAMPLERS)
def test_weights_that_live_in_the_model_change_no_bit(name, monkeypatch):
    """Between steps the weights are the model's own: a sampler that remembered them would see them change."""
    legs = []
    for settled in (Potential.settled, lambda self, weights: weights):
        monkeypatch.setattr(Potential, "settled", settled)
        net, data = classifier()
        scene = scene_of(net, data, degrade.label_loss)
        ones = [torch.ones_like(w) for w in scene.potential.center]
        told = metrics.build([0.01 * x for x in ones], Curvature(ones, ones), [1.0] * len(ones), 100.0, math.inf,
                             (None,) * len(ones))  # fmt: skip
        plan = Plan(1, 100.0, told, 0.3, "given", 60, 20, 512, name, (40, 60), (60,), (40, 60))
        with lent(net, scene.potential.selection):
            legs.append(advance(scene, plan, Key(0), scene.potential.center))
    one, two = legs
    assert not one.fault and np.array_equal(one.trace, two.trace) and np.array_equal(one.losses, two.losses)
    assert all(torch.equal(x, y) for x, y in zip(one.weights, two.weights, strict=True))


def test_a_thermostat_takes_out_noise_that_is_not_known():
    """Heating of 40 % that the metric knows nothing of: SGNHT is left with the second order of its splitting."""
    noise, key, update = torch.Generator().manual_seed(5), Key(1), stepper("sgnht")
    q = 4 * 0.4 * PRECISION / 0.4
    state = SAMPLERS["sgnht"].init([exact(1 / PRECISION)], metric(1.0), 0.4 / PRECISION, key)
    for _ in range(150):
        gradient = PRECISION * state.weights[0] + math.sqrt(q) * torch.randn(COPIES, generator=noise)
        state = update(state, [gradient], key)
    assert abs(float(state.weights[0].var()) * PRECISION - 1) < 0.03 + 5 * VARIANCE_SE


@pytest.mark.parametrize("name", ["hmc", "mala"])
def test_exact_samplers_reject_what_their_own_step_gets_wrong(name):
    """A metric that knows nothing of the curvature's size proposes badly; what is accepted still has the law."""
    key, update, draws = Key(4), [], []
    target = Target([torch.zeros(2)], lambda w: (float((w[0].double() ** 4).sum()), [4 * w[0] ** 3]))
    update = stepper(name, target)
    full = [torch.ones(2)]
    told = Metric(full, full, full, [torch.zeros(2)], 2.0)
    state = SAMPLERS[name].init([torch.zeros(2)], told, 0.6, key)
    for _ in range(12_000):
        state = update(state, [4 * state.weights[0] ** 3], key)
        draws.append(state.weights[0])
    fourth = torch.stack(draws).double().pow(4).mean(1).view(60, -1).mean(1)
    # E w⁴ = 1/4 for the law exp(−w⁴); 60 blocks of 200 steps are independent
    assert abs(float(fourth.mean()) - 0.25) < 4 * float(fourth.std()) / math.sqrt(60)
    assert float(fourth.std()) / math.sqrt(60) < 0.01


@pytest.mark.parametrize("name", ["hmc", "mala"])
def test_exact_samplers_refuse_minibatches(name):
    net, data = classifier()
    with pytest.raises(ValueError, match="batch_size=64.*all 512"):
        degrade.ladder(net, data, nbetas=[100.0], loss=degrade.label_loss, width=0.5, sampler=name, batch_size=64)
