"""What a run directory says of its run: what is done, what failed and why, and how long the rest will take."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from degrade import lock, parts
from degrade.journal import FORMAT, INPUTS, RUN, STOPPED, notes, place, results


def lines(out: Path) -> list[str]:
    """The state of a run in sentences.

    Raises:
        FileNotFoundError: if there is neither a run nor the beginning of one.
    """
    folder = place(out)
    if (out / "manifest.json").is_file():
        return [f"{out}: finished", *_finished(out)]
    if not (folder / RUN).is_file():
        raise FileNotFoundError(f"{out} holds no run, and {folder} none that was begun; expected the --out of a run")
    return list(_under_way(out, folder))


def _finished(out: Path) -> Iterator[str]:
    if (out / "ladder.parquet").is_file():
        table = pd.read_parquet(out / "ladder.parquet", columns=["rung", "verdict", "reason"])
        table = table[table["rung"] > 0]
        yield f"  {len(table)} rungs: " + ", ".join(
            f"{n} {word}" for word, n in table["verdict"].value_counts().items()
        )
        for row in table[table["verdict"] == "failed"].itertuples():
            yield f"  failed: rung {row.rung}: {row.reason}"


def _under_way(out: Path, folder: Path) -> Iterator[str]:
    content, stopped = _json(folder / RUN), _json(folder / STOPPED)
    if content.get("format") != FORMAT:
        yield f"{out}: begun by another version (format {content.get('format')}; this one reads {FORMAT})"
        return
    who, running = lock.owner(folder) or {}, lock.busy(folder)
    worked = max((note["elapsed"] for note in results(folder)), default=0.0)
    state = "running" if running else "stopped"
    yield f"{out}: {state}, process {who.get('pid')} on {who.get('host')}, {_clock(worked)} of work kept"
    yield f"  begun by: {' '.join([Path(content['argv'][0]).name, *content['argv'][1:]])}"
    if stopped and not running:
        yield f"  stopped by {stopped['error']}"
        yield from (f"    {note}" for note in stopped["notes"] if not note.startswith("What was finished"))
    left = 0.0
    for part in sorted(folder.glob("*-*/"), key=lambda part: part.name):
        said, more = _part(part)
        left += more
        yield from said
    yield f"  time left for what is begun: {f'about {_clock(left)}' if left else 'not known yet'}"
    if not running:
        yield f"  go on with: degrade resume {out}"


def _part(folder: Path) -> tuple[list[str], float]:
    """What a part has done, and the seconds its rest will take by the pace of the last result."""
    content, stored = _json(folder / INPUTS), notes(folder)
    expected = content.get("expected", {})
    damaged = [f"  damaged: {fault}" for note in stored if (fault := parts.fault_of(note["path"], note))]
    if "rungs" not in expected:
        done, total = len(stored), expected.get("results", len(stored))
        pace = (stored[-1]["elapsed"] - content.get("elapsed", 0.0)) / done if done else 0.0
        return [f"  {folder.name}: {done} of {total} done", *damaged], pace * (total - done)
    rungs = [note for note in stored if note["name"].startswith("rung-")]
    units = [note for note in stored if note["name"].startswith(("pilot-", "advance-", "together-"))]
    cooled = (
        sum(note.get("chains", 1) for note in units if note["seed_path"]["stage"] == "cooling") // expected["chains"]
    )
    done, total = len(rungs) + cooled, expected["rungs"] + expected["cooled"]
    said = f"  {folder.name}: {len(rungs)} of {expected['rungs']} rungs drawn"
    said += f", {cooled} of {expected['cooled']} cooled" if expected["cooled"] else ""
    if units and done < total:
        said += f"; {len(units)} units of the next ({_last(units[-1])})"
    faults = [
        f"  failed: rung {note['seed_path']['rung']}, chain {chain} {why}"
        for note in rungs
        for chain, why in note["faults"].items()
    ]
    return [said, *faults, *damaged], _pace(content, rungs) * (total - done)


def _pace(content: dict[str, Any], rungs: list[dict[str, Any]]) -> float:
    """Seconds that the last rung took; colder ones took longer."""
    marks = [content.get("elapsed", 0.0), *(note["elapsed"] for note in rungs)]
    return marks[-1] - marks[-2] if rungs else 0.0


def _last(note: dict[str, Any]) -> str:
    at = note["seed_path"]
    return f"last: {at['stage']} of rung {at['rung']}, chain {at['chain']}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}
