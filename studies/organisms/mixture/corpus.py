"""The mixture corpus: eight kinds of sequence in one language, with the Bayes-optimal loss of every token.

A sequence is a marker that announces its kind and 31 tokens, T = 32 without padding. The generator's conditional
entropy H_t = H(x_t | x_<t) is exact, and so is the surprisal -log p(x_t | x_<t) of its Bayes predictor. Canaries are
noise sequences planted in the training set alone, at 1, 2, 4, ... 64 copies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from studies.organisms.mixture.kinds import Kind
from studies.organisms.mixture.language import Design, kinds, stream
from studies.organisms.mixture.queries import Pairs, Queries, make_pairs, make_queries
from studies.organisms.mixture.records import Records
from studies.organisms.mixture.vocabulary import KINDS, VOCABULARY, ids


class Sample(NamedTuple):
    """Sequences with what is exactly known about them.

    Attributes:
        tokens: (n, 32) int64, marker first.
        kind: (n,) str, one of `KINDS`.
        entropy: (n, 31) float64, nats: entropy of token t + 1 given tokens <= t under the generator.
        surprisal: (n, 31) float64, nats: -log p of the Bayes predictor at the token that came.
        copies: (n,) int: 0, or in how many copies this canary is planted.
    """

    tokens: Tensor
    kind: np.ndarray
    entropy: np.ndarray
    surprisal: np.ndarray
    copies: np.ndarray

    def take(self, rows: np.ndarray) -> Sample:
        """The given rows, in the given order."""
        return Sample(self.tokens[torch.from_numpy(rows)], *(column[rows] for column in self[1:]))


def concatenate(samples: list[Sample]) -> Sample:
    """One sample after another."""
    columns = [np.concatenate(column) for column in zip(*(sample[1:] for sample in samples), strict=True)]
    return Sample(torch.cat([sample.tokens for sample in samples]), *columns)


def apportion(shares: dict[str, float], n: int) -> dict[str, int]:
    """Whole numbers proportional to shares that sum to n (largest remainders).

    >>> apportion({"a": 0.5, "b": 0.25, "c": 0.25}, 5)
    {'a': 3, 'b': 1, 'c': 1}
    """
    exact = {name: share * n for name, share in shares.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: n - sum(counts.values())]:
        counts[name] += 1
    return counts


@dataclass(frozen=True)
class Corpus:
    """Everything is a pure function of `design` and `seed`; samples take a further seed of their own.

    Attributes:
        seed: Seed of the language and of the training set.
        design: Shares and sizes.

    >>> corpus = Corpus(seed=0)
    >>> corpus.heldout(100, seed=1).tokens.shape
    torch.Size([100, 32])
    """

    seed: int = 0
    design: Design = field(default_factory=Design)
    vocabulary: tuple[str, ...] = VOCABULARY

    @cached_property
    def laws(self) -> dict[str, Kind]:
        """The law of each kind over the 31 tokens after the marker."""
        return kinds(self.design, self.seed)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each kind in training and held-out data; canaries count as noise."""
        return dict(self.design.shares)

    def mean_entropy(self, kind: str | None = None) -> float:
        """Exact mean entropy of one kind, or of the held-out mixture, in nats per token."""
        if kind is not None:
            return self._law(kind).mean_entropy()
        return sum(share * self.laws[name].mean_entropy() for name, share in self.shares.items())

    def of_kind(self, kind: str, n: int, seed: int) -> Sample:
        """`n` fresh sequences of one kind.

        Args:
            kind: One of `KINDS`.
            n: Number of sequences.
            seed: Seed of the sample.

        Returns:
            The sample, without canaries.

        Raises:
            ValueError: If there is no such kind; the message lists the kinds.
        """
        return self._draw(kind, n, stream(self.seed, "draw", seed, KINDS.index(self._known(kind))))

    def heldout(self, n: int, seed: int) -> Sample:
        """`n` fresh sequences at the natural shares (rounded to whole sequences), shuffled, without canaries.

        Args:
            n: Number of sequences.
            seed: Seed of the sample; the training set is independent of every one.

        Returns:
            The sample.
        """
        return self._mixture(apportion(self.shares, n), "heldout", seed)

    @cached_property
    def _training(self) -> Sample:
        planted = self.canaries()
        planted = planted.take(np.repeat(np.arange(len(planted.copies)), planted.copies))
        counts = apportion(self.shares, self.design.rows)
        counts["noise"] -= len(planted.copies)
        if counts["noise"] < 0:
            raise ValueError(f"{len(planted.copies)} canary rows exceed the share of noise; raise `rows` or that share")
        rows = concatenate([self._mixture(counts, "training", 0), planted])
        return rows.take(stream(self.seed, "training", 1).random(len(rows.kind)).argsort())

    def training(self) -> Sample:
        """The training set, canaries included, in its fixed order."""
        return self._training

    def fingerprint(self) -> str:
        """SHA-256 of the training tokens: says whether a model was trained on these very sequences."""
        return hashlib.sha256(self.training().tokens.numpy().astype("<i8").tobytes()).hexdigest()

    def canaries(self) -> Sample:
        """One row for each distinct canary, `copies` its level."""
        levels = np.repeat(self.design.copies, self.design.canaries)
        return self._draw("noise", len(levels), stream(self.seed, "canaries"))._replace(copies=levels)

    @cached_property
    def occurrences(self) -> dict[str, np.ndarray]:
        """How often each record of `facts`, `tail` and `addition` occurs complete in the training set."""
        training = self.training()
        tokens = training.tokens.numpy()[:, 1:]
        return {
            name: np.bincount(law.indices(tokens[training.kind == name]).ravel(), minlength=len(law.records))
            for name, law in self.laws.items()
            if isinstance(law, Records)
        }

    def queries(self, n: int, seed: int) -> Queries:
        """Questions with one right next token, `n` in each group.

        Args:
            n: Questions a group.
            seed: Seed of the questions and of the text around them.

        Returns:
            All groups: facts (frequent, middle, rare), tail (frequent, middle, rare), retrieval, addition (seen,
            held out).
        """
        return make_queries(self, n, seed)

    def pairs(self, n: int, seed: int) -> Pairs:
        """Stories that differ in the value of one attribute, the one that the first question asks for.

        Args:
            n: Number of pairs.
            seed: Seed of the stories.

        Returns:
            Clean and corrupted prompts of equal length.
        """
        return make_pairs(self, n, seed)

    def parts(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Which behaviour each token asks for, and the probability of guessing it; see `mixture.parts`."""
        from studies.organisms.mixture.parts import parts

        return parts(self, sample)

    def _known(self, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}; expected one of {', '.join(KINDS)}")
        return kind

    def _law(self, kind: str) -> Kind:
        return self.laws[self._known(kind)]

    def _draw(self, kind: str, n: int, rng: np.random.Generator) -> Sample:
        body = self._law(kind).draw(n, rng)
        entropy, surprisal = self._law(kind).score(body)
        copies = np.zeros(n, dtype=np.int64)
        return Sample(with_marker(kind, body), np.full(n, kind), entropy, surprisal, copies)

    def _mixture(self, counts: dict[str, int], purpose: str, seed: int) -> Sample:
        streams = [stream(self.seed, purpose, seed, 1 + i) for i in range(len(counts))]
        rows = concatenate([self._draw(*count, rng) for count, rng in zip(counts.items(), streams, strict=True)])
        return rows.take(stream(self.seed, purpose, seed, 0).random(len(rows.kind)).argsort())


def with_marker(kind: str, body: np.ndarray) -> Tensor:
    """Put the marker of a kind before 31 tokens: (n, 31) array to (n, 32) tensor."""
    marker = np.full((len(body), 1), ids("marker")[KINDS.index(kind)])
    return torch.from_numpy(np.concatenate([marker, body], axis=1))
