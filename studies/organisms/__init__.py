"""Trained models that ship with the project, each with a corpus whose Bayes-optimal loss is exactly known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.organisms.mixture.corpus import Corpus


@dataclass(frozen=True, eq=False)
class Organism:
    """A trained model, the corpus it was trained on, and a better model of that corpus to compare it with.

    Attributes:
        name: What the command line calls it.
        folder: Hugging Face directory of the model.
        larger: Hugging Face directory of the better model.
        build: Makes the corpus; called once, on first use.
        summary: One line.

    >>> from studies.organisms.mixture import mixture
    >>> mixture.name
    'mixture'
    """

    name: str
    folder: Path
    larger: Path
    build: Callable[[], Corpus]
    summary: str

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus, every table and sample a pure function of its seed."""
        return self.build()

    def load(self) -> tuple[Any, Any]:
        """The model as a TransformerBridge in eval mode, and its tokenizer."""
        from degrade.models import bridge

        return bridge(self.folder)

    def load_larger(self) -> tuple[Any, Any]:
        """The better model as a TransformerBridge in eval mode, and its tokenizer."""
        from degrade.models import bridge

        return bridge(self.larger)

    def exact_gap(self, model: Any, n: int = 2000, seed: int = 0) -> tuple[float, float]:
        """L(model) - H on held-out data, the Bayes predictor's surprisal as control variate.

        Args:
            model: Causal language model that returns logits or an object with `.logits`.
            n: Held-out sequences.
            seed: Seed of the held-out sequences.

        Returns:
            Mean and standard error over sequences, in nats per token.
        """
        from studies.organisms.mixture.references import gap

        return gap(model, self.corpus.heldout(n, seed))

    def reference_gap(self, model: Any | None = None) -> tuple[float, float]:
        """L(model) - L(larger), paired on the held-out sequences on which the larger model's losses are recorded.

        Args:
            model: Causal language model; None for the one that ships.

        Returns:
            Mean and standard error over sequences, in nats per token.
        """
        from studies.organisms.mixture.references import paired_gap

        return paired_gap(self.load()[0] if model is None else model, self.corpus, self.larger / "heldout.npz")

    def references(self) -> dict[str, float]:
        """Held-out losses to compare with, in nats per token, as `studies.organisms.mixture.references` recorded them.

        Returns:
            "entropy" (exact), "model", "larger", "n-gram 1", "n-gram 2", "n-gram 3" and "untrained", all but the first
            measured on the same held-out sequences with the surprisal as control variate.
        """
        return json.loads((self.folder / "references.json").read_text())
