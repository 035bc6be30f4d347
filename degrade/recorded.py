"""A climb that is recorded: each unit of work as it finishes, and each rung with what the next one starts from.

A unit is a pure function of (scene, arguments), addressed by its task and its `Key`: seed, stage, rung, chain, attempt,
turn. Once a rung is stored, its units are removed.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

from degrade.engine import Engine, key_in, keys_in, then
from degrade.fingerprint import tensors
from degrade.journal import MISSING, Journal

if TYPE_CHECKING:
    from degrade.stage import Stage
    from degrade.temperature import Ascent

LARGE = 2**27  # bytes of arguments above which a calibration round costs more room than it is worth: it is redone
LEFT_OUT = ("engine", "scene", "settings")


@dataclass(frozen=True)
class Recorded:
    """An engine that stores what another one computes, and computes nothing that is stored."""

    engine: Engine
    journal: Journal

    def submit(self, task: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Read the task's result, or start it and store what it returns, before its future says so."""
        if self.journal.folder is None:
            return self.engine.submit(task, *arguments)
        key, lent = key_in(arguments), tensors(arguments)
        if key is None or (key.stage == "calibration" and sum(tensor.nbytes for tensor in lent) > LARGE):
            return self.engine.submit(task, *arguments)
        name = f"{task.__name__}-{key.stage}-{key.rung:03d}-{key.chain:03d}-{key.attempt}-{key.turn:03d}"
        inputs = task.__name__, arguments
        note = {"seed_path": key._asdict(), "chains": len(keys_in(arguments))}
        return kept(self.journal, name, inputs, lambda: self.engine.submit(task, *arguments), lent, **note)


def kept(
    journal: Journal,
    name: str,
    inputs: Any,
    start: Callable[[], "Future[Any]"],
    lent: Sequence[Tensor] = (),
    **note: Any,
) -> "Future[Any]":
    """The future of a result: read if the journal holds it, else started, and stored before its future says so."""
    value = journal.read(name, inputs, lent)
    if value is MISSING:
        return after(start(), lambda done: journal.write(name, done, inputs, lent, **note))
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def after(future: "Future[Any]", store: Callable[[Any], None]) -> "Future[Any]":
    """A future that has its result once that has been stored, or the error of either."""

    def stored(value: Any) -> Any:
        store(value)
        return value

    return then(future, stored)


def recall(journal: Journal, ascent: "Ascent") -> list["Stage"]:
    """The rungs that an earlier process finished; the ascent is put where the last of them left it."""
    stages: list[Stage] = []
    while (stage := journal.read(_rung(len(stages) + 1))) is not MISSING:
        stages.append(stage)
    while stages:
        if (state := journal.read(_state(len(stages)))) is not MISSING:
            for name, value in state.items():
                setattr(ascent, name, value)
            break
        stages.pop()
    return stages


def reached(journal: Journal, ascent: "Ascent", stage: "Stage") -> None:
    """Store a finished rung and where it left the ascent, and remove what that makes needless."""
    number = stage.rung.number
    faults = {leg.chain: leg.fault for leg in stage.legs if leg.fault}
    journal.write(_rung(number), stage, seed_path={"rung": number}, faults=faults)
    state = {field.name: getattr(ascent, field.name) for field in fields(ascent) if field.name not in LEFT_OUT}
    journal.write(_state(number), state)
    journal.forget(_state(number - 2))
    for kind in ("calibration", "production", "halved"):
        journal.forget(f"*-{kind}-{number:03d}-*")


def _rung(number: int) -> str:
    return f"rung-{number:03d}"


def _state(number: int) -> str:
    return f"ascent-{number:03d}"
