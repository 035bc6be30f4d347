"""Pairs of prompts for induction: repeated text in which what decides the next token differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from probes.induction import periods

CHANGES = ("value", "keys", "question")


class RepeatPairs(NamedTuple):
    """Pairs in the sense of `probes.corpus.Pairs`."""

    clean: Tensor
    corrupted: Tensor
    position: Tensor
    answer: Tensor
    wrong: Tensor


def repeat_pairs(tokens: Tensor, start: int = 0, seed: int = 0, changes: Sequence[str] = CHANGES) -> RepeatPairs:
    """One pair per repeated sequence, the clean prompt being the sequence itself.

    Asked is for what follows a token a of the second saying; in the first saying a was followed by x, and another
    token b, which is no neighbour of a, by y. The pairs take the changes in turn, since each shows other paths alone:

    - "value": the first x becomes a token that the sequence does not contain, which is then the answer;
    - "keys": the first a and b change places, so that y is the answer;
    - "question": the last a becomes b, so that y is the answer.

    Args:
        tokens: Sequences that repeat segments of at least 4 different tokens, shape (n, T).
        start: First token of the repetition, e.g. 1 behind a marker.
        seed: Of the places of a and b, and of the tokens put in.
        changes: Any of value, keys, question.

    Raises:
        ValueError: If a sequence does not repeat or its segment is too short, no token is left to put in, or a change
            is unknown.

    >>> sequence = torch.tensor([[1, 2, 3, 4, 1, 2, 3, 4], [5, 6, 7, 8, 5, 6, 7, 8]])
    >>> pairs = repeat_pairs(sequence, changes=["keys"])
    >>> (pairs.clean != pairs.corrupted).sum(1).tolist()
    [2, 2]
    """
    unknown = [change for change in changes if change not in CHANGES]
    if unknown or not changes:
        raise ValueError(f"unknown changes {unknown}; choose from {', '.join(CHANGES)}")
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    text, span = tokens.cpu().numpy(), periods(tokens, start).numpy()
    words = np.unique(text[:, start:])
    rows = [
        _pair(line, start, int(p), changes[i % len(changes)], words, rng)
        for i, (line, p) in enumerate(zip(text, span, strict=True))
    ]
    corrupted, *rest = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
    return RepeatPairs(tokens, corrupted.to(tokens), *rest)


def _pair(
    text: np.ndarray, start: int, period: int, change: str, words: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.int64, np.int64, np.int64]:
    """The corrupted prompt, the position of the question, and the two answers."""
    if len(set(text[start : start + period])) < max(period, 4):
        raise ValueError(f"segments must have at least 4 tokens, all different, got {text[start : start + period]}")
    a = int(rng.integers(min(period - 1, len(text) - start - period - 1)))  # a, x lie in the first saying
    b = (a + int(rng.integers(2, period - 1))) % period
    here = [start + a, start + b]
    question = start + period + a
    new = text.copy()
    wrong = text[start + (b + 1) % period]
    if change == "value":
        new[start + a + 1] = wrong = _other(words, text, rng)
    elif change == "keys":
        new[here] = text[here[::-1]]
    else:
        new[question] = text[here[1]]
    return new, np.int64(question), np.int64(text[here[0] + 1]), np.int64(wrong)


def _other(words: np.ndarray, text: np.ndarray, rng: np.random.Generator) -> np.int64:
    free = np.setdiff1d(words, text)
    if not len(free):
        raise ValueError(
            f"a sequence uses all {len(words)} tokens in use, so none is left for its corrupted twin: use more tokens, "
            "shorter segments or other changes"
        )
    return np.int64(rng.choice(free))
