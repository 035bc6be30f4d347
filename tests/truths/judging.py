"""The two things that are asked of a sampler where the truth is known. Sizes and tolerances are fixed beforehand."""

from typing import Any

import degrade
from degrade.coefficient import LLC

ERRORS = 4.5  # standard errors over 8 chains: a false alarm in 400 tests
SILENT = 0.05


def exactly(result: LLC, exact: float, scale: float, se: float = 0.0) -> None:
    """λ̂ is the exact one within Monte Carlo error, and that error is below 5 % of the scale."""
    error = (result.se**2 + se**2) ** 0.5
    said = f"{result!r}: exact {exact:.5g}, off by {(result.llc - exact) / error:+.1f} standard errors"
    assert error < 0.05 * scale, said
    assert abs(result.llc - exact) < ERRORS * error, said


def never_silently_wrong(result: LLC, exact: float, se: float = 0.0) -> None:
    """With nothing but defaults: an error above 5 % and above chance is not called ok."""
    error = (result.se**2 + se**2) ** 0.5
    said = f"{result!r}: exact {exact:.5g} ({result.llc / exact - 1:+.1%}); {result.reason}"
    assert abs(result.llc - exact) < SILENT * abs(exact) + ERRORS * error or not result.verdict.startswith("ok"), said


def with_small_steps(model: Any, data: Any, steps: int = 4000, **settings: Any) -> LLC:
    """A quarter of the step that the default finds: what then remains of an error is not discretisation."""
    found = degrade.llc(model, data, chains=2, steps=100, burn_in=50, progress=False, **settings)
    step_size = float(found.table.step_size[0]) / 4
    return degrade.llc(
        model, data, chains=8, steps=steps, burn_in=steps // 5, step_size=step_size, draws=1, progress=False, **settings
    )
