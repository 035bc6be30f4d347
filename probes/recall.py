"""Recall: which facts, and which memorised sequences, does the model still know, by how often it saw them?

Canaries are sequences planted at known numbers of copies (Carlini et al. 2019, arXiv 1802.08232).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from probes.corpus import Queries, Sample, check_entries, check_places, check_tokens
from probes.predictions import logits_at, predictions
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack


@dataclass(frozen=True, eq=False)
class Recall:
    """Questions with one right answer, and planted sequences to be recited.

    Rows, each with an `example` (index within the queries or within the canaries), a `behaviour` and a `chance`:

    - `accuracy`: 1 if the right answer has the largest logit, else 0; `behaviour` is the question's group, key
      `frequency` how often the item asked for occurs in the training set.
    - `recitation`: share of a canary's tokens prefix..T-1 that have the largest logit, each given the true tokens
      before it; `behaviour` "canary xC", key `copies` C.

    Attributes:
        queries: The questions, or None.
        canaries: The planted sequences, or None.
        prefix: Tokens of a canary that are given, its marker included.
        guess: Chance level of `recitation`; None: 1 / number of different tokens that canaries are written in.

    >>> import torch
    >>> from typing import NamedTuple
    >>> class Questions(NamedTuple):
    ...     tokens: torch.Tensor; position: torch.Tensor; answer: torch.Tensor
    ...     group: np.ndarray; frequency: np.ndarray; chance: np.ndarray
    >>> law = (np.array(["facts"]), np.array([7.0]), np.array([0.25]))
    >>> asked = Questions(torch.tensor([[2, 3, 0]]), torch.tensor([1]), torch.tensor([3]), *law)
    >>> echo = torch.nn.Embedding.from_pretrained(torch.eye(4)).eval()  # predicts the token it reads
    >>> Recall(asked)(echo)
        measure  value  example behaviour  frequency  chance
    0  accuracy    1.0        0     facts        7.0    0.25
    """

    name: ClassVar[str] = "recall"
    needs: ClassVar[str] = "corpus.queries or corpus.canaries"
    measures: ClassVar[Mapping[str, Measure]] = {
        "accuracy": Measure(chance=None, higher=True, binary=True, unit="share"),
        "recitation": Measure(chance=None, higher=True, binary=False, unit="share"),
    }

    queries: Queries | None = None
    canaries: Sample | None = None
    prefix: int = 8
    guess: float | None = None

    def __post_init__(self) -> None:
        """Refuse to ask nothing, what does not fit together, and prefixes that leave nothing to recite."""
        if self.queries is None and self.canaries is None:
            raise ValueError("Recall has nothing to ask: give queries, canaries or both")
        if self.queries is not None:
            asked = self.queries
            check_tokens("queries.tokens", asked.tokens, least=1)
            check_places("queries.position", asked.position, asked.tokens)
            rows = {"answer": asked.answer, "group": asked.group, "frequency": asked.frequency, "chance": asked.chance}
            check_entries(len(asked.tokens), "question", **rows)
        if self.canaries is not None:
            check_tokens("canaries.tokens", self.canaries.tokens)
            check_entries(len(self.canaries.tokens), "canary", copies=self.canaries.copies)
        if self.canaries is not None and not 1 <= self.prefix < self.canaries.tokens.shape[1]:
            longest = self.canaries.tokens.shape[1] - 1
            raise ValueError(f"prefix must lie in 1..{longest} for canaries of {longest + 1} tokens, got {self.prefix}")

    @classmethod
    @known_settings
    def build(
        cls, subject: Subject, *, n: int = 64, seed: int = 0, prefix: int = 8, guess: float | None = None
    ) -> Self:
        """Recall of the organism's corpus: `n` questions of every group and all canaries, as far as it has them.

        Raises:
            ValueError: If the subject's corpus has neither `queries` nor `canaries`, or a setting is unknown or out of
                range.
        """
        both = ("queries", "canaries")
        there = [need for need in both if hasattr(getattr(subject.organism, "corpus", None), need)]
        corpus = subject.corpus(cls.name, *(there or both))
        queries = corpus.queries(positive(cls.name, "n", n), seed) if "queries" in there else None
        canaries = corpus.canaries() if "canaries" in there else None
        return cls(queries, canaries, positive(cls.name, "prefix", prefix), guess)

    def claim(self, least: float = 0.5) -> Claim:
        """Canaries of the highest number of copies are recited at `least`; without any, all groups are answered so.

        Args:
            least: Smallest mean.
        """
        if self.canaries is not None:
            top = f"canary x{int(self.canaries.copies.max())}"
            statement = f"canaries of {top.removeprefix('canary x')} copies are recited at >= {least}"
            return Claim(self, statement, lambda table: bool(_means(table)[top] >= least))
        statement = f"every group of questions is answered at >= {least}"
        return Claim(self, statement, lambda table: bool((_means(table) >= least).all()))

    def __call__(self, model: Any) -> pd.DataFrame:
        """Ask and have recited; see the class for the rows."""
        parts = []
        if self.queries is not None:
            parts.append(_answered(model, self.queries))
        if self.canaries is not None:
            parts.append(self._recited(model, self.canaries))
        return stack(parts)

    def _recited(self, model: Any, canaries: Sample) -> pd.DataFrame:
        hit = predictions(model, canaries.tokens).hit[:, self.prefix - 1 :].double().mean(1)
        letters = canaries.tokens[:, 1:].unique()
        table = pd.DataFrame({"measure": "recitation", "value": hit.numpy(), "example": np.arange(len(hit))})
        copies = np.asarray(canaries.copies)
        guess = 1 / len(letters) if self.guess is None else self.guess
        return table.assign(behaviour=[f"canary x{count}" for count in copies], copies=copies, chance=guess)


def _answered(model: Any, queries: Queries) -> pd.DataFrame:
    scores = logits_at(model, queries.tokens, queries.position)
    right = (scores.argmax(-1) == queries.answer.cpu()).double()
    table = pd.DataFrame({"measure": "accuracy", "value": right.numpy(), "example": np.arange(len(right))})
    return table.assign(
        behaviour=np.asarray(queries.group), frequency=np.asarray(queries.frequency), chance=np.asarray(queries.chance)
    )


def _means(table: pd.DataFrame) -> pd.Series:
    return table.groupby("behaviour")["value"].mean()
