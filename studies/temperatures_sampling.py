"""What the study samples: the whole model at several temperatures, and smaller questions beside it, a job each.

Every job is a ladder of its own, climbed by one process or, where jobs are few, by several; all share the seed. Their
results are rows, one a rung and chain: λ by that chain, what error it shares with the other chains, and the verdict.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor, nn
from tqdm.auto import tqdm

from degrade import influence, next_token_loss, parameters
from degrade.build import ladder as climb_ladder
from degrade.compute import Compute, computing, here
from degrade.data import Examples
from degrade.engine import at_once, one_thread, processes, settle
from degrade.journal import active, unrecorded
from degrade.losses import Loss
from degrade.recorded import kept
from degrade.result import Ladder
from probes import sweep
from studies.temperatures_parts import Pulls

WHOLE = "whole"
ROWS = ("question", "family", "part", "rung", "nbeta", "chain", "llc", "shared", "rise", "heldout_rise", "verdict")


@dataclass(frozen=True, eq=False)
class Job:
    """One ladder.

    Attributes:
        question: What it is for: "refined", "rows", "widths" or "checkpoints".
        part: Its name in tables.
        nbetas: Temperatures, from cold to hot.
        settings: Of `degrade.ladder`.
        keys: Columns to add to its rows.
        only: Masks of the sampled parameters; None: all.
        rows: The examples that the potential is made of; None: all.
        weights: w* of the ladder by parameter name, where they are not the model's own.
        asked: Examples on which the parts are read at every draw; None: they are not.
        family: Which family of parts it belongs to.
    """

    question: str
    part: str
    nbetas: tuple[float, ...]
    settings: Mapping[str, Any]
    keys: Mapping[str, Any]
    only: Mapping[str, Tensor | None] | None = None
    rows: np.ndarray | None = None
    weights: Mapping[str, Tensor] | None = None
    asked: Any = None
    family: str = WHOLE


class Found(NamedTuple):
    """Rows of a job, and its ladder's table with a column `potential` that names it."""

    rows: pd.DataFrame
    table: pd.DataFrame


class Held(NamedTuple):
    """What a process holds: the model, all data, the loss."""

    model: nn.Module
    data: Any
    loss: Loss


_HELD: dict[str, Held] = {}


def whole_rows(ladder: Ladder, question: str, family: str = WHOLE, part: str = WHOLE) -> pd.DataFrame:
    """λ of the sampled weights by rung and chain: nβ times the mean kept rise of the chain.

    Where the rung's coefficient was corrected for what the step adds to the rise, so is every chain's; `shared` is the
    relative error of that correction, or of leaving it out, which all chains share. A rung without chains is a row of
    chain -1.
    """
    table = ladder.table[ladder.table["rung"] > 0].set_index("rung")
    rises = ladder.traces[ladder.traces["kept"]].groupby(["rung", "chain"])["rise"].mean()
    rows = []
    for rung, row in table.iterrows():
        mine = rises[rises.index.get_level_values("rung") == rung].droplevel("rung")
        left = float(row["llc"] / (row["nbeta"] * row["rise"])) if row["rise"] else np.nan
        corrected = np.isfinite(left) and abs(left - 1) > 1e-6
        with np.errstate(divide="ignore", invalid="ignore"):
            shared = np.square(row["llc_se"] / row["llc"]) - np.square(row["rise_se"] / row["rise"])
        same = {"rung": rung, "nbeta": row["nbeta"], "heldout_rise": row["heldout_rise"], "verdict": row["verdict"],
                "shared": float(np.sqrt(shared)) if shared > 0 else 0.0}  # fmt: skip
        for chain, rise in (mine if len(mine) else pd.Series({-1: np.nan})).items():
            llc = row["nbeta"] * rise * (left if corrected else 1.0)
            rows.append(same | {"chain": chain, "rise": rise, "llc": llc})
    return pd.DataFrame(rows).assign(question=question, family=family, part=part)[list(ROWS)]


def part_rows(ladder: Ladder, pulls: pd.DataFrame, question: str) -> pd.DataFrame:
    """λ_b of every part by rung and chain, from a sweep of `Pulls`, corrected as the rung's whole λ is."""
    means = pulls[pulls["rung"] > 0].groupby(["family", "part", "rung", "chain"], sort=False)["value"].mean()
    about = whole_rows(ladder, question).set_index(["rung", "chain"])
    rows = means.rename("pull").reset_index().join(about.drop(columns=["family", "part"]), on=["rung", "chain"])
    left = rows["llc"] / (rows["nbeta"] * rows["rise"])
    return rows.assign(llc=rows["nbeta"] * rows["pull"] * left)[list(ROWS)]


def example_rows(ladder: Ladder, groups: np.ndarray | None = None) -> pd.DataFrame:
    """What each evaluation example carries of λ: nβ (E[ℓ_i(w)] − ℓ_i(w*)) / Σ count, by rung and chain.

    Corrected as the rung's whole λ is.

    Args:
        ladder: A ladder, live or loaded.
        groups: A label for each example of the data; None: none.
    """
    frames, counts = [], np.asarray(ladder.manifest["counts"], float)
    places = ladder.manifest.get("evaluation") or list(range(len(counts)))
    labels = [""] * len(places) if groups is None else [str(groups[place]) for place in places]
    about = whole_rows(ladder, "ladder").set_index(["rung", "chain"])
    chains = ladder.losses[ladder.losses["rung"] > 0].groupby("rung")["chain"].unique()
    for rung, numbers in zip(chains.index.astype(int), chains, strict=True):
        each = influence.chain_llcs(ladder, rung) * counts.mean() / counts.sum()
        for chain, values in zip(numbers, each, strict=True):
            place = about.index.get_loc((rung, chain))
            same: Any = about[["nbeta", "rise", "heldout_rise", "verdict", "shared", "llc"]].iloc[place].to_dict()
            left = same.pop("llc") / (same["nbeta"] * same["rise"])
            frames.append(pd.DataFrame({"part": [str(p) for p in places], "group": labels, "llc": values * left})
                          .assign(rung=rung, chain=chain, **same))  # fmt: skip
    rows = pd.concat(frames, ignore_index=True)
    return rows.assign(question="ladder", family="examples")[[*ROWS, "group"]]


def kind_rows(examples: pd.DataFrame) -> pd.DataFrame:
    """What each kind of example carries of λ: the sum over its examples of `example_rows`."""
    keys = ["question", "rung", "nbeta", "chain", "rise", "heldout_rise", "verdict", "shared"]
    sums = examples.groupby([*keys, "group"], sort=False, dropna=False)["llc"].sum().reset_index()
    return sums.rename(columns={"group": "part"}).assign(family="kinds")[list(ROWS)]


def carry_out(
    model: nn.Module,
    data: Any,
    jobs: Sequence[Job],
    loss: Loss = next_token_loss,
    workers: int = 1,
    progress: bool = True,
) -> list[Found]:
    """The results of jobs, in their order; what they are does not depend on `workers`.

    Each job has a worker of its own; where there are fewer jobs than workers, these share out a job's chains.
    """
    journal = active().part("jobs")
    journal.agree({}, {"results": len(jobs)})
    few = len(jobs) < workers
    task = partial(perform, workers=workers if few else 1, compute=here())
    with (
        tqdm(total=len(jobs), desc="coefficients", unit="ladder", disable=not progress) as bar,
        _hands(Held(model, data, loss), 1 if few else workers) as submit,
    ):
        due = []
        for number, job in enumerate(jobs):
            due.append(kept(journal, f"job-{number:03d}", job, partial(submit, task, job), part=job.part))
            due[-1].add_done_callback(lambda _: bar.update())
        return [future.result() for future in due]


def perform(job: Job, workers: int = 1, compute: Compute | None = None) -> Found:
    """Climb a job's ladder, in the process that holds the model or in more; `compute`: how gradients are computed."""
    held = _HELD["held"]
    data = held.data if job.rows is None else Examples(held.data).batch(job.rows)
    with unrecorded(), computing(compute or here()), _carrying(held.model, job.weights):
        pulls = None if job.asked is None else Pulls.of(held.model, job.asked, held.loss)
        ladder = climb_ladder(
            held.model, data, nbetas=job.nbetas, loss=held.loss, only=job.only, workers=workers,
            progress=False, **{"keep": "none" if pulls is None else "weights"} | dict(job.settings),
        )  # fmt: skip
        rows = [whole_rows(ladder, job.question, job.family, job.part)]
        if pulls is not None:
            rows.append(part_rows(ladder, sweep(ladder, [pulls], progress=False), job.question))
    table = ladder.table[ladder.table["rung"] > 0].assign(potential=f"{job.question}: {job.part}")
    return Found(pd.concat(rows, ignore_index=True).assign(**job.keys), table)


@contextmanager
def _carrying(model: nn.Module, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    if weights is None:
        yield
        return
    selection = parameters.select(model)
    with parameters.applied(model, selection, [weights[name] for name in selection.names]):
        yield


@contextmanager
def _hands(held: Held, workers: int) -> Iterator[Callable[..., "Future[Found]"]]:
    """What runs a job: this process at once, or workers that each hold the model."""
    if workers > 1:
        with processes(workers, _hold, held) as executor:
            yield executor.submit
        return
    _take(held)
    with one_thread():
        yield at_once


def _hold(held: Held) -> None:
    settle()
    _take(held)


def _take(held: Held) -> None:
    _HELD["held"] = held
