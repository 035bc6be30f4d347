"""One process at a time in a directory.

The lock is the kernel's (flock), so it ends with its process, however that ends: a file that a killed process left
behind locks nothing. The file says who holds it. A system without flock (Windows) locks nothing.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

NAME = "lock"


class LockedError(OSError):
    """Another process works in the directory."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a directory's lock for some time.

    Raises:
        LockedError: naming the process that holds it.
    """
    handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _locked(handle):
            who = owner(folder) or {}
            raise LockedError(
                f"process {who.get('pid', 'unknown')} on {who.get('host', 'an unknown machine')} is working in {folder}"
                " already; wait for it, end it, or choose another directory"
            )
        os.truncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        os.close(handle)


def owner(folder: Path) -> dict[str, Any] | None:
    """Who held the lock last: pid and host."""
    try:
        return dict(json.loads((folder / NAME).read_text()))
    except (OSError, ValueError):
        return None


def busy(folder: Path) -> bool:
    """Whether a living process holds the lock."""
    if not (folder / NAME).is_file():
        return False
    handle = os.open(folder / NAME, os.O_RDONLY)
    try:
        return not _locked(handle, shared=True)
    finally:
        os.close(handle)


def _locked(handle: int, shared: bool = False) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
