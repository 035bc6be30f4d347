"""Scores of heads against planted patterns and weights, and on the organism whose heads are known."""

import numpy as np
import pytest
import torch

from probes import Subject, tl_weights
from probes.ablation import Ablation
from probes.heads import Heads, copying, parse_heads
from probes.hooks import hooked
from probes.induction import Induction, periods
from studies.organisms.induction import induction
from tests.probes import toys

SAMPLE = toys.Corpus().of_kind("repeat", 5, seed=1)
PROBE = Heads(Induction(SAMPLE.tokens, periods(SAMPLE.tokens, start=1), start=1))


def by_head(table, measure):
    return table[table["measure"] == measure].groupby(["layer", "head"])["value"].mean()


@pytest.mark.parametrize(("look", "offset"), [("previous token", None), ("duplicate token", 0), ("prefix matching", 1)])
def test_a_planted_pattern_scores_one_and_a_uniform_one_its_chance(model, look, offset):
    def plant(pattern):
        planted = torch.ones_like(pattern).tril()
        planted /= planted.sum(-1, keepdim=True)
        for example, period in enumerate(PROBE.repeated.period.tolist()):
            for t in range(period + 1, toys.LENGTH):
                key = t - 1 if offset is None else t - period + offset
                planted[example, 1, t] = torch.nn.functional.one_hot(torch.tensor(key), toys.LENGTH)
        return planted

    with hooked(model, {"blocks.1.attn.hook_pattern": plant}):
        table = PROBE(model)
    rows = table[(table["measure"] == look) & (table["layer"] == 1)]
    assert (rows.loc[rows["head"] == 1, "value"] == 1).all()
    np.testing.assert_allclose(rows.loc[rows["head"] == 0, "value"], rows.loc[rows["head"] == 0, "chance"], rtol=1e-6)


def test_prefix_matching_is_that_of_the_induction_probe(model):
    own, theirs = by_head(PROBE(model), "prefix matching"), by_head(PROBE.repeated(model), "prefix matching")
    np.testing.assert_array_equal(own, theirs)


@torch.no_grad()
def test_copying_of_planted_weights_is_one_and_of_their_negative_minus_one():
    """W_V projects on half of the stream and W_O puts it back: the circuit is E P E^T, all eigenvalues positive."""
    model = toys.bridge(heads=2)
    attention = model.blocks[1].attn
    model.ln_final.weight.fill_(1.0)
    model.blocks[1].ln1.weight.fill_(1.0)
    weights = {name: getattr(attention, name).weight for name in "vo"}
    half = torch.eye(8)[:4]
    weights["v"].copy_(torch.cat([half, half]))
    weights["o"].copy_(torch.cat([half.T, -half.T], dim=1))
    model.unembed.weight.copy_(model.W_E)
    scores = copying(model).set_index(["layer", "head"])["value"]
    assert scores[1, 0] == pytest.approx(1, abs=1e-6) and scores[1, 1] == pytest.approx(-1, abs=1e-6)


def circuit(model, layer, head):
    """What reading each token adds to the logit of each, up to the size of the final norm, shape (V, V)."""
    reads, writes = tl_weights.values(model, layer)[head], tl_weights.outputs(model, layer)[head]
    normed = tl_weights.before_attention(model, layer, tl_weights.embedding(model))
    return normed @ reads @ writes @ tl_weights.way_out(model)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "native"])
def test_copying_equals_the_eigenvalues_of_the_whole_circuit(family):
    """The naive twin: the V x V matrix, made by running each token embedding through norm, W_V, W_O, norm and W_U."""
    model = toys.bridge() if family == "llama" else toys.family(family)
    scores = copying(model).set_index(["layer", "head"])["value"]
    for layer, head in scores.index:
        whole = torch.linalg.eigvals(circuit(model, layer, head))
        assert scores[layer, head] == pytest.approx(float(whole.real.sum() / whole.abs().sum()), abs=1e-6)


def test_the_in_context_score_is_what_repetition_is_worth(model):
    following = SAMPLE.tokens.roll(-1, dims=1)

    def late(scores):
        known = 50.0 * torch.nn.functional.one_hot(following, scores.shape[-1])
        return known * PROBE.repeated.scored()[..., None]

    with hooked(model, {"unembed.hook_out": late}):
        table = PROBE(model)
    scores = table.loc[table["measure"] == "in-context score", "value"]
    np.testing.assert_allclose(scores, np.log(toys.VOCABULARY), rtol=1e-6)


def test_heads_are_named_by_layer_and_head():
    with pytest.raises(ValueError, match="named like L0H3.*'0.3'"):
        parse_heads(["0.3"])


def test_a_claim_without_its_measurement_says_what_to_do():
    with pytest.raises(ValueError, match="Heads.build"):
        PROBE.claim()


TRAINED = pytest.mark.skipif(not (induction.folder / "config.json").exists(), reason="the organism has no model yet")


@pytest.fixture(scope="module")
def subject():
    return Subject(*induction.load(), induction)


@pytest.fixture(scope="module")
def table(subject):
    return Heads.build(subject)(subject.model)


@TRAINED
def test_induction_heads_match_prefixes_and_copy(table):
    """Half of the attention, and eigenvalues nearly all positive: Olsson et al. 2022 and Elhage et al. 2021 give no
    cut-off; these are where published induction heads lie. Measured: 0.64 to 0.79, and 0.99 and more.
    """
    matching, copies = by_head(table, "prefix matching"), by_head(table, "copying")
    found = matching[matching >= 0.5]
    assert len(found) and (copies[found.index] >= 0.9).all()


@TRAINED
def test_the_first_layer_does_not_match_prefixes(table):
    """Without composition a head cannot see what stood before: it stays near its chance, uniform attention."""
    matching = by_head(table, "prefix matching")
    chance = table.loc[table["measure"] == "prefix matching", "chance"].mean()
    assert (matching[0] < 2 * chance).all()


@TRAINED
@torch.no_grad()
def test_copying_elsewhere_is_not_near_zero_but_negative_and_faint(subject, table):
    """The requirement "near 0 elsewhere" does not hold: the first layer of the shipped model has -0.76 to -0.95.

    That is the model's truth: the whole V x V circuits say the same, and they lower the logit of the letter that is
    read. The letters of a segment are all different, so that one just seen is not the next. But faintly: the score
    weighs signs, and by size these heads move that logit by -0.14 on average, the induction heads by 1.6.
    """
    scores, moved = by_head(table, "copying"), {}
    for layer, head in scores.index:
        whole = circuit(subject.model, layer, head)
        eigenvalues = torch.linalg.eigvals(whole)
        assert scores[layer, head] == pytest.approx(float(eigenvalues.real.sum() / eigenvalues.abs().sum()), abs=1e-6)
        others = (whole.sum() - whole.diagonal().sum()) / (whole.numel() - len(whole))
        moved[layer, head] = float(whole.diagonal().mean() - others)
    assert all(scores[0, head] < -0.5 and -0.3 < moved[0, head] < 0 for head in range(4))
    assert min(moved[1, head] for head in range(4)) > 3 * max(-moved[0, head] for head in range(4))


def test_copying_of_random_weights_is_near_zero():
    """48 heads of random weights: their mean is within four standard errors of 0, and none is near 1."""
    models = [toys.bridge(seed=seed, d_model=64, heads=4, vocabulary=80) for seed in range(6)]
    scores = np.concatenate([copying(model)["value"].to_numpy() for model in models])
    assert abs(scores.mean()) < 4 * scores.std() / np.sqrt(len(scores)) and np.abs(scores).max() < 0.5


@TRAINED
def test_ablating_the_previous_token_head_raises_the_second_half_loss_tenfold(subject, table):
    """Ten is the project's requirement: a pilot whose loss at w* was 0.034 had 38 (zero) to 171 (resample).

    Measured on what the repetition determines: 0.0006 nats at w*, 4.5 with the head at its mean.
    """
    previous = by_head(table, "previous token")
    assert previous.max() >= 0.5
    layer, head = previous.idxmax()
    probe = Ablation.build(subject, sites="head", kinds="mean", n=32)
    losses = probe(subject.model)
    whole = losses.loc[losses["measure"] == "loss", "value"].mean()
    rise = losses[(losses["layer"] == layer) & (losses["head"] == head)]["value"].mean()
    assert whole + rise >= 10 * whole


@TRAINED
def test_the_default_claim_holds(subject, table):
    assert Heads.build(subject).claim().check(table)
