"""The laws of the eight kinds of sequence, all a pure function of one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from studies.organisms.mixture.kinds import Chain, Kind, Repeat
from studies.organisms.mixture.records import Records
from studies.organisms.mixture.story import Story
from studies.organisms.mixture.vocabulary import MODULUS, STORY_VALUES, ids

LENGTH = 31
TABLES = ("markov", "markov2", "facts", "tail", "addition")
PURPOSES = (*TABLES, "draw", "training", "canaries", "heldout", "queries", "pairs", "requests")


def stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """An independent random stream for each (seed, purpose, keys); only `.random()` is drawn from it, for stability.

    Args:
        seed: Seed of the corpus or of a sample.
        purpose: One of `PURPOSES`.
        *keys: Further non-negative integers that tell streams apart.

    Returns:
        A numpy generator.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose), *keys))
    return np.random.Generator(np.random.PCG64(sequence))


def zipf(count: int, exponent: float) -> np.ndarray:
    """p_r proportional to r^(-exponent) for ranks r = 1..count."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def softmax_table(shape: tuple[int, ...], sharpness: float, rng: np.random.Generator) -> np.ndarray:
    """Random conditional laws softmax(sharpness * logit(u)) along the last axis, u uniform.

    Args:
        shape: Shape of the table.
        sharpness: 0 makes every row uniform.
        rng: Source of the uniform numbers.

    Returns:
        Probabilities summing to 1 along the last axis.
    """
    uniform = rng.random(shape)
    table = (uniform / (1 - uniform)) ** sharpness
    return table / table.sum(-1, keepdims=True)


@dataclass(frozen=True)
class Design:
    """What the corpus is made of.

    Random text in many contexts makes a loss stiff and so its sampling slow: there is little of it. The tail of facts
    is longer than what a small model learns, which leaves the gap between its loss and the entropy.

    Attributes:
        shares: Share of each kind among the sequences, canaries counted as noise; sums to 1.
        rows: Sequences in the training set.
        sharpness: Of the order-1 transition matrix.
        letters2: Letters of the order-2 text.
        sharpness2: Of its transition table.
        fact_exponent: Zipf exponent of the facts.
        tail_words: Left words, and right words, of the two-token keys; every pair of them is a key.
        tail_exponent: Zipf exponent of the left words and of the right words, which are independent.
        heldout_pairs: Share of the ordered pairs of summands that never occur in training.
        canaries: Distinct canaries at each number of copies.
        copies: Numbers of copies.
    """

    shares: tuple[tuple[str, float], ...] = (
        ("markov", 0.05),
        ("markov2", 0.04),
        ("repeat", 0.17),
        ("facts", 0.14),
        ("tail", 0.20),
        ("story", 0.165),
        ("addition", 0.183),
        ("noise", 0.052),
    )
    rows: int = 50_000
    sharpness: float = 0.9
    letters2: int = 10
    sharpness2: float = 1.5
    fact_exponent: float = 1.5
    tail_words: int = 112
    tail_exponent: float = 0.9
    heldout_pairs: float = 0.3
    canaries: int = 16
    copies: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)


def split_pairs(heldout: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split the ordered pairs of summands; (b, a) may be seen where (a, b) is held out.

    Args:
        heldout: Share of the pairs held out.
        rng: Source of the split.

    Returns:
        Pairs seen in training and pairs held out, each (pairs, 2).
    """
    rank = rng.random((MODULUS, MODULUS))
    cut = np.quantile(rank, heldout)
    return np.argwhere(rank > cut), np.argwhere(rank <= cut)


def equations(pairs: np.ndarray) -> np.ndarray:
    """Token ids of `a b = (a + b mod 31)` for each pair, shape (pairs, 4)."""
    numbers = ids("number")
    a, b = pairs.T
    return np.stack([numbers[a], numbers[b], np.full_like(a, ids("equals")[0]), numbers[(a + b) % MODULUS]], axis=1)


def facts(design: Design, rng: np.random.Generator) -> Records:
    """`key value` records, most frequent key first; every value equally likely for every key."""
    keys, values = ids("key"), ids("value")
    value = values[(rng.random(len(keys)) * len(values)).astype(np.int64)]
    return Records(np.stack([keys, value], axis=1), zipf(len(keys), design.fact_exponent), LENGTH)


def tail(design: Design, rng: np.random.Generator) -> Records:
    """`left right value` records on all pairs of words, p(left i, right j) proportional to (i j)^(-exponent).

    The words of a key are independent, so only the values have to be learned pair by pair. Most frequent first; every
    value equally likely for every key.
    """
    words, values = design.tail_words, ids("value")
    i, j = np.divmod(np.arange(words**2), words)
    order = ((i + 1) * (j + 1)).argsort(kind="stable")
    i, j = i[order], j[order]
    value = values[(rng.random(words**2) * len(values)).astype(np.int64)]
    weights = zipf(words, design.tail_exponent)
    rows = np.stack([ids("left")[i], ids("right")[j], value], axis=1)
    return Records(rows, weights[i] * weights[j], LENGTH)


def story() -> Story:
    """Five attributes of eight values each, eight fillers."""
    values = ids("story value").reshape(len(STORY_VALUES), -1)
    return Story(ids("filler"), ids("attribute"), values, ids("grammar"))


def kinds(design: Design, seed: int) -> dict[str, Kind]:
    """The law of every kind, by name.

    Args:
        design: Sizes and sharpnesses.
        seed: Seed of the tables, the facts and the held-out pairs.

    Returns:
        One `Kind` for each of `KINDS`, each of `LENGTH` tokens after the marker.
    """
    letters = ids("letter")
    letters2 = np.concatenate([letters, ids("capital")])[: design.letters2]
    m, m2 = len(letters), len(letters2)
    seen, _ = split_pairs(design.heldout_pairs, stream(seed, "addition"))
    table = softmax_table((m, m), design.sharpness, stream(seed, "markov"))
    table2 = softmax_table((m2, m2, m2), design.sharpness2, stream(seed, "markov2"))
    return {
        "markov": Chain(letters, table, LENGTH),
        "markov2": Chain(letters2, table2, LENGTH),
        "repeat": Repeat(letters, 5, 10, LENGTH),
        "facts": facts(design, stream(seed, "facts")),
        "tail": tail(design, stream(seed, "tail")),
        "story": story(),
        "addition": Records(equations(seen), np.full(len(seen), 1 / len(seen)), LENGTH),
        "noise": Chain(letters, np.full(m, 1 / m), LENGTH),
    }
