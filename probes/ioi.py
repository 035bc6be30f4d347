"""Indirect object identification: does the model name the one who was mentioned once, and which heads see to it?

Wang et al. 2022, "Interpretability in the Wild" (arXiv 2211.00593), whose roles of heads are scored here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.ablation import ablated
from probes.corpus import check_entries, check_places, check_tokens
from probes.heads import Head, head_name, parse_heads
from probes.hooks import record, require_bridge
from probes.induction import attended, by_head, strongest
from probes.predictions import logits_at
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack
from probes.templates import NAMES, TEMPLATES, Prompts, from_pairs, prompts
from probes.tl_weights import direction, outputs, unembedding

ROLES = {  # from where to where a head of that role looks
    "previous token": ("s1+1", "s1"),
    "duplicate token": ("s2", "s1"),
    "induction": ("s2", "s1+1"),
    "S-inhibition": ("end", "s2"),
    "name mover": ("end", "io"),
}
ABLATIONS = ("mean", "zero", "resample")
LEAST = 0.9  # share of prompts in which the default claim wants IO preferred


@dataclass(frozen=True, eq=False)
class IOI:
    """Logit difference between the name mentioned once (IO) and the one mentioned twice (S), and the roles of heads.

    Rows, all per `example`:

    - `logit difference`: logit(IO) - logit(S) where the next name is predicted; key `run` is "whole", or, with a
      circuit, "circuit alone" (every other head ablated) and "circuit removed". `behaviour` "ioi" for the whole model.
    - `preference`: 1 if IO has the larger logit in the whole model, else 0.
    - `attention`: of a head as its role has it; keys `role`, `layer`, `head`: "previous token" from S1 + 1 to S1,
      "duplicate token" from S2 to S1, "induction" from S2 to S1 + 1, "S-inhibition" from END to S2, "name mover" from
      END to IO. Its `chance` is uniform attention.
    - `direct effect`: what a head adds to the logit difference by its own output at END, in nats, the size of the final
      norm held fixed; keys `layer`, `head`. Name movers have positive ones, negative name movers negative ones.

    Attributes:
        data: The prompts.
        circuit: (layer, head) pairs whose knock-out is asked for, if any.
        ablation: "mean" over the corrupted prompts of the same template (Wang et al.), "zero" or "resample".
        movers: Heads of the default claim, found at w* by `build`.
        draws: How many draws per chain and rung are worth asking; None: all.

    >>> from studies.organisms.names import names
    >>> subject = Subject(*names.load(), names)
    >>> table = IOI.build(subject, n=4)(subject.model)
    >>> table.loc[table["measure"] == "preference", "value"].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    name: ClassVar[str] = "ioi"
    needs: ClassVar[str] = "a bridge; corpus.pairs with IO once and S twice, or a tokenizer with single-token names"
    measures: ClassVar[Mapping[str, Measure]] = {
        "logit difference": Measure(chance=0.0, higher=True, binary=False, unit="nats"),
        "preference": Measure(chance=0.5, higher=True, binary=True, unit="share"),
        "attention": Measure(chance=None, higher=True, binary=False, unit="attention"),
        "direct effect": Measure(chance=0.0, higher=True, binary=False, unit="nats"),
    }

    data: Prompts
    circuit: tuple[Head, ...] = ()
    ablation: str = "mean"
    movers: tuple[Head, ...] = ()
    draws: int | None = None

    def __post_init__(self) -> None:
        """Refuse unknown kinds of ablation, prompts that do not fit together, and positions out of order."""
        if self.ablation not in ABLATIONS:
            raise ValueError(f"unknown ablation {self.ablation!r}; choose from {', '.join(ABLATIONS)}")
        data = self.data
        for name, tokens in (("tokens", data.tokens), ("corrupted", data.corrupted)):
            check_tokens(name, tokens)
        if data.tokens.shape != data.corrupted.shape:
            shapes = f"{tuple(data.tokens.shape)} and {tuple(data.corrupted.shape)}"
            raise ValueError(f"a prompt and its corruption must be equally long, got {shapes}: use as many tokens")
        for name, place in (("io", data.io), ("s1", data.s1), ("s2", data.s2), ("end", data.end)):
            check_places(name, place, data.tokens)
        check_entries(len(data.tokens), "prompt", template=data.template)
        if not ((data.s1 < data.s2) & (data.io < data.s2) & (data.s2 < data.end)).all():
            raise ValueError("both names must be mentioned before S is mentioned again, and that before the end")

    @classmethod
    @known_settings
    def build(
        cls,
        subject: Subject,
        *,
        n: int = 48,
        seed: int = 0,
        names: Sequence[str] = NAMES,
        templates: Sequence[str] = TEMPLATES,
        circuit: Sequence[str] = (),
        ablation: str = "mean",
    ) -> Self:
        """IOI on the organism's own pairs if they have that form, else on templates written for the tokenizer.

        Args:
            subject: What to ask; its strongest name movers are what the default claim is about.
            n: Prompts.
            seed: Of the prompts.
            names: For templates: names to draw from.
            templates: For templates: see `probes.templates.prompts`.
            circuit: Heads to knock out, and to leave alone, e.g. L0H3.
            ablation: "mean", "zero" or "resample".

        Raises:
            ValueError: If there are neither such pairs nor a tokenizer for which the templates can be written, or a
                setting is unknown or out of range.
        """
        data = _prompts(subject, positive(cls.name, "n", n), seed, names, templates)
        probe = cls(data, parse_heads(circuit), ablation)
        return replace(probe, movers=strongest(by_head(probe(subject.model), "direct effect")))

    def claim(self) -> Claim:
        """IO is preferred in 0.9 of the prompts, and the head with the highest direct effect is one of those at w*.

        Raises:
            ValueError: If those heads are unknown.
        """
        if not self.movers:
            raise ValueError("the default claim needs the heads found at w*: use IOI.build(subject) or give movers=")
        names = " or ".join(head_name(head) for head in self.movers)
        statement = f"IO is preferred in >= {LEAST} of the prompts, and {names} adds most to it"
        return Claim(self, statement, self._holds)

    def _holds(self, table: pd.DataFrame) -> bool:
        preferred = table.loc[table["measure"] == "preference", "value"].mean()
        return bool(preferred >= LEAST and strongest(by_head(table, "direct effect"))[0] in self.movers)

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Read the answers, the attention and the direct effects; see the class for the rows."""
        require_bridge(model, self.name)
        whole = self._differences(model)
        rows = {"example": np.arange(len(whole))}
        first = {"measure": "logit difference", "value": whole, **rows, "run": "whole", "behaviour": "ioi"}
        tables = [pd.DataFrame({**first, "chance": 0.0}), *self._knocked_out(model)]
        tables.append(pd.DataFrame({"measure": "preference", "value": (whole > 0).astype(float), **rows}))
        return stack([*tables, self._attention(model), self._direct(model)])

    def _differences(self, model: Any) -> np.ndarray:
        scores = logits_at(model, self.data.tokens, self.data.end, batch=len(self.data.tokens))
        io, subject = (self.data.tokens.gather(1, at[:, None]).cpu() for at in (self.data.io, self.data.s1))
        return (scores.gather(1, io) - scores.gather(1, subject))[:, 0].double().numpy()

    def _knocked_out(self, model: Any) -> list[pd.DataFrame]:
        """The logit differences with the circuit alone and with the circuit removed; nothing without a circuit."""
        if not self.circuit:
            return []
        hooks = list(map(z_hook, range(model.cfg.n_layers)))
        every = range(model.cfg.n_heads)
        unknown = [one for one in self.circuit if one[0] not in range(model.cfg.n_layers) or one[1] not in every]
        if unknown:
            raise ValueError(
                f"heads {', '.join(map(head_name, unknown))} of the circuit are not in a model of "
                f"{model.cfg.n_layers} layers of {model.cfg.n_heads} heads"
            )
        _, kept = record(model, self.data.corrupted, hooks)
        instead = {hook: self._instead(z) for hook, z in kept.items()}
        inside = {hook: [head for layer, head in self.circuit if z_hook(layer) == hook] for hook in hooks}
        outside = {hook: [head for head in every if head not in heads] for hook, heads in inside.items()}
        tables = []
        for run, heads in {"circuit alone": outside, "circuit removed": inside}.items():
            with ablated(model, [heads] * len(self.data.tokens), instead):
                value = self._differences(model)
            rows = {"measure": "logit difference", "value": value, "example": np.arange(len(value)), "run": run}
            tables.append(pd.DataFrame(rows))
        return tables

    def _instead(self, z: Tensor) -> Tensor:
        """What the heads' outputs are replaced by: by template, from the corrupted prompts; shape as z."""
        if self.ablation == "zero":
            return torch.zeros_like(z)
        filled = torch.empty_like(z)
        for template in np.unique(self.data.template):
            rows = torch.from_numpy(np.flatnonzero(self.data.template == template)).to(z.device)
            filled[rows] = z[rows].mean(0, keepdim=True) if self.ablation == "mean" else z[rows.roll(1)]
        return filled

    def _place(self, name: str) -> Tensor:
        base, _, behind = name.partition("+")
        found: Tensor = getattr(self.data, base)
        return found.cpu() + int(behind or 0)

    def _attention(self, model: Any) -> pd.DataFrame:
        length = self.data.tokens.shape[1]
        places = [(self._place(query), self._place(key)) for query, key in ROLES.values()]
        looks = [(key[:, None].expand(-1, length), torch.arange(length) == query[:, None]) for query, key in places]
        seen = attended(model, self.data.tokens, looks)  # roles, layers, n, heads
        role, layer, example, head = (axis.ravel() for axis in np.indices(seen.shape))
        uniform = np.stack([1 / (query.numpy() + 1.0) for query, _ in places])
        keys = {"role": np.array(list(ROLES))[role], "layer": layer, "head": head, "chance": uniform[role, example]}
        return pd.DataFrame({"measure": "attention", "value": seen.ravel(), "example": example, **keys})

    def _direct(self, model: Any) -> pd.DataFrame:
        layers = range(model.cfg.n_layers)
        last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
        _, kept = record(model, self.data.tokens, [last, *map(z_hook, layers)])
        rows, end = torch.arange(len(self.data.end)), self.data.end
        readers = unembedding(model).T
        names = [self.data.tokens.gather(1, at[:, None])[:, 0] for at in (self.data.io, self.data.s1)]
        towards = direction(model, kept[last][rows, end], readers[names[0]] - readers[names[1]])
        effects = [
            torch.einsum("nhd,hdm,nm->hn", kept[z_hook(layer)][rows, end].double(), outputs(model, layer), towards)
            for layer in layers
        ]
        value = torch.stack(effects).cpu().numpy()
        layer, head, example = (axis.ravel() for axis in np.indices(value.shape))
        keys = {"example": example, "layer": layer, "head": head}
        return pd.DataFrame({"measure": "direct effect", "value": value.ravel(), **keys})


def z_hook(layer: int) -> str:
    """Hook on what the heads of a layer have read, shape (n, T, heads, d_head)."""
    return f"blocks.{layer}.attn.hook_z"


def _prompts(subject: Subject, n: int, seed: int, names: Sequence[str], templates: Sequence[str]) -> Prompts:
    """Prompts from the organism's pairs, or from templates; if neither fits, both reasons."""
    try:
        return from_pairs(subject.corpus("ioi", "pairs").pairs(n, seed))
    except ValueError as reason:
        if subject.tokenizer is None:
            raise ValueError(f"{reason}; and there is no tokenizer to write templates for") from None
        try:
            return prompts(subject.tokenizer, n, seed, names, templates)
        except ValueError as other:
            raise ValueError(f"{reason}; and templates do not fit either: {other}") from None
