"""What the dial can be read on: the loss rise, the held-out loss, accuracy, or the complexity left (the LLC)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pandas as pd

from degrade import next_token_loss
from degrade.result import Ladder
from degrade.scales import axes
from probes import Measure
from studies.behaviours import swept


class Axis(NamedTuple):
    """One way to place a rung.

    Attributes:
        column: Of a table that `placed` returned.
        label: Of a figure's axis, with the unit.
        unit: Behind a number.
        log: Whether a figure's axis is logarithmic.
        falling: Whether more degraded is further left.
    """

    column: str
    label: str
    unit: str
    log: bool
    falling: bool


AXES: Mapping[str, Axis] = {
    "rise": Axis("rise", "loss rise ΔL (nats per token)", "nats per token", True, False),
    "heldout": Axis("heldout_loss", "loss on held-out text (nats per token)", "nats per token", False, False),
    "accuracy": Axis("accuracy", "next-token accuracy on held-out text (share)", "", False, True),
    "llc": Axis("llc", "complexity λ = nβ·ΔL (parameters)", "", True, True),
}


def known(name: str) -> Axis:
    """The axis of that name.

    Raises:
        ValueError: listing the known ones.

    >>> known("llc").falling
    True
    """
    if name not in AXES:
        raise ValueError(f"unknown axis {name!r}; the known ones are {', '.join(AXES)}")
    return AXES[name]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Loss (nats per token) and next-token accuracy on fixed held-out text, a probe to place draws by."""

    name: ClassVar[str] = "held-out text"
    measures: ClassVar[Mapping[str, Measure]] = {
        "loss": Measure(chance=None, higher=False, binary=False, unit="nats per token"),
        "accuracy": Measure(chance=None, higher=True, binary=False, unit="share"),
    }
    data: Any

    def __call__(self, model: Any) -> pd.DataFrame:
        """Score the text."""
        found = axes(model, self.data, next_token_loss)
        return pd.DataFrame({"measure": ["loss", "accuracy"], "value": [found["loss"], found["accuracy"]]})


def placed(table: pd.DataFrame, ladder: Ladder | pd.DataFrame, dial: str = "natural") -> pd.DataFrame:
    """The table with the columns of all axes: of each draw, except for the LLC, which is its rung's.

    Args:
        table: Tidy table of a sweep, with rows of `HeldOut` where accuracy and held-out loss are wanted.
        ladder: The ladder, or its table: for the LLC.
        dial: Whose rungs these are; on other dials the LLC is unknown.
    """
    rungs = ladder if isinstance(ladder, pd.DataFrame) else ladder.table
    own = table["dial"].eq(dial) if "dial" in table else pd.Series(True, index=table.index)
    out = table.assign(llc=table["rung"].map(rungs.set_index("rung")["llc"]).where(own & swept(table)))
    keys = [name for name in ("dial", "rung", "chain", "draw") if name in table]
    text = table[table["probe"] == HeldOut.name]
    for measure, column in (("loss", "heldout_loss"), ("accuracy", "accuracy")):
        values = text[text["measure"] == measure][[*keys, "value"]].rename(columns={"value": column})
        out = out.merge(values, on=keys, how="left")
    return out
