"""Which behaviour each token of a sample asks for, under the names that the questions have."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from studies.organisms.mixture.kinds import Chain
from studies.organisms.mixture.queries import groups
from studies.organisms.mixture.records import Records
from studies.organisms.mixture.story import Story

if TYPE_CHECKING:
    from studies.organisms.mixture.corpus import Corpus, Sample

PREFIX = 8  # tokens of a canary that are given before it can be recited
STORY_QUESTION = 5  # tokens from the answer of the first question to that of the second


def parts(corpus: Corpus, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Name of the behaviour that a token asks for ("" for none), and the probability of guessing it.

    Args:
        corpus: The corpus.
        sample: Sequences of it, canaries with their number of copies.

    Returns:
        Both of shape (n, T - 1), about token t + 1 given those up to t. A guess is uniform among the tokens that may
        stand there: values, numbers, letters.
    """
    body = sample.tokens[:, 1:].numpy()
    names, chance = np.full(body.shape, "", dtype=object), np.ones(body.shape)
    for kind, law in corpus.laws.items():
        rows = np.flatnonzero((sample.kind == kind) & (sample.copies == 0))
        if isinstance(law, Records):
            places, said, guess = _answers(corpus, kind, law, body[rows])
        elif isinstance(law, Story):
            places, said, guess = _retrieved(law, body[rows])
        else:
            places, said, guess = _predicted(kind, law, sample.entropy[rows])
        names[np.ix_(rows, places)], chance[np.ix_(rows, places)] = said, guess
    return _recited(corpus, sample, names, chance)


def _answers(corpus: Corpus, kind: str, law: Records, body: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The last token of every complete record, named by its group of questions."""
    label = np.full(len(law.records), "", dtype=object)
    first, guess = 0, 1.0
    for group in groups(corpus):
        if group.kind == kind and first < len(law.records):
            label[first : first + len(group.records)] = group.name
            first, guess = first + len(group.records), group.chance
    return np.arange(law.slots) * law.width + law.width - 1, label[law.indices(body)], guess


def _retrieved(law: Story, body: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    places = law.answer_index + np.array([0, STORY_QUESTION])
    return places, np.full((len(body), 2), "retrieval", dtype=object), 1 / law.values.shape[1]


def _predicted(kind: str, law: object, entropy: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Letters: after the first ones of Markov text, and those that a repeat determines; of noise none."""
    chain = law if isinstance(law, Chain) else None
    asked = entropy == 0 if chain is None else entropy < np.log(len(chain.letters)) - 1e-9
    letters = len(cast(Chain, law).letters)
    name = "induction" if chain is None else kind
    return np.arange(entropy.shape[1]), np.where(asked, name, "").astype(object), 1 / letters


def _recited(corpus: Corpus, sample: Sample, names: np.ndarray, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    planted = np.flatnonzero(sample.copies)
    said = np.array([f"canary x{count}" for count in sample.copies[planted]], dtype=object)
    names[planted, PREFIX - 1 :] = said[:, None]
    chance[planted] = 1 / len(cast(Chain, corpus.laws["noise"]).letters)
    return names, chance
