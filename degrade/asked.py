"""What was asked for on the command line, or in a study file beside it: a study, its arguments, and how to compute."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from degrade.compute import Compute

USUAL = {"model": None, "data": None, "context": None, "probes": None, "controls": False, "longer": 1.0, "ladder": None}


class Asked(NamedTuple):
    """A study by name, the arguments of its `run`, the directory it will leave, and how its ladders are computed."""

    study: str
    arguments: dict[str, Any]
    folder: Path
    compute: Compute

    @property
    def workers(self) -> int:
        """Processes."""
        return int(self.arguments.get("workers") or 1)


def asked(
    study: str,
    given: Mapping[str, Any],
    compute: Mapping[str, Any],
    workers: int | None,
    out: Path | None,
    extra: Sequence[str],
) -> Asked:
    """What is meant by a study, or a study file, and the options beside it.

    Args:
        study: A name, or a study file.
        given: Options that every study may take, as they stood on the command line.
        compute: The fields of `degrade.compute.Compute`, as they stood there.
        workers: Processes; None: 2, or what the file says.
        out: A directory; None: runs/STUDY, or what the file says.
        extra: What else stood there: options of the study's own.

    Raises:
        ValueError: for an option that the study does not take, or one beside a study file.
    """
    from degrade import plugins, study_file
    from degrade.options import accepted

    if study_file.is_file(study):
        chosen_beside = {field.name for field in fields(Compute) if compute[field.name] != field.default}
        changed = [name for name, value in given.items() if value != USUAL.get(name, 0)]
        if changed or chosen_beside or extra:
            names = [*("probe" if name == "probes" else name for name in changed), *sorted(chosen_beside)]
            said = ", ".join([*(f"--{name.replace('_', '-')}" for name in names), *extra])
            raise ValueError(f"{study} says all of a study, and {said} was given beside it: change it in the file")
        read = study_file.read(study)
        name, chosen, extra, way = read.study, dict(read.arguments), [], read.compute
        out, workers = out or chosen.pop("out", None), workers or chosen.pop("workers", None)
    else:
        way = Compute(**compute)
        name, chosen = study, {key: value for key, value in given.items() if value != USUAL.get(key, ...)}
    folder = Path(out) if out else Path("runs") / name
    chosen |= {"workers": workers or 2, "out": folder}
    return Asked(name, accepted(name, plugins.find("studies", name).run, chosen, extra), folder, way)
