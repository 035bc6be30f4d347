"""Faithfulness: does a circuit by itself do what the model does, is all of it in there, and is all of it needed?

Faithfulness, completeness and minimality: Wang et al. 2022 (arXiv 2211.00593, section 4); normalised as in Hanna et al.
2024 (arXiv 2403.17806). Results depend on the kind of ablation (Miller et al. 2024, arXiv 2407.08734), which every row
names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.attribution import Method, check_method, scores
from probes.circuit import Circuit, of_faithfulness, of_size
from probes.corpus import check_pairs
from probes.edges import KINDS, check_kinds, instead, rewired
from probes.graph import Graph
from probes.hooks import device_of, forked
from probes.metrics import METRICS, check_metrics
from probes.pairs import Trial, pairs_of, trial
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.sites import names_of
from probes.tables import stack

BATCH = 64  # rewired sequences a pass
LEAST = 0.8  # the default claim asks for a faithfulness within 1 - LEAST of 1
Removed = dict[str, Sequence[str]]


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """What a circuit C explains of a model M, on clean prompts, when every edge outside C is ablated.

    An ablated edge u -> v brings v not what u writes in this run, but: the write of u on the corrupted prompt
    ("resample"), the mean of u's writes over the corrupted prompts, by position ("mean"), or nothing ("zero"; attention
    biases stay). m is the metric's mean over the pairs, m(0) that with all edges ablated, and D = m(M) - m(0). Rows:

    - `model`; `circuit` and `empty` per `kind`: the metric with no, the other, all edges ablated; key `example`.
    - `faithfulness`: (m(C) - m(0)) / D; key `kind`.
    - `incompleteness`: |m(C less K) - m(M less K)| / |D| for sets K of nodes of C whose writes are ablated in both:
      none ("nothing"), each by itself, and `subsets` random ones; for "circuit", |m(0) - m(M less the edges of C)| /
      |D|. Key `removed`.
    - `completeness`: 1 - the largest incompleteness.
    - `contribution`: |m(C) - m(C less v)| / |D| of each node v of C; key `removed`.
    - `minimality`: the smallest contribution (Wang et al. ask for 0.01).
    - `overlap`: Jaccard index of C with the circuit of as many edges found in this model; its `chance` is that of a
      random set of edges. `faithfulness there`: of that circuit; key `kind`.

    Ratios have no row where D is 0.

    Attributes:
        clean: Token ids, shape (n, T).
        corrupted: Token ids, shape (n, T).
        position: Where the answer is predicted, shape (n,).
        answer: Answer to the clean prompt, shape (n,).
        wrong: Answer to the corrupted prompt, shape (n,).
        circuit: The circuit.
        kinds: Of ablation, any of resample, mean, zero.
        metric: logit_diff, probability, kl or loss.
        method: How circuits are found: any of the scores of `probes.attribution`.
        steps: Of the integrated gradients.
        subsets: Random sets of nodes that completeness is tried on.
        seed: Of those sets.
        draws: How many draws per chain and rung are worth the cost.

    >>> from studies.organisms.induction import induction
    >>> subject = Subject(*induction.load(), induction)
    >>> probe = Faithfulness.build(subject, n=3, size=40, kinds="resample", subsets=0)
    >>> table = probe(subject.model)
    >>> len(probe.circuit.edges), table.loc[table["measure"] == "faithfulness", "value"].round(2).tolist()
    (40, [0.99])
    """

    name: ClassVar[str] = "faithfulness"
    needs: ClassVar[str] = "a bridge whose q, k and v inputs fork; corpus.pairs or corpus.of_kind (repeat)"
    direction: ClassVar[str] = "noise"

    clean: Tensor
    corrupted: Tensor
    position: Tensor
    answer: Tensor
    wrong: Tensor
    circuit: Circuit
    kinds: tuple[str, ...] = KINDS
    metric: str = "logit_diff"
    method: Method = "eap-ig"
    steps: int = 5
    subsets: int = 4
    seed: int = 0
    draws: int = 2

    def __post_init__(self) -> None:
        """Refuse pairs and settings that do not fit."""
        check_pairs(self.clean, self.corrupted, self.position, self.answer, self.wrong)
        check_metrics((self.metric,))
        check_kinds(self.kinds)
        check_method(self.method, self.steps)
        if self.subsets < 0:
            raise ValueError(f"subsets must be a number of random sets, at least 0; got {self.subsets}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric, as pairs are asked about."""
        return (self.metric,)

    @property
    def measures(self) -> Mapping[str, Measure]:
        """How to read the rows."""
        of = METRICS[self.metric]
        runs = {run: Measure(None, of.higher, False, of.unit) for run in ("model", "circuit")}
        runs["empty"] = Measure(None, not of.higher, False, of.unit)
        good = ("faithfulness", "faithfulness there", "completeness", "contribution", "minimality", "overlap")
        shares = {name: Measure(None, True, False, "share") for name in good}
        return runs | shares | {"incompleteness": Measure(None, False, False, "share")}

    @classmethod
    @known_settings
    def build(
        cls,
        subject: Subject,
        *,
        n: int = 16,
        seed: int = 0,
        task: str | None = None,
        circuit: str | None = None,
        size: int | None = None,
        faithfulness: float = 0.9,
        kinds: str | Sequence[str] = KINDS,
        metric: str = "logit_diff",
        method: Method = "eap-ig",
        steps: int = 5,
        subsets: int = 4,
        draws: int = 2,
    ) -> Self:
        """The circuit of a task, given or found in the subject's model, on `n` pairs of the organism's corpus.

        Args:
            subject: What to ask.
            n: Pairs.
            seed: Of the pairs and of the random sets of nodes.
            task: See `probes.pairs.pairs_of`.
            circuit: A JSON file; None: it is found.
            size: Edges to find; None: as many as reach the faithfulness.
            faithfulness: To reach under the first kind of ablation.
            kinds: Of ablation; several may be one string, joined by "+".
            metric: See the field; likewise method, steps, subsets, draws.
            method: How circuits are found.
            steps: Of the integrated gradients.
            subsets: Random sets of nodes.
            draws: Draws per chain and rung.

        Raises:
            ValueError: If the subject has no corpus with pairs or repeats, or a setting is unknown or out of range.
        """
        pairs = pairs_of(subject, cls.name, n, seed, task)
        data = (pairs.clean, pairs.corrupted, pairs.position, pairs.answer, pairs.wrong)
        graph = Graph.of(subject.model)
        given = Circuit(graph, ()) if circuit is None else Circuit.from_json(circuit)
        probe = cls(
            *data, given, names_of(kinds), metric, method, steps, subsets, seed, positive(cls.name, "draws", draws)
        )
        return probe if circuit is not None else replace(probe, circuit=probe.found(subject.model, size, faithfulness))

    def found(self, model: Any, size: int | None = None, faithfulness: float = 0.9) -> Circuit:
        """The circuit of the task in a model: of at most `size` edges, or the first of at least some faithfulness."""
        graph = Graph.of(model)
        with torch.no_grad(), forked(model):
            made = trial(model, self)
            mean = scores(model, graph, made, self.method, self.steps).mean(0)
            if size is not None:
                return of_size(graph, mean, positive(self.name, "size", size))
            brought = instead(model, graph, made.source, self.kinds[0])

            def reached(circuit: Circuit) -> bool:
                m = self._run(model, graph, made, brought, [circuit.mask, torch.zeros_like(graph.present)]).mean(1)
                return bool((m[0] - m[1]) / (made.clean.mean() - m[1]) >= faithfulness)

            return of_faithfulness(graph, mean, reached)

    def claim(self) -> Claim:
        """The circuit's faithfulness is within 0.2 of 1, and there is something to explain.

        Namely: the metric of the model and that with all edges ablated differ by more than three standard errors of
        their paired difference over the prompts.
        """
        kind = self.kinds[0]
        statement = (
            f"{len(self.circuit.edges)} edges explain the model: faithfulness within {1 - LEAST:.1g} of 1 ({kind})"
        )
        return Claim(self, statement, lambda table: _faithful(table, kind))

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Run the circuit and its parts; see the class for the rows."""
        graph = Graph.of(model)
        if graph != self.circuit.graph:
            raise ValueError(f"the circuit is one of {self.circuit.graph}, and this model is {graph}")
        if not self.circuit.edges:
            raise ValueError(
                "the circuit has no edges, so there is nothing to ask: give more, or build with a larger size"
            )
        there = self.found(model, len(self.circuit.edges))
        with forked(model):
            made = trial(model, self)
            whole = made.clean[:, 0].numpy()
            tables = [pd.DataFrame({"measure": "model", "value": whole, "example": np.arange(len(whole))})]
            for kind in self.kinds:
                brought = instead(model, graph, made.source, kind)
                masks = self._masks(graph, there)
                values = self._run(model, graph, made, brought, list(masks.values())).numpy()
                tables.append(_rows(dict(zip(masks, values, strict=True)), whole).assign(kind=kind))
        size, edges = len(self.circuit.edges), len(graph.edges)
        overlap = {"value": [self.circuit.overlap(there)], "chance": size / (2 * edges - size)}
        return stack([*tables, pd.DataFrame({"measure": "overlap", **overlap})])

    def _masks(self, graph: Graph, there: Circuit) -> dict[tuple[str, str], Tensor]:
        """Edges that are left, by (what is run, what is removed)."""
        everything = Circuit.of_mask(graph, graph.present)
        masks = {("circuit", ""): self.circuit.mask, ("empty", ""): torch.zeros_like(graph.present)}
        masks["there", ""] = there.mask
        for name, nodes in self._removed().items():
            masks["circuit", name] = self.circuit.without(nodes).mask
            masks["model", name] = everything.without(nodes).mask
        masks["model", "circuit"] = graph.present & ~self.circuit.mask
        return masks

    def _removed(self) -> Removed:
        """Sets of nodes by name: each by itself, and random ones of at least two."""
        nodes = [node for node in self.circuit.nodes if node != "logits"]
        sets: Removed = {node: [node] for node in nodes}
        rng = np.random.default_rng(np.random.SeedSequence(self.seed))
        for _ in range(self.subsets if len(nodes) > 2 else 0):
            drawn = rng.permutation(len(nodes))[: rng.integers(2, len(nodes))]
            sets[" ".join(nodes[one] for one in sorted(drawn))] = [nodes[one] for one in drawn]
        return sets

    def _run(self, model: Any, graph: Graph, made: Trial, brought: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """Metric of every pair with only the edges of each mask intact, shape (masks, n)."""
        n, cut = len(made.tokens), graph.present & ~torch.stack(list(masks))
        which, row = torch.arange(len(masks)).repeat_interleave(n), torch.arange(n).repeat(len(masks))
        found = []
        for at, rows in zip(which.split(BATCH), row.split(BATCH), strict=True):
            with rewired(model, graph, cut[at].to(device_of(model)), brought[rows]):
                found.append(made.measure(model, rows)[:, 0])
        return torch.cat(found).reshape(len(masks), n)


def _rows(values: Mapping[tuple[str, str], np.ndarray], whole: np.ndarray) -> pd.DataFrame:
    """All rows of one kind of ablation, from the metrics by (what is run, what is removed), each of shape (n,)."""
    example = np.arange(len(whole))
    tables = [
        pd.DataFrame({"measure": run, "value": values[run, ""], "example": example}) for run in ("circuit", "empty")
    ]
    mean = {key: value.mean() for key, value in values.items()}
    gap = whole.mean() - mean["empty", ""]
    if gap == 0:
        return stack(tables)
    lost = {name: mean["circuit", ""] - m for (run, name), m in mean.items() if run == "circuit" and name}
    apart = {name: mean["circuit", name] - m for (run, name), m in mean.items() if run == "model" and name in lost}
    apart["nothing"] = mean["circuit", ""] - whole.mean()
    apart["circuit"] = mean["empty", ""] - mean["model", "circuit"]
    contribution, incompleteness = (
        {name: abs(change / gap) for name, change in changes.items()} for changes in (lost, apart)
    )
    single = {name: share for name, share in contribution.items() if " " not in name}
    one = {
        "faithfulness": (mean["circuit", ""] - mean["empty", ""]) / gap,
        "faithfulness there": (mean["there", ""] - mean["empty", ""]) / gap,
        "completeness": 1 - max(incompleteness.values()),
        "minimality": min(single.values()),
    }
    tables.append(pd.DataFrame({"measure": list(one), "value": list(one.values())}))
    for measure, found in (("contribution", single), ("incompleteness", incompleteness)):
        tables.append(pd.DataFrame({"measure": measure, "value": list(found.values()), "removed": list(found)}))
    return stack(tables)


def _faithful(table: pd.DataFrame, kind: str) -> bool:
    """Whether the circuit explains the model; see `Faithfulness.claim`."""
    of_kind = table[table["kind"] == kind]
    model, empty = (
        rows.set_index("example")["value"].astype(float)
        for rows in (table[table["measure"] == "model"], of_kind[of_kind["measure"] == "empty"])
    )
    gap = model - empty
    found = of_kind.loc[of_kind["measure"] == "faithfulness", "value"]
    there_is = abs(gap.mean()) > 3 * gap.std(ddof=1) / np.sqrt(len(gap))
    return bool(there_is and len(found) and abs(found.item() - 1) <= 1 - LEAST)
