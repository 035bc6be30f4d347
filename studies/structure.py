"""Structure beyond the loss: a model degraded to another's loss, against that other model, question by question.

    d = ± (f(degraded) − f(other)) / |f(w*) − f₀|        + when more is better, w* the degraded model's own

f(degraded) is read off linearly between the two rungs of a chain whose base losses enclose the other model's. The error
of a mean d has a part from the chains and one from the questions, both models being asked the same ones.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from studies.behaviours import BEHAVIOUR, severity
from studies.retention import SIGNAL

OVERALL = "all behaviours"


class Lost(NamedTuple):
    """A mean difference as a share of the degraded model's own f(w*) − f₀; positive: the other model has less."""

    label: str
    value: float
    se: float
    freedom: float
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
        key: rows.drop_duplicates("rung").sort_values("rise") for key, rows in mine.groupby("chain")
    }
    reach = min(float(rows["rise"].max()) for rows in ladders.values())
    if gap > reach:
        note = f"the ladder ends {reach:.3g} nats per token above its own loss, the other model's is {gap:.3g} above"
        return [Lost(OVERALL, np.nan, np.nan, np.nan, "trained", note)]
    between = {key: _weights(rows, max(gap, 0.0)) for key, rows in ladders.items()}
    verdict = max((_at(ladders[key], weights) for key, weights in between.items()), key=severity)
    note = f"at a base loss of {own[1]:.4g} nats per token" + ("" if gap > 0 else ", better than the base model's own")
    found = [one for _, rows in mine.groupby(BEHAVIOUR, observed=True) if (one := _parts(part, rows, between, other))]
    means = [Lost(one.label, *_mean([one]), verdict, note) for one in found]
    return means + ([Lost(OVERALL, *_mean(found), verdict, note)] if found else [])


def _weights(rows: pd.DataFrame, rise: float) -> dict[int, float]:
    """Rungs of a chain and their weights in the linear reading at a rise."""
    rung, place = rows["rung"].to_numpy(), rows["rise"].to_numpy()
    if len(place) == 1:
        return {int(rung[0]): 1.0}
    after = int(np.clip(np.searchsorted(place, rise), 1, len(place) - 1))
    share = float(np.clip((rise - place[after - 1]) / (place[after] - place[after - 1]), 0, 1))
    return {int(rung[after - 1]): 1 - share, int(rung[after]): share}


def _at(rows: pd.DataFrame, weights: dict[int, float]) -> str:
    used = rows[rows["rung"].isin([rung for rung, weight in weights.items() if weight > 0])]
    return max(used["verdict"], key=severity)


def _parts(part: pd.DataFrame, rows: pd.DataFrame, between: dict[Any, dict[int, float]], other: str) -> _Parts | None:
    """Differences of one behaviour, or None where the degraded model does not have it."""
    first = rows.iloc[0]
    gap = (first["start"] - first["chance"]) * (1 if first["higher"] else -1)
    if not gap > SIGNAL * np.nan_to_num(first["start_se"]):
        return None
    asked = part[(part[BEHAVIOUR] == first[BEHAVIOUR]).all(axis=1)]
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


def _mean(found: list[_Parts]) -> tuple[float, float, float]:
    """Mean over behaviours, its standard error from chains and questions, and Satterthwaite's degrees of freedom."""
    by_chain = np.mean([one.chains for one in found], axis=0)
    questions = sum(one.variance() for one in found)
    chains = by_chain.var(ddof=1) / len(by_chain) if len(by_chain) > 1 else np.nan
    parts = np.array([chains, questions / len(found) ** 2])
    freedom = np.array([max(len(by_chain) - 1, 1), max(sum(len(one.questions) - 1 for one in found), 1)])
    bottom = float((parts**2 / freedom).sum())
    return float(by_chain.mean()), float(np.sqrt(parts.sum())), parts.sum() ** 2 / bottom if bottom > 0 else np.nan
