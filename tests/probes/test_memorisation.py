"""Exposure of what was never shown is uniform; extraction is greedy decoding."""

import numpy as np
import pytest
import torch

from probes.memorisation import Memorisation, chance_exposure, exposure
from probes.predictions import predictions
from tests.probes import toys
from tests.probes.test_recall import Knows

CORPUS = toys.Corpus()
CANARIES, REFERENCES = CORPUS.canaries(), CORPUS.of_kind("noise", 31, seed=5).tokens
TRIALS, FRESH = 480, 15


def values(table, measure):
    return table.loc[table["measure"] == measure, "value"].to_numpy()


def test_exposure_of_a_never_seen_canary_is_uniform(model):
    """480 trials of one sequence among 15 others: the rank is uniform on 16 cells, chi-squared with 15 degrees.

    37.7 is its quantile 0.999; the seeds are fixed, so that the test answers the same each time.
    """
    tokens = CORPUS.of_kind("noise", TRIALS * (FRESH + 1), seed=17).tokens
    losses = predictions(model, tokens).nats.double().mean(1).numpy().reshape(TRIALS, FRESH + 1)
    bits = np.array([exposure(row[:1], row[1:])[0] for row in losses])
    ranks = np.round((FRESH + 1) / 2**bits).astype(int)
    counted = np.bincount(ranks, minlength=FRESH + 2)[1:]
    assert counted.sum() == TRIALS
    expected = TRIALS / (FRESH + 1)
    assert ((counted - expected) ** 2 / expected).sum() < 37.7
    standard_error = bits.std() / np.sqrt(TRIALS)
    assert abs(bits.mean() - chance_exposure(FRESH)) < 4 * standard_error


def test_the_chance_level_is_the_mean_over_ranks_and_tends_to_the_exponential_law():
    assert chance_exposure(3) == pytest.approx(np.mean(np.log2([4 / 1, 4 / 2, 4 / 3, 4 / 4])))
    assert chance_exposure(100_000) == pytest.approx(1 / np.log(2), abs=1e-3)


def test_ties_count_half():
    assert exposure(np.array([1.0]), np.array([1.0, 1.0, 2.0]))[0] == pytest.approx(np.log2(4) - np.log2(2))


def test_what_is_known_has_all_bits_and_can_be_extracted():
    known = CANARIES.tokens[CANARIES.copies == 16]
    table = Memorisation(CANARIES, REFERENCES, prefix=4)(Knows(known).eval())
    top = table[table["copies"] == 16]
    assert (values(top, "exposure") == np.log2(32)).all() and (values(top, "extraction") == 1).all()
    rest = table[table["copies"] < 16]
    assert (values(rest, "exposure") < np.log2(32)).all() and (values(rest, "extraction") == 0).all()
    assert set(table["behaviour"].dropna()) == {"exposure x1", "exposure x4", "exposure x16"}


@torch.no_grad()
def test_extraction_is_what_greedy_decoding_does(model):
    """The naive twin decodes token by token; canaries are made so that half of them are the model's own words."""
    canaries = CANARIES.tokens[:, :9].clone()
    for row in range(0, len(canaries), 2):
        for t in range(3, canaries.shape[1]):
            canaries[row, t] = model(canaries[row : row + 1, :t])[0, -1].argmax()
    decoded = canaries.clone()
    for t in range(3, canaries.shape[1]):
        decoded[:, t] = model(decoded[:, :t])[:, -1].argmax(-1)
    probe = Memorisation(CANARIES._replace(tokens=canaries), REFERENCES[:, :9], prefix=3)
    extracted = values(probe(model), "extraction")
    np.testing.assert_array_equal(extracted, (decoded == canaries).all(1))
    assert extracted[::2].all() and not extracted.all()


def test_the_loss_rise_is_counted_from_the_trained_model(model):
    probe = Memorisation.build(toys.subject(model), references=31)
    table = probe(model)
    assert (values(table, "loss rise") == 0).all()
    other = toys.bridge(seed=1)
    expected = predictions(other, CANARIES.tokens).nats.double().mean(1) - predictions(
        model, CANARIES.tokens
    ).nats.double().mean(1)
    np.testing.assert_allclose(values(probe(other), "loss rise"), expected)


def test_the_claim_asks_for_half_of_the_bits():
    probe = Memorisation(CANARIES, REFERENCES)
    assert probe.claim().statement == "canaries of 16 copies have an exposure >= 2.5 bits"
    assert probe.claim()(Knows(CANARIES.tokens[CANARIES.copies == 16]).eval())["value"].item() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"references": REFERENCES[:, :9]}, r"shape \(m, 16\).*got \(31, 9\)"),
        ({"prefix": 16}, "prefix must lie in 1..15 .* got 16"),
        ({"start": 0}, "start must lie in 1..15 .* got 0"),
    ],
)
def test_bad_input_is_refused_with_value_and_cure(change, message):
    with pytest.raises(ValueError, match=message):
        Memorisation(**({"canaries": CANARIES, "references": REFERENCES} | change))
