"""Lenses: what would the model say if it stopped after each block?

The logit lens: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from probes.corpus import check_tokens
from probes.hooks import record, require_bridge
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack
from probes.tl_weights import read_out

AGREES = 0.5  # agreement from which the default claim of the logit lens counts a layer as decided
CELLS = 4_000_000  # numbers in a table of next-token laws that are held at once


def stream_hooks(model: Any) -> list[str]:
    """Hooks on the residual stream: in front of the first block, and behind each block."""
    return ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers))]


@dataclass(frozen=True, eq=False)
class LogitLens:
    """The final norm and unembedding, read from the residual stream after 0, 1, ..., L blocks.

    Rows, all per `example` and `layer` (how many blocks have been passed), means over the T - 1 predicted tokens:

    - `lens loss`: -log p of the token that came, in nats per token; at layer L it is the model's own loss.
    - `lens kl`: KL(model || lens) in nats per token; 0 at layer L.
    - `agreement`: share of the positions at which lens and model have the same largest logit; 1 at layer L.

    Attributes:
        tokens: Token ids, shape (n, T).
        decided: First layer of at least half agreement at w*, found by `build`; None: unknown.
        draws: How many draws per chain and rung are worth asking; None: all.

    >>> from transformer_lens import TransformerBridge, TransformerBridgeConfig
    >>> model = TransformerBridge.boot_native(TransformerBridgeConfig(
    ...     d_model=8, d_head=4, n_heads=2, n_layers=2, n_ctx=8, d_vocab=9, act_fn="relu", seed=0)).eval()
    >>> table = LogitLens(torch.tensor([[0, 1, 2, 3]]))(model)
    >>> table.loc[(table["measure"] == "agreement") & (table["layer"] == 2), "value"].tolist()
    [1.0]
    """

    name: ClassVar[str] = "logit-lens"
    needs: ClassVar[str] = "a bridge; corpus.heldout"
    measures: ClassVar[Mapping[str, Measure]] = {
        "lens loss": Measure(chance=None, higher=False, binary=False, unit="nats per token"),
        "lens kl": Measure(chance=None, higher=False, binary=False, unit="nats per token"),
        "agreement": Measure(chance=None, higher=True, binary=False, unit="share"),
    }

    tokens: Tensor
    decided: int | None = None
    draws: int | None = None

    def __post_init__(self) -> None:
        """Refuse text in which nothing is predicted."""
        check_tokens("tokens", self.tokens)

    @classmethod
    @known_settings
    def build(cls, subject: Subject, *, n: int = 64, seed: int = 0) -> Self:
        """The lens on `n` held-out sequences.

        Raises:
            ValueError: If the subject's corpus lacks `heldout`, or a setting is unknown or out of range.
        """
        probe = cls(subject.corpus(cls.name, "heldout").heldout(positive(cls.name, "n", n), seed).tokens)
        return replace(probe, decided=_decided(probe(subject.model)))

    def claim(self) -> Claim:
        """The lens agrees with the model on half of the tokens from the same layer on as at w*.

        Raises:
            ValueError: If that layer is unknown.
        """
        if self.decided is None:
            raise ValueError("the default claim needs the layer found at w*: use LogitLens.build(subject)")
        statement = f"the logit lens agrees with the model on half of the tokens from layer {self.decided} on"
        return Claim(self, statement, lambda table: _decided(table) == self.decided)

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Read every layer; see the class for the rows."""
        require_bridge(model, self.name)
        batch = max(1, CELLS // (self.tokens.shape[1] * model.cfg.d_vocab))
        parts = [self._read(model, part) for part in self.tokens.split(batch)]
        found = torch.cat(parts, dim=2).cpu().numpy()  # measures, layers, n
        layer, example = (axis.ravel() for axis in np.indices(found.shape[1:]))
        rows = {"example": example, "layer": layer}
        return stack(
            [
                pd.DataFrame({"measure": measure, "value": value.ravel(), **rows})
                for measure, value in zip(self.measures, found, strict=True)
            ]
        )

    def _read(self, model: Any, tokens: Tensor) -> Tensor:
        hooks = stream_hooks(model)
        scores, kept = record(model, tokens, hooks)
        final, came = functional.log_softmax(scores[:, :-1].double(), dim=-1), tokens[:, 1:, None].to(scores.device)
        layers = []
        for hook in hooks:
            lens = functional.log_softmax(read_out(model, kept[hook])[:, :-1].double(), dim=-1)
            loss = -lens.gather(-1, came)[..., 0]
            apart = (final.exp() * (final - lens)).sum(-1)
            same = (lens.argmax(-1) == final.argmax(-1)).double()
            layers.append(torch.stack([loss.mean(1), apart.mean(1), same.mean(1)]))
        return torch.stack(layers, dim=1)


def _decided(table: pd.DataFrame) -> int:
    """First layer from which on the mean agreement is at least `AGREES`."""
    means = table[table["measure"] == "agreement"].groupby("layer")["value"].mean()
    below = means.index[means < AGREES]
    return int(below.max()) + 1 if len(below) else 0
