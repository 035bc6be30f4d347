"""Time of a step of four chains that step together over that of the same chains one by one.

Blocks of 25 steps of each chain take turns, as in `step`; the figure is the median over rounds of the ratio of CPU
times, one thread. Models: deep linear networks on all data, a classifier of 58 weights by minibatches, and the model
that ships. `first` is what the first call costs, in which the graph is recorded, tried and compared, in seconds.
"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from degrade.batched import batched
from degrade.chain import BLOCK, Plan, Scene, advance
from degrade.losses import label_loss, next_token_loss
from degrade.noise import Key
from degrade.parameters import lent, select
from degrade.pilot import Settings, bind, first_look
from degrade.request import Request
from degrade.scene import set_scene
from degrade.walk import Group, together
from tests.benchmarks.networks import drawn, squares
from tests.benchmarks.step import NBETA, STEP_SIZE, seconds
from tests.degrade.toys import classifier

CHAINS, ROUNDS, EXAMPLES = 4, 12, 2000


def run(quick: bool = False) -> pd.DataFrame:
    """A row a model, sampler and preconditioner: milliseconds of a step of all chains both ways, ratio, quartiles."""
    torch.set_num_threads(1)
    kinds = [("sgld", "fisher"), ("baoab", "ekfac")]
    return pd.DataFrame(
        [timed(name, *made, *kind, 3 if quick else ROUNDS) for name, made in models(quick).items() for kind in kinds]
    )


def models(quick: bool) -> dict[str, tuple[torch.nn.Module, Any, Any, int | None]]:
    """Model, data, loss and batch size (None: all data) by name."""
    networks = {f"linear network {size}": drawn(size, 0) for size in ((1000,) if quick else (1000, 10_000))}
    known = {name: (one.module(), one.data(), squares, None) for name, one in networks.items()}
    known["classifier"] = (*classifier(), label_loss, 32)
    if not quick:
        from studies.subject import open_subject

        subject = open_subject("mixture")
        known["mixture"] = (subject.model, subject.data[:EXAMPLES], next_token_loss, 32)
    return known


def timed(
    name: str, model: Any, data: Any, loss: Any, batch: int | None, sampler: str, preconditioner: str, rounds: int
) -> dict:
    """Interleaved blocks of one model, both ways."""
    selection = select(model)
    with lent(model, selection):
        request = Request(nbetas=[NBETA], width=0.3, evaluation=32)
        scene = set_scene(model, selection, data, loss, request, None, (), False)
        size = batch or len(scene.potential.data)
        settings = Settings(0, CHAINS, size, sampler, preconditioner, STEP_SIZE, 1e9)
        metric = bind(scene, settings, first_look(scene, settings), NBETA)
        plan = Plan(1, NBETA, metric, STEP_SIZE, "given", BLOCK, 0, size, sampler, tracked=False)
        made: list[Scene] = []
        first = seconds(lambda: made.append(batched(scene, CHAINS, size)))
        calls = [(plan, Key(0, chain=chain), scene.potential.center) for chain in range(CHAINS)]
        ways = partial(_each, scene, calls), partial(together, made[0], Group(advance, calls))
        spent = np.array([[seconds(way) for way in ways] for _ in range(rounds + 1)])[1:]  # the first warms up
    return row(name, scene, sampler, preconditioner, size, spent) | {"first": round(first, 2)}


def _each(scene: Scene, calls: list[tuple]) -> None:
    for call in calls:
        advance(scene, *call)


def row(name: str, scene: Scene, sampler: str, preconditioner: str, size: int, spent: np.ndarray) -> dict:
    """Medians over rounds."""
    low, middle, high = np.quantile(spent[:, 0] / spent[:, 1], [0.25, 0.5, 0.75])
    alone, joint = 1000 * np.median(spent, 0) / BLOCK
    return {
        "model": name, "weights": scene.potential.selection.count, "batch": size, "sampler": sampler,
        "preconditioner": preconditioner, "alone ms": round(alone, 2), "together ms": round(joint, 2),
        "times faster": round(middle, 2), "lower quartile": round(low, 2), "upper quartile": round(high, 2),
        "steps": BLOCK * len(spent),
    }  # fmt: skip
