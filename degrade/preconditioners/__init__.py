"""Preconditioners: each a module with `fit` and `scale`, in that order (see `protocol.Preconditioner`).

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

__all__ = ["PRECONDITIONERS", "Preconditioner"]
