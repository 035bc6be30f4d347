"""Reading and editing activations: the only file of the package that knows the transformer-lens bridge.

Names are those of `bridge.hook_dict`. `blocks.L.hook_resid_mid` must not be edited: in transformer-lens 4.3 it is an
alias of the input of the second norm, so that an edit changes what the MLP reads but not the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Edit = Callable[[Tensor], Tensor | None]


def require_eval(model: Any) -> None:
    """Refuse a model of which any part is in train mode, where dropout would make answers random.

    Raises:
        ValueError: Naming the first such part, and the cure.
    """
    for name, module in model.named_modules():
        if module.training:
            raise ValueError(f"probes need a model in eval mode, but {name or 'the model'} is training: model.eval()")


def require_bridge(model: Any, probe: str) -> None:
    """Refuse a model without named hook points.

    Raises:
        TypeError: Naming the probe, the model's class and the cure.
    """
    if not hasattr(model, "hook_dict"):
        raise TypeError(
            f"probe {probe!r} reads activations and needs a TransformerBridge, got {type(model).__name__}: load "
            "the model with degrade.models.bridge(folder) or TransformerBridge.boot_transformers(...)"
        )


def require_known(model: Any, tokens: Tensor) -> None:
    """Refuse token ids that the model has no embedding of, and more positions than it has embeddings of.

    Raises:
        ValueError: Naming what was given and what the model has.
    """
    config: Any = getattr(model, "cfg", None) or getattr(model, "config", None)
    size = getattr(config, "d_vocab", None) or getattr(config, "vocab_size", None)
    if size is not None and len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
        raise ValueError(
            f"token ids must lie in 0..{size - 1}, the vocabulary of this model; got {int(tokens.min())} to "
            f"{int(tokens.max())}: were they made with its own tokenizer?"
        )
    learnt = getattr(config, "positional_embedding_type", None) == "standard"
    if learnt and tokens.shape[1] > config.n_ctx:
        raise ValueError(
            f"this model has {config.n_ctx} positions, got sequences of {tokens.shape[1]} tokens: cut them or make "
            "them shorter"
        )


def device_of(model: Any) -> torch.device:
    """Device of the model's first parameter; cpu for a model without parameters."""
    first = next(iter(model.parameters()), None)
    return torch.device("cpu") if first is None else first.device


def logits(model: Any, tokens: Tensor) -> Tensor:
    """Next-token logits of a bridge, a Hugging Face model or any module that returns either logits or has `.logits`.

    Args:
        model: The model, in eval mode.
        tokens: Token ids, shape (n, T); they are moved to the model's device.

    Returns:
        Logits, shape (n, T, V), at least float32.

    Raises:
        ValueError: If the model is in train mode, or has no such tokens or positions.

    >>> logits(torch.nn.Embedding(5, 7).eval(), torch.tensor([[0, 1, 2]])).shape
    torch.Size([1, 3, 7])
    """
    require_eval(model)
    require_known(model, tokens)
    output = model(tokens.to(device_of(model)))
    found = output if isinstance(output, Tensor) else output.logits
    return found.to(torch.promote_types(found.dtype, torch.float32))


@contextmanager
def hooked(model: Any, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Call each edit on the activation at its hook; what it returns, unless None, replaces the activation.

    The hooks added here are gone on exit, also on an exception; hooks that others added stay.

    Args:
        model: A bridge.
        edits: By hook name; an edit gets the activation and must not write to it in place.
    """

    def adapted(edit: Edit) -> Callable[..., Tensor | None]:
        return lambda activation, hook: edit(activation)

    with model.hooks(fwd_hooks=[(name, adapted(edit)) for name, edit in edits.items()]):
        yield


def record(model: Any, tokens: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Run the model once and keep the activations at the named hooks, nothing else.

    Returns:
        The logits, shape (n, T, V), and the activations by name.
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Edit:
        def store(activation: Tensor) -> None:
            kept[name] = activation.detach().clone()

        return store

    with hooked(model, {name: keep(name) for name in names}):
        out = logits(model, tokens)
    return out, kept


@contextmanager
def replaced(model: Any, name: str, rows: Tensor, positions: Tensor, values: Tensor) -> Iterator[None]:
    """Replace k activation vectors at a hook whose activation has shape (n, T, d).

    Args:
        model: A bridge.
        name: Hook name.
        rows: Example of each replacement, shape (k,).
        positions: Position of each, shape (k,).
        values: The new vectors, shape (k, d).
    """

    def put(activation: Tensor) -> Tensor:
        patched = activation.clone()
        patched[rows, positions] = values
        return patched

    with hooked(model, {name: put}):
        yield


def attention(model: Any, tokens: Tensor) -> Tensor:
    """Attention probabilities of every head, shape (layers, n, heads, T query, T key)."""
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    _, kept = record(model, tokens, names)
    return torch.stack([kept[name] for name in names])


@contextmanager
def forked(model: Any) -> Iterator[None]:
    """Give every reader of the residual stream its own copy of it, so that one can be edited without the others.

    Within the context the hooks `blocks.L.attn.hook_{q,k,v}_input`, shape (n, T, heads, d_model; key-value heads for k
    and v), and `blocks.L.hook_mlp_in`, shape (n, T, d_model), hold what these read, in front of the norm. The flags of
    transformer-lens that make them are as before on exit.

    Raises:
        ValueError: If the attention of this architecture cannot be forked, with the reason.
    """
    config = model.cfg
    before = {name: bool(getattr(config, name, False)) for name in ("use_split_qkv_input", "use_hook_mlp_in")}
    if getattr(config, "use_attn_in", False):
        raise ValueError(
            "the inputs of q, k and v cannot be told apart while use_attn_in is on: set_use_attn_in(False)"
        )
    try:
        model.set_use_split_qkv_input(True)
    except NotImplementedError as reason:
        raise ValueError(
            "edges and paths need the inputs of q, k and v of each head apart, and the attention of this model, "
            f"{type(model.blocks[0].attn).__name__}, takes them in one (transformer-lens 4.3): use Patching or "
            "Ablation, which work here, or a Llama, Qwen2, GPT-2 or GPT-NeoX model"
        ) from reason
    try:
        model.set_use_hook_mlp_in(True)
        yield
    finally:
        model.set_use_split_qkv_input(before["use_split_qkv_input"])
        model.set_use_hook_mlp_in(before["use_hook_mlp_in"])
