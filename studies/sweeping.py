"""Sweep several dials at once: a part for each chain, in worker processes if there are any."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from degrade.engine import at_once, one_thread, processes, settle
from degrade.journal import Journal, active
from degrade.recorded import kept
from probes import sweep
from probes.tables import stack

Submit = Callable[..., "Future[pd.DataFrame]"]


def sweep_all(
    dials: Mapping[str, Any], probes: Sequence[Any], draws: int, workers: int = 1, progress: bool = True
) -> list[pd.DataFrame]:
    """Sweep every dial; the result does not depend on `workers`.

    Args:
        dials: Ladders by name: dataclasses with a field `kept` of draws, as `probes.sweep` asks of them.
        probes: What to ask.
        draws: How many draws per chain and rung; a probe may ask for fewer.
        workers: Processes, one thread each.
        progress: Show a progress bar, a step a chain.

    Returns:
        A table for each dial and chain with a column `dial`; the first one of a dial holds w*, which is asked once for
        each model.
    """
    parts = [(name, part) for name, dial in dials.items() for part in _by_chain(dial)]
    homes = _homes(parts)
    journal = active().part("sweep")
    journal.agree({}, {"results": len(parts)})
    with tqdm(total=len(parts), desc="probes", unit="chain", disable=not progress) as bar, _hands(workers) as submit:
        due = []
        for number, part in enumerate(parts):
            due.append(_kept(journal, submit, number, part, probes, draws, number in homes.values()))
            due[-1].add_done_callback(lambda _: bar.update())
        tables = [future.result() for future in due]
    seen: set[str] = set()
    out = []
    for number, ((name, dial), table) in enumerate(zip(parts, tables, strict=True)):
        home = homes[id(dial.model)]
        if name not in seen and number != home:
            table = stack([tables[home][tables[home]["rung"] == 0], table[table["rung"] > 0]])
        out.append(table.assign(dial=name))
        seen.add(name)
    return out


def _homes(parts: Sequence[tuple[str, Any]]) -> dict[int, int]:
    """By model the first part that it is in, which asks w*."""
    homes: dict[int, int] = {}
    for number, (_, dial) in enumerate(parts):
        homes.setdefault(id(dial.model), number)
    return homes


def _by_chain(dial: Any) -> list[Any]:
    ordered = sorted(dial.kept, key=lambda draw: draw.chain)
    return [_slim(dial, list(draws)) for _, draws in groupby(ordered, key=lambda draw: draw.chain)] or [dial]


def _slim(dial: Any, kept: list[Any]) -> Any:
    """The dial with some of its draws, and without the long tables that a sweep does not read."""
    heavy = {name: getattr(dial, name).iloc[:0] for name in ("traces", "losses") if hasattr(dial, name)}
    return replace(dial, kept=kept, **heavy)


def _ask(part: Any, probes: Sequence[Any], draws: int, home: bool) -> pd.DataFrame:
    return sweep(part, probes, draws=draws, progress=False, trained=home or not part.kept)


def _kept(
    journal: Journal,
    submit: Submit,
    number: int,
    part: tuple[str, Any],
    probes: Sequence[Any],
    draws: int,
    home: bool,
) -> "Future[pd.DataFrame]":
    """A part's table, from the journal of the run if an earlier process has asked it."""
    name, dial = part
    inputs = (name, dial.kept, probes, draws, home)
    return kept(journal, f"part-{number:03d}", inputs, lambda: submit(_ask, dial, probes, draws, home), dial=name)


@contextmanager
def _hands(workers: int) -> Iterator[Submit]:
    """What runs a call: this process at once, or workers."""
    if workers > 1:
        with processes(workers, settle) as executor:
            yield executor.submit
        return
    with one_thread():
        yield at_once
