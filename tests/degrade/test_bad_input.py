"""Each mistake is named, with the value, the expectation and the cure, and leaves nothing behind."""

import pytest
import torch
from torch import nn

import degrade
from tests.degrade.toys import classifier, quadratic, quadratic_loss

GOOD = {"rises": [0.1], "width": 0.5, "loss": degrade.label_loss, "progress": False}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rises": [0.2, 0.1]}, r"rises=\[0.2, 0.1\]; expected .* strictly ascending"),
        ({"rises": [0.1, 0.1]}, "strictly ascending"),
        ({"rises": [-0.1]}, "positive finite numbers"),
        ({"rises": []}, "positive finite numbers"),
        ({"rises": [float("nan")]}, "positive finite numbers"),
        ({"rises": None}, "exactly one of them: rises"),
        ({"nbetas": [10.0]}, "exactly one of them: rises"),
        ({"rises": None, "nbetas": [10.0, 20.0]}, "strictly descending"),
        ({"gamma": 1.0}, "exactly one of them: width"),
        ({"width": None}, "exactly one of them: width"),
        ({"width": -1.0}, "width=-1.0; expected a positive number"),
        ({"sampler": "hcm"}, "unknown sampler 'hcm'; the known ones are auto, baoab, hmc"),
        ({"preconditioner": "x"}, "unknown preconditioner 'x'; the known ones are auto, ekfac, fisher, identity"),
        ({"chains": 0}, "chains"),
        ({"step_size": -1.0}, "step_size"),
        ({"steps": 20, "burn_in": 15}, "leave 5 steps to draw from"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_settings(settings, said):
    net, data = classifier()
    with pytest.raises(ValueError, match=said):
        degrade.ladder(net, data, **(GOOD | settings))


def test_all_faults_are_listed_at_once():
    net, data = classifier()
    with pytest.raises(ValueError, match="chains.*draws"):
        degrade.ladder(net, data, **(GOOD | {"chains": 0, "draws": 0}))


def test_a_target_above_the_reachable_rise(tmp_path):
    net, data = classifier()
    with pytest.raises(ValueError, match="target rise 50 is not reachable.*raise the loss by .* nats.*larger width"):
        degrade.ladder(net, data, **(GOOD | {"rises": [0.1, 50.0], "out": tmp_path / "run"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda model, batch: model(batch[0]).mean(), "returned a scalar for a batch of"),
        (lambda model, batch: model(batch[0])[:3, 0], r"returned \(3,\) for a batch of"),
        (lambda model, batch: (model(batch[0])[:, 0], torch.ones(3)), r"counts of shape \(3,\)"),
        (lambda model, batch: 3.0, "returned float"),
        (lambda model, batch: model(batch[0])[:, 0] * float("nan"), "example 0 is nan at the trained weights"),
        (lambda model, batch: (model(batch[0])[:, 0], torch.zeros(len(batch[0]))), "scores no unit"),
    ],
)
def test_losses(loss, said):
    net, data = classifier()
    with pytest.raises(ValueError, match=said):
        degrade.ladder(net, data, **(GOOD | {"loss": loss}))


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        ((torch.zeros(0, 4), torch.zeros(0)), ValueError, "hold 0 examples"),
        ((torch.zeros(3, 4), torch.zeros(2)), ValueError, r"\[2, 3\] examples"),
        (iter([1]), TypeError, "cannot be counted or indexed"),
    ],
)
def test_data(data, error, said):
    net, _ = classifier()
    with pytest.raises(error, match=said):
        degrade.ladder(net, data, **GOOD)


def test_only_without_a_match():
    net, data = classifier()
    with pytest.raises(ValueError, match="no parameter matches the pattern 'attn'.*0.weight"):
        degrade.ladder(net, data, only="attn", **GOOD)


def test_a_model_without_parameters():
    with pytest.raises(ValueError, match="are: none"):
        degrade.ladder(nn.ReLU(), torch.zeros(3, 4), **GOOD)


def test_an_out_that_exists_is_refused_before_anything_is_computed(tmp_path):
    net, x = quadratic()
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="exists already; expected a new directory"):
        degrade.ladder(net, x, rises=[0.1], gamma=1.0, loss=quadratic_loss, out=tmp_path / "mine", progress=False)


def test_a_model_that_writes_to_its_own_weights_is_refused_by_name():
    net = torch.nn.Sequential(torch.nn.Embedding(8, 4, max_norm=1.0), torch.nn.Linear(4, 8))
    tokens = torch.randint(8, (64, 5), generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"writes to its parameter '0.weight'.*max_norm"):
        degrade.ladder(net, tokens, nbetas=[20.0], gamma=0.5, progress=False)


def test_a_ladder_inside_autocast_is_refused_and_the_model_left_alone():
    net = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="inside torch.autocast.*dtype='bf16'"):
        degrade.ladder(net, torch.zeros(64, 5, dtype=torch.long), nbetas=[20.0], gamma=0.5, progress=False)
    assert net.training


def test_the_shortest_rung_has_its_looks_within_it():
    net = torch.nn.Linear(3, 2)
    data = torch.randn(64, 3), torch.zeros(64, dtype=torch.long)
    table = degrade.ladder(
        net, data, nbetas=[20.0], gamma=1.0, loss=degrade.label_loss, steps=8, burn_in=0, draws=1, progress=False
    ).table  # fmt: skip
    assert table.steps.iloc[1] == 8
