"""Weights that lie in parts in several processes: who has what, and noise for each part.

Blocks of layers are sharded with `fully_shard` (FSDP2): before a block is used its weights are gathered, and dropped
after. Noise is that of the model on one device, each process keeping what lies at its offset: so a chain does not
depend on how many processes there are, and no two parts see the same noise.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from degrade.compute import blocks
from degrade.noise import _POSITIVE, Key, Tensors


class Place(NamedTuple):
    """Where a process' part of a parameter lies in the whole, a slice an axis."""

    slices: tuple[slice, ...]
    shape: tuple[int, ...]


def shard(model: nn.Module, mesh: DeviceMesh | None = None, replicated: str | None = None) -> nn.Module:
    """Shard a model's weights over the processes of a group, block by block; in place.

    Args:
        model: Loaded alike in all processes, with a list of like blocks (`degrade.compute.blocks`).
        mesh: The processes; None: all of the default group, each with the model's device.
        replicated: A regular expression on names of parameters that every process keeps whole.

    Raises:
        RuntimeError: without a process group.
        ValueError: if the model has no blocks, or no name matches.
    """
    if not dist.is_initialized():
        raise RuntimeError(
            "a model is sharded over processes, and there is no process group; expected one: start with torchrun, and"
            " call torch.distributed.init_process_group() first"
        )
    named = dict(model.named_parameters())
    whole = {p for name, p in named.items() if replicated is not None and re.search(replicated, name)}
    if replicated is not None and not whole:
        raise ValueError(
            f"no parameter matches replicated={replicated!r}; expected one of {', '.join(list(named)[:12])}"
        )
    mesh = mesh or init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    for part in (*blocks(model), model):  # weights are written between passes, so none may stay gathered after one
        fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    return model


def place(tensor: Tensor) -> Place:
    """Where this process' part of a parameter lies; all of it where it is whole."""
    shape = tuple(tensor.shape)
    if not isinstance(tensor, DTensor):
        return Place(tuple(slice(0, size) for size in shape), shape)
    sizes, offsets = compute_local_shape_and_global_offset(shape, tensor.device_mesh, tensor.placements)
    return Place(tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True)), shape)


def local(tensor: Tensor) -> Tensor:
    """This process' part of a parameter: a view to write to."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def cut(wholes: Tensors, tensors: Sequence[Tensor]) -> list[Tensor]:
    """This process' parts of whole tensors, which lie as some parameters do."""
    return [one[place(like).slices].clone() for one, like in zip(wholes, tensors, strict=True)]


def gathered(parts: Tensors, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Whole tensors of all processes' parts, one at a time in memory beside the result."""
    out = []
    for part, like in zip(parts, tensors, strict=True):
        if isinstance(like, DTensor):
            whole = part.new_zeros(like.shape)
            whole[place(like).slices] = part
            dist.all_reduce(whole)
            part = whole
        out.append(part)
    return out


def normal_like(key: Key, purpose: str, step: int, tensors: Sequence[Tensor]) -> list[Tensor]:
    """This process' parts of what `degrade.noise.normal_like` gives for the whole parameters, one whole at a time.

    Args:
        key: The chain's address, alike in all processes.
        purpose: As there.
        step: As there.
        tensors: The parameters, sharded or whole.
    """
    seeds = key.sequence(purpose, step).generate_state(len(tensors), np.uint64).tolist()
    found = []
    for tensor, seed in zip(tensors, seeds, strict=True):
        device = local(tensor).device
        generator = torch.Generator(device).manual_seed(seed & _POSITIVE)
        whole = torch.empty(tensor.shape, dtype=torch.float32, device=device).normal_(generator=generator)
        found.append(whole[place(tensor).slices].clone())
    return found
