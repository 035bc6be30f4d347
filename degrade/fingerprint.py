"""Content keys: SHA-256 of anything by what it holds, never by where it lies in memory.

So that a stored result is used again only for what it was computed from, in this process or another.
"""

import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial, singledispatch
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

_SEEN = WeakTensorKeyDictionary()


def key_of(value: Any) -> str:
    """SHA-256 of a value: tensors, arrays and tables by their bytes, functions by their source, and what is made of
    these. An object that shows nothing but its address counts by its type alone.

    >>> import torch
    >>> key_of((1, [torch.zeros(2)])) == key_of((1, [torch.zeros(2)])) != key_of((1, [torch.ones(2)]))
    True
    """  # noqa: D205
    digest = hashlib.sha256()
    for piece in pieces(value):
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def tensor_key(tensor: Tensor) -> bytes:
    """SHA-256 of a tensor's type, shape, strides and bytes; kept while it lives and is not written to."""
    version = -1 if tensor.is_inference() else tensor._version
    if version >= 0 and (seen := _SEEN.get(tensor)) and seen[0] == version:
        return seen[1]
    digest = hashlib.sha256(str(tensor.stride()).encode())
    feed(digest, "", tensor)
    if version >= 0:
        _SEEN[tensor] = (version, digest.digest())
    return digest.digest()


def feed(digest: Any, name: str, tensor: Tensor) -> None:
    """Feed a tensor's name, type, shape and bytes into a digest."""
    plain = tensor.detach().cpu().contiguous()
    digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
    digest.update(np.ascontiguousarray(plain.reshape(-1).view(torch.uint8).numpy()).tobytes())


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a value made of lists, tuples, mappings and dataclasses, each object once."""
    found: dict[int, Tensor] = {}
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, Tensor):
            found[id(one)] = one
        elif isinstance(one, Mapping):
            todo += one.values()
        elif isinstance(one, list | tuple):
            todo += one
        elif is_dataclass(one) and not isinstance(one, type):
            todo += [getattr(one, field.name) for field in fields(one)]
    return list(found.values())


def source_key(function: Callable[..., Any]) -> str:
    """SHA-256 of a callable by its source where that can be read, else of what it holds."""
    try:
        text = inspect.getsource(function)
    except (TypeError, OSError):
        return key_of(function)
    return hashlib.sha256(text.encode()).hexdigest()


def code_key(package: str) -> str:
    """SHA-256 of all Python files of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    places = [] if spec is None else [*(spec.submodule_search_locations or ()), spec.origin]
    digest = hashlib.sha256()
    for place in [Path(one) for one in places if one][:1]:
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(path.relative_to(place.parent).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@singledispatch
def pieces(value: Any) -> Iterator[bytes]:
    """The bytes that stand for a value, in order."""
    yield _name(type(value))
    if is_dataclass(value):
        for field in fields(value):
            yield field.name.encode()
            yield from pieces(getattr(value, field.name))
    elif " at 0x" not in (shown := repr(value)):
        yield shown.encode()


@pieces.register
def _(value: Tensor) -> Iterator[bytes]:
    yield b"tensor" + tensor_key(value)


@pieces.register
def _(value: np.ndarray) -> Iterator[bytes]:
    yield f"array {value.dtype} {value.shape}".encode()
    if value.dtype == object:
        yield from pieces(value.ravel().tolist())
    else:
        yield np.ascontiguousarray(value).tobytes()


@pieces.register(pd.DataFrame)
@pieces.register(pd.Series)
def _(value: Any) -> Iterator[bytes]:
    frame = pd.DataFrame(value)
    for name in frame:
        yield f"column {name} {frame[name].dtype}".encode()
        yield from pieces(frame[name].to_numpy())


@pieces.register
def _(value: nn.Module) -> Iterator[bytes]:
    yield _name(type(value))
    for name, tensor in sorted(value.state_dict().items()):
        yield name.encode()
        yield from pieces(tensor)


@pieces.register(list)
@pieces.register(tuple)
def _(value: Any) -> Iterator[bytes]:
    yield f"{'list' if isinstance(value, list) else 'tuple'} {len(value)}".encode()
    for one in value:
        yield from pieces(one)


@pieces.register
def _(value: Mapping) -> Iterator[bytes]:
    yield f"mapping {len(value)}".encode()
    for name, one in value.items():
        yield from pieces(name)
        yield from pieces(one)


@pieces.register(set)
@pieces.register(frozenset)
def _(value: Any) -> Iterator[bytes]:
    yield b"set" + b" ".join(sorted(key_of(one).encode() for one in value))


@pieces.register
def _(value: partial) -> Iterator[bytes]:
    yield from pieces((value.func, value.args, value.keywords))


@pieces.register(FunctionType)
@pieces.register(MethodType)
@pieces.register(BuiltinFunctionType)
@pieces.register(type)
def _(value: Any) -> Iterator[bytes]:
    yield _name(value)
    try:
        yield inspect.getsource(value).encode()
    except (TypeError, OSError):
        return


def _name(value: Any) -> bytes:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}".encode()
