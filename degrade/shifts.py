"""One crew for a whole run: its workers take up the tools of each ladder or sweep in turn.

A worker takes seconds to begin, most of them for imports, and a run may climb many ladders. In a block of `resident`
all that asks for as many workers gets the same ones, to the same bits. The tools of a shift (an initializer and what it
is given: a scene, say) lie in a file, which a worker reads before its first unit of that shift.
"""

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from degrade import freight
from degrade.engine import Crew, settle

_RESIDENT: ContextVar["Resident | None"] = ContextVar("resident", default=None)
_HELD: dict[str, str] = {}


class Resident:
    """A crew that is hired when it is first needed, and stays; one shift at a time."""

    def __init__(self, workers: int) -> None:
        self.workers, self.busy = workers, False
        self._crew: Crew | None = None

    @contextmanager
    def shift(self, initializer: Callable[..., Any], arguments: Sequence[Any]) -> Iterator["Shift"]:
        """Units with some tools: finished when the block ends; an error ends the crew, the next shift hires anew."""
        self.busy, self._crew = True, self._crew or Crew(self.workers, settle, ())
        try:
            with TemporaryDirectory(prefix="degrade-") as folder:
                content, own = freight.pack((initializer, tuple(arguments)))
                tools = Path(folder) / "tools"
                with tools.open("wb") as file:
                    pickle.dump((content, [freight.plain(one) for one in own]), file, pickle.HIGHEST_PROTOCOL)
                working = Shift(self._crew, os.urandom(8).hex(), tools)
                yield working
                wait(list(working.due))
        except BaseException:
            self.close(kill=True)
            raise
        finally:
            self.busy = False

    def close(self, kill: bool) -> None:
        """End the workers."""
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.close(kill)


class Shift:
    """Submits calls to the crew, as `Crew` does."""

    def __init__(self, crew: Crew, label: str, tools: Path) -> None:
        self._crew, self._label, self._tools = crew, label, tools
        self.due: set[Future[Any]] = set()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Queue a call; its future has the result, the call's own error, or a UnitError."""
        future = self._crew.submit(_equipped, self._label, self._tools, function, *arguments)
        self.due.add(future)
        future.add_done_callback(self.due.discard)
        return future


@contextmanager
def resident(workers: int) -> Iterator[None]:
    """All that asks for this many workers in the block has them from one crew, which is hired once."""
    own = Resident(workers)
    token = _RESIDENT.set(own)
    try:
        yield
    except BaseException:
        own.close(kill=True)
        raise
    finally:
        _RESIDENT.reset(token)
    own.close(kill=False)


def free(workers: int) -> Resident | None:
    """The crew of the block that this is in, if it has as many workers and they have nothing to do."""
    own = _RESIDENT.get()
    return own if own is not None and own.workers == workers and not own.busy else None


def _equipped(label: str, tools: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """A call in a worker, which takes up the tools of the shift before its first one."""
    if _HELD.get("label") != label:
        with tools.open("rb") as file:
            content, sent = pickle.load(file)
        initializer, given = freight.unpack(content, [freight.tensor(one) for one in sent])
        initializer(*given)
        _HELD["label"] = label
    return function(*arguments)
