"""The whole model explains itself, a planted circuit all of it and no less; agreement with transformer-lens."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from probes.circuit import Circuit
from probes.edges import KINDS
from probes.faithfulness import Faithfulness
from probes.graph import Graph
from studies.organisms.mixture import mixture
from tests.probes import planted, toys

PAIRS = toys.Corpus().pairs(4, seed=2)
GRAPH = Graph(2, 2, 2)
EVERYTHING = Circuit(GRAPH, GRAPH.edges)


def value(table, measure, **keys):
    rows = table[table["measure"] == measure]
    for key, wanted in keys.items():
        rows = rows[rows[key] == wanted]
    return rows["value"].to_numpy()


@pytest.fixture(scope="module")
def planted_table():
    circuit = Circuit(GRAPH, planted.EDGES)
    return Faithfulness(*planted.pairs(), circuit=circuit)(planted.bridge())


def test_the_whole_model_explains_itself_under_every_kind(model):
    table = Faithfulness(*PAIRS, circuit=EVERYTHING)(model)
    for kind in KINDS:
        assert value(table, "faithfulness", kind=kind) == pytest.approx(1, abs=1e-6)
        assert value(table, "completeness", kind=kind) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(value(table, "circuit", kind=kind), value(table, "model"), atol=1e-5)
    assert table.loc[table["measure"] == "overlap", "chance"].item() == 1


def test_the_empty_circuit_under_resampling_is_the_corrupted_run(model):
    table = Faithfulness(*PAIRS, circuit=EVERYTHING, kinds=("resample",))(model)
    scores = model(PAIRS.corrupted)[torch.arange(4), PAIRS.position]
    corrupted = scores.gather(1, PAIRS.answer[:, None]) - scores.gather(1, PAIRS.wrong[:, None])
    np.testing.assert_allclose(value(table, "empty"), corrupted[:, 0].detach(), atol=1e-5)


def test_a_planted_circuit_is_faithful_and_complete_and_each_node_is_needed(planted_table):
    for kind in ("resample", "mean"):  # the previous-token head's positions stay, and so do means by position
        assert value(planted_table, "faithfulness", kind=kind) == pytest.approx(1, abs=1e-3)
        assert value(planted_table, "completeness", kind=kind) == pytest.approx(1, abs=1e-3)
    contribution = planted_table[planted_table["measure"] == "contribution"].set_index(["kind", "removed"])["value"]
    # a third of the pairs each changes the keys, the question, the value: head 0.0 tells of the keys alone
    expected = {"input": 1, "L0H0": 1 / 3, "L1H1": 1}
    assert contribution["resample"].to_dict() == pytest.approx(expected, abs=1e-2)
    assert value(planted_table, "minimality", kind="resample") == pytest.approx(1 / 3, abs=1e-2)
    assert value(planted_table, "overlap") == 1


def test_what_zeroing_takes_away_is_not_what_resampling_does(planted_table):
    """Zeroing the embeddings also takes the positions from the previous-token head, which no pair of prompts does."""
    assert value(planted_table, "faithfulness", kind="zero") < 0.3


def test_a_node_too_much_is_not_minimal_and_one_too_few_is_not_complete():
    bridge, pairs = planted.bridge(), planted.pairs()
    more = Circuit(GRAPH, (*planted.EDGES, "input->L0H1.v", "L0H1->L1MLP", "L1MLP->logits"))
    table = Faithfulness(*pairs, circuit=more, kinds=("resample",))(bridge)
    assert value(table, "faithfulness") == pytest.approx(1, abs=1e-3)
    assert value(table, "minimality") == pytest.approx(0, abs=1e-3)
    assert value(table, "contribution", removed="L0H1") == pytest.approx(0, abs=1e-3)
    less = Circuit(GRAPH, ("input->L1H1.v", "L1H1->logits"))
    table = Faithfulness(*pairs, circuit=less, kinds=("resample",))(bridge)
    assert value(table, "faithfulness") < 0.5 and value(table, "completeness") < 0.5
    assert value(table, "incompleteness", removed="nothing") == pytest.approx(1 - value(table, "faithfulness"))


def test_faithfulness_agrees_with_transformer_lens(model):
    """Theirs takes one pair and edges apart by position; a circuit here is all positions of its edges."""
    from transformer_lens.tools.analysis import attribution_patching as theirs

    from tests.probes.test_attribution import named

    circuit = Circuit(GRAPH, ("input->L0H1.v", "L0H1->L1MLP", "L0H1->logits", "L1MLP->logits", "input->L1MLP"))
    for row in range(2):
        one = [part[row : row + 1] for part in PAIRS]
        end, answer, wrong = (int(part) for part in one[2:])

        def metric(scores, end=end, answer=answer, wrong=wrong):
            return scores[0, end, answer] - scores[0, end, wrong]

        config = theirs.EdgeAttributionConfig(granularity="edge")
        edges = theirs.attribution_patch(model, one[0], one[1], metric, config).edge_scores
        mine = [edge for edge in edges if f"{named(edge[0])}->{named(edge[1])}" in circuit.edges]
        expected = theirs.faithfulness(model, one[0], one[1], metric, mine).recovered
        table = Faithfulness(*one, circuit=circuit, kinds=("resample",))(model)
        assert value(table, "faithfulness") == pytest.approx(expected, abs=1e-4)


def test_the_claim_holds_at_home_and_needs_something_to_explain():
    bridge, pairs = planted.bridge(), planted.pairs()
    probe = Faithfulness(*pairs, circuit=Circuit(GRAPH, planted.EDGES), kinds=("resample",))
    claim, table = probe.claim(), probe(bridge)
    assert claim.statement == "5 edges explain the model: faithfulness within 0.2 of 1 (resample)" and claim.check(
        table
    )
    poor = replace(probe, circuit=Circuit(GRAPH, ("input->L1H1.v", "L1H1->logits")))
    assert not poor.claim()(bridge)["value"].item()
    silent = table.copy()
    silent.loc[silent["measure"] == "model", "value"] = silent.loc[silent["measure"] == "empty", "value"].to_numpy()
    assert not claim.check(silent)


def test_a_circuit_can_be_given_by_file_and_is_found_otherwise(model, tmp_path):
    path = tmp_path / "circuit.json"
    Circuit(GRAPH, ("input->logits",)).to_json(path)
    subject = toys.subject(model)
    assert Faithfulness.build(subject, n=2, circuit=str(path)).circuit.edges == ("input->logits",)
    found = Faithfulness.build(subject, n=2, size=7, kinds="mean").circuit
    assert 1 <= len(found.edges) <= 7
    with pytest.raises(ValueError, match="kinds of ablation .*'noise'.* resample, mean, zero"):
        Faithfulness.build(subject, kinds="noise")


def test_a_circuit_of_another_model_or_of_nothing_is_refused(model):
    with pytest.raises(ValueError, match=r"layers=3.* and this model is Graph\(layers=2"):
        Faithfulness(*PAIRS, circuit=Circuit(Graph(3, 2, 2), ("input->logits",)))(model)
    with pytest.raises(ValueError, match="no edges"):
        Faithfulness(*PAIRS, circuit=Circuit(GRAPH, ()))(model)


def test_the_record_of_a_probe_names_its_circuit():
    probe = Faithfulness(*PAIRS, circuit=Circuit(GRAPH, ("input->logits",)))
    assert json.loads(probe.circuit.to_json())["edges"] == ["input->logits"] and "input->logits" in repr(probe)


def test_circuits_by_integrated_gradients_explain_as_much_as_those_by_exact_patching():
    """At equal size on the trained mixture model, within 0.1 of the whole (Hanna et al. 2024: EAP-IG is faithful)."""
    if not mixture.folder.exists():
        pytest.skip("the organism's model is not in this checkout")
    model, pairs = mixture.load()[0], mixture.corpus.pairs(16, seed=0)
    faithful = {}
    for method in ("exact", "eap-ig"):
        probe = Faithfulness(*pairs, circuit=Circuit(GRAPH, ()), method=method, kinds=("resample",))
        found = replace(probe, circuit=probe.found(model, size=14))
        faithful[method] = value(found(model), "faithfulness").item()
    assert faithful["eap-ig"] > faithful["exact"] - 0.1
