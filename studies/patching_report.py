"""Figures and report of the patching study, from the tables of its run directory alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies import behaviours, figures
from studies.claims import claims
from studies.findings import scale
from studies.patching_findings import finding
from studies.patching_losses import losses
from studies.patching_scales import crossings, curves
from studies.report import Cell, Plate, Report, Table, write
from studies.survival_report import TRACES, VERDICTS, settings


def redraw(folder: Path) -> Path:
    """Write figures/*.png and report.html from probes.parquet, ladder.parquet, traces.parquet and manifest.json."""
    manifest = json.loads((folder / "manifest.json").read_text())
    ladder, table, traces = (pd.read_parquet(folder / f"{name}.parquet") for name in ("ladder", "probes", "traces"))
    found = losses(table)
    points, scales = curves(found), crossings(found)
    rungs, marks = behaviours.rungs(table), behaviours.marks(table)
    drawn = {
        "losses": Plate(
            "Patched and own loss", figures.png(figures.patched_losses(points, scales, rungs, marks)), LOSSES
        ),
        "gaps": Plate("The gap at every scale", figures.png(figures.gap_shares(points, rungs, marks)), GAPS),
        "verdicts": Plate("Verdicts", figures.png(figures.verdicts(ladder)), VERDICTS),
        "traces": Plate("Traces", figures.png(figures.traces(traces, ladder, smooth=20)), TRACES),
    }
    (folder / "figures").mkdir(exist_ok=True)
    for name, plate in drawn.items():
        (folder / "figures" / f"{name}.png").write_bytes(plate.png)
    page = _report(table, points, scales, ladder, rungs, manifest, list(drawn.values()))
    return write(folder, page)


def _report(
    table: pd.DataFrame,
    points: pd.DataFrame,
    scales: pd.DataFrame,
    ladder: pd.DataFrame,
    rungs: pd.DataFrame,
    manifest: dict[str, Any],
    plates: list[Plate],
) -> Report:
    return Report(
        title="What patching says, across loss scales",
        finding=finding(points, scales, rungs),
        settings=settings(manifest),
        ladder=ladder,
        rungs=rungs,
        plates=plates,
        claims=claims(table),
        left_out=_left_out(ladder),
        marks=behaviours.marks(table),
        versions=manifest["versions"],
        tables=[(scale_table(scales), SCALES), (gap_table(points), SHARES)],
        reading=READING,
    )


def scale_table(scales: pd.DataFrame) -> Table:
    """Every reconstruction: losses at w*, the gap between them, and c* with its interval and verdict."""
    head = ["reconstruction", "own loss", "patched loss", "gap ± s.e.", "guess", "c*", "keeps at c*", "verdict", "why"]
    rows = []
    for row in scales.to_dict("records"):
        numbers = [f"{row[name]:.3g}" for name in ("own", "patched")]
        numbers += [f"{row['gap']:.2g} ± {row['gap_se']:.1g}", f"{row['guess']:.3g}", scale(row)]
        there = row["chains"] > 0
        verdict = row["verdict"] if there else ""
        kept = f"{row['kept']:.0%}" if there else "–"
        cells = [row["label"], *numbers, kept, verdict or "–", row["reason"] or "–"]
        rows.append([Cell(cell, verdict.split(" ")[0]) for cell in cells])
    return Table(head, rows)


def gap_table(points: pd.DataFrame) -> Table:
    """The gap of every reconstruction at every rung, with what the equivalence test says."""
    rungs = points.drop_duplicates("rung").sort_values("rung")
    head = [
        "reconstruction",
        *("w*" if rung == 0 else f"{rise:.2g}" for rung, rise in rungs[["rung", "rise"]].to_numpy()),
    ]
    rows = []
    for label, mine in points.groupby("label", sort=False):
        by_rung = mine.set_index("rung").to_dict("index")
        rows.append([Cell(str(label)), *(_gap(by_rung.get(rung)) for rung in rungs["rung"])])
    return Table(head, rows)


def _gap(row: dict[Any, Any] | None) -> Cell:
    if row is None:
        return Cell("–")
    kind = str(row["verdict"]).split(" ")[0]
    if not np.isfinite(row["share"]):
        return Cell(f"not asked, no loss of a guess is known; gap {row['patched'] - row['own']:.2g} nats", kind)
    limits = f" [{row['share_low']:.1%},\u00a0{row['share_high']:.1%}]" if np.isfinite(row["share_low"]) else ""
    return Cell(f"{row['equivalent']}: {row['share']:.1%}{limits}", kind)


def _left_out(ladder: pd.DataFrame) -> list[str]:
    reasons = dict(zip(ladder["rung"], ladder["reason"].fillna("").astype(str), strict=True))
    doubted = ladder[ladder["verdict"].astype(str).str.startswith(("failed", "suspect"))]
    out = []
    for row in doubted.to_dict("records"):
        fate = "left out everywhere" if str(row["verdict"]).startswith("failed") else "kept and marked"
        out.append(
            f"Rung {row['rung']} (target {row['target']:.3g}): {row['verdict']}, {fate}; {reasons[row['rung']]}."
        )
    return out


LOSSES = (
    "Loss of the answers on the same examples: black, the unpatched model; coloured, patched runs and circuits, rerun"
    " on the draws of each rung. Points are means, bars 95 % intervals over chains and examples. Dotted: the patched"
    " loss at w*; where the black line crosses it is c*, drawn on the axis with its 95 % interval."
)
GAPS = (
    "The gap (patched loss − own loss)/(loss of a guess − own loss) at each scale, with 90 % intervals over chains and"
    " examples; shaded: ±5 %. Filled: equivalent; hollow: not, or undecided; pale crosses: not asked, the model keeps"
    " less than half of what it knew at w*."
)
SCALES = (
    "Losses at w* in nats per answer on the same examples; ± one standard error of the paired difference over examples;"
    " c* in nats of loss rise, with its 95 % interval over chains (t) and examples (jackknife). ≤, ≥: some chains cross"
    " outside the ladder; <, >: all do. The last columns: what the model still knows at c*, as a share of what it knew,"
    " and the worst verdict among the rungs that enclose the interval."
)
SHARES = (
    "Equivalence of patched and own loss at each rise (head; nats), and the gap as a share of what the model knows"
    " there, with its 90 % interval over chains and examples. yes: within ±5 %; no: outside; not asked: the model keeps"
    " less than half. Shading: the rung's verdict."
)
READING = (
    ("Nothing moved after l blocks", "the last token's state of another prompt, put in after l blocks, changes nothing:"
     " what follows reads request and context again."),
    ("Request moved after l blocks", "it carries the request alone: the answer is that of the other prompt's request in"
     " this prompt's context. Its own loss is the mean over both prompts of a pair."),
    ("Answer moved after l blocks", "it carries the answer: what follows only post-processes. Where patched and own"
     " loss are equivalent, that is so at that loss scale, as far as the loss can tell."),
    ("k edges", "all other edges of the residual stream carry what they carry in a run on the corrupted prompt"
     " (resample), or its mean (mean). Circuits were found at w* on other prompts than they are asked about."),
    ("c*", "the loss rise at which the degraded model's own loss equals the patched loss at w*: how much precision is"
     " given up by believing the reconstruction."),
    ("Guess", "the loss of a uniform guess among the possible answers."),
)  # fmt: skip
