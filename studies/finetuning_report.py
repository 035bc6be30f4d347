"""Figures and report of the finetuning study, from the tables of its run directory alone."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from studies import behaviours, figures
from studies.finetuning_findings import finding, number
from studies.finetuning_ladders import BASE, TASK_ONLY
from studies.finetuning_penalty import by_chain
from studies.report import Cell, Plate, Report, Table, write

CAPTION = (
    "The penalty, copy by copy. Brackets: 95 % intervals (Welch's t over chains for P1 and P3; chains and questions for"
    " P2). q: Benjamini–Hochberg over all numbers of a copy and potential; a call asks for q ≤ 0.05. At least,"
    " at most: chains leave the ladder on one side. The verdict is the worst among the rungs it rests on."
)
READING = (
    ("P1 ratio", "E½(base)/E½(copy): how many times sooner half of a behaviour is gone in the copy, on the rise of the"
     " base-corpus loss above the model's own."),
    ("P1 loss", "the base-corpus loss at which half of it is gone, base minus copy, in nats per token."),
    ("P2", "what the copy lacks of a behaviour that the base model, degraded to the copy's base-corpus loss, still has:"
     " a share of the base model's own value above chance. Where the copy's loss lies between the base model's w* and"
     " its first rung, the interval reaches to both. It speaks of this copy: another seed would have made another."),
    ("P3", "the loss on held-out text outside the task, copy minus base, when both are degraded to one task loss."),
    ("Potential", "mixture: equally many scored tokens of base and task data, the same for all copies; task only: the"
     " task's alone, under which everything else lies in flat directions and dies by construction."),
)  # fmt: skip
PENALTIES = (
    "P1, P2 and P3 of every copy. Small points: single behaviours (filled: called at q ≤ 0.05); large ones: the mean"
    " over behaviours; bars: 95 % intervals. Hollow: a suspect rung is involved. Right of (above) the line: a penalty."
)
CURVES = (
    "Retention of each behaviour against the base-corpus loss itself, a column a copy, under the mixture potential."
    " Points: means over draws and chains; hollow: suspect rungs; the first point of a line is the copy's own w*."
)


def redraw(folder: Path) -> Path:
    """Write figures/*.png and report.html from probes.parquet, penalties.parquet, ladder.parquet and manifest.json."""
    manifest = json.loads((folder / "manifest.json").read_text())
    ladder, table, found = (pd.read_parquet(folder / f"{name}.parquet") for name in ("ladder", "probes", "penalties"))
    plates = {
        "penalties": Plate("The generalisation penalty", figures.png(figures.penalties(found)), PENALTIES),
        "curves": Plate("Behaviours on the absolute axis", figures.png(figures.absolute(_curves(table))), CURVES),
        "losses": Plate("Loss outside the task", figures.png(figures.trade(_losses(table))), LOSSES),
    }
    (folder / "figures").mkdir(exist_ok=True)
    for name, plate in plates.items():
        (folder / "figures" / f"{name}.png").write_bytes(plate.png)
    return write(folder, _report(ladder, found, behaviours.rungs(table), manifest, list(plates.values())))


LOSSES = (
    "Loss on held-out text outside the task against the loss on the task, along every ladder: a line a copy, its first"
    " point w*. Equal task loss is one vertical line; P3 is the mean vertical distance where both have rungs. Bars: ±"
    " one standard error over chains."
)


def _curves(table: pd.DataFrame) -> pd.DataFrame:
    """Means over chains by potential, model, rung and behaviour, with the losses there."""
    parts = [by_chain(rows).assign(potential=name) for name, rows in table.groupby("potential", sort=False)]
    keys = ["potential", "model", "rung", "verdict", "probe", "measure", "behaviour"]
    values = ["value", "start", "start_se", "chance", "base", "task", "others", "rise"]
    chains = pd.concat(parts, ignore_index=True)
    return chains.groupby([*keys, "higher"], sort=False)[values].mean().reset_index()


def _losses(table: pd.DataFrame) -> pd.DataFrame:
    """Task loss and loss outside the task, mean and standard error over chains, by potential, model and rung."""
    parts = [by_chain(rows).assign(potential=name) for name, rows in table.groupby("potential", sort=False)]
    each = pd.concat(parts).drop_duplicates(["potential", "model", "rung", "chain"])
    keys = ["potential", "model", "rung", "verdict"]
    groups = each.groupby(keys, sort=False)[["task", "others"]]
    out = groups.mean().join(groups.sem().add_suffix("_se")).reset_index()
    return out.sort_values(["potential", "model", "rung"], key=lambda one: one.eq(BASE) if one.name == "model" else one)


def _report(
    ladder: pd.DataFrame, found: pd.DataFrame, rungs: pd.DataFrame, manifest: dict[str, Any], plates: list[Plate]
) -> Report:
    failed = ladder[ladder["verdict"].isin(["failed", "suspect"])]
    out = [
        f"{row['model']}, {row['potential']}, rung {row['rung']} (target {row['target']:.3g}): {row['verdict']},"
        f" {'left out everywhere' if row['verdict'] == 'failed' else 'kept and marked'}; {row['reason']}."
        for row in failed.to_dict("records")
    ]
    out += [f"{name}: not made, its method needs the package peft." for name in manifest["left out"]]
    if TASK_ONLY not in set(ladder["potential"]):
        out.append("The potential of task data alone: not climbed; --controls asks for it in a quick run too.")
    return Report(
        title="What finetuning costs in generalisation",
        finding=finding(found, rungs),
        settings=manifest["asked"] | {one["name"]: _said(one) for one in manifest["copies"]},
        ladder=ladder,
        plates=plates,
        left_out=out,
        versions=manifest["versions"],
        tables=[(_table(found), CAPTION)],
        reading=READING,
    )


def _said(copy: dict[str, Any]) -> str:
    rank = f", rank {copy['rank']}" if copy["method"] == "lora" else ""
    return (
        f"{copy['method']}{rank}, on {copy['on']} data, {copy['steps']} steps of {copy['batch']}, rate {copy['rate']:g}"
    )


def _table(found: pd.DataFrame) -> Table:
    rows = []
    for row in found.to_dict("records"):
        kind = row["verdict"].split(" ")[0]
        chance = "–" if pd.isna(row["q"]) else f"{row['q']:.3f}"
        cells = [row["potential"], row["model"], row["quantity"], row["label"], number(row), chance, row["call"]]
        rows.append([*(Cell(text) for text in cells), Cell(row["verdict"], kind), Cell(row["note"])])
    return Table(["potential", "copy", "quantity", "of", "value", "q", "call", "verdict", "note"], rows)
