"""Chains that step together: the chains that step alone, to rounding, each with its own batches, noise and restarts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import degrade
from degrade import metric as metrics
from degrade import slabs
from degrade.batched import Batched, batched
from degrade.chain import Plan, advance
from degrade.curvature import Curvature
from degrade.engine import title
from degrade.journal import JournalError
from degrade.losses import label_loss, next_token_loss
from degrade.noise import Key, batch_index, normal_like
from degrade.parameters import lent, select
from degrade.potential import Potential
from degrade.samplers import SAMPLERS
from degrade.walk import Group, together
from tests.degrade.runs import same, small
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
            assert all(
                float((x - y).abs().max() / y.abs().max()) <= ROUNDING for x, y in zip(gradient, exact, strict=True)
            )


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


def test_the_same_settings_give_the_same_bits_in_any_processes_and_after_a_stop(tmp_path, monkeypatch):
    settings = {"chains": 3, "chains_at_once": 2, "cool": True}
    small(tmp_path / "one", **settings)
    small(tmp_path / "two", workers=2, **settings)
    same(tmp_path / "one", tmp_path / "two")
    gradients, left = Batched.gradients, iter(range(120))

    def stopped(self, asked):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return gradients(self, asked)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Batched, "gradients", stopped)
        small(tmp_path / "three", **settings)
    with pytest.raises(JournalError, match="setting chains_at_once was 2, is 1"):
        small(tmp_path / "three", **settings | {"chains_at_once": 1})
    small(tmp_path / "three", **settings)
    same(tmp_path / "one", tmp_path / "three")


def test_a_unit_of_several_chains_is_named_by_all_of_them():
    group = Group(advance, [(None, Key(0, "cooling", 2, chain), []) for chain in (0, 3)])
    assert title([group]) == "cooling of rung 2, chains 0, 3 (part 0)"


class Odd(nn.Linear):
    """A layer that does on its way what several chains at once do not allow."""

    def __init__(self, kind):
        super().__init__(4, 2)
        self.kind, self.own = kind, None
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x):
        y = super().forward(x)
        if self.kind == "writes":
            self.seen.copy_(y.detach().mean(0))
        if self.kind == "chooses" and float(y.detach().norm()) < 0:
            return -y
        return y + torch.randn_like(y) * 0 if self.kind == "draws" else y


def hidden(model, batch):
    """A loss whose weights are not those of the model that it is given, which vmap does not see."""
    return ((batch[0] @ OWN[0].T) ** 2).sum(1) + model(batch[0]).sum(1) * 0


OWN = []


@pytest.mark.parametrize("kind", ["writes", "chooses", "draws"])
def test_a_model_that_is_no_function_of_weights_and_batch_is_refused(kind):
    net, data = Odd(kind), classifier()[1]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"chains_at_once=4, and the gradient of this Odd .*: leave chains_at_once out"
    ):
        degrade.ladder(net, data, nbetas=[1.0], loss=label_loss, width=0.5, chains_at_once=4, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_gradient_that_comes_out_otherwise_is_refused():
    net, data = nn.Linear(4, 2), classifier()[1]
    OWN[:] = [net.weight]
    with pytest.raises(ValueError, match=r"this Linear .* \((the rise|weight) differs from that of a chain alone\)"):
        degrade.ladder(net, data, nbetas=[1.0], loss=hidden, width=0.5, chains_at_once=4, progress=False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"chains_at_once": 0}, "chains_at_once=0; expected at least 1 chain"),
        ({"micro_batch": 8}, "chains_at_once=2 and micro_batch=8 were given; expected one of them"),
        ({"compile": True}, "chains_at_once=2 and compile=True were given"),
        ({"checkpointing": True}, "chains_at_once=2 and checkpointing=True were given"),
        ({"dtype": "bf16"}, "chains_at_once=2 and dtype='bfloat16' were given"),
        ({"control_variate": True, "batch_size": 8}, "control_variate=True and chains_at_once=2 were given"),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings, said):
    net, data = classifier()
    with pytest.raises(ValueError, match=said):
        degrade.ladder(net, data, nbetas=[1.0], loss=label_loss, width=0.5, **{"chains_at_once": 2} | settings)


def test_models_for_which_it_is_not_are_refused(monkeypatch):
    net, data = classifier()
    settings = {"nbetas": [1.0], "loss": label_loss, "width": 0.5, "chains_at_once": 2, "progress": False}
    with pytest.raises(ValueError, match=r"the model's weights are torch.bfloat16; expected float32"):
        degrade.ladder(classifier()[0].bfloat16(), (data[0].bfloat16(), data[1]), **settings)
    monkeypatch.setattr(slabs, "LARGE", 20)
    with pytest.raises(ValueError, match=r"58 weights are sampled; expected at most .*: leave chains_at_once out"):
        degrade.ladder(net, data, **settings)


def test_what_was_recorded_does_not_travel():
    import pickle

    net, data = classifier()
    scene = scene_of(net, data, label_loss)
    with lent(net, scene.potential.selection):
        potential = replace(batched(scene, 2, 32).potential, loss=label_loss)
    assert isinstance(potential, Potential) and list(potential.graphs.known) == [(2, 32)]
    assert pickle.loads(pickle.dumps(potential.graphs)).known == {}
