"""Where legs run: in this process, or in worker processes that each hold a copy of the scene and one thread."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from degrade.chain import Scene

_HELD: dict[str, Scene] = {}


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
        future: Future[Any] = Future()
        future.set_result(task(self.scene, *arguments))
        return future


class Pool:
    """Runs tasks in worker processes; models and losses of a notebook travel too (cloudpickle, through loky)."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor

    def submit(self, task: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Queue the task."""
        return self.executor.submit(_run_held, task, *arguments)


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
def engine(scene: Scene, workers: int) -> Iterator[Engine]:
    """An engine for some time, one thread a chain."""
    with one_thread():
        if workers == 1:
            yield Serial(scene)
        else:
            yield from _pool(scene, workers)


def _pool(scene: Scene, workers: int) -> Iterator[Engine]:
    with processes(workers, _hold, scene) as executor:
        yield Pool(executor)


@contextmanager
def processes(workers: int, initializer: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """Worker processes for some time: they finish their work, or are killed if an error ends the block."""
    from loky import ProcessPoolExecutor

    executor = ProcessPoolExecutor(workers, initializer=initializer, initargs=arguments)
    try:
        yield executor
    except BaseException:
        executor.shutdown(kill_workers=True)
        raise
    executor.shutdown()


def settle() -> None:
    """Make a worker one: one thread, Ctrl-C left to the parent, which ends its workers, and ended when it is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)


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
