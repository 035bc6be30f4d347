"""The temperature of a rung: all chains run short rounds together, nβ is corrected by log–log Newton, then frozen.

    ln nβ ← ln nβ + ln(E / E*) / κ,     κ = −d ln E / d ln nβ

E falls strictly in nβ (dE/dnβ = −Var), so the root is unique wherever the law is ergodic; the fixed point does not
depend on κ, which is read off the rounds before (½ at first, within [0.3, 1]). A rung's nβ is the mean, in ln nβ, of
what its last two rounds imply.

The same rounds settle the step: where the configurational temperature T_c exceeds 1 by more than the heating bound
allows, the bound's estimate was too low there (gradient noise is heavy-tailed) and the step is shortened in proportion.
While chains are still on their way up T_c is below 1 by about the share of the rise that is still missing (exactly so
in the directions of a quadratic that start at w*), so that E / T_c says sooner where the rise will settle.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from degrade.chain import Scene
from degrade.curvature import Curvature, average, expected_rise
from degrade.diagnostics import over_chains
from degrade.engine import Engine
from degrade.noise import Key
from degrade.pilot import Pilot, Settings, bind, opening, pilot
from degrade.samplers import SAMPLERS
from degrade.step_size import HEATING, Bound, Found, bound, choose, look
from degrade.walk import each

ROUNDS = 3
WARM_UPS = 4
CLOSE = 0.08
MEMORY = 3
TOO_HOT = 1.5
COLDEST = 0.1
SETTLED = 0.1
STRIDE = 1.0
EVEN = 0.1


@dataclass(frozen=True)
class Rung:
    """A calibrated rung: its inverse temperature, the curvature where its chains are, sampler and step found there."""

    number: int
    target: float
    nbeta: float
    curvature: Curvature
    sampler: str
    bound: Bound
    vector: list[Tensor]


@dataclass
class Ascent:
    """Where the chains are, what is known of the curvature there, and (nβ, E) so far.

    `states` and `faults` go by the chain's number; a chain with a fault takes no further part. The basin is `even` if
    the loss was stiff at w*, and as stiff where each chain ended the first round.
    """

    engine: Engine
    scene: Scene
    settings: Settings
    states: dict[int, list[Tensor]]
    memory: list[Curvature]
    faults: dict[int, str] = field(default_factory=dict)
    looks: dict[int, Found] = field(default_factory=dict)
    history: list[tuple[float, float]] = field(default_factory=list)
    rounds: int = 0
    seen: float = 0.0
    even: bool = False

    @property
    def whole(self) -> bool:
        """Whether each batch is all the data."""
        return self.settings.batch_size >= len(self.scene.potential.data)

    def round(self, rung: int, nbeta: float, pace: str = "full") -> tuple[float, list[Pilot]]:
        """Run all chains one round at one temperature; returns where the rise tends to and what each chain reports."""
        self.rounds += 1
        curvature = average(self.memory)
        start = self._start(rung, nbeta, curvature)
        calls = [
            (self.settings, curvature, nbeta, self._key(rung, chain), state, self._earlier(chain) or start, self.seen,
             pace)
            for chain, state in self.states.items()
        ]  # fmt: skip
        pilots = dict(zip(self.states, each(self.engine, self.scene, pilot, calls), strict=True))
        self._drop({chain: p.fault for chain, p in pilots.items() if p.fault}, nbeta)
        pilots = {chain: p for chain, p in pilots.items() if not p.fault}
        self.states = {chain: p.weights for chain, p in pilots.items()}
        self.looks = {chain: p.found for chain, p in pilots.items()}
        known = [] if self.rounds == 1 else self.memory
        self.memory = [*known, average([p.curvature for p in pilots.values()])][-MEMORY:]
        excess = over_chains([p.excess for p in pilots.values()])
        surely = excess.mean + 2 * (excess.se if math.isfinite(excess.se) else abs(excess.mean) / 2)
        settled = 1.0 if math.isnan(surely) else float(np.clip(1 + surely, COLDEST, 1.0))
        rise = sum(p.rise for p in pilots.values()) / len(pilots) / settled
        self.seen = self._told(list(pilots.values()), nbeta)
        self.even = bool(start) and all(_alike(start[0], p.found) for p in pilots.values())
        self.history.append((nbeta, rise))
        return rise, list(pilots.values())

    def _start(self, rung: int, nbeta: float, curvature: Curvature) -> list[Found]:
        """On all data what every chain would see at w*, looked at once; minibatches are looked at by each chain."""
        if self.looks or not self.whole:
            return []
        chain, state = next(iter(self.states.items()))
        return [opening(self.scene, self.settings, curvature, nbeta, self._key(rung, chain), state)]

    def looked(self, rung: int, nbeta: float, pilots: list[Pilot]) -> list[Pilot]:
        """The pilots with one more look, where one of them ended, in the metric that they made together."""
        one, key = pilots[0], self._key(rung, next(iter(self.states)))
        metric = bind(self.scene, self.settings, average(self.memory), nbeta)
        batch = self.settings.batch_size
        found = look(self.scene.potential, one.weights, metric, nbeta, batch, key, 2, one.found.vector)
        return [p._replace(found=found) for p in pilots]

    def _told(self, pilots: list[Pilot], nbeta: float) -> float:
        """The heat, S / nβ, that a round's temperature told of: 0 unless it broke the bound.

        A round that cooled the chains is hot for another reason; on all data curvature tells all.
        """
        excess = over_chains([p.excess for p in pilots])
        surely = excess.mean - (excess.se if math.isfinite(excess.se) else 0.0)
        cooled = bool(self.history) and nbeta > self.history[-1][0]
        if self.whole or cooled or surely < TOO_HOT * HEATING:
            return 0.0
        return surely / nbeta / float(np.mean([p.step_size for p in pilots]))

    def _drop(self, faults: dict[int, str], nbeta: float) -> None:
        self.faults |= faults
        if len(faults) == len(self.states):
            given = self.settings.step_size
            cure = "give a smaller width" if given is None else f"leave the step to be found (step_size={given:g})"
            raise RuntimeError(
                f"at nbeta={nbeta:.3g} every chain {next(iter(faults.values()))}; expected a model near a minimum of"
                f" this loss: check that it is trained, or {cure}"
            )

    def _earlier(self, chain: int) -> list[Found]:
        """The looks of the round before, the chain's own first."""
        own = [self.looks[chain]] if chain in self.looks else []
        return own + [look for other, look in self.looks.items() if other != chain]

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

    def implied(self, nbeta: float, rise: float, target: float) -> float:
        """The ln nβ that a reading at nβ implies for the target."""
        error = math.log(max(rise, 1e-3 * target) / target)
        return math.log(nbeta) + float(np.clip(error / self.slope(), -1.0, 1.0))

    def settle(self, number: int, target: float, nbeta: float, pilots: list[Pilot]) -> Rung:
        """Freeze a rung with the step that the looks of its last rounds allow."""
        looks = [p.found for p in pilots]
        sampler = choose(self.settings.sampler, looks, nbeta, self.seen)
        allowed = bound(looks, nbeta, SAMPLERS[sampler], self.seen)
        step_size = self.settings.step_size or allowed.step_size * min(p.cut for p in pilots)
        name = "given" if self.settings.step_size else allowed.name
        return Rung(number, target, nbeta, average(self.memory), sampler, Bound(step_size, name), looks[-1].vector)


def _alike(one: Found, other: Found) -> bool:
    """Whether the loss is as stiff at one place as at the other, and not flat."""
    return not (one.flat or other.flat) and abs(other.sharpness / one.sharpness - 1) < EVEN


def visit(ascent: Ascent, number: int, nbeta: float) -> Rung:
    """Bring all chains to a given temperature, and learn the curvature there.

    On all data neither the temperature nor heating is sought: brief rounds that fill the memory are enough, and one
    where the basin is even.
    """
    if ascent.whole:
        for _ in range(MEMORY if number == 1 else 1):
            pilots = ascent.round(number, nbeta, "brief")[1]
            if ascent.even:
                pilots = ascent.looked(number, nbeta, pilots)
                break
        return ascent.settle(number, math.nan, nbeta, pilots)
    if number == 1:
        for _ in range(WARM_UPS):
            ascent.round(number, nbeta, "short")
    for turn in range(ROUNDS):
        pilots = ascent.round(number, nbeta)[1]
        if turn > 0 and not ascent.seen:
            break
    return ascent.settle(number, math.nan, nbeta, pilots)


def aim(ascent: Ascent, number: int, target: float, before: Rung | None) -> Rung:
    """Find the temperature of a target rise, and bring all chains to it.

    At most three rounds; two do where the second is close to the target at a step that keeps cool.
    """
    nbeta = _guess(ascent, target, before)
    if number == 1:
        nbeta = _warm_up(ascent, target, nbeta)
    implied: list[float] = []
    last: list[Pilot] = []
    for turn in range(ROUNDS):
        before_last = last
        rise, last = ascent.round(number, nbeta)
        implied.append(ascent.implied(nbeta, rise, target))
        if turn > 0 and not ascent.seen and abs(rise / target - 1) < CLOSE:
            break
        nbeta = math.exp(implied[-1])
    return ascent.settle(number, target, math.exp(sum(implied[-2:]) / len(implied[-2:])), before_last + last)


def _warm_up(ascent: Ascent, target: float, nbeta: float) -> float:
    """Short rounds from w*, to learn the curvature where chains go; the guess may be far off: heat or cool in strides.

    Chains that are hot are cooled in half strides. Remembered are the rises of rounds that had settled, and the last.
    """
    settled = []
    for _ in range(3 * WARM_UPS):
        rise, pilots = ascent.round(1, nbeta, "short")
        coldest = min(p.excess for p in pilots)
        calm = max(abs(p.excess) for p in pilots) < SETTLED
        settled += ascent.history[-1:] if calm else []
        missing = math.log(max(rise, 1e-3 * target) / target)
        if abs(missing) < 0.5 and coldest > COLDEST - 1:
            break
        nbeta *= math.exp(float(np.clip(missing / 0.7, -STRIDE, STRIDE if calm else STRIDE / 2)))
    ascent.history = settled if calm else [*settled, ascent.history[-1]]
    return nbeta


def _guess(ascent: Ascent, target: float, before: Rung | None) -> float:
    """From the rung before by the law E ∝ nβ^−κ; at first as was given, or from the quadratic basin.

    A basin that does not hold the target says nothing: 1 / E* is mostly too hot, and chains cool in the basin.
    """
    if before is not None:
        return before.nbeta * (before.target / target) ** (1 / ascent.slope())
    if ascent.settings.first_nbeta is not None:
        return ascent.settings.first_nbeta
    from scipy.optimize import brentq

    first, precision = ascent.memory[0], ascent.scene.potential.precision

    def excess(log: float) -> float:
        return math.log(expected_rise(first, precision, math.exp(log)) / target)

    low, high = math.log(1e-3 / target), math.log(1e12 / target)
    return math.exp(brentq(excess, low, high)) if excess(low) > 0 > excess(high) else 1 / target
