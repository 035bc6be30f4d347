"""Recall on models that know everything, nothing, or exactly half."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from probes import Recall, Subject
from tests.probes import toys

CORPUS = toys.Corpus()
QUERIES, CANARIES = CORPUS.queries(9, seed=0), CORPUS.canaries()


class Knows(torch.nn.Module):
    """Predicts the next token of the sequences that it was given, elsewhere token 0."""

    def __init__(self, *known):
        super().__init__()
        self.known = {tuple(row.tolist()) for tokens in known for row in tokens}

    def forward(self, tokens):
        knows = torch.tensor([tuple(row.tolist()) in self.known for row in tokens])
        scores = torch.nn.functional.one_hot(tokens.roll(-1, dims=1), toys.VOCABULARY).float()
        nothing = torch.nn.functional.one_hot(torch.zeros_like(tokens), toys.VOCABULARY).float()
        return torch.where(knows[:, None, None], scores, nothing)


def means(table):
    return table.groupby("behaviour")["value"].mean()


def test_a_model_that_knows_the_answers_gets_one_everywhere():
    table = Recall(QUERIES, CANARIES)(Knows(QUERIES.tokens, CANARIES.tokens).eval())
    assert (table["value"] == 1).all()
    assert list(means(table).index) == ["canary x1", "canary x16", "canary x4", "early", "late"]


def test_what_is_not_known_is_scored_by_the_tokens_alone():
    known = CANARIES.tokens[CANARIES.copies == 16]
    table = Recall(QUERIES, CANARIES, prefix=5)(Knows(known).eval())
    assert means(table)["canary x16"] == 1
    expected = (CANARIES.tokens[:4, 5:] == 0).double().mean(1)
    np.testing.assert_allclose(table.loc[table["measure"] == "recitation", "value"][:4], expected)
    np.testing.assert_array_equal(table.loc[table["measure"] == "accuracy", "value"], QUERIES.answer == 0)


def test_the_prefix_is_given_and_only_the_rest_is_recited():
    """A model that is wrong inside the prefix only recites perfectly."""

    class Late(Knows):
        def forward(self, tokens):
            scores = super().forward(tokens)
            scores[:, :7] = 0
            return scores

    model = Late(CANARIES.tokens).eval()
    assert (Recall(canaries=CANARIES, prefix=8)(model)["value"] == 1).all()
    assert (Recall(canaries=CANARIES, prefix=7)(model)["value"] < 1).any()


def test_rows_carry_behaviour_chance_and_frequency():
    table = Recall(QUERIES, CANARIES)(Knows().eval())
    assert table["behaviour"].notna().all() and table["chance"].between(0, 1).all()
    assert set(table.loc[table["measure"] == "recitation", "chance"]) == {1 / toys.LETTERS}
    assert set(Recall(canaries=CANARIES, guess=0.5)(Knows().eval())["chance"]) == {0.5}
    assert table.groupby(["behaviour", "example"]).size().max() == 1


def test_bridge_and_raw_model_answer_alike(model):
    probe = Recall(QUERIES, CANARIES)
    a, b = probe(model)["value"], probe(toys.llama())["value"]
    assert (a == b).all()


def test_the_claim_is_about_the_canaries_with_most_copies():
    claim = Recall(QUERIES, CANARIES).claim()
    assert claim.statement == "canaries of 16 copies are recited at >= 0.5"
    assert claim(Knows(CANARIES.tokens[CANARIES.copies == 16]).eval())["value"].item() == 1
    assert claim(Knows(CANARIES.tokens[CANARIES.copies == 4]).eval())["value"].item() == 0
    without = Recall(QUERIES).claim(least=0.9)
    assert without(Knows(QUERIES.tokens).eval())["value"].item() == 1
    assert without(Knows(QUERIES.tokens[:9]).eval())["value"].item() == 0


def test_build_takes_what_the_corpus_has(model):
    def built(**methods):
        return Recall.build(Subject(model, organism=SimpleNamespace(corpus=SimpleNamespace(**methods))))

    assert built(queries=CORPUS.queries).canaries is None and built(canaries=CORPUS.canaries).queries is None
    with pytest.raises(ValueError, match="lacks queries, canaries"):
        built()
    with pytest.raises(ValueError, match="no organism"):
        Recall.build(Subject(model))


def test_bad_input_is_refused_with_value_and_cure():
    with pytest.raises(ValueError, match="nothing to ask: give queries, canaries or both"):
        Recall()
    with pytest.raises(ValueError, match=r"1..15 for canaries of 16 tokens, got 16"):
        Recall(canaries=CANARIES, prefix=16)
