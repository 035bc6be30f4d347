"""Chains that step together: the chains that step alone, to rounding, each with its own batches, noise and restarts."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import degrade
from degrade import metric as metrics
from degrade.batched import Batched, batched
from degrade.chain import Plan, advance
from degrade.curvature import Curvature
from degrade.engine import title
from degrade.journal import JournalError
from degrade.losses import label_loss, next_token_loss
from degrade.noise import Key, batch_index, normal_like
from degrade.parameters import lent, select
from degrade.samplers import SAMPLERS
from degrade.status import lines
from degrade.walk import Group, together
from tests.degrade.runs import kept, same, small
from tests.degrade.test_compute import FAMILIES, TOKENS, family
from tests.degrade.test_compute import scene as scene_with
from tests.degrade.test_curvature import scene_of
from tests.degrade.toys import classifier, quadratic, quadratic_loss

CHAINS = 3
ROUNDING = 1e-5  # of a state after 60 steps: float32 has 6e-8, and a stable step forgets what rounding adds


def plan_of(scene, sampler, batch_size, step_size=0.3, steps=60, nbeta=100.0, p=0.01, **changes):
    ones = [torch.ones_like(w) for w in scene.potential.center]
    metric = metrics.build([p * x for x in ones], Curvature(ones, ones), [1.0] * len(ones), nbeta, batch_size,
                           (None,) * len(ones))  # fmt: skip
    at = {"evaluate": (40, steps), "keep": (steps,), "forces": (40, steps), "tracked": False}
    return Plan(1, nbeta, metric, step_size, "given", steps, 20, batch_size, sampler, **at | changes)


def both(scene, plan, starts):
    """Legs of chains that step alone, and of the same chains together."""
    calls = [(plan, Key(0, chain=chain), start) for chain, start in enumerate(starts)]
    with lent(scene.potential.model, scene.potential.selection):
        alone = [advance(scene, *call) for call in calls]
        return alone, together(batched(scene, len(calls), plan.batch_size), Group(advance, calls))


def near(one, two):
    return np.abs(one - two).max() <= ROUNDING * max(np.abs(one).max(), 1.0)


def alike(one, two):
    """Two legs to rounding."""
    assert not one.fault and not two.fault and one.restarts == two.restarts and one.chain == two.chain
    assert near(one.trace, two.trace) and near(one.losses, two.losses) and near(one.force, two.force)
    assert all(near(x.numpy(), y.numpy()) for x, y in zip(one.weights, two.weights, strict=True))
    assert [kept.step for kept in one.kept] == [kept.step for kept in two.kept]
    for x, y in zip(one.kept, two.kept, strict=True):
        assert all(near(u.numpy(), v.numpy()) for u, v in zip(x.weights, y.weights, strict=True))


@pytest.mark.parametrize("batch_size", [32, 512])
@pytest.mark.parametrize("name", SAMPLERS)
def test_chains_together_are_the_chains_alone(name, batch_size):
    net, data = classifier()
    scene = scene_of(net, data, label_loss)
    plan = plan_of(scene, name, 512 if SAMPLERS[name].exact else batch_size)
    alone, joint = both(scene, plan, [scene.potential.center] * CHAINS)
    for one, two in zip(alone, joint, strict=True):
        alike(one, two)
    assert not near(joint[0].trace, joint[1].trace)


def test_a_step_that_follows_the_curvature_is_followed_by_each_chain():
    net, data = classifier()
    scene = scene_of(net, data, label_loss)
    plan = plan_of(scene, "baoab", 512, step_size=20.0, steps=100, tracked=True, forces=())
    alone, joint = both(scene, plan, [scene.potential.center] * CHAINS)
    for one, two in zip(alone, joint, strict=True):
        alike(one, two)
    assert len({leg.trace[-1, -1] for leg in joint}) == CHAINS


def test_batches_and_noise_are_those_of_chains_alone_to_the_bit(monkeypatch):
    net, data = classifier()
    scene, drawn, asked = scene_of(net, data, label_loss), [], []

    def noise(key, purpose, step, *rest):
        drawn.append((key, purpose, step, normal_like(key, purpose, step, *rest)))
        return drawn[-1][-1]

    monkeypatch.setattr("degrade.samplers.sgld.normal_like", noise)
    monkeypatch.setattr(
        "degrade.chain.batch_index", lambda *where: asked.append((where, batch_index(*where))) or asked[-1][1]
    )
    both(scene, plan_of(scene, "sgld", 32), [scene.potential.center] * CHAINS)
    for seen in (drawn, asked):
        half = len(seen) // 2
        one, two = ({str(line[:-1]): line[-1] for line in part} for part in (seen[:half], seen[half:]))
        assert len(one) == half and one.keys() == two.keys()
        assert all(np.array_equal(x, y) for name in one for x, y in zip(one[name], two[name], strict=True))


class Quartic(nn.Module):
    """L(w) = mean of ½ Σ (w − x)² + ¼ Σ (w − w*)⁴: curved more the farther away."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        return ((self.w - x) ** 2).sum(1) / 2 + (self.w**4).sum() / 4


def test_a_chain_that_runs_away_starts_again_alone():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    scene = scene_of(Quartic(), x - x.mean(0), lambda model, x: model(x))
    far = [torch.full((8,), 3.0)]  # curvature 28 there, 1 at w*
    plan = plan_of(scene, "sgld", 16, step_size=1.0)
    alone, joint = both(scene, plan, [scene.potential.center, far, scene.potential.center])
    assert [leg.restarts for leg in joint] == [0, alone[1].restarts, 0] and alone[1].restarts > 0
    for one, two in zip(alone, joint, strict=True):
        alike(one, two)


def test_a_chain_that_never_holds_leaves_the_others_alone():
    net, x = quadratic(cond=10, d=50)
    scene = scene_of(net, x, quadratic_loss)
    plan = plan_of(scene, "sgld", 64, ceiling=1.0)
    hot = [w + 100 for w in scene.potential.center]
    alone, joint = both(scene, plan, [scene.potential.center, hot])
    alike(alone[0], joint[0])
    assert joint[1].fault.startswith("a block of steps reached a mean rise of") and not joint[1].kept


class InPlace(nn.Linear):
    """Writes to what it has made itself, which several chains at once allow."""

    def forward(self, x):
        y = super().forward(x)
        y += 1
        y[:, 0] = 2 * y[:, 0].clone()
        return y.masked_fill_(y.detach() > 2, 2.0)


class Shifted(nn.Linear):
    """A weight that moves all logits alike has no gradient but rounding."""

    def __init__(self):
        super().__init__(4, 2)
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return super().forward(x) + self.shift


CASES = {
    **{name: lambda name=name: (family(name), TOKENS, next_token_loss) for name in FAMILIES},
    "masked": lambda: (family("llama"), {"input_ids": TOKENS, "attention_mask": (TOKENS > 3).long()}, next_token_loss),
    "batchnorm": lambda: (
        nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 2)).eval(), classifier()[1],
        label_loss,
    ),
    "convolution": lambda: (
        nn.Sequential(nn.Conv1d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(9, 2)),
        (classifier()[1][0][:, None], classifier()[1][1]), label_loss,
    ),
    "no gradient": lambda: (Shifted(), classifier()[1], label_loss),
    "in place": lambda: (InPlace(4, 2), classifier()[1], label_loss),
    "bridge": lambda: (family("gpt2", bridge=True), TOKENS, next_token_loss),
    "float64": lambda: (
        nn.Linear(4, 2).double(), (classifier()[1][0].double(), classifier()[1][1]), label_loss
    ),
}  # fmt: skip


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_gradients_together_are_the_gradients_alone(case, whole):
    torch.manual_seed(0)
    model, data, loss = CASES[case]()
    with lent(model, select(model)):
        scene = scene_with(model, data, loss)
        examples = len(scene.potential.data)
        size = examples if whole else examples // 2
        potential = batched(scene, CHAINS, size).potential
        assert isinstance(potential, Batched)
        asked = []
        for chain in range(CHAINS):
            noise = normal_like(Key(1, chain=chain), "noise", 0, potential.center)
            weights = [c + 0.05 * x for c, x in zip(potential.center, noise, strict=True)]
            asked.append((weights, batch_index(Key(1, chain=chain), "batch", 0, examples, size)))
        for (rise, gradient), one in zip(potential.gradients(asked), asked, strict=True):
            known, exact = potential.gradient(*one)
            assert abs(float(rise - known)) <= ROUNDING
            assert [g.dtype for g in gradient] == [torch.float32] * len(exact)
            size = max(float(g.abs().max()) for g in exact)
            assert all(float((x - y).abs().max()) <= ROUNDING * size for x, y in zip(gradient, exact, strict=True))


def test_some_parameters_alone_are_sampled_together():
    net, data = classifier()
    mask = torch.zeros_like(net[0].weight, dtype=torch.bool)
    mask[0] = True
    brief = {"steps": 16, "burn_in": 8, "draws": 1, "chains": 2, "nbetas": [300.0], "step_size": 0.2, "progress": False}
    one, two = (
        degrade.ladder(net, data, loss=label_loss, width=0.5, only={"0.weight": mask}, chains_at_once=n, **brief)
        for n in (1, 2)
    )
    for x, y in zip(one.draws(), two.draws(), strict=True):
        assert near(x.weights[0].numpy(), y.weights[0].numpy())
        assert torch.equal(y.weights[0][1:], net[0].weight[1:])


def test_a_ladder_is_the_same_to_rounding_and_the_model_is_left_as_it_was():
    net, data = classifier()
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    settings = {"nbetas": [300.0, 100.0], "steps": 40, "burn_in": 20, "draws": 2, "cool": True, "progress": False}
    one, two = (degrade.ladder(net, data, loss=label_loss, width=0.5, chains_at_once=n, **settings) for n in (1, 4))
    assert np.allclose(one.table["rise"], two.table["rise"], rtol=1e-3)
    assert (one.table["verdict"] == two.table["verdict"]).all()
    assert two.manifest["settings"]["chains_at_once"] == 4
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters())


def test_the_same_settings_give_the_same_bits_in_any_processes(tmp_path):
    small(tmp_path / "one", chains=3, chains_at_once=2)
    small(tmp_path / "two", chains=3, chains_at_once=2, workers=2)
    same(tmp_path / "one", tmp_path / "two")


def test_a_stopped_run_goes_on_by_whole_groups_to_the_same_bits(tmp_path, monkeypatch):
    settings = {"nbetas": [100.0, 50.0, 25.0], "chains": 3, "chains_at_once": 2, "cool": True}
    gradients, calls = Batched.gradients, []

    def counted(self, asked):
        calls.append(len(asked))
        if len(calls) == left:
            raise KeyboardInterrupt
        return gradients(self, asked)

    monkeypatch.setattr(Batched, "gradients", counted)
    left = None
    small(tmp_path / "one", **settings)
    left = 2 * len(calls) - 5
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "two", **settings)
    assert sum(name.startswith("together-cooling-001") for name in kept(tmp_path / "two")) == 1
    assert "3 of 3 rungs drawn, 1 of 2 cooled; 3 units of the next (last: cooling of rung 1" in str(
        lines(tmp_path / "two")
    )
    with pytest.raises(JournalError, match="setting chains_at_once was 2, is 1"):
        small(tmp_path / "two", **settings | {"chains_at_once": 1})
    small(tmp_path / "two", **settings)
    same(tmp_path / "one", tmp_path / "two")


def test_a_unit_of_several_chains_is_named_by_all_of_them():
    group = Group(advance, [(None, Key(0, "cooling", 2, chain), []) for chain in (0, 3)])
    assert title([group]) == "cooling of rung 2, chains 0, 3 (part 0)"


def test_what_was_recorded_is_of_one_potential_and_does_not_travel():
    net, data = classifier()
    scene = scene_of(net, data, label_loss)
    with lent(net, scene.potential.selection):
        potential = batched(scene, 2, 32).potential
    assert isinstance(potential, Batched) and len(potential.graphs.known) == 1
    assert not replace(potential, loss=next_token_loss).graphs.known
    assert not pickle.loads(pickle.dumps(potential.graphs)).known
