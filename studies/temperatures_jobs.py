"""How much of everything the study does, and which ladders it climbs beside the main one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from degrade.data import Examples
from degrade.models import bridge
from probes import Subject
from studies.temperatures_parts import families
from studies.temperatures_sampling import Job
from studies.temperatures_scales import NATURAL, Temperature

FAMILIES = ("layers", "heads")
WIDTH = 0.32
IGNORED = -100
CHAINS = 3  # of a checkpoint: there are many


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        rows: Share of the training set that is sampled on; n / ln n is of that part.
        factors: Temperatures of the main ladder, as factors of n / ln n, from cold to hot.
        main: Settings of the main ladder.
        side: Settings of every other ladder.
        draws: Draws of the main ladder on which parts are read, per chain and rung.
        asked: Examples on which parts are read.
        heldout: Held-out sequences.
        refined: Families of parts with ladders of their own.
        fractions: Shares of the data for the question of n.
        widths: Factors on the width.
    """

    rows: float
    factors: tuple[float, ...]
    main: Mapping[str, Any]
    side: Mapping[str, Any]
    draws: int
    asked: int
    heldout: int
    refined: tuple[str, ...]
    fractions: tuple[float, ...]
    widths: tuple[float, ...]

    def at(
        self,
        refined: Sequence[str] | str | None,
        widths: Sequence[float] | float | None,
        width: float | None,
        longer: float,
        rows: float | None,
    ) -> "Size":
        """The same with what was asked for; `width` is the neighbourhood's own, `rows` a share of the training set.

        Raises:
            ValueError: for an unknown family, or a share of the training set that is none.
        """
        chosen = self.refined if refined is None else refined
        given = (chosen,) if isinstance(chosen, str) else tuple(chosen)
        factors = self.widths if widths is None else tuple(np.atleast_1d(widths).astype(float).tolist())
        wrong = [name for name in given if name not in FAMILIES]
        if wrong:
            raise ValueError(f"unknown family {wrong[0]!r} in refined; expected {', '.join(FAMILIES)}")
        if rows is not None and not 0 < rows <= 1:
            raise ValueError(f"rows={rows:g} of the training set; expected a share above 0, at most 1")
        common = {"width": width or WIDTH, "longer": longer}
        return replace(
            self, refined=given, widths=factors, main={**self.main, **common}, side={**self.side, **common},
            rows=self.rows if rows is None else float(rows),
        )  # fmt: skip


# n / ln n of all the data of `mixture` is so cold that chains take ten thousands of steps there, the natural gap
# thousands. On few data the law fits just those, and the loss of held-out text, on which the gap is compared, stands
# about 1.5 λ / n higher: on a sixteenth no rung within the budget came below the gap.
FULL = Size(
    rows=1 / 4,
    factors=(1.0, 0.3, 0.05),
    main={"chains": 4, "draws": 8, "evaluation": 512, "budget": 2600},
    side={"chains": 4, "draws": 2, "evaluation": 64, "budget": 800},
    draws=8,
    asked=512,
    heldout=256,
    refined=(),
    fractions=(0.25, 0.0625),
    widths=(),
)
QUICK = Size(
    rows=1 / 64,
    factors=(1.0, 0.25),
    main={"chains": 2, "draws": 4, "evaluation": 128, "steps": 400, "burn_in": 100},
    side={"chains": 2, "draws": 2, "evaluation": 64, "steps": 250, "burn_in": 80},
    draws=4,
    asked=256,
    heldout=128,
    refined=(),
    fractions=(0.25,),
    widths=(),
)


def some(data: Any, size: float | int, seed: int) -> tuple[Any, np.ndarray]:
    """Some examples, without replacement, and their places: a share of all, or so many; nested for one seed."""
    total = len(Examples(data))
    count = min(total, max(1, round(size * total) if isinstance(size, float) else size))
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(total)
    places = np.sort(order[:count])
    return (data if count == total else Examples(data).batch(places)), places


def units(data: Any) -> int:
    """Scored tokens of a data set, as `degrade.next_token_loss` counts them."""
    if isinstance(data, Mapping):
        return int((data["labels"][:, 1:] != IGNORED).sum())
    return int(data[:, 1:].numel())


def kinds_of(organism: Any, places: np.ndarray) -> np.ndarray | None:
    """The kind of every sampled example, canaries apart, if the corpus knows kinds."""
    sample = organism.corpus.training()
    if not hasattr(sample, "kind"):
        return None
    copies = getattr(sample, "copies", np.zeros(len(sample.kind), int))
    return np.where(copies > 0, "canary", sample.kind)[places]


def side_jobs(model: nn.Module, data: Any, scales: Sequence[Temperature], size: Size, seed: int) -> list[Job]:
    """Ladders for the refined coefficients, for subsets of the data, and for other widths.

    Parts and widths are sampled at both temperatures, subsets at n / ln n of their own size.
    """
    nbetas = tuple(sorted({one.nbeta for one in scales if np.isfinite(one.nbeta)}, reverse=True))
    side, n = {**size.side, "seed": seed}, units(data)
    keys = {"n": n, "width": side["width"]}
    parts = [(family, part, only) for family, found in families(model).items() if family in size.refined
             for part, only in found.items()]  # fmt: skip
    jobs = [Job("refined", part, nbetas, side, keys, only, family=family) for family, part, only in parts]
    for fraction in size.fractions:
        few, places = some(data, fraction, seed)
        count = units(few)
        own = keys | {"n": count}
        jobs.append(Job("rows", f"n = {count}", (count / np.log(count),), side, own, rows=places))
    for factor in size.widths:
        width = factor * side["width"]
        own = keys | {"width": width}
        jobs.append(Job("widths", f"width {width:.3g}", nbetas, {**side, "width": width}, own))
    return jobs


def checkpoint_jobs(
    folders: Sequence[Path], subject: Subject, data: Any, scales: Sequence[Temperature], size: Size, seed: int
) -> list[Job]:
    """A ladder for each checkpoint, at the temperatures of the trained model, its parts read on its draws."""
    nbetas = tuple(sorted({one.nbeta for one in scales if np.isfinite(one.nbeta)}, reverse=True))
    side = {**size.side, "seed": seed, "draws": size.draws, "chains": CHAINS}
    asked, _ = some(data, size.asked, seed + 1)
    keys = {"n": units(data), "width": side["width"]}
    return [
        Job("checkpoints", folder.name, nbetas, side, keys | {"step": step_of(folder)}, weights=weights_of(folder),
            asked=asked)
        for folder in folders
    ]  # fmt: skip


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name.

    >>> step_of(Path("checkpoints/step-00375"))
    375
    """
    return int("".join(letter for letter in folder.name if letter.isdigit()) or 0)


def weights_of(folder: Path) -> dict[str, Tensor]:
    """The parameters of a checkpoint by the names that they have in a bridge, float32."""
    return {name: p.detach().float() for name, p in bridge(folder)[0].named_parameters()}


def reached(scales: Sequence[Temperature]) -> bool:
    """Whether the natural-gap temperature is known."""
    return any(one.name == NATURAL and np.isfinite(one.nbeta) for one in scales)
