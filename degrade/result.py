"""What a ladder is once it has been climbed: tables, draws, and the model that carries them."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor, nn

from degrade import cooling, parameters
from degrade.parameters import Selection
from degrade.potential import FixedSet
from degrade.verdict import RHAT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Draw:
    """Weights of one degraded network, and where on the ladder they come from.

    `rise` and `heldout_rise` are paired rises of this draw on the fixed evaluation and held-out sets, nats per unit;
    `target` and `verdict` are its rung's. `weights` is a list, or reads them from the disk (`degrade.shelved`).
    """

    rung: int
    chain: int
    index: int
    target: float
    rise: float
    heldout_rise: float
    verdict: str
    weights: Sequence[Tensor] | None = field(repr=False)


@dataclass(frozen=True, eq=False)
class Ladder:
    """A climbed ladder.

    `table` has a row a rung (rung 0 is w*), `traces` a row a step, `losses` a row a draw-time evaluation and example,
    `observed` what the observers returned at each draw, `manifest` everything that made it, `evaluation` the fixed set
    of examples that a draw's rise refers to (None for a ladder loaded from disk).
    """

    model: nn.Module
    table: pd.DataFrame
    traces: pd.DataFrame
    losses: pd.DataFrame
    manifest: dict[str, Any]
    selection: Selection = field(repr=False)
    kept: list[Draw] = field(repr=False)
    observed: list[dict[str, Any]] = field(default_factory=list, repr=False)
    evaluation: FixedSet | None = field(default=None, repr=False)

    def draws(self, rung: int | None = None) -> Iterator[Draw]:
        """The draws, in order of rung, chain and index; of one rung if it is given."""
        return (draw for draw in self.kept if rung is None or draw.rung == rung)

    def applied(self, draw: Draw) -> AbstractContextManager[nn.Module]:
        """The model carrying a draw's weights; its own come back on leaving the context, also after an error.

        Raises:
            ValueError: if the ladder was made with keep="none".
        """
        if draw.weights is None:
            raise ValueError(
                "this ladder keeps no weights (keep='none'); make it with keep='weights', or hand what you want to"
                " measure to observe=(...), which runs while the weights are in place"
            )
        return parameters.applied(self.model, self.selection, draw.weights)

    def export(self, draw: Draw, folder: str | Path) -> Path:
        """Write a draw as a Hugging Face directory, if the model came from one."""
        from degrade.models import export

        with self.applied(draw):
            return export(self.model, Path(folder))

    def save(self, folder: str | Path) -> Path:
        """Store the ladder as a run directory."""
        from degrade.store import save

        return save(self, Path(folder))

    def jumps(self) -> list[tuple[float, float]]:
        """Intervals of the rise, nats per unit, where heated and cooled chains disagree (empty if never cooled)."""
        return cooling.jumps(self.table, RHAT)

    def plot_traces(self) -> "Figure":
        """Rise against step for each rung, a line a chain, with the target and the part that was discarded."""
        from degrade.plots import traces

        return traces(self.traces, self.table, self.manifest["unit"])

    def __repr__(self) -> str:
        words = self.table.verdict[1:].value_counts().to_dict()
        return f"Ladder({len(self.table) - 1} rungs, {len(self.kept)} draws, verdicts {words})"
