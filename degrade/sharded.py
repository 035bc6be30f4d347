"""A chain of a model that one device cannot hold: each process keeps a part of every weight, of its noise and its step.

    potential = bind(shard(model), data, width=0.3)       in every process of `torchrun --nproc-per-node 8 mine.py`
    run = chain(potential, fisher(potential, key, nbeta, 32), nbeta, 0.1, 200, 32, key)

Each process takes its share of a minibatch; gradients are averaged on their way back to the parts, and here where a
weight is whole in every process. A sharded chain is the unsharded one to rounding (see `degrade.shards`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from degrade import metric as metrics
from degrade.curvature import estimate
from degrade.data import Examples
from degrade.losses import Loss, measure, next_token_loss
from degrade.metric import Metric
from degrade.neighbourhood import Neighbourhood
from degrade.noise import _POSITIVE, Key, Tensors, batch_index
from degrade.potential import CHUNK
from degrade.preconditioners.fisher import DAMPING
from degrade.samplers import sgld
from degrade.shards import local, normal_like

TRACE = ("rise", "virial", "prior_fraction")


class Run(NamedTuple):
    """What a chain brings back in each process: its parts of the weights, and for all a row a step (see `TRACE`)."""

    weights: list[Tensor]
    trace: np.ndarray


@dataclass(frozen=True)
class Potential:
    """What `degrade.potential.Potential` is of a model on one device: weights and gradients are a process' parts.

    `baseline` holds the nats of all examples at w*, alike in all processes.
    """

    model: nn.Module
    loss: Loss
    data: Examples
    tensors: tuple[nn.Parameter, ...]
    center: list[Tensor]
    precision: list[float]
    baseline: Tensor
    unit: float
    count: int

    @property
    def device(self) -> torch.device:
        """Where the process' parts are."""
        return self.center[0].device

    @property
    def plain(self) -> "Potential":
        """Itself: there is no control variate here."""
        return self

    def gradient(self, weights: Tensors, index: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        """The paired rise of a minibatch, alike in all processes, and their parts of its gradient; nats per unit."""
        size, mine = self.unit * len(index), _share(index)
        nats = self._backward(weights, lambda: _nats(self.model, self.loss, self.data, mine, self.device)[0], size)
        return _summed((nats - self.baseline[torch.as_tensor(mine)].to(nats.device)).sum()) / size, self._gradients()

    def sampled_gradient(self, weights: Tensors, index: np.ndarray, key: torch.Generator) -> list[Tensor]:
        """Parts of the gradient of the summed nats at labels drawn from the model, by each process for its share."""
        word = int(torch.randint(_POSITIVE, (1,), generator=key, device=key.device))
        seed = np.random.SeedSequence([word, dist.get_rank()]).generate_state(1, np.uint64)[0]
        own = torch.Generator(self.device).manual_seed(int(seed) & _POSITIVE)
        batch = self.data.batch(_share(index), self.device)
        self._backward(weights, lambda: self.loss.sampled(self.model, batch, own)[0], 1.0)  # type: ignore[attr-defined]
        return self._gradients()

    def put(self, weights: Tensors) -> None:
        """Write the process' parts of some weights into the model."""
        with torch.no_grad():
            for tensor, value in zip(self.tensors, weights, strict=True):
                local(tensor).copy_(value)

    def _backward(self, weights: Tensors, nats: Callable[[], Tensor], size: float) -> Tensor:
        """Nats of the process' share, and gradients left in the parameters; sharded ones are means over processes."""
        self.put(weights)
        for tensor in self.tensors:
            tensor.grad = None
        value = nats()
        (value.sum() * (dist.get_world_size() / size)).backward()
        return value.detach()

    def _gradients(self) -> list[Tensor]:
        found = []
        for tensor in self.tensors:
            grad = tensor.new_zeros(tensor.shape) if tensor.grad is None else tensor.grad
            part = local(grad).float()
            if not isinstance(tensor, DTensor):  # whole in each process, which has seen its own share alone
                dist.all_reduce(part)
                part /= dist.get_world_size()
            found.append(part.clone())
            tensor.grad = None
        return found


def bind(
    model: nn.Module,
    data: Any,
    loss: Loss = next_token_loss,
    width: float | None = None,
    gamma: float | None = None,
) -> Potential:
    """The potential of a sharded model at its present weights, w*; see `degrade.ladder` for the arguments.

    Raises:
        ValueError: if there are fewer examples than processes.
    """
    examples, tensors = Examples(data), tuple(p for p in model.parameters() if p.is_floating_point())
    model.eval()
    center = [local(tensor).clone().float() for tensor in tensors]
    squares = _each(tensors, [c.square().sum() / p.numel() for p, c in zip(tensors, center, strict=True)])
    scales = Neighbourhood(width, gamma).scales([square.sqrt()[None] for square in squares])  # of tensors of equal rms
    nats, count = torch.zeros(len(examples)), torch.zeros(len(examples))
    with torch.no_grad():
        for index in np.array_split(np.arange(len(examples)), -(-len(examples) // CHUNK)):
            mine = _share(index)
            nats[mine], count[mine] = (x.cpu() for x in _nats(model, loss, examples, mine, center[0].device))
    nats, count = _summed(nats), _summed(count)
    number = sum(tensor.numel() for tensor in tensors)
    return Potential(model, loss, examples, tensors, center, [s**-2 for s in scales], nats, float(count.mean()), number)


def fisher(potential: Potential, key: Key, nbeta: float, batch_size: int) -> Metric:
    """The process' parts of the diagonal Fisher preconditioner at w*: see `degrade.preconditioners.fisher`.

    It is looked at by 8 examples at a time, of which each process takes its share: for at most 8 processes.
    """
    known = estimate(potential, potential.center, key, 0)  # type: ignore[arg-type]
    tensors = potential.tensors
    total = float(_each(tensors, [f.double().sum() for f in known.fisher]).sum())
    mean, precision = total / potential.count, potential.precision
    p = [1 / (nbeta * (f.float() + DAMPING * mean) + s) for f, s in zip(known.fisher, precision, strict=True)]
    batch = batch_size if batch_size < len(potential.data) else math.inf  # all the data come without noise
    return metrics.build(p, known, precision, nbeta, batch, tuple(None for _ in tensors))


def chain(
    potential: Potential,
    metric: Metric,
    nbeta: float,
    step_size: float,
    steps: int,
    batch_size: int,
    key: Key,
    weights: list[Tensor] | None = None,
) -> Run:
    """Steps of `sgld` at one temperature; all processes call it alike, and each brings back its parts.

    The model is left in eval mode with the chain's last weights; `potential.put(potential.center)` brings back w*.

    Args:
        potential: Of the sharded model.
        metric: The process' parts of a diagonal preconditioner.
        nbeta: Inverse temperature.
        step_size: ε.
        steps: Their number.
        batch_size: Examples of a minibatch, shared out over the processes.
        key: The chain's address.
        weights: The process' parts of where it starts; None: w*.

    Raises:
        ValueError: if the metric turns weights, or a minibatch has fewer examples than there are processes.
    """
    if metric.basis is not None:
        raise ValueError("this metric turns weights, which lie in parts here; expected a diagonal one: take `fisher`")
    tensors, rows = potential.tensors, []
    start = potential.center if weights is None else weights
    state = sgld.State(start, 0, metric, 0.0, [], True, normal_like(key, "noise", 0, tensors))
    state = sgld.resize(state, metric, step_size)
    for step in range(steps):
        index = batch_index(key, "batch", step, len(potential.data), batch_size)
        rise, gradient = potential.gradient(state.weights, index)
        moved = torch._foreach_sub(state.weights, potential.center)
        force = torch._foreach_mul(moved, potential.precision)
        prior = _product(tensors, moved, force)
        torch._foreach_add_(force, gradient, alpha=nbeta)
        virial = _product(tensors, moved, force)
        rows.append(torch.stack([rise.double(), virial / potential.count, prior / potential.count]))
        state = _stepped(state, list(force), normal_like(key, "noise", step + 1, tensors))
    potential.put(state.weights)
    return Run(list(state.weights), torch.stack(rows).cpu().numpy())


def _stepped(state: sgld.State, gradient: list[Tensor], fresh: list[Tensor]) -> sgld.State:
    """`sgld.update` with given noise."""
    move = torch._foreach_mul(state.metric.into(gradient), -state.drift)
    torch._foreach_addcmul_(move, state.scale[:], torch._foreach_add(fresh, state.last))
    return state._replace(weights=state.metric.moved(state.weights, move), step=state.step + 1, last=fresh)


def _product(tensors: Sequence[Tensor], one: Tensors, two: Tensors) -> Tensor:
    """Σ one · two over all processes' parts, what is whole in each counted once."""
    return _each(tensors, [(x.double() * y.double()).sum() for x, y in zip(one, two, strict=True)]).sum()


def _each(tensors: Sequence[Tensor], sums: Sequence[Tensor]) -> Tensor:
    """For each parameter the sum over all of it, of what each process has of it."""
    held = torch.tensor([1 if isinstance(tensor, DTensor) else dist.get_world_size() for tensor in tensors])
    return _summed(torch.stack(list(sums)) / held.to(sums[0].device))


def _summed(value: Tensor) -> Tensor:
    dist.all_reduce(value)
    return value


def _share(index: np.ndarray) -> np.ndarray:
    """This process' share of some examples."""
    world = dist.get_world_size()
    if len(index) < world:
        raise ValueError(
            f"{len(index)} examples are to be shared out over {world} processes; expected at least one for each: take"
            " a larger batch_size, more data, or fewer processes"
        )
    return np.array_split(index, world)[dist.get_rank()]


def _nats(
    model: nn.Module, loss: Loss, data: Examples, index: np.ndarray, device: torch.device
) -> tuple[Tensor, Tensor]:
    return measure(loss, model, data.batch(index, device), len(index))
