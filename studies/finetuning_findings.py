"""What the finetuning study found, in sentences with numbers, intervals and the verdicts they rest on."""

from typing import Any

import numpy as np
import pandas as pd

from studies.findings import usable
from studies.finetuning_ladders import MIXED, TASK_ONLY
from studies.structure import BETWEEN, OVERALL

CONTROL = "control"
QUANTITIES = ("P1 ratio", "P2", "P3")
UNREPEATED = " What the potential contributes was not asked: no ladder was climbed on task data alone."
WORDS = {
    "P1 ratio": "E½(base)/E½(copy) is {}",
    "P2": "structure lost beyond the loss is {} of what the base model has",
    "P3": "the loss outside the task is {} nats per token higher at equal task loss",
}


def finding(found: pd.DataFrame, rungs: pd.DataFrame, unreached: pd.DataFrame | None = None) -> list[str]:
    """How far the ladders hold, a sentence for each finetuned copy, the control, the potential, and what stays open.

    Args:
        found: What `studies.finetuning_penalty.penalties` returned.
        rungs: What `studies.behaviours.rungs` returned, of all ladders.
        unreached: What `studies.finetuning_ladders.unreached` returned.
    """
    mixed = found[found["potential"] == MIXED]
    tuned = [name for name in mixed["model"].unique() if name != CONTROL]
    out = [f"All ladders together: {usable(rungs)}"]
    out += [] if unreached is None else out_of_reach(unreached)
    out += [f"{name} (mixture potential): {_numbers(mixed[mixed['model'] == name])}." for name in tuned]
    if CONTROL in set(mixed["model"]):
        out.append(_control(mixed[mixed["model"] == CONTROL]))
    out += [_potential(found, name) for name in found.loc[found["potential"] == TASK_ONLY, "model"].unique()]
    return [*out, _open(found) + ("" if (found["potential"] == TASK_ONLY).any() else UNREPEATED)]


def out_of_reach(unreached: pd.DataFrame) -> list[str]:
    """A sentence for each potential and rise that some ladders do not reach, and so do not have."""
    out = []
    for (potential, target), rows in unreached.groupby(["potential", "target"], sort=False):
        most = ", ".join(f"{value:.3g}" for value in rows["value"])
        out.append(
            f"Out of reach under the {potential} potential, and not climbed: {target:g} nats per token of"
            f" {', '.join(rows['model'])}, where draws from the neighbourhood alone raise the loss by {most}."
        )
    return out


def number(row: Any) -> str:
    """Value and interval: a bound where chains leave the ladder, limits alone where only those are known."""
    if not np.isfinite(row["value"]):
        return "not to be had" + (f" ({row['note']})" if row["note"] else "")
    low, high = (_limit(row[end]) for end in ("low", "high"))
    if BETWEEN in row["note"]:
        return f"within [{low}, {high}]"
    word = "at least " if np.isposinf(row["high"]) else "at most " if _open_below(row) else ""
    interval = f" [{low}, {high}]" if "nan" not in (low, high) else " (no interval)"
    return f"{word}{row['value']:.3g}{interval}"


def _limit(value: float) -> str:
    return {np.inf: "∞", -np.inf: "−∞"}.get(value, f"{value:.3g}")


def _open_below(row: Any) -> bool:
    return bool(np.isneginf(row["low"]) or (row["quantity"] == "P1 ratio" and row["low"] == 0))


def _numbers(rows: pd.DataFrame) -> str:
    parts = []
    for quantity in QUANTITIES:
        main = _main(rows, quantity)
        if main is not None and not np.isfinite(main["value"]):
            parts.append(f"{quantity} is {number(main)}")
        elif main is not None:
            basis = [main["call"], *([main["note"]] if main["note"] else []), f"rungs there: {main['verdict']}"]
            parts.append(f"{WORDS[quantity].format(number(main))} ({'; '.join(basis)})")
        each = rows[(rows["quantity"] == quantity) & (rows["label"] != OVERALL)]
        if quantity == "P1 ratio" and len(each):
            parts.append(
                f"of {len(each)} behaviours {_called(each, 'penalty')} break sooner, {_called(each, 'gain')} later"
            )
    return "; ".join(parts) if parts else "nothing could be compared"


def _called(rows: pd.DataFrame, call: str) -> str:
    names = list(rows.loc[rows["call"] == call, "label"])
    return f"{len(names)} ({', '.join(names)})" if names else "0"


def _control(rows: pd.DataFrame) -> str:
    wrong = [f"{row['quantity']} of {row['label']}" for row in rows.to_dict("records") if row["call"] == "penalty"]
    verdict = "shows no penalty within error" if not wrong else f"shows a penalty in {', '.join(wrong)}"
    return f"The control, finetuned on more of the same data, {verdict}: {_numbers(rows)}."


def _potential(found: pd.DataFrame, name: str) -> str:
    parts = []
    for quantity in QUANTITIES:
        pair = [_main(_of(found, potential, name), quantity) for potential in (MIXED, TASK_ONLY)]
        if pair[0] is not None and pair[1] is not None:
            parts.append(f"{quantity} {number(pair[1])} instead of {number(pair[0])}")
    said = "; ".join(parts) if parts else "nothing could be compared"
    return f"With task data alone in the potential, {name}: {said}."


def _open(found: pd.DataFrame) -> str:
    behaviours = found[found["quantity"].isin(["P1 ratio", "P2"]) & (found["label"] != OVERALL)]
    open_ = behaviours["call"] == "undecided"
    return (
        f"Undecided: {open_.sum()} of {len(behaviours)} comparisons of single behaviours (P1 and P2, all copies and"
        " potentials; q ≤ 0.05 is asked for, Benjamini–Hochberg)."
    )


def _of(found: pd.DataFrame, potential: str, name: str) -> pd.DataFrame:
    return found[(found["potential"] == potential) & (found["model"] == name)]


def _main(rows: pd.DataFrame, quantity: str) -> dict | None:
    """The row that stands for a quantity: its overall one, or its only one."""
    mine = rows[rows["quantity"] == quantity]
    mine = mine[mine["label"] == OVERALL] if (mine["label"] == OVERALL).any() else mine
    return mine.iloc[0].to_dict() if len(mine) == 1 else None
