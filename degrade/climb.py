"""The climb: with all temperatures frozen, each chain goes up the ladder by itself."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import numpy as np

from degrade.chain import Leg, Plan, Scene, advance
from degrade.engine import Engine
from degrade.noise import Key
from degrade.pilot import Settings, bind
from degrade.request import Request
from degrade.samplers import SAMPLERS
from degrade.temperature import Rung

BURN_IN = (100, 300)
KEPT = (300, 900)
LOOKS = 32


def plans(scene: Scene, rungs: list[Rung], settings: Settings, request: Request) -> list[Plan]:
    """Freeze what each rung asks of its chains.

    Unless given: burn-in of 4 memories (see `Sampler.memory`) within [100, 300] steps, drawing for 30 within
    [300, 900].
    """
    return [_plan(scene, number + 1, rung, settings, request) for number, rung in enumerate(rungs)]


def _plan(scene: Scene, number: int, rung: Rung, settings: Settings, request: Request) -> Plan:
    step_size = request.step_size or rung.bound.step_size
    burn_in, steps = _lengths(SAMPLERS[settings.sampler].memory / step_size, request)
    evaluate = _spread(burn_in, steps, max(LOOKS, request.draws))
    chosen = np.linspace(len(evaluate) - 1, 0, request.draws, endpoint=False).round().astype(int)
    return Plan(
        rung=number,
        nbeta=rung.nbeta,
        metric=bind(scene, settings, rung.curvature, rung.nbeta),
        step_size=step_size,
        bound="given" if request.step_size else rung.bound.name,
        steps=steps,
        burn_in=burn_in,
        batch_size=settings.batch_size,
        sampler=settings.sampler,
        evaluate=evaluate,
        keep=tuple(sorted(evaluate[i] for i in chosen)),
        vector=rung.vector,
        tracked=request.step_size is None,
        ceiling=settings.ceiling,
    )


def _lengths(memory: float, request: Request) -> tuple[int, int]:
    burn_in, steps = request.burn_in, request.steps
    if burn_in is None:
        burn_in = int(np.clip(4 * memory, *BURN_IN)) if steps is None else steps // 2
    if steps is None:
        steps = burn_in + int(np.clip(30 * memory, *KEPT))
    return round(burn_in * request.longer), round(steps * request.longer)


def _spread(first: int, last: int, number: int) -> tuple[int, ...]:
    return tuple(sorted({int(step) for step in np.linspace(last, first, number, endpoint=False)}))


def climb(
    engine: Engine,
    scene: Scene,
    plans: list[Plan],
    seed: int,
    chains: int,
    done: Callable[[Leg], Any] = lambda leg: None,
) -> list[list[Leg]]:
    """Run every chain up all rungs; returns legs[rung][chain]. A chain that fails stays down and goes no further."""
    legs: list[list[Leg | None]] = [[None] * chains for _ in plans]
    waiting: dict[Future, None] = {}

    def start(number: int, chain: int, weights: list) -> None:
        key = Key(seed, "production", number + 1, chain)
        waiting[engine.submit(advance, plans[number], key, weights)] = None

    for chain in range(chains):
        start(0, chain, scene.potential.center)
    while waiting:
        ready, _ = wait(list(waiting), return_when=FIRST_COMPLETED)
        for future in ready:
            del waiting[future]
            leg: Leg = future.result()
            legs[leg.plan.rung - 1][leg.chain] = leg
            done(leg)
            if leg.plan.rung < len(plans):
                start(leg.plan.rung, leg.chain, leg.weights)
    return [[leg for leg in row if leg is not None] for row in legs]
