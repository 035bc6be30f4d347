"""Pairs of prompts as patching uses them: which run is patched into which, and what a patched run is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from probes.corpus import Pairs
from probes.hooks import require_known
from probes.metrics import Asked, baselines, evaluate, named
from probes.predictions import logits_at
from probes.probe import Subject, positive
from probes.repeats import repeat_pairs

DIRECTIONS = ("denoise", "noise")
TASKS = ("pairs", "repeat")


class Asker(Pairs, Protocol):
    """A probe that asks about pairs."""

    @property
    def direction(self) -> str:
        """Either "denoise": clean activations into the corrupted run; or "noise": corrupted ones into the clean run."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names, any of `probes.metrics.METRICS`."""


class Trial(NamedTuple):
    """The unpatched runs of n pairs, cut behind the last answer position.

    Attributes:
        metrics: Names of the m metrics.
        tokens: Prompts of the run that is patched into, shape (n, T).
        source: Prompts of the run that the patches come from, shape (n, T).
        position: Where the answer is predicted, shape (n,).
        asked: What the metrics compare with.
        clean: Metrics of the clean run, shape (n, m).
        corrupted: Those of the corrupted run.
        base: Those of the run that is patched into.
    """

    metrics: tuple[str, ...]
    tokens: Tensor
    source: Tensor
    position: Tensor
    asked: Asked
    clean: Tensor
    corrupted: Tensor
    base: Tensor

    def measure(self, model: Any, rows: Tensor) -> Tensor:
        """Metrics of some of the pairs, run with whatever hooks are in place, shape (rows, m)."""
        scores = logits_at(model, self.tokens[rows], self.position[rows])
        return evaluate(self.metrics, scores, self.asked.at(rows))

    def runs(self, metric: int) -> dict[str, np.ndarray]:
        """One metric of the runs "clean", "corrupted" and "base"."""
        found = {"clean": self.clean, "corrupted": self.corrupted, "base": self.base}
        return {name: run[:, metric].numpy() for name, run in found.items()}

    def unpatched(self, metric: int) -> dict[str, np.ndarray]:
        """One metric of the clean and the corrupted run, by the names of their rows."""
        runs = self.runs(metric)
        return {named(self.metrics[metric], name): runs[name] for name in ("clean", "corrupted")}


@torch.no_grad()
def trial(model: Any, asker: Asker) -> Trial:
    """Run both prompts of every pair, unpatched.

    Nothing behind the last answer position is run, which changes nothing in a causal model.
    """
    stop = int(asker.position.max()) + 1
    position = asker.position.cpu()
    clean, corrupted = asker.clean[:, :stop], asker.corrupted[:, :stop]
    require_known(model, torch.stack([asker.answer, asker.wrong], dim=1))
    asked, of_clean, of_corrupted = baselines(
        asker.metrics,
        logits_at(model, clean, position),
        logits_at(model, corrupted, position),
        Asked(asker.answer.cpu(), asker.wrong.cpu()),
    )
    if asker.direction == "denoise":
        return Trial(asker.metrics, corrupted, clean, position, asked, of_clean, of_corrupted, of_corrupted)
    return Trial(asker.metrics, clean, corrupted, position, asked, of_clean, of_corrupted, of_clean)


def pairs_of(subject: Subject, probe: str, n: int, seed: int, task: str | None = None) -> Pairs:
    """Pairs of prompts of a subject.

    Args:
        subject: With an organism.
        probe: Name of the probe that asks.
        n: Pairs.
        seed: Of the pairs.
        task: "pairs", those of the corpus; "repeat", made of its repeated sequences (`probes.repeats`); None: the first
            of these that the corpus has.

    Raises:
        ValueError: If the task is unknown, or the corpus lacks what it needs; the message names it.
    """
    if task not in (*TASKS, None):
        raise ValueError(f"{probe}: unknown task {task!r}; choose from {', '.join(TASKS)}")
    corpus = getattr(subject.organism, "corpus", None)
    if task is None:
        task = "repeat" if hasattr(corpus, "of_kind") and not hasattr(corpus, "pairs") else "pairs"
    if task == "pairs":
        return subject.corpus(probe, "pairs").pairs(positive(probe, "n", n), seed)
    repeats = subject.corpus(probe, "of_kind").of_kind("repeat", positive(probe, "n", n), seed)
    return repeat_pairs(repeats.tokens, start=1, seed=seed)


def check_direction(direction: str, choices: Sequence[str] = DIRECTIONS) -> None:
    """Refuse a direction that is none.

    Raises:
        ValueError: Naming it and the choices.
    """
    if direction not in choices:
        raise ValueError(f"unknown direction {direction!r}; choose from {', '.join(choices)}")
