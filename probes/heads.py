"""Heads: what does each attention head look at, and does it copy what it reads?

Previous-token and duplicate-token heads, and prefix matching: Olsson et al. 2022 (arXiv 2209.11895), Wang et al. 2022
(arXiv 2211.00593). Copying by eigenvalues: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch

from probes.hooks import require_bridge
from probes.induction import Induction, attended, attention_table, by_head, strongest
from probes.predictions import predictions
from probes.probe import Claim, Measure, Subject, known_settings
from probes.tables import stack
from probes.tl_weights import before_attention, embedding, outputs, values, way_out

Head = tuple[int, int]
LOOKS = {"previous token": None, "duplicate token": 0, "prefix matching": 1}  # offset to t - P; None: t - 1


def head_name(head: Head) -> str:
    """`L0H3` for head 3 of layer 0."""
    return f"L{head[0]}H{head[1]}"


def parse_heads(given: Sequence[str | Head]) -> tuple[Head, ...]:
    """Heads as (layer, head) from pairs or from names.

    Raises:
        ValueError: If a name is not of the form L0H3.

    >>> parse_heads(["L0H3", (1, 2)])
    ((0, 3), (1, 2))
    """
    heads = []
    for one in given:
        match = re.fullmatch(r"L(\d+)H(\d+)", one if isinstance(one, str) else head_name(one))
        if match is None:
            raise ValueError(f"heads are named like L0H3 (layer 0, head 3), got {one!r}")
        heads.append((int(match[1]), int(match[2])))
    return tuple(heads)


@dataclass(frozen=True, eq=False)
class Heads:
    """Scores of every head on repeated sequences, and what the repetition is worth to the model.

    With P the period of a sequence and t over the positions that `Induction` scores (second and later occurrences):

    - `previous token`: mean over t of the attention from t to t - 1; keys `example`, `layer`, `head`.
    - `duplicate token`: to t - P, where the same token stood; same keys.
    - `prefix matching`: to t - P + 1, behind it; same keys. The `chance` of all three is uniform attention.
    - `copying`: sum of the eigenvalues of the head's full OV circuit over the sum of their absolute values, in -1..1;
      keys `layer`, `head`. The circuit is E W_V W_O W W_U: E the token embeddings as the norm of that layer passes them
      on, W the gain of the final norm. Positive eigenvalues raise the logit of what is read. A share of signs, not of
      sizes: it is near 0 on random weights, and near -1 for heads that all but faintly lower what they read.
    - `in-context score`: mean loss of the first occurrences minus mean loss of the scored ones, in nats per token; key
      `example`; `behaviour` "in-context", 0 for a model that does not use its context.

    Attributes:
        repeated: The sequences, as an `Induction` probe holds them.
        best: The highest heads at w* by measure, which the default claim is about.
        draws: How many draws per chain and rung are worth asking; None: all.

    >>> from transformer_lens import TransformerBridge, TransformerBridgeConfig
    >>> model = TransformerBridge.boot_native(TransformerBridgeConfig(
    ...     d_model=8, d_head=4, n_heads=2, n_layers=1, n_ctx=8, d_vocab=9, act_fn="relu", seed=0)).eval()
    >>> table = Heads(Induction.random(range(9), n=2, period=4))(model)
    >>> table.groupby("measure").size().to_dict()
    {'copying': 2, 'duplicate token': 4, 'in-context score': 2, 'prefix matching': 4, 'previous token': 4}
    """

    name: ClassVar[str] = "heads"
    needs: ClassVar[str] = "a bridge; corpus.of_kind, or vocabulary="
    measures: ClassVar[Mapping[str, Measure]] = {
        **{look: Measure(chance=None, higher=True, binary=False, unit="attention") for look in LOOKS},
        "copying": Measure(chance=0.0, higher=True, binary=False, unit="share"),
        "in-context score": Measure(chance=0.0, higher=True, binary=False, unit="nats per token"),
    }

    repeated: Induction
    best: Mapping[str, tuple[tuple[int, int], ...]] | None = None
    draws: int | None = None

    @classmethod
    @known_settings
    def build(
        cls,
        subject: Subject,
        *,
        n: int = 32,
        seed: int = 0,
        kind: str = "repeat",
        vocabulary: Sequence[int] | None = None,
        period: int = 16,
    ) -> Self:
        """Scores on the organism's own repeated sequences, or on random tokens of a given vocabulary.

        Args:
            subject: What to ask; its model's highest heads are what the default claim is about.
            n: Sequences.
            seed: Of the sequences.
            kind: Kind of the organism's corpus: a marker, then a repeating text. Ignored if there is a vocabulary.
            vocabulary: Token ids for random repeated sequences instead.
            period: Their period.

        Raises:
            ValueError: If there is neither a corpus nor a vocabulary, or a setting is unknown or out of range.
        """
        repeated = Induction.build(subject, n=n, seed=seed, kind=kind, vocabulary=vocabulary, period=period)
        probe = cls(repeated)
        table = probe(subject.model)
        return replace(probe, best={look: strongest(by_head(table, look)) for look in LOOKS})

    def claim(self) -> Claim:
        """The highest previous-token and the highest prefix-matching head are among those that were so at w*.

        Raises:
            ValueError: If those heads are unknown.
        """
        if self.best is None or not all(self.best.get(look) for look in ("previous token", "prefix matching")):
            raise ValueError("the default claim needs the heads found at w*: use Heads.build(subject) or give best=")
        asked = {look: self.best[look] for look in ("previous token", "prefix matching")}
        parts = [f"{' or '.join(map(head_name, heads))} is highest in {look}" for look, heads in asked.items()]

        def holds(table: pd.DataFrame) -> bool:
            return all(strongest(by_head(table, look))[0] in heads for look, heads in asked.items())

        return Claim(self, " and ".join(parts), holds)

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Read the attention, the weights and the losses; see the class for the rows."""
        require_bridge(model, self.name)
        scored = self.repeated.scored()
        here = torch.arange(scored.shape[1]).expand_as(scored)
        indices = [(here - 1).clamp(min=0) if to is None else self.repeated.index(to) for to in LOOKS.values()]
        seen = attended(model, self.repeated.tokens, [(index, scored) for index in indices])
        looks = [attention_table(look, value, scored) for look, value in zip(LOOKS, seen, strict=True)]
        return stack([self._context(model), *looks, copying(model)])

    def _context(self, model: Any) -> pd.DataFrame:
        nats = predictions(model, self.repeated.tokens).nats.double()
        late = self.repeated.scored()[:, :-1]
        early = ~late & (torch.arange(late.shape[1]) >= self.repeated.start)
        value = (nats * early).sum(1) / early.sum(1) - (nats * late).sum(1) / late.sum(1)
        keys = {"example": np.arange(len(value)), "behaviour": "in-context", "chance": 0.0}
        return pd.DataFrame({"measure": "in-context score", "value": value.numpy(), **keys})


@torch.no_grad()
def copying(model: Any) -> pd.DataFrame:
    """Copying score of every head: sum(lambda) / sum(|lambda|) over the eigenvalues of its full OV circuit.

    The circuit is a V x V matrix of rank d_head, and A B has the nonzero eigenvalues of B A: only a d_head x d_head
    matrix is diagonalised. Sizes of the norms are positive and common to a row, and are left out behind the head.

    Args:
        model: A bridge.

    Returns:
        Columns measure ("copying"), value, layer, head.
    """
    out = way_out(model)
    rows = []
    for layer in range(model.cfg.n_layers):
        read = before_attention(model, layer, embedding(model))
        for head, (reads, writes) in enumerate(zip(values(model, layer), outputs(model, layer), strict=True)):
            small = (writes @ out) @ (read @ reads)
            eigenvalues = torch.linalg.eigvals(small)
            value = float(eigenvalues.real.sum() / eigenvalues.abs().sum().clamp(min=1e-300))
            rows.append({"measure": "copying", "value": value, "layer": layer, "head": head})
    return pd.DataFrame(rows)
