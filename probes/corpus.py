"""What the package's probes read of a corpus, as protocols: any objects with these fields will do."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
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


class Requests(Protocol):
    """n pairs of a source (C1, R1) and a target (C2, R2): contexts C and requests R with answers R(C)."""

    @property
    def source(self) -> Tensor:
        """Token ids, shape (n, T)."""

    @property
    def source_position(self) -> Tensor:
        """Last token of the source's request, where its answer is predicted, shape (n,)."""

    @property
    def target(self) -> Tensor:
        """Token ids, shape (n, T')."""

    @property
    def target_position(self) -> Tensor:
        """The same of the target, shape (n,)."""

    @property
    def target_answer(self) -> Tensor:
        """R2(C2), shape (n,)."""

    @property
    def moved(self) -> Tensor:
        """R1(C2), shape (n,)."""

    @property
    def source_answer(self) -> Tensor:
        """R1(C1), shape (n,)."""

    @property
    def chance(self) -> np.ndarray:
        """Probability of a uniform guess among the possible answers, shape (n,)."""


class Sums(Protocol):
    """All p² sums modulo p, ordered by a and then by b."""

    @property
    def tokens(self) -> Tensor:
        """Prompts, shape (p², T)."""

    @property
    def position(self) -> Tensor:
        """Where the sum is predicted, shape (p²,)."""

    @property
    def summands(self) -> Tensor:
        """Token id of each number, shape (p,)."""

    @property
    def answers(self) -> Tensor:
        """Token id of each possible sum, shape (p,)."""

    @property
    def trained(self) -> np.ndarray:
        """Which pairs are in the training set, shape (p²,), bool."""


class Corpus(Protocol):
    """A generated corpus; each answer is a pure function of its arguments."""

    def training(self) -> Sample:
        """The training set, planted sequences included."""

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

    def requests(self, n: int, seed: int) -> Requests:
        """Pairs of contexts and requests, R1 and R2 different, R1(C1), R1(C2) and R2(C2) too."""

    def sums(self) -> Sums:
        """All sums of a modular addition."""


def check_tokens(name: str, tokens: Tensor, least: int = 2) -> None:
    """Refuse what is no batch of token ids.

    Args:
        name: What to call it.
        tokens: Token ids, shape (n, T), int64.
        least: Smallest T; one less is what can be predicted.

    Raises:
        ValueError: Naming the shape or dtype that was given, and what is expected.

    >>> check_tokens("tokens", torch.zeros(3, 1, dtype=torch.int64))
    Traceback (most recent call last):
    ValueError: tokens must have shape (n, T), n at least 1 and T at least 2; got (3, 1)
    """
    if tokens.ndim != 2 or not len(tokens) or tokens.shape[1] < least:
        expected = f"{name} must have shape (n, T), n at least 1 and T at least {least}"
        raise ValueError(f"{expected}; got {tuple(tokens.shape)}")
    if tokens.dtype != torch.int64:
        raise ValueError(f"{name} must be token ids of dtype torch.int64, got {tokens.dtype}: convert them by .long()")


def check_entries(count: int, of: str, **entries: Any) -> None:
    """Refuse entries that are not one for each of `count` things.

    Raises:
        ValueError: Naming the first that does not fit, and its shape.

    >>> check_entries(3, "question", answer=torch.tensor([1]))
    Traceback (most recent call last):
    ValueError: answer must have shape (3,), one entry for each question; got (1,)
    """
    for name, value in entries.items():
        if np.shape(value) != (count,):
            found = tuple(np.shape(value))
            raise ValueError(f"{name} must have shape ({count},), one entry for each {of}; got {found}")


def check_places(name: str, places: Tensor, tokens: Tensor) -> None:
    """Refuse positions that are not one for each sequence, or that lie outside of it.

    Raises:
        ValueError: Naming them and the range.
    """
    check_entries(len(tokens), "sequence", **{name: places})
    if places.min() < 0 or places.max() >= tokens.shape[1]:
        raise ValueError(f"{name} must lie in 0..{tokens.shape[1] - 1}, got {places.tolist()}")


def check_pairs(clean: Tensor, corrupted: Tensor, position: Tensor, answer: Tensor, wrong: Tensor) -> None:
    """Refuse pairs that cannot be patched into each other.

    Raises:
        ValueError: If lengths differ, positions lie outside, or a pair has one prompt or one answer only.
    """
    if clean.ndim != 2 or clean.shape != corrupted.shape:
        raise ValueError(
            f"clean and corrupted prompts must have equal shapes (pairs, tokens), got {tuple(clean.shape)} and "
            f"{tuple(corrupted.shape)}: a patch needs matching positions, so make each pair equally long, e.g. by "
            "swapping words for words with as many tokens"
        )
    for name, tokens in (("clean", clean), ("corrupted", corrupted)):
        check_tokens(name, tokens, least=1)
    check_entries(len(clean), "pair", answer=answer, wrong=wrong)
    check_places("position", position, clean)
    same = torch.nonzero((clean == corrupted).all(1) | (answer == wrong)).flatten().tolist()
    if same:
        raise ValueError(f"pairs {same} have identical prompts or identical answers, so no patch can tell: drop them")
