"""Draws go to disk as they come, written by a thread of their own while the chain goes on.

    rung-RR-chain-CC-part-PP-step-SSSSS.safetensors      a draw, its tensors by the names of their parameters

In memory 8 rungs of 4 chains with 4 draws of a model of 124 million weights would take 64 GB.
"""

import json
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor

from degrade import parts
from degrade.shelved import Shelved

if TYPE_CHECKING:
    from degrade.chain import Leg

PENDING = 2  # draws that wait to be written; a chain that draws faster than the disk takes waits
SHARE = 0.25  # of the free memory, that draws may take up before they go to a temporary directory
SUFFIX = ".safetensors"


class Temporary:
    """A directory that goes with the last thing that refers to it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="degrade-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class Shelf:
    """A directory for draws. Where it cannot be seen (on another machine) draws stay in memory.

    Args:
        folder: Made if it is missing; None: a temporary one, which goes when neither the shelf nor a draw is left.
        names: Of the sampled parameters.
    """

    def __init__(self, folder: Path | None, names: Sequence[str]) -> None:
        self._keeper = Temporary() if folder is None else None
        self.folder = self._keeper.path if folder is None and self._keeper else Path(folder or "")
        self.folder.mkdir(exist_ok=True)
        self.names, self.token = tuple(names), f"shelf-{os.urandom(8).hex()}"
        for left in self.folder.glob("shelf-*"):
            left.unlink()
        (self.folder / self.token).touch()
        self._begin()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "names": self.names, "token": self.token, "_keeper": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._begin()

    def _begin(self) -> None:
        self._room, self._thread = threading.Semaphore(PENDING), ThreadPoolExecutor(1)

    def put(self, weights: list[Tensor], rung: int, chain: int, part: int, step: int) -> Sequence[Tensor]:
        """Begin to write a draw; its handle, or the weights themselves where the shelf cannot be seen."""
        if not (self.folder / self.token).is_file():
            return weights
        path = self.folder / f"rung-{rung:02d}-chain-{chain:02d}-part-{part:02d}-step-{step:05d}{SUFFIX}"
        self._room.acquire()
        written = self._thread.submit(_written, path, self.names, weights, self._room.release)
        return Shelved(path, self.names, written=written, keeper=self._keeper)

    def collect(self, leg: "Leg", part: int) -> "Leg":
        """A leg with all its draws on the shelf, those too that a worker could not put there."""
        kept = []
        for one in leg.kept:
            weights = one.weights
            if isinstance(weights, Shelved):
                weights.keeper = self._keeper
            elif weights is not None:
                weights = self.put(list(weights), leg.plan.rung, leg.chain, part, one.step)
            kept.append(one._replace(weights=weights))
        return replace(leg, kept=kept)

    def close(self) -> None:
        """Wait until each draw that was put here is written, or has failed; none can be put here after that."""
        self._thread.shutdown(wait=True)

    def tidy(self, rung: int, legs: "Sequence[Leg]") -> None:
        """Remove the draws of a rung that its legs have not kept: of parts that were done again, or thinned out."""
        found = [one.weights.wait() for leg in legs for one in leg.kept if isinstance(one.weights, Shelved)]
        kept = {one.path.name for one in found}
        for path in self.folder.glob(f"rung-{rung:02d}-*{SUFFIX}"):
            if path.name not in kept:
                path.unlink()


def shelf_for(folder: Path | None, names: Sequence[str], total: int, free: int | None) -> Shelf | None:
    """A shelf in a run's directory; without one, a temporary one if the draws would take up a quarter of the memory.

    Args:
        folder: The run's.
        names: Of the sampled parameters.
        total: Bytes of all draws.
        free: Bytes of memory, if known.
    """
    if total and (folder is not None or (free is not None and total > SHARE * free)):
        return Shelf(None if folder is None else folder / "draws", names)
    return None


def store(path: Path, names: Sequence[str], weights: Sequence[Tensor]) -> None:
    """Write weights as a safetensors file, tensor by tensor, without a copy of them all.

    Raises:
        OSError: naming the file, if it cannot be written; nothing of it is left.
    """
    parts.replace(path, lambda file: _fill(file, names, weights))


def _written(path: Path, names: Sequence[str], weights: Sequence[Tensor], done: Callable[[], Any]) -> int:
    """Write a draw; the size of its file."""
    try:
        store(path, names, weights)
        return path.stat().st_size
    finally:
        done()


def _fill(file: IO[bytes], names: Sequence[str], weights: Sequence[Tensor]) -> None:
    """The format: length of the header in 8 bytes, the header (JSON), the tensors' bytes in its order."""
    header, end = {}, 0
    for name, tensor in zip(names, weights, strict=True):
        start, end = end, end + tensor.numel() * 4
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in weights:
        file.write(tensor.float().contiguous().reshape(-1).view(torch.uint8).numpy().data)
