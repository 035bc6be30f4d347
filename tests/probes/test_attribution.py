"""Scores of edges: exact where the model is linear, complete, equal to transformer-lens's, and ranked as exact ones."""

import numpy as np
import pytest
import torch

from probes import Patching
from probes.attribution import METHODS, Attribution, spearman
from probes.pairs import DIRECTIONS
from probes.repeats import CHANGES, repeat_pairs
from studies.organisms.induction import induction
from studies.organisms.mixture import mixture
from tests.probes import linear, planted, toys

PAIRS = toys.Corpus().pairs(4, seed=2)


def mean_scores(table):
    return table[table["measure"] == "mean score"].set_index("edge")["value"]


def by_example(table):
    return table[table["measure"] == "score"].pivot(index="example", columns="edge", values="value")


def gap(table):
    run = {name: table[table["measure"] == name].set_index("example")["value"] for name in ("clean", "corrupted")}
    return run["clean"] - run["corrupted"]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_in_a_linear_model_all_methods_are_exact(direction):
    model = linear.gpt2()
    exact = by_example(Attribution(*PAIRS, method="exact", direction=direction)(model))
    assert exact.abs().to_numpy().max() > 0.1
    for method in METHODS[:-1]:
        found = by_example(Attribution(*PAIRS, method=method, direction=direction)(model))
        bound = 1e-6 * exact.abs().to_numpy().max()
        np.testing.assert_allclose(found, exact[found.columns], rtol=0, atol=bound)


def test_in_a_linear_model_the_edges_out_of_a_head_sum_to_its_total_effect():
    model = linear.gpt2()
    edges = by_example(Attribution(*PAIRS, method="exact", direction="denoise")(model))
    whole = Patching(*PAIRS, sites=("z",), positions="together")(model)
    base = whole[whole["measure"] == "corrupted"].set_index("example")["value"]
    cells = whole[whole["measure"] == "logit_diff"]
    for (layer, head), rows in cells.groupby(["layer", "head"]):
        total = rows.set_index("example")["value"] - base
        mine = edges[[name for name in edges if name.startswith(f"L{layer}H{head}->")]].sum(axis=1)
        np.testing.assert_allclose(mine, total, rtol=0, atol=1e-6 * cells["value"].abs().max())


def test_integrated_gradients_are_complete(model):
    """The edges out of the embeddings sum to the whole difference (Sundararajan et al. 2017): error 1 / steps^2."""
    errors = []
    for steps in (8, 32, 128):
        table = Attribution(*PAIRS, steps=steps)(model)
        first = [name for name in mean_scores(table).index if name.startswith("input->")]
        errors.append((by_example(table)[first].sum(axis=1) + gap(table)).abs().max() / gap(table).abs().max())
    assert errors[-1] < 1e-3 and errors[-1] < errors[0]


@pytest.mark.parametrize("site", ["z", "mlp_out"])
def test_along_the_activations_the_edges_out_of_a_part_sum_to_the_effect_of_patching_it(model, site):
    """Integrated gradients are complete for the one thing that is moved (Sundararajan et al. 2017)."""
    whole = Patching(*PAIRS, sites=(site,), positions="together", direction="noise")(model)
    base = whole[whole["measure"] == "clean"].set_index("example")["value"]
    cells = whole[whole["measure"] == "logit_diff"]
    effect = cells.assign(value=cells["value"].to_numpy() - base[cells["example"]].to_numpy())
    largest = []
    for steps in (4, 64):
        edges = by_example(Attribution(*PAIRS, method="eap-ig-activations", steps=steps)(model))
        errors = []
        for keys, rows in effect.groupby(["layer", "head"] if site == "z" else ["layer"]):
            name = "L{}H{}->".format(*keys) if site == "z" else f"L{keys[0]}MLP->"
            mine = edges[[edge for edge in edges if edge.startswith(name)]].sum(axis=1)
            errors.append((mine - rows.set_index("example")["value"]).abs().max())
        largest.append(max(errors) / effect["value"].abs().max())
    assert largest[-1] < 1e-3 and largest[-1] < largest[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_plain_attribution_agrees_with_transformer_lens(family):
    from transformer_lens.tools.analysis import attribution_patching as theirs

    model = toys.bridge() if family == "llama" else toys.family(family)
    found = by_example(Attribution(*PAIRS, method="eap", direction="denoise")(model))
    end = int(PAIRS.position[0])
    for row in range(2):
        answer, wrong = int(PAIRS.answer[row]), int(PAIRS.wrong[row])
        result = theirs.attribution_patch(
            model,
            PAIRS.clean[row : row + 1],
            PAIRS.corrupted[row : row + 1],
            lambda scores, answer=answer, wrong=wrong: scores[0, end, answer] - scores[0, end, wrong],
            theirs.EdgeAttributionConfig(granularity="edge"),
        )
        summed: dict[str, float] = {}
        for (writer, reader), score in result.edge_scores.items():  # theirs are apart by position
            name = f"{named(writer)}->{named(reader)}"
            summed[name] = summed.get(name, 0.0) + score
        assert summed.keys() == set(found.columns)
        np.testing.assert_allclose(found.loc[row], [summed[name] for name in found.columns], rtol=0, atol=1e-4)


def named(node):
    kinds = {"embed": "input", "logits": "logits", "attn_head_out": f"L{node.layer}H{node.head}"}
    inputs = {f"{kind}_input": f"L{node.layer}H{node.head}.{kind}" for kind in "qkv"}
    return (kinds | inputs | {"mlp_out": f"L{node.layer}MLP", "mlp_in": f"L{node.layer}MLP"})[node.kind]


@pytest.mark.parametrize("method", METHODS)
def test_on_a_planted_circuit_the_right_edges_have_the_largest_scores(method):
    found = mean_scores(Attribution(*planted.pairs(), method=method)(planted.bridge())).abs().sort_values()
    assert set(found.index[-5:]) == set(planted.EDGES)
    assert found.iloc[-6] < 0.01 * found.iloc[-5]


@pytest.fixture(scope="module", params=[induction, mixture], ids=lambda organism: organism.name)
def trained(request):
    if not request.param.folder.exists():
        pytest.skip(f"the model of {request.param.name} is not in this checkout")
    return request.param.load()[0], request.param.corpus.of_kind("repeat", 32, seed=0).tokens


def ranked_alike(model, pairs, method, ways):
    """Spearman correlation over edges of their mean sizes with the exact ones, which are means over directions.

    Along the inputs both directions are one, up to the sign.
    """
    sign = {"noise": 1, "denoise": -1}
    exact = sum(sign[way] * by_example(Attribution(*pairs, method="exact", direction=way)(model)) for way in ways)
    found = by_example(Attribution(*pairs, method=method, direction=ways[0])(model))
    return spearman(exact.abs().mean(), found.abs().mean()[exact.columns])


@pytest.mark.parametrize("change", CHANGES)
def test_integrated_gradients_rank_edges_as_exact_patching_does(trained, change):
    """Spearman correlation of mean sizes of at least 0.9, the bound of the project's requirements.

    Integrated gradients go the whole way from one prompt to the other, so their exact counterpart is the mean of both
    directions. The directions by themselves agree with each other no better (0.77 to 0.92 on signed means).

    One kind of change at a time: over pairs of all three kinds together it does not hold. Measured on the induction
    model, 18 pairs: 0.862 with 5 steps, 0.871 with 10, 0.872 with 30, so that finer integration is no cure (0.97, 0.91
    and 0.93 by kind; 0.92 between the two exact directions). What moves most are small edges from the embeddings: all
    is moved at once, where exact patching moves one edge in an otherwise unchanged run. See the next test.
    """
    model, tokens = trained
    assert ranked_alike(model, repeat_pairs(tokens, start=1, changes=[change]), "eap-ig", DIRECTIONS) >= 0.9


@pytest.mark.parametrize("way", DIRECTIONS)
def test_along_the_activations_edges_rank_as_exact_patching_of_all_changes_together(trained, way):
    """The same bound of 0.9 with the three kinds of change mixed, in each direction, against exact patching in it.

    Measured on the induction model, 18 pairs: 0.925 noising and 0.946 denoising, where "eap-ig" has 0.859 and 0.820.
    """
    model, tokens = trained
    assert ranked_alike(model, repeat_pairs(tokens[:18], start=1), "eap-ig-activations", [way]) >= 0.9


def test_the_claim_compares_ranks_with_those_at_home(model):
    probe = Attribution.build(toys.subject(model), n=3)
    table = probe(model)
    assert probe.claim().check(table)
    shuffled = table.copy()
    means = table["measure"] == "mean size"
    shuffled.loc[means, "value"] = np.sort(table.loc[means, "value"].abs())[::-1]
    assert not probe.claim().check(shuffled)
    with pytest.raises(ValueError, match="Attribution.build"):
        Attribution(*PAIRS).claim()


def test_rank_correlation_shares_ranks_among_ties_and_ignores_signs():
    assert spearman([1, 2, 3], [-1, 2, -3]) == 1 and spearman([1, 2, 3], [3, 2, 1]) == -1
    assert spearman([1, 1, 1], [1, 2, 3]) == 0
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.948683, abs=1e-6)  # by hand: 4.5 / sqrt(4.5 * 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean": PAIRS.clean[:, :-1]}, r"\(4, 15\) and \(4, 16\): .* make each pair equally long"),
        ({"method": "acdc"}, "'acdc'; choose from eap, eap-ig, eap-ig-activations, exact"),
        ({"metric": "rank"}, "'rank'.* logit_diff, probability, kl, loss"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"direction": "up"}, "'up'; choose from denoise, noise"),
    ],
)
def test_bad_input_is_refused_with_value_and_cure(change, message):
    with pytest.raises(ValueError, match=message):
        Attribution(**(PAIRS._asdict() | change))


def test_unknown_tasks_are_refused_and_repeats_stand_in_for_pairs(model):
    with pytest.raises(ValueError, match="unknown task 'ioi'; choose from pairs, repeat"):
        Attribution.build(toys.subject(model), n=2, task="ioi")
    probe = Attribution.build(toys.subject(model), n=3, task="repeat", method="eap")
    again = probe.clean[torch.arange(3), probe.position + 1]
    assert torch.equal(again, probe.answer)
