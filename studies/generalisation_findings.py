"""What the spectrum from memorisation to generalisation looks like, in sentences with numbers and intervals."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from studies.behaviours import KEY
from studies.findings import UNIT, scale, usable
from studies.generalisation import axis_of
from studies.generalisation_calls import CALLS, LEVEL, Gap, by_chain
from studies.generalisation_draws import pairs, sentence
from studies.retention import crossing
from studies.statistics import chain_interval

RELATIONS = {
    "frequency": "how often an item was seen in training",
    "test": "what a behaviour takes off the test loss",
}


def finding(found: pd.DataFrame, gap: Gap, rungs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """The ladder, the calls, what E½ goes with, rule against memory, what improves test loss, what is undecided.

    Args:
        found: What `studies.generalisation.spectrum` returned.
        gap: The natural gap.
        rungs: What `studies.behaviours.rungs` returned.
        table: The study's table, for the chains.
    """
    relations = " ".join(_related(found, table, column) for column in RELATIONS)
    said = [_calls(found, gap, axis_of(table)), relations, sentence(pairs(table)), _useful(found), _undecided(found)]
    return [usable(rungs), *said]


def relation(found: pd.DataFrame, table: pd.DataFrame, column: str = "frequency") -> dict[str, float]:
    """Kendall's τ_b of E½ with another number of each behaviour: of each chain, averaged with a t interval.

    Chains that leave the ladder tie at its ends. The interval is over chains, for these behaviours: it says nothing
    of others.

    Args:
        found: A row per behaviour.
        table: The study's table, for the chains.
        column: Of `found`: the other number; behaviours without it are left out.

    Returns:
        tau, low, high, behaviours, chains; nan with fewer than three behaviours or two chains.
    """
    other = found.set_index(KEY)[column].astype(float).dropna()
    rows = by_chain(table).set_index(KEY)
    rows = rows[rows.index.isin(other.index)]
    taus = []
    for _, chain in rows.groupby("chain"):
        halves = {key: crossing(part["rise"], part["kept"]) for key, part in chain.groupby(level=KEY)}
        scores = [value if not side else side * np.inf for value, side in halves.values()]
        pairs = pd.DataFrame({"half": scores, "other": other.reindex(list(halves)).to_numpy(float)}).rank()
        taus.append(stats.kendalltau(pairs["half"], pairs["other"]).statistic if len(pairs) > 2 else np.nan)
    kept = [tau for tau in taus if np.isfinite(tau)]
    if len(kept) < 2:
        return {"tau": np.nan, "low": np.nan, "high": np.nan, "behaviours": 0, "chains": len(kept)}
    mean, _, low, high, chains = chain_interval(kept)
    behaviours = rows.index.nunique()
    return {"tau": mean, "low": max(low, -1), "high": min(high, 1), "behaviours": behaviours, "chains": chains}


def useful_yet_memorising(found: pd.DataFrame) -> pd.DataFrame:
    """Behaviours that improve the test loss (above 0 at the false discovery rate) and are called memorising."""
    return found[(found["call"] == "memorising") & found["improves"].fillna(False).astype(bool)]


def undecided(found: pd.DataFrame) -> list[str]:
    """Of every behaviour without a call, and of every call with a caveat, why."""
    still = found[found["call"] == "undecided"].to_dict("records")
    each = [f"{row['label']}: undecided, r at the gap {_left(row)}" for row in still]
    reasons = ["; " + row["why"] if row["why"] else "" for row in still]
    return [f"{said}{why}." for said, why in zip(each, reasons, strict=True)] + caveats(found)


def caveats(found: pd.DataFrame) -> list[str]:
    """Of every behaviour that cannot be called, why; of every one whose second opinion lies apart, both."""
    out = []
    for row in found.to_dict("records"):
        if row["call"] == "absent":
            out.append(f"{row['label']}: {row['reason'] or row['why']}.")
        if disagree(row):
            second = f"{row['second']:.3g} [{row['second_low']:.3g}, {row['second_high']:.3g}]"
            out.append(
                f"{row['label']}: the second opinion (one logistic curve) has E½ {second}, apart from {scale(row)}."
            )
    return out


def disagree(row: dict) -> bool:
    """Whether the intervals of the two opinions on E½ lie apart."""
    return bool(row["second_low"] > row["high"] or row["second_high"] < row["low"])


def _calls(found: pd.DataFrame, gap: Gap, axis: str) -> str:
    error = f" ± {gap.se:.1g}" if gap.se else ""
    text = f"At the natural gap ({gap.name}, {gap.value:.3g}{error} {UNIT}, {axis}), at a false discovery rate of"
    text += f" {LEVEL:.0%}"
    present = found[found["call"] != "absent"]
    by_call = {call: found[found["call"] == call] for call in CALLS}
    named = " and ".join(f"{len(by_call[call])} {call} ({_each(by_call[call])})" for call in CALLS[:2])
    return f"{text}, of {len(present)} behaviours {named} are called; {len(by_call['undecided'])} stay undecided."


def _each(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "none"
    return "; ".join(f"{row['label']}, E½ {scale(row)}" for row in rows.to_dict("records"))


def _related(found: pd.DataFrame, table: pd.DataFrame, column: str) -> str:
    tau = relation(found, table, column)
    if not np.isfinite(tau["tau"]):
        return (
            f"How E½ goes with {RELATIONS[column]} cannot be said: too few behaviours have a number for it, or chains"
            " an E½."
        )
    return (
        f"Kendall's τ_b of E½ with {RELATIONS[column]} is {tau['tau']:.2f} [{tau['low']:.2f}, {tau['high']:.2f}] over"
        f" {tau['behaviours']} behaviours (95 % t interval over {tau['chains']} chains)."
    )


def _useful(found: pd.DataFrame) -> str:
    if found["improves"].isna().all():
        return "What behaviours contribute to test loss is not known: this corpus does not say what its tokens ask for."
    both, memorising = useful_yet_memorising(found), (found["call"] == "memorising").sum()
    if not memorising:
        return "No behaviour is called memorising, so none of which to ask whether it improves the test loss."
    if both.empty:
        return f"None of the {memorising} behaviours called memorising improves the test loss detectably."
    each = [f"{row['label']} ({_amount(row)})" for row in both.to_dict("records")]
    return (
        f"{len(both)} of {memorising} behaviours called memorising nevertheless improve the test loss, by so many"
        f" {UNIT} over guessing: {'; '.join(each)}."
    )


def _amount(row: dict) -> str:
    half = 1.96 * row["test_se"]
    return f"{row['test']:.2g} [{row['test'] - half:.2g}, {row['test'] + half:.2g}]"


def _undecided(found: pd.DataFrame) -> str:
    still = found[found["call"] == "undecided"]
    said = []
    for why, rows in still.groupby("why", sort=False):
        each = ", ".join(f"{row['label']} {_left(row)}" for row in rows.to_dict("records"))
        said.append(f"{each}{': ' + str(why) if why else ''}.")
    text = f"Not decided, with r at the gap: {' '.join(said)}" if said else "No behaviour stayed undecided."
    return " ".join([text, *caveats(found)])


def _left(row: dict[Hashable, Any]) -> str:
    """What is left of a behaviour at the gap."""
    q = f" (q = {row['q']:.2g})" if np.isfinite(row["q"]) else ""
    return f"{row['at_gap']:.2f} [{row['at_gap_low']:.2f}, {row['at_gap_high']:.2f}]{q}"
