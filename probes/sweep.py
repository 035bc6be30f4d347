"""Ask probes of every draw of a ladder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
from tqdm import tqdm

from probes.probe import Claim, Measure, name_of
from probes.tables import stack

Ask = Callable[[Any], pd.DataFrame]
PLACE = ["rung", "target", "rise", "heldout_rise", "verdict", "chain", "draw"]
READING = ["probe", "measure", "value", "chance", "higher", "binary"]


class Draw(Protocol):
    """Weights near the trained ones; what a sweep reads of them."""

    rung: int
    chain: int
    index: int
    target: float
    rise: float
    heldout_rise: float
    verdict: str


class Ladder(Protocol):
    """What a sweep needs of a ladder."""

    @property
    def model(self) -> Any:
        """The model, carrying the trained weights outside of `applied`."""

    def draws(self) -> Iterable[Any]:
        """All draws (`Draw`)."""

    def applied(self, draw: Any) -> AbstractContextManager[Any]:
        """Context in which the model carries the draw's weights."""


Answer = tuple[Any, pd.DataFrame]  # a draw and a probe's table on it


@dataclass(frozen=True)
class Trained:
    """The trained weights as a draw: rung 0, rise 0."""

    rung: int = 0
    chain: int = -1
    index: int = -1
    target: float = 0.0
    rise: float = 0.0
    heldout_rise: float = 0.0
    verdict: str = "trained"


def sweep(
    ladder: Ladder, probes: Sequence[Ask], draws: int | None = None, progress: bool = True, trained: bool = True
) -> pd.DataFrame:
    """Ask every probe of the trained model and of the draws of a ladder.

    A claim whose probe is among `probes` is decided on that probe's table, which is computed once per draw.

    Args:
        ladder: Anything with `model`, `draws()` and `applied(draw)`.
        probes: Callables `model -> DataFrame` with the columns `measure` and `value`; see `probes.Probe`.
        draws: How many draws per chain and rung, evenly spaced, the last one included; None: all. A probe that carries
            an int `draws` is asked no more often than that.
        progress: Whether to show a progress bar.
        trained: Whether to ask the trained model too; not where another part of the same ladder has its answers.

    Returns:
        One row per answer. Columns `rung` (0: the trained weights), `target`, `rise`, `heldout_rise` (nats, in the unit
        of the ladder's loss), `verdict`, `chain`, `draw`, `probe`, `measure`, `value`, `chance`, `higher`, `binary`
        (missing where the probe declares nothing), then the probes' own keys.

    Raises:
        ValueError: If there is no probe, two share a name, a table lacks `measure` or `value`, or nothing is asked.

    >>> class Ladder:
    ...     model = "w*"
    ...     def draws(self): return []
    >>> def length(model): return pd.DataFrame({"measure": ["length"], "value": [float(len(model))]})
    >>> sweep(Ladder(), [length], progress=False)[["rung", "verdict", "probe", "measure", "value"]]
       rung  verdict   probe measure  value
    0     0  trained  length  length    2.0
    """
    _check_names(probes)
    if draws is not None and draws < 1:
        raise ValueError(f"draws must be at least 1 per chain and rung, or None for all; got {draws}")
    drawn = list(ladder.draws())
    if not drawn and not trained:
        raise ValueError("the ladder has no draws and the trained model is not to be asked: trained=True asks it")
    asked = [_chosen(drawn, _fewest(draws, getattr(probe, "draws", None))) for probe in probes]
    answers: list[list[Answer]] = [[] for _ in probes]
    for place, draw in enumerate(tqdm([Trained(), *drawn], desc="probes", unit="draw", disable=not progress)):
        due = [index for index, chosen in enumerate(asked) if (trained if place == 0 else place - 1 in chosen)]
        if due:
            with nullcontext() if place == 0 else ladder.applied(draw):
                tables = _ask(ladder.model, [probes[index] for index in due], draw)
            for index, table in zip(due, tables, strict=True):
                answers[index].append((draw, table))
    return stack([_labelled(probe, given) for probe, given in zip(probes, answers, strict=True)])


def _check_names(probes: Sequence[Ask]) -> None:
    if callable(probes) or not len(probes):
        raise ValueError(f"sweep needs a list with at least one probe, got {probes!r}")
    names = [name_of(probe) for probe in probes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two probes are called {twice[0]!r} and their rows could not be told apart: rename one")


def _fewest(*limits: int | None) -> int | None:
    given = [limit for limit in limits if limit is not None]
    return min(given) if given else None


def _chosen(drawn: Sequence[Draw], keep: int | None) -> set[int]:
    """Places of `keep` draws per chain and rung, evenly spaced and ending with the last."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, draw in enumerate(drawn):
        groups.setdefault((draw.rung, draw.chain), []).append(place)
    chosen: set[int] = set()
    for places in groups.values():
        count = len(places) if keep is None else min(keep, len(places))
        chosen.update(places[(j + 1) * len(places) // count - 1] for j in range(count))
    return chosen


def _ask(model: Any, probes: Sequence[Ask], draw: Draw) -> list[pd.DataFrame]:
    """Answers of all probes on one draw; a probe shared by claims is asked once."""
    answers: dict[int, pd.DataFrame] = {}

    def answer(probe: Ask) -> pd.DataFrame:
        if id(probe) not in answers:
            answers[id(probe)] = probe.answer(answer(probe.probe)) if isinstance(probe, Claim) else probe(model)
        return answers[id(probe)]

    tables = []
    for probe in probes:
        try:
            tables.append(_checked(answer(probe)))
        except Exception as error:
            error.add_note(f"probe {name_of(probe)!r} on rung {draw.rung}, chain {draw.chain}, draw {draw.index}")
            raise
    return tables


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """The table, if it has the columns of an answer and none of the sweep's."""
    lacking = [column for column in ("measure", "value") if column not in getattr(table, "columns", ())]
    if lacking:
        raise ValueError(f"a probe's table needs the columns 'measure' and 'value'; {lacking} missing in:\n{table!r}")
    taken = [column for column in table.columns if column in {*PLACE, "probe", "higher", "binary"}]
    if taken:
        raise ValueError(f"a probe's table may not have the columns {taken}, they are the sweep's: rename them")
    return table


def _labelled(probe: Ask, answers: Sequence[Answer]) -> pd.DataFrame:
    """All answers of one probe, with the columns of the sweep in front."""
    table = stack([answer for _, answer in answers])
    place = pd.DataFrame([_place(draw) for draw, _ in answers], columns=PLACE)
    place = place.loc[place.index.repeat([len(answer) for _, answer in answers])].reset_index(drop=True)
    declared: Mapping[str, Measure] = getattr(probe, "measures", {})
    chance = table["measure"].map({name: measure.chance for name, measure in declared.items()}).astype(float)
    reading: dict[str, Any] = {
        "probe": name_of(probe),
        "measure": table["measure"],
        "value": table["value"].astype(float),
        "chance": table["chance"].astype(float).fillna(chance) if "chance" in table else chance,
        "higher": table["measure"].map({name: measure.higher for name, measure in declared.items()}).astype("boolean"),
        "binary": table["measure"].map({name: measure.binary for name, measure in declared.items()}).astype("boolean"),
    }
    return pd.concat([place.assign(**reading), table.drop(columns=READING, errors="ignore")], axis=1)


def _place(draw: Draw) -> list[Any]:
    return [draw.rung, draw.target, draw.rise, draw.heldout_rise, draw.verdict, draw.chain, draw.index]
