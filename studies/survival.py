"""Which behaviours survive degradation, and in which order?

A ladder of loss rises is climbed from the trained weights; every probe is rerun on the draws of each rung, and every
behaviour gets its half-retention scale E½ with an interval over chains. Two controls stand in the same table: isotropic
Gaussian noise at the same rises (always), and a ladder whose potential does not contain the canaries (`controls`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from degrade import store
from degrade.plan import Planned
from degrade.result import Ladder
from probes.tables import stack
from studies import isotropic, stages
from studies.behaviours import curves, ranking, rungs
from studies.behaviours import marks as marks_of
from studies.climbing import Size, climb, planned
from studies.findings import finding as sentences
from studies.marks import marks
from studies.readings import described
from studies.subject import build_probes, open_subject
from studies.sweeping import sweep_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBES: dict[str, dict[str, Any]] = {"induction": {}, "kinds": {}, "patching": {}, "recall": {}}
FULL = Size((0.1, 0.17, 0.27, 0.4, 0.55, 0.72, 0.88, 1.05), 4, 4, 4, 256, 256, None, None, budget=1300)
QUICK = Size((0.4, 0.65, 1.0), 2, 2, 1, 128, 128, 200, 70)


def run(
    model: str = "mixture",
    data: str | None = None,
    context: int | None = None,
    probes: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    rises: Sequence[float] | None = None,
    seed: int = 0,
    quick: bool = False,
    controls: bool = False,
    longer: float = 1.0,
    budget: int | None = None,
    workers: int = 2,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run the study.

    Args:
        model: An organism, a Hugging Face directory, a hub name or `package.module:function`, see `degrade.naming`.
        data: Documents by name, see `degrade.sources`; None for the organism's own.
        context: Tokens a window of `data`; None: 128, or as many as the model reads.
        probes: Probes as `NAME:key=value,...`, or settings by name; None for those of the study that fit.
        rises: Target loss rises, nats per token; None for the study's own.
        seed: Of everything random.
        quick: A smaller version; its rungs are too short to be called ok.
        controls: Also climb a ladder whose potential leaves the canaries out, if the organism has any.
        longer: Factor on the steps of each rung.
        budget: Steps of a chain at a rung, lengthening included: rungs that are clean sooner end sooner.
        workers: Processes, one thread each.
        out: A new directory for tables, draws, figures and report; None writes nothing.
        progress: Show progress bars.

    Returns:
        The sweep of each dial, a row an answer, with a column `dial` ("natural", "isotropic", "no canaries"), and rows
        with probe "mark": loss rises to compare with.

    Raises:
        ValueError: for an unknown model or probe, or rises that cannot be reached.
        FileExistsError: if `out` exists.
    """
    clock = stages.begun()
    subject = open_subject(model, data, context)
    size = (QUICK if quick else FULL).suited(subject.organism).at(rises, budget)
    clock.ended("opening the model", keep=False)
    asked = build_probes(subject, probes, PROBES)
    clock.ended("building the probes", keep=False)
    ladder = climb(subject, subject.data, size, seed, longer, workers, progress)
    clock.ended("climbing")
    dials: dict[str, Any] = {"natural": ladder}
    dials["isotropic"] = isotropic.climb(ladder, size.chains, max(1, size.asked // 2), seed, progress)
    if controls and (copies := subject.organism.corpus.training().copies).any():  # type: ignore[union-attr]
        clean = subject.data[copies == 0]
        dials["no canaries"] = climb(subject, clean, size, seed, longer, workers, progress)
    clock.ended("the control dials")
    swept = sweep_all(dials, asked, size.asked, workers, progress)
    clock.ended("sweeping the probes")
    table = stack([*swept, marks(subject, ladder)])
    clock.ended("the marks")
    if out is not None:
        ladder.manifest.update(probes=described(asked))
        shown = None if data is None else subject.organism.summary  # type: ignore[union-attr]
        given = {"model": model, "data": shown, "probes": probes, "seed": seed, "quick": quick, "controls": controls,
                 "longer": longer, "budget": budget, "workers": workers}  # fmt: skip
        _write(Path(out), ladder, table, given, clock)
    return table


def plan(
    model: str = "mixture",
    data: str | None = None,
    context: int | None = None,
    probes: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    rises: Sequence[float] | None = None,
    seed: int = 0,
    quick: bool = False,
    longer: float = 1.0,
    budget: int | None = None,
    **_: Any,
) -> list[Planned]:
    """The ladder that `run` climbs with the same arguments (controls would climb another); builds the probes.

    Raises:
        ValueError: as `run` does, for what it can tell before it climbs.
    """
    subject = open_subject(model, data, context)
    build_probes(subject, probes, PROBES)
    size = (QUICK if quick else FULL).suited(subject.organism).at(rises, budget)
    return [planned(subject, subject.data, size, seed, longer)]


def figure(table: pd.DataFrame) -> "Figure":
    """Retention of each behaviour against the loss rise, a column a dial."""
    from studies import figures

    return figures.survival(curves(table), rungs(table), marks_of(table))


def finding(table: pd.DataFrame) -> list[str]:
    """What was found, in three sentences."""
    own = rungs(table)
    return sentences(ranking(table), own[own["dial"] == "natural"], marks_of(table))


def report(folder: str | Path) -> Path:
    """Draw figures and report of a finished run again from its stored tables."""
    from studies.survival_report import redraw

    return redraw(Path(folder))


def _write(out: Path, ladder: Ladder, table: pd.DataFrame, asked: dict[str, Any], clock: stages.Stages) -> None:
    from studies.survival_report import redraw

    with store.fresh(out) as folder:
        ladder.manifest.update(study="survival", asked=asked)
        store.write(ladder, folder)
        table.to_parquet(folder / "probes.parquet")
        clock.write(folder)
        redraw(folder)
        clock.ended("figures and report", keep=False)
        clock.write(folder)
