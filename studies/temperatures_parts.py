"""Parts of a model, and what each carries of the complexity under one law of all the weights.

    λ_b = ½ nβ E[(w_b − w*_b) · ∇_b L(w)]

In equilibrium λ_b = ½ (d_b − E‖w_b − w*_b‖²/s²), by parts: half the number of the part's parameters that the data, and
not the neighbourhood, determine (his γ, halved: MacKay 1992, doi:10.1162/neco.1992.4.3.415). The sum over a partition
is λ itself in a quadratic basin; at a minimum of higher degree it exceeds λ, shares of it stay comparable. All parts
are read on the same draws. A refined coefficient (`degrade.llc(only=...)`, Wang et al. 2024, arXiv:2410.02984) is
another thing: the complexity of a part while all others stay as they are; those do not add up.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from degrade import heads
from degrade.data import Examples
from degrade.losses import Loss, measure, next_token_loss
from degrade.models import bare
from probes.probe import Measure

LAYER = re.compile(r"(?:^|\.)(?:blocks|layers|layer|h)\.(\d+)\.|^(\d+)\.")
WRAPPERS = ("model", "transformer", "gpt_neox")
SMALLEST = 0.01
CHUNK = 128

Masks = dict[str, Tensor | None]


def families(model: nn.Module) -> dict[str, dict[str, Masks]]:
    """The parts of a model by family: {family: {part: {parameter: mask or None}}}.

    "layers" is a partition: each layer, and what lies outside of the layers by its module's name. "heads" are the
    attention heads (`L1H3`) and the other matrices of each layer (`L1 MLP`); a model without heads has none. Parts of
    less than 1 % of the parameters are left out.

    >>> list(families(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))["layers"])
    ['layer 0', 'layer 1']
    """
    named = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    layers: dict[str, Masks] = {}
    for name in named:
        layers.setdefault(_layer(name), {})[name] = None
    found = {"layers": layers, "heads": _heads(model, named)}
    least = SMALLEST * sum(p.numel() for p in named.values())
    kept = {
        family: {part: masks for part, masks in parts.items() if size(named, masks) >= least}
        for family, parts in found.items()
    }
    return {family: parts for family, parts in kept.items() if len(parts) > 1}


def size(named: Mapping[str, Tensor], masks: Masks) -> int:
    """Number of parameters of a part."""
    return sum(named[name].numel() if mask is None else int(mask.sum()) for name, mask in masks.items())


def _layer(name: str) -> str:
    match = LAYER.search(name)
    if match:
        return f"layer {next(number for number in match.groups() if number is not None)}"
    return next((part for part in name.split(".") if part not in WRAPPERS), name)


def _heads(model: nn.Module, named: Mapping[str, Tensor]) -> dict[str, Masks]:
    found: dict[str, Masks] = {}
    owned: set[str] = set()
    for name in heads.names(model):
        match = heads.BLOCK.match(name.rsplit(".head.", 1)[0])
        masks = heads.masks(model, name)
        found[f"L{match[1] if match else '?'}H{name.rsplit('.', 1)[1]}"] = dict(masks)
        owned |= set(masks)
    if not found:
        return {}
    for name, tensor in named.items():
        match = LAYER.search(name)
        if match and tensor.ndim > 1 and name not in owned:
            found.setdefault(f"L{match[1] or match[2]} MLP", {})[name] = None
    return dict(sorted(found.items()))


@dataclass(frozen=True, eq=False)
class Pulls:
    """½ (w_b − w*_b) · ∇_b L(w) of every part on some data, nats per unit of the loss: λ_b is nβ times its mean.

    Attributes:
        parts: What `families` returned.
        center: w* by parameter name.
        data: The examples on which L is taken.
        loss: `loss(model, batch) -> (nats, count)`.
    """

    name: ClassVar[str] = "pulls"
    measures: ClassVar[Mapping[str, Measure]] = {
        "pull": Measure(chance=None, higher=False, binary=False, unit="nats per unit of the loss")
    }

    parts: Mapping[str, Mapping[str, Masks]]
    center: Mapping[str, Tensor]
    data: Any
    loss: Loss = next_token_loss

    @classmethod
    def of(cls, model: nn.Module, data: Any, loss: Loss = next_token_loss) -> "Pulls":
        """For the weights that the model has now."""
        center = {name: p.detach().clone() for name, p in model.named_parameters() if p.is_floating_point()}
        return cls(families(model), center, data, loss)

    def __call__(self, model: nn.Module) -> pd.DataFrame:
        """Rows with measure `pull` and the keys `family` and `part`."""
        named = {name: p for name, p in model.named_parameters() if name in self.center}
        moved = {
            name: (p.detach() - self.center[name]).double() * gradient.double()
            for (name, p), gradient in zip(named.items(), self._gradient(model, list(named.values())), strict=True)
        }
        rows = [
            {"measure": "pull", "family": family, "part": part, "value": _half(moved, masks)}
            for family, parts in self.parts.items()
            for part, masks in parts.items()
        ]
        return pd.DataFrame(rows)

    def _gradient(self, model: nn.Module, tensors: list[nn.Parameter]) -> list[Tensor]:
        """∇L over the data; whether parameters ask for gradients is left as found."""
        asked = [tensor.requires_grad for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.requires_grad_(True)
            with torch.enable_grad():
                return self._summed(bare(model), tensors)
        finally:
            for tensor, wanted in zip(tensors, asked, strict=True):
                tensor.requires_grad_(wanted)

    def _summed(self, model: nn.Module, tensors: list[nn.Parameter]) -> list[Tensor]:
        examples, total, count = Examples(self.data), [torch.zeros_like(t) for t in tensors], 0.0
        for index in np.array_split(np.arange(len(examples)), -(-len(examples) // CHUNK)):
            nats, units = measure(self.loss, model, examples.batch(index, tensors[0].device), len(index))
            gradients = torch.autograd.grad(nats.sum(), tensors, allow_unused=True)
            total = [t if g is None else t + g for t, g in zip(total, gradients, strict=True)]
            count += float(units.sum())
        return [t / count for t in total]


def _half(moved: Mapping[str, Tensor], masks: Masks) -> float:
    return 0.5 * sum(
        float(moved[name].sum() if mask is None else moved[name][mask].sum()) for name, mask in masks.items()
    )
