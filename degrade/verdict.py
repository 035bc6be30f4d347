"""The verdict of a rung: `ok (heated only)`, `suspect` or `failed`, with the reason in words.

`ok` alone is reserved for ladders that were also cooled: a heated ladder can superheat silently through a jump.
"""

import math
from typing import NamedTuple

from degrade.cooling import Against
from degrade.diagnostics import ADDED, Estimate, Reading, correctable

MISSED, MISSED_BADLY = 0.05, 0.15
VIRIAL, VIRIAL_BAD = 0.05, 0.2
HOT, HOT_BAD = 0.1, 1.0
CORRECTED, ADDED_BADLY = 0.15, 0.4
RHAT, RHAT_BAD = 1.05, 1.3
ESS = 50
REACH = 0.8
DRIFT, DRIFT_P = 0.03, 0.01
REPEATED = 0.1
STRAYED, ERRORS = 0.05, 4
SLOW = 1e-3
NOISE = 0.1
BLIND = 0.2
VAGUE = 0.05

OK, HEATED = "ok", "ok (heated only)"


class Verdict(NamedTuple):
    """A word and its reason."""

    word: str
    reason: str


def judge(
    reading: Reading, target: float, reach: float, chains: int, faults: list[str], against: Against | None = None
) -> Verdict:
    """Judge a rung.

    Args:
        reading: what its chains say.
        target: the rise asked for, nats per unit (nan if nβ was given instead).
        reach: rise / E_max.
        chains: chains that were started.
        faults: what ended chains that did not finish.
        against: the same rung seen from above, if it was cooled.
    """
    bad = [f"{len(faults)} of {chains} chains did not finish ({faults[0]})"] if faults else []
    doubts: list[str] = []
    for grave, text in _findings(reading, target, reach) + _apart(reading, against):
        (bad if grave else doubts).append(text)
    if bad:
        return Verdict("failed", "; ".join(bad + doubts))
    if doubts:
        return Verdict("suspect", "; ".join(doubts))
    if against is None:
        return Verdict(HEATED, "all checks passed; not cooled, so a jump could be hidden")
    return Verdict(OK, "all checks passed, heated and cooled")


def _findings(reading: Reading, target: float, reach: float) -> list[tuple[bool, str]]:
    found: list[tuple[bool, str]] = []
    found += _missed(reading.rise, target)
    found += _mixing(reading)
    found += _temperature(reading)
    found += _heating(reading.heating, most_added(reading))
    found += _blind(reading.temperature.se, reading.heating.se)
    found += _batches(reading)
    if reach > REACH:
        found.append((False, f"the rise is {reach:.0%} of the neighbourhood's own: a larger width is needed"))
    if reading.rise.mean < 0:
        text = "the rise is negative: the trained weights are no minimum of this loss at this scale"
        found.append((False, f"{text}, and llc is below 0 by what leaving them gains (train further, or lower nbeta)"))
    return found


def _mixing(reading: Reading) -> list[tuple[bool, str]]:
    """Whether chains have filled the law; if not, and the step was given and is tiny, that is the cause."""
    low, heats = "flat directions are not yet filled: lengthen the burn-in", _source(reading)
    found = _virial("plain virial", reading.virial, low, heats)
    found += _virial("weighted virial", reading.weighted_virial, "stiff directions are not yet in equilibrium", heats)
    if not reading.rhat <= RHAT:
        found.append((not reading.rhat <= RHAT_BAD, f"R-hat {reading.rhat:.3f} above {RHAT}: chains disagree"))
    if not reading.ess >= ESS:
        found.append((False, f"effective sample size {reading.ess:.0f} below {ESS}: {_longer(reading.ess)}"))
    if vague(reading):
        share = reading.rise.se / abs(reading.rise.mean)
        found.append((False, f"the rise is known to {share:.0%} only: lengthen the rung, or take more chains"))
    if abs(reading.trend) > DRIFT * abs(reading.rise.mean) and reading.trend_p < DRIFT_P:
        found.append((False, f"the rise still drifts ({reading.trend:+.3g} nats between halves)"))
    if found and reading.bound == "given" and reading.pace < SLOW:
        text = f"the given step is {reading.pace:.1g} of what the curvature that the metric knows allows"
        found.append((False, f"{text}, too small for chains to get about in so few steps"))
    return found


def vague(reading: Reading) -> bool:
    """Whether the standard error of the rise alone leaves room for an error that counts."""
    return bool(reading.rise.se > VAGUE * abs(reading.rise.mean))


def _longer(size: float) -> str:
    """By how much a rung has to be lengthened for its effective sample size."""
    return f"lengthen the rung, to {ESS / size:.1f} times its steps or more" if size > 0 else "lengthen the rung"


def _batches(reading: Reading) -> list[tuple[bool, str]]:
    """Whether the batches were independent of each other and of the weights."""
    found: list[tuple[bool, str]] = []
    if reading.repeats > REPEATED:
        text = f"minibatches come again in the same order (their noise correlates by at least {reading.repeats:.2f})"
        found.append((False, f"{text}: means over steps and errors over chains are not what they seem"))
    gap, error = reading.surplus
    if gap > max(ERRORS * error, STRAYED * abs(reading.rise.mean)):
        text = f"the rise is {gap:.3g} nats larger on the fixed set than on the minibatches of the steps"
        found.append((False, f"{text}: chains have fitted the batches that they see"))
    return found


def _apart(reading: Reading, against: Against | None) -> list[tuple[bool, str]]:
    if against is None or against.rhat <= RHAT:
        return []
    up, down = reading.evaluation_rise.mean, against.rise.mean
    text = f"heated chains stand at {up:.3g} nats and cooled ones at {down:.3g} (pooled R-hat {against.rhat:.2f})"
    return [(against.rhat > RHAT_BAD, f"{text}: a jump between them, or a rung too short to come back")]


def _missed(rise: Estimate, target: float) -> list[tuple[bool, str]]:
    if math.isnan(target):
        return []
    gap, error = abs(rise.mean - target), rise.se if math.isfinite(rise.se) else 0.0
    if gap <= max(3 * error, MISSED * target):
        return []
    grave = gap > max(5 * error, MISSED_BADLY * target)
    return [(grave, f"rise {rise.mean:.3g} misses the target {target:.3g} by {gap / target:.0%}")]


def _virial(name: str, value: Estimate, low: str, heats: str) -> list[tuple[bool, str]]:
    error = 2 * value.se if math.isfinite(value.se) else 0.0
    off = value.mean - 1
    if abs(off) <= VIRIAL + min(error, VIRIAL):
        return []
    cause = low if off < 0 else f"the chain is hotter than asked, {heats} heats it: smaller steps or larger batches"
    return [(not abs(off) <= VIRIAL_BAD + error, f"{name} {value.mean:.3f}: {cause}")]


def most_added(reading: Reading) -> float:
    """The share of the rise that the step may add: more where λ is corrected for it, else it is an error of λ."""
    return CORRECTED if correctable(reading.bound, reading.noise) else ADDED


def _heating(value: Estimate, most: float) -> list[tuple[bool, str]]:
    error = 2 * value.se if math.isfinite(value.se) else 0.0
    if not value.mean > most + min(error, most):
        return []
    text = f"half the step lowers the rise so much that {value.mean:.0%} of it seem due to the step"
    return [(value.mean > ADDED_BADLY, f"{text}, too much for llc and nbeta_target to be trusted: smaller steps")]


def _blind(temperature: float, added: float) -> list[tuple[bool, str]]:
    """Both looks at what the step adds drown in minibatch noise: then nothing said that it adds little."""
    if not (temperature > BLIND and added > BLIND):
        return []
    text = f"what the step adds cannot be told: temperature ± {temperature:.2g}, by halving the step ± {added:.0%}"
    return [(False, f"{text}; larger batches or more steps are needed")]


def _temperature(reading: Reading) -> list[tuple[bool, str]]:
    value = reading.temperature
    error = 2 * value.se if math.isfinite(value.se) else 0.0
    off = value.mean - 1
    if abs(off) <= HOT + min(error, HOT):
        return []
    if off < 0 and error > -off:
        text = f"configurational temperature {value.mean:.2g} ± {value.se:.2g}"
        return [(False, f"{text}: the noise of the minibatches hides it, larger ones are needed")]
    if off < 0:
        return [(False, f"configurational temperature {value.mean:.2f}: not yet in equilibrium, lengthen the burn-in")]
    text = f"configurational temperature {value.mean:.2f}: {_source(reading)} heats stiff directions"
    return [(off > HOT_BAD, f"{text}, so nbeta and llc are too high for this rise: smaller steps and more of them")]


def _source(reading: Reading) -> str:
    """What heats. The full batch has no noise; where the step was bounded by heating, stability has room."""
    if reading.noise == 0:
        return "too large a step"
    if reading.bound == "heating" or reading.noise > NOISE:
        return "minibatch noise"
    return "minibatch noise or too large a step"
