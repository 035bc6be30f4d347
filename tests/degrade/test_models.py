"""The traps of bridges: which are sampled faithfully, and which are refused with the reason."""

import pytest
import torch
from torch import nn
from transformer_lens import TransformerBridge, TransformerBridgeConfig
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import degrade
from degrade import fused
from degrade.fingerprint import key_of
from degrade.losses import next_token_loss
from degrade.models import bare, bridge, refuse_unfaithful, wrapped
from degrade.parameters import select

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
ROPE = {"max_position_embeddings": 16, "vocab_size": 30}
FIRST = "blocks.0.attn"
TOKENS = torch.randint(30, (64, 8), generator=torch.Generator().manual_seed(0))


def raw(family):
    torch.manual_seed(0)
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**SMALL, **ROPE, num_key_value_heads=2, pad_token_id=None))
    if family == "llama tied":
        return LlamaForCausalLM(LlamaConfig(**SMALL, **ROPE, num_key_value_heads=2, tie_word_embeddings=True))
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SMALL, **ROPE, num_key_value_heads=2))
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=30, n_positions=16))
    if family == "gemma":
        return GemmaForCausalLM(GemmaConfig(**SMALL, **ROPE, num_key_value_heads=1, head_dim=8, pad_token_id=None))
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, **ROPE))


def as_made(family):
    """A bridge as TransformerLens makes it."""
    model = raw(family)
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config, model_name="toy").eval()


def joined(family):
    return wrapped(raw(family), name="toy")


def native():
    config = TransformerBridgeConfig(
        d_model=16, d_head=8, n_layers=2, n_ctx=8, n_heads=2, d_vocab=30, act_fn="relu", seed=0
    )
    return TransformerBridge.boot_native(config)


def climbed(model):
    return degrade.ladder(
        model, TOKENS, nbetas=[100.0], width=0.2, chains=2, draws=2, steps=20, burn_in=4, evaluation=16, batch_size=8,
        progress=False,
    )  # fmt: skip


FAMILIES = ["gpt2", "neox", "llama", "llama tied", "qwen2", "gemma"]


def plain(name):
    return name.replace("._original_component", "")


def written(model, twin, seed=1):
    """Noise on every sampled parameter, by its name in the model of Hugging Face."""
    known = {id(p): name for name, p in named(model, twin).items()}
    selection = select(model)
    generator = torch.Generator().manual_seed(seed)
    weights = [w + 0.05 * torch.randn(w.shape, generator=generator) for w in selection.copy()]
    selection.place(weights)
    return {known[id(p)]: w for p, w in zip(selection.tensors, weights, strict=True)}


def named(model, twin):
    """Parameters of a bridge by the names they have in its Hugging Face model."""
    names = dict(twin.named_parameters())
    every = model.original_model.named_parameters(remove_duplicate=False)
    return {plain(name): p for name, p in every if plain(name) in names}


@pytest.mark.parametrize("wrap", [raw, joined], ids=["raw", "bridge"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_sampled_parameters_are_the_models_each_storage_once(family, wrap):
    selection, twin = select(wrap(family)), raw(family)
    storages = [tensor.untyped_storage().data_ptr() for tensor in selection.tensors]
    assert len(set(storages)) == len(storages) == len(set(selection.names)) == len(list(twin.parameters()))
    assert selection.count == sum(p.numel() for p in twin.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_write_to_a_bridge_is_the_same_write_to_its_model(family):
    """Loss and gradient of the bridge and of a fresh Hugging Face model at the same weights, which are not w*."""
    model, twin = joined(family), raw(family).eval()
    before = next_token_loss(model, TOKENS)[0].detach()
    draw = written(model, twin)
    places = dict(twin.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, value in draw.items():
            places[name].copy_(value)
    mine, theirs = (next_token_loss(one, TOKENS)[0] for one in (model, twin))
    assert torch.allclose(mine, theirs, rtol=1e-4) and not torch.allclose(mine, before, rtol=1e-3)
    ours = named(model, twin)
    gradients = torch.autograd.grad(mine.sum(), [ours[name] for name in draw])
    for name, one, two in zip(
        draw, gradients, torch.autograd.grad(theirs.sum(), [places[n] for n in draw]), strict=True
    ):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-3 * float(two.abs().max()) + 1e-6), name


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_a_joined_bridge_is_the_function_it_was_and_is_joined_once(family):
    model = as_made(family)
    clean = model(TOKENS).detach()
    assert fused.join(model) is model and fused.apart(model) == []
    assert torch.equal(model(TOKENS), clean)
    parts = [part for part in model.modules() if isinstance(part, fused.Rows)]
    assert fused.join(model) is model
    assert [part for part in model.modules() if isinstance(part, fused.Rows)] == parts
    twin = bare(model)
    assert twin is not model and {id(p) for p in twin.parameters()} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_a_bridge_whose_parts_were_written_to_is_not_joined(family):
    model = as_made(family)
    with torch.no_grad():
        attention = model.get_submodule(fused.apart(model)[0])
        attention.k.original_component.weight = nn.Parameter(attention.k.original_component.weight + 1)
    with pytest.raises(ValueError, match="no longer has the weights of the fused layer.*wrap the model anew"):
        fused.join(model)


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_a_joined_bridge_keeps_all_its_weights_in_its_state_and_exports_them(family, tmp_path):
    model, other = joined(family), joined(family)
    written(model, raw(family))
    key = key_of(model)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(TOKENS), other(TOKENS))
    assert key_of(other) == key
    again = type(model.original_model).from_pretrained(degrade.models.export(model, tmp_path / "model")).eval()
    assert torch.allclose(again(TOKENS).logits, model(TOKENS), atol=1e-5)
    with torch.no_grad():
        other.get_submodule(FIRST).qkv.original_component.weight.add_(1e-3)
    assert key_of(other) != key


@pytest.mark.parametrize(
    "model",
    [lambda: joined("llama"), lambda: joined("qwen2"), lambda: joined("gpt2"), lambda: joined("neox"), native],
    ids=["llama", "qwen2", "gpt2", "neox", "native"],
)
def test_faithful_bridges_are_sampled_and_every_run_sees_the_draw(model):
    model = model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clean = model(TOKENS).detach()
    ladder = climbed(model)
    draw = next(ladder.draws())
    with ladder.applied(draw), torch.no_grad():
        plain = model(TOKENS)
        hooked = model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.hook_resid_pre", lambda value, hook: value)])
        cached, _ = model.run_with_cache(TOKENS)
    assert torch.equal(plain, hooked)
    assert torch.equal(plain, cached)
    assert not torch.allclose(plain, clean)
    assert torch.equal(model(TOKENS), clean)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_bridges_with_another_parameter_list_are_refused_and_their_raw_models_are_not(family):
    with pytest.raises(ValueError, match="parameter list is not the model's: JointQKV.*call degrade.fused.join"):
        climbed(as_made(family))
    assert climbed(raw(family)).table.rise[1] != 0


def test_folded_bridges_are_refused():
    model = joined("llama")
    model.enable_compatibility_mode()
    with pytest.raises(ValueError, match="compatibility mode"):
        refuse_unfaithful(model)


def test_bare_modules_pass():
    assert refuse_unfaithful(nn.Linear(2, 2)) is None


def test_a_saved_model_loads_as_the_same_function_and_a_draw_exports_as_one(tmp_path):
    model = raw("llama").eval()
    clean = model(TOKENS).logits.detach()
    model.save_pretrained(tmp_path / "hf")
    loaded, _ = bridge_without_tokenizer(tmp_path / "hf")
    assert torch.allclose(loaded(TOKENS), clean, atol=1e-5)
    ladder = climbed(loaded)
    draw = next(ladder.draws())
    again = LlamaForCausalLM.from_pretrained(ladder.export(draw, tmp_path / "draw")).eval()
    with ladder.applied(draw):
        assert torch.allclose(loaded(TOKENS), again(TOKENS).logits, atol=1e-5)
    with pytest.raises(FileExistsError):
        ladder.export(draw, tmp_path / "draw")


def bridge_without_tokenizer(folder):
    model = LlamaForCausalLM.from_pretrained(folder)
    return build_bridge_from_module(model, "LlamaForCausalLM", hf_config=model.config, model_name="toy").eval(), None


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        bridge(tmp_path / "typo")


def test_only_hugging_face_models_export(tmp_path):
    with pytest.raises(TypeError, match="did not come from Hugging Face"):
        degrade.models.export(nn.Linear(2, 2), tmp_path / "x")


def test_bf16_weights_follow_a_float32_chain():
    model = raw("llama").bfloat16().eval()
    ladder = climbed(model)
    draw = next(ladder.draws())
    assert all(w.dtype == torch.float32 for w in draw.weights)
    with ladder.applied(draw):
        assert all(torch.equal(p, w.bfloat16()) for p, w in zip(model.parameters(), draw.weights, strict=True))


def test_a_bridge_is_sampled_without_its_hooks_on_the_same_parameters(tmp_path):
    model = joined("llama")
    twin = bare(model)
    assert twin is not model and {id(p) for p in twin.parameters()} == {id(p) for p in model.parameters()}
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        next(iter(model.parameters())).mul_(1.5)
        assert torch.allclose(model(tokens), twin(tokens).logits, atol=1e-4)
    plain = torch.nn.Linear(2, 2)
    assert bare(plain) is plain


def test_observers_see_the_users_model_and_not_the_lean_one():
    model = joined("llama")
    seen = []
    tokens = torch.arange(60).reshape(10, 6) % 11
    degrade.ladder(
        model, tokens, nbetas=[1e5], width=0.1, steps=20, burn_in=4, chains=1, draws=1, progress=False,
        observe=(lambda m: seen.append(m is model),),
    )  # fmt: skip
    assert seen == [True]
