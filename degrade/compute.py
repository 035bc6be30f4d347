"""How gradients are computed: in which arithmetic, on which device, compiled, how many examples and chains at once.

Whatever is chosen, the state of a chain (weights, noise, sums of gradients) stays in float32: weights are rounded where
a layer reads them, and a step is never added to rounded ones. Chosen for a ladder (fields of `degrade.ladder`) or for
all ladders of a block (`computing`), as the command line does.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

DTYPES = {"float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16"}
REPEATED = (nn.ModuleList, nn.Sequential)


@dataclass(frozen=True)
class Compute:
    """How gradients and losses are computed.

    Attributes:
        dtype: "bfloat16" (or "bf16"): matrix products in bfloat16 (`torch.autocast`), the rest in float32; "float32";
            None: as the model's weights are.
        device: Where, as torch names it ("cpu", "cuda", "cuda:1"); None: where the model is.
        compile: By `torch.compile`.
        micro_batch: Examples whose gradient is taken at once, and summed up to that of the batch; None: the whole
            batch. Passes without a gradient take 256 examples at a time in any case.
        checkpointing: Recompute the inside of each block of layers on the way back instead of keeping it.
        chains_at_once: Chains that take each step together, their gradients in one call (see `degrade.batched`), to
            rounding the same as alone; for small models, whose steps cost Python more than arithmetic. They are one
            unit of work, of one process.

    Raises:
        ValueError: naming the value, what is expected, and what there is.

    >>> Compute(dtype="bf16", micro_batch=8).dtype
    'bfloat16'
    """

    dtype: str | None = None
    device: str | None = None
    compile: bool = False
    micro_batch: int | None = None
    checkpointing: bool = False
    chains_at_once: int = 1

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(
                f"dtype={self.dtype!r}; expected {', '.join(DTYPES)}, or none for the type of the model's own weights"
                " (float16 would need its losses scaled: take bf16)"
            )
        object.__setattr__(self, "dtype", DTYPES.get(self.dtype or ""))
        if self.device is not None:
            refuse_absent(self.device)
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch={self.micro_batch}; expected at least 1 example at once, or none for all")
        if self.compile and self.checkpointing:
            raise ValueError(
                "compile=True and checkpointing=True were given; expected one of them: a compiled model decides for"
                " itself what it keeps (a smaller micro_batch saves memory beside it)"
            )
        self._check_chains()

    def _check_chains(self) -> None:
        if self.chains_at_once < 1:
            raise ValueError(f"chains_at_once={self.chains_at_once}; expected at least 1 chain, which is one by one")
        names = ("compile", "micro_batch", "checkpointing") + ("dtype",) * (self.dtype == "bfloat16")
        other = [f"{name}={getattr(self, name)!r}" for name in names if getattr(self, name)]
        if self.chains_at_once > 1 and other:
            raise ValueError(
                f"chains_at_once={self.chains_at_once} and {', '.join(other)} were given; expected one of them: chains"
                " at once are for small models, whose gradients are taken as they are"
            )

    def chosen(self) -> dict[str, Any]:
        """What differs from the default, by name.

        >>> Compute(dtype="bf16").chosen()
        {'dtype': 'bfloat16'}
        """
        given = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, usual) in given.items() if value != usual}


_COMPUTE: ContextVar[Compute] = ContextVar("compute", default=Compute())  # noqa: B039


def here() -> Compute:
    """How things are computed in the block that this is called in, where nothing else was said."""
    return _COMPUTE.get()


@contextmanager
def computing(compute: Compute) -> Iterator[None]:
    """All ladders of the block, and models opened in it by name, are computed in one way."""
    token = _COMPUTE.set(compute)
    try:
        yield
    finally:
        _COMPUTE.reset(token)


def present() -> list[str]:
    """The devices of this machine.

    >>> "cpu" in present()
    True
    """
    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def refuse_absent(name: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ValueError: naming those that it has.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    whole = name if device.index is not None or device.type in ("cpu", "mps") else f"{name}:0"
    if whole not in present():
        raise ValueError(
            f"device={name!r} is not there; expected one of {', '.join(present())}: choose one of these, or install"
            " the torch that is built for the device"
        )


@contextmanager
def moved(model: nn.Module, device: str | None) -> Iterator[None]:
    """The model on a device for some time; its parameters stay the same objects."""
    home = {str(tensor.device) for tensor in (*model.parameters(), *model.buffers())}
    if device is None or not home:
        yield
        return
    if len(home) > 1:
        raise ValueError(
            f"device={device!r} was given, and the model lies on {', '.join(sorted(home))}; expected one device: move"
            " it before, or leave device out to sample it where it is"
        )
    model.to(device)
    try:
        yield
    finally:
        model.to(home.pop())


def computed(model: nn.Module, compute: Compute) -> nn.Module:
    """The model as a chain calls it: itself, where nothing is asked for.

    Raises:
        ValueError: if its weights are not of a type that can be computed with so, or it has no blocks to recompute.
    """
    own = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}
    known = {"float32": {"float32"}, "bfloat16": {"float32", "bfloat16"}}
    if compute.dtype is not None and own - known[compute.dtype]:
        raise ValueError(
            f"dtype={compute.dtype!r}, and the model's weights are {', '.join(sorted(own))}; expected float32 weights"
            " to compute with: give model.float(), or leave dtype out"
        )
    if compute.checkpointing:
        blocks(model)
    rounded = compute.dtype == "bfloat16"
    return Computed(model, compute) if rounded or compute.compile or compute.checkpointing else model


class Computed(nn.Module):
    """A model with its own way to compute; all else that is asked of it is the model's."""

    def __init__(self, model: nn.Module, compute: Compute) -> None:
        super().__init__()
        self.inner, self.compute = model, compute
        self._compiled: Any = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_compiled": None}  # what was compiled does not travel: a worker compiles for itself

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """What the model answers."""
        with ExitStack() as stack:
            if self.compute.dtype == "bfloat16":
                kind = next(self.inner.parameters()).device.type
                stack.enter_context(torch.autocast(kind, torch.bfloat16))
            if self.compute.checkpointing and torch.is_grad_enabled():
                stack.enter_context(recomputed(self.inner))
            return self._function()(*arguments, **named)

    def _function(self) -> Callable[..., Any]:
        """The model, or its compiled form: one kernel for all batch sizes, so that bits do not hang on their order."""
        if not self.compute.compile:
            return self.inner
        if self._compiled is None:
            self._compiled = torch.compile(self.inner, dynamic=True)
        return self._compiled


def blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model: of its lists of like modules, at least two of a class, the one with most parameters.

    Raises:
        ValueError: if it has none.

    >>> block = lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    >>> len(blocks(nn.Sequential(nn.Linear(3, 2), nn.Sequential(block(), block(), block()))))
    3
    """
    lists = [list(part.children()) for part in model.modules() if isinstance(part, REPEATED)]
    alike = [found for found in lists if len(found) > 1 and len({type(part) for part in found}) == 1]
    if not alike:
        raise ValueError(
            f"checkpointing=True, and this {type(model).__name__} has no list of like blocks (an nn.ModuleList or"
            " nn.Sequential of at least two modules of one class); expected one to recompute block by block: leave"
            " checkpointing out, and take a smaller micro_batch"
        )
    return max(alike, key=lambda found: sum(p.numel() for part in found for p in part.parameters()))


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Blocks keep nothing but what goes into them; caches of earlier tokens, which would be filled twice, are off."""
    config = getattr(model, "config", None)
    cached = getattr(config, "use_cache", None)
    chosen = blocks(model)
    own = [vars(block).get("forward") for block in chosen]  # a block may have been given another than its class'
    for block in chosen:  # into its own names: a bridge hands what is set on a block to the block that it wraps
        vars(block)["forward"] = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    if cached:
        config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        for block, before in zip(chosen, own, strict=True):
            if before is None:
                del vars(block)["forward"]
            else:
                vars(block)["forward"] = before
        if cached:
            config.use_cache = cached  # type: ignore[union-attr]


def summed(
    nats: Callable[[np.ndarray], Tensor],
    index: np.ndarray,
    tensors: Sequence[Tensor],
    most: int | None,
    divisor: float = 1.0,
) -> tuple[Tensor, list[Tensor]]:
    """Nats of some examples, and the gradient in float32 of their sum over a divisor, at most so many at once.

    Args:
        nats: Of some examples, with their graph.
        index: The examples.
        tensors: What to derive by.
        most: Examples at once; None: all.
        divisor: Of the sum.
    """
    if most is None or most >= len(index):
        value = nats(index)
        gradients = torch.autograd.grad(value.sum() / divisor, tensors)
        return value.detach(), [g.float() for g in gradients]
    total = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in tensors]
    values = []
    for part in np.split(index, range(most, len(index), most)):
        value = nats(part)
        torch._foreach_add_(total, [g.float() for g in torch.autograd.grad(value.sum() / divisor, tensors)])
        values.append(value.detach())
    return torch.cat(values), total
