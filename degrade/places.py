"""Where worker processes are: on this machine, or on a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

ENGINES = ("processes", "ray")


@dataclass(frozen=True)
class Place:
    """Where worker processes are: on this machine, or on a Ray cluster.

    Attributes:
        engine: "processes" or "ray".
        address: Of a cluster, "auto" for the one this machine is part of; None begins a local one.
        gpus: Share of a GPU that a unit takes; None: a whole one where the model lies on one.
    """

    engine: Literal["processes", "ray"] = "processes"
    address: str | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"unknown engine {self.engine!r}; the known ones are {', '.join(ENGINES)}")
        given = {"address": self.address, "gpus": self.gpus}
        if self.engine == "processes" and any(value is not None for value in given.values()):
            said = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
            raise ValueError(f"{said} means a Ray cluster, and the engine is 'processes': add engine='ray', or drop it")


_PLACE: ContextVar[Place] = ContextVar("place", default=Place())  # noqa: B039


def here() -> Place:
    """The place of the block that this is called in."""
    return _PLACE.get()


@contextmanager
def placed(place: Place, workers: int) -> Iterator[None]:
    """All workers that the block asks for are at one place; processes, or a cluster, are begun or connected to once."""
    token = _PLACE.set(place)
    try:
        if place.engine == "ray":
            from degrade.ray_engine import connected

            with connected(place, workers):
                yield
        else:
            from degrade.shifts import resident

            with resident(workers):
                yield
    finally:
        _PLACE.reset(token)
