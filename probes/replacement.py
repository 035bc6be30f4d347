"""Replacement: what is the loss when a component is replaced by an interpretation of it?

The reconstruction loss of an interpretation (a sparse autoencoder, a linear map, a mean, a lookup table) is the loss at
which the network itself is no better than the interpretation: the number to compare with a model's own loss scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.corpus import check_tokens
from probes.hooks import Edit, hooked, record, require_bridge
from probes.predictions import BATCH, predictions
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack

Map = Callable[[Tensor, Tensor], Tensor]
COMPONENTS = {"attention": "blocks.{}.hook_attn_out", "mlp": "blocks.{}.hook_mlp_out"}
SOURCES = {"attention": "blocks.{}.attn.hook_in", "mlp": "blocks.{}.mlp.hook_in"}


class Interpretation(NamedTuple):
    """What stands in for a component.

    Attributes:
        hook: The activation that is replaced.
        of: Function of an activation x and of the token ids (n, T), giving the replacement.
        source: Where x is read, in the same forward pass and before `hook`; None: at `hook` itself.

    >>> nothing = Interpretation("blocks.0.hook_mlp_out", lambda x, tokens: torch.zeros_like(x))
    """

    hook: str
    of: Map
    source: str | None = None


def reconstruction(hook: str, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor]) -> Interpretation:
    """A dictionary of features, such as a sparse autoencoder given by its two halves, in place of an activation."""
    return Interpretation(hook, lambda x, tokens: decode(encode(x)))


def constant(hook: str, value: Tensor) -> Interpretation:
    """One vector at every position, such as the mean activation; shape (d,)."""
    return Interpretation(hook, lambda x, tokens: value.to(x).expand_as(x))


def lookup(hook: str, table: Tensor) -> Interpretation:
    """A vector for each token id, shape (V, d): the component as a function of the token that it stands at alone."""
    return Interpretation(hook, lambda x, tokens: table.to(x)[tokens.to(table.device)].to(x))


def linear(hook: str, source: str, weight: Tensor, bias: Tensor) -> Interpretation:
    """A map x @ weight + bias of the activation x at `source`; shapes (d_in, d_out) and (d_out,)."""
    return Interpretation(hook, lambda x, tokens: x @ weight.to(x) + bias.to(x), source)


@contextmanager
def interpreted(model: Any, tokens: Tensor, interpretation: Interpretation) -> Iterator[None]:
    """Put the interpretation in place of the component, for one forward pass on these very tokens.

    Raises:
        ValueError: If the model has no such hook, or the source is not computed before the hook.
    """
    source = interpretation.source or interpretation.hook
    lacking = [name for name in (source, interpretation.hook) if name not in model.hook_dict]
    if lacking:
        raise ValueError(f"this model has no hook {lacking[0]!r}: its hooks are the keys of model.hook_dict")
    seen: list[Tensor] = []

    def put(activation: Tensor) -> Tensor:
        if source != interpretation.hook and not seen:
            raise ValueError(f"the source {source!r} is computed after {interpretation.hook!r}: read an earlier hook")
        x = activation if source == interpretation.hook else seen.pop()
        return _stands_in(interpretation, x, tokens.to(x.device), activation)

    edits: dict[str, Edit] = {} if source == interpretation.hook else {source: seen.append}
    with hooked(model, edits | {interpretation.hook: put}):
        yield


def _stands_in(one: Interpretation, x: Tensor, tokens: Tensor, activation: Tensor) -> Tensor:
    """The replacement of an activation, refused if it has another shape."""
    try:
        found = one.of(x, tokens)
    except (RuntimeError, IndexError) as cause:
        expected = f"an activation of shape {tuple(x.shape)} at {one.source or one.hook!r}"
        raise ValueError(f"the interpretation of {one.hook!r} cannot be applied to {expected}: {cause}") from cause
    if found.shape != activation.shape:
        raise ValueError(
            f"the interpretation of {one.hook!r} must have the shape of the activation that it replaces, "
            f"{tuple(activation.shape)}, and has {tuple(found.shape)}"
        )
    return found.to(activation.dtype)


@dataclass(frozen=True, eq=False)
class Replacement:
    """Loss with each component replaced by its interpretation, one component at a time.

    Rows, with key `component`, the hook that is replaced:

    - `reconstruction loss`: mean -log p over the predicted tokens with the component replaced; key `example`.
    - `rise`: the same less the loss of the whole model, in nats per token; key `example`: 0 for a perfect one.
    - `recovered`: (L_zero - L_replaced) / (L_zero - L_whole) over all examples, L_zero with the component at 0: 1 for
      a perfect interpretation, 0 for one no better than nothing (Bricken et al. 2023, "Towards Monosemanticity"). A
      component whose removal raises the loss by less than 1e-6 nats has no row.
    - `variance explained`: 1 - sum |a - replaced|^2 / sum |a - mean a|^2 of the activations a.

    Attributes:
        tokens: Token ids, shape (n, T).
        interpretations: What is replaced by what.
        least: Share recovered that the default claim asks of every component, half of the lowest at w*; or None.
        draws: How many draws per chain and rung are worth the cost.

    >>> from transformer_lens import TransformerBridge, TransformerBridgeConfig
    >>> model = TransformerBridge.boot_native(TransformerBridgeConfig(
    ...     d_model=8, d_head=4, n_heads=2, n_layers=1, n_ctx=8, d_vocab=9, act_fn="relu", seed=0)).eval()
    >>> itself = Interpretation("blocks.0.hook_mlp_out", lambda x, tokens: x)
    >>> table = Replacement(torch.tensor([[0, 1, 2, 3]]), (itself,))(model)
    >>> table.loc[table["measure"] == "rise", "value"].tolist()
    [0.0]
    """

    name: ClassVar[str] = "replacement"
    needs: ClassVar[str] = "a bridge; corpus.heldout"
    measures: ClassVar[Mapping[str, Measure]] = {
        "reconstruction loss": Measure(chance=None, higher=False, binary=False, unit="nats per token"),
        "rise": Measure(chance=None, higher=False, binary=False, unit="nats per token"),
        "recovered": Measure(chance=0.0, higher=True, binary=False, unit="share"),
        "variance explained": Measure(chance=0.0, higher=True, binary=False, unit="share"),
    }

    tokens: Tensor
    interpretations: tuple[Interpretation, ...]
    least: float | None = None
    draws: int = 2

    def __post_init__(self) -> None:
        """Refuse text in which nothing is predicted, and to replace nothing, or one hook twice."""
        check_tokens("tokens", self.tokens)
        hooks = [interpretation.hook for interpretation in self.interpretations]
        if not hooks or len(set(hooks)) < len(hooks):
            raise ValueError(f"Replacement needs at least one interpretation, and one for each hook; got {hooks}")

    @classmethod
    @known_settings
    def build(cls, subject: Subject, *, n: int = 64, seed: int = 0, component: str = "mlp", by: str = "linear") -> Self:
        """Interpretations of every layer's attention or MLP, fitted at w* on other held-out text.

        Args:
            subject: What to ask, and what the interpretations are fitted to.
            n: Sequences to measure on; four times as many are fitted on.
            seed: Of the sequences.
            component: "attention" or "mlp".
            by: "zero"; "mean"; "lookup", the mean at each token; "linear", least squares from what the component reads.

        Raises:
            ValueError: If the subject's corpus lacks `heldout`, or a setting is unknown or out of range.
        """
        for setting, value, choices in (("component", component, COMPONENTS), ("by", by, FITS)):
            if value not in choices:
                raise ValueError(f"{cls.name}: unknown {setting} {value!r}; choose from {', '.join(choices)}")
        heldout = subject.corpus(cls.name, "heldout").heldout(5 * positive(cls.name, "n", n), seed).tokens
        if len(heldout) <= n:
            raise ValueError(
                f"{cls.name}: {n} sequences to measure on and others to fit on are needed, and the corpus has "
                f"{len(heldout)} held out: ask for fewer, n={len(heldout) // 5 or 1}"
            )
        require_bridge(subject.model, cls.name)
        layers = range(subject.model.cfg.n_layers)
        places = [(COMPONENTS[component].format(layer), SOURCES[component].format(layer)) for layer in layers]
        probe = cls(heldout[:n], tuple(_fitted(subject.model, heldout[n:], *place, by) for place in places))
        worst = _recovered(probe(subject.model)).min()
        return replace(probe, least=float(worst) / 2 if worst > 0 else None)

    def claim(self) -> Claim:
        """Every interpretation recovers at least half of what the worst of them did at w*.

        Raises:
            ValueError: If one of them recovered nothing at w*, or that is unknown.
        """
        if self.least is None:
            raise ValueError(
                "the default claim needs interpretations that all recover something at w*: use Replacement.build with "
                "another by=, or give least="
            )
        least, count = self.least, len(self.interpretations)
        statement = f"the interpretations of {count} components recover >= {least:.2g} of the loss"
        return Claim(self, statement, lambda table: bool((_recovered(table) >= least).all()))

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Run the model whole and with each component replaced; see the class for the rows."""
        require_bridge(model, self.name)
        whole = _losses(model, self.tokens, None)
        return stack([table for one in self.interpretations for table in self._tables(model, one, whole)])

    def _tables(self, model: Any, one: Interpretation, whole: np.ndarray) -> list[pd.DataFrame]:
        replaced, without = (_losses(model, self.tokens, each) for each in (one, _zero(one.hook)))
        rows = {"example": np.arange(len(whole)), "component": one.hook}
        tables = [
            pd.DataFrame({"measure": "reconstruction loss", "value": replaced, **rows}),
            pd.DataFrame({"measure": "rise", "value": replaced - whole, **rows}),
        ]
        values = {"variance explained": _explained(model, self.tokens, one)}
        cost = float((without - whole).mean())
        if abs(cost) >= 1e-6:
            values["recovered"] = float((without - replaced).mean()) / cost
        cells = [{"measure": name, "value": value, "component": one.hook} for name, value in values.items()]
        return [*tables, pd.DataFrame(cells)]


def _zero(hook: str) -> Interpretation:
    return Interpretation(hook, lambda x, tokens: torch.zeros_like(x))


def _losses(model: Any, tokens: Tensor, one: Interpretation | None) -> np.ndarray:
    """Mean loss of each sequence, shape (n,), nats per token."""
    parts = []
    for part in tokens.split(BATCH):
        if one is None:
            parts.append(predictions(model, part).nats)
            continue
        with interpreted(model, part, one):
            parts.append(predictions(model, part).nats)
    return torch.cat(parts).double().mean(1).numpy()


def _explained(model: Any, tokens: Tensor, one: Interpretation) -> float:
    source = one.source or one.hook
    _, kept = record(model, tokens, list({source, one.hook}))
    activation = kept[one.hook].double()
    error = activation - _stands_in(one, kept[source], tokens.to(activation.device), kept[one.hook]).double()
    spread = activation - activation.flatten(0, 1).mean(0)
    return 1 - float(error.square().sum() / spread.square().sum().clamp(min=1e-300))


@torch.no_grad()
def _fitted(model: Any, tokens: Tensor, hook: str, source: str, by: str) -> Interpretation:
    _, kept = record(model, tokens, [hook, source] if by == "linear" else [hook])
    return FITS[by](hook, source, tokens, {name: found.double().flatten(0, 1) for name, found in kept.items()})


def _fit_mean(hook: str, source: str, tokens: Tensor, kept: Mapping[str, Tensor]) -> Interpretation:
    return constant(hook, kept[hook].mean(0))


def _fit_lookup(hook: str, source: str, tokens: Tensor, kept: Mapping[str, Tensor]) -> Interpretation:
    """Mean activation at each token; tokens that did not occur get the mean of all."""
    a, ids = kept[hook], tokens.flatten().to(kept[hook].device)
    size = int(ids.max()) + 1
    total = a.new_zeros(size, a.shape[1]).index_add(0, ids, a)
    count = a.new_zeros(size).index_add(0, ids, torch.ones_like(ids, dtype=a.dtype))[:, None]
    table = torch.where(count > 0, total / count.clamp(min=1), a.mean(0))
    mean = a.mean(0)

    def of(x: Tensor, at: Tensor) -> Tensor:
        known = table.to(x.device)[at.clamp(max=size - 1)]
        return torch.where((at < size)[..., None], known, mean.to(x.device)).to(x.dtype)

    return Interpretation(hook, of)


def _fit_linear(hook: str, source: str, tokens: Tensor, kept: Mapping[str, Tensor]) -> Interpretation:
    """Least squares with an intercept; directions that do not occur get weight 0 (pseudo-inverse)."""
    x, y = kept[source], kept[hook]
    weight = torch.linalg.pinv(x - x.mean(0), rtol=1e-6) @ (y - y.mean(0))
    return linear(hook, source, weight, y.mean(0) - x.mean(0) @ weight)


FITS: dict[str, Callable[[str, str, Tensor, Mapping[str, Tensor]], Interpretation]] = {
    "zero": lambda hook, source, tokens, kept: _zero(hook),
    "mean": _fit_mean,
    "lookup": _fit_lookup,
    "linear": _fit_linear,
}


def _recovered(table: pd.DataFrame) -> pd.Series:
    return table.loc[table["measure"] == "recovered", "value"]
