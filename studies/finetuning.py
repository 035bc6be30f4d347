"""What does finetuning cost in generalisation? A base model and its finetuned copies, degraded alike and compared.

Every copy gets a ladder of its own, centred on its own weights, and all ladders share one stated potential: an equal
mixture of base and task data. Base data alone would un-finetune a copy, task data alone would leave its general
behaviours unconstrained and build the penalty in; the ladders that are repeated with task data alone show by how much.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from degrade import next_token_loss
from degrade.manifest import FORMAT, PACKAGES
from probes.tables import stack
from studies import finetuning_ladders as ladders
from studies.behaviours import rungs
from studies.climbing import Size
from studies.finetuning_findings import finding as sentences
from studies.finetuning_penalty import penalties
from studies.finetuning_tasks import open_task
from studies.finetuning_training import CONTROL, VARIANTS, Variant, possible
from studies.subject import build_probes, open_subject
from studies.sweeping import sweep_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBES: dict[str, dict[str, Any]] = {"induction": {}, "kinds": {}, "recall": {}}
FULL = Size((0.25, 0.55), 4, 2, 2, 128, 256, None, None, budget=300)
QUICK = Size((0.6,), 2, 1, 1, 64, 128, 130, 50)
ROWS, QUICK_ROWS = 8192, 2048  # of the task, to finetune on
SAMPLED = 4096  # of base and of task at most, in the potential of both
STRONGEST = VARIANTS[2]
QUICK_VARIANTS = (CONTROL, STRONGEST)


def run(
    model: str = "mixture",
    probes: Sequence[str] | None = None,
    rises: Sequence[float] | None = None,
    seed: int = 0,
    quick: bool = False,
    controls: bool = False,
    longer: float = 1.0,
    workers: int = 2,
    out: str | Path | None = None,
    ladder: str | Path | None = None,
    task: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run the study.

    Args:
        model: An organism by name.
        probes: Probes as `NAME:key=value,...`; None for induction, kinds and recall, as far as they fit.
        rises: Target rises of every ladder above its own loss on its potential, nats per token.
        seed: Of everything random; all ladders share it.
        quick: A smaller version: two copies, one rung, two chains, and no task data alone without `controls`.
        controls: Repeat every copy, not only the strongest fully finetuned one, with task data alone.
        longer: Factor on the steps of each rung.
        workers: Processes, one thread each.
        out: A new directory for copies, ladders, tables, figures and report; None writes nothing.
        ladder: A directory that an earlier run of this study wrote: its copies and ladders are used, none is climbed.
        task: What to finetune on, see `studies.finetuning_tasks.open_task`; None: the study's own.
        progress: Show progress bars.

    Returns:
        The sweep of each ladder, a row an answer, with columns `dial` ("copy, potential"), `model` and `potential`; and
        rows with probe "unreached": rises that a potential does not reach, see `studies.finetuning_ladders.unreached`.

    Raises:
        ValueError: for an unknown model, probe or task, or rises that cannot be reached.
        FileExistsError: if `out` exists.
        FileNotFoundError: if `ladder` lacks one of the copies or ladders.
    """
    size = (QUICK if quick else FULL).at(rises)
    subject = open_subject(model)
    organism: Any = subject.organism
    size = replace(size, width=organism.width or size.width)
    asked = [*build_probes(subject, probes, PROBES)]
    rows = QUICK_ROWS if quick else ROWS
    work = open_task(organism, task, rows, size.heldout, seed)
    variants = possible(QUICK_VARIANTS if quick else VARIANTS)
    repeated = [one for one in variants if one.on == "task"] if controls else [] if quick else [STRONGEST]
    wanted = ladders.places(variants, repeated)
    with ladders.workplace(out) as folder:
        source = folder if ladder is None else Path(ladder)
        models = ladders.copies(subject, work, variants, source / "models", seed, ladder is None, progress)
        if ladder is None:
            data = ladders.potentials(subject.data, work, min(rows, SAMPLED), seed)
            climbed = ladders.climb_all(
                models, data, wanted, size, seed, next_token_loss, longer=longer, workers=workers, progress=progress
            )
        else:
            climbed = ladders.stored(source, models, wanted)
        table = swept(climbed, [*asked, ladders.losses(work)], size.asked, workers, progress)
        missing = ladders.unreached(climbed, size.rises)
        table = stack([table, missing]) if len(missing) else table
        if out is not None:
            asked_for = {"model": model, "task": work.name, "probes": probes, "rises": rises, "rows": rows}
            settings = asked_for | {"seed": seed, "quick": quick, "controls": controls, "longer": longer}
            _write(folder, climbed, table, settings, variants, ladder is None)
    return table


def swept(
    climbed: dict[ladders.Place, Any], probes: Sequence[Any], draws: int, workers: int, progress: bool
) -> pd.DataFrame:
    """The sweep of every ladder, with columns `dial`, `model` and `potential`."""
    dials = {f"{name}, {potential}": one for (name, potential), one in climbed.items()}
    table = stack(sweep_all(dials, probes, draws, workers, progress))
    split = table["dial"].str.rsplit(", ", n=1)
    return table.assign(model=split.str[0], potential=split.str[1])


def figure(table: pd.DataFrame) -> "Figure":
    """P1, P2 and P3 of every copy, under both potentials."""
    from studies import figures

    return figures.penalties(penalties(table))


def finding(table: pd.DataFrame) -> list[str]:
    """What was found: the penalty of each copy, the control's, and what the potential changes."""
    return sentences(penalties(table), rungs(table), table[table["probe"] == ladders.UNREACHED])


def report(folder: str | Path) -> Path:
    """Draw figures and report of a finished run again from its stored tables."""
    from studies.finetuning_report import redraw

    return redraw(Path(folder))


def _write(
    folder: Path,
    climbed: dict[ladders.Place, Any],
    table: pd.DataFrame,
    settings: dict[str, Any],
    variants: Sequence[Variant],
    fresh: bool,
) -> None:
    from studies.finetuning_report import redraw

    if fresh:
        ladders.write(climbed, folder)
    tables = [one.table.assign(model=name, potential=kind) for (name, kind), one in climbed.items()]
    pd.concat(tables, ignore_index=True).to_parquet(folder / "ladder.parquet")
    table.to_parquet(folder / "probes.parquet")
    penalties(table).to_parquet(folder / "penalties.parquet")
    asked = QUICK_VARIANTS if settings["quick"] else VARIANTS
    left = [one.name for one in asked if one not in variants]
    content = {"format": FORMAT, "study": "finetuning", "asked": settings, "copies": [asdict(one) for one in variants],
               "left out": left, "versions": {name: version(name) for name in PACKAGES}}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(content, indent=1, default=str))
    redraw(folder)
