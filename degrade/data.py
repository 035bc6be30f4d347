"""Data: anything with examples in its first dimension, seen as batches by index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate


@dataclass(frozen=True)
class Examples:
    """Examples that can be counted and gathered.

    `source` is a tensor, a tuple or dict of tensors (first dimension = example), a `datasets.Dataset` or a torch
    `Dataset`; the last two are collated by torch.

    Raises:
        ValueError: if there is no example, or the parts disagree on how many there are.
        TypeError: for anything else.

    >>> import torch
    >>> examples = Examples((torch.arange(6).view(3, 2), torch.tensor([0, 1, 0])))
    >>> len(examples), examples.batch([2, 0])[1].tolist()
    (3, [0, 0])
    """

    source: Any

    def __post_init__(self) -> None:
        sizes = {len(part) for part in _parts(self.source)}
        if len(sizes) != 1:
            raise ValueError(f"the parts of the data have {sorted(sizes)} examples; expected one number for all")
        if sizes == {0}:
            raise ValueError("the data hold 0 examples; expected at least 1: check the filter or path that made them")

    def __len__(self) -> int:
        return len(_parts(self.source)[0])

    def batch(self, index: Sequence[int] | np.ndarray, device: torch.device | str = "cpu") -> Any:
        """The examples at `index`, in that order, on `device`."""
        if isinstance(self.source, Tensor | tuple | Mapping):
            rows = torch.as_tensor(np.asarray(index), dtype=torch.long)
            return mapped(self.source, lambda part: moved(part[moved(rows, part.device)], device))
        return mapped(default_collate([self.source[int(i)] for i in index]), lambda part: moved(part, device))

    @property
    def places(self) -> int:
        """Positions that a model reads of an example: the tokens of a row of ids; 1 where the data hold none.

        >>> Examples(torch.zeros(3, 7, dtype=torch.long)).places, Examples(torch.zeros(3, 7)).places
        (7, 1)
        """
        rows = [part for part in leaves(self.batch([0])) if not part.is_floating_point() and part.ndim > 1]
        return max((part.shape[1] for part in rows), default=1)

    def chunks(self, size: int) -> list[np.ndarray]:
        """Indices of all examples in order, `size` at a time."""
        return np.split(np.arange(len(self)), range(size, len(self), size))


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device; on its way to an accelerator the host does not wait for what is queued there.

    From pageable memory such a copy has left the host's buffer when the call returns; the way back would not be safe.
    """
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


def _parts(source: Any) -> list[Any]:
    if isinstance(source, Mapping):
        return list(source.values())
    if isinstance(source, tuple):
        return list(source)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return [source]
    raise TypeError(
        f"data of type {type(source).__name__} cannot be counted or indexed; expected a tensor, a tuple or dict of"
        " tensors, a datasets.Dataset or a torch Dataset (an iterable one can be made a list first)"
    )


def leaves(batch: Any) -> list[Tensor]:
    """The tensors of a batch, in their order."""
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, tuple | list):
        return [leaf for part in batch for leaf in leaves(part)]
    return [batch] if isinstance(batch, Tensor) else []


def mapped(batch: Any, move: Any) -> Any:
    """A batch of what `move` makes of each tensor."""
    if isinstance(batch, Tensor):
        return move(batch)
    if isinstance(batch, Mapping):
        return {name: mapped(part, move) for name, part in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(mapped(part, move) for part in batch)
    return batch
