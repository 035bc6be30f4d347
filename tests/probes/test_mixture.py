"""The probes on the organism that ships: what they follow, and that their claims are true of the trained model."""

import pytest

from probes import (
    Ablation,
    Attribution,
    Faithfulness,
    Induction,
    Kinds,
    Patching,
    PathPatching,
    Recall,
    Subject,
)
from studies.organisms.mixture import mixture

CANARIES = {f"canary x{2**power}" for power in range(7)}
GROUPS = {f"{kind} {rank}" for kind in ("facts", "tail") for rank in ("frequent", "middle", "rare")}
GROUPS |= {"retrieval", "addition seen", "addition held out"}
BEHAVIOURS = {Recall: CANARIES | GROUPS, Induction: {"induction"}, Kinds: {"markov", "markov2"}, Patching: set()}
BEHAVIOURS |= {probe: set() for probe in (Ablation, Attribution, Faithfulness, PathPatching)}

pytestmark = pytest.mark.skipif(not mixture.folder.exists(), reason="the organism's model is not in this checkout")


@pytest.fixture(scope="module")
def answers():
    model, tokenizer = mixture.load()
    built = [probe.build(Subject(model, tokenizer, mixture)) for probe in BEHAVIOURS]
    return {type(probe): (probe, probe(model)) for probe in built}


@pytest.mark.parametrize("probe", BEHAVIOURS)
def test_each_behaviour_is_followed_by_one_probe(answers, probe):
    _, table = answers[probe]
    found = set(table["behaviour"].dropna()) if "behaviour" in table else set()
    assert found == BEHAVIOURS[probe]


@pytest.mark.parametrize("probe", BEHAVIOURS)
def test_the_default_claim_is_true_of_the_trained_model(answers, probe):
    asked, table = answers[probe]
    assert asked.claim().check(table), asked.claim().statement


def test_the_answer_enters_at_the_changed_token(answers):
    _, table = answers[Patching]
    first = table.query("measure == 'role recovery' and site == 'resid_pre' and layer == 0").set_index("role")["value"]
    assert first.to_dict() == pytest.approx(dict.fromkeys(first.index, 0) | {"changed": 1}, abs=1e-4)
