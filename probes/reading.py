"""Reading: any number that can be computed from the activation at any hook, as a probe in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.corpus import check_tokens
from probes.hooks import record, require_bridge
from probes.predictions import BATCH
from probes.probe import Claim, Measure, Subject, known_settings, positive

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "norm": lambda x: x.flatten(1).norm(dim=1),
    "mean": lambda x: x.flatten(1).mean(1),
    "largest": lambda x: x.flatten(1).abs().amax(1),
}


@dataclass(frozen=True, eq=False)
class Reading:
    """A metric of your own on one hook: `Reading("blocks.0.hook_mlp_out", lambda x: x.norm(dim=(1, 2)), tokens)`.

    Rows: `measure` as named, key `hook`, and for each value of the metric its `example`, and its `index` if it gives
    several numbers for an example.

    Attributes:
        hook: Name of the hook, a key of `model.hook_dict`.
        metric: Function of the activation, whose first dimension are the examples; returns shape (n,) or (n, k).
        tokens: Token ids, shape (n, T).
        measure: Name of the number.
        reading: How to read it: chance, direction, unit.
        least: Mean that the default claim asks for, half of that at w*, or less if it is negative; None: unknown.

    >>> from transformer_lens import TransformerBridge, TransformerBridgeConfig
    >>> model = TransformerBridge.boot_native(TransformerBridgeConfig(
    ...     d_model=8, d_head=4, n_heads=2, n_layers=1, n_ctx=8, d_vocab=9, act_fn="relu", seed=0)).eval()
    >>> first = Reading("blocks.0.attn.hook_pattern", lambda a: a[:, :, 0, 0], torch.tensor([[0, 1, 2]]), "to itself")
    >>> first(model)[["measure", "value", "index"]]
         measure  value  index
    0  to itself    1.0      0
    1  to itself    1.0      1
    """

    needs: ClassVar[str] = "a bridge; hook=; corpus.heldout"

    hook: str
    metric: Callable[[Tensor], Tensor]
    tokens: Tensor
    measure: str = "reading"
    reading: Measure = Measure(chance=None, higher=True, binary=False, unit="activation")
    least: float | None = None

    def __post_init__(self) -> None:
        """Refuse what are no tokens."""
        check_tokens("tokens", self.tokens, least=1)

    @property
    def name(self) -> str:
        """The measure and the hook: two readings of one hook are two probes."""
        return f"{self.measure} at {self.hook}"

    @property
    def measures(self) -> Mapping[str, Measure]:
        """The one measure."""
        return {self.measure: self.reading}

    @classmethod
    @known_settings
    def build(cls, subject: Subject, *, hook: str, function: str = "norm", n: int = 64, seed: int = 0) -> Self:
        """A reading on `n` held-out sequences.

        Args:
            subject: What to ask.
            hook: Name of the hook.
            function: "norm", "mean" or "largest" (of the absolute values) of each example's activation, or
                "package.module:name" for a function of your own.
            n: Sequences.
            seed: Of the sequences.

        Raises:
            ValueError: If the subject's corpus lacks `heldout`, there is no such hook or function, or a setting is
                unknown or out of range.
        """
        tokens = subject.corpus("reading", "heldout").heldout(positive("reading", "n", n), seed).tokens
        probe = cls(hook, _function(function), tokens, function)
        mean = float(probe(subject.model)["value"].mean())
        return cls(hook, probe.metric, tokens, function, least=mean / 2)

    def claim(self) -> Claim:
        """The mean has its sign at w* and at least half of its size.

        Raises:
            ValueError: If that is unknown.
        """
        if self.least is None:
            raise ValueError("the default claim needs the mean at w*: use Reading.build(subject) or give least=")
        least = self.least
        if least < 0:
            statement = f"{self.name} has a mean <= {least:.3g}"
            return Claim(self, statement, lambda table: bool(table["value"].mean() <= least))
        statement = f"{self.name} has a mean >= {least:.3g}"
        return Claim(self, statement, lambda table: bool(table["value"].mean() >= least))

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Run the model once and apply the metric; see the class for the rows."""
        require_bridge(model, "reading")
        if self.hook not in model.hook_dict:
            near = [name for name in model.hook_dict if name.split(".")[-1] == self.hook.split(".")[-1]]
            known = ", ".join(near[:8] or list(model.hook_dict)[:8])
            raise ValueError(f"this model has no hook {self.hook!r}; near it are {known}")
        value = torch.cat([self._part(model, part) for part in self.tokens.split(BATCH)]).double().cpu().numpy()
        keys = dict(zip(("example", "index"), map(np.ravel, np.indices(value.shape)), strict=False))
        return pd.DataFrame({"measure": self.measure, "value": value.ravel(), "hook": self.hook, **keys})

    def _part(self, model: Any, tokens: Tensor) -> Tensor:
        found = self.metric(record(model, tokens, [self.hook])[1][self.hook])
        if found.ndim not in (1, 2) or len(found) != len(tokens):
            raise ValueError(
                f"the metric must return shape (n,) or (n, k) for n examples; for {len(tokens)} it returned "
                f"{tuple(found.shape)}"
            )
        return found


def _function(name: str) -> Callable[[Tensor], Tensor]:
    """A function by its short name or by "package.module:name"."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(
            f"reading: unknown function {name!r}; choose from {', '.join(FUNCTIONS)}, or package.module:name"
        )
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as cause:
        raise ValueError(f"reading: {name!r} cannot be imported: {cause}") from cause
