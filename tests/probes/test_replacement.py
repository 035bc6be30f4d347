"""Replacing a component by itself changes nothing; interpretations that are exact are found so."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from probes import Subject, replacement
from probes.hooks import hooked, record
from probes.predictions import predictions
from probes.replacement import Interpretation, Replacement, constant, linear, lookup, reconstruction
from tests.probes import toys

TOKENS = toys.Corpus().heldout(12, seed=2).tokens
OTHERS = toys.Corpus().heldout(80, seed=3).tokens
SITES = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "attn.hook_z", "attn.hook_pattern", "hook_resid_post")


def values(table, measure):
    return table.loc[table["measure"] == measure, "value"].to_numpy()


@pytest.mark.parametrize("family", ["llama", *toys.FAMILIES])
def test_the_identity_changes_nothing_bit_for_bit(family):
    model = toys.bridge() if family == "llama" else toys.family(family)
    probe = Replacement(TOKENS, tuple(Interpretation(f"blocks.1.{site}", lambda x, tokens: x) for site in SITES))
    table = probe(model)
    assert (values(table, "rise") == 0).all() and (values(table, "variance explained") == 1).all()
    np.testing.assert_allclose(values(table, "recovered"), 1)


def test_nothing_recovers_nothing(model):
    table = Replacement(TOKENS, (Interpretation("blocks.1.hook_mlp_out", lambda x, tokens: torch.zeros_like(x)),))(
        model
    )
    assert values(table, "recovered").tolist() == [0.0]


def test_a_complete_dictionary_reconstructs_and_a_half_one_does_not(model):
    basis = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]

    def recovered(features):
        kept = basis[:, :features]
        one = reconstruction("blocks.0.hook_mlp_out", lambda x: x @ kept, lambda f: f @ kept.T)
        table = Replacement(TOKENS, (one,))(model)
        return values(table, "variance explained")[0], abs(values(table, "rise")).max()

    assert recovered(8)[0] == pytest.approx(1, abs=1e-6) and recovered(8)[1] < 1e-5
    assert recovered(4)[0] < 0.99 and recovered(4)[1] > 1e-3


@torch.no_grad()
def test_a_linear_map_of_what_is_linear_is_exact(model):
    """The MLP's output is linear in its hidden units: least squares must find W_out."""
    hook, source = "blocks.0.hook_mlp_out", "blocks.0.mlp.out.hook_in"
    one = replacement._fitted(model, OTHERS, hook, source, "linear")
    table = Replacement(TOKENS, (one,))(model)
    assert values(table, "variance explained")[0] == pytest.approx(1, abs=1e-6)
    assert abs(values(table, "rise")).max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("by", ["mean", "lookup", "linear"])
def test_fits_equal_their_definition(model, by):
    hook, source = "blocks.1.hook_mlp_out", "blocks.1.mlp.hook_in"
    _, kept = record(model, OTHERS, [hook, source])
    a, x = kept[hook].flatten(0, 1).double(), kept[source].flatten(0, 1).double()
    found = replacement._fitted(model, OTHERS, hook, source, by).of(kept[source][:2], OTHERS[:2]).double()
    if by == "mean":
        expected = a.mean(0).expand(2, toys.LENGTH, 8)
    elif by == "lookup":
        ids = OTHERS.flatten()
        expected = torch.stack([a[ids == token].mean(0) for token in OTHERS[:2].flatten()]).reshape(2, toys.LENGTH, 8)
    else:
        ones = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
        expected = (ones @ torch.linalg.lstsq(ones, a).solution)[: 2 * toys.LENGTH].reshape(2, toys.LENGTH, 8)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_lookup_gives_tokens_that_never_occurred_the_mean():
    seen = torch.tensor([[1, 2], [2, 1]])
    kept = {"h": torch.tensor([[1.0], [3.0], [5.0], [1.0]], dtype=torch.float64)}
    one = replacement._fit_lookup("h", "h", seen, kept)
    assert one.of(torch.zeros(1, 3, 1), torch.tensor([[1, 2, 9]])).flatten().tolist() == [1.0, 4.0, 2.5]


@torch.no_grad()
def test_the_spliced_loss_is_that_of_the_edited_model(model):
    value = torch.arange(8.0)
    table = Replacement(TOKENS, (constant("blocks.0.hook_attn_out", value),))(model)
    with hooked(model, {"blocks.0.hook_attn_out": lambda x: value.expand_as(x)}):
        expected = predictions(model, TOKENS).nats.double().mean(1)
    np.testing.assert_array_equal(values(table, "reconstruction loss"), expected)


@torch.no_grad()
def test_a_lookup_of_the_embedding_is_the_embedding(model):
    table = Replacement(TOKENS, (lookup("blocks.0.hook_resid_pre", model.W_E),))(model)
    assert (values(table, "rise") == 0).all()


def test_a_source_that_comes_later_is_refused(model):
    late = linear("blocks.0.hook_attn_out", "blocks.1.hook_resid_post", torch.eye(8), torch.zeros(8))
    with pytest.raises(ValueError, match="'blocks.1.hook_resid_post' is computed after 'blocks.0.hook_attn_out'"):
        Replacement(TOKENS, (late,))(model)
    with pytest.raises(ValueError, match="no hook 'blocks.7.hook_x'"):
        Replacement(TOKENS, (Interpretation("blocks.7.hook_x", lambda x, tokens: x),))(model)


def test_one_hook_twice_and_unknown_settings_are_refused(model):
    one = Interpretation("blocks.0.hook_mlp_out", lambda x, tokens: x)
    with pytest.raises(ValueError, match="one for each hook"):
        Replacement(TOKENS, (one, one))
    with pytest.raises(ValueError, match="unknown by 'magic'; choose from zero, mean, lookup, linear"):
        Replacement.build(toys.subject(model), by="magic")


def test_a_corpus_with_nothing_left_to_fit_on_is_refused(model):
    corpus = SimpleNamespace(heldout=lambda n, seed: SimpleNamespace(tokens=TOKENS[:12]))
    with pytest.raises(ValueError, match="the corpus has 12 held out: ask for fewer, n=2"):
        Replacement.build(Subject(model, organism=SimpleNamespace(corpus=corpus)), n=12)
