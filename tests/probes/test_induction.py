"""Induction against a loop written out, a planted attention pattern, and a model that only looks up."""

import numpy as np
import pytest
import torch

from probes import Induction
from probes.hooks import attention, hooked
from probes.induction import periods
from tests.probes import toys

SAMPLE = toys.Corpus().of_kind("repeat", 5, seed=1)
PROBE = Induction(SAMPLE.tokens, periods(SAMPLE.tokens, start=1), start=1)


def heads(table):
    return table[table["measure"] == "prefix matching"]


def test_scored_positions_are_exactly_those_the_corpus_calls_determined():
    assert (PROBE.scored()[:, :-1].numpy() == (SAMPLE.entropy == 0)).all()


def test_prefix_matching_equals_the_loop_written_out(model):
    with torch.no_grad():
        pattern = attention(model, PROBE.tokens)
    found = heads(PROBE(model)).set_index(["layer", "example", "head"])["value"]
    for layer, example, head in found.index:
        period = int(PROBE.period[example])
        looked = [float(pattern[layer, example, head, t, t - period + 1]) for t in range(1 + period, toys.LENGTH - 1)]
        assert found[layer, example, head] == pytest.approx(np.mean(looked), abs=1e-6)


def test_a_planted_induction_head_scores_one_and_a_uniform_one_its_chance(model):
    def plant(pattern):
        planted = torch.ones_like(pattern).tril()
        planted /= planted.sum(-1, keepdim=True)
        for example, period in enumerate(PROBE.period.tolist()):
            for t in range(period, toys.LENGTH):
                planted[example, 1, t] = torch.nn.functional.one_hot(torch.tensor(t - period + 1), toys.LENGTH)
        return planted

    with hooked(model, {"blocks.1.attn.hook_pattern": plant}):
        table = heads(PROBE(model))
    last = table[table["layer"] == 1]
    assert (last.loc[last["head"] == 1, "value"] == 1).all()
    uniform = last[last["head"] == 0]
    np.testing.assert_allclose(uniform["value"], uniform["chance"], rtol=1e-6)


def test_accuracy_and_loss_of_a_perfect_and_of_a_clueless_model(model):
    """The unembedding's input is replaced by one that makes the next token certain, or nothing at all."""
    following = PROBE.tokens.roll(-1, dims=1)

    def answers(make):
        with hooked(model, {"unembed.hook_out": make}):
            table = PROBE(model)
        return table[table["measure"] != "prefix matching"].pivot(index="example", columns="measure", values="value")

    perfect = answers(lambda scores: 50.0 * torch.nn.functional.one_hot(following, scores.shape[-1]))
    assert (perfect["accuracy"] == 1).all()
    np.testing.assert_allclose(perfect["loss"], 0, atol=1e-6)
    clueless = answers(torch.zeros_like)
    np.testing.assert_allclose(clueless["loss"], np.log(toys.VOCABULARY), rtol=1e-6)


def test_behaviour_rows_are_the_accuracy_alone(model):
    table = PROBE(model)
    assert set(table.loc[table["behaviour"].notna(), "measure"]) == {"accuracy"}
    assert table.loc[table["measure"] == "accuracy", "chance"].unique().tolist() == [
        1 / len(PROBE.tokens[:, 1:].unique())
    ]


def test_random_sequences_use_the_vocabulary_and_are_frozen_by_their_seed():
    first, again, other = (Induction.random([3, 5, 7, 9], n=8, period=6, seed=seed) for seed in (0, 0, 1))
    assert set(first.tokens.unique().tolist()) == {3, 5, 7, 9}
    assert torch.equal(first.tokens, again.tokens) and not torch.equal(first.tokens, other.tokens)
    assert torch.equal(first.tokens[:, :6], first.tokens[:, 6:])


def test_periods_are_the_smallest():
    assert periods(torch.tensor([[1, 2, 1, 2, 1, 2], [1, 2, 3, 1, 2, 3]])).tolist() == [2, 3]
    with pytest.raises(ValueError, match="sequence 1 does not repeat from token 0"):
        periods(torch.tensor([[1, 1, 1, 1], [1, 2, 3, 4]]))


def test_the_claim_is_about_the_strongest_heads_of_the_trained_model(model):
    probe = Induction.build(toys.subject(model), n=5, seed=1)
    table = probe(model)
    means = heads(table).groupby(["layer", "head"])["value"].mean()
    assert set(probe.heads) == set(means.index[means >= 0.9 * means.max()])
    assert probe.least == pytest.approx(means.max() / 2, abs=0.005)
    assert probe.claim().check(table)
    weakest = means.idxmin()
    overtaken, faded = table.copy(), table.copy()
    overtaken.loc[(table["layer"] == weakest[0]) & (table["head"] == weakest[1]), "value"] = 1.0
    assert not probe.claim().check(overtaken)
    faded["value"] *= 0.4
    assert not probe.claim().check(faded)


def test_build_on_a_vocabulary_needs_no_organism(model):
    from probes import Subject

    probe = Induction.build(Subject(model), vocabulary=range(toys.LETTERS), n=3, period=5)
    assert probe.tokens.shape == (3, 10) and probe.heads
    with pytest.raises(ValueError, match="'induction' .* no organism.*vocabulary="):
        Induction.build(Subject(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"period": torch.full((5,), 14)}, r"1..13 .* got \[14\]"),
        ({"period": torch.full((5,), 3)}, "sequence 0 does not repeat with period 3 from token 1"),
        ({"period": torch.tensor(4)}, r"period shape \(n,\)"),
    ],
)
def test_bad_input_is_refused_with_value_and_cure(change, message):
    with pytest.raises(ValueError, match=message):
        Induction(**({"tokens": SAMPLE.tokens, "period": PROBE.period, "start": 1} | change))


def test_a_claim_without_its_measurement_says_what_to_do():
    with pytest.raises(ValueError, match="Induction.build"):
        PROBE.claim()
