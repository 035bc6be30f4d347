"""Watanabe's temperature or the natural gap's: how far does complexity, and what carries it, depend on the scale?

The local learning coefficient is measured at nβ = n / ln n, at the temperature whose loss rise equals the natural gap,
and on a ladder from the one to beyond the other: of the whole model, of its layers and heads, of kinds of examples and
of single ones. The same is asked of subsets of the data (n) and of other widths of the neighbourhood, which alone can
make the coefficient depend on the scale; and, with `checkpoints`, of the model over its training.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from degrade import next_token_loss, store
from degrade.build import ladder as climb_ladder
from degrade.result import Ladder
from probes import Subject
from probes.tables import stack
from studies.climbing import stored
from studies.dials_checkpoints import found
from studies.generalisation import open_gap
from studies.generalisation_calls import Gap
from studies.subject import open_subject
from studies.sweeping import sweep_all
from studies.temperatures_jobs import FULL, QUICK, Size, checkpoint_jobs, kinds_of, side_jobs, some, units
from studies.temperatures_parts import Pulls
from studies.temperatures_sampling import Found, carry_out, example_rows, kind_rows, part_rows, whole_rows
from studies.temperatures_scales import Temperature, natural, watanabe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LADDER = "ladder"


def run(
    model: str = "mixture",
    seed: int = 0,
    quick: bool = False,
    longer: float = 1.0,
    workers: int = 2,
    out: str | Path | None = None,
    ladder: str | Path | None = None,
    rows: float | None = None,
    gap: str | float = "exact",
    axis: str = "heldout",
    refined: Sequence[str] | str | None = None,
    widths: Sequence[float] | float | None = None,
    checkpoints: bool | str | Path = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Run the study.

    Args:
        model: An organism by name.
        seed: Of everything random; all ladders share it.
        quick: A smaller version: 1/64 of the data, short rungs, none of them colder than n / ln n: where
            that is hotter than the natural gap, it says so and that the two cannot be compared.
        longer: Factor on the steps of each rung.
        workers: Processes, one thread each.
        out: A new directory for tables, draws, figures and report; None writes nothing.
        ladder: The directory of an earlier run (of `survival`, say), whose rungs are used; only n / ln n is climbed.
        rows: Share of the training set that is sampled on, n and with it n / ln n being of that part; None for the
            study's own, 1/4 (quick: 1/64), or for all of it with `ladder`. The more, the colder is n / ln n, and the
            longer take chains.
        gap: The natural gap: "exact" (to the entropy of the corpus), "larger" (to the organism's better model), or a
            number of nats per token.
        axis: What is compared with the gap: "heldout", the rise of the loss on held-out text, on which the gap is
            measured too, or "rise", that of the sampling data.
        refined: Families of parts whose weight-refined coefficients are sampled too, a ladder a part: "layers",
            "heads", both as layers+heads; None: none. At n / ln n they are dear.
        widths: Factors on the width of the neighbourhood at which the whole model is sampled too, as 0.5+2.
        checkpoints: Ask the checkpoints of the model's training instead of parts, data and widths; True for those that
            ship, or a directory with a Hugging Face directory for each.
        progress: Show progress bars.

    Returns:
        A row a question, part, rung and chain: question ("ladder", "refined", "rows", "widths", "checkpoints"), family
        ("whole", "layers", "heads", "kinds", "examples"), part, nbeta, chain, llc, shared (its relative error that all
        chains share), rise, heldout_rise (nats per token), verdict, n, width, step; and rows with question
        "temperature" (part its name, nbeta, low, high, note) and "gap" (part its name, llc and shared its value and
        standard error).

    Raises:
        ValueError: for an unknown model, gap, axis or family, a share that is none, or a ladder of other data or
            another neighbourhood.
        FileNotFoundError: if checkpoints are asked for and there are none.
        FileExistsError: if `out` exists.
    """
    subject, size = open_subject(model), QUICK if quick else FULL
    folders = _checkpoints(subject.organism, checkpoints)
    share = 1.0 if rows is None and ladder is not None else rows
    size = size.at(refined, widths, getattr(subject.organism, "width", None), longer, share)
    goal = open_gap(subject, gap)
    data, places = some(subject.data, size.rows, seed)
    climbed = _ladders(subject, data, size, seed, workers, ladder, progress)
    labels = kinds_of(subject.organism, places)
    table = stack([_read(one, subject, data, labels, size, workers, seed, progress) for one in climbed])
    scales = [
        watanabe(climbed[0].manifest["n"], units(subject.data)),
        natural(table[table["family"] == "whole"], goal.value, goal.se, axis),
    ]
    jobs = (
        checkpoint_jobs(folders, subject, data, scales, size, seed)
        if folders
        else side_jobs(subject.model, data, scales, size, seed)
    )
    done = carry_out(subject.model, data, jobs, next_token_loss, workers, progress)
    table = stack([table, *(one.rows for one in done), _scale_rows(scales), _gap_row(goal, axis)])
    if out is not None:
        asked = {"model": model, "seed": seed, "quick": quick, "longer": longer, "ladder": ladder and str(ladder),
                 "gap": gap, "axis": axis, "refined": list(size.refined), "widths": list(size.widths),
                 "rows": size.rows, "checkpoints": [path.name for path in folders]}  # fmt: skip
        _write(Path(out), climbed, done, table, asked)
    return table


def figure(table: pd.DataFrame) -> "Figure":
    """λ of the whole model against temperature, and the shares of its parts at both; or λ over training."""
    from studies.figures.temperatures import complexity, training_complexity
    from studies.temperatures_reading import over_training, read

    if (table["question"] == "checkpoints").any():
        return training_complexity(over_training(table))
    return complexity(read(table))


def finding(table: pd.DataFrame) -> list[str]:
    """The verdict behind every temperature, then what was found with numbers and intervals, and what is undecided."""
    from studies.temperatures_findings import finding as sentences
    from studies.temperatures_findings import verdicts

    return [*verdicts(table), *sentences(table)]


def report(folder: str | Path) -> Path:
    """Draw figures and report of a finished run again from its stored tables."""
    from studies.temperatures_report import redraw

    return redraw(Path(folder))


def _checkpoints(organism: Any, asked: bool | str | Path) -> list[Path]:
    if not asked:
        return []
    folders = found(organism, None if asked is True else asked)
    if not folders:
        raise FileNotFoundError(f"organism {organism.name!r} ships no checkpoints; expected checkpoints=DIR with some")
    return folders


def _ladders(
    subject: Subject, data: Any, size: Size, seed: int, workers: int, folder: str | Path | None, progress: bool
) -> list[Ladder]:
    """The ladder around n / ln n; or that rung alone, and a stored ladder."""
    organism: Any = subject.organism
    heldout = organism.examples(organism.corpus.heldout(size.heldout, seed + 1).tokens)
    other = None if folder is None else _comparable(stored(folder, subject), folder, units(data), size)
    n_over_ln_n = watanabe(units(data)).nbeta
    factors = size.factors if folder is None else (1.0,)
    own = climb_ladder(
        subject.model, data, nbetas=[factor * n_over_ln_n for factor in factors], loss=next_token_loss, heldout=heldout,
        seed=seed, workers=workers, progress=progress, **size.main,
    )  # fmt: skip
    return [own] if other is None else [own, other]


def _comparable(ladder: Ladder, folder: Any, n: int, size: Size) -> Ladder:
    """The ladder, if it is of as many units of data and of the neighbourhood that this study takes."""
    settings = ladder.manifest["settings"]
    for what, mine, theirs, cure in (
        ("n", n, ladder.manifest["n"], "give rows=1.0 for a ladder on all the data, or leave ladder out"),
        ("width", size.main.get("width"), settings["width"], "leave ladder out"),
        ("gamma", size.main.get("gamma"), settings["gamma"], "leave ladder out"),
    ):
        if mine != theirs and not (mine and theirs and math.isclose(mine, theirs, rel_tol=1e-6)):
            raise ValueError(f"the ladder in {folder} has {what}={theirs}; expected {mine}, that of this study: {cure}")
    return ladder


def _read(
    ladder: Ladder, subject: Subject, data: Any, labels: Any, size: Size, workers: int, seed: int, progress: bool
) -> pd.DataFrame:
    """Rows of a ladder of the whole model: itself, its parts on its draws, its evaluation examples and their kinds."""
    asked, _ = some(data, size.asked, seed + 1)
    pulls = Pulls.of(subject.model, asked, next_token_loss)
    sweep = stack(sweep_all({LADDER: ladder}, [pulls], size.draws, workers, progress))
    single = example_rows(ladder, labels)
    parts = [whole_rows(ladder, LADDER), part_rows(ladder, sweep, LADDER), single]
    parts += [kind_rows(single)] if labels is not None else []
    return stack(parts).assign(n=ladder.manifest["n"], width=ladder.manifest["settings"]["width"])


def _scale_rows(scales: list[Temperature]) -> pd.DataFrame:
    rows = pd.DataFrame(scales).rename(columns={"name": "part"})
    return rows.assign(question="temperature")


def _gap_row(gap: Gap, axis: str) -> pd.DataFrame:
    return pd.DataFrame({"question": ["gap"], "part": [gap.name], "llc": [gap.value], "shared": [gap.se],
                         "note": [axis]})  # fmt: skip


def _write(out: Path, climbed: list[Ladder], done: list[Found], table: pd.DataFrame, asked: dict[str, Any]) -> None:
    from studies.temperatures_report import redraw

    own = climbed[0]
    tables = [one.table.assign(potential=name) for one, name in zip(climbed, ("whole", "whole, stored"), strict=False)]
    with store.fresh(out) as folder:
        kept = replace(own, manifest=own.manifest | {"study": "temperatures", "asked": asked})
        store.write(kept, folder)
        table.to_parquet(folder / "coefficients.parquet")
        pd.concat([*tables, *(one.table for one in done)], ignore_index=True).to_parquet(folder / "verdicts.parquet")
        redraw(folder)
