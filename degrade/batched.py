"""The gradients of several chains in one call: `torch.func.vmap` over weights and minibatches, as one recorded graph.

A step of a small model costs Python and launches of kernels, not arithmetic. Four chains that ask together pay for them
once; what each is answered is the gradient of its own weights on its own examples, to rounding. The call is recorded
(`make_fx`) once for each number of chains and size of batch, and replayed without the model's Python code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from degrade.chain import Scene
from degrade.data import leaves, mapped, moved
from degrade.engine import one_thread
from degrade.losses import Loss, measure
from degrade.noise import Key, batch_index, normal_like
from degrade.potential import Potential
from degrade.slabs import LARGE, large
from degrade.walk import Answer, Asked

TRIED = 0.1  # how far from w* both ways are compared, over s or over 1 if that is less
ROUNDING = 1e-3  # the most they may differ, over the largest entry of a gradient, and over a loss of at least 0.01 nats


class Priced(nn.Module):
    """A model and its loss as one module, whose parameters can be given: nats of each example of a batch."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any, size: int) -> Tensor:
        """Nats, shape (size,)."""
        return measure(self.loss, self.model, batch, size)[0]


class Graphs:
    """What was recorded, by number of chains and shapes. It does not travel: a worker records for itself."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], Any] = {}

    def __reduce__(self) -> tuple[type["Graphs"], tuple[()]]:
        return Graphs, ()


@dataclass(frozen=True)
class Batched(Potential):
    """A potential that takes the gradients of chains that step together in one call."""

    graphs: Graphs = field(default_factory=Graphs, init=False, compare=False, repr=False)

    def gradients(self, asked: Sequence[Asked]) -> list[Answer]:
        """The paired rise and the gradient of each chain, as `gradient` gives them one by one."""
        size = len(asked[0][1])
        index = torch.stack([torch.as_tensor(one) for _, one in asked])
        own = zip(self.selection.tensors, *(weights for weights, _ in asked), strict=True)
        weights = [torch.stack(each).to(tensor.dtype) for tensor, *each in own]
        batch = self._batch(index)
        known, shape = self.graphs.known, (len(asked), size, *(part.shape for part in leaves(batch)))
        if shape not in known:
            known[shape] = self._recorded(weights, batch, size)
        with torch.no_grad():
            gradient, nats = known[shape](weights, batch)
        rises = (nats - self.baseline[moved(index, self.baseline.device)]).sum(1) / (self.unit * size)
        each = zip(*(g.float().unbind() for g in gradient), strict=True)
        return [(rise, list(own)) for rise, own in zip(rises.unbind(), each, strict=True)]

    def settled(self, weights: list[Tensor]) -> list[Tensor]:
        """The weights themselves: those of other chains take their place in the model."""
        return weights

    def _whole(self, size: int) -> bool:
        """Whether a batch is all the data, which all chains share."""
        return size == len(self.data)

    def _batch(self, index: Tensor) -> Any:
        """The examples of each chain, first dimension = chain; those they share, once."""
        if self._whole(index.shape[1]):
            return self.data.batch(index[0].numpy(), self.device)
        batch = self.data.batch(index.reshape(-1).numpy(), self.device)
        return mapped(batch, lambda part: part.unflatten(0, tuple(index.shape)))

    def _recorded(self, weights: list[Tensor], batch: Any, size: int) -> Any:
        """The graph of gradients and nats of weights and batch of these shapes."""
        priced, divisor = Priced(self.model, self.loss), self.unit * size
        known = {id(parameter): name for name, parameter in priced.named_parameters()}
        names = [known[id(tensor)] for tensor in self.selection.tensors]

        def total(own: list[Tensor], examples: Any) -> tuple[Tensor, Tensor]:
            nats = functional_call(priced, dict(zip(names, own, strict=True)), (examples, size))
            return nats.sum() / divisor, nats.detach()

        shared = None if self._whole(size) else 0
        with sdpa_kernel(SDPBackend.MATH):  # other kernels of attention know no chains
            graph = make_fx(vmap(grad(total, has_aux=True), in_dims=(0, shared)))(weights, batch)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph


def batched(scene: Scene, chains: int, batch_size: int) -> Scene:
    """The scene for so many chains at once, if they are more than one, tried before anything is climbed.

    Args:
        scene: The scene, its model at w*.
        chains: How many take a step together.
        batch_size: Examples of a step.

    Raises:
        ValueError: naming the model, what it does that several chains at once do not allow, and the cure.

    >>> import numpy as np
    >>> import torch
    >>> from degrade.scene import set_scene
    >>> from degrade.parameters import select
    >>> from degrade.request import Request
    >>> net, x = torch.nn.Linear(2, 1), torch.randn(100, 2)
    >>> loss = lambda model, x: (model(x) ** 2).sum(1)
    >>> scene = set_scene(net, select(net), x, loss, Request(nbetas=[1.0], gamma=1.0), None, (), False)
    >>> potential = batched(scene, 2, 8).potential
    >>> (rise, _), _ = potential.gradients([(potential.center, np.arange(8)), (potential.center, np.arange(8, 16))])
    >>> float(rise)  # at w* nothing has risen
    0.0
    """
    if chains == 1:
        return scene
    _refuse_size(scene.potential, chains)
    own = {f.name: getattr(scene.potential, f.name) for f in fields(Potential)}
    potential = Batched(**own | {"chains_at_once": chains})
    with one_thread():
        unlike = _unlike(potential, chains, batch_size)
    if unlike:
        raise ValueError(f"{_said(potential, chains)} ({unlike} differs from that of a chain alone){CURE}")
    return replace(scene, potential=potential)


CURE = (
    "; expected a model and a loss that are functions of weights and batch alone, without writing in place, choices by"
    " values or draws of their own (see torch.func.vmap): leave chains_at_once out"
)


def _said(potential: Potential, chains: int) -> str:
    kind = type(potential.model).__name__
    return f"chains_at_once={chains}, and the gradient of this {kind} cannot be taken for several chains in one call"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _refuse_size(potential: Potential, chains: int) -> None:
    if large(potential.center):
        raise ValueError(
            f"chains_at_once={chains}, and {potential.selection.count:,} weights are sampled; expected at most"
            f" {LARGE:,}, for which a step waits for Python more than for arithmetic: leave chains_at_once out"
        )
    kinds = {tensor.dtype for tensor in potential.selection.tensors} - {torch.float32, torch.float64}
    if kinds:
        raise ValueError(
            f"chains_at_once={chains}, and the model's weights are {', '.join(sorted(map(str, kinds)))}; expected"
            " float32, in which both ways agree to rounding: give model.float(), or leave chains_at_once out"
        )


def _unlike(potential: Batched, chains: int, batch_size: int) -> str:
    """The first parameter whose gradient for several chains at once is not that of each alone; none: nothing.

    Both are asked at other weights and examples than the graph was recorded with, so that it holds none of those.
    """
    first, asked = (_trial(potential, number, chains, batch_size) for number in range(2))
    alone = [potential.gradient(*one) for one in asked]
    potential.selection.place(potential.center)
    try:
        potential.gradients(first)
        joint = potential.gradients(asked)
    except Exception as fault:
        raise ValueError(f"{_said(potential, chains)} ({_first_line(fault)}){CURE}") from fault
    loss = max(float(potential.baseline.double().mean()) / potential.unit, 0.01)
    for (rise, gradient), (other, found) in zip(alone, joint, strict=True):
        if not abs(float(rise - other)) <= ROUNDING * max(abs(float(rise)), loss):
            return "the rise"
        size = max(float(x.abs().max()) for x in gradient)  # some have none but rounding: the bias of keys
        for name, x, y in zip(potential.selection.names, gradient, found, strict=True):
            own = max(float(x.abs().max()), ROUNDING * size)
            if not float((x - y).abs().max()) <= ROUNDING * own:
                return name
    return ""


def _trial(potential: Batched, number: int, chains: int, batch_size: int) -> list[Asked]:
    """Weights near w* and examples, another pair for each chain."""
    asked = []
    for chain in range(chains):
        key = Key(number, "control", chain=chain)
        noise = normal_like(key, "pilot", 0, potential.center)
        near = [
            c + TRIED * min(a**-0.5, 1.0) * x
            for c, a, x in zip(potential.center, potential.precision, noise, strict=True)
        ]
        asked.append((near, batch_index(key, "batch", 0, len(potential.data), batch_size)))
    return asked
