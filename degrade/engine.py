"""Where legs run: in this process, or in worker processes that each hold a copy of the scene and one thread.

The processes are this machine's (`Crew`) or those of a Ray cluster (`degrade.ray_engine`), to the same bits.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from loky import ProcessPoolExecutor
from loky.process_executor import ShutdownExecutorError

from degrade import freight
from degrade.chain import Leg, Scene
from degrade.freight import Plain
from degrade.noise import Key
from degrade.places import Place, here
from degrade.walk import Group

if TYPE_CHECKING:
    from degrade.shelf import Shelf

SHARED = 2  # tries among other units, before a unit whose worker died is tried alone

_HELD: dict[str, Scene] = {}
_SETTLED = threading.Event()


class UnitError(ChildProcessError):
    """A unit of work that ends every process it runs in."""


class Engine(Protocol):
    """Anything that runs `task(scene, *arguments)` and gives a future."""

    def submit(self, task: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Start a task, or run it at once."""


class Serial:
    """Runs each task at once, in this process."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def submit(self, task: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Run the task; its error is raised here."""
        return at_once(task, self.scene, *arguments)


class Pool:
    """Runs tasks in worker processes; models and losses of a notebook travel too (cloudpickle, through loky)."""

    def __init__(self, executor: Any, shelf: "Shelf | None" = None) -> None:
        self.executor, self.shelf = executor, shelf

    def submit(self, task: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Queue the task."""
        future, key = self.executor.submit(_run_held, task, *arguments), key_in(arguments)
        if self.shelf is None or key is None:
            return future
        shelf, part = self.shelf, key.turn
        return then(future, lambda done: _collected(shelf, done, part))


def _collected(shelf: "Shelf", done: Any, part: int) -> Any:
    """What a unit brought back, its draws on the shelf."""
    if isinstance(done, list):
        return [_collected(shelf, one, part) for one in done]
    return shelf.collect(done, part) if isinstance(done, Leg) else done


class Crew:
    """Worker processes that are replaced when one dies; what was under way is done again.

    When a worker dies, nobody knows of which unit. So each that was under way is tried again among the others, then
    alone: one that dies alone is the one.
    """

    def __init__(self, workers: int, initializer: Callable[..., Any], arguments: Sequence[Any]) -> None:
        self._settings = {"initializer": initializer, "initargs": tuple(arguments)}
        self._workers, self._closed = workers, False
        self._guard, self._solitude = threading.Lock(), threading.Lock()
        self._lone: Any = None
        self._executor = self._hire(workers)
        self._watchers = ThreadPoolExecutor(2 * workers)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Queue a call; its future has the result, the call's own error, or a UnitError."""
        return self._watchers.submit(self._watched, function, arguments)

    def close(self, kill: bool) -> None:
        """End the workers: when they have finished what is queued, or at once."""
        self._closed = kill
        for executor in filter(None, (self._executor, self._lone)) if kill else ():
            executor.shutdown(kill_workers=True)
        self._watchers.shutdown(cancel_futures=kill)
        self._executor.shutdown()

    def _hire(self, workers: int) -> Any:
        return ProcessPoolExecutor(workers, **self._settings)

    def _watched(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        with named(arguments):
            for _ in range(SHARED):
                executor = self._executor
                try:
                    return _sent(executor, function, arguments)
                except (BrokenProcessPool, ShutdownExecutorError):
                    self._renew(executor)
            return self._alone(function, arguments)

    def _renew(self, broken: Any) -> None:
        """Replace the workers, once for all the units that were under way with them."""
        with self._guard:
            if self._closed:
                raise InterruptedError("the workers were ended with the run")
            if self._executor is broken:
                broken.shutdown(kill_workers=True)
                self._executor = self._hire(self._workers)

    def _alone(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        with self._solitude:
            self._lone = self._hire(1)
            try:
                return _sent(self._lone, function, arguments)
            except BrokenProcessPool as death:
                raise UnitError(
                    f"{title(arguments)} ended its worker process {SHARED + 1} times, the last time alone"
                    f" ({_first_line(death)}); expected it to finish: it may need more memory than there is (fewer"
                    " workers, a smaller batch_size), or the model or the loss ends the process"
                ) from death
            finally:
                self._lone.shutdown(kill_workers=True)


def _sent(executor: Any, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """The result of a call in a worker; what it shares with the arguments is shared here too."""
    content, own = freight.pack((function, arguments))
    content, back = executor.submit(_carried, content, [freight.plain(one) for one in own]).result()
    return freight.unpack(content, [freight.tensor(one) for one in back], own)


def _carried(content: bytes, sent: list[Plain]) -> tuple[bytes, list[Plain]]:
    known = [freight.tensor(one) for one in sent]
    function, arguments = freight.unpack(content, known)
    content, own = freight.pack(function(*arguments), known)
    return content, [freight.plain(one) for one in own]


def at_once(function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
    """A call in this process; its error is raised here."""
    future: Future[Any] = Future()
    with named(arguments):
        future.set_result(function(*arguments))
    return future


def then(future: "Future[Any]", work: Callable[[Any], Any]) -> "Future[Any]":
    """A future of what `work` makes of another one's result, or of the error of either."""
    outer: Future[Any] = Future()

    def settled(done: "Future[Any]") -> None:
        try:
            value = work(done.result())
        except BaseException as error:
            outer.set_exception(error)
        else:
            outer.set_result(value)

    future.add_done_callback(settled)
    return outer


def keys_in(arguments: Sequence[Any]) -> list[Key]:
    """The address among a unit's arguments; those of all its chains, where several step together."""
    groups = [call for one in arguments if isinstance(one, Group) for call in one.calls]
    return [one for call in (arguments, *groups) for one in call if isinstance(one, Key)]


def key_in(arguments: Sequence[Any]) -> Key | None:
    """The address of a unit: that of its first chain."""
    return next(iter(keys_in(arguments)), None)


def title(arguments: Sequence[Any]) -> str:
    """A unit in words."""
    if not (keys := keys_in(arguments)):
        return "a unit of work"
    chains = f"chain{'s' * (len(keys) > 1)} {', '.join(str(key.chain) for key in keys)}"
    return f"{keys[0].stage} of rung {keys[0].rung}, {chains} (part {keys[0].turn})"


@contextmanager
def named(arguments: Sequence[Any]) -> Iterator[None]:
    """An error says in which unit it came up."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in {title(arguments)}")
        raise


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread for some time: the order of sums is part of a run's bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def engine(scene: Scene, workers: int, place: Place | None = None) -> Iterator[Engine]:
    """An engine for some time, one thread a chain; at the place of the block that this is in if none is given."""
    place = place or here()
    with one_thread(), nullcontext() if scene.shelf is None else closing(scene.shelf):
        if workers == 1 and place.engine == "processes":
            yield Serial(scene)
        else:
            with processes(workers, _hold, scene, place=place) as executor:
                yield Pool(executor, scene.shelf)


@contextmanager
def processes(
    workers: int, initializer: Callable[..., Any], *arguments: Any, place: Place | None = None
) -> Iterator[Any]:
    """Worker processes for some time: they finish their work, or are killed if an error ends the block.

    In a block of `degrade.shifts.resident` they are those of the block.
    """
    from degrade.shifts import free

    place = place or here()
    if place.engine == "ray":
        from degrade.ray_engine import crew as hired

        with hired(place, workers, initializer, arguments) as crew:
            yield crew
        return
    if there := free(workers):
        with there.shift(initializer, arguments) as shift:
            yield shift
        return
    own = Crew(workers, initializer, arguments)
    try:
        yield own
    except BaseException:
        own.close(kill=True)
        raise
    own.close(kill=False)


def settle() -> None:
    """Make a worker one: one thread, Ctrl-C left to the parent, which ends its workers, and ended when it is."""
    torch.set_num_threads(1)
    if not _SETTLED.is_set():  # once, for a worker takes up many tools
        _SETTLED.set()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()


def _hold(scene: Scene) -> None:
    """Keep the scene in a worker."""
    settle()
    _HELD["scene"] = scene


def _leave_with(parent: int) -> None:
    """A parent that was killed cannot end its workers: each looks once a second whether it is still there."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _run_held(task: Callable[..., Any], *arguments: Any) -> Any:
    return task(_HELD["scene"], *arguments)
