"""Kinds: the loss on each kind of text against the Bayes predictor, and accuracy where the next token is certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.corpus import check_tokens
from probes.predictions import predictions
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack

CERTAIN = 1e-9  # nats; below this entropy the next token is determined
LEAST = 0.9  # accuracy that the default claim asks for
MASTERED = 0.95  # accuracy at w* of the kinds that it is about: far enough above for sampling not to decide


@dataclass(frozen=True, eq=False)
class Kinds:
    """Loss, excess loss and accuracy on held-out sequences of every kind.

    Rows, all with `example` and `kind`:

    - `loss`: mean over the T - 1 predicted tokens of -log p, in nats per token.
    - `excess`: mean over the same tokens of (-log p) - (-log p_Bayes), in nats per token: 0 for the Bayes predictor,
      and far less noisy than the loss. Its `chance` is the excess of a uniform guess among the K tokens this kind is
      written in: log K minus the sequence's own mean surprisal.
    - `accuracy`: share of the tokens with entropy 0 that have the largest logit; only where a sequence has such tokens.

    A kind in which nothing is determined but in which there is something to know (Markov text) is a `behaviour`, by its
    excess: the other kinds' behaviours are asked for one by one by `Recall` and `Induction`, and noise has none.

    Attributes:
        tokens: Token ids, shape (n, T).
        kind: Kind of each sequence, shape (n,).
        entropy: Entropy of each next token, shape (n, T - 1), nats.
        surprisal: -log p of the Bayes predictor, shape (n, T - 1), nats.
        mastered: Kinds of the default claim, found at w* by `build`.

    >>> one = np.full((1, 2), np.log(2))
    >>> probe = Kinds(torch.tensor([[0, 1, 2]]), np.array(["coin"]), entropy=one, surprisal=one)
    >>> clueless = torch.nn.Embedding.from_pretrained(torch.zeros(4, 4)).eval()
    >>> probe(clueless)[["measure", "value"]].round(3)
      measure  value
    0    loss  1.386
    1  excess  0.693
    """

    name: ClassVar[str] = "kinds"
    needs: ClassVar[str] = "corpus.of_kind, corpus.heldout, of text whose law is known"
    measures: ClassVar[Mapping[str, Measure]] = {
        "loss": Measure(chance=None, higher=False, binary=False, unit="nats per token"),
        "excess": Measure(chance=None, higher=False, binary=False, unit="nats per token"),
        "accuracy": Measure(chance=None, higher=True, binary=False, unit="share"),
    }

    tokens: Tensor
    kind: np.ndarray
    entropy: np.ndarray
    surprisal: np.ndarray
    mastered: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse sequences without their law."""
        check_tokens("tokens", self.tokens)
        n, length = self.tokens.shape
        for name, value, shape in (
            ("kind", self.kind, (n,)),
            ("entropy", self.entropy, (n, length - 1)),
            ("surprisal", self.surprisal, (n, length - 1)),
        ):
            if np.shape(value) != shape:
                found = np.shape(value)
                raise ValueError(f"{name} must have shape {shape} for tokens of shape {(n, length)}, got {found}")

    @classmethod
    @known_settings
    def build(cls, subject: Subject, *, n: int = 32, seed: int = 0, kinds: Sequence[str] | None = None) -> Self:
        """`n` fresh sequences of each kind of the organism's corpus.

        Args:
            subject: What to ask; the kinds its model has mastered are what the default claim is about.
            n: Sequences a kind.
            seed: Of the sequences.
            kinds: Which kinds; None: all that occur among 2,048 held-out sequences.

        Raises:
            ValueError: If the subject's corpus lacks `of_kind`, `heldout` or the law of its text, or a setting is
                unknown or out of range.
        """
        corpus = subject.corpus(cls.name, "of_kind", "heldout")
        chosen = np.unique(corpus.heldout(2048, seed).kind) if kinds is None else kinds
        if not len(chosen):
            raise ValueError(f"{cls.name}: kinds must name at least one kind, or be left out for all; got {kinds!r}")
        samples = [corpus.of_kind(str(kind), positive(cls.name, "n", n), seed) for kind in chosen]
        lacking = [name for name in ("entropy", "surprisal") if not hasattr(samples[0], name)]
        if lacking:
            raise ValueError(
                f"{cls.name}: the text of this corpus has no known law, its samples lack {', '.join(lacking)}: use "
                "Ngrams or LogitLens, which need none"
            )
        kind, entropy, surprisal = (
            np.concatenate([getattr(sample, name) for sample in samples]) for name in ("kind", "entropy", "surprisal")
        )
        probe = cls(torch.cat([sample.tokens for sample in samples]), kind, entropy, surprisal)
        means = _accuracies(probe(subject.model))
        return replace(probe, mastered=tuple(str(kind) for kind in means.index[means >= MASTERED]))

    def claim(self) -> Claim:
        """The kinds whose determined tokens were answered at >= 0.95 at w* still are at >= 0.9.

        Raises:
            ValueError: If those kinds are unknown, or there are none.
        """
        if not self.mastered:
            raise ValueError(
                f"the default claim needs kinds that are answered at >= {MASTERED} at w*, and has {self.mastered}: use "
                "Kinds.build(subject) on a trained model, or give mastered="
            )
        kinds = list(self.mastered)
        statement = f"{', '.join(kinds)}: what is determined is answered at >= {LEAST}"
        return Claim(self, statement, lambda table: bool((_accuracies(table)[kinds] >= LEAST).all()))

    def __call__(self, model: Any) -> pd.DataFrame:
        """Score every sequence; see the class for the rows."""
        said = predictions(model, self.tokens)
        nats, certain = said.nats.double().numpy(), self.entropy < CERTAIN
        keys = {"example": np.arange(len(nats)), "kind": self.kind}
        tables = [pd.DataFrame({"measure": "loss", "value": nats.mean(1), **keys})]
        excess = pd.DataFrame({"measure": "excess", "value": (nats - self.surprisal).mean(1), **keys})
        tables.append(excess.assign(chance=self._guess(), behaviour=self._behaviours()))
        asked = certain.any(1)
        if asked.any():
            right = (said.hit.numpy() & certain).sum(1)[asked] / certain.sum(1)[asked]
            accuracy = {"measure": "accuracy", "value": right, **{name: key[asked] for name, key in keys.items()}}
            tables.append(pd.DataFrame(accuracy))
        return stack(tables)

    def _guess(self) -> np.ndarray:
        """Excess of a uniform guess, shape (n,), nats per token."""
        written = self.tokens[:, 1:].cpu().numpy()
        logs = {kind: np.log(len(np.unique(written[self.kind == kind]))) for kind in np.unique(self.kind)}
        return np.array([logs[kind] for kind in self.kind]) - self.surprisal.mean(1)

    def _behaviours(self) -> np.ndarray:
        """Name of the behaviour of each sequence, None for those of kinds that are none, shape (n,)."""
        guess = self._guess()
        names = np.full(len(self.kind), None, dtype=object)
        for kind in np.unique(self.kind):
            mine = self.kind == kind
            if (self.entropy[mine] >= CERTAIN).all() and guess[mine].mean() > CERTAIN:
                names[mine] = str(kind)
        return names


def _accuracies(table: pd.DataFrame) -> pd.Series:
    """Mean accuracy by kind."""
    return table[table["measure"] == "accuracy"].groupby("kind")["value"].mean()
