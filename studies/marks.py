"""Loss rises to compare a ladder with: the natural gaps, what simpler models lose, and the Watanabe temperature."""

from typing import Any

import numpy as np
import pandas as pd

from degrade import scales
from degrade.result import Ladder
from probes import Subject


def marks(subject: Subject, ladder: Ladder | None = None) -> pd.DataFrame:
    """Loss rises above the model's own loss, as rows of a study's table.

    Args:
        subject: With an organism, or a text in its place; what it cannot tell is left out.
        ladder: To read off the rise at nβ = n / ln n, where it reaches that temperature.

    Returns:
        probe ("mark"), measure ("exact gap", "larger model", "n-gram 1", ..., "untrained", "n / ln n"), value in nats
        per unit of the loss, dial ("natural").
    """
    organism: Any = subject.organism
    losses, rises = organism.references(), {}
    own = losses["model"]
    if "entropy" in losses:
        rises["exact gap"], _ = organism.exact_gap(subject.model)
        own = losses["entropy"] + rises["exact gap"]
    if organism.larger is not None:
        rises["larger model"], _ = organism.reference_gap(subject.model)
    rises |= {name: loss - own for name, loss in losses.items() if name.startswith("n-gram") or name == "untrained"}
    if ladder is not None:
        rises["n / ln n"] = scales.rise_at(ladder.table, scales.watanabe(ladder.manifest["n"])).value
    known = {name: rise for name, rise in rises.items() if np.isfinite(rise)}
    return pd.DataFrame({"probe": "mark", "measure": list(known), "value": list(known.values()), "dial": "natural"})
