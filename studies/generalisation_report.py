"""Figures and report of the generalisation study, from the tables of its run directory alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies import behaviours, figures, findings
from studies.claims import claims
from studies.findings import scale
from studies.generalisation import axis_of, finding, natural_gap, spectrum
from studies.generalisation_calls import Gap
from studies.generalisation_draws import BUY, pairs, splits
from studies.generalisation_findings import disagree, undecided
from studies.report import Cell, Plate, Report, Table, write
from studies.survival_report import settings

TABLE = (
    "Every behaviour, from the first to break. E½ in nats per token on the study's axis, with 95 % t intervals over"
    " chains (≤, ≥: some chains leave the ladder; <, >: all do); second: the same from one logistic curve through all"
    " draws (binomial GEE, t reference; ‡ apart from the first). r: retention at the natural gap. q: Benjamini–Hochberg"
    " over all behaviours of r = ½. Seen: how often an item occurs in the training set. Test, training: what the"
    " behaviour takes off these losses, nats per token ± one standard error (over guessing; * above 0 at a false"
    " discovery rate of 5 %). Verdict: the worst among the rungs that enclose E½."
)
PAIRS = (
    "Seen against held out: mean over common draws of r(seen) − r(held out), with a 95 % t interval over chains. q:"
    " Benjamini–Hochberg over the rows. Rise: nats per token on the study's axis."
)
SPLITS = (
    "What the error of a behaviour's mean at the rung nearest to the gap is made of: shares of its squared standard"
    " error (balanced analysis of variance, chains and questions crossed, draws within chains); s.e. in the measure's"
    " unit, over chains, draws and questions; more: what would lower it most. Only where every draw answers the same"
    " questions."
)
SPECTRUM = (
    "Above: E½ of every behaviour against the natural gap, and its retention at the gap. Below: E½ against training"
    " frequency and against the contribution to test loss. Bars: 95 % t intervals over chains."
)
SURVIVAL = (
    "Retention against the {axis}. Points: means over draws; bands: 95 % t intervals over"
    " chains. Hollow points: suspect rungs; crosses on the axis: failed rungs, left out."
)
READING = (
    ("Generalising, memorising", "retained (r > ½) or not at a rise of the loss as large as the natural gap, the"
     " model's own distance to a better one; called only where q ≤ 0.05."),
    ("Axis", "the rise of the loss on held-out text unless the settings say otherwise: the gap is measured there too."),
)  # fmt: skip


def redraw(folder: Path) -> Path:
    """Write figures/*.png and report.html from probes.parquet, ladder.parquet, traces.parquet and manifest.json."""
    manifest = json.loads((folder / "manifest.json").read_text())
    ladder, table, traces = (pd.read_parquet(folder / f"{name}.parquet") for name in ("ladder", "probes", "traces"))
    found, gap = spectrum(table), natural_gap(table)
    plates = _plates(table, found, gap, ladder, traces)
    (folder / "figures").mkdir(exist_ok=True)
    for name, plate in plates.items():
        (folder / "figures" / f"{name}.png").write_bytes(plate.png)
    return write(folder, _report(table, found, ladder, manifest, list(plates.values())))


def _plates(
    table: pd.DataFrame, found: pd.DataFrame, gap: Gap, ladder: pd.DataFrame, traces: pd.DataFrame
) -> dict[str, Plate]:
    curves, rungs = behaviours.curves(table), behaviours.rungs(table)
    gap_mark = pd.Series({gap.name: gap.value})
    drawn = {
        "spectrum": (
            figures.spectrum(found, gap, rungs, axis=axis_of(table)),
            "Memorisation and generalisation",
            SPECTRUM,
        ),
        "survival": (figures.survival(curves, rungs, gap_mark), "Retention", SURVIVAL.format(axis=axis_of(table))),
        "verdicts": (figures.verdicts(ladder), "Verdicts", "What each rung's verdict rests on; shaded: what passes."),
        "traces": (figures.traces(traces, ladder, smooth=20), "Traces", "Rise of single minibatches, a line a chain."),
    }
    return {name: Plate(title, figures.png(figure), caption) for name, (figure, title, caption) in drawn.items()}


def _report(
    table: pd.DataFrame, found: pd.DataFrame, ladder: pd.DataFrame, manifest: dict[str, Any], plates: list[Plate]
) -> Report:
    rungs = behaviours.rungs(table)
    return Report(
        title="Memorisation or generalisation",
        finding=finding(table),
        settings=settings(manifest),
        ladder=ladder,
        rungs=rungs,
        plates=plates,
        claims=claims(table),
        left_out=[*findings.doubted(rungs, ladder), *undecided(found)],
        marks=behaviours.marks(table),
        versions=manifest["versions"],
        tables=_tables(table, found),
        reading=READING,
    )


def _tables(table: pd.DataFrame, found: pd.DataFrame) -> list[tuple[Table, str]]:
    """Every behaviour; rule against memory on common draws; what the errors are made of."""
    out, paired, split = [(spectrum_table(found), TABLE)], pairs(table), splits(table, natural_gap(table).value)
    if len(paired):
        out.append((_pairs_table(paired), PAIRS))
    if len(split):
        out.append((_splits_table(split), SPLITS))
    return out


def _pairs_table(rows: pd.DataFrame) -> Table:
    cells = [
        [row["name"], f"{row['rise']:.3g}", _interval(row["mean"], row["low"], row["high"]), _number(row["q"])]
        for row in rows.to_dict("records")
    ]
    head = ["behaviour", "rise", "r(seen) − r(held out)", "q"]
    return Table(head, [[Cell(text) for text in texts] for texts in cells])


def _splits_table(rows: pd.DataFrame) -> Table:
    cells = [
        [
            f"{row['behaviour']} ({row['measure']})",
            _number(row["se"]),
            *(f"{row[name]:.0%}" for name in BUY),
            row["more"],
        ]
        for row in rows.to_dict("records")
    ]
    return Table(["behaviour", "s.e.", *BUY, "more"], [[Cell(text) for text in texts] for texts in cells])


def spectrum_table(found: pd.DataFrame) -> Table:
    """Every behaviour with its scale, both opinions, the call and what goes with it."""
    head = ["behaviour", "E½", "second", "r at the gap", "q", "call", "seen", "test", "training", "verdict"]
    return Table(head, [_row(row) for row in found.to_dict("records")])


def _row(row: dict[Any, Any]) -> list[Cell]:
    kind = row["verdict"].split(" ")[0]
    half = Cell(scale(row), kind) if row["chains"] else Cell("–")
    second = _interval(row["second"], row["second_low"], row["second_high"]) + (" ‡" if disagree(row) else "")
    left = _interval(row["at_gap"], row["at_gap_low"], row["at_gap_high"])
    star = "*" if row["improves"] is True or row["improves"] == True else ""  # noqa: E712
    test = "–" if pd.isna(row["test"]) else f"{row['test']:.2g} ± {_number(row['test_se'])}{star}"
    texts = [second, left, _number(row["q"]), row["call"], _number(row["frequency"]), test, _number(row["training"])]
    return [Cell(row["label"]), half, *(Cell(text) for text in texts), Cell(row["verdict"], kind)]


def _interval(value: float, low: float, high: float) -> str:
    text = f"{value:.3g} [{low:.3g}, {high:.3g}]" if np.isfinite(value) else "–"
    return text.replace("inf", "∞")


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"
