"""Path patching: which head does a head speak to, through which of its inputs, and what does it tell the logits?

Wang et al. 2022 (arXiv 2211.00593, section 3.1) and Goldowsky-Dill et al. 2023 (arXiv 2304.05969).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import pandas as pd
import torch
from torch import Tensor

from probes.corpus import check_pairs
from probes.edges import nudged, writes
from probes.effects import effect, means, recovery, unpatched
from probes.graph import KINDS, Graph
from probes.hooks import Edit, forked, hooked, record
from probes.metrics import check_metrics, measures_of, named
from probes.pairs import Trial, check_direction, pairs_of, trial
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.sites import names_of
from probes.tables import stack

INPUTS = (*KINDS, "logits")
MLPS = ("frozen", "recomputed")
BATCH = 128  # patched sequences a forward pass
TIE = 0.9  # paths with this share of the strongest effect count as equals
KEYS = ["layer", "head", "to_layer", "to_head", "input"]
Path = tuple[int, int, int, int, str]


@dataclass(frozen=True, eq=False)
class PathPatching:
    """Patch what one head says to one other head, or to the logits, and nothing else.

    The sender's output comes from the other run of a pair, but only the receiver gets to see it, in its q, k or v
    input (at all positions); every other head reads the run as it was. With `mlps="frozen"` the path is the direct one
    along the residual stream, which is the exact edge; with "recomputed" it may pass through MLPs in between, as in
    Wang et al. The receiver's own output, and all behind it, is then recomputed. Rows as in `Patching`, with keys
    `layer`, `head` (the sender), `to_layer`, `to_head` (the receiver; absent for the logits; the key-value head for k
    and v) and `input` ("q", "k", "v", "logits"):

    - `clean`, `corrupted`: metric of the unpatched runs, key `example`.
    - `logit_diff`: the metric with one path patched, key `example`.
    - `recovery`: (mean m_patched - mean m_corrupted) / (mean m_clean - mean m_corrupted).
    - `effect`: mean m_patched - mean m of the run patched into.

    Attributes:
        clean: Token ids, shape (n, T).
        corrupted: Token ids, shape (n, T).
        position: Where the answer is predicted, shape (n,).
        answer: Answer to the clean prompt, shape (n,).
        wrong: Answer to the corrupted prompt, shape (n,).
        inputs: Any of q, k, v, logits.
        senders: (layer, head) pairs; none: all.
        receivers: (layer, head) pairs that q, k and v are those of; none: all behind the sender.
        mlps: "frozen" or "recomputed".
        direction: "denoise" or "noise".
        metrics: Any of logit_diff, probability, kl, loss.
        draws: How many draws per chain and rung are worth the cost.
        paths: The strongest paths, found at w* by `build`, which the default claim is about.

    >>> from probes.repeats import repeat_pairs
    >>> from studies.organisms.induction import induction
    >>> pairs = repeat_pairs(induction.corpus.of_kind("repeat", 3, seed=0).tokens, start=1)
    >>> table = PathPatching(*pairs, inputs=("k",))(induction.load()[0])  # who tells the induction heads where to look?
    >>> strongest = table[table["measure"] == "effect"].nlargest(4, "value")
    >>> strongest["layer"].unique().tolist(), strongest["head"].unique().tolist()
    ([0], [0])
    """

    name: ClassVar[str] = "path-patching"
    needs: ClassVar[str] = "a bridge whose q, k and v inputs fork; corpus.pairs or corpus.of_kind (repeat)"

    clean: Tensor
    corrupted: Tensor
    position: Tensor
    answer: Tensor
    wrong: Tensor
    inputs: tuple[str, ...] = INPUTS
    senders: tuple[tuple[int, int], ...] = ()
    receivers: tuple[tuple[int, int], ...] = ()
    mlps: Literal["frozen", "recomputed"] = "frozen"
    direction: Literal["denoise", "noise"] = "denoise"
    metrics: tuple[str, ...] = ("logit_diff",)
    draws: int = 2
    paths: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Refuse pairs and settings that cannot be patched."""
        check_pairs(self.clean, self.corrupted, self.position, self.answer, self.wrong)
        check_metrics(self.metrics)
        check_direction(self.direction)
        unknown = [name for name in self.inputs if name not in INPUTS]
        if unknown or not self.inputs:
            raise ValueError(f"unknown inputs {unknown}; choose from {', '.join(INPUTS)}")
        if self.mlps not in MLPS:
            raise ValueError(f"unknown mlps {self.mlps!r}; choose from {', '.join(MLPS)}")

    @property
    def measures(self) -> Mapping[str, Measure]:
        """How to read the rows of each metric."""
        return measures_of(self.metrics, ratios=("recovery",), effects=("effect",))

    @classmethod
    @known_settings
    def build(
        cls,
        subject: Subject,
        *,
        n: int = 16,
        seed: int = 0,
        task: str | None = None,
        inputs: str | Sequence[str] = INPUTS,
        mlps: Literal["frozen", "recomputed"] = "frozen",
        direction: Literal["denoise", "noise"] = "denoise",
        metrics: str | Sequence[str] = ("logit_diff",),
        draws: int = 2,
    ) -> Self:
        """All paths between heads on `n` pairs of the organism's corpus; its strongest are read off the model.

        Several inputs or metrics may be given as one string, joined by "+". Tasks: see `probes.pairs.pairs_of`.

        Raises:
            ValueError: If the subject has no corpus with pairs or repeats, or a setting is unknown or out of range.
        """
        pairs = pairs_of(subject, cls.name, n, seed, task)
        data = (pairs.clean, pairs.corrupted, pairs.position, pairs.answer, pairs.wrong)
        probe = cls(
            *data,
            inputs=names_of(inputs),
            mlps=mlps,
            direction=direction,
            metrics=names_of(metrics),
            draws=positive(cls.name, "draws", draws),
        )
        return replace(probe, paths=_strongest(probe(subject.model), probe._effect))

    def claim(self) -> Claim:
        """The path of the largest absolute effect is one of those that were within 0.9 of the largest at w*.

        Raises:
            ValueError: If those paths are unknown.
        """
        if not self.paths:
            raise ValueError("the default claim needs the paths found at w*: use PathPatching.build(subject) or paths=")
        statement = f"the strongest path is {' or '.join(map(_words, self.paths))}"
        return Claim(self, statement, lambda table: _strongest(table, self._effect)[0] in self.paths)

    @property
    def _effect(self) -> str:
        return named(self.metrics[0], "effect")

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Run every path; see the class for the rows."""
        graph = Graph.of(model)
        with forked(model):
            made = trial(model, self)
            keys, found = self._patched(model, graph, made)
        tables = []
        for index, metric in enumerate(self.metrics):
            cells, runs = keys.assign(value=found[:, index].numpy()), made.runs(index)
            averages = means(cells, runs, KEYS)
            tables += [unpatched(made.unpatched(index)), cells.assign(measure=metric)]
            tables += [recovery(averages, named(metric, "recovery")), effect(averages, named(metric, "effect"))]
        return stack(tables)

    def _patched(self, model: Any, graph: Graph, made: Trial) -> tuple[pd.DataFrame, Tensor]:
        """Keys and metrics of every path on every pair, shape (paths x n, metrics)."""
        told = writes(model, graph, made.source) - writes(model, graph, made.tokens)
        keys, found = [], []
        for layer, head in self._senders(graph):
            receivers = list(self._receivers(graph, layer))
            change = self._change(model, graph, made, layer, told[:, graph.first(layer) + head])
            keys += [_keys(graph, layer, head, reader, len(made.tokens)) for reader in receivers]
            found += [self._told(model, graph, made, receivers, change)] if receivers else []
        if not keys:
            raise ValueError(f"there is no path from {self.senders or 'any head'} to {self.receivers or self.inputs}")
        return stack(keys), torch.cat(found)

    def _told(
        self, model: Any, graph: Graph, made: Trial, receivers: Sequence[int], change: Mapping[str, Tensor]
    ) -> Tensor:
        """Metrics with the sender's change at each receiver in turn, shape (receivers x n, metrics)."""
        n = len(made.tokens)
        reader, row = torch.tensor(receivers).repeat_interleave(n), torch.arange(n).repeat(len(receivers))
        found = []
        for at, rows in zip(reader.split(BATCH), row.split(BATCH), strict=True):
            pairs = zip(at.tolist(), rows.tolist(), strict=True)
            vectors = torch.stack([change[graph.readers[one].hook][pair] for one, pair in pairs])
            with nudged(model, graph, at, vectors):
                found.append(made.measure(model, rows))
        return torch.cat(found)

    def _change(self, model: Any, graph: Graph, made: Trial, layer: int, told: Tensor) -> dict[str, Tensor]:
        """By hook: what the sender's change `told`, shape (n, T, d), has become in front of the readers there."""
        if self.mlps == "frozen":
            return dict.fromkeys(graph.hooks, told)
        later = [f"blocks.{i}.hook_attn_out" for i in range(layer, graph.layers)]
        streams = {hook: _stream(hook) for hook in graph.hooks if not hook.endswith("mlp_in")}
        _, before = record(model, made.tokens, [*later, *streams.values()])
        frozen = {name: _constant(before[name]) for name in later}
        frozen[later[0]] = _constant(before[later[0]] + told)
        with hooked(model, frozen):
            _, after = record(model, made.tokens, list(streams.values()))
        return {hook: after[stream] - before[stream] for hook, stream in streams.items()}

    def _senders(self, graph: Graph) -> Sequence[tuple[int, int]]:
        everyone = [(layer, head) for layer in range(graph.layers) for head in range(graph.heads)]
        unknown = [head for head in (*self.senders, *self.receivers) if head not in everyone]
        if unknown:
            raise ValueError(f"heads {unknown} are not in a model of {graph.layers} layers of {graph.heads} heads")
        return self.senders or everyone

    def _receivers(self, graph: Graph, layer: int) -> Iterator[int]:
        """Indices of the readers behind a sender's block that are asked for."""
        heads = {f"L{to}H{head}" for to, head in self.receivers}
        for index, reader in enumerate(graph.readers):
            kind = reader.name.rpartition(".")[2]
            behind = reader.limit >= graph.first(layer) + graph.heads
            if kind in self.inputs and behind and (kind == "logits" or not heads or heads & set(reader.feeds)):
                yield index


def _stream(hook: str) -> str:
    """The stream that a head's inputs are copies of; the logits read it directly."""
    return hook if hook.endswith("resid_post") else f"blocks.{hook.split('.')[1]}.hook_resid_pre"


def _constant(activation: Tensor) -> Edit:
    return lambda _: activation


def _keys(graph: Graph, layer: int, head: int, reader: int, n: int) -> pd.DataFrame:
    name, where = graph.readers[reader].name, graph.readers[reader].head
    keys: dict[str, Any] = {"example": range(n), "layer": layer, "head": head, "input": name.rpartition(".")[2]}
    if where is not None:
        keys |= {"to_layer": int(name[1 : name.index("H")]), "to_head": where}
    return pd.DataFrame(keys)


def _strongest(table: pd.DataFrame, measure: str) -> tuple[Path, ...]:
    """Paths whose absolute effect is at least `TIE` of the largest, the largest first; -1 where the logits receive."""
    effects = table[table["measure"] == measure].reindex(columns=[*KEYS, "value"])
    size = effects["value"].abs().sort_values(ascending=False, kind="stable")
    rows = effects.loc[size.index[size >= TIE * size.max()], KEYS].fillna({"to_layer": -1, "to_head": -1})
    return tuple((int(a), int(b), int(c), int(d), str(e)) for a, b, c, d, e in rows.itertuples(index=False))


def _words(path: Path) -> str:
    layer, head, to_layer, to_head, kind = path
    return f"L{layer}H{head}->" + ("logits" if kind == "logits" else f"L{to_layer}H{to_head}.{kind}")
