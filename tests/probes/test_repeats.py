"""Pairs made of repeated text: one token differs, where the answer was said for the first time."""

import pytest
import torch

from probes.repeats import repeat_pairs
from tests.probes import toys

TOKENS = toys.Corpus().of_kind("repeat", 40, seed=0).tokens


def test_the_answer_was_said_once_before_and_differs_there_alone():
    pairs = repeat_pairs(TOKENS, start=1, seed=4)
    rows = torch.arange(40)
    assert torch.equal(pairs.clean, TOKENS) and torch.equal(pairs.clean[rows, pairs.position + 1], pairs.answer)
    changed = pairs.clean != pairs.corrupted
    first = changed.int().argmax(1)
    assert (changed.sum(1) == 1).all() and torch.equal(pairs.corrupted[rows, first], pairs.wrong)
    for text, where, said, answer, wrong in zip(TOKENS, pairs.position, first, pairs.answer, pairs.wrong, strict=True):
        so_far = text[: where + 1].tolist()
        assert text[said - 1] == text[where] and so_far.count(int(answer)) == 1
        assert so_far.index(int(answer)) == said and int(wrong) not in text.tolist()


def test_positions_vary_and_the_seed_decides():
    one, same, other = (repeat_pairs(TOKENS, start=1, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.position, other.position) and len(one.position.unique()) > 2


def test_a_sequence_that_leaves_no_other_token_is_refused():
    with pytest.raises(ValueError, match="uses all 2 tokens"):
        repeat_pairs(torch.tensor([[1, 2, 1, 2, 1]]))
