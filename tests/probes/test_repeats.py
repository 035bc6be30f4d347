"""Pairs made of repeated text: what an ideal induction head would copy differs, and nothing that it would not."""

import pytest
import torch

from probes.repeats import CHANGES, repeat_pairs
from tests.probes import toys

TOKENS = toys.Corpus().of_kind("repeat", 60, seed=0).tokens


def copied(text):
    """What followed the last token when it was said before; it must have been said once only, but for the question."""
    places = [at for at, token in enumerate(text[:-1]) if token == text[-1]]
    followers = {text[at + 1] for at in places}
    assert len(followers) == 1
    return followers.pop()


@pytest.mark.parametrize("change", CHANGES)
def test_an_ideal_induction_head_gives_each_prompt_its_answer(change):
    pairs = repeat_pairs(TOKENS, start=1, seed=4, changes=[change])
    assert torch.equal(pairs.clean, TOKENS) and (pairs.answer != pairs.wrong).all()
    for clean, corrupted, where, answer, wrong in zip(*(part.tolist() for part in pairs), strict=True):
        assert copied(clean[: where + 1]) == answer and copied(corrupted[: where + 1]) == wrong
        assert sum(a != b for a, b in zip(clean, corrupted, strict=True)) == (2 if change == "keys" else 1)
        assert (clean[where] != corrupted[where]) == (change == "question")


def test_changes_take_turns_places_vary_and_the_seed_decides():
    one, same, other = (repeat_pairs(TOKENS, start=1, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.position, other.position) and len(one.position.unique()) > 2
    changed = (one.clean != one.corrupted).sum(1)
    assert (changed[1::3] == 2).all() and (changed[0::3] == 1).all() and (changed[2::3] == 1).all()


@pytest.mark.parametrize(
    ("tokens", "settings", "message"),
    [
        ([[1, 2, 3, 4, 1, 2, 3, 4]], {"changes": ["value"]}, "uses all 4 tokens"),
        ([[1, 2, 3, 1, 2, 3]], {}, r"at least 4 tokens, all different, got \[1 2 3\]"),
        ([[1, 2, 3, 4, 1, 2, 3, 4]], {"changes": ["query"]}, "'query'.* value, keys, question"),
    ],
)
def test_bad_input_is_refused_with_value_and_cure(tokens, settings, message):
    with pytest.raises(ValueError, match=message):
        repeat_pairs(torch.tensor(tokens), **settings)
