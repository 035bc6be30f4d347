"""What a study found, in sentences with numbers, intervals and the verdicts they rest on."""

import numpy as np
import pandas as pd

from studies.behaviours import rank_agreement

UNIT = "nats per token"
GAPS = ("exact gap", "larger model")  # the marks that can stand for the natural scale, the better one first


def finding(ranks: pd.DataFrame, ladder: pd.DataFrame, marks: pd.Series | None = None) -> list[str]:
    """Three sentences: how far the ladder holds, what breaks first and last, what is left at the natural gap.

    Args:
        ranks: What `studies.behaviours.ranking` returned; the natural dial is described, else the first.
        ladder: `ladder.table`.
        marks: Loss rises by name, nats per token; the exact gap is used, else the larger model's.
    """
    own = ranks[ranks["dial"] == _main(ranks)]
    return [usable(ladder), _ends(own), _gap(own, marks)]


def controls(ranks: pd.DataFrame) -> list[str]:
    """For each other dial what it does to the order, and which behaviours it moves beyond their intervals."""
    main = _main(ranks)
    out = []
    for dial in sorted(set(ranks["dial"]) - {main}):
        agreement = rank_agreement(ranks, main, dial)
        text = f"{dial}: {_ends(ranks[ranks['dial'] == dial])} "
        text += f"Kendall's τ_b of E½ with the {main} dial: {_number(agreement.tau)} over {agreement.n} behaviours"
        text += f" ({agreement.left_out} left out)." if agreement.left_out else "."
        out.append(f"{text} {_moved(ranks, main, dial)}")
    return out


def left_out(ranks: pd.DataFrame, rungs: pd.DataFrame, ladder: pd.DataFrame | None = None) -> list[str]:
    """What the numbers do not contain, or only with a warning, and why.

    Args:
        ranks: What `studies.behaviours.ranking` returned.
        rungs: What `studies.behaviours.rungs` returned.
        ladder: `ladder.table` of the natural dial, for the reasons.
    """
    out = doubted(rungs, ladder, _main(ranks))
    for row in ranks[ranks["reason"] != ""].sort_values(["label", "dial"]).to_dict("records"):
        out.append(f"{row['label']} ({row['dial']}): {'' if row['chains'] else 'no E½, '}{row['reason']}.")
    return out


def doubted(rungs: pd.DataFrame, ladder: pd.DataFrame | None = None, main: str = "natural") -> list[str]:
    """Of every failed or suspect rung what became of it, and why.

    Args:
        rungs: What `studies.behaviours.rungs` returned.
        ladder: `ladder.table` of the dial `main`, for the reasons.
        main: That dial.
    """
    reasons = {} if ladder is None else dict(zip(ladder["rung"], ladder["reason"].fillna("").astype(str), strict=True))
    out = []
    rungs = _with_empty(rungs, ladder, main)
    doubted = rungs[rungs["verdict"].str.startswith(("failed", "suspect"))].sort_values(["dial", "rung"])
    for row in doubted.to_dict("records"):
        fate = "left out everywhere" if row["verdict"].startswith("failed") else "kept and marked"
        reason = reasons.get(row["rung"], "") if row["dial"] == main else ""
        where = f"{row['dial']}, rung {row['rung']} (target {_number(row['target'])} {UNIT})"
        out.append(f"{where}: {row['verdict']}, {fate}" + (f"; {reason}." if reason else "."))
    return out


def _with_empty(rungs: pd.DataFrame, ladder: pd.DataFrame | None, main: str) -> pd.DataFrame:
    """Failed rungs of which no draw came back are in the ladder's table alone."""
    if ladder is None:
        return rungs
    seen = rungs.loc[rungs["dial"] == main, "rung"]
    empty = ladder[(ladder["verdict"] == "failed") & ~ladder["rung"].isin(seen)]
    return pd.concat([rungs, empty[["rung", "target", "verdict"]].assign(dial=main)], ignore_index=True)


def scale(row: pd.Series | dict) -> str:
    """E½ of one row of the ranking as text: a value with its interval, a bound, or a dash."""
    if not row["chains"]:
        return "–"
    value, limits = _number(row["value"]), f"[{_number(row['low'])},\u00a0{_number(row['high'])}]"
    if row["censored"] == "mixed":
        return "undecided, chains leave the ladder at both ends"
    if row["chains"] in (row["left"], row["right"]):
        return ("< " if row["left"] else "> ") + value
    return {"left": "≤ ", "right": "≥ "}.get(row["censored"], "") + f"{value} {limits}"


def _main(ranks: pd.DataFrame) -> str:
    """The dial that the others are compared with."""
    if ranks.empty or (ranks["dial"] == "natural").any():
        return "natural"
    return str(ranks["dial"].iloc[0])


def usable(ladder: pd.DataFrame) -> str:
    """How many rungs can be used, and how far they reach."""
    rungs = ladder[ladder["rung"] > 0]
    failed = rungs["verdict"] == "failed"
    counts = ", ".join(f"{count} {verdict}" for verdict, count in rungs["verdict"].value_counts().items())
    used = rungs[~failed]
    if used.empty:
        return f"No rung can be used: of {len(rungs)}, {counts}."
    span = f"from {_number(used['rise'].min())} to {_number(used['rise'].max())} {UNIT}"
    rest = " The failed ones are left out." if failed.any() else ""
    return f"{len(used)} of {len(rungs)} rungs can be used, {span} above the trained loss ({counts}).{rest}"


def _ends(own: pd.DataFrame) -> str:
    placed = own[own["rank"].notna()].sort_values("rank")
    absent = int((own["chains"] == 0).sum())
    tail = (
        f" {absent} of {len(own)} behaviours are not above chance at w* or not measured, and have no E½."
        if absent
        else ""
    )
    if len(placed) < 2:
        only = f"only {placed['label'].iloc[0]} has an E½, {_said(placed.iloc[0])}" if len(placed) else "none has an E½"
        return f"Nothing can be ranked: of {len(own)} behaviours {only}.{tail}"
    first, last = (placed[placed["rank"] == placed["rank"].agg(end)] for end in ("min", "max"))
    if len(first) == len(placed):
        return f"The order is undecided: all {len(placed)} behaviours leave the ladder on one side.{tail}"
    sooner = f"Half of {_list(first)} is gone first, at E½ {_said(first.iloc[0])}"
    return f"{sooner}; of {_list(last)} last, at E½ {_said(last.iloc[-1])}.{tail}"


def _gap(own: pd.DataFrame, marks: pd.Series | None) -> str:
    name = next((name for name in GAPS if marks is not None and name in marks), None)
    placed = own[own["chains"] > 0]
    if name is None or marks is None or placed.empty:
        return "Which behaviours outlast the natural gap cannot be said: there is no gap, or no behaviour, to compare."
    gap = float(marks[name])
    gone, kept = placed[placed["high"] < gap], placed[placed["low"] > gap]
    open_ = placed.drop([*gone.index, *kept.index])
    text = f"At the natural gap ({name}, {_number(gap)} {UNIT}) "
    text += f"{len(gone)} of {len(placed)} behaviours are more than half gone"
    text += f" ({_list(gone)})" if len(gone) else ""
    text += f", {len(kept)} are not, and {len(open_)} cannot be told, their intervals containing the gap"
    return text + (f" ({_list(open_)})." if len(open_) else ".")


def _moved(ranks: pd.DataFrame, main: str, dial: str) -> str:
    keys = ["probe", "measure", "behaviour"]
    both = ranks[ranks["dial"] == main].merge(ranks[ranks["dial"] == dial], on=keys, suffixes=("", "_there"))
    both = both[(both["chains"] > 0) & (both["chains_there"] > 0)]
    later, sooner = both[both["low_there"] > both["high"]], both[both["high_there"] < both["low"]]
    words = [f"{_list(rows)} {word}" for rows, word in ((sooner, "sooner"), (later, "later")) if len(rows)]
    if not words:
        return f"No behaviour's interval there lies wholly outside its interval under the {main} dial."
    return f"Intervals wholly apart from those of the {main} dial: {'; '.join(words)}."


def _said(row: pd.Series) -> str:
    return f"{scale(row)} {UNIT} (rungs there: {row['verdict']})"


def _list(rows: pd.DataFrame) -> str:
    labels = list(rows["label"])
    return labels[0] if len(labels) == 1 else ", ".join(labels[:-1]) + " and " + labels[-1] if labels else "none"


def _number(value: float) -> str:
    return "∞" if np.isposinf(value) else "–" if not np.isfinite(value) else f"{value:.3g}"
