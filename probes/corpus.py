"""What the package's probes read of a corpus, as protocols: any objects with these fields will do."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from torch import Tensor


class Sample(Protocol):
    """n sequences of T tokens with the exact law behind each of the T - 1 predicted tokens (nats)."""

    @property
    def tokens(self) -> Tensor:
        """Token ids, shape (n, T)."""

    @property
    def kind(self) -> np.ndarray:
        """Kind of each sequence, shape (n,), str."""

    @property
    def entropy(self) -> np.ndarray:
        """Entropy of token t + 1 given the tokens up to t, shape (n, T - 1); 0 where it is determined."""

    @property
    def surprisal(self) -> np.ndarray:
        """-log p of the Bayes predictor at the token that came, shape (n, T - 1)."""

    @property
    def copies(self) -> np.ndarray:
        """How often the sequence was planted in the training set, shape (n,); 0 for ordinary ones."""


class Queries(Protocol):
    """n questions with one right next token each."""

    @property
    def tokens(self) -> Tensor:
        """Token ids, shape (n, T)."""

    @property
    def position(self) -> Tensor:
        """Index p: the logits at p predict the answer, shape (n,)."""

    @property
    def answer(self) -> Tensor:
        """Right token, shape (n,)."""

    @property
    def group(self) -> np.ndarray:
        """Which behaviour the question is about, shape (n,), str."""

    @property
    def frequency(self) -> np.ndarray:
        """How often the item asked for occurs in the training set, shape (n,); nan where meaningless."""

    @property
    def chance(self) -> np.ndarray:
        """Accuracy of a uniform guess among the question's possible answers, shape (n,)."""


class Pairs(Protocol):
    """n clean and corrupted prompts of equal length that have different answers."""

    @property
    def clean(self) -> Tensor:
        """Token ids, shape (n, T)."""

    @property
    def corrupted(self) -> Tensor:
        """Token ids, shape (n, T)."""

    @property
    def position(self) -> Tensor:
        """Where the answer is predicted, shape (n,)."""

    @property
    def answer(self) -> Tensor:
        """Answer to the clean prompt, shape (n,)."""

    @property
    def wrong(self) -> Tensor:
        """Answer to the corrupted prompt, shape (n,)."""


class Corpus(Protocol):
    """A generated corpus; each answer is a pure function of its arguments."""

    def heldout(self, n: int, seed: int) -> Sample:
        """Fresh sequences at the natural shares of the kinds."""

    def of_kind(self, kind: str, n: int, seed: int) -> Sample:
        """Fresh sequences of one kind."""

    def canaries(self) -> Sample:
        """One row per distinct sequence planted in the training set."""

    def queries(self, n: int, seed: int) -> Queries:
        """Make n questions of every group."""

    def pairs(self, n: int, seed: int) -> Pairs:
        """Clean and corrupted prompts."""
