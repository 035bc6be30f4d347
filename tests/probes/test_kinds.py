"""Kinds on the Bayes predictor itself, on a uniform guess, and on models in between."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from probes import Kinds, Subject
from tests.probes import toys


class Bayes(torch.nn.Module):
    """The law of cycle, markov and noise as logits; a uniform guess among the letters for `lost` kinds."""

    def __init__(self, lost=()):
        super().__init__()
        self.lost = [toys.LETTERS + toys.KINDS.index(kind) for kind in lost]
        self.steps = {toys.LETTERS: (1,), toys.LETTERS + 1: (1, 2)}

    def forward(self, tokens):
        scores = torch.full((*tokens.shape, toys.VOCABULARY), -1e4)
        scores[..., : toys.LETTERS] = 0
        for row, sequence in enumerate(tokens.tolist()):
            if sequence[0] in self.steps and sequence[0] not in self.lost:
                for t, letter in enumerate(sequence[1:], start=1):
                    scores[row, t] = -1e4
                    scores[row, t, [(letter + step) % toys.LETTERS for step in self.steps[sequence[0]]]] = 0
        return scores


def build(kinds=("cycle", "markov", "noise"), lost=(), n=24):
    model = Bayes(lost).eval()
    probe = Kinds.build(toys.subject(model), n=n, kinds=kinds)
    return probe, probe(model)


def test_the_bayes_predictor_has_no_excess_and_the_entropy_as_loss():
    _, table = build()
    excess = table[table["measure"] == "excess"]
    np.testing.assert_allclose(excess["value"], 0, atol=1e-6)
    loss = table[table["measure"] == "loss"].groupby("kind")["value"].mean()
    steps, length = np.log(2), toys.LENGTH - 1
    expected = {"cycle": np.log(12) / length, "markov": (np.log(12) + 14 * steps) / length, "noise": np.log(12)}
    for kind, value in expected.items():
        assert loss[kind] == pytest.approx(value, rel=1e-6)


def test_a_uniform_guess_has_the_declared_chance():
    _, table = build(lost=("cycle", "markov"))
    excess = table[table["measure"] == "excess"]
    np.testing.assert_allclose(excess["value"], excess["chance"], atol=1e-6)


def test_accuracy_counts_determined_tokens_only():
    _, table = build()
    accuracy = table[table["measure"] == "accuracy"]
    assert set(accuracy["kind"]) == {"cycle"} and (accuracy["value"] == 1).all()
    _, lost = build(lost=("cycle",))
    assert lost.loc[lost["measure"] == "accuracy", "value"].mean() == pytest.approx(
        1 / 12, abs=4 * (11 / 144 / 24 / 14) ** 0.5
    )


def test_behaviours_are_the_undetermined_kinds_with_something_to_know():
    probe, table = build(kinds=None)
    followed = table[table["behaviour"].notna()]
    assert set(followed["behaviour"]) == {"markov"}
    assert set(followed["measure"]) == {"excess"}
    assert set(probe.kind) == set(toys.KINDS)


def test_the_claim_is_about_the_kinds_mastered_at_the_trained_weights():
    probe, table = build()
    assert probe.mastered == ("cycle",)
    assert probe.claim().check(table)
    assert probe.claim()(Bayes(lost=("cycle",)).eval())["value"].item() == 0
    nothing, _ = build(kinds=("markov",))
    with pytest.raises(ValueError, match="Kinds.build"):
        nothing.claim()


def test_wrong_shapes_are_refused_with_the_value():
    sample = toys.Corpus().of_kind("cycle", 3, seed=0)
    with pytest.raises(ValueError, match=r"entropy must have shape \(3, 15\) .* got \(3, 16\)"):
        Kinds(sample.tokens, sample.kind, np.zeros((3, 16)), sample.surprisal)


def test_text_without_a_known_law_is_refused(model):
    windows = SimpleNamespace(tokens=toys.Corpus().of_kind("noise", 2, seed=0).tokens, kind=np.array(["text"] * 2))
    corpus = SimpleNamespace(of_kind=lambda kind, n, seed: windows, heldout=lambda n, seed: windows)
    with pytest.raises(ValueError, match="no known law, its samples lack entropy, surprisal: use Ngrams or LogitLens"):
        Kinds.build(Subject(model, organism=SimpleNamespace(corpus=corpus)))
