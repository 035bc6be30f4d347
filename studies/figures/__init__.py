"""The figures of a study: drawing only, from tables; every figure shows the verdicts its numbers rest on."""

from studies.figures.agreement import agreements
from studies.figures.claims import claims
from studies.figures.generalisation import spectrum
from studies.figures.half_scales import ranking
from studies.figures.heat_maps import heat_maps
from studies.figures.patching import gap_shares, patched_losses
from studies.figures.penalties import absolute, kept, penalties, trade
from studies.figures.readings import readings
from studies.figures.sampling import traces, verdicts
from studies.figures.style import png
from studies.figures.survival_curves import survival

__all__ = [
    "absolute",
    "agreements",
    "claims",
    "gap_shares",
    "heat_maps",
    "kept",
    "patched_losses",
    "penalties",
    "png",
    "ranking",
    "readings",
    "spectrum",
    "survival",
    "traces",
    "trade",
    "verdicts",
]
