"""Induction: does the model continue a repeated sequence, and which heads attend to what followed last time?

Olsson et al. 2022, "In-context Learning and Induction Heads" (arXiv 2209.11895).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.corpus import check_tokens
from probes.hooks import attention, require_bridge
from probes.predictions import BATCH, predictions
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack

TIE = 0.9  # heads with this share of the highest score count as equals


@dataclass(frozen=True, eq=False)
class Induction:
    """Prefix matching of every head on repeated sequences, and accuracy and loss where the next token is determined.

    A sequence repeats with period P from token `start` on. Scored are the positions t in start + P .. T - 2: the token
    at t stood at t - P before, so what followed it then, token t - P + 1, is what comes next. Rows, all per `example`:

    - `prefix matching`: mean over scored t of the attention from t to t - P + 1; keys `layer`, `head`; its `chance` is
      uniform attention, the mean of 1 / (t + 1).
    - `accuracy`: share of scored t at which token t + 1 has the largest logit; `behaviour` "induction"; its `chance` is
      a uniform guess among the tokens in use.
    - `loss`: mean -log p(token t + 1) over scored t, in nats per token.

    Attributes:
        tokens: Token ids, shape (n, T).
        period: P of each sequence, shape (n,).
        start: First token of the repetition, e.g. 1 behind a marker.
        heads: (layer, head) pairs of the default claim, found at w* by `build`.
        least: Prefix matching that the claim asks for, half of the highest at w*.

    >>> from transformer_lens import TransformerBridge, TransformerBridgeConfig
    >>> model = TransformerBridge.boot_native(TransformerBridgeConfig(
    ...     d_model=8, d_head=4, n_heads=2, n_layers=1, n_ctx=8, d_vocab=9, act_fn="relu", seed=0)).eval()
    >>> table = Induction.random(range(9), n=2, period=4)(model)
    >>> table.groupby("measure").size().to_dict()
    {'accuracy': 2, 'loss': 2, 'prefix matching': 4}
    """

    name: ClassVar[str] = "induction"
    needs: ClassVar[str] = "a bridge; corpus.of_kind, or vocabulary="
    measures: ClassVar[Mapping[str, Measure]] = {
        "prefix matching": Measure(chance=None, higher=True, binary=False, unit="attention"),
        "accuracy": Measure(chance=None, higher=True, binary=False, unit="share"),
        "loss": Measure(chance=None, higher=False, binary=False, unit="nats per token"),
    }

    tokens: Tensor
    period: Tensor
    start: int = 0
    heads: tuple[tuple[int, int], ...] = ()
    least: float = 0.5

    def __post_init__(self) -> None:
        """Refuse sequences that do not repeat as said."""
        if self.tokens.ndim != 2 or self.period.shape != self.tokens.shape[:1] or not len(self.tokens):
            raise ValueError(
                "tokens must have shape (n, T) and period shape (n,), n at least 1; got "
                f"{tuple(self.tokens.shape)} and {tuple(self.period.shape)}"
            )
        check_tokens("tokens", self.tokens)
        length = self.tokens.shape[1]
        longest = length - self.start - 2
        if (self.period > longest).any() or (self.period < 1).any():
            raise ValueError(
                f"period must lie in 1..{longest} to leave a scored position in {length} tokens that repeat from token "
                f"{self.start} on; got {sorted(set(self.period.tolist()))}"
            )
        before = self.tokens.gather(1, self.index(0).to(self.tokens.device))
        broken = ~((before == self.tokens).cpu() | ~self._repeated()).all(1)
        if broken.any():
            first = int(broken.nonzero()[0])
            raise ValueError(
                f"sequence {first} does not repeat with period {int(self.period[first])} from token {self.start} on: "
                "check period and start"
            )

    @classmethod
    def random(cls, vocabulary: Sequence[int], *, n: int = 64, period: int = 16, seed: int = 0) -> Self:
        """Sequences of `period` independent uniform tokens, said twice.

        Args:
            vocabulary: Token ids to draw from.
            n: Sequences.
            period: Tokens a half.
            seed: Of the drawing; the same seed gives the same sequences.

        >>> Induction.random([5, 6, 7], n=1, period=4).tokens.shape
        torch.Size([1, 8])
        """
        words = np.asarray(list(vocabulary), dtype=np.int64)
        if len(words) < 2:
            raise ValueError(f"vocabulary needs at least two token ids to draw from, got {words.tolist()}")
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        positive(cls.name, "n", n)
        half = torch.from_numpy(words[rng.integers(len(words), size=(n, positive(cls.name, "period", period)))])
        return cls(torch.cat([half, half], dim=1), torch.full((n,), period))

    @classmethod
    @known_settings
    def build(
        cls,
        subject: Subject,
        *,
        n: int = 64,
        seed: int = 0,
        kind: str = "repeat",
        vocabulary: Sequence[int] | None = None,
        period: int = 16,
    ) -> Self:
        """Induction on the organism's own repeated sequences, or on random tokens of a given vocabulary.

        Args:
            subject: What to ask; its model's strongest heads are what the default claim is about.
            n: Sequences.
            seed: Of the sequences.
            kind: Kind of the organism's corpus: a marker, then a repeating text. Ignored if there is a vocabulary.
            vocabulary: Token ids for random repeated sequences instead.
            period: Their period.

        Raises:
            ValueError: If there is neither a corpus nor a vocabulary, or a setting is unknown or out of range.
        """
        positive(cls.name, "n", n)
        if vocabulary is not None:
            probe = cls.random(vocabulary, n=n, period=period, seed=seed)
        else:
            sample = _corpus(subject).of_kind(kind, n, seed)
            probe = cls(sample.tokens, periods(sample.tokens, start=1), start=1)
        means = by_head(probe(subject.model), "prefix matching")
        return replace(probe, heads=strongest(means), least=round(float(means.max()) / 2, 2))

    def claim(self) -> Claim:
        """The head with the highest mean prefix matching is one of those that had it at w*, and has half of it left.

        One of those, because induction heads come in groups of equals whose order says nothing: all heads whose mean
        at w* is at least 0.9 of the highest.

        Raises:
            ValueError: If those heads are unknown.
        """
        if not self.heads:
            raise ValueError(
                "the default claim needs the heads found at w*: use Induction.build(subject) or give heads="
            )
        names = " or ".join(f"{layer}.{head}" for layer, head in self.heads)
        statement = f"the strongest induction head is {names}, with prefix matching >= {self.least}"
        return Claim(self, statement, self._holds)

    def _holds(self, table: pd.DataFrame) -> bool:
        means = by_head(table, "prefix matching")
        return bool(means.max() >= self.least) and strongest(means)[0] in self.heads

    def __call__(self, model: Any) -> pd.DataFrame:
        """Read the heads and the predictions; see the class for the rows."""
        require_bridge(model, self.name)
        scored, said = self.scored(), predictions(model, self.tokens)
        count = scored.sum(1)
        accuracy = (said.hit & scored[:, :-1]).sum(1) / count
        loss = (said.nats * scored[:, :-1]).sum(1) / count
        rows = {"example": np.arange(len(self.tokens))}
        guess = 1 / len(self.tokens[:, self.start :].unique())
        behaviour = pd.DataFrame(
            {"measure": "accuracy", "value": accuracy.double(), **rows, "behaviour": "induction", "chance": guess}
        )
        losses = pd.DataFrame({"measure": "loss", "value": loss.double(), **rows})
        return stack([behaviour, losses, self._heads(model, scored)])

    def index(self, offset: int) -> Tensor:
        """Position t - P + offset for every t, shape (n, T); clamped, and meaningless where it would be negative."""
        length = self.tokens.shape[1]
        return (torch.arange(length) - self.period[:, None].cpu() + offset).clamp(0, length - 1)

    def _repeated(self) -> Tensor:
        """Positions t >= start + P, shape (n, T)."""
        return torch.arange(self.tokens.shape[1]) >= self.start + self.period[:, None].cpu()

    def scored(self) -> Tensor:
        """Positions t in start + P .. T - 2 of each sequence, shape (n, T), bool."""
        repeated = self._repeated()
        repeated[:, -1] = False
        return repeated

    @torch.no_grad()
    def _heads(self, model: Any, scored: Tensor) -> pd.DataFrame:
        (value,) = attended(model, self.tokens, [(self.index(1), scored)])
        return attention_table("prefix matching", value, scored)


def attended(model: Any, tokens: Tensor, looks: Sequence[tuple[Tensor, Tensor]]) -> np.ndarray:
    """Mean attention of every head from t to index[t] over the scored t, for several pairs (index, scored).

    Args:
        model: A bridge.
        tokens: Token ids, shape (n, T).
        looks: Pairs of the position looked at from each t, shape (n, T), and of which t count, shape (n, T), bool.

    Returns:
        Shape (pairs, layers, n, heads), float64.
    """
    parts = []
    for start in range(0, len(tokens), BATCH):
        rows = slice(start, start + BATCH)
        pattern = attention(model, tokens[rows]).cpu().double()
        parts.append(torch.stack([_mean_attention(pattern, index[rows], scored[rows]) for index, scored in looks]))
    return torch.cat(parts, dim=2).numpy()


def _mean_attention(pattern: Tensor, index: Tensor, scored: Tensor) -> Tensor:
    key = index[None, :, None, :, None].expand(*pattern.shape[:-1], 1)
    looked = pattern.gather(-1, key)[..., 0]  # layers, n, heads, T
    return (looked * scored[:, None]).sum(-1) / scored.sum(1)[:, None]


def attention_table(measure: str, value: np.ndarray, scored: Tensor) -> pd.DataFrame:
    """A row for each entry of `attended`, with uniform attention, the mean of 1 / (t + 1), as its chance."""
    layer, example, head = (axis.ravel() for axis in np.indices(value.shape))
    uniform = (scored / torch.arange(1, scored.shape[1] + 1)).sum(1) / scored.sum(1)
    keys = {"example": example, "layer": layer, "head": head, "chance": uniform.double().numpy()[example]}
    return pd.DataFrame({"measure": measure, "value": value.ravel(), **keys})


def periods(tokens: Tensor, start: int = 0) -> Tensor:
    """Smallest P of each sequence with token t equal to token t - P for all t >= start + P.

    Args:
        tokens: Token ids, shape (n, T).
        start: Where the repetition begins.

    Returns:
        Shape (n,).

    Raises:
        ValueError: If some sequence has no period that leaves a scored position; the message gives its index.

    >>> periods(torch.tensor([[9, 1, 2, 3, 1, 2, 3]]), start=1)
    tensor([3])
    """
    text = tokens[:, start:]
    found = torch.zeros(len(text), dtype=torch.int64)
    for period in range(text.shape[1] - 2, 0, -1):
        fits = (text[:, period:] == text[:, :-period]).all(1).cpu()
        found[fits] = period
    if (found == 0).any():
        raise ValueError(f"sequence {int((found == 0).nonzero()[0])} does not repeat from token {start} on")
    return found


def _corpus(subject: Subject) -> Any:
    try:
        return subject.corpus("induction", "of_kind")
    except ValueError as error:
        raise ValueError(f"{error}; or give vocabulary=[token ids] for random repeated sequences") from None


def by_head(table: pd.DataFrame, measure: str) -> pd.Series:
    """Mean of one measure by (layer, head)."""
    return table[table["measure"] == measure].groupby(["layer", "head"])["value"].mean()


def strongest(means: pd.Series) -> tuple[tuple[int, int], ...]:
    """Heads whose mean is within a tenth of the highest, the highest first: heads come in groups of equals.

    >>> heads = pd.MultiIndex.from_product([[0], [0, 1, 2]])
    >>> strongest(pd.Series([0.5, 0.1, 0.54], index=heads)), strongest(pd.Series([-2.0, -1.0, -3.0], index=heads))
    (((0, 2), (0, 0)), ((0, 1),))
    """
    least = means.max() - (1 - TIE) * abs(means.max())
    equals = means[means >= least].sort_values(ascending=False, kind="stable")
    return tuple((int(head[0]), int(head[1])) for head in equals.index.to_flat_index())
