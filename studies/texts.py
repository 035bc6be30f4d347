"""A named model with named data in an organism's place: what studies read of it, as far as a text can give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from degrade.packing import Packed

ORDERS = (1, 2, 3)
REFERENCE = 256  # held-out windows on which losses are compared
COMMON = 1000  # tokens that random sequences are drawn from


class Windows(NamedTuple):
    """Windows of text as a sample of a corpus: token ids of shape (n, T), and what probes ask of any."""

    tokens: Tensor
    kind: np.ndarray
    copies: np.ndarray


@dataclass(frozen=True, eq=False)
class TextCorpus:
    """The sets of a text as a corpus, see `degrade.packing` for how they were made."""

    data: Packed

    def training(self) -> Windows:
        """All windows of the sampling set, in their order."""
        return _sample(self.data.sampling.windows)

    def heldout(self, n: int, seed: int) -> Windows:
        """Some windows of the held-out set, drawn without replacement; all of them if there are no more."""
        return _drawn(self.data.heldout.windows, n, seed)

    def control(self, n: int, seed: int) -> Windows:
        """Some windows of the control set, drawn without replacement; all of them if there are no more."""
        return _drawn(self.data.control.windows, n, seed)

    def common(self, n: int = COMMON) -> list[int]:
        """The n token ids that are most frequent in the sampling set, in their order."""
        ids, counts = self.data.sampling.windows.unique(return_counts=True)
        return sorted(ids[counts.argsort(descending=True, stable=True)[:n]].tolist())


@dataclass(frozen=True, eq=False)
class Text:
    """A model by name and the text it is asked about: an organism without a law behind its text.

    Attributes:
        name: The model's.
        model: Loaded, at w*.
        tokenizer: The model's, or None.
        corpus: The text.
        folder: The model's directory, if it has one.
    """

    name: str
    model: Any
    tokenizer: Any
    corpus: TextCorpus
    folder: Path | None = None
    larger: None = None
    scored: None = None
    width: None = None

    @property
    def summary(self) -> str:
        """What the text is, in a line."""
        return str(self.corpus.data)

    def load(self) -> tuple[Any, Any]:
        """The model, which is loaded already, and its tokenizer."""
        return self.model, self.tokenizer

    def examples(self, tokens: Tensor) -> Tensor:
        """Token ids as `degrade.next_token_loss` reads them: as they are."""
        return tokens

    def probes(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings by name of the probes that need nothing but a text, for studies that ask an organism's corpus."""
        return {"induction": {"vocabulary": self.corpus.common()}}

    def references(self) -> dict[str, float]:
        """Losses to compare with on at most 256 held-out windows, nats per token.

        Returns:
            "model" (now in `model`), "n-gram 1" to "n-gram 3" (counted on the sampling set) and "untrained" (the same
            architecture freshly drawn, where it can be: a model of Hugging Face).
        """
        return dict(self._references)

    @cached_property
    def _references(self) -> dict[str, float]:
        from degrade.models import untrained
        from degrade.ngrams import ngram_nats
        from degrade.packing import vocabulary_of

        held = self.corpus.heldout(REFERENCE, 0).tokens
        counted = self.corpus.training().tokens.numpy()
        words = vocabulary_of(self.model) or int(max(counted.max(), held.max())) + 1
        losses = {"model": _loss(self.model, held)}
        for order in ORDERS:
            losses[f"n-gram {order}"] = float(ngram_nats(counted, held.numpy(), order, words).mean())
        if (fresh := untrained(self.model)) is not None:
            losses["untrained"] = _loss(fresh, held)
        return losses


def _loss(model: Any, tokens: Tensor) -> float:
    from degrade.documents import document_nats

    nats, count = document_nats(model, tokens)
    return float(nats.sum() / count.sum())


def _sample(windows: Tensor) -> Windows:
    return Windows(windows, np.full(len(windows), "text"), np.zeros(len(windows), dtype=int))


def _drawn(windows: Tensor, n: int, seed: int) -> Windows:
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(windows))
    return _sample(windows[np.sort(order[:n])])
