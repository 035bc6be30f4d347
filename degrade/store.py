"""Stored ladders: a directory that is complete or absent, never half.

manifest.json  ladder.parquet  traces.parquet  losses.parquet  draws/rung-RR-chain-CC-draw-DD.safetensors

In format 1 all draws of a chain at a rung were one file, rung-RR-chain-CC.safetensors.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file
from torch import nn

from degrade.journal import place
from degrade.manifest import FORMAT, read, weights_key
from degrade.parameters import select
from degrade.result import Draw, Ladder
from degrade.shelf import SUFFIX, store
from degrade.shelved import Shelved


@contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """A directory to fill, under a temporary name beside `folder`; renamed when filled, removed on any error.

    It is filled where the run's journal is, if there is one, and leaves that alone.

    Raises:
        FileExistsError: if `folder` exists already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; expected a new directory: choose another or remove it first")
    partial = place(folder) / "finished"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # not empty: a journal
            partial.parent.rmdir()


def save(ladder: Ladder, folder: Path) -> Path:
    """Store a ladder in a new directory."""
    with fresh(folder) as partial:
        write(ladder, partial)
    for draw in ladder.kept:
        if isinstance(draw.weights, Shelved):  # where they were goes with the journal
            draw.weights.path, draw.weights.keeper = folder / "draws" / _name(draw), None
    return folder


def write(ladder: Ladder, folder: Path) -> None:
    """Write a ladder's files into an existing directory."""
    ladder.table.to_parquet(folder / "ladder.parquet")
    ladder.traces.to_parquet(folder / "traces.parquet")
    ladder.losses.to_parquet(folder / "losses.parquet")
    (folder / "draws").mkdir()
    for draw in ladder.kept:
        if isinstance(draw.weights, Shelved):
            draw.weights.link(folder / "draws" / _name(draw))
        elif draw.weights is not None:
            store(folder / "draws" / _name(draw), ladder.selection.names, draw.weights)
    fields = ("rung", "chain", "index", "target", "rise", "heldout_rise", "verdict")
    index = [{name: getattr(draw, name) for name in fields} for draw in ladder.draws()]
    content = ladder.manifest | {"format": FORMAT, "draws": index}
    (folder / "manifest.json").write_text(json.dumps(content, indent=1, default=str))


def _name(draw: Draw) -> str:
    return f"rung-{draw.rung:02d}-chain-{draw.chain:02d}-draw-{draw.index:02d}{SUFFIX}"


def load(path: str | Path, model: nn.Module) -> Ladder:
    """A stored ladder, bound to the model it was made from.

    Raises:
        FileNotFoundError: if the directory holds no manifest.
        ValueError: if the manifest is damaged or of a newer format, or the model's weights are not the ladder's.
    """
    folder = Path(path)
    manifest = read(folder)
    if weights_key(model) != manifest["keys"]["model"]:
        raise ValueError(f"the weights of this model are not those {folder} was made from: load the same checkpoint")
    named = select(model)
    selection = select(model, {name: None for name in named.names if name in manifest["parameters"]})
    index = manifest.pop("draws")
    return Ladder(
        model=model,
        table=pd.read_parquet(folder / "ladder.parquet"),
        traces=pd.read_parquet(folder / "traces.parquet"),
        losses=pd.read_parquet(folder / "losses.parquet"),
        manifest=manifest,
        selection=selection,
        kept=_read_draws(folder, index, list(selection.names), manifest["format"] < 2),
    )


def _read_draws(folder: Path, index: list[dict[str, Any]], names: list[str], old: bool) -> list[Draw]:
    if old:
        return _read_chains(folder, index, names)
    draws = [Draw(weights=None, **row) for row in index]
    paths = [folder / "draws" / _name(draw) for draw in draws]
    return [
        replace(draw, weights=Shelved(path, names, path.stat().st_size)) if path.is_file() else draw
        for draw, path in zip(draws, paths, strict=True)
    ]


def _read_chains(folder: Path, index: list[dict[str, Any]], names: list[str]) -> list[Draw]:
    """The draws of format 1."""
    draws = []
    for (rung, chain), rows in groupby(index, key=lambda row: (row["rung"], row["chain"])):
        path = folder / "draws" / f"rung-{rung:02d}-chain-{chain:02d}{SUFFIX}"
        tensors = load_file(path) if path.is_file() else None
        for row in rows:
            weights = None if tensors is None else [tensors[f"{row['index']}/{name}"] for name in names]
            draws.append(Draw(weights=weights, **row))
    return draws
