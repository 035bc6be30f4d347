"""The potential that is sampled.

    U(w) = nβ · L(w) + ½ Σ_t ‖w_t − w*_t‖² / s_t²,      L = Σ nats / Σ count over the sampling data

A minibatch of size m estimates L by Σ nats / (mean count · m), which is unbiased because the divisor is fixed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from degrade.compute import summed
from degrade.data import Examples, moved
from degrade.losses import Loss, Replay, logits_of, measure
from degrade.noise import Tensors
from degrade.parameters import Selection
from degrade.walk import Answer, Asked

CHUNK = 256


@dataclass(frozen=True)
class Potential:
    """Everything that fixes U but nβ, bound to a live model.

    `center` is w*, `precision` holds 1/s_t², `baseline` the nats of each example at w* (paired rises need them),
    `unit` the mean count of an example, `micro_batch` how many examples go through the model at once, and
    `chains_at_once` how many chains take a step together.
    """

    model: nn.Module
    loss: Loss
    data: Examples
    selection: Selection
    center: list[Tensor]
    precision: list[float]
    baseline: Tensor
    unit: float
    micro_batch: int | None = None
    chains_at_once: int = 1

    @property
    def device(self) -> torch.device:
        """Where the model's sampled parameters live."""
        return self.selection.tensors[0].device

    def nats(self, index: np.ndarray) -> Tensor:
        """Nats of some examples at the weights now in the model, with their graph."""
        return measure(self.loss, self.model, self.data.batch(index, self.device), len(index))[0]

    def gradient(self, weights: Iterable[Tensor], index: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        """The paired rise L_B(w) − L_B(w*) of a minibatch and ∇L_B(w), in nats per unit, float32."""
        self.selection.place(weights)
        size = self.unit * len(index)
        nats, gradient = summed(self.nats, index, self.selection.tensors, self.micro_batch, size)
        rise = (nats - self.baseline[moved(torch.as_tensor(index), self.baseline.device)]).sum() / size
        return rise, gradient

    def gradients(self, asked: Sequence[Asked]) -> list[Answer]:
        """The gradient of each chain of those that take a step together."""
        raise TypeError(f"{len(asked)} chains at once; expected a potential from `degrade.batched.batched`")

    def energy(self, nbeta: float, weights: Tensors) -> tuple[float, list[Tensor]]:
        """U(w) − U(w*) and ∇U(w) over all the data."""
        rise, gradient = self.gradient(weights, np.arange(len(self.data)))
        pull = self.prior_gradient(weights)
        prior = sum(
            float(((w - c).double() * p.double()).sum()) for w, c, p in zip(weights, self.center, pull, strict=True)
        )
        return nbeta * float(rise) + prior / 2, [nbeta * g + p for g, p in zip(gradient, pull, strict=True)]

    def sampled_gradient(self, weights: Tensors, index: np.ndarray, key: torch.Generator) -> list[Tensor]:
        """∇ of the summed nats at labels drawn from the model, for a loss that can draw them."""
        self.selection.place(weights)

        def nats(part: np.ndarray) -> Tensor:
            return self.loss.sampled(self.model, self.data.batch(part, self.device), key)[0]  # type: ignore[attr-defined]

        return summed(nats, index, self.selection.tensors, self.micro_batch)[1]

    @property
    def plain(self) -> "Potential":
        """The potential whose gradients are those of single batches, with all their noise."""
        return self

    def settled(self, weights: list[Tensor]) -> list[Tensor]:
        """The weights, placed in the model, where they live until others are placed (see `Selection.housed`)."""
        return self.selection.housed(weights)

    def prior_gradient(self, weights: Tensors) -> list[Tensor]:
        """(w − w*)/s², the gradient of the neighbourhood's part."""
        return [(w - c) * a for w, c, a in zip(weights, self.center, self.precision, strict=True)]


@dataclass(frozen=True)
class FixedSet:
    """A fixed set of examples with their nats at w*: what rises are compared on; `index` is their place in the data."""

    data: Examples
    loss: Loss
    baseline: Tensor
    count: Tensor
    calibrated: float
    index: np.ndarray | None = None

    def rises(self, nats: Tensor) -> float:
        """The paired rise on the set, nats per unit."""
        return float((nats.double() - self.baseline.double()).sum() / self.count.double().sum())

    def calibrated_rise(self, model: nn.Module, device: torch.device) -> float:
        """Rise of the loss minimised over a logit temperature (nan where the loss has no logits)."""
        return calibrated_loss(model, self.loss, self.data, device) - self.calibrated


@torch.no_grad()
def example_nats(
    model: nn.Module, loss: Loss, data: Examples, device: torch.device, wrap: Callable[[list], Iterable] = iter
) -> tuple[Tensor, Tensor]:
    """Nats and counts of all examples at the model's present weights, each of shape (examples,)."""
    parts = [measure(loss, model, data.batch(index, device), len(index)) for index in wrap(data.chunks(CHUNK))]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def check_baseline(nats: Tensor, count: Tensor) -> None:
    """Refuse a loss that is not finite at the trained weights, or scores nothing.

    Raises:
        ValueError: naming the first example at fault.
    """
    if not torch.isfinite(nats).all():
        first = int((~torch.isfinite(nats)).nonzero()[0])
        raise ValueError(
            f"the loss of example {first} is {float(nats[first])} at the trained weights; expected finite nats:"
            " look for empty or fully masked examples, or a model that overflows in its present type"
        )
    if not count.sum() > 0:
        raise ValueError("the loss scores no unit of any example (all counts are 0); expected at least one")


@torch.no_grad()
def calibrated_loss(model: nn.Module, loss: Loss, data: Examples, device: torch.device) -> float:
    """Min over τ of the mean loss with logits multiplied by τ, in nats per unit; nan for a loss without logits.

    Networks can change their loss by scaling logits alone; this part of a rise is not structural.
    """
    from scipy.optimize import minimize_scalar

    if not hasattr(loss, "sampled"):
        return float("nan")
    batches = [data.batch(index, device) for index in data.chunks(CHUNK)]
    recorded = [_answers(model, loss, batch) for batch in batches]

    def mean_loss(log_scale: float) -> float:
        pairs = [
            loss(replace(answer, scale=float(np.exp(log_scale))), batch)
            for answer, batch in zip(recorded, batches, strict=True)
        ]
        return float(sum(p[0].sum() for p in pairs) / sum(p[1].sum() for p in pairs))

    found = minimize_scalar(mean_loss, bounds=(-3.0, 1.5), method="bounded", options={"xatol": 0.01})
    return float(found.fun)


def _answers(model: nn.Module, loss: Loss, batch: object) -> Replay:
    kept: list[Tensor] = []

    def recorder(*args: object, **kwargs: object) -> Tensor:
        kept.append(logits_of(model(*args, **kwargs)))
        return kept[0]

    loss(recorder, batch)
    return Replay(kept[0])
