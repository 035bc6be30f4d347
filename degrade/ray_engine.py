"""Workers of a Ray cluster: the extra `[ray]`. What they hold travels once through its object store.

The same calls as of worker processes on one machine (`degrade.engine.Crew`), with the same bits: a unit is a pure
function of what it is given. Ray tries a unit again when its worker or its machine is lost; one that is lost each time
is named. Every machine needs this package in the same version, and the user's own code where it can be imported.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from degrade import freight
from degrade.engine import SHARED, UnitError, named, title
from degrade.freight import Plain
from degrade.places import Place

TRIES = SHARED + 1
LARGE = 2**18  # bytes from which a tensor is an object of the store by itself
WAITING = 256  # units that are waited for at once

_HELD: dict[str, Any] = {}


class RayCrew:
    """Submits calls to a cluster; `close` ends what is under way."""

    def __init__(self, initializer: Callable[..., Any], arguments: Sequence[Any], gpus: float | None) -> None:
        ray = imported()
        self._ray, self._refs, self._due = ray, WeakTensorKeyDictionary(), set[Any]()
        self._tools = [ray.put(self._packed((initializer, tuple(arguments)))[0])]
        self._label = os.urandom(8).hex()
        wanted = _accelerated(arguments) if gpus is None else gpus
        self._remote = ray.remote(_unit).options(
            num_cpus=1, num_gpus=wanted, max_retries=TRIES - 1, retry_exceptions=False, name="degrade"
        )
        self._watchers = ThreadPoolExecutor(WAITING)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Queue a call; its future has the result, the call's own error, or a UnitError."""
        parcel, own = self._packed((function, arguments))
        ref = self._remote.remote(self._label, self._tools, parcel)
        self._due.add(ref)
        return self._watchers.submit(self._watched, ref, own, arguments)

    def close(self, kill: bool) -> None:
        """End the crew: when what is queued is finished, or at once."""
        for ref in list(self._due) if kill else ():
            self._ray.cancel(ref, force=True)
        self._watchers.shutdown(cancel_futures=kill)

    def _watched(self, ref: Any, known: Sequence[Tensor], arguments: Sequence[Any]) -> Any:
        with named(arguments):
            try:
                content, own = self._ray.get(ref)
            except self._ray.exceptions.RayTaskError as error:
                raise getattr(error, "cause", None) or error from None
            except self._ray.exceptions.RayError as loss:
                raise UnitError(
                    f"{title(arguments)} was lost {TRIES} times with its worker process or machine"
                    f" ({_first_line(loss)}); expected it to finish: it may need more memory than there is (a smaller"
                    " batch_size, fewer units on a machine), or the model or the loss ends the process"
                ) from loss
            finally:
                self._due.discard(ref)
            return freight.unpack(content, [freight.tensor(one) for one in own], known)

    def _packed(self, value: Any) -> tuple[tuple[bytes, list[Any]], list[Tensor]]:
        """A value for the store: large tensors as references to what was put there, each once."""
        content, own = freight.pack(value)
        return (content, [self._sent(one) for one in own]), own

    def _sent(self, tensor: Tensor) -> Any:
        if tensor.nbytes < LARGE:
            return freight.plain(tensor)
        version = -1 if tensor.is_inference() else tensor._version
        seen = self._refs.get(tensor)
        if seen is None or seen[0] != version:
            seen = self._refs[tensor] = (version, self._ray.put(freight.plain(tensor)))
        return seen[1]


def imported() -> Any:
    """Ray.

    Raises:
        ImportError: naming the extra, if it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as fault:
        raise ImportError("engine='ray' needs Ray: pip install 'natural-degradation[ray]'") from fault
    return ray


@contextmanager
def connected(place: Place, workers: int) -> Iterator[None]:
    """A cluster for some time: the one at the place's address, else a local one with a processor for each worker.

    A connection that is there already is used and left.

    Raises:
        ConnectionError: if there is no cluster at the address.
    """
    ray = imported()
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if place.address is None:
            ray.init(address="local", num_cpus=workers, include_dashboard=False, **quiet)
        else:
            ray.init(address=place.address, **quiet)
    except (ConnectionError, ValueError) as fault:
        raise ConnectionError(
            f"no Ray cluster answers at address={place.address!r} ({_first_line(fault)}); expected one that was begun"
            " with `ray start --head`: give its address, or none for a local one"
        ) from fault
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def crew(place: Place, workers: int, initializer: Callable[..., Any], arguments: Sequence[Any]) -> Iterator[RayCrew]:
    """Workers of a cluster for some time: they finish their work, or are ended if an error ends the block."""
    with connected(place, workers):
        made = RayCrew(initializer, arguments, place.gpus)
        try:
            yield made
        except BaseException:
            made.close(kill=True)
            raise
        made.close(kill=False)


def _unit(label: str, tools: list[Any], parcel: tuple[bytes, list[Any]]) -> tuple[bytes, list[Plain]]:
    """A call in a worker, which takes up its tools before its first one."""
    if _HELD.get("label") != label:
        initializer, arguments = _opened(imported().get(tools[0]))[0]
        initializer(*arguments)
        _HELD["label"] = label
    (function, given), known = _opened(parcel)
    content, own = freight.pack(function(*given), known)
    return content, [freight.plain(one) for one in own]


def _opened(parcel: tuple[bytes, list[Any]]) -> tuple[Any, list[Tensor]]:
    content, sent = parcel
    known = [freight.tensor(one if isinstance(one, Plain) else imported().get(one)) for one in sent]
    return freight.unpack(content, known), known


def _accelerated(arguments: Sequence[Any]) -> float:
    """A GPU for each unit where what workers hold lies on one."""
    return float(any(one.is_cuda for one in freight.pack(tuple(arguments))[1]))


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
