"""Reading weights of the transformer-lens bridge: what each head reads and writes, and the way out to the logits.

Everything here is read as it stands, unfolded: norms keep their own weights, and are applied where they stand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def values(model: Any, layer: int) -> Tensor:
    """W_V of every head, shape (heads, d_model, d_head), float64; shared key-value heads are repeated."""
    found = model.blocks[layer].attn.W_V.detach().double()
    return found.repeat_interleave(len(outputs(model, layer)) // len(found), dim=0)


def outputs(model: Any, layer: int) -> Tensor:
    """W_O of every head, shape (heads, d_head, d_model), float64: attn_out = sum_h z_h W_O[h] + b_O."""
    return model.blocks[layer].attn.W_O.detach().double()


def embedding(model: Any) -> Tensor:
    """The token embedding, shape (V, d_model), in the model's own dtype."""
    return model.W_E.detach()


def unembedding(model: Any) -> Tensor:
    """The map from the normalised stream to the logits, shape (d_model, V), float64."""
    return model.W_U.detach().double()


def before_attention(model: Any, layer: int, stream: Tensor) -> Tensor:
    """What the attention of a layer reads when the residual stream is `stream`, float64, same shape."""
    block = model.blocks[layer]
    return (block.ln1(stream) if hasattr(block, "ln1") else stream).double()


def read_out(model: Any, stream: Tensor) -> Tensor:
    """Logits of a residual stream by the model's own final norm and unembedding, shape (..., V), at least float32."""
    normed = model.ln_final(stream) if hasattr(model, "ln_final") else stream
    found = model.unembed(normed)
    return found.to(torch.promote_types(found.dtype, torch.float32))


def way_out(model: Any) -> Tensor:
    """From the stream in front of the final norm to the logits, up to the norm's size, shape (d_model, V), float64.

    The final norm is x -> (x - m) / s * w + b with m = mean(x) (LayerNorm) or 0 (RMSNorm); for fixed s it is linear.
    """
    scaled = _gain(model)[:, None] * unembedding(model)
    return _centred(model, scaled.T).T


def direction(model: Any, stream: Tensor, weight: Tensor) -> Tensor:
    """How a vector added to the stream moves `normed stream @ weight`, the size s of the final norm held fixed.

    This is how direct logit attribution reads it (Elhage et al. 2021); see `way_out` for the norm.

    Args:
        model: A bridge.
        stream: Residual stream behind the last block, shape (n, d_model).
        weight: One direction behind the norm for each row, shape (n, d_model), float64.

    Returns:
        Directions in front of the norm, shape (n, d_model), float64: the effect of c is the inner product with c.

    Raises:
        ValueError: If the final norm is not of that form.
    """
    if not hasattr(model, "ln_final"):
        return weight
    gain, shift = _gain(model), model.ln_final(torch.zeros_like(stream)).double()
    whole, normed = _centred(model, stream.double()) * gain, model.ln_final(stream).double() - shift
    size = (normed * whole).sum(-1, keepdim=True) / whole.square().sum(-1, keepdim=True)
    rounding = 8 * torch.finfo(stream.dtype).eps * (normed.abs().amax() + shift.abs().amax())
    if ((normed - size * whole).abs() > rounding).any():
        raise ValueError(
            f"the final norm of this model ({type(model.ln_final).__name__}) is neither a LayerNorm nor an RMSNorm: "
            "the direct effect of a head on the logits cannot be read off it"
        )
    return _centred(model, size * gain * weight)


def _gain(model: Any) -> Tensor:
    """Gain w of the final norm up to a positive factor, shape (d_model,): read off its action on +1, -1, +1, ..."""
    example = model.W_U.detach()[:, 0]
    if not hasattr(model, "ln_final"):
        return torch.ones_like(example, dtype=torch.float64)
    place = torch.arange(len(example), device=example.device)
    signs = _centred(model, (-1.0) ** place.double())
    lines = torch.stack([signs, torch.zeros_like(signs)]).to(example.dtype)
    moved, shift = model.ln_final(lines).double()
    return (moved - shift) / signs


def _centred(model: Any, x: Tensor) -> Tensor:
    """`x`, less its mean if the model's norms are LayerNorms."""
    return x if "RMS" in str(model.cfg.normalization_type) else x - x.mean(-1, keepdim=True)
