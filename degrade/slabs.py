"""Room for large models: parameters a slab at a time, tensors made when they are asked for, and half precision.

What a step makes on its way is as large as the weights, unless it is made for a few parameters at a time (a slab), and
let go before the next. What can be made again from something else need not be kept. Both cost time where models are
small and save none of the memory that matters: below `LARGE` scalars all is kept as it is.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

from torch import Tensor

LARGE = 2**22  # scalars: 16 MiB in float32
SLAB = 2**18  # scalars, or one parameter that has more
WHOLE = slice(None)


class Held(Protocol):
    """Tensors of which one reads one, a part or all; not necessarily a list."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Tensor]: ...

    @overload
    def __getitem__(self, which: int) -> Tensor: ...

    @overload
    def __getitem__(self, which: slice) -> list[Tensor]: ...


def large(tensors: Iterable[Tensor]) -> bool:
    """Whether there are so many scalars that memory matters more than passes over them."""
    return sum(tensor.numel() for tensor in tensors) > LARGE


def slabs(tensors: Held) -> tuple[slice, ...]:
    """Runs of neighbours that hold at most 2¹⁸ scalars together, or one larger parameter.

    >>> import torch
    >>> slabs([torch.empty(2**17), torch.empty(2**17), torch.empty(2**19), torch.empty(3)])
    (slice(0, 2, None), slice(2, 3, None), slice(3, 4, None))
    """
    found, start, size = [], 0, 0
    for number, scalars in enumerate(tensor.numel() for tensor in tensors):
        if number > start and size + scalars > SLAB:
            found.append(slice(start, number))
            start, size = number, 0
        size += scalars
    return (*found, slice(start, len(tensors))) if len(tensors) else ()


@dataclass(frozen=True)
class Made:
    """Tensors that are made when they are asked for: the i-th is `make` of the i-th of each source."""

    make: Callable[..., Tensor]
    sources: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.sources[0])

    def __iter__(self) -> Iterator[Tensor]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return [self[number] for number in range(*which.indices(len(self)))]
        return self.make(*(source[which] for source in self.sources))


def held(make: Callable[..., Tensor], *sources: Any) -> Held:
    """`Made`, or for models that are not large the tensors themselves."""
    made = Made(make, sources)
    return made if large(sources[0]) else list(made)


def compact(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors; of large models in bfloat16, whose 8 bits are finer than curvature is known."""
    return [tensor.bfloat16() for tensor in tensors] if large(tensors) else list(tensors)
