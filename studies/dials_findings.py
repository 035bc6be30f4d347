"""What the dials study found, in sentences with numbers, intervals and the verdicts they rest on."""

import numpy as np
import pandas as pd

from studies.dials_agreement import AGAINST, NATURAL
from studies.findings import usable

CALLED = 0.05
MEANS = {"frequency": "training frequency", "generality": "generality"}


def finding(found: pd.DataFrame, rungs: pd.DataFrame) -> list[str]:
    """How far the ladder holds, each dial's correlations, those that differ, and what could not be decided.

    Args:
        found: What `studies.dials_agreement.agreements` returned.
        rungs: What `studies.behaviours.rungs` returned.
    """
    held = usable(rungs[rungs["dial"] == NATURAL])
    if found.empty:
        return [held, "Nothing can be ranked: no dial has two behaviours with an E½ and a frequency or a class."]
    out = [held, *(sentence for against in AGAINST if (sentence := _against(found, against)))]
    silent = sorted(set(rungs["dial"]) - set(found["dial"]))
    if silent:
        out.append(f"Without a rung or a ranking: {', '.join(silent)}.")
    tested = found[found["p"].notna()]
    open_ = int((~(tested["q"] <= CALLED)).sum())
    untested = sorted(set(found.loc[found["p"].isna() & (found["dial"] != NATURAL), "dial"]))
    alone = f" {', '.join(untested)}: one draw a rung, or no spread, so without a test." if untested else ""
    return [*out, f"Undecided: {open_} of {len(tested)} comparisons with the natural dial (q ≤ 0.05).{alone}"]


def number(row: dict) -> str:
    """τ_b with its interval."""
    if not np.isfinite(row["low"]):
        return f"{row['value']:.2f} (no interval)"
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _against(found: pd.DataFrame, against: str) -> str:
    rows = found[found["against"] == against].to_dict("records")
    if not rows:
        return ""
    said = [f"{row['dial']} {number(row)} ({row['verdict']})" for row in rows]
    text = f"τ_b of E½ with {MEANS[against]} over {rows[0]['behaviours']} behaviours: {', '.join(said)}."
    apart = [row for row in rows if row["q"] <= CALLED]
    words = [f"{row['dial']} ({'lower' if row['difference'] > 0 else 'higher'})" for row in apart]
    return f"{text} Different from the natural dial: {', '.join(words) if words else 'none'}."
