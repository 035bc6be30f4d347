"""The corpus of a small organism: an opening token, then text of one law whose next-token law is known exactly."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from studies.organisms.mixture.corpus import Sample
from studies.organisms.mixture.kinds import Kind
from studies.organisms.mixture.language import stream

SPECIAL = ("<pad>", "<unk>", "<bos>")
OPENING = SPECIAL.index("<bos>")


@dataclass(frozen=True, eq=False)
class Language:
    """Sequences of one kind; every sample is a pure function of `seed` and its own arguments.

    Attributes:
        kind: What samples call it.
        vocabulary: The words; a word's token id is its place. They begin with `SPECIAL`.
        law: Law of the tokens after the opening one.
        rows: Sequences in the training set.
        seed: Seed of the training set.

    >>> from studies.organisms.mixture.kinds import Repeat
    >>> words = (*SPECIAL, *"abcdefgh")
    >>> language = Language("repeat", words, Repeat(np.arange(3, 11), 3, 5, 11), rows=100)
    >>> language.heldout(n=4, seed=0).tokens.shape
    torch.Size([4, 12])
    """

    kind: str
    vocabulary: tuple[str, ...]
    law: Kind
    rows: int
    seed: int = 0

    @property
    def length(self) -> int:
        """Tokens a sequence, the opening one included."""
        return self.law.length + 1

    def mean_entropy(self) -> float:
        """Exact mean entropy of the predicted tokens, in nats per token."""
        return self.law.mean_entropy()

    def training(self) -> Sample:
        """The training set, in its fixed order."""
        return self._training

    @cached_property
    def _training(self) -> Sample:
        return self.sample(self.rows, stream(self.seed, "training"))

    def heldout(self, n: int, seed: int) -> Sample:
        """`n` fresh sequences, independent of the training set."""
        return self.sample(n, stream(self.seed, "heldout", seed))

    def fingerprint(self) -> str:
        """SHA-256 of the training tokens: says whether a model was trained on these very sequences."""
        return hashlib.sha256(self.training().tokens.numpy().astype("<i8").tobytes()).hexdigest()

    def sample(self, n: int, rng: np.random.Generator) -> Sample:
        """Draw `n` sequences from a random stream."""
        body = self.law.draw(n, rng)
        entropy, surprisal = self.law.score(body)
        return Sample(opened(body), np.full(n, self.kind), entropy, surprisal, np.zeros(n, dtype=np.int64))


def opened(body: np.ndarray) -> torch.Tensor:
    """Put the opening token before every sequence: (n, T - 1) array to (n, T) tensor."""
    return torch.from_numpy(np.concatenate([np.full((len(body), 1), OPENING), body], axis=1))


def places(vocabulary: tuple[str, ...], words: tuple[str, ...]) -> np.ndarray:
    """Token ids of some words."""
    return np.array([vocabulary.index(word) for word in words])
