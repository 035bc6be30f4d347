"""Modular addition: does the model add by trigonometry on a few frequencies, and how much of its loss rests on them?

Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability" (arXiv 2301.05217), whose measures
these are. With w_k = 2 pi k / p, a network that adds by rotations has logits sum_k alpha_k cos(w_k (a + b - c)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.corpus import Sums, check_entries, check_places, check_tokens
from probes.fourier import (
    component_norms,
    gini,
    key_frequencies,
    losses,
    restricted,
    rotations,
    shares,
    single_frequency,
)
from probes.hooks import record, require_bridge
from probes.predictions import logits_at
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack

EXPLAINED = 0.9  # variance explained that the default claim asks for; Nanda et al. report 0.95
CHUNK = 4096  # sums a forward pass


@dataclass(frozen=True, eq=False)
class ModularAddition:
    """Losses with and without the key frequencies, and how sparse embeddings, neurons and logits are in Fourier terms.

    All p² sums are asked. Logits are those of the p possible sums, centred over them (a constant does not change a
    softmax); pi(a + b) denotes their projection, for every c, on cos(w_k (a + b)) and sin(w_k (a + b)) for the key k.
    Losses are in nats per sum, softmax over the p sums. Rows:

    - `accuracy`: share over b of the sums a + b that have the largest logit; keys `example` (a), `pairs` ("trained" or
      "held out"); behaviours "addition trained" and "addition held out"; chance 1 / p.
    - `loss`: mean -log p(a + b); key `pairs`: "all", "trained" or "held out".
    - `restricted loss`: the same over all pairs with the logits replaced by pi(a + b) and their mean over pairs.
    - `excluded loss`: the same over the trained pairs with pi(a + b) taken away from the logits.
    - `logit share`: share of the variance of the logits that alpha_k cos(w_k (a + b - c)) explains; key `frequency`.
    - `logit variance explained`: its sum over the key frequencies; the behaviour "addition by rotations", chance 0.
    - `embedding gini`, `logit gini`: Gini coefficient of the norms of the Fourier components over a of the embeddings,
      and over c of the logits: 0 if all are equal, towards 1 if a few carry everything.
    - `neuron variance explained`: largest share, over single frequencies, of a neuron's variance over all pairs that
      products of {1, cos(w_k a), sin(w_k a)} and {1, cos(w_k b), sin(w_k b)} explain; keys `layer` (the last),
      `neuron`. A neuron that never changes gets 0.
    - `key frequencies`: how many there are.

    Attributes:
        sums: All sums.
        keys: Key frequencies; None: those of the model asked, see `key_frequencies`.
        draws: How many draws per chain and rung are worth the cost.

    >>> from types import SimpleNamespace
    >>> from transformer_lens import TransformerBridge, TransformerBridgeConfig
    >>> model = TransformerBridge.boot_native(TransformerBridgeConfig(
    ...     d_model=8, d_head=4, n_heads=2, n_layers=1, n_ctx=4, d_vocab=5, act_fn="relu", seed=0)).eval()
    >>> number, last = torch.arange(5), torch.ones(25, dtype=torch.int64)
    >>> pairs, trained = torch.cartesian_prod(number, number), np.arange(25) % 2 == 0
    >>> sums = SimpleNamespace(tokens=pairs, position=last, summands=number, answers=number, trained=trained)
    >>> table = ModularAddition(sums, keys=(1, 2))(model)  # of both frequencies there are
    >>> table.loc[table["measure"] == "key frequencies", "value"].item()
    2.0
    """

    name: ClassVar[str] = "modular-addition"
    needs: ClassVar[str] = "a bridge; corpus.sums"
    measures: ClassVar[Mapping[str, Measure]] = {
        "accuracy": Measure(chance=None, higher=True, binary=False, unit="share"),
        **{
            name: Measure(chance=None, higher=False, binary=False, unit="nats per sum")
            for name in ("loss", "restricted loss", "excluded loss")
        },
        **{
            name: Measure(chance=0.0, higher=True, binary=False, unit="share")
            for name in ("logit share", "logit variance explained", "neuron variance explained")
        },
        "embedding gini": Measure(chance=None, higher=True, binary=False, unit="share"),
        "logit gini": Measure(chance=None, higher=True, binary=False, unit="share"),
        "key frequencies": Measure(chance=None, higher=False, binary=False, unit="frequencies"),
    }

    sums: Sums
    keys: tuple[int, ...] | None = None
    draws: int = 2

    def __post_init__(self) -> None:
        """Refuse tables that are no addition modulo an odd number, and frequencies that it does not have."""
        p, rows = len(self.sums.answers), len(self.sums.tokens)
        if p < 3 or p % 2 == 0 or rows != p * p or len(self.sums.trained) != rows:
            raise ValueError(
                f"modular addition needs an odd modulus p >= 3, p possible sums, and p² prompts with a mark for "
                f"those trained on; got {p} sums, {rows} prompts and {len(self.sums.trained)} marks"
            )
        check_tokens("sums.tokens", self.sums.tokens)
        check_places("sums.position", self.sums.position, self.sums.tokens)
        check_entries(p, "number", **{"sums.summands": self.sums.summands})
        if not 0 < int(np.sum(self.sums.trained)) < rows:
            raise ValueError(f"some, not all of the {rows} pairs must be trained on, got {np.sum(self.sums.trained)}")
        if self.keys is not None and not (self.keys and all(1 <= k <= p // 2 for k in self.keys)):
            raise ValueError(f"keys must be frequencies in 1..{p // 2}, got {self.keys}")

    @classmethod
    @known_settings
    def build(cls, subject: Subject, *, keys: Sequence[int] | None = None, draws: int = 2) -> Self:
        """All sums of the organism's corpus, with the key frequencies of the subject's model.

        Args:
            subject: What to ask; the frequencies of its model are those whose survival is asked for.
            keys: Other frequencies to ask for.
            draws: How many draws per chain and rung.

        Raises:
            ValueError: If the subject's corpus lacks `sums`, or a setting is unknown or out of range.
        """
        sums = subject.corpus(cls.name, "sums").sums()
        chosen = None if keys is None else tuple(keys)
        probe = cls(sums, chosen, positive(cls.name, "draws", draws))
        if chosen is not None:
            return probe
        return replace(probe, keys=key_frequencies(probe.logits(subject.model)))

    def claim(self) -> Claim:
        """The key frequencies explain at least 0.9 of the logits, and without them the trained sums are lost.

        Lost: the excluded loss is above ln p, that of a uniform guess.

        Raises:
            ValueError: If the frequencies are unknown.
        """
        if self.keys is None:
            raise ValueError(
                "the default claim needs the key frequencies at w*: use ModularAddition.build(subject) or give keys="
            )
        names = ", ".join(map(str, self.keys))
        statement = f"rotations at the frequencies {names} explain >= {EXPLAINED} of the logits and carry the sums"
        return Claim(self, statement, self._holds)

    def _holds(self, table: pd.DataFrame) -> bool:
        value = table.groupby("measure")["value"].mean()
        lost = value["excluded loss"] > np.log(len(self.sums.answers))
        return bool(value["logit variance explained"] >= EXPLAINED and lost)

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Ask all sums; see the class for the rows."""
        require_bridge(model, self.name)
        logits = self.logits(model)
        share = shares(logits)
        keys = key_frequencies(logits) if self.keys is None else self.keys
        neurons = self._neurons(model)
        scalars = {
            "restricted loss": losses(restricted(logits, keys)).mean().item(),
            "excluded loss": losses(logits - rotations(logits, keys))[self._trained()].mean().item(),
            "embedding gini": gini(component_norms(self._embeddings(model))),
            "logit gini": gini(component_norms(logits.permute(2, 0, 1).flatten(1))),
            "key frequencies": float(len(keys)),
        }
        tables = [
            self._answered(logits),
            pd.DataFrame({"measure": list(scalars), "value": list(scalars.values())}),
            pd.DataFrame({"measure": "logit share", "value": share[1:].numpy(), "frequency": np.arange(1, len(share))}),
            pd.DataFrame(
                {
                    "measure": ["logit variance explained"],
                    "value": [share[list(keys)].sum().item()],
                    "behaviour": "addition by rotations",
                    "chance": 0.0,
                }
            ),
            pd.DataFrame({"measure": "neuron variance explained", "value": single_frequency(neurons).numpy()}).assign(
                layer=model.cfg.n_layers - 1, neuron=np.arange(neurons.shape[2])
            ),
        ]
        return stack(tables)

    def logits(self, model: Any) -> Tensor:
        """Centred logits of the possible sums, shape (p, p, p) for a, b and c, float64."""
        p = len(self.sums.answers)
        with torch.no_grad():
            parts = zip(self.sums.tokens.split(CHUNK), self.sums.position.split(CHUNK), strict=True)
            found = torch.cat([logits_at(model, tokens, place)[:, self.sums.answers.cpu()] for tokens, place in parts])
        found = found.double().view(p, p, p)
        return found - found.mean(2, keepdim=True)

    def _trained(self) -> Tensor:
        p = len(self.sums.answers)
        return torch.from_numpy(np.asarray(self.sums.trained, dtype=bool)).view(p, p)

    def _answered(self, logits: Tensor) -> pd.DataFrame:
        p, trained, nats = len(logits), self._trained(), losses(logits)
        number = torch.arange(p)
        hit = (logits.argmax(2) == (number[:, None] + number) % p).double()
        masks = {"trained": trained, "held out": ~trained}
        tables = []
        for pairs, mask in masks.items():
            asked = mask.any(1)
            share = ((hit * mask).sum(1) / mask.sum(1).clamp(min=1))[asked]
            rows = {"measure": "accuracy", "value": share.numpy(), "example": number[asked].numpy(), "pairs": pairs}
            tables.append(pd.DataFrame({**rows, "behaviour": f"addition {pairs}", "chance": 1 / p}))
        by_pairs = {pairs: nats[mask].mean().item() for pairs, mask in {"all": trained | True, **masks}.items()}
        return stack([*tables, pd.DataFrame({"measure": "loss", "value": by_pairs.values(), "pairs": list(by_pairs)})])

    def _embeddings(self, model: Any) -> Tensor:
        """Embedding of every number, shape (p, d)."""
        _, kept = record(model, self.sums.summands[:, None], ["hook_embed"])  # a model of sums has few positions
        return kept["hook_embed"][:, 0].double().cpu()

    def _neurons(self, model: Any) -> Tensor:
        """Activations of the last MLP where the sum is predicted, shape (p, p, neurons), float32."""
        p, hook = len(self.sums.answers), f"blocks.{model.cfg.n_layers - 1}.mlp.hook_post"
        parts = []
        for tokens, place in zip(self.sums.tokens.split(CHUNK), self.sums.position.split(CHUNK), strict=True):
            _, kept = record(model, tokens, [hook])
            parts.append(kept[hook][torch.arange(len(tokens)), place.to(kept[hook].device)].float().cpu())
        return torch.cat(parts).view(p, p, -1)
