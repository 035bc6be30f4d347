"""n-grams: how far is the model from one that knows nothing but the last n - 1 tokens?

The n-gram models of the training corpus are the less precise end of the dial: simple models that a degraded network may
come to resemble.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from probes.corpus import check_tokens
from probes.counts import Counts
from probes.hooks import logits
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack

CELLS = 4_000_000  # numbers in a table of next-token laws that are held at once


@dataclass(frozen=True, eq=False)
class Ngrams:
    """Divergence and loss gap between the model and the n-gram models of its training corpus, n = 1..N.

    Rows, all per `example` and `order`, in nats per token, means over the T - 1 predicted tokens:

    - `kl`: KL(p_n || q), p_n the n-gram model's next-token law and q the model's: 0 if the model is that n-gram model.
      Its `chance` is the divergence of a uniform q, log V - H(p_n).
    - `gap`: loss of the model less loss of the n-gram model, on the tokens that came: negative if the model is better.

    Attributes:
        tokens: Token ids of held-out text, shape (n, T).
        counts: Of the training corpus; see `probes.counts.Counts`.

    >>> text = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0]])
    >>> probe = Ngrams(text, Counts.of(text.numpy(), order=2))
    >>> clueless = torch.nn.Embedding.from_pretrained(torch.zeros(2, 2)).eval()
    >>> table = probe(clueless)
    >>> bool(np.allclose(table.loc[table.measure == "kl", "value"], table.loc[table.measure == "kl", "chance"]))
    True
    """

    name: ClassVar[str] = "ngrams"
    needs: ClassVar[str] = "corpus.training, corpus.heldout"
    measures: ClassVar[Mapping[str, Measure]] = {
        "kl": Measure(chance=None, higher=False, binary=False, unit="nats per token"),
        "gap": Measure(chance=None, higher=False, binary=False, unit="nats per token"),
    }

    tokens: Tensor
    counts: Counts

    def __post_init__(self) -> None:
        """Refuse text in which nothing is predicted."""
        check_tokens("tokens", self.tokens)

    @classmethod
    @known_settings
    def build(cls, subject: Subject, *, n: int = 64, seed: int = 0, order: int = 4, alpha: float = 1.0) -> Self:
        """n-gram models of the organism's training set, against its model on `n` held-out sequences.

        Args:
            subject: What to ask.
            n: Held-out sequences.
            seed: Of the sequences.
            order: The highest order N.
            alpha: Weight of the shorter context in a longer one's law, in counts.

        Raises:
            ValueError: If the subject's corpus lacks `training` or `heldout`, or a setting is unknown or out of range.
        """
        corpus = subject.corpus(cls.name, "training", "heldout")
        counts = Counts.of(corpus.training().tokens.numpy(), positive(cls.name, "order", order), alpha)
        return cls(corpus.heldout(positive(cls.name, "n", n), seed).tokens, counts)

    def claim(self) -> Claim:
        """The model predicts better than every one of the n-gram models."""
        statement = f"the model has a lower loss than the n-gram models of orders 1 to {self.counts.order}"
        return Claim(self, statement, lambda table: bool((_gaps(table) < 0).all()))

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Compare law with law, and loss with loss; see the class for the rows."""
        parts = [self._compared(scores, example) for scores, example in self._scores(model)]
        kl, gap, guess = (np.concatenate([part[i] for part in parts], axis=1) for i in range(3))
        order, example = (axis.ravel() for axis in np.indices(kl.shape))
        rows = {"example": example, "order": order + 1}
        apart = pd.DataFrame({"measure": "kl", "value": kl.ravel(), **rows, "chance": guess.ravel()})
        return stack([apart, pd.DataFrame({"measure": "gap", "value": gap.ravel(), **rows})])

    def _scores(self, model: Any) -> Iterator[tuple[Tensor, slice]]:
        """Log-probabilities of a few sequences at a time, as many as the tables have room for."""
        start, rows = 0, 1
        while start < len(self.tokens):
            part = slice(start, start + rows)
            said = functional.log_softmax(logits(model, self.tokens[part])[:, :-1].cpu().double(), dim=-1)
            yield said, part
            start, rows = part.stop, max(1, CELLS // said[0].numel())

    def _compared(self, said: Tensor, part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Divergence, loss gap and the divergence of a uniform guess, each of shape (orders, rows)."""
        tokens, shape = self.tokens[part].cpu().numpy(), said.shape
        law = self.counts.law(_contexts(tokens, self.counts.order - 1), shape[-1]).reshape(-1, *shape)
        q, came = said.numpy(), tokens[None, :, 1:, None]
        neg_entropy = (law * np.log(law)).sum(-1)
        kl = (neg_entropy - (law * q).sum(-1)).mean(-1)
        own, theirs = (np.take_along_axis(p, came.repeat(len(p), 0), axis=-1)[..., 0] for p in (q[None], np.log(law)))
        return kl, (theirs - own).mean(-1), (neg_entropy + np.log(shape[-1])).mean(-1)


def _contexts(tokens: np.ndarray, length: int) -> np.ndarray:
    """The `length` tokens up to each but the last, oldest first, -1 before the text; shape (n (T - 1), length)."""
    n, total = tokens.shape
    padded = np.concatenate([np.full((n, length), -1), tokens[:, :-1]], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, length + 1, axis=1)[..., 1:]
    return windows.reshape(n * (total - 1), length)


def _gaps(table: pd.DataFrame) -> pd.Series:
    return table[table["measure"] == "gap"].groupby("order")["value"].mean()
