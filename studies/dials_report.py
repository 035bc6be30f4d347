"""Figures and report of the dials study, from the tables of its run directory alone."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from studies import behaviours, figures, findings
from studies.dials_agreement import GENERALITY, NATURAL, agreements, generality
from studies.dials_findings import finding, number
from studies.report import Cell, Plate, Report, Table, write

BESIDE = 3
AGREEMENT = (
    "Kendall's τ_b of E½ with training frequency and with generality, dial by dial: means over chains with 95 % t"
    " intervals; dials without a chance element have one draw a rung and no interval. Difference: natural minus this"
    " dial; q: Benjamini–Hochberg over all dials. The verdict is the worst among the dial's rungs."
)
PLATE = AGREEMENT + " Hollow: a suspect rung among them. Dashed: the natural dial."
RANKING = (
    "Half-retention scale E½ of each behaviour under each dial, all at the loss rises of the natural ladder"
    " (checkpoints: at their own), in the order of the natural one."
)
READING = (
    ("Equal loss", "each dial's strength is set so that the mean rise on the natural ladder's evaluation set is that"
     " rung's; what is random is drawn once a chain and scaled."),
    ("Generality", "a class given beforehand, by the behaviour's name: "
     + "; ".join(f"{int(level)} {words}" for _, level, words in GENERALITY if level is not None) + "."),
)  # fmt: skip


def redraw(folder: Path) -> Path:
    """Write figures/*.png and report.html from probes.parquet, ladder.parquet and manifest.json."""
    manifest = json.loads((folder / "manifest.json").read_text())
    ladder, table = pd.read_parquet(folder / "ladder.parquet"), pd.read_parquet(folder / "probes.parquet")
    found, ranks, rungs = agreements(table), behaviours.ranking(table), behaviours.rungs(table)
    drawn = {"agreements": Plate("Which order each dial follows", figures.png(figures.agreements(found)), PLATE)}
    for place, dials in enumerate(_groups(ranks), start=1):
        some = figures.ranking(ranks[ranks["dial"].isin(dials)], rungs[rungs["dial"].isin(dials)])
        drawn[f"ranking-{place}"] = Plate(f"Half-retention scales: {', '.join(dials)}", figures.png(some), RANKING)
    (folder / "figures").mkdir(exist_ok=True)
    for name, plate in drawn.items():
        (folder / "figures" / f"{name}.png").write_bytes(plate.png)
    marks = behaviours.marks(table)
    return write(folder, _report(ladder, found, ranks, rungs, marks, manifest, list(drawn.values())))


def _groups(ranks: pd.DataFrame) -> list[list[str]]:
    """The natural dial with a few others at a time: more do not fit a page."""
    others = [dial for dial in ranks["dial"].unique() if dial != NATURAL]
    return [[NATURAL, *others[start : start + BESIDE]] for start in range(0, max(len(others), 1), BESIDE)]


def _report(
    ladder: pd.DataFrame,
    found: pd.DataFrame,
    ranks: pd.DataFrame,
    rungs: pd.DataFrame,
    marks: pd.Series,
    manifest: dict[str, Any],
    plates: list[Plate],
) -> Report:
    missed = [f"{dial}: {text}." for dial, texts in manifest["missed"].items() for text in texts]
    if not manifest["asked"]["checkpoints"]:
        missed.append("checkpoints: the organism ships none, and none were given.")
    return Report(
        title="Is natural degradation the right dial?",
        finding=finding(found, rungs),
        settings=manifest["asked"],
        ladder=ladder,
        ranks=ranks,
        rungs=rungs,
        plates=plates,
        left_out=missed + findings.left_out(ranks, rungs, ladder),
        marks=marks,
        versions=manifest["versions"],
        tables=[
            (_table(found), AGREEMENT),
            (_classes(ranks), "The class of generality that each behaviour was given."),
        ],
        reading=READING,
    )


def _table(found: pd.DataFrame) -> Table:
    rows = []
    for row in found.to_dict("records"):
        tested = [f"{row[name]:.3f}" if pd.notna(row[name]) else "–" for name in ("difference", "q")]
        cells = [row["against"], row["dial"], number(row), str(row["behaviours"]), *tested]
        rows.append([*(Cell(text) for text in cells), Cell(row["verdict"], row["verdict"].split(" ")[0])])
    return Table(["τ_b with", "dial", "value", "behaviours", "difference", "q", "verdict"], rows)


def _classes(ranks: pd.DataFrame) -> Table:
    names = sorted(ranks["behaviour"].unique(), key=lambda name: (generality(name), name))
    shown = [(name, generality(name)) for name in names]
    rows = [[Cell(name), Cell("–" if pd.isna(level) else f"{level:g}")] for name, level in shown]
    return Table(["behaviour", "class"], rows)
