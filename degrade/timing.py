"""What a gradient, a forward pass and a step cost on this machine as it is now: timed at w*, and bytes counted."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from degrade import pilot
from degrade.chain import Plan, Scene, attempt
from degrade.compute import Computed, blocks
from degrade.curvature import Curvature
from degrade.noise import Key
from degrade.potential import _answers, example_nats
from degrade.preconditioners import choose
from degrade.request import Request
from degrade.samplers import AUTO

SIZES = (4, 32), (2, 8)  # examples of the two gradients that are timed; the second pair where the first is slow
SLOW = 0.5  # seconds of a gradient of four examples
PATIENCE = 0.5  # seconds of repetitions of a timing


class Costs(NamedTuple):
    """What is done again and again.

    Attributes:
        fixed: Seconds of a gradient, beside
        each: seconds for each of its examples.
        forward: Seconds of an example without a gradient.
        step: Seconds of a step beside its gradient.
        weights: Bytes of the sampled weights, in float32.
        held: Bytes that an example holds on to for its gradient.
        logits: Bytes of the logits of an example.
    """

    fixed: float
    each: float
    forward: float
    step: float
    weights: int
    held: int
    logits: int

    def gradient(self, examples: float) -> float:
        """Seconds of a gradient."""
        return self.fixed + self.each * examples


def measured(scene: Scene, request: Request, whole: bool) -> Costs:
    """Time gradients of two sizes, a forward pass and some steps at w*; `whole`: as if each were on all the data."""
    potential, few = scene.potential, len(scene.potential.data)
    slow = _timed(lambda: _gradient(scene, min(4, few))) > SLOW
    one, two = SIZES[slow]
    times = [_timed(lambda size=size: _gradient(scene, size)) for size in (one, two)]  # type: ignore[misc]
    each = max((times[1] - times[0]) / (two - one), 1e-9)
    forward = _timed(lambda: example_nats(potential.model, potential.loss, potential.data, potential.device)) / few
    fixed = max(times[0] - one * each, 0.0)
    plan = _short(scene, request, one, whole)
    key = Key(request.seed, "calibration")
    stepped = _timed(lambda: attempt(scene, plan, key, potential.center)) / plan.steps
    weights = sum(tensor.numel() * 4 for tensor in potential.center)
    return Costs(fixed, each, forward, max(stepped - times[0], 0.0), weights, _held(scene, one), logits(scene))


def _timed(work: Callable[[], Any]) -> float:
    """Seconds of some work: the median of repetitions, after a first one that warms up."""
    began = time.perf_counter()
    work()
    first = time.perf_counter() - began
    times = []
    for _ in range(1 if first > PATIENCE else min(20, math.ceil(PATIENCE / max(first, 1e-6)))):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _gradient(scene: Scene, size: int) -> Any:
    index = np.arange(size) % len(scene.potential.data)
    return scene.potential.gradient(scene.potential.center, index)


def _short(scene: Scene, request: Request, batch: int, whole: bool) -> Plan:
    """A few steps so short that nothing moves, by a metric that knows nothing but, for ekfac, what basis to turn to."""
    center, name = scene.potential.center, choose(request.preconditioner, whole)
    sampler = "baoab" if request.sampler == AUTO else request.sampler
    settings = pilot.Settings(request.seed, 1, batch, sampler, "ekfac" if name == "ekfac" else "fisher", None, math.inf)
    ones, zeros = ([torch.full_like(w, value) for w in center] for value in (1.0, 0.0))
    known = pilot.first_look(scene, settings) if name == "ekfac" else Curvature(ones, zeros, zeros)
    return Plan(
        rung=0, nbeta=1.0, metric=pilot.bind(scene, settings, known, 1.0), step_size=1e-9, bound="", steps=4, burn_in=0,
        batch_size=batch, sampler=sampler, tracked=False,
    )  # fmt: skip


def held(scene: Scene) -> int:
    """Bytes that one example more holds on to, from gradients of one and of three."""
    return max((3 * _held(scene, 3) - _held(scene, 1)) // 2, 0)


def _held(scene: Scene, size: int) -> int:
    """Bytes that an example holds on to for its gradient, weights aside; of recomputed blocks the inside of one."""
    kept, model = _kept(scene, size), scene.potential.model
    if not (isinstance(model, Computed) and model.compute.checkpointing):
        return kept
    plain = Computed(model.inner, replace(model.compute, checkpointing=False))
    whole = _kept(replace(scene, potential=replace(scene.potential, model=plain)), size)
    return kept + max(whole - kept, 0) // len(blocks(model.inner))


def _kept(scene: Scene, size: int) -> int:
    """Bytes that the graph of a batch holds on to, for an example."""
    own = {tensor.untyped_storage().data_ptr() for tensor in scene.potential.selection.tensors}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        nats = scene.potential.nats(np.arange(size) % len(scene.potential.data))
    del nats
    return math.ceil(sum(seen.values()) / size)


def logits(scene: Scene) -> int:
    """Bytes of the logits of an example; 0 for a loss without."""
    potential = scene.potential
    if not hasattr(potential.loss, "sampled"):
        return 0
    with torch.no_grad():
        answer = _answers(potential.model, potential.loss, potential.data.batch(np.arange(1), potential.device))
    return answer.logits.numel() * answer.logits.element_size()
