"""Alarms of `degrade.llc` on deep linear networks that are sampled wrongly on purpose, and inside a first-order jump.

Each network has the step and length that the default finds (`found`), and then rungs of that length, so that nothing is
mended: at that step times 1, 2, 3, 3.6, 10, 1/10 and 1/100; at that step with batches of 4 and of 1 of the examples (it
was found for all of them); with its own step in a neighbourhood ten times as wide, and in one so tight that the rise is
the neighbourhood's own doing. The truth is blocked Gibbs at the same nβ and neighbourhood.

A case is `wrong` if its error exceeds 5 % (and what the truth's own error explains), or if the exact rise is above 80 %
of that of draws from the neighbourhood alone; it is `flagged` if the verdict does not begin with `ok`; `chance` says
that an error is within 3 of the standard errors that come with the result.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

import degrade
from degrade.verdict import OK, REACH
from tests.benchmarks.networks import Network, drawn, squares, truth
from tests.degrade.test_cooling import GAMMA, TwoPhases, critical, data, exact
from tests.truths import gibbs
from tests.truths.targets import as_loss

WRONG, USUAL = 0.05, {"gamma": 100.0}
FACTORS = {"x 1": 1.0, "x 2": 2.0, "x 3": 3.0, "x 3.6": 3.6, "x 10": 10.0, "/ 10": 0.1, "/ 100": 0.01}
BATCHES = {"batch 4": 4, "batch 1": 1}
HOODS = {"wide": {"gamma": 1.0}, "tight": {"gamma": 1e5}}
JUMPS = {"jump, heated only": False, "jump, cooled": True}
JUMP = (1.6, 1.3, 1.0, 0.9, 0.8, 0.7, 0.6, 0.3, 0.2)


def run(quick: bool = False, networks: int = 20, size: int = 300, first: int = 0, jump: bool = True) -> pd.DataFrame:
    """A row a network and case, and a row a rung of the jump.

    Args:
        quick: Two networks.
        networks: How many.
        size: Parameters of a network, about.
        first: Seed of the first.
        jump: Also climb the jump.
    """
    torch.set_num_threads(1)
    rows = [row for seed in range(first, first + (2 if quick else networks)) for row in cases(drawn(size, seed), seed)]
    for case, cool in JUMPS.items() if jump else ():
        rows += jumped(case, cool)
    return pd.DataFrame(rows)


def cases(network: Network, seed: int) -> Iterator[dict[str, Any]]:
    """All runs of one network."""
    known = truth(network, USUAL)
    result = sampled(network, seed)
    step = float(result.table.step_size[0])
    length = {"steps": int(result.table.steps[0]), "burn_in": int(result.table.burn_in[0])}
    yield row(network, seed, "found", result, known)
    for case, factor in FACTORS.items():
        yield row(network, seed, case, sampled(network, seed, step_size=factor * step, **length), known)
    for case, size in BATCHES.items():
        result = sampled(network, seed, step_size=step, batch_size=size, **length)
        yield row(network, seed, case, result, known)
    for case, hood in HOODS.items():
        yield row(network, seed, case, sampled(network, seed, **length, **hood), truth(network, hood), hood)


def sampled(network: Network, seed: int, **settings: Any) -> degrade.LLC | RuntimeError:
    """One coefficient; or the error of a run in which no chain held, which is an alarm too."""
    settings = ({} if "gamma" in settings else USUAL) | settings
    try:
        return degrade.llc(
            network.module(), network.data(), nbeta=network.nbeta, loss=squares, chains=4, draws=2, seed=seed,
            progress=False, **settings,
        )  # fmt: skip
    except RuntimeError as refusal:
        return refusal


def row(
    network: Network, seed: int, case: str, result: Any, known: tuple[float, float], hood: dict[str, float] = USUAL
) -> dict[str, Any]:
    """What came out, against the truth."""
    lam, lam_se = known
    about = {"network": network.name, "seed": seed, "case": case, "exact": lam, "exact_se": lam_se}
    about["own"] = lam / network.nbeta / prior_rise(network, hood) > REACH
    if isinstance(result, RuntimeError):
        return about | {"verdict": "refused", "reason": str(result), "wrong": True, "chance": False, "flagged": True}
    error = result.llc / lam - 1
    wrong = about["own"] or not abs(error) <= WRONG + 3 * lam_se / lam
    columns = ("temperature", "virial", "rhat", "ess", "heating", "step_size", "restarts", "bound")
    return about | {
        "llc": result.llc, "se": result.se, "error": error, "wrong": wrong,
        "chance": abs(error) <= 3 * float(np.hypot(result.se, lam_se)) / lam, "flagged": flagged(result.verdict),
        "verdict": result.verdict, "reason": result.reason, **result.table.iloc[0][list(columns)].to_dict(),
    }  # fmt: skip


def prior_rise(network: Network, hood: dict[str, float]) -> float:
    """E_max: the mean rise of 500 draws from the neighbourhood alone."""
    generator = np.random.default_rng(0)
    layers = [
        w + generator.standard_normal((500, *w.shape)) * a**-0.5
        for w, a in zip(network.layers, network.precision(hood), strict=True)
    ]
    start = ((gibbs.product(network.layers) - network.goal) ** 2).sum() / 2
    return float((((gibbs.product(layers) - network.goal) ** 2).sum((1, 2)) / 2 - start).mean())


def flagged(verdict: str) -> bool:
    """Whether a verdict is anything but ok or ok (heated only)."""
    return not verdict.startswith(OK)


def jumped(case: str, cool: bool) -> list[dict[str, Any]]:
    """A ladder through a jump, a row a rung; it is wrong if its rise is off by more than 10 %."""
    nbetas = [critical() * factor for factor in JUMP]
    table = degrade.ladder(
        TwoPhases(), data(), nbetas=nbetas, loss=as_loss, gamma=GAMMA, chains=4, steps=500, burn_in=150, draws=2,
        cool=cool, progress=False,
    ).table.iloc[1:]  # fmt: skip
    rows = []
    for nbeta, rung in zip(nbetas, table.itertuples(), strict=True):
        error = rung.llc / nbeta / exact(nbeta) - 1
        rows.append({
            "network": f"two phases, nbeta {nbeta:.3g}", "case": case, "exact": nbeta * exact(nbeta), "llc": rung.llc,
            "se": rung.llc_se, "error": error, "wrong": abs(error) > 0.1, "chance": False,
            "flagged": flagged(rung.verdict), "verdict": rung.verdict, "reason": rung.reason, "rhat": rung.rhat,
        })  # fmt: skip
    return rows


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row a case: how many are wrong and flagged, how many right and flagged all the same."""
    parts = {case: part for case, part in table.groupby("case", sort=False)}
    own = table[~table.case.str.startswith("jump")]
    parts["all networks"] = own
    parts["all networks, step x 1 or more"] = own[
        own.case.isin(["found", "x 1", "x 2", "x 3", "x 3.6", "x 10", *BATCHES])
    ]
    return pd.DataFrame([line(case, part) for case, part in parts.items() if len(part)])


def line(case: str, part: pd.DataFrame) -> dict[str, Any]:
    """Counts of one case."""
    wrong, right = part[part.wrong.astype(bool)], part[~part.wrong.astype(bool)]
    return {
        "case": case, "runs": len(part), "mean error %": round(100 * part.error.mean(), 1), "wrong": len(wrong),
        "flagged of wrong": int(wrong.flagged.sum()),
        "silent beyond chance": int((~wrong.flagged.astype(bool) & ~wrong.chance.astype(bool)).sum()),
        "right": len(right), "flagged of right": int(right.flagged.sum()),
        "ok in full": int((part.verdict == OK).sum()),
        "caught %": round(100 * wrong.flagged.mean(), 1), "false alarms %": round(100 * right.flagged.mean(), 1),
    }  # fmt: skip
