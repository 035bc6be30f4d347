"""What is made again for want of room is what would have been kept; and a large model's law is a small one's."""

import math

import numpy as np
import pytest
import torch

import degrade
from degrade import metric as metrics
from degrade import slabs
from degrade.chain import Plan, advance
from degrade.curvature import Curvature, Turned
from degrade.fingerprint import key_of
from degrade.freight import pack, unpack
from degrade.noise import Key
from degrade.parameters import lent
from degrade.rotation import Rotation, Sides, Turnable
from degrade.slabs import Made, compact, held
from tests.degrade.test_curvature import scene_of
from tests.degrade.toys import classifier

NBETA, LEAN = 300.0, ("sgld", "ula", "baoab")


def told(scene, turned):
    """A metric with a mask, gradient noise and, if `turned`, a basis, made of arbitrary curvature."""
    generator = torch.Generator().manual_seed(1)
    fisher, noise = ([torch.rand(w.shape, generator=generator) for w in scene.potential.center] for _ in range(2))
    masks = tuple((torch.rand(w.shape, generator=generator) > 0.3) if w.dim() == 1 else None for w in fisher)
    seen = None
    if turned:
        axes = [Turnable(w.dim() == 2, False) for w in fisher]
        turns = [Sides(torch.linalg.qr(torch.randn(len(w), len(w), generator=generator))[0], None) for w in fisher]
        rotation = Rotation([t if axis.rows else Sides(None, None) for t, axis in zip(turns, axes, strict=True)], axes)
        seen = Turned(rotation, fisher, noise)
    curvature = Curvature(fisher, noise, (), (), seen)
    p = [1 / (NBETA * (f + 0.1) + 1) for f in fisher]
    return metrics.build(p, curvature, [1.0] * len(p), NBETA, 64, masks)


def leg(sampler, turned):
    net, data = classifier()
    scene = scene_of(net, data, degrade.label_loss)
    with lent(net, scene.potential.selection):
        plan = Plan(
            1, NBETA, told(scene, turned), 0.3, "given", 60, 20, 64, sampler, (40, 60), (40, 60), (40, 60), tracked=True
        )
        return advance(scene, plan, Key(0), scene.potential.center)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("sampler", LEAN)
def test_a_large_models_steps_are_those_of_a_small_one_bit_for_bit(sampler, turned, monkeypatch):
    kept = leg(sampler, turned)
    monkeypatch.setattr(slabs, "LARGE", 0)
    made = leg(sampler, turned)
    assert not kept.fault and isinstance(held(torch.sqrt, [torch.ones(2)]), Made)
    for one, two in zip(kept.weights, made.weights, strict=True):
        assert torch.equal(one, two)
    for field in ("trace", "losses", "force"):
        assert np.array_equal(getattr(kept, field), getattr(made, field))
    assert [draw.trace for draw in kept.kept] == [draw.trace for draw in made.kept]


@pytest.mark.parametrize("sampler", LEAN)
def test_slabs_change_nothing_but_the_order_of_sums(sampler, monkeypatch):
    whole = leg(sampler, False)
    monkeypatch.setattr(slabs, "SLAB", 20)
    parts = leg(sampler, False)
    for one, two in zip(whole.weights, parts.weights, strict=True):
        assert torch.equal(one, two)
    assert np.allclose(whole.trace, parts.trace, rtol=1e-4, atol=1e-6)


def test_slabs_cover_every_parameter_once_in_order():
    sizes = [3, 2**18, 5, 2**17, 2**17, 1, 2**19]
    parts = slabs.slabs([torch.empty(size) for size in sizes])
    assert [number for part in parts for number in range(part.start, part.stop)] == list(range(len(sizes)))
    assert all(sum(sizes[part]) <= slabs.SLAB or part.stop - part.start == 1 for part in parts)
    assert slabs.slabs([]) == ()


def test_made_tensors_read_like_a_list_travel_and_have_a_content_key():
    roots = Made(torch.sqrt, ([torch.full((2,), 4.0), torch.full((1,), 9.0)],))
    assert len(roots) == 2 and [float(x[0]) for x in roots] == [float(x[0]) for x in roots[:]] == [2.0, 3.0]
    content, own = pack(roots)
    assert torch.equal(unpack(content, own)[1], roots[1])
    assert key_of(roots) != key_of(Made(torch.sqrt, ([torch.full((2,), 4.0), torch.full((1,), 8.0)],)))


def test_half_precision_keeps_curvature_to_its_eight_bits(monkeypatch):
    monkeypatch.setattr(slabs, "LARGE", 0)
    fisher = torch.logspace(-30, 10, 500)
    (kept,) = compact([fisher])
    assert kept.dtype == torch.bfloat16
    assert float((kept.float() / fisher - 1).abs().max()) <= 2.0**-8


@pytest.mark.slow
def test_the_law_of_a_large_model_is_that_of_a_small_one(monkeypatch):
    """A preconditioner rounded to half precision is another preconditioner: E[rise] at one nβ does not depend on it."""
    net, data = classifier()
    settings = {"width": 0.8, "nbetas": [100.0], "loss": degrade.label_loss, "steps": 400, "burn_in": 100}
    tables = []
    for size in (slabs.LARGE, 0):
        monkeypatch.setattr(slabs, "LARGE", size)
        tables.append(degrade.ladder(net, data, chains=4, draws=2, progress=False, **settings).table.iloc[1])
    one, two = tables
    assert "failed" not in (one.verdict, two.verdict)
    assert abs(one.rise - two.rise) < 4 * math.hypot(one.rise_se, two.rise_se)
