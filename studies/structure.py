"""Structure beyond the loss: a model degraded to another's loss, against that other model, question by question.

    d = ± (f(degraded) − f(other)) / |f(w*) − f₀|        + when more is better, w* the degraded model's own

f(degraded) is read off between the two rungs of a chain whose base losses enclose the other model's, linearly in the
logarithm of the rise. Between w* and the first rung no curve is known: d is only known to lie between its values at the
two, and the interval has both. The error of a mean d has a part from the chains and one from the questions, both models
being asked the same ones. The other model is one model: what another seed would have made of it is not in the error.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from studies.behaviours import BEHAVIOUR, severity
from studies.differences import Difference
from studies.retention import SIGNAL

OVERALL = "all behaviours"
BETWEEN = "between w* and the first rung"  # where a difference is only bounded


class Lost(NamedTuple):
    """A mean difference as a share of the degraded model's own f(w*) − f₀; positive: the other model has less."""

    label: str
    difference: Difference
    verdict: str
    note: str


class _Parts(NamedTuple):
    """Differences of one behaviour: by chain and by question, and how far one answer moves (0 if not yes or no)."""

    label: str
    chains: np.ndarray
    questions: np.ndarray
    step: float

    def variance(self) -> float:
        """Of the mean over questions; where all agree, as if one answer differed."""
        count = len(self.questions)
        return max(self.questions.var(ddof=1), self.step**2 / count) / count if count > 1 else 0.0


def lost(part: pd.DataFrame, chains: pd.DataFrame, degraded: str, other: str) -> list[Lost]:
    """What the other model lacks, behaviour by behaviour, and on average over them.

    Args:
        part: Sweeps of one potential with a column `model`.
        chains: What `studies.finetuning_penalty.by_chain` made of them.
        degraded: The model that is degraded.
        other: The model it is compared with, at its own weights.

    Returns:
        A row per behaviour that the degraded model has at w*; empty with none.
    """
    mine = chains[chains["model"] == degraded]
    own = [float(rows["base"][rows["rung"] == 0].iloc[0]) for rows in (mine, chains[chains["model"] == other])]
    gap = own[1] - own[0]
    ladders: dict[Any, pd.DataFrame] = {
        key: rows[(rows["rise"] > 0) | (rows["rung"] == 0)].drop_duplicates("rung").sort_values("rise")
        for key, rows in mine.groupby("chain")
    }
    reach = min(float(rows["rise"].max()) for rows in ladders.values())
    if gap > reach:
        note = f"the ladder ends {reach:.3g} nats per token above its own loss, the other model's is {gap:.3g} above"
        note = note if reach > 0 else "no rung of the ladder can be used"
        return [Lost(OVERALL, Difference(np.nan, np.nan, np.nan), "trained", note)]
    readings = _readings(ladders, max(gap, 0.0))
    verdict = max((_at(ladders[key], one[key]) for one in readings for key in one), key=severity)
    note = f"at a base loss of {own[1]:.4g} nats per token" + ("" if gap > 0 else ", better than the base model's own")
    note += f", {BETWEEN}" if len(readings) > 1 else ""
    answers = dict(list(part[part["model"].isin([degraded, other])].groupby(BEHAVIOUR, observed=True)))
    asked = [
        [one for between in readings if (one := _parts(answers[key], rows, between, other))]
        for key, rows in mine.groupby(BEHAVIOUR, observed=True)
    ]
    found = [each for each in asked if each]
    means = [Lost(each[0].label, _hull([_mean([one]) for one in each]), verdict, note) for each in found]
    whole = [_mean(list(each)) for each in zip(*found, strict=True)]
    return means + ([Lost(OVERALL, _hull(whole), verdict, note)] if found else [])


def _readings(ladders: dict[Any, pd.DataFrame], rise: float) -> list[dict[Any, dict[int, float]]]:
    """Weights of the rungs of every chain at a rise: one reading, or w* and the first rungs if it lies between them."""
    first = {key: float(rows["rise"].iloc[1]) for key, rows in ladders.items() if len(rows) > 1}
    if rise > 0 and any(rise < place for place in first.values()):
        ends = ({key: {int(rows["rung"].iloc[0]): 1.0} for key, rows in ladders.items()},
                {key: _weights(rows, max(rise, first.get(key, 0.0))) for key, rows in ladders.items()})  # fmt: skip
        return list(ends)
    return [{key: _weights(rows, rise) for key, rows in ladders.items()}]


def _hull(ends: list[Difference]) -> Difference:
    """One reading as it is; of two the middle, reaching to both, with the larger error and the smaller freedom."""
    if len(ends) == 1:
        return ends[0]
    values, widest = [one.value for one in ends], max(ends, key=lambda one: np.nan_to_num(one.se, nan=np.inf))
    half = (max(values) - min(values)) / 2
    freedom = min((one.freedom for one in ends if np.isfinite(one.freedom)), default=np.nan)
    return Difference(min(values) + half, widest.se, freedom, down=half, up=half)


def _weights(rows: pd.DataFrame, rise: float) -> dict[int, float]:
    """Rungs of a chain and their weights in the reading at a rise, linear in its logarithm."""
    rung, place = rows["rung"].to_numpy(), rows["rise"].to_numpy()
    if len(place) == 1:
        return {int(rung[0]): 1.0}
    if rise <= 0:
        return {int(rung[0]): 1.0}
    after = int(np.clip(np.searchsorted(place, rise), 1, len(place) - 1))
    low, high = place[after - 1 : after + 1]
    share = 1.0 if low <= 0 else float(np.clip(np.log(rise / low) / np.log(high / low), 0, 1))
    return {int(rung[after - 1]): 1 - share, int(rung[after]): share}


def _at(rows: pd.DataFrame, weights: dict[int, float]) -> str:
    used = rows[rows["rung"].isin([rung for rung, weight in weights.items() if weight > 0])]
    return max(used["verdict"], key=severity)


def _parts(asked: pd.DataFrame, rows: pd.DataFrame, between: dict[Any, dict[int, float]], other: str) -> _Parts | None:
    """Differences of one behaviour, of which all was `asked`, or None where the degraded model does not have it."""
    first = rows.iloc[0]
    gap = (first["start"] - first["chance"]) * (1 if first["higher"] else -1)
    if not gap > SIGNAL * np.nan_to_num(first["start_se"]):
        return None
    asked = asked.assign(example=asked["example"].fillna(-1) if "example" in asked else -1)
    theirs = asked[(asked["model"] == other) & (asked["rung"] == 0)].groupby("example")["value"].mean()
    mine = asked[asked["model"] == first["model"]]
    start = mine[mine["rung"] == 0].groupby("example")["value"].mean()
    by_rung = mine.groupby(["chain", "rung", "example"])["value"].mean()
    read = [
        sum(weight * (start if rung == 0 else by_rung[chain, rung]) for rung, weight in weights.items() if weight > 0)
        for chain, weights in between.items()
    ]
    each = np.array([(one - theirs).to_numpy(float) for one in read]) / gap * (1 if first["higher"] else -1)
    return _Parts(str(first["behaviour"]), each.mean(1), each.mean(0), 1 / gap if first["binary"] else 0.0)


def _mean(found: list[_Parts]) -> Difference:
    """Mean over behaviours, its standard error from chains and questions, and Satterthwaite's degrees of freedom."""
    by_chain = np.mean([one.chains for one in found], axis=0)
    questions = sum(one.variance() for one in found)
    chains = by_chain.var(ddof=1) / len(by_chain) if len(by_chain) > 1 else np.nan
    parts = np.array([chains, questions / len(found) ** 2])
    freedom = np.array([max(len(by_chain) - 1, 1), max(sum(len(one.questions) - 1 for one in found), 1)])
    bottom = float((parts**2 / freedom).sum())
    degrees = float(parts.sum() ** 2 / bottom) if bottom > 0 else np.nan
    return Difference(float(by_chain.mean()), float(np.sqrt(parts.sum())), degrees)
