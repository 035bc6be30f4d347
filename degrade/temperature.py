"""The temperature of each rung: two chains heated together from w*, nβ corrected by log–log Newton, then frozen.

    ln nβ ← ln nβ + ln(E / E*) / κ,     κ = −d ln E / d ln nβ

E falls strictly in nβ (dE/dnβ = −Var), so the root is unique wherever the law is ergodic; the fixed point does not
depend on κ, which is read off the rounds before (½ at first, within [0.3, 1]). A rung's nβ is the mean, in ln nβ, of
what its last two rounds imply.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from degrade.chain import Scene
from degrade.curvature import Curvature, average, expected_rise
from degrade.engine import Engine
from degrade.noise import Key
from degrade.pilot import Pilot, Settings, first_look, pilot
from degrade.samplers import SAMPLERS
from degrade.step_size import Bound, Found, bound

PILOTS = 2
ROUNDS = 3
WARM_UPS = 4
CLOSE = 0.03
MEMORY = 3


@dataclass(frozen=True)
class Rung:
    """A calibrated rung: its inverse temperature, the curvature where its chains are, and the step found there."""

    target: float
    nbeta: float
    curvature: Curvature
    bound: Bound
    vector: list[Tensor]


@dataclass
class Climb:
    """The state of a calibration: where the chains are, what is known of the curvature there, and (nβ, E) so far."""

    engine: Engine
    scene: Scene
    settings: Settings
    states: list[list[Tensor]]
    memory: list[Curvature]
    looks: list[Found] = field(default_factory=list)
    history: list[tuple[float, float]] = field(default_factory=list)
    rounds: int = 0

    def round(self, rung: int, nbeta: float, short: bool = False) -> tuple[float, list[Pilot]]:
        """Run all chains one round at one temperature; returns the mean rise and what each chain reports."""
        self.rounds += 1
        curvature = average(self.memory)
        futures = [
            self.engine.submit(
                pilot, self.settings, curvature, nbeta, self._key(rung, chain), state, self._earlier(chain), short
            )
            for chain, state in enumerate(self.states)
        ]
        pilots: list[Pilot] = [future.result() for future in futures]
        self.states = [p.weights for p in pilots]
        self.looks = [p.found for p in pilots]
        known = [] if self.rounds == 1 else self.memory
        self.memory = [*known, average([p.curvature for p in pilots])][-MEMORY:]
        rise = sum(p.rise for p in pilots) / len(pilots)
        self.history.append((nbeta, rise))
        return rise, pilots

    def _earlier(self, chain: int) -> list[Found]:
        """The looks of the round before, the chain's own first."""
        return [*self.looks[chain : chain + 1], *self.looks[:chain], *self.looks[chain + 1 :]]

    def _key(self, rung: int, chain: int) -> Key:
        return Key(self.settings.seed, "calibration", rung, chain, turn=self.rounds)

    def slope(self) -> float:
        """κ between the last two settled temperatures, within [0.3, 1]."""
        (b1, e1), (b0, e0) = self.history[-1], next(
            (past for past in reversed(self.history[:-1]) if abs(math.log(past[0] / self.history[-1][0])) > 0.3),
            (math.nan, math.nan),
        )  # fmt: skip
        if not (e0 > 0 and e1 > 0):
            return 0.5
        return float(np.clip(-math.log(e1 / e0) / math.log(b1 / b0), 0.3, 1.0))

    def settle(self, target: float, nbeta: float, pilots: list[Pilot]) -> Rung:
        """Freeze a rung with the step that its last looks allow."""
        allowed = bound([p.found for p in pilots], SAMPLERS[self.settings.sampler])
        step_size = allowed.step_size * min(p.cut for p in pilots)
        return Rung(target, nbeta, average(self.memory), Bound(step_size, allowed.name), pilots[-1].found.vector)


def calibrate(
    engine: Engine,
    scene: Scene,
    settings: Settings,
    targets: list[float] | None,
    nbetas: list[float] | None,
    done: Callable[[Rung], Any] = lambda rung: None,
) -> list[Rung]:
    """Climb the ladder once with two chains together and freeze the temperature, curvature and step of each rung."""
    first = first_look(scene, settings.seed)
    chains = min(PILOTS, settings.chains)
    climb = Climb(engine, scene, settings, [scene.potential.center] * chains, [first])
    rungs: list[Rung] = []
    for number in range(len(targets or nbetas or [])):
        if targets is None:
            rung = _visit(climb, number + 1, (nbetas or [])[number])
        else:
            rung = _aim(climb, number + 1, targets[number], rungs, first)
        rungs.append(rung)
        done(rung)
    return rungs


def _visit(climb: Climb, number: int, nbeta: float) -> Rung:
    if number == 1:
        for _ in range(WARM_UPS):
            climb.round(number, nbeta, short=True)
    seen = [climb.round(number, nbeta)[1] for _ in range(2)]
    return climb.settle(math.nan, nbeta, sum(seen, []))


def _aim(climb: Climb, number: int, target: float, rungs: list[Rung], first: Curvature) -> Rung:
    nbeta = _guess(climb, target, rungs, first)
    if number == 1:
        nbeta = _warm_up(climb, target, nbeta)
    seen: list[list[Pilot]] = []
    implied: list[float] = []
    for turn in range(ROUNDS):
        rise, pilots = climb.round(number, nbeta)
        seen.append(pilots)
        error = math.log(max(rise, 1e-3 * target) / target)
        implied.append(math.log(nbeta) + float(np.clip(error / climb.slope(), -1.0, 1.0)))
        if abs(error) < CLOSE and turn > 0:
            break
        nbeta = math.exp(implied[-1])
    return climb.settle(target, math.exp(sum(implied[-2:]) / len(implied[-2:])), sum(seen[-2:], []))


def _warm_up(climb: Climb, target: float, nbeta: float) -> float:
    """Short rounds from w*, to learn the curvature where chains go; the guess is far too cold: heat in big strides."""
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

    def excess(log: float) -> float:
        return math.log(expected_rise(first, precision, math.exp(log)) / target)

    low, high = math.log(1e-3 / target), math.log(1e12 / target)
    return math.exp(brentq(excess, low, high)) if excess(low) > 0 > excess(high) else 1 / target
