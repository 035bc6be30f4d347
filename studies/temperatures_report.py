"""Figures and report of the study of temperatures, from the tables of its run directory alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies import figures
from studies.figures.temperatures import complexity, training_complexity
from studies.report import Cell, Plate, Report, Table, write
from studies.survival_report import TRACES, VERDICTS, settings
from studies.temperatures_findings import finding, interval
from studies.temperatures_reading import Reading, over_training, read


def redraw(folder: Path) -> Path:
    """Write figures/*.png and report.html from the run directory's *.parquet and manifest.json."""
    manifest = json.loads((folder / "manifest.json").read_text())
    table, ladder, traces, verdicts = (
        pd.read_parquet(folder / f"{name}.parquet") for name in ("coefficients", "ladder", "traces", "verdicts")
    )
    found = read(table)
    plates = {"complexity": Plate("Complexity at two temperatures", figures.png(complexity(found)), COMPLEXITY)}
    trained = over_training(table) if (table["question"] == "checkpoints").any() else None
    if trained is not None:
        plates["training"] = Plate("Over training", figures.png(training_complexity(trained)), TRAINING)
    plates["verdicts"] = Plate("Verdicts", figures.png(figures.verdicts(ladder)), VERDICTS)
    plates["traces"] = Plate("Traces", figures.png(figures.traces(traces, ladder, smooth=20)), TRACES)
    (folder / "figures").mkdir(exist_ok=True)
    for name, plate in plates.items():
        (folder / "figures" / f"{name}.png").write_bytes(plate.png)
    return write(folder, _report(table, found, trained, verdicts, manifest, list(plates.values())))


def _report(
    table: pd.DataFrame,
    found: Reading,
    trained: pd.DataFrame | None,
    verdicts: pd.DataFrame,
    manifest: dict[str, Any],
    plates: list[Plate],
) -> Report:
    tables = [(whole_table(found), WHOLE), (part_table(found), PARTS)]
    if len(found.rows) > 1:
        tables.append((n_table(found), ROWS))
    if len(found.widths) > 1:
        tables.append((width_table(found), WIDTHS))
    if trained is not None:
        tables.append((training_table(trained), STEPS))
    return Report(
        title="Complexity at Watanabe's temperature and at the natural gap's",
        finding=finding(table),
        settings=settings(manifest),
        ladder=verdicts,
        plates=plates,
        left_out=_doubted(verdicts),
        marks={str(found.gap["part"]): float(found.gap["llc"])},
        versions=manifest["versions"],
        tables=tables,
        reading=READING,
    )


def whole_table(found: Reading) -> Table:
    """λ of the whole model at every rung."""
    rows = []
    for row in found.rungs.to_dict("records"):
        texts = [f"{row['nbeta']:,.4g}", f"{row['rise']:.3g}", f"{row['heldout_rise']:.3g}", _limits(row, "llc")]
        rows.append(_cells([*texts, row["verdict"]], row["verdict"]))
    return Table(["nβ", "rise", "held-out rise", "λ", "verdict"], rows)


def part_table(found: Reading) -> Table:
    """λ, share and rank of every part at both temperatures, and whether they change."""
    head = ["sampled", "family", "part", "λ at n / ln n", "λ at the gap", "share at n / ln n", "share at the gap",
            "change (points)", "q", "rank", "rank change", "q (rank)", "verdict"]  # fmt: skip
    if found.changes.empty:
        return Table(head, [])
    llcs = found.parts.set_index(["question", "family", "part", "at"]).to_dict("index")
    rows = []
    for row in found.changes.to_dict("records"):
        key = (row["question"], row["family"], row["part"])
        lambdas = [_limits(llcs[*key, one.name], "llc") if (*key, one.name) in llcs else "–" for one in found.scales]
        texts = ["all weights" if row["question"] == "ladder" else "alone", row["family"], row["part"], *lambdas,
                 _percent(row, "before"), _percent(row, "after"), _percent(row, "change"), f"{row['q']:.2g}",
                 f"{row['rank_before']:.2g} → {row['rank_after']:.2g}",
                 interval(row["rank_change"], row["rank_low"], row["rank_high"]), f"{row['rank_q']:.2g}",
                 row["verdict"]]  # fmt: skip
        rows.append(_cells(texts, row["verdict"]))
    return Table(head, rows)


def n_table(found: Reading) -> Table:
    """λ of subsets of the data, and of all data at the same temperature."""
    rows = []
    for row in found.rows.to_dict("records"):
        times = np.exp([row["log_ratio"], row["ratio_low"], row["ratio_high"]])
        texts = [f"{row['n']:,.0f}", f"{row['nbeta']:,.4g}", f"{row['rise']:.3g}", _limits(row, "llc"),
                 interval(*times), row["verdict"]]  # fmt: skip
        rows.append(_cells(texts, row["verdict"]))
    return Table(["n", "n / ln n", "rise", "λ", "λ / λ of all data there", "verdict"], rows)


def width_table(found: Reading) -> Table:
    """λ at both temperatures for every width."""
    rows = []
    for row in found.widths.to_dict("records"):
        times = np.exp([row["log_ratio"], row["ratio_low"], row["ratio_high"]])
        texts = [f"{row['width']:.3g}", _limits(row, "before"), _limits(row, "after"), interval(*times), row["verdict"]]
        rows.append(_cells(texts, row["verdict"]))
    return Table(["width", "λ at n / ln n", "λ at the gap", "factor", "verdict"], rows)


def training_table(trained: pd.DataFrame) -> Table:
    """λ of every checkpoint, whole and by layer, at both temperatures."""
    rows = []
    for row in trained.to_dict("records"):
        step = "trained" if np.isnan(row["step"]) else f"{row['step']:.0f}"
        rows.append(_cells([step, row["part"], row["at"], _limits(row, "llc"), row["verdict"]], row["verdict"]))
    return Table(["step", "part", "at", "λ", "verdict"], rows)


def _limits(row: dict[Any, Any], name: str) -> str:
    low, high = ("low", "high") if name == "llc" else (f"{name}_low", f"{name}_high")
    return interval(row[name], row[low], row[high])


def _percent(row: dict[Any, Any], name: str) -> str:
    return interval(100 * row[name], 100 * row[f"{name}_low"], 100 * row[f"{name}_high"])


def _cells(texts: list[str], verdict: str) -> list[Cell]:
    return [Cell(text, str(verdict).split(" ")[0]) for text in texts]


def _doubted(verdicts: pd.DataFrame) -> list[str]:
    doubted = verdicts[verdicts["verdict"].astype(str).str.startswith(("suspect", "failed"))]
    return [
        f"{row['potential']}, nβ = {row['nbeta']:,.4g}: {row['verdict']},"
        f" {'left out' if row['verdict'] == 'failed' else 'kept and marked'}; {row['reason']}."
        for row in doubted.to_dict("records")
    ]


COMPLEXITY = (
    "Above: λ and the loss rise of the whole model against the inverse temperature; vertical lines: n / ln n and the"
    " natural-gap temperature. Below: the share of each part in its family's sum at both. Bars: 95 % t intervals over"
    " chains."
)
TRAINING = "λ of the checkpoints and of the trained model, whole and by layer, at the trained model's temperatures."
WHOLE = "The whole model at every rung: nβ per token, rises in nats per token, λ with its 95 % t interval over chains."
PARTS = (
    "λ, its share of the family's sum (%), and its rank (1: largest; mean over chains) at both temperatures, with 95 %"
    " t intervals over chains, paired by chain. q: Benjamini–Hochberg over the family of no change. All weights: ½ nβ"
    " E[(w − w*)·∇L] of the part under the law of all weights; alone: nβ E[ΔL] where only that part is sampled."
)
ROWS = (
    "The whole model on subsets of the training set, each at n / ln n of its own n; last but one: that λ over λ of all"
    " the data at the same nβ, read off the ladder. What is left of the ratio is n's own doing, the rest temperature's."
)
WIDTHS = "The whole model in narrower and wider neighbourhoods (width: s_t over the rms of each tensor)."
STEPS = "λ over training with 95 % t intervals over chains; negative: the checkpoint is no minimum at that scale."
READING = (
    ("n / ln n", "Watanabe's inverse temperature, n in tokens of the sampling data."),
    ("Natural gap", "the temperature at which the loss rise equals the model's own distance to a better one; read off"
     " the ladder, log rise being linear in log nβ between rungs."),
    ("λ of a part, all weights sampled", "half the number of its parameters that the data determine at that scale;"
     " these add up to λ where the loss is quadratic."),
    ("λ of a part, sampled alone", "the weight-refined coefficient, all other weights at w*; these do not add up."),
)  # fmt: skip
