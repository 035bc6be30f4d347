"""Gradients until λ̂ of the model that ships has a verdict of ok: each sampler and preconditioner, and the peer's rules.

Ours are `degrade.llc` at one nβ with all else default, pilot, curvature, control and step check counted (`counting`);
it lengthens a rung by itself until its verdict is clean or the budget is spent. devinterp's SGLD and RMSprop are our
`ula` with `identity` and `rmsprop` at a given step (the update is the same, see `degrade.llc`), so that they stand
under our verdict. Their step is an oracle: the one of the grid whose short run comes nearest to our λ̂. Their gradients
are those of the chains alone, steps × chains, `most` times as many as ours took.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
import torch

import degrade
from tests.benchmarks.counting import counted

NBETA, WIDTH, CHAINS, BATCH = 800.0, 0.32, 4, 32
OURS = [
    ("auto", "auto"), ("sgld", "fisher"), ("sgnht", "fisher"), ("baoab", "ekfac"), ("baoab", "rmsprop"),
    ("baoab", "identity"),
]  # fmt: skip
THEIRS = {"devinterp sgld": "identity", "devinterp rmsprop": "rmsprop"}
RATES, SCAN = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3), 200
SHOWN = ["step_size", "bound", "steps", "rhat", "ess", "temperature", "virial", "weighted_virial", "heating"]


def run(
    quick: bool = False, nbeta: float = NBETA, ours: bool = True, theirs: bool = True, most: float = 30.0,
    model: str = "mixture", target: float = math.nan, gradients: float = math.nan,
) -> pd.DataFrame:  # fmt: skip
    """A row a method.

    Args:
        quick: The default alone.
        nbeta: Inverse temperature, per token.
        ours: Run all of `OURS`; else the default alone.
        theirs: Run devinterp's rules.
        most: How many times our gradients they get.
        model: An organism by name.
        target: Our λ̂, if it is known from an earlier run; the default is not run again then.
        gradients: What it took.
    """
    from studies.subject import open_subject

    torch.set_num_threads(1)
    subject, rows = open_subject(model), []
    if math.isnan(target):
        rows = [own(subject, nbeta, *pair) for pair in OURS[: None if ours and not quick else 1]]
        target, gradients = rows[0]["llc"], rows[0]["gradients"]
    for name, preconditioner in THEIRS.items() if theirs and not quick else ():
        rows.append(other(subject, nbeta, name, preconditioner, target, round(most * gradients / CHAINS)))
    return pd.DataFrame(rows).assign(**{"of ours": lambda table: table.gradients / gradients})


def own(subject: Any, nbeta: float, sampler: str, preconditioner: str) -> dict[str, Any]:
    """`degrade.llc` with a sampler and a preconditioner, all else default."""
    with counted() as spent:
        result = sampled(subject, nbeta, sampler=sampler, preconditioner=preconditioner)
    return row(f"{sampler} {preconditioner}", result, round(spent.gradients(BATCH)))


def other(subject: Any, nbeta: float, name: str, preconditioner: str, target: float, steps: int) -> dict[str, Any]:
    """A rule of devinterp's at the step of the grid that is best for it."""
    short = {rate: tried(subject, nbeta, preconditioner, rate, SCAN) for rate in RATES}
    near = {rate: abs(one.llc - target) for rate, one in short.items() if one and np.isfinite(one.llc)}
    result = tried(subject, nbeta, preconditioner, min(near, key=near.__getitem__), steps)
    return row(name, result, steps * CHAINS)


def tried(subject: Any, nbeta: float, preconditioner: str, rate: float, steps: int) -> degrade.LLC | None:
    """A run at a given step; None where every chain ran away."""
    try:
        return sampled(
            subject, nbeta, sampler="ula", preconditioner=preconditioner, step_size=rate, steps=steps,
            burn_in=steps // 2,
        )  # fmt: skip
    except RuntimeError:
        return None


def sampled(subject: Any, nbeta: float, **settings: Any) -> degrade.LLC:
    """λ̂ of the model on its own corpus."""
    return degrade.llc(
        subject.model, subject.data, nbeta=nbeta, width=WIDTH, chains=CHAINS, draws=4, batch_size=BATCH,
        progress=False, **settings,
    )  # fmt: skip


def row(name: str, result: degrade.LLC | None, gradients: int) -> dict[str, Any]:
    """What came out."""
    if result is None:
        return {"method": name, "gradients": gradients, "verdict": "refused", "reason": "every chain ran away"}
    about = result.table.iloc[0]
    said = {"verdict": result.verdict, "reason": result.reason}
    return {"method": name, "gradients": gradients, "llc": result.llc, "se": result.se, **about[SHOWN], **said}
