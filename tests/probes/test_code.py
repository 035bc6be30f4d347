"""Choices that code asks for: found as a slow reader finds them, and answered by models that know one thing each."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from probes import Subject
from probes.code import CLOSERS, OPENERS, Code, brackets, indentations

PIECES = ["(", "[", "{", ")", "]", "}", "x", " y", "):", "[]", "\n", "\n  ", "\n    ", "z", '"', "==="]
V = len(PIECES)
FREQUENCIES = np.linspace(1, 2, V) / np.linspace(1, 2, V).sum()


def text(n=200, length=24, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(V, size=(n, length)))


def stack_of(pieces):
    """Brackets to be closed after some pieces, by reading the characters one at a time."""
    left = []
    for letter in "".join(pieces):
        if letter in OPENERS:
            left.append(OPENERS[letter])
        elif left and letter == left[-1]:
            left.pop()
    return left


class Law(torch.nn.Module):
    """A model whose scores for the next token are a function of the pieces before it."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, tokens):
        rows = [[self.scores([PIECES[i] for i in row[: t + 1]]) for t in range(len(row))] for row in tokens.tolist()]
        return torch.tensor(np.array(rows), dtype=torch.float32)


def closing(pieces):
    """Knows brackets: the one token that closes the innermost is likelier than the others, all of them unlikely."""
    left = stack_of(pieces)
    heads = [piece[:1] for piece in PIECES]
    return np.array([-8.0 + 4 * (bool(left) and head == left[-1]) if head in CLOSERS else 0.0 for head in heads])


def values(table, behaviour):
    rows = table[table["behaviour"] == behaviour]
    assert len(rows)
    return rows


@pytest.fixture(scope="module")
def probe():
    return Code(text(), PIECES, FREQUENCIES, n=20)


def test_brackets_are_those_that_a_reader_of_characters_finds():
    rows = text(60, seed=1).numpy()
    found = brackets(rows, PIECES)
    expected = [
        (i, t - 1, CLOSERS.index(head))
        for i, row in enumerate(rows)
        for t in range(1, len(row))
        if (head := PIECES[row[t]][:1]) in CLOSERS
        and (left := stack_of([PIECES[j] for j in row[:t]]))
        and left[-1] == head
    ]
    assert list(zip(*found[:3], strict=True)) == expected and len(expected) > 50
    assert [PIECES[i] for i in np.flatnonzero(found.classes == 0)] == [")", "):"]


def test_indentations_are_asked_for_where_there_was_a_line_before():
    rows = text(60, seed=2).numpy()
    found = indentations(rows, PIECES)
    spaces = {"\n": 0, "\n  ": 2, "\n    ": 4}
    expected = [
        (i, t - 1, spaces[PIECES[row[t]]])
        for i, row in enumerate(rows)
        for t in range(1, len(row))
        if PIECES[row[t]] in spaces and any(PIECES[j] in spaces for j in row[:t])
    ]
    assert list(zip(*found[:3], strict=True)) == expected and len(expected) > 50


def test_a_model_that_knows_brackets_closes_them_and_knows_nothing_else(probe):
    table = probe(Law(closing).eval())
    assert (values(table, "bracket closing")["value"] == 1).all()
    rows = values(table, "indentation")
    assert rows["value"].mean() == pytest.approx(rows["chance"].iloc[0])  # always the first class, of equal numbers


def test_a_constant_answer_gets_the_chance_level(probe):
    scores = np.array([5.0 if piece in ("]", "\n  ") else 0.0 for piece in PIECES])
    table = probe(Law(lambda pieces: scores).eval())
    for name in ("bracket closing", "indentation"):
        rows = values(table, name)
        assert rows["value"].mean() == pytest.approx(rows["chance"].iloc[0]) == pytest.approx(1 / 3)
        assert len(rows) == 60


def test_mass_decides_and_not_the_largest_token(probe):
    """Two middling tokens of a class outweigh one large token of another."""
    level = {")": 1.0, "):": 1.0, "]": 1.3, "}": -9.0}
    table = probe(Law(lambda pieces: np.array([level.get(piece, 0.0) for piece in PIECES])).eval())
    asked = probe.questions()["bracket closing"]
    np.testing.assert_array_equal(values(table, "bracket closing")["value"], asked.right == 0)


def test_frequencies_are_a_divergence_from_the_averaged_law(probe):
    planted = values(probe(Law(lambda pieces: np.log(FREQUENCIES)).eval()), "token frequencies")
    assert np.abs(planted["value"]).max() < 1e-6
    flat = values(probe(Law(lambda pieces: np.zeros(V)).eval()), "token frequencies")
    assert flat["value"].to_numpy() == pytest.approx(flat["chance"].to_numpy(), abs=1e-6)
    p = FREQUENCIES
    assert flat["chance"].iloc[0] == pytest.approx(np.sum(p * np.log(p * V)))
    half = values(
        probe(Law(lambda pieces: np.where(len(pieces) % 2, 2.0, 0.0) * np.log(p)).eval()), "token frequencies"
    )
    law = p**2 / np.sum(p**2)
    odd = 12 / 23  # of the 23 predicted positions those with an odd number of tokens before the next
    expected = np.sum(p * np.log(p / (odd * law + (1 - odd) / V)))
    assert half["value"].to_numpy() == pytest.approx(expected, abs=1e-6)


def test_the_same_questions_are_drawn_for_the_same_seed():
    one, two, other = (Code(text(), PIECES, FREQUENCIES, n=20, seed=seed).questions() for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for name in one for a, b in zip(one[name], two[name], strict=True))
    assert not np.array_equal(one["indentation"].row, other["indentation"].row)


def test_the_claim_is_about_brackets_and_follows_the_table(probe):
    claim = probe.claim()
    assert "bracket closing" in claim.name
    assert claim.check(probe(Law(closing).eval()))
    assert not claim.check(probe(Law(lambda pieces: np.zeros(V)).eval()))


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match="ask for no choice: expected at least 8 questions in each of two"):
        Code(torch.full((4, 5), 6), PIECES, FREQUENCIES)
    with pytest.raises(ValueError, match="expected a piece and a frequency for every token id"):
        Code(text(), PIECES[:-1], FREQUENCIES)
    with pytest.raises(ValueError, match=r"shape \(n, T\)"):
        Code(torch.zeros(0, 4, dtype=torch.int64), PIECES, FREQUENCIES)


def test_building_needs_a_tokenizer_and_a_text():
    class Words:
        def __len__(self):
            return V

        def decode(self, ids):
            return PIECES[ids[0]]

    training, held = text(seed=3), text(seed=4)
    corpus = SimpleNamespace(
        training=lambda: SimpleNamespace(tokens=training), heldout=lambda n, seed: SimpleNamespace(tokens=held[:n])
    )
    organism = SimpleNamespace(corpus=corpus)
    built = Code.build(Subject(None, tokenizer=Words(), organism=organism), n=5, rows=100)
    assert torch.equal(built.tokens, held[:100]) and list(built.pieces) == PIECES
    np.testing.assert_allclose(
        built.frequencies, np.bincount(training[:, 1:].ravel(), minlength=V) / training[:, 1:].numel()
    )
    with pytest.raises(ValueError, match="needs a tokenizer"):
        Code.build(Subject(None, organism=organism))
    with pytest.raises(ValueError, match="no organism"):
        Code.build(Subject(None))
    with pytest.raises(ValueError, match="Code has no setting 'm'"):
        Code.build(Subject(None), m=3)
