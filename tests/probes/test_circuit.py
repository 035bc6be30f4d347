"""Planted circuits are found exactly; a circuit survives json, removal of nodes, and comparison."""

import json

import pytest
import torch

from probes.attribution import METHODS
from probes.circuit import Circuit, nested, of_faithfulness, of_size
from probes.faithfulness import Faithfulness
from probes.graph import Graph
from tests.probes import planted

GRAPH = Graph(2, 2, 2)
PLANTED = Circuit(GRAPH, planted.EDGES)


@pytest.fixture(scope="module")
def bridge():
    return planted.bridge()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("size", "faithfulness"), [(5, 0.0), (None, 0.99)])
def test_a_planted_circuit_is_found_exactly(bridge, method, size, faithfulness):
    probe = Faithfulness(*planted.pairs(), circuit=PLANTED, method=method)
    assert probe.found(bridge, size, faithfulness) == PLANTED


def test_half_of_a_planted_task_is_done_by_less_of_the_circuit(bridge):
    """With only the copied value changed, nobody needs to know where it stands: keys and queries fall out."""
    changed = torch.arange(12) % 3 == 2
    pairs = (part[changed] for part in planted.pairs())
    found = Faithfulness(*pairs, circuit=PLANTED).found(bridge, None, 0.99)
    assert found.edges == ("input->L1H1.v", "L1H1->logits")


def test_json_there_and_back(tmp_path):
    path = tmp_path / "circuit.json"
    text = PLANTED.to_json(path)
    assert Circuit.from_json(path) == Circuit.from_json(str(path)) == Circuit.from_json(text) == PLANTED
    content = json.loads(text)
    assert content["graph"] == {"layers": 2, "heads": 2, "shared": 2, "parallel": False}
    assert content["nodes"] == ["input", "L0H0", "L1H1", "logits"] and set(content["edges"]) == set(planted.EDGES)


def test_json_of_nodes_alone_means_all_edges_between_them():
    content = json.loads(PLANTED.to_json())
    del content["edges"]
    found = Circuit.from_json(json.dumps(content))
    assert found == Circuit.of_nodes(GRAPH, PLANTED.nodes)
    assert set(planted.EDGES) < set(found.edges)
    assert {name for edge in found.edges for name in edge.replace("->", ".").split(".")} == {
        *PLANTED.nodes,
        *"qkv",
    }


@pytest.mark.parametrize("text", ['{"edges": []}', '{"graph": {"layers": 1, "heads": 1, "shared": 1}}'])
def test_json_that_lacks_something_is_refused(text):
    with pytest.raises(ValueError, match="needs `graph` and `edges` or `nodes`, and the JSON has"):
        Circuit.from_json(text)


def test_edges_are_sorted_and_counted_once():
    assert Circuit(GRAPH, (*reversed(planted.EDGES), *planted.EDGES)) == PLANTED


def test_without_removes_what_nodes_write_and_no_more():
    assert PLANTED.without(["L0H0"]).edges == tuple(e for e in PLANTED.edges if not e.startswith("L0H0->"))
    assert PLANTED.without(["logits"]) == PLANTED


def test_overlap_is_the_jaccard_index():
    other = Circuit(GRAPH, (*planted.EDGES[:3], "input->logits"))
    assert PLANTED.overlap(other) == other.overlap(PLANTED) == 3 / 6
    assert PLANTED.overlap(PLANTED) == 1 and Circuit(GRAPH, ()).overlap(Circuit(GRAPH, ())) == 1
    with pytest.raises(ValueError, match="different models"):
        PLANTED.overlap(Circuit(Graph(2, 4, 4), ()))


def test_unknown_edges_and_nodes_are_refused():
    with pytest.raises(ValueError, match="first is 'L0H0->L0H1.q'"):
        Circuit(GRAPH, ("L0H0->L0H1.q",))
    with pytest.raises(ValueError, match=r"\['L9H0'\]; choose from input, L0H0"):
        Circuit.of_nodes(GRAPH, ["L9H0"])


def test_circuits_grow_by_complete_paths_only():
    scores = torch.zeros(GRAPH.present.shape)
    for score, edge in ((5, "L1H1->logits"), (4, "input->L0MLP"), (3, "L0MLP->L1H1.k"), (-2, "input->logits")):
        scores[GRAPH.places[edge]] = score
    edges = [circuit.edges for circuit in nested(GRAPH, scores)]
    assert [len(each) for each in edges] == [3, 4] and "input->logits" not in edges[0]
    assert of_size(GRAPH, scores, 3).edges == edges[0] == of_faithfulness(GRAPH, scores, lambda _: True).edges
    assert of_size(GRAPH, scores, 2).edges == ()
    with pytest.raises(ValueError, match="ask for less"):
        of_faithfulness(GRAPH, scores, lambda _: False)


def test_shared_keys_lead_to_all_heads_of_their_group():
    grouped = Graph(2, 2, 1)
    circuit = Circuit(grouped, ("input->L1H0.k", "L1H1->logits"))
    assert torch.equal(grouped.trimmed(circuit.mask), circuit.mask)
    assert "input->L1H0.v" in Circuit.of_nodes(grouped, ["input", "L1H1", "logits"]).edges
