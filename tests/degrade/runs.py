"""Small runs to stop and to go on with, and what it means that two of them left the same."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pandas as pd
import torch

import degrade
from degrade.journal import place, results
from tests.degrade.toys import quadratic, quadratic_loss

SMALL = {"nbetas": [100.0, 50.0], "gamma": 1.0, "steps": 40, "burn_in": 10, "draws": 2, "chains": 2, "evaluation": 16}


def small(out: Path, loss=quadratic_loss, **settings) -> degrade.Ladder:
    """A ladder of a second or so: two rungs, two chains, eight weights."""
    net, x = quadratic(cond=10, d=8, examples=128)
    return degrade.ladder(net, x, loss=loss, out=out, progress=False, **(SMALL | settings))


def same(one: Path, two: Path) -> None:
    """All tables and all draws of two run directories, bit for bit."""
    names = sorted(path.name for path in one.glob("*.parquet"))
    assert names
    assert names == sorted(path.name for path in two.glob("*.parquet"))
    for name in names:
        pd.testing.assert_frame_equal(pd.read_parquet(one / name), pd.read_parquet(two / name), check_exact=True)
    drawn = sorted(path.name for path in (one / "draws").iterdir())
    assert drawn == sorted(path.name for path in (two / "draws").iterdir())
    assert all((one / "draws" / name).read_bytes() == (two / "draws" / name).read_bytes() for name in drawn)


def left_alone(folder: Path, *names: str) -> None:
    """The directory holds what is named, and nothing hidden."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def kept(out: Path) -> list[str]:
    """Names of the results that a run has stored so far."""
    return [note["name"] for note in results(place(out))]


def killed(work, *arguments, after: float) -> bool:
    """Run `work(*arguments)` in a process of its own and SIGKILL it after some seconds; whether it was still at it."""
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(work, arguments))
    process.start()
    process.join(after)
    alive = process.is_alive()
    process.kill()
    process.join()
    assert alive or process.exitcode == 0
    return alive


def _alone(work, arguments) -> None:
    torch.set_num_threads(1)
    work(*arguments)


def dies_once(marker: Path):
    """A loss that kills the first worker process that takes it up, and the same loss ever after."""
    parent = os.getpid()

    def loss(model, x):
        if os.getpid() != parent and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return quadratic_loss(model, x)

    return loss


def deadly():
    """A loss that kills every worker process."""
    parent = os.getpid()

    def loss(model, x):
        if os.getpid() != parent:
            time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return quadratic_loss(model, x)

    return loss
