"""A metric of one's own on any hook."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from probes import Subject, sweep
from probes.hooks import record
from probes.reading import Reading
from tests.probes import toys

TOKENS = toys.Corpus().heldout(8, seed=2).tokens


def first_head(pattern):
    return pattern[:, 0, -1]


@torch.no_grad()
def test_it_is_the_metric_of_the_activation(model):
    table = Reading("blocks.0.hook_mlp_out", lambda x: x.norm(dim=(1, 2)), TOKENS)(model)
    _, kept = record(model, TOKENS, ["blocks.0.hook_mlp_out"])
    expected = kept["blocks.0.hook_mlp_out"].flatten(1).norm(dim=1)
    np.testing.assert_allclose(table["value"], expected, rtol=1e-6)
    assert list(table["example"]) == list(range(len(TOKENS)))


def test_several_numbers_an_example_get_an_index(model):
    table = Reading("blocks.1.attn.hook_pattern", first_head, TOKENS, "attention of the last token")(model)
    assert len(table) == len(TOKENS) * toys.LENGTH
    np.testing.assert_allclose(table.groupby("example")["value"].sum(), 1, rtol=1e-6)


def test_two_readings_can_be_swept_together(model):
    ladder = toys.Ladder(model, rungs=1, chains=1, draws=1)
    probes = [Reading(f"blocks.{layer}.hook_mlp_out", lambda x: x.mean((1, 2)), TOKENS) for layer in range(2)]
    assert sweep(ladder, probes, progress=False)["probe"].nunique() == 2


def test_functions_are_found_by_name_and_by_import_path(model):
    subject = toys.subject(model)
    probe = Reading.build(subject, hook="blocks.1.attn.hook_pattern", function="tests.probes.test_reading:first_head")
    assert probe.metric is first_head or probe.metric.__name__ == "first_head"
    for function, message in (("median", "choose from norm, mean, largest"), ("no.such:thing", "cannot be imported")):
        with pytest.raises(ValueError, match=message):
            Reading.build(subject, hook="blocks.0.hook_mlp_out", function=function)


def test_an_unknown_hook_names_those_near_and_a_metric_of_another_shape_is_refused(model):
    with pytest.raises(ValueError, match="no hook 'blocks.9.hook_mlp_out'; near it are blocks.0.hook_mlp_out"):
        Reading("blocks.9.hook_mlp_out", torch.norm, TOKENS)(model)
    for metric in (torch.sum, lambda x: x):
        with pytest.raises(ValueError, match=r"must return shape \(n,\) or \(n, k\)"):
            Reading("blocks.0.hook_mlp_out", metric, TOKENS)(model)
    with pytest.raises(ValueError, match="no organism"):
        Reading.build(Subject(model), hook="blocks.0.hook_mlp_out")


def test_the_claim_about_a_negative_mean_holds_at_home_and_not_for_a_smaller_one(model):
    probe = Reading("blocks.0.hook_mlp_out", lambda x: -x.flatten(1).norm(dim=1), TOKENS)
    table = probe(model)
    claim = replace(probe, least=float(table["value"].mean()) / 2).claim()
    assert " has a mean <= -" in claim.statement and claim.check(table)
    assert not claim.check(table.assign(value=table["value"] / 4))
    assert not claim.check(table.assign(value=-table["value"]))
