"""Error of `degrade.llc` on random deep linear networks against gradients, with one setting for all; beside devinterp.

The truth is blocked Gibbs at the same nβ and neighbourhood. Gradients are those of all chains together, with pilot,
curvature, control and step check (`counting`); all are over all examples, as the default batch is for so small
networks. devinterp's samplers have their own: steps × chains. `--size 10000 --networks 5`, `--beside false`.
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
from tests.benchmarks.networks import Network, drawn, squares, truth

HOODS = {"gamma 100": {"gamma": 100.0}, "width 0.5": {"width": 0.5}, "gamma 1": {"gamma": 1.0}}
LONGER = {"gamma 100": (0.5, 1, 2, 4), "width 0.5": (0.5, 1, 2, 4), "gamma 1": (1, 4, 16)}
BUDGETS = {"gamma 100": (250, 1000, 4000, 10_000), "width 0.5": (), "gamma 1": (1000, 4000, 16_000)}
CHAINS, SILENT = 4, 0.05


def run(
    quick: bool = False, size: int = 1000, networks: int = 20, first: int = 0, hoods: Any = tuple(HOODS),
    longer: Any = None, ours: bool = True, beside: bool = True, compared: int = 6, preconditioner: str = "auto",
    sampler: str = "auto", batch_size: int | None = None, budget: int | None = None, known: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """A row a network, neighbourhood, method and budget.

    Args:
        quick: Two networks, one budget.
        size: Parameters of a network, about.
        networks: How many.
        first: Seed of the first.
        hoods: Which of `HOODS`.
        longer: Factors on steps and budget of the default; None: `LONGER`.
        ours: Run `degrade.llc`.
        beside: Run devinterp's samplers.
        compared: On how many of the networks.
        preconditioner: Of `degrade.llc`.
        sampler: Of `degrade.llc`.
        batch_size: Of `degrade.llc`; None: its default, all examples.
        budget: Of `degrade.llc`: steps of a chain, lengthening included, before `longer`.
        known: An earlier csv of these networks, whose exact values are taken again; they do not depend on our code.
    """
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    settings = {"preconditioner": preconditioner, "sampler": sampler, "batch_size": batch_size, "budget": budget}
    for seed in range(first, first + (2 if quick else networks)):
        network = drawn(size, seed)
        for hood in [hoods] if isinstance(hoods, str) else hoods:
            exact, error = truth(network, HOODS[hood]) if known is None else recalled(known, network.name, hood)
            about = {"network": network.name, "parameters": network.parameters, "seed": seed, "neighbourhood": hood,
                     "exact": exact, "exact_se": error}  # fmt: skip
            factors = LONGER[hood] if longer is None else np.atleast_1d(longer).tolist()
            if ours:
                rows += [about | own(network, hood, factor, settings) for factor in factors[: 1 if quick else None]]
            if beside and seed < first + compared:
                rows += [about | row for row in theirs(network, hood, BUDGETS[hood][: 1 if quick else None])]
    table = pd.DataFrame(rows)
    return table.assign(error=table.llc / table.exact - 1)


def recalled(known: str, name: str, hood: str) -> tuple[float, float]:
    """The exact λ of a network and its error, as an earlier run found them."""
    table = pd.read_csv(known, comment="#")
    row = table[(table.network == name) & (table.neighbourhood == hood)].iloc[0]
    return float(row.exact), float(row.exact_se)


def own(network: Network, hood: str, longer: float, settings: dict[str, Any]) -> dict[str, Any]:
    """One run of `degrade.llc`, all else default."""
    data = network.data()
    with counted() as spent:
        result = degrade.llc(
            network.module(), data, nbeta=network.nbeta, loss=squares, longer=longer, chains=CHAINS,
            progress=False, **HOODS[hood], **settings,
        )  # fmt: skip
    row, batch = result.table.iloc[0], settings["batch_size"] or len(data[0])
    return {
        "method": f"{settings['sampler']} {settings['preconditioner']}", "longer": longer,
        "gradients": round(spent.gradients(batch)), "calls": spent.calls,
        **{stage: round(number / batch) for stage, number in spent.stages.items()}, "llc": result.llc, "se": result.se,
        "verdict": result.verdict, "reason": result.reason, "steps": row.steps, "spent": row.spent,
        "step_size": row.step_size, "bound": row.bound, "heating": row.heating, "heating_se": row.heating_se,
        "temperature": row.temperature, "virial": row.virial, "rhat": row.rhat, "ess": row.ess,
    }  # fmt: skip


def theirs(network: Network, hood: str, budgets: tuple[int, ...]) -> list[dict[str, Any]]:
    """devinterp's samplers at every step size of the grid, each budget being the first part of the longest."""
    rows: list[dict[str, Any]] = []
    goal, center = torch.as_tensor(network.goal).float(), [torch.as_tensor(w).float() for w in network.layers]

    def energy(layers: Any) -> Tensor:
        whole = layers[0]
        for layer in layers[1:]:
            whole = layer @ whole
        return ((whole - goal) ** 2).sum((-2, -1)) / 2

    for name in peers.SAMPLERS if budgets else ():
        for rate in peers.RATES:
            series = peers.trace(
                name, energy, center, network.precision(HOODS[hood]), network.nbeta, rate, max(budgets), CHAINS, seed=0
            )
            for steps, each in zip(budgets, peers.last_halves(series, budgets), strict=True):
                rows.append({
                    "method": name, "longer": math.nan, "rate": rate, "gradients": steps * CHAINS, "steps": steps,
                    "llc": each.mean(), "se": each.std(ddof=1) / math.sqrt(CHAINS), "verdict": "",
                })  # fmt: skip
    return rows


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and largest |error| in %, and how many errors above 5 % (and chance) no verdict told of.

    devinterp has two lines a budget: the one step size of the grid that is best for all its networks, and each
    network's own best ("oracle").
    """
    table = table.assign(size=table.error.abs().fillna(np.inf))
    known = table.method.isin(list(peers.SAMPLERS))
    rows = [_line(part, *key) for key, part in table[~known].groupby(["neighbourhood", "method", "longer"], sort=False)]
    for (hood, name, _), part in table[known].groupby(["neighbourhood", "method", "steps"], sort=False):
        means = part.groupby("rate")["size"].mean()
        rows.append(_line(part[part.rate == means.idxmin()], hood, f"{name} lr {means.idxmin():g}", np.nan))
        rows.append(_line(part.loc[part.groupby("seed")["size"].idxmin()], hood, f"{name} oracle", np.nan))
    return pd.DataFrame(rows)


def _line(part: pd.DataFrame, hood: str, method: str, longer: float) -> dict[str, Any]:
    said = part.verdict.astype(str)
    chance = 3 * np.hypot(part.se.fillna(0), part.exact_se) / part.exact
    silent = (part["size"] > SILENT + chance) & said.str.startswith("ok")
    clean = part[said.str.startswith("ok")]["size"]
    return {
        "neighbourhood": hood, "method": method, "longer": longer, "networks": part.seed.nunique(),
        "gradients": round(part.gradients.mean()), "most": round(part.gradients.max()),
        "mean %": round(100 * part["size"].mean(), 2), "max %": round(100 * part["size"].max(), 2),
        "bias %": round(100 * part.error.mean(), 2), "ok": len(clean),
        "mean % of ok": round(100 * clean.mean(), 2), "max % of ok": round(100 * clean.max(), 2),
        "silent": int(silent.sum()),
        "silent > 5 %": int(((part["size"] > SILENT) & said.str.startswith("ok")).sum()),
    }  # fmt: skip
