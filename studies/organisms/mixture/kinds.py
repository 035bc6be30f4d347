"""Letter text whose next-token law is known in closed form: Markov chains of any order, and repeated segments.

Every kind of sequence in the corpus answers three questions, all about its `length` tokens *after* the marker:
`draw` samples sequences, `score` gives the exact entropy and the Bayes surprisal of each token given those before it,
and `mean_entropy` averages the entropy over all sequences without sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Kind(Protocol):
    """A law over token sequences with computable conditionals."""

    @property
    def length(self) -> int:
        """Tokens a sequence, without the marker."""

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Sample `n` sequences of token ids, shape (n, length)."""

    def score(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entropy and surprisal of every token given its prefix, each (n, length), in nats."""

    def mean_entropy(self) -> float:
        """Exact expectation of the entropy averaged over positions, in nats per token."""


def pick(cumulative: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Inverse-CDF sampling along the last axis: the index i with c[i-1] <= u < c[i].

    Args:
        cumulative: Cumulative probabilities, shape (..., m).
        uniform: Numbers in [0, 1), shape (...).

    Returns:
        Indices in 0..m-1, shape (...).
    """
    index = (cumulative <= uniform[..., None]).sum(-1)
    return np.minimum(index, cumulative.shape[-1] - 1)


def row_entropy(table: np.ndarray) -> np.ndarray:
    """H(p) = -sum_i p_i log p_i over the last axis, in nats, with 0 log 0 = 0."""
    logs = np.log(table, out=np.zeros_like(table), where=table > 0)
    return -(table * logs).sum(-1)


@dataclass(frozen=True, eq=False)
class Chain:
    """Markov chain of order k: the first k letters are uniform, then x_t ~ table[x_{t-k}, ..., x_{t-1}].

    Order 0 (a one-dimensional table) is independent letters.

    Attributes:
        letters: Token ids of the m states.
        table: Conditional probabilities, shape (m,) * k + (m,).
        length: Tokens a sequence.
    """

    letters: np.ndarray
    table: np.ndarray
    length: int

    @property
    def order(self) -> int:
        """Number k of earlier letters that the next one depends on."""
        return self.table.ndim - 1

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Sample `n` sequences of token ids, shape (n, length)."""
        cumulative = self.table.cumsum(-1)
        uniform = rng.random((n, self.length))
        states = np.empty((n, self.length), dtype=np.int64)
        states[:, : self.order] = uniform[:, : self.order] * len(self.letters)
        for t in range(self.order, self.length):
            context = tuple(states[:, t - self.order : t].T)
            rows = cumulative[context] if context else np.broadcast_to(cumulative, (n, len(self.letters)))
            states[:, t] = pick(rows, uniform[:, t])
        return self.letters[states]

    def score(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entropy and surprisal of every token given its prefix, each (n, length), in nats."""
        states = np.searchsorted(self.letters, tokens)
        entropies = row_entropy(self.table)
        entropy = np.full(tokens.shape, np.log(len(self.letters)))
        surprisal = entropy.copy()
        for t in range(self.order, self.length):
            context = tuple(states[:, t - self.order : t].T)
            entropy[:, t] = entropies[context]
            surprisal[:, t] = -np.log(self.table[(*context, states[:, t])])
        return entropy, surprisal

    def mean_entropy(self) -> float:
        """Exact expectation of the entropy averaged over positions, in nats per token."""
        m = len(self.letters)
        law = np.full((m,) * self.order, float(m) ** -self.order)
        total = self.order * np.log(m)
        for _ in range(self.order, self.length):
            total += float((law * row_entropy(self.table)).sum())
            law = (law[..., None] * self.table).sum(0) if self.order else law
        return float(total) / self.length


@dataclass(frozen=True, eq=False)
class Repeat:
    """A segment of L distinct letters, repeated to the end; L is uniform on shortest..longest and not announced.

    After t letters without a repeat the segment ends with hazard h_t = 1 / (longest + 1 - t) for t >= shortest, else 0.
    If it ends the first letter comes again, otherwise one of the m - t unused letters, each with probability
    (1 - h_t) / (m - t). After the first repeat nothing is uncertain.

    Attributes:
        letters: Token ids of the m letters.
        shortest: Shortest segment.
        longest: Longest segment, below `length` and at most m.
        length: Tokens a sequence.
    """

    letters: np.ndarray
    shortest: int
    longest: int
    length: int

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Sample `n` sequences of token ids, shape (n, length)."""
        period = self.shortest + (rng.random((n, 1)) * (self.longest - self.shortest + 1)).astype(np.int64)
        segment = rng.random((n, len(self.letters))).argsort(1)
        return self.letters[np.take_along_axis(segment, np.arange(self.length) % period, axis=1)]

    def hazard(self) -> np.ndarray:
        """P(segment ends after t letters | it has not ended before), t = 0..longest."""
        t = np.arange(self.longest + 1)
        return np.where(t >= self.shortest, 1.0 / (self.longest + 1 - t), 0.0)

    def _profile(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """By t = 0..longest, while the segment lasts: entropy, surprisal of a new letter, surprisal of the end."""
        hazard = self.hazard()
        unused = np.log(np.maximum(len(self.letters) - np.arange(self.longest + 1), 1))
        with np.errstate(divide="ignore"):
            new, end = unused - np.log1p(-hazard), -np.log(hazard)
        coin = row_entropy(np.stack([hazard, 1 - hazard], axis=-1))
        return coin + (1 - hazard) * unused, new, end

    def score(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entropy and surprisal of every token given its prefix, each (n, length), in nats."""
        period = 1 + (tokens[:, 1:] == tokens[:, :1]).argmax(1)[:, None]
        t = np.arange(self.length)[None, :]
        inside = np.minimum(t, self.longest)
        by_t, new, end = self._profile()
        entropy = np.where(t <= period, by_t[inside], 0.0)
        surprisal = np.where(t < period, new[inside], np.where(t == period, end[inside], 0.0))
        return entropy, surprisal

    def mean_entropy(self) -> float:
        """Exact expectation of the entropy averaged over positions, in nats per token."""
        survival = np.cumprod(np.concatenate([[1.0], 1 - self.hazard()[:-1]]))
        return float((survival * self._profile()[0]).sum()) / self.length
