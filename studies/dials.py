"""Is natural degradation the right dial? The same behaviours at equal loss along several ways to spoil a network.

The natural ladder is climbed (or read from an earlier run); every other dial is brought to the loss rise of each of its
rungs on the same evaluation set: noise of one size, noise of each tensor's size, rounding, pruning, early layers back
to their start, and, where there are any, the model's own training checkpoints at the rises they have. For each dial: in
which order do behaviours break, and does that order follow how often they were seen, or how general they are?
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from degrade import store
from probes.tables import stack
from studies import dials_checkpoints
from studies.behaviours import rungs
from studies.climbing import Size, climb, stored
from studies.dials_agreement import NATURAL, agreements
from studies.dials_findings import finding as sentences
from studies.dials_laws import LAWS
from studies.dials_matching import climb as match
from studies.dials_matching import with_evaluation
from studies.marks import marks
from studies.subject import build_probes, open_subject
from studies.sweeping import sweep_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBES: dict[str, dict[str, Any]] = {"induction": {}, "kinds": {}, "recall": {}}
FULL = Size((0.1, 0.18, 0.3, 0.5, 0.8), 4, 2, 2, 256, 256, None, None, budget=1300)
QUICK = Size((0.3, 0.8), 2, 1, 1, 64, 64, 150, 50)


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
    checkpoints: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run the study.

    Args:
        model: An organism by name.
        probes: Probes as `NAME:key=value,...`; None for induction, kinds and recall, as far as they fit.
        rises: Target loss rises, nats per token; None for the study's own.
        seed: Of everything random.
        quick: A smaller version; its rungs are too short to be called ok.
        longer: Factor on the steps of each rung.
        workers: Processes, one thread each.
        out: A new directory for tables, draws, figures and report; None writes nothing.
        ladder: A directory with the ladder of an earlier run (of `survival`, say), which is used instead of climbing.
        checkpoints: A directory with a Hugging Face directory for each checkpoint; None: those shipped, if any.
        progress: Show progress bars.

    Returns:
        The sweep of each dial, a row an answer, with a column `dial`, and rows with probe "mark".

    Raises:
        ValueError: for an unknown model or probe, or rises that cannot be reached.
        FileExistsError: if `out` exists.
    """
    size = (QUICK if quick else FULL).at(rises)
    subject = open_subject(model)
    asked = build_probes(subject, probes, PROBES)
    if ladder is None:
        natural = climb(subject, subject.data, size, seed, longer, workers, progress)
    else:
        natural = with_evaluation(stored(ladder, subject), subject.data)
    every: dict[str, Any] = {NATURAL: natural} | {
        law.name: match(natural, law, size.chains, size.asked, seed, progress) for law in LAWS
    }
    trained = dials_checkpoints.found(subject.organism, checkpoints)
    if trained:
        every["checkpoints"] = dials_checkpoints.climb(natural, trained)
    table = stack([*sweep_all(every, asked, size.asked, workers, progress), marks(subject, natural)])
    if out is not None:
        settings = {"model": model, "probes": probes, "seed": seed, "quick": quick, "longer": longer,
                    "ladder": ladder and str(ladder), "checkpoints": [str(path.name) for path in trained]}  # fmt: skip
        missed = {name: dial.missed for name, dial in every.items() if getattr(dial, "missed", None)}
        _write(Path(out), natural, table, settings, missed)
    return table


def figure(table: pd.DataFrame) -> "Figure":
    """τ_b of E½ with training frequency and with generality, dial by dial."""
    from studies import figures

    return figures.agreements(agreements(table))


def finding(table: pd.DataFrame) -> list[str]:
    """What was found: each dial's correlations, which differ from the natural dial's, and what stays open."""
    return sentences(agreements(table), rungs(table))


def report(folder: str | Path) -> Path:
    """Draw figures and report of a finished run again from its stored tables."""
    from studies.dials_report import redraw

    return redraw(Path(folder))


def _write(
    out: Path, natural: Any, table: pd.DataFrame, settings: dict[str, Any], missed: dict[str, list[str]]
) -> None:
    from studies.dials_report import redraw

    with store.fresh(out) as folder:
        kept = replace(natural, manifest=natural.manifest | {"study": "dials", "asked": settings, "missed": missed})
        store.write(kept, folder)
        table.to_parquet(folder / "probes.parquet")
        agreements(table).to_parquet(folder / "agreements.parquet")
        redraw(folder)
