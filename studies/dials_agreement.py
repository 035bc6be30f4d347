"""Does a dial break the rare and the special before the frequent and the general? Rank correlations for each dial.

Kendall's τ_b of E½ with training frequency, and with generality, over the behaviours that have both, chain by chain;
the mean over chains has a t interval. Behaviours that leave the ladder are tied at that end. Frequency is how often the
item asked for occurs in training, as the probes say it (`frequency`, `copies`). Generality is a class given beforehand.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from studies.behaviours import BEHAVIOUR, severity, starts, swept
from studies.differences import Difference, limits, p_value, welch
from studies.retention import SIGNAL, crossing, retention
from studies.statistics import adjusted

GENERALITY = (  # the first that fits; None: it could be answered either way
    (r"canary|memor", 0.0, "a sequence recited"),
    (r"addition seen", None, ""),
    (r"facts|tail", 1.0, "a stored association"),
    (r"markov|n-gram", 2.0, "statistics that hold in any text of the kind"),
    (r"induction|retrieval|held out|repeat", 3.0, "a rule that works on content never seen"),
)
AGAINST = ("frequency", "generality")
NATURAL = "natural"
COLUMNS = ["dial", "against", "value", "low", "high", "se", "chains", "behaviours", "verdict", "difference", "p", "q"]


def generality(behaviour: str) -> float:
    """Class of a behaviour by its name: 0 recited, 1 stored, 2 statistics, 3 a rule; nan where the name does not tell.

    >>> [generality(name) for name in ("canary x8", "tail rare", "markov2", "retrieval", "addition seen")]
    [0.0, 1.0, 2.0, 3.0, nan]
    """
    for pattern, level, _ in GENERALITY:
        if re.search(pattern, behaviour):
            return np.nan if level is None else level
    return np.nan


def frequencies(table: pd.DataFrame) -> pd.Series:
    """Mean number of times that what a behaviour asks for occurs in training, by behaviour; nan where not said."""
    rows = table[swept(table) & table["behaviour"].notna() & (table["rung"] == 0)]
    said = [rows[name].astype(float) for name in ("frequency", "copies") if name in rows]
    often = pd.concat(said, axis=1).bfill(axis=1).iloc[:, 0] if said else pd.Series(np.nan, index=rows.index)
    return often.groupby([rows[name] for name in BEHAVIOUR]).mean()


def half_scales(table: pd.DataFrame) -> pd.DataFrame:
    """E½ by dial, behaviour and chain, in the column score: 0 left of the ladder, ∞ right of it."""
    used = table[swept(table) & table["behaviour"].notna() & ~table["verdict"].isin(["failed", "prior"])]
    keys = ["dial", *BEHAVIOUR, "chain"]
    means = used[used["rung"] > 0].groupby([*keys, "rung"], observed=True)[["value", "rise"]].mean().reset_index()
    begun: dict[Any, Any] = starts(table).set_index(["dial", *BEHAVIOUR]).to_dict("index")
    rows = []
    key: Any
    for key, each in means.groupby(keys, observed=True):
        first = begun[key[:-1]]
        gap = (first["start"] - first["chance"]) * (1 if first["higher"] else -1)
        if gap > SIGNAL * np.nan_to_num(first["start_se"]):
            kept = retention(each["value"], first["start"], first["chance"])
            scale, side = crossing(each["rise"], kept)
            rows.append([*key, scale if side == 0 else 0.0 if side < 0 else np.inf])
    return pd.DataFrame(rows, columns=[*keys, "score"]).dropna(subset=["score"])


def agreements(table: pd.DataFrame) -> pd.DataFrame:
    """τ_b of E½ with frequency and with generality for each dial, and its difference from the natural dial.

    Returns:
        dial, against, value, low, high (95 %, over chains; nan with one chain), se, chains, behaviours, verdict (the
        worst of the dial's rungs), difference (natural minus this dial), p (of none, Welch), q (Benjamini–Hochberg over
        all dials and both).
    """
    scales = half_scales(table)
    places = {"frequency": frequencies(table), "generality": _classes(scales)}
    verdicts = table[swept(table) & (table["rung"] > 0) & (table["verdict"] != "failed")].groupby("dial")["verdict"]
    worst: dict[Any, str] = {dial: max(words.unique(), key=severity) for dial, words in verdicts}
    rows = [row for against in AGAINST for row in _rows(scales, places[against], against, worst)]
    out = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "q"])
    return out.assign(q=adjusted(out["p"]) if len(out) else [])[COLUMNS]


def _rows(scales: pd.DataFrame, place: pd.Series, against: str, worst: dict[Any, str]) -> Iterator[dict]:
    taus = {dial: _taus(rows, place) for dial, rows in scales.groupby("dial", sort=False)}
    taus = {dial: values for dial, values in taus.items() if len(values.tau)}
    counts = scales[scales[BEHAVIOUR].apply(tuple, axis=1).map(place).notna()].groupby("dial")["behaviour"].nunique()
    for dial, values in taus.items():
        mean, low, high, se = _mean(values.tau, values.step)
        apart = Difference(np.nan, np.nan, np.nan)
        if dial != NATURAL and NATURAL in taus:
            apart = welch(taus[NATURAL].tau, values.tau, (taus[NATURAL].step, values.step))
        yield {"dial": dial, "against": against, "value": mean, "low": low, "high": high, "se": se,
               "chains": len(values.tau), "behaviours": int(counts[dial]), "verdict": worst[dial],
               "difference": apart.value, "p": p_value(apart)}  # fmt: skip


class _Taus(NamedTuple):
    """τ_b of each chain, and how far one swapped pair moves it."""

    tau: np.ndarray
    step: float


def _mean(tau: np.ndarray, step: float) -> tuple[float, float, float, float]:
    """Mean, limits and standard error over chains; where all agree, as if one chain were a swapped pair apart."""
    count = len(tau)
    if count < 2:
        return float(tau.mean()), np.nan, np.nan, np.nan
    found = Difference(float(tau.mean()), float(np.sqrt(max(tau.var(ddof=1), step**2 / count) / count)), count - 1)
    low, high = limits(found)
    return found.value, max(low, -1.0), min(high, 1.0), found.se


def _taus(scales: pd.DataFrame, place: pd.Series) -> _Taus:
    """τ_b of each chain; chains in which all are tied have none."""
    out, steps = [], [0.0]
    for _, rows in scales.groupby("chain"):
        at = rows[BEHAVIOUR].apply(tuple, axis=1).map(place)
        both = rows.assign(at=at.to_numpy(float)).dropna(subset=["at"])
        if len(both) > 1:
            out.append(float(stats.kendalltau(both["score"].rank(), both["at"]).statistic))
            pairs = [_untied(both[name]) for name in ("score", "at")]
            steps.append(2 / np.sqrt(pairs[0] * pairs[1]) if min(pairs) > 0 else 0.0)
    return _Taus(np.array([tau for tau in out if np.isfinite(tau)]), max(steps))


def _untied(values: pd.Series) -> int:
    """Number of pairs with different values.

    >>> _untied(pd.Series([1.0, 1.0, 2.0]))
    2
    """
    counts = values.value_counts()
    return int(len(values) * (len(values) - 1) / 2 - (counts * (counts - 1) / 2).sum())


def _classes(scales: pd.DataFrame) -> pd.Series:
    keys = scales[BEHAVIOUR].drop_duplicates()
    index = pd.MultiIndex.from_frame(keys)
    return pd.Series([generality(name) for name in keys["behaviour"]], index=index, dtype=float)
