"""Where a ladder is told of as it is climbed: to nobody, or to Weights & Biases (the extra `[wandb]`).

Off unless it is asked for, `log="wandb"`, and nothing leaves the machine unless WANDB_MODE says "online": what is
written to the directory `wandb` (or WANDB_DIR) can be sent later by `wandb sync`. No result depends on it.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

NAMES = ("wandb",)
Row = Mapping[str, Any]

_NAME: ContextVar[str | None] = ContextVar("logger", default=None)


def here() -> str | None:
    """The logger of the block that this is called in."""
    return _NAME.get()


@contextmanager
def logging(name: str | None) -> Iterator[None]:
    """All ladders of the block are told of in one place.

    Raises:
        ValueError: for an unknown name.
        ImportError: naming the extra, if what it needs is not installed.
    """
    if check(name) is not None:
        imported()
    token = _NAME.set(name)
    try:
        yield
    finally:
        _NAME.reset(token)


def check(name: str | None) -> str | None:
    """A name, if it is one.

    Raises:
        ValueError: naming the known ones.
    """
    if name is not None and name not in NAMES:
        raise ValueError(f"log={name!r}; expected {', '.join(NAMES)}, or none")
    return name


def imported() -> Any:
    """The module wandb.

    Raises:
        ImportError: naming the extra, if it is not installed.
    """
    try:
        import wandb
    except ImportError as fault:
        raise ImportError("log='wandb' needs Weights & Biases: pip install 'natural-degradation[wandb]'") from fault
    return wandb


@contextmanager
def told(name: str | None, config: Row) -> Iterator[Callable[[Row], None]]:
    """Something that takes a finished rung as a row of `ladder.table`; a run of its own in wandb, ended with the block.

    Args:
        name: Of the logger; None: rows go nowhere.
        config: What the ladder is made from.
    """
    if name is None:
        yield lambda row: None
        return
    run = imported().init(
        project=os.environ.get("WANDB_PROJECT", "natural-degradation"),
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=dict(config),
    )
    failed = True
    try:
        yield lambda row: run.log(_finite(row), step=int(row["rung"]))
        failed = False
    finally:
        run.finish(exit_code=int(failed))


def _finite(row: Row) -> dict[str, Any]:
    """A row without what was not measured: a gap in a curve, not a point."""
    return {name: value for name, value in row.items() if not (isinstance(value, float) and not math.isfinite(value))}
