"""What does a large model keep at a small model's loss? Degraded to that loss, it is asked what the small one is asked.

The larger model of an organism is degraded along its own ladder, on the organism's training data, to rises around its
gap to the smaller one. At the rise where their held-out losses are equal, each behaviour of the larger model is
compared with the smaller model's, question by question: what it keeps beyond, the loss does not show.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from degrade import store
from probes.tables import stack
from studies.behaviours import rungs
from studies.climbing import Size, climb, stored
from studies.differences import limits, p_value
from studies.findings import usable
from studies.finetuning_ladders import Losses
from studies.finetuning_penalty import by_chain
from studies.finetuning_tasks import entropy, take
from studies.finetuning_tasks import size as count
from studies.statistics import adjusted
from studies.structure import BETWEEN, OVERALL, lost
from studies.subject import build_probes, open_subject
from studies.sweeping import sweep_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBES: dict[str, dict[str, Any]] = {"induction": {}, "kinds": {}, "recall": {}}
LARGER, SMALLER = "larger", "smaller"
SHARES = (1.0, 2.0)  # rungs, in units of the gap between the two models
FULL = Size(SHARES, 4, 2, 2, 256, 512, None, None, budget=800)
QUICK = Size((4.0,), 2, 1, 1, 64, 128, 150, 50)  # colder rungs take more than a quick run has
QUICK_ROWS = 8192  # of the training data, in a quick run
COLUMNS = ["label", "smaller", "larger", "value", "low", "high", "se", "p", "q", "call", "verdict", "note"]
CALLED = 0.05


@dataclass(frozen=True, eq=False)
class Alone:
    """A model without draws, as `probes.sweep` asks of a ladder."""

    model: Any
    kept: list[Any] = field(default_factory=list)

    def draws(self) -> Iterator[Any]:
        """None."""
        return iter(())

    def applied(self, draw: Any) -> AbstractContextManager[Any]:
        """The model."""
        return nullcontext(self.model)


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
    progress: bool = True,
) -> pd.DataFrame:
    """Run the study.

    Args:
        model: An organism by name, one that ships a larger model.
        probes: Probes as `NAME:key=value,...`; None for induction, kinds and recall, as far as they fit.
        rises: Target rises of the larger model, nats per token; None: the gap between the models times 1, 2 and 4.
        seed: Of everything random.
        quick: A smaller version, on some of the data, of the hottest rung alone: what is kept at the gap, which lies
            below it, is bounded by the values at w* and there.
        longer: Factor on the steps of each rung.
        workers: Processes, one thread each.
        out: A new directory for tables, draws, figures and report; None writes nothing.
        ladder: A directory with a ladder of the larger model, used instead of climbing.
        progress: Show progress bars.

    Returns:
        The sweep of the larger model's ladder and of the smaller model, with columns `dial` and `model` ("larger",
        "smaller") and `potential` ("mixture", the organism's own data).

    Raises:
        ValueError: for an unknown model or probe, an organism without a larger model, or rises that cannot be reached.
        FileExistsError: if `out` exists.
    """
    subject = open_subject(model)
    organism: Any = subject.organism
    larger = replace(subject, model=organism.load_larger()[0])
    data = _some(larger.data, QUICK_ROWS, seed) if quick else larger.data
    gap, _ = organism.reference_gap(subject.model)
    size = (QUICK if quick else FULL).at(rises)
    size = size if rises is not None else size.at([share * gap for share in size.rises])
    asked = build_probes(subject, probes, PROBES)
    own = climb(larger, data, size, seed, longer, workers, progress) if ladder is None else stored(ladder, larger)
    paid = Losses(
        {"base": organism.examples(organism.corpus.heldout(4 * size.heldout, entropy(seed, "heldout")).tokens)}
    )
    dials = {LARGER: own, SMALLER: Alone(subject.model)}
    table = stack(sweep_all(dials, [*asked, paid], size.asked, workers, progress))
    table = table.assign(model=table["dial"], potential="mixture")
    if out is not None:
        settings = {"model": model, "probes": probes, "rises": size.rises, "seed": seed, "quick": quick,
                    "longer": longer, "gap between the models": gap, "ladder": ladder and str(ladder)}  # fmt: skip
        _write(Path(out), own, table, settings)
    return table


def _some(data: Any, rows: int, seed: int) -> Any:
    """A random subset of examples, all if there are fewer."""
    order = np.random.default_rng(entropy(seed, "rows")).permutation(count(data))
    return take(data, np.sort(order[:rows]))


def kept(table: pd.DataFrame) -> pd.DataFrame:
    """What the larger model, at the smaller one's loss, has beyond the smaller one, as a share of its own at w*.

    Returns:
        label, smaller and larger (values at w*, unit of the measure), value, low, high (95 %, chains and questions),
        se, p, q (Benjamini–Hochberg over behaviours), call ("keeps more", "keeps less", "undecided"), verdict, note.
    """
    chains = by_chain(table)
    start = (
        chains[chains["rung"] == 0].drop_duplicates(["model", "behaviour"]).set_index(["model", "behaviour"])["start"]
    )
    rows = []
    for one in lost(table, chains, LARGER, SMALLER):
        found = one.difference
        low, high = limits(found)
        at = {name: start.get((name, one.label), np.nan) for name in (SMALLER, LARGER)}
        numbers = {"value": found.value, "low": low, "high": high, "se": found.se, "p": p_value(found)}
        rows.append({"label": one.label, **at, **numbers, "verdict": one.verdict, "note": one.note})
    out = pd.DataFrame(rows)
    out["q"] = adjusted(out["p"], out["label"].eq(OVERALL))
    signs = np.where(out["low"] > 0, "keeps more", np.where(out["high"] < 0, "keeps less", "undecided"))
    return out.assign(call=np.where(out["q"] <= CALLED, signs, "undecided"))[COLUMNS]


def figure(table: pd.DataFrame) -> "Figure":
    """What the larger model keeps beyond the smaller one at its loss, behaviour by behaviour."""
    from studies import figures

    return figures.kept(kept(table))


def finding(table: pd.DataFrame) -> list[str]:
    """How far the ladder holds, which behaviours are kept beyond the smaller model's, and what stays open."""
    found, ladder = kept(table), rungs(table)
    held = usable(ladder[ladder["dial"] == LARGER])
    overall = found[found["label"] == OVERALL].iloc[0]
    if not np.isfinite(overall["value"]):
        return [held, f"The models cannot be compared at equal loss: {overall['note']}."]
    each = found[found["label"] != OVERALL]
    words = {call: list(each.loc[each["call"] == call, "label"]) for call in ("keeps more", "keeps less", "undecided")}
    said = "; ".join(f"{call} {len(names)} ({', '.join(names) or 'none'})" for call, names in words.items())
    ends = f"[{overall['low']:.3g}, {overall['high']:.3g}]"
    amount = f"within {ends}" if BETWEEN in overall["note"] else f"{overall['value']:.3g} {ends}"
    return [
        held,
        f"Degraded to the smaller model's loss ({overall['note']}; rungs there: {overall['verdict']}), the larger model"
        f" has {amount} more of the behaviours than the smaller one, as a share of its own at w*, on average.",
        f"Of {len(each)} behaviours it {said} (q ≤ 0.05).",
    ]


def report(folder: str | Path) -> Path:
    """Draw figures and report of a finished run again from its stored tables."""
    from studies import figures
    from studies.report import Cell, Plate, Report, Table, write

    folder = Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    ladder, table = pd.read_parquet(folder / "ladder.parquet"), pd.read_parquet(folder / "probes.parquet")
    found = kept(table)
    plate = Plate("Kept at the smaller model's loss", figures.png(figures.kept(found)), CAPTION)
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / "kept.png").write_bytes(plate.png)
    rows = []
    for row in found.to_dict("records"):
        numbers = [f"{row[name]:.3g}" for name in ("smaller", "larger")]
        ends = f"[{row['low']:.3g}, {row['high']:.3g}]"
        value = f"within {ends}" if BETWEEN in row["note"] else f"{row['value']:.3g} {ends}"
        cells = [row["label"], *numbers, value, f"{row['q']:.3f}", row["call"]]
        rows.append([*(Cell(text) for text in cells), Cell(row["verdict"], row["verdict"].split(" ")[0])])
    head = ["behaviour", "smaller f(w*)", "larger f(w*)", "kept beyond", "q", "call", "verdict"]
    doubted = ladder[ladder["verdict"].isin(["suspect", "failed"])].to_dict("records")
    left = [f"Rung {row['rung']} (target {row['target']:.3g}): {row['verdict']}; {row['reason']}." for row in doubted]
    page = Report(
        "What a large model keeps at a small model's loss", finding(table), manifest["asked"], ladder, plates=[plate],
        left_out=left, versions=manifest["versions"], tables=[(Table(head, rows), CAPTION)],
    )  # fmt: skip
    return write(folder, page)


CAPTION = (
    "f(larger at the smaller model's held-out loss) − f(smaller), in the better direction, as a share of the larger"
    " model's own value above chance at w*: positive, it keeps more. 95 % intervals over chains and questions; q:"
    " Benjamini–Hochberg over behaviours. Hollow: undecided."
)


def _write(out: Path, own: Any, table: pd.DataFrame, settings: dict[str, Any]) -> None:
    with store.fresh(out) as folder:
        store.write(replace(own, manifest=own.manifest | {"study": "decoupling", "asked": settings}), folder)
        table.to_parquet(folder / "probes.parquet")
        kept(table).to_parquet(folder / "kept.parquet")
        report(folder)
