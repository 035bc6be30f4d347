"""Sequences of independent records: key -> value facts, two-token keys, and equations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from studies.organisms.mixture.kinds import pick, row_entropy


@dataclass(frozen=True, eq=False)
class Level:
    """Step d of the prefix tree of the records: from a prefix of d tokens to one of d + 1.

    Attributes:
        child: Prefix reached by a token, shape (prefixes, largest token + 1); -1 where no record continues so.
        entropy: Entropy of the token that comes, by prefix, in nats.
        surprisal: -log p(last token | prefix before it), by prefix reached, in nats.
        weight: Probability of each prefix reached.
    """

    child: np.ndarray
    entropy: np.ndarray
    surprisal: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Records:
    """Records drawn independently with given weights and written one after another, cut at `length`.

    A record is a row of r tokens, say (key, value) or (a, b, =, c). Its token d has the conditional law
    p(x_d | x_<d) = W(x_<=d) / W(x_<d), W(prefix) the total weight of the records that begin so; what a key determines
    thus has probability 1 and entropy 0.

    Attributes:
        records: Token ids, shape (records, r), all rows different.
        weights: Probabilities, shape (records,), summing to 1.
        length: Tokens a sequence; the last record may be incomplete.
    """

    records: np.ndarray
    weights: np.ndarray
    length: int

    @property
    def width(self) -> int:
        """Tokens a record, r."""
        return self.records.shape[1]

    @property
    def slots(self) -> int:
        """Complete records a sequence."""
        return self.length // self.width

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The prefix tree, one `Level` a token of the record."""
        parent = np.zeros(len(self.records), dtype=np.int64)
        before: np.ndarray = np.ones(1)
        levels = []
        for column in self.records.T:
            pairs, reached = np.unique(np.stack([parent, column], axis=1), axis=0, return_inverse=True)
            after = np.bincount(reached, weights=self.weights)
            conditional = np.zeros((len(before), int(self.records.max()) + 1))
            conditional[pairs[:, 0], pairs[:, 1]] = after / before[pairs[:, 0]]
            child = np.full(conditional.shape, -1)
            child[pairs[:, 0], pairs[:, 1]] = np.arange(len(pairs))
            levels.append(Level(child, row_entropy(conditional), -np.log(after / before[pairs[:, 0]]), after))
            parent, before = reached, after
        return tuple(levels)

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Sample `n` sequences of token ids, shape (n, length)."""
        count = -(-self.length // self.width)
        uniform = rng.random((n, count))
        chosen = np.searchsorted(self.weights.cumsum(), uniform, side="right").clip(max=len(self.weights) - 1)
        return self.records[chosen].reshape(n, count * self.width)[:, : self.length]

    def score(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entropy and surprisal of every token given its prefix, each (n, length), in nats."""
        entropy, surprisal = np.zeros(tokens.shape), np.zeros(tokens.shape)
        prefix = np.zeros(len(tokens), dtype=np.int64)
        for t in range(self.length):
            depth = t % self.width
            prefix = prefix if depth else np.zeros_like(prefix)
            level = self.levels[depth]
            entropy[:, t] = level.entropy[prefix]
            prefix = level.child[prefix, tokens[:, t]]
            surprisal[:, t] = level.surprisal[prefix]
        return entropy, surprisal

    def mean_entropy(self) -> float:
        """Exact expectation of the entropy averaged over positions, in nats per token."""
        before = [np.ones(1)] + [level.weight for level in self.levels[:-1]]
        steps = [float(weight @ level.entropy) for weight, level in zip(before, self.levels, strict=True)]
        return sum(steps[t % self.width] for t in range(self.length)) / self.length

    def indices(self, tokens: np.ndarray) -> np.ndarray:
        """Which record stands in each complete slot, shape (n, slots): an index into `records`."""
        rows = tokens[:, : self.slots * self.width].reshape(-1, self.width)
        prefix = np.zeros(len(rows), dtype=np.int64)
        mine = np.zeros(len(self.records), dtype=np.int64)
        for level, column, own in zip(self.levels, rows.T, self.records.T, strict=True):
            prefix, mine = level.child[prefix, column], level.child[mine, own]
        return mine.argsort()[prefix].reshape(len(tokens), self.slots)

    def surround(self, questions: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Write each question into a random complete slot of a fresh sequence that does not mention its key.

        The key is the record without what it determines last; two keys are the same if they hold the same tokens in
        any order, so that the sum b + a does not stand beside the question a + b.

        Args:
            questions: Records to ask for, shape (n, r); they need not be among `records`.
            rng: Source of the slots and of the other records.

        Returns:
            The sequences, shape (n, length), and the index of each question's answer in them, shape (n,).
        """
        key = np.sort(questions[:, None, :-1], axis=-1)
        allowed = self.weights * (key != np.sort(self.records[None, :, :-1], axis=-1)).any(-1)
        cumulative = (allowed / allowed.sum(1, keepdims=True)).cumsum(1)
        count = -(-self.length // self.width)
        chosen = np.stack([pick(cumulative, rng.random(len(questions))) for _ in range(count)], axis=1)
        slot = (rng.random(len(questions)) * self.slots).astype(np.int64)
        filled = self.records[chosen]
        filled[np.arange(len(questions)), slot] = questions
        return filled.reshape(len(questions), -1)[:, : self.length], slot * self.width + self.width - 1
