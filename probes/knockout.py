"""Knock-out: what does the model lose when the output of some attention heads is replaced by nothing of interest?

Zero, mean and resample ablation rank heads differently (Heimersheim & Nanda 2024, arXiv 2404.15255): a result names its
kind. Heads are often redundant, so that a set can matter of which no single head does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.hooks import Edit, hooked, record, require_bridge
from probes.predictions import predictions
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack

ABLATIONS = ("zero", "mean", "resample")
CERTAIN = 1e-9  # nats; below this entropy the next token is determined
Head = tuple[int, int]


def head_name(head: Head) -> str:
    """`L0H3` for head 3 of layer 0."""
    return f"L{head[0]}H{head[1]}"


def parse_heads(given: str | Sequence[str | Head]) -> tuple[Head, ...]:
    """Heads as (layer, head) from pairs or from names.

    Raises:
        ValueError: If a name is not of the form L0H3.

    >>> parse_heads(["L0H3", (1, 2)])
    ((0, 3), (1, 2))
    """
    heads = []
    for one in [given] if isinstance(given, str) else given:
        match = re.fullmatch(r"L(\d+)H(\d+)", one if isinstance(one, str) else head_name(one))
        if match is None:
            raise ValueError(f"heads are named like L0H3 (layer 0, head 3), got {one!r}")
        heads.append((int(match[1]), int(match[2])))
    return tuple(heads)


def z_hook(layer: int) -> str:
    """Name of the hook on what the heads of a layer have read, shape (n, T, heads, d_head)."""
    return f"blocks.{layer}.attn.hook_z"


def all_heads(model: Any) -> tuple[Head, ...]:
    """Every (layer, head) of a bridge."""
    return tuple((layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads))


def fills(model: Any, tokens: Tensor, ablation: str, groups: np.ndarray | None = None) -> dict[int, Tensor]:
    """What to put in place of every head's output, by layer, each of shape (n, T, heads, d_head).

    Args:
        model: A bridge.
        tokens: Token ids of the examples that fill in, shape (n, T).
        ablation: "zero"; "mean" over the examples of a group, by position; "resample": another example's output.
        groups: Group of each example, shape (n,), such as the template it is written in; None: all are one.
    """
    of = np.zeros(len(tokens), dtype=int) if groups is None else np.unique(groups, return_inverse=True)[1]
    _, kept = record(model, tokens, [z_hook(layer) for layer in range(model.cfg.n_layers)])
    return {layer: _filled(kept[z_hook(layer)], ablation, of) for layer in range(model.cfg.n_layers)}


def _filled(z: Tensor, ablation: str, of: np.ndarray) -> Tensor:
    filled = torch.zeros_like(z)
    for group in np.unique(of) if ablation != "zero" else ():
        rows = torch.from_numpy(np.flatnonzero(of == group)).to(z.device)
        filled[rows] = z[rows].mean(0, keepdim=True) if ablation == "mean" else z[rows.roll(1)]
    return filled


@contextmanager
def knocked_out(model: Any, heads: Sequence[Head], fill: Mapping[int, Tensor]) -> Iterator[None]:
    """Replace the output of some heads within the context.

    Args:
        model: A bridge.
        heads: Which.
        fill: What to put in place, by layer, as `fills` makes it: for the very rows and positions that are run.
    """

    def put(layer: int) -> Edit:
        mine = [head for at, head in heads if at == layer]

        def edit(z: Tensor) -> Tensor:
            edited = z.clone()
            edited[:, :, mine] = fill[layer][:, : z.shape[1], mine].to(z.dtype)
            return edited

        return edit

    with hooked(model, {z_hook(layer): put(layer) for layer in sorted({layer for layer, _ in heads})}):
        yield


@dataclass(frozen=True, eq=False)
class Knockout:
    """Loss with heads knocked out, against the loss of the whole model, on the same tokens.

    Rows, all per `example`, in nats per token, means over the scored tokens:

    - `loss`: mean -log p; key `heads` names what is knocked out ("L0H3", "L0H3 L1H2"), "none" for the whole model.
    - `loss rise`: the same less the whole model's; for a single head also keys `layer` and `head`.

    Attributes:
        tokens: Token ids, shape (n, T).
        groups: Sets of heads to knock out, one after the other; none: every head by itself.
        ablation: "zero", "mean" (over the examples, by position) or "resample" (the output on the example before).
        scored: Which of the T - 1 predicted tokens count, shape (n, T - 1); None: all.
        most: Heads of the default claim, found at w* by `build`.

    >>> from transformer_lens import TransformerBridge, TransformerBridgeConfig
    >>> model = TransformerBridge.boot_native(TransformerBridgeConfig(
    ...     d_model=8, d_head=4, n_heads=2, n_layers=1, n_ctx=8, d_vocab=9, act_fn="relu", seed=0)).eval()
    >>> table = Knockout(torch.tensor([[0, 1, 2]]))(model)
    >>> table[["measure", "heads"]].drop_duplicates()["heads"].tolist()
    ['none', 'L0H0', 'L0H0', 'L0H1', 'L0H1']
    """

    name: ClassVar[str] = "knockout"
    needs: ClassVar[str] = "a bridge; corpus.of_kind (kind=)"
    measures: ClassVar[Mapping[str, Measure]] = {
        "loss": Measure(chance=None, higher=False, binary=False, unit="nats per token"),
        "loss rise": Measure(chance=0.0, higher=True, binary=False, unit="nats per token"),
    }

    tokens: Tensor
    groups: tuple[tuple[Head, ...], ...] = ()
    ablation: str = "mean"
    scored: np.ndarray | None = None
    most: tuple[Head, ...] = ()
    draws: int = 2

    def __post_init__(self) -> None:
        """Refuse unknown kinds of ablation, and masks of the wrong shape or without a token to score."""
        n, length = self.tokens.shape
        if self.ablation not in ABLATIONS:
            raise ValueError(f"unknown ablation {self.ablation!r}; choose from {', '.join(ABLATIONS)}")
        if self.ablation == "resample" and n < 2:
            raise ValueError("ablation 'resample' takes the output on another example and needs two, got 1")
        if self.scored is not None and (self.scored.shape != (n, length - 1) or not self.scored.any(1).all()):
            raise ValueError(f"scored must have shape {(n, length - 1)} and a true entry in each row")

    @classmethod
    @known_settings
    def build(
        cls,
        subject: Subject,
        *,
        n: int = 32,
        seed: int = 0,
        kind: str = "repeat",
        heads: Sequence[str] = (),
        ablation: str = "mean",
    ) -> Self:
        """Knock-outs on the determined tokens of one kind of the organism's sequences.

        Args:
            subject: What to ask.
            n: Sequences.
            seed: Of the sequences.
            kind: Which kind; scored are its tokens of entropy 0, or all of them if it has none.
            heads: A set of heads to knock out together, e.g. L0H3; none: every head by itself.
            ablation: "zero", "mean" or "resample".

        Raises:
            ValueError: If the subject's corpus lacks `of_kind`, or a setting is unknown or out of range.
        """
        sample = subject.corpus(cls.name, "of_kind").of_kind(kind, positive(cls.name, "n", n), seed)
        certain = np.asarray(sample.entropy) < CERTAIN
        scored = certain if certain.any(1).all() else None
        probe = cls(sample.tokens, (parse_heads(heads),) if heads else (), ablation, scored)
        return replace(probe, most=_most(probe(subject.model)))

    def claim(self) -> Claim:
        """The knock-out that costs most is the one that did at w*.

        Raises:
            ValueError: If that is unknown.
        """
        if not self.most:
            raise ValueError("the default claim needs the heads found at w*: use Knockout.build(subject) or give most=")
        names = _names(self.most)
        statement = f"no {self.ablation} knock-out costs more than that of {names}"
        return Claim(self, statement, lambda table: _most(table) == self.most)

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Run the model whole and with each set knocked out; see the class for the rows."""
        require_bridge(model, self.name)
        sets = self.groups or tuple((head,) for head in all_heads(model))
        fill = fills(model, self.tokens, self.ablation)
        whole = self._losses(model)
        rows = {"example": np.arange(len(whole))}
        tables = [pd.DataFrame({"measure": "loss", "value": whole, **rows, "heads": "none"})]
        for heads in sets:
            with knocked_out(model, heads, fill):
                loss = self._losses(model)
            keys: dict[str, Any] = {**rows, "heads": _names(heads)}
            if len(heads) == 1:
                keys |= {"layer": heads[0][0], "head": heads[0][1]}
            tables.append(pd.DataFrame({"measure": "loss", "value": loss, **keys}))
            tables.append(pd.DataFrame({"measure": "loss rise", "value": loss - whole, **keys}))
        return stack(tables)

    def _losses(self, model: Any) -> np.ndarray:
        nats = predictions(model, self.tokens, batch=len(self.tokens)).nats.double().numpy()
        return np.average(nats, axis=1, weights=self.scored) if self.scored is not None else nats.mean(1)


def _names(heads: Sequence[Head]) -> str:
    return " ".join(head_name(head) for head in heads)


def _most(table: pd.DataFrame) -> tuple[Head, ...]:
    """The set of heads with the highest mean rise of the loss."""
    rises = table[table["measure"] == "loss rise"].groupby("heads")["value"].mean()
    return parse_heads(str(rises.idxmax()).split(" "))
