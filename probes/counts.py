"""n-gram counts of a training set, and the back-off law they define."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

LIMIT = 2**62  # codes of n-grams must fit an int64


@dataclass(frozen=True, eq=False)
class Counts:
    """How often each n-gram of orders 1..N occurs, its last token a predicted one (any but the first of a sequence).

    With c the n - 1 tokens before x, c' the same without the oldest, and p_0 uniform on V tokens,

        p_n(x | c) = (count(c x) + alpha p_{n-1}(x | c')) / (count(c) + alpha),

    the predictive law of a hierarchical Dirichlet prior (MacKay & Peto 1995). Where fewer than n - 1 tokens stand
    before x, the longest context there is serves.

    Attributes:
        words: Token ids that occur, sorted; n-grams are coded by their places in this list, shape (w,).
        codes: By order, the sorted codes of its n-grams.
        counts: By order, how often each occurs.
        alpha: Weight of the shorter context, in counts.
    """

    words: np.ndarray
    codes: tuple[np.ndarray, ...]
    counts: tuple[np.ndarray, ...]
    alpha: float = 1.0

    @classmethod
    def of(cls, training: np.ndarray, order: int, alpha: float = 1.0) -> Self:
        """Count a training set, shape (rows, T), up to an order.

        Raises:
            ValueError: If the order is below 1 or too high for that many words, or alpha is not above 0.
        """
        words = np.unique(training)
        if order < 1 or (len(words) + 1) ** order > LIMIT:
            most = int(np.log(LIMIT) / np.log(len(words) + 1))
            raise ValueError(f"order must lie in 1..{most} for {len(words)} different tokens, got {order}")
        if not alpha > 0:
            raise ValueError(f"alpha must be above 0, or an unseen token has an infinite loss; got {alpha}")
        places = np.searchsorted(words, training)
        found = [np.unique(_coded(places, n, len(words) + 1), return_counts=True) for n in range(1, order + 1)]
        return cls(words, tuple(codes for codes, _ in found), tuple(counts for _, counts in found), alpha)

    @property
    def order(self) -> int:
        """The highest order N."""
        return len(self.codes)

    def law(self, contexts: np.ndarray, vocabulary: int) -> np.ndarray:
        """p_n(. | context) of n = 1..N for each of k contexts of N - 1 tokens.

        Args:
            contexts: Token ids, oldest first, shape (k, N - 1); -1 where the text had not begun.
            vocabulary: V, above the largest token id.

        Returns:
            Shape (N, k, V), float64.

        Raises:
            ValueError: If the vocabulary is smaller than the token ids that were counted.
        """
        if vocabulary <= self.words[-1]:
            raise ValueError(f"the counts hold token id {self.words[-1]}, and the model has {vocabulary} tokens only")
        uniform = np.full((len(contexts), vocabulary), 1 / vocabulary)
        laws = [self._predicted(1, np.zeros(len(contexts), dtype=np.int64), uniform)]
        place = self._places(contexts)
        for n in range(2, self.order + 1):
            code = self._code(place[:, self.order - n :])
            known = np.all(contexts[:, self.order - n :] >= 0, axis=1, keepdims=True)
            laws.append(np.where(known, self._predicted(n, code, laws[-1]), laws[-1]))
        return np.stack(laws)

    def _places(self, tokens: np.ndarray) -> np.ndarray:
        """Place of each token among the words; w for one that never occurred."""
        place = np.searchsorted(self.words, tokens).clip(max=len(self.words) - 1)
        return np.where(self.words[place] == tokens, place, len(self.words))

    def _code(self, places: np.ndarray) -> np.ndarray:
        code = np.zeros(len(places), dtype=np.int64)
        for column in places.T:
            code = code * (len(self.words) + 1) + column
        return code

    def _predicted(self, n: int, context: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """(count(c .) + alpha p_{n-1}) / (count(c) + alpha) for each coded context, shape (k, V)."""
        codes, counts, base = self.codes[n - 1], self.counts[n - 1], len(self.words) + 1
        low, high = np.searchsorted(codes, context * base), np.searchsorted(codes, (context + 1) * base)
        found = high - low
        row = np.repeat(np.arange(len(context)), found)
        entry = np.arange(len(row)) + np.repeat(low - found.cumsum() + found, found)
        seen = np.zeros_like(shorter)
        seen[row, self.words[codes[entry] % base]] = counts[entry]
        return (seen + self.alpha * shorter) / (seen.sum(1, keepdims=True) + self.alpha)


def _coded(places: np.ndarray, n: int, base: int) -> np.ndarray:
    """Codes of all n-grams that end in a predicted token."""
    first = places[:, 1:] if n == 1 else places
    width = max(first.shape[1] - n + 1, 0)
    code = np.zeros((len(first), width), dtype=np.int64)
    for i in range(n):
        code = code * base + first[:, i : i + width]
    return code.ravel()
