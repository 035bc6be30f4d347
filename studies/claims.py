"""Claims on the ladder: on which share of draws a statement holds at each rung, and up to which rise it lasts."""

import numpy as np
import pandas as pd

from studies.behaviours import rungs, swept
from studies.statistics import share_interval

COLUMNS = ["dial", "claim", "rung", "target", "rise", "share", "low", "high", "chains", "draws", "verdict"]


def claims(table: pd.DataFrame) -> pd.DataFrame:
    """A row per dial, claim and rung: the share of draws on which the claim holds, with an interval over chains.

    The interval is `studies.statistics.share_interval`: honest at 0 and 1, where it takes a chain for a single draw.

    Returns:
        dial, claim, rung, target, rise (nats per token), share, low, high, chains, draws, verdict. Rung 0 (w*) has no
        interval.
    """
    rows = table[swept(table) & (table["measure"] == "holds") & (table["verdict"] != "failed")]
    named = rows.assign(claim=rows["probe"].astype(str).str.removeprefix("claim: "))
    out = []
    for (dial, claim, rung), draws in named.groupby(["dial", "claim", "rung"], observed=True):
        share, _, low, high, chains = share_interval(draws["value"], draws["chain"])
        limits = {"low": low, "high": high} if rung else {"low": np.nan, "high": np.nan}
        count = {"chains": chains, "draws": len(draws)}
        out.append({"dial": str(dial), "claim": claim, "rung": rung, "share": share, **limits, **count})
    if not out:
        return pd.DataFrame(columns=COLUMNS)
    where = rungs(table)[["dial", "rung", "target", "rise", "verdict"]]
    return pd.DataFrame(out).merge(where, on=["dial", "rung"])[COLUMNS]


def lasting(held: pd.DataFrame, share: float = 0.95) -> pd.DataFrame:
    """A row per dial and claim: the largest rise up to which it holds on at least `share` of the draws of every rung.

    Args:
        held: What `claims` returned.
        share: Share of draws asked for.

    Returns:
        dial, claim, until (nats per token; 0: at w* only, nan: not even there), target, verdict of that rung, last
        (whether it is the last rung of the ladder, so that `until` is only a lower bound).
    """
    out = []
    for (dial, claim), rows in held.sort_values("rung").groupby(["dial", "claim"], sort=False):
        kept = rows[(rows["share"] >= share).cumprod().astype(bool)]
        end = kept.iloc[-1] if len(kept) else None
        found = {"until": np.nan, "target": np.nan, "verdict": "trained", "last": False}
        if end is not None:
            found = {**end[["target", "verdict"]], "until": end["rise"], "last": len(kept) == len(rows)}
        out.append({"dial": dial, "claim": claim, **found})
    return pd.DataFrame(out)
