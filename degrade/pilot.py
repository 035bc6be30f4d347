"""One pilot round of one chain: how stiff and how noisy the loss is where the chain stands, and how far it rises.

The unit that a calibration sends to processes; a pure function of its arguments.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from degrade import metric as metrics
from degrade.chain import TRACE, Leg, Plan, RunawayError, Scene, attempt
from degrade.curvature import Curvature, estimate
from degrade.noise import Key, normal_like
from degrade.preconditioners import PRECONDITIONERS
from degrade.samplers import SAMPLERS
from degrade.step_size import Found, bound, look

HALVINGS = 8
SHORT, SHORTEST, LONGEST = 40, 80, 150
NEAR = 0.3


@dataclass(frozen=True)
class Settings:
    """What a calibration needs to know of the run; `ceiling` is the rise at which a chain counts as a runaway."""

    seed: int
    chains: int
    batch_size: int
    sampler: str
    preconditioner: str
    step_size: float | None
    ceiling: float


class Pilot(NamedTuple):
    """What one chain reports of one round; `cut` is the factor by which a runaway made it shorten its step."""

    weights: list[Tensor]
    rise: float
    curvature: Curvature
    found: Found
    cut: float


def pilot(
    scene: Scene,
    settings: Settings,
    curvature: Curvature,
    nbeta: float,
    key: Key,
    weights: list[Tensor],
    earlier: list[Found],
    short: bool,
) -> Pilot:
    """Find the step, run, read the rise of the second half, measure the curvature at the end.

    `earlier` are the looks of all chains before this round, the chain's own last one first: one look at the heating is
    too noisy to step by, and the rise must be read at the step that draws will be taken with.

    Raises:
        RuntimeError: if the chain runs away at every step size.
    """
    metric = bind(scene, settings, curvature, nbeta)
    vector = earlier[0].vector if earlier else None
    found = look(scene.potential, weights, metric, nbeta, settings.batch_size, key, vector)
    leg, cut = _run(scene, settings, metric, nbeta, key, weights, [found, *earlier], short)
    rise = float(leg.trace[len(leg.trace) // 2 :, TRACE.index("rise")].mean())
    return Pilot(leg.weights, rise, estimate(scene.potential, leg.weights, key, 1), found, cut)


def _run(
    scene: Scene,
    settings: Settings,
    metric: metrics.Metric,
    nbeta: float,
    key: Key,
    weights: list[Tensor],
    found: list[Found],
    short: bool,
) -> tuple[Leg, float]:
    sampler = SAMPLERS[settings.sampler]
    step_size = settings.step_size or bound(found, sampler).step_size
    steps = SHORT if short else 2 * int(np.clip(1.5 * sampler.memory / step_size, SHORTEST, LONGEST))
    for number in range(HALVINGS):
        cut = 0.5**number
        plan = Plan(
            rung=key.rung, nbeta=nbeta, metric=metric, step_size=step_size * cut, bound="", steps=steps, burn_in=0,
            batch_size=settings.batch_size, sampler=settings.sampler, tracked=False, ceiling=settings.ceiling,
        )  # fmt: skip
        try:
            return attempt(scene, plan, key._replace(attempt=number), weights), cut
        except RunawayError:
            continue
    raise RuntimeError(
        f"a pilot chain at nbeta={nbeta:.3g} left its basin at every step size down to {step_size * cut:.2g}; expected"
        " a model near a minimum of this loss: check that it is trained, or give a smaller width"
    )


def bind(scene: Scene, settings: Settings, curvature: Curvature, nbeta: float) -> metrics.Metric:
    """The metric of some curvature at one temperature."""
    potential = scene.potential
    p = PRECONDITIONERS[settings.preconditioner](curvature, nbeta, potential.precision)
    batch = settings.batch_size if settings.batch_size < len(potential.data) else math.inf
    return metrics.build(p, curvature, potential.precision, nbeta, batch, potential.selection.masks)


def first_look(scene: Scene, seed: int) -> Curvature:
    """Curvature near w*, at weights moved by 0.3 s: at w* itself saturated directions look flat."""
    potential = scene.potential
    key = Key(seed, "calibration")
    noise = normal_like(key, "pilot", 0, potential.center)
    near = [c + NEAR * s**-0.5 * x for c, s, x in zip(potential.center, potential.precision, noise, strict=True)]
    return estimate(potential, near, key, 0)
