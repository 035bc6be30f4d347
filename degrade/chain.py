"""One chain at one rung: blocks of steps under guard, means from every step, fixed-set losses at set times.

A leg is a pure function of (potential, plan, key, starting weights): the unit that processes run and runs resume by.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from degrade.metric import Metric
from degrade.noise import Key, Tensors, batch_index
from degrade.potential import FixedSet, Potential, calibrated_loss, example_nats
from degrade.samplers import SAMPLERS, Target
from degrade.step_size import AGAIN, hutchinson, sharpest
from degrade.walk import Walk, walking

if TYPE_CHECKING:
    from degrade.shelf import Shelf

BLOCK = 25
TRACKED, CLOSELY = 8, 1  # blocks between looks at the curvature, by minibatches and by all data
SLACK = 2.0  # one batch's curvature is noisy: below twice the bound a step is left as it is
RESTARTS = 6
CLIMBED = 1.5  # times the energy at entry, of which one minibatch tells


@dataclass(frozen=True)
class Plan:
    """What a rung asks of each chain.

    `evaluate`, `keep` and `forces` are step numbers after which to measure losses, keep the weights, and measure the
    force of the configurational temperature; keep ⊂ evaluate. A `tracked` step follows the curvature: on all data
    closely, and there the force, which costs nothing, is measured at each step after burn-in.
    """

    rung: int
    nbeta: float
    metric: Metric
    step_size: float
    bound: str
    steps: int
    burn_in: int
    batch_size: int
    sampler: str
    evaluate: tuple[int, ...] = ()
    keep: tuple[int, ...] = ()
    forces: tuple[int, ...] = ()
    vector: list[Tensor] | None = None
    tracked: bool = True
    ceiling: float = math.inf


class Kept(NamedTuple):
    """A draw as a chain hands it over; `trace` is zᵀ K z at its weights for one random sign vector z."""

    step: int
    weights: Sequence[Tensor] | None
    heldout_rise: float
    calibrated_rise: float
    trace: float
    observed: list[Any]


@dataclass
class Leg:
    """What a chain brings back from a rung.

    `trace` has a row a step: rise, plain virial, weighted virial, prior fraction, step size; `losses` a row an
    evaluation: nats of each example of the fixed set; `force` a number each time it was measured: ∇Uᵀ P ∇U from two
    independent minibatches.
    """

    plan: Plan
    chain: int
    weights: list[Tensor]
    trace: np.ndarray
    losses: np.ndarray
    force: np.ndarray
    kept: list[Kept] = field(default_factory=list)
    restarts: int = 0
    fault: str = ""


@dataclass(frozen=True)
class Scene:
    """What a worker holds: the potential, the fixed sets, and the observers to call on `model` at each draw.

    `model` is the user's; the potential may run the same parameters through a leaner module. Draws go to the `shelf` if
    there is one.
    """

    potential: Potential
    evaluation: FixedSet
    heldout: FixedSet | None = None
    observe: tuple[Any, ...] = ()
    keep_weights: bool = True
    model_key: str = ""
    model: nn.Module | None = None
    shelf: "Shelf | None" = None


TRACE = ("rise", "virial", "weighted_virial", "prior_fraction", "step_size")


class RunawayError(Exception):
    """A chain left for good: not finite, or far above any equilibrium."""


@walking
def advance(scene: Scene, plan: Plan, key: Key, weights: list[Tensor]) -> Walk[Leg]:
    """Run one chain through one rung; a runaway halves the step and starts the rung again from where it entered.

    The attempts are counted in the leg; after six the leg carries the fault and no draws.
    """
    for number in range(RESTARTS):
        trial = replace(plan, step_size=plan.step_size * 0.5**number)
        try:
            leg = yield from attempting(scene, trial, key._replace(attempt=number), weights)
        except RunawayError as fault:
            reason = str(fault)
            continue
        leg.restarts = number
        return leg
    width = len(scene.evaluation.baseline)
    nothing = np.empty((0, len(TRACE))), np.empty((0, width)), np.empty(0)
    return Leg(plan, key.chain, weights, *nothing, [], RESTARTS, reason)


def attempting(scene: Scene, plan: Plan, key: Key, weights: list[Tensor]) -> Walk[Leg]:
    """Run one chain through one rung.

    Raises:
        RunawayError: if a block of steps is not finite or out of any equilibrium's reach.
    """
    sampler = SAMPLERS[plan.sampler]
    rows: list[Tensor] = []
    losses: list[np.ndarray] = []
    force: list[Tensor] = []
    kept: list[Kept] = []
    step_size, vector, calm = plan.step_size, plan.vector, math.inf
    state, update = sampler.init(weights, plan.metric, step_size, key), sampler.update
    closely = plan.tracked and not _noisy(plan, scene.potential)
    every, slack, rounds = (CLOSELY, 1.0, 1) if closely else (TRACKED, SLACK, AGAIN)
    if sampler.asks:
        update = partial(update, target=Target(scene.potential.center, partial(scene.potential.energy, plan.nbeta)))
    for start in range(0, plan.steps, BLOCK):
        if plan.tracked and start and start % (every * BLOCK) == 0:
            own = _apart(state.weights)
            stiff, vector = sharpest(
                scene.potential, own, plan.metric, plan.nbeta, key, start, vector, plan.batch_size, rounds
            )
            step_size = min(step_size, slack * sampler.stability / stiff)
            state = sampler.resize(state._replace(weights=own), plan.metric, step_size)
        for step in range(start, min(start + BLOCK, plan.steps)):
            row, gradient = yield from _measured(scene.potential, plan, key, step, state.weights)
            rows.append(row)
            if step + 1 in plan.forces or (closely and step >= plan.burn_in):
                force.append(_force(scene.potential, plan, key, step, state.weights, gradient))
            state = update(state, gradient, key)
            del gradient  # its memory may be the new weights', which move into the model
            if not sampler.asks:  # a target places weights of its own while the chain's are needed
                state = state._replace(weights=scene.potential.settled(state.weights))
            if step + 1 in plan.evaluate:
                losses.append(_evaluate(scene, state.weights))
            if step + 1 in plan.keep:
                state = state._replace(weights=_apart(state.weights))
                kept.append(_keep(scene, plan, key, step + 1, state.weights))
        rows[start:] = [torch.cat([r, r.new_tensor([step_size])]) for r in rows[start:]]
        calm = _guard(torch.stack(rows[start:]), calm, plan, scene.potential)
    trace = torch.stack(rows).double().cpu().numpy()
    width = len(scene.evaluation.baseline)
    forces = np.array([float(value) for value in force])
    return Leg(plan, key.chain, _apart(state.weights), trace, np.array(losses).reshape(-1, width), forces, kept)


attempt = walking(attempting)


def _apart(weights: Tensors) -> list[Tensor]:
    """Weights of their own: those that stand in the model would change with what is placed there."""
    return [weight.clone() for weight in weights]


def _noisy(plan: Plan, potential: Potential) -> bool:
    """Whether gradients are of minibatches."""
    return plan.batch_size < len(potential.data)


def _force(potential: Potential, plan: Plan, key: Key, step: int, weights: Tensors, gradient: Tensors) -> Tensor:
    """∇Uᵀ P ∇U from the step's own minibatch and a second, independent one: noise has no square in it."""
    if not _noisy(plan, potential):
        return plan.metric.product(gradient, gradient)
    index = batch_index(key, "second", step, len(potential.data), plan.batch_size)
    other = potential.gradient(weights, index)[1]
    for part in plan.metric.slabs:
        pull = torch._foreach_mul(torch._foreach_sub(weights[part], potential.center[part]), potential.precision[part])
        torch._foreach_add_(pull, other[part], alpha=plan.nbeta)
        other[part] = pull
    return plan.metric.product(other, gradient)


def _measured(
    potential: Potential, plan: Plan, key: Key, step: int, weights: list[Tensor]
) -> Walk[tuple[Tensor, Tensors]]:
    """Minibatch averages at the weights before the step, and ∇U there.

    The batch is independent of the weights, so products with its gradient average to the exact ones.
    """
    index = batch_index(key, "batch", step, len(potential.data), plan.batch_size)
    rise, answered = yield weights, index
    gradient, answered[:] = list(answered), []  # who answered is left with no tensor
    sums = []
    for part in plan.metric.slabs:
        moved = torch._foreach_sub(weights[part], potential.center[part])
        total = torch._foreach_mul(moved, potential.precision[part])
        prior = _dot(moved, total)
        torch._foreach_add_(total, gradient[part], alpha=plan.nbeta)
        torch._foreach_mul_(moved, total)  # the work of each scalar
        sums.append(torch.stack([_sum(moved), _dot(moved, plan.metric.weight[part]), prior]))
        gradient[part] = total
    virial, weighted, prior = torch.stack(sums).sum(0)
    count = potential.selection.count
    return torch.stack([rise, virial / count, weighted / plan.metric.total, prior / count]), gradient


def _sum(tensors: Tensors) -> Tensor:
    return torch.stack([x.sum() for x in tensors]).sum()


def _dot(one: Iterable[Tensor], two: Iterable[Tensor]) -> Tensor:
    return torch.stack([torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(one, two, strict=True)]).sum()


def _guard(rows: Tensor, calm: float, plan: Plan, potential: Potential) -> float:
    """Stop a chain that is not finite, or whose block mean is out of any equilibrium's reach; else its calmest energy.

    U − U(w*) is about d/2 in a quadratic basin and at most d in any convex homogeneous one of degree ≥ 1; the rise of
    a degraded law is below that of prior draws. A chain that enters from a much hotter law is above that at first, and
    has run away only if it climbs: `calm` is its lowest block mean so far, before the first block the energy at entry.
    """
    count = potential.selection.count
    (rise, _, _, prior, _), (first, _, _, spread, _) = rows.mean(0).tolist(), rows[0].tolist()
    energy, entered = (plan.nbeta * r + s * count / 2 for r, s in ((rise, prior), (first, spread)))
    if not math.isfinite(energy):
        raise RunawayError("the loss or the weights became non-finite")
    calm = entered if calm == math.inf else calm
    if energy > max(2 * count + 20, CLIMBED * calm) or rise > plan.ceiling:
        raise RunawayError(f"a block of steps reached a mean rise of {rise:.3g} nats and U - U(w*) = {energy:.3g}")
    return min(energy, calm)


@torch.no_grad()
def _evaluate(scene: Scene, weights: list[Tensor]) -> np.ndarray:
    potential = scene.potential
    potential.selection.place(weights)
    nats, _ = example_nats(potential.model, potential.loss, scene.evaluation.data, potential.device)
    return nats.cpu().numpy()


def _keep(scene: Scene, plan: Plan, key: Key, step: int, weights: list[Tensor]) -> Kept:
    potential = scene.potential
    trace = hutchinson(potential, weights, plan.metric, plan.nbeta, key, step)
    potential.selection.place(weights)
    held = math.nan
    if scene.heldout is not None:
        held = scene.heldout.rises(
            example_nats(potential.model, potential.loss, scene.heldout.data, potential.device)[0].cpu()
        )
    loss = calibrated_loss(potential.model, potential.loss, scene.evaluation.data, potential.device)
    observed = [observer(scene.model or potential.model) for observer in scene.observe]
    stored: Sequence[Tensor] | None = [w.cpu() for w in weights] if scene.keep_weights else None
    if stored and scene.shelf:
        stored = scene.shelf.put(list(stored), plan.rung, key.chain, key.turn, step)
    return Kept(step, stored, held, loss - scene.evaluation.calibrated, trace, observed)
