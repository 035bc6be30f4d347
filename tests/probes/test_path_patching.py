"""Paths add up to the whole in a linear model, and agree with transformer-lens and with a run put together by hand."""

import numpy as np
import pytest
import torch

from probes import Patching
from probes.hooks import forked, hooked, logits, record
from probes.path_patching import PathPatching
from tests.probes import linear, toys

PAIRS = toys.Corpus().pairs(4, seed=2)
KEYS = ["layer", "head", "to_layer", "to_head", "input"]


def rows(table, measure):
    return table[table["measure"] == measure]


def effects(table, model_table=None):
    """Change of the metric by sender and example."""
    base = rows(table, "corrupted").set_index("example")["value"]
    cells = rows(table, "logit_diff")
    return cells.assign(value=cells["value"].to_numpy() - base[cells["example"]].to_numpy())


@pytest.mark.parametrize(("mlps", "mlp"), [("recomputed", True), ("frozen", False)])
def test_the_paths_of_a_head_sum_to_its_total_effect_in_a_linear_model(mlps, mlp):
    """Every path of a changed head leads to one head next, or to none; without MLPs in between all are direct.

    1e-6 of the largest effect: the norms of that model are linear but for 1e-16, all is float64; 4e-14 is measured.
    """
    model = linear.gpt2(mlp=mlp)
    paths = effects(PathPatching(*PAIRS, mlps=mlps)(model)).groupby(["layer", "head", "example"])["value"].sum()
    whole = effects(Patching(*PAIRS, sites=("z",), positions="together")(model))
    total = whole.set_index(["layer", "head", "example"])["value"]
    assert total.abs().max() > 0.1
    np.testing.assert_allclose(paths, total.loc[paths.index], rtol=0, atol=1e-6 * total.abs().max())


def test_direct_paths_miss_what_passes_through_an_mlp():
    model = linear.gpt2(mlp=True)
    direct, through = (effects(PathPatching(*PAIRS, mlps=mlps)(model)) for mlps in ("frozen", "recomputed"))
    assert (direct["value"] - through["value"]).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_direct_paths_agree_with_transformer_lens(model, kind):
    from transformer_lens import patching

    def metric(scores):
        at = scores[torch.arange(len(scores)), PAIRS.position]
        return (at.gather(1, PAIRS.answer[:, None]) - at.gather(1, PAIRS.wrong[:, None])).mean()

    _, clean = model.run_with_cache(PAIRS.clean)
    _, corrupted = model.run_with_cache(PAIRS.corrupted)
    theirs = [
        patching.get_act_patch_direct_path(model, PAIRS.corrupted, clean, corrupted, metric, 0, head, kind, False)[1]
        for head in (0, 1)
    ]
    table = PathPatching(*PAIRS, inputs=(kind,))(model)
    mine = rows(table, "logit_diff").groupby(["head", "to_head"])["value"].mean()
    np.testing.assert_allclose(mine.to_numpy(), torch.stack(theirs).flatten().numpy(), rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_paths_through_mlps_equal_three_runs_made_by_hand(model, direction):
    """Wang et al.'s recipe: patch the sender with all heads frozen, keep the receiver's key, run with that key."""
    source, base = (PAIRS.clean, PAIRS.corrupted) if direction == "denoise" else (PAIRS.corrupted, PAIRS.clean)
    z = [f"blocks.{layer}.attn.hook_z" for layer in (0, 1)]
    key = "blocks.1.attn.hook_k"
    with forked(model):
        _, told = record(model, source, z)
        _, before = record(model, base, z)
        sent = before[z[0]].clone()
        sent[:, :, 1] = told[z[0]][:, :, 1]
        with hooked(model, {z[0]: lambda _: sent, z[1]: lambda _: before[z[1]]}):
            _, kept = record(model, base, [key])

        def receive(keys):
            new = keys.clone()
            new[:, :, 0] = kept[key][:, :, 0]
            return new

        with hooked(model, {key: receive}):
            scores = logits(model, base)[torch.arange(4), PAIRS.position]
    expected = scores.gather(1, PAIRS.answer[:, None]) - scores.gather(1, PAIRS.wrong[:, None])
    asked = PathPatching(
        *PAIRS, inputs=("k",), senders=((0, 1),), receivers=((1, 0),), mlps="recomputed", direction=direction
    )
    np.testing.assert_allclose(rows(asked(model), "logit_diff")["value"], expected[:, 0], rtol=0, atol=1e-4)


def test_grouped_heads_receive_by_key_value_head():
    model = toys.family("qwen2")
    shared = toys.grouped()
    table = PathPatching(*PAIRS)(shared)
    assert set(rows(table, "effect").query("input == 'k'")["to_head"]) == {0}
    assert set(rows(PathPatching(*PAIRS)(model), "effect").query("input == 'k'")["to_head"]) == {0, 1}


def test_summaries_are_means_over_the_pairs(model):
    table = PathPatching(*PAIRS, metrics=("logit_diff", "loss"))(model)
    clean, corrupted = (rows(table, f"loss {run}")["value"].mean() for run in ("clean", "corrupted"))
    by_path = rows(table, "loss").groupby(KEYS, dropna=False, sort=False)["value"].mean()
    effect = rows(table, "loss effect").set_index(KEYS)["value"]
    recovery = rows(table, "loss recovery").set_index(KEYS)["value"]
    np.testing.assert_allclose(effect, (by_path - corrupted).to_numpy(), atol=1e-12)
    np.testing.assert_allclose(recovery, ((by_path - corrupted) / (clean - corrupted)).to_numpy(), atol=1e-9)


def test_the_claim_holds_at_home_and_fails_when_another_path_is_stronger(model):
    probe = PathPatching.build(toys.subject(model), n=4)
    table = probe(model)
    assert probe.claim().check(table)
    changed = table.copy()
    weakest = rows(table, "effect")["value"].abs().idxmin()
    changed.loc[weakest, "value"] = 100.0
    assert not probe.claim().check(changed)


def test_a_family_whose_attention_cannot_be_forked_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="AttentionBridge, takes them in one .* use Patching or Ablation"):
        PathPatching(*PAIRS)(toys.family("native"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean": PAIRS.clean[:, :-1]}, "equally long"),
        ({"inputs": ("x",)}, "'x'.* q, k, v, logits"),
        ({"mlps": "off"}, "'off'; choose from frozen, recomputed"),
        ({"direction": "up"}, "'up'; choose from denoise, noise"),
        ({"metrics": ("recall",)}, "'recall'"),
    ],
)
def test_bad_input_is_refused_with_value_and_cure(change, message):
    with pytest.raises(ValueError, match=message):
        PathPatching(**(PAIRS._asdict() | change))


def test_heads_that_are_not_there_are_refused(model):
    with pytest.raises(ValueError, match=r"heads \[\(5, 0\)\] .* 2 layers of 2 heads"):
        PathPatching(*PAIRS, senders=((5, 0),))(model)
    with pytest.raises(ValueError, match="there is no path"):
        PathPatching(*PAIRS, senders=((1, 0),), inputs=("q",))(model)
