"""Does what patching says about a model hold at some loss scale, in the sense that the loss can tell?

Patching puts something foreign into a network, so even a right statement about it costs loss. The essay's test: patched
runs and circuits are rerun on degraded networks, and what they pay for the answers is compared with what the network
itself pays. Where both agree, the statement holds at that loss scale; where the model's own loss L_c reaches the loss
that the patched run has at w*, the statement is as good an account of the model as that degradation.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from degrade import store
from degrade.result import Ladder
from probes.probe import name_of
from probes.tables import stack
from studies import behaviours
from studies.climbing import Size, climb, stored
from studies.marks import marks
from studies.patching_findings import finding as sentences
from studies.patching_losses import losses, require_patched
from studies.patching_scales import crossings, curves
from studies.subject import build_probes, open_subject
from studies.sweeping import sweep_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBES: dict[str, dict[str, Any]] = {"request-patching": {"n": 128}, "circuit-loss": {"n": 128}}
FULL = Size((0.1, 0.4, 0.8, 1.3), 4, 4, 4, 256, 256, None, None, budget=1000)
QUICK = Size((0.1, 1.3), 2, 2, 2, 128, 128, 220, 60)


def run(
    model: str = "retrieval",
    probes: Sequence[str] | None = None,
    rises: Sequence[float] | None = None,
    seed: int = 0,
    quick: bool = False,
    longer: float = 1.0,
    workers: int = 2,
    ladder: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run the study.

    Args:
        model: An organism by name.
        probes: Probes as `NAME:key=value,...`, request-patching or circuit-loss among them; None for both.
        rises: Target loss rises, nats per unit of the loss; None for the study's own.
        seed: Of everything random.
        quick: A smaller version, of a minute or two.
        longer: Factor on the steps of each rung.
        workers: Processes, one thread each.
        ladder: Directory of an earlier run of the same model, whose draws are asked instead of climbing again.
        out: A new directory for tables, draws, figures and report; None writes nothing.
        progress: Show progress bars.

    Returns:
        The sweep, a row an answer, with a column `dial` ("natural"), and rows with probe "mark": loss rises to compare
        with.

    Raises:
        ValueError: for an unknown model or probe, rises that cannot be reached, a ladder of another model, or probes
            without a patched loss.
        FileExistsError: if `out` exists.
    """
    size = (QUICK if quick else FULL).at(rises)
    subject = open_subject(model)
    asked = build_probes(subject, probes, PROBES)
    require_patched([name_of(probe) for probe in asked])
    climbed = (
        climb(subject, subject.data, size, seed, longer, workers, progress)
        if ladder is None
        else stored(ladder, subject)
    )
    table = stack([*sweep_all({"natural": climbed}, asked, size.asked, workers, progress), marks(subject, climbed)])
    if out is not None:
        given = {"model": model, "probes": probes, "seed": seed, "quick": quick, "longer": longer, "workers": workers}
        _write(Path(out), climbed, table, given | {"ladder": None if ladder is None else str(ladder)})
    return table


def figure(table: pd.DataFrame) -> "Figure":
    """Patched losses and the model's own against the loss rise, a panel a kind of reconstruction."""
    from studies import figures

    found = losses(table)
    return figures.patched_losses(curves(found), crossings(found), behaviours.rungs(table), behaviours.marks(table))


def finding(table: pd.DataFrame) -> list[str]:
    """What was found, and what could not be decided, in sentences."""
    found = losses(table)
    return sentences(curves(found), crossings(found), behaviours.rungs(table))


def report(folder: str | Path) -> Path:
    """Draw figures and report of a finished run again from its stored tables."""
    from studies.patching_report import redraw

    return redraw(Path(folder))


def _write(out: Path, ladder: Ladder, table: pd.DataFrame, asked: dict[str, Any]) -> None:
    from studies.patching_report import redraw

    with store.fresh(out) as folder:
        ladder.manifest.update(study="patching", asked=asked)
        store.write(ladder, folder)
        table.to_parquet(folder / "probes.parquet")
        redraw(folder)
