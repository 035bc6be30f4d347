"""The residual stream as a graph: components write to it and read from it, and each write can be read by itself.

The stream in front of a reader is the sum of what was written before it, so that the input of a reader splits exactly
into one part per writer (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). An edge u -> v is
the part of reader v's input that writer u wrote; edges are not split by position. Names: writers "input" (embeddings),
"L0H3", "L0MLP"; readers "L1H2.q", "L1H2.k", "L1H2.v", "L1MLP", "logits"; edges "L0H3->L1H2.q".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probes.hooks import require_bridge

KINDS = ("q", "k", "v")


class Reader(NamedTuple):
    """A reader of the stream.

    Attributes:
        name: As in edges.
        hook: Where its input is.
        head: Index along the heads of that hook, or None where it has none.
        limit: It reads what the first `limit` writers wrote.
        feeds: Writers whose output depends on what it reads; empty for the logits.
    """

    name: str
    hook: str
    head: int | None
    limit: int
    feeds: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Writers and readers of a model, in the order of the computation.

    Attributes:
        layers: Blocks.
        heads: Attention heads a block.
        shared: Key-value heads a block; fewer than `heads` under grouped-query attention.
        parallel: Whether MLP and attention of a block read the same stream (GPT-NeoX).

    >>> graph = Graph(layers=1, heads=2, shared=2)
    >>> graph.writers
    ('input', 'L0H0', 'L0H1', 'L0MLP')
    >>> [reader.name for reader in graph.readers][-2:], len(graph.edges)
    (['L0MLP', 'logits'], 13)
    """

    layers: int
    heads: int
    shared: int
    parallel: bool = False

    @classmethod
    def of(cls, model: Any) -> Graph:
        """The graph of a bridge.

        Raises:
            TypeError: If the model is no bridge.
            ValueError: If some block lacks attention or an MLP.
        """
        require_bridge(model, "edges and paths")
        config, layers = model.cfg, range(model.cfg.n_layers)
        lacking = [f"blocks.{i}.hook_{k}_out" for i in layers for k in ("attn", "mlp")]
        lacking = [name for name in lacking if name not in model.hook_dict]
        if lacking:
            raise ValueError(f"edges need an attention and an MLP in every block, and this model has no {lacking[0]}")
        shared = getattr(config, "n_key_value_heads", None) or config.n_heads
        return cls(len(layers), config.n_heads, shared, bool(getattr(config, "parallel_attn_mlp", False)))

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """Names of what writes to the stream."""
        blocks = [[*(f"L{i}H{h}" for h in range(self.heads)), f"L{i}MLP"] for i in range(self.layers)]
        return ("input", *(name for block in blocks for name in block))

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """What reads the stream; the logits last."""
        blocks = [reader for layer in range(self.layers) for reader in self._block(layer)]
        last = f"blocks.{self.layers - 1}.hook_resid_post"
        return (*blocks, Reader("logits", last, None, len(self.writers), ()))

    @cached_property
    def hooks(self) -> dict[str, slice]:
        """Which readers have their input at each hook."""
        names = [reader.hook for reader in self.readers]
        return {name: slice(names.index(name), names.index(name) + names.count(name)) for name in names}

    def _block(self, layer: int) -> list[Reader]:
        start = self.first(layer)
        group = self.heads // self.shared
        readers = []
        for kind in KINDS:
            size = 1 if kind == "q" else group
            for head in range(self.heads // size):
                feeds = tuple(f"L{layer}H{one}" for one in range(head * size, (head + 1) * size))
                hook = f"blocks.{layer}.attn.hook_{kind}_input"
                readers.append(Reader(f"L{layer}H{head}.{kind}", hook, head, start, feeds))
        limit = start if self.parallel else start + self.heads
        name = f"L{layer}MLP"
        return [*readers, Reader(name, f"blocks.{layer}.hook_mlp_in", None, limit, (name,))]

    def first(self, layer: int) -> int:
        """Index of the first writer of a block, which is also the number of writers before it."""
        return 1 + layer * (self.heads + 1)

    @cached_property
    def present(self) -> Tensor:
        """Which edges there are, shape (writers, readers)."""
        limits = torch.tensor([reader.limit for reader in self.readers])
        return torch.arange(len(self.writers))[:, None] < limits

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """Names of all edges, writers first."""
        return tuple(self.edge(*pair) for pair in torch.nonzero(self.present).tolist())

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Indices (writer, reader) of each edge by name."""
        return {self.edge(writer, reader): (writer, reader) for writer, reader in torch.nonzero(self.present).tolist()}

    def edge(self, writer: int, reader: int) -> str:
        """Name of an edge."""
        return f"{self.writers[writer]}->{self.readers[reader].name}"

    def mask(self, edges: Sequence[str]) -> Tensor:
        """True at the edges named, shape (writers, readers).

        Raises:
            ValueError: If some are no edges of this graph.
        """
        unknown = [edge for edge in edges if edge not in self.places]
        if unknown:
            raise ValueError(
                f"{len(unknown)} edges are not in a model of {self.layers} layers of {self.heads} heads, the first is "
                f"{unknown[0]!r}: edges are named like 'L0H1->L1H0.q', 'input->L0MLP' or 'L1H0->logits'"
            )
        found = torch.zeros_like(self.present)
        for edge in edges:
            found[self.places[edge]] = True
        return found

    def trimmed(self, mask: Tensor) -> Tensor:
        """The edges of a mask, shape (writers, readers), that lie on a path from the input to the logits."""
        found, before = mask & self.present, None
        while before is None or not torch.equal(found, before):
            before = found
            found = found & self._reached(found)[:, None] & self._useful(found)
        return found

    def _reached(self, mask: Tensor) -> Tensor:
        """Writers that are the input or read something, shape (writers,)."""
        fed = {
            name
            for read, reader in zip(mask.any(0).tolist(), self.readers, strict=True)
            if read
            for name in reader.feeds
        }
        return torch.tensor([name == "input" or name in fed for name in self.writers])

    def _useful(self, mask: Tensor) -> Tensor:
        """Readers that are the logits or feed a writer that is read, shape (readers,)."""
        read = {name for name, used in zip(self.writers, mask.any(1).tolist(), strict=True) if used}
        return torch.tensor([not reader.feeds or bool(read & set(reader.feeds)) for reader in self.readers])
