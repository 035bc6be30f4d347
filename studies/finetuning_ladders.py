"""The ladders of the finetuning study: one for each copy of the model and each potential, all by the same settings."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import pandas as pd
from tqdm.auto import tqdm

from degrade import next_token_loss, store
from degrade.build import ladder as climb_ladder
from degrade.data import Examples
from degrade.losses import Loss
from degrade.models import bridge
from degrade.potential import example_nats
from degrade.result import Ladder
from degrade.scene import reach
from probes import Subject
from probes.probe import Measure
from studies.climbing import Size
from studies.finetuning_tasks import Task, mixture
from studies.finetuning_training import Variant, data_of, finetune

BASE, MIXED, TASK_ONLY = "base", "mixture", "task only"
UNREACHED = "unreached"
Potential = Literal["mixture", "task only"]
Place = tuple[str, str]  # a copy of the model, and a potential


@dataclass(frozen=True, eq=False)
class Losses:
    """Mean loss on several sets of examples: rows with measure `loss` and the key `set`, in nats per scored token.

    Attributes:
        sets: Examples by name.
        loss: What is paid for each.
    """

    name: ClassVar[str] = "losses"
    measures: ClassVar[Mapping[str, Measure]] = {
        "loss": Measure(chance=None, higher=False, binary=False, unit="nats per token")
    }

    sets: Mapping[str, Any]
    loss: Loss = next_token_loss

    def __call__(self, model: Any) -> pd.DataFrame:
        """Σ nats / Σ count of each set."""
        device = next(model.parameters()).device
        sums = {name: example_nats(model, self.loss, Examples(data), device) for name, data in self.sets.items()}
        value = [float(nats.double().sum() / count.double().sum()) for nats, count in sums.values()]
        return pd.DataFrame({"measure": "loss", "set": list(sums), "value": value})


def losses(task: Task) -> Losses:
    """The losses that the study reads at every draw."""
    return Losses({"base": task.base, "task": task.heldout, "others": task.others})


def places(variants: list[Variant], repeated: list[Variant]) -> list[Place]:
    """Which ladders to climb: every copy on the mixture; some copies, and the base with them, on the task alone."""
    mixed = [(name, MIXED) for name in (BASE, *(one.name for one in variants))]
    alone = [BASE, *(one.name for one in repeated)] if repeated else []
    return mixed + [(name, TASK_ONLY) for name in alone]


def potentials(base: Any, task: Task, rows: int, seed: int) -> dict[str, Any]:
    """Sampling data by potential: equally many tokens of base and task; the task alone."""
    return {MIXED: mixture(base, task.training, rows, seed), TASK_ONLY: task.training}


def copies(
    subject: Subject, task: Task, variants: list[Variant], folder: Path, seed: int, fresh: bool, progress: bool = True
) -> dict[str, Any]:
    """The subject's model and its finetuned copies as bridges.

    Args:
        subject: With an organism.
        task: What the copies are finetuned on.
        variants: The copies.
        folder: Where they are, a directory each.
        seed: Of the finetuning.
        fresh: Whether to train them and write them there; else they must be there.
        progress: Show a progress bar.

    Raises:
        FileNotFoundError: If a copy is to be read and is not there.
    """
    out = {BASE: subject.model}
    for one in tqdm(variants, desc="finetuning", unit="copy", disable=not progress or not fresh):
        if fresh:
            finetune(subject.organism, data_of(one, task, subject.data), one, folder / one.name, seed)
        out[one.name] = bridge(folder / one.name)[0]
    return out


def climb_all(
    models: Mapping[str, Any],
    data: Mapping[str, Any],
    wanted: list[Place],
    size: Size,
    seed: int | Mapping[str, int],
    loss: Loss = next_token_loss,
    **settings: Any,
) -> dict[Place, Ladder]:
    """A ladder for each copy and potential, centred on the copy's own weights.

    Args:
        models: Copies by name.
        data: Sampling data by potential.
        wanted: Which ladders.
        size: Rungs, chains, draws, steps; each potential has those of the rungs that it can reach.
        seed: Of the sampling; one for all, or one for each copy.
        loss: Of the potential.
        **settings: Of `degrade.ladder`.
    """
    seeds = dict.fromkeys(models, seed) if isinstance(seed, int) else seed
    common: dict[str, Any] = {"width": size.width, "evaluation": size.evaluation, "loss": loss}
    rises = {
        (name, potential): _within(size.rises, reach(models[name], data[potential], seed=seeds[name], **common), name)
        for name, potential in wanted
    }
    climbed: dict[Place, Ladder] = {}
    for name, potential in wanted:
        climbed[name, potential] = climb_ladder(
            models[name], data[potential], rises=rises[name, potential], chains=size.chains, draws=size.draws,
            steps=size.steps, burn_in=size.burn_in, budget=size.budget, seed=seeds[name],
            first_nbeta=_known(climbed, potential, rises[name, potential][0]), **common, **settings,
        )  # fmt: skip
    return climbed


def _known(climbed: Mapping[Place, Ladder], potential: str, rise: float) -> float | None:
    """The temperature at which the first model on this potential had the rise: the next one's will not be far."""
    for (_, other), ladder in climbed.items():
        rungs = ladder.table[ladder.table["target"] == rise]
        if other == potential and len(rungs):
            return float(rungs["nbeta"].iloc[0])
    return None


def _within(rises: Sequence[float], most: float, name: str) -> list[float]:
    """The rises that a potential can reach: task data alone have lower losses to rise to than the mixture."""
    found = [rise for rise in rises if rise < most]
    if not found:
        raise ValueError(
            f"no rise of {', '.join(f'{rise:g}' for rise in rises)} lies below the {most:.3g} nats that draws from the"
            f" neighbourhood alone of {name!r} come to; expected one that does: give lower rises"
        )
    return found


def unreached(ladders: Mapping[Place, Ladder], rises: Sequence[float]) -> pd.DataFrame:
    """Rows of a sweep's table for the rises that were asked for and that a potential does not reach.

    Returns:
        probe ("unreached"), dial, model, potential, target (the rise asked for) and value (the mean rise of draws from
        the neighbourhood alone, which it is not below), nats per unit of the loss; no rung, no chain, no verdict.
    """
    rows = [
        {"probe": UNREACHED, "dial": f"{name}, {potential}", "model": name, "potential": potential, "target": rise,
         "value": float(one.manifest["reachable_rise"])}
        for (name, potential), one in ladders.items()
        for rise in rises
        if rise >= one.manifest["reachable_rise"]
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["probe", "dial", "model", "potential", "target", "value"])


def stored(folder: Path, models: Mapping[str, Any], wanted: list[Place]) -> dict[Place, Ladder]:
    """The ladders of an earlier run.

    Raises:
        FileNotFoundError: If one of them is not there.
    """
    return {place: store.load(_home(folder, place), models[place[0]]) for place in wanted}


def write(ladders: Mapping[Place, Ladder], folder: Path) -> None:
    """Store ladders below `folder`, one directory each."""
    for place, ladder in ladders.items():
        home = _home(folder, place)
        home.mkdir(parents=True)
        store.write(ladder, home)


@contextmanager
def workplace(out: str | Path | None) -> Iterator[Path]:
    """A directory to fill: `out` when all is done, or a temporary one that goes when there is no `out`."""
    if out is None:
        with TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        with store.fresh(Path(out)) as folder:
            yield folder


def _home(folder: Path, place: Place) -> Path:
    return folder / "ladders" / place[1] / place[0]
