"""What a run spends: every gradient that the potential gives, pilot, curvature, control and step check included."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from degrade import potential
from degrade.engine import Serial, key_in
from degrade.potential import Potential


@dataclass
class Spent:
    """Examples through forward and backward passes, through forward passes in all, and calls for a gradient.

    `stages` has what went forward and backward by stage of the climb: calibration, production, halved.
    """

    backward: int = 0
    forward: int = 0
    calls: int = 0
    stages: Counter = field(default_factory=Counter)

    def gradients(self, batch_size: int) -> float:
        """In gradients of a batch; a forward pass without a backward one counts a third."""
        return (self.backward + (self.forward - self.backward) / 3) / batch_size


@contextmanager
def counted() -> Iterator[Spent]:
    """Count for some time, in this process."""
    spent, plain, drawn, measured = Spent(), Potential.gradient, Potential.sampled_gradient, potential.measure
    submit = Serial.submit

    def gradient(self: Potential, weights: Any, index: Any) -> Any:
        spent.calls += 1
        spent.backward += len(index)
        return plain(self, weights, index)

    def sampled(self: Potential, weights: Any, index: Any, key: Any) -> Any:
        spent.calls += 1
        spent.backward += len(index)
        spent.forward += len(index)  # it does not go through `measure`
        return drawn(self, weights, index, key)

    def measure(loss: Any, model: Any, batch: Any, size: int) -> Any:
        spent.forward += size
        return measured(loss, model, batch, size)

    def staged(self: Serial, task: Any, *arguments: Any) -> Any:
        before, key = spent.backward, key_in(arguments)
        done = submit(self, task, *arguments)
        spent.stages[key.stage if key else ""] += spent.backward - before
        return done

    with (
        mock.patch.object(Potential, "gradient", gradient),
        mock.patch.object(Potential, "sampled_gradient", sampled),
        mock.patch.object(potential, "measure", measure),
        mock.patch.object(Serial, "submit", staged),
    ):
        yield spent
