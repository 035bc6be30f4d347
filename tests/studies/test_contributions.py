import numpy as np
import pytest
import torch

from studies.contributions import contributions
from studies.organisms.mixture import mixture


class Coin:
    """A corpus whose even tokens ask for one behaviour, the others for none."""

    def parts(self, sample):
        names = np.full((len(sample.tokens), sample.tokens.shape[1] - 1), "", dtype=object)
        names[:, ::2] = "coin"
        return names, np.full(names.shape, 0.5)


class Text:
    tokens = torch.tensor([[0, 1, 0, 1, 1], [1, 1, 0, 0, 1], [0, 0, 0, 1, 0]])


def model_with(right):
    """Gives the token 1 probability `right` after a 0 and a half after a 1."""
    odds = float(np.log(right / (1 - right)))
    return torch.nn.Embedding.from_pretrained(torch.tensor([[0.0, odds], [0.0, 0.0]])).eval()


def test_a_guesser_contributes_nothing_and_a_knower_what_its_tokens_save():
    nothing = contributions(model_with(0.5), Coin(), {"test": Text}).iloc[0]
    assert nothing["value"] == pytest.approx(0, abs=1e-6) and nothing["tokens"] == 0.5
    one = contributions(model_with(0.9), Coin(), {"test": Text}).iloc[0]
    saved = [np.log(2) + np.log(0.9 if target else 0.1) for target in _after_zero()]
    assert one["value"] == pytest.approx(sum(saved) / 12, abs=1e-6)


def _after_zero():
    rows = Text.tokens.tolist()
    return [row[t + 1] for row in rows for t in (0, 2) if row[t] == 0]


def test_a_corpus_that_does_not_say_what_tokens_ask_for_has_none():
    assert contributions(None, object(), {"test": None}).empty


def test_tokens_of_the_mixture_are_named_as_its_questions_and_guessed_as_they_are():
    corpus = mixture.corpus
    for sample, seen in ((corpus.heldout(800, 3), False), (corpus.canaries(), True)):
        names, chance = corpus.parts(sample)
        assert names.shape == chance.shape == sample.entropy.shape
        assert any(name.startswith("canary") for name in set(names.ravel())) == seen
        assert (chance[names == ""] <= 1).all() and (chance[names != ""] < 0.5).all()
    asked = corpus.queries(32, 0)
    from studies.organisms.mixture.corpus import Sample

    for group, kind in (("facts rare", "facts"), ("tail middle", "tail"), ("retrieval", "story")):
        rows = np.flatnonzero(asked.group == group)
        tokens = asked.tokens[torch.from_numpy(rows)]
        none = np.zeros((len(rows), 31))
        sample = Sample(tokens, np.full(len(rows), kind), none, none, np.zeros(len(rows), int))
        names, chance = corpus.parts(sample)
        place = asked.position[torch.from_numpy(rows)].numpy()
        assert set(names[np.arange(len(rows)), place]) == {group}
        np.testing.assert_allclose(chance[np.arange(len(rows)), place], asked.chance[rows])


def test_determined_letters_of_a_repeat_ask_for_induction_and_noise_for_nothing():
    corpus = mixture.corpus
    repeats = corpus.of_kind("repeat", 50, 0)
    names, _ = corpus.parts(repeats)
    np.testing.assert_array_equal(names == "induction", repeats.entropy == 0)
    assert set(corpus.parts(corpus.of_kind("noise", 20, 0))[0].ravel()) == {""}
