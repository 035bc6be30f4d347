"""The control dial: isotropic Gaussian noise on the weights, w = w* + σ ξ, at the loss rises of a ladder.

One σ for all weights, found so that the mean rise of a rung's draws equals the rise of the ladder's rung on the same
fixed evaluation set. What this dial breaks first says how fragile a behaviour is to noise, not how much of the loss it
carries.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from degrade import parameters
from degrade.diagnostics import over_chains
from degrade.noise import Key, normal_like
from degrade.potential import example_nats
from degrade.result import Ladder

BISECTIONS = 12
TOLERANCE = 0.01


@dataclass(frozen=True)
class NoisyDraw:
    """Isotropic noise of one strength; the same noise ξ at every rung, so rungs differ by σ alone."""

    rung: int
    chain: int
    index: int
    target: float
    rise: float
    heldout_rise: float
    verdict: str
    sigma: float


@dataclass(frozen=True, eq=False)
class Isotropic:
    """A ladder of isotropic noise: `model`, `draws()` and `applied(draw)`, as `probes.sweep` asks."""

    ladder: Ladder
    seed: int
    kept: list[NoisyDraw] = field(default_factory=list)

    @property
    def model(self) -> Any:
        """The ladder's model."""
        return self.ladder.model

    def draws(self) -> Iterator[NoisyDraw]:
        """All draws, in order of rung, chain and index."""
        return iter(self.kept)

    def applied(self, draw: NoisyDraw) -> AbstractContextManager[Any]:
        """The model with a draw's noise on its weights."""
        return parameters.applied(self.model, self.ladder.selection, self._weights(draw))

    def _weights(self, draw: NoisyDraw) -> list[Tensor]:
        key = Key(self.seed, "control", 0, draw.chain)
        center = self.ladder.selection.copy()
        noise = normal_like(key, "noise", draw.index, center)
        return [w + draw.sigma * x for w, x in zip(center, noise, strict=True)]

    def rise(self, draw: NoisyDraw) -> float:
        """The draw's paired rise on the ladder's evaluation set, nats per unit."""
        fixed = self.ladder.evaluation
        if fixed is None:
            raise ValueError("a ladder loaded from disk has no evaluation set; climb it again to add isotropic noise")
        with self.applied(draw), torch.no_grad():
            device = self.ladder.selection.tensors[0].device
            return fixed.rises(example_nats(self.model, fixed.loss, fixed.data, device)[0].cpu())


def climb(ladder: Ladder, chains: int, draws: int, seed: int, progress: bool = False) -> Isotropic:
    """Isotropic noise at the evaluation-set rise of each rung of a ladder that is not failed.

    A rung is `ok` when the mean rise of its draws meets the ladder's within 3 standard errors or 5 %.
    """
    light = replace(ladder, kept=[], traces=ladder.traces.iloc[:0], losses=ladder.losses.iloc[:0])
    dial = Isotropic(light, seed)
    sigma = 1e-3
    rungs = ladder.table[ladder.table["rung"] > 0]
    row: Any
    held = list(rungs[rungs["verdict"] != "failed"].itertuples())
    for row in tqdm(held, desc="isotropic noise", unit="rung", disable=not progress):
        sigma = _strength(dial, row, draws=1, chains=max(4, chains), start=sigma)
        rung = [_draw(dial, row, chain, index, sigma) for chain in range(chains) for index in range(draws)]
        verdict = _verdict(rung, float(row.evaluation_rise))
        dial.kept.extend(NoisyDraw(**(vars(draw) | {"verdict": verdict})) for draw in rung)
    return dial


def _draw(dial: Isotropic, row: Any, chain: int, index: int, sigma: float) -> NoisyDraw:
    blank = NoisyDraw(row.rung, chain, index, row.target, np.nan, np.nan, "", sigma)
    return NoisyDraw(**(vars(blank) | {"rise": dial.rise(blank)}))


def _strength(dial: Isotropic, row: Any, draws: int, chains: int, start: float) -> float:
    """σ at which the mean rise of a few fixed draws equals the rung's, by bisection on ln σ."""

    def mean(sigma: float) -> float:
        return float(np.mean([_draw(dial, row, c, i, sigma).rise for c in range(chains) for i in range(draws)]))

    target = float(row.evaluation_rise)
    low = high = start
    while mean(low) > target:
        low /= 2
    while mean(high) < target:
        high *= 2
    for _ in range(BISECTIONS):
        middle = float(np.sqrt(low * high))
        value = mean(middle)
        if abs(value / target - 1) < TOLERANCE:
            return middle
        low, high = (middle, high) if value < target else (low, middle)
    return float(np.sqrt(low * high))


def _verdict(rung: list[NoisyDraw], target: float) -> str:
    frame = pd.DataFrame([vars(draw) for draw in rung])
    reached = over_chains(list(frame.groupby("chain")["rise"].mean()))
    close = abs(reached.mean - target) <= max(3 * reached.se, 0.05 * target)
    return "ok" if close else "suspect"
