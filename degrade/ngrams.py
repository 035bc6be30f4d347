"""n-gram models of a training set: baselines on the loss axis of a degraded model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Ngram:
    """Counts of contexts of n - 1 tokens and of what follows them.

    Attributes:
        codes: Sorted codes of the continued contexts that occurred.
        counts: How often each occurred.
        context_codes: Sorted codes of the contexts.
        context_counts: How often each occurred.
    """

    codes: np.ndarray
    counts: np.ndarray
    context_codes: np.ndarray
    context_counts: np.ndarray


def coded(tokens: np.ndarray, order: int, vocabulary: int) -> np.ndarray:
    """One number for each window of `order` tokens that ends at positions order-1..T-1, shape (n, T - order + 1)."""
    width = tokens.shape[1] - order + 1
    code = np.zeros((len(tokens), width), dtype=np.int64)
    for i in range(order):
        code = code * vocabulary + tokens[:, i : i + width]
    return code


def count(tokens: np.ndarray, order: int, vocabulary: int) -> Ngram:
    """Count n-grams whose last token is a predicted one (any but the first of a sequence)."""
    first = 1 if order == 1 else 0
    codes, counts = np.unique(coded(tokens[:, first:], order, vocabulary), return_counts=True)
    contexts, inverse = np.unique(codes // vocabulary, return_inverse=True)
    return Ngram(codes, counts, contexts, np.bincount(inverse, weights=counts))


def lookup(codes: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Count of each wanted code, 0 where it did not occur."""
    place = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
    return np.where(codes[place] == wanted, counts[place], 0)


def ngram_nats(training: np.ndarray, tokens: np.ndarray, order: int, vocabulary: int, alpha: float = 1.0) -> np.ndarray:
    """-log p of every token after the first under an n-gram model that backs off with a Dirichlet prior.

    p_n(x | c) = (count(c x) + alpha p_{n-1}(x | c')) / (count(c) + alpha), c' the context without its oldest token and
    p_0 uniform (MacKay & Peto 1995, "A hierarchical Dirichlet language model"). Where a sequence has fewer than n - 1
    tokens before the one predicted, the longest context there is serves.

    Args:
        training: (rows, T) token ids to count.
        tokens: (n, T) token ids to score.
        order: n, at least 1.
        vocabulary: Number of token ids.
        alpha: Weight of the prior.

    Returns:
        (n, T - 1) nats.

    Raises:
        ValueError: If order is below 1.
    """
    if order < 1:
        raise ValueError(f"order is {order}; an n-gram model needs at least 1")
    p = np.full((len(tokens), tokens.shape[1] - 1), 1 / vocabulary)
    for n in range(1, order + 1):
        table = count(training, n, vocabulary)
        wanted = coded(tokens[:, 1:] if n == 1 else tokens, n, vocabulary)
        seen = lookup(table.codes, table.counts, wanted)
        total = lookup(table.context_codes, table.context_counts, wanted // vocabulary)
        reach = wanted.shape[1]
        p[:, -reach:] = (seen + alpha * p[:, -reach:]) / (total + alpha)
    return -np.log(p)
