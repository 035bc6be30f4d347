"""Questions about the mixture corpus with one right answer, and pairs of prompts for patching."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from studies.organisms.mixture.language import equations, split_pairs, stream
from studies.organisms.mixture.records import Records
from studies.organisms.mixture.story import Story
from studies.organisms.mixture.vocabulary import KINDS, MODULUS, ids

if TYPE_CHECKING:
    from studies.organisms.mixture.corpus import Corpus

TAIL_CUTS = (100, 600, 2000)  # rarer keys are learned in part or not at all, and have nothing whole to forget


class Queries(NamedTuple):
    """Questions with one right next token.

    Attributes:
        tokens: (n, 32) int64.
        position: (n,) index p: logits[:, p] predict the answer.
        answer: (n,) token id.
        group: (n,) str, such as "facts rare" or "addition held out".
        frequency: (n,) float: how often the queried item occurs in the training set; nan where that has no meaning.
        chance: (n,) float: accuracy of guessing uniformly among this question's possible answers.
    """

    tokens: Tensor
    position: Tensor
    answer: Tensor
    group: np.ndarray
    frequency: np.ndarray
    chance: np.ndarray


class Pairs(NamedTuple):
    """Clean and corrupted prompts of equal length with their answers.

    Attributes:
        clean: (n, 32) int64.
        corrupted: (n, 32) int64.
        position: (n,) where the answer is predicted.
        answer: (n,) answer of the clean prompt.
        wrong: (n,) answer of the corrupted prompt.
    """

    clean: Tensor
    corrupted: Tensor
    position: Tensor
    answer: Tensor
    wrong: Tensor


class Group(NamedTuple):
    """Questions of one group before they are drawn: a kind of records, the rows to ask for, their counts."""

    name: str
    kind: str
    records: np.ndarray
    frequency: np.ndarray
    chance: float


def by_rank(corpus: Corpus, kind: str, cuts: tuple[int, int, int]) -> Iterator[Group]:
    """Frequent, middle and rare records: ranks below the first cut, up to the second, up to the third."""
    law = cast(Records, corpus.laws[kind])
    chance = 1 / len(ids("value"))
    bounds = (0, *cuts)
    for name, low, high in zip(("frequent", "middle", "rare"), bounds[:-1], bounds[1:], strict=True):
        frequency = corpus.occurrences[kind][low:high].astype(np.float64)
        yield Group(f"{kind} {name}", kind, law.records[low:high], frequency, chance)


def groups(corpus: Corpus) -> Iterator[Group]:
    """All groups of questions about records."""
    yield from by_rank(corpus, "facts", (10, 25, len(ids("key"))))
    yield from by_rank(corpus, "tail", TAIL_CUTS)
    split = split_pairs(corpus.design.heldout_pairs, stream(corpus.seed, "addition"))
    seen, heldout = (equations(pairs) for pairs in split)
    yield Group("addition seen", "addition", seen, corpus.occurrences["addition"].astype(np.float64), 1 / MODULUS)
    yield Group("addition held out", "addition", heldout, np.zeros(len(heldout)), 1 / MODULUS)


def ask(corpus: Corpus, group: Group, n: int, rng: np.random.Generator) -> Queries:
    """`n` questions of one group, each in a fresh sequence that mentions the queried key once.

    The questions run through the group's records in a random order, each asked as often as the others (up to one).
    """
    order = rng.random(len(group.records)).argsort()
    chosen = order[np.arange(n) % len(order)]
    body, index = cast(Records, corpus.laws[group.kind]).surround(group.records[chosen], rng)
    return assemble(group.kind, body, index, group.name, group.frequency[chosen], group.chance)


def assemble(
    kind: str, body: np.ndarray, index: np.ndarray, name: str, frequency: np.ndarray, chance: float
) -> Queries:
    """Put the marker before each body; `index` is the place of the answer in the body, so p = index."""
    n = len(body)
    marker = np.full((n, 1), ids("marker")[KINDS.index(kind)])
    tokens = torch.from_numpy(np.concatenate([marker, body], axis=1))
    answer = torch.from_numpy(body[np.arange(n), index])
    return Queries(tokens, torch.from_numpy(index), answer, np.full(n, name), frequency, np.full(n, chance))


def retrieval(corpus: Corpus, n: int, rng: np.random.Generator) -> Queries:
    """The first question of `n` fresh stories."""
    law = cast(Story, corpus.laws["story"])
    index = np.full(n, law.answer_index)
    return assemble("story", law.draw(n, rng), index, "retrieval", np.full(n, np.nan), 1 / law.values.shape[1])


def make_queries(corpus: Corpus, n: int, seed: int) -> Queries:
    """Questions of every group; see `Corpus.queries`."""
    parts = [ask(corpus, group, n, stream(corpus.seed, "queries", seed, i)) for i, group in enumerate(groups(corpus))]
    parts.append(retrieval(corpus, n, stream(corpus.seed, "queries", seed, len(parts))))
    tokens, position, answer, group, frequency, chance = zip(*parts, strict=True)
    return Queries(
        torch.cat(tokens),
        torch.cat(position),
        torch.cat(answer),
        np.concatenate(group),
        np.concatenate(frequency),
        np.concatenate(chance),
    )


def make_pairs(corpus: Corpus, n: int, seed: int) -> Pairs:
    """Pairs of stories; see `Corpus.pairs`."""
    law = cast(Story, corpus.laws["story"])
    rng = stream(corpus.seed, "pairs", seed)
    count, choices = law.values.shape
    order, asked = rng.random((n, count)).argsort(1), rng.random((n, count)).argsort(1)[:, :2]
    filler = (rng.random((n, count)) * len(law.fillers)).astype(np.int64)
    value = (rng.random((n, count)) * choices).astype(np.int64)
    other, rows = value.copy(), np.arange(n)
    shift = 1 + (rng.random(n) * (choices - 1)).astype(np.int64)
    other[rows, asked[:, 0]] = (value[rows, asked[:, 0]] + shift) % choices
    clean, corrupted = law.write(order, value, filler, asked), law.write(order, other, filler, asked)
    index, none = np.full(n, law.answer_index), np.full(n, np.nan)
    right, wrong = (assemble("story", body, index, "pairs", none, 1 / choices) for body in (clean, corrupted))
    return Pairs(right.tokens, wrong.tokens, right.position, right.answer, wrong.answer)
