"""Linear probe: can a label be read off one vector of the residual stream by a linear classifier?

Alain & Bengio 2016 (arXiv 1610.01644), with the control labels of Hewitt & Liang 2019 (arXiv 1909.03368).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from probes.corpus import check_entries, check_places, check_tokens
from probes.hooks import record, require_bridge
from probes.lenses import stream_hooks
from probes.predictions import BATCH
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack

LABELS = ("kind", "answer")


class Weights(NamedTuple):
    """A linear classifier: class scores are x @ matrix + bias; shapes (d, classes) and (classes,), float64."""

    matrix: Tensor
    bias: Tensor


def fit(x: Tensor, classes: Tensor, count: int, ridge: float) -> Weights:
    """Ridge regression of centred one-hot labels on centred activations, in closed form.

    Minimises ||Y - X W||^2 + ridge * tr(X^T X) / d * ||W||^2: `ridge` is relative to the mean variance of a coordinate.

    Args:
        x: Activations, shape (n, d), float64.
        classes: Class of each, shape (n,), in 0..count - 1.
        count: Number of classes.
        ridge: Penalty, above 0.
    """
    y = functional.one_hot(classes, count).double()
    mean, share = x.mean(0), y.mean(0)
    gram = (x - mean).T @ (x - mean)
    penalty = ridge * gram.diagonal().mean().clamp(min=1e-300)
    matrix = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=x.dtype), (x - mean).T @ (y - share))
    return Weights(matrix, share - mean @ matrix)


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A label, read off one position of the residual stream after 0, 1, ..., L blocks.

    A classifier is fitted to the `fitted` examples and asked for the others. Rows, all per `example` and `layer` (how
    many blocks have been passed); the `chance` is the share of the commonest class among those asked:

    - `probe accuracy`: 1 if a classifier fitted to this model is right, else 0: is it still there, in any direction?
    - `frozen accuracy`: the same of the classifier fitted at w*: is it still there in the same direction?
    - `control accuracy`: the same with the labels permuted, in fitting as in asking: what the classifier can do with
      labels that mean nothing. A probe says something only as far as it beats this (its selectivity).

    Attributes:
        tokens: Token ids, shape (n, T).
        position: Position of the vector that is read, shape (n,).
        label: Class of each example, shape (n,).
        fitted: Which examples are fitted to, shape (n,), bool; the others are asked.
        ridge: Penalty; see `fit`.
        seed: Of the permutation of the labels.
        frozen: Classifiers by layer at w*, fitted by `build`; None: no `frozen accuracy`.
        draws: How many draws per chain and rung are worth asking; None: all.

    >>> from transformer_lens import TransformerBridge, TransformerBridgeConfig
    >>> model = TransformerBridge.boot_native(TransformerBridgeConfig(
    ...     d_model=8, d_head=4, n_heads=2, n_layers=1, n_ctx=4, d_vocab=9, act_fn="relu", seed=0)).eval()
    >>> tokens, last = torch.tensor([[1, 2], [3, 4]] * 4), torch.ones(8, dtype=torch.int64)
    >>> table = LinearProbe(tokens, last, tokens[:, 1].numpy(), np.arange(8) < 4)(model)  # which token is it?
    >>> table[table["layer"] == 0].groupby("measure")["value"].mean().to_dict()
    {'control accuracy': 0.25, 'probe accuracy': 1.0}
    """

    name: ClassVar[str] = "linear-probe"
    needs: ClassVar[str] = "a bridge; corpus.heldout (label=kind) or corpus.pairs (label=answer)"
    measures: ClassVar[Mapping[str, Measure]] = {
        "probe accuracy": Measure(chance=None, higher=True, binary=True, unit="share"),
        "frozen accuracy": Measure(chance=None, higher=True, binary=True, unit="share"),
        "control accuracy": Measure(chance=None, higher=True, binary=True, unit="share"),
    }

    tokens: Tensor
    position: Tensor
    label: np.ndarray
    fitted: np.ndarray
    ridge: float = 0.1
    seed: int = 0
    frozen: tuple[Weights, ...] | None = None
    draws: int | None = None

    def __post_init__(self) -> None:
        """Refuse examples without a label, and sets from which nothing can be learnt."""
        check_tokens("tokens", self.tokens, least=1)
        check_places("position", self.position, self.tokens)
        check_entries(len(self.tokens), "sequence", label=self.label, fitted=self.fitted)
        if len(np.unique(self.label[self.fitted])) < 2 or self.fitted.all():
            raise ValueError("a linear probe needs two classes to be fitted to, and examples left over to be asked")
        if not self.ridge > 0:
            raise ValueError(f"ridge must be above 0, or few examples fit anything; got {self.ridge}")

    @classmethod
    @known_settings
    def build(cls, subject: Subject, *, label: str = "kind", n: int = 512, seed: int = 0, ridge: float = 0.1) -> Self:
        """A probe for the kind of a sequence at its last token, or for the answer where a pair's prompt asks for it.

        Args:
            subject: What to ask, and what the frozen classifiers are fitted to.
            label: "kind" or "answer".
            n: Sequences, half of them to fit.
            seed: Of the sequences and of the permutation of the labels.
            ridge: Penalty; see `fit`.

        Raises:
            ValueError: If the subject's corpus lacks `heldout` or `pairs`, or a setting is unknown or out of range.
        """
        if label not in LABELS:
            raise ValueError(f"{cls.name}: unknown label {label!r}; choose from {', '.join(LABELS)}")
        positive(cls.name, "n", n)
        if label == "kind":
            sample = subject.corpus(cls.name, "heldout").heldout(n, seed)
            tokens, of = sample.tokens, np.asarray(sample.kind)
            position = torch.full((len(tokens),), tokens.shape[1] - 1)
        else:
            pairs = subject.corpus(cls.name, "pairs").pairs(n, seed)
            tokens, position, of = pairs.clean, pairs.position, pairs.answer.numpy()
        mixed = np.random.default_rng(np.random.SeedSequence([seed, 1])).permutation(len(tokens))
        probe = cls(tokens, position, of, mixed < len(tokens) // 2, ridge, seed)
        return replace(probe, frozen=tuple(weights for _, weights in probe._fits(subject.model, probe._classes())))

    def claim(self, least: float = 0.2) -> Claim:
        """Behind the last block the probe beats its control labels by `least`.

        Args:
            least: Smallest difference of the mean accuracies.
        """
        statement = f"behind the last block a linear probe beats its control labels by >= {least}"
        return Claim(self, statement, lambda table: _selectivity(table) >= least)

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Fit and ask in every layer; see the class for the rows."""
        require_bridge(model, self.name)
        classes, asked = self._classes(), torch.from_numpy(~self.fitted)
        shuffled = classes[self._permutation()]
        tables = []
        fits = zip(self._fits(model, classes), self._fits(model, shuffled), strict=True)
        for layer, ((x, own), (_, control)) in enumerate(fits):
            answers = {"probe accuracy": (own, classes), "control accuracy": (control, shuffled)}
            if self.frozen is not None:
                answers["frozen accuracy"] = (self.frozen[layer], classes)
            for measure, (weights, truth) in answers.items():
                right = (x[asked] @ weights.matrix + weights.bias).argmax(-1) == truth[asked]
                tables.append(self._table(measure, layer, right, truth[asked]))
        return stack(tables)

    def _classes(self) -> Tensor:
        return torch.from_numpy(np.unique(self.label, return_inverse=True)[1])

    def _permutation(self) -> np.ndarray:
        return np.random.default_rng(np.random.SeedSequence([self.seed, 2])).permutation(len(self.label))

    def _fits(self, model: Any, classes: Tensor) -> Iterator[tuple[Tensor, Weights]]:
        """Activations, shape (n, d), and the classifier fitted to them, layer by layer."""
        fitted, count = torch.from_numpy(self.fitted), int(classes.max()) + 1
        for x in self._activations(model):
            yield x, fit(x[fitted], classes[fitted], count, self.ridge)

    @torch.no_grad()
    def _activations(self, model: Any) -> list[Tensor]:
        hooks = stream_hooks(model)
        parts = []
        for tokens, position in zip(self.tokens.split(BATCH), self.position.split(BATCH), strict=True):
            _, kept = record(model, tokens, hooks)
            rows = torch.arange(len(tokens))
            parts.append([kept[hook].cpu()[rows, position.cpu()].double() for hook in hooks])
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]

    def _table(self, measure: str, layer: int, right: Tensor, truth: Tensor) -> pd.DataFrame:
        common = float(torch.bincount(truth).max()) / len(truth)
        rows = {"example": np.flatnonzero(~self.fitted), "layer": layer, "chance": common}
        return pd.DataFrame({"measure": measure, "value": right.double().numpy(), **rows})


def _selectivity(table: pd.DataFrame) -> float:
    last = table[table["layer"] == table["layer"].max()]
    means = last.groupby("measure")["value"].mean()
    return float(means["probe accuracy"] - means["control accuracy"])
