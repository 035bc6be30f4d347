"""What travels between processes: a value without its tensors, and the tensors as plain arrays, each once.

A tensor that the other side has already is named, not sent. So units of one rung share its metric on the way there, and
what comes back shares it with what was sent: a chain does not bring a copy of what it was given.
"""

import io
import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn


class Plain(NamedTuple):
    """A tensor as an array of its bytes, in the order in which they lie in memory."""

    data: np.ndarray
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    device: str
    parameter: bool
    requires_grad: bool


def plain(tensor: Tensor) -> Plain:
    """The array of a tensor, without a copy where it lies in the processor's memory and fills its storage."""
    found = tensor.detach().cpu()
    if found.untyped_storage().nbytes() != found.nbytes:
        found = found.clone()
    data = torch.as_strided(found, (found.numel(),), (1,), 0).view(torch.uint8).numpy()
    parameter = isinstance(tensor, nn.Parameter)
    return Plain(
        data, found.dtype, tuple(found.shape), found.stride(), tensor.device.type, parameter, tensor.requires_grad
    )


def tensor(one: Plain) -> Tensor:
    """The tensor of an array, with memory of its own and the strides it had: sums keep their order."""
    flat = torch.empty(one.data.size // one.dtype.itemsize, dtype=one.dtype)
    if one.data.size:
        flat.view(torch.uint8).numpy()[:] = one.data
    made = torch.as_strided(flat, one.shape, one.stride).to(one.device)
    return nn.Parameter(made, one.requires_grad) if one.parameter else made.requires_grad_(one.requires_grad)


def pack(value: Any, known: Sequence[Tensor] = ()) -> tuple[bytes, list[Tensor]]:
    """A value without its tensors, and those of them that are not `known` on the other side."""
    stream = io.BytesIO()
    packer = _Packer(stream, known)
    packer.dump(value)
    return stream.getvalue(), packer.own


def unpack(content: bytes, own: Sequence[Tensor], known: Sequence[Tensor] = ()) -> Any:
    """The value, with the tensors that came along and those that were here."""
    return _Unpacker(io.BytesIO(content), [*known, *own]).load()


class _Packer(cloudpickle.Pickler):
    """Numbers tensors, the known ones first; anything else is pickled, functions of a notebook too."""

    def __init__(self, stream: io.BytesIO, known: Sequence[Tensor]) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self.numbers = {id(tensor): number for number, tensor in enumerate(known)}
        self.own: list[Tensor] = []

    def persistent_id(self, thing: Any) -> int | None:
        if type(thing) not in (Tensor, nn.Parameter) or not _ordinary(thing):
            return None
        if id(thing) not in self.numbers:
            self.numbers[id(thing)] = len(self.numbers)
            self.own.append(thing)
        return self.numbers[id(thing)]


def _ordinary(thing: Tensor) -> bool:
    return thing.layout is torch.strided and thing.is_leaf and not (thing.is_quantized or thing.is_meta)


class _Unpacker(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, tensors: Sequence[Tensor]) -> None:
        super().__init__(stream)
        self.tensors = tensors

    def persistent_load(self, number: int) -> Tensor:
        return self.tensors[number]
