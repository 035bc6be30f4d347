"""Do two preconditioners give the same E[ΔL] at the same nβ? On the model that ships, at four rungs.

The law does not depend on P; what a step adds does. Where minibatch heating bounds the step, `without heating` is the
rise less what halving the step tells that it adds (the ladder's `llc` over nβ).

Size: at λ of 10³ the rise of one draw fluctuates by 1/√λ = 3 %, so that a standard error of 2 % of the rise is not a
matter of draws but of chains that come to the same place: 4 chains of 1,000 steps after 300. A brief ladder finds the
step of each rung; the rises are then taken at a part of it (`--shorter`), each rung climbed to by itself, so that what
a step adds is small beside their errors.
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

import degrade

NBETAS, WIDTH = (1e4, 3e3, 1e3, 3e2), 0.32
STEPS, BURN_IN, BRIEF = 1300, 300, {"steps": 120, "burn_in": 40}


def run(
    quick: bool = False, preconditioners: Sequence[str] = ("fisher", "ekfac"), longer: float = 1.0,
    shorter: float = 2.0, model: str = "mixture",
) -> pd.DataFrame:  # fmt: skip
    """A row a rung and preconditioner.

    Args:
        quick: Rungs of 120 steps, two of them.
        preconditioners: Two or more.
        longer: Factor on the steps of each rung.
        shorter: The steps found are divided by it.
        model: An organism by name.
    """
    from studies.subject import open_subject

    torch.set_num_threads(1)
    subject, tables = open_subject(model), []
    size = BRIEF if quick else {"steps": STEPS, "burn_in": BURN_IN}
    for name in preconditioners:
        nbetas = NBETAS[: 2 if quick else None]
        for rung, found in enumerate(climbed(subject, nbetas, preconditioner=name, **BRIEF).itertuples(), 1):
            step = found.step_size / shorter
            table = climbed(subject, [found.nbeta], preconditioner=name, step_size=step, longer=longer, **size)
            tables.append(table.assign(
                preconditioner=name, rung=rung,
                **{"without heating": table.llc / table.nbeta, "its se": table.llc_se / table.nbeta},
            ))  # fmt: skip
    return pd.concat(tables)[[
        "preconditioner", "rung", "nbeta", "rise", "rise_se", "evaluation_rise", "without heating", "its se", "heating",
        "heating_se", "virial", "weighted_virial", "temperature", "rhat", "ess", "step_size", "bound", "steps",
        "verdict", "reason",
    ]]  # fmt: skip


def climbed(subject: Any, nbetas: Sequence[float], **settings: Any) -> pd.DataFrame:
    """The table of a ladder, w* left out."""
    return degrade.ladder(
        subject.model, subject.data, nbetas=nbetas, width=WIDTH, chains=4, draws=1, keep="none", progress=False,
        **settings,
    ).table.iloc[1:]  # fmt: skip


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row a rung: both rises, their difference in standard errors, and the larger error in % of the rise."""
    rows = []
    for (rung, nbeta), part in table.groupby(["rung", "nbeta"]):
        first = part.iloc[0]
        for other in part.iloc[1:].to_dict("records"):
            line = {"rung": rung, "nbeta": nbeta}
            for name, value, error in (("rise", "rise", "rise_se"), ("without heating", "without heating", "its se")):
                apart = (other[value] - first[value]) / math.hypot(other[error], first[error])
                worst = max(other[error] / other[value], first[error] / first[value])
                line |= {
                    f"{first.preconditioner} {name}": round(first[value], 4),
                    f"{other['preconditioner']} {name}": round(other[value], 4),
                    f"apart ({name}), s.e.": round(apart, 2), f"s.e. ({name}), %": round(100 * worst, 2),
                }  # fmt: skip
            rows.append(line | {"verdicts": f"{first.verdict} / {other['verdict']}"})
    return pd.DataFrame(rows)
