"""Memorisation: are planted sequences likelier than random ones of their form, and can they be drawn out of the model?

Carlini et al. 2019, "The Secret Sharer" (arXiv 1802.08232); extraction as in Carlini et al. 2021 (arXiv 2012.07805).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from torch import Tensor

from probes.corpus import Sample, check_entries, check_tokens
from probes.predictions import predictions
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack


def exposure(nats: np.ndarray, references: np.ndarray) -> np.ndarray:
    """log2(m + 1) - log2(rank) of each sequence among itself and m random ones, by loss, in bits.

    This is definition 5 of Carlini et al. with the space of all sequences replaced by m random ones. A sequence that
    the model was never shown is exchangeable with them, so that its rank is uniform on 1..m + 1. Ties count half.

    Args:
        nats: Loss of each sequence, shape (n,).
        references: Losses of the m random sequences of the same form, shape (m,).

    Returns:
        Shape (n,), from 0 (least likely of all) to log2(m + 1) (likelier than all).

    >>> exposure(np.array([0.5, 3.5]), np.array([1.0, 2.0, 3.0]))
    array([2., 0.])
    """
    ordered = np.sort(references)
    below, upto = (np.searchsorted(ordered, nats, side=side) for side in ("left", "right"))
    return np.log2(len(ordered) + 1) - np.log2(1 + (below + upto) / 2)


def chance_exposure(m: int) -> float:
    """Mean exposure of a sequence that was never shown: the mean of log2((m + 1) / rank) over ranks 1..m + 1, in bits.

    It tends to 1 / ln 2 = 1.44 as m grows.

    >>> chance_exposure(1)
    0.5
    """
    return float(np.log2(m + 1) - np.log2(np.arange(1, m + 2)).mean())


@dataclass(frozen=True, eq=False)
class Memorisation:
    """Exposure, extraction and loss of planted sequences.

    Rows, each with an `example` (index within the canaries) and its number of `copies`:

    - `exposure`: by the mean loss over tokens start..T-1, among the reference sequences; in bits; `behaviour` "exposure
      xC" for C copies; its `chance` is what a sequence that was never shown gets on average.
    - `extraction`: 1 if greedy decoding from the first `prefix` tokens gives the rest, else 0. Greedy decoding does so
      exactly if each token has the largest logit given the true ones before it, so nothing needs to be generated.
    - `loss`: mean loss over tokens start..T-1, in nats per token.
    - `loss rise`: the same less its value at w*, if that is given.

    Attributes:
        canaries: The planted sequences.
        references: Random sequences of the same form, shape (m, T).
        start: First token whose loss counts, e.g. 1 behind a marker.
        prefix: Tokens that are given in an extraction.
        trained: Loss of each canary at w*, shape (n,), as `build` measures it; None: no `loss rise`.

    >>> import torch
    >>> from typing import NamedTuple
    >>> class Planted(NamedTuple):
    ...     tokens: torch.Tensor; copies: np.ndarray
    >>> planted, others = Planted(torch.tensor([[2, 2, 2]]), np.array([8])), torch.tensor([[0, 1, 2], [3, 2, 1]])
    >>> echo = torch.nn.Embedding.from_pretrained(torch.eye(4)).eval()  # predicts the token it reads
    >>> Memorisation(planted, others, prefix=1)(echo)[["measure", "value", "copies"]].round(2)
          measure  value  copies
    0    exposure   1.58       8
    1  extraction   1.00       8
    2        loss   0.74       8
    """

    name: ClassVar[str] = "memorisation"
    needs: ClassVar[str] = "corpus.canaries, corpus.of_kind"
    measures: ClassVar[Mapping[str, Measure]] = {
        "exposure": Measure(chance=None, higher=True, binary=False, unit="bits"),
        "extraction": Measure(chance=0.0, higher=True, binary=True, unit="share"),
        "loss": Measure(chance=None, higher=False, binary=False, unit="nats per token"),
        "loss rise": Measure(chance=None, higher=False, binary=False, unit="nats per token"),
    }

    canaries: Sample
    references: Tensor
    start: int = 1
    prefix: int = 8
    trained: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuse what does not fit together, references of another length, and settings that leave no token."""
        check_tokens("canaries.tokens", self.canaries.tokens)
        check_entries(len(self.canaries.tokens), "canary", copies=self.canaries.copies)
        if self.trained is not None:
            check_entries(len(self.canaries.tokens), "canary", trained=self.trained)
        length = self.canaries.tokens.shape[1]
        if self.references.ndim != 2 or not len(self.references) or self.references.shape[1] != length:
            found = tuple(self.references.shape)
            raise ValueError(f"references must have shape (m, {length}) like the canaries, m at least 1; got {found}")
        check_tokens("references", self.references)
        for setting, value in {"start": self.start, "prefix": self.prefix}.items():
            if not 1 <= value < length:
                raise ValueError(f"{setting} must lie in 1..{length - 1} for canaries of {length} tokens, got {value}")

    @classmethod
    @known_settings
    def build(cls, subject: Subject, *, references: int = 511, seed: int = 0, start: int = 1, prefix: int = 8) -> Self:
        """All canaries of the organism's corpus, among fresh sequences of the kind that they are of.

        Args:
            subject: What to ask; the canaries' losses on its model are what `loss rise` is counted from.
            references: Fresh sequences; exposure ends at log2(references + 1) bits.
            seed: Of the fresh sequences.
            start: First token whose loss counts.
            prefix: Tokens that are given in an extraction.

        Raises:
            ValueError: If the subject's corpus lacks `canaries` or `of_kind`, its canaries are of several kinds, or a
                setting is unknown or out of range.
        """
        corpus = subject.corpus(cls.name, "canaries", "of_kind")
        canaries = corpus.canaries()
        kinds = np.unique(canaries.kind)
        if len(kinds) != 1:
            raise ValueError(f"{cls.name}: canaries must be of one kind to have references, got {', '.join(kinds)}")
        fresh = corpus.of_kind(str(kinds[0]), positive(cls.name, "references", references), seed).tokens
        probe = cls(canaries, fresh, positive(cls.name, "start", start), positive(cls.name, "prefix", prefix))
        return replace(probe, trained=probe._losses(subject.model, canaries.tokens))

    def claim(self) -> Claim:
        """Canaries of the highest number of copies have on average half of the bits of exposure that can be had."""
        top, least = int(np.max(self.canaries.copies)), round(np.log2(len(self.references) + 1) / 2, 2)
        statement = f"canaries of {top} copies have an exposure >= {least} bits"
        return Claim(self, statement, lambda table: _mean(table, "exposure", top) >= least)

    def __call__(self, model: Any) -> pd.DataFrame:
        """Rank, recite and score the canaries; see the class for the rows."""
        said = predictions(model, self.canaries.tokens)
        loss = said.nats.double()[:, self.start - 1 :].mean(1).numpy()
        whole = said.hit[:, self.prefix - 1 :].all(1).double().numpy()
        copies = np.asarray(self.canaries.copies)
        rows = {"example": np.arange(len(loss)), "copies": copies}
        bits = exposure(loss, self._losses(model, self.references))
        names, guess = [f"exposure x{count}" for count in copies], chance_exposure(len(self.references))
        tables = [pd.DataFrame({"measure": "exposure", "value": bits, **rows, "behaviour": names, "chance": guess})]
        values = {"extraction": whole, "loss": loss}
        if self.trained is not None:
            values["loss rise"] = loss - self.trained
        return stack(tables + [pd.DataFrame({"measure": m, "value": v, **rows}) for m, v in values.items()])

    def _losses(self, model: Any, tokens: Tensor) -> np.ndarray:
        return predictions(model, tokens).nats.double()[:, self.start - 1 :].mean(1).numpy()


def _mean(table: pd.DataFrame, measure: str, copies: int) -> float:
    return float(table.loc[(table["measure"] == measure) & (table["copies"] == copies), "value"].mean())
