"""Activations are read as the model computes them, edits do what they say, and nothing stays behind."""

import pytest
import torch

from probes.hooks import attention, hooked, logits, record, replaced, require_bridge
from tests.probes import toys

TOKENS = toys.Corpus().of_kind("noise", 4, seed=0).tokens


def hook_count(model):
    return sum(len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules())


def test_logits_of_a_bridge_and_of_the_raw_model_agree(model):
    # two implementations of the attention in float32: rounding only
    torch.testing.assert_close(logits(model, TOKENS), logits(toys.llama(), TOKENS), rtol=0, atol=1e-4)


def test_logits_of_half_precision_are_float32():
    assert logits(toys.llama().bfloat16(), TOKENS).dtype == torch.float32


def test_train_mode_is_refused_with_the_cure():
    model = toys.llama()
    model.model.layers[1].train()
    with pytest.raises(ValueError, match=r"model.layers.1 is training: model.eval\(\)"):
        logits(model, TOKENS)


def test_a_model_without_hooks_is_refused_with_the_cure():
    with pytest.raises(TypeError, match="'patching' .* TransformerBridge, got LlamaForCausalLM"):
        require_bridge(toys.llama(), "patching")


@torch.no_grad()
def test_recording_changes_no_bit_and_the_stream_is_the_sum_of_its_parts(model):
    names = [f"blocks.{layer}.hook_{site}" for layer in (0, 1) for site in ("resid_pre", "attn_out", "mlp_out")]
    out, kept = record(model, TOKENS, names)
    assert torch.equal(out, logits(model, TOKENS))
    first = [kept[name] for name in names[:3]]
    torch.testing.assert_close(sum(first), kept["blocks.1.hook_resid_pre"])


@torch.no_grad()
def test_a_full_clean_patch_of_the_stream_reproduces_the_clean_logits(model):
    clean, corrupted = TOKENS[:2], TOKENS[2:]
    for layer in (0, 1):
        name = f"blocks.{layer}.hook_resid_pre"
        target, kept = record(model, clean, [name])
        rows, positions = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, clean.shape), indexing="ij"))
        with replaced(model, name, rows, positions, kept[name].flatten(0, 1)):
            assert torch.equal(logits(model, corrupted), target)


@torch.no_grad()
def test_the_resid_mid_hook_does_not_carry_the_stream(model):
    """Why `resid_mid` is not among the sites: if this fails, transformer-lens has mended the hook."""
    name = "blocks.1.hook_resid_mid"
    target, kept = record(model, TOKENS[:2], [name])
    with hooked(model, {name: lambda activation: kept[name]}):
        assert (logits(model, TOKENS[2:]) - target).abs().max() > 0.1


@torch.no_grad()
def test_replacing_activations_by_themselves_changes_no_bit(model):
    target, kept = record(model, TOKENS, ["blocks.1.hook_attn_out"])
    rows, positions = torch.tensor([0, 3]), torch.tensor([5, 1])
    own = kept["blocks.1.hook_attn_out"][rows, positions]
    with replaced(model, "blocks.1.hook_attn_out", rows, positions, own):
        assert torch.equal(logits(model, TOKENS), target)


def test_hooks_are_gone_after_an_exception_and_those_of_others_stay(model):
    before = hook_count(model)
    with hooked(model, {"blocks.0.hook_resid_pre": lambda activation: None}):
        inside = hook_count(model)
        with pytest.raises(RuntimeError, match="on purpose"), hooked(model, {"blocks.1.hook_mlp_out": broken}):
            logits(model, TOKENS)
        assert hook_count(model) == inside == before + 1
    assert hook_count(model) == before


def broken(activation):
    raise RuntimeError("on purpose")


@torch.no_grad()
def test_attention_is_causal_and_sums_to_one(model):
    pattern = attention(model, TOKENS)
    assert pattern.shape == (2, 4, 2, toys.LENGTH, toys.LENGTH)
    assert (pattern.triu(1) == 0).all()
    torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:-1]))


@torch.no_grad()
def test_attention_agrees_with_the_raw_model(model):
    raw = toys.llama()
    raw.set_attn_implementation("eager")
    expected = torch.stack(raw(TOKENS, output_attentions=True).attentions)
    torch.testing.assert_close(attention(model, TOKENS), expected, rtol=0, atol=1e-5)
