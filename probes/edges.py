"""Runs in which chosen edges of the residual stream carry something else, and gradients at the readers' inputs.

All of it needs `probes.hooks.forked` around it, which gives every reader its own copy of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from probes.graph import Graph
from probes.hooks import Edit, hooked, logits, record
from probes.tl_weights import outputs

START = "blocks.0.hook_resid_pre"
KINDS = ("resample", "mean", "zero")  # of ablating an edge


def writes(model: Any, graph: Graph, tokens: Tensor) -> Tensor:
    """What each writer adds to the residual stream, attention biases left out.

    Args:
        model: A bridge.
        graph: Its graph.
        tokens: Token ids, shape (n, T).

    Returns:
        Shape (n, writers, T, d_model).

    Raises:
        ValueError: If the stream of this architecture is not the sum of what its heads and MLPs put out.
    """
    end = graph.readers[-1].hook
    _, kept = record(model, tokens, [*_writing(model, graph), end])
    found = torch.cat([part(kept[name]) for name, (_, part) in _writing(model, graph).items()], dim=1)
    rest = kept[end] - found.sum(1)
    spread = (rest - rest[:1, :1]).abs().max()
    if spread > 8 * len(graph.writers) * torch.finfo(rest.dtype).eps * found.abs().max():
        raise ValueError(
            "the residual stream of this model is not the sum of what its heads and MLPs write (it misses by up to "
            f"{float(spread):.2g}): norms or scales behind a component make its edges meaningless; use Patching instead"
        )
    return found


def _writing(model: Any, graph: Graph) -> dict[str, tuple[int, Callable[[Tensor], Tensor]]]:
    """By hook: the index of its first writer, and the map from the activation to the writes (n, writers, T, d)."""
    found: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {START: (0, lambda x: x.unsqueeze(1))}
    for layer in range(graph.layers):
        first = graph.first(layer)
        found[f"blocks.{layer}.attn.hook_z"] = (first, _by_head(outputs(model, layer)))
        found[f"blocks.{layer}.hook_mlp_out"] = (first + graph.heads, lambda x: x.unsqueeze(1))
    return found


def _by_head(weights: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda z: torch.einsum("nthe,hed->nhtd", z, weights.to(z.dtype))  # as the model does it


@contextmanager
def nudged(model: Any, graph: Graph, readers: Tensor, change: Tensor) -> Iterator[None]:
    """Add a vector per position to the input of one reader in each sequence.

    With change = (what writer u writes in another run) - (what it writes in this one), only edge u -> v is patched.

    Args:
        model: A bridge, forked.
        graph: Its graph.
        readers: Index of the reader of each sequence of the batch, shape (n,).
        change: Shape (n, T, d_model).
    """

    def edit(hook: str) -> Edit:
        rows = torch.nonzero((readers >= graph.hooks[hook].start) & (readers < graph.hooks[hook].stop))[:, 0]
        heads = readers[rows] - graph.hooks[hook].start

        def put(stream: Tensor) -> Tensor:
            new = stream.clone()
            where = rows if stream.ndim == 3 else (rows, slice(None), heads)
            new[where] += change[rows].to(new.dtype)
            return new

        return put

    named = {graph.readers[reader].hook for reader in readers.unique().tolist()}
    with hooked(model, {hook: edit(hook) for hook in graph.hooks if hook in named}):
        yield


@contextmanager
def rewired(model: Any, graph: Graph, cut: Tensor, instead: Tensor) -> Iterator[None]:
    """Cut edges: a reader gets, in place of what the writer writes in this very run, something given.

    input of v = stream + sum over cut edges u -> v of (instead_u - write_u), write_u as it is in the edited run.

    Args:
        model: A bridge, forked.
        graph: Its graph.
        cut: Which edges, for each sequence of the batch, shape (n, writers, readers).
        instead: What takes the place of each write, shape (n, writers, T, d_model).
    """
    gap = torch.zeros_like(instead)  # instead - write, filled in as the run proceeds

    def note(first: int, part: Callable[[Tensor], Tensor]) -> Edit:
        def store(activation: Tensor) -> None:
            written = part(activation.detach())
            gap[:, first : first + written.shape[1]] = instead[:, first : first + written.shape[1]] - written

        return store

    def redirect(hook: str) -> Edit:
        limit = graph.readers[graph.hooks[hook].start].limit
        chosen = cut[:, :limit, graph.hooks[hook]].transpose(1, 2).to(gap)

        def put(stream: Tensor) -> Tensor:
            change = (chosen @ gap[:, :limit].flatten(2)).unflatten(2, gap.shape[2:])  # n, readers, T, d
            return stream + (change[:, 0] if stream.ndim == 3 else change.transpose(1, 2))

        return put

    live = cut.any(0).any(0)
    edits = {name: note(*how) for name, how in _writing(model, graph).items()}
    edits |= {hook: redirect(hook) for hook, place in graph.hooks.items() if live[place].any()}
    with hooked(model, edits):
        yield


def instead(model: Any, graph: Graph, tokens: Tensor, kind: str) -> Tensor:
    """What ablated edges bring in place of what is written in the run itself, shape (n, writers, T, d_model).

    Args:
        model: A bridge, forked.
        graph: Its graph.
        tokens: The other prompts, shape (n, T).
        kind: "resample", what is written on them; "mean" of that over the prompts, by position; "zero", nothing.
    """
    told = writes(model, graph, tokens)
    if kind == "mean":
        return told.mean(0, keepdim=True).expand_as(told)
    return told if kind == "resample" else torch.zeros_like(told)


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse kinds of ablation that are none.

    Raises:
        ValueError: Naming them and the choices.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"unknown kinds of ablation {unknown}; choose from {', '.join(KINDS)}")


def gradients(
    model: Any,
    graph: Graph,
    tokens: Tensor,
    position: Tensor,
    metric: Callable[[Tensor], Tensor],
    writer: int,
    change: Tensor,
) -> dict[str, Tensor]:
    """Gradient of a metric with respect to the input of every reader, everything behind it included.

    Taken on a run in which one writer says something else, to all that read it, and what depends on it is recomputed.

    Args:
        model: A bridge, forked.
        graph: Its graph.
        tokens: Token ids, shape (n, T).
        position: Where the metric reads the logits, shape (n,).
        metric: From logits (n, V) to values (n,).
        writer: Index of that writer.
        change: What it says more than in the run as it is, shape (n, T, d_model).

    Returns:
        By hook, each of shape (n, T, readers, d_model).
    """
    inputs: dict[str, Tensor] = {}

    def offset(hook: str) -> Edit:
        heard = writer < graph.readers[graph.hooks[hook].start].limit

        def put(stream: Tensor) -> Tensor:
            said = change.to(stream.dtype) if stream.ndim == 3 else change.to(stream.dtype).unsqueeze(2)
            inputs[hook] = torch.zeros_like(stream, requires_grad=True)
            return (stream + said if heard else stream) + inputs[hook]

        return put

    with torch.enable_grad(), hooked(model, {hook: offset(hook) for hook in graph.hooks}):
        values = metric(logits(model, tokens)[torch.arange(len(tokens)), position])
        found = torch.autograd.grad(values.sum(), list(inputs.values()))
    return {name: part if part.ndim == 4 else part.unsqueeze(2) for name, part in zip(inputs, found, strict=True)}
