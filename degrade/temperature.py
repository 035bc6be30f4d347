"""The temperature of each rung: chains heated together from w*, nβ corrected by log–log Newton, then frozen.

    ln nβ ← ln nβ + ln(E / E*) / κ,     κ = −d ln E / d ln nβ

E falls strictly in nβ (dE/dnβ = −Var), so the root is unique wherever the law is ergodic; the fixed point does not
depend on κ, which is read off the rungs before (½ at first, within [0.3, 1]).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from degrade import metric as metrics
from degrade.chain import Plan, RunawayError, Scene, _attempt
from degrade.curvature import Curvature, average, estimate, expected_rise
from degrade.engine import Engine
from degrade.noise import Key, normal_like
from degrade.preconditioners import PRECONDITIONERS
from degrade.samplers import SAMPLERS
from degrade.step_size import Found, find

ROUNDS = 4
WARM_UPS = 4
CLOSE = 0.02
MEMORY = 3
SHORTEST, LONGEST = 40, 120


@dataclass(frozen=True)
class Settings:
    """What the calibration needs to know of the run."""

    seed: int
    chains: int
    batch_size: int
    sampler: str
    preconditioner: str
    step_size: float | None
    ceiling: float


class Pilot(NamedTuple):
    """What one chain reports of one round: where it is, its mean rise, the curvature there, and its step."""

    weights: list[Tensor]
    rise: float
    curvature: Curvature
    found: Found


@dataclass
class Rung:
    """A calibrated rung: its inverse temperature, curvature, step, and the pilot's own reading of it."""

    target: float
    nbeta: float
    curvature: Curvature
    found: Found
    history: list[tuple[float, float]] = field(default_factory=list)


def pilot(
    scene: Scene, settings: Settings, curvature: Curvature, nbeta: float, key: Key, weights: list[Tensor],
    vector: list[Tensor] | None, short: bool,
) -> Pilot:
    """One chain, one round: find the step, run, read the rise of the second half, measure the curvature there."""
    potential, sampler = scene.potential, SAMPLERS[settings.sampler]
    metric = bind(scene, settings, curvature, nbeta)
    found = find(potential, weights, metric, nbeta, sampler, key, 0, vector)
    step_size = settings.step_size or found.step_size
    steps = SHORTEST if short else 2 * int(np.clip(1.5 * sampler.memory / step_size, SHORTEST, LONGEST))
    for attempt in range(8):
        plan = Plan(
            key.rung, nbeta, metric, step_size * 0.5**attempt, found.bound, steps, steps // 2, settings.batch_size,
            settings.sampler, tracked=False, ceiling=settings.ceiling,
        )
        try:
            leg = _attempt(scene, plan, key._replace(attempt=key.attempt * 8 + attempt), weights)
        except RunawayError:
            continue
        rise = float(leg.trace[steps // 2 :, 0].mean())
        used = found._replace(step_size=float(leg.trace[-1, 4]))
        return Pilot(leg.weights, rise, estimate(potential, leg.weights, key, 1), used)
    raise RuntimeError(
        f"a pilot chain at nbeta={nbeta:.3g} left its basin at every step size down to {plan.step_size:.2g}; expected a"
        " model near a minimum of this loss: check that it is trained, or give a smaller width"
    )


def bind(scene: Scene, settings: Settings, curvature: Curvature, nbeta: float) -> metrics.Metric:
    """The metric of some curvature at one temperature."""
    potential = scene.potential
    p = PRECONDITIONERS[settings.preconditioner](curvature, nbeta, potential.precision)
    return metrics.build(
        p, curvature, potential.precision, nbeta, settings.batch_size, potential.selection.masks
    )


def first_look(scene: Scene, seed: int) -> Curvature:
    """Curvature near w*, at weights moved by 0.3 s: at w* itself saturated directions look flat."""
    potential = scene.potential
    key = Key(seed, "calibration")
    noise = normal_like(key, "pilot", 0, potential.center)
    near = [
        c + 0.3 * s**-0.5 * x for c, s, x in zip(potential.center, potential.precision, noise, strict=True)
    ]
    return estimate(potential, near, key, 0)


@dataclass
class Climb:
    """The state of a calibration: where the chains are and what is known of the curvature there."""

    engine: Engine
    scene: Scene
    settings: Settings
    states: list[list[Tensor]]
    memory: list[Curvature]
    vectors: list[list[Tensor] | None]
    history: list[tuple[float, float]] = field(default_factory=list)
    rounds: int = 0

    def round(self, rung: int, nbeta: float, short: bool = False) -> tuple[float, Found]:
        """Run all chains one round at one temperature; returns the mean rise and the most careful step."""
        self.rounds += 1
        curvature = average(self.memory)
        futures = [
            self.engine.submit(
                pilot, self.settings, curvature, nbeta,
                Key(self.settings.seed, "calibration", rung, chain, self.rounds), state, vector, short,
            )
            for chain, (state, vector) in enumerate(zip(self.states, self.vectors, strict=True))
        ]
        pilots = [future.result() for future in futures]
        self.states = [p.weights for p in pilots]
        self.vectors = [p.found.vector for p in pilots]
        known = [] if self.rounds == 1 else self.memory
        self.memory = [*known, average([p.curvature for p in pilots])][-MEMORY:]
        rise = sum(p.rise for p in pilots) / len(pilots)
        self.history.append((nbeta, rise))
        return rise, min((p.found for p in pilots), key=lambda found: found.step_size)

    def slope(self) -> float:
        """κ between the last two settled temperatures, within [0.3, 1]."""
        (b1, e1), (b0, e0) = self.history[-1], next(
            (past for past in reversed(self.history[:-1]) if abs(math.log(past[0] / self.history[-1][0])) > 0.3),
            (math.nan, math.nan),
        )
        if not (e0 > 0 and e1 > 0):
            return 0.5
        return float(np.clip(-math.log(e1 / e0) / math.log(b1 / b0), 0.3, 1.0))


def calibrate(
    engine: Engine,
    scene: Scene,
    settings: Settings,
    targets: list[float] | None,
    nbetas: list[float] | None,
    said: Callable[[str], None] = lambda text: None,
) -> list[Rung]:
    """Climb the ladder once with all chains together and freeze the temperature, curvature and step of each rung."""
    first = first_look(scene, settings.seed)
    climb = Climb(
        engine, scene, settings, [scene.potential.center] * settings.chains, [first], [None] * settings.chains
    )
    rungs: list[Rung] = []
    for number in range(len(targets or nbetas or [])):
        if targets is None:
            rung = _visit(climb, number + 1, (nbetas or [])[number])
        else:
            rung = _aim(climb, number + 1, targets[number], rungs, first)
        rungs.append(rung)
        said(f"rung {number + 1}: nbeta {rung.nbeta:.3g}, step {rung.found.step_size:.3g} ({rung.found.bound})")
    return rungs


def _visit(climb: Climb, number: int, nbeta: float) -> Rung:
    for turn in range(WARM_UPS if number == 1 else 2):
        _, found = climb.round(number, nbeta, short=number == 1 and turn < WARM_UPS - 1)
    return Rung(math.nan, nbeta, average(climb.memory), found, climb.history[-2:])


def _aim(climb: Climb, number: int, target: float, rungs: list[Rung], first: Curvature) -> Rung:
    nbeta = _guess(climb, target, rungs, first)
    if number == 1:
        nbeta = _warm_up(climb, target, nbeta)
    begun = len(climb.history)
    for _ in range(ROUNDS):
        rise, found = climb.round(number, nbeta)
        error = math.log(max(rise, 1e-3 * target) / target)
        nbeta *= math.exp(float(np.clip(error / climb.slope(), -1.0, 1.0)))
        if abs(error) < CLOSE:
            break
    return Rung(target, nbeta, average(climb.memory), found, climb.history[begun:])


def _warm_up(climb: Climb, target: float, nbeta: float) -> float:
    """Short rounds from w*, to learn the curvature where chains go; the guess is far too cold, so heat in big strides."""
    for _ in range(2 * WARM_UPS):
        rise, _ = climb.round(1, nbeta, short=True)
        if rise > 0.5 * target and climb.rounds >= WARM_UPS:
            break
        nbeta *= math.exp(float(np.clip(2 * math.log(max(rise, 1e-3 * target) / target), -1.2, 0.0)))
    climb.history = climb.history[-1:]
    return nbeta


def _guess(climb: Climb, target: float, rungs: list[Rung], first: Curvature) -> float:
    """From the rung before by the law E ∝ nβ^−κ; at first from the quadratic basin."""
    if rungs:
        return rungs[-1].nbeta * (rungs[-1].target / target) ** (1 / climb.slope())
    from scipy.optimize import brentq

    precision = climb.scene.potential.precision
    excess = lambda log: math.log(expected_rise(first, precision, math.exp(log)) / target)  # noqa: E731
    low, high = math.log(1e-3 / target), math.log(1e12 / target)
    return math.exp(brentq(excess, low, high)) if excess(low) > 0 > excess(high) else 1 / target
