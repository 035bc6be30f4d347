"""The generalisation penalty of finetuning, from the sweeps of a base model and its finetuned copies.

All loss axes are base-corpus loss on held-out text: absolute, or as the rise above the model's own. For a behaviour f
with chance level f₀, r = (f − f₀)/(f(w*) − f₀) with the model's own w*, and E½ where a chain's r first falls to ½:

    P1 ratio   E½(base) / E½(finetuned), on the rise above the model's own;     > 1: the finetuned model's breaks sooner
    P1 loss    L½(base) − L½(finetuned), L½ = the model's own loss + E½, nats;   > 0: it breaks at a better loss
    P2         f(base at the finetuned model's base loss) − f(finetuned), in the better direction, as a share of
               f(base) − f₀;                                                     > 0: structure lost beyond the loss
    P3         loss outside the task, finetuned − base, at equal task loss, nats; > 0: the finetuned model is worse

P1 and P3 compare two ladders whose chains are independent: Welch's t. P2 compares one ladder with one model, asked the
same questions: its error has a part from chains and one from questions. Where chains leave the ladder the value is a
bound, as in `studies.retention.half_retention`.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from studies.behaviours import BEHAVIOUR, severity, starts, swept
from studies.differences import Difference, limits, p_value, welch
from studies.finetuning_ladders import BASE
from studies.retention import SIGNAL, crossing, retention
from studies.statistics import adjusted
from studies.structure import OVERALL, lost

LEVELS = 5
COLUMNS = ["potential", "model", "quantity", "label", "value", "low", "high", "se", "p", "q", "call", "verdict", "note"]
CALLED = 0.05


def penalties(table: pd.DataFrame) -> pd.DataFrame:
    """P1, P2 and P3 of every finetuned copy under every potential.

    Args:
        table: Sweeps with the columns `model` and `potential`, probe `losses` among them; failed rungs are left out.

    Returns:
        A row a number: potential, model, quantity ("P1 ratio", "P1 loss", "P2", "P3"), label (the behaviour, or what
        it is an average over), value, low, high (95 %), se (of ln value for the ratio), p, q (Benjamini–Hochberg over
        all numbers of a model and potential: a copy that differs in none has a call at most once in 20 studies), call
        ("penalty", "gain", "undecided"), verdict (the worst among the rungs it rests on), note.
    """
    rows: list[dict] = []
    for potential, part in table.groupby("potential", sort=False):
        chains = by_chain(part)
        for name in [name for name in part["model"].unique() if name != BASE]:
            found = [*breaking(chains, name), *_lost(part, chains, name), outside(chains, name)]
            rows += [{"potential": potential, "model": name, **row} for row in found]
    out = pd.DataFrame(rows)
    out["q"] = adjusted(out["p"], out[["potential", "model"]].agg("|".join, axis=1))
    out["call"] = [_call(row) for row in out.to_dict("records")]
    return out[COLUMNS]


def by_chain(part: pd.DataFrame) -> pd.DataFrame:
    """A row per model, chain, rung and behaviour: means over draws of one potential, and the losses there.

    Returns:
        model, chain, rung, probe, measure, behaviour, value, start, start_se, chance, higher, binary, base, task,
        others (nats per token), rise (base loss above the model's own), verdict. w* is every chain's rung 0.
    """
    used = part[swept(part) & (part["verdict"] != "failed")].assign(dial=part["model"])
    where = ["model", "chain", "rung"]
    paid = used[used["probe"] == "losses"].pivot_table(index=where, columns="set", values="value").reset_index()
    asked = used[used["behaviour"].notna()]
    value = asked.groupby([*where, *BEHAVIOUR, "verdict"], observed=True)["value"].mean().reset_index()
    out = value.merge(paid, on=where).merge(starts(used).rename(columns={"dial": "model"}), on=["model", *BEHAVIOUR])
    out = _with_start(out)
    own = out[out["rung"] == 0].groupby("model")["base"].first()
    return out.assign(rise=out["base"] - out["model"].map(own))


def _with_start(rows: pd.DataFrame) -> pd.DataFrame:
    """w* belongs to every chain."""
    start, rest = rows[rows["rung"] == 0], rows[rows["rung"] > 0]
    chains = rest[["model", "chain"]].drop_duplicates()
    begun = start.drop(columns="chain").merge(chains, on="model", how="left")
    return pd.concat([begun.fillna({"chain": -1}).astype({"chain": int}), rest], ignore_index=True)


def half_scales(chains: pd.DataFrame, model: str) -> pd.DataFrame:
    """A row per behaviour and chain of one model: E½ on the rise, its side (−1 left, +1 right of the ladder), L½.

    Behaviours that are not above chance at the model's own w* have none.
    """
    rows = []
    for key, each in chains[chains["model"] == model].groupby([*BEHAVIOUR, "chain"], observed=True):
        first = each.iloc[0]
        gap = (first["start"] - first["chance"]) * (1 if first["higher"] else -1)
        if not gap > SIGNAL * np.nan_to_num(first["start_se"]):
            continue
        rungs = each[each["rung"] > 0]
        kept = retention(rungs["value"], rungs["start"], rungs["chance"])
        scale, side = crossing(rungs["rise"], kept)
        own = float((each["base"] - each["rise"]).iloc[0])
        rows.append([*key, scale, side, own + scale])
    return pd.DataFrame(rows, columns=[*BEHAVIOUR, "chain", "scale", "side", "loss"]).dropna(subset=["scale"])


def breaking(chains: pd.DataFrame, name: str) -> Iterator[dict]:
    """P1 of every behaviour that both models have, and of the mean over those that cross within both ladders."""
    base, tuned = (half_scales(chains, model) for model in (BASE, name))
    both = [key for key in _keys(base) if key in set(_keys(tuned))]
    inside = [key for key in both if not any(_of(part, key)["side"].any() for part in (base, tuned))]
    for key in both:
        one, two = _of(base, key), _of(tuned, key)
        limits = {"below": bool((one["side"] < 0).any() or (two["side"] > 0).any()),
                  "above": bool((one["side"] > 0).any() or (two["side"] < 0).any())}  # fmt: skip
        verdict = _worst(_verdict(chains, BASE, one["scale"]), _verdict(chains, name, two["scale"]))
        logs = welch(np.log(one["scale"]), np.log(two["scale"]))._replace(**limits)
        yield _row("P1 ratio", key[2], logs, verdict, ratio=True)
        yield _row("P1 loss", key[2], welch(one["loss"], two["loss"])._replace(**limits), verdict)
    if inside:
        means = [np.log(_some(part, inside)["scale"]).groupby(part["chain"]).mean() for part in (base, tuned)]
        spans = [_some(part, inside)["scale"] for part in (base, tuned)]
        verdict = _worst(_verdict(chains, BASE, spans[0]), _verdict(chains, name, spans[1]))
        note = f"over {len(inside)} of {len(both)} behaviours, which cross one half within both ladders in every chain"
        yield _row("P1 ratio", OVERALL, welch(*means), verdict, note, ratio=True)


def outside(chains: pd.DataFrame, name: str) -> dict:
    """P3: mean difference of the loss outside the task, at five task losses between the rungs of all chains."""
    curves, label = {model: _curves(chains, model) for model in (BASE, name)}, "loss outside the task"
    if not all(curves.values()):
        return _row("P3", label, Difference(np.nan, np.nan, np.nan), "trained", "a ladder has no rung that can be used")
    ends = [(task.min(), task.max()) for curve in curves.values() for task, _ in curve]
    low, high = max(a for a, _ in ends), min(b for _, b in ends)
    if not high > low:
        return _row("P3", label, Difference(np.nan, np.nan, np.nan), "trained", "the ladders share no task loss")
    levels = np.linspace(low, high, LEVELS)
    base, tuned = ([float(np.interp(levels, *curve).mean()) for curve in curves[model]] for model in (BASE, name))
    verdicts = [_verdict(chains, model, pd.Series([0.0, np.inf])) for model in (BASE, name)]
    note = f"at task losses from {low:.3g} to {high:.3g} nats per token"
    return _row("P3", label, welch(tuned, base), _worst(*verdicts), note)


def _curves(chains: pd.DataFrame, model: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Task loss, ascending, and loss outside the task, for each chain; from w* to the first rung no curve is known."""
    mine = chains[(chains["model"] == model) & (chains["rung"] > 0)]
    rows = mine.drop_duplicates(["chain", "rung"]).sort_values("task")
    return [(one["task"].to_numpy(), one["others"].to_numpy()) for _, one in rows.groupby("chain")]


def _lost(part: pd.DataFrame, chains: pd.DataFrame, name: str) -> Iterator[dict]:
    for row in lost(part, chains, BASE, name):
        yield _row("P2", row.label, row.difference, row.verdict, row.note)


def _row(quantity: str, label: str, found: Difference, verdict: str, note: str = "", ratio: bool = False) -> dict:
    numbers = np.array([np.nan if found.below and found.above else found.value, *limits(found)])
    value, low, high = np.exp(numbers) if ratio else numbers
    bound = "a bound: chains leave the ladder" if found.below or found.above else ""
    said = {"value": value, "low": low, "high": high, "se": found.se, "p": p_value(found)}
    return {"quantity": quantity, "label": label, **said, "verdict": verdict, "note": note or bound}


def _call(row: dict) -> str:
    even = 1.0 if row["quantity"] == "P1 ratio" else 0.0
    if not row["q"] <= CALLED:
        return "undecided"
    return "penalty" if row["low"] > even else "gain" if row["high"] < even else "undecided"


def _keys(scales: pd.DataFrame) -> list[tuple]:
    return list(scales[BEHAVIOUR].drop_duplicates().itertuples(index=False, name=None))


def _of(scales: pd.DataFrame, key: tuple) -> pd.DataFrame:
    return _some(scales, [key])


def _some(scales: pd.DataFrame, keys: list[tuple]) -> pd.DataFrame:
    return scales[[key in set(keys) for key in scales[BEHAVIOUR].itertuples(index=False, name=None)]]


def _verdict(chains: pd.DataFrame, model: str, scales: pd.Series) -> str:
    """The worst verdict among the rungs of a model that enclose some rises."""
    rungs = chains[(chains["model"] == model) & (chains["rung"] > 0)].groupby("rung")
    rise, verdict = rungs["rise"].mean().sort_values(), rungs["verdict"].first()
    low = max(np.searchsorted(rise, scales.min(), side="right") - 1, 0)
    high = min(np.searchsorted(rise, scales.max(), side="left"), len(rise) - 1)
    return _worst(*(verdict[rung] for rung in rise.index[min(low, high) : high + 1]))


def _worst(*verdicts: str) -> str:
    return max(verdicts, key=severity)
