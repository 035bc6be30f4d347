"""Ablations against a slow loop on the raw model, and laws: what does nothing costs nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from probes import Subject
from probes.ablation import KINDS, Ablation
from tests.probes import toys

TOKENS = toys.Corpus().of_kind("markov", 5, seed=0).tokens
OTHERS = toys.Corpus().of_kind("noise", 7, seed=1).tokens
MODULE = {"head": "self_attn.o_proj", "attn_out": "self_attn", "mlp_out": "mlp"}


@torch.no_grad()
def run(raw, tokens, module, before, edit):
    """Logits with the input or output of a module edited."""

    def on_input(_, args):
        return (edit(args[0]), *args[1:])

    def on_output(_, args, output):
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    handle = module.register_forward_pre_hook(on_input) if before else module.register_forward_hook(on_output)
    scores = raw(tokens).logits
    handle.remove()
    return scores


def losses(scores):
    return functional.cross_entropy(scores[:, :-1].transpose(1, 2), TOKENS[:, 1:], reduction="none").mean(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("site", MODULE)
def test_every_ablation_equals_a_slow_loop_on_the_raw_model(model, kind, site):
    probe = Ablation.of_next_token(TOKENS, kinds=(kind,), sites=(site,), reference=OTHERS, seed=3)
    table = probe(model)
    raw, others = toys.llama(), probe._others(len(OTHERS))
    intact = losses(raw(TOKENS).logits)
    for layer in (0, 1):
        module = raw.model.layers[layer].get_submodule(MODULE[site])
        seen = []
        run(raw, OTHERS, module, site == "head", lambda x, seen=seen: seen.append(x) or x)
        means = {"mean": (0, 1), "mean by position": (0,)}
        new = seen[0][others] if kind == "resample" else seen[0].mean(means[kind], True) if kind != "zero" else 0.0
        for head in (0, 1) if site == "head" else (None,):
            part = slice(None) if head is None else slice(4 * head, 4 * head + 4)

            def edit(x, part=part, new=new):
                edited = x.clone()
                edited[..., part] = 0.0 if isinstance(new, float) else new[..., part]
                return edited

            expected = losses(run(raw, TOKENS, module, site == "head", edit)) - intact
            rows = table[(table["measure"] == "loss rise") & (table["layer"] == layer)]
            rows = rows if head is None else rows[rows["head"] == head]
            np.testing.assert_allclose(rows["value"], expected.detach(), rtol=0, atol=1e-4)


def test_resampling_never_takes_the_example_itself():
    for seed in range(20):
        assert (Ablation.of_next_token(TOKENS, seed=seed)._others(5) != torch.arange(5)).all()


def test_components_that_write_nothing_cost_nothing():
    silent = toys.bridge()
    with torch.no_grad():
        silent.original_model.model.layers[1].mlp.down_proj.weight.zero_()
    table = Ablation.of_next_token(TOKENS, kinds=KINDS, sites=("mlp_out",))(silent)
    rise = table[table["measure"] == "loss rise"].groupby("layer")["value"].agg(lambda value: value.abs().max())
    assert rise[1] < 1e-6 < 1e-2 < rise[0]


def test_a_group_of_one_head_is_that_head_and_all_heads_are_the_layer(model):
    probe = Ablation.of_next_token(TOKENS, kinds=("zero",), groups=(((1, 0),), ((1, 0), (1, 1)), ((0, 1), (1, 1))))
    table = probe(model)
    groups = {name: rows["value"].to_numpy() for name, rows in table.dropna(subset="group").groupby("group")}
    cells = table[table["measure"] == "loss rise"]
    head = cells.query("site == 'head' and layer == 1 and head == 0")["value"].to_numpy()
    layer = cells.query("site == 'attn_out' and layer == 1")["value"].to_numpy()
    np.testing.assert_allclose(groups["L1H0"], head, atol=1e-5)
    np.testing.assert_allclose(groups["L1H0 L1H1"], layer, atol=1e-5)
    assert set(groups) == {"L1H0", "L1H0 L1H1", "L0H1 L1H1"} and set(table["measure"]) == set(probe.measures)


def test_only_scored_positions_count(model):
    scored = torch.zeros(5, toys.LENGTH - 1, dtype=torch.bool)
    scored[:, 4] = True
    table = Ablation.of_next_token(TOKENS, scored, kinds=("mean",))(model)
    raw = functional.cross_entropy(toys.llama()(TOKENS).logits[:, 4], TOKENS[:, 5], reduction="none").detach()
    np.testing.assert_allclose(table.loc[table["measure"] == "loss", "value"], raw, atol=1e-5)


def test_questions_of_a_group_can_be_asked(model):
    probe = Ablation.build(toys.subject(model), n=3, group="late", kinds="zero+resample", sites="mlp_out")
    queries = toys.Corpus().queries(3, 0)
    assert ((probe.labels != -100).sum(1) == 1).all()
    assert (probe.labels[torch.arange(3), queries.position[3:]] == queries.answer[3:]).all()
    with pytest.raises(ValueError, match="'soon'; choose from early, late"):
        Ablation.build(toys.subject(model), n=3, group="soon")


def test_where_the_law_of_the_text_is_not_known_all_tokens_are_scored(model):
    windows = SimpleNamespace(tokens=TOKENS)
    corpus = SimpleNamespace(of_kind=lambda kind, n, seed: windows)
    probe = Ablation.build(Subject(model, organism=SimpleNamespace(corpus=corpus)), kinds="zero", sites="mlp_out")
    assert torch.equal(probe.labels, Ablation.of_next_token(TOKENS).labels)


def test_the_claim_is_about_the_costliest_component(model):
    probe = Ablation.build(toys.subject(model), n=4)
    table = probe(model)
    assert probe.claim().check(table)
    cheap = table.copy()
    site, layer, head = probe.costliest[0]
    here = (cheap["site"] == site) & (cheap["layer"] == layer) & (cheap["head"].fillna(-1) == head)
    cheap.loc[here & (cheap["kind"] == "zero"), "value"] = -1.0
    assert len(probe.costliest) > 1 or not probe.claim().check(cheap)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": TOKENS[:, 1:]}, r"labels must have shape \(5, 16\), got \(5, 15\)"),
        ({"labels": torch.full_like(TOKENS, -100)}, "scored position"),
        ({"reference": TOKENS[:1]}, r"at least two sequences of 16 tokens.*\(1, 16\)"),
        ({"kinds": ("noise",)}, "'noise'.* zero, mean, mean by position, resample"),
        ({"sites": ("z",)}, "'z'.* head, attn_out, mlp_out"),
    ],
)
def test_bad_input_is_refused_with_value_and_cure(change, message):
    with pytest.raises(ValueError, match=message):
        Ablation(**({"tokens": TOKENS, "labels": TOKENS} | change))


def test_heads_that_are_not_there_are_refused(model):
    with pytest.raises(ValueError, match=r"2 layers of 2 heads; got \[\(0, 2\)\]"):
        Ablation.of_next_token(TOKENS, groups=(((0, 2),),))(model)
