"""Trained models that ship with the project, each with a corpus whose Bayes-optimal loss is exactly known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Organism:
    """A trained model, the corpus it was trained on, and, if there is one, a better model to compare it with.

    A corpus has `vocabulary`, `training()`, `heldout(n, seed)` and `mean_entropy()`; what else it offers (`of_kind`,
    `queries`, `pairs`, `requests`, ...) decides which probes can be asked.

    Attributes:
        name: What the command line calls it.
        folder: Hugging Face directory of the model.
        build: Makes the corpus; called once, on first use.
        summary: One line.
        larger: Hugging Face directory of the better model, if any.
        scored: Places of the tokens that the model was trained to predict; None: all after the first.
        width: Relative width of the neighbourhood in which rises up to a nat are the loss's doing, as measured: draws
            from it alone lose more than 1.3 nats. None: a study's own.
        asked: Probes that studies ask beside their own, settings by name.
        size: Fields of `studies.climbing.Size` that the survival study takes for it instead of its own, such as rises.

    >>> from studies.organisms.mixture import mixture
    >>> mixture.name
    'mixture'
    """

    name: str
    folder: Path
    build: Callable[[], Any]
    summary: str
    larger: Path | None = None
    scored: tuple[int, ...] | None = None
    width: float | None = None
    asked: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    size: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def corpus(self) -> Any:
        """The corpus, every table and sample a pure function of its seed."""
        return self.build()

    def load(self) -> tuple[Any, Any]:
        """The model as a TransformerBridge in eval mode, and its tokenizer."""
        from degrade.models import bridge

        return bridge(self.folder)

    def load_larger(self) -> tuple[Any, Any]:
        """The better model as a TransformerBridge in eval mode, and its tokenizer.

        Raises:
            ValueError: If there is none.
        """
        from degrade.models import bridge

        return bridge(self._larger())

    def examples(self, tokens: Tensor) -> Any:
        """Token ids as `degrade.next_token_loss` reads them: with labels where only some tokens are scored.

        Args:
            tokens: Token ids, shape (n, T).

        Returns:
            The tokens, or a dict with `input_ids` and `labels` (-100 where nothing is scored).
        """
        if self.scored is None:
            return tokens
        labels = tokens.new_full(tokens.shape, -100)
        labels[:, list(self.scored)] = tokens[:, list(self.scored)]
        return {"input_ids": tokens, "labels": labels}

    def exact_gap(self, model: Any, n: int = 2000, seed: int = 0) -> tuple[float, float]:
        """L(model) - H on held-out data, the Bayes predictor's surprisal as control variate.

        Args:
            model: Causal language model that returns logits or an object with `.logits`.
            n: Held-out sequences.
            seed: Seed of the held-out sequences.

        Returns:
            Mean and standard error over sequences, in nats per scored token.
        """
        from studies.organisms.mixture.references import gap

        return gap(model, self.corpus.heldout(n, seed), self.scored)

    def reference_gap(self, model: Any | None = None) -> tuple[float, float]:
        """L(model) - L(larger), paired on the held-out sequences on which the larger model's losses are recorded.

        Args:
            model: Causal language model; None for the one that ships.

        Returns:
            Mean and standard error over sequences, in nats per token.

        Raises:
            ValueError: If there is no larger model.
        """
        from studies.organisms.mixture.references import paired_gap

        recorded = self._larger() / "heldout.npz"
        return paired_gap(self.load()[0] if model is None else model, self.corpus, recorded)

    def references(self) -> dict[str, float]:
        """Held-out losses to compare with, in nats per scored token, as recorded beside the model.

        Returns:
            "entropy" (exact), "model", "untrained", where they make sense "n-gram 1", "n-gram 2", "n-gram 3", and
            "larger" if there is one; all but the first measured on the same held-out sequences with the surprisal as
            control variate.
        """
        return json.loads((self.folder / "references.json").read_text())

    def _larger(self) -> Path:
        if self.larger is None:
            raise ValueError(f"organism {self.name!r} ships no larger model to compare with; `mixture` does")
        return self.larger
