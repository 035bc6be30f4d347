"""Gradients until the LLC of a quadratic is right: rms error over repetitions ≤ 5 %, there and at all larger budgets.

d = 50, curvatures nβh + γ log-uniform from 1 to the condition number, along the axes or rotated; nβ = 1000, γ = ½, 4
chains. Gradients are those of all chains, with pilot, curvature and control (`counting`). The metric is frozen after
the pilot, so that a shorter run is the first part of a longer one: the last half of the first N steps is averaged, ours
and devinterp's alike, N going up by √2; devinterp's step size is the best of its grid for each target.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import degrade
from tests.benchmarks import peers
from tests.benchmarks.counting import counted
from tests.truths.targets import as_loss, basin, basin_llc

D, NBETA, GAMMA, CHAINS = 50, 1000.0, 0.5, 4
CONDITIONS, CLOSE = (1, 100, 1000, 10_000), 0.05
OURS = [
    ("baoab", "fisher"), ("sgld", "fisher"), ("sgnht", "fisher"), ("mala", "fisher"), ("hmc", "fisher"),
    ("baoab", "rmsprop"), ("baoab", "identity"),
]  # fmt: skip
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)


def run(
    quick: bool = False, repetitions: int = 16, conditions: Any = CONDITIONS, rotated: Any = (False, True),
    steps: int = 1600, theirs: int = 16_000, only: Any = None, beside: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """A row a target and method.

    Args:
        quick: Two conditions, a tenth of the steps.
        repetitions: Independent runs, each with its own pilot.
        conditions: Of nβH + γ.
        rotated: Along the axes, rotated, or both.
        steps: The longest of our runs.
        theirs: The longest of devinterp's.
        only: Our samplers as "sampler/preconditioner"; None: `OURS`.
        beside: Run devinterp's samplers.
    """
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    chosen = OURS if only is None else [tuple(one.split("/")) for one in np.atleast_1d(only).tolist()]
    for condition in np.atleast_1d(conditions).tolist()[: 2 if quick else None]:
        curvatures = (torch.logspace(0, math.log10(condition), D, dtype=torch.float64) - GAMMA) / NBETA
        for turned in np.atleast_1d(rotated).tolist():
            about = {"condition": condition, "basis": "rotated" if turned else "aligned"}
            for sampler, preconditioner in chosen:
                found = own(curvatures, turned, sampler, preconditioner, repetitions, steps // (10 if quick else 1))
                rows.append(about | {"method": f"{sampler} {preconditioner}"} | found)
            for name in peers.SAMPLERS if beside else ():
                best = other(curvatures, turned, name, repetitions, theirs // (10 if quick else 1))
                rows.append(about | {"method": name} | best)
    return pd.DataFrame(rows)


def own(
    curvatures: Tensor, turned: bool, sampler: str, preconditioner: str, repetitions: int, steps: int
) -> dict[str, Any]:
    """`degrade.llc` from a cold start, each repetition with its own seed."""
    model, data = basin(curvatures, seed=1 if turned else None)
    traces, pilots, paces, words = [], [], [], []
    for seed in range(repetitions):
        with counted() as whole:
            result = degrade.llc(
                model, data, nbeta=NBETA, gamma=GAMMA, loss=as_loss, sampler=sampler, preconditioner=preconditioner,
                steps=steps, burn_in=steps // 2, chains=CHAINS, draws=1, seed=seed, progress=False,
            )  # fmt: skip
        traces.append(result.traces.pivot_table(index="step", columns="chain", values="llc").to_numpy().mean(1))
        words.append(result.verdict)
        paces.append(whole.stages["production"] / len(data) / steps)
        pilots.append(whole.gradients(len(data)) - whole.stages["production"] / len(data))
    budgets = _budgets(steps)
    means = np.stack([peers.last_halves(trace[:, None], budgets)[:, 0] for trace in traces], 1)
    spent = np.array([np.mean(pilots) + np.mean(paces) * n for n in budgets])
    said = {"pilot": round(float(np.mean(pilots))), "ok": sum(word.startswith("ok") for word in words)}
    return _settled(means, spent, basin_llc(curvatures, NBETA, GAMMA)) | said


def other(curvatures: Tensor, turned: bool, name: str, repetitions: int, steps: int) -> dict[str, Any]:
    """A sampler of devinterp's at the step size of the grid that needs least."""
    model, _ = basin(curvatures, seed=1 if turned else None)

    def energy(parameters: Any) -> Tensor:
        moved = parameters[0] - 1
        return ((moved @ model.hessian) * moved).sum(-1) / 2

    found = []
    for rate in RATES:
        rows = peers.trace(name, energy, [model.w.detach()], [GAMMA], NBETA, rate, steps, repetitions * CHAINS, seed=0)
        budgets = _budgets(steps)
        means = peers.last_halves(rows, budgets).reshape(len(budgets), repetitions, CHAINS).mean(2)
        spent = CHAINS * np.array(budgets, float)
        found.append(_settled(means, spent, basin_llc(curvatures, NBETA, GAMMA)) | {"rate": rate})
    return min(found, key=lambda one: (np.nan_to_num(one["gradients"], nan=np.inf), one["last rms %"]))


def _budgets(steps: int) -> list[int]:
    """From 10 steps by factors of √2."""
    return [round(10 * 2 ** (k / 2)) for k in range(int(2 * math.log2(steps / 10)) + 1)]


def _settled(means: np.ndarray, spent: np.ndarray, exact: float) -> dict[str, Any]:
    """The first budget from which on the rms error stays small (nan: none), and the last rms error."""
    rms = np.sqrt(((means / exact - 1) ** 2).mean(1))
    bad = np.flatnonzero(~(rms <= CLOSE))
    first = 0 if not len(bad) else bad[-1] + 1
    known = first < len(spent)
    return {
        "gradients": round(float(spent[first])) if known else math.nan,
        "longest": round(float(spent[-1])), "last rms %": round(100 * float(rms[-1]), 2),
        "last bias %": round(100 * float((means[-1] / exact - 1).mean()), 2),
    }  # fmt: skip
