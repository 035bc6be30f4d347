"""Weights read off the bridge against the activations that they make, in every family."""

import pytest
import torch

from probes import tl_weights
from probes.hooks import record
from tests.probes import toys

TOKENS = toys.Corpus().of_kind("noise", 3, seed=0).tokens
FAMILIES = ("llama", "grouped", "gpt2", "neox", "qwen2", "native")


@pytest.fixture(scope="module", params=FAMILIES)
def member(request):
    if request.param in ("llama", "grouped"):
        return toys.bridge() if request.param == "llama" else toys.grouped()
    return toys.family(request.param)


@torch.no_grad()
def test_heads_write_the_attention_output_and_read_the_values(member):
    hooks = [f"blocks.1.{name}" for name in ("attn.hook_z", "attn.hook_v", "hook_attn_out", "hook_resid_pre")]
    _, kept = record(member, TOKENS, hooks)
    z, v, out, stream = (kept[hook].double() for hook in hooks)
    attention = member.blocks[1].attn
    written = torch.einsum("nthd,hdm->ntm", z, tl_weights.outputs(member, 1))
    torch.testing.assert_close(written + _bias(attention, "b_O"), out, rtol=1e-5, atol=1e-5)
    normed = tl_weights.before_attention(member, 1, stream.float())
    read = torch.einsum("ntm,hmd->nthd", normed, tl_weights.values(member, 1))
    bias = _bias(attention, "b_V")
    found = v.repeat_interleave(read.shape[2] // v.shape[2], dim=2)
    shared = bias.repeat_interleave(read.shape[2] // len(bias), dim=0) if bias.ndim else bias
    torch.testing.assert_close(read + shared, found, rtol=1e-5, atol=1e-5)


def _bias(attention, name):
    try:
        found = getattr(attention, name)
    except AttributeError:
        found = None
    return torch.zeros((), dtype=torch.float64) if found is None else found.detach().double()


@torch.no_grad()
def test_reading_out_the_last_stream_gives_the_logits(member):
    scores, kept = record(member, TOKENS, ["blocks.1.hook_resid_post"])
    assert torch.equal(tl_weights.read_out(member, kept["blocks.1.hook_resid_post"]), scores)


@torch.no_grad()
def test_direct_effects_of_the_whole_stream_are_the_logits_up_to_their_bias(member):
    """The stream is the sum of its parts, and the direct effect is linear: so effects of all parts sum to this."""
    scores, kept = record(member, TOKENS, ["blocks.1.hook_resid_post"])
    stream = kept["blocks.1.hook_resid_post"][:, -1]
    readers = tl_weights.unembedding(member).T
    towards = tl_weights.direction(member, stream, readers[[1, 2, 3]] - readers[[4, 5, 6]])
    still = tl_weights.read_out(member, torch.zeros_like(stream))  # what norm and unembedding add by themselves
    moved = (scores[:, -1] - still).double()
    rows = torch.arange(3)
    expected = moved[rows, torch.tensor([1, 2, 3])] - moved[rows, torch.tensor([4, 5, 6])]
    torch.testing.assert_close((towards * stream).sum(-1), expected, rtol=1e-4, atol=1e-4)


def test_a_norm_of_another_form_is_refused(model):
    class Cubed(torch.nn.Module):
        def forward(self, x):
            return x**3

    class Other:
        cfg, W_U, ln_final = model.cfg, model.W_U, Cubed()

    stream = torch.randn(2, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="Cubed.*neither a LayerNorm nor an RMSNorm"):
        tl_weights.direction(Other(), stream, torch.ones(2, model.cfg.d_model, dtype=torch.float64))
