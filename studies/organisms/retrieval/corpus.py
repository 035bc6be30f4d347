"""Nano-stories with questions, after the ORION tasks of Variengien & Winsor 2023 (arXiv 2312.10091)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from studies.organisms.language import SPECIAL, Language, opened, places
from studies.organisms.mixture.language import stream
from studies.organisms.mixture.queries import Pairs, Queries

FILLERS = ("first", "then", "also", "now", "so", "later", "here", "there")
MARKERS = (("likes", "adores"), ("fears", "dreads"), ("helps", "aids"), ("meets", "visits"))
QUESTIONS = (("friend", "idol"), ("foe", "terror"), ("pupil", "patient"), ("host", "guest"))
PEOPLE = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivo", "Jane", "Karl", "Lena")
GRAMMAR = ("ask", "?", "ANS", ".")
VOCABULARY: tuple[str, ...] = (
    *(*SPECIAL, *FILLERS, *GRAMMAR, *PEOPLE),
    *(word for words in (*MARKERS, *QUESTIONS) for word in words),
)
COUNT, SENTENCE, REQUEST = len(MARKERS), 4, 5  # attributes, tokens a sentence, tokens a question and its answer
TOLD = COUNT * SENTENCE  # tokens of the story
LENGTH = TOLD + COUNT * REQUEST
ASKED_AT = TOLD + REQUEST - 1  # position of the token before the first answer, the opening token counted
ANSWERS = tuple(range(ASKED_AT + 1, LENGTH + 1, REQUEST))


class Contents(NamedTuple):
    """What n stories say; a is the number of attributes.

    Attributes:
        value: Person that is each attribute's value, shape (n, a).
        order: Attribute of each sentence, shape (n, a), each row a permutation.
        filler: Filler of each sentence, shape (n, a).
        marker: Which of the words stands for the attribute in each sentence, shape (n, a).
        asked: Attribute of each question, shape (n, a), each row a permutation.
        question: Which of the words stands for it, shape (n, a).
    """

    value: np.ndarray
    order: np.ndarray
    filler: np.ndarray
    marker: np.ndarray
    asked: np.ndarray
    question: np.ndarray


def contents(n: int, rng: np.random.Generator) -> Contents:
    """Everything that is random, independent and uniform, drawn for `n` stories."""

    def index(choices: int) -> np.ndarray:
        return (rng.random((n, COUNT)) * choices).astype(np.int64)

    def permutation() -> np.ndarray:
        return rng.random((n, COUNT)).argsort(1)

    return Contents(index(len(PEOPLE)), permutation(), index(len(FILLERS)), index(2), permutation(), index(2))


def write(said: Contents) -> np.ndarray:
    """Token ids of stories with given contents, shape (n, LENGTH)."""
    fillers, people = places(VOCABULARY, FILLERS), places(VOCABULARY, PEOPLE)
    markers, questions = (np.stack([places(VOCABULARY, words) for words in names]) for names in (MARKERS, QUESTIONS))
    values = people[said.value]
    told = np.take_along_axis(values, said.order, axis=1)
    answers = np.take_along_axis(values, said.asked, axis=1)
    ask, mark, prefix, stop = places(VOCABULARY, GRAMMAR)
    sentences = [fillers[said.filler], markers[said.order, said.marker], told, np.full_like(told, stop)]
    fixed = [np.full_like(answers, token) for token in (ask, mark, prefix)]
    requests = [fixed[0], questions[said.asked, said.question], fixed[1], fixed[2], answers]
    parts = [np.stack(part, axis=-1).reshape(len(values), -1) for part in (sentences, requests)]
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class Tale:
    """`filler marker value .` for each attribute in random order, then `ask question ? ANS value` for each.

    An attribute is never named by one word alone: sentences and questions each have two words for it, all different. So
    a question's word does not occur in the story, and the token before an answer is the same whatever is asked. All
    attributes take their values from the same people: a value does not tell what it is the answer to. A model must find
    out what is asked and then where it is said.
    """

    @property
    def length(self) -> int:
        """Tokens a story."""
        return LENGTH

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Sample `n` sequences of token ids, shape (n, length)."""
        return write(contents(n, rng))

    def _profile(self) -> np.ndarray:
        """Entropy by position, in nats, shape (length,); every conditional is uniform on its support."""
        left = np.log(2 * (COUNT - np.arange(COUNT)))  # which attribute, and which word for it
        zero = np.zeros(COUNT)
        told = [zero + np.log(len(FILLERS)), left, zero + np.log(len(PEOPLE)), zero]
        return np.concatenate([np.stack(part, 1).ravel() for part in (told, [zero, left, zero, zero, zero])])

    def score(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entropy and surprisal of every token given its prefix, each (n, length), in nats; they are equal."""
        entropy = np.tile(self._profile(), (len(tokens), 1))
        return entropy, entropy.copy()

    def mean_entropy(self) -> float:
        """Exact expectation of the entropy averaged over positions, in nats per token."""
        return float(self._profile().mean())


class Requests(NamedTuple):
    """n pairs of a source (C1, R1) and a target (C2, R2), contexts and requests drawn apart from each other.

    Attributes:
        source: Token ids, shape (n, T).
        source_position: Last token of the source's request, where its answer is predicted, shape (n,).
        target: Token ids, shape (n, T).
        target_position: The same of the target, shape (n,).
        target_answer: R2(C2), shape (n,).
        moved: R1(C2), shape (n,).
        source_answer: R1(C1), shape (n,).
        chance: Probability of a uniform guess among the possible answers, shape (n,).
    """

    source: Tensor
    source_position: Tensor
    target: Tensor
    target_position: Tensor
    target_answer: Tensor
    moved: Tensor
    source_answer: Tensor
    chance: np.ndarray


@dataclass(frozen=True, eq=False)
class Stories(Language):
    """Stories, and questions about them; what is scored are the answers."""

    def mean_entropy(self) -> float:
        """Entropy of the answers: 0 nats, the story determines them."""
        return 0.0

    def queries(self, n: int, seed: int) -> Queries:
        """The first question of `n` fresh stories; a guess is one of all people."""
        tokens = opened(write(contents(n, stream(self.seed, "queries", seed))))
        group, none = np.full(n, "retrieval"), np.full(n, np.nan)
        return Queries(tokens, _positions(n), _answers(tokens), group, none, _chance(n))

    def pairs(self, n: int, seed: int) -> Pairs:
        """Stories that differ in the value that the first question asks for."""
        rng = stream(self.seed, "pairs", seed)
        clean = contents(n, rng)
        rows, asked, value = np.arange(n), clean.asked[:, 0], clean.value.copy()
        shift = 1 + (rng.random(n) * (len(PEOPLE) - 1)).astype(np.int64)
        value[rows, asked] = (value[rows, asked] + shift) % len(PEOPLE)
        right, wrong = (opened(write(said)) for said in (clean, clean._replace(value=value)))
        return Pairs(right, wrong, _positions(n), _answers(right), _answers(wrong))

    def requests(self, n: int, seed: int) -> Requests:
        """Pairs of stories whose first questions R1, R2 differ, with R1(C1), R1(C2) and R2(C2) all different."""
        rng = stream(self.seed, "requests", seed)
        source, target = contents(n, rng), contents(n, rng)
        rows, first = np.arange(n), source.asked[:, 0]
        other = np.where(target.asked[:, 0] == first, target.asked[:, 1], target.asked[:, 0])
        rest = np.where(target.asked == other[:, None], target.asked[:, :1], target.asked)
        target = target._replace(asked=np.concatenate([other[:, None], rest[:, 1:]], axis=1))
        people = rng.random((n, len(PEOPLE))).argsort(1)
        source.value[rows, first], target.value[rows, first], target.value[rows, other] = people[:, :3].T
        texts = [opened(write(said)) for said in (source, target)]
        moved = torch.from_numpy(places(VOCABULARY, PEOPLE)[target.value[rows, first]])
        where = _positions(n)
        return Requests(texts[0], where, texts[1], where, _answers(texts[1]), moved, _answers(texts[0]), _chance(n))


def _positions(n: int) -> Tensor:
    return torch.full((n,), ASKED_AT)


def _answers(tokens: Tensor) -> Tensor:
    return tokens[:, ASKED_AT + 1]


def _chance(n: int) -> np.ndarray:
    return np.full(n, 1 / len(PEOPLE))


def corpus(seed: int = 0) -> Stories:
    """The corpus of the organism."""
    return Stories("story", VOCABULARY, Tale(), rows=40_000, seed=seed)
