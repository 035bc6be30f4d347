"""What a table of the study says: both temperatures, λ at each, what changes with them, with n, with the width."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from studies.temperatures_changes import Mean, agreement, changes, levels, ratio, reliability, swaps
from studies.temperatures_scales import NATURAL, WATANABE, Temperature, at, worst

FAMILIES = ("layers", "heads", "kinds")


class Reading(NamedTuple):
    """Everything that findings, figures and report are made of.

    Attributes:
        gap: The natural gap: name, value, standard error (nats per token), and the axis it is compared on.
        scales: The temperatures n / ln n and of the natural gap.
        rungs: λ of the whole model at every rung: nbeta, rise, heldout_rise, llc, low, high, verdict.
        whole: λ of the whole model at both temperatures.
        parts: λ of every part at both temperatures, with a column `question` ("ladder": all weights sampled, "refined":
            that part alone).
        changes: What `temperatures_changes.changes` returned for both, with that column.
        swaps: What `temperatures_changes.swaps` returned, with that column.
        ratio: ln of λ at the natural gap over λ at n / ln n.
        examples: Spearman's ρ of single examples' λ between the temperatures, and between halves of the chains at each.
        rows: What `against_n` returned.
        widths: What `against_width` returned.
    """

    gap: pd.Series
    scales: list[Temperature]
    rungs: pd.DataFrame
    whole: pd.DataFrame
    parts: pd.DataFrame
    changes: pd.DataFrame
    swaps: pd.DataFrame
    ratio: Mean
    examples: tuple[Mean, float, float]
    rows: pd.DataFrame
    widths: pd.DataFrame


def read(table: pd.DataFrame) -> Reading:
    """Read the table that the study returned."""
    scales = temperatures(table)
    cold, hot = (one.nbeta for one in scales)
    ladder, refined = (table[table["question"] == name] for name in ("ladder", "refined"))
    whole = ladder[ladder["family"] == "whole"]
    asked = {"ladder": ladder[ladder["family"].isin(FAMILIES)], "refined": refined}
    single = ladder[ladder["family"] == "examples"]
    return Reading(
        gap=table[table["question"] == "gap"].iloc[0],
        scales=scales,
        rungs=rungs(whole),
        whole=levels(whole, scales),
        parts=_each(asked, lambda rows: levels(rows, scales)),
        changes=_each(asked, lambda rows: changes(rows, cold, hot)),
        swaps=_each(asked, lambda rows: swaps(rows, cold, hot)),
        ratio=ratio(at(whole, hot), at(whole, cold)),
        examples=(
            agreement(single, cold, hot, "examples"),
            reliability(single, cold, "examples"),
            reliability(single, hot, "examples"),
        ),
        rows=against_n(table, whole),
        widths=against_width(table, whole, scales),
    )


def temperatures(table: pd.DataFrame) -> list[Temperature]:
    """Both temperatures, n / ln n first."""
    rows = table[table["question"] == "temperature"].set_index("part")
    known: dict[Any, Any] = rows[["nbeta", "low", "high", "note"]].to_dict("index")
    return [Temperature(name, **known[name]) for name in (WATANABE, NATURAL)]


def rungs(rows: pd.DataFrame) -> pd.DataFrame:
    """λ at every rung with a 95 % t interval over chains, failed rungs included with what they gave."""
    out = []
    for nbeta, mine in rows.groupby("nbeta"):
        verdict = worst(list(mine["verdict"]))
        shown = levels(mine.assign(verdict="trained"), [Temperature("", float(nbeta), 0, 0)])  # type: ignore[arg-type]
        if shown.empty:
            shown = pd.DataFrame([{"nbeta": nbeta, "llc": np.nan, "low": np.nan, "high": np.nan, "chains": 0}])
        means = mine[["rise", "heldout_rise", "n", "width"]].mean()
        out.append(shown.assign(verdict=verdict, **means))
    return pd.concat(out, ignore_index=True).sort_values("nbeta", ascending=False, ignore_index=True)


def against_n(table: pd.DataFrame, whole: pd.DataFrame) -> pd.DataFrame:
    """λ of subsets of the data at their own n / ln n, and of all the data at the same temperature.

    Returns:
        A row a subset, all the data first: n, nbeta, llc, low, high, verdict, and log_ratio, ratio_low, ratio_high, p:
        ln of λ on the subset over λ on all the data at that nβ, read off the ladder; nan where that does not reach it.
    """
    given = table[table["question"] == "rows"]
    coldest = temperatures(table)[0]
    first = rungs(at(whole, coldest.nbeta)) if len(at(whole, coldest.nbeta)) else pd.DataFrame()
    out = [first.assign(log_ratio=np.nan, ratio_low=np.nan, ratio_high=np.nan, p=np.nan)]
    for _, mine in given.groupby("part", sort=False):
        found = ratio(mine[mine["verdict"] != "failed"], at(whole, float(mine["nbeta"].iloc[0])))
        more = {"log_ratio": found.mean, "ratio_low": found.low, "ratio_high": found.high, "p": found.p}
        out.append(rungs(mine).assign(**more))
    return pd.concat(out, ignore_index=True)


def against_width(table: pd.DataFrame, whole: pd.DataFrame, scales: list[Temperature]) -> pd.DataFrame:
    """λ at both temperatures for every width, and ln of their ratio.

    Returns:
        A row a width: width, before, before_low, before_high (at n / ln n), after, ... (at the natural gap), log_ratio,
        ratio_low, ratio_high (ln after/before), verdict.
    """
    out = []
    rows = pd.concat([whole, table[table["question"] == "widths"]])
    for width, mine in rows.groupby("width"):
        here = [at(mine, one.nbeta) for one in scales]
        if not all(map(len, here)):
            continue
        found = [levels(mine, [one]).iloc[0] for one in scales]
        change = ratio(here[1], here[0])
        row = {"width": width, "log_ratio": change.mean, "ratio_low": change.low, "ratio_high": change.high}
        for name, one in zip(("before", "after"), found, strict=True):
            row |= {name: one["llc"], f"{name}_low": one["low"], f"{name}_high": one["high"]}
        out.append(row | {"verdict": worst([one["verdict"] for one in found])})
    return pd.DataFrame(out)


def over_training(table: pd.DataFrame) -> pd.DataFrame:
    """λ over training: whole and by layer at both temperatures, the trained model last.

    Returns:
        A row a checkpoint, part and temperature: step (nan: the trained model), family, part, at, nbeta, llc, low,
        high, verdict.
    """
    scales = temperatures(table)
    usable = table[table["family"].isin(("whole", "layers"))]
    out = []
    for step in sorted(usable.loc[usable["question"] == "checkpoints", "step"].dropna().unique()):
        mine = usable[(usable["question"] == "checkpoints") & (usable["step"] == step)]
        out.append(levels(mine, scales).assign(step=float(step)))
    last = usable[usable["question"] == "ladder"]
    return pd.concat([*out, levels(last, scales).assign(step=np.nan)], ignore_index=True)


def _each(asked: dict[str, pd.DataFrame], ask: object) -> pd.DataFrame:
    frames = [ask(rows).assign(question=name) for name, rows in asked.items() if len(rows)]  # type: ignore[operator]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
