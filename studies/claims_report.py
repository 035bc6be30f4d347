"""Figures, findings and report of the study of claims, from the tables of its run directory alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies import behaviours, figures, findings
from studies.axes import Axis, known
from studies.claims import SHARE, chosen_axis, claims, figure, lasting
from studies.report import Cell, Plate, Report, Table, write
from studies.survival_report import settings

CLAIMS = (
    "Share of draws on which each claim holds. Bars: 95 % intervals over chains (Wilson, for the effective number of"
    " draws; where all draws agree, a chain counts as one). Hollow: suspect rungs; failed ones are left out. Dashed:"
    " 95 % of draws."
)
LASTING = (
    "Up to where each claim holds on 95 % of the draws of every rung, on the study's axis and as a rise (nats per"
    " token). Not refuted up to: the last rung before the upper limit of the share falls below 95 %; between the two"
    " the draws do not decide."
)


def redraw(folder: Path) -> Path:
    """Write figures/*.png and report.html from probes.parquet, ladder.parquet, traces.parquet and manifest.json."""
    manifest = json.loads((folder / "manifest.json").read_text())
    ladder, table, traces = (pd.read_parquet(folder / f"{name}.parquet") for name in ("ladder", "probes", "traces"))
    drawn = {
        "claims": (figure(table), "Claims", CLAIMS),
        "verdicts": (figures.verdicts(ladder), "Verdicts", "What each rung's verdict rests on; shaded: what passes."),
        "traces": (figures.traces(traces, ladder, smooth=20), "Traces", "Rise of single minibatches, a line a chain."),
    }
    plates = {name: Plate(title, figures.png(picture), said) for name, (picture, title, said) in drawn.items()}
    (folder / "figures").mkdir(exist_ok=True)
    for name, plate in plates.items():
        (folder / "figures" / f"{name}.png").write_bytes(plate.png)
    return write(folder, _report(table, ladder, manifest, list(plates.values())))


def sentences(table: pd.DataFrame) -> list[str]:
    """How far the ladder holds, up to where each claim lasts, and what is not decided."""
    name = chosen_axis(table)
    axis, held = known(name), claims(table, name)
    rows = lasting(held).to_dict("records")
    open_ = [row for row in rows if row["at_most"] > row["until"]]
    said = [findings.usable(behaviours.rungs(table)), *(_said(row, held, axis) for row in rows)]
    if not open_:
        said.append("At every rung that can be used each claim holds or is refuted; between rungs none was checked.")
    else:
        each = "; ".join(f"“{row['claim']}” between {_place(row, 'x', axis)} and {_place(row, 'at_most_x', axis)}"
                         for row in open_)  # fmt: skip
        said.append(f"Not decided by these draws: {each}.")
    return said


def _said(row: dict[Any, Any], held: pd.DataFrame, axis: Axis) -> str:
    claim = f"“{row['claim']}”"
    if not np.isfinite(row["until"]):
        return f"{claim} does not hold at w*."
    after = held[(held["claim"] == row["claim"]) & (held["dial"] == row["dial"]) & (held["rise"] > row["until"])]
    if row["last"]:
        return (
            f"{claim} holds on {SHARE:.0%} of draws of every rung, up to {_place(row, 'x', axis)} ({row['verdict']})."
        )
    following = after.sort_values("rung").iloc[0]
    share = f"{following['share']:.2f} [{following['low']:.2f}, {following['high']:.2f}]"
    until = f"up to {_place(row, 'x', axis)} ({row['verdict']})" if row["until"] > 0 else "at w* only"
    place = _place(following.to_dict(), "x", axis)
    return f"{claim} holds on {SHARE:.0%} of draws {until}, on {share} of them at {place} ({following['verdict']})."


def _place(row: dict[Any, Any], column: str, axis: Axis) -> str:
    """A rung's place on the axis, and its rise where that is another one."""
    if axis.column == "rise":
        return f"a rise of {row[column]:.3g} {axis.unit}"
    value = f"{row[column]:.3g}{' ' + axis.unit if axis.unit else ''}"
    words = {"heldout_loss": "a held-out loss of", "accuracy": "an accuracy of", "llc": "λ ="}
    return f"{words[axis.column]} {value}" if np.isfinite(row[column]) else "w*"


def _report(table: pd.DataFrame, ladder: pd.DataFrame, manifest: dict[str, Any], plates: list[Plate]) -> Report:
    rungs, name = behaviours.rungs(table), chosen_axis(table)
    return Report(
        title="Up to where claims hold",
        finding=sentences(table),
        settings=settings(manifest),
        ladder=ladder,
        rungs=rungs,
        plates=plates,
        claims=claims(table),
        left_out=findings.doubted(rungs, ladder),
        marks=behaviours.marks(table),
        versions=manifest["versions"],
        tables=[(lasting_table(claims(table, name), known(name)), LASTING)],
    )


def lasting_table(held: pd.DataFrame, axis: Axis) -> Table:
    """Every claim with the place and rise up to which it holds, and up to which it is not refuted."""
    rows = []
    for row in lasting(held).to_dict("records"):
        kind = row["verdict"].split(" ")[0]
        until = "not at w*" if not np.isfinite(row["until"]) else _place(row, "x", axis) + (
            ", the last rung" if row["last"] else ""
        )  # fmt: skip
        most = _place(row, "at_most_x", axis) if row["refuted"] else "the last rung"
        rise = "–" if not np.isfinite(row["until"]) else f"{row['until']:.3g}"
        cells = [Cell(row["claim"]), Cell(until, kind), Cell(rise), Cell(most), Cell(row["verdict"], kind)]
        rows.append(cells)
    return Table(["claim", "holds up to", "rise", "not refuted up to", "verdict there"], rows)
