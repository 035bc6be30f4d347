"""n-gram laws against a dictionary of counts, and a model that is one of them."""

from collections import Counter

import numpy as np
import pytest
import torch

from probes.counts import Counts
from probes.ngrams import Ngrams
from tests.probes import toys

CORPUS = toys.Corpus()
TRAINING = CORPUS.of_kind("markov", 40, seed=2).tokens
TEXT = CORPUS.of_kind("markov", 6, seed=3).tokens
ALPHA = 0.7


def twin(order, alpha=ALPHA):
    """p_n(x | context) by counting, one context at a time."""
    counted = [Counter() for _ in range(order + 1)]
    for row in TRAINING.tolist():
        for t in range(1, len(row)):
            for n in range(1, min(order, t + 1) + 1):
                counted[n][tuple(row[t - n + 1 : t + 1])] += 1

    def law(context):
        p = np.full(toys.VOCABULARY, 1 / toys.VOCABULARY)
        for n in range(1, min(order, len(context) + 1) + 1):
            before = tuple(context[len(context) - n + 1 :])
            seen = np.array([counted[n][(*before, x)] for x in range(toys.VOCABULARY)], dtype=float)
            p = (seen + alpha * p) / (seen.sum() + alpha)
        return p

    return law


class Planted(torch.nn.Module):
    """A language model that is an n-gram model."""

    def __init__(self, order):
        super().__init__()
        self.law = twin(order)

    def forward(self, tokens):
        logs = [[np.log(self.law(row[: t + 1])) for t in range(len(row))] for row in tokens.tolist()]
        return torch.tensor(np.array(logs))


def by_order(table, measure):
    return table[table["measure"] == measure].groupby("order")["value"].mean()


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_planted_ngram_model_has_no_divergence_and_no_gap_from_its_table(order):
    table = Ngrams(TEXT, Counts.of(TRAINING.numpy(), 4, ALPHA))(Planted(order).eval())
    rows = table[table["order"] == order]
    np.testing.assert_allclose(rows["value"], 0, atol=1e-12)
    others = by_order(table, "kl").drop(order)
    assert (others > 1e-4).all()


def test_laws_equal_the_dictionary_of_counts_and_sum_to_one():
    contexts = np.array([[-1, -1, 15], [3, 4, 5], [5, 5, 5], [12, 0, 1], [-1, 13, 2]])
    laws = Counts.of(TRAINING.numpy(), 4, ALPHA).law(contexts, toys.VOCABULARY)
    np.testing.assert_allclose(laws.sum(-1), 1)
    for order in range(1, 5):
        law = twin(order)
        for context, found in zip(contexts, laws[order - 1], strict=True):
            np.testing.assert_allclose(found, law([token for token in context.tolist() if token >= 0]))


def test_a_uniform_model_is_at_chance():
    clueless = torch.nn.Embedding.from_pretrained(torch.zeros(toys.VOCABULARY, toys.VOCABULARY)).eval()
    table = Ngrams(TEXT, Counts.of(TRAINING.numpy(), 3))(clueless)
    rows = table[table["measure"] == "kl"]
    np.testing.assert_allclose(rows["value"], rows["chance"], atol=1e-12)


def test_parts_do_not_change_the_answer(model, monkeypatch):
    probe = Ngrams(TEXT, Counts.of(TRAINING.numpy(), 3))
    whole = probe(model)
    monkeypatch.setattr("probes.ngrams.CELLS", 2 * (toys.LENGTH - 1) * toys.VOCABULARY)
    np.testing.assert_allclose(probe(model)["value"], whole["value"], atol=1e-6)


def test_the_claim_is_that_context_beyond_the_last_tokens_counts(model):
    probe = Ngrams.build(toys.subject(model), n=8, order=2)
    assert "orders 1 to 2" in probe.claim().statement
    assert not probe.claim().check(probe(model))  # random weights


@pytest.mark.parametrize(
    ("order", "alpha", "message"),
    [(0, 1.0, "order must lie in 1..16 for 13 different tokens, got 0"), (2, 0.0, "alpha must be above 0")],
)
def test_bad_settings_are_refused(order, alpha, message):
    with pytest.raises(ValueError, match=message):
        Counts.of(TRAINING.numpy(), order, alpha)


def test_a_model_with_fewer_tokens_than_were_counted_is_refused():
    with pytest.raises(ValueError, match="token id 13, and the model has 5 tokens only"):
        Counts.of(TRAINING.numpy(), 2).law(np.array([[1]]), 5)
