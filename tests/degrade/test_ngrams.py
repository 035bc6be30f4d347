"""n-gram marks against a plain dictionary implementation, and their laws."""

from collections import Counter

import numpy as np
import pytest

from degrade.ngrams import ngram_nats

VOCABULARY = 5


def text(n, purpose):
    rng = np.random.default_rng([3, len(purpose)])
    return (rng.random((n, 7)) ** 2 * VOCABULARY).astype(np.int64)


def naive(training, row, t, order, alpha):
    """The recursion of the docstring, one token at a time."""
    p = 1 / VOCABULARY
    for n in range(1, min(order, t + 1) + 1):
        grams = Counter(tuple(r[i - n + 1 : i + 1]) for r in training for i in range(max(n - 1, 1), len(r)))
        gram = tuple(row[t - n + 1 : t + 1])
        context = sum(count for other, count in grams.items() if other[:-1] == gram[:-1])
        p = (grams[gram] + alpha * p) / (context + alpha)
    return -np.log(p)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_equals_the_naive_recursion(order):
    training, tokens = text(30, "draw"), text(5, "heldout")
    fast = ngram_nats(training, tokens, order, VOCABULARY, alpha=0.7)
    slow = [[naive(training.tolist(), row, t, order, 0.7) for t in range(1, 7)] for row in tokens.tolist()]
    np.testing.assert_allclose(fast, slow, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_sum_to_one(order):
    training, start = text(30, "draw"), text(1, "heldout")
    rows = np.repeat(start, VOCABULARY, axis=0)
    rows[:, -1] = np.arange(VOCABULARY)
    p = np.exp(-ngram_nats(training, rows, order, VOCABULARY)[:, -1])
    assert p.sum() == pytest.approx(1, abs=1e-12)


def test_order_zero_is_refused():
    with pytest.raises(ValueError, match="order is 0"):
        ngram_nats(text(2, "draw"), text(2, "draw"), 0, VOCABULARY)
