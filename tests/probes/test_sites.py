"""Every site is read and written where it says: exact laws, a hand-made residual stream, transformer-lens's helpers."""

import numpy as np
import pytest
import torch

from probes import Patching
from probes.hooks import logits, record
from probes.sites import SITES, Patch, activations, check_model, patched
from tests.probes import toys

PAIRS = toys.Corpus().pairs(4, seed=5)
STREAM = ("resid_pre", "resid_mid", "resid_post")
HEADS = {"q": "q", "k": "k", "v": "v", "z": "out", "pattern": "pattern"}  # our site: the helper's name in a
END = toys.LENGTH - 3  # all answers of these pairs are predicted at END - 1
EXACT = 1e-5  # the project's requirement; float32 rounds to 1e-7, and 3e-7 of the largest logit is measured


def everywhere(values):
    """All sequences, positions and heads at once."""
    n, _, heads, _ = values.shape
    rows, head = (axis.flatten() for axis in torch.meshgrid(torch.arange(n), torch.arange(heads), indexing="ij"))
    return Patch(rows, slice(None), head, values[rows, :, head])


def whole_clean_patch(model, site, layer):
    values = activations(model, PAIRS.clean, [site])[site, layer]
    with patched(model, site, layer, everywhere(values)):
        return logits(model, PAIRS.corrupted)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "neox", "qwen2", "native"])
@pytest.mark.parametrize("site", STREAM)
def test_a_full_clean_patch_of_the_stream_recovers_the_clean_logits(family, site):
    model = toys.bridge(scale=0.3) if family == "llama" else toys.family(family)
    if (family, site) == ("neox", "resid_mid"):
        with pytest.raises(ValueError, match="resid_mid does not exist here: .* in parallel"):
            check_model(model, [site])
        return
    clean = logits(model, PAIRS.clean)
    for layer in (0, 1):
        error = (whole_clean_patch(model, site, layer) - clean).abs().max() / clean.abs().max()
        assert error < EXACT


@torch.no_grad()
@pytest.mark.parametrize("site", STREAM)
def test_patching_all_positions_together_recovers_everything(model, site):
    table = Patching(*PAIRS, sites=(site,), positions="together", metrics=("logit_diff", "kl"))(model)
    for measure in ("recovery", "kl recovery", "role recovery"):
        assert table.loc[table["measure"] == measure, "value"].to_numpy() == pytest.approx([1, 1], abs=EXACT)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "neox", "qwen2", "native"])
def test_attention_is_pattern_times_value(family):
    """A pattern put in place of another is used: z is then that pattern times the values that are there."""
    model = toys.bridge() if family == "llama" else toys.family(family)
    clean = activations(model, PAIRS.clean, ["pattern"])["pattern", 1]
    there = activations(model, PAIRS.corrupted, ["v"])["v", 1]
    with patched(model, "pattern", 1, everywhere(clean)):
        _, kept = record(model, PAIRS.corrupted, ["blocks.1.attn.hook_z"])
    expected = torch.einsum("nqhk,nkhd->nqhd", clean, there)
    torch.testing.assert_close(kept["blocks.1.attn.hook_z"], expected, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("site", HEADS)
def test_heads_agree_with_the_helpers_of_transformer_lens(model, site):
    from transformer_lens import patching

    asked = Patching(*PAIRS, sites=(site,))
    _, cache = model.run_with_cache(PAIRS.clean)
    found = asked(model)
    mine = found[found["measure"] == "logit_diff"].pivot(
        index=["layer", "position", "head"], columns="example", values="value"
    )
    helper = getattr(patching, f"get_act_patch_attn_head_{HEADS[site]}_by_pos")
    theirs = helper(model, PAIRS.corrupted, cache, difference, reduce="none").values
    if site == "pattern":  # their order is layer, head, position
        theirs = theirs.transpose(1, 2)
    theirs = theirs[:, :END].reshape(len(mine), -1)
    np.testing.assert_allclose(mine.to_numpy(), theirs.numpy(), rtol=0, atol=1e-4)


@torch.no_grad()
def test_whole_heads_agree_with_the_helpers_of_transformer_lens(model):
    from transformer_lens import patching

    _, cache = model.run_with_cache(PAIRS.clean)
    found = Patching(*PAIRS, sites=("z",), positions="together")(model)
    mine = found[found["measure"] == "logit_diff"].pivot(index=["layer", "head"], columns="example", values="value")
    theirs = patching.get_act_patch_attn_head_out_all_pos(
        model, PAIRS.corrupted, cache, difference, reduce="none"
    ).values.flatten(0, 1)
    np.testing.assert_allclose(mine.to_numpy(), theirs.numpy(), rtol=0, atol=1e-4)


def difference(scores):
    at = scores[torch.arange(len(scores)), PAIRS.position]
    return (at.gather(1, PAIRS.answer[:, None]) - at.gather(1, PAIRS.wrong[:, None]))[:, 0].double()


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
def test_resid_mid_equals_a_stream_put_together_by_hand(model, layer):
    """On the raw model: the block's output is the patched stream plus the MLP of the patched stream."""
    raw = toys.llama()
    block = raw.model.layers[layer]
    position = int(PAIRS.position[0]) - 2
    clean, there = ({}, {})
    for tokens, kept in ((PAIRS.clean, clean), (PAIRS.corrupted, there)):
        hook = block.post_attention_layernorm.register_forward_pre_hook(
            lambda _, args, kept=kept: kept.update(mid=args[0])
        )
        raw(tokens)
        hook.remove()
    mid = there["mid"].clone()
    mid[:, position] = clean["mid"][:, position]
    after = mid + block.mlp(block.post_attention_layernorm(mid))
    hook = block.register_forward_hook(lambda *_: after)
    expected = difference(raw(PAIRS.corrupted).logits)
    hook.remove()
    found = Patching(*PAIRS, sites=("resid_mid",), positions=(position,))(model)
    cells = found[(found["measure"] == "logit_diff") & (found["layer"] == layer)].sort_values("example")["value"]
    np.testing.assert_allclose(cells.to_numpy(), expected.numpy(), rtol=0, atol=1e-4)


def test_metrics_of_the_unpatched_runs_are_what_their_names_say(model):
    names = ("logit_diff", "probability", "kl", "loss")
    table = Patching(*PAIRS, metrics=names, sites=("resid_pre",), positions="answer")(model)
    clean, corrupted = (
        logits(model, tokens)[:, END - 1].detach().double().log_softmax(-1) for tokens in (PAIRS.clean, PAIRS.corrupted)
    )
    of = torch.arange(4), PAIRS.answer
    expected = {
        "probability clean": clean[of].exp(),
        "loss corrupted": -corrupted[of],
        "kl corrupted": torch.nn.functional.kl_div(corrupted, clean, log_target=True, reduction="none").sum(-1),
        "kl clean": torch.zeros(4),
        "corrupted": corrupted[of] - corrupted[torch.arange(4), PAIRS.wrong],
    }
    for measure, value in expected.items():
        rows = table[table["measure"] == measure].sort_values("example")["value"]
        np.testing.assert_allclose(rows.to_numpy(), value.numpy(), rtol=0, atol=1e-5)
    assert set(table["measure"]) == set(Patching(*PAIRS, metrics=names).measures)


def test_every_site_and_metric_can_be_built_from_one_string(model):
    sites = "+".join(site for site in SITES)
    probe = Patching.build(toys.subject(model), n=2, sites=sites, metrics="logit_diff+kl", positions="changed")
    table = probe(model)
    assert set(table["site"].dropna()) == set(SITES) and {"kl", "logit_diff"} <= set(table["measure"])
    assert table.loc[table["site"].isin(HEADS), "head"].notna().all()
    assert table.loc[table["site"].isin(STREAM), "head"].isna().all()
