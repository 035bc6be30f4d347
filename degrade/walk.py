"""Chains that ask for the gradients of their steps: each answered as it asks, or several of them in one call.

A walk is a generator: it yields (weights, examples), is sent (rise, gradient) back (see `Potential.gradient`), and
returns what it came to. All else of a chain, its noise, batches, guards and looks, is its own, so that chains that step
together are those that step alone, to the rounding of their gradients.
"""

from collections.abc import Callable, Generator, Sequence
from functools import wraps
from inspect import unwrap
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from degrade.chain import Scene
    from degrade.engine import Engine

T = TypeVar("T")

Asked = tuple[list[Tensor], np.ndarray]
Answer = tuple[Tensor, list[Tensor]]
Walk = Generator[Asked, Answer, T]


class Group(NamedTuple):
    """Several calls of a walking task, of chains that step together."""

    task: Callable[..., Any]
    calls: list[tuple[Any, ...]]


def walking(walk: Callable[..., Walk[T]]) -> Callable[..., T]:
    """A task of the scene and its arguments that walks by itself, each of its gradients taken as it is asked for."""

    @wraps(walk)
    def task(scene: "Scene", *arguments: Any) -> T:
        one = walk(scene, *arguments)
        try:
            asked = next(one)
        except StopIteration as end:
            return end.value
        while True:
            answer = scene.potential.gradient(*asked)
            try:
                asked = one.send(answer)
            except StopIteration as end:
                return end.value

    return task


def together(scene: "Scene", group: Group) -> list[Any]:
    """What each call of a group comes to: all take a step, then the gradients they ask for are taken in one call.

    One that starts again, or ends before the others, does so alone.
    """
    walks = [unwrap(group.task)(scene, *call) for call in group.calls]
    found: list[Any] = [None] * len(walks)
    answers: dict[int, Answer | None] = dict.fromkeys(range(len(walks)))
    while answers:
        asked: dict[int, Asked] = {}
        for number, answer in answers.items():
            try:
                asked[number] = walks[number].send(answer)
            except StopIteration as end:
                found[number] = end.value
        answered = scene.potential.gradients(list(asked.values())) if asked else []
        answers = dict(zip(asked, answered, strict=True))
    return found


def each(engine: "Engine", scene: "Scene", task: Callable[..., T], calls: Sequence[tuple[Any, ...]]) -> list[T]:
    """The results of a task for several chains: a unit of work each, or a unit for as many as step together.

    A group is one unit, stored and done again as a whole: what a chain comes to may depend, in rounding, on the others.
    """
    size = scene.potential.chains_at_once
    if size == 1:
        futures = [engine.submit(task, *call) for call in calls]
        return [future.result() for future in futures]
    groups = [Group(task, list(calls[start : start + size])) for start in range(0, len(calls), size)]
    futures = [engine.submit(together, group) for group in groups]
    return [one for future in futures for one in future.result()]
