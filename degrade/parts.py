"""One stored result: there as a whole or not at all, and known to be whole before it is read.

    NAME.pt     what is not a tensor (pickled), and the tensors (torch.save), but not those the reader has anyway
    NAME.json   the note: what it is, and size and SHA-256 of NAME.pt; written last, so that it says "done"

Each file gets a temporary name, is flushed to the disk (fsync) and renamed.
"""

import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from degrade.fingerprint import tensor_key
from degrade.shelved import Shelved

TEMPORARY = ".partial"


class DamagedError(Exception):
    """A stored result that is not what was written."""


def write(path: Path, value: Any, lent: Sequence[Tensor] = (), note: Mapping[str, Any] | None = None) -> None:
    """Store a value and its note; `lent` are tensors that the reader will have and that need no place on disk.

    Raises:
        OSError: naming the file, if it cannot be written; nothing of it is left.
        TypeError: if the value cannot be pickled.
    """
    packed = _packed(value, lent, path.parent)
    payload = path.with_suffix(".pt")
    replace(payload, lambda file: _save(packed, file))
    with payload.open("rb") as file:
        content = {"bytes": payload.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    write_json(path.with_suffix(".json"), {**(note or {}), **content})


def read(path: Path, lent: Sequence[Tensor] = ()) -> Any:
    """The value that was stored.

    Raises:
        DamagedError: saying what is wrong with it.
    """
    note, payload = note_of(path), path.with_suffix(".pt")
    if fault := fault_of(path, note):
        raise DamagedError(fault)
    with payload.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != note["sha256"]:
            raise DamagedError(f"{payload} is damaged: its content is not what was written")
    return _unpacked(torch.load(payload, weights_only=True), lent, path.parent)


def note_of(path: Path) -> dict[str, Any]:
    """The note of a stored value; empty if it cannot be read."""
    try:
        return dict(json.loads(path.with_suffix(".json").read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def fault_of(path: Path, note: Mapping[str, Any]) -> str:
    """What is wrong with a stored value at first sight: no readable note, or another size than was written."""
    payload = path.with_suffix(".pt")
    if "sha256" not in note:
        return f"{path.with_suffix('.json')} cannot be read"
    found = payload.stat().st_size if payload.is_file() else 0
    return f"{payload} is damaged: it has {found} bytes of {note['bytes']}" if found != note["bytes"] else ""


def remove(path: Path) -> None:
    """Remove a stored value, its note first."""
    for suffix in (".json", ".pt"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Store a small mapping as JSON."""
    text = json.dumps(content, indent=1, default=str)
    replace(path, lambda file: file.write(text.encode()))


def replace(path: Path, fill: Callable[[IO[bytes]], Any]) -> None:
    """Write a file as a whole: under a temporary name, on the disk, then renamed.

    Raises:
        OSError: naming the file and the cure.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as fault:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(
            fault.errno, f"{fault.strerror}; make room or give rights there, what was stored before is kept", str(path)
        ) from fault


def _flush_folder(folder: Path) -> None:
    """A name is on the disk only once its directory is (Windows opens no directories)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _save(packed: tuple[bytes, list[Tensor]], file: IO[bytes]) -> None:
    """Torch hides a full disk behind an error of its own."""
    try:
        torch.save(packed, file)
    except RuntimeError as fault:
        if isinstance(fault.__context__, OSError):
            raise fault.__context__ from None
        raise


class _Packer(pickle.Pickler):
    """Pickles all but tensors, which it numbers, ("lent", i) or ("own", i), and draws' files, by where they are."""

    def __init__(self, stream: IO[bytes], lent: Sequence[Tensor], folder: Path) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self.folder = folder
        self.lent = {tensor_key(tensor): number for number, tensor in enumerate(lent)}
        self.own: list[Tensor] = []
        self.numbers: dict[int, int] = {}

    def persistent_id(self, thing: Any) -> tuple[str, Any] | None:
        if isinstance(thing, Shelved) and thing.path.is_relative_to(self.folder):
            place = thing.wait().path.relative_to(self.folder).as_posix()
            return "shelved", (place, thing.names, thing.size)
        if not isinstance(thing, Tensor):
            return None
        if (number := self.lent.get(tensor_key(thing))) is not None:
            return "lent", number
        if id(thing) not in self.numbers:
            self.numbers[id(thing)] = len(self.own)
            self.own.append(thing)
        return "own", self.numbers[id(thing)]


class _Unpacker(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], lent: Sequence[Tensor], own: Sequence[Tensor], folder: Path) -> None:
        super().__init__(stream)
        self.tensors, self.folder = {"lent": lent, "own": own}, folder

    def persistent_load(self, place: tuple[str, Any]) -> Any:
        kind, where = place
        if kind != "shelved":
            return self.tensors[kind][where]
        draw = Shelved(self.folder / where[0], *where[1:])
        if fault := draw.fault():
            raise DamagedError(fault)
        return draw


def _packed(value: Any, lent: Sequence[Tensor], folder: Path) -> tuple[bytes, list[Tensor]]:
    stream = io.BytesIO()
    packer = _Packer(stream, lent, folder)
    try:
        packer.dump(value)
    except (pickle.PicklingError, AttributeError) as fault:
        raise TypeError(f"cannot be pickled: {fault}") from fault
    return stream.getvalue(), packer.own


def _unpacked(packed: tuple[bytes, list[Tensor]], lent: Sequence[Tensor], folder: Path) -> Any:
    return _Unpacker(io.BytesIO(packed[0]), lent, packed[1], folder).load()
