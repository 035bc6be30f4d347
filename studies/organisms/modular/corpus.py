"""Addition modulo a prime: `a b = c`, with a part of all pairs for training (Nanda et al. 2023, arXiv 2301.05217)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from studies.organisms.mixture.corpus import Sample
from studies.organisms.mixture.language import stream
from studies.organisms.mixture.queries import Queries

P = 113


class Sums(NamedTuple):
    """All p² sums, ordered by a and then by b.

    Attributes:
        tokens: Prompts `a b =`, shape (p², 3).
        position: Where the sum is predicted, shape (p²,).
        summands: Token id of each number 0..p-1, shape (p,).
        answers: Token id of each possible sum 0..p-1, shape (p,).
        trained: Which pairs are in the training set, shape (p²,), bool.
    """

    tokens: Tensor
    position: Tensor
    summands: Tensor
    answers: Tensor
    trained: np.ndarray


@dataclass(frozen=True)
class Addition:
    """All a + b = c modulo p; the number k is token k.

    Attributes:
        seed: Seed of the split.
        p: The modulus.
        share: Share of the ordered pairs that is trained on; (b, a) may be in it where (a, b) is not.

    >>> Addition(p=5, share=0.4).training().tokens.shape
    torch.Size([10, 4])
    """

    seed: int = 0
    p: int = P
    share: float = 0.5

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words; a word's token id is its place."""
        return (*(str(number) for number in range(self.p)), "=", "<pad>", "<unk>")

    @property
    def length(self) -> int:
        """Tokens a sequence."""
        return 4

    def mean_entropy(self) -> float:
        """Entropy of the sum: 0 nats, the summands determine it."""
        return 0.0

    def training(self) -> Sample:
        """All training pairs, in a fixed order."""
        return self._sample(self._order()[: self._cut()])

    def heldout(self, n: int, seed: int) -> Sample:
        """`n` pairs that are not trained on; without repetition, so all of them if `n` is larger."""
        rest = self._order()[self._cut() :]
        return self._sample(rest[stream(self.seed, "heldout", seed).random(len(rest)).argsort()[:n]])

    def fingerprint(self) -> str:
        """SHA-256 of the training tokens: says whether a model was trained on these very pairs."""
        return hashlib.sha256(self.training().tokens.numpy().astype("<i8").tobytes()).hexdigest()

    def queries(self, n: int, seed: int) -> Queries:
        """Up to `n` sums that were trained on and `n` that were not."""
        seen = self._order()[: self._cut()]
        seen = seen[stream(self.seed, "queries", seed).random(len(seen)).argsort()[:n]]
        parts = [self._sample(seen), self.heldout(n, seed)]
        tokens = torch.cat([part.tokens for part in parts])
        sizes = [len(part.kind) for part in parts]
        group = np.repeat(["sums seen", "sums held out"], sizes)
        position = torch.full((sum(sizes),), 2)
        chance = np.full(sum(sizes), 1 / self.p)
        return Queries(tokens, position, tokens[:, 3], group, np.repeat([1.0, 0.0], sizes), chance)

    def sums(self) -> Sums:
        """All sums, and which of them were trained on."""
        everything = np.arange(self.p**2)
        trained = np.isin(everything, self._order()[: self._cut()])
        numbers = torch.arange(self.p)
        prompts = self._sample(everything).tokens[:, :3]
        return Sums(prompts, torch.full((self.p**2,), 2), numbers, numbers, trained)

    def _order(self) -> np.ndarray:
        """Numbers a p + b of all pairs, shuffled; the first ones are the training set."""
        return stream(self.seed, "training").random(self.p**2).argsort()

    def _cut(self) -> int:
        return round(self.share * self.p**2)

    def _sample(self, index: np.ndarray) -> Sample:
        a, b = np.divmod(index, self.p)
        tokens = np.stack([a, b, np.full_like(a, self.p), (a + b) % self.p], axis=1)
        law = np.zeros((len(index), 3))
        law[:, 0] = np.log(self.p)
        nothing = np.zeros(len(index), dtype=np.int64)
        return Sample(torch.from_numpy(tokens), np.full(len(index), "addition"), law, law.copy(), nothing)
