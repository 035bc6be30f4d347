"""Preconditioners: each a module with `fit` and `scale`, in that order (see `protocol.Preconditioner`).

With `auto`, the default, steps on all data take `ekfac` and steps on minibatches `fisher`. Without gradient noise the
stiffest direction limits the step, and a basis that follows the curvature makes it less stiff; by minibatches heat
limits it mostly, and a turn in and out of a basis would be paid at each step for little.

To add one: a new file, an import line and a name here, a line in the contract test.
"""

from degrade.preconditioners import ekfac, fisher, identity, rmsprop
from degrade.preconditioners.protocol import Preconditioner

PRECONDITIONERS: dict[str, Preconditioner] = {
    "ekfac": Preconditioner(ekfac.fit, ekfac.scale),
    "fisher": Preconditioner(fisher.fit, fisher.scale),
    "identity": Preconditioner(identity.fit, identity.scale),
    "rmsprop": Preconditioner(rmsprop.fit, rmsprop.scale),
}

AUTO = "auto"


def choose(name: str, whole: bool) -> str:
    """The preconditioner of a name; the default goes by whether each step is on all the data."""
    if name != AUTO:
        return name
    return "ekfac" if whole else "fisher"


__all__ = ["AUTO", "PRECONDITIONERS", "Preconditioner", "choose"]
