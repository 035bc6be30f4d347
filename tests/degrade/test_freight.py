"""What travels: bits, strides, types and identities as they were, and nothing that the other side has."""

import copy

import torch
from torch import nn

from degrade import freight


def carried(value, known=()):
    """There: what came, and what of it was sent."""
    content, own = freight.pack(value, known)
    return freight.unpack(content, [freight.tensor(freight.plain(one)) for one in own], known), own


def bits(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def test_tensors_arrive_bit_for_bit_with_their_strides():
    plain = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    made = [plain, plain.T, plain[1:3, ::2], plain.bfloat16(), torch.tensor(-0.0), torch.zeros(0, 3), plain > 0]
    for one, two in zip(made, carried(made)[0], strict=True):
        assert (one.dtype, one.shape) == (two.dtype, two.shape)
        assert torch.equal(bits(one), bits(two))
    assert carried(plain.T)[0].stride() == plain.T.stride()
    back = carried(plain)[0]
    back += 1  # memory of its own
    assert not torch.equal(back, plain)


def test_a_module_arrives_with_its_ties_and_its_parameters():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    net[0].bias.requires_grad_(False)
    net.register_buffer("n", torch.arange(3))
    back, live = carried((net, [net[0].weight]))[0]
    assert live[0] is back[0].weight is back[1].weight
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in net.parameters()]
    assert all(isinstance(p, nn.Parameter) for p in back.parameters())
    assert torch.equal(back(torch.ones(1, 3)), net(torch.ones(1, 3)))


def test_what_is_known_there_is_not_sent_and_stays_the_same_object():
    known, new = torch.ones(1000), torch.ones(2)
    (one, two), own = carried((known, new), [known])
    assert one is known
    assert [x is new for x in own] == [True]
    assert torch.equal(two, new)
    assert len(freight.pack((known, new), [known])[0]) < 200
    equal = copy.deepcopy(known)
    assert carried(equal, [known])[0] is not known  # by identity: equal bits may be written to apart


def test_functions_of_a_notebook_travel():
    offset = torch.ones(1)
    assert carried(lambda x: x + offset)[0](1) == 2
