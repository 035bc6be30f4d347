"""Memorisation or generalisation? Which behaviours are still there when the loss has risen by the natural gap.

The essay's spectrum: a behaviour is generalisation-like if it is retained at a loss precision comparable to the model's
own gap to a better one. Every behaviour gets its half-retention scale with an interval over chains, a call at the gap
that counts how many were made, and beside it how often it was seen in training and what it is worth on test text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from degrade import store
from degrade.result import Ladder
from probes import Subject
from probes.tables import stack
from studies.behaviours import marks as marks_of
from studies.behaviours import rungs
from studies.climbing import Size, climb, stored
from studies.contributions import contributions, worth
from studies.generalisation_calls import Gap, calls
from studies.marks import marks
from studies.subject import build_probes, open_subject
from studies.sweeping import sweep_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBES: dict[str, dict[str, Any]] = {"induction": {}, "kinds": {}, "recall": {}}
FULL = Size((0.09, 0.25, 0.7), 8, 2, 2, 256, 512, None, None, budget=2600)
QUICK = Size((0.4, 1.0), 4, 1, 1, 128, 128, 120, 40)  # colder ones take more steps than a quick run has
AXES = {"heldout": "rise of the held-out loss", "rise": "rise of the sampling data's loss"}
GAPS = ("exact", "larger")
SEQUENCES, QUICK_SEQUENCES = 4096, 1024  # on which contributions are measured


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
    gap: str | float = "exact",
    axis: str = "heldout",
    progress: bool = True,
) -> pd.DataFrame:
    """Run the study.

    Args:
        model: An organism by name.
        probes: Probes as `NAME:key=value,...`; None for induction, kinds and recall, as far as they fit.
        rises: Target loss rises, nats per token; some should lie on either side of the gap.
        seed: Of everything random.
        quick: A smaller version, of four chains and two short rungs above the gap, where only retention can be shown.
        longer: Factor on the steps of each rung.
        workers: Processes, one thread each.
        out: A new directory for tables, draws, figures and report; None writes nothing.
        ladder: The directory of an earlier run, whose draws are asked instead of climbing.
        gap: The natural gap: "exact" (to the entropy of the corpus), "larger" (to the organism's better model), or a
            number of nats per token.
        axis: What is compared with the gap: "heldout", the rise of the loss on held-out text, on which the gap is
            measured too, or "rise", that of the sampling data.
        progress: Show progress bars.

    Returns:
        The sweep, a row an answer, its `rise` on that axis; rows with probe "mark" (losses to compare with), "gap"
        (the natural gap: measure its name, value, se) and "contribution" (measure test or training, behaviour, value,
        se, p, tokens).

    Raises:
        ValueError: for an unknown model, probe, gap or axis, or rises that cannot be reached.
        FileExistsError: if `out` exists.
    """
    if axis not in AXES:
        raise ValueError(f"unknown axis {axis!r}; the natural gap can be compared with {' or '.join(AXES)}")
    subject = open_subject(model)
    natural = open_gap(subject, gap)
    size = (QUICK if quick else FULL).at(rises)
    asked = build_probes(subject, probes, PROBES)
    climbed = (
        climb(subject, subject.data, size, seed, longer, workers, progress)
        if ladder is None
        else stored(ladder, subject)
    )
    table = stack([*sweep_all({"natural": climbed}, asked, size.asked, workers, progress), marks(subject, climbed)])
    table = stack(
        [on_axis(table, axis), _gap_row(natural), _worths(subject, QUICK_SEQUENCES if quick else SEQUENCES, seed)]
    )
    if out is not None:
        settings = {"model": model, "probes": probes, "rises": rises, "seed": seed, "quick": quick, "longer": longer,
                    "workers": workers, "ladder": ladder, "gap": gap, "axis": axis}  # fmt: skip
        _write(Path(out), climbed, table, settings)
    return table


def open_gap(subject: Subject, gap: str | float) -> Gap:
    """The natural gap by name, measured with its standard error, or a number.

    Raises:
        ValueError: for another name, a number that is no gap, or an organism without a larger model.
    """
    organism: Any = subject.organism
    if isinstance(gap, (int, float)):
        if not 0 < gap < np.inf:
            raise ValueError(f"gap={gap:g} nats per token; expected a number above 0, or one of {', '.join(GAPS)}")
        return Gap("given gap", float(gap))
    if gap not in GAPS:
        raise ValueError(f"unknown gap {gap!r}; expected {', '.join(GAPS)} or a number of nats per token")
    value, se = organism.exact_gap(subject.model) if gap == "exact" else organism.reference_gap(subject.model)
    return Gap({"exact": "exact gap", "larger": "larger model"}[gap], value, se)


def on_axis(table: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The table with its `rise` on the axis that the gap is compared with, named in the column `axis`."""
    return table.assign(axis=axis, rise=table["rise" if axis == "rise" else "heldout_rise"])


def axis_of(table: pd.DataFrame) -> str:
    """What the axis of a table of this study is, in words."""
    return AXES[str(table["axis"].dropna().iloc[0])]


def natural_gap(table: pd.DataFrame) -> Gap:
    """The gap that a table of this study was made for."""
    row = table[table["probe"] == "gap"].iloc[0]
    return Gap(str(row["measure"]), float(row["value"]), float(row["se"]))


def spectrum(table: pd.DataFrame) -> pd.DataFrame:
    """A row per behaviour, from the first to break: `calls` and `worth` of the study's table."""
    found = calls(table, natural_gap(table))
    rows = table[table["probe"] == "contribution"]
    return worth(found, rows.rename(columns={"measure": "data"}))


def figure(table: pd.DataFrame) -> "Figure":
    """E½ of every behaviour with its call, against the gap, training frequency and the contribution to test loss."""
    from studies import figures

    return figures.spectrum(spectrum(table), natural_gap(table), rungs(table), marks_of(table), axis_of(table))


def finding(table: pd.DataFrame) -> list[str]:
    """What was found, with numbers and intervals, and what could not be decided."""
    from studies.generalisation_findings import finding as sentences

    return sentences(spectrum(table), natural_gap(table), rungs(table), table)


def report(folder: str | Path) -> Path:
    """Draw figures and report of a finished run again from its stored tables."""
    from studies.generalisation_report import redraw

    return redraw(Path(folder))


def _gap_row(gap: Gap) -> pd.DataFrame:
    return pd.DataFrame({"probe": ["gap"], "measure": [gap.name], "value": [gap.value], "se": [gap.se]})


def _worths(subject: Subject, n: int, seed: int) -> pd.DataFrame:
    """Rows of what every behaviour contributes to the loss on fresh held-out and on training sequences."""
    corpus: Any = subject.organism.corpus  # type: ignore[union-attr]
    if not hasattr(corpus, "parts"):
        return pd.DataFrame(columns=["probe", "measure", "behaviour", "value"])
    training = corpus.training()
    rows = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(training.kind))[:n]
    samples = {"test": corpus.heldout(n, seed + 2), "training": training.take(np.sort(rows))}
    return (
        contributions(subject.model, corpus, samples).rename(columns={"data": "measure"}).assign(probe="contribution")
    )


def _write(out: Path, ladder: Ladder, table: pd.DataFrame, asked: dict[str, Any]) -> None:
    from studies.generalisation_report import redraw

    with store.fresh(out) as folder:
        ladder.manifest.update(study="generalisation", asked=asked)
        store.write(ladder, folder)
        table.to_parquet(folder / "probes.parquet")
        redraw(folder)
