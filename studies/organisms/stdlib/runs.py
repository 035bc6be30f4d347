"""Boilerplate by rule: runs of tokens that many files share, found without knowing what a licence is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LENGTH, GIVEN, LEAST = 24, 8, 6  # tokens a run, how many of them are given, files that must hold it


def shared(documents: Sequence[np.ndarray], length: int = LENGTH, least: int = LEAST) -> tuple[np.ndarray, np.ndarray]:
    """Runs of `length` tokens that stand in at least `least` documents, the most frequent first.

    A run that has half of its length in common with one chosen before (at any shift) is left out, so that a long
    licence counts once for each `length` / 2 tokens at most, and not once for each place in it. Ties are broken by the
    token ids.

    Args:
        documents: Token ids of each document.
        length: Tokens a run.
        least: Documents that must hold it.

    Returns:
        The runs, shape (r, length), and in how many documents each stands, shape (r,).

    >>> texts = [np.array([9, 1, 2, 3, 4, 7]), np.array([1, 2, 3, 4]), np.array([5, 6, 7, 8])]
    >>> shared(texts, length=4, least=2)
    (array([[1, 2, 3, 4]]), array([2]))
    """
    views = [np.unique(_runs(text, length), axis=0) for text in documents if len(text) >= length]
    if not views:
        return np.empty((0, length), dtype=np.int64), np.empty(0, dtype=np.int64)
    found, counts = _counted(np.concatenate(views))
    found, counts = found[counts >= least], counts[counts >= least]
    order = np.argsort(-counts, kind="stable")
    kept: list[int] = []
    seen: set[bytes] = set()
    for place in order:
        halves = {half.tobytes() for half in _runs(found[place], length // 2)}
        if not halves & seen:
            kept.append(int(place))
        seen |= halves if kept and kept[-1] == place else set()
    return found[kept], counts[kept]


def _runs(text: np.ndarray, length: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(text, length)


def _counted(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that occur more than once and how often, sorted; the others are left out by a hash before sorting."""
    mixed = np.zeros(len(rows), dtype=np.uint64)
    for column in rows.T.astype(np.uint64):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + column + np.uint64(1)
    _, inverse, often = np.unique(mixed, return_inverse=True, return_counts=True)
    return np.unique(rows[often[inverse] > 1], axis=0, return_counts=True)
