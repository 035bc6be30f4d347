import pytest
import torch
from torch import nn

from degrade.parameters import applied, lent, select


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.unembed = nn.Linear(3, 4, bias=False)
        self.unembed.weight = self.embed.weight


class Doubled(nn.Module):
    """The trap of fused bridges: two parameter objects over one storage."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = nn.Parameter(torch.zeros(6))
        self.part = nn.Parameter(self.fused.data[:3])


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(3)


def test_tied_weights_are_sampled_once():
    selection = select(Tied())
    assert selection.names == ("embed.weight",)
    assert selection.count == 12


def test_overlapping_parameters_are_refused():
    with pytest.raises(ValueError, match="'fused' and 'part' share memory"):
        select(Doubled())


@pytest.mark.parametrize("only", ["nothing", {"typo.weight": None}])
def test_no_match_lists_the_parameters(only):
    with pytest.raises(ValueError, match="no parameter matches.*linear.weight"):
        select(Noisy(), only)


def test_a_mask_must_fit_and_is_counted():
    mask = torch.zeros(3, 3)
    mask[0] = 1
    assert select(Noisy(), {"linear.weight": mask}).count == 3
    with pytest.raises(ValueError, match=r"shape \(2,\); expected \(3, 3\)"):
        select(Noisy(), {"linear.weight": torch.zeros(2)})


def snapshot(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [part.training for part in model.modules()],
        [(p.requires_grad, p.grad) for p in model.parameters()],
    )


def same(one, two):
    return all(torch.equal(one[0][name], two[0][name]) for name in one[0]) and one[1:] == two[1:]


@pytest.mark.parametrize("accident", [None, RuntimeError, KeyboardInterrupt])
def test_a_lent_model_comes_back_bit_for_bit(accident):
    model = Noisy().train()
    model.norm.eval()
    model.linear.bias.requires_grad_(False)
    before = snapshot(model)
    selection = select(model)
    try:
        with pytest.warns(UserWarning, match="train mode with dropout"), lent(model, selection):
            assert not any(part.training for part in model.modules())
            selection.place([torch.full_like(t, 7.0) for t in selection.tensors])
            model.norm.running_mean.fill_(9.0)
            if accident:
                raise accident
    except (RuntimeError, KeyboardInterrupt) as raised:
        assert type(raised) is accident
    assert same(before, snapshot(model))


@pytest.mark.parametrize("accident", [None, RuntimeError, KeyboardInterrupt])
def test_applied_weights_are_taken_back(accident):
    model = Noisy().eval()
    before = snapshot(model)
    selection = select(model)
    try:
        with applied(model, selection, [torch.full_like(t, 7.0) for t in selection.tensors]):
            assert float(model.linear.weight.mean()) == 7.0
            if accident:
                raise accident
    except (RuntimeError, KeyboardInterrupt) as raised:
        assert type(raised) is accident
    assert same(before, snapshot(model))


def test_weights_are_kept_in_float32_and_rounded_once():
    model = nn.Linear(64, 64).bfloat16()
    selection = select(model)
    weights = selection.copy()
    assert all(w.dtype == torch.float32 for w in weights)
    moved = [w + 1e-4 for w in weights]
    selection.place(moved)
    assert all(torch.equal(t, m.bfloat16()) for t, m in zip(selection.tensors, moved, strict=True))
