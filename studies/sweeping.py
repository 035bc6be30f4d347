"""Sweep several dials at once: a part for each chain, in worker processes if there are any."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from degrade.engine import one_thread, processes, settle
from probes import sweep


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
        A table for each dial and chain with a column `dial`; w* is asked once for each dial.
    """
    parts = [(name, part) for name, dial in dials.items() for part in _by_chain(dial)]
    with tqdm(total=len(parts), desc="probes", unit="chain", disable=not progress) as bar:
        if workers == 1:
            with one_thread():
                tables = [_counted(bar, _ask(part, probes, draws)) for _, part in parts]
        else:
            tables = _pooled(parts, probes, draws, workers, bar)
    seen: set[str] = set()
    out = []
    for (name, _), table in zip(parts, tables, strict=True):
        fresh = table[table["rung"] > 0] if name in seen else table
        out.append(fresh.assign(dial=name))
        seen.add(name)
    return out


def _by_chain(dial: Any) -> list[Any]:
    ordered = sorted(dial.kept, key=lambda draw: draw.chain)
    return [_slim(dial, list(draws)) for _, draws in groupby(ordered, key=lambda draw: draw.chain)] or [dial]


def _slim(dial: Any, kept: list[Any]) -> Any:
    """The dial with some of its draws, and without the long tables that a sweep does not read."""
    heavy = {name: getattr(dial, name).iloc[:0] for name in ("traces", "losses") if hasattr(dial, name)}
    return replace(dial, kept=kept, **heavy)


def _ask(part: Any, probes: Sequence[Any], draws: int) -> pd.DataFrame:
    return sweep(part, probes, draws=draws, progress=False)


def _counted(bar: Any, table: pd.DataFrame) -> pd.DataFrame:
    bar.update()
    return table


def _pooled(parts: list[tuple[str, Any]], probes: Sequence[Any], draws: int, workers: int, bar: Any) -> list[Any]:
    with processes(workers, settle) as executor:
        futures = [executor.submit(_ask, part, probes, draws) for _, part in parts]
        return [_counted(bar, future.result()) for future in futures]
