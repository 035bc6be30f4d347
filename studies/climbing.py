"""The ladder that a study asks its questions of: climbed for it, or stored by an earlier run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from degrade import next_token_loss, store
from degrade.build import ladder as climb_ladder
from degrade.plan import Planned
from degrade.result import Ladder
from probes import Subject


@dataclass(frozen=True)
class Size:
    """How much of everything: rises in nats per token, draws stored and asked per chain and rung, set sizes, steps.

    `budget`: steps of a chain at a rung, lengthening included, and `batch_size`: examples a step; None for the
    ladder's own.
    """

    rises: tuple[float, ...]
    chains: int
    draws: int
    asked: int
    evaluation: int
    heldout: int
    steps: int | None
    burn_in: int | None
    width: float = 0.32
    budget: int | None = None
    batch_size: int | None = None

    def at(self, rises: Sequence[float] | float | None, budget: int | None = None) -> "Size":
        """The same with other rises, or another budget; None leaves them."""
        given = {} if rises is None else {"rises": (rises,) if isinstance(rises, float | int) else tuple(rises)}
        return replace(self, **given, **({} if budget is None else {"budget": budget}))  # type: ignore[arg-type]

    def suited(self, organism: Any) -> "Size":
        """The same with what an organism says of itself, see `Organism.size`; a text says nothing."""
        return replace(self, **getattr(organism, "size", {}))


def planned(subject: Subject, data: Any, size: Size, seed: int, longer: float = 1.0, name: str = "natural") -> Planned:
    """The ladder of a subject's model that a study climbs, its held-out text measured on the way.

    Args:
        subject: With an organism, or a text in its place.
        data: What the potential is made of: the subject's own data, or some of them.
        size: Rungs, chains, draws, steps.
        seed: Of everything random.
        longer: Factor on the steps of each rung.
        name: What to call it.
    """
    organism: Any = subject.organism
    heldout = organism.examples(organism.corpus.heldout(size.heldout, seed + 1).tokens)
    settings = {
        "rises": list(size.rises), "width": organism.width or size.width, "chains": size.chains, "draws": size.draws,
        "evaluation": size.evaluation, "steps": size.steps, "burn_in": size.burn_in, "longer": longer, "seed": seed,
        "budget": size.budget, "batch_size": size.batch_size,
    }  # fmt: skip
    return Planned(name, subject.model, data, heldout, settings, next_token_loss)


def climb(
    subject: Subject, data: Any, size: Size, seed: int, longer: float = 1.0, workers: int = 1, progress: bool = True
) -> Ladder:
    """Climb it: see `planned` for the arguments.

    Args:
        subject: With an organism, or a text in its place.
        data: What the potential is made of.
        size: Rungs, chains, draws, steps.
        seed: Of everything random.
        longer: Factor on the steps of each rung.
        workers: Processes, one thread each.
        progress: Show progress bars.

    Raises:
        ValueError: for rises that cannot be reached.
    """
    one = planned(subject, data, size, seed, longer)
    return climb_ladder(
        one.model, one.data, loss=one.loss, heldout=one.heldout, workers=workers, progress=progress, **one.settings
    )


def stored(folder: str | Path, subject: Subject) -> Ladder:
    """The ladder of an earlier run of the same model, its draws with it.

    Raises:
        FileNotFoundError: if the directory holds no run.
        ValueError: if it is the ladder of other weights, or keeps no draws.
    """
    ladder = store.load(folder, subject.model)
    if not any(draw.weights is not None for draw in ladder.kept):
        raise ValueError(
            f"the ladder in {folder} keeps no draws, so nothing can be asked of it: climb with their weights"
        )
    return ladder
