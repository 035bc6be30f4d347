"""A model in parts in two processes: the chain of the whole model, to rounding; processes that the tests start."""

import multiprocessing

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from degrade import noise, pilot, sharded, shards
from degrade.chain import TRACE, Plan, attempt
from degrade.losses import next_token_loss
from degrade.metric import Metric
from degrade.noise import Key
from degrade.parameters import lent, select
from degrade.request import Request
from degrade.scene import set_scene

KEY, NBETA, STEP, STEPS, BATCH = Key(3), 500.0, 0.3, 8, 8
TOKENS = torch.randint(41, (32, 10), generator=torch.Generator().manual_seed(0))
WAYS = (None, "wte|wpe")  # what every process keeps whole


def model():
    """Tied embeddings, axes that two does not divide, a bias and a norm in each block."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=41, n_embd=15, n_layer=3, n_head=3, n_positions=16)).eval()


def alone():
    """The chain on one device, its metric, and the weights it ends at, by name."""
    net = model()
    selection = select(net)
    with lent(net, selection):
        request = Request.of(nbetas=[NBETA], width=0.3, evaluation=8)
        scene = set_scene(net, selection, TOKENS, next_token_loss, request, None, (), False)
        settings = pilot.Settings(0, 1, BATCH, "sgld", "fisher", None, float("inf"))
        metric = pilot.bind(scene, settings, pilot.first_look(scene, settings), NBETA)
        plan = Plan(1, NBETA, metric, STEP, "given", STEPS, 0, BATCH, "sgld", tracked=False)
        leg = attempt(scene, plan, KEY, scene.potential.center)
        noisy = noise.normal_like(KEY, "noise", 5, scene.potential.center)
        gradient = scene.potential.gradient(scene.potential.center, np.arange(7))
    return {"names": selection.names, "metric": metric, "leg": leg, "noise": noisy, "gradient": gradient}


def in_parts(rank, world, meeting, whole, answers):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    try:
        answers.put((rank, [parts_of(replicated, whole) for replicated in WAYS]))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def parts_of(replicated, whole):
    """What one process has to show."""
    net = shards.shard(model(), replicated=replicated)
    potential = sharded.bind(net, TOKENS, width=0.3)
    names = [name for name, p in net.named_parameters()]
    assert tuple(names) == whole["names"]
    full = whole["metric"]
    parts = (shards.cut(x, potential.tensors) for x in (full.p, full.a, full.weight, full.q))
    metric = Metric(*parts, full.total)
    rise, gradient = potential.gradient(potential.center, np.arange(7))
    ran = sharded.chain(potential, metric, NBETA, STEP, STEPS, BATCH, KEY)
    known = [] if replicated else sharded.fisher(potential, KEY, NBETA, BATCH).p
    noises = shards.normal_like(KEY, "noise", 5, potential.tensors)
    kinds = {name: type(p).__name__ for name, p in net.named_parameters()}
    return {
        "kinds": kinds,
        "offsets": [shards.place(p).slices for p in potential.tensors],
        "rise": float(rise),
        "gradient": [g.numpy() for g in shards.gathered(gradient, potential.tensors)],
        "trace": ran.trace,
        "weights": [w.numpy() for w in shards.gathered(ran.weights, potential.tensors)],
        "noise": [x.numpy() for x in noises],
        "p": [p.numpy() for p in shards.gathered(known, potential.tensors)] if known else [],
    }


def together(tmp_path, whole, world=2):
    """What each process has to show, by its rank, for each way to shard."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [
        context.Process(target=in_parts, args=(rank, world, tmp_path / "meeting", whole, answers))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return found


@pytest.fixture(scope="module")
def whole():
    return alone()


@pytest.fixture(scope="module")
def found(whole, tmp_path_factory):
    return together(tmp_path_factory.mktemp("group"), whole)


@pytest.fixture(params=[0, 1], ids=["all sharded", "embeddings replicated"])
def both(request, found):
    return WAYS[request.param], {rank: shown[request.param] for rank, shown in found.items()}


def far(one, two):
    """The largest difference of two lists of arrays."""
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(one, two, strict=True))


def test_a_sharded_chain_is_the_unsharded_one(whole, both):
    leg, (_, found) = whole["leg"], both
    moved = max(float((w - c).abs().max()) for w, c in zip(leg.weights, select(model()).copy(), strict=True))
    assert moved > 0.01  # so that equality says something
    for ran in found.values():
        assert far(ran["weights"], leg.weights) < 1e-5
        for column, name in enumerate(sharded.TRACE):
            assert np.allclose(ran["trace"][:, column], leg.trace[:, TRACE.index(name)], rtol=1e-4, atol=1e-5)


def test_gradients_of_parts_are_those_of_the_whole(whole, both):
    """Those of replicated embeddings too, of which each process has seen its own examples alone."""
    rise, gradient = whole["gradient"]
    for ran in both[1].values():
        assert abs(ran["rise"] - float(rise)) < 1e-6
        assert far(ran["gradient"], gradient) < 1e-6


def test_what_is_replicated_is_whole_and_the_rest_in_parts(both):
    replicated, found = both
    for name, kind in found[0]["kinds"].items():
        whole = replicated is not None and ("wte" in name or "wpe" in name)
        assert kind == ("Parameter" if whole else "DTensor"), name


def test_no_two_shards_see_the_same_noise_and_together_they_see_that_of_the_whole(whole, both):
    """Exactly: each part is the slice at its offset; parts of one parameter share no number."""
    _, found = both
    for number, full in enumerate(whole["noise"]):
        parts = [found[rank]["noise"][number] for rank in (0, 1)]
        for rank, part in enumerate(parts):
            assert np.array_equal(part, full.numpy()[found[rank]["offsets"][number]])
        if parts[0].shape != full.shape and parts[1].size:
            assert not np.isin(parts[0], parts[1]).any()


def test_the_preconditioner_is_one_of_the_whole_model(found):
    """All processes know the same one, and it is that of the Fisher information: large where nothing is learnt."""
    one, two = (found[rank][0]["p"] for rank in (0, 1))
    assert len(one) == len(list(model().parameters()))
    assert far(one, two) == 0
    assert all((p > 0).all() and np.isfinite(p).all() for p in one)
    assert max(p.max() for p in one) > 3 * min(p.min() for p in one)


def test_all_the_data_come_without_noise(tmp_path):
    """The noise correction takes out what minibatches add, and nothing where each step is on all the data."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        potential = sharded.bind(model(), TOKENS, width=0.3)
        some, every = (sharded.fisher(potential, Key(0), 100.0, size) for size in (8, len(TOKENS)))
    finally:
        dist.destroy_process_group()
    assert all(float(q.abs().max()) == 0 for q in every.q)
    assert all(float(q.max()) > 0 for q in some.q)


def test_mistakes():
    with pytest.raises(RuntimeError, match="no process group; expected one: start with torchrun"):
        shards.shard(model())


def test_mistakes_in_a_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="no parameter matches replicated='embed'; expected one of transformer"):
            shards.shard(model(), replicated="embed")
        with pytest.raises(ValueError, match="no list of like blocks"):
            shards.shard(nn.Linear(2, 2))
    finally:
        dist.destroy_process_group()
