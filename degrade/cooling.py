"""The way back: chains go down the ladder again, at the temperatures of the way up.

A heated chain can stay in its phase far beyond the temperature where the law has left it (superheating), with R̂, sample
size, virials and drift all clean. Only chains that come from the other side tell: in equilibrium both agree.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from degrade.chain import Leg, Scene, advance
from degrade.diagnostics import Estimate, fixed_rises, over_chains, rhat
from degrade.noise import Key
from degrade.stage import slim
from degrade.walk import each

if TYPE_CHECKING:
    from degrade.stage import Stage
    from degrade.temperature import Ascent

BURN_IN = 2


class Against(NamedTuple):
    """A rung seen from above: the rise of its cooled chains on the fixed set, and R̂ of heated and cooled together."""

    rise: Estimate
    rhat: float


def cool(ascent: "Ascent", stages: list["Stage"], done: Callable[["Stage"], Any] = lambda _: None) -> list["Stage"]:
    """Take all chains that are left down again, rung by rung, with twice the burn-in; the top rung has no way back."""
    states, cooled = ascent.states, {}
    for stage in reversed(stages[:-1]):
        burn_in = (BURN_IN - 1) * stage.plan.burn_in
        moved = tuple(step + burn_in for step in stage.plan.evaluate)
        plan = replace(
            stage.plan, steps=stage.plan.steps + burn_in, burn_in=stage.plan.burn_in + burn_in, evaluate=moved,
            forces=(), keep=(),
        )  # fmt: skip
        keys = {chain: Key(ascent.settings.seed, "cooling", plan.rung, chain) for chain in states}
        calls = [(plan, keys[chain], state) for chain, state in states.items()]
        legs = [leg for leg in each(ascent.engine, ascent.scene, advance, calls) if not leg.fault]
        states = {leg.chain: leg.weights for leg in legs}
        cooled[plan.rung] = [slim(leg) for leg in legs]
        done(stage)
    return [replace(stage, cooled=cooled.get(stage.rung.number, [])) for stage in stages]


def against(scene: Scene, heated: list[Leg], cooled: list[Leg]) -> Against | None:
    """Compare heated with cooled chains of a rung on the fixed set; nothing to compare gives None."""
    if not heated or not cooled:
        return None
    baseline, count = scene.evaluation.baseline.numpy(), scene.evaluation.count.numpy()
    series = [fixed_rises(leg, baseline, count) for leg in [*heated, *cooled]]
    looks = min(len(one) for one in series)
    down = over_chains([float(one.mean()) for one in series[len(heated) :]])
    return Against(down, rhat(np.stack([one[-looks:] for one in series])))


def jumps(table: pd.DataFrame, bound: float) -> list[tuple[float, float]]:
    """Intervals of the rise, in nats per unit, where heated and cooled chains disagree (pooled R̂ above a bound).

    Each is the widest one its rungs allow: from the lowest heated to the highest cooled rise, or the other way round.
    Targets inside cannot be drawn in equilibrium.

    >>> rises = {"evaluation_rise": [0.1, 0.2, 0.3, 1.4], "cooled_rise": [0.1, 1.2, 1.3, 1.4]}
    >>> jumps(pd.DataFrame(rises | {"pooled_rhat": [1.0, 1.9, 2.0, 1.0]}), 1.05)
    [(0.2, 1.3)]
    """
    apart = (table.pooled_rhat > bound).to_numpy()
    runs = np.split(np.arange(len(table)), np.flatnonzero(np.diff(apart.astype(int))) + 1)
    ends = table[["evaluation_rise", "cooled_rise"]].to_numpy(float)
    return [(float(ends[run].min()), float(ends[run].max())) for run in runs if apart[run[0]]]
