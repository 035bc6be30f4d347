"""On which share of draws does a statement hold at each rung, and up to where does it last?

A claim is a probe with a predicate: what papers say, checked on every draw. It is swept like a probe, and its rungs can
be placed by the loss rise, the held-out loss, the accuracy or the complexity left.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from degrade import store
from degrade.result import Ladder
from probes import Claim, Subject
from probes.tables import stack
from studies.axes import HeldOut, known, placed
from studies.behaviours import marks as marks_of
from studies.behaviours import rungs, swept
from studies.climbing import Size, climb, stored
from studies.marks import marks
from studies.statistics import share_interval
from studies.subject import build_probes, open_subject
from studies.sweeping import sweep_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBES: dict[str, dict[str, Any]] = {"heads": {}, "induction": {}, "kinds": {}, "patching": {}, "recall": {}}
FULL = Size((0.1, 0.18, 0.32, 0.6, 1.0), 4, 4, 4, 256, 256, None, None, budget=1300)
QUICK = Size((0.4, 1.0), 3, 2, 2, 128, 128, 120, 40)  # colder ones take more steps than a quick run has
SHARE = 0.95
COLUMNS = ["dial", "claim", "rung", "target", "rise", "x", "share", "low", "high", "chains", "draws", "verdict"]


def run(
    model: str = "mixture",
    probes: Sequence[str] | None = None,
    rises: Sequence[float] | None = None,
    seed: int = 0,
    quick: bool = False,
    longer: float = 1.0,
    workers: int = 2,
    out: str | Path | None = None,
    ladder: str | Path | None = None,
    axis: str = "rise",
    progress: bool = True,
) -> pd.DataFrame:
    """Check the claims of probes on every draw of a ladder.

    Args:
        model: An organism by name.
        probes: Probes as `NAME:key=value,...`, whose default claims are checked; None for those of heads, induction,
            kinds, patching and recall, as far as they fit.
        rises: Target loss rises, nats per token.
        seed: Of everything random.
        quick: A smaller version, of three chains and two short rungs.
        longer: Factor on the steps of each rung.
        workers: Processes, one thread each.
        out: A new directory for tables, draws, figures and report; None writes nothing.
        ladder: The directory of an earlier run, whose draws are asked instead of climbing.
        axis: What places a rung: "rise", "heldout" (the loss on held-out text), "accuracy" (next-token, on that text)
            or "llc" (λ = nβ·ΔL).
        progress: Show progress bars.

    Returns:
        The sweep, a row an answer, with a column for each axis and `axis`, the chosen one; rows with probe "mark".

    Raises:
        ValueError: for an unknown model, probe or axis, a probe without a claim, or rises that cannot be reached.
        FileExistsError: if `out` exists.
    """
    known(axis)
    subject = open_subject(model)
    asked = build_probes(subject, probes, PROBES)
    if not any(isinstance(probe, Claim) for probe in asked):
        raise ValueError(f"none of the probes {[probe.name for probe in asked]} makes a claim: ask one that does")
    size = (QUICK if quick else FULL).at(rises)
    climbed = stored(ladder, subject) if ladder is not None else climb(
        subject, subject.data, size, seed, longer, workers, progress
    )  # fmt: skip
    table = stack(sweep_all({"natural": climbed}, [*asked, _text(subject, size, seed)], size.asked, workers, progress))
    table = stack([placed(table, climbed).assign(axis=axis), marks(subject, climbed)])
    if out is not None:
        settings = {"model": model, "probes": probes, "rises": rises, "seed": seed, "quick": quick, "longer": longer,
                    "workers": workers, "ladder": ladder, "axis": axis}  # fmt: skip
        _write(Path(out), climbed, table, settings)
    return table


def chosen_axis(table: pd.DataFrame) -> str:
    """The axis that a table of this study was made for; "rise" for others."""
    return str(table["axis"].dropna().iloc[0]) if "axis" in table else "rise"


def figure(table: pd.DataFrame) -> "Figure":
    """Share of draws on which each claim holds, on the study's axis."""
    from studies import figures

    name = chosen_axis(table)
    return figures.claims(claims(table, name), known(name), marks_of(table) if name == "rise" else None)


def finding(table: pd.DataFrame) -> list[str]:
    """Up to where each claim lasts, and what that rests on."""
    from studies.claims_report import sentences

    return sentences(table)


def report(folder: str | Path) -> Path:
    """Draw figures and report of a finished run again from its stored tables."""
    from studies.claims_report import redraw

    return redraw(Path(folder))


def claims(table: pd.DataFrame, axis: str = "rise") -> pd.DataFrame:
    """A row per dial, claim and rung: the share of draws on which the claim holds, with an interval over chains.

    The interval is `studies.statistics.share_interval`: honest at 0 and 1, where it takes a chain for a single draw.

    Args:
        table: Tidy table of a sweep with a column `dial`, and those of `studies.axes.placed` for other axes.
        axis: What places a rung, see `studies.axes.AXES`.

    Returns:
        dial, claim, rung, target, rise (nats per token), x (mean place of the rung's draws on the axis), share, low,
        high, chains, draws, verdict. Rung 0 (w*) has no interval.
    """
    rows = table[swept(table) & (table["measure"] == "holds") & (table["verdict"] != "failed")]
    named = rows.assign(claim=rows["probe"].astype(str).str.removeprefix("claim: "), x=rows[known(axis).column])
    out = []
    for (dial, claim, rung), draws in named.groupby(["dial", "claim", "rung"], observed=True):
        share, _, low, high, chains = share_interval(draws["value"], draws["chain"])
        limits = {"low": low, "high": high} if rung else {"low": np.nan, "high": np.nan}
        count = {"chains": chains, "draws": len(draws), "x": draws["x"].mean()}
        out.append({"dial": str(dial), "claim": claim, "rung": rung, "share": share, **limits, **count})
    if not out:
        return pd.DataFrame(columns=COLUMNS)
    where = rungs(table)[["dial", "rung", "target", "rise", "verdict"]]
    return pd.DataFrame(out).merge(where, on=["dial", "rung"])[COLUMNS]


def lasting(held: pd.DataFrame, share: float = SHARE) -> pd.DataFrame:
    """A row per dial and claim: the largest rise up to which it holds on at least `share` of the draws of every rung.

    Args:
        held: What `claims` returned.
        share: Share of draws asked for.

    Returns:
        dial, claim, until (nats per token; 0: at w* only, nan: not even there), target, verdict of that rung, last
        (whether it is the last rung of the ladder, so that `until` is only a lower bound), x (its place on the axis),
        at_most and at_most_x (rise and place of the last rung before the upper limit of the share falls below `share`:
        beyond it the claim is refuted), refuted (whether there is such a rung).
    """
    out = []
    for (dial, claim), rows in held.sort_values("rung").groupby(["dial", "claim"], sort=False):
        there = (rows["share"] >= share).iloc[0] if rows["rung"].iloc[0] == 0 else True
        kept = rows[(rows["share"] >= share).cumprod().astype(bool)]
        open_ = rows[(rows["high"].fillna(1) >= share).cumprod().astype(bool)] if there else kept
        until, most = _end(kept), _end(open_)
        found = {"until": until["rise"], "target": until["target"], "verdict": until["verdict"], "x": until["x"]}
        found |= {"last": len(kept) == len(rows), "at_most": most["rise"], "at_most_x": most["x"]}
        out.append({"dial": dial, "claim": claim, **found, "refuted": len(open_) < len(rows)})
    return pd.DataFrame(out)


def _end(kept: pd.DataFrame) -> dict[str, Any]:
    """The last of the rungs, or none."""
    if kept.empty:
        return {"rise": np.nan, "target": np.nan, "verdict": "trained", "x": np.nan}
    return {name: kept[name].iloc[-1] for name in ("rise", "target", "verdict", "x")}


def _text(subject: Subject, size: Size, seed: int) -> HeldOut:
    """The held-out text of the ladder, as a probe."""
    organism: Any = subject.organism
    return HeldOut(organism.examples(organism.corpus.heldout(size.heldout, seed + 1).tokens))


def _write(out: Path, ladder: Ladder, table: pd.DataFrame, asked: dict[str, Any]) -> None:
    from studies.claims_report import redraw

    with store.fresh(out) as folder:
        ladder.manifest.update(study="claims", asked=asked)
        store.write(ladder, folder)
        table.to_parquet(folder / "probes.parquet")
        redraw(folder)
