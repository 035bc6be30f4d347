"""Models that are linear from the embeddings to the logits, so that effects add up exactly."""

import torch

from tests.probes import toys

HUGE = 1e16  # as epsilon of a norm of weight 1e8: x * 1e8 / sqrt(var + 1e16) is x to almost float64 precision


def gpt2(layers=3, heads=2, d_model=8, mlp=True, seed=0):
    """Attention that looks at all tokens so far equally, norms that only centre, and linear MLPs; float64."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=toys.VOCABULARY,
        n_embd=d_model,
        n_layer=layers,
        n_head=heads,
        n_positions=32,
        activation_function="linear",
        layer_norm_epsilon=HUGE,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        model = GPT2LMHeadModel(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
            if "ln_" in name:
                parameter.fill_(HUGE**0.5 if name.endswith("weight") else 0.0)
        for block in model.transformer.h:
            block.attn.c_attn.weight[:, : 2 * d_model] = 0  # no queries, no keys
            block.attn.c_attn.bias[: 2 * d_model] = 0
            if not mlp:
                block.mlp.c_proj.weight.zero_()
    return build_bridge_from_module(model, "GPT2LMHeadModel", hf_config=config, model_name="linear").eval()
