"""What patching and circuits are measured by: one number per prompt from the logits at the answer position.

Names and choices after Heimersheim & Nanda 2024 (arXiv 2404.15255, section 4); all four can be differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from probes.probe import Measure


class Asked(NamedTuple):
    """What the logits are compared with, for n prompts.

    Attributes:
        answer: Right token, shape (n,).
        wrong: Token of the other prompt's answer, shape (n,).
        clean: log p of the clean run at the answer position, shape (n, V), in nats; None where it is not known yet.
    """

    answer: Tensor
    wrong: Tensor
    clean: Tensor | None = None

    def at(self, rows: Tensor) -> Asked:
        """The same for some of the prompts, in that order."""
        return Asked(self.answer[rows], self.wrong[rows], None if self.clean is None else self.clean[rows])


class Metric(NamedTuple):
    """One number per prompt, and how to read it.

    Attributes:
        of: Function of the logits, shape (n, V), and what is asked; its values have shape (n,) and are float64.
        unit: Of the values.
        higher: Whether it is higher where the clean answer is given.
    """

    of: Callable[[Tensor, Asked], Tensor]
    unit: str
    higher: bool


def _at(scores: Tensor, token: Tensor) -> Tensor:
    return scores.gather(1, token.to(scores.device)[:, None])[:, 0]


def _logit_diff(scores: Tensor, asked: Asked) -> Tensor:
    return (_at(scores, asked.answer) - _at(scores, asked.wrong)).double()


def _probability(scores: Tensor, asked: Asked) -> Tensor:
    return _at(scores.double().softmax(-1), asked.answer)


def _loss(scores: Tensor, asked: Asked) -> Tensor:
    return -_at(scores.double().log_softmax(-1), asked.answer)


def _kl(scores: Tensor, asked: Asked) -> Tensor:
    if asked.clean is None:
        raise ValueError("the metric 'kl' compares with the clean run, whose log-probabilities are missing")
    clean = asked.clean.to(scores.device).double()
    return (clean.exp() * (clean - scores.double().log_softmax(-1))).sum(-1)


METRICS: Mapping[str, Metric] = {
    "logit_diff": Metric(_logit_diff, "nats", higher=True),
    "probability": Metric(_probability, "share", higher=True),
    "kl": Metric(_kl, "nats", higher=False),
    "loss": Metric(_loss, "nats per token", higher=False),
}
"""By name: logit(answer) - logit(wrong); p(answer); KL(p clean || p); -log p(answer)."""


def evaluate(metrics: Sequence[str], scores: Tensor, asked: Asked) -> Tensor:
    """Every metric of every prompt.

    Args:
        metrics: Names, any of `METRICS`.
        scores: Logits at the answer position, shape (n, V).
        asked: For the same n prompts.

    Returns:
        Shape (n, metrics), float64.

    >>> evaluate(["logit_diff"], torch.tensor([[3.0, 1.0]]), Asked(torch.tensor([0]), torch.tensor([1])))
    tensor([[2.]], dtype=torch.float64)
    """
    return torch.stack([METRICS[name].of(scores, asked) for name in metrics], dim=1)


def baselines(metrics: Sequence[str], clean: Tensor, corrupted: Tensor, asked: Asked) -> tuple[Asked, Tensor, Tensor]:
    """Metrics of the two unpatched runs, with what is asked completed by the clean run's log-probabilities.

    Args:
        metrics: Names, any of `METRICS`.
        clean: Logits of the clean run at the answer position, shape (n, V).
        corrupted: Those of the corrupted run.
        asked: Without `clean`.

    Returns:
        What is asked, the clean and the corrupted metrics, each of shape (n, metrics).
    """
    complete = asked._replace(clean=clean.double().log_softmax(-1))
    return complete, evaluate(metrics, clean, complete), evaluate(metrics, corrupted, complete)


def check_metrics(metrics: Sequence[str]) -> None:
    """Refuse names that are no metric.

    Raises:
        ValueError: Naming them and the choices.

    >>> check_metrics(["accuracy"])
    Traceback (most recent call last):
    ValueError: unknown metrics ['accuracy']; choose from logit_diff, probability, kl, loss
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"unknown metrics {unknown}; choose from {', '.join(METRICS)}")


def named(metric: str, row: str) -> str:
    """Name of a row derived from a metric; the logit difference is the default and needs no prefix.

    >>> named("logit_diff", "recovery"), named("kl", "recovery")
    ('recovery', 'kl recovery')
    """
    return row if metric == "logit_diff" else f"{metric} {row}"


def measures_of(metrics: Sequence[str], ratios: Sequence[str], effects: Sequence[str]) -> dict[str, Measure]:
    """Declarations of the unpatched runs, the metric itself, and the rows derived from it, for each metric.

    Args:
        metrics: Names, any of `METRICS`.
        ratios: Rows that are a share of the difference between the two runs.
        effects: Rows in the metric's own unit.
    """
    declared = {}
    for metric in metrics:
        _, unit, higher = METRICS[metric]
        clean, corrupted = named(metric, "clean"), named(metric, "corrupted")
        declared[clean] = Measure(chance=_chance(metric), higher=higher, binary=False, unit=unit)
        declared[corrupted] = Measure(chance=_chance(metric), higher=not higher, binary=False, unit=unit)
        declared[metric] = Measure(chance=_chance(metric), higher=higher, binary=False, unit=unit)
        for row in ratios:
            declared[named(metric, row)] = Measure(chance=0.0, higher=True, binary=False, unit="share")
        for row in effects:
            declared[named(metric, row)] = Measure(chance=0.0, higher=higher, binary=False, unit=unit)
    return declared


def _chance(metric: str) -> float | None:
    return 0.0 if metric == "logit_diff" else None
