"""A study as a command: what it finishes is kept from the first result on, and `degrade resume` begins it again."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from degrade import plugins, study_file
from degrade.compute import Compute, computing
from degrade.fingerprint import code_key
from degrade.journal import RUN, opened, place, stored
from degrade.manifest import versions

FREE = ("out", "progress", "workers")  # no result depends on these
PATHS = ("ladder",)


def carry_out(
    study: str,
    arguments: Mapping[str, Any],
    folder: Path,
    compute: Compute = Compute(),  # noqa: B008
) -> pd.DataFrame:
    """Run a study; what an earlier process finished of the same run is not computed again.

    Args:
        study: By name.
        arguments: Of its `run`.
        folder: The directory that it will leave.
        compute: How its ladders are computed.

    Raises:
        JournalError: naming what has changed, if an earlier process began it with other arguments, versions or code.
        LockedError: if another process is at work on it.
    """
    module = plugins.find("studies", study)
    command = {"study": study, "arguments": _plain(arguments), "compute": asdict(compute)}
    with computing(compute), opened(folder, _inputs(study, arguments, compute), **command):
        table = module.run(**arguments)
    given = {name: value for name, value in arguments.items() if name not in FREE} | compute.chosen()
    study_file.leave(folder, study_file.dump(study, given, _made_with(folder)))
    return table


def _made_with(folder: Path) -> str:
    """What the results were made with: versions, and content keys of model and data."""
    path = folder / "manifest.json"
    keys = json.loads(path.read_text()).get("keys", {}) if path.is_file() else {}
    told = [", ".join(f"{name} {found}" for name, found in versions().items())]
    return "\n".join(told + [f"{name} sha256 {key}" for name, key in keys.items() if key])


def resumed(folder: Path, workers: int | None = None) -> tuple[str, pd.DataFrame]:
    """Go on with a study that was stopped: its name and its table.

    Raises:
        FileNotFoundError: if nothing was begun there.
        ValueError: if it is no study that was begun, or another version began it.
    """
    folder = folder.absolute()
    content = _begun(folder)
    arguments = dict(content["command"]["arguments"], out=folder)
    arguments |= {name: Path(arguments[name]) for name in PATHS if arguments.get(name)}
    arguments |= {"workers": workers} if workers else {}
    with chdir(content["directory"]):
        study, compute = content["command"]["study"], Compute(**content["command"].get("compute", {}))
        return study, carry_out(study, arguments, folder, compute)


def tidy(folder: Path) -> bool:
    """Whether a run is finished; what a process left that was killed in its very last moment is removed."""
    if not (folder / "manifest.json").is_file():
        return False
    shutil.rmtree(place(folder), ignore_errors=True)
    return True


def _begun(folder: Path) -> dict[str, Any]:
    path = place(folder) / RUN
    if not path.is_file():
        raise FileNotFoundError(f"nothing was begun for {folder} ({path} is missing); expected the --out of a run")
    content = stored(path)
    if not content["command"]:
        raise ValueError(
            f"the run in {folder} was begun from Python ({' '.join(content['argv'])}): make the same call again, with"
            " the same out, and it goes on from what is finished"
        )
    return content


def _inputs(study: str, arguments: Mapping[str, Any], compute: Compute) -> dict[str, Any]:
    """What the results depend on, by name."""
    given = {f"argument {name}": value for name, value in _plain(arguments).items() if name not in FREE}
    return {
        "the study": study,
        **given,
        **{f"compute {name}": value for name, value in asdict(compute).items()},
        **{f"the ladder in {arguments[name]}": _ladder_key(arguments[name]) for name in PATHS if arguments.get(name)},
        **{f"version of {name}": found for name, found in versions().items()},
        **{f"the code of {package}": code_key(package) for package in _packages()},
    }


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as JSON holds them; paths that mean the same from anywhere."""
    kept = {name: value for name, value in arguments.items() if name != "out"}
    return {name: os.path.abspath(value) if isinstance(value, Path) else value for name, value in kept.items()}


def _ladder_key(folder: str | Path) -> str | None:
    path = Path(folder) / "manifest.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _packages() -> list[str]:
    """The packages that probes, studies and organisms are from, and this one."""
    points = [point for kind in ("probes", "studies", "organisms") for point in plugins.installed(kind).values()]
    return sorted({point.value.split(":")[0].split(".")[0] for point in points} | {"degrade"})
