"""Parameters: which tensors of a model are sampled, each storage once, and how the model is lent and given back."""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from degrade.heads import expand
from degrade.models import refuse_unfaithful

Only = str | Sequence[str] | Mapping[str, Tensor | None] | None


@dataclass(frozen=True)
class Selection:
    """The sampled parameters of a model: names, the live tensors, and a mask (or None) for each.

    `count` is d, the number of sampled scalars.
    """

    names: tuple[str, ...]
    tensors: tuple[nn.Parameter, ...]
    masks: tuple[Tensor | None, ...]

    @property
    def count(self) -> int:
        """Number of sampled scalars, d."""
        return sum(
            tensor.numel() if mask is None else int(mask.sum())
            for tensor, mask in zip(self.tensors, self.masks, strict=True)
        )

    def copy(self) -> list[Tensor]:
        """The present weights, copied, in float32."""
        return [tensor.detach().clone().float() for tensor in self.tensors]

    def place(self, weights: Iterable[Tensor]) -> None:
        """Write weights into the model, rounded once to each parameter's own type."""
        with torch.no_grad():
            for tensor, value in zip(self.tensors, weights, strict=True):
                tensor.copy_(value)

    def refuse_written(self, weights: Sequence[Tensor]) -> None:
        """Refuse a model that has written to its own weights since these were placed."""
        for name, tensor, value in zip(self.names, self.tensors, weights, strict=True):
            if not torch.equal(tensor.detach(), value.to(tensor.dtype)):
                raise ValueError(
                    f"the model writes to its parameter {name!r} while it computes its loss; expected weights that the"
                    " sampler alone moves: take out what clips or normalises them (nn.Embedding(max_norm=...), hooks),"
                    " or sample other parameters with only=..."
                )

    def housed(self, weights: list[Tensor]) -> list[Tensor]:
        """The weights as they stand in the model, where they keep every bit; they change with what is placed next."""
        self.place(weights)
        exact = all(tensor.dtype == torch.float32 for tensor in self.tensors)
        return [tensor.detach() for tensor in self.tensors] if exact else weights


def select(model: nn.Module, only: Only = None) -> Selection:
    """Choose the sampled parameters: floating-point, each storage once, restricted by `only`.

    Args:
        model: any module; a bridge must be one whose parameter list is the model's.
        only: None for all; a regular expression searched in the names; an attention head by name, as
            `blocks.1.attn.head.3` (see `degrade.heads`); a list of these; or {name: boolean mask or None}.

    Raises:
        ValueError: if two parameters overlap in memory, nothing matches, or a mask has the wrong shape.

    >>> from torch import nn
    >>> select(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), only="1.").names
    ('1.weight', '1.bias')
    """
    refuse_unfaithful(model)
    named = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    _refuse_overlap(named)
    chosen = _restrict(named, expand(model, named, only))
    return Selection(tuple(chosen), tuple(named[name] for name in chosen), tuple(chosen.values()))


def _restrict(
    named: Mapping[str, nn.Parameter], only: str | Mapping[str, Tensor | None] | None
) -> dict[str, Tensor | None]:
    if only is None:
        only = ""
    if isinstance(only, str):
        chosen: dict[str, Tensor | None] = {name: None for name in named if re.search(only, name)}
    else:
        chosen = {name: None if mask is None else mask.bool() for name, mask in only.items()}
    unknown = [name for name in chosen if name not in named]
    if not chosen or unknown:
        shown = ", ".join(list(named)[:12]) + (", ..." if len(named) > 12 else "")
        fault = f"names {unknown}" if unknown else f"pattern {only!r}"
        raise ValueError(f"no parameter matches the {fault} of `only`; the model's parameters are: {shown or 'none'}")
    for name, mask in chosen.items():
        if mask is not None and mask.shape != named[name].shape:
            raise ValueError(f"the mask of {name!r} has shape {tuple(mask.shape)}; expected {tuple(named[name].shape)}")
    return chosen


def _refuse_overlap(named: Mapping[str, nn.Parameter]) -> None:
    owners: dict[int, str] = {}
    for name, tensor in named.items():
        owner = owners.setdefault(tensor.untyped_storage().data_ptr(), name)
        if owner != name and tensor.numel():
            raise ValueError(
                f"parameters {owner!r} and {name!r} share memory but are two objects: noise would be counted twice;"
                " tie them (one nn.Parameter object in both places) or sample the module before it was wrapped"
            )


@contextmanager
def lent(model: nn.Module, selection: Selection) -> Iterator[list[Tensor]]:
    """Lend a model for sampling; weights, buffers, mode, requires_grad and .grad come back bit for bit in any case.

    The model is put into eval mode (with a warning if it was training and has dropout or batch statistics). Gives the
    sampled weights as they were, in float32: those that will come back, not to be written to.
    """
    _refuse_autocast(selection.tensors[0].device.type)
    modes = {name: part.training for name, part in model.named_modules()}
    _say_if_noisy(model)
    state = [(t, t.detach().clone(), t.requires_grad, t.grad) for t in model.parameters()]
    buffers = [(b, b.clone()) for b in model.buffers()]
    model.eval()
    for tensor in selection.tensors:
        tensor.requires_grad_(True)
    own = {id(tensor): value for tensor, value, _, _ in state}
    try:
        yield [own[id(tensor)].float() for tensor in selection.tensors]
    finally:
        with torch.no_grad():
            for tensor, value, wanted, grad in state:
                tensor.copy_(value)
                tensor.requires_grad_(wanted)
                tensor.grad = grad
            for buffer, value in buffers:
                buffer.copy_(value)
        for name, part in model.named_modules():
            part.training = modes[name]


def _refuse_autocast(kind: str) -> None:
    if torch.is_autocast_enabled(kind):
        raise ValueError(
            f"a model was to be sampled inside torch.autocast({kind!r}), which keeps rounded copies of weights that"
            " have moved since; expected a call outside of it: give dtype='bf16' for products in bfloat16"
        )


def _say_if_noisy(model: nn.Module) -> None:
    noisy = [
        name
        for name, part in model.named_modules()
        if part.training
        and (
            (isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0)
            or isinstance(part, nn.modules.batchnorm._BatchNorm)
        )
    ]
    if noisy:
        warnings.warn(
            f"the model was in train mode with dropout or batch statistics ({', '.join(noisy[:4])}); it is sampled in"
            " eval mode and given back in train mode",
            stacklevel=4,
        )


@contextmanager
def applied(model: nn.Module, selection: Selection, weights: Iterable[Tensor]) -> Iterator[nn.Module]:
    """The model with other weights in place; its own come back on leaving, also after an error."""
    own = [tensor.detach().clone() for tensor in selection.tensors]
    try:
        selection.place(weights)
        yield model
    finally:
        selection.place(own)
