"""Heads are cut by the size their tensors have, and partition what they share out."""

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from degrade.heads import masks, names
from degrade.parameters import select
from tests.degrade.test_models import joined, native

COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
ROPE = {
    "max_position_embeddings": 16,
    "vocab_size": 30,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
GROUPED = {"num_key_value_heads": 2}
TOKENS = torch.arange(12).view(1, 12)

FAMILIES = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=30, n_positions=16)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**COMMON, **ROPE)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**COMMON, **ROPE, **GROUPED, attention_bias=True)),
    "qwen3, heads larger than d_model / n_heads": lambda: Qwen3ForCausalLM(
        Qwen3Config(**COMMON, **ROPE, **GROUPED, head_dim=16)
    ),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**COMMON, **ROPE, **GROUPED)),
}


def built(family):
    torch.manual_seed(0)
    return FAMILIES[family]().eval()


def attention_parameters(model):
    return {
        name: p
        for name, p in model.named_parameters()
        if any(part in name for part in ("attn", "attention")) and "norm" not in name
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_cover_attention_and_share_only_keys_and_values_of_their_group(family):
    model = built(family)
    found = [masks(model, f"blocks.1.attn.head.{head}") for head in range(4)]
    total = {name: torch.stack([f[name] for f in found]).sum(0) for name in found[0]}
    in_layer = {name for name in attention_parameters(model) if ".1." in name}
    out_bias = {name for name in in_layer if name.endswith(("c_proj.bias", "dense.bias", "o_proj.bias"))}
    assert set(total) == in_layer - out_bias
    assert all((count > 0).all() for count in total.values())
    assert {int(count.max()) for count in total.values()} <= (
        {1, 2} if "num_key_value_heads" in repr(model.config) else {1}
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_partition_attention(family):
    model = built(family)
    groups = model.config.num_key_value_heads if hasattr(model.config, "num_key_value_heads") else 4
    found = [masks(model, f"blocks.0.attn.group.{group}") for group in range(groups)]
    assert all(bool((torch.stack([f[name] for f in found]).sum(0) == 1).all()) for name in found[0])


def heads_seen(model, layer):
    """What each head adds to the residual stream: the input of the output projection, by head."""
    seen = []
    out = [m for n, m in model.named_modules() if n.endswith(("attn.c_proj", "attention.dense", "attn.o_proj"))][layer]
    handle = out.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].detach().unflatten(-1, (4, -1)))
    )
    with torch.no_grad():
        model(TOKENS)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_changing_a_heads_weights_changes_that_heads_output_and_those_of_its_group_alone(family):
    model = built(family)
    before = heads_seen(model, 1)
    name = "blocks.1.attn.head.1"
    with torch.no_grad():
        for key, mask in masks(model, name).items():
            parameter = dict(model.named_parameters())[key]
            parameter.add_(0.3 * mask * torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)))
    changed = (heads_seen(model, 1) - before).abs().amax((0, 1, 3)) > 1e-6
    grouped = getattr(model.config, "num_key_value_heads", 4) == 2
    assert changed.tolist() == [grouped, True, False, False]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_masked_output_columns_carry_the_head(family):
    """Zeroing a head's output columns equals zeroing its slice of the projection's input."""
    model = built(family)
    layer_out = [
        (n, m) for n, m in model.named_modules() if n.endswith(("attn.c_proj", "attention.dense", "attn.o_proj"))
    ][1]
    found = masks(model, "blocks.1.attn.head.2")[layer_out[0] + ".weight"]
    state = torch.randn(5, 4, int(found.sum()) // 32, generator=torch.Generator().manual_seed(0))
    without = state.clone()
    without[:, 2] = 0
    with torch.no_grad():
        expected = layer_out[1](without.flatten(1))
        layer_out[1].weight[found] = 0
        assert torch.allclose(layer_out[1](state.flatten(1)), expected, atol=1e-6)


@pytest.mark.parametrize("path", ["blocks.1.attn", "model.layers.1.self_attn"])
def test_a_bridge_and_its_model_name_the_same_head(path):
    bridge, raw = joined("llama"), joined("llama").original_model
    ours = masks(bridge, f"{path}.head.1" if path.startswith("blocks") else "blocks.1.attn.head.1")
    theirs = masks(raw, "blocks.1.attn.head.1")
    assert [int(mask.sum()) for mask in ours.values()] == [int(mask.sum()) for mask in theirs.values()]
    assert select(bridge, "blocks.1.attn.head.1").count == sum(int(mask.sum()) for mask in ours.values())


def test_a_native_bridge_has_heads():
    found = masks(native(), "blocks.0.attn.head.1")
    assert sum(int(mask.sum()) for mask in found.values()) == 4 * 16 * 8 + 3 * 8


def test_names_are_all_heads():
    assert names(built("llama")) == [f"blocks.{layer}.attn.head.{head}" for layer in (0, 1) for head in range(4)]


def test_a_list_is_the_union():
    model = built("llama")
    one, two = (select(model, f"blocks.0.attn.head.{head}").count for head in (0, 3))
    both = select(model, ["blocks.0.attn.head.0", "blocks.0.attn.head.3"])
    assert both.count == one + two
    wide = select(model, ["blocks.0.attn.head.0", r"layers\.0\.self_attn", "norm"])
    assert wide.masks[wide.names.index("model.layers.0.self_attn.q_proj.weight")] is None


def test_a_pattern_that_matches_parameters_stays_a_pattern():
    model = nn.ModuleDict({"head": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
    assert select(nn.ModuleDict({"net": model}), "net.head.1").names == ("net.head.1.weight", "net.head.1.bias")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("blocks.0.attn.head.4", "has 4 heads; expected a number from 0 to 3"),
        ("blocks.0.attn.group.2", "has 2 groups; expected a number from 0 to 1"),
        ("blocks.7.attn.head.0", "attention modules are: model.layers.0.self_attn"),
        ("model.layers.0.mlp.head.0", "expected an attention module"),
    ],
)
def test_errors_name_the_choices(name, fault):
    with pytest.raises(ValueError, match=fault):
        select(built("llama"), name)


def test_tensors_that_do_not_fit_are_refused():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads = 4
            self.q_proj, self.k_proj, self.v_proj = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8)
            self.o_proj = nn.Linear(8, 8)

    with pytest.raises(ValueError, match="cannot be cut"):
        masks(nn.ModuleDict({"attn": Odd()}), "attn.head.0")
