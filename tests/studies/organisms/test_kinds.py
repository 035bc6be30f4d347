"""Each kind's exact conditionals against enumeration of every sequence from the generator's definition."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import chi2

from studies.organisms.mixture.kinds import Chain, Repeat, pick
from studies.organisms.mixture.language import softmax_table, stream
from studies.organisms.mixture.records import Records
from studies.organisms.mixture.story import Story


def chain(order):
    table = softmax_table((3,) * (order + 1), 1.0, stream(5, "markov"))
    return Chain(np.array([4, 5, 9]), table, 4)


def repeat():
    return Repeat(np.array([2, 3, 5, 7, 8]), 2, 4, 7)


def records():
    rows = np.array([[1, 4, 9], [1, 5, 8], [2, 4, 8], [3, 6, 9]])
    return Records(rows, np.array([0.4, 0.3, 0.2, 0.1]), 5)


def story():
    return Story(np.array([1, 2]), np.array([3, 4]), np.array([[5, 6], [7, 8]]), np.array([9, 10, 11, 12]))


def add(law, sequence, probability):
    law[tuple(int(token) for token in sequence)] = law.get(tuple(int(t) for t in sequence), 0.0) + probability


def enumerate_chain(kind):
    law, m = {}, len(kind.letters)
    for states in product(range(m), repeat=kind.length):
        p = float(m) ** -kind.order
        for t in range(kind.order, kind.length):
            p *= kind.table[states[t - kind.order : t + 1]]
        add(law, kind.letters[list(states)], p)
    return law


def enumerate_repeat(kind):
    law, periods = {}, range(kind.shortest, kind.longest + 1)
    for period in periods:
        segments = list(permutations(kind.letters, period))
        for segment in segments:
            sequence = [segment[t % period] for t in range(kind.length)]
            add(law, sequence, 1 / len(periods) / len(segments))
    return law


def enumerate_records(kind):
    law = {}
    for chosen in product(range(len(kind.records)), repeat=-(-kind.length // kind.width)):
        add(law, kind.records[list(chosen)].ravel()[: kind.length], kind.weights[list(chosen)].prod())
    return law


def enumerate_story(kind):
    law, (a, v), f = {}, kind.values.shape, len(kind.fillers)
    contents = list(
        product(
            permutations(range(a)), product(range(v), repeat=a), product(range(f), repeat=a), permutations(range(a), 2)
        )
    )
    for order, value, filler, asked in contents:
        rows = [np.array([part]) for part in (order, value, filler, asked)]
        add(law, kind.write(*rows)[0], 1 / len(contents))
    return law


CASES = {
    "order 0": (chain(0), enumerate_chain),
    "order 1": (chain(1), enumerate_chain),
    "order 2": (chain(2), enumerate_chain),
    "repeat": (repeat(), enumerate_repeat),
    "records": (records(), enumerate_records),
    "story": (story(), enumerate_story),
}


def prefix_laws(law):
    """P(prefix) for every prefix of every sequence."""
    total = {}
    for sequence, p in law.items():
        for t in range(len(sequence) + 1):
            total[sequence[:t]] = total.get(sequence[:t], 0.0) + p
    return total


def conditionals(total, sequence):
    """Entropy and surprisal of each token, from prefix probabilities alone."""
    entropy, surprisal = [], []
    for t in range(len(sequence)):
        before = total[sequence[:t]]
        p = np.array([total.get((*sequence[:t], token), 0.0) / before for token in range(20)])
        p = p[p > 0]
        entropy.append(-(p * np.log(p)).sum())
        surprisal.append(-np.log(total[sequence[: t + 1]] / before))
    return entropy, surprisal


@pytest.mark.parametrize("name", CASES)
def test_score_equals_enumeration(name):
    kind, enumerate_kind = CASES[name]
    law = enumerate_kind(kind)
    assert sum(law.values()) == pytest.approx(1, abs=1e-12)
    total = prefix_laws(law)
    sequences = list(law)
    entropy, surprisal = kind.score(np.array(sequences))
    wanted = [conditionals(total, sequence) for sequence in sequences]
    np.testing.assert_allclose(entropy, [pair[0] for pair in wanted], atol=1e-12)
    np.testing.assert_allclose(surprisal, [pair[1] for pair in wanted], atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_mean_entropy_is_the_entropy_of_the_sequence(name):
    kind, enumerate_kind = CASES[name]
    p = np.array(list(enumerate_kind(kind).values()))
    assert kind.mean_entropy() * kind.length == pytest.approx(-(p * np.log(p)).sum(), abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_draw_follows_the_law(name):
    kind, enumerate_kind = CASES[name]
    law, n = enumerate_kind(kind), 20_000
    drawn, counts = np.unique(kind.draw(n, stream(1, "draw")), axis=0, return_counts=True)
    expected = np.array([law[tuple(row)] * n for row in drawn.tolist()])
    missing = n - expected.sum()
    statistic = ((counts - expected) ** 2 / expected).sum() + max(missing, 0.0)
    assert statistic < chi2.ppf(1 - 1e-4, len(law) - 1)


def test_pick_inverts_the_cumulative_law():
    cumulative = np.array([0.25, 0.25, 1.0])
    index = pick(np.broadcast_to(cumulative, (4, 3)), np.array([0.0, 0.2499, 0.25, 0.9999]))
    assert index.tolist() == [0, 0, 2, 2]


def test_surround_asks_once_and_reads_back():
    kind, rng = records(), stream(2, "queries")
    questions = kind.records[[0, 3, 2, 1] * 20]
    body, index = kind.surround(questions, rng)
    assert (body[np.arange(80), index] == questions[:, -1]).all()
    slots = body[:, :3]
    assert (kind.indices(body)[:, 0] == [np.flatnonzero((kind.records == row).all(1))[0] for row in slots]).all()


def test_repeat_needs_its_exact_hazard():
    hazard = repeat().hazard()
    np.testing.assert_allclose(hazard, [0, 0, 1 / 3, 1 / 2, 1])
