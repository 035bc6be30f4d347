"""Circuit loss: the whole model, nothing of it, a planted circuit, and circuits found for what they keep."""

import numpy as np
import pytest
import torch

from probes import Subject
from probes.circuit import Circuit
from probes.circuit_loss import CircuitLoss
from probes.edges import KINDS
from probes.graph import Graph
from studies.organisms.retrieval import retrieval
from tests.probes import planted, toys

PAIRS = toys.Corpus().pairs(4, seed=2)
GRAPH = Graph(2, 2, 2)


@pytest.fixture(scope="module")
def model():
    return toys.bridge()


def paid(table, measure, circuit=None, kind=None):
    rows = table[table["measure"] == measure]
    for key, wanted in (("circuit", circuit), ("kind", kind)):
        rows = rows if wanted is None else rows[rows[key] == wanted]
    return rows["value"].to_numpy()


def loss_of(model, tokens):
    scores = model(tokens)[torch.arange(len(tokens)), PAIRS.position].double().log_softmax(-1)
    return -scores.gather(1, PAIRS.answer[:, None])[:, 0].detach()


def test_all_edges_pay_what_the_model_pays_and_none_what_the_corrupted_run_pays(model):
    circuits = (Circuit(GRAPH, GRAPH.edges), Circuit(GRAPH, ()))
    table = CircuitLoss(*PAIRS, circuits=circuits, kinds=KINDS)(model)
    np.testing.assert_allclose(paid(table, "loss"), loss_of(model, PAIRS.clean), atol=1e-5)
    for kind in KINDS:
        np.testing.assert_allclose(paid(table, "circuit loss", 0, kind), paid(table, "loss"), atol=1e-5)
    np.testing.assert_allclose(paid(table, "circuit loss", 1, "resample"), loss_of(model, PAIRS.corrupted), atol=1e-5)
    assert (paid(table, "circuit loss", 1, "zero") != paid(table, "circuit loss", 1, "resample")).all()


def test_a_planted_circuit_pays_what_the_model_pays_and_less_of_it_pays_more():
    circuits = (Circuit(GRAPH, planted.EDGES[:-1]), Circuit(GRAPH, planted.EDGES))
    probe = CircuitLoss(*planted.pairs(), circuits=circuits)
    table = probe(planted.bridge())
    np.testing.assert_allclose(paid(table, "circuit loss", 1), paid(table, "loss"), atol=1e-3)
    assert paid(table, "circuit loss", 0).mean() > paid(table, "loss").mean() + 0.5
    assert probe.claim().check(table)
    assert not CircuitLoss(*planted.pairs(), circuits=circuits[:1]).claim().check(table)


def test_the_guess_is_one_of_the_answers_that_occur():
    probe = CircuitLoss(*PAIRS, circuits=(Circuit(GRAPH, GRAPH.edges),))
    answers = set(PAIRS.answer.tolist()) | set(PAIRS.wrong.tolist())
    assert probe.uninformed == pytest.approx(np.log(len(answers)))


def test_circuits_keep_what_they_were_found_for_on_the_pairs_they_were_found_on():
    model, tokenizer = retrieval.load()
    shares = (0.3, 0.9)
    probe = CircuitLoss.build(Subject(model, tokenizer, organism=retrieval), n=8, known=shares)
    few, many = probe.circuits
    assert set(few.edges) < set(many.edges)
    pairs = retrieval.corpus.pairs(8, 1)
    again = CircuitLoss(pairs.clean, pairs.corrupted, pairs.position, pairs.answer, pairs.wrong, probe.circuits)
    table = again(model)
    own = paid(table, "loss").mean()
    for place, share in enumerate(shares):
        assert paid(table, "circuit loss", place).mean() <= own + (1 - share) * (again.uninformed - own) + 1e-6
    assert not torch.equal(probe.clean, pairs.clean)


def test_a_model_that_knows_no_more_than_a_guess_is_refused(model):
    with pytest.raises(ValueError, match="nothing that a circuit could explain"):
        CircuitLoss.build(toys.subject(model), n=3, guess=0.01)
    for settings, said in (({"known": 1.5}, "shares between 0 and 1"), ({"kinds": "loud"}, "unknown kinds")):
        with pytest.raises(ValueError, match=said):
            CircuitLoss.build(toys.subject(model), n=3, **settings)
