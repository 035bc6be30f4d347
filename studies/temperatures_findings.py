"""What the study of temperatures found, in sentences with numbers and intervals, and what it could not decide."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from studies.findings import UNIT, usable
from studies.temperatures_changes import LEVEL
from studies.temperatures_reading import Reading, over_training, read
from studies.temperatures_scales import NATURAL, WATANABE


def finding(table: pd.DataFrame) -> list[str]:
    """Sentences: the two temperatures, λ at both, what changes, with n and with the width too; what is open."""
    found = read(table)
    said = [usable(found.rungs.assign(rung=1)), scales(found), whole(found)]
    if (table["question"] == "checkpoints").any():
        return [*said, *training(over_training(table)), undecided(found)]
    said += [parts(found, family, "ladder") for family in ("layers", "heads", "kinds")]
    said += [parts(found, family, "refined") for family in ("layers", "heads")]
    said += [examples(found), against_n(found), against_width(found), undecided(found)]
    return [sentence for sentence in said if sentence]


def verdicts(table: pd.DataFrame) -> list[str]:
    """The verdict table: a line a ladder and rung with its temperature, rise, λ and verdict."""
    whole = table[table["family"].isin(("whole", "layers", "heads")) & table["question"].ne("ladder")]
    rows = pd.concat([table[(table["question"] == "ladder") & (table["family"] == "whole")], whole])
    rows = rows[~((rows["question"] == "checkpoints") & (rows["family"] != "whole"))]
    keys = ["question", "part", "nbeta", "verdict"]
    each = rows.groupby(keys, sort=False).agg(rise=("rise", "mean"), llc=("llc", "mean"), chains=("chain", "nunique"))
    lines = [f"{'ladder':<28}{'nβ':>10}{'rise':>9}{'λ':>9}  verdict"]
    for row in each.reset_index().to_dict("records"):
        name = f"{row['question']}: {row['part']}"
        lines.append(
            f"{name:<28}{number(row['nbeta']):>10}{row['rise']:>9.3f}{number(row['llc']):>9}  {row['verdict']}"
        )
    return lines


def scales(found: Reading) -> str:
    """Both temperatures, and which is the hotter."""
    cold, hot = found.scales
    gap = found.gap
    text = f"n / ln n is nβ = {number(cold.nbeta)}"
    here = found.rungs[np.isclose(found.rungs["nbeta"], cold.nbeta)]
    if len(here):
        row = here.iloc[0]
        text += (
            f" (n = {row['n']:,.0f} tokens; rise {row['rise']:.3g} on the sampling data, {row['heldout_rise']:.3g} on"
            f" held-out text; {row['verdict']})"
        )
    text += f", {cold.note}" if cold.note else ""
    said = f"the natural gap ({gap['part']}, {gap['llc']:.3g} ± {gap['shared']:.1g} {UNIT}, {AXIS[str(gap['note'])]})"
    if not np.isfinite(hot.nbeta):
        return f"{text}; the temperature of {said} is not known: {hot.note}."
    factor = cold.nbeta / hot.nbeta
    word = "colder" if factor > 1 else "hotter"
    return (
        f"{text}; {said} is reached at nβ = {interval(hot.nbeta, hot.low, hot.high)}: n / ln n is"
        f" {word} by a factor of {max(factor, 1 / factor):.2g}."
    )


def whole(found: Reading) -> str:
    """λ of the whole model at both temperatures, and their ratio."""
    each = "; ".join(
        f"{interval(row['llc'], row['low'], row['high'])} at {row['at']} ({row['verdict']})"
        for row in found.whole.to_dict("records")
    )
    if len(found.whole) < 2:
        known = f"λ of the whole model is {each}; " if each else ""
        return f"{known}λ at both temperatures cannot be compared: no usable rungs enclose {_missing(found)}."
    change = found.ratio
    times = interval(np.exp(change.mean), np.exp(change.low), np.exp(change.high))
    return f"λ of the whole model is {each}: from the one to the other it changes by a factor of {times}."


def parts(found: Reading, family: str, question: str) -> str:
    """Which parts' share and rank change."""
    if found.changes.empty:
        return ""
    rows = found.changes[(found.changes["family"] == family) & (found.changes["question"] == question)]
    rows = rows[rows["change"].notna()]
    if rows.empty:
        return ""
    changed = rows[rows["changed"]].sort_values("change", key=np.abs, ascending=False)
    each = "; ".join(
        f"{row['part']} from {row['before']:.1%} to {row['after']:.1%}, by"
        f" {interval(100 * row['change'], 100 * row['change_low'], 100 * row['change_high'])} points"
        for row in changed.head(4).to_dict("records")
    )
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    text = f"{NAMES[family, question]}: the share of {len(changed)} of {len(rows)} changes between the temperatures"
    text += f" ({each}{more})" if len(changed) else f" (largest, not told from zero: {_largest(rows)})"
    return f"{text}; {_swapped(found.swaps, family, question)}."


def examples(found: Reading) -> str:
    """How alike the examples' coefficients are at both temperatures, against what noise alone leaves."""
    same, cold, hot = found.examples
    if not np.isfinite(same.mean):
        return ""
    return (
        f"Single examples: Spearman's ρ of their λ between the temperatures is"
        f" {interval(same.mean, same.low, same.high)}; halves of the chains at one temperature agree by {cold:.2f}"
        f" ({WATANABE}) and {hot:.2f} ({NATURAL})."
    )


def against_n(found: Reading) -> str:
    """λ with the size of the data: at its own n / ln n, and at one temperature."""
    rows = found.rows[(found.rows["verdict"] != "failed") & found.rows["llc"].notna()]
    if len(rows) < 2:
        return ""
    own = ", ".join(
        f"{interval(row['llc'], row['low'], row['high'])} (n = {row['n']:,.0f})" for row in rows.to_dict("records")
    )
    text = f"Against n: λ at each size's own n / ln n is {own}"
    same = rows[rows["log_ratio"].notna()]
    each = ", ".join(
        f"{interval(*np.exp([row['log_ratio'], row['ratio_low'], row['ratio_high']]))}"
        for row in same.to_dict("records")
    )
    return f"{text}; of λ of all sampled data at the same temperature it is this share: {each}." if each else f"{text}."


def against_width(found: Reading) -> str:
    """λ with the width of the neighbourhood at both temperatures."""
    rows = found.widths
    if len(rows) < 2:
        return ""
    each = "; ".join(
        f"width {row['width']:.3g}: {row['before']:.3g} and {row['after']:.3g}, a factor of"
        f" {interval(*np.exp([row['log_ratio'], row['ratio_low'], row['ratio_high']]))} ({row['verdict']})"
        for row in rows.to_dict("records")
    )
    return f"Against the neighbourhood, λ at {WATANABE} and at the {NATURAL}: {each}."


def training(rows: pd.DataFrame) -> list[str]:
    """λ over training at each temperature, whole, and where its layers' shares go."""
    out = []
    for name, mine in rows[rows["family"] == "whole"].groupby("at", sort=False):
        each = "; ".join(
            f"{_step(row['step'])} {interval(row['llc'], row['low'], row['high'])} ({row['verdict']})"
            for row in mine.to_dict("records")
        )
        out.append(f"λ of the whole model over training at {name}: {each}.")
    return out


def undecided(found: Reading) -> str:
    """What could not be decided, and why."""
    said = []
    cold, hot = found.scales
    if not np.isfinite(hot.nbeta):
        said.append("λ and the shares of its parts at the natural gap, whose temperature no two usable rungs enclose")
    elif hot.low <= cold.nbeta <= hot.high:
        said.append("which of the two temperatures is the hotter")
    if len(found.changes):
        for (question, family), rows in found.changes.groupby(["question", "family"], sort=False):
            still = [str(row["part"]) for row in rows.to_dict("records") if not row["changed"]]
            if still and np.isfinite(hot.nbeta):
                said.append(f"whether the share of {', '.join(still)} changes ({NAMES[str(family), str(question)]})")
    if len(found.whole) and (found.whole["verdict"] == "suspect").any():
        where = ", ".join(found.whole[found.whole["verdict"] == "suspect"]["at"])
        said.append(f"λ itself to the precision of its interval at {where}, where the verdict is suspect")
    return "Not decided: " + "; ".join(said) + "." if said else "Nothing that was asked stayed undecided."


def interval(value: float, low: float, high: float) -> str:
    """A value with its limits, or without where there are none.

    >>> interval(1234.0, 1000.0, 1500.0)
    '1,230 [1,000, 1,500]'
    """
    if not np.isfinite(low):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def number(value: float) -> str:
    """Three digits, thousands set apart.

    >>> number(108765.4), number(0.07331)
    ('109,000', '0.0733')
    """
    if not np.isfinite(value):
        return "–"
    if abs(value) < 1000:
        return f"{value:.3g}"
    digits = 10.0 ** (int(np.floor(np.log10(abs(value)))) - 2)
    return f"{round(value / digits) * digits:,.0f}"


def _largest(rows: pd.DataFrame) -> str:
    row = rows.sort_values("change", key=np.abs).to_dict("records")[-1]
    limits = interval(100 * row["change"], 100 * row["change_low"], 100 * row["change_high"])
    return f"{row['part']}, {limits} points"


def _swapped(swaps: pd.DataFrame, family: str, question: str) -> str:
    rows = swaps[(swaps["family"] == family) & (swaps["question"] == question)] if len(swaps) else swaps
    if rows.empty:
        return "their order cannot be compared"
    told = int(((rows["q_before"] <= LEVEL) & (rows["q_after"] <= LEVEL)).sum())
    pairs = [f"{row['first']} and {row['second']}" for row in rows[rows["swapped"]].to_dict("records")]
    named = f" ({_list(pairs[:4])}{', ...' if len(pairs) > 4 else ''})" if pairs else ""
    return f"of {len(rows)} pairs {told} are ordered at both temperatures, {len(pairs)} of them the other way{named}"


def _step(step: float) -> str:
    return "trained" if not np.isfinite(step) else f"step {step:.0f}"


def _missing(found: Reading) -> str:
    there = set(found.whole["at"])
    return " and ".join(one.name for one in found.scales if one.name not in there)


def _list(items: Sequence[str]) -> str:
    return ", ".join(items)


AXIS = {"heldout": "on held-out text", "rise": "on the sampling data"}
NAMES = {
    ("layers", "ladder"): "Layers, all weights sampled",
    ("heads", "ladder"): "Heads and MLPs, all weights sampled",
    ("kinds", "ladder"): "Kinds of examples",
    ("layers", "refined"): "Layers, each sampled alone",
    ("heads", "refined"): "Heads and MLPs, each sampled alone",
}
