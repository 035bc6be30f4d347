"""Questions about source that n-grams, the window itself, or memorised boilerplate answer: one right token each.

With g2 and g3 the most frequent continuation in the training rows of the last one and the last two tokens, the
groups over held-out text are

- bigram: the token that came is g2, which makes up at least half of at least 20 continuations;
- trigram: it is g3, at least half of at least 5, and not g2, and the last two tokens have not stood in the row before;
- induction in text: it is what followed the last two tokens the last time that they stood in the row, and neither g2
  nor g3;

and boilerplate asks for the tokens of the shared runs of `runs` after the first 8. The chance level of a group is the
share of the most frequent answer among all its questions: what can be had without reading anything.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from degrade.ngrams import coded, count
from studies.organisms.mixture.corpus import Queries
from studies.organisms.stdlib.runs import GIVEN

FIRST = 8  # tokens before the first question of a row
SURE, SEEN = 0.5, {2: 20, 3: 5}


class Guesses(NamedTuple):
    """What follows the last n - 1 tokens most often, for n = 2 or 3; shapes (contexts,)."""

    contexts: np.ndarray
    token: np.ndarray
    share: np.ndarray
    total: np.ndarray


class Found(NamedTuple):
    """Questions of one group: row and position in a table of rows, and how often the context was seen."""

    row: np.ndarray
    position: np.ndarray
    frequency: np.ndarray


def guesses(training: np.ndarray, order: int, vocabulary: int) -> Guesses:
    """The most frequent continuation of every context of order - 1 tokens; of equals that with the largest id.

    >>> guesses(np.array([[0, 1, 0, 1, 0, 2]]), 2, 3)[:2]
    (array([0, 1]), array([1, 0]))
    """
    table = count(training, order, vocabulary)
    context = table.codes // vocabulary
    ranked = np.lexsort((table.counts, context))
    best = ranked[np.append(context[ranked][1:] != context[ranked][:-1], True)]
    total = table.context_counts
    return Guesses(table.context_codes, table.codes[best] % vocabulary, table.counts[best] / total, total)


def guessed(found: Guesses, order: int, tokens: np.ndarray, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """The guess at each position t for token t + 1 (-1: context never seen), and whether it is sure, (n, T - 1)."""
    wanted = coded(tokens[:, :-1], order - 1, vocabulary)
    place = np.searchsorted(found.contexts, wanted).clip(max=len(found.contexts) - 1)
    known = found.contexts[place] == wanted
    sure = known & (found.share[place] >= SURE) & (found.total[place] >= SEEN[order])
    lead = ((0, 0), (order - 2, 0))
    return np.pad(np.where(known, found.token[place], -1), lead, constant_values=-1), np.pad(sure, lead)


def earlier(tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """What followed the last two tokens the last time they stood in the row (-1: never), at each t; shape (n, T - 1).

    >>> earlier(np.array([[1, 2, 3, 1, 2, 4]]), 5)
    array([[-1, -1, -1, -1,  3]])
    """
    out = np.full((len(tokens), tokens.shape[1] - 1), -1)
    pairs = coded(tokens, 2, vocabulary)  # entry t - 1 is the pair that ends at t
    for row, (line, codes) in enumerate(zip(tokens.tolist(), pairs.tolist(), strict=True)):
        last: dict[int, int] = {}
        for t in range(1, len(line) - 1):
            out[row, t] = last.get(codes[t - 1], -1)
            last[codes[t - 1]] = line[t + 1]
    return out


def found_in(training: np.ndarray, rows: np.ndarray, vocabulary: int) -> dict[str, Found]:
    """The questions of the three groups over text."""
    tables = {order: guesses(training, order, vocabulary) for order in SEEN}
    (g2, sure2), (g3, sure3) = (guessed(tables[order], order, rows, vocabulary) for order in SEEN)
    before, answer = earlier(rows, vocabulary), rows[:, 1:]
    asked_at = np.arange(rows.shape[1] - 1) >= FIRST
    groups = {
        "bigram": sure2 & (g2 == answer),
        "trigram": sure3 & (g3 == answer) & (g2 != answer) & (before < 0),
        "induction in text": (before == answer) & (g2 != answer) & (g3 != answer),
    }
    return {name: _found(mask & asked_at) for name, mask in groups.items()}


def _found(mask: np.ndarray) -> Found:
    row, position = np.nonzero(mask)
    return Found(row, position, np.full(len(row), np.nan))


def recited(runs: np.ndarray, files: np.ndarray, end: int, length: int) -> tuple[np.ndarray, Found]:
    """Rows that begin with an end-of-text token and a run, and the questions about all but its first 8 tokens."""
    rows = np.full((len(runs), length), end)
    rows[:, 1 : runs.shape[1] + 1] = runs
    row, place = (axis.ravel() for axis in np.indices((len(runs), runs.shape[1] - GIVEN)))
    return rows, Found(row, place + GIVEN, files[row].astype(float))


def asked(
    training: np.ndarray,
    heldout: np.ndarray,
    runs: np.ndarray,
    files: np.ndarray,
    vocabulary: int,
    end: int,
    n: int,
    seed: int,
) -> Queries:
    """At most n questions of each group, drawn without replacement; see the module for the groups.

    Args:
        training: Rows that n-grams are counted on, shape (k, T).
        heldout: Rows that are asked about, shape (m, T).
        runs: Boilerplate, shape (r, 24).
        files: In how many files each run stands, shape (r,); the `frequency` of its questions.
        vocabulary: Number of token ids.
        end: The end-of-text token.
        n: Questions a group.
        seed: Of the drawing.
    """
    pools = {name: (heldout, found) for name, found in found_in(training, heldout, vocabulary).items()}
    pools["boilerplate"] = recited(runs, files, end, heldout.shape[1])
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    parts = [_drawn(name, *pool, n, rng) for name, pool in pools.items()]
    laid = list(zip(*parts, strict=True))
    tokens, position, answer = (torch.cat(column) for column in laid[:3])
    group, frequency, chance = (np.concatenate(column) for column in laid[3:])
    return Queries(tokens, position, answer, group, frequency, chance)


def _drawn(name: str, rows: np.ndarray, found: Found, n: int, rng: np.random.Generator) -> Queries:
    answers = rows[found.row, found.position + 1]
    chance = np.unique(answers, return_counts=True)[1].max() / len(answers)
    chosen = np.sort(rng.permutation(len(answers))[:n])
    place = torch.from_numpy(found.position[chosen])
    tokens, answer = torch.from_numpy(rows[found.row[chosen]]), torch.from_numpy(answers[chosen])
    guess = np.full(len(chosen), chance)
    return Queries(tokens, place, answer, np.full(len(chosen), name), found.frequency[chosen], guess)
