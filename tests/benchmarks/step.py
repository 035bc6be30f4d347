"""Time of a sampling step over a bare forward and backward pass, on a GPT-2 of 4 layers, d = 128, vocabulary 512.

Blocks of 25 steps of a chain (all that `degrade.chain` does at a step: batch, paired rise, virials, update, guard) take
turns with 25 bare passes on batches of the same size; the figure is the median over rounds of the ratio of CPU times,
one thread. The one-off pass that measures the losses at w* is listed apart, in bare passes over the same examples.

`stepping` is the peak of resident memory during six steps over what there was before the model, in sizes of the
parameters, the model counted as one: of a wider model (14 million parameters) at batch 1 × 8, where activations are
small, in a process of its own. `bare` is that of forward and backward passes alone. `memory` holds the peaks before it
too, the measurement of curvature being the highest. `per chain` is what a chain costs before its first step and after
its last, in seconds of CPU time.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from unittest import mock

import numpy as np
import pandas as pd
import psutil
import torch

from degrade.chain import BLOCK, Plan, Scene, attempt
from degrade.losses import next_token_loss
from degrade.noise import Key
from degrade.parameters import lent, select
from degrade.pilot import Settings, bind, first_look
from degrade.potential import example_nats
from degrade.request import Request
from degrade.scene import set_scene

NBETA, STEP_SIZE, PLAIN, TIME = 1e3, 1e-3, 1e-8, 64
KINDS = [("sgld", "fisher"), ("baoab", "fisher"), ("sgld", "ekfac"), ("baoab", "ekfac")]
FEW = 6  # steps in which memory is looked at
FAITHFUL = {"MALLOC_MMAP_THRESHOLD_": "262144"}  # so that what is freed is no longer resident


@dataclass(frozen=True)
class Case:
    """One sampler and preconditioner at one batch size, ready to step."""

    scene: Scene
    plan: Plan

    def steps(self, number: int) -> None:
        """A block of steps."""
        attempt(self.scene, self.plan, Key(0, attempt=number), self.scene.potential.center)


def run(quick: bool = False) -> pd.DataFrame:
    """A row a sampler, preconditioner and batch size: ratio, its quartiles, milliseconds, steps timed."""
    torch.set_num_threads(1)
    model, tokens = model_and_data()
    selection = select(model)
    rows = []
    with lent(model, selection):
        scene = set_scene(
            model, selection, tokens, next_token_loss, Request(nbetas=[NBETA], width=0.5), None, (), False
        )
        for batch_size, rounds in ((32, 10), (4, 16)):
            rows += timed(scene, batch_size, 2 if quick else rounds)
        rows += [fixed(scene, *kind) for kind in KINDS]
    return pd.DataFrame(rows + memory())


def memory() -> list[dict]:
    """A row a sampler and preconditioner, each from a process of its own."""
    with (
        mock.patch.dict(os.environ, FAITHFUL),
        ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as own,
    ):
        return [own.submit(large, *kind).result() for kind in [("sgld", "identity"), *KINDS]]


def fixed(scene: Scene, sampler: str, preconditioner: str) -> dict:
    """What a chain costs apart from its steps: a leg of one step less a step within a block."""
    one = case(scene, sampler, preconditioner, 4)
    single = Case(scene, replace(one.plan, steps=1))
    block, alone = (min(seconds(lambda w=work: w.steps(1)) for _ in range(5)) for work in (one, single))
    about = {"sampler": sampler, "preconditioner": preconditioner, "batch": f"4 x {TIME}"}
    return about | {"per chain": round(alone - block / BLOCK, 4)}


def large(sampler: str, preconditioner: str) -> dict:
    """Peak memory of a wide model; in a process of its own, in which a small one has been through all of it before."""
    torch.set_num_threads(1)
    peaks(sampler, preconditioner, 32)
    about = {"sampler": sampler, "preconditioner": preconditioner, "batch": "1 x 8"}
    return about | peaks(sampler, preconditioner, 512)


def peaks(sampler: str, preconditioner: str, width: int) -> dict[str, float]:
    """The peaks of bare passes, of a few steps, and of all that leads to them, in sizes of the parameters."""
    before = psutil.Process().memory_info().rss
    model, tokens = model_and_data(width=width, length=8)
    size, selection = sum(4 * p.numel() for p in model.parameters()), select(model)
    with lent(model, selection) as center:
        request = Request(nbetas=[NBETA], width=0.5, evaluation=4)
        scene = set_scene(model, selection, tokens, next_token_loss, request, None, (), False, center)
        bare = watched(lambda: passes(scene, 1, FEW))
        made: list[Case] = []
        whole = watched(lambda: made.append(case(scene, sampler, preconditioner, 1)))
        few = Case(scene, replace(made[0].plan, steps=FEW))
        stepping = watched(lambda: few.steps(0))
    found = {"bare": bare, "stepping": stepping, "memory": max(whole, stepping)}
    return {name: round((peak - before) / size, 2) for name, peak in found.items()}


def watched(work: Callable[[], object]) -> int:
    """The highest resident memory while some work is done, looked at every millisecond."""
    process, seen, done = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen[0] = max(seen[0], process.memory_info().rss)
            done.wait(0.004)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return seen[0]


def model_and_data(width: int = 128, length: int = TIME) -> tuple[torch.nn.Module, torch.Tensor]:
    """An untrained GPT-2 (time does not depend on the weights) and random tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=512, n_positions=TIME, n_embd=width, n_layer=4, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    return GPT2LMHeadModel(config).eval(), torch.randint(512, (256, length))


def timed(scene: Scene, batch_size: int, rounds: int) -> list[dict]:
    """Interleaved blocks at one batch size."""
    potential = scene.potential
    cases = {kind: case(scene, *kind, batch_size) for kind in KINDS}
    bare: list[float] = []
    spent: dict[tuple[str, str], list[float]] = {kind: [] for kind in cases}
    baseline: list[float] = []
    for number in range(-1, rounds):  # the first round warms up
        once = seconds(lambda: passes(scene, batch_size))
        each = {kind: seconds(partial(one.steps, number + 1)) for kind, one in cases.items()}
        whole = seconds(
            lambda: example_nats(potential.model, potential.loss, potential.data, potential.device)
        ) * batch_size / len(potential.data) * BLOCK  # fmt: skip
        if number >= 0:
            bare.append(once)
            baseline.append(whole)
            for kind, value in each.items():
                spent[kind].append(value)
    rows = [row(*kind, batch_size, np.array(values), np.array(bare)) for kind, values in spent.items()]
    return [*rows, row("losses at w*", "", batch_size, np.array(baseline), np.array(bare))]


def case(scene: Scene, sampler: str, preconditioner: str, batch_size: int) -> Case:
    """Bind a metric as a rung does."""
    step_size = PLAIN if preconditioner == "identity" else STEP_SIZE
    settings = Settings(0, 1, batch_size, sampler, preconditioner, step_size, 1e9)
    metric = bind(scene, settings, first_look(scene, settings), NBETA)
    plan = Plan(1, NBETA, metric, step_size, "given", BLOCK, 0, batch_size, sampler, tracked=False)
    return Case(scene, plan)


def passes(scene: Scene, batch_size: int, number: int = BLOCK) -> None:
    """Bare forward and backward passes."""
    potential = scene.potential
    rows = np.random.default_rng(0)
    for _ in range(number):
        index = rows.integers(len(potential.data), size=batch_size)
        nats, count = potential.loss(potential.model, potential.data.batch(index, potential.device))
        torch.autograd.grad(nats.sum() / count.sum(), potential.selection.tensors)


def seconds(work: Callable[[], object]) -> float:
    """CPU time, which other work on the machine does not enter."""
    start = time.process_time()
    work()
    return time.process_time() - start


def row(sampler: str, preconditioner: str, batch_size: int, spent: np.ndarray, bare: np.ndarray) -> dict:
    """Medians of ratios over rounds."""
    ratio = spent / bare
    low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
    return {
        "sampler": sampler, "preconditioner": preconditioner, "batch": f"{batch_size} x {TIME}",
        "over bare": round(middle, 3), "lower quartile": round(low, 3), "upper quartile": round(high, 3),
        "step ms": round(1000 * float(np.median(spent)) / BLOCK, 2),
        "bare ms": round(1000 * float(np.median(bare)) / BLOCK, 2), "steps": BLOCK * len(spent),
    }  # fmt: skip
