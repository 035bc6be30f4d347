"""Pairs of prompts for induction: repeated text in which the token to be copied differs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from probes.induction import periods


class RepeatPairs(NamedTuple):
    """Pairs in the sense of `probes.corpus.Pairs`."""

    clean: Tensor
    corrupted: Tensor
    position: Tensor
    answer: Tensor
    wrong: Tensor


def repeat_pairs(tokens: Tensor, start: int = 0, seed: int = 0) -> RepeatPairs:
    """One pair per repeated sequence: the corrupted prompt has another token where the answer was first said.

    With period P, the answer is predicted at a position p of the second saying, and was said once before, at
    p - P + 1. The token put there instead is one that the sequence does not contain, and is the corrupted answer.

    Args:
        tokens: Repeated sequences, shape (n, T), each with a period of at least 2 that leaves a whole second saying or
            part of it.
        start: First token of the repetition, e.g. 1 behind a marker.
        seed: Of the positions and the tokens put in.

    Raises:
        ValueError: If a sequence does not repeat, or no token is left to put in.

    >>> pairs = repeat_pairs(torch.tensor([[1, 2, 3, 1, 2, 3], [4, 5, 6, 4, 5, 6]]))
    >>> (pairs.clean != pairs.corrupted).sum(1).tolist(), pairs.clean[0, pairs.position[0] - 2] == pairs.answer[0]
    ([1, 1], tensor(True))
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    period = periods(tokens, start).numpy()
    words = np.unique(tokens[:, start:].cpu().numpy())
    last = np.minimum(start + 2 * period - 2, tokens.shape[1] - 2)
    position = rng.integers(start + period, np.maximum(last, start + period) + 1)
    wrong = np.array([_other(words, text, rng) for text in tokens.cpu().numpy()])
    rows, first = torch.arange(len(tokens)), torch.from_numpy(position - period + 1)
    corrupted = tokens.clone()
    corrupted[rows, first] = torch.from_numpy(wrong).to(tokens)
    return RepeatPairs(tokens, corrupted, torch.from_numpy(position), tokens[rows, first], corrupted[rows, first])


def _other(words: np.ndarray, text: np.ndarray, rng: np.random.Generator) -> int:
    free = np.setdiff1d(words, text)
    if not len(free):
        raise ValueError(
            f"a sequence uses all {len(words)} tokens in use, so none is left for its corrupted twin: use more or "
            "shorter segments"
        )
    return int(rng.choice(free))
