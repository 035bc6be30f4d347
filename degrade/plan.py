"""What a ladder would take, before it is climbed: rungs, chains, gradients, time and memory.

A few gradients, a forward pass and two steps are timed at w*, and multiplied by how often a climb does each. A gradient
of m examples is taken to cost a + b m, from two sizes. How long chains remember is not known before they have run, so
that steps have a range unless they are given: from the fewest a rung is content with to all of its budget; time is told
for the range, and for the middle of it (on the log axis).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from degrade import build, climb, memory, pilot, schedule, step_size, temperature
from degrade.batched import batched
from degrade.chain import BLOCK, TRACKED
from degrade.compute import moved
from degrade.curvature import BATCHES, SIZE
from degrade.data import Examples
from degrade.engine import one_thread
from degrade.losses import Loss, next_token_loss
from degrade.memory import GIB
from degrade.parameters import lent, select
from degrade.request import Request
from degrade.scene import PRIOR_DRAWS, set_scene
from degrade.timing import SIZES, Costs, measured
from degrade.variate import controlled


@dataclass(frozen=True, eq=False)
class Planned:
    """A ladder that a study would climb: what `degrade.ladder` would be given, `workers` aside."""

    name: str
    model: nn.Module
    data: Any
    heldout: Any
    settings: dict[str, Any]
    loss: Loss = next_token_loss


class Counts(NamedTuple):
    """How often one chain does what at one rung.

    Attributes:
        drawn: Steps, burn-in included.
        steps: All steps, those of calibration and of the halved side step included.
        extra: Gradients of a minibatch beside those.
        stiff: Gradients of 128 examples.
        small: Gradients of 8 examples.
        fixed: Passes over the fixed evaluation set.
        heldout: Passes over the held-out set.
    """

    drawn: float
    steps: float
    extra: float
    stiff: float
    small: float
    fixed: float
    heldout: float

    @property
    def gradients(self) -> float:
        """All gradients."""
        return self.steps + self.extra + self.stiff + self.small


@dataclass(frozen=True)
class Estimate:
    """What a ladder would take.

    Attributes:
        name: The ladder.
        rungs: Their number.
        chains: Their number.
        steps: Fewest and most of a chain at a rung, burn-in included.
        gradients: Fewest and most of all chains at all rungs.
        unit: Seconds of one chain at one rung on one core: fewest and most.
        before: Seconds before the first rung: losses at w*, and the reachable rise.
        memory: Bytes of one process at its peak.
        kept: Bytes of all draws that are kept: on disk if the ladder has a directory, or they are many.
        sampled: Number of sampled scalars.
        at_once: Chains of one unit of work.
    """

    name: str
    rungs: int
    chains: int
    steps: tuple[int, int]
    gradients: tuple[float, float]
    unit: tuple[float, float]
    before: float
    memory: int
    kept: int
    sampled: int
    at_once: int = 1

    def seconds(self, workers: int) -> tuple[float, float]:
        """Fewest and most, with some processes: chains run beside one another, rungs one behind the other.

        What chains that take their steps together save is not counted.
        """
        units = math.ceil(self.chains / self.at_once)
        turns = self.rungs * min(math.ceil(units / workers) * self.at_once, self.chains)
        fewest, most = (self.before + turns * unit for unit in self.unit)
        return fewest, most


def estimate(planned: Planned) -> Estimate:
    """Time a few gradients of a ladder at w*, and count.

    Raises:
        ValueError: as `degrade.ladder` does, for settings that do not fit together.
    """
    request = Request.of(**planned.settings)
    selection = select(planned.model, None)
    data, held = Examples(planned.data), 0 if planned.heldout is None else len(Examples(planned.heldout))
    with moved(planned.model, request.device), lent(planned.model, selection), one_thread():
        few = Examples(data.batch(np.arange(min(len(data), SIZES[0][1]))))
        some = request.model_copy(update={"evaluation": len(few)})
        scene = set_scene(planned.model, selection, few.source, planned.loss, some, None, (), False)
        batch = request.batch_size or build.usual_batch(replace(scene.potential, data=data), request.sampler)
        tried = len(few) if batch >= len(data) else min(batch, len(few) - 1)
        scene = batched(controlled(scene, request.control_variate), request.together, tried)
        costs = measured(scene, request, batch >= len(data))
    rungs, fixed = len(request.rises or request.nbetas or []), min(request.evaluation, len(data))
    fewest, most = (counted(request, batch < len(data), long) for long in (False, True))
    passes = len(data) + held + (PRIOR_DRAWS + 1) * fixed
    return Estimate(
        name=planned.name,
        rungs=rungs,
        chains=request.chains,
        steps=(int(fewest.drawn), int(most.drawn)),
        gradients=(fewest.gradients * rungs * request.chains, most.gradients * rungs * request.chains),
        unit=(
            _seconds(costs, fewest, batch, len(data), fixed, held),
            _seconds(costs, most, batch, len(data), fixed, held),
        ),
        before=passes * costs.forward + 2 * BATCHES * costs.gradient(SIZE),
        memory=memory.peak(
            costs.weights,
            costs.held,
            costs.logits,
            memory.at_once(batch, len(data), request.micro_batch, request.together),
            fixed,
            request.cool * rungs,
            request.chains,
        ),
        kept=rungs * request.chains * request.draws * costs.weights * (request.keep == "weights"),
        sampled=selection.count,
        at_once=request.together,
    )


def counted(request: Request, noisy: bool, long: bool) -> Counts:
    """How often a chain does what at a rung, at the least or at the most.

    Args:
        request: The settings.
        noisy: Whether minibatches are less than all data, so that their noise is looked at.
        long: At the most: all rounds, each as long as it can be, and all of the budget.
    """
    rungs = len(request.rises or request.nbetas or [])
    brief = not noisy and request.rises is None  # see `temperature.visit`
    rounds = 1 if brief else temperature.ROUNDS if long else 2
    warm = ((temperature.MEMORY - 1) * long if brief else temperature.WARM_UPS * (3 if long else 1)) / rungs
    length, warming = (2 * pilot.PACES["brief" if brief else pace][long] for pace in ("full", "short"))
    burn_in, steps = climb._lengths(math.inf if long else 0.0, request)
    drawn = max(steps, climb._budget(request)) if long else steps
    checked = noisy or request.step_size is not None
    halved = checked * float(np.clip((steps - burn_in) // 3, *climb.CHECK))
    looks = max(schedule.LOOKS, request.draws)
    pairs = 4 * step_size.PAIRS if noisy else 0
    return Counts(
        drawn=drawn,
        steps=rounds * length + warm * warming + drawn + halved,
        extra=(rounds + warm) * (pilot.FORCES + pairs) + pairs / rungs + looks * drawn / steps,
        stiff=(rounds + warm) * (2 * step_size.AGAIN + 2) + 2 * step_size.FIRST / rungs
        + 2 * request.draws * drawn / steps + 2 * step_size.AGAIN * (drawn // (TRACKED * BLOCK)),
        small=(rounds + warm) * 2 * BATCHES,
        fixed=(looks + request.draws) * drawn / steps,
        heldout=request.draws * drawn / steps,
    )  # fmt: skip


def lines(planned: Sequence[Planned], workers: int) -> list[str]:
    """What some ladders would take, in words; what does not fit into memory is said, with the cure."""
    told = []
    for one in planned:
        found = estimate(one)
        told += [
            f"ladder {one.name}: {_size(found)}",
            f"  time: {_times(found, workers)}",
            f"  memory: {_room(found, workers)}",
        ]
    return told


def _size(found: Estimate) -> str:
    steps, gradients = (_range(f"{low:,.0f}", f"{high:,.0f}") for low, high in (found.steps, found.gradients))
    return (
        f"{found.rungs} rungs × {found.chains} chains of {found.sampled:,} weights; {steps} steps of a chain at a rung,"
        f" {gradients} gradients in all"
    )


def _times(found: Estimate, workers: int) -> str:
    low, high = found.seconds(workers)
    unit = _range(*(_spoken(seconds) for seconds in found.unit))
    return (
        f"about {_spoken(math.sqrt(low * high))} ({_range(_spoken(low), _spoken(high))}) with workers={workers}, as"
        f" fast as this machine is now; a chain at a rung takes {unit}; probes and figures come on top"
    )


def _room(found: Estimate, workers: int) -> str:
    whole, free = found.memory * workers, memory.free()
    said = (
        f"about {whole / GIB:.2g} GiB: {found.memory / GIB:.2g} for each of {workers} processes; on disk"
        f" {found.kept / GIB:.2g} GiB for the weights of the draws"
    )
    if whole <= free:
        return said
    return (
        f"{said}. That is more than the {free / GIB:.2g} GiB that are free: expected less; take fewer workers or"
        " chains (in all, or at once), a smaller context or micro_batch, or checkpointing"
    )


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _spoken(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> _spoken(0.25), _spoken(90), _spoken(7200)
    ('0.25 s', '90 s', '2 h')
    """
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 7200 else f"{seconds / 3600:.2g} h"


def _seconds(costs: Costs, counts: Counts, batch: int, examples: int, fixed: int, heldout: int) -> float:
    """Seconds of one chain at one rung."""
    gradients = (
        (counts.steps + counts.extra) * costs.gradient(batch)
        + counts.stiff * costs.gradient(min(step_size.BATCH, examples))
        + counts.small * costs.gradient(SIZE)
    )
    return gradients + counts.steps * costs.step + (counts.fixed * fixed + counts.heldout * heldout) * costs.forward
