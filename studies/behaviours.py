"""From the rows of a sweep to behaviours: curves over the loss rise, half-retention scales, their order, and cells.

A behaviour is a (probe, measure, behaviour) among the rows that name a `behaviour`. Rungs whose verdict is `failed`
are left out everywhere but in `rungs`; `suspect` ones stay, and their verdict goes with every number made from them.
"""

from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from studies.retention import SIGNAL, HalfRetention, half_retention, retention
from studies.statistics import intervals

BEHAVIOUR = ["probe", "measure", "behaviour"]
KEY = ["dial", *BEHAVIOUR]
CURVE = ["rung", "mean", "se", "low", "high", "chains", "rise", "heldout_rise", "target", "verdict"]
START = ["start", "start_se", "examples", "chance", "higher", "binary"]
SEVERITY = ("trained", "ok", "ok (heated only)", "suspect", "failed")  # from good to bad


class Agreement(NamedTuple):
    """Kendall's τ_b between two orders, the number of behaviours it rests on, and how many had no place in both."""

    tau: float
    n: int
    left_out: int


def rungs(table: pd.DataFrame) -> pd.DataFrame:
    """A row per dial and rung, failed rungs and w* included.

    Args:
        table: Tidy table of a sweep with a column `dial`; marks are ignored.

    Returns:
        dial, rung, target, rise, heldout_rise (nats per token), verdict, chains, draws.
    """
    where = ["dial", "rung", "chain", "draw"]
    rows = table.loc[swept(table), [*where, "target", "rise", "heldout_rise", "verdict"]].drop_duplicates(where)
    out = rows.groupby(["dial", "rung"], observed=True).agg(
        target=("target", "first"),
        rise=("rise", "mean"),
        heldout_rise=("heldout_rise", "mean"),
        verdict=("verdict", "first"),
        chains=("chain", "nunique"),
        draws=("draw", "size"),
    )
    return out.reset_index().astype({"dial": str, "rung": int, "verdict": str})


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """A row per dial, behaviour and rung: the mean over draws, its 95 % interval over chains, and the retention.

    Intervals are those of `studies.statistics.intervals`, cut to 0..1 for binary measures; they have no width where
    all chains agree. Rung 0 is w*: one model, so without an interval.

    Returns:
        dial, probe, measure, behaviour, label, rung, target, rise, heldout_rise (nats per token), verdict, mean, se,
        low, high (unit of the measure), chains, start and chance (value at w*, chance level), higher, binary,
        retention, retention_low, retention_high.
    """
    draws = _per_draw(table)
    if draws.empty:
        return pd.DataFrame(columns=[*KEY, *CURVE, *START, "label", "retention", "retention_low", "retention_high"])
    where = draws.groupby([*KEY, "rung"], observed=True)[["rise", "heldout_rise"]].mean().reset_index()
    out = intervals(draws, [*KEY, "rung"], "value").merge(where, on=[*KEY, "rung"])
    out = out.merge(rungs(table)[["dial", "rung", "target", "verdict"]], on=["dial", "rung"])
    out = out.merge(starts(table), on=KEY)
    out["label"] = _labels(out)
    for limit in ("low", "high"):
        out[limit] = out[limit].mask(out["binary"], out[limit].clip(0, 1))
    return _with_retention(out).sort_values([*KEY, "rung"], ignore_index=True)


def starts(table: pd.DataFrame) -> pd.DataFrame:
    """A row per dial and behaviour: its value at w*, the standard error over examples, and the chance level.

    For binary measures the error is at least that of guessing, √(f₀(1−f₀)/n); it is nan when the rows name no
    examples. Where a measure declares no chance level, rows with the verdict "prior" (draws without the potential)
    give it, if there are any.

    Returns:
        dial, probe, measure, behaviour, start, start_se, chance, higher, binary, examples.
    """
    followed = _followed(table)
    rows = followed[followed["rung"] == 0]
    keyed = rows.groupby(KEY, observed=True, sort=False)
    means = keyed[["value", "chance"]].mean().rename(columns={"value": "start"})
    out = means.join(keyed[["higher", "binary"]].first())
    if "example" in rows:
        each = rows.groupby([*KEY, "example"], observed=True, sort=False)["value"].mean().groupby(KEY, observed=True)
        out = out.assign(start_se=each.sem(), examples=each.count())
    else:
        out = out.assign(start_se=np.nan, examples=0)
    prior = followed[followed["verdict"] == "prior"].groupby(KEY, observed=True)["value"].mean()
    out["chance"] = out["chance"].fillna(prior).astype(float)
    guessing = np.sqrt((out["chance"] * (1 - out["chance"])).clip(lower=0) / out["examples"].where(out["examples"] > 0))
    out["higher"] = out["higher"].astype("boolean").fillna(True).astype(bool)
    out["binary"] = out["binary"].astype("boolean").fillna(False).astype(bool)
    out["start_se"] = out["start_se"].mask(out["binary"], np.fmax(out["start_se"], guessing))
    return _plain(out.reset_index())


def ranking(table: pd.DataFrame) -> pd.DataFrame:
    """A row per dial and behaviour: its half-retention scale E½, ordered from the first to break.

    A chain stands at the mean rise of its own draws. See `studies.retention.half_retention` for the interval, for what
    censored chains do, and for when there is no scale.

    Returns:
        dial, probe, measure, behaviour, label, rank (within the dial; ties share their mean; nan without a scale),
        value, low, high (E½, nats per token), censored, chains, left, right, reason, start, start_se, chance, higher,
        binary, verdict (the worst among the rungs that enclose the interval; "trained" when only w* was looked at).
    """
    draws = _per_draw(table)
    if draws.empty:
        return pd.DataFrame(columns=[*KEY, *START, *HalfRetention.__dataclass_fields__, "verdict", "label", "rank"])
    means = draws[draws["rung"] > 0].groupby([*KEY, "rung", "chain"], observed=True)[["value", "rise"]].mean()
    by_behaviour = {key: rows.reset_index() for key, rows in means.groupby(KEY, observed=True)}
    ladders = _used(rungs(table))
    rows = []
    for start in starts(table).to_dict("records"):
        half = _half(by_behaviour.get(tuple(start[name] for name in KEY)), start)
        verdict = enclosing_verdict(ladders[ladders["dial"] == start["dial"]], half)
        rows.append(start | asdict(half) | {"verdict": verdict})
    out = pd.DataFrame(rows)
    out["label"] = _labels(out)
    out["rank"] = _score(out).groupby(out["dial"]).rank()
    return out.sort_values(["dial", "rank", "label"], ignore_index=True)


def rank_agreement(ranks: pd.DataFrame, a: str, b: str) -> Agreement:
    """Kendall's τ_b of E½ between two dials: behaviours censored on one side in every chain are tied at that end.

    Args:
        ranks: What `ranking` returned.
        a: A dial.
        b: Another.

    Raises:
        ValueError: A dial is not in the ranking.
    """
    known = sorted(ranks["dial"].unique())
    if missing := {a, b} - set(known):
        raise ValueError(f"no dial {sorted(missing)} in the ranking; it has {known}")
    scored = ranks.assign(score=_score(ranks))
    scores = scored.pivot_table(index=BEHAVIOUR, columns="dial", values="score", dropna=False)
    both = scores[[a, b]].dropna()
    named = ranks[ranks["dial"].isin([a, b])].groupby(BEHAVIOUR).ngroups
    tau = stats.kendalltau(both[a].rank(), both[b].rank()).statistic if len(both) > 1 else np.nan
    return Agreement(float(tau), len(both), named - len(both))


def cells(table: pd.DataFrame, probe: str, measure: str, keys: list[str], dial: str = "natural") -> pd.DataFrame:
    """A row per rung and cell (a patching site, a head): the mean over examples, draws and chains.

    Args:
        table: Tidy table of a sweep with a column `dial`.
        probe: Name of the probe.
        measure: Its measure.
        keys: Columns that name a cell, such as site, layer and position.
        dial: The dial.

    Returns:
        rung, the keys, value (unit of the measure), rise (nats per token), verdict.

    Raises:
        ValueError: No such row.
    """
    mine = (table["probe"] == probe) & (table["measure"] == measure) & (table["dial"] == dial)
    rows = table[mine & (table["verdict"] != "failed")]
    if rows.empty:
        wanted = (dial, probe, measure)
        raise ValueError(f"no rows of (dial, probe, measure) = {wanted}; the table has {_listing(table)}")
    each = rows.groupby(["rung", "chain", *keys], observed=True)["value"].mean()
    out = each.groupby(["rung", *keys], observed=True).mean().reset_index()
    where = rungs(table)
    return out.merge(where.loc[where["dial"] == dial, ["rung", "rise", "verdict"]], on="rung")


def marks(table: pd.DataFrame) -> pd.Series:
    """Loss rises to draw beside the ladder (exact gap, larger model, n-grams, untrained), nats per token, ascending."""
    rows = table[table["probe"] == "mark"]
    return rows.groupby(rows["measure"].astype(str))["value"].mean().sort_values()


def severity(verdict: str) -> int:
    """Place of a verdict from good to bad; an unknown one counts as suspect."""
    return SEVERITY.index(verdict) if verdict in SEVERITY else SEVERITY.index("suspect")


def swept(table: pd.DataFrame) -> pd.Series:
    """Which rows belong to a draw or to w*, as opposed to marks on the axis."""
    return table["rung"].notna() & (table["probe"] != "mark")


def _used(ladder: pd.DataFrame) -> pd.DataFrame:
    return ladder[~ladder["verdict"].isin(["failed", "prior"])]


def _followed(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that name a behaviour; none if no probe does."""
    if "behaviour" not in table:
        return table[:0].assign(behaviour=None)
    return table[swept(table) & table["behaviour"].notna()]


def _per_draw(table: pd.DataFrame) -> pd.DataFrame:
    rows = _followed(table)
    rows = rows[~rows["verdict"].isin(["failed", "prior"])]
    keys, values = [*KEY, "rung", "chain", "draw"], ["value", "rise", "heldout_rise"]
    coded = rows[keys + values].astype(dict.fromkeys(KEY, "category"))
    return _plain(coded.groupby(keys, observed=True, sort=False)[values].mean().reset_index())


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype({name: str for name in KEY})


def _with_retention(frame: pd.DataFrame) -> pd.DataFrame:
    gap = (frame["start"] - frame["chance"]) * np.where(frame["higher"], 1, -1)
    chance = frame["chance"].where(gap > SIGNAL * frame["start_se"].fillna(0))
    kept = {name: retention(frame[name], frame["start"], chance) for name in ("mean", "low", "high")}
    low, high = np.fmin(kept["low"], kept["high"]), np.fmax(kept["low"], kept["high"])
    return frame.assign(retention=kept["mean"], retention_low=low, retention_high=high)


def _half(rows: pd.DataFrame | None, start: dict) -> HalfRetention:
    if rows is None:
        rows = pd.DataFrame({"rise": [], "value": [], "chain": []})
    gap = (start["start"] - start["chance"]) * (1 if start["higher"] else -1)
    kept = retention(rows["value"], start["start"], start["chance"])
    return half_retention(rows["rise"], kept, rows["chain"], gap=gap, gap_se=start["start_se"])


def enclosing_verdict(ladder: pd.DataFrame, half: HalfRetention) -> str:
    """The worst verdict among the rungs that enclose the interval of a scale."""
    rows = ladder[ladder["rung"] > 0].sort_values("rise")
    if rows.empty or not half.measurable:
        return "trained"
    rise = rows["rise"].to_numpy()
    low, high = np.nan_to_num([half.low, half.high], nan=half.value)
    first = max(np.searchsorted(rise, low, side="right") - 1, 0)
    last = min(np.searchsorted(rise, high, side="left"), len(rise) - 1)
    return max(rows["verdict"].iloc[min(first, last) : last + 1], key=severity)


def _labels(frame: pd.DataFrame) -> pd.Series:
    pairs = frame[BEHAVIOUR].drop_duplicates()
    shared = set(pairs.loc[pairs["behaviour"].duplicated(keep=False), "behaviour"])
    full = frame["behaviour"] + " (" + frame["measure"] + ")"
    return frame["behaviour"].where(~frame["behaviour"].isin(shared), full)


def _score(ranks: pd.DataFrame) -> pd.Series:
    score = ranks["value"].mask((ranks["chains"] > 0) & (ranks["left"] == ranks["chains"]), 0.0)
    return score.mask((ranks["chains"] > 0) & (ranks["right"] == ranks["chains"]), np.inf)


def _listing(table: pd.DataFrame) -> list[tuple[str, ...]]:
    pairs = table[["dial", "probe", "measure"]].drop_duplicates().dropna()
    return sorted(tuple(map(str, row)) for row in pairs.itertuples(index=False))
