"""The journal of a run: results by name, kept in a directory beside the one the run will leave, until it is finished.

    .NAME.partial/  run.json  lock  PART-1/  PART-2/ ...      becomes NAME/, and goes
    PART-1/         inputs.json  RESULT.pt  RESULT.json ...

A run is the same control flow each time; a result that is in the journal is read where it would be computed. So a run
that was stopped, by whatever, and is begun again ends with the bits of one that was not. Results are used only for the
inputs they were computed from: those of a run and of each part are written down before the first result.
"""

import json
import os
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from degrade import lock, parts
from degrade.fingerprint import key_of

FORMAT = 1
RUN, INPUTS, STOPPED = "run.json", "inputs.json", "stopped.json"


class _Missing:
    """What a journal gives for a result it does not hold."""


MISSING = _Missing()


class JournalError(ValueError):
    """A journal that cannot be gone on with: begun with other inputs or by another version, or not readable."""


@dataclass
class Clock:
    """Seconds of work on a run so far, the time when no process worked on it left out."""

    before: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        """Seconds."""
        return self.before + time.monotonic() - self.began


@dataclass(frozen=True)
class Journal:
    """Results by name in a directory; without a directory it keeps nothing."""

    folder: Path | None = None
    clock: Clock = field(default_factory=Clock)
    counts: Counter[str] = field(default_factory=Counter)

    def part(self, kind: str) -> "Journal":
        """The next part of a kind: the n-th one that is asked for is the n-th one of an earlier process."""
        if self.folder is None:
            return self
        self.counts[kind] += 1
        folder = self.folder / f"{kind}-{self.counts[kind]}"
        folder.mkdir(exist_ok=True)
        return Journal(folder, self.clock)

    def agree(self, inputs: Mapping[str, Any], expected: Mapping[str, Any] | None = None) -> None:
        """Write down what the results will be computed from, or compare it with what is written.

        Args:
            inputs: Everything that the results depend on, by name.
            expected: How many results there will be, for `degrade status`.

        Raises:
            JournalError: naming each input that has changed since a result was stored.
        """
        if self.folder is None:
            return
        content = {"inputs": dict(inputs), "expected": dict(expected or {}), "elapsed": self.clock.now()}
        _agree(self.folder / INPUTS, content, bool(notes(self.folder)))

    def read(self, name: str, inputs: Any = None, lent: Sequence[Tensor] = ()) -> Any:
        """A stored result, or MISSING; one that is damaged is said, and missing.

        Raises:
            JournalError: if it was computed from other inputs.
        """
        path = self._path(name)
        if path is None or not path.with_suffix(".json").is_file():
            return MISSING
        try:
            value = parts.read(path, lent)
        except parts.DamagedError as fault:
            warnings.warn(f"{fault}; it is computed again", stacklevel=2)
            return MISSING
        if parts.note_of(path)["key"] != key_of(inputs):
            raise JournalError(
                f"{path} was computed from other inputs than now, though nothing known has changed: something"
                " unseen has (a value that the loss or a probe takes from elsewhere, another kind of processor);"
                " bring it back, or remove the directory to begin again"
            )
        return value

    def write(self, name: str, value: Any, inputs: Any = None, lent: Sequence[Tensor] = (), **note: Any) -> None:
        """Store a result; one that cannot be pickled is not stored, which is said.

        Raises:
            OSError: naming the file, if the disk is full or may not be written to.
        """
        path = self._path(name)
        if path is None:
            return
        content = {"name": name, "key": key_of(inputs), "elapsed": self.clock.now(), **note}
        try:
            parts.write(path, value, lent, content)
        except TypeError as fault:
            warnings.warn(f"{name} {fault}; after a stop it would be computed again", stacklevel=2)

    def once(self, name: str, inputs: Any, work: Callable[[], Any]) -> Any:
        """A stored result, or that of `work`, stored."""
        if (value := self.read(name, inputs)) is MISSING:
            value = work()
            self.write(name, value, inputs)
        return value

    def forget(self, pattern: str) -> None:
        """Remove results that are no longer needed, by a pattern on their names."""
        for path in [] if self.folder is None else list(self.folder.glob(f"{pattern}.json")):
            parts.remove(path)

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.json"


_ACTIVE: ContextVar[Journal] = ContextVar("journal", default=Journal())  # noqa: B039


def active() -> Journal:
    """The journal of the run that is under way; one that keeps nothing if there is none."""
    return _ACTIVE.get()


@contextmanager
def unrecorded() -> Iterator[None]:
    """No journal for some time: what runs within is one unit of work, as it is in a process of its own."""
    token = _ACTIVE.set(Journal())
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def place(out: Path) -> Path:
    """Where the journal of a run directory is."""
    return out.with_name(f".{out.name}.partial")


def notes(folder: Path) -> list[dict[str, Any]]:
    """The notes of all results of a part, in the order in which they were stored."""
    found = [parts.note_of(path) | {"path": path} for path in folder.glob("*.json") if path.name not in (RUN, INPUTS)]
    return sorted((note for note in found if "elapsed" in note), key=lambda note: note["elapsed"])


def results(folder: Path) -> list[dict[str, Any]]:
    """The notes of all results of all parts."""
    return [note for part in sorted(folder.glob("*-*/")) for note in notes(part)]


@contextmanager
def opened(out: Path, inputs: Mapping[str, Any] | None = None, **command: Any) -> Iterator[Journal]:
    """The journal of a run while it is under way: that of an earlier process, if one was stopped.

    Kept if anything but the end of the block ends it and it holds a result; removed otherwise.

    Args:
        out: The directory that the run will leave.
        inputs: What the run depends on, by name.
        **command: What `degrade resume` needs to begin it again.

    Raises:
        OSError: if the directory cannot be written to.
        LockedError: if another process works on it.
        JournalError: if it was begun with other inputs and holds results.
    """
    folder = place(out)
    created = _made(folder)
    with lock.held(folder):
        _clean(folder)
        known = results(folder)
        content = {"format": FORMAT, "inputs": dict(inputs or {}), "command": command, "argv": sys.argv,
                   "directory": os.getcwd()}  # fmt: skip
        journal = Journal(folder, Clock(max((note["elapsed"] for note in known), default=0.0)))
        token = _ACTIVE.set(journal)
        try:
            _agree(folder / RUN, content, bool(known))
            yield journal
        except BaseException as error:
            _stop(out, error, created)
            raise
        finally:
            _ACTIVE.reset(token)
        shutil.rmtree(folder)


@contextmanager
def recording(out: Path | None, kind: str) -> Iterator[Journal]:
    """A part for a result of its own directory, or, without one, of the run that is under way."""
    if out is None:
        yield active().part(kind)
        return
    with opened(out) as run:
        yield run.part(kind)


def _made(folder: Path) -> list[Path]:
    """Make a directory; returns those that were made for it, the innermost first."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise OSError(
            fault.errno,
            f"{fault.strerror}; expected a place to write in: choose another directory, or change its rights",
            str(folder),
        ) from fault
    return missing


def _clean(folder: Path) -> None:
    """Remove what a killed process had not finished writing, and the word of how the last one ended."""
    for path in [*folder.rglob(f"*{parts.TEMPORARY}"), folder / STOPPED]:
        path.unlink(missing_ok=True)


def _agree(path: Path, content: dict[str, Any], begun: bool) -> None:
    """Keep the stored word if it holds; write a new one if nothing was done under the old."""
    if begun or path.is_file():
        changed = _changes(stored(path)["inputs"], json.loads(json.dumps(content["inputs"], default=str)))
        if changed and begun:
            raise JournalError(
                f"{path.parent} holds results of a run with other inputs: {'; '.join(changed)}. Go on with the former"
                " ones, or remove it to begin again"
            )
        if not changed:
            return
    parts.write_json(path, content)


def stored(path: Path) -> dict[str, Any]:
    """What was written down when a run or a part was begun.

    Raises:
        JournalError: if it cannot be read, or another version wrote it.
    """
    try:
        content = dict(json.loads(path.read_text()))
        dict(content["inputs"])
    except (OSError, ValueError, KeyError) as fault:
        raise JournalError(f"{path} cannot be read ({fault}); remove {path.parent} to begin again") from fault
    if content.get("format", FORMAT) != FORMAT:
        raise JournalError(
            f"{path} has format {content['format']}, this version goes on with {FORMAT}: take the version that began"
            " the run, or remove the directory to begin again"
        )
    return content


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What has changed, a phrase each; long values (keys) cut."""
    named = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name} was {_short(old.get(name))}, is {_short(new.get(name))}" for name in named]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}..."


def _stop(out: Path, error: BaseException, created: list[Path]) -> None:
    """Leave word of how the run ended if there is anything to go on from; else leave nothing."""
    folder = place(out)
    if isinstance(error, JournalError):
        return
    if results(folder):
        error.add_note(f"What was finished is kept: `degrade resume {out}` goes on from there.")
        with suppress(OSError):
            parts.write_json(folder / STOPPED, {"error": f"{type(error).__name__}: {error}", "notes": error.__notes__})
        return
    shutil.rmtree(folder, ignore_errors=True)
    for one in created[1:]:
        with suppress(OSError):
            one.rmdir()
