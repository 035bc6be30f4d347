"""Ways to spoil a trained network that are no sampling: noise, rounding, pruning, early layers back to their start.

A law takes the trained weights and a strength to spoiled weights; at strength 0 all are the trained ones. What is
random is a pure function of the key (seed and chain) and the draw's index, and the same at every strength.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from degrade.noise import Key, normal_like
from degrade.parameters import Selection

Spoil = Callable[[Selection, list[Tensor], float, Key, int], list[Tensor]]
LAYER = re.compile(r"\b(?:layers|blocks|h)\.(\d+)\.")
SPREAD = 0.04  # standard deviation of fresh matrices where the model does not name one


@dataclass(frozen=True)
class Law:
    """One way to spoil weights.

    Attributes:
        name: Name of the dial.
        spoil: (selection, trained weights, strength, key, index) to weights.
        most: Largest strength there is.
        random: Whether draws differ at one strength; else there is one draw a rung, and no interval.
        says: What the strength is.
    """

    name: str
    spoil: Spoil
    most: float
    random: bool
    says: str


def isotropic(selection: Selection, center: list[Tensor], strength: float, key: Key, index: int) -> list[Tensor]:
    """W + σ ξ, one σ for all weights."""
    noise = normal_like(key, "noise", index, center)
    return [w + strength * x for w, x in zip(center, noise, strict=True)]


def per_tensor(selection: Selection, center: list[Tensor], strength: float, key: Key, index: int) -> list[Tensor]:
    """w_t + σ rms(w_t) ξ: the neighbourhood's own noise, without the potential."""
    noise = normal_like(key, "noise", index, center)
    return [w + strength * rms * x for w, x, rms in zip(center, noise, _scales(center), strict=True)]


def quantised(selection: Selection, center: list[Tensor], strength: float, key: Key, index: int) -> list[Tensor]:
    """Rounded to a grid of step δ rms(w_t), whose offset is uniform and drawn for each tensor."""
    if strength == 0:
        return [w.clone() for w in center]
    shifts = key.numbers("pilot", index).random(len(center))
    steps = [strength * rms for rms in _scales(center)]
    return [((w / d - u).round() + u) * d for w, d, u in zip(center, steps, shifts, strict=True)]


def pruned(selection: Selection, center: list[Tensor], strength: float, key: Key, index: int) -> list[Tensor]:
    """The share `strength` of all weights that is smallest in |w|/rms(w_t) set to 0, one threshold for all tensors."""
    sizes = [w.abs() / rms for w, rms in zip(center, _scales(center), strict=True)]
    ranked = torch.cat([size.flatten() for size in sizes]).sort().values
    count = min(int(round(strength * len(ranked))), len(ranked))
    if count == 0:
        return [w.clone() for w in center]
    return [torch.where(size > ranked[count - 1], w, 0.0) for w, size in zip(center, sizes, strict=True)]


def reset(selection: Selection, center: list[Tensor], strength: float, key: Key, index: int) -> list[Tensor]:
    """(1 − a) w + a w₀ in the first half of the layers, w₀ a fresh start: normal matrices, norms of 1, biases of 0."""
    early = early_layers(selection.names)
    fresh = normal_like(key, "prior", index, center)
    out = []
    for name, w, x in zip(selection.names, center, fresh, strict=True):
        start = SPREAD * x if w.ndim > 1 else torch.full_like(w, 0.0 if name.endswith("bias") else 1.0)
        out.append((1 - strength) * w + strength * start if name in early else w.clone())
    return out


def early_layers(names: tuple[str, ...]) -> set[str]:
    """Parameters of the first half of the numbered layers (at least one); empty where none are numbered.

    >>> sorted(early_layers(("layers.0.w", "layers.1.w", "embed.w")))
    ['layers.0.w']
    """
    numbered = {name: int(found[1]) for name in names if (found := LAYER.search(name))}
    if not numbered:
        return set()
    half = max(1, (max(numbered.values()) + 1) // 2)
    return {name for name, layer in numbered.items() if layer < half}


ISOTROPIC = Law("isotropic", isotropic, np.inf, True, "σ, in the unit of the weights")
LAWS = (
    ISOTROPIC,
    Law("per-tensor noise", per_tensor, np.inf, True, "σ, in units of each tensor's rms"),
    Law("quantisation", quantised, np.inf, True, "grid step, in units of each tensor's rms"),
    Law("pruning", pruned, 1.0, False, "share of the weights set to 0"),
    Law("early layers to init", reset, 1.0, True, "weight a of the fresh start"),
)


def _scales(center: list[Tensor]) -> list[float]:
    """Root mean square of each tensor; where that is 0, the median over all."""
    rms = [float(w.double().square().mean().sqrt()) for w in center]
    middle = float(np.median(rms))
    return [one if one > 0 else middle for one in rms]
