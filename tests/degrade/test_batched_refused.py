"""What chains that step together do not allow: tried before a climb, named, with the cure."""

import pytest
import torch
from torch import nn

import degrade
from degrade import slabs
from degrade.losses import label_loss
from tests.degrade.toys import classifier


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
