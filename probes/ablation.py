"""Ablation: what is lost when a component's output is replaced by one that says nothing about this prompt?

Zero, mean and resample ablation answer differently, so every row names its kind (Heimersheim & Nanda 2024,
arXiv 2404.15255; mean by position: Wang et al. 2022, arXiv 2211.00593; resample: Chan et al. 2022, causal scrubbing).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from probes.corpus import check_tokens
from probes.hooks import Edit, device_of, hooked, logits, record, require_bridge
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.sites import names_of
from probes.tables import stack

KINDS = ("zero", "mean", "mean by position", "resample")
SITES = {"head": "attn.hook_z", "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out"}
UNSCORED = -100  # torch's mark for positions without a label
BATCH = 128  # ablated sequences a forward pass
CERTAIN = 1e-9  # nats; below this entropy the next token is determined
KEYS = ["site", "layer", "head"]
TIE = 0.9  # components with this share of the highest cost count as equals


@dataclass(frozen=True, eq=False)
class Ablation:
    """Loss on the scored positions with one component ablated at all positions, less that of the intact model.

    Components are attention heads (their z), whole attention layers and MLPs; one that the architecture lacks has no
    rows. Kinds: "zero"; "mean" over examples and positions of the reference; "mean by position" over its examples;
    "resample": another example of the reference, drawn with the seed. Attention biases stay. Rows, all in nats per
    scored position and per `example`:

    - `loss`: of the intact model.
    - `loss rise`: loss ablated - loss intact; keys `kind`, `site` ("head", "attn_out", "mlp_out"), `layer`, `head`.
    - `group rise`: the same with several heads ablated together; keys `kind`, `group`, e.g. "L1H0 L1H2". Redundant
      heads cost nothing alone, so claims about heads should be about such sets.

    Attributes:
        tokens: Token ids, shape (n, T).
        labels: The token that the logits at each position should give, shape (n, T); -100 where nothing is scored.
        reference: Token ids that means and resamples are taken from, shape (m, T); None: `tokens`.
        kinds: Any of zero, mean, mean by position, resample.
        sites: Any of head, attn_out, mlp_out.
        groups: Sets of (layer, head) to ablate together.
        seed: Of the resampling.
        draws: How many draws per chain and rung are worth the cost.
        costliest: (site, layer, head or -1) of the costliest components under the first kind, found at w* by `build`.

    >>> from transformer_lens import TransformerBridge, TransformerBridgeConfig
    >>> model = TransformerBridge.boot_native(TransformerBridgeConfig(
    ...     d_model=8, d_head=4, n_heads=2, n_layers=1, n_ctx=4, d_vocab=9, act_fn="relu", seed=0)).eval()
    >>> tokens = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    >>> table = Ablation.of_next_token(tokens, kinds=("zero",))(model)
    >>> table.groupby(["measure", "site"], dropna=False).size().tolist()
    [2, 2, 4, 2]
    """

    name: ClassVar[str] = "ablation"
    needs: ClassVar[str] = "a bridge; corpus.of_kind or corpus.queries"

    tokens: Tensor
    labels: Tensor
    reference: Tensor | None = None
    kinds: tuple[str, ...] = ("zero", "mean", "resample")
    sites: tuple[str, ...] = tuple(SITES)
    groups: tuple[tuple[tuple[int, int], ...], ...] = ()
    seed: int = 0
    draws: int = 2
    costliest: tuple[tuple[str, int, int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse labels, references and settings that do not fit."""
        check_tokens("tokens", self.tokens, least=1)
        if self.labels.shape != self.tokens.shape:
            raise ValueError(f"labels must have shape {tuple(self.tokens.shape)}, got {tuple(self.labels.shape)}")
        if not (self.labels != UNSCORED).any(1).all():
            raise ValueError("every example needs a scored position: a label other than -100")
        other = self.tokens if self.reference is None else self.reference
        if other.ndim != 2 or other.shape[1] != self.tokens.shape[1] or len(other) < 2:
            expected = f"at least two sequences of {self.tokens.shape[1]} tokens, as long as the examples"
            raise ValueError(f"the reference must be {expected}; got shape {tuple(other.shape)}")
        for what, given, known in (("kinds", self.kinds, KINDS), ("sites", self.sites, tuple(SITES))):
            unknown = [name for name in given if name not in known]
            if unknown or not given:
                raise ValueError(f"unknown {what} {unknown}; choose from {', '.join(known)}")

    @property
    def measures(self) -> Mapping[str, Measure]:
        """`loss`, `loss rise`, and `group rise` if there are groups."""
        rise = Measure(chance=0.0, higher=True, binary=False, unit="nats per token")
        found = {"loss": Measure(chance=None, higher=False, binary=False, unit="nats per token"), "loss rise": rise}
        return found | ({"group rise": rise} if self.groups else {})

    @classmethod
    def of_next_token(cls, tokens: Tensor, scored: Tensor | None = None, **settings: Any) -> Self:
        """Score the prediction of the next token.

        Args:
            tokens: Token ids, shape (n, T).
            scored: Which of the T - 1 predicted tokens count, shape (n, T - 1); None: all.
            **settings: Further fields.
        """
        check_tokens("tokens", tokens)
        counted = torch.ones_like(tokens[:, 1:], dtype=torch.bool) if scored is None else scored
        if counted.shape != tokens[:, 1:].shape:
            raise ValueError(f"scored must have shape {tuple(tokens[:, 1:].shape)}, got {tuple(counted.shape)}")
        labels = torch.full_like(tokens, UNSCORED)
        labels[:, :-1] = tokens[:, 1:].where(counted, UNSCORED)
        return cls(tokens, labels, **settings)

    @classmethod
    @known_settings
    def build(
        cls,
        subject: Subject,
        *,
        n: int = 16,
        seed: int = 0,
        kind: str = "repeat",
        group: str | None = None,
        kinds: str | Sequence[str] = ("zero", "mean", "resample"),
        sites: str | Sequence[str] = tuple(SITES),
        draws: int = 2,
    ) -> Self:
        """Ablation on the determined tokens of one kind of sequence, or on the questions of one group.

        Args:
            subject: What to ask; its costliest components are what the default claim is about.
            n: Examples.
            seed: Of the examples and the resampling.
            kind: Kind of the corpus's sequences; all tokens are scored if none is determined, or none is known to be.
            group: Group of the corpus's questions instead.
            kinds: Of ablation; several may be one string, joined by "+"; likewise `sites`.
            sites: Of ablation.
            draws: As the field.

        Raises:
            ValueError: If the subject's corpus lacks what is asked for, or a setting is unknown or out of range.
        """
        settings: dict[str, Any] = {"kinds": names_of(kinds), "sites": names_of(sites)}
        settings["draws"] = positive(cls.name, "draws", draws)
        positive(cls.name, "n", n)
        if group is not None:
            probe = cls(*_questions(subject, group, n, seed), seed=seed, **settings)
        else:
            sample = subject.corpus(cls.name, "of_kind").of_kind(kind, n, seed)
            certain = np.asarray(getattr(sample, "entropy", np.inf)) < CERTAIN
            scored = torch.from_numpy(certain) if certain.ndim and certain.any(1).all() else None
            probe = cls.of_next_token(sample.tokens, scored, seed=seed, **settings)
        return replace(probe, costliest=_costliest(probe(subject.model), probe.kinds[0]))

    def claim(self) -> Claim:
        """The component that costs most is one of those that cost at least 0.9 of the most at w*.

        Raises:
            ValueError: If those components are unknown.
        """
        if not self.costliest:
            raise ValueError("the default claim needs the components found at w*: use Ablation.build(subject)")
        kind = self.kinds[0]
        statement = f"no {kind} ablation costs more than that of {' or '.join(_words(*one) for one in self.costliest)}"
        return Claim(self, statement, lambda table: _costliest(table, kind)[0] in self.costliest)

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Run every ablation; see the class for the rows."""
        require_bridge(model, self.name)
        targets = list(self._targets(model))
        if not targets:
            raise ValueError(f"there is nothing to ablate: this model has none of the sites {', '.join(self.sites)}")
        hooks = sorted({hook for target in targets for hook in target.heads})
        n, intact = len(self.tokens), self._losses(model, torch.arange(len(self.tokens)))
        tables = [pd.DataFrame({"measure": "loss", "value": intact.numpy(), "example": np.arange(n)})]
        _, kept = record(model, self.tokens if self.reference is None else self.reference, hooks)
        for kind in self.kinds:
            instead = {hook: self._instead(activation, kind) for hook, activation in kept.items()}
            rises = (self._ablated(model, targets, instead) - intact).numpy()
            for target, rise in zip(targets, rises, strict=True):
                tables.append(pd.DataFrame({"value": rise, "example": np.arange(n), "kind": kind, **target.keys}))
        return stack(tables)

    def _targets(self, model: Any) -> Iterator[Target]:
        """Everything that is ablated, one after the other."""
        layers = range(model.cfg.n_layers)
        for site, layer in ((site, layer) for site in self.sites for layer in layers):
            hook, keys = f"blocks.{layer}.{SITES[site]}", {"measure": "loss rise", "site": site, "layer": layer}
            if site == "head":
                yield from (Target({**keys, "head": head}, {hook: [head]}) for head in range(model.cfg.n_heads))
            elif hook in model.hook_dict:
                yield Target(keys, {hook: [0]})
        for group in self.groups:
            heads = range(model.cfg.n_heads)
            unknown = [(layer, head) for layer, head in group if layer not in layers or head not in heads]
            if unknown or not group:
                shape = f"{len(layers)} layers of {len(heads)} heads"
                raise ValueError(f"a group needs heads of a model of {shape}; got {unknown or 'none'}")
            hooks = {f"blocks.{at}.attn.hook_z": [head for layer, head in group if layer == at] for at, _ in group}
            yield Target({"measure": "group rise", "group": " ".join(f"L{i}H{h}" for i, h in group)}, hooks)

    def _instead(self, kept: Tensor, kind: str) -> Tensor:
        """What an activation is replaced by in each example, shape (n, T, ...)."""
        n = len(self.tokens)
        if kind == "resample":
            return kept[self._others(len(kept))]
        if kind == "zero":
            return torch.zeros_like(kept[:1]).expand(n, *kept.shape[1:])
        mean = kept.mean((0, 1), keepdim=True) if kind == "mean" else kept.mean(0, keepdim=True)
        return mean.expand(n, *kept.shape[1:])

    def _others(self, m: int) -> Tensor:
        """For each example the one of the reference that takes its place; never itself."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed))
        if self.reference is not None:
            return torch.from_numpy(rng.integers(m, size=len(self.tokens)))
        order = rng.permutation(m)
        return torch.from_numpy(np.roll(order, 1)[np.argsort(order)])

    def _ablated(self, model: Any, targets: Sequence[Target], instead: Mapping[str, Tensor]) -> Tensor:
        """Loss of every example under every target, shape (targets, n)."""
        n = len(self.tokens)
        which, row = torch.arange(len(targets)).repeat_interleave(n), torch.arange(n).repeat(len(targets))
        found = []
        for at, rows in zip(which.split(BATCH), row.split(BATCH), strict=True):
            chosen = [targets[one] for one in at.tolist()]
            with ablated(model, [target.heads for target in chosen], {k: v[rows] for k, v in instead.items()}):
                found.append(self._losses(model, rows))
        return torch.cat(found).reshape(len(targets), n)

    def _losses(self, model: Any, rows: Tensor) -> Tensor:
        """Mean -log p of the labels of some examples, shape (rows,), float64, nats."""
        scores, labels = logits(model, self.tokens[rows]).double(), self.labels[rows].to(device_of(model))
        nats = functional.cross_entropy(scores.transpose(1, 2), labels, ignore_index=UNSCORED, reduction="none")
        return (nats.sum(1) / (labels != UNSCORED).sum(1)).cpu()


class Target(NamedTuple):
    """Components that are ablated together.

    Attributes:
        keys: Of its rows.
        heads: By hook, which heads; [0] at hooks without heads.
    """

    keys: dict[str, Any]
    heads: dict[str, list[int]]


@contextmanager
def ablated(model: Any, heads: Sequence[Mapping[str, Sequence[int]]], instead: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace at each hook, in sequence i, heads[i][hook] by those of instead[hook], (n, T, heads, d) or (n, T, d)."""

    def edit(hook: str) -> Edit:
        def put(activation: Tensor) -> Tensor:
            where = torch.zeros(len(heads), activation.shape[2] if activation.ndim == 4 else 1, dtype=torch.bool)
            for row, named in enumerate(heads):
                where[row, list(named.get(hook, ()))] = True
            mask = where[:, None, :, None] if activation.ndim == 4 else where[:, None]
            return torch.where(mask.to(activation.device), instead[hook].to(activation.dtype), activation)

        return put

    with hooked(model, {hook: edit(hook) for hook in {hook for named in heads for hook in named}}):
        yield


def _questions(subject: Subject, group: str, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels of the corpus's questions of one group."""
    queries = subject.corpus("ablation", "queries").queries(n, seed)
    mine = torch.from_numpy(np.flatnonzero(np.asarray(queries.group) == group))
    if not len(mine):
        raise ValueError(
            f"ablation: no questions of group {group!r}; choose from {', '.join(sorted(set(queries.group)))}"
        )
    tokens, labels = queries.tokens[mine], torch.full_like(queries.tokens[mine], UNSCORED)
    labels[torch.arange(len(mine)), queries.position[mine]] = queries.answer[mine]
    return tokens, labels


def _costliest(table: pd.DataFrame, kind: str) -> tuple[tuple[str, int, int], ...]:
    """Components whose mean rise is within 1 - `TIE` of the largest, of its size, the largest first."""
    rises = table[(table["measure"] == "loss rise") & (table["kind"] == kind)].reindex(columns=[*KEYS, "value"])
    means = rises.fillna({"head": -1}).groupby(KEYS)["value"].mean().sort_values(ascending=False, kind="stable")
    least = means.max() - (1 - TIE) * abs(means.max())
    return tuple((str(site), int(layer), int(head)) for site, layer, head in means.index[means >= least])


def _words(site: str, layer: int, head: int) -> str:
    return f"L{layer}H{head}" if site == "head" else f"{site} of layer {layer}"
