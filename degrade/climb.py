"""The climb: rung by rung, the chains find the temperature together, it is frozen, and each draws by itself.

A rung whose verdict is not clean is lengthened while its budget lasts: chains that merely mix slowly go on; where the
temperature missed, the step was too hot or flat directions were not yet filled, the fault is mended and the part drawn
so far counts as burn-in. On all data a rung of given temperature also goes on until its rise is known to 1 %.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from degrade.chain import Leg, Plan, Scene, advance
from degrade.cooling import cool
from degrade.diagnostics import Estimate, Reading, read
from degrade.engine import Engine
from degrade.journal import Journal
from degrade.noise import Key
from degrade.pilot import Settings, bind, first_look
from degrade.recorded import reached, recall
from degrade.request import Request
from degrade.samplers import SAMPLERS
from degrade.schedule import joined, onward, scheduled
from degrade.stage import Stage, lightened
from degrade.step_size import HEATING, Bound
from degrade.temperature import Ascent, Rung, aim, visit
from degrade.verdict import DRIFT, DRIFT_P, ESS, HOT, MISSED, RHAT, VIRIAL, most_added, vague
from degrade.walk import each

BURN_IN = (50, 150)
KEPT = (200, 600)
CHECK = (30, 90)
BUDGET = 2600
GROWTH = 2.0
PRECISE = 0.01


def climb(
    engine: Engine,
    scene: Scene,
    settings: Settings,
    request: Request,
    done: Callable[[Stage], Any] = lambda _: None,
    journal: Journal | None = None,
) -> list[Stage]:
    """Climb all rungs, but those that the journal holds.

    A chain that fails takes no part in later rungs, where it is listed with its fault.
    """
    journal = journal or Journal()
    states = {chain: scene.potential.center for chain in range(settings.chains)}
    ascent = Ascent(engine, scene, settings, states, [first_look(scene, settings)])
    stages = recall(journal, ascent)
    for stage in stages:
        done(stage)
    for number in range(len(stages) + 1, len(request.rises or request.nbetas or []) + 1):
        if not ascent.states:
            break
        if request.rises is None:
            rung = visit(ascent, number, (request.nbetas or [])[number - 1])
        else:
            rung = aim(ascent, number, request.rises[number - 1], stages[-1].rung if stages else None)
        stages.append(lightened(_drawn(ascent, rung, request), request.cool))
        reached(journal, ascent, stages[-1])
        done(stages[-1])
    return cool(ascent, stages, done) if request.cool else stages


def _drawn(ascent: Ascent, rung: Rung, request: Request) -> Stage:
    """Draw at a rung, and lengthen it until it is clean or the budget is spent."""
    plan = _plan(ascent.scene, rung, ascent.settings, request)
    legs = _run(ascent, plan, 0)
    spent, part, patience = plan.steps, 0, 1.0
    fault, reading, halved = _assessed(ascent, plan, legs, rung.target, part)
    while reading and fault and spent + _next(ascent, plan, fault) <= _budget(request):
        part += 1
        if fault == "more":
            further = onward(plan, request.draws)
            more = {leg.chain: leg for leg in _run(ascent, further, part)}
            legs = [joined(leg, more[leg.chain], request.draws) for leg in legs if leg.chain in more]
            spent += further.steps
        else:
            rung = mended(ascent, rung, reading, fault)
            patience *= _growth(ascent, fault)
            plan = _plan(ascent.scene, rung, ascent.settings, request, patience)
            legs = _run(ascent, plan, part)
            spent += plan.steps
        fault, reading, halved = _assessed(ascent, plan, legs, rung.target, part)
    absent = [_absent(plan, chain, why) for chain, why in ascent.faults.items()]
    if legs and not halved and _checked(ascent, plan):
        reading = _read(ascent.scene, legs, _halved(ascent, plan, part))
    return Stage(rung, plan, legs + absent, spent, reading)


def _checked(ascent: Ascent, plan: Plan) -> bool:
    """Whether the step is halved to see what it adds.

    Not on all data with a step that follows the curvature: it adds less than the check's own error.
    """
    return not (ascent.whole and plan.tracked)


def _assessed(
    ascent: Ascent, plan: Plan, legs: list[Leg], target: float, part: int
) -> tuple[str, Reading | None, list[Leg]]:
    """What a rung still needs, and what was read of it; the step is checked where nothing else is wrong."""
    if not legs:
        return "", None, []
    reading, halved = _read(ascent.scene, legs, []), []
    fault = remedy(reading, target) or ("more" if _imprecise(ascent, reading, target) else "")
    if fault in ("", "step") and _checked(ascent, plan):
        halved = _halved(ascent, plan, part)
        reading = _read(ascent.scene, legs, halved)
        fault = "step" if fault or too_long(reading) else ""
    return fault, reading, halved


def _imprecise(ascent: Ascent, reading: Reading, target: float) -> bool:
    """Whether λ at a given temperature is not yet known to 1 %; asked for on all data, where steps are cheap."""
    return math.isnan(target) and ascent.whole and bool(reading.rise.se > PRECISE * abs(reading.rise.mean))


def remedy(reading: Reading, target: float) -> str:
    """What a rung needs: "temperature", "step", "time" (again from where it stands), "more" of the same, or nothing.

    The bounds are the verdict's own.
    """
    gap, error = abs(reading.rise.mean - target), np.nan_to_num(reading.rise.se)
    if _exceeds(reading.temperature, 1 + HOT, HOT):
        return "step"
    if gap > max(3 * error, MISSED * target):
        return "temperature"
    drifting = abs(reading.trend) > DRIFT * abs(reading.rise.mean) and reading.trend_p < DRIFT_P
    if drifting or any(
        _exceeds(Estimate(-x.mean, x.se), VIRIAL - 1, VIRIAL) for x in (reading.virial, reading.weighted_virial)
    ):
        return "time"
    return "more" if vague(reading) or not (reading.rhat <= RHAT and reading.ess >= ESS) else ""


def _exceeds(value: Estimate, bound: float, most: float) -> bool:
    """Whether a value is above a bound by more than its doubled error (counted up to `most`)."""
    return value.mean > bound + min(2 * np.nan_to_num(value.se), most)


def too_long(reading: Reading) -> bool:
    """Whether a step that was found adds more to the rise than the verdict allows."""
    most = most_added(reading)
    return reading.bound != "given" and _exceeds(reading.heating, most, most)


def mended(ascent: Ascent, rung: Rung, reading: Reading, fault: str) -> Rung:
    """The rung with its fault mended: a shorter step, or the temperature that its own draws imply, or both.

    A step shorter by f takes (1 − f) η of the rise away (see `diagnostics.heating`), which a colder law would make up.
    """
    rise = reading.rise.mean
    if fault == "step":
        hot = reading.temperature.mean - 1 > HOT
        shorter = max(HEATING / (reading.temperature.mean - 1), 0.25) if hot else 0.5
        name = "heating" if hot and not ascent.whole else rung.bound.name
        rung = replace(rung, bound=Bound(rung.bound.step_size * shorter, name))
        rise *= 1 - (1 - shorter) * float(np.clip(np.nan_to_num(reading.heating.mean), 0.0, 0.5))
    ascent.history.append((rung.nbeta, rise))
    if math.isfinite(rung.target) and fault in ("step", "temperature"):
        rung = replace(rung, nbeta=math.exp(ascent.implied(rung.nbeta, rise, rung.target)))
    return rung


def _next(ascent: Ascent, plan: Plan, fault: str) -> int:
    """Steps that mending a fault takes."""
    if fault == "more":
        return (plan.steps - plan.burn_in + 1) // 2
    return round(plan.steps * _growth(ascent, fault))


def _growth(ascent: Ascent, fault: str) -> float:
    """How much longer a rung is that needs time: on all data twice, for flat directions are what it waits for there."""
    return GROWTH if fault == "time" and ascent.whole else 1.0


def _budget(request: Request) -> int:
    """Steps of a chain at a rung, lengthening included; a given number of steps is kept to."""
    return round((request.budget or request.steps or BUDGET) * request.longer)


def _read(scene: Scene, legs: list[Leg], halved: list[Leg]) -> Reading:
    baseline, count = scene.evaluation.baseline.numpy(), scene.evaluation.count.numpy()
    return read(legs, halved, legs[0].plan, baseline, count)


def _run(ascent: Ascent, plan: Plan, part: int) -> list[Leg]:
    """Run all chains that are left through a plan."""
    keys = {chain: Key(ascent.settings.seed, "production", plan.rung, chain, turn=part) for chain in ascent.states}
    calls = [(plan, keys[chain], state) for chain, state in ascent.states.items()]
    legs = [_sharing(plan, leg) for leg in each(ascent.engine, ascent.scene, advance, calls)]
    ascent.faults |= {leg.chain: leg.fault for leg in legs if leg.fault}
    ascent.states = {leg.chain: leg.weights for leg in _sound(legs)}
    return _sound(legs)


def _sharing(plan: Plan, leg: Leg) -> Leg:
    """The leg with the metric of the plan itself: one that comes from another process brings a copy."""
    return replace(leg, plan=replace(leg.plan, metric=plan.metric, vector=plan.vector))


def _halved(ascent: Ascent, plan: Plan, part: int) -> list[Leg]:
    """A side step: each chain at half the step size, to see what the step adds to the rise. No chain moves by it."""
    steps = int(np.clip((plan.steps - plan.burn_in) // 3, *CHECK))
    short = replace(
        plan, step_size=plan.step_size / 2, steps=steps, burn_in=0, evaluate=(), forces=(), keep=(), tracked=False
    )
    keys = {chain: Key(ascent.settings.seed, "halved", plan.rung, chain, turn=part) for chain in ascent.states}
    calls = [(short, keys[chain], state) for chain, state in ascent.states.items()]
    return _sound(each(ascent.engine, ascent.scene, advance, calls))


def _sound(legs: list[Leg]) -> list[Leg]:
    return [leg for leg in legs if not leg.fault]


def _absent(plan: Plan, chain: int, fault: str) -> Leg:
    return Leg(plan, chain, [], np.empty((0, 0)), np.empty((0, 0)), np.empty(0), fault=fault)


def _plan(scene: Scene, rung: Rung, settings: Settings, request: Request, patience: float = 1.0) -> Plan:
    """Freeze what a rung asks of its chains.

    Unless given: burn-in of 2 memories (see `Sampler.memory`) within [50, 150] steps, on top of the calibration's
    rounds, and drawing for 30 within [200, 600].
    """
    lengths = _lengths(SAMPLERS[rung.sampler].memory / rung.bound.step_size, request)
    burn_in, steps = (round(patience * number) for number in lengths)
    return scheduled(
        Plan(
            rung=rung.number,
            nbeta=rung.nbeta,
            metric=bind(scene, settings, rung.curvature, rung.nbeta),
            step_size=rung.bound.step_size,
            bound=rung.bound.name,
            steps=steps,
            burn_in=burn_in,
            batch_size=settings.batch_size,
            sampler=rung.sampler,
            vector=rung.vector,
            tracked=request.step_size is None,
            ceiling=settings.ceiling,
        ),
        request.draws,
    )


def _lengths(memory: float, request: Request) -> tuple[int, int]:
    burn_in, steps = request.burn_in, request.steps
    if burn_in is None:
        burn_in = int(np.clip(2 * memory, *BURN_IN)) if steps is None else steps // 2
    if steps is None:
        steps = burn_in + int(np.clip(30 * memory, *KEPT))
    return round(burn_in * request.longer), round(steps * request.longer)
