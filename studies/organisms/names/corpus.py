"""Sentences with an indirect object, after the IOI task of Wang et al. 2022 (arXiv 2211.00593)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from studies.organisms.language import SPECIAL, Language, opened, places
from studies.organisms.mixture.language import stream
from studies.organisms.mixture.queries import Pairs, Queries

NAMES = (
    *("Mary", "John", "Tom", "James", "Dan", "Martin", "Anna", "Kate"),
    *("Peter", "Paul", "Lisa", "Jack", "Emma", "Laura", "Simon", "Alice"),
)
PLACES = ("store", "park", "office", "school", "garden", "house", "station", "cafe")
OBJECTS = ("drink", "book", "ring", "kiss", "bone", "basketball", "computer", "necklace")
SLOTS = {"A": NAMES, "B": NAMES, "S": NAMES, "X": NAMES, "P": PLACES, "O": OBJECTS}
TEMPLATES = tuple(
    text.split()
    for text in (
        "Then , A and B went to the P . S gave a O to X .",
        "When A and B went to the P , then S gave a O to X .",
        "While A and B were at the P , soon S handed a O to X .",
        "Friends A and B found a O at the P . S gave it to X .",
    )
)
PLAIN = tuple(dict.fromkeys(word for text in TEMPLATES for word in text if word not in SLOTS))
VOCABULARY: tuple[str, ...] = (*SPECIAL, *PLAIN, *NAMES, *PLACES, *OBJECTS)


@dataclass(frozen=True, eq=False)
class Giving:
    """Sentences of one of the templates, each known by its first word, with names, a place and an object.

    A and B are two different names, uniform. The giver S is A or B, equally likely, and then the receiver X is the
    other one; with probability `third` S is instead one of the other names, uniform, and X is A or B, equally likely
    (the ABC prompts of Wang et al., on which nothing tells A from B). Place and object are uniform.

    Attributes:
        third: Probability that somebody else gives.
    """

    third: float

    @property
    def length(self) -> int:
        """Tokens a sentence."""
        return len(TEMPLATES[0])

    def contents(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Template of each of `n` sentences, and the index of what fills each slot, each of shape (n,)."""
        template = (rng.random(n) * len(TEMPLATES)).astype(np.int64)
        people = rng.random((n, len(NAMES))).argsort(1)[:, :3]
        first = (rng.random(n) < 0.5).astype(np.int64)
        other = rng.random(n) < self.third
        rows = np.arange(n)
        slots = {"A": people[:, 0], "B": people[:, 1], "X": people[rows, first]}
        slots["S"] = np.where(other, people[:, 2], people[rows, 1 - first])
        slots |= {slot: (rng.random(n) * len(SLOTS[slot])).astype(np.int64) for slot in ("P", "O")}
        return template, slots

    def write(self, template: np.ndarray, slots: dict[str, np.ndarray]) -> np.ndarray:
        """Token ids of sentences with given contents, shape (n, length)."""
        text = np.empty((len(template), self.length), dtype=np.int64)
        for number, words in enumerate(TEMPLATES):
            mine = template == number
            for t, word in enumerate(words):
                text[mine, t] = _ids(word)[slots[word][mine]] if word in SLOTS else _ids(word)[0]
        return text

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Sample `n` sequences of token ids, shape (n, length)."""
        return self.write(*self.contents(n, rng))

    def _entropy(self, slot: str, other: bool) -> float:
        """Entropy of a slot's filler given what stands before it; `other`: somebody else gives."""
        q, n = self.third, len(NAMES)
        giver = -(1 - q) * np.log((1 - q) / 2) - q * np.log(q / (n - 2))
        by_slot = {"A": np.log(n), "B": np.log(n - 1), "S": giver, "X": np.log(2) if other else 0.0}
        return float(by_slot[slot] if slot in by_slot else np.log(len(SLOTS[slot])))

    def _surprisal(self, slot: str, other: bool) -> float:
        """-log p of a slot's filler given what stands before it."""
        if slot != "S":
            return self._entropy(slot, other)
        return float(-np.log(self.third / (len(NAMES) - 2) if other else (1 - self.third) / 2))

    def score(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entropy and surprisal of every token given its prefix, each (n, length), in nats."""
        template, slot = first_words(tokens), slot_columns(tokens)
        other = (slot["S"] != slot["A"]) & (slot["S"] != slot["B"])
        entropy = np.zeros(tokens.shape)
        entropy[:, 0] = np.log(len(TEMPLATES))
        surprisal = entropy.copy()
        for number, words in enumerate(TEMPLATES):
            for third in (False, True):
                mine = (template == number) & (other == third)
                for t, word in enumerate(words):
                    if word in SLOTS:
                        entropy[mine, t] = self._entropy(word, third)
                        surprisal[mine, t] = self._surprisal(word, third)
        return entropy, surprisal

    def mean_entropy(self) -> float:
        """Exact expectation of the entropy averaged over positions, in nats per token."""
        slots = sum(self._entropy(slot, False) for slot in SLOTS)
        return float(np.log(len(TEMPLATES)) + slots + self.third * np.log(2)) / self.length


def _ids(word: str) -> np.ndarray:
    """Token ids of a slot's fillers, or of one plain word."""
    return places(VOCABULARY, SLOTS.get(word, (word,)))


def first_words(tokens: np.ndarray) -> np.ndarray:
    """Number of the template of each sentence, shape (n,)."""
    return (tokens[:, :1] == np.array([_ids(words[0])[0] for words in TEMPLATES])).argmax(1)


def columns_of(template: np.ndarray, slot: str) -> np.ndarray:
    """Where a slot stands in sentences of these templates, shape (n,)."""
    return np.array([words.index(slot) for words in TEMPLATES])[template]


def slot_columns(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Token that fills each slot of each sentence, each of shape (n,)."""
    template, rows = first_words(tokens), np.arange(len(tokens))
    return {slot: tokens[rows, columns_of(template, slot)] for slot in SLOTS}


@dataclass(frozen=True, eq=False)
class Sentences(Language):
    """Sentences, and questions about who receives; what is scored is the receiver."""

    def mean_entropy(self) -> float:
        """Entropy of the receiver given the sentence before it: ln 2 where somebody else gives, else 0, in nats."""
        return cast(Giving, self.law).third * float(np.log(2))

    def queries(self, n: int, seed: int) -> Queries:
        """Who receives, in `n` fresh sentences in which A or B gives; a guess is one of these two."""
        template, slots = self._asked(n, stream(self.seed, "queries", seed))
        tokens, position = self._prompt(template, slots)
        answer = tokens[torch.arange(n), position + 1]
        return Queries(tokens, position, answer, np.full(n, "receiver"), np.full(n, np.nan), np.full(n, 0.5))

    def pairs(self, n: int, seed: int) -> Pairs:
        """Sentences that differ in who of the two gives, so that the other one receives."""
        template, slots = self._asked(n, stream(self.seed, "pairs", seed))
        clean, position = self._prompt(template, slots)
        corrupted, _ = self._prompt(template, slots | {"S": slots["X"], "X": slots["S"]})
        rows = torch.arange(n)
        return Pairs(clean, corrupted, position, clean[rows, position + 1], corrupted[rows, position + 1])

    def _asked(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        law = cast(Giving, self.law)
        return Giving(third=0.0).contents(n, rng) if law.third else law.contents(n, rng)

    def _prompt(self, template: np.ndarray, slots: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
        """Tokens, shape (n, T), and where the receiver is predicted, shape (n,)."""
        text = opened(cast(Giving, self.law).write(template, slots))
        return text, torch.from_numpy(columns_of(template, "X"))


def corpus(seed: int = 0) -> Sentences:
    """Sentences of four templates over 16 names; in a fifth of them somebody else gives."""
    return Sentences("names", VOCABULARY, Giving(third=0.2), rows=40_000, seed=seed)
