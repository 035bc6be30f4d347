"""What a ladder would take: counts against what a climb does, time and memory in words."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import degrade
from degrade import climb, timing
from degrade.parameters import select
from degrade.plan import Planned, counted, estimate, lines
from degrade.request import Request
from degrade.scene import set_scene
from degrade.timing import measured
from tests.degrade.toys import quadratic, quadratic_loss

SETTINGS = {"nbetas": [1e3, 100.0], "gamma": 1.0, "steps": 60, "burn_in": 20, "draws": 2, "chains": 2, "evaluation": 16}


def planned(**settings):
    net, x = quadratic(cond=10, d=8, examples=128)
    return Planned("toy", net, x, x[:32], {**SETTINGS, **settings}, quadratic_loss)


def test_it_leaves_the_model_as_it_was():
    one = planned()
    before = [p.clone() for p in one.model.parameters()]
    estimate(one)
    assert all(torch.equal(a, b) for a, b in zip(before, one.model.parameters(), strict=True))


def test_rungs_chains_steps_and_weights_are_those_of_the_ladder():
    found = estimate(planned())
    assert (found.rungs, found.chains, found.steps, found.sampled) == (2, 2, (60, 60), 8)
    assert found.kept == 2 * 2 * 2 * 8 * 4
    assert estimate(planned(keep="none")).kept == 0
    assert estimate(planned(steps=None, burn_in=None)).steps == (climb.BURN_IN[0] + climb.KEPT[0], climb.BUDGET)


def test_the_gradients_of_a_climb_are_within_the_count(monkeypatch):
    """Counted where they are taken: minibatches, curvature and all."""
    from degrade.potential import Potential

    taken = []
    for name in ("gradient", "sampled_gradient"):
        real = getattr(Potential, name)

        def counting(self, *arguments, real=real):
            taken.append(1)
            return real(self, *arguments)

        monkeypatch.setattr(Potential, name, counting)
    one = planned(batch_size=16)
    low, high = estimate(one).gradients
    taken.clear()
    degrade.ladder(one.model, one.data, loss=one.loss, heldout=one.heldout, progress=False, **one.settings)
    assert low <= len(taken) <= high


def test_more_steps_cost_more():
    few, many = (counted(Request.of(**{**SETTINGS, "steps": steps}), True, False) for steps in (60, 600))
    assert many.gradients > few.gradients + 500 and many.drawn == 600


def test_a_gradient_of_a_large_batch_is_told_from_small_ones(monkeypatch):
    """By a clock that a pass moves on by 2 ms and 1 ms an example: the law, that time is linear in them, is exact."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(50, 64), nn.Linear(64, 50))
    tokens, clock = torch.randint(50, (512, 64)), [0.0]

    def ticking(model, batch):
        clock[0] += 0.002 + 0.001 * len(batch)
        return degrade.next_token_loss(model, batch)

    ticking.sampled = degrade.next_token_loss.sampled
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    request = Request.of(nbetas=[1e3], gamma=1.0, steps=16, burn_in=4, draws=1, chains=1)
    scene = set_scene(net, select(net), tokens, ticking, request, None, (), False)
    costs = measured(scene, request, False)
    assert costs.gradient(256) == pytest.approx(0.258)
    assert costs.weights == 4 * sum(p.numel() for p in net.parameters())
    assert costs.logits == 63 * 50 * 4 or costs.logits == 64 * 50 * 4


def test_it_is_told_in_words(monkeypatch):
    said = "\n".join(lines([planned()], workers=2))
    assert "ladder toy: 2 rungs × 2 chains of 8 weights; 60 steps of a chain at a rung" in said
    assert "time: about" in said and "with workers=2" in said
    assert "GiB" in said and "more than" not in said
    monkeypatch.setattr("degrade.memory.free", lambda: 10)
    assert "That is more than the 9.3e-09 GiB that are free: expected less; take fewer workers" in "\n".join(
        lines([planned()], 2)
    )


def test_settings_that_do_not_fit_are_told_as_by_the_ladder():
    with pytest.raises(ValueError, match="steps=60 and burn_in=58 leave 2 steps to draw from"):
        estimate(planned(burn_in=58))
