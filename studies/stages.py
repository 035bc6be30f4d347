"""Where the time of a run goes: seconds of work on each of its stages, by the clock of its journal.

The clock counts what all processes have worked on a run. A stage that an earlier process finished keeps the seconds
that it took then.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from degrade.journal import Journal, active

NAME = "times.json"  # beside the manifest, which holds only what a second run finds again
BEGUN = "begun"


@dataclass(frozen=True)
class Stages:
    """When each stage ended, in seconds of work on the run."""

    journal: Journal
    ends: dict[str, float] = field(default_factory=dict)

    def ended(self, name: str, keep: bool = True) -> None:
        """Note the end of a stage; the next one begins.

        Args:
            name: Of the stage.
            keep: Remember it, and those before, if the run is stopped. Not before the run has a result to go on from.
        """
        now = {**self.ends, name: self.journal.clock.now()}
        self.ends.update(self.journal.once(name, None, lambda: now) if keep else now)

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, in order."""
        ends = list(self.ends.values())
        return {name: end - before for name, end, before in zip(list(self.ends)[1:], ends[1:], ends, strict=False)}

    def write(self, folder: Path) -> None:
        """Write the seconds of the stages so far."""
        (folder / NAME).write_text(json.dumps({name: round(value, 2) for name, value in self.seconds().items()}))


def begun() -> Stages:
    """The stages of the run that is under way, its first one beginning now."""
    journal = active().part("stages")
    journal.agree({})
    return Stages(journal, {BEGUN: journal.clock.now() if journal.folder is None else 0.0})


def read(folder: Path) -> dict[str, float]:
    """Seconds by stage of a finished run; empty if it recorded none."""
    path = folder / NAME
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def said(seconds: Mapping[str, float]) -> str:
    """The seconds and shares of the stages in words.

    >>> said({"climb": 90.0, "sweep": 10.0})
    'climb 90 s (90 %), sweep 10 s (10 %); together 100 s'
    """
    total = sum(seconds.values())
    parts = [f"{name} {value:.0f} s ({value / total:.0%})".replace("%)", " %)") for name, value in seconds.items()]
    return f"{', '.join(parts)}; together {total:.0f} s"
