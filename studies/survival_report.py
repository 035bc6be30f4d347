"""Figures and report of the survival study, from the tables of its run directory alone."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from probes.patching import ROLES
from studies import behaviours, figures, findings, stages
from studies.claims import claims
from studies.readings import readings
from studies.report import Plate, Report, Section, readings_table, write

PATCHED = ("patching", "role effect", ["site", "layer", "role"])


def redraw(folder: Path) -> Path:
    """Write figures/*.png and report.html from probes.parquet, ladder.parquet, traces.parquet and manifest.json."""
    manifest = json.loads((folder / "manifest.json").read_text())
    ladder = pd.read_parquet(folder / "ladder.parquet")
    table = pd.read_parquet(folder / "probes.parquet")
    traces = pd.read_parquet(folder / "traces.parquet")
    plates, sections = _plates(table, ladder, traces), list(_sections(table, manifest.get("probes", {})))
    drawn = plates | {f"probe {one.title}": one.plate for one in sections if one.plate}
    (folder / "figures").mkdir(exist_ok=True)
    for name, plate in drawn.items():
        (folder / "figures" / f"{_file(name)}.png").write_bytes(plate.png)
    report = _report(table, ladder, manifest, list(plates.values()))
    times = stages.read(folder)
    spent = {"time of each stage": stages.said(times)} if times else {}
    return write(folder, replace(report, sections=sections, settings={**report.settings, **spent}))


def _sections(table: pd.DataFrame, known: dict[str, Any]) -> Iterator[Section]:
    """A section for each probe, whatever it reads; `known` is what `studies.readings.described` wrote down of them."""
    for probe, rows in readings(table).groupby("probe", sort=False):
        said = known.get(str(probe), {})
        units, plate = said.get("units", {}), None
        if ((rows["rung"] > 0) & rows["mean"].notna()).any():
            plate = Plate(str(probe), figures.png(figures.readings(rows, units), dpi=130), READINGS)
        yield Section(str(probe), said.get("line", ""), readings_table(rows, units), plate)


def _file(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _plates(table: pd.DataFrame, ladder: pd.DataFrame, traces: pd.DataFrame) -> dict[str, Plate]:
    curves, ranks = behaviours.curves(table), behaviours.ranking(table)
    rungs, marks = behaviours.rungs(table), behaviours.marks(table)
    plates = {}
    if curves["retention"].notna().any():
        plates["survival"] = Plate("Survival", figures.png(figures.survival(curves, rungs, marks)), SURVIVAL)
    if len(ranks):
        plates["ranking"] = Plate("Half-retention scales", figures.png(figures.ranking(ranks, rungs, marks)), RANKING)
    if ((table["probe"] == "patching") & (table["measure"] == PATCHED[1])).any():
        cells = behaviours.cells(table, *PATCHED)
        drawn = figures.heat_maps(cells, label="effect on the logit difference (nats)", column="role", order=ROLES)
        plates["patching"] = Plate("Activation patching across loss scales", figures.png(drawn), PATCHING)
    plates["verdicts"] = Plate("Verdicts", figures.png(figures.verdicts(ladder)), VERDICTS)
    plates["traces"] = Plate("Traces", figures.png(figures.traces(traces, ladder, smooth=20)), TRACES)
    return plates


def _report(table: pd.DataFrame, ladder: pd.DataFrame, manifest: dict[str, Any], plates: list[Plate]) -> Report:
    ranks, rungs, marks = behaviours.ranking(table), behaviours.rungs(table), behaviours.marks(table)
    return Report(
        title="Which behaviours survive degradation",
        finding=findings.finding(ranks, ladder, marks),
        settings=settings(manifest),
        ladder=ladder,
        ranks=ranks if len(ranks) else None,
        rungs=rungs,
        plates=plates,
        claims=claims(table),
        controls=findings.controls(ranks),
        left_out=findings.left_out(ranks, rungs, ladder),
        marks=marks,
        versions=manifest["versions"],
    )


def settings(manifest: dict[str, Any]) -> dict[str, Any]:
    """Settings as given and as found, by name."""
    plain = {name: value for name, value in manifest["settings"].items() if value is not None}
    found = {
        "sampled parameters": manifest["sampled"],
        "examples": manifest["examples"],
        f"n ({manifest['unit']}s)": manifest["n"],
        f"loss at w* (nats per {manifest['unit']}, sampling data)": round(manifest["loss_at_w*"], 4),
        "highest reachable rise (nats)": round(manifest["reachable_rise"], 3),
        "model (SHA-256)": manifest["keys"]["model"][:16],
        "data (SHA-256)": manifest["keys"]["data"][:16],
    }
    return manifest["asked"] | plain | found


SURVIVAL = (
    "Retention r = (f − f₀)/(f(w*) − f₀) of each behaviour f against the paired loss rise on the fixed evaluation set;"
    " f₀ is its chance level. Points are means over draws, bands 95 % t intervals over chains. Hollow points: rungs"
    " whose verdict is suspect; crosses on the axis: failed rungs, left out."
)
RANKING = (
    "Half-retention scale E½: the rise at which the isotonic fit of retention first crosses ½, per chain on the log"
    " axis, averaged over chains with a 95 % t interval. Arrows: censored at the end of the ladder."
)
PATCHING = (
    "Effect of patching clean activations into the corrupted run on the logit difference between the right and the"
    " wrong answer, mean over prompts, chains and draws; one colour scale, centred on 0, for all rungs."
)
READINGS = "Readings against the loss rise, up to eight cells a measure in the order of the table."
VERDICTS = "What each rung's verdict rests on; shaded: the range that passes. Bars are one standard error over chains."
TRACES = (
    "Rise of single minibatches (running means of 20 steps), a line a chain; the discarded part is pale, the target"
    " dashed."
)
