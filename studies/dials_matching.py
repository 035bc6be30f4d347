"""A spoiling law at the loss rises of a ladder: for each rung the strength at which the mean rise is the rung's."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import brentq
from torch import Tensor
from tqdm.auto import tqdm

from degrade import next_token_loss, parameters
from degrade.data import Examples
from degrade.diagnostics import over_chains
from degrade.losses import Loss
from degrade.noise import Key
from degrade.potential import FixedSet, example_nats
from degrade.result import Ladder
from degrade.scene import lean
from studies.dials_laws import Law

STRIDE = 0.7
TOLERANCE = 0.004  # of the logarithm of a strength: a rise goes with its square at most


@dataclass(frozen=True)
class Spoiled:
    """A draw of one strength; what is random in it is the same at every rung, so rungs differ by the strength alone."""

    rung: int
    chain: int
    index: int
    target: float
    rise: float
    heldout_rise: float
    verdict: str
    strength: float


@dataclass(frozen=True, eq=False)
class Dial:
    """A ladder of one law: `model`, `draws()` and `applied(draw)`, as `probes.sweep` asks; `missed`: what it lacks."""

    ladder: Ladder
    law: Law
    seed: int
    kept: list[Spoiled] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    @property
    def model(self) -> Any:
        """The ladder's model."""
        return self.ladder.model

    def draws(self) -> Iterator[Spoiled]:
        """All draws, in order of rung, chain and index."""
        return iter(self.kept)

    def applied(self, draw: Spoiled) -> AbstractContextManager[Any]:
        """The model with a draw's weights."""
        return parameters.applied(self.model, self.ladder.selection, self.weights(draw))

    def weights(self, draw: Spoiled) -> list[Tensor]:
        """The draw's weights."""
        key = Key(self.seed, "control", 0, draw.chain)
        return self.law.spoil(self.ladder.selection, self.ladder.selection.copy(), draw.strength, key, draw.index)

    def rise(self, draw: Spoiled) -> float:
        """The draw's paired rise on the ladder's evaluation set, nats per unit."""
        with self.applied(draw):
            return rise_of(self.ladder)


def rise_of(ladder: Ladder) -> float:
    """Paired rise of the model's present weights on the ladder's evaluation set, nats per unit.

    Raises:
        ValueError: If the ladder has no evaluation set.
    """
    fixed = ladder.evaluation
    if fixed is None:
        raise ValueError("a ladder loaded from disk has no evaluation set; give it one with `with_evaluation`")
    device = ladder.selection.tensors[0].device
    return fixed.rises(
        example_nats(lean(ladder.model, fixed.loss, fixed.data), fixed.loss, fixed.data, device)[0].cpu()
    )


def with_evaluation(ladder: Ladder, data: Any, loss: Loss = next_token_loss) -> Ladder:
    """A ladder loaded from disk, its evaluation set taken again from the data it was climbed on."""
    if ladder.evaluation is not None:
        return ladder
    index = np.asarray(ladder.manifest["evaluation"])
    chosen, device = Examples(Examples(data).batch(index)), ladder.selection.tensors[0].device
    with torch.no_grad():
        nats, count = example_nats(ladder.model, loss, chosen, device)
    return replace(ladder, evaluation=FixedSet(chosen, loss, nats.cpu(), count.cpu(), np.nan, index))


def climb(ladder: Ladder, law: Law, chains: int, draws: int, seed: int, progress: bool = False) -> Dial:
    """Draws of a law at the evaluation-set rise of each rung of a ladder that is not failed.

    A rung is `ok` when the mean rise of its draws meets the ladder's within 3 standard errors or 5 %. Rungs whose rise
    the law does not reach at its largest strength have no draws and are listed in `missed`.
    """
    light = replace(ladder, kept=[], traces=ladder.traces.iloc[:0], losses=ladder.losses.iloc[:0])
    dial = Dial(light, law, seed)
    strength = 1e-3
    places = [(c, i) for c in range(chains) for i in range(draws)] if law.random else [(0, 0)]
    rungs = ladder.table[ladder.table["rung"] > 0]
    row: Any
    held = list(rungs[rungs["verdict"] != "failed"].itertuples())
    for row in tqdm(held, desc=law.name, unit="rung", disable=not progress):
        found = _strength(dial, row, max(4, chains) if law.random else 1, strength)
        if found is None:
            dial.missed.append(f"a rise of {row.evaluation_rise:.3g}: not reached at strength {law.most:g}")
            continue
        strength = found
        rung = [_draw(dial, row, chain, index, strength) for chain, index in places]
        verdict = _verdict(rung, float(row.evaluation_rise))
        dial.kept.extend(replace(draw, verdict=verdict) for draw in rung)
    return dial


def _draw(dial: Dial, row: Any, chain: int, index: int, strength: float) -> Spoiled:
    blank = Spoiled(row.rung, chain, index, row.target, np.nan, np.nan, "", strength)
    return replace(blank, rise=dial.rise(blank))


def _strength(dial: Dial, row: Any, chains: int, start: float) -> float | None:
    """Strength at which the mean rise of a few fixed draws equals the rung's, its logarithm found by Brent's method."""
    target, most = float(row.evaluation_rise), float(np.log(dial.law.most))

    @cache
    def excess(logarithm: float) -> float:
        strength = float(np.exp(logarithm))
        return float(np.mean([_draw(dial, row, chain, 0, strength).rise for chain in range(chains)])) - target

    low = high = float(np.log(start))
    while excess(low) > 0:
        low -= STRIDE
    while excess(high) < 0:
        if high >= most:
            return None
        high = min(high + STRIDE, most)
    return float(np.exp(low if low == high else brentq(excess, low, high, xtol=TOLERANCE)))


def _verdict(rung: list[Spoiled], target: float) -> str:
    frame = pd.DataFrame([vars(draw) for draw in rung])
    reached = over_chains(list(frame.groupby("chain")["rise"].mean()))
    close = abs(reached.mean - target) <= max(3 * np.nan_to_num(reached.se), 0.05 * target)
    return "ok" if close else "suspect"
