"""Repeated segments of unannounced length, the text on which induction heads form (Olsson et al. 2022)."""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np

from studies.organisms.language import SPECIAL, Language
from studies.organisms.mixture.corpus import Sample
from studies.organisms.mixture.kinds import Repeat
from studies.organisms.mixture.language import stream

LETTERS = (*string.ascii_lowercase, *string.ascii_uppercase, *string.digits)
SHORTEST, LONGEST, LENGTH = 8, 20, 47


@dataclass(frozen=True, eq=False)
class Segments(Language):
    """Repeated segments."""

    def of_kind(self, kind: str, n: int, seed: int) -> Sample:
        """`n` fresh sequences of one kind.

        Raises:
            ValueError: If there is no such kind; the message names the one there is.
        """
        if kind != self.kind:
            raise ValueError(f"unknown kind {kind!r}; the induction corpus has one kind, {self.kind!r}")
        return self.sample(n, stream(self.seed, "draw", seed))


def corpus(seed: int = 0) -> Segments:
    """47 letters after the opening token: 8 to 20 different letters of 62, repeated to the end."""
    letters = np.arange(len(SPECIAL), len(SPECIAL) + len(LETTERS))
    return Segments("repeat", (*SPECIAL, *LETTERS), Repeat(letters, SHORTEST, LONGEST, LENGTH), rows=20_000, seed=seed)
