"""What the patching study found, in sentences with numbers and intervals, and what it could not decide."""

import re

import pandas as pd

from studies.findings import scale, usable
from studies.patching_scales import MARGIN

UNIT = "nats"


def finding(curves: pd.DataFrame, crossings: pd.DataFrame, rungs: pd.DataFrame) -> list[str]:
    """Sentences: how far the ladder holds, where patched and own loss are equivalent, c*, and what is open.

    Args:
        curves: What `studies.patching_scales.curves` returned.
        crossings: What `studies.patching_scales.crossings` returned.
        rungs: What `studies.behaviours.rungs` returned.
    """
    said = [usable(rungs), *equivalences(curves), _never(curves), *scales(crossings), _open(curves)]
    return [sentence for sentence in said if sentence]


def equivalences(curves: pd.DataFrame) -> list[str]:
    """A sentence for each reconstruction that may pay what the model pays, within 5 %, at some scale."""
    out = []
    for label, rows in curves.groupby("label", sort=False):
        asked = rows[rows["equivalent"] != "not asked"]
        if (asked["equivalent"] == "no").all():
            continue
        found = f"equivalent (within {MARGIN:.0%} of what the model knows) {_where(rows, 'yes')}"
        found = found if (rows["equivalent"] == "yes").any() else "nowhere found equivalent"
        parts = [f"{label}: patched and own loss are {found}"]
        if (rows["equivalent"] == "no").any():
            worst = rows[rows["equivalent"] == "no"].sort_values("share").iloc[-1]
            parts.append(f"not {_where(rows, 'no')} (the gap reaches {_share(worst)})")
        if (rows["equivalent"] == "undecided").any():
            parts.append(f"undecided {_where(rows, 'undecided')}")
        out.append("; ".join(parts) + ".")
    return out


def _never(curves: pd.DataFrame) -> str:
    asked = curves[curves["equivalent"] != "not asked"]
    none = [str(label) for label, rows in asked.groupby("label", sort=False) if (rows["equivalent"] == "no").all()]
    return f"At no scale equivalent: {_list(none)}." if none else ""


def scales(crossings: pd.DataFrame) -> list[str]:
    """A sentence with every c*, and one for each reason why there is none."""
    there = crossings[crossings["chains"] > 0]
    found = [f"{row['label']} {scale(row)} (patched loss {row['patched']:.2g} {UNIT}; rungs there: {row['verdict']})"
             for row in there.to_dict("records")]  # fmt: skip
    out = [f"c*, the rise in {UNIT} at which the model's own loss equals the patched loss at w*: {'; '.join(found)}."]
    out = out if found else ["No reconstruction has a c*."]
    absent = crossings[crossings["chains"] == 0]
    for kind, rows in absent.groupby(absent["reason"].str.split("(").str[0].str.strip(), sort=False):
        named = [f"{row['label']}{_numbers(row['reason'])}" for row in rows.to_dict("records")]
        out.append(f"No c* of {_list(named)}: {kind}.")
    return out


def _numbers(reason: str) -> str:
    """What a reason has in brackets, with them."""
    found = re.search(r" \(.*\)", reason)
    return found[0] if found else ""


def _open(curves: pd.DataFrame) -> str:
    words = curves["equivalent"].value_counts()
    undecided, unasked = int(words.get("undecided", 0)), int(words.get("not asked", 0))
    text = f"Of {len(curves)} comparisons {undecided} are undecided"
    text += f" and {unasked} were not asked, the model keeping less than half of what it knew" if unasked else ""
    text += "; each is tested at 5 %, without adjustment for their number."
    return text + (" † a rung whose verdict is suspect." if (curves["verdict"] == "suspect").any() else "")


def _where(rows: pd.DataFrame, word: str) -> str:
    """The scales at which a comparison came out in one way."""
    mine = rows[rows["equivalent"] == word].sort_values("rise")
    rises = [f"{rise:.2g}" + ("†" if str(verdict).startswith("suspect") else "")
             for rise, verdict in zip(mine["rise"], mine["verdict"], strict=True) if rise > 0]  # fmt: skip
    parts = ["at w*"] if (mine["rung"] == 0).any() else []
    return " and ".join([*parts, *([f"at rises of {_list(rises)}"] if rises else [])])


def _share(row: pd.Series) -> str:
    place = f"at a rise of {row['rise']:.2g}" if row["rung"] else "at w*"
    return f"{row['share']:.0%} [{row['share_low']:.0%}, {row['share_high']:.0%}] {place}"


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else "none"
