"""Subjects say what they lack, settings are checked, claims decide on their probe's table."""

from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest

import probes
from probes import Claim, Induction, Kinds, Patching, Recall, Subject
from probes.probe import name_of
from tests.probes import toys

BUILT = [Patching, Induction, Recall, Kinds]


@pytest.mark.parametrize("probe", BUILT)
def test_an_unknown_setting_is_refused_with_the_known_ones(probe):
    with pytest.raises(ValueError, match=f"{probe.__name__} has no setting 'colour'; its settings are n, seed"):
        probe.build(Subject(None), colour="red")


@pytest.mark.parametrize("probe", BUILT)
def test_a_missing_organism_is_named(probe):
    with pytest.raises(ValueError, match=f"'{probe.name}' .* no organism"):
        probe.build(Subject(None))


NEEDS = [(Patching, ("pairs", "of_kind")), (Recall, ("queries", "canaries")), (Kinds, ("heldout",))]


@pytest.mark.parametrize(("probe", "needs"), NEEDS)
def test_what_the_corpus_lacks_is_named(probe, needs):
    has = [name for name in ("of_kind", "queries", "pairs", "heldout", "canaries") if name not in needs]
    corpus = SimpleNamespace(**dict.fromkeys(has))
    with pytest.raises(ValueError, match=f"lacks .*{needs[0]}|needs .*{needs[0]}"):
        probe.build(Subject(None, organism=SimpleNamespace(corpus=corpus)))


@pytest.mark.parametrize("probe", BUILT)
@pytest.mark.parametrize("n", [0, -1, 2.5, "4"])
def test_a_size_must_be_a_positive_whole_number(probe, n):
    with pytest.raises(ValueError, match=f"{probe.name}: n must be a whole number of at least 1, got {n!r}"):
        probe.build(toys.subject(None), n=n)


def test_a_claim_is_a_probe_that_decides_on_a_table():
    def count(model):
        return pd.DataFrame({"measure": ["count"], "value": [float(model)]})

    claim = Claim(count, "more than two", lambda table: table["value"].item() > 2)
    assert claim.name == "claim: more than two"
    assert [claim(model)["value"].item() for model in (2, 3)] == [0.0, 1.0]
    assert claim.check(count(3)) is True
    assert claim.draws is None and Claim(SimpleNamespace(draws=2), "", bool).draws == 2


def test_a_probe_without_a_name_is_refused():
    with pytest.raises(ValueError, match="has no name"):
        name_of(partial(print))


def test_importing_the_package_leaves_transformer_lens_alone():
    import subprocess
    import sys

    code = "import sys, probes; sys.exit('transformer_lens' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_names_exist():
    assert all(hasattr(probes, name) for name in probes.__all__)
