"""A draw's weights in a file, read as memory that the disk backs: what is touched is loaded, and none of it is held."""

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, overload

from safetensors import safe_open
from torch import Tensor

from degrade.fingerprint import pieces


class Shelved(Sequence[Tensor]):
    """The tensors of a safetensors file, in order of some names; each is mapped when it is asked for.

    Args:
        path: The file.
        names: Of the parameters.
        size: Bytes of the file.
        written: Gives its size once it is there; None if it is.
        keeper: What must live as long (a temporary directory).
    """

    def __init__(
        self, path: Path, names: Sequence[str], size: int = 0, written: "Future[int] | None" = None, keeper: Any = None
    ) -> None:
        self.path, self.names, self.size, self.keeper, self._written = path, tuple(names), size, keeper, written

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        with self._opened() as file:
            return file.get_tensor(self.names[index])

    def __iter__(self) -> Iterator[Tensor]:
        with self._opened() as file:
            yield from (file.get_tensor(name) for name in self.names)

    def __getstate__(self) -> dict[str, Any]:
        self.wait()
        return {"path": self.path, "names": self.names, "size": self.size, "keeper": None, "_written": None}

    def __repr__(self) -> str:
        return f"Shelved({self.path.name!r}, {len(self)} tensors)"

    def wait(self) -> "Shelved":
        """Return when the file is on the disk.

        Raises:
            OSError: if it could not be written.
        """
        if self._written is not None:
            self.size, self._written = self._written.result(), None
        return self

    def fault(self) -> str:
        """What is wrong with the file at first sight: not there, or another size than was written."""
        found = self.path.stat().st_size if self.path.is_file() else 0
        return f"{self.path} is damaged: it has {found} bytes of {self.size}" if found != self.size else ""

    def link(self, place: Path) -> None:
        """Give the file a second name, without a copy where the system can; `place` is in a directory being filled."""
        self.wait()
        try:
            os.link(self.path, place)
        except OSError:
            shutil.copyfile(self.path, place)

    def _opened(self) -> Any:
        self.wait()
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} is gone, and a draw's weights with it; expected the run's files")
        return safe_open(self.path, "pt")


@pieces.register
def _(value: Shelved) -> Iterator[bytes]:
    yield from pieces(list(value))  # by content: the key that the same draw has in memory
