"""One pilot round of one chain: how stiff and how noisy the loss is where the chain stands, and how far it rises.

The unit that a calibration sends to processes; a pure function of its arguments.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from degrade import metric as metrics
from degrade.chain import TRACE, Leg, Plan, RunawayError, Scene, attempting
from degrade.curvature import Curvature
from degrade.noise import Key, normal_like
from degrade.preconditioners import PRECONDITIONERS
from degrade.samplers import SAMPLERS
from degrade.step_size import Found, bound, choose, hutchinson, look
from degrade.walk import Walk, walking

HALVINGS, GIVEN = 12, 8  # of a step that was found at a flat place, and of one that was given
PACES = {"full": (25, 80), "short": (20, 20), "brief": (8, 40)}
FORCES = 8
NEAR = 0.3
BOILING = 10.0


@dataclass(frozen=True)
class Settings:
    """What a calibration needs to know of the run.

    `ceiling` is the rise at which a chain counts as a runaway, `first_nbeta` where the search for the first target
    begins (None: what the quadratic basin says).
    """

    seed: int
    chains: int
    batch_size: int
    sampler: str
    preconditioner: str
    step_size: float | None
    ceiling: float
    first_nbeta: float | None = None


class Pilot(NamedTuple):
    """What one chain reports of one round, read from its second half.

    `excess` is the configurational temperature over 1 (nan where it was not asked for); `found` a look at the end of
    the round; `step_size` the step it ran with and `cut` the factor by which a runaway made it shorten that; `fault`
    says why it could not be run at any.
    """

    weights: list[Tensor]
    rise: float
    excess: float
    curvature: Curvature
    found: Found
    step_size: float
    cut: float
    fault: str = ""


@walking
def pilot(
    scene: Scene,
    settings: Settings,
    curvature: Curvature,
    nbeta: float,
    key: Key,
    weights: list[Tensor],
    earlier: list[Found],
    seen: float,
    pace: str,
) -> Walk[Pilot]:
    """Find the step, run, read rise and temperature of the second half, measure curvature and heat at the end.

    `earlier` are the looks of all chains after the round before, the chain's own first; where there are none the chain
    takes one of its own. `seen` is the heat that the temperature of that round told of. A round takes 3 memories and is
    read over 3 more, within bounds by its `pace`: "full" rounds tell of rise and heat, "short" ones warm up, and
    "brief" ones bring a chain to where the curvature is looked at; the temperature of those is measured only where the
    rise doubled.
    """
    metric, potential = bind(scene, settings, curvature, nbeta), scene.potential
    looks = earlier or [opening(scene, settings, curvature, nbeta, key, weights)]
    settings = replace(settings, sampler=choose(settings.sampler, looks, nbeta, seen))
    sampler = SAMPLERS[settings.sampler]
    step_size = settings.step_size or bound(looks, nbeta, sampler, seen).step_size
    leg, cut, fault, temperature = yield from _run(
        scene, settings, metric, nbeta, key, weights, step_size, looks[0].vector, pace
    )
    if fault:
        return Pilot(weights, math.nan, math.nan, curvature, looks[0], step_size, cut, fault)
    rise = float(leg.trace[len(leg.trace) // 2 :, TRACE.index("rise")].mean())
    found = look(potential, leg.weights, metric, nbeta, settings.batch_size, key, 1, looks[0].vector)
    place = potential.center if sampler.still else leg.weights
    seen_now = PRECONDITIONERS[settings.preconditioner].fit(potential, place, key, 1, curvature)
    return Pilot(leg.weights, rise, temperature - 1, seen_now, found, step_size * cut, cut)


def opening(
    scene: Scene, settings: Settings, curvature: Curvature, nbeta: float, key: Key, weights: list[Tensor]
) -> Found:
    """The first look of a run, where no chain has moved."""
    return look(scene.potential, weights, bind(scene, settings, curvature, nbeta), nbeta, settings.batch_size, key)


def _temperature(scene: Scene, leg: Leg, key: Key) -> float:
    """The configurational temperature of a round, by one probe of tr K at its end."""
    trace = hutchinson(scene.potential, leg.weights, leg.plan.metric, leg.plan.nbeta, key, len(leg.trace))
    return float(np.mean(leg.force)) / trace


def _climbed(leg: Leg) -> bool:
    """Whether a round at least doubled the rise: a chain that came in hot and moves little has not boiled."""
    rise = leg.trace[:, TRACE.index("rise")]
    return bool(rise[len(rise) // 2 :].mean() > 2 * rise[0])


def _run(
    scene: Scene,
    settings: Settings,
    metric: metrics.Metric,
    nbeta: float,
    key: Key,
    weights: list[Tensor],
    step_size: float,
    vector: list[Tensor],
    pace: str,
) -> Walk[tuple[Leg, float, str, float]]:
    memory = SAMPLERS[settings.sampler].memory / step_size
    steps = 2 * int(np.clip(3 * memory, *PACES[pace]))
    forces = np.linspace(steps, steps // 2, FORCES, endpoint=False).astype(int)
    for number in range(HALVINGS if settings.step_size is None else GIVEN):
        cut = 0.5**number
        plan = Plan(
            rung=key.rung, nbeta=nbeta, metric=metric, step_size=step_size * cut, bound="", steps=steps,
            burn_in=steps // 2, batch_size=settings.batch_size, sampler=settings.sampler,
            forces=tuple(sorted(forces.tolist())),
            tracked=settings.step_size is None and settings.batch_size >= len(scene.potential.data),
            vector=vector, ceiling=settings.ceiling,
        )  # fmt: skip
        try:
            leg = yield from attempting(scene, plan, key._replace(attempt=number), weights)
        except RunawayError as error:
            fault = str(error)
            continue
        temperature = math.nan if pace == "brief" and not _climbed(leg) else _temperature(scene, leg, key)
        if settings.step_size is not None or not (temperature >= BOILING and _climbed(leg)):
            return leg, cut, "", temperature
        fault = f"a round came to a configurational temperature of {temperature:.3g}"
    nothing = Leg(plan, key.chain, weights, np.empty((0, len(TRACE))), np.empty((0, 0)), np.empty(0))
    return nothing, cut, f"left its basin at every step size down to {step_size * cut:.2g}: {fault}", math.nan


def bind(scene: Scene, settings: Settings, curvature: Curvature, nbeta: float) -> metrics.Metric:
    """The metric of some curvature at one temperature."""
    potential = scene.potential
    batch = settings.batch_size if settings.batch_size < len(potential.data) else math.inf
    p = PRECONDITIONERS[settings.preconditioner].scale(curvature, nbeta, potential.precision, batch)
    return metrics.build(p, curvature, potential.precision, nbeta, batch, potential.selection.masks)


def first_look(scene: Scene, settings: Settings) -> Curvature:
    """Curvature near w*, at weights moved by 0.3 s: at w* itself saturated directions look flat."""
    potential = scene.potential
    key = Key(settings.seed, "calibration")
    noise = normal_like(key, "pilot", 0, potential.center)
    near = [c + NEAR * s**-0.5 * x for c, s, x in zip(potential.center, potential.precision, noise, strict=True)]
    return PRECONDITIONERS[settings.preconditioner].fit(potential, near, key, 0, None)
