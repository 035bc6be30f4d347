"""The logit lens at the last layer is the model."""

import numpy as np
import pytest
import torch

from probes.hooks import record
from probes.lenses import LogitLens
from probes.predictions import predictions
from tests.probes import toys

TOKENS = toys.Corpus().heldout(8, seed=2).tokens


def at(table, measure, layer):
    return table[(table["measure"] == measure) & (table["layer"] == layer)]["value"].to_numpy()


@pytest.mark.parametrize("family", ["llama", *toys.FAMILIES])
def test_the_last_layer_is_the_model(family):
    model = toys.bridge() if family == "llama" else toys.family(family)
    table = LogitLens(TOKENS)(model)
    assert set(table["layer"]) == {0, 1, 2}
    assert (at(table, "agreement", 2) == 1).all()
    np.testing.assert_allclose(at(table, "lens kl", 2), 0, atol=1e-12)
    expected = predictions(model, TOKENS).nats.double().mean(1)
    np.testing.assert_allclose(at(table, "lens loss", 2), expected, rtol=1e-5)
    assert (at(table, "lens kl", 0) > 0).all()


@torch.no_grad()
def test_earlier_layers_are_norm_and_unembedding_of_the_stream(model):
    scores, kept = record(model, TOKENS, ["blocks.0.hook_resid_post"])
    stream = kept["blocks.0.hook_resid_post"]
    normed = stream / (stream.square().mean(-1, keepdim=True) + model.cfg.eps).sqrt() * model.ln_final.weight
    lens = (normed @ model.W_U).log_softmax(-1)[:, :-1].double()
    final = scores.log_softmax(-1)[:, :-1].double()
    table = LogitLens(TOKENS)(model)
    np.testing.assert_allclose(
        at(table, "lens kl", 1), (final.exp() * (final - lens)).sum(-1).mean(1), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(at(table, "agreement", 1), (lens.argmax(-1) == final.argmax(-1)).double().mean(1))


def test_parts_do_not_change_the_answer(model, monkeypatch):
    whole = LogitLens(TOKENS)(model)
    monkeypatch.setattr("probes.lenses.CELLS", 3 * toys.LENGTH * toys.VOCABULARY)
    np.testing.assert_allclose(LogitLens(TOKENS)(model)["value"], whole["value"], atol=1e-6)


def test_the_claim_is_about_the_layer_from_which_on_it_agrees(model):
    probe = LogitLens.build(toys.subject(model), n=8)
    table = probe(model)
    means = table[table["measure"] == "agreement"].groupby("layer")["value"].mean()
    assert (means[means.index >= probe.decided] >= 0.5).all()
    assert probe.decided == 0 or means[probe.decided - 1] < 0.5
    assert probe.claim().check(table)
    with pytest.raises(ValueError, match="LogitLens.build"):
        LogitLens(TOKENS).claim()
