"""Circuits: a set of edges of the residual stream said to do a task, and how one is found from the scores of edges.

Edges and names as in `probes.graph`. Which circuit explains what: `probes.faithfulness`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from probes.graph import Graph

GROWTH = 1.1  # ratio of the sizes that are tried for a given faithfulness


@dataclass(frozen=True)
class Circuit:
    """Edges of a model, kept in the order of the graph, each once.

    Attributes:
        graph: Writers and readers of the model.
        edges: Names, e.g. "input->L0H1.v".

    >>> circuit = Circuit(Graph(layers=1, heads=2, shared=2), ("L0H1->logits", "input->L0H1.v"))
    >>> circuit.edges, circuit.nodes
    (('input->L0H1.v', 'L0H1->logits'), ('input', 'L0H1', 'logits'))
    >>> Circuit.from_json(circuit.to_json()) == circuit
    True
    """

    graph: Graph
    edges: tuple[str, ...]

    def __post_init__(self) -> None:
        """Sort the edges; refuse those that the graph does not have."""
        object.__setattr__(self, "edges", _names(self.graph, self.graph.mask(self.edges)))

    @classmethod
    def of_mask(cls, graph: Graph, mask: Tensor) -> Circuit:
        """The edges at which a mask of shape (writers, readers) is true."""
        return cls(graph, _names(graph, mask & graph.present))

    @classmethod
    def of_nodes(cls, graph: Graph, nodes: Sequence[str]) -> Circuit:
        """All edges between some nodes; "input" and "logits" must be named to be among them.

        Raises:
            ValueError: If some are no nodes of the graph.
        """
        unknown = [node for node in nodes if node not in (*graph.writers, "logits")]
        if unknown:
            raise ValueError(f"unknown nodes {unknown}; choose from {', '.join((*graph.writers, 'logits'))}")
        writers = torch.tensor([name in nodes for name in graph.writers])
        readers = torch.tensor([bool({reader.name, *reader.feeds} & set(nodes)) for reader in graph.readers])
        return cls.of_mask(graph, writers[:, None] & readers)

    @property
    def mask(self) -> Tensor:
        """True at the circuit's edges, shape (writers, readers)."""
        return self.graph.mask(self.edges)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Writers that are read along some edge, and the logits; a head that nothing reads does not count."""
        read = {edge.split("->")[0] for edge in self.edges}
        return (*(name for name in self.graph.writers if name in read), "logits")

    def without(self, nodes: Sequence[str]) -> Circuit:
        """The circuit without what some nodes write."""
        gone = torch.tensor([name in nodes for name in self.graph.writers])
        return Circuit.of_mask(self.graph, self.mask & ~gone[:, None])

    def overlap(self, other: Circuit) -> float:
        """Edges in both over edges in either (Jaccard index); 1 for two empty circuits.

        Raises:
            ValueError: If they are circuits of models of different shape.
        """
        if self.graph != other.graph:
            raise ValueError(f"circuits of different models cannot be compared: {self.graph} and {other.graph}")
        both, either = set(self.edges) & set(other.edges), set(self.edges) | set(other.edges)
        return len(both) / len(either) if either else 1.0

    def to_json(self, path: str | Path | None = None) -> str:
        """The circuit as JSON text, also written to a file if a path is given."""
        content = {"graph": asdict(self.graph), "nodes": list(self.nodes), "edges": list(self.edges)}
        text = json.dumps(content, indent=1)
        if path is not None:
            Path(path).write_text(text + "\n")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Circuit:
        """A circuit from JSON text or from a file.

        Where there are no `edges`, all edges between `nodes` are meant.

        Raises:
            ValueError: If something is missing or does not fit the graph.
        """
        text = source if isinstance(source, str) and source.lstrip().startswith("{") else Path(source).read_text()
        content = json.loads(text)
        if "graph" not in content or not {"edges", "nodes"} & set(content):
            raise ValueError(f"a circuit needs `graph` and `edges` or `nodes`, and the JSON has {sorted(content)}")
        graph = Graph(**content["graph"])
        if "edges" not in content:
            return cls.of_nodes(graph, content["nodes"])
        return cls(graph, tuple(content["edges"]))


def _names(graph: Graph, mask: Tensor) -> tuple[str, ...]:
    return tuple(graph.edge(writer, reader) for writer, reader in torch.nonzero(mask).tolist())


def nested(graph: Graph, scores: Tensor) -> Iterator[Circuit]:
    """Ever larger circuits: the edges of the largest absolute scores, less those on no path from input to logits.

    An edge is taken in as soon as the edges of larger score complete a path through it, so that each circuit contains
    the one before. Edges of score 0 are in none.

    Args:
        graph: Writers and readers.
        scores: Shape (writers, readers).
    """
    flat = torch.where(graph.present, scores.abs(), 0.0).flatten()
    order = flat.sort(descending=True, stable=True).indices
    mask, size = torch.zeros_like(graph.present), 0
    for place in order[: int((flat > 0).sum())].tolist():
        mask.view(-1)[place] = True
        kept = graph.trimmed(mask)
        if int(kept.sum()) > size:
            size = int(kept.sum())
            yield Circuit.of_mask(graph, kept)


def of_size(graph: Graph, scores: Tensor, size: int) -> Circuit:
    """The largest of the nested circuits with at most `size` edges; empty if every path takes more."""
    fitting = Circuit(graph, ())
    for circuit in nested(graph, scores):
        if len(circuit.edges) > size:
            break
        fitting = circuit
    return fitting


def of_faithfulness(graph: Graph, scores: Tensor, reached: Callable[[Circuit], bool]) -> Circuit:
    """The first of the nested circuits that explains enough, sizes growing by one edge or by 10 %, if that is more.

    Not found by bisection, since faithfulness need not grow with size.

    Args:
        graph: Writers and readers.
        scores: Shape (writers, readers).
        reached: Whether a circuit explains enough.

    Raises:
        ValueError: If not even all edges with a score do.
    """
    asked, last = 0.0, None
    for circuit in nested(graph, scores):
        last = circuit
        if len(circuit.edges) >= asked:
            if reached(circuit):
                return circuit
            asked = GROWTH * len(circuit.edges)
    if last is None or not reached(last):
        raise ValueError("not even the circuit of all edges with a score reaches that: ask for less")
    return last
