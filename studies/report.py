"""The report of a study: one HTML file that needs nothing else, to be read, printed or put in an appendix."""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from studies.claims import lasting
from studies.findings import scale
from studies.readings import LIKENESS


@dataclass(frozen=True)
class Plate:
    """A figure of the report: a short title, the PNG, and a caption that defines its points, bands and marks."""

    title: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Report:
    """What a report shows.

    Attributes:
        title: Its heading.
        finding: Sentences of the first paragraph, see `studies.findings.finding`.
        settings: What was run: name and value, as given.
        ladder: `ladder.table` of the natural dial.
        ranks: What `studies.behaviours.ranking` returned; None for a study that ranks nothing.
        rungs: What `studies.behaviours.rungs` returned: the verdicts of all dials; None: those of `ladder`.
        plates: Figures, in order.
        claims: What `studies.claims.claims` returned, or None.
        controls: Sentences, see `studies.findings.controls`.
        left_out: Sentences, see `studies.findings.left_out`.
        marks: Loss rises by name, nats per token.
        versions: Package versions.
        tables: The study's own tables, each with its caption.
        reading: The study's own notes for the reader: a term and what it means.
        sections: What each probe read, in the order they were asked in.
    """

    title: str
    finding: Sequence[str]
    settings: Mapping[str, Any]
    ladder: pd.DataFrame
    ranks: pd.DataFrame | None = None
    rungs: pd.DataFrame | None = None
    plates: Sequence[Plate] = ()
    claims: pd.DataFrame | None = None
    controls: Sequence[str] = ()
    left_out: Sequence[str] = ()
    marks: Mapping[str, float] | pd.Series | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[tuple["Table", str]] = ()
    reading: Sequence[tuple[str, str]] = ()
    sections: Sequence["Section"] = ()


class Cell(NamedTuple):
    """A cell of a table: its text and the CSS class that shows the verdict behind it."""

    text: str
    kind: str = ""


class Table(NamedTuple):
    """Column heads and rows of cells."""

    head: list[str]
    rows: list[list[Cell]]


class Section(NamedTuple):
    """What one probe read: its name, what it says of itself, a table, and a figure if there is something to draw."""

    title: str
    text: str
    table: Table
    plate: Plate | None = None


def write(folder: Path | str, report: Report, name: str = "report.html") -> Path:
    """Render the report into `folder`, all figures inside it; all text is escaped.

    The file appears whole or not at all: it is written under another name and renamed.

    Returns:
        Where it is.
    """
    path = Path(folder) / name
    partial = path.with_suffix(".partial")
    partial.write_text(render(report), encoding="utf-8")
    os.replace(partial, path)
    return path


def render(report: Report) -> str:
    """The report as HTML."""
    loader = FileSystemLoader(Path(__file__).parent)
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    held = report.claims if report.claims is not None and len(report.claims) else None
    return page.get_template("report.html.j2").render(
        report=report,
        verdicts=verdict_table(report.ladder),
        ranked=None if report.ranks is None else ranked_table(report.ranks),
        claims=None if held is None else claims_table(held),
        plates=[(plate, _encoded(plate)) for plate in report.plates],
        sections=[(section, section.plate and _encoded(section.plate)) for section in report.sections],
        marks=[] if report.marks is None else sorted(report.marks.items(), key=lambda mark: mark[1]),
        dials=_tallies(report.ladder.assign(dial=_dial(report.ladder)) if report.rungs is None else report.rungs),
    )


def _encoded(plate: Plate) -> str:
    return base64.b64encode(plate.png).decode()


def verdict_table(ladder: pd.DataFrame) -> Table:
    """Every rung with its achieved rise, temperature, complexity, diagnostics, verdict and reason."""
    shown = [(head, name) for head, name in _VERDICTS if name in ladder]
    rows = []
    for row in ladder.to_dict("records"):
        kind = _kind(row["verdict"])
        cells = [Cell(_with_error(row, name), kind) for _, name in shown]
        rows.append([*cells, Cell(row["verdict"], kind), Cell(_text(row.get("reason")), kind)])
    return Table([*(head for head, _ in shown), "verdict", "reason"], rows)


def ranked_table(ranks: pd.DataFrame) -> Table:
    """Every behaviour with its value at w*, chance level, and under each dial E½, interval and verdict."""
    dials = sorted(ranks["dial"].unique(), key=lambda dial: (dial != "natural", dial))
    by_dial = {dial: ranks[ranks["dial"] == dial].set_index("label").to_dict("index") for dial in dials}
    first = ranks[ranks["dial"] == dials[0]].sort_values("rank", na_position="last")
    labels = [*first["label"], *sorted(set(ranks["label"]) - set(first["label"]))]
    heads = [head for dial in dials for head in (f"E½ {dial}", f"verdict {dial}")]
    rows = [_ranked(label, [by_dial[dial].get(label) for dial in dials]) for label in labels]
    return Table(["rank", "behaviour", "measure", "f(w*)", "chance", *heads], rows)


def claims_table(held: pd.DataFrame) -> Table:
    """For every claim and dial the share of draws on which it holds, a column a rung, and up to where it lasts."""
    rungs = sorted(int(rung) for rung in held["rung"].unique())
    until: dict[tuple[str, str], Any] = {(row["dial"], row["claim"]): row for row in lasting(held).to_dict("records")}
    rows = []
    for dial, claim in sorted(until, key=lambda key: (key[1], key[0] != "natural", key[0])):
        part = held[(held["dial"] == dial) & (held["claim"] == claim)]
        by_rung = part.set_index("rung").to_dict("index")
        shares = [_share(by_rung.get(rung)) for rung in rungs]
        rows.append([Cell(claim), Cell(dial), *shares, _until(until[dial, claim])])
    targets = held["target"].fillna(held["rise"]).groupby(held["rung"]).first()
    heads = ["w*" if rung == 0 else f"{targets[rung]:.3g}" for rung in rungs]
    return Table(["claim", "dial", *heads, "holds up to"], rows)


def readings_table(rows: pd.DataFrame, units: Mapping[str, str]) -> Table:
    """For every measure and cell of a probe its value, with its interval, at w* and at each rung.

    Args:
        rows: What `studies.readings.readings` returned, of one probe.
        units: Unit by measure.
    """
    rungs = rows.drop_duplicates("rung").set_index("rung").sort_index()
    values = {key: part.set_index("rung").to_dict("index") for key, part in rows.groupby(["measure", "cell"])}
    out = []
    for measure, cell, count in rows[["measure", "cell", "cells"]].drop_duplicates().itertuples(index=False):
        unit = "" if cell == LIKENESS else units.get(measure, "")
        where = f"{cell} ({count})" if cell == LIKENESS else cell
        by_rung = values[measure, cell]
        out.append([Cell(measure), Cell(where), Cell(unit), *(_reading(by_rung.get(rung)) for rung in rungs.index)])
    heads = ["w*" if rung == 0 else f"{row.target:.3g}, {row.verdict}" for rung, row in rungs.iterrows()]
    return Table(["measure", "of", "unit", *heads], out)


_VERDICTS = [
    ("model", "model"),
    ("potential", "potential"),
    ("rung", "rung"),
    ("target", "target"),
    ("rise", "rise"),
    ("held-out rise", "heldout_rise"),
    ("calibrated rise", "calibrated_rise"),
    ("nβ", "nbeta"),
    ("λ", "llc"),
    ("virial", "virial"),
    ("weighted virial", "weighted_virial"),
    ("config. temperature", "temperature"),
    ("step adds", "heating"),
    ("R̂", "rhat"),
    ("ESS", "ess"),
    ("rise / highest", "reach"),
    ("restarts", "restarts"),
]


def _dial(ladder: pd.DataFrame) -> pd.Series | str:
    """Which ladder a rung is of, where the table holds several."""
    named = [name for name in ("model", "potential") if name in ladder]
    return ladder[named].astype(str).agg(", ".join, axis=1) if named else "natural"


def _tallies(rungs: pd.DataFrame) -> list[str]:
    counts = rungs[rungs["rung"] > 0].groupby(["dial", "verdict"]).size()
    dials = sorted(rungs["dial"].unique(), key=lambda dial: (dial != "natural", dial))
    climbed = set(counts.index.get_level_values("dial"))
    return [
        f"{dial}: " + ", ".join(f"{n} {verdict}" for verdict, n in counts[dial].items())
        if dial in climbed
        else f"{dial}: no rung to compare with"
        for dial in dials
    ]


def _ranked(label: str, halves: list[dict[Any, Any] | None]) -> list[Cell]:
    any_dial = next(half for half in halves if half is not None)
    rank = halves[0]["rank"] if halves[0] else np.nan
    start, chance = _text(any_dial["start"]), _text(any_dial["chance"])
    cells = [Cell(_text(rank)), Cell(label), Cell(any_dial["measure"]), Cell(start), Cell(chance)]
    for half in halves:
        if half is None or not half["chains"]:
            cells += [Cell("–"), Cell("not measured" if half is None else half["reason"].split(":")[0])]
        else:
            kind = _kind(half["verdict"])
            cells += [Cell(scale(half), kind), Cell(half["verdict"], kind)]
    return cells


def _share(row: dict[Any, Any] | None) -> Cell:
    if row is None:
        return Cell("left out", "failed")
    limits = f" [{row['low']:.2f},\u00a0{row['high']:.2f}]" if np.isfinite(row["low"]) else ""
    dagger = "†" if _kind(row["verdict"]) == "suspect" else ""
    return Cell(f"{row['share']:.2f}{limits}{dagger}", _kind(row["verdict"]))


def _reading(row: dict[Any, Any] | None) -> Cell:
    if row is None:
        return Cell("–")
    limits = f" [{row['low']:.3g},\u00a0{row['high']:.3g}]" if np.isfinite(row["low"]) else ""
    kind = _kind(row["verdict"])
    return Cell(f"{_text(row['mean'])}{limits}{'†' if kind == 'suspect' else ''}", "" if kind == "trained" else kind)


def _until(row: dict[Any, Any]) -> Cell:
    if not np.isfinite(row["until"]):
        return Cell("not at w*")
    text = "w* only" if not row["until"] > 0 else f"{row['until']:.3g} ({row['verdict']})"
    return Cell(f"> {text}, the last rung" if row["last"] else text, _kind(row["verdict"]))


def _kind(verdict: str) -> str:
    word = str(verdict).split(" ")[0]
    return word if word in ("ok", "suspect", "failed", "trained") else "suspect"


def _with_error(row: dict[Any, Any], name: str) -> str:
    error = row.get(f"{name}_se", np.nan)
    if not isinstance(error, float) or not error > 0 or not np.isfinite(error):
        return _text(row[name])
    places = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{row[name]:,.{places}f} ±\u00a0{error:,.{places}f}"


def _text(value: Any) -> str:
    if value is None or not isinstance(value, (float, np.floating)):
        return "–" if value is None else str(value)
    number = float(value)
    if not np.isfinite(number):
        return "–" if np.isnan(number) else "∞"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
