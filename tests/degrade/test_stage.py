"""A finished rung keeps what was found and lets go of what its steps needed."""

import pytest

import degrade
from degrade import build
from degrade.preconditioners import choose
from tests.degrade.toys import quadratic, quadratic_loss

SHORT = {"gamma": 1.0, "loss": quadratic_loss, "steps": 60, "burn_in": 20, "chains": 2, "draws": 2, "progress": False}


def climbed(monkeypatch, **settings):
    """A ladder and its stages as the climb hands them over."""
    seen, climb = [], build.climb
    monkeypatch.setattr(build, "climb", lambda *given: seen.append(climb(*given)) or seen[0])
    net, x = quadratic(cond=10, d=8, examples=128)
    return degrade.ladder(net, x, **(SHORT | settings)), seen[0]


@pytest.mark.parametrize("cool", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_no_weights_but_draws_and_no_metric_but_to_come_back_through(monkeypatch, cool, workers):
    ladder, stages = climbed(monkeypatch, nbetas=[100.0, 50.0], batch_size=64, cool=cool, workers=workers)
    for stage in stages:
        assert not stage.rung.curvature.fisher and not stage.rung.vector
        assert bool(stage.plan.metric.p) == cool
        for leg in [*stage.legs, *stage.cooled]:
            assert not leg.weights and not leg.plan.metric.p
        assert all(len(leg.kept) == 2 for leg in stage.legs) and not any(leg.kept for leg in stage.cooled)
    assert len(list(ladder.draws())) == 2 * 2 * 2
    assert ladder.table.pooled_rhat.iloc[1:].notna().any() == cool


def test_what_a_default_is_goes_by_the_batch_and_is_in_the_table(monkeypatch):
    assert (choose("auto", True), choose("auto", False)) == ("ekfac", "fisher")
    assert choose("rmsprop", True) == choose("rmsprop", False) == "rmsprop"
    for batch_size, name in ((128, "ekfac"), (64, "fisher")):
        with monkeypatch.context() as patch:
            ladder, _ = climbed(patch, nbetas=[100.0], batch_size=batch_size)
        assert ladder.table.preconditioner.tolist() == ["", name]
        assert ladder.table.sampler[1] in ("baoab", "sgld")
