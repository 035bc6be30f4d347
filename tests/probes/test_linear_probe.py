"""A planted direction is found, control labels are not, and a turned one is seen as turned."""

import numpy as np
import pytest
import torch

from probes.hooks import hooked
from probes.linear_probe import LinearProbe, fit
from tests.probes import toys

N = 512
TOKENS = toys.Corpus().of_kind("noise", N, seed=4).tokens
RNG = np.random.default_rng(8)
LABEL = RNG.integers(2, size=N)
POSITION = torch.full((N,), 9)
FITTED = RNG.permutation(N) < N // 2
PROBE = LinearProbe(TOKENS, POSITION, LABEL, FITTED)
NOISE = 4 * 0.5 / np.sqrt(N // 2)  # four standard errors of a coin's mean over the examples that are asked


def planted(size):
    """Adds the label, in one direction, to the stream behind the last block."""
    direction = torch.nn.functional.normalize(torch.ones(8), dim=0)
    signs = torch.from_numpy(2.0 * LABEL - 1).float()

    def add(stream):
        rows = slice(add.seen, add.seen + len(stream))
        add.seen = (add.seen + len(stream)) % N
        return stream + size * stream.std() * signs[rows, None, None] * direction

    add.seen = 0
    return {"blocks.1.hook_resid_post": add}


def means(model, probe, size):
    with hooked(model, planted(size)):
        table = probe(model)
    return table.groupby(["measure", "layer"])["value"].mean()


def test_a_planted_direction_is_found_where_it_is_and_control_labels_are_not(model):
    found = means(model, PROBE, 4.0)
    assert found["probe accuracy", 2] >= 0.95
    for measure, layer in [("probe accuracy", 0), ("probe accuracy", 1)] + [("control accuracy", i) for i in range(3)]:
        assert abs(found[measure, layer] - 0.5) < NOISE


def test_the_frozen_classifier_sees_that_the_direction_has_turned(model):
    with hooked(model, planted(4.0)):
        frozen = tuple(weights for _, weights in PROBE._fits(model, PROBE._classes()))
    probe = LinearProbe(TOKENS, POSITION, LABEL, FITTED, frozen=frozen)
    assert means(model, probe, 4.0)["frozen accuracy", 2] >= 0.95
    turned = means(model, probe, -4.0)
    assert turned["frozen accuracy", 2] <= 0.05 and turned["probe accuracy", 2] >= 0.95


def test_the_fit_is_ridge_regression():
    """Stationarity: the gradient of the penalised squares vanishes."""
    x = torch.from_numpy(RNG.normal(size=(40, 5)))
    classes = torch.from_numpy(RNG.integers(3, size=40))
    weights = fit(x, classes, 3, ridge=0.2)
    y = torch.nn.functional.one_hot(classes, 3).double()
    rest = x @ weights.matrix + weights.bias - y
    centred = x - x.mean(0)
    penalty = 0.2 * (centred.T @ centred).diagonal().mean()
    torch.testing.assert_close(centred.T @ rest + penalty * weights.matrix, torch.zeros(5, 3, dtype=torch.float64))
    torch.testing.assert_close(rest.sum(0), torch.zeros(3, dtype=torch.float64))


def test_chance_is_the_commonest_class_and_rows_are_those_that_were_not_fitted(model):
    table = PROBE(model)
    assert set(table["example"]) == set(np.flatnonzero(~FITTED))
    own = table.loc[table["measure"] == "probe accuracy", "chance"].unique()
    assert own.tolist() == [max(LABEL[~FITTED].mean(), 1 - LABEL[~FITTED].mean())]


def test_the_answer_of_pairs_is_a_label(model):
    probe = LinearProbe.build(toys.subject(model), label="answer", n=64)
    assert set(probe.label) <= set(range(toys.LETTERS)) and probe.frozen is not None
    with pytest.raises(ValueError, match="unknown label 'mood'; choose from kind, answer"):
        LinearProbe.build(toys.subject(model), label="mood")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": LABEL[:5]}, r"label must have shape \(512,\).*got \(5,\)"),
        ({"label": np.zeros(N)}, "two classes"),
        ({"fitted": np.ones(N, dtype=bool)}, "examples left over"),
        ({"ridge": 0.0}, "ridge must be above 0"),
    ],
)
def test_bad_input_is_refused_with_value_and_cure(change, message):
    settings = {"tokens": TOKENS, "position": POSITION, "label": LABEL, "fitted": FITTED}
    with pytest.raises(ValueError, match=message):
        LinearProbe(**(settings | change))
