"""Training run backwards as a dial: the checkpoints of a model, each at the loss rise that it has."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from degrade import parameters
from degrade.models import bridge
from degrade.result import Draw, Ladder
from studies.dials_matching import rise_of

CONFIG = "config.json"
BEYOND = 0.1


@dataclass(frozen=True, eq=False)
class Checkpoints:
    """Checkpoints as a ladder of one chain: the latest is the first rung; `missed`: those beyond the ladder."""

    ladder: Ladder
    kept: list[Draw] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    @property
    def model(self) -> Any:
        """The ladder's model."""
        return self.ladder.model

    def draws(self) -> Iterator[Draw]:
        """The checkpoints, from the latest to the first."""
        return iter(self.kept)

    def applied(self, draw: Draw) -> AbstractContextManager[Any]:
        """The model with a checkpoint's weights."""
        if draw.weights is None:
            raise ValueError("this checkpoint holds no weights")
        return parameters.applied(self.model, self.ladder.selection, draw.weights)


def found(organism: Any, folder: str | Path | None) -> list[Path]:
    """Checkpoint directories in the order of training, by the number in their names.

    Args:
        organism: Whose `checkpoints` directory, beside its model, is looked at when no folder is given.
        folder: Holds a Hugging Face directory for each checkpoint.

    Raises:
        FileNotFoundError: If a folder is given and holds none.
    """
    where = organism.folder.parent / "checkpoints" if folder is None else Path(folder)
    held = [path.parent for path in where.glob(f"*/{CONFIG}")]
    if folder is not None and not held:
        raise FileNotFoundError(f"{where} holds no checkpoint; expected a Hugging Face directory for each")
    return sorted(held, key=lambda path: (*map(int, re.findall(r"\d+", path.name)), path.name))


def climb(ladder: Ladder, folders: list[Path]) -> Checkpoints:
    """Each checkpoint whose loss on the ladder's evaluation set is above that of w*, the latest first.

    Behaviours are compared over the rises that the ladder has: checkpoints more than a tenth above its last rung that
    is not failed are listed in `missed`.
    """
    rungs = ladder.table[(ladder.table["rung"] > 0) & (ladder.table["verdict"] != "failed")]
    most = (1 + BEYOND) * float(rungs["evaluation_rise"].max())
    light = replace(ladder, kept=[], traces=ladder.traces.iloc[:0], losses=ladder.losses.iloc[:0])
    dial = Checkpoints(light)
    for folder in reversed(folders):
        draw = Draw(len(dial.kept) + 1, 0, 0, 0.0, 0.0, float("nan"), "ok", _weights(folder, ladder))
        with dial.applied(draw):
            rise = rise_of(ladder)
        if rise > most:
            dial.missed.append(f"{folder.name}: its rise of {rise:.3g} lies beyond the ladder")
        elif not rise > 0:
            dial.missed.append(f"{folder.name}: its rise of {rise:.3g} is none")
        else:
            dial.kept.append(replace(draw, target=rise, rise=rise))
    return dial


def _weights(folder: Path, ladder: Ladder) -> list[Tensor]:
    named = dict(bridge(folder)[0].named_parameters())
    return [named[name].detach().float() for name in ladder.selection.names]
